/* Ops for which threads need each other's elements: through shared memory, between barriers. */
#include "compiler/target/nvptx/lower.h"

static struct gpu_place float_place(struct gpu *g, const struct tile_value *value)
{
  return gpu_in_shared(g, value, READ_COLUMNS);
}

static LLVMValueRef truth(struct gpu *g, enum tile_element element, LLVMValueRef x)
{
  if (element != TILE_BOOL)
    return x;
  return LLVMBuildICmp(g->e->builder, LLVMIntNE, x, emit_i32(g->e, 0), "");
}

/* Element (row, column), or (0, 0) where the thread's does not exist. */
static LLVMValueRef element_at(struct gpu *g, const struct gpu_place *place,
                               const struct tile_value *value, LLVMValueRef exists,
                               LLVMValueRef row, LLVMValueRef column)
{
  struct emit *e = g->e;
  if (exists != NULL) {
    row = emit_select(e, exists, row, emit_i32(e, 0));
    column = emit_select(e, exists, column, emit_i32(e, 0));
  }
  return truth(g, value->type.element, gpu_shared_load(g, place, row, column));
}

/* A column vector becomes a row vector. */
static void transpose_loaded(struct gpu *g, const struct tile_value *from,
                             const struct tile_value *to)
{
  struct emit *e = g->e;
  const uint32_t columns = gpu_shape(g, to->type).columns;
  LLVMValueRef *elements = ARENA_ARRAY(g->arena, LLVMValueRef, columns);
  for (uint32_t c = 0; c < columns; c++) {
    LLVMValueRef row = gpu_column(g, to->type, c), exists = gpu_column_exists(g, to->type, c);
    if (exists != NULL)
      row = emit_select(e, exists, row, emit_i32(e, 0));
    elements[c] =
        gpu_load_rearranged(g, from, row, gpu_rearranged_row(g, from, row), emit_i32(e, 0), exists);
  }
  gpu_set_elements(g, to, elements);
}

void gpu_transpose(struct gpu *g, const struct tile_op *op)
{
  const struct tile_value *from = op->operands[0], *to = op->results[0];
  struct gpu_shape shape = gpu_shape(g, to->type);
  uint32_t used = g->shared_used;
  LLVMValueRef *elements = ARENA_ARRAY(g->arena, LLVMValueRef, shape.rows * shape.columns);
  if (to->type.rows == 1 && to->type.columns == 1) {
    elements[0] = gpu_element(g, from, 0, 0);
    gpu_set_elements(g, to, elements);
    return;
  }
  if (gpu_value(g, from)->kind == GPU_LAZY) {
    transpose_loaded(g, from, to);
    return;
  }
  struct gpu_place place = float_place(g, from);
  for (uint32_t k = 0; k < shape.rows * shape.columns; k++) {
    uint32_t r = k / shape.columns, c = k % shape.columns;
    elements[k] = element_at(g, &place, from, gpu_exists(g, to->type, r, c),
                             gpu_column(g, to->type, c), gpu_row(g, to->type, r));
  }
  gpu_set_elements(g, to, elements);
  gpu_release(g, used);
  gpu_settle(g, to);
}

/* A column that is known for each of the threads with a pair's number, and for each warp. */
static LLVMValueRef permuted_column(struct gpu *g, const struct tile_op *op, uint32_t c)
{
  struct emit *e = g->e;
  struct tile_type type = op->results[0]->type;
  LLVMValueRef column = gpu_column(g, type, c), source = emit_i32(e, 0);
  uint32_t span = 8 * gpu_column_blocks(g, type.columns);
  for (uint32_t w = 0; w < g->column_warps; w++)
    for (uint32_t quad = 0; quad < 4; quad++) {
      uint32_t at = type.columns == 1 ? 0 : w * span + c / 2 * 8 + 2 * quad + c % 2;
      if (at >= type.columns)
        continue;
      LLVMValueRef is = LLVMBuildICmp(e->builder, LLVMIntEQ, column, emit_i32(e, (int32_t)at), "");
      source = emit_select(e, is, emit_i32(e, (int32_t)op->permutation[at]), source);
    }
  return source;
}

