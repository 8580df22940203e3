/* Linear forms of INT expressions. */
#include "compiler/analysis/interval_parts.h"

#include <assert.h>
#include <stdlib.h>

/* Of the sum of a linear form's coefficients, so that its bounds stay far below 2^63. */
static const int64_t max_coefficients = INT64_C(1) << 28;
static const int64_t max_constant = INT64_C(1) << 40;

static bool linear_add_term(struct linear *linear, int64_t coef, const struct expr *node)
{
  for (uint32_t n = 0; n < linear->count; n++) {
    if (linear->terms[n].node == node) {
      linear->terms[n].coef += coef;
      if (linear->terms[n].coef == 0) {
        linear->terms[n] = linear->terms[--linear->count];
      }
      return true;
    }
  }
  if (linear->count == LINEAR_MAX_TERMS) {
    return false;
  }
  linear->terms[linear->count].coef = coef;
  linear->terms[linear->count++].node = node;
  return true;
}

bool linear_combine(struct interval_scope *scope, const struct linear *x, int64_t a,
                    const struct linear *y, int64_t b, struct linear *result)
{
  if (llabs(a) > max_coefficients || llabs(b) > max_coefficients) {
    return false;
  }
  struct linear sum = {
      .coef_i = a * x->coef_i + b * y->coef_i,
      .coef_j = a * x->coef_j + b * y->coef_j,
      .exact = expr_and(scope->ranges->pool, x->exact, y->exact),
  };
  __int128 constant = (__int128)a * x->constant + (__int128)b * y->constant;
  if (constant > max_constant || constant < -max_constant) {
    return false;
  }
  sum.constant = (int64_t)constant;
  bool fits = true;
  for (uint32_t n = 0; fits && a != 0 && n < x->count; n++) {
    fits = linear_add_term(&sum, a * x->terms[n].coef, x->terms[n].node);
  }
  for (uint32_t n = 0; fits && b != 0 && n < y->count; n++) {
    fits = linear_add_term(&sum, b * y->terms[n].coef, y->terms[n].node);
  }
  int64_t total = llabs(sum.coef_i) + llabs(sum.coef_j);
  for (uint32_t n = 0; n < sum.count; n++) {
    total += llabs(sum.terms[n].coef);
  }
  if (!fits || total > max_coefficients) {
    return false;
  }
  *result = sum;
  return true;
}

static void add_scaled(struct range_table *t, const struct expr **lo, const struct expr **hi,
                       int64_t coef, const struct expr *value_lo, const struct expr *value_hi)
{
  if (coef == 0) {
    return;
  }
  const struct expr *low = coef > 0 ? value_lo : value_hi;
  const struct expr *high = coef > 0 ? value_hi : value_lo;
  if (coef < 0 && coef > -2) { /* a - b reads better than a + -b, and is one operation */
    *lo = range_sub(t, *lo, low);
    *hi = range_sub(t, *hi, high);
    return;
  }
  *lo = range_add(t, *lo, range_scale(t, low, coef));
  *hi = range_add(t, *hi, range_scale(t, high, coef));
}

void linear_bounds(struct interval_scope *scope, const struct linear *linear,
                   const struct expr **lo, const struct expr **hi)
{
  struct range_table *t = scope->ranges;
  *lo = *hi = expr_long(t->pool, 0);
  /* Positive parts first, so that the rest are subtractions. */
  for (int pass = 0; pass < 2; pass++) {
    if ((linear->coef_i > 0) == (pass == 0)) {
      add_scaled(t, lo, hi, linear->coef_i, scope->i_lo, scope->i_hi);
    }
    if ((linear->coef_j > 0) == (pass == 0)) {
      add_scaled(t, lo, hi, linear->coef_j, scope->j_lo, scope->j_hi);
    }
    for (uint32_t n = 0; n < linear->count; n++) {
      if ((linear->terms[n].coef > 0) == (pass == 0)) {
        const struct interval *value = interval_of(scope, linear->terms[n].node);
        add_scaled(t, lo, hi, linear->terms[n].coef, value->lo, value->hi);
      }
    }
  }
  const struct expr *constant = expr_long(t->pool, linear->constant);
  *lo = range_add(t, *lo, constant);
  *hi = range_add(t, *hi, constant);
}

