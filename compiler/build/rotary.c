/* Rotation of q and k. The angle is linear in the position, so that a launch can make a table per
 * channel: turns (of 2^-32 of a full one, wrapping, exact for positions of any size) and the rest
 * below that, in turns. */
#include "compiler/build/build.h"

static bool is_position(const struct expr *e)
{
  return expr_is_var(e, EXPR_VAR_T);
}

/* The channel that `channel` is rotated with; itself where it is not. */
static uint32_t partner(const struct spec_rotary *rotary, uint32_t channel)
{
  uint32_t end = rotary->from + rotary->dim * rotary->repeat;
  if (channel < rotary->from || channel >= end)
    return channel;
  uint32_t place = (channel - rotary->from) % rotary->dim;
  uint32_t base = channel - place, half = rotary->dim / 2;
  if (rotary->pairing == PAIRING_INTERLEAVED)
    return base + (place ^ 1u);
  return base + (place < half ? place + half : place - half);
}

bool rotary_separates(const struct build *b, uint32_t at)
{
  for (uint32_t c = 0; c < at; c++)
    if (partner(&b->spec->rotary, c) >= at)
      return true;
  return false;
}

bool rotary_is_supported(struct build *b)
{
  const struct spec_rotary *rotary = &b->spec->rotary;
  uint64_t lengths = 0;
  if (build_has_own_length(b, false))
    lengths |= EXPR_DEP(EXPR_VAR_SIZE_NQ);
  if (build_has_own_length(b, true))
    lengths |= EXPR_DEP(EXPR_VAR_SIZE_NK);
  bool linear = build_is_linear(b, rotary->angle, is_position);
  bool by_length = ((rotary->angle->deps | rotary->gain->deps) & lengths) != 0;
  if (!linear)
    build_unsupported(b, rotary->span, "an angle that is not a multiple of the position");
  if (by_length)
    build_unsupported(b, rotary->span, "an angle that depends on a sequence's own length");
  const struct spec_cache *cache = &b->spec->cache;
  bool apart = b->reads_cache && cache->rope_on_read && cache->k.channels != 0 &&
               rotary_separates(b, cache->k.channels);
  if (apart)
    build_unsupported(b, cache->span,
                      "a rotation when read of pairs with one channel in codes and one without");
  return linear && !by_length && !apart;
}

/* [1, n] of a launch table. */
static struct tile_value *table(struct build *b, enum tile_role role, uint32_t first, uint32_t n)
{
  struct tile_access access = {.tensor = build_rotary_table(b, role),
                               .row_dim = TILE_NO_DIM,
                               .group_dim = TILE_NO_DIM,
                               .column_dim = 0,
                               .row_group = 1};
  struct tile_type type =
      tile_type_tile(role == TILE_ROLE_ROTARY_TURNS ? TILE_I32 : TILE_F32, 1, n);
  struct tile_value *index = build_value(b, frame_scalar(), expr_long(b->pool, first));
  struct tile_value *one = build_value(b, frame_scalar(), expr_long(b->pool, 1));
  struct tile_value *count = build_value(b, frame_scalar(), expr_long(b->pool, n));
  return tile_load(&b->tile, type, access, &index, 1, one, count);
}

struct tile_value *rotary_apply(struct build *b, unsigned axis, uint32_t first,
                                struct tile_value *x)
{
  const struct spec_rotary *rotary = &b->spec->rotary;
  struct expr_pool *pool = b->pool;
  uint32_t n = x->type.columns;
  uint32_t *partners = ARENA_ARRAY(b->arena, uint32_t, n);
  bool rotates = false, covers = true;
  for (uint32_t c = 0; c < n; c++) {
    uint32_t other = partner(rotary, first + c);
    if (other < first || other >= first + n) {
      build_unsupported(b, rotary->span, "a slice that separates the channels of a rotated pair");
      return x;
    }
    partners[c] = other - first;
    rotates |= partners[c] != c;
    covers &= partners[c] != c;
  }
  if (!rotates)
    return x;
  const struct expr *position = axis == CLASS_QUERY ? rotary->query_position : rotary->key_position;
  struct tile_value *operands[] = {
      x,
      tile_permute(&b->tile, x, partners, n),
      build_value(b, (struct frame){axis, 0, 0}, position),
      table(b, TILE_ROLE_ROTARY_TURNS, first, n),
      table(b, TILE_ROLE_ROTARY_REST, first, n),
      table(b, TILE_ROLE_ROTARY_COSINE, first, n),
      table(b, TILE_ROLE_ROTARY_SINE, first, n),
  };
  const struct expr *place = expr_arg(pool, 2, EXPR_INT);
  const struct expr *turns =
      expr_convert(pool, expr_mul(pool, place, expr_arg(pool, 3, EXPR_INT)), EXPR_FLOAT);
  const struct expr *rest =
      expr_mul(pool, expr_convert(pool, place, EXPR_FLOAT), expr_arg(pool, 4, EXPR_FLOAT));
  turns = expr_add(pool, expr_mul(pool, turns, expr_float(pool, 0x1p-32)), rest);
  const struct expr *angle = expr_mul(pool, turns, expr_float(pool, 6.283185307179586));
  const struct expr *own = expr_arg(pool, 0, EXPR_FLOAT), *other = expr_arg(pool, 1, EXPR_FLOAT);
  const struct expr *cosine =
      expr_mul(pool, expr_unary(pool, EXPR_COS, angle), expr_arg(pool, 5, EXPR_FLOAT));
  const struct expr *sine =
      expr_mul(pool, expr_unary(pool, EXPR_SIN, angle), expr_arg(pool, 6, EXPR_FLOAT));
  const struct expr *e = expr_add(pool, expr_mul(pool, own, cosine), expr_mul(pool, other, sine));
  if (!covers) /* an infinite channel that is not rotated must not become NaN by a product with 0 */
    e = expr_select(pool,
                    expr_binary(pool, EXPR_EQ, expr_arg(pool, 6, EXPR_FLOAT), expr_float(pool, 0)),
                    expr_mul(pool, own, expr_arg(pool, 5, EXPR_FLOAT)), e);
  return tile_map(&b->tile, x->type.element, e, operands, 7);
}

