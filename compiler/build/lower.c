/* Formulas of the spec as expressions over a tile op's operands. */
#include "compiler/build/access.h"

#include "dsl/expr_fold.h"

/* ---- rebuilding ---- */

/* Whether some BOUND of an enclosing binder is free in e. */
static bool has_free_bound(const struct expr *e)
{
  return e->deps >> EXPR_DEP_BOUND != 0;
}

/* The node `e` with other operands, folded again. */
static const struct expr *rebuild(struct expr_pool *pool, const struct expr *e,
                                  const struct expr *const *args)
{
  if (e->op == EXPR_CONVERT)
    return expr_convert(pool, args[0], e->type);
  if (e->op >= EXPR_NEG && e->op <= EXPR_FLOOR)
    return expr_unary(pool, e->op, args[0]);
  if (e->op >= EXPR_ADD && e->op <= EXPR_SHIFT_RIGHT)
    return expr_binary(pool, e->op, args[0], args[1]);
  if (e->op == EXPR_SELECT)
    return expr_select(pool, args[0], args[1], args[2]);
  if (expr_op_is_binder(e->op))
    return expr_binder(pool, e->op, (uint32_t)e->value.i, args[0], args[1]);
  return expr_intern(pool, e->op, e->type, e->value.i, args, e->arg_count);
}

typedef const struct expr *finish_fn(void *user, const struct expr *e,
                                     const struct expr *const *args);

/* From the top down, `replace` may settle a node; what it leaves is made from its operands, from
 * the bottom up. Ids order both ways, so that chains of any depth need no stack. */
static const struct expr *transform(struct build *b, const struct expr *root,
                                    build_replace *replace, finish_fn *finish, void *user)
{
  const struct expr **results = ARENA_ARRAY(b->arena, const struct expr *, (size_t)root->id + 1);
  bool *wanted = ARENA_ARRAY(b->arena, bool, (size_t)root->id + 1);
  wanted[root->id] = true;
  for (uint32_t id = root->id + 1; id-- > 0;) {
    const struct expr *e = b->pool->nodes.items[id];
    if (!wanted[id])
      continue;
    results[id] = replace(user, e);
    for (uint32_t k = 0; results[id] == NULL && k < e->arg_count; k++)
      wanted[e->args[k]->id] = true;
  }
  const struct expr **args = NULL;
  uint32_t room = 0;
  for (uint32_t id = 0; id <= root->id; id++) {
    const struct expr *e = b->pool->nodes.items[id];
    if (!wanted[id] || results[id] != NULL)
      continue;
    if (e->arg_count > room) {
      room = e->arg_count;
      args = ARENA_ARRAY(b->arena, const struct expr *, room);
    }
    for (uint32_t k = 0; k < e->arg_count; k++)
      args[k] = results[e->args[k]->id];
    results[id] = finish(user, e, args);
  }
  return results[root->id];
}

struct plain_transform {
  struct build *b;
  build_replace *replace;
  void *user;
};

static const struct expr *plain_replace(void *user, const struct expr *e)
{
  struct plain_transform *t = user;
  return t->replace(t->user, e);
}

static const struct expr *plain_finish(void *user, const struct expr *e,
                                       const struct expr *const *args)
{
  struct plain_transform *t = user;
  return rebuild(t->b->pool, e, args);
}

const struct expr *build_transform(struct build *b, const struct expr *root, build_replace *replace,
                                   void *user)
{
  struct plain_transform t = {b, replace, user};
  return transform(b, root, plain_replace, plain_finish, &t);
}

struct bound_substitution {
  uint32_t level;
  const struct expr *by;
};

static const struct expr *replace_bound(void *user, const struct expr *e)
{
  const struct bound_substitution *s = user;
  if ((e->deps & EXPR_DEP(EXPR_DEP_BOUND + s->level)) == 0)
    return e;
  return e->op == EXPR_BOUND ? s->by : NULL;
}

const struct expr *build_substitute_bound(struct build *b, const struct expr *body, uint32_t level,
                                          const struct expr *by)
{
  struct bound_substitution s = {level, by};
  return build_transform(b, body, replace_bound, &s);
}

/* ---- lowering ---- */

const struct expr *lower_operand(struct lowering *l, struct tile_value *value, enum expr_type type)
{
  uint32_t n = 0;
  while (n < l->operands.count && l->operands.items[n] != value)
    n++;
  if (n == l->operands.count)
    vector_push(l->b->arena, &l->operands, value);
  enum expr_type held = tile_element_expr_type(value->type.element);
  return expr_convert(l->b->pool, expr_arg(l->b->pool, n, held), type);
}

