#include "runtime/tile_launch.h"

#include "dsl/base/memory.h"

#include <stdio.h>
#include <string.h>

enum { SCRATCH_ALIGNMENT = 64 };

struct tile_run {
  void (*run)(const int64_t *slots, int64_t task, void *scratch);
  const int64_t *slots;
  unsigned char *scratch;
  size_t scratch_stride;
};

static void run_task(void *user, int64_t task, unsigned worker)
{
  const struct tile_run *job = user;
  job->run(job->slots, task, job->scratch + worker * job->scratch_stride);
}

static int64_t *put_tensor(const struct tile_tensor *tensor,
                           const struct tile_tensor_argument *argument, int64_t *slot)
{
  *slot++ = (int64_t)(intptr_t)argument->data;
  int64_t compact = 1;
  for (uint32_t d = tensor->rank; d-- > 0; compact *= argument->sizes[d])
    slot[d] = argument->strides != NULL ? argument->strides[d] : compact;
  slot += tensor->rank;
  for (uint32_t d = 0; d < tensor->rank; d++)
    *slot++ = argument->sizes[d];
  return slot;
}

/* The name of what is missing, or NULL. */
static const char *fill_slots(const struct tile_kernel *kernel,
                              const struct tile_arguments *arguments, struct tile_fault *fault,
                              int64_t *slot)
{
  for (size_t t = 0; t < kernel->tensors.count; t++) {
    const struct tile_tensor *tensor = &kernel->tensors.items[t];
    size_t n = 0;
    while (n < arguments->tensor_count && strcmp(arguments->tensors[n].name, tensor->name) != 0)
      n++;
    if (n == arguments->tensor_count)
      return tensor->name;
    slot = put_tensor(tensor, &arguments->tensors[n], slot);
  }
  for (size_t p = 0; p < kernel->params.count; p++) {
    const struct tile_param *param = &kernel->params.items[p];
    size_t n = 0;
    while (n < arguments->param_count && strcmp(arguments->params[n].name, param->name) != 0)
      n++;
    if (n == arguments->param_count)
      return param->name;
    memcpy(slot++, &arguments->params[n].value, sizeof(*slot));
  }
  *slot = (int64_t)(intptr_t)fault;
  return NULL;
}

static attn_status run_kernel(struct thread_pool *threads, const struct compiled_kernel *compiled,
                              const struct host_code *code, const struct tile_arguments *arguments,
                              int64_t *slots, struct tile_run *job, char *error, size_t error_size)
{
  const struct tile_kernel *kernel = compiled->tile;
  char name[256];
  int64_t (*tasks)(const int64_t *slots);
  snprintf(name, sizeof(name), "%.240s_tasks", kernel->name);
  void *run = host_code_symbol(code, kernel->name), *count = host_code_symbol(code, name);
  if (run == NULL || count == NULL) {
    snprintf(error, error_size, "compiled code lacks the kernel '%s'", kernel->name);
    return ATTN_ERROR_INTERNAL;
  }
  memcpy(&job->run, &run, sizeof(run));
  memcpy(&tasks, &count, sizeof(count));

  struct tile_fault fault = {0};
  const char *missing = fill_slots(kernel, arguments, &fault, slots);
  if (missing != NULL) {
    snprintf(error, error_size, "'%s' of the kernel '%s' is missing", missing, kernel->name);
    return ATTN_ERROR_ARGUMENT;
  }
  thread_pool_run(threads, tasks(slots), run_task, job);
  if (fault.raised != 0) {
    snprintf(error, error_size, "check %d of the kernel '%s' failed with the index %lld",
             (int)fault.site, kernel->name, (long long)fault.index);
    return ATTN_ERROR_FAULT;
  }
  return ATTN_OK;
}

attn_status tile_launch(struct thread_pool *threads, const struct compiled *compiled,
                        const struct host_code *code, const struct tile_arguments *arguments,
                        char *error, size_t error_size)
{
  size_t slots = 0, scratch = 0;
  for (size_t n = 0; n < compiled->kernels.count; n++) {
    const struct compiled_kernel *kernel = &compiled->kernels.items[n];
    size_t count = tile_slot_count(kernel->tile);
    slots = count > slots ? count : slots;
    scratch = kernel->scratch_bytes > scratch ? kernel->scratch_bytes : scratch;
  }
  struct tile_run job = {.scratch_stride = (scratch + SCRATCH_ALIGNMENT - 1) / SCRATCH_ALIGNMENT *
                                           SCRATCH_ALIGNMENT};
  size_t slot_bytes = slots * sizeof(int64_t);
  unsigned char *memory =
      mem_alloc(slot_bytes + job.scratch_stride * thread_pool_count(threads) + SCRATCH_ALIGNMENT);
  if (memory == NULL) {
    snprintf(error, error_size, "out of memory");
    return ATTN_ERROR_OUT_OF_MEMORY;
  }
  job.slots = (const int64_t *)(void *)memory;
  uintptr_t end = (uintptr_t)(memory + slot_bytes);
  job.scratch = memory + slot_bytes + (SCRATCH_ALIGNMENT - end % SCRATCH_ALIGNMENT);

  attn_status status = ATTN_OK;
  for (size_t n = 0; status == ATTN_OK && n < compiled->kernels.count; n++)
    status = run_kernel(threads, &compiled->kernels.items[n], code, arguments,
                        (int64_t *)(void *)memory, &job, error, error_size);
  mem_free(memory);
  return status;
}
