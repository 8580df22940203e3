/* Constant bounds of integer expressions, and constructors that use them.
 *
 * The analyses make many LONG expressions of which most minima, maxima and comparisons are decided
 * by what sizes, positions and heads can be. These constructors leave such operations out, so that
 * what is left to evaluate per tile is small. They do not look for wrapping: the analyses keep
 * LONG values below 2^63 by what they add and multiply.
 */
#ifndef ATTN_COMPILER_ANALYSIS_RANGE_H
#define ATTN_COMPILER_ANALYSIS_RANGE_H

#include "dsl/spec.h"

#define RANGE_FAR (INT64_C(1) << 40) /* beyond every position */

struct range {
  int64_t min, max; /* both inclusive */
};

/* Memory of the ranges of one pool's nodes; in its arena. */
struct range_table {
  struct arena *arena;
  struct expr_pool *pool;
  const struct spec *spec;
  int64_t first_row;           /* the least value of EXPR_VAR_I; INT32_MIN after range_table_init */
  VECTOR(struct range) ranges; /* by id */
  VECTOR(bool) known;
};

void range_table_init(struct range_table *table, struct arena *arena, const struct spec *spec);

/* Bounds of a BOOL, INT or LONG node, whatever parameters and inputs hold. Assumes sizes in
 * [0, 2^31), TILE_J0 >= 0, and that positions are INTs; TILE_J1 may lie beyond. */
struct range range_of(struct range_table *table, const struct expr *e);

const struct expr *range_long(struct range_table *table,
                              const struct expr *e); /* BOOL or INT to LONG */
const struct expr *range_add(struct range_table *table, const struct expr *a, const struct expr *b);
const struct expr *range_sub(struct range_table *table, const struct expr *a, const struct expr *b);
const struct expr *range_scale(struct range_table *table, const struct expr *a, int64_t factor);
const struct expr *range_min(struct range_table *table, const struct expr *a, const struct expr *b);
const struct expr *range_max(struct range_table *table, const struct expr *a, const struct expr *b);
/* divisor > 0 */
const struct expr *range_floordiv(struct range_table *table, const struct expr *a, int64_t divisor);
const struct expr *range_ceildiv(struct range_table *table, const struct expr *a, int64_t divisor);
const struct expr *range_lt(struct range_table *table, const struct expr *a, const struct expr *b);
const struct expr *range_le(struct range_table *table, const struct expr *a, const struct expr *b);
const struct expr *range_eq(struct range_table *table, const struct expr *a, const struct expr *b);
/* of any type; folds a constant condition and equal branches */
const struct expr *range_select(struct range_table *table, const struct expr *condition,
                                const struct expr *yes, const struct expr *no);
/* [lo, hi] holds values of type INT only */
const struct expr *range_is_int(struct range_table *table, const struct expr *lo,
                                const struct expr *hi);

/* A dimension's size, counted with the NQ and NK of the sequence at hand, is at most what the
 * tensor has. In a ragged batch tensors have the sizes of the longest sequence. */
bool range_size_is_there(const struct spec *spec, const struct expr *size);

int64_t range_floor(int64_t a, int64_t b); /* floor(a / b), b > 0 */

#endif
