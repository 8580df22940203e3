/* How many tasks a kernel has, for launchers of targets that do not compile the count. */
#ifndef ATTN_COMPILER_TILE_TASKS_H
#define ATTN_COMPILER_TILE_TASKS_H

#include "compiler/tile/ir.h"

/* The product of the extents of the kernel's parallel op, given the slots of a launch (abi.h); 0
 * where an extent is not positive, -1 where the product overflows or an extent depends on more than
 * the slots: an element of a tensor, a sum over a range, or some thousand operations. Allocates
 * nothing. */
int64_t tile_task_count(const struct tile_kernel *kernel, const int64_t *slots);

#endif
