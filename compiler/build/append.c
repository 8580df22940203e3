/* Appending to a cache: the tokens of a task, where they come from and where they go, and the
 * kernels that store them as they are. */
#include "compiler/build/append.h"
#include "compiler/build/access.h"

#include <assert.h>

enum {
  PIECE = 64,   /* channels of a tile, where its width is free: what registers of a GPU hold */
  HOST_ROWS = 8 /* few enough for lanes along the channels, as they lie in memory */
};

/* ---- formulas ---- */

static const struct expr *arg(struct build *b, uint32_t n)
{
  return expr_arg(b->pool, n, EXPR_LONG);
}

static const struct expr *number(struct build *b, int64_t value)
{
  return expr_long(b->pool, value);
}

const struct expr *append_pieces(struct build *b, const struct expr *n, int64_t piece)
{
  return expr_quotient_up(b->pool, n, number(b, piece));
}

static const struct expr *multiple_below(struct build *b, const struct expr *n, int64_t of)
{
  if (of == 1)
    return n;
  const struct expr *count = expr_quotient(b->pool, n, number(b, of));
  return expr_mul(b->pool, count, number(b, of));
}

const struct expr *append_all_tokens(struct build *b)
{
  return access_total(b, build_var(b, EXPR_VAR_B));
}

static const struct expr *first_new(struct build *b)
{
  return expr_sub(b->pool, append_all_tokens(b), build_var(b, EXPR_VAR_SIZE_NK));
}

struct append_range append_new_tokens(struct build *b, bool stored)
{
  return (struct append_range){.begin = first_new(b),
                               .end = append_all_tokens(b),
                               .most = build_long(b, build_var(b, EXPR_VAR_SIZE_NK)),
                               .rows = b->key_rows,
                               .unit = 1,
                               .stored = stored};
}

/* Those of them that stay in the residual. */
static struct append_range recent_tokens(struct build *b, uint32_t source)
{
  struct append_range range = append_new_tokens(b, false);
  const struct expr *from = access_recent_from(b, source, append_all_tokens(b));
  const struct expr *residual = number(b, cache_storage(b->spec, source)->residual);
  range.begin = expr_max(b->pool, range.begin, from);
  range.most = expr_min(b->pool, range.most, residual);
  return range;
}

/* ---- a task ---- */

static int64_t sinks_of(const struct build *b, const struct append_range *range)
{
  bool ring = range->stored && cache_layout(b->spec) == CACHE_RING;
  return ring ? b->spec->cache.sinks : 0;
}

/* LONG: the first token that has no slot; NULL where each has one, or had. */
static const struct expr *slot_limit(struct build *b)
{
  switch (cache_layout(b->spec)) {
  case CACHE_PAGED:
    return expr_mul(b->pool, build_long(b, build_launch_size(b, BUILD_TABLE)),
                    number(b, b->spec->cache.page));
  case CACHE_NONE:
  case CACHE_RAGGED:
  case CACHE_DENSE: return build_long(b, build_launch_size(b, BUILD_SLOTS));
  case CACHE_RING: break;
  }
  return NULL;
}

/* BOOL over ARGs: the pages of `live` tokens from `base` on, LONG, are pages. */
static const struct expr *pages_exist(struct build *b, const struct expr *base,
                                      const struct expr *live)
{
  struct expr_pool *pool = b->pool;
  const struct expr *page = number(b, b->spec->cache.page);
  const struct expr *last = expr_add(pool, base, expr_sub(pool, live, number(b, 1)));
  const struct expr *first = expr_quotient(pool, base, page);
  const struct expr *count = expr_sub(pool, expr_quotient(pool, last, page), first);
  count = expr_convert(pool, expr_add(pool, count, number(b, 1)), EXPR_INT);
  const uint32_t level = EXPR_MAX_LEVEL; /* nothing inside binds */
  const struct expr *indices[] = {
      build_var(b, EXPR_VAR_B),
      expr_add(pool, expr_convert(pool, first, EXPR_INT), expr_bound(pool, level))};
  int32_t table = cache_plan_find(b->cache, EXPR_TENSOR_K, CACHE_PAGE_TABLE);
  const struct expr *entry = access_read(b, (uint32_t)table, indices);
  const struct expr *exists =
      expr_and(pool, expr_binary(pool, EXPR_LE, expr_int(pool, 0), entry),
               expr_binary(pool, EXPR_LT, entry, build_launch_size(b, BUILD_PAGES)));
  return expr_binder(pool, EXPR_ALL, level, count, exists);
}

