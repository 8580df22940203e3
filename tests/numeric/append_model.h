/* What the append kernels must make of the tokens: the formulas of docs/caches.md, one element
 * after the other, from all tokens that a sequence was ever given. */
#ifndef ATTN_TESTS_NUMERIC_APPEND_MODEL_H
#define ATTN_TESTS_NUMERIC_APPEND_MODEL_H

#include "tests/numeric/append_world.h"

static inline int64_t capacity(const struct world *w)
{
  return w->spec->cache.layout == CACHE_RING ? INT64_MAX : SLOTS;
}

/* Whether the token has a slot when the sequence has `length`, and where. */
static inline bool slot_of(struct world *w, int64_t b, int64_t t, int64_t length, int64_t slot[2])
{
  const struct spec_cache *cache = &w->spec->cache;
  slot[0] = b;
  slot[1] = t;
  if (t < 0 || t >= capacity(w))
    return false;
  if (cache->layout == CACHE_PAGED) {
    int64_t at[] = {b, t / cache->page};
    struct tile_array *table = cached(w, EXPR_TENSOR_K, CACHE_PAGE_TABLE);
    slot[0] = (int64_t)tile_array_get(table, flat(table, at));
    slot[1] = t % cache->page;
    return true;
  }
  if (cache->layout != CACHE_RING || t < cache->sinks)
    return true;
  slot[1] = cache->sinks + (t - cache->sinks) % cache->capacity;
  return t >= length - cache->capacity;
}

static inline bool is_recent(const struct spec_storage *storage, int64_t t, int64_t length)
{
  int64_t r = storage->residual;
  if (r == 0)
    return false;
  return t >= (storage->axis == CACHE_AXIS_CHANNEL ? length - length % r : length - r);
}

/* What an element must be: within `slack` of the value (0: the value as the type rounds it). */
static inline void expect(struct world *w, int32_t n, const int64_t *indices, double value,
                          double slack)
{
  struct tile_array *a = &w->cache[n];
  int64_t k = flat(a, indices);
  double found = tile_array_get(a, k), wanted = value;
  double one[1] = {0};
  dtype_store(a->type, one, 0, value);
  wanted = dtype_load(a->type, one, 0);
  bool both_nan = isnan(found) && isnan(wanted);
  REQUIRE(both_nan || fabs(found - wanted) <= slack || found == wanted,
          "%s\n%s[%d, %d, ..] (element %d) is %.9g, not %.9g", w->text, a->name, (int)indices[0],
          (int)indices[1], (int)k, found, wanted);
  w->written[n][k] = true;
}

/* Half a step of the type near x. */
static inline double half_ulp(enum dtype type, double x)
{
  double size = fabs(x);
  switch ((int)type) {
  case DTYPE_F16: return fmax(size * 0x1p-11, 0x1p-25);
  case DTYPE_BF16: return size * 0x1p-9;
  default: return fmax(size * 0x1p-24, 0x1p-149);
  }
}

static inline double rounded(enum dtype type, double x)
{
  double one[1] = {0};
  dtype_store(type, one, 0, x);
  return dtype_load(type, one, 0);
}

/* A token as it is when it is quantised: one that was in the residual has the spec's type. */
static inline double quantised_from(const struct world *w, int64_t old_length, int64_t t, double x)
{
  return t < old_length ? rounded(w->type, x) : x;
}

struct code_place {
  int32_t data;
  int64_t indices[4]; /* the last is the channel */
};

static inline int64_t integer_code(struct world *w, const struct spec_storage *storage,
                                   const struct code_place *place, uint32_t bits)
{
  int64_t per = codes_per_byte(storage->type), at[4];
  memcpy(at, place->indices, sizeof(at));
  at[3] /= per;
  struct tile_array *a = &w->cache[place->data];
  uint32_t byte = (uint32_t)(int32_t)tile_array_get(a, flat(a, at)) & 0xff;
  uint32_t code = byte >> ((uint32_t)(place->indices[3] % per) * bits) & ((1u << bits) - 1);
  w->written[place->data][flat(a, at)] = true;
  return code >> (bits - 1) != 0 ? (int64_t)code - (1 << bits) : (int64_t)code;
}

