/* f16 to f32 and back in compiled code: every f16, and f32 numbers on both sides of every border
 * between two of them, in vectors and in scalars. Run once more for processors that have no
 * instructions for it (ATTN_HOST_CPU). */
#include "tests/numeric/tile_runner.h"

#include <check.h>
#include <float.h>
#include <math.h>

/* 64 tasks, each of which has 16 rows. */
enum { COLUMNS = 64, TASK_ROWS = 16, ROWS = 64 * TASK_ROWS, COUNT = ROWS * COLUMNS };

#define TASKS                                                                                      \
  "{\n%tasks: index = scalar => 64L\nparallel (%task) < (%tasks) {\n"                              \
  "%z: index = scalar => 0L\n%one: index = scalar => 1L\n%all: index = scalar => 4096L\n"          \
  "%rows: index = scalar => 16L\n%columns: index = scalar => 64L\n"                                \
  "%top: index = scalar %task, %rows => $0 * $1\n"
#define EACH "for %i = %z to %rows step 1 {\nfor %j = %z to %columns step 1 {\n"

static const char widening[] =
    "kernel t\ntensor x f16[2]\ntensor y f32[2] written\ntensor ys f32[2] written\n"
    "tensor back f16[2] written\n" TASKS
    "%x: f16[16,64] = load x[%top, %z] rows 0 columns 1 live %all, %all\n"
    "%y: f32[16,64] = convert %x\n"
    "store %y to y[%top, %z] rows 0 columns 1 live %all, %all\n"
    "store %y to back[%top, %z] rows 0 columns 1 live %all, %all\n" EACH
    "%r: index = scalar %top, %i => $0 + $1\n"
    "%s: f32 = scalar %r, %j => x[$0, $1]\n%t: f32[1,1] = splat %s\n"
    "store %t to ys[%r, %j] live %one, %one\n}\n}\n}\n}\n";

static const char rounding[] =
    "kernel t\ntensor x f32[2]\ntensor y f16[2] written\ntensor ys f16[2] written\n" TASKS
    "%x: f32[16,64] = load x[%top, %z] rows 0 columns 1 live %all, %all\n"
    "%y: f16[16,64] = convert %x\n"
    "store %y to y[%top, %z] rows 0 columns 1 live %all, %all\n" EACH
    "%r: index = scalar %top, %i => $0 + $1\n"
    "%s: f32 = scalar %r, %j => x[$0, $1]\n%t: f32[1,1] = splat %s\n"
    "store %t to ys[%r, %j] live %one, %one\n}\n}\n}\n}\n";

static double half_value(unsigned bits)
{
  int exponent = (int)(bits >> 10 & 31), fraction = (int)(bits & 0x3ff);
  double sign = bits >> 15 != 0 ? -1 : 1;
  if (exponent == 31)
    return fraction != 0 ? (double)NAN : sign * (double)INFINITY;
  return sign * (exponent == 0 ? ldexp(fraction, -24) : ldexp(fraction + 1024, exponent - 25));
}

static struct tile_array array(const char *name, enum dtype type)
{
  return tile_array_new(name, type, 2, (int64_t[]){ROWS, COLUMNS}, NULL);
}

static void run(const char *text, struct tile_array *arrays, size_t count)
{
  struct tile_code code;
  const char *error = tile_code_open(&code, text, NULL);
  ck_assert_msg(error == NULL, "%s\n%s", error, text);
  struct tile_launch launch = {.arrays = arrays, .array_count = count};
  error = tile_run(&code, &launch);
  ck_assert_msg(error == NULL, "%s", error);
  tile_code_close(&code);
}

static unsigned bits_at(const struct tile_array *a, size_t k)
{
  uint16_t bits;
  memcpy(&bits, a->data + 2 * k, sizeof(bits));
  return bits;
}

static float single_at(const struct tile_array *a, size_t k)
{
  float value;
  memcpy(&value, a->data + 4 * k, sizeof(value));
  return value;
}

static bool is_nan(unsigned half)
{
  return (half & 0x7fff) > 0x7c00;
}

