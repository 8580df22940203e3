/* The checks of launches on a cache and of attn_append: each wrong argument with its text, what is
 * allowed, and the views that kernels get. No code is compiled here. */
#include "runtime/launch_plan.h"
#include "runtime/tensor_check.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

#define HEAD                                                                                       \
  "attention t(width: int = 3) {\n"                                                                \
  "  heads q = 4, kv = 2\n"                                                                        \
  "  dim qk = 8, v = 6\n"                                                                          \
  "  type f32\n"
#define TAIL                                                                                       \
  "  output mass\n"                                                                                \
  "}\n"

static const char paged_text[] =
    HEAD "  input doc : i32[B, NK] cached\n"
         "  input bias : f32[H, NK]\n"
         "  mask i >= j and doc[b, j] == 0\n"
         "  score s + bias[h, j]\n"
         "  cache paged(page = 4), k = int4(axis = token), v = int8(axis = token)\n" TAIL;
static const char dense_text[] = HEAD "  mask i >= j\n"
                                      "  cache dense\n" TAIL;
static const char ring_text[] = HEAD "  mask i >= j\n"
                                     "  cache ring(capacity = 6, sinks = 2)\n" TAIL;
static const char slot_text[] =
    HEAD "  mask i >= j\n"
         "  cache ring(capacity = 6, sinks = 2), positions = slot\n" TAIL;
static const char stored_text[] = HEAD "  mask i >= j\n"
                                       "  cache paged(page = 4), positions = stored\n" TAIL;
static const char residual_text[] =
    HEAD "  mask i >= j\n"
         "  cache paged(page = 4), k = int8(axis = channel, group = 4, residual = 4), "
         "v = int8(axis = token, residual = 8)\n" TAIL;
static const char full_text[] = HEAD "  cache dense\n" TAIL;

/* A launch that passes, to be spoilt. B = 3, two queries, 5 pages a sequence. */
enum { B = 3, QUERIES = 2, TABLE = 5, PAGES = 20, SLOTS = 20 };
enum { Q, K, V, O, DOC, BIAS, MASS, STARTS, OTHERS };
static const int32_t usual_lengths[B] = {7, 0, 13};

struct setting {
  struct unit *unit;
  DLTensor others[OTHERS], cache[CACHE_MAX_TENSORS];
  int64_t other_shapes[OTHERS][4], shapes[CACHE_MAX_TENSORS][SPEC_MAX_RANK];
  int64_t strides[CACHE_MAX_TENSORS][SPEC_MAX_RANK];
  attn_named_tensor inputs[2], outputs[1], named[CACHE_MAX_TENSORS];
  attn_arguments arguments;
  struct call call;
  char text[512];
  void *memory[128]; /* what is freed in the end, wherever tensors point to by then */
  size_t memory_count;
};

static const DLDataType f32 = {kDLFloat, 32, 1}, i32 = {kDLInt, 32, 1};

static DLDataType dlpack_of(enum dtype type)
{
  switch (unit_memory_type(type)) {
  case DTYPE_I32: return i32;
  case DTYPE_U8: return (DLDataType){kDLUInt, 8, 1};
  case DTYPE_I8: return (DLDataType){kDLInt, 8, 1};
  case DTYPE_F16: return (DLDataType){kDLFloat, 16, 1};
  case DTYPE_ANY:
  case DTYPE_F32:
  case DTYPE_BF16:
  case DTYPE_I64:
  case DTYPE_BOOL:
  case DTYPE_SPEC:
  case DTYPE_E4M3:
  case DTYPE_E5M2:
  case DTYPE_I4:
  case DTYPE_I2:
  case DTYPE_COUNT: break;
  }
  return f32;
}

static void *zeros(struct setting *s, size_t bytes)
{
  void *memory = calloc(bytes, 1);
  ck_assert_ptr_nonnull(memory);
  ck_assert_uint_lt(s->memory_count, sizeof(s->memory) / sizeof(s->memory[0]));
  return s->memory[s->memory_count++] = memory;
}

static void make_tensor(struct setting *s, DLTensor *tensor, DLDataType type, int rank,
                        int64_t *shape)
{
  size_t bytes = type.bits / 8u;
  for (int d = 0; d < rank; d++)
    bytes *= (size_t)shape[d];
  *tensor = (DLTensor){.data = zeros(s, bytes + 64),
                       .device = {kDLCPU, 0},
                       .ndim = rank,
                       .dtype = type,
                       .shape = shape};
}

