#include "compiler/target/host/place.h"

#include "compiler/emit/narrow.h"

/* ---- where ---- */

static LLVMValueRef as_index(struct host *h, LLVMValueRef value)
{
  return emit_element_type(value) == h->e.i32 ? LLVMBuildSExt(h->e.builder, value, h->e.i64, "")
                                              : value;
}

static LLVMValueRef at_most(struct emit *e, LLVMValueRef count, uint32_t most)
{
  if (LLVMIsAConstantInt(count) != NULL)
    return LLVMConstIntGetSExtValue(count) < most ? count : emit_i64(e, most);
  return emit_intrinsic(e, "llvm.smin", e->i64, (LLVMValueRef[]){count, emit_i64(e, most)}, 2);
}

/* Inside a group the indices of the panel at hand are in registers; they go to memory for the loop
 * over rows. */
static struct place_gather gather(struct host *h, const struct tile_value *value,
                                  LLVMValueRef stride, LLVMValueRef panel)
{
  struct emit *e = &h->e;
  const struct host_value *from = host_value(h, value);
  struct place_gather g = {.value = value, .at = *from, .first = emit_i64(e, 0), .stride = stride};
  g.at.stride = emit_i64(e, 1);
  if (panel == NULL || (!host_is_pending(h, value) && from->kind != HOST_ROWS && !from->per_panel))
    return g;
  g.first = LLVMBuildMul(e->builder, panel, emit_i64(e, h->panel_rows), "");
  g.at.kind = HOST_MEMORY;
  g.at.base = host_allocate(h, (size_t)h->panel_rows * sizeof(int32_t));
  for (uint32_t v = 0; v < h->schedule.row_vectors; v++)
    emit_store(e, emit_broadcast(e, from->rows[v]),
               emit_address(e, e->i32, g.at.base, emit_i64(e, (int64_t)v * e->lanes)), 4);
  return g;
}

struct place place_locate(struct host *h, const struct tile_op *op, struct tile_type tile,
                          LLVMValueRef panel)
{
  struct emit *e = &h->e;
  const struct tile_access *access = &op->access;
  const struct tile_tensor *tensor = &h->kernel->tensors.items[access->tensor];
  struct place place = {.stored = tensor->element, .type = emit_storage_type(e, tensor->element)};
  struct tile_value *const *indices = op->operands + tile_first_index(op->kind);
  LLVMValueRef offset = emit_i64(e, 0), none = offset;
  place.row_stride = place.group_stride = place.column_stride = none;
  for (uint32_t k = 0; k < tensor->rank; k++) {
    LLVMValueRef stride = emit_tensor_stride(e, &h->slots, access->tensor, k);
    if (k == access->row_dim)
      place.row_stride = stride;
    if (k == access->group_dim)
      place.group_stride = stride;
    if (k == access->column_dim) /* the innermost stride is 1 (abi.h) */
      place.column_stride = k + 1 == tensor->rank ? emit_i64(e, 1) : stride;
    if (indices[k]->type.kind == TILE_KIND_TILE) {
      place.gathers[place.gather_count++] = gather(h, indices[k], stride, panel);
      continue;
    }
    LLVMValueRef index = as_index(h, host_value(h, indices[k])->scalar);
    offset = LLVMBuildAdd(e->builder, offset, LLVMBuildMul(e->builder, index, stride, ""), "");
  }
  place.row_group = access->row_group;
  place.base = emit_tensor_base(e, &h->slots, access->tensor);
  if (tile_elements_per_byte(place.stored) > 1)
    place.offset = offset;
  else
    place.base = emit_address(e, place.type, place.base, offset);
  LLVMValueRef live_rows = as_index(h, host_value(h, indices[tensor->rank])->scalar);
  LLVMValueRef live_columns = as_index(h, host_value(h, indices[tensor->rank + 1])->scalar);
  place.live_rows = at_most(e, live_rows, tile.rows);
  place.live_columns = at_most(e, live_columns, tile.columns);
  return place;
}

