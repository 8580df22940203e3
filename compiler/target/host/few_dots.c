/* Products with few rows by a transposed operand: b is [N, K]. Lanes run along K; a block of keys
 * has one sum of products for each row and key, whose lanes are added up at the end, of many sums
 * at a time. */
#include "compiler/target/host/few_product.h"

#include <string.h>

enum { UNROLL = 2, QUAD = 4 };

/* Neighbours of x and y, within each four lanes: x0 + x1, x2 + x3, y0 + y1, y2 + y3; with `blocks`
 * the same of fours of lanes, first those of x. */
static LLVMValueRef add_neighbours(struct host *h, LLVMValueRef x, LLVMValueRef y, bool blocks)
{
  struct emit *e = &h->e;
  const uint32_t lanes = e->lanes;
  LLVMValueRef even[64], odd[64];
  for (uint32_t k = 0; k < lanes; k++) {
    const uint32_t close = k % QUAD;
    uint32_t from =
        blocks ? 2 * (k - close) + close : k - close + close % 2 * 2 + close / 2 * lanes;
    even[k] = emit_i32(e, (int32_t)from);
    odd[k] = emit_i32(e, (int32_t)(from + (blocks ? QUAD : 1)));
  }
  x = LLVMBuildFAdd(e->builder,
                    LLVMBuildShuffleVector(e->builder, x, y, LLVMConstVector(even, lanes), ""),
                    LLVMBuildShuffleVector(e->builder, x, y, LLVMConstVector(odd, lanes), ""), "");
  return x;
}

LLVMValueRef few_add_lanes(struct host *h, LLVMValueRef *sums)
{
  uint32_t level = 0;
  for (uint32_t count = h->e.lanes / 2; count != 0; count /= 2, level++)
    for (uint32_t k = 0; k < count; k++)
      sums[k] = add_neighbours(h, sums[2 * k], sums[2 * k + 1], level >= 2);
  return sums[0];
}

/* Lanes `from` to `from + count - 1`. */
static LLVMValueRef part_of(struct host *h, LLVMValueRef totals, uint32_t from, uint32_t count)
{
  struct emit *e = &h->e;
  if (count == 1)
    return LLVMBuildExtractElement(e->builder, totals, emit_i32(e, (int32_t)from), "");
  LLVMValueRef order[QUAD];
  for (uint32_t k = 0; k < count; k++)
    order[k] = emit_i32(e, (int32_t)(from + k));
  return LLVMBuildShuffleVector(e->builder, totals, LLVMGetPoison(LLVMTypeOf(totals)),
                                LLVMConstVector(order, count), "");
}

/* sums: of row m and key k number m * width + k. */
static void store_dots(struct few_product *p, LLVMValueRef first, uint32_t width,
                       const LLVMValueRef *sums)
{
  struct host *h = p->h;
  struct emit *e = &h->e;
  const uint32_t count = p->rows * width, lanes = e->lanes;
  const uint32_t run = width < QUAD ? width : QUAD;
  for (uint32_t k = 0; k < count; k += lanes) {
    LLVMValueRef some[64];
    for (uint32_t l = 0; l < lanes; l++)
      some[l] = sums[k + l < count ? k + l : k];
    LLVMValueRef totals = few_add_lanes(h, some);
    for (uint32_t l = 0; l < lanes && k + l < count; l += run) {
      LLVMValueRef m = emit_i64(e, (k + l) / width);
      LLVMValueRef column = LLVMBuildAdd(e->builder, first, emit_i64(e, (k + l) % width), "");
      LLVMValueRef dots = part_of(h, totals, l, run);
      if (p->unit != 1)
        dots = LLVMBuildFMul(e->builder, dots, emit_float_like(dots, p->unit), "");
      LLVMValueRef start = few_start(p, m, column, run);
      if (start != NULL)
        dots = LLVMBuildFAdd(e->builder, dots, start, "");
      if (p->terms != NULL) {
        LLVMValueRef term = emit_load(e, e->f32, emit_address(e, e->f32, p->terms, m), 4);
        dots = LLVMBuildFAdd(e->builder, dots, few_repeat(h, term, run), "");
      }
      emit_store(e, dots, few_address(p, &p->c, m, column), 4);
    }
  }
}

