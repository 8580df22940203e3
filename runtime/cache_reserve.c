/* Room for the new tokens of a batch. */
#include "runtime/cache.h"

/* ---- counting ---- */

static uint32_t pages_after(const struct attn_cache *cache, const struct cache_entry *entry)
{
  return cache_pages_of(cache, cache->sequences[entry->number].length + entry->added);
}

/* Gives the last page up where it may not be written. Sequences of the batch that share a page do
 * so one after the other: the last one may keep it if nobody else has it. Returns the pages that
 * the entry needs. */
static uint64_t claim(struct attn_cache *cache, struct cache_entry *entry)
{
  const struct cache_sequence *sequence = &cache->sequences[entry->number];
  entry->pages_before = sequence->page_count;
  entry->replaced = CACHE_NO_PAGE;
  uint64_t needed = pages_after(cache, entry) - sequence->page_count;
  if (sequence->length % cache->page != 0) {
    const uint32_t last = sequence->pages[sequence->page_count - 1];
    if (!cache_page_is_own(cache, last)) {
      cache->pages[last].owners--;
      entry->replaced = last;
      needed++;
    }
  }
  return needed;
}

static bool appends(const struct cache_entry *entry)
{
  return entry->number != CACHE_NOBODY && entry->added != 0;
}

/* ---- taking ---- */

static void take(struct attn_cache *cache, const struct cache_entry *entry)
{
  struct cache_sequence *sequence = &cache->sequences[entry->number];
  if (entry->replaced != CACHE_NO_PAGE)
    sequence->pages[sequence->page_count - 1] = cache_take_page(cache);
  for (const uint32_t after = pages_after(cache, entry); sequence->page_count < after;)
    sequence->pages[sequence->page_count++] = cache_take_page(cache);
}

static attn_status copy_last_page(const struct attn_cache *cache, const struct cache_entry *entry,
                                  const struct error_sink *sink)
{
  const struct cache_sequence *sequence = &cache->sequences[entry->number];
  if (entry->replaced == CACHE_NO_PAGE)
    return ATTN_OK;
  return cache_copy_block(cache, sequence->pages[entry->pages_before - 1], entry->replaced,
                          sequence->length % cache->page, sink);
}

void cache_unreserve(struct attn_cache *cache, struct attn_cache_batch *batch, size_t count)
{
  for (size_t n = count; n-- > 0 && cache->layout == CACHE_PAGED;) {
    const struct cache_entry *entry = &batch->entries[n];
    if (!appends(entry))
      continue;
    struct cache_sequence *sequence = &cache->sequences[entry->number];
    cache_shrink_list(cache, sequence, entry->pages_before);
    if (entry->replaced == CACHE_NO_PAGE)
      continue;
    uint32_t *last = &sequence->pages[entry->pages_before - 1];
    if (*last != entry->replaced)
      cache_drop_page(cache, *last);
    *last = entry->replaced;
    cache->pages[entry->replaced].owners++;
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
    needed += claim(cache, entry);
    room = cache_reserve_list(&cache->sequences[entry->number], pages_after(cache, entry));
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
      status = copy_last_page(cache, &batch->entries[n], sink);
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
