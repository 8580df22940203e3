/* Sums over keys in a loop whose keys the threads of a row divide, and several warps perhaps. As
 * long as a value is a sum of terms of which each has its own, multiplied by what all of them know,
 * they need not add up before the loop ends: of a column every thread keeps what its own elements
 * make, and the weights of a tile stay in the registers of the warp that made them and meet its own
 * rows of the second operand. */
#include "compiler/schedule/residence.h"

enum {
  MOST_REGISTERS = 128, /* of a tile whose columns a warp has all of */
  INNER_HALF = 16,      /* inner indices of a matrix instruction */
  INNER_FLOAT = 8,
  LANE_BYTES = 16 /* what a thread has of a block of 16 x 8 */
};

static uint32_t all_blocks(struct tile_type type)
{
  return (type.columns + 7) / 8;
}

static uint32_t user_count(const struct residence *r, const struct tile_value *value)
{
  return (uint32_t)r->values[value->id].users.count;
}

/* ---- what is a sum of terms ---- */

/* Of an expression over ARGs, `parts` of which (as bits) are parts of sums: 0 if it has none of
 * them, 1 if its value for a sum is the sum of its values for the parts, else 2. */
static uint32_t degree_of(const struct expr *e, uint32_t parts)
{
  enum { MOST_HEIGHT = 8 };
  if (e->op == EXPR_ARG)
    return e->value.i < 32 ? parts >> e->value.i & 1 : 2;
  if (e->height > MOST_HEIGHT)
    return 2;
  uint32_t degrees[2] = {0, 0}, most = 0;
  for (uint32_t k = 0; k < e->arg_count; k++) {
    uint32_t degree = degree_of(e->args[k], parts);
    degrees[k % 2] = degree;
    most = degree > most ? degree : most;
  }
  if (most != 1)
    return most;
  switch ((int)e->op) {
  case EXPR_NEG: return 1;
  case EXPR_ADD:
  case EXPR_SUB: return degrees[0] == degrees[1] ? 1 : 2;
  case EXPR_MUL: return degrees[0] + degrees[1];
  default: return 2;
  }
}

static bool is_fragment(const struct residence *r, const struct tile_value *value)
{
  const struct tile_op *op = value->def;
  if (op == NULL)
    return false;
  switch ((int)op->kind) {
  case TILE_PRODUCT:
  case TILE_CONTRACT: return true;
  case TILE_MAP:
  case TILE_CONVERT: break;
  default: return false;
  }
  for (uint32_t k = 0; k < op->operand_count; k++) {
    const struct tile_type type = op->operands[k]->type;
    if (type.rows > 1 && type.columns > 1 && !is_fragment(r, op->operands[k]))
      return false;
  }
  return true;
}

/* Each warp can multiply its own columns of the first operand with its own rows of the second.
 * Where warps divide rows as well, the columns were divided for want of registers. */
static bool divides_inner(const struct residence *r, const struct tile_op *product)
{
  const struct tile_value *a = product->operands[0], *result = product->results[0];
  uint32_t step = a->type.element == TILE_F32 ? INNER_FLOAT : INNER_HALF;
  uint32_t registers = 4 * residence_row_blocks(r, result->type.rows) * all_blocks(result->type);
  return r->column_warps > 1 && r->row_warps == 1 && !product->transpose_a &&
         result->type.columns > 1 && a->type.columns % (step * r->column_warps) == 0 &&
         is_fragment(r, a) && registers <= MOST_REGISTERS;
}

/* Whether the value, of `region`, may be parts of a sum where `before` is. Nothing else may read
 * what lies between. `*reached`: whether it is made of `before`. */
