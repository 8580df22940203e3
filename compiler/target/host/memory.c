/* Loads and stores between tensors and tiles. */
#include "compiler/target/host/few.h"
#include "compiler/target/host/place.h"

#include <string.h>

/* The elements of `count`, which may be negative, that fill vectors. */
static LLVMValueRef whole_vectors(struct host *h, LLVMValueRef count)
{
  struct emit *e = &h->e;
  LLVMValueRef some[2] = {count, emit_i64(e, 0)};
  count = emit_intrinsic(e, "llvm.smax", e->i64, some, 2);
  return LLVMBuildAnd(e->builder, count, emit_i64(e, -(int64_t)e->lanes), "");
}

/* ---- blocks of as many rows and columns as a vector has elements ---- */

enum {
  MOST_LANES = 64,
  CLOSE = 4 /* elements that every machine interleaves in one instruction: 128 bits */
};

/* Rows of a tile in panels are lanes there and runs in memory. */
static bool turns(struct host *h, const struct place *place, struct tile_type type)
{
  uint32_t lanes = h->e.lanes;
  return place_is_contiguous(place) && type.columns >= lanes && lanes >= CLOSE &&
         (lanes & (lanes - 1)) == 0;
}

/* Leaves LLVM without knowledge of how the vectors were made; no instruction. Of shuffles of
 * shuffles it would try to make fewer ones, in vain and for longer than a kernel's other code
 * takes. */
static void hide(struct host *h, LLVMValueRef *vectors)
{
  struct emit *e = &h->e;
  if (emit_element_type(vectors[0]) != e->f32)
    return; /* there is such an intrinsic for floats only */
  for (uint32_t k = 0; k < e->lanes; k++)
    vectors[k] = emit_intrinsic(e, "llvm.arithmetic.fence", LLVMTypeOf(vectors[k]), &vectors[k], 1);
}

/* Element k of vectors[i] becomes element i of vectors[k]: at first inside blocks of CLOSE by CLOSE
 * elements by interleaving them, then between these blocks, of which a step brings the even ones of
 * two vectors together, and the odd ones: one instruction on 512 bits as well. */
static void turn(struct host *h, LLVMValueRef *vectors)
{
  struct emit *e = &h->e;
  const uint32_t lanes = e->lanes;
  for (uint32_t step = 1; step < lanes; step *= 2) {
    LLVMValueRef low[MOST_LANES], high[MOST_LANES], turned[MOST_LANES];
    for (uint32_t k = 0; k < lanes; k++) {
      uint32_t close = k % CLOSE, second = k / step % 2;
      uint32_t from = step < CLOSE
                          ? k - close + close / (2 * step) * step + k % step + second * lanes
                          : 2 * k - close;
      low[k] = emit_i32(e, (int32_t)from);
      high[k] = emit_i32(e, (int32_t)(from + (step < CLOSE ? CLOSE / 2 : CLOSE)));
    }
    for (uint32_t i = 0; i < lanes; i++) {
      if ((i & step) != 0)
        continue;
      uint32_t to = step == 2 ? i + i % 2 : i, next = step < CLOSE ? 1 : step;
      LLVMValueRef a = vectors[i], b = vectors[i + step];
      turned[to] = LLVMBuildShuffleVector(e->builder, a, b, LLVMConstVector(low, lanes), "");
      turned[to + next] =
          LLVMBuildShuffleVector(e->builder, a, b, LLVMConstVector(high, lanes), "");
    }
    memcpy(vectors, turned, lanes * sizeof(*vectors));
    hide(h, vectors);
  }
}

/* How many columns of the rows from m on make whole blocks: none where a row is not live. */
static LLVMValueRef whole_columns(struct host *h, const struct place *place, LLVMValueRef m)
{
  struct emit *e = &h->e;
  LLVMValueRef end = LLVMBuildAdd(e->builder, m, emit_i64(e, e->lanes), "");
  LLVMValueRef live = LLVMBuildICmp(e->builder, LLVMIntSLE, end, place->live_rows, "");
  return emit_select(e, live, whole_vectors(h, place->live_columns), emit_i64(e, 0));
}

/* Where rows from m on begin in memory. Strength reduction of the loop over their columns would
 * weigh all ways to reach one row from another; frozen, they are unrelated to it. */
