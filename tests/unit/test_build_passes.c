/* Specs whose rows are looked at more than once, or whose tiles others choose: how many walks,
 * sums, kernels and workspaces each takes. What they compute is compared with the reference by
 * `attnc check` and the numeric tests. */
#include "compiler/build/rows.h"
#include "tests/unit/build_programs.h"

#define CAUSAL(statements)                                                                         \
  "attention a {\n heads q = 4, kv = 2\n dim 16\n mask causal\n" statements "\n}\n"
#define TWO_MAPS "map x = softmax(dot(q, k))\n map y = softmax(2.0 * dot(q, k))\n "

/* The kernel of that name, NULL without one. */
static const struct tile_kernel *kernel_named(const struct run *run, const char *name)
{
  const struct tile_program *program = run->compiled->program;
  for (size_t k = 0; k < program->kernels.count; k++)
    if (strcmp(program->kernels.items[k]->name, name) == 0)
      return program->kernels.items[k];
  return NULL;
}

static void expect_walks(const char *text, size_t walks, size_t products)
{
  for (int ragged = 0; ragged < 2; ragged++) {
    struct run run;
    built(&run, text, ragged);
    const struct tile_kernel *kernel = kernel_named(&run, "forward");
    ck_assert_ptr_nonnull(kernel);
    ck_assert_msg(count_ops(kernel->body, TILE_FOR_SEGMENTS) == walks, "%s: %zu walks", text,
                  count_ops(kernel->body, TILE_FOR_SEGMENTS));
    ck_assert_msg(count_ops(kernel->body, TILE_PRODUCT) == 2 * products, "%s: %zu products", text,
                  count_ops(kernel->body, TILE_PRODUCT));
    arena_free(&run.arena);
  }
}

/* A product for each map's scores and one for each map's sum; every walk has two regions. */
START_TEST(linear_weights_take_one_walk)
{
  expect_walks(CAUSAL(TWO_MAPS "weight x - 0.5 * y"), 1, 4);
  expect_walks(CAUSAL(TWO_MAPS "weight x * exp(-1.0 * (i - j)) - y / 3.0"), 1, 4);
  expect_walks(CAUSAL(TWO_MAPS "weight 2.0 * y"), 1, 3); /* the other is not summed */
  expect_walks(CAUSAL("normalize hardmax"), 1, 2);
}
END_TEST

/* How many tiles of the forward kernel are limited, all of them in regions of partial tiles. */
static size_t limited_tiles(const char *text)
{
  struct run run;
  built(&run, text, false);
  const struct tile_kernel *kernel = kernel_named(&run, "forward");
  ck_assert_ptr_nonnull(kernel);
  const struct tile_op *walk = find_op(kernel->body, TILE_FOR_SEGMENTS);
  ck_assert_ptr_nonnull(walk);
  ck_assert_uint_eq(count_ops(walk->regions[0], TILE_LIMIT_COLUMNS), 0);
  size_t count = count_ops(kernel->body, TILE_LIMIT_COLUMNS);
  arena_free(&run.arena);
  return count;
}

/* What pairs a tile has, and the scores of each map; not where the tile of weights is stored. */
START_TEST(partial_tiles_are_limited)
{
  ck_assert_uint_eq(limited_tiles(CAUSAL("")), 2);
  ck_assert_uint_eq(limited_tiles(CAUSAL("score 50.0 * tanh(s / 50.0)")), 2);
  ck_assert_uint_eq(limited_tiles(CAUSAL(TWO_MAPS "weight x - 0.5 * y")), 3);
  ck_assert_uint_eq(limited_tiles(CAUSAL("output entropy")), 4);
  ck_assert_uint_eq(limited_tiles(CAUSAL("output weights")), 2);
  /* a mask of keys alone is no tile of pairs */
  ck_assert_uint_eq(
      limited_tiles("attention a {\n heads q = 4, kv = 2\n dim 16\n align start\n}\n"), 1);
}
END_TEST

/* ---- caches ---- */

static size_t loads_of(const struct tile_kernel *kernel, const struct tile_region *region,
                       const char *tensor)
{
  size_t count = 0;
  for (const struct tile_op *op = region->first; op != NULL; op = op->next)
    count +=
        op->kind == TILE_LOAD && strcmp(kernel->tensors.items[op->access.tensor].name, tensor) == 0;
  return count;
}

