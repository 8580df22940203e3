#include "dsl/expr_scalar.h"

#include <assert.h>
#include <math.h>

static union expr_value integer(int64_t value)
{
  return (union expr_value){.i = value};
}

static union expr_value real(double value, bool f32)
{
  return (union expr_value){.f = f32 ? (double)(float)value : value};
}

static int64_t wrap_to(enum expr_type type, uint64_t value)
{
  return type == EXPR_INT ? expr_wrap((int64_t)value) : (int64_t)value;
}

static int64_t real_to_integer(double value, enum expr_type type)
{
  double lowest = type == EXPR_INT ? -0x1p31 : -0x1p63;
  int64_t low = type == EXPR_INT ? INT32_MIN : INT64_MIN;
  int64_t high = type == EXPR_INT ? INT32_MAX : INT64_MAX;
  if (isnan(value))
    return 0;
  if (value <= lowest)
    return low;
  return value >= -lowest ? high : (int64_t)value;
}

static union expr_value unary_integer(enum expr_op op, enum expr_type type, int64_t a)
{
  uint64_t negated = 0 - (uint64_t)a;
  if (op == EXPR_NOT)
    return integer(a == 0);
  if (op == EXPR_NEG)
    return integer(wrap_to(type, negated));
  if (op == EXPR_ABS)
    return integer(a < 0 ? wrap_to(type, negated) : a);
  assert(false && "a unary operation on integers");
  return integer(0);
}

union expr_value expr_apply_unary(enum expr_op op, enum expr_type type, union expr_value a,
                                  bool f32)
{
  if (!expr_type_is_real(type))
    return unary_integer(op, type, a.i);
  double x = a.f;
  switch ((int)op) {
  case EXPR_NEG: return real(-x, f32);
  case EXPR_ABS: return real(fabs(x), f32);
  case EXPR_EXP: return real(exp(x), f32);
  case EXPR_EXP2: return real(exp2(x), f32);
  case EXPR_LOG: return real(log(x), f32);
  case EXPR_LOG2: return real(log2(x), f32);
  case EXPR_SQRT: return real(sqrt(x), f32);
  case EXPR_RSQRT: return real(1.0 / sqrt(x), f32);
  case EXPR_TANH: return real(tanh(x), f32);
  case EXPR_SIN: return real(sin(x), f32);
  case EXPR_COS: return real(cos(x), f32);
  case EXPR_SIGMOID: return real(1.0 / (1.0 + exp(-x)), f32);
  case EXPR_ERF: return real(erf(x), f32);
  case EXPR_FLOOR: return integer(real_to_integer(floor(x), EXPR_INT));
  }
  assert(false && "a unary operation on reals");
  return real(0, f32);
}

static int64_t floor_divide(enum expr_type type, int64_t a, int64_t b)
{
  if (b == 0)
    return 0;
  if (b == -1)
    return wrap_to(type, 0 - (uint64_t)a); /* INT64_MIN / -1 traps */
  return a / b - (a % b != 0 && (a < 0) != (b < 0) ? 1 : 0);
}

static int64_t floor_modulo(int64_t a, int64_t b)
{
  if (b == 0 || b == -1)
    return 0;
  int64_t rest = a % b;
  return rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest;
}

static union expr_value binary_integer(enum expr_op op, enum expr_type type, int64_t a, int64_t b)
{
  uint64_t x = (uint64_t)a;
  uint64_t y = (uint64_t)b;
  switch ((int)op) {
  case EXPR_ADD: return integer(wrap_to(type, x + y));
  case EXPR_SUB: return integer(wrap_to(type, x - y));
  case EXPR_MUL: return integer(wrap_to(type, x * y));
  case EXPR_FLOORDIV: return integer(floor_divide(type, a, b));
  case EXPR_MOD: return integer(floor_modulo(a, b));
  case EXPR_MIN: return integer(b < a ? b : a);
  case EXPR_MAX: return integer(b > a ? b : a);
  case EXPR_LT: return integer(a < b);
  case EXPR_LE: return integer(a <= b);
  case EXPR_EQ: return integer(a == b);
  case EXPR_NE: return integer(a != b);
  case EXPR_AND: return integer(a != 0 && b != 0);
  case EXPR_OR: return integer(a != 0 || b != 0);
  case EXPR_BIT_AND: return integer(a & b);
  case EXPR_BIT_OR: return integer(a | b);
  case EXPR_BIT_XOR: return integer(a ^ b);
  case EXPR_SHIFT_LEFT: return integer(wrap_to(type, x << (y & 31)));
  case EXPR_SHIFT_RIGHT:
    return integer(type == EXPR_INT ? wrap_to(type, (uint64_t)((uint32_t)x >> (y & 31)))
                                    : (int64_t)(x >> (y & 31)));
  }
  assert(false && "a binary operation on integers");
  return integer(0);
}

