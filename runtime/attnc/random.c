#include "runtime/attnc/random.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The share of true among random booleans; documents in a random sequence, on average. */
#define TRUE_SHARE 0.8
#define DOCUMENTS 4.0

static uint64_t mix(uint64_t x)
{
  x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
  x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
  return x ^ x >> 31;
}

uint64_t random_bits(uint64_t key, uint64_t counter)
{
  return mix(key + (counter + 1) * UINT64_C(0x9e3779b97f4a7c15));
}

uint64_t random_key(uint64_t seed, const char *name)
{
  uint64_t key = mix(seed + UINT64_C(0x9e3779b97f4a7c15));
  for (const char *at = name; *at != '\0'; at++)
    key = mix(key ^ (unsigned char)*at);
  return key;
}

double random_uniform(uint64_t key, uint64_t counter)
{
  return ((double)(random_bits(key, counter) >> 11) + 0.5) * 0x1p-53;
}

double random_normal(uint64_t key, uint64_t counter)
{
  const double two_pi = 6.283185307179586;
  return sqrt(-2 * log(random_uniform(key, 2 * counter))) *
         cos(two_pi * random_uniform(key, 2 * counter + 1));
}

/* A whole number in [0, limit), 0 where that is empty. */
static int64_t below(uint64_t key, uint64_t counter, int64_t limit)
{
  return limit <= 0 ? 0 : (int64_t)(random_bits(key, counter) % (uint64_t)limit);
}

static bool is_float(DLDataType dtype)
{
  return dtype.code == kDLFloat || dtype.code == kDLBfloat;
}

/* Ids that do not decrease along each run of `length` elements. */
static void fill_ids(struct tensor *tensor, uint64_t key, int64_t length)
{
  double step = fmin(0.25, DOCUMENTS / (double)length);
  int64_t id = 0;
  for (int64_t n = 0; n < tensor_count(tensor); n++) {
    if (n % length == 0)
      id = 0;
    else
      id += random_uniform(key, (uint64_t)n) < step;
    tensor_set(tensor, n, (double)id);
  }
}

static void fill_integers(const struct workload *workload, struct tensor *tensor,
                          const struct workload_shape *shape, uint64_t key)
{
  int last = shape->ndim - 1;
  if (shape->ndim == 1 && shape->kinds[0] == DIM_B) {
    for (int64_t n = 0; n < tensor_count(tensor); n++)
      tensor_set(tensor, n,
                 (double)(workload->keys == 0 ? 0 : 1 + below(key, (uint64_t)n, workload->keys)));
    return;
  }
  if (last >= 0 && (shape->kinds[last] == DIM_NQ || shape->kinds[last] == DIM_NK)) {
    if (tensor_count(tensor) != 0)
      fill_ids(tensor, key, shape->dims[last]);
    return;
  }
  /* Perhaps an index, so that it must fit into whatever it may index. */
  int64_t limit = workload->queries < workload->keys ? workload->queries : workload->keys;
  const struct spec *spec = workload->spec;
  for (uint32_t k = 0; k < spec->input_count; k++) {
    struct workload_shape other;
    if (!workload_shape(workload, WORKLOAD_INPUT, k, &other))
      continue;
    for (int d = 0; d < other.ndim; d++)
      limit = other.dims[d] < limit ? other.dims[d] : limit;
  }
  for (int64_t n = 0; n < tensor_count(tensor); n++)
    tensor_set(tensor, n, (double)below(key, (uint64_t)n, limit));
}

static void fill(struct workload *workload, enum workload_role role, uint32_t number, uint64_t seed)
{
  struct tensor *tensor = workload_tensor(workload, role, number);
  struct workload_shape shape;
  if (tensor->name == NULL || !workload_shape(workload, role, number, &shape))
    return;
  uint64_t key = random_key(seed, tensor->name);
  int64_t count = tensor_count(tensor);
  if (is_float(tensor->dtype))
    for (int64_t n = 0; n < count; n++)
      tensor_set(tensor, n, random_normal(key, (uint64_t)n));
  else if (tensor_dtype_equal(tensor->dtype, TENSOR_DTYPE_BOOL))
    for (int64_t n = 0; n < count; n++)
      tensor_set(tensor, n, random_uniform(key, (uint64_t)n) < TRUE_SHARE);
  else
    fill_integers(workload, tensor, &shape, key);
}

static int compare_floats(const void *a, const void *b)
{
  float x = *(const float *)a, y = *(const float *)b;
  return (x > y) - (x < y);
}

/* What codes of a cache stand for ascends. */
static void sort_table(struct workload *workload, const struct spec_storage *storage)
{
  if (storage->table == 0)
    return;
  struct tensor *table = &workload->inputs[storage->table - EXPR_TENSOR_INPUT];
  if (table->name != NULL)
    qsort(table->data, (size_t)tensor_count(table), sizeof(float), compare_floats);
}

void random_fill(struct workload *workload, uint64_t seed)
{
  fill(workload, WORKLOAD_Q, 0, seed);
  fill(workload, WORKLOAD_K, 0, seed);
  fill(workload, WORKLOAD_V, 0, seed);
  for (uint32_t k = 0; k < workload->spec->input_count; k++)
    fill(workload, WORKLOAD_INPUT, k, seed);
  sort_table(workload, &workload->spec->cache.k);
  sort_table(workload, &workload->spec->cache.v);
}

bool random_lengths(struct workload *workload, uint64_t seed, int64_t batch, int64_t queries,
                    int64_t keys)
{
  int64_t *lengths = mem_alloc_zeroed((size_t)batch + 1, 2 * sizeof(int64_t));
  if (lengths == NULL)
    return false;
  uint64_t key = random_key(seed, "lengths");
  for (int64_t b = 0; b < batch; b++) {
    int64_t *pair = lengths + b;
    uint64_t at = 2 * (uint64_t)b;
    int64_t drawn_queries = b == 0 ? queries : (queries > 0) + below(key, at, queries);
    int64_t drawn_keys = b == 0 ? keys : (keys > 0) + below(key, at + 1, keys);
    if (queries <= keys && drawn_queries > drawn_keys)
      drawn_queries = drawn_keys;
    pair[0] = drawn_queries;
    pair[batch + 1] = drawn_keys;
  }
  bool good = workload_set_lengths(workload, batch, lengths, lengths + batch + 1);
  mem_free(lengths);
  return good;
}
