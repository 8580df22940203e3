/* attn_launch: checks, makes the tensors that kernels need besides the caller's, and runs the
 * kernels. */
#include "compiler/tile/abi.h"
#include "runtime/launch_tensors.h"
#include "runtime/program.h"

#include <stdio.h>
#include <string.h>

enum { MAX_TENSORS = 4 + SPEC_MAX_INPUTS + SPEC_MAX_OUTPUTS, ROTARY_TABLES = 4 };

/* A tensor whose last stride is not 1, for the time of the launch. */
struct packed {
  struct bound_tensor *tensor; /* becomes the copy */
  struct bound_tensor original;
  bool written;
  size_t offset; /* of the copy in the block */
};

struct launch {
  struct attn_context *context;
  struct unit *unit;
  struct unit_evaluator *evaluator; /* NULL when there is nothing to evaluate */
  const struct error_sink *sink;
  struct block *block;
  size_t size; /* bytes of the block planned so far */

  size_t slots_offset, scratch_offset, scratch_stride;
  size_t starts_offset[2], rotary_offset[ROTARY_TABLES];
  size_t summary_offset[SPEC_MAX_INPUTS], workspace_offset[UNIT_MAX_WORKSPACES];
  uint32_t packed_count;

  struct bound_tensor starts[2], rotary[ROTARY_TABLES], workspaces[UNIT_MAX_WORKSPACES];
  struct call call;
  struct bound_tensor summaries[SPEC_MAX_INPUTS];
  struct packed packed[MAX_TENSORS];
};

/* ---- planning ---- */

static bool reserve(struct launch *l, size_t bytes, size_t *offset)
{
  *offset = l->size;
  size_t end;
  if (__builtin_add_overflow(l->size, bytes, &end) || end > PTRDIFF_MAX - BLOCK_ALIGNMENT)
    return false;
  l->size = (end + BLOCK_ALIGNMENT - 1) / BLOCK_ALIGNMENT * BLOCK_ALIGNMENT;
  return true;
}

static bool reserve_tensor(struct launch *l, struct bound_tensor *tensor, size_t *offset)
{
  size_t bytes;
  return tensor_make_compact(tensor, &bytes) && reserve(l, bytes, offset);
}

static bool plan_packed(struct launch *l, struct bound_tensor *tensor, bool written)
{
  if (tensor->rank == 0 || tensor->empty || tensor->strides[tensor->rank - 1] == 1)
    return true;
  struct packed *packed = &l->packed[l->packed_count++];
  packed->tensor = tensor;
  packed->original = *tensor;
  packed->written = written;
  return reserve_tensor(l, tensor, &packed->offset);
}

static bool plan_given(struct launch *l)
{
  struct call *call = &l->call;
  const struct spec *spec = l->unit->spec;
  bool ok = plan_packed(l, &call->q, false) && plan_packed(l, &call->k, false) &&
            plan_packed(l, &call->o, true);
  if (ok && !spec->value_is_key)
    ok = plan_packed(l, &call->v, false);
  for (uint32_t n = 0; ok && n < spec->input_count; n++)
    ok = plan_packed(l, &call->inputs[n], false);
  for (uint32_t n = 0; ok && n < spec->output_count; n++)
    ok = plan_packed(l, &call->outputs[n], true);
  return ok;
}

/* Kernels read starts as i64 without gaps. */
static bool plan_starts(struct launch *l)
{
  if (l->unit->spec->cache.layout != CACHE_RAGGED)
    return true;
  for (int n = 0; n < 2; n++) {
    const struct bound_tensor *given = &l->call.starts[n];
    l->starts[n] = *given;
    l->starts[n].type = DTYPE_I64;
    l->starts_offset[n] = SIZE_MAX;
    if (given->type == DTYPE_I64 && given->strides[0] == 1)
      continue;
    if (!reserve_tensor(l, &l->starts[n], &l->starts_offset[n]))
      return false;
  }
  return true;
}

