#include "runtime/launch_plan.h"

#include <stdio.h>
#include <string.h>

/* ---- space ---- */

bool launch_reserve(struct launch_space *space, size_t bytes, size_t *offset)
{
  *offset = space->size;
  size_t end;
  if (__builtin_add_overflow(space->size, bytes, &end) || end > PTRDIFF_MAX - LAUNCH_ALIGNMENT)
    return false;
  space->size = (end + LAUNCH_ALIGNMENT - 1) / LAUNCH_ALIGNMENT * LAUNCH_ALIGNMENT;
  return true;
}

static bool reserve_tensor(struct launch_space *space, struct bound_tensor *tensor, size_t *offset)
{
  size_t bytes;
  return tensor_make_compact(tensor, &bytes) && launch_reserve(space, bytes, offset);
}

static bool plan_packed(struct launch_plan *plan, struct launch_space *space,
                        struct bound_tensor *tensor, bool written)
{
  if (tensor->rank == 0 || tensor->empty || tensor->strides[tensor->rank - 1] == 1)
    return true;
  struct launch_packed *packed = &plan->packed[plan->packed_count++];
  packed->tensor = tensor;
  packed->original = *tensor;
  packed->written = written;
  return reserve_tensor(space, tensor, &packed->offset);
}

bool launch_plan_packed(struct launch_plan *plan, struct launch_space *space)
{
  struct call *call = &plan->call;
  const struct spec *spec = plan->unit->spec;
  plan->packed_count = 0;
  bool ok = plan_packed(plan, space, &call->q, false) &&
            plan_packed(plan, space, &call->k, false) && plan_packed(plan, space, &call->o, true);
  if (ok && !spec->value_is_key)
    ok = plan_packed(plan, space, &call->v, false);
  for (uint32_t n = 0; ok && n < spec->input_count; n++)
    ok = plan_packed(plan, space, &call->inputs[n], false);
  for (uint32_t n = 0; ok && n < spec->output_count; n++)
    ok = plan_packed(plan, space, &call->outputs[n], true);
  return ok;
}

bool launch_plan_starts(struct launch_plan *plan, struct launch_space *space, bool copy_starts)
{
  if (!unit_is_packed(plan->unit))
    return true;
  for (int n = 0; n < 2; n++) {
    const struct bound_tensor *given = &plan->call.starts[n];
    plan->starts[n] = *given;
    plan->starts[n].type = DTYPE_I64;
    plan->starts_offset[n] = SIZE_MAX;
    if (given->type == DTYPE_I64 && given->strides[0] == 1 && !copy_starts)
      continue;
    if (!reserve_tensor(space, &plan->starts[n], &plan->starts_offset[n]))
      return false;
  }
  return true;
}

bool launch_plan_rotary(struct launch_plan *plan, struct launch_space *space)
{
  static const enum dtype types[LAUNCH_ROTARY_TABLES] = {DTYPE_I32, DTYPE_F32, DTYPE_F32,
                                                         DTYPE_F32};
  const struct unit *unit = plan->unit;
  if (!unit->spec->has_rotary)
    return true;
  for (int n = 0; n < LAUNCH_ROTARY_TABLES; n++) {
    plan->rotary[n] =
        (struct bound_tensor){.type = types[n], .rank = 1, .sizes = {unit->spec->dim_qk}};
    plan->rotary_offset[n] = SIZE_MAX;
    if (unit->rotary_is_constant)
      plan->rotary[n].strides[0] = 1;
    else if (!reserve_tensor(space, &plan->rotary[n], &plan->rotary_offset[n]))
      return false;
  }
  return true;
}

bool launch_summary_input(const struct launch_plan *plan, uint32_t summary, uint32_t *input)
{
  const struct unit *unit = plan->unit;
  if ((unit->summaries_used >> summary & 1) == 0)
    return false;
  *input = unit->compiled->visibility->summaries[summary].tensor - EXPR_TENSOR_INPUT;
  return true;
}

bool launch_plan_summaries(struct launch_plan *plan, struct launch_space *space)
{
  if (plan->unit->summaries_used == 0)
    return true;
  for (uint32_t n = 0; n < SPEC_MAX_INPUTS; n++) {
    uint32_t input;
    if (!launch_summary_input(plan, n, &input))
      continue;
    summary_shape(&plan->call.inputs[input], &plan->summaries[n]);
    if (!reserve_tensor(space, &plan->summaries[n], &plan->summary_offset[n]))
      return false;
  }
  return true;
}