static void dots_step(struct few_product *p, const struct few_columns *at, uint32_t width,
                      LLVMValueRef *sums)
{
  struct host *h = p->h;
  struct emit *e = &h->e;
  LLVMValueRef b[FEW_MAX_BLOCK];
  for (uint32_t k = 0; k < width; k++)
    b[k] = few_vector(&p->b, k, at);
  LLVMValueRef column =
      LLVMBuildAdd(e->builder, at->first, emit_i64(e, (int64_t)at->number * e->lanes), "");
  for (uint32_t m = 0; m < p->rows; m++) {
    LLVMValueRef a =
        emit_load(e, emit_vector_type(e, e->f32), few_address(p, &p->a, emit_i64(e, m), column), 4);
    a = few_cut(h, a, at->count);
    for (uint32_t k = 0; k < width; k++)
      sums[m * width + k] = emit_fma(e, a, b[k], sums[m * width + k]);
  }
}

void few_dots_block(struct few_product *p, LLVMValueRef first, uint32_t width)
{
  struct emit *e = &p->h->e;
  const uint32_t lanes = e->lanes, sets = p->stride == 1 ? UNROLL : 1;
  const uint32_t step = sets * p->stride * lanes, whole = p->inner - p->inner % step;
  LLVMValueRef sums[EMIT_MAX_CARRIED];
  for (uint32_t k = 0; k < p->rows * width; k++)
    sums[k] = LLVMConstNull(emit_vector_type(e, e->f32));
  few_rows_begin(&p->b, first, width);
  struct few_columns at = {.count = lanes, .stride = p->stride};
  if (whole != 0) {
    struct emit_loop loop;
    emit_loop_begin(e, &loop, emit_i64(e, 0), emit_i64(e, whole), step, sums, p->rows * width);
    memcpy(sums, loop.carried, sizeof(sums));
    few_prefetch(&p->b, loop.index, step);
    for (uint32_t u = 0; u < sets; u++) {
      at.first = LLVMBuildAdd(e->builder, loop.index, emit_i64(e, u * lanes), "");
      for (at.number = 0; at.number < p->stride; at.number++)
        dots_step(p, &at, width, sums);
    }
    emit_loop_end(e, &loop, sums);
    memcpy(sums, loop.result, sizeof(sums));
  }
  at.number = 0;
  for (uint32_t k = whole; k < p->inner; k += lanes) {
    at.first = emit_i64(e, k);
    at.count = p->inner - k < lanes ? p->inner - k : lanes;
    dots_step(p, &at, width, sums);
  }
  store_dots(p, first, width, sums);
}

/* a in the order in which b's columns are read. */
static struct host_value in_order_of_words(struct few_product *p, const struct host_value *a)
{
  struct host *h = p->h;
  struct emit *e = &h->e;
  LLVMTypeRef type = emit_vector_type(e, e->f32);
  struct host_value to = {.kind = HOST_MEMORY, .stride = emit_i64(e, p->inner)};
  to.base = host_allocate(h, (size_t)p->rows * p->inner * sizeof(float));
  struct emit_loop rows, sets;
  emit_loop_begin(e, &rows, emit_i64(e, 0), emit_i64(e, p->rows), 1, NULL, 0);
  emit_loop_begin(e, &sets, emit_i64(e, 0), emit_i64(e, p->inner), p->stride * e->lanes, NULL, 0);
  LLVMValueRef vectors[FEW_MOST_STRIDE], column[FEW_MOST_STRIDE];
  for (uint32_t n = 0; n < p->stride; n++) {
    column[n] = LLVMBuildAdd(e->builder, sets.index, emit_i64(e, (int64_t)n * e->lanes), "");
    vectors[n] = emit_load(e, type, few_address(p, a, rows.index, column[n]), 4);
  }
  few_take_apart(h, vectors, p->stride);
  for (uint32_t n = 0; n < p->stride; n++)
    emit_store(e, vectors[n], few_address(p, &to, rows.index, column[n]), 4);
  emit_loop_end(e, &sets, NULL);
  emit_loop_end(e, &rows, NULL);
  return to;
}

void few_dots(struct few_product *p)
{
  struct emit *e = &p->h->e;
  p->unit = few_unit(&p->b);
  if (few_dots_by_keys(p))
    return;
  p->stride = few_stride(&p->b, p->inner);
  if (p->stride != 1)
    p->a = in_order_of_words(p, &p->a);
  const uint32_t block = few_rows_of(p), whole = p->columns - p->columns % block;
  if (whole != 0) {
    struct emit_loop loop;
    emit_loop_begin(e, &loop, emit_i64(e, 0), emit_i64(e, whole), block, NULL, 0);
    few_dots_block(p, loop.index, block);
    emit_loop_end(e, &loop, NULL);
  }
  /* The rest in powers of two, so that sums fall into fours. */
  uint32_t done = whole;
  for (uint32_t width = block / 2; width != 0; width /= 2) {
    if (((p->columns - whole) & width) == 0)
      continue;
    few_dots_block(p, emit_i64(e, done), width);
    done += width;
  }
}
