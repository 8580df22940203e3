#include "compiler/tile/verify.h"

static bool check_arg(struct tile_verifier *v, const struct tile_op *op, const struct expr *e,
                      struct tile_value *const *operands, size_t count)
{
  if ((uint64_t)e->value.i >= count)
    return tile_reject(v, op, "$%lld in an expression over %zu operands", (long long)e->value.i,
                       count);
  struct tile_type type = operands[e->value.i]->type;
  if (type.kind != TILE_KIND_TILE && type.kind != TILE_KIND_SCALAR)
    return tile_reject(v, op, "$%lld is neither a tile nor a scalar", (long long)e->value.i);
  enum expr_type wanted = tile_element_expr_type(type.element);
  return e->type == wanted ||
         tile_reject(v, op, "$%lld is used as a %s, but the operand is %s", (long long)e->value.i,
                     expr_type_name(e->type), tile_element_name(type.element));
}

static bool check_param(struct tile_verifier *v, const struct tile_op *op, const struct expr *e)
{
  if ((uint64_t)e->value.i >= v->kernel->params.count)
    return tile_reject(v, op, "an expression names parameter %lld of %zu", (long long)e->value.i,
                       v->kernel->params.count);
  const struct tile_param *param = &v->kernel->params.items[e->value.i];
  return e->type == param->type ||
         tile_reject(v, op, "parameter '%s' is used as a %s, but declared %s", param->name,
                     expr_type_name(e->type), expr_type_name(param->type));
}

static bool check_read(struct tile_verifier *v, const struct tile_op *op, const struct expr *e)
{
  if ((uint64_t)e->value.i >= v->kernel->tensors.count)
    return tile_reject(v, op, "an expression reads tensor %lld of %zu", (long long)e->value.i,
                       v->kernel->tensors.count);
  if ((tile_op_infos[op->kind].flags & TILE_READS) == 0)
    return tile_reject(v, op, "an expression of this op cannot read tensors");
  const struct tile_tensor *tensor = &v->kernel->tensors.items[e->value.i];
  enum expr_type type = tile_read_type(tensor->element);
  if (e->arg_count != tensor->rank)
    return tile_reject(v, op, "'%s' has %u dimensions and is read with %u indices", tensor->name,
                       tensor->rank, e->arg_count);
  for (uint32_t k = 0; k < e->arg_count; k++)
    if (e->args[k]->type != EXPR_INT && e->args[k]->type != EXPR_LONG)
      return tile_reject(v, op, "an index of '%s' is no integer", tensor->name);
  return e->type == type || (e->type == EXPR_LONG && type == EXPR_INT) ||
         tile_reject(v, op, "'%s' holds %s and is read as a %s", tensor->name,
                     dtype_name(tensor->element), expr_type_name(e->type));
}

static bool check_node(struct tile_verifier *v, const struct tile_op *op, const struct expr *e,
                       struct tile_value *const *operands, size_t count)
{
  bool limits = op->kind == TILE_LIMIT_COLUMNS;
  bool is_bound_of_tile = (op->kind == TILE_FOR_SEGMENTS || limits) && e->op == EXPR_VAR &&
                          (e->value.i == (limits ? EXPR_VAR_TILE_I0 : EXPR_VAR_TILE_J0) ||
                           e->value.i == (limits ? EXPR_VAR_TILE_I1 : EXPR_VAR_TILE_J1));
  switch ((int)e->op) {
  case EXPR_ARG: return check_arg(v, op, e, operands, count);
  case EXPR_PARAM: return check_param(v, op, e);
  case EXPR_READ: return check_read(v, op, e);
  case EXPR_VAR:
    return is_bound_of_tile ||
           tile_reject(v, op, "the variable %s cannot appear in this expression",
                       expr_var_name((enum expr_var)e->value.i));
  case EXPR_MAP:
  case EXPR_RANGE_MIN:
  case EXPR_RANGE_MAX:
    return tile_reject(v, op, "'%s' cannot appear in a tile program", expr_op_name(e->op));
  }
  return true;
}

/* Pushes `e` unless this walk saw it. */
static bool push(struct tile_verifier *v, const struct tile_op *op, const struct expr *e)
{
  const struct expr_pool *pool = v->program->pool;
  if (e == NULL || e->id >= pool->nodes.count || pool->nodes.items[e->id] != e)
    return tile_reject(v, op, "an expression is missing or of another pool");
  if (v->stamps[e->id] != v->stamp) {
    v->stamps[e->id] = v->stamp;
    vector_push(v->arena, &v->stack, e);
  }
  return true;
}

static bool begin_walk(struct tile_verifier *v, const struct tile_op *op, const struct expr *e)
{
  v->stamp++;
  v->stack.count = 0;
  if (!push(v, op, e))
    return false;
  if (e->height > TILE_MAX_EXPR_HEIGHT)
    return tile_reject(v, op, "an expression more than %d operations deep",
                       (int)TILE_MAX_EXPR_HEIGHT);
  if (e->deps >> EXPR_DEP_BOUND != 0)
    return tile_reject(v, op, "an expression uses the variable of a sum outside that sum");
  return true;
}

bool tile_verify_expr(struct tile_verifier *v, const struct tile_op *op, const struct expr *e,
                      struct tile_value *const *operands, size_t count)
{
  if (!begin_walk(v, op, e))
    return false;
  while (v->stack.count > 0) {
    e = v->stack.items[--v->stack.count];
    if (!check_node(v, op, e, operands, count))
      return false;
    for (uint32_t k = 0; k < e->arg_count; k++)
      if (!push(v, op, e->args[k]))
        return false;
  }
  return true;
}

bool tile_verify_size(struct tile_verifier *v, const struct expr *e)
{
  uint64_t allowed =
      EXPR_DEP(EXPR_VAR_SIZE_B) | EXPR_DEP(EXPR_VAR_SIZE_NQ) | EXPR_DEP(EXPR_VAR_SIZE_NK);
  if (!begin_walk(v, NULL, e))
    return false;
  if (e->type != EXPR_INT)
    return tile_reject(v, NULL, "a workspace's size is no int");
  return (e->deps & ~allowed) == 0 ||
         tile_reject(v, NULL, "a workspace's size depends on more than B, NQ and NK");
}
