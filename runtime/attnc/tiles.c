#include "runtime/attnc/tiles.h"

#include <string.h>

/* Row tiles and tile tests that take a fraction of a second; row tiles to learn what one takes. */
enum { MAX_STEPS = 1 << 16, PILOTS = 16 };

static int64_t parts(int64_t size, int64_t step)
{
  return size / step + (size % step != 0);
}

int64_t tiles_rows(const struct visible *visible, const struct tile_size *size)
{
  return parts(visible->queries, size->rows);
}

int64_t tiles_columns(const struct visible *visible, const struct tile_size *size)
{
  return parts(visible->keys, size->columns);
}

void tiles_open(struct tiles *tiles, struct visible *visible, const struct tile_size *size)
{
  *tiles = (struct tiles){.visible = visible, .size = *size};
  visibility_runs_build(visible->workload->spec->pool, &visible->visibility->keys, size->columns,
                        &tiles->runs);
}

static int64_t least(int64_t a, int64_t b)
{
  return a < b ? a : b;
}

/* Key tiles [n0, n1) of one class, of `rows` rows. */
static void add(struct tiles *tiles, enum visibility_class class, int64_t rows, int64_t n0,
                int64_t n1, struct tile_counts *counts, uint8_t *classes)
{
  double count = (double)(n1 - n0);
  int64_t step = tiles->size.columns;
  counts->computed += (double)rows * (double)(least(n1 * step, tiles->visible->keys) - n0 * step);
  if (class == VISIBILITY_FULL)
    counts->full += count;
  else
    counts->partial += count;
  counts->empty -= count;
  for (int64_t n = n0; n < n1 && classes != NULL; n++)
    classes[n] = (uint8_t) class;
}

static void set_tile(struct tiles *tiles, int64_t r0, int64_t r1)
{
  struct visible *visible = tiles->visible;
  expr_set_int(visible->evaluator, EXPR_VAR_TILE_I0, r0 + visible->offset);
  expr_set_int(visible->evaluator, EXPR_VAR_TILE_I1, r1 - 1 + visible->offset);
}

void tiles_walk(struct tiles *tiles, int64_t t, struct tile_counts *counts, uint8_t *classes)
{
  struct visible *visible = tiles->visible;
  const struct visibility *visibility = visible->visibility;
  struct visibility_run runs[VISIBILITY_MAX_RUNS];
  int64_t r0 = t * tiles->size.rows;
  int64_t r1 = least(r0 + tiles->size.rows, visible->queries);
  int64_t step = tiles->size.columns;
  int64_t columns = tiles_columns(visible, &tiles->size);
  if (classes != NULL)
    memset(classes, VISIBILITY_EMPTY, (size_t)columns);
  counts->empty += (double)columns; /* and less by those that are not */
  counts->pairs += (double)(r1 - r0) * (double)visible->keys;
  set_tile(tiles, r0, r1);
  tiles->steps++;
  size_t count =
      visibility_segments(visible->evaluator, &visibility->keys, &tiles->runs, step, runs);
  for (size_t k = 0; k < count; k++) {
    int64_t n0 = runs[k].lo / step, n1 = parts(runs[k].hi, step);
    if (runs[k].lo >= runs[k].hi)
      continue;
    if (!visibility->keys.tested || runs[k].class == VISIBILITY_FULL) {
      add(tiles, runs[k].class, r1 - r0, n0, n1, counts, classes);
      continue;
    }
    for (int64_t n = n0; n < n1; n++) {
      int64_t end = least((n + 1) * step, visible->keys);
      tiles->steps++;
      expr_set_int(visible->evaluator, EXPR_VAR_TILE_J0, n * step);
      expr_set_int(visible->evaluator, EXPR_VAR_TILE_J1, end - 1);
      bool may = expr_evaluate(visible->evaluator, visibility->may).i != 0;
      bool must = may && end == (n + 1) * step &&
                  expr_evaluate(visible->evaluator, visibility->must).i != 0;
      if (may)
        add(tiles, must ? VISIBILITY_FULL : VISIBILITY_PARTIAL, r1 - r0, n, n + 1, counts, classes);
    }
  }
}

static void scale(struct tile_counts *counts, double factor)
{
  counts->empty *= factor;
  counts->partial *= factor;
  counts->full *= factor;
  counts->computed *= factor;
  counts->pairs *= factor;
}

static void accumulate(struct tile_counts *total, const struct tile_counts *part)
{
  total->empty += part->empty;
  total->partial += part->partial;
  total->full += part->full;
  total->computed += part->computed;
  total->pairs += part->pairs;
  total->looked_at += part->looked_at;
  total->row_tiles += part->row_tiles;
  total->sampled |= part->sampled;
}

/* `count` of all row tiles, evenly spread. */
static struct tile_counts walk_some(struct tiles *tiles, int64_t rows, int64_t count)
{
  struct tile_counts counts = {0};
  for (int64_t n = 0; n < count; n++) {
    int64_t first = visible_boundary(rows, count, n);
    int64_t end = visible_boundary(rows, count, n + 1);
    tiles_walk(tiles, first + (end - first) / 2, &counts, NULL);
  }
  return counts;
}

/* Of the sequence and head that were entered, in about `steps` steps. */
static struct tile_counts count_one(struct tiles *tiles, int64_t steps)
{
  int64_t rows = tiles_rows(tiles->visible, &tiles->size);
  int64_t looked_at = least(rows, steps + 1);
  if (tiles->visible->visibility->keys.tested) {
    int64_t columns = tiles_columns(tiles->visible, &tiles->size);
    int64_t pilots = least(rows, least(PILOTS, steps / (columns + 1) + 1));
    tiles->steps = 0;
    walk_some(tiles, rows, pilots);
    looked_at = least(rows, 1 + steps * pilots / ((int64_t)tiles->steps + 1));
  }
  struct tile_counts counts = walk_some(tiles, rows, looked_at);
  double walked = counts.pairs;
  double all = (double)tiles->visible->queries * (double)tiles->visible->keys;
  if (looked_at < rows && walked > 0)
    scale(&counts, all / walked);
  counts.looked_at = (uint64_t)looked_at;
  counts.row_tiles = (uint64_t)rows;
  counts.sampled = looked_at < rows;
  return counts;
}

void tiles_count_entered(struct visible *visible, const struct tile_size *size,
                         struct tile_counts *counts)
{
  struct tiles tiles;
  tiles_open(&tiles, visible, size);
  *counts = count_one(&tiles, MAX_STEPS);
}

struct tiles_question {
  const struct tile_size *size;
  struct tile_counts *counts;
};

static void count_all(struct visible *visible, void *data)
{
  const struct tiles_question *question = data;
  const struct workload *workload = visible->workload;
  struct tiles tiles;
  tiles_open(&tiles, visible, question->size);
  int64_t heads = visible_by_head(workload->spec) ? workload->spec->query_heads : 1;
  int64_t sequences = visible_by_sequence(workload) ? workload->batch : workload->batch > 0;
  for (int64_t b = 0; b < sequences; b++) {
    for (int64_t h = 0; h < heads; h++) {
      visible_enter(visible, b, h);
      struct tile_counts one = count_one(&tiles, MAX_STEPS / (sequences * heads));
      accumulate(question->counts, &one);
    }
  }
  if (sequences > 0)
    scale(question->counts,
          (double)(workload->spec->query_heads / heads) * (double)(workload->batch / sequences));
}

bool tiles_count(struct workload *workload, const struct tile_size *size,
                 struct tile_counts *counts)
{
  *counts = (struct tile_counts){0};
  return visible_ask(workload, count_all, &(struct tiles_question){size, counts});
}
