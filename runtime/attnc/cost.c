#include "runtime/attnc/cost.h"

#include <math.h>

#include "compiler/cache/plan.h"

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

double cost_token_bytes(const struct spec *spec, enum dtype type)
{
  struct cache_plan plan;
  cache_plan_init(&plan, spec);
  return cache_token_bytes(&plan, type);
}

double cost_context_bytes(const struct spec *spec, enum dtype type, uint64_t tokens)
{
  struct cache_plan plan;
  double held = (double)tokens, page = spec->cache.page, ring = cache_ring_tokens(spec);
  cache_plan_init(&plan, spec);
  if (cache_layout(spec) == CACHE_PAGED)
    held = ceil(held / page) * page;
  if (ring > 0)
    held = fmin(held, ring);
  return held * cache_token_bytes(&plan, type) + cache_sequence_bytes(&plan, type);
}
