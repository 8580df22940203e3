/* Keys that no row sees, and keys in another order. */
#include "tests/numeric/cache_properties/model.h"

#include "runtime/attnc/random.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- hidden keys ---- */

enum { HIDDEN = -1 };
static int visible_rank[MOST_TOKENS]; /* of the token at a position, or HIDDEN */

/* Visible tokens are those of the story without hidden ones, which hold NaN and infinities. */
static float among_hidden(enum what what, int story, int64_t position, int head, int channel)
{
  const int rank = visible_rank[position];
  if (rank == HIDDEN && what != WHAT_Q)
    return channel % 2 == 0 ? NAN : -INFINITY;
  return any_element(what, story, rank == HIDDEN ? position : rank, head, channel);
}

static int64_t hide_tokens(int64_t tokens, struct draw *draw)
{
  int64_t visible = 0;
  for (int64_t n = 0; n < tokens; n++)
    visible_rank[n] = n > 0 && pick(draw, 0, 2) == 0 ? HIDDEN : (int)visible++;
  return visible;
}

static const char *const hiding[] = {"dense", "paged(page = 4)", "ring(capacity = 160)",
                                     "paged(page = 16), k = int8, v = e4m3"};

START_TEST(hidden_keys_change_nothing)
{
  struct draw draw = draw_of("hidden", _i);
  static struct rows found, wanted, shown;
  char text[512];
  const char *cache = hiding[_i % 4];
  snprintf(text, sizeof(text),
           "  input hidden : bool[B, NK] cached\n  mask causal and not hidden[b, j]\n"
           "  cache %s\n",
           cache);
  const int64_t tokens = on_device() ? 40 : pick(&draw, 2, MOST_TOKENS - 1);
  const int64_t visible = hide_tokens(tokens, &draw);
  struct model m = model_open(text, NULL);
  m.element = among_hidden;
  struct store s;
  store_open(&s, &m, 1, MOST_TOKENS, &draw);
  memset(&found, 0, sizeof(found));
  for (int64_t done = 0, rows; done < tokens; done += rows) {
    rows = pick(&draw, 1, tokens - done);
    struct batch step = {.sequences = 1, .lengths = {done + rows}, .rows = {rows}};
    struct array hidden;
    array_make(&hidden, ATTN_TYPE_BOOL, 2, (int64_t[]){1, rows});
    for (int64_t n = 0; n < rows; n++)
      ((unsigned char *)hidden.host)[n] = visible_rank[done + n] == HIDDEN;
    array_upload(&hidden);
    store_set_lengths(&s, step.lengths);
    attn_named_tensor input = {"hidden", &hidden.tensor};
    step.inputs = &input, step.input_count = 1;
    model_append(&m, s.named, s.info->cache_count, &step);
    step.input_count = 0; /* it is in the cache */
    model_attend(&m, s.named, s.info->cache_count, &step, &found);
    array_free(&hidden);
  }
  /* The visible tokens alone, on the same kind of cache: it may round them. */
  snprintf(text, sizeof(text), "  mask causal\n  cache %s\n", cache);
  struct model alone = model_open(text, NULL);
  struct store bare;
  struct batch whole = {.sequences = 1, .lengths = {visible}};
  store_open(&bare, &alone, 1, MOST_TOKENS, &draw);
  store_fill(&bare, &alone, &whole, &draw, &wanted);
  memset(&shown, 0, sizeof(shown));
  for (int64_t n = 0; n < tokens; n++) {
    const int rank = visible_rank[n];
    if (rank == HIDDEN)
      continue;
    memcpy(shown.values[0][rank], found.values[0][n], sizeof(found.values[0][n]));
    shown.known[0][rank] = true;
  }
  expect_rows(cache, &shown, &wanted);
  store_close(&bare);
  model_close(&alone);
  store_close(&s);
  model_close(&m);
}
END_TEST

/* ---- keys in another order ---- */

static const char *const permuted[] = {
    "paged(page = 5), positions = stored",
    "dense, positions = stored, rope = read",
    "paged(page = 16), positions = stored, k = int8, v = int4(group = 4)",
};

START_TEST(order_does_not_matter)
{
  struct draw draw = draw_of("permuted", _i);
  static struct rows before, after;
  char text[512];
  snprintf(text, sizeof(text), "  mask sliding(50)\n  position rope\n  cache %s\n",
           permuted[_i % 3]);
  struct model m = model_open(text, NULL);
  struct batch whole = {.sequences = 2, .stories = {0, 1}};
  int64_t order[MOST_TOKENS];
  for (int b = 0; b < 2; b++)
    whole.lengths[b] = pick(&draw, 1, on_device() ? 40 : MOST_TOKENS - 1);
  struct store s;
  store_open(&s, &m, 2, MOST_TOKENS, &draw);
  store_fill(&s, &m, &whole, &draw, &before);
  for (int b = 0; b < 2; b++) {
    for (int64_t n = 0; n < whole.lengths[b]; n++)
      order[n] = n;
    for (int64_t n = whole.lengths[b]; n-- > 1;) { /* Fisher and Yates */
      const int64_t other = pick(&draw, 0, n), kept = order[n];
      order[n] = order[other];
      order[other] = kept;
    }
    store_permute(&s, b, order, whole.lengths[b]);
    whole.rows[b] = 1;
  }
  memset(&after, 0, sizeof(after));
  model_attend(&m, s.named, s.info->cache_count, &whole, &after);
  expect_rows(text, &after, &before);
  store_close(&s);
  model_close(&m);
}
END_TEST

void keys_add(TCase *tests)
{
  tcase_add_loop_test(tests, hidden_keys_change_nothing, 0, 4);
  tcase_add_loop_test(tests, order_does_not_matter, 0, draws(6, 3));
}
