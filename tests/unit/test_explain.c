/* What explain and bench count: tiles, shares, operations, bytes of the cache, the machine. */
#include <check.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/attnc/explain.h"
#include "runtime/attnc/random.h"

static struct document document;

static const struct spec *check_text(const char *text)
{
  static const struct option_list none = {.count = 0};
  ck_assert_int_eq(document_check(&document, "test.attn", text, strlen(text), &none), EXIT_FINE);
  if (diagnostics_has_errors(&document.diagnostics))
    ck_abort_msg("%s", diagnostics_print(&document.diagnostics, false));
  return document.file->specs.items[0];
}

static void make(struct workload *workload, const char *text, int64_t batch, int64_t queries,
                 int64_t keys)
{
  const struct spec *spec = check_text(text);
  workload_init(workload, spec, spec->type == DTYPE_ANY ? DTYPE_F16 : spec->type);
  workload->batch = batch;
  workload->queries = queries;
  workload->keys = keys;
  if (workload->ragged)
    ck_assert(random_lengths(workload, 3, batch, queries, keys));
  for (uint32_t k = 0; k < spec->input_count; k++)
    ck_assert_int_eq(workload_allocate_one(workload, WORKLOAD_INPUT, k), EXIT_FINE);
  random_fill(workload, 7);
}

static void drop(struct workload *workload)
{
  workload_free(workload);
  document_close(&document);
  ck_assert_int_eq(mem_live_count(), 0);
}

/* ---- the cache ---- */

static double token_of(const char *text)
{
  double bytes = cost_token_bytes(check_text(text), DTYPE_F16);
  document_close(&document);
  return bytes;
}

static double context_of(const char *text, uint64_t tokens)
{
  double bytes = cost_context_bytes(check_text(text), DTYPE_F16, tokens);
  document_close(&document);
  return bytes;
}

START_TEST(llama_70b_has_the_known_cache)
{
  const char *mha = "attention a { heads q = 64, kv = 64\n dim 128\n type f16 }";
  const char *gqa = "attention a { heads q = 64, kv = 8\n dim 128\n type f16 }";
  ck_assert_str_eq(bytes_text(80 * token_of(mha)), "2.5 MiB");
  ck_assert_str_eq(bytes_text(80 * token_of(gqa)), "320 KiB");
  ck_assert_str_eq(bytes_text(80 * context_of(mha, 65536)), "160 GiB");
  ck_assert_str_eq(bytes_text(80 * context_of(gqa, 65536)), "20 GiB");
}
END_TEST

START_TEST(a_latent_counts_once)
{
  ck_assert_double_eq(
      token_of("attention a { heads q = 16, kv = 1\n dim qk = 576, v = 512\n value k[0:512] }"),
      576 * 2);
}
END_TEST

START_TEST(storage_types_and_their_scales_count)
{
  ck_assert_double_eq(
      token_of("attention a { heads 2\n dim 64\n cache dense, k = e4m3, v = int8 }"),
      2 * (64 + 4 + 64 + 4));
  ck_assert_double_eq(
      token_of("attention a { heads 2\n dim 64\n cache dense, k = int4(group = 16), v = int2 }"),
      2 * (32 + 4 * 2 + 16 + 2));
  /* Along a channel a scale serves 32 tokens. */
  const char *kivi = "attention a { heads 2\n dim 64\n cache dense, "
                     "k = int2(axis = channel, group = 32, residual = 64), v = f16 }";
  ck_assert_double_eq(token_of(kivi), 2 * (16 + 64.0 / 32 * 2 + 128));
  ck_assert_double_eq(context_of(kivi, 100), 64 * 2 * 128 + 100 * 2 * (16 + 4 + 128));
}
END_TEST

START_TEST(layouts_hold_pages_or_a_ring)
{
  ck_assert_double_eq(context_of("attention a { heads 1\n dim 8\n cache paged(page = 16) }", 17),
                      32 * 32);
  const char *ring = "attention a { heads 1\n dim 8\n cache ring(capacity = 20, sinks = 4) }";
  ck_assert_double_eq(context_of(ring, 10), 10 * 32);
  ck_assert_double_eq(context_of(ring, 1000), 24 * 32);
}
END_TEST

START_TEST(cached_inputs_count)
{
  ck_assert_double_eq(token_of("attention a { heads 4\n dim 8\n input gate : f32[B, H, NK] cached\n"
                               " score s + gate[b, h, j] }"),
                      4 * 32 + 4 * 4);
}
END_TEST

