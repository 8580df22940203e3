/* One program, launched with many sizes and from many threads: nothing is compiled twice.
 *
 *     cc many_sizes.c $(pkg-config --cflags --libs attn) -lpthread
 *     ./a.out SPEC.attn
 *
 * The spec may have parameters with defaults, but no inputs and outputs of its own.
 */
#include <attn/attn.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

enum { THREADS = 3, LAUNCHES = 20 };

struct worker {
  pthread_t thread;
  attn_program *program;
  int number;
  attn_status status;
  char error[256]; /* of this worker's own launches; the context keeps the last error of all */
};

static DLTensor tensor(float *data, int64_t *shape)
{
  DLTensor t = {0};
  t.data = data;
  t.device.device_type = kDLCPU;
  t.ndim = 4;
  t.dtype.code = kDLFloat;
  t.dtype.bits = 32;
  t.dtype.lanes = 1;
  t.shape = shape;
  return t;
}

/* One launch of `queries` new positions after `keys - queries` cached ones. */
static attn_status launch(struct worker *worker, int64_t queries, int64_t keys)
{
  const attn_program_info *info = attn_program_describe(worker->program);
  int64_t q_shape[4] = {1, info->query_heads, queries, info->dim_qk};
  int64_t k_shape[4] = {1, info->kv_heads, keys, info->dim_qk};
  int64_t v_shape[4] = {1, info->kv_heads, keys, info->dim_v};
  int64_t o_shape[4] = {1, info->query_heads, queries, info->dim_v};
  size_t q_count = (size_t)(q_shape[1] * queries * q_shape[3]);
  size_t k_count = (size_t)(k_shape[1] * keys * k_shape[3]);
  size_t v_count = (size_t)(v_shape[1] * keys * v_shape[3]);
  size_t o_count = (size_t)(o_shape[1] * queries * o_shape[3]);
  float *data = calloc(q_count + k_count + v_count + o_count, sizeof(float));
  if (data == NULL)
    return ATTN_ERROR_OUT_OF_MEMORY;
  DLTensor q = tensor(data, q_shape);
  DLTensor k = tensor(data + q_count, k_shape);
  DLTensor v = tensor(data + q_count + k_count, v_shape);
  DLTensor o = tensor(data + q_count + k_count + v_count, o_shape);

  attn_arguments arguments = ATTN_ARGUMENTS_INIT;
  arguments.q = &q;
  arguments.k = &k;
  arguments.v = info->value_is_key ? NULL : &v;
  arguments.o = &o;
  arguments.error = worker->error;
  arguments.error_size = sizeof(worker->error);
  attn_status status = attn_launch(worker->program, &arguments);
  free(data);
  return status;
}

static void *work(void *user)
{
  struct worker *worker = user;
  for (int n = 1; n <= LAUNCHES && worker->status == ATTN_OK; n++)
    worker->status = launch(worker, n, 7 * n + worker->number);
  return NULL;
}

int main(int count, char **words)
{
  if (count != 2) {
    fprintf(stderr, "usage: %s SPEC.attn\n", words[0]);
    return 2;
  }
  attn_context *context;
  attn_program *program;
  char error[4096] = "";
  attn_compile_options options = ATTN_COMPILE_OPTIONS_INIT;
  options.error = error;
  options.error_size = sizeof(error);
  if (attn_context_create(NULL, &context) != ATTN_OK) {
    fputs("cannot create a context\n", stderr);
    return 3;
  }
  if (attn_compile_file(context, words[1], &options, &program) != ATTN_OK) {
    fprintf(stderr, "%s\n", error);
    attn_context_free(context);
    return 1;
  }

  struct worker workers[THREADS];
  int started = 0, failed = 0;
  for (; started < THREADS; started++) {
    workers[started] = (struct worker){.program = program, .number = started, .status = ATTN_OK};
    if (pthread_create(&workers[started].thread, NULL, work, &workers[started]) != 0)
      break;
  }
  for (int n = 0; n < started; n++) {
    pthread_join(workers[n].thread, NULL);
    if (workers[n].status != ATTN_OK) {
      fprintf(stderr, "%s: %s\n", attn_status_text(workers[n].status), workers[n].error);
      failed = 1;
    }
  }
  attn_statistics statistics = attn_context_statistics(context);
  printf("%llu launches, %llu compilations\n", (unsigned long long)statistics.launches,
         (unsigned long long)statistics.compilations);
  attn_program_free(program);
  attn_context_free(context);
  return failed;
}