static void make_other(struct setting *s, int n, DLDataType type, int rank, const int64_t *shape)
{
  memcpy(s->other_shapes[n], shape, (size_t)rank * sizeof(*shape));
  make_tensor(s, &s->others[n], type, rank, s->other_shapes[n]);
}

static uint32_t number_of(const struct setting *s, const char *name)
{
  uint32_t n = 0;
  while (strcmp(s->unit->cache->tensors[n].name, name) != 0)
    ck_assert_uint_lt(++n, s->unit->cache->count);
  return n;
}

static int32_t *ints_of(struct setting *s, const char *name)
{
  return s->cache[number_of(s, name)].data;
}

static void make_cache(struct setting *s)
{
  const struct cache_plan *plan = s->unit->cache;
  for (uint32_t n = 0; n < plan->count; n++) {
    const struct cache_tensor *tensor = &plan->tensors[n];
    for (uint32_t d = 0; d < tensor->rank; d++) {
      const struct cache_dimension *dim = &tensor->dims[d];
      const int64_t sizes[] = {B, TABLE, PAGES, SLOTS / dim->quotient, dim->size, 0};
      s->shapes[n][d] = sizes[dim->kind];
    }
    s->shapes[n][tensor->rank - 1] /= tile_elements_per_byte(tensor->type);
    make_tensor(s, &s->cache[n], dlpack_of(tensor->type), (int)tensor->rank, s->shapes[n]);
    s->named[plan->count - 1 - n] = (attn_named_tensor){tensor->name, &s->cache[n]};
  }
  memcpy(ints_of(s, "lengths"), usual_lengths, sizeof(usual_lengths));
  if (cache_layout(s->unit->spec) == CACHE_PAGED) {
    for (int32_t n = 0; n < B * TABLE; n++)
      ints_of(s, "page_table")[n] = (n * 7 + 3) % PAGES;
  }
  if (cache_plan_find(plan, EXPR_TENSOR_K, CACHE_SEEN) != CACHE_NONE_SUCH)
    memcpy(ints_of(s, "seen"), usual_lengths, sizeof(usual_lengths));
  s->arguments.cache = s->named;
  s->arguments.cache_count = plan->count;
}

static struct setting *setting_new(const char *text, bool appends)
{
  struct setting *s = calloc(1, sizeof(*s));
  ck_assert_ptr_nonnull(s);
  char error[1024] = "";
  struct error_sink sink = {NULL, error, sizeof(error)};
  struct unit_source source = {.name = "t.attn", .text = text, .length = strlen(text)};
  ck_assert_msg(unit_check(&source, &sink, &s->unit) == ATTN_OK, "%s", error);
  s->unit->variant = (struct unit_variant){
      .type = DTYPE_F32, .kernel = appends ? KERNEL_APPEND : KERNEL_FORWARD, .on_cache = true};
  s->arguments = (attn_arguments)ATTN_ARGUMENTS_INIT;
  make_cache(s);
  make_other(s, Q, f32, 4, (int64_t[]){B, 4, QUERIES, 8});
  make_other(s, K, f32, 4, (int64_t[]){B, 2, QUERIES, 8});
  make_other(s, V, f32, 4, (int64_t[]){B, 2, QUERIES, 6});
  make_other(s, O, f32, 4, (int64_t[]){B, 4, QUERIES, 6});
  make_other(s, DOC, i32, 2, (int64_t[]){B, QUERIES});
  make_other(s, BIAS, f32, 2, (int64_t[]){4, 13});
  make_other(s, MASS, f32, 3, (int64_t[]){B, 4, 13});
  make_other(s, STARTS, i32, 1, (int64_t[]){B + 1});
  attn_arguments *a = &s->arguments;
  a->inputs = s->inputs;
  a->outputs = s->outputs;
  if (appends) {
    a->k = &s->others[K], a->v = &s->others[V];
    for (uint32_t n = 0; n < s->unit->cache->count; n++) {
      const enum cache_part part = s->unit->cache->tensors[n].part;
      s->unit->cache_written[n] =
          part != CACHE_LENGTHS && part != CACHE_PAGE_TABLE && part != CACHE_SEEN;
    }
    s->inputs[0] = (attn_named_tensor){"doc", &s->others[DOC]};
  } else {
    a->q = &s->others[Q], a->o = &s->others[O];
    s->inputs[0] = (attn_named_tensor){"bias", &s->others[BIAS]};
    s->outputs[0] = (attn_named_tensor){"mass", &s->others[MASS]};
    a->output_count = 1;
  }
  a->input_count = s->unit->spec->input_count == 0 ? 0 : 1;
  return s;
}

