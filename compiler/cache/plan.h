/* What a cache is made of: the tensors that follow from a spec's `cache` statement. docs/caches.md
 * says what each holds and how a token is found in them.
 */
#ifndef ATTN_COMPILER_CACHE_PLAN_H
#define ATTN_COMPILER_CACHE_PLAN_H

#include "dsl/spec.h"

/* What a tensor of a cache holds. */
enum cache_part {
  CACHE_LENGTHS,    /* i32 [B] */
  CACHE_PAGE_TABLE, /* i32 [B, T] */
  CACHE_SEEN,       /* i32 [B] */
  CACHE_POSITIONS,  /* i32 [slots] */
  CACHE_DATA,       /* elements or codes */
  CACHE_SCALE,
  CACHE_ZERO,
  CACHE_RECENT, /* the newest tokens, unquantised */
  CACHE_REST    /* the channels that are not quantised */
};

enum cache_dim {
  CACHE_DIM_B,
  CACHE_DIM_TABLE,    /* pages that a sequence may have; any number */
  CACHE_DIM_PAGES,    /* of all sequences; any number */
  CACHE_DIM_SLOTS,    /* dense: tokens that a sequence may have; any number. A multiple of
                         `quotient`: the tensor has the quotient */
  CACHE_DIM_CONSTANT, /* `size` */
  CACHE_DIM_INPUT     /* `size` of an input's other dimension: an expression */
};

struct cache_dimension {
  enum cache_dim kind;
  uint32_t size;            /* CONSTANT: elements */
  uint32_t quotient;        /* SLOTS: tokens of a scale; else 1 */
  const struct expr *input; /* INPUT: INT over parameters and sizes */
};

struct cache_tensor {
  const char *name; /* "k", "k.scale", "page_table", an input's */
  enum cache_part part;
  uint32_t source; /* EXPR_TENSOR_K, EXPR_TENSOR_V or an input; of lengths and the like K */
  enum dtype type; /* DTYPE_SPEC: that of q */
  uint32_t rank;
  struct cache_dimension dims[SPEC_MAX_RANK];
};

enum { CACHE_MAX_TENSORS = 4 + 2 * 5 + SPEC_MAX_INPUTS, CACHE_NONE_SUCH = -1 };

struct cache_plan {
  const struct spec *spec;
  struct cache_tensor tensors[CACHE_MAX_TENSORS];
  uint32_t count;
};

/* The plan of a checked spec, whose cache statement makes sense (check_cache.c sees to that); as
 * long as the spec. One without a `cache` statement, or with `cache ragged`, has a dense one. */
void cache_plan_init(struct cache_plan *plan, const struct spec *spec);
const struct cache_plan *cache_plan_new(struct arena *arena, const struct spec *spec);

/* CACHE_DENSE, CACHE_PAGED or CACHE_RING: what the spec's layout means for its cache. */
enum cache_layout cache_layout(const struct spec *spec);

/* The number of that tensor, or CACHE_NONE_SUCH. */
int32_t cache_plan_find(const struct cache_plan *plan, uint32_t source, enum cache_part part);

/* The storage of EXPR_TENSOR_K or V; NULL for v where it is a slice of k. */
const struct spec_storage *cache_storage(const struct spec *spec, uint32_t source);

/* Channels of k or v that are in `data`: all but the storage's rest. */
uint32_t cache_channels(const struct spec *spec, uint32_t source);

bool cache_is_quantised(const struct spec_storage *storage);

/* Tokens that a ring keeps; 0 for other layouts. */
uint32_t cache_ring_tokens(const struct spec *spec);

/* Bits of an element; 0 for DTYPE_SPEC and ANY. */
uint32_t cache_element_bits(enum dtype type);

/* Bytes that one token takes in all heads of K and V and in cached inputs whose other dimensions
 * are constant, scales included, once it has left the residual. `type` stands for DTYPE_SPEC and
 * ANY. Not whole where several tokens share a scale. */
double cache_token_bytes(const struct cache_plan *plan, enum dtype type);

/* Bytes that a sequence takes besides, however long it is: residuals. */
double cache_sequence_bytes(const struct cache_plan *plan, enum dtype type);

#endif
