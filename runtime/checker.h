/* Inside libattn: what the checks of a launch share among their files. */
#ifndef ATTN_RUNTIME_CHECKER_H
#define ATTN_RUNTIME_CHECKER_H

#include "runtime/tensor_check.h"

/* A launch while it is checked. */
struct checker {
  const struct unit *unit;
  const struct spec *spec;
  const attn_arguments *arguments;
  const struct error_sink *sink;
  struct unit_evaluator *evaluator;
  struct call *call;
  bool packed; /* there are starts of sequences */
  bool on_cache, appends;
};

/* A list of named tensors, as errors call it. */
struct checker_list {
  const char *kind, *field, *count_field; /* "input", "inputs", "input_count" */
};

/* Sorts tensors by the numbers of `infos`; NULL where one is not given. */
attn_status checker_match(const struct checker *c, const struct checker_list *list,
                          const attn_named_tensor *given, size_t given_count,
                          const attn_tensor_info *infos, size_t count, const DLTensor **tensors);
attn_status checker_missing(const struct checker *c, const struct checker_list *list,
                            const char *name);

/* Element n of i32 or i64 in host memory, of rank 1. */
int64_t checker_int_at(const struct bound_tensor *tensor, int64_t n);

/* ---- arguments_overlap.c ---- */

/* That nothing written shares memory with another tensor: address ranges, but of two tensors of a
 * cache, which may interleave, the elements. */
attn_status checker_overlaps(const struct checker *c);

/* ---- arguments_cache.c ---- */

/* Binds the cache's tensors and sets call->batch; dimensions that are expressions may have any
 * size. */
attn_status checker_cache_tensors(struct checker *c);
/* Compares those with the spec's expressions, once the evaluator has sizes and parameters. Runs
 * inside the guard of its arena. */
attn_status checker_cache_expressions(const struct checker *c);
/* What the host can see of lengths and tables, once new tokens or queries are counted; settles
 * call->max_length. */
attn_status checker_cache_values(struct checker *c);

#endif
