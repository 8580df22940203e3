/* Tokens of K or V as scales, zeros and codes: the formulas of docs/caches.md, "Storage". A tile
 * shares one scale a row (axis = token) or one a column (axis = channel). */
#include "compiler/build/access.h"
#include "compiler/build/append.h"
#include "compiler/build/rows.h"

enum {
  PIECE = 64,     /* channels of a tile that has a scale for each */
  MOST_ROWS = 256 /* tokens that share a scale are rows of one tile */
};

/* The codes of a storage type. */
struct codec {
  struct build *b;
  const struct spec_storage *storage;
  uint32_t axis; /* of the reduction that finds a scale: 1 along a row */
  uint32_t bits; /* of a code that is an integer; 0 of one that is a small real */
  double most;   /* the largest code of a symmetric type */
  bool narrow;   /* scale and zero are f16 */
};

static struct codec codec_of(struct build *b, const struct spec_storage *storage)
{
  struct codec codec = {.b = b, .storage = storage};
  codec.axis = storage->axis == CACHE_AXIS_TOKEN ? 1 : 0;
  switch ((int)storage->type) {
  case DTYPE_E4M3: codec.most = 448; return codec;
  case DTYPE_E5M2: codec.most = 57344; return codec;
  }
  codec.bits = cache_element_bits(storage->type);
  codec.most = (double)((1 << (codec.bits - 1)) - 1);
  codec.narrow = codec.bits < 8;
  return codec;
}

/* ---- formulas ---- */

static const struct expr *real(struct build *b, double value)
{
  return expr_float(b->pool, value);
}

static const struct expr *x_of(struct build *b, uint32_t operand)
{
  return expr_arg(b->pool, operand, EXPR_FLOAT);
}

/* Rounds to the type that a scale is stored in. Beyond its range the largest number stays finite,
 * so that codes stop at their ends; NaN stays what it is. */
static struct tile_value *as_stored(const struct codec *codec, struct tile_value *x)
{
  if (!codec->narrow)
    return x;
  struct build *b = codec->b;
  const struct expr *most = real(b, 65504), *least = real(b, -65504);
  const struct expr *e =
      expr_select(b->pool, expr_binary(b->pool, EXPR_LT, most, x_of(b, 0)), most, x_of(b, 0));
  e = expr_select(b->pool, expr_binary(b->pool, EXPR_LT, x_of(b, 0), least), least, e);
  x = row_map(&b->tile, e, 1, x);
  struct tile_type type = tile_type_tile(TILE_F16, x->type.rows, x->type.columns);
  return tile_op_new(&codec->b->tile, TILE_CONVERT, &x, 1, &type, 1)->results[0];
}

static struct tile_value *extreme(const struct codec *codec, enum tile_reduction reduction,
                                  struct tile_value *x)
{
  return tile_reduce(&codec->b->tile, reduction, codec->axis, x);
}

/* 0, and NaN where one of the x is not finite: reductions pass a NaN over, but it has to show. */
static struct tile_value *undefined(const struct codec *codec, struct tile_value *x)
{
  struct build *b = codec->b;
  const struct expr *nothing = expr_mul(b->pool, x_of(b, 0), real(b, 0));
  return extreme(codec, TILE_REDUCE_SUM, row_map(&b->tile, nothing, 1, x));
}

/* scale, and zero where the storage is asymmetric, else NULL */
static struct tile_value *find_scale(const struct codec *codec, struct tile_value *x,
                                     struct tile_value **zero)
{
  struct build *b = codec->b;
  struct expr_pool *pool = b->pool;
  struct tile_builder *t = &b->tile;
  struct tile_value *shown = undefined(codec, x);
  *zero = NULL;
  if (!codec->storage->asymmetric) {
    struct tile_value *size = row_map(t, expr_unary(pool, EXPR_ABS, x_of(b, 0)), 1, x);
    const struct expr *e = expr_binary(pool, EXPR_DIV, x_of(b, 0), real(b, codec->most));
    e = expr_add(pool, e, x_of(b, 1));
    return as_stored(codec, row_map(t, e, 2, extreme(codec, TILE_REDUCE_MAX, size), shown));
  }
  struct tile_value *low = extreme(codec, TILE_REDUCE_MIN, x);
  struct tile_value *high = extreme(codec, TILE_REDUCE_MAX, x);
  const double steps = (double)((1 << codec->bits) - 1), half = (double)(1 << (codec->bits - 1));
  const struct expr *e = expr_sub(pool, x_of(b, 0), x_of(b, 1));
  e = expr_add(pool, expr_binary(pool, EXPR_DIV, e, real(b, steps)), x_of(b, 2));
  struct tile_value *scale = as_stored(codec, row_map(t, e, 3, high, low, shown));
  e = expr_add(pool, x_of(b, 0), expr_mul(pool, x_of(b, 1), real(b, half)));
  *zero = as_stored(codec, row_map(t, e, 2, low, scale));
  return scale;
}

