#include "compiler/target/nvptx/machine.h"

/* The oldest processor and PTX version with everything that we emit: asynchronous copies, bf16 and
 * tf32 products, maxima that keep NaN. Drivers from CUDA 11.0 on read it. */
static const char triple[] = "nvptx64-nvidia-cuda";
static const char processor[] = "sm_80";
static const char features[] = "+ptx70";

/* Registers decide how many blocks run at once, and each pass that lengthens live ranges costs
 * them: moving invariant code out of loops took the forward kernel of causal attention from 127 to
 * 244, and instcombine makes a fifth more spills over all examples. ptxas, which knows how many
 * registers there are, does that work itself. */
static const char passes[] = "function(sroa,early-cse)";

const char *nvptx_module_open(struct nvptx_module *module, struct arena *arena)
{
  LLVMTargetRef target;
  if (LLVMGetTargetFromTriple(triple, &target, &module->message) != 0)
    return arena_format(arena, "no code generator for %s: %s", triple, module->message);
  /* Half the time of the next level, and what ptxas makes of it needs as many registers or fewer.
   */
  module->machine =
      LLVMCreateTargetMachine(target, triple, processor, features, LLVMCodeGenLevelNone,
                              LLVMRelocDefault, LLVMCodeModelDefault);
  struct emit *e = &module->e;
  emit_open_gpu(e, arena, "attn");
  LLVMSetTarget(e->module, triple);
  LLVMTargetDataRef layout = LLVMCreateTargetDataLayout(module->machine);
  LLVMSetModuleDataLayout(e->module, layout);
  LLVMDisposeTargetData(layout);
  return NULL;
}

const char *nvptx_module_optimize(struct nvptx_module *module, struct arena *arena)
{
#ifndef NDEBUG
  if (LLVMVerifyModule(module->e.module, LLVMReturnStatusAction, &module->message) != 0)
    return arena_format(arena, "malformed LLVM module: %s", module->message);
  LLVMDisposeMessage(module->message);
  module->message = NULL;
#endif
  LLVMPassBuilderOptionsRef options = LLVMCreatePassBuilderOptions();
  LLVMErrorRef failed = LLVMRunPasses(module->e.module, passes, module->machine, options);
  LLVMDisposePassBuilderOptions(options);
  if (failed == NULL)
    return NULL;
  char *text = LLVMGetErrorMessage(failed);
  const char *error = arena_format(arena, "LLVM's passes failed: %s", text);
  LLVMDisposeErrorMessage(text);
  return error;
}

const char *nvptx_module_ptx(struct nvptx_module *module, struct arena *arena, const char **text)
{
  if (LLVMTargetMachineEmitToMemoryBuffer(module->machine, module->e.module, LLVMAssemblyFile,
                                          &module->message, &module->buffer) != 0)
    return arena_format(arena, "LLVM could not emit code: %s", module->message);
  *text = LLVMGetBufferStart(module->buffer);
  return NULL;
}

const char *nvptx_module_llvm(struct nvptx_module *module, const char **text)
{
  module->message = LLVMPrintModuleToString(module->e.module);
  *text = module->message;
  return NULL;
}

void nvptx_module_close(struct nvptx_module *module)
{
  if (module->buffer != NULL)
    LLVMDisposeMemoryBuffer(module->buffer);
  if (module->message != NULL)
    LLVMDisposeMessage(module->message);
  emit_close(&module->e);
  if (module->machine != NULL)
    LLVMDisposeTargetMachine(module->machine);
  *module = (struct nvptx_module){0};
}
