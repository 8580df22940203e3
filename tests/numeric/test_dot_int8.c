/* Products of rows by codes of 8 bits on the CPU, made of digits where the processor has such
 * instructions: odd sizes, weights, and rows that 16 bits cannot stand for. Run once more for a
 * processor without them (ATTN_HOST_CPU). */
#include "tests/numeric/tile_interpreter.h"

#include <check.h>
#include <math.h>

static struct arena arena;

static void setup(void)
{
  arena_init(&arena);
}

static void teardown(void)
{
  arena_free(&arena);
}

/* s = a k', o = c + w v */
static const char text[] =
    "kernel t\n  tensor a f32[2] tensor k int8[2] tensor s f32[2] written tensor w f32[2]\n"
    "  tensor v int8[2] tensor c f32[2] tensor o f32[2] written\n"
    "{\n%%tasks: index = scalar => 1L\nparallel (%%task) < (%%tasks) {\n"
    "%%z: index = scalar => 0L\n%%all: index = scalar => 4096L\n"
    "%%a: f32[%d,%d] = load a[%%z, %%z] rows 0 columns 1 live %%all, %%all\n"
    "%%k: f32[%d,%d] = load k[%%z, %%z] rows 0 columns 1 live %%all, %%all\n"
    "%%s: f32[%d,%d] = product %%a, %%k transposed codes\n"
    "store %%s to s[%%z, %%z] rows 0 columns 1 live %%all, %%all\n"
    "%%w: f32[%d,%d] = load w[%%z, %%z] rows 0 columns 1 live %%all, %%all\n"
    "%%v: f32[%d,%d] = load v[%%z, %%z] rows 0 columns 1 live %%all, %%all\n"
    "%%c: f32[%d,%d] = load c[%%z, %%z] rows 0 columns 1 live %%all, %%all\n"
    "%%o: f32[%d,%d] = product %%w, %%v codes, %%c\n"
    "store %%o to o[%%z, %%z] rows 0 columns 1 live %%all, %%all\n}\n}\n";

struct shape {
  int rows, channels, keys, values;
};
static const struct shape shapes[] = {
    {9, 5, 2, 2},    {16, 8, 13, 17},     {37, 21, 7, 33},    {33, 64, 61, 64},
    {16, 128, 3, 5}, {192, 128, 64, 128}, {11, 576, 19, 512},
};

enum { A, K, S, W, V, C, O, ARRAYS };

static double number(uint32_t *state)
{
  *state = *state * 1664525u + 1013904223u;
  return (double)(int32_t)*state * 0x1p-31;
}

/* What is special about a row; from FAR on digits cannot stand for it. */
enum special {
  PLAIN,
  ZERO,
  NEGATIVE,
  EQUAL,
  TINY,
  HUGE_NUMBERS,
  FAR,
  INFINITE,
  NO_NUMBER,
  SPECIALS
};

/* The first channels, where no key has anything beside special rows. */
static int empty_channels(struct shape shape)
{
  return shape.channels / 8 + 1;
}

/* FAR has numbers beside which the others are nothing, in the channels that keys leave empty. */
static double row_element(enum special special, int n, int empty, uint32_t *state)
{
  const double x = number(state);
  switch (special) {
  case PLAIN: return x;
  case ZERO: return 0;
  case NEGATIVE: return -fabs(x);
  case EQUAL: return 0.75;
  case INFINITE: return n == 1 ? (double)INFINITY : x;
  case NO_NUMBER: return n == 1 ? (double)NAN : x;
  case FAR: return n < empty ? 1e6 : x;
  case TINY: return x * 1e-20;
  case HUGE_NUMBERS: return x * 1e24;
  case SPECIALS: break;
  }
  return 0;
}

static struct tile_array array(const char *name, enum dtype type, int rows, int columns)
{
  return tile_array_new(name, type, 2, (int64_t[]){rows, columns}, NULL);
}

/* `specials`: so many kinds of rows of a, of 32 rows among the first 16, a panel or more; the
 * others are only what digits can be. Beside them weights are negative now and then. 0: all is
 * plain. */
static void fill(struct tile_array *arrays, struct shape shape, int specials)
{
  uint32_t state = 7;
  for (int64_t n = 0; n < arrays[A].count; n++) {
    const int64_t m = n / shape.channels;
    const int kinds = m % 32 < 16 ? specials : FAR;
    const enum special special = specials > 0 ? (enum special)(m % kinds) : PLAIN;
    tile_array_set(&arrays[A], n,
                   row_element(special, (int)(n % shape.channels), empty_channels(shape), &state));
  }
  for (int64_t n = 0; n < arrays[K].count; n++)
    tile_array_set(&arrays[K], n,
                   specials > 0 && n % shape.channels < empty_channels(shape)
                       ? 0
                       : floor(number(&state) * 127.5 + 0.5));
  for (int64_t n = 0; n < arrays[W].count; n++) {
    const double x = fabs(number(&state));
    tile_array_set(&arrays[W], n, n % 3 == 1 ? 0 : specials > 0 && n % 41 == 40 ? -x : x);
  }
  for (int64_t n = 0; n < arrays[V].count; n++)
    tile_array_set(&arrays[V], n, n % 5 == 0 ? -128 : floor(number(&state) * 127.5 + 0.5));
  for (int64_t n = 0; n < arrays[C].count; n++)
    tile_array_set(&arrays[C], n, number(&state));
}