void gpu_permute_columns(struct gpu *g, const struct tile_op *op)
{
  struct emit *e = g->e;
  const struct tile_value *from = op->operands[0], *to = op->results[0];
  struct gpu_shape shape = gpu_shape(g, to->type);
  const bool loaded = gpu_value(g, from)->kind == GPU_LAZY;
  uint32_t used = g->shared_used, *first = ARENA_ARRAY(g->arena, uint32_t, shape.columns);
  LLVMValueRef *elements = ARENA_ARRAY(g->arena, LLVMValueRef, shape.rows * shape.columns);
  LLVMValueRef *columns = ARENA_ARRAY(g->arena, LLVMValueRef, shape.columns);
  struct gpu_place place = {0};
  if (!loaded)
    place = float_place(g, from);
  residence_permuted_alike(g->where, op, first);
  for (uint32_t c = 0; c < shape.columns; c++)
    columns[c] = first[c] == c ? permuted_column(g, op, c) : columns[first[c]];
  for (uint32_t r = 0; r < shape.rows; r++) {
    LLVMValueRef row = gpu_row(g, to->type, r), exists = gpu_row_exists(g, to->type, r);
    if (exists != NULL)
      row = emit_select(e, exists, row, emit_i32(e, 0));
    LLVMValueRef offset = loaded ? gpu_rearranged_row(g, from, row) : NULL;
    for (uint32_t c = 0; c < shape.columns; c++) {
      LLVMValueRef *element = &elements[r * shape.columns + c];
      if (first[c] != c)
        *element = elements[r * shape.columns + first[c]];
      else if (loaded)
        *element = gpu_load_rearranged(g, from, row, offset, columns[c], exists);
      else
        *element = truth(g, from->type.element, gpu_shared_load(g, &place, row, columns[c]));
    }
  }
  gpu_set_elements(g, to, elements);
  gpu_release(g, used);
  gpu_settle(g, to);
}

/* A copy of the value in shared memory that may be written. */
static struct gpu_place own_copy(struct gpu *g, const struct tile_value *value)
{
  struct gpu_place place = gpu_new_place(g, value->type, READ_COLUMNS);
  gpu_before_write(g);
  gpu_spill(g, value, &place);
  gpu_barrier(g);
  return place;
}

static void finish_copy(struct gpu *g, const struct tile_value *to, const struct gpu_place *place)
{
  gpu_barrier(g);
  gpu_fill(g, to->type, place, gpu_new_fragment(g, to));
}

/* A thread a line. */
void gpu_scan(struct gpu *g, const struct tile_op *op)
{
  struct emit *e = g->e;
  const struct tile_value *from = op->operands[0];
  struct tile_type type = from->type;
  uint32_t used = g->shared_used;
  struct gpu_place place = own_copy(g, from);
  uint32_t lines = op->axis == 1 ? type.rows : type.columns;
  uint32_t length = op->axis == 1 ? type.columns : type.rows;
  struct emit_loop line, along;
  emit_loop_begin(e, &line, g->thread, emit_i32(e, (int32_t)lines), gpu_threads(g), NULL, 0);
  LLVMValueRef sum = gpu_neutral(g, op->reduction, type.element);
  emit_loop_begin(e, &along, emit_i32(e, 0), emit_i32(e, (int32_t)length), 1, &sum, 1);
  LLVMValueRef row = op->axis == 1 ? line.index : along.index;
  LLVMValueRef column = op->axis == 1 ? along.index : line.index;
  sum = gpu_combine(g, op->reduction, along.carried[0],
                    truth(g, type.element, gpu_shared_load(g, &place, row, column)));
  gpu_shared_store(g, &place, row, column, sum);
  emit_loop_end(e, &along, &sum);
  emit_loop_end(e, &line, NULL);
  finish_copy(g, op->results[0], &place);
  gpu_release(g, used);
}

/* x[m, n] = b[m, n] - sum over k < m of a[m, k] x[k, n]: a thread a column. */
void gpu_triangular_solve(struct gpu *g, const struct tile_op *op)
{
  struct emit *e = g->e;
  const struct tile_value *b = op->operands[1];
  uint32_t used = g->shared_used;
  struct gpu_place a = float_place(g, op->operands[0]);
  struct gpu_place x = own_copy(g, b);
  struct emit_loop column, row, inner;
  emit_loop_begin(e, &column, g->thread, emit_i32(e, (int32_t)b->type.columns), gpu_threads(g),
                  NULL, 0);
  emit_loop_begin(e, &row, emit_i32(e, 0), emit_i32(e, (int32_t)b->type.rows), 1, NULL, 0);
  LLVMValueRef rest = gpu_shared_load(g, &x, row.index, column.index);
  emit_loop_begin(e, &inner, emit_i32(e, 0), row.index, 1, &rest, 1);
  LLVMValueRef factor =
      LLVMBuildFNeg(e->builder, gpu_shared_load(g, &a, row.index, inner.index), "");
  rest = emit_fma(e, factor, gpu_shared_load(g, &x, inner.index, column.index), inner.carried[0]);
  emit_loop_end(e, &inner, &rest);
  gpu_shared_store(g, &x, row.index, column.index, inner.result[0]);
  emit_loop_end(e, &row, NULL);
  emit_loop_end(e, &column, NULL);
  finish_copy(g, op->results[0], &x);
  gpu_release(g, used);
}

