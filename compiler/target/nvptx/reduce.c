/* Reductions: within the thread, between the threads of a row or column of the warp, between warps.
 */
#include "compiler/target/nvptx/lower.h"

#include <math.h>

LLVMValueRef gpu_combine(struct gpu *g, enum tile_reduction reduction, LLVMValueRef a,
                         LLVMValueRef b)
{
  struct emit *e = g->e;
  bool real = LLVMTypeOf(a) == e->f32;
  LLVMValueRef both[2] = {a, b};
  switch (reduction) {
  case TILE_REDUCE_SUM:
    return real ? LLVMBuildFAdd(e->builder, a, b, "") : LLVMBuildAdd(e->builder, a, b, "");
  case TILE_REDUCE_MAX:
    return emit_intrinsic(e, real ? "llvm.maxnum" : "llvm.smax", LLVMTypeOf(a), both, 2);
  case TILE_REDUCE_MIN:
    return emit_intrinsic(e, real ? "llvm.minnum" : "llvm.smin", LLVMTypeOf(a), both, 2);
  case TILE_REDUCE_ANY: return LLVMBuildOr(e->builder, a, b, "");
  case TILE_REDUCE_ALL: return LLVMBuildAnd(e->builder, a, b, "");
  }
  return a;
}

LLVMValueRef gpu_neutral(struct gpu *g, enum tile_reduction reduction, enum tile_element element)
{
  struct emit *e = g->e;
  bool real = element == TILE_F32 || gpu_is_half(element);
  switch (reduction) {
  case TILE_REDUCE_SUM: return real ? emit_float_of(e->f32, 0) : emit_i32(e, 0);
  case TILE_REDUCE_MAX:
    return real ? emit_float_of(e->f32, (double)-INFINITY) : emit_i32(e, INT32_MIN);
  case TILE_REDUCE_MIN:
    return real ? emit_float_of(e->f32, (double)INFINITY) : emit_i32(e, INT32_MAX);
  case TILE_REDUCE_ANY: return LLVMConstInt(e->i1, 0, false);
  case TILE_REDUCE_ALL: return LLVMConstInt(e->i1, 1, false);
  }
  return emit_i32(e, 0);
}

/* Of the threads whose lanes differ in bits [first, last]. */
static LLVMValueRef across_lanes(struct gpu *g, enum tile_reduction reduction, LLVMValueRef x,
                                 uint32_t first, uint32_t last)
{
  for (uint32_t mask = first; mask <= last; mask *= 2)
    x = gpu_combine(g, reduction, x, emit_gpu_shuffle_xor(g->e, x, mask));
  return x;
}

/* Bools travel as bits of an i32, as many as there are. */
enum { WORD = 32 };

static uint32_t pack_bools(struct gpu *g, LLVMValueRef *results, uint32_t count)
{
  struct emit *e = g->e;
  uint32_t words = (count + WORD - 1) / WORD;
  for (uint32_t w = 0; w < words; w++) {
    LLVMValueRef word = emit_i32(e, 0);
    for (uint32_t k = w * WORD; k < count && k < (w + 1) * WORD; k++) {
      LLVMValueRef bit = LLVMBuildZExt(e->builder, results[k], e->i32, "");
      bit = LLVMBuildShl(e->builder, bit, emit_i32(e, (int32_t)(k % WORD)), "");
      word = LLVMBuildOr(e->builder, word, bit, "");
    }
    results[w] = word; /* its bools were read: w <= k */
  }
  return words;
}

static void unpack_bools(struct gpu *g, LLVMValueRef *results, uint32_t count)
{
  struct emit *e = g->e;
  for (uint32_t k = count; k-- > 0;) { /* downwards: result k does not lie below its word */
    int32_t mask = (int32_t)(UINT32_C(1) << k % WORD);
    LLVMValueRef bit = LLVMBuildAnd(e->builder, results[k / WORD], emit_i32(e, mask), "");
    results[k] = LLVMBuildICmp(e->builder, LLVMIntNE, bit, emit_i32(e, 0), "");
  }
}

/* How the parts of a result that different warps have come together: through shared memory, where
 * entry (warp, index) is a warp's part. */
struct exchange {
  uint32_t warps, threads; /* of the reduced axis; with different results along the other axis */
  LLVMValueRef warp;       /* i32: which of the former this is */
  LLVMValueRef thread;     /* i32: which of the latter */
  LLVMValueRef writes;     /* i1: of the threads with the same results, this one writes */
};

enum { KEPT_BYTES = 1024 };

static void across_warps(struct gpu *g, const struct tile_op *op, const struct exchange *x,
                         LLVMValueRef *results, uint32_t count)
{
  struct emit *e = g->e;
  struct gpu_place place = {
      .pitch = x->threads * count * 4,
      .rows = x->warps,
      .columns = x->threads * count,
      .element = LLVMTypeOf(results[0]) == e->i32 ? TILE_I32 : TILE_F32,
  };
  uint32_t used = g->shared_used;
  place.offset = emit_i32(e, (int32_t)gpu_allocate(g, gpu_place_bytes(&place)));
  LLVMValueRef mine = gpu_address(g, &place, x->warp, x->thread);
  LLVMValueRef first = gpu_address(g, &place, emit_i32(e, 0), x->thread);
  gpu_before_write(g);
  struct emit_branch branch;
  emit_if(e, &branch, x->writes);
  for (uint32_t k = 0; k < count; k++)
    emit_store(e, results[k], gpu_further(g, mine, 4 * (int64_t)(k * x->threads)), 4);
  emit_else(e, &branch);
  emit_end_if(e, &branch);
  gpu_barrier(g);
  for (uint32_t k = 0; k < count; k++)
    for (uint32_t w = 0; w < x->warps; w++) {
      int64_t at = (int64_t)w * place.pitch + 4 * (int64_t)(k * x->threads);
      LLVMValueRef part = gpu_load_from(g, &place, gpu_further(g, first, at));
      results[k] = w == 0 ? part : gpu_combine(g, op->reduction, results[k], part);
    }
  /* What is not used again needs no barrier before the next exchange, so that little is kept. */
  if (gpu_place_bytes(&place) > KEPT_BYTES)
    gpu_release(g, used);
}

