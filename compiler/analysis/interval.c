#include "compiler/analysis/interval_parts.h"

#include <math.h>

static void scope_init(struct interval_scope *scope, struct range_table *ranges, bool i_wide,
                       bool j_wide)
{
  struct expr_pool *pool = ranges->pool;
  const struct expr *zero = expr_long(pool, 0);
  const struct expr *one = expr_long(pool, 1);
  *scope = (struct interval_scope){.ranges = ranges, .i_wide = i_wide, .j_wide = j_wide};
  const struct expr *last_key =
      range_sub(ranges, range_long(ranges, expr_variable(pool, EXPR_VAR_SIZE_NK)), one);
  if (i_wide) {
    const struct expr *offset = range_long(ranges, expr_variable(pool, EXPR_VAR_OFFSET));
    const struct expr *rows = range_long(ranges, expr_variable(pool, EXPR_VAR_SIZE_NQ));
    scope->i_lo = ranges->spec->align == ALIGN_START ? zero : range_max(ranges, offset, zero);
    if (ranges->spec->align == ALIGN_END) {
      scope->i_hi = last_key;
    } else {
      const struct expr *end =
          ranges->spec->align == ALIGN_START ? rows : range_add(ranges, offset, rows);
      scope->i_hi = range_min(ranges, range_sub(ranges, end, one), expr_long(pool, INT32_MAX));
    }
  } else {
    scope->i_lo = range_max(ranges, expr_variable(pool, EXPR_VAR_TILE_I0), zero);
    scope->i_hi = range_max(ranges, expr_variable(pool, EXPR_VAR_TILE_I1), zero);
  }
  if (j_wide) {
    scope->j_lo = zero;
    scope->j_hi = last_key;
  } else {
    scope->j_lo = expr_variable(pool, EXPR_VAR_TILE_J0);
    scope->j_hi = range_min(ranges, expr_variable(pool, EXPR_VAR_TILE_J1), last_key);
  }
}

void interval_scope_tile(struct interval_scope *scope, struct range_table *ranges)
{
  scope_init(scope, ranges, false, false);
}

void interval_scope_keys(struct interval_scope *scope, struct range_table *ranges)
{
  scope_init(scope, ranges, false, true);
}

void interval_scope_rows(struct interval_scope *scope, struct range_table *ranges)
{
  scope_init(scope, ranges, true, false);
}

static struct interval exactly(struct interval_scope *scope, const struct expr *e)
{
  const struct expr *value = e->type == EXPR_INT ? range_long(scope->ranges, e) : e;
  return (struct interval){value, value, expr_bool(scope->ranges->pool, true)};
}

struct interval interval_unknown(struct interval_scope *scope, const struct expr *e)
{
  struct expr_pool *pool = scope->ranges->pool;
  const struct expr *exact = expr_bool(pool, true);
  switch (e->type) {
  case EXPR_BOOL: return (struct interval){expr_bool(pool, false), expr_bool(pool, true), exact};
  case EXPR_FLOAT:
    return (struct interval){expr_float(pool, (double)NAN), expr_float(pool, (double)NAN), exact};
  case EXPR_SINGLE:
    return (struct interval){expr_single(pool, (double)NAN), expr_single(pool, (double)NAN), exact};
  case EXPR_INT:
  case EXPR_LONG: break;
  }
  struct range range = range_of(scope->ranges, e);
  return (struct interval){expr_long(pool, range.min), expr_long(pool, range.max),
                           expr_bool(pool, false)};
}

/* An ideal INT result, as long as it is one. */
static struct interval fitted(struct interval_scope *scope, const struct expr *lo,
                              const struct expr *hi, const struct expr *exact)
{
  struct range_table *t = scope->ranges;
  exact = expr_and(t->pool, exact, range_is_int(t, lo, hi));
  return (struct interval){range_select(t, exact, lo, expr_long(t->pool, INT32_MIN)),
                           range_select(t, exact, hi, expr_long(t->pool, INT32_MAX)), exact};
}

/* Of four candidates the least and the greatest; equal ones are the same node. */
static struct interval hull_of_four(struct interval_scope *scope, const struct expr *const v[4])
{
  struct range_table *t = scope->ranges;
  return fitted(scope, range_min(t, range_min(t, v[0], v[1]), range_min(t, v[2], v[3])),
                range_max(t, range_max(t, v[0], v[1]), range_max(t, v[2], v[3])),
                expr_bool(t->pool, true));
}

