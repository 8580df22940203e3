/* Tensors in memory: types, shapes, conversions of elements, views. */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/attnc/tensor.h"

static const char *const dtype_names[] = {"f32", "f16", "bf16", "f64", "i32",
                                          "i64", "u8",  "i8",   "bool"};
enum { DTYPE_COUNT = sizeof(dtype_names) / sizeof(dtype_names[0]) };

static struct tensor_error error;

static struct tensor make(const char *name, const char *dtype_name, int ndim, const int64_t *shape)
{
  DLDataType dtype;
  struct tensor tensor;
  ck_assert(tensor_dtype_parse(dtype_name, &dtype));
  ck_assert_msg(tensor_init(&tensor, name, dtype, ndim, shape, &error) == TENSOR_OK, "%s",
                error.text);
  return tensor;
}

START_TEST(dtypes_have_names_and_sizes)
{
  static const size_t sizes[] = {4, 2, 2, 8, 4, 8, 1, 1, 1};
  for (size_t k = 0; k < DTYPE_COUNT; k++) {
    DLDataType dtype;
    ck_assert(tensor_dtype_parse(dtype_names[k], &dtype));
    ck_assert_str_eq(tensor_dtype_name(dtype), dtype_names[k]);
    ck_assert_uint_eq(tensor_dtype_size(dtype), sizes[k]);
  }
  DLDataType dtype;
  ck_assert(!tensor_dtype_parse("f128", &dtype));
  ck_assert_ptr_null(tensor_dtype_name((DLDataType){kDLFloat, 32, 4}));
  ck_assert_uint_eq(tensor_dtype_size((DLDataType){kDLInt, 16, 1}), 0);
}
END_TEST

START_TEST(shapes_that_overflow_are_refused)
{
  int64_t count;
  size_t bytes;
  ck_assert(tensor_shape_size(TENSOR_DTYPE_F32, 0, NULL, &count, &bytes));
  ck_assert_int_eq(count, 1);
  ck_assert_uint_eq(bytes, 4);
  int64_t largest[] = {INT64_MAX / 8};
  ck_assert(tensor_shape_size(TENSOR_DTYPE_F64, 1, largest, &count, &bytes));
  int64_t too_large[] = {INT64_MAX / 8 + 1};
  ck_assert(!tensor_shape_size(TENSOR_DTYPE_F64, 1, too_large, &count, &bytes));
  int64_t wraps_to_zero[] = {INT64_C(1) << 32, INT64_C(1) << 32};
  ck_assert(!tensor_shape_size(TENSOR_DTYPE_U8, 2, wraps_to_zero, &count, &bytes));
  int64_t hidden_by_zero[] = {INT64_C(1) << 32, 0, INT64_C(1) << 32};
  ck_assert(!tensor_shape_size(TENSOR_DTYPE_U8, 3, hidden_by_zero, &count, &bytes));
  int64_t negative[] = {-1};
  ck_assert(!tensor_shape_size(TENSOR_DTYPE_U8, 1, negative, &count, &bytes));
  int64_t nine[9] = {1, 1, 1, 1, 1, 1, 1, 1, 1};
  ck_assert(!tensor_shape_size(TENSOR_DTYPE_U8, 9, nine, &count, &bytes));
  ck_assert(tensor_shape_size(TENSOR_DTYPE_U8, 8, nine, &count, &bytes));
  struct tensor tensor;
  ck_assert_int_eq(tensor_init(&tensor, "huge", TENSOR_DTYPE_U8, 2, wraps_to_zero, &error),
                   TENSOR_INVALID);
  ck_assert_ptr_nonnull(strstr(error.text, "tensor 'huge'"));
  tensor_free(&tensor);
}
END_TEST

static uint16_t stored(struct tensor *tensor, double value)
{
  tensor_set(tensor, 0, value);
  return *(uint16_t *)tensor->data;
}

static double loaded(struct tensor *tensor, unsigned bits)
{
  *(uint16_t *)tensor->data = (uint16_t)bits;
  return tensor_get(tensor, 0);
}

