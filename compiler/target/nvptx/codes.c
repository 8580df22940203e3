/* Types of a byte and less, in which caches are stored. sm_80 has no instructions that convert
 * them: two codes become two f16 at once, which hold every value of every one of these types, by a
 * permutation of bytes and one or two operations on both halves. */
#include "compiler/target/nvptx/lower.h"

static LLVMValueRef bits32(struct gpu *g, uint32_t bits)
{
  return emit_i32(g->e, (int32_t)bits);
}

/* Byte k of the result is byte number (selector >> 4 k) & 15 of a (0 to 3) and b (4 to 7). */
static LLVMValueRef permute_bytes(struct gpu *g, LLVMValueRef a, uint32_t b, uint32_t selector)
{
  LLVMValueRef args[] = {a, bits32(g, b), bits32(g, selector)};
  return emit_intrinsic(g->e, "llvm.nvvm.prmt", NULL, args, 3);
}

static LLVMValueRef and_bits(struct gpu *g, LLVMValueRef x, uint32_t mask)
{
  return LLVMBuildAnd(g->e->builder, x, bits32(g, mask), "");
}

static LLVMTypeRef pair_type(struct gpu *g)
{
  return LLVMVectorType(g->e->f16, 2);
}

static LLVMValueRef as_bits(struct gpu *g, LLVMValueRef pair)
{
  return LLVMBuildBitCast(g->e->builder, pair, g->e->i32, "");
}

static LLVMValueRef as_pair(struct gpu *g, LLVMValueRef bits)
{
  return LLVMBuildBitCast(g->e->builder, bits, pair_type(g), "");
}

static LLVMValueRef pair_of(struct gpu *g, double value)
{
  LLVMValueRef both[2] = {emit_float_of(g->e->f16, value), emit_float_of(g->e->f16, value)};
  return LLVMConstVector(both, 2);
}

/* Integers: 1024 + x, for x from 0 to 1023, has x in its lowest bits as an f16. */
static LLVMValueRef less(struct gpu *g, LLVMValueRef bits, double bias)
{
  return as_bits(g, LLVMBuildFSub(g->e->builder, as_pair(g, bits), pair_of(g, bias), ""));
}

/* Bytes 2 number and the next of the word as the lower bytes of both halves, under `upper`. */
static LLVMValueRef low_bytes(struct gpu *g, LLVMValueRef word, uint32_t number, uint32_t upper)
{
  return permute_bytes(g, word, upper, number == 0 ? 0x4140 : 0x4342);
}

/* As the upper bytes of both halves. */
static LLVMValueRef high_bytes(struct gpu *g, LLVMValueRef word, uint32_t number)
{
  return permute_bytes(g, word, 0, number == 0 ? 0x1404 : 0x3424);
}

/* Two's complement with its highest bit turned over is the value plus 2^(bits - 1). */
static LLVMValueRef decode_bytes(struct gpu *g, LLVMValueRef word, uint32_t number, bool is_signed)
{
  if (is_signed)
    word = LLVMBuildXor(g->e->builder, word, bits32(g, 0x80808080), "");
  return less(g, low_bytes(g, word, number, 0x64646464), is_signed ? 1024 + 128 : 1024);
}

static LLVMValueRef decode_parts(struct gpu *g, LLVMValueRef word, uint32_t number, uint32_t bits)
{
  struct emit *e = g->e;
  const uint32_t mask = (1u << bits) - 1, top = 1u << (bits - 1), magic = 0x6400 | top;
  const int32_t up = 16 - (int32_t)bits - 2 * (int32_t)(bits * number); /* of the second */
  LLVMValueRef first = LLVMBuildLShr(e->builder, word, bits32(g, 2 * bits * number), "");
  LLVMValueRef second = up >= 0 ? LLVMBuildShl(e->builder, word, emit_i32(e, up), "")
                                : LLVMBuildLShr(e->builder, word, emit_i32(e, -up), "");
  LLVMValueRef both =
      LLVMBuildOr(e->builder, and_bits(g, first, mask), and_bits(g, second, mask << 16), "");
  return less(g, LLVMBuildXor(e->builder, both, bits32(g, magic | magic << 16), ""),
              1024 + (double)top);
}

