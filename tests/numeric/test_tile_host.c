/* The hand-written programs of tests/golden/tile on this machine, against plain loops in float64:
 * sizes around the tiles' borders, tensors with gaps, nothing written outside. */
#include "tests/numeric/tile_interpreter.h"

#include <check.h>

static const int64_t gaps[] = {0, 3, 5};

static struct tile_array array(const char *name, enum dtype type, uint32_t rank, int64_t a,
                               int64_t b, int64_t c)
{
  int64_t sizes[] = {a, b, c};
  struct tile_array made = tile_array_new(name, type, rank, sizes, gaps);
  tile_array_fill(&made, (uint32_t)(a * 31 + b * 7 + c + name[0]));
  return made;
}

/* Elements shrunk, so that exponentials stay moderate. */
static void shrink(struct tile_array *a, double factor)
{
  for (int64_t k = 0; k < a->count; k++)
    tile_array_set(a, k, tile_array_get(a, k) * factor);
}

struct program {
  struct tile_code code;
  char *text;
};

static void open_text(struct program *p, const char *name)
{
  const char *error = tile_code_open(&p->code, p->text, NULL);
  ck_assert_msg(error == NULL, "%s: %s", name, error);
}

static void open_program(struct program *p, const char *name)
{
  char path[128];
  snprintf(path, sizeof(path), "tests/golden/tile/%s.tile", name);
  p->text = tile_read_file(path);
  ck_assert_msg(p->text != NULL, "cannot read %s", path);
  open_text(p, name);
}

static void close_program(struct program *p)
{
  tile_code_close(&p->code);
  free(p->text);
}

static void run_program(struct program *p, struct tile_array *arrays, size_t array_count,
                        const struct tile_argument *params, size_t param_count)
{
  struct tile_launch launch = {arrays, array_count, params, param_count, {0}};
  const char *error = tile_run(&p->code, &launch);
  ck_assert_msg(error == NULL, "%s", error);
  ck_assert_int_eq(launch.fault.raised, 0);
}

#define RUN(p, arrays, ...)                                                                        \
  run_program(p, arrays, sizeof(arrays) / sizeof(*(arrays)),                                       \
              (struct tile_argument[]){__VA_ARGS__},                                               \
              sizeof((struct tile_argument[]){__VA_ARGS__}) / sizeof(struct tile_argument))

static void expect(double got, double expected, double tolerance, const char *what, int64_t k)
{
  ck_assert_msg(tile_is_close(got, expected, tolerance), "%s: element %lld is %.9g instead of %.9g",
                what, (long long)k, got, expected);
}

static void free_arrays(struct tile_array *arrays, size_t count)
{
  for (size_t k = 0; k < count; k++)
    tile_array_free(&arrays[k]);
}
#define FREE(arrays) free_arrays(arrays, sizeof(arrays) / sizeof(*(arrays)))

static void matmul(struct program *p, int64_t m, int64_t n, int64_t k)
{
  struct tile_array t[] = {array("a", DTYPE_F32, 2, m, k, 0), array("b", DTYPE_F32, 2, k, n, 0),
                           array("bias", DTYPE_F32, 1, n, 0, 0), array("c", DTYPE_F32, 2, m, n, 0)};
  RUN(p, t, {"m", (double)m}, {"n", (double)n}, {"k", (double)k});
  for (int64_t i = 0; i < m; i++) {
    for (int64_t j = 0; j < n; j++) {
      double x = tile_array_get(&t[2], j);
      for (int64_t l = 0; l < k; l++)
        x += tile_array_get(&t[0], i * k + l) * tile_array_get(&t[1], l * n + j);
      expect(tile_array_get(&t[3], i * n + j), x / (1 + exp(-1.702 * x)), 1e-6, "c", i * n + j);
    }
  }
  FREE(t);
}

START_TEST(matmul_epilogue)
{
  struct program p;
  open_program(&p, "matmul_epilogue");
  static const int64_t sizes[][3] = {{0, 0, 0},    {0, 5, 3},    {1, 1, 1},     {1, 1, 0},
                                     {1, 70, 3},   {7, 64, 32},  {16, 3, 31},   {17, 65, 33},
                                     {96, 64, 32}, {97, 63, 64}, {95, 129, 65}, {200, 130, 100}};
  for (size_t s = 0; s < sizeof(sizes) / sizeof(*sizes); s++)
    matmul(&p, sizes[s][0], sizes[s][1], sizes[s][2]);
  close_program(&p);
}
END_TEST

