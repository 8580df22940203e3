/* Results of a launch against the reference, by the error rule of reference.h over each (b, h), for
 * o and every output; for mass over each b. What is allowed follows from the naive evaluation's
 * largest error in a slice: few numbers may be right by luck.
 */
#ifndef ATTN_RUNTIME_ATTNC_COMPARE_H
#define ATTN_RUNTIME_ATTNC_COMPARE_H

#include "runtime/attnc/workload.h"

struct comparison {
  bool ok;
  double worst_ratio; /* largest error / bound of a slice; infinite where it must be exact and is
                         not */
  double max_error;   /* of o, over everything compared */
  double bound;       /* of o, in the slice with the largest error / bound */
  int64_t near_ties;  /* rows left out */
  int64_t nans;       /* elements that are NaN by the reference too */
  /* What ref_run found; `fault` raised: nothing was compared. */
  uint64_t visible, pairs;
  struct expr_fault fault;
  /* The element that is furthest off in the worst slice. */
  char where[128]; /* "o[0, 3, 17, 5]", in b, h, r, c; empty when nothing was compared */
  double out, ref;
};

/* Runs the reference, exactly and naively, over the first `heads` query heads and compares. False
 * when out of memory. */
bool compare_workload(struct workload *workload, uint32_t heads, struct comparison *comparison);
/* The same of few rows: the rule is over all heads of a sequence. */
bool compare_step(struct workload *workload, uint32_t heads, struct comparison *comparison);

#endif
