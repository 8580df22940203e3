#include "compiler/tile/verify.h"

#define REJECT(...) tile_reject(v, op, __VA_ARGS__)

static struct tile_type operand_type(const struct tile_op *op, uint32_t index)
{
  return op->operands[index]->type;
}

static bool is_tile(struct tile_type type)
{
  return type.kind == TILE_KIND_TILE;
}

static bool is_scalar(struct tile_type type, enum tile_element element)
{
  return type.kind == TILE_KIND_SCALAR && type.element == element;
}

static bool is_integer_scalar(struct tile_type type)
{
  return is_scalar(type, TILE_INDEX) || is_scalar(type, TILE_I32);
}

static bool is_real(enum tile_element element)
{
  return tile_element_expr_type(element) == EXPR_FLOAT;
}

static bool is_shaped(struct tile_type type, uint32_t rows, uint32_t columns)
{
  return is_tile(type) && type.rows == rows && type.columns == columns;
}

bool tile_types_equal(struct tile_type a, struct tile_type b)
{
  return a.kind == b.kind && a.layout == b.layout && a.depth == b.depth &&
         (a.kind == TILE_KIND_TOKEN ||
          (a.element == b.element && a.rows == b.rows && a.columns == b.columns));
}

/* ---- expressions ---- */

/* An f32 may be computed in either real type: they are the same in kernels. */
static bool gives(enum expr_type type, enum tile_element element)
{
  enum expr_type wanted = tile_element_expr_type(element);
  return type == wanted || (type == EXPR_SINGLE && wanted == EXPR_FLOAT);
}

static bool check_formula(struct tile_verifier *v, const struct tile_op *op)
{
  enum tile_element element = op->results[0]->type.element;
  if (!tile_verify_expr(v, op, op->expr, op->operands, op->operand_count))
    return false;
  return gives(op->expr->type, element) ||
         REJECT("the expression is a %s, the result %s", expr_type_name(op->expr->type),
                tile_element_name(element));
}

static bool check_scalar(struct tile_verifier *v, const struct tile_op *op)
{
  for (uint32_t k = 0; k < op->operand_count; k++)
    if (operand_type(op, k).kind != TILE_KIND_SCALAR)
      return REJECT("operand %u is no scalar", k);
  if (op->results[0]->type.kind != TILE_KIND_SCALAR)
    return REJECT("the result is no scalar");
  return check_formula(v, op);
}

/* The shape that the operands have in common; false where they have none. */
static bool common_shape(struct tile_verifier *v, const struct tile_op *op, uint32_t *rows,
                         uint32_t *columns)
{
  *rows = *columns = 1;
  for (uint32_t k = 0; k < op->operand_count; k++) {
    struct tile_type type = operand_type(op, k);
    if (!is_tile(type) && type.kind != TILE_KIND_SCALAR)
      return REJECT("operand %u is neither a tile nor a scalar", k);
    if (*rows == 1)
      *rows = type.rows;
    if (*columns == 1)
      *columns = type.columns;
    if ((type.rows != 1 && type.rows != *rows) || (type.columns != 1 && type.columns != *columns))
      return REJECT("operand %u is [%u,%u] beside [%u,%u]", k, type.rows, type.columns, *rows,
                    *columns);
  }
  return true;
}

static bool check_map(struct tile_verifier *v, const struct tile_op *op)
{
  uint32_t rows, columns;
  if (!common_shape(v, op, &rows, &columns))
    return false;
  if (!is_shaped(op->results[0]->type, rows, columns))
    return REJECT("the operands make a tile [%u,%u]", rows, columns);
  return check_formula(v, op);
}

