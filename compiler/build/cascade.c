#include "compiler/build/cascade.h"

#include "compiler/build/access.h"
#include "compiler/build/passes.h"
#include "compiler/build/split.h"

#include "dsl/expr_fold.h"

/* What a formula knows of the sequence at hand. */
static const uint64_t of_sequence =
    EXPR_DEP(EXPR_VAR_B) | EXPR_DEP(EXPR_VAR_SIZE_NK) | EXPR_DEP(EXPR_VAR_OFFSET);
/* And of the row in it. */
static const uint64_t of_row = EXPR_DEP(EXPR_VAR_R) | EXPR_DEP(EXPR_VAR_I);

static const struct expr *prefix(const struct build *b)
{
  return build_launch_size(b, BUILD_PREFIX);
}

/* ---- which specs ---- */

/* The argument of a cached READ that says whose it is; arg_count of any other node. */
static uint32_t owner_argument(struct build *b, const struct expr *e)
{
  struct storage storage;
  if (e->op != EXPR_READ || !access_is_cached(b, (uint32_t)e->value.i))
    return e->arg_count;
  build_storage(b, (uint32_t)e->value.i, &storage);
  return storage.batch;
}

/* Whether one of the variables is in it otherwise than to say whose key is read. */
static bool holds(struct build *b, const struct expr *root, uint64_t variables)
{
  bool *wanted = ARENA_ARRAY(b->arena, bool, (size_t)root->id + 1);
  wanted[root->id] = true;
  for (uint32_t id = root->id + 1; id-- > 0;) {
    const struct expr *e = b->pool->nodes.items[id];
    if (!wanted[id] || (e->deps & variables) == 0)
      continue;
    if (e->op == EXPR_VAR)
      return true;
    uint32_t owner = owner_argument(b, e);
    for (uint32_t k = 0; k < e->arg_count; k++)
      wanted[e->args[k]->id] |= k != owner;
  }
  return false;
}

/* A key of the cache at its own position, and nothing else that its rows would choose. */
static bool is_shared_read(struct build *b, const struct expr *read, uint32_t owner)
{
  struct storage storage;
  build_storage(b, (uint32_t)read->value.i, &storage);
  for (uint32_t k = 0; k < read->arg_count; k++) {
    bool key = storage.dims[k].kind == DIM_NK && expr_is_var(read->args[k], EXPR_VAR_J);
    if (k != owner && !key &&
        (storage.dims[k].kind == DIM_NK || holds(b, read->args[k], of_sequence | of_row)))
      return false;
  }
  return true;
}

/* Whether the rows of several sequences can have the formula's pairs in one tile. */
static bool is_shared_formula(struct build *b, const struct expr *root)
{
  bool *wanted = ARENA_ARRAY(b->arena, bool, (size_t)root->id + 1);
  wanted[root->id] = true;
  for (uint32_t id = root->id + 1; id-- > 0;) {
    const struct expr *e = b->pool->nodes.items[id];
    if (!wanted[id])
      continue;
    uint32_t owner = owner_argument(b, e);
    bool ranges = e->op == EXPR_RANGE_MIN || e->op == EXPR_RANGE_MAX;
    if (owner < e->arg_count) {
      if (!is_shared_read(b, e, owner))
        return false;
    } else if (e->op == EXPR_READ || ranges) {
      if (ranges || (expr_depends(e, EXPR_VAR_J) && holds(b, e, of_sequence)))
        return false;
    } else if (expr_op_is_binder(e->op) && holds(b, e->args[0], of_sequence | of_row)) {
      return false;
    }
    for (uint32_t k = 0; k < e->arg_count; k++)
      wanted[e->args[k]->id] |= k != owner;
  }
  return true;
}

