/* Products with few rows. All rows of a are held against each vector of b, which is read once.
 *
 * dots: b is [N, K]. Lanes run along K; a block of keys has one sum of products for each row and
 * key, whose lanes are added up at the end, four sums at a time.
 *
 * rows: b is [K, N]. Lanes run along N. A block of k has its elements of a in registers and goes
 * over the columns once, adding to c: b is read as it lies in memory, and c, which is small, from
 * the first-level cache. A factor of b's rows is one of a's elements. */
#include "compiler/target/host/few.h"

#include <string.h>

enum { UNROLL = 2, QUAD = 4 };

struct few_product {
  struct host *h;
  uint32_t rows, columns, inner;
  struct host_value a, c;
  struct few_rows b;
  struct few_rows *weights;     /* [K, 1], of the rows of b in `rows`; NULL */
  double unit;                  /* of b's elements */
  const struct tile_value *sum; /* what is added to, or NULL */
  struct host_value sum_place;
  const struct tile_value *factor; /* [M, 1], of the sum, or NULL */
  struct host_value factor_place;
};

/* As many as half of the registers hold, of sums or of elements of a; a power of two. */
static uint32_t block_of(const struct few_product *p)
{
  uint32_t block = FEW_MAX_BLOCK;
  while (block > 1 && block * p->rows > p->h->registers / 2)
    block /= 2;
  return block;
}

static LLVMValueRef element_address(struct host *h, const struct host_value *place, uint32_t rows,
                                    uint32_t m, LLVMValueRef column)
{
  struct emit *e = &h->e;
  if (rows > 1) {
    LLVMValueRef row = LLVMBuildMul(e->builder, place->stride, emit_i64(e, m), "");
    column = LLVMBuildAdd(e->builder, row, column, "");
  }
  return emit_address(e, e->f32, place->base, column);
}

static LLVMTypeRef floats(struct host *h, uint32_t count)
{
  return count == 1 ? h->e.f32 : LLVMVectorType(h->e.f32, count);
}

static LLVMValueRef repeated(struct host *h, LLVMValueRef scalar, uint32_t count)
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

/* What c starts from at `count` columns of row m; NULL for zero. */
static LLVMValueRef start_of(struct few_product *p, uint32_t m, LLVMValueRef column, uint32_t count)
{
  struct host *h = p->h;
  struct emit *e = &h->e;
  if (p->sum == NULL)
    return NULL;
  LLVMValueRef start;
  if (p->sum_place.kind == HOST_MEMORY)
    start =
        emit_load(e, floats(h, count), element_address(h, &p->sum_place, p->rows, m, column), 4);
  else
    start = repeated(h, p->sum_place.scalar, count);
  if (p->factor == NULL)
    return start;
  LLVMValueRef factor = p->factor_place.scalar;
  if (p->factor_place.kind == HOST_MEMORY)
    factor = emit_load(e, e->f32, emit_address(e, e->f32, p->factor_place.base, emit_i64(e, m)), 4);
  return LLVMBuildFMul(e->builder, start, repeated(h, factor, count), "");
}

/* ---- dots ---- */

/* The sums of the lanes of four vectors, as a vector of four; in a fixed order. */
static LLVMValueRef add_lanes(struct host *h, const LLVMValueRef *sums)
{
  struct emit *e = &h->e;
  const uint32_t lanes = e->lanes;
  LLVMValueRef pairs[2], even[64], odd[64];
  /* Neighbours of x and y, within each four lanes: x0 + x1, x2 + x3, y0 + y1, y2 + y3. */
  for (uint32_t k = 0; k < lanes; k++) {
    uint32_t from = k / QUAD * QUAD + (k % QUAD) % 2 * 2 + (k % QUAD) / 2 * lanes;
    even[k] = emit_i32(e, (int32_t)from);
    odd[k] = emit_i32(e, (int32_t)(from + 1));
  }
  LLVMValueRef evens = LLVMConstVector(even, lanes), odds = LLVMConstVector(odd, lanes);
  for (uint32_t k = 0; k < 3; k++) {
    LLVMValueRef x = k < 2 ? sums[2 * k] : pairs[0], y = k < 2 ? sums[2 * k + 1] : pairs[1];
    LLVMValueRef pair =
        LLVMBuildFAdd(e->builder, LLVMBuildShuffleVector(e->builder, x, y, evens, ""),
                      LLVMBuildShuffleVector(e->builder, x, y, odds, ""), "");
    pairs[k % 2] = pair;
  }
  LLVMValueRef total = NULL;
  for (uint32_t k = 0; k < lanes; k += QUAD) {
    LLVMValueRef order[QUAD];
    for (uint32_t l = 0; l < QUAD; l++)
      order[l] = emit_i32(e, (int32_t)(k + l));
    LLVMValueRef part =
        LLVMBuildShuffleVector(e->builder, pairs[0], LLVMGetPoison(LLVMTypeOf(pairs[0])),
                               LLVMConstVector(order, QUAD), "");
    total = total == NULL ? part : LLVMBuildFAdd(e->builder, total, part, "");
  }
  return total;
}

