/* The kernel that tells what is wrong with lengths and page tables that the host could not look at.
 * The others clamp what they read from them, so that nothing is wrong with memory; this one says
 * that a result is not what was asked for. The runtime names sequence and entry from the index that
 * a fault has: that of the sequence, or of a table's entry in row-major order.
 */
#include "compiler/build/check_cache.h"

#include "compiler/build/access.h"

enum { ENTRIES = 128 }; /* of a table that a task looks at */

static uint32_t site_of(struct build *b, enum cache_part part, uint32_t dim)
{
  struct tile_kernel *kernel = b->tile.kernel;
  int32_t n = cache_plan_find(b->cache, EXPR_TENSOR_K, part);
  struct tile_fault_site site = {EXPR_TENSOR_CACHE + (uint32_t)n, dim, b->spec->span};
  vector_push(b->arena, &kernel->sites, site);
  return (uint32_t)kernel->sites.count - 1;
}

static const struct expr *read_of(struct build *b, enum cache_part part)
{
  const struct expr *sequence = build_var(b, EXPR_VAR_B);
  int32_t n = cache_plan_find(b->cache, EXPR_TENSOR_K, part);
  return access_read(b, (uint32_t)n, &sequence);
}

static const struct expr *number(struct build *b, int64_t n)
{
  return expr_long(b->pool, n);
}

static const struct expr *at_most(struct build *b, const struct expr *x, const struct expr *y)
{
  return expr_binary(b->pool, EXPR_LE, x, y);
}

static const struct expr *launch_size(struct build *b, enum build_size size)
{
  return build_long(b, build_launch_size(b, size));
}

/* BOOL: the cache and the launch have room for a sequence of that length, LONG. */
static const struct expr *fits(struct build *b, const struct expr *length)
{
  const struct spec *spec = b->cache->spec;
  const int64_t ring = cache_ring_tokens(spec);
  const struct expr *keys = length, *ok = at_most(b, number(b, 0), length);
  switch (cache_layout(spec)) {
  case CACHE_PAGED: {
    const struct expr *table = launch_size(b, BUILD_TABLE);
    ok = expr_and(b->pool, ok,
                  at_most(b, length, expr_mul(b->pool, table, number(b, spec->cache.page))));
    break;
  }
  case CACHE_RING:
    if (spec->cache.positions == CACHE_POSITIONS_STORED)
      ok = expr_and(b->pool, ok, at_most(b, length, number(b, ring)));
    if (spec->cache.positions != CACHE_POSITIONS_ORIGINAL)
      keys = expr_binary(b->pool, EXPR_MIN, length, number(b, ring));
    break;
  case CACHE_NONE:
  case CACHE_RAGGED:
  case CACHE_DENSE: ok = expr_and(b->pool, ok, at_most(b, length, launch_size(b, BUILD_SLOTS)));
  }
  if (!b->reads_cache) /* new tokens are what the launch counts */
    return ok;
  return expr_and(b->pool, ok, at_most(b, keys, launch_size(b, BUILD_NK)));
}

static void check_sequence(struct build *b, const struct expr *ok, uint32_t site)
{
  struct lowering l = {.b = b, .frame = frame_scalar()};
  const struct expr *lowered = lower_expr(&l, ok);
  const struct expr *index = lower_expr(&l, build_var(b, EXPR_VAR_B));
  tile_check(&b->tile, lowered, index, site, l.operands.items, l.operands.count);
}

/* LONG: pages that tokens of the sequence are in, as far as the table goes. */
static const struct expr *pages_used(struct build *b)
{
  struct expr_pool *pool = b->pool;
  const int64_t page = b->cache->spec->cache.page;
  const struct expr *up =
      expr_add(pool, build_long(b, read_of(b, CACHE_LENGTHS)), number(b, page - 1));
  return expr_binary(pool, EXPR_MIN, expr_binary(pool, EXPR_FLOORDIV, up, number(b, page)),
                     launch_size(b, BUILD_TABLE));
}

