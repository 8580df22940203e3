#include "compiler/analysis/visibility_segments.h"

#include <assert.h>

/* Deeper masks, and ones whose shared parts unfold into more steps, are left to the tile test. */
enum { MAX_DEPTH = 2000, MAX_STEPS = 5000 };

struct solver {
  struct interval_scope *scope;
  struct range_table *ranges;
  enum expr_var axis;
  bool tested;
  uint32_t depth;
  uint32_t steps;
  /* By node id: solutions of a truth value and of its negation. */
  VECTOR(const struct segment_set *) solutions[2];
};

/* d + rest <= 0, where rest is in [lo, hi] and does not depend on the axis. Where `exact` fails at
 * run time, the constraint may hold or not. */
struct constraint {
  const struct linear *d;
  const struct expr *lo, *hi; /* LONG */
  const struct expr *exact;   /* BOOL */
};

/* value <= bound (upper) or value >= bound: certainly with `must`, possibly with `may`. */
struct limit {
  bool upper;
  const struct expr *may, *must; /* LONG */
  const struct expr *exact;
};

static struct segment_set solve(struct solver *s, const struct expr *e, bool holds);
static struct segment_set solve_term(struct solver *s, const struct expr *e, struct limit limit);

static const struct expr *far(const struct solver *s, int sign)
{
  return expr_long(s->ranges->pool, sign < 0 ? -RANGE_FAR : RANGE_FAR);
}

static struct segment_set nothing(void)
{
  return (struct segment_set){0};
}

/* Everything or nothing along the axis, as two conditions say. */
static struct segment_set gate(const struct solver *s, const struct expr *may,
                               const struct expr *must)
{
  if (expr_is_false(may)) {
    return nothing();
  }
  const struct expr *low = far(s, -1);
  const struct expr *high = far(s, 1);
  return (struct segment_set){1,
                              {{.may_lo = low,
                                .may_hi = range_select(s->ranges, may, high, low),
                                .must_lo = low,
                                .must_hi = range_select(s->ranges, must, high, low)}}};
}

static struct segment_set unsolved(struct solver *s)
{
  s->tested = true;
  return gate(s, expr_bool(s->ranges->pool, true), expr_bool(s->ranges->pool, false));
}

static bool is_empty(const struct solver *s, const struct expr *lo, const struct expr *hi)
{
  return range_of(s->ranges, lo).min >= range_of(s->ranges, hi).max;
}

static bool same_segment(const struct visibility_segment *a, const struct visibility_segment *b)
{
  return a->may_lo == b->may_lo && a->may_hi == b->may_hi && a->must_lo == b->must_lo &&
         a->must_hi == b->must_hi;
}

/* One segment for two: the hull of what may be visible, the longer of what must be. */
static struct visibility_segment join(const struct solver *s, const struct visibility_segment *a,
                                      const struct visibility_segment *b)
{
  struct range_table *t = s->ranges;
  const struct expr *a_empty = range_le(t, a->may_hi, a->may_lo);
  const struct expr *b_empty = range_le(t, b->may_hi, b->may_lo);
  const struct expr *a_longer =
      range_le(t, range_sub(t, b->must_hi, b->must_lo), range_sub(t, a->must_hi, a->must_lo));
  const struct expr *lo = range_select(t, b_empty, a->may_lo, range_min(t, a->may_lo, b->may_lo));
  const struct expr *hi = range_select(t, b_empty, a->may_hi, range_max(t, a->may_hi, b->may_hi));
  return (struct visibility_segment){
      .may_lo = range_select(t, a_empty, b->may_lo, lo),
      .may_hi = range_select(t, a_empty, b->may_hi, hi),
      .must_lo = range_select(t, a_longer, a->must_lo, b->must_lo),
      .must_hi = range_select(t, a_longer, a->must_hi, b->must_hi),
  };
}

