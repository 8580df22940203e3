/* The reference against formulas worked out here, and against itself where two specs must agree. */
#include "compiler/reference/reference.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { H = 2, G = 1, D = 4, DV = 3, MAX_TOKENS = 64 };

static struct arena arena;
static struct expr_pool pool;
static struct spec spec;
static struct ref_call call;
static struct ref_result result;
static float q_data[2 * H * MAX_TOKENS * D];
static float k_data[2 * G * MAX_TOKENS * D];
static float v_data[2 * G * MAX_TOKENS * DV];

static const struct expr *var(enum expr_var name)
{
  return expr_variable(&pool, name);
}

static const struct expr *element(enum expr_tensor tensor, const struct expr *channel)
{
  bool is_query = tensor == EXPR_TENSOR_Q;
  const struct expr *indices[] = {var(EXPR_VAR_B), var(is_query ? EXPR_VAR_H : EXPR_VAR_G),
                                  var(is_query ? EXPR_VAR_R : EXPR_VAR_J), channel};
  return expr_read(&pool, tensor, EXPR_FLOAT, indices, 4);
}

static const struct expr *real(double value)
{
  return expr_float(&pool, value);
}

static const struct expr *less(const struct expr *a, const struct expr *b)
{
  return expr_binary(&pool, EXPR_LT, a, b);
}

/* sum(c < count) q[c + from] * k[c + from] */
static const struct expr *dot(int64_t from, int64_t count)
{
  const struct expr *c = expr_add(&pool, expr_bound(&pool, 0), expr_int(&pool, from));
  return expr_binder(&pool, EXPR_SUM, 0, expr_int(&pool, count),
                     expr_mul(&pool, element(EXPR_TENSOR_Q, c), element(EXPR_TENSOR_K, c)));
}

static struct ref_tensor tensor(enum dtype type, const void *data, uint32_t rank, int64_t a,
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

static void set_sizes(int64_t batch, int64_t queries, int64_t keys)
{
  call.batch = batch;
  call.max_queries = queries;
  call.max_keys = keys;
  call.q = tensor(DTYPE_F32, q_data, 4, batch, H, queries, D);
  call.k = tensor(DTYPE_F32, k_data, 4, batch, G, keys, D);
  call.v = tensor(DTYPE_F32, v_data, 4, batch, G, keys, DV);
}

static void fill(float *data, size_t count, uint64_t seed)
{
  for (size_t n = 0; n < count; n++) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    data[n] = (float)((double)(seed >> 40) / 0x1p23 - 1.0) * 2.0f;
  }
}

static void setup(void)
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

static void teardown(void)
{
  ref_result_free(&result);
  arena_free(&arena);
}

static void run(void)
{
  ref_result_free(&result);
  ck_assert(ref_run(&call, REF_EXACT, DTYPE_F32, &result));
  ck_assert(!result.fault.raised);
}

static struct ref_result run_and_keep(void)
{
  run();
  struct ref_result kept = result;
  result = (struct ref_result){0};
  return kept;
}

static void near(double a, double b)
{
  ck_assert_msg(a == b || fabs(a - b) <= 1e-12 * fmax(1, fabs(b)), "%.17g is not %.17g", a, b);
}

static void same_o(const struct ref_result *a, const struct ref_result *b, double tolerance)
{
  ck_assert_int_eq(a->rows, b->rows);
  for (int64_t n = 0; n < a->rows * spec.dim_v; n++)
    ck_assert_msg(fabs(a->o[n] - b->o[n]) <= tolerance, "%lld: %g, %g", (long long)n, a->o[n],
                  b->o[n]);
}

static const struct expr *causal(void)
{
  return expr_binary(&pool, EXPR_LE, var(EXPR_VAR_J), var(EXPR_VAR_I));
}

/* Softmax attention by hand; keys j <= i where causal. */
static void check_softmax(bool is_causal)
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

