/* Streams and events. */
#include "tests/device/driver.h"

#include <stdlib.h>

void stream_free(struct stream *stream)
{
  if (stream->capture != NULL)
    capture_end(stream);
  free(stream->nodes);
  free(stream);
}

void event_free(struct event *event)
{
  free(event->nodes);
  free(event);
}

static CUresult stream_new(struct context *context, unsigned flags, struct stream **stream)
{
  *stream = calloc(1, sizeof(**stream));
  if (*stream == NULL)
    return CUDA_ERROR_OUT_OF_MEMORY;
  (*stream)->flags = flags;
  object_add(&(*stream)->object, context, OBJECT_STREAM);
  return CUDA_SUCCESS;
}

/* The stream that CU_STREAM_PER_THREAD stands for. */
static CUresult thread_stream(struct context *context, struct stream **stream)
{
  const unsigned thread = driver_thread();
  for (struct object *object = context->objects; object != NULL; object = object->next) {
    *stream = (struct stream *)object;
    if (object->kind == OBJECT_STREAM && (*stream)->thread == thread)
      return CUDA_SUCCESS;
  }
  const CUresult result = stream_new(context, 0, stream);
  if (result == CUDA_SUCCESS) {
    (*stream)->thread = thread;
    (*stream)->object.hidden = true;
  }
  return result;
}

CUresult stream_find(CUstream handle, struct stream **stream)
{
  struct context *context = driver_context();
  if (handle == CU_STREAM_PER_THREAD)
    return thread_stream(context, stream);
  *stream = handle == NULL || handle == CU_STREAM_LEGACY ? context->legacy
                                                         : object_find(handle, OBJECT_STREAM);
  return *stream == NULL ? CUDA_ERROR_INVALID_HANDLE : (*stream)->object.context->fault;
}

CUresult do_cuStreamCreate(CUstream *handle, unsigned flags)
{
  if (handle == NULL || flags > CU_STREAM_NON_BLOCKING)
    return CUDA_ERROR_INVALID_VALUE;
  queue_sweep(driver_context());
  return stream_new(driver_context(), flags, handle);
}

CUresult do_cuStreamDestroy_v2(CUstream handle)
{
  struct stream *stream = object_find(handle, OBJECT_STREAM);
  if (stream == NULL)
    return CUDA_ERROR_INVALID_HANDLE;
  if (stream->object.context->fault != CUDA_SUCCESS)
    return stream->object.context->fault;
  if (stream->capture != NULL)
    capture_end(stream);
  stream->object.hidden = true; /* and goes when its work is done */
  if (stream->head == NULL) {
    object_remove(&stream->object);
    stream_free(stream);
  }
  return CUDA_SUCCESS;
}

static CUresult find_to_wait(CUstream handle, struct stream **stream)
{
  const CUresult result = stream_find(handle, stream);
  return result != CUDA_SUCCESS ? result : capture_forbid_wait(*stream);
}

CUresult do_cuStreamSynchronize(CUstream handle)
{
  struct stream *stream;
  const CUresult result = find_to_wait(handle, &stream);
  return result != CUDA_SUCCESS ? result : queue_run_now(stream);
}

/* Does one piece of work at each call, so that a caller who asks again and again comes to an end,
 * and one who asks once after a launch hears that it is not done. */
CUresult do_cuStreamQuery(CUstream handle)
{
  struct stream *stream;
  const CUresult result = find_to_wait(handle, &stream);
  if (result != CUDA_SUCCESS || !queue_step(stream))
    return result;
  const CUresult fault = stream->object.context->fault;
  return fault != CUDA_SUCCESS ? fault : CUDA_ERROR_NOT_READY;
}

