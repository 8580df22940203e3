/* Decode kernels: keys split into parts and merged, against the reference and against themselves
 * in other batches. With TILE_ON_DEVICE on the stand-in for a GPU. */
#include "tests/numeric/program_world.h"

enum { COLUMNS = 32 };

/* Parts of `part` keys in tiles of 32, for tiles of `queries` rows; as many as `tasks` tell. */
static struct compile_options decode_options(enum dtype type, uint32_t queries, uint32_t part,
                                             uint32_t tasks)
{
  return (struct compile_options){
      .target = tile_target,
      .kernel = KERNEL_DECODE,
      .type = type,
      .queries = queries,
      .schedule = {.columns = COLUMNS, .part = part, .tasks = tasks},
  };
}

static void resize_world(struct world *w, struct sizes sizes)
{
  for (size_t k = 0; k < w->array_count; k++)
    tile_array_free(&w->arrays[k]);
  w->array_count = 0;
  set_sizes(w, sizes);
  make_arrays(w, sizes, 0);
}

static const struct tile_kernel *kernel_named(const struct world *w, const char *name)
{
  for (size_t k = 0; k < w->compiled->kernels.count; k++)
    if (strcmp(w->compiled->kernels.items[k].tile->name, name) == 0)
      return w->compiled->kernels.items[k].tile;
  return NULL;
}

/* ---- against the reference ---- */

#ifdef TILE_ON_DEVICE
static const struct sizes all_sizes[] = {{2, 1, 130}, {1, 3, 75}, {1, 2, 0}, {2, 0, 9}};
#else
static const struct sizes all_sizes[] = {{2, 1, 257}, {1, 3, 1023}, {2, 3, 1}, {1, 5, 3},
                                         {3, 4, 70},  {1, 2, 0},    {2, 0, 9}, {1, 16, 257}};
#endif

static void check_with(const char *text, const struct compile_options *options)
{
  struct world w;
  open_world(&w, text, options, all_sizes[0]);
  ck_assert_msg(kernel_named(&w, "forward_part") != NULL && kernel_named(&w, "merge") != NULL,
                "%s is not split", text);
  for (size_t n = 0; n < sizeof(all_sizes) / sizeof(all_sizes[0]); n++) {
    resize_world(&w, all_sizes[n]);
    run_world(&w);
    compare_within(&w, all_sizes[n], 0);
  }
  close_world(&w);
}

/* In parts of one tile for single rows, in parts of three tiles, and in a few parts of many. */
static void check_spec(const char *text)
{
  const struct compile_options fine = decode_options(DTYPE_F32, 1, COLUMNS, SCHEDULE_ALL_TASKS);
  const struct compile_options coarse = decode_options(DTYPE_F16, 4, 3 * COLUMNS - 5, 24);
  check_with(text, &fine);
  check_with(text, &coarse);
}

#define ATTENTION(STATEMENTS) "attention a {\n heads q = 4, kv = 2\n dim 16\n" STATEMENTS "}\n"

START_TEST(groups_and_dims)
{
  check_spec(ATTENTION(" mask causal\n"));
  check_spec("attention a {\n heads 2\n dim qk = 24, v = 40\n}\n");
  check_spec("attention a {\n heads q = 5, kv = 1\n dim qk = 24, v = 16\n value k[0:16]\n}\n");
  check_spec("attention a {\n heads 1\n dim qk = 16, v = 1\n mask causal\n}\n");
  check_spec("attention a {\n heads q = 2, kv = 1\n dim 32\n mask causal\n position rope()\n}\n");
}
END_TEST

START_TEST(masks)
{
  check_spec(ATTENTION(" mask 0 <= i - j < 40\n"));
  check_spec(ATTENTION(" mask causal and (j < 4 or i - j < 70)\n"));
  check_spec(ATTENTION(" mask i - j > 60 or (j > 40 and i - j < 20)\n"));
  check_spec(ATTENTION(" mask (i - j) % 3 == 0 and i * j < 999\n"));
  check_spec(ATTENTION(" mask 1 > 2\n"));
  check_spec(ATTENTION(" mask j >= 3 * h and causal\n")); /* heads of a group see different keys */
  check_spec(ATTENTION(" input on : bool[B, NK]\n mask on[b, j]\n"));
  check_spec(ATTENTION(" input doc : i32[B, NK]\n mask causal and doc[b, i] == doc[b, j]\n"));
  check_spec(ATTENTION(" input first : i32[B]\n mask causal and j >= first[b]\n"));
  check_spec(ATTENTION(" align start\n mask i - j < 20 and j - i < 20\n"));
}
END_TEST

