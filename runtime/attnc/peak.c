#include "runtime/attnc/peak.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "dsl/base/memory.h"

enum {
  RUNS = 3,
  RUN_MS = 40,
  ROUNDS = 4096,            /* of a kernel, between two looks at the clock */
  LEAST_BUFFER = 128 << 20, /* of all threads together, bytes */
  CACHES = 4                /* the buffer is at least as many times the last cache */
};

static double seconds(void)
{
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

/* ---- multiply-adds ---- */

/* A kernel does ROUNDS steps of `chains` independent multiply-adds and returns a value that hangs
 * on all of them. Twelve chains cover the latency of two units on every processor so far. */
enum { CHAINS = 12 };

struct kernel {
  const char *vector;
  int lanes;
  float (*run)(float factor, float term);
};

#define FMA_KERNEL(name, target, vector, splat, fma, first)                                        \
  target static float name(float factor, float term)                                               \
  {                                                                                                \
    vector chains[CHAINS];                                                                         \
    vector f = splat(factor), t = splat(term), total;                                              \
    for (int c = 0; c < CHAINS; c++)                                                               \
      chains[c] = splat(term + (float)c);                                                          \
    for (int round = 0; round < ROUNDS; round++)                                                   \
      _Pragma("GCC unroll 12") for (int c = 0; c < CHAINS; c++) chains[c] = fma(chains[c], f, t);  \
    total = chains[0];                                                                             \
    for (int c = 1; c < CHAINS; c++)                                                               \
      total = fma(chains[c], f, total);                                                            \
    return first(total);                                                                           \
  }

#if defined(__x86_64__)
FMA_KERNEL(fma_512, __attribute__((target("avx512f"))), __m512, _mm512_set1_ps, _mm512_fmadd_ps,
           _mm512_cvtss_f32)
FMA_KERNEL(fma_256, __attribute__((target("avx2,fma"))), __m256, _mm256_set1_ps, _mm256_fmadd_ps,
           _mm256_cvtss_f32)
#define SSE_MADD(a, b, c) _mm_add_ps(_mm_mul_ps(a, b), c)
FMA_KERNEL(fma_128, , __m128, _mm_set1_ps, SSE_MADD, _mm_cvtss_f32)

static struct kernel best_kernel(void)
{
  if (__builtin_cpu_supports("avx512f"))
    return (struct kernel){"AVX-512", 16, fma_512};
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    return (struct kernel){"AVX2", 8, fma_256};
  return (struct kernel){"SSE2", 4, fma_128};
}
#elif defined(__aarch64__)
#define NEON_FMA(a, b, c) vfmaq_f32(c, a, b)
#define NEON_FIRST(a) vgetq_lane_f32(a, 0)
FMA_KERNEL(fma_128, , float32x4_t, vdupq_n_f32, NEON_FMA, NEON_FIRST)

static struct kernel best_kernel(void)
{
  return (struct kernel){"NEON", 4, fma_128};
}
#else
#define PLAIN(a) (a)
#define PLAIN_MADD(a, b, c) ((a) * (b) + (c))
FMA_KERNEL(fma_plain, , float, PLAIN, PLAIN_MADD, PLAIN)

static struct kernel best_kernel(void)
{
  return (struct kernel){"no vectors", 1, fma_plain};
}
#endif

/* ---- reading ---- */

typedef uint64_t wide __attribute__((vector_size(64)));

/* Sums, so that nothing that is read can be left out. */
static uint64_t read_all(const wide *data, size_t count)
{
  wide a = {0}, b = {0}, c = {0}, d = {0};
  for (size_t n = 0; n + 4 <= count; n += 4) {
    a += data[n];
    b += data[n + 1];
    c += data[n + 2];
    d += data[n + 3];
  }
  a += b + c + d;
  return a[0] + a[1] + a[2] + a[3] + a[4] + a[5] + a[6] + a[7];
}

/* ---- threads ---- */

struct worker {
  pthread_t thread;
  struct kernel kernel;
  atomic_bool *go;
  void *block;      /* what `data` lies in */
  const wide *data; /* NULL: multiply-adds */
  size_t count;
  double done;    /* operations, or bytes */
  double seconds; /* that it took */
  uint64_t kept;  /* makes the work needed */
};

static void *work(void *user)
{
  struct worker *worker = user;
  float sum = 0;
  while (!atomic_load(worker->go))
    continue;
  double start = seconds(), end = start;
  while (end - start < RUN_MS * 1e-3) {
    if (worker->data != NULL) {
      worker->kept += read_all(worker->data, worker->count);
      worker->done += (double)(worker->count * sizeof(wide));
    } else {
      sum += worker->kernel.run(0.999f, 0.001f);
      worker->done += 2.0 * ROUNDS * CHAINS * worker->kernel.lanes;
    }
    end = seconds();
  }
  worker->kept += sum > 0;
  worker->seconds = end - start;
  return NULL;
}

/* Work per second of all threads, in 10^9; 0 when a thread cannot be started. */
static double run(struct worker *workers, unsigned threads)
{
  atomic_bool go = false;
  unsigned started = 0;
  double rate = 0;
  for (; started < threads; started++) {
    struct worker *worker = &workers[started];
    worker->go = &go;
    worker->done = 0;
    if (pthread_create(&worker->thread, NULL, work, worker) != 0)
      break;
  }
  atomic_store(&go, true);
  for (unsigned n = 0; n < started; n++) {
    pthread_join(workers[n].thread, NULL);
    rate += workers[n].done / workers[n].seconds * 1e-9;
  }
  return started == threads ? rate : 0;
}

static double best_run(struct worker *workers, unsigned threads)
{
  double best = 0;
  for (int k = 0; k < RUNS; k++) {
    double rate = run(workers, threads);
    best = rate > best ? rate : best;
  }
  return best;
}

static size_t buffer_size(unsigned threads)
{
  long cache = -1;
#ifdef _SC_LEVEL3_CACHE_SIZE
  cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
#endif
  size_t total = cache > 0 ? (size_t)cache * CACHES : 0;
  total = total > LEAST_BUFFER ? total : LEAST_BUFFER;
  return total / threads / sizeof(wide) * sizeof(wide);
}

static bool make_buffers(struct worker *workers, unsigned threads)
{
  size_t size = buffer_size(threads);
  for (unsigned n = 0; n < threads; n++) {
    workers[n].block = mem_alloc(size + sizeof(wide));
    if (workers[n].block == NULL)
      return false;
    mem_prefer_large_pages(workers[n].block, size + sizeof(wide));
    memset(workers[n].block, 1, size + sizeof(wide)); /* so that there is memory behind it */
    uintptr_t address = (uintptr_t)workers[n].block;
    size_t shift = (sizeof(wide) - address % sizeof(wide)) % sizeof(wide);
    workers[n].data = (const wide *)(const void *)((const char *)workers[n].block + shift);
    workers[n].count = size / sizeof(wide);
  }
  return true;
}

bool peak_measure(unsigned threads, struct peak *peak)
{
  struct kernel kernel = best_kernel();
  struct worker *workers = mem_alloc_zeroed(threads, sizeof(*workers));
  *peak = (struct peak){.threads = threads, .vector = kernel.vector};
  if (workers == NULL)
    return false;
  for (unsigned n = 0; n < threads; n++)
    workers[n].kernel = kernel;
  peak->gflops = best_run(workers, threads);
  bool good = peak->gflops > 0 && make_buffers(workers, threads);
  if (good)
    peak->gbytes = best_run(workers, threads);
  for (unsigned n = 0; n < threads; n++)
    mem_free(workers[n].block);
  mem_free(workers);
  return good && peak->gbytes > 0;
}