/* Lanes `from` to `from + count - 1`. */
static LLVMValueRef part_of(struct host *h, LLVMValueRef quad, uint32_t from, uint32_t count)
{
  struct emit *e = &h->e;
  if (count == 1)
    return LLVMBuildExtractElement(e->builder, quad, emit_i32(e, (int32_t)from), "");
  LLVMValueRef order[QUAD];
  for (uint32_t k = 0; k < count; k++)
    order[k] = emit_i32(e, (int32_t)(from + k));
  return LLVMBuildShuffleVector(e->builder, quad, LLVMGetPoison(LLVMTypeOf(quad)),
                                LLVMConstVector(order, count), "");
}

/* sums: of row m and key k number m * width + k. */
static void store_dots(struct few_product *p, LLVMValueRef first, uint32_t width,
                       const LLVMValueRef *sums)
{
  struct host *h = p->h;
  struct emit *e = &h->e;
  const uint32_t count = p->rows * width;
  const uint32_t run = width < QUAD ? width : QUAD;
  for (uint32_t k = 0; k < count; k += QUAD) {
    LLVMValueRef four[QUAD];
    for (uint32_t l = 0; l < QUAD; l++)
      four[l] = sums[k + l < count ? k + l : k];
    LLVMValueRef quad = add_lanes(h, four);
    for (uint32_t l = 0; l < QUAD && k + l < count; l += run) {
      uint32_t m = (k + l) / width;
      LLVMValueRef column = LLVMBuildAdd(e->builder, first, emit_i64(e, (k + l) % width), "");
      LLVMValueRef dots = part_of(h, quad, l, run);
      if (p->unit != 1)
        dots = LLVMBuildFMul(e->builder, dots, emit_float_like(dots, p->unit), "");
      LLVMValueRef start = start_of(p, m, column, run);
      if (start != NULL)
        dots = LLVMBuildFAdd(e->builder, dots, start, "");
      emit_store(e, dots, element_address(h, &p->c, p->rows, m, column), 4);
    }
  }
}

static void dots_step(struct few_product *p, LLVMValueRef column, uint32_t count, uint32_t width,
                      LLVMValueRef *sums)
{
  struct host *h = p->h;
  struct emit *e = &h->e;
  LLVMValueRef b[FEW_MAX_BLOCK];
  for (uint32_t k = 0; k < width; k++)
    b[k] = few_vector(&p->b, k, column, count);
  for (uint32_t m = 0; m < p->rows; m++) {
    LLVMValueRef a =
        emit_load(e, emit_vector_type(e, e->f32), element_address(h, &p->a, p->rows, m, column), 4);
    a = few_cut(h, a, count);
    for (uint32_t k = 0; k < width; k++)
      sums[m * width + k] = emit_fma(e, a, b[k], sums[m * width + k]);
  }
}

static void dots_block(struct few_product *p, LLVMValueRef first, uint32_t width)
{
  struct emit *e = &p->h->e;
  const uint32_t lanes = e->lanes, step = UNROLL * lanes;
  const uint32_t whole = p->inner - p->inner % step;
  LLVMValueRef sums[EMIT_MAX_CARRIED];
  for (uint32_t k = 0; k < p->rows * width; k++)
    sums[k] = LLVMConstNull(emit_vector_type(e, e->f32));
  few_rows_begin(&p->b, first, width);
  if (whole != 0) {
    struct emit_loop loop;
    emit_loop_begin(e, &loop, emit_i64(e, 0), emit_i64(e, whole), step, sums, p->rows * width);
    memcpy(sums, loop.carried, sizeof(sums));
    few_prefetch(&p->b, loop.index, step);
    for (uint32_t u = 0; u < UNROLL; u++)
      dots_step(p, LLVMBuildAdd(e->builder, loop.index, emit_i64(e, u * lanes), ""), lanes, width,
                sums);
    emit_loop_end(e, &loop, sums);
    memcpy(sums, loop.result, sizeof(sums));
  }
  for (uint32_t k = whole; k < p->inner; k += lanes)
    dots_step(p, emit_i64(e, k), p->inner - k < lanes ? p->inner - k : lanes, width, sums);
  store_dots(p, first, width, sums);
}

static void dots(struct few_product *p)
{
  struct emit *e = &p->h->e;
  p->unit = few_unit(&p->b);
  const uint32_t block = block_of(p), whole = p->columns - p->columns % block;
  if (whole != 0) {
    struct emit_loop loop;
    emit_loop_begin(e, &loop, emit_i64(e, 0), emit_i64(e, whole), block, NULL, 0);
    dots_block(p, loop.index, block);
    emit_loop_end(e, &loop, NULL);
  }
  /* The rest in powers of two, so that sums fall into fours. */
  uint32_t done = whole;
  for (uint32_t width = block / 2; width != 0; width /= 2) {
    if (((p->columns - whole) & width) == 0)
      continue;
    dots_block(p, emit_i64(e, done), width);
    done += width;
  }
}

