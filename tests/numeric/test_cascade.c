/* Launches that share a prefix give what launches that do not give, and what each sequence gives by
 * itself without a cache. Through attn.h and cache.h, on the CPU or the device of ATTN_TEST_DEVICE.
 */
#include "attn/cache.h"
#include "compiler/pipeline.h"
#include "runtime/attnc/random.h"

#include <check.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DIM = 16, MOST_SEQUENCES = 6, MOST_TOKENS = 256 };

static attn_context *context;
static char message[4096];

static bool on_device(void)
{
  return getenv("ATTN_TEST_DEVICE") != NULL;
}

static void ok(attn_status status)
{
  char error[512] = "";
  if (status != ATTN_OK && message[0] == '\0')
    attn_context_error(context, error, sizeof(error));
  ck_assert_msg(status == ATTN_OK, "%s%s", message, error);
}

/* ---- tensors ---- */

struct array {
  DLTensor tensor;
  int64_t shape[4];
  size_t bytes;
  float *host;
};

static void array_make(struct array *a, int64_t n0, int64_t n1, int64_t n2, int64_t n3)
{
  const int64_t shape[] = {n0, n1, n2, n3};
  void *memory;
  memcpy(a->shape, shape, sizeof(shape));
  a->bytes = (size_t)(n0 * n1 * n2 * n3) * sizeof(float);
  a->host = calloc(a->bytes + 1, 1);
  ck_assert_ptr_nonnull(a->host);
  ok(attn_memory_allocate(context, a->bytes + 1, &memory));
  a->tensor = (DLTensor){.data = memory,
                         .device = attn_context_device(context),
                         .ndim = n3 == 1 ? 3 : 4,
                         .dtype = {kDLFloat, 32, 1},
                         .shape = a->shape};
}

static void array_upload(struct array *a)
{
  ok(attn_memory_upload(context, a->tensor.data, a->host, a->bytes, NULL));
}

static void array_free(struct array *a)
{
  attn_memory_free(context, a->tensor.data);
  free(a->host);
}

static double rounding(void)
{
  return on_device() ? 4e-5 : 1e-5;
}

/* ---- draws ---- */

static uint64_t drawn, draw_key;

static int64_t pick(int64_t first, int64_t last)
{
  return first + (int64_t)(random_bits(draw_key, drawn++) % (uint64_t)(last - first + 1));
}

/* ---- a spec and its sequences ---- */

struct heads {
  int query, kv;
};

struct world {
  struct heads heads;
  attn_program *program, *plain; /* with a cache, and without */
  double error;                  /* of the storage */
  bool has_rows;                 /* residuals: sequences of a batch are neighbours */
  attn_cache *cache;
  int sequences, queries;
  int64_t common, lengths[MOST_SEQUENCES]; /* of 0 for a place without a sequence */
};

/* Token `position` of sequence b: those before `common` are the same in all. */
static float element(const struct world *w, int what, int b, int64_t position, int head,
                     int channel)
{
  uint64_t story = position < w->common ? 0 : 1 + (uint64_t)b;
  uint64_t bits =
      random_bits(story * 3 + (uint64_t)what, (uint64_t)((position * 64 + head) * DIM + channel));
  return (float)((double)(bits >> 11) * 0x1p-52 - 1);
}

/* Tokens [from, to) of sequence b as row `row` of a tensor. */
static void write_tokens(const struct world *w, struct array *a, int what, int row, int b,
                         int64_t from, int64_t to)
{
  for (int head = 0; head < a->shape[1]; head++)
    for (int64_t n = from; n < to; n++)
      for (int c = 0; c < DIM; c++)
        a->host[((row * a->shape[1] + head) * a->shape[2] + n - from) * DIM + c] =
            element(w, what, b, n, head, c);
}

static attn_program *compile(const struct world *w, const char *statements, const char *cache)
{
  attn_program *program;
  char text[2048];
  attn_compile_options options = ATTN_COMPILE_OPTIONS_INIT;
  options.error = message;
  options.error_size = sizeof(message);
  options.kernel = cache[0] != '\0' ? ATTN_KERNEL_DECODE : ATTN_KERNEL_FORWARD;
  options.decode_part = 16;
  snprintf(text, sizeof(text),
           "attention t {\n  heads q = %d, kv = %d\n  dim %d\n  type f32\n  output lse\n%s\n%s}\n",
           w->heads.query, w->heads.kv, DIM, statements, cache);
  ok(attn_compile(context, text, strlen(text), "t.attn", &options, &program));
  return program;
}