/* Workspaces count the keys that kernels go over, expressions of the spec all keys. */
static void set_keys(const struct launch_plan *plan, int64_t keys)
{
  if (plan->call.max_keys != plan->call.max_length)
    expr_set_int(plan->evaluator->evaluator, EXPR_VAR_SIZE_NK, keys);
}

bool launch_plan_workspaces(struct launch_plan *plan, struct launch_space *space)
{
  bool ok = true;
  set_keys(plan, plan->call.max_keys);
  for (uint32_t n = 0; ok && n < plan->unit->workspace_count; n++) {
    const struct tile_tensor *tile = plan->unit->workspaces[n];
    if (tile == NULL)
      continue;
    struct bound_tensor *tensor = &plan->workspaces[n];
    tensor->type = tile->element;
    tensor->rank = tile->rank;
    for (uint32_t d = 0; d < tile->rank; d++) {
      int64_t size = expr_evaluate(plan->evaluator->evaluator, tile->shape[d]).i;
      tensor->sizes[d] = size < 0 ? 0 : size;
    }
    ok = reserve_tensor(space, tensor, &plan->workspace_offset[n]);
  }
  set_keys(plan, plan->call.max_length);
  return ok;
}

bool launch_cache_is_on_host(const struct launch_plan *plan, uint32_t n)
{
  return plan->unit->variant.on_cache && (plan->call.cache_on_host >> n & 1) != 0;
}

bool launch_plan_cache(struct launch_plan *plan, struct launch_space *space)
{
  for (uint32_t n = 0; n < LAUNCH_HOST_CACHE; n++) {
    if (!launch_cache_is_on_host(plan, n))
      continue;
    struct bound_tensor compact = plan->call.cache[n];
    if (!reserve_tensor(space, &compact, &plan->cache_offset[n]))
      return false;
  }
  return true;
}

/* ---- filling ---- */

void launch_copy_starts(const struct launch_plan *plan, int which, int64_t *out)
{
  const struct bound_tensor *given = &plan->call.starts[which];
  for (int64_t b = 0; b < given->sizes[0]; b++)
    out[b] = given->type == DTYPE_I32
                 ? ((const int32_t *)(const void *)given->data)[b * given->strides[0]]
                 : ((const int64_t *)(const void *)given->data)[b * given->strides[0]];
}

void launch_copy_cache(const struct launch_plan *plan, unsigned char *image)
{
  for (uint32_t n = 0; n < LAUNCH_HOST_CACHE; n++) {
    if (!launch_cache_is_on_host(plan, n))
      continue;
    struct bound_tensor compact = plan->call.cache[n];
    size_t bytes;
    tensor_make_compact(&compact, &bytes);
    compact.data = image + plan->cache_offset[n];
    tensor_copy(&compact, &plan->call.cache[n]);
  }
}

attn_status launch_evaluate_rotary(struct launch_plan *plan, const struct rotary_tables *tables)
{
  struct expr_evaluator *evaluator = plan->evaluator->evaluator;
  if (arena_guard(&plan->evaluator->arena))
    return error_out_of_memory(plan->sink);
  expr_clear_fault(evaluator);
  bool finite = unit_rotary_tables(plan->unit->spec, evaluator, tables);
  const struct expr_fault *fault = expr_evaluator_fault(evaluator);
  if (fault->raised) {
    const struct tile_fault_site site = {fault->tensor, fault->dim, fault->span};
    return launch_report_fault(plan->unit, plan->sink, "", &site, fault->index,
                               launch_fault_size(plan, &site));
  }
  if (!finite)
    return error_report(
        plan->sink, ATTN_ERROR_ARGUMENT,
        "a rotary angle is infinite or not a number; check the parameters of 'position'");
  return ATTN_OK;
}

/* ---- slots ---- */

