/* The cache manager: handles, what is refused while a batch is open, pages that are shared, what
 * can be dropped and truncated, memory that runs out, several threads, a device that fails. */
#include "tests/unit/cache_world.h"

#include "runtime/cuda_api.h"

#include <dlfcn.h>
#include <pthread.h>

/* ---- handles and states ---- */

START_TEST(released_handles)
{
  struct world w;
  open_paged(&w, 2, 8);
  const attn_sequence first = added(&w), second = added(&w);
  attn_sequence third;
  ck_assert_uint_eq((uint32_t)first, 0);
  ck_assert_uint_eq((uint32_t)second, 1);
  ck_assert_int_eq(attn_cache_add(w.cache, &third), ATTN_ERROR_OUT_OF_MEMORY);
  error_of(w.context);
  ASSERT_SAYS("all 2 sequences of the cache are in use; release one");
  ck_assert_int_eq(attn_cache_release(w.cache, second), ATTN_OK);
  REFUSED(&w, attn_cache_release(w.cache, second), "sequence 1 was released");
  third = added(&w);
  ck_assert_uint_eq((uint32_t)third, 1);
  uint64_t length = 1;
  REFUSED(&w, attn_cache_length(w.cache, second, &length),
          "sequence 1 was released; the number is another one's now");
  ck_assert_uint_eq(length, 0);
  attn_cache_batch *batch;
  REFUSED(&w, attn_cache_begin(w.cache, &second, NULL, 1, &batch), "sequence 1 was released");
  REFUSED(&w, attn_cache_truncate(w.cache, 0, 0), "0 is no sequence");
  REFUSED(&w, attn_cache_truncate(w.cache, UINT64_C(1) << 32 | 9, 0), "0x100000009 is no sequence");
  REFUSED(&w, attn_cache_truncate(w.cache, third, 1), "sequence 1 has 0 tokens");
  REFUSED(&w, attn_cache_begin(w.cache, NULL, NULL, 1, &batch), "sequences is NULL but count is 1");
  world_close(&w);
}
END_TEST

/* The table of cache.h, with what is said. */
START_TEST(in_a_batch)
{
  static const char *const statements[] = {paged, "cache ring(capacity = 4, sinks = 1)"};
  for (int overwrites = 0; overwrites < 2; overwrites++) {
    struct world w;
    const attn_cache_options options = options_with(2, 32);
    world_open(&w, "cpu", statements[overwrites], &options);
    const attn_sequence s = added(&w);
    attn_sequence fork;
    attn_cache_batch *reading, *other;
    const uint32_t one = 1, both[] = {1, 1};
    append(&w, s, 2, 1);

    ck_assert_int_eq(attn_cache_begin(w.cache, &s, NULL, 1, &reading), ATTN_OK);
    ck_assert_int_eq(attn_cache_begin(w.cache, &s, NULL, 1, &other), ATTN_OK);
    REFUSED(&w, attn_cache_truncate(w.cache, s, 1),
            "sequence 0 cannot be truncated: it is read in 2 open batches");
    ck_assert_int_eq(attn_cache_end(other), ATTN_OK);
    REFUSED(&w, attn_cache_release(w.cache, s),
            "sequence 0 cannot be released: it is read in 1 open batch,");
    REFUSED(&w, attn_cache_keep(w.cache, s, NULL, 0, 1), "sequence 0 cannot be shortened");
    REFUSED(&w, attn_cache_compact(w.cache), "cannot be compacted: 1 batch");
    ck_assert_int_eq(attn_cache_fork(w.cache, s, &fork), ATTN_OK);
    ck_assert_int_eq(attn_cache_release(w.cache, fork), ATTN_OK);
    if (overwrites) {
      REFUSED(&w, attn_cache_begin(w.cache, &s, &one, 1, &other),
              "sequence 0 cannot be appended to: it is read in 1 open batch");
    } else {
      ck_assert_int_eq(attn_cache_begin(w.cache, &s, &one, 1, &other), ATTN_OK);
      ck_assert_int_eq(attn_cache_cancel(other), ATTN_OK);
    }
    ck_assert_int_eq(attn_cache_end(reading), ATTN_OK);

    attn_cache_batch *appending = begun(&w, s, 1);
    const char *why = "a batch that has not ended appends to it";
    REFUSED(&w, attn_cache_fork(w.cache, s, &fork), "sequence 0 cannot be forked");
    ASSERT_SAYS(why);
    REFUSED(&w, attn_cache_truncate(w.cache, s, 1), why);
    REFUSED(&w, attn_cache_release(w.cache, s), why);
    REFUSED(&w, attn_cache_begin(w.cache, &s, &one, 1, &other), why);
    if (overwrites) {
      REFUSED(&w, attn_cache_begin(w.cache, &s, NULL, 1, &other), "sequence 0 cannot be read");
    } else {
      ck_assert_int_eq(attn_cache_begin(w.cache, &s, NULL, 1, &reading), ATTN_OK);
      ck_assert_int_eq(attn_cache_end(reading), ATTN_OK);
    }
    ck_assert_int_eq(attn_cache_end(appending), ATTN_OK);
    const attn_sequence twice[] = {s, s}, none[] = {0, s};
    REFUSED(&w, attn_cache_begin(w.cache, twice, both, 2, &other),
            "sequence 0 is in the batch twice, and appended to");
    REFUSED(&w, attn_cache_begin(w.cache, none, both, 2, &other),
            "sequences[0] is 0, which stands for none, but gets 1 new tokens");
    ck_assert_int_eq(attn_cache_release(w.cache, s), ATTN_OK); /* nothing is marked */
    world_close(&w);
  }
}
END_TEST

