#include "runtime/arguments.h"

#include "runtime/checker.h"

#include <string.h>

attn_status arguments_type(const struct unit *front, const char *name, const DLTensor *tensor,
                           const struct error_sink *sink, enum dtype *type)
{
  if (tensor == NULL)
    return error_report(sink, ATTN_ERROR_ARGUMENT, "%s is missing", name);
  enum dtype given = dtype_of_dlpack(tensor->dtype);
  enum dtype own = dtype_of_attn(front->info.type);
  *type = own != DTYPE_ANY ? own : given;
  if (own == DTYPE_ANY && given != DTYPE_F32 && given != DTYPE_F16 && given != DTYPE_BF16)
    return error_report(sink, ATTN_ERROR_ARGUMENT,
                        "%s: the type is %s, it must be f32, f16 or bf16", name,
                        given == DTYPE_ANY ? "none that a spec has" : dtype_name(given));
  return ATTN_OK;
}

static void clear(struct bound_tensor *tensor)
{
  *tensor = (struct bound_tensor){.empty = true};
}

/* ---- shapes ---- */

static const char *key_starts_name(const struct checker *c)
{
  return c->on_cache ? "query_starts" : "key_starts";
}

/* The sizes of the launch, as far as they are settled: -1 where not yet. */
static struct wanted_dim dim_of(const struct checker *c, enum dim_kind kind)
{
  const struct spec *spec = c->spec;
  const struct call *call = c->call;
  switch (kind) {
  case DIM_B:
    return (struct wanted_dim){call->batch, "B",
                               c->on_cache ? "lengths"
                               : c->packed ? "query_starts"
                                           : "q"};
  case DIM_H: return (struct wanted_dim){spec->query_heads, "H", NULL};
  case DIM_G: return (struct wanted_dim){spec->kv_heads, "G", NULL};
  case DIM_NQ:
    return (struct wanted_dim){call->max_queries, "NQ", c->packed ? "query_starts" : "q"};
  case DIM_NK:
    return (struct wanted_dim){call->max_keys, "NK",
                               c->on_cache && !c->appends ? "max_length"
                               : c->packed                ? key_starts_name(c)
                                                          : "k"};
  case DIM_D: return (struct wanted_dim){spec->dim_qk, "D", NULL};
  case DIM_DV: return (struct wanted_dim){spec->dim_v, "DV", NULL};
  case DIM_EXPR: break;
  }
  return (struct wanted_dim){-1, "?", NULL};
}

/* Takes B and NQ, or else B and NK, out of a ragged tensor's dimensions and puts their total in
 * front. */
static void pack_dims(const struct checker *c, struct wanted_tensor *wanted,
                      const enum dim_kind *kinds)
{
  int batch = -1, queries = -1, keys = -1;
  for (uint32_t d = 0; d < wanted->rank; d++) {
    if (kinds[d] == DIM_B && batch < 0)
      batch = (int)d;
    else if (kinds[d] == DIM_NQ && queries < 0)
      queries = (int)d;
    else if (kinds[d] == DIM_NK && keys < 0)
      keys = (int)d;
  }
  const bool keys_packed = !c->on_cache || c->appends; /* a cache's lie in the cache */
  int tokens = queries >= 0 ? queries : keys_packed ? keys : -1;
  if (batch < 0 || tokens < 0)
    return;
  struct wanted_dim total =
      queries >= 0
          ? (struct wanted_dim){c->call->total_queries, "the total of queries", "query_starts"}
          : (struct wanted_dim){c->call->total_keys, "the total of keys", key_starts_name(c)};
  struct wanted_dim dims[SPEC_MAX_RANK];
  uint32_t count = 0;
  dims[count++] = total;
  for (uint32_t d = 0; d < wanted->rank; d++) {
    if ((int)d != batch && (int)d != tokens)
      dims[count++] = wanted->dims[d];
  }
  memcpy(wanted->dims, dims, count * sizeof(dims[0]));
  wanted->rank = count;
}

static attn_status check_shaped(const struct checker *c, const DLTensor *tensor,
                                struct wanted_tensor *wanted, const enum dim_kind *kinds,
                                struct bound_tensor *bound)
{
  if (c->packed)
    pack_dims(c, wanted, kinds);
  return tensor_check(tensor, wanted, c->sink, bound);
}