/* Elements from `base` to row m. */
static LLVMValueRef row_offset(struct host *h, const struct place *place, LLVMValueRef m)
{
  LLVMBuilderRef b = h->e.builder;
  LLVMValueRef offset;
  if (place->row_group == 1) {
    offset = LLVMBuildMul(b, m, place->row_stride, "");
  } else {
    LLVMValueRef group = emit_i64(&h->e, place->row_group);
    offset = LLVMBuildMul(b, LLVMBuildUDiv(b, m, group, ""), place->row_stride, "");
    LLVMValueRef inner = LLVMBuildMul(b, LLVMBuildURem(b, m, group, ""), place->group_stride, "");
    offset = LLVMBuildAdd(b, offset, inner, "");
  }
  for (uint32_t k = 0; k < place->gather_count; k++) {
    const struct place_gather *g = &place->gathers[k];
    LLVMValueRef row = LLVMBuildSub(b, m, g->first, "");
    LLVMValueRef index =
        host_element(h, g->value, &g->at, TILE_LAYOUT_ROW_MAJOR, row, emit_i64(&h->e, 0));
    index = LLVMBuildMul(b, as_index(h, index), g->stride, "");
    offset = LLVMBuildAdd(b, offset, index, "");
  }
  return place->offset == NULL ? offset : LLVMBuildAdd(b, offset, place->offset, "");
}

/* The byte that holds element number `offset` from a byte's begin. */
static LLVMValueRef byte_of(struct host *h, enum dtype stored, LLVMValueRef offset)
{
  uint32_t several = tile_elements_per_byte(stored);
  return LLVMBuildAShr(h->e.builder, offset, emit_i64(&h->e, several == 4 ? 2 : 1), "");
}

/* Its number among those of the byte. */
static LLVMValueRef place_in_byte(struct host *h, enum dtype stored, LLVMValueRef offset)
{
  return LLVMBuildAnd(h->e.builder, offset,
                      emit_i64(&h->e, (int64_t)tile_elements_per_byte(stored) - 1), "");
}

LLVMValueRef place_row(struct host *h, const struct place *place, LLVMValueRef m)
{
  LLVMValueRef offset = row_offset(h, place, m);
  if (place->offset != NULL)
    offset = byte_of(h, place->stored, offset);
  return emit_address(&h->e, place->type, place->base, offset);
}

LLVMValueRef place_skip(struct host *h, const struct place *place, LLVMValueRef m)
{
  if (place->offset == NULL || place_is_contiguous(place))
    return emit_i64(&h->e, 0);
  return place_in_byte(h, place->stored, row_offset(h, place, m));
}

/* ---- loads ---- */

/* `lanes` codes, or one, from `column` on, as i32. All codes of a vector are in one word of memory,
 * where they are no more than 32 bits, or in several whole ones. */
