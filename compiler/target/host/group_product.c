/* Products and contractions of the panel at hand. */
#include "compiler/target/host/dot_bf16.h"
#include "compiler/target/host/dot_int8.h"

/* scale_rows whose only use is as this product's accumulator is done as the accumulator is loaded.
 */
static const struct tile_op *folded_scale(struct host *h, const struct tile_op *product)
{
  if (product->operand_count < 3 || !host_is_pending(h, product->operands[2]))
    return NULL;
  const struct tile_op *def = product->operands[2]->def;
  if (def->kind != TILE_SCALE_ROWS || host_info(h, def->results[0])->users.count != 1)
    return NULL;
  return def;
}

bool group_is_folded(struct host *h, const struct tile_op *op)
{
  if (dot_rounds(h, op))
    return true;
  if (op->kind != TILE_SCALE_ROWS || host_info(h, op->results[0])->users.count != 1)
    return false;
  const struct tile_op *user = host_info(h, op->results[0])->users.items[0];
  return user->kind == TILE_PRODUCT && panel_op_pending(h, user) && folded_scale(h, user) == op;
}

/* The panel at hand of a tile in memory; what is held in vectors is written there first. */
static LLVMValueRef panel_memory(struct panel_loop *g, const struct tile_value *value)
{
  struct host *h = g->h;
  if (!panel_is_vector_tile(g, value))
    return host_panel_base(h, value, g->panel);
  LLVMValueRef base = host_allocate(h, (size_t)h->panel_rows * sizeof(float));
  for (uint32_t v = 0; v < h->schedule.row_vectors; v++)
    panel_store_lanes(g, value, base, emit_i64(&h->e, (int64_t)v * h->e.lanes),
                      host_value(h, value)->rows[v]);
  return base;
}

/* A result of one column that was made in memory, as vectors for the ops that follow. */
static void load_rows(struct panel_loop *g, const struct tile_value *value)
{
  struct host *h = g->h;
  for (uint32_t v = 0; v < h->schedule.row_vectors && panel_is_vector_tile(g, value); v++)
    host_value(h, value)->rows[v] = panel_load_lanes(g, value, host_panel_base(h, value, g->panel),
                                                     emit_i64(&h->e, (int64_t)v * h->e.lanes));
}

static void copy_panel(struct panel_loop *g, const struct tile_value *from, LLVMValueRef to)
{
  struct host *h = g->h;
  struct emit *e = &h->e;
  struct host_value *place = host_value(h, from);
  LLVMValueRef source = place->kind == HOST_SPLAT ? NULL : panel_memory(g, from);
  struct emit_loop loop;
  emit_loop_begin(e, &loop, emit_i64(e, 0),
                  emit_i64(e, (int64_t)from->type.columns * h->panel_rows), e->lanes, NULL, 0);
  LLVMValueRef lanes = source == NULL ? emit_broadcast(e, place->scalar)
                                      : panel_load_lanes(g, from, source, loop.index);
  panel_store_lanes(g, from, to, loop.index, lanes);
  emit_loop_end(e, &loop, NULL);
}

/* What is summed over: columns of `a` that were computed (NULL: all), as far as the rows of `b` are
 * needed. */
static const struct host_range *inner_range(struct host *h, const struct host_range *columns,
                                            const struct host_range *needed)
{
  struct emit *e = &h->e;
  if (columns == NULL || needed == NULL)
    return columns == NULL ? needed : columns;
  LLVMValueRef first[2] = {columns->first, needed->first}, end[2] = {columns->end, needed->end};
  struct host_range *both = ARENA_ARRAY(h->arena, struct host_range, 1);
  both->first = emit_intrinsic(e, "llvm.smax", e->i64, first, 2);
  both->end = emit_intrinsic(e, "llvm.smin", e->i64, end, 2);
  both->end = emit_intrinsic(e, "llvm.smax", e->i64, (LLVMValueRef[]){both->first, both->end}, 2);
  return both;
}

/* The product of digits, but where these cannot stand for the panel's rows. */
static void digits_or_numbers(struct panel_loop *g, const struct tile_op *op,
                              const struct host_operands *numbers, const struct host_value *codes)
{
  struct host *h = g->h;
  struct host_operands digits = *numbers;
  struct host_range quads;
  digits.digits = true;
  digits.a = dot_int8_split(g, op, numbers->a, numbers->inner);
  digits.b = codes;
  if (numbers->inner != NULL) {
    quads = dot_int8_quads_of(h, numbers->inner);
    digits.inner = &quads;
  }
  struct emit_branch branch;
  emit_if(&h->e, &branch, dot_int8_fits(h, digits.a));
  host_product(h, op, &digits);
  emit_else(&h->e, &branch);
  host_product(h, op, numbers);
  emit_end_if(&h->e, &branch);
}

