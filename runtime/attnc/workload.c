#include "runtime/attnc/workload.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dsl/diagnostics.h"

void workload_init(struct workload *workload, const struct spec *spec, enum dtype type)
{
  memset(workload, 0, sizeof(*workload));
  workload->spec = spec;
  workload->type = type;
  workload->ragged = spec->cache.layout == CACHE_RAGGED;
  for (uint32_t k = 0; k < spec->param_count; k++) {
    const struct spec_param *param = &spec->params[k];
    workload->given[k] = param->has_default || param->is_const;
    if (!workload->given[k])
      continue;
    if (param->type == EXPR_FLOAT)
      workload->params[k].f = param->value.f;
    else
      workload->params[k].i = param->value.i;
  }
}

void workload_free(struct workload *workload)
{
  mem_free(workload->query_starts);
  mem_free(workload->key_starts);
  tensor_free(&workload->q);
  tensor_free(&workload->k);
  tensor_free(&workload->v);
  tensor_free(&workload->o);
  for (size_t k = 0; k < SPEC_MAX_INPUTS; k++)
    tensor_free(&workload->inputs[k]);
  for (size_t k = 0; k < SPEC_MAX_OUTPUTS; k++)
    tensor_free(&workload->outputs[k]);
  memset(workload, 0, sizeof(*workload));
}

static bool parse_param(enum expr_type type, const char *text, union expr_value *value)
{
  char *end;
  errno = 0;
  if (type == EXPR_BOOL) {
    value->i = strcmp(text, "true") == 0 || strcmp(text, "1") == 0;
    return value->i != 0 || strcmp(text, "false") == 0 || strcmp(text, "0") == 0;
  }
  if (type == EXPR_FLOAT) {
    value->f = strtod(text, &end);
    return end != text && *end == '\0';
  }
  value->i = strtoll(text, &end, 10);
  return end != text && *end == '\0' && errno == 0 && value->i >= INT32_MIN &&
         value->i <= INT32_MAX;
}

enum exit_status workload_set_param(struct workload *workload, const char *text)
{
  const struct spec *spec = workload->spec;
  char name[256];
  const char *value;
  const char *names[SPEC_MAX_PARAMS];
  size_t count = 0;
  if (!option_split("param", text, name, sizeof(name), &value))
    return EXIT_USAGE;
  for (uint32_t k = 0; k < spec->param_count; k++) {
    const struct spec_param *param = &spec->params[k];
    if (!param->is_const)
      names[count++] = param->name;
    if (strcmp(param->name, name) != 0)
      continue;
    if (param->is_const)
      return fail_with(EXIT_USAGE, "--param %s: '%s' is a const parameter; give it with --set",
                       text, name);
    if (!parse_param(param->type, value, &workload->params[k]))
      return fail_with(EXIT_USAGE, "--param %s: '%s' is no %s", text, value,
                       expr_type_name(param->type));
    workload->given[k] = true;
    return EXIT_FINE;
  }
  const char *nearest = diag_nearest(name, names, count);
  if (nearest != NULL)
    return fail_with(EXIT_USAGE,
                     "--param %s: attention '%s' has no parameter '%s'; did you mean '%s'?", text,
                     spec->name, name, nearest);
  return fail_with(EXIT_USAGE, "--param %s: attention '%s' has no parameter '%s'", text, spec->name,
                   name);
}

bool workload_set_lengths(struct workload *workload, int64_t batch, const int64_t *queries,
                          const int64_t *keys)
{
  mem_free(workload->query_starts);
  mem_free(workload->key_starts);
  workload->query_starts = mem_alloc_zeroed((size_t)batch + 1, sizeof(int64_t));
  workload->key_starts = mem_alloc_zeroed((size_t)batch + 1, sizeof(int64_t));
  if (workload->query_starts == NULL || workload->key_starts == NULL)
    return false;
  workload->batch = batch;
  workload->queries = 0;
  workload->keys = 0;
  for (int64_t b = 0; b < batch; b++) {
    workload->query_starts[b + 1] = workload->query_starts[b] + queries[b];
    workload->key_starts[b + 1] = workload->key_starts[b] + keys[b];
    workload->queries = queries[b] > workload->queries ? queries[b] : workload->queries;
    workload->keys = keys[b] > workload->keys ? keys[b] : workload->keys;
  }
  return true;
}