static bool plan_rotary(struct launch *l)
{
  static const enum dtype types[ROTARY_TABLES] = {DTYPE_I32, DTYPE_F32, DTYPE_F32, DTYPE_F32};
  if (!l->unit->spec->has_rotary)
    return true;
  for (int n = 0; n < ROTARY_TABLES; n++) {
    l->rotary[n] =
        (struct bound_tensor){.type = types[n], .rank = 1, .sizes = {l->unit->spec->dim_qk}};
    if (l->unit->rotary_is_constant)
      l->rotary[n].strides[0] = 1;
    else if (!reserve_tensor(l, &l->rotary[n], &l->rotary_offset[n]))
      return false;
  }
  return true;
}

static bool plan_summaries(struct launch *l)
{
  for (uint32_t n = 0; n < SPEC_MAX_INPUTS; n++) {
    if ((l->unit->summaries_used >> n & 1) == 0)
      continue;
    uint32_t input = l->unit->compiled->visibility->summaries[n].tensor - EXPR_TENSOR_INPUT;
    summary_shape(&l->call.inputs[input], &l->summaries[n]);
    if (!reserve_tensor(l, &l->summaries[n], &l->summary_offset[n]))
      return false;
  }
  return true;
}

/* Runs inside the guard of the evaluator's arena. */
static bool plan_workspaces(struct launch *l)
{
  for (uint32_t n = 0; n < l->unit->workspace_count; n++) {
    const struct tile_tensor *tile = l->unit->workspaces[n];
    if (tile == NULL)
      continue;
    struct bound_tensor *tensor = &l->workspaces[n];
    tensor->type = tile->element;
    tensor->rank = tile->rank;
    for (uint32_t d = 0; d < tile->rank; d++) {
      int64_t size = expr_evaluate(l->evaluator->evaluator, tile->shape[d]).i;
      tensor->sizes[d] = size < 0 ? 0 : size;
    }
    if (!reserve_tensor(l, tensor, &l->workspace_offset[n]))
      return false;
  }
  return true;
}

static bool plan_kernels(struct launch *l)
{
  size_t slots = 0, scratch = 0, all;
  for (size_t n = 0; n < l->unit->kernel_count; n++) {
    const struct unit_kernel *kernel = &l->unit->kernels[n];
    slots = kernel->slot_count > slots ? kernel->slot_count : slots;
    scratch = kernel->scratch_bytes > scratch ? kernel->scratch_bytes : scratch;
  }
  if (scratch > PTRDIFF_MAX / 2)
    return false;
  l->scratch_stride = (scratch + BLOCK_ALIGNMENT - 1) / BLOCK_ALIGNMENT * BLOCK_ALIGNMENT;
  return !__builtin_mul_overflow(l->scratch_stride, thread_pool_count(l->context->threads), &all) &&
         reserve(l, slots * sizeof(int64_t), &l->slots_offset) &&
         reserve(l, all, &l->scratch_offset);
}

static bool plan(struct launch *l)
{
  if (l->unit->workspace_count != 0) {
    if (arena_guard(&l->evaluator->arena) || !plan_workspaces(l))
      return false;
  }
  return plan_kernels(l) && plan_given(l) && plan_starts(l) && plan_rotary(l) && plan_summaries(l);
}

/* ---- filling ---- */

static attn_status report_fault(const struct launch *l, uint32_t tensor, uint32_t dim,
                                int64_t index, struct span span)
{
  const struct spec *spec = l->unit->spec;
  const struct bound_tensor *bound = &l->call.q;
  const char *kind = "", *name = "q";
  if (tensor >= EXPR_TENSOR_INPUT && tensor - EXPR_TENSOR_INPUT < spec->input_count) {
    bound = &l->call.inputs[tensor - EXPR_TENSOR_INPUT];
    kind = "input ";
    name = spec->inputs[tensor - EXPR_TENSOR_INPUT].name;
  } else if (tensor == EXPR_TENSOR_K || tensor == EXPR_TENSOR_V) {
    bound = tensor == EXPR_TENSOR_K || spec->value_is_key ? &l->call.k : &l->call.v;
    name = tensor == EXPR_TENSOR_K ? "k" : "v";
  }
  char place[200] = "", size[40] = "";
  if (span.source < spec->sources->sources.count) {
    struct source_place at = source_locate(spec->sources, span);
    snprintf(place, sizeof(place), " (%.150s:%u:%u)", at.source->name, at.line, at.column);
  }
  /* A packed tensor's dimensions are not the ones that the spec counts. */
  if (spec->cache.layout != CACHE_RAGGED && dim < bound->rank)
    snprintf(size, sizeof(size), " of size %lld", (long long)bound->sizes[dim]);
  return error_report(l->sink, ATTN_ERROR_FAULT,
                      "%s'%s': index %lld is out of range for dimension %u%s%s", kind, name,
                      (long long)index, dim, size, place);
}