/* Every number of the format, and the values around the middle of every two neighbours. */
START_TEST(half_floats_round_to_nearest_even)
{
  static const struct {
    const char *name;
    unsigned infinity;
    double least, one_ulp, largest;
  } formats[] = {{"f16", 0x7c00, 0x1p-24, 0x1p-10, 65504.0},
                 {"bf16", 0x7f80, 0x1p-133, 0x1p-7, 0x1.fep127}};
  const int64_t one[] = {1};
  struct tensor t = make("t", formats[_i].name, 1, one);
  unsigned infinity = formats[_i].infinity;
  ck_assert_double_eq(loaded(&t, 1), formats[_i].least);
  ck_assert_double_eq(loaded(&t, infinity - 1), formats[_i].largest);
  ck_assert_double_eq(loaded(&t, (infinity >> 1 & infinity) + 1), 1 + formats[_i].one_ulp);
  for (unsigned bits = 0; bits < infinity; bits++) {
    double value = loaded(&t, bits);
    ck_assert_uint_eq(stored(&t, value), bits);
    ck_assert_uint_eq(stored(&t, -value), bits | 0x8000);
    double next = bits + 1 < infinity ? loaded(&t, bits + 1) : 2 * value - loaded(&t, bits - 1);
    double middle = (value + next) / 2;
    ck_assert_uint_eq(stored(&t, nextafter(middle, 0)), bits);
    ck_assert_uint_eq(stored(&t, nextafter(middle, INFINITY)), bits + 1);
    ck_assert_uint_eq(stored(&t, middle), bits % 2 == 0 ? bits : bits + 1);
  }
  ck_assert_uint_eq(stored(&t, INFINITY), infinity);
  ck_assert_uint_eq(stored(&t, -1e300), infinity | 0x8000);
  ck_assert_uint_eq(stored(&t, 1e-300), 0);
  ck_assert(isinf(loaded(&t, infinity)) && isnan(loaded(&t, infinity + 1)));
  tensor_set(&t, 0, (double)NAN);
  ck_assert(isnan(tensor_get(&t, 0)));
  tensor_free(&t);
}
END_TEST

START_TEST(integers_saturate)
{
  static const struct {
    const char *dtype;
    double value, expected;
  } cases[] = {{"i8", 200, 127},        {"i8", -200, -128},
               {"i8", 2.5, 2},          {"i8", NAN, 0},
               {"u8", 256, 255},        {"u8", -1, 0},
               {"u8", 255.4, 255},      {"i32", 1e20, 2147483647},
               {"i32", -3.5, -4},       {"i64", 1e30, 0x1p63},
               {"i64", -1e30, -0x1p63}, {"i64", 0x1p53, 0x1p53},
               {"bool", 0.5, 1},        {"bool", 0, 0},
               {"bool", NAN, 1},        {"f32", 0.1, (double)0.1f},
               {"f64", 0.1, 0.1},       {"f32", -INFINITY, -INFINITY}};
  for (size_t k = 0; k < sizeof(cases) / sizeof(cases[0]); k++) {
    const int64_t three[] = {3};
    struct tensor t = make("t", cases[k].dtype, 1, three);
    tensor_set(&t, 2, cases[k].value);
    ck_assert_msg(tensor_get(&t, 2) == cases[k].expected, "%s %g", cases[k].dtype, cases[k].value);
    tensor_free(&t);
  }
}
END_TEST

START_TEST(distances)
{
  const double inf = (double)INFINITY, nan = (double)NAN;
  const struct {
    double a, b, distance;
  } rows[] = {{1, -2, 3},    {0, -0.0, 0},     {inf, inf, 0}, {nan, nan, 0},
              {inf, 1, inf}, {inf, -inf, inf}, {nan, 1, inf}, {inf, nan, inf}};
  const int64_t one[] = {1};
  struct tensor a = make("a", "f16", 1, one), b = make("b", "f32", 1, one);
  for (size_t k = 0; k < sizeof(rows) / sizeof(rows[0]); k++) {
    tensor_set(&a, 0, rows[k].a);
    tensor_set(&b, 0, rows[k].b);
    ck_assert_msg(tensor_element_distance(&a, &b, 0) == rows[k].distance, "row %zu", k);
    ck_assert_msg(tensor_element_distance(&b, &a, 0) == rows[k].distance, "row %zu", k);
  }
  tensor_free(&a);
  tensor_free(&b);
}
END_TEST

START_TEST(views_and_names)
{
  const int64_t shape[] = {2, 3};
  struct tensor t = make("old", "i32", 2, shape);
  ck_assert_int_eq(tensor_rename(&t, "new", &error), TENSOR_OK);
  ck_assert_str_eq(t.name, "new");
  DLTensor view = tensor_view(&t);
  ck_assert_ptr_eq(view.data, t.data);
  ck_assert_ptr_eq(view.shape, t.shape);
  ck_assert_ptr_null(view.strides);
  ck_assert_int_eq(view.device.device_type, kDLCPU);
  ck_assert_int_eq(view.ndim, 2);
  ck_assert_uint_eq(view.byte_offset, 0);
  ck_assert(tensor_dtype_equal(view.dtype, TENSOR_DTYPE_I32));
  tensor_free(&t);
  tensor_free(&t);
  ck_assert_int_eq(tensor_init(&t, "t", TENSOR_DTYPE_F64, 2, shape, &error), TENSOR_OK);
  for (int64_t k = 0; k < tensor_count(&t); k++)
    ck_assert_double_eq(tensor_get(&t, k), 0);
  tensor_free(&t);
}
END_TEST

int main(void)
{
  Suite *suite = suite_create("tensor");
  TCase *values = tcase_create("values");
  tcase_add_test(values, dtypes_have_names_and_sizes);
  tcase_add_test(values, shapes_that_overflow_are_refused);
  tcase_add_loop_test(values, half_floats_round_to_nearest_even, 0, 2);
  tcase_add_test(values, integers_saturate);
  tcase_add_test(values, distances);
  tcase_add_test(values, views_and_names);
  suite_add_tcase(suite, values);

  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
