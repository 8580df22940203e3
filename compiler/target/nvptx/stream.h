/* Private to loop.c and stream.c: the state of a loop whose operands are copied ahead. */
#ifndef ATTN_COMPILER_TARGET_NVPTX_STREAM_H
#define ATTN_COMPILER_TARGET_NVPTX_STREAM_H

#include "compiler/target/nvptx/lower.h"

struct gpu_stream {
  const struct tile_op *loads[2]; /* by region */
  struct gpu_place place;         /* of the first slot */
  uint32_t bytes;                 /* of a slot */
  /* Of the tile at position 0, and the bytes (i64) to the next position: in the loop over FULL
   * tiles, where it was found before. */
  struct gpu_copy_start start;
  LLVMValueRef stride;
};

struct gpu_loop {
  const struct tile_op *op;
  struct gpu_loop *outer;
  struct gpu_stream streams[RESIDENCE_MAX_STREAMS];
  uint32_t count, stages;
  uint32_t arrived;            /* of the region being lowered */
  LLVMValueRef position, full; /* i64, i1: of the tile at hand */
  LLVMValueRef tile;           /* i32: its number; NULL of a `for` */
  LLVMValueRef slot;           /* i32: of its buffers; NULL with one stage */
  LLVMValueRef end;            /* i64: of the positions of a `for`; NULL of for_segments */
  /* Stack variables. What follows from them is computed where it is needed: all that a loop keeps
   * for its next turn takes registers of everybody's. */
  LLVMValueRef slot_variable;
  LLVMValueRef next;      /* the next tile: of `for` its position (i64), else its number (i32) */
  LLVMValueRef next_full; /* i1, of for_segments: there is a next tile and it is FULL */
  /* Of a loop over FULL tiles: the block before it, or NULL, and what was computed there. */
  LLVMBasicBlockRef before;
  struct gpu_once {
    struct gpu_key key;
    LLVMValueRef value;
  } once[8];
  uint32_t once_count;
};

enum { GPU_NO_TILE = INT32_MAX };

static inline LLVMValueRef gpu_get(struct gpu *g, LLVMTypeRef type, LLVMValueRef variable)
{
  return LLVMBuildLoad2(g->e->builder, type, variable, "");
}
static inline void gpu_set(struct gpu *g, LLVMValueRef variable, LLVMValueRef value)
{
  LLVMBuildStore(g->e->builder, value, variable);
}

/* Finds the streams of loop->op and their buffers, before the loop. */
void gpu_streams_begin(struct gpu *g, struct gpu_loop *loop);
/* Finds what their copies have in common, for the code up to `forget`. */
void gpu_streams_start(struct gpu *g, struct gpu_loop *loop);
void gpu_streams_forget(struct gpu_loop *loop);
/* Begins to copy streams [first, end) of the next tile, if there is one. */
void gpu_copy_next(struct gpu *g, const struct gpu_loop *loop, uint32_t first, uint32_t end,
                   LLVMValueRef slot);
LLVMValueRef gpu_next_exists(struct gpu *g, const struct gpu_loop *loop);   /* i1 */
LLVMValueRef gpu_next_position(struct gpu *g, const struct gpu_loop *loop); /* i64 */
/* Of the tile with that number (i32), i64. */
LLVMValueRef gpu_tile_position(struct gpu *g, const struct gpu_loop *loop, LLVMValueRef tile);

#endif
