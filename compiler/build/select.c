/* Block selection (MoBA, Lu et al. 2025; NSA, Yuan et al. 2025): a kernel that ranks the blocks of
 * keys for every row, one that chooses among them, and what the kernels that walk keys read of it.
 */
#include "compiler/build/select.h"

#include "compiler/build/passes.h"
#include "dsl/expr_fold.h"

/* What the ranking kernel says of a block: no key of it is visible; it may be chosen; it must. */
enum { KIND_HIDDEN, KIND_CANDIDATE, KIND_FORCED };

enum { BLOCKS_AT_ONCE = 64, LEAST_COLUMNS = 16 };

static struct frame row_frame(void)
{
  return (struct frame){CLASS_QUERY, 0, 0};
}

static const struct expr *block_count(struct build *b, const struct expr *keys)
{
  struct expr_pool *pool = b->pool;
  uint32_t block = b->spec->select.block;
  return expr_binary(pool, EXPR_FLOORDIV, expr_add(pool, keys, expr_int(pool, block - 1)),
                     expr_int(pool, block));
}

static uint32_t block_workspace(struct build *b, uint32_t number, bool written)
{
  static const char *const names[] = {
      [WORKSPACE_RANKS] = "ranks", [WORKSPACE_KINDS] = "kinds", [WORKSPACE_CHOSEN] = "chosen"};
  const struct workspace workspace = {.number = number,
                                      .name = names[number],
                                      .element = DTYPE_F32,
                                      .columns = block_count(b, build_var(b, EXPR_VAR_SIZE_NK))};
  return build_workspace(b, &workspace, written);
}

/* ---- ranks ---- */

/* The formula `by`, with MAP(n) for means over a block's visible keys of pair formulas. A mean is
 * linear: the dot product with a mean key is the mean of dot products. */
struct ranking {
  struct build *b;
  const struct expr *by;
  const struct expr *means[SPEC_MAX_MAPS];
  uint32_t count;
  bool fits;
};

static bool is_mean(const struct expr *e)
{
  return e->op == EXPR_MEAN;
}

static bool contains_mean(struct build *b, const struct expr *root)
{
  bool *wanted = ARENA_ARRAY(b->arena, bool, (size_t)root->id + 1);
  wanted[root->id] = true;
  for (uint32_t id = root->id + 1; id-- > 0;) {
    const struct expr *e = b->pool->nodes.items[id];
    if (wanted[id] && is_mean(e))
      return true;
    for (uint32_t k = 0; wanted[id] && k < e->arg_count; k++)
      wanted[e->args[k]->id] = true;
  }
  return false;
}

struct key_index {
  struct build *b;
  const struct expr *index;
};

static const struct expr *replace_index(void *user, const struct expr *e)
{
  struct key_index *k = user;
  return e == k->index ? build_var(k->b, EXPR_VAR_J) : NULL;
}

/* The body of a mean at key j: its keys are n * block + BOUND. */
static const struct expr *replace_mean(void *user, const struct expr *e)
{
  struct build *b = user;
  if (e->op != EXPR_MEAN)
    return NULL;
  struct expr_pool *pool = b->pool;
  uint32_t level = (uint32_t)e->value.i;
  const struct expr *first =
      expr_mul(pool, build_var(b, EXPR_VAR_N), expr_int(pool, b->spec->select.block));
  struct key_index key = {b, expr_add(pool, first, expr_bound(pool, level))};
  const struct expr *body = build_transform(b, e->args[1], replace_index, &key);
  const struct expr *place = expr_sub(pool, build_var(b, EXPR_VAR_J), first);
  return build_substitute_bound(b, body, level, place);
}

static const struct expr *replace_means(void *user, const struct expr *e)
{
  struct ranking *r = user;
  struct build *b = r->b;
  if (!contains_mean(b, e))
    return e;
  bool mean = e->op == EXPR_MEAN && e->deps >> EXPR_DEP_BOUND == 0;
  mean |= e->op == EXPR_SUM && e->deps >> EXPR_DEP_BOUND == 0 && !contains_mean(b, e->args[0]) &&
          build_is_linear(b, e->args[1], is_mean);
  if (mean && r->count < SPEC_MAX_MAPS) {
    r->means[r->count] = build_transform(b, e, replace_mean, b);
    return expr_map(b->pool, r->count++);
  }
  r->fits &= !expr_op_is_binder(e->op) && r->count < SPEC_MAX_MAPS;
  return r->fits ? NULL : expr_float(b->pool, 0);
}

