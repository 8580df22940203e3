/* The constructors: constants are computed, and identities that hold for every value applied. For
 * FLOAT and SINGLE that rules out x + 0 (it loses -0), x - x and x * 0 (NaN, infinity), and any
 * reassociation. Dropping an operand may drop a READ whose index was out of range; moving a READ to
 * where it was not reached may not happen. */
#include "dsl/expr_fold.h"
#include "dsl/expr_scalar.h"

#include <assert.h>
#include <math.h>

static union expr_value value_of(const struct expr *e)
{
  return (union expr_value){.i = e->value.i};
}

static bool is_integer(const struct expr *e)
{
  return e->type == EXPR_INT || e->type == EXPR_LONG;
}

static bool is_integer_const(const struct expr *e, int64_t value)
{
  return e->op == EXPR_CONST && is_integer(e) && e->value.i == value;
}

/* Tells -0 from +0. */
static bool is_real_const(const struct expr *e, double value)
{
  return e->op == EXPR_CONST && expr_type_is_real(e->type) && e->value.f == value &&
         signbit(e->value.f) == signbit(value);
}

static bool is_one(const struct expr *e)
{
  return is_integer_const(e, 1) || is_real_const(e, 1.0);
}

static const struct expr *zero(struct expr_pool *pool, enum expr_type type)
{
  return expr_constant(pool, type, (union expr_value){.i = 0});
}

static const struct expr *unary_node(struct expr_pool *pool, enum expr_op op, enum expr_type type,
                                     const struct expr *a)
{
  return expr_intern(pool, op, type, 0, &a, 1);
}

static const struct expr *binary_node(struct expr_pool *pool, enum expr_op op, enum expr_type type,
                                      const struct expr *a, const struct expr *b)
{
  const struct expr *args[] = {a, b};
  return expr_intern(pool, op, type, 0, args, 2);
}

static const struct expr *fold_not(struct expr_pool *pool, const struct expr *a)
{
  switch ((int)a->op) {
  case EXPR_NOT: return a->args[0];
  case EXPR_EQ: return expr_binary(pool, EXPR_NE, a->args[0], a->args[1]);
  case EXPR_NE: return expr_binary(pool, EXPR_EQ, a->args[0], a->args[1]);
  case EXPR_LT: /* not for reals: both are false of NaN */
    return is_integer(a->args[0]) ? expr_binary(pool, EXPR_LE, a->args[1], a->args[0]) : NULL;
  case EXPR_LE:
    return is_integer(a->args[0]) ? expr_binary(pool, EXPR_LT, a->args[1], a->args[0]) : NULL;
  }
  return NULL;
}

const struct expr *expr_unary(struct expr_pool *pool, enum expr_op op, const struct expr *a)
{
  assert(op >= EXPR_NEG && op <= EXPR_FLOOR);
  assert(op == EXPR_NOT
             ? a->type == EXPR_BOOL
             : expr_type_is_real(a->type) || ((op == EXPR_NEG || op == EXPR_ABS) && is_integer(a)));
  enum expr_type type = op == EXPR_FLOOR ? EXPR_INT : a->type;
  if (a->op == EXPR_CONST)
    return expr_constant(pool, type,
                         expr_apply_unary(op, a->type, value_of(a), a->type == EXPR_SINGLE));
  if (op == EXPR_NOT) {
    const struct expr *folded = fold_not(pool, a);
    if (folded != NULL)
      return folded;
  }
  if (op == EXPR_NEG && a->op == EXPR_NEG)
    return a->args[0];
  if (op == EXPR_NEG && a->op == EXPR_SUB && is_integer(a))
    return expr_sub(pool, a->args[1], a->args[0]);
  if (op == EXPR_ABS && a->op == EXPR_ABS)
    return a;
  if (op == EXPR_ABS && a->op == EXPR_NEG)
    return expr_unary(pool, EXPR_ABS, a->args[0]);
  return unary_node(pool, op, type, a);
}

