/* What a READ inside an expression becomes: an element access with an index that is in range
 * everywhere. Loads of tiles are in loads.c. */
#include "compiler/build/operands.h"
#include "compiler/build/access.h"

#include <math.h>

/* ---- sizes and ranges ---- */

static const struct expr *lower_size_leaf(void *user, const struct expr *e)
{
  struct build *b = user;
  if (e->op == EXPR_PARAM)
    return build_param(b, (uint32_t)e->value.i);
  return e->op == EXPR_VAR ? build_size(b, (enum expr_var)e->value.i) : NULL;
}

const struct expr *operand_launch_size(struct build *b, const struct expr *size)
{
  return build_transform(b, size, lower_size_leaf, b);
}

const struct expr *operand_size(struct lowering *l, const struct storage *storage, uint32_t dim)
{
  struct build *b = l->b;
  const struct expr *size = storage->dims[dim].size;
  if (!storage->packed || dim != storage->tokens)
    return operand_launch_size(b, size);
  return lower_operand(l, build_find_value(b, size, frame_scalar()), EXPR_INT);
}

bool operand_is_plain(const struct expr *index, const struct spec_dim *dim)
{
  switch (dim->kind) {
  case DIM_B: return expr_is_var(index, EXPR_VAR_B);
  case DIM_H: return expr_is_var(index, EXPR_VAR_H);
  case DIM_G: return expr_is_var(index, EXPR_VAR_G);
  case DIM_NQ: return expr_is_var(index, EXPR_VAR_R);
  case DIM_NK: return expr_is_var(index, EXPR_VAR_J);
  case DIM_D:
  case DIM_DV:
  case DIM_EXPR: break;
  }
  return false;
}

bool operand_is_safe(const struct expr *index, const struct spec_dim *dim)
{
  if (dim->kind == DIM_B || dim->kind == DIM_H || dim->kind == DIM_G)
    if (operand_is_plain(index, dim))
      return true;
  if (!expr_is_const(dim->size))
    return false;
  const struct expr *known = index->op == EXPR_MOD ? index->args[1] : index;
  int64_t above = index->op == EXPR_MOD ? 0 : 1; /* x % n lies below n */
  return expr_is_const(known) && known->value.i >= 1 - above &&
         known->value.i + above <= dim->size->value.i;
}

const struct expr *operand_clamped(struct build *b, const struct expr *index,
                                   const struct expr *size)
{
  struct expr_pool *pool = b->pool;
  size = expr_convert(pool, size, index->type);
  const struct expr *last = expr_sub(pool, size, expr_convert(pool, expr_int(pool, 1), size->type));
  const struct expr *zero = expr_convert(pool, expr_int(pool, 0), index->type);
  return expr_binary(pool, EXPR_MIN, expr_binary(pool, EXPR_MAX, index, zero), last);
}

/* The index of a token in a packed tensor: LONG. */
static const struct expr *packed_index(struct lowering *l, const struct expr *index, bool keys)
{
  struct expr_pool *pool = l->b->pool;
  const struct expr *zero = expr_long(pool, 0);
  index = expr_binary(pool, EXPR_MAX, expr_convert(pool, index, EXPR_LONG), zero);
  index = expr_add(pool, lower_operand(l, l->b->start[keys], EXPR_LONG), index);
  return operand_clamped(l->b, index, lower_operand(l, l->b->total[keys], EXPR_LONG));
}

/* ---- element accesses ---- */

static const struct expr *nothing(struct build *b, enum expr_type type)
{
  return expr_convert(b->pool, expr_int(b->pool, 0), type);
}

bool operand_is_rotated(const struct build *b, int64_t tensor)
{
  return b->spec->has_rotary &&
         (tensor == EXPR_TENSOR_Q || (tensor == EXPR_TENSOR_K && !b->rotated_keys));
}

/* Codes of a cache are read as numbers. */
static enum expr_type stored_type(const struct build *b, const struct expr *read)
{
  enum dtype type = build_element(b, (uint32_t)read->value.i);
  bool code = type == DTYPE_I8 || type == DTYPE_I4 || type == DTYPE_I2;
  return code ? EXPR_INT : read->type;
}

