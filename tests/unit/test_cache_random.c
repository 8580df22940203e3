/* Random operations on a cache beside a plain model of it: a list of tokens for each sequence.
 * Every status is foreseen by the model, every token that is read back is compared, and pages in
 * use are counted. CACHE_OPERATIONS says how many operations are made on each kind of cache
 * (112000: a million in all); with ATTN_STAND_IN in the environment a few are also made on the
 * stand-in device, with ATTN_TEST_GPU on the first GPU.
 */
#include "tests/unit/cache_world.h"

enum { SEQUENCES = 7, LAYERS = 3, STORAGES = 2, MOST = 40, BATCHES = 3, ENTRIES = 4 };

#define REQUIRE_EQ(a, b) REQUIRE((int64_t)(a) == (int64_t)(b))

static const uint32_t producers[LAYERS] = {0, 1, 0}; /* the last layer reads the first one's */

struct list { /* of one sequence's tokens in one storage */
  uint32_t tokens[MOST + 8];
  int32_t positions[MOST + 8];
};

struct model_sequence {
  attn_sequence handle; /* 0: there is none */
  uint32_t length, seen, settled;
  struct list lists[STORAGES];
  uint32_t ring[64], recent[16]; /* which token its slots have, of storage 0 */
  uint32_t readers;
  bool appended;
};

struct model_batch {
  attn_cache_batch *batch;
  size_t count;
  int sequences[ENTRIES]; /* -1: none */
  uint32_t added[ENTRIES];
  struct model_sequence then[ENTRIES]; /* with the new tokens, which have no number yet */
};

struct model {
  struct world world;
  uint64_t random;
  uint32_t next_token;
  struct model_sequence sequences[SEQUENCES];
  struct model_batch batches[BATCHES];
  uint64_t done[12]; /* operations that succeeded, by kind */
};

static const struct spec_cache *layout_of(const struct model *m)
{
  return &m->world.cache->plan->spec->cache;
}

static bool is_ring(const struct model *m)
{
  return layout_of(m)->layout == CACHE_RING;
}

static bool is_paged(const struct model *m)
{
  return layout_of(m)->layout == CACHE_PAGED;
}

static bool is_stored(const struct model *m)
{
  return layout_of(m)->positions == CACHE_POSITIONS_STORED;
}

static uint32_t residual_of(const struct model *m)
{
  return layout_of(m)->k.residual;
}

static uint32_t below(struct model *m, uint32_t limit)
{
  m->random = m->random * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)(m->random >> 33) % limit;
}

/* ---- reading back ---- */

/* The first token of those in the middle that a ring still has, and of those in the residual. */
static uint32_t first_of_ring(const struct model *m, uint32_t length)
{
  const uint32_t capacity = layout_of(m)->capacity;
  return is_ring(m) && length > capacity ? length - capacity : 0;
}

static bool in_ring(const struct model *m, uint32_t rank, uint32_t length)
{
  return !is_ring(m) || rank < layout_of(m)->sinks || rank >= first_of_ring(m, length);
}

static bool in_residual(const struct model *m, uint32_t rank, uint32_t length)
{
  return rank + residual_of(m) >= length;
}

/* `length`: how many tokens of the sequence's list there are to compare; `total`: as the batch
 * counts. */
static void compare(const struct model *m, const struct view *view, size_t row,
                    const struct model_sequence *s, uint32_t length, uint32_t total)
{
  const struct list *list = &s->lists[view->layer == 1];
  for (uint32_t rank = 0; rank < length; rank++) {
    if (!in_ring(m, rank, total))
      continue;
    const bool recent = in_residual(m, rank, total);
    const struct view source = {view->cache, view->context, producers[view->layer], view->tensors,
                                view->count};
    if (!touch_token(&source, (int64_t)row, rank, list->tokens[rank], recent, false))
      ck_abort_msg("layer %u, row %zu: rank %u of %u is not token %u", view->layer, row, rank,
                   length, list->tokens[rank]);
    if (is_stored(m))
      REQUIRE_EQ(stored_position(view, (int64_t)row, rank), list->positions[rank]);
  }
}