START_TEST(every_half_widens)
{
  struct tile_array arrays[] = {array("x", DTYPE_F16), array("y", DTYPE_F32),
                                array("ys", DTYPE_F32), array("back", DTYPE_F16)};
  for (unsigned k = 0; k < COUNT; k++)
    memcpy(arrays[0].data + 2 * k, &(uint16_t){(uint16_t)k}, 2);
  run(widening, arrays, 4);
  for (unsigned k = 0; k < COUNT; k++) {
    float expected = (float)half_value(k), y = single_at(&arrays[1], k);
    float ys = single_at(&arrays[2], k);
    bool same = is_nan(k) ? isnan(y) && isnan(ys) && is_nan(bits_at(&arrays[3], k))
                          : y == expected && ys == expected && bits_at(&arrays[3], k) == k;
    bool negative = k >> 15 != 0;
    ck_assert_msg(same && (signbit(y) != 0) == negative && (signbit(ys) != 0) == negative,
                  "%04x: %a, scalar %a, back %04x", k, (double)y, (double)ys,
                  bits_at(&arrays[3], k));
  }
  for (int n = 0; n < 4; n++)
    tile_array_free(&arrays[n]);
}
END_TEST

/* Number `k` of those to round; what has to come of it in *half. */
static float number_to_round(unsigned k, unsigned *half)
{
  static const struct {
    float value;
    unsigned half;
  } others[] = {{INFINITY, 0x7c00}, {FLT_MAX, 0x7c00},  {65536.0f, 0x7c00}, {1e10f, 0x7c00},
                {FLT_MIN, 0},       {0x1p-149f, 0},     {1e-10f, 0},        {0x1p-14f, 0x400},
                {0x1p-24f, 1},      {0x1.8p-24f, 2},    {0x1p-25f, 0},      {0.1f, 0x2e66},
                {1.0f / 3, 0x3555}, {65519.0f, 0x7bff}, {2049.0f, 0x6800},  {2051.0f, 0x6802}};
  enum { OTHERS = sizeof(others) / sizeof(*others), BORDERS = 0x7c00 };
  unsigned sign = k % 2, at = k / 2;
  float value;
  if (at / 3 < BORDERS) { /* between two neighbours; beyond the last one follows 2^16 */
    unsigned low = at / 3, even = low + (low & 1);
    double high = low + 1 == 0x7c00 ? 65536 : half_value(low + 1);
    float border = (float)((half_value(low) + high) / 2);
    *half = at % 3 == 0 ? even : at % 3 == 1 ? low : low + 1;
    value = at % 3 == 0 ? border : nextafterf(border, at % 3 == 1 ? 0.0f : INFINITY);
  } else {
    unsigned other = (at - 3 * BORDERS) % OTHERS;
    *half = others[other].half;
    value = others[other].value;
  }
  *half |= sign << 15;
  return sign != 0 ? -value : value;
}

START_TEST(borders_round_to_even)
{
  enum { BATCHES = 3 };
  struct tile_array arrays[] = {array("x", DTYPE_F32), array("y", DTYPE_F16),
                                array("ys", DTYPE_F16)};
  unsigned half;
  for (unsigned batch = 0; batch < BATCHES; batch++) {
    for (unsigned k = 0; k < COUNT; k++)
      memcpy(arrays[0].data + 4 * k, &(float){number_to_round(batch * COUNT + k, &half)}, 4);
    run(rounding, arrays, 3);
    for (unsigned k = 0; k < COUNT; k++) {
      float value = number_to_round(batch * COUNT + k, &half);
      ck_assert_msg(bits_at(&arrays[1], k) == half && bits_at(&arrays[2], k) == half,
                    "%a: %04x, scalar %04x, instead of %04x", (double)value, bits_at(&arrays[1], k),
                    bits_at(&arrays[2], k), half);
    }
  }
  for (int n = 0; n < 3; n++)
    tile_array_free(&arrays[n]);
}
END_TEST

/* Whichever bits of the fraction are set. */
START_TEST(nan_stays)
{
  struct tile_array arrays[] = {array("x", DTYPE_F32), array("y", DTYPE_F16),
                                array("ys", DTYPE_F16)};
  for (unsigned k = 0; k < COUNT; k++) {
    uint32_t bits = 0x7f800000u | UINT32_C(1) << k % 23 | (k % 2) << 31;
    memcpy(arrays[0].data + 4 * k, &bits, 4);
  }
  run(rounding, arrays, 3);
  for (unsigned k = 0; k < COUNT; k++)
    ck_assert_msg(is_nan(bits_at(&arrays[1], k)) && is_nan(bits_at(&arrays[2], k)), "%u", k);
  for (int n = 0; n < 3; n++)
    tile_array_free(&arrays[n]);
}
END_TEST

int main(void)
{
  Suite *suite = suite_create("halves");
  TCase *tests = tcase_create("conversions");
  tcase_add_test(tests, every_half_widens);
  tcase_add_test(tests, borders_round_to_even);
  tcase_add_test(tests, nan_stays);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
