#include "compiler/emit/math.h"

#include <math.h>

/* Minimax fits (Chebyshev interpolation in 40 digits), highest power first; the error of each fit
 * is below 1e-8 of the function for f32 and 1e-17 for f64. */
static const double exp2_f32[] = {0.0001546144469856912908,
                                  0.001340042817761583794,
                                  0.009618056678524638075,
                                  0.05550327266230702059,
                                  0.2402265092228875807,
                                  0.6931472067028325958,
                                  1.0};
static const double exp2_f64[] = {
    4.455817908336064493e-10, 7.074194297288521006e-9,   1.01780570877339411e-7,
    1.321543253591237617e-6,  0.00001525273384155677259, 0.0001540353046372435421,
    0.00133335581464064707,   0.009618129107587256668,   0.05550410866482162704,
    0.2402265069591015957,    0.6931471805599453093,     0.9999999999999999969};
/* log2(m) = t * P(t^2), t = (m - 1) / (m + 1), for m in [sqrt(1/2), sqrt(2)] */
static const double log2_f32[] = {0.4317607218145981187, 0.5767136031224418009,
                                  0.9617988527702258734, 2.88539007978623751};
static const double log2_f64[] = {
    0.2137073097469370321, 0.2209084557195994387, 0.2623345255182170325, 0.3205985317296617204,
    0.4121985858707323976, 0.5770780163453885004, 0.9617966939259899442, 2.885390081777926811};
/* sin x = x + x^3 P(x^2), cos x = 1 - x^2 / 2 + x^4 P(x^2), |x| <= pi / 4 */
static const double sin_f32[] = {2.72499258030597923e-6, -0.000198400867353848456,
                                 0.008333331874710208788, -0.1666666666385528953};
static const double cos_f32[] = {0.00002454794208507157251, -0.001388830303589486604,
                                 0.04166666465950220677};
/* tanh x = x + x^3 P(x^2), |x| <= 0.625 */
static const double tanh_f32[] = {-0.006096714165908197575, 0.02099717899907475057,
                                  -0.05385090957851358083, 0.1333276973697632786,
                                  -0.3333332894413425457};
/* erf x = x P(x^2), |x| <= 1 */
static const double erf_near[] = {-9.667044571486996415e-6,  0.0001126595902560660897,
                                  -0.0008484080405535106294, 0.005221031807858022797,
                                  -0.02686543072767024289,   0.1128378249523684454,
                                  -0.376126384680287104,     1.128379167061543415};
/* erfc x = exp(-x^2) P(t), t = 1 / (1 + x / 2), 1 <= x <= 6 */
static const double erfc_far[] = {
    0.04546951361108617675, -0.05925961306672165894, -0.1670815447225126076,
    0.2701519364458835632,  0.07127172237436024516,  0.2816685891781858733,
    0.2751673066776831002,  0.2828620675000635366,   -0.00003648859797884424687};

#define POLYNOMIAL(e, table, x) polynomial((e), (table), sizeof(table) / sizeof(*(table)), (x))

static LLVMValueRef polynomial(struct emit *e, const double *coefficients, size_t count,
                               LLVMValueRef x)
{
  LLVMValueRef sum = emit_float_like(x, coefficients[0]);
  for (size_t k = 1; k < count; k++)
    sum = emit_fma(e, sum, x, emit_float_like(x, coefficients[k]));
  return sum;
}

static bool is_f64(struct emit *e, LLVMValueRef x)
{
  return emit_element_type(x) == e->f64;
}

static LLVMValueRef as_bits(struct emit *e, LLVMValueRef x)
{
  return LLVMBuildBitCast(e->builder, x, emit_type_like(e, x, is_f64(e, x) ? e->i64 : e->i32), "");
}

static LLVMValueRef compare(struct emit *e, LLVMRealPredicate predicate, LLVMValueRef a, double b)
{
  return LLVMBuildFCmp(e->builder, predicate, a, emit_float_like(a, b), "");
}

static LLVMValueRef times(struct emit *e, LLVMValueRef a, double b)
{
  return LLVMBuildFMul(e->builder, a, emit_float_like(a, b), "");
}

