/* Which elements of a tile a thread has: those of the accumulators of mma.m16n8. */
#include "compiler/target/nvptx/lower.h"

uint32_t gpu_row_blocks(const struct gpu *g, uint32_t rows)
{
  uint32_t blocks = (rows + 15) / 16;
  return (blocks + g->row_warps - 1) / g->row_warps;
}

uint32_t gpu_column_blocks(const struct gpu *g, uint32_t columns)
{
  uint32_t blocks = (columns + 7) / 8;
  return (blocks + g->column_warps - 1) / g->column_warps;
}

struct gpu_shape gpu_shape(const struct gpu *g, struct tile_type type)
{
  return (struct gpu_shape){
      type.rows > 1 ? 2 * gpu_row_blocks(g, type.rows) : 1,
      type.columns > 1 ? 2 * gpu_column_blocks(g, type.columns) : 1,
  };
}

/* warp * span + within + constant; a single warp's number is 0. */
static LLVMValueRef coordinate(struct gpu *g, uint32_t warps, LLVMValueRef warp, uint32_t span,
                               LLVMValueRef within, uint32_t constant)
{
  struct emit *e = g->e;
  LLVMValueRef value = within;
  if (warps > 1)
    value = LLVMBuildAdd(e->builder, LLVMBuildMul(e->builder, warp, emit_i32(e, (int32_t)span), ""),
                         within, "");
  return LLVMBuildAdd(e->builder, value, emit_i32(e, (int32_t)constant), "");
}

LLVMValueRef gpu_row(struct gpu *g, struct tile_type type, uint32_t r)
{
  if (type.rows == 1)
    return emit_i32(g->e, 0);
  return coordinate(g, g->row_warps, g->warp_row, 16 * gpu_row_blocks(g, type.rows), g->lane_row,
                    gpu_row_step(r));
}

LLVMValueRef gpu_column(struct gpu *g, struct tile_type type, uint32_t c)
{
  if (type.columns == 1)
    return emit_i32(g->e, 0);
  return coordinate(g, g->column_warps, g->warp_column, 8 * gpu_column_blocks(g, type.columns),
                    g->lane_column, gpu_column_step(c));
}

static LLVMValueRef below(struct gpu *g, LLVMValueRef index, uint32_t count)
{
  return LLVMBuildICmp(g->e->builder, LLVMIntSLT, index, emit_i32(g->e, (int32_t)count), "");
}

uint32_t gpu_row_step(uint32_t r)
{
  return 8 * r;
}

uint32_t gpu_column_step(uint32_t c)
{
  return c / 2 * 8 + c % 2;
}

LLVMValueRef gpu_row_exists(struct gpu *g, struct tile_type type, uint32_t r)
{
  uint32_t last_warp = (g->row_warps - 1) * 16 * gpu_row_blocks(g, type.rows);
  if (type.rows == 1 || last_warp + 8 * r + 8 <= type.rows)
    return NULL;
  return below(g, gpu_row(g, type, r), type.rows);
}

LLVMValueRef gpu_column_exists(struct gpu *g, struct tile_type type, uint32_t c)
{
  uint32_t last_warp = (g->column_warps - 1) * 8 * gpu_column_blocks(g, type.columns);
  if (type.columns == 1 || last_warp + c / 2 * 8 + 8 <= type.columns)
    return NULL;
  return below(g, gpu_column(g, type, c), type.columns);
}

LLVMValueRef gpu_both(struct gpu *g, LLVMValueRef a, LLVMValueRef b)
{
  if (a == NULL || b == NULL)
    return a == NULL ? b : a;
  return LLVMBuildAnd(g->e->builder, a, b, "");
}

LLVMValueRef gpu_exists(struct gpu *g, struct tile_type type, uint32_t r, uint32_t c)
{
  return gpu_both(g, gpu_row_exists(g, type, r), gpu_column_exists(g, type, c));
}

LLVMValueRef gpu_is_first_copy(struct gpu *g, struct tile_type type)
{
  struct emit *e = g->e;
  LLVMValueRef first = NULL;
  LLVMValueRef zero = emit_i32(e, 0);
  if (type.columns == 1)
    first = LLVMBuildICmp(e->builder, LLVMIntEQ, g->lane_column, zero, "");
  if (type.columns == 1 && g->column_warps > 1)
    first = gpu_both(g, first, LLVMBuildICmp(e->builder, LLVMIntEQ, g->warp_column, zero, ""));
  if (type.rows == 1)
    first = gpu_both(g, first, LLVMBuildICmp(e->builder, LLVMIntEQ, g->lane_row, zero, ""));
  if (type.rows == 1 && g->row_warps > 1)
    first = gpu_both(g, first, LLVMBuildICmp(e->builder, LLVMIntEQ, g->warp_row, zero, ""));
  return first;
}
