/* Loads and stores between tensors and tiles. */
#include "compiler/target/host/few.h"
#include "compiler/target/host/transfer.h"

/* ---- loads ---- */

void host_load_panel(struct host *h, const struct tile_op *op, LLVMValueRef panel)
{
  struct emit *e = &h->e;
  const struct tile_value *value = op->results[0];
  struct place place = place_locate(h, op, value->type, panel);
  LLVMTypeRef memory = host_element_type(h, value->type.element);
  LLVMValueRef base = host_panel_base(h, value, panel);
  LLVMValueRef first = LLVMBuildMul(e->builder, panel, emit_i64(e, h->panel_rows), "");
  struct emit_loop parts;
  emit_loop_begin(e, &parts, emit_i64(e, 0), emit_i64(e, h->panel_rows), e->lanes, NULL, 0);
  host_transfer_load_lanes(h, &place, value->type, LLVMBuildAdd(e->builder, first, parts.index, ""),
                           emit_address(e, memory, base, parts.index));
  emit_loop_end(e, &parts, NULL);
}

/* Whether memory itself can stand for the tile: nothing but products reads it, one element at a
 * time, perhaps without some of its rows. */
static bool can_view(struct host *h, const struct tile_op *op, const struct place *place)
{
  const struct tile_value *value = op->results[0];
  if (place->stored != DTYPE_F32 || value->type.element != TILE_F32 || !place_is_even(place) ||
      value->type.rows == 1)
    return false;
  if (!place_is_contiguous(place))
    return false;
  const struct host_info *info = host_info(h, value);
  for (size_t k = 0; k < info->users.count; k++) {
    const struct tile_op *user = info->users.items[k];
    struct host_row_mask masked;
    if (host_masks_rows(h, user, &masked) && masked.tile == value &&
        value->type.columns % h->e.lanes == 0) /* it reads whole vectors */
      continue;
    if (user->kind != TILE_PRODUCT || user->operands[1] != value || user->operands[0] == value ||
        few_is_product(user)) /* these read whole vectors, see few_view */
      return false;
  }
  return true;
}

/* A column is contiguous in our buffer. */
static void load_column(struct host *h, const struct tile_op *op, const struct place *place,
                        const struct host_value *to)
{
  struct emit *e = &h->e;
  struct tile_type type = op->results[0]->type;
  int64_t padded = (type.rows + h->panel_rows - 1) / h->panel_rows * h->panel_rows;
  LLVMValueRef any = LLVMBuildICmp(e->builder, LLVMIntSGT, place->live_columns, emit_i64(e, 0), "");
  LLVMValueRef count = emit_select(e, any, place->live_rows, emit_i64(e, 0));
  if (place_is_even(place)) {
    struct place turned = *place;
    turned.column_stride = place->row_stride;
    struct host_rows row = {to->base, emit_i64(e, 1), count, 1, padded};
    host_transfer_rows(h, &turned, type.element, emit_i64(e, 0), &row);
    return;
  }
  struct emit_loop rows;
  emit_loop_begin(e, &rows, emit_i64(e, 0), emit_i64(e, padded), 1, NULL, 0);
  LLVMValueRef live = LLVMBuildICmp(e->builder, LLVMIntSLT, rows.index, count, "");
  LLVMValueRef at = emit_address(e, host_element_type(h, type.element), to->base, rows.index);
  struct host_rows one = {at, LLVMBuildZExt(e->builder, live, e->i64, ""), emit_i64(e, 1), 1, 1};
  /* An address is not formed from a row that is not there. */
  host_transfer_rows(h, place, type.element, emit_select(e, live, rows.index, emit_i64(e, 0)),
                     &one);
  emit_loop_end(e, &rows, NULL);
}

static void load_rows(struct host *h, const struct tile_op *op, const struct place *place,
                      const struct host_value *to)
{
  struct emit *e = &h->e;
  struct tile_type type = op->results[0]->type;
  if (type.columns == 1) {
    load_column(h, op, place, to);
    return;
  }
  const uint32_t stride = host_row_stride(h, type);
  struct host_rows all = {to->base, place->live_rows, place->live_columns, type.rows, stride};
  if (place_is_even(place) && place->offset == NULL) {
    host_transfer_rows(h, place, type.element, emit_i64(e, 0), &all);
    return;
  }
  struct emit_loop rows;
  emit_loop_begin(e, &rows, emit_i64(e, 0), emit_i64(e, type.rows), 1, NULL, 0);
  LLVMValueRef live = LLVMBuildICmp(e->builder, LLVMIntSLT, rows.index, place->live_rows, "");
  LLVMValueRef at = LLVMBuildMul(e->builder, rows.index, emit_i64(e, stride), "");
  struct host_rows one = {emit_address(e, host_element_type(h, type.element), to->base, at),
                          LLVMBuildZExt(e->builder, live, e->i64, ""), place->live_columns, 1,
                          stride};
  host_transfer_rows(h, place, type.element, emit_select(e, live, rows.index, emit_i64(e, 0)),
                     &one);
  emit_loop_end(e, &rows, NULL);
}

