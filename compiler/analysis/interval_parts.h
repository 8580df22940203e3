/* What the files of the interval analysis share; inside it only. */
#ifndef ATTN_COMPILER_ANALYSIS_INTERVAL_PARTS_H
#define ATTN_COMPILER_ANALYSIS_INTERVAL_PARTS_H

#include "compiler/analysis/interval.h"

/* Deeper formulas are unknown: bounds the recursion. */
enum { INTERVAL_MAX_HEIGHT = 4000 };

/* value = residue (mod stride); a stride of 0 is a constant, of 1 says nothing. Where arithmetic
 * may wrap, strides are cut to what they share with 2^32. */
struct congruence {
  int64_t stride, residue;
};
struct congruence linear_congruence(struct interval_scope *scope, const struct linear *linear);

/* The form is nothing but the node itself. */
bool linear_is_term(const struct linear *linear, const struct expr *e);

/* All that the type allows. */
struct interval interval_unknown(struct interval_scope *scope, const struct expr *e);

/* By type and operation; `e` varies over the tile or holds reads that need conditions. */
struct interval interval_of_read(struct interval_scope *scope, const struct expr *e);
struct interval interval_of_single(struct interval_scope *scope, const struct expr *e);
struct interval interval_of_truth(struct interval_scope *scope, const struct expr *e);
struct interval interval_of_binder(struct interval_scope *scope, const struct expr *e);
/* A BOOL as 0 or 1, LONG. */
struct interval interval_of_truth_as_int(struct interval_scope *scope, const struct expr *e);

/* Nothing below `e` can be read out of range, by the kinds of the dimensions alone. */
bool interval_reads_are_plain(const struct spec *spec, const struct expr *e);

#endif
