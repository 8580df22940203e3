/* Functions and operators of expressions with their true values, arguments to try and the errors
 * that compiler/emit/math.h allows. For the tests of compiled code. */
#ifndef ATTN_TESTS_NUMERIC_MATH_CASES_H
#define ATTN_TESTS_NUMERIC_MATH_CASES_H

#include "dsl/expr_scalar.h"

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

static inline uint32_t random_bits(void)
{
  static uint64_t state = 88172645463325252u;
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return (uint32_t)(state >> 16);
}

static inline float from_bits(uint32_t bits)
{
  float value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

static const float specials[] = {
    0.0f,           -0.0f,         INFINITY,   -INFINITY,   NAN,           1.0f,
    -1.0f,          0.5f,          -0.5f,      2.0f,        -2.0f,         3.0f,
    -3.0f,          1.5f,          -2.5f,      0.625f,      88.0f,         -88.0f,
    88.8f,          -87.4f,        -104.0f,    127.0f,      128.0f,        -126.0f,
    -127.0f,        6.0f,          10.0f,      -10.0f,      0.707f,        1e-45f,
    -1e-45f,        1e-39f,        FLT_MIN,    -FLT_MIN,    FLT_MAX,       -FLT_MAX,
    0x1.fffffep-1f, 0x1.000002p0f, 8388608.0f, 16777216.0f, 2147483648.0f, -2147483648.0f,
    4294967296.0f,  1e30f};
enum { SPECIALS = sizeof(specials) / sizeof(*specials) };

struct real_pair {
  float x, y;
};

/* Pairs of specials first, then random mantissas under every exponent. */
static inline struct real_pair case_reals(uint32_t number)
{
  struct real_pair pair = {.x = from_bits((random_bits() & 0x807fffffu) | number % 255 << 23),
                           .y = from_bits(random_bits() & 0xfeffffffu)};
  if (number < SPECIALS * SPECIALS) {
    pair.x = specials[number / SPECIALS];
    pair.y = specials[number % SPECIALS];
  } else if (number % 3 == 0) { /* near 1, where arguments of most functions lie */
    pair.y = from_bits((random_bits() & 0x81ffffffu) + 0x3e800000u);
  }
  return pair;
}

/* ---- real functions ---- */

enum measure { RELATIVE, ABSOLUTE, EITHER /* absolute up to 1, relative beyond */, EXACT };

struct real_function {
  const char *call; /* with $0 and $1 */
  double (*of)(double x, double y);
  enum measure measure;
  double bound;
  double low, high; /* arguments x measured; all are tried */
  double gpu_bound; /* relative, where a GPU's own approximation is allowed more; else 0 */
};

static inline double of_exp(double x, double y)
{
  (void)y;
  return exp(x);
}
static inline double of_exp2(double x, double y)
{
  (void)y;
  return exp2(x);
}
static inline double of_log(double x, double y)
{
  (void)y;
  return log(x);
}
static inline double of_log2(double x, double y)
{
  (void)y;
  return log2(x);
}
static inline double of_tanh(double x, double y)
{
  (void)y;
  return tanh(x);
}
static inline double of_sigmoid(double x, double y)
{
  (void)y;
  return 1 / (1 + exp(-x));
}
static inline double of_sin(double x, double y)
{
  (void)y;
  return sin(x);
}
static inline double of_cos(double x, double y)
{
  (void)y;
  return cos(x);
}
static inline double of_erf(double x, double y)
{
  (void)y;
  return erf(x);
}
static inline double of_sqrt(double x, double y)
{
  (void)y;
  return sqrt(x);
}
static inline double of_rsqrt(double x, double y)
{
  (void)y;
  return 1 / sqrt(x);
}
static inline double of_divide(double x, double y)
{
  return x / y;
}
static inline double by_scalar(enum expr_op op, double x, double y)
{
  union expr_value a = {.f = x}, b = {.f = y};
  return expr_apply_binary(op, EXPR_SINGLE, a, b, true).f;
}
static inline double of_modulo(double x, double y)
{
  return by_scalar(EXPR_MOD, x, y);
}
static inline double of_floor_divide(double x, double y)
{
  return by_scalar(EXPR_FLOORDIV, x, y);
}
static inline double of_min(double x, double y)
{
  return by_scalar(EXPR_MIN, x, y);
}
static inline double of_max(double x, double y)
{
  return by_scalar(EXPR_MAX, x, y);
}

static const double ALL = (double)INFINITY;

/* How far `got` is from the true value; 0 where both round to the same f32 or to zero or infinity.
 */
static inline double error_of(enum measure measure, double got, double exact)
{
  double rounded = (double)(float)exact;
  if (got == rounded || (isnan(got) && isnan(exact)))
    return 0;
  if (isnan(got) || isnan(exact) || (isinf(rounded) && isinf(got)))
    return ALL;
  /* At the ends of the range a result may go to infinity or to zero one rounding early. */
  if (isinf(rounded) || isinf(got))
    return fabs(isinf(got) ? exact : got) >= (double)FLT_MAX * (1 - 4e-7) ? 0 : ALL;
  if (fabs(exact) < 0x1p-126 && fabs(got) < 0x1p-126 * (1 + 1e-6))
    return measure == EXACT && got != rounded ? ALL : 0;
  double difference = fabs(got - exact);
  switch (measure) {
  case RELATIVE: return difference / fabs(exact);
  case ABSOLUTE: return difference;
  case EITHER: return difference / fmax(1, fabs(exact));
  case EXACT: break;
  }
  return ALL;
}

/* "exp($0)" with & for $. */
static inline void to_scalar(char *scalar, const char *call)
{
  do {
    *scalar++ = (char)(*call == '$' ? '&' : *call);
  } while (*call++ != '\0');
}

/* A single's function is the float64 one rounded: half a unit in the last place, and what float64's
 * own error adds to a tie. */
static const double single = 0x1.0002p-24;

static const struct real_function reals[] = {
    {"exp($0)", of_exp, RELATIVE, 2.0e-7, -86.98, ALL, 3.6e-7},
    {"exp2($0)", of_exp2, RELATIVE, 1.0e-7, -125.5, ALL, 2.4e-7},
    {"log($0)", of_log, EITHER, 1.5e-7, -ALL, ALL, 3e-7},
    {"log2($0)", of_log2, EITHER, 1.5e-7, -ALL, ALL, 3e-7},
    {"tanh($0)", of_tanh, RELATIVE, 2.5e-7, -ALL, ALL, 4e-7},
    {"sigmoid($0)", of_sigmoid, RELATIVE, 4e-7, -87, ALL, 6e-7},
    {"sin($0)", of_sin, ABSOLUTE, 1.2e-7, -1e4, 1e4, 0},
    {"cos($0)", of_cos, ABSOLUTE, 1.2e-7, -1e4, 1e4, 0},
    {"erf($0)", of_erf, RELATIVE, 2.5e-7, -ALL, ALL, 4e-7},
    {"sqrt($0)", of_sqrt, EXACT, 0, -ALL, ALL, 0},
    {"rsqrt($0)", of_rsqrt, RELATIVE, 1.2e-7, -ALL, ALL, 1.4e-7},
    {"$0 / $1", of_divide, EXACT, 0, -ALL, ALL, 2.4e-7},
    {"pow($0, $1)", pow, RELATIVE, 1.2e-7, -ALL, ALL, 0},
    {"$0 % $1", of_modulo, EXACT, 0, -ALL, ALL, 0},
    {"$0 // $1", of_floor_divide, EXACT, 0, -ALL, ALL, 0},
    {"min($0, $1)", of_min, EXACT, 0, -ALL, ALL, 0},
    {"max($0, $1)", of_max, EXACT, 0, -ALL, ALL, 0},
    {"exp(single($0))", of_exp, RELATIVE, single, -87.3, ALL, 0},
    {"exp2(single($0))", of_exp2, RELATIVE, single, -126, ALL, 0},
    {"log(single($0))", of_log, RELATIVE, single, -ALL, ALL, 0},
    {"log2(single($0))", of_log2, RELATIVE, single, -ALL, ALL, 0},
    {"rsqrt(single($0))", of_rsqrt, RELATIVE, single, -ALL, ALL, 0},
    {"pow(single($0), single($1))", pow, RELATIVE, single, -ALL, ALL, 0},
    {"sqrt(single($0))", of_sqrt, EXACT, 0, -ALL, ALL, 0},
    {"tanh(single($0))", of_tanh, RELATIVE, single, -ALL, ALL, 0},
    {"sigmoid(single($0))", of_sigmoid, RELATIVE, single, -87, ALL, 0},
    {"sin(single($0))", of_sin, RELATIVE, single, -1e7, 1e7, 0},
    {"cos(single($0))", of_cos, RELATIVE, single, -1e7, 1e7, 0},
    {"erf(single($0))", of_erf, RELATIVE, single, -ALL, ALL, 0},
};

enum { REALS = sizeof(reals) / sizeof(*reals) };

/* ---- ints ---- */

struct int_pair {
  int32_t x, y;
};

static inline struct int_pair case_ints(uint32_t number)
{
  static const int32_t numbers[] = {0,  1,  -1,  2,     -2,        3,
                                    -3, 7,  -7,  31,    INT32_MAX, INT32_MIN,
                                    32, 33, -32, 65536, -65537,    0x55555555};
  enum { NUMBERS = sizeof(numbers) / sizeof(*numbers) };
  if (number < NUMBERS * NUMBERS)
    return (struct int_pair){numbers[number / NUMBERS], numbers[number % NUMBERS]};
  int32_t x = (int32_t)random_bits();
  return (struct int_pair){x, (int32_t)random_bits() >> random_bits() % 32};
}

static const struct {
  const char *call;
  enum expr_op op;
  int64_t divisor; /* in place of y, where not 0 */
} ints[] = {
    {"$0 + $1", EXPR_ADD, 0},
    {"$0 - $1", EXPR_SUB, 0},
    {"$0 * $1", EXPR_MUL, 0},
    {"$0 // $1", EXPR_FLOORDIV, 0},
    {"$0 % $1", EXPR_MOD, 0},
    {"$0 // 7 + 0 * $1", EXPR_FLOORDIV, 7},
    {"$0 // -3 + 0 * $1", EXPR_FLOORDIV, -3},
    {"$0 % 16 + 0 * $1", EXPR_MOD, 16},
    {"$0 % -5 + 0 * $1", EXPR_MOD, -5},
    {"$0 // -1 + 0 * $1", EXPR_FLOORDIV, -1},
    {"$0 % -1 + 0 * $1", EXPR_MOD, -1},
    {"min($0, $1)", EXPR_MIN, 0},
    {"max($0, $1)", EXPR_MAX, 0},
    {"int($0 < $1)", EXPR_LT, 0},
    {"int($0 <= $1)", EXPR_LE, 0},
    {"int($0 == $1)", EXPR_EQ, 0},
    {"int($0 != $1)", EXPR_NE, 0},
    {"bit_and($0, $1)", EXPR_BIT_AND, 0},
    {"bit_or($0, $1)", EXPR_BIT_OR, 0},
    {"bit_xor($0, $1)", EXPR_BIT_XOR, 0},
    {"shift_left($0, $1)", EXPR_SHIFT_LEFT, 0},
    {"shift_right($0, $1)", EXPR_SHIFT_RIGHT, 0},
};

enum { INTS = sizeof(ints) / sizeof(*ints) };

#endif
