/* The stand-in driver: devices, contexts, memory, errors, injection, leaks. */
#include "tests/device/driver_test.h"

#include <stdint.h>
#include <sys/wait.h>

/* ---- the library ---- */

START_TEST(nothing_works_before_init)
{
  int count;
  CUdeviceptr address;
  CUcontext context;
  load();
  FAILS(cu.cuDeviceGetCount(&count), NOT_INITIALIZED);
  FAILS(cu.cuDeviceGetCount(NULL), NOT_INITIALIZED);
  FAILS(cu.cuCtxGetCurrent(&context), NOT_INITIALIZED);
  FAILS(cu.cuMemAlloc_v2(&address, 16), NOT_INITIALIZED);
  OK(cu.cuDriverGetVersion(&count));
  ck_assert_int_eq(count, 13000);
  FAILS(cu.cuInit(1), INVALID_VALUE);
  OK(cu.cuInit(0));
  OK(cu.cuInit(0));
  OK(cu.cuDeviceGetCount(&count));
  ck_assert_int_eq(count, 2);
  remove_log();
}
END_TEST

START_TEST(only_the_driver_is_exported)
{
  void *library = load();
  ck_assert_ptr_null(dlsym(library, "device_allocate"));
  ck_assert_ptr_null(dlsym(library, "ptx_run"));
  ck_assert_ptr_null(dlsym(library, "do_cuInit"));
  ck_assert_ptr_null(dlsym(library, "cuMemAlloc"));
  remove_log();
}
END_TEST

START_TEST(functions_are_found_by_their_plain_names)
{
  void *address = NULL;
  int status = -1;
  load();
  OK(cu.cuGetProcAddress_v2("cuMemAlloc", &address, 12000, 0, &status));
  ck_assert(address == *(void **)&cu.cuMemAlloc_v2);
  ck_assert_int_eq(status, CU_GET_PROC_ADDRESS_SUCCESS);
  OK(cu.cuGetProcAddress_v2("cuLaunchKernel", &address, 12000, 0, NULL));
  ck_assert(address == *(void **)&cu.cuLaunchKernel);
  FAILS(cu.cuGetProcAddress_v2("cuMem", &address, 12000, 0, &status), NOT_FOUND);
  ck_assert_ptr_null(address);
  ck_assert_int_eq(status, CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND);
  FAILS(cu.cuGetProcAddress_v2("cuInit", &address, 99000, 0, &status), INVALID_VALUE);
  remove_log();
}
END_TEST

START_TEST(errors_have_names)
{
  const char *text;
  load();
  OK(cu.cuGetErrorName(CUDA_ERROR_ILLEGAL_ADDRESS, &text));
  ck_assert_str_eq(text, "CUDA_ERROR_ILLEGAL_ADDRESS");
  OK(cu.cuGetErrorString(CUDA_ERROR_OUT_OF_MEMORY, &text));
  ck_assert_str_eq(text, "out of memory");
  OK(cu.cuGetErrorName(CUDA_SUCCESS, &text));
  ck_assert_str_eq(text, "CUDA_SUCCESS");
  FAILS(cu.cuGetErrorName((CUresult)12345, &text), INVALID_VALUE);
  ck_assert_ptr_null(text);
  remove_log();
}
END_TEST

/* ---- devices and settings ---- */

static int attribute(int which, CUdevice device)
{
  int value = -1;
  OK(cu.cuDeviceGetAttribute(&value, which, device));
  return value;
}

