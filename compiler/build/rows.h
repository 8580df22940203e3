/* The row algebra: how scores of a row become weights, tile by tile, as a table of functions that
 * emit ordinary ops.
 *
 * A state holds statistics per row, each [M, 1]; tiles of unnormalised weights are summed into an
 * accumulator f32 [M, N] beside it. Softmax is the online one (Milakov and Gimelshein 2018) in
 * powers of two: a weight is exp2(factor * (x - max)). Either its scores come multiplied by
 * log2(e) and the factor is 1, or the factor, which is positive, holds log2(e) and whatever else
 * scales all scores; then the largest score is found before the multiplication, which joins the
 * subtraction.
 *
 * One look at a row:
 *   state = init
 *   for each tile of keys: weights = update(state, scores)
 *                          accumulator = rescale * accumulator + weights . values
 *   finish: the row's result
 *
 * Two looks, where the normalised weights themselves are wanted: a walk with update alone, then
 * close, and in a second walk weigh gives each tile's normalised weights. A normaliser with a
 * `search` walks in between, until every row's state has settled.
 *
 * merge joins what was found in parts of a row's keys; lse and maximum are statistics of the whole
 * row.
 */
#ifndef ATTN_COMPILER_BUILD_ROWS_H
#define ATTN_COMPILER_BUILD_ROWS_H

#include "compiler/tile/ir.h"

enum { ROWS_MAX_STATE = 5, ROWS_MAX_NORM = 2, ROWS_MAX_PROBE = 4, ROWS_MAX_PARTS = 16 };

/* Each NULL where it is not kept. */
struct row_state {
  struct tile_value *maximum;    /* -inf before the first visible key */
  struct tile_value *sum;        /* of unnormalised weights */
  struct tile_value *winner;     /* i32: the lowest position of the maximum; -1 before */
  struct tile_value *low, *high; /* what the threshold lies between, counted from the maximum */
  double factor;                 /* of scores and of the maximum; 1 but for softmax */
  /* What weights are rounded to before they meet the values. A sum that they are divided by is one
   * of rounded weights then, so that the errors cancel. */
  enum tile_element rounded; /* TILE_F32, F16 or BF16 */
};

/* What another walk found in other keys of the rows. */
struct row_part {
  const struct row_state *state;
  struct tile_value *const *accumulators;
};

/* What a row's end needs beyond its state; each NULL where there is none, else a scalar or f32 [M,
 * 1]. */
struct row_rest {
  struct tile_value *sink;     /* a score of its own, multiplied by score_factor */
  struct tile_value *at_least; /* least divisor */
};

/* A tile of scores f32 [M, N]; `visible` is a bool tile that broadcasts to it, NULL where all are.
 * `keys` are the positions, i32 [1, N]; only where the algebra wants them. */
struct row_scores {
  struct tile_value *scores, *visible, *keys;
};

/* What turns scores into normalised weights, each [M, 1]. */
struct row_norm {
  struct tile_value *values[ROWS_MAX_NORM];
  size_t count;
  double factor; /* the state's */
};

/* Walks between the first and the last, no more than `passes`, while `open` (bool [M, 1]) holds in
 * some row: begin makes what the walk carries, look adds a tile, step moves the state. */
struct row_search {
  uint32_t passes;
  struct tile_value *(*open)(struct tile_builder *b, const struct row_state *state);
  size_t (*begin)(struct tile_builder *b, uint32_t rows, struct tile_value *probe[ROWS_MAX_PROBE]);
  void (*look)(struct tile_builder *b, const struct row_state *state, const struct row_scores *tile,
               struct tile_value *probe[ROWS_MAX_PROBE]);
  void (*step)(struct tile_builder *b, struct row_state *state,
               struct tile_value *const probe[ROWS_MAX_PROBE]);
};

struct row_algebra {
  double score_factor; /* of scores: theirs and the state's factor together */
  bool wants_keys;
  bool bounded;                    /* no weight of update and weigh exceeds 1 in magnitude */
  size_t norms;                    /* values that close gives */
  const struct row_search *search; /* then there is no result after one look: no finish */
  /* Nothing was seen. The factor is 1, and the caller may set another where score_factor is not 1.
   */
  struct row_state (*init)(struct tile_builder *b, uint32_t rows);
  /* Adds a tile. Gives the weights, 0 where not visible, and the factor [M, 1] of what was
   * accumulated before, NULL for 1; with a search neither. */
  struct tile_value *(*update)(struct tile_builder *b, struct row_state *state,
                               const struct row_scores *tile, struct tile_value **rescale);
  /* `into` and its accumulators, `count` of them, become those of it and all parts, which are no
   * more than ROWS_MAX_PARTS: what all have in common is found first, and then everything is summed
   * once. An empty part changes no bit. */
  void (*merge)(struct tile_builder *b, struct row_state *into, struct tile_value **accumulators,
                size_t count, const struct row_part *parts, size_t part_count);
  struct tile_value *(*finish)(struct tile_builder *b, const struct row_state *state,
                               const struct row_rest *rest, struct tile_value *accumulator);
  /* The natural logarithm of the whole divisor, [M, 1]; NULL for those that have none. */
  struct tile_value *(*lse)(struct tile_builder *b, const struct row_state *state,
                            const struct row_rest *rest);
  struct row_norm (*close)(struct tile_builder *b, const struct row_state *state,
                           const struct row_rest *rest);
  /* Normalised weights, 0 where not visible and in rows that saw nothing. */
  struct tile_value *(*weigh)(struct tile_builder *b, const struct row_norm *norm,
                              const struct row_scores *tile);
};

const struct row_algebra *row_algebra_of(enum normalizer normalizer);

/* rows_sparse.c: those that give most keys no weight. */
extern const struct row_algebra row_algebra_hardmax, row_algebra_sparsemax;

/* The largest visible score, [M, 1]; NULL where the state does not hold it. */
struct tile_value *row_maximum(struct tile_builder *b, const struct row_algebra *algebra,
                               const struct row_state *state);

/* The fields of a state that are kept, in order. Returns their number. */
size_t row_state_fields(struct row_state *state, struct tile_value **fields[ROWS_MAX_STATE]);

/* ---- for the parts of the algebra ---- */

/* `e` over ARGs, FLOAT unless the operand holds something else. */
struct tile_value *row_map(struct tile_builder *b, const struct expr *e, size_t count, ...);
/* x where visible, else `hidden`. */
struct tile_value *row_where_visible(struct tile_builder *b, struct tile_value *visible,
                                     struct tile_value *x, double hidden);
struct tile_value *row_larger(struct tile_builder *b, struct tile_value *x, struct tile_value *y);
/* The largest of each row, [M, 1]; NaN with one in it, which a reduction alone would pass over. */
struct tile_value *row_largest(struct tile_builder *b, struct tile_value *shown);
/* Whether a maximum says that nothing was seen. */
const struct expr *row_is_nothing(struct tile_builder *b, const struct expr *maximum);
/* The maximum, or 0 where there is none yet: something that can be subtracted. */
struct tile_value *row_finite_base(struct tile_builder *b, struct tile_value *maximum);
/* factor * accumulator, and 0 in rows that saw nothing, whatever was accumulated there. `factor`:
 * NULL for 1. */
struct tile_value *row_seen(struct tile_builder *b, struct tile_value *maximum,
                            struct tile_value *factor, struct tile_value *accumulator);

#endif
