/* Inside libattn: host memory that a stream reads when it comes to a copy, which is after the call
 * that enqueues it. Pinned: of ordinary memory the driver promises neither that it is read at once
 * nor that it is not. All run between cuda_enter and cuda_leave. */
#ifndef ATTN_RUNTIME_CUDA_STAGING_H
#define ATTN_RUNTIME_CUDA_STAGING_H

#include "runtime/cuda_device.h"

struct cuda_staging {
  struct cuda_staging *next;
  unsigned char *data;
  size_t size;
  struct cuda_event *event; /* after its last use */
};

/* One of at least `bytes` that no stream uses any more. NULL after an error, which is reported and
 * whose status is set. */
struct cuda_staging *cuda_staging_take(struct cuda_device *device, size_t bytes,
                                       const struct error_sink *sink, attn_status *status);
/* For the next launch, once the stream is done with what it has to do now. NULL is fine. */
void cuda_staging_give(struct cuda_device *device, struct cuda_staging *staging,
                       struct cuda_stream *stream);
/* Frees those that no stream uses any more; with `all` every one, nothing being under way. */
void cuda_staging_trim(struct cuda_device *device, bool all);

#endif