/* The number of the table's entry that is nearest to y, less 2^(bits - 1). */
static inline int64_t table_code(const struct world *w, uint32_t bits, double y)
{
  int64_t best = 0;
  for (int64_t n = 1; n < 1 << bits; n++)
    if (fabs(tile_array_get(&w->table, n) - y) < fabs(tile_array_get(&w->table, best) - y))
      best = n;
  return best - (1 << (bits - 1));
}

/* The code of x under the scale and zero that are in the cache. */
static inline void expect_code(struct world *w, const struct spec_storage *storage,
                               const struct code_place *place, double x, double scale, double zero)
{
  double y = (x - zero) / scale;
  if (storage->type == DTYPE_E4M3 || storage->type == DTYPE_E5M2) {
    double wanted = scale > 0 ? rounded(storage->type, y) : 0;
    struct tile_array *a = &w->cache[place->data];
    double found = tile_array_get(a, flat(a, place->indices));
    double slack = fabs(y) * 1e-5 + 1e-9;
    w->written[place->data][flat(a, place->indices)] = true;
    bool tie = fabs(fabs(found - y) - fabs(wanted - y)) <= slack;
    REQUIRE(found == wanted || tie || (isnan(x) && isnan(found)), "%s\n%s: code %g of %g, not %g",
            w->text, a->name, found, y, wanted);
    return;
  }
  uint32_t bits = cache_element_bits(storage->type);
  int64_t half = 1 << (bits - 1), most = half - 1, low = storage->asymmetric ? -half : -most;
  int64_t found = integer_code(w, storage, place, bits), wanted = 0;
  if (scale > 0 && isfinite(y)) {
    double nearest = floor(y + 0.5);
    wanted = (int64_t)fmax(fmin(nearest, (double)most), (double)low);
    if (storage->table != 0)
      wanted = table_code(w, bits, y);
  }
  /* Rounding of x / scale may take it to the other side of a step. */
  double off = fabs(y - (double)wanted) - 0.5;
  bool close = llabs(found - wanted) == 1 && fabs(off) < 1e-4 * fabs(y) + 1e-6;
  if (storage->table != 0 && found != wanted) {
    double d = fabs(tile_array_get(&w->table, found + half) - y);
    close = fabs(d - fabs(tile_array_get(&w->table, wanted + half) - y)) < 1e-4;
  }
  bool any = scale > 0 && !isfinite(y);
  REQUIRE(found == wanted || close || any, "%s\n%s[%d, %d, %d, %d]: code %d of %.9g, not %d",
          w->text, w->cache[place->data].name, (int)place->indices[0], (int)place->indices[1],
          (int)place->indices[2], (int)place->indices[3], (int)found, y, (int)wanted);
  /* What is read back is near what was given. */
  double value = storage->table != 0 ? tile_array_get(&w->table, found + half) : (double)found;
  bool inside = storage->table == 0 && storage->axis == CACHE_AXIS_TOKEN;
  bool saturated = bits < 8 && (scale >= 65504 || fabs(zero) >= 65504);
  if (inside && isfinite(scale) && isfinite(x) && !saturated) {
    double bound = scale * (0.5 + (double)half * 0x1p-10) + 2 * half_ulp(w->type, x) +
                   half_ulp(DTYPE_F16, zero);
    REQUIRE(fabs(value * scale + zero - x) <= bound, "%s\n%g became %g * %g + %g", w->text, x,
            value, scale, zero);
  }
}

/* The scale (and zero) of a set of elements, from their extremes. */
struct extremes {
  double low, high;
  bool undefined;
};

