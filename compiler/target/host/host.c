/* From lowered kernels to an object: the machine, LLVM's passes, threads that share the work,
 * errors and their clean-up. */
#define _GNU_SOURCE /* sched_getaffinity */
#include "compiler/target/host/host.h"

#include "compiler/target/host/lower.h"
#include "compiler/target/host/object.h"
#include "compiler/target/host/parts.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

/* One part of the module on its way to an object. What an unwinding must free. */
struct part {
  struct arena own;    /* of parts but the first, which is made in the compilation's */
  struct arena *arena; /* that the part is made in */
  struct host host;
  LLVMTargetMachineRef machine;
  LLVMMemoryBufferRef buffer;
  char *message;
  enum compile_status status;
  const char *error;     /* in `arena` */
  double optimize, emit; /* milliseconds that one thread took */
};

struct session {
  const struct compiled *compiled;
  struct host_machine machine;
  enum compile_form form;
  unsigned part_count; /* 1, or what is found when the first part is lowered */
  struct part parts[HOST_MAX_PARTS];
  atomic_uint next; /* part that no thread has taken */
  pthread_t threads[HOST_MAX_PARTS];
  unsigned thread_count; /* started and not joined */
};

static double milliseconds(void)
{
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec * 1e3 + (double)now.tv_nsec * 1e-6;
}

static void close_llvm(struct part *part)
{
  emit_close(&part->host.e);
  if (part->machine != NULL)
    LLVMDisposeTargetMachine(part->machine);
  part->machine = NULL;
}

static void close_part(struct part *part)
{
  if (part->buffer != NULL)
    LLVMDisposeMemoryBuffer(part->buffer);
  if (part->message != NULL)
    LLVMDisposeMessage(part->message);
  close_llvm(part);
  arena_free(&part->own);
}

static bool open_machine(struct part *part, const struct host_machine *machine)
{
  LLVMTargetRef target;
  if (LLVMGetTargetFromTriple(machine->triple, &target, &part->message) != 0) {
    part->error = arena_format(part->arena, "no code generator for this machine (%s): %s",
                               machine->triple, part->message);
    return false;
  }
  part->machine = LLVMCreateTargetMachine(target, machine->triple, machine->cpu, machine->features,
                                          LLVMCodeGenLevelLess, LLVMRelocPIC, LLVMCodeModelSmall);
  return true;
}

static bool run_passes(struct part *part, const char *passes)
{
  LLVMPassBuilderOptionsRef options = LLVMCreatePassBuilderOptions();
  LLVMErrorRef failed = LLVMRunPasses(part->host.e.module, passes, part->machine, options);
  LLVMDisposePassBuilderOptions(options);
  if (failed == NULL)
    return true;
  char *text = LLVMGetErrorMessage(failed);
  part->error = arena_format(part->arena, "LLVM's passes failed: %s", text);
  LLVMDisposeErrorMessage(text);
  return false;
}

/* The whole program as a module in a context of its own. */
static bool lower(struct part *part, const struct session *session, struct compiled_kernel *kernels)
{
  const struct host_machine *machine = &session->machine;
  const struct compiled *compiled = session->compiled;
  if (!open_machine(part, machine))
    return false;
  struct host *h = &part->host;
  *h = (struct host){
      .arena = part->arena, .program = compiled->program, .schedule = compiled->options.schedule};
  h->panel_rows = h->schedule.lanes * h->schedule.row_vectors;
  h->registers = machine->registers;
  h->widest_lanes = h->schedule.lanes == 8 ? machine->vector_bits / 32 : h->schedule.lanes;
  h->dots_bf16 = machine->dots_bf16;
  h->dots_int8 = machine->dots_int8 && h->schedule.lanes * 32 <= machine->vector_bits;
  emit_open(&h->e, part->arena, "attn", h->schedule.lanes);
  h->e.splits_fma = !machine->multiplies_and_adds;
  h->e.splits_halves = !machine->converts_halves;
  h->e.splits_floor = !machine->rounds;
  h->e.looks_up = machine->looks_up;
  char *triple = LLVMGetTargetMachineTriple(part->machine);
  LLVMSetTarget(h->e.module, triple);
  LLVMDisposeMessage(triple);
  LLVMTargetDataRef layout = LLVMCreateTargetDataLayout(part->machine);
  LLVMSetModuleDataLayout(h->e.module, layout);
  LLVMDisposeTargetData(layout);
  for (size_t k = 0; k < compiled->kernels.count; k++)
    host_lower_kernel(h, &kernels[k]);
  /* Before the module is divided: one of equal pieces is kept. */
  return h->pieces < 2 || run_passes(part, "mergefunc");
}

