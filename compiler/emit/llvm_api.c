#include "compiler/emit/llvm_api.h"

#include <assert.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>

#ifndef ATTN_LLVM_LIBRARY
#error "the build defines ATTN_LLVM_LIBRARY, the path of libLLVM"
#endif

struct llvm_api llvm_api;

/* In the order of the members. */
static const char *const names[] = {
#define LLVM_CALL(name) #name,
#include "compiler/emit/llvm_api.def"
#undef LLVM_CALL
};
enum { NAME_COUNT = sizeof(names) / sizeof(*names) };

typedef void any_function(void);
static_assert(sizeof(struct llvm_api) == NAME_COUNT * sizeof(any_function *),
              "members are function pointers alone");

#define TEXT_OF(macro) QUOTED(macro) /* of what the macro stands for */
#define QUOTED(name) #name

static pthread_once_t once = PTHREAD_ONCE_INIT;
static void *library;
static const char *result;
static char text[800];

static pthread_once_t gpu_once = PTHREAD_ONCE_INIT;
static const char *gpu_result;
static char gpu_text[300];

static void fail(const char *what, const char *why)
{
  snprintf(text, sizeof(text),
           "the code generator, libLLVM %d, cannot be loaded (%.200s%s%.300s); install it (Debian: "
           "apt-get install libllvm22), or set ATTN_LLVM_LIBRARY to the path of libLLVM.so.22.1",
           LLVM_VERSION_MAJOR, what, what[0] == '\0' ? "" : ": ", why);
  result = text;
}

static void *open_library(void)
{
  static const char *const candidates[] = {"libLLVM.so.22.1", "libLLVM-22.so", "libLLVM-22.so.1",
                                           ATTN_LLVM_LIBRARY};
  /* A program with more rights than its caller must not run code that the caller chose. */
  const char *given = getauxval(AT_SECURE) == 0 ? getenv("ATTN_LLVM_LIBRARY") : NULL;
  if (given != NULL && given[0] != '\0') {
    void *opened = dlopen(given, RTLD_LAZY | RTLD_LOCAL);
    if (opened == NULL)
      fail("", dlerror());
    return opened;
  }
  for (size_t n = 0; n < sizeof(candidates) / sizeof(*candidates); n++) {
    void *opened = dlopen(candidates[n], RTLD_LAZY | RTLD_LOCAL);
    if (opened != NULL)
      return opened;
    const char *error = dlerror();
    if (n == 0)
      fail("", error); /* it tells more than that the other names do not exist either */
  }
  return NULL;
}

static bool look_up(const char *name, void *function)
{
  /* ISO C has no conversion from an object pointer to a function's; POSIX has. */
  void *address = dlsym(library, name);
  memcpy(function, &address, sizeof(address));
  return address != NULL;
}

static bool find(const char *name, void *function)
{
  bool found = look_up(name, function);
  if (!found)
    fail(name, "the library lacks this function; it is not LLVM 22");
  return found;
}

static bool is_right_version(void)
{
  unsigned major, minor, patch;
  LLVMGetVersion(&major, &minor, &patch);
  char found[64];
  snprintf(found, sizeof(found), "the library is LLVM %u.%u.%u", major, minor, patch);
  if (major != LLVM_VERSION_MAJOR)
    fail("", found);
  return major == LLVM_VERSION_MAJOR;
}

static bool ready_target(void)
{
  static const char *const steps[] = {TEXT_OF(LLVM_NATIVE_TARGETINFO), TEXT_OF(LLVM_NATIVE_TARGET),
                                      TEXT_OF(LLVM_NATIVE_TARGETMC),
                                      TEXT_OF(LLVM_NATIVE_ASMPRINTER)};
  for (size_t n = 0; n < sizeof(steps) / sizeof(*steps); n++) {
    any_function *step;
    if (!find(steps[n], &step))
      return false;
    step();
  }
  return true;
}

static void load(void)
{
  library = open_library();
  if (library == NULL)
    return;
  for (size_t n = 0; n < NAME_COUNT; n++)
    if (!find(names[n], (char *)&llvm_api + n * sizeof(any_function *)))
      return;
  if (is_right_version() && ready_target())
    result = NULL;
}

const char *llvm_api_load(void)
{
  pthread_once(&once, load);
  return result;
}

static void load_gpu(void)
{
  static const char *const steps[] = {"LLVMInitializeNVPTXTargetInfo", "LLVMInitializeNVPTXTarget",
                                      "LLVMInitializeNVPTXTargetMC",
                                      "LLVMInitializeNVPTXAsmPrinter"};
  for (size_t n = 0; n < sizeof(steps) / sizeof(*steps); n++) {
    any_function *step;
    if (!look_up(steps[n], &step)) {
      snprintf(
          gpu_text, sizeof(gpu_text),
          "the installed libLLVM %d was built without code generation for NVIDIA GPUs (it lacks "
          "%s); install one that has it (Debian: apt-get install libllvm22)",
          LLVM_VERSION_MAJOR, steps[n]);
      gpu_result = gpu_text;
      return;
    }
    step();
  }
}

const char *llvm_api_load_gpu(void)
{
  const char *error = llvm_api_load();
  if (error != NULL)
    return error;
  pthread_once(&gpu_once, load_gpu);
  return gpu_result;
}
