/* Sums of values under weights. What a value takes from the key alone is a product; where rows
 * choose between such values, each has a sum of its own; anything else is evaluated for every pair,
 * one channel at a time. */
#include "compiler/build/access.h"
#include "compiler/build/passes.h"

static struct frame key_frame(const struct build *b)
{
  return frame_channels(CLASS_KEY, b->spec->dim_v);
}

static bool is_of_key(struct build *b, const struct expr *e)
{
  return (build_class(b, e, key_frame(b)) & CLASS_QUERY) == 0;
}

static bool is_of_row(struct build *b, const struct expr *e)
{
  return (build_class(b, e, key_frame(b)) & ~(unsigned)CLASS_QUERY) == 0;
}

/* `e` over MAPs where it is a choice of rows among values of keys; else NULL. */
static const struct expr *choose(struct build *b, struct value_sums *sums, const struct expr *e)
{
  if (is_of_key(b, e)) {
    uint32_t n = 0;
    while (n < sums->count && sums->values[n] != e)
      n++;
    if (n == SUMS_MAX)
      return NULL;
    sums->values[n] = e;
    sums->count = n == sums->count ? n + 1 : sums->count;
    return expr_map(b->pool, n);
  }
  if (e->op != EXPR_SELECT || !is_of_row(b, e->args[0]))
    return NULL;
  const struct expr *yes = choose(b, sums, e->args[1]);
  const struct expr *no = yes == NULL ? NULL : choose(b, sums, e->args[2]);
  return no == NULL ? NULL : expr_select(b->pool, e->args[0], yes, no);
}

void sums_plan(struct build *b, struct value_sums *sums)
{
  const struct expr *value = b->spec->value;
  *sums = (struct value_sums){0};
  sums->choice = choose(b, sums, value);
  bool chosen = sums->choice != NULL;
  for (uint32_t n = 0; n < sums->count && sums->count > 1; n++)
    chosen &= !checks_needed(b, sums->values[n], BOUNDS_PAIR); /* reached in some rows only */
  if (chosen)
    return;
  *sums = (struct value_sums){.count = 1, .choice = expr_map(b->pool, 0)};
  VECTOR(const struct expr *) pending = {0};
  vector_push(b->arena, &pending, value);
  while (pending.count > 0) {
    const struct expr *e = pending.items[--pending.count];
    const struct expr **part = is_of_key(b, e) ? &sums->values[0] : &sums->pairs;
    if (e->op == EXPR_ADD && part == &sums->pairs) {
      vector_push(b->arena, &pending, e->args[0]);
      vector_push(b->arena, &pending, e->args[1]);
    } else {
      *part = *part == NULL ? e : expr_add(b->pool, *part, e);
    }
  }
}

/* Values that are codes and a scale of the key, which the weights can have instead. */
static bool take_codes(struct build *b, const struct value_sums *sums, uint32_t n,
                       const struct expr **codes, const struct expr **scale)
{
  const struct expr *read = sums->values[n];
  return read->op == EXPR_READ && b->options->kernel == KERNEL_FORWARD &&
         (read->value.i == EXPR_TENSOR_K || read->value.i == EXPR_TENSOR_V) &&
         access_is_cached(b, (uint32_t)read->value.i) && product_takes_codes(b, read) &&
         sums_element(b, sums, n) == TILE_F32 &&
         product_take_scale(b, read, b->spec->dim_v, codes, scale);
}

void sums_hoist(struct build *b, const struct value_sums *sums)
{
  for (uint32_t n = 0; n < sums->count; n++)
    if (sums->values[n] != NULL)
      build_hoist(b, key_frame(b), sums->values[n]);
}

/* Bool [N, 1]: keys that some row of the tile sees. */
static struct tile_value *seen_keys(struct build *b, struct tile_value *visible)
{
  struct tile_value *seen =
      visible->type.rows == 1 ? visible : tile_reduce(&b->tile, TILE_REDUCE_ANY, 0, visible);
  return tile_transpose(&b->tile, seen);
}

