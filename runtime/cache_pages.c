/* Which pages are free, and the lists of pages of sequences. A page is free while no sequence owns
 * it and no batch has pinned it. */
#include "dsl/base/memory.h"
#include "runtime/cache.h"

#include <assert.h>

uint32_t cache_pages_of(const struct attn_cache *cache, uint32_t tokens)
{
  return tokens / cache->page + (tokens % cache->page != 0);
}

uint32_t cache_take_page(struct attn_cache *cache)
{
  assert(cache->free_count > 0);
  const uint32_t page = cache->free_pages[--cache->free_count];
  cache->pages[page].owners = 1;
  return page;
}

static void free_unused(struct attn_cache *cache, uint32_t page)
{
  if (cache->pages[page].owners == 0 && cache->pages[page].pins == 0)
    cache->free_pages[cache->free_count++] = page;
}

void cache_drop_page(struct attn_cache *cache, uint32_t page)
{
  cache->pages[page].owners--;
  free_unused(cache, page);
}

void cache_pin_page(struct attn_cache *cache, uint32_t page)
{
  cache->pages[page].pins++;
}

void cache_unpin_page(struct attn_cache *cache, uint32_t page)
{
  cache->pages[page].pins--;
  free_unused(cache, page);
}

bool cache_reserve_list(struct cache_sequence *sequence, uint32_t count)
{
  if (count <= sequence->page_capacity)
    return true;
  const uint32_t capacity = count < 8 ? 8 : count + count / 2;
  uint32_t *pages = mem_realloc(sequence->pages, (size_t)capacity * sizeof(*pages));
  if (pages == NULL)
    return false;
  sequence->pages = pages;
  sequence->page_capacity = capacity;
  return true;
}

void cache_shrink_list(struct attn_cache *cache, struct cache_sequence *sequence, uint32_t count)
{
  while (sequence->page_count > count)
    cache_drop_page(cache, sequence->pages[--sequence->page_count]);
}

attn_status cache_pages_missing(const struct attn_cache *cache, uint64_t needed,
                                const struct error_sink *sink)
{
  return error_report(sink, ATTN_ERROR_OUT_OF_MEMORY,
                      "%llu pages are missing: %llu are needed, and of the cache's %u are free %u",
                      (unsigned long long)(needed - cache->free_count), (unsigned long long)needed,
                      cache->page_count, cache->free_count);
}

/* ---- compacting ---- */

/* Moves the last pages in use into the first free ones; moved[page] becomes where it is then. */
static attn_status move_down(struct attn_cache *cache, uint32_t *moved,
                             const struct error_sink *sink)
{
  uint32_t low = 0, high = cache->page_count;
  attn_status status = cache_enter(cache, sink);
  if (status != ATTN_OK)
    return status;
  for (;;) {
    while (low < high && cache->pages[low].owners != 0)
      low++;
    while (low < high && cache->pages[high - 1].owners == 0)
      high--;
    if (low >= high)
      break;
    status = cache_copy_block(cache, low, high - 1, cache->page, sink);
    if (status != ATTN_OK)
      break;
    cache->pages[low] = cache->pages[high - 1];
    cache->pages[high - 1].owners = 0;
    moved[high - 1] = low;
  }
  cache_leave(cache);
  return status;
}

static attn_status compact(struct attn_cache *cache, const struct error_sink *sink)
{
  if (cache->open_count != 0)
    return error_report(sink, ATTN_ERROR_ARGUMENT,
                        "the cache cannot be compacted: %u batches have not ended",
                        cache->open_count);
  if (cache->layout != CACHE_PAGED)
    return ATTN_OK;
  uint32_t *moved = mem_alloc((size_t)cache->page_count * sizeof(*moved));
  if (moved == NULL)
    return error_out_of_memory(sink);
  for (uint32_t page = 0; page < cache->page_count; page++)
    moved[page] = page;
  attn_status status = move_down(cache, moved, sink);
  for (uint32_t n = 0; n < cache->sequence_count; n++) {
    struct cache_sequence *sequence = &cache->sequences[n];
    for (uint32_t t = 0; t < sequence->page_count; t++)
      sequence->pages[t] = moved[sequence->pages[t]];
  }
  cache->free_count = 0;
  for (uint32_t page = cache->page_count; page-- > 0;)
    free_unused(cache, page);
  mem_free(moved);
  return status;
}

attn_status attn_cache_compact(attn_cache *cache)
{
  if (cache == NULL)
    return ATTN_ERROR_ARGUMENT;
  const struct error_sink sink = cache_sink(cache);
  pthread_mutex_lock(&cache->lock);
  attn_status status = compact(cache, &sink);
  pthread_mutex_unlock(&cache->lock);
  return status;
}
