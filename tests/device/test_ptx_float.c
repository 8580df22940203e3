/* Floating-point instructions and conversions of the interpreter against C, over edge values and
 * random ones. Formats other than float and double are rounded here by scaling and rint(). */
#include <math.h>

#include "tests/device/ptx_test.h"

static uint64_t operands[PTX_TEST_OPERANDS][3];

static uint64_t bits_of_float(float value)
{
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  return bits;
}
static uint64_t bits_of_double(double value)
{
  uint64_t bits;
  memcpy(&bits, &value, sizeof(bits));
  return bits;
}
static float f32(uint64_t bits)
{
  const uint32_t low = (uint32_t)bits;
  float value;
  memcpy(&value, &low, sizeof(value));
  return value;
}
static double f64(uint64_t bits)
{
  double value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}
static uint64_t canonical32(float value)
{
  return value != value ? 0x7fffffff : bits_of_float(value);
}
static uint64_t canonical64(double value)
{
  return value != value ? UINT64_C(0x7ff8000000000000) : bits_of_double(value);
}

/* Bits of f32 in the low half, of the same kind of number as f64 where a test needs that. */
static void fill_f32(void)
{
  static const float edges[] = {0.0f,
                                -0.0f,
                                1.0f,
                                -1.0f,
                                0.5f,
                                1.5f,
                                2.5f,
                                -2.5f,
                                0x1p-149f,
                                -0x1p-149f,
                                0x1p-126f,
                                0x1.fffffep-127f,
                                65504.0f,
                                65520.0f,
                                65519.0f,
                                0x1p-24f,
                                0x1p-25f,
                                0x1.8p-25f,
                                0x1p-14f,
                                2147483520.0f,
                                2147483648.0f,
                                -2147483648.0f,
                                4294967040.0f,
                                4294967296.0f,
                                0x1.fffffep127f,
                                -0x1.fffffep127f,
                                255.5f,
                                256.5f,
                                -128.5f,
                                1.00390625f,
                                1.01171875f,
                                0x1p63f};
  enum { EDGES = sizeof(edges) / sizeof(edges[0]) };
  const uint64_t infinity = bits_of_float(INFINITY), nan = bits_of_float(NAN);
  uint64_t state = 3;
  for (uint32_t k = 0; k < PTX_TEST_OPERANDS; k++) {
    for (uint32_t i = 0; i < 3; i++) {
      const uint64_t random = ptx_test_random(&state);
      uint64_t bits = random >> 20 & 0xffffffff;
      if (random % 8 == 0) {
        bits = bits_of_float(edges[random / 8 % EDGES]);
      } else if (random % 8 < 5) { /* of middling size */
        bits = bits_of_float(
            ldexpf((float)(int32_t)(random >> 16) * 0x1p-31f, (int)(random / 8 % 20)));
      } else if (random % 64 == 5) {
        bits = (random & 64) != 0 ? infinity : (random & 128) != 0 ? nan : infinity | 0x80000000;
      }
      operands[k][i] = k < EDGES && i == 0 ? bits_of_float(edges[k]) : bits;
    }
  }
}

static void fill_f64(void)
{
  fill_f32();
  uint64_t state = 5;
  for (uint32_t k = 0; k < PTX_TEST_OPERANDS; k++) {
    for (uint32_t i = 0; i < 3; i++) {
      const uint64_t random = ptx_test_random(&state);
      operands[k][i] = random % 8 == 0
                           ? random * 3
                           : bits_of_double((double)f32(operands[k][i]) *
                                            (random % 2 == 0 ? 1 : 1 + (double)random * 0x1p-80));
    }
  }
}

/* Numbers of 16 bits in each half of each operand. */
static void fill_half(void)
{
  uint64_t state = 9;
  for (uint32_t k = 0; k < PTX_TEST_OPERANDS; k++) {
    for (uint32_t i = 0; i < 3; i++) {
      const uint64_t random = ptx_test_random(&state);
      const uint64_t near_one = 0x3c003c00 ^ (random & 0x8fff8fff & 0x83ff83ff);
      operands[k][i] = (random >> 40) % 4 == 0 ? random & 0xffffffff : near_one;
    }
  }
}

