/* Ops that compute an element of their result from the same element of their operands. */
#include "compiler/target/nvptx/lower.h"

#include "compiler/emit/operation.h"

static LLVMValueRef operand(void *user, uint32_t index)
{
  struct gpu *g = user;
  return gpu_element(g, g->op->operands[index], g->r, g->c);
}

static void begin_element(struct gpu *g, const struct tile_op *op, uint32_t r, uint32_t c)
{
  emit_expression_reset(&g->expression);
  g->expression.operand = operand;
  g->expression.user = g;
  g->op = op;
  g->r = r;
  g->c = c;
}

/* An operand in shared memory becomes registers once, not once an element. */
static void fetch_operand(struct gpu *g, const struct tile_value *value)
{
  struct gpu_value *v = gpu_value(g, value);
  if (v->kind != GPU_SHARED && v->kind != GPU_STREAM)
    return;
  LLVMValueRef *registers = ARENA_ARRAY(g->arena, LLVMValueRef, gpu_register_count(g, value->type));
  gpu_stream_arrive(g, value);
  gpu_fill(g, value->type, &v->place, registers);
  v->elements = registers;
  v->kind = GPU_FRAGMENT; /* and in_shared */
}

static void fetch_operands(struct gpu *g, const struct tile_op *op)
{
  for (uint32_t k = 0; k < op->operand_count; k++)
    fetch_operand(g, op->operands[k]);
}

static bool has_reads(const struct expr *e)
{
  return e != NULL && (e->deps & EXPR_DEP(EXPR_DEP_READ)) != 0;
}

/* An expression that reads a tensor is evaluated for the tile's own elements alone: its indices are
 * in range there. */
static LLVMValueRef guarded_element(struct gpu *g, const struct tile_op *op, LLVMValueRef exists)
{
  struct emit *e = g->e;
  LLVMBasicBlockRef before = LLVMGetInsertBlock(e->builder);
  LLVMBasicBlockRef inside = emit_block(e, "own"), after = emit_block(e, "all");
  LLVMBuildCondBr(e->builder, exists, inside, after);
  LLVMPositionBuilderAtEnd(e->builder, inside);
  LLVMValueRef value = emit_expression(&g->expression, op->expr);
  LLVMBasicBlockRef last = LLVMGetInsertBlock(e->builder);
  LLVMBuildBr(e->builder, after);
  LLVMPositionBuilderAtEnd(e->builder, after);
  LLVMValueRef result = LLVMBuildPhi(e->builder, LLVMTypeOf(value), "");
  LLVMValueRef zero = LLVMConstNull(LLVMTypeOf(value));
  LLVMAddIncoming(result, &zero, &before, 1);
  LLVMAddIncoming(result, &value, &last, 1);
  return result;
}

/* The first operand of a map that a product reads from shared memory stays there. */
static bool is_in_place(struct gpu *g, const struct tile_op *op)
{
  const struct tile_value *first = op->operands[0], *result = op->results[0];
  if (first->type.kind != TILE_KIND_TILE || first->type.rows != result->type.rows ||
      first->type.columns != result->type.columns || first->type.element != result->type.element)
    return false;
  const struct gpu_value *v = gpu_value(g, first);
  return (v->kind == GPU_SHARED || v->kind == GPU_STREAM) && v->place.codes == DTYPE_ANY &&
         residence_wants_shared(g->where, first);
}

/* The operand of which the map makes an operand of products, from codes in shared memory. */
static const struct tile_value *codes_of(struct gpu *g, const struct tile_op *op)
{
  for (uint32_t k = 0; k < op->operand_count; k++) {
    const struct gpu_value *v = gpu_value(g, op->operands[k]);
    if ((v->kind == GPU_SHARED || v->kind == GPU_STREAM) && v->place.codes != DTYPE_ANY &&
        residence_wants_shared(g->where, op->operands[k]))
      return op->operands[k];
  }
  return NULL;
}

