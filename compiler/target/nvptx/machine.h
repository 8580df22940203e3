/* A module for an NVIDIA GPU from its opening to PTX text. Private to the target and its tests. */
#ifndef ATTN_COMPILER_TARGET_NVPTX_MACHINE_H
#define ATTN_COMPILER_TARGET_NVPTX_MACHINE_H

#include "compiler/emit/llvm.h"

/* Zeroed before it is opened; closing frees everything that it holds, also after an unwinding. */
struct nvptx_module {
  struct emit e;
  LLVMTargetMachineRef machine;
  LLVMMemoryBufferRef buffer;
  char *message;
};

/* All give NULL, or what went wrong, in `arena`. The code generator is loaded (llvm_api_load_gpu).
 */
const char *nvptx_module_open(struct nvptx_module *module, struct arena *arena);
const char *nvptx_module_optimize(struct nvptx_module *module, struct arena *arena);
/* The text belongs to the module. */
const char *nvptx_module_ptx(struct nvptx_module *module, struct arena *arena, const char **text);
const char *nvptx_module_llvm(struct nvptx_module *module, const char **text);
void nvptx_module_close(struct nvptx_module *module);

#endif
