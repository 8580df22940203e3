/* The cache manager: options, how the tensors of a batch lie, and what they take.
 * test_cache_states.c is about what may be done when, test_cache_random.c goes through the
 * operations. */
#include "tests/unit/cache_world.h"

/* ---- options ---- */

static void refused_option(struct world *w, const attn_cache_options *options, const char *text)
{
  ck_assert_int_eq(try_cache(w, options), ATTN_ERROR_ARGUMENT);
  ck_assert_ptr_null(w->cache);
  ASSERT_SAYS(text);
}

START_TEST(wrong_options)
{
  struct world w;
  open_paged(&w, 1, 4);
  attn_cache_free(w.cache);
  const attn_cache_options good = options_with(2, 8);
  attn_cache_options options = good;
  options.layers = 0;
  refused_option(&w, &options, "layers is 0; a cache has 1 to 65536");
  options = options_with(0, 8);
  refused_option(&w, &options, "sequences is 0; a cache has 1 to 1048576");
  options = options_with(2, 0);
  refused_option(&w, &options, "tokens is 0; say how many all sequences may have together");
  options = options_with(2, UINT64_MAX);
  refused_option(&w, &options, "tokens is 18446744073709551615; a cache has at most 2147483647");
  options = good, options.order = (attn_cache_order)7;
  refused_option(&w, &options, "order is 7");
  options = good, options.type = ATTN_TYPE_F16;
  refused_option(&w, &options, "type is f16, but 't' takes f32");
  options = good, options.stream = &w;
  refused_option(&w, &options, "stream must be NULL on the cpu");
  options = good, options.layers = 4;
  options.producers = (const uint32_t[]){0, 0, 9, 3};
  refused_option(&w, &options, "producers[2] is 9, but there are 4 layers");
  options.producers = (const uint32_t[]){0, 0, 1, 3};
  refused_option(&w, &options,
                 "producers[2] is 1, which has no keys and values of its own: "
                 "producers[1] is 0");
  options = good, options.param_count = 1;
  refused_option(&w, &options, "params is NULL but param_count is 1");
  const attn_param param = attn_param_int("size", 3);
  options.params = &param;
  refused_option(&w, &options, "'t' has no parameter 'size'");
  unit_release(w.unit);
  w.unit = unit_of("attention t {\n  heads 8\n  dim 128\n  type f32\n}\n");
  options = options_with(1 << 20, INT32_MAX);
  options.layers = 65536;
  ck_assert_int_eq(try_cache(&w, &options), ATTN_ERROR_OUT_OF_MEMORY);
  ASSERT_SAYS("a cache of this size does not fit into the address space");
  options = options_with(1, UINT64_C(1) << 32);
  refused_option(&w, &options,
                 "tokens is 4294967296; a cache has at most 2147483647 of a sequence");
  ck_assert_int_eq(attn_cache_create(NULL, &good, &w.cache), ATTN_ERROR_ARGUMENT);
  w.cache = NULL;
  world_close(&w);
}
END_TEST

/* With a program, whose context and spec the cache keeps. */
START_TEST(made_from_a_program)
{
  static const char text[] = "attention plain {\n  heads 2\n  dim 8\n}\n";
  attn_context *context;
  attn_program *program;
  attn_cache *cache;
  attn_sequence sequence;
  ck_assert_int_eq(attn_context_create(NULL, &context), ATTN_OK);
  ck_assert_int_eq(attn_compile(context, text, strlen(text), NULL, NULL, &program), ATTN_OK);
  attn_cache_options options = options_with(1, 10);
  options.error = message;
  options.error_size = sizeof(message);
  ck_assert_int_eq(attn_cache_create(program, &options, &cache), ATTN_ERROR_ARGUMENT);
  ASSERT_SAYS("type is any; say which of f32, f16 and bf16 'plain' will be launched with");
  options.type = ATTN_TYPE_BF16;
  options.size = 3;
  ck_assert_int_eq(attn_cache_create(program, &options, &cache), ATTN_ERROR_ARGUMENT);
  error_of(context);
  ASSERT_SAYS("begin with ATTN_CACHE_OPTIONS_INIT");
  options.size = sizeof(options);
  ck_assert_int_eq(attn_cache_create(program, &options, &cache), ATTN_OK);
  attn_program_free(program);
  attn_context_free(context);
  ck_assert_int_eq(attn_cache_add(cache, &sequence), ATTN_OK);
  ck_assert_double_eq(attn_cache_memory(cache).token_bytes, 2 * 2 * 8 * 2);
  attn_cache_free(cache);
  attn_cache_free(NULL);
}
END_TEST

