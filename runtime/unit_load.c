/* Compiled code into memory, on the CPU or on a device. */
#include "runtime/unit_load.h"

#include "compiler/tile/abi.h"
#include "runtime/cuda_faults.h"

#include <string.h>

void unit_unload(struct unit *unit)
{
  host_code_free(unit->code);
  unit->code = NULL;
  if (unit->device_code == NULL)
    return;
  /* On a device that is lost the driver refuses what follows, and has lost it already. */
  const struct error_sink quiet = {NULL, NULL, 0};
  bool entered = cuda_enter(unit->device, &quiet) == ATTN_OK;
  cuda.synchronize(); /* launches may be under way */
  cuda_faults_free(unit->faults);
  cuda_code_free(unit->device_code);
  if (entered)
    cuda_leave();
  unit->faults = NULL;
  unit->device_code = NULL;
}

/* Marks the inputs and parameters that the launch reads when it evaluates an expression. */
static void note_leaves(struct unit *unit, const struct expr *e, bool *seen)
{
  if (seen[e->id] || (e->deps & (EXPR_DEP(EXPR_DEP_PARAM) | EXPR_DEP(EXPR_DEP_READ))) == 0)
    return;
  seen[e->id] = true;
  if (e->op == EXPR_PARAM)
    unit->params_used |= UINT64_C(1) << e->value.i;
  else if (e->op == EXPR_READ && e->value.i >= EXPR_TENSOR_INPUT)
    unit->inputs_used |= UINT64_C(1) << (e->value.i - EXPR_TENSOR_INPUT);
  for (uint32_t n = 0; n < e->arg_count; n++)
    note_leaves(unit, e->args[n], seen);
}

static void note_evaluated(struct unit *unit)
{
  const struct spec *spec = unit->spec;
  bool *seen = ARENA_ARRAY(&unit->arena, bool, spec->pool->nodes.count);
  if (spec->has_rotary) {
    note_leaves(unit, spec->rotary.angle, seen);
    note_leaves(unit, spec->rotary.gain, seen);
  }
  for (uint32_t n = 0; n < unit->workspace_count; n++) {
    const struct tile_tensor *workspace = unit->workspaces[n];
    for (uint32_t d = 0; workspace != NULL && d < workspace->rank; d++)
      note_leaves(unit, workspace->shape[d], seen);
  }
  for (uint32_t n = 0; n < unit->cache->count; n++) {
    const struct cache_tensor *tensor = &unit->cache->tensors[n];
    for (uint32_t d = 0; d < tensor->rank; d++) {
      if (tensor->dims[d].kind == CACHE_DIM_INPUT)
        note_leaves(unit, tensor->dims[d].input, seen);
    }
  }
}

bool unit_checks_tables(const struct unit *unit, const struct tile_fault_site *site)
{
  const uint32_t n = site->tensor - EXPR_TENSOR_CACHE;
  if (site->tensor < EXPR_TENSOR_CACHE || n >= unit->cache->count)
    return false;
  const enum cache_part part = unit->cache->tensors[n].part;
  return part == CACHE_LENGTHS || part == CACHE_PAGE_TABLE || part == CACHE_SEEN;
}

static bool checks_tables_only(const struct unit *unit, const struct tile_kernel *tile)
{
  for (size_t n = 0; n < tile->sites.count; n++) {
    if (!unit_checks_tables(unit, &tile->sites.items[n]))
      return false;
  }
  return tile->sites.count != 0;
}

