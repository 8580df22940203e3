/* libattn from outside: launches of all sizes, strides and types, their errors and their threads.
 */
#include "compiler/reference/reference.h"
#include "runtime/unit.h"
#include "tests/unit/api_problem.h"

#include <pthread.h>
#include <stdio.h>

START_TEST(one_program_takes_every_size)
{
  attn_context *context = context_with(2);
  attn_program *program = compile(context, full);
  static const int64_t sizes[] = {0, 1, 2, 3, 17, 70};
  uint64_t launches = 0;
  for (int64_t batch = 0; batch < 3; batch++) {
    for (size_t q = 0; q < 6; q++) {
      for (size_t k = 0; k < 6; k++) {
        struct problem p;
        problem_init(&p, batch, sizes[q], sizes[k]);
        launch(program, &p);
        problem_free(&p);
        launches++;
      }
    }
  }
  attn_statistics statistics = attn_context_statistics(context);
  ck_assert_uint_eq(statistics.compilations, 1);
  ck_assert_uint_eq(statistics.launches, launches);
  attn_program_free(program);
  attn_context_free(context);
}
END_TEST

/* q, k, v and o with the channels outermost, lse with gaps: copies are made for the launch. */
START_TEST(strides_of_every_kind)
{
  attn_context *context = context_with(1);
  attn_program *program = compile(context, full);
  struct problem compact, strided;
  problem_init(&compact, 2, 9, 11);
  problem_init(&strided, 2, 9, 11);
  launch(program, &compact);
  int64_t strides[5][4];
  for (int n = 0; n < 4; n++) {
    const int64_t *shape = strided.shape[n];
    const int64_t channels = shape[3], rows = shape[0] * shape[1] * shape[2];
    for (int64_t row = 0; row < rows; row++) {
      for (int64_t c = 0; c < channels; c++)
        strided.data[n][c * rows + row] = n == 3 ? NAN : compact.data[n][row * channels + c];
    }
    memcpy(strides[n], (int64_t[]){shape[1] * shape[2], shape[2], 1, rows}, sizeof(strides[n]));
    strided.tensors[n].strides = strides[n];
  }
  float *lse = calloc(2 * HEADS * 9 * 2, sizeof(float));
  memcpy(strides[4], (int64_t[]){HEADS * 9 * 2, 9 * 2, 2, 0}, sizeof(strides[4]));
  strided.tensors[4].data = lse;
  strided.tensors[4].strides = strides[4];
  ck_assert_int_eq(attn_launch(program, &strided.arguments), ATTN_OK);
  const int64_t rows = 2 * HEADS * 9;
  for (int64_t row = 0; row < rows; row++) {
    for (int64_t c = 0; c < VALUES; c++)
      ck_assert(strided.data[3][c * rows + row] == compact.data[3][row * VALUES + c]);
    ck_assert(lse[2 * row] == compact.data[4][row] && lse[2 * row + 1] == 0.0f);
  }
  free(lse);
  problem_free(&compact);
  problem_free(&strided);
  attn_program_free(program);
  attn_context_free(context);
}
END_TEST

