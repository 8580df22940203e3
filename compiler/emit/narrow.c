#include "compiler/emit/narrow.h"

#include "compiler/tile/ir.h"

#include <math.h>
#include <string.h>

/* Of a format: its bits, those of the fraction, the exponent's bias, the largest number (of f16 the
 * one whose bits are those of infinity), and the bits that we write for NaN. */
struct narrow {
  int bits, fraction, bias;
  double largest;
  int nan;
};

static const struct narrow f16 = {
    .bits = 16, .fraction = 10, .bias = 15, .largest = 65536, .nan = 0x7e00};
static const struct narrow e4m3 = {
    .bits = 8, .fraction = 3, .bias = 7, .largest = 448, .nan = 0x7f};
static const struct narrow e5m2 = {
    .bits = 8, .fraction = 2, .bias = 15, .largest = 57344, .nan = 0x7e};

/* `value` in the lower bits of an i32, rounded to the nearest, ties to even. */
static LLVMValueRef round_to(struct emit *e, const struct narrow *format, LLVMValueRef value)
{
  LLVMBuilderRef b = e->builder;
  LLVMTypeRef i32 = emit_type_like(e, value, e->i32);
  LLVMTypeRef f32 = LLVMTypeOf(value);
  int dropped = 23 - format->fraction;
  LLVMValueRef bits = LLVMBuildBitCast(b, value, i32, "");
  LLVMValueRef sign = LLVMBuildLShr(b, bits, emit_int_of(i32, 32 - format->bits), "");
  sign = LLVMBuildAnd(b, sign, emit_int_of(i32, 1 << (format->bits - 1)), "");
  LLVMValueRef size =
      LLVMBuildBitCast(b, LLVMBuildAnd(b, bits, emit_int_of(i32, 0x7fffffff), ""), f32, "");
  LLVMValueRef is_nan = LLVMBuildFCmp(b, LLVMRealUNO, value, value, "");
  LLVMValueRef largest = emit_float_like(value, format->largest);
  LLVMValueRef inside = LLVMBuildFCmp(b, LLVMRealOLT, size, largest, "");
  size = emit_select(e, inside, size, largest);
  /* Normal numbers: the fraction is rounded by adding half of what is dropped, less one where that
   * makes a tie even; a carry moves on into the exponent, whose bias is then changed. */
  LLVMValueRef normal = LLVMBuildBitCast(b, size, i32, "");
  LLVMValueRef odd = LLVMBuildAnd(b, LLVMBuildLShr(b, normal, emit_int_of(i32, dropped), ""),
                                  emit_int_of(i32, 1), "");
  normal = LLVMBuildAdd(b, normal, emit_int_of(i32, (1 << (dropped - 1)) - 1), "");
  normal = LLVMBuildLShr(b, LLVMBuildAdd(b, normal, odd, ""), emit_int_of(i32, dropped), "");
  normal = LLVMBuildSub(b, normal, emit_int_of(i32, (127 - format->bias) << format->fraction), "");
  /* Subnormal ones are multiples of 2^(1 - bias - fraction), the last place of `magic`: the sum
   * rounds to it. */
  LLVMValueRef magic = emit_float_like(value, ldexp(1, 24 - format->bias - format->fraction));
  LLVMValueRef small = LLVMBuildBitCast(b, LLVMBuildFAdd(b, size, magic, ""), i32, "");
  small = LLVMBuildSub(b, small, LLVMBuildBitCast(b, magic, i32, ""), "");
  LLVMValueRef least = emit_float_like(value, ldexp(1, 1 - format->bias));
  LLVMValueRef code = emit_select(e, LLVMBuildFCmp(b, LLVMRealOLT, size, least, ""), small, normal);
  code = emit_select(e, is_nan, emit_int_of(i32, format->nan), code);
  return LLVMBuildOr(b, code, sign, "");
}

LLVMValueRef emit_from_half(struct emit *e, LLVMValueRef half)
{
  LLVMBuilderRef b = e->builder;
  LLVMTypeRef f32 = emit_type_like(e, half, e->f32);
  LLVMTypeRef i32 = emit_type_like(e, half, e->i32);
  if (!e->splits_halves)
    return LLVMBuildFPExt(b, half, f32, "");
  LLVMValueRef bits = LLVMBuildBitCast(b, half, emit_type_like(e, half, e->i16), "");
  bits = LLVMBuildZExt(b, bits, i32, "");
  LLVMValueRef size = LLVMBuildAnd(b, bits, emit_int_of(i32, 0x7fff), "");
  LLVMValueRef sign = LLVMBuildShl(b, LLVMBuildXor(b, bits, size, ""), emit_int_of(i32, 16), "");
  size = LLVMBuildShl(b, size, emit_int_of(i32, 13), "");
  /* The exponent's bias grows by 127 - 15, and so does the largest exponent, of infinities and NaN,
   * once more. A subnormal number is the fraction of one that has the least normal exponent. */
  LLVMValueRef rebias = emit_int_of(i32, 112 << 23), one = emit_int_of(i32, 1 << 23);
  LLVMValueRef normal = LLVMBuildAdd(b, size, rebias, "");
  LLVMValueRef special = LLVMBuildICmp(b, LLVMIntSGE, size, emit_int_of(i32, 31 << 23), "");
  LLVMValueRef value = emit_select(e, special, LLVMBuildAdd(b, normal, rebias, ""), normal);
  LLVMValueRef small = LLVMBuildBitCast(b, LLVMBuildAdd(b, normal, one, ""), f32, "");
  small = LLVMBuildFSub(b, small, emit_float_of(f32, 0x1p-14), "");
  LLVMValueRef is_small = LLVMBuildICmp(b, LLVMIntSLT, size, one, "");
  value = emit_select(e, is_small, LLVMBuildBitCast(b, small, i32, ""), value);
  return LLVMBuildBitCast(b, LLVMBuildOr(b, value, sign, ""), f32, "");
}

