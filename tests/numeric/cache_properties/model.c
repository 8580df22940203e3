#include "tests/numeric/cache_properties/model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/attnc/random.h"

static char message[4096];

static attn_context *context;

attn_context *shared_context(void)
{
  attn_context_options options = ATTN_CONTEXT_OPTIONS_INIT;
  options.device = getenv("ATTN_TEST_DEVICE");
  options.threads = 2;
  options.error = message;
  options.error_size = sizeof(message);
  if (context == NULL)
    ck_assert_msg(attn_context_create(&options, &context) == ATTN_OK, "%s", message);
  return context;
}

void end_context(void)
{
  attn_context_free(context);
  context = NULL;
}

bool on_device(void)
{
  return attn_context_device(shared_context()).device_type != kDLCPU;
}

int draws(int many, int few)
{
  return getenv("ATTN_TEST_DEVICE") == NULL ? many : few;
}

/* ---- random choices ---- */

struct draw draw_of(const char *test, int number)
{
  return (struct draw){.key = random_key((uint64_t)number, test)};
}

int64_t pick(struct draw *draw, int64_t first, int64_t last)
{
  return first + (int64_t)(random_bits(draw->key, draw->count++) % (uint64_t)(last - first + 1));
}

/* ---- tensors ---- */

static DLDataType dlpack_of(attn_type type)
{
  switch (type) {
  case ATTN_TYPE_F16: return (DLDataType){kDLFloat, 16, 1};
  case ATTN_TYPE_BF16: return (DLDataType){kDLBfloat, 16, 1};
  case ATTN_TYPE_I32: return (DLDataType){kDLInt, 32, 1};
  case ATTN_TYPE_I64: return (DLDataType){kDLInt, 64, 1};
  case ATTN_TYPE_BOOL:
  case ATTN_TYPE_U8: return (DLDataType){kDLUInt, 8, 1};
  case ATTN_TYPE_I8: return (DLDataType){kDLInt, 8, 1};
  case ATTN_TYPE_ANY:
  case ATTN_TYPE_F32: break;
  }
  return (DLDataType){kDLFloat, 32, 1};
}

/* Memory for `elements`; shape and strides are the caller's. */
static void array_allocate(struct array *a, DLDataType type, int rank, int64_t elements)
{
  void *memory;
  a->bytes = (size_t)elements * (type.bits / 8u);
  a->host = calloc(a->bytes + 1, 1);
  ck_assert_ptr_nonnull(a->host);
  ck_assert_int_eq(attn_memory_allocate(shared_context(), a->bytes + 1, &memory), ATTN_OK);
  a->tensor = (DLTensor){.data = memory,
                         .device = attn_context_device(shared_context()),
                         .ndim = rank,
                         .dtype = type,
                         .shape = a->shape,
                         .strides = a->strides};
}

void array_make(struct array *a, attn_type type, int rank, const int64_t *shape)
{
  int64_t elements = 1;
  for (int d = rank; d-- > 0;) {
    a->shape[d] = shape[d];
    a->strides[d] = elements;
    elements *= shape[d];
  }
  array_allocate(a, dlpack_of(type), rank, elements);
}

void array_upload(struct array *a)
{
  ck_assert_int_eq(attn_memory_upload(shared_context(), a->tensor.data, a->host, a->bytes, NULL),
                   ATTN_OK);
}

void array_download(struct array *a)
{
  ck_assert_int_eq(attn_memory_download(shared_context(), a->host, a->tensor.data, a->bytes, NULL),
                   ATTN_OK);
}

void array_free(struct array *a)
{
  free(a->host);
  attn_memory_free(shared_context(), a->tensor.data);
}

/* ---- programs and tokens ---- */

float any_element(enum what what, int story, int64_t position, int head, int channel)
{
  uint64_t key = (uint64_t)story * 3 + (uint64_t)what;
  uint64_t bits = random_bits(key, (uint64_t)((position * HEADS + head) * DIM + channel));
  return (float)((double)(bits >> 11) * 0x1p-52 - 1);
}

