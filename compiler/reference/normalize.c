/* The normalisers: scores of a row's visible keys to weights (language.md, "normalize"). In the
 * naive mode every intermediate number is an f32 one, sums run in key order and weights are stored.
 */
#include "compiler/reference/run.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static double row_max(const double *scores, int64_t count)
{
  double largest = -(double)INFINITY;
  for (int64_t n = 0; n < count; n++)
    if (scores[n] > largest || isnan(scores[n]))
      largest = scores[n];
    else if (isnan(largest))
      break;
  return largest;
}

static double row_sum(const struct ref_run_state *run, const double *values, int64_t count)
{
  double sum = 0;
  for (int64_t n = 0; n < count; n++)
    sum = ref_step(run, sum + values[n]);
  return sum;
}

static void softmax(struct ref_run_state *run, uint32_t m)
{
  const struct expr *sink = run->spec->maps[m].sink;
  double *weights = run->weights[m];
  const double *scores = run->scores[m];
  double rest = sink != NULL ? ref_evaluate_real(run, sink) : -(double)INFINITY;
  double top = run->map_max[m];
  if (rest > top || isnan(rest))
    top = rest;
  if (top == -(double)INFINITY) {
    memset(weights, 0, (size_t)run->visible_count * sizeof(double));
    run->map_lse[m] = top;
    return;
  }
  for (int64_t n = 0; n < run->visible_count; n++)
    weights[n] = ref_step(run, exp(ref_step(run, scores[n] - top)));
  double sum = row_sum(run, weights, run->visible_count);
  if (sink != NULL)
    sum = ref_step(run, sum + ref_step(run, exp(ref_step(run, rest - top))));
  for (int64_t n = 0; n < run->visible_count; n++)
    weights[n] = ref_stored(run, ref_step(run, weights[n] / sum));
  run->map_lse[m] = ref_step(run, top + ref_step(run, log(sum)));
}

static void linear(struct ref_run_state *run, uint32_t m)
{
  const struct expr *at_least = run->spec->maps[m].at_least;
  double sum = row_sum(run, run->scores[m], run->visible_count);
  if (at_least != NULL) {
    double least = ref_evaluate_real(run, at_least);
    sum = fabs(sum) >= least || isnan(sum) ? fabs(sum) : least;
  }
  for (int64_t n = 0; n < run->visible_count; n++)
    run->weights[m][n] = ref_stored(run, ref_step(run, run->scores[m][n] / sum));
  run->map_lse[m] = ref_step(run, log(sum));
}

static void hardmax(struct ref_run_state *run, uint32_t m)
{
  const double *scores = run->scores[m];
  double top = run->map_max[m];
  int64_t winner = -1;
  for (int64_t n = 0; n < run->visible_count; n++) {
    bool wins = scores[n] == top && winner < 0;
    if (wins)
      winner = n;
    else if (ref_is_near(scores[n], top))
      run->near_tie = true;
    run->weights[m][n] = isnan(top) ? top : wins ? 1.0 : 0.0;
  }
}

static int descending(const void *left, const void *right)
{
  double a = *(const double *)left;
  double b = *(const double *)right;
  return (a < b) - (a > b);
}

/* Martins and Astudillo 2016: weights max(s - tau, 0), with tau from the longest prefix of the
 * sorted scores for which 1 + k z[k] > z[1] + ... + z[k]. */
static void sparsemax(struct ref_run_state *run, uint32_t m)
{
  const double *scores = run->scores[m];
  double *weights = run->weights[m];
  int64_t count = run->visible_count;
  double top = run->map_max[m];
  bool defined = isfinite(top);
  double tau = 0;
  if (defined) {
    memcpy(run->sorted, scores, (size_t)count * sizeof(double));
    qsort(run->sorted, (size_t)count, sizeof(double), descending);
    double sum = 0;
    for (int64_t n = 0; n < count; n++) {
      sum = ref_step(run, sum + run->sorted[n]);
      double length = (double)(n + 1);
      if (!(ref_step(run, 1 + ref_step(run, length * run->sorted[n])) > sum))
        break;
      tau = ref_step(run, ref_step(run, sum - 1) / length);
    }
  }
  for (int64_t n = 0; n < count; n++) {
    double excess = ref_step(run, scores[n] - tau);
    double weight = excess > 0 ? excess : 0;
    weights[n] = defined || top == -(double)INFINITY ? ref_stored(run, weight) : (double)NAN;
  }
}

static double elementwise(const struct ref_run_state *run, enum normalizer normalizer, double s)
{
  if (normalizer == NORMALIZE_SIGMOID) {
    double decay = ref_step(run, exp(-s));
    return ref_step(run, 1 / ref_step(run, 1 + decay));
  }
  return normalizer == NORMALIZE_RELU && s < 0 ? 0 : s;
}

bool ref_normalize(struct ref_run_state *run, uint32_t m)
{
  enum normalizer normalizer = run->spec->maps[m].normalizer;
  run->map_max[m] = row_max(run->scores[m], run->visible_count);
  run->map_lse[m] = (double)NAN; /* of those that have none */
  switch (normalizer) {
  case NORMALIZE_SOFTMAX: softmax(run, m); break;
  case NORMALIZE_LINEAR: linear(run, m); break;
  case NORMALIZE_HARDMAX: hardmax(run, m); break;
  case NORMALIZE_SPARSEMAX: sparsemax(run, m); break;
  case NORMALIZE_SIGMOID:
  case NORMALIZE_RELU:
  case NORMALIZE_NONE:
    for (int64_t n = 0; n < run->visible_count; n++)
      run->weights[m][n] = ref_stored(run, elementwise(run, normalizer, run->scores[m][n]));
    break;
  }
  if (run->map_max[m] != -(double)INFINITY)
    return true;
  memset(run->weights[m], 0, (size_t)run->visible_count * sizeof(double));
  return false;
}
