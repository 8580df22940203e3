/* Specs to tile programs: well formed, products found, no mask where all pairs are visible, checks
 * only where an index is not proved, and a diagnostic for everything that is not lowered. */
#include "compiler/build/rows.h"
#include "tests/unit/build_programs.h"

#include <check.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CAUSAL "attention a {\n heads 8\n dim 64\n mask causal\n}\n"

/* ---- programs ---- */

static char *read_example(const char *directory, const char *name)
{
  char path[4096];
  snprintf(path, sizeof(path), "%s/%s", directory, name);
  FILE *file = fopen(path, "rb");
  ck_assert_msg(file != NULL, "%s", path);
  char *text = calloc(1, MAX_TEXT);
  ck_assert_ptr_nonnull(text);
  ck_assert_uint_lt(fread(text, 1, MAX_TEXT - 1, file), MAX_TEXT - 1);
  fclose(file);
  return text;
}

START_TEST(examples)
{
  const char *root = getenv("ATTN_SOURCE_DIR");
  char directory[2048];
  snprintf(directory, sizeof(directory), "%s/examples", root == NULL ? "." : root);
  DIR *entries = opendir(directory);
  ck_assert_msg(entries != NULL, "%s", directory);
  int count = 0;
  for (const struct dirent *entry; (entry = readdir(entries)) != NULL;) {
    const char *dot = strrchr(entry->d_name, '.');
    if (dot == NULL || strcmp(dot, ".attn") != 0)
      continue;
    char *text = read_example(directory, entry->d_name);
    struct run run;
    built(&run, text, false);
    arena_free(&run.arena);
    /* LongRoPE's choice of factors by the length is not lowered for ragged batches. */
    if (strcmp(entry->d_name, "longrope.attn") != 0) {
      built(&run, text, true);
      arena_free(&run.arena);
    }
    free(text);
    count++;
  }
  closedir(entries);
  ck_assert_int_ge(count, 16);
}
END_TEST

START_TEST(full_tiles_are_not_masked)
{
  struct run run;
  const struct tile_kernel *kernel = built(&run, CAUSAL, false);
  ck_assert_uint_eq(count_bools(loop_region(kernel, FULL)), 0);
  ck_assert_uint_gt(count_bools(loop_region(kernel, PARTIAL)), 0);
  for (int n = 0; n < 2; n++)
    ck_assert_uint_eq(count_ops(loop_region(kernel, n), TILE_PRODUCT), 2);
  /* the scale is applied to the rows of q, not to scores */
  ck_assert_uint_eq(count_maps_with(loop_region(kernel, FULL), EXPR_MUL), 1);
  ck_assert_uint_eq(count_ops(kernel->body, TILE_CHECK), 0);
  arena_free(&run.arena);
}
END_TEST

/* Values of keys that no row sees are cleared where a mask can hide a key. */
START_TEST(hidden_values_are_cleared)
{
  struct run run;
  const struct tile_kernel *kernel = built(&run, CAUSAL, false);
  ck_assert_uint_eq(count_ops(loop_region(kernel, PARTIAL), TILE_TRANSPOSE), 1);
  ck_assert_uint_eq(count_ops(loop_region(kernel, FULL), TILE_TRANSPOSE), 0);
  arena_free(&run.arena);
  kernel = built(&run, "attention a {\n heads 8\n dim 64\n}\n", false);
  ck_assert_uint_eq(count_ops(loop_region(kernel, PARTIAL), TILE_TRANSPOSE), 0);
  arena_free(&run.arena);
}
END_TEST

START_TEST(products_are_found)
{
  struct run run;
  const char *text =
      "attention a {\n heads 4\n dim 16\n input dk : f32[B, NK, 8]\n input dq : f32[B, NQ, 8]\n"
      " score s + dot(dq[b, r], dk[b, j]) - 2.0 * (sum(c) q[c] * k[c] * k[c])\n}\n";
  const struct tile_kernel *kernel = built(&run, text, false);
  ck_assert_uint_eq(count_ops(loop_region(kernel, FULL), TILE_PRODUCT), 4);
  ck_assert_uint_eq(count_maps_with(kernel->body, EXPR_SUM), 0);
  ck_assert_uint_eq(count_ops(loop_region(kernel, FULL), TILE_LOAD), 3); /* k once, dk, v */
  arena_free(&run.arena);

  /* A term of one row part and one column part that is no product. */
  kernel = built(&run,
                 "attention a {\n heads 1\n dim 8\n input a : f32[D]\n similarity sum(c) a[c] * "
                 "tanh(q[c] + k[c])\n}\n",
                 false);
  ck_assert_uint_eq(count_ops(loop_region(kernel, FULL), TILE_PRODUCT), 1);
  ck_assert_uint_eq(count_ops(loop_region(kernel, FULL), TILE_CONTRACT), 1);
  ck_assert_uint_eq(count_maps_with(kernel->body, EXPR_SUM), 0);
  arena_free(&run.arena);
}
END_TEST

