/* Sums of which the threads of a row, or every column warp, have their own parts
 * (residence_is_apart), and their end: of tiles, warps exchange parts of blocks through shared
 * memory, where each lane finds what the same lanes of the other warps have. */
#include "compiler/target/nvptx/lower.h"

enum { LANE_BYTES = 16, WARP_BYTES = EMIT_WARP * LANE_BYTES }; /* of a block of 16 x 8 */

uint32_t gpu_enter_apart(struct gpu *g)
{
  uint32_t warps = g->column_warps;
  g->column_warps = 1;
  return warps;
}

void gpu_leave_apart(struct gpu *g, uint32_t warps)
{
  g->column_warps = warps;
}

void gpu_start_apart(struct gpu *g, const struct tile_value *value, LLVMValueRef *parts,
                     uint32_t count)
{
  struct emit *e = g->e;
  LLVMValueRef zero = emit_float_of(e->f32, 0);
  LLVMValueRef number = LLVMBuildOr(e->builder, g->warp_column, g->lane_column, "");
  LLVMValueRef first = LLVMBuildICmp(e->builder, LLVMIntEQ, number, emit_i32(e, 0), "");
  for (uint32_t n = 0; n < count; n++)
    parts[n] = value->type.columns > 1 ? zero /* as the value is */
                                       : emit_select(e, first, gpu_element(g, value, n, 0), zero);
}

/* Where blocks lie: by row warp, owner, the owner's block, row block, writer, lane. */
struct exchange {
  struct gpu *g;
  uint32_t row_blocks, own, all; /* blocks of a warp's rows; its own columns; all columns */
  uint32_t blocks;               /* of an owner in a round */
  LLVMValueRef write, read;      /* of this thread, its first */
};

static uint32_t place_of(const struct exchange *x, uint32_t owner, uint32_t block, uint32_t m,
                         uint32_t writer)
{
  const uint32_t warps = x->g->column_warps;
  return (((owner * x->blocks + block) * x->row_blocks + m) * warps + writer) * WARP_BYTES;
}

static LLVMValueRef begin_at(struct gpu *g, uint32_t offset, LLVMValueRef within,
                             uint32_t row_bytes)
{
  struct emit *e = g->e;
  LLVMValueRef lane = LLVMBuildMul(e->builder, g->lane, emit_i32(e, LANE_BYTES), "");
  LLVMValueRef row = LLVMBuildMul(e->builder, g->warp_row, emit_i32(e, (int32_t)row_bytes), "");
  LLVMValueRef at = LLVMBuildAdd(e->builder, lane, emit_i32(e, (int32_t)offset), "");
  at = LLVMBuildAdd(e->builder, LLVMBuildAdd(e->builder, at, row, ""), within, "");
  return emit_gpu_shared(e, at);
}

/* Rows 2 m and 2 m + 1 of the thread, columns 2 block and 2 block + 1. */
static uint32_t element_of(uint32_t m, uint32_t block, uint32_t n, uint32_t blocks)
{
  return (2 * m + n / 2) * 2 * blocks + 2 * block + n % 2;
}

static void write_parts(const struct exchange *x, const LLVMValueRef *parts, uint32_t first,
                        uint32_t count)
{
  struct gpu *g = x->g;
  struct emit *e = g->e;
  LLVMTypeRef four = LLVMVectorType(e->f32, 4);
  for (uint32_t owner = 0; owner < g->column_warps; owner++)
    for (uint32_t k = 0; k < count; k++)
      for (uint32_t m = 0; m < x->row_blocks; m++) {
        const uint32_t block = owner * x->own + first + k;
        LLVMValueRef vector = LLVMConstNull(four); /* beyond the tile */
        for (uint32_t n = 0; n < 4 && block < x->all; n++)
          vector =
              LLVMBuildInsertElement(e->builder, vector, parts[element_of(m, block, n, x->all)],
                                     emit_i32(e, (int32_t)n), "");
        emit_store(e, vector, gpu_further(g, x->write, place_of(x, owner, k, m, 0)), LANE_BYTES);
      }
}

static void read_parts(const struct exchange *x, LLVMValueRef *sums, uint32_t first, uint32_t count)
{
  struct gpu *g = x->g;
  struct emit *e = g->e;
  LLVMTypeRef four = LLVMVectorType(e->f32, 4);
  for (uint32_t k = 0; k < count; k++)
    for (uint32_t m = 0; m < x->row_blocks; m++) {
      LLVMValueRef sum = NULL;
      for (uint32_t writer = 0; writer < g->column_warps; writer++) {
        LLVMValueRef part =
            emit_load(e, four, gpu_further(g, x->read, place_of(x, 0, k, m, writer)), LANE_BYTES);
        sum = sum == NULL ? part : LLVMBuildFAdd(e->builder, sum, part, "");
      }
      for (uint32_t n = 0; n < 4; n++)
        sums[element_of(m, first + k, n, x->own)] =
            LLVMBuildExtractElement(e->builder, sum, emit_i32(e, (int32_t)n), "");
    }
}

static void add_tiles(struct gpu *g, const struct tile_value *result, const LLVMValueRef *parts,
                      uint32_t loop_bytes)
{
  struct emit *e = g->e;
  const struct tile_type type = result->type;
  struct exchange x = {.g = g,
                       .row_blocks = gpu_row_blocks(g, type.rows),
                       .own = gpu_column_blocks(g, type.columns),
                       .all = (type.columns + 7) / 8,
                       .blocks = residence_apart_blocks(g->where, type, loop_bytes)};
  const uint32_t used = g->shared_used;
  const uint32_t bytes = residence_apart_bytes(g->where, type, x.blocks);
  const uint32_t offset = gpu_allocate(g, bytes), row_bytes = bytes / g->row_warps;
  LLVMValueRef own_part = LLVMBuildMul(e->builder, g->warp_column, emit_i32(e, WARP_BYTES), "");
  LLVMValueRef own_sums =
      LLVMBuildMul(e->builder, g->warp_column, emit_i32(e, (int32_t)place_of(&x, 1, 0, 0, 0)), "");
  x.write = begin_at(g, offset, own_part, row_bytes);
  x.read = begin_at(g, offset, own_sums, row_bytes);
  LLVMValueRef *sums = gpu_new_fragment(g, result);
  for (uint32_t first = 0; first < x.own; first += x.blocks) {
    uint32_t count = x.own - first < x.blocks ? x.own - first : x.blocks;
    gpu_before_write(g);
    write_parts(&x, parts, first, count);
    gpu_barrier(g);
    read_parts(&x, sums, first, count);
    g->reading = true;
  }
  gpu_release(g, used);
}

void gpu_add_apart(struct gpu *g, const struct tile_value *result, LLVMValueRef *parts,
                   uint32_t loop_bytes)
{
  if (result->type.columns > 1) {
    add_tiles(g, result, parts, loop_bytes);
    return;
  }
  gpu_across_columns(g, TILE_REDUCE_SUM, result->type, parts);
  gpu_set_elements(g, result, parts);
}
