/* Loads and stores between tensors and tiles. */
#include "compiler/target/host/few.h"
#include "compiler/target/host/place.h"

/* Copies `count` elements of row m, converted, to consecutive places `to_stride` apart. */
static void load_row(struct host *h, const struct place *place, enum tile_element element,
                     LLVMValueRef m, LLVMValueRef to, int64_t to_stride, LLVMValueRef count)
{
  struct emit *e = &h->e;
  LLVMTypeRef memory = host_element_type(h, element);
  LLVMValueRef from = place_row(h, place, m), skip = place_skip(h, place, m);
  LLVMValueRef start = emit_i64(e, 0);
  if (place_is_contiguous(place)) {
    LLVMValueRef vectors = LLVMBuildAnd(e->builder, count, emit_i64(e, -(int64_t)e->lanes), "");
    struct emit_loop loop;
    emit_loop_begin(e, &loop, start, vectors, e->lanes, NULL, 0);
    LLVMValueRef value =
        host_to_memory(h, element, place_load(h, place, element, from, loop.index, true));
    if (to_stride == 1) {
      emit_store(e, value, emit_address(e, memory, to, loop.index), 1);
    } else {
      for (unsigned lane = 0; lane < e->lanes; lane++) {
        LLVMValueRef at = LLVMBuildAdd(e->builder, loop.index, emit_i64(e, lane), "");
        at = LLVMBuildMul(e->builder, at, emit_i64(e, to_stride), "");
        LLVMValueRef one =
            LLVMBuildExtractElement(e->builder, value, emit_i32(e, (int32_t)lane), "");
        emit_store(e, one, emit_address(e, memory, to, at), 1);
      }
    }
    emit_loop_end(e, &loop, NULL);
    start = vectors;
  }
  struct emit_loop loop;
  emit_loop_begin(e, &loop, start, count, 1, NULL, 0);
  LLVMValueRef offset = LLVMBuildMul(e->builder, loop.index, place->column_stride, "");
  offset = LLVMBuildAdd(e->builder, offset, skip, "");
  LLVMValueRef value =
      host_to_memory(h, element, place_load(h, place, element, from, offset, false));
  LLVMValueRef at = LLVMBuildMul(e->builder, loop.index, emit_i64(e, to_stride), "");
  emit_store(e, value, emit_address(e, memory, to, at), 1);
  emit_loop_end(e, &loop, NULL);
}

static void zero_row(struct host *h, enum tile_element element, LLVMValueRef to, int64_t to_stride,
                     LLVMValueRef from, int64_t count)
{
  struct emit *e = &h->e;
  LLVMTypeRef memory = host_element_type(h, element);
  struct emit_loop loop;
  emit_loop_begin(e, &loop, from, emit_i64(e, count), 1, NULL, 0);
  LLVMValueRef at = LLVMBuildMul(e->builder, loop.index, emit_i64(e, to_stride), "");
  emit_store(e, LLVMConstNull(memory), emit_address(e, memory, to, at), 1);
  emit_loop_end(e, &loop, NULL);
}

void host_load_panel(struct host *h, const struct tile_op *op, LLVMValueRef panel)
{
  struct emit *e = &h->e;
  const struct tile_value *value = op->results[0];
  struct tile_type type = value->type;
  struct place place = place_locate(h, op, type, panel);
  LLVMTypeRef memory = host_element_type(h, type.element);
  LLVMValueRef base = host_panel_base(h, value, panel);
  LLVMValueRef first = LLVMBuildMul(e->builder, panel, emit_i64(e, h->panel_rows), "");
  struct emit_loop lanes;
  emit_loop_begin(e, &lanes, emit_i64(e, 0), emit_i64(e, h->panel_rows), 1, NULL, 0);
  LLVMValueRef m = LLVMBuildAdd(e->builder, first, lanes.index, "");
  LLVMValueRef live = LLVMBuildICmp(e->builder, LLVMIntSLT, m, place.live_rows, "");
  LLVMValueRef count = emit_select(e, live, place.live_columns, emit_i64(e, 0));
  /* An address is not formed from a row that is not there. */
  LLVMValueRef safe = emit_select(e, live, m, emit_i64(e, 0));
  LLVMValueRef to = emit_address(e, memory, base, lanes.index);
  load_row(h, &place, type.element, safe, to, h->panel_rows, count);
  LLVMValueRef filled =
      emit_intrinsic(e, "llvm.smax", e->i64, (LLVMValueRef[]){count, emit_i64(e, 0)}, 2);
  zero_row(h, type.element, to, h->panel_rows, filled, type.columns);
  emit_loop_end(e, &lanes, NULL);
}

/* Whether memory itself can stand for the tile: nothing but products reads it, one element at a
 * time. */
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
    if (user->kind != TILE_PRODUCT || user->operands[1] != value || user->operands[0] == value ||
        few_is_product(user)) /* these read whole vectors, see few_view */
      return false;
  }
  return true;
}

