/* What is computed does not depend on how many threads take part, on how many launches run at once,
 * nor on whether the caller is in a parallel region of OpenMP.
 */
#include "attn/cache.h"
#include "runtime/attnc/random.h"
#include "runtime/threads.h"

#include <check.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HEADS = 4, GROUPS = 2, DIM = 16 };
enum { SEQUENCES = 3, LONGEST = 200, PREFIX = 48, PAGE = 16, PAGES = 64 };

/* ---- programs ---- */

static const char ragged_text[] =
    "attention ragged {\n  heads q = 4, kv = 2\n  dim 16\n  type f32\n"
    "  mask causal\n  output lse, mass\n  cache ragged\n}\n";
static const char paged_text[] = "attention paged {\n  heads q = 4, kv = 2\n  dim 16\n  type f32\n"
                                 "  position rope\n  mask causal\n  output lse\n"
                                 "  cache paged(page = 16), k = int8, v = f32\n}\n";

struct programs {
  attn_context *context;
  attn_program *ragged, *paged;
};

static attn_program *compile(attn_context *context, const char *text)
{
  char error[512] = "";
  attn_program *program = NULL;
  attn_compile_options options = ATTN_COMPILE_OPTIONS_INIT;
  options.error = error;
  options.error_size = sizeof(error);
  options.decode_part = 16; /* many parts */
  ck_assert_msg(attn_compile(context, text, strlen(text), "t.attn", &options, &program) == ATTN_OK,
                "%s", error);
  return program;
}

static struct programs programs_open(unsigned threads)
{
  struct programs made;
  attn_context_options options = ATTN_CONTEXT_OPTIONS_INIT;
  options.threads = threads;
  ck_assert_int_eq(attn_context_create(&options, &made.context), ATTN_OK);
  made.ragged = compile(made.context, ragged_text);
  made.paged = compile(made.context, paged_text);
  return made;
}

static void programs_close(struct programs *p)
{
  attn_program_free(p->ragged);
  attn_program_free(p->paged);
  attn_context_free(p->context);
}

/* ---- launches; statuses are summed, since only the main thread may assert ---- */

struct results {
  float ragged[LONGEST + 77 + 3][HEADS][DIM], lse[HEADS * (LONGEST + 77 + 3)];
  float mass[HEADS * (LONGEST + 77 + 3)];
  float split[SEQUENCES][HEADS][DIM], shared[SEQUENCES][HEADS][DIM], chunk[LONGEST][HEADS][DIM];
  float split_lse[2][SEQUENCES * HEADS], chunk_lse[LONGEST * HEADS];
};

static DLTensor tensor(void *data, int rank, int64_t *shape)
{
  return (DLTensor){.data = data,
                    .device = {kDLCPU, 0},
                    .ndim = rank,
                    .dtype = {kDLFloat, 32, 1},
                    .shape = shape};
}

static float *drawn(uint64_t key, size_t count)
{
  float *data = malloc(count * sizeof(float));
  for (size_t n = 0; data != NULL && n < count; n++)
    data[n] = (float)((double)(random_bits(key, n) >> 11) * 0x1p-52 - 1);
  return data;
}

/* forward and mass of three sequences, of which the last is the longest. */
static int run_ragged(const struct programs *p, struct results *r)
{
  int64_t total = LONGEST + 77 + 3, starts[] = {0, 77, 80, total};
  int64_t q_shape[] = {total, HEADS, DIM}, k_shape[] = {total, GROUPS, DIM};
  int64_t row_shape[] = {total, HEADS}, starts_shape[] = {4};
  float *q = drawn(1, (size_t)total * HEADS * DIM), *k = drawn(2, (size_t)total * GROUPS * DIM);
  DLTensor tq = tensor(q, 3, q_shape), tk = tensor(k, 3, k_shape),
           to = tensor(r->ragged, 3, q_shape);
  DLTensor lse = tensor(r->lse, 2, row_shape), mass = tensor(r->mass, 2, row_shape);
  DLTensor ts = tensor(starts, 1, starts_shape);
  ts.dtype = (DLDataType){kDLInt, 64, 1};
  const attn_named_tensor outputs[] = {{"lse", &lse}, {"mass", &mass}};
  attn_arguments launch = ATTN_ARGUMENTS_INIT;
  launch.q = &tq, launch.k = launch.v = &tk, launch.o = &to;
  launch.query_starts = launch.key_starts = &ts;
  launch.outputs = outputs, launch.output_count = 2;
  const int wrong = attn_launch(p->ragged, &launch) != ATTN_OK;
  free(q);
  free(k);
  return wrong;
}

