/* Capture of streams into graphs, and their launch. The nodes of a graph run in a random order that
 * their dependences allow, so that a missing one shows. */
#include "tests/device/driver.h"

#include <stdlib.h>
#include <string.h>

struct graph_node {
  struct command *command;
  uint32_t *needs; /* earlier nodes */
  uint32_t need_count;
};
struct graph_nodes {
  uint32_t references;
  uint32_t count, capacity;
  struct graph_node *nodes;
};
/* Both kinds: what can be launched is what was captured. */
struct graph {
  struct object object;
  struct graph_nodes *nodes;
};

struct capture {
  struct capture *next;
  uint64_t id;
  struct stream *origin;
  CUstreamCaptureMode mode;
  unsigned thread;
  bool spoiled; /* by a call that is not allowed; it can only be ended */
  struct graph_nodes *nodes;
};

static struct {
  struct capture *captures;
  uint64_t count;
  uint64_t random;
} state = {.random = 1};

/* ---- sets of nodes ---- */

static bool nodes_copy(uint32_t **to, uint32_t *to_count, const uint32_t *from, uint32_t count)
{
  uint32_t *copy = malloc((count + 1) * sizeof(*copy));
  if (copy == NULL)
    return false;
  if (count != 0)
    memcpy(copy, from, count * sizeof(*copy));
  free(*to);
  *to = copy;
  *to_count = count;
  return true;
}

static bool nodes_unite(uint32_t **to, uint32_t *to_count, const uint32_t *from, uint32_t count)
{
  uint32_t *united = realloc(*to, (*to_count + count + 1) * sizeof(*united));
  if (united == NULL)
    return false;
  if (count != 0)
    memcpy(united + *to_count, from, count * sizeof(*united));
  *to = united;
  *to_count += count;
  return true;
}

void graph_release(struct graph_nodes *nodes)
{
  if (nodes == NULL || --nodes->references != 0)
    return;
  for (uint32_t i = 0; i < nodes->count; i++) {
    command_free(nodes->nodes[i].command);
    free(nodes->nodes[i].needs);
  }
  free(nodes->nodes);
  free(nodes);
}

void graph_free(struct object *object)
{
  graph_release(((struct graph *)object)->nodes);
  free(object);
}

/* ---- a capture's life ---- */

static struct capture *capture_find(uint64_t id)
{
  struct capture *capture = state.captures;
  while (capture != NULL && capture->id != id)
    capture = capture->next;
  return capture;
}

/* Frees the capture, and lets its streams, of any context, go on as before. */
static void capture_finish(struct capture *capture)
{
  for (uint32_t i = 0; i < settings_load()->devices; i++) {
    struct object *object = driver_device_context(i)->objects;
    for (; object != NULL; object = object->next) {
      struct stream *stream = (struct stream *)object;
      if (object->kind == OBJECT_STREAM && stream->capture == capture) {
        stream->capture = NULL;
        stream->node_count = 0;
      }
    }
  }
  struct capture **link = &state.captures;
  while (*link != capture)
    link = &(*link)->next;
  *link = capture->next;
  graph_release(capture->nodes);
  free(capture);
}

void capture_end(struct stream *stream)
{
  struct capture *capture = stream->capture;
  capture->spoiled = true;
  stream->capture = NULL;
  if (capture->origin == stream)
    capture_finish(capture);
}

