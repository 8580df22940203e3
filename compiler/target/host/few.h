/* Private to the host target: tiles with at most HOST_FEW_ROWS rows, as decoding has them (the
 * query heads of a group at one position). Panels would leave most lanes dead, so these tiles stay
 * row-major and lanes run along columns.
 *
 * Runs. Consecutive elementwise ops and row reductions over tiles of one shape collect in a run
 * (few_run.c): one loop over rows, inside it one over vectors of columns.
 *
 * Products (few_product.c) read their second operand once, in the order in which it lies in memory,
 * and hold all rows of the first against it. Decoding moves more bytes than it computes, so that
 * operand is not copied: a loaded tile is a view (few_view.c), a table of the addresses of its
 * rows, whose elements are converted as the product reads them; and an elementwise op on it, such
 * as code * scale, is done there as well.
 *
 * Tables have entries for rows that follow the tile's: those of the next round of the loop around
 * it, which in a cache of pages lie elsewhere. Products prefetch as many rows ahead, half as many
 * of long ones, into the second-level cache: the first-level one has too few outstanding misses to
 * keep memory busy.
 */
#ifndef ATTN_COMPILER_TARGET_HOST_FEW_H
#define ATTN_COMPILER_TARGET_HOST_FEW_H

#include "compiler/target/host/place.h"

/* ---- few_view.c: which tiles are read as they lie ---- */
enum {
  FEW_ROWS_AHEAD = 64, /* at most */
  FEW_MAX_BLOCK = 8,
  FEW_MOST_STRIDE = 16,
  FEW_LINE = 64 /* bytes that come from memory together */
};

/* How often each column of the operand of a permute follows in its result, where that is a multiple
 * of every vector's lanes and nothing else is done; else 0. */
uint32_t few_repeats(struct host *h, const struct tile_op *op);
/* Makes the load's result a view, where nothing but few-row products reads it; else false. */
bool few_view(struct host *h, const struct tile_op *load, const struct place *place);
/* Whether the op's only user, a few-row product, does it: nothing is to be emitted for it. */
bool few_is_lazy(struct host *h, const struct tile_op *op);
/* A row of zeros, of so many bytes at least. */
LLVMValueRef few_zero_row(struct host *h, uint32_t bytes);
/* few_table.c: the addresses of a tile's rows, which lie `stride` bytes apart from `start` on, each
 * as many `apart` further as its index in each of the gathers says; `zeros` from row `live` on. And
 * behind them those of rows to prefetch, from `next` on. i64, or pointers where their names say so.
 * A vector of entries that follow may be written. */
struct few_table {
  LLVMValueRef base; /* pointer */
  uint32_t rows;
  LLVMValueRef start, stride, live, zeros, next;
  uint32_t gathers;
  LLVMValueRef indices[SPEC_MAX_RANK], apart[SPEC_MAX_RANK]; /* pointers to i32; bytes */
};
void few_table_fill(struct host *h, const struct few_table *table);
/* The table of a view of so many rows with `zeros` in place of those of which the test, a bool in
 * memory, is false. */
LLVMValueRef few_table_clear(struct host *h, LLVMValueRef table, LLVMValueRef tests, uint32_t rows,
                             LLVMValueRef zeros);
/* Into the second-level cache. */
void few_prefetch_line(struct host *h, LLVMValueRef address);

/* ---- few_operand.c: second operands of products ---- */

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
  const struct expr *expr;             /* of them, what a lazy map is; else NULL */
};
/* Columns of a vector: lane l is column `first` + l * `stride` + `number`, both i64 or plain. Where
 * `stride` is not 1 all lanes are there, `first` is a multiple of lanes * stride and `number` below
 * `stride`. */
struct few_columns {
  LLVMValueRef first;
  uint32_t count; /* of the lanes that are there; the rest are zeros */
  uint32_t stride, number;
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
/* Elements of row number `row` of the block as a vector. */
LLVMValueRef few_vector(struct few_rows *rows, uint32_t row, const struct few_columns *at);
/* The same, but a scalar where all lanes are the same, and in no units. */
LLVMValueRef few_elements(struct few_rows *rows, uint32_t row, const struct few_columns *at);
/* The element of row number `row` of the block of an operand [N, 1]. */
LLVMValueRef few_scalar(struct few_rows *rows, uint32_t row);
/* Zeros in place of the lanes from `count` on. */
LLVMValueRef few_cut(struct host *h, LLVMValueRef vector, uint32_t count);
/* The most bits in memory that an element of the tiles that it reads has. */
uint32_t few_bits(const struct few_rows *rows);
/* Prefetches what a block further on has in the share of it that `columns` columns from `column` on
 * are of all: in the end all of it, in the order of memory. */
void few_prefetch(struct few_rows *rows, LLVMValueRef column, uint32_t columns);

/* ---- few_mask.c: rows that are zeros or come from one of two tiles, by a test of each ---- */
/* Makes one operand or two of `rows`, which add up to it, without the test; of two, `*any` is
 * whether the second one has rows at all. */
uint32_t few_split(const struct few_rows *rows, struct few_rows parts[2], LLVMValueRef *any);
/* `count` tests from `row` on. */
LLVMValueRef few_load_test(struct host *h, LLVMValueRef tests, LLVMValueRef row, uint32_t count);

/* ---- few_stride.c: columns that lie in one word of memory as elements of different vectors ----
 */
/* The stride at which rows of so many columns are best read; 1 for one vector after the other. */
uint32_t few_stride(struct few_rows *rows, uint32_t columns);
/* few_elements of a view of words where the stride is not 1; and as emit_from_words has them. */
LLVMValueRef few_from_words(struct few_rows *rows, uint32_t row, const struct few_columns *at);
LLVMValueRef few_words(struct few_rows *rows, uint32_t row, LLVMValueRef column, uint32_t stride);
LLVMValueRef few_raw_words(struct few_rows *rows, uint32_t row, const struct few_columns *at);
/* Codes in words times a scale, plus a zero, which may be NULL. */
struct few_affine {
  struct few_rows *codes, *scale, *zero;
};
bool few_affine_parts(struct few_rows *rows, struct few_affine *parts);
/* few_elements of such an operand. */
LLVMValueRef few_affine(struct few_rows *rows, uint32_t row, const struct few_columns *at,
                        const struct few_affine *parts);
/* few_elements of a repeating permute of which each operand's column stands for `repeats`, from
 * `column` on, where the stride is not 1. */
LLVMValueRef few_repeated(struct few_rows *rows, uint32_t row, LLVMValueRef column,
                          uint32_t repeats, uint32_t stride);
/* `stride` vectors that follow each other become those of the numbers 0, 1, ...; and back. */
void few_take_apart(struct host *h, LLVMValueRef *vectors, uint32_t stride);
void few_put_together(struct host *h, LLVMValueRef *vectors, uint32_t stride);

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
