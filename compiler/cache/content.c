#include "compiler/cache/content.h"

static const struct ref_tensor *tensor_of(const struct cache_content *content, uint32_t source,
                                          enum cache_part part)
{
  int32_t n = cache_plan_find(content->plan, source, part);
  return n == CACHE_NONE_SUCH ? NULL : &content->tensors[n];
}

static double load(const struct ref_tensor *tensor, const int64_t *indices)
{
  int64_t at = 0;
  for (uint32_t d = 0; d < tensor->rank; d++)
    at += indices[d] * tensor->stride[d];
  return dtype_load(tensor->type, tensor->data, at);
}

static int64_t count_of(const struct cache_content *content, enum cache_part part, int64_t sequence)
{
  return (int64_t)load(tensor_of(content, EXPR_TENSOR_K, part), &sequence);
}

/* Tokens that the sequence ever had, as far as slots tell them apart. */
static int64_t total_of(const struct cache_content *content, int64_t sequence)
{
  const struct spec *spec = content->plan->spec;
  bool seen = cache_layout(spec) == CACHE_RING && spec->cache.positions == CACHE_POSITIONS_STORED;
  return count_of(content, seen ? CACHE_SEEN : CACHE_LENGTHS, sequence);
}

static bool counts_ranks(const struct spec *spec)
{
  return cache_layout(spec) == CACHE_RING && spec->cache.positions != CACHE_POSITIONS_ORIGINAL;
}

int64_t cache_content_keys(const struct cache_content *content, int64_t sequence)
{
  const struct spec *spec = content->plan->spec;
  int64_t length = count_of(content, CACHE_LENGTHS, sequence);
  int64_t most = cache_ring_tokens(spec);
  return counts_ranks(spec) && length > most ? most : length;
}

/* ---- where ---- */

int64_t cache_content_token(const struct cache_content *content, int64_t sequence, int64_t j)
{
  const struct spec *spec = content->plan->spec;
  int64_t lost = total_of(content, sequence) - cache_ring_tokens(spec);
  return counts_ranks(spec) && lost > 0 && j >= spec->cache.sinks ? j + lost : j;
}

/* False where there is none. */
static bool slot_of(const struct cache_content *content, int64_t sequence, int64_t token,
                    int64_t slot[2])
{
  const struct spec *spec = content->plan->spec;
  slot[0] = sequence;
  slot[1] = token;
  if (cache_layout(spec) == CACHE_RING) {
    int64_t sinks = spec->cache.sinks;
    if (token >= sinks)
      slot[1] = sinks + (token - sinks) % spec->cache.capacity;
    return true;
  }
  const struct ref_tensor *data = tensor_of(content, EXPR_TENSOR_K, CACHE_DATA);
  if (cache_layout(spec) != CACHE_PAGED)
    return token < data->shape[1];
  const struct ref_tensor *table = tensor_of(content, EXPR_TENSOR_K, CACHE_PAGE_TABLE);
  const int64_t entry[] = {sequence, token / spec->cache.page};
  if (entry[1] >= table->shape[1])
    return false;
  slot[0] = (int64_t)load(table, entry);
  slot[1] = token % spec->cache.page;
  return slot[0] >= 0 && slot[0] < data->shape[0];
}

bool cache_content_has(const struct cache_content *content, int64_t sequence, int64_t j)
{
  const struct spec *spec = content->plan->spec;
  int64_t slot[2];
  if (j < 0 || j >= cache_content_keys(content, sequence))
    return false;
  int64_t token = cache_content_token(content, sequence, j);
  bool lost = cache_layout(spec) == CACHE_RING && token >= spec->cache.sinks &&
              token < total_of(content, sequence) - spec->cache.capacity;
  return !lost && slot_of(content, sequence, token, slot);
}

/* ---- elements ---- */

static double scale_of(const struct cache_content *content, uint32_t source, enum cache_part part,
                       const int64_t slot[2], int64_t head, int64_t c)
{
  const struct spec_storage *storage = cache_storage(content->plan->spec, source);
  const struct ref_tensor *tensor = tensor_of(content, source, part);
  int64_t indices[] = {slot[0], slot[1], head, c};
  if (storage->axis == CACHE_AXIS_CHANNEL && storage->group == 0)
    return load(tensor, &indices[2]);
  if (storage->axis == CACHE_AXIS_CHANNEL)
    indices[1] /= storage->group;
  else
    indices[3] = storage->group == 0 ? 0 : c / storage->group;
  return load(tensor, indices);
}

/* Where the residual begins, among `total` tokens. */
static int64_t recent_from(const struct spec_storage *storage, int64_t total)
{
  int64_t residual = storage->residual;
  int64_t from = total - (storage->axis == CACHE_AXIS_CHANNEL ? total % residual : residual);
  return from > 0 ? from : 0;
}

double cache_content_element(const struct cache_content *content, uint32_t source, int64_t sequence,
                             int64_t head, int64_t j, int64_t c)
{
  const struct spec *spec = content->plan->spec;
  const struct spec_storage *storage = cache_storage(spec, source);
  int64_t token = cache_content_token(content, sequence, j),
          channels = cache_channels(spec, source), slot[2];
  slot_of(content, sequence, token, slot);
  if (c >= channels) {
    const int64_t indices[] = {slot[0], slot[1], head, c - channels};
    return load(tensor_of(content, source, CACHE_REST), indices);
  }
  if (storage->residual > 0 && token >= recent_from(storage, total_of(content, sequence))) {
    const int64_t indices[] = {sequence, token % storage->residual, head, c};
    return load(tensor_of(content, source, CACHE_RECENT), indices);
  }
  const int64_t indices[] = {slot[0], slot[1], head, c};
  double x = load(tensor_of(content, source, CACHE_DATA), indices);
  if (!cache_is_quantised(storage))
    return x;
  if (storage->table != 0) {
    int64_t entry = (int64_t)x + (1 << (cache_element_bits(storage->type) - 1));
    x = load(&content->tables[source == EXPR_TENSOR_V], &entry);
  }
  x *= scale_of(content, source, CACHE_SCALE, slot, head, c);
  return storage->asymmetric ? x + scale_of(content, source, CACHE_ZERO, slot, head, c) : x;
}

double cache_content_input(const struct cache_content *content, uint32_t number, int64_t sequence,
                           int64_t j, const int64_t *rest)
{
  int64_t indices[SPEC_MAX_RANK] = {0};
  slot_of(content, sequence, cache_content_token(content, sequence, j), indices);
  for (uint32_t d = 2; d < content->tensors[number].rank; d++)
    indices[d] = rest[d - 2];
  return load(&content->tensors[number], indices);
}
