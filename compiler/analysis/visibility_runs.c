/* From segments to runs of tiles, as expressions and on the host. */
#include "compiler/analysis/range.h"
#include "compiler/analysis/visibility.h"

#include <assert.h>

enum { SLOT_MAY_FIRST, SLOT_MAY_END, SLOT_MUST_LO, SLOT_MUST_HI, SLOTS };

static const struct expr *less(struct expr_pool *pool, const struct expr *a, const struct expr *b)
{
  return expr_binary(pool, EXPR_LT, a, b);
}

static const struct expr *least(struct expr_pool *pool, const struct expr *a, const struct expr *b)
{
  return expr_binary(pool, EXPR_MIN, a, b);
}

static const struct expr *greatest(struct expr_pool *pool, const struct expr *a,
                                   const struct expr *b)
{
  return expr_binary(pool, EXPR_MAX, a, b);
}

static const struct expr *tile_of(struct expr_pool *pool, const struct expr *position, int64_t step)
{
  return step == 1 ? position : expr_binary(pool, EXPR_FLOORDIV, position, expr_long(pool, step));
}

static const struct expr *tiles_before(struct expr_pool *pool, const struct expr *position,
                                       int64_t step)
{
  return tile_of(pool, expr_add(pool, position, expr_long(pool, step - 1)), step);
}

static const struct expr *slot(struct expr_pool *pool, uint32_t segment, uint32_t which)
{
  return expr_arg(pool, 1 + SLOTS * segment + which, EXPR_LONG);
}

static void fill_slots(struct expr_pool *pool, const struct visibility_walk *walk, int64_t step,
                       struct visibility_runs *runs)
{
  runs->slot_count = SLOTS * walk->segment_count;
  for (uint32_t n = 0; n < walk->segment_count; n++) {
    const struct visibility_segment *s = &walk->segments[n];
    const struct expr **slots = &runs->slots[SLOTS * n];
    const struct expr *end = tiles_before(pool, expr_sub(pool, s->may_hi, walk->origin), step);
    slots[SLOT_MAY_FIRST] = tile_of(pool, expr_sub(pool, s->may_lo, walk->origin), step);
    slots[SLOT_MAY_END] =
        expr_select(pool, less(pool, s->may_lo, s->may_hi), end, expr_long(pool, 0));
    slots[SLOT_MUST_LO] = expr_sub(pool, s->must_lo, walk->origin);
    slots[SLOT_MUST_HI] = expr_sub(pool, s->must_hi, walk->origin);
  }
}

void visibility_runs_build(struct expr_pool *pool, const struct visibility_walk *walk, int64_t step,
                           struct visibility_runs *runs)
{
  assert(step > 0);
  const struct expr *cursor = expr_arg(pool, 0, EXPR_LONG);
  const struct expr *none = expr_long(pool, RANGE_FAR);
  *runs = (struct visibility_runs){.limit = RANGE_FAR};
  fill_slots(pool, walk, step, runs);

  const struct expr *start = none;
  for (uint32_t n = 0; n < walk->segment_count; n++) {
    const struct expr *ahead = greatest(pool, slot(pool, n, SLOT_MAY_FIRST), cursor);
    const struct expr *left = less(pool, cursor, slot(pool, n, SLOT_MAY_END));
    const struct expr *next = expr_select(pool, left, ahead, none);
    start = n == 0 ? next : least(pool, start, next);
  }

  /* As many rounds as there are ranges, so that any order of a chain of them is followed to its
   * end. */
  const struct expr *cover = expr_mul(pool, start, expr_long(pool, step));
  for (uint32_t n = 0; n < walk->segment_count * walk->segment_count; n++) {
    uint32_t s = n % walk->segment_count;
    if (walk->segments[s].must_lo == walk->segments[s].must_hi) {
      continue;
    }
    const struct expr *reached = expr_binary(pool, EXPR_LE, slot(pool, s, SLOT_MUST_LO), cover);
    const struct expr *further = greatest(pool, cover, slot(pool, s, SLOT_MUST_HI));
    cover = expr_select(pool, reached, further, cover);
  }
  const struct expr *covered = tile_of(pool, cover, step);