/* 1 / value, when it and value are powers of two that f32 holds as normal numbers; else 0. */
static double exact_reciprocal(double value)
{
  int exponent;
  double part = frexp(value, &exponent);
  return fabs(part) == 0.5 && exponent > -125 && exponent < 127 ? 1.0 / value : 0.0;
}

static const struct expr *fold_add(struct expr_pool *pool, const struct expr *a,
                                   const struct expr *b)
{
  if (is_integer_const(b, 0) || is_real_const(b, -0.0))
    return a;
  if (!is_integer(a))
    return NULL;
  if (b->op == EXPR_CONST && a->op == EXPR_ADD && a->args[1]->op == EXPR_CONST)
    return expr_add(pool, a->args[0], expr_add(pool, a->args[1], b));
  if (b->op == EXPR_SUB && b->args[1] == a) /* a + (x - a) */
    return b->args[0];
  if (a->op == EXPR_SUB && a->args[1] == b)
    return a->args[0];
  if (b->op == EXPR_NEG)
    return expr_sub(pool, a, b->args[0]);
  return a->op == EXPR_NEG ? expr_sub(pool, b, a->args[0]) : NULL;
}

static const struct expr *fold_sub(struct expr_pool *pool, const struct expr *a,
                                   const struct expr *b)
{
  if (is_real_const(b, 0.0))
    return a;
  if (!is_integer(a))
    return NULL;
  if (a == b)
    return zero(pool, a->type);
  if (b->op == EXPR_CONST)
    return expr_add(pool, a, expr_unary(pool, EXPR_NEG, b));
  if (is_integer_const(a, 0))
    return expr_unary(pool, EXPR_NEG, b);
  if (b->op == EXPR_NEG)
    return expr_add(pool, a, b->args[0]);
  if (a->op == EXPR_ADD && a->args[0] == b)
    return a->args[1];
  return a->op == EXPR_ADD && a->args[1] == b ? a->args[0] : NULL;
}

static const struct expr *fold_mul(struct expr_pool *pool, const struct expr *a,
                                   const struct expr *b)
{
  if (is_one(b))
    return a;
  if (is_real_const(b, -1.0) || is_integer_const(b, -1))
    return expr_unary(pool, EXPR_NEG, a);
  if (is_integer_const(b, 0))
    return b;
  if (is_integer(a) && b->op == EXPR_CONST && a->op == EXPR_MUL && a->args[1]->op == EXPR_CONST)
    return expr_mul(pool, a->args[0], expr_mul(pool, a->args[1], b));
  return NULL;
}

static const struct expr *fold_integer_power(struct expr_pool *pool, const struct expr *a,
                                             const struct expr *b)
{
  assert(b->op == EXPR_CONST && b->value.i >= 0);
  const struct expr *result = expr_constant(pool, a->type, (union expr_value){.i = 1});
  for (uint64_t rest = (uint64_t)b->value.i; rest != 0; rest >>= 1) {
    if (rest & 1)
      result = expr_mul(pool, result, a);
    if (rest > 1)
      a = expr_mul(pool, a, a);
  }
  return result;
}

static const struct expr *fold_divide(struct expr_pool *pool, enum expr_op op, const struct expr *a,
                                      const struct expr *b)
{
  bool reciprocal = op == EXPR_DIV && b->op == EXPR_CONST && exact_reciprocal(b->value.f) != 0;
  if (reciprocal)
    return expr_mul(
        pool, a,
        expr_constant(pool, a->type, (union expr_value){.f = exact_reciprocal(b->value.f)}));
  if (op == EXPR_DIV || !is_integer(a))
    return NULL;
  if (is_integer_const(b, 0) || (op == EXPR_MOD && (is_integer_const(b, 1) || a == b)))
    return zero(pool, a->type);
  return op == EXPR_FLOORDIV && is_one(b) ? a : NULL;
}

