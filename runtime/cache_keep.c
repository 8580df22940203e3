/* attn_cache_keep: dropping tokens from the middle of a sequence. Those that stay move towards its
 * begin, in order, so that no token is read after another has taken its place. */
#include "dsl/base/memory.h"
#include "runtime/cache.h"

struct keeping {
  struct attn_cache *cache;
  uint32_t number;
  const int32_t *ranks; /* [sets, count] */
  uint32_t count, sets;
  uint32_t same;   /* so many first tokens stay where they are, in every set */
  uint32_t *pages; /* paged: the new list */
  const struct error_sink *sink;
};

/* ---- what is allowed ---- */

static attn_status check_layout(const struct keeping *k)
{
  const struct attn_cache *cache = k->cache;
  const struct spec *spec = cache->plan->spec;
  if (spec->cache.positions == CACHE_POSITIONS_ORIGINAL)
    return error_report(k->sink, ATTN_ERROR_ARGUMENT,
                        "'%s' finds a token by its position, so that none can be dropped; write "
                        "positions = stored, or slot, into its cache statement",
                        spec->name);
  if (cache->layout == CACHE_RING)
    return error_report(k->sink, ATTN_ERROR_ARGUMENT,
                        "'%s' has a ring, which chooses itself what it keeps", spec->name);
  for (uint32_t n = 0; n < cache->plan->count; n++) {
    const struct cache_array *array = &cache->arrays[n];
    if (array->kind == CACHE_ARRAY_SLOTS && array->tokens != 1)
      return error_report(k->sink, ATTN_ERROR_ARGUMENT,
                          "'%s' has one %s for each %u tokens, which cannot be taken apart",
                          spec->name, array->tensor->name, array->tokens);
    if (array->kind == CACHE_ARRAY_RECENT && array->rows < cache->sequences[k->number].length)
      return error_report(
          k->sink, ATTN_ERROR_ARGUMENT,
          "sequence %u has %u tokens, more than the %u of %s; from then on none can "
          "be dropped",
          k->number, cache->sequences[k->number].length, array->rows, array->tensor->name);
  }
  return ATTN_OK;
}

/* Also finds how many tokens stay. */
static attn_status check_ranks(struct keeping *k)
{
  const int64_t length = k->cache->sequences[k->number].length;
  k->same = k->count;
  for (uint32_t set = 0; set < k->sets; set++) {
    const int32_t *ranks = &k->ranks[(size_t)set * k->count];
    for (uint32_t n = 0; n < k->count; n++) {
      if (ranks[n] < 0 || ranks[n] >= length)
        return error_report(k->sink, ATTN_ERROR_ARGUMENT,
                            "ranks[%u][%u] is %d, but sequence %u has %lld tokens", set, n,
                            ranks[n], k->number, (long long)length);
      if (n != 0 && ranks[n] <= ranks[n - 1])
        return error_report(k->sink, ATTN_ERROR_ARGUMENT,
                            "ranks[%u][%u] is %d after %d; ranks must ascend", set, n, ranks[n],
                            ranks[n - 1]);
      if ((uint32_t)ranks[n] != n && n < k->same)
        k->same = n;
    }
  }
  return ATTN_OK;
}

/* ---- pages ---- */

/* The list after it: pages without a change stay, those that may be written too, others are
 * replaced. Nothing is changed after an error. */
static attn_status choose_pages(struct keeping *k)
{
  struct attn_cache *cache = k->cache;
  const struct cache_sequence *sequence = &cache->sequences[k->number];
  const uint32_t count = cache_pages_of(cache, k->count), changed = k->same / cache->page;
  k->pages = mem_alloc((size_t)count * sizeof(*k->pages));
  if (k->pages == NULL)
    return error_out_of_memory(k->sink);
  uint32_t needed = 0;
  for (uint32_t t = changed; t < count && k->same < k->count; t++)
    needed += !cache_page_is_own(cache, sequence->pages[t]);
  if (needed > cache->free_count)
    return cache_pages_missing(cache, needed, k->sink);
  for (uint32_t t = 0; t < count; t++) {
    const bool stays =
        t < changed || k->same == k->count || cache_page_is_own(cache, sequence->pages[t]);
    k->pages[t] = stays ? sequence->pages[t] : cache_take_page(cache);
  }
  return ATTN_OK;
}

static void give_up_pages(const struct keeping *k)
{
  const struct cache_sequence *sequence = &k->cache->sequences[k->number];
  for (uint32_t t = 0; t < cache_pages_of(k->cache, k->count); t++) {
    if (k->pages[t] != sequence->pages[t])
      cache_drop_page(k->cache, k->pages[t]);
  }
}