static LLVMValueRef plus(struct emit *e, LLVMValueRef a, double b)
{
  return LLVMBuildFAdd(e->builder, a, emit_float_like(a, b), "");
}

static LLVMValueRef absolute(struct emit *e, LLVMValueRef x)
{
  return emit_intrinsic(e, "llvm.fabs", LLVMTypeOf(x), &x, 1);
}

static LLVMValueRef copy_sign(struct emit *e, LLVMValueRef magnitude, LLVMValueRef sign)
{
  return emit_intrinsic(e, "llvm.copysign", LLVMTypeOf(magnitude),
                        (LLVMValueRef[]){magnitude, sign}, 2);
}

/* Whether the GPU's own approximations serve: they are of f32. */
static bool approximates(struct emit *e, LLVMValueRef x)
{
  return e->gpu && !is_f64(e, x);
}

/* a / b for |b| in [1/2, infinity]. */
static LLVMValueRef quotient(struct emit *e, LLVMValueRef a, LLVMValueRef b)
{
  if (!approximates(e, b))
    return LLVMBuildFDiv(e->builder, a, b, "");
  LLVMValueRef inverse = emit_intrinsic(e, "llvm.nvvm.rcp.approx.ftz.f", NULL, &b, 1);
  return LLVMBuildFMul(e->builder, a, inverse, "");
}

LLVMValueRef emit_divide(struct emit *e, LLVMValueRef a, LLVMValueRef b)
{
  if (!approximates(e, b))
    return LLVMBuildFDiv(e->builder, a, b, "");
  if (LLVMIsAConstantFP(b) != NULL) {
    LLVMBool inexact;
    double divisor = LLVMConstRealGetDouble(b, &inexact);
    if (fabs(divisor) > 0x1p-120 && fabs(divisor) < 0x1p+120)
      return times(e, a, 1 / divisor);
  }
  return emit_intrinsic(e, "llvm.nvvm.div.full", NULL, (LLVMValueRef[]){a, b}, 2);
}

LLVMValueRef emit_rsqrt(struct emit *e, LLVMValueRef x)
{
  if (approximates(e, x))
    return emit_intrinsic(e, "llvm.nvvm.rsqrt.approx.f", NULL, &x, 1);
  return LLVMBuildFDiv(e->builder, emit_float_like(x, 1), emit_sqrt(e, x), "");
}

LLVMValueRef emit_sqrt(struct emit *e, LLVMValueRef x)
{
  return emit_intrinsic(e, "llvm.sqrt", LLVMTypeOf(x), &x, 1);
}

LLVMValueRef emit_floor(struct emit *e, LLVMValueRef x)
{
  if (!e->splits_floor)
    return emit_intrinsic(e, "llvm.floor", LLVMTypeOf(x), &x, 1);
  /* From `large` on numbers are whole; the sum with it rounds to a neighbour of a smaller one. */
  const double large = is_f64(e, x) ? 0x1p52 : 0x1p23;
  LLVMValueRef signed_large = copy_sign(e, emit_float_like(x, large), x);
  LLVMValueRef near = LLVMBuildFAdd(e->builder, x, signed_large, "");
  near = LLVMBuildFSub(e->builder, near, signed_large, "");
  LLVMValueRef above = LLVMBuildFCmp(e->builder, LLVMRealOGT, near, x, "");
  near = emit_select(e, above, plus(e, near, -1), near);
  near = copy_sign(e, near, x); /* of zeros */
  return emit_select(e, compare(e, LLVMRealOLT, absolute(e, x), large), near, x);
}

LLVMValueRef emit_trunc(struct emit *e, LLVMValueRef x)
{
  if (!e->splits_floor)
    return emit_intrinsic(e, "llvm.trunc", LLVMTypeOf(x), &x, 1);
  return copy_sign(e, emit_floor(e, absolute(e, x)), x);
}