static LLVMValueRef map_element(struct gpu *g, const struct tile_op *op, uint32_t r, uint32_t c)
{
  begin_element(g, op, r, c);
  LLVMValueRef exists = has_reads(op->expr) ? gpu_exists(g, op->results[0]->type, r, c) : NULL;
  return exists != NULL ? guarded_element(g, op, exists)
                        : emit_expression(&g->expression, op->expr);
}

/* Each thread writes what it read, so that no barrier is needed before; register by register, so
 * that the tile never fills the registers. */
static void map_in_place(struct gpu *g, const struct tile_op *op)
{
  const struct tile_value *first = op->operands[0], *result = op->results[0];
  gpu_stream_arrive(g, first);
  struct gpu_value *from = gpu_value(g, first), *to = gpu_value(g, result);
  struct gpu_place place = from->place;
  struct gpu_shape shape = gpu_shape(g, result->type);
  const uint32_t width = gpu_is_packed(result->type) ? 2 : 1;
  from->kind = GPU_FRAGMENT;
  from->elements = ARENA_ARRAY(g->arena, LLVMValueRef, gpu_register_count(g, first->type));
  gpu_order_reads(g, op->expr);
  for (uint32_t k = 1; k < op->operand_count; k++)
    fetch_operand(g, op->operands[k]);
  for (uint32_t r = 0; r < shape.rows; r++)
    for (uint32_t c = 0; c < shape.columns; c += width) {
      /* Threads beyond the place must not even read: another one writes there. */
      LLVMValueRef own = gpu_fits(g, first->type, &place, r, c);
      struct emit_branch branch;
      if (own != NULL)
        emit_if(g->e, &branch, own);
      LLVMValueRef elements[2];
      gpu_fill_one(g, first->type, &place, r, c, from->elements);
      for (uint32_t k = 0; k < width; k++)
        elements[k] = map_element(g, op, r, c + k);
      gpu_spill_one(g, result->type, &place, r, c, elements);
      if (own != NULL) {
        emit_else(g->e, &branch);
        emit_end_if(g->e, &branch);
      }
    }
  gpu_barrier(g);
  *to = (struct gpu_value){.kind = GPU_SHARED, .in_shared = true, .place = place};
}

/* A pair at a time, too, from the codes' place to that of the elements; with the conversion that
 * follows, if it is that which makes the operand. */
static void map_codes(struct gpu *g, const struct tile_op *op, const struct tile_value *codes)
{
  const struct tile_value *result = residence_made_of(g->where, op);
  const struct tile_type type = result->type;
  struct gpu_shape shape = gpu_shape(g, type);
  gpu_order_reads(g, op->expr);
  for (uint32_t k = 0; k < op->operand_count; k++)
    if (op->operands[k] != codes)
      fetch_operand(g, op->operands[k]);
  gpu_stream_arrive(g, codes);
  struct gpu_value *from = gpu_value(g, codes), *to = gpu_value(g, result);
  const struct gpu_value kept = *from;
  struct gpu_place place = gpu_new_place(g, type, residence_reader_of(g->where, result));
  gpu_before_write(g);
  from->kind = GPU_FRAGMENT;
  from->elements = ARENA_ARRAY(g->arena, LLVMValueRef, gpu_register_count(g, codes->type));
  for (uint32_t r = 0; r < shape.rows; r++)
    for (uint32_t c = 0; c < shape.columns; c += 2) {
      LLVMValueRef elements[2];
      gpu_fill_one(g, codes->type, &kept.place, r, c, from->elements);
      for (uint32_t k = 0; k < 2; k++)
        elements[k] = map_element(g, op, r, c + k);
      gpu_spill_pair(g, type, &place, r, c, elements);
    }
  gpu_clear_rest(g, type, &place);
  gpu_barrier(g);
  *from = kept; /* other maps read the codes, too */
  *to = (struct gpu_value){.kind = GPU_SHARED, .in_shared = true, .place = place};
}

/* Whether a mask's elements are made one by one beside those of the map that follows and reads
 * them: a thread has seven predicates, and any other takes three instructions. */