static attn_status check_plain(const struct checker *c, const char *what, const DLTensor *tensor,
                               enum dtype type, bool written, const enum dim_kind *kinds,
                               uint32_t rank, struct bound_tensor *bound)
{
  struct wanted_tensor wanted = {
      .what = what, .device = c->unit->device, .type = type, .rank = rank, .written = written};
  for (uint32_t d = 0; d < rank; d++)
    wanted.dims[d] = dim_of(c, kinds[d]);
  return check_shaped(c, tensor, &wanted, kinds, bound);
}

/* ---- ragged starts ---- */

int64_t checker_int_at(const struct bound_tensor *tensor, int64_t n)
{
  const unsigned char *at =
      tensor->data + n * tensor->strides[0] * (int64_t)dtype_size(tensor->type);
  if (tensor->type == DTYPE_I32)
    return *(const int32_t *)at;
  return *(const int64_t *)at;
}

static attn_status check_starts(struct checker *c, const char *what, const DLTensor *tensor,
                                struct bound_tensor *starts, int64_t *longest, int64_t *total)
{
  enum dtype type =
      tensor != NULL && dtype_of_dlpack(tensor->dtype) == DTYPE_I32 ? DTYPE_I32 : DTYPE_I64;
  int64_t count = c->call->batch < 0 ? -1 : c->call->batch + 1;
  struct wanted_tensor wanted = {
      .what = what,
      .type = type,
      .rank = 1,
      .dims = {{count, "B + 1", c->on_cache ? "lengths" : "query_starts"}}};
  attn_status status = tensor_check(tensor, &wanted, c->sink, starts);
  if (status != ATTN_OK)
    return status;
  if (starts->empty)
    return error_report(c->sink, ATTN_ERROR_ARGUMENT,
                        "%s is empty; for B sequences it has B + 1 elements", what);
  *longest = 0;
  int64_t before = checker_int_at(starts, 0);
  if (before != 0)
    return error_report(c->sink, ATTN_ERROR_ARGUMENT, "%s[0] is %lld, it must be 0", what,
                        (long long)before);
  for (int64_t n = 1; n < starts->sizes[0]; n++) {
    int64_t start = checker_int_at(starts, n);
    if (start < before)
      return error_report(c->sink, ATTN_ERROR_ARGUMENT,
                          "%s[%lld] is %lld, less than the %lld before it", what, (long long)n,
                          (long long)start, (long long)before);
    if (start > INT32_MAX)
      return error_report(c->sink, ATTN_ERROR_ARGUMENT, "%s[%lld] is %lld, more than %d", what,
                          (long long)n, (long long)start, INT32_MAX);
    *longest = start - before > *longest ? start - before : *longest;
    before = start;
  }
  *total = before;
  return ATTN_OK;
}

static attn_status check_all_starts(struct checker *c)
{
  struct call *call = c->call;
  const attn_arguments *a = c->arguments;
  if (c->on_cache && a->key_starts != NULL)
    return error_report(c->sink, ATTN_ERROR_ARGUMENT,
                        "key_starts must be NULL: the cache's lengths say how many keys there are");
  if (!c->packed) {
    if (a->query_starts != NULL || a->key_starts != NULL)
      return error_report(c->sink, ATTN_ERROR_ARGUMENT,
                          "'%s' takes no query_starts and key_starts: its cache is not ragged",
                          c->spec->name);
    return ATTN_OK;
  }
  attn_status status = check_starts(c, "query_starts", a->query_starts, &call->starts[0],
                                    &call->max_queries, &call->total_queries);
  if (status != ATTN_OK)
    return status;
  call->batch = call->starts[0].sizes[0] - 1;
  if (a->key_starts != NULL)
    return check_starts(c, "key_starts", a->key_starts, &call->starts[1], &call->max_keys,
                        &call->total_keys);
  call->starts[1] = call->starts[0];
  call->max_keys = call->max_queries;
  call->total_keys = call->total_queries;
  return ATTN_OK;
}

/* ---- named things ---- */

