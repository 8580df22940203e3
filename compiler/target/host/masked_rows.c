/* Zeros in place of rows of a product's second operand: of values at keys that no row of a tile
 * sees, which may hold NaN. Where the other rows are neighbours the product leaves those rows out,
 * and the tile is read where it lies; only rows hidden between others take a copy. */
#include "compiler/target/host/few.h"

static bool is_row_mask(const struct tile_value *mask, const struct tile_value *tile)
{
  return mask->type.kind == TILE_KIND_TILE && mask->type.element == TILE_BOOL &&
         mask->type.columns == 1 && mask->type.rows == tile->type.rows;
}

bool host_masks_rows(struct host *h, const struct tile_op *op, struct host_row_mask *found)
{
  const struct expr *e = op->kind == TILE_MAP ? op->expr : NULL;
  if (e == NULL || e->op != EXPR_SELECT || e->args[0]->op != EXPR_ARG ||
      e->args[1]->op != EXPR_ARG || e->args[2]->op != EXPR_CONST ||
      e->args[2]->type != EXPR_FLOAT || e->args[2]->value.f != 0)
    return false;
  const struct tile_value *mask = op->operands[e->args[0]->value.i], *result = op->results[0];
  const struct tile_value *tile = op->operands[e->args[1]->value.i];
  bool same = tile->type.kind == TILE_KIND_TILE && tile->type.element == result->type.element &&
              tile->type.rows == result->type.rows && tile->type.columns == result->type.columns;
  if (!same || tile->type.columns == 1 || host_is_panel(h, tile) || !is_row_mask(mask, tile))
    return false;
  const struct host_info *info = host_info(h, result);
  for (size_t k = 0; k < info->users.count; k++) {
    const struct tile_op *user = info->users.items[k];
    if (user->kind != TILE_PRODUCT || user->operands[1] != result || user->operands[0] == result ||
        user->transpose_b || few_is_product(user))
      return false;
  }
  *found = (struct host_row_mask){tile, mask};
  return true;
}

/* The rows from the first to the last where the mask is true; `*count`: how many are. */
static struct host_range true_rows(struct host *h, const struct tile_value *mask,
                                   LLVMValueRef *count)
{
  struct emit *e = &h->e;
  struct host_value place = host_as_layout(h, mask, TILE_LAYOUT_ROW_MAJOR);
  LLVMValueRef zero = emit_i64(e, 0), rows = emit_i64(e, mask->type.rows);
  LLVMValueRef start[3] = {rows, zero, zero};
  struct emit_loop loop;
  emit_loop_begin(e, &loop, zero, rows, 1, start, 3);
  LLVMValueRef on = host_element(h, mask, &place, TILE_LAYOUT_ROW_MAJOR, loop.index, zero);
  LLVMValueRef least[2] = {loop.carried[0], loop.index};
  LLVMValueRef next[3] = {
      emit_select(e, on, emit_intrinsic(e, "llvm.smin", e->i64, least, 2), loop.carried[0]),
      emit_select(e, on, LLVMBuildAdd(e->builder, loop.index, emit_i64(e, 1), ""), loop.carried[1]),
      LLVMBuildAdd(e->builder, loop.carried[2], LLVMBuildZExt(e->builder, on, e->i64, ""), "")};
  emit_loop_end(e, &loop, next);
  *count = loop.result[2];
  LLVMValueRef first[2] = {loop.result[0], loop.result[1]};
  return (struct host_range){emit_intrinsic(e, "llvm.smin", e->i64, first, 2), loop.result[1]};
}

void host_mask_rows(struct host *h, struct tile_op *op, const struct host_row_mask *masked)
{
  struct emit *e = &h->e;
  struct host_value *to = host_value(h, op->results[0]);
  const struct host_value *from = host_value(h, masked->tile);
  if (from->kind != HOST_MEMORY || host_value(h, masked->mask)->kind != HOST_MEMORY) {
    host_rowwise(h, op);
    return;
  }
  LLVMValueRef count;
  struct host_range *range = ARENA_ARRAY(h->arena, struct host_range, 1);
  *range = true_rows(h, masked->mask, &count);
  LLVMValueRef length = LLVMBuildSub(e->builder, range->end, range->first, "");
  LLVMValueRef solid = LLVMBuildICmp(e->builder, LLVMIntEQ, count, length, "");
  host_place(h, op->results[0]);
  struct emit_branch branch;
  emit_if(e, &branch, solid);
  emit_else(e, &branch);
  host_rowwise(h, op);
  emit_end_if(e, &branch);
  to->base = emit_select(e, solid, from->base, to->base);
  to->stride = emit_select(e, solid, from->stride, to->stride);
  to->needed = range;
}
