#include "compiler/emit/expr.h"

#include "compiler/emit/math.h"
#include "compiler/emit/narrow.h"
#include "compiler/emit/operation.h"

#include <assert.h>

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

/* ---- reads ---- */

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

/* ---- folds ---- */

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
  LLVMValueRef start = emit_fold_start(e, node);
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
  LLVMValueRef next = emit_fold_step(e, node, loop.carried[0], body);
  if (going != NULL)
    next = emit_select(e, going, next, loop.carried[0]);
  emit_loop_end(e, &loop, &next);
  forget_from(x, mark);
  x->bound[level] = outer;
  return emit_fold_end(e, node, loop.result[0], extent);
}

/* ---- nodes ---- */

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

static LLVMValueRef random_number(struct emit_expression *x, const struct expr *node)
{
  LLVMValueRef state = emit_i32(x->e, 0);
  for (uint32_t k = 0; k < node->arg_count; k++)
    state = emit_random_key(x->e, state, k, emit_expression(x, node->args[k]));
  return emit_random_number(x->e, node->op, state);
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
  return emit_unary(e, node, emit_expression(x, node->args[0]));
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
    emit_agree(e, parts, 3);
    return emit_select(e, parts[0], parts[1], parts[2]);
  }
  if (node->arg_count == 1)
    return unary(x, node);
  LLVMValueRef a = emit_expression(x, node->args[0]);
  LLVMValueRef b = emit_expression(x, node->args[1]);
  return emit_binary(e, node, a, b);
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
