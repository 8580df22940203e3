/* The order of ops within a region, for targets that keep tiles in registers. */
#ifndef ATTN_COMPILER_SCHEDULE_ORDER_H
#define ATTN_COMPILER_SCHEDULE_ORDER_H

#include "compiler/tile/ir.h"

/* Moves short masks down to where they are read first, behind the product whose result they hide,
 * in kernels without products of f32.
 * Moves up what makes small tiles of large ones, so that the large ones do not stay in registers:
 * conversions to 16 bits to where their operand is made or was read before, `any` and `all` to
 * where their operand, of which each bool takes a register, is made and read by a map. */
void order_narrow_early(struct tile_program *program);

#endif