static void plan_ranking(struct build *b, struct ranking *r)
{
  *r = (struct ranking){.b = b, .fits = true};
  r->by = build_transform(b, b->spec->select.by, replace_means, r);
}

bool select_is_supported(struct build *b)
{
  struct ranking r;
  plan_ranking(b, &r);
  if (!r.fits)
    build_unsupported(b, b->spec->select.by->span, "a rank that is not linear in means of keys");
  return r.fits;
}

/* ---- the ranking kernel ---- */

struct block {
  struct ranking ranking;
  const struct expr *visible;
  struct tile_value *count; /* [M, 1]: visible keys */
  struct tile_value *sums[SPEC_MAX_MAPS];
};

static struct tile_value *add(struct build *b, struct tile_value *x, struct tile_value *y)
{
  struct expr_pool *pool = b->pool;
  return row_map(&b->tile,
                 expr_add(pool, expr_arg(pool, 0, EXPR_FLOAT), expr_arg(pool, 1, EXPR_FLOAT)), 2, x,
                 y);
}

/* Channels of q and k are in range as written, but no longer known to be. */
static const struct expr *replace_vectors(void *user, const struct expr *e)
{
  struct build *b = user;
  return e->op == EXPR_READ && e->value.i < EXPR_TENSOR_INPUT ? expr_float(b->pool, 0) : NULL;
}

static void visit_keys(struct build *b, struct block *block, struct tile_value *first,
                       struct tile_value *end)
{
  struct expr_pool *pool = b->pool;
  struct tile_builder *t = &b->tile;
  b->key_base = first;
  struct tile_value *ends[] = {end, first};
  const struct expr *left =
      expr_sub(pool, expr_arg(pool, 0, EXPR_LONG), expr_arg(pool, 1, EXPR_LONG));
  b->live_keys = build_index(
      b, "live_keys", expr_binary(pool, EXPR_MIN, left, expr_long(pool, b->columns)), ends, 2);
  const struct expr *next =
      expr_mul(pool, expr_add(pool, build_var(b, EXPR_VAR_N), expr_int(pool, 1)),
               expr_int(pool, b->spec->select.block));
  const struct expr *inside = expr_binary(pool, EXPR_LT, build_var(b, EXPR_VAR_J), next);
  const struct expr *holds = expr_and(pool, block->visible, inside);
  checks_emit(b, frame_pair(), b->spec->mask, BOUNDS_MASK,
              expr_and(pool, build_mask_reached(b), inside));
  struct tile_value *visible = build_tile(b, frame_pair(), holds);
  const struct expr *one =
      expr_select(pool, expr_arg(pool, 0, EXPR_BOOL), expr_float(pool, 1), expr_float(pool, 0));
  block->count = add(b, block->count,
                     tile_reduce(t, TILE_REDUCE_SUM, 1, tile_map(t, TILE_F32, one, &visible, 1)));
  for (uint32_t k = 0; k < block->ranking.count; k++) {
    checks_emit(b, frame_pair(), build_transform(b, block->ranking.means[k], replace_vectors, b),
                BOUNDS_PAIR, expr_and(pool, build_row_lives(b), holds));
    struct tile_value *terms = build_tile(b, frame_pair(), block->ranking.means[k]);
    terms = weights_where(b, visible, NULL, terms);
    block->sums[k] = add(b, block->sums[k], tile_reduce(t, TILE_REDUCE_SUM, 1, terms));
  }
}

/* Sums over the block's keys. */
static void sum_block(struct build *b, struct block *block, struct tile_value *number)
{
  struct expr_pool *pool = b->pool;
  struct tile_builder *t = &b->tile;
  const struct expr *n = expr_arg(pool, 0, EXPR_LONG);
  const struct expr *size = expr_long(pool, b->spec->select.block);
  struct tile_value *first = build_index(b, "first", expr_mul(pool, n, size), &number, 1);
  const struct expr *end =
      expr_binary(pool, EXPR_MIN, expr_mul(pool, expr_add(pool, n, expr_long(pool, 1)), size),
                  build_long(b, build_var(b, EXPR_VAR_SIZE_NK)));
  struct tile_value *last = build_index(b, "end", end, &number, 1);
  struct tile_value *carried[1 + SPEC_MAX_MAPS];
  for (uint32_t k = 0; k <= block->ranking.count; k++)
    carried[k] = tile_splat(t, TILE_F32, b->rows, 1, 0);
  struct tile_op *loop = tile_for(t, first, last, b->columns, carried, block->ranking.count + 1);
  size_t mark = b->values.count;
  struct tile_value **arguments = loop->regions[0]->arguments;
  block->count = arguments[1];
  for (uint32_t k = 0; k < block->ranking.count; k++)
    block->sums[k] = arguments[2 + k];
  visit_keys(b, block, arguments[0], last);
  carried[0] = block->count;
  for (uint32_t k = 0; k < block->ranking.count; k++)
    carried[1 + k] = block->sums[k];
  tile_yield(t, carried, block->ranking.count + 1);
  tile_end_region(t);
  b->values.count = mark;
  block->count = loop->results[0];
  for (uint32_t k = 0; k < block->ranking.count; k++)
    block->sums[k] = loop->results[1 + k];
}

