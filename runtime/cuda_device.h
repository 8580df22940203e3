/* Inside libattn: the device of a context on cuda:N. What takes a device, and the calls of
 * cuda_api.h, run between cuda_enter and cuda_leave. Functions that can fail report to the sink. */
#ifndef ATTN_RUNTIME_CUDA_DEVICE_H
#define ATTN_RUNTIME_CUDA_DEVICE_H

#include "attn/attn.h"
#include "runtime/cuda_api.h"

#include <pthread.h>

struct error_sink;
struct cuda_copy;
struct cuda_faults;
struct cuda_staging;

enum {
  CUDA_ALIGNMENT = 256, /* of allocations, and of what lies in a workspace */
  CUDA_LEAST_CAPABILITY = 80,
  CUDA_NAME_SIZE = 128
};

/* Device memory kept for the launches of one stream, in whose order they use it. */
struct cuda_workspace {
  struct cuda_workspace *next; /* does not change */
  struct cuda_stream *stream;
  pthread_t thread; /* of CUDA_STREAM_PER_THREAD */
  pthread_mutex_t
      lock; /* held while a launch enqueues, so that another one does not come between */
  cuda_address data;
  size_t size;
};

struct cuda_device {
  int number; /* of cuda:N */
  cuda_ordinal ordinal;
  struct cuda_context *primary; /* retained */
  unsigned capability;          /* 80, 90, ...: the architecture that code is made for */
  size_t shared_limit;          /* bytes that a block can have */
  char name[CUDA_NAME_SIZE];
  cuda_address zeros; /* 4096 zero bytes, what empty tensors point to */

  pthread_mutex_t lock; /* guards the heads of the lists */
  struct cuda_workspace *workspaces;
  struct cuda_faults *faults;    /* of loaded code */
  struct cuda_staging *stagings; /* host memory for launches, see cuda_staging.h */

  pthread_mutex_t copy_lock; /* guards what follows */
  struct cuda_copy *copy;    /* made when a tensor has to be packed for the first time */
};

/* UNSUPPORTED: no driver, an old one, a device below compute capability 8.0. ARGUMENT: no such
 * device. The new device is not entered. */
attn_status cuda_device_open(int number, const struct error_sink *sink, struct cuda_device **out);
/* Nothing may use it any more. NULL is fine. */
void cuda_device_close(struct cuda_device *device);

/* What code for the device depends on: its architecture and the driver that assembles. */
enum { CUDA_KEY_SIZE = 2 * sizeof(uint32_t) };
void cuda_device_key(const struct cuda_device *device, unsigned char key[CUDA_KEY_SIZE]);

/* Makes the device's primary context current, on top of the caller's. */
attn_status cuda_enter(const struct cuda_device *device, const struct error_sink *sink);
void cuda_leave(void); /* the caller's is current again */

/* OK for CUDA_OK. Otherwise reports "cannot DOING: " and what the driver says: OUT_OF_MEMORY with
 * free and total memory, DEVICE for everything else. */
attn_status cuda_check(const struct error_sink *sink, cuda_result result, const char *doing);

/* *address is 0 after an error. `what` completes "cannot allocate N bytes for ". */
attn_status cuda_allocate(const struct error_sink *sink, size_t bytes, const char *what,
                          cuda_address *address);

enum cuda_pointer { CUDA_POINTER_HERE, CUDA_POINTER_HOST, CUDA_POINTER_ELSEWHERE };
/* Where memory lies. *other: the ordinal, of ELSEWHERE. */
enum cuda_pointer cuda_pointer_place(const struct cuda_device *device, cuda_address address,
                                     int *other);

/* Whether launches on the stream are recorded into a graph at the moment. */
attn_status cuda_is_capturing(const struct error_sink *sink, struct cuda_stream *stream,
                              bool *capturing);

/* The workspace of a stream, locked; to be unlocked by cuda_workspace_unlock. NULL when the host is
 * out of memory, which is reported. */
struct cuda_workspace *cuda_workspace_lock(struct cuda_device *device, struct cuda_stream *stream,
                                           const struct error_sink *sink);
/* Makes a locked one at least `bytes` large. What it held is lost, and where it was smaller this
 * waits for the device. */
attn_status cuda_workspace_reserve(struct cuda_workspace *workspace, size_t bytes,
                                   const struct error_sink *sink);
void cuda_workspace_unlock(struct cuda_workspace *workspace); /* NULL is fine */
/* Gives back what workspaces hold. */
void cuda_device_trim(struct cuda_device *device);

#endif
