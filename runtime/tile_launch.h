/* Runs hand-written tile programs, whose tensors and parameters are bound by name. attn_launch runs
 * those that are made from specs. */
#ifndef ATTN_RUNTIME_TILE_LAUNCH_H
#define ATTN_RUNTIME_TILE_LAUNCH_H

#include "attn/attn.h"
#include "compiler/pipeline.h"
#include "runtime/host_loader.h"
#include "runtime/threads.h"

struct tile_tensor_argument {
  const char *name;
  void *data;
  const int64_t *sizes;   /* as many as the tensor of the program has dimensions */
  const int64_t *strides; /* in elements; NULL: row-major. The last one is 1. */
};

struct tile_param_argument {
  const char *name;
  union expr_value value; /* f for float parameters, else i */
};

struct tile_arguments {
  const struct tile_tensor_argument *tensors;
  size_t tensor_count;
  const struct tile_param_argument *params;
  size_t param_count;
};

/* Runs every kernel of the program, in order. `code` is the loaded object of `compiled`. Arguments
 * that no kernel asks for are passed over. ERROR_ARGUMENT: one that a kernel asks for is missing;
 * ERROR_FAULT: a check failed. `error` says which. The caller sees to it that sizes, strides and
 * types are those that the program expects. */
attn_status tile_launch(struct thread_pool *threads, const struct compiled *compiled,
                        const struct host_code *code, const struct tile_arguments *arguments,
                        char *error, size_t error_size);

#endif