START_TEST(types_are_compiled_when_they_come)
{
  attn_context *context = context_with(1);
  attn_program *program = compile(context, full);
  attn_timings timings;
  ck_assert_uint_eq(attn_context_statistics(context).compilations, 0);
  ck_assert_int_eq(attn_program_timings(program, ATTN_TYPE_F16, &timings), ATTN_ERROR_ARGUMENT);
  struct problem p;
  problem_init(&p, 1, 2, 3);
  launch(program, &p);
  ck_assert_uint_eq(attn_context_statistics(context).compilations, 1);
  ck_assert_int_eq(attn_program_timings(program, ATTN_TYPE_ANY, &timings), ATTN_OK);
  ck_assert(timings.check > 0 && timings.load > 0);
  p.tensors[1].dtype.bits = 16;
  ck_assert_int_eq(attn_launch(program, &p.arguments), ATTN_ERROR_ARGUMENT);
  ck_assert_str_eq(message, "k: the type is f16, it must be f32");

  /* Ones in f16: every row of o is one. */
  for (int n = 0; n < 4; n++) {
    p.tensors[n].dtype.bits = 16;
    uint16_t *half = (uint16_t *)(void *)p.data[n];
    int64_t count = p.shape[n][0] * p.shape[n][1] * p.shape[n][2] * p.shape[n][3];
    for (int64_t m = 0; m < count; m++)
      half[m] = n == 3 ? 0 : 0x3c00;
  }
  ck_assert_msg(attn_launch(program, &p.arguments) == ATTN_OK, "%s", message);
  for (int m = 0; m < HEADS * 2 * VALUES; m++)
    ck_assert_uint_eq(((uint16_t *)(void *)p.data[3])[m], 0x3c00);
  ck_assert_uint_eq(attn_context_statistics(context).compilations, 2);

  /* A program settled to f16 shares that code, and takes nothing else. */
  attn_compile_options options = ATTN_COMPILE_OPTIONS_INIT;
  options.type = ATTN_TYPE_F16;
  attn_program *settled;
  ck_assert_int_eq(attn_compile(context, full, strlen(full), "t.attn", &options, &settled),
                   ATTN_OK);
  ck_assert_uint_eq(attn_context_statistics(context).compilations, 2);
  ck_assert_uint_eq(attn_context_statistics(context).cache_hits, 1);
  ck_assert_int_eq(attn_program_describe(settled)->type, ATTN_TYPE_F16);
  ck_assert_int_eq(attn_launch(settled, &p.arguments), ATTN_OK);
  p.tensors[0].dtype.bits = 32;
  ck_assert_int_eq(attn_launch(settled, &p.arguments), ATTN_ERROR_ARGUMENT);
  ck_assert_str_eq(message, "q: the type is f32, it must be f16");
  problem_free(&p);
  attn_program_free(settled);
  attn_program_free(program);
  attn_context_free(context);
}
END_TEST

/* Tables, inputs, sizes that are expressions, parameters: everything that a launch makes, against
 * the reference. */
START_TEST(launches_equal_the_reference)
{
  static const char text[] = "attention t(width: int, base: float = 500.0) {\n"
                             "  heads q = 4, kv = 2\n"
                             "  dim qk = 8, v = 6\n"
                             "  type f32\n"
                             "  input doc : i32[B, NK]\n"
                             "  input gain : f32[(NK + 63) // 64]\n"
                             "  position rope(base = base)\n"
                             "  score s * gain[j // 64]\n"
                             "  mask 0 <= i - j < width and doc[b, i] == doc[b, j]\n"
                             "  output lse\n"
                             "}\n";
  enum { N = 150 };
  attn_context *context = context_with(2);
  attn_program *program = compile(context, text);
  struct problem p;
  problem_init(&p, 2, N, N);
  static int32_t doc[2 * N * 2]; /* every other element: it is packed */
  static float gain[(N + 63) / 64] = {0.5f, 2.0f, 1.5f};
  for (int n = 0; n < 2 * N; n++)
    doc[2 * n] = n % N / 40;
  int64_t doc_shape[2] = {2, N}, doc_strides[2] = {2 * N, 2}, gain_shape[1] = {(N + 63) / 64};
  DLTensor doc_tensor = p.tensors[0], gain_tensor = p.tensors[0];
  doc_tensor.data = doc;
  doc_tensor.ndim = 2;
  doc_tensor.dtype.code = kDLInt;
  doc_tensor.shape = doc_shape;
  doc_tensor.strides = doc_strides;
  gain_tensor.data = gain;
  gain_tensor.ndim = 1;
  gain_tensor.shape = gain_shape;
  attn_named_tensor inputs[] = {{"doc", &doc_tensor}, {"gain", &gain_tensor}};
  attn_param params[] = {attn_param_int("width", 25), attn_param_float("base", 100.0)};
  p.arguments.inputs = inputs;
  p.arguments.input_count = 2;
  p.arguments.params = params;
  p.arguments.param_count = 2;
  p.arguments.error = message;
  p.arguments.error_size = sizeof(message);
  ck_assert_msg(attn_launch(program, &p.arguments) == ATTN_OK, "%s", message);

  struct error_sink sink = {NULL, message, sizeof(message)};
  struct unit_source source = {.name = "t.attn", .text = text, .length = strlen(text)};
  struct unit *unit;
  ck_assert_int_eq(unit_check(&source, &sink, &unit), ATTN_OK);
  struct ref_tensor ref_inputs[2] = {
      {DTYPE_I32, 2, {2, N}, {2 * N, 2}, doc},
      {DTYPE_F32, 1, {(N + 63) / 64}, {1}, gain},
  };
  union expr_value ref_params[2] = {{.i = 25}, {.f = 100.0}};
  struct ref_call call = {
      .spec = unit->spec,
      .q = {DTYPE_F32, 4, {2, 4, N, 8}, {4 * N * 8, N * 8, 8, 1}, p.data[0]},
      .k = {DTYPE_F32, 4, {2, 2, N, 8}, {2 * N * 8, N * 8, 8, 1}, p.data[1]},
      .v = {DTYPE_F32, 4, {2, 2, N, 6}, {2 * N * 6, N * 6, 6, 1}, p.data[2]},
      .inputs = ref_inputs,
      .params = ref_params,
      .batch = 2,
      .max_queries = N,
      .max_keys = N,
  };
  struct ref_result result;
  ck_assert(ref_run(&call, REF_EXACT, DTYPE_F32, &result));
  double worst = 0.0;
  for (int64_t n = 0; n < result.rows * VALUES; n++) {
    const double error = fabs(result.o[n] - (double)p.data[3][n]);
    worst = error <= worst ? worst : error;
  }
  for (int64_t n = 0; n < result.rows; n++) {
    const double error = fabs(result.lse[n] - (double)p.data[4][n]);
    worst = error <= worst ? worst : error;
  }
  ck_assert_double_le(worst, 2e-5);
  ref_result_free(&result);
  unit_release(unit);
  problem_free(&p);
  attn_program_free(program);
  attn_context_free(context);
}
END_TEST

