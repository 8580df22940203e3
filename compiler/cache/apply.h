/* A spec as kernels on its cache need it: positions as the cache numbers them. docs/caches.md,
 * "Where position j is". */
#ifndef ATTN_COMPILER_CACHE_APPLY_H
#define ATTN_COMPILER_CACHE_APPLY_H

#include "dsl/spec.h"

struct cache_spec {
  const struct spec *spec; /* a copy in the same pool, or the spec itself where nothing differs */
  /* Inputs from here on are not the launch's: `positions` i32 [B, NK], cached, each kept key's own,
   * and `seen` i32 [B]. The spec's own count where there are none. */
  uint32_t added_inputs;
};

/* Keys are numbered 0 <= j < NK, by position or by rank (access.h); NK is how many there are of
 * that numbering: for a ring with original positions the length, of which its mask leaves what is
 * kept. A spec has at most SPEC_MAX_INPUTS - 2 inputs where positions are stored. */
struct cache_spec cache_apply(struct arena *arena, const struct spec *spec);

#endif