static struct interval product(struct interval_scope *scope, const struct interval *a,
                               const struct interval *b)
{
  struct expr_pool *pool = scope->ranges->pool;
  const struct expr *v[4] = {expr_mul(pool, a->lo, b->lo), expr_mul(pool, a->lo, b->hi),
                             expr_mul(pool, a->hi, b->lo), expr_mul(pool, a->hi, b->hi)};
  return hull_of_four(scope, v);
}

static struct interval quotient(struct interval_scope *scope, const struct interval *a,
                                const struct interval *b)
{
  struct range_table *t = scope->ranges;
  const struct expr *v[4];
  for (int n = 0; n < 4; n++) {
    const struct expr *dividend = n < 2 ? a->lo : a->hi;
    v[n] = expr_binary(t->pool, EXPR_FLOORDIV, dividend, n % 2 == 0 ? b->lo : b->hi);
  }
  if (b->lo == b->hi && range_of(t, b->lo).min > 0) {
    return fitted(scope, v[0], v[2], expr_bool(t->pool, true));
  }
  struct interval result = hull_of_four(scope, v);
  if (b->lo != b->hi) { /* the corners bound it only if no divisor in between is 0 */
    const struct expr *positive = range_lt(t, expr_long(t->pool, 0), b->lo);
    result.lo = range_select(t, positive, result.lo, expr_long(t->pool, INT32_MIN));
    result.hi = range_select(t, positive, result.hi, expr_long(t->pool, INT32_MAX));
    result.exact = expr_and(t->pool, positive, result.exact);
  }
  return result;
}

static struct interval remainder_of(struct interval_scope *scope, const struct interval *a,
                                    const struct interval *b)
{
  struct range_table *t = scope->ranges;
  const struct expr *zero = expr_long(t->pool, 0);
  const struct expr *one = expr_long(t->pool, 1);
  const struct expr *lo = zero;
  const struct expr *hi = range_sub(t, b->hi, one);
  if (b->lo == b->hi) {
    /* Inside one period the remainder grows with the dividend. */
    const struct expr *block = expr_binary(t->pool, EXPR_FLOORDIV, a->lo, b->lo);
    const struct expr *same = range_eq(t, block, expr_binary(t->pool, EXPR_FLOORDIV, a->hi, b->lo));
    const struct expr *base = expr_mul(t->pool, block, b->lo);
    lo = range_select(t, same, range_sub(t, a->lo, base), zero);
    hi = range_select(t, same, range_sub(t, a->hi, base), hi);
  }
  const struct expr *positive = range_lt(t, zero, b->lo);
  /* Otherwise between the divisor and 0, or anything up to the greatest divisor. */
  return (struct interval){range_select(t, positive, lo, range_min(t, b->lo, zero)),
                           range_select(t, positive, hi, range_max(t, b->hi, zero)),
                           expr_bool(t->pool, true)};
}

static struct interval absolute(struct interval_scope *scope, const struct interval *a)
{
  struct range_table *t = scope->ranges;
  const struct expr *zero = expr_long(t->pool, 0);
  const struct expr *opposite = expr_unary(t->pool, EXPR_NEG, a->lo);
  const struct expr *lo =
      range_max(t, range_max(t, a->lo, expr_unary(t->pool, EXPR_NEG, a->hi)), zero);
  return fitted(scope, lo, range_max(t, a->hi, opposite), expr_bool(t->pool, true));
}

static struct interval selected(struct interval_scope *scope, const struct expr *e)
{
  struct range_table *t = scope->ranges;
  const struct interval *c = interval_of(scope, e->args[0]);
  const struct interval *a = interval_of(scope, e->args[1]);
  const struct interval *b = interval_of(scope, e->args[2]);
  bool number = a->lo->type == EXPR_LONG;
  const struct expr *low =
      number ? range_min(t, a->lo, b->lo) : expr_binary(t->pool, EXPR_MIN, a->lo, b->lo);
  const struct expr *high =
      number ? range_max(t, a->hi, b->hi) : expr_binary(t->pool, EXPR_MAX, a->hi, b->hi);
  return (struct interval){range_select(t, c->lo, a->lo, range_select(t, c->hi, low, b->lo)),
                           range_select(t, c->lo, a->hi, range_select(t, c->hi, high, b->hi)),
                           expr_bool(t->pool, true)};
}

