/* Inside libattn: compiled code on a device. Everything runs between cuda_enter and cuda_leave. */
#ifndef ATTN_RUNTIME_CUDA_CODE_H
#define ATTN_RUNTIME_CUDA_CODE_H

#include "compiler/pipeline.h"
#include "runtime/cuda_device.h"

struct cuda_code; /* a loaded module */

/* Replaces the PTX of compiled->code by a cubin for the device that is entered, with a zero byte
 * behind it. What the driver's assembler says becomes the text of an error. */
attn_status cuda_code_assemble(struct compiled *compiled, const struct error_sink *sink);

/* Loads the cubin in compiled->code, which may be freed then. */
attn_status cuda_code_load(const struct cuda_device *device, const struct compiled *compiled,
                           const struct error_sink *sink, struct cuda_code **code);
void cuda_code_free(struct cuda_code *code); /* NULL is fine */

/* A kernel's function, ready to be launched with its shared memory. */
attn_status cuda_code_function(const struct cuda_code *code, const struct compiled_kernel *kernel,
                               const struct error_sink *sink, struct cuda_function **function);

/* A copy of `size` bytes in device memory that lives as long as the code. Waits until it is made.
 */
attn_status cuda_code_upload(struct cuda_code *code, const void *data, size_t size,
                             const struct error_sink *sink, cuda_address *address);

/* Pinned host memory that lives as long as the code, for copies that a graph repeats. NULL after an
 * error. Any thread may call it. */
void *cuda_code_keep(struct cuda_code *code, size_t size, const struct error_sink *sink);

/* Enqueues a kernel: one task a block. `slots` (abi.h) is read before this returns. */
attn_status cuda_code_launch(const struct compiled_kernel *kernel, struct cuda_function *function,
                             int64_t *slots, struct cuda_stream *stream,
                             const struct error_sink *sink);

#endif