static bool check_contract(struct tile_verifier *v, const struct tile_op *op)
{
  if (op->operand_count < 2 || !is_tile(operand_type(op, 0)) || !is_tile(operand_type(op, 1)))
    return REJECT("the first two operands must be tiles");
  struct tile_type a = operand_type(op, 0), b = operand_type(op, 1);
  if (a.columns != b.columns)
    return REJECT("the operands have %u and %u columns to sum over", a.columns, b.columns);
  for (uint32_t k = 2; k < op->operand_count; k++) {
    struct tile_type type = operand_type(op, k);
    if (type.kind != TILE_KIND_SCALAR && !is_shaped(type, 1, a.columns))
      return REJECT("operand %u is neither a scalar nor [1,%u]", k, a.columns);
  }
  if (!is_shaped(op->results[0]->type, a.rows, b.rows) || !is_real(op->results[0]->type.element))
    return REJECT("the result must be f32[%u,%u]", a.rows, b.rows);
  return check_formula(v, op);
}

static bool check_check(struct tile_verifier *v, const struct tile_op *op)
{
  uint32_t rows, columns;
  if (!common_shape(v, op, &rows, &columns) ||
      !tile_verify_expr(v, op, op->expr, op->operands, op->operand_count) ||
      !tile_verify_expr(v, op, op->expr2, op->operands, op->operand_count))
    return false;
  if (op->expr->type != EXPR_BOOL)
    return REJECT("the condition is a %s, not a bool", expr_type_name(op->expr->type));
  if (op->expr2->type != EXPR_INT && op->expr2->type != EXPR_LONG)
    return REJECT("the index is a %s, not an int or a long", expr_type_name(op->expr2->type));
  return op->site < v->kernel->sites.count ||
         REJECT("the kernel has %zu fault sites", v->kernel->sites.count);
}

/* ---- memory ---- */

static bool check_dims(struct tile_verifier *v, const struct tile_op *op, struct tile_type tile,
                       uint32_t rank)
{
  const struct tile_access *access = &op->access;
  bool grouped = access->group_dim != TILE_NO_DIM;
  uint8_t dims[] = {access->row_dim, access->group_dim, access->column_dim};
  for (int k = 0; k < 3; k++) {
    if (dims[k] != TILE_NO_DIM && dims[k] >= rank)
      return REJECT("dimension %u of a tensor of rank %u", dims[k], rank);
    if (dims[k] != TILE_NO_DIM && (dims[k] == dims[(k + 1) % 3] || dims[k] == dims[(k + 2) % 3]))
      return REJECT("dimension %u is named twice", dims[k]);
  }
  if (access->row_group < 1 || (!grouped && access->row_group != 1))
    return REJECT("a group of %u rows", access->row_group);
  if (access->row_dim == TILE_NO_DIM && tile.rows > access->row_group && !tile_has_row_indices(op))
    return REJECT("%u rows along no dimension", tile.rows);
  if (access->column_dim == TILE_NO_DIM && tile.columns != 1)
    return REJECT("%u columns along no dimension", tile.columns);
  return true;
}

/* Index number `dim`, which is a tile. */
static bool check_row_indices(struct tile_verifier *v, const struct tile_op *op, uint32_t dim,
                              struct tile_type indices, struct tile_type tile)
{
  const struct tile_access *access = &op->access;
  if (op->kind != TILE_LOAD && op->kind != TILE_STORE)
    return REJECT("index %u is a tile, which only load and store take", dim);
  if (!is_shaped(indices, tile.rows, 1) || indices.element != TILE_I32)
    return REJECT("index %u must be a scalar or i32[%u,1]", dim, tile.rows);
  if (access->row_dim == dim || access->column_dim == dim)
    return REJECT("%s run along dimension %u, whose index is a tile",
                  access->row_dim == dim ? "rows" : "columns", dim);
  return access->group_dim == TILE_NO_DIM ||
         REJECT("index %u is a tile, which cannot be used with a group", dim);
}

/* Whether elements of a tensor become those of a tile, or the reverse where the op stores. */
static bool converts(enum tile_op_kind kind, enum dtype stored, enum tile_element element)
{
  bool code = stored == DTYPE_U8 || stored == DTYPE_I8 || stored == DTYPE_I4 || stored == DTYPE_I2;
  return tile_element_expr_type(element) == tile_read_type(stored) ||
         (kind == TILE_LOAD && code && is_real(element));
}