START_TEST(devices_have_properties)
{
  CUdevice device;
  char name[64];
  size_t bytes;
  CUuuid first, second;
  int value;
  load();
  OK(cu.cuInit(0));
  OK(cu.cuDeviceGet(&device, 1));
  FAILS(cu.cuDeviceGet(&device, 2), INVALID_DEVICE);
  FAILS(cu.cuDeviceGet(&device, -1), INVALID_DEVICE);
  FAILS(cu.cuDeviceGet(NULL, 0), INVALID_VALUE);
  OK(cu.cuDeviceGetName(name, sizeof(name), device));
  ck_assert_str_eq(name, "attnc stand-in device");
  OK(cu.cuDeviceTotalMem_v2(&bytes, device));
  ck_assert_uint_eq(bytes, (size_t)4 << 30);
  OK(cu.cuDeviceGetUuid_v2(&first, 0));
  OK(cu.cuDeviceGetUuid_v2(&second, 1));
  ck_assert_mem_ne(&first, &second, sizeof(first));
  ck_assert_int_eq(attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, 1), 8);
  ck_assert_int_eq(attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, 1), 0);
  ck_assert_int_eq(attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 0), 108);
  ck_assert_int_eq(attribute(CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, 0), 1024);
  ck_assert_int_eq(attribute(CU_DEVICE_ATTRIBUTE_WARP_SIZE, 0), 32);
  ck_assert_int_eq(attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK, 0), 48 << 10);
  ck_assert_int_eq(attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, 0), 163 << 10);
  FAILS(cu.cuDeviceGetAttribute(&value, 9999, 0), INVALID_VALUE);
  FAILS(cu.cuDeviceGetAttribute(&value, CU_DEVICE_ATTRIBUTE_WARP_SIZE, 2), INVALID_DEVICE);
  remove_log();
}
END_TEST

START_TEST(settings_choose_the_device)
{
  int count, version;
  size_t bytes;
  setenv("ATTN_DEVICE_CAPABILITY", "9.0", 1);
  setenv("ATTN_DEVICE_COUNT", "3", 1);
  setenv("ATTN_DEVICE_MEMORY", "64M", 1);
  setenv("ATTN_DEVICE_DRIVER", "12.4", 1);
  load();
  OK(cu.cuInit(0));
  OK(cu.cuDeviceGetCount(&count));
  ck_assert_int_eq(count, 3);
  OK(cu.cuDriverGetVersion(&version));
  ck_assert_int_eq(version, 12040);
  OK(cu.cuDeviceTotalMem_v2(&bytes, 2));
  ck_assert_uint_eq(bytes, (size_t)64 << 20);
  ck_assert_int_eq(attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, 0), 9);
  ck_assert_int_eq(attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, 0), 227 << 10);
  remove_log();
}
END_TEST

START_TEST(wrong_settings_are_refused)
{
  static const char *const wrong[][2] = {
      {"ATTN_DEVICE_CAPABILITY", "9"},  {"ATTN_DEVICE_CAPABILITY", "7.5"},
      {"ATTN_DEVICE_COUNT", "17"},      {"ATTN_DEVICE_COUNT", "two"},
      {"ATTN_DEVICE_MEMORY", "4X"},     {"ATTN_DEVICE_MEMORY", "-1"},
      {"ATTN_DEVICE_DRIVER", "latest"}, {"ATTN_DEVICE_SEED", "1.5"}};
  setenv(wrong[_i][0], wrong[_i][1], 1);
  load();
  FAILS(cu.cuInit(0), INVALID_VALUE);
  ck_log(wrong[_i][0]);
  remove_log();
}
END_TEST

START_TEST(a_machine_may_have_no_device)
{
  setenv("ATTN_DEVICE_COUNT", "0", 1);
  load();
  FAILS(cu.cuInit(0), NO_DEVICE);
  remove_log();
}
END_TEST

/* ---- contexts ---- */

