/* The thread pool: every task once, one thread a worker number, jobs of several callers, and the
 * processors that threads are for. */
#define _GNU_SOURCE /* sched_setaffinity */
#include "runtime/threads.h"

#include "dsl/base/memory.h"
#include "runtime/processors.h"

#include <check.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

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

/* ---- processors ---- */

static cpu_set_t only_the_first(const cpu_set_t *of)
{
  cpu_set_t one;
  CPU_ZERO(&one);
  for (size_t n = 0; n < CPU_SETSIZE && CPU_COUNT(&one) == 0; n++) {
    if (CPU_ISSET(n, of))
      CPU_SET(n, &one);
  }
  return one;
}

struct masks {
  cpu_set_t wanted;
  atomic_int tasks_of_workers, wrong;
};

/* Waits until a worker had its turn, too. */
static void compare_mask(void *user, int64_t task, unsigned worker)
{
  struct masks *masks = user;
  cpu_set_t own;
  (void)task;
  if (worker != 0) {
    if (sched_getaffinity(0, sizeof(own), &own) != 0 || !CPU_EQUAL(&own, &masks->wanted))
      atomic_fetch_add(&masks->wrong, 1);
    atomic_fetch_add(&masks->tasks_of_workers, 1);
  }
  for (int n = 0; n < 1000 && atomic_load(&masks->tasks_of_workers) == 0; n++)
    usleep(1000);
}

/* A caller that is bound to one processor does not bind the workers, too. */
START_TEST(affinity_is_that_of_the_creator)
{
  struct masks masks = {.wrong = 0};
  char text[160];
  unsigned count;
  ck_assert_int_eq(sched_getaffinity(0, sizeof(masks.wanted), &masks.wanted), 0);
  struct thread_pool *pool = thread_pool_new(3);
  const cpu_set_t one = only_the_first(&masks.wanted);
  ck_assert_int_eq(sched_setaffinity(0, sizeof(one), &one), 0);
  ck_assert(thread_count_choose(0, NULL, &count, text, sizeof(text)));
  ck_assert_uint_eq(count, 1);
  thread_pool_run(pool, 8, compare_mask, &masks);
  ck_assert_int_gt(atomic_load(&masks.tasks_of_workers), 0);
  ck_assert_int_eq(atomic_load(&masks.wrong), 0);
  thread_pool_free(pool);
  ck_assert_int_eq(sched_setaffinity(0, sizeof(masks.wanted), &masks.wanted), 0);
}
END_TEST

static char folder[] = "/tmp/attn-groups-XXXXXX";

static void write_file(const char *name, const char *text)
{
  char path[256];
  snprintf(path, sizeof(path), "%s/%s", folder, name);
  for (char *slash = path + sizeof(folder); (slash = strchr(slash, '/')) != NULL; slash++) {
    *slash = '\0';
    ck_assert(mkdir(path, 0700) == 0 || access(path, F_OK) == 0);
    *slash = '/';
  }
  FILE *file = fopen(path, "w");
  ck_assert_ptr_nonnull(file);
  fputs(text, file);
  fclose(file);
}

static unsigned granted(const char *groups)
{
  char path[256];
  write_file("groups", groups);
  snprintf(path, sizeof(path), "%s/groups", folder);
  return processors_granted(path, folder);
}

START_TEST(control_groups_limit_processors)
{
  ck_assert_ptr_nonnull(mkdtemp(folder));
  ck_assert_uint_eq(processors_granted("/nowhere/at/all", folder), UINT_MAX);
  write_file("a/cpu.max", "max 100000\n");
  write_file("a/b/cpu.max", "250000 100000\n");
  write_file("a/b/c/cpu.max", "800000 100000\n");
  write_file("a/one/cpu.max", "1000 100000\n");
  write_file("a/odd/cpu.max", "many\n");
  ck_assert_uint_eq(granted("0::/a\n"), UINT_MAX);
  ck_assert_uint_eq(granted("0::/a/b\n"), 3);   /* 2.5 of them */
  ck_assert_uint_eq(granted("0::/a/b/c\n"), 3); /* it lies in b */
  ck_assert_uint_eq(granted("0::/a/one\n"), 1);
  ck_assert_uint_eq(granted("0::/a/odd\n"), UINT_MAX);
  ck_assert_uint_eq(granted("no list\n"), UINT_MAX);
  write_file("cpu.max", "400000 100000\n"); /* as a container sees its own group */
  ck_assert_uint_eq(granted("0::/somewhere/else\n"), 4);
  ck_assert_uint_eq(granted("0::/\n"), 4);

  write_file("cpu/x/cpu.cfs_quota_us", "150000\n");
  write_file("cpu/x/cpu.cfs_period_us", "50000\n");
  write_file("cpu/free/cpu.cfs_quota_us", "-1\n");
  write_file("cpu/free/cpu.cfs_period_us", "50000\n");
  ck_assert_uint_eq(granted("5:memory:/x\n3:cpuacct,cpu:/x\n"), 3);
  ck_assert_uint_eq(granted("3:cpuset:/x\n2:cpu:/free\n"), UINT_MAX);
  ck_assert_uint_eq(granted("2:cpu:/x\n0::/a/one\n"), 1);
}
END_TEST

static void remove_folder(void)
{
  char command[64];
  if (folder[sizeof(folder) - 2] == 'X')
    return;
  snprintf(command, sizeof(command), "rm -r %s", folder);
  ck_assert_int_eq(system(command), 0);
}

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
  tcase_add_checked_fixture(tests, NULL, remove_folder);
  tcase_add_test(tests, affinity_is_that_of_the_creator);
  tcase_add_test(tests, control_groups_limit_processors);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