START_TEST(softmax_by_hand)
{
  run();
  check_softmax(false);
  ck_assert_uint_eq(result.visible, 2 * H * 5 * 7);
  spec.mask = causal();
  run();
  check_softmax(true);
  ck_assert_uint_eq(result.pairs, 2 * H * 5 * 7);
  ck_assert_uint_eq(result.visible, 2 * H * (3 + 4 + 5 + 6 + 7));
}
END_TEST

START_TEST(empty_rows_and_sizes)
{
  set_sizes(1, 6, 4); /* i starts at -2 */
  spec.mask = causal();
  run();
  check_softmax(true);
  ck_assert(result.lse[1] == -(double)INFINITY);
  spec.mask = expr_bool(&pool, true); /* and rows before the sequence still see nothing */
  run();
  ck_assert(result.o[DV] == 0 && result.lse[1] == -(double)INFINITY);
  ck_assert(result.lse[2] != -(double)INFINITY);
  set_sizes(2, 3, 0);
  spec.maps[0].sink = real(0.75);
  run();
  ck_assert(result.o[0] == 0);
  near(result.lse[3], 0.75);
  set_sizes(2, 0, 3);
  run();
  ck_assert_int_eq(result.rows, 0);
  set_sizes(0, 3, 3);
  run();
  ck_assert_int_eq(result.rows, 0);

  set_sizes(1, 2, 3); /* all visible scores are -inf */
  v_data[0] = (float)NAN;
  spec.maps[0] = (struct spec_map){.score = real(-(double)INFINITY)};
  static const enum normalizer all[] = {NORMALIZE_SOFTMAX, NORMALIZE_SIGMOID, NORMALIZE_LINEAR,
                                        NORMALIZE_SPARSEMAX, NORMALIZE_NONE};
  for (size_t k = 0; k < sizeof(all) / sizeof(*all); k++) {
    spec.maps[0].normalizer = all[k];
    run();
    for (int64_t n = 0; n < result.rows * DV; n++)
      ck_assert(result.o[n] == 0);
  }
}
END_TEST

START_TEST(invisible_keys_do_not_matter)
{
  set_sizes(1, 5, 5);
  run();
  struct ref_result want = run_and_keep();
  set_sizes(1, 5, 9);
  for (size_t n = 5 * D; n < 9 * D; n++)
    k_data[n] = (float)NAN;
  for (size_t n = 5 * DV; n < 9 * DV; n++)
    v_data[n] = (float)INFINITY;
  spec.mask = less(var(EXPR_VAR_J), expr_int(&pool, 5));
  run();
  same_o(&want, &result, 0);
  ref_result_free(&want);
}
END_TEST

START_TEST(order_of_keys_does_not_matter)
{
  set_sizes(1, 4, 8);
  struct ref_result want = run_and_keep();
  call.k.stride[2] = -D; /* backwards */
  call.k.data = k_data + 7 * D;
  call.v.stride[2] = -DV;
  call.v.data = v_data + 7 * DV;
  run();
  same_o(&want, &result, 1e-14);
  ref_result_free(&want);
}
END_TEST

START_TEST(sink_scales_by_sigmoid)
{
  struct ref_result plain = run_and_keep();
  spec.maps[0].sink = expr_convert(&pool, var(EXPR_VAR_H), EXPR_FLOAT);
  run();
  for (int64_t row = 0; row < result.rows; row++) {
    double sink = (double)(row / 5 % H);
    double factor = 1 / (1 + exp(sink - plain.lse[row]));
    for (int64_t c = 0; c < DV; c++)
      near(result.o[row * DV + c], plain.o[row * DV + c] * factor);
    near(result.lse[row], log(exp(sink) + exp(plain.lse[row])));
  }
  ref_result_free(&plain);
}
END_TEST

