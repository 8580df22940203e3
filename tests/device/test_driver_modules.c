/* The stand-in driver: modules, cubins, launches and the faults of kernels. */
#include "tests/device/driver_test.h"

#include <stdint.h>
#include <sys/wait.h>

/* ---- modules ---- */

START_TEST(modules_have_functions_and_variables)
{
  CUfunction again, none;
  CUdeviceptr address;
  size_t bytes;
  unsigned word;
  start();
  CUmodule module = load_module();
  CUfunction fill = get_function(module, "fill");
  OK(cu.cuModuleGetFunction(&again, module, "fill"));
  ck_assert_ptr_eq(fill, again);
  FAILS(cu.cuModuleGetFunction(&none, module, "fil"), NOT_FOUND);
  FAILS(cu.cuModuleGetFunction(&none, module, NULL), INVALID_VALUE);
  OK(cu.cuModuleGetGlobal_v2(&address, &bytes, module, "answer"));
  ck_assert_uint_eq(bytes, 4);
  OK(cu.cuMemcpyDtoH_v2(&word, address, 4));
  ck_assert_uint_eq(word, 42);
  FAILS(cu.cuModuleGetGlobal_v2(&address, &bytes, module, "question"), NOT_FOUND);
  OK(cu.cuModuleUnload(module));
  FAILS(cu.cuModuleUnload(module), INVALID_HANDLE);
  FAILS(cu.cuModuleGetFunction(&none, module, "fill"), INVALID_HANDLE);
  FAILS(launch_fill(fill, 0, 0, 1, NULL), INVALID_HANDLE);
  FAILS(cu.cuModuleLoadData(&module, NULL), INVALID_VALUE);
  finish();
}
END_TEST

static const struct {
  const char *image;
  CUresult error;
  const char *log;
} bad_images[] = {
    {PTX_HEADER ".visible .entry f()\n{\n  mov.u32 %r1, 7;\n  ret;\n}\n", CUDA_ERROR_INVALID_PTX,
     "%r1"},
    {PTX_HEADER ".visible .entry f()\n{\n", CUDA_ERROR_INVALID_PTX, ""},
    {"hello\n", CUDA_ERROR_INVALID_PTX, ".version"},
    {".version 8.0\n", CUDA_ERROR_INVALID_PTX, ".target"},
    {".version 9.1\n.target sm_80\n.address_size 64\n", CUDA_ERROR_UNSUPPORTED_PTX_VERSION, "9.1"},
    {".version 8.0\n.target sm_90\n.address_size 64\n", CUDA_ERROR_INVALID_PTX, "sm_90"},
    {".version 8.0\n.target sm_90a\n.address_size 64\n", CUDA_ERROR_INVALID_PTX, "sm_90a"},
    {"\177ELF\2\1\1", CUDA_ERROR_NO_BINARY_FOR_GPU, "real GPU"},
    {"\x50\xed\x55\xba", CUDA_ERROR_NO_BINARY_FOR_GPU, "real GPU"},
    {"\1\2\3", CUDA_ERROR_INVALID_IMAGE, "neither"},
    {"", CUDA_ERROR_INVALID_IMAGE, "neither"}};

