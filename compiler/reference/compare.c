#include "compiler/reference/reference.h"

#include <math.h>

/* How far `out` is off; infinite where it is of another kind. */
static double distance(double out, double ref, double bound, enum dtype type)
{
  if (isnan(ref))
    return isnan(out) ? 0 : (double)INFINITY;
  /* An infinity stands for every number that rounds to it. */
  if (isinf(out) && dtype_round(type, ref + copysign(bound, out)) == out)
    return 0;
  double off = fabs(out - ref);
  return isnan(off) ? (double)INFINITY : off;
}

struct ref_error ref_compare(const double *out, const double *ref, const double *naive, size_t n,
                             enum dtype type)
{
  struct ref_error error = {.ok = true};
  for (size_t k = 0; k < n; k++) {
    if (!isfinite(ref[k]))
      continue;
    double naive_error = fabs(naive[k] - ref[k]);
    if (isfinite(naive_error)) /* a naive result that overflowed allows nothing */
      error.naive_error = fmax(error.naive_error, naive_error);
    error.scale = fmax(error.scale, fabs(ref[k]));
  }
  error.bound = 2 * error.naive_error + 1e-5 * error.scale;
  for (size_t k = 0; k < n; k++) {
    double off = distance(out[k], ref[k], error.bound, type);
    if (k == 0 || off > error.out_error) {
      error.out_error = off;
      error.worst = k;
    }
  }
  error.ok = error.out_error <= error.bound;
  return error;
}