static struct interval int_interval(struct interval_scope *scope, const struct expr *e)
{
  struct range_table *t = scope->ranges;
  const struct linear *linear = interval_linear(scope, e);
  if (!linear_is_term(linear, e)) {
    const struct expr *lo;
    const struct expr *hi;
    linear_bounds(scope, linear, &lo, &hi);
    return (struct interval){range_select(t, linear->exact, lo, expr_long(t->pool, INT32_MIN)),
                             range_select(t, linear->exact, hi, expr_long(t->pool, INT32_MAX)),
                             linear->exact};
  }
  const struct expr *exact = expr_bool(t->pool, true);
  bool two = e->arg_count == 2 && e->args[0]->type == EXPR_INT && e->args[1]->type == EXPR_INT;
  const struct interval *a =
      two || e->op == EXPR_NEG || e->op == EXPR_ABS ? interval_of(scope, e->args[0]) : NULL;
  const struct interval *b = two ? interval_of(scope, e->args[1]) : NULL;
  switch ((int)e->op) { /* the others are unknown */
  case EXPR_ADD:
    return fitted(scope, range_add(t, a->lo, b->lo), range_add(t, a->hi, b->hi), exact);
  case EXPR_SUB:
    return fitted(scope, range_sub(t, a->lo, b->hi), range_sub(t, a->hi, b->lo), exact);
  case EXPR_NEG:
    return fitted(scope, expr_unary(t->pool, EXPR_NEG, a->hi), expr_unary(t->pool, EXPR_NEG, a->lo),
                  exact);
  case EXPR_MUL: return product(scope, a, b);
  case EXPR_ABS: return absolute(scope, a);
  case EXPR_MIN:
    return (struct interval){range_min(t, a->lo, b->lo), range_min(t, a->hi, b->hi), exact};
  case EXPR_MAX:
    return (struct interval){range_max(t, a->lo, b->lo), range_max(t, a->hi, b->hi), exact};
  case EXPR_FLOORDIV: return quotient(scope, a, b);
  case EXPR_MOD: return remainder_of(scope, a, b);
  case EXPR_BIT_AND: /* with a mask that is not negative */
    if (range_of(t, e->args[1]).min >= 0) {
      return (struct interval){expr_long(t->pool, 0), b->hi, exact};
    }
    break;
  case EXPR_CONVERT:
    if (e->args[0]->type == EXPR_BOOL) {
      return interval_of_truth_as_int(scope, e->args[0]);
    }
    break;
  case EXPR_FLOOR: {
    const struct interval *x = interval_of(scope, e->args[0]);
    const struct expr *known = expr_binary(t->pool, EXPR_LE, x->lo, x->hi); /* false for NaN */
    const struct expr *lo = range_long(t, expr_unary(t->pool, EXPR_FLOOR, x->lo));
    const struct expr *hi = range_long(t, expr_unary(t->pool, EXPR_FLOOR, x->hi));
    return (struct interval){range_select(t, known, lo, expr_long(t->pool, INT32_MIN)),
                             range_select(t, known, hi, expr_long(t->pool, INT32_MAX)), exact};
  }
  case EXPR_COUNT: return interval_of_binder(scope, e);
  default: break;
  }
  return interval_unknown(scope, e);
}

const struct interval *interval_of(struct interval_scope *scope, const struct expr *e)
{
  struct range_table *t = scope->ranges;
  while (scope->intervals.count <= e->id) {
    vector_push(t->arena, &scope->intervals, NULL);
  }
  if (scope->intervals.items[e->id] != NULL) {
    return scope->intervals.items[e->id];
  }
  struct interval result;
  if (e->type == EXPR_LONG || e->height > INTERVAL_MAX_HEIGHT) {
    result = interval_unknown(scope, e);
  } else if (!interval_varies(e) && interval_reads_are_plain(t->spec, e)) {
    result = exactly(scope, e);
  } else if (e->op == EXPR_READ) {
    result = interval_of_read(scope, e);
  } else if (e->op == EXPR_SELECT && e->type != EXPR_BOOL) {
    result = selected(scope, e);
  } else if (e->type == EXPR_BOOL) {
    result = interval_of_truth(scope, e);
  } else if (e->type == EXPR_INT) {
    result = int_interval(scope, e);
  } else {
    result = interval_of_single(scope, e);
  }
  const struct interval *kept = arena_copy(t->arena, &result, sizeof(result));
  scope->intervals.items[e->id] = kept;
  return kept;
}
