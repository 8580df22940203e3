/* Symbolic intervals: what values an expression can take for the pairs (i, j) of a tile, as
 * expressions over the tile's bounds (interval arithmetic as in Moore 1966, with bounds that are
 * formulas).
 *
 * INT arithmetic of a spec wraps at 32 bits. Bounds are computed in LONG and hold only where the
 * ideal result is an INT; where that is not certain for every parameter, the bounds select at run
 * time between the ideal ones and the whole of INT.
 *
 * Reads: an index that is the same for the whole tile gives the element itself; a last index that
 * varies over a range of the tile's size gives RANGE_MIN and RANGE_MAX over it; anything else is
 * unknown. What the analysis reads is guarded by conditions of its own, so that evaluating a bound
 * never reads out of range.
 */
#ifndef ATTN_COMPILER_ANALYSIS_INTERVAL_H
#define ATTN_COMPILER_ANALYSIS_INTERVAL_H

#include "compiler/analysis/range.h"

/* INT: lo and hi are LONG. SINGLE and FLOAT: of that type; a NaN in either says that nothing is
 * known, and a value that may be NaN always has one. BOOL: lo is true where the value is certainly
 * true ("must"), hi is false where it is certainly false ("may"); false < true. */
struct interval {
  const struct expr *lo, *hi;
  /* INT: BOOL, the node's own operation does not wrap for any pair. True for other types. */
  const struct expr *exact;
};

/* An INT as coef_i * i + coef_j * j + sum of coef * node + constant in ideal arithmetic, where
 * `exact` holds. Nodes are INT expressions that have no such form themselves, distinct.
 * Coefficients are small enough for bounds in LONG. */
enum { LINEAR_MAX_TERMS = 6 };
struct linear {
  int64_t coef_i, coef_j, constant;
  uint32_t count;
  struct {
    int64_t coef;
    const struct expr *node;
  } terms[LINEAR_MAX_TERMS];
  const struct expr *exact; /* BOOL */
};

/* The tile: i in [i_lo, i_hi], j in [j_lo, j_hi], LONG. A side that is `wide` spans the whole
 * sequence: reads that depend on it are unknown rather than ranged over. */
struct interval_scope {
  struct range_table *ranges;
  const struct expr *i_lo, *i_hi, *j_lo, *j_hi;
  bool i_wide, j_wide;
  VECTOR(const struct interval *) intervals; /* by node id; memory of interval_of */
  VECTOR(const struct linear *) linears;
};

/* The tile of TILE_I0 .. TILE_J1, cut to i >= 0 and j < NK: what lies beyond is invisible, and the
 * caller adds that. */
void interval_scope_tile(struct interval_scope *scope, struct range_table *ranges);
/* The rows of a tile and every key; the keys of a tile and every row. */
void interval_scope_keys(struct interval_scope *scope, struct range_table *ranges);
void interval_scope_rows(struct interval_scope *scope, struct range_table *ranges);

/* Of any node of a mask or an index; results live in the scope's arena. */
const struct interval *interval_of(struct interval_scope *scope, const struct expr *e);

/* The linear form of an INT; a single term where it has none. */
const struct linear *interval_linear(struct interval_scope *scope, const struct expr *e);
/* a * x + b * y; false when the result has too many terms or too large coefficients. */
bool linear_combine(struct interval_scope *scope, const struct linear *x, int64_t a,
                    const struct linear *y, int64_t b, struct linear *result);
/* Bounds of the ideal value, LONG; not to be used where `exact` does not hold. */
void linear_bounds(struct interval_scope *scope, const struct linear *linear,
                   const struct expr **lo, const struct expr **hi);

/* Whether the value can differ between two pairs of a tile. */
static inline bool interval_varies(const struct expr *e)
{
  return expr_depends(e, EXPR_VAR_I) || expr_depends(e, EXPR_VAR_J) || expr_depends(e, EXPR_VAR_R);
}

#endif
