/* Tile sizes by target and dims. A schedule changes how fast a kernel is, and the order in which it
 * adds. */
#ifndef ATTN_COMPILER_SCHEDULE_SCHEDULE_H
#define ATTN_COMPILER_SCHEDULE_SCHEDULE_H

#include "compiler/pipeline.h"

/* The options' schedule with rows and columns filled in where they are 0; what concerns registers
 * is the target's. `share`: query heads that are packed into one tile; `rows` becomes a multiple of
 * it, one at least. */
struct schedule schedule_choose(const struct spec *spec, const struct compile_options *options,
                                uint32_t share);

#endif
