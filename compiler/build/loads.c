/* What a READ that is a whole tile becomes: a load, or for keys of a cache the loads of what they
 * are stored as and a map of these. */
#include "compiler/build/access.h"
#include "compiler/build/operands.h"

/* ---- plans of loads ---- */

enum index_kind {
  INDEX_UNIFORM, /* the same in the whole task */
  INDEX_ROW,
  INDEX_HEAD,
  INDEX_KEY,  /* one by one along the tile's keys */
  INDEX_TILE, /* the same for all keys of the tile */
  INDEX_CHANNEL,
  INDEX_GROUP, /* channels // n: neighbours share an element */
  INDEX_GATHER /* any other that varies along rows: a tile of indices */
};

struct load_plan {
  struct storage storage;
  enum index_kind kinds[SPEC_MAX_RANK];
  uint32_t first_channel;
  uint32_t group, group_count; /* of INDEX_GROUP: channels of one, and how many */
  uint32_t group_from;         /* the frame's first channel within its group */
  struct tile_access access;
  bool gathers;
  enum dtype type; /* in memory */
  enum tile_element element;
};

bool operand_is_channel(const struct expr *index, int64_t *from)
{
  *from = 0;
  while ((index->op == EXPR_ADD || index->op == EXPR_SUB) && index->args[1]->op == EXPR_CONST) {
    *from += index->op == EXPR_ADD ? index->args[1]->value.i : -index->args[1]->value.i;
    index = index->args[0];
  }
  return expr_is_var(index, EXPR_VAR_C);
}

/* VAR_C or VAR_C + constant, with all the frame's channels inside the dimension, from a byte's
 * begin. */
static bool is_channel(const struct expr *index, const struct spec_dim *dim, uint32_t channels,
                       struct load_plan *plan)
{
  int64_t from;
  bool plain = operand_is_channel(index, &from) && expr_is_const(dim->size) && from >= 0 &&
               from + channels <= dim->size->value.i;
  plan->first_channel = plain ? (uint32_t)from : 0;
  return plain && plan->first_channel % tile_elements_per_byte(plan->type) == 0;
}

/* (VAR_C + constant) // n: the scales of the frame's channels. */
static bool is_group(const struct expr *index, const struct spec_dim *dim, uint32_t channels,
                     struct load_plan *plan)
{
  int64_t from, n;
  if (index->op != EXPR_FLOORDIV || !expr_is_const(index->args[1]) || !expr_is_const(dim->size) ||
      !operand_is_channel(index->args[0], &from))
    return false;
  n = index->args[1]->value.i;
  if (from < 0 || n <= 0 || (from + channels - 1) / n >= dim->size->value.i)
    return false;
  plan->group = (uint32_t)n;
  plan->first_channel = (uint32_t)(from / n);
  plan->group_from = (uint32_t)(from % n);
  plan->group_count = (plan->group_from + channels - 1) / plan->group + 1;
  return true;
}

static bool key_kind(struct build *b, struct frame frame, const struct expr *read, uint32_t k,
                     struct load_plan *plan)
{
  const struct expr *index = read->args[k];
  enum index_kind *kind = &plan->kinds[k];
  /* access.c's indices are in range for every key of the sequence. */
  bool inside =
      operand_is_plain(index, &plan->storage.dims[k]) || read->value.i >= EXPR_TENSOR_CACHE;
  switch (access_along(b, index)) {
  case ACCESS_SAME: *kind = INDEX_TILE; return true;
  case ACCESS_ONE_BY_ONE: *kind = inside ? INDEX_KEY : INDEX_GATHER; break;
  case ACCESS_ANY: *kind = INDEX_GATHER; break;
  }
  return *kind == INDEX_KEY || frame.rows == CLASS_KEY;
}

