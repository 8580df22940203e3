/* LLVM IR to objects, for the suites that load or join objects of their own. */
#ifndef ATTN_TESTS_ASSEMBLE_H
#define ATTN_TESTS_ASSEMBLE_H

#include <check.h>
#include <llvm-c/Core.h>
#include <llvm-c/IRReader.h>
#include <llvm-c/Target.h>
#include <llvm-c/TargetMachine.h>
#include <stdlib.h>
#include <string.h>

struct object {
  unsigned char *bytes; /* to be given to free */
  size_t size;
};

static const char x86[] = "x86_64-unknown-linux-gnu";

/* Before the first `assemble`. */
static inline void assemble_open(void)
{
  LLVMInitializeX86TargetInfo();
  LLVMInitializeX86Target();
  LLVMInitializeX86TargetMC();
  LLVMInitializeX86AsmPrinter();
}

/* Compiles IR the way the host target does: position-independent, small code model. */
static inline struct object assemble(const char *ir, const char *triple)
{
  LLVMContextRef context = LLVMContextCreate();
  LLVMMemoryBufferRef text = LLVMCreateMemoryBufferWithMemoryRangeCopy(ir, strlen(ir), "test");
  LLVMModuleRef module;
  char *message = NULL;
  ck_assert_msg(!LLVMParseIRInContext(context, text, &module, &message), "%s", message);
  LLVMTargetRef target;
  ck_assert_msg(!LLVMGetTargetFromTriple(triple, &target, &message), "%s", message);
  LLVMTargetMachineRef machine = LLVMCreateTargetMachine(
      target, triple, "", "", LLVMCodeGenLevelDefault, LLVMRelocPIC, LLVMCodeModelSmall);
  LLVMMemoryBufferRef output;
  ck_assert_msg(
      !LLVMTargetMachineEmitToMemoryBuffer(machine, module, LLVMObjectFile, &message, &output),
      "%s", message);
  struct object object = {malloc(LLVMGetBufferSize(output)), LLVMGetBufferSize(output)};
  ck_assert_ptr_nonnull(object.bytes);
  memcpy(object.bytes, LLVMGetBufferStart(output), object.size);
  LLVMDisposeMemoryBuffer(output);
  LLVMDisposeTargetMachine(machine);
  LLVMDisposeModule(module);
  LLVMContextDispose(context);
  return object;
}

#endif
