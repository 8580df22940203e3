#include "compiler/emit/expr.h"

#include "compiler/emit/gpu.h"
#include "compiler/emit/math.h"
#include "compiler/emit/narrow.h"

#include <assert.h>
#include <math.h>

void emit_slots_init(struct emit *e, struct emit_slots *slots, const struct tile_kernel *kernel,
                     LLVMValueRef array)
{
  slots->kernel = kernel;
  slots->array = array;
  slots->loaded = ARENA_ARRAY(e->arena, LLVMValueRef, tile_slot_count(kernel));
}

LLVMValueRef emit_slot(struct emit *e, struct emit_slots *slots, uint32_t slot)
{
  if (slots->loaded[slot] == NULL) {
    LLVMBasicBlockRef here = LLVMGetInsertBlock(e->builder);
    LLVMPositionBuilderBefore(e->builder, LLVMGetBasicBlockTerminator(e->entry));
    slots->loaded[slot] =
        emit_load(e, e->i64, emit_address(e, e->i64, slots->array, emit_i64(e, slot)), 8);
    LLVMPositionBuilderAtEnd(e->builder, here);
  }
  return slots->loaded[slot];
}

LLVMValueRef emit_tensor_base(struct emit *e, struct emit_slots *slots, uint32_t tensor)
{
  LLVMValueRef address = emit_slot(e, slots, tile_tensor_slot(slots->kernel, tensor));
  return LLVMBuildIntToPtr(e->builder, address, e->global, "");
}

LLVMValueRef emit_tensor_stride(struct emit *e, struct emit_slots *slots, uint32_t tensor,
                                uint32_t dim)
{
  return emit_slot(e, slots, tile_tensor_slot(slots->kernel, tensor) + 1 + dim);
}

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

void emit_expression_init(struct emit_expression *x, struct emit *e, struct emit_slots *slots,
                          const struct expr_pool *pool)
{
  *x = (struct emit_expression){.e = e, .slots = slots, .value_count = pool->nodes.count};
  x->values = ARENA_ARRAY(e->arena, LLVMValueRef, pool->nodes.count);
}

static void forget_from(struct emit_expression *x, size_t first)
{
  while (x->order.count > first)
    x->values[x->order.items[--x->order.count]] = NULL;
}

void emit_expression_reset(struct emit_expression *x)
{
  forget_from(x, 0);
  x->active = NULL;
}

/* Makes both of one shape: scalars widen where any is a vector. */
static void agree(struct emit *e, LLVMValueRef *values, size_t count)
{
  bool vector = false;
  for (size_t k = 0; k < count; k++)
    vector = vector || emit_is_vector(values[k]);
  for (size_t k = 0; vector && k < count; k++)
    values[k] = emit_broadcast(e, values[k]);
}

static LLVMValueRef round_if_single(struct emit *e, const struct expr *node, LLVMValueRef x,
                                    LLVMValueRef (*function)(struct emit *, LLVMValueRef))
{
  return node->type == EXPR_SINGLE ? emit_through_f64(e, function, x) : function(e, x);
}

LLVMValueRef emit_real_to_int(struct emit *e, LLVMValueRef value, LLVMTypeRef element)
{
  if (e->gpu && element == e->i32 && LLVMTypeOf(value) == e->f32) /* the instruction does that */
    return emit_intrinsic(e, "llvm.nvvm.f2i.rz", NULL, &value, 1);
  LLVMTypeRef overloads[2] = {emit_type_like(e, value, element), LLVMTypeOf(value)};
  unsigned id = LLVMLookupIntrinsicID("llvm.fptosi.sat", 15);
  LLVMValueRef function = LLVMGetIntrinsicDeclaration(e->module, id, overloads, 2);
  LLVMTypeRef type = LLVMIntrinsicGetType(e->context, id, overloads, 2);
  return LLVMBuildCall2(e->builder, type, function, &value, 1, "");
}

