#include "compiler/build/rows.h"

#include <math.h>
#include <stdarg.h>

#define ARGUMENT(n) expr_arg(b->program->pool, n, EXPR_FLOAT)

#define LOG2_E 1.4426950408889634
#define LN_2 0.6931471805599453

static const struct expr *number(struct tile_builder *b, double value)
{
  return expr_float(b->program->pool, value);
}

struct tile_value *row_map(struct tile_builder *b, const struct expr *e, size_t count, ...)
{
  struct tile_value *operands[8];
  va_list arguments;
  va_start(arguments, count);
  for (size_t k = 0; k < count; k++)
    operands[k] = va_arg(arguments, struct tile_value *);
  va_end(arguments);
  return tile_map(b,
                  e->type == EXPR_BOOL  ? TILE_BOOL
                  : e->type == EXPR_INT ? TILE_I32
                                        : TILE_F32,
                  e, operands, count);
}

struct tile_value *row_largest(struct tile_builder *b, struct tile_value *shown)
{
  struct expr_pool *pool = b->program->pool;
  const struct expr *is_nan = expr_binary(pool, EXPR_NE, ARGUMENT(0), ARGUMENT(0));
  struct tile_value *undefined = tile_reduce(b, TILE_REDUCE_ANY, 1, row_map(b, is_nan, 1, shown));
  const struct expr *e =
      expr_select(pool, expr_arg(pool, 0, EXPR_BOOL), number(b, (double)NAN), ARGUMENT(1));
  return row_map(b, e, 2, undefined, tile_reduce(b, TILE_REDUCE_MAX, 1, shown));
}

const struct expr *row_is_nothing(struct tile_builder *b, const struct expr *maximum)
{
  return expr_binary(b->program->pool, EXPR_EQ, maximum, number(b, -(double)INFINITY));
}

struct tile_value *row_where_visible(struct tile_builder *b, struct tile_value *visible,
                                     struct tile_value *x, double hidden)
{
  if (visible == NULL)
    return x;
  const struct expr *e = expr_select(b->program->pool, expr_arg(b->program->pool, 0, EXPR_BOOL),
                                     ARGUMENT(1), number(b, hidden));
  return row_map(b, e, 2, visible, x);
}

struct tile_value *row_larger(struct tile_builder *b, struct tile_value *x, struct tile_value *y)
{
  return row_map(b, expr_binary(b->program->pool, EXPR_MAX, ARGUMENT(0), ARGUMENT(1)), 2, x, y);
}

static struct tile_value *add(struct tile_builder *b, struct tile_value *x, struct tile_value *y)
{
  return row_map(b, expr_add(b->program->pool, ARGUMENT(0), ARGUMENT(1)), 2, x, y);
}

struct tile_value *row_finite_base(struct tile_builder *b, struct tile_value *maximum)
{
  return row_map(
      b, expr_select(b->program->pool, row_is_nothing(b, ARGUMENT(0)), number(b, 0), ARGUMENT(0)),
      1, maximum);
}

static const struct expr *times(struct tile_builder *b, const struct expr *e, double factor)
{
  return factor == 1 ? e : expr_mul(b->program->pool, e, number(b, factor));
}

static struct tile_value *scaled(struct tile_builder *b, struct tile_value *x, double factor)
{
  return factor == 1 ? x : row_map(b, times(b, ARGUMENT(0), factor), 1, x);
}

/* exp2(factor * x - base) */
static struct tile_value *power(struct tile_builder *b, struct tile_value *x, double factor,
                                struct tile_value *base)
{
  struct expr_pool *pool = b->program->pool;
  const struct expr *e = expr_sub(pool, times(b, ARGUMENT(0), factor), ARGUMENT(1));
  return row_map(b, expr_unary(pool, EXPR_EXP2, e), 2, x, base);
}