struct instruction {
  const char *text;
  unsigned bits;
  uint64_t (*expected)(uint64_t a, uint64_t b, uint64_t c);
};

#define F32(name, expression)                                                                      \
  static uint64_t name(uint64_t x, uint64_t y, uint64_t z)                                         \
  {                                                                                                \
    const float a = f32(x), b = f32(y), c = f32(z);                                                \
    (void)a, (void)b, (void)c;                                                                     \
    return canonical32(expression);                                                                \
  }
#define F64(name, expression)                                                                      \
  static uint64_t name(uint64_t x, uint64_t y, uint64_t z)                                         \
  {                                                                                                \
    const double a = f64(x), b = f64(y), c = f64(z);                                               \
    (void)a, (void)b, (void)c;                                                                     \
    return canonical64(expression);                                                                \
  }
#define COMPARE(name, T, load, expression)                                                         \
  static uint64_t name(uint64_t x, uint64_t y, uint64_t z)                                         \
  {                                                                                                \
    const T a = load(x), b = load(y);                                                              \
    (void)b, (void)z;                                                                              \
    return (uint64_t)(expression);                                                                 \
  }

static float flushed(float a)
{
  return fabsf(a) < 0x1p-126f ? copysignf(0, a) : a;
}
static float saturated(float a)
{
  return a > 0 ? fminf(a, 1) : 0;
}
static float minimum(float a, float b)
{
  return a != a ? b : b != b ? a : a < b || (a == b && signbit(a) != 0) ? a : b;
}

F32(add, a + b)
F32(sub_ftz, flushed(flushed(a) - flushed(b)))
F32(mul, a *b)
F32(mul_ftz, flushed(flushed(a) * flushed(b)))
F32(add_sat, saturated(a + b))
F32(mul_ftz_sat, saturated(flushed(flushed(a) * flushed(b))))
F32(fused, fmaf(a, b, c))
F32(fused_ftz, flushed(fmaf(flushed(a), flushed(b), flushed(c))))
F32(quotient, a / b)
F32(reciprocal, 1 / a)
F32(root, sqrtf(a))
F32(negative, -a)
F32(magnitude, fabsf(a))
F32(min32, minimum(a, b))
F32(max32, -minimum(-a, -b))
F32(min_nan, a != a || b != b ? NAN : minimum(a, b))
F32(signed_as, copysignf(b, a))
F32(floor32, floorf(a))
F32(ceil32, ceilf(a))
F32(trunc32, truncf(a))
F32(rint32, rintf(a))
F64(add64, a + b)
F64(sub64, a - b)
F64(mul64, a *b)
F64(fused64, fma(a, b, c))
F64(quotient64, a / b)
F64(root64, sqrt(a))
F64(floor64, floor(a))
COMPARE(eq, float, f32, a == b)
COMPARE(ne, float, f32, a<b || a> b)
COMPARE(neu, float, f32, a != b)
COMPARE(lt, float, f32, a < b)
COMPARE(ltu, float, f32, !(a >= b))
COMPARE(le, float, f32, a <= b)
COMPARE(gtu, float, f32, !(a <= b))
COMPARE(ge, float, f32, a >= b)
COMPARE(geu, float, f32, !(a < b))
COMPARE(equ, float, f32, !(a < b || a > b))
COMPARE(num, float, f32, a == a && b == b)
COMPARE(unordered, float, f32, a != a || b != b)
COMPARE(gt64, double, f64, a > b)
COMPARE(is_infinite, float, f32, isinf(a) != 0)
COMPARE(is_subnormal, float, f32, fpclassify(a) == FP_SUBNORMAL)

