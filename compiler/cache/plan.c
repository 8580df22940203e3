#include "compiler/cache/plan.h"

#include <assert.h>

enum cache_layout cache_layout(const struct spec *spec)
{
  enum cache_layout layout = spec->cache.layout;
  return layout == CACHE_PAGED || layout == CACHE_RING ? layout : CACHE_DENSE;
}

uint32_t cache_ring_tokens(const struct spec *spec)
{
  return spec->cache.layout == CACHE_RING ? spec->cache.sinks + spec->cache.capacity : 0;
}

const struct spec_storage *cache_storage(const struct spec *spec, uint32_t source)
{
  assert(source == EXPR_TENSOR_K || source == EXPR_TENSOR_V);
  if (source == EXPR_TENSOR_K)
    return &spec->cache.k;
  return spec->value_is_key ? NULL : &spec->cache.v;
}

static uint32_t all_channels(const struct spec *spec, uint32_t source)
{
  return source == EXPR_TENSOR_K ? spec->dim_qk : spec->dim_v;
}

uint32_t cache_channels(const struct spec *spec, uint32_t source)
{
  const struct spec_storage *storage = cache_storage(spec, source);
  bool some = storage != NULL && storage->channels != 0;
  return some ? storage->channels : all_channels(spec, source);
}

uint32_t cache_element_bits(enum dtype type)
{
  switch (type) {
  case DTYPE_I4: return 4;
  case DTYPE_I2: return 2;
  case DTYPE_ANY:
  case DTYPE_F32:
  case DTYPE_F16:
  case DTYPE_BF16:
  case DTYPE_I32:
  case DTYPE_I64:
  case DTYPE_U8:
  case DTYPE_BOOL:
  case DTYPE_SPEC:
  case DTYPE_E4M3:
  case DTYPE_E5M2:
  case DTYPE_I8:
  case DTYPE_COUNT: break;
  }
  return 8 * (uint32_t)dtype_size(type);
}

bool cache_is_quantised(const struct spec_storage *storage)
{
  switch (storage->type) {
  case DTYPE_E4M3:
  case DTYPE_E5M2:
  case DTYPE_I8:
  case DTYPE_I4:
  case DTYPE_I2: return true;
  case DTYPE_ANY:
  case DTYPE_F32:
  case DTYPE_F16:
  case DTYPE_BF16:
  case DTYPE_I32:
  case DTYPE_I64:
  case DTYPE_U8:
  case DTYPE_BOOL:
  case DTYPE_SPEC:
  case DTYPE_COUNT: break;
  }
  return false;
}

/* ---- the list ---- */

static struct cache_dimension constant(uint32_t size)
{
  return (struct cache_dimension){.kind = CACHE_DIM_CONSTANT, .size = size, .quotient = 1};
}

static struct cache_dimension any(enum cache_dim kind)
{
  return (struct cache_dimension){.kind = kind, .quotient = 1};
}

static void add_dim(struct cache_tensor *tensor, struct cache_dimension dim)
{
  assert(tensor->rank < SPEC_MAX_RANK);
  tensor->dims[tensor->rank++] = dim;
}

static struct cache_tensor *add(struct cache_plan *plan, const char *name, enum cache_part part,
                                uint32_t source, enum dtype type)
{
  assert(plan->count < CACHE_MAX_TENSORS);
  struct cache_tensor *tensor = &plan->tensors[plan->count++];
  *tensor = (struct cache_tensor){.name = name, .part = part, .source = source, .type = type};
  return tensor;
}

/* A dimension for every `quotient` tokens. */
static void add_slots(const struct cache_plan *plan, struct cache_tensor *tensor, uint32_t quotient)
{
  const struct spec *spec = plan->spec;
  struct cache_dimension slots = any(CACHE_DIM_SLOTS);
  switch (cache_layout(spec)) {
  case CACHE_PAGED:
    add_dim(tensor, any(CACHE_DIM_PAGES));
    slots = constant(spec->cache.page / quotient);
    break;
  case CACHE_RING:
    add_dim(tensor, any(CACHE_DIM_B));
    slots = constant(cache_ring_tokens(spec) / quotient);
    break;
  case CACHE_NONE:
  case CACHE_RAGGED:
  case CACHE_DENSE:
    add_dim(tensor, any(CACHE_DIM_B));
    slots.quotient = quotient;
    break;
  }
  add_dim(tensor, slots);
}