static const struct expr *fold_power(struct expr_pool *pool, const struct expr *a,
                                     const struct expr *b)
{
  if (is_integer(a))
    return fold_integer_power(pool, a, b);
  if (is_one(b))
    return a;
  if (is_real_const(b, 2.0))
    return expr_mul(pool, a, a);
  if (is_real_const(b, 0.0) || is_real_const(b, -0.0)) /* of NaN, too */
    return expr_constant(pool, a->type, (union expr_value){.f = 1.0});
  return NULL;
}

static const struct expr *fold_compare(struct expr_pool *pool, enum expr_op op,
                                       const struct expr *a, const struct expr *b)
{
  if (a == b && op == EXPR_LT)
    return expr_bool(pool, false);
  if (a == b && !expr_type_is_real(a->type))
    return expr_bool(pool, op != EXPR_NE);
  if (a->type == EXPR_BOOL && b->op == EXPR_CONST && (op == EXPR_EQ || op == EXPR_NE))
    return (op == EXPR_EQ) == (b->value.i != 0) ? a : expr_not(pool, a);
  return NULL;
}

static bool are_complements(const struct expr *a, const struct expr *b)
{
  if ((a->op == EXPR_NOT && a->args[0] == b) || (b->op == EXPR_NOT && b->args[0] == a))
    return true;
  bool equality = (a->op == EXPR_EQ && b->op == EXPR_NE) || (a->op == EXPR_NE && b->op == EXPR_EQ);
  bool order = (a->op == EXPR_LT && b->op == EXPR_LE) || (a->op == EXPR_LE && b->op == EXPR_LT);
  if (equality)
    return a->args[0] == b->args[0] && a->args[1] == b->args[1];
  return order && is_integer(a->args[0]) && a->args[0] == b->args[1] && a->args[1] == b->args[0];
}

static bool has_operand(const struct expr *e, enum expr_op op, const struct expr *operand)
{
  return e->op == op && (e->args[0] == operand || e->args[1] == operand);
}

static const struct expr *fold_logic(struct expr_pool *pool, enum expr_op op, const struct expr *a,
                                     const struct expr *b)
{
  bool is_and = op == EXPR_AND;
  enum expr_op other = is_and ? EXPR_OR : EXPR_AND;
  const struct expr *constant = a->op == EXPR_CONST ? a : b->op == EXPR_CONST ? b : NULL;
  if (constant != NULL)
    return (constant->value.i != 0) == is_and ? (constant == a ? b : a) : constant;
  if (a == b || has_operand(a, op, b) || has_operand(b, other, a))
    return a;
  if (has_operand(b, op, a)) {
    /* In a and (x and a), x may hold a read that is in range only where a holds. */
    if (b->args[0] == a || (b->deps & EXPR_DEP(EXPR_DEP_READ)) == 0)
      return b;
    return NULL;
  }
  if (has_operand(a, other, b))
    return b;
  return are_complements(a, b) ? expr_bool(pool, !is_and) : NULL;
}

static const struct expr *fold_extremes(enum expr_op op, const struct expr *a, const struct expr *b)
{
  if (a == b)
    return a;
  if (b->op != EXPR_CONST || !is_integer(a))
    return NULL;
  bool is_int = a->type == EXPR_INT;
  int64_t low = is_int ? INT32_MIN : INT64_MIN;
  int64_t high = is_int ? INT32_MAX : INT64_MAX;
  if (b->value.i == (op == EXPR_MIN ? high : low))
    return a;
  return b->value.i == (op == EXPR_MIN ? low : high) ? b : NULL;
}

static const struct expr *fold_bits(struct expr_pool *pool, enum expr_op op, const struct expr *a,
                                    const struct expr *b)
{
  if (op == EXPR_BIT_AND)
    return a == b || is_integer_const(b, -1) ? a : is_integer_const(b, 0) ? b : NULL;
  if (op == EXPR_BIT_OR)
    return a == b || is_integer_const(b, 0) ? a : is_integer_const(b, -1) ? b : NULL;
  if (op == EXPR_BIT_XOR && a == b)
    return zero(pool, a->type);
  return is_integer_const(b, 0) ? a : NULL; /* xor and the shifts */
}

