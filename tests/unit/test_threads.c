/* The thread pool: every task once, one thread a worker number, jobs of several callers. */
#include "runtime/threads.h"

#include "dsl/base/memory.h"

#include <check.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TASKS = 2000 };

struct record {
  atomic_int runs[TASKS];
  atomic_int inside[THREADS_MAX]; /* tasks that a worker number runs at the moment */
  atomic_int clashes;
  unsigned count;
  int64_t plain[TASKS]; /* written without atomics: seen by the caller when the job has ended */
};

static void note(void *user, int64_t task, unsigned worker)
{
  struct record *record = user;
  if (worker >= record->count || atomic_fetch_add(&record->inside[worker], 1) != 0)
    atomic_fetch_add(&record->clashes, 1);
  atomic_fetch_add(&record->runs[task], 1);
  record->plain[task] = task * task;
  atomic_fetch_sub(&record->inside[worker], 1);
}

static void run_and_check(struct thread_pool *pool, int64_t tasks)
{
  struct record *record = calloc(1, sizeof(*record));
  ck_assert_ptr_nonnull(record);
  record->count = thread_pool_count(pool);
  thread_pool_run(pool, tasks, note, record);
  int wrong = 0;
  for (int64_t n = 0; n < TASKS; n++)
    wrong +=
        atomic_load(&record->runs[n]) != (n < tasks) || record->plain[n] != (n < tasks ? n * n : 0);
  ck_assert_int_eq(wrong, 0);
  ck_assert_int_eq(atomic_load(&record->clashes), 0);
  free(record);
}

START_TEST(every_task_runs_once)
{
  static const unsigned counts[] = {1, 2, 3, 8};
  static const int64_t tasks[] = {0, 1, 2, 3, 7, 8, 9, 100, TASKS};
  for (size_t c = 0; c < sizeof(counts) / sizeof(counts[0]); c++) {
    struct thread_pool *pool = thread_pool_new(counts[c]);
    ck_assert_ptr_nonnull(pool);
    ck_assert_uint_eq(thread_pool_count(pool), counts[c]);
    for (size_t t = 0; t < sizeof(tasks) / sizeof(tasks[0]); t++)
      run_and_check(pool, tasks[t]);
    thread_pool_free(pool);
  }
}
END_TEST

START_TEST(many_short_jobs)
{
  struct thread_pool *pool = thread_pool_new(4);
  for (int n = 0; n < 300; n++)
    run_and_check(pool, n % 9);
  thread_pool_free(pool);
}
END_TEST

START_TEST(pools_that_never_ran_can_be_freed)
{
  int64_t live = mem_live_count();
  thread_pool_free(thread_pool_new(16));
  thread_pool_free(NULL);
  ck_assert_int_eq(mem_live_count(), live);
  mem_fail_at(1);
  ck_assert_ptr_null(thread_pool_new(4));
  mem_fail_at(0);
}
END_TEST

static void *launch_repeatedly(void *pool)
{
  for (int n = 0; n < 20; n++)
    run_and_check(pool, 1 + n * 7);
  return NULL;
}

START_TEST(several_callers_share_a_pool)
{
  struct thread_pool *pool = thread_pool_new(3);
  pthread_t callers[4];
  for (size_t n = 0; n < 4; n++)
    ck_assert_int_eq(pthread_create(&callers[n], NULL, launch_repeatedly, pool), 0);
  for (size_t n = 0; n < 4; n++)
    pthread_join(callers[n], NULL);
  thread_pool_free(pool);
}
END_TEST

struct gauge {
  atomic_int now, most;
};

static void measure(void *user, int64_t task, unsigned worker)
{
  (void)task;
  (void)worker;
  struct gauge *gauge = user;
  int now = atomic_fetch_add(&gauge->now, 1) + 1;
  int most = atomic_load(&gauge->most);
  while (now > most && !atomic_compare_exchange_weak(&gauge->most, &most, now)) {
  }
  for (volatile int n = 0; n < 2000; n++) {
  }
  atomic_fetch_sub(&gauge->now, 1);
}

struct shared {
  struct thread_pool *pool;
  struct gauge gauge;
};

static void *load_pool(void *user)
{
  struct shared *shared = user;
  for (int n = 0; n < 10; n++)
    thread_pool_run(shared->pool, 50, measure, &shared->gauge);
  return NULL;
}

/* Callers take turns, so that together they use no more threads than the pool has. */
START_TEST(no_more_threads_than_asked_for)
{
  struct shared shared = {.pool = thread_pool_new(2)};
  pthread_t callers[5];
  for (size_t n = 0; n < 5; n++)
    ck_assert_int_eq(pthread_create(&callers[n], NULL, load_pool, &shared), 0);
  for (size_t n = 0; n < 5; n++)
    pthread_join(callers[n], NULL);
  ck_assert_int_le(atomic_load(&shared.gauge.most), 2);
  thread_pool_free(shared.pool);
}
END_TEST

START_TEST(the_number_of_threads)
{
  char text[160] = "";
  unsigned count = 0;
  ck_assert(thread_count_choose(7, "3", &count, text, sizeof(text)));
  ck_assert_uint_eq(count, 7);
  ck_assert(thread_count_choose(0, "3", &count, text, sizeof(text)));
  ck_assert_uint_eq(count, 3);
  ck_assert(thread_count_choose(0, NULL, &count, text, sizeof(text)));
  ck_assert_uint_ge(count, 1);
  ck_assert(thread_count_choose(0, "", &count, text, sizeof(text)));
  ck_assert_uint_ge(count, 1);
  ck_assert(thread_count_choose(0, "1024", &count, text, sizeof(text)));
  ck_assert_uint_eq(count, 1024);
  ck_assert(!thread_count_choose(THREADS_MAX + 1, NULL, &count, text, sizeof(text)));
  ck_assert_str_eq(text, "1025 threads are asked for; the most is 1024");

  static const char *const wrong[] = {
      "0", "-1", "+2", " 2", "2 ", "two", "1.5", "1025", "99999999999999999999", "0x4"};
  for (size_t n = 0; n < sizeof(wrong) / sizeof(wrong[0]); n++) {
    char expected[160];
    snprintf(expected, sizeof(expected),
             "ATTN_NUM_THREADS is '%s'; it must be a number from 1 to 1024", wrong[n]);
    ck_assert(!thread_count_choose(0, wrong[n], &count, text, sizeof(text)));
    ck_assert_str_eq(text, expected);
  }
}
END_TEST

int main(void)
{
  Suite *suite = suite_create("threads");
  TCase *tests = tcase_create("threads");
  tcase_add_test(tests, every_task_runs_once);
  tcase_add_test(tests, many_short_jobs);
  tcase_add_test(tests, pools_that_never_ran_can_be_freed);
  tcase_add_test(tests, several_callers_share_a_pool);
  tcase_add_test(tests, no_more_threads_than_asked_for);
  tcase_add_test(tests, the_number_of_threads);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