static void add_scales(struct cache_plan *plan, const char *name, enum cache_part part,
                       uint32_t source)
{
  const struct spec_storage *storage = cache_storage(plan->spec, source);
  uint32_t channels = cache_channels(plan->spec, source);
  bool narrow = storage->type == DTYPE_I4 || storage->type == DTYPE_I2;
  struct cache_tensor *tensor = add(plan, name, part, source, narrow ? DTYPE_F16 : DTYPE_F32);
  bool by_token = storage->axis == CACHE_AXIS_TOKEN;
  if (by_token || storage->group > 0)
    add_slots(plan, tensor, by_token ? 1 : storage->group);
  add_dim(tensor, constant(plan->spec->kv_heads));
  if (by_token)
    channels = storage->group == 0 ? 1 : channels / storage->group;
  add_dim(tensor, constant(channels));
}

static void add_source(struct cache_plan *plan, uint32_t source)
{
  static const char *const names[2][5] = {{"k", "k.scale", "k.zero", "k.recent", "k.rest"},
                                          {"v", "v.scale", "v.zero", "v.recent", "v.rest"}};
  const struct spec *spec = plan->spec;
  const struct spec_storage *storage = cache_storage(spec, source);
  const char *const *name = names[source == EXPR_TENSOR_V];
  uint32_t channels = cache_channels(spec, source);
  struct cache_tensor *data = add(plan, name[0], CACHE_DATA, source, storage->type);
  add_slots(plan, data, 1);
  add_dim(data, constant(spec->kv_heads));
  add_dim(data, constant(channels));
  if (cache_is_quantised(storage)) {
    add_scales(plan, name[1], CACHE_SCALE, source);
    if (storage->asymmetric)
      add_scales(plan, name[2], CACHE_ZERO, source);
  }
  if (storage->residual > 0) {
    struct cache_tensor *recent = add(plan, name[3], CACHE_RECENT, source, DTYPE_SPEC);
    add_dim(recent, any(CACHE_DIM_B));
    add_dim(recent, constant(storage->residual));
    add_dim(recent, constant(spec->kv_heads));
    add_dim(recent, constant(channels));
  }
  if (channels < all_channels(spec, source)) {
    struct cache_tensor *rest = add(plan, name[4], CACHE_REST, source, DTYPE_SPEC);
    add_slots(plan, rest, 1);
    add_dim(rest, constant(spec->kv_heads));
    add_dim(rest, constant(all_channels(spec, source) - channels));
  }
}

/* B and the first NK became the slots. */
static void add_input(struct cache_plan *plan, uint32_t n)
{
  const struct spec_input *input = &plan->spec->inputs[n];
  struct cache_tensor *tensor =
      add(plan, input->name, CACHE_DATA, EXPR_TENSOR_INPUT + n, input->type);
  add_slots(plan, tensor, 1);
  bool had_batch = false, had_keys = false;
  for (uint32_t k = 0; k < input->rank; k++) {
    const struct spec_dim *dim = &input->dims[k];
    bool *had = dim->kind == DIM_B ? &had_batch : dim->kind == DIM_NK ? &had_keys : NULL;
    if (had != NULL && !*had) {
      *had = true;
      continue;
    }
    if (expr_is_const(dim->size))
      add_dim(tensor, constant((uint32_t)dim->size->value.i));
    else
      add_dim(tensor,
              (struct cache_dimension){.kind = CACHE_DIM_INPUT, .quotient = 1, .input = dim->size});
  }
}

