/* Caches through libattn: tokens appended in pieces of all sizes, and after each piece a launch for
 * its queries, give the rows that one launch on the contiguous keys and values of a sequence gives;
 * for every layout and storage, packed and not, on page tables that share a prefix. On the CPU, or
 * where ATTN_TEST_DEVICE says ("cuda:0"). */
#include "attn/attn.h"

#include <check.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HEADS = 4, GROUPS = 2, DIM = 16, VALUES = 16, SEQUENCES = 4, TABLE = 8, PAGE = 4 };
enum { SLOTS = TABLE * PAGE, PAGES = SEQUENCES * TABLE, MOST_ROWS = 64, TENSORS = 16 };

static char message[4096];

/* ---- tensors ---- */

/* A tensor of a launch, with a copy of it in host memory. */
struct array {
  DLTensor tensor;
  int64_t shape[5], strides[5];
  size_t bytes;
  void *host;
  attn_context *context;
};

static void array_make(attn_context *context, struct array *a, DLDataType type, int rank,
                       const int64_t *shape)
{
  *a = (struct array){.bytes = type.bits / 8u, .context = context};
  for (int d = rank; d-- > 0;) {
    a->shape[d] = shape[d];
    a->strides[d] = (int64_t)a->bytes / (type.bits / 8);
    a->bytes *= (size_t)shape[d];
  }
  a->host = calloc(a->bytes + 1, 1);
  ck_assert_ptr_nonnull(a->host);
  void *memory;
  ck_assert_int_eq(attn_memory_allocate(context, a->bytes + 1, &memory), ATTN_OK);
  a->tensor = (DLTensor){.data = memory,
                         .device = attn_context_device(context),
                         .ndim = rank,
                         .dtype = type,
                         .shape = a->shape,
                         .strides = a->strides};
}

static void array_upload(struct array *a)
{
  ck_assert_int_eq(attn_memory_upload(a->context, a->tensor.data, a->host, a->bytes, NULL),
                   ATTN_OK);
}

static void array_download(struct array *a)
{
  ck_assert_int_eq(attn_memory_download(a->context, a->host, a->tensor.data, a->bytes, NULL),
                   ATTN_OK);
}

static void array_free(struct array *a)
{
  free(a->host);
  attn_memory_free(a->context, a->tensor.data);
}

static const DLDataType f32 = {kDLFloat, 32, 1}, i32 = {kDLInt, 32, 1};

static DLDataType dlpack_of(attn_type type)
{
  switch (type) {
  case ATTN_TYPE_F16: return (DLDataType){kDLFloat, 16, 1};
  case ATTN_TYPE_BF16: return (DLDataType){kDLBfloat, 16, 1};
  case ATTN_TYPE_I32: return i32;
  case ATTN_TYPE_U8: return (DLDataType){kDLUInt, 8, 1};
  case ATTN_TYPE_I8: return (DLDataType){kDLInt, 8, 1};
  case ATTN_TYPE_ANY:
  case ATTN_TYPE_F32:
  case ATTN_TYPE_I64:
  case ATTN_TYPE_BOOL: break;
  }
  return f32;
}

/* ---- what sequences are made of ---- */

/* The element of a token that is the `position`th of its sequence. Sequences of one `story` begin
 * alike: they part at position 8. */
static float element(int what, int sequence, int64_t position, int head, int channel)
{
  const int story = sequence == 3 && position < 2 * PAGE ? 0 : sequence;
  uint32_t x = (uint32_t)(((what * 8 + story) * 4096 + position) * 1024 + head * 64 + channel);
  for (int n = 0; n < 3; n++) {
    x = (x ^ x >> 16) * 0x45d9f3bu;
    x ^= x >> 15;
  }
  return (float)(int32_t)x / 2147483648.0f;
}

static int32_t tag(int sequence, int64_t position)
{
  return (int32_t)floorf(element(3, sequence, position, 0, 0) * 4);
}

/* ---- programs ---- */

