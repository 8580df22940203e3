/* Equivalences of the keys: split, moved, packed, given one by one, chosen. */
#include "tests/numeric/equivalences/equivalences.h"

#include "runtime/attnc/random.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Heads and channels of USUAL. */
enum { HEADS = 4, KV_HEADS = 2, DIM = 16, VALUE = 12 };

static void make(struct tensor *tensor, const struct tensor *like)
{
  struct tensor_error error;
  ck_assert_int_eq(
      tensor_init(tensor, like->name, TENSOR_DTYPE_F32, like->ndim, like->shape, &error),
      TENSOR_OK);
}

/* ---- 2: the last row ---- */

START_TEST(last_row)
{
  const char *name = "2: last row of causal = last row of full";
  struct attention causal, full;
  if (!attention_open_two(&causal, USUAL "mask causal", &full, USUAL, name))
    return;
  for (uint64_t draw = 0; draw < draws(); draw++) {
    attention_prepare(&causal, sizes_draw(draw), draw, NULL);
    attention_prepare(&full, sizes_draw(draw), draw, NULL);
    attention_launch(&causal, name);
    attention_launch(&full, name);
    const struct workload *work = &full.work;
    if (draw == 0)
      ck_assert(tensor_distance(&causal.work.o, &work->o) > 1e-3);
    for (int64_t b = 0; b < work->batch; b++)
      for (int64_t h = 0; h < HEADS; h++) {
        const float *x = tensor_row(&causal.work.o, b, h, work->queries - 1);
        const float *y = tensor_row(&work->o, b, h, work->queries - 1);
        double largest = 0;
        for (int64_t c = 0; c < VALUE; c++)
          largest = fmax(largest, fabs((double)y[c]));
        for (int64_t c = 0; c < VALUE; c++)
          ck_assert_double_le(fabs((double)x[c] - (double)y[c]), tolerance() * largest);
      }
  }
  attention_close(&causal);
  attention_close(&full);
}
END_TEST

/* ---- 4: BigBird ---- */

START_TEST(bigbird)
{
  const char *name = "4: BigBird with every block drawn = full";
  struct attention drawn = {0}, full;
  if (!attention_open(&full, name, NULL, USUAL "align start"))
    return;
  bool lowered = attention_open(
      &drawn, name, "picks: int = 1",
      USUAL "align start\ninput drawn : i32[H, (NK + 15) // 16, picks]\n"
            "mask block_near(16, 1) or block_ends(16) or block_picked(drawn, 16, picks)");
  for (uint64_t draw = 0; draw < draws() && lowered; draw++) {
    struct sizes sizes = sizes_draw(draw);
    int64_t blocks = (sizes.keys + 15) / 16;
    char setting[32];
    snprintf(setting, sizeof(setting), "picks=%d", (int)blocks);
    attention_prepare(&full, sizes, draw, NULL);
    attention_prepare(&drawn, sizes, draw, setting);
    attention_launch(&full, name);
    struct tensor *table = attention_input(&drawn, "drawn");
    for (int64_t n = 0; n < tensor_count(table); n++)
      tensor_set(table, n, (double)((n + n / blocks) % blocks)); /* each row in another order */
    attention_launch(&drawn, name);
    expect_same(name, &drawn.work.o, &full.work.o);
    if (draw == 0) { /* the first block, which is visible anyway */
      tensor_fill(table, 0);
      attention_launch(&drawn, name);
      ck_assert(tensor_distance(&drawn.work.o, &full.work.o) > 1e-3);
    }
  }
  attention_close(&drawn);
  attention_close(&full);
}
END_TEST

/* ---- 10: NSA's branches ---- */

