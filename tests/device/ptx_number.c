/* Formats, rounding and conversion of numbers, by integers alone: no mode of the host matters. */
#include "tests/device/ptx_number.h"

#include <math.h>

struct format {
  int precision;    /* bits of the significand, the hidden one included */
  int min_exponent; /* of the smallest normal number */
  int bits;         /* in all, without padding */
  int padding;      /* low bits that are 0 */
  uint64_t nan;
};

static const struct format formats[] = {
    [PTX_FLOAT_F16] = {11, -14, 16, 0, 0x7fff},
    [PTX_FLOAT_BF16] = {8, -126, 16, 0, 0x7fff},
    [PTX_FLOAT_TF32] = {11, -126, 19, 13, 0x7fffffff},
    [PTX_FLOAT_F32] = {24, -126, 32, 0, 0x7fffffff},
    [PTX_FLOAT_F64] = {53, -1022, 64, 0, UINT64_C(0x7ff8000000000000)},
};

uint64_t ptx_nan(enum ptx_float format)
{
  return formats[format].nan;
}

struct ptx_real ptx_unpack(enum ptx_float format, uint64_t bits)
{
  const struct format *f = &formats[format];
  bits >>= f->padding;
  const int fraction_bits = f->precision - 1;
  const int exponent_bits = f->bits - f->precision;
  const uint64_t largest = (UINT64_C(1) << exponent_bits) - 1;
  const uint64_t biased = bits >> fraction_bits & largest;
  const uint64_t fraction = bits & ((UINT64_C(1) << fraction_bits) - 1);
  struct ptx_real value = {.negative = (bits >> (f->bits - 1) & 1) != 0};
  if (biased == largest) {
    value.kind = fraction == 0 ? PTX_REAL_INFINITE : PTX_REAL_NAN;
    return value;
  }
  value.mantissa = biased == 0 ? fraction : fraction | UINT64_C(1) << fraction_bits;
  value.exponent = (biased == 0 ? 0 : (int)biased - 1) + f->min_exponent - fraction_bits;
  return value;
}

/* Whether a magnitude between `kept` and `kept` + 1 goes up. `rest` is what lies between, in units
 * of 2^-64, and a little more where `sticky`. */
static bool rounds_up(enum ptx_rounding rounding, bool negative, uint64_t kept, uint64_t rest,
                      bool sticky)
{
  const uint64_t half = UINT64_C(1) << 63;
  switch (rounding) {
  case PTX_ROUND_NEAREST: return rest > half || (rest == half && (sticky || (kept & 1) != 0));
  case PTX_ROUND_AWAY: return rest >= half;
  case PTX_ROUND_ZERO: return false;
  case PTX_ROUND_DOWN: return negative && (rest != 0 || sticky);
  case PTX_ROUND_UP: return !negative && (rest != 0 || sticky);
  }
  return false;
}

/* mantissa >> shift, the bits that leave it in *rest from the top down. */
static uint64_t shift_right(uint64_t mantissa, int shift, uint64_t *rest, bool *sticky)
{
  if (shift <= 0) {
    *rest = 0;
    return mantissa;
  }
  if (shift < 64) {
    *rest = mantissa << (64 - shift);
    return mantissa >> shift;
  }
  const uint64_t lost = shift == 64 ? 0 : shift >= 128 ? mantissa : mantissa << (128 - shift);
  *rest = shift == 64 ? mantissa : shift >= 128 ? 0 : mantissa >> (shift - 64);
  *sticky |= lost != 0;
  return 0;
}