START_TEST(outputs)
{
  enum { NK = 6 };
  set_sizes(1, 4, NK);
  spec.dim_v = NK; /* value: the identity */
  spec.value = expr_select(&pool, expr_binary(&pool, EXPR_EQ, var(EXPR_VAR_J), var(EXPR_VAR_C)),
                           real(1.0), real(0.0));
  static const enum output_kind kinds[] = {OUTPUT_WEIGHTS, OUTPUT_MASS, OUTPUT_LSE, OUTPUT_MAX,
                                           OUTPUT_ENTROPY};
  for (uint32_t k = 0; k < 5; k++)
    spec.outputs[k] = (struct spec_output){.kind = kinds[k]};
  spec.output_count = 5;
  spec.mask = causal();
  run();
  double mass[H * NK] = {0};
  for (int64_t row = 0; row < result.rows; row++) {
    double entropy = 0;
    double largest = 0;
    for (int64_t j = 0; j < NK; j++) {
      double w = result.outputs[0][row * NK + j];
      near(w, result.o[row * NK + j]);
      mass[row / 4 * NK + j] += w;
      entropy -= w > 0 ? w * log(w) : 0;
      largest = fmax(largest, w);
    }
    near(result.outputs[2][row], result.lse[row]);
    near(exp(result.outputs[3][row] - result.lse[row]), largest);
    near(result.outputs[4][row], entropy);
  }
  for (int64_t n = 0; n < H * NK; n++)
    near(result.outputs[1][n], mass[n]);
}
END_TEST

/* One query, scores 1, 0.5, 1, -1 (or as given); the weights come out as `weights` output. */
static void weights_of(enum normalizer normalizer, const float *scores, const double *want)
{
  set_sizes(1, 1, 4);
  spec.input_count = 1;
  spec.inputs[0] = (struct spec_input){.name = "s", .type = DTYPE_F32, .rank = 1};
  struct ref_tensor input = tensor(DTYPE_F32, scores, 1, 4, 0, 0, 0);
  call.inputs = &input;
  const struct expr *j = var(EXPR_VAR_J);
  spec.maps[0].score = expr_read(&pool, EXPR_TENSOR_INPUT, EXPR_FLOAT, &j, 1);
  spec.maps[0].normalizer = normalizer;
  spec.output_count = 1;
  spec.outputs[0] = (struct spec_output){.kind = OUTPUT_WEIGHTS};
  run();
  for (int64_t n = 0; n < 4; n++)
    near(result.outputs[0][n], want[n]);
}

START_TEST(normalizers)
{
  static const float scores[] = {1, 0.5f, 1, -1};
  static const float apart[] = {0.5f, 3, -1, 1};
  weights_of(NORMALIZE_HARDMAX, scores, (double[]){1, 0, 0, 0});
  ck_assert(result.near_tie[0]);
  weights_of(NORMALIZE_HARDMAX, apart, (double[]){0, 1, 0, 0});
  ck_assert(!result.near_tie[0]);
  weights_of(NORMALIZE_SPARSEMAX, scores, (double[]){0.5, 0, 0.5, 0});
  static const float close[] = {1, 0.5f, 0.25f, -1};
  weights_of(NORMALIZE_SPARSEMAX, close, (double[]){0.75, 0.25, 0, 0});
  weights_of(NORMALIZE_RELU, scores, (double[]){1, 0.5, 1, 0});
  weights_of(NORMALIZE_NONE, scores, (double[]){1, 0.5, 1, -1});
  weights_of(NORMALIZE_LINEAR, scores, (double[]){1 / 1.5, 0.5 / 1.5, 1 / 1.5, -1 / 1.5});
  spec.maps[0].at_least = real(2.0);
  weights_of(NORMALIZE_LINEAR, scores, (double[]){0.5, 0.25, 0.5, -0.5});
  static const float negative[] = {-1, -2, 0, -1};
  weights_of(NORMALIZE_LINEAR, negative, (double[]){-0.25, -0.5, 0, -0.25});
  weights_of(
      NORMALIZE_SIGMOID, scores,
      (double[]){1 / (1 + exp(-1)), 1 / (1 + exp(-0.5)), 1 / (1 + exp(-1)), 1 / (1 + exp(1))});
}
END_TEST

