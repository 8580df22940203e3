/* The reference on what is in a cache (cache_world.h), sequence by sequence, and its comparison
 * with what kernels computed. */
#ifndef ATTN_TESTS_NUMERIC_CACHE_REFERENCE_H
#define ATTN_TESTS_NUMERIC_CACHE_REFERENCE_H

#include "tests/numeric/cache_world.h"

/* A dense tensor of doubles' values as f32, for one sequence. */
static inline struct ref_tensor cache_dense(struct cache_world *w, uint32_t rank,
                                            const int64_t *shape, enum dtype type)
{
  struct ref_tensor t = {.type = type, .rank = rank};
  int64_t count = 1;
  for (uint32_t d = rank; d-- > 0;) {
    t.shape[d] = shape[d];
    t.stride[d] = count;
    count *= shape[d];
  }
  t.data = ARENA_ARRAY(&w->arena, double, (size_t)count + 1);
  return t;
}

/* K as it was before it was rotated for the cache. */
static inline void cache_turn_back(const struct cache_world *w, float *k, int64_t position)
{
  const struct spec_rotary *rotary = &w->spec->rotary;
  uint32_t half = rotary->dim / 2;
  for (uint32_t m = 0; m < half; m++) {
    bool neighbours = rotary->pairing == PAIRING_INTERLEAVED;
    uint32_t x = rotary->from + (neighbours ? 2 * m : m), y = x + (neighbours ? 1 : half);
    double angle = (double)position * pow(10000.0, -2.0 * m / rotary->dim);
    double a = k[x], b = k[y];
    k[x] = (float)(a * cos(angle) + b * sin(angle));
    k[y] = (float)(b * cos(angle) - a * sin(angle));
  }
}

/* `naive`: as a direct implementation has it, which turns codes into the spec's type. */
static inline struct ref_tensor cache_gather(struct cache_world *w, uint32_t source, int64_t b,
                                             bool naive)
{
  const struct spec *spec = w->spec;
  uint32_t channels = source == EXPR_TENSOR_K ? spec->dim_qk : spec->dim_v;
  int64_t shape[] = {1, spec->kv_heads, cache_keys(w, b), channels};
  struct ref_tensor t = cache_dense(w, 4, shape, DTYPE_F32);
  float *data = (float *)t.data;
  bool rounds = naive && cache_is_quantised(cache_storage(spec, source));
  for (uint32_t g = 0; g < spec->kv_heads; g++)
    for (int64_t j = 0; j < shape[2]; j++) {
      float *row = data + (g * shape[2] + j) * channels;
      int64_t token = cache_token(w, b, j);
      for (uint32_t c = 0; c < channels; c++)
        row[c] = token < 0 ? 0.0f : (float)cache_value(w, source, b, token, g, c);
      for (uint32_t c = 0; c < channels && rounds; c++)
        row[c] = (float)dtype_round(w->compiled->options.type, (double)row[c]);
      if (source == EXPR_TENSOR_K && spec->has_rotary && !spec->cache.rope_on_read && token >= 0)
        cache_turn_back(w, row, cache_position(w, b, j));
    }
  return t;
}

static inline const struct spec_input *cache_find_input(const struct spec *spec, const char *name,
                                                        uint32_t *n)
{
  for (*n = 0; *n < spec->input_count; (*n)++)
    if (strcmp(spec->inputs[*n].name, name) == 0)
      return &spec->inputs[*n];
  return NULL;
}

