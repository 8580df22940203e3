/* Tensors: loads into registers, stores. */
#include "compiler/target/nvptx/lower.h"

/* ---- order within a block ---- */

void gpu_order(struct gpu *g, uint32_t tensor)
{
  if (g->where->reads_back[tensor])
    gpu_barrier(g);
}

void gpu_order_reads(struct gpu *g, const struct expr *e)
{
  if (residence_reads_back(g->where, e))
    gpu_barrier(g);
}

/* ---- loads ---- */

static LLVMValueRef column_lives(struct gpu *g, const struct gpu_access *a, struct tile_type type,
                                 uint32_t c)
{
  return gpu_both(g, gpu_column_exists(g, type, c),
                  gpu_lives(g, gpu_column(g, type, c), a->live_columns, type.columns));
}

static LLVMValueRef row_lives(struct gpu *g, const struct gpu_access *a, struct tile_type type,
                              uint32_t r)
{
  return gpu_both(g, gpu_row_exists(g, type, r),
                  gpu_lives(g, gpu_row(g, type, r), a->live_rows, type.rows));
}

static void load_fragment(struct gpu *g, const struct tile_value *result,
                          const struct gpu_access *a)
{
  struct tile_type type = result->type;
  struct gpu_shape shape = gpu_shape(g, type);
  LLVMValueRef *elements = ARENA_ARRAY(g->arena, LLVMValueRef, shape.rows * shape.columns);
  for (uint32_t r = 0; r < shape.rows; r++) {
    LLVMValueRef row_live = row_lives(g, a, type, r);
    struct gpu_spot begin = gpu_row_begin(g, a, type, r);
    for (uint32_t c = 0; c < shape.columns; c++) {
      LLVMValueRef live = gpu_both(g, row_live, column_lives(g, a, type, c));
      elements[r * shape.columns + c] = gpu_load_element(g, a->access->tensor, type.element,
                                                         gpu_spot(g, a, type, begin, c), live);
    }
  }
  gpu_set_elements(g, result, elements);
}

LLVMValueRef gpu_load_lazily(struct gpu *g, const struct tile_value *value, uint32_t r, uint32_t c)
{
  const struct gpu_access *a = gpu_value(g, value)->access;
  struct tile_type type = value->type;
  if (type.rows == 1)
    r = 0;
  LLVMValueRef live = gpu_both(g, column_lives(g, a, type, c), row_lives(g, a, type, r));
  struct gpu_spot begin = a->scattered ? a->begins[r] : gpu_row_begin(g, a, type, r);
  struct gpu_spot spot = gpu_spot(g, a, type, begin, c);
  return gpu_round(g, type.element,
                   gpu_load_element(g, a->access->tensor, type.element, spot, live));
}

/* Formulas of rows are computed here: expressions cannot be emitted within another's operand. */
static void bind_lazily(struct gpu *g, const struct tile_value *result, struct gpu_access a)
{
  const uint32_t rows = gpu_shape(g, result->type).rows;
  struct gpu_access *kept = ARENA_NEW(g->arena, struct gpu_access);
  a.begins = ARENA_ARRAY(g->arena, struct gpu_spot, rows);
  for (uint32_t r = 0; a.scattered && r < rows; r++)
    a.begins[r] = gpu_row_begin(g, &a, result->type, r);
  *kept = a;
  *gpu_value(g, result) = (struct gpu_value){.kind = GPU_LAZY, .access = kept};
}

LLVMValueRef gpu_rearranged_row(struct gpu *g, const struct tile_value *value, LLVMValueRef row)
{
  return gpu_row_offset(g, gpu_value(g, value)->access, value->type, row, value->type.rows);
}

LLVMValueRef gpu_load_rearranged(struct gpu *g, const struct tile_value *value, LLVMValueRef row,
                                 LLVMValueRef row_offset, LLVMValueRef column, LLVMValueRef exists)
{
  const struct gpu_access *a = gpu_value(g, value)->access;
  const struct tile_type type = value->type;
  LLVMValueRef live = gpu_both(g, exists, gpu_lives(g, row, a->live_rows, type.rows));
  live = gpu_both(g, live, gpu_lives(g, column, a->live_columns, type.columns));
  LLVMValueRef offset =
      LLVMBuildAdd(g->e->builder, row_offset, gpu_column_offset(g, a, column), "");
  struct gpu_spot spot = gpu_spot_at(g, a->access->tensor, offset);
  return gpu_round(g, type.element,
                   gpu_load_element(g, a->access->tensor, type.element, spot, live));
}

