/* One decode step on the host against what the machine allows; and prefill on caches in codes.
 *
 *     bench_decode [THREADS [WORDS]]        only as many threads, only rows whose name has
 *                                           the words
 *
 * 8 sequences, 32 / 8 heads of 128 channels, 4096 keys each, on a cache of the manager that is
 * filled with arbitrary numbers; prefill is of one sequence with 8 heads, 2048 rows and keys,
 * causal. Each row's bound is the larger of the time to read the cache and that of its
 * multiply-adds at 0.7 of the peak, both measured just before the row (runtime/attnc/peak.h).
 * Medians. */
#include "attn/attn.h"
#include "attn/cache.h"
#include "runtime/attnc/peak.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { GROUPS = 8, DIM = 128, LAUNCHES = 9, WARM = 1, MOST_SEQUENCES = 8 };

static const struct bench_size {
  int batch, heads, rows, keys;
} decode_size = {MOST_SEQUENCES, 32, 1, 4096}, prefill_size = {1, 8, 2048, 2048};

struct bench_case {
  const char *name, *layout, *storage;
  attn_type type;
  attn_cache_order order;
  bool prefill;
};

#define PAGED "paged(page = 64)"
#define INT8 ", k = int8, v = int8"
#define INT4 ", k = int4, v = int4"
#define INT4_GROUPS "int4(group = 32, asymmetric = true)"
#define INT2_GROUPS "int2(group = 32, asymmetric = true)"
#define KIVI_KEYS "int4(axis = channel, group = 32, residual = 128, asymmetric = true)"
#define KIVI_VALUES "int4(group = 32, residual = 128, asymmetric = true)"

static const struct bench_case cases[] = {
    {"f32", PAGED, "", ATTN_TYPE_F32, ATTN_CACHE_HEADS_FIRST, false},
    {"f32, tokens first", PAGED, "", ATTN_TYPE_F32, ATTN_CACHE_TOKENS_FIRST, false},
    {"f32, dense", "dense", "", ATTN_TYPE_F32, ATTN_CACHE_HEADS_FIRST, false},
    {"f32, dense, tokens first", "dense", "", ATTN_TYPE_F32, ATTN_CACHE_TOKENS_FIRST, false},
    {"f16", PAGED, "", ATTN_TYPE_F16, ATTN_CACHE_HEADS_FIRST, false},
    {"f16, tokens first", PAGED, "", ATTN_TYPE_F16, ATTN_CACHE_TOKENS_FIRST, false},
    {"bf16", PAGED, "", ATTN_TYPE_BF16, ATTN_CACHE_HEADS_FIRST, false},
    {"e4m3", PAGED, ", k = e4m3, v = e4m3", ATTN_TYPE_F32, ATTN_CACHE_HEADS_FIRST, false},
    {"e5m2", PAGED, ", k = e5m2, v = e5m2", ATTN_TYPE_F32, ATTN_CACHE_HEADS_FIRST, false},
    {"int8", PAGED, INT8, ATTN_TYPE_F32, ATTN_CACHE_HEADS_FIRST, false},
    {"int4", PAGED, INT4, ATTN_TYPE_F32, ATTN_CACHE_HEADS_FIRST, false},
    {"int4, groups of 32, asymmetric", PAGED, ", k = " INT4_GROUPS ", v = " INT4_GROUPS,
     ATTN_TYPE_F32, ATTN_CACHE_HEADS_FIRST, false},
    {"int2, groups of 32, asymmetric", PAGED, ", k = " INT2_GROUPS ", v = " INT2_GROUPS,
     ATTN_TYPE_F32, ATTN_CACHE_HEADS_FIRST, false},
    {"KIVI, int4", PAGED, ", k = " KIVI_KEYS ", v = " KIVI_VALUES, ATTN_TYPE_F32,
     ATTN_CACHE_HEADS_FIRST, false},
    {"prefill, int8, f32", PAGED, INT8, ATTN_TYPE_F32, ATTN_CACHE_HEADS_FIRST, true},
    {"prefill, int8, f16", PAGED, INT8, ATTN_TYPE_F16, ATTN_CACHE_HEADS_FIRST, true},
    {"prefill, int8, bf16", PAGED, INT8, ATTN_TYPE_BF16, ATTN_CACHE_HEADS_FIRST, true},
    {"prefill, int4, f16", PAGED, INT4, ATTN_TYPE_F16, ATTN_CACHE_HEADS_FIRST, true},
};

