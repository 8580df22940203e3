#include "runtime/cuda_device.h"

#include "dsl/base/memory.h"
#include "runtime/context.h"
#include "runtime/cuda_copy.h"
#include "runtime/cuda_staging.h"

#include <stdio.h>
#include <string.h>

enum {
  ZERO_BYTES = 4096,
  WORKSPACE_STEP = 1 << 20 /* sizes are rounded up to it, so that growing lengths do not allocate
                              each time */
};

/* ---- errors ---- */

attn_status cuda_check(const struct error_sink *sink, cuda_result result, const char *doing)
{
  if (result == CUDA_OK)
    return ATTN_OK;
  const char *name = NULL, *text = NULL;
  size_t free = 0, total = 0;
  if (result == CUDA_OUT_OF_MEMORY && cuda.memory_info(&free, &total) == CUDA_OK)
    return error_report(sink, ATTN_ERROR_OUT_OF_MEMORY,
                        "cannot %s: the device is out of memory (%zu MiB of %zu MiB are free)",
                        doing, free >> 20, total >> 20);
  if (cuda.error_name(result, &name) != CUDA_OK || name == NULL)
    name = "an unknown error";
  if (cuda.error_string(result, &text) != CUDA_OK || text == NULL)
    text = "the driver says no more";
  attn_status status = result == CUDA_OUT_OF_MEMORY ? ATTN_ERROR_OUT_OF_MEMORY : ATTN_ERROR_DEVICE;
  return error_report(sink, status, "cannot %s: %s (%d): %s", doing, name, result, text);
}

attn_status cuda_enter(const struct cuda_device *device, const struct error_sink *sink)
{
  return cuda_check(sink, cuda.push(device->primary), "use the device");
}

void cuda_leave(void)
{
  struct cuda_context *popped;
  cuda.pop(&popped);
}

/* ---- opening ---- */

static attn_status find_device(struct cuda_device *device, const struct error_sink *sink)
{
  const char *error = cuda_api_load();
  if (error != NULL)
    return error_report(sink, ATTN_ERROR_UNSUPPORTED, "%s", error);
  int count = 0, major = 0, minor = 0, shared = 0;
  attn_status status = cuda_check(sink, cuda.device_count(&count), "count devices");
  if (status != ATTN_OK)
    return status;
  if (count == 0)
    return error_report(sink, ATTN_ERROR_UNSUPPORTED, "the driver finds no NVIDIA GPU");
  if (device->number >= count)
    return error_report(sink, ATTN_ERROR_ARGUMENT,
                        "there is no device cuda:%d; there %s %d, the last is cuda:%d",
                        device->number, count == 1 ? "is" : "are", count, count - 1);
  cuda_result result = cuda.device_get(&device->ordinal, device->number);
  if (result == CUDA_OK)
    result = cuda.device_name(device->name, sizeof(device->name), device->ordinal);
  if (result == CUDA_OK)
    result = cuda.device_attribute(&major, CUDA_CAPABILITY_MAJOR, device->ordinal);
  if (result == CUDA_OK)
    result = cuda.device_attribute(&minor, CUDA_CAPABILITY_MINOR, device->ordinal);
  if (result == CUDA_OK)
    result = cuda.device_attribute(&shared, CUDA_MAX_SHARED_OPTIN, device->ordinal);
  if (result != CUDA_OK)
    return cuda_check(sink, result, "ask the device what it is");
  device->capability = (unsigned)(10 * major + minor);
  device->shared_limit = (size_t)shared;
  if (device->capability < CUDA_LEAST_CAPABILITY)
    return error_report(sink, ATTN_ERROR_UNSUPPORTED,
                        "cuda:%d, %s, has compute capability %d.%d; at least %d.%d is needed (A100 "
                        "and later)",
                        device->number, device->name, major, minor, CUDA_LEAST_CAPABILITY / 10,
                        CUDA_LEAST_CAPABILITY % 10);
  return ATTN_OK;
}

static attn_status make_zeros(struct cuda_device *device, const struct error_sink *sink)
{
  attn_status status = cuda_enter(device, sink);
  if (status != ATTN_OK)
    return status;
  status = cuda_allocate(sink, ZERO_BYTES, "a context", &device->zeros);
  if (status == ATTN_OK) {
    cuda_result result = cuda.fill(device->zeros, 0, ZERO_BYTES, NULL);
    if (result == CUDA_OK)
      result = cuda.stream_synchronize(NULL);
    status = cuda_check(sink, result, "clear memory");
  }
  cuda_leave();
  return status;
}

attn_status cuda_device_open(int number, const struct error_sink *sink, struct cuda_device **out)
{
  *out = NULL;
  struct cuda_device *device = mem_alloc_zeroed(1, sizeof(*device));
  if (device == NULL)
    return error_out_of_memory(sink);
  device->number = number;
  pthread_mutex_init(&device->lock, NULL);
  pthread_mutex_init(&device->copy_lock, NULL);
  attn_status status = find_device(device, sink);
  if (status == ATTN_OK)
    status = cuda_check(sink, cuda.primary_retain(&device->primary, device->ordinal),
                        "begin to use the device");
  if (status == ATTN_OK)
    status = make_zeros(device, sink);
  if (status != ATTN_OK) {
    cuda_device_close(device);
    return status;
  }
  *out = device;
  return ATTN_OK;
}