const struct expr *operand_read(struct lowering *l, const struct expr *read,
                                const struct expr *const *indices)
{
  struct build *b = l->b;
  uint32_t tensor = (uint32_t)read->value.i;
  if (tensor == EXPR_TENSOR_O || operand_is_rotated(b, tensor)) {
    build_unsupported(b, read->span, "a channel of %s by itself%s",
                      tensor == EXPR_TENSOR_O ? "o" : "a rotated vector",
                      tensor == EXPR_TENSOR_O ? "" : " (dot takes it whole, or a slice of it)");
    return nothing(b, read->type);
  }
  struct storage storage;
  build_storage(b, tensor, &storage);
  if (storage.cached)
    return lower_expr(l, access_element(b, read));
  if (storage.packed && !expr_is_var(read->args[storage.batch], EXPR_VAR_B)) {
    build_unsupported(b, read->span, "tokens of another sequence of a ragged batch");
    return nothing(b, read->type);
  }
  const struct expr *args[SPEC_MAX_RANK];
  for (uint32_t k = 0; k < storage.rank; k++) {
    const struct spec_dim *dim = &storage.dims[k];
    if (storage.packed && k == storage.batch)
      continue;
    const struct expr **arg = &args[storage_dim(&storage, k)];
    *arg = indices[k];
    if (storage.packed && k == storage.tokens)
      *arg = packed_index(l, indices[k], dim->kind == DIM_NK);
    else if (!operand_is_safe(read->args[k], dim))
      *arg = operand_clamped(b, indices[k], operand_size(l, &storage, k));
  }
  uint32_t rank = storage_rank(&storage);
  const struct expr *element =
      expr_read(b->pool, build_tensor(b, tensor), stored_type(b, read), args, rank);
  return expr_convert(b->pool, element, read->type);
}

/* What every element lies within: the extremes, or NaN, which decides nothing. */
static const struct expr *unknown_range(struct build *b, const struct expr *range)
{
  struct expr_pool *pool = b->pool;
  bool least = range->op == EXPR_RANGE_MIN;
  if (range->type == EXPR_BOOL)
    return expr_bool(pool, !least);
  if (range->type == EXPR_INT)
    return expr_int(pool, least ? INT32_MIN : INT32_MAX);
  return expr_convert(pool, expr_float(pool, (double)NAN), range->type);
}

/* The blocks that hold tokens or elements first .. last of a dimension, cut to it: LONG. */
struct block_range {
  const struct expr *first, *count;
};

static struct block_range blocks_of(struct expr_pool *pool, const struct expr *first,
                                    const struct expr *last, const struct expr *size)
{
  const struct expr *block = expr_long(pool, VISIBILITY_SUMMARY_BLOCK);
  const struct expr *zero = expr_long(pool, 0), *one = expr_long(pool, 1);
  first = expr_binary(pool, EXPR_MAX, first, zero);
  last = expr_binary(pool, EXPR_MIN, last, expr_sub(pool, size, one));
  struct block_range range = {.first = expr_binary(pool, EXPR_FLOORDIV, first, block)};
  const struct expr *end = expr_add(pool, expr_binary(pool, EXPR_FLOORDIV, last, block), one);
  range.count = expr_select(pool, expr_binary(pool, EXPR_LE, first, last),
                            expr_sub(pool, end, range.first), zero);
  return range;
}

const struct expr *operand_range(struct lowering *l, const struct expr *range,
                                 const struct expr *const *indices)
{
  struct build *b = l->b;
  struct expr_pool *pool = b->pool;
  uint32_t tensor = (uint32_t)range->value.i;
  struct storage storage;
  build_storage(b, tensor, &storage);
  uint32_t ranged = storage.rank - 1, rank = storage_rank(&storage);
  bool own = !storage.packed || expr_is_var(range->args[storage.batch], EXPR_VAR_B);
  if (storage.cached) /* nobody summarises a cache */
    return unknown_range(b, range);
  if (!own || storage.batch == ranged || storage_dim(&storage, ranged) != rank - 1)
    return unknown_range(b, range); /* packed otherwise than it is summarised */

  const struct expr *first = expr_convert(pool, indices[ranged], EXPR_LONG);
  const struct expr *last = expr_convert(pool, indices[ranged + 1], EXPR_LONG);
  const struct expr *size = expr_convert(pool, operand_size(l, &storage, ranged), EXPR_LONG);
  if (storage.packed && storage.tokens == ranged) { /* blocks hold tokens of other sequences, too */
    bool keys = storage.dims[ranged].kind == DIM_NK;
    const struct expr *start = lower_operand(l, b->start[keys], EXPR_LONG);
    first = expr_add(pool, start, expr_binary(pool, EXPR_MAX, first, expr_long(pool, 0)));
    last = expr_add(pool, start, last);
    size = expr_add(pool, start, size);
  }
  struct block_range blocks = blocks_of(pool, first, last, size);

  const struct expr *args[SPEC_MAX_RANK + 1];
  for (uint32_t k = 0; k < ranged; k++) {
    const struct spec_dim *dim = &storage.dims[k];
    if (storage.packed && k == storage.batch)
      continue;
    const struct expr **arg = &args[storage_dim(&storage, k)];
    *arg = indices[k];
    if (storage.packed && k == storage.tokens)
      *arg = packed_index(l, indices[k], dim->kind == DIM_NK);
    else if (!operand_is_safe(range->args[k], dim))
      *arg = operand_clamped(b, indices[k], operand_size(l, &storage, k));
  }
  const uint32_t level = EXPR_MAX_LEVEL; /* the front end counts from 0, and nothing inside binds */
  const struct expr *bound = expr_convert(pool, expr_bound(pool, level), EXPR_LONG);
  bool least = range->op == EXPR_RANGE_MIN;
  args[rank - 1] = expr_add(pool, blocks.first, bound);
  args[rank] = expr_int(pool, !least);
  bool real = range->type == EXPR_FLOAT || range->type == EXPR_SINGLE;
  const struct expr *body =
      expr_read(pool, build_summary(b, tensor), real ? EXPR_FLOAT : EXPR_INT, args, rank + 1);
  enum expr_op fold = least ? EXPR_FOLD_MIN : EXPR_FOLD_MAX;
  if (range->type == EXPR_BOOL) {
    fold = least ? EXPR_ALL : EXPR_ANY;
    body = expr_convert(pool, body, EXPR_BOOL);
  }
  const struct expr *extent = expr_convert(pool, blocks.count, EXPR_INT);
  return expr_convert(pool, expr_binder(pool, fold, level, extent, body), range->type);
}