static inline void widen(struct extremes *e, double x)
{
  e->undefined |= !isfinite(x);
  e->low = fmin(e->low, x);
  e->high = fmax(e->high, x);
}

static inline struct extremes nothing(void)
{
  return (struct extremes){(double)INFINITY, -(double)INFINITY, false};
}

static inline double expected_scale(const struct spec_storage *storage, const struct extremes *e)
{
  double size = fmax(fabs(e->low), fabs(e->high));
  if (e->undefined)
    return (double)NAN;
  if (storage->type == DTYPE_E4M3 || storage->type == DTYPE_E5M2)
    return size / (storage->type == DTYPE_E4M3 ? 448 : 57344);
  uint32_t bits = cache_element_bits(storage->type);
  return storage->asymmetric ? (e->high - e->low) / ((1 << bits) - 1)
                             : size / ((1 << (bits - 1)) - 1);
}

/* What a scale or zero becomes in its type, but for rounding. */
static inline double in_range(enum dtype type, double x)
{
  if (type != DTYPE_F16 || isnan(x))
    return x;
  return fmax(fmin(x, 65504), -65504);
}

static inline double found_scale(struct world *w, uint32_t source, enum cache_part part,
                                 const int64_t *indices)
{
  struct tile_array *a = cached(w, source, part);
  return a == NULL ? 0 : tile_array_get(a, flat(a, indices));
}

/* Checks the scale and zero of a set of elements, and gives those that are in the cache. */
static inline void expect_scale(struct world *w, const struct spec_storage *storage,
                                uint32_t source, const int64_t *indices, const struct extremes *e,
                                double *scale, double *zero)
{
  int32_t n = cache_plan_find(w->plan, source, CACHE_SCALE);
  enum dtype type = w->plan->tensors[n].type;
  double wanted = in_range(type, expected_scale(storage, e));
  bool inexact = w->spec->has_rotary && source == EXPR_TENSOR_K;
  double more = inexact ? fmax(fabs(e->low), fabs(e->high)) * 4e-6 : 0;
  expect(w, n, indices, wanted,
         2 * half_ulp(type, wanted) + 2 * half_ulp(DTYPE_F32, wanted) + more);
  *scale = found_scale(w, source, CACHE_SCALE, indices);
  *zero = 0;
  if (!storage->asymmetric)
    return;
  n = cache_plan_find(w->plan, source, CACHE_ZERO);
  double half = 1 << (cache_element_bits(storage->type) - 1);
  double base = in_range(type, e->low + half * *scale);
  expect(w, n, indices, e->undefined ? (double)NAN : base,
         2 * half_ulp(type, base) + half_ulp(DTYPE_F32, half * *scale) * 4 + more);
  *zero = found_scale(w, source, CACHE_ZERO, indices);
}

static inline void model_by_token(struct world *w, int source, int64_t b, int64_t t)
{
  uint32_t tensor = tensor_of(source), channels = cache_channels(w->spec, tensor);
  const struct spec_storage *storage = cache_storage(w->spec, tensor);
  uint32_t group = storage->group == 0 ? channels : storage->group;
  int64_t slot[2];
  if (!slot_of(w, b, t, w->lengths[b], slot))
    return;
  for (int64_t g = 0; g < w->spec->kv_heads; g++)
    for (uint32_t first = 0; first < channels; first += group) {
      const double *x = token_at(w, source, b, t, g);
      struct extremes all = nothing();
      for (uint32_t c = first; c < first + group; c++)
        widen(&all, quantised_from(w, w->old_lengths[b], t, x[c]));
      int64_t at[] = {slot[0], slot[1], g, first / group};
      double scale, zero;
      expect_scale(w, storage, tensor, at, &all, &scale, &zero);
      for (uint32_t c = first; c < first + group; c++) {
        struct code_place place = {cache_plan_find(w->plan, tensor, CACHE_DATA),
                                   {slot[0], slot[1], g, c}};
        expect_code(w, storage, &place, quantised_from(w, w->old_lengths[b], t, x[c]), scale, zero);
      }
    }
}

