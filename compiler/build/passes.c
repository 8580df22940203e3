/* The walk over keys. What hides pairs, which formulas are checked and how scores are made is the
 * same for every walk; what is done with a tile of scores is the walk's own. */
#include "compiler/build/passes.h"

#include "compiler/build/access.h"
#include "compiler/build/select.h"

void pass_carry(struct pass *pass, struct tile_value **value)
{
  if (*value != NULL)
    pass->carried[pass->carried_count++] = value;
}

void pass_carry_state(struct pass *pass, struct build_map *map)
{
  struct tile_value **fields[ROWS_MAX_STATE];
  size_t count = row_state_fields(&map->state, fields);
  for (size_t k = 0; k < count; k++)
    pass_carry(pass, fields[k]);
  pass_carry(pass, &map->top);
}

/* ---- the columns that rows of a partial tile may see ---- */

/* Lowered before a walk: [lo, hi) of each segment for rows TILE_I0 to TILE_I1 of the tile, as
 * positions. */
struct pass_limits {
  struct lowering columns;
  uint32_t count;
  const struct expr *lo[VISIBILITY_MAX_SEGMENTS], *hi[VISIBILITY_MAX_SEGMENTS];
};

/* What the analysis says of a tile of rows, for some of them. TILE_J0 and TILE_J1, which no segment
 * of keys holds, stand for the rows' numbers until all is lowered. */
static const struct expr *for_some_rows(struct build *b, struct lowering *l, const struct expr *e)
{
  static const enum expr_var ends[][2] = {{EXPR_VAR_TILE_I0, EXPR_VAR_TILE_J0},
                                          {EXPR_VAR_TILE_I1, EXPR_VAR_TILE_J1}};
  struct expr_pool *pool = b->pool;
  const struct expr *first = expr_arg(pool, 0, EXPR_LONG), *last = expr_arg(pool, 1, EXPR_LONG);
  for (int k = 0; k < 2; k++) {
    const struct expr *token =
        expr_binary(pool, EXPR_FLOORDIV, build_var(b, ends[k][1]), expr_long(pool, b->share));
    const struct expr *row = expr_binary(pool, EXPR_MIN, expr_add(pool, first, token), last);
    e = expr_substitute(pool, e, ends[k][0], row);
  }
  e = lower_expr(l, e);
  for (int k = 0; k < 2; k++)
    e = expr_substitute(pool, e, ends[k][1], build_var(b, ends[k][0]));
  return e;
}

static void lower_limits(struct build *b, struct pass_limits *limits)
{
  const struct visibility_walk *keys = &b->visibility->keys;
  struct lowering *l = &limits->columns;
  *l = (struct lowering){.b = b, .frame = frame_scalar()};
  vector_push(b->arena, &l->operands,
              build_value(b, frame_scalar(), build_var(b, EXPR_VAR_TILE_I0)));
  vector_push(b->arena, &l->operands,
              build_value(b, frame_scalar(), build_var(b, EXPR_VAR_TILE_I1)));
  limits->count = keys->segment_count;
  for (uint32_t n = 0; n < limits->count; n++) {
    limits->lo[n] = for_some_rows(b, l, keys->segments[n].may_lo);
    limits->hi[n] = for_some_rows(b, l, keys->segments[n].may_hi);
  }
}

/* Says of a tile of pairs that only keys from the first to the last that a segment holds inside
 * the tile are of interest, and there only where `mask` is true (NULL: not to be looked at). */