struct kind {
  const char *cache;      /* the statement */
  const char *rest;       /* others, which say what is computed */
  const char *same;       /* a cache on which one launch gives the same rows; NULL: none at all */
  bool heads_first;       /* pages are [page, head, slot, dim] in memory */
  bool single_steps_only; /* what a piece needs is gone before it is computed */
  double tolerance;
};

#define WINDOW "  mask i >= j and i - j < 17\n"
#define SINKS "  mask i >= j and (i - j < 6 or j < 2)\n"
#define ROTARY "  position rope(base = 10000.0)\n" WINDOW

static const struct kind kinds[] = {
    {"cache dense", WINDOW, NULL, false, false, 2e-5},
    {"cache paged(page = 4)", WINDOW, NULL, false, false, 2e-5},
    {"cache paged(page = 4)", WINDOW, NULL, true, false, 2e-5},
    {"cache paged(page = 4)", ROTARY, NULL, false, false, 1e-4},
    {"cache paged(page = 4), rope = read", ROTARY, NULL, false, false, 1e-4},
    {"cache ring(capacity = 30, sinks = 2)", WINDOW, NULL, false, false, 2e-5},
    {"cache ring(capacity = 6, sinks = 2)", SINKS, NULL, false, true, 2e-5},
    {"cache paged(page = 4), k = int8(axis = token), v = e4m3(axis = token)", WINDOW,
     "cache dense, k = int8(axis = token), v = e4m3(axis = token)", false, false, 2e-5},
    {"cache paged(page = 4), k = int4(axis = token, asymmetric = true), v = int2(axis = token)",
     WINDOW, "cache dense, k = int4(axis = token, asymmetric = true), v = int2(axis = token)", true,
     false, 2e-5},
};
enum { KINDS = sizeof(kinds) / sizeof(kinds[0]) };

static const attn_compile_options usual = ATTN_COMPILE_OPTIONS_INIT;

static attn_context *open_context(void)
{
  attn_context_options options = ATTN_CONTEXT_OPTIONS_INIT;
  options.device = getenv("ATTN_TEST_DEVICE");
  options.threads = 2;
  options.error = message;
  options.error_size = sizeof(message);
  attn_context *context;
  ck_assert_msg(attn_context_create(&options, &context) == ATTN_OK, "%s", message);
  return context;
}

static attn_program *compile(attn_context *context, const char *cache, const char *rest,
                             attn_compile_options options)
{
  char text[1024];
  snprintf(text, sizeof(text),
           "attention t {\n"
           "  heads q = %d, kv = %d\n"
           "  dim %d\n"
           "  type f32\n"
           "  input tag : i32[B, NK] cached\n"
           "%s"
           "  score s + 0.125 * tag[b, j]\n"
           "  %s\n"
           "  output lse\n"
           "}\n",
           HEADS, GROUPS, DIM, rest, cache);
  options.error = message;
  options.error_size = sizeof(message);
  attn_program *program;
  ck_assert_msg(attn_compile(context, text, strlen(text), "t.attn", &options, &program) == ATTN_OK,
                "%s\n%s", text, message);
  return program;
}

/* ---- caches ---- */

struct cache {
  attn_context *context;
  attn_program *program;
  const attn_program_info *info;
  int sequences;
  struct array tensors[TENSORS];
  attn_named_tensor named[TENSORS];
  int32_t lengths[SEQUENCES];
};

static struct array *find(struct cache *c, const char *name)
{
  for (size_t n = 0; n < c->info->cache_count; n++) {
    if (strcmp(c->info->cache[n].name, name) == 0)
      return &c->tensors[n];
  }
  return NULL;
}

static int64_t size_of(const struct cache *c, const char *dim)
{
  if (strcmp(dim, "B") == 0)
    return c->sequences;
  if (strcmp(dim, "table") == 0)
    return TABLE;
  if (strcmp(dim, "pages") == 0)
    return PAGES;
  return strcmp(dim, "slots") == 0 ? SLOTS : atoi(dim);
}

static void swap(int64_t *values, int a, int b)
{
  const int64_t kept = values[a];
  values[a] = values[b];
  values[b] = kept;
}

