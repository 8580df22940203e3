/* The stand-in driver: the order of work in streams, events, graphs. */
#include "tests/device/driver_test.h"

#include <stdint.h>

static CUstream make_stream(unsigned flags)
{
  CUstream stream = NULL;
  OK(cu.cuStreamCreate(&stream, flags));
  return stream;
}

static CUevent make_event(unsigned flags)
{
  CUevent event = NULL;
  OK(cu.cuEventCreate(&event, flags));
  return event;
}

static unsigned word_at(CUdeviceptr address)
{
  unsigned word = 0;
  OK(cu.cuMemcpyDtoH_v2(&word, address, 4));
  return word;
}

static void set(CUdeviceptr address, unsigned word, CUstream stream)
{
  OK(cu.cuMemsetD32Async(address, word, 1, stream));
}

/* ---- streams ---- */

START_TEST(work_waits_for_a_wait)
{
  unsigned in = 5, out = 0;
  start();
  CUstream stream = make_stream(0);
  const CUdeviceptr address = allocate(4);
  OK(cu.cuMemcpyHtoDAsync_v2(address, &in, 4, stream));
  OK(cu.cuMemcpyDtoHAsync_v2(&out, address, 4, stream));
  ck_assert_uint_eq(out, 0); /* nobody has waited */
  in = 6;                    /* too early: the copy still reads it */
  OK(cu.cuStreamSynchronize(stream));
  ck_assert_uint_eq(out, 6);
  OK(cu.cuMemFree_v2(address));
  OK(cu.cuStreamDestroy_v2(stream));
  finish();
}
END_TEST

START_TEST(a_query_waits_for_nothing)
{
  unsigned out = 0;
  start();
  CUstream stream = make_stream(0);
  CUevent event = make_event(0);
  const CUdeviceptr address = allocate(4);
  OK(cu.cuStreamQuery(stream));
  OK(cu.cuEventQuery(event)); /* never recorded */
  set(address, 3, stream);
  OK(cu.cuEventRecord(event, stream));
  OK(cu.cuMemcpyDtoHAsync_v2(&out, address, 4, stream));
  FAILS(cu.cuEventQuery(event), NOT_READY);
  FAILS(cu.cuStreamQuery(stream), NOT_READY);
  ck_assert_uint_eq(out, 0);
  int queries = 0;
  while (cu.cuStreamQuery(stream) == CUDA_ERROR_NOT_READY) /* but comes to an end */
    ck_assert_int_lt(++queries, 10);
  OK(cu.cuStreamQuery(stream));
  OK(cu.cuEventQuery(event));
  ck_assert_uint_eq(out, 3);
  set(address, 4, NULL);
  FAILS(cu.cuStreamQuery(NULL), NOT_READY);
  OK(cu.cuStreamQuery(NULL));
  OK(cu.cuMemFree_v2(address));
  OK(cu.cuEventDestroy_v2(event));
  OK(cu.cuStreamDestroy_v2(stream));
  finish();
}
END_TEST

START_TEST(streams_do_not_wait_for_each_other)
{
  unsigned first = 0, second = 0;
  start();
  CUstream a = make_stream(0), b = make_stream(CU_STREAM_NON_BLOCKING);
  const CUdeviceptr address = allocate(8);
  set(address, 1, a);
  OK(cu.cuMemcpyDtoHAsync_v2(&first, address, 4, a));
  set(address + 4, 2, b);
  OK(cu.cuMemcpyDtoHAsync_v2(&second, address + 4, 4, b));
  OK(cu.cuStreamSynchronize(b));
  ck_assert_uint_eq(second, 2);
  ck_assert_uint_eq(first, 0);
  OK(cu.cuCtxSynchronize());
  ck_assert_uint_eq(first, 1);
  OK(cu.cuMemFree_v2(address));
  OK(cu.cuStreamDestroy_v2(a));
  OK(cu.cuStreamDestroy_v2(b));
  finish();
}
END_TEST

