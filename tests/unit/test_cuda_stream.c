/* What a launch leaves behind in a stream: workspace, graphs, faults, several streams and threads.
 */
#include "tests/unit/cuda_trial.h"

#include <pthread.h>

/* Functions of the driver that the runtime has no use for. */
struct stream_calls {
  cuda_result (*create)(struct cuda_stream **, unsigned);
  cuda_result (*destroy)(struct cuda_stream *);
  cuda_result (*begin)(struct cuda_stream *, int);
  cuda_result (*end)(struct cuda_stream *, void **);
  cuda_result (*instantiate)(void **, void *, unsigned long long);
  cuda_result (*launch)(void *, struct cuda_stream *);
  cuda_result (*destroy_exec)(void *);
  cuda_result (*destroy_graph)(void *);
};

static struct stream_calls stream_calls(void)
{
  struct stream_calls calls;
  WORLD_FIND(calls.create, "cuStreamCreate");
  WORLD_FIND(calls.destroy, "cuStreamDestroy_v2");
  WORLD_FIND(calls.begin, "cuStreamBeginCapture_v2");
  WORLD_FIND(calls.end, "cuStreamEndCapture");
  WORLD_FIND(calls.instantiate, "cuGraphInstantiateWithFlags");
  WORLD_FIND(calls.launch, "cuGraphLaunch");
  WORLD_FIND(calls.destroy_exec, "cuGraphExecDestroy");
  WORLD_FIND(calls.destroy_graph, "cuGraphDestroy");
  return calls;
}

enum { NON_BLOCKING = 1, RELAXED = 2 };

static struct cuda_stream *new_stream(const struct stream_calls *calls, attn_context *context)
{
  struct cuda_stream *stream;
  const struct error_sink sink = {NULL, NULL, 0};
  ck_assert_int_eq(cuda_enter(context->device, &sink), ATTN_OK);
  ck_assert_int_eq(calls->create(&stream, NON_BLOCKING), CUDA_OK);
  cuda_leave();
  return stream;
}

static void end_stream(const struct stream_calls *calls, attn_context *context,
                       struct cuda_stream *stream)
{
  const struct error_sink sink = {NULL, NULL, 0};
  ck_assert_int_eq(attn_sync(context, stream), ATTN_OK);
  ck_assert_int_eq(cuda_enter(context->device, &sink), ATTN_OK);
  ck_assert_int_eq(calls->destroy(stream), CUDA_OK);
  cuda_leave();
}

static size_t free_memory(attn_context *context)
{
  const struct error_sink sink = {NULL, NULL, 0};
  size_t free_bytes = 0, total;
  ck_assert_int_eq(cuda_enter(context->device, &sink), ATTN_OK);
  ck_assert_int_eq(cuda.memory_info(&free_bytes, &total), CUDA_OK);
  cuda_leave();
  return free_bytes;
}

/* q whose last stride is not 1, so that the launch needs a copy. */
static void transpose_q(struct problem *p, int64_t strides[4])
{
  strides[0] = HEADS * DIM * p->queries;
  strides[1] = DIM * p->queries;
  strides[2] = 1;
  strides[3] = p->queries;
  p->tensors[0].strides = strides;
}

/* ---- workspace ---- */

START_TEST(workspace_of_the_context)
{
  attn_context *context = device_context(0);
  attn_program *program = compile(context, full);
  struct problem p;
  int64_t strides[4];
  problem_on_device(&p, context, 1, 3, 4);
  enqueue(program, &p);
  const size_t before = free_memory(context);
  uint64_t allocations = mem_allocation_count();
  enqueue(program, &p);
  ck_assert_uint_eq(free_memory(context), before); /* there is nothing to allocate */
  ck_assert_uint_eq(mem_allocation_count(), allocations);
  transpose_q(&p, strides);
  enqueue(program, &p);
  const size_t after = free_memory(context);
  ck_assert_uint_lt(after, before);
  allocations = mem_allocation_count();
  for (int n = 0; n < 3; n++)
    enqueue(program, &p);
  ck_assert_uint_eq(free_memory(context), after); /* it is kept */
  ck_assert_uint_eq(mem_allocation_count(), allocations);
  attn_context_trim(context);
  ck_assert_uint_gt(free_memory(context), after);
  enqueue(program, &p); /* and comes again */
  ck_assert_int_eq(attn_sync(context, NULL), ATTN_OK);
  problem_leave(&p, context);
  attn_program_free(program);
  attn_context_free(context);
}
END_TEST