START_TEST(heads_of_a_group_are_packed)
{
  struct run run;
  const struct tile_kernel *kernel =
      built(&run, "attention a {\n heads q = 8, kv = 2\n dim 64\n}\n", false);
  const struct tile_op *load = find_op(find_op(kernel->body, TILE_PARALLEL)->regions[0], TILE_LOAD);
  ck_assert_uint_eq(load->access.row_group, 4);
  ck_assert_uint_eq(load->access.group_dim, 1);
  ck_assert_uint_eq(run.compiled->options.schedule.rows % 4, 0);
  arena_free(&run.arena);
  /* Heads that see different keys are not. */
  kernel = built(
      &run, "attention a {\n heads q = 8, kv = 2\n dim 64\n input n : i32[H]\n mask j < n[h]\n}\n",
      false);
  load = find_op(find_op(kernel->body, TILE_PARALLEL)->regions[0], TILE_LOAD);
  ck_assert_uint_eq(load->access.row_group, 1);
  arena_free(&run.arena);
  /* More heads than a tile has rows. */
  built(&run, "attention a {\n heads q = 1200, kv = 1\n dim 8\n}\n", false);
  ck_assert_uint_eq(run.compiled->options.schedule.rows, 240);
  arena_free(&run.arena);
}
END_TEST

START_TEST(ragged_tensors_are_packed)
{
  struct run run;
  const char *text =
      "attention a {\n heads 2\n dim 8\n input doc : i32[B, NK]\n input gate : f32[B, H, NQ]\n"
      " input n : i32[B]\n score s * gate[b, h, r]\n mask doc[b, i] == doc[b, j] and j < n[b]\n"
      " output lse\n}\n";
  const struct tile_kernel *kernel = built(&run, text, true);
  ck_assert_uint_eq(find_tensor(kernel, TILE_ROLE_QUERY)->rank, 3);
  ck_assert_uint_eq(find_tensor(kernel, TILE_ROLE_OUTPUT)->rank, 2);
  ck_assert_ptr_nonnull(find_tensor(kernel, TILE_ROLE_QUERY_STARTS));
  ck_assert_ptr_nonnull(find_tensor(kernel, TILE_ROLE_KEY_STARTS));
  static const uint32_t ranks[] = {1, 2, 1}; /* doc [total], gate [total, H], n [B] */
  for (size_t k = 0; k < kernel->tensors.count; k++)
    if (kernel->tensors.items[k].role == TILE_ROLE_INPUT)
      ck_assert_uint_eq(kernel->tensors.items[k].rank, ranks[kernel->tensors.items[k].role_index]);
  arena_free(&run.arena);
}
END_TEST

START_TEST(keys_are_rotated_before)
{
  struct run run;
  const struct tile_kernel *kernel =
      built(&run, "attention a {\n heads 4\n dim 64\n position rope\n mask causal\n}\n", false);
  ck_assert_uint_eq(run.compiled->program->kernels.count, 2);
  ck_assert_uint_eq(count_ops(loop_region(kernel, FULL), TILE_PERMUTE), 0);
  ck_assert_ptr_nonnull(find_tensor(kernel, TILE_ROLE_WORKSPACE));
  ck_assert_ptr_null(find_tensor(kernel, TILE_ROLE_KEY));
  const struct tile_op *permute = find_op(kernel->body, TILE_PERMUTE);
  ck_assert_uint_eq(permute->permutation[0], 32);
  ck_assert_uint_eq(permute->permutation[63], 31);
  arena_free(&run.arena);
}
END_TEST

/* ---- checks ---- */

