/* Runs: elementwise ops and row reductions over the same columns of a panel, in one loop over
 * columns. */
#include "compiler/target/host/panel.h"

struct run_reduction {
  const struct tile_op *op;
  LLVMValueRef lanes[HOST_MAX_ROW_VECTORS];
};

static bool in_run(struct panel_loop *g, const struct tile_value *value)
{
  for (size_t k = 0; k < g->run.count; k++)
    if (value->def == g->run.items[k])
      return true;
  return false;
}

/* Whether some op of the run reads other columns of the value than the one at hand. */
static bool permuted_in_run(struct panel_loop *g, const struct tile_value *value)
{
  for (size_t k = 0; k < g->run.count; k++)
    if (g->run.items[k]->kind == TILE_PERMUTE && g->run.items[k]->operands[0] == value)
      return true;
  return false;
}

static int group_number(struct host *h, const struct tile_op *op)
{
  for (size_t k = 0; k < h->group.count; k++)
    if (h->group.items[k] == op)
      return (int)k;
  return -1;
}

/* A result of the run needs memory when an op after the run reads it, or something outside the
 * group. */
static bool needs_memory(struct panel_loop *g, const struct tile_value *value, int run_end)
{
  return panel_escapes(g->h, value) || panel_last_use(g->h, value) > run_end;
}

static void run_body(struct panel_loop *g, struct run_reduction *reductions, int run_end)
{
  struct host *h = g->h;
  struct emit *e = &h->e;
  size_t reduction = 0;
  for (size_t k = 0; k < g->run.count; k++) {
    const struct tile_op *op = g->run.items[k];
    g->op = op;
    if (op->kind == TILE_REDUCE && op->axis == 1) {
      for (g->vector = 0; g->vector < h->schedule.row_vectors; g->vector++) {
        LLVMValueRef *so_far = &reductions[reduction].lanes[g->vector];
        *so_far = host_reduce_step(h, op->reduction, *so_far,
                                   emit_broadcast(e, panel_operand_value(g, 0)));
      }
      reduction++;
      continue;
    }
    if (op->kind == TILE_REDUCE) {
      /* Down the rows: a column's total over this panel joins what earlier panels left. Dead rows
       * stay out. */
      LLVMValueRef total = NULL;
      for (g->vector = 0; g->vector < h->schedule.row_vectors; g->vector++) {
        LLVMValueRef lanes = emit_broadcast(e, panel_operand_value(g, 0));
        lanes =
            emit_select(e, panel_live_lanes(g, g->vector), lanes, host_reduce_start(h, op, true));
        total = total == NULL ? lanes : host_reduce_step(h, op->reduction, total, lanes);
      }
      LLVMValueRef panel_total = host_reduce_lanes(h, op->reduction, total);
      LLVMTypeRef type = host_element_type(h, op->results[0]->type.element);
      LLVMValueRef address = emit_address(e, type, host_value(h, op->results[0])->base, g->column);
      LLVMValueRef before =
          host_from_memory(h, op->results[0]->type.element, emit_load(e, type, address, 1));
      LLVMValueRef after = host_reduce_step(h, op->reduction, before, panel_total);
      emit_store(e, host_to_memory(h, op->results[0]->type.element, after), address, 1);
      continue;
    }
    for (g->vector = 0; g->vector < h->schedule.row_vectors; g->vector++) {
      if (op->kind == TILE_CHECK) {
        panel_begin_expression(g);
        LLVMValueRef ok = emit_broadcast(e, emit_expression(&h->expression, op->expr));
        LLVMValueRef index = emit_expression(&h->expression, op->expr2);
        LLVMValueRef bad = LLVMBuildAnd(e->builder, LLVMBuildNot(e->builder, ok, ""),
                                        panel_live_lanes(g, g->vector), "");
        host_check_lanes(h, op, bad, index);
        continue;
      }
      g->elements[op->results[0]->id][g->vector] = panel_element_value(g, op);
    }
    if (op->kind == TILE_CHECK || !needs_memory(g, op->results[0], run_end))
      continue;
    LLVMValueRef base = host_panel_base(h, op->results[0], g->panel);
    for (uint32_t v = 0; v < h->schedule.row_vectors; v++) {
      LLVMValueRef offset = LLVMBuildMul(e->builder, g->column, emit_i64(e, h->panel_rows), "");
      offset = LLVMBuildAdd(e->builder, offset, emit_i64(e, (int64_t)v * e->lanes), "");
      panel_store_lanes(g, op->results[0], base, offset, g->elements[op->results[0]->id][v]);
    }
  }
}