static bool is_made_beside(struct gpu *g, const struct tile_op *mask)
{
  if (mask == NULL || mask->kind != TILE_MAP || mask->next == NULL || mask->next->kind != TILE_MAP)
    return false;
  const struct tile_value *result = mask->results[0];
  const struct tile_op *reader = mask->next;
  const struct tile_type type = result->type, made = reader->results[0]->type;
  bool reads = false;
  for (uint32_t k = 0; k < reader->operand_count; k++)
    reads = reads || reader->operands[k] == result;
  return reads && type.element == TILE_BOOL && type.rows > 1 && type.columns > 1 &&
         type.rows == made.rows && type.columns == made.columns && !is_in_place(g, reader) &&
         codes_of(g, reader) == NULL;
}

/* A map whose elements are made one by one. */
struct making {
  const struct tile_op *op;
  LLVMValueRef *elements; /* by number r * columns + c */
  bool calls;
  struct gpu_function function;
};

static struct making begin_making(struct gpu *g, const struct tile_op *op, uint32_t count)
{
  struct making m = {.op = op};
  gpu_order_reads(g, op->expr);
  fetch_operands(g, op);
  m.elements = ARENA_ARRAY(g->arena, LLVMValueRef, count);
  m.calls = gpu_outline(g, op, count, &m.function);
  return m;
}

static void make_element(struct gpu *g, const struct making *m, uint32_t columns, uint32_t r,
                         uint32_t c)
{
  m->elements[r * columns + c] =
      m->calls ? gpu_call(g, &m->function, m->op, r, c) : map_element(g, m->op, r, c);
}

void gpu_map(struct gpu *g, const struct tile_op *op)
{
  const struct tile_value *result = op->results[0];
  const struct gpu_shape shape = gpu_shape(g, result->type);
  const uint32_t count = shape.rows * shape.columns;
  if (is_in_place(g, op)) {
    map_in_place(g, op);
    return;
  }
  const struct tile_value *codes = codes_of(g, op);
  if (codes != NULL) {
    map_codes(g, op, codes);
    return;
  }
  if (is_made_beside(g, op))
    return;
  struct making mask = {0};
  if (is_made_beside(g, op->previous)) {
    gpu_end_block(g);
    mask = begin_making(g, op->previous, count);
    *gpu_value(g, mask.op->results[0]) =
        (struct gpu_value){.kind = GPU_FRAGMENT, .elements = mask.elements};
  }
  const struct making own = begin_making(g, op, count);
  /* By columns, so that what is loaded for one is soon used up. */
  for (uint32_t c = 0; c < shape.columns; c++) {
    for (uint32_t r = 0; r < shape.rows; r++) {
      if (mask.op != NULL)
        make_element(g, &mask, shape.columns, r, c);
      make_element(g, &own, shape.columns, r, c);
    }
    if (mask.op != NULL)
      gpu_reduce_beside(g, op->next, mask.op->results[0], c);
  }
  gpu_set_elements(g, result, own.elements);
  gpu_settle(g, result);
}