/* Element (m, n) of a row times codes, and how far it may be from that: half a step of 16 bits of
 * the row's range for each code, and the rounding of f32. */
static void check_element(const struct tile_array *x, const struct tile_array *codes,
                          bool transposed, int m, int n, double start, double got)
{
  const int inner = (int)x->sizes[1], columns = (int)codes->sizes[1];
  double sum = start, size = fabs(start), least = 0, largest = 0, roots = 0, weight = 0;
  for (int k = 0; k < inner; k++) {
    const double a = tile_array_get(x, (int64_t)m * inner + k);
    const double c =
        tile_array_get(codes, transposed ? (int64_t)n * columns + k : (int64_t)k * columns + n);
    sum += a * c;
    size += fabs(a * c);
    least = fmin(least, a);
    largest = fmax(largest, a);
    roots += sqrt(sqrt(fabs(a)));
    weight += fabs(c);
  }
  const double far = sqrt(sqrt(fmax(-least, largest)));
  const bool digits = !transposed || (roots - far) * 1.07 * 2.3784 >= far * (inner - 1);
  const double step = digits ? (largest - least) / 65533 : 0;
  const double bound =
      0.51 * step * weight + size * 1e-5 + (digits ? -least * weight * 1e-6 : 0) + 1e-30;
  if (!isfinite(sum))
    ck_assert_msg(isnan(sum) ? isnan(got) : got == sum, "[%d, %d]: %g instead of %g", m, n, got,
                  sum);
  else
    ck_assert_msg(fabs(got - sum) <= bound, "[%d, %d]: %.9g instead of %.9g, %g is allowed", m, n,
                  got, sum, bound);
}

static void check_shape(struct shape shape, int specials, const struct schedule *schedule)
{
  const int m = shape.rows, c = shape.channels, n = shape.keys, d = shape.values;
  const char *program = arena_format(&arena, text, m, c, n, c, m, n, m, n, n, d, m, d, m, d);
  struct tile_code code;
  const char *error = tile_code_open(&code, program, schedule);
  ck_assert_msg(error == NULL, "%s\n%s", error, program);
  struct tile_array arrays[ARRAYS] = {array("a", DTYPE_F32, m, c), array("k", DTYPE_I8, n, c),
                                      array("s", DTYPE_F32, m, n), array("w", DTYPE_F32, m, n),
                                      array("v", DTYPE_I8, n, d),  array("c", DTYPE_F32, m, d),
                                      array("o", DTYPE_F32, m, d)};
  fill(arrays, shape, specials);
  struct tile_launch launch = {.arrays = arrays, .array_count = ARRAYS};
  error = tile_run(&code, &launch);
  ck_assert_msg(error == NULL, "%s", error);
  for (int row = 0; row < m; row++) {
    for (int k = 0; k < n; k++)
      check_element(&arrays[A], &arrays[K], true, row, k, 0,
                    tile_array_get(&arrays[S], (int64_t)row * n + k));
    for (int k = 0; k < d; k++) {
      const int64_t at = (int64_t)row * d + k;
      check_element(&arrays[W], &arrays[V], false, row, k, tile_array_get(&arrays[C], at),
                    tile_array_get(&arrays[O], at));
    }
  }
  for (size_t k = 0; k < ARRAYS; k++)
    tile_array_free(&arrays[k]);
  tile_code_close(&code);
}

static const struct schedule schedules[] = {
    {0}, {.lanes = 4, .row_vectors = 1, .column_registers = 3}, {.row_vectors = 3}, {.lanes = 8}};
enum { SCHEDULES = sizeof(schedules) / sizeof(*schedules) };

START_TEST(plain_rows)
{
  check_shape(shapes[_i], 0, &schedules[0]);
  check_shape(shapes[_i], 0, &schedules[1 + _i % (SCHEDULES - 1)]);
}
END_TEST

START_TEST(special_rows)
{
  check_shape(shapes[_i], INFINITE, &schedules[0]);
  check_shape(shapes[_i], SPECIALS, &schedules[0]);
}
END_TEST

int main(void)
{
  const int count = (int)(sizeof(shapes) / sizeof(*shapes));
  Suite *suite = suite_create("dot_int8");
  TCase *tests = tcase_create("dot_int8");
  tcase_add_checked_fixture(tests, setup, teardown);
  tcase_add_loop_test(tests, plain_rows, 0, count);
  tcase_add_loop_test(tests, special_rows, 0, count);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? 0 : 1;
}