static void check_batch(const struct model *m, const struct model_batch *b)
{
  for (uint32_t layer = 0; layer < LAYERS; layer++) {
    const struct view view = view_of(&m->world, b->batch, layer);
    for (size_t n = 0; n < b->count; n++) {
      const struct model_sequence *s = &b->then[n];
      const uint32_t total = b->sequences[n] < 0 ? 0 : s->length + b->added[n];
      const uint32_t slots = m->world.cache->page;
      const bool kept_only = is_ring(m) && is_stored(m) && total > slots;
      REQUIRE_EQ(table_entry(&view, "lengths", (int64_t)n, 0),
                 (int32_t)(kept_only ? slots : total));
      if (is_stored(m))
        REQUIRE_EQ(table_entry(&view, "seen", (int64_t)n, 0),
                   b->sequences[n] < 0 ? 0 : (int32_t)(s->seen + b->added[n]));
      /* what new tokens are going to be written over is not compared */
      const bool overwrites = b->added[n] != 0 && (is_ring(m) || residual_of(m) != 0);
      if (b->sequences[n] >= 0 && !overwrites)
        compare(m, &view, n, s, s->length, s->length);
    }
  }
}

/* Without batches: all tokens of all sequences, and that no page is lost. */
static void check_all(struct model *m)
{
  attn_sequence handles[SEQUENCES];
  attn_cache_batch *batch;
  for (int n = 0; n < SEQUENCES; n++)
    handles[n] = m->sequences[n].handle;
  ck_assert_msg(attn_cache_begin(m->world.cache, handles, NULL, SEQUENCES, &batch) == ATTN_OK, "%s",
                error_of(m->world.context));
  static unsigned char in_use[4096];
  memset(in_use, 0, sizeof(in_use));
  uint32_t pages = 0, live = 0;
  uint64_t tokens = 0;
  for (int n = 0; n < SEQUENCES; n++) {
    const struct model_sequence *s = &m->sequences[n];
    live += s->handle != 0;
    tokens += s->handle != 0 ? s->length : 0;
    for (uint32_t layer = 0; layer < LAYERS && s->handle != 0; layer++) {
      const struct view view = view_of(&m->world, batch, layer);
      compare(m, &view, (size_t)n, s, s->length, s->length);
    }
    const uint32_t page = m->world.cache->page;
    const struct view view = view_of(&m->world, batch, 0);
    for (uint32_t t = 0; is_paged(m) && s->handle != 0 && t * page < s->length; t++) {
      const int32_t entry = table_entry(&view, "page_table", n, t);
      pages += !in_use[entry];
      in_use[entry] = 1;
    }
  }
  REQUIRE_EQ(attn_cache_end(batch), ATTN_OK);
  const attn_cache_usage usage = attn_cache_memory(m->world.cache);
  REQUIRE_EQ(usage.sequences, live);
  REQUIRE_EQ(usage.tokens, tokens);
  REQUIRE_EQ(usage.pages - usage.pages_free, is_paged(m) ? pages : live);
}

/* ---- operations on sequences ---- */

enum { ADD, FORK, RELEASE, TRUNCATE, KEEP, COMPACT, BEGIN, END, CANCEL, CHECK, REFUSED, FULL };

static struct model_sequence *any(struct model *m)
{
  return &m->sequences[below(m, SEQUENCES)];
}

static int lowest_free(const struct model *m)
{
  for (int n = 0; n < SEQUENCES; n++) {
    if (m->sequences[n].handle == 0)
      return n;
  }
  return -1;
}

static bool is_idle(const struct model_sequence *s)
{
  return s->handle != 0 && s->readers == 0 && !s->appended;
}

/* Counts what happened; `expected` is right. */
static bool settle(struct model *m, int kind, attn_status status, attn_status expected)
{
  if (status != expected)
    ck_abort_msg("operation %d: %d, not %d: %s", kind, status, expected,
                 status == ATTN_OK ? "" : error_of(m->world.context));
  m->done[status == ATTN_OK ? kind : REFUSED]++;
  return status == ATTN_OK;
}

