/* The visibility program of a mask: which keys the rows of a tile see, without looking at pairs.
 *
 * It is made once per spec, from the mask by interval analysis (interval.h), and consists of
 * expressions that a kernel (or the host) evaluates once per tile. There are two levels.
 *
 * Segments: for a tile of rows [TILE_I0, TILE_I1], at most eight ranges of keys in closed form
 * (`keys`); for a tile of keys [TILE_J0, TILE_J1], ranges of rows (`rows`). Every visible pair of
 * the tile lies in the union of the `may` ranges; every pair of a `must` range is visible.
 *
 * Tile test: BOOL expressions over one tile [TILE_I0, TILE_I1] x [TILE_J0, TILE_J1]. `may` false
 * means that no pair is visible (EMPTY), `must` true that all are (FULL), anything else PARTIAL.
 * It is worth asking only where the segments do not say everything (`tested` of a walk).
 *
 * Both are sound for every mask, parameter, size and input: never EMPTY over a visible pair, never
 * FULL over a hidden one. The sequence's own bounds, 0 <= j < NK and i >= 0, are part of the mask
 * here. TILE_* are LONG and inclusive.
 *
 * Contract for a caller, in terms of positions (i = r + OFFSET):
 *
 * - TILE_I0 <= TILE_I1 are positions of rows that exist, so the last tile of rows is cut to the
 *   last row. They may be negative (align end with NQ > NK): such rows see nothing.
 *
 * - 0 <= TILE_J0 <= TILE_J1. TILE_J1 may lie beyond NK - 1; then the tile is not FULL. A walk over
 *   rows that never stores columns beyond NK - 1 passes TILE_J1 cut to NK - 1.
 *
 * - Set besides these what the expressions depend on: B, H, G, the sizes, OFFSET (NK - NQ or 0
 *   where the spec's alignment says so), parameters, and a reader for READ and RANGE_*. Every READ
 *   is guarded by a condition, unless the kinds of its dimensions prove it in range.
 */
#ifndef ATTN_COMPILER_ANALYSIS_VISIBILITY_H
#define ATTN_COMPILER_ANALYSIS_VISIBILITY_H

#include "dsl/expr_eval.h"
#include "dsl/spec.h"

enum { VISIBILITY_MAX_SEGMENTS = 8 };

/* Elements of the ranged dimension that one entry of a precomputed summary covers. */
enum { VISIBILITY_SUMMARY_BLOCK = 64 };

enum visibility_class { VISIBILITY_EMPTY, VISIBILITY_PARTIAL, VISIBILITY_FULL };

/* Half-open ranges of positions, LONG, inside [first, end) of the walk; in no order, and lo >= hi
 * is an empty range. */
struct visibility_segment {
  const struct expr *may_lo, *may_hi;
  const struct expr *must_lo, *must_hi;
};

struct visibility_walk {
  /* No more than VISIBILITY_MAX_SEGMENTS; 0 when nothing can ever be visible. */
  uint32_t segment_count;
  struct visibility_segment segments[VISIBILITY_MAX_SEGMENTS];
  /* What it covers at most, LONG, half-open: keys [0, NK); rows [max(OFFSET, 0), OFFSET + NQ). */
  const struct expr *first, *end;
  /* Where tile 0 begins, LONG: 0 for keys; OFFSET for rows, whose tiles are tiles of r. */
  const struct expr *origin;
  /* Some part of the mask has no closed form: tiles of PARTIAL runs are worth the tile test. */
  bool tested;
};

/* A tensor that RANGE_MIN and RANGE_MAX nodes use. The ranged dimension is always the last one. A
 * runtime that keeps minima and maxima of each VISIBILITY_SUMMARY_BLOCK elements evaluates a range
 * in time of range / block + 2 * block. */
struct visibility_summary {
  uint32_t tensor; /* EXPR_TENSOR_INPUT + index */
  uint32_t dim;
};