struct model model_open(const char *statements, const attn_compile_options *options)
{
  struct model m = {.element = any_element};
  char text[2048];
  attn_compile_options used = ATTN_COMPILE_OPTIONS_INIT;
  if (options != NULL)
    used = *options;
  used.error = message;
  used.error_size = sizeof(message);
  snprintf(text, sizeof(text),
           "attention t {\n  heads q = %d, kv = %d\n  dim %d\n  type f32\n  output lse\n%s\n}\n",
           HEADS, GROUPS, DIM, statements);
  attn_status status =
      attn_compile(shared_context(), text, strlen(text), "t.attn", &used, &m.program);
  ck_assert_msg(status == ATTN_OK, "%s\n%s", text, message);
  return m;
}

void model_close(struct model *m)
{
  attn_program_free(m->program);
}

/* Where rows of a launch are. */
struct places {
  bool packed;
  int64_t most, total;
  int64_t starts[MOST_SEQUENCES + 1];
};

static struct places places_of(const struct batch *batch)
{
  struct places p = {.packed = batch->packed};
  for (int b = 0; b < batch->sequences; b++) {
    p.most = batch->rows[b] > p.most ? batch->rows[b] : p.most;
    p.starts[b + 1] = p.starts[b] + batch->rows[b];
  }
  p.total = p.starts[batch->sequences];
  return p;
}

static int64_t row_of(const struct places *p, int b, int64_t row, int head, int heads)
{
  return p->packed ? (p->starts[b] + row) * heads + head : (b * heads + head) * p->most + row;
}

static void make_rows(struct array *a, const struct places *p, int sequences, int heads,
                      int channels)
{
  const int64_t packed[] = {p->total, heads, channels};
  const int64_t batched[] = {sequences, heads, p->most, channels};
  const int less = channels == 0; /* one number a row */
  if (p->packed)
    array_make(a, ATTN_TYPE_F32, 3 - less, packed);
  else
    array_make(a, ATTN_TYPE_F32, 4 - less, batched);
}

static void fill_rows(struct array *a, const struct model *m, const struct batch *batch,
                      enum what what)
{
  const int heads = what == WHAT_Q ? HEADS : GROUPS;
  const struct places p = places_of(batch);
  make_rows(a, &p, batch->sequences, heads, DIM);
  for (int b = 0; b < batch->sequences; b++) {
    for (int64_t n = 0; n < batch->rows[b] * heads; n++) {
      const int64_t row = n / heads, position = batch->lengths[b] - batch->rows[b] + row;
      const int head = (int)(n % heads);
      float *to = (float *)a->host + row_of(&p, b, row, head, heads) * DIM;
      for (int c = 0; c < DIM; c++)
        to[c] = m->element(what, batch->stories[b], position, head, c);
    }
  }
  array_upload(a);
}

static attn_arguments arguments_of(const attn_named_tensor *cache, size_t count,
                                   const struct batch *batch, struct array *starts)
{
  attn_arguments arguments = ATTN_ARGUMENTS_INIT;
  const struct places p = places_of(batch);
  arguments.error = message;
  arguments.error_size = sizeof(message);
  arguments.cache = cache;
  arguments.cache_count = count;
  arguments.inputs = batch->inputs;
  arguments.input_count = batch->input_count;
  for (int b = 0; b < batch->sequences && count > 0 && on_device(); b++) { /* it cannot look */
    if (batch->lengths[b] > arguments.max_length)
      arguments.max_length = batch->lengths[b];
  }
  array_make(starts, ATTN_TYPE_I64, 1, (int64_t[]){batch->sequences + 1});
  memcpy(starts->host, p.starts, starts->bytes);
  array_upload(starts);
  if (batch->packed)
    arguments.query_starts = &starts->tensor;
  return arguments;
}

static void ok(attn_status status)
{
  ck_assert_msg(status == ATTN_OK, "%s", message);
}

void model_append(const struct model *m, const attn_named_tensor *cache, size_t count,
                  const struct batch *batch)
{
  struct array k, v, starts;
  fill_rows(&k, m, batch, WHAT_K);
  fill_rows(&v, m, batch, WHAT_V);
  attn_arguments append = arguments_of(cache, count, batch, &starts);
  append.k = &k.tensor, append.v = &v.tensor;
  ok(attn_append(m->program, &append));
  ok(attn_sync(shared_context(), NULL));
  array_free(&k);
  array_free(&v);
  array_free(&starts);
}

