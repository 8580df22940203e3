/* Keys that leave the cache, by attn/cache.h: as if they were hidden, and where nothing has to
 * leave as if there were no policy. */
#include "tests/numeric/cache_properties/model.h"

#include <stdio.h>
#include <string.h>

/* ---- StreamingLLM ---- */

enum { SINKS = 3, RECENT = 9 };
static int64_t kept_tokens[MOST_TOKENS]; /* by rank */

static float of_kept(enum what what, int story, int64_t position, int head, int channel)
{
  return any_element(what, story, kept_tokens[position], head, channel);
}

#define RANKED "  mask causal\n  position rope\n"

/* A ring, pages that attn_evict_streaming thins out before each token, and a launch on the keys
 * that are left give the same row. */
START_TEST(streaming_in_three_ways)
{
  enum { TOKENS = 40 };
  static struct rows ring_rows, page_rows, plain;
  const int tokens = on_device() ? 18 : TOKENS;
  struct model ring = model_open(
      RANKED "  cache ring(capacity = 9, sinks = 3), rope = read, positions = slot\n", NULL);
  struct model pages =
      model_open(RANKED "  cache paged(page = 4), rope = read, positions = slot\n", NULL);
  struct model left = model_open(RANKED, NULL);
  attn_cache *ring_cache = managed_open(&ring, 1, 1, NULL);
  attn_cache *page_cache = managed_open(&pages, 1, 1, NULL);
  attn_sequence in_ring, in_pages;
  left.element = of_kept;
  memset(&ring_rows, 0, sizeof(ring_rows));
  memset(&page_rows, 0, sizeof(page_rows));
  managed_ok(attn_cache_add(ring_cache, &in_ring));
  managed_ok(attn_cache_add(page_cache, &in_pages));
  for (int n = 0; n < tokens; n++) {
    struct batch batch = {.sequences = 1, .lengths = {n + 1}, .rows = {1}};
    uint64_t length;
    int32_t kept[MOST_TOKENS];
    size_t count;
    managed_step(ring_cache, &ring, &in_ring, &batch, 0, &ring_rows);
    managed_ok(attn_cache_length(page_cache, in_pages, &length));
    managed_ok(attn_evict_streaming((size_t)length, SINKS, RECENT, 1, kept, &count));
    managed_ok(attn_cache_keep(page_cache, in_pages, kept, count, 1));
    managed_step(page_cache, &pages, &in_pages, &batch, 0, &page_rows);
    const int held = n + 1 < SINKS + RECENT ? n + 1 : SINKS + RECENT;
    for (int rank = 0; rank < held; rank++)
      kept_tokens[rank] = rank < SINKS ? rank : n + 1 - held + rank;
    batch.lengths[0] = held;
    memset(&plain, 0, sizeof(plain));
    model_plain(&left, &batch, 0, &plain);
    expect_row("a ring", ring_rows.values[0][n], plain.values[0][held - 1]);
    expect_row("pages", page_rows.values[0][n], plain.values[0][held - 1]);
  }
  attn_cache_free(ring_cache);
  attn_cache_free(page_cache);
  model_close(&ring);
  model_close(&pages);
  model_close(&left);
}
END_TEST

/* ---- H2O, SnapKV ---- */

#define CAUSAL "  mask causal\n  position rope\n"
#define HIDING "  input hidden : bool[B, NK]\n  mask causal and not hidden[b, j]\n  position rope\n"

enum { PROMPT = 37, AFTER = 6 };

/* Odd cases have room for everything. */
static size_t choose(int number, struct draw *draw, int32_t *kept)
{
  float scores[PROMPT];
  size_t count;
  const size_t room = number % 2 == 1 ? MOST_TOKENS : 20;
  for (int n = 0; n < PROMPT; n++)
    scores[n] = (float)pick(draw, 0, 1000);
  if (number / 2 % 2 == 0)
    managed_ok(attn_evict_h2o(scores, PROMPT, room / 2, room / 2, kept, &count));
  else
    managed_ok(attn_evict_snapkv(scores, PROMPT, 5, room, 3, ATTN_POOLING_MAX, kept, &count));
  return count;
}

/* The rows of the tokens after the prompt: of a launch that hides what is not kept, or where all is
 * kept of one that hides nothing. */
static void wanted_rows(const int32_t *kept, size_t count, struct rows *wanted)
{
  struct batch whole = {.sequences = 1, .lengths = {PROMPT + AFTER}};
  struct array hidden;
  array_make(&hidden, ATTN_TYPE_BOOL, 2, (int64_t[]){1, PROMPT + AFTER});
  attn_named_tensor input = {"hidden", &hidden.tensor};
  memset(hidden.host, 1, PROMPT);
  for (size_t n = 0; n < count; n++)
    ((unsigned char *)hidden.host)[kept[n]] = 0;
  array_upload(&hidden);
  if (count < PROMPT)
    whole.inputs = &input, whole.input_count = 1;
  plain_rows(count < PROMPT ? HIDING : CAUSAL, any_element, &whole, wanted);
  array_free(&hidden);
}

static const char *const thinned[] = {"dense, positions = stored",
                                      "paged(page = 4), positions = stored",
                                      "paged(page = 16), positions = stored, rope = read"};

START_TEST(evicted_keys_are_hidden)
{
  struct draw draw = draw_of("evicted", _i);
  static struct rows found, wanted;
  char text[512];
  int32_t kept[MOST_TOKENS];
  snprintf(text, sizeof(text), CAUSAL "  cache %s\n", thinned[_i / 4]);
  struct model m = model_open(text, NULL);
  attn_cache *cache = managed_open(&m, 1, 1, NULL);
  attn_sequence sequence;
  struct batch batch = {.sequences = 1, .lengths = {PROMPT}, .rows = {PROMPT}};
  managed_ok(attn_cache_add(cache, &sequence));
  managed_step(cache, &m, &sequence, &batch, 0, &found);
  const size_t count = choose(_i, &draw, kept);
  ck_assert(_i % 2 == 1 ? count == PROMPT : count == 20);
  managed_ok(attn_cache_keep(cache, sequence, kept, count, 1));
  memset(&found, 0, sizeof(found));
  for (int n = 0; n < AFTER; n += (int)batch.rows[0]) {
    batch.rows[0] = n < 3 ? 1 : 3;
    batch.lengths[0] += batch.rows[0];
    managed_step(cache, &m, &sequence, &batch, 0, &found);
  }
  wanted_rows(kept, count, &wanted);
  expect_rows(text, &found, &wanted);
  attn_cache_free(cache);
  model_close(&m);
}
END_TEST

void eviction_add(TCase *tests)
{
  tcase_add_test(tests, streaming_in_three_ways);
  tcase_add_loop_test(tests, evicted_keys_are_hidden, 0, draws(12, 4));
}