/* ---- pages ---- */

START_TEST(missing_pages)
{
  struct world w;
  open_paged(&w, 3, 16);
  const attn_sequence s[3] = {added(&w), added(&w), added(&w)};
  append(&w, s[0], 5, 1);
  const uint32_t tokens[] = {4, 1, 8};
  attn_cache_batch *batch;
  ck_assert_int_eq(attn_cache_begin(w.cache, s, tokens, 3, &batch), ATTN_ERROR_OUT_OF_MEMORY);
  ck_assert_str_eq(error_of(w.context), "2 pages are missing: 4 are needed, and of the cache's 4 "
                                        "are free 2");
  ck_assert_ptr_null(batch);
  ck_assert_uint_eq(attn_cache_memory(w.cache).pages_free, 2);
  ck_assert(holds(&w, s[0], (const uint32_t[]){1, 2, 3, 4, 5}, 5));
  ck_assert_int_eq(attn_cache_release(w.cache, s[0]), ATTN_OK);
  world_close(&w);
}
END_TEST

START_TEST(forks_share_pages)
{
  struct world w;
  open_paged(&w, 4, 40);
  attn_sequence s[3] = {added(&w), 0, 0};
  append(&w, s[0], 6, 1);
  ck_assert_int_eq(attn_cache_fork(w.cache, s[0], &s[1]), ATTN_OK);
  ck_assert_int_eq(attn_cache_fork(w.cache, s[0], &s[2]), ATTN_OK);
  ck_assert_uint_eq(attn_cache_memory(w.cache).pages_free, 8);
  ck_assert_uint_eq(attn_cache_memory(w.cache).tokens, 18);
  /* Of three that share the last page one keeps it, two copy it. */
  const uint32_t tokens[] = {1, 1, 1};
  attn_cache_batch *batch;
  ck_assert_int_eq(attn_cache_begin(w.cache, s, tokens, 3, &batch), ATTN_OK);
  ck_assert_uint_eq(attn_cache_memory(w.cache).pages_free, 6);
  const struct view view = view_of(&w, batch, 0);
  for (uint32_t n = 0; n < 3; n++)
    touch_token(&view, n, 6, 70 + n, true, true);
  ck_assert_int_eq(attn_cache_end(batch), ATTN_OK);
  for (uint32_t n = 0; n < 3; n++)
    ck_assert(holds(&w, s[n], (const uint32_t[]){1, 2, 3, 4, 5, 6, 70 + n}, 7));
  /* Dropping tokens from one leaves the others. */
  const int32_t ranks[] = {1, 5, 6};
  ck_assert_int_eq(attn_cache_keep(w.cache, s[0], ranks, 3, 1), ATTN_OK);
  ck_assert(holds(&w, s[0], (const uint32_t[]){2, 6, 70}, 3));
  ck_assert(holds(&w, s[1], (const uint32_t[]){1, 2, 3, 4, 5, 6, 71}, 7));
  append(&w, s[0], 2, 80);
  ck_assert(holds(&w, s[0], (const uint32_t[]){2, 6, 70, 80, 81}, 5));
  world_close(&w);
}
END_TEST

/* A reader keeps what it began with while the sequence goes on, and others that shared its pages.
 */