LLVMValueRef emit_exp2(struct emit *e, LLVMValueRef x)
{
  if (approximates(e, x))
    return emit_intrinsic(e, "llvm.nvvm.ex2.approx.ftz", e->f32, &x, 1);
  bool wide = is_f64(e, x);
  /* Adding this rounds to an integer, which is then in the low bits. Unlike a conversion it is
   * defined for NaN. */
  double magic = wide ? 0x1.8p52 : 0x1.8p23;
  double bias = wide ? 1023 : 127;
  unsigned mantissa = wide ? 52 : 23;
  /* Twice the polynomial times half the power of two: the latter stays finite up to 2^(bias + 1).
   * At the lower bound it is 0. The comparisons are false for NaN, which stays. */
  LLVMValueRef t =
      emit_select(e, compare(e, LLVMRealOLT, x, 1 - bias), emit_float_like(x, 1 - bias), x);
  t = emit_select(e, compare(e, LLVMRealOGT, t, bias + 1), emit_float_like(x, bias + 1), t);
  LLVMValueRef shifted = plus(e, t, magic);
  LLVMValueRef whole = plus(e, shifted, -magic);
  LLVMValueRef rest = LLVMBuildFSub(e->builder, t, whole, "");
  LLVMValueRef bits = as_bits(e, shifted);
  LLVMTypeRef bits_type = LLVMTypeOf(bits);
  bits = LLVMBuildShl(e->builder, bits, emit_int_of(bits_type, mantissa), "");
  int64_t half = wide ? INT64_C(0x3fe0000000000000) : INT64_C(0x3f000000);
  bits = LLVMBuildAdd(e->builder, bits, emit_int_of(bits_type, half), "");
  LLVMValueRef scale = LLVMBuildBitCast(e->builder, bits, LLVMTypeOf(x), "");
  LLVMValueRef power = wide ? POLYNOMIAL(e, exp2_f64, rest) : POLYNOMIAL(e, exp2_f32, rest);
  return LLVMBuildFMul(e->builder, times(e, power, 2), scale, "");
}

LLVMValueRef emit_log2(struct emit *e, LLVMValueRef x)
{
  bool wide = is_f64(e, x);
  unsigned mantissa = wide ? 52 : 23;
  double tiny = wide ? 0x1p-1022 : 0x1p-126;
  double lift = wide ? 0x1p54 : 0x1p25;
  double lift_log = wide ? 54 : 25;
  LLVMValueRef small = compare(e, LLVMRealOLT, x, tiny);
  LLVMValueRef normal = emit_select(e, small, times(e, x, lift), x);
  LLVMValueRef bits = as_bits(e, normal);
  LLVMTypeRef bits_type = LLVMTypeOf(bits);
  /* Move the exponent's border to sqrt(1/2), so that the mantissa lies in [sqrt(1/2), sqrt(2)). */
  int64_t border = wide ? INT64_C(0x3fe6a09e667f3bcd) : INT64_C(0x3f3504f3);
  LLVMValueRef moved = LLVMBuildSub(e->builder, bits, emit_int_of(bits_type, border), "");
  LLVMValueRef exponent = LLVMBuildAShr(e->builder, moved, emit_int_of(bits_type, mantissa), "");
  LLVMValueRef mantissa_bits =
      LLVMBuildSub(e->builder, bits,
                   LLVMBuildShl(e->builder, exponent, emit_int_of(bits_type, mantissa), ""), "");
  LLVMValueRef m = LLVMBuildBitCast(e->builder, mantissa_bits, LLVMTypeOf(x), "");
  LLVMValueRef power = LLVMBuildSIToFP(e->builder, exponent, LLVMTypeOf(x), "");
  power = emit_select(e, small, plus(e, power, -lift_log), power);
  LLVMValueRef t = quotient(e, plus(e, m, -1), plus(e, m, 1));
  LLVMValueRef square = LLVMBuildFMul(e->builder, t, t, "");
  LLVMValueRef series = wide ? POLYNOMIAL(e, log2_f64, square) : POLYNOMIAL(e, log2_f32, square);
  LLVMValueRef result = emit_fma(e, t, series, power);
  LLVMValueRef infinity = emit_float_like(x, (double)INFINITY);
  result = emit_select(e, compare(e, LLVMRealOEQ, x, (double)INFINITY), infinity, result);
  result =
      emit_select(e, compare(e, LLVMRealOEQ, x, 0), emit_float_like(x, -(double)INFINITY), result);
  LLVMValueRef undefined = compare(e, LLVMRealULT, x, 0); /* also NaN */
  return emit_select(e, undefined, emit_float_like(x, (double)NAN), result);
}

