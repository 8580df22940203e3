#include "runtime/attnc/cost.h"

#include <math.h>

enum { SCALE_BYTES = 2 };

double cost_pair_flops(const struct spec *spec)
{
  return 2.0 * spec->dim_qk * spec->map_count + 2.0 * spec->dim_v;
}

/* Bytes of a tensor of a workload, which need not be there. */
static bool add_tensor(const struct workload *workload, enum workload_role role, uint32_t number,
                       double *bytes)
{
  struct workload_shape shape;
  if (!workload_shape(workload, role, number, &shape))
    return false;
  double count = (double)tensor_dtype_size(shape.dtype);
  for (int d = 0; d < shape.ndim; d++)
    count *= (double)shape.dims[d];
  *bytes += count;
  return true;
}

bool cost_of_call(const struct workload *workload, const struct tile_counts *counts,
                  const struct tile_size *size, uint32_t share, struct cost *cost)
{
  const struct spec *spec = workload->spec;
  double rows = 0; /* of q and o */
  *cost = (struct cost){0};
  bool good = add_tensor(workload, WORKLOAD_Q, 0, &rows);
  good = good && add_tensor(workload, WORKLOAD_O, 0, &rows);
  cost->tensor_bytes = rows;
  good = good && add_tensor(workload, WORKLOAD_K, 0, &cost->tensor_bytes);
  if (!spec->value_is_key)
    good = good && add_tensor(workload, WORKLOAD_V, 0, &cost->tensor_bytes);
  for (uint32_t n = 0; n < spec->input_count && good; n++)
    good = add_tensor(workload, WORKLOAD_INPUT, n, &cost->tensor_bytes);
  for (uint32_t n = 0; n < spec->output_count && good; n++)
    good = add_tensor(workload, WORKLOAD_OUTPUT, n, &cost->tensor_bytes);
  double flops = cost_pair_flops(spec);
  cost->flops = flops * counts->computed;
  cost->dense_flops = flops * counts->pairs;
  /* A tile of `rows` queries reads each of its keys once for all of these and the heads it packs.
   */
  double channels = spec->dim_qk + (spec->value_is_key ? 0.0 : spec->dim_v);
  double height = fmin((double)size->rows, fmax(1, (double)workload->queries)) * share;
  double key = channels * (double)dtype_size(workload->type);
  cost->tile_bytes = rows + counts->computed / height * key;
  cost->dense_tile_bytes = rows + counts->pairs / height * key;
  return good;
}

/* ---- the cache ---- */

static double type_bits(enum dtype wanted, enum dtype type)
{
  switch (wanted) {
  case DTYPE_I4: return 4;
  case DTYPE_I2: return 2;
  case DTYPE_I8:
  case DTYPE_E4M3:
  case DTYPE_E5M2: return 8;
  case DTYPE_ANY:
  case DTYPE_SPEC: return 8 * (double)dtype_size(type);
  case DTYPE_F32:
  case DTYPE_F16:
  case DTYPE_BF16:
  case DTYPE_I32:
  case DTYPE_I64:
  case DTYPE_U8:
  case DTYPE_BOOL:
  case DTYPE_COUNT: break;
  }
  return 8 * (double)dtype_size(wanted);
}

static bool is_quantised(enum dtype type)
{
  return type == DTYPE_I8 || type == DTYPE_I4 || type == DTYPE_I2 || type == DTYPE_E4M3 ||
         type == DTYPE_E5M2;
}

/* Of one token and head. */
static double side_bytes(const struct spec_storage *storage, double channels, enum dtype type)
{
  double bytes = channels * type_bits(storage->type, type) / 8;
  if (!is_quantised(storage->type))
    return bytes;
  double scales = 0; /* a token */
  if (storage->group != 0)
    scales = channels / storage->group;
  else if (storage->axis == CACHE_AXIS_TOKEN)
    scales = 1;
  return bytes + scales * SCALE_BYTES * (storage->asymmetric ? 2 : 1);
}

/* Elements of a `cached` input that belong to one token. */
static double input_bytes(const struct spec *spec, const struct spec_input *input, enum dtype type)
{
  double count = 1;
  for (uint32_t d = 0; d < input->rank; d++) {
    const struct spec_dim *dim = &input->dims[d];
    switch (dim->kind) {
    case DIM_H: count *= spec->query_heads; break;
    case DIM_G: count *= spec->kv_heads; break;
    case DIM_D: count *= spec->dim_qk; break;
    case DIM_DV: count *= spec->dim_v; break;
    case DIM_EXPR:
      if (expr_is_const(dim->size))
        count *= (double)dim->size->value.i;
      break;
    case DIM_B:
    case DIM_NQ:
    case DIM_NK: break;
    }
  }
  return count * type_bits(input->type, type) / 8;
}

static double token_bytes(const struct spec *spec, const struct spec_storage *k,
                          const struct spec_storage *v, enum dtype type)
{
  double bytes = spec->kv_heads * side_bytes(k, spec->dim_qk, type);
  if (!spec->value_is_key)
    bytes += spec->kv_heads * side_bytes(v, spec->dim_v, type);
  for (uint32_t n = 0; n < spec->input_count; n++)
    if (spec->inputs[n].cached)
      bytes += input_bytes(spec, &spec->inputs[n], type);
  return bytes;
}

static const struct spec_storage plain = {.type = DTYPE_SPEC};

static const struct spec_storage *stored(const struct spec *spec, const struct spec_storage *side)
{
  return spec->cache.layout == CACHE_NONE ? &plain : side;
}

double cost_token_bytes(const struct spec *spec, enum dtype type)
{
  return token_bytes(spec, stored(spec, &spec->cache.k), stored(spec, &spec->cache.v), type);
}

double cost_residual_token_bytes(const struct spec *spec, enum dtype type)
{
  return token_bytes(spec, &plain, &plain, type);
}

/* K or V of `tokens` tokens, the newest of them unquantised. */
static double side_context(const struct spec_storage *storage, double channels, enum dtype type,
                           double tokens)
{
  double newest = is_quantised(storage->type) ? fmin(tokens, storage->residual) : 0;
  return newest * side_bytes(&plain, channels, type) +
         (tokens - newest) * side_bytes(storage, channels, type);
}

double cost_context_bytes(const struct spec *spec, enum dtype type, uint64_t tokens)
{
  const struct spec_cache *cache = &spec->cache;
  double held = (double)tokens;
  if (cache->layout == CACHE_PAGED)
    held = ceil(held / cache->page) * cache->page;
  if (cache->layout == CACHE_RING)
    held = fmin(held, (double)cache->capacity + cache->sinks);
  double bytes = spec->kv_heads * side_context(stored(spec, &cache->k), spec->dim_qk, type, held);
  if (!spec->value_is_key)
    bytes += spec->kv_heads * side_context(stored(spec, &cache->v), spec->dim_v, type, held);
  for (uint32_t n = 0; n < spec->input_count; n++)
    if (spec->inputs[n].cached)
      bytes += held * input_bytes(spec, &spec->inputs[n], type);
  return bytes;
}
