/* The reference around its weights: rotation, values, post, select, ragged batches; against
 * formulas worked out here, and against itself where two specs must agree. */
#include "tests/unit/reference_world.h"

#include <string.h>

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

int main(void)
{
  Suite *suite = suite_create("reference_stages");
  TCase *tests = tcase_create("reference_stages");
  tcase_add_checked_fixture(tests, setup, teardown);
  tcase_add_test(tests, rotary_turns_pairs);
  tcase_add_test(tests, rotary_depends_on_distance_only);
  tcase_add_test(tests, value_may_be_a_slice_of_k);
  tcase_add_test(tests, post_sees_o_and_lse);
  tcase_add_test(tests, selection);
  tcase_add_test(tests, ragged_is_dense_by_sequence);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