START_TEST(indices_out_of_range_are_faults)
{
  attn_context *context = context_with(2);
  attn_program *program = compile(context, faulty);
  enum { N = 6 };
  float data[4][N * 4];
  int32_t table[N] = {0};
  int64_t shape[4] = {1, 1, N, 4}, table_shape[1] = {N};
  DLTensor tensors[4], input = {.data = table,
                                .device = {kDLCPU, 0},
                                .ndim = 1,
                                .dtype = {kDLInt, 32, 1},
                                .shape = table_shape};
  for (int n = 0; n < 4; n++) {
    for (int m = 0; m < N * 4; m++)
      data[n][m] = (float)m;
    tensors[n] = (DLTensor){.data = data[n],
                            .device = {kDLCPU, 0},
                            .ndim = 4,
                            .dtype = {kDLFloat, 32, 1},
                            .shape = shape};
  }
  attn_named_tensor named = {"table", &input};
  attn_arguments arguments = ATTN_ARGUMENTS_INIT;
  arguments.q = &tensors[0];
  arguments.k = &tensors[1];
  arguments.v = &tensors[2];
  arguments.o = &tensors[3];
  arguments.inputs = &named;
  arguments.input_count = 1;
  ck_assert_int_eq(attn_launch(program, &arguments), ATTN_OK);
  table[4] = 40;
  ck_assert_int_eq(attn_launch(program, &arguments), ATTN_ERROR_FAULT);
  attn_context_error(context, message, sizeof(message));
  ck_assert_str_eq(
      message, "input 'table': index 40 is out of range for dimension 0 of size 6 (t.attn:6:13)");
  table[4] = 0;
  ck_assert_int_eq(attn_launch(program, &arguments), ATTN_OK);
  attn_program_free(program);
  attn_context_free(context);
}
END_TEST