START_TEST(nan_reaches_only_rows_that_see_it)
{
  set_sizes(1, 4, 4);
  spec.mask = causal();
  k_data[2 * D] = (float)NAN;
  static const enum normalizer all[] = {NORMALIZE_SOFTMAX, NORMALIZE_SIGMOID,   NORMALIZE_RELU,
                                        NORMALIZE_HARDMAX, NORMALIZE_SPARSEMAX, NORMALIZE_LINEAR};
  for (size_t k = 0; k < sizeof(all) / sizeof(*all); k++) {
    spec.maps[0].normalizer = all[k];
    run();
    for (int64_t r = 0; r < 4; r++)
      ck_assert_int_eq(isnan(result.o[r * DV]) != 0, r >= 2);
  }
}
END_TEST

START_TEST(several_maps)
{
  spec.map_count = 2;
  spec.maps[0].score = dot(0, 2);
  spec.maps[1].score = dot(2, 2);
  struct ref_result a = run_and_keep();
  spec.weight = expr_map(&pool, 1);
  struct ref_result n = run_and_keep();
  spec.weight =
      expr_sub(&pool, expr_map(&pool, 0), expr_mul(&pool, expr_map(&pool, 1), real(0.25)));
  run();
  for (int64_t k = 0; k < result.rows * DV; k++)
    near(result.o[k], a.o[k] - 0.25 * n.o[k]);
  spec.weight_kind = WEIGHT_RENORMALIZE; /* the weights sum to 3/4 */
  run();
  for (int64_t k = 0; k < result.rows * DV; k++)
    near(result.o[k], (a.o[k] - 0.25 * n.o[k]) / 0.75);
  spec.weight = expr_mul(&pool, expr_map(&pool, 0), real(0.0));
  run();
  for (int64_t k = 0; k < result.rows * DV; k++)
    ck_assert(result.o[k] == 0);
  spec.weight_kind = WEIGHT_PLAIN; /* a map without a score above -inf adds nothing */
  spec.weight = expr_add(&pool, expr_map(&pool, 0), expr_map(&pool, 1));
  spec.maps[1] = (struct spec_map){.score = real(-(double)INFINITY), .normalizer = NORMALIZE_NONE};
  run();
  same_o(&a, &result, 0);
  ref_result_free(&a);
  ref_result_free(&n);
}
END_TEST

static void set_rotary(enum pairing pairing, uint32_t from, uint32_t dim)
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

START_TEST(rotary_turns_pairs)
{
  set_sizes(1, 3, 3);
  set_rotary(PAIRING_HALF, 0, 4);
  spec.rotary.gain = real(3.0);
  spec.maps[0].score = element(EXPR_TENSOR_Q, expr_int(&pool, 3));
  spec.maps[0].normalizer = NORMALIZE_NONE;
  spec.dim_v = 1;
  spec.value = real(1.0);
  spec.mask = expr_binary(&pool, EXPR_EQ, var(EXPR_VAR_J), expr_int(&pool, 0));
  run(); /* o is channel 3 of the rotated query: second of pair 1 */
  for (int64_t r = 0; r < 3; r++) {
    const float *q = q_data + r * D;
    double t = (double)r * exp(-2);
    near(result.o[r], 3 * ((double)q[1] * sin(t) + (double)q[3] * cos(t)));
  }
  spec.rotary.pairing = PAIRING_INTERLEAVED;
  run();
  for (int64_t r = 0; r < 3; r++) {
    const float *q = q_data + r * D;
    double t = (double)r * exp(-2);
    near(result.o[r], 3 * ((double)q[2] * sin(t) + (double)q[3] * cos(t)));
  }
  spec.rotary.dim = 2;
  spec.rotary.repeat = 2; /* every pair turns by the first angle */
  run();
  for (int64_t r = 0; r < 3; r++) {
    const float *q = q_data + r * D;
    double t = (double)r;
    near(result.o[r], 3 * ((double)q[2] * sin(t) + (double)q[3] * cos(t)));
  }
}
END_TEST

