/* Eviction policies beside slow formulas straight from their definitions, over random scores with
 * many ties and NaN; and with a cache, what they keep is what is there. */
#include "tests/unit/cache_world.h"

#include <math.h>

enum { MOST = 96, TRIALS = 3000 };

static uint32_t state = 1;

static uint32_t below(uint32_t limit)
{
  state = state * 1664525u + 1013904223u;
  return (state >> 8) % limit;
}

static void random_scores(float *scores, size_t count)
{
  static const float odd[] = {-0.0f, 0.0f, INFINITY, -INFINITY, NAN};
  for (size_t n = 0; n < count; n++)
    scores[n] = below(12) == 0 ? odd[below(5)] : (float)((int)below(9) - 2) * 0.5f;
}

/* Whether a goes before b among the highest. */
static bool goes_before(const float *scores, size_t a, size_t b)
{
  if (isnan(scores[a]) || isnan(scores[b]))
    return isnan(scores[b]) && (!isnan(scores[a]) || a < b);
  return scores[a] > scores[b] || (scores[a] == scores[b] && a < b);
}

/* The `top` highest of the first `count`, and all from there to `length`. */
static size_t slow_choice(const float *scores, size_t count, size_t top, size_t length,
                          int32_t *kept)
{
  size_t found = 0;
  for (size_t n = 0; n < length; n++) {
    size_t before = 0;
    for (size_t m = 0; m < count && n < count; m++)
      before += m != n && goes_before(scores, m, n);
    if (n >= count || before < top)
      kept[found++] = (int32_t)n;
  }
  return found;
}

static void same_ranks(const int32_t *kept, size_t count, const int32_t *expected, size_t known)
{
  ck_assert_uint_eq(count, known);
  for (size_t n = 0; n < count; n++)
    ck_assert_int_eq(kept[n], expected[n]);
}

START_TEST(h2o)
{
  float scores[MOST];
  int32_t kept[MOST], expected[MOST];
  size_t count;
  for (int trial = 0; trial < TRIALS / 10; trial++) {
    const size_t length = below(MOST + 1), heavy = below(40), recent = below(40);
    random_scores(scores, length);
    ck_assert_int_eq(attn_evict_h2o(scores, length, heavy, recent, kept, &count), ATTN_OK);
    const size_t old = length > recent ? length - recent : 0;
    same_ranks(kept, count, expected, slow_choice(scores, old, heavy, length, expected));
    ck_assert_uint_eq(count, length < heavy + recent ? length : heavy + recent);
  }
}
END_TEST

/* torch.nn.functional.avg_pool1d and max_pool1d with padding = kernel / 2 and stride 1. */
static void pool(const float *votes, size_t count, size_t kernel, attn_pooling pooling,
                 float *pooled)
{
  for (size_t n = 0; n < count; n++) {
    double sum = 0.0;
    float most = -INFINITY;
    bool any = false;
    for (size_t k = 0; k < kernel; k++) {
      const int64_t at = (int64_t)(n + k) - (int64_t)(kernel / 2);
      if (at < 0 || at >= (int64_t)count)
        continue;
      sum += (double)votes[at];
      any = any || !isnan(votes[at]);
      most = votes[at] > most ? votes[at] : most;
    }
    pooled[n] = pooling == ATTN_POOLING_AVERAGE ? (float)(sum / (double)kernel) : any ? most : NAN;
  }
}

START_TEST(snapkv)
{
  float votes[MOST], pooled[MOST];
  int32_t kept[MOST], expected[MOST];
  size_t count;
  for (int trial = 0; trial < TRIALS / 10; trial++) {
    const size_t length = below(MOST + 1), capacity = below(60), kernel = 2 * below(5) + 1;
    const size_t window = below((uint32_t)capacity + 1);
    const attn_pooling pooling = below(2) == 0 ? ATTN_POOLING_AVERAGE : ATTN_POOLING_MAX;
    random_scores(votes, length);
    ck_assert_int_eq(
        attn_evict_snapkv(votes, length, window, capacity, kernel, pooling, kept, &count), ATTN_OK);
    size_t known = 0;
    if (length <= capacity) {
      for (; known < length; known++)
        expected[known] = (int32_t)known;
    } else {
      pool(votes, length - window, kernel, pooling, pooled);
      known = slow_choice(pooled, length - window, capacity - window, length, expected);
    }
    same_ranks(kept, count, expected, known);
    ck_assert_uint_eq(count, length < capacity ? length : capacity);
  }
}
END_TEST

