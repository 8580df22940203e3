/* The operations of expressions on LLVM values: arithmetic, comparisons, conversions, what a fold
 * does at each step. Operands are of the types of emit_expr_type, scalars or vectors. */
#ifndef ATTN_COMPILER_EMIT_OPERATION_H
#define ATTN_COMPILER_EMIT_OPERATION_H

#include "compiler/emit/llvm.h"
#include "dsl/expr.h"

/* Makes all of one shape: scalars widen where any is a vector. */
void emit_agree(struct emit *e, LLVMValueRef *values, size_t count);

/* The value of `node`, which has one operand or two (no SELECT, no fold), from theirs. */
LLVMValueRef emit_unary(struct emit *e, const struct expr *node, LLVMValueRef a);
LLVMValueRef emit_binary(struct emit *e, const struct expr *node, LLVMValueRef a, LLVMValueRef b);

/* Truncates; clamped to the range of `element` (i32 or i64), NaN gives 0. */
LLVMValueRef emit_real_to_int(struct emit *e, LLVMValueRef value, LLVMTypeRef element);

/* A fold (SUM, MEAN, ANY, ...): its value over nothing; with one element more; and at the end,
 * where `extent`, i32, elements were folded. */
LLVMValueRef emit_fold_start(struct emit *e, const struct expr *node);
LLVMValueRef emit_fold_step(struct emit *e, const struct expr *node, LLVMValueRef so_far,
                            LLVMValueRef body);
LLVMValueRef emit_fold_end(struct emit *e, const struct expr *node, LLVMValueRef result,
                           LLVMValueRef extent);

/* HASH and UNIFORM: the state, 0 at first, after key `number`, i32; and the number that the last
 * state stands for. */
LLVMValueRef emit_random_key(struct emit *e, LLVMValueRef state, uint32_t number, LLVMValueRef key);
LLVMValueRef emit_random_number(struct emit *e, enum expr_op op, LLVMValueRef state);

#endif
