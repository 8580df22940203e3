/* limit_columns: a program gives the same with and without it wherever a limited tile may stand,
 * and the host does leave columns out. */
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

/* An online softmax over three tiles of keys. Row m sees the `span` keys from m + first on, with
 * `holes` only those that are not 3 modulo 7. What no row of a tile sees is wanted before the
 * products that stand ahead of it. */
static const char softmax[] =
    "kernel t\n"
    "  tensor q f32[2] tensor k f32[2] tensor v f32[2] tensor c f32[2]\n"
    "  tensor y f32[2] written tensor s f32[1] written tensor r f32[1] written\n"
    "  param lm int param first int param span int param holes int site tensor 3 dim 0\n"
    "{\n"
    "  %tasks: index = scalar => 1L\n"
    "  parallel (%task) < (%tasks) {\n"
    "    %z: index = scalar => 0L\n"
    "    %one: index = scalar => 1L\n"
    "    %all: index = scalar => 4096L\n"
    "    %lm: index = scalar => long(lm)\n"
    "    limit_rows _M_ live %lm\n"
    "    %low: f32 = scalar => -inf\n"
    "    %zero: f32 = scalar => 0.0\n"
    "    %rows: i32[_M_,1] = iota %z\n"
    "    %q: f32[_M_,_D_] = load q[%z, %z] rows 0 columns 1 live %lm, %all\n"
    "    %o0: f32[_M_,_D_] = splat %zero\n"
    "    %m0: f32[_M_,1] = splat %low\n"
    "    %s0: f32[_M_,1] = splat %zero\n"
    "    %end: index = scalar => 3L * _N_L\n"
    "    %o: f32[_M_,_D_], %m: f32[_M_,1], %s: f32[_M_,1], %r: f32[_M_,1] = for %j = %z to %end "
    "step _N_ carry (%oc = %o0, %mc = %m0, %sc = %s0, %rc = %s0) {\n"
    "      %keys: i32[1,_N_] = iota %j\n"
    "      %vis: bool[_M_,_N_] = map %rows, %keys => $0 + first <= $1 and $1 < $0 + first + span "
    "and (holes == 0 or $1 % 7 != 3)\n"
    "      limit_columns %vis _RANGE_\n"
    "      %k: f32[_N_,_D_] = load k[%j, %z] rows 0 columns 1 live %all, %all\n"
    "_SCORES_"
    "      limit_columns %x _RANGE__WHERE_\n"
    "      %sh: f32[_M_,_N_] = map %vis, %x => select($0, $1, -inf)\n"
    "      %t: f32[_M_,1] = reduce max axis 1 %sh\n"
    "      %mn: f32[_M_,1] = map %mc, %t => max($0, $1)\n"
    "      %b: f32[_M_,1] = map %mn => select($0 == -inf, 0.0, $0)\n"
    "      %f: f32[_M_,1] = map %mc, %b => exp2($0 - $1)\n"
    "      %w: f32[_M_,_N_] = map %sh, %b => exp2($0 - $1)\n"
    "      %ws: f32[_M_,1] = reduce sum axis 1 %w\n"
    "      %sn: f32[_M_,1] = map %sc, %f, %ws => $0 * $1 + $2\n"
    "      %v: f32[_N_,_D_] = load v[%j, %z] rows 0 columns 1 live %all, %all\n"
    "      %any: bool[1,_N_] = reduce any axis 0 %vis\n"
    "      %some: bool[_N_,1] = transpose %any\n"
    "      %vs: f32[_N_,_D_] = map %v, %some => select($1, $0, 0.0)\n"
    "      %os: f32[_M_,_D_] = scale_rows %oc, %f\n"
    "      %on: f32[_M_,_D_] = product %w, %vs, %os\n"
    "_PAIRS_"
    "      yield %on, %mn, %sn, %rn\n"
    "    }\n"
    "    store %o to y[%z, %z] rows 0 columns 1 live %lm, %all\n"
    "    store %s to s[%z] rows 0 live %lm, %one\n"
    "    store %r to r[%z] rows 0 live %lm, %one\n"
    "  }\n}\n";

static const char range[] =
    "with (%j) from tile_i0 + long(first) - $0 to tile_i1 + long(first) + long(span) - $0";

