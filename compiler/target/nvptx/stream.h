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
  LLVMValueRef slot;           /* i32: of its buffers; NULL with one stage */
  /* Stack variables. */
  LLVMValueRef slot_variable;
  LLVMValueRef next_position, next_exists, next_full; /* i64, i1, i1; full: of for_segments */
};

#endif