static void die(const char *what, const char *text)
{
  fprintf(stderr, "bench_decode: %s: %s\n", what, text);
  exit(EXIT_FAILURE);
}

static double now_ms(void)
{
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec * 1e3 + (double)time.tv_nsec * 1e-6;
}

static int compare(const void *a, const void *b)
{
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* ---- numbers ---- */

static uint32_t next(uint32_t *state)
{
  *state = *state * 1664525u + 1013904223u;
  return *state >> 8;
}

static void fill_bytes(unsigned char *to, size_t count, DLDataType type, uint32_t *state)
{
  const uint16_t one = type.code == kDLBfloat ? 0x3f80 : 0x3c00; /* the exponent of 1 */
  const uint16_t fraction = type.code == kDLBfloat ? 0x007f : 0x03ff;
  for (size_t n = 0; n < count; n++) {
    const uint32_t random = next(state);
    if (type.bits == 32) {
      const float x = (float)random * 0x1p-24f;
      memcpy(to + 4 * n, &x, sizeof(x));
    } else if (type.bits == 16) {
      const uint16_t x = (uint16_t)(one | (random & fraction));
      memcpy(to + 2 * n, &x, sizeof(x));
    } else {
      to[n] = (unsigned char)(random & 0xbf); /* no NaN of e4m3 and e5m2 */
    }
  }
}

/* Blocks are alike: what is in them makes no difference. */
static void fill(const DLTensor *tensor)
{
  uint32_t state = 1;
  size_t count = 1;
  for (int32_t d = 1; d < tensor->ndim; d++)
    count *= (size_t)tensor->shape[d];
  const size_t element = tensor->dtype.bits / 8u;
  const size_t stride = (size_t)tensor->strides[0] * element;
  unsigned char *data = (unsigned char *)tensor->data + tensor->byte_offset;
  fill_bytes(data, count, tensor->dtype, &state);
  for (int64_t n = 1; n < tensor->shape[0]; n++)
    memcpy(data + (size_t)n * stride, data, count * element);
}

/* ---- a row ---- */

static const struct bench_size *size_of(const struct bench_case *c)
{
  return c->prefill ? &prefill_size : &decode_size;
}

struct bench {
  attn_context *context;
  attn_program *program;
  attn_cache *cache;
  attn_cache_batch *batch;
  attn_arguments arguments;
  DLTensor q, o;
  int64_t shape[4];
};

static void open_program(struct bench *bench, const struct bench_case *c, unsigned threads)
{
  char text[512], error[2048] = "";
  attn_context_options context = ATTN_CONTEXT_OPTIONS_INIT;
  attn_compile_options options = ATTN_COMPILE_OPTIONS_INIT;
  context.threads = threads;
  options.error = error;
  options.error_size = sizeof(error);
  snprintf(text, sizeof(text),
           "attention bench {\n  heads q = %d, kv = %d\n  dim %d\n  mask causal\n  cache %s%s\n}\n",
           size_of(c)->heads, GROUPS, DIM, c->layout, c->storage);
  if (attn_context_create(&context, &bench->context) != ATTN_OK ||
      attn_compile(bench->context, text, strlen(text), "bench.attn", &options, &bench->program) !=
          ATTN_OK)
    die(c->name, error);
}

static void open_cache(struct bench *bench, const struct bench_case *c)
{
  char error[1024] = "";
  const struct bench_size *size = size_of(c);
  const uint32_t batch = (uint32_t)size->batch, keys = (uint32_t)size->keys;
  attn_sequence sequences[MOST_SEQUENCES];
  uint32_t new_tokens[MOST_SEQUENCES];
  attn_cache_options options = ATTN_CACHE_OPTIONS_INIT;
  options.sequences = batch;
  options.tokens = strcmp(c->layout, "dense") == 0 ? keys : keys * batch;
  options.type = c->type;
  options.order = c->order;
  options.error = error;
  options.error_size = sizeof(error);
  if (attn_cache_create(bench->program, &options, &bench->cache) != ATTN_OK)
    die(c->name, error);
  for (uint32_t n = 0; n < batch; n++) {
    new_tokens[n] = keys;
    if (attn_cache_add(bench->cache, &sequences[n]) != ATTN_OK)
      die(c->name, "no room for a sequence");
  }
  attn_arguments *arguments = &bench->arguments;
  if (attn_cache_begin(bench->cache, sequences, new_tokens, batch, &bench->batch) != ATTN_OK ||
      attn_cache_tensors(bench->batch, 0, &arguments->cache, &arguments->cache_count) != ATTN_OK)
    die(c->name, "no room for the tokens");
  for (size_t n = 0; n < arguments->cache_count; n++) {
    const attn_named_tensor *named = &arguments->cache[n];
    if (strcmp(named->name, "lengths") != 0 && strcmp(named->name, "page_table") != 0)
      fill(named->tensor);
  }
}

static void open_rows(struct bench *bench, const struct bench_case *c)
{
  const DLDataType types[] = {{kDLFloat, 32, 1}, {kDLFloat, 16, 1}, {kDLBfloat, 16, 1}};
  const int type = c->type == ATTN_TYPE_F16 ? 1 : c->type == ATTN_TYPE_BF16 ? 2 : 0;
  const struct bench_size *size = size_of(c);
  const size_t count = (size_t)size->batch * (size_t)size->heads * (size_t)size->rows * DIM;
  uint32_t state = 2;
  memcpy(bench->shape, (int64_t[]){size->batch, size->heads, size->rows, DIM},
         sizeof(bench->shape));
  bench->q = (DLTensor){.ndim = 4, .dtype = types[type], .shape = bench->shape};
  bench->q.device = attn_context_device(bench->context);
  bench->o = bench->q;
  bench->q.data = calloc(count, sizeof(float));
  bench->o.data = calloc(count, sizeof(float));
  if (bench->q.data == NULL || bench->o.data == NULL)
    die(c->name, "out of memory");
  fill_bytes(bench->q.data, count, types[type], &state);
  bench->arguments.q = &bench->q;
  bench->arguments.o = &bench->o;
}

static void run(const struct bench_case *c, unsigned threads)
{
  struct bench bench = {.arguments = ATTN_ARGUMENTS_INIT};
  char error[2048] = "";
  double times[LAUNCHES];
  struct peak peak;
  open_program(&bench, c, threads);
  open_cache(&bench, c);
  open_rows(&bench, c);
  bench.arguments.error = error;
  bench.arguments.error_size = sizeof(error);
  if (!peak_measure(threads, &peak))
    die(c->name, "the machine's speed cannot be measured");
  for (int n = -WARM; n < LAUNCHES; n++) {
    const double start = now_ms();
    if (attn_launch(bench.program, &bench.arguments) != ATTN_OK)
      die(c->name, error);
    if (n >= 0)
      times[n] = now_ms() - start;
  }
  qsort(times, LAUNCHES, sizeof(*times), compare);
  const double ms = times[LAUNCHES / 2];
  const double bytes = (double)attn_cache_memory(bench.cache).bytes;
  const struct bench_size *size = size_of(c);
  const double seen = size->keys - (size->rows - 1) / 2.0; /* by a row, on average */
  const double flops = 4.0 * size->batch * size->heads * size->rows * seen * DIM;
  const double read = bytes / peak.gbytes * 1e-6, compute = flops / (0.7 * peak.gflops) * 1e-6;
  printf("| %s | %u | %.2f | %.1f | %.2f | %.2f | %s | %.2f |\n", c->name, threads, ms,
         bytes / ms * 1e-6, bytes / ms * 1e-6 / peak.gbytes, flops / ms * 1e-6 / peak.gflops,
         read > compute ? "memory" : "arithmetic", ms / fmax(read, compute));
  fflush(stdout);
  attn_cache_cancel(bench.batch);
  attn_cache_free(bench.cache);
  attn_program_free(bench.program);
  attn_context_free(bench.context);
  free(bench.q.data);
  free(bench.o.data);
}

int main(int argc, char **argv)
{
  const unsigned only = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : 0;
  printf("| K and V | threads | ms | GB/s | of read speed | of peak | bound by | time / bound |\n");
  printf("|---|---|---|---|---|---|---|---|\n");
  for (size_t n = 0; n < sizeof(cases) / sizeof(*cases); n++) {
    if (argc > 2 && strstr(cases[n].name, argv[2]) == NULL)
      continue;
    if (only != 0)
      run(&cases[n], only);
    for (unsigned threads = 1; threads <= 2 && only == 0; threads++)
      run(&cases[n], threads);
  }
  return EXIT_SUCCESS;
}