/* i32: the integer nearest to x, ARG 0, that is a code. */
static const struct expr *nearest_integer(const struct codec *codec, const struct expr *x)
{
  struct build *b = codec->b;
  struct expr_pool *pool = b->pool;
  int32_t most = (int32_t)codec->most, low = codec->storage->asymmetric ? -most - 1 : -most;
  const struct expr *code = expr_unary(pool, EXPR_FLOOR, expr_add(pool, x, real(b, 0.5)));
  code = expr_binary(pool, EXPR_MAX, code, expr_int(pool, low));
  return expr_binary(pool, EXPR_MIN, code, expr_int(pool, most));
}

/* The same for codes that are places in a table, less 2^(bits - 1): as many as there are middles of
 * neighbours below x. */
static const struct expr *nearest_entry(const struct codec *codec, const struct expr *x)
{
  struct build *b = codec->b;
  struct expr_pool *pool = b->pool;
  const uint32_t level = EXPR_MAX_LEVEL; /* nothing inside binds */
  uint32_t table = build_tensor(b, codec->storage->table);
  const struct expr *at = expr_bound(pool, level);
  const struct expr *after = expr_add(pool, at, expr_int(pool, 1));
  const struct expr *middle = expr_add(pool, expr_read(pool, table, EXPR_FLOAT, &at, 1),
                                       expr_read(pool, table, EXPR_FLOAT, &after, 1));
  middle = expr_mul(pool, middle, real(b, 0.5));
  const struct expr *below =
      expr_binder(pool, EXPR_COUNT, level, expr_int(pool, (1 << codec->bits) - 1),
                  expr_binary(pool, EXPR_LT, middle, x));
  return expr_sub(pool, below, expr_int(pool, 1 << (codec->bits - 1)));
}

/* Codes of x: i32, or f32 where they are small reals. 0 where the scale is 0 or not a number. */
static struct tile_value *find_codes(const struct codec *codec, struct tile_value *x,
                                     struct tile_value *scale, struct tile_value *zero)
{
  struct build *b = codec->b;
  struct expr_pool *pool = b->pool;
  const struct expr *e = x_of(b, 0);
  if (zero != NULL)
    e = expr_sub(pool, e, x_of(b, 2));
  e = expr_binary(pool, EXPR_DIV, e, x_of(b, 1));
  if (codec->bits > 0)
    e = codec->storage->table != 0 ? nearest_entry(codec, e) : nearest_integer(codec, e);
  const struct expr *has_codes = expr_binary(pool, EXPR_LT, real(b, 0), x_of(b, 1));
  const struct expr *none = codec->bits > 0 ? expr_int(pool, 0) : real(b, 0);
  e = expr_select(pool, has_codes, e, none);
  return row_map(&b->tile, e, zero == NULL ? 2 : 3, x, scale, zero);
}

/* Column m holds in a byte the codes of columns m * per on, the first in the lowest bits. */
static struct tile_value *pack(const struct codec *codec, struct tile_value *codes)
{
  struct build *b = codec->b;
  struct expr_pool *pool = b->pool;
  uint32_t per = 8 / codec->bits, columns = codes->type.columns;
  uint32_t bytes = (columns + per - 1) / per;
  struct tile_value *parts[4];
  const struct expr *byte = NULL;
  for (uint32_t k = 0; k < per; k++) {
    uint32_t *table = ARENA_ARRAY(b->arena, uint32_t, bytes);
    for (uint32_t c = 0; c < bytes; c++)
      table[c] = (c * per + k) % columns;
    parts[k] = tile_permute(&b->tile, codes, table, bytes);
    const struct expr *code = expr_binary(pool, EXPR_BIT_AND, expr_arg(pool, k, EXPR_INT),
                                          expr_int(pool, (1 << codec->bits) - 1));
    code = expr_binary(pool, EXPR_SHIFT_LEFT, code, expr_int(pool, k * codec->bits));
    byte = byte == NULL ? code : expr_binary(pool, EXPR_BIT_OR, byte, code);
  }
  return tile_map(&b->tile, TILE_I32, byte, parts, per);
}

