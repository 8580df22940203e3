/* Where tiles lie in scratch memory, and moving them between layouts. */
#include "compiler/target/host/lower.h"

#include "compiler/emit/operation.h"

#include <assert.h>

LLVMTypeRef host_element_type(struct host *h, enum tile_element element)
{
  switch (element) {
  case TILE_F32:
  case TILE_F16:
  case TILE_BF16: return h->e.f32;
  case TILE_I32: return h->e.i32;
  case TILE_INDEX: return h->e.i64;
  case TILE_BOOL: return h->e.i8;
  }
  return h->e.f32;
}

static size_t element_bytes(enum tile_element element)
{
  switch (element) {
  case TILE_F32:
  case TILE_F16:
  case TILE_BF16:
  case TILE_I32: return 4;
  case TILE_INDEX: return 8;
  case TILE_BOOL: return 1;
  }
  return 4;
}

LLVMValueRef host_from_memory(struct host *h, enum tile_element element, LLVMValueRef stored)
{
  return element == TILE_BOOL ? emit_from_storage(&h->e, DTYPE_BOOL, stored) : stored;
}

LLVMValueRef host_to_memory(struct host *h, enum tile_element element, LLVMValueRef value)
{
  return element == TILE_BOOL ? emit_to_storage(&h->e, DTYPE_BOOL, value) : value;
}

LLVMValueRef host_round(struct host *h, enum tile_element element, LLVMValueRef value)
{
  if (element != TILE_F16 && element != TILE_BF16)
    return value;
  enum dtype stored = element == TILE_F16 ? DTYPE_F16 : DTYPE_BF16;
  return emit_from_storage(&h->e, stored, emit_to_storage(&h->e, stored, value));
}

static uint32_t round_up(uint32_t value, uint32_t to)
{
  return (value + to - 1) / to * to;
}

uint32_t host_row_stride(struct host *h, struct tile_type type)
{
  return type.columns == 1 ? 1 : round_up(type.columns, h->e.lanes);
}

size_t host_tile_bytes(struct host *h, struct tile_type type, enum tile_layout layout)
{
  size_t elements;
  if (layout == TILE_LAYOUT_PANEL)
    elements = (size_t)round_up(type.rows, h->panel_rows) * type.columns;
  else
    elements = (size_t)type.rows * host_row_stride(h, type);
  /* Vectors over a column of one element each run past its end. */
  return (elements + h->panel_rows) * element_bytes(type.element);
}

LLVMValueRef host_allocate(struct host *h, size_t bytes)
{
  size_t offset = h->scratch_used;
  h->scratch_used += (bytes + HOST_ALIGNMENT - 1) / HOST_ALIGNMENT * HOST_ALIGNMENT;
  if (h->scratch_used > h->scratch_peak)
    h->scratch_peak = h->scratch_used;
  return emit_address(&h->e, h->e.i8, h->scratch, emit_i64(&h->e, (int64_t)offset));
}

void host_place(struct host *h, const struct tile_value *value)
{
  struct host_value *place = host_value(h, value);
  place->kind = HOST_MEMORY;
  place->per_panel = false;
  enum tile_layout layout = host_is_panel(h, value) ? TILE_LAYOUT_PANEL : TILE_LAYOUT_ROW_MAJOR;
  place->base = host_allocate(h, host_tile_bytes(h, value->type, layout));
  place->stride = emit_i64(&h->e, host_row_stride(h, value->type));
}

LLVMValueRef host_live_rows(struct host *h, uint32_t rows)
{
  for (size_t k = h->limits.count; k > 0; k--)
    if (h->limits.items[k - 1].rows == rows)
      return h->limits.items[k - 1].live;
  return NULL;
}

