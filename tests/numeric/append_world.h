/* A cache that the append kernels fill, without the runtime (tile_runner.h): its tensors, what is
 * appended to it, and launches. */
#ifndef ATTN_TESTS_NUMERIC_APPEND_WORLD_H
#define ATTN_TESTS_NUMERIC_APPEND_WORLD_H

#include "compiler/cache/plan.h"
#include "runtime/unit.h"
#include "tests/numeric/tile_runner.h"

#include <check.h>
#include <math.h>

#ifdef TILE_ON_DEVICE
enum { LAUNCHES = 3, MOST_ADDED = 9 };
#else
enum { LAUNCHES = 12, MOST_ADDED = 40 };
#endif
enum { BATCH = 3, SLOTS = 96, MOST_TOKENS = 1024, MAX_ARRAYS = 48 };

struct world {
  const char *text;
  enum dtype type;
  bool packed;
  struct arena arena;
  struct source_set sources;
  struct diagnostics diagnostics;
  const struct spec *spec;
  const struct cache_plan *plan;
  struct compiled *compiled;
  struct expr_evaluator *evaluator;
  struct tile_code code;
  uint32_t random;
  struct tile_array cache[CACHE_MAX_TENSORS];  /* by number in the plan */
  struct tile_array before[CACHE_MAX_TENSORS]; /* as the launch at hand found them */
  bool *written[CACHE_MAX_TENSORS];            /* elements that the model wrote in it */
  int64_t lengths[BATCH], old_lengths[BATCH];
  /* What was given of K and V, rotated: [sequence][token][head][channel]. */
  double *tokens[2];
  struct tile_array table;     /* of codes; no data where there is none */
  struct tile_array inputs[8]; /* of the launch at hand */
};

/* Each assertion of Check is a system call, which is too much for every element. */
#define REQUIRE(condition, ...)                                                                    \
  do {                                                                                             \
    if (!(condition))                                                                              \
      ck_abort_msg(__VA_ARGS__);                                                                   \
  } while (0)

static inline uint32_t draw(struct world *w, uint32_t below)
{
  w->random = w->random * 1664525u + 1013904223u;
  return (w->random >> 8) % below;
}

static inline double draw_real(struct world *w)
{
  return (double)draw(w, 1 << 16) / (1 << 14) - 2.0;
}

static inline uint32_t channels_of(const struct world *w, int source)
{
  return source == 0 ? w->spec->dim_qk : w->spec->dim_v;
}

static inline uint32_t tensor_of(int source)
{
  return source == 0 ? EXPR_TENSOR_K : EXPR_TENSOR_V;
}

static inline double *token_at(const struct world *w, int source, int64_t b, int64_t t, int64_t g)
{
  int64_t row = (b * MOST_TOKENS + t) * w->spec->kv_heads + g;
  return w->tokens[source] + row * channels_of(w, source);
}

/* ---- the cache ---- */

static inline int64_t pages_of(const struct world *w)
{
  return SLOTS / w->spec->cache.page;
}

static inline int64_t dim_size(const struct world *w, const struct cache_dimension *dim)
{
  switch (dim->kind) {
  case CACHE_DIM_B: return BATCH;
  case CACHE_DIM_TABLE: return pages_of(w);
  case CACHE_DIM_PAGES: return BATCH * pages_of(w) + 2;
  case CACHE_DIM_SLOTS: return SLOTS / dim->quotient;
  case CACHE_DIM_CONSTANT: return dim->size;
  case CACHE_DIM_INPUT: break;
  }
  return expr_evaluate(w->evaluator, dim->input).i;
}

/* Codes below a byte are given as bytes here, as kernels that write them take them. */
static inline uint32_t codes_per_byte(enum dtype type)
{
  return type == DTYPE_I4 ? 2 : type == DTYPE_I2 ? 4 : 1;
}