START_TEST(workspace_of_the_caller)
{
  attn_context *context = device_context(0);
  attn_program *program = compile(context, full);
  struct problem p;
  int64_t strides[4];
  size_t bytes = 1;
  problem_on_device(&p, context, 1, 3, 4);
  ck_assert_int_eq(attn_workspace_size(program, &p.arguments, &bytes), ATTN_OK);
  ck_assert_uint_eq(bytes, 0);
  transpose_q(&p, strides);
  ck_assert_int_eq(attn_workspace_size(program, &p.arguments, &bytes), ATTN_OK);
  ck_assert_uint_ge(bytes, HEADS * 3 * DIM * sizeof(float));

  unsigned char *memory;
  ck_assert_int_eq(attn_memory_allocate(context, bytes + 256, (void **)&memory), ATTN_OK);
  const size_t before = free_memory(context);
  p.arguments.workspace = memory;
  p.arguments.workspace_size = bytes;
  enqueue(program, &p);
  ck_assert_uint_eq(free_memory(context), before);
  ck_assert_int_eq(attn_sync(context, NULL), ATTN_OK);

  p.arguments.workspace_size = bytes - 1;
  ck_assert_int_eq(attn_launch(program, &p.arguments), ATTN_ERROR_ARGUMENT);
  char text[200];
  snprintf(text, sizeof(text),
           "the workspace has %zu bytes, and this launch needs %zu (attn_workspace_size)",
           bytes - 1, bytes);
  ck_assert_str_eq(message, text);
  p.arguments.workspace = memory + 16;
  p.arguments.workspace_size = bytes;
  ck_assert_int_eq(attn_launch(program, &p.arguments), ATTN_ERROR_ARGUMENT);
  ck_assert_str_eq(message, "the workspace is not aligned to 256 bytes");
  p.arguments.workspace = aligned_alloc(256, 4096);
  p.arguments.workspace_size = 4096;
  ck_assert_int_eq(attn_launch(program, &p.arguments), ATTN_ERROR_ARGUMENT);
  ck_assert_str_eq(message, "the workspace is not in the memory of cuda:0");
  free(p.arguments.workspace);
  p.arguments.q = NULL;
  ck_assert_int_eq(attn_workspace_size(program, &p.arguments, &bytes), ATTN_ERROR_ARGUMENT);
  ck_assert_uint_eq(bytes, 0);
  ck_assert_int_eq(attn_workspace_size(program, &p.arguments, NULL), ATTN_ERROR_ARGUMENT);
  attn_memory_free(context, memory);
  problem_leave(&p, context);
  attn_program_free(program);
  attn_context_free(context);
}
END_TEST

START_TEST(no_memory_for_the_workspace)
{
  attn_context *context = device_context(0);
  attn_program *program = compile(context, full);
  struct problem p;
  int64_t strides[4];
  problem_on_device(&p, context, 1, 3, 4);
  transpose_q(&p, strides);
  enqueue(program, &p);
  attn_context_trim(context);
  inject("cuMemAlloc", 1, CUDA_OUT_OF_MEMORY);
  ck_assert_int_eq(attn_launch(program, &p.arguments), ATTN_ERROR_OUT_OF_MEMORY);
  ASSERT_SAYS("bytes for the workspace of a launch: the device is out of memory (");
  enqueue(program, &p);
  ck_assert_int_eq(attn_sync(context, NULL), ATTN_OK);
  problem_leave(&p, context);
  attn_program_free(program);
  attn_context_free(context);
}
END_TEST