/* Keys before a residual have a loop that knows nothing of it, and asks nothing. */
START_TEST(residuals_have_a_loop)
{
  static const char text[] =
      "attention a {\n heads q = 4, kv = 2\n dim 32\n mask causal\n cache paged(page = 64), "
      "k = int4(axis = channel, group = 32, residual = 64), v = int4(axis = token, residual = %s)}";
  static const char *const residuals[] = {"32", "0"};
  static const enum target targets[] = {TARGET_HOST, TARGET_SM_80};
  for (size_t n = 0; n < 4; n++) {
    const struct compile_options options = {.target = targets[n / 2],
                                            .kernel = n % 2 == 0 ? KERNEL_DECODE : KERNEL_FORWARD,
                                            .type = DTYPE_F16,
                                            .on_cache = true};
    char spec[512];
    snprintf(spec, sizeof(spec), text, residuals[n % 2]);
    struct run run;
    built_with(&run, spec, false, &options);
    const struct tile_kernel *kernel = kernel_named(&run, n % 2 == 0 ? "forward_part" : "forward");
    ck_assert_ptr_nonnull(kernel);
    const struct tile_op *codes = find_op(kernel->body, TILE_FOR_SEGMENTS), *rest = codes->next;
    while (rest != NULL && rest->kind != TILE_FOR_SEGMENTS)
      rest = rest->next;
    ck_assert_ptr_nonnull(rest);
    ck_assert_uint_eq(count_ops(kernel->body, TILE_FOR_SEGMENTS), 2);
    ck_assert_uint_eq(count_ops(kernel->body, TILE_IF), 0);
    for (int r = 0; r < 2; r++) {
      ck_assert_uint_eq(loads_of(kernel, codes->regions[r], "cache_k"), 1);
      ck_assert_uint_eq(loads_of(kernel, codes->regions[r], "cache_k_recent"), 0);
      ck_assert_uint_eq(loads_of(kernel, codes->regions[r], "cache_v_recent"), 0);
      ck_assert_uint_eq(loads_of(kernel, rest->regions[r], "cache_k_recent"), 1);
      ck_assert_uint_eq(loads_of(kernel, rest->regions[r], "cache_v_recent"), 1 - n % 2);
    }
    arena_free(&run.arena);
  }
}
END_TEST

/* A GPU merges as many parts at once as registers hold, with one common maximum: no part's sums
 * are multiplied more than once. */
START_TEST(parts_are_merged_at_once)
{
  static const char text[] = "attention a {\n heads q = 8, kv = 2\n dim 128\n mask causal\n}\n";
  for (size_t gpu = 0; gpu < 2; gpu++) {
    const struct compile_options options = {
        .target = gpu ? TARGET_SM_80 : TARGET_HOST, .kernel = KERNEL_DECODE, .type = DTYPE_F16};
    struct run run;
    built_with(&run, text, false, &options);
    const struct tile_kernel *kernel = kernel_named(&run, "merge");
    ck_assert_ptr_nonnull(kernel);
    const struct tile_op *loop = find_op(kernel->body, TILE_FOR);
    const struct tile_op *choice = find_op(loop->regions[0], TILE_IF);
    ck_assert_uint_eq((size_t)(choice != NULL), gpu);
    ck_assert(loop->step == 1 || (gpu && loop->step >= 4));
    const struct tile_region *several = gpu ? choice->regions[0] : loop->regions[0];
    size_t sums = 0;
    for (const struct tile_op *op = several->first; op != NULL; op = op->next)
      sums += op->kind == TILE_MAP && op->results[0]->type.columns == 128;
    ck_assert_uint_eq(sums, (size_t)loop->step + 1); /* the sums so far are one more */
    arena_free(&run.arena);
  }
}
END_TEST

START_TEST(other_weights_take_two)
{
  expect_walks(CAUSAL("weight w ** 2.0"), 2, 3);
  expect_walks(CAUSAL("weight w + 1.0"), 2, 3);
  expect_walks(CAUSAL(TWO_MAPS "weight x * y"), 2, 5);
  expect_walks(CAUSAL(TWO_MAPS "weight renormalize(max(x - y, 0.0))"), 2, 5);
  expect_walks(CAUSAL("output entropy"), 2, 3);
  expect_walks(CAUSAL("output weights"), 2, 3);
  /* statistics, the search, the weights */
  expect_walks(CAUSAL("normalize sparsemax"), 3, 4);
  /* the sum that weights are divided by is known before they are stored */
  expect_walks(CAUSAL("weight renormalize(w ** 2.0)\n output weights"), 3, 4);
}
END_TEST