void host_load(struct host *h, const struct tile_op *op)
{
  struct emit *e = &h->e;
  const struct tile_value *value = op->results[0];
  struct place place = place_locate(h, op, value->type, NULL);
  if (few_view(h, op, &place))
    return;
  host_place(h, value);
  struct host_value *to = host_value(h, value);
  if (!can_view(h, op, &place)) {
    load_rows(h, op, &place, to);
    return;
  }
  LLVMValueRef all_rows =
      LLVMBuildICmp(e->builder, LLVMIntEQ, place.live_rows, emit_i64(e, value->type.rows), "");
  LLVMValueRef all_columns = LLVMBuildICmp(e->builder, LLVMIntEQ, place.live_columns,
                                           emit_i64(e, value->type.columns), "");
  LLVMValueRef whole = LLVMBuildAnd(e->builder, all_rows, all_columns, "");
  /* Rows a multiple of 4 KiB apart fall into the same few cache sets and push each other out: those
   * are copied. */
  LLVMValueRef low = LLVMBuildAnd(e->builder, place.row_stride, emit_i64(e, 1023), "");
  whole = LLVMBuildAnd(e->builder, whole,
                       LLVMBuildICmp(e->builder, LLVMIntNE, low, emit_i64(e, 0), ""), "");
  struct emit_branch branch;
  emit_if(e, &branch, whole);
  emit_else(e, &branch);
  load_rows(h, op, &place, to);
  emit_end_if(e, &branch);
  to->base = emit_select(e, whole, place.base, to->base);
  to->stride = emit_select(e, whole, place.row_stride, to->stride);
}

/* ---- stores ---- */

/* Elements of one row up to `count`. */
static void store_row(struct host *h, const struct tile_op *op, const struct place *place,
                      LLVMValueRef from, LLVMValueRef to, LLVMValueRef count)
{
  struct emit *e = &h->e;
  enum tile_element element = op->operands[0]->type.element;
  const bool adds = op->kind == TILE_ACCUMULATE;
  LLVMTypeRef memory = host_element_type(h, element);
  LLVMValueRef start = emit_i64(e, 0);
  struct emit_loop loop;
  if (place_is_contiguous(place)) {
    LLVMValueRef some[2] = {count, start};
    LLVMValueRef vectors = LLVMBuildAnd(e->builder, emit_intrinsic(e, "llvm.smax", e->i64, some, 2),
                                        emit_i64(e, -(int64_t)e->lanes), "");
    emit_loop_begin(e, &loop, start, vectors, e->lanes, NULL, 0);
    LLVMValueRef value =
        emit_load(e, emit_vector_type(e, memory), emit_address(e, memory, from, loop.index), 1);
    host_transfer_store(h, place, element, adds, to, loop.index,
                        host_from_memory(h, element, value));
    emit_loop_end(e, &loop, NULL);
    start = vectors;
  }
  emit_loop_begin(e, &loop, start, count, 1, NULL, 0);
  LLVMValueRef value = host_from_memory(
      h, element, emit_load(e, memory, emit_address(e, memory, from, loop.index), 1));
  LLVMValueRef column = LLVMBuildMul(e->builder, loop.index, place->column_stride, "");
  host_transfer_store(h, place, element, adds, to, column, value);
  emit_loop_end(e, &loop, NULL);
}

/* `panel` at hand: rows of that panel; its value is a panel's memory or, for one column, vectors.
 */
static void store_panel(struct host *h, const struct tile_op *op, const struct place *place,
                        LLVMValueRef panel)
{
  struct emit *e = &h->e;
  const struct tile_value *value = op->operands[0];
  LLVMTypeRef memory = host_element_type(h, value->type.element);
  LLVMValueRef base;
  LLVMValueRef first = LLVMBuildMul(e->builder, panel, emit_i64(e, h->panel_rows), "");
  struct host_value *source = host_value(h, value);
  if (source->kind == HOST_ROWS) {
    base = host_allocate(h, (size_t)h->panel_rows * 8);
    for (uint32_t v = 0; v < h->schedule.row_vectors; v++)
      emit_store(e, host_to_memory(h, value->type.element, source->rows[v]),
                 emit_address(e, memory, base, emit_i64(e, (int64_t)v * e->lanes)), 1);
  } else {
    base = host_panel_base(h, value, panel);
  }
  struct emit_loop parts;
  emit_loop_begin(e, &parts, emit_i64(e, 0), emit_i64(e, h->panel_rows), e->lanes, NULL, 0);
  host_transfer_store_lanes(h, place, value->type, op->kind == TILE_ACCUMULATE,
                            LLVMBuildAdd(e->builder, first, parts.index, ""),
                            emit_address(e, memory, base, parts.index));
  emit_loop_end(e, &parts, NULL);
}

void host_store(struct host *h, const struct tile_op *op, LLVMValueRef panel)
{
  struct emit *e = &h->e;
  const struct tile_value *value = op->operands[0];
  struct place place = place_locate(h, op, value->type, panel);
  if (panel != NULL) {
    store_panel(h, op, &place, panel);
    return;
  }
  enum tile_layout layout = TILE_LAYOUT_ROW_MAJOR;
  struct host_value source = host_as_layout(h, value, layout);
  LLVMTypeRef memory = host_element_type(h, value->type.element);
  struct emit_loop rows;
  emit_loop_begin(e, &rows, emit_i64(e, 0), place.live_rows, 1, NULL, 0);
  LLVMValueRef offset = LLVMBuildMul(e->builder, rows.index, source.stride, "");
  store_row(h, op, &place, emit_address(e, memory, source.base, offset),
            place_row(h, &place, rows.index), place.live_columns);
  emit_loop_end(e, &rows, NULL);
}
