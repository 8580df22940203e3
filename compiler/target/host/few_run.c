/* Runs of elementwise ops and row reductions over few rows of one shape: a loop over rows and in it
 * one over vectors of columns. What only the run uses stays in registers. */
#include "compiler/target/host/few.h"

struct few_run {
  struct host *h;
  uint32_t rows, columns;
  LLVMValueRef *fixed; /* by value id: what does not change along a row */
  LLVMValueRef *made;  /* by value id: results at the vector at hand */
  const struct tile_op *op;
  LLVMValueRef row, column; /* i64 */
};

static struct tile_type shape_of(const struct tile_op *op)
{
  return op->kind == TILE_REDUCE ? op->operands[0]->type : op->results[0]->type;
}

bool few_in_run(const struct tile_op *op)
{
  switch ((int)op->kind) {
  case TILE_MAP:
  case TILE_CONVERT:
  case TILE_SCALE_ROWS:
  case TILE_BROADCAST: break;
  case TILE_REDUCE:
    if (op->axis != 1)
      return false;
    break;
  default: return false;
  }
  struct tile_type shape = shape_of(op);
  return shape.rows <= HOST_FEW_ROWS && shape.columns > 1;
}

bool few_is_pending(struct host *h, const struct tile_value *value)
{
  for (size_t k = 0; k < h->run.count; k++)
    if (value->def == h->run.items[k])
      return true;
  return false;
}

/* Whether the run's loop cannot have the op: of another shape, or after a total of the run. */
static bool must_follow(struct host *h, const struct tile_op *op)
{
  if (h->run.count == 0)
    return false;
  struct tile_type shape = shape_of(op), loop = shape_of(h->run.items[0]);
  size_t reductions = 0;
  for (size_t k = 0; k < h->run.count; k++)
    reductions += h->run.items[k]->kind == TILE_REDUCE;
  if (shape.rows != loop.rows || shape.columns != loop.columns ||
      reductions >= EMIT_MAX_CARRIED / 2)
    return true;
  for (uint32_t k = 0; k < op->operand_count; k++) {
    const struct tile_value *operand = op->operands[k];
    if (few_is_pending(h, operand) &&
        (operand->def->kind == TILE_REDUCE || operand->type.rows != loop.rows))
      return true;
  }
  return false;
}

void few_run_add(struct host *h, struct tile_op *op)
{
  if (must_follow(h, op))
    few_run_flush(h);
  vector_push(h->arena, &h->run, op);
}

/* ---- operands ---- */

static LLVMValueRef load_at(struct few_run *r, const struct tile_value *value, LLVMValueRef offset,
                            bool vector)
{
  struct emit *e = &r->h->e;
  LLVMTypeRef type = host_element_type(r->h, value->type.element);
  LLVMValueRef address = emit_address(e, type, host_value(r->h, value)->base, offset);
  LLVMValueRef stored = emit_load(e, vector ? emit_vector_type(e, type) : type, address, 1);
  return host_from_memory(r->h, value->type.element, stored);
}

/* What is the same for all of the row, ahead of the loop over it. */
static void load_fixed(struct few_run *r, const struct tile_value *value)
{
  struct emit *e = &r->h->e;
  const struct host_value *place = host_value(r->h, value);
  if (value->type.kind != TILE_KIND_TILE || value->type.columns > 1)
    return;
  LLVMValueRef row = value->type.rows > 1 ? r->row : emit_i64(e, 0);
  if (place->kind == HOST_MEMORY)
    r->fixed[value->id] = load_at(r, value, row, false);
  else if (place->kind == HOST_IOTA)
    r->fixed[value->id] =
        LLVMBuildAdd(e->builder, place->scalar, LLVMBuildTrunc(e->builder, row, e->i32, ""), "");
}

