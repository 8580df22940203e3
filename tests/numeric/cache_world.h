/* Kernels on a cache, run without the runtime: a cache that the test fills and reads by
 * docs/caches.md alone, and the reference on the keys and values that are in it.
 *
 * What lies in the cache is a function of its place, so that sequences may share pages. Places that
 * hold no key are NaN, and entries of a table that are not needed are no pages.
 */
#ifndef ATTN_TESTS_NUMERIC_CACHE_WORLD_H
#define ATTN_TESTS_NUMERIC_CACHE_WORLD_H

#include "compiler/cache/plan.h"
#include "runtime/unit.h"
#include "tests/numeric/tile_runner.h"

#include <check.h>
#include <math.h>

enum { CACHE_MAX_BATCH = 6, CACHE_MAX_ARRAYS = 48, CACHE_MAX_PARAMS = 12 };

/* A batch on a cache. */
struct cache_batch {
  int64_t batch, queries;                 /* NQ, the longest sequence's */
  int64_t lengths[CACHE_MAX_BATCH];       /* tokens that it ever had */
  int64_t evicted[CACHE_MAX_BATCH];       /* of these, where positions are stored */
  int64_t query_lengths[CACHE_MAX_BATCH]; /* where packed */
  bool packed;
  bool heads_first; /* [page, head, slot, dim] rather than [page, slot, head, dim] */
  uint32_t seed;
};

struct cache_world {
  struct arena arena;
  struct source_set sources;
  struct diagnostics diagnostics;
  const struct spec *spec;  /* with the cache */
  const struct spec *plain; /* what it means for keys that are given: same inputs by name; `pos` and
                               `seen` are stored positions */
  const struct cache_plan *plan;
  struct compiled *compiled;
  struct expr_evaluator *evaluator;
  struct tile_code code;
  struct tile_array arrays[CACHE_MAX_ARRAYS];
  size_t array_count;
  struct tile_argument params[CACHE_MAX_PARAMS];
  size_t param_count;
  struct cache_batch batch;
  int64_t slots, pages, table; /* sizes */
};

/* ---- programs ---- */

static inline const struct spec *cache_read_spec(struct cache_world *w, const char *text)
{
  uint32_t source = source_add(&w->sources, "test.attn", text, strlen(text));
  struct spec_file *file = spec_check(&w->arena, &w->sources, source, NULL, &w->diagnostics);
  ck_assert_msg(!diagnostics_has_errors(&w->diagnostics), "%s",
                diagnostics_print(&w->diagnostics, false));
  return file->specs.items[0];
}

static inline void cache_world_open(struct cache_world *w, const char *text, const char *plain,
                                    const struct compile_options *options)
{
  *w = (struct cache_world){0};
  arena_init(&w->arena);
  ck_assert(!arena_guard(&w->arena));
  source_set_init(&w->sources, &w->arena);
  diagnostics_init(&w->diagnostics, &w->arena, &w->sources);
  w->spec = cache_read_spec(w, text);
  w->plain = cache_read_spec(w, plain);
  w->compiled = compile_build(&w->arena, w->spec, options, &w->diagnostics);
  ck_assert_msg(w->compiled != NULL, "%s\n%s", text, diagnostics_print(&w->diagnostics, false));
  w->plan = w->compiled->cache;
  ck_assert_ptr_nonnull(w->plan);
  w->evaluator = expr_evaluator_new(&w->arena, w->spec->pool);
  const char *printed = tile_print(&w->arena, w->compiled->program);
  const char *error = tile_code_open(
      &w->code, printed, options->target == tile_target ? &w->compiled->options.schedule : NULL);
  ck_assert_msg(error == NULL, "%s\n%s", error, printed);
}

static inline void cache_world_forget(struct cache_world *w)
{
  for (size_t k = 0; k < w->array_count; k++)
    tile_array_free(&w->arrays[k]);
  w->array_count = 0;
}

static inline void cache_world_close(struct cache_world *w)
{
  cache_world_forget(w);
  tile_code_close(&w->code);
  arena_free(&w->arena);
}

