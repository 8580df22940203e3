#include "tests/numeric/equivalences/attention.h"

#include "runtime/attnc/device.h"
#include "runtime/attnc/random.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static unsigned skipped;

unsigned attention_skipped(void)
{
  return skipped;
}

void attention_skip(const char *name, const char *reason)
{
  skipped++;
  fprintf(stderr, "skipped: %s: %.*s\n", name, (int)strcspn(reason, "\n"), reason);
}

/* NULL: the CPU. */
static const char *device(void)
{
  return getenv("ATTN_TEST_DEVICE");
}

/* One for all tests, so that a spec that several of them use is compiled once. */
static attn_context *context;

static attn_context *shared_context(void)
{
  char error[512] = "";
  attn_context_options options = ATTN_CONTEXT_OPTIONS_INIT;
  options.device = device();
  options.error = error;
  options.error_size = sizeof(error);
  if (context == NULL)
    ck_assert_msg(attn_context_create(&options, &context) == ATTN_OK, "%s", error);
  return context;
}

void attention_end(void)
{
  attn_context_free(context);
  context = NULL;
}

bool attention_open(struct attention *a, const char *name, const char *params,
                    const char *statements)
{
  memset(a, 0, sizeof(*a));
  char text[2048], error[2048];
  int length = snprintf(text, sizeof(text), "attention equivalence%s%s%s {\ntype f32\n%s\n}\n",
                        params == NULL ? "" : "(", params == NULL ? "" : params,
                        params == NULL ? "" : ")", statements);
  ck_assert(length > 0 && (size_t)length < sizeof(text));
  attn_compile_options options = ATTN_COMPILE_OPTIONS_INIT;
  options.error = error;
  options.error_size = sizeof(error);
  attn_status status =
      attn_compile(shared_context(), text, (size_t)length, NULL, &options, &a->program);
  const char *not_lowered = status == ATTN_ERROR_SPEC ? strstr(error, "error[E0504]") : NULL;
  if (not_lowered != NULL) {
    attention_skip(name, not_lowered);
    return false;
  }
  ck_assert_msg(status == ATTN_OK, "%s: %s\n%s", name, error, text);

  struct option_list sets = {0};
  document_check(&a->document, name, text, (size_t)length, &sets);
  ck_assert(a->document.file != NULL && a->document.file->specs.count == 1);
  a->spec = a->document.file->specs.items[0];
  workload_init(&a->work, a->spec, DTYPE_F32);
  return true;
}

bool attention_open_two(struct attention *a, const char *a_statements, struct attention *b,
                        const char *b_statements, const char *name)
{
  memset(b, 0, sizeof(*b));
  if (!attention_open(a, name, NULL, a_statements))
    return false;
  if (attention_open(b, name, NULL, b_statements))
    return true;
  attention_close(a);
  return false;
}

void attention_close(struct attention *a)
{
  if (a->spec == NULL)
    return;
  workload_free(&a->work);
  attn_program_free(a->program);
  document_close(&a->document);
  memset(a, 0, sizeof(*a));
}

static const struct sizes device_sizes[] = {{1, 33, 97}, {1, 1, 150}, {2, 5, 21}};

uint64_t draws(void)
{
  return device() == NULL ? 5 : sizeof(device_sizes) / sizeof(*device_sizes);
}

struct sizes sizes_draw(uint64_t number)
{
  if (device() != NULL)
    return device_sizes[number];
  if (number == 0)
    return (struct sizes){2, 33, 97};
  if (number == 1)
    return (struct sizes){1, 1, MOST_KEYS};
  uint64_t key = random_key(number, "equivalences");
  int64_t keys = 1 + (int64_t)(random_bits(key, 0) % 150);
  int64_t queries = 1 + (int64_t)(random_bits(key, 1) % (uint64_t)keys);
  return (struct sizes){1 + (int64_t)(random_bits(key, 2) % 3), queries, keys};
}

void attention_prepare(struct attention *a, struct sizes sizes, uint64_t seed, const char *setting)
{
  workload_free(&a->work);
  workload_init(&a->work, a->spec, DTYPE_F32);
  if (setting != NULL)
    ck_assert_int_eq(workload_set_param(&a->work, setting), EXIT_FINE);
  a->work.batch = sizes.batch;
  a->work.queries = sizes.queries;
  a->work.keys = sizes.keys;
  ck_assert_int_eq(workload_allocate(&a->work), EXIT_FINE);
  random_fill(&a->work, seed);
}

void attention_prepare_packed(struct attention *a, int64_t batch, const int64_t *queries,
                              const int64_t *keys, uint64_t seed)
{
  workload_free(&a->work);
  workload_init(&a->work, a->spec, DTYPE_F32);
  ck_assert(workload_set_lengths(&a->work, batch, queries, keys));
  ck_assert_int_eq(workload_allocate(&a->work), EXIT_FINE);
  random_fill(&a->work, seed);
}

void attention_launch(struct attention *a, const char *name)
{
  char error[512];
  attn_status status = device_run(&a->work, a->program, shared_context(), error, sizeof(error));
  ck_assert_msg(status == ATTN_OK, "%s: %s", name, error);
}

static struct tensor *find(struct tensor *tensors, uint32_t count, const char *name)
{
  for (uint32_t n = 0; n < count; n++)
    if (tensors[n].name != NULL && strcmp(tensors[n].name, name) == 0)
      return &tensors[n];
  ck_abort_msg("no tensor '%s'", name);
  return NULL;
}

struct tensor *attention_input(struct attention *a, const char *name)
{
  return find(a->work.inputs, a->spec->input_count, name);
}

struct tensor *attention_output(struct attention *a, const char *name)
{
  return find(a->work.outputs, a->spec->output_count, name);
}

void tensor_fill(struct tensor *tensor, double value)
{
  for (int64_t n = 0; n < tensor_count(tensor); n++)
    tensor_set(tensor, n, value);
}

float *tensor_row(const struct tensor *tensor, int64_t x, int64_t y, int64_t z)
{
  int64_t row = (x * tensor->shape[1] + y) * tensor->shape[2] + z;
  return (float *)tensor->data + row * (tensor->ndim == 4 ? tensor->shape[3] : 1);
}

double tensor_distance(const struct tensor *x, const struct tensor *y)
{
  ck_assert_int_eq(tensor_count(x), tensor_count(y));
  double furthest = 0, largest = 0;
  for (int64_t n = 0; n < tensor_count(x); n++) {
    double a = tensor_get(x, n), b = tensor_get(y, n);
    double apart = a == b ? 0 : fabs(a - b);
    if (isnan(apart))
      return INFINITY;
    furthest = fmax(furthest, apart);
    if (isfinite(b))
      largest = fmax(largest, fabs(b));
  }
  return furthest == 0 ? 0 : furthest / largest;
}

double tolerance(void)
{
  return device() == NULL ? 4e-6 : 2e-5; /* products of tf32 in parts */
}

void expect_same(const char *name, const struct tensor *x, const struct tensor *y)
{
  double distance = tensor_distance(x, y);
  ck_assert_msg(distance <= tolerance(), "%s: %s %.3g apart, relative to the largest", name,
                y->name, distance);
}