void gpu_load(struct gpu *g, const struct tile_op *op)
{
  gpu_order(g, op->access.tensor);
  if (gpu_stream_bind(g, op))
    return;
  const struct tile_value *result = op->results[0];
  struct gpu_access a = gpu_access(g, op);
  if (residence_is_rearranged(g->where, op)) {
    struct gpu_access *kept = ARENA_NEW(g->arena, struct gpu_access);
    *kept = a;
    *gpu_value(g, result) = (struct gpu_value){.kind = GPU_LAZY, .access = kept};
    return;
  }
  if (residence_is_lazy(g->where, op)) {
    bind_lazily(g, result, a);
    return;
  }
  if (!residence_wants_shared(g->where, result)) {
    load_fragment(g, result, &a);
    gpu_settle(g, result);
    return;
  }
  struct gpu_value *v = gpu_value(g, result);
  *v = (struct gpu_value){.kind = GPU_SHARED, .in_shared = true};
  v->place = gpu_new_load_place(g, op);
  gpu_barrier(g);
  gpu_copy(g, &a, result->type, &v->place, (struct gpu_copy_start){0});
  emit_gpu_copy_commit(g->e);
  emit_gpu_copy_wait(g->e, 0);
  gpu_barrier(g);
  gpu_keep(g, result);
}

/* ---- stores ---- */

static void store_element(struct gpu *g, const struct tile_op *op, LLVMValueRef address,
                          LLVMValueRef element)
{
  struct emit *e = g->e;
  enum dtype type = gpu_dtype(g, op->access.tensor);
  unsigned align = (unsigned)dtype_size(type);
  if (op->kind == TILE_ACCUMULATE) {
    LLVMValueRef old =
        emit_from_storage(e, type, emit_load(e, emit_storage_type(e, type), address, align));
    element = LLVMTypeOf(element) == e->f32 ? LLVMBuildFAdd(e->builder, old, element, "")
                                            : LLVMBuildAdd(e->builder, old, element, "");
  }
  emit_store(e, emit_to_storage(e, type, element), address, align);
}

static void store_row(struct gpu *g, const struct tile_op *op, const struct gpu_access *a,
                      uint32_t r, struct gpu_spot begin, bool pairs)
{
  struct emit *e = g->e;
  const struct tile_value *tile = op->operands[0];
  struct tile_type type = tile->type;
  struct gpu_shape shape = gpu_shape(g, type);
  for (uint32_t c = 0; c < shape.columns; c += pairs ? 2 : 1) {
    LLVMValueRef column = gpu_column(g, type, c);
    LLVMValueRef live = gpu_both(g, gpu_column_exists(g, type, c),
                                 gpu_lives(g, column, a->live_columns, type.columns));
    LLVMValueRef address = gpu_spot(g, a, type, begin, c).pointer;
    LLVMValueRef element = gpu_element(g, tile, r, c);
    struct emit_branch branch;
    if (live != NULL)
      emit_if(e, &branch, live);
    if (pairs)
      emit_store(e,
                 emit_gpu_pack(e, gpu_dtype(g, op->access.tensor), element,
                               gpu_element(g, tile, r, c + 1)),
                 address, 4);
    else
      store_element(g, op, address, element);
    if (live != NULL) {
      emit_else(e, &branch);
      emit_end_if(e, &branch);
    }
  }
}

static void store_rows(struct gpu *g, const struct tile_op *op, const struct gpu_access *a,
                       bool pairs)
{
  struct emit *e = g->e;
  struct tile_type type = op->operands[0]->type;
  struct gpu_shape shape = gpu_shape(g, type);
  LLVMValueRef mine = gpu_is_first_copy(g, type);
  for (uint32_t r = 0; r < shape.rows; r++) {
    LLVMValueRef row = gpu_row(g, type, r);
    LLVMValueRef live =
        gpu_both(g, gpu_row_exists(g, type, r), gpu_lives(g, row, a->live_rows, type.rows));
    live = gpu_both(g, live, mine);
    struct gpu_spot begin = gpu_row_begin(g, a, type, r);
    struct emit_branch branch;
    if (live != NULL)
      emit_if(e, &branch, live);
    store_row(g, op, a, r, begin, pairs);
    if (live != NULL) {
      emit_else(e, &branch);
      emit_end_if(e, &branch);
    }
  }
}

void gpu_store(struct gpu *g, const struct tile_op *op)
{
  struct emit *e = g->e;
  struct tile_type type = op->operands[0]->type;
  gpu_order(g, op->access.tensor);
  struct gpu_access a = gpu_access(g, op);
  enum dtype storage = gpu_dtype(g, op->access.tensor);
  /* A pair is stored at once where both are sure to be live and the address is aligned. */
  bool all_columns = LLVMIsAConstantInt(a.live_columns) != NULL &&
                     LLVMConstIntGetSExtValue(a.live_columns) >= (long long)type.columns;
  bool pairs = op->kind == TILE_STORE && (storage == DTYPE_F16 || storage == DTYPE_BF16) &&
               type.element != TILE_I32 && type.element != TILE_BOOL && type.columns % 2 == 0 &&
               all_columns && residence_has_unit_columns(g->where, &op->access);
  if (!pairs) {
    store_rows(g, op, &a, false);
    return;
  }
  struct emit_branch branch;
  emit_if(e, &branch, gpu_is_aligned(g, &a, 4));
  store_rows(g, op, &a, true);
  emit_else(e, &branch);
  store_rows(g, op, &a, false);
  emit_end_if(e, &branch);
}
