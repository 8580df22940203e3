/* Batches: sequences that a step reads and appends to, and the tensors for its launches. */
#include "dsl/base/memory.h"
#include "runtime/cache.h"

/* ---- batches to use again ---- */

static void free_batch(struct attn_cache_batch *batch)
{
  cache_free_tables(batch);
  mem_free(batch->entries);
  mem_free(batch->tensors);
  mem_free(batch->named);
  mem_free(batch);
}

void cache_free_batches(struct attn_cache *cache)
{
  while (cache->batches != NULL) {
    struct attn_cache_batch *next = cache->batches->next;
    free_batch(cache->batches);
    cache->batches = next;
  }
}

static struct attn_cache_batch *new_batch(struct attn_cache *cache)
{
  const size_t count = (size_t)cache->storages * cache->plan->count;
  struct attn_cache_batch *batch = mem_alloc_zeroed(1, sizeof(*batch));
  if (batch == NULL)
    return NULL;
  batch->cache = cache;
  batch->tensors = mem_alloc_zeroed(count, sizeof(*batch->tensors));
  batch->named = mem_alloc_zeroed(count, sizeof(*batch->named));
  if (batch->tensors == NULL || batch->named == NULL) {
    free_batch(batch);
    return NULL;
  }
  batch->next = cache->batches;
  cache->batches = batch;
  return batch;
}

static void give_batch(struct attn_cache *cache, struct attn_cache_batch *batch)
{
  batch->open = false;
  batch->next_idle = cache->idle;
  cache->idle = batch;
}

/* With room for `count` entries. */
static struct attn_cache_batch *take_batch(struct attn_cache *cache, size_t count)
{
  struct attn_cache_batch *batch = cache->idle;
  if (batch != NULL)
    cache->idle = batch->next_idle;
  else
    batch = new_batch(cache);
  if (batch == NULL)
    return NULL;
  if (count > batch->entry_capacity) {
    struct cache_entry *entries = mem_realloc(batch->entries, count * sizeof(*entries));
    if (entries == NULL) {
      give_batch(cache, batch);
      return NULL;
    }
    batch->entries = entries;
    batch->entry_capacity = count;
  }
  batch->count = count;
  return batch;
}

/* ---- who may be in it ---- */

static attn_status admit(struct attn_cache *cache, struct attn_cache_batch *batch, size_t place,
                         const struct error_sink *sink)
{
  const struct cache_entry *entry = &batch->entries[place];
  struct cache_sequence *sequence = &cache->sequences[entry->number];
  if (entry->added != 0 && sequence->appender == batch)
    return error_report(sink, ATTN_ERROR_ARGUMENT,
                        "sequence %u is in the batch twice, and appended to", entry->number);
  if (sequence->appender != NULL && (entry->added != 0 || cache->overwrites))
    return cache_check_idle(cache, entry->number, entry->added != 0 ? "appended to" : "read", sink);
  if (sequence->readers != 0 && entry->added != 0 && cache->overwrites)
    return cache_check_idle(cache, entry->number, "appended to", sink);
  if (entry->added != 0)
    sequence->appender = batch;
  else
    sequence->readers++;
  return ATTN_OK;
}

static void dismiss(struct attn_cache *cache, const struct attn_cache_batch *batch, size_t count)
{
  for (size_t n = 0; n < count; n++) {
    const struct cache_entry *entry = &batch->entries[n];
    if (entry->number == CACHE_NOBODY)
      continue;
    if (entry->added != 0)
      cache->sequences[entry->number].appender = NULL;
    else
      cache->sequences[entry->number].readers--;
  }
}

/* Fills the entries and marks their sequences; nothing is marked after an error. */
static attn_status admit_all(struct attn_cache *cache, struct attn_cache_batch *batch,
                             const attn_sequence *sequences, const uint32_t *added,
                             const struct error_sink *sink)
{
  attn_status status = ATTN_OK;
  size_t n = 0;
  for (; n < batch->count; n++) {
    struct cache_entry *entry = &batch->entries[n];
    *entry = (struct cache_entry){.number = CACHE_NOBODY, .added = added == NULL ? 0 : added[n]};
    if (sequences[n] != 0)
      status = cache_find(cache, sequences[n], sink, &entry->number);
    else if (entry->added != 0)
      status = error_report(sink, ATTN_ERROR_ARGUMENT,
                            "sequences[%zu] is 0, which stands for none, but gets %u new tokens", n,
                            entry->added);
    if (status == ATTN_OK && entry->number != CACHE_NOBODY)
      status = admit(cache, batch, n, sink);
    if (status != ATTN_OK)
      break;
  }
  if (status != ATTN_OK)
    dismiss(cache, batch, n);
  return status;
}

