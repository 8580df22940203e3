/* Private to the host target: products of bf16 tiles in pairs of elements, where the processor has
 * instructions for them (dot_bf16.c). */
#ifndef ATTN_COMPILER_TARGET_HOST_DOT_BF16_H
#define ATTN_COMPILER_TARGET_HOST_DOT_BF16_H

#include "compiler/target/host/panel.h"

/* Whether the product of a group is made of pairs. */
bool dot_is_product(struct host *h, const struct tile_op *op);
/* Whether a pending conversion from f32 need not be done: only products read what it gives, as
 * their first operand. They read its operand; those of pairs round as they pack it, and those of
 * f32 may do without rounding. */
bool dot_rounds(struct host *h, const struct tile_op *op);

/* sum + a . b, where each 32 bits of a and b hold a pair. */
LLVMValueRef dot_add(struct host *h, LLVMValueRef a, LLVMValueRef b, LLVMValueRef sum);

/* Packs a panel of f32 with so many columns: [columns / 2 rounded up][panel rows] pairs. `range`:
 * the columns that were computed and are needed, NULL for all; a pair that is partly in it has zero
 * for the other one. */
LLVMValueRef dot_pack_panel(struct host *h, LLVMValueRef from, uint32_t columns,
                            const struct host_range *range);
/* Packs the second operand, row-major elsewhere. Of an operand [N, K] each row's pairs, of one [K,
 * N] one row for every two, zeros where a row is not needed. The stride counts pairs. */
struct host_value dot_pack_second(struct host *h, const struct tile_op *op,
                                  const struct host_value *from);
/* The pairs that hold the elements of the range. */
struct host_range dot_pairs_of(struct host *h, const struct host_range *range);

#endif