/* One sequence's part of a cached input. */
static inline struct ref_tensor cache_gather_input(struct cache_world *w, uint32_t n, int64_t b)
{
  const struct spec_input *input = &w->spec->inputs[n];
  int32_t tensor = cache_plan_find(w->plan, EXPR_TENSOR_INPUT + n, CACHE_DATA);
  const struct tile_array *a = cache_tensor_array(w, tensor);
  int64_t shape[SPEC_MAX_RANK], count = 1;
  for (uint32_t d = 0; d < input->rank; d++) {
    shape[d] = input->dims[d].kind == DIM_B    ? 1
               : input->dims[d].kind == DIM_NK ? cache_keys(w, b)
                                               : expr_evaluate(w->evaluator, input->dims[d].size).i;
    count *= shape[d];
  }
  struct ref_tensor t = cache_dense(w, input->rank, shape, a->type);
  for (int64_t k = 0; k < count; k++) {
    struct cache_place place = {.count = 2};
    int64_t rest = k, index[SPEC_MAX_RANK] = {0};
    for (uint32_t d = input->rank; d-- > 0; rest /= shape[d])
      index[d] = rest % shape[d];
    int64_t token = -1;
    for (uint32_t d = 0; d < input->rank; d++)
      if (input->dims[d].kind == DIM_NK)
        token = cache_token(w, b, index[d]);
      else if (input->dims[d].kind != DIM_B)
        place.index[place.count++] = index[d];
    if (token < 0)
      continue;
    struct cache_place slot = cache_place(w, tensor, b, token);
    place.index[0] = slot.index[0];
    place.index[1] = slot.index[1];
    dtype_store(a->type, (void *)t.data, k, tile_array_get(a, cache_at(a, &place)));
  }
  return t;
}

static inline struct ref_tensor cache_own_view(const struct tile_array *a, bool own, int64_t b)
{
  struct ref_tensor t = {.type = a->type, .rank = a->rank, .data = a->data};
  memcpy(t.shape, a->sizes, sizeof(t.shape));
  memcpy(t.stride, a->strides, sizeof(t.stride));
  if (own) {
    t.shape[0] = 1;
    t.data = a->data + b * a->strides[0] * (int64_t)dtype_size(a->type);
  }
  return t;
}

static inline struct ref_tensor cache_packed_view(const struct cache_world *w,
                                                  const struct tile_array *a, int64_t b)
{
  struct ref_tensor t = {.type = a->type, .rank = a->rank + 1};
  t.shape[0] = 1;
  t.shape[1] = a->sizes[1];
  t.shape[2] = cache_queries(w, b);
  t.stride[1] = a->strides[1];
  t.stride[2] = a->strides[0];
  for (uint32_t d = 2; d < a->rank; d++) {
    t.shape[d + 1] = a->sizes[d];
    t.stride[d + 1] = a->strides[d];
  }
  t.data = a->data + cache_query_start(w, b) * a->strides[0] * (int64_t)dtype_size(a->type);
  return t;
}

static inline struct ref_tensor cache_ref_input(struct cache_world *w, uint32_t n, int64_t b)
{
  const struct spec_input *wanted = &w->plain->inputs[n];
  int64_t shape[] = {1, cache_keys(w, b)};
  uint32_t own;
  if (strcmp(wanted->name, "seen") == 0) {
    struct ref_tensor t = cache_dense(w, 1, shape, DTYPE_I32);
    ((int32_t *)t.data)[0] = (int32_t)w->batch.lengths[b];
    return t;
  }
  if (strcmp(wanted->name, "pos") == 0) {
    struct ref_tensor t = cache_dense(w, 2, shape, DTYPE_I32);
    for (int64_t j = 0; j < shape[1]; j++)
      ((int32_t *)t.data)[j] = (int32_t)cache_position(w, b, j);
    return t;
  }
  const struct spec_input *input = cache_find_input(w->spec, wanted->name, &own);
  ck_assert_ptr_nonnull(input);
  if (input->cached)
    return cache_gather_input(w, own, b);
  struct tile_array *a = cache_array(w, wanted->name);
  ck_assert_ptr_nonnull(a);
  if (a->rank < input->rank) /* [B, H, NQ, ...] of queries that are packed */
    return cache_packed_view(w, a, b);
  struct ref_tensor t = cache_own_view(a, input->rank > 0 && input->dims[0].kind == DIM_B, b);
  for (uint32_t d = 0; d < input->rank; d++)
    if (input->dims[d].kind == DIM_NK)
      t.shape[d] = cache_keys(w, b);
  return t;
}

static inline struct ref_tensor cache_ref_queries(struct cache_world *w, int64_t b)
{
  const struct tile_array *q = cache_array(w, "q");
  return w->batch.packed ? cache_packed_view(w, q, b) : cache_own_view(q, true, b);
}

/* Elements of an array of rows: of one head of a sequence. */
static inline void cache_rows(struct cache_world *w, const struct tile_array *a, int64_t b,
                              int64_t h, int64_t width, double *out)
{
  for (int64_t r = 0; r < cache_queries(w, b); r++)
    for (int64_t c = 0; c < width; c++) {
      int64_t row = w->batch.packed ? (cache_query_start(w, b) + r) * w->spec->query_heads + h
                                    : (b * w->spec->query_heads + h) * w->batch.queries + r;
      out[r * width + c] = tile_array_get(a, row * width + c);
    }
}