static LLVMValueRef convert(struct emit *e, const struct expr *node, LLVMValueRef value)
{
  enum expr_type from = node->args[0]->type;
  enum expr_type to = node->type;
  LLVMTypeRef type = emit_type_like(e, value, emit_expr_type(e, to));
  bool from_real = from == EXPR_FLOAT || from == EXPR_SINGLE;
  switch (to) {
  case EXPR_BOOL:
    if (from == EXPR_BOOL)
      return value;
    if (from_real)
      return LLVMBuildFCmp(e->builder, LLVMRealUNE, value, emit_float_like(value, 0), "");
    return LLVMBuildICmp(e->builder, LLVMIntNE, value, emit_int_of(LLVMTypeOf(value), 0), "");
  case EXPR_INT:
  case EXPR_LONG:
    if (from_real)
      return emit_real_to_int(e, value, emit_expr_type(e, to));
    if (from == EXPR_BOOL)
      return LLVMBuildZExt(e->builder, value, type, "");
    if (from == EXPR_INT && to == EXPR_LONG)
      return LLVMBuildSExt(e->builder, value, type, "");
    return from == EXPR_LONG && to == EXPR_INT ? LLVMBuildTrunc(e->builder, value, type, "")
                                               : value;
  case EXPR_FLOAT:
  case EXPR_SINGLE:
    if (from_real)
      return value;
    if (from == EXPR_BOOL)
      return LLVMBuildUIToFP(e->builder, value, type, "");
    return LLVMBuildSIToFP(e->builder, value, type, "");
  }
  return value;
}

/* The t of an angle 2 pi t, as rotations have them; else NULL. */
static const struct expr *turns_of(const struct expr *angle)
{
  const double turn = 6.283185307179586;
  if (angle->op != EXPR_MUL || angle->type != EXPR_FLOAT)
    return NULL;
  for (int k = 0; k < 2; k++)
    if (angle->args[k]->op == EXPR_CONST && angle->args[k]->value.f == turn)
      return angle->args[1 - k];
  return NULL;
}

static LLVMValueRef unary(struct emit_expression *x, const struct expr *node)
{
  struct emit *e = x->e;
  bool wave = node->op == EXPR_SIN || node->op == EXPR_COS;
  if (e->gpu && wave && node->type == EXPR_FLOAT && turns_of(node->args[0]) != NULL) {
    LLVMValueRef turns = emit_expression(x, turns_of(node->args[0]));
    return node->op == EXPR_SIN ? emit_sin_of_turns(e, turns) : emit_cos_of_turns(e, turns);
  }
  LLVMValueRef a = emit_expression(x, node->args[0]);
  bool real = node->type == EXPR_FLOAT || node->type == EXPR_SINGLE;
  switch ((int)node->op) {
  case EXPR_NEG: return real ? LLVMBuildFNeg(e->builder, a, "") : LLVMBuildNeg(e->builder, a, "");
  case EXPR_NOT: return LLVMBuildNot(e->builder, a, "");
  case EXPR_ABS: {
    if (real)
      return emit_intrinsic(e, "llvm.fabs", LLVMTypeOf(a), &a, 1);
    LLVMValueRef args[2] = {a, LLVMConstInt(e->i1, 0, false)};
    return emit_intrinsic(e, "llvm.abs", LLVMTypeOf(a), args, 2);
  }
  case EXPR_EXP: return round_if_single(e, node, a, emit_exp);
  case EXPR_EXP2: return round_if_single(e, node, a, emit_exp2);
  case EXPR_LOG: return round_if_single(e, node, a, emit_log);
  case EXPR_LOG2: return round_if_single(e, node, a, emit_log2);
  case EXPR_SQRT: return emit_sqrt(e, a);
  case EXPR_RSQRT:
    if (node->type == EXPR_SINGLE) {
      LLVMValueRef wide = LLVMBuildFPExt(e->builder, a, emit_type_like(e, a, e->f64), "");
      wide = LLVMBuildFDiv(e->builder, emit_float_like(wide, 1), emit_sqrt(e, wide), "");
      return LLVMBuildFPTrunc(e->builder, wide, LLVMTypeOf(a), "");
    }
    return emit_rsqrt(e, a);
  case EXPR_TANH: return round_if_single(e, node, a, emit_tanh);
  case EXPR_SIN: return round_if_single(e, node, a, emit_sin);
  case EXPR_COS: return round_if_single(e, node, a, emit_cos);
  case EXPR_SIGMOID: return round_if_single(e, node, a, emit_sigmoid);
  case EXPR_ERF: return round_if_single(e, node, a, emit_erf);
  case EXPR_FLOOR: return emit_real_to_int(e, emit_floor(e, a), e->i32);
  case EXPR_CONVERT: return convert(e, node, a);
  }
  assert(false && "unary operation");
  return a;
}

static LLVMValueRef int_compare(struct emit *e, LLVMIntPredicate predicate, LLVMValueRef a,
                                int64_t b)
{
  return LLVMBuildICmp(e->builder, predicate, a, emit_int_of(LLVMTypeOf(a), b), "");
}