START_TEST(wrong_arguments_are_told_apart)
{
  attn_context *context = context_with(1);
  attn_program *program = compile(context, full);
  struct problem p;
  problem_init(&p, 1, 2, 3);
  ck_assert_int_eq(attn_launch(NULL, &p.arguments), ATTN_ERROR_ARGUMENT);
  ck_assert_int_eq(attn_launch(program, NULL), ATTN_ERROR_ARGUMENT);
  p.arguments.size = 0;
  ck_assert_int_eq(attn_launch(program, &p.arguments), ATTN_ERROR_ARGUMENT);
  attn_context_error(context, message, sizeof(message));
  ck_assert_str_eq(message, "the arguments have the size 0; begin with ATTN_ARGUMENTS_INIT");

  /* A struct of a newer header: what this library does not know must not be used. */
  struct {
    attn_arguments arguments;
    void *more[2];
  } newer = {p.arguments, {NULL, NULL}};
  newer.arguments.size = sizeof(newer);
  ck_assert_int_eq(attn_launch(program, &newer.arguments), ATTN_OK);
  newer.more[1] = &p;
  ck_assert_int_eq(attn_launch(program, &newer.arguments), ATTN_ERROR_ARGUMENT);

  p.arguments.size = sizeof(p.arguments);
  p.shape[1][3] = 9;
  ck_assert_int_eq(attn_launch(program, &p.arguments), ATTN_ERROR_ARGUMENT);
  attn_context_error(context, message, sizeof(message));
  ck_assert_str_eq(message, "k: dimension 3 is 9 but D is 8");
  problem_free(&p);
  attn_program_free(program);
  attn_context_free(context);
}
END_TEST

START_TEST(bits_do_not_depend_on_the_threads)
{
  struct problem p[3];
  static const unsigned threads[] = {1, 2, 7};
  for (int n = 0; n < 3; n++) {
    attn_context *context = context_with(threads[n]);
    attn_program *program = compile(context, full);
    problem_init(&p[n], 2, 130, 150);
    launch(program, &p[n]);
    attn_program_free(program);
    attn_context_free(context);
    ck_assert_int_eq(memcmp(p[0].data[3], p[n].data[3], 2 * HEADS * 130 * VALUES * sizeof(float)),
                     0);
    ck_assert_int_eq(memcmp(p[0].data[4], p[n].data[4], 2 * HEADS * 130 * sizeof(float)), 0);
  }
  for (int n = 0; n < 3; n++)
    problem_free(&p[n]);
}
END_TEST

/* Check's assertions are for the main thread; threads count what went wrong. */
static void *use_context(void *user)
{
  attn_program *shared = ((void **)user)[0];
  attn_context *context = ((void **)user)[1];
  uintptr_t wrong = 0;
  for (int n = 0; n < 12; n++) {
    attn_program *own;
    wrong += attn_compile(context, full, strlen(full), "t.attn", NULL, &own) != ATTN_OK;
    struct problem p;
    problem_init(&p, 1 + n % 2, 1 + n, 20 - n);
    char text[256];
    p.arguments.error = text;
    p.arguments.error_size = sizeof(text);
    wrong += attn_launch(n % 3 == 0 ? own : shared, &p.arguments) != ATTN_OK;
    wrong += !(problem_error(&p) < 2e-5);
    p.shape[0][3] = 100 + n; /* each thread gets its own text */
    char expected[64];
    snprintf(expected, sizeof(expected), "q: dimension 3 is %d but D is 8", 100 + n);
    wrong +=
        attn_launch(shared, &p.arguments) != ATTN_ERROR_ARGUMENT || strcmp(text, expected) != 0;
    problem_free(&p);
    attn_program_free(own);
  }
  return (void *)wrong;
}

START_TEST(many_threads_use_one_context)
{
  attn_context *context = context_with(2);
  attn_program *program = compile(context, full);
  void *user[2] = {program, context};
  pthread_t threads[4];
  for (int n = 0; n < 4; n++)
    ck_assert_int_eq(pthread_create(&threads[n], NULL, use_context, user), 0);
  for (int n = 0; n < 4; n++) {
    void *wrong;
    pthread_join(threads[n], &wrong);
    ck_assert_ptr_null(wrong);
  }
  ck_assert_uint_le(attn_context_statistics(context).compilations, 5);
  attn_program_free(program);
  attn_context_free(context);
}
END_TEST

int main(void)
{
  Suite *suite = suite_create("api_launch");
  TCase *tests = tcase_create("api_launch");
  tcase_add_test(tests, one_program_takes_every_size);
  tcase_add_test(tests, strides_of_every_kind);
  tcase_add_test(tests, types_are_compiled_when_they_come);
  tcase_add_test(tests, launches_equal_the_reference);
  tcase_add_test(tests, indices_out_of_range_are_faults);
  tcase_add_test(tests, wrong_arguments_are_told_apart);
  tcase_add_test(tests, bits_do_not_depend_on_the_threads);
  tcase_add_test(tests, many_threads_use_one_context);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
