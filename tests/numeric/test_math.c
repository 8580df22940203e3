/* Functions and operators of compiled expressions: real ones against libm in float64 over all
 * exponents, with the bounds that compiler/emit/math.h states; integer ones and random numbers
 * against dsl/expr_scalar.h and expr_eval.h, exactly. Each is compiled once as a map (vectors) and
 * once as a scalar op, which must agree to the bit.
 */
#include "tests/numeric/math_cases.h"
#include "tests/numeric/tile_runner.h"

#include <check.h>

enum { BATCH = 4096, ROWS = 64, COLUMNS = BATCH / ROWS, BATCHES = 64 };

/* f(x, y) of BATCH pairs, as a map and element by element. */
struct function {
  struct tile_code code;
  struct tile_array x, y, vectors, scalars;
};

static const char text_format[] =
    "kernel t tensor x %s[2] tensor y %s[2] tensor vectors %s[2] written tensor scalars %s[2] "
    "written\n"
    "{\n%%tasks: index = scalar => 64L\nparallel (%%i) < (%%tasks) {\n"
    "%%z: index = scalar => 0L\n%%one: index = scalar => 1L\n%%width: index = scalar => 64L\n"
    "%%a: %s[1,64] = load x[%%i, %%z] columns 1 live %%one, %%width\n"
    "%%b: %s[1,64] = load y[%%i, %%z] columns 1 live %%one, %%width\n"
    "%%v: %s[1,64] = map %%a, %%b => %s\n"
    "store %%v to vectors[%%i, %%z] columns 1 live %%one, %%width\n"
    "for %%j = %%z to %%width step 1 {\n"
    "%%s: %s = scalar %%i, %%j => let &0 = x[$0, $1], &1 = y[$0, $1] in %s\n"
    "%%t: %s[1,1] = splat %%s\nstore %%t to scalars[%%i, %%j] live %%one, %%one\n}\n}\n}\n";

/* `map` is over $0 and $1, `scalar` the same over &0 and &1. */
static void function_open(struct function *f, const char *operand, const char *result,
                          const char *map, const char *scalar)
{
  char text[4096];
  snprintf(text, sizeof(text), text_format, operand, operand, result, result, operand, operand,
           result, map, result, scalar, result);
  const char *error = tile_code_open(&f->code, text, NULL);
  ck_assert_msg(error == NULL, "%s: %s\n%s", map, error, text);
  enum dtype in = strcmp(operand, "f32") == 0 ? DTYPE_F32 : DTYPE_I32;
  enum dtype out = strcmp(result, "f32") == 0 ? DTYPE_F32 : DTYPE_I32;
  int64_t sizes[] = {ROWS, COLUMNS};
  f->x = tile_array_new("x", in, 2, sizes, NULL);
  f->y = tile_array_new("y", in, 2, sizes, NULL);
  f->vectors = tile_array_new("vectors", out, 2, sizes, NULL);
  f->scalars = tile_array_new("scalars", out, 2, sizes, NULL);
}

static void function_close(struct function *f)
{
  tile_code_close(&f->code);
  tile_array_free(&f->x);
  tile_array_free(&f->y);
  tile_array_free(&f->vectors);
  tile_array_free(&f->scalars);
}

static void function_run(struct function *f, const char *name)
{
  struct tile_array arrays[] = {f->x, f->y, f->vectors, f->scalars};
  struct tile_launch launch = {arrays, 4, NULL, 0, {0}};
  const char *error = tile_run(&f->code, &launch);
  ck_assert_msg(error == NULL, "%s: %s", name, error);
  const uint32_t *vectors = (const uint32_t *)(const void *)f->vectors.data;
  const uint32_t *scalars = (const uint32_t *)(const void *)f->scalars.data;
  for (int k = 0; k < BATCH; k++) {
    bool nan = f->vectors.type == DTYPE_F32 && isnan(tile_array_get(&f->vectors, k)) &&
               isnan(tile_array_get(&f->scalars, k));
    ck_assert_msg(vectors[k] == scalars[k] || nan, "%s of %a, %a: vector %a, scalar %a", name,
                  tile_array_get(&f->x, k), tile_array_get(&f->y, k),
                  tile_array_get(&f->vectors, k), tile_array_get(&f->scalars, k));
  }
}

