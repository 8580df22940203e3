/* Equivalences of the tensors' layout: heads, channels, latents. */
#include "tests/numeric/equivalences/equivalences.h"

#include "runtime/attnc/random.h"

#include <string.h>

/* ---- 1: shared K/V heads ---- */

/* Query head h of `to` gets what its K/V head is in `from`. */
static void repeat_heads(const struct tensor *from, struct tensor *to)
{
  int64_t group = to->shape[1] / from->shape[1];
  size_t bytes = (size_t)(to->shape[2] * to->shape[3]) * sizeof(float);
  for (int64_t b = 0; b < to->shape[0]; b++)
    for (int64_t h = 0; h < to->shape[1]; h++)
      memcpy(tensor_row(to, b, h, 0), tensor_row(from, b, h / group, 0), bytes);
}

static void check_repeated(const char *name, const char *shared_heads)
{
  struct attention shared, each;
  if (!attention_open_two(&shared, shared_heads, &each, "heads 6\ndim qk = 16, v = 12\nmask causal",
                          name))
    return;
  for (uint64_t draw = 0; draw < draws(); draw++) {
    attention_prepare(&shared, sizes_draw(draw), draw, NULL);
    attention_prepare(&each, sizes_draw(draw), draw, NULL);
    repeat_heads(&shared.work.k, &each.work.k);
    repeat_heads(&shared.work.v, &each.work.v);
    attention_launch(&shared, name);
    attention_launch(&each, name);
    expect_same(name, &shared.work.o, &each.work.o);
  }
  attention_close(&shared);
  attention_close(&each);
}

START_TEST(repeated_heads)
{
  check_repeated("1: GQA = MHA on repeated K and V",
                 "heads q = 6, kv = 2\ndim qk = 16, v = 12\nmask causal");
  check_repeated("1: MQA = MHA on one K and V",
                 "heads q = 6, kv = 1\ndim qk = 16, v = 12\nmask causal");
}
END_TEST

/* ---- 7: pairings of channels ---- */

/* Pair m is (m, m + D / 2) in `half` and (2m, 2m + 1) in `interleaved`. */
static void interleave(const struct tensor *half, struct tensor *interleaved)
{
  int64_t dim = half->shape[3];
  const float *from = half->data;
  float *to = interleaved->data;
  for (int64_t n = 0; n < tensor_count(half); n++) {
    int64_t c = n % dim;
    int64_t moved = c < dim / 2 ? 2 * c : 2 * (c - dim / 2) + 1;
    to[n - c + moved] = from[n];
  }
}

START_TEST(pairings)
{
  const char *name = "7: interleaved pairs = half-split ones, channels permuted";
  struct attention half, interleaved;
  if (!attention_open_two(&half, USUAL "mask causal\nposition rope", &interleaved,
                          USUAL "mask causal\nposition rope(pairing = interleaved)", name))
    return;
  for (uint64_t draw = 0; draw < draws(); draw++) {
    attention_prepare(&half, sizes_draw(draw), draw, NULL);
    attention_prepare(&interleaved, sizes_draw(draw), draw, NULL);
    attention_launch(&half, name);
    attention_launch(&interleaved, name);
    if (draw == 0)
      ck_assert(tensor_distance(&half.work.o, &interleaved.work.o) > 1e-3);
    interleave(&half.work.q, &interleaved.work.q);
    interleave(&half.work.k, &interleaved.work.k);
    attention_launch(&interleaved, name);
    expect_same(name, &half.work.o, &interleaved.work.o);
  }
  attention_close(&half);
  attention_close(&interleaved);
}
END_TEST

/* ---- 9: latent attention ---- */

enum { HEADS = 4, CONTENT = 8, ROTARY = 8, VALUE = 12, LATENT = 24 };

/* W_UK and W_UV of head h: [CONTENT or VALUE, LATENT], of about the size that keeps a product's. */
static double weight_of(const char *matrix, int64_t h, int64_t row, int64_t latent)
{
  return 0.2 *
         random_normal(random_key(9, matrix), (uint64_t)((h * VALUE + row) * LATENT + latent));
}

