/* Where the elements of loads and stores lie in memory.
 *
 * Rows may lie anywhere: an index may be a tile of them. What such a tile holds is mostly a formula
 * of the row's number (a page and a slot in it), and then whoever needs a row's address computes it
 * for that row: the threads that copy rows are not those that have them in the fragment, and a copy
 * ahead needs them of another tile than that at hand. */
#include "compiler/target/nvptx/lower.h"

LLVMValueRef gpu_index(struct gpu *g, const struct tile_value *value)
{
  LLVMValueRef scalar = gpu_value(g, value)->scalar;
  return LLVMTypeOf(scalar) == g->e->i32 ? LLVMBuildSExt(g->e->builder, scalar, g->e->i64, "")
                                         : scalar;
}

static uint32_t rank_of(const struct gpu *g, uint32_t tensor)
{
  return g->kernel->tensors.items[tensor].rank;
}

enum dtype gpu_dtype(const struct gpu *g, uint32_t tensor)
{
  return g->kernel->tensors.items[tensor].element;
}

static LLVMValueRef stride_of(struct gpu *g, uint32_t tensor, uint32_t dim)
{
  return emit_tensor_stride(g->e, &g->slots, tensor, dim);
}

/* The launcher guarantees a stride of 1 along the last dimension where columns run along it. */
static LLVMValueRef column_stride(struct gpu *g, const struct tile_access *access)
{
  if (access->column_dim == TILE_NO_DIM || residence_has_unit_columns(g->where, access))
    return emit_i64(g->e, 1);
  return stride_of(g, access->tensor, access->column_dim);
}

/* Of an axis, as an i32 that is not negative; no tile is that long. */
static LLVMValueRef live_count(struct gpu *g, const struct tile_value *value)
{
  struct emit *e = g->e;
  const int64_t most = 1 << 20;
  LLVMValueRef live = gpu_index(g, value);
  if (LLVMIsAConstantInt(live) != NULL) {
    long long count = LLVMConstIntGetSExtValue(live);
    return emit_i32(e, (int32_t)(count < 0 ? 0 : count > most ? most : count));
  }
  live = emit_intrinsic(e, "llvm.smax", e->i64, (LLVMValueRef[]){live, emit_i64(e, 0)}, 2);
  live = emit_intrinsic(e, "llvm.smin", e->i64, (LLVMValueRef[]){live, emit_i64(e, most)}, 2);
  return LLVMBuildTrunc(e->builder, live, e->i32, "");
}

struct gpu_access gpu_access_indices(struct gpu *g, const struct tile_op *op)
{
  struct emit *e = g->e;
  struct tile_value *const *operands = op->operands + tile_first_index(op->kind);
  uint32_t rank = rank_of(g, op->access.tensor);
  struct gpu_access a = {.access = &op->access, .origin = emit_i64(e, 0)};
  for (uint32_t d = 0; d < rank; d++) {
    if (operands[d]->type.kind == TILE_KIND_TILE) {
      a.rows[d] = operands[d];
      a.scattered = true;
      continue;
    }
    LLVMValueRef index = gpu_index(g, operands[d]);
    LLVMValueRef stride = op->access.column_dim == d ? column_stride(g, &op->access)
                                                     : stride_of(g, op->access.tensor, d);
    if (op->access.column_dim == d)
      a.first_column = index;
    a.origin = LLVMBuildAdd(e->builder, a.origin, LLVMBuildMul(e->builder, index, stride, ""), "");
  }
  return a;
}

struct gpu_access gpu_access(struct gpu *g, const struct tile_op *op)
{
  struct tile_value *const *operands = op->operands + tile_first_index(op->kind);
  const uint32_t rank = rank_of(g, op->access.tensor);
  struct gpu_access a = gpu_access_indices(g, op);
  a.live_rows = live_count(g, operands[rank]);
  a.live_columns = live_count(g, operands[rank + 1]);
  return a;
}

LLVMValueRef gpu_lives(struct gpu *g, LLVMValueRef index, LLVMValueRef live, uint32_t count)
{
  struct emit *e = g->e;
  if (LLVMIsAConstantInt(live) != NULL && LLVMConstIntGetSExtValue(live) >= (long long)count)
    return NULL;
  return LLVMBuildICmp(e->builder, LLVMIntSLT, index, live, "");
}