START_TEST(the_legacy_stream_waits_for_blocking_ones)
{
  start();
  CUstream blocking = make_stream(0), other = make_stream(CU_STREAM_NON_BLOCKING);
  const CUdeviceptr address = allocate(4);
  set(address, 1, blocking);
  ck_assert_uint_eq(word_at(address), 1); /* a copy in the legacy stream */
  set(address, 2, other);
  ck_assert_uint_eq(word_at(address), 1);
  OK(cu.cuStreamSynchronize(other));
  ck_assert_uint_eq(word_at(address), 2);
  /* And they for it. */
  unsigned out = 0;
  set(address, 3, CU_STREAM_LEGACY);
  OK(cu.cuMemcpyDtoHAsync_v2(&out, address, 4, blocking));
  OK(cu.cuStreamSynchronize(blocking));
  ck_assert_uint_eq(out, 3);
  set(address, 4, CU_STREAM_LEGACY);
  OK(cu.cuMemcpyDtoHAsync_v2(&out, address, 4, other));
  OK(cu.cuStreamSynchronize(other));
  ck_assert_uint_eq(out, 3);
  set(address, 5, CU_STREAM_PER_THREAD);
  ck_assert_uint_eq(word_at(address), 5);
  set(address, 6, blocking);
  OK(cu.cuStreamSynchronize(NULL));
  OK(cu.cuStreamQuery(blocking));
  /* An event in the legacy stream comes after all that. */
  CUevent event = make_event(0);
  set(address, 7, blocking);
  OK(cu.cuEventRecord(event, NULL));
  OK(cu.cuEventSynchronize(event));
  OK(cu.cuMemcpyDtoHAsync_v2(&out, address, 4, other));
  OK(cu.cuStreamSynchronize(other));
  ck_assert_uint_eq(out, 7);
  OK(cu.cuEventDestroy_v2(event));
  OK(cu.cuMemFree_v2(address));
  OK(cu.cuStreamDestroy_v2(blocking));
  OK(cu.cuStreamDestroy_v2(other));
  finish();
}
END_TEST

START_TEST(a_destroyed_stream_does_its_work)
{
  unsigned out = 0;
  start();
  CUstream stream = make_stream(0);
  const CUdeviceptr address = allocate(4);
  set(address, 1, stream);
  OK(cu.cuMemcpyDtoHAsync_v2(&out, address, 4, stream));
  OK(cu.cuStreamDestroy_v2(stream));
  ck_assert_uint_eq(out, 0);
  FAILS(cu.cuStreamSynchronize(stream), INVALID_HANDLE);
  FAILS(cu.cuStreamDestroy_v2(stream), INVALID_HANDLE);
  FAILS(cu.cuMemsetD8Async(address, 1, 1, stream), INVALID_HANDLE);
  FAILS(cu.cuStreamSynchronize((CUstream)context0), INVALID_HANDLE);
  ck_assert_uint_eq(word_at(address), 1);
  ck_assert_uint_eq(out, 1);
  FAILS(cu.cuStreamCreate(&stream, 2), INVALID_VALUE);
  OK(cu.cuMemFree_v2(address));
  finish();
}
END_TEST

START_TEST(a_long_queue_is_worked_off)
{
  start();
  CUstream stream = make_stream(CU_STREAM_NON_BLOCKING);
  const CUdeviceptr address = allocate(4);
  for (unsigned i = 0; i < 3000; i++)
    set(address, i, stream);
  ck_assert_uint_eq(word_at(address), 3000 - 1024 - 1);
  OK(cu.cuStreamSynchronize(stream));
  ck_assert_uint_eq(word_at(address), 2999);
  OK(cu.cuMemFree_v2(address));
  OK(cu.cuStreamDestroy_v2(stream));
  finish();
}
END_TEST

/* ---- events ---- */