static attn_arguments arguments(void)
{
  attn_arguments made = ATTN_ARGUMENTS_INIT;
  message[0] = '\0';
  made.error = message;
  made.error_size = sizeof(message);
  return made;
}

static void append(struct world *w, attn_sequence sequence, int b, int64_t from, int64_t to)
{
  struct array k, v;
  const uint32_t added = (uint32_t)(to - from);
  attn_cache_batch *batch;
  attn_arguments launch = arguments();
  if (added == 0)
    return;
  array_make(&k, 1, w->heads.kv, added, DIM);
  array_make(&v, 1, w->heads.kv, added, DIM);
  write_tokens(w, &k, 1, 0, b, from, to);
  write_tokens(w, &v, 2, 0, b, from, to);
  array_upload(&k);
  array_upload(&v);
  launch.k = &k.tensor, launch.v = &v.tensor;
  ok(attn_cache_begin(w->cache, &sequence, &added, 1, &batch));
  ok(attn_cache_tensors(batch, 0, &launch.cache, &launch.cache_count));
  ok(attn_append(w->program, &launch));
  ok(attn_cache_end(batch));
  array_free(&k);
  array_free(&v);
}

/* o, then lse. */
struct results {
  struct array o, lse;
};

static void results_make(struct results *r, const struct world *w, int sequences)
{
  array_make(&r->o, sequences, w->heads.query, w->queries, DIM);
  array_make(&r->lse, sequences, w->heads.query, w->queries, 1);
}

static void results_free(struct results *r)
{
  array_free(&r->o);
  array_free(&r->lse);
}

static void run(attn_program *program, attn_arguments *launch, struct results *r)
{
  const attn_named_tensor output = {"lse", &r->lse.tensor};
  launch->o = &r->o.tensor;
  launch->outputs = &output, launch->output_count = 1;
  ok(attn_launch(program, launch));
  ok(attn_sync(context, NULL));
  ok(attn_memory_download(context, r->o.host, r->o.tensor.data, r->o.bytes, NULL));
  ok(attn_memory_download(context, r->lse.host, r->lse.tensor.data, r->lse.bytes, NULL));
}

static void expect_near(const char *what, int b, const float *found, const float *wanted, size_t n,
                        double limit)
{
  for (size_t k = 0; k < n; k++) {
    const double x = (double)found[k], y = (double)wanted[k];
    ck_assert_msg(x == y || fabs(x - y) <= limit * fmax(1, fabs(y)),
                  "%s: sequence %d, element %zu is %.9g, it must be %.9g", what, b, k, x, y);
  }
}

static void expect_same(const char *what, const struct world *w, const struct results *found,
                        int at, const struct results *wanted, int other, double limit)
{
  const size_t rows = (size_t)(w->heads.query * w->queries);
  expect_near(what, at, found->o.host + (size_t)at * rows * DIM,
              wanted->o.host + (size_t)other * rows * DIM, rows * DIM, limit);
  expect_near(what, at, found->lse.host + (size_t)at * rows,
              wanted->lse.host + (size_t)other * rows, rows, limit);
}

/* Sequence b by itself, on k and v. */
static void expect_plain(const char *what, const struct world *w, const struct array *q, int b,
                         const struct results *found)
{
  struct array own, k, v;
  struct results wanted;
  const int64_t length = w->lengths[b];
  attn_arguments launch = arguments();
  array_make(&own, 1, w->heads.query, w->queries, DIM);
  array_make(&k, 1, w->heads.kv, length, DIM);
  array_make(&v, 1, w->heads.kv, length, DIM);
  memcpy(own.host, (char *)q->host + (size_t)b * own.bytes, own.bytes);
  write_tokens(w, &k, 1, 0, b, 0, length);
  write_tokens(w, &v, 2, 0, b, 0, length);
  array_upload(&own);
  array_upload(&k);
  array_upload(&v);
  results_make(&wanted, w, 1);
  launch.q = &own.tensor, launch.k = &k.tensor, launch.v = &v.tensor;
  run(w->plain, &launch, &wanted);
  expect_same(what, w, found, b, &wanted, 0, fmax(w->error, rounding()));
  results_free(&wanted);
  array_free(&own);
  array_free(&k);
  array_free(&v);
}

