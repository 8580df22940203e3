/* Products with few rows on codes, compared with the interpreter: every way in which a scale and a
 * zero can belong to a code, on shapes that fill vectors and parts of them and on others. Numbers
 * are such that every sum is exact. */
#include "tests/numeric/tile_interpreter.h"

#include <check.h>

static struct arena arena;

static void setup(void)
{
  arena_init(&arena);
}

static void teardown(void)
{
  arena_free(&arena);
}

enum scales {
  UNSCALED,
  BY_KEY,     /* s[key] */
  BY_GROUP,   /* s[key, column / group] */
  BY_GROUP_0, /* the same and a zero */
  SHARED,     /* t[at[key], column], and a zero */
  SCALES
};

struct codes {
  int rows, keys, columns;
  int group; /* columns of a group; or keys that share scales */
  enum dtype stored;
};

static const char *repeated(int columns, int group)
{
  char *text = arena_alloc(&arena, 8 * (size_t)columns + 3), *end = text;
  for (int c = 0; c < columns; c++)
    end += sprintf(end, "%s%d", c == 0 ? "[" : ", ", c / group);
  sprintf(end, "]");
  return text;
}

/* Loads the codes into a tile %d<suffix> of their values. */
static const char *loads(const struct codes *c, enum scales scales, const char *suffix)
{
  const char *shape = arena_format(&arena, "f32[%d,%d]", c->keys, c->columns);
  const char *codes =
      arena_format(&arena, "%%%c%s: %s = load x[%%z, %%z] rows 0 columns 1 live %%all, %%all\n",
                   scales == UNSCALED ? 'd' : 'x', suffix, shape);
  const int groups = c->columns / c->group;
  const char *order = repeated(c->columns, c->group);
  switch (scales) {
  case UNSCALED: return codes;
  case BY_KEY:
    return arena_format(&arena,
                        "%s%%s%s: f32[%d,1] = load s[%%z, %%z] rows 0 live %%all, %%one\n"
                        "%%d%s: %s = map %%s%s, %%x%s => $0 * $1\n",
                        codes, suffix, c->keys, suffix, shape, suffix, suffix);
  case BY_GROUP:
    return arena_format(
        &arena,
        "%s%%g%s: f32[%d,%d] = load s[%%z, %%z] rows 0 columns 1 live %%all, %%all\n"
        "%%s%s: %s = permute %%g%s %s\n%%d%s: %s = map %%x%s, %%s%s => $0 * $1\n",
        codes, suffix, c->keys, groups, suffix, shape, suffix, order, suffix, shape, suffix,
        suffix);
  case BY_GROUP_0:
    return arena_format(
        &arena,
        "%s%%g%s: f32[%d,%d] = load s[%%z, %%z] rows 0 columns 1 live %%all, %%all\n"
        "%%s%s: %s = permute %%g%s %s\n"
        "%%h%s: f32[%d,%d] = load o[%%z, %%z] rows 0 columns 1 live %%all, %%all\n"
        "%%o%s: %s = permute %%h%s %s\n%%d%s: %s = map %%o%s, %%s%s, %%x%s => $1 * $2 + $0\n",
        codes, suffix, c->keys, groups, suffix, shape, suffix, order, suffix, c->keys, groups,
        suffix, shape, suffix, order, suffix, shape, suffix, suffix, suffix);
  case SHARED:
    return arena_format(&arena,
                        "%s%%at%s: i32[%d,1] = load at[%%z] rows 0 live %%all, %%one\n"
                        "%%s%s: %s = load t[%%at%s, %%z] columns 1 live %%all, %%all\n"
                        "%%o%s: %s = load u[%%at%s, %%z] columns 1 live %%all, %%all\n"
                        "%%d%s: %s = map %%o%s, %%s%s, %%x%s => $1 * $2 + $0\n",
                        codes, suffix, c->keys, suffix, shape, suffix, suffix, shape, suffix,
                        suffix, shape, suffix, suffix, suffix);
  case SCALES: break;
  }
  return "";
}

static struct tile_array array(const char *name, enum dtype type, uint32_t rank, int64_t a,
                               int64_t b)
{
  struct tile_array made =
      tile_array_new(name, type, rank, (int64_t[]){a, b}, (int64_t[]){0, 1, 3});
  tile_array_fill(&made, (uint32_t)(a * 31 + b * 7 + name[0]));
  return made;
}

/* Number n of the type, NaN too, in column n of row 0 and row n of column 0. */
static void fill_with_every(const struct tile_array *x)
{
  for (int64_t k = 0; k < x->sizes[0]; k++)
    for (int64_t c = 0; c < x->sizes[1]; c++)
      x->data[k * x->strides[0] + c * x->strides[1]] = (unsigned char)(k == 0 ? c : c == 0 ? k : 0);
}

