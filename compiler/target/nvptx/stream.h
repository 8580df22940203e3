/* Private to stream.c: the state of a loop whose operands are copied ahead. */
#ifndef ATTN_COMPILER_TARGET_NVPTX_STREAM_H
#define ATTN_COMPILER_TARGET_NVPTX_STREAM_H

#include "compiler/target/nvptx/lower.h"

struct gpu_stream {
  const struct tile_op *loads[2]; /* by region */
  struct gpu_place place;         /* of the first slot */
  uint32_t bytes;                 /* of a slot */
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
  LLVMValueRef next_full; /* i1, of for_segments */
};

#endif