/* The row of the first entry and how far the next is, so that the batch's rows are one tensor. */
static attn_status find_rows(const struct attn_cache *cache, const struct attn_cache_batch *batch,
                             const struct error_sink *sink, int64_t *first, int64_t *step)
{
  const int64_t count = (int64_t)batch->count, rows = cache->sequence_count;
  int64_t known = -1;
  *first = 0;
  *step = 1;
  for (int64_t n = 0, steps = 0; n < count; n++) {
    const int64_t number = batch->entries[n].number;
    if (number == CACHE_NOBODY)
      continue;
    if (known < 0) {
      *first = number - n;
    } else if (steps++ == 0) {
      const int64_t from = batch->entries[known].number;
      *step = (number - from) / (n - known);
      *first = from - known * *step;
    }
    known = known < 0 ? n : known;
    if (*step < 1 || *first + n * *step != number)
      return error_report(sink, ATTN_ERROR_ARGUMENT,
                          "the rows of a batch are to be at equal distances, ascending: sequence "
                          "%u is in place %lld; put a 0 where there is none, or begin a batch for "
                          "each",
                          (unsigned)number, (long long)n);
  }
  if (count > 0 && (*first < 0 || *first + (count - 1) * *step >= rows))
    return error_report(sink, ATTN_ERROR_ARGUMENT,
                        "the batch's places would be the rows %lld to %lld, of %lld; leave out "
                        "empty places at its begin and end",
                        (long long)*first, (long long)(*first + (count - 1) * *step),
                        (long long)rows);
  return ATTN_OK;
}

/* ---- beginning ---- */

/* The entries are admitted, and rows found. */
static attn_status prepare(struct attn_cache *cache, struct attn_cache_batch *batch,
                           const struct error_sink *sink)
{
  attn_status status = cache_check_lengths(cache, batch, sink);
  if (status == ATTN_OK)
    status = cache_enter(cache, sink);
  if (status != ATTN_OK)
    return status;
  status = cache_reserve_tables(cache, batch, sink);
  if (status == ATTN_OK)
    status = cache_reserve(cache, batch, sink);
  if (status == ATTN_OK) {
    status = cache_fill_tables(cache, batch, sink);
    if (status != ATTN_OK)
      cache_unreserve(cache, batch, batch->count);
  }
  cache_leave(cache);
  return status;
}

static attn_status begin(struct attn_cache *cache, struct attn_cache_batch *batch,
                         const attn_sequence *sequences, const uint32_t *added,
                         const struct error_sink *sink)
{
  int64_t first = 0, step = 1;
  attn_status status = admit_all(cache, batch, sequences, added, sink);
  if (status != ATTN_OK)
    return status;
  if (cache->has_rows)
    status = find_rows(cache, batch, sink, &first, &step);
  if (status == ATTN_OK)
    status = prepare(cache, batch, sink);
  if (status != ATTN_OK) {
    dismiss(cache, batch, batch->count);
    return status;
  }
  cache_make_tensors(cache, batch, first, step);
  return ATTN_OK;
}

attn_status attn_cache_begin(attn_cache *cache, const attn_sequence *sequences,
                             const uint32_t *new_tokens, size_t count, attn_cache_batch **out)
{
  if (cache == NULL || out == NULL)
    return ATTN_ERROR_ARGUMENT;
  *out = NULL;
  const struct error_sink sink = cache_sink(cache);
  if ((sequences == NULL && count != 0) || count > INT32_MAX)
    return error_report(&sink, ATTN_ERROR_ARGUMENT,
                        count > INT32_MAX ? "a batch of %zu sequences is too large"
                                          : "sequences is NULL but count is %zu",
                        count);
  pthread_mutex_lock(&cache->lock);
  struct attn_cache_batch *batch = take_batch(cache, count);
  attn_status status = batch == NULL ? error_out_of_memory(&sink)
                                     : begin(cache, batch, sequences, new_tokens, &sink);
  if (status == ATTN_OK) {
    batch->open = true;
    cache->open_count++;
    *out = batch;
  } else if (batch != NULL) {
    give_batch(cache, batch);
  }
  pthread_mutex_unlock(&cache->lock);
  return status;
}

