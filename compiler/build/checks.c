/* Indices that are not proved in range are checked where the formula reaches them, and only there.
 */
#include "compiler/build/build.h"

#include "dsl/expr_fold.h"

/* An enclosing sum, any or all. */
struct enclosing {
  const struct enclosing *outer;
  uint32_t level, depth;
  const struct expr *extent;
};

struct checker {
  struct build *b;
  struct frame frame;
  enum bounds_place place;
};

bool checks_needed(struct build *b, const struct expr *root, enum bounds_place place)
{
  if ((root->deps >> EXPR_DEP_READ & 1) == 0)
    return false;
  bool *wanted = ARENA_ARRAY(b->arena, bool, (size_t)root->id + 1);
  wanted[root->id] = true;
  for (uint32_t id = root->id + 1; id-- > 0;) {
    const struct expr *e = b->pool->nodes.items[id];
    if (!wanted[id])
      continue;
    if (e->op == EXPR_READ && e->value.i != EXPR_TENSOR_O)
      for (uint32_t k = 0; k < e->arg_count; k++)
        if (bounds_needs_guard(b->bounds, e, k, place))
          return true;
    for (uint32_t k = 0; k < e->arg_count; k++)
      wanted[e->args[k]->id] = true;
  }
  return false;
}

static uint32_t fault_site(struct build *b, const struct expr *read, uint32_t dim)
{
  struct tile_kernel *kernel = b->tile.kernel;
  struct tile_fault_site site = {(uint32_t)read->value.i, dim, read->span};
  for (uint32_t n = 0; n < kernel->sites.count; n++) {
    const struct tile_fault_site *other = &kernel->sites.items[n];
    if (other->tensor == site.tensor && other->dim == dim &&
        other->span.source == site.span.source && other->span.begin == site.span.begin &&
        other->span.end == site.span.end)
      return n;
  }
  vector_push(b->arena, &kernel->sites, site);
  return (uint32_t)kernel->sites.count - 1;
}

static const struct expr *replace_size(void *user, const struct expr *e)
{
  struct build *b = user;
  bool is_size =
      e->op == EXPR_VAR && e->value.i >= EXPR_VAR_SIZE_B && e->value.i <= EXPR_VAR_SIZE_NK;
  uint32_t number = SPEC_MAX_PARAMS + (uint32_t)(e->value.i - EXPR_VAR_SIZE_B);
  return is_size ? expr_param(b->pool, number, EXPR_INT) : NULL;
}

static void check_index(struct checker *c, const struct expr *read, uint32_t dim,
                        const struct expr *reached, const struct enclosing *enclosing)
{
  struct build *b = c->b;
  struct expr_pool *pool = b->pool;
  struct storage storage;
  build_storage(b, (uint32_t)read->value.i, &storage);
  const struct expr *size = storage.dims[dim].size;
  if (!storage.packed || dim != storage.tokens) /* of the longest sequence, not of this one */
    size = build_transform(b, size, replace_size, b);
  const struct expr *index = read->args[dim];
  const struct expr *inside = expr_and(pool, expr_binary(pool, EXPR_LE, expr_int(pool, 0), index),
                                       expr_binary(pool, EXPR_LT, index, size));
  const struct expr *ok = expr_or(pool, expr_not(pool, reached), inside);
  for (const struct enclosing *e = enclosing; e != NULL; e = e->outer) {
    const struct expr *wrong = expr_select(pool, ok, expr_int(pool, INT32_MIN), index);
    index = expr_binder(pool, EXPR_FOLD_MAX, e->level, e->extent, wrong);
    ok = expr_binder(pool, EXPR_ALL, e->level, e->extent, ok);
  }
  struct lowering l = {.b = b, .frame = c->frame};
  const struct expr *lowered_ok = lower_expr(&l, ok);
  const struct expr *lowered_index = lower_expr(&l, index);
  if (!expr_is_true(lowered_ok))
    tile_check(&b->tile, lowered_ok, lowered_index, fault_site(b, read, dim), l.operands.items,
               l.operands.count);
}

/* `any` stops at the first body that holds, `all` at the first that does not. */
static const struct expr *still_going(struct build *b, const struct expr *binder, uint32_t depth)
{
  struct expr_pool *pool = b->pool;
  uint32_t level = (uint32_t)binder->value.i;
  uint32_t earlier = EXPR_MAX_LEVEL - 1 - depth; /* above all levels of the front end */
  const struct expr *body =
      build_substitute_bound(b, binder->args[1], level, expr_bound(pool, earlier));
  const struct expr *before = expr_binder(pool, binder->op, earlier, expr_bound(pool, level), body);
  return binder->op == EXPR_ANY ? expr_not(pool, before) : before;
}

static void visit(struct checker *c, const struct expr *root, const struct expr *reached,
                  const struct enclosing *enclosing);

static void visit_binder(struct checker *c, const struct expr *e, const struct expr *reached,
                         const struct enclosing *enclosing)
{
  if (!checks_needed(c->b, e->args[1], c->place))
    return;
  struct enclosing own = {enclosing, (uint32_t)e->value.i,
                          enclosing == NULL ? 0 : enclosing->depth + 1, e->args[0]};
  if (e->op == EXPR_ANY || e->op == EXPR_ALL)
    reached = expr_and(c->b->pool, reached, still_going(c->b, e, own.depth));
  visit(c, e->args[1], reached, &own);
}

/* Where each node below the root is reached: under any of its users. Users have larger ids. */
static void visit(struct checker *c, const struct expr *root, const struct expr *reached,
                  const struct enclosing *enclosing)
{
  struct expr_pool *pool = c->b->pool;
  const struct expr **where = ARENA_ARRAY(c->b->arena, const struct expr *, (size_t)root->id + 1);
  where[root->id] = reached;
  for (uint32_t id = root->id + 1; id-- > 0;) {
    const struct expr *e = pool->nodes.items[id];
    const struct expr *here = where[id];
    if (here == NULL || (e->deps >> EXPR_DEP_READ & 1) == 0)
      continue;
    if (e->op == EXPR_READ && e->value.i != EXPR_TENSOR_O)
      for (uint32_t k = 0; k < e->arg_count; k++)
        if (bounds_needs_guard(c->b->bounds, e, k, c->place))
          check_index(c, e, k, here, enclosing);
    bool binder = expr_op_is_binder(e->op);
    if (binder)
      visit_binder(c, e, here, enclosing);
    for (uint32_t k = 0; k < (binder ? 1 : e->arg_count); k++) {
      const struct expr *condition = here;
      if (e->op == EXPR_AND && k == 1)
        condition = expr_and(pool, here, e->args[0]);
      else if (e->op == EXPR_OR && k == 1)
        condition = expr_and(pool, here, expr_not(pool, e->args[0]));
      else if (e->op == EXPR_SELECT && k > 0)
        condition = expr_and(pool, here, k == 1 ? e->args[0] : expr_not(pool, e->args[0]));
      const struct expr **other = &where[e->args[k]->id];
      *other = *other == NULL ? condition : expr_or(pool, *other, condition);
    }
  }
}

void checks_emit(struct build *b, struct frame frame, const struct expr *e, enum bounds_place place,
                 const struct expr *reached)
{
  if (!checks_needed(b, e, place))
    return;
  struct checker c = {b, frame, place};
  visit(&c, e, reached, NULL);
}