START_TEST(streaming)
{
  int32_t kept[MOST], expected[MOST];
  size_t count;
  for (int trial = 0; trial < TRIALS / 10; trial++) {
    const size_t length = below(MOST + 1), sinks = below(8), recent = below(40);
    const size_t adding = below((uint32_t)recent + 1);
    ck_assert_int_eq(attn_evict_streaming(length, sinks, recent, adding, kept, &count), ATTN_OK);
    size_t known = 0;
    for (size_t n = 0; n < length; n++) {
      if (length + adding <= sinks + recent || n < sinks || n + recent >= length + adding)
        expected[known++] = (int32_t)n;
    }
    same_ranks(kept, count, expected, known);
    ck_assert(count + adding <= sinks + recent || length <= sinks);
  }
}
END_TEST

/* Equivalence 13: with room for all tokens nothing is dropped. */
START_TEST(budgets_that_are_enough)
{
  float scores[MOST];
  int32_t kept[MOST];
  size_t count;
  for (size_t length = 0; length <= MOST; length += 7) {
    random_scores(scores, length);
    for (size_t part = 0; part <= length; part += 5) {
      attn_evict_h2o(scores, length, part, length - part, kept, &count);
      ck_assert_uint_eq(count, length);
      attn_evict_snapkv(scores, length, part, length, 5, ATTN_POOLING_AVERAGE, kept, &count);
      ck_assert_uint_eq(count, length);
      attn_evict_streaming(length, part, length - part, 0, kept, &count);
      ck_assert_uint_eq(count, length);
    }
  }
}
END_TEST

START_TEST(scores_of_heads)
{
  /* 4 query heads, 2 K/V heads, 3 tokens */
  const float mass[12] = {1, 2, 3, 10, 20, 30, 5, 6, 7, 50, 60, 70};
  float scores[10] = {1, 1, 1, 9, 9, 0, 0, 0, 9, 9};
  ck_assert_int_eq(attn_scores_add(scores, 5, 2, mass, 4, 3), ATTN_OK);
  const float expected[10] = {12, 23, 34, 9, 9, 55, 66, 77, 9, 9};
  for (int n = 0; n < 10; n++)
    ck_assert_float_eq(scores[n], expected[n]);
  const int32_t ranks[] = {0, 2}, down[] = {2, 0};
  ck_assert_int_eq(attn_scores_keep(scores, 3, ranks, 2), ATTN_OK);
  ck_assert_float_eq(scores[0], 12);
  ck_assert_float_eq(scores[1], 34);
  ck_assert_float_eq(scores[2], 0);
  ck_assert_float_eq(scores[3], 9);
  ck_assert_int_eq(attn_scores_keep(scores, 3, down, 2), ATTN_ERROR_ARGUMENT);
  ck_assert_int_eq(attn_scores_keep(scores, 2, ranks, 2), ATTN_ERROR_ARGUMENT);
  ck_assert_float_eq(scores[0], 12);
  ck_assert_int_eq(attn_scores_add(scores, 5, 3, mass, 4, 3), ATTN_ERROR_ARGUMENT);
  ck_assert_int_eq(attn_scores_add(scores, 2, 2, mass, 4, 3), ATTN_ERROR_ARGUMENT);
}
END_TEST