/* factor * maximum, or 0 where there is none yet. */
static struct tile_value *scaled_base(struct tile_builder *b, struct tile_value *maximum,
                                      double factor)
{
  const struct expr *e = times(b, ARGUMENT(0), factor);
  return row_map(b, expr_select(b->program->pool, row_is_nothing(b, ARGUMENT(0)), number(b, 0), e),
                 1, maximum);
}

static struct row_state empty_state(struct tile_builder *b, uint32_t rows, bool maximum, bool sum)
{
  struct row_state state = {.factor = 1};
  if (maximum)
    state.maximum = tile_splat(b, TILE_F32, rows, 1, -(double)INFINITY);
  if (sum)
    state.sum = tile_splat(b, TILE_F32, rows, 1, 0);
  return state;
}

/* ---- softmax ---- */

static struct row_state softmax_init(struct tile_builder *b, uint32_t rows)
{
  return empty_state(b, rows, true, true);
}

static struct tile_value *softmax_update(struct tile_builder *b, struct row_state *state,
                                         const struct row_scores *tile, struct tile_value **rescale)
{
  struct tile_value *shown = row_where_visible(b, tile->visible, tile->scores, -(double)INFINITY);
  struct tile_value *top = row_larger(b, state->maximum, tile_reduce(b, TILE_REDUCE_MAX, 1, shown));
  struct tile_value *base = scaled_base(b, top, state->factor);
  *rescale = power(b, state->maximum, state->factor, base);
  struct tile_value *weights = power(b, shown, state->factor, base);
  struct tile_value *sum = tile_reduce(b, TILE_REDUCE_SUM, 1, weights);
  struct expr_pool *pool = b->program->pool;
  state->sum = row_map(b, expr_add(pool, expr_mul(pool, ARGUMENT(0), ARGUMENT(1)), ARGUMENT(2)), 3,
                       state->sum, *rescale, sum);
  state->maximum = top;
  return weights;
}

/* exp2(factor * (maximum - top)), exactly 1 where both are the same, which a fused multiplication
 * may miss. */
static struct tile_value *part_factor(struct tile_builder *b, struct tile_value *maximum,
                                      struct tile_value *top, struct tile_value *base,
                                      double factor)
{
  struct expr_pool *pool = b->program->pool;
  const struct expr *same = expr_binary(pool, EXPR_EQ, ARGUMENT(0), ARGUMENT(1));
  return row_map(b, expr_select(pool, same, number(b, 1), ARGUMENT(2)), 3, maximum, top,
                 power(b, maximum, factor, base));
}

/* The sum of values times factors: one multiply-add an element and value, and one value after the
 * other, so that each is done with when it was added. */
static struct tile_value *weighted_sum(struct tile_builder *b, struct tile_value *const *values,
                                       struct tile_value *const *factors, size_t count)
{
  struct expr_pool *pool = b->program->pool;
  struct tile_value *sum =
      row_map(b, expr_mul(pool, ARGUMENT(0), ARGUMENT(1)), 2, values[0], factors[0]);
  const struct expr *more = expr_add(pool, ARGUMENT(0), expr_mul(pool, ARGUMENT(1), ARGUMENT(2)));
  for (size_t n = 1; n < count; n++)
    sum = row_map(b, more, 3, sum, values[n], factors[n]);
  return sum;
}

static void softmax_merge(struct tile_builder *b, struct row_state *into,
                          struct tile_value **accumulators, size_t count,
                          const struct row_part *parts, size_t part_count)
{
  struct tile_value *values[ROWS_MAX_PARTS + 1], *factors[ROWS_MAX_PARTS + 1];
  struct tile_value *top = into->maximum;
  for (size_t n = 0; n < part_count; n++)
    top = row_larger(b, top, parts[n].state->maximum);
  struct tile_value *base = scaled_base(b, top, into->factor);
  for (size_t n = 0; n <= part_count; n++) {
    const struct row_state *state = n == 0 ? into : parts[n - 1].state;
    values[n] = state->sum;
    factors[n] = part_factor(b, state->maximum, top, base, into->factor);
  }
  into->maximum = top;
  into->sum = weighted_sum(b, values, factors, part_count + 1);
  for (size_t k = 0; k < count; k++) {
    for (size_t n = 0; n <= part_count; n++)
      values[n] = n == 0 ? accumulators[k] : parts[n - 1].accumulators[k];
    accumulators[k] = weighted_sum(b, values, factors, part_count + 1);
  }
}

