/* The maps of a spec: their scores, what each needs at a row's end, and how `weight` combines them.
 */
#include "compiler/build/passes.h"
#include "compiler/build/select.h"

#include <float.h>
#include <math.h>

/* ---- scores ---- */

/* f * sum of products is the sum of (f * row part) products, so that f is applied once a row and
 * not once a pair; not to operands of 16 bits, which it would be rounded to. */
static const struct expr *fold_factor(void *user, const struct expr *e)
{
  struct build *b = user;
  if (e->op != EXPR_MUL || e->type != EXPR_FLOAT || e->deps >> EXPR_DEP_BOUND != 0)
    return NULL;
  for (int k = 0; k < 2; k++) {
    const struct expr *sum = e->args[k], *factor = e->args[1 - k];
    struct product product;
    bool by_row = (build_class(b, factor, frame_pair()) & ~(unsigned)CLASS_QUERY) == 0;
    if (by_row && product_find(b, sum, &product) && product.term == NULL &&
        product_element(b, &product) == TILE_F32)
      return expr_binder(b->pool, EXPR_SUM, (uint32_t)sum->value.i, sum->args[0],
                         expr_mul(b->pool, sum->args[1], factor));
  }
  return NULL;
}

/* e * factor, in one multiplication with a factor that e has already. */
static const struct expr *scaled(struct build *b, const struct expr *e, double factor)
{
  struct expr_pool *pool = b->pool;
  const struct expr *f = expr_float(pool, factor);
  if (factor == 1)
    return e;
  for (uint32_t k = 0; e->op == EXPR_MUL && k < 2; k++)
    if (build_class(b, e->args[k], frame_pair()) == 0)
      return expr_mul(pool, e->args[1 - k], expr_mul(pool, e->args[k], f));
  return expr_mul(pool, e, f);
}

/* `e` without a positive constant factor, which *factor is multiplied by. */
static const struct expr *without_scale(const struct expr *e, double *factor)
{
  for (uint32_t k = 0; e->op == EXPR_MUL && k < 2; k++) {
    const struct expr *scale = e->args[k];
    double product = scale->op == EXPR_CONST ? *factor * scale->value.f : 0;
    if (scale->type == EXPR_FLOAT && product >= (double)FLT_MIN && product <= (double)FLT_MAX) {
      *factor = product;
      return e->args[1 - k];
    }
  }
  return e;
}

/* What can be multiplied into 32-bit rows of queries costs nothing; the rest is left to the row
 * algebra where that has a factor. */
static void init_score(struct build *b, struct build_map *map, const struct expr *score)
{
  map->factor = 1;
  if (b->keeps_storage && map->algebra->score_factor != 1) {
    map->factor = map->algebra->score_factor;
    score = without_scale(score, &map->factor);
  } else {
    score = scaled(b, score, map->algebra->score_factor);
  }
  map->score = build_transform(b, score, fold_factor, b);
}

struct row_state maps_start_rows(struct build *b, const struct build_map *map)
{
  struct row_state state = map->algebra->init(&b->tile, b->rows);
  state.factor = map->factor;
  return state;
}

void maps_init(struct build *b, struct build_maps *maps)
{
  const struct spec *spec = b->spec;
  *maps = (struct build_maps){.count = spec->map_count,
                              .visible = build_visible(b),
                              .always_seen = expr_bool(b->pool, true),
                              .weight = spec->weight};
  if (spec->select.present) {
    maps->always_seen = select_chosen(b);
    maps->visible = expr_and(b->pool, maps->always_seen, maps->visible);
  }
  for (uint32_t m = 0; m < spec->map_count; m++) {
    struct build_map *map = &maps->items[m];
    map->algebra = row_algebra_of(spec->maps[m].normalizer);
    init_score(b, map, spec->maps[m].score);
    maps->in_walk[m] = expr_map(b->pool, m);
  }
}

