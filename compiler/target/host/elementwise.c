/* Ops on row-major tiles and on vectors outside groups: one loop nest an op, lanes along the
 * contiguous axis. And the pieces of elementwise ops that groups share. */
#include "compiler/target/host/lower.h"

#include <math.h>

LLVMValueRef host_reduce_step(struct host *h, enum tile_reduction reduction, LLVMValueRef a,
                              LLVMValueRef b)
{
  struct emit *e = &h->e;
  LLVMTypeRef type = LLVMTypeOf(a);
  bool real = emit_element_type(a) == e->f32;
  switch (reduction) {
  case TILE_REDUCE_SUM:
    return real ? LLVMBuildFAdd(e->builder, a, b, "") : LLVMBuildAdd(e->builder, a, b, "");
  case TILE_REDUCE_MAX:
    /* A NaN in b is passed over: whoever needs it to show lets it show elsewhere
     * (docs/tile-program.md). */
    if (real)
      return emit_select(e, LLVMBuildFCmp(e->builder, LLVMRealOGT, b, a, ""), b, a);
    return emit_intrinsic(e, "llvm.smax", type, (LLVMValueRef[]){a, b}, 2);
  case TILE_REDUCE_MIN:
    if (real)
      return emit_select(e, LLVMBuildFCmp(e->builder, LLVMRealOLT, b, a, ""), b, a);
    return emit_intrinsic(e, "llvm.smin", type, (LLVMValueRef[]){a, b}, 2);
  case TILE_REDUCE_ANY: return LLVMBuildOr(e->builder, a, b, "");
  case TILE_REDUCE_ALL: return LLVMBuildAnd(e->builder, a, b, "");
  }
  return a;
}

LLVMValueRef host_reduce_start(struct host *h, const struct tile_op *op, bool vector)
{
  struct emit *e = &h->e;
  LLVMValueRef start = NULL;
  bool integer = op->operands[0]->type.element == TILE_I32;
  switch (op->reduction) {
  case TILE_REDUCE_SUM: start = integer ? emit_i32(e, 0) : emit_float_of(e->f32, 0); break;
  case TILE_REDUCE_MAX:
    start = integer ? emit_i32(e, INT32_MIN) : emit_float_of(e->f32, -(double)INFINITY);
    break;
  case TILE_REDUCE_MIN:
    start = integer ? emit_i32(e, INT32_MAX) : emit_float_of(e->f32, (double)INFINITY);
    break;
  case TILE_REDUCE_ANY: start = LLVMConstInt(e->i1, 0, false); break;
  case TILE_REDUCE_ALL: start = LLVMConstInt(e->i1, 1, false); break;
  }
  return vector ? emit_broadcast(e, start) : start;
}

/* `count` lanes from `first` on. */
static LLVMValueRef some_lanes(struct emit *e, LLVMValueRef vector, unsigned first, unsigned count)
{
  LLVMValueRef order[64];
  for (unsigned k = 0; k < count; k++)
    order[k] = emit_i32(e, (int32_t)(first + k));
  return LLVMBuildShuffleVector(e->builder, vector, LLVMGetPoison(LLVMTypeOf(vector)),
                                LLVMConstVector(order, count), "");
}

/* In a fixed order, halves first, so that the result does not depend on the compiler's mood.
 * Vectors get shorter on the way: with lanes moved in whole ones LLVM 22 took lanes 0 and 1 for 2
 * and 3 where a reduction of i32 stood beside one of i1 on AVX-512, both with the same constant
 * order. */