START_TEST(calls_need_a_context)
{
  CUdeviceptr address;
  CUdevice device;
  CUcontext context;
  load();
  OK(cu.cuInit(0));
  OK(cu.cuCtxGetCurrent(&context));
  ck_assert_ptr_null(context);
  FAILS(cu.cuMemAlloc_v2(&address, 16), INVALID_CONTEXT);
  FAILS(cu.cuMemAlloc_v2(NULL, 0), INVALID_CONTEXT); /* before what is wrong with the arguments */
  FAILS(cu.cuCtxGetDevice(&device), INVALID_CONTEXT);
  OK(cu.cuDevicePrimaryCtxRetain(&context, 0));
  FAILS(cu.cuMemAlloc_v2(&address, 16), INVALID_CONTEXT); /* retained, not made current */
  OK(cu.cuCtxSetCurrent(context));
  FAILS(cu.cuMemAlloc_v2(NULL, 16), INVALID_VALUE);
  OK(cu.cuDevicePrimaryCtxRelease_v2(0));
  FAILS(cu.cuMemAlloc_v2(&address, 16), CONTEXT_IS_DESTROYED);
  FAILS(cu.cuDevicePrimaryCtxRelease_v2(0), INVALID_CONTEXT);
  FAILS(cu.cuCtxSetCurrent(context), INVALID_CONTEXT);
  FAILS(cu.cuDevicePrimaryCtxRetain(&context, 5), INVALID_DEVICE);
  remove_log();
}
END_TEST

START_TEST(a_context_lives_until_its_last_release)
{
  CUcontext again;
  unsigned flags;
  int active;
  unsigned word = 7;
  start();
  const CUdeviceptr address = allocate(4);
  OK(cu.cuDevicePrimaryCtxRetain(&again, 0));
  ck_assert_ptr_eq(again, context0);
  OK(cu.cuDevicePrimaryCtxRelease_v2(0));
  OK(cu.cuDevicePrimaryCtxGetState(0, &flags, &active));
  ck_assert_int_eq(active, 1);
  OK(cu.cuMemcpyHtoD_v2(address, &word, 4));
  OK(cu.cuDevicePrimaryCtxSetFlags_v2(0, 4));
  FAILS(cu.cuDevicePrimaryCtxSetFlags_v2(0, 3), INVALID_VALUE);
  OK(cu.cuMemFree_v2(address));
  finish();
  OK(cu.cuDevicePrimaryCtxGetState(0, &flags, &active));
  ck_assert_int_eq(active, 0);
  ck_assert_uint_eq(flags, 4);
}
END_TEST

static void *other_thread(void *argument)
{
  CUcontext current = argument;
  OK(cu.cuCtxGetCurrent(&current));
  ck_assert_ptr_null(current);
  OK(cu.cuCtxPushCurrent_v2(argument));
  return NULL;
}

START_TEST(every_thread_has_its_own_stack)
{
  CUcontext context1, current;
  CUdevice device;
  pthread_t thread;
  start();
  OK(cu.cuDevicePrimaryCtxRetain(&context1, 1));
  OK(cu.cuCtxPushCurrent_v2(context1));
  OK(cu.cuCtxGetDevice(&device));
  ck_assert_int_eq(device, 1);
  ck_assert_int_eq(pthread_create(&thread, NULL, other_thread, context0), 0);
  pthread_join(thread, NULL);
  OK(cu.cuCtxGetCurrent(&current));
  ck_assert_ptr_eq(current, context1);
  OK(cu.cuCtxPopCurrent_v2(&current));
  ck_assert_ptr_eq(current, context1);
  OK(cu.cuCtxGetCurrent(&current));
  ck_assert_ptr_eq(current, context0);
  OK(cu.cuCtxSetCurrent(context1)); /* in place of context0 */
  OK(cu.cuCtxSetCurrent(NULL));     /* and off the stack */
  OK(cu.cuCtxSetCurrent(NULL));
  FAILS(cu.cuCtxPopCurrent_v2(&current), INVALID_CONTEXT);
  FAILS(cu.cuCtxPushCurrent_v2(NULL), INVALID_CONTEXT);
  OK(cu.cuDevicePrimaryCtxRelease_v2(1));
  finish();
}
END_TEST