/* A parent with the common tokens, and forks of it that go on by themselves; one does not. */
static void make_sequences(struct world *w, attn_sequence *sequences)
{
  attn_sequence parent;
  ok(attn_cache_add(w->cache, &parent));
  append(w, parent, 0, 0, w->common);
  for (int b = 0; b < w->sequences; b++) {
    const int64_t tail = b == 1 ? 0 : pick(0, 40);
    ok(attn_cache_fork(w->cache, parent, &sequences[b]));
    w->lengths[b] = w->common + tail;
    append(w, sequences[b], b, w->common, w->lengths[b]);
    if (b == 2 && pick(0, 1) == 0) /* a place that nobody has */
      sequences[b] = 0, w->lengths[b] = 0;
  }
}

/* With a sequence that has fewer tokens, in pages of its own, which no host sees in device memory:
 * it is computed by itself. */
static void check_stranger(const char *what, struct world *w, const attn_sequence *forks,
                           const struct array *q, int64_t prefix)
{
  attn_sequence sequences[MOST_SEQUENCES];
  attn_cache_batch *batch;
  struct results shared, apart;
  attn_arguments launch = arguments();
  memcpy(sequences, forks, sizeof(sequences));
  ok(attn_cache_add(w->cache, &sequences[3]));
  append(w, sequences[3], 3, 0, 5);
  results_make(&shared, w, w->sequences);
  results_make(&apart, w, w->sequences);
  ok(attn_cache_begin(w->cache, sequences, NULL, (size_t)w->sequences, &batch));
  launch.q = &q->tensor;
  launch.max_length = attn_cache_max_length(batch);
  ok(attn_cache_tensors(batch, 0, &launch.cache, &launch.cache_count));
  run(w->program, &launch, &apart);
  launch.shared_prefix = prefix;
  run(w->program, &launch, &shared);
  ok(attn_cache_end(batch));
  for (int b = 0; b < w->sequences; b++)
    expect_same(what, w, &shared, b, &apart, b, rounding());
  results_free(&shared);
  results_free(&apart);
}

static void check_batch(const char *what, struct world *w)
{
  attn_sequence sequences[MOST_SEQUENCES];
  attn_cache_batch *batch;
  struct array q;
  struct results shared, apart;
  make_sequences(w, sequences);
  array_make(&q, w->sequences, w->heads.query, w->queries, DIM);
  for (int b = 0; b < w->sequences; b++)
    if (w->lengths[b] != 0)
      write_tokens(w, &q, 0, b, b, w->lengths[b] + 1000, w->lengths[b] + 1000 + w->queries);
  array_upload(&q);
  results_make(&shared, w, w->sequences);
  results_make(&apart, w, w->sequences);
  ok(attn_cache_begin(w->cache, sequences, NULL, (size_t)w->sequences, &batch));
  attn_arguments launch = arguments();
  launch.q = &q.tensor;
  launch.max_length = attn_cache_max_length(batch);
  ok(attn_cache_tensors(batch, 0, &launch.cache, &launch.cache_count));
  run(w->program, &launch, &apart);
  launch.shared_prefix = attn_cache_shared_prefix(batch);
  run(w->program, &launch, &shared);
  ok(attn_cache_end(batch));
  for (int b = 0; b < w->sequences; b++) {
    if (w->lengths[b] != 0)
      expect_plain(what, w, &q, b, &apart);
    expect_same(what, w, &shared, b, &apart, b, rounding());
  }
  if (on_device() && w->sequences > 3 && launch.shared_prefix > 5 && !w->has_rows)
    check_stranger(what, w, sequences, &q, launch.shared_prefix);
  results_free(&shared);
  results_free(&apart);
  array_free(&q);
}

struct story {
  const char *statements, *cache;
  double error; /* of the storage */
  bool apart;   /* computed without */
};