static bool index_kind(struct build *b, struct frame frame, const struct expr *read, uint32_t k,
                       struct load_plan *plan)
{
  const struct expr *index = read->args[k];
  const struct spec_dim *dim = &plan->storage.dims[k];
  enum index_kind *kind = &plan->kinds[k];
  bool tokens = plan->storage.packed && k == plan->storage.tokens;
  unsigned class = build_class(b, index, frame);
  *kind = INDEX_UNIFORM;
  if (class == 0)
    return !tokens;
  if (tokens && !operand_is_plain(index, dim))
    return false;
  if (class == CLASS_CHANNEL) {
    *kind = is_group(index, dim, frame.channels, plan) ? INDEX_GROUP : INDEX_CHANNEL;
    return *kind == INDEX_GROUP || is_channel(index, dim, frame.channels, plan);
  }
  if (class == CLASS_KEY)
    return key_kind(b, frame, read, k, plan);
  if (class != CLASS_QUERY)
    return false;
  *kind = !operand_is_plain(index, dim) ? INDEX_GATHER
          : dim->kind == DIM_NQ         ? INDEX_ROW
                                        : INDEX_HEAD;
  return *kind != INDEX_GATHER || frame.rows == CLASS_QUERY;
}

/* Gives `slot` the dimension, unless another index varies along the same axis. */
static bool claim(uint8_t *slot, uint32_t dim)
{
  bool free = *slot == TILE_NO_DIM;
  *slot = (uint8_t)dim;
  return free;
}

static bool tile_element_of(const struct expr *read, enum dtype type, enum tile_element *element)
{
  *element = read->type == EXPR_FLOAT ? TILE_F32 : TILE_I32;
  switch (type) {
  case DTYPE_F32:
  case DTYPE_F16:
  case DTYPE_BF16:
  case DTYPE_E4M3:
  case DTYPE_E5M2: *element = TILE_F32; return true;
  case DTYPE_I32: *element = TILE_I32; return true;
  case DTYPE_I8:
  case DTYPE_I4:
  case DTYPE_I2: return true;
  case DTYPE_ANY:
  case DTYPE_I64:
  case DTYPE_U8:
  case DTYPE_BOOL:
  case DTYPE_SPEC:
  case DTYPE_COUNT: break;
  }
  return false;
}

/* Which dimension runs along the tile's rows, heads of a row and columns. False where two do. */
static bool assign_dims(struct build *b, struct frame frame, struct load_plan *plan)
{
  struct tile_access *access = &plan->access;
  const struct storage *storage = &plan->storage;
  *access = (struct tile_access){
      .row_dim = TILE_NO_DIM, .group_dim = TILE_NO_DIM, .column_dim = TILE_NO_DIM, .row_group = 1};
  plan->gathers = false;
  for (uint32_t k = 0; k < storage->rank; k++) {
    uint32_t dim = storage_dim(storage, k);
    bool free = true;
    switch (plan->kinds[k]) {
    case INDEX_UNIFORM:
    case INDEX_TILE: break;
    case INDEX_GATHER: plan->gathers = true; break;
    case INDEX_HEAD: free = claim(&access->group_dim, dim); break;
    case INDEX_ROW:
      free = claim(frame.rows == CLASS_QUERY ? &access->row_dim : &access->column_dim, dim);
      break;
    case INDEX_KEY:
      free = claim(frame.rows == CLASS_KEY ? &access->row_dim : &access->column_dim, dim);
      break;
    case INDEX_CHANNEL:
    case INDEX_GROUP: free = claim(&access->column_dim, dim); break;
    }
    if (!free)
      return false;
  }
  access->row_group = access->group_dim != TILE_NO_DIM ? b->share : 1;
  return true;
}

/* A tile's rows of queries lie one by one only where heads and rows both do. */
static void gather_rows(struct load_plan *plan)
{
  for (uint32_t k = 0; k < plan->storage.rank; k++)
    if (plan->kinds[k] == INDEX_ROW || plan->kinds[k] == INDEX_HEAD)
      plan->kinds[k] = INDEX_GATHER;
}