START_TEST(rotary_depends_on_distance_only)
{
  set_sizes(1, 6, 6);
  set_rotary(PAIRING_HALF, 0, 4);
  spec.mask = causal();
  struct ref_result want = run_and_keep();
  const struct expr *far = expr_int(&pool, 1000000);
  spec.rotary.query_position = expr_add(&pool, var(EXPR_VAR_I), far);
  spec.rotary.key_position = expr_add(&pool, var(EXPR_VAR_J), far);
  run();
  same_o(&want, &result, 1e-9);
  spec.rotary.key_position = var(EXPR_VAR_J);
  run();
  double apart = 0;
  for (int64_t n = 0; n < result.rows * DV; n++)
    apart = fmax(apart, fabs(result.o[n] - want.o[n]));
  ck_assert_double_gt(apart, 1e-2);
  ref_result_free(&want);
}
END_TEST

START_TEST(value_may_be_a_slice_of_k)
{
  spec.value = element(EXPR_TENSOR_K, expr_add(&pool, var(EXPR_VAR_C), expr_int(&pool, 1)));
  spec.value_is_key = true;
  struct ref_result want = run_and_keep();
  /* The same through the evaluator, channel by channel. */
  spec.value = expr_mul(&pool, spec.value, expr_select(&pool, causal(), real(1.0), real(1.0)));
  spec.value = expr_add(&pool, spec.value, real(0.0));
  run();
  same_o(&want, &result, 1e-15);
  call.v.data = NULL;
  spec.value = expr_add(&pool, spec.value, real(1.0)); /* weights sum to 1 */
  run();
  for (int64_t n = 0; n < result.rows * DV; n++)
    near(result.o[n], want.o[n] + 1);
  ref_result_free(&want);
}
END_TEST

START_TEST(post_sees_o_and_lse)
{
  struct ref_result plain = run_and_keep();
  const struct expr *c = var(EXPR_VAR_C);
  const struct expr *n = expr_bound(&pool, 0);
  const struct expr *sum = expr_binder(&pool, EXPR_SUM, 0, expr_int(&pool, DV),
                                       expr_read(&pool, EXPR_TENSOR_O, EXPR_FLOAT, &n, 1));
  const struct expr *o = expr_read(&pool, EXPR_TENSOR_O, EXPR_FLOAT, &c, 1);
  spec.post = expr_mul(&pool, expr_add(&pool, o, sum), var(EXPR_VAR_LSE));
  run();
  for (int64_t row = 0; row < result.rows; row++) {
    const double *x = plain.o + row * DV;
    for (int64_t k = 0; k < DV; k++)
      near(result.o[row * DV + k], (x[k] + x[0] + x[1] + x[2]) * plain.lse[row]);
  }
  ref_result_free(&plain);
}
END_TEST

/* The rank of a block of two keys: q . mean over the keys j <= r with (r + j) % 3 != 0. */
static bool rank_block(int64_t h, int64_t r, int64_t block, double *rank)
{
  double count = 0;
  *rank = 0;
  for (int64_t j = 2 * block; j < 2 * block + 2; j++) {
    if (j > r || (r + j) % 3 == 0)
      continue;
    for (int64_t c = 0; c < D; c++)
      *rank += (double)q_data[(h * 8 + r) * D + c] * (double)k_data[j * D + c];
    count++;
  }
  *rank /= count;
  return count != 0;
}