struct tensor *workload_tensor(struct workload *workload, enum workload_role role, uint32_t number)
{
  switch (role) {
  case WORKLOAD_Q: return &workload->q;
  case WORKLOAD_K: return &workload->k;
  case WORKLOAD_V: return &workload->v;
  case WORKLOAD_O: return &workload->o;
  case WORKLOAD_INPUT: return &workload->inputs[number];
  case WORKLOAD_OUTPUT: return &workload->outputs[number];
  }
  return NULL;
}

const char *workload_name(const struct spec *spec, enum workload_role role, uint32_t number,
                          char buffer[64])
{
  switch (role) {
  case WORKLOAD_Q: return "q";
  case WORKLOAD_K: return "k";
  case WORKLOAD_V: return "v";
  case WORKLOAD_O: return "o";
  case WORKLOAD_INPUT: return spec->inputs[number].name;
  case WORKLOAD_OUTPUT: {
    const struct spec_output *output = &spec->outputs[number];
    const char *map = spec->maps[output->map].name;
    bool of_map =
        output->kind == OUTPUT_LSE || output->kind == OUTPUT_MAX || output->kind == OUTPUT_ENTROPY;
    if (map == NULL || !of_map)
      return output_name(output->kind);
    snprintf(buffer, 64, "%s(%s)", output_name(output->kind), map);
    return buffer;
  }
  }
  return "";
}

DLDataType workload_dtype(const struct workload *workload, enum dtype type)
{
  switch (type == DTYPE_SPEC || type == DTYPE_ANY ? workload->type : type) {
  case DTYPE_F16: return TENSOR_DTYPE_F16;
  case DTYPE_BF16: return TENSOR_DTYPE_BF16;
  case DTYPE_I32: return TENSOR_DTYPE_I32;
  case DTYPE_I64: return TENSOR_DTYPE_I64;
  case DTYPE_U8: return TENSOR_DTYPE_U8;
  case DTYPE_BOOL: return TENSOR_DTYPE_BOOL;
  case DTYPE_F32:
  case DTYPE_ANY:
  case DTYPE_SPEC:
  case DTYPE_E4M3:
  case DTYPE_E5M2:
  case DTYPE_I8:
  case DTYPE_I4:
  case DTYPE_I2:
  case DTYPE_COUNT: break;
  }
  return TENSOR_DTYPE_F32;
}

int64_t workload_queries(const struct workload *workload, int64_t b)
{
  return workload->ragged ? workload->query_starts[b + 1] - workload->query_starts[b]
                          : workload->queries;
}

int64_t workload_keys(const struct workload *workload, int64_t b)
{
  return workload->ragged ? workload->key_starts[b + 1] - workload->key_starts[b] : workload->keys;
}

int64_t workload_row(const struct workload *workload, int64_t b, int64_t h, int64_t r)
{
  int64_t heads = workload->spec->query_heads;
  if (workload->ragged)
    return (workload->query_starts[b] + r) * heads + h;
  return (b * heads + h) * workload->queries + r;
}

static void add_dim(struct workload_shape *shape, enum dim_kind kind, int64_t size)
{
  shape->kinds[shape->ndim] = kind;
  shape->dims[shape->ndim++] = size;
}

/* Dimensions B and NQ, or else B and NK, become the total in front. */
static void pack(const struct workload *workload, struct workload_shape *shape)
{
  enum dim_kind wanted = DIM_NK;
  int batch = -1;
  int position = -1;
  for (int d = 0; d < shape->ndim; d++) {
    if (shape->kinds[d] == DIM_B && batch < 0)
      batch = d;
    if (shape->kinds[d] == DIM_NQ)
      wanted = DIM_NQ;
  }
  for (int d = shape->ndim; d-- > 0;)
    if (shape->kinds[d] == wanted)
      position = d;
  if (batch < 0 || position < 0)
    return;
  const int64_t *starts = wanted == DIM_NQ ? workload->query_starts : workload->key_starts;
  struct workload_shape packed = {.dtype = shape->dtype};
  add_dim(&packed, wanted, starts[workload->batch]);
  for (int d = 0; d < shape->ndim; d++)
    if (d != batch && d != position)
      add_dim(&packed, shape->kinds[d], shape->dims[d]);
  *shape = packed;
}