/* ---- graphs ---- */

START_TEST(launches_in_a_graph)
{
  const struct stream_calls calls = stream_calls();
  attn_context *context = device_context(0);
  attn_program *program = compile(context, full);
  struct cuda_stream *stream = new_stream(&calls, context);
  struct problem p;
  int64_t strides[4];
  size_t bytes;
  problem_on_device(&p, context, 1, 3, 3);
  /* Equal elements along q's rows, so that it is the same read either way. */
  for (size_t n = 0; n < problem_bytes(&p, 0) / sizeof(float); n++)
    p.data[0][n] = p.data[0][n / (3 * DIM) * (3 * DIM)];
  transpose_q(&p, strides);
  p.arguments.stream = stream;
  ck_assert_int_eq(attn_workspace_size(program, &p.arguments, &bytes), ATTN_OK);
  ck_assert_int_eq(attn_memory_allocate(context, bytes, &p.arguments.workspace), ATTN_OK);
  p.arguments.workspace_size = bytes;

  const struct error_sink sink = {NULL, NULL, 0};
  ck_assert_int_eq(cuda_enter(context->device, &sink), ATTN_OK);
  ck_assert_int_eq(calls.begin(stream, RELAXED), CUDA_OK);
  enqueue(program, &p);
  void *graph, *exec, *workspace = p.arguments.workspace;
  p.arguments.workspace = NULL;
  ck_assert_int_eq(attn_launch(program, &p.arguments), ATTN_ERROR_ARGUMENT);
  ASSERT_SAYS("a launch that is captured into a graph needs a workspace of yours, of ");
  ck_assert_int_eq(calls.end(stream, &graph), CUDA_OK);
  ck_assert_int_eq(calls.instantiate(&exec, graph, 0), CUDA_OK);
  cuda_leave();

  for (int round = 0; round < 2; round++) { /* with other values of q each time */
    for (size_t n = 0; n < problem_bytes(&p, 0) / sizeof(float); n++)
      p.data[0][n] *= 1.5f;
    ck_assert_int_eq(
        attn_memory_upload(context, p.tensors[0].data, p.data[0], problem_bytes(&p, 0), stream),
        ATTN_OK);
    ck_assert_int_eq(cuda_enter(context->device, &sink), ATTN_OK);
    ck_assert_int_eq(calls.launch(exec, stream), CUDA_OK);
    cuda_leave();
    ck_assert_int_eq(attn_sync(context, stream), ATTN_OK);
    problem_download(&p, context);
    ck_assert(problem_error(&p) <= 2e-5);
  }
  ck_assert_int_eq(cuda_enter(context->device, &sink), ATTN_OK);
  calls.destroy_exec(exec);
  calls.destroy_graph(graph);
  cuda_leave();
  end_stream(&calls, context, stream);
  attn_memory_free(context, workspace);
  problem_leave(&p, context);
  attn_program_free(program);
  attn_context_free(context);
}
END_TEST