static void insert(struct solver *s, struct segment_set *set, struct visibility_segment segment)
{
  if (is_empty(s, segment.may_lo, segment.may_hi)) {
    return;
  }
  if (is_empty(s, segment.must_lo, segment.must_hi)) { /* one way to say so, to be recognised */
    segment.must_lo = segment.must_hi = expr_long(s->ranges->pool, 0);
  }
  for (uint32_t n = 0; n < set->count; n++) {
    if (same_segment(&set->items[n], &segment)) {
      return;
    }
  }
  if (set->count < VISIBILITY_MAX_SEGMENTS) {
    set->items[set->count++] = segment;
    return;
  }
  s->tested = true;
  struct visibility_segment *last = &set->items[set->count - 1];
  *last = join(s, last, &segment);
}

static struct segment_set unite(struct solver *s, struct segment_set a, struct segment_set b)
{
  for (uint32_t n = 0; n < b.count; n++) {
    insert(s, &a, b.items[n]);
  }
  return a;
}

static struct segment_set intersect(struct solver *s, struct segment_set a, struct segment_set b)
{
  struct segment_set both = {0};
  struct range_table *t = s->ranges;
  for (uint32_t m = 0; m < a.count; m++) {
    for (uint32_t n = 0; n < b.count; n++) {
      const struct visibility_segment *x = &a.items[m];
      const struct visibility_segment *y = &b.items[n];
      insert(s, &both,
             (struct visibility_segment){.may_lo = range_max(t, x->may_lo, y->may_lo),
                                         .may_hi = range_min(t, x->may_hi, y->may_hi),
                                         .must_lo = range_max(t, x->must_lo, y->must_lo),
                                         .must_hi = range_min(t, x->must_hi, y->must_hi)});
    }
  }
  return both;
}

/* Atoms */

static bool on_axis(const struct solver *s, const struct expr *e)
{
  return expr_depends(e, s->axis) || (s->axis == EXPR_VAR_I && expr_depends(e, EXPR_VAR_R));
}

/* The greatest integer that k * value <= -rest allows, k > 0. */
static const struct expr *quotient_below(const struct solver *s, const struct expr *rest, int64_t k)
{
  return range_floordiv(s->ranges, expr_unary(s->ranges->pool, EXPR_NEG, rest), k);
}

/* value <= floor(-rest / k), or for k < 0 value >= ceil(rest / -k) */
static struct limit limit_of(const struct solver *s, int64_t k, const struct expr *lo,
                             const struct expr *hi, const struct expr *exact)
{
  struct limit limit = {.upper = k > 0, .exact = exact};
  limit.may = k > 0 ? quotient_below(s, lo, k) : range_ceildiv(s->ranges, lo, -k);
  limit.must = k > 0 ? quotient_below(s, hi, k) : range_ceildiv(s->ranges, hi, -k);
  return limit;
}

static struct segment_set axis_range(struct solver *s, struct limit limit)
{
  struct range_table *t = s->ranges;
  /* Kept within RANGE_FAR, so that clamping to positions needs no care. */
  const struct expr *low = far(s, -1);
  const struct expr *high = far(s, 1);
  const struct expr *one = expr_long(t->pool, 1);
  struct segment_set set = {1, {{low, high, low, high}}};
  if (limit.upper) {
    const struct expr *may = range_max(t, low, range_min(t, high, range_add(t, limit.may, one)));
    const struct expr *must = range_max(t, low, range_min(t, high, range_add(t, limit.must, one)));
    set.items[0].may_hi = range_select(t, limit.exact, may, high);
    set.items[0].must_hi = range_select(t, limit.exact, must, low);
  } else {
    set.items[0].may_lo =
        range_select(t, limit.exact, range_max(t, low, range_min(t, high, limit.may)), low);
    set.items[0].must_lo =
        range_select(t, limit.exact, range_max(t, low, range_min(t, high, limit.must)), high);
  }
  return set;
}

