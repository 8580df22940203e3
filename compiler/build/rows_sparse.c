/* Hardmax and sparsemax: all weight goes to the best key, or to a few. */
#include "compiler/build/rows.h"

#include <math.h>

#define ARGUMENT(n) expr_arg(b->program->pool, n, EXPR_FLOAT)
#define POSITION(n) expr_arg(b->program->pool, n, EXPR_INT)

static const struct expr *number(struct tile_builder *b, double value)
{
  return expr_float(b->program->pool, value);
}

static const struct expr *is_nan(struct tile_builder *b, const struct expr *e)
{
  return expr_binary(b->program->pool, EXPR_NE, e, e);
}

/* ---- hardmax: the first key of the largest score ---- */

static struct row_state hardmax_init(struct tile_builder *b, uint32_t rows)
{
  struct row_state state = {.factor = 1};
  state.maximum = tile_splat(b, TILE_F32, rows, 1, -(double)INFINITY);
  state.winner = tile_splat(b, TILE_I32, rows, 1, -1);
  return state;
}

/* 1 at the winner's position, else 0; NaN throughout where the maximum is NaN. */
static struct tile_value *one_hot(struct tile_builder *b, struct tile_value *keys,
                                  struct tile_value *winner, struct tile_value *maximum,
                                  struct tile_value *visible)
{
  struct expr_pool *pool = b->program->pool;
  const struct expr *wins = expr_binary(pool, EXPR_EQ, POSITION(0), POSITION(1));
  const struct expr *e = expr_select(pool, wins, number(b, 1), number(b, 0));
  e = expr_select(pool, is_nan(b, ARGUMENT(2)), ARGUMENT(2), e);
  struct tile_value *weights = row_map(b, e, 3, keys, winner, maximum);
  return row_where_visible(b, visible, weights, 0);
}

static struct tile_value *hardmax_update(struct tile_builder *b, struct row_state *state,
                                         const struct row_scores *tile, struct tile_value **rescale)
{
  struct expr_pool *pool = b->program->pool;
  struct tile_value *shown = row_where_visible(b, tile->visible, tile->scores, -(double)INFINITY);
  struct tile_value *best = row_largest(b, shown);
  const struct expr *is_best = expr_binary(pool, EXPR_EQ, ARGUMENT(0), ARGUMENT(1));
  const struct expr *place = expr_select(pool, is_best, POSITION(2), expr_int(pool, INT32_MAX));
  struct tile_value *first =
      tile_reduce(b, TILE_REDUCE_MIN, 1, row_map(b, place, 3, shown, best, tile->keys));
  /* Later tiles win by being larger only: the lowest position takes a tie. */
  const struct expr *better = expr_binary(pool, EXPR_LT, ARGUMENT(0), ARGUMENT(1));
  *rescale =
      row_map(b, expr_select(pool, better, number(b, 0), number(b, 1)), 2, state->maximum, best);
  state->winner = row_map(b, expr_select(pool, better, POSITION(2), POSITION(3)), 4, state->maximum,
                          best, first, state->winner);
  state->maximum = row_larger(b, state->maximum, best);
  return one_hot(b, tile->keys, state->winner, state->maximum, tile->visible);
}

static void hardmax_merge_one(struct tile_builder *b, struct row_state *into,
                              struct tile_value **accumulators, const struct row_part *part,
                              size_t count)
{
  const struct row_state *from = part->state;
  struct expr_pool *pool = b->program->pool;
  const struct expr *less = expr_binary(pool, EXPR_LT, ARGUMENT(0), ARGUMENT(1));
  const struct expr *same = expr_binary(pool, EXPR_EQ, ARGUMENT(0), ARGUMENT(1));
  const struct expr *earlier = expr_binary(pool, EXPR_LT, POSITION(3), POSITION(2));
  const struct expr *seen = expr_not(pool, row_is_nothing(b, ARGUMENT(1)));
  const struct expr *other =
      expr_or(pool, less, expr_and(pool, expr_and(pool, same, seen), earlier));
  other = expr_or(pool, other, is_nan(b, ARGUMENT(1))); /* which then stays the maximum */
  struct tile_value *taken =
      row_map(b, other, 4, into->maximum, from->maximum, into->winner, from->winner);
  const struct expr *by_taken = expr_arg(pool, 0, EXPR_BOOL);
  into->winner = row_map(b, expr_select(pool, by_taken, POSITION(1), POSITION(2)), 3, taken,
                         from->winner, into->winner);
  into->maximum = row_larger(b, into->maximum, from->maximum);
  for (size_t k = 0; k < count; k++)
    accumulators[k] = row_map(b, expr_select(pool, by_taken, ARGUMENT(1), ARGUMENT(2)), 3, taken,
                              part->accumulators[k], accumulators[k]);
}