/* The operands from `first` on and the access; the elements that move are those of `tile`. */
static bool check_access(struct tile_verifier *v, const struct tile_op *op, struct tile_type tile)
{
  uint32_t first = tile_first_index(op->kind);
  if (op->access.tensor >= v->kernel->tensors.count)
    return REJECT("there is no tensor %u", op->access.tensor);
  const struct tile_tensor *tensor = &v->kernel->tensors.items[op->access.tensor];
  if (op->operand_count != first + tensor->rank + 2)
    return REJECT("'%s' has %u dimensions: that many indices and two live counts are needed",
                  tensor->name, tensor->rank);
  for (uint32_t k = first; k < op->operand_count; k++) {
    bool live = k >= first + tensor->rank;
    struct tile_type type = operand_type(op, k);
    if (live && !is_scalar(type, TILE_INDEX))
      return REJECT("a live count must be an index");
    if (!live && is_tile(type) && !check_row_indices(v, op, k - first, type, tile))
      return false;
    if (!live && !is_tile(type) && !is_integer_scalar(type))
      return REJECT("index %u must be an index or i32 scalar", k - first);
  }
  if (!converts(op->kind, tensor->element, tile.element))
    return REJECT("%s elements of the %s tensor '%s'", tile_element_name(tile.element),
                  dtype_name(tensor->element), tensor->name);
  if ((op->kind == TILE_STORE || op->kind == TILE_ACCUMULATE) && !tensor->written)
    return REJECT("'%s' is not declared written", tensor->name);
  return check_dims(v, op, tile, tensor->rank);
}

static bool check_store(struct tile_verifier *v, const struct tile_op *op)
{
  if (op->operand_count < 1 || !is_tile(operand_type(op, 0)))
    return REJECT("the first operand must be a tile");
  if (op->kind == TILE_ACCUMULATE && operand_type(op, 0).element == TILE_BOOL)
    return REJECT("bools cannot be added");
  return check_access(v, op, operand_type(op, 0));
}

/* ---- arithmetic on tiles ---- */

static bool check_product(struct tile_verifier *v, const struct tile_op *op)
{
  if (op->operand_count < 2 || op->operand_count > 3)
    return REJECT("two operands and at most one accumulator are needed");
  struct tile_type a = operand_type(op, 0), b = operand_type(op, 1);
  if (!is_tile(a) || !is_tile(b) || !is_real(a.element) || a.element != b.element)
    return REJECT("the operands must be tiles of one real type");
  uint32_t rows = op->transpose_a ? a.columns : a.rows;
  uint32_t inner = op->transpose_a ? a.rows : a.columns;
  uint32_t columns = op->transpose_b ? b.rows : b.columns;
  uint32_t inner_b = op->transpose_b ? b.columns : b.rows;
  if (inner != inner_b)
    return REJECT("[%u,%u] times [%u,%u]", rows, inner, inner_b, columns);
  struct tile_type result = op->results[0]->type;
  if (!is_shaped(result, rows, columns) || result.element != TILE_F32)
    return REJECT("the result must be f32[%u,%u]", rows, columns);
  bool has_accumulator = op->operand_count == 3;
  struct tile_type sum = has_accumulator ? operand_type(op, 2) : result;
  return (is_shaped(sum, rows, columns) && sum.element == TILE_F32) ||
         REJECT("the accumulator must be f32[%u,%u]", rows, columns);
}

