/* Private to the host target: tiles with at most HOST_FEW_ROWS rows, as decoding has them (the
 * query heads of a group at one position). Panels would leave most lanes dead, so these tiles stay
 * row-major and lanes run along columns.
 *
 * Runs. Consecutive elementwise ops and row reductions over tiles of one shape collect in a run
 * (few_run.c): one loop over rows, inside it one over vectors of columns.
 *
 * Products (few_product.c) read their second operand once, in the order in which it lies in memory,
 * and hold all rows of the first against it. Decoding moves more bytes than it computes, so that
 * operand is not copied: a loaded tile is a view (few_operand.c), a table of the addresses of its
 * rows, whose elements are converted as the product reads them; and an elementwise op on it, such
 * as code * scale, is done there as well.
 *
 * Tables have entries for rows that follow the tile's: those of the next round of the loop around
 * it, which in a cache of pages lie elsewhere. Products prefetch so many rows ahead, into the
 * second-level cache: the first-level one has too few outstanding misses to keep memory busy.
 */
#ifndef ATTN_COMPILER_TARGET_HOST_FEW_H
#define ATTN_COMPILER_TARGET_HOST_FEW_H

#include "compiler/target/host/place.h"

/* ---- few_operand.c: second operands of products ---- */
enum { FEW_ROWS_AHEAD = 32, FEW_MAX_BLOCK = 8 };

/* Makes the load's result a view, where nothing but few-row products reads it; else false. */
bool few_view(struct host *h, const struct tile_op *load, const struct place *place);
/* Whether the op's only user, a few-row product, does it: nothing is to be emitted for it. */
bool few_is_lazy(struct host *h, const struct tile_op *op);

/* The rows `first` to `first + count - 1` of an operand [N, C]. */
struct few_rows {
  struct host *h;
  const struct tile_value *value;
  struct host_value place; /* MEMORY, VIEW or LAZY */
  LLVMValueRef first;      /* i64 */
  uint32_t count;
  LLVMValueRef address[FEW_MAX_BLOCK]; /* of the rows; NULL of LAZY */
  LLVMValueRef scalar[FEW_MAX_BLOCK];  /* the elements of [N, 1] */
  struct few_rows *operands;           /* of the lazy op, by operand */
};
/* An operand of a product: converted to row-major memory unless it can be read as it is. */
struct few_rows few_operand(struct host *h, const struct tile_value *value);
/* Where the operand is another one times [N, 1], that factor; `rows` becomes the other one. Else
 * NULL. */
struct few_rows *few_factor(struct few_rows *rows);
/* Makes the rows current; the builder is where they are about to be read. */
void few_rows_begin(struct few_rows *rows, LLVMValueRef first, uint32_t count);
/* What elements are multiples of as few_vector gives them: a power of two, which a product makes up
 * for where that takes less than to multiply each of them. */
double few_unit(const struct few_rows *rows);
/* Elements from column `column` on of row number `row` of the block as a vector: `count` of them,
 * the rest zeros. */
LLVMValueRef few_vector(struct few_rows *rows, uint32_t row, LLVMValueRef column, uint32_t count);
/* The element of row number `row` of the block of an operand [N, 1]. */
LLVMValueRef few_scalar(struct few_rows *rows, uint32_t row);
/* Zeros in place of the lanes from `count` on. */
LLVMValueRef few_cut(struct host *h, LLVMValueRef vector, uint32_t count);
/* Prefetches what the block FEW_ROWS_AHEAD rows further has in the share of it that `columns`
 * columns from `column` on are of all: in the end all of it, in the order of memory. */
void few_prefetch(struct few_rows *rows, LLVMValueRef column, uint32_t columns);

/* ---- few_product.c ---- */
static inline bool few_is_product(const struct tile_op *op)
{
  return (op->kind == TILE_PRODUCT || op->kind == TILE_CONTRACT) &&
         op->results[0]->type.rows <= HOST_FEW_ROWS;
}
void few_product(struct host *h, const struct tile_op *op);
void few_contract(struct host *h, const struct tile_op *op);

/* ---- few_run.c ---- */
/* Whether the op can be part of a run. */
bool few_in_run(const struct tile_op *op);
void few_run_add(struct host *h, struct tile_op *op);
void few_run_flush(struct host *h);
/* Whether the value is a result of the run at hand. */
bool few_is_pending(struct host *h, const struct tile_value *value);

#endif
