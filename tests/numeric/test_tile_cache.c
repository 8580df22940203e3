/* Loops over keys of a cache, compared with the interpreter: rows that lie anywhere, types of a
 * byte and less, both as operands of products that are copied ahead, and what stores them. Numbers
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

/* What a code is multiplied by: nothing; s[page, slot], and zero[c] is added to v; or
 * t[page, slot / 2, c]. */
enum scales { UNSCALED, BY_TOKEN, BY_CHANNEL };

/* A loop y = sum over keys of p(q k) v, where k and v lie in pages. */
struct loop {
  int rows, columns, channels;
  int page, keys; /* slots of a page; all keys */
  int gap;        /* between rows of the cache, in elements */
  bool segments;  /* for_segments, with a full and a partial region */
  enum dtype stored;
  const char *element; /* of operands of products */
  enum scales scales;
  struct schedule schedule;
};

/* The body of the loop at position %j; names end in `suffix`. */
static const char *loop_body(const struct loop *l, const char *suffix, bool cut)
{
  const char *live = cut ? "%left" : "%all";
  const char *page =
      arena_format(&arena, "%%page: i32[%d,1] = map %%at => table[min($0 // %d, pages - 1)]\n",
                   l->columns, l->page);
  if (l->segments) /* beyond the live rows the table ends */
    page = arena_format(&arena,
                        "%%entry: i32[%d,1] = map %%at => $0 // %d\n"
                        "%%page: i32[%d,1] = load table[%%entry] live %s, %%one\n",
                        l->columns, l->page, l->columns, live);
  const char *load = l->scales != UNSCALED ? "f32" : l->element;
  char *text = arena_format(
      &arena,
      "%%left: index = scalar %%j => long(n) - $0\n"
      "%%at: i32[%d,1] = iota %%j\n"
      "%s"
      "%%slot: i32[%d,1] = map %%at => $0 %% %d\n"
      "%%kc: %s[%d,%d] = load k[%%page, %%slot, %%one, %%z] columns 3 live %s, %%all\n"
      "%%vc: %s[%d,%d] = load v[%%page, %%slot, %%one, %%z] columns 3 live %s, %%all\n",
      l->columns, page, l->columns, l->page, load, l->columns, l->channels, cut ? "%left" : "%all",
      load, l->columns, l->channels, live);
  if (l->scales == BY_CHANNEL)
    text = arena_format(&arena,
                        "%s%%half: i32[%d,1] = map %%slot => $0 // 2\n"
                        "%%ks: f32[%d,%d] = load t[%%page, %%half, %%z] columns 2 live %s, %%all\n"
                        "%%kx: %s[%d,%d] = map %%kc, %%ks => $0 * $1\n"
                        "%%vx: %s[%d,%d] = map %%ks, %%vc => $1 * $0\n",
                        text, l->columns, l->columns, l->channels, live, l->element, l->columns,
                        l->channels, l->element, l->columns, l->channels);
  if (l->scales == BY_TOKEN)
    text = arena_format(&arena,
                        "%s%%ks: f32[%d,1] = load s[%%page, %%slot] live %s, %%one\n"
                        "%%zero: f32[1,%d] = load zero[%%z] columns 0 live %%one, %%all\n"
                        "%%kx: %s[%d,%d] = map %%kc, %%ks => $0 * $1\n"
                        "%%vx: %s[%d,%d] = map %%ks, %%vc, %%zero => $1 * $0 + $2\n",
                        text, l->columns, live, l->channels, l->element, l->columns, l->channels,
                        l->element, l->columns, l->channels);
  text = arena_format(&arena,
                      "%s%%sc: f32[%d,%d] = product %%q, %s transposed\n"
                      "%%p: %s[%d,%d] = map %%sc, %%at2, %%j => "
                      "select(long($1) + $2 < long(n), select($0 < 0.0, 0.5, 1.0), 0.0)\n"
                      "%%next: f32[%d,%d] = product %%p, %s, %%acc\n",
                      text, l->rows, l->columns, l->scales != UNSCALED ? "%kx" : "%kc", l->element,
                      l->rows, l->columns, l->rows, l->channels,
                      l->scales != UNSCALED ? "%vx" : "%vc");
  /* Names of a region end in its suffix. */
  static const char *const local[] = {"left", "at", "page", "slot", "half", "entry",
                                      "kc",   "vc", "ks",   "zero", "kx",   "vx",
                                      "sc",   "p",  "next", "acc",  "j"};
  char *out = arena_alloc(&arena, 4 * strlen(text) + 1), *end = out;
  for (const char *c = text; *c != '\0'; c++) {
    *end++ = *c;
    if (*c != '%')
      continue;
    size_t length = strspn(c + 1, "abcdefghijklmnopqrstuvwxyz0123456789_");
    for (size_t k = 0; k < sizeof(local) / sizeof(*local); k++) {
      if (strlen(local[k]) != length || strncmp(c + 1, local[k], length) != 0)
        continue;
      memcpy(end, c + 1, length);
      end += length;
      end += sprintf(end, "%s", suffix);
      c += length;
      break;
    }
  }
  *end = '\0';
  return out;
}