START_TEST(devices_are_apart)
{
  CUcontext context1;
  unsigned word = 5, seen = 0;
  int ordinal = -1;
  start();
  const CUdeviceptr on0 = allocate(128);
  CUfunction fill0 = get_function(load_module(), "fill");
  OK(cu.cuDevicePrimaryCtxRetain(&context1, 1));
  OK(cu.cuCtxPushCurrent_v2(context1));
  const CUdeviceptr on1 = allocate(128);
  OK(cu.cuPointerGetAttribute(&ordinal, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, on0));
  ck_assert_int_eq(ordinal, 0);
  OK(cu.cuPointerGetAttribute(&ordinal, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, on1));
  ck_assert_int_eq(ordinal, 1);
  /* Copies may cross, kernels may not. */
  OK(cu.cuMemcpyHtoD_v2(on0, &word, 4));
  OK(cu.cuMemcpyDtoDAsync_v2(on1, on0, 4, NULL));
  OK(cu.cuMemcpyDtoH_v2(&seen, on1, 4));
  ck_assert_uint_eq(seen, 5);
  FAILS(launch_fill(fill0, on1, 1, 1, NULL), INVALID_HANDLE); /* a function of device 0 */
  CUfunction fill1 = get_function(load_module(), "fill");
  OK(launch_fill(fill1, on0, 1, 1, NULL));
  FAILS(cu.cuCtxSynchronize(), ILLEGAL_ADDRESS);
  /* What broke the one leaves the other alone. */
  OK(cu.cuCtxPopCurrent_v2(NULL));
  OK(cu.cuMemcpyDtoH_v2(&seen, on0, 4));
  ck_assert_uint_eq(seen, 5);
  OK(cu.cuDevicePrimaryCtxRelease_v2(1));
  OK(cu.cuDevicePrimaryCtxRetain(&context1, 1));
  OK(launch_fill(fill0, on0, 9, 1, NULL));
  OK(cu.cuCtxPushCurrent_v2(context1));
  const CUdeviceptr later = allocate(128);
  CUstream stream1;
  OK(cu.cuStreamCreate(&stream1, 0));
  OK(cu.cuCtxPopCurrent_v2(NULL));
  FAILS(launch_fill(fill0, on0, 1, 1, stream1), INVALID_HANDLE); /* a stream of device 1 */
  OK(cu.cuMemcpyDtoH_v2(&seen, on0, 4));
  ck_assert_uint_eq(seen, 9);
  OK(cu.cuCtxPushCurrent_v2(context1));
  OK(cu.cuMemFree_v2(later));
  OK(cu.cuStreamDestroy_v2(stream1));
  OK(cu.cuCtxPopCurrent_v2(NULL));
  OK(cu.cuDevicePrimaryCtxRelease_v2(1));
  remove_log();
}
END_TEST

/* ---- memory ---- */

START_TEST(memory_is_aligned_and_poisoned)
{
  static const size_t sizes[] = {1, 255, 256, 257, 4095, 4096, 4097, 1 << 20};
  CUdeviceptr addresses[8];
  start();
  for (int i = 0; i < 8; i++) {
    unsigned char byte = 0;
    addresses[i] = allocate(sizes[i]);
    ck_assert_uint_eq(addresses[i] % 256, 0);
    OK(cu.cuMemcpyDtoH_v2(&byte, addresses[i] + sizes[i] - 1, 1));
    ck_assert_uint_eq(byte, 0xff);
    FAILS(cu.cuMemcpyDtoH_v2(&byte, addresses[i] + sizes[i], 1), INVALID_VALUE);
    FAILS(cu.cuMemcpyDtoH_v2(&byte, addresses[i] - 1, 1), INVALID_VALUE);
  }
  for (int i = 0; i < 8; i++)
    OK(cu.cuMemFree_v2(addresses[i]));
  finish();
}
END_TEST