void group_product(struct panel_loop *g, const struct tile_op *op,
                   const struct host_value *a_outside, const struct host_value *b,
                   const struct host_value *codes)
{
  struct host *h = g->h;
  struct emit *e = &h->e;
  const struct tile_value *result = op->results[0];
  const struct tile_op *scale = folded_scale(h, op);
  const struct tile_value *accumulator = op->operand_count < 3 ? NULL : op->operands[2];
  if (scale != NULL)
    accumulator = scale->operands[0];
  panel_place_result(g, result);
  LLVMValueRef c = host_panel_base(h, result, g->panel);
  bool splat_zero = false;
  if (accumulator != NULL) {
    struct host_value *place = host_value(h, accumulator);
    splat_zero = place->kind == HOST_SPLAT && scale == NULL &&
                 LLVMIsAConstantFP(place->scalar) != NULL && LLVMIsNull(place->scalar);
    if (!splat_zero && (place->kind != HOST_MEMORY || panel_is_vector_tile(g, accumulator) ||
                        place->base != host_value(h, result)->base))
      copy_panel(g, accumulator, c);
  }
  LLVMValueRef a;
  LLVMValueRef a_stride = NULL;
  LLVMValueRef first = LLVMBuildMul(e->builder, g->panel, emit_i64(e, h->panel_rows), "");
  if (op->transpose_a) {
    a = emit_address(e, e->f32, a_outside->base, first);
    a_stride = a_outside->stride;
  } else if (a_outside->base != NULL) {
    LLVMValueRef size = emit_i64(e, (int64_t)h->panel_rows * op->operands[0]->type.columns);
    a = emit_address(e, e->f32, a_outside->base, LLVMBuildMul(e->builder, g->panel, size, ""));
  } else {
    const struct tile_op *def = op->operands[0]->def;
    a = panel_memory(g, dot_rounds(h, def) ? def->operands[0] : op->operands[0]);
  }
  const struct host_range *inner =
      inner_range(h, a_stride == NULL ? panel_range(g, op->operands[0]) : NULL, b->needed);
  struct host_range pairs;
  if (dot_is_product(h, op)) {
    a = dot_pack_panel(h, a, op->operands[0]->type.columns, inner);
    if (inner != NULL) {
      pairs = dot_pairs_of(h, inner);
      inner = &pairs;
    }
  }
  struct host_operands operands = {
      .a = a,
      .a_stride = a_stride,
      .b = b,
      .c = c,
      .factor = scale == NULL ? NULL : host_value(h, scale->operands[1])->rows,
      .accumulate = accumulator != NULL && !splat_zero,
      .columns = panel_range(g, result),
      .inner = inner};
  if (codes->base != NULL && (!op->transpose_b || inner == NULL))
    digits_or_numbers(g, op, &operands, codes);
  else
    host_product(h, op, &operands);
  load_rows(g, result);
}

/* sum over c of expr(a[m, c], b[n, c], ...): a loop over columns of the result, inside it one over
 * c. */
void group_contract(struct panel_loop *g, const struct tile_op *op, const struct host_value *b)
{
  struct host *h = g->h;
  struct emit *e = &h->e;
  const struct tile_value *result = op->results[0];
  panel_place_result(g, result);
  LLVMValueRef zero[HOST_MAX_ROW_VECTORS];
  for (uint32_t v = 0; v < h->schedule.row_vectors; v++)
    zero[v] = LLVMConstNull(emit_vector_type(e, e->f32));
  const struct host_range *range = panel_range(g, result);
  struct emit_loop columns;
  emit_loop_begin(e, &columns, range == NULL ? emit_i64(e, 0) : range->first,
                  range == NULL ? emit_i64(e, result->type.columns) : range->end, 1, NULL, 0);
  struct emit_loop inner;
  emit_loop_begin(e, &inner, emit_i64(e, 0), emit_i64(e, op->operands[0]->type.columns), 1, zero,
                  h->schedule.row_vectors);
  LLVMValueRef b_offset = LLVMBuildMul(e->builder, columns.index, b->stride, "");
  b_offset = LLVMBuildAdd(e->builder, b_offset, inner.index, "");
  LLVMValueRef b_element = emit_load(e, e->f32, emit_address(e, e->f32, b->base, b_offset), 4);
  const struct tile_value *b_value = op->operands[1];
  LLVMValueRef next[HOST_MAX_ROW_VECTORS];
  g->op = op;
  g->column = inner.index; /* of a and of [1, C] operands */
  for (g->vector = 0; g->vector < h->schedule.row_vectors; g->vector++) {
    g->elements[b_value->id][g->vector] = b_element;
    panel_begin_expression(g);
    LLVMValueRef term = emit_broadcast(e, emit_expression(&h->expression, op->expr));
    next[g->vector] = LLVMBuildFAdd(e->builder, inner.carried[g->vector], term, "");
    g->elements[b_value->id][g->vector] = NULL;
  }
  emit_loop_end(e, &inner, next);
  LLVMValueRef base = host_panel_base(h, result, g->panel);
  LLVMValueRef offset = LLVMBuildMul(e->builder, columns.index, emit_i64(e, h->panel_rows), "");
  for (uint32_t v = 0; v < h->schedule.row_vectors; v++)
    panel_store_lanes(g, result, base,
                      LLVMBuildAdd(e->builder, offset, emit_i64(e, (int64_t)v * e->lanes), ""),
                      host_round(h, result->type.element, inner.result[v]));
  emit_loop_end(e, &columns, NULL);
  load_rows(g, result);
}
