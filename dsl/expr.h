/* The expression DAG: every scalar formula of a spec, and everything that is derived from one.
 *
 * Nodes are hash-consed in a pool: structurally equal expressions are one pointer. They are folded
 * and canonicalised when made and never change. A node's children have smaller ids, so that tables
 * indexed by id can be filled in order. Vectors are expressions with a free channel (a BOUND or
 * EXPR_VAR_C); dot(x, y) is SUM over c of x(c) * y(c).
 *
 * The five types:
 *   BOOL
 *   INT     32 bits, wraps
 *   LONG    64 bits, wraps; made by analyses and address arithmetic only, a spec cannot write it
 *   FLOAT   f32 in kernels, float64 in the reference
 *   SINGLE  f32 in kernels and in the reference, operation by operation; what feeds a mask or an
 * index is single, so that both decide alike (language.md, design.md "Numbers"). Transcendental
 * functions of singles are defined as the float64 result rounded to f32.
 */
#ifndef ATTN_DSL_EXPR_H
#define ATTN_DSL_EXPR_H

#include "dsl/base/memory.h"
#include "dsl/source.h"

#include <stdio.h>

enum expr_type { EXPR_BOOL, EXPR_INT, EXPR_LONG, EXPR_FLOAT, EXPR_SINGLE };

enum expr_op {
#define EXPR_OP(name, arity, text) EXPR_##name,
#include "dsl/expr_ops.def"
#undef EXPR_OP
  EXPR_OP_COUNT
};

/* What an expression may depend on. Also the bit positions of `deps`. All are INT unless said. */
enum expr_var {
  EXPR_VAR_B,      /* sequence of the batch */
  EXPR_VAR_H,      /* query head */
  EXPR_VAR_G,      /* K/V head; depends on h */
  EXPR_VAR_I,      /* query position */
  EXPR_VAR_J,      /* key position */
  EXPR_VAR_R,      /* row of the query tensor: i - offset */
  EXPR_VAR_C,      /* channel, in value and post */
  EXPR_VAR_T,      /* position in `at` and rotary angles: stands for i or j and is substituted */
  EXPR_VAR_N,      /* block number in select */
  EXPR_VAR_SIZE_B, /* sizes that a launch gives; H, G, D, DV are constants */
  EXPR_VAR_SIZE_NQ,
  EXPR_VAR_SIZE_NK,
  EXPR_VAR_OFFSET,
  EXPR_VAR_S,       /* FLOAT: score so far */
  EXPR_VAR_LSE,     /* FLOAT: in post */
  EXPR_VAR_TILE_I0, /* LONG: first and last position of a tile, both inclusive; made by the analyses
                     */
  EXPR_VAR_TILE_I1,
  EXPR_VAR_TILE_J0,
  EXPR_VAR_TILE_J1,
  EXPR_VAR_COUNT
};

/* Bits of `deps` beyond the variables. */
enum {
  EXPR_DEP_PARAM = 24, /* some parameter */
  EXPR_DEP_READ = 25,  /* some tensor's contents */
  EXPR_DEP_MAP = 26,
  EXPR_DEP_ARG = 27,
  EXPR_DEP_BOUND = 32, /* 32 + level: a BOUND of that level that is free in the expression */
  EXPR_MAX_LEVEL = 31
};
#define EXPR_DEP(bit) (UINT64_C(1) << (bit))

/* Tensors that READ may name. Index order: */
enum expr_tensor {
  EXPR_TENSOR_Q, /* b, h, r, c */
  EXPR_TENSOR_K, /* b, g, j, c */
  EXPR_TENSOR_V, /* b, g, j, c */
  EXPR_TENSOR_O, /* c: the row's finished output, in post */
  EXPR_TENSOR_INPUT,
  /* Tensors of a cache, numbered as its plan does; in the compiler only. */
  EXPR_TENSOR_CACHE = EXPR_TENSOR_INPUT + 64
};

struct expr {
  enum expr_op op;
  enum expr_type type;
  uint32_t id; /* dense from 0 within its pool */
  uint32_t height;
  uint64_t deps; /* EXPR_DEP bits of everything below, bound levels that are closed excepted */
  union {
    int64_t i;
    double f;
  } value;
  struct span span; /* where the first expression of this shape was written */
  uint32_t arg_count;
  const struct expr *const *args;
};

struct expr_scratch;

struct expr_pool {
  struct arena *arena;
  VECTOR(const struct expr *) nodes; /* by id */
  const struct expr **slots;
  size_t slot_count;
  struct span
      span; /* given to nodes as they are made; the front end sets it to the construct at hand */
  struct expr_scratch *scratch; /* tables that rewrites use again */
};

void expr_pool_init(struct expr_pool *pool, struct arena *arena);

const char *expr_op_name(enum expr_op op);
const char *expr_var_name(enum expr_var var); /* as in the language: "i", "NK" */
const char *expr_type_name(enum expr_type type);

/* Constructors. Types must already agree (convert first); an assert checks. Each folds constants
 * and the identities that hold for every value of the type, NaN and wrap included. */
