/* Launches: what a function may be launched with, and its parameter block. */
#include "tests/device/driver.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
  MAX_THREADS = 1024,
  MAX_BLOCK_Z = 64,
  MAX_GRID_YZ = 65535,
  REGISTERS = 128 /* in place of what ptxas would say */
};

CUresult do_cuFuncGetAttribute(int *value, CUfunction_attribute attribute, CUfunction handle)
{
  const struct function *function = function_find(handle);
  if (value == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  if (function == NULL)
    return CUDA_ERROR_INVALID_HANDLE;
  switch (attribute) {
  case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
    *value = (int)ptx_entry_max_threads(function->entry);
    return CUDA_SUCCESS;
  case CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES:
    *value = (int)ptx_entry_static_shared(function->entry);
    return CUDA_SUCCESS;
  case CU_FUNC_ATTRIBUTE_CONST_SIZE_BYTES:
  case CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES:
  case CU_FUNC_ATTRIBUTE_CACHE_MODE_CA: *value = 0; return CUDA_SUCCESS;
  case CU_FUNC_ATTRIBUTE_NUM_REGS: *value = REGISTERS; return CUDA_SUCCESS;
  case CU_FUNC_ATTRIBUTE_PTX_VERSION: *value = function->module->target; return CUDA_SUCCESS;
  case CU_FUNC_ATTRIBUTE_BINARY_VERSION: *value = settings_load()->capability; return CUDA_SUCCESS;
  case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES:
    *value = (int)function->max_dynamic;
    return CUDA_SUCCESS;
  case CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT: *value = -1; return CUDA_SUCCESS;
  default: return CUDA_ERROR_INVALID_VALUE;
  }
}

CUresult do_cuFuncSetAttribute(CUfunction handle, CUfunction_attribute attribute, int value)
{
  struct function *function = function_find(handle);
  if (function == NULL)
    return CUDA_ERROR_INVALID_HANDLE;
  if (attribute == CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT)
    return value < -1 || value > 100 ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
  const uint32_t fixed = ptx_entry_static_shared(function->entry);
  if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES || value < 0 ||
      (uint64_t)value + fixed > property_shared_opt_in()) {
    report_log("cuFuncSetAttribute: attribute %d cannot be %d for %s", attribute, value,
               function->name);
    return CUDA_ERROR_INVALID_VALUE;
  }
  function->max_dynamic = (uint32_t)value;
  return CUDA_SUCCESS;
}

CUresult do_cuFuncSetCacheConfig(CUfunction handle, CUfunc_cache config)
{
  if (function_find(handle) == NULL)
    return CUDA_ERROR_INVALID_HANDLE;
  return config < 0 || config > 3 ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

CUresult do_cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, CUfunction handle, int threads,
                                                        size_t dynamic_shared)
{
  const struct function *function = function_find(handle);
  if (blocks == NULL || threads <= 0)
    return CUDA_ERROR_INVALID_VALUE;
  if (function == NULL)
    return CUDA_ERROR_INVALID_HANDLE;
  const size_t shared = ptx_entry_static_shared(function->entry) + dynamic_shared;
  *blocks = 0;
  if ((unsigned)threads <= ptx_entry_max_threads(function->entry) &&
      shared <= property_shared_opt_in())
    *blocks = (int)property_blocks_per_multiprocessor((uint32_t)threads, (uint32_t)shared);
  return CUDA_SUCCESS;
}

/* ---- cuLaunchKernel ---- */

