/* Groups of ops on panels: one loop over panels, everything inside on one panel.
 *
 * Within a panel, values of one column are vectors in registers. Elementwise ops and row reductions
 * over the same columns collect in a `run`, which becomes one loop over columns when an op comes
 * that needs one of its results whole. Tiles that nothing outside the group uses have a buffer of
 * one panel, and a buffer is used again as soon as the tile in it is dead.
 */
#include "compiler/target/host/dot_bf16.h"
#include "compiler/target/host/dot_int8.h"

#include <string.h>

void host_group_add(struct host *h, struct tile_op *op, uint32_t rows)
{
  if (h->group.count != 0 && h->group_rows != rows)
    host_group_flush(h);
  h->group_rows = rows;
  vector_push(h->arena, &h->group, op);
}

/* Operands from outside, brought into the layout that the group reads, before the loop over panels.
 */
struct outside {
  struct host_value a, b;
  struct host_value codes; /* b, where it has codes */
};

static void prepare_outside(struct host *h, const struct tile_op *op, struct outside *outside)
{
  if (op->kind != TILE_PRODUCT && op->kind != TILE_CONTRACT)
    return;
  outside->b = host_as_layout(h, op->operands[1], TILE_LAYOUT_ROW_MAJOR);
  if (op->kind == TILE_PRODUCT && !host_is_pending(h, op->operands[0]))
    outside->a = host_as_layout(h, op->operands[0],
                                op->transpose_a ? TILE_LAYOUT_ROW_MAJOR : TILE_LAYOUT_PANEL);
  if (dot_is_product(h, op))
    outside->b = dot_pack_second(h, op, &outside->b);
  else if (dot_int8_is_product(h, op))
    outside->codes = dot_int8_pack(h, op, &outside->b);
}

/* Row-major matrices that the op reads as panels: a converted copy stands for the value, marked in
 * `copied`, until the group is done (host_group_flush puts it back). */
static void stand_in(struct host *h, const struct tile_op *op, bool *copied)
{
  uint32_t first = op->kind == TILE_PRODUCT ? 2 : 0;
  for (uint32_t k = first; k < op->operand_count; k++) {
    const struct tile_value *value = op->operands[k];
    if (value->type.kind != TILE_KIND_TILE || host_is_pending(h, value) ||
        (op->kind == TILE_CONTRACT && k == 1))
      continue;
    bool matrix = value->type.rows > 1 && value->type.columns > 1;
    if (!matrix || host_value(h, value)->kind != HOST_MEMORY || host_is_panel(h, value) ||
        copied[value->id])
      continue;
    *host_value(h, value) = host_as_layout(h, value, TILE_LAYOUT_PANEL);
    copied[value->id] = true;
  }
}

/* Results that live on after the group get a home before it; column totals start empty. */
static void place_homes(struct panel_loop *g, const struct tile_op *op)
{
  struct host *h = g->h;
  if (op->result_count == 0)
    return;
  const struct tile_value *result = op->results[0];
  bool totals = op->kind == TILE_REDUCE && op->axis == 0;
  bool placed = host_value(h, result)->kind == HOST_MEMORY;
  if (!placed && (totals || result->type.rows == 1 || panel_escapes(h, result)))
    host_place(h, result);
  if (!totals)
    return;
  struct emit *e = &h->e;
  LLVMTypeRef type = host_element_type(h, result->type.element);
  LLVMValueRef start = host_to_memory(h, result->type.element, host_reduce_start(h, op, false));
  struct emit_loop loop;
  emit_loop_begin(e, &loop, emit_i64(e, 0), emit_i64(e, result->type.columns), 1, NULL, 0);
  emit_store(e, start, emit_address(e, type, host_value(h, result)->base, loop.index), 1);
  emit_loop_end(e, &loop, NULL);
}

static void emit_op(struct panel_loop *g, struct tile_op *op, const struct outside *outside,
                    int number)
{
  struct host *h = g->h;
  switch ((int)op->kind) {
  case TILE_PRODUCT:
    run_close(g);
    group_product(g, op, &outside->a, &outside->b, &outside->codes);
    panel_release_dead(g, op, number);
    return;
  case TILE_CONTRACT:
    run_close(g);
    group_contract(g, op, &outside->b);
    panel_release_dead(g, op, number);
    return;
  case TILE_LOAD:
    run_close(g);
    if (panel_is_vector_tile(g, op->results[0]) &&
        host_value(h, op->results[0])->kind == HOST_UNSET) {
      panel_place_result(g, op->results[0]);
      host_load_panel(h, op, g->panel);
      struct host_value *place = host_value(h, op->results[0]);
      for (uint32_t v = 0; v < h->schedule.row_vectors; v++)
        place->rows[v] = panel_load_lanes(g, op->results[0], place->base,
                                          emit_i64(&h->e, (int64_t)v * h->e.lanes));
      return;
    }
    panel_place_result(g, op->results[0]);
    host_load_panel(h, op, g->panel);
    if (panel_is_vector_tile(g, op->results[0]))
      panel_preload(g, op->results[0]);
    return;
  case TILE_STORE:
  case TILE_ACCUMULATE: {
    run_close(g);
    struct host_value *place = host_value(h, op->operands[0]);
    struct host_value saved = *place;
    if (panel_is_vector_tile(g, op->operands[0]))
      place->kind = HOST_ROWS;
    host_store(h, op, g->panel);
    *place = saved;
    panel_release_dead(g, op, number);
    return;
  }
  }
  if (group_is_folded(h, op))
    return;
  bool vector =
      op->result_count != 0 && panel_is_vector_tile(g, op->results[0]) && op->kind != TILE_REDUCE;
  if (!vector) {
    run_add(g, op);
    return;
  }
  if (run_must_wait(g, op) || (g->run.count != 0 && run_columns_of(op) != g->run_columns))
    run_close(g);
  run_vector_op(g, op);
}

