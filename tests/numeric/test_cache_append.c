/* The append kernels on random sequences of appends. After each every tensor of the cache is
 * compared with the model; what that does not write must not have changed. */
#include "tests/numeric/append_model.h"

static void append_some(struct world *w, double special)
{
  struct launch l = {0};
  draw_added(w, &l);
  append(w, &l, special);
}

static void check_type(const char *text, enum dtype type, bool packed)
{
  struct world w;
  open_world(&w, text, type, packed);
  for (int k = 0; k < LAUNCHES; k++)
    append_some(&w, 0);
  close_world(&w);
}

static void check_cache(const char *statement)
{
  char text[1024];
  snprintf(text, sizeof(text), "attention a {\n heads q = 4, kv = 2\n dim qk = 16, v = 8\n%s}\n",
           statement);
  check_type(text, DTYPE_F32, false);
  check_type(text, DTYPE_F16, true);
}

START_TEST(as_given)
{
  check_cache(" cache dense\n");
  check_cache(" cache paged(page = 8)\n");
  check_cache(" cache paged(page = 1)\n");
  check_cache(" cache ring(capacity = 16, sinks = 4)\n");
  check_cache(" cache ring(capacity = 5)\n");
  check_cache(" cache paged(page = 16), k = bf16, v = f32\n");
}
END_TEST

START_TEST(by_token)
{
  static const char *const types[] = {"e4m3", "e5m2", "int8", "int4", "int2"};
  for (size_t k = 0; k < 5; k++) {
    char text[256];
    snprintf(text, sizeof(text),
             " cache paged(page = 8), k = %s(axis = token), v = %s(group = 4)\n", types[k],
             types[4 - k]);
    check_cache(text);
  }
  check_cache(" cache ring(capacity = 12, sinks = 3), k = int8(group = 8), v = int4(group = 8)\n");
  check_cache(
      " cache dense, k = int8(asymmetric = true), v = int2(group = 4, asymmetric = true)\n");
}
END_TEST

/* Every number of tokens that may begin a ring: its parts need a tile more than the tokens. */
START_TEST(ring_begins)
{
  struct world w;
  open_world(&w,
             "attention a {\n heads q = 4, kv = 2\n dim qk = 16, v = 8\n"
             " cache ring(capacity = 12, sinks = 3), k = int8(), v = int2(residual = 5)\n}\n",
             DTYPE_F32, true);
  for (int64_t n = 0; n < 2 * MOST_ADDED; n += 1 + n / 24) {
    struct launch l = {.added = {n, n / 2, n + 1}, .most = n + 1};
    for (int64_t b = 0; b < BATCH; b++) {
      w.lengths[b] = 0;
      l.starts[b + 1] = l.starts[b] + l.added[b];
    }
    append(&w, &l, 0);
  }
  close_world(&w);
}
END_TEST

/* KIVI, and others with a residual. */
START_TEST(by_channel)
{
  check_cache(" cache paged(page = 8), k = int4(axis = channel, group = 4, residual = 8, "
              "asymmetric = true), v = int4(group = 4, residual = 8, asymmetric = true)\n");
  check_cache(" cache dense, k = int2(axis = channel, group = 8, residual = 24), "
              "v = int8(axis = channel, group = 2, residual = 2, asymmetric = true)\n");
  check_cache(" cache dense, k = e4m3(axis = channel, group = 3, residual = 3), "
              "v = e5m2(residual = 5)\n");
  check_cache(
      " cache ring(capacity = 12, sinks = 2), k = int8(residual = 12), v = int4(residual = 3)\n");
}
END_TEST

START_TEST(calibrated)
{
  check_cache(" cache paged(page = 4), k = int8(axis = channel), "
              "v = int4(axis = channel, asymmetric = true)\n");
  check_cache(
      " input lut : f32[16]\n cache paged(page = 4), k = int4(axis = channel, table = lut), "
      "v = int4(group = 4, table = lut, asymmetric = true)\n");
  check_cache(" cache dense, k = e4m3(axis = channel, residual = 6)\n");
}
END_TEST

