/* Native sparse attention (Yuan et al. 2025): three programs of one file, which the host puts
 * together. The host does what lies outside attention: it compresses blocks of keys and values,
 * adds the compressed branch's weights up into the importance of blocks, and sums the branches by
 * their gates.
 *
 *     cc nsa_branches.c $(pkg-config --cflags --libs attn) -lm
 *     ./a.out nsa.attn
 *
 * Compression is the mean of a block. The paper learns a small network for it, which would stand
 * in compress() and nowhere else. The branches share one set of keys and values here; the paper
 * projects them for each. Every 32nd token is computed again in float64, from the formulas. Exit
 * status 1: an error, or a difference beyond BOUND.
 */
#include <attn/attn.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

/* HEADS to BLOCK, TOP and WINDOW are those of nsa.attn. */
enum {
  HEADS = 16,
  DIM = 64,
  LENGTH = 32, /* tokens of a compressed block */
  STRIDE = 16, /* from one compressed block to the next */
  BLOCK = 64,  /* tokens of a chosen block */
  TOP = 16,    /* blocks that a token takes, the forced ones included */
  WINDOW = 512,
  TOKENS = 1500,
  COMPRESSED = (TOKENS - LENGTH) / STRIDE + 1,
  BLOCKS = (TOKENS + BLOCK - 1) / BLOCK,
  BRANCHES = 3
};
#define BOUND 1e-5

/* All are [heads, tokens, channels] of a batch of one; keys and values have one head. */
static float q[HEADS * TOKENS * DIM], k[TOKENS * DIM], v[TOKENS * DIM];
static float gate[TOKENS * HEADS * BRANCHES]; /* what the layer's gate projection gives */
static float compressed_k[COMPRESSED * DIM], compressed_v[COMPRESSED * DIM];
static float weights[HEADS * TOKENS * COMPRESSED], importance[TOKENS * BLOCKS];
static float branch[BRANCHES][HEADS * TOKENS * DIM], o[HEADS * TOKENS * DIM];

/* ---- the host's part ---- */

static void compress(const float *x, float *pooled)
{
  for (int n = 0; n < COMPRESSED; n++)
    for (int c = 0; c < DIM; c++) {
      double sum = 0.0;
      for (int m = 0; m < LENGTH; m++)
        sum += (double)x[(n * STRIDE + m) * DIM + c];
      pooled[n * DIM + c] = (float)(sum / LENGTH);
    }
}

/* The importance of block n (the paper's equation 9): the weights of the compressed blocks that
 * begin in it or reach into it, as often as they do; added up over the heads (equation 10). */
static void rank_blocks(void)
{
  for (int t = 0; t < TOKENS; t++) {
    double row[COMPRESSED] = {0.0};
    for (int h = 0; h < HEADS; h++)
      for (int n = 0; n < COMPRESSED; n++)
        row[n] += (double)weights[(h * TOKENS + t) * COMPRESSED + n];
    for (int n = 0; n < BLOCKS; n++) {
      double sum = 0.0;
      for (int m = 0; m < BLOCK / STRIDE; m++)
        for (int u = 0; u < LENGTH / STRIDE; u++) {
          int index = BLOCK / STRIDE * n + m - u;
          if (index >= 0 && index < COMPRESSED)
            sum += row[index];
        }
      importance[t * BLOCKS + n] = (float)sum;
    }
  }
}

static double gate_of(int t, int h, int b)
{
  return 1.0 / (1.0 + exp(-(double)gate[(t * HEADS + h) * BRANCHES + b]));
}

static void combine(void)
{
  for (int h = 0; h < HEADS; h++)
    for (int t = 0; t < TOKENS; t++)
      for (int c = 0; c < DIM; c++) {
        int at = (h * TOKENS + t) * DIM + c;
        o[at] = 0.0f;
        for (int b = 0; b < BRANCHES; b++)
          o[at] += (float)gate_of(t, h, b) * branch[b][at];
      }
}

/* ---- launching ---- */

struct shaped {
  int64_t shape[4];
  DLTensor tensor;
};

static const DLTensor *tensor(struct shaped *t, float *data, int64_t heads, int64_t rows,
                              int64_t columns)
{
  memset(t, 0, sizeof(*t));
  t->shape[0] = 1;
  t->shape[1] = heads;
  t->shape[2] = rows;
  t->shape[3] = columns;
  t->tensor.data = data;
  t->tensor.device.device_type = kDLCPU;
  t->tensor.ndim = 4;
  t->tensor.dtype.code = kDLFloat;
  t->tensor.dtype.bits = 32;
  t->tensor.dtype.lanes = 1;
  t->tensor.shape = t->shape;
  return &t->tensor;
}