static void fill_starts(struct launch *l)
{
  if (l->unit->spec->cache.layout != CACHE_RAGGED)
    return;
  for (int n = 0; n < 2; n++) {
    if (l->starts_offset[n] == SIZE_MAX)
      continue;
    const struct bound_tensor *given = &l->call.starts[n];
    int64_t *out = (int64_t *)(void *)(l->block->data + l->starts_offset[n]);
    l->starts[n].data = (unsigned char *)out;
    for (int64_t b = 0; b < given->sizes[0]; b++)
      out[b] = given->type == DTYPE_I32
                   ? ((const int32_t *)(const void *)given->data)[b * given->strides[0]]
                   : ((const int64_t *)(const void *)given->data)[b * given->strides[0]];
  }
}

static void bind_rotary(struct launch *l, const struct rotary_tables *tables)
{
  void *data[ROTARY_TABLES] = {tables->turns, tables->rest, tables->cosine, tables->sine};
  for (int n = 0; n < ROTARY_TABLES; n++)
    l->rotary[n].data = data[n];
}

static attn_status evaluate_rotary(struct launch *l, const struct rotary_tables *tables)
{
  struct expr_evaluator *evaluator = l->evaluator->evaluator;
  if (arena_guard(&l->evaluator->arena))
    return error_out_of_memory(l->sink);
  expr_clear_fault(evaluator);
  expr_set_reader(evaluator, call_read, NULL, &l->call);
  bool finite = unit_rotary_tables(l->unit, evaluator, tables);
  const struct expr_fault *fault = expr_evaluator_fault(evaluator);
  if (fault->raised)
    return report_fault(l, fault->tensor, fault->dim, fault->index, fault->span);
  if (!finite)
    return error_report(
        l->sink, ATTN_ERROR_ARGUMENT,
        "a rotary angle is infinite or not a number; check the parameters of 'position'");
  return ATTN_OK;
}

static attn_status fill_rotary(struct launch *l)
{
  if (!l->unit->spec->has_rotary)
    return ATTN_OK;
  if (l->unit->rotary_is_constant) {
    bind_rotary(l, &l->unit->rotary);
    return ATTN_OK;
  }
  unsigned char *data = l->block->data;
  struct rotary_tables tables = {(int32_t *)(void *)(data + l->rotary_offset[0]),
                                 (float *)(void *)(data + l->rotary_offset[1]),
                                 (float *)(void *)(data + l->rotary_offset[2]),
                                 (float *)(void *)(data + l->rotary_offset[3])};
  bind_rotary(l, &tables);
  return evaluate_rotary(l, &tables);
}

static attn_status fill(struct launch *l)
{
  unsigned char *data = l->block->data;
  for (uint32_t n = 0; n < l->packed_count; n++) {
    struct packed *packed = &l->packed[n];
    packed->tensor->data = data + packed->offset;
    if (!packed->written)
      tensor_copy(packed->tensor, &packed->original);
  }
  fill_starts(l);
  for (uint32_t n = 0; n < SPEC_MAX_INPUTS; n++) {
    if ((l->unit->summaries_used >> n & 1) == 0)
      continue;
    l->summaries[n].data = l->summaries[n].empty ? tensor_zero_page() : data + l->summary_offset[n];
    summary_fill(
        &l->call.inputs[l->unit->compiled->visibility->summaries[n].tensor - EXPR_TENSOR_INPUT],
        &l->summaries[n]);
  }
  for (uint32_t n = 0; n < l->unit->workspace_count; n++) {
    if (l->unit->workspaces[n] == NULL)
      continue;
    l->workspaces[n].data =
        l->workspaces[n].empty ? tensor_zero_page() : data + l->workspace_offset[n];
  }
  return fill_rotary(l);
}