/* to[x] = W[h] from, or with `transposed` to[latent] = W[h]^T from. */
static void project(const char *matrix, int64_t h, int64_t rows, bool transposed, const float *from,
                    float *to)
{
  int64_t outer = transposed ? LATENT : rows, inner = transposed ? rows : LATENT;
  for (int64_t x = 0; x < outer; x++) {
    double sum = 0;
    for (int64_t y = 0; y < inner; y++)
      sum += weight_of(matrix, h, transposed ? y : x, transposed ? x : y) * (double)from[y];
    to[x] = (float)sum;
  }
}

/* From the latent keys [B, 1, NK, LATENT + ROTARY] of `absorbed` the keys and values of `naive`;
 * from the queries of `naive` those of `absorbed`. */
static void expand(struct attention *naive, struct attention *absorbed)
{
  const struct workload *work = &naive->work;
  for (int64_t b = 0; b < work->batch; b++)
    for (int64_t h = 0; h < HEADS; h++) {
      for (int64_t j = 0; j < work->keys; j++) {
        const float *latent = tensor_row(&absorbed->work.k, b, 0, j);
        float *key = tensor_row(&work->k, b, h, j);
        project("W_UK", h, CONTENT, false, latent, key);
        memcpy(key + CONTENT, latent + LATENT, ROTARY * sizeof(float));
        project("W_UV", h, VALUE, false, latent, tensor_row(&work->v, b, h, j));
      }
      for (int64_t r = 0; r < work->queries; r++) {
        const float *query = tensor_row(&work->q, b, h, r);
        float *to = tensor_row(&absorbed->work.q, b, h, r);
        project("W_UK", h, CONTENT, true, query, to);
        memcpy(to + LATENT, query + CONTENT, ROTARY * sizeof(float));
      }
    }
}

#define NAIVE "heads 4\ndim qk = 16, v = 12\nscale 16 ** -0.5\nmask causal\n"

START_TEST(absorbed_latents)
{
  const char *name = "9: MLA naive = absorbed";
  struct attention naive, absorbed;
  if (!attention_open_two(&naive, NAIVE "position rope(from = 8, pairing = interleaved)", &absorbed,
                          "heads q = 4, kv = 1\ndim qk = 32, v = 24\nscale 16 ** -0.5\n"
                          "mask causal\nvalue k[0:24]\n"
                          "position rope(from = 24, dim = 8, pairing = interleaved)",
                          name))
    return;
  for (uint64_t draw = 0; draw < 2; draw++) {
    attention_prepare(&naive, sizes_draw(draw), draw, NULL);
    attention_prepare(&absorbed, sizes_draw(draw), draw, NULL);
    expand(&naive, &absorbed);
    attention_launch(&naive, name);
    attention_launch(&absorbed, name);
    struct tensor projected;
    struct tensor_error error;
    ck_assert_int_eq(tensor_init(&projected, "o", TENSOR_DTYPE_F32, 4, naive.work.o.shape, &error),
                     TENSOR_OK);
    for (int64_t b = 0; b < naive.work.batch; b++)
      for (int64_t h = 0; h < HEADS; h++)
        for (int64_t r = 0; r < naive.work.queries; r++)
          project("W_UV", h, VALUE, false, tensor_row(&absorbed.work.o, b, h, r),
                  tensor_row(&projected, b, h, r));
    expect_same(name, &projected, &naive.work.o);
    tensor_free(&projected);
  }
  attention_close(&naive);
  attention_close(&absorbed);
}
END_TEST

