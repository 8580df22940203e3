/* Tile sizes of the host and the cache that a tile lives in. */
#ifndef ATTN_COMPILER_SCHEDULE_HOST_TILES_H
#define ATTN_COMPILER_SCHEDULE_HOST_TILES_H

#include "compiler/pipeline.h"

/* Bytes of the second-level cache of a core here; 1 MiB where the system does not tell. */
size_t host_second_level_cache(void);

/* Halves what `wanted` leaves open of `chosen` until rows of q and o and tiles of k and v, as f32,
 * lie in three quarters of `cache` bytes or the tile is small enough: what the rest of a kernel
 * needs, scores and a mask, is less than the last quarter. `channels`: D + DV. */
void host_fit_tile(struct schedule *chosen, const struct schedule *wanted, uint32_t channels,
                   size_t cache);

#endif
