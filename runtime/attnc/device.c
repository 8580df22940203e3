#include "runtime/attnc/device.h"

#include <stdio.h>
#include <string.h>

#include "runtime/context.h"
#include "runtime/cuda_device.h"

static bool is_on_device(const attn_context *context)
{
  return attn_context_device(context).device_type != kDLCPU;
}

const char *device_text(const attn_context *context, char buffer[32])
{
  if (!is_on_device(context))
    return "cpu";
  snprintf(buffer, 32, "cuda:%d", attn_context_device(context).device_id);
  return buffer;
}

const char *device_name(const attn_context *context, char buffer[128])
{
  enum { MOST = 64 };
  attn_device_info devices[MOST];
  size_t count = 0;
  buffer[0] = '\0';
  if (!is_on_device(context) || attn_device_list(devices, MOST, &count, NULL, 0) != ATTN_OK)
    return buffer;
  for (size_t k = 0; k < count && k < MOST; k++)
    if (devices[k].number == attn_context_device(context).device_id)
      memcpy(buffer, devices[k].name, sizeof(devices[k].name));
  return buffer;
}

/* ---- tensors ---- */

/* The place of a tensor that is in use, in order; NULL at the end. */
static struct tensor *tensor_at(struct workload *workload, size_t number)
{
  struct tensor *const first[] = {&workload->q, &workload->k, &workload->v, &workload->o};
  if (number < 4)
    return first[number];
  number -= 4;
  if (number < SPEC_MAX_INPUTS)
    return &workload->inputs[number];
  number -= SPEC_MAX_INPUTS;
  return number < SPEC_MAX_OUTPUTS ? &workload->outputs[number] : NULL;
}

static attn_status upload_one(struct tensor *tensor, attn_context *context)
{
  attn_status status = ATTN_OK;
  if (tensor->name == NULL)
    return status;
  if (tensor->on_device == NULL)
    status = attn_memory_allocate(context, tensor->bytes, &tensor->on_device);
  return status == ATTN_OK
             ? attn_memory_upload(context, tensor->on_device, tensor->data, tensor->bytes, NULL)
             : status;
}

attn_status device_upload(struct workload *workload, attn_context *context, char *error,
                          size_t size)
{
  if (!is_on_device(context))
    return ATTN_OK;
  attn_status status = ATTN_OK;
  workload->device = attn_context_device(context);
  for (size_t n = 0; tensor_at(workload, n) != NULL && status == ATTN_OK; n++)
    status = upload_one(tensor_at(workload, n), context);
  if (status != ATTN_OK)
    attn_context_error(context, error, size);
  return status;
}

static attn_status download_one(struct tensor *tensor, attn_context *context)
{
  if (tensor->name == NULL)
    return ATTN_OK;
  return attn_memory_download(context, tensor->data, tensor->on_device, tensor->bytes, NULL);
}

attn_status device_download(struct workload *workload, attn_context *context, char *error,
                            size_t size)
{
  if (!is_on_device(context))
    return ATTN_OK;
  attn_status waited = attn_sync(context, NULL), status = ATTN_OK;
  if (waited != ATTN_OK)
    attn_context_error(context, error, size);
  if (waited != ATTN_OK && waited != ATTN_ERROR_FAULT)
    return waited;
  status = download_one(&workload->o, context);
  for (size_t n = 0; n < SPEC_MAX_OUTPUTS && status == ATTN_OK; n++)
    status = download_one(&workload->outputs[n], context);
  if (status != ATTN_OK)
    attn_context_error(context, error, size);
  return status != ATTN_OK ? status : waited;
}

void device_release(struct workload *workload, attn_context *context)
{
  for (size_t n = 0; tensor_at(workload, n) != NULL; n++) {
    struct tensor *tensor = tensor_at(workload, n);
    if (tensor->on_device != NULL)
      attn_memory_free(context, tensor->on_device);
    tensor->on_device = NULL;
  }
}

attn_status device_run(struct workload *workload, attn_program *program, attn_context *context,
                       char *error, size_t size)
{
  attn_status status = device_upload(workload, context, error, size);
  if (status == ATTN_OK)
    status = workload_launch(workload, program, error, size);
  if (status == ATTN_OK)
    status = device_download(workload, context, error, size);
  device_release(workload, context);
  return status;
}

/* ---- time ---- */

struct device_timer {
  attn_context *context;
  struct cuda_event *start, *end; /* on a device */
};

/* Around calls of the driver; reports as the library does. */
static attn_status enter(const struct device_timer *timer, struct error_sink *sink, char *error,
                         size_t size)
{
  *sink = (struct error_sink){NULL, error, size};
  return cuda_enter(timer->context->device, sink);
}

struct device_timer *device_timer_new(attn_context *context, char *error, size_t size)
{
  struct device_timer *timer = mem_alloc_zeroed(1, sizeof(*timer));
  if (timer == NULL) {
    snprintf(error, size, "out of memory");
    return NULL;
  }
  timer->context = context;
  if (!is_on_device(context))
    return timer;
  struct error_sink sink;
  attn_status status = enter(timer, &sink, error, size);
  if (status == ATTN_OK) {
    cuda_result result = cuda.event_create(&timer->start, 0);
    if (result == CUDA_OK)
      result = cuda.event_create(&timer->end, 0);
    status = cuda_check(&sink, result, "make an event");
    cuda_leave();
  }
  if (status == ATTN_OK)
    return timer;
  device_timer_free(timer);
  return NULL;
}

void device_timer_free(struct device_timer *timer)
{
  char ignored[8];
  struct error_sink sink;
  if (timer == NULL)
    return;
  if ((timer->start != NULL || timer->end != NULL) &&
      enter(timer, &sink, ignored, sizeof(ignored)) == ATTN_OK) {
    if (timer->start != NULL)
      cuda.event_destroy(timer->start);
    if (timer->end != NULL)
      cuda.event_destroy(timer->end);
    cuda_leave();
  }
  mem_free(timer);
}

static attn_status record(const struct device_timer *timer, struct cuda_event *event, char *error,
                          size_t size)
{
  struct error_sink sink;
  attn_status status = enter(timer, &sink, error, size);
  if (status != ATTN_OK)
    return status;
  status = cuda_check(&sink, cuda.event_record(event, NULL), "record an event");
  cuda_leave();
  return status;
}

static attn_status elapsed(const struct device_timer *timer, double *ms, char *error, size_t size)
{
  struct error_sink sink;
  float time = 0;
  attn_status status = enter(timer, &sink, error, size);
  if (status != ATTN_OK)
    return status;
  cuda_result result = cuda.event_synchronize(timer->end);
  if (result == CUDA_OK)
    result = cuda.event_elapsed(&time, timer->start, timer->end);
  status = cuda_check(&sink, result, "wait for a launch");
  cuda_leave();
  *ms = (double)time;
  return status;
}

attn_status device_timer_launch(struct device_timer *timer, struct workload *workload,
                                attn_program *program, double *ms, char *error, size_t size)
{
  *ms = 0;
  if (timer->start == NULL) {
    double start = now_ms();
    attn_status status = workload_launch(workload, program, error, size);
    *ms = now_ms() - start;
    return status;
  }
  attn_status status = record(timer, timer->start, error, size);
  if (status == ATTN_OK)
    status = workload_launch(workload, program, error, size);
  if (status == ATTN_OK)
    status = record(timer, timer->end, error, size);
  return status == ATTN_OK ? elapsed(timer, ms, error, size) : status;
}