CUresult do_cuStreamGetCtx(CUstream handle, CUcontext *context)
{
  struct stream *stream;
  const CUresult result = stream_find(handle, &stream);
  if (result != CUDA_SUCCESS)
    return result;
  if (context == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  *context = stream->object.context;
  return CUDA_SUCCESS;
}

CUresult do_cuStreamWaitEvent(CUstream handle, CUevent event_handle, unsigned flags)
{
  struct stream *stream;
  const CUresult result = stream_find(handle, &stream);
  if (result != CUDA_SUCCESS)
    return result;
  const struct event *event = object_find(event_handle, OBJECT_EVENT);
  if (event == NULL)
    return CUDA_ERROR_INVALID_HANDLE;
  if (flags != 0)
    return CUDA_ERROR_INVALID_VALUE;
  if (!event->recorded)
    return CUDA_SUCCESS;
  if (event->capture != 0 || stream->capture != NULL)
    return capture_wait(stream, event);
  if (!event->pending)
    return CUDA_SUCCESS;
  struct command *command = command_new(COMMAND_WAIT);
  if (command != NULL) {
    command->wait.stream = event->stream;
    command->wait.sequence = event->sequence;
  }
  return queue_push(stream, command);
}

/* ---- events ---- */

CUresult do_cuEventCreate(CUevent *handle, unsigned flags)
{
  if (handle == NULL || flags > (CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING))
    return CUDA_ERROR_INVALID_VALUE; /* events between processes are not supported */
  struct event *event = calloc(1, sizeof(*event));
  if (event == NULL)
    return CUDA_ERROR_OUT_OF_MEMORY;
  event->flags = flags;
  object_add(&event->object, driver_context(), OBJECT_EVENT);
  *handle = event;
  return CUDA_SUCCESS;
}

CUresult do_cuEventDestroy_v2(CUevent handle)
{
  struct event *event = object_find(handle, OBJECT_EVENT);
  if (event == NULL)
    return CUDA_ERROR_INVALID_HANDLE;
  object_remove(&event->object);
  event_free(event);
  return CUDA_SUCCESS;
}

CUresult do_cuEventRecord(CUevent handle, CUstream stream_handle)
{
  struct stream *stream;
  CUresult result = stream_find(stream_handle, &stream);
  if (result != CUDA_SUCCESS)
    return result;
  struct event *event = object_find(handle, OBJECT_EVENT);
  if (event == NULL || event->object.context != stream->object.context)
    return CUDA_ERROR_INVALID_HANDLE;
  if (stream->capture != NULL)
    return capture_record(stream, event);
  struct command *command = command_new(COMMAND_RECORD);
  if (command != NULL)
    command->event = event->object.id;
  result = queue_push(stream, command);
  if (result != CUDA_SUCCESS)
    return result;
  event->recorded = event->pending = true;
  event->capture = 0;
  event->stream = stream->object.id;
  event->sequence = queue_sequence();
  return CUDA_SUCCESS;
}

static CUresult find_event(CUevent handle, struct event **event)
{
  *event = object_find(handle, OBJECT_EVENT);
  if (*event == NULL)
    return CUDA_ERROR_INVALID_HANDLE;
  if ((*event)->capture != 0)
    return CUDA_ERROR_CAPTURED_EVENT;
  return (*event)->object.context->fault;
}

CUresult do_cuEventSynchronize(CUevent handle)
{
  struct event *event;
  const CUresult result = find_event(handle, &event);
  if (result != CUDA_SUCCESS || !event->pending)
    return result;
  return queue_run_stream(event->stream, event->sequence);
}

CUresult do_cuEventQuery(CUevent handle)
{
  struct event *event;
  const CUresult result = find_event(handle, &event);
  if (result != CUDA_SUCCESS || !event->pending)
    return result;
  struct stream *stream = object_find_id(event->stream, OBJECT_STREAM);
  if (stream != NULL)
    queue_step(stream);
  const CUresult fault = event->object.context->fault;
  return fault != CUDA_SUCCESS ? fault : CUDA_ERROR_NOT_READY;
}

CUresult do_cuEventElapsedTime(float *milliseconds, CUevent start_handle, CUevent end_handle)
{
  struct event *start, *end;
  CUresult result = find_event(start_handle, &start);
  if (result == CUDA_SUCCESS)
    result = find_event(end_handle, &end);
  if (result != CUDA_SUCCESS)
    return result;
  if (milliseconds == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  if (!start->recorded || !end->recorded || ((start->flags | end->flags) & CU_EVENT_DISABLE_TIMING))
    return CUDA_ERROR_INVALID_HANDLE;
  if (start->pending || end->pending)
    return CUDA_ERROR_NOT_READY;
  *milliseconds = (float)(1e3 * (end->time - start->time));
  return CUDA_SUCCESS;
}
