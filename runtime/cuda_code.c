#include "runtime/cuda_code.h"

#include "compiler/tile/tasks.h"
#include "dsl/base/memory.h"
#include "runtime/context.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

enum { LOG_SIZE = 4096, PLAIN_SHARED = 48 * 1024 };

/* Memory that goes with the code. */
struct kept {
  struct kept *next;
  cuda_address device; /* or 0 */
  void *host;          /* pinned, or NULL */
};

struct cuda_code {
  const struct cuda_device *device;
  struct cuda_module *module;
  pthread_mutex_t lock; /* guards `kept` */
  struct kept *kept;
};

/* ---- assembling ---- */

struct assembler {
  struct cuda_link *link;
  char log[LOG_SIZE];
};

static cuda_result assemble(struct assembler *a, const struct compiled *compiled, void **cubin,
                            size_t *size)
{
  enum cuda_jit_option options[] = {CUDA_JIT_ERROR_LOG, CUDA_JIT_ERROR_LOG_SIZE};
  void *values[] = {a->log, (void *)(uintptr_t)(sizeof(a->log) - 1)};
  cuda_result result = cuda.link_create(2, options, values, &a->link);
  if (result == CUDA_OK)
    result = cuda.link_add(a->link, CUDA_JIT_PTX, compiled->code, compiled->code_size + 1,
                           "attn.ptx", 0, NULL, NULL);
  if (result == CUDA_OK)
    result = cuda.link_complete(a->link, cubin, size);
  return result;
}

static attn_status report_assembler(const struct error_sink *sink, const struct assembler *a,
                                    cuda_result result)
{
  if (result == CUDA_UNSUPPORTED_PTX_VERSION) {
    int version = cuda_api_version();
    return error_report(sink, ATTN_ERROR_UNSUPPORTED,
                        "the NVIDIA driver is too old for this code: it supports CUDA %d.%d; "
                        "update the driver%s%s",
                        version / 1000, version % 1000 / 10, a->log[0] == '\0' ? "" : ": ", a->log);
  }
  if ((result == CUDA_INVALID_PTX || result == CUDA_INVALID_IMAGE ||
       result == CUDA_NO_BINARY_FOR_GPU) &&
      a->log[0] != '\0')
    return error_report(sink, ATTN_ERROR_INTERNAL, "the driver does not accept the code: %s",
                        a->log);
  return cuda_check(sink, result, "assemble the code");
}

attn_status cuda_code_assemble(struct compiled *compiled, const struct error_sink *sink)
{
  struct assembler *a = mem_alloc_zeroed(1, sizeof(*a));
  if (a == NULL)
    return error_out_of_memory(sink);
  void *cubin = NULL;
  size_t size = 0;
  cuda_result result = assemble(a, compiled, &cubin, &size);
  attn_status status = ATTN_OK;
  if (result != CUDA_OK) {
    status = report_assembler(sink, a, result);
  } else {
    unsigned char *copy = size == SIZE_MAX ? NULL : mem_alloc(size + 1);
    if (copy == NULL) {
      status = error_out_of_memory(sink);
    } else {
      memcpy(copy, cubin, size);
      copy[size] = '\0';
      mem_free(compiled->code);
      compiled->code = copy;
      compiled->code_size = size;
    }
  }
  if (a->link != NULL)
    cuda.link_destroy(a->link); /* the cubin goes with it */
  mem_free(a);
  return status;
}

/* ---- loading ---- */

attn_status cuda_code_load(const struct cuda_device *device, const struct compiled *compiled,
                           const struct error_sink *sink, struct cuda_code **out)
{
  *out = NULL;
  struct cuda_code *code = mem_alloc_zeroed(1, sizeof(*code));
  if (code == NULL)
    return error_out_of_memory(sink);
  code->device = device;
  pthread_mutex_init(&code->lock, NULL);
  attn_status status =
      cuda_check(sink, cuda.module_load(&code->module, compiled->code), "load the code");
  if (status != ATTN_OK) {
    code->module = NULL;
    cuda_code_free(code);
    return status;
  }
  *out = code;
  return ATTN_OK;
}

