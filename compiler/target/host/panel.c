/* The panel at hand: who uses a value, what an op reads there, and buffers that hold one panel. */
#include "compiler/target/host/dot_bf16.h"

#include <assert.h>

bool panel_op_pending(struct host *h, const struct tile_op *op)
{
  for (size_t k = 0; k < h->group.count; k++)
    if (h->group.items[k] == op)
      return true;
  return false;
}

bool host_is_pending(struct host *h, const struct tile_value *value)
{
  return value->def != NULL && panel_op_pending(h, value->def);
}

/* Whether anything that is not pending uses the value. */
bool panel_escapes(struct host *h, const struct tile_value *value)
{
  const struct host_info *info = host_info(h, value);
  for (size_t k = 0; k < info->users.count; k++)
    if (!panel_op_pending(h, info->users.items[k]))
      return true;
  return false;
}

bool panel_is_vector_tile(const struct panel_loop *g, const struct tile_value *value)
{
  return value->type.kind == TILE_KIND_TILE && value->type.columns == 1 &&
         value->type.rows == g->rows && g->rows > 1;
}

int panel_last_use(struct host *h, const struct tile_value *value)
{
  int last = -1;
  for (size_t k = 0; k < h->group.count; k++) {
    const struct tile_op *op = h->group.items[k];
    for (uint32_t n = 0; n < op->operand_count; n++)
      if (op->operands[n] == value) {
        int use = dot_rounds(h, op) ? panel_last_use(h, op->results[0]) : (int)k;
        last = use > last ? use : last;
      }
  }
  return last;
}

static LLVMValueRef row_numbers(struct panel_loop *g, uint32_t vector)
{
  struct emit *e = &g->h->e;
  LLVMValueRef first = LLVMBuildMul(e->builder, g->panel, emit_i64(e, g->h->panel_rows), "");
  first = LLVMBuildAdd(e->builder, first, emit_i64(e, (int64_t)vector * e->lanes), "");
  first = LLVMBuildTrunc(e->builder, first, e->i32, "");
  return LLVMBuildAdd(e->builder, emit_broadcast(e, first), emit_lane_numbers(e), "");
}

LLVMValueRef panel_live_lanes(struct panel_loop *g, uint32_t vector)
{
  struct emit *e = &g->h->e;
  LLVMValueRef live = host_live_rows(g->h, g->rows);
  LLVMValueRef bound =
      live == NULL ? emit_i32(e, (int32_t)g->rows) : LLVMBuildTrunc(e->builder, live, e->i32, "");
  return LLVMBuildICmp(e->builder, LLVMIntSLT, row_numbers(g, vector), emit_broadcast(e, bound),
                       "");
}

LLVMValueRef panel_load_lanes(struct panel_loop *g, const struct tile_value *value,
                              LLVMValueRef base, LLVMValueRef offset)
{
  struct emit *e = &g->h->e;
  LLVMTypeRef type = host_element_type(g->h, value->type.element);
  LLVMValueRef stored =
      emit_load(e, emit_vector_type(e, type), emit_address(e, type, base, offset), 1);
  return host_from_memory(g->h, value->type.element, stored);
}

void panel_store_lanes(struct panel_loop *g, const struct tile_value *value, LLVMValueRef base,
                       LLVMValueRef offset, LLVMValueRef lanes)
{
  struct emit *e = &g->h->e;
  LLVMTypeRef type = host_element_type(g->h, value->type.element);
  LLVMValueRef stored = host_to_memory(g->h, value->type.element, emit_broadcast(e, lanes));
  emit_store(e, stored, emit_address(e, type, base, offset), 1);
}

/* Makes an [M, 1] tile from outside the group available as vectors; the builder is at the start of
 * the panel. */
void panel_preload(struct panel_loop *g, const struct tile_value *value)
{
  struct host *h = g->h;
  struct emit *e = &h->e;
  struct host_value *place = host_value(h, value);
  for (uint32_t v = 0; v < h->schedule.row_vectors; v++) {
    if (place->kind == HOST_IOTA) {
      place->rows[v] =
          LLVMBuildAdd(e->builder, row_numbers(g, v), emit_broadcast(e, place->scalar), "");
    } else if (place->kind == HOST_SPLAT || place->kind == HOST_SCALAR) {
      place->rows[v] = emit_broadcast(e, place->scalar);
    } else {
      LLVMValueRef offset = LLVMBuildMul(e->builder, g->panel, emit_i64(e, h->panel_rows), "");
      offset = LLVMBuildAdd(e->builder, offset, emit_i64(e, (int64_t)v * e->lanes), "");
      place->rows[v] = panel_load_lanes(g, value, place->base, offset);
    }
  }
}

