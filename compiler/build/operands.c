/* What a READ becomes: a load of a tile, or an element access with an index that is in range
 * everywhere. */
#include "compiler/build/build.h"

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

static bool is_plain(const struct expr *index, const struct spec_dim *dim)
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

/* In range wherever it is evaluated: in dead rows, beyond the last key, and where a condition does
 * not hold. */
static bool is_safe(const struct expr *index, const struct spec_dim *dim)
{
  if (dim->kind == DIM_B || dim->kind == DIM_H || dim->kind == DIM_G)
    if (is_plain(index, dim))
      return true;
  return expr_is_const(index) && expr_is_const(dim->size) && index->value.i >= 0 &&
         index->value.i < dim->size->value.i;
}

/* An empty tensor's last index is -1, and its strides are 0. */
static const struct expr *clamped(struct build *b, const struct expr *index,
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
  return clamped(l->b, index, lower_operand(l, l->b->total[keys], EXPR_LONG));
}

/* ---- element accesses ---- */

static const struct expr *nothing(struct build *b, enum expr_type type)
{
  return expr_convert(b->pool, expr_int(b->pool, 0), type);
}

static bool is_rotated(const struct build *b, int64_t tensor)
{
  return b->spec->has_rotary &&
         (tensor == EXPR_TENSOR_Q || (tensor == EXPR_TENSOR_K && !b->rotated_keys));
}

const struct expr *operand_read(struct lowering *l, const struct expr *read,
                                const struct expr *const *indices)
{
  struct build *b = l->b;
  uint32_t tensor = (uint32_t)read->value.i;
  if (tensor == EXPR_TENSOR_O || is_rotated(b, tensor)) {
    build_unsupported(b, read->span, "a channel of %s by itself",
                      tensor == EXPR_TENSOR_O ? "o" : "a rotated vector");
    return nothing(b, read->type);
  }
  struct storage storage;
  build_storage(b, tensor, &storage);
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
    else if (!is_safe(read->args[k], dim))
      *arg = clamped(b, indices[k], operand_size(l, &storage, k));
  }
  uint32_t rank = storage_rank(&storage);
  return expr_read(b->pool, build_tensor(b, tensor), read->type, args, rank);
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
    else if (!is_safe(range->args[k], dim))
      *arg = clamped(b, indices[k], operand_size(l, &storage, k));
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

/* ---- loads ---- */

enum index_kind { INDEX_UNIFORM, INDEX_ROW, INDEX_HEAD, INDEX_KEY, INDEX_CHANNEL };

struct load_plan {
  struct storage storage;
  enum index_kind kinds[SPEC_MAX_RANK];
  uint32_t first_channel;
  struct tile_access access;
  enum dtype type; /* in memory */
  enum tile_element element;
};

/* VAR_C or VAR_C + constant, with all the frame's channels inside the dimension. */
static bool is_channel(const struct expr *index, const struct spec_dim *dim, uint32_t channels,
                       uint32_t *first)
{
  int64_t from = 0;
  if (index->op == EXPR_ADD && index->args[1]->op == EXPR_CONST) {
    from = index->args[1]->value.i;
    index = index->args[0];
  }
  *first = (uint32_t)from;
  return expr_is_var(index, EXPR_VAR_C) && expr_is_const(dim->size) && from >= 0 &&
         from + channels <= dim->size->value.i;
}

static bool index_kind(struct build *b, struct frame frame, const struct expr *index,
                       const struct spec_dim *dim, struct load_plan *plan, enum index_kind *kind)
{
  unsigned class = build_class(b, index, frame);
  *kind = INDEX_UNIFORM;
  if (class == 0)
    return true;
  if (class == CLASS_QUERY)
    *kind = dim->kind == DIM_NQ ? INDEX_ROW : INDEX_HEAD;
  else
    *kind = class == CLASS_KEY ? INDEX_KEY : INDEX_CHANNEL;
  if (class == CLASS_CHANNEL)
    return is_channel(index, dim, frame.channels, &plan->first_channel);
  return is_plain(index, dim);
}

/* Gives `slot` the dimension, unless another index varies along the same axis. */
static bool claim(uint8_t *slot, uint32_t dim)
{
  bool free = *slot == TILE_NO_DIM;
  *slot = (uint8_t)dim;
  return free;
}