/* ---- tiles ---- */

static const char *const masks[] = {
    "attention a { heads 2\n dim 8 }",
    "attention a { heads 2\n dim 8\n mask causal }",
    "attention a { heads 2\n dim 8\n mask 0 <= i - j < 13 }",
    "attention a { heads 2\n dim 8\n align start\n mask causal and (i - j) % 3 == 0 }",
    "attention a { heads 4\n dim 8\n mask i - j < 8 * (h + 1) and causal }",
    ("attention a { heads 2\n dim 8\n input doc : i32[B, NK]\n"
     " mask causal and doc[b, i] == doc[b, j] }"),
    "attention a { heads 2\n dim 8\n mask causal\n cache ragged }",
};
enum { MASKS = sizeof(masks) / sizeof(masks[0]) };

/* Classes by looking at every pair: EMPTY and FULL are never wrong, the counts are those of the
 * classes, and computed pairs those of the tiles that are not EMPTY. */
START_TEST(tiles_are_what_their_pairs_are)
{
  struct workload workload;
  make(&workload, masks[_i], 2, 41, 53);
  const struct tile_size size = {8, 16};
  struct arena arena;
  arena_init(&arena);
  ck_assert(!arena_guard(&arena));
  struct visible visible;
  struct tiles tiles;
  double seen[3] = {0}, computed = 0;
  visible_open(&visible, &workload, &arena);
  tiles_open(&tiles, &visible, &size);
  for (int64_t b = 0; b < workload.batch; b++) {
    for (int64_t h = 0; h < workload.spec->query_heads; h++) {
      visible_enter(&visible, b, h);
      for (int64_t t = 0; t < tiles_rows(&visible, &size); t++) {
        struct tile_counts ignored = {0};
        uint8_t classes[8];
        tiles_walk(&tiles, t, &ignored, classes);
        int64_t r0 = t * 8, r1 = r0 + 8 < visible.queries ? r0 + 8 : visible.queries;
        for (int64_t n = 0; n < tiles_columns(&visible, &size); n++) {
          int64_t j0 = n * 16, j1 = j0 + 16 < visible.keys ? j0 + 16 : visible.keys;
          uint64_t pairs = visible_pairs(&visible, r0, r1, j0, j1);
          seen[classes[n]]++;
          if (classes[n] == VISIBILITY_EMPTY)
            ck_assert_uint_eq(pairs, 0);
          else
            computed += (double)((r1 - r0) * (j1 - j0));
          if (classes[n] == VISIBILITY_FULL)
            ck_assert_uint_eq(pairs, (uint64_t)((r1 - r0) * (j1 - j0)));
        }
      }
    }
  }
  arena_free(&arena);
  struct tile_counts counts;
  ck_assert(tiles_count(&workload, &size, &counts));
  ck_assert(!counts.sampled);
  ck_assert_double_eq(counts.empty, seen[VISIBILITY_EMPTY]);
  ck_assert_double_eq(counts.partial, seen[VISIBILITY_PARTIAL]);
  ck_assert_double_eq(counts.full, seen[VISIBILITY_FULL]);
  ck_assert_double_eq(counts.computed, computed);
  drop(&workload);
}
END_TEST

START_TEST(shares_are_exact_or_near)
{
  struct workload workload;
  uint64_t exact, all;
  make(&workload, masks[_i], 1, 700, 900);
  struct arena arena;
  arena_init(&arena);
  ck_assert(!arena_guard(&arena));
  struct visible visible;
  bool sampled = false;
  visible_open(&visible, &workload, &arena);
  visible_enter(&visible, 0, 0);
  uint64_t pairs = visible_pairs(&visible, 0, 700, 0, 900);
  double share = visible_share(&visible, 0, 700, 0, 900, 40, &sampled);
  ck_assert(!sampled);
  ck_assert_double_eq_tol(share, (double)pairs / (700.0 * 900), 1e-12);
  share = visible_share(&visible, 0, 700, 0, 900, 10, &sampled);
  ck_assert_double_eq_tol(share, (double)pairs / (700.0 * 900), 0.02);
  arena_free(&arena);
  /* Large enough for an estimate. */
  double about, of;
  workload.queries = workload.ragged ? workload.queries : 1500;
  ck_assert(visible_estimate(&workload, &about, &of, &sampled));
  if (workload.spec->input_count == 0 || !sampled) {
    ck_assert(visible_count(&workload, &exact, &all));
    ck_assert_double_eq(of, (double)all);
    ck_assert_double_eq_tol(about / of, (double)exact / (double)all, 0.01);
  }
  drop(&workload);
}
END_TEST