/* Whether there is a kernel for the prefix. */
static void expect_kernel(const struct story *story, enum target target)
{
  struct arena arena;
  struct source_set sources;
  struct diagnostics diagnostics;
  char text[1024];
  arena_init(&arena);
  ck_assert(!arena_guard(&arena));
  source_set_init(&sources, &arena);
  diagnostics_init(&diagnostics, &arena, &sources);
  snprintf(text, sizeof(text), "attention t {\n  heads q = 4, kv = 2\n  dim %d\n%s%s}\n", DIM,
           story->statements, story->cache);
  uint32_t source = source_add(&sources, "t.attn", text, strlen(text));
  const struct spec_file *file = spec_check(&arena, &sources, source, NULL, &diagnostics);
  const struct compile_options options = {.target = target,
                                          .kernel = KERNEL_DECODE,
                                          .type = DTYPE_F32,
                                          .on_cache = true,
                                          .shared_prefix = true};
  const struct compiled *compiled =
      compile_build(&arena, file->specs.items[0], &options, &diagnostics);
  ck_assert_ptr_nonnull(compiled);
  bool found = false;
  for (size_t n = 0; n < compiled->kernels.count; n++)
    found |= strcmp(compiled->kernels.items[n].tile->name, "forward_prefix") == 0;
  ck_assert_msg(found != story->apart, "%s", text);
  arena_free(&arena);
}

static const struct story stories[] = {
    {"  mask causal\n", "  cache paged(page = 4)\n", 0, false},
    {"  position rope\n  mask causal\n", "  cache paged(page = 16)\n", 0, false},
    {"  position rope\n  mask causal\n", "  cache paged(page = 16), rope = read\n", 0, false},
    {"  mask causal\n  score softcap(s, 5.0)\n", "  cache paged(page = 8)\n", 0, false},
    {"  position alibi\n  mask causal\n", "  cache paged(page = 8)\n", 0, false},
    {"  mask causal and i - j < 50\n", "  cache paged(page = 8)\n", 0, false},
    {"  mask causal and (j < 3 or i - j < 37)\n  position rope\n", "  cache paged(page = 32)\n", 0,
     false},
    {"  mask causal\n  normalize softmax(sink = 0.5)\n", "  cache paged(page = 4)\n", 0, false},
    {"  mask causal\n", "  cache paged(page = 16), k = int8, v = int8\n", 0.05, false},
    {"  mask causal\n  position rope\n",
     "  cache paged(page = 16), k = int4(group = 8), v = e4m3\n", 0.5, false},
    {"  mask causal\n", "  cache paged(page = 16), k = int8(residual = 8)\n", 0.05, true},
    {"  mask j < NK - 2\n", "  cache paged(page = 16)\n", 0, true},
};

START_TEST(forks_agree)
{
  static const struct heads all[] = {{4, 4}, {6, 2}, {4, 1}};
  const struct story *story = &stories[_i];
  struct world w = {.heads = all[_i % 3],
                    .error = story->error,
                    .has_rows = strstr(story->cache, "residual") != NULL};
  attn_cache_options options = ATTN_CACHE_OPTIONS_INIT;
  char what[64];
  expect_kernel(story, on_device() ? TARGET_SM_80 : TARGET_HOST);
  draw_key = random_key((uint64_t)_i, "cascade");
  drawn = 0;
  snprintf(what, sizeof(what), "story %d, %d of %d heads", _i, w.heads.kv, w.heads.query);
  w.program = compile(&w, story->statements, story->cache);
  w.plain = compile(&w, story->statements, "");
  options.sequences = 2 + MOST_SEQUENCES;
  options.tokens = (2 + MOST_SEQUENCES) * MOST_TOKENS;
  for (int round = 0; round < (on_device() ? 2 : 8); round++) {
    ok(attn_cache_create(w.program, &options, &w.cache));
    w.sequences = (int)pick(round == 0 ? 3 : 1, MOST_SEQUENCES);
    w.queries = round % 2 == 0 ? 1 : 3;
    w.common = pick(3, 12) * 8; /* not always whole pages */
    check_batch(what, &w);
    attn_cache_free(w.cache);
  }
  attn_program_free(w.program);
  attn_program_free(w.plain);
}
END_TEST

/* ---- what is refused ---- */

