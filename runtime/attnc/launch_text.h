/* How to launch the kernels of PTX with nothing but the driver: a C header, and the same as JSON.
 *
 * Both tell for each kernel the slots of its one parameter (compiler/tile/abi.h), how many blocks a
 * launch has, the threads of a block and its dynamic shared memory.
 */
#ifndef ATTN_RUNTIME_ATTNC_LAUNCH_TEXT_H
#define ATTN_RUNTIME_ATTNC_LAUNCH_TEXT_H

#include "compiler/pipeline.h"

struct launch_text {
  struct arena *arena;
  const struct compiled *compiled; /* code was made of it; `spec` may be NULL */
  const char *name;                /* of the attention or of the program's file */
};

/* The texts, in the arena, whose guard is armed. */
const char *launch_text_header(const struct launch_text *text);
const char *launch_text_json(const struct launch_text *text);

/* The number of blocks of a kernel as a C expression over its parameters, each with `prefix` before
 * its name; NULL where it depends on elements of tensors. It calls attn_floor_div, attn_min and
 * attn_max where it divides and compares. */
const char *launch_text_blocks(struct arena *arena, const struct tile_kernel *kernel,
                               const char *prefix);

#endif