static void free_all(struct cuda_device *device)
{
  cuda_copy_free(device->copy);
  cuda_staging_trim(device, true);
  while (device->workspaces != NULL) {
    struct cuda_workspace *next = device->workspaces->next;
    if (device->workspaces->data != 0)
      cuda.free(device->workspaces->data);
    pthread_mutex_destroy(&device->workspaces->lock);
    mem_free(device->workspaces);
    device->workspaces = next;
  }
  if (device->zeros != 0)
    cuda.free(device->zeros);
}

void cuda_device_close(struct cuda_device *device)
{
  if (device == NULL)
    return;
  if (device->primary != NULL) {
    bool entered = cuda.push(device->primary) == CUDA_OK;
    cuda.synchronize();
    free_all(device); /* what the driver refuses now is lost with the device */
    if (entered)
      cuda_leave();
    cuda.primary_release(device->ordinal);
  }
  pthread_mutex_destroy(&device->copy_lock);
  pthread_mutex_destroy(&device->lock);
  mem_free(device);
}

void cuda_device_key(const struct cuda_device *device, unsigned char key[CUDA_KEY_SIZE])
{
  const uint32_t numbers[] = {device->capability, (uint32_t)cuda_api_version()};
  memcpy(key, numbers, CUDA_KEY_SIZE);
}

/* ---- memory ---- */

attn_status cuda_allocate(const struct error_sink *sink, size_t bytes, const char *what,
                          cuda_address *address)
{
  *address = 0;
  cuda_result result = cuda.allocate(address, bytes);
  if (result == CUDA_OK)
    return ATTN_OK;
  char doing[128];
  snprintf(doing, sizeof(doing), "allocate %zu bytes for %.80s", bytes, what);
  *address = 0;
  return cuda_check(sink, result, doing);
}

enum cuda_pointer cuda_pointer_place(const struct cuda_device *device, cuda_address address,
                                     int *other)
{
  unsigned type = 0;
  /* Memory that the driver does not know was never given out by it. */
  if (cuda.pointer_attribute(&type, CUDA_POINTER_MEMORY_TYPE, address) != CUDA_OK ||
      type == CUDA_MEMORY_HOST)
    return CUDA_POINTER_HOST;
  *other = device->ordinal;
  if (cuda.pointer_attribute(other, CUDA_POINTER_ORDINAL, address) == CUDA_OK &&
      *other != device->ordinal)
    return CUDA_POINTER_ELSEWHERE;
  return CUDA_POINTER_HERE;
}

attn_status cuda_is_capturing(const struct error_sink *sink, struct cuda_stream *stream,
                              bool *capturing)
{
  int status = 0;
  cuda_result result = cuda.stream_capturing(stream, &status);
  *capturing = status != 0; /* 1: active, 2: spoilt */
  return cuda_check(sink, result, "ask the stream whether it is capturing");
}

/* ---- workspaces ---- */

static bool is_for(const struct cuda_workspace *workspace, const struct cuda_stream *stream)
{
  return workspace->stream == stream &&
         (stream != CUDA_STREAM_PER_THREAD || pthread_equal(workspace->thread, pthread_self()));
}

struct cuda_workspace *cuda_workspace_lock(struct cuda_device *device, struct cuda_stream *stream,
                                           const struct error_sink *sink)
{
  pthread_mutex_lock(&device->lock);
  struct cuda_workspace *workspace = device->workspaces;
  while (workspace != NULL && !is_for(workspace, stream))
    workspace = workspace->next;
  if (workspace == NULL && (workspace = mem_alloc_zeroed(1, sizeof(*workspace))) != NULL) {
    workspace->stream = stream;
    workspace->thread = pthread_self();
    pthread_mutex_init(&workspace->lock, NULL);
    workspace->next = device->workspaces;
    device->workspaces = workspace;
  }
  pthread_mutex_unlock(&device->lock);
  if (workspace == NULL)
    error_out_of_memory(sink);
  else
    pthread_mutex_lock(&workspace->lock);
  return workspace;
}

void cuda_workspace_unlock(struct cuda_workspace *workspace)
{
  if (workspace != NULL)
    pthread_mutex_unlock(&workspace->lock);
}

static cuda_result drop(struct cuda_workspace *workspace)
{
  if (workspace->data == 0)
    return CUDA_OK;
  cuda_result result = cuda.synchronize(); /* something may be using it */
  if (result != CUDA_OK)
    return result;
  cuda_address data = workspace->data;
  workspace->data = 0;
  workspace->size = 0;
  return cuda.free(data);
}

attn_status cuda_workspace_reserve(struct cuda_workspace *workspace, size_t bytes,
                                   const struct error_sink *sink)
{
  if (workspace->size >= bytes)
    return ATTN_OK;
  attn_status status = cuda_check(sink, drop(workspace), "free the workspace");
  if (status != ATTN_OK)
    return status;
  size_t size = bytes > SIZE_MAX - WORKSPACE_STEP
                    ? bytes
                    : (bytes + WORKSPACE_STEP - 1) / WORKSPACE_STEP * WORKSPACE_STEP;
  status = cuda_allocate(sink, size, "the workspace of a launch", &workspace->data);
  if (status == ATTN_OK)
    workspace->size = size;
  return status;
}

void cuda_device_trim(struct cuda_device *device)
{
  pthread_mutex_lock(&device->lock);
  struct cuda_workspace *workspace = device->workspaces;
  pthread_mutex_unlock(&device->lock);
  for (; workspace != NULL; workspace = workspace->next) {
    pthread_mutex_lock(&workspace->lock);
    drop(workspace);
    pthread_mutex_unlock(&workspace->lock);
  }
  cuda_staging_trim(device, false);
}