LLVMValueRef host_panel_count(struct host *h, uint32_t rows)
{
  struct emit *e = &h->e;
  int64_t all = (rows + h->panel_rows - 1) / h->panel_rows;
  LLVMValueRef live = host_live_rows(h, rows);
  if (live == NULL)
    return emit_i64(e, all);
  LLVMValueRef panels = LLVMBuildAdd(e->builder, live, emit_i64(e, h->panel_rows - 1), "");
  panels = LLVMBuildSDiv(e->builder, panels, emit_i64(e, h->panel_rows), "");
  return emit_intrinsic(e, "llvm.smin", e->i64, (LLVMValueRef[]){panels, emit_i64(e, all)}, 2);
}

LLVMValueRef host_panel_base(struct host *h, const struct tile_value *value, LLVMValueRef panel)
{
  struct emit *e = &h->e;
  struct host_value *place = host_value(h, value);
  if (place->per_panel)
    return place->base;
  int64_t size = (int64_t)h->panel_rows * value->type.columns;
  LLVMValueRef offset = LLVMBuildMul(e->builder, panel, emit_i64(e, size), "");
  return emit_address(e, host_element_type(h, value->type.element), place->base, offset);
}

/* Index of element (m, n) in memory. */
static LLVMValueRef element_offset(struct host *h, struct tile_type type,
                                   const struct host_value *place, enum tile_layout layout,
                                   LLVMValueRef m, LLVMValueRef n)
{
  struct emit *e = &h->e;
  if (layout != TILE_LAYOUT_PANEL || type.rows == 1) {
    LLVMValueRef stride = place->stride;
    if (type.rows == 1)
      return n;
    return LLVMBuildAdd(e->builder, LLVMBuildMul(e->builder, m, stride, ""), n, "");
  }
  LLVMValueRef rows = emit_i64(e, h->panel_rows);
  LLVMValueRef panel = LLVMBuildUDiv(e->builder, m, rows, "");
  LLVMValueRef lane = LLVMBuildURem(e->builder, m, rows, "");
  LLVMValueRef column = LLVMBuildAdd(
      e->builder, LLVMBuildMul(e->builder, panel, emit_i64(e, type.columns), ""), n, "");
  return LLVMBuildAdd(e->builder, LLVMBuildMul(e->builder, column, rows, ""), lane, "");
}

LLVMValueRef host_element(struct host *h, const struct tile_value *value,
                          const struct host_value *place, enum tile_layout layout, LLVMValueRef m,
                          LLVMValueRef n)
{
  struct emit *e = &h->e;
  switch (place->kind) {
  case HOST_SCALAR:
  case HOST_SPLAT: return place->scalar;
  case HOST_IOTA: {
    LLVMValueRef index = LLVMBuildTrunc(e->builder, value->type.rows > 1 ? m : n, e->i32, "");
    return LLVMBuildAdd(e->builder, place->scalar, index, "");
  }
  case HOST_MEMORY: {
    LLVMTypeRef type = host_element_type(h, value->type.element);
    LLVMValueRef offset = element_offset(h, value->type, place, layout, m, n);
    LLVMValueRef stored = emit_load(e, type, emit_address(e, type, place->base, offset), 1);
    return host_from_memory(h, value->type.element, stored);
  }
  case HOST_VIEW:
  case HOST_LAZY:
  case HOST_ROWS:
  case HOST_UNSET: break;
  }
  assert(false && "a value without a place");
  return NULL;
}

void host_set_element(struct host *h, const struct tile_value *value,
                      const struct host_value *place, enum tile_layout layout, LLVMValueRef m,
                      LLVMValueRef n, LLVMValueRef element)
{
  struct emit *e = &h->e;
  LLVMTypeRef type = host_element_type(h, value->type.element);
  LLVMValueRef offset = element_offset(h, value->type, place, layout, m, n);
  emit_store(e, host_to_memory(h, value->type.element, element),
             emit_address(e, type, place->base, offset), 1);
}

static enum tile_layout layout_of(struct host *h, const struct tile_value *value)
{
  return host_is_panel(h, value) ? TILE_LAYOUT_PANEL : TILE_LAYOUT_ROW_MAJOR;
}