static void setting_free(struct setting *s)
{
  for (size_t n = 0; n < s->memory_count; n++)
    free(s->memory[n]);
  unit_release(s->unit);
  free(s);
}

/* Sequences of different numbers of rows. */
static void pack(struct setting *s, int32_t a, int32_t b, int32_t c)
{
  const int32_t starts[] = {0, a, a + b, a + b + c};
  memcpy(s->others[STARTS].data, starts, sizeof(starts));
  s->arguments.query_starts = &s->others[STARTS];
  s->unit->variant.packed_queries = true;
  const int total = starts[3];
  const struct {
    int tensor, rank;
    int64_t shape[3];
  } packed[] = {{Q, 3, {total, 4, 8}},
                {K, 3, {total, 2, 8}},
                {V, 3, {total, 2, 6}},
                {O, 3, {total, 4, 6}},
                {DOC, 1, {total}}};
  for (size_t n = 0; n < sizeof(packed) / sizeof(packed[0]); n++)
    make_other(s, packed[n].tensor, s->others[packed[n].tensor].dtype, packed[n].rank,
               packed[n].shape);
}

static attn_status check(struct setting *s)
{
  struct error_sink sink = {NULL, s->text, sizeof(s->text)};
  s->text[0] = '\0';
  struct unit_evaluator *evaluator = unit_take_evaluator(s->unit);
  ck_assert_ptr_nonnull(evaluator);
  attn_status status = arguments_check(s->unit, &s->arguments, evaluator, &sink, &s->call);
  unit_give_evaluator(s->unit, evaluator);
  return status;
}

/* What is done to a launch that passes, and the text. */
#define WRONG_IN(spec, appends, says, ...)                                                         \
  do {                                                                                             \
    struct setting *s = setting_new(spec, appends);                                                \
    __VA_ARGS__;                                                                                   \
    ck_assert_int_eq(check(s), ATTN_ERROR_ARGUMENT);                                               \
    ck_assert_str_eq(s->text, says);                                                               \
    setting_free(s);                                                                               \
  } while (0)
#define WRONG(says, ...) WRONG_IN(paged_text, false, says, __VA_ARGS__)
#define WRONG_APPEND(says, ...) WRONG_IN(paged_text, true, says, __VA_ARGS__)

#define RIGHT_IN(spec, appends, ...)                                                               \
  do {                                                                                             \
    struct setting *s = setting_new(spec, appends);                                                \
    __VA_ARGS__;                                                                                   \
    ck_assert_msg(check(s) == ATTN_OK, "%s", s->text);                                             \
    setting_free(s);                                                                               \
  } while (0)
#define RIGHT(...) RIGHT_IN(paged_text, false, __VA_ARGS__)
#define RIGHT_APPEND(...) RIGHT_IN(paged_text, true, __VA_ARGS__)

static DLTensor *tensor(struct setting *s, const char *name)
{
  return &s->cache[number_of(s, name)];
}
static int64_t *shape(struct setting *s, const char *name)
{
  return s->shapes[number_of(s, name)];
}
static void set_length(struct setting *s, int b, int32_t length)
{
  ints_of(s, "lengths")[b] = length;
}
static void set_page(struct setting *s, int b, int t, int32_t page)
{
  ints_of(s, "page_table")[b * TABLE + t] = page;
}
static void set_strides(struct setting *s, const char *name, int64_t a, int64_t b, int64_t c,
                        int64_t d)
{
  const uint32_t n = number_of(s, name);
  const int64_t strides[] = {a, b, c, d};
  memcpy(s->strides[n], strides, sizeof(strides));
  s->cache[n].strides = s->strides[n];
}
static void set_lengths(struct setting *s, int32_t a, int32_t b, int32_t c)
{
  set_length(s, 0, a);
  set_length(s, 1, b);
  set_length(s, 2, c);
}

/* NK, of what is not in the cache. */
static void set_keys(struct setting *s, int64_t keys)
{
  make_other(s, BIAS, f32, 2, (int64_t[]){4, keys});
  make_other(s, MASS, f32, 3, (int64_t[]){B, 4, keys});
}