/* The closed forms of a mask are asked for rows of several sequences at once. */
static bool is_shared_mask(struct build *b)
{
  const struct visibility *v = b->visibility;
  const uint64_t own = EXPR_DEP(EXPR_VAR_B) | EXPR_DEP(EXPR_VAR_OFFSET) | EXPR_DEP(EXPR_VAR_R);
  uint64_t deps = v->must->deps | (v->keys.tested ? v->may->deps : 0);
  for (uint32_t n = 0; n < v->keys.segment_count; n++)
    deps |= v->keys.segments[n].may_lo->deps | v->keys.segments[n].may_hi->deps;
  return (deps & own) == 0 && is_shared_formula(b, b->spec->mask) &&
         !holds(b, b->spec->mask, of_sequence | EXPR_DEP(EXPR_VAR_R));
}

static bool has_residual(struct build *b)
{
  const struct spec_storage *k = cache_storage(b->cache->spec, EXPR_TENSOR_K);
  const struct spec_storage *v = cache_storage(b->cache->spec, EXPR_TENSOR_V);
  return k->residual != 0 || (v != NULL && v->residual != 0);
}

static bool has_checks(struct build *b)
{
  const struct spec *spec = b->spec;
  bool has = checks_needed(b, spec->mask, BOUNDS_MASK) ||
             checks_needed(b, spec->weight, BOUNDS_PAIR) ||
             checks_needed(b, spec->value, BOUNDS_PAIR) ||
             (spec->has_rotary && checks_needed(b, spec->rotary.query_position, BOUNDS_ROW));
  for (uint32_t m = 0; m < spec->map_count; m++)
    has |= checks_needed(b, spec->maps[m].score, BOUNDS_PAIR);
  return has;
}

bool cascade_is_possible(struct build *b)
{
  const struct spec *spec = b->spec;
  bool paged = b->options->shared_prefix && b->reads_cache && !b->packed[0] &&
               cache_layout(b->cache->spec) == CACHE_PAGED;
  if (!paged || b->cache->spec->cache.positions == CACHE_POSITIONS_STORED || has_residual(b) ||
      spec->select.present || b->visibility->keys.segment_count == 0 || has_checks(b) ||
      !is_shared_mask(b))
    return false;
  bool possible = is_shared_formula(b, spec->weight) && is_shared_formula(b, spec->value) &&
                  !holds(b, spec->value, of_sequence) && is_shared_formula(b, spec->offset);
  for (uint32_t m = 0; m < spec->map_count; m++)
    possible &= is_shared_formula(b, spec->maps[m].score);
  if (spec->has_rotary)
    possible &= is_shared_formula(b, spec->rotary.query_position) &&
                !holds(b, spec->rotary.key_position, of_sequence);
  return possible;
}

/* ---- parts ---- */

/* LONG, over the sizes. */
static const struct expr *flat_tiles(struct build *b)
{
  struct expr_pool *pool = b->pool;
  const struct expr *rows = expr_mul(pool, build_long(b, build_var(b, EXPR_VAR_SIZE_B)),
                                     build_long(b, build_var(b, EXPR_VAR_SIZE_NQ)));
  return expr_quotient_up(pool, rows, expr_long(pool, b->prefix_rows));
}

/* As of the other parts (split.h), but that P is not asked: parts beyond it are empty. */
const struct expr *cascade_part_count(struct build *b)
{
  struct expr_pool *pool = b->pool;
  const struct schedule *schedule = &b->options->schedule;
  const struct expr *one = expr_long(pool, 1);
  const struct expr *keys = build_long(b, build_var(b, EXPR_VAR_SIZE_NK));
  const struct expr *least = expr_long(pool, split_least_keys(b));
  const struct expr *parts = expr_quotient_up(pool, keys, least);
  if (schedule->tasks != SCHEDULE_ALL_TASKS) {
    const struct expr *tiles =
        expr_mul(pool, expr_long(pool, b->spec->query_heads / b->share), flat_tiles(b));
    const struct expr *wanted =
        expr_quotient_up(pool, expr_long(pool, schedule->tasks), expr_max(pool, tiles, one));
    parts = expr_min(pool, wanted, expr_quotient(pool, keys, least));
  }
  return expr_min(pool, expr_max(pool, parts, one), expr_long(pool, SPLIT_MOST_PARTS));
}

