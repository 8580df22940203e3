/* libattn's suites: a spec, a context, and the tensors of one launch with what they must become. */
#ifndef ATTN_TESTS_API_PROBLEM_H
#define ATTN_TESTS_API_PROBLEM_H

#include "attn/attn.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { HEADS = 4, GROUPS = 2, DIM = 8, VALUES = 6 };

static const char full[] = "attention full {\n"
                           "  heads q = 4, kv = 2\n"
                           "  dim qk = 8, v = 6\n"
                           "  align start\n"
                           "  output lse\n"
                           "}\n";

/* With zeros in the table, full attention with one head. */
static const char faulty[] = "attention looked_up {\n"
                             "  heads 1\n"
                             "  dim 4\n"
                             "  type f32\n"
                             "  input table : i32[NK]\n"
                             "  score s + table[table[j]]\n"
                             "}\n";

static char message[4096];

static inline attn_context *context_with(unsigned threads)
{
  attn_context_options options = ATTN_CONTEXT_OPTIONS_INIT;
  options.threads = threads;
  options.error = message;
  options.error_size = sizeof(message);
  attn_context *context;
  ck_assert_msg(attn_context_create(&options, &context) == ATTN_OK, "%s", message);
  return context;
}

static inline attn_program *compile(attn_context *context, const char *text)
{
  attn_program *program;
  attn_compile_options options = ATTN_COMPILE_OPTIONS_INIT;
  options.error = message;
  options.error_size = sizeof(message);
  ck_assert_msg(attn_compile(context, text, strlen(text), "t.attn", &options, &program) == ATTN_OK,
                "%s", message);
  return program;
}

/* ---- a problem: tensors of one launch of `full`, in f32 ---- */

struct problem {
  int64_t batch, queries, keys;
  float *data[5]; /* q k v o lse */
  int64_t shape[5][4];
  DLTensor tensors[5];
  attn_named_tensor lse;
  attn_arguments arguments;
};

static inline float noise(uint32_t *state)
{
  *state = *state * 1664525u + 1013904223u;
  return (float)(*state >> 8) / (float)(1 << 23) - 1.0f;
}

static inline void problem_init(struct problem *p, int64_t batch, int64_t queries, int64_t keys)
{
  const int64_t shapes[5][4] = {{batch, HEADS, queries, DIM},
                                {batch, GROUPS, keys, DIM},
                                {batch, GROUPS, keys, VALUES},
                                {batch, HEADS, queries, VALUES},
                                {batch, HEADS, queries, 0}};
  *p = (struct problem){.batch = batch, .queries = queries, .keys = keys};
  uint32_t state = 1;
  for (int n = 0; n < 5; n++) {
    const int rank = n == 4 ? 3 : 4;
    size_t count = 1;
    for (int d = 0; d < rank; d++) {
      p->shape[n][d] = shapes[n][d];
      count *= (size_t)shapes[n][d];
    }
    p->data[n] = malloc(count * sizeof(float) + 1);
    ck_assert_ptr_nonnull(p->data[n]);
    for (size_t m = 0; m < count; m++)
      p->data[n][m] = n < 3 ? noise(&state) : NAN;
    p->tensors[n] = (DLTensor){.data = p->data[n],
                               .device = {kDLCPU, 0},
                               .ndim = rank,
                               .dtype = {kDLFloat, 32, 1},
                               .shape = p->shape[n]};
  }
  p->lse = (attn_named_tensor){"lse", &p->tensors[4]};
  p->arguments = (attn_arguments)ATTN_ARGUMENTS_INIT;
  p->arguments.q = &p->tensors[0];
  p->arguments.k = &p->tensors[1];
  p->arguments.v = &p->tensors[2];
  p->arguments.o = &p->tensors[3];
  p->arguments.outputs = &p->lse;
  p->arguments.output_count = 1;
}

static inline void problem_free(struct problem *p)
{
  for (int n = 0; n < 5; n++)
    free(p->data[n]);
}

/* The definition, in double. Returns the largest error of o and lse. */
static inline double problem_error(const struct problem *p)
{
  double worst = 0.0;
  for (int64_t row = 0; row < p->batch * HEADS * p->queries; row++) {
    const int64_t b = row / (HEADS * p->queries), h = row / p->queries % HEADS;
    const int64_t first_key = (b * GROUPS + h / (HEADS / GROUPS)) * p->keys;
    double sum = 0.0, o[VALUES] = {0};
    for (int64_t j = first_key; j < first_key + p->keys; j++) {
      double score = 0.0;
      for (int c = 0; c < DIM; c++)
        score += (double)p->data[0][row * DIM + c] * (double)p->data[1][j * DIM + c];
      const double e = exp(score / sqrt(DIM));
      sum += e;
      for (int c = 0; c < VALUES; c++)
        o[c] += e * (double)p->data[2][j * VALUES + c];
    }
    for (int c = 0; c < VALUES; c++) {
      const double expected = p->keys == 0 ? 0.0 : o[c] / sum;
      const double error = fabs((double)p->data[3][row * VALUES + c] - expected);
      worst = error <= worst ? worst : error;
    }
    const double lse = (double)p->data[4][row];
    if (p->keys == 0) {
      ck_assert(isinf(lse) && lse < 0);
    } else {
      const double error = fabs(lse - log(sum));
      worst = error <= worst ? worst : error;
    }
  }
  return worst;
}

static inline void launch(attn_program *program, struct problem *p)
{
  p->arguments.error = message;
  p->arguments.error_size = sizeof(message);
  ck_assert_msg(attn_launch(program, &p->arguments) == ATTN_OK, "%s", message);
  ck_assert_double_le(problem_error(p), 2e-5);
}

#endif