START_TEST(right_arguments_are_bound)
{
  RIGHT(ck_assert_msg(check(s) == ATTN_OK, "%s", s->text); ck_assert_int_eq(s->call.batch, B);
        ck_assert_int_eq(s->call.max_queries, QUERIES); ck_assert_int_eq(s->call.max_keys, 13);
        ck_assert_int_eq(s->call.max_length, 13); ck_assert_int_eq(s->call.pages, PAGES);
        ck_assert_int_eq(s->call.table, TABLE); ck_assert_int_eq(s->call.slots, -1);
        ck_assert_uint_eq(s->call.k.rank, 0); ck_assert(s->call.inputs[0].empty);
        ck_assert_ptr_eq(s->call.cache[number_of(s, "v")].data, tensor(s, "v")->data));
  RIGHT_APPEND(ck_assert_msg(check(s) == ATTN_OK, "%s", s->text);
               ck_assert_int_eq(s->call.max_keys, QUERIES);
               ck_assert_int_eq(s->call.max_length, 13); ck_assert_uint_eq(s->call.q.rank, 0);
               ck_assert_ptr_eq(s->call.inputs[0].data, s->others[DOC].data);
               ck_assert(s->call.inputs[1].empty));
  RIGHT_IN(dense_text, false, (void)0);
  RIGHT_IN(dense_text, true, (void)0);
  RIGHT_IN(ring_text, false, (void)0);
  RIGHT_IN(stored_text, true, (void)0);
  RIGHT_IN(residual_text, true, (void)0);
  RIGHT(pack(s, 2, 1, 4); ck_assert_msg(check(s) == ATTN_OK, "%s", s->text);
        ck_assert_int_eq(s->call.max_queries, 4); ck_assert_int_eq(s->call.total_queries, 7));
  RIGHT_APPEND(pack(s, 7, 0, 1); ck_assert_msg(check(s) == ATTN_OK, "%s", s->text);
               ck_assert_int_eq(s->call.max_keys, 7));
}
END_TEST

/* The descriptions that programs get. */
START_TEST(tensors_are_described)
{
  struct setting *s = setting_new(paged_text, false);
  static const struct {
    const char *name;
    attn_type type;
    uint32_t rank;
    const char *dims[4];
  } expected[] = {{"lengths", ATTN_TYPE_I32, 1, {"B"}},
                  {"page_table", ATTN_TYPE_I32, 2, {"B", "table"}},
                  {"k", ATTN_TYPE_U8, 4, {"pages", "4", "2", "4"}},
                  {"k.scale", ATTN_TYPE_F16, 4, {"pages", "4", "2", "1"}},
                  {"v", ATTN_TYPE_I8, 4, {"pages", "4", "2", "6"}},
                  {"v.scale", ATTN_TYPE_F32, 4, {"pages", "4", "2", "1"}},
                  {"doc", ATTN_TYPE_I32, 2, {"pages", "4"}}};
  const attn_program_info *info = &s->unit->info;
  ck_assert_uint_eq(info->cache_count, sizeof(expected) / sizeof(expected[0]));
  for (size_t n = 0; n < info->cache_count; n++) {
    ck_assert_str_eq(info->cache[n].name, expected[n].name);
    ck_assert_int_eq(info->cache[n].type, expected[n].type);
    ck_assert_uint_eq(info->cache[n].rank, expected[n].rank);
    for (uint32_t d = 0; d < info->cache[n].rank; d++)
      ck_assert_str_eq(info->cache[n].dims[d], expected[n].dims[d]);
  }
  setting_free(s);
}
END_TEST

START_TEST(wrong_tensors)
{
  WRONG("cache tensor 'doc' is missing", s->arguments.cache = s->named + 1,
        s->arguments.cache_count--);
  WRONG("cache tensor 'k' is given twice", s->named[0].name = "k");
  WRONG("cache tensor 'doc' is NULL", s->named[0].tensor = NULL);
  WRONG("cache[2] has no name", s->named[2].name = NULL);
  WRONG("cache is NULL but cache_count is 7", s->arguments.cache = NULL);
  WRONG("'t' has no cache tensor 'page_tabel'; did you mean 'page_table'?",
        s->named[5].name = "page_tabel");
  WRONG("cache tensor 'k': the type is f32, it must be u8, which holds the codes of int4",
        tensor(s, "k")->dtype = f32);
  WRONG("cache tensor 'v': the type is u8, it must be int8",
        tensor(s, "v")->dtype = dlpack_of(DTYPE_U8));
  WRONG("cache tensor 'k.scale': the type is f32, it must be f16",
        tensor(s, "k.scale")->dtype = f32);
  WRONG("cache tensor 'k' has 3 dimensions, it needs 4: [pages, 4, 2, 4]",
        tensor(s, "k")->ndim = 3);
  WRONG("cache tensor 'k': dimension 3 is 8, it must be 4", shape(s, "k")[3] = 8);
  WRONG("cache tensor 'v': dimension 1 is 3, it must be 4", shape(s, "v")[1] = 3);
  WRONG("cache tensor 'v': dimension 0 is 19 but pages is 20 (from k)", shape(s, "v")[0] = 19);
  WRONG("cache tensor 'page_table': dimension 0 is 2 but B is 3 (from lengths)",
        shape(s, "page_table")[0] = 2);
  WRONG("cache tensor 'doc' is on cuda:0; this context computes on the cpu",
        tensor(s, "doc")->device.device_type = kDLCUDA);
  WRONG("cache tensor 'k': the last stride is 2, it must be 1: a cache is not copied",
        set_strides(s, "k", 64, 16, 8, 2));
  WRONG("cache tensor 'k' has no data (NULL)", tensor(s, "k")->data = NULL);
  WRONG_IN(dense_text, false, "cache tensor 'v': dimension 1 is 19 but slots is 20 (from k)",
           shape(s, "v")[1] = 19);
  WRONG_IN(ring_text, false, "cache tensor 'k': dimension 1 is 9, it must be 8",
           shape(s, "k")[1] = 9);
}
END_TEST