static void load_rows(struct host *h, const struct tile_op *op, const struct place *place,
                      const struct host_value *to)
{
  struct emit *e = &h->e;
  struct tile_type type = op->results[0]->type;
  LLVMTypeRef memory = host_element_type(h, type.element);
  uint32_t stride = host_row_stride(h, type);
  if (type.columns == 1) {
    /* A column: contiguous in our buffer. */
    struct place turned = *place;
    turned.column_stride = place->row_stride;
    LLVMValueRef count = place->live_rows;
    LLVMValueRef any =
        LLVMBuildICmp(e->builder, LLVMIntSGT, place->live_columns, emit_i64(e, 0), "");
    count = emit_select(e, any, count, emit_i64(e, 0));
    count = emit_intrinsic(e, "llvm.smax", e->i64, (LLVMValueRef[]){count, emit_i64(e, 0)}, 2);
    int64_t padded = (type.rows + h->panel_rows - 1) / h->panel_rows * h->panel_rows;
    if (place_is_even(place)) {
      load_row(h, &turned, type.element, emit_i64(e, 0), to->base, 1, count);
    } else {
      struct emit_loop rows;
      emit_loop_begin(e, &rows, emit_i64(e, 0), count, 1, NULL, 0);
      load_row(h, place, type.element, rows.index, emit_address(e, memory, to->base, rows.index), 1,
               emit_i64(e, 1));
      emit_loop_end(e, &rows, NULL);
    }
    zero_row(h, type.element, to->base, 1, count, padded);
    return;
  }
  struct emit_loop rows;
  emit_loop_begin(e, &rows, emit_i64(e, 0), emit_i64(e, type.rows), 1, NULL, 0);
  LLVMValueRef live = LLVMBuildICmp(e->builder, LLVMIntSLT, rows.index, place->live_rows, "");
  LLVMValueRef count = emit_select(e, live, place->live_columns, emit_i64(e, 0));
  LLVMValueRef safe = emit_select(e, live, rows.index, emit_i64(e, 0));
  LLVMValueRef target = LLVMBuildMul(e->builder, rows.index, emit_i64(e, stride), "");
  target = emit_address(e, memory, to->base, target);
  load_row(h, place, type.element, safe, target, 1, count);
  LLVMValueRef filled =
      emit_intrinsic(e, "llvm.smax", e->i64, (LLVMValueRef[]){count, emit_i64(e, 0)}, 2);
  zero_row(h, type.element, target, 1, filled, stride);
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

static LLVMValueRef sum(struct host *h, enum tile_element element, LLVMValueRef a, LLVMValueRef b)
{
  return element == TILE_I32 ? LLVMBuildAdd(h->e.builder, a, b, "")
                             : LLVMBuildFAdd(h->e.builder, a, b, "");
}

static void store_element(struct host *h, const struct tile_op *op, const struct place *place,
                          LLVMValueRef row, LLVMValueRef column, LLVMValueRef value)
{
  enum tile_element element = op->operands[0]->type.element;
  if (op->kind == TILE_ACCUMULATE) {
    LLVMValueRef old = place_load(h, place, element, row, column, emit_is_vector(value));
    value = sum(h, element, old, value);
  }
  place_store(h, place, row, column, value);
}

static void store_row(struct host *h, const struct tile_op *op, const struct place *place,
                      LLVMValueRef from, int64_t from_stride, LLVMValueRef to, LLVMValueRef count)
{
  struct emit *e = &h->e;
  enum tile_element element = op->operands[0]->type.element;
  LLVMTypeRef memory = host_element_type(h, element);
  LLVMValueRef start = emit_i64(e, 0);
  if (place_is_contiguous(place) && from_stride == 1) {
    LLVMValueRef vectors = LLVMBuildAnd(e->builder, count, emit_i64(e, -(int64_t)e->lanes), "");
    struct emit_loop loop;
    emit_loop_begin(e, &loop, start, vectors, e->lanes, NULL, 0);
    LLVMValueRef value =
        emit_load(e, emit_vector_type(e, memory), emit_address(e, memory, from, loop.index), 1);
    store_element(h, op, place, to, loop.index, host_from_memory(h, element, value));
    emit_loop_end(e, &loop, NULL);
    start = vectors;
  }
  struct emit_loop loop;
  emit_loop_begin(e, &loop, start, count, 1, NULL, 0);
  LLVMValueRef at = LLVMBuildMul(e->builder, loop.index, emit_i64(e, from_stride), "");
  LLVMValueRef value =
      host_from_memory(h, element, emit_load(e, memory, emit_address(e, memory, from, at), 1));
  LLVMValueRef offset = LLVMBuildMul(e->builder, loop.index, place->column_stride, "");
  store_element(h, op, place, to, offset, value);
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
  LLVMValueRef live = LLVMBuildSub(e->builder, place->live_rows, first, "");
  LLVMValueRef all[2] = {live, emit_i64(e, h->panel_rows)};
  live = emit_intrinsic(e, "llvm.smin", e->i64, all, 2);
  struct emit_loop lanes;
  emit_loop_begin(e, &lanes, emit_i64(e, 0), live, 1, NULL, 0);
  LLVMValueRef m = LLVMBuildAdd(e->builder, first, lanes.index, "");
  store_row(h, op, place, emit_address(e, memory, base, lanes.index), h->panel_rows,
            place_row(h, place, m), place->live_columns);
  emit_loop_end(e, &lanes, NULL);
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
  store_row(h, op, &place, emit_address(e, memory, source.base, offset), 1,
            place_row(h, &place, rows.index), place.live_columns);
  emit_loop_end(e, &rows, NULL);
}