START_TEST(rotated)
{
  check_cache(" position rope()\n cache paged(page = 8)\n");
  check_cache(
      " position rope(from = 8, pairing = interleaved)\n cache ring(capacity = 9, sinks = 2)\n");
  check_cache(" position rope()\n cache dense, k = int8(group = 4), v = int8()\n");
  check_cache(" position rope()\n cache paged(page = 8), "
              "k = int4(axis = channel, group = 4, residual = 8, asymmetric = true)\n");
  check_cache(" position rope()\n cache dense, k = int8(group = 4), rope = read\n");
  check_cache(" position rope()\n cache dense, positions = stored\n");
  check_cache(" position rope()\n cache ring(capacity = 9, sinks = 2), positions = stored\n");
  check_cache(" input pos : i32[B, NK] cached\n position rope(at = pos[b, t])\n cache dense\n");
  check_cache(" input pos : i32[B, NK] cached\n position rope(at = pos[b, t])\n"
              " cache ring(capacity = 9, sinks = 2), k = e4m3()\n");
}
END_TEST

/* Each says what is not lowered. */
START_TEST(not_lowered)
{
  static const char *const cases[][2] = {
      {" position rope(scaling = dynamic(4.0, 8))\n cache dense\n", "`rope = read`"},
      {" input pos : i32[B, NK]\n position rope(at = pos[b, t])\n cache dense\n", "'pos'"},
      {" input pos : i32[B, NK] cached\n position rope(at = pos[b, 0])\n cache dense\n",
       "another token's element of 'pos'"},
      {" cache dense, k = int4(group = 1)\n", "groups of 1 channels"},
      {" cache dense, k = int4(axis = channel, group = 512, residual = 512)\n",
       "more than 256 tokens a scale"},
  };
  for (size_t k = 0; k < sizeof(cases) / sizeof(cases[0]); k++) {
    char text[512];
    snprintf(text, sizeof(text), "attention a {\n heads 2\n dim 16\n%s}\n", cases[k][0]);
    struct world w = {.text = text, .type = DTYPE_F32};
    read_spec(&w);
    const struct compile_options options = {
        .target = tile_target, .kernel = KERNEL_APPEND, .type = DTYPE_F32, .on_cache = true};
    ck_assert(compile_build(&w.arena, w.spec, &options, &w.diagnostics) == NULL);
    const char *said = diagnostics_print(&w.diagnostics, false);
    ck_assert_msg(strstr(said, cases[k][1]) != NULL, "%s\n%s", text, said);
    arena_free(&w.arena);
  }
}
END_TEST

/* One row for k and v: codes for its beginning, the rest rotated. */
START_TEST(latent)
{
  static const char text[] =
      "attention a {\n heads q = 4, kv = 1\n dim qk = 24, v = 16\n value k[0:16]\n"
      " position rope(from = 16, dim = 8, pairing = interleaved)\n"
      " cache paged(page = 8), k = e4m3(group = 8, channels = 16)\n}\n";
  check_type(text, DTYPE_F32, false);
  check_type(text, DTYPE_BF16, true);
}
END_TEST

START_TEST(inputs)
{
  check_cache(
      " input decay : f32[B, H, NK] cached\n input kr : type[B, NK, 70] cached\n"
      " input id : i64[B, NK] cached\n input flag : bool[B, NK] cached\n"
      " input kind : u8[B, NK, G, 3] cached\n"
      " score s + decay[b, h, j] + dot(kr[b, j], kr[b, j])\n mask flag[b, j] or id[b, j] == 1"
      " or kind[b, j, g, 0] == 1\n cache paged(page = 8)\n");
}
END_TEST

/* A token that is not finite spoils its own codes alone. */
START_TEST(not_finite)
{
  static const char text[] =
      "attention a {\n heads q = 4, kv = 2\n dim qk = 16, v = 8\n"
      " cache paged(page = 8), k = int8(), v = int4(group = 4, asymmetric = true)\n}\n";
  const double values[] = {(double)NAN, (double)INFINITY, -(double)INFINITY};
  struct world w;
  open_world(&w, text, DTYPE_F32, true);
  for (int k = 0; k < 6; k++)
    append_some(&w, values[k % 3]);
  close_world(&w);
}
END_TEST