/* An input's dims as declared, before packing. */
static bool input_dims(const struct workload *workload, const struct spec_input *input,
                       struct workload_shape *shape)
{
  struct arena arena;
  arena_init(&arena);
  if (arena_guard(&arena)) {
    arena_free(&arena);
    fail_memory();
    return false;
  }
  struct expr_evaluator *evaluator = expr_evaluator_new(&arena, workload->spec->pool);
  expr_set_int(evaluator, EXPR_VAR_SIZE_B, workload->batch);
  expr_set_int(evaluator, EXPR_VAR_SIZE_NQ, workload->queries);
  expr_set_int(evaluator, EXPR_VAR_SIZE_NK, workload->keys);
  for (uint32_t k = 0; k < workload->spec->param_count; k++)
    expr_set_param(evaluator, k, workload->params[k]);
  bool good = true;
  for (uint32_t d = 0; d < input->rank && good; d++) {
    int64_t size = expr_evaluate(evaluator, input->dims[d].size).i;
    add_dim(shape, input->dims[d].kind, size);
    good = size >= 0;
    if (!good)
      complain("input '%s': dim %u would be %lld; choose other sizes or parameters", input->name, d,
               (long long)size);
  }
  arena_free(&arena);
  return good;
}

bool workload_shape(const struct workload *workload, enum workload_role role, uint32_t number,
                    struct workload_shape *shape)
{
  const struct spec *spec = workload->spec;
  *shape = (struct workload_shape){.dtype = workload_dtype(workload, DTYPE_SPEC)};
  if (role == WORKLOAD_INPUT) {
    shape->dtype = workload_dtype(workload, spec->inputs[number].type);
    if (!input_dims(workload, &spec->inputs[number], shape))
      return false;
  } else {
    bool of_keys = role == WORKLOAD_K || role == WORKLOAD_V;
    enum output_kind kind = role == WORKLOAD_OUTPUT ? spec->outputs[number].kind : OUTPUT_LSE;
    add_dim(shape, DIM_B, workload->batch);
    add_dim(shape, of_keys ? DIM_G : DIM_H, of_keys ? spec->kv_heads : spec->query_heads);
    if (!of_keys && kind != OUTPUT_MASS)
      add_dim(shape, DIM_NQ, workload->queries);
    if (of_keys || kind == OUTPUT_MASS || kind == OUTPUT_WEIGHTS)
      add_dim(shape, DIM_NK, workload->keys);
    if (role == WORKLOAD_OUTPUT)
      shape->dtype = TENSOR_DTYPE_F32;
    else if (role == WORKLOAD_Q || role == WORKLOAD_K)
      add_dim(shape, DIM_D, spec->dim_qk);
    else
      add_dim(shape, DIM_DV, spec->dim_v);
  }
  if (workload->ragged)
    pack(workload, shape);
  return true;
}

enum exit_status workload_allocate_one(struct workload *workload, enum workload_role role,
                                       uint32_t number)
{
  struct tensor *tensor = workload_tensor(workload, role, number);
  struct workload_shape shape;
  struct tensor_error error;
  char buffer[64];
  if (tensor->name != NULL)
    return EXIT_FINE;
  if (!workload_shape(workload, role, number, &shape))
    return EXIT_WRONG;
  return report_tensor(tensor_init(tensor, workload_name(workload->spec, role, number, buffer),
                                   shape.dtype, shape.ndim, shape.dims, &error),
                       &error);
}