START_TEST(normalisers)
{
  static const char *const names[] = {"sigmoid",
                                      "relu",
                                      "linear(at_least = 1.0)",
                                      "none",
                                      "hardmax",
                                      "softmax(sink = 0.5)",
                                      "softmax(plus = 1)"};
  for (size_t k = 0; k < sizeof(names) / sizeof(names[0]); k++) {
    char text[256];
    snprintf(text, sizeof(text), ATTENTION(" mask causal\n normalize %s\n"), names[k]);
    check_spec(text);
  }
  check_spec(ATTENTION(" input sink : f32[H]\n normalize softmax(sink = sink[h])\n"
                       " mask 0 <= i - j < 40\n output lse\n"));
}
END_TEST

START_TEST(scores_and_weights)
{
  check_spec(ATTENTION(" score tanh(s / 5.0) * 5.0\n"));
  check_spec(ATTENTION(" mask causal\n score s - 0.25 * (i - j) / (h + 1)\n"));
  check_spec(
      ATTENTION(" input lambda : f32[H]\n mask causal\n map x = softmax(dot(q[0:8], k[0:8]))\n"
                " map y = softmax(dot(q[8:16], k[8:16]))\n weight x - lambda[h] * y\n"));
  check_spec(
      ATTENTION(" map x = softmax(dot(q[0:8], k[0:8]))\n map y = sigmoid(dot(q[8:16], k[8:16]))\n"
                " weight 0.5 * x\n output lse(x)\n"));
  check_spec(ATTENTION(" input decay : f32[B, NK]\n mask causal\n weight w * decay[b, j]\n"));
}
END_TEST

START_TEST(values_and_ends)
{
  check_spec(ATTENTION(" input e : f32[8, DV]\n mask causal\n"
                       " value v[c] + e[min(max(i - j, 0), 7), c]\n"));
  check_spec(ATTENTION(" input other : f32[B, NK, DV]\n mask causal\n"
                       " value (v[c] if i % 2 == 0 else other[b, j, c])\n"));
  check_spec(ATTENTION(" input gain : f32[DV]\n mask 0 <= i - j < 40\n"
                       " post o[c] * rsqrt(sum(n < DV) o[n] ** 2 / DV + 1e-5) * gain[c]\n"
                       " output lse, max\n"));
  check_spec(ATTENTION(" post o[c] * 0.5 + lse * 0.125\n"));
}
END_TEST

START_TEST(ragged_batches)
{
  check_spec(ATTENTION(" cache ragged\n mask causal\n output lse\n"));
  check_spec(ATTENTION(" cache ragged\n input doc : i32[B, NK]\n"
                       " mask causal and doc[b, i] == doc[b, j]\n"));
}
END_TEST

START_TEST(chosen_blocks)
{
  check_spec(
      ATTENTION(" mask causal\n"
                " select block = 16, top = 2, by = dot(q, mean(k)), always = n == i // 16\n"));
}
END_TEST

/* A NaN among the scores of one part makes the whole row one. */
START_TEST(undefined_scores)
{
  static const char *const names[] = {"softmax", "hardmax", "linear", "none", "sigmoid"};
  const struct sizes sizes = {1, 1, 100};
  for (size_t k = 0; k < 5; k++) {
    const struct compile_options options =
        decode_options(DTYPE_F32, 1, COLUMNS, SCHEDULE_ALL_TASKS);
    char text[256];
    struct world w;
    snprintf(text, sizeof(text), ATTENTION(" mask causal\n normalize %s\n"), names[k]);
    open_world(&w, text, &options, sizes);
    for (int64_t key = 0; key < 100; key += 33) {
      resize_world(&w, sizes);
      tile_array_set(array_with_role(&w, TILE_ROLE_KEY, 0), key * w.spec->dim_qk, (double)NAN);
      run_world(&w);
      compare_within(&w, sizes, 0);
      ck_assert(isnan(tile_array_get(array_with_role(&w, TILE_ROLE_RESULT, 0), 0)));
    }
    close_world(&w);
  }
}
END_TEST

