/* The prelude against the formulas of the papers, written here once more in float64, and against
 * published values. */
#include "dsl/expr_eval.h"
#include "dsl/spec.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const double two_pi = 6.283185307179586;

static struct arena arena;
static struct source_set sources;
static struct diagnostics diagnostics;
static const struct spec *spec;
static struct expr_evaluator *evaluator;

/* What inputs hold: the last index, in steps of a half from 1 for the first input and from 2 for
 * the second. */
static double element(uint32_t input, int64_t index)
{
  return 1.0 + input + 0.5 * (double)index;
}

/* Integer and bool inputs, by number; `size` rows and columns. */
static int64_t table[2][16][16];

static bool read_input(void *user, uint32_t tensor, const int64_t *indices, size_t count,
                       union expr_value *value, struct expr_fault *fault)
{
  (void)user;
  (void)fault;
  uint32_t input = tensor - EXPR_TENSOR_INPUT;
  enum dtype type = spec->inputs[input].type;
  if (type == DTYPE_F32)
    value->f = element(input, indices[count - 1]);
  else
    value->i = table[input][count > 1 ? indices[count - 2] : 0][indices[count - 1]];
  return true;
}

static void setup(void)
{
  arena_init(&arena);
}

static void teardown(void)
{
  arena_free(&arena);
}

static void compile(const char *text)
{
  arena_free(&arena);
  arena_init(&arena);
  if (arena_guard(&arena))
    ck_abort_msg("out of memory");
  source_set_init(&sources, &arena);
  diagnostics_init(&diagnostics, &arena, &sources);
  uint32_t source = source_add(&sources, "test.attn", text, strlen(text));
  const struct spec_file *file = spec_check(&arena, &sources, source, NULL, &diagnostics);
  ck_assert_msg(!diagnostics_has_errors(&diagnostics), "%s",
                diagnostics_print(&diagnostics, false));
  spec = file->specs.items[0];
  evaluator = expr_evaluator_new(&arena, spec->pool);
  expr_set_reader(evaluator, read_input, NULL, NULL);
}

static double number(const struct expr *e)
{
  union expr_value value = expr_evaluate(evaluator, e);
  return e->type == EXPR_FLOAT || e->type == EXPR_SINGLE ? value.f : (double)value.i;
}

static void near(double found, double expected, double relative)
{
  ck_assert_msg(fabs(found - expected) <= relative * fabs(expected), "%.17g, expected %.17g", found,
                expected);
}

/* ---- rotary frequencies ---- */

/* The angle of a pair at position 1 with NK keys. */
static double frequency(uint32_t pair, int64_t keys)
{
  expr_set_int(evaluator, EXPR_VAR_C, pair);
  expr_set_int(evaluator, EXPR_VAR_T, 1);
  expr_set_int(evaluator, EXPR_VAR_SIZE_NK, keys);
  return number(spec->rotary.angle);
}

static void rope(const char *arguments, int dim)
{
  char text[512];
  snprintf(text, sizeof(text),
           "attention a {\n heads 1\n dim %d\n input long : f32[%d]\n input short : f32[%d]\n"
           " position rope(%s)\n}\n",
           dim, dim / 2, dim / 2, arguments);
  compile(text);
}

static double plain(uint32_t pair, double base, double dim)
{
  return pow(base, -2.0 * pair / dim);
}

START_TEST(rope_frequencies)
{
  rope("base = 500000.0", 96);
  for (uint32_t m = 0; m < 48; m++)
    near(frequency(m, 7), plain(m, 500000, 96), 1e-14);
  ck_assert(number(spec->rotary.gain) == 1);
  rope("scaling = linear(4.0)", 64);
  for (uint32_t m = 0; m < 32; m++)
    near(frequency(m, 7), plain(m, 1e4, 64) / 4, 1e-14);
  ck_assert(number(spec->rotary.gain) == 1);
}
END_TEST