/* Pages are handed out in no order. Sequence 3 shares the first two of sequence 0. */
static void make_table(struct cache *c)
{
  struct array *table = find(c, "page_table");
  if (table == NULL)
    return;
  int32_t *entries = table->host;
  for (int32_t n = 0; n < c->sequences * TABLE; n++)
    entries[n] = (n * 11 + 5) % PAGES;
  memcpy(entries + 3 * TABLE, entries, 2 * sizeof(*entries));
  array_upload(table);
}

static void cache_make(struct cache *c, attn_context *context, const struct kind *kind,
                       attn_compile_options options)
{
  *c = (struct cache){.context = context, .sequences = SEQUENCES};
  c->program = compile(context, kind->cache, kind->rest, options);
  c->info = attn_program_describe(c->program);
  ck_assert_uint_le(c->info->cache_count, TENSORS);
  for (size_t n = 0; n < c->info->cache_count; n++) {
    const attn_tensor_info *info = &c->info->cache[n];
    int64_t shape[5];
    for (uint32_t d = 0; d < info->rank; d++)
      shape[d] = size_of(c, info->dims[d]);
    const bool swaps = kind->heads_first && info->rank == 4;
    if (swaps)
      swap(shape, 1, 2);
    struct array *a = &c->tensors[n];
    array_make(context, a, dlpack_of(info->type), (int)info->rank, shape);
    if (swaps) {
      swap(a->shape, 1, 2);
      swap(a->strides, 1, 2);
    }
    c->named[n] = (attn_named_tensor){info->name, &a->tensor};
    array_upload(a);
  }
  make_table(c);
}

static void cache_free(struct cache *c)
{
  for (size_t n = 0; n < c->info->cache_count; n++)
    array_free(&c->tensors[n]);
  attn_program_free(c->program);
}

/* ---- steps ---- */

/* Rows of o, with lse as one more channel, by sequence and position. */
struct rows {
  float values[SEQUENCES][MOST_ROWS][HEADS][VALUES + 1];
  bool known[SEQUENCES][MOST_ROWS];
};

struct step {
  int32_t added[SEQUENCES]; /* tokens of each sequence */
  bool packed;              /* else all but sequences of length 0 get the same number */
  bool on_host;             /* lengths, the page table and starts are in the CPU's memory */
};

/* The rows of a step: of `sequences`, `most` each or else packed. */
struct layout {
  int sequences;
  bool packed;
  int64_t most, total;
  int64_t starts[SEQUENCES + 1];
};

static int64_t place(const struct layout *l, int sequence, int head, int heads, int64_t row)
{
  if (l->packed)
    return (l->starts[sequence] + row) * heads + head;
  return (sequence * heads + head) * l->most + row;
}

static void make_rows(const struct cache *c, struct array *a, const struct layout *l, int heads,
                      int channels)
{
  if (l->packed)
    array_make(c->context, a, f32, 3, (int64_t[]){l->total, heads, channels});
  else
    array_make(c->context, a, f32, 4, (int64_t[]){l->sequences, heads, l->most, channels});
}

/* Fills rows with tokens that follow on those before. */
static void fill_rows(struct cache *c, struct array *a, int what, const struct layout *l,
                      const struct step *step, int heads, int channels)
{
  make_rows(c, a, l, heads, channels);
  for (int b = 0; b < l->sequences; b++) {
    for (int64_t n = 0; n < step->added[b] * heads * channels; n++) {
      const int64_t row = n / channels / heads, position = c->lengths[b] - step->added[b] + row;
      const int head = (int)(n / channels % heads), channel = (int)(n % channels);
      ((float *)a->host)[place(l, b, head, heads, row) * channels + channel] =
          element(what, b, position, head, channel);
    }
  }
  array_upload(a);
}

static void keep_rows(struct cache *c, const struct array *o, const struct array *lse,
                      const struct layout *l, const struct step *step, struct rows *rows)
{
  for (int b = 0; b < l->sequences; b++) {
    for (int64_t n = 0; n < step->added[b] * HEADS; n++) {
      const int64_t row = n / HEADS, position = c->lengths[b] - step->added[b] + row;
      const int head = (int)(n % HEADS);
      const int64_t from = place(l, b, head, HEADS, row);
      float *to = rows->values[b][position][head];
      memcpy(to, (float *)o->host + from * VALUES, VALUES * sizeof(float));
      to[VALUES] = ((float *)lse->host)[from];
      rows->known[b][position] = true;
    }
  }
}