static const char *loop_text(const struct loop *l)
{
  const char *stored = dtype_name(l->stored);
  const char *begin = arena_format(
      &arena,
      "kernel t tensor q %s[2] tensor k %s[4] tensor v %s[4] tensor s f32[2] tensor zero f32[1]\n"
      "tensor t f32[3] tensor table i32[1] tensor y f32[2] written param n int param pages int\n{\n"
      "%%tasks: index = scalar => 1L\nparallel (%%task) < (%%tasks) {\n"
      "%%z: index = scalar => 0L\n%%one: index = scalar => 1L\n%%all: index = scalar => 4096L\n"
      "%%end: index = scalar => long(n)\n%%no: f32 = scalar => 0.0\n"
      "%%at2: i32[1,%d] = iota %%z\n"
      "%%q: %s[%d,%d] = load q[%%z, %%z] rows 0 columns 1 live %%all, %%all\n"
      "%%start: f32[%d,%d] = splat %%no\n",
      l->element, stored, stored, l->columns, l->element, l->rows, l->channels, l->rows,
      l->channels);
  const char *loop;
  if (l->segments)
    loop = arena_format(
        &arena,
        "%%y: f32[%d,%d] = for_segments (%%z, %%end) step %d carry (%%start) may true must tile_j1 "
        "< "
        "long(n) full (%%jf, %%accf) {\n%syield %%nextf\n} partial (%%jp, %%accp) {\n%syield "
        "%%nextp\n}\n",
        l->rows, l->channels, l->columns, loop_body(l, "f", false), loop_body(l, "p", true));
  else
    loop = arena_format(
        &arena,
        "%%y: f32[%d,%d] = for %%jl = %%z to %%end step %d carry (%%accl = %%start) {\n%syield "
        "%%nextl\n}\n",
        l->rows, l->channels, l->columns, loop_body(l, "l", true));
  return arena_format(&arena,
                      "%s%sstore %%y to y[%%z, %%z] rows 0 columns 1 live %%all, %%all\n}\n}\n",
                      begin, loop);
}

static struct tile_array array(const char *name, enum dtype type, uint32_t rank,
                               const int64_t *sizes, int64_t gap)
{
  int64_t gaps[SPEC_MAX_RANK] = {0};
  gaps[rank - 1] = gap;
  struct tile_array made = tile_array_new(name, type, rank, sizes, gaps);
  tile_array_fill(&made, (uint32_t)(sizes[0] * 31 + name[0]));
  return made;
}
#define ARRAY(name, type, gap, ...)                                                                \
  array(name, type, sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t), (int64_t[]){__VA_ARGS__},  \
        gap)

static void run_loop(const struct loop *l)
{
  const char *text = loop_text(l);
  struct tile_code code;
  const char *error = tile_code_open(&code, text, &l->schedule);
  ck_assert_msg(error == NULL, "%s\n%s", error, text);
  enum dtype half = strcmp(l->element, "f32") == 0   ? DTYPE_F32
                    : strcmp(l->element, "f16") == 0 ? DTYPE_F16
                                                     : DTYPE_BF16;
  const int64_t used = (l->keys + l->page - 1) / l->page, pages = used + 3;
  struct tile_array arrays[] = {
      ARRAY("q", half, 0, l->rows, l->channels),
      ARRAY("k", l->stored, l->gap, pages, l->page, 2, l->channels),
      ARRAY("v", l->stored, l->gap, pages, l->page, 2, l->channels),
      ARRAY("s", DTYPE_F32, 1, pages, l->page),
      ARRAY("zero", DTYPE_F32, 0, l->channels),
      ARRAY("t", DTYPE_F32, 1, pages, (l->page + 1) / 2, l->channels),
      ARRAY("table", DTYPE_I32, 0, used == 0 ? 1 : used),
      ARRAY("y", DTYPE_F32, 1, l->rows, l->channels),
  };
  enum { COUNT = sizeof(arrays) / sizeof(*arrays) };
  for (int64_t k = 0; k < arrays[6].count; k++) /* pages in some order */
    tile_array_set(&arrays[6], k, (double)((k * 7 + 2) % pages));
  struct tile_argument params[] = {{"n", l->keys}, {"pages", (double)arrays[6].count}};
  struct tile_launch launch = {arrays, COUNT, params, 2, {0}};
  error = tile_compare(&arena, &code, &launch, 0);
  ck_assert_msg(error == NULL, "%s, page %d, keys %d, gap %d, warps %u: %s\n%s",
                dtype_name(l->stored), l->page, l->keys, l->gap, l->schedule.warps, error, text);
  for (size_t k = 0; k < COUNT; k++)
    tile_array_free(&arrays[k]);
  tile_code_close(&code);
  arena_free(&arena);
}