uint64_t ptx_pack(enum ptx_float format, struct ptx_real value, enum ptx_rounding rounding)
{
  const struct format *f = &formats[format];
  const int fraction_bits = f->precision - 1;
  const uint64_t sign = (uint64_t)value.negative << (f->bits - 1);
  const uint64_t infinity = ((UINT64_C(1) << (f->bits - f->precision)) - 1) << fraction_bits;
  switch (value.kind) {
  case PTX_REAL_NAN: return f->nan;
  case PTX_REAL_INFINITE: return (sign | infinity) << f->padding;
  case PTX_REAL_FINITE: break;
  }
  if (value.mantissa == 0) {
    return sign << f->padding;
  }
  const int zeros = __builtin_clzll(value.mantissa);
  const uint64_t mantissa = value.mantissa << zeros;
  const int top = value.exponent - zeros + 63; /* exponent of the first bit */
  const int exponent = top < f->min_exponent ? f->min_exponent : top;
  uint64_t magnitude = infinity;
  if (exponent <= 1 - f->min_exponent) {
    uint64_t rest;
    uint64_t kept =
        shift_right(mantissa, exponent - fraction_bits - top + 63, &rest, &value.sticky);
    kept += rounds_up(rounding, value.negative, kept, rest, value.sticky);
    magnitude = kept + ((uint64_t)(exponent - f->min_exponent) << fraction_bits);
  }
  if (magnitude >= infinity) {
    const bool finite = rounding == PTX_ROUND_ZERO ||
                        (rounding == PTX_ROUND_DOWN && !value.negative) ||
                        (rounding == PTX_ROUND_UP && value.negative);
    magnitude = finite ? infinity - 1 : infinity;
  }
  return (sign | magnitude) << f->padding;
}

struct ptx_real ptx_real_integer(uint64_t magnitude, bool negative)
{
  return (struct ptx_real){.negative = negative, .mantissa = magnitude};
}

uint64_t ptx_real_to_integer(struct ptx_real value, enum ptx_rounding rounding, unsigned bits,
                             bool is_signed)
{
  const uint64_t ones = bits == 64 ? UINT64_MAX : (UINT64_C(1) << bits) - 1;
  const uint64_t largest = is_signed ? ones >> 1 : ones;
  const uint64_t most_negative = is_signed ? largest + 1 : 0; /* magnitude */
  const uint64_t limit = value.negative ? most_negative : largest;
  uint64_t magnitude = 0;
  if (value.kind == PTX_REAL_INFINITE) {
    magnitude = limit;
  } else if (value.exponent >= 0) {
    const bool fits = value.mantissa == 0 ||
                      (value.exponent < 64 && value.mantissa <= UINT64_MAX >> value.exponent);
    magnitude = value.mantissa == 0 ? 0 : fits ? value.mantissa << value.exponent : limit;
  } else {
    uint64_t rest;
    magnitude = shift_right(value.mantissa, -value.exponent, &rest, &value.sticky);
    magnitude += rounds_up(rounding, value.negative, magnitude, rest, value.sticky);
  }
  magnitude = magnitude < limit ? magnitude : limit;
  return (value.negative ? 0 - magnitude : magnitude) & ones;
}

double ptx_to_double(enum ptx_float format, uint64_t bits)
{
  switch (format) {
  case PTX_FLOAT_BF16: return (double)ptx_f32(bits << 16);
  case PTX_FLOAT_TF32: return (double)ptx_f32(bits & ~UINT64_C(0x1fff));
  case PTX_FLOAT_F32: return (double)ptx_f32(bits);
  case PTX_FLOAT_F64: return ptx_f64(bits);
  case PTX_FLOAT_F16: break;
  }
  const uint32_t sign = (uint32_t)(bits & 0x8000) << 16;
  const uint32_t magnitude = (uint32_t)(bits & 0x7fff);
  if (magnitude >= 0x7c00) {
    return magnitude == 0x7c00 ? (sign != 0 ? -INFINITY : INFINITY) : (double)NAN;
  }
  /* The exponent of a float that has the same fields is 112 less; that of subnormal ones too. */
  return (double)ptx_f32(sign | magnitude << 13) * 0x1p112;
}

uint64_t ptx_from_double(enum ptx_float format, double value, enum ptx_rounding rounding)
{
  return ptx_pack(format, ptx_unpack(PTX_FLOAT_F64, ptx_f64_bits(value)), rounding);
}