/* What looks twice is one kernel still, and right. */
START_TEST(looks_twice)
{
  static const char *const texts[] = {ATTENTION(" mask causal\n weight w ** 2.0\n"),
                                      ATTENTION(" mask causal\n normalize sparsemax\n"),
                                      ATTENTION(" mask causal\n output entropy\n")};
  for (size_t k = 0; k < sizeof(texts) / sizeof(texts[0]); k++) {
    const struct compile_options options = decode_options(DTYPE_F32, 2, COLUMNS, 64);
    struct world w;
    open_world(&w, texts[k], &options, all_sizes[0]);
    ck_assert_uint_eq(w.compiled->kernels.count, 1);
    ck_assert_ptr_nonnull(kernel_named(&w, "forward"));
    make_arrays(&w, all_sizes[0], 0);
    run_world(&w);
    compare_within(&w, all_sizes[0], 0);
    close_world(&w);
  }
}
END_TEST

/* ---- parts ---- */

/* Parts of the first row that saw a key; of all that there are. */
static int64_t used_parts(struct world *w, int64_t *all)
{
  const struct tile_array *statistics = array_of(w, "part_statistics"); /* maximum, sum */
  *all = statistics->sizes[3] / 2;
  int64_t used = 0;
  for (int64_t p = 0; p < *all; p++)
    used += tile_array_get(statistics, 2 * p) > -(double)INFINITY;
  return used;
}

static void expect_parts(const char *text, struct compile_options options, struct sizes sizes,
                         int64_t wanted_all, int64_t wanted)
{
  struct world w;
  int64_t all;
  open_world(&w, text, &options, sizes);
  make_arrays(&w, sizes, 0);
  run_world(&w);
  int64_t used = used_parts(&w, &all);
  ck_assert_msg(all == wanted_all && used == wanted, "%s%d of %d parts are used, not %d of %d",
                text, (int)used, (int)all, (int)wanted, (int)wanted_all);
  close_world(&w);
}

/* Two K/V heads, so that two tasks are the least. */
START_TEST(numbers_of_parts)
{
  const char *plain = ATTENTION(" mask causal\n");
  const struct sizes one = {1, 1, 320}, three = {3, 1, 320};
  expect_parts(plain, decode_options(DTYPE_F32, 1, 32, SCHEDULE_ALL_TASKS), one, 10, 10);
  expect_parts(plain, decode_options(DTYPE_F32, 1, 32, SCHEDULE_ALL_TASKS), three, 10, 10);
  expect_parts(plain, decode_options(DTYPE_F32, 1, 33, SCHEDULE_ALL_TASKS), one, 5, 5);
  expect_parts(plain, decode_options(DTYPE_F32, 1, 256, SCHEDULE_ALL_TASKS), one, 2, 2);
  expect_parts(plain, decode_options(DTYPE_F32, 1, 256, 1000), one, 1, 1);
  expect_parts(plain, decode_options(DTYPE_F32, 1, 32, 1000), one, 10, 10);
  expect_parts(plain, decode_options(DTYPE_F32, 1, 32, 8), one, 4, 4);
  expect_parts(plain, decode_options(DTYPE_F32, 1, 32, 7), one, 4, 4);
  expect_parts(plain, decode_options(DTYPE_F32, 1, 32, 8), three, 2, 2);
  expect_parts(plain, decode_options(DTYPE_F32, 1, 32, 2), one, 1, 1);
  /* What a window sees is split, not what it could; and holes are left out. The last tile of 32 is
   * 288 to 319. */
  expect_parts(ATTENTION(" mask 0 <= i - j < 128\n"), decode_options(DTYPE_F32, 1, 32, 8), one, 4,
               4);
  expect_parts(ATTENTION(" mask 0 <= i - j < 33\n"), decode_options(DTYPE_F32, 1, 32, 8), one, 4,
               2);
  expect_parts(ATTENTION(" mask causal and (j < 4 or i - j < 96)\n"),
               decode_options(DTYPE_F32, 1, 32, 8), one, 4, 4);
  expect_parts(ATTENTION(" mask j < 4 or (100 < j < 110) or (200 < j < 300 and j != 250)\n"),
               decode_options(DTYPE_F32, 1, 32, 12), one, 6, 6);
  expect_parts(ATTENTION(" mask i < 0\n"), decode_options(DTYPE_F32, 1, 32, 8), one, 4, 0);
}
END_TEST

