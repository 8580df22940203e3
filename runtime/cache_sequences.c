/* Sequences of a cache: their handles, and what is done to one outside of batches. */
#include "runtime/cache.h"

/* ---- handles ---- */

static attn_sequence handle_of(const struct attn_cache *cache, uint32_t number)
{
  return (uint64_t)cache->sequences[number].generation << 32 | number;
}

attn_status cache_find(const struct attn_cache *cache, attn_sequence handle,
                       const struct error_sink *sink, uint32_t *number)
{
  const uint32_t generation = (uint32_t)(handle >> 32);
  *number = (uint32_t)handle;
  if (generation == 0 || *number >= cache->sequence_count)
    return error_report(sink, ATTN_ERROR_ARGUMENT,
                        "%#llx is no sequence; sequences come from attn_cache_add and _fork",
                        (unsigned long long)handle);
  const struct cache_sequence *sequence = &cache->sequences[*number];
  if (sequence->used && sequence->generation == generation)
    return ATTN_OK;
  return error_report(sink, ATTN_ERROR_ARGUMENT, "sequence %u was released%s", *number,
                      sequence->used ? "; the number is another one's now" : "");
}

attn_status cache_check_idle(const struct attn_cache *cache, uint32_t number, const char *what,
                             const struct error_sink *sink)
{
  const struct cache_sequence *sequence = &cache->sequences[number];
  if (sequence->appender != NULL)
    return error_report(sink, ATTN_ERROR_ARGUMENT,
                        "sequence %u cannot be %s: a batch that has not ended appends to it",
                        number, what);
  if (sequence->readers != 0)
    return error_report(
        sink, ATTN_ERROR_ARGUMENT,
        "sequence %u cannot be %s: it is read in %u open batch%s, which must end first", number,
        what, sequence->readers, sequence->readers == 1 ? "" : "es");
  return ATTN_OK;
}

/* The first number that is free. */
static attn_status find_free(const struct attn_cache *cache, const struct error_sink *sink,
                             uint32_t *number)
{
  for (*number = cache->first_free; *number < cache->sequence_count; (*number)++) {
    if (!cache->sequences[*number].used)
      return ATTN_OK;
  }
  return error_report(sink, ATTN_ERROR_OUT_OF_MEMORY,
                      "all %u sequences of the cache are in use; release one",
                      cache->sequence_count);
}

static void open_sequence(struct attn_cache *cache, uint32_t number)
{
  struct cache_sequence *sequence = &cache->sequences[number];
  cache->first_free = number + 1;
  sequence->used = true;
  sequence->length = sequence->seen = sequence->settled = 0;
}

attn_status attn_cache_add(attn_cache *cache, attn_sequence *handle)
{
  if (cache == NULL || handle == NULL)
    return ATTN_ERROR_ARGUMENT;
  *handle = 0;
  const struct error_sink sink = cache_sink(cache);
  uint32_t number;
  pthread_mutex_lock(&cache->lock);
  attn_status status = find_free(cache, &sink, &number);
  if (status == ATTN_OK) {
    open_sequence(cache, number);
    *handle = handle_of(cache, number);
  }
  pthread_mutex_unlock(&cache->lock);
  return status;
}

attn_status attn_cache_length(attn_cache *cache, attn_sequence handle, uint64_t *length)
{
  if (cache == NULL || length == NULL)
    return ATTN_ERROR_ARGUMENT;
  *length = 0;
  const struct error_sink sink = cache_sink(cache);
  uint32_t number;
  pthread_mutex_lock(&cache->lock);
  attn_status status = cache_find(cache, handle, &sink, &number);
  if (status == ATTN_OK)
    *length = cache->sequences[number].length;
  pthread_mutex_unlock(&cache->lock);
  return status;
}

/* ---- forking ---- */

static void share_pages(struct attn_cache *cache, const struct cache_sequence *from,
                        struct cache_sequence *to)
{
  for (uint32_t t = 0; t < from->page_count; t++) {
    to->pages[t] = from->pages[t];
    cache->pages[from->pages[t]].owners++;
  }
  to->page_count = from->page_count;
}

static attn_status copy_rows(const struct attn_cache *cache, uint32_t to, uint32_t from,
                             const struct error_sink *sink)
{
  const uint32_t length = cache->sequences[from].length;
  attn_status status = cache_enter(cache, sink);
  if (status != ATTN_OK)
    return status;
  if (cache->layout != CACHE_PAGED)
    status = cache_copy_block(cache, to, from, length < cache->page ? length : cache->page, sink);
  if (status == ATTN_OK)
    status = cache_copy_recent(cache, to, from, sink);
  cache_leave(cache);
  return status;
}

static attn_status fork_sequence(struct attn_cache *cache, attn_sequence handle,
                                 attn_sequence *fork, const struct error_sink *sink)
{
  uint32_t number, made;
  attn_status status = cache_find(cache, handle, sink, &number);
  if (status == ATTN_OK && cache->sequences[number].appender != NULL)
    status = cache_check_idle(cache, number, "forked", sink);
  if (status == ATTN_OK)
    status = find_free(cache, sink, &made);
  if (status != ATTN_OK)
    return status;
  const struct cache_sequence *from = &cache->sequences[number];
  struct cache_sequence *to = &cache->sequences[made];
  if (!cache_reserve_list(to, from->page_count))
    return error_out_of_memory(sink);
  if (cache->has_rows)
    status = copy_rows(cache, made, number, sink);
  if (status != ATTN_OK)
    return status;
  open_sequence(cache, made);
  to->length = from->length;
  to->seen = from->seen;
  to->settled = from->settled;
  share_pages(cache, from, to);
  *fork = handle_of(cache, made);
  return ATTN_OK;
}