static void hardmax_merge(struct tile_builder *b, struct row_state *into,
                          struct tile_value **accumulators, size_t count,
                          const struct row_part *parts, size_t part_count)
{
  for (size_t n = 0; n < part_count; n++)
    hardmax_merge_one(b, into, accumulators, &parts[n], count);
}

static struct tile_value *hardmax_finish(struct tile_builder *b, const struct row_state *state,
                                         const struct row_rest *rest,
                                         struct tile_value *accumulator)
{
  (void)rest;
  return row_seen(b, state->maximum, NULL, accumulator);
}

static struct row_norm hardmax_norm(struct tile_builder *b, const struct row_state *state,
                                    const struct row_rest *rest)
{
  (void)b;
  (void)rest;
  return (struct row_norm){{state->maximum, state->winner}, 2, 1};
}

static struct tile_value *hardmax_weigh(struct tile_builder *b, const struct row_norm *norm,
                                        const struct row_scores *tile)
{
  return one_hot(b, tile->keys, norm->values[1], norm->values[0], tile->visible);
}

const struct row_algebra row_algebra_hardmax = {.score_factor = 1,
                                                .bounded = true,
                                                .norms = 2,
                                                .wants_keys = true,
                                                .init = hardmax_init,
                                                .update = hardmax_update,
                                                .merge = hardmax_merge,
                                                .finish = hardmax_finish,
                                                .close = hardmax_norm,
                                                .weigh = hardmax_weigh};

/* ---- sparsemax: weights max(s - tau, 0) that sum to 1 (Martins and Astudillo 2016) ----
 *
 * With d = s - max, the threshold t = tau - max is the root of f(t) = sum of max(d - t, 0) - 1,
 * which is convex, falls, and lies in [-1, 0). A walk evaluates f at `low` and at the middle of
 * [low, high]. A Newton step from the left of the root, t = (sum of the d above t - 1) / (number of
 * them), never passes it and reaches it when the support no longer changes (Michelot 1986); the
 * middle halves the interval, so that `passes` walks leave less than f32 resolves even where Newton
 * crawls. A row has settled when the Newton step does not move it. */

enum { SPARSEMAX_PASSES = 32 };

static struct row_state sparsemax_init(struct tile_builder *b, uint32_t rows)
{
  struct row_state state = {.factor = 1};
  state.maximum = tile_splat(b, TILE_F32, rows, 1, -(double)INFINITY);
  state.low = tile_splat(b, TILE_F32, rows, 1, -1);
  state.high = tile_splat(b, TILE_F32, rows, 1, 0);
  return state;
}

static struct tile_value *sparsemax_update(struct tile_builder *b, struct row_state *state,
                                           const struct row_scores *tile,
                                           struct tile_value **rescale)
{
  *rescale = NULL;
  struct tile_value *shown = row_where_visible(b, tile->visible, tile->scores, -(double)INFINITY);
  state->maximum = row_larger(b, state->maximum, row_largest(b, shown));
  return NULL;
}

static void sparsemax_merge(struct tile_builder *b, struct row_state *into,
                            struct tile_value **accumulators, size_t count,
                            const struct row_part *parts, size_t part_count)
{
  (void)accumulators; /* there is none before the threshold is known */
  (void)count;
  for (size_t n = 0; n < part_count; n++)
    into->maximum = row_larger(b, into->maximum, parts[n].state->maximum);
}

static struct tile_value *sparsemax_open(struct tile_builder *b, const struct row_state *state)
{
  return row_map(b, expr_binary(b->program->pool, EXPR_LT, ARGUMENT(0), ARGUMENT(1)), 2, state->low,
                 state->high);
}

/* Number and sum of the d above `low`, the same for the middle. */
static size_t sparsemax_begin(struct tile_builder *b, uint32_t rows,
                              struct tile_value *probe[ROWS_MAX_PROBE])
{
  for (size_t k = 0; k < ROWS_MAX_PROBE; k++)
    probe[k] = tile_splat(b, TILE_F32, rows, 1, 0);
  return ROWS_MAX_PROBE;
}

static struct tile_value *middle(struct tile_builder *b, const struct row_state *state)
{
  struct expr_pool *pool = b->program->pool;
  const struct expr *e = expr_mul(pool, expr_add(pool, ARGUMENT(0), ARGUMENT(1)), number(b, 0.5));
  return row_map(b, e, 2, state->low, state->high);
}

