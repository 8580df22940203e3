/* Private to the host target: where an access lies in memory (place.c), for the files that walk
 * over tensors. */
#ifndef ATTN_COMPILER_TARGET_HOST_PLACE_H
#define ATTN_COMPILER_TARGET_HOST_PLACE_H

#include "compiler/target/host/lower.h"

/* A dimension in which every row has an index of its own: that of row m is element m - first of a
 * tile. */
struct place_gather {
  const struct tile_value *value;
  struct host_value at;
  LLVMValueRef first; /* i64 */
  LLVMValueRef stride;
};

/* A tensor access with its operands evaluated. All i64. */
struct place {
  enum dtype stored;
  LLVMTypeRef type;
  LLVMValueRef base;
  LLVMValueRef offset; /* elements from `base` to row 0, where several share a byte; else NULL */
  LLVMValueRef row_stride, group_stride, column_stride;
  uint32_t row_group;
  struct place_gather gathers[SPEC_MAX_RANK];
  uint32_t gather_count;
  LLVMValueRef live_rows, live_columns; /* no more than the tile has; may be negative */
};

/* Of a load, store or accumulate of `tile`. `panel`: the panel at hand where the tile is in panels
 * of a group, whose rows alone are asked for then; else NULL. */
struct place place_locate(struct host *h, const struct tile_op *op, struct tile_type tile,
                          LLVMValueRef panel);
/* Where row m of the tile begins in memory; m must be live. Where several elements share a byte and
 * columns do not run along the last dimension, row m begins at element place_skip from there. */
LLVMValueRef place_row(struct host *h, const struct place *place, LLVMValueRef m);
LLVMValueRef place_skip(struct host *h, const struct place *place, LLVMValueRef m);
/* Whether row m lies at m times row_stride, where it is live. */
static inline bool place_is_even(const struct place *place)
{
  return place->row_group == 1 && place->gather_count == 0;
}
/* Elements of a row are neighbours. */
static inline bool place_is_contiguous(const struct place *place)
{
  return LLVMIsAConstantInt(place->column_stride) != NULL &&
         LLVMConstIntGetSExtValue(place->column_stride) == 1;
}
/* The element at `column` (i64) of the row that begins at `row`, or as many as a vector has from
 * there on, as a tile of type `element` holds them. A vector's column is a multiple of its lanes.
 */
LLVMValueRef place_load(struct host *h, const struct place *place, enum tile_element element,
                        LLVMValueRef row, LLVMValueRef column, bool vector);
/* Writes one element or a vector of them, given as a tile of type `element` holds them. */
void place_store(struct host *h, const struct place *place, LLVMValueRef row, LLVMValueRef column,
                 LLVMValueRef value);

#endif