/* Floors, as Python does. Nothing traps: by 0 gives 0, by -1 wraps. */
static LLVMValueRef int_divide(struct emit *e, bool modulo, LLVMValueRef a, LLVMValueRef b,
                               const struct expr *divisor)
{
  LLVMTypeRef type = LLVMTypeOf(a);
  bool plain = divisor->op == EXPR_CONST && divisor->value.i > 0;
  if (plain && (divisor->value.i & (divisor->value.i - 1)) == 0) {
    int64_t shift = 0;
    while (divisor->value.i >> shift != 1)
      shift++;
    return modulo ? LLVMBuildAnd(e->builder, a, emit_int_of(type, divisor->value.i - 1), "")
                  : LLVMBuildAShr(e->builder, a, emit_int_of(type, shift), "");
  }
  LLVMValueRef zero = NULL;
  LLVMValueRef minus = NULL;
  LLVMValueRef safe = b;
  if (!plain) {
    zero = int_compare(e, LLVMIntEQ, b, 0);
    minus = int_compare(e, LLVMIntEQ, b, -1);
    safe = emit_select(e, LLVMBuildOr(e->builder, zero, minus, ""), emit_int_of(type, 1), b);
  }
  LLVMValueRef quotient = e->gpu && !plain && type == e->i64
                              ? emit_gpu_divide(e, a, safe)
                              : LLVMBuildSDiv(e->builder, a, safe, "");
  LLVMValueRef rest = LLVMBuildSub(e->builder, a, LLVMBuildMul(e->builder, quotient, safe, ""), "");
  LLVMValueRef differ = int_compare(e, LLVMIntSLT, LLVMBuildXor(e->builder, rest, safe, ""), 0);
  LLVMValueRef adjust = LLVMBuildAnd(e->builder, differ, int_compare(e, LLVMIntNE, rest, 0), "");
  LLVMValueRef result;
  if (modulo)
    result = emit_select(e, adjust, LLVMBuildAdd(e->builder, rest, safe, ""), rest);
  else
    result = LLVMBuildSub(e->builder, quotient, LLVMBuildZExt(e->builder, adjust, type, ""), "");
  if (plain)
    return result;
  if (!modulo)
    result = emit_select(e, minus, LLVMBuildNeg(e->builder, a, ""), result);
  else
    result = emit_select(e, minus, emit_int_of(type, 0), result);
  return emit_select(e, zero, emit_int_of(type, 0), result);
}

static LLVMValueRef int_binary(struct emit *e, const struct expr *node, LLVMValueRef a,
                               LLVMValueRef b)
{
  LLVMTypeRef type = LLVMTypeOf(a);
  switch ((int)node->op) {
  case EXPR_ADD: return LLVMBuildAdd(e->builder, a, b, "");
  case EXPR_SUB: return LLVMBuildSub(e->builder, a, b, "");
  case EXPR_MUL: return LLVMBuildMul(e->builder, a, b, "");
  case EXPR_FLOORDIV: return int_divide(e, false, a, b, node->args[1]);
  case EXPR_MOD: return int_divide(e, true, a, b, node->args[1]);
  case EXPR_MIN: return emit_intrinsic(e, "llvm.smin", type, (LLVMValueRef[]){a, b}, 2);
  case EXPR_MAX: return emit_intrinsic(e, "llvm.smax", type, (LLVMValueRef[]){a, b}, 2);
  /* BOOL operands order false before true: as unsigned. */
  case EXPR_LT:
    return LLVMBuildICmp(e->builder, node->args[0]->type == EXPR_BOOL ? LLVMIntULT : LLVMIntSLT, a,
                         b, "");
  case EXPR_LE:
    return LLVMBuildICmp(e->builder, node->args[0]->type == EXPR_BOOL ? LLVMIntULE : LLVMIntSLE, a,
                         b, "");
  case EXPR_EQ: return LLVMBuildICmp(e->builder, LLVMIntEQ, a, b, "");
  case EXPR_NE: return LLVMBuildICmp(e->builder, LLVMIntNE, a, b, "");
  case EXPR_AND:
  case EXPR_BIT_AND: return LLVMBuildAnd(e->builder, a, b, "");
  case EXPR_OR:
  case EXPR_BIT_OR: return LLVMBuildOr(e->builder, a, b, "");
  case EXPR_BIT_XOR: return LLVMBuildXor(e->builder, a, b, "");
  case EXPR_SHIFT_LEFT:
    return LLVMBuildShl(e->builder, a, LLVMBuildAnd(e->builder, b, emit_int_of(type, 31), ""), "");
  case EXPR_SHIFT_RIGHT:
    return LLVMBuildLShr(e->builder, a, LLVMBuildAnd(e->builder, b, emit_int_of(type, 31), ""), "");
  }
  assert(false && "binary operation on integers");
  return a;
}