static void rows_from(struct host *h, const struct place *place, LLVMValueRef m, LLVMValueRef *rows)
{
  for (uint32_t k = 0; k < h->e.lanes; k++)
    rows[k] = LLVMBuildFreeze(
        h->e.builder, place_row(h, place, LLVMBuildAdd(h->e.builder, m, emit_i64(&h->e, k), "")),
        "");
}

/* The vector of a panel's rows, from the one at `lanes` on, in column number `index` + k. */
static LLVMValueRef lanes_address(struct host *h, LLVMTypeRef memory, LLVMValueRef lanes,
                                  LLVMValueRef index, uint32_t k)
{
  LLVMValueRef column = LLVMBuildAdd(h->e.builder, index, emit_i64(&h->e, k), "");
  column = LLVMBuildMul(h->e.builder, column, emit_i64(&h->e, h->panel_rows), "");
  return emit_address(&h->e, memory, lanes, column);
}

/* ---- loads ---- */

/* Elements of row m from `start` up to `count`, converted, to consecutive places `to_stride`
 * apart. */
static void load_row(struct host *h, const struct place *place, enum tile_element element,
                     LLVMValueRef m, LLVMValueRef to, int64_t to_stride, LLVMValueRef start,
                     LLVMValueRef count)
{
  struct emit *e = &h->e;
  LLVMTypeRef memory = host_element_type(h, element);
  LLVMValueRef from = place_row(h, place, m), skip = place_skip(h, place, m);
  if (place_is_contiguous(place) && to_stride == 1) {
    LLVMValueRef vectors = whole_vectors(h, count);
    struct emit_loop loop;
    emit_loop_begin(e, &loop, start, vectors, e->lanes, NULL, 0);
    LLVMValueRef value =
        host_to_memory(h, element, place_load(h, place, element, from, loop.index, true));
    emit_store(e, value, emit_address(e, memory, to, loop.index), 1);
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

/* Columns up to `count`, a multiple of the lanes, of live rows from m on. */
static void load_block(struct host *h, const struct place *place, enum tile_element element,
                       LLVMValueRef m, LLVMValueRef to, LLVMValueRef count)
{
  struct emit *e = &h->e;
  LLVMTypeRef memory = host_element_type(h, element);
  LLVMValueRef rows[MOST_LANES], vectors[MOST_LANES];
  rows_from(h, place, m, rows);
  struct emit_loop loop;
  emit_loop_begin(e, &loop, emit_i64(e, 0), count, e->lanes, NULL, 0);
  for (uint32_t k = 0; k < e->lanes; k++)
    vectors[k] =
        host_to_memory(h, element, place_load(h, place, element, rows[k], loop.index, true));
  turn(h, vectors);
  for (uint32_t k = 0; k < e->lanes; k++)
    emit_store(e, vectors[k], lanes_address(h, memory, to, loop.index, k), 1);
  emit_loop_end(e, &loop, NULL);
}

/* Columns from `start` on of rows from m on, one by one, of those that are not there zeros. */
static void load_lanes(struct host *h, const struct place *place, struct tile_type type,
                       LLVMValueRef m, LLVMValueRef to, LLVMValueRef start)
{
  struct emit *e = &h->e;
  struct emit_loop lanes;
  emit_loop_begin(e, &lanes, emit_i64(e, 0), emit_i64(e, e->lanes), 1, NULL, 0);
  LLVMValueRef row = LLVMBuildAdd(e->builder, m, lanes.index, "");
  LLVMValueRef live = LLVMBuildICmp(e->builder, LLVMIntSLT, row, place->live_rows, "");
  LLVMValueRef count = emit_select(e, live, place->live_columns, emit_i64(e, 0));
  /* An address is not formed from a row that is not there. */
  LLVMValueRef safe = emit_select(e, live, row, emit_i64(e, 0));
  LLVMValueRef lane = emit_address(e, host_element_type(h, type.element), to, lanes.index);
  load_row(h, place, type.element, safe, lane, h->panel_rows, start, count);
  LLVMValueRef filled =
      emit_intrinsic(e, "llvm.smax", e->i64, (LLVMValueRef[]){count, emit_i64(e, 0)}, 2);
  zero_row(h, type.element, lane, h->panel_rows, filled, type.columns);
  emit_loop_end(e, &lanes, NULL);
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
  struct emit_loop parts;
  emit_loop_begin(e, &parts, emit_i64(e, 0), emit_i64(e, h->panel_rows), e->lanes, NULL, 0);
  LLVMValueRef m = LLVMBuildAdd(e->builder, first, parts.index, "");
  LLVMValueRef to = emit_address(e, memory, base, parts.index), done = emit_i64(e, 0);
  if (turns(h, &place, type)) {
    done = whole_columns(h, &place, m);
    struct emit_branch branch;
    emit_if(e, &branch, LLVMBuildICmp(e->builder, LLVMIntSGT, done, emit_i64(e, 0), ""));
    load_block(h, &place, type.element, m, to, done);
    emit_else(e, &branch);
    emit_end_if(e, &branch);
  }
  load_lanes(h, &place, type, m, to, done);
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
      load_row(h, &turned, type.element, emit_i64(e, 0), to->base, 1, emit_i64(e, 0), count);
    } else {
      struct emit_loop rows;
      emit_loop_begin(e, &rows, emit_i64(e, 0), count, 1, NULL, 0);
      load_row(h, place, type.element, rows.index, emit_address(e, memory, to->base, rows.index), 1,
               emit_i64(e, 0), emit_i64(e, 1));
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
  load_row(h, place, type.element, safe, target, 1, emit_i64(e, 0), count);
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

/* ---- stores ---- */

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

/* Columns from `start` up to `count`. */
static void store_row(struct host *h, const struct tile_op *op, const struct place *place,
                      LLVMValueRef from, int64_t from_stride, LLVMValueRef to, LLVMValueRef start,
                      LLVMValueRef count)
{
  struct emit *e = &h->e;
  enum tile_element element = op->operands[0]->type.element;
  LLVMTypeRef memory = host_element_type(h, element);
  if (place_is_contiguous(place) && from_stride == 1) {
    LLVMValueRef vectors = whole_vectors(h, count);
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

/* Columns up to `count`, a multiple of the lanes, of live rows from m on. */
static void store_block(struct host *h, const struct tile_op *op, const struct place *place,
                        LLVMValueRef from, LLVMValueRef m, LLVMValueRef count)
{
  struct emit *e = &h->e;
  enum tile_element element = op->operands[0]->type.element;
  LLVMTypeRef memory = host_element_type(h, element);
  LLVMValueRef rows[MOST_LANES], vectors[MOST_LANES];
  rows_from(h, place, m, rows);
  struct emit_loop loop;
  emit_loop_begin(e, &loop, emit_i64(e, 0), count, e->lanes, NULL, 0);
  for (uint32_t k = 0; k < e->lanes; k++)
    vectors[k] =
        emit_load(e, emit_vector_type(e, memory), lanes_address(h, memory, from, loop.index, k), 1);
  turn(h, vectors);
  for (uint32_t k = 0; k < e->lanes; k++)
    store_element(h, op, place, rows[k], loop.index, host_from_memory(h, element, vectors[k]));
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
  LLVMValueRef m = LLVMBuildAdd(e->builder, first, parts.index, "");
  LLVMValueRef from = emit_address(e, memory, base, parts.index), done = emit_i64(e, 0);
  if (turns(h, place, value->type)) {
    done = whole_columns(h, place, m);
    struct emit_branch branch;
    emit_if(e, &branch, LLVMBuildICmp(e->builder, LLVMIntSGT, done, emit_i64(e, 0), ""));
    store_block(h, op, place, from, m, done);
    emit_else(e, &branch);
    emit_end_if(e, &branch);
  }
  LLVMValueRef all[2] = {LLVMBuildSub(e->builder, place->live_rows, m, ""), emit_i64(e, e->lanes)};
  struct emit_loop lanes;
  emit_loop_begin(e, &lanes, emit_i64(e, 0), emit_intrinsic(e, "llvm.smin", e->i64, all, 2), 1,
                  NULL, 0);
  LLVMValueRef row = place_row(h, place, LLVMBuildAdd(e->builder, m, lanes.index, ""));
  store_row(h, op, place, emit_address(e, memory, from, lanes.index), h->panel_rows, row, done,
            place->live_columns);
  emit_loop_end(e, &lanes, NULL);
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
  store_row(h, op, &place, emit_address(e, memory, source.base, offset), 1,
            place_row(h, &place, rows.index), emit_i64(e, 0), place.live_columns);
  emit_loop_end(e, &rows, NULL);
}