static LLVMValueRef load_codes(struct host *h, const struct place *place, LLVMValueRef row,
                               LLVMValueRef column, bool vector)
{
  struct emit *e = &h->e;
  const uint32_t several = tile_elements_per_byte(place->stored);
  const uint32_t bits = e->lanes / several * 8;
  if (!vector) {
    LLVMValueRef address = emit_address(e, e->i8, row, byte_of(h, place->stored, column));
    LLVMValueRef word = LLVMBuildZExt(e->builder, emit_load(e, e->i8, address, 1), e->i32, "");
    LLVMValueRef index = place_in_byte(h, place->stored, column);
    return emit_code(e, place->stored, word, LLVMBuildTrunc(e->builder, index, e->i32, ""));
  }
  if (bits >= 8 && bits <= 32) {
    LLVMTypeRef type = LLVMIntTypeInContext(e->context, bits);
    LLVMValueRef address = emit_address(e, e->i8, row, byte_of(h, place->stored, column));
    LLVMValueRef word = LLVMBuildZExt(e->builder, emit_load(e, type, address, 1), e->i32, "");
    return emit_code(e, place->stored, emit_broadcast(e, word), emit_lane_numbers(e));
  }
  if (bits > 32 && bits % 32 == 0) { /* several words, each repeated for its lanes */
    LLVMTypeRef type = LLVMVectorType(e->i32, bits / 32);
    LLVMValueRef address = emit_address(e, e->i8, row, byte_of(h, place->stored, column));
    LLVMValueRef words = emit_load(e, type, address, 1), which[64], index[64];
    for (uint32_t k = 0; k < e->lanes; k++) {
      which[k] = emit_i32(e, (int32_t)(k / (4 * several)));
      index[k] = emit_i32(e, (int32_t)(k % (4 * several)));
    }
    words = LLVMBuildShuffleVector(e->builder, words, LLVMGetPoison(type),
                                   LLVMConstVector(which, e->lanes), "");
    return emit_code(e, place->stored, words, LLVMConstVector(index, e->lanes));
  }
  LLVMValueRef codes = LLVMConstNull(emit_vector_type(e, e->i32));
  for (uint32_t k = 0; k < e->lanes; k++) {
    LLVMValueRef at = LLVMBuildAdd(e->builder, column, emit_i64(e, k), "");
    LLVMValueRef code = load_codes(h, place, row, at, false);
    codes = LLVMBuildInsertElement(e->builder, codes, code, emit_i32(e, (int32_t)k), "");
  }
  return codes;
}

/* `value`: as emit_from_storage gives it. */
static LLVMValueRef convert_loaded(struct host *h, enum dtype stored, enum tile_element element,
                                   LLVMValueRef value)
{
  struct emit *e = &h->e;
  bool is_bool = stored == DTYPE_BOOL;
  bool is_real = emit_element_type(value) == e->f32;
  switch (element) {
  case TILE_F32:
  case TILE_F16:
  case TILE_BF16:
    if (!is_real)
      value = is_bool ? LLVMBuildUIToFP(e->builder, value, emit_type_like(e, value, e->f32), "")
                      : LLVMBuildSIToFP(e->builder, value, emit_type_like(e, value, e->f32), "");
    /* Half types hold their own numbers and those of a byte or less. */
    if (dtype_size(stored) < 2 || (element == TILE_F16 && stored == DTYPE_F16) ||
        (element == TILE_BF16 && stored == DTYPE_BF16))
      return value;
    return host_round(h, element, value);
  case TILE_I32:
  case TILE_INDEX:
    return is_bool ? LLVMBuildZExt(e->builder, value, emit_type_like(e, value, e->i32), "") : value;
  case TILE_BOOL:
    return is_bool
               ? value
               : LLVMBuildICmp(e->builder, LLVMIntNE, value, emit_int_of(LLVMTypeOf(value), 0), "");
  }
  return value;
}

LLVMValueRef place_load(struct host *h, const struct place *place, enum tile_element element,
                        LLVMValueRef row, LLVMValueRef column, bool vector)
{
  struct emit *e = &h->e;
  if (place->offset != NULL)
    return convert_loaded(h, place->stored, element, load_codes(h, place, row, column, vector));
  LLVMTypeRef type = vector ? emit_vector_type(e, place->type) : place->type;
  LLVMValueRef raw = emit_load(e, type, emit_address(e, place->type, row, column),
                               (unsigned)dtype_size(place->stored));
  return convert_loaded(h, place->stored, element, emit_from_storage(e, place->stored, raw));
}

/* ---- stores ---- */

void place_store(struct host *h, const struct place *place, LLVMValueRef row, LLVMValueRef column,
                 LLVMValueRef value)
{
  struct emit *e = &h->e;
  emit_store(e, emit_to_storage(e, place->stored, value), emit_address(e, place->type, row, column),
             (unsigned)dtype_size(place->stored));
}
