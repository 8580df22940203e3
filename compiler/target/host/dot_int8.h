/* Private to the host target: products of rows by codes of 8 bits, where the processor has
 * instructions for them (dot_int8.c). */
#ifndef ATTN_COMPILER_TARGET_HOST_DOT_INT8_H
#define ATTN_COMPILER_TARGET_HOST_DOT_INT8_H

#include "compiler/target/host/panel.h"

enum { DOT_QUAD = 4 /* elements that share 32 bits */, DOT_DIGITS = 2 };

/* Whether the product is made of digits wherever its rows allow it. */
bool dot_int8_is_product(struct host *h, const struct tile_op *op);

/* sum + digits . codes in i32 lanes: 4 unsigned bytes each of `digits`, 4 signed ones of `codes`.
 */
LLVMValueRef dot_int8_add(struct host *h, LLVMValueRef digits, LLVMValueRef codes,
                          LLVMValueRef sum);

/* ---- a panel of rows in digits ---- */

/* In memory, by lanes of the panel: f32 `low` and `step`, i32 that is not 0 where digits cannot
 * stand for the row, and i32 [quads][DOT_DIGITS], the high digits first. */
enum { DOT_HEAD = 3 };
/* A panel of the product's first operand at `from`, in digits, in memory made here. `range`: the
 * columns that were computed and are needed, NULL for all; others count as zeros. */
LLVMValueRef dot_int8_split(struct panel_loop *g, const struct tile_op *op, LLVMValueRef from,
                            const struct host_range *range);
/* i1: digits can stand for all rows of the panel that `digits` was made of. */
LLVMValueRef dot_int8_fits(struct host *h, LLVMValueRef digits);
/* What sums of the digits of one row vector mean; `codes`: f32, the sum of the column's codes, NULL
 * where rows have no negative numbers. */
LLVMValueRef dot_int8_join(struct host *h, LLVMValueRef digits, uint32_t vector,
                           const LLVMValueRef *sums, LLVMValueRef codes);

/* ---- the second operand ---- */

/* Packs it, row-major f32 elsewhere. Of an operand [N, K]: each row's quads and behind them, as
 * f32, the sum of its codes; of one [K, N]: one row of quads for every four. The stride counts
 * quads. */
struct host_value dot_int8_pack(struct host *h, const struct tile_op *op,
                                const struct host_value *from);

/* The quads that hold the elements of the range. */
struct host_range dot_int8_quads_of(struct host *h, const struct host_range *range);

#endif
