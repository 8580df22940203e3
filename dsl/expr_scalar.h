/* One operation on scalars: what folding, the evaluator and the tests agree on.
 *
 * FLOAT and SINGLE operands are doubles. With `f32` set the result is rounded to f32 (once: an f64
 * sum, product, quotient or root of f32 operands rounds to the f32 one). INT results wrap to 32
 * bits.
 */
#ifndef ATTN_DSL_EXPR_SCALAR_H
#define ATTN_DSL_EXPR_SCALAR_H

#include "dsl/expr_eval.h"

static inline bool expr_type_is_real(enum expr_type type)
{
  return type == EXPR_FLOAT || type == EXPR_SINGLE;
}

/* Wraps to 32 bits. */
static inline int64_t expr_wrap(int64_t value)
{
  return (int64_t)(int32_t)(uint32_t)(uint64_t)value;
}

/* `type` is that of the operands. NEG to FLOOR, but not CONVERT. */
union expr_value expr_apply_unary(enum expr_op op, enum expr_type type, union expr_value a,
                                  bool f32);
/* ADD to SHIFT_RIGHT; AND and OR without their short circuit. */
union expr_value expr_apply_binary(enum expr_op op, enum expr_type type, union expr_value a,
                                   union expr_value b, bool f32);
/* FLOAT to FLOAT rounds when f32 is set; reals to integers truncate, clamp, and give 0 for NaN. */
union expr_value expr_apply_convert(enum expr_type from, enum expr_type to, union expr_value a,
                                    bool f32);

/* The value of a binder over nothing. */
union expr_value expr_binder_start(enum expr_op op, enum expr_type type);

#endif