static void add(struct model *m)
{
  attn_sequence handle;
  const int n = lowest_free(m);
  if (settle(m, ADD, attn_cache_add(m->world.cache, &handle),
             n < 0 ? ATTN_ERROR_OUT_OF_MEMORY : ATTN_OK)) {
    REQUIRE_EQ((uint32_t)handle, (uint32_t)n);
    m->sequences[n] = (struct model_sequence){.handle = handle};
  }
}

static void fork_one(struct model *m)
{
  struct model_sequence *from = any(m);
  attn_sequence handle;
  const int n = lowest_free(m);
  const attn_status expected = from->handle == 0 || from->appended ? ATTN_ERROR_ARGUMENT
                               : n < 0                             ? ATTN_ERROR_OUT_OF_MEMORY
                                                                   : ATTN_OK;
  if (settle(m, FORK, attn_cache_fork(m->world.cache, from->handle, &handle), expected)) {
    m->sequences[n] = *from;
    m->sequences[n].handle = handle;
    m->sequences[n].readers = 0;
  }
}

static void release(struct model *m)
{
  struct model_sequence *s = any(m);
  const attn_sequence handle = s->handle;
  if (settle(m, RELEASE, attn_cache_release(m->world.cache, handle),
             is_idle(s) ? ATTN_OK : ATTN_ERROR_ARGUMENT)) {
    s->handle = 0;
    REQUIRE_EQ(attn_cache_release(m->world.cache, handle), ATTN_ERROR_ARGUMENT);
  }
}

/* Whether the tokens that a ring or residual of so many tokens has to have are there. */
static bool are_there(const struct model *m, const struct model_sequence *s, uint32_t length)
{
  const uint32_t *tokens = s->lists[0].tokens, residual = residual_of(m);
  for (uint32_t rank = 0; rank < length; rank++) {
    uint32_t slot = rank;
    if (rank >= layout_of(m)->sinks && is_ring(m))
      slot = layout_of(m)->sinks + (rank - layout_of(m)->sinks) % layout_of(m)->capacity;
    if (is_ring(m) && in_ring(m, rank, length) && s->ring[slot] != tokens[rank])
      return false;
    if (residual != 0 && in_residual(m, rank, length) && s->recent[rank % residual] != tokens[rank])
      return false;
  }
  return true;
}

static void truncate_one(struct model *m)
{
  struct model_sequence *s = any(m);
  const uint32_t after = below(m, s->length + 2);
  const bool possible = after <= s->length && are_there(m, s, after) &&
                        (!is_stored(m) || after == 0 || after >= s->settled || after == s->length);
  if (settle(m, TRUNCATE, attn_cache_truncate(m->world.cache, s->handle, after),
             is_idle(s) && possible ? ATTN_OK : ATTN_ERROR_ARGUMENT)) {
    s->seen = after == 0 ? 0 : s->seen - (s->length - after);
    s->settled = after == 0 ? 0 : s->settled;
    s->length = after;
  }
}

static void keep(struct model *m)
{
  struct model_sequence *s = any(m);
  const bool allowed = layout_of(m)->positions != CACHE_POSITIONS_ORIGINAL && !is_ring(m) &&
                       (residual_of(m) == 0 || s->length <= residual_of(m));
  const uint32_t sets = below(m, 2) == 0 ? 1 : STORAGES;
  const uint32_t count = s->handle == 0 ? 0 : below(m, s->length + 1);
  int32_t ranks[STORAGES * MOST + 1];
  for (uint32_t set = 0; set < sets; set++) {
    uint32_t left = count; /* each of the rest with the same chance */
    for (uint32_t rank = 0; rank < s->length && left > 0; rank++) {
      if (below(m, s->length - rank) < left)
        ranks[set * count + count - left--] = (int32_t)rank;
    }
  }
  const attn_cache_usage before = attn_cache_memory(m->world.cache);
  const attn_status status = attn_cache_keep(m->world.cache, s->handle, ranks, count, sets);
  if (status == ATTN_ERROR_OUT_OF_MEMORY) {
    REQUIRE(is_paged(m) && before.pages_free < (count + before.page - 1) / before.page);
    REQUIRE_EQ(attn_cache_memory(m->world.cache).pages_free, before.pages_free);
    m->done[FULL]++;
    return;
  }
  if (!settle(m, KEEP, status, is_idle(s) && allowed ? ATTN_OK : ATTN_ERROR_ARGUMENT) ||
      count == s->length)
    return;
  for (uint32_t storage = 0; storage < STORAGES; storage++) {
    const int32_t *own = &ranks[sets == 1 ? 0 : storage * count];
    for (uint32_t n = 0; n < count; n++) {
      s->lists[storage].tokens[n] = s->lists[storage].tokens[own[n]];
      s->lists[storage].positions[n] = s->lists[storage].positions[own[n]];
    }
  }
  for (uint32_t n = 0; n < count && residual_of(m) != 0; n++)
    s->recent[n] = s->lists[0].tokens[n];
  s->length = s->settled = count;
}

