/* Tensors of a cache, as they follow from the cache statement, and what they cost; the spec as
 * kernels on a cache take it. */
#include "compiler/cache/apply.h"
#include "compiler/cache/plan.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct world {
  struct arena arena;
  struct source_set sources;
  struct diagnostics diagnostics;
  const struct spec *spec;
  const struct cache_plan *plan;
};

static void open_world(struct world *w, const char *text)
{
  arena_init(&w->arena);
  ck_assert(!arena_guard(&w->arena));
  source_set_init(&w->sources, &w->arena);
  diagnostics_init(&w->diagnostics, &w->arena, &w->sources);
  uint32_t source = source_add(&w->sources, "test.attn", text, strlen(text));
  struct spec_file *file = spec_check(&w->arena, &w->sources, source, NULL, &w->diagnostics);
  ck_assert_msg(!diagnostics_has_errors(&w->diagnostics), "%s",
                diagnostics_print(&w->diagnostics, false));
  w->spec = file->specs.items[0];
  w->plan = cache_plan_new(&w->arena, w->spec);
}

/* "k int4[pages, 64, 8, 128]" and so on, in order. */
static const char *describe(struct world *w)
{
  static const char *const names[] = {"B", "table", "pages", "slots"};
  const char *text = "";
  for (uint32_t n = 0; n < w->plan->count; n++) {
    const struct cache_tensor *tensor = &w->plan->tensors[n];
    text = arena_format(&w->arena, "%s%s %s[", text, tensor->name, dtype_name(tensor->type));
    for (uint32_t d = 0; d < tensor->rank; d++) {
      const struct cache_dimension *dim = &tensor->dims[d];
      const char *comma = d == 0 ? "" : ", ";
      if (dim->kind == CACHE_DIM_CONSTANT)
        text = arena_format(&w->arena, "%s%s%u", text, comma, dim->size);
      else if (dim->kind == CACHE_DIM_INPUT)
        text =
            arena_format(&w->arena, "%s%s%s", text, comma, expr_print(&w->arena, dim->input, NULL));
      else if (dim->quotient > 1)
        text = arena_format(&w->arena, "%s%s%s / %u", text, comma, names[dim->kind], dim->quotient);
      else
        text = arena_format(&w->arena, "%s%s%s", text, comma, names[dim->kind]);
    }
    text = arena_format(&w->arena, "%s]\n", text);
  }
  return text;
}

static void check_plan(const char *text, const char *expected)
{
  struct world w;
  open_world(&w, text);
  ck_assert_str_eq(describe(&w), expected);
  for (uint32_t n = 0; n < w.plan->count; n++) {
    const struct cache_tensor *tensor = &w.plan->tensors[n];
    ck_assert_int_eq(cache_plan_find(w.plan, tensor->source, tensor->part), (int32_t)n);
  }
  arena_free(&w.arena);
}

START_TEST(layouts)
{
  check_plan("attention a {\n heads q = 4, kv = 2\n dim qk = 24, v = 16\n}\n",
             "lengths i32[B]\nk type[B, slots, 2, 24]\nv type[B, slots, 2, 16]\n");
  check_plan("attention a {\n heads 2\n dim 16\n cache ragged\n}\n",
             "lengths i32[B]\nk type[B, slots, 2, 16]\nv type[B, slots, 2, 16]\n");
  check_plan("attention a {\n heads 2\n dim 16\n cache paged(page = 32), k = f32, v = bf16\n}\n",
             "lengths i32[B]\npage_table i32[B, table]\nk f32[pages, 32, 2, 16]\n"
             "v bf16[pages, 32, 2, 16]\n");
  check_plan("attention a {\n heads 2\n dim 16\n"
             " cache ring(capacity = 100, sinks = 4), positions = stored\n}\n",
             "lengths i32[B]\nseen i32[B]\npositions i32[B, 104]\nk type[B, 104, 2, 16]\n"
             "v type[B, 104, 2, 16]\n");
}
END_TEST

START_TEST(storage)
{
  check_plan("attention a {\n heads 2\n dim qk = 24, v = 16\n value k[0:16]\n"
             " cache dense, k = e4m3(group = 4, channels = 16)\n}\n",
             "lengths i32[B]\nk e4m3[B, slots, 2, 16]\nk.scale f32[B, slots, 2, 4]\n"
             "k.rest type[B, slots, 2, 8]\n");
  check_plan("attention a {\n heads 2\n dim 16\n"
             " cache dense, k = int8(axis = channel, group = 32, residual = 64),"
             " v = int8(axis = channel)\n}\n",
             "lengths i32[B]\nk int8[B, slots, 2, 16]\nk.scale f32[B, slots / 32, 2, 16]\n"
             "k.recent type[B, 64, 2, 16]\nv int8[B, slots, 2, 16]\nv.scale f32[2, 16]\n");
  check_plan("attention a {\n heads 2\n dim 16\n cache paged(page = 64),"
             " k = int4(axis = channel, group = 32, residual = 64, asymmetric = true),"
             " v = int2(residual = 3, asymmetric = true)\n}\n",
             "lengths i32[B]\npage_table i32[B, table]\nk int4[pages, 64, 2, 16]\n"
             "k.scale f16[pages, 2, 2, 16]\nk.zero f16[pages, 2, 2, 16]\n"
             "k.recent type[B, 64, 2, 16]\nv int2[pages, 64, 2, 16]\nv.scale f16[pages, 64, 2, 1]\n"
             "v.zero f16[pages, 64, 2, 1]\nv.recent type[B, 3, 2, 16]\n");
}
END_TEST

