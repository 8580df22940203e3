/* Storage types to and from double, and the rule by which results are compared. */
#include "compiler/reference/reference.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>

static void near(double a, double b)
{
  ck_assert_msg(fabs(a - b) <= 1e-12, "%.17g is not %.17g", a, b);
}

START_TEST(storage_types)
{
  static const struct {
    enum dtype type;
    double value, stored;
  } rows[] = {
      {DTYPE_F16, 65519.0, 65504.0},
      {DTYPE_F16, 65520.0, (double)INFINITY},
      {DTYPE_F16, 0x1p-25, 0.0},
      {DTYPE_F16, 0x1.8p-25, 0x1p-24},
      {DTYPE_F16, 1 + 0x1p-11, 1.0},
      {DTYPE_F16, 1 + 0x1.8p-10, 1 + 0x1p-9},
      {DTYPE_BF16, 1 + 0x1p-8, 1.0},
      {DTYPE_BF16, 1 + 0x1.00002p-8, 1 + 0x1p-7},
      {DTYPE_BF16, -1e39, -(double)INFINITY},
      {DTYPE_F16, 1 + 0x1p-11 + 0x1p-40, 1 + 0x1p-10},
      {DTYPE_E4M3, 1000.0, 448.0},
      {DTYPE_E4M3, 0x1p-10, 0.0},
      {DTYPE_E5M2, 61440.0, (double)INFINITY},
      {DTYPE_E5M2, 61439.0, 57344.0},
      {DTYPE_I8, 130.0, 127.0},
      {DTYPE_U8, -3.0, 0.0},
      {DTYPE_I32, 2.5, 2.0},
      {DTYPE_I64, 0x1p63, 0x1p63},
  };
  unsigned char bytes[8];
  for (size_t k = 0; k < sizeof(rows) / sizeof(*rows); k++) {
    dtype_store(rows[k].type, bytes, 0, rows[k].value);
    ck_assert_msg(dtype_load(rows[k].type, bytes, 0) == rows[k].stored, "row %zu", k);
    ck_assert_msg(dtype_round(rows[k].type, rows[k].value) == rows[k].stored, "row %zu", k);
  }
  static const enum dtype halves[] = {DTYPE_F16, DTYPE_BF16, DTYPE_E4M3, DTYPE_E5M2};
  for (size_t t = 0; t < 4; t++)
    for (uint32_t bits = 0; bits < (t < 2 ? 65536u : 256u); bits++) {
      uint16_t in = (uint16_t)bits;
      uint16_t out = 0;
      double value = dtype_load(halves[t], &in, 0);
      dtype_store(halves[t], &out, 0, value);
      ck_assert_msg(out == in || (isnan(value) && isnan(dtype_load(halves[t], &out, 0))),
                    "%zu: %x gives %g and %x", t, in, value, out);
    }
  int64_t big = (INT64_C(1) << 53) + 1;
  ck_assert_int_eq(ref_load_integer(DTYPE_I64, &big, 0), big);
}
END_TEST

START_TEST(error_rule)
{
  const double ref[] = {1.0, -2.0, 4.0};
  const double naive[] = {1.0, -2.01, 4.0};
  struct ref_error error = ref_compare((double[]){1.02, -2.0, 4.0}, ref, naive, 3, DTYPE_F32);
  ck_assert(error.ok);
  near(error.bound, 0.02 + 4e-5);
  ck_assert(!ref_compare((double[]){1.0, -2.0, 4.0201}, ref, naive, 3, DTYPE_F32).ok);
  ck_assert(!ref_compare((double[]){(double)NAN, -2.0, 4.0}, ref, naive, 3, DTYPE_F32).ok);
  ck_assert(!ref_compare((double[]){(double)INFINITY, -2.0, 4.0}, ref, naive, 3, DTYPE_F32).ok);
  const double infinite[] = {-(double)INFINITY, (double)NAN, 1.0};
  ck_assert(ref_compare(infinite, infinite, infinite, 3, DTYPE_F32).ok);
  ck_assert(
      !ref_compare((double[]){(double)INFINITY, (double)NAN, 1.0}, infinite, infinite, 3, DTYPE_F32)
           .ok);
  ck_assert(
      !ref_compare((double[]){-(double)INFINITY, 0, 1.0}, infinite, infinite, 3, DTYPE_F32).ok);
  ck_assert(ref_compare(NULL, NULL, NULL, 0, DTYPE_F32).ok);
}
END_TEST

/* f16 ends at 65504, and rounds to infinity from 65520 on. */
START_TEST(beyond_the_range)
{
  const double inf = (double)INFINITY;
  static const struct {
    double ref, naive, out;
    bool ok;
  } rows[] = {
      {394610, 394610, (double)INFINITY, true},
      {-394610, -394610, -(double)INFINITY, true},
      {394610, (double)INFINITY, (double)INFINITY, true},
      {394610, 394610, -(double)INFINITY, false},
      {394610, 394610, 65504, false},
      {65519.9, 65519.9, (double)INFINITY, true}, /* 65520 would be within the bound */
      {65510, 65504, (double)INFINITY, true},
      {65510, 65510, (double)INFINITY, false},
      {65530, 65530, 65504, false},
      {100, 100, (double)INFINITY, false},
  };
  for (size_t k = 0; k < sizeof(rows) / sizeof(*rows); k++) {
    const double naive[] = {1, rows[k].naive}, ref[] = {1, rows[k].ref}, out[] = {1, rows[k].out};
    struct ref_error error = ref_compare(out, ref, naive, 2, DTYPE_F16);
    ck_assert_msg(error.ok == rows[k].ok, "row %zu: off by %g, allowed %g", k, error.out_error,
                  error.bound);
    ck_assert_msg(error.ok || error.worst == 1, "row %zu", k);
  }
  const double ref[] = {3e38, 4e38}, out[] = {inf, inf};
  ck_assert(!ref_compare(out, ref, ref, 1, DTYPE_F32).ok);
  ck_assert(ref_compare(out + 1, ref + 1, ref + 1, 1, DTYPE_F32).ok);
}
END_TEST

int main(void)
{
  Suite *suite = suite_create("error_rule");
  TCase *tests = tcase_create("error_rule");
  tcase_add_test(tests, storage_types);
  tcase_add_test(tests, error_rule);
  tcase_add_test(tests, beyond_the_range);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
