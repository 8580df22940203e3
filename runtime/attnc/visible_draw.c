/* The visible set in the terminal. */
#include "runtime/attnc/visible.h"

enum {
  MAX_COLUMNS = 64,
  MAX_LINES = 32,
  CELL_DEPTH = 16 /* cells of up to a million pairs are exact */
};

/* 0 empty, 1 some, 2 all visible. */
static int cell_level(struct visible *counter, int64_t row, int64_t rows, int64_t column,
                      int64_t columns)
{
  int64_t r0 = visible_boundary(counter->queries, rows, row);
  int64_t r1 = visible_boundary(counter->queries, rows, row + 1);
  int64_t j0 = visible_boundary(counter->keys, columns, column);
  int64_t j1 = visible_boundary(counter->keys, columns, column + 1);
  bool sampled = false;
  double share = visible_share(counter, r0, r1, j0, j1, CELL_DEPTH, &sampled);
  return share == 0 ? 0 : share == 1 && !sampled ? 2 : 1;
}

/* A character for the cell above and the one below. There is no half of a shade: where either is
 * partly visible the whole character is shaded, more or less. */
static const char *glyph(int above, int below)
{
  if (above != 1 && below != 1)
    return above == 2 ? (below == 2 ? "█" : "▀") : below == 2 ? "▄" : "·";
  int sum = above + below;
  return sum == 1 ? "░" : sum == 2 ? "▒" : "▓";
}

static void draw(struct visible *counter, int64_t h, FILE *out)
{
  int64_t rows = counter->queries < 2 * MAX_LINES ? counter->queries : 2 * MAX_LINES;
  int64_t columns = counter->keys < MAX_COLUMNS ? counter->keys : MAX_COLUMNS;
  fprintf(out, "visible pairs of b = %lld, h = %lld: %lld queries down, %lld keys across\n",
          (long long)counter->b, (long long)h, (long long)counter->queries,
          (long long)counter->keys);
  if (rows == 0 || columns == 0) {
    fputs("  (there are no pairs)\n", out);
    return;
  }
  char last[24];
  int width = snprintf(last, sizeof(last), "%lld", (long long)counter->keys - 1);
  int gap = (int)columns - 1 - width;
  fprintf(out, "%9s0%*s%s\n", "j: ", gap > 1 ? gap : 1, "", counter->keys > 1 ? last : "");
  bool shaded = false;
  for (int64_t row = 0; row < rows; row += 2) {
    int64_t r = visible_boundary(counter->queries, rows, row);
    if (row % 8 == 0)
      fprintf(out, row == 0 ? "i: %4lld " : "%7lld ", (long long)r + counter->offset);
    else
      fprintf(out, "%8s", "");
    fputs("│", out);
    for (int64_t column = 0; column < columns; column++) {
      int above = cell_level(counter, row, rows, column, columns);
      int below = row + 1 < rows ? cell_level(counter, row + 1, rows, column, columns) : 0;
      shaded |= above == 1 || below == 1;
      fputs(glyph(above, below), out);
    }
    fputs("│\n", out);
  }
  fprintf(out, "%7s  █ ▀ ▄ visible   · hidden%s\n", "", shaded ? "   ░ ▒ ▓ partly visible" : "");
}

struct drawing {
  int64_t b, h;
  FILE *out;
};

static void draw_one(struct visible *counter, void *data)
{
  const struct drawing *drawing = data;
  visible_enter(counter, drawing->b, drawing->h);
  draw(counter, drawing->h, drawing->out);
}

bool visible_draw(struct workload *workload, int64_t b, int64_t h, FILE *out)
{
  return visible_ask(workload, draw_one, &(struct drawing){b, h, out});
}