static bool tile_element_of(enum dtype type, enum tile_element *element)
{
  bool real = type == DTYPE_F32 || type == DTYPE_F16 || type == DTYPE_BF16;
  *element = real ? TILE_F32 : TILE_I32;
  return real || type == DTYPE_I32;
}

static bool plan_load(struct build *b, struct frame frame, const struct expr *read,
                      struct load_plan *plan)
{
  uint32_t tensor = (uint32_t)read->value.i;
  struct storage *storage = &plan->storage;
  if (tensor == EXPR_TENSOR_O)
    return false;
  build_storage(b, tensor, storage);
  plan->type = tensor < EXPR_TENSOR_INPUT
                   ? b->options->type
                   : build_dtype(b, b->spec->inputs[tensor - EXPR_TENSOR_INPUT].type);
  bool packed_elsewhere = storage->packed && !expr_is_var(read->args[storage->batch], EXPR_VAR_B);
  if (packed_elsewhere || !tile_element_of(plan->type, &plan->element))
    return false;
  struct tile_access *access = &plan->access;
  *access = (struct tile_access){
      .row_dim = TILE_NO_DIM, .group_dim = TILE_NO_DIM, .column_dim = TILE_NO_DIM, .row_group = 1};
  for (uint32_t k = 0; k < storage->rank; k++) {
    enum index_kind *kind = &plan->kinds[k];
    if (!index_kind(b, frame, read->args[k], &storage->dims[k], plan, kind))
      return false;
    if (storage->packed && k == storage->batch)
      continue;
    uint32_t dim = storage_dim(storage, k);
    unsigned axis = *kind == INDEX_KEY       ? CLASS_KEY
                    : *kind == INDEX_CHANNEL ? CLASS_CHANNEL
                                             : CLASS_QUERY;
    if (*kind == INDEX_UNIFORM) {
      if (storage->packed && k == storage->tokens)
        return false;
      continue;
    }
    uint8_t *slot = *kind == INDEX_HEAD  ? &access->group_dim
                    : axis == frame.rows ? &access->row_dim
                                         : &access->column_dim;
    if (!claim(slot, dim))
      return false;
  }
  bool by_row = access->row_dim != TILE_NO_DIM, by_head = access->group_dim != TILE_NO_DIM;
  bool by_column = access->column_dim != TILE_NO_DIM;
  if (!by_row && !by_column)
    return false;
  if (by_column && access->column_dim != storage_rank(storage) - 1)
    return false;
  if (by_head)
    access->row_group = b->share;
  return by_head ? by_row : !(by_row && frame.rows == CLASS_QUERY && b->share > 1);
}

bool operand_is_loadable(struct build *b, struct frame frame, const struct expr *read)
{
  struct load_plan plan = {0};
  if (!plan_load(b, frame, read, &plan))
    return false;
  return !is_rotated(b, read->value.i) || plan.kinds[3] == INDEX_CHANNEL;
}

/* Of a dimension that is not packed tokens: plan_load takes no other. */
static struct tile_value *uniform_index(struct build *b, const struct expr *index,
                                        const struct spec_dim *dim)
{
  if (is_safe(index, dim))
    return build_value(b, frame_scalar(), index);
  struct lowering l = {.b = b, .frame = frame_scalar()};
  const struct expr *e = lower_expr(&l, index);
  e = clamped(b, e, operand_launch_size(b, dim->size));
  return tile_scalar(&b->tile, TILE_I32, e, l.operands.items, l.operands.count);
}

/* Where the tile's tokens begin: from the sequence's start where tokens are packed. */
static struct tile_value *token_base(struct build *b, bool keys, bool packed)
{
  struct tile_value *base = keys ? b->key_base : b->row_base;
  if (!packed)
    return base;
  const struct expr *sum =
      expr_add(b->pool, expr_arg(b->pool, 0, EXPR_LONG), expr_arg(b->pool, 1, EXPR_LONG));
  struct tile_value *parts[] = {b->start[keys], base};
  return tile_scalar(&b->tile, TILE_INDEX, sum, parts, 2);
}