static const struct {
  enum dtype stored;
  const char *element;
  enum scales scales;
} kinds[] = {
    {DTYPE_F16, "f16", UNSCALED},   {DTYPE_BF16, "bf16", UNSCALED}, {DTYPE_F32, "f32", UNSCALED},
    {DTYPE_F16, "f16", BY_TOKEN},   {DTYPE_I8, "f16", BY_TOKEN},    {DTYPE_I8, "bf16", UNSCALED},
    {DTYPE_E4M3, "f16", BY_TOKEN},  {DTYPE_E4M3, "bf16", BY_TOKEN}, {DTYPE_E5M2, "f16", BY_TOKEN},
    {DTYPE_E5M2, "f32", UNSCALED},  {DTYPE_I4, "f16", BY_TOKEN},    {DTYPE_I4, "f32", BY_CHANNEL},
    {DTYPE_I4, "f16", BY_CHANNEL},  {DTYPE_I2, "f16", BY_TOKEN},    {DTYPE_I2, "bf16", BY_TOKEN},
    {DTYPE_I2, "bf16", BY_CHANNEL}, {DTYPE_U8, "f16", BY_TOKEN},
};

START_TEST(loops_over_a_cache)
{
  static const struct loop loops[] = {
      {16, 32, 64, 16, 150, 0, false, .schedule = {.warps = 4, .column_warps = 4, .stages = 2}},
      {16, 64, 128, 5, 131, 0, true, .schedule = {.warps = 4, .column_warps = 2, .stages = 1}},
      {70, 16, 64, 1, 40, 0, true, .schedule = {.warps = 4, .stages = 2}},
      {3, 7, 20, 3, 25, 4, false, .schedule = {.warps = 2}},
      {32, 24, 36, 64, 0, 0, false, .schedule = {.warps = 1}},
      {16, 16, 512, 4, 33, 0, false, .schedule = {.warps = 4, .column_warps = 4}},
      {17, 40, 96, 7, 95, 8, true, .schedule = {.warps = 1, .stages = 2}},
  };
  for (size_t k = 0; k < sizeof(loops) / sizeof(*loops); k++) {
    struct loop l = loops[k];
    l.stored = kinds[_i].stored, l.element = kinds[_i].element, l.scales = kinds[_i].scales;
    run_loop(&l);
  }
}
END_TEST

/* Every code of a type as the elements of a tile, and back. */
static void run_codes(enum dtype stored, const char *element, bool odd)
{
  const int columns = odd ? 13 : 32, rows = 20;
  const char *text = arena_format(
      &arena,
      "kernel t tensor x %s[2] tensor y f32[2] written tensor at i32[1]\n{\n"
      "%%tasks: index = scalar => 1L\nparallel (%%task) < (%%tasks) {\n"
      "%%z: index = scalar => 0L\n%%one: index = scalar => 1L\n%%all: index = scalar => 4096L\n"
      "%%x: %s[%d,%d] = load x[%%z, %%z] rows 0 columns 1 live %%all, %%all\n"
      "%%column: %s[%d,1] = load x[%%z, %%one] rows 0 live %%all, %%one\n"
      "%%line: %s[1,%d] = load x[%%one, %%z] columns 1 live %%one, %%all\n"
      "%%number: i32[%d,1] = iota %%z\n%%side: i32[1,%d] = iota %%z\n"
      "%%y: f32[%d,%d] = map %%x, %%column, %%line, %%number, %%side => "
      "float($0) + float($1) * 0.0 + float($2) * 0.0 + float(x[$3, $4]) * 2.0\n"
      "store %%y to y[%%z, %%z] rows 0 columns 1 live %%all, %%all\n}\n}\n",
      dtype_name(stored), element, rows, columns, element, rows, element, columns, rows, columns,
      rows, columns);
  struct tile_code code;
  const char *error = tile_code_open(&code, text, NULL);
  ck_assert_msg(error == NULL, "%s\n%s", error, text);
  struct tile_array arrays[] = {ARRAY("x", stored, odd ? 3 : 0, rows, columns),
                                ARRAY("y", DTYPE_F32, 0, rows, columns),
                                ARRAY("at", DTYPE_I32, 0, rows)};
  /* Gaps of x are no elements: filling all of its bytes fills these. */
  size_t bytes = (size_t)(arrays[0].map + arrays[0].bytes - arrays[0].data);
  for (size_t k = 0; k < bytes; k++)
    arrays[0].data[k] = (unsigned char)(k * 37 + 11);
  struct tile_launch launch = {arrays, 3, NULL, 0, {0}};
  error = tile_compare(&arena, &code, &launch, 0);
  ck_assert_msg(error == NULL, "%s to %s: %s\n%s", dtype_name(stored), element, error, text);
  for (size_t k = 0; k < 3; k++)
    tile_array_free(&arrays[k]);
  tile_code_close(&code);
}

