/* What a tile program asks of a GPU's multiprocessor under a schedule, told before code is made.
 *
 * Placement is residence.h's. Shared memory is counted as the target takes it and gives it back;
 * registers are estimated by what is alive at once.
 */
#ifndef ATTN_COMPILER_SCHEDULE_BUDGET_H
#define ATTN_COMPILER_SCHEDULE_BUDGET_H

#include "compiler/pipeline.h"

/* NVIDIA, "CUDA C++ Programming Guide", compute capabilities: 8.6 and 8.9 have 99 KiB a block, 8.0
 * has 163 KiB; a thread has 255 registers. */
enum {
  BUDGET_REGISTERS = 255,
  BUDGET_SHARED = 99 << 10,
  BUDGET_MOST_SHARED = 163 << 10,
  BUDGET_BLOCK_ROWS = 16, /* rows and columns of an accumulator of mma.m16n8 */
  BUDGET_BLOCK_COLUMNS = 8
};

struct budget {
  uint32_t registers; /* of a thread, 32 bits each */
  size_t shared;      /* bytes of a block */
};

/* Of one kernel; `schedule` has warps, column_warps and stages. `arena`: for tables by value. */
struct budget budget_of_kernel(struct arena *arena, const struct tile_kernel *kernel,
                               const struct schedule *schedule);
/* The most that any kernel asks for. */
struct budget budget_of_program(struct arena *arena, const struct tile_program *program,
                                const struct schedule *schedule);

#endif