enum exit_status workload_allocate(struct workload *workload)
{
  const struct spec *spec = workload->spec;
  enum exit_status status = workload_allocate_one(workload, WORKLOAD_Q, 0);
  if (status == EXIT_FINE)
    status = workload_allocate_one(workload, WORKLOAD_K, 0);
  if (status == EXIT_FINE && !spec->value_is_key)
    status = workload_allocate_one(workload, WORKLOAD_V, 0);
  if (status == EXIT_FINE)
    status = workload_allocate_one(workload, WORKLOAD_O, 0);
  for (uint32_t k = 0; k < spec->input_count && status == EXIT_FINE; k++)
    status = workload_allocate_one(workload, WORKLOAD_INPUT, k);
  for (uint32_t k = 0; k < spec->output_count && status == EXIT_FINE; k++)
    status = workload_allocate_one(workload, WORKLOAD_OUTPUT, k);
  return status;
}

static attn_param launch_param(const struct spec_param *param, union expr_value value)
{
  attn_param result = {.name = param->name};
  if (param->type == EXPR_FLOAT) {
    result.kind = ATTN_KIND_FLOAT;
    result.float_value = value.f;
  } else {
    result.kind = param->type == EXPR_BOOL ? ATTN_KIND_BOOL : ATTN_KIND_INT;
    result.int_value = value.i;
  }
  return result;
}

static DLTensor starts_view(int64_t *starts, int64_t *shape)
{
  return (DLTensor){.data = starts,
                    .device = {.device_type = kDLCPU, .device_id = 0},
                    .ndim = 1,
                    .dtype = TENSOR_DTYPE_I64,
                    .shape = shape};
}

static DLTensor launch_view(const struct workload *workload, struct tensor *tensor)
{
  DLTensor view = tensor_view(tensor);
  if (tensor->on_device != NULL) {
    view.data = tensor->on_device;
    view.device = workload->device;
  }
  return view;
}

void workload_call_init(struct workload_call *call, struct workload *workload)
{
  const struct spec *spec = workload->spec;
  attn_arguments *arguments = &call->arguments;
  *arguments = (attn_arguments)ATTN_ARGUMENTS_INIT;
  struct {
    struct tensor *tensor;
    DLTensor *view;
    const DLTensor **argument;
  } const main[] = {{&workload->q, &call->q, &arguments->q},
                    {&workload->k, &call->k, &arguments->k},
                    {&workload->v, &call->v, &arguments->v},
                    {&workload->o, &call->o, &arguments->o}};
  for (size_t n = 0; n < sizeof(main) / sizeof(main[0]); n++) {
    if (main[n].tensor->name == NULL)
      continue;
    *main[n].view = launch_view(workload, main[n].tensor);
    *main[n].argument = main[n].view;
  }
  arguments->inputs = call->named_inputs;
  arguments->outputs = call->named_outputs;
  arguments->params = call->params;
  call->starts_shape = workload->batch + 1;
  if (workload->ragged) {
    call->query_starts = starts_view(workload->query_starts, &call->starts_shape);
    call->key_starts = starts_view(workload->key_starts, &call->starts_shape);
    arguments->query_starts = &call->query_starts;
    arguments->key_starts = &call->key_starts;
  }
  workload_call_inputs(call, workload);
  for (uint32_t n = 0; n < spec->output_count; n++) {
    if (workload->outputs[n].name == NULL)
      continue;
    call->outputs[n] = launch_view(workload, &workload->outputs[n]);
    call->named_outputs[arguments->output_count++] =
        (attn_named_tensor){workload->outputs[n].name, &call->outputs[n]};
  }
  for (uint32_t n = 0; n < spec->param_count; n++)
    if (!spec->params[n].is_const && workload->given[n])
      call->params[arguments->param_count++] = launch_param(&spec->params[n], workload->params[n]);
}

void workload_call_inputs(struct workload_call *call, struct workload *workload)
{
  attn_arguments *arguments = &call->arguments;
  for (uint32_t n = 0; n < workload->spec->input_count; n++) {
    if (workload->inputs[n].name == NULL)
      continue;
    call->inputs[n] = launch_view(workload, &workload->inputs[n]);
    call->named_inputs[arguments->input_count++] =
        (attn_named_tensor){workload->inputs[n].name, &call->inputs[n]};
  }
}

