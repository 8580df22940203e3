/* The exported functions of the stand-in driver: the lock, what must hold before a call, and the
 * state of threads and handles. What each function does is in do_NAME, in the file of its subject.
 */
#include "tests/device/driver.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

enum needs { NOTHING, INIT, CONTEXT };
enum { STACK_SIZE = 64 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
  bool initialized;
  struct context contexts[MAX_DEVICES]; /* the primary context of each device */
  const char *function;                 /* of the call at hand */
  uint64_t objects;                     /* made so far */
  unsigned threads;
} driver;

static _Thread_local struct {
  unsigned number;
  uint32_t depth;
  struct context *stack[STACK_SIZE];
} thread;

/* ---- the current context ---- */

struct context *driver_context(void)
{
  return thread.depth == 0 ? NULL : thread.stack[thread.depth - 1];
}

struct context *driver_device_context(uint32_t ordinal)
{
  return &driver.contexts[ordinal];
}

unsigned driver_thread(void)
{
  if (thread.number == 0)
    thread.number = ++driver.threads;
  return thread.number;
}

bool driver_current_push(struct context *context)
{
  if (thread.depth == STACK_SIZE)
    return false;
  thread.stack[thread.depth++] = context;
  return true;
}

void driver_current_set(struct context *context)
{
  if (thread.depth == 0)
    thread.depth = 1;
  thread.stack[thread.depth - 1] = context;
}

struct context *driver_current_pop(void)
{
  return thread.depth == 0 ? NULL : thread.stack[--thread.depth];
}

/* ---- objects ---- */

void object_add(struct object *object, struct context *context, enum object_kind kind)
{
  object->context = context;
  object->kind = kind;
  object->id = ++driver.objects;
  object->made_by = driver.function;
  object->next = context->objects;
  context->objects = object;
}

void object_remove(struct object *object)
{
  struct object **link = &object->context->objects;
  while (*link != object)
    link = &(*link)->next;
  *link = object->next;
}

void *object_find(const void *handle, enum object_kind kind)
{
  for (uint32_t i = 0; i < MAX_DEVICES; i++) {
    for (struct object *object = driver.contexts[i].objects; object != NULL;
         object = object->next) {
      if (object == handle)
        return object->kind == kind && !object->hidden ? object : NULL;
    }
  }
  return NULL;
}

void *object_find_id(uint64_t id, enum object_kind kind)
{
  for (uint32_t i = 0; i < MAX_DEVICES; i++) {
    for (struct object *object = driver.contexts[i].objects; object != NULL;
         object = object->next) {
      if (object->id == id)
        return object->kind == kind ? object : NULL;
    }
  }
  return NULL;
}

/* ---- errors ---- */

bool driver_is_sticky(CUresult error)
{
  return error == CUDA_ERROR_ECC_UNCORRECTABLE || error == CUDA_ERROR_ILLEGAL_ADDRESS ||
         error == CUDA_ERROR_LAUNCH_TIMEOUT || error == CUDA_ERROR_ASSERT ||
         (error >= CUDA_ERROR_HARDWARE_STACK_ERROR && error <= CUDA_ERROR_LAUNCH_FAILED);
}

void driver_fail(struct context *context, CUresult error)
{
  if (context->fault == CUDA_SUCCESS)
    context->fault = error;
  queue_drop(context);
}

static const struct error {
  CUresult value;
  const char *name, *text;
} errors[] = {
    {CUDA_SUCCESS, "CUDA_SUCCESS", "no error"},
#define ERROR(name, value, text) {CUDA_ERROR_##name, "CUDA_ERROR_" #name, text},
#include "tests/device/cuda_errors.def"
#undef ERROR
};

static const struct error *error_find(CUresult value)
{
  for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
    if (errors[i].value == value)
      return &errors[i];
  }
  return NULL;
}