static void ok(attn_status status)
{
  ck_assert_msg(status == ATTN_OK, "%s", message);
}

static attn_arguments arguments_of(const struct cache *c)
{
  attn_arguments arguments = ATTN_ARGUMENTS_INIT;
  arguments.error = message;
  arguments.error_size = sizeof(message);
  arguments.cache = c->named;
  arguments.cache_count = c->info->cache_count;
  return arguments;
}

/* Lengths and tables as the CPU has them, or where the launch runs. */
static void place_tables(struct cache *c, bool on_host, DLTensor tables[2])
{
  static const char *const names[] = {"lengths", "page_table"};
  memcpy(find(c, "lengths")->host, c->lengths, (size_t)c->sequences * sizeof(c->lengths[0]));
  for (int n = 0; n < 2; n++) {
    struct array *a = find(c, names[n]);
    if (a == NULL)
      continue;
    array_upload(a);
    tables[n] = a->tensor;
    if (on_host) {
      tables[n].data = a->host;
      tables[n].device = (DLDevice){kDLCPU, 0};
    }
    for (size_t t = 0; t < c->info->cache_count; t++) {
      if (strcmp(c->named[t].name, names[n]) == 0)
        c->named[t].tensor = &tables[n];
    }
  }
}

static struct layout layout_of(const struct cache *c, const struct step *step)
{
  struct layout l = {.sequences = c->sequences, .packed = step->packed};
  for (int b = 0; b < c->sequences; b++) {
    l.most = step->added[b] > l.most ? step->added[b] : l.most;
    l.starts[b + 1] = l.starts[b] + step->added[b];
  }
  l.total = l.starts[c->sequences];
  return l;
}

/* Appends, and launches for the rows of what was appended. */
static void run_step(struct cache *c, const struct step *step, struct rows *rows)
{
  struct layout l = layout_of(c, step);
  for (int b = 0; b < c->sequences; b++)
    c->lengths[b] += step->added[b];
  DLTensor tables[2];
  place_tables(c, step->on_host, tables);
  struct array q, k, v, o, lse, tags, starts;
  fill_rows(c, &q, 0, &l, step, HEADS, DIM);
  fill_rows(c, &k, 1, &l, step, GROUPS, DIM);
  fill_rows(c, &v, 2, &l, step, GROUPS, VALUES);
  make_rows(c, &o, &l, HEADS, VALUES);
  if (l.packed) {
    array_make(c->context, &tags, i32, 1, (int64_t[]){l.total});
    array_make(c->context, &lse, f32, 2, (int64_t[]){l.total, HEADS});
  } else {
    array_make(c->context, &tags, i32, 2, (int64_t[]){c->sequences, l.most});
    array_make(c->context, &lse, f32, 3, (int64_t[]){c->sequences, HEADS, l.most});
  }
  for (int b = 0; b < c->sequences; b++) {
    for (int64_t n = 0; n < step->added[b]; n++)
      ((int32_t *)tags.host)[place(&l, b, 0, 1, n)] = tag(b, c->lengths[b] - step->added[b] + n);
  }
  array_upload(&tags);
  array_make(c->context, &starts, (DLDataType){kDLInt, 64, 1}, 1, (int64_t[]){c->sequences + 1});
  memcpy(starts.host, l.starts, starts.bytes);
  array_upload(&starts);
  if (step->on_host) {
    attn_memory_free(c->context, starts.tensor.data);
    starts.tensor.data = starts.host;
    starts.tensor.device = (DLDevice){kDLCPU, 0};
  }

  attn_arguments append = arguments_of(c);
  attn_named_tensor input = {"tag", &tags.tensor}, output = {"lse", &lse.tensor};
  append.k = &k.tensor, append.v = &v.tensor;
  append.inputs = &input, append.input_count = 1;
  append.query_starts = l.packed ? &starts.tensor : NULL;
  append.max_length = step->on_host ? 0 : SLOTS;
  ok(attn_append(c->program, &append));
  attn_arguments launch = arguments_of(c);
  launch.q = &q.tensor, launch.o = &o.tensor;
  launch.outputs = &output, launch.output_count = 1;
  launch.query_starts = append.query_starts;
  launch.max_length = append.max_length;
  ok(attn_launch(c->program, &launch));
  ok(attn_sync(c->context, NULL));
  array_download(&o);
  array_download(&lse);
  keep_rows(c, &o, &lse, &l, step, rows);
  if (step->on_host)
    starts.tensor.data = NULL;
  struct array *all[] = {&q, &k, &v, &o, &lse, &tags, &starts};
  for (size_t n = 0; n < sizeof(all) / sizeof(all[0]); n++)
    array_free(all[n]);
}

