/* Comparisons, truth values, and the singles that they compare. */
#include "compiler/analysis/interval_parts.h"

#include <math.h>

/* Singles. MIN and MAX give NaN where an operand is NaN, so that a bound that is NaN poisons what
 * is made of it. */

/* Infinite bounds may stand for a NaN (inf - inf) among the values. */
static struct interval bounded_pair(struct interval_scope *scope, const struct expr *lo,
                                    const struct expr *hi)
{
  struct range_table *t = scope->ranges;
  const struct expr *bounded = expr_binary(t->pool, EXPR_LT, expr_binary(t->pool, EXPR_SUB, hi, lo),
                                           expr_single(t->pool, (double)INFINITY));
  const struct expr *nan_value = expr_single(t->pool, (double)NAN);
  return (struct interval){range_select(t, bounded, lo, nan_value),
                           range_select(t, bounded, hi, nan_value), expr_bool(t->pool, true)};
}

static bool is_positive_single(const struct expr *e)
{
  return e->op == EXPR_CONST && e->value.f > 0 && e->value.f < (double)INFINITY;
}

struct interval interval_of_single(struct interval_scope *scope, const struct expr *e)
{
  struct expr_pool *pool = scope->ranges->pool;
  const struct interval *a =
      e->arg_count > 0 && e->op != EXPR_UNIFORM ? interval_of(scope, e->args[0]) : NULL;
  const struct interval *b =
      e->arg_count == 2 && e->op != EXPR_UNIFORM ? interval_of(scope, e->args[1]) : NULL;
  const struct expr *exact = expr_bool(pool, true);
  if (e->type != EXPR_SINGLE) {
    return interval_unknown(scope, e);
  }
  switch ((int)e->op) { /* the others are unknown */
  case EXPR_CONVERT:    /* rounding keeps the order */
    return (struct interval){expr_convert(pool, a->lo, e->type), expr_convert(pool, a->hi, e->type),
                             exact};
  case EXPR_ADD:
    return bounded_pair(scope, expr_add(pool, a->lo, b->lo), expr_add(pool, a->hi, b->hi));
  case EXPR_SUB:
    return bounded_pair(scope, expr_sub(pool, a->lo, b->hi), expr_sub(pool, a->hi, b->lo));
  case EXPR_NEG:
    return (struct interval){expr_unary(pool, EXPR_NEG, a->hi), expr_unary(pool, EXPR_NEG, a->lo),
                             exact};
  case EXPR_MUL:
    if (is_positive_single(e->args[1])) {
      return (struct interval){expr_mul(pool, a->lo, e->args[1]), expr_mul(pool, a->hi, e->args[1]),
                               exact};
    }
    if (is_positive_single(e->args[0])) {
      return (struct interval){expr_mul(pool, b->lo, e->args[0]), expr_mul(pool, b->hi, e->args[0]),
                               exact};
    }
    break;
  case EXPR_DIV:
    if (is_positive_single(e->args[1])) {
      return (struct interval){expr_binary(pool, EXPR_DIV, a->lo, e->args[1]),
                               expr_binary(pool, EXPR_DIV, a->hi, e->args[1]), exact};
    }
    break;
  case EXPR_MIN:
  case EXPR_MAX:
    return (struct interval){expr_binary(pool, e->op, a->lo, b->lo),
                             expr_binary(pool, e->op, a->hi, b->hi), exact};
  case EXPR_ABS: {
    const struct expr *opposite = expr_unary(pool, EXPR_NEG, a->hi);
    const struct expr *low = expr_binary(pool, EXPR_MAX, a->lo, opposite);
    return (struct interval){expr_binary(pool, EXPR_MAX, low, expr_single(pool, 0)),
                             expr_binary(pool, EXPR_MAX, a->hi, expr_unary(pool, EXPR_NEG, a->lo)),
                             exact};
  }
  case EXPR_UNIFORM: return (struct interval){expr_single(pool, 0), expr_single(pool, 1), exact};
  default: break;
  }
  return interval_unknown(scope, e);
}

static struct interval negation(struct interval_scope *scope, struct interval a)
{
  struct expr_pool *pool = scope->ranges->pool;
  return (struct interval){expr_not(pool, a.hi), expr_not(pool, a.lo), a.exact};
}

/* d < 0, d <= 0 or d == 0 for a difference d of two INTs. */
static struct interval compare_linear(struct interval_scope *scope, enum expr_op op,
                                      const struct linear *d)
{
  struct range_table *t = scope->ranges;
  const struct expr *zero = expr_long(t->pool, 0);
  const struct expr *lo;
  const struct expr *hi;
  struct interval result = {.exact = expr_bool(t->pool, true)};
  linear_bounds(scope, d, &lo, &hi);
  if (op == EXPR_EQ) {
    struct congruence c = linear_congruence(scope, d);
    bool never = c.stride == 0 ? c.residue != 0 : c.residue % c.stride != 0;
    if (never) {
      result.lo = result.hi = expr_bool(t->pool, false);
      return result;
    }
    result.hi = expr_and(t->pool, range_le(t, lo, zero), range_le(t, zero, hi));
    result.lo = expr_and(t->pool, range_eq(t, lo, zero), range_eq(t, hi, zero));
  } else {
    result.hi = op == EXPR_LT ? range_lt(t, lo, zero) : range_le(t, lo, zero);
    result.lo = op == EXPR_LT ? range_lt(t, hi, zero) : range_le(t, hi, zero);
  }
  result.lo = expr_and(t->pool, d->exact, result.lo);
  result.hi = expr_or(t->pool, expr_not(t->pool, d->exact), result.hi);
  return result;
}

