/* Inside libattn: the checks of one DLTensor. */
#ifndef ATTN_RUNTIME_TENSOR_CHECK_H
#define ATTN_RUNTIME_TENSOR_CHECK_H

#include "runtime/arguments.h"

/* A dimension that a tensor must have. */
struct wanted_dim {
  int64_t size;     /* -1: any */
  const char *name; /* "NK"; NULL: a number that the spec gives */
  const char *from; /* where the size comes from: "k", or NULL when the spec says it */
};

struct wanted_tensor {
  const char *what;                 /* "q", "input 'doc'" */
  const struct cuda_device *device; /* whose memory it must be in, entered; NULL: the CPU's */
  enum dtype type;
  enum dtype codes; /* where the type is U8: what it holds codes of, else ANY */
  uint32_t rank;
  bool written;
  struct wanted_dim dims[SPEC_MAX_RANK];
};

/* DTYPE_ANY for a type that no spec has. */
enum dtype dtype_of_dlpack(DLDataType type);

/* Fills `bound`. Checks presence, device, type, rank, sizes, strides, extent and alignment. */
attn_status tensor_check(const DLTensor *tensor, const struct wanted_tensor *wanted,
                         const struct error_sink *sink, struct bound_tensor *bound);

/* The bytes from the first to after the last element; first == end when the tensor is empty. */
void tensor_extent(const struct bound_tensor *tensor, uintptr_t *first, uintptr_t *end);

#endif
