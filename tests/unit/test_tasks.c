/* The number of tasks that a launcher computes from a kernel's parallel op, against the one that
 * the program means. */
#include "compiler/tile/tasks.h"

#include "compiler/tile/abi.h"
#include "tests/unit/tile_texts.h"

/* A kernel with these statements before `parallel (extents)`. */
static const struct tile_kernel *kernel_with(const char *scalars, const char *indices,
                                             const char *extents)
{
  const char *text = arena_format(&arena,
                                  "kernel k\n"
                                  "  tensor x i32[2]\n"
                                  "  tensor y f32[2] written\n"
                                  "  param n int\n"
                                  "  param wide bool\n"
                                  "  param scale float\n"
                                  "{\n"
                                  "  %%zero: index = scalar => 0L\n"
                                  "%s"
                                  "  parallel (%s) < (%s) {\n"
                                  "    %%t: f32[8,8] = load y[%%zero, %%zero] rows 0 columns 1 "
                                  "live %%zero, %%zero\n"
                                  "    store %%t to y[%%zero, %%zero] rows 0 columns 1 "
                                  "live %%zero, %%zero\n"
                                  "  }\n"
                                  "}\n",
                                  scalars, indices, extents);
  struct tile_program *program = read_good(text);
  const char *error = tile_verify(&arena, program);
  ck_assert_msg(error == NULL, "%s\n%s", error, text);
  return program->kernels.items[0];
}

static int64_t count_with(const struct tile_kernel *kernel, int64_t n, bool wide, double scale)
{
  int64_t slots[64] = {0};
  const uint32_t first = tile_param_slot(kernel, 0);
  ck_assert_uint_lt(tile_slot_count(kernel), 64);
  slots[first] = n;
  slots[first + 1] = wide;
  memcpy(&slots[first + 2], &scale, sizeof(scale));
  return tile_task_count(kernel, slots);
}

START_TEST(products_of_extents)
{
  const struct tile_kernel *kernel =
      kernel_with("  %n: index = scalar => long(n)\n"
                  "  %tiles: index = scalar %n => ($0 + 15L) // 16L\n"
                  "  %heads: index = scalar => select(wide, 12L, 3L)\n",
                  "%i, %h", "%tiles, %heads");
  ck_assert_int_eq(count_with(kernel, 1, true, 0), 12);
  ck_assert_int_eq(count_with(kernel, 16, true, 0), 12);
  ck_assert_int_eq(count_with(kernel, 17, false, 0), 6);
  ck_assert_int_eq(count_with(kernel, INT32_MAX, false, 0), (INT64_C(1) << 27) * 3);
}
END_TEST

START_TEST(no_tasks)
{
  const struct tile_kernel *kernel =
      kernel_with("  %n: index = scalar => long(n)\n"
                  "  %huge: index = scalar => 4611686018427387904L\n",
                  "%i, %j, %k", "%huge, %huge, %n");
  ck_assert_int_eq(count_with(kernel, 0, false, 0), 0);
  ck_assert_int_eq(count_with(kernel, -5, false, 0), 0);
  ck_assert_int_eq(count_with(kernel, 1, false, 0), -1); /* and that one does overflow */
}
END_TEST

START_TEST(floats_are_those_of_kernels)
{
  const struct tile_kernel *kernel =
      kernel_with("  %n: index = scalar => long(floor(scale * 3.0))\n", "%i", "%n");
  ck_assert_int_eq(count_with(kernel, 0, false, 2.5), 7);
  /* 1/3 in f64 times 3 is 1 as well in f32; a third less an ulp of f64 is the same f32. */
  ck_assert_int_eq(count_with(kernel, 0, false, 1.0 / 3.0 - 1e-16), 1);
}
END_TEST

START_TEST(integers_wrap_as_in_kernels)
{
  const struct tile_kernel *kernel =
      kernel_with("  %n: index = scalar => long(n * n)\n", "%i", "%n");
  ck_assert_int_eq(count_with(kernel, 65537, false, 0), 131073);
}
END_TEST

START_TEST(not_to_be_had_from_slots)
{
  const struct tile_kernel *element =
      kernel_with("  %n: index = scalar %zero => long(x[int($0), 0])\n", "%i", "%n");
  ck_assert_int_eq(count_with(element, 4, false, 0), -1);
  const struct tile_kernel *sum =
      kernel_with("  %n: index = scalar => long(sum(@0 < n, @0))\n", "%i", "%n");
  ck_assert_int_eq(count_with(sum, 4, false, 0), -1);
  /* A doubling chain has few nodes and 2^40 paths: given up, not walked. */
  char chain[8192];
  size_t length = (size_t)snprintf(chain, sizeof(chain), "  %%n: index = scalar => long(n)\n");
  const char *before = "n";
  char name[16];
  for (int k = 0; k < 40; k++) {
    length +=
        (size_t)snprintf(chain + length, sizeof(chain) - length,
                         "  %%d%d: index = scalar %%%s => ($0 // 3L) + ($0 // 5L)\n", k, before);
    snprintf(name, sizeof(name), "d%d", k);
    before = name;
  }
  ck_assert_int_eq(count_with(kernel_with(chain, "%i", "%d39"), 4, false, 0), -1);
}
END_TEST

START_TEST(only_what_an_extent_needs)
{
  const struct tile_kernel *kernel =
      kernel_with("  %m: index = scalar %zero => long(x[int($0), 0])\n"
                  "  %n: index = scalar => select(wide, 5L, long(x[0, 0]))\n",
                  "%i", "%n");
  ck_assert_int_eq(count_with(kernel, 0, true, 0), 5);
  ck_assert_int_eq(count_with(kernel, 0, false, 0), -1);
}
END_TEST

int main(void)
{
  Suite *suite = suite_create("tasks");
  TCase *tasks = tcase_create("tasks");
  tcase_add_checked_fixture(tasks, setup, teardown);
  tcase_add_test(tasks, products_of_extents);
  tcase_add_test(tasks, no_tasks);
  tcase_add_test(tasks, floats_are_those_of_kernels);
  tcase_add_test(tasks, integers_wrap_as_in_kernels);
  tcase_add_test(tasks, not_to_be_had_from_slots);
  tcase_add_test(tasks, only_what_an_extent_needs);
  suite_add_tcase(suite, tasks);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}