/* How %x comes about. */
static const char *const scores[] = {
    "%x: f32[_M_,_N_] = product %q, %k transposed\n",
    /* only what is made of the product is limited */
    "%p: f32[_M_,_N_] = product %q, %k transposed\n%h: f32[_M_,_N_] = map %p => $0 * 0.5\n"
    "%x: f32[_M_,_N_] = map %h, %rows, %keys => $0 + float($1 - $2) * 0.125\n",
    /* a product that is also wanted whole */
    "%p: f32[_M_,_N_] = product %q, %k transposed\n%x: f32[_M_,_N_] = map %p => $0 * 0.5\n"
    "store %p to c[%z, %j] rows 0 columns 1 live %lm, %all\n",
    /* onto an accumulator */
    "%g: f32[_M_,_N_] = load c[%z, %j] rows 0 columns 1 live %lm, %all\n"
    "%x: f32[_M_,_N_] = product %q, %k transposed, %g\n",
    "%p: f32[_M_,_N_] = product %q, %k transposed\n"
    "%x: f32[_M_,_N_] = product %q, %k transposed, %p\n",
    /* columns of the second operand as it lies */
    "%g: f32[_D_,_N_] = transpose %k\n%x: f32[_M_,_N_] = product %q, %g\n",
    "%x: f32[_M_,_N_] = contract %q, %k => $0 * $1 + 0.25\n",
    /* another limit, which comes first */
    "%p: f32[_M_,_N_] = product %q, %k transposed\nlimit_columns %p from 0L to tile_i1 + 4096L\n"
    "%x: f32[_M_,_N_] = map %p => $0 * 0.5\n",
};

/* What else is made of the weights: %rn. */
static const char *const pairs[] = {
    "%rn: f32[_M_,1] = map %rc => $0\n",
    /* in another region */
    "%two: index = scalar => 2L\n"
    "%rn: f32[_M_,1] = for %d = %z to %two step 1 carry (%ra = %rc) {\n"
    "%g: f32[_M_,_N_] = map %w, %keys, %d => $0 * float($1 + int($2))\n"
    "%gs: f32[_M_,1] = reduce sum axis 1 %g\n%rb: f32[_M_,1] = map %ra, %gs => $0 + $1\n"
    "yield %rb\n}\n",
    /* checked where it counts */
    "check %vis, %keys site 0 => not $0 or $1 < 0, $1\n%rn: f32[_M_,1] = map %rc => $0\n",
    /* in 16 bits, exactly */
    "%n: f32[_M_,_N_] = map %vis, %w, %keys => select($0 and $1 == $1, float($2), 0.0)\n"
    "%g: f16[_M_,_N_] = convert %n\n%gf: f32[_M_,_N_] = convert %g\n"
    "%gs: f32[_M_,1] = reduce sum axis 1 %gf\n%rn: f32[_M_,1] = map %rc, %gs => $0 + $1\n",
};
enum { SCORES = sizeof(scores) / sizeof(*scores), PAIRS = sizeof(pairs) / sizeof(*pairs) };

static const char *replace(const char *text, const char *name, const char *by)
{
  for (const char *at; (at = strstr(text, name)) != NULL;)
    text = arena_format(&arena, "%.*s%s%s", (int)(at - text), text, by, at + strlen(name));
  return text;
}

struct sizes {
  int m, n, d;
};

static const char *sized(const char *text, struct sizes sizes)
{
  text = replace(text, "_M_", arena_format(&arena, "%d", sizes.m));
  text = replace(text, "_N_", arena_format(&arena, "%d", sizes.n));
  return replace(text, "_D_", arena_format(&arena, "%d", sizes.d));
}

static struct tile_array array(const char *name, uint32_t rank, int64_t a, int64_t b)
{
  int64_t sizes[] = {a, b};
  struct tile_array made = tile_array_new(name, DTYPE_F32, rank, sizes, (int64_t[]){0, 2});
  tile_array_fill(&made, (uint32_t)(a * 31 + b * 7 + name[0]));
  return made;
}

static const struct schedule schedules[] = {
    {0}, {.lanes = 4, .row_vectors = 1, .column_registers = 3}, {.row_vectors = 3}};
enum { SCHEDULES = sizeof(schedules) / sizeof(*schedules) };