static void keep_rows(const struct batch *batch, int first, const struct array *o,
                      const struct array *lse, struct rows *rows)
{
  const struct places p = places_of(batch);
  for (int b = 0; b < batch->sequences; b++) {
    for (int64_t n = 0; n < batch->rows[b] * HEADS; n++) {
      const int64_t row = n / HEADS, position = batch->lengths[b] - batch->rows[b] + row;
      const int64_t from = row_of(&p, b, row, (int)(n % HEADS), HEADS);
      ck_assert_int_lt(position, MOST_TOKENS);
      float *to = rows->values[first + b][position][n % HEADS];
      memcpy(to, (float *)o->host + from * DIM, DIM * sizeof(float));
      to[DIM] = ((float *)lse->host)[from];
      rows->known[first + b][position] = true;
    }
  }
}

/* k and v are NULL on a cache. Sequences of the batch are those of `rows` from `first` on. */
static void attend(const struct model *m, const attn_named_tensor *cache, size_t count,
                   const struct batch *batch, int first, const struct array *k,
                   const struct array *v, struct rows *rows)
{
  struct array q, o, lse, starts;
  const struct places p = places_of(batch);
  fill_rows(&q, m, batch, WHAT_Q);
  make_rows(&o, &p, batch->sequences, HEADS, DIM);
  make_rows(&lse, &p, batch->sequences, HEADS, 0);
  attn_arguments launch = arguments_of(cache, count, batch, &starts);
  attn_named_tensor output = {"lse", &lse.tensor};
  launch.q = &q.tensor, launch.o = &o.tensor;
  launch.k = k == NULL ? NULL : &k->tensor, launch.v = v == NULL ? NULL : &v->tensor;
  launch.outputs = &output, launch.output_count = 1;
  ok(attn_launch(m->program, &launch));
  ok(attn_sync(shared_context(), NULL));
  array_download(&o);
  array_download(&lse);
  keep_rows(batch, first, &o, &lse, rows);
  array_free(&q);
  array_free(&o);
  array_free(&lse);
  array_free(&starts);
}

void model_attend(const struct model *m, const attn_named_tensor *cache, size_t count,
                  const struct batch *batch, struct rows *rows)
{
  attend(m, cache, count, batch, 0, NULL, NULL, rows);
}

void model_plain(const struct model *m, const struct batch *batch, int b, struct rows *rows)
{
  struct array k, v;
  const struct batch one = {.sequences = 1,
                            .stories = {batch->stories[b]},
                            .lengths = {batch->lengths[b]},
                            .rows = {batch->lengths[b]},
                            .inputs = batch->inputs,
                            .input_count = batch->input_count};
  fill_rows(&k, m, &one, WHAT_K);
  fill_rows(&v, m, &one, WHAT_V);
  attend(m, NULL, 0, &one, b, &k, &v, rows);
  array_free(&k);
  array_free(&v);
}

void plain_rows(const char *statements, element *element, const struct batch *batch,
                struct rows *rows)
{
  struct model m = model_open(statements, NULL);
  memset(rows, 0, sizeof(*rows));
  m.element = element;
  for (int b = 0; b < batch->sequences; b++) {
    if (batch->lengths[b] > 0)
      model_plain(&m, batch, b, rows);
  }
  model_close(&m);
}

/* ---- comparing ---- */

double tolerance(void)
{
  return on_device() ? 2e-5 : 4e-6; /* a device makes products of tf32 in parts */
}

void expect_row(const char *what, const float found[HEADS][CHANNELS],
                const float wanted[HEADS][CHANNELS])
{
  for (int h = 0; h < HEADS; h++)
    for (int c = 0; c < CHANNELS; c++) {
      const double x = (double)found[h][c], y = (double)wanted[h][c];
      ck_assert_msg(fabs(x - y) <= tolerance() * fmax(1, fabs(y)) || x == y,
                    "%s: head %d, channel %d is %.9g, it must be %.9g", what, h, c, x, y);
    }
}

void expect_rows(const char *what, const struct rows *found, const struct rows *wanted)
{
  char text[512];
  int count = 0;
  for (int b = 0; b < MOST_SEQUENCES; b++)
    for (int n = 0; n < MOST_TOKENS; n++) {
      if (!found->known[b][n])
        continue;
      ck_assert(wanted->known[b][n]);
      snprintf(text, sizeof(text), "%s: sequence %d, token %d", what, b, n);
      expect_row(text, found->values[b][n], wanted->values[b][n]);
      count++;
    }
  ck_assert_int_gt(count, 0);
}