/* `rows` new tokens of one sequence. */
static int append(const struct programs *p, attn_cache *cache, attn_sequence sequence, uint64_t key,
                  uint32_t rows)
{
  int64_t shape[] = {1, GROUPS, rows, DIM};
  float *k = drawn(key, (size_t)rows * GROUPS * DIM), *v = drawn(~key, (size_t)rows * GROUPS * DIM);
  DLTensor tk = tensor(k, 4, shape), tv = tensor(v, 4, shape);
  attn_arguments launch = ATTN_ARGUMENTS_INIT;
  attn_cache_batch *batch;
  launch.k = &tk, launch.v = &tv;
  int wrong = attn_cache_begin(cache, &sequence, &rows, 1, &batch) != ATTN_OK;
  if (wrong == 0) {
    wrong += attn_cache_tensors(batch, 0, &launch.cache, &launch.cache_count) != ATTN_OK;
    wrong += attn_append(p->paged, &launch) != ATTN_OK;
    wrong += attn_cache_end(batch) != ATTN_OK;
  }
  free(k);
  free(v);
  return wrong;
}

static int attend(const struct programs *p, attn_cache *cache, const attn_sequence *sequences,
                  int64_t count, int64_t rows, bool shares, void *o, void *lse)
{
  int64_t shape[] = {count, HEADS, rows, DIM};
  float *q = drawn(7, (size_t)(count * HEADS * rows * DIM));
  DLTensor tq = tensor(q, 4, shape), to = tensor(o, 4, shape), tl = tensor(lse, 3, shape);
  const attn_named_tensor output = {"lse", &tl};
  attn_arguments launch = ATTN_ARGUMENTS_INIT;
  attn_cache_batch *batch;
  launch.q = &tq, launch.o = &to;
  launch.outputs = &output, launch.output_count = 1;
  int wrong = attn_cache_begin(cache, sequences, NULL, (size_t)count, &batch) != ATTN_OK;
  if (wrong == 0) {
    wrong += attn_cache_tensors(batch, 0, &launch.cache, &launch.cache_count) != ATTN_OK;
    launch.shared_prefix = shares ? attn_cache_shared_prefix(batch) : 0;
    wrong += shares && launch.shared_prefix != PREFIX;
    wrong += attn_launch(p->paged, &launch) != ATTN_OK;
    wrong += attn_cache_end(batch) != ATTN_OK;
  }
  free(q);
  return wrong;
}

/* append, split decode, its merge, the cascade of a shared prefix, and a chunk of a prefill. */
static int run_paged(const struct programs *p, struct results *r)
{
  attn_cache_options options = ATTN_CACHE_OPTIONS_INIT;
  attn_cache *cache;
  attn_sequence parent, forks[SEQUENCES];
  options.sequences = SEQUENCES + 1;
  options.tokens = PAGES * PAGE;
  if (attn_cache_create(p->paged, &options, &cache) != ATTN_OK)
    return 1;
  int wrong = attn_cache_add(cache, &parent) != ATTN_OK;
  wrong += append(p, cache, parent, 11, PREFIX);
  for (uint32_t n = 0; n < SEQUENCES; n++) {
    wrong += attn_cache_fork(cache, parent, &forks[n]) != ATTN_OK;
    wrong += append(p, cache, forks[n], 12 + n, n == 1 ? LONGEST : 9 * n + 5);
  }
  wrong += attend(p, cache, forks, SEQUENCES, 1, false, r->split, r->split_lse[0]);
  wrong += attend(p, cache, forks, SEQUENCES, 1, true, r->shared, r->split_lse[1]);
  wrong += attend(p, cache, &forks[1], 1, LONGEST, false, r->chunk, r->chunk_lse);
  attn_cache_free(cache);
  return wrong;
}

