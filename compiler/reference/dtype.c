/* Storage types to and from double, without help from the compiler's own half types. */
#include "compiler/reference/reference.h"

#include <math.h>
#include <string.h>

/* A binary floating point format below f32. */
struct format {
  int fraction_bits;
  int min_exponent; /* of the normal numbers */
  int bias;
  double largest;
  bool has_infinity; /* else overflow gives the largest number */
};

static const struct format *format_of(enum dtype type)
{
  static const struct format f16 = {10, -14, 15, 65504.0, true};
  static const struct format bf16 = {7, -126, 127, 0x1.fep127, true};
  static const struct format e4m3 = {3, -6, 7, 448.0, false};
  static const struct format e5m2 = {2, -14, 15, 57344.0, true};
  switch ((int)type) {
  case DTYPE_F16: return &f16;
  case DTYPE_BF16: return &bf16;
  case DTYPE_E4M3: return &e4m3;
  case DTYPE_E5M2: return &e5m2;
  }
  return NULL;
}

/* Round to nearest even happens once, straight from the double. */
static double round_to_format(const struct format *format, double value)
{
  if (isnan(value) || value == 0)
    return value;
  int exponent = 0;
  if (!isinf(value))
    frexp(value, &exponent);
  int least = format->min_exponent + 1; /* frexp's fractions lie below 1 */
  int quantum = (exponent > least ? exponent : least) - 1 - format->fraction_bits;
  double rounded = ldexp(nearbyint(ldexp(value, -quantum)), quantum);
  if (fabs(rounded) > format->largest)
    return copysign(format->has_infinity ? (double)INFINITY : format->largest, value);
  return rounded;
}

/* All bits of the exponent field, in place. */
static uint32_t exponent_mask(const struct format *format)
{
  uint32_t field = 2u * (uint32_t)format->bias + 1;
  return field << format->fraction_bits;
}

static uint32_t encode(const struct format *format, int width, double value)
{
  uint32_t sign = signbit(value) ? 1u << (width - 1) : 0;
  uint32_t fraction_mask = (1u << format->fraction_bits) - 1;
  value = fabs(round_to_format(format, value));
  if (isnan(value))
    return sign | exponent_mask(format) |
           (format->has_infinity ? 1u << (format->fraction_bits - 1) : fraction_mask);
  if (isinf(value))
    return sign | exponent_mask(format);
  if (value < ldexp(1.0, format->min_exponent))
    return sign | (uint32_t)ldexp(value, format->fraction_bits - format->min_exponent);
  int exponent;
  double part = frexp(value, &exponent) * 2.0 - 1.0;
  uint32_t field = (uint32_t)(exponent - 1 + format->bias);
  return sign | field << format->fraction_bits | (uint32_t)ldexp(part, format->fraction_bits);
}

static double decode(const struct format *format, int width, uint32_t bits)
{
  double sign = bits >> (width - 1) & 1 ? -1.0 : 1.0;
  uint32_t fraction_mask = (1u << format->fraction_bits) - 1;
  uint32_t magnitude = bits & ((1u << (width - 1)) - 1);
  uint32_t fraction = magnitude & fraction_mask;
  if (format->has_infinity && magnitude >= exponent_mask(format))
    return fraction == 0 ? sign * (double)INFINITY : (double)NAN;
  if (!format->has_infinity && magnitude == (exponent_mask(format) | fraction_mask))
    return (double)NAN;
  int exponent = (int)(magnitude >> format->fraction_bits);
  double part = (double)fraction;
  if (exponent == 0)
    return sign * ldexp(part, format->min_exponent - format->fraction_bits);
  part += (double)(fraction_mask + 1);
  return sign * ldexp(part, exponent - format->bias - format->fraction_bits);
}

double dtype_load(enum dtype type, const void *data, int64_t index)
{
  const unsigned char *bytes = data;
  const struct format *format = format_of(type);
  if (type == DTYPE_F16 || type == DTYPE_BF16) {
    uint16_t bits;
    memcpy(&bits, bytes + index * 2, sizeof(bits));
    return decode(format, 16, bits);
  }
  if (format != NULL)
    return decode(format, 8, bytes[index]);
  if (type == DTYPE_F32) {
    float value;
    memcpy(&value, bytes + index * 4, sizeof(value));
    return (double)value;
  }
  return (double)ref_load_integer(type, data, index);
}