START_TEST(codes_are_exact)
{
  static const enum dtype types[] = {DTYPE_U8, DTYPE_I8,   DTYPE_I4,
                                     DTYPE_I2, DTYPE_E4M3, DTYPE_E5M2};
  static const char *const elements[] = {"f32", "f16", "bf16", "i32"};
  for (size_t k = 0; k < 4; k++) {
    bool real = types[_i] == DTYPE_E4M3 || types[_i] == DTYPE_E5M2;
    for (int odd = 0; odd < 2 && !(real && k == 3); odd++)
      run_codes(types[_i], elements[k], odd != 0);
  }
}
END_TEST

/* Rows of a tile to places that a table gives. */
static void run_scatter(enum dtype stored, int rows, int columns, bool computed)
{
  bool real = stored == DTYPE_E4M3 || stored == DTYPE_E5M2 || stored == DTYPE_F16;
  const char *text = arena_format(
      &arena,
      "kernel t tensor x f32[2] tensor at i32[1] tensor y %s[3] written param n int\n{\n"
      "%%tasks: index = scalar => 1L\nparallel (%%task) < (%%tasks) {\n"
      "%%z: index = scalar => 0L\n%%one: index = scalar => 1L\n%%all: index = scalar => 4096L\n"
      "%%live: index = scalar => long(n)\n"
      "%%x: f32[%d,%d] = load x[%%z, %%z] rows 0 columns 1 live %%live, %%all\n"
      "%%line: i32[%d,1] = iota %%z\n%s"
      "%%half: i32[%d,1] = map %%where => $0 %% 2\n%%page: i32[%d,1] = map %%where => $0 // 2\n"
      "%%t: %s[%d,%d] = map %%x => %s\n"
      "store %%t to y[%%page, %%half, %%one] columns 2 live %%live, %%all\n}\n}\n",
      dtype_name(stored), rows, columns, rows,
      computed ? arena_format(&arena,
                              "%%wide: i32[%d,2] = map %%line, %%cols => $1 * 0 + "
                              "at[$0]\n%%where: i32[%d,1] = reduce max axis 1 %%wide\n",
                              rows, rows)
               : arena_format(&arena,
                              "%%where: i32[%d,1] = load at[%%z] rows 0 live %%live, "
                              "%%one\n",
                              rows),
      rows, rows, real ? "f32" : "i32", rows, columns, real ? "$0 * 300.0" : "int($0 * 8.0)");
  if (computed)
    text = arena_format(&arena, "%.*s%%cols: i32[1,2] = iota %%z\n%s",
                        (int)(strstr(text, "%wide") - text), text, strstr(text, "%wide"));
  struct tile_code code;
  const char *error = tile_code_open(&code, text, NULL);
  ck_assert_msg(error == NULL, "%s\n%s", error, text);
  struct tile_array arrays[] = {ARRAY("x", DTYPE_F32, 0, rows, columns),
                                ARRAY("at", DTYPE_I32, 0, rows),
                                ARRAY("y", stored, 0, rows, 2, columns + 1)};
  for (int64_t k = 0; k < rows; k++)
    tile_array_set(&arrays[1], k, (double)((k * 7 + 3) % (2 * rows - 1)));
  struct tile_argument params[] = {{"n", rows - 2}};
  struct tile_launch launch = {arrays, 3, params, 1, {0}};
  error = tile_compare(&arena, &code, &launch, 0);
  ck_assert_msg(error == NULL, "%s: %s\n%s", dtype_name(stored), error, text);
  for (size_t k = 0; k < 3; k++)
    tile_array_free(&arrays[k]);
  tile_code_close(&code);
}

START_TEST(rows_are_scattered)
{
  static const enum dtype types[] = {DTYPE_F16, DTYPE_I8, DTYPE_E4M3, DTYPE_E5M2};
  run_scatter(types[_i], 23, 12, false);
  run_scatter(types[_i], 16, 33, true);
}
END_TEST

int main(void)
{
  Suite *suite = suite_create("tiles of a cache");
  TCase *tests = tcase_create("cache");
  tcase_set_timeout(tests, 120);
  tcase_add_checked_fixture(tests, setup, teardown);
  tcase_add_loop_test(tests, loops_over_a_cache, 0, sizeof(kinds) / sizeof(*kinds));
  tcase_add_loop_test(tests, codes_are_exact, 0, 6);
  tcase_add_loop_test(tests, rows_are_scattered, 0, 4);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