/* ---- tensors ---- */

static inline struct tile_array *cache_array(struct cache_world *w, const char *name)
{
  const struct tile_launch launch = {.arrays = w->arrays, .array_count = w->array_count};
  return tile_launch_array(&launch, name);
}

/* The array of a kernel's tensor with that role. */
static inline struct tile_array *cache_array_with_role(struct cache_world *w, enum tile_role role,
                                                       uint32_t index)
{
  for (size_t k = 0; k < w->compiled->kernels.count; k++) {
    const struct tile_kernel *kernel = w->compiled->kernels.items[k].tile;
    for (size_t t = 0; t < kernel->tensors.count; t++)
      if (kernel->tensors.items[t].role == role && kernel->tensors.items[t].role_index == index)
        return cache_array(w, kernel->tensors.items[t].name);
  }
  return NULL;
}

static inline struct tile_array *cache_tensor_array(struct cache_world *w, int32_t n)
{
  if (n < 0)
    ck_abort_msg("the plan has no such tensor");
  char *name = arena_format(&w->arena, "cache_%s", w->plan->tensors[n].name);
  for (char *c = name; *c != '\0'; c++)
    *c = *c == '.' ? '_' : *c;
  return cache_array(w, name);
}

/* In [0, 1), by place. */
static inline double cache_random(uint32_t seed, int64_t n, int64_t place)
{
  uint64_t x = seed * 0x9e3779b97f4a7c15u + (uint64_t)n * 0xbf58476d1ce4e5b9u + (uint64_t)place;
  x = (x ^ x >> 31) * 0x94d049bb133111ebu;
  x = (x ^ x >> 29) * 0xbf58476d1ce4e5b9u;
  return (double)((x ^ x >> 32) >> 11) * 0x1p-53;
}

static inline int64_t cache_kept(const struct cache_world *w, int64_t b)
{
  return w->batch.lengths[b] - w->batch.evicted[b];
}

static inline bool cache_is(const struct cache_world *w, enum cache_positions positions)
{
  return w->spec->cache.positions == positions;
}

static inline int64_t smaller(int64_t a, int64_t b)
{
  return a < b ? a : b;
}

/* Keys as formulas number them: of sequence b. */
static inline int64_t cache_keys(const struct cache_world *w, int64_t b)
{
  int64_t kept = cache_kept(w, b), ring = cache_ring_tokens(w->spec);
  return ring > 0 && !cache_is(w, CACHE_POSITIONS_ORIGINAL) ? smaller(kept, ring) : kept;
}

/* The token of key j, -1 where the ring has lost it. */
static inline int64_t cache_token(const struct cache_world *w, int64_t b, int64_t j)
{
  const struct spec_cache *cache = &w->spec->cache;
  int64_t length = w->batch.lengths[b], ring = cache_ring_tokens(w->spec);
  if (ring == 0 || length <= ring || j < cache->sinks)
    return j;
  if (cache_is(w, CACHE_POSITIONS_ORIGINAL))
    return j >= length - cache->capacity ? j : -1;
  return j + length - ring;
}

/* A sequence's own number for a kept key: they ascend, the newest is the last. */
static inline int64_t cache_position(const struct cache_world *w, int64_t b, int64_t j)
{
  int64_t token = cache_token(w, b, j);
  if (!cache_is(w, CACHE_POSITIONS_STORED) || cache_ring_tokens(w->spec) > 0)
    return token;
  int64_t gone = w->batch.evicted[b];
  return j < cache_kept(w, b) / 2 ? j : j + gone;
}

struct cache_place {
  int64_t index[SPEC_MAX_RANK];
  uint32_t count;
};