/* ---- running ---- */

static const struct bound_tensor *bound_for(const struct launch *l,
                                            const struct tile_tensor *tensor)
{
  const struct spec *spec = l->unit->spec;
  const uint32_t n = tensor->role_index;
  switch (tensor->role) {
  case TILE_ROLE_QUERY: return &l->call.q;
  case TILE_ROLE_KEY: return &l->call.k;
  case TILE_ROLE_VALUE: return spec->value_is_key ? NULL : &l->call.v;
  case TILE_ROLE_RESULT: return &l->call.o;
  case TILE_ROLE_INPUT: return n < spec->input_count ? &l->call.inputs[n] : NULL;
  case TILE_ROLE_OUTPUT: return n < spec->output_count ? &l->call.outputs[n] : NULL;
  case TILE_ROLE_SUMMARY: return n < SPEC_MAX_INPUTS ? &l->summaries[n] : NULL;
  case TILE_ROLE_ROTARY_TURNS: return &l->rotary[0];
  case TILE_ROLE_ROTARY_REST: return &l->rotary[1];
  case TILE_ROLE_ROTARY_COSINE: return &l->rotary[2];
  case TILE_ROLE_ROTARY_SINE: return &l->rotary[3];
  case TILE_ROLE_QUERY_STARTS: return &l->starts[0];
  case TILE_ROLE_KEY_STARTS: return &l->starts[1];
  case TILE_ROLE_WORKSPACE: return n < UNIT_MAX_WORKSPACES ? &l->workspaces[n] : NULL;
  case TILE_ROLE_PLAIN:
  case TILE_ROLE_PARAM:
  case TILE_ROLE_SIZE_B:
  case TILE_ROLE_SIZE_NQ:
  case TILE_ROLE_SIZE_NK: break;
  }
  return NULL;
}

static bool param_for(const struct launch *l, const struct tile_param *param, int64_t *slot)
{
  const uint32_t n = param->role_index;
  *slot = 0;
  if (param->role == TILE_ROLE_SIZE_B) {
    *slot = l->call.batch;
  } else if (param->role == TILE_ROLE_SIZE_NQ) {
    *slot = l->call.max_queries;
  } else if (param->role == TILE_ROLE_SIZE_NK) {
    *slot = l->call.max_keys;
  } else if (param->role == TILE_ROLE_PARAM && n < l->unit->spec->param_count) {
    if (param->type == EXPR_FLOAT)
      memcpy(slot, &l->call.params[n].f, sizeof(*slot));
    else
      *slot = l->call.params[n].i;
  } else {
    return false;
  }
  return true;
}

static bool fill_slots(const struct launch *l, const struct tile_kernel *tile, int64_t *slots,
                       struct tile_fault *fault)
{
  for (size_t t = 0; t < tile->tensors.count; t++) {
    const struct tile_tensor *tensor = &tile->tensors.items[t];
    const struct bound_tensor *bound = bound_for(l, tensor);
    if (bound == NULL || bound->rank != tensor->rank || bound->type != tensor->element)
      return false;
    *slots++ = (int64_t)(intptr_t)bound->data;
    for (uint32_t d = 0; d < bound->rank; d++)
      *slots++ = bound->strides[d];
    for (uint32_t d = 0; d < bound->rank; d++)
      *slots++ = bound->sizes[d];
  }
  for (size_t p = 0; p < tile->params.count; p++) {
    if (!param_for(l, &tile->params.items[p], slots++))
      return false;
  }
  *slots = (int64_t)(intptr_t)fault;
  return true;
}

struct kernel_job {
  const struct unit_kernel *kernel;
  const int64_t *slots;
  unsigned char *scratch;
  size_t scratch_stride;
};