/* The blocks that top = 2, always = own block choose, as a mask over j. */
static const struct expr *chosen_blocks(int64_t h, int64_t r)
{
  const struct expr *block = expr_binary(&pool, EXPR_FLOORDIV, var(EXPR_VAR_J), expr_int(&pool, 2));
  const struct expr *mask = expr_bool(&pool, false);
  bool taken[4] = {0};
  for (int64_t round = 0; round < 2; round++) {
    int64_t best = -1;
    double best_rank = 0;
    for (int64_t n = 0; n < 4; n++) {
      double rank;
      if (taken[n] || !rank_block(h, r, n, &rank))
        continue;
      if (n == r / 2)
        rank = (double)INFINITY;
      if (best < 0 || rank > best_rank) {
        best = n;
        best_rank = rank;
      }
    }
    if (best < 0)
      break;
    taken[best] = true;
    mask = expr_or(&pool, mask, expr_binary(&pool, EXPR_EQ, block, expr_int(&pool, best)));
  }
  return mask;
}

START_TEST(selection)
{
  set_sizes(1, 8, 8);
  const struct expr *n = var(EXPR_VAR_N);
  const struct expr *three = expr_int(&pool, 3);
  const struct expr *third =
      expr_binary(&pool, EXPR_MOD, expr_add(&pool, var(EXPR_VAR_I), var(EXPR_VAR_J)), three);
  const struct expr *mask =
      expr_and(&pool, causal(), expr_binary(&pool, EXPR_NE, third, expr_int(&pool, 0)));
  const struct expr *key =
      expr_add(&pool, expr_mul(&pool, n, expr_int(&pool, 2)), expr_bound(&pool, 1));
  const struct expr *indices[] = {var(EXPR_VAR_B), var(EXPR_VAR_G), key, expr_bound(&pool, 0)};
  const struct expr *mean = expr_binder(&pool, EXPR_MEAN, 1, expr_int(&pool, 2),
                                        expr_read(&pool, EXPR_TENSOR_K, EXPR_FLOAT, indices, 4));
  const struct expr *by =
      expr_binder(&pool, EXPR_SUM, 0, expr_int(&pool, D),
                  expr_mul(&pool, element(EXPR_TENSOR_Q, expr_bound(&pool, 0)), mean));
  const struct expr *own = expr_binary(&pool, EXPR_FLOORDIV, var(EXPR_VAR_I), expr_int(&pool, 2));
  spec.mask = mask;
  spec.select = (struct spec_select){
      .present = true,
      .block = 2,
      .top = expr_int(&pool, 2),
      .by = by,
      .always = expr_binary(&pool, EXPR_EQ, n, own),
  };
  run();
  struct ref_result got = run_and_keep();
  spec.select.present = false;
  for (int64_t h = 0; h < H; h++)
    for (int64_t r = 0; r < 8; r++) {
      spec.mask = expr_and(&pool, mask, chosen_blocks(h, r));
      run();
      for (int64_t c = 0; c < DV; c++)
        near(got.o[(h * 8 + r) * DV + c], result.o[(h * 8 + r) * DV + c]);
    }
  ref_result_free(&got);

  /* All blocks: nothing but the mask. One choice a group: the same for its heads. */
  spec.mask = causal();
  struct ref_result everything = run_and_keep();
  spec.select.present = true;
  spec.select.top = expr_int(&pool, 4);
  run();
  same_o(&everything, &result, 0);
  ref_result_free(&everything);
  spec.select.top = expr_int(&pool, 1);
  spec.select.always = expr_bool(&pool, false);
  spec.select.per_group = true;
  spec.output_count = 1;
  spec.outputs[0] = (struct spec_output){.kind = OUTPUT_WEIGHTS};
  run();
  for (int64_t n_pair = 0; n_pair < 64; n_pair++)
    ck_assert_int_eq(result.outputs[0][n_pair] != 0, result.outputs[0][64 + n_pair] != 0);
}
END_TEST