/* The leading indices of plan tensor n for a token. */
static inline struct cache_place cache_place(struct cache_world *w, int32_t n, int64_t b,
                                             int64_t token)
{
  const struct spec_cache *cache = &w->spec->cache;
  const struct cache_tensor *tensor = &w->plan->tensors[n];
  struct cache_place place = {{b, token}, 2};
  bool scale = tensor->part == CACHE_SCALE || tensor->part == CACHE_ZERO;
  const struct spec_storage *storage =
      tensor->source <= EXPR_TENSOR_V ? cache_storage(w->spec, tensor->source) : NULL;
  if (tensor->part == CACHE_RECENT) {
    place.index[1] = token % storage->residual;
    return place;
  }
  if (scale && storage->axis == CACHE_AXIS_CHANNEL && storage->group == 0)
    return (struct cache_place){.count = 0};
  if (cache->layout == CACHE_PAGED) {
    const struct tile_array *table = cache_array(w, "cache_page_table");
    place.index[0] = (int64_t)tile_array_get(table, b * w->table + token / cache->page);
    place.index[1] = token % cache->page;
  } else if (cache->layout == CACHE_RING && token >= cache->sinks) {
    place.index[1] = cache->sinks + (token - cache->sinks) % cache->capacity;
  }
  if (scale && storage->axis == CACHE_AXIS_CHANNEL)
    place.index[1] /= storage->group;
  return place;
}

static inline int64_t cache_at(const struct tile_array *a, const struct cache_place *place)
{
  int64_t k = 0;
  bool inside = place->count == a->rank;
  for (uint32_t d = 0; d < a->rank; d++) {
    inside &= place->index[d] >= 0 && place->index[d] < a->sizes[d];
    k = k * a->sizes[d] + place->index[d];
  }
  if (!inside) /* an assertion that holds costs a write */
    ck_abort_msg("a place beyond %s", a->name);
  return k;
}

/* What stands at a place is decided by the place. */
static inline void cache_put(struct cache_world *w, int32_t n, const struct cache_place *place)
{
  struct tile_array *a = cache_tensor_array(w, n);
  const struct cache_tensor *tensor = &w->plan->tensors[n];
  int64_t k = cache_at(a, place);
  double x = cache_random(w->batch.seed, n, k) * 2 - 1;
  uint32_t bits = cache_element_bits(a->type);
  bool whole = tile_read_type(a->type) != EXPR_FLOAT;
  if (tensor->part == CACHE_SCALE)
    x = (x + 1.5) / 64;
  else if (tensor->part == CACHE_ZERO)
    x /= 4;
  else if (tensor->source >= EXPR_TENSOR_INPUT && whole)
    x = a->type == DTYPE_BOOL ? x > 0 : floor((x + 1) * 2);
  else if (whole)
    x = floor((x + 1) * (1 << (bits - 1))) - (1 << (bits - 1));
  else if (a->type == DTYPE_E4M3 || a->type == DTYPE_E5M2)
    x *= 64;
  tile_array_set(a, k, x);
}

static inline double cache_get(struct cache_world *w, int32_t n, const struct cache_place *place)
{
  const struct tile_array *a = cache_tensor_array(w, n);
  return tile_array_get(a, cache_at(a, place));
}

/* ---- elements ---- */

static inline int64_t cache_recent_from(const struct cache_world *w, uint32_t source, int64_t b)
{
  const struct spec_storage *storage = cache_storage(w->spec, source);
  int64_t length = w->batch.lengths[b] - (cache_ring_tokens(w->spec) > 0 ? 0 : w->batch.evicted[b]);
  int64_t newest = storage->residual;
  if (newest == 0)
    return INT64_MAX;
  if (storage->axis == CACHE_AXIS_CHANNEL)
    newest = length % storage->residual;
  return length > newest ? length - newest : 0;
}

/* The place of one element of K or V in the tensor of that part. */
static inline struct cache_place cache_element(struct cache_world *w, int32_t n, int64_t b,
                                               int64_t token, uint32_t g, uint32_t c)
{
  const struct cache_tensor *tensor = &w->plan->tensors[n];
  const struct spec_storage *storage = cache_storage(w->spec, tensor->source);
  struct cache_place place = cache_place(w, n, b, token);
  if (tensor->part == CACHE_REST)
    c -= cache_channels(w->spec, tensor->source);
  if ((tensor->part == CACHE_SCALE || tensor->part == CACHE_ZERO) &&
      storage->axis == CACHE_AXIS_TOKEN)
    c = storage->group == 0 ? 0 : c / storage->group;
  place.index[place.count++] = g;
  place.index[place.count++] = c;
  return place;
}