START_TEST(rope_ntk)
{
  rope("scaling = ntk(8.0)", 64);
  for (uint32_t m = 0; m < 32; m++)
    near(frequency(m, 7), plain(m, 1e4 * pow(8, 64 / 62.0), 64), 1e-13);
  /* Its point: the slowest pair turns as under linear interpolation, the fastest as without. */
  near(frequency(31, 7), plain(31, 1e4, 64) / 8, 1e-13);
  near(frequency(0, 7), 1, 1e-13);
  rope("scaling = dynamic(factor = 2.0, original = 1024)", 128);
  static const int64_t lengths[] = {1, 1024, 1025, 4096};
  for (int k = 0; k < 4; k++) {
    double length = fmax((double)lengths[k], 1024);
    double base = 1e4 * pow(2 * length / 1024 - 1, 128 / 126.0);
    for (uint32_t m = 0; m < 64; m++)
      near(frequency(m, lengths[k]), plain(m, base, 128), 1e-13);
  }
  near(frequency(40, 1024), plain(40, 1e4, 128), 1e-13);
}
END_TEST

/* The ends of YaRN's ramp, from the frequencies: at `low` and below a pair is as without scaling,
 * at `high` and above it is divided by the factor. */
static void check_yarn(const char *arguments, int dim, double base, double factor, double low,
                       double high)
{
  rope(arguments, dim);
  for (uint32_t m = 0; m < (uint32_t)dim / 2; m++) {
    double ramp = fmin(fmax((m - low) / (high - low), 0), 1);
    double theta = plain(m, base, dim);
    near(frequency(m, 7), theta / factor * ramp + theta * (1 - ramp), 1e-6);
  }
}

START_TEST(rope_yarn)
{
  check_yarn("scaling = yarn(factor = 16.0, original = 4096)", 128, 1e4, 16, 20, 46);
  near(number(spec->rotary.gain), 0.1 * log(16) + 1, 1e-15);
  check_yarn("scaling = yarn(factor = 16.0, original = 4096)", 64, 1e4, 16, 10, 23);
  /* gpt-oss */
  double turns[2] = {32, 1}, ends[2];
  for (int k = 0; k < 2; k++)
    ends[k] = 64 * log(4096 / (turns[k] * two_pi)) / (2 * log(150000.0));
  ck_assert(fabs(ends[0] - 8.0928) < 5e-5 && fabs(ends[1] - 17.3980) < 5e-5);
  check_yarn("base = 150000.0, scaling = yarn(factor = 32.0, original = 4096, truncate = false)",
             64, 150000, 32, ends[0], ends[1]);
  ck_assert(fabs(number(spec->rotary.gain) - 1.34657) < 5e-6);
  /* A ramp without width is a step; factors up to 1 leave the gain alone. */
  check_yarn("scaling = yarn(factor = 4.0, original = 4096, beta_fast = 1.0)", 128, 1e4, 4, 45, 46);
  check_yarn("scaling = yarn(factor = 4.0, original = 6)", 128, 1e4, 4, 0, 0.001);
  rope("scaling = yarn(factor = 1.0, original = 4096)", 64);
  ck_assert(number(spec->rotary.gain) == 1);
  near(frequency(20, 7), plain(20, 1e4, 64), 1e-14);
}
END_TEST

START_TEST(rope_yarn_mscale)
{
  rope("scaling = yarn(40.0, 4096, mscale = 0.707, mscale_all_dim = 1.0)", 64);
  near(number(spec->rotary.gain), (0.0707 * log(40) + 1) / (0.1 * log(40) + 1), 1e-14);
  rope("scaling = yarn(40.0, 4096, mscale = 1.0, mscale_all_dim = 1.0)", 64);
  ck_assert(number(spec->rotary.gain) == 1);
  compile("attention a {\n heads 1\n dim 8\n scale rope_yarn_mscale(40.0, 1.0)\n"
          " similarity 1.0\n}\n");
  ck_assert(fabs(number(spec->maps[0].score) - 1.36889) < 5e-6);
}
END_TEST