static inline void make_cache(struct world *w)
{
  static const int64_t gaps[SPEC_MAX_RANK] = {0, 0, 1, 2};
  for (uint32_t n = 0; n < w->plan->count; n++) {
    const struct cache_tensor *tensor = &w->plan->tensors[n];
    enum dtype type =
        tensor->type == DTYPE_SPEC || tensor->type == DTYPE_ANY ? w->type : tensor->type;
    uint32_t per = codes_per_byte(type);
    int64_t sizes[SPEC_MAX_RANK];
    for (uint32_t d = 0; d < tensor->rank; d++)
      sizes[d] = dim_size(w, &tensor->dims[d]);
    sizes[tensor->rank - 1] /= per;
    char *name = arena_format(&w->arena, "cache_%s", tensor->name);
    if (strchr(name, '.') != NULL)
      *strchr(name, '.') = '_';
    w->cache[n] = tile_array_new(name, per > 1 ? DTYPE_U8 : type, tensor->rank, sizes, gaps);
    w->before[n] = tile_array_clone(&w->cache[n]);
    w->written[n] = ARENA_ARRAY(&w->arena, bool, (size_t)(w->cache[n].count * per));
    struct tile_array *a = &w->cache[n];
    for (int64_t k = 0; tensor->part == CACHE_PAGE_TABLE && k < a->count; k++)
      tile_array_set(a, k, (double)((k * 7 + 3) % (BATCH * pages_of(w)) + 1));
    bool calibrated = tensor->rank == 2 && tensor->part >= CACHE_SCALE;
    for (int64_t k = 0; calibrated && k < a->count; k++)
      tile_array_set(a, k, tensor->part == CACHE_SCALE ? 0.25 + 0.01 * (double)k : 0.125);
  }
}

static inline struct tile_array *cached(struct world *w, uint32_t source, enum cache_part part)
{
  int32_t n = cache_plan_find(w->plan, source, part);
  return n == CACHE_NONE_SUCH ? NULL : &w->cache[n];
}

static inline int64_t flat(const struct tile_array *a, const int64_t *indices)
{
  int64_t at = 0;
  for (uint32_t d = 0; d < a->rank; d++) {
    REQUIRE(indices[d] >= 0 && indices[d] < a->sizes[d], "%s has no such element", a->name);
    at = at * a->sizes[d] + indices[d];
  }
  return at;
}

/* ---- worlds ---- */

static inline void read_spec(struct world *w)
{
  arena_init(&w->arena);
  ck_assert(!arena_guard(&w->arena));
  source_set_init(&w->sources, &w->arena);
  diagnostics_init(&w->diagnostics, &w->arena, &w->sources);
  uint32_t source = source_add(&w->sources, "test.attn", w->text, strlen(w->text));
  struct spec_file *file = spec_check(&w->arena, &w->sources, source, NULL, &w->diagnostics);
  ck_assert_msg(!diagnostics_has_errors(&w->diagnostics), "%s",
                diagnostics_print(&w->diagnostics, false));
  w->spec = file->specs.items[0];
}

static inline void open_world(struct world *w, const char *text, enum dtype type, bool packed)
{
  *w = (struct world){.text = text, .type = type, .packed = packed, .random = 7};
  read_spec(w);
  const struct compile_options options = {.target = tile_target,
                                          .kernel = KERNEL_APPEND,
                                          .type = type,
                                          .on_cache = true,
                                          .packed_queries = packed};
  w->compiled = compile_build(&w->arena, w->spec, &options, &w->diagnostics);
  ck_assert_msg(w->compiled != NULL, "%s", diagnostics_print(&w->diagnostics, false));
  w->plan = w->compiled->cache;
  w->evaluator = expr_evaluator_new(&w->arena, w->spec->pool);
  const char *printed = tile_print(&w->arena, w->compiled->program);
  const char *error = tile_code_open(&w->code, printed, &w->compiled->options.schedule);
  ck_assert_msg(error == NULL, "%s\n%s", error, printed);
  expr_set_int(w->evaluator, EXPR_VAR_SIZE_B, BATCH);
  expr_set_int(w->evaluator, EXPR_VAR_SIZE_NQ, 1);
  expr_set_int(w->evaluator, EXPR_VAR_SIZE_NK, 1);
  make_cache(w);
  for (int s = 0; s < 2; s++)
    w->tokens[s] = ARENA_ARRAY(
        &w->arena, double, (size_t)(BATCH * MOST_TOKENS) * w->spec->kv_heads * channels_of(w, s));
  for (int s = 0; s < 2; s++) {
    const struct spec_storage *storage = cache_storage(w->spec, tensor_of(s));
    if (storage == NULL || storage->table == 0 || w->table.data != NULL)
      continue;
    int64_t size = 1 << cache_element_bits(storage->type);
    const char *name = w->spec->inputs[storage->table - EXPR_TENSOR_INPUT].name;
    w->table = tile_array_new(name, DTYPE_F32, 1, &size, NULL);
    for (int64_t k = 0; k < size; k++) {
      double place = (double)(k - size / 2);
      tile_array_set(&w->table, k, place + place * fabs(place) / (double)size);
    }
  }
}