static void limit_tile(struct build *b, const struct pass_limits *limits, struct tile_value *tile,
                       struct tile_value *mask)
{
  struct expr_pool *pool = b->pool;
  bool pairs = tile->def != NULL && tile->def->parent == b->tile.region &&
               tile->type.rows == b->rows && tile->type.columns == b->columns;
  if (!pairs)
    return;
  bool is_mask = mask != NULL && mask != tile && mask->type.kind == TILE_KIND_TILE &&
                 mask->type.rows == b->rows && mask->type.columns == b->columns;
  struct tile_value **operands =
      ARENA_ARRAY(b->arena, struct tile_value *, limits->columns.operands.count + 1);
  uint32_t count = (uint32_t)limits->columns.operands.count;
  for (uint32_t k = 0; k < count; k++)
    operands[k] = limits->columns.operands.items[k];
  operands[count] = b->key_base;
  const struct expr *begin = expr_arg(pool, count, EXPR_LONG);
  const struct expr *end = expr_add(pool, begin, expr_long(pool, b->columns));
  const struct expr *from = end, *to = begin;
  for (uint32_t n = 0; n < limits->count; n++) {
    const struct expr *lo = expr_binary(pool, EXPR_MAX, limits->lo[n], begin);
    const struct expr *hi = expr_binary(pool, EXPR_MIN, limits->hi[n], end);
    const struct expr *some = expr_binary(pool, EXPR_LT, lo, hi);
    from = expr_binary(pool, EXPR_MIN, from, expr_select(pool, some, lo, end));
    to = expr_binary(pool, EXPR_MAX, to, expr_select(pool, some, hi, begin));
  }
  if (limits->count == 1) {
    from = limits->lo[0];
    to = limits->hi[0];
  }
  tile_limit_columns(&b->tile, tile, expr_sub(pool, from, begin), expr_sub(pool, to, begin),
                     operands, count + 1, is_mask ? mask : NULL);
}

/* ---- a tile ---- */

static void check_formulas(struct build *b, const struct pass *pass, struct pass_tile *tile)
{
  struct expr_pool *pool = b->pool;
  const struct spec *spec = b->spec;
  unsigned wanted = tile->checks;
  tile->reached = expr_and(pool, build_row_lives(b),
                           tile->partial ? pass->maps->visible : pass->maps->always_seen);
  if (tile->partial && (wanted & CHECK_MASK) != 0)
    checks_emit(b, frame_pair(), spec->mask, BOUNDS_MASK, build_mask_reached(b));
  for (uint32_t m = 0; m < spec->map_count && (wanted & CHECK_SCORES) != 0; m++)
    checks_emit(b, frame_pair(), spec->maps[m].score, BOUNDS_PAIR, tile->reached);
  if ((wanted & CHECK_WEIGHT) != 0)
    checks_emit(b, frame_pair(), spec->weight, BOUNDS_PAIR, tile->reached);
}

void pass_enter_tile(struct build *b, const struct pass *pass, struct pass_tile *tile)
{
  const struct expr *visible = tile->partial ? pass->maps->visible : pass->maps->always_seen;
  tile->checks = pass->checks;
  tile->visible = expr_is_true(visible) ? NULL : build_value(b, frame_pair(), visible);
  /* What has no closed form is left to the mask itself, which is then made whole. */
  struct tile_value *mask = b->visibility->keys.tested ? tile->visible : NULL;
  if (tile->limits != NULL && tile->visible != NULL && mask == NULL)
    limit_tile(b, tile->limits, tile->visible, NULL);
  if (tile->checks != 0)
    check_formulas(b, pass, tile);
  for (uint32_t m = 0; m < pass->maps->count; m++)
    if ((pass->wanted >> m & 1) != 0) {
      tile->scores[m] = build_tile(b, frame_pair(), pass->maps->items[m].score);
      if (tile->limits != NULL)
        limit_tile(b, tile->limits, tile->scores[m], mask);
    }
}

struct row_scores pass_row_scores(struct build *b, const struct pass_tile *tile,
                                  const struct build_maps *maps, uint32_t map)
{
  struct row_scores scores = {.scores = tile->scores[map], .visible = tile->visible};
  if (maps->items[map].algebra->wants_keys)
    scores.keys = build_value(b, frame_pair(), build_var(b, EXPR_VAR_J));
  return scores;
}