static void sparsemax_look(struct tile_builder *b, const struct row_state *state,
                           const struct row_scores *tile, struct tile_value *probe[ROWS_MAX_PROBE])
{
  struct expr_pool *pool = b->program->pool;
  struct tile_value *base = row_finite_base(b, state->maximum);
  struct tile_value *d =
      row_map(b, expr_sub(pool, ARGUMENT(0), ARGUMENT(1)), 2, tile->scores, base);
  d = row_where_visible(b, tile->visible, d, -(double)INFINITY);
  struct tile_value *points[] = {state->low, middle(b, state)};
  const struct expr *above = expr_binary(pool, EXPR_LT, ARGUMENT(1), ARGUMENT(0));
  const struct expr *parts[] = {expr_select(pool, above, number(b, 1), number(b, 0)),
                                expr_select(pool, above, ARGUMENT(0), number(b, 0))};
  for (size_t k = 0; k < ROWS_MAX_PROBE; k++) {
    struct tile_value *part = row_map(b, parts[k % 2], 2, d, points[k / 2]);
    part = tile_reduce(b, TILE_REDUCE_SUM, 1, part);
    probe[k] = row_map(b, expr_add(pool, ARGUMENT(0), ARGUMENT(1)), 2, probe[k], part);
  }
}

static void sparsemax_step(struct tile_builder *b, struct row_state *state,
                           struct tile_value *const probe[ROWS_MAX_PROBE])
{
  struct expr_pool *pool = b->program->pool;
  struct tile_value *mid = middle(b, state);
  const struct expr *newton =
      expr_binary(pool, EXPR_DIV, expr_sub(pool, ARGUMENT(1), number(b, 1)), ARGUMENT(0));
  struct tile_value *from_low = row_map(b, newton, 2, probe[0], probe[1]);
  struct tile_value *from_mid = row_map(b, newton, 2, probe[2], probe[3]);
  /* From the left of the root a step goes right: f >= 0 where it does. */
  const struct expr *low = ARGUMENT(0), *high = ARGUMENT(1), *center = ARGUMENT(2),
                    *step = ARGUMENT(3), *far = ARGUMENT(4);
  const struct expr *settled = expr_binary(pool, EXPR_LE, step, low);
  const struct expr *is_left = expr_binary(pool, EXPR_LE, center, far);
  const struct expr *moved =
      expr_select(pool, is_left, expr_binary(pool, EXPR_MAX, step, far), step);
  const struct expr *new_low = expr_select(pool, settled, low, moved);
  const struct expr *new_high =
      expr_select(pool, settled, low, expr_select(pool, is_left, high, center));
  struct tile_value *next_low =
      row_map(b, new_low, 5, state->low, state->high, mid, from_low, from_mid);
  state->high = row_map(b, new_high, 5, state->low, state->high, mid, from_low, from_mid);
  state->low = next_low;
}

/* The maximum, and the threshold counted from it: NaN where the maximum is not finite, for what is
 * visible is undefined then; and where nothing was seen everything lies below it. */
static struct row_norm sparsemax_norm(struct tile_builder *b, const struct row_state *state,
                                      const struct row_rest *rest)
{
  (void)rest;
  struct expr_pool *pool = b->program->pool;
  struct tile_value *base = row_finite_base(b, state->maximum);
  const struct expr *undefined = expr_sub(pool, ARGUMENT(1), ARGUMENT(1)); /* 0, or NaN */
  return (struct row_norm){
      {base, row_map(b, expr_add(pool, ARGUMENT(0), undefined), 2, state->low, base)}, 2, 1};
}

static struct tile_value *sparsemax_weigh(struct tile_builder *b, const struct row_norm *norm,
                                          const struct row_scores *tile)
{
  struct expr_pool *pool = b->program->pool;
  const struct expr *excess = expr_sub(pool, expr_sub(pool, ARGUMENT(0), ARGUMENT(1)), ARGUMENT(2));
  const struct expr *e = expr_binary(pool, EXPR_MAX, excess, number(b, 0));
  struct tile_value *weights = row_map(b, e, 3, tile->scores, norm->values[0], norm->values[1]);
  return row_where_visible(b, tile->visible, weights, 0);
}

static const struct row_search sparsemax_search = {.passes = SPARSEMAX_PASSES,
                                                   .open = sparsemax_open,
                                                   .begin = sparsemax_begin,
                                                   .look = sparsemax_look,
                                                   .step = sparsemax_step};

const struct row_algebra row_algebra_sparsemax = {.score_factor = 1,
                                                  .bounded = true,
                                                  .norms = 2,
                                                  .search = &sparsemax_search,
                                                  .init = sparsemax_init,
                                                  .update = sparsemax_update,
                                                  .merge = sparsemax_merge,
                                                  .close = sparsemax_norm,
                                                  .weigh = sparsemax_weigh};