attn_status checker_missing(const struct checker *c, const struct checker_list *list,
                            const char *name)
{
  return error_report(c->sink, ATTN_ERROR_ARGUMENT, "%s '%s' is missing", list->kind, name);
}

static attn_status unknown_name(const struct checker *c, const char *kind, const char *name,
                                const char *const *known, size_t count)
{
  const char *near = diag_nearest(name, known, count);
  if (near != NULL)
    return error_report(c->sink, ATTN_ERROR_ARGUMENT, "'%s' has no %s '%s'; did you mean '%s'?",
                        c->spec->name, kind, name, near);
  return error_report(c->sink, ATTN_ERROR_ARGUMENT, "'%s' has no %s '%s'", c->spec->name, kind,
                      name);
}

attn_status checker_match(const struct checker *c, const struct checker_list *list,
                          const attn_named_tensor *given, size_t given_count,
                          const attn_tensor_info *infos, size_t count, const DLTensor **tensors)
{
  const char *kind = list->kind;
  for (size_t n = 0; n < count; n++)
    tensors[n] = NULL;
  if (given_count != 0 && given == NULL)
    return error_report(c->sink, ATTN_ERROR_ARGUMENT, "%s is NULL but %s is %zu", list->field,
                        list->count_field, given_count);
  for (size_t g = 0; g < given_count; g++) {
    if (given[g].name == NULL)
      return error_report(c->sink, ATTN_ERROR_ARGUMENT, "%s[%zu] has no name", list->field, g);
    size_t n = 0;
    while (n < count && strcmp(infos[n].name, given[g].name) != 0)
      n++;
    if (n == count) {
      const char *known[CACHE_MAX_TENSORS];
      for (size_t m = 0; m < count; m++)
        known[m] = infos[m].name;
      return unknown_name(c, kind, given[g].name, known, count);
    }
    if (tensors[n] != NULL)
      return error_report(c->sink, ATTN_ERROR_ARGUMENT, "%s '%s' is given twice", kind,
                          given[g].name);
    if (given[g].tensor == NULL)
      return error_report(c->sink, ATTN_ERROR_ARGUMENT, "%s '%s' is NULL", kind, given[g].name);
    tensors[n] = given[g].tensor;
  }
  return ATTN_OK;
}

static attn_status check_param(const struct checker *c, const struct spec_param *param,
                               const attn_param *given, union expr_value *value)
{
  static const char *const kinds[] = {"bool", "int", "float"};
  if ((unsigned)given->kind > ATTN_KIND_FLOAT)
    return error_report(c->sink, ATTN_ERROR_ARGUMENT,
                        "parameter '%s' has the kind %d, which does not exist", param->name,
                        (int)given->kind);
  if (param->type == EXPR_FLOAT) {
    value->f = given->kind == ATTN_KIND_FLOAT ? given->float_value : (double)given->int_value;
    return ATTN_OK;
  }
  if (given->kind == ATTN_KIND_FLOAT || (param->type == EXPR_INT && given->kind == ATTN_KIND_BOOL))
    return error_report(c->sink, ATTN_ERROR_ARGUMENT, "parameter '%s' is %s, it got a %s",
                        param->name, param->type == EXPR_BOOL ? "a bool" : "an int",
                        kinds[given->kind]);
  bool fits = param->type == EXPR_BOOL ? given->int_value == 0 || given->int_value == 1
                                       : given->int_value == (int32_t)given->int_value;
  if (!fits)
    return error_report(c->sink, ATTN_ERROR_ARGUMENT,
                        "parameter '%s' is %lld; it must be from %d to %d", param->name,
                        (long long)given->int_value, param->type == EXPR_BOOL ? 0 : INT32_MIN,
                        param->type == EXPR_BOOL ? 1 : INT32_MAX);
  value->i = given->int_value;
  return ATTN_OK;
}