static LLVMValueRef operand_value(void *user, uint32_t index)
{
  struct few_run *r = user;
  struct emit *e = &r->h->e;
  const struct tile_value *value = r->op->operands[index];
  const struct host_value *place = host_value(r->h, value);
  if (r->made[value->id] != NULL)
    return r->made[value->id];
  if (r->fixed[value->id] != NULL)
    return r->fixed[value->id];
  if (place->kind == HOST_IOTA) {
    LLVMValueRef at = LLVMBuildTrunc(e->builder, r->column, e->i32, "");
    at = LLVMBuildAdd(e->builder, place->scalar, at, "");
    return LLVMBuildAdd(e->builder, emit_broadcast(e, at), emit_lane_numbers(e), "");
  }
  if (place->kind != HOST_MEMORY)
    return place->scalar;
  LLVMValueRef offset = r->column;
  if (value->type.rows > 1)
    offset =
        LLVMBuildAdd(e->builder, LLVMBuildMul(e->builder, r->row, place->stride, ""), offset, "");
  return load_at(r, value, offset, true);
}

static LLVMValueRef element_value(struct few_run *r)
{
  struct host *h = r->h;
  struct emit *e = &h->e;
  const struct tile_op *op = r->op;
  enum tile_element element = op->results[0]->type.element;
  switch ((int)op->kind) {
  case TILE_MAP:
    emit_expression_reset(&h->expression);
    h->expression.operand = operand_value;
    h->expression.user = r;
    if (r->columns % e->lanes != 0)
      h->expression.active = host_lane_mask(h, r->column, r->columns);
    return host_round(h, element, emit_expression(&h->expression, op->expr));
  case TILE_SCALE_ROWS:
    return host_round(h, element,
                      LLVMBuildFMul(e->builder, emit_broadcast(e, operand_value(r, 0)),
                                    emit_broadcast(e, operand_value(r, 1)), ""));
  case TILE_CONVERT: return host_convert(h, op, operand_value(r, 0));
  }
  return operand_value(r, 0);
}

/* ---- the loops ---- */

/* Whether anything but ops of the run reads the value. */
static bool needs_memory(struct host *h, const struct tile_value *value)
{
  const struct host_info *info = host_info(h, value);
  bool needs = false;
  for (size_t k = 0; k < info->users.count && !needs; k++) {
    needs = true;
    for (size_t n = 0; n < h->run.count && needs; n++)
      needs = h->run.items[n] != info->users.items[k];
  }
  return needs;
}

/* One vector of columns; `totals` of the reductions in order. */
static void run_vector(struct few_run *r, LLVMValueRef *totals)
{
  struct host *h = r->h;
  struct emit *e = &h->e;
  for (size_t k = 0; k < h->run.count; k++) {
    const struct tile_op *op = h->run.items[k];
    const struct tile_value *result = op->results[0];
    r->op = op;
    if (op->kind == TILE_REDUCE) {
      LLVMValueRef lanes = emit_broadcast(e, operand_value(r, 0));
      if (r->columns % e->lanes != 0)
        lanes = emit_select(e, host_lane_mask(h, r->column, r->columns), lanes,
                            host_reduce_start(h, op, true));
      *totals = host_reduce_step(h, op->reduction, *totals, lanes);
      totals++;
      continue;
    }
    LLVMValueRef value = emit_broadcast(e, element_value(r));
    r->made[result->id] = value;
    const struct host_value *place = host_value(h, result);
    if (place->kind != HOST_MEMORY)
      continue;
    LLVMTypeRef type = host_element_type(h, result->type.element);
    LLVMValueRef offset = r->column;
    if (r->rows > 1)
      offset =
          LLVMBuildAdd(e->builder, LLVMBuildMul(e->builder, r->row, place->stride, ""), offset, "");
    emit_store(e, host_to_memory(h, result->type.element, value),
               emit_address(e, type, place->base, offset), 1);
  }
}

/* `stats`: a vector or two of the totals of all rows, lane = row. */
static void set_lane(struct few_run *r, LLVMValueRef *stats, uint32_t vectors, LLVMValueRef total)
{
  struct emit *e = &r->h->e;
  LLVMValueRef row = emit_broadcast(e, LLVMBuildTrunc(e->builder, r->row, e->i32, ""));
  for (uint32_t v = 0; v < vectors; v++) {
    LLVMValueRef numbers =
        LLVMBuildAdd(e->builder, emit_lane_numbers(e),
                     emit_broadcast(e, emit_i32(e, (int32_t)(v * e->lanes))), "");
    LLVMValueRef here = LLVMBuildICmp(e->builder, LLVMIntEQ, numbers, row, "");
    stats[v] = emit_select(e, here, emit_broadcast(e, total), stats[v]);
  }
}