/* fmod and Python's sign rule, exact in f64: each step leaves a remainder of 52 bits less, and the
 * quotient of two f32 has up to 277. */
static LLVMValueRef real_modulo(struct emit *e, LLVMValueRef a, LLVMValueRef b)
{
  LLVMTypeRef wide_type = emit_type_like(e, a, e->f64);
  LLVMValueRef x = LLVMBuildFPExt(e->builder, a, wide_type, "");
  LLVMValueRef y = LLVMBuildFPExt(e->builder, b, wide_type, "");
  LLVMValueRef rest = x;
  struct emit_loop steps;
  emit_loop_begin(e, &steps, emit_i32(e, 0), emit_i32(e, 6), 1, &rest, 1);
  LLVMValueRef quotient = LLVMBuildFDiv(e->builder, steps.carried[0], y, "");
  quotient = LLVMBuildFNeg(e->builder, emit_trunc(e, quotient), "");
  rest = emit_exact_fma(e, quotient, y, steps.carried[0]);
  emit_loop_end(e, &steps, &rest);
  rest = steps.result[0];
  /* On the other side of zero where the signs differ, or where the division rounded up to the next
   * whole number. */
  LLVMValueRef zero = emit_float_like(x, 0);
  LLVMValueRef positive = LLVMBuildFCmp(e->builder, LLVMRealOGT, y, zero, "");
  LLVMValueRef below =
      emit_select(e, positive, LLVMBuildFCmp(e->builder, LLVMRealOLT, rest, zero, ""),
                  LLVMBuildFCmp(e->builder, LLVMRealOGT, rest, zero, ""));
  rest = emit_select(e, below, LLVMBuildFAdd(e->builder, rest, y, ""), rest);
  /* By infinity fmod keeps the dividend. */
  LLVMValueRef size = emit_intrinsic(e, "llvm.fabs", wide_type, &y, 1);
  LLVMValueRef infinite =
      LLVMBuildFCmp(e->builder, LLVMRealOEQ, size, emit_float_like(y, (double)INFINITY), "");
  LLVMValueRef differ =
      LLVMBuildXor(e->builder, LLVMBuildFCmp(e->builder, LLVMRealOLT, x, zero, ""),
                   LLVMBuildFCmp(e->builder, LLVMRealOLT, y, zero, ""), "");
  LLVMValueRef nonzero = LLVMBuildFCmp(e->builder, LLVMRealONE, x, zero, "");
  LLVMValueRef kept = emit_select(e, LLVMBuildAnd(e->builder, differ, nonzero, ""), y, x);
  LLVMValueRef finite_x =
      LLVMBuildFCmp(e->builder, LLVMRealOEQ, LLVMBuildFSub(e->builder, x, x, ""), zero, "");
  kept = emit_select(e, finite_x, kept, emit_float_like(x, (double)NAN));
  rest = emit_select(e, infinite, kept, rest);
  LLVMValueRef none = LLVMBuildFCmp(e->builder, LLVMRealOEQ, rest, zero, "");
  LLVMValueRef signed_zero =
      emit_intrinsic(e, "llvm.copysign", wide_type, (LLVMValueRef[]){zero, y}, 2);
  rest = emit_select(e, none, signed_zero, rest);
  return LLVMBuildFPTrunc(e->builder, rest, LLVMTypeOf(a), "");
}

/* Lets a product and a sum become one instruction, with one rounding, where the result is not one
 * that the reference must meet bit by bit. */
static LLVMValueRef contract(struct emit *e, const struct expr *node, LLVMValueRef value)
{
  if (e->fuses && node->type == EXPR_FLOAT && LLVMCanValueUseFastMathFlags(value))
    LLVMSetFastMathFlags(value, LLVMFastMathAllowContract);
  return value;
}