static void fill_reals(struct function *f, int batch)
{
  for (int k = 0; k < BATCH; k++) {
    struct real_pair pair = case_reals((uint32_t)(batch * BATCH + k));
    tile_array_set(&f->x, k, (double)pair.x);
    tile_array_set(&f->y, k, (double)pair.y);
  }
}

/* ---- real functions ---- */

static void check_real(const struct real_function *f)
{
  struct function compiled;
  char scalar[256];
  to_scalar(scalar, f->call);
  function_open(&compiled, "f32", "f32", f->call, scalar);
  double worst = -1;
  double worst_x = 0, worst_y = 0, worst_got = 0;
  for (int batch = 0; batch < BATCHES; batch++) {
    fill_reals(&compiled, batch);
    function_run(&compiled, f->call);
    for (int k = 0; k < BATCH; k++) {
      double x = tile_array_get(&compiled.x, k), y = tile_array_get(&compiled.y, k);
      double got = tile_array_get(&compiled.vectors, k);
      bool measured = isnan(x) || isinf(x) || (x >= f->low && x <= f->high);
      double error = measured ? error_of(f->measure, got, f->of(x, y)) : 0;
      if (error > worst) {
        worst = error;
        worst_x = x;
        worst_y = y;
        worst_got = got;
      }
    }
  }
  if (getenv("ATTN_MATH_REPORT") != NULL)
    printf("%-32s %.3g of %.3g, at %a, %a\n", f->call, worst, f->bound, worst_x, worst_y);
  ck_assert_msg(worst <= f->bound,
                "%s: error %.3g at (%.9g, %.9g): %.9g instead of %.9g, bound %.3g", f->call, worst,
                worst_x, worst_y, worst_got, f->of(worst_x, worst_y), f->bound);
  function_close(&compiled);
}

START_TEST(real_functions)
{
  check_real(&reals[_i]);
}
END_TEST

/* ---- reals to ints ---- */

START_TEST(floors_and_conversions)
{
  static const char *const calls[][2] = {{"floor($0)", "floor(&0)"}, {"int($0)", "int(&0)"}};
  for (int which = 0; which < 2; which++) {
    struct function f;
    function_open(&f, "f32", "i32", calls[which][0], calls[which][1]);
    for (int batch = 0; batch < 8; batch++) {
      fill_reals(&f, batch);
      function_run(&f, calls[which][0]);
      for (int k = 0; k < BATCH; k++) {
        union expr_value x = {.f = tile_array_get(&f.x, k)};
        int64_t expected = which == 0 ? expr_apply_unary(EXPR_FLOOR, EXPR_FLOAT, x, true).i
                                      : expr_apply_convert(EXPR_FLOAT, EXPR_INT, x, true).i;
        ck_assert_msg((int64_t)tile_array_get(&f.vectors, k) == expected, "%s of %a",
                      calls[which][0], x.f);
      }
    }
    function_close(&f);
  }
}
END_TEST

/* ---- ints ---- */

static void fill_ints(struct function *f, int batch)
{
  for (int k = 0; k < BATCH; k++) {
    struct int_pair pair = case_ints((uint32_t)(batch * BATCH + k));
    tile_array_set(&f->x, k, pair.x);
    tile_array_set(&f->y, k, pair.y);
  }
}