static struct segment_set solve_constraint(struct solver *s, struct constraint c)
{
  struct range_table *t = s->ranges;
  struct linear rest = *c.d;
  int64_t *own = s->axis == EXPR_VAR_I ? &rest.coef_i : &rest.coef_j;
  int64_t coef = *own;
  *own = 0;
  const struct expr *term = NULL;
  uint32_t unknowns = coef != 0;
  for (uint32_t n = 0; n < rest.count;) {
    if (!on_axis(s, rest.terms[n].node)) {
      n++;
      continue;
    }
    unknowns++;
    if (coef == 0) {
      coef = rest.terms[n].coef;
      term = rest.terms[n].node;
    }
    rest.terms[n] = rest.terms[--rest.count];
  }
  if (unknowns > 1) {
    return unsolved(s);
  }
  const struct expr *lo;
  const struct expr *hi;
  linear_bounds(s->scope, &rest, &lo, &hi);
  lo = range_add(t, lo, c.lo);
  hi = range_add(t, hi, c.hi);
  const struct expr *exact = expr_and(t->pool, c.exact, c.d->exact);
  if (unknowns == 0) {
    const struct expr *zero = expr_long(t->pool, 0);
    return gate(s, expr_or(t->pool, expr_not(t->pool, exact), range_le(t, lo, zero)),
                expr_and(t->pool, exact, range_le(t, hi, zero)));
  }
  struct limit limit = limit_of(s, coef, lo, hi, exact);
  return term == NULL ? axis_range(s, limit) : solve_term(s, term, limit);
}

/* sign * value - limit, sign = 1 for an upper limit and -1 for a lower one, must be <= 0. */
static struct segment_set solve_limited(struct solver *s, const struct expr *value, int sign,
                                        struct limit limit)
{
  struct expr_pool *pool = s->ranges->pool;
  struct linear d;
  const struct linear *linear = interval_linear(s->scope, value);
  if (!linear_combine(s->scope, linear, sign, linear, 0, &d)) {
    return unsolved(s);
  }
  const struct expr *lo = sign > 0 ? expr_unary(pool, EXPR_NEG, limit.may) : limit.may;
  const struct expr *hi = sign > 0 ? expr_unary(pool, EXPR_NEG, limit.must) : limit.must;
  return solve_constraint(s, (struct constraint){&d, lo, hi, limit.exact});
}

/* u // n <= K is u <= (K + 1) * n - 1, u // n >= K is u >= K * n; n > 0 the same for all pairs. */
static struct segment_set solve_quotient(struct solver *s, const struct expr *e, struct limit limit)
{
  struct range_table *t = s->ranges;
  const struct interval *n = interval_of(s->scope, e->args[1]);
  if (n->lo != n->hi) {
    return unsolved(s);
  }
  const struct expr *one = expr_long(t->pool, 1);
  limit.exact = expr_and(t->pool, limit.exact, range_lt(t, expr_long(t->pool, 0), n->lo));
  if (limit.upper) {
    limit.may = range_sub(t, expr_mul(t->pool, range_add(t, limit.may, one), n->lo), one);
    limit.must = range_sub(t, expr_mul(t->pool, range_add(t, limit.must, one), n->lo), one);
  } else {
    limit.may = expr_mul(t->pool, limit.may, n->lo);
    limit.must = expr_mul(t->pool, limit.must, n->lo);
  }
  return solve_limited(s, e->args[0], limit.upper ? 1 : -1, limit);
}

/* u * n for an n > 0 that is the same for all pairs: u <= floor(K / n), u >= ceil(K / n) =
 * -floor(-K / n). */
static struct segment_set solve_product(struct solver *s, const struct expr *e, struct limit limit)
{
  struct range_table *t = s->ranges;
  const struct expr *value = on_axis(s, e->args[0]) ? e->args[0] : e->args[1];
  const struct interval *n = interval_of(s->scope, value == e->args[0] ? e->args[1] : e->args[0]);
  if (n->lo != n->hi || on_axis(s, value == e->args[0] ? e->args[1] : e->args[0])) {
    return unsolved(s);
  }
  limit.exact = expr_and(t->pool, limit.exact, range_lt(t, expr_long(t->pool, 0), n->lo));
  limit.exact = expr_and(t->pool, limit.exact, interval_of(s->scope, e)->exact);
  const struct expr **bounds[2] = {&limit.may, &limit.must};
  for (int k = 0; k < 2; k++) {
    const struct expr *bound = limit.upper ? *bounds[k] : expr_unary(t->pool, EXPR_NEG, *bounds[k]);
    bound = expr_binary(t->pool, EXPR_FLOORDIV, bound, n->lo);
    *bounds[k] = limit.upper ? bound : expr_unary(t->pool, EXPR_NEG, bound);
  }
  return solve_limited(s, value, limit.upper ? 1 : -1, limit);
}

