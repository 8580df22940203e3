/* The reference against formulas worked out here: softmax, the other normalisers, maps, what masks
 * hide, faults and rounding. */
#include "tests/unit/reference_world.h"

#include <string.h>

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