static attn_status check_params(const struct checker *c)
{
  const struct spec *spec = c->spec;
  const attn_arguments *a = c->arguments;
  bool found[SPEC_MAX_PARAMS] = {false};
  if (a->param_count != 0 && a->params == NULL)
    return error_report(c->sink, ATTN_ERROR_ARGUMENT, "params is NULL but param_count is %zu",
                        a->param_count);
  for (size_t g = 0; g < a->param_count; g++) {
    const attn_param *given = &a->params[g];
    if (given->name == NULL)
      return error_report(c->sink, ATTN_ERROR_ARGUMENT, "params[%zu] has no name", g);
    uint32_t n = 0;
    while (n < spec->param_count && strcmp(spec->params[n].name, given->name) != 0)
      n++;
    if (n == spec->param_count) {
      const char *known[SPEC_MAX_PARAMS];
      for (uint32_t m = 0; m < spec->param_count; m++)
        known[m] = spec->params[m].name;
      return unknown_name(c, "parameter", given->name, known, spec->param_count);
    }
    if (spec->params[n].is_const)
      return error_report(c->sink, ATTN_ERROR_ARGUMENT,
                          "parameter '%s' is const: it is set when the spec is compiled (sets)",
                          given->name);
    if (found[n])
      return error_report(c->sink, ATTN_ERROR_ARGUMENT, "parameter '%s' is given twice",
                          given->name);
    found[n] = true;
    attn_status status = check_param(c, &spec->params[n], given, &c->call->params[n]);
    if (status != ATTN_OK)
      return status;
  }
  for (uint32_t n = 0; n < spec->param_count; n++) {
    const struct spec_param *param = &spec->params[n];
    if (found[n])
      continue;
    const bool needed = !c->appends || (c->unit->params_used >> n & 1) != 0;
    if (!param->has_default && !param->is_const && needed)
      return error_report(c->sink, ATTN_ERROR_ARGUMENT,
                          "parameter '%s' is missing and has no default", param->name);
    if (param->type == EXPR_FLOAT)
      c->call->params[n].f = param->value.f;
    else
      c->call->params[n].i = param->value.i;
  }
  return ATTN_OK;
}

/* ---- inputs and outputs ---- */

void arguments_set(const struct unit *unit, const struct call *call,
                   struct expr_evaluator *evaluator)
{
  expr_set_int(evaluator, EXPR_VAR_SIZE_B, call->batch);
  expr_set_int(evaluator, EXPR_VAR_SIZE_NQ, call->max_queries);
  expr_set_int(evaluator, EXPR_VAR_SIZE_NK, call->max_length);
  for (uint32_t n = 0; n < unit->spec->param_count; n++)
    expr_set_param(evaluator, n, call->params[n]);
}

/* NK of what is not cached. */
static struct wanted_dim all_keys(const struct checker *c)
{
  struct wanted_dim dim = dim_of(c, DIM_NK);
  dim.size = c->call->max_length;
  if (c->on_cache)
    dim.from = "max_length";
  return dim;
}

static bool evaluate_dims(const struct checker *c, const struct spec_input *input,
                          struct wanted_tensor *wanted)
{
  if (arena_guard(&c->evaluator->arena))
    return false;
  for (uint32_t d = 0; d < input->rank; d++) {
    if (input->dims[d].kind == DIM_EXPR)
      wanted->dims[d].size = expr_evaluate(c->evaluator->evaluator, input->dims[d].size).i;
  }
  return true;
}

static attn_status check_input(const struct checker *c, uint32_t number, const DLTensor *tensor)
{
  const struct spec_input *input = &c->spec->inputs[number];
  const char *what = c->unit->input_texts[number];
  struct wanted_tensor wanted = {.what = what,
                                 .device = c->unit->device,
                                 .type = input->type == DTYPE_SPEC ? c->unit->variant.type
                                                                   : input->type,
                                 .rank = input->rank};
  enum dim_kind kinds[SPEC_MAX_RANK];
  bool expressions = false;
  for (uint32_t d = 0; d < input->rank; d++) {
    kinds[d] = input->dims[d].kind;
    wanted.dims[d] = dim_of(c, kinds[d]);
    if (kinds[d] == DIM_NK && !input->cached) /* its keys are those of the cache, also in APPEND */
      wanted.dims[d] = all_keys(c);
    if (kinds[d] == DIM_EXPR) {
      wanted.dims[d].name = c->unit->info.inputs[number].dims[d];
      expressions = true;
    }
  }
  if (expressions && !evaluate_dims(c, input, &wanted))
    return error_out_of_memory(c->sink);
  for (uint32_t d = 0; d < input->rank; d++) {
    if (wanted.dims[d].size < 0)
      return error_report(c->sink, ATTN_ERROR_ARGUMENT, "%s: %s, the size of dimension %u, is %lld",
                          what, wanted.dims[d].name, d, (long long)wanted.dims[d].size);
  }
  return check_shaped(c, tensor, &wanted, kinds, &c->call->inputs[number]);
}

