/* Primary contexts, the stack of current ones, and what is left over at a context's end. */
#include "tests/device/driver.h"

#include <stdlib.h>

/* ---- leaks ---- */

void context_report_leaks(const struct context *context)
{
  static const char *const names[] = {
      [OBJECT_MEMORY] = "an allocation", [OBJECT_HOST_MEMORY] = "a host allocation",
      [OBJECT_STREAM] = "a stream",      [OBJECT_EVENT] = "an event",
      [OBJECT_MODULE] = "a module",      [OBJECT_LINK] = "a linker",
      [OBJECT_GRAPH] = "a graph",        [OBJECT_GRAPH_EXEC] = "an executable graph"};
  if (context->fault != CUDA_SUCCESS)
    return; /* nothing could be given back any more */
  for (const struct object *object = context->objects; object != NULL; object = object->next) {
    if (object->hidden)
      continue;
    if (object->kind == OBJECT_MEMORY || object->kind == OBJECT_HOST_MEMORY) {
      const struct memory *memory = (const struct memory *)object;
      report_say("leak on device %u: %s of %zu bytes at 0x%llx, from %s", context->ordinal,
                 names[object->kind], memory->bytes, (unsigned long long)memory->address,
                 object->made_by);
    } else {
      report_say("leak on device %u: %s, from %s", context->ordinal, names[object->kind],
                 object->made_by);
    }
  }
}

static void object_free(struct object *object)
{
  switch (object->kind) {
  case OBJECT_MEMORY:
  case OBJECT_HOST_MEMORY: memory_release((struct memory *)object); break;
  case OBJECT_STREAM: stream_free((struct stream *)object); break;
  case OBJECT_EVENT: event_free((struct event *)object); break;
  case OBJECT_MODULE: module_free((struct module *)object); break;
  case OBJECT_LINK: link_free(object); break;
  case OBJECT_GRAPH:
  case OBJECT_GRAPH_EXEC: graph_free(object); break;
  }
}

void context_destroy(struct context *context)
{
  if (context->fault == CUDA_SUCCESS)
    queue_run_all(context);
  queue_drop(context);
  context_report_leaks(context);
  device_select(context->ordinal);
  while (context->objects != NULL) {
    struct object *object = context->objects;
    object_remove(object);
    object_free(object);
  }
  context->fault = CUDA_SUCCESS;
  context->legacy = NULL;
}

/* ---- primary contexts ---- */

static struct context *device_context(CUdevice device)
{
  return device < 0 || (uint32_t)device >= settings_load()->devices
             ? NULL
             : driver_device_context((uint32_t)device);
}

CUresult do_cuDevicePrimaryCtxRetain(CUcontext *handle, CUdevice device)
{
  struct context *context = device_context(device);
  if (context == NULL)
    return CUDA_ERROR_INVALID_DEVICE;
  if (handle == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  if (context->retained == 0) {
    context->legacy = calloc(1, sizeof(*context->legacy));
    if (context->legacy == NULL)
      return CUDA_ERROR_OUT_OF_MEMORY;
    object_add(&context->legacy->object, context, OBJECT_STREAM);
    context->legacy->object.hidden = true;
  }
  context->retained++;
  *handle = context;
  return CUDA_SUCCESS;
}

CUresult do_cuDevicePrimaryCtxRelease_v2(CUdevice device)
{
  struct context *context = device_context(device);
  if (context == NULL)
    return CUDA_ERROR_INVALID_DEVICE;
  if (context->retained == 0)
    return CUDA_ERROR_INVALID_CONTEXT;
  if (context->retained == 1)
    context_destroy(context);
  context->retained--;
  return CUDA_SUCCESS;
}

CUresult do_cuDevicePrimaryCtxGetState(CUdevice device, unsigned *flags, int *active)
{
  const struct context *context = device_context(device);
  if (context == NULL)
    return CUDA_ERROR_INVALID_DEVICE;
  if (flags == NULL || active == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  *flags = context->flags;
  *active = context->retained != 0;
  return CUDA_SUCCESS;
}

CUresult do_cuDevicePrimaryCtxSetFlags_v2(CUdevice device, unsigned flags)
{
  struct context *context = device_context(device);
  if (context == NULL)
    return CUDA_ERROR_INVALID_DEVICE;
  if (flags > 0xff || (flags & 7) == 3 || (flags & 7) > 4) /* how a thread waits: one of four */
    return CUDA_ERROR_INVALID_VALUE;
  context->flags = flags;
  return CUDA_SUCCESS;
}

/* ---- the current context ---- */

static bool is_context(const struct context *context)
{
  for (uint32_t i = 0; i < settings_load()->devices; i++) {
    if (driver_device_context(i) == context)
      return context->retained != 0;
  }
  return false;
}

CUresult do_cuCtxGetCurrent(CUcontext *context)
{
  if (context == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  *context = driver_context();
  return CUDA_SUCCESS;
}

CUresult do_cuCtxSetCurrent(CUcontext context)
{
  if (context == NULL) {
    driver_current_pop();
    return CUDA_SUCCESS;
  }
  if (!is_context(context))
    return CUDA_ERROR_INVALID_CONTEXT;
  driver_current_set(context);
  return CUDA_SUCCESS;
}

CUresult do_cuCtxPushCurrent_v2(CUcontext context)
{
  if (!is_context(context))
    return CUDA_ERROR_INVALID_CONTEXT;
  return driver_current_push(context) ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult do_cuCtxPopCurrent_v2(CUcontext *context)
{
  struct context *popped = driver_current_pop();
  if (popped == NULL)
    return CUDA_ERROR_INVALID_CONTEXT;
  if (context != NULL)
    *context = popped;
  return CUDA_SUCCESS;
}

CUresult do_cuCtxGetDevice(CUdevice *device)
{
  const struct context *context = driver_context();
  if (context == NULL)
    return CUDA_ERROR_INVALID_CONTEXT;
  if (device == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  *device = (CUdevice)context->ordinal;
  return CUDA_SUCCESS;
}

CUresult do_cuCtxSynchronize(void)
{
  struct context *context = driver_context();
  const CUresult result = capture_forbid_unsafe();
  return result != CUDA_SUCCESS ? result : queue_run_all(context);
}
