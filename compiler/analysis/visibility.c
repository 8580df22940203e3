#include "compiler/analysis/visibility.h"

#include "compiler/analysis/visibility_segments.h"

struct analysis {
  struct range_table ranges;
  const struct spec *spec;
  struct expr_pool *pool;
};

/* Some row of the tile, or every one, has a position that is not negative. */
static const struct expr *rows_begin(struct analysis *a)
{
  return range_le(&a->ranges, expr_long(a->pool, 0), expr_variable(a->pool, EXPR_VAR_TILE_I1));
}

static const struct expr *all_rows_begin(struct analysis *a)
{
  return range_le(&a->ranges, expr_long(a->pool, 0), expr_variable(a->pool, EXPR_VAR_TILE_I0));
}

static const struct expr *key_exists(struct analysis *a, enum expr_var position)
{
  const struct expr *keys = range_long(&a->ranges, expr_variable(a->pool, EXPR_VAR_SIZE_NK));
  return range_lt(&a->ranges, expr_variable(a->pool, position), keys);
}

static void walk_build(struct analysis *a, struct visibility_walk *walk, enum expr_var axis)
{
  struct range_table *t = &a->ranges;
  struct interval_scope scope;
  const struct expr *may;
  const struct expr *must;
  if (axis == EXPR_VAR_J) {
    interval_scope_keys(&scope, t);
    walk->origin = expr_long(a->pool, 0);
    walk->first = scope.j_lo;
    walk->end = range_long(t, expr_variable(a->pool, EXPR_VAR_SIZE_NK));
    may = rows_begin(a);
    must = all_rows_begin(a);
  } else {
    interval_scope_rows(&scope, t);
    bool from_start = a->spec->align == ALIGN_START;
    const struct expr *offset = range_long(t, expr_variable(a->pool, EXPR_VAR_OFFSET));
    walk->origin = from_start ? expr_long(a->pool, 0) : offset;
    walk->first = scope.i_lo;
    walk->end = range_add(t, walk->origin, range_long(t, expr_variable(a->pool, EXPR_VAR_SIZE_NQ)));
    may = key_exists(a, EXPR_VAR_TILE_J0);
    must = key_exists(a, EXPR_VAR_TILE_J1);
  }
  struct segment_set set = segments_solve(&scope, axis, a->spec->mask, &walk->tested);
  for (uint32_t n = 0; n < set.count; n++) {
    const struct visibility_segment *from = &set.items[n];
    const struct expr *may_hi = range_min(t, from->may_hi, walk->end);
    const struct expr *must_hi = range_min(t, from->must_hi, walk->end);
    const struct expr *may_lo = range_max(t, from->may_lo, walk->first);
    const struct expr *must_lo = range_max(t, from->must_lo, walk->first);
    if (from->must_lo == from->must_hi) { /* never anything: no condition needed */
      must_lo = must_hi = walk->first;
    }
    walk->segments[n] =
        (struct visibility_segment){.may_lo = may_lo,
                                    .may_hi = range_select(t, may, may_hi, may_lo),
                                    .must_lo = must_lo,
                                    .must_hi = range_select(t, must, must_hi, must_lo)};
  }
  walk->segment_count = set.count;
}

/* Which tensors the program takes minima and maxima of. */
struct collector {
  struct arena *arena;
  struct visibility *visibility;
  VECTOR(bool) seen; /* by node id */
  VECTOR(const struct expr *) pending;
};

static void collect_from(struct collector *c, const struct expr *root)
{
  vector_push(c->arena, &c->pending, root);
  while (c->pending.count > 0) {
    const struct expr *e = c->pending.items[--c->pending.count];
    if (c->seen.items[e->id]) {
      continue;
    }
    c->seen.items[e->id] = true;
    for (uint32_t n = 0; n < e->arg_count; n++) {
      vector_push(c->arena, &c->pending, e->args[n]);
    }
    if (e->op != EXPR_RANGE_MIN && e->op != EXPR_RANGE_MAX) {
      continue;
    }
    struct visibility *v = c->visibility;
    struct visibility_summary summary = {(uint32_t)e->value.i, e->arg_count - 2};
    uint32_t n = 0;
    while (n < v->summary_count && v->summaries[n].tensor != summary.tensor) {
      n++;
    }
    if (n == v->summary_count) {
      v->summaries[v->summary_count++] = summary;
    }
  }
}

static void collect_from_walk(struct collector *c, const struct visibility_walk *walk)
{
  for (uint32_t n = 0; n < walk->segment_count; n++) {
    collect_from(c, walk->segments[n].may_lo);
    collect_from(c, walk->segments[n].may_hi);
    collect_from(c, walk->segments[n].must_lo);
    collect_from(c, walk->segments[n].must_hi);
  }
}

struct visibility *visibility_analyze(struct arena *arena, const struct spec *spec)
{
  struct visibility *v = ARENA_NEW(arena, struct visibility);
  struct analysis a = {.spec = spec, .pool = spec->pool};
  range_table_init(&a.ranges, arena, spec);
  v->pool = spec->pool;
  v->full = expr_is_true(spec->mask);

  struct interval_scope tile;
  interval_scope_tile(&tile, &a.ranges);
  const struct interval *mask = interval_of(&tile, spec->mask);
  const struct expr *may = expr_and(a.pool, rows_begin(&a), key_exists(&a, EXPR_VAR_TILE_J0));
  const struct expr *must = expr_and(a.pool, all_rows_begin(&a), key_exists(&a, EXPR_VAR_TILE_J1));
  v->may = expr_and(a.pool, may, mask->hi);
  v->must = expr_and(a.pool, must, mask->lo);
  walk_build(&a, &v->keys, EXPR_VAR_J);
  walk_build(&a, &v->rows, EXPR_VAR_I);

  struct collector collector = {.arena = arena, .visibility = v};
  while (collector.seen.count < a.pool->nodes.count) {
    vector_push(arena, &collector.seen, false);
  }
  collect_from(&collector, v->may);
  collect_from(&collector, v->must);
  collect_from_walk(&collector, &v->keys);
  collect_from_walk(&collector, &v->rows);
  return v;
}
