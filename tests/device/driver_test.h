/* What the tests of the stand-in driver share: the library loaded by name, as the runtime does it,
 * and a few kernels. Every test is a process of its own (Check forks), so that each begins with a
 * driver that nobody has called. */
#ifndef ATTN_TESTS_DEVICE_DRIVER_TEST_H
#define ATTN_TESTS_DEVICE_DRIVER_TEST_H

#include "tests/device/cuda_types.h"

#include <check.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct {
#define FUNCTION(name, needs, parameters, arguments) CUresult(*name) parameters;
#include "tests/device/cuda_functions.def"
#undef FUNCTION
  int (*device_inject)(const char *function, int nth, int error);
} cu;

enum { LOG_SIZE = 1 << 20 };
static char log_path[64];
static CUcontext context0; /* of device 0, after start() */

#define OK(call) ck_assert_int_eq((call), CUDA_SUCCESS)
#define FAILS(call, error) ck_assert_int_eq((call), CUDA_ERROR_##error)

static inline void *symbol(void *library, const char *name)
{
  void *address = dlsym(library, name);
  ck_assert_msg(address != NULL, "%s is missing", name);
  return address;
}

/* The library, before cuInit. Settings of the environment are made before this. */
static inline void *load(void)
{
  strcpy(log_path, "/tmp/attn-device-log-XXXXXX");
  const int file = mkstemp(log_path);
  ck_assert_int_ge(file, 0);
  close(file);
  setenv("ATTN_DEVICE_LOG", log_path, 1);
  const char *path = getenv("ATTN_CUDA_LIBRARY");
  ck_assert_msg(path != NULL, "set ATTN_CUDA_LIBRARY to the stand-in's libcuda.so.1");
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  ck_assert_msg(library != NULL, "%s", dlerror());
#define FUNCTION(name, needs, parameters, arguments) *(void **)&cu.name = symbol(library, #name);
#include "tests/device/cuda_functions.def"
#undef FUNCTION
  *(void **)&cu.device_inject = symbol(library, "device_inject");
  return library;
}

/* With the context of device 0 current. */
static inline void start(void)
{
  load();
  OK(cu.cuInit(0));
  OK(cu.cuDevicePrimaryCtxRetain(&context0, 0));
  OK(cu.cuCtxSetCurrent(context0));
}

/* What the library has written to its log; valid until the next call. */
static inline const char *read_log(void)
{
  static char text[LOG_SIZE];
  FILE *file = fopen(log_path, "r");
  ck_assert_ptr_nonnull(file);
  const size_t length = fread(text, 1, sizeof(text), file);
  ck_assert_uint_lt(length, sizeof(text));
  text[length] = '\0';
  fclose(file);
  return text;
}

static inline void ck_log(const char *part)
{
  const char *text = read_log();
  ck_assert_msg(strstr(text, part) != NULL, "no \"%s\" in the log:\n%s", part, text);
}

/* The end of a test that holds nothing any more. */
static inline void finish(void)
{
  OK(cu.cuDevicePrimaryCtxRelease_v2(0));
  ck_assert_ptr_null(strstr(read_log(), "leak"));
  unlink(log_path);
}

static inline void remove_log(void)
{
  unlink(log_path);
}

#define PTX_HEADER ".version 7.0\n.target sm_80\n.address_size 64\n"

/* fill: writes `value` to the `count` words at `to`.
 * increment: adds 1 to the word of each of its 32 threads; with .reqntid.
 * stray: stores where %2 says, past what is allocated or across a word.
 * trap: ends with a trap. large: 1 KiB of static and any amount of dynamic shared memory. */
static const char *const test_ptx =
    PTX_HEADER ".visible .global .align 4 .u32 answer = 42;\n"
               ".extern .shared .align 16 .b8 dynamic[];\n"
               ".visible .entry fill(.param .u64 fill_0, .param .u32 fill_1, .param .u32 fill_2)\n"
               "{\n"
               "  .reg .pred %p<2>;\n"
               "  .reg .b32 %r<7>;\n"
               "  .reg .b64 %rd<5>;\n"
               "  ld.param.u64 %rd1, [fill_0];\n"
               "  ld.param.u32 %r1, [fill_1];\n"
               "  ld.param.u32 %r2, [fill_2];\n"
               "  mov.u32 %r3, %ctaid.x;\n"
               "  mov.u32 %r4, %ntid.x;\n"
               "  mov.u32 %r5, %tid.x;\n"
               "  mad.lo.s32 %r6, %r3, %r4, %r5;\n"
               "  setp.ge.u32 %p1, %r6, %r2;\n"
               "  @%p1 bra $done;\n"
               "  cvta.to.global.u64 %rd2, %rd1;\n"
               "  mul.wide.u32 %rd3, %r6, 4;\n"
               "  add.s64 %rd4, %rd2, %rd3;\n"
               "  st.global.u32 [%rd4], %r1;\n"
               "$done:\n"
               "  ret;\n"
               "}\n"
               ".visible .entry increment(.param .u64 increment_0)\n"
               ".reqntid 32, 1, 1\n"
               "{\n"
               "  .reg .b32 %r<4>;\n"
               "  .reg .b64 %rd<4>;\n"
               "  ld.param.u64 %rd1, [increment_0];\n"
               "  mov.u32 %r1, %tid.x;\n"
               "  mul.wide.u32 %rd2, %r1, 4;\n"
               "  add.s64 %rd3, %rd1, %rd2;\n"
               "  ld.global.u32 %r2, [%rd3];\n"
               "  add.s32 %r3, %r2, 1;\n"
               "  st.global.u32 [%rd3], %r3;\n"
               "  ret;\n"
               "}\n"
               ".visible .entry stray(.param .u64 stray_0)\n"
               "{\n"
               "  .reg .b64 %rd<2>;\n"
               "  .reg .b32 %r<2>;\n"
               "  ld.param.u64 %rd1, [stray_0];\n"
               "  mov.u32 %r1, 7;\n"
               "  st.global.u32 [%rd1], %r1;\n"
               "  ret;\n"
               "}\n"
               ".visible .entry stop()\n"
               "{\n"
               "  trap;\n"
               "  ret;\n"
               "}\n"
               ".visible .entry large()\n"
               "{\n"
               "  .shared .align 4 .b8 fixed[1024];\n"
               "  ret;\n"
               "}\n";

static inline CUmodule load_module(void)
{
  CUmodule module = NULL;
  OK(cu.cuModuleLoadData(&module, test_ptx));
  return module;
}

static inline CUfunction get_function(CUmodule module, const char *name)
{
  CUfunction function = NULL;
  OK(cu.cuModuleGetFunction(&function, module, name));
  return function;
}

static inline CUresult launch_fill(CUfunction fill, CUdeviceptr to, unsigned value, unsigned count,
                                   CUstream stream)
{
  void *parameters[] = {&to, &value, &count};
  return cu.cuLaunchKernel(fill, (count + 63) / 64, 1, 1, 64, 1, 1, 0, stream, parameters, NULL);
}

static inline CUdeviceptr allocate(size_t bytes)
{
  CUdeviceptr address = 0;
  OK(cu.cuMemAlloc_v2(&address, bytes));
  return address;
}

static inline int run_suite(Suite *suite)
{
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  const int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}

#endif
