#include "compiler/build/access.h"

static const struct cache_tensor *tensor_of(const struct build *b, uint32_t n)
{
  return &b->cache->tensors[n];
}

static uint32_t find(const struct build *b, uint32_t source, enum cache_part part)
{
  return (uint32_t)cache_plan_find(b->cache, source, part);
}

static const struct expr *integer(const struct build *b, int64_t value)
{
  return expr_int(b->pool, value);
}

static const struct expr *read_as(struct build *b, uint32_t n, enum expr_type type,
                                  const struct expr *const *indices)
{
  return expr_read(b->pool, EXPR_TENSOR_CACHE + n, type, indices, tensor_of(b, n)->rank);
}

const struct expr *access_read(struct build *b, uint32_t n, const struct expr *const *indices)
{
  return read_as(b, n, EXPR_INT, indices);
}

/* ---- tokens and slots ---- */

const struct expr *access_total(struct build *b, const struct expr *sequence)
{
  bool seen = cache_layout(b->cache->spec) == CACHE_RING &&
              b->cache->spec->cache.positions == CACHE_POSITIONS_STORED;
  return access_read(b, find(b, EXPR_TENSOR_K, seen ? CACHE_SEEN : CACHE_LENGTHS), &sequence);
}

const struct expr *access_length(struct build *b, const struct expr *sequence)
{
  const struct spec *spec = b->cache->spec;
  struct expr_pool *pool = b->pool;
  const struct expr *length = access_read(b, find(b, EXPR_TENSOR_K, CACHE_LENGTHS), &sequence);
  switch (cache_layout(spec)) {
  case CACHE_PAGED: {
    const struct expr *table = expr_convert(pool, build_launch_size(b, BUILD_TABLE), EXPR_LONG);
    const struct expr *room = expr_mul(pool, table, expr_long(pool, spec->cache.page));
    length =
        expr_convert(pool, expr_min(pool, expr_convert(pool, length, EXPR_LONG), room), EXPR_INT);
    break;
  }
  case CACHE_RING:
    if (spec->cache.positions != CACHE_POSITIONS_ORIGINAL)
      length = expr_min(pool, length, integer(b, cache_ring_tokens(spec)));
    break;
  case CACHE_NONE:
  case CACHE_RAGGED:
  case CACHE_DENSE: length = expr_min(pool, length, build_launch_size(b, BUILD_SLOTS)); break;
  }
  return expr_max(pool, expr_min(pool, length, build_launch_size(b, BUILD_NK)), integer(b, 0));
}

/* How many tokens a ring has lost before rank `sinks`; NULL where keys are tokens. */
static const struct expr *lost(struct build *b, const struct expr *sequence)
{
  const struct spec *spec = b->cache->spec;
  if (cache_layout(spec) != CACHE_RING || spec->cache.positions == CACHE_POSITIONS_ORIGINAL)
    return NULL;
  const struct expr *total = access_total(b, sequence);
  const struct expr *more = expr_sub(b->pool, total, integer(b, cache_ring_tokens(spec)));
  return expr_max(b->pool, more, integer(b, 0));
}

const struct expr *access_token(struct build *b, const struct expr *sequence,
                                const struct expr *key)
{
  const struct expr *gone = lost(b, sequence);
  if (gone == NULL)
    return key;
  uint32_t sinks = b->cache->spec->cache.sinks;
  const struct expr *moved = expr_add(b->pool, key, gone);
  if (sinks == 0)
    return moved;
  return expr_select(b->pool, expr_binary(b->pool, EXPR_LT, key, integer(b, sinks)), key, moved);
}

/* Token x's slot among `count` that are written round and round. Of a single one it is written so
 * that it still seems to vary along tokens: tiles of them have rows in a dimension. */
static const struct expr *round_slot(struct build *b, const struct expr *x, uint32_t count)
{
  if (count == 1)
    return expr_min(b->pool, x, integer(b, 0));
  return expr_binary(b->pool, EXPR_MOD, x, integer(b, count));
}

/* Of a ring's tokens. */
static const struct expr *ring_slot(struct build *b, const struct expr *token)
{
  const struct spec_cache *cache = &b->cache->spec->cache;
  struct expr_pool *pool = b->pool;
  const struct expr *sinks = integer(b, cache->sinks);
  const struct expr *newer = round_slot(b, expr_sub(pool, token, sinks), cache->capacity);
  if (cache->sinks == 0)
    return newer;
  return expr_select(pool, expr_binary(pool, EXPR_LT, token, sinks), token,
                     expr_add(pool, sinks, newer));
}

