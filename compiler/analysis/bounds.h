/* Which indices of a spec's reads are proved in range, and which need a guard.
 *
 * A proof may use the kind of a dimension (b indexes B, r indexes NQ, ...), constants, clamp(x, lo,
 * hi), x % n, the extent of a binder, and what the mask's own conjuncts say about i and j: formulas
 * other than the mask are evaluated for visible pairs only (language.md). Sizes that a launch gives
 * are checked by the runtime against the dimensions, and may be taken as they stand in the spec.
 */
#ifndef ATTN_COMPILER_ANALYSIS_BOUNDS_H
#define ATTN_COMPILER_ANALYSIS_BOUNDS_H

#include "dsl/spec.h"

/* Where a formula is evaluated, which decides what a proof may assume of i and j. */
enum bounds_place {
  BOUNDS_MASK, /* for every row and key: 0 <= r < NQ, 0 <= j < NK, i >= 0 */
  BOUNDS_PAIR, /* visible pairs only: score, weight, value */
  BOUNDS_ROW,  /* once per row, i may be negative: sink, at_least, post, rotation of q */
  BOUNDS_KEY   /* once per key: rotation of k */
};

struct bounds;

/* Lives in the arena; analyses on demand. Runs inside the arena's guard. */
struct bounds *bounds_new(struct arena *arena, const struct spec *spec);

/* Bit n of the result is set when index n of this READ is in [0, size of dimension n) wherever the
 * read is reached at that place. A read of q, k, v or o by its own variables is proved too. */
uint32_t bounds_proved(struct bounds *bounds, const struct expr *read, enum bounds_place place);

/* Whether index n needs a guard. */
static inline bool bounds_needs_guard(struct bounds *bounds, const struct expr *read,
                                      uint32_t index, enum bounds_place place)
{
  return (bounds_proved(bounds, read, place) >> index & 1) == 0;
}

/* Every READ of the spec with an index that needs a guard, each once a place, ordered by node id:
 * what `explain` lists and the kernel's fault table is made from. */
struct bounds_guard {
  const struct expr *read;
  enum bounds_place place;
  uint32_t proved; /* as bounds_proved */
};
size_t bounds_guards(struct bounds *bounds, const struct bounds_guard **guards);

#endif
