#include "compiler/reference/reference.h"

#include <math.h>

/* Infinities of one sign, or two NaNs. */
static bool same_kind(double a, double b)
{
  return isnan(b) ? isnan(a) : a == b;
}

struct ref_error ref_compare(const double *out, const double *ref, const double *naive, size_t n)
{
  struct ref_error error = {.ok = true};
  for (size_t k = 0; k < n; k++) {
    if (!isfinite(ref[k])) {
      error.ok &= same_kind(out[k], ref[k]);
      continue;
    }
    double out_error = fabs(out[k] - ref[k]);
    double naive_error = fabs(naive[k] - ref[k]);
    /* A NaN fails every comparison, so that it must be caught here. */
    error.ok &= isfinite(out[k]);
    error.out_error = fmax(error.out_error, isnan(out_error) ? (double)INFINITY : out_error);
    if (isfinite(naive_error)) /* a naive result that overflowed allows nothing */
      error.naive_error = fmax(error.naive_error, naive_error);
    error.scale = fmax(error.scale, fabs(ref[k]));
  }
  error.bound = 2 * error.naive_error + 1e-5 * error.scale;
  error.ok &= error.out_error <= error.bound;
  return error;
}
