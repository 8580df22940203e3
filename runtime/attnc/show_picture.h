/* Masks and weights as a picture: panels with axes, a legend, the classes of tiles. */
#ifndef ATTN_RUNTIME_ATTNC_SHOW_PICTURE_H
#define ATTN_RUNTIME_ATTNC_SHOW_PICTURE_H

#include "runtime/attnc/picture.h"
#include "runtime/attnc/tiles.h"

/* One sequence and head. A cell stands for a range of queries and of keys. */
struct show_panel {
  int64_t b, h;
  int64_t queries, keys, offset;
  int64_t rows, columns; /* cells; 0 where there are no pairs */
  double *values;        /* rows * columns: shares of visible pairs, or weights; owned */
  uint8_t *classes;      /* of a mask: the visibility class that a cell belongs to; owned */
  struct tile_counts counts;
};

struct show_figure {
  const char *title, *subtitle;
  struct show_panel *panels;
  size_t count;
  int side; /* dots of a panel's longer side */
  bool weights;
  double limit;  /* the largest |weight| */
  bool negative; /* there are weights below 0 */
  struct tile_size tile;
  bool cells_are_tiles; /* tiles are smaller than cells, which are classified instead */
};

/* Dots of a panel's side for so many panels. */
int show_side(size_t panels);
/* Cells along an axis of `size` positions beside one of `other`. */
int64_t show_cells(int64_t size, int64_t other, int side);

/* The colour of a weight, and of a share of visible pairs in a cell of a class. */
struct color show_weight_color(const struct show_figure *figure, double weight);
struct color show_mask_color(enum visibility_class class, double share);

/* Makes the picture, which the caller frees. False when out of memory or too large. */
bool show_draw(struct picture *picture, const struct show_figure *figure);

#endif
