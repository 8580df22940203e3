/* LLVM's C API without a link to it: libLLVM, 150 MB with a start-up of its own, is loaded when
 * something has to be compiled for the first time. Sources include this instead of llvm-c and call
 * functions by their own names, which are macros for members of `llvm_api`; a function that
 * llvm_api.def lacks does not link. */
#ifndef ATTN_COMPILER_EMIT_LLVM_API_H
#define ATTN_COMPILER_EMIT_LLVM_API_H

#include <llvm-c/Analysis.h>
#include <llvm-c/Core.h>
#include <llvm-c/DebugInfo.h>
#include <llvm-c/Target.h>
#include <llvm-c/TargetMachine.h>
#include <llvm-c/Transforms/PassBuilder.h>

struct llvm_api {
#define LLVM_CALL(name) __typeof__(&name) name;
#include "compiler/emit/llvm_api.def"
#undef LLVM_CALL
};
extern struct llvm_api
    llvm_api; /* all NULL until llvm_api_load has succeeded, constant from then on */

/* Loads the library, once a process, and readies its code generator for this machine: the file that
 * the environment's ATTN_LLVM_LIBRARY names, else libLLVM 22 where the system's loader finds it,
 * else where it was when this was built. NULL when LLVM can be called, otherwise what is wrong and
 * what to install (static; the same for every later call). Any thread may call it. */
const char *llvm_api_load(void);
/* The same, and readies the code generator for NVIDIA GPUs. */
const char *llvm_api_load_gpu(void);

#include "compiler/emit/llvm_calls.h" /* generated: #define LLVMx llvm_api.LLVMx */

#endif