START_TEST(rope_longrope)
{
  rope("scaling = longrope(factor = 8.0, original = 512, long, short)", 64);
  near(number(spec->rotary.gain), sqrt(1 + log(8) / log(512)), 1e-15);
  for (uint32_t m = 0; m < 32; m++) {
    near(frequency(m, 512), plain(m, 1e4, 64) / element(1, m), 1e-14);
    near(frequency(m, 513), plain(m, 1e4, 64) / element(0, m), 1e-14);
  }
  rope("scaling = longrope(factor = 0.5, original = 512, long, short)", 64);
  ck_assert(number(spec->rotary.gain) == 1);
}
END_TEST

START_TEST(rope_llama3)
{
  rope("base = 500000.0, scaling = llama3", 128);
  int kept = 0, blended = 0, divided = 0;
  for (uint32_t m = 0; m < 64; m++) {
    double theta = plain(m, 500000, 128), wavelength = two_pi / theta;
    double smooth = (8192 / wavelength - 1) / (4 - 1);
    double expected = (1 - smooth) * theta / 8 + smooth * theta;
    if (wavelength > 8192 / 1.0)
      expected = theta / 8, divided++;
    else if (wavelength < 8192 / 4.0)
      expected = theta, kept++;
    else
      blended++;
    near(frequency(m, 7), expected, 1e-13);
  }
  ck_assert(kept == 29 && blended == 6 && divided == 29);
  ck_assert(number(spec->rotary.gain) == 1);
}
END_TEST

/* ---- biases ---- */

static double slope_of(int heads, int h)
{
  int power = 1;
  while (power * 2 <= heads)
    power *= 2;
  return h < power ? pow(2, -8.0 * (h + 1) / power)
                   : pow(2, -8.0 * (2 * (h - power) + 1) / (2 * power));
}

static double score_at(int64_t h, int64_t i, int64_t j)
{
  expr_set_int(evaluator, EXPR_VAR_H, h);
  expr_set_int(evaluator, EXPR_VAR_I, i);
  expr_set_int(evaluator, EXPR_VAR_J, j);
  return number(spec->maps[0].score);
}

START_TEST(alibi_slopes)
{
  static const double twelve[] = {0.5,       0.25,       0.125,   0.0625,  0.03125, 0.015625,
                                  0.0078125, 0.00390625, 0.70711, 0.35355, 0.17678, 0.08839};
  for (int h = 0; h < 12; h++)
    ck_assert(fabs(slope_of(12, h) - twelve[h]) < 5e-6);
  for (int heads = 1; heads <= 130; heads++) {
    char text[160];
    snprintf(text, sizeof(text),
             "attention a {\n heads %d\n dim 8\n similarity 0.0\n position alibi\n}\n", heads);
    compile(text);
    for (int h = 0; h < heads; h++) {
      near(score_at(h, 17, 10), -7 * slope_of(heads, h), 1e-14);
      near(score_at(h, 10, 17), -7 * slope_of(heads, h), 1e-14);
    }
  }
  compile("attention a {\n heads 6\n dim 8\n similarity 0.0\n"
          " score s + alibi_causal_bias(alibi_slope, i, j)\n}\n");
  near(score_at(5, 17, 10), -7 * slope_of(6, 5), 1e-14);
  near(score_at(5, 10, 17), 7 * slope_of(6, 5), 1e-14);
  compile("attention a {\n heads 6\n dim 8\n similarity 0.0\n"
          " score s + alibi_key_bias(alibi_slope, j)\n}\n");
  near(score_at(5, 17, 10), 10 * slope_of(6, 5), 1e-14);
}
END_TEST

static int bucket_of(int relative, int buckets, int furthest, bool both)
{
  int base = 0, n = relative > 0 ? 0 : -relative;
  if (both) {
    buckets /= 2;
    base = relative > 0 ? buckets : 0;
    n = abs(relative);
  }
  int exact = buckets / 2;
  if (n < exact)
    return base + n;
  int far =
      exact + (int)(log((double)n / exact) / log((double)furthest / exact) * (buckets - exact));
  return base + (far < buckets ? far : buckets - 1);
}

