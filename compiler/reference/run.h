/* One call of the reference at work. Private to compiler/reference. */
#ifndef ATTN_COMPILER_REFERENCE_RUN_H
#define ATTN_COMPILER_REFERENCE_RUN_H

#include "compiler/reference/reference.h"

/* A row's result is not compared where it hangs on two values closer than this, relative to the
 * larger or to 1. */
#define REF_NEAR_TIE 1e-4

/* The vectors of q or k at hand: rotated where the spec says so, as doubles, made when first asked
 * for. */
struct ref_vectors {
  double *rows; /* row * dim_qk */
  bool *ready;  /* by row */
};

/* A SUM over c of q[from_q + c] * k[from_k + c], found in a score. */
struct ref_dot {
  struct ref_run_state *run;
  int64_t count, from_q, from_k;
};

struct ref_run_state {
  struct arena *arena;
  const struct ref_call *call;
  const struct spec *spec;
  enum ref_mode mode;
  enum dtype storage; /* what the naive mode rounds to */
  struct ref_result *result;
  struct expr_evaluator *evaluator;
  struct expr_evaluator
      *angles; /* rotary positions and angles: always float64, and with variables of its own */

  /* where the loops stand */
  int64_t b, h, g, i, j, r;
  int64_t queries, keys, offset; /* of sequence b */
  int64_t row;                   /* in the result */
  struct ref_vectors q;          /* of (b, h) */
  struct ref_vectors k;          /* of (b, g) */
  double *values; /* [keys, dim_v] of (b, g), when `value` is a plain slice of v or k */
  bool *values_ready;
  enum expr_tensor values_from;
  int64_t values_first; /* the slice's first channel */
  bool plain_values;
  double *scratch; /* dim_qk: a vector of another head than the one at hand */

  /* the row at hand; arrays over its visible keys unless said */
  int64_t *visible; /* their positions */
  int64_t visible_count;
  double *scores[SPEC_MAX_MAPS];
  double *weights[SPEC_MAX_MAPS];
  double *final;  /* the combined weight */
  double *sorted; /* sparsemax's */
  double map_lse[SPEC_MAX_MAPS];
  double map_max[SPEC_MAX_MAPS];
  bool near_tie;
  double *o;     /* dim_v; what READ(O) reads */
  double *value; /* dim_v */

  /* select; by block unless said */
  bool *key_visible; /* by key */
  bool *chosen, *forced, *candidate;
  double *ranks;
  int64_t block_count, block;         /* block: the one whose mean is taken */
  VECTOR(const struct expr *) floors; /* FLOORs of FLOATs in the scores: a near tie each */
};

/* tensors.c */
void ref_tensors_prepare(struct ref_run_state *run);
void ref_enter_sequence(struct ref_run_state *run);
void ref_enter_key_head(struct ref_run_state *run);
void ref_enter_query_head(struct ref_run_state *run);
/* Channels [0, dim_v) of key j's value, where `value` is a plain slice. */
const double *ref_plain_value(struct ref_run_state *run, int64_t j);

/* normalize.c: scores of map m to weights, map_lse[m] and map_max[m]. False when the map is dead:
 * no visible score above -inf. */
bool ref_normalize(struct ref_run_state *run, uint32_t m);

/* select.c */
void ref_select_prepare(struct ref_run_state *run);
/* Fills run->chosen for the row at hand. */
void ref_select_blocks(struct ref_run_state *run);

/* reference.c */
void ref_set_head(struct ref_run_state *run, int64_t h);
/* Whether the mask holds at key j; sets EXPR_VAR_J. */
bool ref_mask_holds(struct ref_run_state *run, int64_t j);
bool ref_is_near(double a, double b);

static inline double ref_evaluate_real(struct ref_run_state *run, const struct expr *e)
{
  return expr_evaluate(run->evaluator, e).f;
}

/* Naive: a number of f32 arithmetic. */
static inline double ref_step(const struct ref_run_state *run, double value)
{
  return run->mode == REF_NAIVE ? (double)(float)value : value;
}

/* Naive: a number that is kept in memory. */
static inline double ref_stored(const struct ref_run_state *run, double value)
{
  return run->mode == REF_NAIVE ? dtype_round(run->storage, value) : value;
}

#endif
