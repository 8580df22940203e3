#define _GNU_SOURCE /* pthread_attr_setaffinity_np */
#include "runtime/threads.h"

#include "dsl/base/memory.h"
#include "runtime/openmp.h"
#include "runtime/processors.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct job {
  thread_task *run;
  void *user;
  int64_t tasks;
  atomic_int_fast64_t next;
};

struct worker {
  struct thread_pool *pool;
  pthread_t thread;
  unsigned number; /* from 1; 0 is the caller */
};

struct thread_pool {
  unsigned count;
  struct openmp openmp;
  cpu_set_t affinity; /* of the thread that made the pool, where it has one */
  bool has_affinity;
  pthread_mutex_t turn;  /* held by the caller whose job runs */
  pthread_mutex_t state; /* guards what follows */
  pthread_cond_t work;   /* a job was opened, or the pool ends */
  pthread_cond_t done;   /* the last worker left the job */
  struct job *job;       /* open to workers, or NULL */
  uint64_t job_number;
  unsigned inside; /* workers inside the job */
  bool ending;
  bool started_all; /* or as many as the system allowed; under `turn` */
  unsigned started;
  struct worker workers[];
};

static void run_tasks(struct job *job, unsigned worker)
{
  for (;;) {
    int64_t task = atomic_fetch_add_explicit(&job->next, 1, memory_order_relaxed);
    if (task >= job->tasks)
      return;
    job->run(job->user, task, worker);
  }
}

static void *work(void *argument)
{
  struct worker *self = argument;
  struct thread_pool *pool = self->pool;
  uint64_t seen = 0;
  pthread_mutex_lock(&pool->state);
  for (;;) {
    while (!pool->ending && (pool->job == NULL || pool->job_number == seen))
      pthread_cond_wait(&pool->work, &pool->state);
    if (pool->ending)
      break;
    struct job *job = pool->job;
    seen = pool->job_number;
    pool->inside++;
    pthread_mutex_unlock(&pool->state);
    run_tasks(job, self->number);
    pthread_mutex_lock(&pool->state);
    if (--pool->inside == 0)
      pthread_cond_signal(&pool->done);
  }
  pthread_mutex_unlock(&pool->state);
  return NULL;
}

struct thread_pool *thread_pool_new(unsigned count)
{
  struct thread_pool *pool =
      mem_alloc_zeroed(1, sizeof(*pool) + (count - 1) * sizeof(pool->workers[0]));
  if (pool == NULL)
    return NULL;
  pool->count = count;
  openmp_find(&pool->openmp);
  pool->has_affinity = sched_getaffinity(0, sizeof(pool->affinity), &pool->affinity) == 0;
  pthread_mutex_init(&pool->turn, NULL);
  pthread_mutex_init(&pool->state, NULL);
  pthread_cond_init(&pool->work, NULL);
  pthread_cond_init(&pool->done, NULL);
  return pool;
}

void thread_pool_free(struct thread_pool *pool)
{
  if (pool == NULL)
    return;
  pthread_mutex_lock(&pool->state);
  pool->ending = true;
  pthread_cond_broadcast(&pool->work);
  pthread_mutex_unlock(&pool->state);
  for (unsigned n = 0; n < pool->started; n++)
    pthread_join(pool->workers[n].thread, NULL);
  pthread_cond_destroy(&pool->done);
  pthread_cond_destroy(&pool->work);
  pthread_mutex_destroy(&pool->state);
  pthread_mutex_destroy(&pool->turn);
  openmp_release(&pool->openmp);
  mem_free(pool);
}

unsigned thread_pool_count(const struct thread_pool *pool)
{
  return pool->count;
}

static void start_workers(struct thread_pool *pool)
{
  pool->started_all = true;
  /* Signals stay with the host program's own threads. */
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  /* The caller may be bound to one processor, which its workers would inherit. */
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  if (pool->has_affinity)
    pthread_attr_setaffinity_np(&attributes, sizeof(pool->affinity), &pool->affinity);
  for (unsigned n = 0; n + 1 < pool->count; n++) {
    struct worker *worker = &pool->workers[n];
    *worker = (struct worker){.pool = pool, .number = n + 1};
    if (pthread_create(&worker->thread, &attributes, work, worker) != 0)
      break;
    pool->started++;
  }
  pthread_attr_destroy(&attributes);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void thread_pool_run(struct thread_pool *pool, int64_t tasks, thread_task *run, void *user)
{
  if (tasks <= 1 || pool->count == 1 || openmp_in_parallel(&pool->openmp)) {
    for (int64_t task = 0; task < tasks; task++)
      run(user, task, 0);
    return;
  }
  struct job job = {.run = run, .user = user, .tasks = tasks};
  pthread_mutex_lock(&pool->turn);
  if (!pool->started_all)
    start_workers(pool);

  pthread_mutex_lock(&pool->state);
  pool->job = &job;
  pool->job_number++;
  if (tasks > (int64_t)pool->started) {
    pthread_cond_broadcast(&pool->work);
  } else {
    for (int64_t n = 1; n < tasks; n++)
      pthread_cond_signal(&pool->work);
  }
  pthread_mutex_unlock(&pool->state);

  run_tasks(&job, 0);

  /* Workers that have not woken by now find the job closed; only those inside are waited for. */
  pthread_mutex_lock(&pool->state);
  pool->job = NULL;
  while (pool->inside != 0)
    pthread_cond_wait(&pool->done, &pool->state);
  pthread_mutex_unlock(&pool->state);
  pthread_mutex_unlock(&pool->turn);
}

bool thread_count_choose(unsigned requested, const char *environment, unsigned *count, char *error,
                         size_t error_size)
{
  if (requested > THREADS_MAX) {
    snprintf(error, error_size, "%u threads are asked for; the most is %d", requested, THREADS_MAX);
    return false;
  }
  if (requested != 0) {
    *count = requested;
    return true;
  }
  if (environment == NULL || environment[0] == '\0') {
    const unsigned available = processors_available();
    *count = available < THREADS_MAX ? available : THREADS_MAX;
    return true;
  }
  char *end;
  errno = 0;
  unsigned long value = strtoul(environment, &end, 10);
  bool digits = environment[strspn(environment, "0123456789")] == '\0';
  if (errno != 0 || !digits || *end != '\0' || value < 1 || value > THREADS_MAX) {
    snprintf(error, error_size, "ATTN_NUM_THREADS is '%.40s'; it must be a number from 1 to %d",
             environment, THREADS_MAX);
    return false;
  }
  *count = (unsigned)value;
  return true;
}