static bool check_reduction(struct tile_verifier *v, const struct tile_op *op)
{
  struct tile_type x = operand_type(op, 0), result = op->results[0]->type;
  bool logical = op->reduction == TILE_REDUCE_ANY || op->reduction == TILE_REDUCE_ALL;
  if (op->axis > 1 || op->reduction > TILE_REDUCE_ALL)
    return REJECT("axis 0 runs along rows, axis 1 along columns");
  if (!is_tile(x) || (x.element == TILE_BOOL) != logical)
    return REJECT("any and all need a tile of bools, the others one of numbers");
  bool scan = op->kind == TILE_SCAN;
  uint32_t rows = !scan && op->axis == 0 ? 1 : x.rows;
  uint32_t columns = !scan && op->axis == 1 ? 1 : x.columns;
  return (is_shaped(result, rows, columns) && result.element == x.element) ||
         REJECT("the result must be %s[%u,%u]", tile_element_name(x.element), rows, columns);
}

static bool check_permute(struct tile_verifier *v, const struct tile_op *op)
{
  struct tile_type x = operand_type(op, 0), result = op->results[0]->type;
  if (!is_tile(x) || !is_shaped(result, x.rows, result.columns) || result.element != x.element)
    return REJECT("the operand and the result must be tiles of one element type and as many rows");
  if (op->permutation == NULL)
    return REJECT("there is no table");
  for (uint32_t k = 0; k < result.columns; k++)
    if (op->permutation[k] >= x.columns)
      return REJECT("column %u comes from column %u of %u", k, op->permutation[k], x.columns);
  return true;
}

static bool check_solve(struct tile_verifier *v, const struct tile_op *op)
{
  struct tile_type a = operand_type(op, 0), b = operand_type(op, 1), x = op->results[0]->type;
  bool typed = a.element == TILE_F32 && b.element == TILE_F32 && x.element == TILE_F32;
  return (typed && is_tile(b) && is_shaped(a, b.rows, b.rows) && is_shaped(x, b.rows, b.columns)) ||
         REJECT("the operands must be f32[M,M] and f32[M,N], the result f32[M,N]");
}

static bool check_scale_rows(struct tile_verifier *v, const struct tile_op *op)
{
  struct tile_type x = operand_type(op, 0), factor = operand_type(op, 1);
  if (!is_tile(x) || !is_real(x.element) || !is_shaped(factor, x.rows, 1) ||
      !is_real(factor.element))
    return REJECT("the operands must be real tiles [M,N] and [M,1]");
  return tile_types_equal(x, op->results[0]->type) || REJECT("the result must be as the operand");
}

/* splat, iota, broadcast, transpose and convert: one operand, another type. */
static bool check_shape_op(struct tile_verifier *v, const struct tile_op *op)
{
  struct tile_type x = operand_type(op, 0), result = op->results[0]->type;
  bool same = x.element == result.element;
  if (!is_tile(result))
    return REJECT("the result must be a tile");
  switch ((int)op->kind) {
  case TILE_SPLAT:
    return (x.kind == TILE_KIND_SCALAR && same) ||
           REJECT("the operand must be a scalar of that type");
  case TILE_IOTA:
    return (is_integer_scalar(x) && result.element == TILE_I32 &&
            (result.rows == 1 || result.columns == 1)) ||
           REJECT("an index or i32 scalar makes an i32 tile with one row or one column");
  case TILE_BROADCAST:
    return (is_tile(x) && same && (x.rows == 1 || x.rows == result.rows) &&
            (x.columns == 1 || x.columns == result.columns)) ||
           REJECT("only axes of size 1 can grow");
  case TILE_TRANSPOSE:
    return (is_shaped(x, result.columns, result.rows) && same) ||
           REJECT("the result must be %s[%u,%u]", tile_element_name(x.element), x.columns, x.rows);
  }
  return is_shaped(x, result.rows, result.columns) || REJECT("a conversion keeps the shape");
}

/* ---- staged ---- */

static bool check_slot(struct tile_verifier *v, const struct tile_op *op, uint32_t first)
{
  if (op->operand_count < first + 2 || operand_type(op, first).kind != TILE_KIND_BUFFER)
    return REJECT("operand %u must be a buffer", first);
  return is_integer_scalar(operand_type(op, first + 1)) ||
         REJECT("a slot is an index or i32 scalar");
}