START_TEST(int_operators)
{
  struct function f;
  char scalar[256];
  to_scalar(scalar, ints[_i].call);
  function_open(&f, "i32", "i32", ints[_i].call, scalar);
  for (int batch = 0; batch < 4; batch++) {
    fill_ints(&f, batch);
    function_run(&f, ints[_i].call);
    for (int k = 0; k < BATCH; k++) {
      union expr_value x = {.i = (int64_t)tile_array_get(&f.x, k)};
      union expr_value y = {.i = (int64_t)tile_array_get(&f.y, k)};
      if (ints[_i].divisor != 0)
        y.i = ints[_i].divisor;
      int64_t expected = expr_apply_binary(ints[_i].op, EXPR_INT, x, y, false).i;
      int64_t got = (int64_t)tile_array_get(&f.vectors, k);
      ck_assert_msg(got == expected, "%s of %lld, %lld: %lld instead of %lld", ints[_i].call,
                    (long long)x.i, (long long)y.i, (long long)got, (long long)expected);
    }
  }
  function_close(&f);
}
END_TEST

START_TEST(long_operators)
{
  /* Through 64 bits and back: products that do not fit 32, divisions of INT64_MIN. */
  static const char *const call =
      "int((long($0) * 4294967296L // (long($1) * 3L)) % 1000003L + long($0) // long($1))";
  struct function f;
  char scalar[256];
  to_scalar(scalar, call);
  function_open(&f, "i32", "i32", call, scalar);
  fill_ints(&f, 0);
  function_run(&f, call);
  for (int k = 0; k < BATCH; k++) {
    union expr_value x = {.i = (int64_t)tile_array_get(&f.x, k)};
    union expr_value y = {.i = (int64_t)tile_array_get(&f.y, k)};
    union expr_value three = {.i = 3}, wide = {.i = INT64_C(4294967296)}, prime = {.i = 1000003};
    union expr_value a = expr_apply_binary(EXPR_MUL, EXPR_LONG, x, wide, false);
    union expr_value b = expr_apply_binary(EXPR_MUL, EXPR_LONG, y, three, false);
    a = expr_apply_binary(EXPR_FLOORDIV, EXPR_LONG, a, b, false);
    a = expr_apply_binary(EXPR_MOD, EXPR_LONG, a, prime, false);
    b = expr_apply_binary(EXPR_FLOORDIV, EXPR_LONG, x, y, false);
    a = expr_apply_binary(EXPR_ADD, EXPR_LONG, a, b, false);
    ck_assert_int_eq((int64_t)tile_array_get(&f.vectors, k), expr_wrap(a.i));
  }
  function_close(&f);
}
END_TEST

START_TEST(random_numbers)
{
  struct function hash, uniform;
  function_open(&hash, "i32", "i32", "hash($0, $1, 7)", "hash(&0, &1, 7)");
  function_open(&uniform, "i32", "f32", "float(uniform($0, $1))", "float(uniform(&0, &1))");
  for (int batch = 0; batch < 4; batch++) {
    fill_ints(&hash, batch);
    fill_ints(&uniform, batch);
    function_run(&hash, "hash");
    function_run(&uniform, "uniform");
    for (int k = 0; k < BATCH; k++) {
      int32_t keys[3] = {(int32_t)tile_array_get(&hash.x, k), (int32_t)tile_array_get(&hash.y, k),
                         7};
      ck_assert_uint_eq((uint32_t)tile_array_get(&hash.vectors, k), expr_hash_keys(keys, 3) >> 1);
      keys[0] = (int32_t)tile_array_get(&uniform.x, k);
      keys[1] = (int32_t)tile_array_get(&uniform.y, k);
      ck_assert(tile_array_get(&uniform.vectors, k) == (double)expr_uniform_keys(keys, 2));
    }
  }
  function_close(&hash);
  function_close(&uniform);
}
END_TEST

int main(void)
{
  Suite *suite = suite_create("compiled expressions");
  TCase *tests = tcase_create("functions");
  tcase_add_loop_test(tests, real_functions, 0, REALS);
  tcase_add_test(tests, floors_and_conversions);
  tcase_add_loop_test(tests, int_operators, 0, INTS);
  tcase_add_test(tests, long_operators);
  tcase_add_test(tests, random_numbers);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
