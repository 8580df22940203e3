/* Equivalences of the weights of a row: what they sum to, and what a sink leaves of them. */
#include "tests/numeric/equivalences/equivalences.h"

#include <math.h>
#include <string.h>

static double sigmoid(double x)
{
  return 1 / (1 + exp(-x));
}

/* ---- 5: a sink rescales the row ---- */

START_TEST(sink_after_the_fact)
{
  const char *name = "5: o with a sink = o sigmoid(lse - a)";
  struct attention plain, sink;
  if (!attention_open_two(&plain, USUAL "mask causal\noutput lse", &sink,
                          USUAL "mask causal\ninput a : f32[H]\nnormalize softmax(sink = a[h])\n"
                                "output lse",
                          name))
    return;
  for (uint64_t draw = 0; draw < draws(); draw++) {
    attention_prepare(&plain, sizes_draw(draw), draw, NULL);
    attention_prepare(&sink, sizes_draw(draw), draw, NULL);
    attention_launch(&plain, name);
    attention_launch(&sink, name);
    const struct workload *work = &plain.work;
    const float *a = attention_input(&sink, "a")->data;
    for (int64_t b = 0; b < work->batch; b++)
      for (int64_t h = 0; h < 4; h++)
        for (int64_t r = 0; r < work->queries; r++) {
          float *lse = tensor_row(attention_output(&plain, "lse"), b, h, r);
          float *o = tensor_row(&work->o, b, h, r);
          for (int64_t c = 0; c < 12; c++)
            o[c] *= (float)sigmoid((double)*lse - (double)a[h]);
          *lse = logf(expf(*lse) + expf(a[h]));
        }
    expect_same(name, &sink.work.o, &work->o);
    expect_same(name, attention_output(&sink, "lse"), attention_output(&plain, "lse"));
  }
  attention_close(&plain);
  attention_close(&sink);
}
END_TEST

/* ---- 8: a map less itself ---- */

START_TEST(equal_maps)
{
  const char *name = "8: equal maps with lambda 1 = 0";
  struct attention a;
  if (!attention_open(&a, name, NULL,
                      "heads q = 4, kv = 2\ndim qk = 32, v = 12\nmask causal\n"
                      "input lambda : f32[H]\n"
                      "map a = softmax(dot(q[0:16], k[0:16]) / 4.0)\n"
                      "map n = softmax(dot(q[16:32], k[16:32]) / 4.0)\n"
                      "weight a - lambda[h] * n"))
    return;
  for (uint64_t draw = 0; draw < draws(); draw++) {
    attention_prepare(&a, sizes_draw(draw), draw, NULL);
    struct tensor *both[] = {&a.work.q, &a.work.k};
    for (int n = 0; n < 2; n++) {
      float *data = both[n]->data;
      for (int64_t row = 0; row < tensor_count(both[n]) / 32; row++)
        memcpy(data + 32 * row + 16, data + 32 * row, 16 * sizeof(float));
    }
    tensor_fill(attention_input(&a, "lambda"), 1);
    attention_launch(&a, name);
    for (int64_t n = 0; n < tensor_count(&a.work.o); n++)
      ck_assert_double_le(fabs(tensor_get(&a.work.o, n)), tolerance());
  }
  attention_close(&a);
}
END_TEST

/* ---- 14: V = identity, V = 1 ---- */

enum { KEYS = 24 };
#define SQUARE "heads q = 4, kv = 2\ndim qk = 16, v = 24\nmask causal\n"

static const struct {
  const char *name, *statements;
  bool sums_to_one;
} identities[] = {
    {"14: V = identity gives softmax's weights", SQUARE "output weights", true},
    {"14: V = identity gives a window's weights", SQUARE "mask sliding(7)\noutput weights", true},
    {"14: V = identity gives the weights under a sink",
     SQUARE "normalize softmax(sink = 0.3)\noutput weights", false},
    {"14: V = identity gives sigmoid's weights", SQUARE "normalize sigmoid\noutput weights", false},
    {"14: V = identity gives sparsemax's weights", SQUARE "normalize sparsemax\noutput weights",
     true},
    {"14: V = identity gives a difference of maps",
     SQUARE "map a = softmax(dot(q[0:8], k[0:8]))\nmap n = softmax(dot(q[8:16], k[8:16]))\n"
            "weight a - 0.4 * n\noutput weights",
     false},
};