void cache_plan_init(struct cache_plan *plan, const struct spec *spec)
{
  *plan = (struct cache_plan){.spec = spec};
  bool stored = spec->cache.positions == CACHE_POSITIONS_STORED;
  add_dim(add(plan, "lengths", CACHE_LENGTHS, EXPR_TENSOR_K, DTYPE_I32), any(CACHE_DIM_B));
  if (cache_layout(spec) == CACHE_PAGED) {
    struct cache_tensor *table =
        add(plan, "page_table", CACHE_PAGE_TABLE, EXPR_TENSOR_K, DTYPE_I32);
    add_dim(table, any(CACHE_DIM_B));
    add_dim(table, any(CACHE_DIM_TABLE));
  }
  if (stored) {
    add_dim(add(plan, "seen", CACHE_SEEN, EXPR_TENSOR_K, DTYPE_I32), any(CACHE_DIM_B));
    add_slots(plan, add(plan, "positions", CACHE_POSITIONS, EXPR_TENSOR_K, DTYPE_I32), 1);
  }
  add_source(plan, EXPR_TENSOR_K);
  if (!spec->value_is_key)
    add_source(plan, EXPR_TENSOR_V);
  for (uint32_t n = 0; n < spec->input_count; n++)
    if (spec->inputs[n].cached)
      add_input(plan, n);
}

const struct cache_plan *cache_plan_new(struct arena *arena, const struct spec *spec)
{
  struct cache_plan *plan = ARENA_NEW(arena, struct cache_plan);
  cache_plan_init(plan, spec);
  return plan;
}

int32_t cache_plan_find(const struct cache_plan *plan, uint32_t source, enum cache_part part)
{
  for (uint32_t n = 0; n < plan->count; n++)
    if (plan->tensors[n].source == source && plan->tensors[n].part == part)
      return (int32_t)n;
  return CACHE_NONE_SUCH;
}

/* ---- bytes ---- */

/* Elements for one token; 0 where it does not grow with tokens, or is not known before a launch. */
static double elements_of_token(const struct spec *spec, const struct cache_tensor *tensor)
{
  bool paged = cache_layout(spec) == CACHE_PAGED;
  bool per_token = tensor->rank >= 2 && (tensor->dims[0].kind == CACHE_DIM_PAGES ||
                                         (!paged && tensor->dims[0].kind == CACHE_DIM_B));
  if (!per_token || tensor->part == CACHE_PAGE_TABLE || tensor->part == CACHE_RECENT)
    return 0;
  const struct cache_dimension *slots = &tensor->dims[1];
  double elements = 1;
  if (paged)
    elements = (double)slots->size / spec->cache.page;
  else if (slots->kind == CACHE_DIM_SLOTS)
    elements = 1.0 / slots->quotient;
  for (uint32_t k = 2; k < tensor->rank; k++)
    elements *= tensor->dims[k].kind == CACHE_DIM_CONSTANT ? tensor->dims[k].size : 0;
  return elements;
}

static double element_bytes(enum dtype type, enum dtype spec_type)
{
  bool open = type == DTYPE_SPEC || type == DTYPE_ANY;
  return cache_element_bits(open ? spec_type : type) / 8.0;
}

double cache_token_bytes(const struct cache_plan *plan, enum dtype type)
{
  double bytes = 0;
  for (uint32_t n = 0; n < plan->count; n++)
    if (plan->tensors[n].part != CACHE_POSITIONS)
      bytes += elements_of_token(plan->spec, &plan->tensors[n]) *
               element_bytes(plan->tensors[n].type, type);
  return bytes;
}

double cache_sequence_bytes(const struct cache_plan *plan, enum dtype type)
{
  double bytes = 0;
  for (uint32_t n = 0; n < plan->count; n++) {
    const struct cache_tensor *tensor = &plan->tensors[n];
    if (tensor->part == CACHE_RECENT)
      bytes += (double)tensor->dims[1].size * tensor->dims[2].size * tensor->dims[3].size *
               element_bytes(tensor->type, type);
  }
  return bytes;
}