/* ---- the kernel ---- */

struct tokens {
  struct build *b;
  uint32_t source;
  const struct spec_storage *storage;
  const struct expr *first_new; /* INT */
  struct append_columns columns;
};

static struct append_range quantised_tokens(struct build *b, uint32_t source)
{
  struct expr_pool *pool = b->pool;
  const struct spec_storage *storage = cache_storage(b->spec, source);
  struct append_range range = append_new_tokens(b, true);
  bool by_group = storage->axis == CACHE_AXIS_CHANNEL && storage->group > 0;
  if (by_group)
    range.rows = range.unit = storage->group;
  if (storage->residual == 0)
    return range;
  range.begin = access_recent_from(b, source, range.begin);
  range.end = access_recent_from(b, source, range.end);
  if (storage->axis == CACHE_AXIS_CHANNEL) { /* one block may be full already but for a token */
    const struct expr *residual = expr_long(pool, storage->residual);
    const struct expr *up =
        expr_add(pool, range.most, expr_long(pool, (int64_t)storage->residual - 1));
    range.most = expr_mul(pool, expr_binary(pool, EXPR_FLOORDIV, up, residual), residual);
  }
  return range;
}

/* Tokens of the tile that were added before lie in the residual, the others are new. */
static struct tile_value *load_tokens(const struct tokens *tokens)
{
  struct build *b = tokens->b;
  struct expr_pool *pool = b->pool;
  if (tokens->storage->residual == 0)
    return append_load(b, tokens->source, NULL, tokens->columns);
  const struct expr *token = build_var(b, EXPR_VAR_J);
  const struct expr *last = expr_sub(pool, build_var(b, EXPR_VAR_SIZE_NK), expr_int(pool, 1));
  const struct expr *row = expr_sub(pool, token, tokens->first_new);
  row = expr_binary(pool, EXPR_MAX, expr_binary(pool, EXPR_MIN, row, last), expr_int(pool, 0));
  struct tile_value *added = append_load(b, tokens->source, append_rows(b, row), tokens->columns);
  int32_t recent = cache_plan_find(b->cache, tokens->source, CACHE_RECENT);
  struct append_place place;
  append_locate(b, (uint32_t)recent, token, &place);
  append_index(&place, build_value(b, frame_scalar(), build_var(b, EXPR_VAR_G)), false);
  append_index(&place, tokens->columns.first, true);
  struct tile_value *kept = tile_load(&b->tile, added->type, place.access, place.indices,
                                      place.rank, b->live_keys, tokens->columns.live);
  struct tile_value *is_old = append_rows(b, expr_binary(pool, EXPR_LT, token, tokens->first_new));
  const struct expr *e = expr_select(pool, expr_arg(pool, 0, EXPR_BOOL), x_of(b, 1), x_of(b, 2));
  return row_map(&b->tile, e, 3, is_old, kept, added);
}

/* Scales or zeros of the tile: a column of them, one a row, or a row of them. `piece` is the tile's
 * number among those that divide the channels. */
static void locate_scales(const struct tokens *tokens, enum cache_part part,
                          struct tile_value *piece, struct append_place *place)
{
  struct build *b = tokens->b;
  int32_t n = cache_plan_find(b->cache, tokens->source, part);
  bool by_token = tokens->storage->axis == CACHE_AXIS_TOKEN;
  append_locate(b, (uint32_t)n, build_var(b, by_token ? EXPR_VAR_J : EXPR_VAR_N), place);
  append_index(place, build_value(b, frame_scalar(), build_var(b, EXPR_VAR_G)), false);
  append_index(place, by_token ? piece : tokens->columns.first, !by_token);
}

static struct tile_value *scale_columns(const struct tokens *tokens)
{
  bool by_token = tokens->storage->axis == CACHE_AXIS_TOKEN;
  return by_token ? build_value(tokens->b, frame_scalar(), expr_long(tokens->b->pool, 1))
                  : tokens->columns.live;
}

