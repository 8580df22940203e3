/* The closed form of a mask along one axis: ranges of keys for a tile of rows, or of rows for a
 * tile of keys. Inside the visibility analysis only. */
#ifndef ATTN_COMPILER_ANALYSIS_VISIBILITY_SEGMENTS_H
#define ATTN_COMPILER_ANALYSIS_VISIBILITY_SEGMENTS_H

#include "compiler/analysis/interval.h"
#include "compiler/analysis/visibility.h"

/* A union of ranges. */
struct segment_set {
  uint32_t count;
  struct visibility_segment items[VISIBILITY_MAX_SEGMENTS];
};

/* Solves `mask` for `axis`, EXPR_VAR_J in a scope of keys or EXPR_VAR_I in one of rows. `tested` is
 * set when a part of the mask has no closed form or the ranges had to be joined. */
struct segment_set segments_solve(struct interval_scope *scope, enum expr_var axis,
                                  const struct expr *mask, bool *tested);

#endif
