/* One launch, on the CPU and on a device from the same memory, whose results must agree. */
#ifndef ATTN_TESTS_UNIT_CUDA_TRIAL_H
#define ATTN_TESTS_UNIT_CUDA_TRIAL_H

#include "compiler/reference/reference.h"
#include "tests/unit/cuda_world.h"

enum { TRIAL_TENSORS = 8 };

struct trial_tensor {
  const char *name; /* q, k, v, o, query_starts, key_starts, or an input or output */
  DLDataType type;
  int rank;
  int64_t shape[4], strides[4]; /* all strides 0: row-major */
  bool written;
  bool stays_on_host; /* for starts */
  int64_t modulus;    /* of integers: element n of memory is n % modulus; 0: as in `values` */
  const int64_t *values;
};

struct trial {
  const char *text;
  struct trial_tensor tensors[TRIAL_TENSORS];
  const attn_param *params;
  size_t param_count;

  size_t bytes[TRIAL_TENSORS];
  unsigned char *memory[TRIAL_TENSORS]; /* on the host, before the launch */
  DLTensor views[TRIAL_TENSORS];
  attn_named_tensor inputs[TRIAL_TENSORS], outputs[TRIAL_TENSORS];
  attn_arguments arguments;
};

static const DLDataType trial_f32 = {kDLFloat, 32, 1}, trial_i32 = {kDLInt, 32, 1},
                        trial_i64 = {kDLInt, 64, 1}, trial_u8 = {kDLUInt, 8, 1},
                        trial_f16 = {kDLFloat, 16, 1}, trial_bf16 = {kDLBfloat, 16, 1};

static inline size_t trial_count(const struct trial *t)
{
  size_t count = 0;
  while (count < TRIAL_TENSORS && t->tensors[count].name != NULL)
    count++;
  return count;
}

static inline void trial_fill(const struct trial_tensor *tensor, unsigned char *memory,
                              size_t elements)
{
  uint32_t state = (uint32_t)tensor->name[0];
  for (size_t n = 0; n < elements; n++) {
    int64_t value = tensor->values != NULL ? tensor->values[n]
                    : tensor->modulus != 0 ? (int64_t)n % tensor->modulus
                                           : 0;
    float real = tensor->written ? 7.0f : noise(&state);
    uint32_t bits;
    memcpy(&bits, &real, sizeof(bits));
    if (tensor->type.code == kDLFloat && tensor->type.bits == 32)
      ((float *)(void *)memory)[n] = real;
    else if (tensor->type.code == kDLBfloat)
      ((uint16_t *)(void *)memory)[n] = (uint16_t)(bits >> 16);
    else if (tensor->type.code == kDLFloat) /* a half between 1 and 2 with a sign: exact */
      ((uint16_t *)(void *)memory)[n] =
          (uint16_t)((bits >> 31) << 15 | 0x3800u | (bits >> 13 & 0x3ff));
    else if (tensor->type.bits == 32)
      ((int32_t *)(void *)memory)[n] = (int32_t)value;
    else if (tensor->type.bits == 64)
      ((int64_t *)(void *)memory)[n] = value;
    else
      memory[n] = (unsigned char)value;
  }
}

static inline void trial_bind(struct trial *t)
{
  attn_arguments *a = &t->arguments;
  *a = (attn_arguments)ATTN_ARGUMENTS_INIT;
  a->inputs = t->inputs;
  a->outputs = t->outputs;
  a->params = t->params;
  a->param_count = t->param_count;
  a->error = message;
  a->error_size = sizeof(message);
  for (size_t n = 0; n < trial_count(t); n++) {
    const char *name = t->tensors[n].name;
    const DLTensor *view = &t->views[n];
    if (strcmp(name, "q") == 0)
      a->q = view;
    else if (strcmp(name, "k") == 0)
      a->k = view;
    else if (strcmp(name, "v") == 0)
      a->v = view;
    else if (strcmp(name, "o") == 0)
      a->o = view;
    else if (strcmp(name, "query_starts") == 0)
      a->query_starts = view;
    else if (strcmp(name, "key_starts") == 0)
      a->key_starts = view;
    else if (t->tensors[n].written)
      t->outputs[a->output_count++] = (attn_named_tensor){name, view};
    else
      t->inputs[a->input_count++] = (attn_named_tensor){name, view};
  }
}