/* ---- tensors ---- */

static void has_shape(const struct view *view, const char *name, DLDataType type, int rank,
                      const int64_t *shape, const int64_t *strides)
{
  const DLTensor *t = find_tensor(view, name);
  ck_assert_msg(t != NULL, "there is no %s", name);
  ck_assert_msg(t->dtype.code == type.code && t->dtype.bits == type.bits && t->dtype.lanes == 1,
                "the type of %s", name);
  ck_assert_int_eq(t->ndim, rank);
  for (int d = 0; d < rank; d++) {
    ck_assert_msg(t->shape[d] == shape[d], "%s: dimension %d is %lld", name, d,
                  (long long)t->shape[d]);
    ck_assert_msg(t->strides[d] == strides[d], "%s: stride %d is %lld", name, d,
                  (long long)t->strides[d]);
  }
}
#define SHAPE(...) ((const int64_t[]){__VA_ARGS__})

static const DLDataType f32 = {kDLFloat, 32, 1}, f16 = {kDLFloat, 16, 1}, u8 = {kDLUInt, 8, 1},
                        i8 = {kDLInt, 8, 1}, i32 = {kDLInt, 32, 1};

START_TEST(tensors_of_pages)
{
  struct world w;
  open_paged(&w, 3, 18);
  const attn_sequence sequences[3] = {added(&w), 0, added(&w)};
  append(&w, sequences[0], 9, 1);
  attn_cache_batch *batch;
  ck_assert_int_eq(attn_cache_begin(w.cache, sequences, NULL, 3, &batch), ATTN_OK);
  const struct view view = view_of(&w, batch, 0);
  ck_assert_uint_eq(view.count, 7);
  has_shape(&view, "lengths", i32, 1, SHAPE(3), SHAPE(1));
  has_shape(&view, "seen", i32, 1, SHAPE(3), SHAPE(1));
  has_shape(&view, "page_table", i32, 2, SHAPE(3, 3), SHAPE(3, 1));
  has_shape(&view, "positions", i32, 2, SHAPE(5, 4), SHAPE(4, 1));
  has_shape(&view, "k", f32, 4, SHAPE(5, 4, 2, 4), SHAPE(32, 4, 16, 1));
  has_shape(&view, "v", f32, 4, SHAPE(5, 4, 2, 3), SHAPE(24, 3, 12, 1));
  has_shape(&view, "tag", u8, 2, SHAPE(5, 4), SHAPE(4, 1));
  for (int n = 0; n < 3; n++)
    ck_assert_int_eq(table_entry(&view, "lengths", n, 0), n == 0 ? 9 : 0);
  ck_assert_int_eq(attn_cache_max_length(batch), 9);
  ck_assert_int_eq(attn_cache_max_length(NULL), 0);
  const attn_named_tensor *tensors;
  size_t count;
  REFUSED(&w, attn_cache_tensors(batch, 1, &tensors, &count), "layer 1: the cache has 1");
  ck_assert_int_eq(attn_cache_cancel(batch), ATTN_OK);
  ck_assert_int_eq(attn_cache_cancel(NULL), ATTN_OK);
  ck_assert_int_eq(attn_cache_begin(w.cache, NULL, NULL, 0, &batch), ATTN_OK);
  ck_assert_int_eq(find_tensor(&view, "k")->ndim, 4);
  ck_assert_int_eq(attn_cache_end(batch), ATTN_OK);
  REFUSED(&w, attn_cache_end(batch), "the batch has ended already");
  world_close(&w);
}
END_TEST