/* `any` and `all` of packed bools are bitwise or and and, as of single ones. */
static void across_threads(struct gpu *g, const struct tile_op *op, uint32_t first, uint32_t last,
                           const struct exchange *x, LLVMValueRef *results, uint32_t count)
{
  bool truth = LLVMTypeOf(results[0]) == g->e->i1;
  uint32_t sent = truth ? pack_bools(g, results, count) : count;
  for (uint32_t k = 0; k < sent; k++)
    results[k] = across_lanes(g, op->reduction, results[k], first, last);
  if (x->warps > 1)
    across_warps(g, op, x, results, sent);
  if (truth)
    unpack_bools(g, results, count);
}

static LLVMValueRef own_element(struct gpu *g, const struct tile_op *op, uint32_t r, uint32_t c,
                                bool along_columns)
{
  const struct tile_value *from = op->operands[0];
  LLVMValueRef x = gpu_element(g, from, r, c);
  LLVMValueRef exists =
      along_columns ? gpu_column_exists(g, from->type, c) : gpu_row_exists(g, from->type, r);
  if (exists == NULL)
    return x;
  return emit_select(g->e, exists, x, gpu_neutral(g, op->reduction, from->type.element));
}

static LLVMValueRef is_zero(struct gpu *g, LLVMValueRef x)
{
  return LLVMBuildICmp(g->e->builder, LLVMIntEQ, x, emit_i32(g->e, 0), "");
}

/* warp * per_warp + within */
static LLVMValueRef thread_number(struct gpu *g, LLVMValueRef warp, int32_t per_warp,
                                  LLVMValueRef within)
{
  struct emit *e = g->e;
  return LLVMBuildAdd(e->builder, LLVMBuildMul(e->builder, warp, emit_i32(e, per_warp), ""), within,
                      "");
}

/* [M, N] -> [M, 1] */
static void reduce_columns(struct gpu *g, const struct tile_op *op, LLVMValueRef *results)
{
  struct emit *e = g->e;
  const struct tile_type from = op->operands[0]->type;
  struct gpu_shape shape = gpu_shape(g, from);
  for (uint32_t r = 0; r < shape.rows; r++) {
    results[r] = own_element(g, op, r, 0, true);
    for (uint32_t c = 1; c < shape.columns; c++)
      results[r] = gpu_combine(g, op->reduction, results[r], own_element(g, op, r, c, true));
  }
  if (from.columns == 1)
    return;
  const bool one_row = from.rows == 1; /* which all threads of a column have */
  struct exchange exchange = {
      .warps = g->column_warps,
      .threads = one_row ? 1 : g->row_warps * 8,
      .warp = g->warp_column,
      .thread = one_row ? emit_i32(e, 0) : thread_number(g, g->warp_row, 8, g->lane_row),
      .writes = is_zero(g, g->lane_column),
  };
  if (one_row)
    exchange.writes =
        gpu_both(g, exchange.writes, gpu_both(g, is_zero(g, g->lane_row), is_zero(g, g->warp_row)));
  across_threads(g, op, 1, 2, &exchange, results, shape.rows);
}

/* [M, N] -> [1, N] */
static void reduce_rows(struct gpu *g, const struct tile_op *op, LLVMValueRef *results)
{
  struct emit *e = g->e;
  const struct tile_type from = op->operands[0]->type;
  struct gpu_shape shape = gpu_shape(g, from);
  for (uint32_t c = 0; c < shape.columns; c++) {
    results[c] = own_element(g, op, 0, c, false);
    for (uint32_t r = 1; r < shape.rows; r++)
      results[c] = gpu_combine(g, op->reduction, results[c], own_element(g, op, r, c, false));
  }
  if (from.rows == 1)
    return;
  const bool one_column = from.columns == 1;
  LLVMValueRef quad = LLVMBuildLShr(e->builder, g->lane_column, emit_i32(e, 1), "");
  struct exchange exchange = {
      .warps = g->row_warps,
      .threads = one_column ? 1 : g->column_warps * 4,
      .warp = g->warp_row,
      .thread = one_column ? emit_i32(e, 0) : thread_number(g, g->warp_column, 4, quad),
      .writes = is_zero(g, g->lane_row),
  };
  if (one_column)
    exchange.writes = gpu_both(g, exchange.writes,
                               gpu_both(g, is_zero(g, g->lane_column), is_zero(g, g->warp_column)));
  across_threads(g, op, 4, 16, &exchange, results, shape.columns);
}

void gpu_reduce(struct gpu *g, const struct tile_op *op)
{
  const struct tile_value *result = op->results[0];
  struct gpu_shape shape = gpu_shape(g, result->type);
  LLVMValueRef *results = ARENA_ARRAY(g->arena, LLVMValueRef, shape.rows * shape.columns);
  if (op->axis == 1)
    reduce_columns(g, op, results);
  else
    reduce_rows(g, op, results);
  gpu_set_elements(g, result, results);
}