/* |u| <= K is u <= K and -u <= K; |u| >= K is u >= K or -u >= K. */
static struct segment_set solve_abs(struct solver *s, const struct expr *e, struct limit limit)
{
  struct range_table *t = s->ranges;
  limit.exact = expr_and(t->pool, limit.exact, interval_of(s->scope, e)->exact);
  struct limit mirrored = {.upper = !limit.upper,
                           .may = expr_unary(t->pool, EXPR_NEG, limit.may),
                           .must = expr_unary(t->pool, EXPR_NEG, limit.must),
                           .exact = limit.exact};
  struct segment_set right = solve_limited(s, e->args[0], limit.upper ? 1 : -1, limit);
  struct segment_set left = solve_limited(s, e->args[0], limit.upper ? -1 : 1, mirrored);
  return limit.upper ? intersect(s, right, left) : unite(s, right, left);
}

/* An INT that depends on the axis and is no linear form of it. */
static struct segment_set solve_term(struct solver *s, const struct expr *e, struct limit limit)
{
  struct range_table *t = s->ranges;
  if (s->depth >= MAX_DEPTH || ++s->steps > MAX_STEPS) {
    return unsolved(s);
  }
  s->depth++;
  /* Beyond INT one limit is as good as another, and products of clamped ones cannot wrap. */
  const struct expr *low = expr_long(t->pool, (int64_t)INT32_MIN - 1);
  const struct expr *high = expr_long(t->pool, (int64_t)INT32_MAX + 1);
  limit.may = range_max(t, low, range_min(t, high, limit.may));
  limit.must = range_max(t, low, range_min(t, high, limit.must));
  int sign = limit.upper ? 1 : -1;
  struct segment_set result;
  switch ((int)e->op) { /* the others have no closed form */
  case EXPR_FLOORDIV: result = solve_quotient(s, e, limit); break;
  case EXPR_MUL: result = solve_product(s, e, limit); break;
  case EXPR_ABS: result = solve_abs(s, e, limit); break;
  case EXPR_MIN:
  case EXPR_MAX: {
    struct segment_set a = solve_limited(s, e->args[0], sign, limit);
    struct segment_set b = solve_limited(s, e->args[1], sign, limit);
    result = (e->op == EXPR_MIN) == limit.upper ? unite(s, a, b) : intersect(s, a, b);
    break;
  }
  case EXPR_SELECT: {
    struct segment_set yes =
        intersect(s, solve(s, e->args[0], true), solve_limited(s, e->args[1], sign, limit));
    struct segment_set no =
        intersect(s, solve(s, e->args[0], false), solve_limited(s, e->args[2], sign, limit));
    result = unite(s, yes, no);
    break;
  }
  case EXPR_CONVERT:
    if (e->args[0]->type == EXPR_BOOL) {
      struct segment_set one = solve_limited(s, expr_int(t->pool, 1), sign, limit);
      struct segment_set zero = solve_limited(s, expr_int(t->pool, 0), sign, limit);
      result = unite(s, intersect(s, solve(s, e->args[0], true), one),
                     intersect(s, solve(s, e->args[0], false), zero));
      break;
    }
    result = unsolved(s);
    break;
  default: result = unsolved(s); break;
  }
  s->depth--;
  return result;
}