/* Tokens t .. t + count - 1 share scales, or, where `calibrated`, take those that are there. */
static inline void model_by_channel(struct world *w, int source, int64_t b, int64_t t,
                                    int64_t count)
{
  uint32_t tensor = tensor_of(source), channels = cache_channels(w->spec, tensor);
  const struct spec_storage *storage = cache_storage(w->spec, tensor);
  for (int64_t g = 0; g < w->spec->kv_heads; g++)
    for (uint32_t c = 0; c < channels; c++) {
      int64_t slot[2];
      if (!slot_of(w, b, t, w->lengths[b], slot))
        return;
      struct extremes all = nothing();
      for (int64_t k = t; k < t + count; k++)
        widen(&all, quantised_from(w, w->old_lengths[b], k, token_at(w, source, b, k, g)[c]));
      double scale, zero;
      if (storage->group > 0) {
        int64_t at[] = {slot[0], slot[1] / count, g, c};
        expect_scale(w, storage, tensor, at, &all, &scale, &zero);
      } else {
        int64_t at[] = {g, c};
        scale = found_scale(w, tensor, CACHE_SCALE, at);
        zero = found_scale(w, tensor, CACHE_ZERO, at);
      }
      for (int64_t k = t; k < t + count; k++) {
        double x = quantised_from(w, w->old_lengths[b], k, token_at(w, source, b, k, g)[c]);
        slot_of(w, b, k, w->lengths[b], slot);
        struct code_place place = {cache_plan_find(w->plan, tensor, CACHE_DATA),
                                   {slot[0], slot[1], g, c}};
        expect_code(w, storage, &place, x, scale, zero);
      }
    }
}

/* A token as it was given: `count` channels from `first`. */
static inline void model_as_given(struct world *w, int source, int64_t b, int64_t t,
                                  enum cache_part part, uint32_t first, uint32_t count,
                                  const int64_t slot[2])
{
  int32_t n = cache_plan_find(w->plan, tensor_of(source), part);
  bool rotated = w->spec->has_rotary && !w->spec->cache.rope_on_read && source == 0;
  for (int64_t g = 0; g < w->spec->kv_heads; g++)
    for (uint32_t c = 0; c < count; c++) {
      int64_t at[] = {slot[0], slot[1], g, c};
      double x = token_at(w, source, b, t, g)[first + c];
      expect(w, n, at, x, rotated ? 2 * half_ulp(w->cache[n].type, x) + 4e-6 : 0);
    }
}

static inline void model_source(struct world *w, int source, int64_t b)
{
  uint32_t tensor = tensor_of(source), channels = cache_channels(w->spec, tensor);
  const struct spec_storage *storage = cache_storage(w->spec, tensor);
  int64_t length = w->lengths[b], old = w->old_lengths[b];
  bool quantised = cache_is_quantised(storage);
  bool by_group = storage->axis == CACHE_AXIS_CHANNEL && storage->group > 0;
  int64_t unit = by_group ? storage->group : 1;
  for (int64_t t = 0; t < length; t++) {
    bool now = !is_recent(storage, t, length) && (t >= old || is_recent(storage, t, old));
    int64_t slot[2], recent[] = {b, storage->residual == 0 ? 0 : t % storage->residual};
    if (quantised && now && storage->axis == CACHE_AXIS_TOKEN)
      model_by_token(w, source, b, t);
    else if (quantised && now && t % unit == 0)
      model_by_channel(w, source, b, t, unit);
    if (t >= old && is_recent(storage, t, length))
      model_as_given(w, source, b, t, CACHE_RECENT, 0, channels, recent);
    if (t < old || !slot_of(w, b, t, length, slot))
      continue;
    if (!quantised)
      model_as_given(w, source, b, t, CACHE_DATA, 0, channels, slot);
    if (channels < channels_of(w, source))
      model_as_given(w, source, b, t, CACHE_REST, channels, channels_of(w, source) - channels,
                     slot);
  }
}