static bool any_batch(const struct model *m)
{
  for (int n = 0; n < BATCHES; n++) {
    if (m->batches[n].batch != NULL)
      return true;
  }
  return false;
}

static void compact(struct model *m)
{
  if (!settle(m, COMPACT, attn_cache_compact(m->world.cache),
              any_batch(m) ? ATTN_ERROR_ARGUMENT : ATTN_OK))
    return;
  const attn_cache_usage usage = attn_cache_memory(m->world.cache);
  for (uint32_t page = 0; is_paged(m) && page < usage.pages; page++)
    REQUIRE_EQ(m->world.cache->pages[page].owners != 0, page < usage.pages - usage.pages_free);
}

/* ---- batches ---- */

/* Chooses sequences, mostly ones that a batch may have, and what it adds to them. */
static void choose_entries(struct model *m, struct model_batch *b)
{
  const bool rows = m->world.cache->has_rows, adds = below(m, 4) != 0;
  const uint32_t step = 1 + below(m, 2), first = below(m, SEQUENCES);
  b->count = below(m, ENTRIES + 1);
  while (rows && first + (uint32_t)b->count * step > SEQUENCES + step - 1)
    b->count--;
  for (size_t n = 0; n < b->count; n++) {
    const uint32_t number = rows ? first + (uint32_t)n * step : below(m, SEQUENCES);
    const bool some = m->sequences[number].handle != 0 && below(m, 20) != 0;
    b->sequences[n] = some ? (int)number : -1;
    b->added[n] = some && adds ? below(m, 4) : 0;
    if (some && m->sequences[number].length + b->added[n] > MOST && !m->sequences[number].appended)
      b->added[n] = 0;
  }
}

/* Whether the table in cache.h lets the batch begin, as one entry after the other joins. */
static bool may_begin(struct model *m, struct model_batch *b)
{
  const bool overwrites = is_ring(m) || residual_of(m) != 0;
  size_t n = 0;
  for (; n < b->count; n++) {
    if (b->sequences[n] < 0)
      continue;
    struct model_sequence *s = &m->sequences[b->sequences[n]];
    if ((s->appended && (b->added[n] != 0 || overwrites)) ||
        (s->readers != 0 && b->added[n] != 0 && overwrites))
      break;
    s->appended = s->appended || b->added[n] != 0;
    s->readers += b->added[n] == 0;
  }
  const bool may = n == b->count;
  for (; n-- > 0 && !may;) {
    if (b->sequences[n] < 0)
      continue;
    struct model_sequence *s = &m->sequences[b->sequences[n]];
    s->appended = s->appended && b->added[n] == 0;
    s->readers -= b->added[n] == 0;
  }
  return may;
}

static void leave(struct model *m, const struct model_batch *b)
{
  for (size_t n = 0; n < b->count; n++) {
    if (b->sequences[n] < 0)
      continue;
    struct model_sequence *s = &m->sequences[b->sequences[n]];
    if (b->added[n] != 0)
      s->appended = false;
    else
      s->readers--;
  }
}

/* Pages that the batch takes at most: each sequence's, and those that are copied. */
static uint64_t most_pages(const struct model *m, const struct model_batch *b)
{
  const uint32_t page = m->world.cache->page;
  const uint32_t copied = 1 + (m->world.cache->lag + page - 1) / page;
  uint64_t pages = 0;
  for (size_t n = 0; n < b->count; n++)
    pages += b->added[n] == 0 ? 0 : (b->added[n] + page - 1) / page + copied;
  return pages;
}