static const struct expr *arg_long(struct build *b, uint32_t n)
{
  return expr_arg(b->pool, n, EXPR_LONG);
}

void rotary_build_keys(struct build *b)
{
  struct expr_pool *pool = b->pool;
  const uint32_t columns = b->columns;
  b->columns = b->key_rows;
  b->rotated_keys = false;
  build_open_kernel(b, "rotate_keys");
  struct tile_builder *t = &b->tile;
  const struct expr *longest = expr_convert(pool, build_size(b, EXPR_VAR_SIZE_NK), EXPR_LONG);
  const struct expr *step = expr_long(pool, b->columns);
  const struct expr *tiles = expr_binary(
      pool, EXPR_FLOORDIV, expr_add(pool, longest, expr_long(pool, b->columns - 1)), step);
  const struct expr *sequences = expr_convert(pool, build_size(b, EXPR_VAR_SIZE_B), EXPR_LONG);
  struct tile_value *extents[] = {tile_scalar(t, TILE_INDEX, sequences, NULL, 0),
                                  tile_index(t, b->spec->kv_heads),
                                  tile_scalar(t, TILE_INDEX, tiles, NULL, 0)};
  struct tile_value **indices = tile_parallel(t, extents, 3)->regions[0]->arguments;
  build_enter_task(b, indices[0], indices[1]);
  b->key_base = tile_scalar(t, TILE_INDEX, expr_mul(pool, arg_long(b, 0), step), &indices[2], 1);

  struct lowering l = {.b = b, .frame = frame_scalar()};
  const struct expr *length = lower_expr(&l, expr_variable(pool, EXPR_VAR_SIZE_NK));
  const struct expr *left = expr_sub(pool, expr_convert(pool, length, EXPR_LONG),
                                     lower_operand(&l, b->key_base, EXPR_LONG));
  left = expr_binary(pool, EXPR_MAX, expr_binary(pool, EXPR_MIN, left, step), expr_long(pool, 0));
  b->live_keys = tile_scalar(t, TILE_INDEX, left, l.operands.items, l.operands.count);
  tile_limit_rows(t, b->columns, b->live_keys);

  const struct expr *variables[] = {
      expr_variable(pool, EXPR_VAR_B), expr_variable(pool, EXPR_VAR_G),
      expr_variable(pool, EXPR_VAR_J), expr_variable(pool, EXPR_VAR_C)};
  const struct expr *k = expr_read(pool, EXPR_TENSOR_K, EXPR_FLOAT, variables, 4);
  const struct expr *exists =
      expr_binary(pool, EXPR_LT, variables[2], expr_variable(pool, EXPR_VAR_SIZE_NK));
  checks_emit(b, (struct frame){CLASS_KEY, 0, 0}, b->spec->rotary.key_position, BOUNDS_KEY, exists);
  struct tile_value *rotated = build_operand(b, frame_channels(CLASS_KEY, b->spec->dim_qk), k);
  struct placement place = {.keys = true,
                            .kv_heads = true,
                            .column = build_value(b, frame_scalar(), expr_long(pool, 0)),
                            .live_columns =
                                build_value(b, frame_scalar(), expr_long(pool, b->spec->dim_qk))};
  operand_store(b, build_rotated_keys(b), place, rotated);
  tile_end_region(t);
  b->rotated_keys = true;
  b->columns = columns;
}