/* What an elementwise op reads at g->column and g->vector. */
LLVMValueRef panel_operand_value(void *user, uint32_t index)
{
  struct panel_loop *g = user;
  struct host *h = g->h;
  struct emit *e = &h->e;
  const struct tile_value *value = g->op->operands[index];
  struct host_value *place = host_value(h, value);
  if (g->elements[value->id][g->vector] != NULL)
    return g->elements[value->id][g->vector];
  if (panel_is_vector_tile(g, value))
    return place->rows[g->vector];
  if (place->kind == HOST_SCALAR || place->kind == HOST_SPLAT)
    return place->scalar;
  if (place->kind == HOST_IOTA) {
    if (value->type.columns == 1)
      return place->scalar;
    LLVMValueRef column = LLVMBuildTrunc(e->builder, g->column, e->i32, "");
    return LLVMBuildAdd(e->builder, place->scalar, column, "");
  }
  assert(place->kind == HOST_MEMORY);
  LLVMTypeRef type = host_element_type(h, value->type.element);
  if (value->type.rows == 1) {
    LLVMValueRef column = value->type.columns == 1 ? emit_i64(e, 0) : g->column;
    return host_from_memory(h, value->type.element,
                            emit_load(e, type, emit_address(e, type, place->base, column), 1));
  }
  LLVMValueRef column =
      g->op->kind == TILE_PERMUTE ? host_permuted_column(h, g->op, g->column) : g->column;
  LLVMValueRef offset = LLVMBuildMul(e->builder, column, emit_i64(e, h->panel_rows), "");
  offset = LLVMBuildAdd(e->builder, offset, emit_i64(e, (int64_t)g->vector * e->lanes), "");
  return panel_load_lanes(g, value, host_panel_base(h, value, g->panel), offset);
}

/* Rows that only fill up the last panel stand for nothing. */
void panel_begin_expression(struct panel_loop *g)
{
  struct host *h = g->h;
  struct emit *e = &h->e;
  emit_expression_reset(&h->expression);
  h->expression.operand = panel_operand_value;
  h->expression.user = g;
  if (g->rows % h->panel_rows != 0)
    h->expression.active = LLVMBuildICmp(e->builder, LLVMIntSLT, row_numbers(g, g->vector),
                                         emit_broadcast(e, emit_i32(e, (int32_t)g->rows)), "");
}

LLVMValueRef panel_element_value(struct panel_loop *g, const struct tile_op *op)
{
  struct host *h = g->h;
  struct emit *e = &h->e;
  g->op = op;
  switch ((int)op->kind) {
  case TILE_MAP: {
    panel_begin_expression(g);
    LLVMValueRef value = emit_expression(&h->expression, op->expr);
    return emit_broadcast(e, host_round(h, op->results[0]->type.element, value));
  }
  case TILE_SCALE_ROWS: {
    LLVMValueRef value = emit_broadcast(e, panel_operand_value(g, 0));
    value = LLVMBuildFMul(e->builder, value, emit_broadcast(e, panel_operand_value(g, 1)), "");
    return host_round(h, op->results[0]->type.element, value);
  }
  case TILE_CONVERT: return emit_broadcast(e, host_convert(h, op, panel_operand_value(g, 0)));
  }
  return emit_broadcast(e, panel_operand_value(g, 0));
}

/* ---- buffers of one panel ---- */

void panel_place_result(struct panel_loop *g, const struct tile_value *value)
{
  struct host *h = g->h;
  struct host_value *place = host_value(h, value);
  if (place->kind == HOST_MEMORY && !place->per_panel)
    return; /* a home was given before: it escapes, or is carried */
  if (place->kind == HOST_MEMORY)
    return;
  size_t bytes = host_tile_bytes(h,
                                 (struct tile_type){.rows = h->panel_rows,
                                                    .columns = value->type.columns,
                                                    .element = value->type.element},
                                 TILE_LAYOUT_PANEL);
  place->kind = HOST_MEMORY;
  place->per_panel = true;
  g->sizes[value->id] = bytes;
  for (size_t k = 0; k < g->free_buffers.count; k++) {
    if (g->free_buffers.items[k].bytes < bytes)
      continue;
    place->base = g->free_buffers.items[k].base;
    g->sizes[value->id] = g->free_buffers.items[k].bytes;
    g->free_buffers.items[k] = g->free_buffers.items[--g->free_buffers.count];
    return;
  }
  place->base = host_allocate(h, bytes);
}

void panel_release(struct panel_loop *g, const struct tile_value *value)
{
  struct host_value *place = host_value(g->h, value);
  if (place->kind != HOST_MEMORY || !place->per_panel || place->base == NULL ||
      g->sizes[value->id] == 0)
    return;
  g->free_buffers.items = vector_reserve(g->h->arena, g->free_buffers.items, g->free_buffers.count,
                                         &g->free_buffers.capacity, sizeof(*g->free_buffers.items));
  g->free_buffers.items[g->free_buffers.count].base = place->base;
  g->free_buffers.items[g->free_buffers.count++].bytes = g->sizes[value->id];
  g->sizes[value->id] = 0;
}

/* Operands that die with op number `number` give their buffers back. */
void panel_release_dead(struct panel_loop *g, const struct tile_op *op, int number)
{
  for (uint32_t k = 0; k < op->operand_count; k++)
    if (host_is_pending(g->h, op->operands[k]) && panel_last_use(g->h, op->operands[k]) == number)
      panel_release(g, op->operands[k]);
}