/* Exponent and mantissa moved to those of an f16 are the value times 2^-8: the biases are 7 and 15.
 * The code with all of them set is NaN. */
static LLVMValueRef decode_e4m3(struct gpu *g, LLVMValueRef word, uint32_t number)
{
  struct emit *e = g->e;
  LLVMValueRef high = high_bytes(g, word, number);
  LLVMValueRef size = and_bits(g, high, 0x7f007f00);
  LLVMValueRef is_nan = LLVMBuildAdd(e->builder, size, bits32(g, 0x01000100), "");
  is_nan = and_bits(g, is_nan, 0x80008000);
  LLVMValueRef bits = LLVMBuildOr(e->builder, and_bits(g, high, 0x80008000),
                                  LLVMBuildLShr(e->builder, size, bits32(g, 1), ""), "");
  LLVMValueRef value = as_bits(g, LLVMBuildFMul(e->builder, as_pair(g, bits), pair_of(g, 256), ""));
  /* 8000 - 0200 = 7e00: a quiet NaN's bits */
  LLVMValueRef quiet =
      LLVMBuildSub(e->builder, is_nan, LLVMBuildLShr(e->builder, is_nan, bits32(g, 6), ""), "");
  return LLVMBuildOr(e->builder, value, quiet, "");
}

static LLVMValueRef decode_pair(struct gpu *g, enum dtype type, LLVMValueRef word, uint32_t number)
{
  switch (type) {
  case DTYPE_U8: return decode_bytes(g, word, number, false);
  case DTYPE_I8: return decode_bytes(g, word, number, true);
  case DTYPE_I4: return decode_parts(g, word, number, 4);
  case DTYPE_I2: return decode_parts(g, word, number, 2);
  case DTYPE_E4M3: return decode_e4m3(g, word, number);
  case DTYPE_E5M2: return high_bytes(g, word, number); /* the upper byte of an f16 */
  case DTYPE_F32:
  case DTYPE_F16:
  case DTYPE_BF16:
  case DTYPE_I32:
  case DTYPE_I64:
  case DTYPE_BOOL:
  case DTYPE_ANY:
  case DTYPE_SPEC:
  case DTYPE_COUNT: break;
  }
  return word;
}

static LLVMValueRef integer_of(struct gpu *g, enum dtype type, LLVMValueRef code)
{
  struct emit *e = g->e;
  LLVMTypeRef narrow = LLVMIntTypeInContext(e->context, residence_bits(type));
  code = LLVMBuildTrunc(e->builder, code, narrow, "");
  return type == DTYPE_U8 ? LLVMBuildZExt(e->builder, code, e->i32, "")
                          : LLVMBuildSExt(e->builder, code, e->i32, "");
}

void gpu_decode(struct gpu *g, enum dtype type, enum tile_element element, LLVMValueRef word,
                uint32_t number, LLVMValueRef out[2])
{
  struct emit *e = g->e;
  const uint32_t bits = residence_bits(type);
  switch (element) {
  case TILE_F16: out[0] = decode_pair(g, type, word, number); return;
  case TILE_F32: emit_gpu_unpack(e, DTYPE_F16, decode_pair(g, type, word, number), out); return;
  case TILE_BF16: {
    LLVMValueRef both[2];
    emit_gpu_unpack(e, DTYPE_F16, decode_pair(g, type, word, number), both);
    out[0] = emit_gpu_pack(e, DTYPE_BF16, both[0], both[1]);
    return;
  }
  case TILE_I32:
  case TILE_INDEX:
  case TILE_BOOL: break;
  }
  for (uint32_t k = 0; k < 2; k++)
    out[k] = integer_of(g, type,
                        LLVMBuildLShr(e->builder, word, bits32(g, bits * (2 * number + k)), ""));
}

LLVMValueRef gpu_decode_one(struct gpu *g, enum dtype type, enum tile_element element,
                            LLVMValueRef code)
{
  LLVMValueRef both[2];
  gpu_decode(g, type, element == TILE_I32 ? TILE_I32 : TILE_F32, code, 0, both);
  return both[0];
}
