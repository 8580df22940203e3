/* Output `mass`: what every key receives. A kernel of its own, since tasks of the forward kernel
 * own rows: its tasks own keys and walk the rows that see them in order, so that sums are the same
 * in every run. Weights are made again from the scores and what the forward kernel stored of rows.
 */
#include "compiler/build/passes.h"
#include "compiler/build/select.h"

/* Statistics of a row, in the order of their workspaces. */
struct row_list {
  struct tile_value **items[SPEC_MAX_MAPS * ROWS_MAX_NORM + 2];
  uint32_t count;
};

/* `alive` and `total` are fields of `weights`. */
static void list_rows(struct build *b, struct final_weights *weights, struct row_list *list)
{
  *list = (struct row_list){0};
  for (uint32_t m = 0; m < weights->maps->count; m++) {
    struct row_norm *norm = &weights->maps->items[m].norm;
    for (size_t k = 0; k < norm->count; k++)
      list->items[list->count++] = &norm->values[k];
  }
  list->items[list->count++] = &weights->alive;
  if (b->spec->weight_kind == WEIGHT_RENORMALIZE)
    list->items[list->count++] = &weights->total;
}

static uint32_t row_workspace(struct build *b, uint32_t n, enum tile_element element, bool written)
{
  const struct workspace workspace = {.number = WORKSPACE_ROWS + n,
                                      .name = arena_format(b->arena, "row%u", n),
                                      .element = element == TILE_I32    ? DTYPE_I32
                                                 : element == TILE_BOOL ? DTYPE_BOOL
                                                                        : DTYPE_F32};
  return build_workspace(b, &workspace, written);
}

void mass_store_rows(struct build *b, const struct final_weights *weights)
{
  struct final_weights copy = *weights;
  struct row_list list;
  list_rows(b, &copy, &list);
  for (uint32_t n = 0; n < list.count; n++) {
    struct tile_value *x = *list.items[n];
    operand_store(b, row_workspace(b, n, x->type.element, true), (struct placement){0}, x);
  }
  b->row_elements = ARENA_ARRAY(b->arena, enum tile_element, list.count);
  for (uint32_t n = 0; n < list.count; n++)
    b->row_elements[n] = (*list.items[n])->type.element;
}

struct mass {
  struct build_maps maps;
  struct final_weights weights;
  struct tile_value *sum; /* [1, N] */
};

/* ---- the task ---- */

static void enter_keys(struct build *b)
{
  struct expr_pool *pool = b->pool;
  struct tile_builder *t = &b->tile;
  const struct expr *index = expr_arg(pool, 0, EXPR_LONG), *step = expr_long(pool, b->columns);
  const struct expr *longest = build_long(b, build_size(b, EXPR_VAR_SIZE_NK));
  const struct expr *tiles = expr_binary(
      pool, EXPR_FLOORDIV, expr_add(pool, longest, expr_long(pool, b->columns - 1)), step);
  struct tile_value *extents[] = {
      tile_scalar(t, TILE_INDEX, build_long(b, build_size(b, EXPR_VAR_SIZE_B)), NULL, 0),
      tile_index(t, b->spec->query_heads), tile_scalar(t, TILE_INDEX, tiles, NULL, 0)};
  struct tile_value **indices = tile_parallel(t, extents, 3)->regions[0]->arguments;
  b->head_base = indices[1];
  const struct expr *group = expr_binary(pool, EXPR_FLOORDIV, index, expr_long(pool, b->group));
  build_enter_task(b, indices[0], build_index(b, "kv_head", group, &b->head_base, 1));
  build_set_var(b, EXPR_VAR_H, frame_scalar(),
                tile_scalar(t, TILE_I32, expr_convert(pool, index, EXPR_INT), &b->head_base, 1));
  b->key_base = build_index(b, "j0", expr_mul(pool, index, step), &indices[2], 1);
  const struct expr *left = expr_sub(pool, build_long(b, build_var(b, EXPR_VAR_SIZE_NK)), index);
  left = expr_binary(pool, EXPR_MAX, expr_binary(pool, EXPR_MIN, left, step), expr_long(pool, 0));
  b->live_keys = build_index(b, "live_keys", left, &b->key_base, 1);
}

/* ---- the walk over rows ---- */

/* TILE_J0 and TILE_J1 in the analysis' expressions are the task's keys. Inside a kernel those
 * variables stand for the loop's tile, so that these take the place of TILE_I0 and TILE_I1. */
static const struct expr *name_keys(void *user, const struct expr *e)
{
  struct build *b = user;
  if (expr_is_var(e, EXPR_VAR_TILE_J0))
    return build_var(b, EXPR_VAR_TILE_I0);
  return expr_is_var(e, EXPR_VAR_TILE_J1) ? build_var(b, EXPR_VAR_TILE_I1) : NULL;
}