/* Makes memory and views on the host. */
static inline void trial_init(struct trial *t)
{
  for (size_t n = 0; n < trial_count(t); n++) {
    struct trial_tensor *tensor = &t->tensors[n];
    bool dense = true;
    size_t elements = 1, compact = 1;
    for (int d = 0; d < tensor->rank; d++)
      dense = dense && tensor->strides[d] == 0;
    for (int d = tensor->rank; d-- > 0;) {
      if (dense)
        tensor->strides[d] = (int64_t)compact;
      compact *= (size_t)tensor->shape[d];
    }
    for (int d = 0; d < tensor->rank; d++)
      elements += (size_t)((tensor->shape[d] > 0 ? tensor->shape[d] - 1 : 0) * tensor->strides[d]);
    t->bytes[n] = elements * tensor->type.bits / 8;
    t->memory[n] = malloc(t->bytes[n]);
    ck_assert_ptr_nonnull(t->memory[n]);
    trial_fill(tensor, t->memory[n], elements);
    t->views[n] = (DLTensor){.data = t->memory[n],
                             .device = {kDLCPU, 0},
                             .ndim = tensor->rank,
                             .dtype = tensor->type,
                             .shape = tensor->shape,
                             .strides = tensor->strides};
  }
  trial_bind(t);
}

static inline void trial_to_device(struct trial *t, attn_context *context)
{
  for (size_t n = 0; n < trial_count(t); n++) {
    if (!t->tensors[n].stays_on_host)
      to_device(context, &t->views[n], t->bytes[n]);
  }
}

static inline void trial_leave_device(struct trial *t, attn_context *context)
{
  for (size_t n = 0; n < trial_count(t); n++) {
    if (t->views[n].device.device_type == kDLCUDA)
      attn_memory_free(context, t->views[n].data);
    t->views[n].data = t->memory[n];
    t->views[n].device = (DLDevice){kDLCPU, 0};
  }
}

static inline void trial_free(struct trial *t)
{
  for (size_t n = 0; n < trial_count(t); n++)
    free(t->memory[n]);
}

static inline double trial_value(DLDataType type, const unsigned char *memory, size_t n)
{
  if (type.bits == 32) {
    float value;
    memcpy(&value, memory + 4 * n, sizeof(value));
    return (double)value;
  }
  uint16_t half;
  memcpy(&half, memory + 2 * n, sizeof(half));
  return dtype_load(type.code == kDLBfloat ? DTYPE_BF16 : DTYPE_F16, &half, 0);
}

/* Compares what the device has with what the CPU left in `memory`, all bytes between the elements
 * included. */
static inline void trial_compare(struct trial *t, attn_context *context, double bound)
{
  for (size_t n = 0; n < trial_count(t); n++) {
    if (t->views[n].device.device_type != kDLCUDA)
      continue;
    unsigned char *found = malloc(t->bytes[n]);
    ck_assert_int_eq(attn_memory_download(context, found, t->views[n].data, t->bytes[n], NULL),
                     ATTN_OK);
    if (!t->tensors[n].written) {
      ck_assert_msg(memcmp(found, t->memory[n], t->bytes[n]) == 0, "%s has changed",
                    t->tensors[n].name);
    } else {
      const DLDataType type = t->tensors[n].type;
      for (size_t m = 0; m < t->bytes[n] / (type.bits / 8u); m++) {
        const double a = trial_value(type, found, m), b = trial_value(type, t->memory[n], m);
        ck_assert_msg(fabs(a - b) <= bound * fmax(1.0, fabs(b)) || a == b,
                      "%s, element %zu of its memory: %g on the device, %g on the CPU",
                      t->tensors[n].name, m, a, b);
      }
    }
    free(found);
  }
}

/* The whole: CPU, device, comparison. */
static inline void trial_run(struct trial *t, attn_context *context, double bound)
{
  attn_context *host = context_with(1);
  attn_program *on_host = compile(host, t->text), *program = compile(context, t->text);
  trial_init(t);
  trial_to_device(t, context);
  ck_assert_msg(attn_launch(program, &t->arguments) == ATTN_OK, "%s", message);
  attn_status status = attn_sync(context, NULL);
  ck_assert_msg(status == ATTN_OK, "%s", error_of(context));
  struct trial on_cpu = *t;
  for (size_t n = 0; n < trial_count(t); n++) {
    on_cpu.views[n].data = t->memory[n];
    on_cpu.views[n].device = (DLDevice){kDLCPU, 0};
  }
  trial_bind(&on_cpu);
  ck_assert_msg(attn_launch(on_host, &on_cpu.arguments) == ATTN_OK, "%s", message);
  trial_compare(t, context, bound);
  trial_leave_device(t, context);
  trial_free(t);
  attn_program_free(program);
  attn_program_free(on_host);
  attn_context_free(host);
}

#endif
