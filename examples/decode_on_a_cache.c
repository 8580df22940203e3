/* Generates on a cache: a prompt is appended at once, then token after token, each with a launch
 * for its one row; and one launch on all keys and values gives the same.
 *
 *     cc decode_on_a_cache.c $(pkg-config --cflags --libs attn) -lm
 *     ./a.out SPEC.attn
 *
 * The spec may have parameters with defaults, but no inputs and outputs of its own. Its `cache`
 * statement says what the cache's tensors are; without one the cache is dense.
 */
#include <attn/attn.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PROMPT = 20, STEPS = 12, ALL = PROMPT + STEPS, PAGES = ALL, MAX_TENSORS = 32 };

struct tensor {
  DLTensor tensor;
  int64_t shape[8];
};

static DLDataType type_of(attn_type type)
{
  DLDataType f32 = {kDLFloat, 32, 1}, f16 = {kDLFloat, 16, 1}, i32 = {kDLInt, 32, 1};
  DLDataType u8 = {kDLUInt, 8, 1}, i8 = {kDLInt, 8, 1}, bf16 = {kDLBfloat, 16, 1};
  return type == ATTN_TYPE_I32    ? i32
         : type == ATTN_TYPE_U8   ? u8
         : type == ATTN_TYPE_I8   ? i8
         : type == ATTN_TYPE_F16  ? f16
         : type == ATTN_TYPE_BF16 ? bf16
                                  : f32;
}

/* Zeros, row-major. */
static int make(struct tensor *t, DLDataType type, int rank, const int64_t *shape)
{
  size_t bytes = type.bits / 8u;
  for (int d = 0; d < rank; d++) {
    t->shape[d] = shape[d];
    bytes *= (size_t)shape[d];
  }
  memset(&t->tensor, 0, sizeof(t->tensor));
  t->tensor.data = calloc(bytes + 1, 1);
  t->tensor.device.device_type = kDLCPU;
  t->tensor.ndim = rank;
  t->tensor.dtype = type;
  t->tensor.shape = t->shape;
  return t->tensor.data != NULL;
}

/* Something in -1 .. 1 for each element. */
static float element(int what, int64_t head, int64_t position, int64_t channel)
{
  return (float)sin(1.0 + 3.0 * what + 0.7 * (double)head + 1.3 * (double)position +
                    2.1 * (double)channel * (double)(1 + what));
}

/* [1, heads, count, channels]: the tokens from `first` on. */
static int make_tokens(struct tensor *t, int what, int64_t heads, int64_t first, int64_t count,
                       int64_t channels)
{
  const int64_t shape[4] = {1, heads, count, channels};
  if (!make(t, type_of(ATTN_TYPE_F32), 4, shape))
    return 0;
  float *at = t->tensor.data;
  for (int64_t h = 0; h < heads; h++)
    for (int64_t n = 0; n < count; n++)
      for (int64_t c = 0; c < channels; c++)
        *at++ = element(what, h, first + n, c);
  return 1;
}

struct cache {
  struct tensor tensors[MAX_TENSORS];
  attn_named_tensor named[MAX_TENSORS];
  size_t count;
  int32_t *length; /* of the one sequence */
};

/* Whatever the spec's cache is made of: one sequence, with room for ALL tokens. */
static int make_cache(struct cache *cache, const attn_program_info *info)
{
  cache->count = info->cache_count;
  if (cache->count > MAX_TENSORS)
    return 0;
  for (size_t n = 0; n < cache->count; n++) {
    const attn_tensor_info *wanted = &info->cache[n];
    struct tensor *t = &cache->tensors[n];
    int64_t shape[8];
    for (uint32_t d = 0; d < wanted->rank; d++) {
      const char *dim = wanted->dims[d];
      shape[d] = strcmp(dim, "B") == 0                                    ? 1
                 : strcmp(dim, "slots") == 0                              ? ALL
                 : strcmp(dim, "pages") == 0 || strcmp(dim, "table") == 0 ? PAGES
                                                                          : atoll(dim);
    }
    if (!make(t, type_of(wanted->type), (int)wanted->rank, shape))
      return 0;
    cache->named[n].name = wanted->name;
    cache->named[n].tensor = &t->tensor;
    if (strcmp(wanted->name, "lengths") == 0)
      cache->length = t->tensor.data;
    if (strcmp(wanted->name, "page_table") == 0) {
      for (int32_t page = 0; page < PAGES; page++) /* any order would do */
        ((int32_t *)t->tensor.data)[page] = PAGES - 1 - page;
    }
  }
  return 1;
}