static bool may_be_apart(const struct residence *r, const struct tile_region *region,
                         const struct tile_value *value, const struct tile_value *before,
                         bool *reached)
{
  if (value->type.kind != TILE_KIND_TILE || value->type.element != TILE_F32 ||
      value->type.rows == 1 || user_count(r, value) != 1)
    return false;
  if (value == before)
    return *reached = true;
  const struct tile_op *op = value->def;
  if (op == NULL || op->parent != region)
    return false;
  uint32_t parts = 0;
  switch ((int)op->kind) {
  case TILE_REDUCE:
    return op->axis == 1 && op->reduction == TILE_REDUCE_SUM && op->operands[0]->type.columns > 1;
  case TILE_SCALE_ROWS: return may_be_apart(r, region, op->operands[0], before, reached);
  case TILE_PRODUCT:
    return op->operand_count == 3 && divides_inner(r, op) &&
           may_be_apart(r, region, op->operands[2], before, reached);
  case TILE_MAP:
    for (uint32_t k = 0; k < op->operand_count && value->type.columns == 1; k++)
      if (may_be_apart(r, region, op->operands[k], before, reached))
        parts |= 1u << k % 32;
    return op->operand_count <= 32 && degree_of(op->expr, parts) == 1;
  default: return false;
  }
}

static void set_apart(struct residence *r, const struct tile_region *region,
                      const struct tile_value *value, const struct tile_value *before)
{
  r->values[value->id].apart = true;
  const struct tile_op *op = value->def;
  if (value == before || op->kind == TILE_REDUCE)
    return;
  for (uint32_t k = 0; k < op->operand_count; k++) {
    bool part = op->kind == TILE_MAP || k == (op->kind == TILE_PRODUCT ? 2 : 0), reached;
    if (part && may_be_apart(r, region, op->operands[k], before, &reached))
      set_apart(r, region, op->operands[k], before);
  }
}

/* ---- loops ---- */

static bool is_zero(const struct tile_value *value)
{
  if (value->def == NULL || value->def->kind != TILE_SPLAT)
    return false;
  const struct tile_op *scalar = value->def->operands[0]->def;
  return scalar != NULL && scalar->kind == TILE_SCALAR && scalar->expr->op == EXPR_CONST &&
         scalar->expr->type == EXPR_FLOAT && scalar->expr->value.f == 0;
}

static void look_at_loop(struct residence *r, const struct tile_op *loop)
{
  const uint32_t first = loop->operand_count - loop->result_count; /* carried value */
  for (uint32_t k = 0; k < loop->result_count; k++) {
    const struct tile_value *start = loop->operands[first + k];
    bool apart = start->type.columns == 1 || is_zero(start);
    for (uint32_t n = 0; n < loop->region_count && apart; n++) {
      const struct tile_region *region = loop->regions[n];
      bool reached = false;
      apart =
          region->last->operands[k] != region->arguments[1 + k] &&
          may_be_apart(r, region, region->last->operands[k], region->arguments[1 + k], &reached) &&
          reached;
    }
    for (uint32_t n = 0; n < loop->region_count && apart; n++) {
      const struct tile_region *region = loop->regions[n];
      set_apart(r, region, region->last->operands[k], region->arguments[1 + k]);
    }
  }
}

static void look_at_region(struct residence *r, const struct tile_region *region)
{
  for (const struct tile_op *op = region->first; op != NULL; op = op->next) {
    if (op->kind == TILE_FOR || op->kind == TILE_FOR_SEGMENTS)
      look_at_loop(r, op);
    for (uint32_t k = 0; k < op->region_count; k++)
      look_at_region(r, op->regions[k]);
  }
}

void residence_find_apart(struct residence *r)
{
  look_at_region(r, r->kernel->body);
}

/* ---- the exchange after a loop ---- */

uint32_t residence_apart_bytes(const struct residence *r, struct tile_type type, uint32_t blocks)
{
  return r->row_warps * r->column_warps * r->column_warps * blocks *
         residence_row_blocks(r, type.rows) * 32 * LANE_BYTES;
}

uint32_t residence_apart_blocks(const struct residence *r, struct tile_type type,
                                uint32_t loop_bytes)
{
  const uint32_t own = residence_column_blocks(r, type.columns);
  uint32_t most = loop_bytes / residence_apart_bytes(r, type, 1);
  return most < 1 ? 1 : most > own ? own : most;
}