static void store_totals(struct few_run *r, const struct tile_value *result,
                         const LLVMValueRef *stats, uint32_t vectors)
{
  struct host *h = r->h;
  struct emit *e = &h->e;
  LLVMTypeRef type = host_element_type(h, result->type.element);
  for (uint32_t v = 0; v < vectors; v++)
    emit_store(
        e, host_to_memory(h, result->type.element, stats[v]),
        emit_address(e, type, host_value(h, result)->base, emit_i64(e, (int64_t)v * e->lanes)), 1);
}

void few_run_flush(struct host *h)
{
  struct emit *e = &h->e;
  if (h->run.count == 0)
    return;
  struct tile_type shape = shape_of(h->run.items[0]);
  struct few_run r = {.h = h, .rows = shape.rows, .columns = shape.columns};
  r.fixed = ARENA_ARRAY(h->arena, LLVMValueRef, h->kernel->value_count);
  r.made = ARENA_ARRAY(h->arena, LLVMValueRef, h->kernel->value_count);
  const uint32_t vectors = (r.rows + e->lanes - 1) / e->lanes;
  LLVMValueRef starts[EMIT_MAX_CARRIED], stats[EMIT_MAX_CARRIED];
  unsigned reductions = 0;
  for (size_t k = 0; k < h->run.count; k++) {
    const struct tile_op *op = h->run.items[k];
    const struct tile_value *result = op->results[0];
    if (host_value(h, result)->kind != HOST_MEMORY && needs_memory(h, result))
      host_place(h, result);
    if (op->kind != TILE_REDUCE)
      continue;
    starts[reductions] = host_reduce_start(h, op, true);
    for (uint32_t v = 0; v < vectors; v++)
      stats[reductions * vectors + v] = LLVMConstNull(LLVMTypeOf(starts[reductions]));
    reductions++;
  }
  struct host_piece piece;
  host_piece_begin(h, &piece);
  struct emit_loop rows, columns;
  emit_loop_begin(e, &rows, emit_i64(e, 0), emit_i64(e, r.rows), 1, stats, reductions * vectors);
  r.row = rows.index;
  for (size_t k = 0; k < h->run.count; k++)
    for (uint32_t n = 0; n < h->run.items[k]->operand_count; n++)
      load_fixed(&r, h->run.items[k]->operands[n]);
  emit_loop_begin(e, &columns, emit_i64(e, 0), emit_i64(e, r.columns), e->lanes, starts,
                  reductions);
  r.column = columns.index;
  LLVMValueRef totals[EMIT_MAX_CARRIED];
  for (unsigned k = 0; k < reductions; k++)
    totals[k] = columns.carried[k];
  run_vector(&r, totals);
  emit_loop_end(e, &columns, totals);
  unsigned reduction = 0;
  for (size_t k = 0; k < h->run.count; k++) {
    const struct tile_op *op = h->run.items[k];
    if (op->kind != TILE_REDUCE)
      continue;
    LLVMValueRef total = host_reduce_lanes(h, op->reduction, columns.result[reduction]);
    total = host_round(h, op->results[0]->type.element, total);
    for (uint32_t v = 0; v < vectors; v++)
      stats[reduction * vectors + v] = rows.carried[reduction * vectors + v];
    set_lane(&r, &stats[reduction * vectors], vectors, total);
    reduction++;
  }
  emit_loop_end(e, &rows, stats);
  reduction = 0;
  for (size_t k = 0; k < h->run.count; k++) {
    if (h->run.items[k]->kind != TILE_REDUCE)
      continue;
    if (host_value(h, h->run.items[k]->results[0])->kind == HOST_MEMORY)
      store_totals(&r, h->run.items[k]->results[0], &rows.result[reduction * vectors], vectors);
    reduction++;
  }
  host_piece_end(h, &piece, "attnc.few_run");
  h->run.count = 0;
}
