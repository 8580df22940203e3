/* The OpenMP of the host program, which libattn does not use itself. A thread inside a parallel
 * region has siblings on the other processors, so that its launches should keep to themselves.
 */
#ifndef ATTN_RUNTIME_OPENMP_H
#define ATTN_RUNTIME_OPENMP_H

#include <stdbool.h>

enum { OPENMP_MOST = 2 }; /* a process may hold more than one: GNU's and LLVM's or Intel's */

struct openmp {
  void *libraries[OPENMP_MOST];
  int (*in_parallel[OPENMP_MOST])(void); /* omp_in_parallel */
};

/* Finds the runtimes that are loaded by now and keeps them from being unloaded. */
void openmp_find(struct openmp *found);
void openmp_release(struct openmp *found);
/* Whether the calling thread is in an active parallel region of one of them. */
bool openmp_in_parallel(const struct openmp *found);

#endif
