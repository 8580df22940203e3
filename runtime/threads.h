/* The threads of a context.
 *
 * A pool of `count` threads means that at most `count` compute at once in a job: count - 1 workers
 * and the caller, which takes part. Tasks are handed out one at a time through a counter, so that
 * which thread runs a task varies and nothing that a task writes may depend on it.
 *
 * Any number of threads may call thread_pool_run on one pool: their jobs run one after the other,
 * so that together they never use more than `count` threads. Jobs of one task, all jobs of a pool
 * of one, and jobs of a caller in a parallel region of OpenMP, whose siblings have the processors,
 * run in the caller at once and do not wait. For OpenMP runtimes that are loaded before the pool is
 * made.
 */
#ifndef ATTN_RUNTIME_THREADS_H
#define ATTN_RUNTIME_THREADS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { THREADS_MAX = 1024 };

/* `worker` is below thread_pool_count, and no two threads of a job have the same. */
typedef void thread_task(void *user, int64_t task, unsigned worker);

struct thread_pool;

/* NULL when out of memory. 1 <= count <= THREADS_MAX. Workers start with the first job that needs
 * them and may run where the calling thread may run now; should the system refuse some, jobs run on
 * those that started. */
struct thread_pool *thread_pool_new(unsigned count);
/* No job may be running. NULL is fine. */
void thread_pool_free(struct thread_pool *pool);
unsigned thread_pool_count(const struct thread_pool *pool);

/* Runs tasks 0 .. tasks - 1 and returns when all are done. Everything that they wrote is then
 * visible to the caller. A task must not start a job on the same pool. */
void thread_pool_run(struct thread_pool *pool, int64_t tasks, thread_task *run, void *user);

/* How many threads a context gets: `requested` when it is not 0, else the environment's
 * ATTN_NUM_THREADS, else processors_available(). False, with a text
 * in `error`, when one of them is no number from 1 to THREADS_MAX. */
bool thread_count_choose(unsigned requested, const char *environment, unsigned *count, char *error,
                         size_t error_size);

#endif