static const struct expr *fold_binary(struct expr_pool *pool, enum expr_op op, const struct expr *a,
                                      const struct expr *b)
{
  switch ((int)op) {
  case EXPR_ADD: return fold_add(pool, a, b);
  case EXPR_SUB: return fold_sub(pool, a, b);
  case EXPR_MUL: return fold_mul(pool, a, b);
  case EXPR_DIV:
  case EXPR_FLOORDIV:
  case EXPR_MOD: return fold_divide(pool, op, a, b);
  case EXPR_POW: return fold_power(pool, a, b);
  case EXPR_MIN:
  case EXPR_MAX: return fold_extremes(op, a, b);
  case EXPR_LT:
  case EXPR_LE:
  case EXPR_EQ:
  case EXPR_NE: return fold_compare(pool, op, a, b);
  case EXPR_AND:
  case EXPR_OR: return fold_logic(pool, op, a, b);
  }
  return fold_bits(pool, op, a, b);
}

static bool is_commutative(enum expr_op op, const struct expr *a, const struct expr *b)
{
  switch ((int)op) {
  case EXPR_AND:
  case EXPR_OR: /* one may keep the other's reads in range */
    return ((a->deps | b->deps) & EXPR_DEP(EXPR_DEP_READ)) == 0;
  case EXPR_ADD:
  case EXPR_MUL:
  case EXPR_MIN:
  case EXPR_MAX:
  case EXPR_EQ:
  case EXPR_NE:
  case EXPR_BIT_AND:
  case EXPR_BIT_OR:
  case EXPR_BIT_XOR: return true;
  }
  return false;
}

/* Used by asserts only, as is binder_accepts. */
__attribute__((unused)) static bool accepts(enum expr_op op, const struct expr *a)
{
  switch ((int)op) {
  case EXPR_AND:
  case EXPR_OR: return a->type == EXPR_BOOL;
  case EXPR_DIV: return expr_type_is_real(a->type);
  case EXPR_EQ:
  case EXPR_NE: return true;
  }
  return op >= EXPR_BIT_AND ? is_integer(a) : a->type != EXPR_BOOL;
}

const struct expr *expr_binary(struct expr_pool *pool, enum expr_op op, const struct expr *a,
                               const struct expr *b)
{
  assert(op >= EXPR_ADD && op <= EXPR_SHIFT_RIGHT);
  assert(a->type == b->type && accepts(op, a));
  enum expr_type type = op >= EXPR_LT && op <= EXPR_OR ? EXPR_BOOL : a->type;
  if (a->op == EXPR_CONST && b->op == EXPR_CONST && (op != EXPR_POW || !is_integer(a)))
    return expr_constant(
        pool, type,
        expr_apply_binary(op, a->type, value_of(a), value_of(b), a->type == EXPR_SINGLE));
  if (is_commutative(op, a, b)) {
    bool swap = a->op == EXPR_CONST || (b->op != EXPR_CONST && b->id < a->id);
    const struct expr *first = swap ? b : a;
    b = swap ? a : b;
    a = first;
  }
  const struct expr *folded = fold_binary(pool, op, a, b);
  return folded != NULL ? folded : binary_node(pool, op, type, a, b);
}

/* Whether converting through `inner` (from `from` to `to`) gives what a direct conversion gives.
 * f32 is what kernels hold a FLOAT in, so that INT to FLOAT is not exact. */
static bool conversion_passes_through(enum expr_type from, enum expr_type inner, enum expr_type to)
{
  if (from == EXPR_BOOL)
    return true;
  if (from == EXPR_INT)
    return inner == EXPR_LONG || (expr_type_is_real(inner) && expr_type_is_real(to) &&
                                  (inner == EXPR_FLOAT || to == EXPR_SINGLE));
  return from == EXPR_SINGLE && inner == EXPR_FLOAT;
}