static attn_status check_inputs(const struct checker *c)
{
  static const struct checker_list list = {"input", "inputs", "input_count"};
  const attn_arguments *a = c->arguments;
  const DLTensor *tensors[SPEC_MAX_INPUTS];
  attn_status status = checker_match(c, &list, a->inputs, a->input_count, c->unit->info.inputs,
                                     c->unit->info.input_count, tensors);
  for (uint32_t n = 0; status == ATTN_OK && n < c->spec->input_count; n++) {
    const struct spec_input *input = &c->spec->inputs[n];
    const bool in_cache = c->on_cache && !c->appends && input->cached;
    const bool unused = c->appends && !input->cached && (c->unit->inputs_used >> n & 1) == 0;
    if (in_cache && tensors[n] != NULL)
      return error_report(c->sink, ATTN_ERROR_ARGUMENT,
                          "input '%s' must not be given: it is read from the cache", input->name);
    if (in_cache || unused)
      clear(&c->call->inputs[n]);
    else
      status = tensors[n] == NULL ? checker_missing(c, &list, input->name)
                                  : check_input(c, n, tensors[n]);
  }
  return status;
}

static attn_status check_outputs(const struct checker *c)
{
  static const enum dim_kind rows[] = {DIM_B, DIM_H, DIM_NQ}, keys[] = {DIM_B, DIM_H, DIM_NK};
  static const enum dim_kind pairs[] = {DIM_B, DIM_H, DIM_NQ, DIM_NK};
  static const struct checker_list list = {"output", "outputs", "output_count"};
  const attn_arguments *a = c->arguments;
  const DLTensor *tensors[SPEC_MAX_OUTPUTS];
  if (c->appends && a->output_count != 0)
    return error_report(c->sink, ATTN_ERROR_ARGUMENT,
                        "output_count is %zu; attn_append has no outputs", a->output_count);
  attn_status status = checker_match(c, &list, a->outputs, a->output_count, c->unit->info.outputs,
                                     c->unit->info.output_count, tensors);
  for (uint32_t n = 0; status == ATTN_OK && n < c->spec->output_count; n++) {
    if (c->appends) {
      clear(&c->call->outputs[n]);
      continue;
    }
    if (tensors[n] == NULL)
      return checker_missing(c, &list, c->unit->info.outputs[n].name);
    const enum dim_kind *kinds = rows;
    uint32_t rank = 3;
    if (c->spec->outputs[n].kind == OUTPUT_MASS) {
      kinds = keys;
    } else if (c->spec->outputs[n].kind == OUTPUT_WEIGHTS) {
      kinds = pairs;
      rank = 4;
    }
    status = check_plain(c, c->unit->output_texts[n], tensors[n], DTYPE_F32, true, kinds, rank,
                         &c->call->outputs[n]);
  }
  return status;
}

/* ---- all ---- */

static attn_status must_be_null(const struct checker *c, const char *name, const DLTensor *tensor,
                                const char *why)
{
  if (tensor == NULL)
    return ATTN_OK;
  return error_report(c->sink, ATTN_ERROR_ARGUMENT, "%s must be NULL: %s", name, why);
}

static attn_status check_queries(struct checker *c)
{
  static const enum dim_kind q[] = {DIM_B, DIM_H, DIM_NQ, DIM_D},
                             o[] = {DIM_B, DIM_H, DIM_NQ, DIM_DV};
  const attn_arguments *a = c->arguments;
  const enum dtype type = c->unit->variant.type;
  struct call *call = c->call;
  clear(&call->q);
  clear(&call->o);
  if (c->appends) {
    static const char why[] = "attn_append takes k and v";
    attn_status status = must_be_null(c, "q", a->q, why);
    return status == ATTN_OK ? must_be_null(c, "o", a->o, why) : status;
  }
  attn_status status = check_plain(c, "q", a->q, type, false, q, 4, &call->q);
  if (status == ATTN_OK && !c->packed) {
    call->batch = call->q.sizes[0];
    call->max_queries = call->q.sizes[2];
  }
  return status == ATTN_OK ? check_plain(c, "o", a->o, type, true, o, 4, &call->o) : status;
}