LLVMValueRef emit_through_f64(struct emit *e, LLVMValueRef (*function)(struct emit *, LLVMValueRef),
                              LLVMValueRef x)
{
  LLVMValueRef wide = LLVMBuildFPExt(e->builder, x, emit_type_like(e, x, e->f64), "");
  return LLVMBuildFPTrunc(e->builder, function(e, wide), LLVMTypeOf(x), "");
}

static const double log2_of_e = 1.44269504088896340736;
static const double ln_of_2 = 0.69314718055994530942;

LLVMValueRef emit_exp(struct emit *e, LLVMValueRef x)
{
  if (is_f64(e, x))
    return emit_exp2(e, times(e, x, log2_of_e));
  /* x * log2(e) in two parts: one rounding of the product alone would cost 1e-5 near |x| = 88. */
  LLVMValueRef high = times(e, x, (double)(float)log2_of_e);
  LLVMValueRef low = emit_exact_fma(e, x, emit_float_like(x, (double)(float)log2_of_e),
                                    LLVMBuildFNeg(e->builder, high, ""));
  low = emit_fma(e, x, emit_float_like(x, log2_of_e - (double)(float)log2_of_e), low);
  LLVMValueRef power = emit_exp2(e, high);
  /* 2^(high + low) = 2^high (1 + low ln 2); low is not finite where x is infinite or the product
   * overflows. */
  LLVMValueRef correction = emit_fma(e, power, times(e, low, ln_of_2), power);
  LLVMValueRef usable =
      compare(e, LLVMRealOLT, absolute(e, x), 0x1.62e43p+6); /* the least whose exp is infinite */
  return emit_select(e, usable, correction, power);
}

LLVMValueRef emit_log(struct emit *e, LLVMValueRef x)
{
  return times(e, emit_log2(e, x), ln_of_2);
}

LLVMValueRef emit_pow(struct emit *e, LLVMValueRef x, LLVMValueRef y)
{
  LLVMTypeRef narrow = LLVMTypeOf(x);
  LLVMTypeRef wide = emit_type_like(e, x, e->f64);
  LLVMValueRef base = LLVMBuildFPExt(e->builder, x, wide, "");
  LLVMValueRef exponent = LLVMBuildFPExt(e->builder, y, wide, "");
  LLVMValueRef logarithm = emit_log2(e, absolute(e, base));
  LLVMValueRef power = emit_exp2(e, LLVMBuildFMul(e->builder, exponent, logarithm, ""));
  LLVMValueRef whole =
      LLVMBuildFCmp(e->builder, LLVMRealOEQ, emit_floor(e, exponent), exponent, "");
  LLVMValueRef half = times(e, exponent, 0.5);
  LLVMValueRef even = LLVMBuildFCmp(e->builder, LLVMRealOEQ, emit_floor(e, half), half, "");
  LLVMValueRef odd = LLVMBuildAnd(e->builder, whole, LLVMBuildNot(e->builder, even, ""), "");
  /* The sign of the base shows in odd powers, -0 included; a negative finite base has no real power
   * otherwise. */
  LLVMValueRef result = emit_select(e, odd, copy_sign(e, power, base), power);
  LLVMValueRef negative = compare(e, LLVMRealOLT, base, 0);
  negative =
      LLVMBuildAnd(e->builder, negative, compare(e, LLVMRealONE, base, -(double)INFINITY), "");
  LLVMValueRef undefined =
      LLVMBuildAnd(e->builder, negative, LLVMBuildNot(e->builder, whole, ""), "");
  result = emit_select(e, undefined, emit_float_of(wide, (double)NAN), result);
  LLVMValueRef one = LLVMBuildOr(e->builder, compare(e, LLVMRealOEQ, exponent, 0),
                                 compare(e, LLVMRealOEQ, base, 1), "");
  result = emit_select(e, one, emit_float_of(wide, 1), result);
  LLVMValueRef minus_one =
      LLVMBuildAnd(e->builder, compare(e, LLVMRealOEQ, base, -1),
                   LLVMBuildFCmp(e->builder, LLVMRealOEQ, absolute(e, exponent),
                                 emit_float_of(wide, (double)INFINITY), ""),
                   "");
  result = emit_select(e, minus_one, emit_float_of(wide, 1), result);
  return LLVMBuildFPTrunc(e->builder, result, narrow, "");
}