/* Coefficients of rows are applied once a row, not once a pair. */
START_TEST(coefficients_of_rows_wait)
{
  struct run run;
  built(&run, CAUSAL("input g : f32[B, H, NQ]\n " TWO_MAPS "weight x - g[b, h, r] * y"), false);
  const struct tile_kernel *kernel = kernel_named(&run, "forward");
  size_t with = count_maps_with(loop_region(kernel, FULL), EXPR_MUL);
  arena_free(&run.arena);
  built(&run, CAUSAL(TWO_MAPS "weight x - y"), false);
  kernel = kernel_named(&run, "forward");
  ck_assert_uint_eq(with, count_maps_with(loop_region(kernel, FULL), EXPR_MUL));
  arena_free(&run.arena);
}
END_TEST

/* So are the factors of a coefficient that varies along keys. */
START_TEST(factors_of_rows_wait)
{
  static const char *const texts[] = {
      "attention a(p: float = 0.1) {\n dim 16\n heads 4\n mask causal\n"
      " weight w / (1.0 - p) if uniform(i, j) >= p else 0.0\n}\n",
      CAUSAL("input g : f32[B, H, NQ]\n weight 0.0 if uniform(i, j) < 0.1 else -(g[b, h, r] * w)"),
      CAUSAL("weight (w if uniform(i, j) >= 0.1 else 0.0) / 0.9")};
  struct run run;
  built(&run, CAUSAL("weight w if uniform(i, j) >= 0.1 else 0.0"), false);
  const struct tile_region *region = loop_region(kernel_named(&run, "forward"), FULL);
  size_t products = count_maps_with(region, EXPR_MUL);
  arena_free(&run.arena);
  for (size_t n = 0; n < sizeof(texts) / sizeof(texts[0]); n++) {
    built(&run, texts[n], false);
    region = loop_region(kernel_named(&run, "forward"), FULL);
    ck_assert_uint_eq(count_maps_with(region, EXPR_UNIFORM), 1);
    ck_assert_uint_eq(count_maps_with(region, EXPR_MUL), products);
    ck_assert_uint_eq(count_maps_with(region, EXPR_DIV) + count_maps_with(region, EXPR_NEG), 0);
    arena_free(&run.arena);
  }
}
END_TEST

START_TEST(searches_end)
{
  struct run run;
  built(&run, CAUSAL("normalize sparsemax"), false);
  const struct tile_kernel *kernel = kernel_named(&run, "forward");
  const struct tile_op *search = find_op(kernel->body, TILE_FOR);
  ck_assert_ptr_nonnull(search);
  ck_assert_uint_eq(count_ops(search->regions[0], TILE_IF), 1);
  ck_assert_uint_eq(count_ops(search->regions[0], TILE_FOR_SEGMENTS), 1);
  const struct tile_op *end = search->operands[1]->def;
  ck_assert_int_eq(end->expr->value.i, row_algebra_of(NORMALIZE_SPARSEMAX)->search->passes);
  arena_free(&run.arena);
}
END_TEST

START_TEST(values_of_rows)
{
  /* Chosen by row: a sum each. */
  expect_walks(CAUSAL("input f : bool[B, NQ]\n input v2 : f32[B, H, NK, DV]\n"
                      " value v2[b, h, j, c] if f[b, r] else v[c]"),
               1, 3);
  /* Of pairs: a loop over channels; what is of keys alone stays a product. */
  struct run run;
  built(&run, CAUSAL("input t : f32[9, DV]\n value v[c] + t[clamp(j - i, -4, 4) + 4, c]"), false);
  const struct tile_kernel *kernel = kernel_named(&run, "forward");
  for (int n = 0; n < 2; n++) {
    ck_assert_uint_eq(count_ops(loop_region(kernel, n), TILE_PRODUCT), 2);
    ck_assert_uint_eq(count_ops(loop_region(kernel, n), TILE_FOR), 1);
  }
  arena_free(&run.arena);
}
END_TEST

/* Tiles that are never visited hold zeros. */
START_TEST(weights_are_cleared_first)
{
  struct run run;
  built(&run, CAUSAL("output weights"), false);
  const struct tile_kernel *kernel = kernel_named(&run, "forward");
  const struct tile_op *clear = find_op(kernel->body, TILE_FOR);
  ck_assert_ptr_nonnull(clear);
  const struct tile_op *store = find_op(clear->regions[0], TILE_STORE);
  ck_assert_int_eq(store->operands[0]->def->kind, TILE_SPLAT);
  ck_assert_int_eq(kernel->tensors.items[store->access.tensor].role, TILE_ROLE_OUTPUT);
  arena_free(&run.arena);
}
END_TEST