/* The maximum (times the state's factor) and the divisor with the sink in them, and the factor of
 * what was summed without it (NULL for 1). */
struct softmax_end {
  struct tile_value *maximum, *divisor, *rescale;
};

static struct softmax_end softmax_close(struct tile_builder *b, const struct row_state *state,
                                        const struct row_rest *rest)
{
  struct expr_pool *pool = b->program->pool;
  struct softmax_end end = {scaled(b, state->maximum, state->factor), state->sum, NULL};
  if (rest->sink == NULL)
    return end;
  struct tile_value *own_maximum = end.maximum;
  end.maximum = row_larger(b, own_maximum, rest->sink);
  struct tile_value *base = row_finite_base(b, end.maximum);
  end.rescale = power(b, own_maximum, 1, base);
  const struct expr *own = expr_mul(pool, ARGUMENT(0), ARGUMENT(1));
  const struct expr *sink = expr_unary(pool, EXPR_EXP2, expr_sub(pool, ARGUMENT(2), ARGUMENT(3)));
  struct tile_value *operands[] = {state->sum, end.rescale, rest->sink, base};
  end.divisor = tile_map(b, TILE_F32, expr_add(pool, own, sink), operands, 4);
  return end;
}

/* The largest score. A reduction passes NaN over, which then shows in the sum alone; so does an
 * infinite maximum, which stays. */
static struct tile_value *softmax_maximum(struct tile_builder *b, const struct row_state *state)
{
  struct expr_pool *pool = b->program->pool;
  const struct expr *is_number =
      expr_or(pool, expr_binary(pool, EXPR_EQ, ARGUMENT(1), ARGUMENT(1)),
              expr_binary(pool, EXPR_EQ, ARGUMENT(0), number(b, (double)INFINITY)));
  return row_map(b, expr_select(pool, is_number, ARGUMENT(0), ARGUMENT(1)), 2, state->maximum,
                 state->sum);
}

struct tile_value *row_seen(struct tile_builder *b, struct tile_value *maximum,
                            struct tile_value *factor, struct tile_value *accumulator)
{
  struct expr_pool *pool = b->program->pool;
  if (factor == NULL)
    return row_map(b, expr_select(pool, row_is_nothing(b, ARGUMENT(1)), number(b, 0), ARGUMENT(0)),
                   2, accumulator, maximum);
  return row_map(b,
                 expr_select(pool, row_is_nothing(b, ARGUMENT(1)), number(b, 0),
                             expr_mul(pool, ARGUMENT(0), ARGUMENT(2))),
                 3, accumulator, maximum, factor);
}

static struct tile_value *softmax_finish(struct tile_builder *b, const struct row_state *state,
                                         const struct row_rest *rest,
                                         struct tile_value *accumulator)
{
  struct expr_pool *pool = b->program->pool;
  struct softmax_end end = softmax_close(b, state, rest);
  struct tile_value *factor;
  if (end.rescale == NULL)
    factor = row_map(b, expr_binary(pool, EXPR_DIV, number(b, 1), ARGUMENT(0)), 1, end.divisor);
  else
    factor = row_map(b, expr_binary(pool, EXPR_DIV, ARGUMENT(0), ARGUMENT(1)), 2, end.rescale,
                     end.divisor);
  return row_seen(b, softmax_maximum(b, state), factor, accumulator);
}

