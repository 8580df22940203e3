/* Room for the new tokens of a batch. */
#include "runtime/cache.h"

/* ---- counting ---- */

static uint32_t pages_after(const struct attn_cache *cache, const struct cache_entry *entry)
{
  return cache_pages_of(cache, cache->sequences[entry->number].length + entry->added);
}

/* Where the list keeps what the entry's rewritten pages were. */
static uint32_t *pages_of_old(const struct attn_cache *cache, const struct cache_entry *entry)
{
  return cache->sequences[entry->number].pages + pages_after(cache, entry);
}

/* Gives up those of the last pages that may not be written: the last one, and those of tokens that
 * leave a residual. Sequences of the batch that share a page do so one after the other: the last
 * one may keep it if nobody else has it. Adds the pages that the entry needs; false when out of
 * memory, with nothing given up. */
static bool claim(struct attn_cache *cache, struct cache_entry *entry, uint64_t *needed)
{
  struct cache_sequence *sequence = &cache->sequences[entry->number];
  const uint32_t length = sequence->length, lag = cache->lag < length ? cache->lag : length;
  const uint32_t rewritten = sequence->page_count - (length - lag) / cache->page;
  entry->pages_before = sequence->page_count;
  if (!cache_reserve_list(sequence, pages_after(cache, entry) + rewritten))
    return false;
  entry->rewritten = rewritten;
  *needed += pages_after(cache, entry) - sequence->page_count;
  uint32_t *old = pages_of_old(cache, entry);
  for (uint32_t n = 0; n < rewritten; n++) {
    const uint32_t page = sequence->pages[entry->pages_before - rewritten + n];
    const bool own = cache_page_is_own(cache, page);
    old[n] = own ? CACHE_NO_PAGE : page;
    if (own)
      continue;
    cache->pages[page].owners--;
    ++*needed;
  }
  return true;
}

static bool appends(const struct cache_entry *entry)
{
  return entry->number != CACHE_NOBODY && entry->added != 0;
}

/* ---- taking ---- */

static void take(struct attn_cache *cache, const struct cache_entry *entry)
{
  struct cache_sequence *sequence = &cache->sequences[entry->number];
  const uint32_t *old = pages_of_old(cache, entry);
  for (uint32_t n = 0; n < entry->rewritten; n++) {
    if (old[n] != CACHE_NO_PAGE)
      sequence->pages[entry->pages_before - entry->rewritten + n] = cache_take_page(cache);
  }
  for (const uint32_t after = pages_after(cache, entry); sequence->page_count < after;)
    sequence->pages[sequence->page_count++] = cache_take_page(cache);
}

static attn_status copy_pages(const struct attn_cache *cache, const struct cache_entry *entry,
                              const struct error_sink *sink)
{
  const struct cache_sequence *sequence = &cache->sequences[entry->number];
  const uint32_t *old = pages_of_old(cache, entry);
  attn_status status = ATTN_OK;
  for (uint32_t n = 0; n < entry->rewritten && status == ATTN_OK; n++) {
    const uint32_t at = entry->pages_before - entry->rewritten + n;
    const uint32_t left = sequence->length - at * cache->page;
    if (old[n] != CACHE_NO_PAGE)
      status = cache_copy_block(cache, sequence->pages[at], old[n],
                                left < cache->page ? left : cache->page, sink);
  }
  return status;
}

void cache_unreserve(struct attn_cache *cache, struct attn_cache_batch *batch, size_t count)
{
  for (size_t n = count; n-- > 0 && cache->layout == CACHE_PAGED;) {
    const struct cache_entry *entry = &batch->entries[n];
    if (!appends(entry))
      continue;
    struct cache_sequence *sequence = &cache->sequences[entry->number];
    const uint32_t *old = pages_of_old(cache, entry);
    cache_shrink_list(cache, sequence, entry->pages_before);
    for (uint32_t k = 0; k < entry->rewritten; k++) {
      uint32_t *page = &sequence->pages[entry->pages_before - entry->rewritten + k];
      if (old[k] == CACHE_NO_PAGE)
        continue;
      if (*page != old[k])
        cache_drop_page(cache, *page);
      *page = old[k];
      cache->pages[old[k]].owners++;
    }
  }
}

attn_status cache_reserve(struct attn_cache *cache, struct attn_cache_batch *batch,
                          const struct error_sink *sink)
{
  attn_status status = ATTN_OK;
  uint64_t needed = 0;
  size_t claimed = 0;
  bool room = true;
  if (cache->layout != CACHE_PAGED)
    return ATTN_OK;
  for (; claimed < batch->count && room; claimed++) {
    struct cache_entry *entry = &batch->entries[claimed];
    if (!appends(entry))
      continue;
    room = claim(cache, entry, &needed);
  }
  if (!room)
    status = error_out_of_memory(sink);
  else if (needed > cache->free_count)
    status = cache_pages_missing(cache, needed, sink);
  for (size_t n = 0; n < batch->count && status == ATTN_OK; n++) {
    if (appends(&batch->entries[n]))
      take(cache, &batch->entries[n]);
  }
  for (size_t n = 0; n < batch->count && status == ATTN_OK; n++) {
    if (appends(&batch->entries[n]))
      status = copy_pages(cache, &batch->entries[n], sink);
  }
  if (status != ATTN_OK)
    cache_unreserve(cache, batch, claimed);
  return status;
}

attn_status cache_check_lengths(const struct attn_cache *cache,
                                const struct attn_cache_batch *batch, const struct error_sink *sink)
{
  const uint32_t most = cache->layout == CACHE_DENSE ? cache->page : INT32_MAX;
  for (size_t n = 0; n < batch->count; n++) {
    const struct cache_entry *entry = &batch->entries[n];
    if (!appends(entry))
      continue;
    const struct cache_sequence *sequence = &cache->sequences[entry->number];
    if (entry->added > most - sequence->length || entry->added > INT32_MAX - sequence->seen)
      return error_report(sink, ATTN_ERROR_OUT_OF_MEMORY,
                          "sequence %u has %u tokens, and %u more do not fit: the most is %u",
                          entry->number, sequence->length, entry->added, most);
  }
  return ATTN_OK;
}
