/* From lowered kernels to an object: the machine, LLVM's passes, errors and their clean-up. */
#include "compiler/target/host/host.h"

#include "compiler/target/host/lower.h"

#include <string.h>
#include <time.h>

/* What an unwinding must free. */
struct session {
  struct host host;
  LLVMTargetMachineRef machine;
  LLVMMemoryBufferRef buffer;
  char *message;
};

static void session_close(struct session *session)
{
  if (session->buffer != NULL)
    LLVMDisposeMemoryBuffer(session->buffer);
  if (session->message != NULL)
    LLVMDisposeMessage(session->message);
  emit_close(&session->host.e);
  if (session->machine != NULL)
    LLVMDisposeTargetMachine(session->machine);
}

static double milliseconds(void)
{
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec * 1e3 + (double)now.tv_nsec * 1e-6;
}

static bool open_machine(struct session *session, const struct host_machine *machine,
                         struct arena *arena, const char **error)
{
  *error = machine->unavailable;
  if (*error != NULL)
    return false;
  LLVMTargetRef target;
  if (LLVMGetTargetFromTriple(machine->triple, &target, &session->message) != 0) {
    *error = arena_format(arena, "no code generator for this machine (%s): %s", machine->triple,
                          session->message);
    return false;
  }
  session->machine =
      LLVMCreateTargetMachine(target, machine->triple, machine->cpu, machine->features,
                              LLVMCodeGenLevelLess, LLVMRelocPIC, LLVMCodeModelSmall);
  return true;
}

static bool optimize(struct session *session, struct arena *arena, const char **error)
{
  LLVMPassBuilderOptionsRef options = LLVMCreatePassBuilderOptions();
  LLVMErrorRef failed = LLVMRunPasses(session->host.e.module,
                                      "function(mem2reg,early-cse,instcombine<no-verify-fixpoint>,"
                                      "loop-mssa(licm),early-cse)",
                                      session->machine, options);
  LLVMDisposePassBuilderOptions(options);
  if (failed == NULL)
    return true;
  char *text = LLVMGetErrorMessage(failed);
  *error = arena_format(arena, "LLVM's passes failed: %s", text);
  LLVMDisposeErrorMessage(text);
  return false;
}

/* A copy that the caller owns and frees with mem_free; NULL when out of memory. */
static char *owned_copy(const char *data, size_t size)
{
  char *copy = mem_alloc(size + 1);
  if (copy == NULL)
    return NULL;
  memcpy(copy, data, size);
  copy[size] = '\0';
  return copy;
}

static enum compile_status write_result(struct session *session, struct arena *arena,
                                        struct compiled *compiled, enum compile_form form,
                                        char **text, const char **error)
{
  LLVMModuleRef module = session->host.e.module;
  if (form == COMPILE_LLVM) {
    session->message = LLVMPrintModuleToString(module);
    *text = owned_copy(session->message, strlen(session->message));
    return *text == NULL ? COMPILE_OUT_OF_MEMORY : COMPILE_OK;
  }
  LLVMCodeGenFileType type = form == COMPILE_ASSEMBLY ? LLVMAssemblyFile : LLVMObjectFile;
  if (LLVMTargetMachineEmitToMemoryBuffer(session->machine, module, type, &session->message,
                                          &session->buffer) != 0) {
    *error = arena_format(arena, "LLVM could not emit code: %s", session->message);
    return COMPILE_FAILED;
  }
  char *copy = owned_copy(LLVMGetBufferStart(session->buffer), LLVMGetBufferSize(session->buffer));
  if (copy == NULL)
    return COMPILE_OUT_OF_MEMORY;
  if (form == COMPILE_ASSEMBLY) {
    *text = copy;
    return COMPILE_OK;
  }
  mem_free(compiled->code);
  compiled->code = (unsigned char *)copy;
  compiled->code_size = LLVMGetBufferSize(session->buffer);
  return COMPILE_OK;
}

static enum compile_status run(struct session *session, struct arena *arena,
                               struct compiled *compiled, enum compile_form form, char **text,
                               const char **error)
{
  double started = milliseconds();
  const char *malformed = tile_verify(arena, compiled->program);
  if (malformed != NULL) {
    *error = malformed;
    return COMPILE_FAILED;
  }
  struct host_machine machine = host_machine_detect(arena);
  if (!open_machine(session, &machine, arena, error))
    return COMPILE_FAILED;
  struct host *h = &session->host;
  *h = (struct host){
      .arena = arena, .program = compiled->program, .schedule = compiled->options.schedule};
  host_schedule_complete(&machine, &h->schedule);
  compiled->options.schedule = h->schedule;
  h->panel_rows = h->schedule.lanes * h->schedule.row_vectors;
  h->registers = machine.registers;
  h->widest_lanes = h->schedule.lanes == 8 ? machine.vector_bits / 32 : h->schedule.lanes;
  h->dots_bf16 = machine.dots_bf16;
  emit_open(&h->e, arena, "attn", h->schedule.lanes);
  h->e.splits_fma = !machine.multiplies_and_adds;
  char *triple = LLVMGetTargetMachineTriple(session->machine);
  LLVMSetTarget(h->e.module, triple);
  LLVMDisposeMessage(triple);
  LLVMTargetDataRef layout = LLVMCreateTargetDataLayout(session->machine);
  LLVMSetModuleDataLayout(h->e.module, layout);
  LLVMDisposeTargetData(layout);
  for (size_t k = 0; k < compiled->kernels.count; k++)
    host_lower_kernel(h, &compiled->kernels.items[k]);
  double built = milliseconds();
#ifndef NDEBUG
  if (LLVMVerifyModule(h->e.module, LLVMReturnStatusAction, &session->message) != 0) {
    *error = arena_format(arena, "malformed LLVM module: %s", session->message);
    return COMPILE_FAILED;
  }
  LLVMDisposeMessage(session->message);
  session->message = NULL;
#endif
  if (!optimize(session, arena, error))
    return COMPILE_FAILED;
  double optimized = milliseconds();
  enum compile_status status = write_result(session, arena, compiled, form, text, error);
  compiled->timings.build += built - started;
  compiled->timings.optimize += optimized - built;
  compiled->timings.emit += milliseconds() - optimized;
  return status;
}

enum compile_status host_emit(struct arena *arena, struct compiled *compiled,
                              enum compile_form form, char **text, const char **error)
{
  *error = llvm_api_load();
  if (*error != NULL)
    return COMPILE_UNAVAILABLE;
  struct session *session = mem_alloc_zeroed(1, sizeof(*session));
  if (session == NULL)
    return COMPILE_OUT_OF_MEMORY;
  enum compile_status status;
  if (arena_guard(arena))
    status = COMPILE_OUT_OF_MEMORY;
  else
    status = run(session, arena, compiled, form, text, error);
  session_close(session);
  mem_free(session);
  return status;
}