static void enter_sequence(struct build *b, struct tile_value *sequence, struct tile_value *head)
{
  struct expr_pool *pool = b->pool;
  struct tile_builder *t = &b->tile;
  const struct expr *narrow = expr_convert(pool, arg(b, 0), EXPR_INT);
  build_set_var(b, EXPR_VAR_B, frame_scalar(), tile_scalar(t, TILE_I32, narrow, &sequence, 1));
  build_set_var(b, EXPR_VAR_G, frame_scalar(), tile_scalar(t, TILE_I32, narrow, &head, 1));
  if (!b->packed[1])
    return;
  uint32_t starts = build_starts(b, false);
  const struct expr *here = arg(b, 0), *next = expr_add(pool, here, number(b, 1));
  const struct expr *start = expr_read(pool, starts, EXPR_LONG, &here, 1);
  const struct expr *added = expr_sub(pool, expr_read(pool, starts, EXPR_LONG, &next, 1), start);
  b->start[1] = tile_scalar(t, TILE_INDEX, start, &sequence, 1);
  build_set_var(b, EXPR_VAR_SIZE_NK, frame_scalar(),
                tile_scalar(t, TILE_I32, expr_convert(pool, added, EXPR_INT), &sequence, 1));
}

/* Where the range's tile number `tile` begins, and the end of what it is part of. A ring's tokens
 * are in two parts, its sinks and the newest, with nothing to store in between. */
static void find_tile(struct build *b, const struct append_range *range, struct tile_value *tile,
                      struct tile_value **base, struct tile_value **end)
{
  struct expr_pool *pool = b->pool;
  const struct expr *rows = number(b, range->rows);
  const struct expr *last = build_long(b, range->end), *limit = slot_limit(b);
  if (range->stored && limit != NULL)
    last = expr_min(pool, last, limit);
  *end = build_index(b, "end", last, NULL, 0);
  struct tile_value *begin =
      build_index(b, "begin", expr_max(pool, build_long(b, range->begin), number(b, 0)), NULL, 0);
  if (!range->stored || cache_layout(b->spec) != CACHE_RING) {
    struct tile_value *parts[] = {begin, tile};
    *base =
        build_index(b, "t0", expr_add(pool, arg(b, 0), expr_mul(pool, arg(b, 1), rows)), parts, 2);
    return;
  }
  const struct expr *sinks = number(b, sinks_of(b, range));
  const struct expr *oldest =
      expr_sub(pool, build_long(b, append_all_tokens(b)), number(b, b->spec->cache.capacity));
  oldest = expr_max(pool, oldest, sinks);
  struct tile_value *bounds[] = {begin, *end};
  const struct expr *cut = expr_max(pool, arg(b, 0), expr_min(pool, arg(b, 1), sinks));
  struct tile_value *sinks_end = build_index(b, "sinks_end", cut, bounds, 2);
  struct tile_value *newest =
      build_index(b, "newest", expr_max(pool, arg(b, 0), oldest), &begin, 1);
  struct tile_value *parts[] = {begin, sinks_end, tile, newest, *end};
  const struct expr *tiles = append_pieces(b, expr_sub(pool, arg(b, 1), arg(b, 0)), range->rows);
  const struct expr *in_sinks = expr_binary(pool, EXPR_LT, arg(b, 2), tiles);
  const struct expr *of_sinks = expr_add(pool, arg(b, 0), expr_mul(pool, arg(b, 2), rows));
  const struct expr *of_newest =
      expr_add(pool, arg(b, 3), expr_mul(pool, expr_sub(pool, arg(b, 2), tiles), rows));
  *base = build_index(b, "t0", expr_select(pool, in_sinks, of_sinks, of_newest), parts, 5);
  *end = build_index(b, "part_end", expr_select(pool, in_sinks, arg(b, 1), arg(b, 4)), parts, 5);
}

struct tile_value **append_open(struct build *b, const struct append_range *range, bool heads,
                                struct tile_value *const *more, size_t count)
{
  struct expr_pool *pool = b->pool;
  struct tile_builder *t = &b->tile;
  const struct expr *tiles = append_pieces(b, range->most, range->rows);
  if (sinks_of(b, range) > 0)
    tiles = expr_add(pool, tiles, number(b, 1));
  struct tile_value *extents[3 + SPEC_MAX_RANK] = {
      tile_scalar(t, TILE_INDEX, build_long(b, build_size(b, EXPR_VAR_SIZE_B)), NULL, 0),
      tile_index(t, heads ? b->spec->kv_heads : 1),
      tile_scalar(t, TILE_INDEX, operand_launch_size(b, tiles), NULL, 0)};
  assert(count <= SPEC_MAX_RANK);
  for (size_t k = 0; k < count; k++)
    extents[3 + k] = more[k];
  struct tile_value **indices = tile_parallel(t, extents, 3 + count)->regions[0]->arguments;
  enter_sequence(b, indices[0], indices[1]);
  build_value(b, frame_scalar(), append_all_tokens(b));