static LLVMValueRef real_binary(struct emit *e, const struct expr *node, LLVMValueRef a,
                                LLVMValueRef b)
{
  LLVMTypeRef type = LLVMTypeOf(a);
  switch ((int)node->op) {
  case EXPR_ADD: return contract(e, node, LLVMBuildFAdd(e->builder, a, b, ""));
  case EXPR_SUB: return contract(e, node, LLVMBuildFSub(e->builder, a, b, ""));
  case EXPR_MUL: return contract(e, node, LLVMBuildFMul(e->builder, a, b, ""));
  case EXPR_DIV:
    return node->type == EXPR_FLOAT ? emit_divide(e, a, b) : LLVMBuildFDiv(e->builder, a, b, "");
  case EXPR_FLOORDIV: return emit_floor(e, LLVMBuildFDiv(e->builder, a, b, ""));
  case EXPR_MOD: return real_modulo(e, a, b);
  case EXPR_POW: return emit_pow(e, a, b);
  case EXPR_MIN: return emit_intrinsic(e, "llvm.minimum", type, (LLVMValueRef[]){a, b}, 2);
  case EXPR_MAX: return emit_intrinsic(e, "llvm.maximum", type, (LLVMValueRef[]){a, b}, 2);
  case EXPR_LT: return LLVMBuildFCmp(e->builder, LLVMRealOLT, a, b, "");
  case EXPR_LE: return LLVMBuildFCmp(e->builder, LLVMRealOLE, a, b, "");
  case EXPR_EQ: return LLVMBuildFCmp(e->builder, LLVMRealOEQ, a, b, "");
  case EXPR_NE: return LLVMBuildFCmp(e->builder, LLVMRealUNE, a, b, "");
  }
  assert(false && "binary operation on reals");
  return a;
}

static LLVMValueRef mix(struct emit *e, LLVMValueRef x)
{
  LLVMTypeRef type = LLVMTypeOf(x);
  static const struct {
    unsigned shift;
    uint32_t factor;
  } steps[] = {{16, 0x85ebca6bu}, {13, 0xc2b2ae35u}, {16, 1}};
  for (int k = 0; k < 3; k++) {
    LLVMValueRef shifted = LLVMBuildLShr(e->builder, x, emit_int_of(type, steps[k].shift), "");
    x = LLVMBuildXor(e->builder, x, shifted, "");
    if (steps[k].factor != 1)
      x = LLVMBuildMul(e->builder, x, emit_int_of(type, (int64_t)steps[k].factor), "");
  }
  return x;
}

static LLVMValueRef random_number(struct emit_expression *x, const struct expr *node)
{
  struct emit *e = x->e;
  LLVMValueRef state = emit_i32(e, 0);
  for (uint32_t k = 0; k < node->arg_count; k++) {
    LLVMValueRef key = emit_expression(x, node->args[k]);
    uint32_t salt = 0x9e3779b9u * (k + 1);
    key = mix(e, LLVMBuildAdd(e->builder, key, emit_int_of(LLVMTypeOf(key), (int64_t)salt), ""));
    LLVMValueRef both[2] = {state, key};
    agree(e, both, 2);
    state = mix(e, LLVMBuildXor(e->builder, both[0], both[1], ""));
  }
  LLVMTypeRef type = LLVMTypeOf(state);
  if (node->op == EXPR_HASH)
    return LLVMBuildLShr(e->builder, state, emit_int_of(type, 1), "");
  LLVMValueRef top = LLVMBuildLShr(e->builder, state, emit_int_of(type, 8), "");
  LLVMValueRef real = LLVMBuildSIToFP(e->builder, top, emit_type_like(e, state, e->f32), "");
  return LLVMBuildFMul(e->builder, real, emit_float_like(real, 0x1p-24), "");
}

/* An element as INT or, sign-extended, as LONG. */
static LLVMValueRef as_read(struct emit *e, const struct expr *node, LLVMValueRef value)
{
  return node->type == EXPR_LONG
             ? LLVMBuildSExt(e->builder, value, emit_type_like(e, value, e->i64), "")
             : value;
}

/* Elements that vectors of addresses point to. */
static LLVMValueRef gather(struct emit *e, LLVMTypeRef type, LLVMValueRef addresses, unsigned align)
{
  LLVMTypeRef vector = emit_vector_type(e, type);
  LLVMTypeRef overloads[2] = {vector, LLVMTypeOf(addresses)};
  unsigned id = LLVMLookupIntrinsicID("llvm.masked.gather", 18);
  LLVMValueRef function = LLVMGetIntrinsicDeclaration(e->module, id, overloads, 2);
  LLVMTypeRef function_type = LLVMIntrinsicGetType(e->context, id, overloads, 2);
  LLVMValueRef all = emit_int_of(emit_vector_type(e, e->i1), 1);
  LLVMValueRef args[4];
  unsigned count = 0;
  args[count++] = addresses;
  if (LLVMCountParamTypes(function_type) == 4)
    args[count++] = emit_i32(e, (int32_t)align);
  args[count++] = all;
  args[count++] = LLVMGetPoison(vector);
  return LLVMBuildCall2(e->builder, function_type, function, args, count, "");
}