START_TEST(bad_images_say_why)
{
  CUmodule module;
  char text[200] = "untouched";
  CUjit_option options[] = {CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
  void *values[] = {text, (void *)sizeof(text)};
  start();
  ck_assert_int_eq(cu.cuModuleLoadDataEx(&module, bad_images[_i].image, 2, options, values),
                   bad_images[_i].error);
  ck_assert_msg(strstr(text, bad_images[_i].log) != NULL, "%s", text);
  ck_assert_uint_eq((uintptr_t)values[1], strlen(text) + 1);
  ck_log(text);
  finish();
}
END_TEST

START_TEST(options_of_the_compiler_are_read)
{
  CUmodule module;
  char error[8], info[8] = "full";
  CUjit_option options[] = {CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES, CU_JIT_ERROR_LOG_BUFFER,
                            CU_JIT_INFO_LOG_BUFFER, CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES, 7};
  void *values[] = {(void *)sizeof(error), error, info, (void *)sizeof(info), (void *)4};
  start();
  FAILS(cu.cuModuleLoadDataEx(&module, "hello", 5, options, values), INVALID_PTX);
  ck_assert_str_eq(error, "the tex"); /* cut to the buffer, with its zero */
  ck_assert_uint_eq((uintptr_t)values[0], 8);
  values[0] = (void *)sizeof(error);
  values[3] = (void *)sizeof(info);
  OK(cu.cuModuleLoadDataEx(&module, test_ptx, 5, options, values));
  ck_assert_str_eq(error, "");
  ck_assert_str_eq(info, "");
  OK(cu.cuModuleUnload(module));
  FAILS(cu.cuModuleLoadDataEx(&module, test_ptx, 1, options + 1, values + 1), INVALID_VALUE);
  options[4] = 999;
  FAILS(cu.cuModuleLoadDataEx(&module, test_ptx, 5, options, values), INVALID_VALUE);
  FAILS(cu.cuModuleLoadDataEx(&module, test_ptx, 1, NULL, NULL), INVALID_VALUE);
  finish();
}
END_TEST

START_TEST(an_old_driver_reads_old_ptx)
{
  CUmodule module;
  setenv("ATTN_DEVICE_DRIVER", "11.4", 1);
  start();
  FAILS(cu.cuModuleLoadData(&module, ".version 7.5\n.target sm_80\n.address_size 64\n"),
        UNSUPPORTED_PTX_VERSION);
  OK(cu.cuModuleLoadData(&module, test_ptx));
  OK(cu.cuModuleUnload(module));
  finish();
}
END_TEST

/* ---- cubins ---- */

/* A cubin of the test's PTX, to be freed. */
static unsigned char *make_cubin(size_t *size)
{
  CUlinkState link;
  void *cubin;
  OK(cu.cuLinkCreate_v2(0, NULL, NULL, &link));
  OK(cu.cuLinkAddData_v2(link, CU_JIT_INPUT_PTX, (void *)test_ptx, strlen(test_ptx) + 1, "test", 0,
                         NULL, NULL));
  OK(cu.cuLinkComplete(link, &cubin, size));
  unsigned char *copy = malloc(*size);
  ck_assert_ptr_nonnull(copy);
  memcpy(copy, cubin, *size);
  OK(cu.cuLinkDestroy(link));
  return copy;
}

START_TEST(a_cubin_does_what_its_ptx_did)
{
  size_t size, size_again;
  unsigned word = 0;
  CUmodule module;
  CUlinkState link;
  void *cubin_again;
  start();
  unsigned char *cubin = make_cubin(&size);
  OK(cu.cuModuleLoadData(&module, cubin));
  const CUdeviceptr address = allocate(4);
  OK(launch_fill(get_function(module, "fill"), address, 17, 1, NULL));
  OK(cu.cuMemcpyDtoH_v2(&word, address, 4));
  ck_assert_uint_eq(word, 17);
  OK(cu.cuModuleUnload(module));
  /* It can be linked again, and nothing is lost. */
  OK(cu.cuLinkCreate_v2(0, NULL, NULL, &link));
  OK(cu.cuLinkAddData_v2(link, CU_JIT_INPUT_CUBIN, cubin, size, "cubin", 0, NULL, NULL));
  OK(cu.cuLinkComplete(link, &cubin_again, &size_again));
  ck_assert_uint_eq(size, size_again);
  ck_assert_mem_eq(cubin, cubin_again, size);
  OK(cu.cuLinkDestroy(link));
  free(cubin);
  OK(cu.cuMemFree_v2(address));
  finish();
}
END_TEST

START_TEST(a_damaged_cubin_is_refused)
{
  size_t size;
  CUmodule module;
  CUlinkState link;
  start();
  unsigned char *cubin = make_cubin(&size);
  ck_assert_uint_gt(size, 1000);
  for (size_t i = 0; i < size; i++) {
    cubin[i] ^= (unsigned char)(1 << i % 8);
    const CUresult result = cu.cuModuleLoadData(&module, cubin);
    ck_assert_msg(result == CUDA_ERROR_INVALID_IMAGE || (i < 8 && result == CUDA_ERROR_INVALID_PTX),
                  "byte %zu: %d", i, (int)result);
    cubin[i] ^= (unsigned char)(1 << i % 8);
  }
  OK(cu.cuModuleLoadData(&module, cubin));
  OK(cu.cuModuleUnload(module));
  /* Cut short, where the size is known. */
  OK(cu.cuLinkCreate_v2(0, NULL, NULL, &link));
  FAILS(cu.cuLinkAddData_v2(link, CU_JIT_INPUT_CUBIN, cubin, size - 1, NULL, 0, NULL, NULL),
        INVALID_IMAGE);
  FAILS(cu.cuLinkAddData_v2(link, CU_JIT_INPUT_CUBIN, cubin, 20, NULL, 0, NULL, NULL),
        INVALID_IMAGE);
  OK(cu.cuLinkDestroy(link));
  free(cubin);
  finish();
}
END_TEST

/* Makes a cubin in a process whose device has the capability, and loads it here, on an 8.6. */
static CUresult load_foreign(const char *capability)
{
  FILE *file = tmpfile();
  ck_assert_ptr_nonnull(file);
  const pid_t child = fork();
  if (child == 0) {
    size_t size;
    setenv("ATTN_DEVICE_CAPABILITY", capability, 1);
    start();
    unsigned char *cubin = make_cubin(&size);
    ck_assert_uint_eq(fwrite(cubin, 1, size, file), size);
    fflush(file);
    free(cubin);
    finish();
    _exit(0);
  }
  int status;
  ck_assert_int_eq(waitpid(child, &status, 0), child);
  ck_assert_int_eq(status, 0);
  rewind(file);
  unsigned char *cubin = calloc(1, 1 << 16);
  ck_assert_ptr_nonnull(cubin);
  ck_assert_uint_gt(fread(cubin, 1, 1 << 16, file), 0);
  fclose(file);
  setenv("ATTN_DEVICE_CAPABILITY", "8.6", 1);
  start();
  CUmodule module;
  const CUresult result = cu.cuModuleLoadData(&module, cubin);
  if (result == CUDA_SUCCESS)
    OK(cu.cuModuleUnload(module));
  free(cubin);
  finish();
  return result;
}

START_TEST(a_cubin_is_for_its_kind_of_device)
{
  static const struct {
    const char *capability;
    CUresult result;
  } cases[] = {{"8.0", CUDA_SUCCESS},
               {"8.6", CUDA_SUCCESS},
               {"8.9", CUDA_ERROR_NO_BINARY_FOR_GPU},
               {"9.0", CUDA_ERROR_NO_BINARY_FOR_GPU}};
  ck_assert_int_eq(load_foreign(cases[_i].capability), cases[_i].result);
}
END_TEST

START_TEST(linking_checks_its_input)
{
  CUlinkState link;
  void *cubin;
  size_t size;
  char error[200] = "";
  CUjit_option options[] = {CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
  void *values[] = {error, (void *)sizeof(error)};
  char text[] = PTX_HEADER ".visible .entry f()\n{\n  mov.u32 %r1, 7;\n  ret;\n}\n";
  start();
  OK(cu.cuLinkCreate_v2(2, options, values, &link));
  FAILS(cu.cuLinkComplete(link, &cubin, &size), INVALID_VALUE);
  FAILS(cu.cuLinkAddData_v2(link, CU_JIT_INPUT_PTX, text, sizeof(text), "x.ptx", 0, NULL, NULL),
        INVALID_PTX);
  ck_assert_msg(strstr(error, "x.ptx") != NULL && strstr(error, "%r1") != NULL, "%s", error);
  FAILS(cu.cuLinkAddData_v2(link, 3, text, sizeof(text), NULL, 0, NULL, NULL), NOT_SUPPORTED);
  FAILS(cu.cuLinkAddData_v2(link, 77, text, sizeof(text), NULL, 0, NULL, NULL), INVALID_VALUE);
  OK(cu.cuLinkAddData_v2(link, CU_JIT_INPUT_PTX, (void *)test_ptx, strlen(test_ptx), NULL, 0, NULL,
                         NULL)); /* without its zero */
  OK(cu.cuLinkComplete(link, &cubin, &size));
  OK(cu.cuLinkDestroy(link));
  FAILS(cu.cuLinkDestroy(link), INVALID_HANDLE);
  finish();
}
END_TEST

/* ---- launches ---- */

START_TEST(launches_are_checked)
{
  start();
  CUmodule module = load_module();
  CUfunction fill = get_function(module, "fill"), increment = get_function(module, "increment");
  CUdeviceptr address = allocate(128);
  unsigned value = 1, count = 32;
  void *p[] = {&address, &value, &count};
  void *extra[] = {CU_LAUNCH_PARAM_END};
  OK(cu.cuMemsetD8Async(address, 0, 128, NULL));
  FAILS(cu.cuLaunchKernel(NULL, 1, 1, 1, 32, 1, 1, 0, NULL, p, NULL), INVALID_HANDLE);
  FAILS(cu.cuLaunchKernel(fill, 0, 1, 1, 32, 1, 1, 0, NULL, p, NULL), INVALID_VALUE);
  FAILS(cu.cuLaunchKernel(fill, 1, 1, 1, 32, 0, 1, 0, NULL, p, NULL), INVALID_VALUE);
  FAILS(cu.cuLaunchKernel(fill, 1, 65536, 1, 32, 1, 1, 0, NULL, p, NULL), INVALID_VALUE);
  FAILS(cu.cuLaunchKernel(fill, 0x80000000u, 1, 1, 32, 1, 1, 0, NULL, p, NULL), INVALID_VALUE);
  FAILS(cu.cuLaunchKernel(fill, 1, 1, 1, 1025, 1, 1, 0, NULL, p, NULL), INVALID_VALUE);
  FAILS(cu.cuLaunchKernel(fill, 1, 1, 1, 32, 1, 65, 0, NULL, p, NULL), INVALID_VALUE);
  FAILS(cu.cuLaunchKernel(fill, 1, 1, 1, 512, 4, 1, 0, NULL, p, NULL), INVALID_VALUE);
  FAILS(cu.cuLaunchKernel(fill, 1, 1, 1, 32, 1, 1, 0, NULL, p, extra), INVALID_VALUE);
  FAILS(cu.cuLaunchKernel(fill, 1, 1, 1, 32, 1, 1, 0, NULL, NULL, NULL), INVALID_VALUE);
  FAILS(cu.cuLaunchKernel(increment, 1, 1, 1, 64, 1, 1, 0, NULL, p, NULL), INVALID_VALUE);
  FAILS(cu.cuLaunchKernel(increment, 1, 1, 1, 16, 2, 1, 0, NULL, p, NULL), INVALID_VALUE);
  ck_log("increment: the block is not that of .reqntid");
  OK(cu.cuLaunchKernel(increment, 1, 1, 1, 32, 1, 1, 0, NULL, p, NULL));
  OK(cu.cuMemFreeAsync(address, NULL));
  OK(cu.cuCtxSynchronize());
  OK(cu.cuModuleUnload(module));
  finish();
}
END_TEST

START_TEST(shared_memory_has_its_limits)
{
  int value;
  start();
  CUmodule module = load_module();
  CUfunction large = get_function(module, "large");
  OK(cu.cuFuncGetAttribute(&value, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, large));
  ck_assert_int_eq(value, 1024);
  OK(cu.cuFuncGetAttribute(&value, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, large));
  ck_assert_int_eq(value, 47 << 10);
  OK(cu.cuLaunchKernel(large, 1, 1, 1, 32, 1, 1, 47 << 10, NULL, NULL, NULL));
  FAILS(cu.cuLaunchKernel(large, 1, 1, 1, 32, 1, 1, (47 << 10) + 1, NULL, NULL, NULL),
        INVALID_VALUE);
  const int attribute = CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
  FAILS(cu.cuFuncSetAttribute(large, attribute, (162 << 10) + 1), INVALID_VALUE);
  FAILS(cu.cuFuncSetAttribute(large, attribute, -1), INVALID_VALUE);
  FAILS(cu.cuFuncSetAttribute(large, CU_FUNC_ATTRIBUTE_NUM_REGS, 1), INVALID_VALUE);
  OK(cu.cuFuncSetAttribute(large, attribute, 162 << 10));
  OK(cu.cuLaunchKernel(large, 1, 1, 1, 32, 1, 1, 162 << 10, NULL, NULL, NULL));
  OK(cu.cuFuncSetAttribute(large, CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT, 100));
  OK(cu.cuFuncSetCacheConfig(large, 1));
  OK(cu.cuOccupancyMaxActiveBlocksPerMultiprocessor(&value, large, 128, 162 << 10));
  ck_assert_int_eq(value, 1);
  OK(cu.cuOccupancyMaxActiveBlocksPerMultiprocessor(&value, large, 128, 0));
  ck_assert_int_eq(value, 16);
  OK(cu.cuOccupancyMaxActiveBlocksPerMultiprocessor(&value, large, 32, 0));
  ck_assert_int_eq(value, 32);
  OK(cu.cuOccupancyMaxActiveBlocksPerMultiprocessor(&value, large, 2048, 0));
  ck_assert_int_eq(value, 0);
  CUfunction increment = get_function(module, "increment");
  OK(cu.cuFuncGetAttribute(&value, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, increment));
  ck_assert_int_eq(value, 32);
  OK(cu.cuFuncGetAttribute(&value, CU_FUNC_ATTRIBUTE_PTX_VERSION, increment));
  ck_assert_int_eq(value, 80);
  FAILS(cu.cuFuncGetAttribute(&value, 99, increment), INVALID_VALUE);
  OK(cu.cuCtxSynchronize());
  OK(cu.cuModuleUnload(module));
  finish();
}
END_TEST

START_TEST(parameters_are_copied_at_launch)
{
  struct {
    CUdeviceptr to;
    unsigned value, count;
  } block;
  size_t size = sizeof(block);
  unsigned words[2] = {0};
  start();
  CUmodule module = load_module();
  CUfunction fill = get_function(module, "fill");
  const CUdeviceptr address = allocate(8);
  CUdeviceptr to = address;
  unsigned value = 1, count = 1;
  void *parameters[] = {&to, &value, &count};
  OK(cu.cuLaunchKernel(fill, 1, 1, 1, 32, 1, 1, 0, NULL, parameters, NULL));
  to = 0;
  value = count = 99;
  block.to = address + 4;
  block.value = 2;
  block.count = 1;
  void *extra[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, &block, CU_LAUNCH_PARAM_BUFFER_SIZE, &size,
                   CU_LAUNCH_PARAM_END};
  OK(cu.cuLaunchKernel(fill, 1, 1, 1, 32, 1, 1, 0, NULL, NULL, extra));
  block.to = 0;
  size--;
  FAILS(cu.cuLaunchKernel(fill, 1, 1, 1, 32, 1, 1, 0, NULL, NULL, extra), INVALID_VALUE);
  OK(cu.cuMemcpyDtoH_v2(words, address, 8));
  ck_assert_uint_eq(words[0], 1);
  ck_assert_uint_eq(words[1], 2);
  OK(cu.cuMemFree_v2(address));
  OK(cu.cuModuleUnload(module));
  finish();
}
END_TEST

START_TEST(a_whole_grid_runs)
{
  enum { COUNT = 1000 };
  unsigned words[COUNT];
  start();
  CUmodule module = load_module();
  const CUdeviceptr address = allocate(sizeof(words)); /* the grid is larger */
  OK(launch_fill(get_function(module, "fill"), address, 0xabcd, COUNT, NULL));
  OK(cu.cuMemcpyDtoH_v2(words, address, sizeof(words)));
  for (int i = 0; i < COUNT; i++)
    ck_assert_uint_eq(words[i], 0xabcd);
  OK(cu.cuMemFree_v2(address));
  OK(cu.cuModuleUnload(module));
  finish();
}
END_TEST

/* ---- faults of kernels ---- */

enum stray { PAST_THE_END, BEFORE_THE_START, HOST_POINTER, FREED, ACROSS_WORDS, STRAYS };

START_TEST(a_kernel_that_strays_ends_the_context)
{
  unsigned local = 0, word = 0;
  CUdeviceptr to = 0;
  start();
  CUfunction stray = get_function(load_module(), "stray");
  const CUdeviceptr address = allocate(100), freed = allocate(256);
  OK(cu.cuMemFree_v2(freed));
  switch ((enum stray)_i) {
  case PAST_THE_END: to = address + 100; break;
  case BEFORE_THE_START: to = address - 4; break;
  case HOST_POINTER: to = (CUdeviceptr)(uintptr_t)&local; break;
  case FREED: to = freed; break;
  case ACROSS_WORDS: to = address + 2; break;
  case STRAYS: break;
  }
  void *parameters[] = {&to};
  OK(cu.cuLaunchKernel(stray, 1, 1, 1, 1, 1, 1, 0, NULL, parameters, NULL));
  const CUresult error =
      _i == ACROSS_WORDS ? CUDA_ERROR_MISALIGNED_ADDRESS : CUDA_ERROR_ILLEGAL_ADDRESS;
  ck_assert_int_eq(cu.cuMemcpyDtoH_v2(&word, address, 4), error);
  ck_assert_int_eq(cu.cuLaunchKernel(stray, 1, 1, 1, 1, 1, 1, 0, NULL, parameters, NULL), error);
  ck_assert_uint_eq(local, 0);
  ck_log("device 0: kernel stray, block (0, 0, 0), thread 0, line ");
  finish();
}
END_TEST

START_TEST(a_trap_ends_the_context)
{
  CUevent event;
  unsigned out = 0;
  start();
  CUfunction stop = get_function(load_module(), "stop");
  const CUdeviceptr address = allocate(4);
  OK(cu.cuEventCreate(&event, 0));
  OK(cu.cuLaunchKernel(stop, 2, 1, 1, 64, 1, 1, 0, NULL, NULL, NULL));
  OK(cu.cuMemcpyDtoHAsync_v2(&out, address, 4, NULL));
  OK(cu.cuEventRecord(event, NULL));
  FAILS(cu.cuEventSynchronize(event), LAUNCH_FAILED);
  ck_assert_uint_eq(out, 0); /* what comes behind is not done */
  FAILS(cu.cuEventQuery(event), LAUNCH_FAILED);
  ck_log("kernel stop");
  finish();
}
END_TEST

START_TEST(a_module_unloaded_too_early_is_named)
{
  start();
  CUmodule module = load_module();
  CUfunction fill = get_function(module, "fill");
  const CUdeviceptr address = allocate(4);
  OK(launch_fill(fill, address, 1, 1, NULL));
  OK(cu.cuModuleUnload(module));
  FAILS(cu.cuCtxSynchronize(), ILLEGAL_ADDRESS);
  ck_log("kernel fill was launched and its module unloaded before it ran");
  finish();
}
END_TEST

int main(void)
{
  Suite *suite = suite_create("driver_modules");
  TCase *tests = tcase_create("modules");
  tcase_add_test(tests, modules_have_functions_and_variables);
  tcase_add_loop_test(tests, bad_images_say_why, 0, sizeof(bad_images) / sizeof(bad_images[0]));
  tcase_add_test(tests, options_of_the_compiler_are_read);
  tcase_add_test(tests, an_old_driver_reads_old_ptx);
  tcase_add_test(tests, a_cubin_does_what_its_ptx_did);
  tcase_add_test(tests, a_damaged_cubin_is_refused);
  tcase_add_loop_test(tests, a_cubin_is_for_its_kind_of_device, 0, 4);
  tcase_add_test(tests, linking_checks_its_input);
  tcase_add_test(tests, launches_are_checked);
  tcase_add_test(tests, shared_memory_has_its_limits);
  tcase_add_test(tests, parameters_are_copied_at_launch);
  tcase_add_test(tests, a_whole_grid_runs);
  tcase_add_loop_test(tests, a_kernel_that_strays_ends_the_context, 0, STRAYS);
  tcase_add_test(tests, a_trap_ends_the_context);
  tcase_add_test(tests, a_module_unloaded_too_early_is_named);
  suite_add_tcase(suite, tests);
  return run_suite(suite);
}
