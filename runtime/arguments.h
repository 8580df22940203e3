/* Inside libattn: the checks of a launch. What passes them can be computed without looking again.
 */
#ifndef ATTN_RUNTIME_ARGUMENTS_H
#define ATTN_RUNTIME_ARGUMENTS_H

#include "runtime/unit.h"

/* A tensor as kernels see it. Empty ones point to zeros and have strides of 0; a dimension of size
 * 1 at the end has the stride 1. */
struct bound_tensor {
  unsigned char *data;
  enum dtype type;
  uint32_t rank;
  bool empty;
  int64_t sizes[SPEC_MAX_RANK];
  int64_t strides[SPEC_MAX_RANK]; /* in elements */
};

/* Tensors that a launch does not have are cleared: of rank 0 and empty. */
struct call {
  int64_t batch, max_queries, max_keys; /* B, NQ, NK of kernels; the last two of APPEND are the new
                                           tokens */
  int64_t max_length;                   /* NK of the spec's expressions: tokens in the cache, or
                                           max_keys */
  int64_t total_queries, total_keys;    /* of packed sequences */
  struct bound_tensor q, k, v, o;
  struct bound_tensor starts[2]; /* of queries and keys, as given: i32 or i64; where the unit is
                                    packed */
  union expr_value params[SPEC_MAX_PARAMS]; /* by the spec's numbers */
  struct bound_tensor inputs[SPEC_MAX_INPUTS];
  struct bound_tensor outputs[SPEC_MAX_OUTPUTS];
  /* On a cache: its tensors by the plan's numbers, with the types of unit_memory_type. */
  struct bound_tensor cache[CACHE_MAX_TENSORS];
  int64_t table, pages, slots; /* dimensions of theirs; -1 where no tensor has it */
  int64_t shared_prefix;       /* tokens */
  uint32_t cache_on_host; /* bits of lengths, page_table, seen that lie in the CPU's memory; their
                             numbers are below 32 */
};

/* The storage type that a launch asks for, which is that of q, or of k of attn_append: F32, F16 or
 * BF16, and one that the program takes. */
attn_status arguments_type(const struct unit *front, const char *name, const DLTensor *tensor,
                           const struct error_sink *sink, enum dtype *type);

/* Checks everything against the unit's variant. Tensors are where the unit's code runs, but starts,
 * which are in host memory, and what `cache_on_host` says. The evaluator, which may be NULL when no
 * dimension of an input is an expression, gets sizes and parameters set. */
attn_status arguments_check(const struct unit *unit, const attn_arguments *arguments,
                            struct unit_evaluator *evaluator, const struct error_sink *sink,
                            struct call *call);

/* Sets sizes and parameters. Runs inside the guard of the evaluator's arena. */
void arguments_set(const struct unit *unit, const struct call *call,
                   struct expr_evaluator *evaluator);

#endif