/* The code at element `offset`, i64 or a vector of them, from `base`, where bytes hold several. */
static LLVMValueRef read_code(struct emit *e, enum dtype stored, LLVMValueRef base,
                              LLVMValueRef offset)
{
  LLVMTypeRef i64 = LLVMTypeOf(offset);
  LLVMTypeRef i32 = emit_type_like(e, offset, e->i32);
  int64_t several = tile_elements_per_byte(stored);
  LLVMValueRef byte = LLVMBuildAShr(e->builder, offset, emit_int_of(i64, several == 4 ? 2 : 1), "");
  LLVMValueRef number = LLVMBuildAnd(e->builder, offset, emit_int_of(i64, several - 1), "");
  LLVMValueRef address = emit_address(e, e->i8, base, byte);
  LLVMValueRef word =
      emit_is_vector(offset) ? gather(e, e->i8, address, 1) : emit_load(e, e->i8, address, 1);
  return emit_code(e, stored, LLVMBuildZExt(e->builder, word, i32, ""),
                   LLVMBuildTrunc(e->builder, number, i32, ""));
}

static LLVMValueRef read_tensor(struct emit_expression *x, const struct expr *node)
{
  struct emit *e = x->e;
  uint32_t tensor = (uint32_t)node->value.i;
  enum dtype stored = x->slots->kernel->tensors.items[tensor].element;
  LLVMTypeRef type = emit_storage_type(e, stored);
  LLVMValueRef scalar_offset = emit_i64(e, 0);
  LLVMValueRef offset = NULL; /* a vector */
  for (uint32_t k = 0; k < node->arg_count; k++) {
    LLVMValueRef index = emit_expression(x, node->args[k]);
    LLVMValueRef stride = emit_tensor_stride(e, x->slots, tensor, k);
    if (emit_element_type(index) == e->i32)
      index = LLVMBuildSExt(e->builder, index, emit_type_like(e, index, e->i64), "");
    if (!emit_is_vector(index)) {
      LLVMValueRef term = LLVMBuildMul(e->builder, index, stride, "");
      scalar_offset = LLVMBuildAdd(e->builder, scalar_offset, term, "");
      continue;
    }
    LLVMValueRef term = LLVMBuildMul(e->builder, index, emit_broadcast(e, stride), "");
    offset = offset == NULL ? term : LLVMBuildAdd(e->builder, offset, term, "");
  }
  if (offset != NULL && x->active != NULL) /* to the one address that is certain to be there */
    offset = emit_select(e, x->active, offset, LLVMConstNull(LLVMTypeOf(offset)));
  LLVMValueRef base = emit_tensor_base(e, x->slots, tensor);
  unsigned align = (unsigned)dtype_size(stored);
  if (tile_elements_per_byte(stored) > 1) {
    if (offset != NULL)
      offset = LLVMBuildAdd(e->builder, offset, emit_broadcast(e, scalar_offset), "");
    offset = offset == NULL ? scalar_offset : offset;
    return as_read(e, node, read_code(e, stored, base, offset));
  }
  LLVMValueRef address = emit_address(e, type, base, scalar_offset);
  LLVMValueRef value = offset == NULL
                           ? emit_load(e, type, address, align)
                           : gather(e, type, emit_address(e, type, address, offset), align);
  if (node->type == EXPR_LONG && stored == DTYPE_I64)
    return value;
  return as_read(e, node, emit_from_storage(e, stored, value));
}

/* Emits what does not change in a binder's body before the loop, so that its value may be used
 * after the loop too. */
static void emit_invariants(struct emit_expression *x, const struct expr *node, uint32_t level)
{
  if ((node->deps & EXPR_DEP(EXPR_DEP_BOUND + level)) == 0) {
    emit_expression(x, node);
    return;
  }
  /* An inner binder of the same level hides this one; its body is its own. */
  bool binder = node->op >= EXPR_SUM && node->op <= EXPR_COUNT;
  for (uint32_t k = 0; k < node->arg_count; k++) {
    if (binder && k == 1 && (uint32_t)node->value.i == level)
      continue;
    if (binder && k == 1) {
      /* Below another binder a part may hang on that one's variable, which has no value here. */
      continue;
    }
    emit_invariants(x, node->args[k], level);
  }
}

static LLVMValueRef binder_start(struct emit *e, const struct expr *node)
{
  LLVMTypeRef type = emit_expr_type(e, node->type);
  bool real = node->type == EXPR_FLOAT || node->type == EXPR_SINGLE;
  switch ((int)node->op) {
  case EXPR_ALL: return LLVMConstInt(e->i1, 1, false);
  case EXPR_FOLD_MAX:
  case EXPR_FOLD_MIN: {
    bool largest = node->op == EXPR_FOLD_MIN;
    if (real)
      return emit_float_of(type, largest ? (double)INFINITY : -(double)INFINITY);
    if (node->type == EXPR_BOOL)
      return LLVMConstInt(e->i1, largest, false);
    if (node->type == EXPR_INT)
      return emit_i32(e, largest ? INT32_MAX : INT32_MIN);
    return emit_i64(e, largest ? INT64_MAX : INT64_MIN);
  }
  }
  return LLVMConstNull(type);
}