static const struct instruction of_f32[] = {
    {"add.f32 %r4, %r1, %r2;", 32, add},
    {"add.rn.f32 %r4, %r1, %r2;", 32, add},
    {"sub.rn.ftz.f32 %r4, %r1, %r2;", 32, sub_ftz},
    {"mul.rn.f32 %r4, %r1, %r2;", 32, mul},
    {"mul.ftz.f32 %r4, %r1, %r2;", 32, mul_ftz},
    {"add.sat.f32 %r4, %r1, %r2;", 32, add_sat},
    {"mul.rn.ftz.sat.f32 %r4, %r1, %r2;", 32, mul_ftz_sat},
    {"fma.rn.f32 %r4, %r1, %r2, %r3;", 32, fused},
    {"fma.rn.ftz.f32 %r4, %r1, %r2, %r3;", 32, fused_ftz},
    {"div.rn.f32 %r4, %r1, %r2;", 32, quotient},
    {"rcp.rn.f32 %r4, %r1;", 32, reciprocal},
    {"sqrt.rn.f32 %r4, %r1;", 32, root},
    {"neg.f32 %r4, %r1;", 32, negative},
    {"abs.f32 %r4, %r1;", 32, magnitude},
    {"min.f32 %r4, %r1, %r2;", 32, min32},
    {"max.f32 %r4, %r1, %r2;", 32, max32},
    {"min.NaN.f32 %r4, %r1, %r2;", 32, min_nan},
    {"copysign.f32 %r4, %r1, %r2;", 32, signed_as},
    {"cvt.rmi.f32.f32 %r4, %r1;", 32, floor32},
    {"cvt.rpi.f32.f32 %r4, %r1;", 32, ceil32},
    {"cvt.rzi.f32.f32 %r4, %r1;", 32, trunc32},
    {"cvt.rni.f32.f32 %r4, %r1;", 32, rint32},
    {"setp.eq.f32 %p4, %r1, %r2;", 1, eq},
    {"setp.ne.f32 %p4, %r1, %r2;", 1, ne},
    {"setp.neu.f32 %p4, %r1, %r2;", 1, neu},
    {"setp.lt.f32 %p4, %r1, %r2;", 1, lt},
    {"setp.ltu.f32 %p4, %r1, %r2;", 1, ltu},
    {"setp.le.f32 %p4, %r1, %r2;", 1, le},
    {"setp.gtu.f32 %p4, %r1, %r2;", 1, gtu},
    {"setp.ge.f32 %p4, %r1, %r2;", 1, ge},
    {"setp.geu.f32 %p4, %r1, %r2;", 1, geu},
    {"setp.equ.f32 %p4, %r1, %r2;", 1, equ},
    {"setp.num.f32 %p4, %r1, %r2;", 1, num},
    {"setp.nan.f32 %p4, %r1, %r2;", 1, unordered},
    {"testp.infinite.f32 %p4, %r1;", 1, is_infinite},
    {"testp.subnormal.f32 %p4, %r1;", 1, is_subnormal},
};
static const struct instruction of_f64[] = {
    {"add.f64 %d4, %d1, %d2;", 64, add64},         {"sub.rn.f64 %d4, %d1, %d2;", 64, sub64},
    {"mul.rn.f64 %d4, %d1, %d2;", 64, mul64},      {"fma.rn.f64 %d4, %d1, %d2, %d3;", 64, fused64},
    {"div.rn.f64 %d4, %d1, %d2;", 64, quotient64}, {"sqrt.rn.f64 %d4, %d1;", 64, root64},
    {"cvt.rmi.f64.f64 %d4, %d1;", 64, floor64},    {"setp.gt.f64 %p4, %d1, %d2;", 1, gt64},
};

/* ---- formats ---- */

enum mode { NEAREST, AWAY, ZERO, DOWN, UP };
struct format {
  int precision, min_exponent, max_exponent, bits;
};
static const struct format f16 = {11, -14, 15, 16}, bf16 = {8, -126, 127, 16};
static const struct format tf32 = {11, -126, 127, 19};

static double round_integer(double x, enum mode mode)
{
  switch (mode) {
  case NEAREST: return rint(x);
  case AWAY: return round(x);
  case ZERO: return trunc(x);
  case DOWN: return floor(x);
  case UP: return ceil(x);
  }
  return x;
}