START_TEST(column_sum)
{
  struct program p;
  open_program(&p, "column_sum");
  static const int64_t sizes[] = {0, 1, 2, 15, 31, 32, 33, 63, 64, 65, 130};
  const size_t count = sizeof(sizes) / sizeof(*sizes);
  for (size_t s = 0; s < count * count; s++) {
    int64_t m = sizes[s / count], n = sizes[s % count];
    struct tile_array t[] = {array("x", DTYPE_F32, 2, m, n, 0),
                             array("sums", DTYPE_F32, 1, n, 0, 0)};
    RUN(&p, t, {"m", (double)m}, {"n", (double)n});
    for (int64_t j = 0; j < n; j++) {
      double sum = 0;
      for (int64_t i = 0; i < m; i++)
        sum += tile_array_get(&t[0], i * n + j);
      expect(tile_array_get(&t[1], j), sum, 0, "sums", j);
    }
    FREE(t);
  }
  close_program(&p);
}
END_TEST

START_TEST(transposed_product)
{
  struct program p;
  open_program(&p, "transposed_product");
  static const int64_t sizes[][3] = {{0, 0, 0},    {0, 3, 4},    {1, 1, 1},   {5, 0, 8},
                                     {48, 32, 64}, {47, 31, 63}, {49, 33, 1}, {100, 70, 40},
                                     {3, 64, 0},   {96, 1, 64}};
  for (size_t s = 0; s < sizeof(sizes) / sizeof(*sizes); s++) {
    int64_t m = sizes[s][0], n = sizes[s][1], d = sizes[s][2];
    struct tile_array t[] = {array("p", DTYPE_F32, 2, m, n, 0), array("g", DTYPE_F32, 2, m, d, 0),
                             array("dv", DTYPE_F32, 2, n, d, 0)};
    RUN(&p, t, {"m", (double)m}, {"n", (double)n}, {"d", (double)d});
    for (int64_t k = 0; k < n * d; k++) {
      double sum = 0;
      for (int64_t i = 0; i < m; i++)
        sum += tile_array_get(&t[0], i * n + k / d) * tile_array_get(&t[1], i * d + k % d);
      expect(tile_array_get(&t[2], k), sum, 0, "dv", k);
    }
    FREE(t);
  }
  close_program(&p);
}
END_TEST

START_TEST(chunked_recurrence)
{
  struct program p;
  open_program(&p, "chunked_recurrence");
  static const int64_t sizes[][2] = {{0, 5}, {1, 0}, {1, 1}, {2, 31}, {1, 32}, {3, 33}, {2, 100}};
  for (size_t s = 0; s < sizeof(sizes) / sizeof(*sizes); s++) {
    int64_t b = sizes[s][0], n = sizes[s][1];
    struct tile_array t[] = {array("q", DTYPE_F32, 3, b, n, 32), array("k", DTYPE_F32, 3, b, n, 32),
                             array("v", DTYPE_F32, 3, b, n, 32),
                             array("o", DTYPE_F32, 3, b, n, 32)};
    RUN(&p, t, {"b", (double)b}, {"n", (double)n});
    for (int64_t row = 0; row < b * n; row++) {
      double out[32] = {0};
      for (int64_t j = row / n * n; j <= row; j++) {
        double dot = 0;
        for (int64_t c = 0; c < 32; c++)
          dot += tile_array_get(&t[0], row * 32 + c) * tile_array_get(&t[1], j * 32 + c);
        for (int64_t c = 0; c < 32; c++)
          out[c] += dot * tile_array_get(&t[2], j * 32 + c);
      }
      for (int64_t c = 0; c < 32; c++)
        expect(tile_array_get(&t[3], row * 32 + c), out[c], 1e-5, "o", row * 32 + c);
    }
    FREE(t);
  }
  close_program(&p);
}
END_TEST

enum { D = 64 };