START_TEST(tensors_of_rows)
{
  struct world w;
  attn_cache_options options = options_with(7, 10);
  options.order = ATTN_CACHE_TOKENS_FIRST;
  world_open(&w, "cpu", "cache dense", &options);
  attn_sequence all[7];
  for (int n = 0; n < 7; n++)
    all[n] = added(&w);
  attn_cache_batch *batch;
  const attn_sequence some[3] = {all[2], 0, all[6]};
  ck_assert_int_eq(attn_cache_begin(w.cache, some, NULL, 3, &batch), ATTN_OK);
  struct view view = view_of(&w, batch, 0);
  has_shape(&view, "k", f32, 4, SHAPE(3, 10, 2, 4), SHAPE(160, 8, 4, 1));
  ck_assert_ptr_eq(find_tensor(&view, "k")->data, w.cache->memory + 2 * 80 * sizeof(float));
  ck_assert_ptr_null(find_tensor(&view, "page_table"));
  ck_assert_ptr_null(find_tensor(&view, "seen"));
  ck_assert_int_eq(attn_cache_end(batch), ATTN_OK);

  const char *text = "rows of a batch are to be at equal distances, ascending: sequence 3 is in "
                     "place 2";
  const attn_sequence uneven[] = {all[0], all[2], all[3]}, back[] = {all[1], all[0]},
                      before[] = {0, all[0]}, after[] = {all[6], 0};
  REFUSED(&w, attn_cache_begin(w.cache, uneven, NULL, 3, &batch), text);
  REFUSED(&w, attn_cache_begin(w.cache, back, NULL, 2, &batch), "sequence 0 is in place 1");
  REFUSED(&w, attn_cache_begin(w.cache, before, NULL, 2, &batch),
          "would be the rows -1 to 0, of 7");
  REFUSED(&w, attn_cache_begin(w.cache, after, NULL, 2, &batch), "would be the rows 6 to 7, of 7");
  ck_assert_ptr_null(batch);
  const uint32_t tokens = 11;
  ck_assert_int_eq(attn_cache_begin(w.cache, all, &tokens, 1, &batch), ATTN_ERROR_OUT_OF_MEMORY);
  error_of(w.context);
  ASSERT_SAYS("sequence 0 has 0 tokens, and 11 more do not fit: the most is 10");
  for (int n = 0; n < 7; n++)
    ck_assert_int_eq(attn_cache_release(w.cache, all[n]), ATTN_OK); /* none is in a batch */
  world_close(&w);
}
END_TEST

static const char quantised[] =
    "attention t(const width : int = 6, depth : int) {\n  heads q = 4, kv = 2\n  dim 8\n"
    "  type f16\n  input more : type[B, NK, depth] cached\n"
    "  mask more[b, j, 0] > 0\n"
    "  cache paged(page = 8), k = int4(axis = channel, group = 4, residual = 8, asymmetric = true),"
    " v = int8(axis = token, residual = 16)\n}\n";

START_TEST(tensors_of_storage_types)
{
  struct world w;
  open_paged(&w, 1, 4);
  attn_cache_free(w.cache);
  unit_release(w.unit);
  w.unit = unit_of(quantised);
  attn_cache_options options = options_with(2, 64);
  refused_option(&w, &options, "the parameter 'depth' has no default");
  const attn_param none = attn_param_int("depth", 0), depth = attn_param_int("depth", 5);
  options.param_count = 1, options.params = &none;
  refused_option(&w, &options, "the cached input 'more': dimension 2 would be 0");
  options.params = &depth;
  ck_assert_int_eq(try_cache(&w, &options), ATTN_OK);
  const attn_sequence sequence = added(&w);
  attn_cache_batch *batch = begun(&w, sequence, 3);
  const struct view view = view_of(&w, batch, 0);
  has_shape(&view, "k", u8, 4, SHAPE(8, 8, 2, 4), SHAPE(64, 4, 32, 1));
  has_shape(&view, "k.scale", f16, 4, SHAPE(8, 2, 2, 8), SHAPE(32, 8, 16, 1));
  has_shape(&view, "k.zero", f16, 4, SHAPE(8, 2, 2, 8), SHAPE(32, 8, 16, 1));
  has_shape(&view, "k.recent", f16, 4, SHAPE(1, 8, 2, 8), SHAPE(128, 8, 64, 1));
  has_shape(&view, "v", i8, 4, SHAPE(8, 8, 2, 8), SHAPE(128, 8, 64, 1));
  has_shape(&view, "v.scale", f32, 4, SHAPE(8, 8, 2, 1), SHAPE(16, 1, 8, 1));
  has_shape(&view, "v.recent", f16, 4, SHAPE(1, 16, 2, 8), SHAPE(256, 8, 128, 1));
  has_shape(&view, "more", f16, 3, SHAPE(8, 8, 5), SHAPE(40, 5, 1));
  ck_assert_int_eq(attn_cache_end(batch), ATTN_OK);
  const attn_cache_usage usage = attn_cache_memory(w.cache);
  /* codes, scales and zeros of 4 tokens; codes and scales; the input */
  ck_assert_double_eq(usage.token_bytes, 8 + 2 * 32.0 / 4 + 16 + 8 + 10);
  ck_assert_uint_eq(usage.sequence_bytes, 2 * (8 + 16) * 16);
  world_close(&w);
}
END_TEST

/* ---- memory ---- */

