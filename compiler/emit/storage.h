/* What lies in memory and what expressions compute with: LLVM's types for both, and conversions
 * between them, of scalars and vectors. */
#ifndef ATTN_COMPILER_EMIT_STORAGE_H
#define ATTN_COMPILER_EMIT_STORAGE_H

#include "compiler/emit/llvm.h"
#include "dsl/spec.h"

LLVMTypeRef emit_expr_type(struct emit *e, enum expr_type type); /* i1 i32 i64 float float */

/* Converts what lies in memory as `type` (as loaded by the type of emit_storage_type) to the value
 * of an expression: f32, i32 or i1; and back, rounding to nearest even. I4 and I2, of which a byte
 * holds several, are not converted: see emit_code. */
LLVMTypeRef emit_storage_type(struct emit *e, enum dtype type);
LLVMValueRef emit_from_storage(struct emit *e, enum dtype type, LLVMValueRef stored);
LLVMValueRef emit_to_storage(struct emit *e, enum dtype type, LLVMValueRef value);

#endif
