/* Numbers of PTX: binary floating-point formats, rounding and conversion.
 *
 * Formats and conversions are those of the PTX ISA ("Fundamental types", "cvt"). A number of any
 * type is the low bits of a uint64_t, as it lies in a register.
 */
#ifndef ATTN_TESTS_DEVICE_PTX_NUMBER_H
#define ATTN_TESTS_DEVICE_PTX_NUMBER_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum ptx_float {
  PTX_FLOAT_F16,
  PTX_FLOAT_BF16,
  PTX_FLOAT_TF32, /* in 32 bits of which the low 13 are 0 */
  PTX_FLOAT_F32,
  PTX_FLOAT_F64
};

enum ptx_rounding {
  PTX_ROUND_NEAREST, /* ties to even */
  PTX_ROUND_AWAY,    /* nearest, ties away from zero */
  PTX_ROUND_ZERO,
  PTX_ROUND_DOWN,
  PTX_ROUND_UP
};

/* (-1)^negative * mantissa * 2^exponent, and a little more where `sticky`. */
struct ptx_real {
  enum { PTX_REAL_FINITE, PTX_REAL_INFINITE, PTX_REAL_NAN } kind;
  bool negative, sticky;
  int exponent;
  uint64_t mantissa;
};

struct ptx_real ptx_unpack(enum ptx_float format, uint64_t bits);
/* Overflow gives infinity or the largest finite number, as the rounding demands. */
uint64_t ptx_pack(enum ptx_float format, struct ptx_real value, enum ptx_rounding rounding);
uint64_t ptx_nan(enum ptx_float format); /* the one that instructions return */

struct ptx_real ptx_real_integer(uint64_t magnitude, bool negative);
/* Rounded to an integer of `bits` bits, clamped to its range. NaN is the caller's business. */
uint64_t ptx_real_to_integer(struct ptx_real value, enum ptx_rounding rounding, unsigned bits,
                             bool is_signed);

double ptx_to_double(enum ptx_float format, uint64_t bits); /* exact */
uint64_t ptx_from_double(enum ptx_float format, double value, enum ptx_rounding rounding);

static inline float ptx_f32(uint64_t bits)
{
  uint32_t low = (uint32_t)bits;
  float value;
  memcpy(&value, &low, sizeof(value));
  return value;
}

static inline uint64_t ptx_f32_bits(float value)
{
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  return value != value ? UINT32_C(0x7fffffff) : bits;
}

static inline double ptx_f64(uint64_t bits)
{
  double value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

static inline uint64_t ptx_f64_bits(double value)
{
  uint64_t bits;
  memcpy(&bits, &value, sizeof(bits));
  return value != value ? UINT64_C(0x7ff8000000000000) : bits;
}

/* Subnormal numbers become zero of their sign: .ftz */
static inline float ptx_flush(float value)
{
  return value > -0x1p-126f && value < 0x1p-126f ? (ptx_f32_bits(value) >> 31 ? -0.0f : 0.0f)
                                                 : value;
}

#endif