/* The starts of a captured launch are copied from memory that is there when the graph runs. */
START_TEST(starts_in_a_graph)
{
  static const char text[] = "attention t {\n  heads q = 4, kv = 2\n  dim qk = 8, v = 6\n"
                             "  type f32\n  cache ragged\n}\n";
  static const int64_t starts[] = {0, 3, 10};
  const struct stream_calls calls = stream_calls();
  attn_context *context = device_context(0), *host = context_with(1);
  attn_program *program = compile(context, text), *on_host = compile(host, text);
  struct cuda_stream *stream = new_stream(&calls, context);
  struct trial t = {
      .text = text,
      .tensors = {{.name = "q", .type = trial_f32, .rank = 3, .shape = {10, HEADS, DIM}},
                  {.name = "k", .type = trial_f32, .rank = 3, .shape = {10, GROUPS, DIM}},
                  {.name = "v", .type = trial_f32, .rank = 3, .shape = {10, GROUPS, VALUES}},
                  {.name = "o",
                   .type = trial_f32,
                   .rank = 3,
                   .shape = {10, HEADS, VALUES},
                   .written = true},
                  {.name = "query_starts",
                   .type = trial_i64,
                   .rank = 1,
                   .shape = {3},
                   .values = starts,
                   .stays_on_host = true}}};
  trial_init(&t);
  trial_to_device(&t, context);
  t.arguments.stream = stream;
  size_t bytes;
  ck_assert_int_eq(attn_workspace_size(program, &t.arguments, &bytes), ATTN_OK);
  ck_assert_int_eq(attn_memory_allocate(context, bytes, &t.arguments.workspace), ATTN_OK);
  t.arguments.workspace_size = bytes;
  const struct error_sink sink = {NULL, NULL, 0};
  ck_assert_int_eq(cuda_enter(context->device, &sink), ATTN_OK);
  ck_assert_int_eq(calls.begin(stream, RELAXED), CUDA_OK);
  ck_assert_msg(attn_launch(program, &t.arguments) == ATTN_OK, "%s", message);
  void *graph, *exec;
  t.views[4].device = (DLDevice){kDLCUDA, 0};
  t.views[4].data = t.views[0].data; /* any device memory */
  ck_assert_int_eq(attn_launch(program, &t.arguments), ATTN_ERROR_ARGUMENT);
  ASSERT_SAYS("query_starts is in device memory, and the host has to read it before the launch, "
              "which a stream that is capturing does not allow");
  t.views[4].device = (DLDevice){kDLCPU, 0};
  t.views[4].data = t.memory[4];
  ck_assert_int_eq(calls.end(stream, &graph), CUDA_OK);
  ck_assert_int_eq(calls.instantiate(&exec, graph, 0), CUDA_OK);
  memset(t.memory[4], 0xff, t.bytes[4]); /* the caller's may change after the call */
  struct trial again = t;                /* and launches go on meanwhile */
  again.arguments.workspace = NULL;
  memcpy(t.memory[4], (int64_t[]){0, 1, 10}, t.bytes[4]);
  again.arguments.stream = NULL;
  ck_assert_msg(attn_launch(program, &again.arguments) == ATTN_OK, "%s", message);
  ck_assert_int_eq(attn_sync(context, NULL), ATTN_OK);
  memset(t.memory[4], 0xff, t.bytes[4]);
  ck_assert_int_eq(calls.launch(exec, stream), CUDA_OK);
  ck_assert_int_eq(attn_sync(context, stream), ATTN_OK);
  calls.destroy_exec(exec);
  calls.destroy_graph(graph);
  cuda_leave();

  memcpy(t.memory[4], starts, t.bytes[4]);
  struct trial on_cpu = t;
  for (size_t n = 0; n < trial_count(&t); n++) {
    on_cpu.views[n].data = t.memory[n];
    on_cpu.views[n].device = (DLDevice){kDLCPU, 0};
  }
  trial_bind(&on_cpu);
  ck_assert_msg(attn_launch(on_host, &on_cpu.arguments) == ATTN_OK, "%s", message);
  trial_compare(&t, context, 1e-4);
  attn_memory_free(context, t.arguments.workspace);
  trial_leave_device(&t, context);
  trial_free(&t);
  end_stream(&calls, context, stream);
  attn_program_free(program);
  attn_program_free(on_host);
  attn_context_free(context);
  attn_context_free(host);
}
END_TEST