/* ---- references ---- */

/* All rows of one sequence by one launch without a cache. */
static void run_plain(attn_context *context, attn_program *program, int sequence, int32_t length,
                      struct rows *rows)
{
  struct cache c = {.context = context, .sequences = 1, .lengths = {length}};
  struct step step = {.added = {length}};
  struct layout l = layout_of(&c, &step);
  struct array q, k, v, o, lse, tags;
  make_rows(&c, &q, &l, HEADS, DIM);
  make_rows(&c, &k, &l, GROUPS, DIM);
  make_rows(&c, &v, &l, GROUPS, VALUES);
  make_rows(&c, &o, &l, HEADS, VALUES);
  array_make(context, &lse, f32, 3, (int64_t[]){1, HEADS, length});
  array_make(context, &tags, i32, 2, (int64_t[]){1, length});
  struct array *all[] = {&q, &k, &v, &o, &lse, &tags};
  static const int heads[] = {HEADS, GROUPS, GROUPS};
  for (int what = 0; what < 3; what++) {
    for (int64_t n = 0; n < length * heads[what] * DIM; n++) {
      const int64_t row = n / DIM % length;
      ((float *)all[what]->host)[n] =
          element(what, sequence, row, (int)(n / DIM / length), (int)(n % DIM));
    }
    array_upload(all[what]);
  }
  for (int64_t n = 0; n < length; n++)
    ((int32_t *)tags.host)[n] = tag(sequence, n);
  array_upload(&tags);
  attn_arguments arguments = ATTN_ARGUMENTS_INIT;
  attn_named_tensor input = {"tag", &tags.tensor}, output = {"lse", &lse.tensor};
  arguments.q = &q.tensor, arguments.k = &k.tensor, arguments.v = &v.tensor;
  arguments.o = &o.tensor;
  arguments.inputs = &input, arguments.input_count = 1;
  arguments.outputs = &output, arguments.output_count = 1;
  arguments.error = message;
  arguments.error_size = sizeof(message);
  ok(attn_launch(program, &arguments));
  ok(attn_sync(context, NULL));
  array_download(&o);
  array_download(&lse);
  struct rows one = {0};
  keep_rows(&c, &o, &lse, &l, &step, &one);
  memcpy(rows->values[sequence], one.values[0], sizeof(one.values[0]));
  memcpy(rows->known[sequence], one.known[0], sizeof(one.known[0]));
  for (size_t n = 0; n < sizeof(all) / sizeof(all[0]); n++)
    array_free(all[n]);
}

static void run_reference(attn_context *context, const struct kind *kind, const int32_t *lengths,
                          struct rows *rows)
{
  if (kind->same != NULL) {
    struct cache c;
    const struct kind plain = {.cache = kind->same, .rest = kind->rest};
    struct step step = {.packed = true};
    memcpy(step.added, lengths, sizeof(step.added));
    cache_make(&c, context, &plain, usual);
    run_step(&c, &step, rows);
    cache_free(&c);
    return;
  }
  attn_program *program = compile(context, "", kind->rest, usual);
  for (int b = 0; b < SEQUENCES; b++) {
    if (lengths[b] != 0)
      run_plain(context, program, b, lengths[b], rows);
  }
  attn_program_free(program);
}