/* NaN in values that no row sees. */
static void hide_values(struct tile_array *v, struct sizes sizes, int first, int span, bool holes)
{
  const int end = span > 0 ? first + sizes.m - 1 + span : first;
  for (int j = 0; j < 3 * sizes.n; j++)
    for (int c = 0; c < sizes.d && (j < first || j >= end || (holes && j % 7 == 3)); c++)
      tile_array_set(v, (int64_t)j * sizes.d + c, (double)NAN);
}

static void compare(struct tile_code *code, const char *text, struct sizes sizes, int lm, int first,
                    int span, bool holes)
{
  struct tile_array arrays[] = {array("q", 2, sizes.m, sizes.d),
                                array("k", 2, 3 * sizes.n, sizes.d),
                                array("v", 2, 3 * sizes.n, sizes.d),
                                array("c", 2, sizes.m, 3 * sizes.n),
                                array("y", 2, sizes.m, sizes.d),
                                array("s", 1, sizes.m, 0),
                                array("r", 1, sizes.m, 0)};
  enum { COUNT = sizeof(arrays) / sizeof(*arrays) };
  hide_values(&arrays[2], sizes, first, span, holes);
  struct tile_argument params[] = {{"lm", lm}, {"first", first}, {"span", span}, {"holes", holes}};
  struct tile_launch launch = {arrays, COUNT, params, 4, {0}};
  const char *error = tile_compare(&arena, code, &launch, 2e-5);
  ck_assert_msg(error == NULL, "M %d, N %d, D %d, %d rows, keys from %d, %d of them: %s\n%s",
                sizes.m, sizes.n, sizes.d, lm, first, span, error, text);
  for (size_t k = 0; k < COUNT; k++)
    tile_array_free(&arrays[k]);
}

/* Windows that are empty, narrow, beyond both ends and everything. */
static void compare_windows(const char *text, struct sizes sizes, const struct schedule *schedule)
{
  const int windows[][2] = {{-5, 6},   {0, 1},        {sizes.n - 3, 7}, {-sizes.m, sizes.n},
                            {4096, 1}, {-4096, 8192}, {2, 0},           {2 * sizes.n, sizes.n}};
  struct tile_code code;
  text = sized(text, sizes);
  const char *error = tile_code_open(&code, text, schedule);
  ck_assert_msg(error == NULL, "%s\n%s", error, text);
  for (size_t k = 0; k < sizeof(windows) / sizeof(*windows); k++)
    compare(&code, text, sizes, k % 3 == 2 ? sizes.m * 2 / 3 : sizes.m, windows[k][0],
            windows[k][1], k % 2 != 0);
  tile_code_close(&code);
}

/* The range of the scores: as that of the mask, made narrower by a mask that is whole, from the
 * mask alone, another than that of the mask, which is not taken then. */
enum { RANGE, RANGE_AND_MASK, MASK, OTHER, RANGES };

static const char *program(const char *how, const char *what, int given)
{
  const char *text = replace(replace(softmax, "_SCORES_", how), "_PAIRS_", what);
  if (given == MASK)
    text = replace(text, "%x _RANGE_", "%x from 0L to 4096L");
  text = replace(text, "_WHERE_", given == RANGE ? "" : " where %vis");
  if (given == MASK || given == RANGE_AND_MASK)
    text = replace(text, "limit_columns %vis _RANGE_\n", "");
  return replace(text, "_RANGE_", range);
}

/* Tiles that are as wide as rows are long, that hold no whole register tile, of few rows. */
static const struct sizes sizes[] = {{40, 32, 8}, {33, 16, 16}, {20, 8, 4}, {17, 12, 5},
                                     {24, 21, 8}, {16, 4, 4},   {4, 16, 8}};

START_TEST(scores_of_every_kind)
{
  for (size_t s = 0; s < sizeof(sizes) / sizeof(*sizes); s++) {
    for (int k = 0; k < (s < 2 ? SCHEDULES : 1); k++) {
      const char *text = program(scores[_i], pairs[0], (int)(s + (size_t)k) % RANGES);
      if (strstr(scores[_i], "store %p") != NULL)
        text = replace(text, "tensor c f32[2]\n", "tensor c f32[2] written\n");
      compare_windows(text, sizes[s], &schedules[k]);
    }
    arena_free(&arena);
  }
}
END_TEST