START_TEST(a_stream_waits_for_an_event)
{
  unsigned out = 0;
  start();
  CUstream a = make_stream(CU_STREAM_NON_BLOCKING), b = make_stream(CU_STREAM_NON_BLOCKING);
  CUevent event = make_event(CU_EVENT_DISABLE_TIMING);
  const CUdeviceptr address = allocate(4);
  OK(cu.cuStreamWaitEvent(b, event, 0)); /* never recorded: nothing to wait for */
  set(address, 1, a);
  OK(cu.cuEventRecord(event, a));
  OK(cu.cuStreamWaitEvent(b, event, 0));
  set(address, 2, a);
  OK(cu.cuEventRecord(event, a)); /* the wait above is for the first record */
  OK(cu.cuMemcpyDtoHAsync_v2(&out, address, 4, b));
  OK(cu.cuStreamSynchronize(b));
  ck_assert_uint_eq(out, 1);
  OK(cu.cuEventSynchronize(event));
  ck_assert_uint_eq(word_at(address), 2);
  /* The work of a destroyed event and stream is still waited for. */
  set(address, 3, a);
  OK(cu.cuEventRecord(event, a));
  OK(cu.cuStreamWaitEvent(b, event, 0));
  OK(cu.cuEventDestroy_v2(event));
  OK(cu.cuStreamDestroy_v2(a));
  OK(cu.cuMemcpyDtoHAsync_v2(&out, address, 4, b));
  OK(cu.cuStreamSynchronize(b));
  ck_assert_uint_eq(out, 3);
  OK(cu.cuMemFree_v2(address));
  OK(cu.cuStreamDestroy_v2(b));
  finish();
}
END_TEST

START_TEST(events_take_times)
{
  float time = -1;
  start();
  CUstream stream = make_stream(0);
  CUevent first = make_event(0), last = make_event(CU_EVENT_BLOCKING_SYNC);
  CUevent untimed = make_event(CU_EVENT_DISABLE_TIMING);
  FAILS(cu.cuEventElapsedTime(&time, first, last), INVALID_HANDLE);
  OK(cu.cuEventRecord(first, stream));
  OK(cu.cuEventRecord(last, stream));
  OK(cu.cuEventRecord(untimed, stream));
  FAILS(cu.cuEventElapsedTime(&time, first, last), NOT_READY);
  OK(cu.cuEventSynchronize(last));
  OK(cu.cuEventElapsedTime(&time, first, last));
  ck_assert(time >= 0 && time < 1000);
  FAILS(cu.cuEventElapsedTime(&time, first, untimed), INVALID_HANDLE);
  FAILS(cu.cuEventCreate(&untimed, CU_EVENT_INTERPROCESS), INVALID_VALUE);
  OK(cu.cuEventDestroy_v2(first));
  OK(cu.cuEventDestroy_v2(last));
  OK(cu.cuEventDestroy_v2(untimed));
  FAILS(cu.cuEventDestroy_v2(untimed), INVALID_HANDLE);
  FAILS(cu.cuEventRecord(untimed, stream), INVALID_HANDLE);
  OK(cu.cuStreamDestroy_v2(stream));
  finish();
}
END_TEST

START_TEST(contexts_meet_at_events)
{
  CUcontext context1, of_stream;
  start();
  CUevent event = make_event(0);
  CUstream stream0 = make_stream(0);
  const CUdeviceptr on0 = allocate(4);
  OK(cu.cuDevicePrimaryCtxRetain(&context1, 1));
  OK(cu.cuCtxPushCurrent_v2(context1));
  CUstream stream1 = make_stream(0);
  OK(cu.cuStreamGetCtx(stream1, &of_stream));
  ck_assert_ptr_eq(of_stream, context1);
  const CUdeviceptr on1 = allocate(4);
  FAILS(cu.cuEventRecord(event, stream1), INVALID_HANDLE);
  set(on0, 8, stream0);
  OK(cu.cuEventRecord(event, stream0));
  OK(cu.cuStreamWaitEvent(stream1, event, 0));
  OK(cu.cuMemcpyDtoDAsync_v2(on1, on0, 4, stream1));
  ck_assert_uint_eq(word_at(on1), 8);
  OK(cu.cuMemFree_v2(on1));
  OK(cu.cuStreamDestroy_v2(stream1));
  OK(cu.cuCtxPopCurrent_v2(NULL));
  OK(cu.cuDevicePrimaryCtxRelease_v2(1));
  OK(cu.cuMemFree_v2(on0));
  OK(cu.cuStreamDestroy_v2(stream0));
  OK(cu.cuEventDestroy_v2(event));
  finish();
}
END_TEST

/* ---- graphs ---- */

static CUgraph end_capture(CUstream stream)
{
  CUgraph graph = NULL;
  OK(cu.cuStreamEndCapture(stream, &graph));
  return graph;
}