static void check_entries(struct build *b, struct tile_value *sequence, struct tile_value *piece,
                          uint32_t site)
{
  struct expr_pool *pool = b->pool;
  struct tile_builder *t = &b->tile;
  const struct expr *from = expr_mul(pool, expr_arg(pool, 0, EXPR_LONG), number(b, ENTRIES));
  struct tile_value *first = build_index(b, "t0", from, &piece, 1);
  const struct expr *left = expr_sub(pool, pages_used(b), expr_arg(pool, 0, EXPR_LONG));
  left = expr_binary(pool, EXPR_MIN, left, number(b, ENTRIES));
  left = expr_binary(pool, EXPR_MAX, left, number(b, 0));
  struct tile_value *live = build_index(b, "entries", left, &first, 1);

  int32_t n = cache_plan_find(b->cache, EXPR_TENSOR_K, CACHE_PAGE_TABLE);
  const struct tile_access access = {.tensor = build_tensor(b, EXPR_TENSOR_CACHE + (uint32_t)n),
                                     .row_dim = TILE_NO_DIM,
                                     .group_dim = TILE_NO_DIM,
                                     .column_dim = 1,
                                     .row_group = 1};
  struct tile_value *indices[] = {sequence, first};
  struct tile_value *entries = tile_load(t, tile_type_tile(TILE_I32, 1, ENTRIES), access, indices,
                                         2, tile_index(t, 1), live);
  struct tile_value *operands[] = {entries, tile_iota(t, tile_index(t, 0), 1, ENTRIES), live,
                                   sequence, first};
  const struct expr *entry = expr_arg(pool, 0, EXPR_INT);
  const struct expr *place = expr_convert(pool, expr_arg(pool, 1, EXPR_INT), EXPR_LONG);
  const struct expr *pages = operand_launch_size(b, build_launch_size(b, BUILD_PAGES));
  const struct expr *table = operand_launch_size(b, build_launch_size(b, BUILD_TABLE));
  const struct expr *is_page = expr_and(pool, at_most(b, expr_int(pool, 0), entry),
                                        expr_binary(pool, EXPR_LT, entry, pages));
  const struct expr *ok = expr_or(pool, at_most(b, expr_arg(pool, 2, EXPR_LONG), place), is_page);
  const struct expr *row =
      expr_mul(pool, expr_arg(pool, 3, EXPR_LONG), expr_convert(pool, table, EXPR_LONG));
  const struct expr *index =
      expr_add(pool, row, expr_add(pool, expr_arg(pool, 4, EXPR_LONG), place));
  tile_check(t, ok, index, site, operands, 5);
}

/* LONG: entries of a table that a launch may look at. */
static const struct expr *entries_of_launch(struct build *b)
{
  struct expr_pool *pool = b->pool;
  const int64_t page = b->cache->spec->cache.page;
  const struct expr *table = launch_size(b, BUILD_TABLE);
  if (!b->reads_cache)
    return table;
  const struct expr *up = expr_add(pool, launch_size(b, BUILD_NK), number(b, page - 1));
  return expr_binary(pool, EXPR_MIN, table, expr_binary(pool, EXPR_FLOORDIV, up, number(b, page)));
}

void check_cache_build(struct build *b)
{
  struct expr_pool *pool = b->pool;
  struct tile_builder *t = &b->tile;
  const bool paged = cache_layout(b->cache->spec) == CACHE_PAGED;
  build_open_kernel(b, "check_cache");
  const uint32_t lengths = site_of(b, CACHE_LENGTHS, 0);
  const struct expr *pieces = number(b, 1);
  if (paged) /* one task at least: it looks at the length, too */
    pieces = expr_add(pool, pieces,
                      expr_binary(pool, EXPR_FLOORDIV,
                                  expr_sub(pool, entries_of_launch(b), number(b, 1)),
                                  number(b, ENTRIES)));
  struct tile_value *extents[] = {
      build_index(b, "sequences", launch_size(b, BUILD_B), NULL, 0),
      build_index(b, "pieces", expr_binary(pool, EXPR_MAX, pieces, number(b, 1)), NULL, 0)};
  struct tile_value **tasks = tile_parallel(t, extents, 2)->regions[0]->arguments;
  const struct expr *narrow = expr_convert(pool, expr_arg(pool, 0, EXPR_LONG), EXPR_INT);
  build_set_var(b, EXPR_VAR_B, frame_scalar(), tile_scalar(t, TILE_I32, narrow, tasks, 1));
  const struct expr *length = build_long(b, read_of(b, CACHE_LENGTHS));
  check_sequence(b, fits(b, length), lengths);
  if (b->cache->spec->cache.positions == CACHE_POSITIONS_STORED)
    check_sequence(b, at_most(b, length, build_long(b, read_of(b, CACHE_SEEN))),
                   site_of(b, CACHE_SEEN, 0));
  if (paged)
    check_entries(b, tasks[0], tasks[1], site_of(b, CACHE_PAGE_TABLE, 1));
  tile_end_region(t);
}
