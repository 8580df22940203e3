#include "compiler/emit/narrow.h"

#include "compiler/tile/ir.h"

#include <math.h>

/* Of a format: bits of the fraction, the exponent's bias, the largest finite number, and the bits
 * that we write for NaN. */
struct float8 {
  int fraction, bias;
  double largest;
  int nan;
};

static struct float8 float8_of(enum dtype type)
{
  if (type == DTYPE_E4M3)
    return (struct float8){.fraction = 3, .bias = 7, .largest = 448, .nan = 0x7f};
  return (struct float8){.fraction = 2, .bias = 15, .largest = 57344, .nan = 0x7e};
}

/* Both types are halves with fewer bits: E5M2 the upper byte of one, E4M3 moved by one bit of
 * exponent and times 2^(15 - 7). Converting halves to f32 is one instruction, which subnormal
 * numbers do not slow down. */
LLVMValueRef emit_float8_in_units(struct emit *e, enum dtype type, LLVMValueRef bits)
{
  LLVMBuilderRef b = e->builder;
  LLVMTypeRef i16 = emit_type_like(e, bits, e->i16);
  LLVMTypeRef f32 = emit_type_like(e, bits, e->f32);
  LLVMTypeRef f16 = emit_type_like(e, bits, e->f16);
  if (type == DTYPE_E5M2) {
    LLVMValueRef half = LLVMBuildShl(b, LLVMBuildZExt(b, bits, i16, ""), emit_int_of(i16, 8), "");
    return LLVMBuildFPExt(b, LLVMBuildBitCast(b, half, f16, ""), f32, "");
  }
  /* The sign, repeated in the upper byte, ends up in bits 15 and 14, of which the latter belongs to
   * the exponent. Adding the lowest bit carries into bit 14 for NaN alone, whose other bits are all
   * ones: what is there then, turned by the sign, is what has to stand there. */
  LLVMValueRef half = LLVMBuildShl(b, LLVMBuildSExt(b, bits, i16, ""), emit_int_of(i16, 7), "");
  LLVMValueRef carried = LLVMBuildAdd(b, half, emit_int_of(i16, 0x80), "");
  half = LLVMBuildXor(b, half, LLVMBuildAnd(b, carried, emit_int_of(i16, 0x4000), ""), "");
  return LLVMBuildFPExt(b, LLVMBuildBitCast(b, half, f16, ""), f32, "");
}

double emit_float8_unit(enum dtype type)
{
  return type == DTYPE_E4M3 ? 256 : 1;
}

LLVMValueRef emit_from_float8(struct emit *e, enum dtype type, LLVMValueRef bits)
{
  LLVMValueRef value = emit_float8_in_units(e, type, bits);
  const double unit = emit_float8_unit(type);
  return unit == 1 ? value : LLVMBuildFMul(e->builder, value, emit_float_like(value, unit), "");
}

LLVMValueRef emit_to_float8(struct emit *e, enum dtype type, LLVMValueRef value)
{
  LLVMBuilderRef b = e->builder;
  const struct float8 format = float8_of(type);
  LLVMTypeRef i32 = emit_type_like(e, value, e->i32);
  LLVMTypeRef f32 = LLVMTypeOf(value);
  int dropped = 23 - format.fraction;
  LLVMValueRef bits = LLVMBuildBitCast(b, value, i32, "");
  LLVMValueRef sign =
      LLVMBuildAnd(b, LLVMBuildLShr(b, bits, emit_int_of(i32, 24), ""), emit_int_of(i32, 0x80), "");
  LLVMValueRef size =
      LLVMBuildBitCast(b, LLVMBuildAnd(b, bits, emit_int_of(i32, 0x7fffffff), ""), f32, "");
  LLVMValueRef is_nan = LLVMBuildFCmp(b, LLVMRealUNO, value, value, "");
  LLVMValueRef largest = emit_float_like(value, format.largest);
  LLVMValueRef inside = LLVMBuildFCmp(b, LLVMRealOLT, size, largest, "");
  size = emit_select(e, inside, size, largest);
  /* Normal numbers: the fraction is rounded by adding half of what is dropped, less one where that
   * makes a tie even; a carry moves on into the exponent, whose bias is then changed. */
  LLVMValueRef normal = LLVMBuildBitCast(b, size, i32, "");
  LLVMValueRef odd = LLVMBuildAnd(b, LLVMBuildLShr(b, normal, emit_int_of(i32, dropped), ""),
                                  emit_int_of(i32, 1), "");
  normal = LLVMBuildAdd(b, normal, emit_int_of(i32, (1 << (dropped - 1)) - 1), "");
  normal = LLVMBuildLShr(b, LLVMBuildAdd(b, normal, odd, ""), emit_int_of(i32, dropped), "");
  normal = LLVMBuildSub(b, normal, emit_int_of(i32, (127 - format.bias) << format.fraction), "");
  /* Subnormal ones are multiples of 2^(1 - bias - fraction), the last place of `magic`: the sum
   * rounds to it. */
  LLVMValueRef magic = emit_float_like(value, ldexp(1, 24 - format.bias - format.fraction));
  LLVMValueRef small = LLVMBuildBitCast(b, LLVMBuildFAdd(b, size, magic, ""), i32, "");
  small = LLVMBuildSub(b, small, LLVMBuildBitCast(b, magic, i32, ""), "");
  LLVMValueRef least = emit_float_like(value, ldexp(1, 1 - format.bias));
  LLVMValueRef code = emit_select(e, LLVMBuildFCmp(b, LLVMRealOLT, size, least, ""), small, normal);
  code = emit_select(e, is_nan, emit_int_of(i32, format.nan), code);
  return LLVMBuildTrunc(b, LLVMBuildOr(b, code, sign, ""), emit_type_like(e, value, e->i8), "");
}

LLVMValueRef emit_code(struct emit *e, enum dtype type, LLVMValueRef word, LLVMValueRef index)
{
  LLVMTypeRef i32 = LLVMTypeOf(word);
  int width = 8 / (int)tile_elements_per_byte(type);
  LLVMValueRef above = LLVMBuildMul(e->builder, index, emit_int_of(i32, width), "");
  above = LLVMBuildSub(e->builder, emit_int_of(i32, 32 - width), above, "");
  word = LLVMBuildShl(e->builder, word, above, "");
  return LLVMBuildAShr(e->builder, word, emit_int_of(i32, 32 - width), "");
}