/* The bits of a sequence's rows are those that it has alone where parts have a fixed length. */
START_TEST(batches_do_not_matter)
{
  static const char *const texts[] = {ATTENTION(" cache ragged\n mask causal\n"),
                                      ATTENTION(" cache ragged\n normalize linear\n")};
  const struct compile_options options = decode_options(DTYPE_F32, 1, 64, SCHEDULE_ALL_TASKS);
  for (size_t k = 0; k < sizeof(texts) / sizeof(texts[0]); k++) {
    const struct sizes many = {3, 7, 200}, one = {1, 1, 194}; /* the last sequence */
    struct world batch, alone;
    open_world(&batch, texts[k], &options, many);
    make_arrays(&batch, many, 0);
    run_world(&batch);
    open_world(&alone, texts[k], &options, one);
    make_arrays(&alone, one, 0);
    static const char *const given[] = {"q", "k", "v"};
    for (size_t n = 0; n < 3; n++) {
      const struct tile_array *from = array_of(&batch, given[n]);
      struct tile_array *to = (struct tile_array *)array_of(&alone, given[n]);
      int64_t row = from->count / from->sizes[0];
      int64_t first = start_of(2, n == 0 ? many.queries : many.keys) * row;
      for (int64_t e = 0; e < to->count; e++)
        tile_array_set(to, e, tile_array_get(from, first + e));
    }
    run_world(&alone);
    const struct tile_array *o = array_of(&alone, "o"), *all = array_of(&batch, "o");
    int64_t first = start_of(2, many.queries) * (all->count / all->sizes[0]);
    for (int64_t e = 0; e < o->count; e++)
      ck_assert_msg(tile_array_get(o, e) == tile_array_get(all, first + e),
                    "%selement %d is %.9g, not %.9g", texts[k], (int)e,
                    tile_array_get(all, first + e), tile_array_get(o, e));
    close_world(&batch);
    close_world(&alone);
  }
}
END_TEST

/* An index out of range is found in whichever part reaches it, in the merge too. */
START_TEST(faults_are_found)
{
  const struct {
    const char *text;
    int64_t index;
  } cases[] = {
      {ATTENTION(" input bias : f32[H, 300]\n score s + bias[h, j]\n"), 300},
      {ATTENTION(" input on : bool[301]\n mask on[j]\n"), 301},
      {ATTENTION(" input sink : f32[1]\n normalize softmax(sink = sink[h - 1])\n"), -1},
      {ATTENTION(" input gain : f32[4]\n post o[c] * gain[h + 7]\n"), 7},
  };
  for (size_t k = 0; k < sizeof(cases) / sizeof(cases[0]); k++) {
    const struct compile_options options = decode_options(DTYPE_F32, 1, COLUMNS, 64);
    const struct sizes sizes = {1, 1, 320};
    struct world w;
    open_world(&w, cases[k].text, &options, sizes);
    make_arrays(&w, sizes, 0);
    struct tile_launch launch = {w.arrays, w.array_count, w.params, w.param_count, {0}};
    const char *error = tile_run(&w.code, &launch);
    ck_assert_msg(error == NULL, "%s", error);
    ck_assert_msg(launch.fault.raised, "%s", cases[k].text);
#ifndef TILE_ON_DEVICE /* any of the wrong ones there */
    ck_assert_int_eq(launch.fault.index, cases[k].index);
#endif
    close_world(&w);
  }
}
END_TEST

int main(void)
{
  Suite *suite = suite_create("split");
  TCase *tcase = tcase_create("split");
  tcase_add_test(tcase, groups_and_dims);
  tcase_add_test(tcase, masks);
  tcase_add_test(tcase, normalisers);
  tcase_add_test(tcase, scores_and_weights);
  tcase_add_test(tcase, values_and_ends);
  tcase_add_test(tcase, ragged_batches);
  tcase_add_test(tcase, chosen_blocks);
  tcase_add_test(tcase, undefined_scores);
  tcase_add_test(tcase, looks_twice);
  tcase_add_test(tcase, numbers_of_parts);
  tcase_add_test(tcase, batches_do_not_matter);
  tcase_add_test(tcase, faults_are_found);
  suite_add_tcase(suite, tcase);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