/* ---- the walk ---- */

/* The carried values, as `visit` leaves them, are what the region at hand yields. */
static void visit_tile(struct build *b, struct pass *pass, bool partial)
{
  struct pass_tile tile = {.partial = partial, .limits = partial ? pass->limits : NULL};
  pass_enter_tile(b, pass, &tile);
  pass->visit(b, pass->user, &tile);
  struct tile_value *carried[PASS_MAX_CARRIED];
  for (uint32_t k = 0; k < pass->carried_count; k++)
    carried[k] = *pass->carried[k];
  tile_yield(&b->tile, carried, pass->carried_count);
}

/* The same where some row chose a block of the tile; otherwise nothing changes. */
static void visit_chosen(struct build *b, struct pass *pass, const struct tile_region *region,
                         bool partial)
{
  struct tile_type types[PASS_MAX_CARRIED];
  for (uint32_t k = 0; k < pass->carried_count; k++)
    types[k] = (*pass->carried[k])->type;
  struct tile_op *choice = tile_if(&b->tile, select_enter_tile(b), types, pass->carried_count);
  visit_tile(b, pass, partial);
  tile_open_region(&b->tile, choice, 1);
  tile_yield(&b->tile, region->arguments + 1, pass->carried_count);
  tile_end_region(&b->tile);
  tile_yield(&b->tile, choice->results, pass->carried_count);
}

/* One region. Where all pairs are visible nothing is masked. */
static void visit_region(struct build *b, struct pass *pass, const struct tile_region *region,
                         bool partial)
{
  struct expr_pool *pool = b->pool;
  struct tile_builder *t = &b->tile;
  size_t mark = b->values.count;
  b->key_base = region->arguments[0];
  tile_set_name(t, b->key_base, "j0");
  for (uint32_t k = 0; k < pass->carried_count; k++)
    *pass->carried[k] = region->arguments[1 + k];
  const struct expr *step = expr_long(pool, b->columns);
  if (partial) {
    const struct expr *left =
        expr_sub(pool, build_long(b, build_var(b, EXPR_VAR_SIZE_NK)), expr_arg(pool, 0, EXPR_LONG));
    b->live_keys =
        build_index(b, "live_keys", expr_binary(pool, EXPR_MIN, left, step), &b->key_base, 1);
  } else {
    b->live_keys = build_value(b, frame_scalar(), step);
  }
  if (b->spec->select.present)
    visit_chosen(b, pass, region, partial);
  else
    visit_tile(b, pass, partial);
  b->values.count = mark;
}

void pass_segments(struct build *b, struct tile_value **ends)
{
  struct expr_pool *pool = b->pool;
  const struct visibility_walk *keys = &b->visibility->keys;
  const struct expr *some_row =
      expr_binary(pool, EXPR_LT, expr_long(pool, 0), expr_arg(pool, 0, EXPR_LONG));
  for (uint32_t n = 0; n < keys->segment_count; n++) {
    const struct expr *lo = keys->segments[n].may_lo, *hi = keys->segments[n].may_hi;
    if (b->packed[0]) /* a tile beyond the last row of a shorter sequence sees no key */
      hi = expr_select(pool, some_row, hi, lo);
    ends[2 * n] = build_index(b, "lo", lo, NULL, 0);
    ends[2 * n + 1] = build_index(b, "hi", hi, &b->live_rows, b->packed[0] ? 1 : 0);
  }
}

/* Operands and test expressions of the walk. */
struct walk_operands {
  struct tile_value *segments[2 * VISIBILITY_MAX_SEGMENTS];
  struct lowering tests;
  const struct expr *may, *must;
};