static void check_buckets(int buckets, int furthest, bool both)
{
  char text[320];
  snprintf(text, sizeof(text),
           "attention a {\n heads 1\n dim 8\n align start\n similarity 0.0\n score floor("
           "t5_bucket(j - i, %d, %d, %s))\n}\n",
           buckets, furthest, both ? "true" : "false");
  compile(text);
  for (int relative = -300; relative <= 300; relative++) {
    int found = (int)score_at(0, 300, 300 + relative);
    ck_assert_msg(found == bucket_of(relative, buckets, furthest, both),
                  "%d buckets to %d: %d is in %d, not %d", buckets, furthest, relative, found,
                  bucket_of(relative, buckets, furthest, both));
  }
}

START_TEST(t5_buckets)
{
  static const int both[][2] = {{-1, 1},   {0, 0},   {1, 17},   {-8, 8},  {8, 24},
                                {-16, 10}, {16, 26}, {-64, 14}, {127, 31}};
  static const int causal[][2] = {{-16, 16},  {-17, 16},  {-32, 21}, {-64, 26},
                                  {-112, 30}, {-113, 31}, {5, 0}};
  for (size_t k = 0; k < sizeof(both) / sizeof(both[0]); k++)
    ck_assert_int_eq(bucket_of(both[k][0], 32, 128, true), both[k][1]);
  for (size_t k = 0; k < sizeof(causal) / sizeof(causal[0]); k++)
    ck_assert_int_eq(bucket_of(causal[k][0], 32, 128, false), causal[k][1]);
  check_buckets(32, 128, true);
  check_buckets(32, 128, false);
  check_buckets(64, 200, true);
}
END_TEST

/* `position t5` reads that bucket of its table, in the direction of j - i. */
START_TEST(t5_table)
{
  compile("attention a {\n heads 1\n dim 8\n similarity 0.0\n input x : f32[32, H]\n"
          " position t5(x)\n}\n");
  const struct expr *read = spec->maps[0].score;
  while (read->op == EXPR_ADD)
    read = read->args[read->args[0]->op == EXPR_READ ? 0 : 1];
  ck_assert_int_eq(read->op, EXPR_READ);
  for (int relative = -128; relative <= 128; relative++) {
    score_at(0, 200, 200 + relative);
    ck_assert_int_eq((int)number(read->args[0]), bucket_of(relative, 32, 128, true));
  }
}
END_TEST

START_TEST(shaw_rows)
{
  compile("attention a {\n heads 1\n dim 8\n similarity 0.0\n score shaw_row(i, j, 4)\n}\n");
  for (int relative = -9; relative <= 9; relative++) {
    int clipped = relative < -4 ? -4 : relative > 4 ? 4 : relative;
    ck_assert_int_eq((int)score_at(0, 20, 20 + relative), clipped + 4);
  }
}
END_TEST

START_TEST(soft_cap)
{
  compile("attention a {\n heads 1\n dim 8\n similarity j - 20.0\n scale 7.0\n"
          " score softcap(s, 50.0)\n}\n");
  for (int j = 0; j < 40; j++)
    near(score_at(0, 3, j), 50 * tanh(7 * (j - 20.0) / 50), 1e-14);
}
END_TEST

/* ---- masks ---- */

static bool sees(int64_t i, int64_t j)
{
  expr_set_int(evaluator, EXPR_VAR_I, i);
  expr_set_int(evaluator, EXPR_VAR_J, j);
  return expr_evaluate(evaluator, spec->mask).i != 0;
}

static void mask(const char *inputs, const char *expression, int keys)
{
  char text[512];
  snprintf(text, sizeof(text), "attention a {\n heads 1\n dim 8\n%s mask %s\n}\n", inputs,
           expression);
  compile(text);
  expr_set_int(evaluator, EXPR_VAR_B, 0);
  expr_set_int(evaluator, EXPR_VAR_H, 0);
  expr_set_int(evaluator, EXPR_VAR_SIZE_NK, keys);
}

/* A mask drawn: a line for each query, a character for each key. */
static void draws(const char *expression, const char *const *lines, int size)
{
  mask("", expression, size);
  for (int i = 0; i < size; i++)
    for (int j = 0; j < size; j++)
      ck_assert_msg(sees(i, j) == (lines[i][j] == '#'), "%s at (%d, %d)", expression, i, j);
}

