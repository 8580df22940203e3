/* Private to products with few rows: what few_product.c has found of one, for the files that emit
 * it. */
#ifndef ATTN_COMPILER_TARGET_HOST_FEW_PRODUCT_H
#define ATTN_COMPILER_TARGET_HOST_FEW_PRODUCT_H

#include "compiler/target/host/few.h"

struct few_product {
  struct host *h;
  uint32_t rows, columns, inner;
  struct host_value a, c;
  struct few_rows b;
  struct few_rows *weights;     /* [K, 1], of the rows of b in few_sums; NULL */
  uint32_t stride;              /* at which b's columns are read */
  double unit;                  /* of b's elements */
  const struct tile_value *sum; /* what is added to, or NULL */
  struct host_value sum_place;
  LLVMValueRef terms;              /* [M] in memory: what is added to each row as well, or NULL */
  const struct tile_value *factor; /* [M, 1], of the sum, or NULL */
  struct host_value factor_place;
};

/* How many sums for each row of c, or elements of a, half of the registers hold; a power of two. */
uint32_t few_block_of(const struct few_product *p);
/* Rows of b that are read side by side: not more than that, and few where memory is slower than
 * what is done with it. The machine reads ahead along rows. */
uint32_t few_rows_of(const struct few_product *p);
/* Element (m, column) of an f32 tile with p's rows. */
LLVMValueRef few_address(const struct few_product *p, const struct host_value *place,
                         LLVMValueRef m, LLVMValueRef column);
LLVMValueRef few_repeat(struct host *h, LLVMValueRef scalar, uint32_t count);
/* What c starts from at `count` columns of row m; NULL for zero. */
LLVMValueRef few_start(struct few_product *p, LLVMValueRef m, LLVMValueRef column, uint32_t count);

/* few_sums.c: b is [K, N] */
void few_sums(struct few_product *p);
/* few_dots.c: b is [N, K] */
void few_dots(struct few_product *p);
/* The rows of b from `first` on, `width` of them. */
void few_dots_block(struct few_product *p, LLVMValueRef first, uint32_t width);
/* The sums of the lanes of as many vectors as there are lanes, as a vector; in a fixed order. */
LLVMValueRef few_add_lanes(struct host *h, LLVMValueRef *sums);

/* few_keys.c: the same with lanes along the rows of b, where these are codes; else false */
bool few_dots_by_keys(struct few_product *p);

#endif
