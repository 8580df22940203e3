/* How fast compiled tile programs run on one thread, beside the peak of multiply-adds that this
 * machine reaches in a loop of its own, and decoding beside the speed at which it reads memory.
 * Prints a line for each program; checks nothing.
 *
 * Times are those of the processor, so that other programs on the machine count less; they still
 * share its memory.
 */
#include "tests/numeric/tile_runner.h"

#include <immintrin.h>
#include <time.h>

static double seconds(void)
{
  struct timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
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

/* Bytes a second, of a large array. */
__attribute__((target("avx2"))) static double measure_read(const unsigned char *data, size_t bytes)
{
  double best = 0;
  volatile long long sink = 0;
  for (int turn = 0; turn < 3; turn++) {
    double start = seconds();
    __m256i sum = _mm256_setzero_si256();
    for (size_t k = 0; k + 128 <= bytes; k += 128) {
      __m256i a = _mm256_loadu_si256((const void *)(data + k));
      __m256i b = _mm256_loadu_si256((const void *)(data + k + 32));
      __m256i c = _mm256_loadu_si256((const void *)(data + k + 64));
      __m256i d = _mm256_loadu_si256((const void *)(data + k + 96));
      sum = _mm256_add_epi64(sum, _mm256_xor_si256(_mm256_xor_si256(a, b), _mm256_xor_si256(c, d)));
    }
    sink = _mm256_extract_epi64(sum, 0);
    double rate = (double)bytes / (seconds() - start);
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

/* The text with "tensor k f32" and "tensor v f32" of another type; the caller frees it. */
static char *with_type(const char *text, const char *type)
{
  char *made = malloc(strlen(text) + 16);
  char *out = made;
  while (made != NULL && *text != '\0') {
    if (strncmp(text, "tensor k f32", 12) == 0 || strncmp(text, "tensor v f32", 12) == 0) {
      out += sprintf(out, "%.9s%s", text, type);
      text += 12;
    } else {
      *out++ = *text++;
    }
  }
  if (made != NULL)
    *out = '\0';
  return made;
}

/* Runs a program's only kernel some times on one scratch area: the best time, or a negative number
 * after an error, which is printed. `type`: of k and v. */
static double best_time(const char *name, const char *type, int turns, struct tile_launch *launch)
{
  char path[128];
  snprintf(path, sizeof(path), "tests/golden/tile/%s.tile", name);
  char *file = tile_read_file(path);
  char *text = file == NULL ? NULL : with_type(file, type);
  free(file);
  struct tile_code code = {0};
  const char *error = text == NULL ? "cannot read the program; is ATTN_SOURCE_DIR set?"
                                   : tile_code_open(&code, text, NULL);
  int64_t *slots = NULL;
  if (error == NULL) {
    slots = ARENA_ARRAY(&code.arena, int64_t, tile_slot_count(code.program->kernels.items[0]));
    error = tile_bind(&code, code.program->kernels.items[0], launch, slots);
  }
  double best = 1e30;
  for (int turn = 0; turn < turns && error == NULL; turn++) {
    double start = seconds();
    error = tile_run_tasks(&code, 0, slots);
    double time = seconds() - start;
    best = time < best ? time : best;
  }
  if (error != NULL)
    fprintf(stderr, "%s: %s\n", name, error);
  if (text != NULL)
    tile_code_close(&code);
  free(text);
  return error == NULL ? best : -1;
}

static bool measure(const char *name, struct tile_launch *launch, double operations, double peak)
{
  double best = best_time(name, "f32", 5, launch);
  if (best >= 0)
    printf("%-18s %8.2f ms %8.1f GFLOP/s  %4.1f%% of peak\n", name, best * 1e3,
           operations / best * 1e-9, 100 * operations / best / peak);
  return best >= 0;
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

/* 8 sequences of 8 key/value heads and 4096 keys, 4 query heads each. The bound is the larger of
 * the time to read k and v and that of the products at 0.7 of the peak. */
static bool bench_decode(const char *type_name, enum dtype type, double peak)
{
  enum { PAIRS = 64, KEYS = 4096, HEADS = 4, DIM = 128 };
  struct tile_array arrays[] = {array("q", 3, PAIRS, HEADS, DIM), array("k", 1, 1, 0, 0),
                                array("v", 1, 1, 0, 0), array("o", 3, PAIRS, HEADS, DIM),
                                array("lse", 2, PAIRS, HEADS, 0)};
  for (int k = 1; k < 3; k++) {
    tile_array_free(&arrays[k]);
    arrays[k] = tile_array_new(arrays[k].name, type, 3, (int64_t[]){PAIRS, KEYS, DIM}, NULL);
    tile_array_fill(&arrays[k], (uint32_t)k);
  }
  struct tile_argument params[] = {{"s", PAIRS}, {"n", KEYS}, {"scale", 0.01}};
  struct tile_launch launch = {arrays, 5, params, 3, {0}};
  double pairs = (double)PAIRS * KEYS;
  double bytes = 2 * pairs * DIM * (double)dtype_size(type);
  double read = measure_read(arrays[1].data, (size_t)bytes / 2);
  double best = best_time("decode", type_name, 9, &launch);
  double memory = bytes / read, compute = 4 * pairs * HEADS * DIM / (0.7 * peak);
  double bound = memory > compute ? memory : compute;
  if (best >= 0)
    printf("decode %-11s %8.2f ms %8.1f GB/s of %.1f, %4.1f%% of peak, %.2f of the bound by %s\n",
           type_name, best * 1e3, bytes / best * 1e-9, read * 1e-9, 100 * compute * 0.7 / best,
           best / bound, memory > compute ? "memory" : "arithmetic");
  for (int k = 0; k < 5; k++)
    tile_array_free(&arrays[k]);
  return best >= 0;
}

int main(void)
{
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) {
    fprintf(stderr, "bench_tile needs AVX2 and FMA to measure the peak\n");
    return EXIT_FAILURE;
  }
  double peak = measure_peak();
  printf("peak of multiply-adds       %8.1f GFLOP/s\n", peak * 1e-9);
  bool ok = bench_matmul(1024, peak) && bench_attention(4, 2048, peak) &&
            bench_decode("f32", DTYPE_F32, peak) && bench_decode("f16", DTYPE_F16, peak) &&
            bench_decode("bf16", DTYPE_BF16, peak);
  return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}