static bool note_tensor(struct unit *unit, const struct tile_tensor *tensor)
{
  const uint32_t n = tensor->role_index;
  if (tensor->role == TILE_ROLE_WORKSPACE) {
    if (n >= UNIT_MAX_WORKSPACES)
      return false;
    unit->workspaces[n] = tensor;
    if (n >= unit->workspace_count)
      unit->workspace_count = n + 1;
  } else if (tensor->role == TILE_ROLE_SUMMARY) {
    const struct visibility *visibility = unit->compiled->visibility;
    if (visibility == NULL || n >= visibility->summary_count)
      return false;
    const uint32_t input = visibility->summaries[n].tensor - EXPR_TENSOR_INPUT;
    if (input >= unit->spec->input_count ||
        (unit->variant.on_cache && unit->spec->inputs[input].cached))
      return false;
    unit->summaries_used |= UINT64_C(1) << n;
  } else if (tensor->role == TILE_ROLE_INPUT && n < SPEC_MAX_INPUTS) {
    unit->inputs_used |= UINT64_C(1) << n;
  } else if (tensor->role == TILE_ROLE_CACHE) {
    if (!unit->variant.on_cache || n >= unit->cache->count)
      return false;
    unit->cache_written[n] = unit->cache_written[n] || tensor->written;
  }
  return true;
}

/* Remembers what launches have to give the kernel. */
static bool note_arguments(struct unit *unit, const struct tile_kernel *tile)
{
  for (size_t t = 0; t < tile->tensors.count; t++) {
    if (!note_tensor(unit, &tile->tensors.items[t]))
      return false;
  }
  for (size_t p = 0; p < tile->params.count; p++) {
    const struct tile_param *param = &tile->params.items[p];
    if (param->role == TILE_ROLE_PARAM && param->role_index < SPEC_MAX_PARAMS)
      unit->params_used |= UINT64_C(1) << param->role_index;
  }
  return true;
}

static attn_status find_host_kernel(struct unit *unit, struct unit_kernel *kernel,
                                    const struct error_sink *sink)
{
  const char *name = kernel->tile->name;
  void *run = host_code_symbol(unit->code, name);
  void *tasks = host_code_symbol(unit->code, arena_format(&unit->arena, "%s_tasks", name));
  if (run == NULL || tasks == NULL)
    return error_report(sink, ATTN_ERROR_INTERNAL, "compiled code lacks the kernel '%s'", name);
  /* ISO C has no conversion from an object pointer to a function's; POSIX has. */
  memcpy(&kernel->run, &run, sizeof(run));
  memcpy(&kernel->tasks, &tasks, sizeof(tasks));
  return ATTN_OK;
}

static attn_status find_kernels(struct unit *unit, const struct error_sink *sink)
{
  if (arena_guard(&unit->arena))
    return error_out_of_memory(sink);
  const struct compiled *compiled = unit->compiled;
  unit->kernels = ARENA_ARRAY(&unit->arena, struct unit_kernel, compiled->kernels.count);
  for (size_t n = 0; n < compiled->kernels.count; n++) {
    const struct compiled_kernel *from = &compiled->kernels.items[n];
    struct unit_kernel *kernel = &unit->kernels[n];
    *kernel = (struct unit_kernel){.tile = from->tile,
                                   .slot_count = tile_slot_count(from->tile),
                                   .checks_tables = checks_tables_only(unit, from->tile),
                                   .scratch_bytes = from->scratch_bytes};
    attn_status status = unit->device == NULL
                             ? find_host_kernel(unit, kernel, sink)
                             : cuda_code_function(unit->device_code, from, sink, &kernel->function);
    if (status != ATTN_OK)
      return status;
    if (!note_arguments(unit, from->tile))
      return error_report(sink, ATTN_ERROR_INTERNAL,
                          "the kernel '%s' asks for more tensors than a launch has",
                          from->tile->name);
  }
  unit->kernel_count = compiled->kernels.count;
  note_evaluated(unit);
  return ATTN_OK;
}

static attn_status load_on_device(struct unit *unit, const struct error_sink *sink)
{
  attn_status status = cuda_enter(unit->device, sink);
  if (status != ATTN_OK)
    return status;
  status = cuda_code_load(unit->device, unit->compiled, sink, &unit->device_code);
  if (status == ATTN_OK)
    status = find_kernels(unit, sink);
  if (status == ATTN_OK)
    status = cuda_faults_new(unit->device, unit, sink, &unit->faults);
  cuda_leave();
  return status;
}