static void check_value(struct build *b, const struct value_sums *sums, uint32_t n,
                        const struct pass_tile *tile)
{
  struct expr_pool *pool = b->pool;
  if (sums->values[n] == NULL || !checks_needed(b, sums->values[n], BOUNDS_PAIR))
    return;
  const struct expr *seen = expr_bool(pool, true);
  if (tile->visible != NULL) {
    const struct expr *number = expr_map(pool, SPEC_MAX_MAPS); /* 1 at keys that are seen */
    const struct expr *one =
        expr_select(pool, expr_arg(pool, 0, EXPR_BOOL), expr_float(pool, 1), expr_float(pool, 0));
    struct tile_value *any = seen_keys(b, tile->visible);
    build_set_value(b, number, key_frame(b), tile_map(&b->tile, TILE_F32, one, &any, 1));
    seen = expr_binary(pool, EXPR_LT, expr_float(pool, 0), number);
  }
  checks_emit(b, key_frame(b), sums->values[n], BOUNDS_PAIR, seen);
}

/* The conditions of a choice. */
static void check_choice(struct build *b, const struct expr *e, const struct pass_tile *tile)
{
  if (e->op != EXPR_SELECT)
    return;
  checks_emit(b, frame_pair(), e->args[0], BOUNDS_PAIR, tile->reached);
  check_choice(b, e->args[1], tile);
  check_choice(b, e->args[2], tile);
}

/* Weights are rounded to the type of stored values. What f16 has no room for stays f32. */
enum tile_element sums_element(struct build *b, const struct value_sums *sums, uint32_t n)
{
  const double f16_limit = 0x1p15;
  if (sums->values[n] == NULL)
    return TILE_F32;
  enum tile_element element = operand_element(b, key_frame(b), sums->values[n]);
  return element == TILE_F16 && !(sums->largest <= f16_limit) ? TILE_F32 : element;
}

static struct tile_value *value_tile(struct build *b, const struct value_sums *sums, uint32_t n)
{
  return sums_element(b, sums, n) == TILE_F32 ? build_tile(b, key_frame(b), sums->values[n])
                                              : build_operand(b, key_frame(b), sums->values[n]);
}

void sums_enter_tile(struct build *b, struct value_sums *sums, const struct pass_tile *tile)
{
  bool checked = (tile->checks & CHECK_VALUE) != 0;
  /* Values at keys that no row sees become zero: 0 times NaN is NaN. Only a mask can hide a key
   * from all rows of a tile, and keys beyond the last were not loaded. */
  bool hides = tile->visible != NULL &&
               !(tile->partial && expr_is_true(b->spec->mask) && !b->spec->select.present);
  if (checked)
    check_choice(b, sums->choice, tile);
  for (uint32_t n = 0; n < sums->count; n++) {
    sums->tiles[n] = sums->scales[n] = NULL;
    if (checked)
      check_value(b, sums, n, tile);
    if (sums->values[n] == NULL)
      continue;
    const struct expr *codes, *scale;
    if (take_codes(b, sums, n, &codes, &scale)) {
      sums->tiles[n] = build_tile(b, key_frame(b), codes);
      struct tile_value *by_key = build_tile(b, (struct frame){CLASS_KEY, 0, 0}, scale);
      if (hides)
        by_key = weights_where(b, seen_keys(b, tile->visible), NULL, by_key);
      sums->scales[n] = tile_transpose(&b->tile, by_key);
      continue;
    }
    sums->tiles[n] = value_tile(b, sums, n);
    if (hides)
      sums->tiles[n] = weights_where(b, seen_keys(b, tile->visible), NULL, sums->tiles[n]);
  }
}