struct visibility {
  struct expr_pool *pool;
  const struct expr *may, *must; /* the tile test */
  struct visibility_walk keys;   /* j, given TILE_I0 and TILE_I1 */
  struct visibility_walk rows;   /* i, given TILE_J0 and TILE_J1 */
  struct visibility_summary summaries[SPEC_MAX_INPUTS];
  uint32_t summary_count;
  bool full; /* the mask is true: only the sequence's own bounds hide pairs */
};

/* In the arena and the pool of the spec; never fails. Runs inside the arena's guard. */
struct visibility *visibility_analyze(struct arena *arena, const struct spec *spec);

/* Walking the segments in tiles of `step` positions, as expressions, so that kernels and the host
 * share the logic. Tile t covers positions origin + t * step to origin + (t + 1) * step - 1. The
 * result is a sequence of disjoint ascending runs of tiles of one class each.
 *
 * 1. Once per tile of the other side evaluate `slots` (LONG, no ARG in them) and keep the values:
 *    slots[n] is operand expr_arg(1 + n). expr_arg(0) is the cursor, the next tile that was not
 *    visited, at first 0.
 *
 * 2. Evaluate `start`. If it is not below `limit` the walk has ended.
 *
 * 3. Evaluate `full` and `end` with the same cursor; they contain `start`. Visit the tiles from
 *    `start` up to, not including, `end`: FULL if `full`, otherwise PARTIAL (test each when the
 *    walk is `tested`). end > start always.
 *
 * 4. The cursor becomes `end`; go to 2.
 *
 * In words, with positions counted from `origin`, and the may ranges rounded outwards to tiles (an
 * empty one to nothing):
 *
 * - start: the smallest tile >= cursor in a may range.
 *
 * - cover: start * step; then, as long as some must range has lo <= cover < hi, that hi.
 *
 * - full: floor(cover / step) > start, and then end is floor(cover / step).
 *
 * - end otherwise: the furthest end of a may range that holds `start`, but not beyond the first
 *   tile > start at which a must range may begin to fill tiles, ceil(lo / step).
 *
 * These are the tiles that sorting the rounded may ranges and merging the overlapping ones gives,
 * each once; a tile that only several must ranges together fill is still found to be FULL. Two
 * runs of one class may be adjacent. There are at most 4 * segment_count runs.
 */
struct visibility_runs {
  uint32_t slot_count; /* four a segment */
  const struct expr *slots[4 * VISIBILITY_MAX_SEGMENTS];
  const struct expr *start, *end; /* LONG, in tiles */
  const struct expr *full;        /* BOOL */
  int64_t limit;                  /* start at the end of the walk is this or more */
};
void visibility_runs_build(struct expr_pool *pool, const struct visibility_walk *walk, int64_t step,
                           struct visibility_runs *runs);

/* The same on the host. */
struct visibility_run {
  int64_t lo, hi; /* positions, half-open, cut to the walk's range */
  enum visibility_class class;
};
enum { VISIBILITY_MAX_RUNS = 4 * VISIBILITY_MAX_SEGMENTS };

/* Evaluates the runs for the tile that is set in the evaluator (TILE_I* for keys, TILE_J* for
 * rows). Returns their number; they are ordered and disjoint, and each starts and ends at a tile's
 * edge (`step` is that of `runs`) or at the walk's own bounds. Sets the evaluator's ARGs. */
size_t visibility_segments(struct expr_evaluator *evaluator, const struct visibility_walk *walk,
                           const struct visibility_runs *runs, int64_t step,
                           struct visibility_run out[VISIBILITY_MAX_RUNS]);

/* The class of the tile TILE_I0..TILE_J1 that is set in the evaluator: the tile test, sharpened by
 * the segments of `keys` and `rows`. This is the most that the analysis knows. */
enum visibility_class visibility_classify(struct expr_evaluator *evaluator,
                                          const struct visibility *visibility);

#endif