attn_status unit_load(struct unit *unit, const struct error_sink *sink)
{
  char error[HOST_LOAD_ERROR_SIZE];
  if (unit->device != NULL)
    return load_on_device(unit, sink);
  switch (host_code_load(unit->compiled->code, unit->compiled->code_size, &unit->code, error)) {
  case HOST_LOAD_OK: break;
  case HOST_LOAD_NO_MEMORY: return error_out_of_memory(sink);
  case HOST_LOAD_UNSUPPORTED: return error_report(sink, ATTN_ERROR_UNSUPPORTED, "%s", error);
  case HOST_LOAD_INVALID: return error_report(sink, ATTN_ERROR_INTERNAL, "%s", error);
  }
  return find_kernels(unit, sink);
}

attn_status unit_assemble(struct unit *unit, const struct error_sink *sink)
{
  if (unit->device == NULL)
    return ATTN_OK;
  attn_status status = cuda_enter(unit->device, sink);
  if (status != ATTN_OK)
    return status;
  status = cuda_code_assemble(unit->compiled, sink);
  cuda_leave();
  return status;
}

/* ---- rotary tables ---- */

/* Angles and gains that hang on nothing but the pair are the same for every launch. */
static attn_status constant_rotary(struct unit *unit, const struct error_sink *sink)
{
  const struct spec *spec = unit->spec;
  if (!spec->has_rotary)
    return ATTN_OK;
  const uint64_t pair = EXPR_DEP(EXPR_VAR_C) | EXPR_DEP(EXPR_VAR_T);
  if (((spec->rotary.angle->deps | spec->rotary.gain->deps) & ~pair) != 0)
    return ATTN_OK;
  if (arena_guard(&unit->arena))
    return error_out_of_memory(sink);
  unit->rotary = (struct rotary_tables){.turns = ARENA_ARRAY(&unit->arena, int32_t, spec->dim_qk),
                                        .rest = ARENA_ARRAY(&unit->arena, float, spec->dim_qk),
                                        .cosine = ARENA_ARRAY(&unit->arena, float, spec->dim_qk),
                                        .sine = ARENA_ARRAY(&unit->arena, float, spec->dim_qk)};
  struct expr_evaluator *evaluator = expr_evaluator_new(&unit->arena, spec->pool);
  if (!unit_rotary_tables(spec, evaluator, &unit->rotary))
    return error_report(sink, ATTN_ERROR_SPEC, "'%s': a rotary angle is infinite or not a number",
                        spec->name);
  unit->rotary_is_constant = true;
  return ATTN_OK;
}

/* Constant rotary tables go to the device with the code. */
static attn_status upload_rotary(struct unit *unit, const struct error_sink *sink)
{
  if (unit->device == NULL || !unit->rotary_is_constant)
    return ATTN_OK;
  const size_t bytes = unit->spec->dim_qk * sizeof(float);
  const void *tables[] = {unit->rotary.turns, unit->rotary.rest, unit->rotary.cosine,
                          unit->rotary.sine};
  unsigned char *image = mem_alloc(4 * bytes);
  if (image == NULL)
    return error_out_of_memory(sink);
  for (size_t n = 0; n < 4; n++)
    memcpy(image + n * bytes, tables[n], bytes);
  attn_status status = cuda_enter(unit->device, sink);
  if (status == ATTN_OK) {
    status = cuda_code_upload(unit->device_code, image, 4 * bytes, sink, &unit->rotary_on_device);
    cuda_leave();
  }
  mem_free(image);
  return status;
}

attn_status unit_settle_rotary(struct unit *unit, const struct error_sink *sink)
{
  attn_status status = constant_rotary(unit, sink);
  return status == ATTN_OK ? upload_rotary(unit, sink) : status;
}
