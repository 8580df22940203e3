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
  if (op->previous == place || op == place)
    return;
  struct tile_region *region = op->parent;
  *(op->previous != NULL ? &op->previous->next : &region->first) = op->next;
  *(op->next != NULL ? &op->next->previous : &region->last) = op->previous;
  op->previous = place;
  op->next = place->next;
  *(op->next != NULL ? &op->next->previous : &region->last) = op;
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

/* The op that made the operand, or for a conversion the last to read it before. A reduction goes
 * behind a map right there, too: a target may make a mask together with the map that reads it. */
static struct tile_op *last_before(const struct tile_op *op)
{
  const struct tile_value *operand = op->operands[0];
  for (struct tile_op *other = op->previous; other != NULL; other = other->previous) {
    const bool beside = other->kind == TILE_MAP && other->previous == operand->def;
    if (other == operand->def || ((op->kind == TILE_CONVERT || beside) && reads(other, operand)))
      return other;
  }
  return NULL;
}

/* A mask, or a part of one, that is made of less than a tile, and in few registers. */
static bool is_mask(const struct tile_op *op)
{
  enum { HEIGHT = 4 }; /* operations on top of each other */
  bool mask = op->kind == TILE_MAP && op->results[0]->type.element == TILE_BOOL &&
              op->expr->height <= HEIGHT;
  for (uint32_t k = 0; mask && k < op->operand_count; k++) {
    const struct tile_type type = op->operands[k]->type;
    mask = type.kind != TILE_KIND_TILE || type.rows == 1 || type.columns == 1;
  }
  return mask;
}

/* The op before the first one that reads the result, writes to a tensor or ends the region. */
static struct tile_op *last_unread(struct tile_op *op)
{
  struct tile_op *place = op;
  for (struct tile_op *other = op->next; other != NULL; other = other->next) {
    const bool ends =
        other->kind == TILE_STORE || other->kind == TILE_ACCUMULATE || other->kind == TILE_YIELD;
    if (ends || reads(other, op->results[0]))
      break;
    place = other;
  }
  return place;
}

/* From the last on, so that a mask takes its parts along. */
static void delay_masks(struct tile_region *region)
{
  struct tile_op *previous;
  for (struct tile_op *op = region->last; op != NULL; op = previous) {
    previous = op->previous;
    if (is_mask(op))
      move_behind(op, last_unread(op));
  }
}

static bool has_float_product(const struct tile_region *region)
{
  bool has = false;
  for (const struct tile_op *op = region->first; op != NULL && !has; op = op->next) {
    has = op->kind == TILE_PRODUCT && op->operands[0]->type.element == TILE_F32;
    for (uint32_t k = 0; k < op->region_count && !has; k++)
      has = has_float_product(op->regions[k]);
  }
  return has;
}

static void order_region(struct tile_region *region, bool masks)
{
  struct tile_op *next;
  if (masks)
    delay_masks(region);
  for (struct tile_op *op = region->first; op != NULL; op = next) {
    next = op->next;
    struct tile_op *place = narrows(op) ? last_before(op) : NULL;
    if (place != NULL)
      move_behind(op, place);
    for (uint32_t r = 0; r < op->region_count; r++)
      order_region(op->regions[r], masks);
  }
}

/* Beside products of f32, which take twice the registers, masks stay where they are: made late,
 * they meet what the product after them splits. */
void order_narrow_early(struct tile_program *program)
{
  for (size_t k = 0; k < program->kernels.count; k++) {
    struct tile_region *body = program->kernels.items[k]->body;
    order_region(body, !has_float_product(body));
  }
}