/* Element by element, also the rows and columns that pad `to`, so that all of it is defined. */
static void copy_elements(struct host *h, const struct tile_value *from,
                          enum tile_layout from_layout, const struct host_value *to,
                          enum tile_layout to_layout)
{
  struct emit *e = &h->e;
  struct tile_type type = from->type;
  struct emit_loop rows;
  emit_loop_begin(e, &rows, emit_i64(e, 0), emit_i64(e, type.rows), 1, NULL, 0);
  struct emit_loop columns;
  emit_loop_begin(e, &columns, emit_i64(e, 0), emit_i64(e, type.columns), 1, NULL, 0);
  LLVMValueRef element =
      host_element(h, from, host_value(h, from), from_layout, rows.index, columns.index);
  host_set_element(h, from, to, to_layout, rows.index, columns.index, element);
  emit_loop_end(e, &columns, NULL);
  emit_loop_end(e, &rows, NULL);
}

static void fill(struct host *h, const struct host_value *to, struct tile_type type,
                 enum tile_layout layout, LLVMValueRef scalar)
{
  struct emit *e = &h->e;
  LLVMTypeRef element = host_element_type(h, type.element);
  LLVMValueRef stored = host_to_memory(h, type.element, scalar);
  size_t count;
  if (layout == TILE_LAYOUT_PANEL)
    count = (size_t)round_up(type.rows, h->panel_rows) * type.columns;
  else
    count = (size_t)type.rows * host_row_stride(h, type);
  struct emit_loop loop;
  emit_loop_begin(e, &loop, emit_i64(e, 0), emit_i64(e, (int64_t)count), h->e.lanes, NULL, 0);
  emit_store(e, emit_broadcast(e, stored), emit_address(e, element, to->base, loop.index), 1);
  emit_loop_end(e, &loop, NULL);
}

/* In whole vectors: buffers are aligned to more than one, so that nothing else lies where the last
 * one ends. */
static void copy_bytes(struct host *h, const struct host_value *from, const struct host_value *to,
                       size_t bytes)
{
  struct emit *e = &h->e;
  LLVMTypeRef type = emit_vector_type(e, e->i32);
  struct emit_loop loop;
  emit_loop_begin(e, &loop, emit_i64(e, 0), emit_i64(e, (int64_t)bytes), 4 * e->lanes, NULL, 0);
  emit_store(e, emit_load(e, type, emit_address(e, e->i8, from->base, loop.index), 1),
             emit_address(e, e->i8, to->base, loop.index), 1);
  emit_loop_end(e, &loop, NULL);
}

void host_copy(struct host *h, const struct tile_value *from, const struct host_value *to,
               const struct tile_value *like)
{
  struct host_value *place = host_value(h, from);
  enum tile_layout layout = layout_of(h, like);
  if (place->kind == HOST_SPLAT || place->kind == HOST_SCALAR) {
    fill(h, to, like->type, layout, place->scalar);
    return;
  }
  if (place->kind == HOST_MEMORY && layout_of(h, from) == layout) {
    if (place->base == to->base)
      return;
    bool ours = place->stride == to->stride || layout == TILE_LAYOUT_PANEL || like->type.rows == 1;
    if (ours) {
      size_t bytes = host_tile_bytes(h, like->type, layout) -
                     h->panel_rows * element_bytes(like->type.element);
      copy_bytes(h, place, to, bytes);
      return;
    }
  }
  copy_elements(h, from, layout_of(h, from), to, layout);
}