static struct tile_value *softmax_lse(struct tile_builder *b, const struct row_state *state,
                                      const struct row_rest *rest)
{
  struct expr_pool *pool = b->program->pool;
  struct softmax_end end = softmax_close(b, state, rest);
  const struct expr *binary_log =
      expr_add(pool, ARGUMENT(0), expr_unary(pool, EXPR_LOG2, ARGUMENT(1)));
  return row_map(b, expr_mul(pool, binary_log, number(b, LN_2)), 2, row_finite_base(b, end.maximum),
                 end.divisor);
}

/* ---- the others: weights are functions of single scores ---- */

static void plain_merge(struct tile_builder *b, struct row_state *into,
                        struct tile_value **accumulators, size_t count,
                        const struct row_part *parts, size_t part_count)
{
  for (size_t n = 0; n < part_count; n++) {
    if (into->maximum != NULL)
      into->maximum = row_larger(b, into->maximum, parts[n].state->maximum);
    if (into->sum != NULL)
      into->sum = add(b, into->sum, parts[n].state->sum);
    for (size_t k = 0; k < count; k++)
      accumulators[k] = add(b, accumulators[k], parts[n].accumulators[k]);
  }
}

static struct tile_value *plain_finish(struct tile_builder *b, const struct row_state *state,
                                       const struct row_rest *rest, struct tile_value *accumulator)
{
  (void)rest;
  return state->maximum == NULL ? accumulator : row_seen(b, state->maximum, NULL, accumulator);
}

static struct row_state plain_init(struct tile_builder *b, uint32_t rows)
{
  return empty_state(b, rows, false, false);
}

static struct tile_value *sigmoid_update(struct tile_builder *b, struct row_state *state,
                                         const struct row_scores *tile, struct tile_value **rescale)
{
  (void)state;
  *rescale = NULL;
  const struct expr *e = expr_unary(b->program->pool, EXPR_SIGMOID, ARGUMENT(0));
  return row_where_visible(b, tile->visible, row_map(b, e, 1, tile->scores), 0);
}

static struct tile_value *relu_update(struct tile_builder *b, struct row_state *state,
                                      const struct row_scores *tile, struct tile_value **rescale)
{
  (void)state;
  *rescale = NULL;
  const struct expr *e = expr_binary(b->program->pool, EXPR_MAX, ARGUMENT(0), number(b, 0));
  return row_where_visible(b, tile->visible, row_map(b, e, 1, tile->scores), 0);
}

/* A row whose scores are all -inf gives 0. Its maximum tells: here that of 0 for every other score,
 * NaN too. */
static struct row_state none_init(struct tile_builder *b, uint32_t rows)
{
  return empty_state(b, rows, true, false);
}

static struct tile_value *none_update(struct tile_builder *b, struct row_state *state,
                                      const struct row_scores *tile, struct tile_value **rescale)
{
  *rescale = NULL;
  const struct expr *mark = expr_select(b->program->pool, row_is_nothing(b, ARGUMENT(0)),
                                        number(b, -(double)INFINITY), number(b, 0));
  struct tile_value *shown =
      row_where_visible(b, tile->visible, row_map(b, mark, 1, tile->scores), -(double)INFINITY);
  state->maximum = row_larger(b, state->maximum, tile_reduce(b, TILE_REDUCE_MAX, 1, shown));
  return row_where_visible(b, tile->visible, tile->scores, 0);
}

static struct row_state linear_init(struct tile_builder *b, uint32_t rows)
{
  return empty_state(b, rows, true, true);
}

/* The f32 that are left of a tile in a narrower type. */
static struct tile_value *as_rounded(struct tile_builder *b, struct tile_value *x,
                                     enum tile_element element)
{
  if (element == TILE_F32)
    return x;
  struct tile_type type = x->type;
  type.element = element;
  struct tile_value *narrow = tile_op_new(b, TILE_CONVERT, &x, 1, &type, 1)->results[0];
  type.element = TILE_F32;
  return tile_op_new(b, TILE_CONVERT, &narrow, 1, &type, 1)->results[0];
}