START_TEST(copies_check_their_pointers)
{
  char host[64] = {0};
  start();
  const CUdeviceptr address = allocate(64);
  FAILS(cu.cuMemcpyHtoD_v2((CUdeviceptr)(uintptr_t)host, host, 64), INVALID_VALUE);
  FAILS(cu.cuMemcpyHtoD_v2(address, (void *)(uintptr_t)address, 64), INVALID_VALUE);
  FAILS(cu.cuMemcpyHtoD_v2(address, NULL, 64), INVALID_VALUE);
  FAILS(cu.cuMemcpyHtoD_v2(address, host, 65), INVALID_VALUE);
  FAILS(cu.cuMemcpyHtoD_v2(address, host, SIZE_MAX), INVALID_VALUE);
  FAILS(cu.cuMemcpyDtoHAsync_v2(host, address + 60, 5, NULL), INVALID_VALUE);
  FAILS(cu.cuMemcpyDtoDAsync_v2(address, (CUdeviceptr)(uintptr_t)host, 4, NULL), INVALID_VALUE);
  FAILS(cu.cuMemsetD32Async(address + 2, 0, 1, NULL), INVALID_VALUE);
  FAILS(cu.cuMemsetD32Async(address, 0, 17, NULL), INVALID_VALUE);
  FAILS(cu.cuMemsetD32Async(address, 0, SIZE_MAX / 2, NULL), INVALID_VALUE);
  OK(cu.cuMemcpyHtoD_v2(address, host, 0));
  OK(cu.cuMemsetD8Async(address, 3, 64, NULL));
  OK(cu.cuMemsetD32Async(address + 4, 0x01020304, 1, NULL));
  OK(cu.cuMemcpyDtoH_v2(host, address, 64));
  ck_assert_mem_eq(host, "\3\3\3\3\4\3\2\1\3", 9);
  OK(cu.cuMemFree_v2(address));
  finish();
}
END_TEST

START_TEST(frees_check_their_pointers)
{
  void *host;
  start();
  const CUdeviceptr address = allocate(512);
  FAILS(cu.cuMemAlloc_v2(&(CUdeviceptr){0}, 0), INVALID_VALUE);
  FAILS(cu.cuMemFree_v2(address + 256), INVALID_VALUE);
  OK(cu.cuMemFree_v2(0));
  OK(cu.cuMemFree_v2(address));
  FAILS(cu.cuMemFree_v2(address), INVALID_VALUE);
  const CUdeviceptr other = allocate(512);
  ck_assert_uint_ne(other, address); /* freed addresses come back late */
  OK(cu.cuMemFreeAsync(other, NULL));
  FAILS(cu.cuMemFreeAsync(other, NULL), INVALID_VALUE);
  FAILS(cu.cuMemFree_v2(other), INVALID_VALUE);
  OK(cu.cuMemAllocHost_v2(&host, 100));
  memset(host, 1, 100);
  FAILS(cu.cuMemFreeHost((char *)host + 1), INVALID_VALUE);
  FAILS(cu.cuMemFree_v2((CUdeviceptr)(uintptr_t)host), INVALID_VALUE);
  OK(cu.cuMemFreeHost(host));
  FAILS(cu.cuMemFreeHost(host), INVALID_VALUE);
  finish();
}
END_TEST

START_TEST(memory_runs_out)
{
  CUdeviceptr third;
  size_t left, total;
  setenv("ATTN_DEVICE_MEMORY", "64K", 1);
  start();
  FAILS(cu.cuMemAlloc_v2(&third, 65537), OUT_OF_MEMORY);
  FAILS(cu.cuMemAlloc_v2(&third, SIZE_MAX), OUT_OF_MEMORY);
  const CUdeviceptr first = allocate(32768), second = allocate(32767);
  FAILS(cu.cuMemAlloc_v2(&third, 2), OUT_OF_MEMORY);
  OK(cu.cuMemGetInfo_v2(&left, &total));
  ck_assert_uint_eq(left, 1);
  ck_assert_uint_eq(total, 65536);
  /* A free that waits in a queue is carried out before memory is refused. */
  OK(cu.cuMemFreeAsync(first, NULL));
  OK(cu.cuMemAllocAsync(&third, 32768, NULL));
  OK(cu.cuMemFree_v2(second));
  OK(cu.cuMemFree_v2(third));
  finish();
}
END_TEST

