/* Copying tokens in a cache's memory. */
#include "runtime/cache.h"
#include "runtime/cuda_device.h"

#include <assert.h>
#include <string.h>

attn_status cache_enter(const struct attn_cache *cache, const struct error_sink *sink)
{
  const struct cuda_device *device = cache->context->device;
  return device == NULL ? ATTN_OK : cuda_enter(device, sink);
}

void cache_leave(const struct attn_cache *cache)
{
  if (cache->context->device != NULL)
    cuda_leave();
}

/* The two may overlap where `to` is before `from`. */
static attn_status copy(const struct attn_cache *cache, unsigned char *to,
                        const unsigned char *from, size_t bytes, const struct error_sink *sink)
{
  if (cache->context->device == NULL) {
    memmove(to, from, bytes);
    return ATTN_OK;
  }
  /* The driver does not say what a copy onto itself does: in pieces that do not overlap. */
  const size_t distance = (size_t)(from - to);
  const size_t most = to < from && distance < bytes ? distance : bytes;
  cuda_result result = CUDA_OK;
  for (size_t done = 0; done < bytes && result == CUDA_OK; done += most) {
    const size_t piece = bytes - done < most ? bytes - done : most;
    result = cuda.copy((cuda_address)(uintptr_t)(to + done), (cuda_address)(uintptr_t)(from + done),
                       piece, cache->stream);
  }
  return cuda_check(sink, result, "move what is in a cache");
}

static unsigned char *address(const struct attn_cache *cache, const struct cache_array *array,
                              uint32_t storage, uint32_t block, uint32_t head, uint32_t row)
{
  return cache->memory + storage * cache->storage_size + array->offset + block * array->block +
         ((size_t)head * array->rows + row) * array->row;
}

/* `count` rows of an array. */
static attn_status copy_rows(const struct attn_cache *cache, const struct cache_array *array,
                             uint32_t storage, struct cache_place to, struct cache_place from,
                             uint32_t count, const struct error_sink *sink)
{
  if (to.block == from.block && to.slot == from.slot)
    return ATTN_OK;
  const bool whole = count == array->rows;
  const uint32_t pieces = whole ? 1 : array->heads;
  const size_t bytes = whole ? array->block : count * array->row;
  attn_status status = ATTN_OK;
  for (uint32_t head = 0; head < pieces && status == ATTN_OK; head++)
    status = copy(cache, address(cache, array, storage, to.block, head, to.slot),
                  address(cache, array, storage, from.block, head, from.slot), bytes, sink);
  return status;
}

attn_status cache_copy_tokens(const struct attn_cache *cache, uint32_t storage,
                              struct cache_place to, struct cache_place from, uint32_t count,
                              const struct error_sink *sink)
{
  attn_status status = ATTN_OK;
  for (uint32_t n = 0; n < cache->plan->count && status == ATTN_OK && count != 0; n++) {
    const struct cache_array *array = &cache->arrays[n];
    if (array->kind != CACHE_ARRAY_SLOTS)
      continue;
    assert(array->tokens == 1 || (to.slot == 0 && from.slot == 0));
    const uint32_t rows = (count - 1) / array->tokens + 1;
    status = copy_rows(cache, array, storage, to, from, rows, sink);
  }
  return status;
}

attn_status cache_copy_block(const struct attn_cache *cache, uint32_t to, uint32_t from,
                             uint32_t count, const struct error_sink *sink)
{
  const struct cache_place begin_to = {to, 0}, begin_from = {from, 0};
  attn_status status = ATTN_OK;
  for (uint32_t storage = 0; storage < cache->storages && status == ATTN_OK; storage++)
    status = cache_copy_tokens(cache, storage, begin_to, begin_from, count, sink);
  return status;
}

/* ---- residuals ---- */

attn_status cache_move_recent(const struct attn_cache *cache, uint32_t storage, uint32_t number,
                              uint32_t to, uint32_t from, uint32_t count,
                              const struct error_sink *sink)
{
  attn_status status = ATTN_OK;
  for (uint32_t n = 0; n < cache->plan->count && status == ATTN_OK; n++) {
    const struct cache_array *array = &cache->arrays[n];
    if (array->kind == CACHE_ARRAY_RECENT)
      status = copy_rows(cache, array, storage, (struct cache_place){number, to},
                         (struct cache_place){number, from}, count, sink);
  }
  return status;
}

attn_status cache_copy_recent(const struct attn_cache *cache, uint32_t to, uint32_t from,
                              const struct error_sink *sink)
{
  attn_status status = ATTN_OK;
  for (uint32_t storage = 0; storage < cache->storages; storage++) {
    for (uint32_t n = 0; n < cache->plan->count && status == ATTN_OK; n++) {
      const struct cache_array *array = &cache->arrays[n];
      if (array->kind == CACHE_ARRAY_RECENT)
        status = copy_rows(cache, array, storage, (struct cache_place){to, 0},
                           (struct cache_place){from, 0}, array->rows, sink);
    }
  }
  return status;
}

/* ---- places ---- */

struct cache_place cache_place(const struct attn_cache *cache, uint32_t number, uint32_t rank)
{
  const struct spec_cache *layout = &cache->plan->spec->cache;
  switch (cache->layout) {
  case CACHE_PAGED:
    return (struct cache_place){cache->sequences[number].pages[rank / cache->page],
                                rank % cache->page};
  case CACHE_RING:
    if (rank >= layout->sinks)
      rank = layout->sinks + (rank - layout->sinks) % layout->capacity;
    break;
  case CACHE_NONE:
  case CACHE_RAGGED:
  case CACHE_DENSE: break;
  }
  return (struct cache_place){number, rank};
}