  const struct expr *reach = expr_long(pool, 0);
  const struct expr *brink = none;
  for (uint32_t n = 0; n < walk->segment_count; n++) {
    const struct expr *begun = expr_binary(pool, EXPR_LE, slot(pool, n, SLOT_MAY_FIRST), start);
    const struct expr *end =
        expr_select(pool, begun, slot(pool, n, SLOT_MAY_END), expr_long(pool, 0));
    reach = n == 0 ? end : greatest(pool, reach, end);
    if (walk->segments[n].must_lo == walk->segments[n].must_hi) {
      continue;
    }
    const struct expr *fills = tiles_before(pool, slot(pool, n, SLOT_MUST_LO), step);
    const struct expr *next = expr_select(pool, less(pool, start, fills), fills, none);
    brink = brink == none ? next : least(pool, brink, next);
  }
  runs->start = start;
  runs->full = less(pool, start, covered);
  runs->end = expr_select(pool, runs->full, covered, least(pool, reach, brink));
}

static int64_t clamp(int64_t x, int64_t lo, int64_t hi)
{
  return x < lo ? lo : x > hi ? hi : x;
}

size_t visibility_segments(struct expr_evaluator *evaluator, const struct visibility_walk *walk,
                           const struct visibility_runs *runs, int64_t step,
                           struct visibility_run out[VISIBILITY_MAX_RUNS])
{
  int64_t first = expr_evaluate(evaluator, walk->first).i;
  int64_t end = expr_evaluate(evaluator, walk->end).i;
  int64_t origin = expr_evaluate(evaluator, walk->origin).i;
  for (uint32_t n = 0; n < runs->slot_count; n++) {
    expr_set_arg(evaluator, 1 + n, expr_evaluate(evaluator, runs->slots[n]));
  }
  size_t count = 0;
  for (int64_t cursor = 0; count < VISIBILITY_MAX_RUNS;) {
    expr_set_arg(evaluator, 0, (union expr_value){.i = cursor});
    int64_t start = expr_evaluate(evaluator, runs->start).i;
    if (start >= runs->limit) {
      break;
    }
    cursor = expr_evaluate(evaluator, runs->end).i;
    assert(cursor > start);
    bool full = expr_evaluate(evaluator, runs->full).i != 0;
    out[count++] = (struct visibility_run){.lo = clamp(origin + start * step, first, end),
                                           .hi = clamp(origin + cursor * step, first, end),
                                           .class = full ? VISIBILITY_FULL : VISIBILITY_PARTIAL};
  }
  return count;
}

/* [lo, hi] of the axis that the segments walk. */
static enum visibility_class class_by_segments(struct expr_evaluator *evaluator,
                                               const struct visibility_walk *walk, int64_t lo,
                                               int64_t hi)
{
  bool may = false;
  int64_t cover = lo;
  for (uint32_t n = 0; n < walk->segment_count * walk->segment_count; n++) {
    const struct visibility_segment *s = &walk->segments[n % walk->segment_count];
    int64_t may_lo = expr_evaluate(evaluator, s->may_lo).i;
    int64_t may_hi = expr_evaluate(evaluator, s->may_hi).i;
    may = may || (may_lo < may_hi && may_lo <= hi && may_hi > lo);
    int64_t must_hi = expr_evaluate(evaluator, s->must_hi).i;
    if (expr_evaluate(evaluator, s->must_lo).i <= cover && must_hi > cover) {
      cover = must_hi;
    }
  }
  return !may ? VISIBILITY_EMPTY : cover > hi ? VISIBILITY_FULL : VISIBILITY_PARTIAL;
}

static int64_t value_of(struct expr_evaluator *evaluator, struct expr_pool *pool, enum expr_var var)
{
  return expr_evaluate(evaluator, expr_variable(pool, var)).i;
}

enum visibility_class visibility_classify(struct expr_evaluator *evaluator,
                                          const struct visibility *visibility)
{
  if (expr_evaluate(evaluator, visibility->may).i == 0) {
    return VISIBILITY_EMPTY;
  }
  if (expr_evaluate(evaluator, visibility->must).i != 0) {
    return VISIBILITY_FULL;
  }
  struct expr_pool *pool = visibility->pool;
  enum visibility_class by_keys =
      class_by_segments(evaluator, &visibility->keys, value_of(evaluator, pool, EXPR_VAR_TILE_J0),
                        value_of(evaluator, pool, EXPR_VAR_TILE_J1));
  if (by_keys != VISIBILITY_PARTIAL) {
    return by_keys;
  }
  return class_by_segments(evaluator, &visibility->rows,
                           value_of(evaluator, pool, EXPR_VAR_TILE_I0),
                           value_of(evaluator, pool, EXPR_VAR_TILE_I1));
}