static bool check_moved(struct tile_verifier *v, const struct tile_op *op, struct tile_type tile,
                        struct tile_type buffer)
{
  return (is_shaped(tile, buffer.rows, buffer.columns) && tile.element == buffer.element) ||
         REJECT("a slot of the buffer is %s[%u,%u]", tile_element_name(buffer.element), buffer.rows,
                buffer.columns);
}

static bool check_staged(struct tile_verifier *v, const struct tile_op *op)
{
  switch ((int)op->kind) {
  case TILE_BUFFER:
    return op->results[0]->type.kind == TILE_KIND_BUFFER || REJECT("the result must be a buffer");
  case TILE_COPY_ASYNC:
    if (op->results[0]->type.kind != TILE_KIND_TOKEN)
      return REJECT("the result must be a token");
    return check_slot(v, op, 0) && check_access(v, op, operand_type(op, 0));
  case TILE_PRODUCT_ASYNC:
    if (op->results[1]->type.kind != TILE_KIND_TOKEN)
      return REJECT("the second result must be a token");
    return check_product(v, op);
  case TILE_WAIT:
    for (uint32_t k = 0; k < op->operand_count; k++)
      if (operand_type(op, k).kind != TILE_KIND_TOKEN)
        return REJECT("operand %u is no token", k);
    return op->operand_count > 0 || REJECT("nothing to wait for");
  case TILE_BUFFER_LOAD:
    return check_slot(v, op, 0) && check_moved(v, op, op->results[0]->type, operand_type(op, 0));
  case TILE_BUFFER_STORE:
    return check_slot(v, op, 1) && check_moved(v, op, operand_type(op, 0), operand_type(op, 1));
  case TILE_ROLE:
    if (op->warps < 1 || op->warps > 32)
      return REJECT("a role has 1 to 32 warps");
    return op->registers == 0 ||
           (op->registers % 8 == 0 && op->registers >= 24 && op->registers <= 256) ||
           REJECT("registers are 0 (any) or a multiple of 8 from 24 to 256");
  case TILE_BARRIER: return true;
  }
  return check_slot(v, op, 0); /* the pipe's ops */
}

/* ---- any op ---- */

static bool check_type(struct tile_verifier *v, const struct tile_op *op, struct tile_type type)
{
  if (type.kind > TILE_KIND_TOKEN || type.element > TILE_BOOL ||
      type.layout > TILE_LAYOUT_LANE_COLUMNS)
    return REJECT("a type that does not exist");
  if (type.kind == TILE_KIND_TOKEN)
    return true;
  if (type.kind == TILE_KIND_SCALAR)
    return (type.rows == 1 && type.columns == 1 && type.layout == TILE_LAYOUT_NONE) ||
           REJECT("a scalar has one row, one column and no layout");
  if (type.element == TILE_INDEX)
    return REJECT("only scalars are of type index");
  if (type.rows < 1 || type.rows > TILE_MAX_SIDE || type.columns < 1 ||
      type.columns > TILE_MAX_SIDE || type.rows * type.columns > TILE_MAX_ELEMENTS)
    return REJECT("tiles have 1 to %d rows and columns and at most %d elements", (int)TILE_MAX_SIDE,
                  (int)TILE_MAX_ELEMENTS);
  return type.kind == TILE_KIND_TILE || (type.depth >= 1 && type.depth <= 64) ||
         REJECT("a buffer has 1 to 64 slots");
}