LLVMValueRef host_reduce_lanes(struct host *h, enum tile_reduction reduction, LLVMValueRef vector)
{
  struct emit *e = &h->e;
  if (reduction == TILE_REDUCE_ANY || reduction == TILE_REDUCE_ALL) {
    LLVMTypeRef mask = LLVMIntTypeInContext(e->context, e->lanes);
    LLVMValueRef bits = LLVMBuildBitCast(e->builder, vector, mask, "");
    bool any = reduction == TILE_REDUCE_ANY;
    return LLVMBuildICmp(e->builder, any ? LLVMIntNE : LLVMIntEQ, bits,
                         any ? LLVMConstNull(mask) : LLVMConstAllOnes(mask), "");
  }
  for (unsigned width = e->lanes / 2; width >= 1; width /= 2)
    vector = host_reduce_step(h, reduction, some_lanes(e, vector, 0, width),
                              some_lanes(e, vector, width, width));
  return LLVMBuildExtractElement(e->builder, vector, emit_i32(e, 0), "");
}

static LLVMValueRef fault_function(struct host *h)
{
  struct emit *e = &h->e;
  if (h->fault_function != NULL)
    return h->fault_function;
  LLVMValueRef outer = e->function;
  LLVMBasicBlockRef outer_entry = e->entry;
  LLVMBasicBlockRef here = LLVMGetInsertBlock(e->builder);
  LLVMTypeRef parameters[3] = {e->pointer, e->i32, e->i64};
  emit_function(e, "record_fault", LLVMFunctionType(e->none, parameters, 3, false), false);
  h->fault_function = e->function;
  unsigned noinline = LLVMGetEnumAttributeKindForName("noinline", 8);
  LLVMAddAttributeAtIndex(e->function, (LLVMAttributeIndex)LLVMAttributeFunctionIndex,
                          LLVMCreateEnumAttribute(e->context, noinline, 0));
  LLVMValueRef record = LLVMGetParam(e->function, 0);
  LLVMValueRef swapped =
      LLVMBuildAtomicCmpXchg(e->builder, record, emit_i32(e, 0), emit_i32(e, 1),
                             LLVMAtomicOrderingAcquireRelease, LLVMAtomicOrderingAcquire, false);
  struct emit_branch branch;
  emit_if(e, &branch, LLVMBuildExtractValue(e->builder, swapped, 1, ""));
  emit_store(e, LLVMGetParam(e->function, 1), emit_address(e, e->i32, record, emit_i64(e, 1)), 4);
  emit_store(e, LLVMGetParam(e->function, 2), emit_address(e, e->i64, record, emit_i64(e, 1)), 8);
  emit_else(e, &branch);
  emit_end_if(e, &branch);
  LLVMBuildRetVoid(e->builder);
  e->function = outer;
  e->entry = outer_entry;
  LLVMPositionBuilderAtEnd(e->builder, here);
  return h->fault_function;
}

void host_check_lanes(struct host *h, const struct tile_op *op, LLVMValueRef bad,
                      LLVMValueRef index)
{
  struct emit *e = &h->e;
  LLVMValueRef any = bad;
  if (emit_is_vector(bad))
    any = emit_intrinsic(e, "llvm.vector.reduce.or", LLVMTypeOf(bad), &bad, 1);
  struct emit_branch branch;
  emit_if(e, &branch, any);
  if (emit_is_vector(bad)) {
    LLVMTypeRef mask = LLVMIntTypeInContext(e->context, e->lanes);
    LLVMValueRef bits = LLVMBuildBitCast(e->builder, bad, mask, "");
    LLVMValueRef args[2] = {bits, LLVMConstInt(e->i1, 1, false)};
    LLVMValueRef lane = emit_intrinsic(e, "llvm.cttz", mask, args, 2);
    if (emit_is_vector(index))
      index = LLVMBuildExtractElement(e->builder, index, lane, "");
  }
  if (emit_element_type(index) == e->i32)
    index = LLVMBuildSExt(e->builder, index, e->i64, "");
  LLVMValueRef function = fault_function(h);
  LLVMValueRef record = emit_slot(e, &h->slots, tile_fault_slot(h->kernel));
  LLVMValueRef args[3] = {LLVMBuildIntToPtr(e->builder, record, e->pointer, ""),
                          emit_i32(e, (int32_t)op->site), index};
  LLVMBuildCall2(e->builder, LLVMGlobalGetValueType(function), function, args, 3, "");
  emit_else(e, &branch);
  emit_end_if(e, &branch);
}