START_TEST(masks_of_one_line)
{
  draws("sliding(2)", (const char *const[]){"#...", "##..", ".##.", "..##"}, 4);
  draws("window(1, 2)", (const char *const[]){"###..", "####.", ".####", "..###", "...##"}, 5);
  draws("causal and (sinks(1) or sliding(2))",
        (const char *const[]){"#...", "##..", "###.", "#.##"}, 4);
  draws("prefix(2)", (const char *const[]){"##..", "##..", "###.", "####"}, 4);
  draws("dilated(1, 2)", (const char *const[]){"#.#..", ".#.#.", "#.#.#", ".#.#.", "..#.#"}, 5);
  draws("strided(2)", (const char *const[]){"#....", "##...", "###..", ".###.", "#.###"}, 5);
  draws("fixed(3, 1)",
        (const char *const[]){"#.....", "##....", "###...", "..##..", "..###.", "..####"}, 6);
  draws("block_local(2)", (const char *const[]){"##..", "##..", "..##", "..##"}, 4);
  draws("block_causal(2)", (const char *const[]){"##..", "##..", "####", "####"}, 4);
  draws("block_window(1, 1)", (const char *const[]){"#...", "##..", ".##.", "..##"}, 4);
  draws("block_near(1, 1)", (const char *const[]){"##..", "###.", ".###", "..##"}, 4);
  draws("block_ends(1)", (const char *const[]){"####", "#..#", "#..#", "####"}, 4);
  draws("block_ends(2)", (const char *const[]){"#####", "#####", "##..#", "##..#", "#####"}, 5);
}
END_TEST

/* Two blocks of two tokens: noisy, then clean (Arriola et al. 2025, figure of the training mask).
 */
START_TEST(block_diffusion)
{
  draws("block_diffusion(4, 2)",
        (const char *const[]){"##......", "##......", "..####..", "..####..", "....##..",
                              "....##..", "....####", "....####"},
        8);
}
END_TEST

START_TEST(masks_of_tables)
{
  memset(table, 0, sizeof(table));
  table[0][0][2] = 1;
  mask(" input x : bool[B, NK]\n", "global_tokens(x)", 4);
  ck_assert(sees(2, 0) && sees(0, 2) && !sees(0, 1) && !sees(1, 1));
  table[0][0][0] = table[0][0][1] = table[0][0][3] = -1;
  table[0][0][2] = table[0][0][4] = 7;
  mask(" input x : i32[B, NK]\n", "islands(x)", 5);
  ck_assert(sees(2, 4) && sees(4, 2) && !sees(0, 1) && !sees(0, 3) && sees(3, 0));
  mask(" input x : i32[B, NK]\n", "same(x)", 5);
  ck_assert(sees(2, 4) && sees(0, 1) && !sees(1, 2));
  memset(table, 0, sizeof(table));
  table[0][0][0] = 1; /* block 0 picks 1 and 0, block 1 picks 0 and 2 */
  table[0][1][1] = 2;
  mask(" input x : i32[H, 3, 2]\n", "block_picked(x, 2, 2)", 6);
  ck_assert(sees(1, 3) && sees(0, 1) && !sees(0, 4) && sees(2, 5) && sees(3, 0) && !sees(3, 2));
  mask(" input x : bool[H, 3, 3]\n", "block_table(x, 2)", 6);
  ck_assert(sees(0, 1) && !sees(0, 2) && sees(3, 3) && !sees(2, 1));
}
END_TEST

START_TEST(draft_tree)
{
  memset(table, 0, sizeof(table));
  table[0][0][0] = table[0][1][1] = table[0][2][2] = table[0][2][0] = 1;
  mask(" input x : bool[B, NQ, NQ]\n", "tree(x)", 8);
  expr_set_int(evaluator, EXPR_VAR_OFFSET, 5);
  for (int row = 0; row < 3; row++) {
    expr_set_int(evaluator, EXPR_VAR_R, row);
    for (int j = 0; j < 8; j++)
      ck_assert(sees(5 + row, j) == (j < 5 || j - 5 == row || (row == 2 && j == 5)));
  }
}
END_TEST

