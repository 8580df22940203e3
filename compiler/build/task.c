/* A task's rows, and what all formulas of pairs need: which rows live, what hides pairs. */
#include "compiler/build/build.h"

const struct expr *build_long(struct build *b, const struct expr *e)
{
  return expr_convert(b->pool, e, EXPR_LONG);
}

const struct expr *build_var(struct build *b, enum expr_var v)
{
  return expr_variable(b->pool, v);
}

struct tile_value *build_index(struct build *b, const char *name, const struct expr *e,
                               struct tile_value *const *operands, size_t count)
{
  struct lowering l = {.b = b, .frame = frame_scalar()};
  for (size_t k = 0; k < count; k++)
    vector_push(b->arena, &l.operands, operands[k]);
  e = lower_expr(&l, e);
  struct tile_value *value =
      tile_scalar(&b->tile, TILE_INDEX, e, l.operands.items, l.operands.count);
  tile_set_name(&b->tile, value, name);
  return value;
}

const struct expr *build_visible(struct build *b)
{
  struct expr_pool *pool = b->pool;
  const struct expr *e =
      expr_binary(pool, EXPR_LT, build_var(b, EXPR_VAR_J), build_var(b, EXPR_VAR_SIZE_NK));
  if (b->spec->align != ALIGN_START)
    e = expr_and(pool, e, expr_binary(pool, EXPR_LE, expr_int(pool, 0), build_var(b, EXPR_VAR_I)));
  return expr_and(pool, e, b->spec->mask);
}

const struct expr *build_row_lives(struct build *b)
{
  return expr_binary(b->pool, EXPR_LT, build_var(b, EXPR_VAR_T), build_var(b, EXPR_VAR_SIZE_NQ));
}

/* Only such a row may see a key. */
const struct expr *build_row_sees(struct build *b)
{
  return expr_and(b->pool, build_row_lives(b),
                  expr_binary(b->pool, EXPR_LE, expr_int(b->pool, 0), build_var(b, EXPR_VAR_I)));
}

/* Where the mask's reads are reached. */
const struct expr *build_mask_reached(struct build *b)
{
  struct expr_pool *pool = b->pool;
  const struct expr *key =
      expr_binary(pool, EXPR_LT, build_var(b, EXPR_VAR_J), build_var(b, EXPR_VAR_SIZE_NK));
  return expr_and(pool, build_row_sees(b), key);
}

void build_limit_rows(struct build *b)
{
  if (b->rows != b->columns)
    tile_limit_rows(&b->tile, b->rows, b->live_rows);
}

void build_enter_rows(struct build *b, struct tile_value *const *indices)
{
  struct expr_pool *pool = b->pool;
  struct tile_builder *t = &b->tile;
  const struct expr *index = expr_arg(pool, 0, EXPR_LONG);
  b->head_base =
      build_index(b, "h0", expr_mul(pool, index, expr_long(pool, b->share)), &indices[1], 1);
  const struct expr *group = expr_binary(pool, EXPR_FLOORDIV, index, expr_long(pool, b->group));
  build_enter_task(b, indices[0], build_index(b, "kv_head", group, &b->head_base, 1));
  b->row_base =
      build_index(b, "r0", expr_mul(pool, index, expr_long(pool, b->tile_rows)), &indices[2], 1);
  if (b->share == 1)
    build_set_var(b, EXPR_VAR_H, frame_scalar(),
                  tile_scalar(t, TILE_I32, expr_convert(pool, index, EXPR_INT), &b->head_base, 1));

  const struct expr *left = expr_sub(pool, build_long(b, build_var(b, EXPR_VAR_SIZE_NQ)), index);
  left = expr_binary(pool, EXPR_MIN, left, expr_long(pool, b->tile_rows));
  left = expr_binary(pool, EXPR_MAX, left, expr_long(pool, 0));
  b->live_rows =
      build_index(b, "live_rows", expr_mul(pool, left, expr_long(pool, b->share)), &b->row_base, 1);
  build_limit_rows(b);

  const struct expr *offset = build_long(b, build_var(b, EXPR_VAR_OFFSET));
  struct tile_value *i0 = build_index(b, "i0", expr_add(pool, index, offset), &b->row_base, 1);
  const struct expr *rows =
      expr_binary(pool, EXPR_FLOORDIV, expr_arg(pool, 1, EXPR_LONG), expr_long(pool, b->share));
  const struct expr *last = expr_add(pool, index, expr_sub(pool, rows, expr_long(pool, 1)));
  struct tile_value *ends[] = {i0, b->live_rows};
  struct tile_value *i1 = build_index(b, "i1", expr_binary(pool, EXPR_MAX, index, last), ends, 2);
  build_set_var(b, EXPR_VAR_TILE_I0, frame_scalar(), i0);
  build_set_var(b, EXPR_VAR_TILE_I1, frame_scalar(), i1);
}

const struct expr *build_row_tiles(struct build *b)
{
  struct expr_pool *pool = b->pool;
  const struct expr *rows = build_long(b, build_var(b, EXPR_VAR_SIZE_NQ));
  return expr_binary(pool, EXPR_FLOORDIV, expr_add(pool, rows, expr_long(pool, b->tile_rows - 1)),
                     expr_long(pool, b->tile_rows));
}

struct tile_value **build_open_row_parts(struct build *b, struct tile_value *parts)
{
  struct tile_builder *t = &b->tile;
  const struct expr *tiles = operand_launch_size(b, build_row_tiles(b));
  struct tile_value *extents[] = {
      tile_scalar(t, TILE_INDEX, build_long(b, build_size(b, EXPR_VAR_SIZE_B)), NULL, 0),
      tile_index(t, b->spec->query_heads / b->share), tile_scalar(t, TILE_INDEX, tiles, NULL, 0),
      parts};
  return tile_parallel(t, extents, parts == NULL ? 3 : 4)->regions[0]->arguments;
}

struct tile_value **build_open_rows(struct build *b)
{
  return build_open_row_parts(b, NULL);
}