/* The host would have to wait for the input. */
START_TEST(angles_of_inputs_in_a_graph)
{
  static const char text[] = "attention t {\n  heads q = 4, kv = 2\n  dim qk = 8, v = 6\n"
                             "  type f32\n  align start\n  input base : f32[1]\n"
                             "  position rope(base = 100 + base[0])\n}\n";
  const struct stream_calls calls = stream_calls();
  attn_context *context = device_context(0);
  attn_program *program = compile(context, text);
  struct cuda_stream *stream = new_stream(&calls, context);
  struct problem p;
  problem_on_device(&p, context, 1, 3, 4);
  int64_t one = 1;
  DLTensor base = p.tensors[4];
  base.ndim = 1;
  base.shape = &one;
  const attn_named_tensor input = {"base", &base};
  p.arguments.output_count = 0;
  p.arguments.inputs = &input;
  p.arguments.input_count = 1;
  p.arguments.stream = stream;
  p.arguments.error = message;
  p.arguments.error_size = sizeof(message);
  ck_assert_int_eq(attn_workspace_size(program, &p.arguments, &p.arguments.workspace_size),
                   ATTN_OK);
  ck_assert_int_eq(
      attn_memory_allocate(context, p.arguments.workspace_size, &p.arguments.workspace), ATTN_OK);
  const struct error_sink sink = {NULL, NULL, 0};
  void *graph;
  ck_assert_int_eq(cuda_enter(context->device, &sink), ATTN_OK);
  ck_assert_int_eq(calls.begin(stream, RELAXED), CUDA_OK);
  ck_assert_int_eq(attn_launch(program, &p.arguments), ATTN_ERROR_ARGUMENT);
  ASSERT_SAYS("an input that a rotary angle reads is in device memory");
  ck_assert_int_eq(calls.end(stream, &graph), CUDA_OK);
  calls.destroy_graph(graph);
  cuda_leave();
  end_stream(&calls, context, stream);
  attn_memory_free(context, p.arguments.workspace);
  problem_leave(&p, context);
  attn_program_free(program);
  attn_context_free(context);
}
END_TEST

/* ---- faults ---- */

static struct trial faulty_trial(const int64_t *table)
{
  return (struct trial){
      .text = faulty,
      .tensors = {
          {.name = "q", .type = trial_f32, .rank = 4, .shape = {1, 1, 2, 4}},
          {.name = "k", .type = trial_f32, .rank = 4, .shape = {1, 1, 3, 4}},
          {.name = "v", .type = trial_f32, .rank = 4, .shape = {1, 1, 3, 4}},
          {.name = "o", .type = trial_f32, .rank = 4, .shape = {1, 1, 2, 4}, .written = true},
          {.name = "table", .type = trial_i32, .rank = 1, .shape = {3}, .values = table}}};
}

START_TEST(faults)
{
  static const int64_t bad[] = {0, 40, 1}, good[] = {0, 2, 1};
  static const char text[] = "an earlier launch of 'looked_up': input 'table': index 40 is out of "
                             "range for dimension 0 of size 3 (t.attn:6:";
  attn_context *context = device_context(0);
  attn_program *program = compile(context, faulty);
  struct trial wrong = faulty_trial(bad), right = faulty_trial(good);
  trial_init(&wrong);
  trial_init(&right);
  trial_to_device(&wrong, context);
  trial_to_device(&right, context);

  ck_assert_int_eq(attn_launch(program, &right.arguments), ATTN_OK);
  ck_assert_int_eq(attn_sync(context, NULL), ATTN_OK);
  for (int n = 0; n < 3; n++)
    ck_assert_int_eq(attn_launch(program, &wrong.arguments), ATTN_OK);
  ck_assert_int_eq(attn_sync(context, NULL), ATTN_ERROR_FAULT);
  error_of(context);
  ASSERT_SAYS(text);
  ck_assert_int_eq(attn_sync(context, NULL), ATTN_OK); /* once for all */

  /* The next launch tells as well, when the copy of the record has come. */
  ck_assert_int_eq(attn_launch(program, &wrong.arguments), ATTN_OK);
  const struct error_sink sink = {NULL, NULL, 0};
  ck_assert_int_eq(cuda_enter(context->device, &sink), ATTN_OK);
  ck_assert_int_eq(cuda.synchronize(), CUDA_OK);
  cuda_leave();
  ck_assert_int_eq(attn_launch(program, &right.arguments), ATTN_ERROR_FAULT);
  ASSERT_SAYS(text);
  for (int n = 0; n < 70; n++) /* twice around the ring */
    ck_assert_int_eq(attn_launch(program, &right.arguments), ATTN_OK);
  ck_assert_int_eq(attn_sync(context, NULL), ATTN_OK);

  trial_leave_device(&wrong, context);
  trial_leave_device(&right, context);
  trial_free(&wrong);
  trial_free(&right);
  attn_program_free(program);
  attn_context_free(context);
}
END_TEST