static LLVMValueRef binder_step(struct emit *e, const struct expr *node, LLVMValueRef so_far,
                                LLVMValueRef body)
{
  LLVMValueRef both[2] = {so_far, body};
  agree(e, both, 2);
  LLVMTypeRef type = LLVMTypeOf(both[0]);
  bool real = node->type == EXPR_FLOAT || node->type == EXPR_SINGLE;
  switch ((int)node->op) {
  case EXPR_SUM:
  case EXPR_MEAN:
    return real ? contract(e, node, LLVMBuildFAdd(e->builder, both[0], both[1], ""))
                : LLVMBuildAdd(e->builder, both[0], both[1], "");
  case EXPR_COUNT:
    return LLVMBuildAdd(e->builder, so_far,
                        LLVMBuildZExt(e->builder, body, emit_type_like(e, body, e->i32), ""), "");
  case EXPR_ANY: return LLVMBuildOr(e->builder, both[0], both[1], "");
  case EXPR_ALL: return LLVMBuildAnd(e->builder, both[0], both[1], "");
  case EXPR_FOLD_MAX:
    if (node->type == EXPR_BOOL)
      return LLVMBuildOr(e->builder, both[0], both[1], "");
    return emit_intrinsic(e, real ? "llvm.maximum" : "llvm.smax", type, both, 2);
  case EXPR_FOLD_MIN:
    if (node->type == EXPR_BOOL)
      return LLVMBuildAnd(e->builder, both[0], both[1], "");
    return emit_intrinsic(e, real ? "llvm.minimum" : "llvm.smin", type, both, 2);
  }
  assert(false && "binder");
  return so_far;
}

/* Whether the value of a node will be a vector: some operand below is one. Asks the operands for
 * ARGs only. */
static bool is_vector(struct emit_expression *x, const struct expr *node)
{
  if (x->values[node->id] != NULL)
    return emit_is_vector(x->values[node->id]);
  if (node->op == EXPR_ARG)
    return emit_is_vector(emit_expression(x, node));
  if ((node->deps & EXPR_DEP(EXPR_DEP_ARG)) == 0)
    return false;
  for (uint32_t k = 0; k < node->arg_count; k++)
    if (is_vector(x, node->args[k]))
      return true;
  return false;
}

/* The furthest that any lane must go, and the lanes that are still going. */
static LLVMValueRef binder(struct emit_expression *x, const struct expr *node)
{
  struct emit *e = x->e;
  uint32_t level = (uint32_t)node->value.i;
  LLVMValueRef extent = emit_expression(x, node->args[0]);
  emit_invariants(x, node->args[1], level);
  bool vector = is_vector(x, node->args[1]) || emit_is_vector(extent);
  LLVMValueRef start = binder_start(e, node);
  if (vector)
    start = emit_broadcast(e, start);
  if (x->active != NULL && emit_is_vector(extent))
    extent = emit_select(e, x->active, extent, LLVMConstNull(LLVMTypeOf(extent)));
  LLVMValueRef furthest = extent;
  if (emit_is_vector(extent))
    furthest = emit_intrinsic(e, "llvm.vector.reduce.smax", LLVMTypeOf(extent), &extent, 1);
  size_t mark = x->order.count;
  LLVMValueRef outer = x->bound[level];
  struct emit_loop loop;
  emit_loop_begin(e, &loop, emit_i32(e, 0), furthest, 1, &start, 1);
  x->bound[level] = loop.index;
  LLVMValueRef active = x->active;
  LLVMValueRef going = NULL;
  if (emit_is_vector(extent)) {
    going = LLVMBuildICmp(e->builder, LLVMIntSLT, emit_broadcast(e, loop.index), extent, "");
    x->active = going;
  }
  LLVMValueRef body = emit_expression(x, node->args[1]);
  x->active = active;
  LLVMValueRef next = binder_step(e, node, loop.carried[0], body);
  if (going != NULL)
    next = emit_select(e, going, next, loop.carried[0]);
  emit_loop_end(e, &loop, &next);
  forget_from(x, mark);
  x->bound[level] = outer;
  LLVMValueRef result = loop.result[0];
  if (node->op != EXPR_MEAN)
    return result;
  LLVMValueRef count = LLVMBuildSIToFP(e->builder, extent, emit_type_like(e, extent, e->f32), "");
  LLVMValueRef both[2] = {result, count};
  agree(e, both, 2);
  return LLVMBuildFDiv(e->builder, both[0], both[1], "");
}

