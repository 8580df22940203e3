#include "runtime/cuda_api.h"

#include <assert.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>

struct cuda_api cuda;

/* In the order of the members. */
static const char *const names[] = {
#define CUDA_CALL(member, symbol, parameters) #symbol,
#include "runtime/cuda_api.def"
#undef CUDA_CALL
};
enum { NAME_COUNT = sizeof(names) / sizeof(*names) };

typedef void any_function(void);
static_assert(sizeof(struct cuda_api) == NAME_COUNT * sizeof(any_function *),
              "members are function pointers alone");

static pthread_once_t once = PTHREAD_ONCE_INIT;
static const char *result;
static int version;
static char text[800];

static void *open_library(void)
{
  /* A program with more rights than its caller must not run code that the caller chose. */
  const char *given = getauxval(AT_SECURE) == 0 ? getenv("ATTN_CUDA_LIBRARY") : NULL;
  bool chosen = given != NULL && given[0] != '\0';
  void *library = dlopen(chosen ? given : "libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library == NULL && chosen)
    snprintf(text, sizeof(text),
             "the CUDA driver that ATTN_CUDA_LIBRARY names cannot be loaded (%.500s)", dlerror());
  else if (library == NULL)
    snprintf(text, sizeof(text),
             "no NVIDIA driver was found (%.300s); install the driver of your GPU (Debian: apt-get "
             "install nvidia-driver), or set ATTN_CUDA_LIBRARY to the path of libcuda.so.1",
             dlerror());
  return library;
}

/* False where the library lacks a function; all others are set. */
static bool find_functions(void *library, const char **missing)
{
  *missing = NULL;
  for (size_t n = 0; n < NAME_COUNT; n++) {
    /* ISO C has no conversion from an object pointer to a function's; POSIX has. */
    void *address = dlsym(library, names[n]);
    memcpy((char *)&cuda + n * sizeof(any_function *), &address, sizeof(address));
    if (address == NULL && *missing == NULL)
      *missing = names[n];
  }
  return *missing == NULL;
}

static const char *describe(cuda_result status)
{
  const char *name = NULL;
  if (cuda.error_name == NULL || cuda.error_name(status, &name) != CUDA_OK || name == NULL)
    return "an unknown error";
  return name;
}

static bool initialize(void)
{
  cuda_result status = cuda.init(0);
  if (status == CUDA_NO_DEVICE)
    snprintf(text, sizeof(text), "there is no NVIDIA GPU that the driver can use (%s)",
             describe(status));
  else if (status == CUDA_STUB_LIBRARY)
    snprintf(text, sizeof(text),
             "libcuda.so.1 is the stub of the CUDA toolkit, not a driver; take its folder out of "
             "LD_LIBRARY_PATH");
  else if (status != CUDA_OK)
    snprintf(text, sizeof(text),
             "the NVIDIA driver does not start (%s, %d); if it was updated, reboot, and see "
             "whether nvidia-smi works",
             describe(status), status);
  return status == CUDA_OK;
}

static void load(void)
{
  result = text;
  void *library = open_library();
  if (library == NULL)
    return;
  const char *missing;
  bool complete = find_functions(library, &missing);
  /* An old driver lacks functions: its version is the better message. */
  if (cuda.driver_version != NULL && cuda.driver_version(&version) == CUDA_OK &&
      version < CUDA_LEAST_VERSION)
    snprintf(text, sizeof(text),
             "the NVIDIA driver is too old: it supports CUDA %d.%d, and %d.%d is needed; update "
             "the driver",
             version / 1000, version % 1000 / 10, CUDA_LEAST_VERSION / 1000,
             CUDA_LEAST_VERSION % 1000 / 10);
  else if (!complete)
    snprintf(text, sizeof(text), "the CUDA driver lacks the function %s; update the driver",
             missing);
  else if (initialize())
    result = NULL;
}

const char *cuda_api_load(void)
{
  pthread_once(&once, load);
  return result;
}

int cuda_api_version(void)
{
  return version;
}