attn_status attn_cache_tensors(const attn_cache_batch *batch, uint32_t layer,
                               const attn_named_tensor **tensors, size_t *count)
{
  if (batch == NULL || tensors == NULL || count == NULL)
    return ATTN_ERROR_ARGUMENT;
  *tensors = NULL;
  *count = 0;
  const struct attn_cache *cache = batch->cache;
  const struct error_sink sink = cache_sink(cache);
  if (layer >= cache->layers)
    return error_report(&sink, ATTN_ERROR_ARGUMENT, "layer %u: the cache has %u", layer,
                        cache->layers);
  *count = cache->plan->count;
  *tensors = &batch->named[cache->storage_of[layer] * *count];
  return ATTN_OK;
}

int64_t attn_cache_max_length(const attn_cache_batch *batch)
{
  int32_t most = 0;
  for (size_t n = 0; batch != NULL && n < batch->count; n++)
    most = batch->tables[n] > most ? batch->tables[n] : most;
  return most;
}

static int64_t common_pages(const struct attn_cache_batch *batch, const int32_t *first,
                            const int32_t *other, int64_t tokens)
{
  int64_t pages = tokens / batch->cache->page, n = 0;
  while (n < pages && first[n] == other[n])
    n++;
  return n;
}

int64_t attn_cache_shared_prefix(const attn_cache_batch *batch)
{
  if (batch == NULL || batch->cache->layout != CACHE_PAGED)
    return 0;
  const int32_t *lengths = batch->tables;
  const int32_t *table = lengths + batch->count * (1 + (size_t)batch->cache->stored);
  const int32_t *first = NULL;
  int64_t tokens = 0;
  bool several = false;
  for (size_t n = 0; n < batch->count; n++) {
    const int32_t *own = table + n * batch->width;
    if (lengths[n] == 0)
      continue;
    several |= first != NULL;
    first = first == NULL ? own : first;
    tokens = first == own || lengths[n] < tokens ? lengths[n] : tokens;
    tokens = common_pages(batch, first, own, tokens) * batch->cache->page;
  }
  return several ? tokens : 0;
}

/* ---- ending ---- */

static attn_status finish(struct attn_cache_batch *batch, bool commit)
{
  struct attn_cache *cache = batch->cache;
  const struct error_sink sink = cache_sink(cache);
  pthread_mutex_lock(&cache->lock);
  if (!batch->open) {
    pthread_mutex_unlock(&cache->lock);
    return error_report(&sink, ATTN_ERROR_ARGUMENT, "the batch has ended already");
  }
  cache_unpin_tables(cache, batch);
  for (size_t n = 0; n < batch->count; n++) {
    const struct cache_entry *entry = &batch->entries[n];
    if (entry->number == CACHE_NOBODY || entry->added == 0)
      continue;
    struct cache_sequence *sequence = &cache->sequences[entry->number];
    if (commit) {
      sequence->length += entry->added;
      sequence->seen += entry->added;
    } else if (cache->layout == CACHE_PAGED) { /* pages that were copied stay copies */
      cache_shrink_list(cache, sequence, entry->pages_before);
    }
  }
  dismiss(cache, batch, batch->count);
  cache->open_count--;
  give_batch(cache, batch);
  pthread_mutex_unlock(&cache->lock);
  return ATTN_OK;
}

attn_status attn_cache_end(attn_cache_batch *batch)
{
  return batch == NULL ? ATTN_ERROR_ARGUMENT : finish(batch, true);
}

attn_status attn_cache_cancel(attn_cache_batch *batch)
{
  return batch == NULL ? ATTN_OK : finish(batch, false);
}