void maps_hoist(struct build *b, const struct build_maps *maps)
{
  for (uint32_t m = 0; m < maps->count; m++)
    build_hoist(b, frame_pair(), maps->items[m].score);
  build_hoist(b, frame_pair(), maps->visible);
  build_hoist(b, frame_pair(), b->spec->weight);
}

/* ---- weights that are linear in the maps ---- */

/* The part of `weight` that holds one map; NULL where it is not in it. */
static const struct expr *weight_part(struct build *b, const struct expr *weight, uint32_t map)
{
  struct expr_pool *pool = b->pool;
  const struct expr *zero = expr_float(pool, 0);
  const struct expr **parts = ARENA_ARRAY(b->arena, const struct expr *, (size_t)weight->id + 1);
  for (uint32_t id = 0; id <= weight->id; id++) {
    const struct expr *e = pool->nodes.items[id];
    if ((e->deps >> EXPR_DEP_MAP & 1) == 0)
      continue;
    const struct expr *x = e->arg_count > 0 ? parts[e->args[0]->id] : NULL;
    const struct expr *y = e->arg_count > 1 ? parts[e->args[1]->id] : NULL;
    const struct expr *z = e->arg_count > 2 ? parts[e->args[2]->id] : NULL;
    const struct expr **part = &parts[id];
    switch ((int)e->op) {
    case EXPR_MAP: *part = e->value.i == map ? e : NULL; break;
    case EXPR_NEG: *part = x == NULL ? NULL : expr_unary(pool, EXPR_NEG, x); break;
    case EXPR_CONVERT: *part = x == NULL ? NULL : expr_convert(pool, x, e->type); break;
    case EXPR_MUL:
      if (x != NULL || y != NULL)
        *part = expr_mul(pool, x != NULL ? x : e->args[0], y != NULL ? y : e->args[1]);
      break;
    case EXPR_DIV: *part = x == NULL ? NULL : expr_binary(pool, EXPR_DIV, x, e->args[1]); break;
    case EXPR_ADD: *part = x == NULL ? y : y == NULL ? x : expr_add(pool, x, y); break;
    case EXPR_SUB:
      *part = y == NULL ? x : x == NULL ? expr_unary(pool, EXPR_NEG, y) : expr_sub(pool, x, y);
      break;
    case EXPR_SELECT:
      if (y != NULL || z != NULL)
        *part = expr_select(pool, e->args[0], y != NULL ? y : zero, z != NULL ? z : zero);
      break;
    default: break; /* not linear */
    }
  }
  return parts[weight->id];
}

static bool is_row_factor(const struct build *b, const struct expr *e)
{
  return (e->deps >> EXPR_DEP_MAP & 1) == 0 && (build_class(b, e, frame_scalar()) & CLASS_KEY) == 0;
}

static bool is_zero(const struct expr *e)
{
  return e->op == EXPR_CONST && e->value.f == 0;
}

/* `part` without the factors that do not vary along keys, which *factor is multiplied by: dropout's
 * 1 / (1 - p), say. In the tile it would be rounded with every weight of 16 bits. */
static const struct expr *without_row_factors(struct build *b, const struct expr *part,
                                              const struct expr **factor)
{
  struct expr_pool *pool = b->pool;
  const struct expr *const *args = part->args;
  const struct expr *zero = expr_float(pool, 0);
  switch ((int)part->op) {
  case EXPR_NEG:
    *factor = expr_unary(pool, EXPR_NEG, *factor);
    return without_row_factors(b, args[0], factor);
  case EXPR_MUL:
    for (int k = 0; k < 2; k++)
      if (is_row_factor(b, args[k])) {
        *factor = expr_mul(pool, *factor, args[k]);
        return without_row_factors(b, args[1 - k], factor);
      }
    return part;
  case EXPR_DIV:
    if (!is_row_factor(b, args[1]))
      return part;
    *factor = expr_binary(pool, EXPR_DIV, *factor, args[1]);
    return without_row_factors(b, args[0], factor);
  case EXPR_SELECT:
    if (is_zero(args[2]))
      return expr_select(pool, args[0], without_row_factors(b, args[1], factor), zero);
    if (is_zero(args[1]))
      return expr_select(pool, args[0], zero, without_row_factors(b, args[2], factor));
    return part;
  }
  return part;
}

