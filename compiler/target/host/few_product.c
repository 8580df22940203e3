/* Products with few rows. All rows of a are held against each vector of b, which is read once
 * (few_dots.c, few_sums.c); and contractions, in which b is small. A product is a piece of code of
 * its own (host_piece_begin), which tiles that are stored in the same way share. */
#include "compiler/target/host/few_product.h"

uint32_t few_block_of(const struct few_product *p)
{
  uint32_t block = FEW_MAX_BLOCK;
  while (block > 1 && block * p->rows > p->h->registers / 2)
    block /= 2;
  return block;
}

uint32_t few_rows_of(const struct few_product *p)
{
  enum { LONG = 2, LONG_BITS = 32 };
  const uint32_t block = few_block_of(p);
  return few_bits(&p->b) >= LONG_BITS && block > LONG ? LONG : block;
}

LLVMValueRef few_address(const struct few_product *p, const struct host_value *place,
                         LLVMValueRef m, LLVMValueRef column)
{
  struct emit *e = &p->h->e;
  if (p->rows > 1) {
    LLVMValueRef row = LLVMBuildMul(e->builder, place->stride, m, "");
    column = LLVMBuildAdd(e->builder, row, column, "");
  }
  return emit_address(e, e->f32, place->base, column);
}

static LLVMTypeRef floats(struct host *h, uint32_t count)
{
  return count == 1 ? h->e.f32 : LLVMVectorType(h->e.f32, count);
}

LLVMValueRef few_repeat(struct host *h, LLVMValueRef scalar, uint32_t count)
{
  struct emit *e = &h->e;
  if (count == 1)
    return scalar;
  LLVMTypeRef type = floats(h, count);
  LLVMValueRef one =
      LLVMBuildInsertElement(e->builder, LLVMGetPoison(type), scalar, emit_i32(e, 0), "");
  return LLVMBuildShuffleVector(e->builder, one, LLVMGetPoison(type),
                                LLVMConstNull(LLVMVectorType(e->i32, count)), "");
}

LLVMValueRef few_start(struct few_product *p, LLVMValueRef m, LLVMValueRef column, uint32_t count)
{
  struct host *h = p->h;
  struct emit *e = &h->e;
  if (p->sum == NULL)
    return NULL;
  LLVMValueRef start;
  if (p->sum_place.kind == HOST_MEMORY)
    start = emit_load(e, floats(h, count), few_address(p, &p->sum_place, m, column), 4);
  else
    start = few_repeat(h, p->sum_place.scalar, count);
  if (p->factor == NULL)
    return start;
  LLVMValueRef factor = p->factor_place.scalar;
  if (p->factor_place.kind == HOST_MEMORY)
    factor = emit_load(e, e->f32, emit_address(e, e->f32, p->factor_place.base, m), 4);
  return LLVMBuildFMul(e->builder, start, few_repeat(h, factor, count), "");
}

/* ---- both ---- */

/* [K, M] turned into memory of rows. */
static struct host_value turned(struct host *h, const struct tile_value *value)
{
  struct emit *e = &h->e;
  struct host_value from = host_as_layout(h, value, TILE_LAYOUT_ROW_MAJOR);
  struct tile_type type = value->type;
  type.rows = value->type.columns;
  type.columns = value->type.rows;
  const struct tile_value like = {.type = type};
  struct host_value to = {.kind = HOST_MEMORY, .stride = emit_i64(e, host_row_stride(h, type))};
  to.base = host_allocate(h, host_tile_bytes(h, type, TILE_LAYOUT_ROW_MAJOR));
  struct emit_loop outer, inner;
  emit_loop_begin(e, &outer, emit_i64(e, 0), emit_i64(e, type.rows), 1, NULL, 0);
  emit_loop_begin(e, &inner, emit_i64(e, 0), emit_i64(e, type.columns), 1, NULL, 0);
  LLVMValueRef element =
      host_element(h, value, &from, TILE_LAYOUT_ROW_MAJOR, inner.index, outer.index);
  host_set_element(h, &like, &to, TILE_LAYOUT_ROW_MAJOR, outer.index, inner.index, element);
  emit_loop_end(e, &inner, NULL);
  emit_loop_end(e, &outer, NULL);
  return to;
}

static struct host_value readable(struct host *h, const struct tile_value *value)
{
  const struct host_value *place = host_value(h, value);
  if (place->kind == HOST_SPLAT || place->kind == HOST_SCALAR)
    return *place;
  return host_as_layout(h, value, TILE_LAYOUT_ROW_MAJOR);
}

static void make(struct few_product *p, const struct tile_op *op)
{
  struct host *h = p->h;
  struct emit *e = &h->e;
  const unsigned lanes = e->lanes;
  struct host_piece piece;
  host_piece_begin(h, &piece);
  /* Vectors twice as wide have no more multiply-adds, on some machines, but half of the rest. Rows
   * in memory are filled up to the usual ones only. */
  if ((op->transpose_b ? p->inner : p->columns) % h->widest_lanes == 0)
    e->lanes = h->widest_lanes;
  if (op->transpose_b)
    few_dots(p);
  else
    few_sums(p);
  e->lanes = lanes;
  host_piece_end(h, &piece, "attnc.few_product");
}