static inline void cache_compare(struct cache_world *w, const char *what, enum dtype type,
                                 int64_t b, int64_t h, const double *out, const double *exact,
                                 const double *naive, int64_t count)
{
  struct ref_error error = ref_compare(out, exact, naive, (size_t)count, type);
  ck_assert_msg(error.ok,
                "%s in %s, seed %u, sequence %d of %d keys, head %d: off by %g, allowed %g", what,
                dtype_name(w->compiled->options.type), w->batch.seed, (int)b, (int)cache_keys(w, b),
                (int)h, error.out_error, error.bound);
}

/* o and every output against the reference, sequence by sequence. */
static inline void cache_world_check(struct cache_world *w, const char *text)
{
  const struct spec *spec = w->spec;
  enum dtype type = w->compiled->options.type;
  for (int64_t b = 0; b < w->batch.batch; b++) {
    int64_t queries = cache_queries(w, b), keys = cache_keys(w, b);
    struct ref_tensor inputs[8];
    ck_assert_uint_le(w->plain->input_count, 8);
    for (uint32_t n = 0; n < w->plain->input_count; n++)
      inputs[n] = cache_ref_input(w, n, b);
    struct ref_call call = {.spec = w->plain,
                            .q = cache_ref_queries(w, b),
                            .k = cache_gather(w, EXPR_TENSOR_K, b, false),
                            .inputs = inputs,
                            .batch = 1,
                            .max_queries = queries,
                            .max_keys = keys};
    if (!spec->value_is_key)
      call.v = cache_gather(w, EXPR_TENSOR_V, b, false);
    struct ref_result exact, naive;
    ck_assert(ref_run(&call, REF_EXACT, type, &exact));
    call.k = cache_gather(w, EXPR_TENSOR_K, b, true);
    if (!spec->value_is_key)
      call.v = cache_gather(w, EXPR_TENSOR_V, b, true);
    ck_assert(ref_run(&call, REF_NAIVE, type, &naive));
    ck_assert(!exact.fault.raised);
    int64_t most = queries * spec->dim_v > keys ? queries * spec->dim_v : keys;
    double *out = ARENA_ARRAY(&w->arena, double, (size_t)most + 1);
    for (int64_t h = 0; h < spec->query_heads; h++) {
      int64_t first = h * queries;
      cache_rows(w, cache_array(w, "o"), b, h, spec->dim_v, out);
      cache_compare(w, text, type, b, h, out, exact.o + first * spec->dim_v,
                    naive.o + first * spec->dim_v, queries * spec->dim_v);
      for (uint32_t n = 0; n < spec->output_count; n++) {
        const struct tile_array *a = cache_array_with_role(w, TILE_ROLE_OUTPUT, n);
        ck_assert_ptr_nonnull(a);
        if (spec->outputs[n].kind == OUTPUT_MASS) {
          for (int64_t j = 0; j < keys; j++)
            out[j] = tile_array_get(a, (b * spec->query_heads + h) * a->sizes[2] + j);
          cache_compare(w, text, DTYPE_F32, b, h, out, exact.outputs[n] + h * keys,
                        naive.outputs[n] + h * keys, keys);
        } else if (spec->outputs[n].kind == OUTPUT_WEIGHTS) {
          for (int64_t r = 0; r < queries && !w->batch.packed; r++) {
            int64_t row = (b * spec->query_heads + h) * w->batch.queries + r;
            for (int64_t j = 0; j < keys; j++)
              out[j] = tile_array_get(a, row * a->sizes[3] + j);
            cache_compare(w, text, DTYPE_F32, b, h, out, exact.outputs[n] + (first + r) * keys,
                          naive.outputs[n] + (first + r) * keys, keys);
          }
        } else {
          cache_rows(w, a, b, h, 1, out);
          cache_compare(w, text, DTYPE_F32, b, h, out, exact.outputs[n] + first,
                        naive.outputs[n] + first, queries);
        }
      }
    }
    ref_result_free(&exact);
    ref_result_free(&naive);
  }
}

#endif
