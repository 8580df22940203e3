/* What storage types of a cache cost in precision: the table of docs/caches.md.
 *
 *     bench_cache_error
 *
 * A decode step with 1024 keys, causal and rotated, 128 channels; q, k and v are N(0, 1), of 8
 * sequences with 8 query and 2 K/V heads. The error of o against the same step on a cache in f32:
 * the largest one relative to the largest element, and the root mean square relative to that of o.
 */
#include "runtime/attnc/decode.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/attnc/document.h"
#include "runtime/attnc/random.h"

enum { KEYS = 1024, BATCH = 8, HEADS = 8, DIM = 128, CENTROIDS = 16 };

static const struct {
  const char *name, *storage;
} cases[] = {
    {"f32", "k = f32, v = f32"}, /* what the others are compared with */
    {"f16", "k = f16, v = f16"},
    {"bf16", "k = bf16, v = bf16"},
    {"e4m3", "k = e4m3, v = e4m3"},
    {"e5m2", "k = e5m2, v = e5m2"},
    {"int8", "k = int8, v = int8"},
    {"int4, groups of 32, asymmetric",
     "k = int4(group = 32, asymmetric = true), v = int4(group = 32, asymmetric = true)"},
    {"KIVI, int4", "k = int4(axis = channel, group = 32, residual = 128, asymmetric = true), "
                   "v = int4(group = 32, residual = 128, asymmetric = true)"},
    {"KIVI, int2", "k = int2(axis = channel, group = 32, residual = 128, asymmetric = true), "
                   "v = int2(group = 32, residual = 128, asymmetric = true)"},
    {"KVQuant, int4",
     "k = int4(axis = channel, table = centroids), v = int4(asymmetric = true), rope = read"},
};

/* ---- a table of centroids ---- */

static int compare_floats(const void *a, const void *b)
{
  float x = *(const float *)a, y = *(const float *)b;
  return (x > y) - (x < y);
}

/* Those of least mean square error for elements of k over the largest of their channel (Lloyd
 * 1982). */
static void find_centroids(const struct tensor *k, float *table)
{
  enum { SAMPLES = 1 << 16, TURNS = 60 };
  static float x[SAMPLES];
  float largest[DIM] = {0};
  const float *data = k->data;
  for (int64_t n = 0; n < tensor_count(k); n++)
    largest[n % DIM] = fmaxf(largest[n % DIM], fabsf(data[n]));
  for (int n = 0; n < SAMPLES; n++)
    x[n] = data[n] / largest[n % DIM];
  qsort(x, SAMPLES, sizeof(*x), compare_floats);
  for (int c = 0; c < CENTROIDS; c++)
    table[c] = x[SAMPLES / (2 * CENTROIDS) * (2 * c + 1)];
  for (int turn = 0; turn < TURNS; turn++) {
    double sums[CENTROIDS] = {0};
    int counts[CENTROIDS] = {0};
    for (int n = 0, c = 0; n < SAMPLES; n++) {
      while (c + 1 < CENTROIDS && x[n] > (table[c] + table[c + 1]) / 2)
        c++;
      sums[c] += (double)x[n];
      counts[c]++;
    }
    for (int c = 0; c < CENTROIDS; c++)
      if (counts[c] > 0)
        table[c] = (float)(sums[c] / counts[c]);
  }
}

/* ---- a step ---- */

static bool run(attn_context *context, const char *storage, double *o, double *token_bytes)
{
  char text[1024], error[2048] = "";
  struct document document;
  struct option_list sets = {0};
  struct decode decode = {
      .prompt = KEYS - 1, .steps = 1, .rows = 1, .prepared = {.context = context}};
  int length = snprintf(text, sizeof(text),
                        "attention error {\n  heads q = %d, kv = 2\n  dim %d\n  type f32\n%s"
                        "  position rope\n  mask causal\n  cache paged(page = 64), %s\n}\n",
                        HEADS, DIM, strstr(storage, "table") ? "  input centroids : f32[16]\n" : "",
                        storage);
  attn_compile_options options = ATTN_COMPILE_OPTIONS_INIT;
  options.error = error;
  options.error_size = sizeof(error);
  bool good = document_check(&document, "error.attn", text, (size_t)length, &sets) == EXIT_FINE &&
              attn_compile(context, text, (size_t)length, NULL, &options,
                           &decode.prepared.program) == ATTN_OK;
  fputs(error, stderr);
  if (good) {
    struct workload *whole = &decode.whole;
    workload_init(whole, document.file->specs.items[0], DTYPE_F32);
    whole->batch = BATCH;
    whole->queries = whole->keys = KEYS;
    good = workload_allocate(whole) == EXIT_FINE;
    if (good) {
      random_fill(whole, 0);
      if (whole->spec->input_count > 0)
        find_centroids(&whole->k, whole->inputs[0].data);
      good = decode_run(&decode) == EXIT_FINE;
    }
    if (good)
      *token_bytes = cache_token_bytes(decode.plan, DTYPE_F32);
    for (int64_t n = 0; n < BATCH * HEADS * DIM && good; n++)
      o[n] = tensor_get(&whole->o, (n / DIM * KEYS + KEYS - 1) * DIM + n % DIM);
    decode_free(&decode);
  }
  attn_program_free(decode.prepared.program);
  document_close(&document);
  return good;
}

int main(void)
{
  static double exact[BATCH * HEADS * DIM], o[BATCH * HEADS * DIM];
  attn_context *context;
  if (attn_context_create(NULL, &context) != ATTN_OK)
    return EXIT_FAILURE;
  bool good = true;
  printf("| storage | bytes a token and head | largest error | rms error |\n|---|---|---|---|\n");
  for (size_t k = 0; k < sizeof(cases) / sizeof(*cases) && good; k++) {
    double bytes = 0, largest = 0, off = 0, squares = 0, off_squares = 0;
    good = run(context, cases[k].storage, k == 0 ? exact : o, &bytes);
    for (int n = 0; n < BATCH * HEADS * DIM && k > 0; n++) {
      largest = fmax(largest, fabs(exact[n]));
      off = fmax(off, fabs(o[n] - exact[n]));
      squares += exact[n] * exact[n];
      off_squares += (o[n] - exact[n]) * (o[n] - exact[n]);
    }
    if (k > 0 && good)
      printf("| %s | %g | %.2g | %.2g |\n", cases[k].name, bytes / 2, off / largest,
             sqrt(off_squares / squares));
  }
  attn_context_free(context);
  return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