void run_close(struct panel_loop *g)
{
  struct host *h = g->h;
  struct emit *e = &h->e;
  if (g->run.count == 0)
    return;
  int run_end = group_number(h, g->run.items[g->run.count - 1]);
  uint32_t vectors = h->schedule.row_vectors;
  struct run_reduction *reductions = ARENA_ARRAY(h->arena, struct run_reduction, g->run.count);
  size_t reduction_count = 0;
  LLVMValueRef carried[EMIT_MAX_CARRIED];
  for (size_t k = 0; k < g->run.count; k++) {
    const struct tile_op *op = g->run.items[k];
    if (op->kind == TILE_REDUCE && op->axis == 1) {
      reductions[reduction_count].op = op;
      for (uint32_t v = 0; v < vectors; v++)
        carried[reduction_count * vectors + v] = host_reduce_start(h, op, true);
      reduction_count++;
    } else if (op->kind != TILE_REDUCE && op->kind != TILE_CHECK &&
               needs_memory(g, op->results[0], run_end)) {
      /* Elementwise: an operand that dies in this run may lend its buffer, since each element is
       * read first. */
      for (uint32_t n = 0; n < op->operand_count; n++) {
        const struct tile_value *operand = op->operands[n];
        if (host_is_pending(h, operand) && !in_run(g, operand) && !permuted_in_run(g, operand) &&
            panel_last_use(h, operand) == group_number(h, op) && !panel_escapes(h, operand) &&
            operand->type.columns == g->run_columns && !panel_is_vector_tile(g, operand) &&
            operand->type.element == op->results[0]->type.element &&
            host_value(h, op->results[0])->kind == HOST_UNSET)
          panel_release(g, operand);
      }
      panel_place_result(g, op->results[0]);
    }
  }
  struct emit_loop loop;
  const struct host_range *range = g->run_range;
  emit_loop_begin(e, &loop, range == NULL ? emit_i64(e, 0) : range->first,
                  range == NULL ? emit_i64(e, g->run_columns) : range->end, 1, carried,
                  (unsigned)(reduction_count * vectors));
  g->column = loop.index;
  for (size_t k = 0; k < reduction_count; k++)
    for (uint32_t v = 0; v < vectors; v++)
      reductions[k].lanes[v] = loop.carried[k * vectors + v];
  run_body(g, reductions, run_end);
  for (size_t k = 0; k < reduction_count; k++)
    for (uint32_t v = 0; v < vectors; v++)
      carried[k * vectors + v] = reductions[k].lanes[v];
  emit_loop_end(e, &loop, carried);
  for (size_t k = 0; k < reduction_count; k++) {
    const struct tile_value *result = reductions[k].op->results[0];
    for (uint32_t v = 0; v < vectors; v++)
      host_value(h, result)->rows[v] =
          host_round(h, result->type.element, loop.result[k * vectors + v]);
  }
  for (size_t k = 0; k < g->run.count; k++) {
    const struct tile_op *op = g->run.items[k];
    for (uint32_t n = 0; n < op->result_count; n++)
      for (uint32_t v = 0; v < vectors; v++)
        g->elements[op->results[n]->id][v] = NULL;
    panel_release_dead(g, op, group_number(h, op));
  }
  g->run.count = 0;
}

uint32_t run_columns_of(const struct tile_op *op)
{
  if (op->kind == TILE_REDUCE)
    return op->operands[0]->type.columns;
  if (op->kind != TILE_CHECK)
    return op->results[0]->type.columns;
  uint32_t columns = 1;
  for (uint32_t k = 0; k < op->operand_count; k++)
    columns = op->operands[k]->type.columns > columns ? op->operands[k]->type.columns : columns;
  return columns;
}

const struct host_range *run_range_of(const struct panel_loop *g, const struct tile_op *op)
{
  if (op->kind != TILE_REDUCE && op->kind != TILE_CHECK)
    return panel_range(g, op->results[0]);
  const struct host_range *range = NULL;
  for (uint32_t k = 0; k < op->operand_count && range == NULL; k++)
    range = panel_range(g, op->operands[k]);
  return range;
}

/* Whether the op can only follow the run at hand: it reads a row result of it, or a permuted one.
 */
bool run_must_wait(struct panel_loop *g, const struct tile_op *op)
{
  for (uint32_t k = 0; k < op->operand_count; k++) {
    const struct tile_value *operand = op->operands[k];
    if (in_run(g, operand) && (operand->def->kind == TILE_REDUCE || op->kind == TILE_PERMUTE))
      return true;
  }
  return false;
}

void run_add(struct panel_loop *g, const struct tile_op *op)
{
  uint32_t columns = run_columns_of(op);
  size_t reductions = 0;
  for (size_t k = 0; k < g->run.count; k++)
    reductions += g->run.items[k]->kind == TILE_REDUCE;
  bool crowded = (reductions + 1) * g->h->schedule.row_vectors > EMIT_MAX_CARRIED;
  const struct host_range *range = run_range_of(g, op);
  if (g->run.count != 0 &&
      (g->run_columns != columns || g->run_range != range || run_must_wait(g, op) || crowded))
    run_close(g);
  g->run_columns = columns;
  g->run_range = range;
  vector_push(g->h->arena, &g->run, op);
}

/* An op whose result is one vector a row vector: no loop. */
void run_vector_op(struct panel_loop *g, const struct tile_op *op)
{
  struct host_value *place = host_value(g->h, op->results[0]);
  g->column = emit_i64(&g->h->e, 0);
  LLVMValueRef rows[HOST_MAX_ROW_VECTORS];
  for (g->vector = 0; g->vector < g->h->schedule.row_vectors; g->vector++)
    rows[g->vector] = panel_element_value(g, op);
  for (uint32_t v = 0; v < g->h->schedule.row_vectors; v++)
    place->rows[v] = rows[v];
  if (place->kind == HOST_UNSET)
    place->kind = HOST_ROWS;
}