LLVMValueRef emit_to_half(struct emit *e, LLVMValueRef value)
{
  LLVMTypeRef half = emit_type_like(e, value, e->f16);
  if (!e->splits_halves)
    return LLVMBuildFPTrunc(e->builder, value, half, "");
  LLVMValueRef bits =
      LLVMBuildTrunc(e->builder, round_to(e, &f16, value), emit_type_like(e, value, e->i16), "");
  return LLVMBuildBitCast(e->builder, bits, half, "");
}

/* Both types are halves with fewer bits: E5M2 the upper byte of one, E4M3 moved by one bit of
 * exponent and times 2^(15 - 7). Converting halves to f32 is one instruction, which subnormal
 * numbers do not slow down. */
LLVMValueRef emit_float8_in_units(struct emit *e, enum dtype type, LLVMValueRef bits)
{
  LLVMBuilderRef b = e->builder;
  LLVMTypeRef i16 = emit_type_like(e, bits, e->i16);
  LLVMTypeRef half_type = emit_type_like(e, bits, e->f16);
  if (type == DTYPE_E5M2) {
    LLVMValueRef half = LLVMBuildShl(b, LLVMBuildZExt(b, bits, i16, ""), emit_int_of(i16, 8), "");
    return emit_from_half(e, LLVMBuildBitCast(b, half, half_type, ""));
  }
  /* The sign, repeated in the upper byte, ends up in bits 15 and 14, of which the latter belongs to
   * the exponent. Adding the lowest bit carries into bit 14 for NaN alone, whose other bits are all
   * ones: what is there then, turned by the sign, is what has to stand there. */
  LLVMValueRef half = LLVMBuildShl(b, LLVMBuildSExt(b, bits, i16, ""), emit_int_of(i16, 7), "");
  LLVMValueRef carried = LLVMBuildAdd(b, half, emit_int_of(i16, 0x80), "");
  half = LLVMBuildXor(b, half, LLVMBuildAnd(b, carried, emit_int_of(i16, 0x4000), ""), "");
  return emit_from_half(e, LLVMBuildBitCast(b, half, half_type, ""));
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
  LLVMValueRef code = round_to(e, type == DTYPE_E4M3 ? &e4m3 : &e5m2, value);
  return LLVMBuildTrunc(e->builder, code, emit_type_like(e, value, e->i8), "");
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

/* ---- words ---- */

uint32_t emit_word_bits(enum dtype type)
{
  return tile_elements_per_byte(type) > 1 ? 32 : 16;
}

/* In vectors of 64 bytes, of which one instruction looks up each. */
enum { VECTOR = 64, TABLES = 2 };

bool emit_takes_fours(const struct emit *e, enum dtype type)
{
  return type == DTYPE_E4M3 && e->looks_up && e->lanes * sizeof(float) == VECTOR;
}

/* Byte number `byte` of the f32 that each code without its sign stands for, in units. */
static LLVMValueRef look_up(struct emit *e, LLVMValueRef codes, int byte)
{
  LLVMValueRef tables[TABLES], bytes[VECTOR];
  for (int t = 0; t < TABLES; t++) {
    for (int n = 0; n < VECTOR; n++) {
      const int code = t * VECTOR + n, least = 1 << e4m3.fraction; /* of the normal numbers */
      const int exponent = code < least ? 1 : code >> e4m3.fraction;
      const int fraction = code < least ? code : code % least + least;
      double value = ldexp(fraction, exponent - e4m3.bias - e4m3.fraction);
      float unit = (float)(value / emit_float8_unit(DTYPE_E4M3));
      if (code == e4m3.nan)
        unit = NAN;
      uint32_t bits;
      memcpy(&bits, &unit, sizeof(bits));
      bytes[n] = LLVMConstInt(e->i8, bits >> (8 * byte) & 0xff, false);
    }
    tables[t] = LLVMConstVector(bytes, VECTOR);
  }
  LLVMValueRef args[3] = {tables[0], codes, tables[1]};
  return emit_intrinsic(e, "llvm.x86.avx512.vpermi2var.qi.512", NULL, args, 3);
}

/* E4M3 as emit_from_words has it, of words with four numbers. Of a number's f32 the two upper bytes
 * are not zero. They are looked up and brought side by side, those of numbers 0 and 1 of a word or
 * 2 and 3: one of the two is then the upper half of its lane, the other one the lower. */
static LLVMValueRef e4m3_from_fours(struct emit *e, LLVMValueRef words, uint32_t index)
{
  enum {
    BLOCK = 16, /* bytes: shuffles within blocks are the cheap ones */
    FOUR = 4,
    UPPER = 3 /* byte of an f32 */
  };
  LLVMBuilderRef b = e->builder;
  LLVMTypeRef i32 = LLVMTypeOf(words), type = LLVMVectorType(e->i8, VECTOR);
  LLVMValueRef pairs[VECTOR], both[VECTOR];
  for (int n = 0; n < VECTOR; n++) {
    const int block = n - n % BLOCK, half = n % BLOCK / (BLOCK / 2), place = n % (BLOCK / 2);
    pairs[n] = emit_i32(e, block + place / 2 * FOUR + place % 2 + 2 * half);
    both[n] = emit_i32(e, block + (int)(index / 2) * BLOCK / 2 + n % BLOCK / 2 + n % 2 * VECTOR);
  }
  LLVMValueRef codes = LLVMBuildBitCast(b, words, type, "");
  codes = LLVMBuildShuffleVector(b, codes, LLVMGetPoison(type), LLVMConstVector(pairs, VECTOR), "");
  LLVMValueRef sign = LLVMBuildAnd(b, codes, emit_int_of(type, 0x80), "");
  LLVMValueRef upper = LLVMBuildOr(b, look_up(e, codes, UPPER), sign, "");
  LLVMValueRef lower = look_up(e, codes, UPPER - 1);
  lower = LLVMBuildShuffleVector(b, lower, upper, LLVMConstVector(both, VECTOR), "");
  LLVMValueRef number = LLVMBuildBitCast(b, lower, i32, "");
  number = index % 2 == 0 ? LLVMBuildShl(b, number, emit_int_of(i32, 16), "")
                          : LLVMBuildAnd(b, number, emit_int_of(i32, -0x10000), "");
  return LLVMBuildBitCast(b, number, emit_type_like(e, words, e->f32), "");
}

/* As emit_float8_in_units, of the lower or the upper byte. */
static LLVMValueRef float8_from_words(struct emit *e, enum dtype type, LLVMValueRef words,
                                      uint32_t index)
{
  LLVMBuilderRef b = e->builder;
  LLVMTypeRef i16 = LLVMTypeOf(words);
  LLVMValueRef half = index == 0 ? LLVMBuildShl(b, words, emit_int_of(i16, 8), "") : words;
  int mask = 0xff00;
  if (type == DTYPE_E4M3) {
    half = LLVMBuildAShr(b, half, emit_int_of(i16, 1), "");
    LLVMValueRef carried = LLVMBuildAdd(b, half, emit_int_of(i16, 0x80), "");
    half = LLVMBuildXor(b, half, LLVMBuildAnd(b, carried, emit_int_of(i16, 0x4000), ""), "");
    mask = 0xff80;
  }
  if (index != 0)
    half = LLVMBuildAnd(b, half, emit_int_of(i16, mask), "");
  half = LLVMBuildBitCast(b, half, emit_type_like(e, words, e->f16), "");
  return emit_from_half(e, half);
}

/* The code, made unsigned by its upper bit, becomes the upper bits of the fraction of a float whose
 * exponent is that of 2^bits: 2^bits + code. */
LLVMValueRef emit_from_words(struct emit *e, enum dtype type, LLVMValueRef words, uint32_t index)
{
  if (type == DTYPE_E4M3 && emit_element_type(words) == e->i32)
    return e4m3_from_fours(e, words, index);
  if (emit_word_bits(type) == 16)
    return float8_from_words(e, type, words, index);
  enum { FRACTION = 23, BIAS = 127 };
  LLVMBuilderRef b = e->builder;
  LLVMTypeRef i32 = LLVMTypeOf(words);
  const int bits = 8 / (int)tile_elements_per_byte(type), to = FRACTION - bits;
  const int from = bits * (int)index;
  LLVMValueRef number = from < to ? LLVMBuildShl(b, words, emit_int_of(i32, to - from), "")
                                  : LLVMBuildLShr(b, words, emit_int_of(i32, from - to), "");
  number = LLVMBuildAnd(b, number, emit_int_of(i32, ((1 << bits) - 1) << to), "");
  number = LLVMBuildXor(b, number,
                        emit_int_of(i32, (BIAS + bits) << FRACTION | 1 << (FRACTION - 1)), "");
  return LLVMBuildBitCast(b, number, emit_type_like(e, words, e->f32), "");
}

double emit_words_offset(enum dtype type)
{
  if (emit_word_bits(type) == 16)
    return 0;
  const int bits = 8 / (int)tile_elements_per_byte(type);
  return (1 << bits) + (1 << (bits - 1));
}