static struct tile_value *prefix_parts(struct build *b)
{
  return tile_scalar(&b->tile, TILE_INDEX, operand_launch_size(b, cascade_part_count(b)), NULL, 0);
}

/* BOOL: a sequence of that length (INT) has the prefix. */
static const struct expr *has_prefix(struct build *b, const struct expr *length)
{
  return expr_binary(b->pool, EXPR_LE, prefix(b), length);
}

struct tile_value *cascade_merged_parts(struct build *b)
{
  struct expr_pool *pool = b->pool;
  struct tile_value *both[] = {split_part_count(b), prefix_parts(b)};
  const struct expr *own = expr_arg(pool, 0, EXPR_LONG);
  const struct expr *all = expr_add(pool, own, expr_arg(pool, 1, EXPR_LONG));
  const struct expr *shares = has_prefix(b, build_var(b, EXPR_VAR_SIZE_NK));
  return build_index(b, "merged_parts", expr_select(pool, shares, all, own), both, 2);
}

/* ---- formulas of flat rows ---- */

static const struct expr *to_flat(void *user, const struct expr *e);

static const struct expr *flattened(struct build *b, const struct expr *e)
{
  return e == NULL ? NULL : build_transform(b, e, to_flat, b);
}

static const struct expr *flat_offset(struct build *b)
{
  return b->spec->align == ALIGN_START ? expr_int(b->pool, 0) : flattened(b, b->spec->offset);
}

static const struct expr *flat_position(struct build *b)
{
  return expr_add(b->pool, b->flat_row, flat_offset(b));
}

/* Keys are read as they stand: by the leader. */
static const struct expr *to_flat(void *user, const struct expr *e)
{
  struct build *b = user;
  if ((e->deps & (of_sequence | of_row)) == 0 || owner_argument(b, e) < e->arg_count)
    return e;
  if (e->op != EXPR_VAR)
    return NULL;
  switch ((int)e->value.i) {
  case EXPR_VAR_B: return b->flat_sequence;
  case EXPR_VAR_SIZE_NK: return access_length(b, b->flat_sequence);
  case EXPR_VAR_OFFSET: return flat_offset(b);
  case EXPR_VAR_R: return b->flat_row;
  default: return flat_position(b); /* EXPR_VAR_I */
  }
}

/* Rows beyond the last are those of the last sequence. */
static void name_rows(struct build *b)
{
  struct expr_pool *pool = b->pool;
  const struct expr *t = build_var(b, EXPR_VAR_T), *rows = build_var(b, EXPR_VAR_SIZE_NQ);
  const struct expr *last = expr_sub(pool, build_var(b, EXPR_VAR_SIZE_B), expr_int(pool, 1));
  b->flat_sequence = expr_min(pool, expr_quotient(pool, t, rows), last);
  b->flat_row = expr_binary(pool, EXPR_MOD, t, rows);
}

static const struct spec *flat_spec(struct build *b)
{
  struct spec *spec = ARENA_NEW(b->arena, struct spec);
  *spec = *b->spec;
  spec->mask = flattened(b, spec->mask);
  spec->weight = flattened(b, spec->weight);
  spec->value = flattened(b, spec->value);
  for (uint32_t m = 0; m < spec->map_count; m++)
    spec->maps[m].score = flattened(b, spec->maps[m].score);
  if (spec->has_rotary)
    spec->rotary.query_position = flattened(b, spec->rotary.query_position);
  return spec;
}

/* ---- a task of forward_prefix ---- */

static const struct expr *bound(struct build *b)
{
  return expr_bound(b->pool, EXPR_MAX_LEVEL); /* the front end counts from 0 */
}

static const struct expr *fold(struct build *b, enum expr_op op, const struct expr *extent,
                               const struct expr *body)
{
  return expr_binder(b->pool, op, EXPR_MAX_LEVEL, extent, body);
}

/* The first sequence with the prefix; the last where none has. */
static const struct expr *leader(struct build *b)
{
  struct expr_pool *pool = b->pool;
  const struct expr *all = build_var(b, EXPR_VAR_SIZE_B);
  const struct expr *shares = has_prefix(b, access_length(b, bound(b)));
  return fold(b, EXPR_FOLD_MIN, all,
              expr_select(pool, shares, bound(b), expr_sub(pool, all, expr_int(pool, 1))));
}