START_TEST(unproved_indices_are_checked)
{
  struct run run;
  const char *text = "attention a {\n heads 4\n dim 8\n input t : f32[7]\n input e : i32[B, NK]\n"
                     " score s + t[e[b, j]] if i > j else s\n mask causal\n}\n";
  const struct tile_kernel *kernel = built(&run, text, false);
  ck_assert_uint_eq(kernel->sites.count, 1);
  ck_assert_uint_eq(kernel->sites.items[0].tensor, EXPR_TENSOR_INPUT);
  ck_assert_uint_eq(count_ops(loop_region(kernel, FULL), TILE_CHECK), 1);
  ck_assert_uint_eq(count_ops(loop_region(kernel, PARTIAL), TILE_CHECK), 1);
  /* The condition i > j is part of it: the check is of pairs, with i and j among its operands. */
  const struct tile_op *check = find_op(loop_region(kernel, FULL), TILE_CHECK);
  ck_assert(contains_op(check->expr, EXPR_LT));
  arena_free(&run.arena);

  kernel = built(&run,
                 "attention a {\n heads 4\n dim 8\n input t : f32[7]\n score s + t[clamp(i - j, 0, "
                 "6)]\n mask causal\n}\n",
                 false);
  ck_assert_uint_eq(count_ops(kernel->body, TILE_CHECK), 0);
  arena_free(&run.arena);
}
END_TEST

/* `any` stops: what it does not reach is not checked. */
START_TEST(checks_follow_short_circuits)
{
  struct run run;
  const char *text = "attention a {\n heads 2\n dim 8\n input t : i32[4]\n"
                     " mask any(n < 9) t[n] == j\n}\n";
  const struct tile_kernel *kernel = built(&run, text, false);
  const struct tile_op *check = find_op(kernel->body, TILE_CHECK);
  ck_assert_ptr_nonnull(check);
  ck_assert_int_eq(check->expr->op, EXPR_ALL);
  ck_assert(contains_op(check->expr, EXPR_ANY));
  ck_assert_int_eq(check->expr2->op, EXPR_FOLD_MAX);
  arena_free(&run.arena);
}
END_TEST

/* ---- formulas after the score ---- */

START_TEST(weight_value_post_and_outputs)
{
  struct run run;
  const char *text =
      "attention a {\n heads 8\n dim 16\n type f16\n input gain : f32[DV]\n mask causal\n"
      " normalize softmax(plus = 1)\n"
      " weight w / (1 - 0.1) if uniform(1, b, h, i, j) >= 0.1 else 0.0\n value v[c] * gain[c] + "
      "1.0 * j\n"
      " post o[c] * rsqrt(sum(n < DV) o[n] ** 2 / DV + 1e-5) * gain[c] + lse\n output lse, "
      "max\n}\n";
  const struct tile_kernel *kernel = built(&run, text, false);
  ck_assert_uint_eq(count_ops(kernel->body, TILE_STORE), 3);
  ck_assert_uint_eq(count_maps_with(loop_region(kernel, FULL), EXPR_UNIFORM), 1);
  ck_assert_uint_eq(count_maps_with(kernel->body, EXPR_SUM), 0);
  ck_assert_int_eq(find_tensor(kernel, TILE_ROLE_RESULT)->element, DTYPE_F16);
  ck_assert_int_eq(find_tensor(kernel, TILE_ROLE_OUTPUT)->element, DTYPE_F32);
  arena_free(&run.arena);
}
END_TEST

START_TEST(normalizers)
{
  static const char *const names[] = {"softmax",  "softmax(plus = 1)",      "sigmoid", "relu",
                                      "linear",   "linear(at_least = 1.0)", "none",    "hardmax",
                                      "sparsemax"};
  for (size_t k = 0; k < sizeof(names) / sizeof(*names); k++) {
    char text[512];
    snprintf(text, sizeof(text),
             "attention a {\n heads q = 4, kv = 2\n dim 8\n mask causal\n normalize %s\n}\n",
             names[k]);
    struct run run;
    built(&run, text, false);
    arena_free(&run.arena);
  }
}
END_TEST

START_TEST(nothing_is_visible)
{
  struct run run;
  const struct tile_kernel *kernel =
      built(&run, "attention a {\n heads 1\n dim 8\n mask 1 > 2\n}\n", false);
  ck_assert_ptr_null(find_op(kernel->body, TILE_FOR_SEGMENTS));
  ck_assert_uint_eq(count_ops(kernel->body, TILE_STORE), 1);
  arena_free(&run.arena);
}
END_TEST

/* ---- the row algebra ---- */