/* ---- contract ---- */

struct contraction {
  struct gpu *g;
  const struct tile_op *op;
  LLVMValueRef *a, *b; /* by r, by c */
  LLVMValueRef *more;  /* by operand */
  uint32_t r, c;
};

static LLVMValueRef contracted_operand(void *user, uint32_t index)
{
  struct contraction *x = user;
  if (index < 2)
    return index == 0 ? x->a[x->r] : x->b[x->c];
  return x->more[index];
}

static LLVMValueRef clamped(struct gpu *g, LLVMValueRef exists, LLVMValueRef index)
{
  return exists == NULL ? index : emit_select(g->e, exists, index, emit_i32(g->e, 0));
}

void gpu_contract(struct gpu *g, const struct tile_op *op)
{
  struct emit *e = g->e;
  const struct tile_value *result = op->results[0];
  struct gpu_shape shape = gpu_shape(g, result->type);
  uint32_t used = g->shared_used, count = shape.rows * shape.columns;
  struct gpu_place *places = ARENA_ARRAY(g->arena, struct gpu_place, op->operand_count);
  struct contraction x = {
      .g = g,
      .op = op,
      .a = ARENA_ARRAY(g->arena, LLVMValueRef, shape.rows),
      .b = ARENA_ARRAY(g->arena, LLVMValueRef, shape.columns),
      .more = ARENA_ARRAY(g->arena, LLVMValueRef, op->operand_count),
  };
  for (uint32_t k = 0; k < op->operand_count; k++)
    if (op->operands[k]->type.kind == TILE_KIND_TILE)
      places[k] = gpu_in_shared(g, op->operands[k], READ_ROWS);
  LLVMValueRef *sums = ARENA_ARRAY(g->arena, LLVMValueRef, count);
  for (uint32_t k = 0; k < count; k++) {
    sums[k] = emit_variable(g->e, e->f32);
    LLVMBuildStore(e->builder, emit_float_of(e->f32, 0), sums[k]);
  }
  struct emit_loop loop;
  emit_loop_begin(e, &loop, emit_i32(e, 0), emit_i32(e, (int32_t)op->operands[0]->type.columns), 1,
                  NULL, 0);
  for (uint32_t r = 0; r < shape.rows; r++)
    x.a[r] = gpu_shared_load(
        g, &places[0], clamped(g, gpu_row_exists(g, result->type, r), gpu_row(g, result->type, r)),
        loop.index);
  for (uint32_t c = 0; c < shape.columns; c++)
    x.b[c] = gpu_shared_load(
        g, &places[1],
        clamped(g, gpu_column_exists(g, result->type, c), gpu_column(g, result->type, c)),
        loop.index);
  for (uint32_t k = 2; k < op->operand_count; k++) {
    const struct tile_value *value = op->operands[k];
    if (value->type.kind != TILE_KIND_TILE) {
      x.more[k] = gpu_value(g, value)->scalar;
      continue;
    }
    LLVMValueRef column = value->type.columns == 1 ? emit_i32(e, 0) : loop.index;
    x.more[k] =
        truth(g, value->type.element, gpu_shared_load(g, &places[k], emit_i32(e, 0), column));
  }
  for (x.r = 0; x.r < shape.rows; x.r++)
    for (x.c = 0; x.c < shape.columns; x.c++) {
      emit_expression_reset(&g->expression);
      g->expression.operand = contracted_operand;
      g->expression.user = &x;
      LLVMValueRef slot = sums[x.r * shape.columns + x.c];
      LLVMValueRef term = emit_expression(&g->expression, op->expr);
      LLVMValueRef sum = LLVMBuildLoad2(e->builder, e->f32, slot, "");
      LLVMBuildStore(e->builder, LLVMBuildFAdd(e->builder, sum, term, ""), slot);
    }
  emit_loop_end(e, &loop, NULL);
  for (uint32_t k = 0; k < count; k++)
    sums[k] = LLVMBuildLoad2(e->builder, e->f32, sums[k], "");
  gpu_set_elements(g, result, sums);
  gpu_release(g, used);
  gpu_settle(g, result);
}