static void rank_block(struct build *b, struct block *block, struct tile_value *number)
{
  struct expr_pool *pool = b->pool;
  struct tile_builder *t = &b->tile;
  const struct spec_select *select = &b->spec->select;
  const struct expr *zero = expr_float(pool, 0);
  const struct expr *first = expr_arg(pool, 0, EXPR_FLOAT), *second = expr_arg(pool, 1, EXPR_FLOAT);
  sum_block(b, block, number);
  const struct expr *mean = expr_select(pool, expr_binary(pool, EXPR_EQ, second, zero), zero,
                                        expr_binary(pool, EXPR_DIV, first, second));
  for (uint32_t k = 0; k < block->ranking.count; k++)
    build_set_value(b, expr_map(pool, k), row_frame(),
                    row_map(t, mean, 2, block->sums[k], block->count));
  const struct expr *count = expr_map(pool, SPEC_MAX_MAPS); /* of visible keys, for the checks */
  build_set_value(b, count, row_frame(), block->count);
  const struct expr *reached =
      expr_and(pool, build_row_sees(b), expr_binary(pool, EXPR_LT, zero, count));
  checks_emit(b, row_frame(), block->ranking.by, BOUNDS_ROW, reached);
  checks_emit(b, row_frame(), select->always, BOUNDS_ROW, reached);
  struct tile_value *rank = build_tile(b, row_frame(), block->ranking.by);
  const struct expr *forced = expr_select(pool, select->always, expr_float(pool, KIND_FORCED),
                                          expr_float(pool, KIND_CANDIDATE));
  struct tile_value *kind = build_tile(b, row_frame(), forced);
  const struct expr *where = expr_select(pool, expr_binary(pool, EXPR_EQ, second, zero),
                                         expr_float(pool, KIND_HIDDEN), first);
  struct placement place = {.column = number,
                            .live_columns = build_value(b, frame_scalar(), expr_long(pool, 1))};
  operand_store(b, block_workspace(b, WORKSPACE_RANKS, true), place,
                row_map(t, where, 2, rank, block->count));
  operand_store(b, block_workspace(b, WORKSPACE_KINDS, true), place,
                row_map(t, where, 2, kind, block->count));
}

static struct tile_value *own_blocks(struct build *b)
{
  return build_index(b, "blocks", build_long(b, block_count(b, build_var(b, EXPR_VAR_SIZE_NK))),
                     NULL, 0);
}

static void build_ranks(struct build *b)
{
  struct expr_pool *pool = b->pool;
  struct tile_builder *t = &b->tile;
  uint32_t columns = b->columns;
  if (b->spec->select.block < columns)
    b->columns = b->spec->select.block;
  build_open_kernel(b, "rank_blocks");
  build_enter_rows(b, build_open_rows(b));
  struct block *block = ARENA_NEW(b->arena, struct block);
  plan_ranking(b, &block->ranking);
  block->visible = build_visible(b);
  for (uint32_t k = 0; k < block->ranking.count; k++)
    build_hoist(b, frame_pair(), block->ranking.means[k]);
  build_hoist(b, frame_pair(), block->visible);
  build_hoist(b, frame_pair(), build_mask_reached(b));
  struct tile_value *zero = build_value(b, frame_scalar(), expr_long(pool, 0));
  struct tile_op *loop = tile_for(t, zero, own_blocks(b), 1, NULL, 0);
  size_t mark = b->values.count;
  struct tile_value *number = loop->regions[0]->arguments[0];
  const struct expr *narrow = expr_convert(pool, expr_arg(pool, 0, EXPR_LONG), EXPR_INT);
  build_set_var(b, EXPR_VAR_N, frame_scalar(), tile_scalar(t, TILE_I32, narrow, &number, 1));
  rank_block(b, block, number);
  tile_yield(t, NULL, 0);
  tile_end_region(t);
  b->values.count = mark;
  tile_end_region(t);
  b->columns = columns;
}