START_TEST(readers_keep_their_pages)
{
  struct world w;
  open_paged(&w, 2, 40);
  const attn_sequence a = added(&w);
  attn_sequence b;
  append(&w, a, 6, 1);
  ck_assert_int_eq(attn_cache_fork(w.cache, a, &b), ATTN_OK);
  attn_cache_batch *reading;
  ck_assert_int_eq(attn_cache_begin(w.cache, &a, NULL, 1, &reading), ATTN_OK);
  append(&w, a, 1, 50); /* has to leave the shared page */
  ck_assert_int_eq(attn_cache_truncate(w.cache, b, 5), ATTN_OK);
  append(&w, b, 3, 60); /* its own now, but for the reader */
  const struct view view = view_of(&w, reading, 0);
  for (uint32_t n = 0; n < 6; n++)
    ck_assert(touch_token(&view, 0, n, n + 1, true, false));
  ck_assert_int_eq(attn_cache_end(reading), ATTN_OK);
  ck_assert(holds(&w, a, (const uint32_t[]){1, 2, 3, 4, 5, 6, 50}, 7));
  ck_assert(holds(&w, b, (const uint32_t[]){1, 2, 3, 4, 5, 60, 61, 62}, 8));
  ck_assert_uint_eq(attn_cache_memory(w.cache).pages_free, 7);
  world_close(&w);
}
END_TEST

/* ---- dropping tokens ---- */

static void refuses_to_keep(const char *statement, uint32_t tokens, const char *text)
{
  struct world w;
  const attn_cache_options options = options_with(1, 32);
  const int32_t last = (int32_t)tokens - 1;
  world_open(&w, "cpu", statement, &options);
  const attn_sequence s = added(&w);
  ck_assert_int_eq(attn_cache_end(begun(&w, s, tokens)), ATTN_OK);
  REFUSED(&w, attn_cache_keep(w.cache, s, &last, 1, 1), text);
  world_close(&w);
}

START_TEST(what_cannot_be_dropped)
{
  refuses_to_keep("cache paged(page = 4)", 3, "'t' finds a token by its position");
  refuses_to_keep("cache ring(capacity = 4, sinks = 1), positions = stored", 3, "'t' has a ring");
  refuses_to_keep("cache paged(page = 4), k = int8(axis = channel, group = 4, residual = 4), "
                  "positions = slot",
                  3, "'t' has one k.scale for each 4 tokens, which cannot be taken apart");
  refuses_to_keep("cache dense, k = int8(axis = token, residual = 4), positions = slot", 5,
                  "sequence 0 has 5 tokens, more than the 4 of k.recent");
  struct world w;
  open_paged(&w, 1, 16);
  const attn_sequence s = added(&w);
  append(&w, s, 3, 1);
  const int32_t ranks[] = {0, 2, 1, 3, -1};
  REFUSED(&w, attn_cache_keep(w.cache, s, ranks, 3, 1), "ranks[0][2] is 1 after 2");
  REFUSED(&w, attn_cache_keep(w.cache, s, ranks + 3, 1, 1),
          "ranks[0][0] is 3, but sequence 0 has 3 tokens");
  REFUSED(&w, attn_cache_keep(w.cache, s, ranks + 4, 1, 1), "ranks[0][0] is -1");
  REFUSED(&w, attn_cache_keep(w.cache, s, ranks, 1, 2), "sets is 2; it must be 1, or 1");
  REFUSED(&w, attn_cache_keep(w.cache, s, NULL, 1, 1), "ranks is NULL but count is 1");
  const int32_t kept[] = {0, 2};
  ck_assert_int_eq(attn_cache_keep(w.cache, s, kept, 2, 1), ATTN_OK);
  REFUSED(&w, attn_cache_truncate(w.cache, s, 1),
          "sequence 0 cannot be truncated from 2 tokens to 1: the first 2 were chosen by "
          "attn_cache_keep");
  ck_assert_int_eq(attn_cache_truncate(w.cache, s, 0), ATTN_OK);
  world_close(&w);
}
END_TEST

/* ---- truncating ---- */

static attn_status truncate_from(const char *statement, uint32_t from, uint64_t to)
{
  struct world w;
  const attn_cache_options options = options_with(1, 64);
  world_open(&w, "cpu", statement, &options);
  const attn_sequence s = added(&w);
  ck_assert_int_eq(attn_cache_end(begun(&w, s, from)), ATTN_OK);
  const attn_status status = attn_cache_truncate(w.cache, s, to);
  error_of(w.context);
  world_close(&w);
  return status;
}

