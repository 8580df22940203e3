/* The reference: a checked spec evaluated in float64 straight from its definition, with no tile,
 * schedule or LLVM in it. Slow on purpose. What every kernel must equal.
 */
#ifndef ATTN_COMPILER_REFERENCE_H
#define ATTN_COMPILER_REFERENCE_H

#include "dsl/expr_eval.h"
#include "dsl/spec.h"

/* A view of a tensor in memory: strides in elements, data not owned. Any strides, also 0 and
 * negative. */
struct ref_tensor {
  enum dtype type; /* a concrete one */
  uint32_t rank;
  int64_t shape[SPEC_MAX_RANK];
  int64_t stride[SPEC_MAX_RANK];
  const void *data;
};

/* One call. Dense: q [B, H, NQ, D], k [B, G, NK, D], v [B, G, NK, DV] (absent when the value is a
 * slice of k), inputs as declared. Ragged (query_starts not NULL): q [total, H, D], k [total, G,
 * D]; a dim pair B, NQ (or B, NK) of an input is one leading dim `total`, and sequence b has rows
 * query_starts[b] .. query_starts[b + 1]. */
struct ref_call {
  const struct spec *spec;
  struct ref_tensor q, k, v;
  const struct ref_tensor *inputs;          /* spec->input_count */
  const union expr_value *params;           /* spec->param_count */
  int64_t batch, max_queries, max_keys;     /* B, NQ, NK; of the longest sequence when ragged */
  const int64_t *query_starts, *key_starts; /* batch + 1 each, or NULL */
};

enum ref_mode {
  REF_EXACT, /* float64 */
  REF_NAIVE  /* as a straightforward implementation in the storage type would: inputs as stored, f32
                arithmetic and  accumulation in order, the score, weight and result rounded to
                `storage` */
};

/* Results, all float64, allocated by ref_run with mem_alloc and freed by ref_result_free. Row order
 * b, h, r; when ragged, rows of sequence b follow those of b - 1 and `rows` is the sum of the
 * lengths times H (order: b, h, r in b). */
struct ref_result {
  int64_t rows;
  double *o;   /* rows * DV */
  double *lse; /* rows; of the default map (or the first): natural log of the whole denominator */
  double *outputs[SPEC_MAX_OUTPUTS]; /* by spec->outputs; lse, max, entropy: rows; mass: B*H*NK;
                                        weights: B*H*NQ*NK */
  uint64_t visible;                  /* visible pairs over all b, h */
  uint64_t pairs;                    /* all pairs */
  bool *near_tie; /* rows; the row's result hangs on a comparison of nearly equal values (hardmax,
                     select, floor) */
  struct expr_fault fault; /* first index out of range, if any: results are then undefined */
};

/* False when out of memory. `storage`: the rounding type of REF_NAIVE; ignored by REF_EXACT. */
bool ref_run(const struct ref_call *call, enum ref_mode mode, enum dtype storage,
             struct ref_result *result);
void ref_result_free(struct ref_result *result);

/* The rule (design.md, "Numbers") over one (b, h) slice of n values:
 *   max|out - ref| <= 2 * max|naive - ref| + 1e-5 * max|ref|
 * where out is of `type`. Infinite or NaN references must be met exactly by kind and sign. An
 * infinite out stands for the numbers beyond the type's range, and is right where such a number
 * would be. Near-tie rows are left out by the caller. */
struct ref_error {
  double out_error;   /* max|out - ref|; infinite where one is of the wrong kind */
  double naive_error; /* max|naive - ref| */
  double scale;       /* max|ref| */
  double bound;
  size_t worst; /* the element that is furthest off, the first of such; 0 where there is none */
  bool ok;
};
struct ref_error ref_compare(const double *out, const double *ref, const double *naive, size_t n,
                             enum dtype type);

/* Storage types. Round to nearest even; NaN stays NaN; f16, bf16 and e5m2 overflow to infinity,
 * e4m3 to its largest number; integers clamp and take 0 for NaN. I4 and I2 lie 2 and 4 to a byte,
 * the first in the lowest bits. */
double dtype_load(enum dtype type, const void *data, int64_t index);
void dtype_store(enum dtype type, void *data, int64_t index, double value);
double dtype_round(enum dtype type, double value);
int64_t ref_load_integer(enum dtype type, const void *data, int64_t index); /* exact also for i64 */

#endif