START_TEST(ragged_is_dense_by_sequence)
{
  static const int64_t query_starts[] = {0, 2, 2, 6};
  static const int64_t key_starts[] = {0, 5, 8, 12};
  static const int32_t documents[] = {0, 0, 1, 1, 1, 0, 0, 0, 0, 1, 1, 2};
  spec.input_count = 1;
  spec.inputs[0] = (struct spec_input){
      .name = "doc", .type = DTYPE_I32, .rank = 2, .dims = {{.kind = DIM_B}, {.kind = DIM_NK}}};
  const struct expr *at_i[] = {var(EXPR_VAR_B), var(EXPR_VAR_I)};
  const struct expr *at_j[] = {var(EXPR_VAR_B), var(EXPR_VAR_J)};
  spec.mask = expr_binary(&pool, EXPR_EQ, expr_read(&pool, EXPR_TENSOR_INPUT, EXPR_INT, at_i, 2),
                          expr_read(&pool, EXPR_TENSOR_INPUT, EXPR_INT, at_j, 2));
  struct ref_tensor input = tensor(DTYPE_I32, documents, 1, 12, 0, 0, 0);
  call = (struct ref_call){
      .spec = &spec,
      .q = tensor(DTYPE_F32, q_data, 3, 6, H, D, 0),
      .k = tensor(DTYPE_F32, k_data, 3, 12, G, D, 0),
      .v = tensor(DTYPE_F32, v_data, 3, 12, G, DV, 0),
      .inputs = &input,
      .batch = 3,
      .max_queries = 4,
      .max_keys = 5,
      .query_starts = query_starts,
      .key_starts = key_starts,
  };
  struct ref_result ragged = run_and_keep();
  ck_assert_int_eq(ragged.rows, 6 * H);
  int64_t row = 0;
  for (size_t b = 0; b < 3; b++) {
    int64_t nq = query_starts[b + 1] - query_starts[b];
    int64_t nk = key_starts[b + 1] - key_starts[b];
    call.query_starts = call.key_starts = NULL;
    set_sizes(1, nq, nk);
    call.q.data = q_data + query_starts[b] * H * D;
    call.q.stride[2] = H * D;
    call.q.stride[1] = D;
    call.k.data = k_data + key_starts[b] * D;
    call.v.data = v_data + key_starts[b] * DV;
    input = tensor(DTYPE_I32, documents + key_starts[b], 2, 1, nk, 0, 0);
    run();
    for (int64_t n = 0; n < result.rows * DV; n++)
      near(ragged.o[row * DV + n], result.o[n]);
    row += result.rows;
  }
  ref_result_free(&ragged);
}
END_TEST

START_TEST(index_out_of_range_is_reported)
{
  static const float bias[] = {1, 2, 3};
  set_sizes(1, 2, 5);
  spec.input_count = 1;
  spec.inputs[0] = (struct spec_input){.name = "bias", .type = DTYPE_F32, .rank = 1};
  struct ref_tensor input = tensor(DTYPE_F32, bias, 1, 3, 0, 0, 0);
  call.inputs = &input;
  const struct expr *j = var(EXPR_VAR_J);
  spec.maps[0].score = expr_read(&pool, EXPR_TENSOR_INPUT, EXPR_FLOAT, &j, 1);
  spec.mask = less(j, expr_int(&pool, 3));
  run(); /* not where the mask does not hold */
  spec.mask = expr_bool(&pool, true);
  ref_result_free(&result);
  ck_assert(ref_run(&call, REF_EXACT, DTYPE_F32, &result));
  ck_assert(result.fault.raised);
  ck_assert_uint_eq(result.fault.tensor, EXPR_TENSOR_INPUT);
  ck_assert_int_eq(result.fault.index, 3);
  ck_assert_int_eq(result.fault.size, 3);
}
END_TEST

START_TEST(floors_near_whole_numbers_are_marked)
{
  set_sizes(1, 2, 3);
  const struct expr *x = expr_convert(&pool, var(EXPR_VAR_I), EXPR_FLOAT);
  const struct expr *moved = expr_add(&pool, x, real(-0.99999));
  spec.maps[0].score =
      expr_convert(&pool, expr_unary(&pool, EXPR_FLOOR, expr_mul(&pool, moved, x)), EXPR_FLOAT);
  run(); /* i = 1, 2: 0.00001 and 2.00002 */
  ck_assert(result.near_tie[0] && result.near_tie[1]);
  spec.maps[0].score = expr_convert(
      &pool, expr_unary(&pool, EXPR_FLOOR, expr_mul(&pool, moved, real(0.4))), EXPR_FLOAT);
  run();
  ck_assert(result.near_tie[0] && !result.near_tie[1]);
}
END_TEST