START_TEST(wrong_others)
{
  WRONG("k must be NULL: keys and values are read from the cache", s->arguments.k = &s->others[K]);
  WRONG("v must be NULL: keys and values are read from the cache", s->arguments.v = &s->others[V]);
  WRONG("key_starts must be NULL: the cache's lengths say how many keys there are",
        s->arguments.key_starts = &s->others[STARTS]);
  WRONG("q: dimension 0 is 2 but B is 3 (from lengths)", s->other_shapes[Q][0] = 2);
  WRONG("o: dimension 2 is 1 but NQ is 2 (from q)", s->other_shapes[O][2] = 1);
  WRONG("input 'doc' must not be given: it is read from the cache",
        s->inputs[1] = (attn_named_tensor){"doc", &s->others[DOC]}, s->arguments.input_count = 2);
  WRONG("input 'bias': dimension 1 is 14 but NK is 13 (from max_length)",
        s->other_shapes[BIAS][1] = 14);
  WRONG("output 'mass': dimension 2 is 14 but NK is 13 (from max_length)",
        s->other_shapes[MASS][2] = 14);
  WRONG("query_starts: dimension 0 is 3 but B + 1 is 4 (from lengths)", pack(s, 2, 2, 2),
        s->other_shapes[STARTS][0] = 3);
  WRONG("q: dimension 0 is 5 but the total of queries is 6 (from query_starts)", pack(s, 2, 2, 2),
        s->other_shapes[Q][0] = 5, s->others[Q].shape = s->other_shapes[Q]);
  WRONG("max_length is -1; it must be from 0 to 2147483647", s->arguments.max_length = -1);

  WRONG_APPEND("q must be NULL: attn_append takes k and v", s->arguments.q = &s->others[Q]);
  WRONG_APPEND("o must be NULL: attn_append takes k and v", s->arguments.o = &s->others[O]);
  WRONG_APPEND("v is missing", s->arguments.v = NULL);
  WRONG_APPEND("k: dimension 0 is 2 but B is 3 (from lengths)", s->other_shapes[K][0] = 2);
  WRONG_APPEND("v: dimension 2 is 1 but NK is 2 (from k)", s->other_shapes[V][2] = 1);
  WRONG_APPEND("input 'doc' is missing", s->arguments.input_count = 0);
  WRONG_APPEND("input 'doc': dimension 1 is 3 but NK is 2 (from k)", s->other_shapes[DOC][1] = 3);
  WRONG_APPEND("input 'bias' is missing", s->unit->inputs_used = 2);
  WRONG_APPEND("output_count is 1; attn_append has no outputs", s->arguments.output_count = 1);
  WRONG_APPEND("k: dimension 0 is 4 but the total of keys is 6 (from query_starts)",
               pack(s, 2, 2, 2), s->other_shapes[K][0] = 4);
  /* An input that is not needed is not looked at. */
  RIGHT_APPEND(s->inputs[1] = (attn_named_tensor){"bias", &s->others[K]},
               s->arguments.input_count = 2);
}
END_TEST