START_TEST(wrong_arguments)
{
  const float votes[4] = {0};
  int32_t kept[4];
  size_t count = 7;
  const attn_pooling average = ATTN_POOLING_AVERAGE;
  ck_assert_int_eq(attn_evict_streaming(4, 1, 2, 3, kept, &count), ATTN_ERROR_ARGUMENT);
  ck_assert_uint_eq(count, 0);
  ck_assert_int_eq(attn_evict_streaming(4, 1, 2, 1, NULL, &count), ATTN_ERROR_ARGUMENT);
  ck_assert_int_eq(attn_evict_streaming(4, 1, 2, 1, kept, NULL), ATTN_ERROR_ARGUMENT);
  ck_assert_int_eq(attn_evict_h2o(NULL, 4, 1, 1, kept, &count), ATTN_ERROR_ARGUMENT);
  ck_assert_int_eq(attn_evict_h2o(NULL, 0, 1, 1, NULL, &count), ATTN_OK);
  ck_assert_int_eq(attn_evict_snapkv(votes, 4, 1, 3, 4, average, kept, &count),
                   ATTN_ERROR_ARGUMENT);
  ck_assert_int_eq(attn_evict_snapkv(votes, 4, 4, 3, 5, average, kept, &count),
                   ATTN_ERROR_ARGUMENT);
  ck_assert_int_eq(attn_evict_snapkv(votes, 4, 1, 3, 5, (attn_pooling)2, kept, &count),
                   ATTN_ERROR_ARGUMENT);
}
END_TEST

/* H2O step by step: the heavy tokens and the newest ones are in the cache, in order, with their own
 * positions, whatever was dropped before. */
START_TEST(with_a_cache)
{
  enum { HEAVY = 5, RECENT = 4, STEPS = 60 };
  struct world w;
  attn_cache_options options = ATTN_CACHE_OPTIONS_INIT;
  options.tokens = 16;
  world_open(&w, "cpu", "cache paged(page = 4), positions = stored", &options);
  attn_sequence sequence;
  ck_assert_int_eq(attn_cache_add(w.cache, &sequence), ATTN_OK);
  float scores[16] = {0};
  int32_t positions[16], kept[16];
  size_t length = 0;
  const uint32_t one = 1;
  attn_cache_batch *batch;
  for (uint32_t step = 0; step < STEPS; step++) {
    float mass[16];
    ck_assert_int_eq(attn_cache_begin(w.cache, &sequence, &one, 1, &batch), ATTN_OK);
    struct view view = view_of(&w, batch, 0);
    touch_token(&view, 0, (int64_t)length, step, true, true);
    store_position(&view, 0, (int64_t)length, (int32_t)step);
    positions[length++] = (int32_t)step;
    for (size_t n = 0; n < length; n++) {
      ck_assert(touch_token(&view, 0, (int64_t)n, (uint32_t)positions[n], true, false));
      ck_assert_int_eq(stored_position(&view, 0, (int64_t)n), positions[n]);
      mass[n] = (float)below(100);
    }
    ck_assert_int_eq(table_entry(&view, "seen", 0, 0), (int32_t)step + 1);
    ck_assert_int_eq(attn_cache_end(batch), ATTN_OK);
    ck_assert_int_eq(attn_scores_add(scores, 16, 1, mass, 1, length), ATTN_OK);
    size_t count;
    ck_assert_int_eq(attn_evict_h2o(scores, length, HEAVY, RECENT, kept, &count), ATTN_OK);
    ck_assert_int_eq(attn_cache_keep(w.cache, sequence, kept, count, 1), ATTN_OK);
    ck_assert_int_eq(attn_scores_keep(scores, length, kept, count), ATTN_OK);
    for (size_t n = 0; n < count; n++)
      positions[n] = positions[kept[n]];
    length = count;
    ck_assert_uint_le(length, HEAVY + RECENT);
    ck_assert_int_eq(positions[length - 1], (int32_t)step);
  }
  world_close(&w);
}
END_TEST

int main(void)
{
  Suite *suite = suite_create("cache_policy");
  TCase *tests = tcase_create("policies");
  tcase_add_test(tests, h2o);
  tcase_add_test(tests, snapkv);
  tcase_add_test(tests, streaming);
  tcase_add_test(tests, budgets_that_are_enough);
  tcase_add_test(tests, scores_of_heads);
  tcase_add_test(tests, wrong_arguments);
  tcase_add_test(tests, with_a_cache);
  suite_add_tcase(suite, tests);
  return run_suite(suite);
}
