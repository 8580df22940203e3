/* Transcendental functions as polynomials, for a scalar or a vector of f32 (and f64 where said). No
 * calls: compiled code needs no library. Largest errors against the true value over all f32
 * arguments, measured by tests/numeric/test_math.c:
 *
 *   exp2     1.0e-7 relative; below 2^-125.5 gives 0     exp     2.0e-7 relative, as exp2
 *   log2     1.5e-7 relative, 1e-7 absolute near 1       log     as log2
 *   tanh     2.5e-7 relative                             sigmoid 4e-7 relative
 *   sin cos  1.2e-7 absolute for |x| < 10^4, then the angle's own rounding
 *   erf      2.5e-7 relative
 * On a GPU exp2, quotients and rsqrt of f32 are its own approximations, with errors of 2, 2
 * and 1 units in the last place ("PTX ISA", NVIDIA, 9.7.3); what is built on them comes to 6e-7
 * relative, and results below 2^-126 may be 0. What must agree with the reference bit by bit
 * (SINGLE in dsl/expr.h) uses LLVM's own operations, which round correctly.
 *
 * The f64 versions are good to 1e-12 (exp2 and log2 to 1e-14) and serve pow and what is defined as
 * the float64 result rounded to f32 (SINGLE in dsl/expr.h). Infinities, NaN and signed zeros follow
 * C's math.h.
 */
#ifndef ATTN_COMPILER_EMIT_MATH_H
#define ATTN_COMPILER_EMIT_MATH_H

#include "compiler/emit/llvm.h"

LLVMValueRef emit_exp2(struct emit *e, LLVMValueRef x); /* f32 or f64 */
LLVMValueRef emit_log2(struct emit *e, LLVMValueRef x); /* f32 or f64 */
LLVMValueRef emit_exp(struct emit *e, LLVMValueRef x);
LLVMValueRef emit_log(struct emit *e, LLVMValueRef x);
LLVMValueRef emit_pow(struct emit *e, LLVMValueRef x, LLVMValueRef y); /* f32, through f64 */
LLVMValueRef emit_tanh(struct emit *e, LLVMValueRef x);                /* f32 or f64 */
LLVMValueRef emit_sigmoid(struct emit *e, LLVMValueRef x);             /* f32 or f64 */
/* GPU: of 2 pi t, an f32, by the hardware's functions: 7e-7 absolute. */
LLVMValueRef emit_sin_of_turns(struct emit *e, LLVMValueRef t);
LLVMValueRef emit_cos_of_turns(struct emit *e, LLVMValueRef t);
LLVMValueRef emit_sin(struct emit *e, LLVMValueRef x); /* f32 or f64, the latter for |x| < 10^9 */
LLVMValueRef emit_cos(struct emit *e, LLVMValueRef x);
LLVMValueRef emit_erf(struct emit *e, LLVMValueRef x);  /* f32, or f64 to f32's precision */
LLVMValueRef emit_sqrt(struct emit *e, LLVMValueRef x); /* rounded correctly */
LLVMValueRef emit_rsqrt(struct emit *e, LLVMValueRef x);
LLVMValueRef emit_divide(struct emit *e, LLVMValueRef a, LLVMValueRef b);
LLVMValueRef emit_floor(struct emit *e, LLVMValueRef x); /* f32 or f64 */
LLVMValueRef emit_trunc(struct emit *e, LLVMValueRef x); /* f32 or f64 */
/* f64 evaluation rounded to f32, of an f32: any of the above that take f64. */
LLVMValueRef emit_through_f64(struct emit *e, LLVMValueRef (*function)(struct emit *, LLVMValueRef),
                              LLVMValueRef x);

#endif
