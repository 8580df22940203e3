#include "compiler/emit/operation.h"

#include "compiler/emit/gpu.h"
#include "compiler/emit/math.h"
#include "compiler/emit/storage.h"

#include <assert.h>
#include <math.h>

/* ---- one operand ---- */

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

static LLVMValueRef round_if_single(struct emit *e, const struct expr *node, LLVMValueRef x,
                                    LLVMValueRef (*function)(struct emit *, LLVMValueRef))
{
  return node->type == EXPR_SINGLE ? emit_through_f64(e, function, x) : function(e, x);
}

LLVMValueRef emit_unary(struct emit *e, const struct expr *node, LLVMValueRef a)
{
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

/* ---- two operands ---- */

void emit_agree(struct emit *e, LLVMValueRef *values, size_t count)
{
  bool vector = false;
  for (size_t k = 0; k < count; k++)
    vector = vector || emit_is_vector(values[k]);
  for (size_t k = 0; vector && k < count; k++)
    values[k] = emit_broadcast(e, values[k]);
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

LLVMValueRef emit_binary(struct emit *e, const struct expr *node, LLVMValueRef a, LLVMValueRef b)
{
  LLVMValueRef both[2] = {a, b};
  emit_agree(e, both, 2);
  enum expr_type type = node->args[0]->type;
  if (type == EXPR_FLOAT || type == EXPR_SINGLE)
    return real_binary(e, node, both[0], both[1]);
  return int_binary(e, node, both[0], both[1]);
}

/* ---- folds ---- */

LLVMValueRef emit_fold_start(struct emit *e, const struct expr *node)
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

LLVMValueRef emit_fold_step(struct emit *e, const struct expr *node, LLVMValueRef so_far,
                            LLVMValueRef body)
{
  LLVMValueRef both[2] = {so_far, body};
  emit_agree(e, both, 2);
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

LLVMValueRef emit_fold_end(struct emit *e, const struct expr *node, LLVMValueRef result,
                           LLVMValueRef extent)
{
  if (node->op != EXPR_MEAN)
    return result;
  LLVMValueRef count = LLVMBuildSIToFP(e->builder, extent, emit_type_like(e, extent, e->f32), "");
  LLVMValueRef both[2] = {result, count};
  emit_agree(e, both, 2);
  return LLVMBuildFDiv(e->builder, both[0], both[1], "");
}

/* ---- random numbers ---- */

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

LLVMValueRef emit_random_key(struct emit *e, LLVMValueRef state, uint32_t number, LLVMValueRef key)
{
  uint32_t salt = 0x9e3779b9u * (number + 1);
  key = mix(e, LLVMBuildAdd(e->builder, key, emit_int_of(LLVMTypeOf(key), (int64_t)salt), ""));
  LLVMValueRef both[2] = {state, key};
  emit_agree(e, both, 2);
  return mix(e, LLVMBuildXor(e->builder, both[0], both[1], ""));
}

LLVMValueRef emit_random_number(struct emit *e, enum expr_op op, LLVMValueRef state)
{
  LLVMTypeRef type = LLVMTypeOf(state);
  if (op == EXPR_HASH)
    return LLVMBuildLShr(e->builder, state, emit_int_of(type, 1), "");
  LLVMValueRef top = LLVMBuildLShr(e->builder, state, emit_int_of(type, 8), "");
  LLVMValueRef real = LLVMBuildSIToFP(e->builder, top, emit_type_like(e, state, e->f32), "");
  return LLVMBuildFMul(e->builder, real, emit_float_like(real, 0x1p-24), "");
}