struct offset_of {
  struct build *b;
  const struct expr *sequence;
};

static const struct expr *to_sequence(void *user, const struct expr *e)
{
  const struct offset_of *of = user;
  if (expr_is_var(e, EXPR_VAR_B))
    return of->sequence;
  if (expr_is_var(e, EXPR_VAR_SIZE_NK))
    return access_length(of->b, of->sequence);
  return (e->deps & of_sequence) == 0 ? e : NULL;
}

/* Positions of the rows at hand. Of sequences that the tile has only some rows of, those of all
 * count, which makes the range larger; sequences without the prefix do not. */
static void set_positions(struct build *b)
{
  struct expr_pool *pool = b->pool;
  const struct expr *queries = build_var(b, EXPR_VAR_SIZE_NQ), *all = build_var(b, EXPR_VAR_SIZE_B);
  const struct expr *one = expr_int(pool, 1), *zero = expr_int(pool, 0);
  const struct expr *t0 = expr_convert(pool, expr_arg(pool, 0, EXPR_LONG), EXPR_INT);
  const struct expr *first = expr_quotient(pool, t0, queries);
  const struct expr *t1 = expr_add(pool, t0, expr_int(pool, b->prefix_rows - 1));
  const struct expr *last =
      expr_min(pool, expr_quotient(pool, t1, queries), expr_sub(pool, all, one));
  const struct expr *count = expr_add(pool, expr_max(pool, expr_sub(pool, last, first), zero), one);
  struct offset_of own = {b, expr_min(pool, expr_add(pool, first, bound(b)), last)};
  struct offset_of of_leader = {b, build_var(b, EXPR_VAR_B)};
  const struct expr *offset = b->spec->align == ALIGN_START ? zero : b->spec->offset;
  const struct expr *body = expr_select(pool, has_prefix(b, access_length(b, own.sequence)),
                                        build_transform(b, offset, to_sequence, &own),
                                        build_transform(b, offset, to_sequence, &of_leader));
  const struct expr *i0 = fold(b, EXPR_FOLD_MIN, count, body);
  const struct expr *i1 =
      expr_add(pool, fold(b, EXPR_FOLD_MAX, count, body), expr_sub(pool, queries, one));
  build_set_var(b, EXPR_VAR_TILE_I0, frame_scalar(),
                build_index(b, "i0", build_long(b, i0), &b->row_base, 1));
  build_set_var(b, EXPR_VAR_TILE_I1, frame_scalar(),
                build_index(b, "i1", build_long(b, i1), &b->row_base, 1));
}

static struct tile_value *narrow(struct build *b, struct tile_value *index, const char *name)
{
  const struct expr *e = expr_convert(b->pool, expr_arg(b->pool, 0, EXPR_LONG), EXPR_INT);
  struct tile_value *value = tile_scalar(&b->tile, TILE_I32, e, &index, 1);
  tile_set_name(&b->tile, value, name);
  return value;
}

