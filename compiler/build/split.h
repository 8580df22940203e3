/* Few rows of queries against many keys: the keys that a tile of rows may see are cut into parts,
 * each walked by a task of its own, and a second kernel merges what the parts found (Dao et al.,
 * "Flash-Decoding for long-context inference", 2023).
 *
 * How many parts a launch has follows from its sizes and the schedule (pipeline.h: tasks, part)
 * alone. Which keys a part has follows from the segments of its tile of rows: the tiles of keys
 * that they meet are counted in order, holes between them left out, and divided evenly, each part
 * getting no fewer than schedule.part keys. Parts beyond the last tile are empty.
 *
 * Sums and statistics of parts lie in workspaces [B, H, NQ, parts * n] (build.h), f32, and i32 for
 * positions.
 *
 * Private to compiler/build.
 */
#ifndef ATTN_COMPILER_BUILD_SPLIT_H
#define ATTN_COMPILER_BUILD_SPLIT_H

#include "compiler/build/build.h"

/* How many: an index scalar, over what the launch gives. May stand before `parallel`. */
struct tile_value *split_part_count(struct build *b);

/* Opens `parallel` as build_open_row_parts does, enters the task and cuts the walks of the kernel
 * to its part of the keys. Gives the part's number, index. split_leave_part ends the region. */
struct tile_value *split_enter_part(struct build *b);
void split_leave_part(struct build *b);
/* What split_enter_part does last: cuts the walks to part `part` of `parts`, both index. */
void split_cut(struct build *b, struct tile_value *part, struct tile_value *parts);

/* The least keys of a part, and the most parts of a kernel. */
uint32_t split_least_keys(const struct build *b);
enum { SPLIT_MOST_PARTS = 1 << 14 }; /* so that parts * sums * channels stay below 2^31 */

/* A row's state, in the order in which both kernels list it: f32 or i32 [M, 1], or f32 [M, DV].
 * `load` replaces each by that of the part. */
void split_store(struct build *b, struct tile_value *part, struct tile_value **const *state,
                 uint32_t count);
void split_load(struct build *b, struct tile_value *part, struct tile_value **const *state,
                uint32_t count);

/* Loads parts first + n for n from 1 to several - 1, of which those from `parts` on do not exist:
 * `states[n]`, which is that of a row without keys, whose sums are 0, becomes that of the part, or
 * stays. All is fetched before any of it is looked at. */
void split_load_rest(struct build *b, struct tile_value *first, struct tile_value *parts,
                     struct tile_value **const *const *states, uint32_t several, uint32_t count);
/* Whether there is a part first + 1: BOOL scalar. */
struct tile_value *split_has_rest(struct build *b, struct tile_value *first,
                                  struct tile_value *parts);

#endif