static void compare(const struct kind *kind, const struct rows *rows, const struct rows *expected)
{
  for (int n = 0; n < SEQUENCES * MOST_ROWS * HEADS * (VALUES + 1); n++) {
    const int c = n % (VALUES + 1), h = n / (VALUES + 1) % HEADS;
    const int row = n / (VALUES + 1) / HEADS % MOST_ROWS, b = n / (VALUES + 1) / HEADS / MOST_ROWS;
    if (!rows->known[b][row])
      continue;
    ck_assert(expected->known[b][row]);
    const double found = (double)rows->values[b][row][h][c];
    const double wanted = (double)expected->values[b][row][h][c];
    ck_assert_msg(fabs(found - wanted) <= kind->tolerance,
                  "%s: sequence %d, row %d, head %d, channel %d is %.9g, it must be %.9g",
                  kind->cache, b, row, h, c, found, wanted);
  }
}

/* Sequence 3 has no tokens until its first pages are those of sequence 0, which has filled them. */
static const struct step steps[] = {
    {{9, 0, 5, 0}, true, true},   {{3, 4, 1, 0}, true, false},  {{2, 2, 2, 0}, false, true},
    {{1, 1, 1, 0}, false, false}, {{1, 1, 1, 0}, false, true},  {{1, 0, 2, 0}, true, true},
    {{1, 1, 1, 0}, false, true},  {{1, 1, 1, 0}, false, false},
};
static const struct step forked[] = {{{0, 1, 0, 3}, true, true}, {{1, 1, 1, 1}, false, false}};

static void run_steps(struct cache *c, const struct kind *kind, const struct step *list,
                      size_t count, struct rows *rows)
{
  for (size_t n = 0; n < count; n++) {
    struct rows thrown_away = {0};
    const struct layout l = layout_of(c, &list[n]);
    run_step(c, &list[n], kind->single_steps_only && l.most > 1 ? &thrown_away : rows);
  }
}

START_TEST(steps_equal_one_launch)
{
  const struct kind *kind = &kinds[_i];
  attn_context *context = open_context();
  static struct rows rows, expected;
  memset(&rows, 0, sizeof(rows));
  memset(&expected, 0, sizeof(expected));
  struct cache c;
  cache_make(&c, context, kind, usual);
  run_steps(&c, kind, steps, sizeof(steps) / sizeof(steps[0]), &rows);
  if (find(&c, "page_table") != NULL) {
    c.lengths[3] = 2 * PAGE;
    run_steps(&c, kind, forked, sizeof(forked) / sizeof(forked[0]), &rows);
  }
  run_reference(context, kind, c.lengths, &expected);
  compare(kind, &rows, &expected);
  cache_free(&c);
  attn_context_free(context);
}
END_TEST

/* ---- variants ---- */

START_TEST(what_is_prepared_is_not_compiled_again)
{
  attn_context *context = open_context();
  struct cache c;
  static struct rows rows;
  cache_make(&c, context, &kinds[1], usual);
  attn_variant variants[4];
  for (int n = 0; n < 4; n++) {
    variants[n] = (attn_variant)ATTN_VARIANT_INIT;
    variants[n].on_cache = 1;
    variants[n].packed = n < 2;
    variants[n].queries = n < 2 ? 9 : 1;
    variants[n].kernel = n % 2 == 0 ? ATTN_KERNEL_APPEND : ATTN_KERNEL_ANY;
    ok(attn_program_prepare_for(c.program, &variants[n]));
  }
  const uint64_t before = attn_context_statistics(context).compilations;
  run_step(&c, &steps[0], &rows);
  run_step(&c, &steps[3], &rows);
  ck_assert_uint_eq(attn_context_statistics(context).compilations, before);
  variants[0].kernel = (attn_kernel)77;
  ck_assert_int_eq(attn_program_prepare_for(c.program, &variants[0]), ATTN_ERROR_ARGUMENT);
  variants[1].type = ATTN_TYPE_F16;
  ck_assert_int_eq(attn_program_prepare_for(c.program, &variants[1]), ATTN_ERROR_ARGUMENT);
  variants[2].size = 3;
  ck_assert_int_eq(attn_program_prepare_for(c.program, &variants[2]), ATTN_ERROR_ARGUMENT);
  cache_free(&c);
  attn_context_free(context);
}
END_TEST