/* Of bounds of any one type. A comparison with NaN is false, so "may" is the negation of a
 * comparison that would exclude it. */
static struct interval compare_bounds(struct interval_scope *scope, enum expr_op op,
                                      const struct interval *a, const struct interval *b)
{
  struct expr_pool *pool = scope->ranges->pool;
  struct interval result = {.exact = expr_bool(pool, true)};
  if (op == EXPR_EQ) {
    const struct expr *below = expr_binary(pool, EXPR_LT, a->hi, b->lo);
    const struct expr *above = expr_binary(pool, EXPR_LT, b->hi, a->lo);
    result.hi = expr_not(pool, expr_or(pool, below, above));
    result.lo = expr_and(pool, expr_binary(pool, EXPR_LE, a->hi, b->lo),
                         expr_binary(pool, EXPR_LE, b->hi, a->lo));
  } else {
    enum expr_op opposite = op == EXPR_LT ? EXPR_LE : EXPR_LT;
    result.lo = expr_binary(pool, op, a->hi, b->lo);
    result.hi = expr_not(pool, expr_binary(pool, opposite, b->hi, a->lo));
  }
  return result;
}

struct interval interval_of_truth_as_int(struct interval_scope *scope, const struct expr *e)
{
  struct range_table *t = scope->ranges;
  const struct interval *a = interval_of(scope, e);
  return (struct interval){range_long(t, a->lo), range_long(t, a->hi), expr_bool(t->pool, true)};
}

static struct interval comparison(struct interval_scope *scope, enum expr_op op,
                                  const struct expr *a, const struct expr *b)
{
  if (op == EXPR_NE) {
    return negation(scope, comparison(scope, EXPR_EQ, a, b));
  }
  if (a->type == EXPR_INT) {
    struct linear d;
    if (linear_combine(scope, interval_linear(scope, a), 1, interval_linear(scope, b), -1, &d)) {
      return compare_linear(scope, op, &d);
    }
  }
  if (a->type == EXPR_BOOL) {
    struct interval x = interval_of_truth_as_int(scope, a);
    struct interval y = interval_of_truth_as_int(scope, b);
    return compare_bounds(scope, op, &x, &y);
  }
  return compare_bounds(scope, op, interval_of(scope, a), interval_of(scope, b));
}

/* any, all and count keep the bound variable as it is: the bound is again a formula over it. That
 * costs the extent in steps per tile, which a launch's sizes would make too long. */
struct interval interval_of_binder(struct interval_scope *scope, const struct expr *e)
{
  struct range_table *t = scope->ranges;
  const struct expr *extent = e->args[0];
  const struct expr *body = e->args[1];
  struct interval result = interval_unknown(scope, e);
  bool sized = expr_depends(extent, EXPR_VAR_SIZE_NQ) || expr_depends(extent, EXPR_VAR_SIZE_NK);
  if (sized || interval_varies(extent) || !interval_reads_are_plain(t->spec, extent) ||
      body->type != EXPR_BOOL) {
    return result;
  }
  uint32_t level = (uint32_t)e->value.i;
  const struct interval *each = interval_of(scope, body);
  result.lo = expr_binder(t->pool, e->op, level, extent, each->lo);
  result.hi = expr_binder(t->pool, e->op, level, extent, each->hi);
  result.exact = expr_bool(t->pool, true);
  if (e->type == EXPR_INT) {
    result.lo = range_long(t, result.lo);
    result.hi = range_long(t, result.hi);
  }
  return result;
}

struct interval interval_of_truth(struct interval_scope *scope, const struct expr *e)
{
  struct expr_pool *pool = scope->ranges->pool;
  const struct expr *exact = expr_bool(pool, true);
  switch ((int)e->op) { /* the others are unknown */
  case EXPR_NOT: return negation(scope, *interval_of(scope, e->args[0]));
  case EXPR_AND:
  case EXPR_OR: {
    const struct interval *a = interval_of(scope, e->args[0]);
    const struct interval *b = interval_of(scope, e->args[1]);
    return (struct interval){expr_binary(pool, e->op, a->lo, b->lo),
                             expr_binary(pool, e->op, a->hi, b->hi), exact};
  }
  case EXPR_LT:
  case EXPR_LE:
  case EXPR_EQ:
  case EXPR_NE: return comparison(scope, e->op, e->args[0], e->args[1]);
  case EXPR_CONVERT:
    if (e->args[0]->type == EXPR_INT) {
      return comparison(scope, EXPR_NE, e->args[0], expr_int(pool, 0));
    }
    break;
  case EXPR_SELECT: {
    const struct interval *c = interval_of(scope, e->args[0]);
    const struct interval *a = interval_of(scope, e->args[1]);
    const struct interval *b = interval_of(scope, e->args[2]);
    const struct expr *yes = expr_and(pool, c->lo, a->lo);
    const struct expr *no = expr_and(pool, expr_not(pool, c->hi), b->lo);
    return (struct interval){
        expr_or(pool, expr_or(pool, yes, no), expr_and(pool, a->lo, b->lo)),
        expr_or(pool, expr_and(pool, c->hi, a->hi), expr_and(pool, expr_not(pool, c->lo), b->hi)),
        exact};
  }
  case EXPR_ANY:
  case EXPR_ALL: return interval_of_binder(scope, e);
  default: break;
  }
  return interval_unknown(scope, e);
}