static struct tile_value *linear_update(struct tile_builder *b, struct row_state *state,
                                        const struct row_scores *tile, struct tile_value **rescale)
{
  struct tile_value *weights = as_rounded(b, none_update(b, state, tile, rescale), state->rounded);
  state->sum = add(b, state->sum, tile_reduce(b, TILE_REDUCE_SUM, 1, weights));
  return weights;
}

static struct tile_value *linear_divisor(struct tile_builder *b, const struct row_state *state,
                                         const struct row_rest *rest)
{
  if (rest->at_least == NULL)
    return state->sum;
  struct expr_pool *pool = b->program->pool;
  const struct expr *size = expr_unary(pool, EXPR_ABS, ARGUMENT(0));
  return row_map(b, expr_binary(pool, EXPR_MAX, size, ARGUMENT(1)), 2, state->sum, rest->at_least);
}

static struct tile_value *linear_finish(struct tile_builder *b, const struct row_state *state,
                                        const struct row_rest *rest, struct tile_value *accumulator)
{
  const struct expr *e = expr_binary(b->program->pool, EXPR_DIV, number(b, 1), ARGUMENT(0));
  struct tile_value *factor = row_map(b, e, 1, linear_divisor(b, state, rest));
  return row_seen(b, state->maximum, factor, accumulator);
}

static struct tile_value *linear_lse(struct tile_builder *b, const struct row_state *state,
                                     const struct row_rest *rest)
{
  return row_map(b, expr_unary(b->program->pool, EXPR_LOG, ARGUMENT(0)), 1,
                 linear_divisor(b, state, rest));
}

/* ---- normalised weights, by a second look ---- */

/* exp2(s - base) * factor */
static struct row_norm softmax_norm(struct tile_builder *b, const struct row_state *state,
                                    const struct row_rest *rest)
{
  struct expr_pool *pool = b->program->pool;
  struct softmax_end end = softmax_close(b, state, rest);
  const struct expr *factor = expr_select(pool, row_is_nothing(b, ARGUMENT(0)), number(b, 0),
                                          expr_binary(pool, EXPR_DIV, number(b, 1), ARGUMENT(1)));
  struct tile_value *maximum = softmax_maximum(b, state); /* of NaN and -inf alone it is NaN */
  return (struct row_norm){
      {row_finite_base(b, end.maximum), row_map(b, factor, 2, maximum, end.divisor)},
      2,
      state->factor};
}

static struct tile_value *softmax_weigh(struct tile_builder *b, const struct row_norm *norm,
                                        const struct row_scores *tile)
{
  struct expr_pool *pool = b->program->pool;
  const struct expr *x = times(b, ARGUMENT(0), norm->factor);
  const struct expr *e = expr_unary(pool, EXPR_EXP2, expr_sub(pool, x, ARGUMENT(1)));
  struct tile_value *weights =
      row_map(b, expr_mul(pool, e, ARGUMENT(2)), 3, tile->scores, norm->values[0], norm->values[1]);
  return row_where_visible(b, tile->visible, weights, 0);
}

static struct row_norm plain_norm(struct tile_builder *b, const struct row_state *state,
                                  const struct row_rest *rest)
{
  (void)b;
  (void)rest;
  return (struct row_norm){{state->maximum}, state->maximum != NULL, 1};
}

static struct tile_value *sigmoid_weigh(struct tile_builder *b, const struct row_norm *norm,
                                        const struct row_scores *tile)
{
  (void)norm;
  struct tile_value *rescale;
  return sigmoid_update(b, NULL, tile, &rescale);
}

static struct tile_value *relu_weigh(struct tile_builder *b, const struct row_norm *norm,
                                     const struct row_scores *tile)
{
  (void)norm;
  struct tile_value *rescale;
  return relu_update(b, NULL, tile, &rescale);
}

