/* Where a key lies in a cache, and as what: the one place that knows the layouts and storage types
 * of docs/caches.md.
 *
 * Both are expressions over the spec's variables (before lowering) whose READs are of tensors
 * EXPR_TENSOR_CACHE + n of the plan b->cache. Nothing in them is clamped: the operand layer does
 * that for every index of a cache tensor (operands.c), so that no table entry and no length reads
 * out of bounds.
 *
 * A *token* is numbered as it was appended: for `dense` and `paged` its rank among the kept ones,
 * for `ring` among all that the sequence ever had. A *key* j is what the formulas of a kernel count
 * (docs/caches.md): positions of `original`, ranks of `slot` and `stored`.
 *
 * Private to compiler/build, as build.h.
 */
#ifndef ATTN_COMPILER_BUILD_ACCESS_H
#define ATTN_COMPILER_BUILD_ACCESS_H

#include "compiler/build/build.h"

/* INT: element of the plan's tensor n. */
const struct expr *access_read(struct build *b, uint32_t n, const struct expr *const *indices);

/* The leading indices of plan tensor n for a token (both INT) of a sequence: two of tensors with a
 * slot dimension, where tokens that share a scale share an index; [sequence, token % R] of
 * `recent`; none of a calibrated scale [G, D']. Returns how many. */
uint32_t access_slot(struct build *b, uint32_t n, const struct expr *sequence,
                     const struct expr *token, const struct expr **indices);

/* The token of a key. */
const struct expr *access_token(struct build *b, const struct expr *sequence,
                                const struct expr *key);

/* INT: keys that kernels walk over in that sequence: `lengths` as far as the launch and the tables
 * go, or what a ring keeps of them. */
const struct expr *access_length(struct build *b, const struct expr *sequence);

/* INT: where `recent` of K or V begins: tokens from there on have not left the residual. For
 * `total` tokens that the sequence has. */
const struct expr *access_recent_from(struct build *b, uint32_t source, const struct expr *total);
/* INT over b: keys from here on are in the residual of K, of V or of both; NULL: there is none. In
 * tiles of keys that lie before it (b->before_recent) reads of key j find no residual. */
const struct expr *access_recent_keys(struct build *b);
/* INT: all tokens that the sequence has: `seen` of a ring with stored positions, else `lengths`. */
const struct expr *access_total(struct build *b, const struct expr *sequence);

/* Whether a READ of that tensor (EXPR_TENSOR_K, V or an input) means the cache's. */
bool access_is_cached(const struct build *b, uint32_t tensor);
/* What such a READ is: its element for dense data; code * scale + zero; by position of the
 * residual, by channel of the rest. */
const struct expr *access_element(struct build *b, const struct expr *read);

/* The parts of one. Of K and V the channel may lie among those with codes or those without; where
 * it is known only one side is to be taken. */
struct access_parts {
  const struct expr *data;    /* the code, or the element, as it is stored */
  const struct expr *scale;   /* FLOAT, NULL where not quantised */
  const struct expr *codes;   /* `data` dequantised */
  const struct expr *recent;  /* its value in the residual; NULL: it is not there */
  const struct expr *from;    /* with `recent`: keys from here on are recent; INT over b */
  const struct expr *key;     /* with `recent`: the key */
  const struct expr *rest;    /* its value among channels without codes; NULL: there are none */
  const struct expr *channel; /* of K and V */
  uint32_t channels;          /* that have codes */
};
void access_parts(struct build *b, const struct expr *read, struct access_parts *parts);
/* The value of a channel that has codes: `codes` or `recent` by position. */
const struct expr *access_before_rest(struct build *b, const struct access_parts *parts);

/* How an index runs along a tile of keys: as tiles do that begin at a multiple of b->columns. */
enum access_along { ACCESS_SAME, ACCESS_ONE_BY_ONE, ACCESS_ANY };
enum access_along access_along(const struct build *b, const struct expr *index);

#endif