/* The parts that an element is in: of the codes, or one that holds it as it is. */
static inline size_t cache_parts(const struct cache_world *w, uint32_t source, int64_t b,
                                 int64_t token, uint32_t c, int32_t parts[3])
{
  enum cache_part list[] = {CACHE_DATA, CACHE_SCALE, CACHE_ZERO};
  size_t count = 0;
  if (c >= cache_channels(w->spec, source))
    list[0] = CACHE_REST;
  else if (token >= cache_recent_from(w, source, b))
    list[0] = CACHE_RECENT;
  for (size_t k = 0; k < (list[0] == CACHE_DATA ? 3 : 1); k++) {
    parts[count] = cache_plan_find(w->plan, source, list[k]);
    count += parts[count] != CACHE_NONE_SUCH;
  }
  return count;
}

static inline void cache_write_token(struct cache_world *w, uint32_t source, int64_t b,
                                     int64_t token)
{
  uint32_t channels = source == EXPR_TENSOR_K ? w->spec->dim_qk : w->spec->dim_v;
  for (uint32_t g = 0; g < w->spec->kv_heads; g++)
    for (uint32_t c = 0; c < channels; c++) {
      int32_t parts[3];
      size_t count = cache_parts(w, source, b, token, c, parts);
      for (size_t k = 0; k < count; k++) {
        struct cache_place place = cache_element(w, parts[k], b, token, g, c);
        cache_put(w, parts[k], &place);
      }
    }
}

static inline double cache_value(struct cache_world *w, uint32_t source, int64_t b, int64_t token,
                                 uint32_t g, uint32_t c)
{
  const struct spec_storage *storage = cache_storage(w->spec, source);
  int32_t parts[3];
  size_t count = cache_parts(w, source, b, token, c, parts);
  struct cache_place place = cache_element(w, parts[0], b, token, g, c);
  double x = cache_get(w, parts[0], &place);
  if (count == 1)
    return x;
  if (storage->table != 0) {
    const struct spec_input *input = &w->spec->inputs[storage->table - EXPR_TENSOR_INPUT];
    const struct tile_array *table = cache_array(w, input->name);
    x = tile_array_get(table, (int64_t)x + (1 << (cache_element_bits(storage->type) - 1)));
  }
  place = cache_element(w, parts[1], b, token, g, c);
  x *= cache_get(w, parts[1], &place);
  if (count == 3) {
    place = cache_element(w, parts[2], b, token, g, c);
    x += cache_get(w, parts[2], &place);
  }
  return x;
}

/* ---- a launch ---- */

static inline int64_t cache_queries(const struct cache_world *w, int64_t b)
{
  return w->batch.packed ? w->batch.query_lengths[b] : w->batch.queries;
}

static inline int64_t cache_query_start(const struct cache_world *w, int64_t b)
{
  int64_t start = 0;
  for (int64_t k = 0; k < b; k++)
    start += cache_queries(w, k);
  return start;
}

static inline int64_t cache_launch_keys(const struct cache_world *w)
{
  int64_t most = 0;
  for (int64_t b = 0; b < w->batch.batch; b++)
    most = cache_keys(w, b) > most ? cache_keys(w, b) : most;
  return most;
}

static inline void cache_tensor_sizes(struct cache_world *w, const struct cache_tensor *tensor,
                                      int64_t *sizes)
{
  for (uint32_t d = 0; d < tensor->rank; d++) {
    const struct cache_dimension *dim = &tensor->dims[d];
    switch (dim->kind) {
    case CACHE_DIM_B: sizes[d] = w->batch.batch; break;
    case CACHE_DIM_TABLE: sizes[d] = w->table; break;
    case CACHE_DIM_PAGES: sizes[d] = w->pages; break;
    case CACHE_DIM_SLOTS: sizes[d] = w->slots / dim->quotient; break;
    case CACHE_DIM_CONSTANT: sizes[d] = dim->size; break;
    case CACHE_DIM_INPUT: sizes[d] = expr_evaluate(w->evaluator, dim->input).i; break;
    }
  }
}