static void begin(struct model *m, struct model_batch *b)
{
  attn_sequence handles[ENTRIES];
  choose_entries(m, b);
  bool adds = false, too_long = false;
  for (size_t n = 0; n < b->count; n++) {
    handles[n] = b->sequences[n] < 0 ? 0 : m->sequences[b->sequences[n]].handle;
    adds = adds || b->added[n] != 0;
    too_long =
        too_long || (m->world.cache->layout == CACHE_DENSE && b->sequences[n] >= 0 &&
                     m->sequences[b->sequences[n]].length + b->added[n] > m->world.cache->page);
  }
  const attn_cache_usage before = attn_cache_memory(m->world.cache);
  const bool may = may_begin(m, b);
  attn_status status =
      attn_cache_begin(m->world.cache, handles, adds ? b->added : NULL, b->count, &b->batch);
  if (status == ATTN_ERROR_OUT_OF_MEMORY && may) {
    REQUIRE(too_long || (is_paged(m) && before.pages_free < most_pages(m, b)));
    REQUIRE_EQ(attn_cache_memory(m->world.cache).pages_free, before.pages_free);
    leave(m, b);
    m->done[FULL]++;
    return;
  }
  if (!settle(m, BEGIN, status, may ? ATTN_OK : ATTN_ERROR_ARGUMENT))
    return;
  for (size_t n = 0; n < b->count; n++) {
    if (b->sequences[n] >= 0)
      b->then[n] = m->sequences[b->sequences[n]];
  }
  check_batch(m, b);
}

/* What append would do: new tokens to their slots. */
static void append_all(struct model *m, struct model_batch *b)
{
  for (size_t n = 0; n < b->count; n++) {
    if (b->sequences[n] < 0)
      continue;
    struct model_sequence *s = &m->sequences[b->sequences[n]];
    for (uint32_t added = 0; added < b->added[n]; added++) {
      const uint32_t token = m->next_token++, rank = s->length + added;
      for (uint32_t storage = 0; storage < STORAGES; storage++) {
        const struct view view = view_of(&m->world, b->batch, storage);
        touch_token(&view, (int64_t)n, rank, token, true, true);
        if (is_stored(m))
          store_position(&view, (int64_t)n, rank, (int32_t)(s->seen + added));
        if (rank < MOST + 8) {
          s->lists[storage].tokens[rank] = token;
          s->lists[storage].positions[rank] = (int32_t)(s->seen + added);
        }
      }
      if (is_ring(m)) {
        const uint32_t sinks = layout_of(m)->sinks;
        s->ring[rank < sinks ? rank : sinks + (rank - sinks) % layout_of(m)->capacity] = token;
      }
      if (residual_of(m) != 0)
        s->recent[rank % residual_of(m)] = token;
    }
  }
}

static void end(struct model *m, struct model_batch *b)
{
  if (b->batch == NULL)
    return;
  const bool overwrites = is_ring(m) || residual_of(m) != 0, commits = below(m, 4) != 0;
  check_batch(m, b);
  if (commits || (!overwrites && below(m, 2) == 0))
    append_all(m, b);
  attn_cache_batch *batch = b->batch;
  settle(m, commits ? END : CANCEL, commits ? attn_cache_end(batch) : attn_cache_cancel(batch),
         ATTN_OK);
  leave(m, b);
  b->batch = NULL;
  for (size_t n = 0; n < b->count && commits; n++) {
    if (b->sequences[n] >= 0) {
      m->sequences[b->sequences[n]].length += b->added[n];
      m->sequences[b->sequences[n]].seen += b->added[n];
    }
  }
}

static void step(struct model *m)
{
  const uint32_t chance = below(m, 100);
  struct model_batch *b = &m->batches[below(m, BATCHES)];
  if (chance < 6)
    add(m);
  else if (chance < 14)
    fork_one(m);
  else if (chance < 20)
    release(m);
  else if (chance < 28)
    truncate_one(m);
  else if (chance < 33)
    keep(m);
  else if (chance < 36)
    compact(m);
  else if (b->batch == NULL)
    begin(m, b);
  else
    end(m, b);
  if (below(m, 64) == 0 && !any_batch(m)) {
    check_all(m);
    m->done[CHECK]++;
  }
}