static int run_all(const struct programs *p, struct results *r)
{
  memset(r, 0, sizeof(*r));
  return run_ragged(p, r) + run_paged(p, r);
}

/* ---- the tests ---- */

static struct results wanted, found;

static void setup(void)
{
  struct programs alone = programs_open(1);
  ck_assert_int_eq(run_all(&alone, &wanted), 0);
  ck_assert(wanted.ragged[0][0][0] != 0 && wanted.shared[0][0][0] != 0 && wanted.mass[0] != 0);
  programs_close(&alone);
}

START_TEST(bits_do_not_depend_on_the_number)
{
  static const unsigned threads[] = {2, 3, 7};
  struct programs p = programs_open(threads[_i]);
  for (int round = 0; round < 5; round++) {
    ck_assert_int_eq(run_all(&p, &found), 0);
    ck_assert_int_eq(memcmp(&found, &wanted, sizeof(wanted)), 0);
  }
  programs_close(&p);
}
END_TEST

static int launch_rounds(const struct programs *p)
{
  struct results *own = malloc(sizeof(*own));
  int wrong = own == NULL;
  for (int round = 0; own != NULL && round < 5; round++)
    wrong += run_all(p, own) != 0 || memcmp(own, &wanted, sizeof(wanted)) != 0;
  free(own);
  return wrong;
}

static void *launch_in_thread(void *user)
{
  const intptr_t wrong = launch_rounds(user);
  return (void *)wrong;
}

START_TEST(nor_on_launches_at_the_same_time)
{
  struct programs p = programs_open(_i == 0 ? 1 : 3);
  pthread_t callers[4];
  for (size_t n = 0; n < 4; n++)
    ck_assert_int_eq(pthread_create(&callers[n], NULL, launch_in_thread, &p), 0);
  for (size_t n = 0; n < 4; n++) {
    void *wrong;
    pthread_join(callers[n], &wrong);
    ck_assert_ptr_null(wrong);
  }
  programs_close(&p);
}
END_TEST

#ifdef _OPENMP
static void note_stranger(void *user, int64_t task, unsigned worker)
{
  (void)task;
  atomic_int *strangers = ((void **)user)[1];
  if (worker != 0 || !pthread_equal(pthread_self(), *(pthread_t *)((void **)user)[0]))
    atomic_fetch_add(strangers, 1);
}

/* The siblings have the processors: every caller runs its own tasks, all at once. */
START_TEST(parallel_regions_keep_to_themselves)
{
  struct programs p = programs_open(3);
  struct thread_pool *pool = thread_pool_new(4);
  atomic_int strangers = 0;
  int wrong = 0, threads = 0;
#pragma omp parallel num_threads(3) reduction(+ : wrong, threads)
  {
    pthread_t self = pthread_self();
    void *user[] = {&self, &strangers};
    for (int round = 0; round < 50; round++)
      thread_pool_run(pool, 40, note_stranger, user);
    wrong += launch_rounds(&p);
    threads++;
  }
  ck_assert_int_eq(threads, 3);
  ck_assert_int_eq(atomic_load(&strangers), 0);
  ck_assert_int_eq(wrong, 0);
  thread_pool_free(pool);
  programs_close(&p);
}
END_TEST
#endif

int main(void)
{
  Suite *suite = suite_create("threads");
  TCase *tests = tcase_create("launches");
  tcase_add_unchecked_fixture(tests, setup, NULL);
  tcase_add_loop_test(tests, bits_do_not_depend_on_the_number, 0, 3);
  tcase_add_loop_test(tests, nor_on_launches_at_the_same_time, 0, 2);
#ifdef _OPENMP
  tcase_add_test(tests, parallel_regions_keep_to_themselves);
#endif
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_set_fork_status(runner, CK_NOFORK); /* threads of a parent are not its children's */
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