static bool check_limit_columns(struct tile_verifier *v, const struct tile_op *op)
{
  if (op->operand_count == 0 || !is_tile(operand_type(op, 0)))
    return REJECT("the first operand must be a tile");
  const struct tile_op *def = op->operands[0]->def;
  if (def == NULL || def->parent != op->parent)
    return REJECT("the tile must be made in the same region");
  uint32_t count = tile_limit_operands(op);
  for (uint32_t k = 1; k <= count; k++)
    if (operand_type(op, k).kind != TILE_KIND_SCALAR)
      return REJECT("operand %u is no scalar", k);
  struct tile_type tile = operand_type(op, 0), mask = operand_type(op, op->operand_count - 1);
  if (op->masked && (!is_shaped(mask, tile.rows, tile.columns) || mask.element != TILE_BOOL))
    return REJECT("the mask must be bool[%u,%u]", tile.rows, tile.columns);
  if (!tile_verify_expr(v, op, op->expr, op->operands + 1, count) ||
      !tile_verify_expr(v, op, op->expr2, op->operands + 1, count))
    return false;
  return (op->expr->type == EXPR_LONG && op->expr2->type == EXPR_LONG) ||
         REJECT("the columns must be longs");
}

static bool check_counts(struct tile_verifier *v, const struct tile_op *op)
{
  const struct tile_op_info *info = &tile_op_infos[op->kind];
  if (info->operands >= 0 && op->operand_count != (uint32_t)info->operands)
    return REJECT("%u operands instead of %d", op->operand_count, info->operands);
  if (info->results >= 0 && op->result_count != (uint32_t)info->results)
    return REJECT("%u results instead of %d", op->result_count, info->results);
  if (op->region_count != (uint32_t)info->regions)
    return REJECT("%u regions instead of %d", op->region_count, info->regions);
  for (uint32_t k = 0; k < op->result_count; k++)
    if (!check_type(v, op, op->results[k]->type))
      return false;
  return true;
}

bool tile_verify_op(struct tile_verifier *v, const struct tile_op *op)
{
  if (!check_counts(v, op))
    return false;
  switch (op->kind) {
  case TILE_SCALAR: return check_scalar(v, op);
  case TILE_LIMIT_ROWS:
    if (op->rows < 1 || op->rows > TILE_MAX_SIDE)
      return REJECT("tiles have 1 to %d rows", (int)TILE_MAX_SIDE);
    return is_scalar(operand_type(op, 0), TILE_INDEX) || REJECT("a live count must be an index");
  case TILE_LIMIT_COLUMNS: return check_limit_columns(v, op);
  case TILE_SPLAT:
  case TILE_IOTA:
  case TILE_BROADCAST:
  case TILE_TRANSPOSE:
  case TILE_CONVERT: return check_shape_op(v, op);
  case TILE_LOAD:
    if (!is_tile(op->results[0]->type))
      return REJECT("the result must be a tile");
    return check_access(v, op, op->results[0]->type);
  case TILE_STORE:
  case TILE_ACCUMULATE: return check_store(v, op);
  case TILE_PRODUCT: return check_product(v, op);
  case TILE_CONTRACT: return check_contract(v, op);
  case TILE_MAP: return check_map(v, op);
  case TILE_CHECK: return check_check(v, op);
  case TILE_REDUCE:
  case TILE_SCAN: return check_reduction(v, op);
  case TILE_SCALE_ROWS: return check_scale_rows(v, op);
  case TILE_PERMUTE: return check_permute(v, op);
  case TILE_TRIANGULAR_SOLVE: return check_solve(v, op);
  case TILE_BUFFER:
  case TILE_COPY_ASYNC:
  case TILE_PRODUCT_ASYNC:
  case TILE_WAIT:
  case TILE_PIPE_ACQUIRE:
  case TILE_PIPE_COMMIT:
  case TILE_PIPE_WAIT:
  case TILE_PIPE_RELEASE:
  case TILE_BUFFER_LOAD:
  case TILE_BUFFER_STORE:
  case TILE_ROLE:
  case TILE_BARRIER: return check_staged(v, op);
  case TILE_PARALLEL: /* control is verify.c's */
  case TILE_FOR:
  case TILE_FOR_SEGMENTS:
  case TILE_IF:
  case TILE_YIELD:
  case TILE_OP_COUNT: return true;
  }
  return true;
}
