#include "compiler/emit/storage.h"

#include "compiler/emit/narrow.h"

#include <assert.h>

LLVMTypeRef emit_expr_type(struct emit *e, enum expr_type type)
{
  switch (type) {
  case EXPR_BOOL: return e->i1;
  case EXPR_INT: return e->i32;
  case EXPR_LONG: return e->i64;
  case EXPR_FLOAT:
  case EXPR_SINGLE: return e->f32;
  }
  return e->f32;
}

LLVMTypeRef emit_storage_type(struct emit *e, enum dtype type)
{
  switch (type) {
  case DTYPE_F32: return e->f32;
  case DTYPE_F16: return e->f16;
  case DTYPE_BF16: return e->i16;
  case DTYPE_I32: return e->i32;
  case DTYPE_I64: return e->i64;
  case DTYPE_U8:
  case DTYPE_I8:
  case DTYPE_BOOL:
  case DTYPE_E4M3:
  case DTYPE_E5M2:
  case DTYPE_I4:
  case DTYPE_I2: return e->i8;
  case DTYPE_ANY:
  case DTYPE_SPEC:
  case DTYPE_COUNT: break;
  }
  assert(false && "the tile verifier admits only types that memory holds");
  return e->i8;
}

LLVMValueRef emit_from_storage(struct emit *e, enum dtype type, LLVMValueRef stored)
{
  LLVMTypeRef f32 = emit_type_like(e, stored, e->f32);
  LLVMTypeRef i32 = emit_type_like(e, stored, e->i32);
  switch (type) {
  case DTYPE_F32:
  case DTYPE_I32: return stored;
  case DTYPE_F16: return emit_from_half(e, stored);
  case DTYPE_BF16: {
    LLVMValueRef bits = LLVMBuildZExt(e->builder, stored, i32, "");
    bits = LLVMBuildShl(e->builder, bits, emit_int_of(i32, 16), "");
    return LLVMBuildBitCast(e->builder, bits, f32, "");
  }
  case DTYPE_I64: return LLVMBuildTrunc(e->builder, stored, i32, "");
  case DTYPE_U8: return LLVMBuildZExt(e->builder, stored, i32, "");
  case DTYPE_I8: return LLVMBuildSExt(e->builder, stored, i32, "");
  case DTYPE_BOOL:
    return LLVMBuildICmp(e->builder, LLVMIntNE, stored, emit_int_of(LLVMTypeOf(stored), 0), "");
  case DTYPE_E4M3:
  case DTYPE_E5M2: return emit_from_float8(e, type, stored);
  case DTYPE_ANY:
  case DTYPE_SPEC:
  case DTYPE_I4:
  case DTYPE_I2:
  case DTYPE_COUNT: break;
  }
  assert(false && "the tile verifier admits only types that memory holds, and codes are unpacked");
  return stored;
}

static LLVMValueRef to_bf16(struct emit *e, LLVMValueRef value)
{
  if (e->gpu)
    return LLVMBuildBitCast(e->builder, LLVMBuildFPTrunc(e->builder, value, e->bf16, ""), e->i16,
                            "");
  LLVMTypeRef i32 = emit_type_like(e, value, e->i32);
  LLVMValueRef bits = LLVMBuildBitCast(e->builder, value, i32, "");
  LLVMValueRef odd =
      LLVMBuildAnd(e->builder, LLVMBuildLShr(e->builder, bits, emit_int_of(i32, 16), ""),
                   emit_int_of(i32, 1), "");
  LLVMValueRef rounded = LLVMBuildAdd(
      e->builder, bits, LLVMBuildAdd(e->builder, odd, emit_int_of(i32, 0x7fff), ""), "");
  /* A NaN must not round up into infinity; the quiet bit keeps it one. */
  LLVMValueRef quiet = LLVMBuildOr(e->builder, bits, emit_int_of(i32, 0x400000), "");
  LLVMValueRef is_nan = LLVMBuildFCmp(e->builder, LLVMRealUNO, value, value, "");
  rounded =
      LLVMBuildLShr(e->builder, emit_select(e, is_nan, quiet, rounded), emit_int_of(i32, 16), "");
  return LLVMBuildTrunc(e->builder, rounded, emit_type_like(e, value, e->i16), "");
}

LLVMValueRef emit_to_storage(struct emit *e, enum dtype type, LLVMValueRef value)
{
  switch (type) {
  case DTYPE_F32:
  case DTYPE_I32: return value;
  case DTYPE_F16: return emit_to_half(e, value);
  case DTYPE_BF16: return to_bf16(e, value);
  case DTYPE_I64: return LLVMBuildSExt(e->builder, value, emit_type_like(e, value, e->i64), "");
  case DTYPE_U8:
  case DTYPE_I8: return LLVMBuildTrunc(e->builder, value, emit_type_like(e, value, e->i8), "");
  case DTYPE_BOOL: return LLVMBuildZExt(e->builder, value, emit_type_like(e, value, e->i8), "");
  case DTYPE_E4M3:
  case DTYPE_E5M2: return emit_to_float8(e, type, value);
  case DTYPE_ANY:
  case DTYPE_SPEC:
  case DTYPE_I4:
  case DTYPE_I2:
  case DTYPE_COUNT: break;
  }
  assert(false && "the tile verifier admits only types that memory holds, and no written codes");
  return value;
}
