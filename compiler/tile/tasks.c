/* Scalars are interpreted on demand, from the extents down, with the arithmetic that folding and
 * the reference use. */
#include "compiler/tile/tasks.h"

#include "compiler/tile/abi.h"
#include "dsl/expr_fold.h"
#include "dsl/expr_scalar.h"

#include <string.h>

/* Shared subexpressions are evaluated again wherever they occur, so that nothing has to be kept;
 * the bounds end what would take long. Extents are a handful of operations. */
enum { MAX_DEPTH = 64, MAX_STEPS = 4096 };

struct interpreter {
  const struct tile_kernel *kernel;
  const int64_t *slots;
  uint32_t steps;
};

static bool evaluate(struct interpreter *in, const struct tile_op *op, const struct expr *e,
                     uint32_t depth, union expr_value *value);

static bool scalar(struct interpreter *in, const struct tile_value *v, uint32_t depth,
                   union expr_value *value)
{
  return v->def != NULL && v->def->kind == TILE_SCALAR &&
         evaluate(in, v->def, v->def->expr, depth, value);
}

static union expr_value parameter(const struct interpreter *in, const struct expr *e)
{
  const uint32_t number = (uint32_t)e->value.i;
  const int64_t slot = in->slots[tile_param_slot(in->kernel, number)];
  union expr_value value = {.i = slot};
  if (in->kernel->params.items[number].type == EXPR_FLOAT) {
    memcpy(&value.f, &slot, sizeof(value.f));
    value.f = (double)(float)value.f; /* as kernels see it */
  }
  return value;
}

static bool choose(struct interpreter *in, const struct tile_op *op, const struct expr *e,
                   uint32_t depth, union expr_value *value)
{
  union expr_value condition;
  return evaluate(in, op, e->args[0], depth + 1, &condition) &&
         evaluate(in, op, e->args[condition.i != 0 ? 1 : 2], depth + 1, value);
}

/* False where the value is not to be had from the slots alone. */
static bool evaluate(struct interpreter *in, const struct tile_op *op, const struct expr *e,
                     uint32_t depth, union expr_value *value)
{
  if (depth > MAX_DEPTH || ++in->steps > MAX_STEPS)
    return false;
  switch ((int)e->op) {
  case EXPR_CONST: value->i = e->value.i; return true;
  case EXPR_PARAM: *value = parameter(in, e); return true;
  case EXPR_ARG:
    return (uint64_t)e->value.i < op->operand_count &&
           scalar(in, op->operands[e->value.i], depth + 1, value);
  case EXPR_SELECT: return choose(in, op, e, depth, value);
  case EXPR_VAR:
  case EXPR_BOUND:
  case EXPR_MAP:
  case EXPR_HASH:
  case EXPR_UNIFORM: return false;
  }
  if (e->op <= EXPR_RANGE_MAX || expr_op_is_binder(e->op))
    return false;
  union expr_value operands[2];
  for (uint32_t k = 0; k < e->arg_count; k++) {
    if (k >= 2 || !evaluate(in, op, e->args[k], depth + 1, &operands[k]))
      return false;
  }
  const enum expr_type from = e->args[0]->type;
  const bool f32 = expr_type_is_real(from);
  if (e->op == EXPR_CONVERT)
    *value = expr_apply_convert(from, e->type, operands[0], expr_type_is_real(e->type));
  else if (e->arg_count == 1)
    *value = expr_apply_unary(e->op, from, operands[0], f32);
  else
    *value = expr_apply_binary(e->op, from, operands[0], operands[1], f32);
  return true;
}

int64_t tile_task_count(const struct tile_kernel *kernel, const int64_t *slots)
{
  const struct tile_op *parallel = kernel->body->last;
  struct interpreter in = {.kernel = kernel, .slots = slots};
  int64_t count = 1;
  bool overflow = false, empty = false;
  for (uint32_t k = 0; k < parallel->operand_count; k++) {
    union expr_value extent;
    if (!scalar(&in, parallel->operands[k], 0, &extent))
      return -1;
    empty = empty || extent.i <= 0;
    overflow = overflow || __builtin_mul_overflow(count, extent.i, &count);
  }
  return empty ? 0 : overflow ? -1 : count;
}
