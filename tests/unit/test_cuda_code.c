/* Code on a device: the assembler's messages, shared memory, cubins in the caches, and running out
 * of memory on the host. */
#include "runtime/cuda_code.h"
#include "tests/unit/cuda_trial.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- assembling and loading, by hand ---- */

static const char good_ptx[] = ".version 7.0\n"
                               ".target sm_80\n"
                               ".address_size 64\n"
                               "\n"
                               ".visible .entry nothing(.param .align 8 .b8 nothing_param_0[8])\n"
                               "{\n"
                               "  ret;\n"
                               "}\n";

struct hand {
  struct compiled compiled;
  struct tile_kernel tile;
  struct compiled_kernel kernel;
};

static void hand_init(struct hand *hand, const char *ptx, const char *kernel)
{
  *hand = (struct hand){.tile = {.name = kernel}};
  hand->kernel = (struct compiled_kernel){.tile = &hand->tile, .threads = 32};
  hand->compiled.code_size = strlen(ptx);
  hand->compiled.code = mem_alloc(strlen(ptx) + 1);
  memcpy(hand->compiled.code, ptx, strlen(ptx) + 1);
}

static struct error_sink sink = {NULL, message, sizeof(message)};

START_TEST(assembles_and_loads)
{
  attn_context *context = device_context(0);
  struct hand hand;
  struct cuda_code *code;
  struct cuda_function *function;
  hand_init(&hand, good_ptx, "nothing");
  ck_assert_int_eq(cuda_enter(context->device, &sink), ATTN_OK);
  ck_assert_msg(cuda_code_assemble(&hand.compiled, &sink) == ATTN_OK, "%s", message);
  ck_assert_uint_eq(hand.compiled.code[hand.compiled.code_size], 0);
  ck_assert_int_eq(cuda_code_load(context->device, &hand.compiled, &sink, &code), ATTN_OK);
  mem_free(hand.compiled.code);
  ck_assert_int_eq(cuda_code_function(code, &hand.kernel, &sink, &function), ATTN_OK);

  hand.kernel.shared_bytes = 100 * 1024; /* more than what is to be had without asking */
  ck_assert_int_eq(cuda_code_function(code, &hand.kernel, &sink, &function), ATTN_OK);
  hand.kernel.shared_bytes = 1 << 20;
  ck_assert_int_eq(cuda_code_function(code, &hand.kernel, &sink, &function),
                   ATTN_ERROR_UNSUPPORTED);
  ASSERT_SAYS("the kernel 'nothing' needs 1024 KiB of shared memory; ");
  ASSERT_SAYS(": choose smaller tiles (schedule)");
  hand.tile.name = "anything";
  ck_assert_int_eq(cuda_code_function(code, &hand.kernel, &sink, &function), ATTN_ERROR_INTERNAL);
  ck_assert_str_eq(message, "compiled code lacks the kernel 'anything'");

  cuda_address constants = 0;
  const int in[] = {1, 2, 3};
  int out[3] = {0};
  ck_assert_int_eq(cuda_code_upload(code, in, sizeof(in), &sink, &constants), ATTN_OK);
  ck_assert_int_eq(cuda.download(out, constants, sizeof(out), NULL), CUDA_OK);
  ck_assert_int_eq(cuda.stream_synchronize(NULL), CUDA_OK);
  ck_assert_mem_eq(in, out, sizeof(in));
  ck_assert_ptr_nonnull(cuda_code_keep(code, 100, &sink));
  cuda_code_free(code);
  cuda_leave();
  attn_context_free(context);
}
END_TEST