/* A row's sum by its factor, which is infinite where a formula drops every key by a division by 0:
 * then nothing was added, and 0 stays 0. */
static const struct expr *with_row_factor(struct build *b, const struct expr *sum,
                                          const struct expr *factor)
{
  struct expr_pool *pool = b->pool;
  const struct expr *product = expr_mul(pool, sum, factor);
  if (factor->op == EXPR_CONST && isfinite(factor->value.f))
    return product;
  return expr_select(pool, expr_binary(pool, EXPR_EQ, sum, expr_float(pool, 0)), sum, product);
}

void maps_split_weight(struct build *b, struct build_maps *maps)
{
  struct expr_pool *pool = b->pool;
  bool tells = true; /* what a row without keys gives may be infinite: only a maximum tells */
  for (uint32_t m = 0; m < maps->count; m++)
    tells &= maps->items[m].state.maximum != NULL;
  const struct expr *rest = NULL;
  for (uint32_t m = 0; m < maps->count; m++) {
    const struct expr *part = weight_part(b, b->spec->weight, m);
    bool by_row = part == NULL || (build_class(b, part, frame_scalar()) & CLASS_KEY) == 0;
    maps->in_walk[m] = NULL;
    if (part == NULL)
      continue;
    if (!tells) {
      maps->in_walk[m] = part;
      part = expr_map(pool, m);
    } else if (!by_row) {
      const struct expr *factor = expr_float(pool, 1);
      maps->in_walk[m] = without_row_factors(b, part, &factor);
      part = with_row_factor(b, expr_map(pool, m), factor);
    } else {
      maps->in_walk[m] = expr_map(pool, m);
    }
    rest = rest == NULL ? part : expr_add(pool, rest, part);
  }
  maps->weight = rest == NULL ? expr_float(pool, 0) : rest;
}

double maps_largest(struct build *b, const struct build_maps *maps, const struct expr *weight)
{
  double *largest = ARENA_ARRAY(b->arena, double, (size_t)weight->id + 1);
  for (uint32_t id = 0; id <= weight->id; id++) {
    const struct expr *e = b->pool->nodes.items[id];
    double x = e->arg_count > 0 ? largest[e->args[0]->id] : 0;
    double y = e->arg_count > 1 ? largest[e->args[1]->id] : 0;
    double z = e->arg_count > 2 ? largest[e->args[2]->id] : 0;
    double *own = &largest[id];
    *own = (double)INFINITY;
    switch ((int)e->op) {
    case EXPR_CONST:
      if (e->type >= EXPR_FLOAT)
        *own = fabs(e->value.f);
      break;
    case EXPR_MAP:
      if (maps->items[e->value.i].algebra->bounded)
        *own = 1;
      break;
    case EXPR_NEG:
    case EXPR_ABS:
    case EXPR_CONVERT: *own = x; break;
    case EXPR_ADD:
    case EXPR_SUB: *own = x + y; break;
    case EXPR_MUL: *own = x == 0 || y == 0 ? 0 : x * y; break;
    case EXPR_DIV:
      if (e->args[1]->op == EXPR_CONST && y > 0)
        *own = x / y;
      break;
    case EXPR_MIN:
    case EXPR_MAX: *own = fmax(x, y); break;
    case EXPR_SELECT: *own = fmax(y, z); break;
    default: break;
    }
  }
  return largest[weight->id];
}

/* ---- the end of a row ---- */