void gpu_check(struct gpu *g, const struct tile_op *op)
{
  struct emit *e = g->e;
  struct tile_type type = {.kind = TILE_KIND_TILE, .rows = 1, .columns = 1};
  for (uint32_t k = 0; k < op->operand_count; k++) {
    struct tile_type t = op->operands[k]->type;
    type.rows = t.rows > type.rows ? t.rows : type.rows;
    type.columns = t.columns > type.columns ? t.columns : type.columns;
  }
  struct gpu_shape shape = gpu_shape(g, type);
  gpu_order_reads(g, op->expr);
  gpu_order_reads(g, op->expr2);
  fetch_operands(g, op);
  LLVMValueRef bad = LLVMConstInt(e->i1, 0, false), index = emit_i64(e, 0);
  for (uint32_t r = 0; r < shape.rows; r++)
    for (uint32_t c = 0; c < shape.columns; c++) {
      begin_element(g, op, r, c);
      LLVMValueRef exists = gpu_exists(g, type, r, c);
      struct emit_branch branch;
      bool guarded = exists != NULL && (has_reads(op->expr) || has_reads(op->expr2));
      if (guarded)
        emit_if(e, &branch, exists);
      LLVMValueRef wrong = LLVMBuildNot(e->builder, emit_expression(&g->expression, op->expr), "");
      LLVMValueRef at = emit_expression(&g->expression, op->expr2);
      if (LLVMTypeOf(at) == e->i32)
        at = LLVMBuildSExt(e->builder, at, e->i64, "");
      if (guarded) {
        LLVMBasicBlockRef inside = LLVMGetInsertBlock(e->builder);
        emit_else(e, &branch);
        LLVMBasicBlockRef outside = LLVMGetInsertBlock(e->builder);
        emit_end_if(e, &branch);
        LLVMValueRef no = LLVMConstInt(e->i1, 0, false), none = emit_i64(e, 0);
        LLVMValueRef merged = LLVMBuildPhi(e->builder, e->i1, "");
        LLVMAddIncoming(merged, &wrong, &inside, 1);
        LLVMAddIncoming(merged, &no, &outside, 1);
        LLVMValueRef merged_at = LLVMBuildPhi(e->builder, e->i64, "");
        LLVMAddIncoming(merged_at, &at, &inside, 1);
        LLVMAddIncoming(merged_at, &none, &outside, 1);
        wrong = merged, at = merged_at;
      } else {
        wrong = gpu_both(g, wrong, exists);
      }
      index = emit_select(e, LLVMBuildAnd(e->builder, wrong, LLVMBuildNot(e->builder, bad, ""), ""),
                          at, index);
      bad = LLVMBuildOr(e->builder, bad, wrong, "");
    }
  struct emit_branch branch;
  emit_if(e, &branch, bad);
  emit_gpu_fault(e, emit_slot(e, &g->slots, tile_fault_slot(g->kernel)),
                 emit_i32(e, (int32_t)op->site), index);
  emit_else(e, &branch);
  emit_end_if(e, &branch);
}

/* Codes that products read as other elements. */
static void convert_codes(struct gpu *g, const struct tile_op *op)
{
  const struct tile_value *from = op->operands[0], *to = op->results[0];
  gpu_stream_arrive(g, from);
  struct gpu_place place = gpu_new_place(g, to->type, residence_reader_of(g->where, to));
  gpu_before_write(g);
  gpu_expand(g, &gpu_value(g, from)->place, &place);
  gpu_barrier(g);
  *gpu_value(g, to) = (struct gpu_value){.kind = GPU_SHARED, .in_shared = true, .place = place};
}

void gpu_convert(struct gpu *g, const struct tile_op *op)
{
  struct emit *e = g->e;
  const struct tile_value *from = op->operands[0], *to = op->results[0];
  if (gpu_value(g, to)->kind != GPU_UNSET)
    return; /* made with the operand: map_codes */
  if (codes_of(g, op) != NULL) {
    convert_codes(g, op);
    return;
  }
  struct gpu_shape shape = gpu_shape(g, to->type);
  fetch_operands(g, op);
  LLVMValueRef *elements = ARENA_ARRAY(g->arena, LLVMValueRef, shape.rows * shape.columns);
  for (uint32_t k = 0; k < shape.rows * shape.columns; k++) {
    LLVMValueRef x = gpu_element(g, from, k / shape.columns, k % shape.columns);
    bool real = LLVMTypeOf(x) == e->f32;
    switch (to->type.element) {
    case TILE_F32:
    case TILE_F16:
    case TILE_BF16:
      if (!real)
        x = LLVMTypeOf(x) == e->i1 ? LLVMBuildUIToFP(e->builder, x, e->f32, "")
                                   : LLVMBuildSIToFP(e->builder, x, e->f32, "");
      break;
    case TILE_I32:
    case TILE_INDEX:
      if (real)
        x = emit_real_to_int(e, x, e->i32);
      else if (LLVMTypeOf(x) == e->i1)
        x = LLVMBuildZExt(e->builder, x, e->i32, "");
      break;
    case TILE_BOOL:
      if (real)
        x = LLVMBuildFCmp(e->builder, LLVMRealUNE, x, emit_float_like(x, 0), "");
      else if (LLVMTypeOf(x) != e->i1)
        x = LLVMBuildICmp(e->builder, LLVMIntNE, x, LLVMConstNull(LLVMTypeOf(x)), "");
      break;
    }
    elements[k] = x;
  }
  gpu_set_elements(g, to, elements);
  gpu_settle(g, to);
}