  struct tile_value *base, *end;
  find_tile(b, range, indices[2], &base, &end);
  struct tile_value *bounds[] = {base, end};
  const struct expr *left = expr_sub(pool, arg(b, 1), arg(b, 0));
  left = expr_max(pool, expr_min(pool, left, number(b, range->rows)), number(b, 0));
  struct tile_value *live = build_index(b, "live", multiple_below(b, left, range->unit), bounds, 2);
  if (range->stored && cache_layout(b->spec) == CACHE_PAGED) {
    struct tile_value *tokens[] = {base, live};
    const struct expr *exist = pages_exist(b, arg(b, 0), arg(b, 1));
    live = build_index(b, "stored", expr_select(pool, exist, arg(b, 1), number(b, 0)), tokens, 2);
  }
  b->columns = range->rows;
  b->key_base = base;
  b->live_keys = live;
  const struct expr *first = expr_convert(pool, arg(b, 0), EXPR_INT);
  build_set_var(b, EXPR_VAR_N, frame_scalar(), tile_scalar(t, TILE_I32, first, &base, 1));
  tile_limit_rows(t, range->rows, live);
  return indices + 3;
}

/* ---- channels ---- */

struct append_columns append_piece(struct build *b, uint32_t first, uint32_t channels,
                                   uint32_t piece, struct tile_value *n)
{
  struct expr_pool *pool = b->pool;
  const struct expr *from = expr_mul(pool, arg(b, 0), number(b, piece));
  const struct expr *live = number(b, piece);
  if (channels % piece != 0)
    live = expr_min(pool, live, expr_sub(pool, number(b, channels), from));
  return (struct append_columns){
      .first = build_index(b, "c0", expr_add(pool, from, number(b, first)), &n, 1),
      .live = build_index(b, "columns", live, &n, 1),
      .size = piece};
}

/* ---- where things lie ---- */

struct tile_value *append_rows(struct build *b, const struct expr *e)
{
  return build_value(b, (struct frame){CLASS_KEY, 0, 0}, e);
}

void append_index(struct append_place *place, struct tile_value *index, bool columns)
{
  if (columns)
    place->access.column_dim = (uint8_t)place->rank;
  place->indices[place->rank++] = index;
}

void append_locate(struct build *b, uint32_t n, const struct expr *token,
                   struct append_place *place)
{
  const struct expr *slots[2] = {NULL, NULL};
  uint32_t count = access_slot(b, n, build_var(b, EXPR_VAR_B), token, slots);
  *place = (struct append_place){.number = build_tensor(b, EXPR_TENSOR_CACHE + n)};
  place->access = append_no_access(place->number);
  for (uint32_t k = 0; k < count; k++) {
    if (!expr_is_var(slots[k], EXPR_VAR_J)) {
      append_index(place, append_rows(b, slots[k]), false);
      continue;
    }
    place->access.row_dim = (uint8_t)k; /* one by one */
    append_index(place, b->key_base, false);
  }
}

void append_store(struct build *b, const struct append_place *place, struct tile_value *tile,
                  struct tile_value *live_columns)
{
  b->tile.kernel->tensors.items[place->number].written = true;
  struct tile_value *live = b->live_keys;
  if (tile->type.rows == 1)
    live = build_index(b, "live_row", expr_min(b->pool, arg(b, 0), number(b, 1)), &live, 1);
  tile_store(&b->tile, tile, place->access, place->indices, place->rank, live, live_columns);
}

struct tile_value *append_first_row(struct build *b, bool packed)
{
  const struct expr *row = expr_sub(b->pool, arg(b, 0), build_long(b, first_new(b)));
  struct tile_value *parts[] = {b->key_base, b->start[1]};
  if (packed)
    row = expr_add(b->pool, row, arg(b, 1));
  return build_index(b, "row", row, parts, packed ? 2 : 1);
}

struct tile_value *append_load(struct build *b, uint32_t tensor, struct tile_value *rows,
                               struct append_columns columns)
{
  struct expr_pool *pool = b->pool;
  bool packed = b->packed[1];
  struct append_place place = {.number = build_tensor(b, tensor)};
  place.access = append_no_access(place.number);
  struct tile_value *head = build_value(b, frame_scalar(), build_var(b, EXPR_VAR_G));
  if (rows == NULL) {
    rows = append_first_row(b, packed);
    place.access.row_dim = packed ? 0 : 2;
  } else if (packed) {
    const struct expr *row =
        expr_add(pool, expr_arg(pool, 0, EXPR_INT), expr_convert(pool, arg(b, 1), EXPR_INT));
    struct tile_value *parts[] = {rows, b->start[1]};
    rows = tile_map(&b->tile, TILE_I32, row, parts, 2);
  }
  append_index(&place, packed ? rows : build_value(b, frame_scalar(), build_var(b, EXPR_VAR_B)),
               false);
  append_index(&place, head, false);
  if (!packed)
    append_index(&place, rows, false);
  append_index(&place, columns.first, true);
  return tile_load(&b->tile, tile_type_tile(TILE_F32, b->columns, columns.size), place.access,
                   place.indices, place.rank, b->live_keys, columns.live);
}

