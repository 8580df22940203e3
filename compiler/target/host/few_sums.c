/* Products with few rows: b is [K, N], and lanes run along N. A factor of b's rows is one of a's
 * elements.
 *
 * By blocks of k: their elements of a are in registers, and a block goes over the columns once,
 * adding to c. b is read as it lies in memory, and c, which is small, from the first-level cache.
 *
 * By columns, where b's tile is small in memory: as many columns as registers hold sums for, over
 * all k. c is read and written once a tile, in the right order only then. */
#include "compiler/target/host/few_product.h"

#include <string.h>

enum { UNROLL = 2, FIRST_LEVEL = 8192 };

/* ---- by blocks of k ---- */

/* c at a vector of columns, plus the block's share; `fresh` where this is the first block. */
static void add_vectors(struct few_product *p, const struct few_columns *at, uint32_t width,
                        const LLVMValueRef *a, bool fresh)
{
  struct host *h = p->h;
  struct emit *e = &h->e;
  LLVMTypeRef type = emit_vector_type(e, e->f32);
  LLVMValueRef sums[HOST_FEW_ROWS];
  for (uint32_t m = 0; m < p->rows; m++) {
    sums[m] = fresh ? few_start(p, emit_i64(e, m), at->first, e->lanes)
                    : emit_load(e, type, few_address(p, &p->c, emit_i64(e, m), at->first), 4);
    if (sums[m] == NULL)
      sums[m] = LLVMConstNull(type);
  }
  for (uint32_t k = 0; k < width; k++) {
    LLVMValueRef b = few_vector(&p->b, k, at);
    for (uint32_t m = 0; m < p->rows; m++)
      sums[m] = emit_fma(e, a[k * p->rows + m], b, sums[m]);
  }
  for (uint32_t m = 0; m < p->rows; m++)
    emit_store(e, sums[m], few_address(p, &p->c, emit_i64(e, m), at->first), 4);
}

static void add_block(struct few_product *p, LLVMValueRef first, uint32_t width, bool fresh)
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
      LLVMValueRef one = emit_load(e, e->f32, few_address(p, &p->a, emit_i64(e, m), column), 4);
      if (weight != NULL)
        one = LLVMBuildFMul(e->builder, one, weight, "");
      a[k * p->rows + m] = emit_broadcast(e, one);
    }
  }
  few_rows_begin(&p->b, first, width);
  struct few_columns at = {.count = lanes, .stride = 1};
  if (whole != 0) {
    struct emit_loop loop;
    emit_loop_begin(e, &loop, emit_i64(e, 0), emit_i64(e, whole), step, NULL, 0);
    few_prefetch(&p->b, loop.index, step);
    for (uint32_t u = 0; u < UNROLL; u++) {
      at.first = LLVMBuildAdd(e->builder, loop.index, emit_i64(e, u * lanes), "");
      add_vectors(p, &at, width, a, fresh);
    }
    emit_loop_end(e, &loop, NULL);
  }
  for (uint32_t n = whole; n < p->columns; n += lanes) {
    at.first = emit_i64(e, n);
    at.count = p->columns - n < lanes ? p->columns - n : lanes;
    add_vectors(p, &at, width, a, fresh);
  }
}

static void by_blocks(struct few_product *p)
{
  struct emit *e = &p->h->e;
  uint32_t block = few_rows_of(p);
  while (block > p->inner)
    block /= 2;
  add_block(p, emit_i64(e, 0), block, true);
  uint32_t whole = p->inner - p->inner % block;
  if (whole > block) {
    struct emit_loop loop;
    emit_loop_begin(e, &loop, emit_i64(e, block), emit_i64(e, whole), block, NULL, 0);
    add_block(p, loop.index, block, false);
    emit_loop_end(e, &loop, NULL);
  }
  if (whole != p->inner)
    add_block(p, emit_i64(e, whole), p->inner - whole, false);
}

/* ---- by columns ---- */

/* Vectors of columns whose sums registers hold at a time. */
static uint32_t part_of(const struct few_product *p)
{
  uint32_t part = few_block_of(p);
  const uint32_t set = p->stride * p->h->e.lanes;
  while (part > p->stride && p->columns % (part / p->stride * set) != 0)
    part /= 2;
  return part;
}

/* Tiles that the first-level cache holds can be gone over once for each part of the columns, with
 * sums in registers. */
static bool goes_by_columns(const struct few_product *p)
{
  const uint32_t lanes = p->h->e.lanes;
  const uint64_t bytes = (uint64_t)p->inner * p->columns * few_bits(&p->b) / 8;
  if (bytes > FIRST_LEVEL || p->columns % lanes != 0)
    return false;
  return p->weights == NULL || (p->weights->place.kind == HOST_MEMORY &&
                                p->weights->value->type.rows == p->inner && p->inner % lanes == 0);
}

/* a times the weights. */
static struct host_value weighted(struct few_product *p)
{
  struct host *h = p->h;
  struct emit *e = &h->e;
  LLVMTypeRef type = emit_vector_type(e, e->f32);
  struct host_value to = {.kind = HOST_MEMORY, .stride = emit_i64(e, p->inner)};
  to.base = host_allocate(h, (size_t)p->rows * p->inner * sizeof(float));
  struct emit_loop loop;
  emit_loop_begin(e, &loop, emit_i64(e, 0), emit_i64(e, p->inner), e->lanes, NULL, 0);
  LLVMValueRef weights =
      emit_load(e, type, emit_address(e, e->f32, p->weights->place.base, loop.index), 4);
  for (uint32_t m = 0; m < p->rows; m++) {
    LLVMValueRef row = emit_i64(e, m);
    LLVMValueRef a = emit_load(e, type, few_address(p, &p->a, row, loop.index), 4);
    emit_store(e, LLVMBuildFMul(e->builder, a, weights, ""), few_address(p, &to, row, loop.index),
               4);
  }
  emit_loop_end(e, &loop, NULL);
  return to;
}