/* ---- rows ---- */

/* c at a vector of columns, plus the block's share; `fresh` where this is the first block. */
static void rows_step(struct few_product *p, LLVMValueRef column, uint32_t count, uint32_t width,
                      const LLVMValueRef *a, bool fresh)
{
  struct host *h = p->h;
  struct emit *e = &h->e;
  LLVMTypeRef type = emit_vector_type(e, e->f32);
  LLVMValueRef sums[HOST_FEW_ROWS];
  for (uint32_t m = 0; m < p->rows; m++) {
    sums[m] = fresh ? start_of(p, m, column, e->lanes)
                    : emit_load(e, type, element_address(h, &p->c, p->rows, m, column), 4);
    if (sums[m] == NULL)
      sums[m] = LLVMConstNull(type);
  }
  for (uint32_t k = 0; k < width; k++) {
    LLVMValueRef b = few_vector(&p->b, k, column, count);
    for (uint32_t m = 0; m < p->rows; m++)
      sums[m] = emit_fma(e, a[k * p->rows + m], b, sums[m]);
  }
  for (uint32_t m = 0; m < p->rows; m++)
    emit_store(e, sums[m], element_address(h, &p->c, p->rows, m, column), 4);
}

static void rows_block(struct few_product *p, LLVMValueRef first, uint32_t width, bool fresh)
{
  struct host *h = p->h;
  struct emit *e = &h->e;
  const uint32_t lanes = e->lanes, step = UNROLL * lanes;
  const uint32_t whole = p->columns - p->columns % step;
  LLVMValueRef a[FEW_MAX_BLOCK * HOST_FEW_ROWS];
  if (p->weights != NULL)
    few_rows_begin(p->weights, first, width);
  for (uint32_t k = 0; k < width; k++) {
    LLVMValueRef column = LLVMBuildAdd(e->builder, first, emit_i64(e, k), "");
    LLVMValueRef weight = p->unit == 1 ? NULL : emit_float_of(e->f32, p->unit);
    if (p->weights != NULL) {
      LLVMValueRef own = few_scalar(p->weights, k);
      weight = weight == NULL ? own : LLVMBuildFMul(e->builder, own, weight, "");
    }
    for (uint32_t m = 0; m < p->rows; m++) {
      LLVMValueRef one = emit_load(e, e->f32, element_address(h, &p->a, p->rows, m, column), 4);
      if (weight != NULL)
        one = LLVMBuildFMul(e->builder, one, weight, "");
      a[k * p->rows + m] = emit_broadcast(e, one);
    }
  }
  few_rows_begin(&p->b, first, width);
  if (whole != 0) {
    struct emit_loop loop;
    emit_loop_begin(e, &loop, emit_i64(e, 0), emit_i64(e, whole), step, NULL, 0);
    few_prefetch(&p->b, loop.index, step);
    for (uint32_t u = 0; u < UNROLL; u++)
      rows_step(p, LLVMBuildAdd(e->builder, loop.index, emit_i64(e, u * lanes), ""), lanes, width,
                a, fresh);
    emit_loop_end(e, &loop, NULL);
  }
  for (uint32_t n = whole; n < p->columns; n += lanes)
    rows_step(p, emit_i64(e, n), p->columns - n < lanes ? p->columns - n : lanes, width, a, fresh);
}

static void rows(struct few_product *p)
{
  struct emit *e = &p->h->e;
  p->weights = few_factor(&p->b);
  p->unit = few_unit(&p->b);
  uint32_t block = block_of(p);
  while (block > p->inner)
    block /= 2;
  rows_block(p, emit_i64(e, 0), block, true);
  uint32_t whole = p->inner - p->inner % block;
  if (whole > block) {
    struct emit_loop loop;
    emit_loop_begin(e, &loop, emit_i64(e, block), emit_i64(e, whole), block, NULL, 0);
    rows_block(p, loop.index, block, false);
    emit_loop_end(e, &loop, NULL);
  }
  if (whole != p->inner)
    rows_block(p, emit_i64(e, whole), p->inner - whole, false);
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
  p.b = few_operand(h, op->operands[1]);
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
  /* Vectors twice as wide have no more multiply-adds, on some machines, but half of the rest. Rows
   * in memory are filled up to the usual ones only. */
  const unsigned lanes = h->e.lanes;
  if ((op->transpose_b ? p.inner : p.columns) % h->widest_lanes == 0)
    h->e.lanes = h->widest_lanes;
  if (op->transpose_b)
    dots(&p);
  else
    rows(&p);
  h->e.lanes = lanes;
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
