/* Arithmetic of f32 and f64 ("Floating-Point Instructions" of the PTX ISA), rounded to nearest;
 * instructions with another rounding are unknown.
 *
 * Approximations give the correctly rounded result, or nearly, where hardware may be off by a few
 * units in the last place; tanh.approx alone, whose error is visible in f16 already, is rounded to
 * the 11 bits that the ISA promises. */
#include <math.h>

#include "tests/device/ptx_lanewise.h"

#define LOAD_ftz(x) ptx_flush(ptx_f32(x))
#define STORE_ftz(x) ptx_f32_bits(ptx_flush(x))
#define STORE_sat(x) ptx_f32_bits(saturate(x))
#define STORE_ftz_sat(x) ptx_f32_bits(saturate(ptx_flush(x)))

static float saturate(float value)
{
  return value >= 1 ? 1 : value > 0 ? value : 0; /* 0 for NaN */
}

#define F32(arity, name, expression)                                                               \
  PTX_LANEWISE_##arity(name##_f32, float, ptx_f32, ptx_f32_bits, expression)                       \
      PTX_LANEWISE_##arity(name##_f32_ftz, float, LOAD_ftz, STORE_ftz, expression)
#define F32_SAT(arity, name, expression)                                                           \
  F32(arity, name, expression)                                                                     \
  PTX_LANEWISE_##arity(name##_f32_sat, float, ptx_f32, STORE_sat, expression)                      \
      PTX_LANEWISE_##arity(name##_f32_ftz_sat, float, LOAD_ftz, STORE_ftz_sat, expression)
#define F64(arity, name, expression)                                                               \
  PTX_LANEWISE_##arity(name##_f64, double, ptx_f64, ptx_f64_bits, expression)

/* The number where the other is NaN; -0 is less than +0. */
static double smaller(double a, double b)
{
  return a != a ? b : b != b ? a : a == b ? (signbit(a) != 0 ? a : b) : a < b ? a : b;
}

static double larger(double a, double b)
{
  return a != a ? b : b != b ? a : a == b ? (signbit(a) != 0 ? b : a) : a > b ? a : b;
}

static double smaller_nan(double a, double b)
{
  return a != a || b != b ? (double)NAN : smaller(a, b);
}

static double larger_nan(double a, double b)
{
  return a != a || b != b ? (double)NAN : larger(a, b);
}

static float approximate_tanh(float a)
{
  const float exact = tanhf(a);
  const uint64_t bits =
      ptx_pack(PTX_FLOAT_TF32, ptx_unpack(PTX_FLOAT_F32, ptx_f32_bits(exact)), PTX_ROUND_NEAREST);
  return ptx_f32(bits);
}

static float reciprocal_root(float a)
{
  return (float)(1.0 / sqrt((double)a));
}

F32_SAT(2, add, a + b)
F32_SAT(2, sub, a - b)
F32_SAT(2, mul, a *b)
F32_SAT(3, fma, fmaf(a, b, c))
F64(2, add, a + b)
F64(2, sub, a - b)
F64(2, mul, a *b)
F64(3, fma, fma(a, b, c))
F32(2, div, a / b)
F64(2, div, a / b)
F32(1, rcp, 1.0f / a)
F64(1, rcp, 1.0 / a)
F32(1, sqrt, sqrtf(a))
F64(1, sqrt, sqrt(a))
F32(1, rsqrt, reciprocal_root(a))
F64(1, rsqrt, 1.0 / sqrt(a))
F32(1, neg, -a)
F64(1, neg, -a)
F32(1, abs, fabsf(a))
F64(1, abs, fabs(a))
F32(2, min, (float)smaller(a, b))
F32(2, max, (float)larger(a, b))
F64(2, min, smaller(a, b))
F64(2, max, larger(a, b))
F32(2, min_nan, (float)smaller_nan(a, b))
F32(2, max_nan, (float)larger_nan(a, b))
F32(1, ex2, exp2f(a))
F32(1, lg2, log2f(a))
F32(1, sin, sinf(a))
F32(1, cos, cosf(a))
PTX_LANEWISE_1(tanh_f32, float, ptx_f32, ptx_f32_bits, approximate_tanh(a))
PTX_LANEWISE_2(copysign_f32, float, ptx_f32, ptx_f32_bits, copysignf(b, a))
PTX_LANEWISE_2(copysign_f64, double, ptx_f64, ptx_f64_bits, copysign(b, a))

struct row {
  enum ptx_opcode opcode;
  bool nan;
  ptx_executor *f32, *f32_ftz, *f32_sat, *f32_ftz_sat, *f64;
};
#define ROW(NAME, name)                                                                            \
  {                                                                                                \
    PTX_##NAME, false, name##_f32, name##_f32_ftz, NULL, NULL, name##_f64                          \
  }
#define ROW_SAT(NAME, name)                                                                        \
  {                                                                                                \
    PTX_##NAME, false, name##_f32, name##_f32_ftz, name##_f32_sat, name##_f32_ftz_sat, name##_f64  \
  }
#define ROW_F32(NAME, name)                                                                        \
  {                                                                                                \
    PTX_##NAME, false, name##_f32, name##_f32_ftz, NULL, NULL, NULL                                \
  }
static const struct row rows[] = {
    ROW_SAT(ADD, add),
    ROW_SAT(SUB, sub),
    ROW_SAT(MUL, mul),
    ROW_SAT(FMA, fma),
    ROW(DIV, div),
    ROW(RCP, rcp),
    ROW(SQRT, sqrt),
    ROW(RSQRT, rsqrt),
    ROW(NEG, neg),
    ROW(ABS, abs),
    ROW(MIN, min),
    ROW(MAX, max),
    {PTX_MIN, true, min_nan_f32, min_nan_f32_ftz, NULL, NULL, NULL},
    {PTX_MAX, true, max_nan_f32, max_nan_f32_ftz, NULL, NULL, NULL},
    ROW_F32(EX2, ex2),
    ROW_F32(LG2, lg2),
    ROW_F32(SIN, sin),
    ROW_F32(COS, cos),
    {PTX_TANH, false, tanh_f32, NULL, NULL, NULL, NULL},
    {PTX_COPYSIGN, false, copysign_f32, NULL, NULL, NULL, copysign_f64},
};

ptx_executor *ptx_float_executor(enum ptx_opcode opcode, const struct ptx_modifiers *m)
{
  const bool ftz = ptx_has(m, PTX_CLASS_FTZ);
  const bool sat = ptx_has(m, PTX_CLASS_SAT);
  if ((ptx_has(m, PTX_CLASS_ROUND) && m->value[PTX_CLASS_ROUND] != PTX_ROUND_NEAREST) ||
      ptx_has(m, PTX_CLASS_RELU)) {
    return NULL;
  }
  for (size_t k = 0; k < sizeof(rows) / sizeof(rows[0]); k++) {
    const struct row *row = &rows[k];
    if (row->opcode == opcode && row->nan == ptx_has(m, PTX_CLASS_NAN)) {
      return m->types[0] == PTX_F64 ? (ftz || sat ? NULL : row->f64)
             : ftz && sat           ? row->f32_ftz_sat
             : ftz                  ? row->f32_ftz
             : sat                  ? row->f32_sat
                                    : row->f32;
    }
  }
  return NULL;
}