/* Sums of `part` vectors from set `first` on, of which the first one has that number; to memory of
 * the order of words. */
static void add_columns(struct few_product *p, const struct host_value *to, LLVMValueRef first,
                        uint32_t number, uint32_t part)
{
  struct host *h = p->h;
  struct emit *e = &h->e;
  const uint32_t set = p->stride * e->lanes, count = part * p->rows;
  LLVMTypeRef type = emit_vector_type(e, e->f32);
  LLVMValueRef sums[EMIT_MAX_CARRIED], a[HOST_FEW_ROWS];
  struct emit_loop loop;
  for (uint32_t k = 0; k < count; k++)
    sums[k] = LLVMConstNull(type);
  emit_loop_begin(e, &loop, emit_i64(e, 0), emit_i64(e, p->inner), 1, sums, count);
  memcpy(sums, loop.carried, sizeof(sums));
  few_rows_begin(&p->b, loop.index, 1);
  if (number == 0)
    few_prefetch(&p->b, first, part > p->stride ? part * e->lanes : set);
  for (uint32_t m = 0; m < p->rows; m++) {
    LLVMValueRef at = few_address(p, &p->a, emit_i64(e, m), loop.index);
    a[m] = emit_broadcast(e, emit_load(e, e->f32, at, 4));
  }
  for (uint32_t v = 0; v < part; v++) {
    struct few_columns at = {.count = e->lanes, .stride = p->stride};
    at.number = (number + v) % p->stride;
    at.first = LLVMBuildAdd(e->builder, first, emit_i64(e, v / p->stride * set), "");
    LLVMValueRef b = few_vector(&p->b, 0, &at);
    for (uint32_t m = 0; m < p->rows; m++)
      sums[v * p->rows + m] = emit_fma(e, a[m], b, sums[v * p->rows + m]);
  }
  emit_loop_end(e, &loop, sums);
  for (uint32_t v = 0; v < part; v++) {
    LLVMValueRef at = emit_i64(e, (int64_t)(number + v) * e->lanes);
    at = LLVMBuildAdd(e->builder, first, at, "");
    for (uint32_t m = 0; m < p->rows; m++)
      emit_store(e, loop.result[v * p->rows + m], few_address(p, to, emit_i64(e, m), at), 4);
  }
}

/* c from sums in the order of words. */
static void finish_columns(struct few_product *p, const struct host_value *from)
{
  struct host *h = p->h;
  struct emit *e = &h->e;
  LLVMTypeRef type = emit_vector_type(e, e->f32);
  struct emit_loop rows, sets;
  emit_loop_begin(e, &rows, emit_i64(e, 0), emit_i64(e, p->rows), 1, NULL, 0);
  emit_loop_begin(e, &sets, emit_i64(e, 0), emit_i64(e, p->columns), p->stride * e->lanes, NULL, 0);
  LLVMValueRef vectors[FEW_MOST_STRIDE], column[FEW_MOST_STRIDE];
  for (uint32_t n = 0; n < p->stride; n++) {
    column[n] = LLVMBuildAdd(e->builder, sets.index, emit_i64(e, (int64_t)n * e->lanes), "");
    vectors[n] = emit_load(e, type, few_address(p, from, rows.index, column[n]), 4);
  }
  few_put_together(h, vectors, p->stride);
  for (uint32_t n = 0; n < p->stride; n++) {
    if (p->unit != 1)
      vectors[n] = LLVMBuildFMul(e->builder, vectors[n], emit_float_like(vectors[n], p->unit), "");
    LLVMValueRef start = few_start(p, rows.index, column[n], e->lanes);
    if (start != NULL)
      vectors[n] = LLVMBuildFAdd(e->builder, vectors[n], start, "");
    emit_store(e, vectors[n], few_address(p, &p->c, rows.index, column[n]), 4);
  }
  emit_loop_end(e, &sets, NULL);
  emit_loop_end(e, &rows, NULL);
}

static void by_columns(struct few_product *p)
{
  struct host *h = p->h;
  struct emit *e = &h->e;
  p->stride = few_stride(&p->b, p->columns);
  if (p->weights != NULL)
    p->a = weighted(p);
  const uint32_t part = part_of(p), most = part > p->stride ? part : p->stride;
  struct host_value sums = {.kind = HOST_MEMORY, .stride = emit_i64(e, p->columns)};
  sums.base = host_allocate(h, (size_t)p->rows * p->columns * sizeof(float));
  struct emit_loop loop;
  emit_loop_begin(e, &loop, emit_i64(e, 0), emit_i64(e, p->columns), most * e->lanes, NULL, 0);
  for (uint32_t number = 0; number < most; number += part)
    add_columns(p, &sums, loop.index, number, part);
  emit_loop_end(e, &loop, NULL);
  finish_columns(p, &sums);
}

void few_sums(struct few_product *p)
{
  p->weights = few_factor(&p->b);
  p->unit = few_unit(&p->b);
  p->stride = 1;
  if (goes_by_columns(p))
    by_columns(p);
  else
    by_blocks(p);
}