START_TEST(what_cannot_be_truncated)
{
  const char *ring = "cache ring(capacity = 8, sinks = 2)";
  ck_assert_int_eq(truncate_from(ring, 10, 3), ATTN_OK);
  ck_assert_int_eq(truncate_from(ring, 11, 10), ATTN_ERROR_ARGUMENT);
  ASSERT_SAYS("sequence 0 cannot be truncated from 11 tokens to 10: the ring has written over");
  ck_assert_int_eq(truncate_from(ring, 11, 3), ATTN_ERROR_ARGUMENT);
  ck_assert_int_eq(truncate_from(ring, 11, 2), ATTN_OK);
  const char *token = "cache dense, v = int8(axis = token, residual = 8)";
  ck_assert_int_eq(truncate_from(token, 8, 3), ATTN_OK);
  ck_assert_int_eq(truncate_from(token, 9, 8), ATTN_ERROR_ARGUMENT);
  ASSERT_SAYS("v keeps the newest as they are (residual = 8)");
  ck_assert_int_eq(truncate_from(token, 9, 0), ATTN_OK);
  const char *channel = "cache dense, k = int8(axis = channel, group = 4, residual = 8)";
  ck_assert_int_eq(truncate_from(channel, 7, 3), ATTN_OK);
  ck_assert_int_eq(truncate_from(channel, 8, 3), ATTN_ERROR_ARGUMENT);
  ck_assert_int_eq(truncate_from(channel, 23, 17), ATTN_OK);
  ck_assert_int_eq(truncate_from(channel, 23, 8), ATTN_OK);
  ck_assert_int_eq(truncate_from(channel, 23, 15), ATTN_ERROR_ARGUMENT);
}
END_TEST

/* ---- memory that runs out ---- */

/* All that allocates; the first status that is not OK. */
static attn_status allocate_everything(struct world *w, attn_cache **cache, attn_sequence s[2])
{
  static const uint32_t tokens[] = {70, 0};
  static const int32_t ranks[] = {1, 40, 69};
  const attn_cache_options options = options_with(2, 400);
  attn_cache_batch *batch;
  attn_status status = *cache == NULL ? try_cache(w, &options) : ATTN_OK;
  if (status == ATTN_OK && *cache == NULL) {
    *cache = w->cache;
    ck_assert_int_eq(attn_cache_add(*cache, &s[0]), ATTN_OK);
  }
  if (status == ATTN_OK)
    status = attn_cache_begin(*cache, s, tokens, 2, &batch);
  if (status == ATTN_OK)
    status = attn_cache_end(batch);
  if (status == ATTN_OK)
    status = attn_cache_fork(*cache, s[0], &s[1]);
  if (status == ATTN_OK)
    status = attn_cache_keep(*cache, s[1], ranks, 3, 1);
  return status == ATTN_OK ? attn_cache_compact(*cache) : status;
}

/* With an error's text, which the context keeps. */
static int64_t live_blocks(struct world *w)
{
  ck_assert_int_eq(attn_sync(w->context, w), ATTN_ERROR_ARGUMENT);
  return mem_live_count();
}

START_TEST(every_allocation_may_fail)
{
  struct world w;
  open_paged(&w, 1, 4);
  attn_cache_free(w.cache);
  const int64_t live = live_blocks(&w);
  attn_status status = ATTN_ERROR_OUT_OF_MEMORY;
  for (uint64_t fail = 1; status != ATTN_OK; fail++) {
    attn_cache *cache = NULL;
    attn_sequence s[2] = {0, 0};
    mem_fail_at(fail);
    status = allocate_everything(&w, &cache, s);
    mem_fail_at(0);
    if (status == ATTN_OK)
      ck_assert_uint_gt(fail, 12);
    else
      ck_assert_int_eq(status, ATTN_ERROR_OUT_OF_MEMORY);
    if (cache != NULL && status != ATTN_OK) { /* whatever it was, it is as before, and goes on */
      uint64_t length, of_fork = 0;
      const attn_cache_usage usage = attn_cache_memory(cache);
      ck_assert_int_eq(attn_cache_length(cache, s[0], &length), ATTN_OK);
      if (s[1] != 0)
        ck_assert_int_eq(attn_cache_length(cache, s[1], &of_fork), ATTN_OK);
      ck_assert(length == 0 || length == 70);
      ck_assert(of_fork == 0 || of_fork == 70 || of_fork == 3);
      ck_assert_uint_eq(usage.pages - usage.pages_free,
                        (length == 70 ? 18u : 0u) + (of_fork == 3 ? 1u : 0u));
      ck_assert_int_eq(attn_cache_truncate(cache, s[0], 0), ATTN_OK);
      if (s[1] != 0)
        ck_assert_int_eq(attn_cache_release(cache, s[1]), ATTN_OK);
      s[1] = 0;
      ck_assert_int_eq(allocate_everything(&w, &cache, s), ATTN_OK);
    }
    attn_cache_free(cache);
    ck_assert_int_eq(live_blocks(&w), live);
  }
  w.cache = NULL;
  world_close(&w);
}
END_TEST