/* One row of attention over keys `first` to `first + count - 1`: the output and the log-sum-exp. */
static double attend(const struct tile_array *q, const struct tile_array *k,
                     const struct tile_array *v, int64_t row, int64_t first, int64_t count,
                     double scale, double *out)
{
  double *scores = malloc((size_t)count * sizeof(*scores) + 1);
  double most = -(double)INFINITY;
  double sum = 0;
  const int64_t dim = q->sizes[q->rank - 1];
  ck_assert_ptr_nonnull(scores);
  for (int64_t j = 0; j < count; j++) {
    scores[j] = 0;
    for (int64_t c = 0; c < dim; c++)
      scores[j] +=
          tile_array_get(q, row * dim + c) * tile_array_get(k, (first + j) * dim + c) * scale;
    most = fmax(most, scores[j]);
  }
  memset(out, 0, (size_t)dim * sizeof(*out));
  for (int64_t j = 0; j < count; j++)
    sum += exp(scores[j] - most);
  for (int64_t j = 0; j < count; j++)
    for (int64_t c = 0; c < dim; c++)
      out[c] += exp(scores[j] - most) / sum * tile_array_get(v, (first + j) * dim + c);
  free(scores);
  return most + log(sum);
}

START_TEST(two_pass_weight)
{
  struct program p;
  open_program(&p, "two_pass_weight");
  static const int64_t sizes[][2] = {{0, 1},   {1, 1},   {1, 40},  {31, 32},
                                     {33, 31}, {64, 65}, {70, 100}};
  for (size_t s = 0; s < sizeof(sizes) / sizeof(*sizes); s++) {
    int64_t nq = sizes[s][0], nk = sizes[s][1];
    struct tile_array t[] = {array("q", DTYPE_F32, 2, nq, D, 0), array("k", DTYPE_F32, 2, nk, D, 0),
                             array("v", DTYPE_F32, 2, nk, D, 0),
                             array("o", DTYPE_F32, 2, nq, D, 0)};
    RUN(&p, t, {"nq", (double)nq}, {"nk", (double)nk}, {"scale", 0.125});
    for (int64_t row = 0; row < nq; row++) {
      double out[D];
      attend(&t[0], &t[1], &t[2], row, 0, nk, 0.125, out);
      for (int64_t c = 0; c < D; c++)
        expect(tile_array_get(&t[3], row * D + c), out[c], 5e-6, "o", row * D + c);
    }
    FREE(t);
  }
  close_program(&p);
}
END_TEST

START_TEST(flash_attention)
{
  struct program p;
  open_program(&p, "flash_attention");
  static const int64_t sizes[][2] = {{0, 3},  {1, 0},  {1, 1},  {2, 17}, {1, 31},
                                     {3, 32}, {1, 33}, {2, 64}, {1, 65}, {2, 150}};
  for (size_t s = 0; s < sizeof(sizes) / sizeof(*sizes); s++) {
    int64_t b = sizes[s][0], n = sizes[s][1];
    struct tile_array t[] = {array("q", DTYPE_F32, 3, b, n, D), array("k", DTYPE_F32, 3, b, n, D),
                             array("v", DTYPE_F32, 3, b, n, D), array("o", DTYPE_F32, 3, b, n, D),
                             array("lse", DTYPE_F32, 2, b, n, 0)};
    shrink(&t[0], 2);
    RUN(&p, t, {"b", (double)b}, {"n", (double)n}, {"scale", 0.125});
    for (int64_t row = 0; row < b * n; row++) {
      double out[D];
      double lse = attend(&t[0], &t[1], &t[2], row, row / n * n, row % n + 1, 0.125, out);
      for (int64_t c = 0; c < D; c++)
        expect(tile_array_get(&t[3], row * D + c), out[c], 5e-6, "o", row * D + c);
      expect(tile_array_get(&t[4], row), lse, 2e-6, "lse", row);
    }
    FREE(t);
  }
  close_program(&p);
}
END_TEST

/* The text with "tensor k f32" and "tensor v f32" of another type. */
static void retype(char *text, const char *type)
{
  static const char *const tensors[] = {"tensor k f32[3]\n", "tensor v f32[3]\n"};
  for (int k = 0; k < 2; k++) {
    char *at = strstr(text, tensors[k]);
    ck_assert_ptr_nonnull(at);
    at += strlen("tensor k ");
    size_t length = strlen(type);
    memmove(at + length, at + 3, strlen(at + 3) + 1); /* f32 is no longer than the others */
    memcpy(at, type, length);
  }
}

