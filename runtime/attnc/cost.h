/* What an attention costs: operations, bytes moved, bytes of its K/V cache. Of the spec, not of one
 * kernel: counted from heads, channels and types.
 */
#ifndef ATTN_RUNTIME_ATTNC_COST_H
#define ATTN_RUNTIME_ATTNC_COST_H

#include "runtime/attnc/tiles.h"

/* Floating-point operations of one query-key pair of one head: 2 D for each map's product of q and
 * k, 2 DV for the weighted sum of values. Softmax and masks are not counted. */
double cost_pair_flops(const struct spec *spec);

struct cost {
  double flops, dense_flops; /* over the computed pairs, over all pairs */
  /* Every tensor that the call reads or writes, once. Inputs as declared. */
  double tensor_bytes;
  /* What tiles read and write: q and o once, K and V once for each tile that is not skipped. Of
   * this caches serve a part. */
  double tile_bytes, dense_tile_bytes;
};
/* `share`: query heads that a tile packs, which read K and V together. False when out of memory or
 * after a complaint about an input's shape. */
bool cost_of_call(const struct workload *workload, const struct tile_counts *counts,
                  const struct tile_size *size, uint32_t share, struct cost *cost);

/* Bytes that one token keeps in the cache of one layer, as its plan has it (compiler/cache/plan.h):
 * scales included, a latent that is key and value at once counted once. `type` stands for the
 * spec's own. */
double cost_token_bytes(const struct spec *spec, enum dtype type);
/* Bytes that a sequence of `tokens` keeps in one layer: whole pages, at most what a ring holds, and
 * the residual. */
double cost_context_bytes(const struct spec *spec, enum dtype type, uint64_t tokens);

#endif