static void expect_error(const struct world *w, attn_arguments *launch, int64_t prefix,
                         const char *text)
{
  launch->shared_prefix = prefix;
  message[0] = '\0';
  ck_assert_int_eq(attn_launch(w->program, launch), ATTN_ERROR_ARGUMENT);
  ck_assert_msg(strstr(message, text) != NULL, "'%s' is not in '%s'", text, message);
}

/* Of the CPU's memory: it can be seen there. */
START_TEST(mistakes_are_named)
{
  struct world w = {.heads = {4, 2}, .sequences = 3, .queries = 1, .common = 32};
  attn_cache_options options = ATTN_CACHE_OPTIONS_INIT;
  attn_sequence sequences[MOST_SEQUENCES];
  attn_cache_batch *batch;
  struct array q, o, lse;
  draw_key = random_key(7, "cascade");
  if (on_device())
    return;
  w.program = compile(&w, "  mask causal\n", "  cache paged(page = 8)\n");
  options.sequences = 1 + MOST_SEQUENCES;
  options.tokens = (1 + MOST_SEQUENCES) * MOST_TOKENS;
  ok(attn_cache_create(w.program, &options, &w.cache));
  make_sequences(&w, sequences);
  append(&w, sequences[0], 0, w.lengths[0], w.lengths[0] + 20);
  ok(attn_cache_add(w.cache, &sequences[2]));
  append(&w, sequences[2], 2, 0, 24);
  array_make(&q, 3, 4, 1, DIM);
  array_make(&o, 3, 4, 1, DIM);
  array_make(&lse, 3, 4, 1, 1);
  const attn_named_tensor output = {"lse", &lse.tensor};
  attn_arguments launch = arguments();
  launch.q = &q.tensor, launch.o = &o.tensor;
  launch.outputs = &output, launch.output_count = 1;

  ok(attn_cache_begin(w.cache, sequences, NULL, 3, &batch));
  ck_assert_int_eq(attn_cache_shared_prefix(batch), 0);
  ok(attn_cache_tensors(batch, 0, &launch.cache, &launch.cache_count));
  expect_error(&w, &launch, -8, "shared_prefix is -8; it must be from 0");
  expect_error(&w, &launch, 12, "shared_prefix is 12, no multiple of the page of 8 tokens");
  expect_error(&w, &launch, 32, "lengths[2] is 24, less than shared_prefix, which is 32");
  expect_error(&w, &launch, 24, "page_table[0, 0] is ");
  ck_assert_ptr_nonnull(strstr(message, " and page_table[2, 0] is "));
  ok(attn_cache_end(batch));

  sequences[2] = 0;
  ok(attn_cache_begin(w.cache, sequences, NULL, 3, &batch));
  ck_assert_int_eq(attn_cache_shared_prefix(batch), 32);
  ok(attn_cache_tensors(batch, 0, &launch.cache, &launch.cache_count));
  launch.shared_prefix = 32;
  ok(attn_launch(w.program, &launch));
  expect_error(&w, &launch, 40, "lengths[1] is 32, less than shared_prefix, which is 40");
  ok(attn_cache_end(batch));

  launch.cache = NULL, launch.cache_count = 0;
  launch.k = launch.v = &q.tensor;
  w.heads.kv = 4;
  attn_program_free(w.program);
  w.program = compile(&w, "  mask causal\n", "");
  expect_error(&w, &launch, 32, "shared_prefix is 32, but there is no cache");
  array_free(&q);
  array_free(&o);
  array_free(&lse);
  attn_cache_free(w.cache);
  attn_program_free(w.program);
}
END_TEST

int main(void)
{
  attn_context_options options = ATTN_CONTEXT_OPTIONS_INIT;
  options.device = getenv("ATTN_TEST_DEVICE");
  options.threads = 2;
  options.error = message;
  options.error_size = sizeof(message);
  if (attn_context_create(&options, &context) != ATTN_OK) {
    fprintf(stderr, "%s\n", message);
    return 1;
  }
  message[0] = '\0';
  Suite *suite = suite_create("cascade");
  TCase *tests = tcase_create("launches");
  tcase_add_loop_test(tests, forks_agree, 0, (int)(sizeof(stories) / sizeof(*stories)));
  tcase_add_test(tests, mistakes_are_named);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_set_fork_status(runner, CK_NOFORK);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  attn_context_free(context);
  return failed == 0 ? 0 : 1;
}