/* ---- the choosing kernel ---- */

struct blocks {
  struct tile_value *rank, *kind; /* [M, width] */
};

/* What the heads that choose together say of `width` blocks from `first`: ranks are added up in the
 * order of the heads, and the strictest kind counts. */
static struct blocks load_blocks(struct build *b, struct tile_value *const *heads,
                                 struct tile_value *first, struct tile_value *live, uint32_t width)
{
  struct expr_pool *pool = b->pool;
  struct tile_builder *t = &b->tile;
  struct tile_type type = tile_type_tile(TILE_F32, b->rows, width);
  struct tile_value *sums[] = {tile_splat(t, TILE_F32, b->rows, width, 0),
                               tile_splat(t, TILE_F32, b->rows, width, 0)};
  struct tile_op *loop = tile_for(t, heads[0], heads[1], 1, sums, 2);
  struct tile_value **arguments = loop->regions[0]->arguments;
  b->head_base = arguments[0];
  struct placement place = {.column = first, .live_columns = live};
  struct tile_value *rank =
      operand_load_tokens(b, block_workspace(b, WORKSPACE_RANKS, false), place, type);
  struct tile_value *kind =
      operand_load_tokens(b, block_workspace(b, WORKSPACE_KINDS, false), place, type);
  const struct expr *larger =
      expr_binary(pool, EXPR_MAX, expr_arg(pool, 0, EXPR_FLOAT), expr_arg(pool, 1, EXPR_FLOAT));
  struct tile_value *next[] = {add(b, arguments[1], rank),
                               row_map(t, larger, 2, arguments[2], kind)};
  tile_yield(t, next, 2);
  tile_end_region(t);
  return (struct blocks){loop->results[0], loop->results[1]};
}

static struct tile_value *live_blocks(struct build *b, struct tile_value *blocks,
                                      struct tile_value *first)
{
  struct expr_pool *pool = b->pool;
  struct tile_value *parts[] = {blocks, first};
  return tile_scalar(&b->tile, TILE_INDEX,
                     expr_sub(pool, expr_arg(pool, 0, EXPR_LONG), expr_arg(pool, 1, EXPR_LONG)),
                     parts, 2);
}

/* [M, 1]: how many blocks are left to choose after the forced ones. */
static struct tile_value *count_left(struct build *b, struct tile_value *const *heads,
                                     struct tile_value *blocks)
{
  struct expr_pool *pool = b->pool;
  struct tile_builder *t = &b->tile;
  const struct expr *top = expr_convert(pool, b->spec->select.top, EXPR_FLOAT);
  struct tile_value *left = build_tile(b, row_frame(), top);
  struct tile_value *zero = build_value(b, frame_scalar(), expr_long(pool, 0));
  struct tile_op *loop = tile_for(t, zero, blocks, BLOCKS_AT_ONCE, &left, 1);
  struct tile_value **arguments = loop->regions[0]->arguments;
  struct blocks at =
      load_blocks(b, heads, arguments[0], live_blocks(b, blocks, arguments[0]), BLOCKS_AT_ONCE);
  const struct expr *kind = expr_arg(pool, 0, EXPR_FLOAT);
  const struct expr *forced =
      expr_select(pool, expr_binary(pool, EXPR_EQ, kind, expr_float(pool, KIND_FORCED)),
                  expr_float(pool, -1), expr_float(pool, 0));
  struct tile_value *taken = tile_reduce(t, TILE_REDUCE_SUM, 1, row_map(t, forced, 1, at.kind));
  struct tile_value *next = add(b, arguments[1], taken);
  tile_yield(t, &next, 1);
  tile_end_region(t);
  return loop->results[0];
}

/* Adds 1 where block `m` (rank and kind [M, 1]) goes before those of the tile. A NaN ranks below
 * everything, ties go to the lowest index. */