const struct expr *expr_bool(struct expr_pool *pool, bool value);
const struct expr *expr_int(struct expr_pool *pool, int64_t value); /* wrapped to 32 bits */
const struct expr *expr_long(struct expr_pool *pool, int64_t value);
const struct expr *expr_float(struct expr_pool *pool, double value);
const struct expr *expr_single(struct expr_pool *pool, double value); /* rounded to f32 */
const struct expr *expr_variable(struct expr_pool *pool, enum expr_var var);
const struct expr *expr_param(struct expr_pool *pool, uint32_t index, enum expr_type type);
const struct expr *expr_bound(struct expr_pool *pool, uint32_t level);
const struct expr *expr_map(struct expr_pool *pool, uint32_t index);
const struct expr *expr_arg(struct expr_pool *pool, uint32_t index, enum expr_type type);
/* tensor: enum expr_tensor or EXPR_TENSOR_INPUT + index. Float tensors read as FLOAT, integer ones
 * as INT, bool as BOOL. Not folded; an index out of range is a run-time error (guarded or proved).
 */
const struct expr *expr_read(struct expr_pool *pool, uint32_t tensor, enum expr_type type,
                             const struct expr *const *indices, size_t count);
const struct expr *expr_range(struct expr_pool *pool, enum expr_op op, uint32_t tensor,
                              enum expr_type type, const struct expr *const *indices, size_t count);
const struct expr *expr_unary(struct expr_pool *pool, enum expr_op op, const struct expr *a);
const struct expr *expr_binary(struct expr_pool *pool, enum expr_op op, const struct expr *a,
                               const struct expr *b);
const struct expr *expr_convert(struct expr_pool *pool, const struct expr *a, enum expr_type type);
const struct expr *expr_select(struct expr_pool *pool, const struct expr *condition,
                               const struct expr *yes, const struct expr *no);
const struct expr *expr_random(struct expr_pool *pool, enum expr_op op,
                               const struct expr *const *keys, size_t count);
const struct expr *expr_binder(struct expr_pool *pool, enum expr_op op, uint32_t level,
                               const struct expr *extent, const struct expr *body);

/* Shorthands. */
static inline const struct expr *expr_add(struct expr_pool *p, const struct expr *a,
                                          const struct expr *b)
{
  return expr_binary(p, EXPR_ADD, a, b);
}
static inline const struct expr *expr_sub(struct expr_pool *p, const struct expr *a,
                                          const struct expr *b)
{
  return expr_binary(p, EXPR_SUB, a, b);
}
static inline const struct expr *expr_mul(struct expr_pool *p, const struct expr *a,
                                          const struct expr *b)
{
  return expr_binary(p, EXPR_MUL, a, b);
}
static inline const struct expr *expr_min(struct expr_pool *p, const struct expr *a,
                                          const struct expr *b)
{
  return expr_binary(p, EXPR_MIN, a, b);
}
static inline const struct expr *expr_max(struct expr_pool *p, const struct expr *a,
                                          const struct expr *b)
{
  return expr_binary(p, EXPR_MAX, a, b);
}
static inline const struct expr *expr_quotient(struct expr_pool *p, const struct expr *a,
                                               const struct expr *b) /* floor(a / b) */
{
  return expr_binary(p, EXPR_FLOORDIV, a, b);
}
static inline const struct expr *expr_quotient_up(struct expr_pool *p, const struct expr *a,
                                                  const struct expr *b) /* ceil(a / b), b > 0 */
{
  const struct expr *one = expr_convert(p, expr_int(p, 1), b->type);
  return expr_quotient(p, expr_add(p, a, expr_sub(p, b, one)), b);
}
static inline const struct expr *expr_and(struct expr_pool *p, const struct expr *a,
                                          const struct expr *b)
{
  return expr_binary(p, EXPR_AND, a, b);
}
static inline const struct expr *expr_or(struct expr_pool *p, const struct expr *a,
                                         const struct expr *b)
{
  return expr_binary(p, EXPR_OR, a, b);
}
static inline const struct expr *expr_not(struct expr_pool *p, const struct expr *a)
{
  return expr_unary(p, EXPR_NOT, a);
}

bool expr_is_const(const struct expr *e);
bool expr_is_true(const struct expr *e);
bool expr_is_false(const struct expr *e);
static inline bool expr_depends(const struct expr *e, enum expr_var var)
{
  return (e->deps >> var & 1) != 0;
}
static inline bool expr_is_var(const struct expr *e, enum expr_var var)
{
  return e->op == EXPR_VAR && e->value.i == (int64_t)var;
}

/* Rebuilds `root` in `pool` with leaves replaced: `leaf` is called for each CONST-less leaf (VAR,
 * PARAM, BOUND, MAP, ARG) and for each READ after its indices were rebuilt, and returns the
 * replacement of the same type, or NULL to keep it. Replacements must not contain free BOUNDs that
 * an enclosing binder of `root` would capture. */
typedef const struct expr *expr_replace(void *user, struct expr_pool *pool,
                                        const struct expr *leaf);
const struct expr *expr_rewrite(struct expr_pool *pool, const struct expr *root, expr_replace *leaf,
                                void *user);

/* Replaces one variable. */
const struct expr *expr_substitute(struct expr_pool *pool, const struct expr *root,
                                   enum expr_var var, const struct expr *by);

/* FLOAT nodes become SINGLE ones throughout (a FLOAT input read is converted); what masks and
 * indices are made of. */
const struct expr *expr_to_single(struct expr_pool *pool, const struct expr *root);

/* Prints in the language's syntax with the fewest parentheses; names of parameters and inputs come
 * from the callbacks' tables (NULL: p0, t0 and so on). Conversions that the language makes by
 * itself are not shown. What lies deeper than 500 levels or beyond 64 KiB of text is cut short to
 * "...". */
struct expr_names {
  const char *const *params;
  const char *const *inputs; /* by input index, EXPR_TENSOR_INPUT subtracted */
};
char *expr_print(struct arena *arena, const struct expr *e, const struct expr_names *names);

#endif
