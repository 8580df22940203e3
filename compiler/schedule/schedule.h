/* Tile sizes by target and dims. A schedule changes how fast a kernel is, and the order in which it
 * adds. */
#ifndef ATTN_COMPILER_SCHEDULE_SCHEDULE_H
#define ATTN_COMPILER_SCHEDULE_SCHEDULE_H

#include "compiler/schedule/budget.h"

/* The options' schedule with what is 0 filled in by the table; what concerns the host's registers
 * is the target's. Heads of a group are packed into `rows`, which the builder cuts to a multiple of
 * how many it packs. */
struct schedule schedule_choose(const struct spec *spec, const struct compile_options *options);

/* For GPUs: makes one step towards a program that asks for less than `found`, which is beyond 255
 * registers or `shared` bytes, in fields that the options leave open. False when there is none. */
bool schedule_reduce(struct schedule *schedule, const struct compile_options *options,
                     const struct budget *found, size_t shared);

/* Warps and stages, where they are 0, for a program whose tiles are given: enough warps for its
 * registers. */
void schedule_complete(struct arena *arena, const struct tile_program *program,
                       struct schedule *schedule);

/* NULL, or why a GPU cannot have these warps and stages. */
const char *schedule_is_wrong(const struct schedule *schedule);

#endif