/* The bits of x in the format. */
static uint64_t encode(const struct format *f, double x, enum mode mode)
{
  const uint64_t sign = (uint64_t)(signbit(x) != 0) << (f->bits - 1);
  const uint64_t infinity = ((UINT64_C(1) << (f->bits - f->precision)) - 1) << (f->precision - 1);
  if (x != x) {
    return (UINT64_C(1) << (f->bits - 1)) - 1;
  }
  if (x == 0 || isinf(x)) {
    return sign | (x == 0 ? 0 : infinity);
  }
  int exponent = ilogb(x) < f->min_exponent ? f->min_exponent : ilogb(x);
  const double quantum = ldexp(1, exponent - f->precision + 1);
  const double rounded = round_integer(x / quantum, mode) * quantum;
  if (fabs(rounded) >= ldexp(1, f->max_exponent + 1)) {
    const bool down = mode == ZERO || (mode == DOWN && x > 0) || (mode == UP && x < 0);
    return sign | (down ? infinity - 1 : infinity);
  }
  if (rounded == 0) {
    return sign;
  }
  exponent = ilogb(rounded) < f->min_exponent ? f->min_exponent : ilogb(rounded);
  const uint64_t integer = (uint64_t)ldexp(fabs(rounded), f->precision - 1 - exponent);
  return sign | (integer + ((uint64_t)(exponent - f->min_exponent) << (f->precision - 1)));
}

static double decode(const struct format *f, uint64_t bits)
{
  const int fraction_bits = f->precision - 1;
  const uint64_t fraction = bits & ((UINT64_C(1) << fraction_bits) - 1);
  const int biased = (int)(bits >> fraction_bits & ((UINT64_C(1) << (f->bits - f->precision)) - 1));
  double value = biased == 0 ? (double)fraction : (double)(fraction | UINT64_C(1) << fraction_bits);
  value = ldexp(value, (biased == 0 ? 0 : biased - 1) + f->min_exponent - fraction_bits);
  if (biased == f->max_exponent * 2 + 1) {
    value = fraction == 0 ? (double)INFINITY : (double)NAN;
  }
  return (bits >> (f->bits - 1) & 1) != 0 ? -value : value;
}

#define CONVERT(name, expression)                                                                  \
  static uint64_t name(uint64_t a, uint64_t b, uint64_t c)                                         \
  {                                                                                                \
    (void)b, (void)c;                                                                              \
    return (uint64_t)(expression);                                                                 \
  }
static uint64_t clamp(double x, double low, double high, enum mode mode)
{
  if (x != x) {
    return 0;
  }
  x = round_integer(x, mode);
  return x <= low ? (uint64_t)(int64_t)low : x >= high ? (uint64_t)high : (uint64_t)(int64_t)x;
}

CONVERT(to_f16, encode(&f16, f32(a), NEAREST))
CONVERT(to_f16_rz, encode(&f16, f32(a), ZERO))
CONVERT(to_bf16, encode(&bf16, f32(a), NEAREST))
CONVERT(to_bf16_rz, encode(&bf16, f32(a), ZERO))
CONVERT(to_tf32, f32(a) != f32(a) ? 0x7fffffff : encode(&tf32, f32(a), AWAY) << 13)
CONVERT(to_bf16_pair, encode(&bf16, f32(a), NEAREST) << 16 | encode(&bf16, f32(b), NEAREST))
CONVERT(to_f16_pair, encode(&f16, f32(a), NEAREST) << 16 | encode(&f16, f32(b), NEAREST))
CONVERT(to_bf16_relu, f32(a) <= 0 ? 0 : encode(&bf16, f32(a), NEAREST))
CONVERT(to_f64, canonical64((double)f32(a)))
CONVERT(to_sat, canonical32(saturated(f32(a))))
CONVERT(to_s32, (uint32_t)clamp(f32(a), -2147483648.0, 2147483647.0, ZERO))
CONVERT(to_s32_rni, (uint32_t)clamp(f32(a), -2147483648.0, 2147483647.0, NEAREST))
CONVERT(to_s32_rmi, (uint32_t)clamp(f32(a), -2147483648.0, 2147483647.0, DOWN))
CONVERT(to_u32, (uint32_t)clamp(f32(a), 0, 4294967295.0, ZERO))
CONVERT(to_u8, clamp(f32(a), 0, 255, ZERO))
CONVERT(to_s8, (uint32_t)clamp(f32(a), -128, 127, ZERO))
CONVERT(to_s64, f32(a) != f32(a)     ? UINT64_C(0x8000000000000000)
                : f32(a) >= 0x1p63f  ? (uint64_t)INT64_MAX
                : f32(a) <= -0x1p63f ? (uint64_t)INT64_MIN
                                     : (uint64_t)(int64_t)f32(a))