static inline struct tile_array *cache_add_array(struct cache_world *w, struct tile_array a)
{
  ck_assert_uint_lt(w->array_count, CACHE_MAX_ARRAYS);
  w->arrays[w->array_count] = a;
  return &w->arrays[w->array_count++];
}

static inline void cache_make_tensor(struct cache_world *w, uint32_t n)
{
  static const int64_t gaps[SPEC_MAX_RANK] = {0, 1, 1, 2};
  const struct cache_tensor *tensor = &w->plan->tensors[n];
  char *name = arena_format(&w->arena, "cache_%s", tensor->name);
  for (char *c = name; *c != '\0'; c++)
    *c = *c == '.' ? '_' : *c;
  int64_t sizes[SPEC_MAX_RANK];
  cache_tensor_sizes(w, tensor, sizes);
  enum dtype type = tensor->type == DTYPE_SPEC || tensor->type == DTYPE_ANY
                        ? w->compiled->options.type
                        : tensor->type;
  bool swaps = w->batch.heads_first && tensor->rank == 4;
  int64_t slots = sizes[1];
  if (swaps) {
    sizes[1] = sizes[2];
    sizes[2] = slots;
  }
  struct tile_array a = tile_array_new(name, type, tensor->rank, sizes, gaps);
  if (swaps) {
    int64_t stride = a.strides[1];
    a.strides[1] = a.strides[2];
    a.strides[2] = stride;
    a.sizes[2] = a.sizes[1];
    a.sizes[1] = slots;
  }
  cache_add_array(w, a);
}

/* Pages in no order, the first shared by sequences that fill it with the same positions. */
static inline void cache_make_table(struct cache_world *w)
{
  static const double none[] = {-7, INT32_MAX, INT32_MIN, 1 << 20};
  struct tile_array *table = cache_array(w, "cache_page_table");
  int64_t page = w->spec->cache.page, next = 0, shared = -1;
  for (int64_t b = 0; b < w->batch.batch; b++)
    for (int64_t t = 0; t < w->table; t++) {
      bool used = t * page < cache_kept(w, b);
      bool whole = (t + 1) * page <= cache_kept(w, b);
      int64_t at = (next * 7 + 3) % w->pages; /* the number of pages is no multiple of 7 */
      whole &= !cache_is(w, CACHE_POSITIONS_STORED);
      if (used && whole && t == 0 && shared >= 0)
        at = shared;
      else if (used)
        next++;
      if (used && whole && t == 0)
        shared = at;
      tile_array_set(table, b * w->table + t, used ? (double)at : none[t % 4]);
    }
}

static inline void cache_fill_rotary(struct cache_world *w, struct tile_array *a,
                                     enum tile_role role)
{
  uint32_t n = w->spec->dim_qk;
  struct rotary_tables tables = {.turns = ARENA_ARRAY(&w->arena, int32_t, n),
                                 .rest = ARENA_ARRAY(&w->arena, float, n),
                                 .cosine = ARENA_ARRAY(&w->arena, float, n),
                                 .sine = ARENA_ARRAY(&w->arena, float, n)};
  ck_assert(unit_rotary_tables(w->spec, w->evaluator, &tables));
  const float *reals = role == TILE_ROLE_ROTARY_REST     ? tables.rest
                       : role == TILE_ROLE_ROTARY_COSINE ? tables.cosine
                                                         : tables.sine;
  for (uint32_t c = 0; c < n; c++)
    tile_array_set(a, c, role == TILE_ROLE_ROTARY_TURNS ? tables.turns[c] : (double)reals[c]);
}