/* ---- threads ---- */

enum { THREADS = 4, OWN = 3, ROUNDS = 600, LONGEST = 40 };

struct worker {
  struct world *world;
  attn_sequence prefix; /* of 6 tokens, all threads' */
  uint32_t number;
  uint32_t next; /* token */
  attn_sequence handles[OWN];
  uint32_t lengths[OWN];
  uint32_t tokens[OWN][LONGEST];
  const char *wrong;
};

static bool is_fine(attn_status status)
{
  return status == ATTN_OK || status == ATTN_ERROR_OUT_OF_MEMORY;
}

static void work_on(struct worker *me, int n, uint32_t chance)
{
  attn_cache *cache = me->world->cache;
  uint32_t *tokens = me->tokens[n], *length = &me->lengths[n], more = 1 + chance % 4;
  attn_cache_batch *batch;
  int32_t ranks[LONGEST];
  if (me->handles[n] == 0) {
    if (attn_cache_fork(cache, me->prefix, &me->handles[n]) == ATTN_OK) {
      for (*length = 0; *length < 6; (*length)++)
        tokens[*length] = *length + 1;
    }
  } else if (chance % 16 == 0) {
    if (attn_cache_release(cache, me->handles[n]) != ATTN_OK)
      me->wrong = "release";
    me->handles[n] = 0;
  } else if (chance % 16 == 1) {
    for (uint32_t k = 0; k < *length / 2; k++)
      ranks[k] = (int32_t)(2 * k);
    const attn_status status = attn_cache_keep(cache, me->handles[n], ranks, *length / 2, 1);
    if (!is_fine(status))
      me->wrong = "keep";
    for (uint32_t k = 0; status == ATTN_OK && k < *length / 2; k++)
      tokens[k] = tokens[2 * k];
    *length = status == ATTN_OK ? *length / 2 : *length;
  } else if (chance % 16 == 2) {
    attn_cache_compact(cache); /* whether there is a batch, others know */
    attn_cache_memory(cache);
  } else if (chance % 16 < 8 && *length + more <= LONGEST) {
    const attn_status status = attn_cache_begin(cache, &me->handles[n], &more, 1, &batch);
    if (!is_fine(status))
      me->wrong = "append";
    if (status != ATTN_OK)
      return;
    const struct view view = view_of(me->world, batch, 0);
    for (uint32_t k = 0; k < more; k++) {
      tokens[*length + k] = me->next++;
      touch_token(&view, 0, *length + k, tokens[*length + k], true, true);
    }
    *length += more;
    if (attn_cache_end(batch) != ATTN_OK)
      me->wrong = "end";
  } else {
    if (attn_cache_begin(cache, &me->handles[n], NULL, 1, &batch) != ATTN_OK) {
      me->wrong = "begin";
      return;
    }
    const struct view view = view_of(me->world, batch, 0);
    for (uint32_t k = 0; k < *length; k++) {
      if (!touch_token(&view, 0, k, tokens[k], true, false))
        me->wrong = "contents";
    }
    attn_cache_cancel(batch);
  }
}

static void *work(void *user)
{
  struct worker *me = user;
  uint32_t random = me->number * 77 + 5;
  for (int n = 0; n < ROUNDS && me->wrong == NULL; n++) {
    random = random * 1664525u + 1013904223u;
    work_on(me, (int)(random >> 8) % OWN, random >> 16);
  }
  return NULL;
}

