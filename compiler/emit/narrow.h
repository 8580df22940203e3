/* Numbers of 16 bits and less as LLVM values: what DTYPE_F16, E4M3, E5M2, I4 and I2 tensors hold.
 * Scalars and vectors, on every target.
 *
 * E4M3 and E5M2 are the 8-bit floating point types of the Open Compute Project (OFP8, revision 1.0,
 * 2023): a sign, 4 or 5 bits of exponent with bias 7 or 15, 3 or 2 of fraction. E5M2 has infinities
 * and NaNs as IEEE types do; E4M3 has no infinity, and NaN where all bits but the sign are set. */
#ifndef ATTN_COMPILER_EMIT_NARROW_H
#define ATTN_COMPILER_EMIT_NARROW_H

#include "compiler/emit/llvm.h"
#include "dsl/spec.h"

/* An f16 as f32, exactly. */
LLVMValueRef emit_from_half(struct emit *e, LLVMValueRef half);
/* The f16 nearest to `value`, f32, ties to even; infinity from 65520 on. NaN stays NaN. */
LLVMValueRef emit_to_half(struct emit *e, LLVMValueRef value);

/* The f32 that `bits`, i8, stands for, exactly. `type`: E4M3 or E5M2. */
LLVMValueRef emit_from_float8(struct emit *e, enum dtype type, LLVMValueRef bits);

/* The same but for a factor, which is left out: a power of two. */
LLVMValueRef emit_float8_in_units(struct emit *e, enum dtype type, LLVMValueRef bits);
double emit_float8_unit(enum dtype type);

/* The i8 nearest to `value`, f32, ties to even. What lies beyond the largest finite number,
 * infinities included, becomes that; NaN stays NaN. */
LLVMValueRef emit_to_float8(struct emit *e, enum dtype type, LLVMValueRef value);

/* Code number `index` of those in `word`, the first in the lowest bits, as a signed i32. Both are
 * i32 of one shape. `type`: I4 or I2. */
LLVMValueRef emit_code(struct emit *e, enum dtype type, LLVMValueRef word, LLVMValueRef index);

/* Words are lanes of memory that hold several numbers: of E4M3 and E5M2 i16 with two, of I4 and I2
 * i32, whose upper numbers may be missing. Taking the same one out of each needs no permutation. */
uint32_t emit_word_bits(enum dtype type);
/* Whether vectors of i32 words with four numbers are read faster: E4M3 looked up in tables. */
bool emit_takes_fours(const struct emit *e, enum dtype type);
/* Number `index` of each word as f32: of E4M3 in units, of I4 and I2 plus an offset. */
LLVMValueRef emit_from_words(struct emit *e, enum dtype type, LLVMValueRef words, uint32_t index);
double emit_words_offset(enum dtype type);

#endif