START_TEST(separate_rotary_parts)
{
  const char *name = "9: MLA with a product of its own for the rotary parts = naive";
  struct attention naive, apart;
  if (!attention_open_two(&naive, NAIVE, &apart,
                          "heads 4\ndim qk = 8, v = 12\nscale 16 ** -0.5\nmask causal\n"
                          "input qr : f32[B, H, NQ, 8]\ninput kr : f32[B, NK, 8]\n"
                          "similarity dot(q, k) + dot(qr[b, h, r], kr[b, j])",
                          name))
    return;
  for (uint64_t draw = 0; draw < draws(); draw++) {
    attention_prepare(&naive, sizes_draw(draw), draw, NULL);
    attention_prepare(&apart, sizes_draw(draw), draw, NULL);
    const struct workload *work = &apart.work;
    const float *kr = attention_input(&apart, "kr")->data;
    for (int64_t b = 0; b < work->batch; b++)
      for (int64_t h = 0; h < HEADS; h++) {
        for (int64_t r = 0; r < work->queries; r++) {
          float *to = tensor_row(&naive.work.q, b, h, r);
          memcpy(to, tensor_row(&work->q, b, h, r), CONTENT * sizeof(float));
          memcpy(to + CONTENT, tensor_row(attention_input(&apart, "qr"), b, h, r),
                 ROTARY * sizeof(float));
        }
        for (int64_t j = 0; j < work->keys; j++) {
          float *to = tensor_row(&naive.work.k, b, h, j);
          memcpy(to, tensor_row(&work->k, b, h, j), CONTENT * sizeof(float));
          memcpy(to + CONTENT, kr + (b * work->keys + j) * ROTARY, ROTARY * sizeof(float));
        }
      }
    attention_launch(&naive, name);
    attention_launch(&apart, name);
    expect_same(name, &apart.work.o, &naive.work.o);
  }
  attention_close(&naive);
  attention_close(&apart);
}
END_TEST

/* The latent is all heads' keys, then all heads' values; W_UK[h] and W_UV[h] pick block h. */
START_TEST(packed_latents)
{
  const char *name = "9: MLA without rotary part, K and V packed in the latent = MHA";
  struct attention plain, latent;
  if (!attention_open_two(&plain, "heads 4\ndim 8\nmask causal", &latent,
                          "heads q = 4, kv = 1\ndim qk = 64, v = 64\nscale 8 ** -0.5\n"
                          "mask causal\nvalue k[0:64]",
                          name))
    return;
  enum { DIM = 8, VALUES = HEADS * DIM };
  const size_t bytes = DIM * sizeof(float);
  for (uint64_t draw = 0; draw < draws(); draw++) {
    attention_prepare(&plain, sizes_draw(draw), draw, NULL);
    attention_prepare(&latent, sizes_draw(draw), draw, NULL);
    const struct workload *work = &plain.work;
    tensor_fill(&latent.work.q, 0);
    for (int64_t b = 0; b < work->batch; b++)
      for (int64_t h = 0; h < HEADS; h++) {
        for (int64_t r = 0; r < work->queries; r++)
          memcpy(tensor_row(&latent.work.q, b, h, r) + h * DIM, tensor_row(&work->q, b, h, r),
                 bytes);
        for (int64_t j = 0; j < work->keys; j++) {
          float *to = tensor_row(&latent.work.k, b, 0, j) + h * DIM;
          memcpy(to, tensor_row(&work->k, b, h, j), bytes);
          memcpy(to + VALUES, tensor_row(&work->v, b, h, j), bytes);
        }
      }
    attention_launch(&plain, name);
    attention_launch(&latent, name);
    struct tensor *o = &plain.work.o;
    struct tensor_error error;
    struct tensor picked;
    ck_assert_int_eq(tensor_init(&picked, "o", TENSOR_DTYPE_F32, 4, o->shape, &error), TENSOR_OK);
    for (int64_t b = 0; b < work->batch; b++)
      for (int64_t h = 0; h < HEADS; h++)
        for (int64_t r = 0; r < work->queries; r++)
          memcpy(tensor_row(&picked, b, h, r),
                 tensor_row(&latent.work.o, b, h, r) + VALUES + h * DIM, bytes);
    expect_same(name, &picked, o);
    tensor_free(&picked);
  }
  attention_close(&plain);
  attention_close(&latent);
}
END_TEST

void heads_add(TCase *tests)
{
  tcase_add_test(tests, repeated_heads);
  tcase_add_test(tests, pairings);
  tcase_add_test(tests, absorbed_latents);
  tcase_add_test(tests, separate_rotary_parts);
  tcase_add_test(tests, packed_latents);
}