static struct tile_value *row_bound(struct build *b, const char *name, const struct expr *position)
{
  position = build_transform(b, position, name_keys, b);
  const struct expr *offset = build_long(b, build_var(b, EXPR_VAR_OFFSET));
  return build_index(b, name, expr_sub(b->pool, position, offset), NULL, 0);
}

static void enter_rows(struct build *b, struct tile_value *first)
{
  struct expr_pool *pool = b->pool;
  b->row_base = first;
  const struct expr *left =
      expr_sub(pool, build_long(b, build_var(b, EXPR_VAR_SIZE_NQ)), expr_arg(pool, 0, EXPR_LONG));
  left = expr_binary(pool, EXPR_MIN, left, expr_long(pool, b->rows));
  b->live_rows = build_index(b, "live_rows", left, &first, 1);
}

static void visit_rows(struct build *b, struct mass *mass, const struct tile_region *region)
{
  struct expr_pool *pool = b->pool;
  struct tile_builder *t = &b->tile;
  size_t mark = b->values.count;
  enter_rows(b, region->arguments[0]);
  struct row_list list;
  list_rows(b, &mass->weights, &list);
  for (uint32_t n = 0; n < list.count; n++) {
    enum tile_element element = b->row_elements[n];
    *list.items[n] =
        operand_load_tokens(b, row_workspace(b, n, element, false), (struct placement){0},
                            tile_type_tile(element, b->rows, 1));
  }
  struct pass pass = {.maps = &mass->maps, .wanted = ~0u};
  struct pass_tile tile = {.partial = true};
  if (b->spec->select.present)
    select_enter_tile(b);
  pass_enter_tile(b, &pass, &tile);
  struct tile_value *weights = final_weights_of(b, &mass->weights, &tile);
  struct tile_value *lives = build_value(b, (struct frame){CLASS_QUERY, 0, 0}, build_row_lives(b));
  weights = weights_where(b, NULL, lives, weights);
  struct tile_value *parts[] = {region->arguments[1], tile_reduce(t, TILE_REDUCE_SUM, 0, weights)};
  const struct expr *sum =
      expr_add(pool, expr_arg(pool, 0, EXPR_FLOAT), expr_arg(pool, 1, EXPR_FLOAT));
  struct tile_value *next = tile_map(t, TILE_F32, sum, parts, 2);
  tile_yield(t, &next, 1);
  b->values.count = mark;
}

static struct tile_value *walk_rows(struct build *b, struct mass *mass)
{
  struct expr_pool *pool = b->pool;
  struct tile_builder *t = &b->tile;
  const struct visibility_walk *rows = &b->visibility->rows;
  struct tile_value *sum = tile_splat(t, TILE_F32, 1, b->columns, 0);
  if (rows->segment_count == 0)
    return sum;
  build_set_var(b, EXPR_VAR_TILE_I0, frame_scalar(), b->key_base);
  struct tile_value *parts[] = {b->key_base, b->live_keys};
  const struct expr *last =
      expr_add(pool, expr_arg(pool, 0, EXPR_LONG),
               expr_sub(pool, expr_arg(pool, 1, EXPR_LONG), expr_long(pool, 1)));
  build_set_var(b, EXPR_VAR_TILE_I1, frame_scalar(),
                build_index(b, "j1",
                            expr_binary(pool, EXPR_MAX, last, expr_arg(pool, 0, EXPR_LONG)), parts,
                            2));
  struct tile_value *segments[2 * VISIBILITY_MAX_SEGMENTS];
  for (uint32_t n = 0; n < rows->segment_count; n++) {
    segments[2 * n] = row_bound(b, "lo", rows->segments[n].may_lo);
    segments[2 * n + 1] = row_bound(b, "hi", rows->segments[n].may_hi);
  }
  struct tile_op *op = tile_for_segments(t, b->rows, segments, rows->segment_count, NULL, 0,
                                         expr_bool(pool, true), expr_bool(pool, false), &sum, 1);
  tile_yield(t, &op->regions[0]->arguments[1], 1); /* no tile is taken for full */
  tile_open_region(t, op, 1);
  visit_rows(b, mass, op->regions[1]);
  tile_end_region(t);
  return op->results[0];
}

void mass_build(struct build *b)
{
  const struct spec *spec = b->spec;
  b->share = 1;
  b->tile_rows = b->rows;
  build_open_kernel(b, "mass");
  enter_keys(b);
  struct mass *mass = ARENA_NEW(b->arena, struct mass);
  maps_init(b, &mass->maps);
  mass->weights.maps = &mass->maps;
  for (uint32_t m = 0; m < mass->maps.count; m++) {
    struct build_map *map = &mass->maps.items[m];
    map->norm = (struct row_norm){.count = map->algebra->norms, .factor = map->factor};
  }
  struct tile_value *sum = walk_rows(b, mass);
  struct placement place = {.keys = true};
  for (uint32_t n = 0; n < spec->output_count; n++)
    if (spec->outputs[n].kind == OUTPUT_MASS)
      operand_store(b, build_output(b, n), place, tile_transpose(&b->tile, sum));
  tile_end_region(&b->tile);
}
