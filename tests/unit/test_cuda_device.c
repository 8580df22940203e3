/* Contexts on a device: opening them and all that may be wrong with it, the caller's CUDA context,
 * memory, a device that fails. */
#include "tests/unit/cuda_world.h"

#include <unistd.h>

/* ---- the driver ---- */

static attn_status open_with(const char *library)
{
  attn_context *context;
  setenv("ATTN_CUDA_LIBRARY", library, 1);
  attn_status status = try_device("cuda:0", &context);
  ck_assert_ptr_null(context);
  return status;
}

START_TEST(no_driver)
{
  ck_assert_int_eq(open_with("/nowhere/libcuda.so.1"), ATTN_ERROR_UNSUPPORTED);
  ASSERT_SAYS("the CUDA driver that ATTN_CUDA_LIBRARY names cannot be loaded");
  ASSERT_SAYS("/nowhere/libcuda.so.1");
  size_t count = 7;
  ck_assert_int_eq(attn_device_list(NULL, 0, &count, message, sizeof(message)),
                   ATTN_ERROR_UNSUPPORTED);
  ck_assert_uint_eq(count, 0);
  ASSERT_SAYS("/nowhere/libcuda.so.1"); /* the first look settles it */
}
END_TEST

START_TEST(not_a_driver)
{
  ck_assert_int_eq(open_with("libm.so.6"), ATTN_ERROR_UNSUPPORTED);
  ASSERT_SAYS("the CUDA driver lacks the function cuInit; update the driver");
}
END_TEST

START_TEST(old_driver)
{
  setenv("ATTN_DEVICE_DRIVER", "11.2", 1);
  attn_context *context;
  ck_assert_int_eq(try_device("cuda:0", &context), ATTN_ERROR_UNSUPPORTED);
  ck_assert_str_eq(message, "the NVIDIA driver is too old: it supports CUDA 11.2, and 11.4 is "
                            "needed; update the driver");
}
END_TEST

START_TEST(driver_does_not_start)
{
  inject("cuInit", 1, 803);
  attn_context *context;
  ck_assert_int_eq(try_device("cuda:0", &context), ATTN_ERROR_UNSUPPORTED);
  ASSERT_SAYS("the NVIDIA driver does not start (CUDA_ERROR_SYSTEM_DRIVER_MISMATCH, 803)");
}
END_TEST

START_TEST(no_devices)
{
  setenv("ATTN_DEVICE_COUNT", "0", 1);
  attn_context *context;
  ck_assert_int_eq(try_device("cuda", &context), ATTN_ERROR_UNSUPPORTED);
  ASSERT_SAYS("NVIDIA GPU");
}
END_TEST

/* ---- which device ---- */

START_TEST(names_of_devices)
{
  static const char *const wrong[] = {"cuda:",   "cuda:-1", "cuda:x",     "cuda:1x",
                                      "cuda: 0", "gpu",     "cuda:99999", "cuda0"};
  attn_context *context;
  for (size_t n = 0; n < sizeof(wrong) / sizeof(*wrong); n++) {
    ck_assert_int_eq(try_device(wrong[n], &context), ATTN_ERROR_ARGUMENT);
    ASSERT_SAYS("unknown device '");
    ASSERT_SAYS("\"cuda:0\"");
  }
  ck_assert_int_eq(try_device("cuda:900", &context), ATTN_ERROR_ARGUMENT);
  ASSERT_SAYS("there is no device cuda:900; there ");
  ck_assert_int_eq(try_device("cuda", &context), ATTN_OK);
  ck_assert_int_eq(attn_context_device(context).device_type, kDLCUDA);
  ck_assert_int_eq(attn_context_device(context).device_id, 0);
  attn_context_free(context);
}
END_TEST