START_TEST(the_assembler_complains)
{
  attn_context *context = device_context(0);
  struct hand hand;
  char bad[sizeof(good_ptx)];
  memcpy(bad, good_ptx, sizeof(bad));
  memcpy(strstr(bad, "ret;"), "@@@;", 4);
  hand_init(&hand, bad, "nothing");
  ck_assert_int_eq(cuda_enter(context->device, &sink), ATTN_OK);
  ck_assert_int_eq(cuda_code_assemble(&hand.compiled, &sink), ATTN_ERROR_INTERNAL);
  ASSERT_SAYS("the driver does not accept the code: ");
  ck_assert_uint_gt(strlen(message), strlen("the driver does not accept the code: "));
  mem_free(hand.compiled.code);

  /* A version of PTX that the driver does not know yet. */
  memcpy(bad, good_ptx, sizeof(bad));
  memcpy(strstr(bad, "7.0"), "9.9", 3);
  hand_init(&hand, bad, "nothing");
  ck_assert_int_eq(cuda_code_assemble(&hand.compiled, &sink), ATTN_ERROR_UNSUPPORTED);
  ASSERT_SAYS("the NVIDIA driver is too old for this code: it supports CUDA ");
  mem_free(hand.compiled.code);
  cuda_leave();
  attn_context_free(context);
}
END_TEST

/* ---- caches ---- */

static char folder[64];

static void set_up(void)
{
  unsetenv("ATTN_CACHE");
  snprintf(folder, sizeof(folder), "/tmp/attn-cuda-code-XXXXXX");
  ck_assert_ptr_nonnull(mkdtemp(folder));
}

/* The path of an entry; the number of entries. */
static int entries(char path[PATH_MAX])
{
  int count = 0;
  DIR *directory = opendir(folder);
  const struct dirent *entry;
  while (directory != NULL && (entry = readdir(directory)) != NULL) {
    if (entry->d_name[0] == '.')
      continue;
    snprintf(path, PATH_MAX, "%s/%s", folder, entry->d_name);
    count++;
  }
  if (directory != NULL)
    closedir(directory);
  return count;
}

static void tear_down(void)
{
  char path[PATH_MAX];
  while (entries(path) > 0)
    unlink(path);
  rmdir(folder);
}

/* Compiles and launches; what it took. */
static attn_statistics launch_with(const char *device)
{
  attn_context_options options = ATTN_CONTEXT_OPTIONS_INIT;
  options.device = device;
  options.code_cache_directory = folder;
  options.error = message;
  options.error_size = sizeof(message);
  attn_context *context;
  ck_assert_msg(attn_context_create(&options, &context) == ATTN_OK, "%s", message);
  attn_program *program = compile(context, full);
  struct problem p;
  problem_on_device(&p, context, 1, 3, 4);
  enqueue(program, &p);
  ck_assert_int_eq(attn_sync(context, NULL), ATTN_OK);
  problem_download(&p, context);
  ck_assert(problem_error(&p) <= 2e-5);
  problem_leave(&p, context);
  attn_program_free(program);
  attn_statistics statistics = attn_context_statistics(context);
  attn_context_free(context);
  return statistics;
}

static void spoil(const char *path, off_t at)
{
  unsigned char byte;
  int file = open(path, O_RDWR);
  ck_assert_int_ge(file, 0);
  struct stat info;
  fstat(file, &info);
  ck_assert_int_eq(pread(file, &byte, 1, at < 0 ? info.st_size + at : at), 1);
  byte ^= 1;
  ck_assert_int_eq(pwrite(file, &byte, 1, at < 0 ? info.st_size + at : at), 1);
  close(file);
}

START_TEST(cubins_on_disk)
{
  char path[PATH_MAX];
  ck_assert_uint_eq(launch_with("cuda:0").compilations, 1);
  ck_assert_int_eq(entries(path), 1);
  attn_statistics again = launch_with("cuda:0");
  ck_assert_uint_eq(again.compilations, 0);
  ck_assert_uint_eq(again.disk_hits, 1);
  ck_assert_uint_eq(launch_with("cuda:1").disk_hits, 1); /* of the same architecture */

  spoil(path, -40); /* in the code */
  ck_assert_uint_eq(launch_with("cuda:0").compilations, 1);
  ck_assert_uint_eq(launch_with("cuda:0").disk_hits, 1); /* it was replaced */
  ck_assert_int_eq(truncate(path, 1000), 0);
  ck_assert_uint_eq(launch_with("cuda:0").compilations, 1);
}
END_TEST

