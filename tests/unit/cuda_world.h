/* What the suites about devices share: the stand-in device, or a real one where
 * ATTN_TEST_GPU is set, and the tensors of a launch on it. */
#ifndef ATTN_TESTS_UNIT_CUDA_WORLD_H
#define ATTN_TESTS_UNIT_CUDA_WORLD_H

#include "runtime/context.h"
#include "runtime/cuda_api.h"
#include "runtime/cuda_device.h"
#include "tests/unit/api_problem.h"

#include <dlfcn.h>
#include <stdio.h>

enum { SKIPPED = 77 };

/* Where the driver is, for main: false when there is none to test with. Before anything is loaded.
 */
static inline bool world_has_driver(void)
{
  const char *stand_in = getenv("ATTN_STAND_IN");
  if (getenv("ATTN_TEST_GPU") != NULL)
    return true;
  if (stand_in != NULL)
    setenv("ATTN_CUDA_LIBRARY", stand_in, 1);
  return stand_in != NULL;
}

/* A function of the driver, or of the stand-in, that the runtime has no use for. */
static inline void *world_find(const char *name)
{
  const char *path = getenv("ATTN_CUDA_LIBRARY");
  void *library = dlopen(path != NULL ? path : "libcuda.so.1", RTLD_NOW);
  ck_assert_ptr_nonnull(library);
  return dlsym(library, name);
}
#define WORLD_FIND(function, name)                                                                 \
  do {                                                                                             \
    void *found_ = world_find(name);                                                               \
    ck_assert_ptr_nonnull(found_);                                                                 \
    memcpy(&(function), &found_, sizeof(found_));                                                  \
  } while (0)

/* The nth call from now on of a function of the driver fails. Only the stand-in can. */
static inline void inject(const char *function, int nth, int error)
{
  int (*device_inject)(const char *, int, int);
  WORLD_FIND(device_inject, "device_inject");
  ck_assert(device_inject(function, nth, error));
}

static inline attn_status try_device(const char *device, attn_context **context)
{
  attn_context_options options = ATTN_CONTEXT_OPTIONS_INIT;
  options.device = device;
  options.error = message;
  options.error_size = sizeof(message);
  message[0] = '\0';
  return attn_context_create(&options, context);
}

static inline attn_context *device_context(int number)
{
  attn_context *context;
  char device[32];
  snprintf(device, sizeof(device), "cuda:%d", number);
  ck_assert_msg(try_device(device, &context) == ATTN_OK, "%s", message);
  return context;
}

/* ---- tensors ---- */

/* Moves a tensor of `bytes` at t->data to the device. */
static inline void to_device(attn_context *context, DLTensor *t, size_t bytes)
{
  void *memory;
  ck_assert_int_eq(attn_memory_allocate(context, bytes, &memory), ATTN_OK);
  ck_assert_int_eq(attn_memory_upload(context, memory, t->data, bytes, NULL), ATTN_OK);
  t->data = memory;
  t->device = attn_context_device(context);
}

static inline size_t problem_bytes(const struct problem *p, int n)
{
  size_t bytes = sizeof(float);
  for (int d = 0; d < p->tensors[n].ndim; d++)
    bytes *= (size_t)p->shape[n][d];
  return bytes;
}

/* A problem whose tensors are on the device; p->data stays the host's. */
static inline void problem_on_device(struct problem *p, attn_context *context, int64_t batch,
                                     int64_t queries, int64_t keys)
{
  problem_init(p, batch, queries, keys);
  for (int n = 0; n < 5; n++)
    to_device(context, &p->tensors[n], problem_bytes(p, n));
}

static inline void problem_download(struct problem *p, attn_context *context)
{
  for (int n = 3; n < 5; n++)
    ck_assert_int_eq(
        attn_memory_download(context, p->data[n], p->tensors[n].data, problem_bytes(p, n), NULL),
        ATTN_OK);
}

static inline void enqueue(attn_program *program, struct problem *p)
{
  p->arguments.error = message;
  p->arguments.error_size = sizeof(message);
  ck_assert_msg(attn_launch(program, &p->arguments) == ATTN_OK, "%s", message);
}

static inline void problem_leave(struct problem *p, attn_context *context)
{
  for (int n = 0; n < 5; n++)
    attn_memory_free(context, p->tensors[n].data);
  problem_free(p);
}

static inline const char *error_of(attn_context *context)
{
  attn_context_error(context, message, sizeof(message));
  return message;
}

#define ASSERT_SAYS(text)                                                                          \
  ck_assert_msg(strstr(message, text) != NULL, "\"%s\" does not say \"%s\"", message, text)

#endif