START_TEST(a_million_keys_take_no_time)
{
  struct workload workload;
  struct tile_counts counts;
  const struct tile_size size = {192, 128};
  make(&workload, masks[2], 1, 1 << 20, 1 << 20);
  ck_assert(tiles_count(&workload, &size, &counts));
  ck_assert(!counts.sampled);
  ck_assert_double_eq(counts.empty + counts.partial + counts.full, 2 * 5462.0 * 8192);
  ck_assert_double_gt(counts.partial, 2 * 8192);
  ck_assert_double_lt(counts.partial, 2 * 3 * 8192);
  drop(&workload);
  /* With a test for each tile: some rows stand for all, and tell how many. */
  make(&workload, "attention a { heads 2\n dim 8\n mask causal and (i - j) % 300 == 0 }", 1,
       1 << 20, 1 << 20);
  ck_assert(tiles_count(&workload, &size, &counts));
  ck_assert(counts.sampled);
  ck_assert_uint_lt(counts.looked_at, counts.row_tiles);
  ck_assert_double_eq_tol(counts.pairs, 2 * 0x1p40, 1);
  ck_assert_double_eq_tol(counts.empty / (counts.empty + counts.partial + counts.full), 0.5, 0.05);
  drop(&workload);
}
END_TEST

/* ---- costs ---- */

START_TEST(operations_and_bytes_of_a_call)
{
  struct workload workload;
  struct tile_counts counts;
  struct cost cost;
  const struct tile_size size = {16, 16};
  make(&workload, "attention a { heads q = 4, kv = 2\n dim qk = 8, v = 4\n output lse }", 3, 32,
       64);
  ck_assert(tiles_count(&workload, &size, &counts));
  ck_assert(cost_of_call(&workload, &counts, &size, 2, &cost));
  double pairs = 3.0 * 4 * 32 * 64;
  ck_assert_double_eq(cost.flops, pairs * 2 * (8 + 4));
  ck_assert_double_eq(cost.dense_flops, cost.flops);
  double rows = 3.0 * 4 * 32 * (8 + 4) * 2, keys = 3.0 * 2 * 64 * (8 + 4) * 2;
  ck_assert_double_eq(cost.tensor_bytes, rows + keys + 3.0 * 4 * 32 * 4);
  /* Two row tiles of 16 queries of both heads of a group read all keys. */
  ck_assert_double_eq(cost.tile_bytes, rows + 2 * keys);
  drop(&workload);
}
END_TEST

START_TEST(maps_multiply_the_scores)
{
  const struct spec *spec = check_text("attention a { heads 2\n dim 8\n"
                                       " map x = softmax(dot(q[0:4], k[0:4]))\n"
                                       " map y = softmax(dot(q[4:8], k[4:8]))\n weight x - y }");
  ck_assert_double_eq(cost_pair_flops(spec), 2 * 2 * 8 + 2 * 8);
  document_close(&document);
}
END_TEST

/* ---- the whole ---- */

static const char *write_spec(const char *text)
{
  static char path[] = "/tmp/attn-explain-XXXXXX";
  strcpy(path + strlen(path) - 6, "XXXXXX");
  int file = mkstemp(path);
  ck_assert_int_ge(file, 0);
  ck_assert_int_eq(write(file, text, strlen(text)), (ssize_t)strlen(text));
  close(file);
  return path;
}

START_TEST(packed_heads_share_a_tile)
{
  const struct explain_request request = {.shape = "NQ=100", .layers = 1};
  const char *path = write_spec("attention a { heads q = 8, kv = 2\n dim 64\n mask causal }");
  struct explanation x;
  ck_assert_int_eq(explain_open(&x, &request, path, NULL), EXIT_FINE);
  ck_assert_uint_eq(x.share, 4);
  ck_assert_uint_eq(x.schedule.rows % 4, 0);
  ck_assert_int_eq(x.size.rows, x.schedule.rows / 4);
  ck_assert_uint_eq(x.product_count, 2);
  ck_assert(!x.products[0].over_keys && x.products[1].over_keys);
  ck_assert_uint_eq(x.products[0].inner, 64);
  ck_assert_uint_eq(x.products[1].inner, x.schedule.columns);
  explain_close(&x);
  unlink(path);
  ck_assert_int_eq(mem_live_count(), 0);
}
END_TEST

