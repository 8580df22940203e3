/* How many pairs a call's mask lets through, and a picture of them for the terminal.
 *
 * Pairs are counted through the visibility analysis: a tile that is empty or full needs no look at
 * its pairs. A `select` narrows the set further and is not looked at.
 */
#ifndef ATTN_RUNTIME_ATTNC_VISIBLE_H
#define ATTN_RUNTIME_ATTNC_VISIBLE_H

#include "compiler/analysis/visibility.h"
#include "runtime/attnc/workload.h"

/* Visible pairs and pairs over all b and h. False when out of memory. */
bool visible_count(struct workload *workload, uint64_t *visible, uint64_t *pairs);

/* The same, exact up to a million pairs; beyond, from rows spread over each sequence, and *sampled
 * is set. */
bool visible_estimate(struct workload *workload, double *visible, double *pairs, bool *sampled);

/* Draws the visible set of sequence b and head h with at most 64 columns and 32 lines: queries
 * downwards, keys to the right, two cells a character. False when out of memory. */
bool visible_draw(struct workload *workload, int64_t b, int64_t h, FILE *out);

/* Whether the mask differs from head to head, and from sequence to sequence. */
bool visible_by_head(const struct spec *spec);
bool visible_by_sequence(const struct workload *workload);

/* For questions about parts of one sequence and head. Of the workload only the inputs that the mask
 * and the offset read need to be there. */
struct visible {
  struct workload *workload;
  struct expr_evaluator *evaluator;
  const struct visibility *visibility;
  int64_t b, queries, keys, offset; /* of the sequence that was entered */
};

/* In the arena, within its guard. `visible` must stay where it is. */
void visible_open(struct visible *visible, struct workload *workload, struct arena *arena);

/* Calls `ask` with an open one, in an arena of its own. False when out of memory. */
typedef void visible_question(struct visible *visible, void *data);
bool visible_ask(struct workload *workload, visible_question *ask, void *data);

void visible_enter(struct visible *visible, int64_t b, int64_t h);

/* Rows [r0, r1) and keys [j0, j1), which exist. */
uint64_t visible_pairs(struct visible *visible, int64_t r0, int64_t r1, int64_t j0, int64_t j1);
/* Of a part that is not empty. */
enum visibility_class visible_class(struct visible *visible, int64_t r0, int64_t r1, int64_t j0,
                                    int64_t j1);
/* The share of visible pairs, halving what is partly visible at most `depth` times; of what is left
 * then, a few pairs that are spread over it are looked at and *sampled is set. */
double visible_share(struct visible *visible, int64_t r0, int64_t r1, int64_t j0, int64_t j1,
                     unsigned depth, bool *sampled);

/* The boundary before part n of `parts` that share `size` positions. */
int64_t visible_boundary(int64_t size, int64_t parts, int64_t n);

#endif