/* Why the launch cannot be, or NULL. */
static const char *refuse(const struct function *function, const uint32_t grid[3],
                          const uint32_t block[3], uint32_t shared)
{
  const uint64_t threads = (uint64_t)block[0] * block[1] * block[2];
  if (grid[0] == 0 || grid[1] == 0 || grid[2] == 0 || threads == 0)
    return "the grid or the block is empty";
  if (grid[0] > INT32_MAX || grid[1] > MAX_GRID_YZ || grid[2] > MAX_GRID_YZ)
    return "the grid is larger than 2147483647 x 65535 x 65535";
  if (block[0] > MAX_THREADS || block[1] > MAX_THREADS || block[2] > MAX_BLOCK_Z ||
      threads > ptx_entry_max_threads(function->entry))
    return "the block has more threads than the function allows";
  if (function->required[0] != 0 && memcmp(function->required, block, 3 * sizeof(block[0])) != 0)
    return "the block is not that of .reqntid";
  if (shared > function->max_dynamic)
    return "more dynamic shared memory than the attribute of the function allows";
  return NULL;
}

/* The parameter block that `extra` describes, or NULL. */
static const void *extra_block(void **extra, size_t bytes)
{
  const void *block = NULL;
  const size_t *size = NULL;
  for (int i = 0; extra[i] != CU_LAUNCH_PARAM_END; i += 2) {
    if (extra[i] == CU_LAUNCH_PARAM_BUFFER_POINTER)
      block = extra[i + 1];
    else if (extra[i] == CU_LAUNCH_PARAM_BUFFER_SIZE)
      size = extra[i + 1];
    else
      return NULL;
  }
  return size != NULL && *size == bytes ? block : NULL;
}

/* A copy of the parameters, which the caller may change once the launch returns. */
static CUresult copy_parameters(const struct function *function, void **parameters, void **extra,
                                unsigned char **block)
{
  const size_t bytes = function->param_bytes;
  if ((parameters != NULL && extra != NULL) || (parameters == NULL && extra == NULL && bytes != 0))
    return CUDA_ERROR_INVALID_VALUE;
  *block = calloc(1, bytes + 1);
  if (*block == NULL)
    return CUDA_ERROR_OUT_OF_MEMORY;
  if (bytes == 0)
    return CUDA_SUCCESS;
  if (extra != NULL) {
    const void *given = extra_block(extra, bytes);
    if (given != NULL)
      memcpy(*block, given, bytes);
    return given == NULL ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
  }
  for (uint32_t i = 0; i < ptx_entry_param_count(function->entry); i++) {
    uint32_t offset, size;
    ptx_entry_param(function->entry, i, &offset, &size);
    if (parameters[i] == NULL)
      return CUDA_ERROR_INVALID_VALUE;
    memcpy(*block + offset, parameters[i], size);
  }
  return CUDA_SUCCESS;
}

CUresult do_cuLaunchKernel(CUfunction handle, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                           unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared,
                           CUstream stream_handle, void **parameters, void **extra)
{
  const uint32_t grid[3] = {grid_x, grid_y, grid_z}, block[3] = {block_x, block_y, block_z};
  struct function *function = function_find(handle);
  struct stream *stream;
  if (function == NULL)
    return CUDA_ERROR_INVALID_HANDLE;
  CUresult result = stream_find(stream_handle, &stream);
  if (result != CUDA_SUCCESS)
    return result;
  if (function->module->object.context != driver_context() ||
      stream->object.context != driver_context()) {
    report_log("cuLaunchKernel: the function or the stream belongs to another context");
    return CUDA_ERROR_INVALID_HANDLE;
  }
  const char *why = refuse(function, grid, block, shared);
  if (why != NULL) {
    report_log("cuLaunchKernel: %s: %s", function->name, why);
    return CUDA_ERROR_INVALID_VALUE;
  }
  struct command *command = command_new(COMMAND_LAUNCH);
  if (command == NULL)
    return CUDA_ERROR_OUT_OF_MEMORY;
  command->launch.function = function;
  memcpy(command->launch.grid, grid, sizeof(grid));
  memcpy(command->launch.block, block, sizeof(block));
  command->launch.shared = shared;
  result = copy_parameters(function, parameters, extra, &command->launch.params);
  if (result != CUDA_SUCCESS) {
    report_log("cuLaunchKernel: %s: the parameters are not %zu bytes in one of the two forms",
               function->name, function->param_bytes);
    command_free(command);
    return result;
  }
  return queue_push(stream, command);
}