static inline void close_world(struct world *w)
{
  for (uint32_t n = 0; n < w->plan->count; n++) {
    tile_array_free(&w->cache[n]);
    tile_array_free(&w->before[n]);
  }
  if (w->table.data != NULL)
    tile_array_free(&w->table);
  tile_code_close(&w->code);
  arena_free(&w->arena);
}

/* ---- a launch ---- */

struct launch {
  int64_t added[BATCH], starts[BATCH + 1], most;
  struct tile_array arrays[MAX_ARRAYS];
  size_t count;
  size_t own; /* arrays from here on are the launch's own */
};

/* [B, heads, most, channels], or packed [tokens, heads, channels]. */
static inline struct tile_array new_tokens(const struct world *w, const struct launch *l,
                                           const char *name, enum dtype type, int64_t heads,
                                           int64_t channels)
{
  static const int64_t gaps[SPEC_MAX_RANK] = {0, 1, 2, 3};
  int64_t packed[] = {l->starts[BATCH], heads, channels};
  int64_t sizes[] = {BATCH, heads, l->most, channels};
  return w->packed ? tile_array_new(name, type, 3, packed, gaps)
                   : tile_array_new(name, type, 4, sizes, gaps);
}

static inline int64_t new_element(const struct world *w, const struct launch *l,
                                  struct tile_array *a, int64_t b, int64_t g, int64_t r, int64_t c)
{
  int64_t packed[] = {l->starts[b] + r, g, c}, sizes[] = {b, g, r, c};
  return flat(a, w->packed ? packed : sizes);
}

/* The position by which new token r is rotated: its number, or what the input `pos` [B, NK] says.
 */
static inline double key_position(struct world *w, const struct launch *l, int64_t b, int64_t r)
{
  int64_t t = w->old_lengths[b] + r;
  for (uint32_t n = 0; n < w->spec->input_count; n++) {
    const int64_t packed[] = {l->starts[b] + r}, at[] = {b, r};
    const struct tile_array *a = &w->inputs[n];
    if (strcmp(w->spec->inputs[n].name, "pos") == 0)
      return tile_array_get(a, flat(a, w->packed ? packed : at));
  }
  struct tile_array *seen = cached(w, EXPR_TENSOR_K, CACHE_SEEN);
  if (seen == NULL || w->spec->cache.layout == CACHE_RING)
    return (double)t;
  return tile_array_get(seen, b) - (double)(w->lengths[b] - t);
}

/* x turned as spec->rotary says: pairs of halves, base 10000. */
static inline void rotate(const struct world *w, double position, double *x)
{
  const struct spec_rotary *rotary = &w->spec->rotary;
  uint32_t half = rotary->dim / 2;
  for (uint32_t p = 0; p < rotary->repeat; p++)
    for (uint32_t m = 0; m < half; m++) {
      bool halves = rotary->pairing == PAIRING_HALF;
      uint32_t base = rotary->from + p * rotary->dim;
      double *a = &x[base + (halves ? m : 2 * m)], *c = &x[base + (halves ? m + half : 2 * m + 1)];
      double angle = position * pow(10000.0, -2.0 * m / rotary->dim);
      double turned = *a * cos(angle) - *c * sin(angle);
      *c = *a * sin(angle) + *c * cos(angle);
      *a = turned;
    }
}