/* ---- rows that lie anywhere ---- */

static LLVMValueRef formula_operand(void *user, uint32_t index)
{
  return ((LLVMValueRef *)user)[index];
}

/* Element (row, 0) of a formula, row (i32) being one of the tile's. Nothing is loaded for rows that
 * are dead to the access `a`. */
static LLVMValueRef formula_at(struct gpu *g, const struct gpu_access *a,
                               const struct tile_value *value, LLVMValueRef row)
{
  struct emit *e = g->e;
  const struct tile_op *op = value->def;
  if (value->type.kind == TILE_KIND_SCALAR)
    return gpu_value(g, value)->scalar;
  if (value->type.rows == 1)
    row = emit_i32(e, 0);
  if (op->kind == TILE_LOAD) {
    struct gpu_access own = gpu_access(g, op);
    if (gpu_lives(g, row, a->live_rows, value->type.rows) != NULL)
      own.live_rows =
          emit_intrinsic(e, "llvm.smin", e->i32, (LLVMValueRef[]){own.live_rows, a->live_rows}, 2);
    LLVMValueRef offset = gpu_row_offset(g, &own, value->type, row, value->type.rows);
    LLVMValueRef live = gpu_both(g, gpu_lives(g, row, own.live_rows, value->type.rows),
                                 gpu_lives(g, emit_i32(e, 0), own.live_columns, 1));
    return gpu_load_element(g, op->access.tensor, value->type.element,
                            gpu_spot_at(g, op->access.tensor, offset), live);
  }
  LLVMValueRef *operands = ARENA_ARRAY(g->arena, LLVMValueRef, op->operand_count + 1);
  for (uint32_t k = 0; k < op->operand_count; k++)
    operands[k] = formula_at(g, a, op->operands[k], row);
  if (op->kind == TILE_SPLAT)
    return operands[0];
  if (op->kind == TILE_IOTA) {
    LLVMValueRef base = operands[0];
    if (LLVMTypeOf(base) == e->i64)
      base = LLVMBuildTrunc(e->builder, base, e->i32, "");
    return LLVMBuildAdd(e->builder, base, row, "");
  }
  emit_expression_reset(&g->expression);
  g->expression.operand = formula_operand;
  g->expression.user = operands;
  LLVMValueRef result = emit_expression(&g->expression, op->expr);
  emit_expression_reset(&g->expression);
  return gpu_round(g, value->type.element, result);
}

static LLVMValueRef clamp_row(struct gpu *g, LLVMValueRef row, uint32_t reach, uint32_t rows)
{
  if (reach <= rows)
    return row;
  struct emit *e = g->e;
  return emit_intrinsic(e, "llvm.smin", e->i32,
                        (LLVMValueRef[]){row, emit_i32(e, (int32_t)rows - 1)}, 2);
}

static LLVMValueRef scale_index(struct gpu *g, uint32_t tensor, uint32_t dim, LLVMValueRef index)
{
  struct emit *e = g->e;
  return LLVMBuildMul(e->builder, LLVMBuildSExt(e->builder, index, e->i64, ""),
                      stride_of(g, tensor, dim), "");
}

/* The part of a row's offset that tiles of indices make, from their elements by dimension. */
static LLVMValueRef scattered_offset(struct gpu *g, const struct gpu_access *a,
                                     LLVMValueRef *indices)
{
  LLVMValueRef offset = NULL;
  for (uint32_t d = 0; d < rank_of(g, a->access->tensor); d++) {
    if (a->rows[d] == NULL)
      continue;
    LLVMValueRef part = scale_index(g, a->access->tensor, d, indices[d]);
    offset = offset == NULL ? part : LLVMBuildAdd(g->e->builder, offset, part, "");
  }
  return offset;
}

static LLVMValueRef steps(struct gpu *g, uint32_t tensor, uint8_t dim, LLVMValueRef count)
{
  return dim == TILE_NO_DIM ? emit_i64(g->e, 0) : scale_index(g, tensor, dim, count);
}