/* Sizes of what is not in the cache. */
static inline void cache_sizes(struct cache_world *w, const struct tile_tensor *tensor,
                               int64_t *sizes)
{
  const struct spec *spec = w->spec;
  int64_t keys = cache_launch_keys(w);
  bool packed = w->batch.packed;
  int64_t tokens = packed ? cache_query_start(w, w->batch.batch) : w->batch.batch;
  switch ((int)tensor->role) {
  case TILE_ROLE_QUERY:
  case TILE_ROLE_RESULT:
  case TILE_ROLE_OUTPUT: {
    enum output_kind kind =
        tensor->role == TILE_ROLE_OUTPUT ? spec->outputs[tensor->role_index].kind : OUTPUT_LSE;
    uint32_t d = 0;
    sizes[d++] = kind == OUTPUT_MASS ? w->batch.batch : tokens;
    sizes[d++] = spec->query_heads;
    if (kind == OUTPUT_MASS)
      sizes[d++] = keys;
    else if (!packed)
      sizes[d++] = w->batch.queries;
    sizes[d] = kind == OUTPUT_WEIGHTS            ? keys
               : tensor->role == TILE_ROLE_QUERY ? spec->dim_qk
                                                 : spec->dim_v;
    return;
  }
  case TILE_ROLE_INPUT: {
    const struct spec_input *input = &spec->inputs[tensor->role_index];
    uint32_t at = 0;
    if (tensor->rank < input->rank)
      sizes[at++] = tokens;
    for (uint32_t d = 0; d < input->rank; d++)
      if (tensor->rank == input->rank ||
          (input->dims[d].kind != DIM_B && input->dims[d].kind != DIM_NQ))
        sizes[at++] = expr_evaluate(w->evaluator, input->dims[d].size).i;
    return;
  }
  case TILE_ROLE_WORKSPACE:
    for (uint32_t d = 0; d < tensor->rank; d++)
      sizes[d] = expr_evaluate(w->evaluator, tensor->shape[d]).i;
    return;
  case TILE_ROLE_QUERY_STARTS: sizes[0] = w->batch.batch + 1; return;
  default: sizes[0] = spec->dim_qk; /* a rotary's table */
  }
}

static inline void cache_fill_input(struct tile_array *a, uint32_t seed)
{
  tile_array_fill(a, seed);
  if (!tile_array_is_real(a) && a->type != DTYPE_BOOL)
    for (int64_t k = 0; k < a->count; k++)
      tile_array_set(a, k, (double)(int64_t)(cache_random(seed, 99, k) * 5));
  if (strcmp(a->name, "levels") == 0) /* tables of codes ascend */
    for (int64_t k = 0; k < a->count; k++)
      tile_array_set(a, k, (double)(k - a->count / 2) + (double)(k * k) / 64);
}

static inline void cache_make_launch(struct cache_world *w)
{
  for (size_t k = 0; k < w->compiled->kernels.count; k++) {
    const struct tile_kernel *kernel = w->compiled->kernels.items[k].tile;
    for (size_t t = 0; t < kernel->tensors.count; t++) {
      const struct tile_tensor *tensor = &kernel->tensors.items[t];
      if (cache_array(w, tensor->name) != NULL)
        continue;
      ck_assert_int_ne(tensor->role, TILE_ROLE_CACHE);
      int64_t sizes[SPEC_MAX_RANK] = {0};
      cache_sizes(w, tensor, sizes);
      struct tile_array *a = cache_add_array(
          w, tile_array_new(tensor->name, tensor->element, tensor->rank, sizes, NULL));
      if (tensor->role >= TILE_ROLE_ROTARY_TURNS && tensor->role <= TILE_ROLE_ROTARY_SINE)
        cache_fill_rotary(w, a, tensor->role);
      else if (tensor->role == TILE_ROLE_QUERY_STARTS)
        for (int64_t b = 0; b <= w->batch.batch; b++)
          tile_array_set(a, b, (double)cache_query_start(w, b));
      else if (tensor->role == TILE_ROLE_INPUT || tensor->role == TILE_ROLE_QUERY)
        cache_fill_input(a, w->batch.seed + tensor->role_index + 5 * (uint32_t)tensor->role);
    }
  }
}

