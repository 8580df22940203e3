/* The queues of work of the streams. A command is done when a call waits for it, together with what
 * it waits for itself: what came before it in its stream, the events that its stream waits for, and
 * the implicit waits between the legacy stream and the others (CUDA Driver API, "Stream
 * synchronization behavior"). */
#include "tests/device/driver.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
  QUEUE_LENGTH = 1024
}; /* a stream that holds more does the oldest first, as real ones block */

static struct {
  uint64_t sequence;
  uint64_t launches;
} queue;

struct command *command_new(enum command_kind kind)
{
  struct command *command = calloc(1, sizeof(*command));
  if (command != NULL)
    command->kind = kind;
  return command;
}

void command_free(struct command *command)
{
  if (command == NULL)
    return;
  if (command->kind == COMMAND_LAUNCH)
    free(command->launch.params);
  else if (command->kind == COMMAND_GRAPH)
    graph_release(command->graph);
  free(command);
}

/* ---- doing it ---- */

/* Where `bytes` of device memory lie, on whichever device; NULL after a line about it. */
static unsigned char *device_place(const struct context *context, uint64_t address, size_t bytes,
                                   const char *what)
{
  void *place = NULL;
  for (uint32_t i = 0; i < settings_load()->devices && place == NULL; i++) {
    device_select(i);
    place = device_translate(address, bytes);
  }
  if (place == NULL)
    report_say("device %u: %s of %zu bytes at 0x%" PRIx64 ", which is not allocated any more",
               context->ordinal, what, bytes, address);
  return place;
}

static CUresult run_copy(const struct context *context, const struct command *command)
{
  const size_t bytes = command->copy.bytes;
  const void *from = command->copy.from_host;
  void *to = command->copy.to_host;
  if (from == NULL)
    from = device_place(context, command->copy.from, bytes, "a copy from memory");
  if (to == NULL)
    to = device_place(context, command->copy.to, bytes, "a copy to memory");
  if (from == NULL || to == NULL)
    return CUDA_ERROR_ILLEGAL_ADDRESS;
  memmove(to, from, bytes);
  return CUDA_SUCCESS;
}

static CUresult run_set(const struct context *context, const struct command *command)
{
  const size_t width = command->set.width;
  unsigned char *to =
      device_place(context, command->set.to, width * command->set.count, "a memset");
  if (to == NULL)
    return CUDA_ERROR_ILLEGAL_ADDRESS;
  if (width == 1)
    memset(to, (unsigned char)command->set.value, command->set.count);
  for (size_t i = 0; width == 4 && i < command->set.count; i++)
    memcpy(to + 4 * i, &command->set.value, 4);
  return CUDA_SUCCESS;
}

static CUresult fault_error(enum device_fault_kind kind)
{
  switch (kind) {
  case DEVICE_OK: break;
  case DEVICE_OUT_OF_BOUNDS: return CUDA_ERROR_ILLEGAL_ADDRESS;
  case DEVICE_MISALIGNED: return CUDA_ERROR_MISALIGNED_ADDRESS;
  case DEVICE_DEADLOCK: return CUDA_ERROR_LAUNCH_TIMEOUT;
  case DEVICE_UNSUPPORTED: return CUDA_ERROR_ILLEGAL_INSTRUCTION;
  case DEVICE_UNWRITTEN_SHARED:
  case DEVICE_RACE:
  case DEVICE_ASYNC_HAZARD:
  case DEVICE_DIVERGENT_BARRIER:
  case DEVICE_TRAP: return CUDA_ERROR_LAUNCH_FAILED;
  }
  return CUDA_ERROR_UNKNOWN;
}