/* Elements from the origin to a row of the tile, without what tiles of indices add. */
static LLVMValueRef even_offset(struct gpu *g, const struct tile_access *access, LLVMValueRef row)
{
  struct emit *e = g->e;
  if (access->row_group <= 1)
    return steps(g, access->tensor, access->row_dim, row);
  LLVMValueRef size = emit_i32(e, (int32_t)access->row_group);
  LLVMValueRef outer = LLVMBuildUDiv(e->builder, row, size, "");
  LLVMValueRef within = LLVMBuildURem(e->builder, row, size, "");
  return LLVMBuildAdd(e->builder, steps(g, access->tensor, access->row_dim, outer),
                      steps(g, access->tensor, access->group_dim, within), "");
}

LLVMValueRef gpu_row_offset(struct gpu *g, const struct gpu_access *a, struct tile_type type,
                            LLVMValueRef row, uint32_t reach)
{
  LLVMBuilderRef builder = g->e->builder;
  LLVMValueRef offset = LLVMBuildAdd(builder, even_offset(g, a->access, row), a->origin, "");
  if (!a->scattered)
    return offset;
  LLVMValueRef indices[SPEC_MAX_RANK], own = clamp_row(g, row, reach, type.rows);
  for (uint32_t d = 0; d < SPEC_MAX_RANK; d++)
    if (a->rows[d] != NULL)
      indices[d] = residence_is_row_formula(g->where, a->rows[d])
                       ? formula_at(g, a, a->rows[d], own)
                       : gpu_shared_load(g, &a->row_places[d], own, emit_i32(g->e, 0));
  return LLVMBuildAdd(builder, offset, scattered_offset(g, a, indices), "");
}

LLVMValueRef gpu_column_offset(struct gpu *g, const struct gpu_access *a, LLVMValueRef column)
{
  struct emit *e = g->e;
  if (a->access->column_dim == TILE_NO_DIM)
    return emit_i64(e, 0);
  return LLVMBuildMul(e->builder, LLVMBuildSExt(e->builder, column, e->i64, ""),
                      column_stride(g, a->access), "");
}

LLVMValueRef gpu_row_stride(struct gpu *g, const struct gpu_access *a)
{
  return stride_of(g, a->access->tensor, a->access->row_dim);
}

/* ---- addresses ---- */

LLVMValueRef gpu_bytes(struct gpu *g, enum dtype type, LLVMValueRef count)
{
  struct emit *e = g->e;
  if (residence_bits(type) < 8)
    return LLVMBuildAShr(e->builder, count, emit_i64(e, residence_bits(type) == 4 ? 1 : 2), "");
  return LLVMBuildMul(e->builder, count, emit_i64(e, (int64_t)dtype_size(type)), "");
}

LLVMValueRef gpu_is_aligned(struct gpu *g, const struct gpu_access *a, uint32_t bytes)
{
  struct emit *e = g->e;
  const uint32_t tensor = a->access->tensor;
  LLVMValueRef all = emit_slot(e, &g->slots, tile_tensor_slot(g->kernel, tensor));
  for (uint32_t d = 0; d < rank_of(g, tensor); d++) {
    LLVMValueRef step = d == a->access->column_dim ? a->first_column : stride_of(g, tensor, d);
    all = LLVMBuildOr(e->builder, all, gpu_bytes(g, gpu_dtype(g, tensor), step), "");
  }
  LLVMValueRef rest = LLVMBuildAnd(e->builder, all, emit_i64(e, bytes - 1), "");
  return LLVMBuildICmp(e->builder, LLVMIntEQ, rest, emit_i64(e, 0), "");
}

static LLVMTypeRef storage_type(struct gpu *g, enum dtype type)
{
  return residence_is_code(type) ? g->e->i8 : emit_storage_type(g->e, type);
}

struct gpu_spot gpu_spot_at(struct gpu *g, uint32_t tensor, LLVMValueRef offset)
{
  struct emit *e = g->e;
  enum dtype type = gpu_dtype(g, tensor);
  LLVMValueRef base = emit_tensor_base(e, &g->slots, tensor);
  struct gpu_spot spot = {0};
  if (residence_bits(type) < 8) {
    const int64_t several = tile_elements_per_byte(type);
    LLVMValueRef part = LLVMBuildAnd(e->builder, offset, emit_i64(e, several - 1), "");
    spot.shift = LLVMBuildMul(e->builder, LLVMBuildTrunc(e->builder, part, e->i32, ""),
                              emit_i32(e, (int32_t)residence_bits(type)), "");
    offset = gpu_bytes(g, type, offset);
  }
  spot.pointer = emit_address(e, storage_type(g, type), base, offset);
  return spot;
}