/* accumulator[:, c] += sum over keys of weights * pairs(c), for each channel c. */
static struct tile_value *add_pairs(struct build *b, const struct value_sums *sums,
                                    struct tile_value *accumulator, struct tile_value *weights,
                                    const struct pass_tile *tile)
{
  struct expr_pool *pool = b->pool;
  struct tile_builder *t = &b->tile;
  struct tile_value *zero = build_value(b, frame_scalar(), expr_long(pool, 0));
  struct tile_value *end = build_value(b, frame_scalar(), expr_long(pool, b->spec->dim_v));
  struct tile_value *channels = tile_iota(t, zero, 1, b->spec->dim_v);
  struct tile_op *op = tile_for(t, zero, end, 1, &accumulator, 1);
  struct tile_value **arguments = op->regions[0]->arguments;
  size_t mark = b->values.count;
  b->one_channel = true;
  const struct expr *narrow = expr_convert(pool, expr_arg(pool, 0, EXPR_LONG), EXPR_INT);
  struct tile_value *channel = tile_scalar(t, TILE_I32, narrow, &arguments[0], 1);
  build_set_var(b, EXPR_VAR_C, frame_scalar(), channel);
  if ((tile->checks & CHECK_VALUE) != 0)
    checks_emit(b, frame_pair(), sums->pairs, BOUNDS_PAIR, tile->reached);
  struct tile_value *terms = build_tile(b, frame_pair(), sums->pairs);
  const struct expr *first = expr_arg(pool, 0, EXPR_FLOAT), *second = expr_arg(pool, 1, EXPR_FLOAT);
  struct tile_value *factors[] = {terms, weights};
  terms = tile_map(t, TILE_F32, expr_mul(pool, first, second), factors, 2);
  terms = weights_where(b, tile->visible, NULL, terms);
  struct tile_value *operands[] = {arguments[1], tile_reduce(t, TILE_REDUCE_SUM, 1, terms),
                                   channels, channel};
  const struct expr *own =
      expr_binary(pool, EXPR_EQ, expr_arg(pool, 2, EXPR_INT), expr_arg(pool, 3, EXPR_INT));
  struct tile_value *next = tile_map(
      t, TILE_F32, expr_select(pool, own, expr_add(pool, first, second), first), operands, 4);
  tile_yield(t, &next, 1);
  tile_end_region(t);
  b->one_channel = false;
  b->values.count = mark;
  return op->results[0];
}

static struct tile_value *in_type_of(struct build *b, struct tile_value *x,
                                     const struct tile_value *other)
{
  struct tile_type type = x->type;
  type.element = other->type.element;
  if (x->type.element == type.element)
    return x;
  return tile_op_new(&b->tile, TILE_CONVERT, &x, 1, &type, 1)->results[0];
}

void sums_add(struct build *b, const struct value_sums *sums, struct tile_value **accumulators,
              struct tile_value *weights, struct tile_value *rescale, const struct pass_tile *tile)
{
  for (uint32_t n = 0; n < sums->count; n++) {
    struct tile_value **sum = &accumulators[n];
    if (rescale != NULL)
      *sum = tile_scale_rows(&b->tile, *sum, rescale);
    struct tile_value *tile_values = sums->tiles[n];
    if (tile_values == NULL)
      continue;
    struct tile_value *own = weights;
    if (sums->scales[n] != NULL) {
      struct tile_value *factors[] = {weights, sums->scales[n]};
      own = tile_map(
          &b->tile, TILE_F32,
          expr_mul(b->pool, expr_arg(b->pool, 0, EXPR_FLOAT), expr_arg(b->pool, 1, EXPR_FLOAT)),
          factors, 2);
    }
    *sum = tile_product(&b->tile, in_type_of(b, own, tile_values), false, tile_values, false, *sum);
    (*sum)->def->codes = sums->scales[n] != NULL;
  }
  if (sums->pairs != NULL)
    accumulators[0] = add_pairs(b, sums, accumulators[0], weights, tile);
}

struct tile_value *sums_choose(struct build *b, const struct value_sums *sums,
                               struct tile_value *const *totals)
{
  if (sums->count == 1)
    return totals[0];
  struct frame frame = frame_channels(CLASS_QUERY, b->spec->dim_v);
  size_t mark = b->values.count;
  for (uint32_t n = 0; n < sums->count; n++)
    build_set_value(b, expr_map(b->pool, n), frame, totals[n]);
  struct tile_value *chosen = build_tile(b, frame, sums->choice);
  b->values.count = mark;
  return chosen;
}