START_TEST(pointers_are_known)
{
  CUcontext context;
  unsigned type = 0;
  int ordinal = 0, mapped = 0;
  CUdeviceptr base = 0;
  size_t bytes = 0;
  void *host, *place;
  int local = 0;
  start();
  const CUdeviceptr address = allocate(1000);
  OK(cu.cuMemAllocHost_v2(&host, 100));
  CUpointer_attribute attributes[] = {
      CU_POINTER_ATTRIBUTE_CONTEXT,          CU_POINTER_ATTRIBUTE_MEMORY_TYPE,
      CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL,   CU_POINTER_ATTRIBUTE_MAPPED,
      CU_POINTER_ATTRIBUTE_RANGE_START_ADDR, CU_POINTER_ATTRIBUTE_RANGE_SIZE};
  void *values[] = {&context, &type, &ordinal, &mapped, &base, &bytes};
  OK(cu.cuPointerGetAttributes(6, attributes, values, address + 10));
  ck_assert_ptr_eq(context, context0);
  ck_assert_uint_eq(type, CU_MEMORYTYPE_DEVICE);
  ck_assert_int_eq(ordinal, 0);
  ck_assert_int_eq(mapped, 1);
  ck_assert_uint_eq(base, address);
  ck_assert_uint_eq(bytes, 1000);
  OK(cu.cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE,
                              (CUdeviceptr)(uintptr_t)host + 99));
  ck_assert_uint_eq(type, CU_MEMORYTYPE_HOST);
  OK(cu.cuPointerGetAttribute(&place, CU_POINTER_ATTRIBUTE_HOST_POINTER,
                              (CUdeviceptr)(uintptr_t)host));
  ck_assert_ptr_eq(place, host);
  FAILS(cu.cuPointerGetAttribute(&place, CU_POINTER_ATTRIBUTE_HOST_POINTER, address),
        INVALID_VALUE);
  /* Memory that the driver has not seen is an error of the one function and not of the other. */
  const CUdeviceptr unknown = (CUdeviceptr)(uintptr_t)&local;
  FAILS(cu.cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, unknown), INVALID_VALUE);
  OK(cu.cuPointerGetAttributes(6, attributes, values, unknown));
  ck_assert_ptr_null(context);
  ck_assert_uint_eq(type, 0);
  FAILS(cu.cuPointerGetAttribute(&type, 99, address), INVALID_VALUE);
  OK(cu.cuMemFree_v2(address));
  OK(cu.cuMemFreeHost(host));
  finish();
}
END_TEST

/* ---- errors that stay ---- */

START_TEST(use_after_free_ends_the_context)
{
  unsigned word = 0;
  CUdeviceptr address = 0;
  CUstream stream;
  CUcontext again;
  start();
  address = allocate(64);
  OK(cu.cuStreamCreate(&stream, 0));
  OK(cu.cuMemcpyHtoDAsync_v2(address, &word, 4, stream));
  OK(cu.cuMemFree_v2(address));
  FAILS(cu.cuStreamSynchronize(stream), ILLEGAL_ADDRESS);
  ck_log("which is not allocated any more");
  /* Whatever is called now, and however wrongly, the answer is the same. */
  FAILS(cu.cuMemAlloc_v2(&address, 64), ILLEGAL_ADDRESS);
  FAILS(cu.cuMemAlloc_v2(NULL, 0), ILLEGAL_ADDRESS);
  FAILS(cu.cuStreamSynchronize(stream), ILLEGAL_ADDRESS);
  FAILS(cu.cuStreamDestroy_v2(stream), ILLEGAL_ADDRESS);
  FAILS(cu.cuCtxSynchronize(), ILLEGAL_ADDRESS);
  OK(cu.cuCtxGetCurrent(&again));
  OK(cu.cuCtxSetCurrent(again));
  /* A new context begins anew. What could not be given back is no leak. */
  finish();
  OK(cu.cuDevicePrimaryCtxRetain(&again, 0));
  OK(cu.cuMemAlloc_v2(&address, 64));
  OK(cu.cuMemFree_v2(address));
  OK(cu.cuDevicePrimaryCtxRelease_v2(0));
}
END_TEST

/* ---- injection ---- */