START_TEST(identity)
{
  const char *name = identities[_i].name;
  struct attention a;
  if (!attention_open(&a, name, NULL, identities[_i].statements))
    return;
  for (uint64_t draw = 0; draw < draws(); draw++) {
    /* The same keys for rows that see all of them or some. */
    attention_prepare(&a, (struct sizes){2, 1 + (int64_t)(7 * draw % KEYS), KEYS}, draw, NULL);
    for (int64_t b = 0; b < 2; b++)
      for (int64_t g = 0; g < 2; g++)
        for (int64_t j = 0; j < KEYS; j++) {
          float *value = tensor_row(&a.work.v, b, g, j);
          for (int64_t c = 0; c < KEYS; c++)
            value[c] = c == j ? 1 : 0;
        }
    attention_launch(&a, name);
    expect_same(name, attention_output(&a, "weights"), &a.work.o);
    const float *o = a.work.o.data;
    for (int64_t row = 0; identities[_i].sums_to_one && row < tensor_count(&a.work.o) / KEYS;
         row++) {
      double sum = 0;
      for (int64_t j = 0; j < KEYS; j++) {
        ck_assert_double_ge((double)o[row * KEYS + j], 0);
        sum += (double)o[row * KEYS + j];
      }
      ck_assert_double_eq_tol(sum, 1, tolerance());
    }
  }
  attention_close(&a);
}
END_TEST

/* `sum` of head h, from the plain softmax's lse. */
static double sum_of_softmax(double lse, const float *input, int64_t h)
{
  (void)lse, (void)input, (void)h;
  return 1;
}
static double sum_under_sink(double lse, const float *input, int64_t h)
{
  return sigmoid(lse - (double)input[h]);
}
static double sum_of_difference(double lse, const float *input, int64_t h)
{
  (void)lse;
  return 1 - (double)input[h];
}

static const struct {
  const char *name, *statements;
  double (*sum)(double lse, const float *input, int64_t h);
} ones[] = {
    {"14: V = 1 gives 1 for softmax", USUAL "mask causal\ninput x : f32[H]\nscore s + x[h]",
     sum_of_softmax},
    {"14: V = 1 gives sigmoid(lse - a) under a sink",
     USUAL "mask causal\ninput a : f32[H]\nnormalize softmax(sink = a[h])", sum_under_sink},
    {"14: V = 1 gives 1 - lambda for a difference of maps",
     USUAL "mask causal\ninput lambda : f32[H]\nmap a = softmax(dot(q[0:8], k[0:8]))\n"
           "map n = softmax(dot(q[8:16], k[8:16]))\nweight a - lambda[h] * n",
     sum_of_difference},
};

START_TEST(row_sums)
{
  const char *name = ones[_i].name;
  struct attention a, plain;
  if (!attention_open_two(&a, ones[_i].statements, &plain, USUAL "mask causal\noutput lse", name))
    return;
  for (uint64_t draw = 0; draw < draws(); draw++) {
    attention_prepare(&a, sizes_draw(draw), draw, NULL);
    attention_prepare(&plain, sizes_draw(draw), draw, NULL);
    tensor_fill(&a.work.v, 1);
    attention_launch(&a, name);
    attention_launch(&plain, name);
    for (int64_t b = 0; b < a.work.batch; b++)
      for (int64_t h = 0; h < 4; h++)
        for (int64_t r = 0; r < a.work.queries; r++) {
          double lse = (double)*tensor_row(attention_output(&plain, "lse"), b, h, r);
          double sum = ones[_i].sum(lse, a.work.inputs[0].data, h);
          const float *o = tensor_row(&a.work.o, b, h, r);
          for (int64_t c = 0; c < 12; c++)
            ck_assert_msg(fabs((double)o[c] - sum) <= tolerance() * fmax(1, fabs(sum)),
                          "%s: %.9g is %.9g", name, sum, (double)o[c]);
        }
  }
  attention_close(&a);
  attention_close(&plain);
}
END_TEST

void weights_add(TCase *tests)
{
  tcase_add_test(tests, sink_after_the_fact);
  tcase_add_test(tests, equal_maps);
  tcase_add_loop_test(tests, identity, 0, (int)(sizeof(identities) / sizeof(*identities)));
  tcase_add_loop_test(tests, row_sums, 0, (int)(sizeof(ones) / sizeof(*ones)));
}
