#include "compiler/cache/apply.h"

#include <assert.h>

/* While formulas are rewritten, ARG 0 stands for the position of the query, ARG 1 for the key's. */
enum { QUERY, KEY };

struct numbering {
  const struct expr *key, *query;           /* positions */
  const struct expr *key_rank, *query_rank; /* the same tokens' ranks: indices of NK dimensions */
  const struct spec *spec;
};

static const struct expr *marker(struct expr_pool *pool, uint32_t n)
{
  return expr_arg(pool, n, EXPR_INT);
}

static const struct expr *to_markers(void *user, struct expr_pool *pool, const struct expr *leaf)
{
  (void)user;
  if (expr_is_var(leaf, EXPR_VAR_I))
    return marker(pool, QUERY);
  return expr_is_var(leaf, EXPR_VAR_J) ? marker(pool, KEY) : NULL;
}

static const struct expr *to_ranks(void *user, struct expr_pool *pool, const struct expr *leaf)
{
  const struct numbering *n = user;
  (void)pool;
  if (leaf->op != EXPR_ARG)
    return NULL;
  return leaf->value.i == QUERY ? n->query_rank : n->key_rank;
}

/* Whether index k of a READ is along keys. */
static bool is_key_index(const struct spec *spec, const struct expr *read, uint32_t k)
{
  uint32_t tensor = (uint32_t)read->value.i;
  if (tensor == EXPR_TENSOR_K || tensor == EXPR_TENSOR_V)
    return k == 2;
  return tensor >= EXPR_TENSOR_INPUT &&
         spec->inputs[tensor - EXPR_TENSOR_INPUT].dims[k].kind == DIM_NK;
}

static const struct expr *rank_indices(void *user, struct expr_pool *pool, const struct expr *leaf)
{
  const struct numbering *n = user;
  const struct expr *indices[SPEC_MAX_RANK];
  if (leaf->op != EXPR_READ)
    return NULL;
  for (uint32_t k = 0; k < leaf->arg_count; k++)
    indices[k] = is_key_index(n->spec, leaf, k) ? expr_rewrite(pool, leaf->args[k], to_ranks, user)
                                                : leaf->args[k];
  return expr_read(pool, (uint32_t)leaf->value.i, leaf->type, indices, leaf->arg_count);
}

static const struct expr *to_positions(void *user, struct expr_pool *pool, const struct expr *leaf)
{
  const struct numbering *n = user;
  (void)pool;
  if (leaf->op != EXPR_ARG)
    return NULL;
  return leaf->value.i == QUERY ? n->query : n->key;
}

static uint32_t add_input(struct spec *spec, const char *name, bool cached)
{
  struct expr_pool *pool = spec->pool;
  assert(spec->input_count < SPEC_MAX_INPUTS);
  struct spec_input *input = &spec->inputs[spec->input_count];
  *input = (struct spec_input){.name = name,
                               .type = DTYPE_I32,
                               .rank = cached ? 2 : 1,
                               .cached = cached,
                               .span = spec->cache.span};
  input->dims[0] = (struct spec_dim){
      .kind = DIM_B, .size = expr_variable(pool, EXPR_VAR_SIZE_B), .span = spec->cache.span};
  input->dims[1] = (struct spec_dim){
      .kind = DIM_NK, .size = expr_variable(pool, EXPR_VAR_SIZE_NK), .span = spec->cache.span};
  return EXPR_TENSOR_INPUT + spec->input_count++;
}

/* Keys are walked over by rank, their positions read; those of queries end at `seen`. */
static void number_by_store(struct spec *spec)
{
  struct expr_pool *pool = spec->pool;
  const struct expr *b = expr_variable(pool, EXPR_VAR_B), *i = expr_variable(pool, EXPR_VAR_I);
  const struct expr *j = expr_variable(pool, EXPR_VAR_J);
  const struct expr *kept = expr_variable(pool, EXPR_VAR_SIZE_NK);
  struct numbering n = {.key_rank = j, .query = i, .spec = spec};
  const struct expr *place[] = {b, j};
  n.key = expr_read(pool, add_input(spec, "positions", true), EXPR_INT, place, 2);
  const struct expr *seen = expr_read(pool, add_input(spec, "seen", false), EXPR_INT, &b, 1);
  n.query_rank = expr_sub(pool, i, expr_sub(pool, seen, kept));
  spec_rewrite(spec, to_markers, NULL);
  spec_rewrite(spec, rank_indices, &n);
  spec_rewrite(spec, to_positions, &n);
  if (spec->align != ALIGN_EXPR)
    spec->offset = expr_sub(pool, seen, expr_variable(pool, EXPR_VAR_SIZE_NQ));
  spec->align = ALIGN_EXPR;
}

/* Of a walk over all positions: what the ring has lost is hidden. */
static void hide_lost(struct spec *spec)
{
  struct expr_pool *pool = spec->pool;
  const struct expr *j = expr_variable(pool, EXPR_VAR_J);
  const struct expr *length = expr_variable(pool, EXPR_VAR_SIZE_NK);
  const struct expr *first = expr_sub(pool, length, expr_int(pool, spec->cache.capacity));
  const struct expr *kept = expr_binary(pool, EXPR_LE, first, j);
  if (spec->cache.sinks > 0)
    kept = expr_or(pool, expr_binary(pool, EXPR_LT, j, expr_int(pool, spec->cache.sinks)), kept);
  spec->mask = expr_and(pool, spec->mask, kept);
}

struct cache_spec cache_apply(struct arena *arena, const struct spec *given)
{
  struct cache_spec result = {given, given->input_count};
  bool stored = given->cache.positions == CACHE_POSITIONS_STORED;
  bool walks_lost =
      given->cache.layout == CACHE_RING && given->cache.positions == CACHE_POSITIONS_ORIGINAL;
  if (!stored && !walks_lost && given->align != ALIGN_START)
    return result;
  struct spec *spec = ARENA_NEW(arena, struct spec);
  *spec = *given;
  struct expr_pool *pool = spec->pool;
  if (spec->align == ALIGN_START) {
    spec->align = ALIGN_END;
    spec->offset = expr_sub(pool, expr_variable(pool, EXPR_VAR_SIZE_NK),
                            expr_variable(pool, EXPR_VAR_SIZE_NQ));
  }
  if (stored)
    number_by_store(spec);
  if (walks_lost)
    hide_lost(spec);
  result.spec = spec;
  return result;
}