/* IEEE 754-2019 minimum: NaN if either is, and -0 below +0, so that the operands may be swapped. */
static double minimum(double a, double b)
{
  if (isnan(a) || isnan(b))
    return (double)NAN;
  if (a == b)
    return signbit(a) ? a : b;
  return a < b ? a : b;
}

/* Python's: the remainder takes the divisor's sign. fmod is exact. */
static double modulo(double a, double b)
{
  double rest = fmod(a, b);
  if (rest == 0)
    return copysign(0.0, b);
  return (rest < 0) != (b < 0) ? rest + b : rest;
}

union expr_value expr_apply_binary(enum expr_op op, enum expr_type type, union expr_value a,
                                   union expr_value b, bool f32)
{
  if (!expr_type_is_real(type))
    return binary_integer(op, type, a.i, b.i);
  double x = a.f;
  double y = b.f;
  switch ((int)op) {
  case EXPR_ADD: return real(x + y, f32);
  case EXPR_SUB: return real(x - y, f32);
  case EXPR_MUL: return real(x * y, f32);
  case EXPR_DIV: return real(x / y, f32);
  case EXPR_FLOORDIV: return real(floor(real(x / y, f32).f), f32);
  case EXPR_MOD: return real(modulo(x, y), f32);
  case EXPR_POW: return real(pow(x, y), f32);
  case EXPR_MIN: return real(minimum(x, y), f32);
  case EXPR_MAX: return real(-minimum(-x, -y), f32);
  case EXPR_LT: return integer(x < y);
  case EXPR_LE: return integer(x <= y);
  case EXPR_EQ: return integer(x == y);
  case EXPR_NE: return integer(x != y);
  }
  assert(false && "a binary operation on reals");
  return real(0, f32);
}

union expr_value expr_apply_convert(enum expr_type from, enum expr_type to, union expr_value a,
                                    bool f32)
{
  bool was_real = expr_type_is_real(from);
  switch (to) {
  case EXPR_BOOL: return integer(was_real ? a.f != 0 : a.i != 0);
  case EXPR_INT: return integer(was_real ? real_to_integer(a.f, to) : expr_wrap(a.i));
  case EXPR_LONG: return integer(was_real ? real_to_integer(a.f, to) : a.i);
  case EXPR_FLOAT:
  case EXPR_SINGLE:
    if (was_real)
      return real(a.f, f32);
    /* Straight to f32: through a double a long would be rounded twice. */
    return (union expr_value){.f = f32 ? (double)(float)a.i : (double)a.i};
  }
  return a;
}

union expr_value expr_binder_start(enum expr_op op, enum expr_type type)
{
  bool smallest = op == EXPR_FOLD_MAX;
  if (op == EXPR_ALL)
    return integer(1);
  if (op != EXPR_FOLD_MAX && op != EXPR_FOLD_MIN)
    return expr_type_is_real(type) ? real(0, false) : integer(0);
  switch (type) {
  case EXPR_BOOL: return integer(smallest ? 0 : 1);
  case EXPR_INT: return integer(smallest ? INT32_MIN : INT32_MAX);
  case EXPR_LONG: return integer(smallest ? INT64_MIN : INT64_MAX);
  case EXPR_FLOAT:
  case EXPR_SINGLE: return real(smallest ? -(double)INFINITY : (double)INFINITY, false);
  }
  return integer(0);
}