/* Cached inputs of new tokens, which are in w->inputs. */
static inline void model_input(struct world *w, uint32_t input, int64_t b, const int64_t *starts)
{
  const struct spec_input *declared = &w->spec->inputs[input];
  const struct tile_array *given = &w->inputs[input];
  int32_t n = cache_plan_find(w->plan, EXPR_TENSOR_INPUT + input, CACHE_DATA);
  int64_t others = 1, slot[2];
  for (uint32_t d = 2; d < w->cache[n].rank; d++)
    others *= w->cache[n].sizes[d];
  for (int64_t t = w->old_lengths[b]; t < w->lengths[b]; t++) {
    if (!slot_of(w, b, t, w->lengths[b], slot))
      continue;
    for (int64_t k = 0; k < others; k++) {
      int64_t at[SPEC_MAX_RANK] = {slot[0], slot[1]}, from[SPEC_MAX_RANK], rest = k;
      for (uint32_t d = w->cache[n].rank; d > 2; d--) {
        at[d - 1] = rest % w->cache[n].sizes[d - 1];
        rest /= w->cache[n].sizes[d - 1];
      }
      int64_t row = t - w->old_lengths[b] + (w->packed ? starts[b] : 0);
      uint32_t other = 2, dim = 0;
      if (w->packed)
        from[dim++] = row;
      for (uint32_t d = 0; d < declared->rank; d++) {
        bool token = declared->dims[d].kind == DIM_NK || declared->dims[d].kind == DIM_B;
        if (token && w->packed)
          continue;
        from[dim++] = declared->dims[d].kind == DIM_B    ? b
                      : declared->dims[d].kind == DIM_NK ? row
                                                         : at[other++];
      }
      expect(w, n, at, tile_array_get(given, flat(given, from)), 0);
    }
  }
}

static inline void model_positions(struct world *w, int64_t b)
{
  int32_t n = cache_plan_find(w->plan, EXPR_TENSOR_K, CACHE_POSITIONS);
  struct tile_array *seen = cached(w, EXPR_TENSOR_K, CACHE_SEEN);
  for (int64_t t = w->old_lengths[b]; n != CACHE_NONE_SUCH && t < w->lengths[b]; t++) {
    int64_t slot[2];
    if (!slot_of(w, b, t, w->lengths[b], slot))
      continue;
    double position = tile_array_get(seen, b) - (double)(w->lengths[b] - t);
    expect(w, n, slot, position, 0);
  }
}

/* What the model did not write is as it was. */
static inline void check_untouched(struct world *w)
{
  for (uint32_t n = 0; n < w->plan->count; n++) {
    const struct tile_array *a = &w->cache[n], *before = &w->before[n];
    size_t size = dtype_size(a->type);
    for (int64_t k = 0; k < a->count; k++) {
      int64_t at = tile_array_offset(a, k) * (int64_t)size;
      REQUIRE(w->written[n][k] || memcmp(a->data + at, before->data + at, size) == 0,
              "%s\nelement %d of %s changed", w->text, (int)k, a->name);
    }
  }
}

static inline void append(struct world *w, struct launch *l, double special)
{
  if (l->most == 0)
    return;
  set_lengths(w, l);
  give_all(w, l, special);
  ck_assert(!run_launch(w, l));
  for (int64_t b = 0; b < BATCH; b++) {
    model_source(w, 0, b);
    if (!w->spec->value_is_key)
      model_source(w, 1, b);
    for (uint32_t n = 0; n < w->spec->input_count; n++)
      if (w->spec->inputs[n].cached)
        model_input(w, n, b, l->starts);
    model_positions(w, b);
  }
  check_untouched(w);
  free_launch(l);
}

#endif