static uint32_t slot_of(struct build *b, const struct expr *sequence, const struct expr *token,
                        const struct expr **indices)
{
  struct expr_pool *pool = b->pool;
  const struct spec *spec = b->cache->spec;
  indices[0] = sequence;
  indices[1] = token;
  switch (cache_layout(spec)) {
  case CACHE_PAGED: {
    const struct expr *page = integer(b, spec->cache.page);
    const struct expr *entry[] = {sequence, expr_quotient(pool, token, page)};
    indices[0] = access_read(b, find(b, EXPR_TENSOR_K, CACHE_PAGE_TABLE), entry);
    indices[1] = expr_binary(pool, EXPR_MOD, token, page);
    break;
  }
  case CACHE_RING: indices[1] = ring_slot(b, token); break;
  case CACHE_NONE:
  case CACHE_RAGGED:
  case CACHE_DENSE: break;
  }
  return 2;
}

uint32_t access_slot(struct build *b, uint32_t n, const struct expr *sequence,
                     const struct expr *token, const struct expr **indices)
{
  const struct cache_tensor *tensor = tensor_of(b, n);
  struct expr_pool *pool = b->pool;
  bool scale = tensor->part == CACHE_SCALE || tensor->part == CACHE_ZERO;
  const struct spec_storage *storage =
      scale || tensor->part == CACHE_RECENT ? cache_storage(b->cache->spec, tensor->source) : NULL;
  if (tensor->part == CACHE_RECENT) {
    indices[0] = sequence;
    indices[1] = round_slot(b, token, storage->residual);
    return 2;
  }
  bool by_channel = scale && storage->axis == CACHE_AXIS_CHANNEL;
  if (by_channel && storage->group == 0)
    return 0;
  slot_of(b, sequence, token, indices);
  if (by_channel)
    indices[1] = expr_quotient(pool, indices[1], integer(b, storage->group));
  return 2;
}

const struct expr *access_recent_from(struct build *b, uint32_t source, const struct expr *total)
{
  const struct spec_storage *storage = cache_storage(b->cache->spec, source);
  const struct expr *residual = integer(b, storage->residual);
  const struct expr *newest = storage->axis == CACHE_AXIS_CHANNEL
                                  ? expr_binary(b->pool, EXPR_MOD, total, residual)
                                  : residual;
  return expr_max(b->pool, expr_sub(b->pool, total, newest), integer(b, 0));
}

/* access_recent_from as a key; NULL without a residual. */
static const struct expr *recent_from(struct build *b, uint32_t source, const struct expr *sequence)
{
  const struct spec_storage *storage = cache_storage(b->cache->spec, source);
  if (storage->residual == 0)
    return NULL;
  const struct expr *from = access_recent_from(b, source, access_total(b, sequence));
  const struct expr *gone = lost(b, sequence);
  return gone == NULL ? from : expr_sub(b->pool, from, gone);
}

const struct expr *access_recent_keys(struct build *b)
{
  if (!b->reads_cache)
    return NULL;
  const struct expr *sequence = build_var(b, EXPR_VAR_B);
  const struct expr *k = recent_from(b, EXPR_TENSOR_K, sequence);
  const struct expr *v =
      b->cache->spec->value_is_key ? NULL : recent_from(b, EXPR_TENSOR_V, sequence);
  return k == NULL ? v : v == NULL ? k : expr_min(b->pool, k, v);
}

/* ---- elements ---- */

bool access_is_cached(const struct build *b, uint32_t tensor)
{
  if (!b->reads_cache)
    return false;
  if (tensor == EXPR_TENSOR_K || tensor == EXPR_TENSOR_V)
    return true;
  if (tensor < EXPR_TENSOR_INPUT || tensor >= EXPR_TENSOR_CACHE)
    return false;
  uint32_t input = tensor - EXPR_TENSOR_INPUT;
  return input >= b->added_inputs || b->spec->inputs[input].cached;
}

/* What a READ's indices mean. */
struct place {
  const struct expr *sequence, *key;
  const struct expr *others[SPEC_MAX_RANK]; /* of the tensor's own dimensions, after the slots */
  uint32_t other_count;
};

/* Indices that are not the key at hand are kept inside the sequence, as those of other tensors are
 * kept inside the tensor. */