START_TEST(counts_devices)
{
  setenv("ATTN_DEVICE_COUNT", "1", 1);
  attn_context *context;
  ck_assert_int_eq(try_device("cuda:1", &context), ATTN_ERROR_ARGUMENT);
  ck_assert_str_eq(message, "there is no device cuda:1; there is 1, the last is cuda:0");
  attn_device_info info[2];
  size_t count;
  ck_assert_int_eq(attn_device_list(info, 2, &count, NULL, 0), ATTN_OK);
  ck_assert_uint_eq(count, 1);
  ck_assert_int_ge(info[0].major, 8);
  ck_assert(info[0].supported && info[0].memory > 0 && info[0].name[0] != '\0');
  ck_assert_int_eq(attn_device_list(NULL, 1, &count, message, sizeof(message)),
                   ATTN_ERROR_ARGUMENT);
}
END_TEST

static cuda_result turing(int *value, enum cuda_attribute attribute, cuda_ordinal device)
{
  (void)device;
  *value = attribute == CUDA_CAPABILITY_MAJOR ? 7 : 5;
  return CUDA_OK;
}

START_TEST(old_device)
{
  attn_context *context;
  ck_assert_ptr_null(cuda_api_load());
  cuda.device_attribute = turing;
  ck_assert_int_eq(try_device("cuda:0", &context), ATTN_ERROR_UNSUPPORTED);
  ASSERT_SAYS("has compute capability 7.5; at least 8.0 is needed");
}
END_TEST

/* ---- the caller's context ---- */

START_TEST(current_context_stays)
{
  cuda_result (*get_current)(struct cuda_context **);
  WORLD_FIND(get_current, "cuCtxGetCurrent");
  attn_context *context = device_context(0);
  struct cuda_context *mine = (struct cuda_context *)1, *current;
  ck_assert_int_eq(get_current(&mine), CUDA_OK);
  ck_assert_ptr_null(mine); /* nothing was current, nothing is */

  /* Now another device's. */
  attn_context *other = device_context(1);
  ck_assert_int_eq(cuda.push(other->device->primary), CUDA_OK);
  ck_assert_int_eq(get_current(&mine), CUDA_OK);
  ck_assert_ptr_ne(mine, context->device->primary);
  void *own, *memory;
  float in = 2.5f, out = 0;
  ck_assert_int_eq(attn_memory_allocate(context, sizeof(in), &own), ATTN_OK);
  ck_assert_int_eq(attn_memory_upload(context, own, &in, sizeof(in), NULL), ATTN_OK);
  ck_assert_int_eq(attn_memory_download(context, &out, own, sizeof(out), NULL), ATTN_OK);
  ck_assert(out == in);
  struct problem p;
  attn_program *program = compile(context, full);
  problem_on_device(&p, context, 1, 3, 4);
  enqueue(program, &p);
  ck_assert_int_eq(attn_sync(context, NULL), ATTN_OK);
  p.arguments.q = NULL;
  ck_assert_int_eq(attn_launch(program, &p.arguments), ATTN_ERROR_ARGUMENT);
  ck_assert_int_eq(attn_memory_allocate(context, (size_t)1 << 60, &memory),
                   ATTN_ERROR_OUT_OF_MEMORY);
  problem_leave(&p, context);
  attn_memory_free(context, own);
  attn_context_trim(context);
  attn_program_free(program);
  attn_context_free(context);
  ck_assert_int_eq(get_current(&current), CUDA_OK);
  ck_assert_ptr_eq(current, mine);
  cuda.pop(&current);
  attn_context_free(other);
}
END_TEST

START_TEST(primary_context_is_shared)
{
  attn_context *a = device_context(0), *b = device_context(0);
  ck_assert_ptr_eq(a->device->primary, b->device->primary);
  void *memory;
  float in = 1.5f, out = 0;
  ck_assert_int_eq(attn_memory_allocate(a, sizeof(in), &memory), ATTN_OK);
  ck_assert_int_eq(attn_memory_upload(a, memory, &in, sizeof(in), NULL), ATTN_OK);
  ck_assert_int_eq(attn_memory_download(b, &out, memory, sizeof(out), NULL), ATTN_OK);
  ck_assert(out == in);
  attn_memory_free(b, memory);
  attn_context_free(a);
  ck_assert_int_eq(attn_memory_allocate(b, 16, &memory), ATTN_OK); /* retained once more */
  attn_memory_free(b, memory);
  attn_context_free(b);
}
END_TEST