/* ---- streams and threads ---- */

struct worker {
  attn_context *context;
  attn_program *program;
  struct problem problem;
  int64_t strides[4];
  struct cuda_stream *stream;
  attn_status status;
  double error;
};

static void *work(void *user)
{
  struct worker *w = user;
  char text[512];
  w->problem.arguments.stream = w->stream;
  w->problem.arguments.error = text;
  w->problem.arguments.error_size = sizeof(text);
  for (int n = 0; n < 4 && w->status == ATTN_OK; n++)
    w->status = attn_launch(w->program, &w->problem.arguments);
  if (w->status == ATTN_OK)
    w->status = attn_sync(w->context, w->stream);
  return NULL;
}

/* Two threads share each stream, and so its workspace. */
START_TEST(streams_of_threads)
{
  enum { WORKERS = 4 };
  const struct stream_calls calls = stream_calls();
  attn_context *context = device_context(0);
  attn_program *program = compile(context, full);
  struct cuda_stream *streams[2] = {new_stream(&calls, context), CUDA_STREAM_PER_THREAD};
  struct worker workers[WORKERS];
  pthread_t threads[WORKERS];
  for (int n = 0; n < WORKERS; n++) {
    struct worker *w = &workers[n];
    *w = (struct worker){.context = context, .program = program, .stream = streams[n % 2]};
    problem_on_device(&w->problem, context, 1, 3 + n, 4);
    /* k in memory as its transpose: written so that its elements are what they were */
    const int64_t keys = 4, strides[] = {GROUPS * keys * DIM, keys * DIM, 1, keys};
    float turned[GROUPS * 4 * DIM];
    for (int64_t m = 0; m < GROUPS * keys * DIM; m++)
      turned[m / (keys * DIM) * (keys * DIM) + m % DIM * keys + m / DIM % keys] =
          w->problem.data[1][m];
    memcpy(w->strides, strides, sizeof(strides));
    w->problem.tensors[1].strides = w->strides;
    ck_assert_int_eq(
        attn_memory_upload(context, w->problem.tensors[1].data, turned, sizeof(turned), NULL),
        ATTN_OK);
  }
  enqueue(program, &workers[0].problem); /* compiles the copies */
  for (int n = 0; n < WORKERS; n++)
    ck_assert_int_eq(pthread_create(&threads[n], NULL, work, &workers[n]), 0);
  for (int n = 0; n < WORKERS; n++) {
    pthread_join(threads[n], NULL);
    ck_assert_int_eq(workers[n].status, ATTN_OK);
  }
  for (int n = 0; n < WORKERS; n++) {
    problem_download(&workers[n].problem, context);
    ck_assert(problem_error(&workers[n].problem) <= 2e-5);
    problem_leave(&workers[n].problem, context);
  }
  end_stream(&calls, context, streams[0]);
  attn_program_free(program);
  attn_context_free(context);
}
END_TEST

int main(void)
{
  if (!world_has_driver()) {
    puts("there is no stand-in device: ATTN_STAND_IN is not set");
    return SKIPPED;
  }
  Suite *suite = suite_create("cuda_stream");
  TCase *streams = tcase_create("streams");
  tcase_add_test(streams, workspace_of_the_context);
  tcase_add_test(streams, workspace_of_the_caller);
  if (getenv("ATTN_TEST_GPU") == NULL)
    tcase_add_test(streams, no_memory_for_the_workspace);
  tcase_add_test(streams, launches_in_a_graph);
  tcase_add_test(streams, starts_in_a_graph);
  tcase_add_test(streams, angles_of_inputs_in_a_graph);
  tcase_add_test(streams, faults);
  tcase_add_test(streams, streams_of_threads);
  suite_add_tcase(suite, streams);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}