START_TEST(the_nth_call_fails_on_request)
{
  CUdeviceptr address[3];
  start();
  ck_assert(cu.device_inject("cuMemAlloc", 2, CUDA_ERROR_OUT_OF_MEMORY));
  OK(cu.cuMemAlloc_v2(&address[0], 16));
  FAILS(cu.cuMemAlloc_v2(&address[1], 16), OUT_OF_MEMORY);
  OK(cu.cuMemAlloc_v2(&address[1], 16));
  ck_assert(cu.device_inject("cuMemAlloc_v2", 1, CUDA_ERROR_OUT_OF_MEMORY));
  ck_assert(cu.device_inject(NULL, 0, 0));
  OK(cu.cuMemAlloc_v2(&address[2], 16));
  for (int i = 0; i < 3; i++)
    OK(cu.cuMemFree_v2(address[i]));
  ck_assert(!cu.device_inject("cuMemAlloc", 0, 2));
  ck_assert(!cu.device_inject("cuMemAlloc", 1, 0));
  finish();
}
END_TEST

START_TEST(a_device_can_be_lost)
{
  CUdeviceptr address;
  start();
  ck_assert(cu.device_inject("cuCtxSynchronize", 1, CUDA_ERROR_LAUNCH_FAILED));
  OK(cu.cuMemAlloc_v2(&address, 16));
  FAILS(cu.cuCtxSynchronize(), LAUNCH_FAILED);
  FAILS(cu.cuMemFree_v2(address), LAUNCH_FAILED);
  FAILS(cu.cuCtxSynchronize(), LAUNCH_FAILED);
  finish();
}
END_TEST

START_TEST(the_environment_injects)
{
  CUdevice device;
  setenv("ATTN_DEVICE_INJECT", "cuInit:1:803,cuDeviceGet:2:999", 1);
  load();
  FAILS(cu.cuInit(0), SYSTEM_DRIVER_MISMATCH);
  OK(cu.cuInit(0));
  OK(cu.cuDeviceGet(&device, 0));
  FAILS(cu.cuDeviceGet(&device, 0), UNKNOWN);
  OK(cu.cuDeviceGet(&device, 0));
  remove_log();
}
END_TEST

/* ---- leaks ---- */