/* ---- memory ---- */

START_TEST(out_of_memory)
{
  setenv("ATTN_DEVICE_MEMORY", "64M", 1);
  attn_context *context = device_context(0);
  void *memory = &memory;
  ck_assert_int_eq(attn_memory_allocate(context, (size_t)65 << 20, &memory),
                   ATTN_ERROR_OUT_OF_MEMORY);
  ck_assert_ptr_null(memory);
  error_of(context);
  ASSERT_SAYS("cannot allocate 68157440 bytes for attn_memory_allocate: the device is out of "
              "memory (");
  ASSERT_SAYS("MiB of 64 MiB are free)");
  ck_assert_int_eq(attn_memory_allocate(context, 1 << 20, &memory), ATTN_OK); /* still usable */
  attn_memory_free(context, memory);
  attn_context_free(context);
}
END_TEST

START_TEST(no_memory_for_a_context)
{
  attn_context *context;
  ck_assert_ptr_null(cuda_api_load());
  inject("cuMemAlloc", 1, CUDA_OUT_OF_MEMORY);
  ck_assert_int_eq(try_device("cuda:0", &context), ATTN_ERROR_OUT_OF_MEMORY);
  ASSERT_SAYS("cannot allocate 4096 bytes for a context: the device is out of memory");
}
END_TEST

START_TEST(memory_on_the_cpu)
{
  attn_context *context = context_with(1);
  void *memory;
  double in = 0.125, out = 0;
  ck_assert_int_eq(attn_memory_allocate(context, sizeof(in), &memory), ATTN_OK);
  ck_assert_uint_eq((uintptr_t)memory % 256, 0);
  ck_assert_int_eq(attn_memory_upload(context, memory, &in, sizeof(in), NULL), ATTN_OK);
  ck_assert_int_eq(attn_memory_download(context, &out, memory, sizeof(out), NULL), ATTN_OK);
  ck_assert(out == in);
  ck_assert_int_eq(attn_memory_upload(context, NULL, &in, sizeof(in), NULL), ATTN_ERROR_ARGUMENT);
  ck_assert_int_eq(attn_memory_upload(context, NULL, NULL, 0, NULL), ATTN_OK);
  attn_memory_free(context, memory);
  ck_assert_int_eq(attn_sync(context, NULL), ATTN_OK);
  ck_assert_int_eq(attn_sync(context, &in), ATTN_ERROR_ARGUMENT);
  ck_assert_int_eq(attn_context_device(context).device_type, kDLCPU);
  attn_context_free(context);
}
END_TEST

/* ---- failures ---- */

START_TEST(lost_device)
{
  attn_context *context = device_context(0);
  attn_program *program = compile(context, full);
  struct problem p;
  problem_on_device(&p, context, 1, 3, 4);
  enqueue(program, &p);
  ck_assert_int_eq(attn_sync(context, NULL), ATTN_OK);
  inject("cuLaunchKernel", 1, 700);
  ck_assert_int_eq(attn_launch(program, &p.arguments), ATTN_ERROR_DEVICE);
  ASSERT_SAYS("cannot launch a kernel: CUDA_ERROR_ILLEGAL_ADDRESS (700)");
  /* From here on every call says so, and giving back still works. */
  ck_assert_int_eq(attn_launch(program, &p.arguments), ATTN_ERROR_DEVICE);
  ck_assert_int_eq(attn_sync(context, NULL), ATTN_ERROR_DEVICE);
  error_of(context);
  ASSERT_SAYS("CUDA_ERROR_ILLEGAL_ADDRESS");
  problem_leave(&p, context);
  attn_program_free(program);
  attn_context_free(context);
}
END_TEST