/* ---- the kinds ---- */

static const struct kind {
  const char *statement;
  uint32_t tokens;
  attn_cache_order order;
  bool drops;
} kinds[] = {
    {"cache paged(page = 4)", 80, ATTN_CACHE_HEADS_FIRST, false},
    {"cache paged(page = 4), positions = stored", 88, ATTN_CACHE_HEADS_FIRST, true},
    {"cache paged(page = 3), positions = slot", 72, ATTN_CACHE_TOKENS_FIRST, true},
    {"cache paged(page = 1), positions = stored", 60, ATTN_CACHE_TOKENS_FIRST, true},
    {"cache dense, positions = stored", 36, ATTN_CACHE_HEADS_FIRST, true},
    {"", 36, ATTN_CACHE_TOKENS_FIRST, false},
    {"cache ring(capacity = 8, sinks = 3)", 0, ATTN_CACHE_HEADS_FIRST, false},
    {"cache ring(capacity = 5, sinks = 0), positions = stored", 0, ATTN_CACHE_TOKENS_FIRST, false},
    {"cache paged(page = 4), k = int8(axis = token, residual = 6), v = int8(axis = token, residual "
     "= 6), positions = slot",
     100, ATTN_CACHE_HEADS_FIRST, true},
};
enum { KINDS = sizeof(kinds) / sizeof(kinds[0]) };

static void open_model(struct model *m, const struct kind *kind, const char *device)
{
  attn_cache_options options = ATTN_CACHE_OPTIONS_INIT;
  options.layers = LAYERS;
  options.producers = producers;
  options.sequences = SEQUENCES;
  options.tokens = kind->tokens;
  options.order = kind->order;
  memset(m, 0, sizeof(*m));
  m->random = 12345;
  m->next_token = 1;
  world_open(&m->world, device, kind->statement, &options);
}

static void run_model(const struct kind *kind, const char *device, uint64_t operations)
{
  static struct model m;
  const int64_t live = mem_live_count();
  open_model(&m, kind, device);
  for (uint64_t n = 0; n < operations; n++)
    step(&m);
  for (int n = 0; n < BATCHES; n++)
    end(&m, &m.batches[n]);
  check_all(&m);
  for (int done = ADD; done <= REFUSED; done++)
    ck_assert_msg(m.done[done] > 0 || (done == KEEP && !kind->drops), "%s: nothing tried of %d",
                  kind->statement, done);
  REQUIRE(m.done[FULL] > 0 || !is_paged(&m) || operations < 10000);
  for (int n = 0; n < SEQUENCES; n++) {
    if (m.sequences[n].handle != 0)
      REQUIRE_EQ(attn_cache_release(m.world.cache, m.sequences[n].handle), ATTN_OK);
  }
  const attn_cache_usage usage = attn_cache_memory(m.world.cache);
  REQUIRE_EQ(usage.pages_free, usage.pages);
  REQUIRE_EQ(usage.used, 0);
  world_close(&m.world);
  if (strcmp(device, "cpu") == 0)
    REQUIRE_EQ(mem_live_count(), live);
}

START_TEST(like_a_list_of_tokens)
{
  const char *text = getenv("CACHE_OPERATIONS");
  run_model(&kinds[_i], "cpu", text != NULL ? strtoull(text, NULL, 10) : 112000);
}
END_TEST

START_TEST(like_a_list_of_tokens_on_a_device)
{
  if (getenv("ATTN_TEST_GPU") == NULL)
    setenv("ATTN_CUDA_LIBRARY", getenv("ATTN_STAND_IN"), 1);
  run_model(&kinds[_i], "cuda:0", 1500);
}
END_TEST

int main(void)
{
  Suite *suite = suite_create("cache_random");
  TCase *tests = tcase_create("random");
  tcase_add_loop_test(tests, like_a_list_of_tokens, 0, KINDS);
  if (getenv("ATTN_STAND_IN") != NULL || getenv("ATTN_TEST_GPU") != NULL)
    tcase_add_loop_test(tests, like_a_list_of_tokens_on_a_device, 0, KINDS);
  suite_add_tcase(suite, tests);
  return run_suite(suite);
}
