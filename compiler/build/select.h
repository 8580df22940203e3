/* `select`: the kernels that choose blocks of keys for every row, and the choice in a walk. */
#ifndef ATTN_COMPILER_BUILD_SELECT_H
#define ATTN_COMPILER_BUILD_SELECT_H

#include "compiler/build/build.h"

/* Reports a rank that cannot be lowered. */
bool select_is_supported(struct build *b);
/* The kernels rank_blocks and choose_blocks. */
void select_build(struct build *b);
/* Keys of a tile, `columns` at most: such that a tile lies in one block, where that is not too
 * narrow. `columns` itself without a `select`. */
uint32_t select_columns(const struct spec *spec, uint32_t columns);
/* Reads the choice for the tile at b->key_base. Bool [1, 1]: whether a row of it chose any of it.
 */
struct tile_value *select_enter_tile(struct build *b);
/* BOOL, of pairs of that tile: the key's block is chosen. */
const struct expr *select_chosen(struct build *b);

#endif