/* From the module to its text or machine code. */
static bool generate(struct part *part, enum compile_form form)
{
  LLVMModuleRef module = part->host.e.module;
  double started = milliseconds();
  if (!run_passes(part, "elim-avail-extern,globaldce,"
                        "function(mem2reg,early-cse,instcombine<no-verify-fixpoint>,"
                        "loop-mssa(licm))"))
    return false;
  double optimized = milliseconds();
  LLVMCodeGenFileType type = form == COMPILE_ASSEMBLY ? LLVMAssemblyFile : LLVMObjectFile;
  if (form == COMPILE_LLVM) {
    part->message = LLVMPrintModuleToString(module);
  } else if (LLVMTargetMachineEmitToMemoryBuffer(part->machine, module, type, &part->message,
                                                 &part->buffer) != 0) {
    part->error = arena_format(part->arena, "LLVM could not emit code: %s", part->message);
    return false;
  }
  part->optimize = optimized - started;
  part->emit = milliseconds() - optimized;
  return true;
}

/* ---- parts and threads ---- */

/* A part but the first, in an arena of its own. It finds out by itself what is its own: the same
 * program divides in the same way. */
static void make_part(struct session *session, unsigned number)
{
  struct part *part = &session->parts[number];
  part->arena = &part->own;
  if (arena_guard(&part->own)) {
    part->status = COMPILE_OUT_OF_MEMORY;
    return;
  }
  /* What lowering tells of kernels is taken from the first part. */
  const struct compiled *compiled = session->compiled;
  struct compiled_kernel *kernels =
      ARENA_ARRAY(&part->own, struct compiled_kernel, compiled->kernels.count);
  for (size_t k = 0; k < compiled->kernels.count; k++)
    kernels[k].tile = compiled->kernels.items[k].tile;
  bool made = lower(part, session, kernels);
  if (made) {
    struct host_division division = host_divide(&part->own, part->host.e.module);
    if (number < division.parts) {
      host_keep_part(part->host.e.module, &division, number);
      made = generate(part, COMPILE_OBJECT);
    }
  }
  part->status = made ? COMPILE_OK : COMPILE_FAILED;
  close_llvm(part);
}

/* The first part, which says how many there are. */
static bool lower_first(struct session *session, struct compiled_kernel *kernels)
{
  struct part *part = &session->parts[0];
  session->part_count = 1;
  if (!lower(part, session, kernels))
    return false;
  LLVMModuleRef module = part->host.e.module;
#ifndef NDEBUG
  if (LLVMVerifyModule(module, LLVMReturnStatusAction, &part->message) != 0) {
    part->error = arena_format(part->arena, "malformed LLVM module: %s", part->message);
    return false;
  }
  LLVMDisposeMessage(part->message);
  part->message = NULL;
#endif
  if (session->form != COMPILE_OBJECT)
    return true;
  struct host_division division = host_divide(part->arena, module);
  session->part_count = division.parts;
  if (division.parts > 1)
    host_keep_part(module, &division, 0);
  return true;
}

/* Makes parts until each of the first `count` is taken. */
static void make_parts(struct session *session, unsigned count)
{
  for (;;) {
    unsigned number = atomic_fetch_add(&session->next, 1);
    if (number >= count)
      return;
    make_part(session, number);
  }
}

static void *work(void *argument)
{
  make_parts(argument, HOST_MAX_PARTS);
  return NULL;
}

static unsigned count_processors(void)
{
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) != 0)
    return HOST_MAX_PARTS; /* more processors than a cpu_set_t holds */
  return (unsigned)CPU_COUNT(&set);
}

/* Workers for parts beside this thread; fewer where the system gives none, since this thread does
 * what they leave. They begin before it is known whether the module is worth it. */