static inline void add_array(struct launch *l, struct tile_array a)
{
  ck_assert_uint_lt(l->count, MAX_ARRAYS);
  l->arrays[l->count++] = a;
}

/* `special`: puts it into one channel of one token, where it is not 0. */
static inline void give_tokens(struct world *w, struct launch *l, int source, double special)
{
  struct tile_array a =
      new_tokens(w, l, source == 0 ? "k" : "v", w->type, w->spec->kv_heads, channels_of(w, source));
  bool rotates = source == 0 && w->spec->has_rotary && !w->spec->cache.rope_on_read;
  for (int64_t b = 0; b < BATCH; b++)
    for (int64_t r = 0; r < l->added[b]; r++)
      for (int64_t g = 0; g < w->spec->kv_heads; g++) {
        double *x = token_at(w, source, b, w->old_lengths[b] + r, g);
        static const double equal[] = {0, 0.75, 1e-44}; /* now and then all are */
        uint32_t kind = draw(w, 12);
        double size = draw_real(w);
        for (uint32_t c = 0; c < channels_of(w, source); c++) {
          int64_t k = new_element(w, l, &a, b, g, r, c);
          tile_array_set(&a, k, kind < 3 ? equal[kind] : size * draw_real(w));
          if (special != 0 && b == 1 && r == 1 && g == 0 && c == 2)
            tile_array_set(&a, k, special);
          x[c] = tile_array_get(&a, k);
        }
        if (rotates)
          rotate(w, key_position(w, l, b, r), x);
      }
  add_array(l, a);
}

static inline void give_input(struct world *w, struct launch *l, uint32_t input)
{
  const struct spec_input *declared = &w->spec->inputs[input];
  int64_t sizes[SPEC_MAX_RANK], gaps[SPEC_MAX_RANK] = {0};
  uint32_t rank = 0;
  expr_set_int(w->evaluator, EXPR_VAR_SIZE_NK, l->most);
  if (w->packed)
    sizes[rank++] = l->starts[BATCH];
  for (uint32_t d = 0; d < declared->rank; d++) {
    enum dim_kind kind = declared->dims[d].kind;
    if (!w->packed || (kind != DIM_B && kind != DIM_NK))
      sizes[rank++] = expr_evaluate(w->evaluator, declared->dims[d].size).i;
  }
  enum dtype type = declared->type == DTYPE_SPEC ? w->type : declared->type;
  w->inputs[input] = tile_array_new(declared->name, type, rank, sizes, gaps);
  tile_array_fill(&w->inputs[input], w->random);
  add_array(l, w->inputs[input]);
}

static inline void give_rotary(struct world *w, struct launch *l)
{
  uint32_t n = w->spec->dim_qk;
  struct rotary_tables tables = {.turns = ARENA_ARRAY(&w->arena, int32_t, n),
                                 .rest = ARENA_ARRAY(&w->arena, float, n),
                                 .cosine = ARENA_ARRAY(&w->arena, float, n),
                                 .sine = ARENA_ARRAY(&w->arena, float, n)};
  ck_assert(unit_rotary_tables(w->spec, w->evaluator, &tables));
  static const char *const names[] = {"rotary_turns", "rotary_rest", "rotary_cosine",
                                      "rotary_sine"};
  const float *reals[] = {NULL, tables.rest, tables.cosine, tables.sine};
  for (int k = 0; k < 4; k++) {
    int64_t size = n;
    struct tile_array a = tile_array_new(names[k], k == 0 ? DTYPE_I32 : DTYPE_F32, 1, &size, NULL);
    for (uint32_t c = 0; c < n; c++)
      tile_array_set(&a, c, k == 0 ? tables.turns[c] : (double)reals[k][c]);
    add_array(l, a);
  }
  int64_t packed[] = {BATCH * l->most, w->spec->kv_heads, n};
  int64_t sizes[] = {BATCH, w->spec->kv_heads, l->most, n};
  add_array(l, w->packed ? tile_array_new("k_rotated", DTYPE_F32, 3, packed, NULL)
                         : tile_array_new("k_rotated", DTYPE_F32, 4, sizes, NULL));
}