LLVMValueRef emit_sigmoid(struct emit *e, LLVMValueRef x)
{
  LLVMValueRef power = emit_exp(e, LLVMBuildFNeg(e->builder, x, ""));
  return quotient(e, emit_float_like(x, 1), plus(e, power, 1));
}

/* Good to 1e-12, for what is rounded to f32. */
static LLVMValueRef wide_tanh(struct emit *e, LLVMValueRef x)
{
  LLVMValueRef size = absolute(e, x);
  LLVMValueRef power = emit_exp2(e, times(e, size, -2 * log2_of_e));
  LLVMValueRef far = LLVMBuildFSub(e->builder, emit_float_like(x, 1), power, "");
  far = LLVMBuildFDiv(e->builder, far, plus(e, power, 1), "");
  /* The difference has no digits left near 0; x - x^3 / 3 + 2 x^5 / 15 has there. */
  LLVMValueRef square = LLVMBuildFMul(e->builder, size, size, "");
  LLVMValueRef series =
      emit_fma(e, square, emit_float_like(x, 2.0 / 15), emit_float_like(x, -1.0 / 3));
  LLVMValueRef near = emit_fma(e, LLVMBuildFMul(e->builder, size, square, ""), series, size);
  return copy_sign(e, emit_select(e, compare(e, LLVMRealOLT, size, 0x1p-8), near, far), x);
}

LLVMValueRef emit_tanh(struct emit *e, LLVMValueRef x)
{
  if (is_f64(e, x))
    return wide_tanh(e, x);
  LLVMValueRef size = absolute(e, x);
  /* From 10 on tanh is 1 in f32; the bound keeps exp finite. NaN stays. */
  LLVMValueRef bounded =
      emit_select(e, compare(e, LLVMRealOGT, size, 10), emit_float_like(x, 10), size);
  LLVMValueRef power = emit_exp2(e, times(e, bounded, 2 * log2_of_e));
  LLVMValueRef far = quotient(e, emit_float_like(x, -2), plus(e, power, 1));
  far = plus(e, far, 1);
  LLVMValueRef square = LLVMBuildFMul(e->builder, size, size, "");
  LLVMValueRef series = LLVMBuildFMul(e->builder, square, POLYNOMIAL(e, tanh_f32, square), "");
  LLVMValueRef near = emit_fma(e, size, series, size);
  LLVMValueRef result = emit_select(e, compare(e, LLVMRealOLT, size, 0.625), near, far);
  return copy_sign(e, result, x);
}

/* Taylor's series, to 1e-18 for |r| <= pi / 4: sin r = r + r^3 P(r^2), cos r = 1 + r^2 P(r^2). */
static const double sin_f64[] = {
    1 / 355687428096000.0, -1 / 1307674368000.0, 1 / 6227020800.0, -1 / 39916800.0,
    1 / 362880.0,          -1 / 5040.0,          1 / 120.0,        -1 / 6.0};
static const double cos_f64[] = {-1 / 6402373705728000.0,
                                 1 / 20922789888000.0,
                                 -1 / 87178291200.0,
                                 1 / 479001600.0,
                                 -1 / 3628800.0,
                                 1 / 40320.0,
                                 -1 / 720.0,
                                 1 / 24.0,
                                 -1 / 2.0};