static struct tile_value *add_better(struct build *b, struct tile_value *places,
                                     struct blocks other, struct tile_value *m, struct blocks own,
                                     struct tile_value *numbers)
{
  struct expr_pool *pool = b->pool;
  const struct expr *x = expr_arg(pool, 1, EXPR_FLOAT), *y = expr_arg(pool, 3, EXPR_FLOAT);
  const struct expr *kind = expr_arg(pool, 2, EXPR_FLOAT);
  const struct expr *x_nan = expr_binary(pool, EXPR_NE, x, x);
  const struct expr *y_nan = expr_binary(pool, EXPR_NE, y, y);
  const struct expr *better =
      expr_or(pool, expr_binary(pool, EXPR_LT, y, x), expr_and(pool, y_nan, expr_not(pool, x_nan)));
  const struct expr *same =
      expr_or(pool, expr_binary(pool, EXPR_EQ, x, y), expr_and(pool, x_nan, y_nan));
  const struct expr *earlier =
      expr_binary(pool, EXPR_LT, expr_convert(pool, expr_arg(pool, 4, EXPR_LONG), EXPR_INT),
                  expr_arg(pool, 5, EXPR_INT));
  const struct expr *counts =
      expr_and(pool, expr_binary(pool, EXPR_EQ, kind, expr_float(pool, KIND_CANDIDATE)),
               expr_or(pool, better, expr_and(pool, same, earlier)));
  const struct expr *sum =
      expr_add(pool, expr_arg(pool, 0, EXPR_FLOAT),
               expr_select(pool, counts, expr_float(pool, 1), expr_float(pool, 0)));
  return row_map(&b->tile, sum, 6, places, other.rank, other.kind, own.rank, m, numbers);
}

static void choose_tile(struct build *b, struct tile_value *const *heads, struct tile_value *first,
                        struct tile_value *blocks, struct tile_value *left)
{
  struct expr_pool *pool = b->pool;
  struct tile_builder *t = &b->tile;
  struct tile_value *live = live_blocks(b, blocks, first);
  struct blocks own = load_blocks(b, heads, first, live, BLOCKS_AT_ONCE);
  struct tile_value *numbers = tile_iota(t, first, 1, BLOCKS_AT_ONCE);
  struct tile_value *places = tile_splat(t, TILE_F32, b->rows, BLOCKS_AT_ONCE, 0);
  struct tile_value *zero = build_value(b, frame_scalar(), expr_long(pool, 0));
  struct tile_value *one = build_value(b, frame_scalar(), expr_long(pool, 1));
  struct tile_op *loop = tile_for(t, zero, blocks, 1, &places, 1);
  struct tile_value **arguments = loop->regions[0]->arguments;
  struct blocks other = load_blocks(b, heads, arguments[0], one, 1);
  places = add_better(b, arguments[1], other, arguments[0], own, numbers);
  tile_yield(t, &places, 1);
  tile_end_region(t);
  const struct expr *kind = expr_arg(pool, 0, EXPR_FLOAT);
  const struct expr *wins =
      expr_binary(pool, EXPR_LT, expr_arg(pool, 1, EXPR_FLOAT), expr_arg(pool, 2, EXPR_FLOAT));
  wins = expr_and(pool, expr_binary(pool, EXPR_EQ, kind, expr_float(pool, KIND_CANDIDATE)), wins);
  wins = expr_or(pool, expr_binary(pool, EXPR_EQ, kind, expr_float(pool, KIND_FORCED)), wins);
  struct tile_value *chosen =
      row_map(t, expr_select(pool, wins, expr_float(pool, 1), expr_float(pool, 0)), 3, own.kind,
              loop->results[0], left);
  struct tile_op *each = tile_for(t, heads[0], heads[1], 1, NULL, 0);
  b->head_base = each->regions[0]->arguments[0];
  operand_store(b, block_workspace(b, WORKSPACE_CHOSEN, true),
                (struct placement){.column = first, .live_columns = live}, chosen);
  tile_yield(t, NULL, 0);
  tile_end_region(t);
}