CUresult do_cuGetErrorName(CUresult value, const char **text)
{
  const struct error *error = error_find(value);
  if (text == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  *text = error == NULL ? NULL : error->name;
  return error == NULL ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

CUresult do_cuGetErrorString(CUresult value, const char **text)
{
  const struct error *error = error_find(value);
  if (text == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  *text = error == NULL ? NULL : error->text;
  return error == NULL ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

/* ---- the library ---- */

CUresult do_cuInit(unsigned flags)
{
  const struct settings *settings = settings_load();
  if (flags != 0 || !settings->valid)
    return CUDA_ERROR_INVALID_VALUE;
  if (settings->devices == 0)
    return CUDA_ERROR_NO_DEVICE;
  for (uint32_t i = 0; i < MAX_DEVICES; i++)
    driver.contexts[i].ordinal = i;
  driver.initialized = true;
  return CUDA_SUCCESS;
}

CUresult do_cuDriverGetVersion(int *version)
{
  if (version == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  *version = settings_load()->version;
  return CUDA_SUCCESS;
}

/* A context that is retained by its program when that ends is no fault of the program's, but what
 * it still holds is reported. */
__attribute__((destructor)) static void report_at_exit(void)
{
  pthread_mutex_lock(&lock);
  for (uint32_t i = 0; i < MAX_DEVICES; i++) {
    if (driver.contexts[i].retained != 0)
      context_report_leaks(&driver.contexts[i]);
  }
  pthread_mutex_unlock(&lock);
}

/* The order of the checks is that of the error codes' precedence. The lock is held on return. */
static CUresult enter(const char *function, enum needs needs)
{
  pthread_mutex_lock(&lock);
  settings_load();
  driver.function = function;
  struct context *context = driver_context();
  const CUresult injected = inject_next(function);
  if (injected != CUDA_SUCCESS) {
    if (context != NULL && context->retained != 0 && driver_is_sticky(injected))
      driver_fail(context, injected);
    return injected;
  }
  if (needs == NOTHING)
    return CUDA_SUCCESS;
  if (!driver.initialized)
    return CUDA_ERROR_NOT_INITIALIZED;
  if (needs == INIT)
    return CUDA_SUCCESS;
  if (context == NULL)
    return CUDA_ERROR_INVALID_CONTEXT;
  if (context->retained == 0)
    return CUDA_ERROR_CONTEXT_IS_DESTROYED;
  return context->fault;
}

#define FUNCTION(name, needs, parameters, arguments)                                               \
  EXPORT CUresult name parameters;                                                                 \
  CUresult name parameters                                                                         \
  {                                                                                                \
    CUresult result = enter(#name, needs);                                                         \
    if (result == CUDA_SUCCESS)                                                                    \
      result = do_##name arguments;                                                                \
    pthread_mutex_unlock(&lock);                                                                   \
    return result;                                                                                 \
  }
#include "tests/device/cuda_functions.def"
#undef FUNCTION

/* ---- cuGetProcAddress ---- */

static const struct symbol {
  const char *name;
  void (*address)(void);
} symbols[] = {
#define FUNCTION(name, needs, parameters, arguments) {#name, (void (*)(void))name},
#include "tests/device/cuda_functions.def"
#undef FUNCTION
};

/* Callers ask for the name without its _v2 and get the latest version. */
CUresult do_cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags,
                                CUdriverProcAddressQueryResult *status)
{
  if (name == NULL || function == NULL || version > settings_load()->version)
    return CUDA_ERROR_INVALID_VALUE;
  if (flags > 1)
    return CUDA_ERROR_NOT_SUPPORTED; /* streams of a thread as the default */
  const size_t length = strlen(name);
  *function = NULL;
  for (size_t i = 0; i < sizeof(symbols) / sizeof(symbols[0]) && *function == NULL; i++) {
    const char *rest = symbols[i].name + length;
    if (strncmp(symbols[i].name, name, length) == 0 && (*rest == '\0' || strcmp(rest, "_v2") == 0))
      memcpy(function, &symbols[i].address, sizeof(*function));
  }
  if (status != NULL)
    *status =
        *function == NULL ? CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND : CU_GET_PROC_ADDRESS_SUCCESS;
  return *function == NULL ? CUDA_ERROR_NOT_FOUND : CUDA_SUCCESS;
}