static void lower_walk(struct build *b, struct walk_operands *w)
{
  const struct visibility_walk *keys = &b->visibility->keys;
  if (b->cut_segments == NULL)
    pass_segments(b, w->segments);
  for (uint32_t n = 0; b->cut_segments != NULL && n < 2 * keys->segment_count; n++)
    w->segments[n] = b->cut_segments[n];
  w->tests = (struct lowering){.b = b, .frame = frame_scalar()};
  w->may = lower_expr(&w->tests, keys->tested ? b->visibility->may : expr_bool(b->pool, true));
  w->must = lower_expr(&w->tests, b->visibility->must);
}

/* The tiles of `segments`. */
static void walk_segments(struct build *b, struct pass *pass, const struct walk_operands *w,
                          struct tile_value *const *segments)
{
  struct tile_value *carried[PASS_MAX_CARRIED];
  for (uint32_t k = 0; k < pass->carried_count; k++)
    carried[k] = *pass->carried[k];
  struct tile_op *op = tile_for_segments(
      &b->tile, b->columns, segments, b->visibility->keys.segment_count, w->tests.operands.items,
      w->tests.operands.count, w->may, w->must, carried, pass->carried_count);
  visit_region(b, pass, op->regions[0], false);
  tile_open_region(&b->tile, op, 1);
  visit_region(b, pass, op->regions[1], true);
  tile_end_region(&b->tile);
  for (uint32_t k = 0; k < pass->carried_count; k++)
    *pass->carried[k] = op->results[k];
}

/* The tiles before `seam`, a multiple of the tile, or those from there on. */
static void walk_side(struct build *b, struct pass *pass, const struct walk_operands *w,
                      struct tile_value *seam, bool before)
{
  struct expr_pool *pool = b->pool;
  struct walk_operands own = *w;
  const struct expr *end = expr_arg(pool, 0, EXPR_LONG), *at = expr_arg(pool, 1, EXPR_LONG);
  /* A residual is a few tiles: a body for those without a mask would take longer to compile than it
   * saves. */
  if (!before && b->options->target == TARGET_HOST)
    own.must = expr_bool(pool, false);
  struct tile_value *segments[2 * VISIBILITY_MAX_SEGMENTS];
  for (uint32_t n = 0; n < 2 * b->visibility->keys.segment_count; n++) {
    struct tile_value *both[] = {w->segments[n], seam};
    const bool lower = n % 2 == 0;
    segments[n] =
        lower == before
            ? w->segments[n]
            : build_index(b, lower ? "lo" : "hi",
                          expr_binary(pool, lower ? EXPR_MAX : EXPR_MIN, end, at), both, 2);
  }
  walk_segments(b, pass, &own, segments);
}

/* Where the first tile begins that may hold keys of a residual, index; NULL where there is none. */
static struct tile_value *recent_seam(struct build *b)
{
  const struct expr *from = access_recent_keys(b), *step = expr_long(b->pool, b->columns);
  if (from == NULL)
    return NULL;
  from = expr_binary(b->pool, EXPR_MAX, build_long(b, from), expr_long(b->pool, 0));
  const struct expr *tiles = expr_binary(b->pool, EXPR_FLOORDIV, from, step);
  return build_index(b, "recent_from", expr_mul(b->pool, tiles, step), NULL, 0);
}

/* What a cache keeps in codes and what it keeps in a residual have a loop each, so that no loop has
 * to ask for every tile. */
void pass_walk(struct build *b, struct pass *pass)
{
  if (b->visibility->keys.segment_count == 0)
    return;
  struct walk_operands w;
  struct pass_limits limits;
  lower_walk(b, &w);
  if (!pass->whole && b->options->target == TARGET_HOST) {
    lower_limits(b, &limits);
    pass->limits = &limits;
  }
  struct tile_value *seam = recent_seam(b);
  if (seam == NULL) {
    walk_segments(b, pass, &w, w.segments);
  } else {
    b->before_recent = true;
    walk_side(b, pass, &w, seam, true);
    b->before_recent = false;
    walk_side(b, pass, &w, seam, false);
  }
  pass->limits = NULL;
}