attn_status attn_cache_fork(attn_cache *cache, attn_sequence handle, attn_sequence *fork)
{
  if (cache == NULL || fork == NULL)
    return ATTN_ERROR_ARGUMENT;
  *fork = 0;
  const struct error_sink sink = cache_sink(cache);
  pthread_mutex_lock(&cache->lock);
  attn_status status = fork_sequence(cache, handle, fork, &sink);
  pthread_mutex_unlock(&cache->lock);
  return status;
}

/* ---- shrinking ---- */

attn_status attn_cache_release(attn_cache *cache, attn_sequence handle)
{
  if (cache == NULL)
    return ATTN_ERROR_ARGUMENT;
  const struct error_sink sink = cache_sink(cache);
  uint32_t number;
  pthread_mutex_lock(&cache->lock);
  attn_status status = cache_find(cache, handle, &sink, &number);
  if (status == ATTN_OK)
    status = cache_check_idle(cache, number, "released", &sink);
  if (status == ATTN_OK) {
    struct cache_sequence *sequence = &cache->sequences[number];
    cache_shrink_list(cache, sequence, 0);
    sequence->used = false;
    if (number < cache->first_free)
      cache->first_free = number;
    sequence->length = 0;
    sequence->generation += sequence->generation == UINT32_MAX ? 2 : 1; /* 0 is no sequence's */
  }
  pthread_mutex_unlock(&cache->lock);
  return status;
}

/* Whether k or v, with a residual, would have unquantised tokens that are quantised by now. Which
 * ones those are: docs/caches.md, Storage. */
static bool residual_is_gone(const struct spec_storage *storage, uint32_t before, uint32_t after)
{
  const uint32_t residual = storage->residual;
  if (residual == 0 || before <= residual - (storage->axis == CACHE_AXIS_CHANNEL))
    return false;
  return storage->axis == CACHE_AXIS_TOKEN ||
         (after % residual != 0 && after / residual != before / residual);
}

static attn_status check_truncate(const struct attn_cache *cache, uint32_t number, uint32_t after,
                                  const struct error_sink *sink)
{
  const struct spec *spec = cache->plan->spec;
  const struct cache_sequence *sequence = &cache->sequences[number];
  const uint32_t before = sequence->length;
  if (after == 0 || after == before)
    return ATTN_OK;
  if (cache->layout == CACHE_RING && before > cache->page && after > spec->cache.sinks)
    return error_report(sink, ATTN_ERROR_ARGUMENT,
                        "sequence %u cannot be truncated from %u tokens to %u: the ring has "
                        "written over some of them",
                        number, before, after);
  for (uint32_t source = EXPR_TENSOR_K; source <= EXPR_TENSOR_V; source++) {
    const struct spec_storage *storage = cache_storage(spec, source);
    if (storage != NULL && residual_is_gone(storage, before, after))
      return error_report(sink, ATTN_ERROR_ARGUMENT,
                          "sequence %u cannot be truncated from %u tokens to %u: %s keeps the "
                          "newest as they are (residual = %u), and those are quantised already",
                          number, before, after, source == EXPR_TENSOR_K ? "k" : "v",
                          storage->residual);
  }
  if (cache->stored && after < sequence->settled)
    return error_report(sink, ATTN_ERROR_ARGUMENT,
                        "sequence %u cannot be truncated from %u tokens to %u: the first %u were "
                        "chosen by attn_cache_keep",
                        number, before, after, sequence->settled);
  return ATTN_OK;
}

static attn_status truncate_sequence(struct attn_cache *cache, attn_sequence handle,
                                     uint64_t length, const struct error_sink *sink)
{
  uint32_t number;
  attn_status status = cache_find(cache, handle, sink, &number);
  if (status == ATTN_OK)
    status = cache_check_idle(cache, number, "truncated", sink);
  if (status != ATTN_OK)
    return status;
  struct cache_sequence *sequence = &cache->sequences[number];
  if (length > sequence->length)
    return error_report(sink, ATTN_ERROR_ARGUMENT,
                        "sequence %u has %u tokens and cannot be truncated to %llu", number,
                        sequence->length, (unsigned long long)length);
  status = check_truncate(cache, number, (uint32_t)length, sink);
  if (status != ATTN_OK)
    return status;
  sequence->seen -= sequence->length - (uint32_t)length;
  sequence->length = (uint32_t)length;
  if (length == 0)
    sequence->seen = sequence->settled = 0;
  if (cache->layout == CACHE_PAGED)
    cache_shrink_list(cache, sequence, cache_pages_of(cache, (uint32_t)length));
  return ATTN_OK;
}

attn_status attn_cache_truncate(attn_cache *cache, attn_sequence handle, uint64_t length)
{
  if (cache == NULL)
    return ATTN_ERROR_ARGUMENT;
  const struct error_sink sink = cache_sink(cache);
  pthread_mutex_lock(&cache->lock);
  attn_status status = truncate_sequence(cache, handle, length, &sink);
  pthread_mutex_unlock(&cache->lock);
  return status;
}
