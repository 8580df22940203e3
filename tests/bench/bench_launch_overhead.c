/* What a launch on a device costs its host thread beyond cuLaunchKernel, which is left out: its
 * entry in the runtime's table is replaced. The rest of the driver is called as always.
 *
 *     ATTN_CUDA_LIBRARY=.../libcuda.so.1 bench_launch_overhead
 *
 * Exit status 1 where a plain launch takes more than 5 microseconds. */
#include "attn/attn.h"
#include "runtime/cuda_api.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { HEADS = 4, GROUPS = 2, DIM = 64, ROWS = 16, ROUNDS = 200, LAUNCHES = 1000 };
static const double bound_us = 5.0;

static unsigned long kernels;

static cuda_result no_launch(struct cuda_function *function, unsigned grid_x, unsigned grid_y,
                             unsigned grid_z, unsigned block_x, unsigned block_y, unsigned block_z,
                             unsigned shared_bytes, struct cuda_stream *stream, void **parameters,
                             void **extra)
{
  (void)function, (void)grid_x, (void)grid_y, (void)grid_z, (void)block_x, (void)block_y;
  (void)block_z, (void)shared_bytes, (void)stream, (void)parameters, (void)extra;
  kernels++;
  return CUDA_OK;
}

static double now_us(void)
{
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec * 1e6 + (double)time.tv_nsec * 1e-3;
}

static int compare(const void *a, const void *b)
{
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static void die(const char *what, attn_context *context)
{
  char text[1024];
  attn_context_error(context, text, sizeof(text));
  fprintf(stderr, "bench_launch_overhead: %s: %s\n", what, text);
  exit(3);
}

struct bench_case {
  const char *what, *text;
  int64_t q_strides[4]; /* zeros: row-major */
};

static const struct bench_case cases[] = {
    {"forward", "attention t {\n  heads q = 4, kv = 2\n  dim 64\n  type f32\n}\n", {0}},
    {"with lse and a parameter",
     "attention t(cap: float = 2.0) {\n  heads q = 4, kv = 2\n  dim 64\n  type f32\n  score s * "
     "cap\n"
     "  output lse\n}\n",
     {0}},
    {"with a strided q",
     "attention t {\n  heads q = 4, kv = 2\n  dim 64\n  type f32\n}\n",
     {HEADS * ROWS * DIM, ROWS *DIM, 1, ROWS}},
    {"with a rotated workspace",
     "attention t {\n  heads q = 4, kv = 2\n  dim 64\n  type f32\n  align start\n  position "
     "rope\n}\n",
     {0}},
};

/* Median microseconds of a launch. */
static double measure(attn_context *context, const struct bench_case *c)
{
  static int64_t shapes[4][4] = {
      {1, HEADS, ROWS, DIM}, {1, GROUPS, ROWS, DIM}, {1, GROUPS, ROWS, DIM}, {1, HEADS, ROWS, DIM}};
  static int64_t lse_shape[3] = {1, HEADS, ROWS};
  int64_t strides[4];
  DLTensor tensors[5];
  attn_program *program;
  if (attn_compile(context, c->text, strlen(c->text), "t.attn", NULL, &program) != ATTN_OK)
    die(c->what, context);
  for (int n = 0; n < 5; n++) {
    tensors[n] = (DLTensor){.device = attn_context_device(context),
                            .ndim = n == 4 ? 3 : 4,
                            .dtype = {kDLFloat, 32, 1},
                            .shape = n == 4 ? lse_shape : shapes[n]};
    if (attn_memory_allocate(context, sizeof(float) * HEADS * ROWS * DIM, &tensors[n].data) !=
        ATTN_OK)
      die(c->what, context);
  }
  memcpy(strides, c->q_strides, sizeof(strides));
  if (strides[0] != 0)
    tensors[0].strides = strides;
  const attn_named_tensor lse = {"lse", &tensors[4]};
  attn_arguments arguments = ATTN_ARGUMENTS_INIT;
  arguments.q = &tensors[0], arguments.k = &tensors[1], arguments.v = &tensors[2];
  arguments.o = &tensors[3];
  arguments.outputs = &lse;
  arguments.output_count = attn_program_describe(program)->output_count;
  if (attn_launch(program, &arguments) != ATTN_OK || attn_sync(context, NULL) != ATTN_OK)
    die(c->what, context);

  cuda_result (*launch)(struct cuda_function *, unsigned, unsigned, unsigned, unsigned, unsigned,
                        unsigned, unsigned, struct cuda_stream *, void **, void **) = cuda.launch;
  static double times[ROUNDS];
  cuda.launch = no_launch;
  kernels = 0;
  for (int round = 0; round < ROUNDS; round++) {
    const double start = now_us();
    for (int n = 0; n < LAUNCHES; n++) {
      if (attn_launch(program, &arguments) != ATTN_OK)
        die(c->what, context);
    }
    times[round] = (now_us() - start) / LAUNCHES;
    attn_sync(context, NULL);
  }
  cuda.launch = launch;
  qsort(times, ROUNDS, sizeof(times[0]), compare);
  printf("%-28s %6.2f us (least %.2f), %lu kernel%s\n", c->what, times[ROUNDS / 2], times[0],
         kernels / (ROUNDS * LAUNCHES), kernels / (ROUNDS * LAUNCHES) == 1 ? "" : "s");
  for (int n = 0; n < 5; n++)
    attn_memory_free(context, tensors[n].data);
  attn_program_free(program);
  return times[ROUNDS / 2];
}

int main(void)
{
  char text[1024];
  attn_context_options options = ATTN_CONTEXT_OPTIONS_INIT;
  attn_context *context;
  options.device = "cuda:0";
  options.error = text;
  options.error_size = sizeof(text);
  if (attn_context_create(&options, &context) != ATTN_OK) {
    fprintf(stderr, "bench_launch_overhead: %s\n", text);
    return 3;
  }
  printf("Host time of attn_launch without cuLaunchKernel, median:\n");
  double plain = 0;
  for (size_t n = 0; n < sizeof(cases) / sizeof(*cases); n++) {
    const double us = measure(context, &cases[n]);
    plain = n == 0 ? us : plain;
  }
  attn_context_free(context);
  if (plain > bound_us)
    printf("a plain launch should take no more than %.0f us\n", bound_us);
  return plain > bound_us;
}