START_TEST(wrong_lengths)
{
  WRONG("lengths[1] is -1; it must be 0 or more", set_length(s, 1, -1));
  WRONG("lengths[2] is 21, more than the 20 tokens that 5 pages of 4 hold", set_length(s, 2, 21));
  WRONG("lengths[2] is 2147483647, more than the 20 tokens that 5 pages of 4 hold",
        set_length(s, 2, INT32_MAX));
  WRONG("lengths[0] is 1, less than the 2 queries of that sequence, which it counts too",
        set_length(s, 0, 1));
  WRONG("lengths[2] is 13, more than max_length, which is 12", s->arguments.max_length = 12);
  WRONG("lengths[0] is 7, less than the 8 queries of that sequence, which it counts too",
        pack(s, 8, 0, 1));
  WRONG_IN(dense_text, false, "lengths[0] is 21, more than the 20 slots of k",
           set_length(s, 0, 21));
  WRONG_IN(stored_text, false, "seen[2] is 12, less than lengths[2], which is 13",
           ints_of(s, "seen")[2] = 12);
  WRONG_APPEND("lengths[0] is 1, less than the 2 new tokens of that sequence, which it counts too",
               set_length(s, 0, 1));
  /* Sequences without tokens, whole tables, more than there is for now. */
  RIGHT(set_lengths(s, 0, 0, 0), s->arguments.max_length = 13);
  RIGHT(set_lengths(s, 20, 2, 0), set_keys(s, 20));
  RIGHT(set_lengths(s, 20, 2, 0), set_keys(s, 30), s->arguments.max_length = 30);
  RIGHT_APPEND(set_lengths(s, 0, 0, 0));
  /* Queries of a mask that does not ask where they are. */
  RIGHT_IN(full_text, false, set_length(s, 0, 1));
}
END_TEST

/* What a launch on a ring goes over: all positions, or what is kept. */
START_TEST(rings_hold_the_newest)
{
  RIGHT_IN(ring_text, false, set_length(s, 0, 1000), set_keys(s, 1000));
  RIGHT_IN(slot_text, false, set_length(s, 0, 1000), set_keys(s, 8);
           ck_assert_msg(check(s) == ATTN_OK, "%s", s->text);
           ck_assert_int_eq(s->call.max_keys, 8));
  RIGHT_IN(slot_text, false, set_length(s, 0, 1000), set_keys(s, 8),
           s->arguments.max_length = 5000);
  WRONG_IN(ring_text, false, "lengths[0] is 1000, more than max_length, which is 999",
           set_length(s, 0, 1000), s->arguments.max_length = 999);
}
END_TEST

START_TEST(wrong_pages)
{
  WRONG("page_table[2, 3] is 20, but k has 20 pages", set_page(s, 2, 3, 20));
  WRONG("page_table[0, 1] is -1, but k has 20 pages", set_page(s, 0, 1, -1));
  WRONG("page_table[2, 0] is 2147483647, but k has 20 pages", set_page(s, 2, 0, INT32_MAX));
  /* Entries beyond a length are not looked at, and reading shares pages. */
  RIGHT(set_page(s, 1, 0, -1), set_page(s, 0, 2, 99), set_page(s, 2, 4, 99));
  RIGHT(set_page(s, 0, 0, 5), set_page(s, 2, 0, 5));

  WRONG_APPEND("page_table[2, 3] is 64, but k has 20 pages", set_page(s, 2, 3, 64));
  WRONG_APPEND(
      "page_table[0, 1] and page_table[2, 3] are both page 9, and new tokens of both would "
      "be written there",
      set_page(s, 0, 1, 9), set_page(s, 2, 3, 9));
  WRONG_APPEND(
      "page_table[2, 2] and page_table[2, 3] are both page 9, and new tokens of both would "
      "be written there",
      pack(s, 0, 0, 2), set_page(s, 2, 2, 9), set_page(s, 2, 3, 9));
  /* What is not written may be shared, and is not looked at. */
  RIGHT_APPEND(set_page(s, 0, 0, 9), set_page(s, 2, 0, 9), set_page(s, 2, 1, 77));
  RIGHT_APPEND(pack(s, 1, 0, 0), set_page(s, 0, 1, 9), set_page(s, 2, 3, 9));
}
END_TEST

/* With a residual it is not the new tokens that go to pages. Sequences of 7 and 13 tokens, two of
 * them new: keys of 13 leave in fours at a multiple of four, so 8 to 11 when the twelfth came;
 * values leave one by one, 8 tokens later. */
START_TEST(residuals_leave_later)
{
  static const char both[] =
      "page_table[0, 0] and page_table[2, 2] are both page 9, and new tokens "
      "of both would be written there";
  RIGHT_IN(residual_text, true, set_page(s, 0, 1, 9), set_page(s, 2, 3, 9));
  RIGHT_IN(residual_text, true, set_page(s, 0, 0, 9), set_page(s, 2, 2, 9));
  WRONG_IN(residual_text, true, both, set_page(s, 0, 0, 9), set_page(s, 2, 2, 9), pack(s, 4, 0, 2));
  RIGHT_IN(residual_text, true, set_page(s, 0, 0, 9), set_page(s, 2, 1, 9));
  /* Values 3 and 4 of the last one: pages 0 and 1. */
  WRONG_IN(residual_text, true,
           "page_table[0, 0] and page_table[2, 1] are both page 9, and new tokens of both would be "
           "written there",
           set_page(s, 0, 0, 9), set_page(s, 2, 1, 9), pack(s, 4, 0, 2));
}
END_TEST