START_TEST(nsa_gates)
{
  const char *name = "10: NSA with gates (0, 0, 1) = window";
  static const char *const branches[3] = {
      "heads q = 4, kv = 1\ndim 16\nalign first\nmask j * 16 + 31 <= i",
      "heads q = 4, kv = 1\ndim 16\ninput importance : f32[B, G, NQ, (NK + 15) // 16]\n"
      "mask causal\nselect block = 16, top = 4, by = importance[b, g, r, n],\n"
      "always = n == 0 or i // 16 - 1 <= n <= i // 16, per = g",
      "heads q = 4, kv = 1\ndim 16\nmask sliding(20)"};
  static const double gates[3] = {0, 0, 1};
  struct attention branch[3] = {{.spec = NULL}}, window = {0};
  bool lowered = attention_open(&window, name, NULL,
                                "heads q = 4, kv = 1\ndim 16\nmask 0 <= i - j and i - j < 20");
  for (int n = 0; n < 3 && lowered; n++)
    lowered = attention_open(&branch[n], name, n == 0 ? "first: int = 0" : NULL, branches[n]);
  for (uint64_t draw = 0; draw < draws() && lowered; draw++) {
    struct sizes sizes = sizes_draw(draw), compressed = sizes;
    compressed.keys = sizes.keys < 32 ? 0 : (sizes.keys - 32) / 16 + 1;
    char setting[32];
    snprintf(setting, sizeof(setting), "first=%d", (int)(sizes.keys - sizes.queries));
    attention_prepare(&window, sizes, draw, NULL);
    attention_launch(&window, name);
    struct tensor sum;
    make(&sum, &window.work.o);
    for (int n = 0; n < 3; n++) {
      attention_prepare(&branch[n], n == 0 ? compressed : sizes, draw, n == 0 ? setting : NULL);
      attention_launch(&branch[n], name);
      for (int64_t x = 0; x < tensor_count(&sum); x++)
        tensor_set(&sum, x, tensor_get(&sum, x) + gates[n] * tensor_get(&branch[n].work.o, x));
    }
    expect_same(name, &sum, &window.work.o);
    tensor_free(&sum);
  }
  for (int n = 0; n < 3; n++)
    attention_close(&branch[n]);
  attention_close(&window);
}
END_TEST

/* ---- 11: any order, any parts ---- */

/* Keys have places of their own, so that a launch may hold any of them in any order. Every fifth
 * row sees none. */
#define PLACED                                                                                     \
  USUAL "align start\ninput row : i32[B, NQ]\ninput place : i32[B, NK]\n"                          \
        "mask place[b, j] <= row[b, r]\n"                                                          \
        "score s - 0.05 * abs(row[b, r] - place[b, j])\noutput lse"
#define UNSEEN 1000000

static void place_in_order(struct attention *a, uint64_t seed)
{
  struct tensor *row = attention_input(a, "row"), *place = attention_input(a, "place");
  int64_t keys = a->work.keys;
  for (int64_t n = 0; n < tensor_count(place); n++)
    tensor_set(place, n, (double)(n % keys));
  for (int64_t n = 0; n < tensor_count(row); n++)
    tensor_set(row, n,
               n % 5 == 4
                   ? -1
                   : (double)(random_bits(random_key(seed, "row"), (uint64_t)n) % (uint64_t)keys));
}

/* Key and value n of `to` become those of `from` at j or, where j is negative, NaN and infinities.
 */
static void copy_key(const struct workload *from, int64_t b, int64_t j, const struct workload *to,
                     int64_t n)
{
  for (int64_t g = 0; g < KV_HEADS; g++) {
    float *key = tensor_row(&to->k, b, g, n), *value = tensor_row(&to->v, b, g, n);
    if (j >= 0) {
      memcpy(key, tensor_row(&from->k, b, g, j), DIM * sizeof(float));
      memcpy(value, tensor_row(&from->v, b, g, j), VALUE * sizeof(float));
      continue;
    }
    for (int64_t c = 0; c < DIM; c++)
      key[c] = c % 2 == 0 ? NAN : INFINITY;
    for (int64_t c = 0; c < VALUE; c++)
      value[c] = c % 2 == 0 ? -INFINITY : NAN;
  }
}

/* Key n of `part` becomes key order[n] of `whole`; where that is negative, one that no row sees.
 * Queries and rows are those of `whole`. */
static void take_keys(const struct attention *whole, struct attention *part, const int64_t *order)
{
  struct workload *to = &part->work;
  const struct workload *from = &whole->work;
  for (int64_t b = 0; b < to->batch; b++)
    for (int64_t n = 0; n < to->keys; n++) {
      int64_t place =
          order[n] < 0 ? UNSEEN : (int64_t)tensor_get(&from->inputs[1], b * from->keys + order[n]);
      tensor_set(&to->inputs[1], b * to->keys + n, (double)place);
      copy_key(from, b, order[n], to, n);
    }
  memcpy(to->q.data, from->q.data, from->q.bytes);
  memcpy(to->inputs[0].data, from->inputs[0].data, from->inputs[0].bytes);
}

/* Fisher and Yates. */
static void shuffle(int64_t *order, int64_t count, uint64_t seed)
{
  uint64_t key = random_key(seed, "shuffle");
  for (int64_t n = count - 1; n > 0; n--) {
    int64_t other = (int64_t)(random_bits(key, (uint64_t)n) % (uint64_t)(n + 1));
    int64_t kept = order[n];
    order[n] = order[other];
    order[other] = kept;
  }
}

enum { APPENDED = 97 };