START_TEST(uses_of_every_kind)
{
  for (size_t s = 0; s < sizeof(sizes) / sizeof(*sizes); s++) {
    for (int k = 0; k < (s < 2 ? SCHEDULES : 1); k++)
      compare_windows(program(scores[1], pairs[_i], (int)(s + (size_t)k) % RANGES), sizes[s],
                      &schedules[k]);
    arena_free(&arena);
  }
}
END_TEST

#ifndef TILE_ON_DEVICE
/* A program that breaks the rule, since the columns that it hides would count, shows them left out:
 * panels of 16 rows, columns in fours and no fewer than eight. */
static void expect_sums(const char *limit, int first, int span, const double *sums)
{
  static const char text[] =
      "kernel t tensor s f32[1] written param first int param span int\n"
      "{\n%tasks: index = scalar => 1L\nparallel (%task) < (%tasks) {\n"
      "%z: index = scalar => 0L\n%one: index = scalar => 1L\n%all: index = scalar => 64L\n"
      "%rows: i32[48,1] = iota %z\n%keys: i32[1,64] = iota %z\n"
      "%vis: bool[48,64] = map %rows, %keys => $0 + first <= $1 and $1 < $0 + first + span\n"
      "%x: f32[48,64] = map %rows, %keys => select($0 < 0 and $1 < 0, 2.0, 1.0)\n"
      "limit_columns %x _LIMIT_\n%s: f32[48,1] = reduce sum axis 1 %x\n"
      "store %s to s[%z] rows 0 live %all, %one\n}\n}\n";
  const struct schedule schedule = {.lanes = 8, .row_vectors = 2, .column_registers = 6};
  struct tile_code code;
  const char *error = tile_code_open(&code, replace(text, "_LIMIT_", limit), &schedule);
  ck_assert_msg(error == NULL, "%s", error);
  struct tile_array s = array("s", 1, 48, 0);
  struct tile_argument params[] = {{"first", first}, {"span", span}};
  struct tile_launch launch = {&s, 1, params, 2, {0}};
  error = tile_run(&code, &launch);
  ck_assert_msg(error == NULL, "%s", error);
  for (int64_t m = 0; m < 48; m++)
    ck_assert_msg(tile_array_get(&s, m) == sums[m / 16], "%s, from %d, %d of them, row %d: %g",
                  limit, first, span, (int)m, tile_array_get(&s, m));
  tile_array_free(&s);
  tile_code_close(&code);
}

START_TEST(the_host_leaves_columns_out)
{
  static const struct {
    int first, span;
    double sums[3]; /* of a row of each panel */
  } cases[] = {{0, 1, {16, 16, 16}},  {-8, 9, {16, 24, 24}},      {3, 3, {24, 24, 24}},
               {30, 2, {20, 20, 8}},  {64, 5, {0, 0, 0}},         {-100, 1, {0, 0, 0}},
               {-15, 1, {8, 20, 20}}, {-4096, 8192, {64, 64, 64}}};
  static const char closed[] = "from tile_i0 + long(first) to tile_i1 + long(first) + long(span)";
  for (size_t k = 0; k < sizeof(cases) / sizeof(*cases); k++) {
    expect_sums(closed, cases[k].first, cases[k].span, cases[k].sums);
    expect_sums("from 0L to 64L where %vis", cases[k].first, cases[k].span, cases[k].sums);
  }
  /* no more than both say */
  expect_sums("from 16L to 32L where %vis", -4096, 8192, (double[]){16, 16, 16});
  expect_sums("from tile_i0 to 64L where %vis", 0, 1, (double[]){16, 16, 16});
  expect_sums("from 32L to 16L where %vis", -4096, 8192, (double[]){0, 0, 0});
}
END_TEST
#endif

int main(void)
{
  Suite *suite = suite_create("limits of columns");
  TCase *tests = tcase_create("programs");
  tcase_add_checked_fixture(tests, setup, teardown);
  tcase_add_loop_test(tests, scores_of_every_kind, 0, SCORES);
  tcase_add_loop_test(tests, uses_of_every_kind, 0, PAIRS);
#ifndef TILE_ON_DEVICE
  tcase_add_test(tests, the_host_leaves_columns_out);
#endif
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