/* Many sequences, so that the table of claims is allocated. */
START_TEST(long_appends)
{
  enum { LONG = 4 * 600 };
  for (int spoilt = 0; spoilt < 2; spoilt++) {
    struct setting *s = setting_new(paged_text, true);
    static const char *const in_pages[] = {"k", "k.scale", "v", "v.scale", "doc"};
    for (size_t n = 0; n < sizeof(in_pages) / sizeof(in_pages[0]); n++) {
      DLTensor *t = tensor(s, in_pages[n]);
      shape(s, in_pages[n])[0] = 3 * 600;
      make_tensor(s, t, t->dtype, t->ndim, shape(s, in_pages[n]));
    }
    DLTensor *table = tensor(s, "page_table");
    shape(s, "page_table")[1] = 600;
    make_tensor(s, table, i32, 2, shape(s, "page_table"));
    for (int32_t n = 0; n < 3 * 600; n++)
      ((int32_t *)table->data)[n] = 3 * 600 - 1 - n;
    set_lengths(s, LONG, LONG, LONG);
    pack(s, LONG, LONG, LONG);
    if (spoilt)
      ((int32_t *)table->data)[1700] = 1799;
    ck_assert_int_eq(check(s), spoilt ? ATTN_ERROR_ARGUMENT : ATTN_OK);
    ck_assert_str_eq(s->text, spoilt ? "page_table[0, 0] and page_table[2, 500] are both page "
                                       "1799, and new tokens of both would be written there"
                                     : "");
    setting_free(s);
  }
}
END_TEST

/* ---- memory ---- */

/* Puts k, its scales and v of each token into one row of 32 bytes: 2 heads of 4 bytes, 2 scales,
 * and 12 bytes of values from `values` on. */
static void interleave(struct setting *s, int64_t values)
{
  unsigned char *row = zeros(s, (PAGES * 4 + 1) * 32);
  tensor(s, "k")->data = row;
  tensor(s, "k.scale")->data = row + 8;
  tensor(s, "v")->data = row + values;
  set_strides(s, "k", 4 * 32, 32, 4, 1);
  set_strides(s, "k.scale", 4 * 16, 16, 1, 1);
  set_strides(s, "v", 4 * 32, 32, 6, 1);
}

#define MEET(a, b) "cache tensor '" a "' is written, but its memory overlaps that of " b

START_TEST(tensors_in_one_row)
{
  for (int64_t values = 12; values <= 20; values++)
    RIGHT_APPEND(interleave(s, values));
  WRONG_APPEND(MEET("k", "cache tensor 'v'"), interleave(s, 0));
  WRONG_APPEND(MEET("k", "cache tensor 'v'"), interleave(s, 7));
  WRONG_APPEND(MEET("k.scale", "cache tensor 'v'"), interleave(s, 8));
  WRONG_APPEND(MEET("k.scale", "cache tensor 'v'"), interleave(s, 11));
  WRONG_APPEND(MEET("k", "cache tensor 'v'"), interleave(s, 21)); /* that of the next row */
}
END_TEST

START_TEST(wrong_memory)
{
  WRONG_APPEND(MEET("k", "k"), tensor(s, "k")->data = s->others[K].data);
  WRONG_APPEND(MEET("k.scale", "v"), tensor(s, "k.scale")->data = s->others[V].data);
  WRONG_APPEND(MEET("doc", "input 'doc'"), tensor(s, "doc")->data = s->others[DOC].data);
  WRONG_APPEND(MEET("k", "query_starts"), pack(s, 2, 2, 2),
               tensor(s, "k")->data = s->others[STARTS].data);
  WRONG_APPEND(MEET("doc", "cache tensor 'lengths'"),
               tensor(s, "lengths")->data = (int32_t *)tensor(s, "doc")->data + 9,
               memcpy(tensor(s, "lengths")->data, usual_lengths, sizeof(usual_lengths)));
  WRONG("o is written, but its memory overlaps that of cache tensor 'k'",
        s->others[O].data = (char *)tensor(s, "k")->data + 64);
  WRONG("output 'mass' is written, but its memory overlaps that of cache tensor 'v'",
        s->others[MASS].data = (char *)tensor(s, "v")->data + 64);
  RIGHT(tensor(s, "v.scale")->data = s->others[Q].data); /* nobody writes there */
}
END_TEST