CONVERT(from_s32, canonical32((float)(int32_t)a))
CONVERT(from_u32, canonical32((float)(uint32_t)a))
CONVERT(from_s64, canonical32((float)(int64_t)(a << 32 | b)))
CONVERT(from_u64, canonical64((double)(a << 32 | b)))
CONVERT(from_s32_f64, canonical64((double)(int32_t)a))
CONVERT(from_s16_f16, encode(&f16, (int16_t)a, NEAREST))
CONVERT(from_u32_rz, bits_of_float(ldexpf((float)((uint32_t)a >> 8), 8)))
CONVERT(sign_extended, (uint64_t)(int64_t)(int32_t)a)
CONVERT(sign_extended_8, (uint32_t)(int32_t)(int8_t)a)
CONVERT(truncated_16, (uint16_t)a)
CONVERT(saturated_u8, (int32_t)a<0 ? 0 : (int32_t)a> 255 ? 255 : (int32_t)a)
CONVERT(signed_byte, (uint32_t)(int32_t)(int8_t)a)

static const struct instruction conversions[] = {
    {"cvt.rn.f16.f32 %h4, %r1;", 16, to_f16},
    {"cvt.rz.f16.f32 %h4, %r1;", 16, to_f16_rz},
    {"cvt.rn.bf16.f32 %h4, %r1;", 16, to_bf16},
    {"cvt.rz.bf16.f32 %h4, %r1;", 16, to_bf16_rz},
    {"cvt.rna.tf32.f32 %r4, %r1;", 32, to_tf32},
    {"cvt.rn.bf16x2.f32 %r4, %r1, %r2;", 32, to_bf16_pair},
    {"cvt.rn.f16x2.f32 %r4, %r1, %r2;", 32, to_f16_pair},
    {"cvt.rn.relu.bf16.f32 %h4, %r1;", 16, to_bf16_relu},
    {"cvt.f64.f32 %d4, %r1;", 64, to_f64},
    {"cvt.sat.f32.f32 %r4, %r1;", 32, to_sat},
    {"cvt.rzi.s32.f32 %r4, %r1;", 32, to_s32},
    {"cvt.rni.s32.f32 %r4, %r1;", 32, to_s32_rni},
    {"cvt.rmi.s32.f32 %r4, %r1;", 32, to_s32_rmi},
    {"cvt.rzi.u32.f32 %r4, %r1;", 32, to_u32},
    {"cvt.rzi.u8.f32 %r4, %r1;", 32, to_u8},
    {"cvt.rzi.s8.f32 %r4, %r1;", 32, to_s8},
    {"cvt.rzi.s64.f32 %d4, %r1;", 64, to_s64},
    {"cvt.rn.f32.s32 %r4, %r1;", 32, from_s32},
    {"cvt.rn.f32.u32 %r4, %r1;", 32, from_u32},
    {"mov.b64 %d5, {%r2, %r1}; cvt.rn.f32.s64 %r4, %d5;", 32, from_s64},
    {"mov.b64 %d5, {%r2, %r1}; cvt.rn.f64.u64 %d4, %d5;", 64, from_u64},
    {"cvt.rn.f64.s32 %d4, %r1;", 64, from_s32_f64},
    {"cvt.rn.f16.s16 %h4, %h1;", 16, from_s16_f16},
    {"and.b32 %r5, %r1, 0xffffff00; cvt.rz.f32.u32 %r4, %r5;", 32, from_u32_rz},
    {"cvt.s64.s32 %d4, %r1;", 64, sign_extended},
    {"cvt.s32.s8 %r4, %r1;", 32, sign_extended_8},
    {"cvt.s8.s32 %r4, %r1;", 32, signed_byte},
    {"cvt.u16.u32 %h4, %r1;", 16, truncated_16},
    {"cvt.sat.u8.s32 %r4, %r1;", 32, saturated_u8},
};

/* ---- 16 bits ---- */

#define HALF(name, format, expression)                                                             \
  static uint64_t name(uint64_t x, uint64_t y, uint64_t z)                                         \
  {                                                                                                \
    const double a = decode(&format, x & 0xffff), b = decode(&format, y & 0xffff);                 \
    const double c = decode(&format, z & 0xffff);                                                  \
    (void)a, (void)b, (void)c;                                                                     \
    return encode(&format, expression, NEAREST);                                                   \
  }