/* Number `index` of the codes of `bits` bits that lie one after the other, the first lowest. */
static int64_t load_code(const unsigned char *bytes, int bits, int64_t index)
{
  int shift = (int)(index * bits % 8);
  int code = bytes[index * bits / 8] >> shift & ((1 << bits) - 1);
  return code >= 1 << (bits - 1) ? code - (1 << bits) : code;
}

static void store_code(unsigned char *bytes, int bits, int64_t index, int64_t value)
{
  int shift = (int)(index * bits % 8);
  int mask = ((1 << bits) - 1) << shift;
  unsigned char *byte = &bytes[index * bits / 8];
  *byte = (unsigned char)((*byte & ~mask) | ((int)(value * (1 << shift)) & mask));
}

int64_t ref_load_integer(enum dtype type, const void *data, int64_t index)
{
  const unsigned char *bytes = data;
  switch ((int)type) {
  case DTYPE_I32: {
    int32_t value;
    memcpy(&value, bytes + index * 4, sizeof(value));
    return value;
  }
  case DTYPE_I64: {
    int64_t value;
    memcpy(&value, bytes + index * 8, sizeof(value));
    return value;
  }
  case DTYPE_U8: return bytes[index];
  case DTYPE_BOOL: return bytes[index] != 0;
  case DTYPE_I8: return (signed char)bytes[index];
  case DTYPE_I4: return load_code(bytes, 4, index);
  case DTYPE_I2: return load_code(bytes, 2, index);
  }
  return 0;
}

/* To the nearest whole number of the type; NaN gives 0. */
static int64_t to_integer(enum dtype type, double value)
{
  double low = -0x1p63;
  double high = 0x1p63;
  switch ((int)type) {
  case DTYPE_I32:
    low = INT32_MIN;
    high = INT32_MAX;
    break;
  case DTYPE_U8:
    low = 0;
    high = UINT8_MAX;
    break;
  case DTYPE_I8:
    low = INT8_MIN;
    high = INT8_MAX;
    break;
  case DTYPE_I4:
    low = -8;
    high = 7;
    break;
  case DTYPE_I2:
    low = -2;
    high = 1;
    break;
  case DTYPE_BOOL: return value != 0;
  }
  if (isnan(value))
    return 0;
  value = nearbyint(value);
  if (value >= 0x1p63 && high >= 0x1p63)
    return INT64_MAX;
  return (int64_t)(value < low ? low : value > high ? high : value);
}

void dtype_store(enum dtype type, void *data, int64_t index, double value)
{
  unsigned char *bytes = data;
  const struct format *format = format_of(type);
  if (type == DTYPE_F16 || type == DTYPE_BF16) {
    uint16_t bits = (uint16_t)encode(format, 16, value);
    memcpy(bytes + index * 2, &bits, sizeof(bits));
  } else if (format != NULL) {
    bytes[index] = (unsigned char)encode(format, 8, value);
  } else if (type == DTYPE_F32) {
    float single = (float)value;
    memcpy(bytes + index * 4, &single, sizeof(single));
  } else if (type == DTYPE_I32) {
    int32_t whole = (int32_t)to_integer(type, value);
    memcpy(bytes + index * 4, &whole, sizeof(whole));
  } else if (type == DTYPE_I64) {
    int64_t whole = to_integer(type, value);
    memcpy(bytes + index * 8, &whole, sizeof(whole));
  } else if (type == DTYPE_U8 || type == DTYPE_BOOL || type == DTYPE_I8) {
    bytes[index] = (unsigned char)to_integer(type, value);
  } else if (type == DTYPE_I4 || type == DTYPE_I2) {
    store_code(bytes, type == DTYPE_I4 ? 4 : 2, index, to_integer(type, value));
  }
}

double dtype_round(enum dtype type, double value)
{
  if (type == DTYPE_F32)
    return (double)(float)value;
  const struct format *format = format_of(type);
  return format != NULL ? round_to_format(format, value) : (double)to_integer(type, value);
}