/* The kernels that a program can be made with compute the same. */
START_TEST(kernels_agree)
{
  static const attn_kernel kernels[] = {ATTN_KERNEL_FORWARD, ATTN_KERNEL_DECODE};
  static struct rows rows[2];
  attn_context *context = open_context();
  memset(rows, 0, sizeof(rows));
  for (int n = 0; n < 2; n++) {
    struct cache c;
    attn_compile_options options = usual;
    options.kernel = kernels[n];
    options.decode_tasks = 64;
    options.decode_part = 1;
    cache_make(&c, context, &kinds[1], options);
    run_steps(&c, &kinds[1], steps, sizeof(steps) / sizeof(steps[0]), &rows[n]);
    cache_free(&c);
  }
  compare(&kinds[1], &rows[1], &rows[0]);
  attn_context_free(context);
}
END_TEST

/* ---- wrong tables ---- */

START_TEST(wrong_pages_are_reported)
{
  attn_context *context = open_context();
  const bool on_device = attn_context_device(context).device_type != kDLCPU;
  struct cache c;
  static struct rows rows;
  cache_make(&c, context, &kinds[1], usual);
  run_step(&c, &steps[0], &rows);
  struct array q, o, lse;
  const struct step step = {.added = {1, 1, 1, 1}};
  struct layout l = layout_of(&c, &step);
  make_rows(&c, &q, &l, HEADS, DIM);
  make_rows(&c, &o, &l, HEADS, VALUES);
  array_upload(&q);
  array_make(context, &lse, f32, 3, (int64_t[]){SEQUENCES, HEADS, 1});
  attn_named_tensor output = {"lse", &lse.tensor};
  for (int n = 0; n < 4;
       n++) { /* a page and then a length, that the host sees and that it may not */
    const bool on_host = n % 2 == 0, is_page = n < 2;
    ((int32_t *)find(&c, "page_table")->host)[2 * TABLE + 1] = is_page ? 91 : 0;
    c.lengths[0] = is_page ? 9 : 33;
    DLTensor tables[2];
    place_tables(&c, on_host, tables);
    attn_arguments launch = arguments_of(&c);
    launch.q = &q.tensor, launch.o = &o.tensor;
    launch.outputs = &output, launch.output_count = 1;
    attn_status status = attn_launch(c.program, &launch);
    if (on_host || !on_device) {
      ck_assert_int_eq(status, ATTN_ERROR_ARGUMENT);
      ck_assert_str_eq(message, is_page
                                    ? "page_table[2, 1] is 91, but k has 32 pages"
                                    : "lengths[0] is 33, more than the 32 tokens that 8 pages of 4 "
                                      "hold");
    } else { /* the host does not wait to see it; kernels touch nothing that is not there */
      ok(status);
      ck_assert_int_eq(attn_sync(context, NULL), ATTN_ERROR_FAULT);
      attn_context_error(context, message, sizeof(message));
      ck_assert_str_eq(message,
                       is_page ? "an earlier launch of 't': page_table[2, 1] is not the number of "
                                 "a page of the cache"
                               : "an earlier launch of 't': lengths[0] is negative, or more than "
                                 "the cache holds or the launch was planned for (max_length)");
    }
  }
  array_free(&q);
  array_free(&o);
  array_free(&lse);
  cache_free(&c);
  attn_context_free(context);
}
END_TEST

int main(void)
{
  Suite *suite = suite_create("cache_launch");
  TCase *tcase = tcase_create("launches");
  tcase_add_loop_test(tcase, steps_equal_one_launch, 0, KINDS);
  tcase_add_test(tcase, what_is_prepared_is_not_compiled_again);
  tcase_add_test(tcase, kernels_agree);
  tcase_add_test(tcase, wrong_pages_are_reported);
  suite_add_tcase(suite, tcase);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? 0 : 1;
}
