/* The tiles that a kernel walks for a call, and their classes: what is computed and what is
 * skipped.
 *
 * Classes are those of the segments, row tile by row tile, and of the tile test where the mask has
 * parts without a closed form, as kernels decide (compiler/analysis/visibility.h). Where that would
 * take long, evenly spread row tiles stand for all of them.
 */
#ifndef ATTN_RUNTIME_ATTNC_TILES_H
#define ATTN_RUNTIME_ATTNC_TILES_H

#include "runtime/attnc/visible.h"

struct tile_size {
  int64_t rows;    /* queries of a tile, of one head */
  int64_t columns; /* keys of a tile */
};

/* Of all sequences and heads. Scaled up, and thus not whole, where `sampled`. */
struct tile_counts {
  double empty, partial, full;   /* tiles */
  double computed;               /* pairs in tiles that are not empty */
  double pairs;                  /* pairs in all tiles */
  uint64_t looked_at, row_tiles; /* row tiles: how many were looked at, of how many */
  bool sampled;
};

/* False when out of memory. */
bool tiles_count(struct workload *workload, const struct tile_size *size,
                 struct tile_counts *counts);

/* The same of the sequence and head that were entered. */
void tiles_count_entered(struct visible *visible, const struct tile_size *size,
                         struct tile_counts *counts);

/* The row tiles of the sequence that was entered. */
int64_t tiles_rows(const struct visible *visible, const struct tile_size *size);
int64_t tiles_columns(const struct visible *visible, const struct tile_size *size);

struct tiles {
  struct visible *visible;
  struct tile_size size;
  struct visibility_runs runs;
  uint64_t steps; /* row tiles walked and tile tests made */
};
void tiles_open(struct tiles *tiles, struct visible *visible, const struct tile_size *size);
/* Adds row tile t of the sequence that was entered to the counts. classes[n] becomes the class of
 * key tile n unless `classes` is NULL. */
void tiles_walk(struct tiles *tiles, int64_t t, struct tile_counts *counts, uint8_t *classes);

#endif