/* A leaf that is the same in every task, or that stands for itself. */
static const struct expr *lower_leaf(struct lowering *l, const struct expr *e)
{
  struct build *b = l->b;
  switch ((int)e->op) {
  case EXPR_CONST:
  case EXPR_BOUND:
  case EXPR_ARG: return e;
  case EXPR_PARAM: return build_param(b, (uint32_t)e->value.i);
  case EXPR_VAR: break;
  default: return NULL;
  }
  if (expr_is_var(e, EXPR_VAR_TILE_J0) || expr_is_var(e, EXPR_VAR_TILE_J1))
    return e;
  if (expr_is_var(e, EXPR_VAR_OFFSET) && b->spec->align == ALIGN_START)
    return expr_int(b->pool, 0);
  bool is_size = e->value.i >= EXPR_VAR_SIZE_B && e->value.i <= EXPR_VAR_SIZE_NK;
  if (is_size && (expr_is_var(e, EXPR_VAR_SIZE_B) ||
                  !build_has_own_length(b, expr_is_var(e, EXPR_VAR_SIZE_NK))))
    return build_size(b, (enum expr_var)e->value.i);
  return NULL;
}

struct lowering_walk {
  struct lowering *l;
  const struct expr *root;
  unsigned root_class;
};

/* What becomes an operand, of what lies below the root. */
static const struct expr *replace_by_operand(void *user, const struct expr *e)
{
  struct lowering_walk *walk = user;
  struct lowering *l = walk->l;
  struct build *b = l->b;
  const struct expr *leaf = lower_leaf(l, e);
  if (leaf != NULL)
    return leaf;
  if (has_free_bound(e))
    return NULL;
  struct tile_value *value = build_find_value(b, e, l->frame);
  struct product product;
  unsigned class = build_class(b, e, l->frame);
  if (value != NULL)
    return lower_operand(l, value, e->type);
  bool settled = e->op == EXPR_VAR || class != walk->root_class;
  settled |= product_find(b, e, &product);
  settled |= e->op == EXPR_READ && operand_is_loadable(b, l->frame, e);
  if (settled && e != walk->root)
    return lower_operand(l, build_value(b, l->frame, e), e->type);
  bool cached = e->op == EXPR_READ && access_is_cached(b, (uint32_t)e->value.i);
  return cached ? operand_read(l, e, NULL) : NULL;
}

static const struct expr *lower_node(void *user, const struct expr *e,
                                     const struct expr *const *args)
{
  struct lowering_walk *walk = user;
  struct lowering *l = walk->l;
  if (e->op == EXPR_READ)
    return operand_read(l, e, args);
  if (e->op == EXPR_RANGE_MIN || e->op == EXPR_RANGE_MAX)
    return operand_range(l, e, args);
  return rebuild(l->b->pool, e, args);
}

const struct expr *lower_expr(struct lowering *l, const struct expr *e)
{
  struct lowering_walk walk = {l, e, build_class(l->b, e, l->frame)};
  return transform(l->b, e, replace_by_operand, lower_node, &walk);
}

/* ---- linearity ---- */

struct linearity {
  bool zero, linear, constant; /* constant: holds no leaf */
};

bool build_is_linear(const struct build *b, const struct expr *root,
                     bool (*is_leaf)(const struct expr *))
{
  struct linearity *table = ARENA_ARRAY(b->arena, struct linearity, (size_t)root->id + 1);
  for (uint32_t id = 0; id <= root->id; id++) {
    const struct expr *e = b->pool->nodes.items[id];
    struct linearity *own = &table[id];
    if (is_leaf(e)) {
      own->linear = true;
      continue;
    }
    own->constant = true;
    for (uint32_t k = 0; k < e->arg_count; k++)
      own->constant &= table[e->args[k]->id].constant;
    own->zero = e->op == EXPR_CONST && e->value.f == 0 && e->type >= EXPR_FLOAT;
    if (own->constant) {
      own->linear = own->zero;
      continue;
    }
    const struct linearity *x = &table[e->args[0]->id];
    const struct linearity *y = e->arg_count > 1 ? &table[e->args[1]->id] : x;
    switch ((int)e->op) {
    case EXPR_NEG: own->linear = x->linear; break;
    case EXPR_CONVERT: own->linear = x->linear && e->type >= EXPR_FLOAT; break;
    case EXPR_MUL: own->linear = (x->linear && y->constant) || (x->constant && y->linear); break;
    case EXPR_DIV: own->linear = x->linear && y->constant; break;
    case EXPR_ADD:
    case EXPR_SUB: own->linear = x->linear && y->linear; break;
    case EXPR_SELECT: own->linear = x->constant && y->linear && table[e->args[2]->id].linear; break;
    default: break;
    }
  }
  return table[root->id].linear;
}