START_TEST(read_tensors_may_repeat)
{
  /* One page for all, one scale for all. */
  RIGHT(set_strides(s, "k", 0, 8, 4, 1), set_strides(s, "k.scale", 0, 0, 0, 1));
  WRONG_APPEND("cache tensor 'k' is written, but with the stride 0 of dimension 0 its elements "
               "share memory",
               set_strides(s, "k", 0, 8, 4, 1));
}
END_TEST

/* ---- what kernels are given ---- */

START_TEST(kernels_see_codes)
{
  struct setting *s = setting_new(paged_text, false);
  struct arena arena;
  arena_init(&arena);
  ck_assert(!arena_guard(&arena));
  struct expr_pool pool;
  expr_pool_init(&pool, &arena);
  struct tile_kernel *kernel = tile_kernel_new(tile_program_new(&arena, &pool), "k");
  const uint32_t k = number_of(s, "k");
  static const enum dtype elements[] = {DTYPE_I4, DTYPE_U8, DTYPE_I2};
  for (size_t n = 0; n < 3; n++)
    tile_add_tensor(kernel, (struct tile_tensor){.name = "k",
                                                 .element = elements[n],
                                                 .rank = 4,
                                                 .role = TILE_ROLE_CACHE,
                                                 .role_index = k});
  static const enum tile_role sizes[] = {TILE_ROLE_SIZE_NK, TILE_ROLE_SIZE_TABLE,
                                         TILE_ROLE_SIZE_PAGES};
  for (size_t n = 0; n < 3; n++)
    tile_add_param(kernel, (struct tile_param){.name = "n", .type = EXPR_INT, .role = sizes[n]});
  set_strides(s, "k", 100, 25, 5, 1);
  tensor(s, "k")->data = zeros(s, PAGES * 100);
  ck_assert_msg(check(s) == ATTN_OK, "%s", s->text);

  struct launch_plan *plan = calloc(1, sizeof(*plan));
  ck_assert_ptr_nonnull(plan);
  const struct error_sink sink = {NULL, s->text, sizeof(s->text)};
  plan->unit = s->unit;
  plan->sink = &sink;
  plan->call = s->call;
  int64_t slots[3 * 9 + 3 + 1];
  ck_assert_int_eq(launch_fill_slots(plan, kernel, slots, 77), ATTN_OK);
  const int64_t data = (int64_t)(intptr_t)tensor(s, "k")->data;
  const int64_t expected[] = {data, 200, 50, 10, 1,  20, 4,     2,     8,   data, 100,
                              25,   5,   1,  20, 4,  2,  4,     data,  400, 100,  20,
                              1,    20,  4,  2,  16, 13, TABLE, PAGES, 77};
  ck_assert_uint_eq(sizeof(expected), sizeof(slots));
  for (size_t n = 0; n < sizeof(slots) / sizeof(slots[0]); n++)
    ck_assert_msg(slots[n] == expected[n], "slot %zu is %lld", n, (long long)slots[n]);

  /* The pieces of a fault's report. */
  const struct tile_fault_site site = {
      .tensor = EXPR_TENSOR_CACHE + k, .dim = 0, .span = {.source = UINT32_MAX}};
  ck_assert_int_eq(launch_fault_size(plan, &site), PAGES);
  ck_assert_int_eq(launch_report_fault(s->unit, &sink, "", &site, 91, PAGES), ATTN_ERROR_FAULT);
  ck_assert_str_eq(s->text,
                   "cache tensor 'k': index 91 is out of range for dimension 0 of size 20");
  free(plan);
  arena_free(&arena);
  setting_free(s);
}
END_TEST

int main(void)
{
  Suite *suite = suite_create("cache_arguments");
  TCase *tcase = tcase_create("checks");
  tcase_add_test(tcase, right_arguments_are_bound);
  tcase_add_test(tcase, tensors_are_described);
  tcase_add_test(tcase, wrong_tensors);
  tcase_add_test(tcase, wrong_others);
  tcase_add_test(tcase, wrong_lengths);
  tcase_add_test(tcase, rings_hold_the_newest);
  tcase_add_test(tcase, wrong_pages);
  tcase_add_test(tcase, residuals_leave_later);
  tcase_add_test(tcase, long_appends);
  tcase_add_test(tcase, tensors_in_one_row);
  tcase_add_test(tcase, wrong_memory);
  tcase_add_test(tcase, read_tensors_may_repeat);
  tcase_add_test(tcase, kernels_see_codes);
  suite_add_tcase(suite, tcase);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? 0 : 1;
}