struct host_value host_as_layout(struct host *h, const struct tile_value *value,
                                 enum tile_layout layout)
{
  struct host_value *place = host_value(h, value);
  bool matrix = value->type.rows > 1 && value->type.columns > 1;
  bool same = layout_of(h, value) == layout || !matrix;
  if (value->type.rows == 1 && layout == TILE_LAYOUT_PANEL)
    same = false;
  if (place->kind == HOST_MEMORY && same && !place->per_panel)
    return *place;
  struct host_value copy = {.kind = HOST_MEMORY,
                            .stride = emit_i64(&h->e, host_row_stride(h, value->type))};
  struct tile_type type = value->type;
  if (type.rows == 1 && layout == TILE_LAYOUT_PANEL) {
    /* One row as a panel: its other rows are defined, and dead. */
    copy.base =
        host_allocate(h, (size_t)h->panel_rows * type.columns * element_bytes(type.element));
    struct emit *e = &h->e;
    struct emit_loop loop;
    emit_loop_begin(e, &loop, emit_i64(e, 0), emit_i64(e, type.columns), 1, NULL, 0);
    LLVMValueRef element =
        host_element(h, value, place, TILE_LAYOUT_ROW_MAJOR, emit_i64(e, 0), loop.index);
    element = emit_broadcast(e, host_to_memory(h, type.element, element));
    LLVMValueRef offset = LLVMBuildMul(e->builder, loop.index, emit_i64(e, h->panel_rows), "");
    for (uint32_t k = 0; k < h->panel_rows; k += e->lanes) {
      LLVMValueRef at = LLVMBuildAdd(e->builder, offset, emit_i64(e, k), "");
      emit_store(e, element, emit_address(e, host_element_type(h, type.element), copy.base, at), 1);
    }
    emit_loop_end(e, &loop, NULL);
    return copy;
  }
  copy.base = host_allocate(h, host_tile_bytes(h, type, layout));
  if (place->kind == HOST_SPLAT || place->kind == HOST_SCALAR)
    fill(h, &copy, type, layout, place->scalar);
  else
    copy_elements(h, value, layout_of(h, value), &copy, layout);
  return copy;
}

LLVMValueRef host_convert(struct host *h, const struct tile_op *op, LLVMValueRef value)
{
  struct emit *e = &h->e;
  enum tile_element from = op->operands[0]->type.element;
  enum tile_element to = op->results[0]->type.element;
  bool from_real = from == TILE_F32 || from == TILE_F16 || from == TILE_BF16;
  LLVMTypeRef f32 = emit_type_like(e, value, e->f32);
  LLVMTypeRef i32 = emit_type_like(e, value, e->i32);
  switch (to) {
  case TILE_F32:
  case TILE_F16:
  case TILE_BF16:
    if (from == TILE_BOOL)
      value = LLVMBuildUIToFP(e->builder, value, f32, "");
    else if (!from_real)
      value = LLVMBuildSIToFP(e->builder, value, f32, "");
    return host_round(h, to, value);
  case TILE_I32:
  case TILE_INDEX:
    if (from == TILE_BOOL)
      return LLVMBuildZExt(e->builder, value, i32, "");
    if (!from_real)
      return value;
    return emit_real_to_int(e, value, e->i32);
  case TILE_BOOL:
    if (from_real)
      return LLVMBuildFCmp(e->builder, LLVMRealUNE, value, emit_float_like(value, 0), "");
    return from == TILE_BOOL
               ? value
               : LLVMBuildICmp(e->builder, LLVMIntNE, value, emit_int_of(LLVMTypeOf(value), 0), "");
  }
  return value;
}

LLVMValueRef host_permuted_column(struct host *h, const struct tile_op *op, LLVMValueRef column)
{
  struct emit *e = &h->e;
  uint32_t count = op->results[0]->type.columns;
  LLVMValueRef *entries = ARENA_ARRAY(h->arena, LLVMValueRef, count);
  for (uint32_t k = 0; k < count; k++)
    entries[k] = emit_i32(e, (int32_t)op->permutation[k]);
  LLVMTypeRef type = LLVMArrayType2(e->i32, count);
  LLVMValueRef table = LLVMAddGlobal(e->module, type, "permutation");
  LLVMSetInitializer(table, LLVMConstArray2(e->i32, entries, count));
  LLVMSetLinkage(table, LLVMPrivateLinkage);
  LLVMSetGlobalConstant(table, true);
  LLVMValueRef entry = emit_load(e, e->i32, emit_address(e, e->i32, table, column), 4);
  return LLVMBuildZExt(e->builder, entry, e->i64, "");
}
