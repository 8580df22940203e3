/* The smallest use of the library: compiles a spec that stands in the program, computes it on a few
 * numbers and prints the result.
 *
 *     cc compile_and_launch.c $(pkg-config --cflags --libs attn)
 */
#include <attn/attn.h>

#include <stdio.h>
#include <string.h>

static const char spec[] = "attention windowed(width: int = 2) {\n"
                           "  heads  2\n"
                           "  dim    4\n"
                           "  mask   0 <= i - j < width\n"
                           "  output lse\n"
                           "}\n";

enum { BATCH = 1, HEADS = 2, LENGTH = 5, DIM = 4 };

static DLTensor tensor(float *data, int64_t *shape, int rank)
{
  DLTensor t = {0};
  t.data = data;
  t.device.device_type = kDLCPU;
  t.ndim = rank;
  t.dtype.code = kDLFloat;
  t.dtype.bits = 32;
  t.dtype.lanes = 1;
  t.shape = shape; /* row-major: no strides needed */
  return t;
}

static int fail(attn_context *context, attn_status status)
{
  char text[1024];
  attn_context_error(context, text, sizeof(text));
  fprintf(stderr, "%s: %s\n", attn_status_text(status), text);
  attn_context_free(context);
  return 1;
}

int main(void)
{
  attn_context *context;
  attn_program *program;
  attn_status status = attn_context_create(NULL, &context);
  if (status != ATTN_OK) {
    fprintf(stderr, "%s\n", attn_status_text(status));
    return 1;
  }
  status = attn_compile(context, spec, strlen(spec), "windowed.attn", NULL, &program);
  if (status != ATTN_OK)
    return fail(context, status);

  static float q_data[BATCH * HEADS * LENGTH * DIM], k_data[BATCH * HEADS * LENGTH * DIM];
  static float v_data[BATCH * HEADS * LENGTH * DIM], o_data[BATCH * HEADS * LENGTH * DIM];
  static float lse_data[BATCH * HEADS * LENGTH];
  for (int n = 0; n < BATCH * HEADS * LENGTH * DIM; n++) {
    q_data[n] = 1.0f;
    k_data[n] = 0.5f;
    v_data[n] = (float)(n / DIM % LENGTH); /* the position of the key */
  }
  int64_t shape[4] = {BATCH, HEADS, LENGTH, DIM};
  DLTensor q = tensor(q_data, shape, 4), k = tensor(k_data, shape, 4);
  DLTensor v = tensor(v_data, shape, 4), o = tensor(o_data, shape, 4);
  DLTensor lse = tensor(lse_data, shape, 3);

  attn_named_tensor output = {"lse", &lse};
  attn_param width = attn_param_int("width", 3);
  attn_arguments arguments = ATTN_ARGUMENTS_INIT;
  arguments.q = &q;
  arguments.k = &k;
  arguments.v = &v;
  arguments.o = &o;
  arguments.outputs = &output;
  arguments.output_count = 1;
  arguments.params = &width;
  arguments.param_count = 1;
  status = attn_launch(program, &arguments);
  attn_program_free(program);
  if (status != ATTN_OK)
    return fail(context, status);
  attn_context_free(context);

  /* All keys score alike, so that each query gets the mean position of the keys that it sees. */
  for (int i = 0; i < LENGTH; i++)
    printf("query %d: mean position %.2f, log of the denominator %.4f\n", i,
           (double)o_data[i * DIM], (double)lse_data[i]);
  return 0;
}