START_TEST(naive_rounds_as_stored)
{
  set_sizes(2, 6, 32);
  struct ref_result exact = run_and_keep();
  static const struct {
    enum dtype type;
    double least, most;
  } rows[] = {{DTYPE_F32, 1e-9, 1e-5}, {DTYPE_F16, 1e-5, 1e-2}, {DTYPE_BF16, 1e-4, 1e-1}};
  for (size_t k = 0; k < 3; k++) {
    ref_result_free(&result);
    ck_assert(ref_run(&call, REF_NAIVE, rows[k].type, &result));
    double error = 0;
    for (int64_t n = 0; n < result.rows * DV; n++) {
      ck_assert(result.o[n] == dtype_round(rows[k].type, result.o[n]));
      error = fmax(error, fabs(result.o[n] - exact.o[n]));
    }
    ck_assert_double_gt(error, rows[k].least);
    ck_assert_double_lt(error, rows[k].most);
  }
  ref_result_free(&exact);
  spec.maps[0].score = real(70000.0); /* beyond f16: that row is computed in f32 */
  ref_result_free(&result);
  ck_assert(ref_run(&call, REF_NAIVE, DTYPE_F16, &result));
  for (int64_t n = 0; n < result.rows * DV; n++)
    ck_assert(isfinite(result.o[n]));
}
END_TEST

START_TEST(out_of_memory_leaves_nothing)
{
  set_rotary(PAIRING_HALF, 0, 4);
  spec.output_count = 2;
  spec.outputs[0] = (struct spec_output){.kind = OUTPUT_WEIGHTS};
  spec.outputs[1] = (struct spec_output){.kind = OUTPUT_MASS};
  int64_t live = mem_live_count();
  uint64_t n = 1;
  for (;; n++) {
    mem_fail_at(n);
    bool ok = ref_run(&call, REF_EXACT, DTYPE_F32, &result);
    mem_fail_at(0);
    if (ok)
      break;
    ck_assert_int_eq(mem_live_count(), live);
    ck_assert_ptr_null(result.o);
  }
  ck_assert_uint_gt(n, 5);
  ref_result_free(&result);
  ck_assert_int_eq(mem_live_count(), live);
}
END_TEST

int main(void)
{
  Suite *suite = suite_create("reference");
  TCase *tests = tcase_create("reference");
  tcase_add_checked_fixture(tests, setup, teardown);
  tcase_add_test(tests, softmax_by_hand);
  tcase_add_test(tests, empty_rows_and_sizes);
  tcase_add_test(tests, invisible_keys_do_not_matter);
  tcase_add_test(tests, order_of_keys_does_not_matter);
  tcase_add_test(tests, sink_scales_by_sigmoid);
  tcase_add_test(tests, outputs);
  tcase_add_test(tests, normalizers);
  tcase_add_test(tests, nan_reaches_only_rows_that_see_it);
  tcase_add_test(tests, several_maps);
  tcase_add_test(tests, rotary_turns_pairs);
  tcase_add_test(tests, rotary_depends_on_distance_only);
  tcase_add_test(tests, value_may_be_a_slice_of_k);
  tcase_add_test(tests, post_sees_o_and_lse);
  tcase_add_test(tests, selection);
  tcase_add_test(tests, ragged_is_dense_by_sequence);
  tcase_add_test(tests, index_out_of_range_is_reported);
  tcase_add_test(tests, floors_near_whole_numbers_are_marked);
  tcase_add_test(tests, naive_rounds_as_stored);
  tcase_add_test(tests, out_of_memory_leaves_nothing);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