static LLVMValueRef wide_sine(struct emit *e, LLVMValueRef x, int quarter)
{
  LLVMValueRef shifted =
      emit_fma(e, x, emit_float_like(x, 0.63661977236758134308), emit_float_like(x, 0x1.8p52));
  LLVMValueRef multiple = plus(e, shifted, -0x1.8p52);
  LLVMValueRef r = emit_exact_fma(e, multiple, emit_float_like(x, -0x1.921fb54442d18p+0), x);
  r = emit_fma(e, multiple, emit_float_like(x, -0x1.1a62633145c07p-54), r);
  LLVMValueRef square = LLVMBuildFMul(e->builder, r, r, "");
  LLVMValueRef cubic = LLVMBuildFMul(e->builder, LLVMBuildFMul(e->builder, square, r, ""),
                                     POLYNOMIAL(e, sin_f64, square), "");
  LLVMValueRef s = LLVMBuildFAdd(e->builder, r, cubic, "");
  LLVMValueRef c = emit_fma(e, square, POLYNOMIAL(e, cos_f64, square), emit_float_like(x, 1));
  LLVMValueRef bits = as_bits(e, shifted);
  LLVMTypeRef type = LLVMTypeOf(bits);
  bits = LLVMBuildAdd(e->builder, bits, emit_int_of(type, quarter), "");
  LLVMValueRef odd = LLVMBuildAnd(e->builder, bits, emit_int_of(type, 1), "");
  LLVMValueRef value =
      emit_select(e, LLVMBuildICmp(e->builder, LLVMIntNE, odd, emit_int_of(type, 0), ""), c, s);
  LLVMValueRef two = LLVMBuildAnd(e->builder, bits, emit_int_of(type, 2), "");
  LLVMValueRef negative = LLVMBuildICmp(e->builder, LLVMIntNE, two, emit_int_of(type, 0), "");
  return emit_select(e, negative, LLVMBuildFNeg(e->builder, value, ""), value);
}

/* Both series of x reduced by multiples of pi / 2; `quarter` is added to the multiple (1 turns sine
 * into cosine). */
static LLVMValueRef sine(struct emit *e, LLVMValueRef x, int quarter)
{
  if (is_f64(e, x))
    return wide_sine(e, x, quarter);
  const double magic = 0x1.8p23;
  LLVMValueRef shifted =
      emit_fma(e, x, emit_float_like(x, 0.63661977236758134308), emit_float_like(x, magic));
  LLVMValueRef multiple = plus(e, shifted, -magic);
  /* pi / 2 in three f32 parts (Cody and Waite 1980) */
  LLVMValueRef r = emit_exact_fma(e, multiple, emit_float_like(x, -0x1.921fb6p+0), x);
  r = emit_fma(e, multiple, emit_float_like(x, 0x1.777a5cp-25), r);
  r = emit_fma(e, multiple, emit_float_like(x, 0x1.ee59dap-50), r);
  LLVMValueRef bits = as_bits(e, shifted);
  LLVMTypeRef type = LLVMTypeOf(bits);
  bits = LLVMBuildAdd(e->builder, bits, emit_int_of(type, quarter), "");
  LLVMValueRef square = LLVMBuildFMul(e->builder, r, r, "");
  LLVMValueRef cubic = LLVMBuildFMul(e->builder, square, POLYNOMIAL(e, sin_f32, square), "");
  LLVMValueRef s = emit_fma(e, r, cubic, r);
  LLVMValueRef quartic = LLVMBuildFMul(e->builder, square, POLYNOMIAL(e, cos_f32, square), "");
  LLVMValueRef c = emit_fma(e, square, plus(e, quartic, -0.5), emit_float_like(x, 1));
  LLVMValueRef odd = LLVMBuildAnd(e->builder, bits, emit_int_of(type, 1), "");
  LLVMValueRef is_odd = LLVMBuildICmp(e->builder, LLVMIntNE, odd, emit_int_of(type, 0), "");
  LLVMValueRef value = emit_select(e, is_odd, c, s);
  LLVMValueRef sign =
      LLVMBuildShl(e->builder, LLVMBuildAnd(e->builder, bits, emit_int_of(type, 2), ""),
                   emit_int_of(type, 30), "");
  LLVMValueRef signed_bits = LLVMBuildXor(e->builder, as_bits(e, value), sign, "");
  return LLVMBuildBitCast(e->builder, signed_bits, LLVMTypeOf(x), "");
}