/* ---- row-major ---- */

struct rowwise {
  struct host *h;
  const struct tile_op *op;
  struct host_value *places; /* of the operands, row-major */
  bool flat;                 /* the tile is one column: the contiguous axis runs along rows */
  uint32_t count;            /* elements along the contiguous axis */
  LLVMValueRef row, first;   /* i64: outer index, first of the lanes */
};

LLVMValueRef host_lane_mask(struct host *h, LLVMValueRef first, uint32_t count)
{
  struct emit *e = &h->e;
  LLVMValueRef start = emit_broadcast(e, LLVMBuildTrunc(e->builder, first, e->i32, ""));
  LLVMValueRef lanes = LLVMBuildAdd(e->builder, start, emit_lane_numbers(e), "");
  return LLVMBuildICmp(e->builder, LLVMIntSLT, lanes,
                       emit_broadcast(e, emit_i32(e, (int32_t)count)), "");
}

static LLVMValueRef vector_at(struct rowwise *r, const struct tile_value *value, LLVMValueRef base,
                              LLVMValueRef offset)
{
  struct emit *e = &r->h->e;
  LLVMTypeRef type = host_element_type(r->h, value->type.element);
  LLVMValueRef stored =
      emit_load(e, emit_vector_type(e, type), emit_address(e, type, base, offset), 1);
  return host_from_memory(r->h, value->type.element, stored);
}

static LLVMValueRef scalar_at(struct rowwise *r, const struct tile_value *value, LLVMValueRef base,
                              LLVMValueRef offset)
{
  struct emit *e = &r->h->e;
  LLVMTypeRef type = host_element_type(r->h, value->type.element);
  LLVMValueRef stored = emit_load(e, type, emit_address(e, type, base, offset), 1);
  return host_from_memory(r->h, value->type.element, stored);
}

static LLVMValueRef operand_value(void *user, uint32_t index)
{
  struct rowwise *r = user;
  struct emit *e = &r->h->e;
  const struct tile_value *value = r->op->operands[index];
  const struct host_value *place = &r->places[index];
  if (place->kind == HOST_SCALAR || place->kind == HOST_SPLAT)
    return place->scalar;
  bool lanes = r->flat ? value->type.rows > 1 : value->type.columns > 1;
  if (place->kind == HOST_IOTA) {
    LLVMValueRef at = LLVMBuildTrunc(e->builder, lanes ? r->first : r->row, e->i32, "");
    LLVMValueRef start = LLVMBuildAdd(e->builder, place->scalar, at, "");
    if (value->type.rows == 1 && value->type.columns == 1)
      return place->scalar;
    return lanes ? LLVMBuildAdd(e->builder, emit_broadcast(e, start), emit_lane_numbers(e), "")
                 : start;
  }
  if (r->flat)
    return lanes ? vector_at(r, value, place->base, r->first)
                 : scalar_at(r, value, place->base, emit_i64(e, 0));
  if (value->type.rows == 1)
    return lanes ? vector_at(r, value, place->base, r->first)
                 : scalar_at(r, value, place->base, emit_i64(e, 0));
  if (!lanes)
    return scalar_at(r, value, place->base, r->row);
  LLVMValueRef offset =
      LLVMBuildAdd(e->builder, LLVMBuildMul(e->builder, r->row, place->stride, ""), r->first, "");
  return vector_at(r, value, place->base, offset);
}

static void begin_expression(struct rowwise *r)
{
  struct emit_expression *x = &r->h->expression;
  emit_expression_reset(x);
  x->operand = operand_value;
  x->user = r;
  if (r->count % r->h->e.lanes != 0)
    x->active = host_lane_mask(r->h, r->first, r->count);
}