/* Both products of attention: y = a b^T and w = y b. `every`: as fill_with_every has them. */
static void run(const struct codes *c, enum scales scales, const struct schedule *schedule,
                bool every)
{
  const char *text = arena_format(
      &arena,
      "kernel t tensor a f32[2] tensor x %s[2] tensor s f16[2] tensor o f16[2] tensor t f16[2]\n"
      "tensor u f16[2] tensor at i32[1] tensor y f32[2] written tensor w f32[2] written\n{\n"
      "%%tasks: index = scalar => 1L\nparallel (%%task) < (%%tasks) {\n"
      "%%z: index = scalar => 0L\n%%one: index = scalar => 1L\n%%all: index = scalar => 4096L\n"
      "%%a: f32[%d,%d] = load a[%%z, %%z] rows 0 columns 1 live %%all, %%all\n%s"
      "%%y: f32[%d,%d] = product %%a, %%d1 transposed\n"
      "store %%y to y[%%z, %%z] rows 0 columns 1 live %%all, %%all\n%s"
      "%%sign: f32[%d,%d] = map %%y => select($0 < 0.0, 0.5, 1.0)\n"
      "%%w: f32[%d,%d] = product %%sign, %%d2\n"
      "store %%w to w[%%z, %%z] rows 0 columns 1 live %%all, %%all\n}\n}\n",
      dtype_name(c->stored), c->rows, c->columns, loads(c, scales, "1"), c->rows, c->keys,
      loads(c, scales, "2"), c->rows, c->keys, c->rows, c->columns);
  struct tile_code code;
  const char *error = tile_code_open(&code, text, schedule);
  ck_assert_msg(error == NULL, "%s\n%s", error, text);
  const int groups = scales == BY_KEY ? 1 : c->columns / c->group;
  struct tile_array arrays[] = {
      array("a", DTYPE_F32, 2, c->rows, c->columns), array("x", c->stored, 2, c->keys, c->columns),
      array("s", DTYPE_F16, 2, c->keys, groups),     array("o", DTYPE_F16, 2, c->keys, groups),
      array("t", DTYPE_F16, 2, c->keys, c->columns), array("u", DTYPE_F16, 2, c->keys, c->columns),
      array("at", DTYPE_I32, 1, c->keys, 0),         array("y", DTYPE_F32, 2, c->rows, c->keys),
      array("w", DTYPE_F32, 2, c->rows, c->columns)};
  enum { COUNT = sizeof(arrays) / sizeof(*arrays) };
  if (every)
    fill_with_every(&arrays[1]);
  for (int64_t k = 0; k < c->keys; k++)
    tile_array_set(&arrays[6], k, (double)(k / c->group * 5 % c->keys));
  if (c->rows == 1) /* a key among those that share scales has others */
    tile_array_set(&arrays[6], 3, c->keys - 1);
  struct tile_launch launch = {.arrays = arrays, .array_count = COUNT};
  error = tile_compare(&arena, &code, &launch, 1e-5);
  ck_assert_msg(error == NULL, "%d x %d x %d of %s, scales %d: %s\n%s", c->rows, c->keys,
                c->columns, dtype_name(c->stored), (int)scales, error, text);
  for (size_t k = 0; k < COUNT; k++)
    tile_array_free(&arrays[k]);
  tile_code_close(&code);
}

START_TEST(codes_times_scales)
{
  /* With 16 lanes: words of every width; parts of keys; keys that share scales by blocks, by parts
   * of blocks and one by one; sums of rows that fill registers and that do not. */
  static const struct codes cases[] = {
      {4, 64, 128, 32, DTYPE_I4},   {4, 32, 64, 16, DTYPE_I4},   {1, 48, 32, 32, DTYPE_I4},
      {3, 64, 96, 24, DTYPE_I4},    {16, 16, 128, 8, DTYPE_I4},  {2, 40, 128, 64, DTYPE_I4},
      {4, 64, 128, 32, DTYPE_I2},   {5, 16, 256, 1, DTYPE_I2},   {4, 32, 64, 4, DTYPE_I2},
      {4, 64, 128, 32, DTYPE_E4M3}, {3, 20, 64, 16, DTYPE_E4M3}, {3, 20, 64, 16, DTYPE_E5M2},
      {4, 64, 128, 32, DTYPE_I8},   {6, 24, 48, 16, DTYPE_F32}};
  static const struct schedule schedules[] = {{0}, {.lanes = 4, .row_vectors = 1}};
  for (size_t k = 0; k < sizeof(cases) / sizeof(*cases); k++)
    for (size_t n = 0; n < sizeof(schedules) / sizeof(*schedules); n++)
      run(&cases[k], (enum scales)_i, &schedules[n], false);
}
END_TEST

START_TEST(every_number_of_8_bits)
{
  static const struct codes cases[] = {{4, 256, 256, 32, DTYPE_E4M3},
                                       {2, 256, 256, 32, DTYPE_E5M2}};
  run(&cases[_i], UNSCALED, &(const struct schedule){0}, true);
}
END_TEST

int main(void)
{
  Suite *suite = suite_create("products with few rows on codes");
  TCase *tests = tcase_create("codes");
  tcase_set_timeout(tests, 120);
  tcase_add_checked_fixture(tests, setup, teardown);
  tcase_add_loop_test(tests, codes_times_scales, 0, SCALES);
  tcase_add_loop_test(tests, every_number_of_8_bits, 0, 2);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
