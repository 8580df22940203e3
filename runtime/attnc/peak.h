/* What this machine can do at most, measured: multiply-adds in registers, and reading memory.
 *
 * The figures are those that the roofline model compares with (Williams, Waterman, Patterson 2009).
 */
#ifndef ATTN_RUNTIME_ATTNC_PEAK_H
#define ATTN_RUNTIME_ATTNC_PEAK_H

#include <stdbool.h>

struct peak {
  unsigned threads;
  double gflops;      /* f32, two operations a multiply-add; the best of a few runs */
  double gbytes;      /* GB/s (10^9) read from memory, from a buffer beyond the caches */
  const char *vector; /* "AVX-512", ... */
};

/* With `threads` threads at once; takes about a third of a second. False when out of memory or when
 * no thread can be started. */
bool peak_measure(unsigned threads, struct peak *peak);

#endif