const struct expr *expr_convert(struct expr_pool *pool, const struct expr *a, enum expr_type type)
{
  if (a->type == type)
    return a;
  if (a->op == EXPR_CONST)
    return expr_constant(pool, type,
                         expr_apply_convert(a->type, type, value_of(a), type == EXPR_SINGLE));
  if (a->op == EXPR_CONVERT && conversion_passes_through(a->args[0]->type, a->type, type))
    return expr_convert(pool, a->args[0], type);
  if (type == EXPR_BOOL)
    return expr_binary(pool, EXPR_NE, a, zero(pool, a->type));
  return unary_node(pool, EXPR_CONVERT, type, a);
}

const struct expr *expr_select(struct expr_pool *pool, const struct expr *condition,
                               const struct expr *yes, const struct expr *no)
{
  assert(condition->type == EXPR_BOOL && yes->type == no->type);
  if (condition->op == EXPR_CONST)
    return condition->value.i != 0 ? yes : no;
  if (yes == no)
    return yes;
  if (condition->op == EXPR_NOT)
    return expr_select(pool, condition->args[0], no, yes);
  if (yes->type == EXPR_BOOL) {
    if (expr_is_true(yes))
      return expr_or(pool, condition, no);
    if (expr_is_false(no))
      return expr_and(pool, condition, yes);
    if (expr_is_false(yes))
      return expr_and(pool, expr_not(pool, condition), no);
    if (expr_is_true(no))
      return expr_or(pool, expr_not(pool, condition), yes);
  }
  const struct expr *args[] = {condition, yes, no};
  return expr_intern(pool, EXPR_SELECT, yes->type, 0, args, 3);
}

const struct expr *expr_random(struct expr_pool *pool, enum expr_op op,
                               const struct expr *const *keys, size_t count)
{
  assert(op == EXPR_HASH || op == EXPR_UNIFORM);
  for (size_t k = 0; k < count; k++)
    assert(keys[k]->type == EXPR_INT);
  return expr_intern(pool, op, op == EXPR_HASH ? EXPR_INT : EXPR_SINGLE, 0, keys, count);
}

/* A body that is a constant. */
static const struct expr *fold_constant_body(struct expr_pool *pool, enum expr_op op,
                                             const struct expr *extent, const struct expr *body)
{
  bool holds = body->value.i != 0;
  const struct expr *none = zero(pool, EXPR_INT);
  switch ((int)op) {
  case EXPR_ANY: return holds ? expr_binary(pool, EXPR_LT, none, extent) : body;
  case EXPR_ALL: return holds ? body : expr_binary(pool, EXPR_LE, extent, none);
  case EXPR_COUNT: return holds ? expr_binary(pool, EXPR_MAX, extent, none) : none;
  case EXPR_SUM:
    if (body->type == EXPR_INT)
      return expr_mul(pool, expr_binary(pool, EXPR_MAX, extent, none), body);
    return expr_type_is_real(body->type) && body->value.f == 0 ? zero(pool, body->type) : NULL;
  }
  return NULL;
}

__attribute__((unused)) static bool binder_accepts(enum expr_op op, const struct expr *body)
{
  if (op == EXPR_ANY || op == EXPR_ALL || op == EXPR_COUNT)
    return body->type == EXPR_BOOL;
  return op == EXPR_MEAN ? expr_type_is_real(body->type) : body->type != EXPR_BOOL;
}

const struct expr *expr_binder(struct expr_pool *pool, enum expr_op op, uint32_t level,
                               const struct expr *extent, const struct expr *body)
{
  assert(expr_op_is_binder(op) && level <= EXPR_MAX_LEVEL && extent->type == EXPR_INT);
  assert(binder_accepts(op, body));
  enum expr_type type = op == EXPR_COUNT ? EXPR_INT : body->type;
  if (extent->op == EXPR_CONST && extent->value.i <= 0)
    return expr_constant(pool, type, expr_binder_start(op, type));
  if (body->op == EXPR_CONST) {
    const struct expr *folded = fold_constant_body(pool, op, extent, body);
    if (folded != NULL)
      return folded;
  }
  const struct expr *args[] = {extent, body};
  return expr_intern(pool, op, type, level, args, 2);
}