/* One branch: compiled, launched and freed; a layer would keep the programs. */
static int launch(attn_context *context, const char *path, const char *attention, int result,
                  float *keys, float *values, int64_t key_count, const attn_named_tensor *input,
                  const attn_named_tensor *output)
{
  attn_compile_options options = ATTN_COMPILE_OPTIONS_INIT;
  options.attention = attention;
  attn_program *program = NULL;
  attn_status status = attn_compile_file(context, path, &options, &program);
  if (status == ATTN_OK) {
    struct shaped tensors[4];
    attn_arguments arguments = ATTN_ARGUMENTS_INIT;
    arguments.q = tensor(&tensors[0], q, HEADS, TOKENS, DIM);
    arguments.k = tensor(&tensors[1], keys, 1, key_count, DIM);
    arguments.v = tensor(&tensors[2], values, 1, key_count, DIM);
    arguments.o = tensor(&tensors[3], branch[result], HEADS, TOKENS, DIM);
    arguments.inputs = input;
    arguments.input_count = input != NULL;
    arguments.outputs = output;
    arguments.output_count = output != NULL;
    status = attn_launch(program, &arguments);
    attn_program_free(program);
  }
  if (status == ATTN_OK)
    return 1;
  char text[1024];
  attn_context_error(context, text, sizeof(text));
  fprintf(stderr, "%s: %s: %s\n", attention, attn_status_text(status), text);
  return 0;
}

static int compute(attn_context *context, const char *path)
{
  struct shaped weights_shape, importance_shape;
  attn_named_tensor output = {"weights",
                              tensor(&weights_shape, weights, HEADS, TOKENS, COMPRESSED)};
  attn_named_tensor input = {"importance",
                             tensor(&importance_shape, importance, 1, TOKENS, BLOCKS)};
  compress(k, compressed_k);
  compress(v, compressed_v);
  if (!launch(context, path, "nsa_compressed", 0, compressed_k, compressed_v, COMPRESSED, NULL,
              &output))
    return 0;
  rank_blocks();
  if (!launch(context, path, "nsa_selected", 1, k, v, TOKENS, &input, NULL) ||
      !launch(context, path, "nsa_window", 2, k, v, TOKENS, NULL, NULL))
    return 0;
  combine();
  return 1;
}

/* ---- the same in float64, token by token ---- */

static double wide_k[TOKENS * DIM], wide_v[TOKENS * DIM];
static double wide_compressed_k[COMPRESSED * DIM], wide_compressed_v[COMPRESSED * DIM];

static void widen(const float *x, double *wide, double *pooled)
{
  for (int n = 0; n < TOKENS * DIM; n++)
    wide[n] = (double)x[n];
  for (int n = 0; n < COMPRESSED; n++)
    for (int c = 0; c < DIM; c++) {
      pooled[n * DIM + c] = 0.0;
      for (int m = 0; m < LENGTH; m++)
        pooled[n * DIM + c] += wide[(n * STRIDE + m) * DIM + c] / LENGTH;
    }
}

/* Softmax attention of one query to the keys that it sees: weights p, result in sum. */
static void attend(const float *query, const double *keys, const double *values, const char *seen,
                   int count, double *p, double *sum)
{
  double most = -INFINITY, total = 0.0;
  for (int j = 0; j < count; j++) {
    p[j] = 0.0;
    for (int c = 0; c < DIM; c++)
      p[j] += (double)query[c] * keys[j * DIM + c] / sqrt(DIM);
    if (seen[j])
      most = fmax(most, p[j]);
  }
  for (int j = 0; j < count; j++) {
    p[j] = seen[j] ? exp(p[j] - most) : 0.0;
    total += p[j];
  }
  memset(sum, 0, DIM * sizeof(*sum));
  for (int j = 0; j < count; j++) {
    p[j] = seen[j] ? p[j] / total : 0.0;
    for (int c = 0; c < DIM; c++)
      sum[c] += p[j] * values[j * DIM + c];
  }
}