START_TEST(moved_keys)
{
  const char *name = "11: keys in another order, among masked ones that hold NaN = the same";
  struct attention whole, moved;
  if (!attention_open_two(&whole, PLACED, &moved, PLACED, name))
    return;
  for (uint64_t draw = 0; draw < 3 * draws(); draw++) {
    struct sizes sizes = sizes_draw(draw / 3);
    attention_prepare(&whole, sizes, draw, NULL);
    place_in_order(&whole, draw);
    attention_launch(&whole, name);
    int64_t order[MOST_KEYS + APPENDED], keys = sizes.keys;
    if (draw % 3 != 0) /* 0: order alone; 1: keys appended; 2: both */
      sizes.keys += 1 + (int64_t)(31 * draw % APPENDED);
    for (int64_t n = 0; n < sizes.keys; n++)
      order[n] = n < keys ? n : -1;
    if (draw % 3 != 1)
      shuffle(order, sizes.keys, draw);
    attention_prepare(&moved, sizes, draw, NULL);
    take_keys(&whole, &moved, order);
    attention_launch(&moved, name);
    expect_same(name, &moved.work.o, &whole.work.o);
    expect_same(name, attention_output(&moved, "lse"), attention_output(&whole, "lse"));
  }
  attention_close(&whole);
  attention_close(&moved);
}
END_TEST

START_TEST(padded_keys)
{
  const char *name = "11: keys beyond the length, holding NaN = none";
  struct attention whole, padded;
  if (!attention_open_two(&whole, USUAL "align start\nposition rope", &padded,
                          USUAL "align start\nposition rope\ninput length : i32[B]\n"
                                "mask j < length[b]",
                          name))
    return;
  for (uint64_t draw = 0; draw < draws(); draw++) {
    struct sizes sizes = sizes_draw(draw), longer = sizes;
    longer.keys += 1 + (int64_t)(29 * draw);
    attention_prepare(&whole, sizes, draw, NULL);
    attention_prepare(&padded, longer, draw, NULL);
    tensor_fill(attention_input(&padded, "length"), (double)sizes.keys);
    for (int64_t b = 0; b < sizes.batch; b++)
      for (int64_t n = 0; n < longer.keys; n++)
        copy_key(&whole.work, b, n < sizes.keys ? n : -1, &padded.work, n);
    attention_launch(&whole, name);
    attention_launch(&padded, name);
    expect_same(name, &padded.work.o, &whole.work.o);
  }
  attention_close(&whole);
  attention_close(&padded);
}
END_TEST

/* (o, lse) of some keys joined by (o, lse) of others (Flash-Decoding, Dao et al. 2023). */
static void merge(struct attention *into, struct attention *part)
{
  float *lse = attention_output(into, "lse")->data;
  const float *other = attention_output(part, "lse")->data;
  float *o = into->work.o.data;
  const float *other_o = part->work.o.data;
  for (int64_t row = 0; row < tensor_count(attention_output(into, "lse")); row++) {
    double x = (double)lse[row], y = (double)other[row], largest = fmax(x, y);
    if (isinf(largest))
      continue; /* neither sees a key */
    double a = exp(x - largest), b = exp(y - largest);
    for (int64_t c = row * VALUE; c < (row + 1) * VALUE; c++)
      o[c] = (float)((a * (double)o[c] + b * (double)other_o[c]) / (a + b));
    lse[row] = (float)(largest + log(a + b));
  }
}

START_TEST(split_keys)
{
  const char *name = "11: keys in two parts, merged = all of them";
  struct attention whole, first, second;
  if (!attention_open_two(&whole, PLACED, &first, PLACED, name))
    return;
  ck_assert(attention_open(&second, name, NULL, PLACED));
  for (uint64_t draw = 0; draw < 2 * draws(); draw++) {
    struct sizes sizes = sizes_draw(draw / 2), part = sizes;
    attention_prepare(&whole, sizes, draw, NULL);
    place_in_order(&whole, draw);
    attention_launch(&whole, name);
    int64_t order[MOST_KEYS];
    for (int64_t n = 0; n < sizes.keys; n++)
      order[n] = n;
    if (draw % 2 == 1) /* parts that lie between each other */
      shuffle(order, sizes.keys, draw);
    int64_t cut = (int64_t)(random_bits(random_key(draw, "cut"), 0) % (uint64_t)(sizes.keys + 1));
    part.keys = cut;
    attention_prepare(&first, part, draw, NULL);
    take_keys(&whole, &first, order);
    part.keys = sizes.keys - cut;
    attention_prepare(&second, part, draw, NULL);
    take_keys(&whole, &second, order + cut);
    attention_launch(&first, name);
    attention_launch(&second, name);
    merge(&first, &second);
    expect_same(name, &first.work.o, &whole.work.o);
    expect_same(name, attention_output(&first, "lse"), attention_output(&whole, "lse"));
  }
  attention_close(&whole);
  attention_close(&first);
  attention_close(&second);
}
END_TEST

/* ---- 12: packed batches, decoding ---- */