static inline void cache_write_inputs(struct cache_world *w, int64_t b, int64_t token)
{
  for (uint32_t n = 0; n < w->plan->count; n++) {
    const struct cache_tensor *tensor = &w->plan->tensors[n];
    if (tensor->source < EXPR_TENSOR_INPUT)
      continue;
    const struct tile_array *a = cache_tensor_array(w, (int32_t)n);
    struct cache_place place = cache_place(w, (int32_t)n, b, token);
    int64_t others = 1;
    for (uint32_t d = 2; d < a->rank; d++)
      others *= a->sizes[d];
    place.count = a->rank;
    for (int64_t k = 0; k < others; k++) {
      int64_t rest = k;
      for (uint32_t d = a->rank; d-- > 2; rest /= a->sizes[d])
        place.index[d] = rest % a->sizes[d];
      cache_put(w, (int32_t)n, &place);
    }
  }
}

static inline void cache_write_lengths(struct cache_world *w)
{
  bool ring = cache_ring_tokens(w->spec) > 0;
  struct tile_array *seen = cache_array(w, "cache_seen");
  for (int64_t b = 0; b < w->batch.batch; b++) {
    bool kept = cache_is(w, CACHE_POSITIONS_STORED);
    int64_t length = kept ? (ring ? cache_keys(w, b) : cache_kept(w, b)) : w->batch.lengths[b];
    tile_array_set(cache_array(w, "cache_lengths"), b, (double)length);
    if (seen != NULL)
      tile_array_set(seen, b, (double)w->batch.lengths[b]);
  }
}

/* A cache with that batch in it, and all that a launch takes. */
static inline void cache_world_fill(struct cache_world *w, const struct cache_batch *batch)
{
  cache_world_forget(w);
  w->batch = *batch;
  int64_t page = w->spec->cache.page, pages = 0, most = 0, longest = 0;
  for (int64_t b = 0; b < batch->batch; b++) {
    int64_t kept = cache_kept(w, b);
    longest = kept > longest ? kept : longest;
    if (page > 0) {
      pages += (kept + page - 1) / page;
      most = (kept + page - 1) / page > most ? (kept + page - 1) / page : most;
    }
  }
  w->table = most + 2;
  w->pages = pages + 2 + ((pages + 2) % 7 == 0);
  w->slots = (longest + 63) / 64 * 64;
  int64_t values[] = {batch->batch, batch->queries, cache_launch_keys(w),
                      w->table,     w->pages,       w->slots};
  static const char *const names[] = {"B", "NQ", "NK", "size_table", "size_pages", "size_slots"};
  for (int k = 0; k < 6; k++)
    w->params[k] = (struct tile_argument){names[k], (double)values[k]};
  w->param_count = 6;
  for (int k = 0; k < 3; k++)
    expr_set_int(w->evaluator, EXPR_VAR_SIZE_B + k, values[k]);
  for (uint32_t n = 0; n < w->plan->count; n++)
    cache_make_tensor(w, n);
  cache_make_launch(w);
  cache_write_lengths(w);
  if (page > 0)
    cache_make_table(w);
  int32_t positions = cache_plan_find(w->plan, EXPR_TENSOR_K, CACHE_POSITIONS);
  for (int64_t b = 0; b < batch->batch; b++)
    for (int64_t j = 0; j < cache_keys(w, b); j++) {
      int64_t token = cache_token(w, b, j);
      if (token < 0)
        continue;
      cache_write_token(w, EXPR_TENSOR_K, b, token);
      if (!w->spec->value_is_key)
        cache_write_token(w, EXPR_TENSOR_V, b, token);
      cache_write_inputs(w, b, token);
      if (positions == CACHE_NONE_SUCH)
        continue;
      struct cache_place place = cache_place(w, positions, b, token);
      struct tile_array *a = cache_tensor_array(w, positions);
      tile_array_set(a, cache_at(a, &place), (double)cache_position(w, b, j));
    }
}

static inline void cache_world_run(struct cache_world *w)
{
  struct tile_launch launch = {w->arrays, w->array_count, w->params, w->param_count, {0}};
  const char *error = tile_run(&w->code, &launch);
  ck_assert_msg(error == NULL, "%s", error);
  ck_assert_int_eq(launch.fault.raised, 0);
}

#endif
