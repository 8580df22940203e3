/* Rebuilding an expression with leaves replaced. Iterative: chains are deep. */
#include "dsl/expr_fold.h"
#include "dsl/expr_scalar.h"

#include <assert.h>

/* The result for each node that one rewrite has met, by id. An entry counts when its stamp is the
 * rewrite's. Rewrites nest (a `leaf` may rewrite), so that each takes a scratch of its own. */
struct expr_scratch {
  struct expr_scratch *next;
  uint64_t stamp;
  size_t capacity;
  struct rewritten {
    uint64_t stamp;
    const struct expr *result;
  } * entries;
  VECTOR(const struct expr *) stack;
};

struct rewriter {
  struct expr_pool *pool;
  struct expr_scratch *scratch;
  uint64_t affected; /* a node that depends on none of these is kept as it is */
  expr_replace *leaf;
  void *user;
  bool to_single;
};

static struct expr_scratch *take_scratch(struct expr_pool *pool, const struct expr *root)
{
  struct expr_scratch *scratch = pool->scratch;
  if (scratch == NULL)
    scratch = ARENA_NEW(pool->arena, struct expr_scratch);
  else
    pool->scratch = scratch->next;
  if (scratch->capacity <= root->id) {
    scratch->capacity = pool->nodes.count * 2;
    scratch->entries = ARENA_ARRAY(pool->arena, struct rewritten, scratch->capacity);
  }
  scratch->stamp++;
  scratch->stack.count = 0;
  return scratch;
}

static const struct expr *rebuild_plain(struct expr_pool *pool, const struct expr *e,
                                        enum expr_type type, const struct expr *const *args)
{
  if (e->op == EXPR_CONST && type != e->type)
    return expr_convert(pool, e, type);
  if (e->op >= EXPR_NEG && e->op <= EXPR_FLOOR)
    return expr_unary(pool, e->op, args[0]);
  if (e->op >= EXPR_ADD && e->op <= EXPR_SHIFT_RIGHT)
    return expr_binary(pool, e->op, args[0], args[1]);
  if (expr_op_is_binder(e->op))
    return expr_binder(pool, e->op, (uint32_t)e->value.i, args[0], args[1]);
  return expr_intern(pool, e->op, e->type, e->value.i, args, e->arg_count);
}

static const struct expr *rebuild(struct rewriter *rewriter, const struct expr *e,
                                  const struct expr *const *args)
{
  struct expr_pool *pool = rewriter->pool;
  bool narrow = rewriter->to_single && e->type == EXPR_FLOAT;
  enum expr_type type = narrow ? EXPR_SINGLE : e->type;
  const struct expr *result;
  if (e->op == EXPR_CONVERT)
    result = expr_convert(pool, args[0], type);
  else if (e->op == EXPR_SELECT)
    result = expr_select(pool, args[0], args[1], args[2]);
  else
    result = rebuild_plain(pool, e, type, args);

  bool is_leaf = e->op >= EXPR_VAR && e->op <= EXPR_READ;
  if (is_leaf && rewriter->leaf != NULL) {
    const struct expr *replaced = rewriter->leaf(rewriter->user, pool, result);
    assert(replaced == NULL || replaced->type == e->type);
    if (replaced != NULL)
      result = replaced;
  }
  return expr_convert(pool, result, type);
}

enum { LOCAL_ARGS = 16 };

static const struct expr *finish(struct rewriter *rewriter, const struct expr *e)
{
  const struct expr *local[LOCAL_ARGS];
  const struct expr **args = local;
  if (e->arg_count > LOCAL_ARGS)
    args = ARENA_ARRAY(rewriter->pool->arena, const struct expr *, e->arg_count);
  bool changed = false;
  for (uint32_t k = 0; k < e->arg_count; k++) {
    args[k] = rewriter->scratch->entries[e->args[k]->id].result;
    changed |= args[k] != e->args[k];
  }
  bool is_leaf = e->op >= EXPR_VAR && e->op <= EXPR_READ;
  if (!changed && !is_leaf && !rewriter->to_single)
    return e;
  return rebuild(rewriter, e, args);
}

static const struct expr *rewrite(struct rewriter *rewriter, const struct expr *root)
{
  struct expr_pool *pool = rewriter->pool;
  if ((root->deps & rewriter->affected) == 0 && !rewriter->to_single)
    return root;
  struct span span = pool->span;
  struct expr_scratch *scratch = take_scratch(pool, root);
  rewriter->scratch = scratch;
  vector_push(pool->arena, &scratch->stack, root);
  while (scratch->stack.count != 0) {
    const struct expr *e = scratch->stack.items[scratch->stack.count - 1];
    struct rewritten *entry = &scratch->entries[e->id];
    bool pending = false;
    bool skip = (e->deps & rewriter->affected) == 0 && !rewriter->to_single;
    if (entry->stamp != scratch->stamp && !skip)
      for (uint32_t k = e->arg_count; k-- > 0;)
        if (scratch->entries[e->args[k]->id].stamp != scratch->stamp) {
          vector_push(pool->arena, &scratch->stack, e->args[k]);
          pending = true;
        }
    if (pending)
      continue;
    scratch->stack.count--;
    if (entry->stamp == scratch->stamp)
      continue;
    pool->span = e->span;
    entry->result = skip ? e : finish(rewriter, e);
    entry->stamp = scratch->stamp;
  }
  const struct expr *result = scratch->entries[root->id].result;
  scratch->next = pool->scratch;
  pool->scratch = scratch;
  pool->span = span;
  return result;
}

const struct expr *expr_rewrite(struct expr_pool *pool, const struct expr *root, expr_replace *leaf,
                                void *user)
{
  struct rewriter rewriter = {
      .pool = pool,
      .affected = ~UINT64_C(0),
      .leaf = leaf,
      .user = user,
  };
  return rewrite(&rewriter, root);
}

struct substitution {
  enum expr_var var;
  const struct expr *by;
};

static const struct expr *substitute_leaf(void *user, struct expr_pool *pool,
                                          const struct expr *leaf)
{
  (void)pool;
  const struct substitution *substitution = user;
  return expr_is_var(leaf, substitution->var) ? substitution->by : NULL;
}

const struct expr *expr_substitute(struct expr_pool *pool, const struct expr *root,
                                   enum expr_var var, const struct expr *by)
{
  struct substitution substitution = {.var = var, .by = by};
  struct rewriter rewriter = {
      .pool = pool,
      .affected = EXPR_DEP(var),
      .leaf = substitute_leaf,
      .user = &substitution,
  };
  return rewrite(&rewriter, root);
}

const struct expr *expr_to_single(struct expr_pool *pool, const struct expr *root)
{
  struct rewriter rewriter = {.pool = pool, .affected = ~UINT64_C(0), .to_single = true};
  return rewrite(&rewriter, root);
}