static void put_pages(const struct keeping *k)
{
  struct cache_sequence *sequence = &k->cache->sequences[k->number];
  const uint32_t count = cache_pages_of(k->cache, k->count);
  cache_shrink_list(k->cache, sequence, count);
  for (uint32_t t = 0; t < count; t++) {
    if (k->pages[t] != sequence->pages[t])
      cache_drop_page(k->cache, sequence->pages[t]);
    sequence->pages[t] = k->pages[t];
  }
}

/* ---- moving ---- */

static struct cache_place target(const struct keeping *k, uint32_t rank)
{
  if (k->pages == NULL)
    return (struct cache_place){k->number, rank};
  return (struct cache_place){k->pages[rank / k->cache->page], rank % k->cache->page};
}

/* Tokens from the n-th on that lie one after the other, before and after. */
static uint32_t run_length(const struct keeping *k, const int32_t *ranks, uint32_t n)
{
  const uint32_t page = k->cache->page, from = (uint32_t)ranks[n];
  uint32_t most = k->count - n;
  most = most < page - from % page ? most : page - from % page;
  most = most < page - n % page ? most : page - n % page;
  uint32_t run = 1;
  while (run < most && (uint32_t)ranks[n + run] == from + run)
    run++;
  return run;
}

static attn_status move_set(const struct keeping *k, uint32_t storage)
{
  const struct attn_cache *cache = k->cache;
  const int32_t *ranks = &k->ranks[k->sets == 1 ? 0 : (size_t)storage * k->count];
  attn_status status = ATTN_OK;
  /* of a page that is replaced everything is copied */
  uint32_t n = k->same;
  if (k->pages != NULL && n < k->count)
    n -= n % cache->page;
  for (uint32_t run; n < k->count && status == ATTN_OK; n += run) {
    const uint32_t from = (uint32_t)ranks[n];
    run = run_length(k, ranks, n);
    status = cache_copy_tokens(cache, storage, target(k, n), cache_place(cache, k->number, from),
                               run, k->sink);
    if (status == ATTN_OK && cache->overwrites)
      status = cache_move_recent(cache, storage, k->number, n, from, run, k->sink);
  }
  return status;
}

static attn_status move_all(const struct keeping *k)
{
  attn_status status = cache_enter(k->cache, k->sink);
  if (status != ATTN_OK)
    return status;
  for (uint32_t storage = 0; storage < k->cache->storages && status == ATTN_OK; storage++)
    status = move_set(k, storage);
  cache_leave(k->cache);
  return status;
}

/* ---- the whole ---- */

static attn_status keep(struct keeping *k)
{
  struct attn_cache *cache = k->cache;
  struct cache_sequence *sequence = &cache->sequences[k->number];
  attn_status status = cache_check_idle(cache, k->number, "shortened", k->sink);
  if (status == ATTN_OK)
    status = check_layout(k);
  if (status == ATTN_OK)
    status = check_ranks(k);
  if (status != ATTN_OK || k->count == sequence->length)
    return status;
  if (cache->layout == CACHE_PAGED)
    status = choose_pages(k);
  if (status == ATTN_OK) {
    status = move_all(k);
    if (status == ATTN_OK && k->pages != NULL)
      put_pages(k);
    else if (k->pages != NULL)
      give_up_pages(k);
  }
  mem_free(k->pages);
  if (status == ATTN_OK)
    sequence->length = sequence->settled = k->count;
  return status;
}

attn_status attn_cache_keep(attn_cache *cache, attn_sequence handle, const int32_t *ranks,
                            size_t count, size_t sets)
{
  if (cache == NULL)
    return ATTN_ERROR_ARGUMENT;
  const struct error_sink sink = cache_sink(cache);
  if (ranks == NULL && count != 0)
    return error_report(&sink, ATTN_ERROR_ARGUMENT, "ranks is NULL but count is %zu", count);
  if (sets != 1 && sets != cache->storages)
    return error_report(&sink, ATTN_ERROR_ARGUMENT,
                        "sets is %zu; it must be 1, or %u, for each layer that has its own", sets,
                        cache->storages);
  if (count > INT32_MAX)
    return error_report(&sink, ATTN_ERROR_ARGUMENT, "count is %zu, more than a sequence has",
                        count);
  struct keeping keeping = {.cache = cache,
                            .ranks = ranks,
                            .count = (uint32_t)count,
                            .sets = (uint32_t)sets,
                            .sink = &sink};
  pthread_mutex_lock(&cache->lock);
  attn_status status = cache_find(cache, handle, &sink, &keeping.number);
  if (status == ATTN_OK)
    status = keep(&keeping);
  pthread_mutex_unlock(&cache->lock);
  return status;
}