void few_product(struct host *h, const struct tile_op *op)
{
  struct tile_type type = op->results[0]->type;
  struct few_product p = {.h = h, .rows = type.rows, .columns = type.columns};
  p.inner = op->transpose_a ? op->operands[0]->type.rows : op->operands[0]->type.columns;
  if (host_value(h, op->results[0])->kind != HOST_MEMORY)
    host_place(h, op->results[0]);
  p.c = *host_value(h, op->results[0]);
  p.a = op->transpose_a ? turned(h, op->operands[0])
                        : host_as_layout(h, op->operands[0], TILE_LAYOUT_ROW_MAJOR);
  const struct host_value a = p.a; /* products may put it in another order */
  const struct few_rows b = few_operand(h, op->operands[1]);
  struct few_rows parts[2];
  LLVMValueRef any;
  const uint32_t count = few_split(&b, parts, &any);
  p.b = parts[0];
  if (op->operand_count > 2)
    p.sum = op->operands[2];
  if (p.sum != NULL && host_value(h, p.sum)->kind == HOST_LAZY) {
    p.factor = p.sum->def->operands[1];
    p.factor_place = readable(h, p.factor);
    p.sum = p.sum->def->operands[0];
  }
  if (p.sum != NULL)
    p.sum_place = readable(h, p.sum);
  bool zero = p.sum != NULL && p.factor == NULL && p.sum_place.kind != HOST_MEMORY &&
              LLVMIsAConstantFP(p.sum_place.scalar) != NULL && LLVMIsNull(p.sum_place.scalar);
  if (zero)
    p.sum = NULL;
  make(&p, op);
  if (count == 1)
    return;
  struct emit_branch branch;
  emit_if(&h->e, &branch, any);
  struct few_product rest = {.h = h, .rows = p.rows, .columns = p.columns, .inner = p.inner};
  rest.b = parts[1];
  rest.a = a;
  rest.c = rest.sum_place = p.c;
  rest.sum = op->results[0];
  make(&rest, op);
  emit_else(&h->e, &branch);
  emit_end_if(&h->e, &branch);
}

/* ---- contractions ---- */

struct few_contraction {
  struct host *h;
  const struct tile_op *op;
  struct host_value *places;
  LLVMValueRef rows[2]; /* of a and b, in memory */
  LLVMValueRef column;
};

static LLVMValueRef contraction_operand(void *user, uint32_t index)
{
  struct few_contraction *x = user;
  struct emit *e = &x->h->e;
  const struct tile_value *value = x->op->operands[index];
  const struct host_value *place = &x->places[index];
  if (place->kind == HOST_SCALAR || place->kind == HOST_SPLAT)
    return place->scalar;
  LLVMTypeRef type = host_element_type(x->h, value->type.element);
  bool lanes = value->type.columns > 1;
  LLVMValueRef at = emit_address(e, type, index < 2 ? x->rows[index] : place->base,
                                 lanes ? x->column : emit_i64(e, 0));
  LLVMValueRef stored = emit_load(e, lanes ? emit_vector_type(e, type) : type, at, 1);
  return host_from_memory(x->h, value->type.element, stored);
}

void few_contract(struct host *h, const struct tile_op *op)
{
  struct emit *e = &h->e;
  const struct tile_value *result = op->results[0];
  struct few_contraction x = {.h = h, .op = op};
  x.places = ARENA_ARRAY(h->arena, struct host_value, op->operand_count);
  for (uint32_t k = 0; k < op->operand_count; k++)
    x.places[k] = k < 2 ? host_as_layout(h, op->operands[k], TILE_LAYOUT_ROW_MAJOR)
                        : readable(h, op->operands[k]);
  if (host_value(h, result)->kind != HOST_MEMORY)
    host_place(h, result);
  const uint32_t channels = op->operands[0]->type.columns;
  struct emit_loop m, n, c;
  emit_loop_begin(e, &m, emit_i64(e, 0), emit_i64(e, result->type.rows), 1, NULL, 0);
  emit_loop_begin(e, &n, emit_i64(e, 0), emit_i64(e, result->type.columns), 1, NULL, 0);
  const LLVMValueRef numbers[2] = {m.index, n.index};
  for (uint32_t k = 0; k < 2; k++) {
    LLVMValueRef start = emit_i64(e, 0);
    if (op->operands[k]->type.rows > 1)
      start = LLVMBuildMul(e->builder, numbers[k], x.places[k].stride, "");
    x.rows[k] = emit_address(e, e->f32, x.places[k].base, start);
  }
  LLVMValueRef sum = LLVMConstNull(emit_vector_type(e, e->f32));
  emit_loop_begin(e, &c, emit_i64(e, 0), emit_i64(e, channels), e->lanes, &sum, 1);
  x.column = c.index;
  emit_expression_reset(&h->expression);
  h->expression.operand = contraction_operand;
  h->expression.user = &x;
  LLVMValueRef term = emit_broadcast(e, emit_expression(&h->expression, op->expr));
  if (channels % e->lanes != 0)
    term = emit_select(e, host_lane_mask(h, c.index, channels), term, sum);
  sum = LLVMBuildFAdd(e->builder, c.carried[0], term, "");
  emit_loop_end(e, &c, &sum);
  LLVMValueRef total = host_reduce_lanes(h, TILE_REDUCE_SUM, c.result[0]);
  total = host_round(h, result->type.element, total);
  host_set_element(h, result, host_value(h, result), TILE_LAYOUT_ROW_MAJOR, m.index, n.index,
                   total);
  emit_loop_end(e, &n, NULL);
  emit_loop_end(e, &m, NULL);
}