static struct tile_value *index_value(struct build *b, const struct load_plan *plan, uint32_t k,
                                      const struct expr *index)
{
  bool packed = plan->storage.packed && k == plan->storage.tokens;
  switch (plan->kinds[k]) {
  case INDEX_ROW: return token_base(b, false, packed);
  case INDEX_KEY: return token_base(b, true, packed);
  case INDEX_HEAD: return b->head_base;
  case INDEX_CHANNEL:
    return build_value(b, frame_scalar(), expr_long(b->pool, plan->first_channel));
  case INDEX_UNIFORM: break;
  }
  return uniform_index(b, index, &plan->storage.dims[k]);
}

static struct tile_value *live_count(struct build *b, struct frame frame, unsigned axis)
{
  if (axis == CLASS_QUERY)
    return b->live_rows;
  if (axis == CLASS_KEY)
    return b->live_keys;
  return build_value(b, frame_scalar(),
                     expr_long(b->pool, axis == CLASS_CHANNEL ? frame.channels : 1));
}

static struct tile_value *load_planned(struct build *b, struct frame frame, const struct expr *read,
                                       struct load_plan *plan)
{
  uint32_t tensor = (uint32_t)read->value.i;
  const struct storage *storage = &plan->storage;
  struct tile_value *indices[SPEC_MAX_RANK];
  for (uint32_t k = 0; k < storage->rank; k++)
    if (!storage->packed || k != storage->batch)
      indices[storage_dim(storage, k)] = index_value(b, plan, k, read->args[k]);
  plan->access.tensor = build_tensor(b, tensor);
  struct tile_type type = tile_type_tile(plan->element, build_axis_size(b, frame, frame.rows),
                                         build_axis_size(b, frame, frame.columns));
  struct tile_value *x =
      tile_load(&b->tile, type, plan->access, indices, storage_rank(storage),
                live_count(b, frame, frame.rows), live_count(b, frame, frame.columns));
  if (!is_rotated(b, tensor))
    return x;
  return rotary_apply(b, tensor == EXPR_TENSOR_Q ? CLASS_QUERY : CLASS_KEY, plan->first_channel, x);
}

struct tile_value *operand_load(struct build *b, struct frame frame, const struct expr *read)
{
  struct load_plan plan = {0};
  if (!operand_is_loadable(b, frame, read) || !plan_load(b, frame, read, &plan))
    return NULL;
  return load_planned(b, frame, read, &plan);
}

enum tile_element operand_element(struct build *b, struct frame frame, const struct expr *e)
{
  struct load_plan plan = {0};
  bool vectors = b->keeps_storage && e->op == EXPR_READ && frame.columns == CLASS_CHANNEL &&
                 build_class(b, e, frame) == (frame.rows | frame.columns);
  if (!vectors || !operand_is_loadable(b, frame, e) || !plan_load(b, frame, e, &plan))
    return TILE_F32;
  if (plan.type == DTYPE_F16)
    return TILE_F16;
  return plan.type == DTYPE_BF16 ? TILE_BF16 : TILE_F32;
}

struct tile_value *operand_load_stored(struct build *b, struct frame frame, const struct expr *read)
{
  struct load_plan plan = {0};
  plan_load(b, frame, read, &plan);
  plan.element = operand_element(b, frame, read);
  return load_planned(b, frame, read, &plan);
}

static struct tile_access place_tile(struct build *b, uint32_t number, struct placement place,
                                     struct tile_value *indices[SPEC_MAX_RANK])
{
  uint8_t tokens = b->ragged ? 0 : 2, heads = 1, column = b->ragged ? 2 : 3;
  struct tile_access access = {.tensor = number,
                               .row_dim = tokens,
                               .group_dim = TILE_NO_DIM,
                               .column_dim = TILE_NO_DIM,
                               .row_group = 1};
  if (!b->ragged)
    indices[0] = build_value(b, frame_scalar(), expr_variable(b->pool, EXPR_VAR_B));
  indices[heads] = place.kv_heads
                       ? build_value(b, frame_scalar(), expr_variable(b->pool, EXPR_VAR_G))
                       : b->head_base;
  indices[tokens] = token_base(b, place.keys, b->ragged);
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
  return (b->ragged ? 2u : 3u) + (place.column != NULL);
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