static bool plan_load(struct build *b, struct frame frame, const struct expr *read,
                      struct load_plan *plan)
{
  uint32_t tensor = (uint32_t)read->value.i;
  const struct storage *storage = &plan->storage;
  const struct tile_access *access = &plan->access;
  if (tensor == EXPR_TENSOR_O)
    return false;
  build_storage(b, tensor, &plan->storage);
  plan->type = build_element(b, tensor);
  bool packed_elsewhere = storage->packed && !expr_is_var(read->args[storage->batch], EXPR_VAR_B);
  if (packed_elsewhere || !tile_element_of(read, plan->type, &plan->element))
    return false;
  for (uint32_t k = 0; k < storage->rank; k++)
    if (!index_kind(b, frame, read, k, plan) && !(storage->packed && k == storage->batch))
      return false;
  if (!assign_dims(b, frame, plan))
    return false;
  if (frame.rows == CLASS_QUERY) {
    bool by_row = access->row_dim != TILE_NO_DIM, by_head = access->group_dim != TILE_NO_DIM;
    bool apart = plan->gathers || by_head != (by_row && b->share > 1);
    if (apart && (by_row || by_head)) {
      if (storage->packed)
        return false;
      gather_rows(plan);
      assign_dims(b, frame, plan);
    }
  }
  bool by_row = access->row_dim != TILE_NO_DIM, by_column = access->column_dim != TILE_NO_DIM;
  if (by_column && access->column_dim != storage_rank(storage) - 1)
    return false;
  if (plan->gathers && !by_column) /* an element for each row: only where its index is there */
    return tensor >= EXPR_TENSOR_CACHE;
  return by_row || by_column;
}

/* Whether a load gives what is stored as `read` as it is; `read` is of a cache tensor. */
static bool is_loadable_part(struct build *b, struct frame frame, const struct expr *read)
{
  struct load_plan plan = {0};
  return read->op == EXPR_READ && plan_load(b, frame, read, &plan);
}

/* The channels of the frame as a READ of K or V has them. False where they are not one by one. */
static bool channel_range(struct frame frame, const struct expr *channel, int64_t *from,
                          int64_t *end)
{
  bool plain = operand_is_channel(channel, from);
  *end = *from + frame.channels;
  return plain;
}

/* The value of a cached READ in the frame: with codes or without; NULL where it has some of both.
 */
static const struct expr *one_side(struct frame frame, const struct access_parts *parts)
{
  int64_t from, end;
  if (parts->rest == NULL)
    return parts->codes;
  if (!channel_range(frame, parts->channel, &from, &end))
    return NULL;
  if (end <= parts->channels)
    return parts->codes;
  return from >= parts->channels ? parts->rest : NULL;
}

static bool is_cached_loadable(struct build *b, struct frame frame, const struct expr *read)
{
  struct access_parts parts;
  int64_t from, end;
  access_parts(b, read, &parts);
  const struct expr *side = one_side(frame, &parts);
  if (side == NULL ||
      (operand_is_rotated(b, read->value.i) &&
       (frame.columns != CLASS_CHANNEL || !channel_range(frame, parts.channel, &from, &end))))
    return false;
  if (side == parts.rest)
    return is_loadable_part(b, frame, side);
  const struct expr *data = parts.data;
  while (data->value.i < EXPR_TENSOR_CACHE) /* an entry of a table: of the code's */
    data = data->args[0]->op == EXPR_ADD ? data->args[0]->args[0] : data->args[0];
  return is_loadable_part(b, frame, data);
}

bool operand_is_loadable(struct build *b, struct frame frame, const struct expr *read)
{
  struct load_plan plan = {0};
  if (access_is_cached(b, (uint32_t)read->value.i))
    return is_cached_loadable(b, frame, read);
  if (!plan_load(b, frame, read, &plan))
    return false;
  return !operand_is_rotated(b, read->value.i) || plan.kinds[3] == INDEX_CHANNEL;
}

/* ---- loads ---- */

