/* What is read of the assembler's messages, with a script in its place. */
#include "runtime/attnc/ptxas.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct arena arena;
static char folder[64], program[96];

/* A `ptxas` in PATH that does as told. */
static void install(const char *script)
{
  FILE *file = fopen(program, "w");
  ck_assert_ptr_nonnull(file);
  ck_assert(fputs(script, file) >= 0 && fclose(file) == 0);
  ck_assert_int_eq(chmod(program, 0700), 0);
}

static void setup(void)
{
  arena_init(&arena);
  ck_assert(!arena_guard(&arena));
  snprintf(folder, sizeof(folder), "/tmp/attn-ptxas-XXXXXX");
  ck_assert_ptr_nonnull(mkdtemp(folder));
  snprintf(program, sizeof(program), "%s/ptxas", folder);
  char path[4096];
  snprintf(path, sizeof(path), "%s:%s", folder, getenv("PATH"));
  ck_assert_int_eq(setenv("PATH", path, 1), 0);
}

static void teardown(void)
{
  unlink(program);
  rmdir(folder);
  arena_free(&arena);
}

START_TEST(kernels_are_reported)
{
  install("#!/bin/sh\n"
          "[ \"$1\" = -arch=sm_86 ] || exit 3\n"
          "read line; [ \"$line\" = 'the text' ] || exit 4\n"
          "cat >&2 <<'END'\n"
          "ptxas info    : 0 bytes gmem\n"
          "ptxas info    : Compiling entry function 'rotate_keys' for 'sm_86'\n"
          "ptxas info    : Function properties for rotate_keys\n"
          "    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
          "ptxas info    : Used 56 registers, used 1 barriers, 400 bytes cmem[0]\n"
          "ptxas info    : Compile time = 12.994 ms\n"
          "ptxas info    : Compiling entry function 'forward' for 'sm_86'\n"
          "ptxas info    : Function properties for helper\n"
          "    8 bytes stack frame, 8 bytes spill stores, 8 bytes spill loads\n"
          "ptxas info    : Function properties for forward\n"
          "    344 bytes stack frame, 400 bytes spill stores, 544 bytes spill loads\n"
          "ptxas info    : Used 255 registers, 344 bytes cumulative stack size\n"
          "ptxas info    : Function properties for helper\n"
          "    8 bytes stack frame, 8 bytes spill stores, 8 bytes spill loads\n"
          "END\n");
  struct ptxas_report report;
  const char *message;
  ck_assert_int_eq(ptxas_run(&arena, "the text\n", "sm_86", &report, &message), PTXAS_OK);
  ck_assert_uint_eq(report.kernels.count, 2);
  const struct ptxas_kernel *k = report.kernels.items;
  ck_assert_str_eq(k[0].name, "rotate_keys");
  ck_assert_uint_eq(k[0].registers, 56);
  ck_assert_uint_eq(k[0].stack, 0);
  ck_assert_str_eq(k[1].name, "forward");
  ck_assert_uint_eq(k[1].registers, 255);
  ck_assert_uint_eq(k[1].stack, 344);
  ck_assert_uint_eq(k[1].spill_stores, 400);
  ck_assert_uint_eq(k[1].spill_loads, 544);
}
END_TEST

START_TEST(errors_are_told)
{
  install("#!/bin/sh\necho 'line 7; error: no such thing'\nexit 1\n");
  struct ptxas_report report;
  const char *message;
  ck_assert_int_eq(ptxas_run(&arena, "x", "sm_80", &report, &message), PTXAS_FAILED);
  ck_assert_ptr_nonnull(strstr(message, "line 7; error: no such thing"));
  ck_assert_uint_eq(report.kernels.count, 0);
  install("#!/bin/sh\nkill -9 $$\n");
  ck_assert_int_eq(ptxas_run(&arena, "x", "sm_80", &report, &message), PTXAS_FAILED);
  ck_assert_str_ne(message, "");
}
END_TEST

/* More than a pipe holds, in both directions. */
START_TEST(floods_do_not_block)
{
  install("#!/bin/sh\ncat\ncat <&0 >/dev/null\nexit 1\n");
  size_t size = 1 << 20;
  char *text = arena_alloc(&arena, size + 1);
  memset(text, 'x', size);
  struct ptxas_report report;
  const char *message;
  ck_assert_int_eq(ptxas_run(&arena, text, "sm_80", &report, &message), PTXAS_FAILED);
  ck_assert_uint_gt(strlen(message), 1000);
}
END_TEST

int main(void)
{
  Suite *suite = suite_create("ptxas");
  TCase *tests = tcase_create("messages");
  tcase_add_checked_fixture(tests, setup, teardown);
  tcase_add_test(tests, kernels_are_reported);
  tcase_add_test(tests, errors_are_told);
  tcase_add_test(tests, floods_do_not_block);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