/* `indices`: heads of a tile, tile of flat rows. */
static void enter_task(struct build *b, struct tile_value *const *indices)
{
  struct expr_pool *pool = b->pool;
  const struct expr *index = expr_arg(pool, 0, EXPR_LONG);
  const struct frame rows = {CLASS_QUERY, 0, 0};
  b->head_base =
      build_index(b, "h0", expr_mul(pool, index, expr_long(pool, b->share)), &indices[0], 1);
  struct tile_value *kv_head = build_index(
      b, "kv_head", expr_quotient(pool, index, expr_long(pool, b->group)), &b->head_base, 1);
  build_set_var(b, EXPR_VAR_G, frame_scalar(), narrow(b, kv_head, "g"));
  if (b->share == 1)
    build_set_var(b, EXPR_VAR_H, frame_scalar(), narrow(b, b->head_base, "h"));
  build_set_var(b, EXPR_VAR_B, frame_scalar(), build_value(b, frame_scalar(), leader(b)));
  const struct expr *length = access_length(b, build_var(b, EXPR_VAR_B));
  const struct expr *shared =
      expr_select(pool, has_prefix(b, length), prefix(b), expr_int(pool, 0));
  build_set_var(b, EXPR_VAR_SIZE_NK, frame_scalar(), build_value(b, frame_scalar(), shared));

  b->row_base =
      build_index(b, "t0", expr_mul(pool, index, expr_long(pool, b->prefix_rows)), &indices[1], 1);
  const struct expr *all = expr_mul(pool, build_long(b, build_var(b, EXPR_VAR_SIZE_B)),
                                    build_long(b, build_var(b, EXPR_VAR_SIZE_NQ)));
  const struct expr *left =
      expr_min(pool, expr_sub(pool, all, index), expr_long(pool, b->prefix_rows));
  left = expr_mul(pool, expr_max(pool, left, expr_long(pool, 0)), expr_long(pool, b->share));
  b->live_rows = build_index(b, "live_rows", left, &b->row_base, 1);
  build_limit_rows(b);
  set_positions(b);
  build_set_var(b, EXPR_VAR_I, rows, build_value(b, rows, flat_position(b)));
}

struct tile_value *cascade_enter_prefix(struct build *b, struct cascade_frame *frame)
{
  struct expr_pool *pool = b->pool;
  *frame = (struct cascade_frame){b->spec, b->visibility, b->rows};
  b->rows = b->share * b->prefix_rows;
  struct tile_value *parts = prefix_parts(b);
  struct tile_value *extents[] = {
      tile_index(&b->tile, b->spec->query_heads / b->share),
      tile_scalar(&b->tile, TILE_INDEX, operand_launch_size(b, flat_tiles(b)), NULL, 0), parts};
  struct tile_value **indices = tile_parallel(&b->tile, extents, 3)->regions[0]->arguments;
  tile_set_name(&b->tile, indices[2], "part");
  name_rows(b);
  enter_task(b, indices);
  split_cut(b, indices[2], parts);
  b->spec = flat_spec(b);
  struct tile_value *both[] = {indices[2], split_part_count(b)};
  const struct expr *number =
      expr_add(pool, expr_arg(pool, 0, EXPR_LONG), expr_arg(pool, 1, EXPR_LONG));
  return build_index(b, "number", number, both, 2);
}

void cascade_leave_prefix(struct build *b, const struct cascade_frame *frame)
{
  split_leave_part(b);
  b->spec = frame->spec;
  b->rows = frame->rows;
  b->flat_sequence = b->flat_row = NULL;
}

/* ---- what is left for each sequence ---- */

void cascade_begin_rest(struct build *b, struct cascade_frame *frame)
{
  struct expr_pool *pool = b->pool;
  *frame = (struct cascade_frame){b->spec, b->visibility, b->rows};
  const struct expr *from = expr_select(pool, has_prefix(b, build_var(b, EXPR_VAR_SIZE_NK)),
                                        prefix(b), expr_int(pool, 0));
  struct spec *spec = ARENA_NEW(b->arena, struct spec);
  *spec = *b->spec;
  spec->mask =
      expr_and(pool, expr_binary(pool, EXPR_LE, from, build_var(b, EXPR_VAR_J)), spec->mask);
  struct visibility *visibility = ARENA_NEW(b->arena, struct visibility);
  *visibility = *b->visibility;
  const struct expr *begin = build_long(b, from);
  for (uint32_t n = 0; n < visibility->keys.segment_count; n++) {
    struct visibility_segment *segment = &visibility->keys.segments[n];
    segment->may_lo = expr_max(pool, segment->may_lo, begin);
  }
  visibility->must = expr_and(
      pool, expr_binary(pool, EXPR_LE, begin, build_var(b, EXPR_VAR_TILE_J0)), visibility->must);
  b->spec = spec;
  b->visibility = visibility;
}

void cascade_end_rest(struct build *b, const struct cascade_frame *frame)
{
  b->spec = frame->spec;
  b->visibility = frame->visibility;
}
