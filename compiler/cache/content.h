/* What a cache holds, read back: docs/caches.md in plain C over tensors in host memory. What checks
 * and the tests of the kernels compare with; slow on purpose.
 */
#ifndef ATTN_COMPILER_CACHE_CONTENT_H
#define ATTN_COMPILER_CACHE_CONTENT_H

#include "compiler/cache/plan.h"
#include "compiler/reference/reference.h"

struct cache_content {
  const struct cache_plan *plan;
  enum dtype type; /* for DTYPE_SPEC and ANY */
  /* By number in the plan; types below a byte with strides and sizes in codes. Borrowed. */
  struct ref_tensor tensors[CACHE_MAX_TENSORS];
  /* The input that `table` of k's and of v's storage names; unused without. */
  struct ref_tensor tables[2];
};

/* Keys that a launch sees in a sequence, as formulas count them: of a ring with positions of their
 * own all tokens that it ever had, else those that are kept. */
int64_t cache_content_keys(const struct cache_content *content, int64_t sequence);

/* The token of key j, as launches appended them. */
int64_t cache_content_token(const struct cache_content *content, int64_t sequence, int64_t j);

/* Whether key j is in the cache: not in a ring that has lost it, nor where the page table or a
 * length is wrong. Only then may it be read. */
bool cache_content_has(const struct cache_content *content, int64_t sequence, int64_t j);

/* Channel c of k or v (EXPR_TENSOR_K, EXPR_TENSOR_V) of a key, dequantised; rotated where the cache
 * keeps rotated keys. */
double cache_content_element(const struct cache_content *content, uint32_t source, int64_t sequence,
                             int64_t head, int64_t j, int64_t c);

/* What lies in the slot of a key in a cached input's tensor (number in the plan); `rest`: its other
 * indices, in order. */
double cache_content_input(const struct cache_content *content, uint32_t number, int64_t sequence,
                           int64_t j, const int64_t *rest);

#endif
