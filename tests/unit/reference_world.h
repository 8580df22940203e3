/* The reference's suites: a spec, q, k and v, and what comes of them; made anew for each test. */
#ifndef ATTN_TESTS_REFERENCE_WORLD_H
#define ATTN_TESTS_REFERENCE_WORLD_H

#include "compiler/reference/reference.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>

enum { H = 2, G = 1, D = 4, DV = 3, MAX_TOKENS = 64 };

static struct arena arena;
static struct expr_pool pool;
static struct spec spec;
static struct ref_call call;
static struct ref_result result;
static float q_data[2 * H * MAX_TOKENS * D];
static float k_data[2 * G * MAX_TOKENS * D];
static float v_data[2 * G * MAX_TOKENS * DV];

static inline const struct expr *var(enum expr_var name)
{
  return expr_variable(&pool, name);
}

static inline const struct expr *element(enum expr_tensor tensor, const struct expr *channel)
{
  bool is_query = tensor == EXPR_TENSOR_Q;
  const struct expr *indices[] = {var(EXPR_VAR_B), var(is_query ? EXPR_VAR_H : EXPR_VAR_G),
                                  var(is_query ? EXPR_VAR_R : EXPR_VAR_J), channel};
  return expr_read(&pool, tensor, EXPR_FLOAT, indices, 4);
}

static inline const struct expr *real(double value)
{
  return expr_float(&pool, value);
}

static inline const struct expr *less(const struct expr *a, const struct expr *b)
{
  return expr_binary(&pool, EXPR_LT, a, b);
}

/* sum(c < count) q[c + from] * k[c + from] */
static inline const struct expr *dot(int64_t from, int64_t count)
{
  const struct expr *c = expr_add(&pool, expr_bound(&pool, 0), expr_int(&pool, from));
  return expr_binder(&pool, EXPR_SUM, 0, expr_int(&pool, count),
                     expr_mul(&pool, element(EXPR_TENSOR_Q, c), element(EXPR_TENSOR_K, c)));
}

static inline struct ref_tensor tensor(enum dtype type, const void *data, uint32_t rank, int64_t a,
                                       int64_t b, int64_t c, int64_t d)
{
  struct ref_tensor t = {.type = type, .rank = rank, .shape = {a, b, c, d}, .data = data};
  int64_t stride = 1;
  for (uint32_t k = rank; k-- > 0;) {
    t.stride[k] = stride;
    stride *= t.shape[k];
  }
  return t;
}

static inline void set_sizes(int64_t batch, int64_t queries, int64_t keys)
{
  call.batch = batch;
  call.max_queries = queries;
  call.max_keys = keys;
  call.q = tensor(DTYPE_F32, q_data, 4, batch, H, queries, D);
  call.k = tensor(DTYPE_F32, k_data, 4, batch, G, keys, D);
  call.v = tensor(DTYPE_F32, v_data, 4, batch, G, keys, DV);
}

static inline void fill(float *data, size_t count, uint64_t seed)
{
  for (size_t n = 0; n < count; n++) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    data[n] = (float)((double)(seed >> 40) / 0x1p23 - 1.0) * 2.0f;
  }
}

static inline void setup(void)
{
  arena_init(&arena);
  expr_pool_init(&pool, &arena);
  spec = (struct spec){
      .name = "test",
      .pool = &pool,
      .query_heads = H,
      .kv_heads = G,
      .dim_qk = D,
      .dim_v = DV,
      .type = DTYPE_F32,
      .offset = expr_sub(&pool, var(EXPR_VAR_SIZE_NK), var(EXPR_VAR_SIZE_NQ)),
      .value = element(EXPR_TENSOR_V, var(EXPR_VAR_C)),
      .mask = expr_bool(&pool, true),
      .map_count = 1,
      .weight = expr_map(&pool, 0),
  };
  spec.maps[0].score = expr_mul(&pool, dot(0, D), real(0.5));
  call = (struct ref_call){.spec = &spec};
  fill(q_data, sizeof(q_data) / sizeof(*q_data), 1);
  fill(k_data, sizeof(k_data) / sizeof(*k_data), 2);
  fill(v_data, sizeof(v_data) / sizeof(*v_data), 3);
  set_sizes(2, 5, 7);
}

static inline void teardown(void)
{
  ref_result_free(&result);
  arena_free(&arena);
}

static inline void run(void)
{
  ref_result_free(&result);
  ck_assert(ref_run(&call, REF_EXACT, DTYPE_F32, &result));
  ck_assert(!result.fault.raised);
}

static inline struct ref_result run_and_keep(void)
{
  run();
  struct ref_result kept = result;
  result = (struct ref_result){0};
  return kept;
}

static inline void near(double a, double b)
{
  ck_assert_msg(a == b || fabs(a - b) <= 1e-12 * fmax(1, fabs(b)), "%.17g is not %.17g", a, b);
}

static inline void same_o(const struct ref_result *a, const struct ref_result *b, double tolerance)
{
  ck_assert_int_eq(a->rows, b->rows);
  for (int64_t n = 0; n < a->rows * spec.dim_v; n++)
    ck_assert_msg(fabs(a->o[n] - b->o[n]) <= tolerance, "%lld: %g, %g", (long long)n, a->o[n],
                  b->o[n]);
}

static inline const struct expr *causal(void)
{
  return expr_binary(&pool, EXPR_LE, var(EXPR_VAR_J), var(EXPR_VAR_I));
}

/* Softmax attention by hand; keys j <= i where causal. */
static inline void check_softmax(bool is_causal)
{
  int64_t nq = call.max_queries;
  int64_t nk = call.max_keys;
  for (int64_t b = 0; b < call.batch; b++)
    for (int64_t h = 0; h < H; h++)
      for (int64_t r = 0; r < nq; r++) {
        double o[DV] = {0};
        double sum = 0;
        int64_t seen = is_causal ? r + nk - nq + 1 : nk;
        for (int64_t j = 0; j < seen; j++) {
          double s = 0;
          for (int64_t c = 0; c < D; c++)
            s += (double)q_data[((b * H + h) * nq + r) * D + c] *
                 (double)k_data[(b * nk + j) * D + c];
          double w = exp(s * 0.5);
          sum += w;
          for (int64_t c = 0; c < DV; c++)
            o[c] += w * (double)v_data[(b * nk + j) * DV + c];
        }
        int64_t row = (b * H + h) * nq + r;
        for (int64_t c = 0; c < DV; c++)
          near(result.o[row * DV + c], seen <= 0 ? 0 : o[c] / sum);
        near(result.lse[row], log(sum));
      }
}

static inline void set_rotary(enum pairing pairing, uint32_t from, uint32_t dim)
{
  spec.has_rotary = true;
  const struct expr *m = expr_convert(&pool, var(EXPR_VAR_C), EXPR_FLOAT);
  spec.rotary = (struct spec_rotary){
      .from = from,
      .dim = dim,
      .repeat = 1,
      .pairing = pairing,
      .angle = expr_mul(&pool, expr_convert(&pool, var(EXPR_VAR_T), EXPR_FLOAT),
                        expr_unary(&pool, EXPR_EXP, expr_mul(&pool, m, real(-2.0)))),
      .gain = real(1.0),
      .query_position = var(EXPR_VAR_I),
      .key_position = var(EXPR_VAR_J),
  };
}

#endif
