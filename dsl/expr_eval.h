/* Evaluates expressions: FLOAT in float64, SINGLE in f32, INT with 32-bit wrap. Used by the
 * reference, by the runtime for sizes and launch tables, and by tests of everything derived from an
 * expression.
 *
 * An evaluator remembers the value of every node until something that the node depends on is set
 * again, so that an inner loop that changes j re-evaluates only what depends on j.
 */
#ifndef ATTN_DSL_EXPR_EVAL_H
#define ATTN_DSL_EXPR_EVAL_H

#include "dsl/expr.h"

union expr_value {
  int64_t i; /* BOOL (0, 1), INT, LONG */
  double f;  /* FLOAT, SINGLE */
};

/* What went wrong first. Nothing is read out of range: such a read gives 0 and is recorded. */
struct expr_fault {
  bool raised;
  uint32_t tensor; /* as in READ */
  uint32_t dim;    /* which index, from 0 */
  int64_t index;
  int64_t size; /* of that dimension */
  struct span span;
};

/* Reads an element. `indices` has one entry a dimension. Returns false and fills fault->dim, index
 * and size when one is out of range. */
typedef bool expr_read_fn(void *user, uint32_t tensor, const int64_t *indices, size_t count,
                          union expr_value *value, struct expr_fault *fault);
/* RANGE_MIN and RANGE_MAX over [first, last] of the dimension after the leading `count` indices;
 * the range is clamped to the tensor, and over an empty range the results are the type's extremes
 * (min: largest, max: lowest). NaN anywhere in the range gives NaN. */
typedef bool expr_range_fn(void *user, enum expr_op op, uint32_t tensor, const int64_t *indices,
                           size_t count, int64_t first, int64_t last, union expr_value *value,
                           struct expr_fault *fault);

struct expr_evaluator;

/* Lives in `arena`; evaluates nodes of `pool`, also ones that are added to it later. */
struct expr_evaluator *expr_evaluator_new(struct arena *arena, const struct expr_pool *pool);

void expr_set_reader(struct expr_evaluator *evaluator, expr_read_fn *read, expr_range_fn *range,
                     void *user);
void expr_set_var(struct expr_evaluator *evaluator, enum expr_var var, union expr_value value);
static inline void expr_set_int(struct expr_evaluator *evaluator, enum expr_var var, int64_t value)
{
  expr_set_var(evaluator, var, (union expr_value){.i = value});
}
void expr_set_param(struct expr_evaluator *evaluator, uint32_t index, union expr_value value);
void expr_set_map(struct expr_evaluator *evaluator, uint32_t index, double weight);
void expr_set_arg(struct expr_evaluator *evaluator, uint32_t index, union expr_value value);
/* What BOUND means to an expression evaluated outside of its binder, or by a shortcut that stands
 * for the binder. */
void expr_set_bound(struct expr_evaluator *evaluator, uint32_t level, int64_t value);
/* Forget everything that was read: the tensors' contents changed. */
void expr_reset_reads(struct expr_evaluator *evaluator);

/* FLOAT arithmetic is rounded to f32 after every operation when `single` is set: the naive
 * evaluation of the error rule (design.md, "Numbers"). */
void expr_set_naive(struct expr_evaluator *evaluator, bool single);

/* From now on `compute` gives the value of node `e`, and its operands are not looked at: a faster
 * way to the same value. The value is remembered like any other. `compute` may evaluate other nodes
 * with the same evaluator, provided that it sets nothing that an enclosing node depends on. */
typedef union expr_value expr_shortcut_fn(void *user, const struct expr *e);
void expr_set_shortcut(struct expr_evaluator *evaluator, const struct expr *e,
                       expr_shortcut_fn *compute, void *user);

union expr_value expr_evaluate(struct expr_evaluator *evaluator, const struct expr *e);
const struct expr_fault *expr_evaluator_fault(const struct expr_evaluator *evaluator);
void expr_clear_fault(struct expr_evaluator *evaluator);

/* The counter-based generator behind hash(...) and uniform(...). In 32-bit unsigned arithmetic that
 * wraps, with key number n counted from 0: state = 0;  for each key: state = mix(state ^ mix(key +
 * 0x9e3779b9 * (n + 1))) mix(x): x ^= x >> 16; x *= 0x85ebca6b; x ^= x >> 13; x *= 0xc2b2ae35; x ^=
 * x >> 16 (mix is MurmurHash3's finaliser, Appleby 2011). expr_hash_keys gives the state, HASH is
 * state >> 1 and UNIFORM is (state >> 8) * 2^-24, exact in f32. Emitters must give the same bits.
 */
uint32_t expr_hash_keys(const int32_t *keys, size_t count);
float expr_uniform_keys(const int32_t *keys, size_t count);

#endif