/* The value of an elementwise op at the lanes at hand. */
static LLVMValueRef element_value(struct rowwise *r)
{
  struct host *h = r->h;
  struct emit *e = &h->e;
  const struct tile_op *op = r->op;
  switch ((int)op->kind) {
  case TILE_MAP:
    begin_expression(r);
    return host_round(h, op->results[0]->type.element, emit_expression(&h->expression, op->expr));
  case TILE_SCALE_ROWS: {
    LLVMValueRef factor = operand_value(r, 1);
    LLVMValueRef value = operand_value(r, 0);
    value = LLVMBuildFMul(e->builder, value,
                          emit_is_vector(value) ? emit_broadcast(e, factor) : factor, "");
    return host_round(h, op->results[0]->type.element, value);
  }
  case TILE_CONVERT: return host_convert(h, op, operand_value(r, 0));
  }
  return operand_value(r, 0);
}

static LLVMValueRef plus(struct emit *e, LLVMValueRef at, uint32_t columns)
{
  return LLVMBuildAdd(e->builder, at, emit_i64(e, columns), "");
}

/* Columns from `first` on of the result, as many as there are lanes: of one column of the operand,
 * shuffled from neighbours, or taken together one by one. */
static LLVMValueRef permuted_lanes(struct rowwise *r, LLVMValueRef row_at, uint32_t first)
{
  struct emit *e = &r->h->e;
  const struct tile_value *from = r->op->operands[0];
  const uint32_t *table = &r->op->permutation[first];
  LLVMValueRef base = r->places[0].base, order[64];
  uint32_t least = table[0], most = table[0];
  for (uint32_t k = 1; k < e->lanes; k++) {
    least = table[k] < least ? table[k] : least;
    most = table[k] > most ? table[k] : most;
  }
  if (least == most)
    return emit_broadcast(e, scalar_at(r, from, base, plus(e, row_at, least)));
  if (most - least < e->lanes && from->type.columns >= e->lanes) {
    if (least > from->type.columns - e->lanes)
      least = from->type.columns - e->lanes;
    LLVMValueRef near = vector_at(r, from, base, plus(e, row_at, least));
    for (uint32_t k = 0; k < e->lanes; k++)
      order[k] = emit_i32(e, (int32_t)(table[k] - least));
    return LLVMBuildShuffleVector(e->builder, near, LLVMGetPoison(LLVMTypeOf(near)),
                                  LLVMConstVector(order, e->lanes), "");
  }
  LLVMValueRef lanes = NULL;
  for (uint32_t k = 0; k < e->lanes; k++) {
    LLVMValueRef one = scalar_at(r, from, base, plus(e, row_at, table[k]));
    if (lanes == NULL)
      lanes = LLVMGetPoison(emit_vector_type(e, LLVMTypeOf(one)));
    lanes = LLVMBuildInsertElement(e->builder, lanes, one, emit_i32(e, (int32_t)k), "");
  }
  return lanes;
}

/* Whole vectors of memory, whose sources are known here. */
static void permute_vectors(struct rowwise *r, uint32_t rows, uint32_t columns)
{
  struct host *h = r->h;
  struct emit *e = &h->e;
  const struct tile_value *result = r->op->results[0];
  struct host_value *to = host_value(h, result);
  LLVMTypeRef type = host_element_type(h, result->type.element);
  struct emit_loop loop;
  emit_loop_begin(e, &loop, emit_i64(e, 0), emit_i64(e, rows), 1, NULL, 0);
  LLVMValueRef from = LLVMBuildMul(e->builder, loop.index, r->places[0].stride, "");
  LLVMValueRef at = LLVMBuildMul(e->builder, loop.index, to->stride, "");
  for (uint32_t c = 0; c < columns; c += e->lanes) {
    LLVMValueRef stored = host_to_memory(h, result->type.element, permuted_lanes(r, from, c));
    emit_store(e, stored, emit_address(e, type, to->base, plus(e, at, c)), 1);
  }
  emit_loop_end(e, &loop, NULL);
}