static const struct expr *replace_size(void *user, const struct expr *e)
{
  const struct build *b = user;
  bool is_size =
      e->op == EXPR_VAR && e->value.i >= EXPR_VAR_SIZE_B && e->value.i <= EXPR_VAR_SIZE_NK;
  return is_size ? build_launch_size(b, (enum build_size)(e->value.i - EXPR_VAR_SIZE_B)) : NULL;
}

/* Before it is lowered: an index that is in range everywhere, by the tensor's size in memory. */
static const struct expr *safe_index(struct build *b, const struct expr *index,
                                     const struct spec_dim *dim)
{
  if (operand_is_safe(index, dim))
    return index;
  return operand_clamped(b, index, build_transform(b, dim->size, replace_size, b));
}

static struct tile_value *index_value(struct build *b, struct frame frame,
                                      const struct load_plan *plan, uint32_t k,
                                      const struct expr *index)
{
  const struct spec_dim *dim = &plan->storage.dims[k];
  bool packed = plan->storage.packed && k == plan->storage.tokens;
  switch (plan->kinds[k]) {
  case INDEX_ROW: return operand_token_base(b, false, packed);
  case INDEX_KEY:
    return expr_is_var(index, EXPR_VAR_J) ? operand_token_base(b, true, packed)
                                          : build_at_tile(b, index);
  case INDEX_HEAD: return b->head_base;
  case INDEX_TILE: return build_at_tile(b, safe_index(b, index, dim));
  case INDEX_CHANNEL:
  case INDEX_GROUP: return build_value(b, frame_scalar(), expr_long(b->pool, plan->first_channel));
  case INDEX_GATHER:
    return build_tile(b, (struct frame){frame.rows, 0, 0}, safe_index(b, index, dim));
  case INDEX_UNIFORM: break;
  }
  return build_value(b, frame_scalar(), safe_index(b, index, dim));
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
  const struct storage *storage = &plan->storage;
  struct tile_value *indices[SPEC_MAX_RANK];
  for (uint32_t k = 0; k < storage->rank; k++)
    if (!storage->packed || k != storage->batch)
      indices[storage_dim(storage, k)] = index_value(b, frame, plan, k, read->args[k]);
  plan->access.tensor = build_tensor(b, (uint32_t)read->value.i);
  bool by_row = plan->gathers || plan->access.row_dim != TILE_NO_DIM;
  bool by_column = plan->access.column_dim != TILE_NO_DIM;
  unsigned rows = by_row ? frame.rows : 0, columns = by_column ? frame.columns : 0;
  struct frame loaded = frame;
  if (plan->group != 0)
    loaded.channels = plan->group_count;
  struct tile_type type = tile_type_tile(plan->element, build_axis_size(b, loaded, rows),
                                         build_axis_size(b, loaded, columns));
  struct tile_value *x = tile_load(&b->tile, type, plan->access, indices, storage_rank(storage),
                                   live_count(b, loaded, rows), live_count(b, loaded, columns));
  if (plan->group == 0)
    return x;
  uint32_t *groups = ARENA_ARRAY(b->arena, uint32_t, frame.channels);
  for (uint32_t c = 0; c < frame.channels; c++)
    groups[c] = (plan->group_from + c) / plan->group;
  return tile_permute(&b->tile, x, groups, frame.channels);
}

/* `e`, which may be a READ of a cache tensor, as a whole tile of that type. */
static struct tile_value *cached_tile(struct build *b, struct frame frame, const struct expr *e,
                                      enum tile_element element)
{
  struct load_plan plan = {0};
  struct tile_value *x;
  if (element != TILE_F32 && e->op == EXPR_READ && plan_load(b, frame, e, &plan)) {
    plan.element = element;
    x = load_planned(b, frame, e, &plan);
    if (x->type.rows == build_axis_size(b, frame, frame.rows))
      return x;
  }
  x = build_tile(b, frame, e);
  struct tile_type type = x->type;
  type.element = element;
  bool numbers = element == TILE_F32 || x->type.element == element;
  return numbers ? x : tile_op_new(&b->tile, TILE_CONVERT, &x, 1, &type, 1)->results[0];
}