static CUgraphExec instantiate(CUgraph graph)
{
  CUgraphExec exec = NULL;
  OK(cu.cuGraphInstantiateWithFlags(&exec, graph, 0));
  OK(cu.cuGraphDestroy(graph));
  return exec;
}

START_TEST(a_captured_launch_runs_when_the_graph_does)
{
  int status = -1;
  start();
  CUmodule module = load_module();
  CUfunction increment = get_function(module, "increment");
  CUstream stream = make_stream(CU_STREAM_NON_BLOCKING);
  CUdeviceptr address = allocate(128), other = 0;
  void *parameters[] = {&address};
  OK(cu.cuMemsetD8Async(address, 0, 128, stream));
  OK(cu.cuStreamIsCapturing(stream, &status));
  ck_assert_int_eq(status, CU_STREAM_CAPTURE_STATUS_NONE);
  OK(cu.cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
  OK(cu.cuStreamIsCapturing(stream, &status));
  ck_assert_int_eq(status, CU_STREAM_CAPTURE_STATUS_ACTIVE);
  OK(cu.cuLaunchKernel(increment, 1, 1, 1, 32, 1, 1, 0, stream, parameters, NULL));
  OK(cu.cuLaunchKernel(increment, 1, 1, 1, 32, 1, 1, 0, stream, parameters, NULL));
  other = address;
  address = 0; /* the graph has its own copy */
  CUgraphExec exec = instantiate(end_capture(stream));
  OK(cu.cuStreamSynchronize(stream));
  ck_assert_uint_eq(word_at(other), 0);
  OK(cu.cuGraphLaunch(exec, stream));
  OK(cu.cuGraphLaunch(exec, stream));
  OK(cu.cuGraphExecDestroy(exec)); /* while it is in the queue */
  FAILS(cu.cuGraphLaunch(exec, stream), INVALID_VALUE);
  OK(cu.cuStreamSynchronize(stream));
  ck_assert_uint_eq(word_at(other + 124), 4);
  OK(cu.cuMemFree_v2(other));
  OK(cu.cuStreamDestroy_v2(stream));
  OK(cu.cuModuleUnload(module));
  finish();
}
END_TEST

/* Two streams write the same word, the second ordered behind the first or not. */
static bool fork_and_join(bool ordered, unsigned *last)
{
  CUstream a = make_stream(0), b = make_stream(0);
  CUevent fork = make_event(0), written = make_event(0), join = make_event(0);
  const CUdeviceptr address = allocate(4);
  OK(cu.cuStreamBeginCapture_v2(a, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
  OK(cu.cuEventRecord(fork, a));
  OK(cu.cuStreamWaitEvent(b, fork, 0));
  set(address, 1, a);
  OK(cu.cuEventRecord(written, a));
  if (ordered)
    OK(cu.cuStreamWaitEvent(b, written, 0));
  set(address, 2, b);
  OK(cu.cuEventRecord(join, b));
  OK(cu.cuStreamWaitEvent(a, join, 0));
  CUgraphExec exec = instantiate(end_capture(a));
  bool same = true;
  for (int i = 0; i < 20; i++) {
    OK(cu.cuGraphLaunch(exec, b));
    const unsigned word = word_at(address);
    same = same && (i == 0 || word == *last);
    *last = word;
  }
  OK(cu.cuGraphExecDestroy(exec));
  OK(cu.cuMemFree_v2(address));
  OK(cu.cuEventDestroy_v2(fork));
  OK(cu.cuEventDestroy_v2(written));
  OK(cu.cuEventDestroy_v2(join));
  OK(cu.cuStreamDestroy_v2(a));
  OK(cu.cuStreamDestroy_v2(b));
  return same;
}

START_TEST(a_missing_dependence_of_a_graph_shows)
{
  unsigned word = 0;
  start();
  ck_assert(fork_and_join(true, &word));
  ck_assert_uint_eq(word, 2);
  ck_assert(!fork_and_join(false, &word));
  finish();
}
END_TEST

START_TEST(unjoined_work_is_refused)
{
  CUgraph graph;
  start();
  CUstream a = make_stream(0), b = make_stream(0);
  CUevent event = make_event(0);
  const CUdeviceptr address = allocate(4);
  OK(cu.cuStreamBeginCapture_v2(a, CU_STREAM_CAPTURE_MODE_RELAXED));
  OK(cu.cuEventRecord(event, a));
  OK(cu.cuStreamWaitEvent(b, event, 0));
  set(address, 1, b);
  FAILS(cu.cuEventQuery(event), CAPTURED_EVENT);
  FAILS(cu.cuStreamEndCapture(a, &graph), STREAM_CAPTURE_UNJOINED);
  ck_assert_ptr_null(graph);
  OK(cu.cuStreamSynchronize(b)); /* both are ordinary streams again */
  FAILS(cu.cuStreamEndCapture(a, &graph), ILLEGAL_STATE);
  FAILS(cu.cuStreamWaitEvent(a, event, 0), CAPTURED_EVENT);
  FAILS(cu.cuEventSynchronize(event), CAPTURED_EVENT);
  OK(cu.cuMemFree_v2(address));
  OK(cu.cuEventDestroy_v2(event));
  OK(cu.cuStreamDestroy_v2(a));
  OK(cu.cuStreamDestroy_v2(b));
  finish();
}
END_TEST

enum forbidden {
  SYNCHRONIZE,
  QUERY,
  CONTEXT_SYNCHRONIZE,
  ALLOCATE,
  COPY,
  LEGACY,
  OUTSIDE_EVENT,
  MODULE,
  FORBIDDEN_COUNT
};

START_TEST(what_spoils_a_capture)
{
  int status;
  CUgraph graph;
  CUdeviceptr more;
  CUmodule module;
  unsigned word = 0;
  start();
  CUstream stream = make_stream(0);
  CUevent event = make_event(0);
  const CUdeviceptr address = allocate(4);
  OK(cu.cuEventRecord(event, NULL));
  OK(cu.cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
  set(address, 1, stream);
  switch ((enum forbidden)_i) {
  case SYNCHRONIZE: FAILS(cu.cuStreamSynchronize(stream), STREAM_CAPTURE_UNSUPPORTED); break;
  case QUERY: FAILS(cu.cuStreamQuery(stream), STREAM_CAPTURE_UNSUPPORTED); break;
  case CONTEXT_SYNCHRONIZE: FAILS(cu.cuCtxSynchronize(), STREAM_CAPTURE_UNSUPPORTED); break;
  case ALLOCATE: FAILS(cu.cuMemAlloc_v2(&more, 4), STREAM_CAPTURE_UNSUPPORTED); break;
  case COPY: FAILS(cu.cuMemcpyDtoH_v2(&word, address, 4), STREAM_CAPTURE_UNSUPPORTED); break;
  case LEGACY: FAILS(cu.cuMemsetD32Async(address, 1, 1, NULL), STREAM_CAPTURE_IMPLICIT); break;
  case OUTSIDE_EVENT:
    FAILS(cu.cuStreamWaitEvent(stream, event, 0), STREAM_CAPTURE_ISOLATION);
    break;
  case MODULE: FAILS(cu.cuModuleLoadData(&module, test_ptx), STREAM_CAPTURE_UNSUPPORTED); break;
  case FORBIDDEN_COUNT: break;
  }
  FAILS(cu.cuMemsetD32Async(address, 1, 1, stream), STREAM_CAPTURE_INVALIDATED);
  OK(cu.cuStreamIsCapturing(stream, &status));
  ck_assert_int_eq(status, CU_STREAM_CAPTURE_STATUS_INVALIDATED);
  FAILS(cu.cuStreamEndCapture(stream, &graph), STREAM_CAPTURE_INVALIDATED);
  ck_assert_ptr_null(graph);
  OK(cu.cuStreamSynchronize(stream));
  OK(cu.cuMemFree_v2(address));
  OK(cu.cuEventDestroy_v2(event));
  OK(cu.cuStreamDestroy_v2(stream));
  finish();
}
END_TEST

START_TEST(a_relaxed_capture_minds_its_own_stream)
{
  CUgraph graph;
  CUdeviceptr more;
  start();
  CUstream stream = make_stream(CU_STREAM_NON_BLOCKING), other = make_stream(0);
  const CUdeviceptr address = allocate(4);
  OK(cu.cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
  FAILS(cu.cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_RELAXED), ILLEGAL_STATE);
  FAILS(cu.cuStreamBeginCapture_v2(NULL, CU_STREAM_CAPTURE_MODE_RELAXED),
        STREAM_CAPTURE_UNSUPPORTED);
  FAILS(cu.cuStreamBeginCapture_v2(other, 3), INVALID_VALUE);
  set(address, 1, stream);
  set(address, 2, other);
  ck_assert_uint_eq(word_at(address), 2);
  OK(cu.cuMemAlloc_v2(&more, 4));
  OK(cu.cuMemFree_v2(more));
  FAILS(cu.cuMemAllocAsync(&more, 4, stream), NOT_SUPPORTED);
  OK(cu.cuStreamEndCapture(stream, &graph));
  CUgraphExec exec = instantiate(graph);
  OK(cu.cuGraphLaunch(exec, stream));
  OK(cu.cuStreamSynchronize(stream));
  ck_assert_uint_eq(word_at(address), 1);
  OK(cu.cuGraphExecDestroy(exec));
  OK(cu.cuMemFree_v2(address));
  OK(cu.cuStreamDestroy_v2(stream));
  OK(cu.cuStreamDestroy_v2(other));
  finish();
}
END_TEST

static void *end_elsewhere(void *stream)
{
  CUgraph graph;
  OK(cu.cuCtxSetCurrent(context0));
  FAILS(cu.cuStreamEndCapture(stream, &graph), STREAM_CAPTURE_WRONG_THREAD);
  return NULL;
}

START_TEST(a_capture_ends_in_its_thread_and_stream)
{
  CUgraph graph;
  pthread_t thread;
  start();
  CUstream a = make_stream(0), b = make_stream(0);
  CUevent event = make_event(0);
  OK(cu.cuStreamBeginCapture_v2(a, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
  ck_assert_int_eq(pthread_create(&thread, NULL, end_elsewhere, a), 0);
  pthread_join(thread, NULL);
  OK(cu.cuEventRecord(event, a));
  OK(cu.cuStreamWaitEvent(b, event, 0));
  FAILS(cu.cuStreamEndCapture(b, &graph), STREAM_CAPTURE_UNMATCHED);
  FAILS(cu.cuStreamEndCapture(a, &graph), STREAM_CAPTURE_INVALIDATED);
  /* A stream that goes away takes its capture with it. */
  OK(cu.cuStreamBeginCapture_v2(a, CU_STREAM_CAPTURE_MODE_GLOBAL));
  OK(cu.cuEventRecord(event, a));
  OK(cu.cuStreamWaitEvent(b, event, 0));
  OK(cu.cuStreamDestroy_v2(a));
  OK(cu.cuStreamSynchronize(b));
  OK(cu.cuStreamDestroy_v2(b));
  OK(cu.cuEventDestroy_v2(event));
  finish();
}
END_TEST

int main(void)
{
  Suite *suite = suite_create("driver_streams");
  TCase *tests = tcase_create("streams");
  tcase_add_test(tests, work_waits_for_a_wait);
  tcase_add_test(tests, a_query_waits_for_nothing);
  tcase_add_test(tests, streams_do_not_wait_for_each_other);
  tcase_add_test(tests, the_legacy_stream_waits_for_blocking_ones);
  tcase_add_test(tests, a_destroyed_stream_does_its_work);
  tcase_add_test(tests, a_long_queue_is_worked_off);
  tcase_add_test(tests, a_stream_waits_for_an_event);
  tcase_add_test(tests, events_take_times);
  tcase_add_test(tests, contexts_meet_at_events);
  tcase_add_test(tests, a_captured_launch_runs_when_the_graph_does);
  tcase_add_test(tests, a_missing_dependence_of_a_graph_shows);
  tcase_add_test(tests, unjoined_work_is_refused);
  tcase_add_loop_test(tests, what_spoils_a_capture, 0, FORBIDDEN_COUNT);
  tcase_add_test(tests, a_relaxed_capture_minds_its_own_stream);
  tcase_add_test(tests, a_capture_ends_in_its_thread_and_stream);
  suite_add_tcase(suite, tests);
  return run_suite(suite);
}