/* ---- tensors of tokens and heads ---- */

struct tile_value *operand_token_base(struct build *b, bool keys, bool packed)
{
  struct tile_value *base = keys ? b->key_base : b->row_base;
  if (!packed)
    return base;
  const struct expr *sum =
      expr_add(b->pool, expr_arg(b->pool, 0, EXPR_LONG), expr_arg(b->pool, 1, EXPR_LONG));
  struct tile_value *parts[] = {b->start[keys], base};
  return tile_scalar(&b->tile, TILE_INDEX, sum, parts, 2);
}

/* Rows of several sequences, each in its own place. */
static struct tile_access place_flat(struct build *b, uint32_t number, struct placement place,
                                     struct tile_value *indices[SPEC_MAX_RANK])
{
  const struct frame rows = {CLASS_QUERY, 0, 0};
  struct tile_access access = {.tensor = number,
                               .row_dim = TILE_NO_DIM,
                               .group_dim = TILE_NO_DIM,
                               .column_dim = TILE_NO_DIM,
                               .row_group = 1};
  indices[0] = build_tile(b, rows, b->flat_sequence);
  indices[1] = build_tile(b, rows, build_var(b, EXPR_VAR_H));
  indices[2] = build_tile(b, rows, b->flat_row);
  if (place.column != NULL) {
    indices[3] = place.column;
    access.column_dim = 3;
  }
  return access;
}

static struct tile_access place_tile(struct build *b, uint32_t number, struct placement place,
                                     struct tile_value *indices[SPEC_MAX_RANK])
{
  if (b->flat_sequence != NULL)
    return place_flat(b, number, place, indices);
  bool packed = b->packed[place.keys];
  uint8_t tokens = packed ? 0 : 2, heads = 1, column = packed ? 2 : 3;
  struct tile_access access = {.tensor = number,
                               .row_dim = tokens,
                               .group_dim = TILE_NO_DIM,
                               .column_dim = TILE_NO_DIM,
                               .row_group = 1};
  if (!packed)
    indices[0] = build_value(b, frame_scalar(), expr_variable(b->pool, EXPR_VAR_B));
  indices[heads] = place.kv_heads
                       ? build_value(b, frame_scalar(), expr_variable(b->pool, EXPR_VAR_G))
                       : b->head_base;
  indices[tokens] = operand_token_base(b, place.keys, packed);
  if (!place.keys && b->share > 1) {
    access.group_dim = heads;
    access.row_group = b->share;
  }
  if (place.column != NULL) {
    indices[column] = place.column;
    access.column_dim = column;
  }
  return access;
}

static size_t placed_rank(const struct build *b, struct placement place)
{
  return (b->packed[place.keys] ? 2u : 3u) + (place.column != NULL);
}

static struct tile_value *placed_columns(struct build *b, struct placement place)
{
  return place.column != NULL ? place.live_columns
                              : build_value(b, frame_scalar(), expr_long(b->pool, 1));
}

void operand_store(struct build *b, uint32_t number, struct placement place,
                   struct tile_value *tile)
{
  struct tile_value *indices[SPEC_MAX_RANK];
  struct tile_access access = place_tile(b, number, place, indices);
  tile_store(&b->tile, tile, access, indices, placed_rank(b, place),
             place.keys ? b->live_keys : b->live_rows, placed_columns(b, place));
}

struct tile_value *operand_load_tokens(struct build *b, uint32_t number, struct placement place,
                                       struct tile_type type)
{
  struct tile_value *indices[SPEC_MAX_RANK];
  struct tile_access access = place_tile(b, number, place, indices);
  return tile_load(&b->tile, type, access, indices, placed_rank(b, place),
                   place.keys ? b->live_keys : b->live_rows, placed_columns(b, place));
}