/* Its tasks own keys, so that sums need no order among tasks. */
START_TEST(mass_has_a_kernel)
{
  struct run run;
  built(&run, CAUSAL("weight renormalize(w ** 2.0)\n output mass"), false);
  const struct tile_kernel *mass = kernel_named(&run, "mass");
  ck_assert_ptr_nonnull(mass);
  ck_assert_uint_eq(count_ops(mass->body, TILE_STORE), 1);
  size_t read = 0, written = 0;
  for (size_t k = 0; k < mass->tensors.count; k++)
    read += mass->tensors.items[k].role == TILE_ROLE_WORKSPACE;
  const struct tile_kernel *forward = kernel_named(&run, "forward");
  for (size_t k = 0; k < forward->tensors.count; k++)
    written += forward->tensors.items[k].role == TILE_ROLE_WORKSPACE;
  ck_assert_uint_eq(read, 4); /* base and factor of softmax, alive, the sum */
  ck_assert_uint_eq(written, read);
  arena_free(&run.arena);
}
END_TEST

/* ---- select ---- */

static void expect_select(const char *text, uint32_t columns, size_t products)
{
  struct run run;
  built(&run, text, false);
  ck_assert_uint_eq(run.compiled->options.schedule.columns, columns);
  ck_assert_ptr_nonnull(kernel_named(&run, "rank_blocks"));
  ck_assert_ptr_nonnull(kernel_named(&run, "choose_blocks"));
  const struct tile_kernel *kernel = kernel_named(&run, "forward");
  for (int n = 0; n < 2; n++) { /* a tile is skipped where no row chose a block of it */
    ck_assert_uint_eq(count_ops(loop_region(kernel, n), TILE_IF), 1);
    ck_assert_uint_eq(count_ops(loop_region(kernel, n), TILE_PRODUCT), products);
  }
  arena_free(&run.arena);
}

START_TEST(blocks_are_chosen)
{
#define SELECT(block) CAUSAL("select block = " block ", top = 2, by = dot(q, mean(k)), per = g")
  expect_select(SELECT("512"), 128, 2);
  expect_select(SELECT("96"), 96, 2);
  expect_select(SELECT("1"), 128, 2);
  expect_select(SELECT("10"), 128, 3); /* a tile holds several blocks: one product spreads them */
  struct run run;
  built(&run, SELECT("64"), true);
  const struct tile_kernel *ranks = kernel_named(&run, "rank_blocks");
  ck_assert_uint_eq(count_ops(ranks->body, TILE_PRODUCT), 1); /* not a mean key for every row */
  ck_assert_uint_eq(count_ops(ranks->body, TILE_CHECK), 0);
  arena_free(&run.arena);
}
END_TEST

/* ---- memory ---- */

START_TEST(out_of_memory)
{
  const char *text =
      "attention a {\n heads q = 4, kv = 2\n dim 8\n map x = softmax(dot(q, k))\n"
      " map y = sparsemax(dot(q, k))\n mask causal\n weight renormalize(x * y)\n"
      " select block = 16, top = 2, by = dot(q, mean(k)), per = h\n output mass, weights\n}\n";
  int64_t live = mem_live_count();
  bool finished = false;
  for (volatile uint64_t n = 1; !finished; n++) {
    struct run run;
    mem_fail_at(n);
    finished = build_text(&run, text, false);
    mem_fail_at(0);
    if (finished)
      arena_free(&run.arena);
    ck_assert_int_eq(mem_live_count(), live);
    ck_assert_uint_lt(n, 100000);
  }
}
END_TEST

int main(void)
{
  Suite *suite = suite_create("build_passes");
  TCase *tests = tcase_create("passes");
  tcase_set_timeout(tests, 300);
  tcase_add_test(tests, linear_weights_take_one_walk);
  tcase_add_test(tests, partial_tiles_are_limited);
  tcase_add_test(tests, residuals_have_a_loop);
  tcase_add_test(tests, parts_are_merged_at_once);
  tcase_add_test(tests, other_weights_take_two);
  tcase_add_test(tests, coefficients_of_rows_wait);
  tcase_add_test(tests, factors_of_rows_wait);
  tcase_add_test(tests, searches_end);
  tcase_add_test(tests, values_of_rows);
  tcase_add_test(tests, weights_are_cleared_first);
  tcase_add_test(tests, mass_has_a_kernel);
  tcase_add_test(tests, blocks_are_chosen);
  tcase_add_test(tests, out_of_memory);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? 0 : 1;
}