/* Each weight as often as strides of its compressed block lie in block n. */
static double block_rank(const double *row, int n)
{
  double sum = 0.0;
  for (int m = 0; m < COMPRESSED; m++) {
    int begin = m * STRIDE > n * BLOCK ? m * STRIDE : n * BLOCK;
    int end = m * STRIDE + LENGTH < (n + 1) * BLOCK ? m * STRIDE + LENGTH : (n + 1) * BLOCK;
    if (end > begin)
      sum += row[m] * (end - begin) / STRIDE;
  }
  return sum;
}

/* The tokens of the best blocks; the first block and the two nearest are always among them. */
static void choose(int t, const double *row, char *seen)
{
  char taken[BLOCKS] = {0};
  memset(seen, 0, TOKENS);
  for (int pick = 0; pick < TOP; pick++) {
    int best = -1;
    double best_rank = 0.0;
    for (int n = 0; n <= t / BLOCK; n++) {
      double rank = n == 0 || n >= t / BLOCK - 1 ? INFINITY : block_rank(row, n);
      if (!taken[n] && (best < 0 || rank > best_rank)) {
        best = n;
        best_rank = rank;
      }
    }
    if (best < 0)
      return;
    taken[best] = 1;
    for (int j = best * BLOCK; j < (best + 1) * BLOCK && j <= t; j++)
      seen[j] = 1;
  }
}

/* The largest difference between o and the formulas at token t. */
static double difference(int t)
{
  static char seen[BRANCHES][TOKENS];
  static double p[TOKENS], part[BRANCHES][HEADS][DIM];
  static const double *const keys[] = {wide_compressed_k, wide_k, wide_k};
  static const double *const values[] = {wide_compressed_v, wide_v, wide_v};
  double row[COMPRESSED] = {0.0}, largest = 0.0;

  for (int n = 0; n < COMPRESSED; n++)
    seen[0][n] = n * STRIDE + LENGTH - 1 <= t;
  for (int j = 0; j < TOKENS; j++)
    seen[2][j] = j <= t && t - j < WINDOW;
  for (int b = 0; b < BRANCHES; b++) {
    if (b == 1)
      choose(t, row, seen[1]);
    for (int h = 0; h < HEADS; h++) {
      attend(&q[(h * TOKENS + t) * DIM], keys[b], values[b], seen[b], b == 0 ? COMPRESSED : TOKENS,
             p, part[b][h]);
      for (int n = 0; b == 0 && n < COMPRESSED; n++)
        row[n] += p[n];
    }
  }
  for (int h = 0; h < HEADS; h++)
    for (int c = 0; c < DIM; c++) {
      double expected = 0.0;
      for (int b = 0; b < BRANCHES; b++)
        expected += gate_of(t, h, b) * part[b][h][c];
      double error = fabs((double)o[(h * TOKENS + t) * DIM + c] - expected);
      if (!(error <= largest))
        largest = error;
    }
  return largest;
}

/* ---- the problem ---- */

static void fill(float *x, size_t count, float scale, uint32_t *state)
{
  for (size_t n = 0; n < count; n++) {
    *state = *state * 1664525u + 1013904223u;
    x[n] = ((float)(*state >> 8) / 8388608.0f - 1.0f) * scale;
  }
}

int main(int argc, char **argv)
{
  if (argc != 2) {
    fprintf(stderr, "usage: %s nsa.attn\n", argv[0]);
    return 1;
  }
  uint32_t state = 1;
  fill(q, sizeof(q) / sizeof(*q), 4.0f, &state);
  fill(k, sizeof(k) / sizeof(*k), 1.0f, &state);
  fill(v, sizeof(v) / sizeof(*v), 1.0f, &state);
  fill(gate, sizeof(gate) / sizeof(*gate), 2.0f, &state);

  attn_context *context;
  attn_status status = attn_context_create(NULL, &context);
  if (status != ATTN_OK) {
    fprintf(stderr, "%s\n", attn_status_text(status));
    return 1;
  }
  int computed = compute(context, argv[1]);
  attn_context_free(context);
  if (!computed)
    return 1;

  widen(k, wide_k, wide_compressed_k);
  widen(v, wide_v, wide_compressed_v);
  double largest = 0.0;
  for (int t = TOKENS - 1; t >= 0; t -= 32) {
    double error = difference(t);
    if (!(error <= largest)) /* a NaN is the largest of all */
      largest = error;
  }
  printf("%d tokens, %d compressed, %d of %d blocks chosen: largest error %.2g, allowed %.2g\n",
         TOKENS, COMPRESSED, TOP, BLOCKS, largest, BOUND);
  return !(largest <= BOUND);
}