/* Sequence b of packed tokens [total, H, channels] and a batch of one [1, H, N, channels]; copies
 * to the latter, or from it. */
static void copy_sequence(struct tensor *packed, int64_t start, struct tensor *alone)
{
  for (int64_t h = 0; h < alone->shape[1]; h++)
    for (int64_t n = 0; n < alone->shape[2]; n++)
      memcpy(tensor_row(alone, 0, h, n), tensor_row(packed, start + n, h, 0),
             (size_t)alone->shape[3] * sizeof(float));
}

START_TEST(packed)
{
  const char *name = "12: packed sequences = a call for each";
  struct attention packed, alone;
  if (!attention_open_two(&packed, USUAL "mask causal\nposition rope\ncache ragged", &alone,
                          USUAL "mask causal\nposition rope", name))
    return;
  static const int64_t queries[][4] = {{33, 1, 0, 20}, {1, 1, 1, 1}, {7, 100, 40, 9}};
  static const int64_t keys[][4] = {{33, 50, 8, 97}, {64, 1, 17, 130}, {3, 100, 41, 0}};
  for (uint64_t draw = 0; draw < 3; draw++) {
    attention_prepare_packed(&packed, 4, queries[draw], keys[draw], draw);
    attention_launch(&packed, name);
    struct workload *work = &packed.work;
    for (int64_t b = 0; b < 4; b++) {
      attention_prepare(&alone, (struct sizes){1, queries[draw][b], keys[draw][b]}, draw, NULL);
      copy_sequence(&work->q, work->query_starts[b], &alone.work.q);
      copy_sequence(&work->k, work->key_starts[b], &alone.work.k);
      copy_sequence(&work->v, work->key_starts[b], &alone.work.v);
      attention_launch(&alone, name);
      struct tensor o;
      make(&o, &alone.work.o);
      copy_sequence(&work->o, work->query_starts[b], &o);
      expect_same(name, &o, &alone.work.o);
      tensor_free(&o);
    }
  }
  attention_close(&packed);
  attention_close(&alone);
}
END_TEST

static const char *const decoded[] = {
    USUAL "mask causal\nposition rope", USUAL "mask sliding(9)\nposition alibi",
    USUAL "mask causal and (sinks(2) or sliding(16))\nnormalize softmax(plus = 1)"};

START_TEST(decoding)
{
  const char *name = "12: prefill = steps of some tokens each";
  enum { TOKENS = 45, BATCH = 2 };
  struct attention whole, step;
  if (!attention_open_two(&whole, decoded[_i], &step, decoded[_i], name))
    return;
  for (int64_t size = 1; size <= 16; size += 15) {
    attention_prepare(&whole, (struct sizes){BATCH, TOKENS, TOKENS}, (uint64_t)size, NULL);
    attention_launch(&whole, name);
    struct tensor o;
    make(&o, &whole.work.o);
    for (int64_t from = 0; from < TOKENS; from += size) {
      int64_t to = from + size < TOKENS ? from + size : TOKENS;
      attention_prepare(&step, (struct sizes){BATCH, to - from, to}, 0, NULL);
      for (int64_t b = 0; b < BATCH; b++) {
        for (int64_t h = 0; h < HEADS; h++)
          memcpy(tensor_row(&step.work.q, b, h, 0), tensor_row(&whole.work.q, b, h, from),
                 (size_t)(to - from) * DIM * sizeof(float));
        for (int64_t g = 0; g < KV_HEADS; g++) {
          memcpy(tensor_row(&step.work.k, b, g, 0), tensor_row(&whole.work.k, b, g, 0),
                 (size_t)to * DIM * sizeof(float));
          memcpy(tensor_row(&step.work.v, b, g, 0), tensor_row(&whole.work.v, b, g, 0),
                 (size_t)to * VALUE * sizeof(float));
        }
      }
      attention_launch(&step, name);
      for (int64_t b = 0; b < BATCH; b++)
        for (int64_t h = 0; h < HEADS; h++)
          memcpy(tensor_row(&o, b, h, from), tensor_row(&step.work.o, b, h, 0),
                 (size_t)(to - from) * VALUE * sizeof(float));
    }
    expect_same(name, &o, &whole.work.o);
    tensor_free(&o);
  }
  attention_close(&whole);
  attention_close(&step);
}
END_TEST

void keys_add(TCase *tests)
{
  tcase_add_test(tests, last_row);
  tcase_add_test(tests, bigbird);
  tcase_add_test(tests, nsa_gates);
  tcase_add_test(tests, moved_keys);
  tcase_add_test(tests, padded_keys);
  tcase_add_test(tests, split_keys);
  tcase_add_test(tests, packed);
  tcase_add_loop_test(tests, decoding, 0, (int)(sizeof(decoded) / sizeof(*decoded)));
}