LLVMValueRef emit_sin(struct emit *e, LLVMValueRef x)
{
  return sine(e, x, 0);
}

LLVMValueRef emit_cos(struct emit *e, LLVMValueRef x)
{
  return sine(e, x, 1);
}

/* erf x = 2 / sqrt(pi) exp(-x^2) sum of 2^n x^(2n+1) / (1 3 5 ... (2n+1)), whose terms are all
 * positive. From 4 on erf is 1 in f32. Slow; nothing but masks and indices asks for it. */
static LLVMValueRef wide_erf(struct emit *e, LLVMValueRef x)
{
  LLVMValueRef size = absolute(e, x);
  size = emit_select(e, compare(e, LLVMRealOGT, size, 4), emit_float_like(x, 4), size);
  LLVMValueRef square = LLVMBuildFMul(e->builder, size, size, "");
  LLVMValueRef carried[2] = {size, size}; /* the last term and the sum */
  struct emit_loop terms;
  emit_loop_begin(e, &terms, emit_i32(e, 3), emit_i32(e, 3 + 2 * 64), 2, carried, 2);
  LLVMValueRef divisor = LLVMBuildSIToFP(e->builder, terms.index, e->f64, "");
  if (emit_is_vector(x))
    divisor = emit_broadcast(e, divisor);
  LLVMValueRef growth = LLVMBuildFDiv(e->builder, times(e, square, 2), divisor, "");
  carried[0] = LLVMBuildFMul(e->builder, terms.carried[0], growth, "");
  carried[1] = LLVMBuildFAdd(e->builder, terms.carried[1], carried[0], "");
  emit_loop_end(e, &terms, carried);
  LLVMValueRef scale =
      times(e, emit_exp(e, LLVMBuildFNeg(e->builder, square, "")), 1.12837916709551257390);
  return copy_sign(e, LLVMBuildFMul(e->builder, terms.result[1], scale, ""), x);
}

LLVMValueRef emit_erf(struct emit *e, LLVMValueRef x)
{
  if (is_f64(e, x))
    return wide_erf(e, x);
  LLVMValueRef size = absolute(e, x);
  LLVMValueRef bounded =
      emit_select(e, compare(e, LLVMRealOGT, size, 6), emit_float_like(x, 6), size);
  LLVMValueRef square = LLVMBuildFMul(e->builder, bounded, bounded, "");
  LLVMValueRef near = LLVMBuildFMul(e->builder, bounded, POLYNOMIAL(e, erf_near, square), "");
  LLVMValueRef t = quotient(e, emit_float_like(x, 1),
                            emit_fma(e, bounded, emit_float_like(x, 0.5), emit_float_like(x, 1)));
  LLVMValueRef tail = LLVMBuildFMul(e->builder, emit_exp(e, LLVMBuildFNeg(e->builder, square, "")),
                                    POLYNOMIAL(e, erfc_far, t), "");
  LLVMValueRef far = LLVMBuildFSub(e->builder, emit_float_like(x, 1), tail, "");
  return copy_sign(e, emit_select(e, compare(e, LLVMRealOLT, size, 1), near, far), x);
}

/* The hardware's functions are good between -pi and pi. */
static LLVMValueRef within_a_turn(struct emit *e, LLVMValueRef t)
{
  LLVMValueRef whole = emit_intrinsic(e, "llvm.rint", e->f32, &t, 1);
  return times(e, LLVMBuildFSub(e->builder, t, whole, ""), 6.283185307179586);
}

LLVMValueRef emit_sin_of_turns(struct emit *e, LLVMValueRef t)
{
  LLVMValueRef angle = within_a_turn(e, t);
  return emit_intrinsic(e, "llvm.nvvm.sin.approx.f", NULL, &angle, 1);
}

LLVMValueRef emit_cos_of_turns(struct emit *e, LLVMValueRef t)
{
  LLVMValueRef angle = within_a_turn(e, t);
  return emit_intrinsic(e, "llvm.nvvm.cos.approx.f", NULL, &angle, 1);
}