#define PAIR(name, single)                                                                         \
  static uint64_t name(uint64_t x, uint64_t y, uint64_t z)                                         \
  {                                                                                                \
    return single(x, y, z) | single(x >> 16, y >> 16, z >> 16) << 16;                              \
  }
static double minimum64(double a, double b)
{
  return a != a ? b : b != b ? a : a < b || (a == b && signbit(a) != 0) ? a : b;
}
HALF(add_f16, f16, a + b)
HALF(sub_f16, f16, a - b)
HALF(mul_f16, f16, a *b)
HALF(fma_f16, f16, fma(a, b, c))
HALF(relu_f16, f16, fma(a, b, c) < 0 ? 0 : fma(a, b, c))
HALF(max_f16, f16, -minimum64(-a, -b))
HALF(fma_bf16, bf16, fma(a, b, c))
HALF(min_bf16, bf16, a != a || b != b ? (double)NAN : minimum64(a, b))
PAIR(sub_f16_pair, sub_f16)
PAIR(mul_f16_pair, mul_f16)
PAIR(fma_f16_pair, fma_f16)
PAIR(fma_bf16_pair, fma_bf16)
CONVERT(neg_f16_pair, (uint32_t)a ^ 0x80008000)
CONVERT(abs_bf16, a & 0x7fff)
CONVERT(f16_to_f32, canonical32((float)decode(&f16, a & 0xffff)))
CONVERT(bf16_to_f32, canonical32((float)decode(&bf16, a & 0xffff)))
CONVERT(f16_to_s32, (uint32_t)clamp(decode(&f16, a & 0xffff), -2147483648.0, 2147483647.0, ZERO))
CONVERT(lt_f16, decode(&f16, a & 0xffff) < decode(&f16, b & 0xffff))
CONVERT(geu_bf16, !(decode(&bf16, a & 0xffff) < decode(&bf16, b & 0xffff)))

static const struct instruction of_half[] = {
    {"add.rn.f16 %h4, %h1, %h2;", 16, add_f16},
    {"mul.f16 %h4, %h1, %h2;", 16, mul_f16},
    {"fma.rn.f16 %h4, %h1, %h2, %h3;", 16, fma_f16},
    {"fma.rn.relu.f16 %h4, %h1, %h2, %h3;", 16, relu_f16},
    {"max.f16 %h4, %h1, %h2;", 16, max_f16},
    {"fma.rn.bf16 %h4, %h1, %h2, %h3;", 16, fma_bf16},
    {"min.NaN.bf16 %h4, %h1, %h2;", 16, min_bf16},
    {"sub.rn.f16x2 %r4, %r1, %r2;", 32, sub_f16_pair},
    {"mul.rn.f16x2 %r4, %r1, %r2;", 32, mul_f16_pair},
    {"fma.rn.f16x2 %r4, %r1, %r2, %r3;", 32, fma_f16_pair},
    {"fma.rn.bf16x2 %r4, %r1, %r2, %r3;", 32, fma_bf16_pair},
    {"neg.f16x2 %r4, %r1;", 32, neg_f16_pair},
    {"abs.bf16 %h4, %h1;", 16, abs_bf16},
    {"cvt.f32.f16 %r4, %h1;", 32, f16_to_f32},
    {"cvt.f32.bf16 %r4, %h1;", 32, bf16_to_f32},
    {"cvt.rzi.s32.f16 %r4, %h1;", 32, f16_to_s32},
    {"setp.lt.f16 %p4, %h1, %h2;", 1, lt_f16},
    {"setp.geu.bf16 %p4, %h1, %h2;", 1, geu_bf16},
};

#define COUNT(array) ((int)(sizeof(array) / sizeof(array[0])))

static void check(const struct instruction *i)
{
  ptx_test_instruction(i->text, i->bits, (const uint64_t(*)[3])operands, PTX_TEST_OPERANDS,
                       i->expected);
}

START_TEST(f32_agrees_with_c)
{
  fill_f32();
  check(&of_f32[_i]);
}
END_TEST

START_TEST(f64_agrees_with_c)
{
  fill_f64();
  check(&of_f64[_i]);
}
END_TEST

