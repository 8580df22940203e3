/* NVIDIA's assembler, where it is installed: what registers and memory the kernels of a PTX text
 * take on a processor. The driver assembles PTX by itself; nothing but reports needs this. */
#ifndef ATTN_RUNTIME_ATTNC_PTXAS_H
#define ATTN_RUNTIME_ATTNC_PTXAS_H

#include <stddef.h>
#include <stdint.h>

#include "dsl/base/memory.h"

/* Of one kernel, as `ptxas -v` tells it: per thread, in bytes but for the registers. */
struct ptxas_kernel {
  const char *name;
  uint32_t registers;
  uint32_t stack;
  uint32_t spill_stores, spill_loads;
};

struct ptxas_report {
  VECTOR(struct ptxas_kernel) kernels; /* in the arena */
};

enum ptxas_status {
  PTXAS_OK,
  PTXAS_MISSING, /* neither in PATH nor below $CUDA_HOME or /usr/local/cuda */
  PTXAS_FAILED   /* *message, in the arena: what it said */
};

/* The assembler's path, or NULL. */
const char *ptxas_find(struct arena *arena);

/* Assembles `text` for a processor ("sm_80") and forgets the result. The arena is guarded. */
enum ptxas_status ptxas_run(struct arena *arena, const char *text, const char *processor,
                            struct ptxas_report *report, const char **message);

#endif