START_TEST(guards_are_found)
{
  const struct explain_request request = {.layers = 1};
  const char *path = write_spec("attention a { heads 2\n dim 8\n input at : i32[B, NK]\n"
                                " input bias : f32[64]\n score s + bias[at[b, j]] }");
  struct explanation x;
  ck_assert_int_eq(explain_open(&x, &request, path, NULL), EXIT_FINE);
  ck_assert_uint_eq(x.guard_count, 1);
  ck_assert_uint_eq(x.guards[0].proved & 1, 0);
  explain_close(&x);
  unlink(path);
}
END_TEST

/* Whatever allocation fails, the answer is a status and nothing is lost. */
START_TEST(memory_runs_out_anywhere)
{
  const struct explain_request request = {.shape = "NQ=64", .layers = 1};
  const char *path = write_spec("attention a { heads 2\n dim 8\n input doc : i32[B, NK]\n"
                                " mask causal and doc[b, i] == doc[b, j] }");
  int failures = 0;
  for (uint64_t n = 1; n < 400; n++) {
    struct explanation x;
    mem_fail_at(n);
    enum exit_status status = explain_open(&x, &request, path, NULL);
    mem_fail_at(0);
    explain_close(&x);
    ck_assert_int_eq(mem_live_count(), 0);
    if (status == EXIT_FINE)
      break;
    failures++;
  }
  ck_assert_int_gt(failures, 10);
  unlink(path);
}
END_TEST

START_TEST(texts_have_four_digits)
{
  ck_assert_str_eq(bytes_text(0), "0 B");
  ck_assert_str_eq(bytes_text(1023), "1023 B");
  ck_assert_str_eq(bytes_text(1024), "1 KiB");
  ck_assert_str_eq(bytes_text(2.5 * 1024 * 1024), "2.5 MiB");
  ck_assert_str_eq(bytes_text(1000.25 * 1024), "1000 KiB");
  ck_assert_str_eq(bytes_text(12.34567 * 1024), "12.35 KiB");
  ck_assert_str_eq(count_text(999999), "999999");
  ck_assert_str_eq(count_text(1e6), "1 M");
  ck_assert_str_eq(count_text(1.5e9), "1.5 G");
  ck_assert_str_eq(count_text(8.796e12), "8.796 T");
}
END_TEST

START_TEST(the_machine_is_measured)
{
  struct peak peak;
  ck_assert(peak_measure(2, &peak));
  ck_assert_uint_eq(peak.threads, 2);
  ck_assert_double_gt(peak.gflops, 0.01);
  ck_assert_double_lt(peak.gflops, 1e6);
  ck_assert_double_gt(peak.gbytes, 0.01);
  ck_assert_double_lt(peak.gbytes, 1e5);
  ck_assert_int_eq(mem_live_count(), 0);
  for (uint64_t n = 1; n <= 3; n++) {
    mem_fail_at(n);
    ck_assert(!peak_measure(2, &peak));
    mem_fail_at(0);
    ck_assert_int_eq(mem_live_count(), 0);
  }
}
END_TEST

int main(void)
{
  Suite *suite = suite_create("explain");
  TCase *tests = tcase_create("explain");
  tcase_add_test(tests, llama_70b_has_the_known_cache);
  tcase_add_test(tests, a_latent_counts_once);
  tcase_add_test(tests, storage_types_and_their_scales_count);
  tcase_add_test(tests, layouts_hold_pages_or_a_ring);
  tcase_add_test(tests, cached_inputs_count);
  tcase_add_loop_test(tests, tiles_are_what_their_pairs_are, 0, MASKS);
  tcase_add_loop_test(tests, shares_are_exact_or_near, 0, MASKS);
  tcase_add_test(tests, a_million_keys_take_no_time);
  tcase_add_test(tests, operations_and_bytes_of_a_call);
  tcase_add_test(tests, maps_multiply_the_scores);
  tcase_add_test(tests, packed_heads_share_a_tile);
  tcase_add_test(tests, guards_are_found);
  tcase_add_test(tests, memory_runs_out_anywhere);
  tcase_add_test(tests, texts_have_four_digits);
  tcase_add_test(tests, the_machine_is_measured);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? 0 : 1;
}