START_TEST(conversions_agree_with_c)
{
  fill_f32();
  check(&conversions[_i]);
}
END_TEST

START_TEST(halves_agree_with_c)
{
  fill_half();
  check(&of_half[_i]);
}
END_TEST

/* ---- doubles to narrower types ---- */

CONVERT(f64_to_f16, encode(&f16, f64(a), NEAREST))
CONVERT(f64_to_f32, canonical32((float)f64(a)))
CONVERT(f64_to_s32, f64(a) != f64(a)
                        ? 0x80000000
                        : (uint32_t)clamp(f64(a), -2147483648.0, 2147483647.0, NEAREST))

START_TEST(doubles_narrow)
{
  static const struct instruction narrowing[] = {
      {"cvt.rn.f16.f64 %h4, %d1;", 16, f64_to_f16},
      {"cvt.rn.f32.f64 %r4, %d1;", 32, f64_to_f32},
      {"cvt.rni.s32.f64 %r4, %d1;", 32, f64_to_s32},
  };
  fill_f64();
  check(&narrowing[_i]);
}
END_TEST

/* ---- approximations ---- */

struct approximation {
  const char *text;
  double (*exact)(double);
  double low, high, relative; /* error that the ISA allows */
};

static double reciprocal_root(double a)
{
  return 1 / sqrt(a);
}
static double one_over(double a)
{
  return 1 / a;
}

START_TEST(approximations_are_close)
{
  static const struct approximation functions[] = {
      {"ex2.approx.f32", exp2, -100, 100, 0x1p-22},
      {"ex2.approx.ftz.f32", exp2, -100, 100, 0x1p-22},
      {"lg2.approx.f32", log2, 2, 1000, 0x1p-22},
      {"lg2.approx.ftz.f32", log2, 2, 1000, 0x1p-22},
      {"sin.approx.f32", sin, 0.1, 3, 0x1p-17},
      {"cos.approx.f32", cos, -1.5, 1.5, 0x1p-17},
      {"tanh.approx.f32", tanh, -5, 5, 0x1p-10},
      {"rsqrt.approx.f32", reciprocal_root, 0.01, 1000, 0x1p-22},
      {"sqrt.approx.f32", sqrt, 0.01, 1000, 0x1p-22},
      {"rcp.approx.ftz.f32", one_over, 0.01, 1000, 0x1p-22},
  };
  const struct approximation *f = &functions[_i];
  char body[300];
  snprintf(body, sizeof(body),
           "shl.b64 %%d1, %%d14, 2; add.s64 %%d2, %%d10, %%d1; add.s64 %%d3, %%d11, %%d1;\n"
           "ld.global.f32 %%r1, [%%d2]; %s %%r2, %%r1; st.global.f32 [%%d3], %%r2;",
           f->text);
  const struct ptx_test_array in = ptx_test_array(4096), out = ptx_test_array(4096);
  float *x = in.data;
  for (int k = 0; k < 1024; k++) {
    x[k] = (float)(f->low + (f->high - f->low) * k / 1023);
  }
  ptx_test_run(&(struct ptx_test_launch){
      .body = body, .threads = 1024, .params = {in.address, out.address}});
  for (int k = 0; k < 1024; k++) {
    const double want = f->exact((double)x[k]), got = (double)((const float *)out.data)[k];
    ck_assert_msg(fabs(got - want) <= f->relative * fabs(want), "%s of %a: %a instead of %a",
                  f->text, (double)x[k], got, want);
  }
}
END_TEST

int main(void)
{
  Suite *suite = suite_create("PTX: floating point");
  TCase *tcase = tcase_create("floating point");
  tcase_add_loop_test(tcase, f32_agrees_with_c, 0, COUNT(of_f32));
  tcase_add_loop_test(tcase, f64_agrees_with_c, 0, COUNT(of_f64));
  tcase_add_loop_test(tcase, conversions_agree_with_c, 0, COUNT(conversions));
  tcase_add_loop_test(tcase, halves_agree_with_c, 0, COUNT(of_half));
  tcase_add_loop_test(tcase, doubles_narrow, 0, 3);
  tcase_add_loop_test(tcase, approximations_are_close, 0, 10);
  suite_add_tcase(suite, tcase);
  return ptx_test_main(suite);
}