/* Appends `count` tokens and computes their rows, which it writes to `o`, [ALL, H, DV]. */
static attn_status step(attn_program *program, struct cache *cache, int64_t count, float *o)
{
  const attn_program_info *info = attn_program_describe(program);
  const int64_t first = *cache->length;
  const int64_t heads = info->query_heads, o_shape[4] = {1, heads, count, info->dim_v};
  struct tensor q = {{0}, {0}}, k = q, v = q, out = q;
  attn_status status = ATTN_ERROR_OUT_OF_MEMORY;
  if (make_tokens(&q, 0, heads, first, count, info->dim_qk) &&
      make_tokens(&k, 1, info->kv_heads, first, count, info->dim_qk) &&
      make_tokens(&v, 2, info->kv_heads, first, count, info->dim_v) &&
      make(&out, type_of(ATTN_TYPE_F32), 4, o_shape)) {
    *cache->length += (int32_t)count; /* as it is afterwards */

    attn_arguments append = ATTN_ARGUMENTS_INIT;
    append.k = &k.tensor;
    append.v = info->value_is_key ? NULL : &v.tensor;
    append.cache = cache->named;
    append.cache_count = cache->count;
    status = attn_append(program, &append);

    attn_arguments launch = ATTN_ARGUMENTS_INIT;
    launch.q = &q.tensor;
    launch.o = &out.tensor;
    launch.cache = cache->named;
    launch.cache_count = cache->count;
    if (status == ATTN_OK)
      status = attn_launch(program, &launch);

    for (int64_t n = 0; n < count * heads; n++)
      memcpy(o + ((first + n % count) * heads + n / count) * info->dim_v,
             (float *)out.tensor.data + n * info->dim_v, info->dim_v * sizeof(float));
  }
  free(q.tensor.data);
  free(k.tensor.data);
  free(v.tensor.data);
  free(out.tensor.data);
  return status;
}

int main(int count, char **words)
{
  if (count != 2) {
    fprintf(stderr, "usage: %s SPEC.attn\n", words[0]);
    return 2;
  }
  attn_context *context = NULL;
  attn_program *program = NULL;
  attn_status status = attn_context_create(NULL, &context);
  if (status == ATTN_OK)
    status = attn_compile_file(context, words[1], NULL, &program);
  float *o = NULL, *all = NULL;
  struct cache steps = {0}, once = {0};
  double worst = 0;
  if (status == ATTN_OK) {
    const attn_program_info *info = attn_program_describe(program);
    const size_t elements = (size_t)ALL * info->query_heads * info->dim_v;
    o = calloc(elements, sizeof(float));
    all = calloc(elements, sizeof(float));
    if (o == NULL || all == NULL || !make_cache(&steps, info) || !make_cache(&once, info))
      status = ATTN_ERROR_OUT_OF_MEMORY;
    if (status == ATTN_OK)
      status = step(program, &once, ALL, all);
    if (status == ATTN_OK)
      status = step(program, &steps, PROMPT, o);
    for (int n = 0; n < STEPS && status == ATTN_OK; n++)
      status = step(program, &steps, 1, o);
    for (size_t n = 0; n < elements; n++)
      worst = fmax(worst, fabs((double)o[n] - (double)all[n]));
  }
  if (status == ATTN_OK) {
    printf("%d tokens, then %d steps; the largest difference to one launch is %g\n", PROMPT, STEPS,
           worst);
  } else {
    char error[512];
    attn_context_error(context, error, sizeof(error));
    fprintf(stderr, "%s: %s\n", attn_status_text(status), error);
  }
  for (size_t n = 0; n < steps.count; n++)
    free(steps.tensors[n].tensor.data);
  for (size_t n = 0; n < once.count; n++)
    free(once.tensors[n].tensor.data);
  free(o);
  free(all);
  attn_program_free(program);
  attn_context_free(context);
  return status == ATTN_OK && worst < 1e-4 ? 0 : 1;
}