/* How many tokens each sequence gets: none, one, a few, many. All the same where new tokens are not
 * packed, and so are then the lengths. */
static inline void draw_added(struct world *w, struct launch *l)
{
  static const uint32_t most[] = {1, 1, 2, 6, 17, MOST_ADDED};
  uint32_t common = 1 + draw(w, most[draw(w, 6)]);
  l->starts[0] = 0;
  for (int64_t b = 0; b < BATCH; b++) {
    int64_t n = w->packed ? draw(w, 1 + most[draw(w, 6)]) : common;
    int64_t room = (w->spec->cache.layout == CACHE_RING ? 400 : SLOTS) - w->lengths[b];
    l->added[b] = n < room ? n : room;
    l->most = l->added[b] > l->most ? l->added[b] : l->most;
    l->starts[b + 1] = l->starts[b] + l->added[b];
  }
}

static inline void set_lengths(struct world *w, const struct launch *l)
{
  struct tile_array *lengths = cached(w, EXPR_TENSOR_K, CACHE_LENGTHS);
  struct tile_array *seen = cached(w, EXPR_TENSOR_K, CACHE_SEEN);
  bool ring = w->spec->cache.layout == CACHE_RING;
  for (int64_t b = 0; b < BATCH; b++) {
    w->old_lengths[b] = w->lengths[b];
    w->lengths[b] += l->added[b];
    int64_t kept = w->spec->cache.sinks + w->spec->cache.capacity;
    bool counts_kept = ring && seen != NULL && w->lengths[b] > kept;
    tile_array_set(lengths, b, (double)(counts_kept ? kept : w->lengths[b]));
    if (seen != NULL) /* of others some have been evicted */
      tile_array_set(seen, b, (double)(w->lengths[b] + (ring ? 0 : 5 * b)));
  }
}

/* Binds and runs. The cache's arrays go in and out by value. Gives whether a fault was recorded. */
static inline bool run_launch(struct world *w, struct launch *l)
{
  bool paged = w->spec->cache.layout == CACHE_PAGED;
  const struct tile_argument params[] = {
      {"B", BATCH},
      {"NK", (double)l->most},
      {"size_table", paged ? (double)pages_of(w) : 0},
      {"size_pages", paged ? (double)(BATCH * pages_of(w) + 2) : 0},
      {"size_slots", SLOTS}};
  l->own = l->count;
  for (uint32_t n = 0; n < w->plan->count; n++) {
    memcpy(w->before[n].map, w->cache[n].map, w->cache[n].bytes);
    memset(w->written[n], 0, (size_t)w->cache[n].count * sizeof(bool));
    add_array(l, w->cache[n]);
  }
  if (w->table.data != NULL)
    add_array(l, w->table);
  struct tile_launch launch = {l->arrays, l->count, params, 5, {0}};
  const char *error = tile_run(&w->code, &launch);
  ck_assert_msg(error == NULL, "%s\n%s", w->text, error);
  return launch.fault.raised != 0;
}

static inline void give_starts(struct launch *l)
{
  int64_t size = BATCH + 1;
  struct tile_array a = tile_array_new("query_starts", DTYPE_I64, 1, &size, NULL);
  for (int64_t b = 0; b <= BATCH; b++)
    tile_array_set(&a, b, (double)l->starts[b]);
  add_array(l, a);
}

static inline void give_all(struct world *w, struct launch *l, double special)
{
  for (uint32_t n = 0; n < w->spec->input_count; n++)
    if (w->spec->inputs[n].cached)
      give_input(w, l, n);
  give_tokens(w, l, 0, special);
  if (!w->spec->value_is_key)
    give_tokens(w, l, 1, special);
  if (w->spec->has_rotary)
    give_rotary(w, l);
  give_starts(l);
}

static inline void free_launch(struct launch *l)
{
  for (size_t k = 0; k < l->own; k++)
    tile_array_free(&l->arrays[k]);
}

#endif