static void start_threads(struct session *session)
{
  enum { STACK = 8 << 20 }; /* LLVM recurses as deep as code is nested */
  unsigned wanted = count_processors();
  if (wanted > HOST_MAX_PARTS)
    wanted = HOST_MAX_PARTS;
  sigset_t all, before; /* signals stay with the host program's own threads */
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, STACK);
  while (session->thread_count + 1 < wanted &&
         pthread_create(&session->threads[session->thread_count], &attributes, work, session) == 0)
    session->thread_count++;
  pthread_attr_destroy(&attributes);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void join_threads(struct session *session)
{
  while (session->thread_count > 0)
    pthread_join(session->threads[--session->thread_count], NULL);
}

/* ---- results ---- */

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

static enum compile_status write_text(const struct part *part, char **text)
{
  *text = part->buffer == NULL
              ? owned_copy(part->message, strlen(part->message))
              : owned_copy(LLVMGetBufferStart(part->buffer), LLVMGetBufferSize(part->buffer));
  return *text == NULL ? COMPILE_OUT_OF_MEMORY : COMPILE_OK;
}

static enum compile_status write_object(const struct session *session, struct arena *arena,
                                        struct compiled *compiled, const char **error)
{
  struct host_object objects[HOST_MAX_PARTS];
  for (unsigned k = 0; k < session->part_count; k++) {
    LLVMMemoryBufferRef buffer = session->parts[k].buffer;
    objects[k] = (struct host_object){(const unsigned char *)LLVMGetBufferStart(buffer),
                                      LLVMGetBufferSize(buffer)};
  }
  unsigned char *object;
  size_t size = objects[0].size;
  if (session->part_count > 1) {
    enum compile_status status =
        host_join_objects(arena, objects, session->part_count, &object, &size, error);
    if (status != COMPILE_OK)
      return status;
  } else {
    object = (unsigned char *)owned_copy((const char *)objects[0].bytes, size);
    if (object == NULL)
      return COMPILE_OUT_OF_MEMORY;
  }
  mem_free(compiled->code);
  compiled->code = object;
  compiled->code_size = size;
  return COMPILE_OK;
}

/* The time since `started` as that of stages, which threads went through side by side. */
static void share_time(struct compile_timings *timings, const struct session *session,
                       double started)
{
  double wall = milliseconds() - started, optimize = 0, both = 0;
  for (unsigned k = 0; k < session->part_count; k++) {
    optimize += session->parts[k].optimize;
    both += session->parts[k].optimize + session->parts[k].emit;
  }
  timings->optimize += wall * optimize / both;
  timings->emit += wall - wall * optimize / both;
}

static enum compile_status run(struct session *session, struct arena *arena,
                               struct compiled *compiled, char **text, const char **error)
{
  double started = milliseconds();
  *error = tile_verify(arena, compiled->program);
  if (*error != NULL)
    return COMPILE_FAILED;
  session->machine = host_machine_detect(arena);
  *error = session->machine.unavailable;
  if (*error != NULL)
    return COMPILE_FAILED;
  host_schedule_complete(&session->machine, &compiled->options.schedule);
  if (session->form == COMPILE_OBJECT)
    start_threads(session);
  struct part *first = &session->parts[0];
  first->arena = arena;
  bool lowered = lower_first(session, compiled->kernels.items);
  double built = milliseconds();
  first->status = lowered && generate(first, session->form) ? COMPILE_OK : COMPILE_FAILED;
  close_llvm(first);
  make_parts(session, session->part_count);
  join_threads(session);
  for (unsigned k = 0; k < session->part_count; k++) {
    const struct part *part = &session->parts[k];
    if (part->status == COMPILE_OK)
      continue;
    if (part->status == COMPILE_FAILED)
      *error = arena_strndup(arena, part->error, strlen(part->error));
    return part->status;
  }
  enum compile_status status = session->form == COMPILE_OBJECT
                                   ? write_object(session, arena, compiled, error)
                                   : write_text(first, text);
  compiled->timings.build += built - started;
  share_time(&compiled->timings, session, built);
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
  session->compiled = compiled;
  session->form = form;
  atomic_init(&session->next, 1); /* the first part is this thread's */
  enum compile_status status;
  if (arena_guard(arena))
    status = COMPILE_OUT_OF_MEMORY;
  else
    status = run(session, arena, compiled, text, error);
  join_threads(session);
  for (unsigned k = 0; k < HOST_MAX_PARTS; k++)
    close_part(&session->parts[k]);
  mem_free(session);
  return status;
}