void maps_rest(struct build *b, struct build_maps *maps)
{
  struct frame rows = {CLASS_QUERY, 0, 0};
  for (uint32_t m = 0; m < maps->count; m++) {
    const struct spec_map *map = &b->spec->maps[m];
    struct row_rest *rest = &maps->items[m].rest;
    if (map->sink != NULL) {
      checks_emit(b, rows, map->sink, BOUNDS_ROW, build_row_lives(b));
      double factor = maps->items[m].algebra->score_factor;
      rest->sink = build_value(b, rows, scaled(b, map->sink, factor));
    }
    if (map->at_least != NULL) {
      checks_emit(b, rows, map->at_least, BOUNDS_ROW, build_row_lives(b));
      rest->at_least = build_value(b, rows, map->at_least);
    }
  }
}

void maps_close(struct build *b, struct build_maps *maps)
{
  for (uint32_t m = 0; m < maps->count; m++) {
    struct build_map *map = &maps->items[m];
    map->norm = map->algebra->close(&b->tile, &map->state, &map->rest);
  }
}

struct tile_value *maps_alive(struct build *b, const struct build_maps *maps)
{
  struct expr_pool *pool = b->pool;
  struct tile_value *operands[SPEC_MAX_MAPS];
  const struct expr *e = expr_bool(pool, false);
  for (uint32_t m = 0; m < maps->count; m++) {
    const struct build_map *map = &maps->items[m];
    operands[m] = map->top != NULL ? map->top : row_maximum(&b->tile, map->algebra, &map->state);
    if (operands[m] == NULL)
      return NULL;
    const struct expr *nothing = row_is_nothing(&b->tile, expr_arg(pool, m, EXPR_FLOAT));
    e = expr_or(pool, e, expr_not(pool, nothing));
  }
  return tile_map(&b->tile, TILE_BOOL, e, operands, maps->count);
}

struct tile_value *weights_where(struct build *b, struct tile_value *visible,
                                 struct tile_value *alive, struct tile_value *x)
{
  struct expr_pool *pool = b->pool;
  struct tile_value *operands[3] = {x};
  const struct expr *e = expr_arg(pool, 0, EXPR_FLOAT);
  uint32_t count = 1;
  if (visible != NULL || alive != NULL) {
    const struct expr *holds = expr_bool(pool, true);
    if (visible != NULL) {
      operands[count] = visible;
      holds = expr_and(pool, holds, expr_arg(pool, count++, EXPR_BOOL));
    }
    if (alive != NULL) {
      operands[count] = alive;
      holds = expr_and(pool, holds, expr_arg(pool, count++, EXPR_BOOL));
    }
    e = expr_select(pool, holds, e, expr_float(pool, 0));
  }
  return count == 1 ? x : tile_map(&b->tile, x->type.element, e, operands, count);
}

/* ---- the second look ---- */

struct tile_value *final_weights_of(struct build *b, const struct final_weights *final,
                                    const struct pass_tile *tile)
{
  const struct build_maps *maps = final->maps;
  for (uint32_t m = 0; m < maps->count; m++) {
    const struct build_map *map = &maps->items[m];
    struct row_scores scores = pass_row_scores(b, tile, maps, m);
    build_set_value(b, expr_map(b->pool, m), frame_pair(),
                    map->algebra->weigh(&b->tile, &map->norm, &scores));
  }
  const struct expr *weight = b->spec->weight;
  struct tile_value *weights = build_tile(b, frame_pair(), weight);
  if (weight->op != EXPR_MAP)
    weights = weights_where(b, tile->visible, final->alive, weights);
  return final->total == NULL ? weights : divide_by_total(b, weights, final->total);
}

struct tile_value *divide_by_total(struct build *b, struct tile_value *x, struct tile_value *total)
{
  struct expr_pool *pool = b->pool;
  const struct expr *divisor = expr_arg(pool, 1, EXPR_FLOAT), *zero = expr_float(pool, 0);
  const struct expr *e =
      expr_select(pool, expr_binary(pool, EXPR_EQ, divisor, zero), zero,
                  expr_binary(pool, EXPR_DIV, expr_arg(pool, 0, EXPR_FLOAT), divisor));
  return row_map(&b->tile, e, 2, x, total);
}
