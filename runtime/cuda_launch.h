/* Inside libattn: launches on a device. */
#ifndef ATTN_RUNTIME_CUDA_LAUNCH_H
#define ATTN_RUNTIME_CUDA_LAUNCH_H

#include "runtime/launch_plan.h"

/* Checks the arguments, then enqueues everything on arguments->stream and returns. `plan` has unit,
 * sink and evaluator. With `workspace_size` not NULL nothing is enqueued but *workspace_size
 * becomes the bytes of workspace that the launch would need. */
attn_status cuda_launch(struct attn_context *context, struct launch_plan *plan,
                        const attn_arguments *arguments, size_t *workspace_size);

#endif
