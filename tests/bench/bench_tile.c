/* How fast compiled tile programs run on one thread, beside the peak of multiply-adds that this
 * machine reaches in a loop of its own. Prints a line for each program; checks nothing.
 */
#include "tests/numeric/tile_runner.h"

#include <immintrin.h>
#include <time.h>

static double seconds(void)
{
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

enum { CHAINS = 12, LANES = 8, STEPS = 1 << 22 };

/* Enough independent chains to hide the latency of a multiply-add. */
__attribute__((target("avx2,fma"))) static float fma_chains(void)
{
  __m256 sums[CHAINS];
  for (int k = 0; k < CHAINS; k++)
    sums[k] = _mm256_set1_ps((float)k);
  const __m256 factor = _mm256_set1_ps(0.999f);
  for (int step = 0; step < STEPS; step++) {
#pragma GCC unroll 12
    for (int k = 0; k < CHAINS; k++)
      sums[k] = _mm256_fmadd_ps(sums[k], factor, factor);
  }
  __m256 total = sums[0];
  for (int k = 1; k < CHAINS; k++)
    total = _mm256_add_ps(total, sums[k]);
  return _mm256_cvtss_f32(total);
}

/* Operations a second. */
static double measure_peak(void)
{
  double best = 0;
  volatile float sink = 0;
  for (int turn = 0; turn < 5; turn++) {
    double start = seconds();
    sink = fma_chains();
    double rate = 2.0 * CHAINS * LANES * STEPS / (seconds() - start);
    best = rate > best ? rate : best;
  }
  (void)sink;
  return best;
}

static struct tile_array array(const char *name, uint32_t rank, int64_t a, int64_t b, int64_t c)
{
  struct tile_array made = tile_array_new(name, DTYPE_F32, rank, (int64_t[]){a, b, c}, NULL);
  tile_array_fill(&made, (uint32_t)name[0]);
  return made;
}

/* Runs a program's only kernel a few times on one scratch area and reports the best time. */
static bool measure(const char *name, struct tile_launch *launch, double operations, double peak)
{
  char path[128];
  snprintf(path, sizeof(path), "tests/golden/tile/%s.tile", name);
  char *text = tile_read_file(path);
  struct tile_code code = {0};
  const char *error = text == NULL ? "cannot read the program; is ATTN_SOURCE_DIR set?"
                                   : tile_code_open(&code, text, NULL);
  int64_t *slots = NULL;
  if (error == NULL) {
    slots = ARENA_ARRAY(&code.arena, int64_t, tile_slot_count(code.program->kernels.items[0]));
    error = tile_bind(&code, code.program->kernels.items[0], launch, slots);
  }
  double best = 1e30;
  for (int turn = 0; turn < 5 && error == NULL; turn++) {
    double start = seconds();
    error = tile_run_tasks(&code, 0, slots);
    double time = seconds() - start;
    best = time < best ? time : best;
  }
  if (error != NULL)
    fprintf(stderr, "%s: %s\n", name, error);
  else
    printf("%-18s %8.2f ms %8.1f GFLOP/s  %4.1f%% of peak\n", name, best * 1e3,
           operations / best * 1e-9, 100 * operations / best / peak);
  if (text != NULL)
    tile_code_close(&code);
  free(text);
  return error == NULL;
}

static bool bench_matmul(int64_t size, double peak)
{
  struct tile_array arrays[] = {array("a", 2, size, size, 0), array("b", 2, size, size, 0),
                                array("bias", 1, size, 0, 0), array("c", 2, size, size, 0)};
  double number = (double)size;
  struct tile_argument params[] = {{"m", number}, {"n", number}, {"k", number}};
  struct tile_launch launch = {arrays, 4, params, 3, {0}};
  bool ok = measure("matmul_epilogue", &launch, 2 * number * number * number, peak);
  for (int k = 0; k < 4; k++)
    tile_array_free(&arrays[k]);
  return ok;
}

/* Counts both products over the visible pairs only. */
static bool bench_attention(int64_t batch, int64_t length, double peak)
{
  struct tile_array arrays[] = {array("q", 3, batch, length, 64), array("k", 3, batch, length, 64),
                                array("v", 3, batch, length, 64), array("o", 3, batch, length, 64),
                                array("lse", 2, batch, length, 0)};
  double n = (double)length;
  struct tile_argument params[] = {{"b", (double)batch}, {"n", n}, {"scale", 0.125}};
  struct tile_launch launch = {arrays, 5, params, 3, {0}};
  double pairs = (double)batch * n * (n + 1) / 2;
  bool ok = measure("flash_attention", &launch, pairs * 4 * 64, peak);
  for (int k = 0; k < 5; k++)
    tile_array_free(&arrays[k]);
  return ok;
}

int main(void)
{
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) {
    fprintf(stderr, "bench_tile needs AVX2 and FMA to measure the peak\n");
    return EXIT_FAILURE;
  }
  double peak = measure_peak();
  printf("peak of multiply-adds       %8.1f GFLOP/s\n", peak * 1e-9);
  bool ok = bench_matmul(1024, peak) && bench_attention(4, 2048, peak);
  return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}