CUresult do_cuStreamBeginCapture_v2(CUstream handle, CUstreamCaptureMode mode)
{
  struct stream *stream;
  const CUresult result = stream_find(handle, &stream);
  if (result != CUDA_SUCCESS)
    return result;
  if (mode < CU_STREAM_CAPTURE_MODE_GLOBAL || mode > CU_STREAM_CAPTURE_MODE_RELAXED)
    return CUDA_ERROR_INVALID_VALUE;
  if (stream == stream->object.context->legacy)
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  if (stream->capture != NULL)
    return CUDA_ERROR_ILLEGAL_STATE;
  struct capture *capture = calloc(1, sizeof(*capture));
  struct graph_nodes *nodes = calloc(1, sizeof(*nodes));
  if (capture == NULL || nodes == NULL) {
    free(capture);
    free(nodes);
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  nodes->references = 1;
  *capture = (struct capture){.next = state.captures,
                              .id = ++state.count,
                              .origin = stream,
                              .mode = mode,
                              .thread = driver_thread(),
                              .nodes = nodes};
  state.captures = capture;
  stream->capture = capture;
  stream->node_count = 0;
  return CUDA_SUCCESS;
}

CUresult do_cuStreamIsCapturing(CUstream handle, CUstreamCaptureStatus *status)
{
  struct stream *stream;
  CUresult result = stream_find(handle, &stream);
  if (result == CUDA_SUCCESS && status == NULL)
    result = CUDA_ERROR_INVALID_VALUE;
  if (result == CUDA_SUCCESS && stream == stream->object.context->legacy)
    result = capture_forbid_legacy(stream->object.context);
  if (result != CUDA_SUCCESS)
    return result;
  *status = stream->capture == NULL    ? CU_STREAM_CAPTURE_STATUS_NONE
            : stream->capture->spoiled ? CU_STREAM_CAPTURE_STATUS_INVALIDATED
                                       : CU_STREAM_CAPTURE_STATUS_ACTIVE;
  return CUDA_SUCCESS;
}

/* ---- what may not be done meanwhile ---- */

CUresult capture_forbid_wait(struct stream *stream)
{
  if (stream == stream->object.context->legacy)
    return capture_forbid_legacy(stream->object.context);
  if (stream->capture == NULL)
    return CUDA_SUCCESS;
  stream->capture->spoiled = true;
  return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
}

CUresult capture_forbid_unsafe(void)
{
  CUresult result = CUDA_SUCCESS;
  for (struct capture *capture = state.captures; capture != NULL; capture = capture->next) {
    if (capture->mode == CU_STREAM_CAPTURE_MODE_GLOBAL ||
        (capture->mode == CU_STREAM_CAPTURE_MODE_THREAD_LOCAL &&
         capture->thread == driver_thread())) {
      capture->spoiled = true;
      result = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    }
  }
  return result;
}

CUresult capture_forbid_legacy(const struct context *context)
{
  CUresult result = CUDA_SUCCESS;
  for (struct object *object = context->objects; object != NULL; object = object->next) {
    const struct stream *stream = (const struct stream *)object;
    if (object->kind == OBJECT_STREAM && stream->capture != NULL &&
        (stream->flags & CU_STREAM_NON_BLOCKING) == 0) {
      stream->capture->spoiled = true;
      result = CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
    }
  }
  return result;
}

/* ---- what is captured ---- */

CUresult capture_add(struct stream *stream, struct command *command)
{
  struct graph_nodes *nodes = stream->capture->nodes;
  if (stream->capture->spoiled) {
    command_free(command);
    return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  }
  struct graph_node node = {.command = command};
  if (nodes->count == nodes->capacity) {
    const uint32_t capacity = nodes->capacity == 0 ? 16 : 2 * nodes->capacity;
    struct graph_node *grown = realloc(nodes->nodes, capacity * sizeof(*grown));
    if (grown != NULL) {
      nodes->nodes = grown;
      nodes->capacity = capacity;
    }
  }
  if (nodes->count == nodes->capacity ||
      !nodes_copy(&node.needs, &node.need_count, stream->nodes, stream->node_count) ||
      !nodes_copy(&stream->nodes, &stream->node_count, &nodes->count, 1)) {
    free(node.needs);
    command_free(command);
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  nodes->nodes[nodes->count++] = node;
  return CUDA_SUCCESS;
}

CUresult capture_record(struct stream *stream, struct event *event)
{
  if (stream->capture->spoiled)
    return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  if (!nodes_copy(&event->nodes, &event->node_count, stream->nodes, stream->node_count))
    return CUDA_ERROR_OUT_OF_MEMORY;
  event->recorded = true;
  event->pending = false;
  event->capture = stream->capture->id;
  return CUDA_SUCCESS;
}

CUresult capture_wait(struct stream *stream, const struct event *event)
{
  struct capture *capture = capture_find(event->capture);
  if (event->capture == 0) { /* recorded outside, waited for inside */
    stream->capture->spoiled = true;
    return CUDA_ERROR_STREAM_CAPTURE_ISOLATION;
  }
  if (capture == NULL)
    return CUDA_ERROR_CAPTURED_EVENT; /* and that capture has ended */
  if (capture->spoiled)
    return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  if (stream == stream->object.context->legacy) {
    capture->spoiled = true;
    return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
  }
  if (stream->capture != NULL && stream->capture != capture) {
    stream->capture->spoiled = capture->spoiled = true;
    return CUDA_ERROR_STREAM_CAPTURE_MERGE;
  }
  if (!nodes_unite(&stream->nodes, &stream->node_count, event->nodes, event->node_count))
    return CUDA_ERROR_OUT_OF_MEMORY;
  stream->capture = capture;
  return CUDA_SUCCESS;
}

/* Whether the end of the stream comes after every node. `reached` has room for the nodes. */
static bool all_joined(const struct graph_nodes *nodes, const struct stream *stream, bool *reached)
{
  for (uint32_t i = 0; i < stream->node_count; i++)
    reached[stream->nodes[i]] = true;
  for (uint32_t i = nodes->count; i-- > 0;) {
    if (!reached[i])
      return false; /* what needs it comes later and has been looked at */
    for (uint32_t k = 0; k < nodes->nodes[i].need_count; k++)
      reached[nodes->nodes[i].needs[k]] = true;
  }
  return true;
}

static CUresult graph_new(struct graph **graph, struct graph_nodes *nodes, enum object_kind kind)
{
  *graph = calloc(1, sizeof(**graph));
  if (*graph == NULL)
    return CUDA_ERROR_OUT_OF_MEMORY;
  (*graph)->nodes = nodes;
  nodes->references++;
  object_add(&(*graph)->object, driver_context(), kind);
  return CUDA_SUCCESS;
}

CUresult do_cuStreamEndCapture(CUstream handle, CUgraph *graph)
{
  struct stream *stream;
  CUresult result = stream_find(handle, &stream);
  if (result != CUDA_SUCCESS)
    return result;
  struct capture *capture = stream->capture;
  if (graph == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  if (capture == NULL)
    return CUDA_ERROR_ILLEGAL_STATE;
  if (capture->mode != CU_STREAM_CAPTURE_MODE_RELAXED && capture->thread != driver_thread())
    return CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
  if (capture->origin != stream) {
    capture->spoiled = true;
    return CUDA_ERROR_STREAM_CAPTURE_UNMATCHED;
  }
  *graph = NULL;
  bool *reached = calloc(capture->nodes->count + 1, sizeof(*reached));
  if (reached == NULL)
    result = CUDA_ERROR_OUT_OF_MEMORY;
  else if (capture->spoiled)
    result = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  else if (!all_joined(capture->nodes, stream, reached))
    result = CUDA_ERROR_STREAM_CAPTURE_UNJOINED;
  else
    result = graph_new(graph, capture->nodes, OBJECT_GRAPH);
  free(reached);
  capture_finish(capture);
  return result;
}

/* ---- graphs ---- */

CUresult do_cuGraphInstantiateWithFlags(CUgraphExec *exec, CUgraph handle, uint64_t flags)
{
  const struct graph *graph = object_find(handle, OBJECT_GRAPH);
  struct graph *launchable;
  if (exec == NULL || graph == NULL || flags > 15)
    return CUDA_ERROR_INVALID_VALUE;
  const CUresult result = graph_new(&launchable, graph->nodes, OBJECT_GRAPH_EXEC);
  if (result == CUDA_SUCCESS)
    *exec = (CUgraphExec)launchable;
  return result;
}

CUresult do_cuGraphLaunch(CUgraphExec handle, CUstream stream_handle)
{
  struct stream *stream;
  const CUresult result = stream_find(stream_handle, &stream);
  if (result != CUDA_SUCCESS)
    return result;
  const struct graph *graph = object_find(handle, OBJECT_GRAPH_EXEC);
  if (graph == NULL || graph->object.context != stream->object.context)
    return CUDA_ERROR_INVALID_VALUE;
  struct command *command = command_new(COMMAND_GRAPH);
  if (command != NULL) {
    command->graph = graph->nodes;
    graph->nodes->references++;
  }
  return queue_push(stream, command);
}

static CUresult destroy(const void *handle, enum object_kind kind)
{
  struct object *object = object_find(handle, kind);
  if (object == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  object_remove(object);
  graph_free(object);
  return CUDA_SUCCESS;
}

CUresult do_cuGraphExecDestroy(CUgraphExec exec)
{
  return destroy(exec, OBJECT_GRAPH_EXEC);
}

CUresult do_cuGraphDestroy(CUgraph graph)
{
  return destroy(graph, OBJECT_GRAPH);
}

/* xorshift64 (Marsaglia 2003), started by the settings' seed */
static uint64_t random_below(uint64_t bound)
{
  if (state.random == 1)
    state.random ^= settings_load()->seed << 1;
  state.random ^= state.random << 13;
  state.random ^= state.random >> 7;
  state.random ^= state.random << 17;
  return state.random % bound;
}

static bool is_ready(const struct graph_node *node, const bool *done)
{
  for (uint32_t i = 0; i < node->need_count; i++) {
    if (!done[node->needs[i]])
      return false;
  }
  return true;
}

CUresult graph_run(struct context *context, const struct graph_nodes *nodes)
{
  bool *done = calloc(nodes->count + 1, sizeof(*done));
  CUresult result = done == NULL ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS;
  for (uint32_t left = nodes->count; left > 0 && result == CUDA_SUCCESS; left--) {
    uint32_t chosen = 0, ready = 0;
    for (uint32_t i = 0; i < nodes->count; i++) {
      if (!done[i] && is_ready(&nodes->nodes[i], done) && random_below(++ready) == 0)
        chosen = i;
    }
    done[chosen] = true;
    result = command_run(context, nodes->nodes[chosen].command);
  }
  free(done);
  return result;
}