START_TEST(inputs)
{
  check_plan(
      "attention a(n: int = 3) {\n heads 2\n dim 16\n input doc : bool[NK] cached\n"
      " input gate : f32[B, H, NK] cached\n input x : type[B, NK, n, 5] cached\n"
      " input y : f32[B, NK]\n mask doc[j]\n score s + gate[b, h, j] + x[b, j, 0, 0] + y[b, j]"
      "\n cache paged(page = 8)\n}\n",
      "lengths i32[B]\npage_table i32[B, table]\nk type[pages, 8, 2, 16]\n"
      "v type[pages, 8, 2, 16]\ndoc bool[pages, 8]\ngate f32[pages, 8, 2]\n"
      "x type[pages, 8, p0, 5]\n");
}
END_TEST

/* ---- bytes ---- */

static void check_bytes(const char *text, enum dtype type, double token, double sequence)
{
  struct world w;
  open_world(&w, text);
  ck_assert_double_eq_tol(cache_token_bytes(w.plan, type), token, 1e-9);
  ck_assert_double_eq_tol(cache_sequence_bytes(w.plan, type), sequence, 1e-9);
  arena_free(&w.arena);
}

START_TEST(bytes)
{
  /* Llama-3-70B, a layer */
  check_bytes("attention a {\n heads q = 64, kv = 8\n dim 128\n cache paged(page = 16)\n}\n",
              DTYPE_F16, 4096, 0);
  check_bytes("attention a {\n heads 64\n dim 128\n}\n", DTYPE_F16, 32768, 0);
  check_bytes("attention a {\n heads 64\n dim 128\n type f32\n}\n", DTYPE_F32, 65536, 0);
  /* FlashMLA */
  check_bytes("attention a {\n heads q = 128, kv = 1\n dim qk = 576, v = 512\n value k[0:512]\n"
              " cache paged(page = 64), k = e4m3(group = 128, channels = 512)\n}\n",
              DTYPE_BF16, 656, 0);
  /* KIVI: bits + 32 / group for each element */
  check_bytes("attention a {\n heads q = 32, kv = 8\n dim 128\n cache paged(page = 64),"
              " k = int4(axis = channel, group = 64, residual = 128, asymmetric = true),"
              " v = int4(group = 32, asymmetric = true)\n}\n",
              DTYPE_F16, 8 * 128 * (4 + 32.0 / 64) / 8 + 8 * 128 * (4 + 32.0 / 32) / 8,
              128 * 8 * 128 * 2);
  check_bytes("attention a {\n heads 2\n dim 16\n"
              " cache ring(capacity = 8), k = int2, v = int8(axis = channel)\n}\n",
              DTYPE_F32, 2 * (16 * 2 / 8.0 + 2) + 2 * 16, 0);
  check_bytes(
      "attention a {\n heads 2\n dim 16\n input doc : i32[B, NK] cached\n mask doc[b, j] > 0\n"
      " cache dense, positions = stored\n}\n",
      DTYPE_F16, 2 * 2 * 16 * 2 + 4, 0);
}
END_TEST

/* ---- numbering ---- */

static void check_applied(const char *text, const char *offset, const char *mask, uint32_t added)
{
  struct world w;
  open_world(&w, text);
  struct cache_spec applied = cache_apply(&w.arena, w.spec);
  const char *inputs[SPEC_MAX_INPUTS];
  for (uint32_t n = 0; n < applied.spec->input_count; n++)
    inputs[n] = applied.spec->inputs[n].name;
  struct expr_names names = {.inputs = inputs};
  ck_assert_str_eq(expr_print(&w.arena, applied.spec->offset, &names), offset);
  ck_assert_str_eq(expr_print(&w.arena, applied.spec->mask, &names), mask);
  ck_assert_uint_eq(applied.spec->input_count - applied.added_inputs, added);
  arena_free(&w.arena);
}

START_TEST(numbering)
{
  check_applied("attention a {\n heads 2\n dim 16\n mask causal\n cache dense\n align start\n}\n",
                "NK - NQ", "j <= i", 0);
  check_applied("attention a {\n heads 2\n dim 16\n mask causal\n cache dense\n align 7\n}\n", "7",
                "j <= i", 0);
  check_applied("attention a {\n heads 2\n dim 16\n mask j < NK - 1\n"
                " cache ring(capacity = 8, sinks = 2)\n}\n",
                "NK - NQ",
                "j < min(NK, 10) - 1 and (i - j < 8 or j < 2) and (j < 2 or NK - 8 <= j)", 0);
  check_applied(
      "attention a {\n heads 2\n dim 16\n input doc : i32[B, NK] cached\n"
      " mask causal and doc[b, i] == doc[b, j - 1]\n cache dense, positions = stored\n}\n",
      "seen[b] - NQ", "positions[b, j] <= i and doc[b, j - 1] == doc[b, i - (seen[b] - NK)]", 2);
}
END_TEST

int main(void)
{
  Suite *suite = suite_create("cache_plan");
  TCase *tcase = tcase_create("cache_plan");
  tcase_add_test(tcase, layouts);
  tcase_add_test(tcase, storage);
  tcase_add_test(tcase, inputs);
  tcase_add_test(tcase, bytes);
  tcase_add_test(tcase, numbering);
  suite_add_tcase(suite, tcase);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
