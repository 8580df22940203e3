/* What operands.c and loads.c share. Private to compiler/build, as build.h. */
#ifndef ATTN_COMPILER_BUILD_OPERANDS_H
#define ATTN_COMPILER_BUILD_OPERANDS_H

#include "compiler/build/build.h"

/* Whether an index is the variable that such a dimension is indexed by. */
bool operand_is_plain(const struct expr *index, const struct spec_dim *dim);
/* In range wherever it is evaluated: in dead rows, beyond the last key, and where a condition does
 * not hold. */
bool operand_is_safe(const struct expr *index, const struct spec_dim *dim);
/* Cut to 0 .. size - 1. An empty tensor's last index is -1, and its strides are 0. */
const struct expr *operand_clamped(struct build *b, const struct expr *index,
                                   const struct expr *size);
/* Where the tile's tokens begin, index: from the sequence's start where tokens are packed. */
struct tile_value *operand_token_base(struct build *b, bool keys, bool packed);

#endif
