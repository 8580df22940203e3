/* The public functions about devices and their memory: attn_device_list, attn_memory_*, attn_sync.
 */
#include "dsl/base/memory.h"
#include "runtime/context.h"
#include "runtime/cuda_faults.h"

#include <stdlib.h>
#include <string.h>

enum { MEMORY_ALIGNMENT = 256 };

/* ---- devices ---- */

static cuda_result describe(int number, attn_device_info *info)
{
  cuda_ordinal ordinal;
  size_t memory = 0;
  *info = (attn_device_info){.number = number};
  cuda_result result = cuda.device_get(&ordinal, number);
  if (result == CUDA_OK)
    result = cuda.device_name(info->name, sizeof(info->name), ordinal);
  if (result == CUDA_OK)
    result = cuda.device_attribute(&info->major, CUDA_CAPABILITY_MAJOR, ordinal);
  if (result == CUDA_OK)
    result = cuda.device_attribute(&info->minor, CUDA_CAPABILITY_MINOR, ordinal);
  if (result == CUDA_OK)
    result = cuda.device_attribute(&info->multiprocessors, CUDA_MULTIPROCESSOR_COUNT, ordinal);
  if (result == CUDA_OK)
    result = cuda.device_memory(&memory, ordinal);
  info->memory = memory;
  info->supported = 10 * info->major + info->minor >= CUDA_LEAST_CAPABILITY;
  return result;
}

attn_status attn_device_list(attn_device_info *devices, size_t capacity, size_t *count, char *error,
                             size_t error_size)
{
  const struct error_sink sink = {NULL, error, error_size};
  if (count == NULL || (devices == NULL && capacity != 0))
    return error_report(&sink, ATTN_ERROR_ARGUMENT, "count or devices is NULL");
  *count = 0;
  const char *missing = cuda_api_load();
  if (missing != NULL)
    return error_report(&sink, ATTN_ERROR_UNSUPPORTED, "%s", missing);
  int found = 0;
  cuda_result result = cuda.device_count(&found);
  for (int n = 0; n < found && (size_t)n < capacity && result == CUDA_OK; n++)
    result = describe(n, &devices[n]);
  if (result != CUDA_OK)
    return cuda_check(&sink, result, "ask for the devices");
  *count = (size_t)found;
  return ATTN_OK;
}

/* ---- memory ---- */

static void *allocate_host(size_t bytes)
{
  void *memory = NULL;
  return posix_memalign(&memory, MEMORY_ALIGNMENT, bytes == 0 ? 1 : bytes) == 0 ? memory : NULL;
}

attn_status attn_memory_allocate(attn_context *context, size_t bytes, void **memory)
{
  if (memory == NULL || context == NULL)
    return ATTN_ERROR_ARGUMENT;
  *memory = NULL;
  const struct error_sink sink = {context, NULL, 0};
  if (context->device == NULL) {
    *memory = allocate_host(bytes);
    return *memory == NULL ? error_out_of_memory(&sink) : ATTN_OK;
  }
  attn_status status = cuda_enter(context->device, &sink);
  if (status != ATTN_OK)
    return status;
  cuda_address address;
  status = cuda_allocate(&sink, bytes == 0 ? 1 : bytes, "attn_memory_allocate", &address);
  cuda_leave();
  *memory = (void *)(uintptr_t)address;
  return status;
}

void attn_memory_free(attn_context *context, void *memory)
{
  const struct error_sink quiet = {NULL, NULL, 0};
  if (context == NULL || memory == NULL)
    return;
  if (context->device == NULL) {
    free(memory);
  } else if (cuda_enter(context->device, &quiet) == ATTN_OK) {
    cuda.synchronize();
    cuda.free((cuda_address)(uintptr_t)memory);
    cuda_leave();
  }
}

/* Exactly one of the two addresses is not NULL. */
static attn_status copy(attn_context *context, void *host_to, const void *host_from, void *other,
                        size_t bytes, void *stream)
{
  const struct error_sink sink = {context, NULL, 0};
  attn_status status = cuda_enter(context->device, &sink);
  if (status != ATTN_OK)
    return status;
  const cuda_address address = (cuda_address)(uintptr_t)other;
  cuda_result result = host_to != NULL ? cuda.download(host_to, address, bytes, stream)
                                       : cuda.upload(address, host_from, bytes, stream);
  if (result == CUDA_OK)
    result = cuda.stream_synchronize(stream);
  status = cuda_check(&sink, result, host_to != NULL ? "download" : "upload");
  cuda_leave();
  return status;
}

static attn_status check_copy(attn_context *context, const void *to, const void *from, size_t bytes)
{
  const struct error_sink sink = {context, NULL, 0};
  if (bytes != 0 && (to == NULL || from == NULL))
    return error_report(&sink, ATTN_ERROR_ARGUMENT, "the memory to copy is NULL");
  return ATTN_OK;
}

attn_status attn_memory_upload(attn_context *context, void *to, const void *from, size_t bytes,
                               void *stream)
{
  if (context == NULL)
    return ATTN_ERROR_ARGUMENT;
  attn_status status = check_copy(context, to, from, bytes);
  if (status != ATTN_OK || bytes == 0)
    return status;
  if (context->device != NULL)
    return copy(context, NULL, from, to, bytes, stream);
  memmove(to, from, bytes);
  return ATTN_OK;
}

attn_status attn_memory_download(attn_context *context, void *to, const void *from, size_t bytes,
                                 void *stream)
{
  if (context == NULL)
    return ATTN_ERROR_ARGUMENT;
  attn_status status = check_copy(context, to, from, bytes);
  if (status != ATTN_OK || bytes == 0)
    return status;
  if (context->device != NULL)
    return copy(context, to, NULL, (void *)(uintptr_t)from, bytes, stream);
  memmove(to, from, bytes);
  return ATTN_OK;
}

/* ---- waiting ---- */

attn_status attn_sync(attn_context *context, void *stream)
{
  if (context == NULL)
    return ATTN_ERROR_ARGUMENT;
  const struct error_sink sink = {context, NULL, 0};
  if (context->device == NULL)
    return stream == NULL
               ? ATTN_OK
               : error_report(&sink, ATTN_ERROR_ARGUMENT, "stream must be NULL on the cpu");
  attn_status status = cuda_enter(context->device, &sink);
  if (status != ATTN_OK)
    return status;
  status = cuda_check(&sink, cuda.stream_synchronize(stream), "wait for the stream");
  if (status == ATTN_OK)
    status = cuda_faults_report_any(context->device, stream, &sink);
  cuda_leave();
  return status;
}