void cuda_code_free(struct cuda_code *code)
{
  if (code == NULL)
    return;
  if (code->module != NULL)
    cuda.module_unload(code->module);
  while (code->kept != NULL) {
    struct kept *next = code->kept->next;
    if (code->kept->device != 0)
      cuda.free(code->kept->device);
    if (code->kept->host != NULL)
      cuda.host_free(code->kept->host);
    mem_free(code->kept);
    code->kept = next;
  }
  pthread_mutex_destroy(&code->lock);
  mem_free(code);
}

attn_status cuda_code_function(const struct cuda_code *code, const struct compiled_kernel *kernel,
                               const struct error_sink *sink, struct cuda_function **function)
{
  const char *name = kernel->tile->name;
  cuda_result result = cuda.module_function(function, code->module, name);
  if (result == CUDA_NOT_FOUND)
    return error_report(sink, ATTN_ERROR_INTERNAL, "compiled code lacks the kernel '%s'", name);
  if (result != CUDA_OK)
    return cuda_check(sink, result, "find a kernel");
  if (kernel->shared_bytes > code->device->shared_limit)
    return error_report(sink, ATTN_ERROR_UNSUPPORTED,
                        "the kernel '%s' needs %u KiB of shared memory; %s has %zu KiB: choose "
                        "smaller tiles (schedule)",
                        name, kernel->shared_bytes >> 10, code->device->name,
                        code->device->shared_limit >> 10);
  if (kernel->shared_bytes <= PLAIN_SHARED)
    return ATTN_OK;
  return cuda_check(
      sink,
      cuda.function_set(*function, CUDA_FUNCTION_MAX_DYNAMIC_SHARED, (int)kernel->shared_bytes),
      "give a kernel its shared memory");
}

/* ---- memory that goes with the code ---- */

static struct kept *add_kept(struct cuda_code *code, const struct error_sink *sink)
{
  struct kept *kept = mem_alloc_zeroed(1, sizeof(*kept));
  if (kept == NULL) {
    error_out_of_memory(sink);
    return NULL;
  }
  pthread_mutex_lock(&code->lock);
  kept->next = code->kept;
  code->kept = kept;
  pthread_mutex_unlock(&code->lock);
  return kept;
}

attn_status cuda_code_upload(struct cuda_code *code, const void *data, size_t size,
                             const struct error_sink *sink, cuda_address *address)
{
  struct kept *kept = add_kept(code, sink);
  if (kept == NULL)
    return ATTN_ERROR_OUT_OF_MEMORY;
  attn_status status = cuda_allocate(sink, size, "constants of the code", &kept->device);
  if (status != ATTN_OK)
    return status;
  *address = kept->device;
  cuda_result result = cuda.upload(kept->device, data, size, NULL);
  if (result == CUDA_OK)
    result = cuda.stream_synchronize(NULL);
  return cuda_check(sink, result, "upload constants of the code");
}

void *cuda_code_keep(struct cuda_code *code, size_t size, const struct error_sink *sink)
{
  struct kept *kept = add_kept(code, sink);
  if (kept == NULL ||
      cuda_check(sink, cuda.host_allocate(&kept->host, size), "allocate pinned memory") != ATTN_OK)
    return NULL;
  return kept->host;
}

/* ---- launching ---- */

attn_status cuda_code_launch(const struct compiled_kernel *kernel, struct cuda_function *function,
                             int64_t *slots, struct cuda_stream *stream,
                             const struct error_sink *sink)
{
  int64_t tasks = tile_task_count(kernel->tile, slots);
  if (tasks < 0 || tasks > INT_MAX)
    return error_report(sink, ATTN_ERROR_ARGUMENT,
                        "the kernel '%s' would have more than %d blocks; launch fewer sequences at "
                        "a time",
                        kernel->tile->name, INT_MAX);
  if (tasks == 0)
    return ATTN_OK;
  void *parameters[] = {slots};
  cuda_result result = cuda.launch(function, (unsigned)tasks, 1, 1, kernel->threads, 1, 1,
                                   kernel->shared_bytes, stream, parameters, NULL);
  return result == CUDA_OK ? ATTN_OK : cuda_check(sink, result, "launch a kernel");
}