static void leak_one_of_each(void)
{
  CUdeviceptr address;
  CUstream stream;
  CUevent event;
  CUgraph graph;
  CUgraphExec exec;
  CUlinkState link;
  void *host;
  OK(cu.cuMemAllocAsync(&address, 48, NULL));
  OK(cu.cuMemAllocHost_v2(&host, 24));
  OK(cu.cuStreamCreate(&stream, 0));
  OK(cu.cuEventCreate(&event, 0));
  load_module();
  OK(cu.cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
  OK(cu.cuStreamEndCapture(stream, &graph));
  OK(cu.cuGraphInstantiateWithFlags(&exec, graph, 0));
  OK(cu.cuLinkCreate_v2(0, NULL, NULL, &link));
}

static void check_leaks(void)
{
  ck_log("leak on device 0: an allocation of 48 bytes at 0x");
  ck_log(", from cuMemAllocAsync\n");
  ck_log("leak on device 0: a host allocation of 24 bytes");
  ck_log("leak on device 0: a stream, from cuStreamCreate\n");
  ck_log("leak on device 0: an event, from cuEventCreate\n");
  ck_log("leak on device 0: a module, from cuModuleLoadData\n");
  ck_log("leak on device 0: a graph, from cuStreamEndCapture\n");
  ck_log("leak on device 0: an executable graph, from cuGraphInstantiateWithFlags\n");
  ck_log("leak on device 0: a linker, from cuLinkCreate_v2\n");
  int lines = 0;
  for (const char *line = read_log(); (line = strstr(line, "leak on")) != NULL; line++)
    lines++;
  ck_assert_int_eq(lines, 8);
}

START_TEST(what_is_left_is_reported)
{
  start();
  leak_one_of_each();
  OK(cu.cuDevicePrimaryCtxRelease_v2(0));
  check_leaks();
  remove_log();
}
END_TEST

START_TEST(what_is_left_is_reported_at_exit_too)
{
  char path[64];
  strcpy(path, "/tmp/attn-device-exit-XXXXXX");
  const int file = mkstemp(path);
  ck_assert_int_ge(file, 0);
  const pid_t child = fork();
  if (child == 0) {
    start();
    leak_one_of_each();
    ck_assert_int_eq(write(file, log_path, sizeof(log_path)), sizeof(log_path));
    exit(0);
  }
  int status;
  ck_assert_int_eq(waitpid(child, &status, 0), child);
  ck_assert_int_eq(status, 0);
  ck_assert_int_eq(pread(file, log_path, sizeof(log_path), 0), sizeof(log_path));
  close(file);
  unlink(path);
  check_leaks();
  remove_log();
}
END_TEST

/* ---- threads ---- */

enum { THREADS = 4, ROUNDS = 20, WORDS = 96 };

static void *work(void *argument)
{
  const unsigned number = (unsigned)(uintptr_t)argument;
  unsigned words[WORDS];
  CUstream stream;
  OK(cu.cuCtxSetCurrent(context0));
  CUmodule module = load_module();
  CUfunction fill = get_function(module, "fill");
  OK(cu.cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
  for (unsigned round = 0; round < ROUNDS; round++) {
    const CUdeviceptr address = allocate(sizeof(words));
    OK(launch_fill(fill, address, 100 * number + round, WORDS, stream));
    OK(cu.cuMemcpyDtoHAsync_v2(words, address, sizeof(words), stream));
    OK(cu.cuMemFreeAsync(address, stream));
    OK(cu.cuStreamSynchronize(stream));
    for (unsigned i = 0; i < WORDS; i++)
      ck_assert_uint_eq(words[i], 100 * number + round);
  }
  OK(cu.cuStreamDestroy_v2(stream));
  OK(cu.cuModuleUnload(module));
  return NULL;
}

START_TEST(threads_work_side_by_side)
{
  pthread_t threads[THREADS];
  start();
  for (uintptr_t i = 0; i < THREADS; i++)
    ck_assert_int_eq(pthread_create(&threads[i], NULL, work, (void *)i), 0);
  for (int i = 0; i < THREADS; i++)
    pthread_join(threads[i], NULL);
  finish();
}
END_TEST

int main(void)
{
  Suite *suite = suite_create("driver");
  TCase *tests = tcase_create("driver");
  tcase_add_test(tests, nothing_works_before_init);
  tcase_add_test(tests, only_the_driver_is_exported);
  tcase_add_test(tests, functions_are_found_by_their_plain_names);
  tcase_add_test(tests, errors_have_names);
  tcase_add_test(tests, devices_have_properties);
  tcase_add_test(tests, settings_choose_the_device);
  tcase_add_loop_test(tests, wrong_settings_are_refused, 0, 8);
  tcase_add_test(tests, a_machine_may_have_no_device);
  tcase_add_test(tests, calls_need_a_context);
  tcase_add_test(tests, a_context_lives_until_its_last_release);
  tcase_add_test(tests, every_thread_has_its_own_stack);
  tcase_add_test(tests, devices_are_apart);
  tcase_add_test(tests, memory_is_aligned_and_poisoned);
  tcase_add_test(tests, copies_check_their_pointers);
  tcase_add_test(tests, frees_check_their_pointers);
  tcase_add_test(tests, memory_runs_out);
  tcase_add_test(tests, pointers_are_known);
  tcase_add_test(tests, use_after_free_ends_the_context);
  tcase_add_test(tests, the_nth_call_fails_on_request);
  tcase_add_test(tests, a_device_can_be_lost);
  tcase_add_test(tests, the_environment_injects);
  tcase_add_test(tests, what_is_left_is_reported);
  tcase_add_test(tests, what_is_left_is_reported_at_exit_too);
  tcase_add_test(tests, threads_work_side_by_side);
  suite_add_tcase(suite, tests);
  return run_suite(suite);
}
