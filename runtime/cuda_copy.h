/* Inside libattn: copies between tensors of any strides on a device, by a kernel that is compiled
 * when the first one is needed. Everything runs between cuda_enter and cuda_leave. */
#ifndef ATTN_RUNTIME_CUDA_COPY_H
#define ATTN_RUNTIME_CUDA_COPY_H

#include "runtime/arguments.h"
#include "runtime/cuda_device.h"

struct cuda_copy;

/* Compiles, or takes from `disk`, what copies need; once for a device. */
attn_status cuda_copy_prepare(struct cuda_device *device, const struct disk_cache *disk,
                              const struct error_sink *sink, const struct cuda_copy **copy);
void cuda_copy_free(struct cuda_copy *copy); /* NULL is fine */

/* Enqueues the copy of every element. Both tensors are of one type and size, and share no memory.
 */
attn_status cuda_copy_enqueue(const struct cuda_copy *copy, const struct bound_tensor *to,
                              const struct bound_tensor *from, struct cuda_stream *stream,
                              const struct error_sink *sink);

#endif
