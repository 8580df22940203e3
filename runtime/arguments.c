#include "runtime/arguments.h"

#include "runtime/tensor_check.h"

#include <string.h>

/* A launch while it is checked. */
struct checker {
  const struct unit *unit;
  const struct spec *spec;
  const attn_arguments *arguments;
  const struct error_sink *sink;
  struct unit_evaluator *evaluator;
  struct call *call;
  bool ragged;
};

attn_status arguments_type(const struct unit *front, const attn_arguments *arguments,
                           const struct error_sink *sink, enum dtype *type)
{
  if (arguments->q == NULL)
    return error_report(sink, ATTN_ERROR_ARGUMENT, "q is missing");
  enum dtype given = dtype_of_dlpack(arguments->q->dtype);
  enum dtype own = dtype_of_attn(front->info.type);
  *type = own != DTYPE_ANY ? own : given;
  if (own == DTYPE_ANY && given != DTYPE_F32 && given != DTYPE_F16 && given != DTYPE_BF16)
    return error_report(sink, ATTN_ERROR_ARGUMENT, "q: the type is %s, it must be f32, f16 or bf16",
                        given == DTYPE_ANY ? "none that a spec has" : dtype_name(given));
  return ATTN_OK;
}

/* ---- shapes ---- */

/* The sizes of the launch, as far as they are settled: -1 where not yet. */
static struct wanted_dim dim_of(const struct checker *c, enum dim_kind kind)
{
  const struct spec *spec = c->spec;
  const struct call *call = c->call;
  switch (kind) {
  case DIM_B: return (struct wanted_dim){call->batch, "B", c->ragged ? "query_starts" : "q"};
  case DIM_H: return (struct wanted_dim){spec->query_heads, "H", NULL};
  case DIM_G: return (struct wanted_dim){spec->kv_heads, "G", NULL};
  case DIM_NQ:
    return (struct wanted_dim){call->max_queries, "NQ", c->ragged ? "query_starts" : "q"};
  case DIM_NK: return (struct wanted_dim){call->max_keys, "NK", c->ragged ? "key_starts" : "k"};
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
  int tokens = queries >= 0 ? queries : keys;
  if (batch < 0 || tokens < 0)
    return;
  struct wanted_dim total =
      queries >= 0
          ? (struct wanted_dim){c->call->total_queries, "the total of queries", "query_starts"}
          : (struct wanted_dim){c->call->total_keys, "the total of keys", "key_starts"};
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
  if (c->ragged)
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

static int64_t start_at(const struct bound_tensor *starts, int64_t n)
{
  const unsigned char *at =
      starts->data + n * starts->strides[0] * (int64_t)dtype_size(starts->type);
  if (starts->type == DTYPE_I32)
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
      .what = what, .type = type, .rank = 1, .dims = {{count, "B + 1", "query_starts"}}};
  attn_status status = tensor_check(tensor, &wanted, c->sink, starts);
  if (status != ATTN_OK)
    return status;
  if (starts->empty)
    return error_report(c->sink, ATTN_ERROR_ARGUMENT,
                        "%s is empty; for B sequences it has B + 1 elements", what);
  *longest = 0;
  int64_t before = start_at(starts, 0);
  if (before != 0)
    return error_report(c->sink, ATTN_ERROR_ARGUMENT, "%s[0] is %lld, it must be 0", what,
                        (long long)before);
  for (int64_t n = 1; n < starts->sizes[0]; n++) {
    int64_t start = start_at(starts, n);
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

static attn_status check_ragged(struct checker *c)
{
  struct call *call = c->call;
  const attn_arguments *a = c->arguments;
  if (!c->ragged) {
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

/* Sorts named tensors by the numbers of `infos`. */
static attn_status match_tensors(const struct checker *c, const char *kind,
                                 const attn_named_tensor *given, size_t given_count,
                                 const attn_tensor_info *infos, size_t count,
                                 const DLTensor **tensors)
{
  for (size_t n = 0; n < count; n++)
    tensors[n] = NULL;
  if (given_count != 0 && given == NULL)
    return error_report(c->sink, ATTN_ERROR_ARGUMENT, "%ss is NULL but %s_count is %zu", kind, kind,
                        given_count);
  for (size_t g = 0; g < given_count; g++) {
    if (given[g].name == NULL)
      return error_report(c->sink, ATTN_ERROR_ARGUMENT, "%ss[%zu] has no name", kind, g);
    size_t n = 0;
    while (n < count && strcmp(infos[n].name, given[g].name) != 0)
      n++;
    if (n == count) {
      const char *known[SPEC_MAX_INPUTS];
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
  for (size_t n = 0; n < count; n++) {
    if (tensors[n] == NULL)
      return error_report(c->sink, ATTN_ERROR_ARGUMENT, "%s '%s' is missing", kind, infos[n].name);
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
    if (!param->has_default && !param->is_const)
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
  expr_set_int(evaluator, EXPR_VAR_SIZE_NK, call->max_keys);
  for (uint32_t n = 0; n < unit->spec->param_count; n++)
    expr_set_param(evaluator, n, call->params[n]);
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
                                 .type = input->type == DTYPE_SPEC ? c->unit->type : input->type,
                                 .rank = input->rank};
  enum dim_kind kinds[SPEC_MAX_RANK];
  bool expressions = false;
  for (uint32_t d = 0; d < input->rank; d++) {
    kinds[d] = input->dims[d].kind;
    wanted.dims[d] = dim_of(c, kinds[d]);
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
  const attn_arguments *a = c->arguments;
  const DLTensor *tensors[SPEC_MAX_INPUTS];
  attn_status status = match_tensors(c, "input", a->inputs, a->input_count, c->unit->info.inputs,
                                     c->unit->info.input_count, tensors);
  for (uint32_t n = 0; status == ATTN_OK && n < c->spec->input_count; n++)
    status = check_input(c, n, tensors[n]);
  return status;
}

static attn_status check_outputs(const struct checker *c)
{
  static const enum dim_kind rows[] = {DIM_B, DIM_H, DIM_NQ}, keys[] = {DIM_B, DIM_H, DIM_NK};
  static const enum dim_kind pairs[] = {DIM_B, DIM_H, DIM_NQ, DIM_NK};
  const attn_arguments *a = c->arguments;
  const DLTensor *tensors[SPEC_MAX_OUTPUTS];
  attn_status status = match_tensors(c, "output", a->outputs, a->output_count,
                                     c->unit->info.outputs, c->unit->info.output_count, tensors);
  for (uint32_t n = 0; status == ATTN_OK && n < c->spec->output_count; n++) {
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

/* ---- overlap ---- */

static bool overlap(const struct bound_tensor *a, const struct bound_tensor *b)
{
  uintptr_t a_first, a_end, b_first, b_end;
  tensor_extent(a, &a_first, &a_end);
  tensor_extent(b, &b_first, &b_end);
  return a_first < b_end && b_first < a_end;
}

struct written {
  const struct bound_tensor *tensor;
  const char *before, *name, *after; /* "output '", "lse", "'" */
};

static attn_status check_apart(const struct checker *c, const struct written *written,
                               const struct bound_tensor *other, const char *before,
                               const char *name, const char *after)
{
  if (written->tensor == other || !overlap(written->tensor, other))
    return ATTN_OK;
  return error_report(c->sink, ATTN_ERROR_ARGUMENT,
                      "%s%s%s is written, but its memory overlaps that of %s%s%s", written->before,
                      written->name, written->after, before, name, after);
}

/* Against everything but itself; outputs are compared with the ones before them. */
static attn_status check_overlap(const struct checker *c, const struct written *written,
                                 uint32_t earlier_outputs)
{
  const struct call *call = c->call;
  attn_status status = check_apart(c, written, &call->q, "", "q", "");
  if (status == ATTN_OK)
    status = check_apart(c, written, &call->k, "", "k", "");
  if (status == ATTN_OK && !c->spec->value_is_key)
    status = check_apart(c, written, &call->v, "", "v", "");
  if (status == ATTN_OK && c->ragged)
    status = check_apart(c, written, &call->starts[0], "", "query_starts", "");
  if (status == ATTN_OK && c->ragged)
    status = check_apart(c, written, &call->starts[1], "", "key_starts", "");
  for (uint32_t n = 0; status == ATTN_OK && n < c->spec->input_count; n++)
    status = check_apart(c, written, &call->inputs[n], "input '", c->spec->inputs[n].name, "'");
  if (status == ATTN_OK)
    status = check_apart(c, written, &call->o, "", "o", "");
  for (uint32_t n = 0; status == ATTN_OK && n < earlier_outputs; n++)
    status =
        check_apart(c, written, &call->outputs[n], "output '", c->unit->info.outputs[n].name, "'");
  return status;
}

/* ---- all ---- */

static attn_status check_main(struct checker *c)
{
  static const enum dim_kind q[] = {DIM_B, DIM_H, DIM_NQ, DIM_D},
                             k[] = {DIM_B, DIM_G, DIM_NK, DIM_D};
  static const enum dim_kind v[] = {DIM_B, DIM_G, DIM_NK, DIM_DV},
                             o[] = {DIM_B, DIM_H, DIM_NQ, DIM_DV};
  const attn_arguments *a = c->arguments;
  const enum dtype type = c->unit->type;
  struct call *call = c->call;
  attn_status status = check_plain(c, "q", a->q, type, false, q, 4, &call->q);
  if (status != ATTN_OK)
    return status;
  if (!c->ragged) {
    call->batch = call->q.sizes[0];
    call->max_queries = call->q.sizes[2];
  }
  status = check_plain(c, "k", a->k, type, false, k, 4, &call->k);
  if (status != ATTN_OK)
    return status;
  if (!c->ragged)
    call->max_keys = call->k.sizes[2];
  if (c->spec->value_is_key) {
    call->v.rank = 0;
    if (a->v != NULL)
      return error_report(c->sink, ATTN_ERROR_ARGUMENT,
                          "v must be NULL: the value of '%s' is a slice of k", c->spec->name);
  } else {
    status = check_plain(c, "v", a->v, type, false, v, 4, &call->v);
  }
  return status == ATTN_OK ? check_plain(c, "o", a->o, type, true, o, 4, &call->o) : status;
}

static bool set_all(const struct checker *c)
{
  if (c->evaluator == NULL)
    return true;
  if (arena_guard(&c->evaluator->arena))
    return false;
  arguments_set(c->unit, c->call, c->evaluator->evaluator);
  return true;
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
                      .ragged = unit->spec->cache.layout == CACHE_RAGGED};
  call->batch = call->max_queries = call->max_keys = -1;
  if (unit->device == NULL && arguments->stream != NULL)
    return error_report(sink, ATTN_ERROR_ARGUMENT, "stream must be NULL on the cpu");
  attn_status status = check_ragged(&c);
  if (status == ATTN_OK)
    status = check_main(&c);
  if (status == ATTN_OK)
    status = check_params(&c);
  if (status == ATTN_OK && !set_all(&c))
    status = error_out_of_memory(sink);
  if (status == ATTN_OK)
    status = check_inputs(&c);
  if (status == ATTN_OK)
    status = check_outputs(&c);
  if (status == ATTN_OK)
    status = check_overlap(&c, &(struct written){&call->o, "", "o", ""}, 0);
  for (uint32_t n = 0; status == ATTN_OK && n < unit->spec->output_count; n++) {
    struct written output = {&call->outputs[n], "output '", unit->info.outputs[n].name, "'"};
    status = check_overlap(&c, &output, n);
  }
  return status;
}