static struct tile_value *none_weigh(struct tile_builder *b, const struct row_norm *norm,
                                     const struct row_scores *tile)
{
  return row_where_visible(b, tile->visible, row_seen(b, norm->values[0], NULL, tile->scores), 0);
}

static struct row_norm linear_norm(struct tile_builder *b, const struct row_state *state,
                                   const struct row_rest *rest)
{
  const struct expr *e = expr_binary(b->program->pool, EXPR_DIV, number(b, 1), ARGUMENT(0));
  return (struct row_norm){
      {state->maximum, row_map(b, e, 1, linear_divisor(b, state, rest))}, 2, 1};
}

static struct tile_value *linear_weigh(struct tile_builder *b, const struct row_norm *norm,
                                       const struct row_scores *tile)
{
  struct tile_value *weights = row_seen(b, norm->values[0], norm->values[1], tile->scores);
  return row_where_visible(b, tile->visible, weights, 0);
}

/* ---- the table ---- */

const struct row_algebra *row_algebra_of(enum normalizer normalizer)
{
  static const struct row_algebra softmax = {.score_factor = LOG2_E,
                                             .bounded = true,
                                             .norms = 2,
                                             .init = softmax_init,
                                             .update = softmax_update,
                                             .merge = softmax_merge,
                                             .finish = softmax_finish,
                                             .lse = softmax_lse,
                                             .close = softmax_norm,
                                             .weigh = softmax_weigh};
  static const struct row_algebra sigmoid = {.score_factor = 1,
                                             .bounded = true,
                                             .init = plain_init,
                                             .update = sigmoid_update,
                                             .merge = plain_merge,
                                             .finish = plain_finish,
                                             .close = plain_norm,
                                             .weigh = sigmoid_weigh};
  static const struct row_algebra relu = {.score_factor = 1,
                                          .init = plain_init,
                                          .update = relu_update,
                                          .merge = plain_merge,
                                          .finish = plain_finish,
                                          .close = plain_norm,
                                          .weigh = relu_weigh};
  static const struct row_algebra linear = {.score_factor = 1,
                                            .norms = 2,
                                            .init = linear_init,
                                            .update = linear_update,
                                            .merge = plain_merge,
                                            .finish = linear_finish,
                                            .lse = linear_lse,
                                            .close = linear_norm,
                                            .weigh = linear_weigh};
  static const struct row_algebra none = {.score_factor = 1,
                                          .norms = 1,
                                          .init = none_init,
                                          .update = none_update,
                                          .merge = plain_merge,
                                          .finish = plain_finish,
                                          .close = plain_norm,
                                          .weigh = none_weigh};
  switch (normalizer) {
  case NORMALIZE_SOFTMAX: return &softmax;
  case NORMALIZE_SIGMOID: return &sigmoid;
  case NORMALIZE_RELU: return &relu;
  case NORMALIZE_LINEAR: return &linear;
  case NORMALIZE_NONE: return &none;
  case NORMALIZE_HARDMAX: return &row_algebra_hardmax;
  case NORMALIZE_SPARSEMAX: break;
  }
  return &row_algebra_sparsemax;
}

struct tile_value *row_maximum(struct tile_builder *b, const struct row_algebra *algebra,
                               const struct row_state *state)
{
  if (algebra->score_factor == 1 || state->maximum == NULL)
    return state->maximum;
  const struct expr *e = times(b, ARGUMENT(0), state->factor / algebra->score_factor);
  return row_map(b, e, 1, softmax_maximum(b, state));
}

size_t row_state_fields(struct row_state *state, struct tile_value **fields[ROWS_MAX_STATE])
{
  struct tile_value **all[ROWS_MAX_STATE] = {&state->maximum, &state->sum, &state->winner,
                                             &state->low, &state->high};
  size_t count = 0;
  for (size_t k = 0; k < ROWS_MAX_STATE; k++)
    if (*all[k] != NULL)
      fields[count++] = all[k];
  return count;
}