static const struct bound_tensor *bound_for(const struct launch_plan *plan,
                                            const struct tile_tensor *tensor)
{
  const struct spec *spec = plan->unit->spec;
  const uint32_t n = tensor->role_index;
  switch (tensor->role) {
  case TILE_ROLE_QUERY: return &plan->call.q;
  case TILE_ROLE_KEY: return &plan->call.k;
  case TILE_ROLE_VALUE: return &plan->call.v;
  case TILE_ROLE_RESULT: return &plan->call.o;
  case TILE_ROLE_INPUT: return n < spec->input_count ? &plan->call.inputs[n] : NULL;
  case TILE_ROLE_OUTPUT: return n < spec->output_count ? &plan->call.outputs[n] : NULL;
  case TILE_ROLE_SUMMARY: return n < SPEC_MAX_INPUTS ? &plan->summaries[n] : NULL;
  case TILE_ROLE_ROTARY_TURNS: return &plan->rotary[0];
  case TILE_ROLE_ROTARY_REST: return &plan->rotary[1];
  case TILE_ROLE_ROTARY_COSINE: return &plan->rotary[2];
  case TILE_ROLE_ROTARY_SINE: return &plan->rotary[3];
  case TILE_ROLE_QUERY_STARTS: return &plan->starts[0];
  case TILE_ROLE_KEY_STARTS: return &plan->starts[1];
  case TILE_ROLE_WORKSPACE: return n < UNIT_MAX_WORKSPACES ? &plan->workspaces[n] : NULL;
  case TILE_ROLE_CACHE: return plan->unit->variant.on_cache ? &plan->call.cache[n] : NULL;
  case TILE_ROLE_PLAIN:
  case TILE_ROLE_PARAM:
  case TILE_ROLE_SIZE_B:
  case TILE_ROLE_SIZE_NQ:
  case TILE_ROLE_SIZE_NK:
  case TILE_ROLE_SIZE_TABLE:
  case TILE_ROLE_SIZE_PAGES:
  case TILE_ROLE_SIZE_SLOTS:
  case TILE_ROLE_SIZE_PREFIX: break;
  }
  return NULL;
}

/* A cache tensor, given in the types of memory, as a kernel declares it: types of a byte by their
 * bits, types below as elements, of which a stride in bytes is several. Bytes stay bytes. */
static bool view_cache(const struct bound_tensor *given, enum dtype element,
                       struct bound_tensor *view)
{
  *view = *given;
  view->type = element;
  if (given->type == element)
    return true;
  const uint32_t several = tile_elements_per_byte(element);
  for (uint32_t d = 0; several != 1 && d + 1 < view->rank; d++)
    view->strides[d] *= several;
  if (several != 1)
    view->sizes[view->rank - 1] *= several;
  return unit_memory_type(element) == given->type;
}

static bool param_for(const struct launch_plan *plan, const struct tile_param *param, int64_t *slot)
{
  const uint32_t n = param->role_index;
  *slot = 0;
  if (param->role == TILE_ROLE_SIZE_B) {
    *slot = plan->call.batch;
  } else if (param->role == TILE_ROLE_SIZE_NQ) {
    *slot = plan->call.max_queries;
  } else if (param->role == TILE_ROLE_SIZE_NK) {
    *slot = plan->call.max_keys;
  } else if (param->role == TILE_ROLE_SIZE_TABLE) {
    *slot = plan->call.table;
  } else if (param->role == TILE_ROLE_SIZE_PAGES) {
    *slot = plan->call.pages;
  } else if (param->role == TILE_ROLE_SIZE_SLOTS) {
    *slot = plan->call.slots;
  } else if (param->role == TILE_ROLE_SIZE_PREFIX) {
    *slot = plan->call.shared_prefix;
  } else if (param->role == TILE_ROLE_PARAM && n < plan->unit->spec->param_count) {
    if (param->type == EXPR_FLOAT)
      memcpy(slot, &plan->call.params[n].f, sizeof(*slot));
    else
      *slot = plan->call.params[n].i;
  } else {
    return false;
  }
  return true;
}

static bool fill_slots(const struct launch_plan *plan, const struct tile_kernel *tile,
                       int64_t *slots, int64_t fault)
{
  for (size_t t = 0; t < tile->tensors.count; t++) {
    const struct tile_tensor *tensor = &tile->tensors.items[t];
    const struct bound_tensor *bound = bound_for(plan, tensor);
    struct bound_tensor view;
    if (bound != NULL && tensor->role == TILE_ROLE_CACHE) {
      if (!view_cache(bound, tensor->element, &view))
        return false;
      bound = &view;
    }
    if (bound == NULL || bound->rank != tensor->rank || bound->type != tensor->element)
      return false;
    *slots++ = (int64_t)(intptr_t)bound->data;
    for (uint32_t d = 0; d < bound->rank; d++)
      *slots++ = bound->strides[d];
    for (uint32_t d = 0; d < bound->rank; d++)
      *slots++ = bound->sizes[d];
  }
  for (size_t p = 0; p < tile->params.count; p++) {
    if (!param_for(plan, &tile->params.items[p], slots++))
      return false;
  }
  *slots = fault;
  return true;
}