static void permute_rows(struct rowwise *r, uint32_t rows, uint32_t columns)
{
  struct host *h = r->h;
  const struct host_value *place = &r->places[0];
  if (place->kind == HOST_MEMORY && place->stride != NULL && rows > 1 &&
      columns % h->e.lanes == 0) {
    permute_vectors(r, rows, columns);
    return;
  }
  struct emit *e = &h->e;
  const struct tile_value *result = r->op->results[0];
  struct host_value *to = host_value(h, result);
  struct emit_loop outer;
  emit_loop_begin(e, &outer, emit_i64(e, 0), emit_i64(e, rows), 1, NULL, 0);
  struct emit_loop inner;
  emit_loop_begin(e, &inner, emit_i64(e, 0), emit_i64(e, columns), 1, NULL, 0);
  LLVMValueRef source = host_permuted_column(h, r->op, inner.index);
  LLVMValueRef element = host_element(h, r->op->operands[0], &r->places[0], TILE_LAYOUT_ROW_MAJOR,
                                      outer.index, source);
  host_set_element(h, result, to, TILE_LAYOUT_ROW_MAJOR, outer.index, inner.index, element);
  emit_loop_end(e, &inner, NULL);
  emit_loop_end(e, &outer, NULL);
}

/* inclusive, element by element: the axis need not be the contiguous one */
static void scan(struct rowwise *r)
{
  struct host *h = r->h;
  struct emit *e = &h->e;
  const struct tile_op *op = r->op;
  const struct tile_value *result = op->results[0];
  bool along_rows = op->axis == 0;
  uint32_t lines = along_rows ? result->type.columns : result->type.rows;
  uint32_t length = along_rows ? result->type.rows : result->type.columns;
  struct emit_loop outer;
  emit_loop_begin(e, &outer, emit_i64(e, 0), emit_i64(e, lines), 1, NULL, 0);
  LLVMValueRef start = host_reduce_start(h, op, false);
  struct emit_loop inner;
  emit_loop_begin(e, &inner, emit_i64(e, 0), emit_i64(e, length), 1, &start, 1);
  LLVMValueRef m = along_rows ? inner.index : outer.index;
  LLVMValueRef n = along_rows ? outer.index : inner.index;
  LLVMValueRef element =
      host_element(h, op->operands[0], &r->places[0], TILE_LAYOUT_ROW_MAJOR, m, n);
  LLVMValueRef next = host_reduce_step(h, op->reduction, inner.carried[0], element);
  host_set_element(h, result, host_value(h, result), TILE_LAYOUT_ROW_MAJOR, m, n,
                   host_round(h, result->type.element, next));
  emit_loop_end(e, &inner, &next);
  emit_loop_end(e, &outer, NULL);
}

/* x = b - strictly_lower(a) x, row by row */
static void triangular_solve(struct rowwise *r)
{
  struct host *h = r->h;
  struct emit *e = &h->e;
  const struct tile_value *result = r->op->results[0];
  struct host_value *to = host_value(h, result);
  struct emit_loop rows;
  emit_loop_begin(e, &rows, emit_i64(e, 0), emit_i64(e, result->type.rows), 1, NULL, 0);
  struct emit_loop columns;
  emit_loop_begin(e, &columns, emit_i64(e, 0), emit_i64(e, result->type.columns), 1, NULL, 0);
  LLVMValueRef start = host_element(h, r->op->operands[1], &r->places[1], TILE_LAYOUT_ROW_MAJOR,
                                    rows.index, columns.index);
  struct emit_loop inner;
  emit_loop_begin(e, &inner, emit_i64(e, 0), rows.index, 1, &start, 1);
  LLVMValueRef a = host_element(h, r->op->operands[0], &r->places[0], TILE_LAYOUT_ROW_MAJOR,
                                rows.index, inner.index);
  LLVMValueRef x = host_element(h, result, to, TILE_LAYOUT_ROW_MAJOR, inner.index, columns.index);
  LLVMValueRef next = emit_fma(e, LLVMBuildFNeg(e->builder, a, ""), x, inner.carried[0]);
  emit_loop_end(e, &inner, &next);
  host_set_element(h, result, to, TILE_LAYOUT_ROW_MAJOR, rows.index, columns.index,
                   inner.result[0]);
  emit_loop_end(e, &columns, NULL);
  emit_loop_end(e, &rows, NULL);
}