static struct tile_value *load_scales(const struct tokens *tokens, enum cache_part part)
{
  struct build *b = tokens->b;
  struct append_place place;
  locate_scales(tokens, part, NULL, &place);
  return tile_load(&b->tile, tile_type_tile(TILE_F32, 1, tokens->columns.size), place.access,
                   place.indices, place.rank, build_value(b, frame_scalar(), expr_long(b->pool, 1)),
                   tokens->columns.live);
}

static void store_scales(const struct tokens *tokens, enum cache_part part,
                         struct tile_value *piece, struct tile_value *scales)
{
  struct append_place place;
  locate_scales(tokens, part, piece, &place);
  append_store(tokens->b, &place, scales, scale_columns(tokens));
}

static void store_codes(const struct tokens *tokens, const struct codec *codec,
                        struct tile_value *codes)
{
  struct build *b = tokens->b;
  struct expr_pool *pool = b->pool;
  int32_t n = cache_plan_find(b->cache, tokens->source, CACHE_DATA);
  struct append_place place;
  append_locate(b, (uint32_t)n, build_var(b, EXPR_VAR_J), &place);
  struct append_columns columns = tokens->columns;
  if (codec->narrow) { /* the tensor's bytes */
    b->tile.kernel->tensors.items[place.number].element = DTYPE_U8;
    const struct expr *bytes = expr_binary(pool, EXPR_FLOORDIV, expr_arg(pool, 0, EXPR_LONG),
                                           expr_long(pool, 8 / codec->bits));
    columns.first = build_index(b, "byte", bytes, &columns.first, 1);
    columns.live = build_index(b, "bytes", bytes, &columns.live, 1);
    codes = pack(codec, codes);
  }
  append_index(&place, build_value(b, frame_scalar(), build_var(b, EXPR_VAR_G)), false);
  append_index(&place, columns.first, true);
  append_store(b, &place, codes, columns.live);
}

void quantise_build(struct build *b, uint32_t source)
{
  const struct spec_storage *storage = cache_storage(b->spec, source);
  struct codec codec = codec_of(b, storage);
  build_open_kernel(b, source == EXPR_TENSOR_K ? "quantise_k" : "quantise_v");
  uint32_t channels = cache_channels(b->spec, source), piece = channels;
  bool by_token = storage->axis == CACHE_AXIS_TOKEN;
  if (by_token && storage->group > 0)
    piece = storage->group;
  else if (!by_token && channels > PIECE)
    piece = PIECE;
  struct append_range range = quantised_tokens(b, source);
  struct tile_value *pieces = tile_index(&b->tile, (channels + piece - 1) / piece);
  struct tile_value **more = append_open(b, &range, true, &pieces, 1);

  struct tokens tokens = {.b = b, .source = source, .storage = storage};
  tokens.first_new = append_new_tokens(b, true).begin;
  tokens.columns = append_piece(b, 0, channels, piece, more[0]);
  struct tile_value *x = load_tokens(&tokens);
  struct tile_value *scale, *zero = NULL;
  if (by_token || storage->group > 0) {
    scale = find_scale(&codec, x, &zero);
    store_scales(&tokens, CACHE_SCALE, more[0], scale);
    if (zero != NULL)
      store_scales(&tokens, CACHE_ZERO, more[0], zero);
  } else { /* calibrated */
    scale = load_scales(&tokens, CACHE_SCALE);
    if (storage->asymmetric)
      zero = load_scales(&tokens, CACHE_ZERO);
  }
  store_codes(&tokens, &codec, find_codes(&codec, x, scale, zero));
  tile_end_region(&b->tile);
}

void quantise_check(struct build *b, uint32_t source)
{
  const struct spec_storage *storage = cache_storage(b->spec, source);
  if (!cache_is_quantised(storage))
    return;
  struct codec codec = codec_of(b, storage);
  struct span place = b->spec->cache.span;
  if (storage->axis == CACHE_AXIS_CHANNEL && storage->group > MOST_ROWS)
    build_unsupported(b, place, "appending with more than %d tokens a scale", (int)MOST_ROWS);
  if (storage->axis == CACHE_AXIS_TOKEN && storage->group * codec.bits % 8 != 0)
    build_unsupported(b, place, "appending groups of %u channels of %s, which share bytes",
                      storage->group, dtype_name(storage->type));
}