/* The stand-in writes down what a context still holds at its end. */
START_TEST(leaves_nothing_behind)
{
  char path[] = "/tmp/attn-cuda-device-XXXXXX", text[4096];
  int file = mkstemp(path);
  ck_assert_int_ge(file, 0);
  setenv("ATTN_DEVICE_LOG", path, 1);
  attn_context *context = device_context(0);
  attn_program *program = compile(context, full);
  attn_program *looked_up = compile(context, faulty);
  struct problem p;
  int64_t strides[4] = {HEADS * 3 * DIM, 3 * DIM, 1, 3};
  problem_on_device(&p, context, 1, 3, 4);
  p.tensors[0].strides = strides;
  enqueue(program, &p);
  problem_leave(&p, context);
  attn_program_free(looked_up);
  attn_program_free(program); /* with its launch under way */
  attn_context_free(context);
  ssize_t length = read(file, text, sizeof(text) - 1);
  ck_assert_int_ge(length, 0);
  text[length] = '\0';
  ck_assert_msg(strstr(text, "leak") == NULL && strstr(text, "unloaded") == NULL, "%s", text);
  close(file);
  unlink(path);
}
END_TEST

START_TEST(every_call_may_fail)
{
  static const char *const calls[] = {
      "cuCtxPushCurrent",    "cuLinkCreate",     "cuLinkAddData",
      "cuLinkComplete",      "cuModuleLoadData", "cuModuleGetFunction",
      "cuStreamIsCapturing", "cuLaunchKernel",   "cuMemAlloc"};
  attn_context *context = device_context(0);
  struct problem p;
  problem_on_device(&p, context, 1, 3, 4);
  for (size_t n = 0; n < sizeof(calls) / sizeof(*calls); n++) {
    attn_program *program = NULL;
    char text[512];
    snprintf(text, sizeof(text), "%s# %zu\n", full, n); /* not in the cache */
    inject(calls[n], 1, 1);
    attn_status status = attn_compile(context, text, strlen(text), "t.attn", NULL, &program);
    p.arguments.error = message;
    p.arguments.error_size = sizeof(message);
    if (status == ATTN_OK)
      status = attn_launch(program, &p.arguments);
    inject(NULL, 0, 0);
    if (strcmp(calls[n], "cuMemAlloc") == 0)
      ck_assert_int_eq(status, ATTN_OK); /* it is not called */
    else
      ck_assert_msg(status == ATTN_ERROR_DEVICE && strstr(message, "CUDA_ERROR_INVALID_VALUE"),
                    "%s: %d, %s", calls[n], (int)status, message);
    attn_program_free(program);
    program = compile(context, text); /* and it can be tried again */
    enqueue(program, &p);
    attn_program_free(program);
  }
  problem_leave(&p, context);
  attn_context_free(context);
}
END_TEST

int main(void)
{
  if (!world_has_driver()) {
    puts("there is no stand-in device: ATTN_STAND_IN is not set");
    return SKIPPED;
  }
  Suite *suite = suite_create("cuda_device");
  TCase *opening = tcase_create("opening"), *using = tcase_create("using");
  if (getenv("ATTN_TEST_GPU") == NULL) {
    tcase_add_test(opening, no_driver);
    tcase_add_test(opening, not_a_driver);
    tcase_add_test(opening, old_driver);
    tcase_add_test(opening, driver_does_not_start);
    tcase_add_test(opening, no_devices);
    tcase_add_test(opening, counts_devices);
    tcase_add_test(using, current_context_stays);
    tcase_add_test(using, out_of_memory);
    tcase_add_test(using, no_memory_for_a_context);
    tcase_add_test(using, lost_device);
    tcase_add_test(using, every_call_may_fail);
    tcase_add_test(using, leaves_nothing_behind);
  }
  tcase_add_test(opening, names_of_devices);
  tcase_add_test(opening, old_device);
  tcase_add_test(using, primary_context_is_shared);
  tcase_add_test(using, memory_on_the_cpu);
  suite_add_tcase(suite, opening);
  suite_add_tcase(suite, using);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}