static const struct expr *key_inside(struct build *b, const struct expr *key)
{
  if (expr_is_var(key, EXPR_VAR_J))
    return key;
  const struct expr *last = expr_sub(b->pool, build_var(b, EXPR_VAR_SIZE_NK), integer(b, 1));
  const struct expr *first = expr_convert(b->pool, integer(b, 0), key->type);
  last = expr_convert(b->pool, last, key->type); /* an index may be LONG */
  return expr_convert(b->pool, expr_max(b->pool, expr_min(b->pool, key, last), first), EXPR_INT);
}

static struct place place_of(struct build *b, const struct expr *read)
{
  struct place place = {.sequence = build_var(b, EXPR_VAR_B)};
  struct storage storage;
  build_storage(b, (uint32_t)read->value.i, &storage);
  for (uint32_t k = 0; k < storage.rank; k++) {
    enum dim_kind kind = storage.dims[k].kind;
    if (k == storage.batch) {
      if (!expr_is_var(read->args[k], EXPR_VAR_B))
        build_unsupported(b, read->span, "the cache of another sequence");
    } else if (kind == DIM_NK && place.key == NULL) {
      place.key = key_inside(b, read->args[k]);
    } else {
      place.others[place.other_count++] = read->args[k];
    }
  }
  return place;
}

/* An element of plan tensor n at that place. */
static const struct expr *element(struct build *b, uint32_t n, enum expr_type type,
                                  const struct place *place)
{
  const struct expr *indices[SPEC_MAX_RANK];
  const struct expr *token = access_token(b, place->sequence, place->key);
  uint32_t count = access_slot(b, n, place->sequence, token, indices);
  for (uint32_t k = 0; k < place->other_count; k++)
    indices[count++] = place->others[k];
  return read_as(b, n, type, indices);
}

static const struct expr *scale_of(struct build *b, enum cache_part part, uint32_t source,
                                   const struct place *place)
{
  const struct spec_storage *storage = cache_storage(b->cache->spec, source);
  struct place own = *place;
  const struct expr **channel = &own.others[own.other_count - 1];
  if (storage->axis == CACHE_AXIS_TOKEN)
    *channel = storage->group == 0 ? integer(b, 0)
                                   : expr_quotient(b->pool, *channel, integer(b, storage->group));
  return element(b, find(b, source, part), EXPR_FLOAT, &own);
}

static const struct expr *code_value(struct build *b, uint32_t source, const struct place *place)
{
  const struct spec_storage *storage = cache_storage(b->cache->spec, source);
  uint32_t data = find(b, source, CACHE_DATA);
  if (storage->table == 0)
    return element(b, data, EXPR_FLOAT, place);
  const struct expr *code = element(b, data, EXPR_INT, place);
  const struct expr *entry =
      expr_add(b->pool, code, integer(b, 1 << (cache_element_bits(storage->type) - 1)));
  return expr_read(b->pool, storage->table, EXPR_FLOAT, &entry, 1);
}

static void parts_of_source(struct build *b, uint32_t source, const struct place *place,
                            struct access_parts *parts)
{
  const struct spec *spec = b->cache->spec;
  const struct spec_storage *storage = cache_storage(spec, source);
  struct expr_pool *pool = b->pool;
  parts->data = parts->codes = code_value(b, source, place);
  if (cache_is_quantised(storage)) {
    parts->scale = scale_of(b, CACHE_SCALE, source, place);
    parts->codes = expr_mul(pool, parts->codes, parts->scale);
    if (storage->asymmetric)
      parts->codes = expr_add(pool, parts->codes, scale_of(b, CACHE_ZERO, source, place));
  }
  if (storage->residual > 0 && !(b->before_recent && expr_is_var(place->key, EXPR_VAR_J))) {
    parts->recent = element(b, find(b, source, CACHE_RECENT), EXPR_FLOAT, place);
    parts->from = recent_from(b, source, place->sequence);
    parts->key = place->key;
  }
  parts->channels = cache_channels(spec, source);
  parts->channel = place->others[place->other_count - 1];
  int32_t rest = cache_plan_find(b->cache, source, CACHE_REST);
  if (rest != CACHE_NONE_SUCH) {
    struct place beyond = *place;
    beyond.others[beyond.other_count - 1] =
        expr_sub(pool, parts->channel, integer(b, parts->channels));
    parts->rest = element(b, (uint32_t)rest, EXPR_FLOAT, &beyond);
  }
}

