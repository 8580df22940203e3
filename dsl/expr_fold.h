/* Between the pool (expr.c), the folding constructors (expr_fold.c) and the rewriter
 * (expr_rewrite.c); nobody else makes nodes without folding. */
#ifndef ATTN_DSL_EXPR_FOLD_H
#define ATTN_DSL_EXPR_FOLD_H

#include "dsl/expr_eval.h"

static inline bool expr_op_is_binder(enum expr_op op)
{
  return op >= EXPR_SUM && op <= EXPR_COUNT;
}

/* The one node of this shape. `args` is copied when the node is new. */
const struct expr *expr_intern(struct expr_pool *pool, enum expr_op op, enum expr_type type,
                               int64_t bits, const struct expr *const *args, size_t count);

/* A constant of any type; the value must be one of the type's (wrapped, rounded). */
const struct expr *expr_constant(struct expr_pool *pool, enum expr_type type,
                                 union expr_value value);

#endif