static attn_status check_keys(struct checker *c)
{
  static const enum dim_kind k[] = {DIM_B, DIM_G, DIM_NK, DIM_D},
                             v[] = {DIM_B, DIM_G, DIM_NK, DIM_DV};
  static const char in_cache[] = "keys and values are read from the cache";
  const attn_arguments *a = c->arguments;
  const enum dtype type = c->unit->variant.type;
  struct call *call = c->call;
  clear(&call->k);
  clear(&call->v);
  if (c->on_cache && !c->appends) {
    attn_status status = must_be_null(c, "k", a->k, in_cache);
    return status == ATTN_OK ? must_be_null(c, "v", a->v, in_cache) : status;
  }
  attn_status status = check_plain(c, "k", a->k, type, false, k, 4, &call->k);
  if (status != ATTN_OK)
    return status;
  if (!c->packed)
    call->max_keys = call->k.sizes[2];
  if (c->appends)
    call->max_queries = call->max_keys;
  if (!c->spec->value_is_key)
    return check_plain(c, "v", a->v, type, false, v, 4, &call->v);
  if (a->v == NULL)
    return ATTN_OK;
  return error_report(c->sink, ATTN_ERROR_ARGUMENT,
                      "v must be NULL: the value of '%s' is a slice of k", c->spec->name);
}

static attn_status check_shapes(struct checker *c)
{
  struct call *call = c->call;
  attn_status status = c->on_cache ? checker_cache_tensors(c) : ATTN_OK;
  if (status == ATTN_OK)
    status = check_all_starts(c);
  if (status == ATTN_OK)
    status = check_queries(c);
  if (status == ATTN_OK)
    status = check_keys(c);
  if (status != ATTN_OK)
    return status;
  if (c->on_cache)
    return checker_cache_values(c);
  call->max_length = call->max_keys;
  call->shared_prefix = 0;
  if (c->arguments->shared_prefix != 0)
    return error_report(c->sink, ATTN_ERROR_ARGUMENT,
                        "shared_prefix is %lld, but there is no cache",
                        (long long)c->arguments->shared_prefix);
  if (c->arguments->max_length == 0)
    return ATTN_OK;
  return error_report(c->sink, ATTN_ERROR_ARGUMENT,
                      "max_length is %lld, but there is no cache: k says how many keys there are",
                      (long long)c->arguments->max_length);
}

static attn_status set_all(const struct checker *c)
{
  if (c->evaluator == NULL)
    return ATTN_OK;
  if (arena_guard(&c->evaluator->arena))
    return error_out_of_memory(c->sink);
  arguments_set(c->unit, c->call, c->evaluator->evaluator);
  return c->on_cache ? checker_cache_expressions(c) : ATTN_OK;
}

attn_status arguments_check(const struct unit *unit, const attn_arguments *arguments,
                            struct unit_evaluator *evaluator, const struct error_sink *sink,
                            struct call *call)
{
  struct checker c = {.unit = unit,
                      .spec = unit->spec,
                      .arguments = arguments,
                      .sink = sink,
                      .evaluator = evaluator,
                      .call = call,
                      .packed = unit_is_packed(unit),
                      .on_cache = unit->variant.on_cache,
                      .appends = unit->variant.kernel == KERNEL_APPEND};
  call->batch = call->max_queries = call->max_keys = -1;
  if (unit->device == NULL && arguments->stream != NULL)
    return error_report(sink, ATTN_ERROR_ARGUMENT, "stream must be NULL on the cpu");
  attn_status status = check_shapes(&c);
  if (status == ATTN_OK)
    status = check_params(&c);
  if (status == ATTN_OK)
    status = set_all(&c);
  if (status == ATTN_OK)
    status = check_inputs(&c);
  if (status == ATTN_OK)
    status = check_outputs(&c);
  return status == ATTN_OK ? checker_overlaps(&c) : status;
}