/* Each launch has a seed of its own (the finaliser of splitmix64, Steele, Lea and Flood 2014). */
static uint64_t launch_seed(void)
{
  uint64_t seed = settings_load()->seed + ++queue.launches * UINT64_C(0x9e3779b97f4a7c15);
  seed = (seed ^ (seed >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
  seed = (seed ^ (seed >> 27)) * UINT64_C(0x94d049bb133111eb);
  return seed ^ (seed >> 31);
}

static CUresult run_launch(const struct context *context, const struct command *command)
{
  const struct function *function = command->launch.function;
  if (function->module->ptx == NULL) {
    report_say("device %u: kernel %s was launched and its module unloaded before it ran",
               context->ordinal, function->name);
    return CUDA_ERROR_ILLEGAL_ADDRESS;
  }
  struct device_fault fault = {.kind = DEVICE_OK};
  struct device_counts counts = {0};
  struct ptx_launch launch = {.entry = function->entry,
                              .dynamic_shared = command->launch.shared,
                              .params = command->launch.params,
                              .seed = launch_seed()};
  memcpy(launch.grid, command->launch.grid, sizeof(launch.grid));
  memcpy(launch.block, command->launch.block, sizeof(launch.block));
  device_select(context->ordinal);
  if (ptx_run(&launch, &fault, &counts))
    return CUDA_SUCCESS;
  report_say("device %u: kernel %s, block (%u, %u, %u), thread %u, line %u: %s", context->ordinal,
             function->name, fault.block[0], fault.block[1], fault.block[2], fault.thread,
             fault.line, fault.text);
  return fault_error(fault.kind);
}

static void run_record(const struct command *command)
{
  struct event *event = object_find_id(command->event, OBJECT_EVENT);
  struct timespec now;
  if (event == NULL || event->sequence != command->sequence)
    return; /* destroyed, or recorded again since */
  clock_gettime(CLOCK_MONOTONIC, &now);
  event->time = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
  event->pending = false;
}

static CUresult run_free(const struct command *command)
{
  for (uint32_t i = 0; i < settings_load()->devices; i++) {
    const struct context *context = driver_device_context(i);
    for (struct object *object = context->objects; object != NULL; object = object->next) {
      struct memory *memory = (struct memory *)object;
      if (object->kind == OBJECT_MEMORY && memory->address == command->address) {
        object_remove(object);
        memory_release(memory);
        return CUDA_SUCCESS;
      }
    }
  }
  return CUDA_ERROR_ILLEGAL_ADDRESS; /* freed by cuMemFree meanwhile */
}

CUresult command_run(struct context *context, const struct command *command)
{
  switch (command->kind) {
  case COMMAND_TO_DEVICE:
  case COMMAND_TO_HOST:
  case COMMAND_WITHIN_DEVICE: return run_copy(context, command);
  case COMMAND_SET: return run_set(context, command);
  case COMMAND_LAUNCH: return run_launch(context, command);
  case COMMAND_RECORD: run_record(command); return CUDA_SUCCESS;
  case COMMAND_WAIT: return CUDA_SUCCESS; /* queue_run has waited */
  case COMMAND_FREE: return run_free(command);
  case COMMAND_GRAPH: return graph_run(context, command->graph);
  }
  return CUDA_ERROR_UNKNOWN;
}

/* ---- the order ---- */

uint64_t queue_sequence(void)
{
  return queue.sequence;
}

static void pop(struct stream *stream)
{
  struct command *command = stream->head;
  stream->head = command->next;
  if (stream->head == NULL)
    stream->tail = NULL;
  stream->length--;
  command_free(command);
}

/* The object as a stream that waits for the legacy stream, and that for it; or NULL. */
static struct stream *blocking_stream(struct object *object)
{
  struct stream *stream = (struct stream *)object;
  return object->kind == OBJECT_STREAM && stream != object->context->legacy &&
                 (stream->flags & CU_STREAM_NON_BLOCKING) == 0
             ? stream
             : NULL;
}

static void run_blocking_streams(struct context *context, uint64_t sequence)
{
  for (struct object *object = context->objects; object != NULL; object = object->next) {
    if (blocking_stream(object) != NULL)
      queue_run(blocking_stream(object), sequence);
  }
}

/* Does the first command of the stream. Every wait is for what has a smaller place in the sequence,
 * so that this comes to an end. */
static void run_head(struct stream *stream)
{
  struct context *context = stream->object.context;
  const struct command *command = stream->head;
  if (stream == context->legacy)
    run_blocking_streams(context, command->sequence - 1);
  else if (blocking_stream(&stream->object) != NULL)
    queue_run(context->legacy, command->sequence - 1);
  if (stream->head == command && command->kind == COMMAND_WAIT)
    queue_run_stream(command->wait.stream, command->wait.sequence);
  if (stream->head != command)
    return; /* the context failed, and its queues are empty */
  const CUresult result = command_run(context, command);
  if (result != CUDA_SUCCESS)
    driver_fail(context, result);
  else
    pop(stream);
}

CUresult queue_run(struct stream *stream, uint64_t sequence)
{
  while (stream->head != NULL && stream->head->sequence <= sequence)
    run_head(stream);
  return stream->object.context->fault;
}

CUresult queue_run_stream(uint64_t id, uint64_t sequence)
{
  struct stream *stream = object_find_id(id, OBJECT_STREAM);
  return stream == NULL ? CUDA_SUCCESS : queue_run(stream, sequence);
}

CUresult queue_run_now(struct stream *stream)
{
  if (stream == stream->object.context->legacy)
    run_blocking_streams(stream->object.context, queue.sequence);
  return queue_run(stream, queue.sequence);
}

void queue_sweep(struct context *context)
{
  struct object *object = context->objects;
  while (object != NULL) {
    struct stream *stream = (struct stream *)object;
    object = object->next;
    if (stream->object.kind == OBJECT_STREAM && stream->object.hidden && stream->head == NULL &&
        stream != context->legacy && stream->thread == 0) {
      object_remove(&stream->object);
      stream_free(stream);
    }
  }
}

CUresult queue_run_all(struct context *context)
{
  for (struct object *object = context->objects; object != NULL; object = object->next) {
    if (object->kind == OBJECT_STREAM)
      queue_run((struct stream *)object, queue.sequence);
  }
  queue_sweep(context);
  return context->fault;
}

bool queue_step(struct stream *stream)
{
  const struct context *context = stream->object.context;
  struct object *object = stream == context->legacy ? context->objects : NULL;
  for (; stream->head == NULL && object != NULL; object = object->next) {
    if (blocking_stream(object) != NULL)
      stream = blocking_stream(object);
  }
  if (stream->head == NULL)
    return false;
  run_head(stream);
  return true;
}

void queue_drop(struct context *context)
{
  for (struct object *object = context->objects; object != NULL; object = object->next) {
    struct stream *stream = (struct stream *)object;
    while (object->kind == OBJECT_STREAM && stream->head != NULL)
      pop(stream);
  }
}

CUresult queue_push(struct stream *stream, struct command *command)
{
  if (command == NULL)
    return CUDA_ERROR_OUT_OF_MEMORY;
  if (stream->capture != NULL)
    return capture_add(stream, command);
  const struct context *context = stream->object.context;
  CUresult result = stream == context->legacy ? capture_forbid_legacy(context) : CUDA_SUCCESS;
  if (result == CUDA_SUCCESS && stream->length >= QUEUE_LENGTH) {
    run_head(stream);
    result = context->fault;
  }
  if (result != CUDA_SUCCESS) {
    command_free(command);
    return result;
  }
  command->sequence = ++queue.sequence;
  if (stream->tail == NULL)
    stream->head = command;
  else
    stream->tail->next = command;
  stream->tail = command;
  stream->length++;
  return CUDA_SUCCESS;
}
