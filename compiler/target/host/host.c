/* From lowered kernels to an object: the machine, LLVM's passes, errors and their clean-up. */
#include "compiler/target/host/host.h"

#include "compiler/target/host/lower.h"

#include <string.h>
#include <time.h>

static bool has_feature(const char *features, const char *name)
{
  size_t length = strlen(name);
  for (const char *at = strstr(features, name); at != NULL; at = strstr(at + 1, name))
    if ((at == features || at[-1] == ',') && (at[length] == ',' || at[length] == '\0'))
      return true;
  return false;
}

struct host_machine host_machine_detect(struct arena *arena)
{
  struct host_machine machine = {
      .unavailable = llvm_api_load(), .triple = "", .cpu = "", .features = ""};
  if (machine.unavailable != NULL)
    return machine;
  char *triple = LLVMGetDefaultTargetTriple();
  char *cpu = LLVMGetHostCPUName();
  char *features = LLVMGetHostCPUFeatures();
  machine.triple = arena_strndup(arena, triple, strlen(triple));
  machine.cpu = arena_strndup(arena, cpu, strlen(cpu));
  machine.features = arena_strndup(arena, features, strlen(features));
  LLVMDisposeMessage(triple);
  LLVMDisposeMessage(cpu);
  LLVMDisposeMessage(features);
  machine.vector_bits = 128;
  if (has_feature(machine.features, "+avx2") && has_feature(machine.features, "+fma"))
    machine.vector_bits = 256;
  return machine;
}

void host_schedule_complete(struct schedule *schedule)
{
  if (schedule->lanes == 0) {
    char *features = LLVMGetHostCPUFeatures();
    bool wide = has_feature(features, "+avx2") && has_feature(features, "+fma");
    LLVMDisposeMessage(features);
    schedule->lanes = wide ? 8 : 4;
  }
  if (schedule->row_vectors == 0)
    schedule->row_vectors = 2;
  if (schedule->column_registers == 0)
    schedule->column_registers = 6;
}

/* What an unwinding must free. */
struct session {
  struct host host;
  LLVMTargetMachineRef machine;
  bool many_registers; /* 32 vector registers, not 16 */
  bool wide_vectors;   /* of 512 bits, with all that the host target does on vectors */
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

static bool open_machine(struct session *session, struct arena *arena, const char **error)
{
  struct host_machine machine = host_machine_detect(arena);
  LLVMTargetRef target;
  if (LLVMGetTargetFromTriple(machine.triple, &target, &session->message) != 0) {
    *error = arena_format(arena, "no code generator for this machine (%s): %s", machine.triple,
                          session->message);
    return false;
  }
  session->many_registers =
      has_feature(machine.features, "+avx512vl") || has_feature(machine.features, "+neon");
  session->wide_vectors = true;
  static const char *const wanted[] = {"+avx512f", "+avx512bw", "+avx512dq", "+avx512vl"};
  for (size_t k = 0; k < sizeof(wanted) / sizeof(*wanted); k++)
    session->wide_vectors = session->wide_vectors && has_feature(machine.features, wanted[k]);
  session->machine =
      LLVMCreateTargetMachine(target, machine.triple, machine.cpu, machine.features,
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
  if (!open_machine(session, arena, error))
    return COMPILE_FAILED;
  struct host *h = &session->host;
  *h = (struct host){
      .arena = arena, .program = compiled->program, .schedule = compiled->options.schedule};
  host_schedule_complete(&h->schedule);
  compiled->options.schedule = h->schedule;
  h->panel_rows = h->schedule.lanes * h->schedule.row_vectors;
  h->registers = session->many_registers ? 32 : 16;
  h->widest_lanes = session->wide_vectors && h->schedule.lanes == 8 ? 16 : h->schedule.lanes;
  emit_open(&h->e, arena, "attn", h->schedule.lanes);
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