static void build_choice(struct build *b)
{
  struct expr_pool *pool = b->pool;
  struct tile_builder *t = &b->tile;
  uint32_t share = b->share, tile_rows = b->tile_rows;
  uint32_t together = b->spec->select.per_group ? b->group : 1;
  b->share = together; /* heads of a task; they are walked, not packed */
  b->tile_rows = b->rows;
  build_open_kernel(b, "choose_blocks");
  struct tile_value **indices = build_open_rows(b);
  b->share = 1;
  const struct expr *index = expr_arg(pool, 0, EXPR_LONG);
  struct tile_value *first =
      tile_scalar(t, TILE_INDEX, expr_mul(pool, index, expr_long(pool, together)), &indices[1], 1);
  struct tile_value *end =
      tile_scalar(t, TILE_INDEX, expr_add(pool, index, expr_long(pool, together)), &first, 1);
  struct tile_value *task[] = {indices[0], first, indices[2]};
  build_enter_rows(b, task);
  struct tile_value *heads[] = {first, end};
  struct tile_value *blocks = own_blocks(b);
  struct tile_value *left = count_left(b, heads, blocks);
  struct tile_value *zero = build_value(b, frame_scalar(), expr_long(pool, 0));
  build_value(b, frame_scalar(), expr_long(pool, 1));
  struct tile_op *loop = tile_for(t, zero, blocks, BLOCKS_AT_ONCE, NULL, 0);
  choose_tile(b, heads, loop->regions[0]->arguments[0], blocks, left);
  tile_yield(t, NULL, 0);
  tile_end_region(t);
  tile_end_region(t);
  b->share = share;
  b->tile_rows = tile_rows;
}

void select_build(struct build *b)
{
  build_ranks(b);
  build_choice(b);
}

/* ---- what walks over keys read ---- */

uint32_t select_columns(const struct spec *spec, uint32_t columns)
{
  for (uint32_t n = columns; n >= LEAST_COLUMNS && spec->select.present; n--)
    if (spec->select.block % n == 0)
      return n;
  return columns;
}

const struct expr *select_chosen(struct build *b)
{
  const struct expr *choice = expr_map(b->pool, SPEC_MAX_MAPS);
  return expr_binary(b->pool, EXPR_LT, expr_float(b->pool, 0), choice);
}

/* [M, N] from [M, W] columns, of the W blocks that the tile's keys may lie in. */
static struct tile_value *spread_blocks(struct build *b, struct tile_value *first)
{
  struct expr_pool *pool = b->pool;
  struct tile_builder *t = &b->tile;
  const struct expr *size = expr_long(pool, b->spec->select.block);
  uint32_t width = (b->columns - 1) / b->spec->select.block + 2;
  struct placement place = {.column = first, .live_columns = live_blocks(b, own_blocks(b), first)};
  struct tile_value *chosen = operand_load_tokens(b, block_workspace(b, WORKSPACE_CHOSEN, false),
                                                  place, tile_type_tile(TILE_F32, b->rows, width));
  const struct expr *key = expr_convert(pool, expr_arg(pool, 1, EXPR_INT), EXPR_LONG);
  const struct expr *own = expr_binary(pool, EXPR_EQ, expr_binary(pool, EXPR_FLOORDIV, key, size),
                                       expr_convert(pool, expr_arg(pool, 0, EXPR_INT), EXPR_LONG));
  struct tile_value *positions = build_value(b, frame_pair(), build_var(b, EXPR_VAR_J));
  struct tile_value *spread =
      row_map(t, expr_select(pool, own, expr_float(pool, 1), expr_float(pool, 0)), 2,
              tile_iota(t, first, width, 1), positions);
  return tile_product(t, chosen, false, spread, false, NULL);
}

struct tile_value *select_enter_tile(struct build *b)
{
  struct expr_pool *pool = b->pool;
  struct tile_builder *t = &b->tile;
  uint32_t block = b->spec->select.block;
  const struct expr *n =
      expr_binary(pool, EXPR_FLOORDIV, expr_arg(pool, 0, EXPR_LONG), expr_long(pool, block));
  struct tile_value *first = build_index(b, "block", n, &b->key_base, 1);
  struct tile_value *chosen;
  if (block % b->columns == 0 || block == 1) {
    bool one = block != 1;
    struct placement place = {
        .column = first,
        .live_columns = one ? build_value(b, frame_scalar(), expr_long(pool, 1)) : b->live_keys};
    chosen = operand_load_tokens(b, block_workspace(b, WORKSPACE_CHOSEN, false), place,
                                 tile_type_tile(TILE_F32, b->rows, one ? 1 : b->columns));
  } else {
    chosen = spread_blocks(b, first);
  }
  build_set_value(b, expr_map(pool, SPEC_MAX_MAPS), frame_pair(), chosen);
  const struct expr *holds =
      expr_binary(pool, EXPR_LT, expr_float(pool, 0), expr_arg(pool, 0, EXPR_FLOAT));
  struct tile_value *any = row_map(t, holds, 1, chosen);
  if (any->type.columns > 1)
    any = tile_reduce(t, TILE_REDUCE_ANY, 1, any);
  return tile_reduce(t, TILE_REDUCE_ANY, 0, any);
}