/* One that is whole, but that the driver does not take. */
START_TEST(foreign_cubin)
{
  ck_assert_uint_eq(launch_with("cuda:0").compilations, 1);
  inject("cuModuleLoadData", 1, CUDA_NO_BINARY_FOR_GPU);
  ck_assert_uint_eq(launch_with("cuda:0").compilations, 1);
  ck_assert_uint_eq(launch_with("cuda:0").disk_hits, 1);
  inject("cuModuleGetFunction", 1, CUDA_NOT_FOUND);
  ck_assert_uint_eq(launch_with("cuda:0").compilations, 1);
}
END_TEST

/* What is on disk needs no code generator. */
START_TEST(without_llvm)
{
  pid_t child = fork();
  if (child == 0) {
    ck_assert_uint_eq(launch_with("cuda:0").compilations, 1);
    exit(0);
  }
  int status;
  ck_assert_int_eq(waitpid(child, &status, 0), child);
  ck_assert_int_eq(status, 0);
  setenv("ATTN_LLVM_LIBRARY", "/nowhere/libLLVM.so", 1);
  ck_assert_uint_eq(launch_with("cuda:0").disk_hits, 1);
}
END_TEST

START_TEST(other_architectures_have_their_own)
{
  char path[PATH_MAX];
  for (int n = 0; n < 2; n++) {
    pid_t child = fork();
    if (child == 0) {
      setenv("ATTN_DEVICE_CAPABILITY", n == 0 ? "8.0" : "9.0", 1);
      ck_assert_uint_eq(launch_with("cuda:0").compilations, 1);
      exit(0);
    }
    int status;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_int_eq(status, 0);
  }
  ck_assert_int_eq(entries(path), 2);
}
END_TEST

/* ---- running out of memory on the host ---- */

static attn_status whole_launch(attn_context *context, struct problem *p)
{
  attn_program *program = NULL;
  attn_status status = attn_compile(context, full, strlen(full), "t.attn", NULL, &program);
  if (status == ATTN_OK)
    status = attn_launch(program, &p->arguments);
  attn_program_free(program);
  return status;
}

START_TEST(every_allocation_may_fail)
{
  attn_context_options options = ATTN_CONTEXT_OPTIONS_INIT;
  options.device = "cuda:0";
  options.code_cache_entries = 0;
  struct problem p;
  int64_t strides[4] = {HEADS * 3 * DIM, 3 * DIM, 1, 3};
  attn_context *context = device_context(0);
  problem_on_device(&p, context, 1, 3, 4);
  p.tensors[0].strides = strides;                       /* so that the copies are compiled, too */
  ck_assert_int_eq(whole_launch(context, &p), ATTN_OK); /* what is made once a process is made */
  const int64_t live = mem_live_count();
  uint64_t n = 1;
  bool failed = true;
  for (; failed; n++) {
    attn_context *fresh = NULL;
    mem_fail_at(n);
    const uint64_t before = mem_allocation_count();
    attn_status status = attn_context_create(&options, &fresh);
    if (status == ATTN_OK)
      status = whole_launch(fresh, &p);
    failed = mem_allocation_count() - before >= n;
    mem_fail_at(0);
    ck_assert_msg(status == (failed ? ATTN_ERROR_OUT_OF_MEMORY : ATTN_OK), "allocation %llu: %d",
                  (unsigned long long)n, (int)status);
    attn_context_free(fresh);
    ck_assert_int_eq(mem_live_count(), live);
  }
  ck_assert_uint_gt(n, 30);
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
  Suite *suite = suite_create("cuda_code");
  TCase *code = tcase_create("code"), *caches = tcase_create("caches");
  tcase_add_test(code, assembles_and_loads);
  tcase_add_test(code, the_assembler_complains);
  tcase_add_test(code, every_allocation_may_fail);
  tcase_add_checked_fixture(caches, set_up, tear_down);
  tcase_add_test(caches, cubins_on_disk);
  tcase_add_test(caches, without_llvm);
  if (getenv("ATTN_TEST_GPU") == NULL) {
    tcase_add_test(caches, foreign_cubin);
    tcase_add_test(caches, other_architectures_have_their_own);
  }
  suite_add_tcase(suite, code);
  suite_add_tcase(suite, caches);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}