/* a op b, or its negation. */
static struct segment_set solve_comparison(struct solver *s, const struct expr *e, bool holds)
{
  struct expr_pool *pool = s->ranges->pool;
  const struct linear *a = interval_linear(s->scope, e->args[0]);
  const struct linear *b = interval_linear(s->scope, e->args[1]);
  const struct expr *zero = expr_long(pool, 0);
  const struct expr *one = expr_long(pool, 1);
  const struct expr *always = expr_bool(pool, true);
  struct linear below; /* a - b */
  struct linear above; /* b - a */
  if (!linear_combine(s->scope, a, 1, b, -1, &below) ||
      !linear_combine(s->scope, b, 1, a, -1, &above)) {
    return unsolved(s);
  }
  if (e->op == EXPR_LT || e->op == EXPR_LE) {
    bool strict = (e->op == EXPR_LT) == holds;
    const struct expr *rest = strict ? one : zero;
    return solve_constraint(s, (struct constraint){holds ? &below : &above, rest, rest, always});
  }
  bool equal = (e->op == EXPR_EQ) == holds;
  const struct expr *rest = equal ? zero : one;
  struct segment_set x = solve_constraint(s, (struct constraint){&below, rest, rest, always});
  struct segment_set y = solve_constraint(s, (struct constraint){&above, rest, rest, always});
  return equal ? intersect(s, x, y) : unite(s, x, y);
}

static struct segment_set solve_inner(struct solver *s, const struct expr *e, bool holds)
{
  struct expr_pool *pool = s->ranges->pool;
  if (!on_axis(s, e)) {
    const struct interval *value = interval_of(s->scope, e);
    return holds ? gate(s, value->hi, value->lo)
                 : gate(s, expr_not(pool, value->lo), expr_not(pool, value->hi));
  }
  switch ((int)e->op) { /* the others have no closed form */
  case EXPR_NOT: return solve(s, e->args[0], !holds);
  case EXPR_AND:
  case EXPR_OR: {
    struct segment_set a = solve(s, e->args[0], holds);
    struct segment_set b = solve(s, e->args[1], holds);
    return (e->op == EXPR_AND) == holds ? intersect(s, a, b) : unite(s, a, b);
  }
  case EXPR_SELECT: {
    struct segment_set yes = intersect(s, solve(s, e->args[0], true), solve(s, e->args[1], holds));
    return unite(s, yes, intersect(s, solve(s, e->args[0], false), solve(s, e->args[2], holds)));
  }
  case EXPR_EQ:
  case EXPR_NE:
    if (e->args[0]->type == EXPR_BOOL) {
      bool equal = (e->op == EXPR_EQ) == holds;
      struct segment_set yes =
          intersect(s, solve(s, e->args[0], true), solve(s, e->args[1], equal));
      return unite(s, yes, intersect(s, solve(s, e->args[0], false), solve(s, e->args[1], !equal)));
    }
    return e->args[0]->type == EXPR_INT ? solve_comparison(s, e, holds) : unsolved(s);
  case EXPR_LT:
  case EXPR_LE: return e->args[0]->type == EXPR_INT ? solve_comparison(s, e, holds) : unsolved(s);
  default: return unsolved(s);
  }
}

static struct segment_set solve(struct solver *s, const struct expr *e, bool holds)
{
  assert(e->type == EXPR_BOOL);
  while (s->solutions[holds].count <= e->id) {
    vector_push(s->ranges->arena, &s->solutions[holds], NULL);
  }
  if (s->solutions[holds].items[e->id] != NULL) {
    return *s->solutions[holds].items[e->id];
  }
  if (s->depth >= MAX_DEPTH || ++s->steps > MAX_STEPS) {
    return unsolved(s);
  }
  s->depth++;
  struct segment_set result = solve_inner(s, e, holds);
  s->depth--;
  s->solutions[holds].items[e->id] = arena_copy(s->ranges->arena, &result, sizeof(result));
  return result;
}

struct segment_set segments_solve(struct interval_scope *scope, enum expr_var axis,
                                  const struct expr *mask, bool *tested)
{
  struct solver solver = {.scope = scope, .ranges = scope->ranges, .axis = axis};
  struct segment_set set = solve(&solver, mask, true);
  *tested = solver.tested;
  return set;
}