static void merge_partials(enum normalizer normalizer)
{
  struct arena arena;
  arena_init(&arena);
  ck_assert(!arena_guard(&arena));
  struct expr_pool pool;
  expr_pool_init(&pool, &arena);
  struct tile_program *program = tile_program_new(&arena, &pool);
  struct tile_kernel *kernel = tile_kernel_new(program, "merge");
  struct tile_tensor tensor = {.name = "o", .element = DTYPE_F32, .rank = 2, .written = true};
  tile_add_tensor(kernel, tensor);
  struct tile_builder b = {.program = program, .kernel = kernel, .region = kernel->body};
  struct tile_value *one = tile_index(&b, 1);
  tile_parallel(&b, &one, 1);
  const struct row_algebra *algebra = row_algebra_of(normalizer);
  struct row_state x = algebra->init(&b, 16), y = algebra->init(&b, 16);
  struct tile_value *o = tile_splat(&b, TILE_F32, 16, 8, 0),
                    *other = tile_splat(&b, TILE_F32, 16, 8, 1);
  const struct row_part parts[] = {{&y, &other}, {&y, &other}, {&y, &other}};
  algebra->merge(&b, &x, &o, 1, parts, 3);
  struct tile_value **fields[ROWS_MAX_STATE];
  size_t count = row_state_fields(&x, fields);
  for (size_t k = 0; k < count; k++) {
    ck_assert_uint_eq((*fields[k])->type.rows, 16);
    ck_assert_uint_eq((*fields[k])->type.columns, 1);
    ck_assert_int_eq((*fields[k])->def->kind, TILE_MAP); /* no longer what init made */
  }
  struct row_rest rest = {0};
  o = algebra->finish(&b, &x, &rest, o);
  ck_assert_uint_eq(o->type.columns, 8);
  struct tile_access access = {
      .row_dim = 0, .group_dim = TILE_NO_DIM, .column_dim = 1, .row_group = 1};
  struct tile_value *zero = tile_index(&b, 0);
  struct tile_value *indices[] = {zero, zero};
  tile_store(&b, o, access, indices, 2, tile_index(&b, 16), tile_index(&b, 8));
  tile_end_region(&b);
  const char *wrong = tile_verify(&arena, program);
  ck_assert_msg(wrong == NULL, "%s", wrong);
  arena_free(&arena);
}

START_TEST(partials_merge)
{
  static const enum normalizer normalizers[] = {NORMALIZE_SOFTMAX, NORMALIZE_SIGMOID,
                                                NORMALIZE_RELU,    NORMALIZE_LINEAR,
                                                NORMALIZE_NONE,    NORMALIZE_HARDMAX};
  for (size_t n = 0; n < sizeof(normalizers) / sizeof(*normalizers); n++)
    merge_partials(normalizers[n]);
  ck_assert_ptr_nonnull(row_algebra_of(NORMALIZE_SPARSEMAX)->search);
}
END_TEST

/* ---- what is not lowered ---- */

START_TEST(unlowered_features)
{
  refused(ATTENTION("position rope\n similarity dot(q[0:4], k[0:4])"), 1,
          "a slice that separates the channels");
  refused(ATTENTION("position rotary(theta = t + c, dim = 16)"), 1, "an angle");
  refused(ATTENTION("select block = 8, top = 2, by = tanh(sum(c) mean(k)[c] ** 2.0)"), 1,
          "a rank that is not linear in means");
  refused(ATTENTION("position rotary(theta = t + c, dim = 16)\n"
                    " select block = 8, top = 2, by = tanh(sum(c) mean(k)[c] ** 2.0)"),
          2, "a rank that is not linear in means"); /* every one, not only the first */
}
END_TEST

/* ---- memory ---- */

START_TEST(out_of_memory)
{
  const char *text =
      "attention a {\n heads q = 4, kv = 2\n dim 8\n position rope\n input t : f32[7]\n"
      " score s + t[i - j]\n mask causal\n output lse\n}\n";
  int64_t live = mem_live_count();
  bool finished = false;
  for (uint64_t n = 1; !finished; n++) {
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
  Suite *suite = suite_create("build");
  TCase *tests = tcase_create("build");
  tcase_set_timeout(tests, 300);
  tcase_add_test(tests, examples);
  tcase_add_test(tests, full_tiles_are_not_masked);
  tcase_add_test(tests, hidden_values_are_cleared);
  tcase_add_test(tests, products_are_found);
  tcase_add_test(tests, heads_of_a_group_are_packed);
  tcase_add_test(tests, ragged_tensors_are_packed);
  tcase_add_test(tests, keys_are_rotated_before);
  tcase_add_test(tests, unproved_indices_are_checked);
  tcase_add_test(tests, checks_follow_short_circuits);
  tcase_add_test(tests, weight_value_post_and_outputs);
  tcase_add_test(tests, normalizers);
  tcase_add_test(tests, nothing_is_visible);
  tcase_add_test(tests, partials_merge);
  tcase_add_test(tests, unlowered_features);
  tcase_add_test(tests, out_of_memory);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? 0 : 1;
}
