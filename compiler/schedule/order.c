#include "compiler/schedule/order.h"

static bool narrows(const struct tile_op *op)
{
  if (op->kind == TILE_REDUCE)
    return op->reduction == TILE_REDUCE_ANY || op->reduction == TILE_REDUCE_ALL;
  if (op->kind != TILE_CONVERT)
    return false;
  enum tile_element from = op->operands[0]->type.element, to = op->results[0]->type.element;
  return from == TILE_F32 && (to == TILE_F16 || to == TILE_BF16);
}

static void move_behind(struct tile_op *op, struct tile_op *place)
{
  if (op->previous == place)
    return;
  struct tile_region *region = op->parent;
  op->previous->next = op->next;
  if (op->next != NULL)
    op->next->previous = op->previous;
  else
    region->last = op->previous;
  op->previous = place;
  op->next = place->next;
  op->next->previous = op; /* which is there: `op` came after */
  place->next = op;
}

static bool reads(const struct tile_op *op, const struct tile_value *value)
{
  for (uint32_t k = 0; k < op->operand_count; k++)
    if (op->operands[k] == value)
      return true;
  for (uint32_t r = 0; r < op->region_count; r++)
    for (const struct tile_op *inner = op->regions[r]->first; inner != NULL; inner = inner->next)
      if (reads(inner, value))
        return true;
  return false;
}

/* The op that made the operand, or for a conversion the last to read it before. */
static struct tile_op *last_before(const struct tile_op *op)
{
  const struct tile_value *operand = op->operands[0];
  for (struct tile_op *other = op->previous; other != NULL; other = other->previous)
    if (other == operand->def || (op->kind == TILE_CONVERT && reads(other, operand)))
      return other;
  return NULL;
}

static void order_region(struct tile_region *region)
{
  struct tile_op *next;
  for (struct tile_op *op = region->first; op != NULL; op = next) {
    next = op->next;
    struct tile_op *place = narrows(op) ? last_before(op) : NULL;
    if (place != NULL)
      move_behind(op, place);
    for (uint32_t r = 0; r < op->region_count; r++)
      order_region(op->regions[r]);
  }
}

void order_narrow_early(struct tile_program *program)
{
  for (size_t k = 0; k < program->kernels.count; k++)
    order_region(program->kernels.items[k]->body);
}