/* One line of a neighbourhood as the paper defines it: the window about x, moved inside. */
static bool neighbours(int x, int y, int length, int size)
{
  int first = x - size / 2;
  if (first + size > length)
    first = length - size;
  if (first < 0)
    first = 0;
  return first <= y && y < first + size;
}

START_TEST(neighbourhoods)
{
  enum { PLANES = 3, ROWS = 4, COLUMNS = 6, TILE = 2 };
  int seen = 0;
  mask("", "neighbourhood_2d(4, 6, 3)", ROWS * COLUMNS);
  for (int i = 0; i < ROWS * COLUMNS; i++)
    for (int j = 0; j < ROWS * COLUMNS; j++) {
      bool expected = neighbours(i / COLUMNS, j / COLUMNS, ROWS, 3) &&
                      neighbours(i % COLUMNS, j % COLUMNS, COLUMNS, 3);
      ck_assert(sees(i, j) == expected);
      seen += expected;
    }
  ck_assert_int_eq(seen, ROWS * COLUMNS * 9); /* nine at the borders too */
  for (int tiles = 0; tiles < 2; tiles++) {
    int unit = tiles ? TILE : 1, count = PLANES * ROWS * COLUMNS * unit;
    mask("", tiles ? "sliding_tile_3d(3, 4, 6, 2, 3)" : "neighbourhood_3d(3, 4, 6, 3)", count);
    for (int i = 0; i < count; i++)
      for (int j = 0; j < count; j++) {
        int x = i / unit, y = j / unit, plane = ROWS * COLUMNS;
        bool expected = neighbours(x / plane, y / plane, PLANES, 3) &&
                        neighbours(x % plane / COLUMNS, y % plane / COLUMNS, ROWS, 3) &&
                        neighbours(x % COLUMNS, y % COLUMNS, COLUMNS, 3);
        ck_assert(sees(i, j) == expected);
      }
  }
  mask("", "sliding_tile_2d(4, 6, 2, 3)", ROWS * COLUMNS * TILE);
  ck_assert(sees(0, 5) && !sees(0, 6) && sees(1, 12) && sees(0, 2 * (2 * COLUMNS + 2) + 1));
  mask("", "neighbourhood(3, 5)", 3); /* a line shorter than the neighbourhood is seen whole */
  ck_assert(sees(0, 2) && sees(2, 0));
}
END_TEST

START_TEST(dilated_neighbourhoods)
{
  enum { LENGTH = 7, SIZE = 3, STEP = 2 };
  mask("", "neighbour_dilated(i, j, 7, 3, 2)", LENGTH);
  for (int i = 0; i < LENGTH; i++) {
    int count = 0, residues = (LENGTH - i % STEP + STEP - 1) / STEP;
    for (int j = 0; j < LENGTH; j++) {
      bool expected = i % STEP == j % STEP && neighbours(i / STEP, j / STEP, residues, SIZE);
      ck_assert(sees(i, j) == expected);
      count += expected;
    }
    ck_assert_int_eq(count, SIZE);
  }
}
END_TEST

int main(void)
{
  Suite *suite = suite_create("prelude");
  TCase *tcase = tcase_create("prelude");
  tcase_add_checked_fixture(tcase, setup, teardown);
  tcase_add_test(tcase, rope_frequencies);
  tcase_add_test(tcase, rope_ntk);
  tcase_add_test(tcase, rope_yarn);
  tcase_add_test(tcase, rope_yarn_mscale);
  tcase_add_test(tcase, rope_longrope);
  tcase_add_test(tcase, rope_llama3);
  tcase_add_test(tcase, alibi_slopes);
  tcase_add_test(tcase, t5_buckets);
  tcase_add_test(tcase, t5_table);
  tcase_add_test(tcase, shaw_rows);
  tcase_add_test(tcase, soft_cap);
  tcase_add_test(tcase, masks_of_one_line);
  tcase_add_test(tcase, block_diffusion);
  tcase_add_test(tcase, masks_of_tables);
  tcase_add_test(tcase, draft_tree);
  tcase_add_test(tcase, neighbourhoods);
  tcase_add_test(tcase, dilated_neighbourhoods);
  suite_add_tcase(suite, tcase);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? 0 : 1;
}