void gpu_scale_rows(struct gpu *g, const struct tile_op *op)
{
  struct gpu_shape shape = gpu_shape(g, op->results[0]->type);
  fetch_operands(g, op);
  LLVMValueRef *elements = ARENA_ARRAY(g->arena, LLVMValueRef, shape.rows * shape.columns);
  for (uint32_t r = 0; r < shape.rows; r++) {
    LLVMValueRef factor = gpu_element(g, op->operands[1], r, 0);
    for (uint32_t c = 0; c < shape.columns; c++)
      elements[r * shape.columns + c] =
          LLVMBuildFMul(g->e->builder, gpu_element(g, op->operands[0], r, c), factor, "");
  }
  gpu_set_elements(g, op->results[0], elements);
}

void gpu_broadcast(struct gpu *g, const struct tile_op *op)
{
  const struct tile_value *to = op->results[0];
  struct gpu_shape shape = gpu_shape(g, to->type);
  fetch_operands(g, op);
  LLVMValueRef *elements = ARENA_ARRAY(g->arena, LLVMValueRef, shape.rows * shape.columns);
  for (uint32_t k = 0; k < shape.rows * shape.columns; k++)
    elements[k] = gpu_element(g, op->operands[0], k / shape.columns, k % shape.columns);
  gpu_set_elements(g, to, elements);
  gpu_settle(g, to);
}

/* splat and iota: a scalar, and the index along the axis that is not 1. */
void gpu_iota(struct gpu *g, const struct tile_op *op)
{
  struct emit *e = g->e;
  const struct tile_value *result = op->results[0];
  struct tile_type type = result->type;
  struct gpu_shape shape = gpu_shape(g, type);
  LLVMValueRef base = gpu_value(g, op->operands[0])->scalar;
  if (op->kind == TILE_IOTA && LLVMTypeOf(base) == e->i64)
    base = LLVMBuildTrunc(e->builder, base, e->i32, "");
  LLVMValueRef *elements = ARENA_ARRAY(g->arena, LLVMValueRef, shape.rows * shape.columns);
  for (uint32_t k = 0; k < shape.rows * shape.columns; k++) {
    elements[k] = base;
    if (op->kind != TILE_IOTA)
      continue;
    LLVMValueRef along = type.rows > 1 ? gpu_row(g, type, k / shape.columns)
                                       : gpu_column(g, type, k % shape.columns);
    elements[k] = LLVMBuildAdd(e->builder, base, along, "");
  }
  gpu_set_elements(g, result, elements);
}

void gpu_permute(struct gpu *g, const struct tile_op *op)
{
  const struct tile_value *to = op->results[0];
  struct gpu_shape shape = gpu_shape(g, to->type);
  LLVMValueRef *elements = ARENA_ARRAY(g->arena, LLVMValueRef, shape.rows * shape.columns);
  if (!residence_permutes_within(g->where, op)) {
    gpu_permute_columns(g, op);
    return;
  }
  fetch_operands(g, op);
  for (uint32_t c = 0; c < shape.columns; c++) {
    uint32_t from = 0;
    if (op->operands[0]->type.columns > 1)
      residence_permuted(g->where, op, c, &from);
    for (uint32_t r = 0; r < shape.rows; r++)
      elements[r * shape.columns + c] = gpu_element(g, op->operands[0], r, from);
  }
  gpu_set_elements(g, to, elements);
  gpu_settle(g, to);
}
