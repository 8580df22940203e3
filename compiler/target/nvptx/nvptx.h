/* The NVIDIA target: tile programs to PTX for compute capability 8.0 and up. docs/gpu.md describes
 * it.
 */
#ifndef ATTN_COMPILER_TARGET_NVPTX_NVPTX_H
#define ATTN_COMPILER_TARGET_NVPTX_NVPTX_H

#include "compiler/pipeline.h"

/* As compile_emit of pipeline.h, for TARGET_SM_80: OBJECT puts PTX into compiled->code and fills
 * threads and shared_bytes of the kernels. */
enum compile_status nvptx_emit(struct arena *arena, struct compiled *compiled,
                               enum compile_form form, char **text, const char **error);

/* As compile_identity of pipeline.h. */
const char *nvptx_identity(void);

#endif