/* Numbers whose scale, or zero, f16 does not hold: the codes beside them are those of the largest
 * that it does hold, and everything stays finite. */
START_TEST(too_large_for_a_scale)
{
  static const char text[] =
      "attention a {\n heads q = 4, kv = 2\n dim qk = 16, v = 8\n"
      " cache paged(page = 8), k = int4(), v = int2(group = 4, asymmetric = true)\n}\n";
  const double values[] = {1e6, -3e5, 1e38, 458000, 65519};
  struct world w;
  open_world(&w, text, DTYPE_F32, true);
  for (int k = 0; k < 10; k++)
    append_some(&w, values[k % 5]);
  close_world(&w);
}
END_TEST

/* Lengths, tables and pages that are wrong change nothing but slots of their own sequence. */
static void check_wrong(const char *text, const int64_t lengths[BATCH], int64_t entry)
{
  struct world w;
  open_world(&w, text, DTYPE_F32, false);
  struct launch l = {.added = {9, 9, 9}, .starts = {0, 9, 18, 27}, .most = 9};
  for (int64_t b = 0; b < BATCH; b++)
    w.lengths[b] = 0;
  set_lengths(&w, &l);
  give_all(&w, &l, 0);
  struct tile_array *held = cached(&w, EXPR_TENSOR_K, CACHE_LENGTHS);
  struct tile_array *table = cached(&w, EXPR_TENSOR_K, CACHE_PAGE_TABLE);
  for (int64_t b = 0; b < BATCH; b++)
    tile_array_set(held, b, (double)lengths[b]);
  if (table != NULL)
    tile_array_set(table, pages_of(&w), (double)entry); /* the second sequence's first page */
  run_launch(&w, &l); /* where no host looks before, kernels record a fault */
  w.lengths[1] = 0;   /* nothing of the second sequence */
  for (int64_t b = 0; b < BATCH; b += 2) {
    model_source(&w, 0, b);
    model_source(&w, 1, b);
  }
  check_untouched(&w);
  free_launch(&l);
  close_world(&w);
}

START_TEST(wrong_lengths)
{
  static const char paged[] = "attention a {\n heads q = 4, kv = 2\n dim qk = 16, v = 8\n"
                              " cache paged(page = 16), v = int8()\n}\n";
  static const char dense[] = "attention a {\n heads q = 4, kv = 2\n dim qk = 16, v = 8\n"
                              " cache dense, v = int4()\n}\n";
  static const int64_t wrong[] = {-1, INT32_MIN, INT32_MAX, SLOTS + 9, 1 << 20};
  for (size_t k = 0; k < sizeof(wrong) / sizeof(wrong[0]); k++) {
    const int64_t lengths[BATCH] = {9, wrong[k], 9};
    check_wrong(paged, lengths, 1);
    check_wrong(dense, lengths, 1);
  }
  static const int64_t entries[] = {-1, BATCH * SLOTS / 16 + 2, INT32_MAX, INT32_MIN};
  for (size_t k = 0; k < sizeof(entries) / sizeof(entries[0]); k++) {
    const int64_t lengths[BATCH] = {9, 9, 9};
    check_wrong(paged, lengths, entries[k]);
  }
}
END_TEST

int main(void)
{
  Suite *suite = suite_create("cache_append");
  TCase *tests = tcase_create("cache_append");
  tcase_add_test(tests, as_given);
  tcase_add_test(tests, by_token);
  tcase_add_test(tests, ring_begins);
  tcase_add_test(tests, by_channel);
  tcase_add_test(tests, calibrated);
  tcase_add_test(tests, rotated);
  tcase_add_test(tests, not_lowered);
  tcase_add_test(tests, latent);
  tcase_add_test(tests, inputs);
  tcase_add_test(tests, not_finite);
  tcase_add_test(tests, too_large_for_a_scale);
  tcase_add_test(tests, wrong_lengths);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