/* Rows that live on are written back at the end of each panel. */
static void store_rows(struct panel_loop *g, const struct tile_value *value)
{
  struct host *h = g->h;
  struct emit *e = &h->e;
  struct host_value *place = host_value(h, value);
  if (place->kind != HOST_MEMORY || place->per_panel)
    return;
  LLVMValueRef offset = LLVMBuildMul(e->builder, g->panel, emit_i64(e, h->panel_rows), "");
  for (uint32_t v = 0; v < h->schedule.row_vectors; v++)
    panel_store_lanes(g, value, place->base,
                      LLVMBuildAdd(e->builder, offset, emit_i64(e, (int64_t)v * e->lanes), ""),
                      place->rows[v]);
}

/* Whether the op may be done before pending ops that it does not read. */
static bool moves_freely(const struct tile_op *op)
{
  return (tile_op_infos[op->kind].flags & TILE_PURE) != 0 && op->kind != TILE_PRODUCT &&
         op->kind != TILE_CONTRACT && op->kind != TILE_LOAD;
}

bool host_group_flush_for(struct host *h, struct tile_value *const *values, uint32_t value_count)
{
  size_t count = h->group.count, needed = 0;
  bool *wanted = ARENA_ARRAY(h->arena, bool, h->kernel->value_count);
  for (uint32_t k = 0; k < value_count; k++)
    wanted[values[k]->id] = true;
  struct tile_op **first = ARENA_ARRAY(h->arena, struct tile_op *, count);
  struct tile_op **rest = ARENA_ARRAY(h->arena, struct tile_op *, count);
  for (size_t k = count; k-- > 0;) {
    struct tile_op *pending = h->group.items[k];
    if (pending->kind == TILE_STORE || pending->kind == TILE_ACCUMULATE)
      return false; /* what goes before may read there */
    if (pending->result_count == 0 || !wanted[pending->results[0]->id])
      continue;
    if (!moves_freely(pending) || host_value(h, pending->results[0])->kind != HOST_UNSET)
      return false;
    for (uint32_t n = 0; n < pending->operand_count; n++)
      wanted[pending->operands[n]->id] = true;
    needed++;
  }
  size_t to_first = 0, to_rest = 0;
  for (size_t k = 0; k < count; k++) {
    struct tile_op *pending = h->group.items[k];
    bool now = pending->result_count != 0 && wanted[pending->results[0]->id];
    if (now)
      first[to_first++] = pending;
    else
      rest[to_rest++] = pending;
  }
  if (needed == 0 || to_rest == 0)
    return false;
  uint32_t rows = h->group_rows;
  h->group.count = to_first;
  memcpy(h->group.items, first, to_first * sizeof(*first));
  host_group_flush(h);
  h->group_rows = rows;
  h->group.count = to_rest;
  memcpy(h->group.items, rest, to_rest * sizeof(*rest));
  return true;
}

void host_group_flush(struct host *h)
{
  if (h->group.count == 0)
    return;
  struct emit *e = &h->e;
  struct panel_loop g = {.h = h, .rows = h->group_rows};
  g.elements = arena_alloc_array(h->arena, h->kernel->value_count, sizeof(*g.elements));
  g.sizes = ARENA_ARRAY(h->arena, size_t, h->kernel->value_count);
  size_t count = h->group.count;
  struct outside *outside = ARENA_ARRAY(h->arena, struct outside, count);
  VECTOR(struct {
    const struct tile_value *value;
    struct host_value place;
  })
  borrowed = {0};
  for (size_t k = 0; k < count; k++)
    place_homes(&g, h->group.items[k]);
  for (size_t k = 0; k < count; k++) {
    const struct tile_op *op = h->group.items[k];
    for (uint32_t n = 0; n < op->operand_count; n++) {
      borrowed.items = vector_reserve(h->arena, borrowed.items, borrowed.count, &borrowed.capacity,
                                      sizeof(*borrowed.items));
      borrowed.items[borrowed.count].value = op->operands[n];
      borrowed.items[borrowed.count++].place = *host_value(h, op->operands[n]);
    }
    prepare_outside(h, op, &outside[k]);
  }
  bool *copied = ARENA_ARRAY(h->arena, bool, h->kernel->value_count);
  for (size_t k = 0; k < count; k++)
    stand_in(h, h->group.items[k], copied);
  struct emit_loop loop;
  emit_loop_begin(e, &loop, emit_i64(e, 0), host_panel_count(h, g.rows), 1, NULL, 0);
  g.panel = loop.index;
  panel_begin_limits(&g);
  for (size_t k = 0; k < count; k++) {
    const struct tile_op *op = h->group.items[k];
    for (uint32_t n = 0; n < op->operand_count; n++)
      if (panel_is_vector_tile(&g, op->operands[n]) && !host_is_pending(h, op->operands[n]))
        panel_preload(&g, op->operands[n]);
  }
  for (size_t k = 0; k < count; k++)
    emit_op(&g, h->group.items[k], &outside[k], (int)k);
  run_close(&g);
  for (size_t k = 0; k < count; k++) {
    const struct tile_op *op = h->group.items[k];
    if (op->result_count != 0 && panel_is_vector_tile(&g, op->results[0]) && op->kind != TILE_LOAD)
      store_rows(&g, op->results[0]);
  }
  emit_loop_end(e, &loop, NULL);
  for (size_t k = borrowed.count; k > 0; k--)
    if (!host_is_pending(h, borrowed.items[k - 1].value))
      *host_value(h, borrowed.items[k - 1].value) = borrowed.items[k - 1].place;
  h->group.count = 0;
}