/* Four heads against keys and values that are read where they lie, of every storage type. */
START_TEST(decode)
{
  enum { HEADS = 4, DIM = 128 };
  static const struct {
    const char *name;
    enum dtype type;
  } types[] = {{"f32", DTYPE_F32}, {"f16", DTYPE_F16}, {"bf16", DTYPE_BF16}};
  static const int64_t sizes[][2] = {{0, 3},  {1, 0},  {1, 1},  {2, 17},
                                     {1, 63}, {3, 64}, {1, 65}, {2, 200}};
  struct program p;
  open_program(&p, "decode");
  tile_code_close(&p.code);
  retype(p.text, types[_i].name);
  open_text(&p, types[_i].name);
  for (size_t n = 0; n < sizeof(sizes) / sizeof(*sizes); n++) {
    int64_t pairs = sizes[n][0], keys = sizes[n][1];
    struct tile_array t[] = {array("q", DTYPE_F32, 3, pairs, HEADS, DIM),
                             array("k", types[_i].type, 3, pairs, keys, DIM),
                             array("v", types[_i].type, 3, pairs, keys, DIM),
                             array("o", DTYPE_F32, 3, pairs, HEADS, DIM),
                             array("lse", DTYPE_F32, 2, pairs, HEADS, 0)};
    RUN(&p, t, {"s", (double)pairs}, {"n", (double)keys}, {"scale", 0.0625});
    for (int64_t row = 0; row < pairs * HEADS; row++) {
      double out[DIM];
      double lse = attend(&t[0], &t[1], &t[2], row, row / HEADS * keys, keys, 0.0625, out);
      for (int64_t c = 0; c < DIM; c++)
        expect(tile_array_get(&t[3], row * DIM + c), out[c], 5e-6, "o", row * DIM + c);
      expect(tile_array_get(&t[4], row), lse, 2e-6, "lse", row);
    }
    FREE(t);
  }
  close_program(&p);
}
END_TEST

/* Rows of `ends`: empty, inverted, overlapping, nested, touching and distant ranges. */
START_TEST(segments)
{
  static const int64_t ends[][4] = {{0, 0, 0, 0},     {5, 3, 0, 0},     {0, 1, 0, 0},
                                    {15, 17, 0, 0},   {0, 40, 20, 60},  {0, 16, 16, 32},
                                    {100, 200, 3, 5}, {7, 90, 20, 30},  {64, 64, 0, 64},
                                    {33, 34, 32, 33}, {160, 161, 0, 1}, {200, 300, 250, 1000}};
  enum { ROWS = sizeof(ends) / sizeof(*ends) };
  struct program p;
  open_program(&p, "segments");
  for (int64_t bound = 0; bound < 130; bound += 13) {
    for (int64_t cut = 0; cut < 1200; cut += 171) {
      struct tile_array t[] = {array("ends", DTYPE_I32, 2, ROWS, 4, 0),
                               array("counts", DTYPE_I32, 2, ROWS, 3, 0)};
      for (int64_t k = 0; k < ROWS * 4; k++)
        tile_array_set(&t[0], k, (double)ends[k / 4][k % 4]);
      RUN(&p, t, {"t", ROWS}, {"bound", (double)bound}, {"cut", (double)cut});
      for (int64_t row = 0; row < ROWS; row++) {
        int64_t counts[3] = {0};
        const int64_t *e = ends[row];
        for (int64_t j = 0; j < 1024 && j < cut; j += 16) {
          bool first = e[0] < e[1] && e[0] < j + 16 && e[1] > j;
          bool second = e[2] < e[3] && e[2] < j + 16 && e[3] > j;
          if (!first && !second)
            continue;
          counts[j + 15 < bound ? 0 : 1]++;
          counts[2] += 1 + j / 16;
        }
        for (int64_t k = 0; k < 3; k++)
          expect(tile_array_get(&t[1], row * 3 + k), (double)counts[k], 0, "counts", row * 3 + k);
      }
      FREE(t);
    }
  }
  close_program(&p);
}
END_TEST

int main(void)
{
  Suite *suite = suite_create("tile programs on the host");
  TCase *tests = tcase_create("hand-written programs");
  tcase_add_test(tests, matmul_epilogue);
  tcase_add_test(tests, column_sum);
  tcase_add_test(tests, transposed_product);
  tcase_add_test(tests, chunked_recurrence);
  tcase_add_test(tests, two_pass_weight);
  tcase_add_test(tests, flash_attention);
  tcase_add_loop_test(tests, decode, 0, 3);
  tcase_add_test(tests, segments);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