attn_status launch_fill_slots(const struct launch_plan *plan, const struct tile_kernel *tile,
                              int64_t *slots, int64_t fault)
{
  if (fill_slots(plan, tile, slots, fault))
    return ATTN_OK;
  return error_report(plan->sink, ATTN_ERROR_INTERNAL,
                      "the kernel '%s' asks for a tensor that a launch does not have", tile->name);
}

/* ---- faults ---- */

struct tile_fault_site launch_fault_site(const struct spec *spec, const struct tile_kernel *tile,
                                         int32_t number)
{
  if (number >= 0 && (size_t)number < tile->sites.count)
    return tile->sites.items[number];
  return (struct tile_fault_site){.span = spec->span};
}

int64_t launch_fault_size(const struct launch_plan *plan, const struct tile_fault_site *site)
{
  const struct spec *spec = plan->unit->spec;
  const struct cache_plan *cache = plan->unit->cache;
  const struct bound_tensor *bound = &plan->call.q;
  if (site->tensor >= EXPR_TENSOR_CACHE && site->tensor - EXPR_TENSOR_CACHE < cache->count &&
      plan->unit->variant.on_cache)
    return plan->call.cache[site->tensor - EXPR_TENSOR_CACHE].sizes[site->dim];
  if (site->tensor >= EXPR_TENSOR_INPUT && site->tensor - EXPR_TENSOR_INPUT < spec->input_count)
    bound = &plan->call.inputs[site->tensor - EXPR_TENSOR_INPUT];
  else if (site->tensor == EXPR_TENSOR_K || site->tensor == EXPR_TENSOR_V)
    bound = site->tensor == EXPR_TENSOR_K || spec->value_is_key ? &plan->call.k : &plan->call.v;
  return !unit_is_packed(plan->unit) && site->dim < bound->rank ? bound->sizes[site->dim] : -1;
}

/* What check_cache found: the index names a sequence, or an entry of a table with rows of `size`.
 */
static attn_status report_table(const struct error_sink *sink, const char *prefix,
                                enum cache_part part, int64_t index, int64_t size)
{
  if (part == CACHE_PAGE_TABLE && size > 0)
    return error_report(sink, ATTN_ERROR_FAULT,
                        "%spage_table[%lld, %lld] is not the number of a page of the cache", prefix,
                        (long long)(index / size), (long long)(index % size));
  if (part == CACHE_SEEN)
    return error_report(sink, ATTN_ERROR_FAULT, "%sseen[%lld] is less than lengths[%lld]", prefix,
                        (long long)index, (long long)index);
  return error_report(sink, ATTN_ERROR_FAULT,
                      "%slengths[%lld] is negative, or more than the cache holds or the launch was "
                      "planned for (max_length)",
                      prefix, (long long)index);
}

attn_status launch_report_fault(const struct unit *unit, const struct error_sink *sink,
                                const char *prefix, const struct tile_fault_site *site,
                                int64_t index, int64_t size)
{
  const struct spec *spec = unit->spec;
  const char *kind = "", *name = "q";
  if (unit_checks_tables(unit, site))
    return report_table(sink, prefix, unit->cache->tensors[site->tensor - EXPR_TENSOR_CACHE].part,
                        index, size);
  if (site->tensor >= EXPR_TENSOR_CACHE && site->tensor - EXPR_TENSOR_CACHE < unit->cache->count) {
    kind = "cache tensor ";
    name = unit->cache->tensors[site->tensor - EXPR_TENSOR_CACHE].name;
  } else if (site->tensor >= EXPR_TENSOR_INPUT &&
             site->tensor - EXPR_TENSOR_INPUT < spec->input_count) {
    kind = "input ";
    name = spec->inputs[site->tensor - EXPR_TENSOR_INPUT].name;
  } else if (site->tensor == EXPR_TENSOR_K || site->tensor == EXPR_TENSOR_V) {
    name = site->tensor == EXPR_TENSOR_K ? "k" : "v";
  }
  char place[200] = "", of_size[40] = "";
  if (site->span.source < spec->sources->sources.count) {
    struct source_place at = source_locate(spec->sources, site->span);
    snprintf(place, sizeof(place), " (%.150s:%u:%u)", at.source->name, at.line, at.column);
  }
  if (size >= 0)
    snprintf(of_size, sizeof(of_size), " of size %lld", (long long)size);
  return error_report(sink, ATTN_ERROR_FAULT,
                      "%s%s'%s': index %lld is out of range for dimension %u%s%s", prefix, kind,
                      name, (long long)index, site->dim, of_size, place);
}