/* ---- kernels ---- */

/* Fills a workspace with rotated keys, for kernels whose tiles do not have all channels. */
static void rotate_new(struct build *b)
{
  build_open_kernel(b, "rotate_new");
  struct append_range range = append_new_tokens(b, false);
  append_open(b, &range, true, NULL, 0);
  bool packed = b->packed[1];
  struct append_place place = {.number = build_rotated_keys(b)};
  place.access = append_no_access(place.number);
  place.access.row_dim = packed ? 0 : 2;
  struct tile_value *rows = append_first_row(b, packed);
  struct tile_value *head = build_value(b, frame_scalar(), build_var(b, EXPR_VAR_G));
  append_index(&place, packed ? rows : build_value(b, frame_scalar(), build_var(b, EXPR_VAR_B)),
               false);
  append_index(&place, head, false);
  if (!packed)
    append_index(&place, rows, false);
  append_index(&place, build_value(b, frame_scalar(), number(b, 0)), true);
  append_store(b, &place, append_rotated_keys(b),
               build_value(b, frame_scalar(), number(b, b->spec->dim_qk)));
  tile_end_region(&b->tile);
}

/* A kernel that stores `channels` channels of K or V from `first` on as they are. */
static void store_as_given(struct build *b, const char *name, const struct append_range *range,
                           uint32_t source, enum cache_part part, uint32_t first, uint32_t channels)
{
  build_open_kernel(b, name);
  bool rotates = source == EXPR_TENSOR_K && append_rotates(b) && !b->rotated_keys;
  uint32_t piece = rotates || channels < PIECE ? channels : PIECE;
  struct tile_value *pieces = tile_index(&b->tile, (channels + piece - 1) / piece);
  struct tile_value **more = append_open(b, range, true, &pieces, 1);
  struct append_place place;
  int32_t n = cache_plan_find(b->cache, source, part);
  append_locate(b, (uint32_t)n, build_var(b, EXPR_VAR_J), &place);
  struct append_columns to = append_piece(b, 0, channels, piece, more[0]);
  struct append_columns from = first == 0 ? to : append_piece(b, first, channels, piece, more[0]);
  append_index(&place, build_value(b, frame_scalar(), build_var(b, EXPR_VAR_G)), false);
  append_index(&place, to.first, true);
  append_store(b, &place, rotates ? append_rotated_keys(b) : append_load(b, source, NULL, from),
               to.live);
  tile_end_region(&b->tile);
}

static void append_source(struct build *b, uint32_t source)
{
  const struct spec_storage *storage = cache_storage(b->spec, source);
  const char *name = source == EXPR_TENSOR_K ? "k" : "v";
  uint32_t channels = cache_channels(b->spec, source);
  uint32_t all = source == EXPR_TENSOR_K ? b->spec->dim_qk : b->spec->dim_v;
  struct append_range range = append_new_tokens(b, true);
  bool quantised = cache_is_quantised(storage);
  if (quantised && source == EXPR_TENSOR_K && append_rotates(b)) {
    rotate_new(b);
    b->rotated_keys = true;
  }
  if (quantised)
    quantise_build(b, source);
  else
    store_as_given(b, arena_format(b->arena, "append_%s", name), &range, source, CACHE_DATA, 0,
                   channels);
  if (channels < all)
    store_as_given(b, arena_format(b->arena, "rest_%s", name), &range, source, CACHE_REST, channels,
                   all - channels);
  range = recent_tokens(b, source);
  if (storage->residual > 0)
    store_as_given(b, arena_format(b->arena, "recent_%s", name), &range, source, CACHE_RECENT, 0,
                   channels);
  b->rotated_keys = false;
}

void append_build(struct build *b)
{
  b->rotated_keys = false;
  if (b->options->target == TARGET_HOST)
    b->key_rows = HOST_ROWS;
  b->keeps_storage = false; /* keys are rounded once, to what the cache holds */
  append_source(b, EXPR_TENSOR_K);
  if (!b->spec->value_is_key)
    append_source(b, EXPR_TENSOR_V);
  for (uint32_t n = 0; n < b->spec->input_count; n++)
    if (b->spec->inputs[n].cached)
      append_input(b, n);
  if (cache_plan_find(b->cache, EXPR_TENSOR_K, CACHE_POSITIONS) != CACHE_NONE_SUCH)
    append_positions(b);
}

/* ---- what is not lowered ---- */

void append_check(struct build *b)
{
  if (append_rotates(b))
    append_check_rotation(b);
  quantise_check(b, EXPR_TENSOR_K);
  if (!b->spec->value_is_key)
    quantise_check(b, EXPR_TENSOR_V);
}