struct gpu_spot gpu_row_begin(struct gpu *g, const struct gpu_access *a, struct tile_type type,
                              uint32_t r)
{
  struct emit *e = g->e;
  LLVMValueRef row = gpu_row(g, type, r);
  LLVMValueRef offset = LLVMBuildAdd(e->builder, a->origin, even_offset(g, a->access, row), "");
  if (a->scattered) {
    LLVMValueRef indices[SPEC_MAX_RANK];
    uint32_t reach = gpu_row_exists(g, type, r) == NULL ? 0 : UINT32_MAX;
    for (uint32_t d = 0; d < SPEC_MAX_RANK; d++)
      if (a->rows[d] != NULL)
        indices[d] = gpu_value(g, a->rows[d])->kind == GPU_UNSET
                         ? formula_at(g, a, a->rows[d], clamp_row(g, row, reach, type.rows))
                         : gpu_element(g, a->rows[d], r, 0);
    offset = LLVMBuildAdd(e->builder, offset, scattered_offset(g, a, indices), "");
  }
  if (residence_has_unit_columns(g->where, a->access) &&
      residence_bits(gpu_dtype(g, a->access->tensor)) >= 8)
    offset = LLVMBuildAdd(e->builder, offset,
                          LLVMBuildSExt(e->builder, gpu_column(g, type, 0), e->i64, ""), "");
  return gpu_spot_at(g, a->access->tensor, offset);
}

struct gpu_spot gpu_spot(struct gpu *g, const struct gpu_access *a, struct tile_type type,
                         struct gpu_spot begin, uint32_t c)
{
  struct emit *e = g->e;
  enum dtype stored = gpu_dtype(g, a->access->tensor);
  LLVMValueRef column = gpu_column(g, type, c);
  struct gpu_spot spot = begin;
  if (!residence_has_unit_columns(g->where, a->access)) {
    LLVMValueRef bytes = gpu_bytes(g, stored, gpu_column_offset(g, a, column));
    spot.pointer = emit_address(e, e->i8, begin.pointer, bytes);
  } else if (residence_bits(stored) >= 8) {
    int64_t size = (int64_t)dtype_size(stored);
    spot.pointer = gpu_further(g, begin.pointer, (int64_t)gpu_column_step(c) * size);
  } else {
    /* The tile's first column begins a byte. */
    LLVMValueRef part = LLVMBuildAnd(e->builder, column,
                                     emit_i32(e, (int32_t)tile_elements_per_byte(stored) - 1), "");
    spot.shift = LLVMBuildMul(e->builder, part, emit_i32(e, (int32_t)residence_bits(stored)), "");
    column = LLVMBuildSExt(e->builder, column, e->i64, "");
    spot.pointer = emit_address(e, e->i8, begin.pointer, gpu_bytes(g, stored, column));
  }
  return spot;
}

LLVMValueRef gpu_load_element(struct gpu *g, uint32_t tensor, enum tile_element element,
                              struct gpu_spot spot, LLVMValueRef live)
{
  struct emit *e = g->e;
  enum dtype type = gpu_dtype(g, tensor);
  LLVMValueRef pointer = spot.pointer, loaded;
  /* The first element of a tensor can always be read. */
  if (live != NULL)
    pointer = emit_select(e, live, pointer, emit_tensor_base(e, &g->slots, tensor));
  if (residence_is_code(type)) {
    loaded = LLVMBuildZExt(e->builder, emit_load(e, e->i8, pointer, 1), e->i32, "");
    if (spot.shift != NULL)
      loaded = LLVMBuildLShr(e->builder, loaded, spot.shift, "");
    loaded = gpu_decode_one(g, type, element, loaded);
  } else {
    loaded = emit_load(e, emit_storage_type(e, type), pointer, (unsigned)dtype_size(type));
    loaded = emit_from_storage(e, type, loaded);
  }
  return live == NULL ? loaded : emit_select(e, live, loaded, LLVMConstNull(LLVMTypeOf(loaded)));
}