static const struct shape {
  const char *dims, *cache;
  uint32_t layers, share;
  double expected; /* bytes of a token in all layers; 0: not known from elsewhere */
} shapes[] = {
    /* Llama 3 70B, as it is and without grouped heads */
    {"heads q = 64, kv = 8\n  dim 128\n  type f16", "paged(page = 16)", 80, 1, 320 * 1024.0},
    {"heads 64\n  dim 128\n  type f16", "dense", 80, 1, 2.5 * 1024 * 1024},
    {"heads q = 64, kv = 8\n  dim 128\n  type f16", "paged(page = 16)", 80, 2, 160 * 1024.0},
    {"heads 4\n  dim 64\n  type bf16", "ring(capacity = 60, sinks = 4), k = int8(axis = token)", 3,
     1, 0},
    {"heads 2\n  dim 64\n  type f16",
     "paged(page = 32), k = int4(axis = channel, group = 32, residual = 32), v = int4(axis = token,"
     " group = 32)",
     2, 1, 0},
};

START_TEST(memory_is_what_the_plan_says)
{
  const struct shape *shape = &shapes[_i];
  char text[512];
  snprintf(text, sizeof(text), "attention t {\n  %s\n  cache %s\n}\n", shape->dims, shape->cache);
  uint32_t producers[80];
  for (uint32_t n = 0; n < shape->layers; n++)
    producers[n] = n / shape->share * shape->share; /* CLA-2: f * floor(l / f) */
  struct world w;
  open_paged(&w, 1, 4);
  attn_cache_free(w.cache);
  unit_release(w.unit);
  w.unit = unit_of(text);
  attn_cache_options options = options_with(2, 128);
  options.layers = shape->layers;
  options.producers = producers;
  ck_assert_msg(try_cache(&w, &options) == ATTN_OK, "%s", message);
  const enum dtype type = w.unit->spec->type;
  const double layers = shape->layers / shape->share;
  const double token = layers * cache_token_bytes(w.cache->plan, type);
  const double sequence = layers * cache_sequence_bytes(w.cache->plan, type);
  attn_cache_usage usage = attn_cache_memory(w.cache);
  ck_assert_double_eq(usage.token_bytes, token);
  ck_assert_double_eq((double)usage.sequence_bytes, sequence);
  if (shape->expected != 0)
    ck_assert_double_eq(token, shape->expected);
  const uint64_t tokens = (uint64_t)usage.pages * usage.page;
  ck_assert_double_eq((double)usage.bytes, token * (double)tokens + 2 * sequence);
  ck_assert_uint_eq(usage.used, 0);
  const attn_sequence one = added(&w);
  ck_assert_int_eq(attn_cache_end(begun(&w, one, 33)), ATTN_OK);
  usage = attn_cache_memory(w.cache);
  const double held = (double)((usage.pages - usage.pages_free) * usage.page);
  ck_assert_double_eq((double)usage.used, token * held + sequence);
  ck_assert_uint_eq(usage.tokens, 33);
  ck_assert_uint_eq(usage.sequences, 1);
  world_close(&w);
}
END_TEST

START_TEST(layers_that_share)
{
  struct world w;
  attn_cache_options options = options_with(1, 4);
  const uint32_t producers[] = {0, 0, 2, 2};
  options.layers = 4;
  options.producers = producers;
  world_open(&w, "cpu", paged, &options);
  attn_cache_batch *batch = begun(&w, added(&w), 1);
  const struct view views[] = {view_of(&w, batch, 0), view_of(&w, batch, 1), view_of(&w, batch, 2),
                               view_of(&w, batch, 3)};
  ck_assert_ptr_eq(find_tensor(&views[0], "k")->data, find_tensor(&views[1], "k")->data);
  ck_assert_ptr_eq(find_tensor(&views[2], "k")->data, find_tensor(&views[3], "k")->data);
  ck_assert_ptr_ne(find_tensor(&views[0], "k")->data, find_tensor(&views[2], "k")->data);
  ck_assert_int_eq(attn_cache_end(batch), ATTN_OK);
  world_close(&w);
}
END_TEST

int main(void)
{
  Suite *suite = suite_create("cache_manager");
  TCase *tests = tcase_create("manager");
  tcase_add_test(tests, wrong_options);
  tcase_add_test(tests, made_from_a_program);
  tcase_add_test(tests, tensors_of_pages);
  tcase_add_test(tests, tensors_of_rows);
  tcase_add_test(tests, tensors_of_storage_types);
  tcase_add_loop_test(tests, memory_is_what_the_plan_says, 0, sizeof(shapes) / sizeof(shapes[0]));
  tcase_add_test(tests, layers_that_share);
  suite_add_tcase(suite, tests);
  return run_suite(suite);
}
