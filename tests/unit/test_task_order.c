/* The order of tasks: every task once, long sequences first, late rows first. */
#include "runtime/task_order.h"

#include <check.h>
#include <stdlib.h>

static int64_t starts[] = {0, 3, 3, 90, 100};
static struct spec spec;

/* A launch of a ragged batch of 4 sequences with 3, 0, 87 and 10 rows, and as many keys. */
static void ragged(struct unit *unit, struct launch_plan *plan)
{
  spec.cache.layout = CACHE_RAGGED;
  *unit = (struct unit){.spec = &spec};
  plan->unit = unit;
  plan->call.batch = 4;
  for (int n = 0; n < 2; n++)
    plan->call.starts[n] = (struct bound_tensor){
        .data = (unsigned char *)starts, .type = DTYPE_I64, .sizes = {5}, .strides = {1}};
}

static void expect_all(const struct task_order *order, int64_t tasks)
{
  int *runs = calloc((size_t)tasks, sizeof(*runs));
  ck_assert_ptr_nonnull(runs);
  for (int64_t n = 0; n < tasks; n++) {
    const int64_t task = task_order_at(order, tasks, n);
    ck_assert(task >= 0 && task < tasks);
    runs[task]++;
  }
  for (int64_t n = 0; n < tasks; n++)
    ck_assert_int_eq(runs[n], 1);
  free(runs);
}

START_TEST(from_the_last)
{
  const struct task_order order = {0, NULL};
  expect_all(&order, 7);
  ck_assert_int_eq(task_order_at(&order, 7, 0), 6);
  ck_assert_int_eq(task_order_at(&order, 7, 6), 0);
}
END_TEST

START_TEST(long_sequences_first)
{
  static struct unit unit;
  static struct launch_plan plan;
  struct task_sequence room[4];
  struct task_order order;
  ragged(&unit, &plan);
  ck_assert_int_eq(task_order_room(&plan), 4);
  task_order_sort(&plan, room, &order);
  static const int64_t wanted[] = {11, 10, 9, 8, 15, 14, 13, 12, 3, 2, 1, 0, 7, 6, 5, 4};
  for (int64_t n = 0; n < 16; n++)
    ck_assert_int_eq(task_order_at(&order, 16, n), wanted[n]);
  expect_all(&order, 400);
  expect_all(&order, 401); /* of a kernel that does not count by sequence */
}
END_TEST

START_TEST(equal_sequences_are_not_sorted)
{
  static struct unit unit;
  static struct launch_plan plan;
  ragged(&unit, &plan);
  plan.call.batch = 1;
  ck_assert_int_eq(task_order_room(&plan), 0);
  plan.call.batch = 4;
  spec.cache.layout = CACHE_DENSE;
  ck_assert_int_eq(task_order_room(&plan), 0);
}
END_TEST

int main(void)
{
  Suite *suite = suite_create("task_order");
  TCase *tests = tcase_create("task_order");
  tcase_add_test(tests, from_the_last);
  tcase_add_test(tests, long_sequences_first);
  tcase_add_test(tests, equal_sequences_are_not_sorted);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