START_TEST(several_threads)
{
  struct world w;
  open_paged(&w, 1 + THREADS * OWN, 4 * 60);
  const attn_sequence prefix = added(&w);
  append(&w, prefix, 6, 1);
  static struct worker workers[THREADS];
  pthread_t threads[THREADS];
  for (uint32_t n = 0; n < THREADS; n++) {
    workers[n] = (struct worker){.world = &w, .prefix = prefix, .number = n, .next = (n + 1) << 24};
    ck_assert_int_eq(pthread_create(&threads[n], NULL, work, &workers[n]), 0);
  }
  for (uint32_t n = 0; n < THREADS; n++) {
    pthread_join(threads[n], NULL);
    ck_assert_msg(workers[n].wrong == NULL, "thread %u: %s", n, workers[n].wrong);
    for (int m = 0; m < OWN; m++) {
      if (workers[n].handles[m] == 0)
        continue;
      ck_assert(holds(&w, workers[n].handles[m], workers[n].tokens[m], workers[n].lengths[m]));
      ck_assert_int_eq(attn_cache_release(w.cache, workers[n].handles[m]), ATTN_OK);
    }
  }
  ck_assert(holds(&w, prefix, (const uint32_t[]){1, 2, 3, 4, 5, 6}, 6));
  ck_assert_uint_eq(attn_cache_memory(w.cache).pages_free, 58);
  world_close(&w);
}
END_TEST

/* ---- a device that fails ---- */

START_TEST(the_device_fails)
{
  static const char *const calls[] = {"cuMemAlloc_v2", "cuMemcpyHtoDAsync_v2",
                                      "cuMemcpyDtoDAsync_v2"};
  const char *library = getenv("ATTN_STAND_IN");
  setenv("ATTN_CUDA_LIBRARY", library, 1);
  void *driver = dlopen(library, RTLD_NOW), *symbol = dlsym(driver, "device_inject");
  int (*inject)(const char *, int, int);
  memcpy(&inject, &symbol, sizeof(inject));
  struct world w;
  const attn_cache_options options = options_with(2, 400);
  world_open(&w, "cuda:0", paged, &options);
  attn_cache *first = w.cache;
  inject("cuMemAlloc_v2", 1, CUDA_OUT_OF_MEMORY);
  ck_assert_int_eq(try_cache(&w, &options), ATTN_ERROR_OUT_OF_MEMORY);
  ASSERT_SAYS("for a cache");
  w.cache = first;
  for (int n = 0; n < 3; n++) {
    const attn_sequence s = added(&w);
    attn_sequence fork;
    append(&w, s, 2, 1);
    ck_assert_int_eq(attn_cache_fork(w.cache, s, &fork), ATTN_OK);
    const attn_sequence both[] = {s, fork};
    const uint32_t tokens[] = {1, n == 0 ? 300 : 1}; /* a larger table than before */
    attn_cache_batch *batch;
    inject(calls[n], 1, n == 0 ? CUDA_OUT_OF_MEMORY : CUDA_INVALID_VALUE);
    ck_assert_int_eq(attn_cache_begin(w.cache, both, tokens, 2, &batch),
                     n == 0 ? ATTN_ERROR_OUT_OF_MEMORY : ATTN_ERROR_DEVICE);
    ck_assert_uint_eq(attn_cache_memory(w.cache).pages_free, 99);
    ck_assert(holds(&w, fork, (const uint32_t[]){1, 2}, 2));
    append(&w, fork, 3, 7);
    ck_assert(holds(&w, fork, (const uint32_t[]){1, 2, 7, 8, 9}, 5));
    ck_assert_int_eq(attn_cache_release(w.cache, s), ATTN_OK);
    ck_assert_int_eq(attn_cache_release(w.cache, fork), ATTN_OK);
    ck_assert_uint_eq(attn_cache_memory(w.cache).pages_free, 100);
  }
  world_close(&w);
}
END_TEST

int main(void)
{
  Suite *suite = suite_create("cache_states");
  TCase *tests = tcase_create("states");
  tcase_add_test(tests, released_handles);
  tcase_add_test(tests, in_a_batch);
  tcase_add_test(tests, missing_pages);
  tcase_add_test(tests, forks_share_pages);
  tcase_add_test(tests, readers_keep_their_pages);
  tcase_add_test(tests, what_cannot_be_dropped);
  tcase_add_test(tests, what_cannot_be_truncated);
  tcase_add_test(tests, every_allocation_may_fail);
  tcase_add_test(tests, several_threads);
  if (getenv("ATTN_STAND_IN") != NULL && getenv("ATTN_TEST_GPU") == NULL)
    tcase_add_test(tests, the_device_fails);
  suite_add_tcase(suite, tests);
  return run_suite(suite);
}