static void run_task(void *user, int64_t task, unsigned worker)
{
  const struct kernel_job *job = user;
  job->kernel->run(job->slots, task, job->scratch + worker * job->scratch_stride);
}

static attn_status run_kernels(struct launch *l)
{
  int64_t *slots = (int64_t *)(void *)(l->block->data + l->slots_offset);
  for (size_t n = 0; n < l->unit->kernel_count; n++) {
    const struct unit_kernel *kernel = &l->unit->kernels[n];
    struct tile_fault fault = {0};
    if (!fill_slots(l, kernel->tile, slots, &fault))
      return error_report(l->sink, ATTN_ERROR_INTERNAL,
                          "the kernel '%s' asks for a tensor that a launch does not have",
                          kernel->tile->name);
    struct kernel_job job = {kernel, slots, l->block->data + l->scratch_offset, l->scratch_stride};
    thread_pool_run(l->context->threads, kernel->tasks(slots), run_task, &job);
    if (fault.raised != 0) {
      struct tile_fault_site site = {.span = l->unit->spec->span};
      if (fault.site >= 0 && (size_t)fault.site < kernel->tile->sites.count)
        site = kernel->tile->sites.items[fault.site];
      return report_fault(l, site.tensor, site.dim, fault.index, site.span);
    }
  }
  for (uint32_t n = 0; n < l->packed_count; n++) {
    if (l->packed[n].written)
      tensor_copy(&l->packed[n].original, l->packed[n].tensor);
  }
  return ATTN_OK;
}

/* With the unit settled. Whatever happens, the evaluator and the block stay in `l`. */
static attn_status launch_unit(struct launch *l, const attn_arguments *arguments)
{
  if (l->unit->needs_evaluator) {
    l->evaluator = unit_take_evaluator(l->unit);
    if (l->evaluator == NULL)
      return error_out_of_memory(l->sink);
  }
  attn_status status = arguments_check(l->unit, arguments, l->evaluator, l->sink, &l->call);
  if (status != ATTN_OK)
    return status;
  if (!plan(l))
    return error_out_of_memory(l->sink);
  l->block = context_take_block(l->context, l->size);
  if (l->block == NULL)
    return error_out_of_memory(l->sink);
  status = fill(l);
  return status == ATTN_OK ? run_kernels(l) : status;
}

attn_status attn_launch(attn_program *program, const attn_arguments *given)
{
  if (program == NULL)
    return ATTN_ERROR_ARGUMENT;
  struct error_sink sink = {program->context, NULL, 0};
  if (given == NULL)
    return error_report(&sink, ATTN_ERROR_ARGUMENT, "the arguments are NULL");
  attn_arguments arguments = ATTN_ARGUMENTS_INIT;
  if (!options_copy(&arguments, sizeof(arguments), given, given->size))
    return error_report(&sink, ATTN_ERROR_ARGUMENT,
                        "the arguments have the size %zu; begin with ATTN_ARGUMENTS_INIT",
                        given->size);
  sink.buffer = arguments.error;
  sink.size = arguments.error_size;

  enum dtype type;
  attn_status status = arguments_type(program->front, &arguments, &sink, &type);
  if (status != ATTN_OK)
    return status;
  struct launch l; /* large: the parts in use are set as they are planned */
  l.context = program->context;
  l.sink = &sink;
  l.evaluator = NULL;
  l.block = NULL;
  l.size = 0;
  l.packed_count = 0;
  status = program_unit(program, type, &sink, &l.unit);
  if (status != ATTN_OK)
    return status;
  status = launch_unit(&l, &arguments);
  context_give_block(program->context, l.block);
  /* An arena that ran out of memory was left in the middle of something. */
  if (status == ATTN_ERROR_OUT_OF_MEMORY)
    unit_free_evaluator(l.evaluator);
  else
    unit_give_evaluator(l.unit, l.evaluator);
  if (status == ATTN_OK)
    atomic_fetch_add_explicit(&program->context->launches, 1, memory_order_relaxed);
  return status;
}
