/* The end of a row: `post`, and what is stored. */
#include "compiler/build/passes.h"

/* A sum over all of o, in `post`: READ(O; BOUND). */
struct result_channels {
  struct build *b;
  bool all; /* whether o is read by EXPR_VAR_C only */
};

static const struct expr *replace_result(void *user, const struct expr *e)
{
  struct result_channels *r = user;
  if (e->op == EXPR_SUM &&
      build_find_value(r->b, e, frame_channels(CLASS_QUERY, r->b->spec->dim_v)) != NULL)
    return e;
  if (e->op != EXPR_READ || e->value.i != EXPR_TENSOR_O)
    return NULL;
  r->all &= expr_is_var(e->args[0], EXPR_VAR_C);
  return expr_map(r->b->pool, 0);
}

static bool reads_result(struct build *b, const struct expr *root)
{
  bool *wanted = ARENA_ARRAY(b->arena, bool, (size_t)root->id + 1);
  wanted[root->id] = true;
  for (uint32_t id = root->id + 1; id-- > 0;) {
    const struct expr *e = b->pool->nodes.items[id];
    if (wanted[id] && e->op == EXPR_READ && e->value.i == EXPR_TENSOR_O)
      return true;
    for (uint32_t k = 0; wanted[id] && k < e->arg_count; k++)
      wanted[e->args[k]->id] = true;
  }
  return false;
}

static const struct expr *sum_results(void *user, const struct expr *e)
{
  struct build *b = user;
  bool sum = e->op == EXPR_SUM && e->type == EXPR_FLOAT && reads_result(b, e->args[1]);
  if (!sum || e->args[0]->op != EXPR_CONST || e->args[0]->value.i != b->spec->dim_v)
    return NULL;
  if (expr_depends(e, EXPR_VAR_C)) /* a channel of its own, which the sum's would be taken for */
    return NULL;
  struct frame frame = frame_channels(CLASS_QUERY, b->spec->dim_v);
  struct result_channels r = {b, true};
  const struct expr *body =
      build_substitute_bound(b, e->args[1], (uint32_t)e->value.i, build_var(b, EXPR_VAR_C));
  body = build_transform(b, body, replace_result, &r);
  if (!r.all || body->deps >> EXPR_DEP_BOUND != 0)
    return NULL;
  build_set_value(b, e, frame,
                  tile_reduce(&b->tile, TILE_REDUCE_SUM, 1, build_tile(b, frame, body)));
  return e;
}

static struct tile_value *apply_post(struct build *b, struct tile_value *o, struct tile_value *lse)
{
  struct frame frame = frame_channels(CLASS_QUERY, b->spec->dim_v);
  const struct expr *post = b->spec->post;
  build_set_value(b, expr_map(b->pool, 0), frame, o);
  if (lse != NULL)
    build_set_var(b, EXPR_VAR_LSE, frame, lse);
  checks_emit(b, frame, post, BOUNDS_ROW, build_row_lives(b));
  build_transform(b, post, sum_results, b);
  struct result_channels r = {b, true};
  const struct expr *e = build_transform(b, post, replace_result, &r);
  if (!r.all)
    build_unsupported(b, post->span, "a channel of o other than its own");
  return build_tile(b, frame, e);
}

static struct tile_value *lse_of(struct build *b, const struct build_map *map)
{
  if (map->algebra->lse == NULL)
    return NULL;
  return map->algebra->lse(&b->tile, &map->state, &map->rest);
}

void finish_store(struct build *b, const struct build_maps *maps, struct tile_value *o,
                  struct tile_value *const *entropies)
{
  const struct spec *spec = b->spec;
  struct tile_value *lse[SPEC_MAX_MAPS] = {0};
  if (spec->post != NULL && expr_depends(spec->post, EXPR_VAR_LSE))
    lse[0] = lse_of(b, &maps->items[0]);
  for (uint32_t n = 0; n < spec->output_count; n++) {
    uint32_t m = spec->outputs[n].map;
    if (spec->outputs[n].kind == OUTPUT_LSE && lse[m] == NULL)
      lse[m] = lse_of(b, &maps->items[m]);
  }
  if (spec->post != NULL)
    o = apply_post(b, o, lse[0]);
  struct placement place = {.column = build_value(b, frame_scalar(), expr_long(b->pool, 0)),
                            .live_columns =
                                build_value(b, frame_scalar(), expr_long(b->pool, spec->dim_v))};
  operand_store(b, build_tensor(b, EXPR_TENSOR_O), place, o);
  for (uint32_t n = 0; n < spec->output_count; n++) {
    const struct build_map *map = &maps->items[spec->outputs[n].map];
    struct tile_value *x = NULL; /* where the front end has refused it, or others store it */
    switch (spec->outputs[n].kind) {
    case OUTPUT_LSE: x = lse[spec->outputs[n].map]; break;
    case OUTPUT_MAX: x = row_maximum(&b->tile, map->algebra, &map->state); break;
    case OUTPUT_ENTROPY: x = entropies[n]; break;
    case OUTPUT_MASS:
    case OUTPUT_WEIGHTS: break;
    }
    if (x != NULL)
      operand_store(b, build_output(b, n), (struct placement){0}, x);
  }
}