void access_parts(struct build *b, const struct expr *read, struct access_parts *parts)
{
  uint32_t tensor = (uint32_t)read->value.i;
  struct place place = place_of(b, read);
  *parts = (struct access_parts){0};
  if (tensor == EXPR_TENSOR_K || tensor == EXPR_TENSOR_V) {
    parts_of_source(b, tensor, &place, parts);
    return;
  }
  uint32_t input = tensor - EXPR_TENSOR_INPUT;
  if (input == b->added_inputs + 1)
    parts->codes = access_read(b, find(b, EXPR_TENSOR_K, CACHE_SEEN), &place.sequence);
  else if (input == b->added_inputs)
    parts->codes = element(b, find(b, EXPR_TENSOR_K, CACHE_POSITIONS), EXPR_INT, &place);
  else
    parts->codes = element(b, find(b, tensor, CACHE_DATA), read->type, &place);
  parts->data = parts->codes;
}

const struct expr *access_before_rest(struct build *b, const struct access_parts *parts)
{
  if (parts->recent == NULL)
    return parts->codes;
  return expr_select(b->pool, expr_binary(b->pool, EXPR_LE, parts->from, parts->key), parts->recent,
                     parts->codes);
}

const struct expr *access_element(struct build *b, const struct expr *read)
{
  struct access_parts parts;
  access_parts(b, read, &parts);
  const struct expr *e = access_before_rest(b, &parts);
  if (parts.rest == NULL)
    return e;
  const struct expr *coded =
      expr_binary(b->pool, EXPR_LT, parts.channel, integer(b, parts.channels));
  return expr_select(b->pool, coded, e, parts.rest);
}

/* ---- indices along a tile ---- */

struct run {
  enum access_along along;
  bool aligned; /* a multiple of b->columns, at the tile's first key */
};

static struct run run_of(const struct build *b, const struct expr *e, unsigned depth)
{
  enum { DEEPEST = 32 };
  const struct run any = {ACCESS_ANY, false};
  const int64_t columns = b->columns;
  if (!expr_depends(e, EXPR_VAR_J))
    return (struct run){ACCESS_SAME, e->op == EXPR_CONST && e->value.i % columns == 0};
  if (expr_is_var(e, EXPR_VAR_J))
    return (struct run){ACCESS_ONE_BY_ONE, true};
  if (depth == DEEPEST)
    return any;
  struct run args[3] = {0};
  bool same = e->arg_count <= 3;
  for (uint32_t k = 0; k < e->arg_count && k < 3; k++) {
    args[k] = run_of(b, e->args[k], depth + 1);
    same &= args[k].along == ACCESS_SAME;
  }
  struct run x = args[0], y = args[1];
  bool steps = x.along == ACCESS_ONE_BY_ONE && x.aligned;
  bool steps_y = y.along == ACCESS_ONE_BY_ONE && y.aligned;
  if (same)
    return (struct run){ACCESS_SAME, false};
  switch ((int)e->op) {
  case EXPR_CONVERT: return e->type == EXPR_INT || e->type == EXPR_LONG ? x : any;
  case EXPR_ADD:
    if (x.along + y.along == ACCESS_ONE_BY_ONE)
      return (struct run){ACCESS_ONE_BY_ONE, x.aligned && y.aligned};
    return any;
  case EXPR_SUB:
    if (x.along == ACCESS_ONE_BY_ONE && y.along == ACCESS_SAME)
      return (struct run){ACCESS_ONE_BY_ONE, x.aligned && y.aligned};
    return any;
  /* Tiles of keys do not cross a multiple of y. */
  case EXPR_FLOORDIV:
  case EXPR_MOD:
    if (!steps || !y.aligned || e->args[1]->op != EXPR_CONST || e->args[1]->value.i <= 0)
      return any;
    return e->op == EXPR_MOD ? x : (struct run){ACCESS_SAME, false};
  case EXPR_LT: return steps && y.aligned ? (struct run){ACCESS_SAME, false} : any;
  case EXPR_LE: return steps_y && x.aligned ? (struct run){ACCESS_SAME, false} : any;
  case EXPR_SELECT:
    if (x.along == ACCESS_SAME && y.along == args[2].along)
      return (struct run){y.along, y.aligned && args[2].aligned};
    return any;
  default: return any;
  }
}

enum access_along access_along(const struct build *b, const struct expr *index)
{
  return run_of(b, index, 0).along;
}