static bool linear_split(struct interval_scope *scope, const struct expr *e, struct linear *result)
{
  struct linear none = {.exact = expr_bool(scope->ranges->pool, true)};
  switch ((int)e->op) { /* every other operation is not linear */
  case EXPR_CONST:
    none.constant = e->value.i;
    *result = none;
    return true;
  case EXPR_VAR:
    if (expr_is_var(e, EXPR_VAR_I) || expr_is_var(e, EXPR_VAR_R)) {
      none.coef_i = 1;
      if (expr_is_var(e, EXPR_VAR_R) && scope->ranges->spec->align != ALIGN_START) {
        linear_add_term(&none, -1, expr_variable(scope->ranges->pool, EXPR_VAR_OFFSET));
      }
      *result = none;
      return true;
    }
    none.coef_j = 1;
    *result = none;
    return expr_is_var(e, EXPR_VAR_J);
  case EXPR_NEG:
    return linear_combine(scope, interval_linear(scope, e->args[0]), -1, &none, 0, result);
  case EXPR_ADD:
  case EXPR_SUB:
    return linear_combine(scope, interval_linear(scope, e->args[0]), 1,
                          interval_linear(scope, e->args[1]), e->op == EXPR_ADD ? 1 : -1, result);
  case EXPR_MUL: {
    bool second = e->args[1]->op == EXPR_CONST;
    if (!second && e->args[0]->op != EXPR_CONST) {
      return false;
    }
    return linear_combine(scope, interval_linear(scope, e->args[second ? 0 : 1]),
                          e->args[second ? 1 : 0]->value.i, &none, 0, result);
  }
  default: return false;
  }
}

const struct linear *interval_linear(struct interval_scope *scope, const struct expr *e)
{
  assert(e->type == EXPR_INT);
  struct range_table *t = scope->ranges;
  while (scope->linears.count <= e->id) {
    vector_push(t->arena, &scope->linears, NULL);
  }
  if (scope->linears.items[e->id] != NULL) {
    return scope->linears.items[e->id];
  }
  struct linear *linear = ARENA_NEW(t->arena, struct linear);
  bool uniform = !interval_varies(e) && e->op != EXPR_CONST;
  if (uniform || e->height > INTERVAL_MAX_HEIGHT || !linear_split(scope, e, linear)) {
    *linear = (struct linear){.count = 1, .terms = {{1, e}}, .exact = expr_bool(t->pool, true)};
  } else if (e->arg_count > 0) {
    const struct expr *lo;
    const struct expr *hi;
    linear_bounds(scope, linear, &lo, &hi);
    linear->exact = expr_and(t->pool, linear->exact, range_is_int(t, lo, hi));
  }
  scope->linears.items[e->id] = linear;
  return linear;
}

bool linear_is_term(const struct linear *linear, const struct expr *e)
{
  return linear->coef_i == 0 && linear->coef_j == 0 && linear->constant == 0 &&
         linear->count == 1 && linear->terms[0].coef == 1 && linear->terms[0].node == e;
}

static int64_t gcd(int64_t a, int64_t b)
{
  while (b != 0) {
    int64_t r = a % b;
    a = b;
    b = r;
  }
  return llabs(a);
}

struct congruence linear_congruence(struct interval_scope *scope, const struct linear *linear)
{
  struct congruence c = {gcd(linear->coef_i, linear->coef_j), linear->constant};
  for (uint32_t n = 0; n < linear->count; n++) {
    const struct expr *node = linear->terms[n].node;
    struct congruence term = {1, 0};
    if (node->op == EXPR_MOD && node->args[1]->op == EXPR_CONST && node->args[1]->value.i > 0 &&
        node->height < INTERVAL_MAX_HEIGHT) {
      const struct linear *dividend = interval_linear(scope, node->args[0]);
      term = linear_congruence(scope, dividend);
      term.stride = gcd(term.stride, node->args[1]->value.i);
    }
    c.stride = gcd(c.stride, linear->terms[n].coef * term.stride);
    c.residue += linear->terms[n].coef * term.residue;
  }
  if (!expr_is_true(linear->exact)) {
    c.stride = gcd(c.stride, INT64_C(1) << 32);
  }
  if (c.stride > 0) {
    c.residue -= range_floor(c.residue, c.stride) * c.stride;
  }
  return c;
}