static void store_vector(struct host *h, const struct tile_value *value, LLVMValueRef offset,
                         LLVMValueRef lanes)
{
  struct emit *e = &h->e;
  LLVMTypeRef type = host_element_type(h, value->type.element);
  LLVMValueRef stored = host_to_memory(h, value->type.element, emit_broadcast(e, lanes));
  emit_store(e, stored, emit_address(e, type, host_value(h, value)->base, offset), 1);
}

/* Along the contiguous axis: one element a row. Across it: one vector of lanes at a time, rows in
 * order. */
static void reduce(struct rowwise *r, uint32_t rows, uint32_t columns)
{
  struct host *h = r->h;
  struct emit *e = &h->e;
  const struct tile_op *op = r->op;
  const struct tile_value *result = op->results[0];
  bool along = r->flat ? op->axis == 0 : op->axis == 1;
  LLVMTypeRef memory = host_element_type(h, result->type.element);
  LLVMValueRef start = host_reduce_start(h, op, true);
  struct emit_loop outer;
  struct emit_loop inner;
  if (!along && r->flat) { /* rows of one element each: nothing to reduce */
    host_copy(h, op->operands[0], host_value(h, result), result);
    return;
  }
  if (along) {
    if (rows % e->lanes != 0) /* lanes beyond the last row are read by maps over the result */
      store_vector(h, result, emit_i64(e, rows - rows % e->lanes),
                   LLVMConstNull(emit_vector_type(e, emit_element_type(start))));
    emit_loop_begin(e, &outer, emit_i64(e, 0), emit_i64(e, rows), 1, NULL, 0);
    r->row = outer.index;
    emit_loop_begin(e, &inner, emit_i64(e, 0), emit_i64(e, columns), e->lanes, &start, 1);
    r->first = inner.index;
    LLVMValueRef lanes = emit_broadcast(e, operand_value(r, 0));
    if (columns % e->lanes != 0)
      lanes = emit_select(e, host_lane_mask(h, inner.index, columns), lanes, start);
    LLVMValueRef next = host_reduce_step(h, op->reduction, inner.carried[0], lanes);
    emit_loop_end(e, &inner, &next);
    LLVMValueRef total = host_reduce_lanes(h, op->reduction, inner.result[0]);
    total = host_round(h, result->type.element, total);
    emit_store(e, host_to_memory(h, result->type.element, total),
               emit_address(e, memory, host_value(h, result)->base, outer.index), 1);
    emit_loop_end(e, &outer, NULL);
    return;
  }
  emit_loop_begin(e, &outer, emit_i64(e, 0), emit_i64(e, columns), e->lanes, NULL, 0);
  r->first = outer.index;
  emit_loop_begin(e, &inner, emit_i64(e, 0), emit_i64(e, rows), 1, &start, 1);
  r->row = inner.index;
  LLVMValueRef next =
      host_reduce_step(h, op->reduction, inner.carried[0], emit_broadcast(e, operand_value(r, 0)));
  emit_loop_end(e, &inner, &next);
  store_vector(h, result, outer.index, host_round(h, result->type.element, inner.result[0]));
  emit_loop_end(e, &outer, NULL);
}

static void check(struct rowwise *r, uint32_t rows, uint32_t columns)
{
  struct host *h = r->h;
  struct emit *e = &h->e;
  struct emit_loop outer;
  struct emit_loop inner;
  emit_loop_begin(e, &outer, emit_i64(e, 0), emit_i64(e, rows), 1, NULL, 0);
  r->row = outer.index;
  emit_loop_begin(e, &inner, emit_i64(e, 0), emit_i64(e, columns), e->lanes, NULL, 0);
  r->first = inner.index;
  begin_expression(r);
  LLVMValueRef ok = emit_expression(&h->expression, r->op->expr);
  LLVMValueRef index = emit_expression(&h->expression, r->op->expr2);
  LLVMValueRef bad = LLVMBuildNot(e->builder, emit_broadcast(e, ok), "");
  bad = LLVMBuildAnd(e->builder, bad, host_lane_mask(h, inner.index, columns), "");
  host_check_lanes(h, r->op, bad, index);
  emit_loop_end(e, &inner, NULL);
  emit_loop_end(e, &outer, NULL);
}

