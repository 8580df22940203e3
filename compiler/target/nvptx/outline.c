/* Large expressions as functions: a thread evaluates an expression for each of its elements, and
 * code for each of them would be longer than the rest of the kernel. */
#include "compiler/target/nvptx/lower.h"

#include <string.h>

/* Instructions of one evaluation, roughly. */
static uint32_t cost_of(const struct expr *e)
{
  uint32_t cost = 1;
  switch ((int)e->op) {
  case EXPR_EXP:
  case EXPR_EXP2: cost = e->type == EXPR_SINGLE ? 100 : 4; break;
  case EXPR_SIN: /* of rotations */
  case EXPR_COS: cost = e->type == EXPR_SINGLE ? 100 : 4; break;
  case EXPR_TANH:
  case EXPR_ERF:
  case EXPR_SIGMOID:
  case EXPR_LOG:
  case EXPR_LOG2: cost = e->type == EXPR_SINGLE ? 100 : 20; break;
  case EXPR_POW:
  case EXPR_HASH:
  case EXPR_UNIFORM: cost = 100; break;
  case EXPR_DIV: cost = 10; break;
  case EXPR_FLOORDIV:
  case EXPR_MOD: cost = 15; break;
  }
  for (uint32_t k = 0; k < e->arg_count && cost < 4096; k++)
    cost += cost_of(e->args[k]);
  return cost;
}

static bool is_in_loop(const struct tile_op *op)
{
  for (; op != NULL; op = op->parent->parent)
    if (op->kind == TILE_FOR || op->kind == TILE_FOR_SEGMENTS)
      return true;
  return false;
}

enum {
  INLINE_COST = 3000,      /* instructions of all elements that are repeated outside of loops */
  INLINE_LOOP_COST = 12000 /* and within, where a call costs more than it saves */
};

/* A function sees its arguments alone: neither the launch's nor tensors. */
static bool is_closed(const struct expr *e)
{
  return (e->deps & (EXPR_DEP(EXPR_DEP_READ) | EXPR_DEP(EXPR_DEP_PARAM))) == 0;
}

static LLVMValueRef argument(void *user, uint32_t index)
{
  return LLVMGetParam(((struct gpu *)user)->e->function, index);
}

static LLVMTypeRef argument_type(struct gpu *g, const struct tile_value *value)
{
  return emit_expr_type(g->e, tile_element_expr_type(value->type.element));
}

bool gpu_outline(struct gpu *g, const struct tile_op *op, uint32_t count,
                 struct gpu_function *function)
{
  struct emit *e = g->e;
  if (!is_closed(op->expr))
    return false;
  uint64_t cost = (uint64_t)cost_of(op->expr) * count;
  if (cost <= (is_in_loop(op) ? INLINE_LOOP_COST : INLINE_COST))
    return false;
  LLVMTypeRef *types = ARENA_ARRAY(g->arena, LLVMTypeRef, op->operand_count + 1);
  for (uint32_t k = 0; k < op->operand_count; k++)
    types[k] = argument_type(g, op->operands[k]);
  LLVMTypeRef result = emit_expr_type(e, op->expr->type);
  function->type = LLVMFunctionType(result, types, op->operand_count, false);

  LLVMBasicBlockRef here = LLVMGetInsertBlock(e->builder), entry = e->entry;
  LLVMValueRef outer = e->function;
  emit_function(e, arena_format(g->arena, "%s_map_%u", g->kernel->name, op->results[0]->id),
                function->type, false);
  static const char noinline_name[] = "noinline";
  unsigned kind = LLVMGetEnumAttributeKindForName(noinline_name, strlen(noinline_name));
  LLVMAddAttributeAtIndex(e->function, (LLVMAttributeIndex)LLVMAttributeFunctionIndex,
                          LLVMCreateEnumAttribute(e->context, kind, 0));
  function->function = e->function;
  emit_expression_reset(&g->expression);
  g->expression.operand = argument;
  g->expression.user = g;
  LLVMBuildRet(e->builder, emit_expression(&g->expression, op->expr));
  emit_expression_reset(&g->expression);
  e->function = outer;
  e->entry = entry;
  LLVMPositionBuilderAtEnd(e->builder, here);
  return true;
}

LLVMValueRef gpu_call(struct gpu *g, const struct gpu_function *function, const struct tile_op *op,
                      uint32_t r, uint32_t c)
{
  LLVMValueRef *arguments = ARENA_ARRAY(g->arena, LLVMValueRef, op->operand_count + 1);
  for (uint32_t k = 0; k < op->operand_count; k++)
    arguments[k] = gpu_element(g, op->operands[k], r, c);
  return LLVMBuildCall2(g->e->builder, function->type, function->function, arguments,
                        op->operand_count, "");
}
