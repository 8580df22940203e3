/* A tensor of one's own: packed documents, told apart by an i32 id per token that the mask reads.
 * Shows named inputs, a run-time index that is out of range, and the error that comes back instead
 * of a wild read.
 *
 *     cc custom_input.c $(pkg-config --cflags --libs attn)
 */
#include <attn/attn.h>

#include <stdio.h>
#include <string.h>

static const char spec[] = "attention packed {\n"
                           "  heads 1\n"
                           "  dim   4\n"
                           "  input doc   : i32[B, NK]\n"
                           "  input bias  : f32[3]\n"
                           "  score s + bias[doc[b, j]]\n"
                           "  mask  j <= i and doc[b, i] == doc[b, j]\n"
                           "}\n";

enum { LENGTH = 6, DIM = 4 };

static DLTensor tensor(void *data, uint8_t code, int64_t *shape, int rank)
{
  DLTensor t = {0};
  t.data = data;
  t.device.device_type = kDLCPU;
  t.ndim = rank;
  t.dtype.code = code;
  t.dtype.bits = 32;
  t.dtype.lanes = 1;
  t.shape = shape;
  return t;
}

int main(void)
{
  attn_context *context = NULL;
  attn_program *program = NULL;
  char text[1024];
  if (attn_context_create(NULL, &context) != ATTN_OK)
    return 1;
  if (attn_compile(context, spec, strlen(spec), "packed.attn", NULL, &program) != ATTN_OK) {
    attn_context_error(context, text, sizeof(text));
    fprintf(stderr, "%s\n", text);
    attn_context_free(context);
    return 1;
  }

  static float q_data[LENGTH * DIM], k_data[LENGTH * DIM], v_data[LENGTH * DIM],
      o_data[LENGTH * DIM];
  for (int n = 0; n < LENGTH * DIM; n++)
    v_data[n] =
        (float)(n / DIM); /* the key's position: a row's result is the mean of what it sees */
  int32_t doc_data[LENGTH] = {0, 0, 0, 1, 1, 2};
  float bias_data[3] = {0.0f, 0.0f, 0.0f};
  int64_t shape[4] = {1, 1, LENGTH, DIM}, doc_shape[2] = {1, LENGTH}, bias_shape[1] = {3};
  DLTensor q = tensor(q_data, kDLFloat, shape, 4), k = tensor(k_data, kDLFloat, shape, 4);
  DLTensor v = tensor(v_data, kDLFloat, shape, 4), o = tensor(o_data, kDLFloat, shape, 4);
  DLTensor doc = tensor(doc_data, kDLInt, doc_shape, 2),
           bias = tensor(bias_data, kDLFloat, bias_shape, 1);
  attn_named_tensor inputs[] = {{"doc", &doc}, {"bias", &bias}};
  attn_arguments arguments = ATTN_ARGUMENTS_INIT;
  arguments.q = &q;
  arguments.k = &k;
  arguments.v = &v;
  arguments.o = &o;
  arguments.inputs = inputs;
  arguments.input_count = 2;

  int failed = 0;
  static const float expected[LENGTH] = {0.0f, 0.5f, 1.0f, 3.0f, 3.5f, 5.0f};
  if (attn_launch(program, &arguments) != ATTN_OK)
    failed = 1;
  for (int i = 0; i < LENGTH && !failed; i++) {
    printf("token %d of document %d: mean position %.2f\n", i, (int)doc_data[i],
           (double)o_data[i * DIM]);
    failed = o_data[i * DIM] < expected[i] - 1e-5f || o_data[i * DIM] > expected[i] + 1e-5f;
  }

  doc_data[5] = 7; /* bias has three entries */
  if (attn_launch(program, &arguments) != ATTN_ERROR_FAULT)
    failed = 1;
  attn_context_error(context, text, sizeof(text));
  printf("with a wrong id: %s\n", text);
  attn_program_free(program);
  attn_context_free(context);
  return failed;
}