static LLVMValueRef leaf(struct emit_expression *x, const struct expr *node)
{
  struct emit *e = x->e;
  switch ((int)node->op) {
  case EXPR_CONST:
    if (node->type == EXPR_FLOAT || node->type == EXPR_SINGLE)
      return LLVMConstReal(e->f32, node->value.f);
    return LLVMConstInt(emit_expr_type(e, node->type), (unsigned long long)node->value.i, true);
  case EXPR_VAR: assert(x->variables[node->value.i] != NULL); return x->variables[node->value.i];
  case EXPR_PARAM: {
    LLVMValueRef slot =
        emit_slot(e, x->slots, tile_param_slot(x->slots->kernel, (uint32_t)node->value.i));
    if (node->type == EXPR_FLOAT || node->type == EXPR_SINGLE) {
      LLVMValueRef wide = LLVMBuildBitCast(e->builder, slot, e->f64, "");
      return LLVMBuildFPTrunc(e->builder, wide, e->f32, "");
    }
    if (node->type == EXPR_BOOL)
      return LLVMBuildICmp(e->builder, LLVMIntNE, slot, emit_i64(e, 0), "");
    return LLVMBuildTrunc(e->builder, slot, e->i32, "");
  }
  case EXPR_BOUND: return x->bound[node->value.i];
  case EXPR_ARG: return x->operand(x->user, (uint32_t)node->value.i);
  }
  assert(false && "a leaf that the tile verifier admits");
  return NULL;
}

/* a * b + c as one operation on a GPU, where it rounds once; NULL where the node is none. The code
 * generator would find it too, but only when it optimises, which takes longer than all else. */
static LLVMValueRef fused(struct emit_expression *x, const struct expr *node)
{
  struct emit *e = x->e;
  if (!e->gpu || node->type != EXPR_FLOAT || (node->op != EXPR_ADD && node->op != EXPR_SUB))
    return NULL;
  for (int k = 0; k < 2; k++) {
    const struct expr *product = node->args[k];
    if (product->op != EXPR_MUL || product->type != EXPR_FLOAT)
      continue;
    LLVMValueRef a = emit_expression(x, product->args[0]);
    LLVMValueRef b = emit_expression(x, product->args[1]);
    LLVMValueRef c = emit_expression(x, node->args[1 - k]);
    if (node->op == EXPR_SUB && k == 0)
      c = LLVMBuildFNeg(e->builder, c, "");
    else if (node->op == EXPR_SUB)
      a = LLVMBuildFNeg(e->builder, a, "");
    return emit_fma(e, a, b, c);
  }
  return NULL;
}

static LLVMValueRef emit_node(struct emit_expression *x, const struct expr *node)
{
  struct emit *e = x->e;
  LLVMValueRef one = node->arg_count == 2 ? fused(x, node) : NULL;
  if (one != NULL)
    return one;
  if (node->arg_count == 0 && node->op != EXPR_READ && node->op != EXPR_HASH &&
      node->op != EXPR_UNIFORM)
    return leaf(x, node);
  if (node->op == EXPR_READ)
    return read_tensor(x, node);
  if (node->op == EXPR_HASH || node->op == EXPR_UNIFORM)
    return random_number(x, node);
  if (node->op >= EXPR_SUM)
    return binder(x, node);
  if (node->op == EXPR_SELECT) {
    LLVMValueRef parts[3];
    for (int k = 0; k < 3; k++)
      parts[k] = emit_expression(x, node->args[k]);
    agree(e, parts, 3);
    return emit_select(e, parts[0], parts[1], parts[2]);
  }
  if (node->arg_count == 1)
    return unary(x, node);
  LLVMValueRef both[2] = {emit_expression(x, node->args[0]), emit_expression(x, node->args[1])};
  agree(e, both, 2);
  enum expr_type type = node->args[0]->type;
  if (type == EXPR_FLOAT || type == EXPR_SINGLE)
    return real_binary(e, node, both[0], both[1]);
  return int_binary(e, node, both[0], both[1]);
}

LLVMValueRef emit_expression(struct emit_expression *x, const struct expr *node)
{
  assert(node->id < x->value_count);
  if (x->values[node->id] == NULL) {
    x->values[node->id] = emit_node(x, node);
    vector_push(x->e->arena, &x->order, node->id);
  }
  return x->values[node->id];
}
