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

static LLVMValueRef add_bool(struct gpu *g, LLVMValueRef word, LLVMValueRef truth, uint32_t k)
{
  struct emit *e = g->e;
  LLVMValueRef bit = LLVMBuildZExt(e->builder, truth, e->i32, "");
  bit = LLVMBuildShl(e->builder, bit, emit_i32(e, (int32_t)(k % WORD)), "");
  return LLVMBuildOr(e->builder, word, bit, "");
}

static void pack_bools(struct gpu *g, LLVMValueRef *results, uint32_t count)
{
  for (uint32_t w = 0; w * WORD < count; w++) {
    LLVMValueRef word = emit_i32(g->e, 0);
    for (uint32_t k = w * WORD; k < count && k < (w + 1) * WORD; k++)
      word = add_bool(g, word, results[k], k);
    results[w] = word; /* its bools were read: w <= k */
  }
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

/* What the warps have of one result lies side by side, so that few loads fetch it. */
static LLVMValueRef combine_parts(struct gpu *g, enum tile_reduction reduction, LLVMTypeRef type,
                                  LLVMValueRef pointer, uint32_t warps)
{
  struct emit *e = g->e;
  const uint32_t width = warps % 4 == 0 ? 4 : warps % 2 == 0 ? 2 : 1;
  LLVMValueRef result = NULL;
  for (uint32_t w = 0; w < warps; w += width) {
    LLVMTypeRef several = width == 1 ? type : LLVMVectorType(type, width);
    LLVMValueRef loaded = emit_load(e, several, gpu_further(g, pointer, 4 * w), 4 * width);
    for (uint32_t k = 0; k < width; k++) {
      LLVMValueRef part =
          width == 1 ? loaded
                     : LLVMBuildExtractElement(e->builder, loaded, emit_i32(e, (int32_t)k), "");
      result = result == NULL ? part : gpu_combine(g, reduction, result, part);
    }
  }
  return result;
}

static void across_warps(struct gpu *g, enum tile_reduction reduction, const struct exchange *x,
                         LLVMValueRef *results, uint32_t count)
{
  struct emit *e = g->e;
  LLVMTypeRef type = LLVMTypeOf(results[0]);
  const uint32_t used = g->shared_used, bytes = x->threads * count * x->warps * 4;
  LLVMValueRef begin = emit_i32(e, (int32_t)gpu_allocate(g, bytes));
  LLVMValueRef at = LLVMBuildMul(e->builder, x->thread, emit_i32(e, (int32_t)x->warps * 4), "");
  at = LLVMBuildAdd(e->builder, begin, at, "");
  LLVMValueRef own = LLVMBuildMul(e->builder, x->warp, emit_i32(e, 4), "");
  LLVMValueRef first = emit_gpu_shared(e, at);
  LLVMValueRef mine = emit_gpu_shared(e, LLVMBuildAdd(e->builder, at, own, ""));
  const int64_t step = 4 * (int64_t)(x->threads * x->warps);
  gpu_before_write(g);
  struct emit_branch branch;
  emit_if(e, &branch, x->writes);
  for (uint32_t k = 0; k < count; k++)
    emit_store(e, results[k], gpu_further(g, mine, k * step), 4);
  emit_else(e, &branch);
  emit_end_if(e, &branch);
  gpu_barrier(g);
  for (uint32_t k = 0; k < count; k++)
    results[k] = combine_parts(g, reduction, type, gpu_further(g, first, k * step), x->warps);
  if (!residence_keeps_exchange(bytes))
    gpu_release(g, used);
}

/* `any` and `all` of packed bools are bitwise or and and, as of single ones. `packed`: the results
 * are bools, in words. */
static void across_threads(struct gpu *g, enum tile_reduction reduction, uint32_t first,
                           uint32_t last, const struct exchange *x, LLVMValueRef *results,
                           uint32_t count, bool packed)
{
  const bool truth = packed || LLVMTypeOf(results[0]) == g->e->i1;
  const uint32_t sent = truth ? (count + WORD - 1) / WORD : count;
  if (truth && !packed)
    pack_bools(g, results, count);
  for (uint32_t k = 0; k < sent; k++)
    results[k] = across_lanes(g, reduction, results[k], first, last);
  if (x->warps > 1)
    across_warps(g, reduction, x, results, sent);
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

static struct exchange column_exchange(struct gpu *g, struct tile_type type)
{
  const bool one_row = type.rows == 1; /* which all threads of a column have */
  struct exchange exchange = {
      .warps = g->column_warps,
      .threads = one_row ? 1 : g->row_warps * 8,
      .warp = g->warp_column,
      .thread = one_row ? emit_i32(g->e, 0) : thread_number(g, g->warp_row, 8, g->lane_row),
      .writes = is_zero(g, g->lane_column),
  };
  if (one_row)
    exchange.writes =
        gpu_both(g, exchange.writes, gpu_both(g, is_zero(g, g->lane_row), is_zero(g, g->warp_row)));
  return exchange;
}

void gpu_across_columns(struct gpu *g, enum tile_reduction reduction, struct tile_type type,
                        LLVMValueRef *results)
{
  struct exchange exchange = column_exchange(g, type);
  across_threads(g, reduction, 1, 2, &exchange, results, gpu_shape(g, type).rows, false);
}

/* [M, N] -> [M, 1] */
static void reduce_columns(struct gpu *g, const struct tile_op *op, LLVMValueRef *results)
{
  const struct tile_type from = op->operands[0]->type;
  struct gpu_shape shape = gpu_shape(g, from);
  for (uint32_t r = 0; r < shape.rows; r++) {
    results[r] = own_element(g, op, r, 0, true);
    for (uint32_t c = 1; c < shape.columns; c++)
      results[r] = gpu_combine(g, op->reduction, results[r], own_element(g, op, r, c, true));
  }
  if (from.columns > 1 && !residence_is_apart(g->where, op->results[0]))
    gpu_across_columns(g, op->reduction, from, results);
}

/* What the thread's rows make of column c. */
static LLVMValueRef column_part(struct gpu *g, const struct tile_op *op, uint32_t c)
{
  LLVMValueRef part = own_element(g, op, 0, c, false);
  for (uint32_t r = 1; r < gpu_shape(g, op->operands[0]->type).rows; r++)
    part = gpu_combine(g, op->reduction, part, own_element(g, op, r, c, false));
  return part;
}

void gpu_reduce_beside(struct gpu *g, const struct tile_op *op, const struct tile_value *mask,
                       uint32_t c)
{
  if (op == NULL || op->kind != TILE_REDUCE || op->operands[0] != mask || op->axis != 0)
    return;
  struct gpu_value *v = gpu_value(g, op->results[0]);
  if (c == 0) {
    const uint32_t columns = gpu_shape(g, mask->type).columns;
    v->words = ARENA_ARRAY(g->arena, LLVMValueRef, (columns + WORD - 1) / WORD);
  }
  LLVMValueRef *word = &v->words[c / WORD];
  *word = add_bool(g, c % WORD == 0 ? emit_i32(g->e, 0) : *word, column_part(g, op, c), c);
}

/* [M, N] -> [1, N] */
static void reduce_rows(struct gpu *g, const struct tile_op *op, LLVMValueRef *results)
{
  struct emit *e = g->e;
  const struct tile_type from = op->operands[0]->type;
  struct gpu_shape shape = gpu_shape(g, from);
  const LLVMValueRef *words = gpu_value(g, op->results[0])->words;
  for (uint32_t w = 0; words != NULL && w * WORD < shape.columns; w++)
    results[w] = words[w];
  for (uint32_t c = 0; words == NULL && c < shape.columns; c++)
    results[c] = column_part(g, op, c);
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
  across_threads(g, op->reduction, 4, 16, &exchange, results, shape.columns, words != NULL);
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