/* Zero at keys beyond the last, whatever stands in the cache there: 0 times NaN is NaN. */
static const struct expr *where_live(struct build *b, struct frame frame, const struct expr *e)
{
  struct expr_pool *pool = b->pool;
  const struct tile_op *live = b->live_keys == NULL ? NULL : b->live_keys->def;
  bool all = live != NULL && live->kind == TILE_SCALAR && expr_is_const(live->expr);
  if (e->op == EXPR_READ || all || frame.rows != CLASS_KEY)
    return e;
  const struct expr *exists =
      expr_binary(pool, EXPR_LT, build_var(b, EXPR_VAR_J), build_var(b, EXPR_VAR_SIZE_NK));
  return expr_select(pool, exists, e, expr_convert(pool, expr_int(pool, 0), e->type));
}

static struct tile_value *load_cached(struct build *b, struct frame frame, const struct expr *read,
                                      enum tile_element element)
{
  struct access_parts parts;
  access_parts(b, read, &parts);
  const struct expr *side = one_side(frame, &parts);
  side = where_live(b, frame, side != parts.rest ? access_before_rest(b, &parts) : side);
  const bool rotated = operand_is_rotated(b, read->value.i);
  if (element == TILE_F32 && !rotated)
    return build_value(b, frame, side);
  struct tile_value *x = cached_tile(b, frame, side, element);
  if (!rotated)
    return x;
  int64_t from, end;
  channel_range(frame, parts.channel, &from, &end);
  return rotary_apply(b, CLASS_KEY, (uint32_t)from, x);
}

static struct tile_value *load_as(struct build *b, struct frame frame, const struct expr *read,
                                  enum tile_element element)
{
  struct load_plan plan = {0};
  uint32_t tensor = (uint32_t)read->value.i;
  if (access_is_cached(b, tensor))
    return load_cached(b, frame, read, element);
  plan_load(b, frame, read, &plan);
  if (element != TILE_F32)
    plan.element = element;
  struct tile_value *x = load_planned(b, frame, read, &plan);
  if (!operand_is_rotated(b, tensor))
    return x;
  return rotary_apply(b, tensor == EXPR_TENSOR_Q ? CLASS_QUERY : CLASS_KEY, plan.first_channel, x);
}

struct tile_value *operand_load(struct build *b, struct frame frame, const struct expr *read)
{
  return operand_is_loadable(b, frame, read) ? load_as(b, frame, read, TILE_F32) : NULL;
}

/* The type of the tile of what a READ means: of K and V in codes, and of codes, the spec's own. */
static enum dtype vector_type(struct build *b, const struct expr *read)
{
  uint32_t tensor = (uint32_t)read->value.i;
  if (!access_is_cached(b, tensor) || tensor >= EXPR_TENSOR_INPUT) {
    enum dtype type = build_element(b, tensor);
    bool codes = tensor >= EXPR_TENSOR_CACHE && cache_element_bits(type) <= 8;
    return codes ? b->options->type : type; /* which has every code */
  }
  return cache_storage(b->cache->spec, tensor)->type == DTYPE_F32 ? DTYPE_F32 : b->options->type;
}

enum tile_element operand_element(struct build *b, struct frame frame, const struct expr *e)
{
  bool vectors = b->keeps_storage && e->op == EXPR_READ && frame.columns == CLASS_CHANNEL &&
                 build_class(b, e, frame) == (frame.rows | frame.columns);
  if (!vectors || !operand_is_loadable(b, frame, e))
    return TILE_F32;
  enum dtype type = vector_type(b, e);
  if (type == DTYPE_F16)
    return TILE_F16;
  return type == DTYPE_BF16 ? TILE_BF16 : TILE_F32;
}

struct tile_value *operand_load_stored(struct build *b, struct frame frame, const struct expr *read)
{
  return load_as(b, frame, read, operand_element(b, frame, read));
}