attn_status workload_launch(struct workload *workload, attn_program *program, char *error,
                            size_t size)
{
  struct workload_call call;
  workload_call_init(&call, workload);
  call.arguments.error = error;
  call.arguments.error_size = size;
  return attn_launch(program, &call.arguments);
}

static enum dtype dtype_of(DLDataType dtype)
{
  static const enum dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_I32,
                                     DTYPE_I64, DTYPE_U8,  DTYPE_BOOL};
  for (size_t k = 0; k < sizeof(types) / sizeof(types[0]); k++)
    if (strcmp(dtype_name(types[k]), tensor_dtype_name(dtype)) == 0)
      return types[k];
  return DTYPE_F32;
}

static struct ref_tensor reference_view(const struct tensor *tensor)
{
  if (tensor->name == NULL)
    return (struct ref_tensor){0};
  struct ref_tensor view = {
      .type = dtype_of(tensor->dtype), .rank = (uint32_t)tensor->ndim, .data = tensor->data};
  int64_t stride = 1;
  for (int d = tensor->ndim; d-- > 0;) {
    view.shape[d] = tensor->shape[d];
    view.stride[d] = stride;
    stride *= tensor->shape[d] > 0 ? tensor->shape[d] : 1;
  }
  return view;
}

/* k or v as an implementation in the workload's type has them: what a quantised cache holds is
 * given in f32, and rounded here. False when out of memory. */
static bool naive_view(const struct workload *workload, const struct tensor *tensor,
                       struct tensor *rounded, struct ref_tensor *view)
{
  struct tensor_error error;
  DLDataType dtype = workload_dtype(workload, DTYPE_SPEC);
  *view = reference_view(tensor);
  if (tensor->name == NULL || tensor_dtype_equal(tensor->dtype, dtype))
    return true;
  if (tensor_init(rounded, tensor->name, dtype, tensor->ndim, tensor->shape, &error) != TENSOR_OK)
    return false;
  for (int64_t n = 0, count = tensor_count(tensor); n < count; n++)
    tensor_set(rounded, n, tensor_get(tensor, n));
  *view = reference_view(rounded);
  return true;
}

bool workload_reference(struct workload *workload, enum ref_mode mode, uint32_t heads,
                        struct ref_result *result)
{
  const struct spec *spec = workload->spec;
  struct tensor rounded[2] = {{0}};
  struct ref_tensor k = reference_view(&workload->k), v = reference_view(&workload->v);
  if (mode == REF_NAIVE && (!naive_view(workload, &workload->k, &rounded[0], &k) ||
                            !naive_view(workload, &workload->v, &rounded[1], &v))) {
    tensor_free(&rounded[0]);
    return false;
  }
  struct ref_tensor inputs[SPEC_MAX_INPUTS];
  for (uint32_t k = 0; k < spec->input_count; k++)
    inputs[k] = reference_view(&workload->inputs[k]);
  /* Heads do not influence each other and their numbers are folded into the formulas, so that a
   * spec with fewer of them and the same group size means the first ones of the whole. */
  struct spec *first = mem_alloc(sizeof(*first));
  if (first == NULL) {
    tensor_free(&rounded[0]);
    tensor_free(&rounded[1]);
    return false;
  }
  *first = *spec;
  first->kv_heads = heads / (spec->query_heads / spec->kv_heads);
  first->query_heads = heads;
  const struct ref_call call = {
      .spec = first,
      .q = reference_view(&workload->q),
      .k = k,
      .v = v,
      .inputs = inputs,
      .params = workload->params,
      .batch = workload->batch,
      .max_queries = workload->queries,
      .max_keys = workload->keys,
      .query_starts = workload->query_starts,
      .key_starts = workload->key_starts,
  };
  bool good = ref_run(&call, mode, workload->type, result);
  tensor_free(&rounded[0]);
  tensor_free(&rounded[1]);
  mem_free(first);
  return good;
}