static void elementwise(struct rowwise *r, uint32_t rows, uint32_t columns)
{
  struct host *h = r->h;
  struct emit *e = &h->e;
  const struct tile_value *result = r->op->results[0];
  struct emit_loop outer;
  struct emit_loop inner;
  emit_loop_begin(e, &outer, emit_i64(e, 0), emit_i64(e, rows), 1, NULL, 0);
  r->row = outer.index;
  emit_loop_begin(e, &inner, emit_i64(e, 0), emit_i64(e, columns), e->lanes, NULL, 0);
  r->first = inner.index;
  LLVMValueRef lanes = element_value(r);
  LLVMValueRef offset = inner.index;
  if (!r->flat)
    offset = LLVMBuildAdd(e->builder,
                          LLVMBuildMul(e->builder, outer.index, host_value(h, result)->stride, ""),
                          offset, "");
  store_vector(h, result, offset, lanes);
  emit_loop_end(e, &inner, NULL);
  emit_loop_end(e, &outer, NULL);
}

/* The shape that the loops run over: the largest of the operands for a check, the operand of a
 * reduction. */
static struct tile_type loop_shape(const struct tile_op *op)
{
  struct tile_type type =
      op->result_count != 0 ? op->results[0]->type : (struct tile_type){.rows = 1, .columns = 1};
  if (op->kind == TILE_REDUCE)
    return op->operands[0]->type;
  for (uint32_t k = 0; op->result_count == 0 && k < op->operand_count; k++) {
    type.rows = op->operands[k]->type.rows > type.rows ? op->operands[k]->type.rows : type.rows;
    type.columns =
        op->operands[k]->type.columns > type.columns ? op->operands[k]->type.columns : type.columns;
  }
  return type;
}

void host_rowwise(struct host *h, struct tile_op *op)
{
  struct rowwise r = {.h = h, .op = op};
  r.places = ARENA_ARRAY(h->arena, struct host_value, op->operand_count);
  for (uint32_t k = 0; k < op->operand_count; k++) {
    const struct host_value *place = host_value(h, op->operands[k]);
    bool inlined =
        place->kind == HOST_SCALAR || place->kind == HOST_SPLAT || place->kind == HOST_IOTA;
    bool needs_memory =
        op->kind == TILE_PERMUTE || op->kind == TILE_SCAN || op->kind == TILE_TRIANGULAR_SOLVE;
    r.places[k] = inlined && !needs_memory
                      ? *place
                      : host_as_layout(h, op->operands[k], TILE_LAYOUT_ROW_MAJOR);
  }
  if (op->result_count != 0 && host_value(h, op->results[0])->kind != HOST_MEMORY)
    host_place(h, op->results[0]); /* else it goes where a carried value lies */
  struct tile_type shape = loop_shape(op);
  r.flat = shape.columns == 1 && shape.rows > 1;
  uint32_t rows = r.flat ? 1 : shape.rows;
  uint32_t columns = r.flat ? shape.rows : shape.columns;
  r.count = columns;
  r.row = emit_i64(&h->e, 0);
  switch ((int)op->kind) {
  case TILE_PERMUTE: permute_rows(&r, shape.rows, shape.columns); break;
  case TILE_SCAN: scan(&r); break;
  case TILE_TRIANGULAR_SOLVE: triangular_solve(&r); break;
  case TILE_REDUCE: reduce(&r, rows, columns); break;
  case TILE_CHECK: check(&r, rows, columns); break;
  default: elementwise(&r, rows, columns); break;
  }
}
