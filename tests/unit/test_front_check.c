/* The checker as a whole: shapes of the resulting expressions, memory, limits, and the examples. */
#include "dsl/format.h"
#include "dsl/prelude.h"
#include "dsl/spec.h"

#include <check.h>
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct run {
  struct arena arena;
  struct source_set sources;
  struct diagnostics diagnostics;
  struct spec_file *file;
};

/* False when memory runs out. */
static bool check_text(struct run *run, const char *text, size_t length)
{
  arena_init(&run->arena);
  if (arena_guard(&run->arena)) {
    arena_free(&run->arena);
    return false;
  }
  source_set_init(&run->sources, &run->arena);
  diagnostics_init(&run->diagnostics, &run->arena, &run->sources);
  uint32_t source = source_add(&run->sources, "test.attn", text, length);
  run->file = spec_check(&run->arena, &run->sources, source, NULL, &run->diagnostics);
  return true;
}

static const struct spec *check_good(struct run *run, const char *text)
{
  ck_assert(check_text(run, text, strlen(text)));
  ck_assert_msg(!diagnostics_has_errors(&run->diagnostics), "%s",
                diagnostics_print(&run->diagnostics, false));
  ck_assert_uint_ge(run->file->specs.count, 1);
  return run->file->specs.items[0];
}

static const char *printed(struct run *run, const struct expr *e)
{
  return expr_print(&run->arena, e, NULL);
}

START_TEST(defaults)
{
  struct run run;
  const struct spec *spec = check_good(&run, "attention a {\n heads q = 4, kv = 2\n dim 16\n}\n");
  ck_assert_uint_eq(spec->query_heads, 4);
  ck_assert_uint_eq(spec->kv_heads, 2);
  ck_assert_uint_eq(spec->dim_v, 16);
  ck_assert_int_eq(spec->type, DTYPE_ANY);
  ck_assert_int_eq(spec->cache.layout, CACHE_NONE);
  ck_assert(expr_is_true(spec->mask));
  ck_assert_str_eq(printed(&run, spec->maps[0].score), "(sum(n0 < 16) q[n0] * k[n0]) * 0.25");
  ck_assert_str_eq(printed(&run, spec->offset), "NK - NQ");
  ck_assert_str_eq(printed(&run, spec->value), "v[c]");
  ck_assert_int_eq(spec->maps[0].score->type, EXPR_FLOAT);
  arena_free(&run.arena);
}
END_TEST

/* Equal reductions are one node wherever they were written. */
START_TEST(sharing)
{
  struct run run;
  const struct spec *spec = check_good(&run, "attention a {\n heads 1\n dim 8\n scale 1.0\n"
                                             " score s - sum(n < 3) dot(q, k)\n}\n");
  const struct expr *score = spec->maps[0].score;
  size_t sums = 0;
  for (size_t k = 0; k < spec->pool->nodes.count; k++) {
    const struct expr *node = spec->pool->nodes.items[k];
    sums += node->op == EXPR_SUM && expr_is_const(node->args[0]) && node->args[0]->value.i == 8;
  }
  ck_assert_uint_eq(sums, 1);
  ck_assert_uint_eq(score->deps >> EXPR_DEP_BOUND, 0);
  ck_assert_uint_eq(score->deps >> EXPR_DEP_ARG & 1, 0);
  arena_free(&run.arena);
}
END_TEST

/* What decides is single. */
START_TEST(deciding_is_single)
{
  struct run run;
  const struct spec *spec =
      check_good(&run, "attention a(x: float = 0.5) {\n heads 1\n dim 8\n input f : f32[NK]\n"
                       " mask f[j] * x + 0.1 > 0.3 and floor(x * 2.5) == 1\n}\n");
  for (size_t k = 0; k < spec->pool->nodes.count; k++) {
    const struct expr *node = spec->pool->nodes.items[k];
    if (node->op == EXPR_LT || node->op == EXPR_LE || node->op == EXPR_FLOOR)
      ck_assert_int_ne(node->args[0]->type, EXPR_FLOAT);
  }
  ck_assert_int_eq(spec->mask->type, EXPR_BOOL);
  arena_free(&run.arena);
}
END_TEST

/* fn chains double their text with every step, their nodes only grow. */
START_TEST(fn_chain)
{
  struct run run;
  char text[8192] = "fn f0(x) = x + i\n";
  for (int k = 1; k < 100; k++)
    sprintf(text + strlen(text), "fn f%d(x) = bit_xor(f%d(x), f%d(x) + %d)\n", k, k - 1, k - 1, k);
  strcat(text, "attention a {\n heads 1\n dim 8\n mask f99(j) > 0\n}\n");
  const struct spec *spec = check_good(&run, text);
  ck_assert_uint_lt(spec->pool->nodes.count, 1000);
  arena_free(&run.arena);
}
END_TEST

static double constant(const char *expression)
{
  struct run run;
  char text[512];
  snprintf(text, sizeof(text), "attention a {\n heads 12\n dim 64\n scale %s\n}\n", expression);
  const struct spec *spec = check_good(&run, text);
  /* scale * similarity: the constant is one of the factors. */
  const struct expr *score = spec->maps[0].score;
  double value = score->op != EXPR_MUL           ? 1.0
                 : expr_is_const(score->args[0]) ? score->args[0]->value.f
                                                 : score->args[1]->value.f;
  arena_free(&run.arena);
  return value;
}

START_TEST(prelude_numbers)
{
  static const struct {
    const char *call;
    double value;
  } rows[] = {
      {"t5_bucket(-1, 32, 128, true)", 1},
      {"t5_bucket(1, 32, 128, true)", 17},
      {"t5_bucket(-8, 32, 128, true)", 8},
      {"t5_bucket(8, 32, 128, true)", 24},
      {"t5_bucket(-16, 32, 128, true)", 10},
      {"t5_bucket(16, 32, 128, true)", 26},
      {"t5_bucket(-64, 32, 128, true)", 14},
      {"t5_bucket(127, 32, 128, true)", 31},
      {"t5_bucket(-16, 32, 128, false)", 16},
      {"t5_bucket(-17, 32, 128, false)", 16},
      {"t5_bucket(-32, 32, 128, false)", 21},
      {"t5_bucket(-64, 32, 128, false)", 26},
      {"t5_bucket(-112, 32, 128, false)", 30},
      {"t5_bucket(-113, 32, 128, false)", 31},
      {"rope_yarn_low(10000.0, 128, 4096, 32.0, true)", 20},
      {"rope_yarn_high(10000.0, 128, 4096, 1.0, true)", 46},
      {"rope_yarn_low(10000.0, 64, 4096, 32.0, true)", 10},
      {"rope_yarn_high(10000.0, 64, 4096, 1.0, true)", 23},
      {"rope_yarn_gain(32.0, 1.0, 0.0)", 1.3465735902799727},
      {"rope_plain(32, 10000.0, 128)", 0.01},
      {"2 ** 3 * 1.0", 8},
      {"-2 ** 2 * 1.0", -4},
      {"7 // -2 * 1.0", -4},
      {"8 % -5 * 1.0", -2},
      {"1 / 4", 0.25},
      {"(true + true) * 1.0", 2},
      {"clamp(9, 0, 5) * 1.0", 5},
      {"ceil(2.5) * 1.0", 3},
      {"min(4, 3.5, 9)", 3.5},
  };
  for (size_t k = 0; k < sizeof(rows) / sizeof(rows[0]); k++)
    ck_assert_msg(fabs(constant(rows[k].call) - rows[k].value) < 1e-12, "%s is %.17g", rows[k].call,
                  constant(rows[k].call));
}
END_TEST

START_TEST(rotary_fields)
{
  struct run run;
  const struct spec *spec = check_good(
      &run, "attention a {\n heads 1\n dim 128\n position rope(dim = 32, from = 64, repeat = 2,\n"
            " pairing = interleaved)\n cache ring(64, sinks = 4), k = int8(axis = channel),\n"
            " rope = read, positions = slot\n}\n");
  ck_assert(spec->has_rotary);
  ck_assert_uint_eq(spec->rotary.from, 64);
  ck_assert_uint_eq(spec->rotary.dim, 32);
  ck_assert_uint_eq(spec->rotary.repeat, 2);
  ck_assert_int_eq(spec->rotary.pairing, PAIRING_INTERLEAVED);
  ck_assert_int_eq(spec->cache.layout, CACHE_RING);
  ck_assert_uint_eq(spec->cache.capacity, 64);
  ck_assert_uint_eq(spec->cache.sinks, 4);
  ck_assert_int_eq(spec->cache.k.type, DTYPE_I8);
  ck_assert_int_eq(spec->cache.k.axis, CACHE_AXIS_CHANNEL);
  ck_assert_int_eq(spec->cache.v.type, DTYPE_SPEC);
  ck_assert(spec->cache.rope_on_read);
  ck_assert_int_eq(spec->cache.positions, CACHE_POSITIONS_SLOT);
  arena_free(&run.arena);
}
END_TEST

START_TEST(value_is_a_slice_of_the_key)
{
  struct run run;
  const struct spec *spec =
      check_good(&run, "attention a {\n heads 1\n dim qk = 24, v = 16\n value k[8:24]\n}\n");
  ck_assert(spec->value_is_key);
  ck_assert_uint_eq(spec->value_from, 8);
  ck_assert_uint_eq(spec->dim_v, 16);
  arena_free(&run.arena);
}
END_TEST

static const char rich[] = "fn near(n) = abs(i - j) < n\n"
                           "attention a(width: int = 4, const n: int = 2) {\n heads q = 8, kv = "
                           "4\n dim 16\n input doc : i32[B, NK] cached\n"
                           " input t : f32[H, 2 * n + 1] grad\n let d = clamp(j - i, -n, n) + n\n "
                           "position rope(scaling = yarn(4.0, 4096))\n"
                           " score s + t[h, d]\n mask near(width) and same(doc)\n mask any(m < n) "
                           "doc[b, j] == m or causal\n"
                           " normalize softmax(plus = 1)\n post o[c] * sigmoid(lse)\n cache "
                           "paged(page = 16)\n output lse, mass\n}\n"
                           "attention wrong {\n heads 3\n dm 4\n mask i < widht )\n}\n";

/* Every allocation in turn fails: the check unwinds and nothing is left behind. */
START_TEST(out_of_memory)
{
  int64_t live = mem_live_count();
  bool finished = false;
  for (uint64_t n = 1; !finished; n++) {
    ck_assert_uint_lt(n, 10000);
    struct run run;
    mem_fail_at(n);
    finished = check_text(&run, rich, sizeof(rich) - 1);
    mem_fail_at(0);
    if (finished) {
      ck_assert(diagnostics_has_errors(&run.diagnostics));
      ck_assert_uint_eq(run.file->specs.count, 1);
      arena_free(&run.arena);
    }
    ck_assert_int_eq(mem_live_count(), live);
  }
}
END_TEST

/* Every prefix of a spec, and every spec with one byte taken out, is answered without a crash. */
START_TEST(damaged)
{
  for (size_t k = 0; k < sizeof(rich); k++) {
    struct run run;
    ck_assert(check_text(&run, rich, k));
    arena_free(&run.arena);
    char copy[sizeof(rich)];
    memcpy(copy, rich, k);
    memcpy(copy + k, rich + k + 1, sizeof(rich) - k - 1);
    ck_assert(check_text(&run, copy, sizeof(rich) - 1));
    diagnostics_print(&run.diagnostics, true);
    diagnostics_print_json(&run.diagnostics);
    arena_free(&run.arena);
  }
}
END_TEST

static void check_repeated(const char *before, const char *unit, size_t count, const char *after,
                           bool good)
{
  struct run run;
  size_t length = strlen(before) + strlen(unit) * count + strlen(after);
  char *text = malloc(length + 1);
  ck_assert_ptr_nonnull(text);
  char *at = text + sprintf(text, "%s", before);
  for (size_t k = 0; k < count; k++)
    at += sprintf(at, "%s", unit);
  strcpy(at, after);
  ck_assert(check_text(&run, text, length));
  ck_assert_msg(diagnostics_has_errors(&run.diagnostics) != good, "%zu times '%s': %s", count, unit,
                diagnostics_print(&run.diagnostics, false));
  arena_free(&run.arena);
  free(text);
}

START_TEST(deep_and_long)
{
  static const char head[] = "attention a {\n heads 1\n dim 8\n mask ";
  check_repeated(head, "(", 150, "", false);
  check_repeated(head, "(", 100000, "\n}\n", false);
  check_repeated(head, "not ", 100000, "true\n}\n", false);
  check_repeated(head, "i == -", 1, "- - - 1\n}\n", true);
  check_repeated(head, "i < 1 if true else ", 150, "true\n}\n", true);
  check_repeated(head, "true if i < 1 else ", 150, "true\n}\n", true);
  check_repeated(head, "true if i < 1 else ", 100000, "true\n}\n", false);
  check_repeated("attention a {\n heads 1\n dim 8\n mask j < 0", " + i", 4000, "\n}\n", true);
  check_repeated("attention a {\n heads 1\n dim 8\n mask j < 0", " + i", 100000, "\n}\n", false);
  check_repeated(head, "i ** ", 3000, "2 > 0\n}\n", false);
  check_repeated("", "{", 100000, "", false);
  check_repeated("", "attention a {\n", 3000, "", false);
  check_repeated(head, "$", 100000, "\n}\n", false);
}
END_TEST

/* ---- the formatter, and every file that is shown to a user ---- */

static char *read_whole(const char *path, size_t *length)
{
  FILE *file = fopen(path, "rb");
  ck_assert_msg(file != NULL, "cannot open %s", path);
  enum { MOST = 1 << 20 };
  char *text = calloc(1, MOST);
  ck_assert_ptr_nonnull(text);
  *length = fread(text, 1, MOST - 1, file);
  fclose(file);
  return text;
}

static void check_format(const char *name, const char *text, size_t length, bool is_canonical)
{
  struct run run;
  arena_init(&run.arena);
  ck_assert_int_eq(arena_guard(&run.arena), 0);
  source_set_init(&run.sources, &run.arena);
  diagnostics_init(&run.diagnostics, &run.arena, &run.sources);
  uint32_t first = source_add(&run.sources, name, text, length);
  char *once = format_source(&run.arena, &run.sources.sources.items[first], &run.diagnostics);
  ck_assert_msg(once != NULL, "%s", diagnostics_print(&run.diagnostics, false));
  uint32_t second = source_add(&run.sources, name, once, strlen(once));
  char *twice = format_source(&run.arena, &run.sources.sources.items[second], &run.diagnostics);
  ck_assert_ptr_nonnull(twice);
  ck_assert_str_eq(once, twice);
  if (is_canonical)
    ck_assert_msg(strlen(once) == length && memcmp(once, text, length) == 0,
                  "%s is not laid out as fmt does:\n%s", name, once);
  arena_free(&run.arena);
}

static void source_path(char *path, size_t size, const char *relative)
{
  const char *root = getenv("ATTN_SOURCE_DIR");
  snprintf(path, size, "%s/%s", root == NULL ? "." : root, relative);
}

static void check_clean(const char *name, const char *text, size_t length)
{
  struct run run;
  ck_assert(check_text(&run, text, length));
  ck_assert_msg(run.diagnostics.items.count == 0, "%s:\n%s\n%s", name, text,
                diagnostics_print(&run.diagnostics, false));
  arena_free(&run.arena);
}

START_TEST(examples)
{
  char folder[1024], path[2048];
  source_path(folder, sizeof(folder), "examples");
  DIR *directory = opendir(folder);
  ck_assert_ptr_nonnull(directory);
  size_t count = 0;
  for (struct dirent *entry = readdir(directory); entry != NULL; entry = readdir(directory)) {
    const char *dot = strrchr(entry->d_name, '.');
    if (dot == NULL || strcmp(dot, ".attn") != 0)
      continue;
    size_t length;
    snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name);
    char *text = read_whole(path, &length);
    check_clean(entry->d_name, text, length);
    check_format(entry->d_name, text, length, true);
    ck_assert_msg(text[0] == '#', "%s does not name its paper", entry->d_name);
    free(text);
    count++;
  }
  closedir(directory);
  ck_assert_uint_ge(count, 16);
}
END_TEST

START_TEST(prelude_is_canonical)
{
  ck_assert_uint_ge(prelude_file_count, 3);
  for (size_t k = 0; k < prelude_file_count; k++)
    check_format(prelude_files[k].name, prelude_files[k].text, prelude_files[k].length, true);
}
END_TEST

/* Checks every fenced block that is marked attn. */
static size_t check_document(const char *path, bool required)
{
  size_t length, count = 0;
  FILE *file = fopen(path, "rb");
  if (file == NULL && !required)
    return 0;
  if (file != NULL)
    fclose(file);
  char *text = read_whole(path, &length);
  static const char fence[] = "\n```attn\n";
  for (char *at = strstr(text, fence); at != NULL; at = strstr(at, fence)) {
    char *begin = at + sizeof(fence) - 1, *end = strstr(begin, "\n```");
    ck_assert_msg(end != NULL, "%s: a fence is not closed", path);
    size_t size = (size_t)(end - begin) + 1;
    char saved = begin[size];
    begin[size] = '\0';
    check_clean(path, begin, size);
    check_format(path, begin, size, false);
    begin[size] = saved;
    at = end;
    count++;
  }
  free(text);
  return count;
}

START_TEST(documents)
{
  char folder[1024], path[2048];
  source_path(path, sizeof(path), "docs/language.md");
  ck_assert_uint_ge(check_document(path, true), 12);
  source_path(path, sizeof(path), "README.md");
  check_document(path, false);
  source_path(folder, sizeof(folder), "docs");
  DIR *directory = opendir(folder);
  ck_assert_ptr_nonnull(directory);
  for (struct dirent *entry = readdir(directory); entry != NULL; entry = readdir(directory)) {
    const char *dot = strrchr(entry->d_name, '.');
    snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name);
    if (dot != NULL && strcmp(dot, ".md") == 0)
      check_document(path, true);
  }
  closedir(directory);
}
END_TEST

START_TEST(format_layout)
{
  static const char rough[] =
      "attention   a( width :int=4 ){ # head\n\n\n heads 1 # one\ndim 8\n input x:f32[ H ] grad\n"
      "  input long_name : i32[B,NK]\n# about the mask\nmask -i<j and\n i-j<width # end\n\n\n"
      "score s+x[ h ]*long_name[b ,j]\nvalue k[ 0 : 8 ]\n}\n\n\n\nfn f( a )=-a**2\n# last";
  static const char smooth[] =
      "attention a(width: int = 4) { # head\n\n  heads 1 # one\n  dim   8\n"
      "  input x         : f32[H] grad\n  input long_name : i32[B, NK]\n  # about the mask\n"
      "  mask  -i < j and\n        i - j < width # end\n\n  score s + x[h] * long_name[b, j]\n"
      "  value k[0:8]\n}\n\nfn f(a) = -a ** 2\n# last\n";
  struct run run;
  arena_init(&run.arena);
  ck_assert_int_eq(arena_guard(&run.arena), 0);
  source_set_init(&run.sources, &run.arena);
  diagnostics_init(&run.diagnostics, &run.arena, &run.sources);
  uint32_t source = source_add(&run.sources, "rough.attn", rough, sizeof(rough) - 1);
  char *text = format_source(&run.arena, &run.sources.sources.items[source], &run.diagnostics);
  ck_assert_ptr_nonnull(text);
  ck_assert_str_eq(text, smooth);
  source = source_add(&run.sources, "wrong.attn", "attention {", 11);
  ck_assert_ptr_null(
      format_source(&run.arena, &run.sources.sources.items[source], &run.diagnostics));
  ck_assert(diagnostics_has_errors(&run.diagnostics));
  arena_free(&run.arena);
  check_format("rich", rich, (size_t)(strstr(rich, "attention wrong") - rich), false);
}
END_TEST

int main(void)
{
  Suite *suite = suite_create("front_check");
  TCase *tests = tcase_create("front_check");
  tcase_add_test(tests, defaults);
  tcase_add_test(tests, sharing);
  tcase_add_test(tests, deciding_is_single);
  tcase_add_test(tests, fn_chain);
  tcase_add_test(tests, prelude_numbers);
  tcase_add_test(tests, rotary_fields);
  tcase_add_test(tests, value_is_a_slice_of_the_key);
  tcase_add_test(tests, out_of_memory);
  tcase_add_test(tests, damaged);
  tcase_add_test(tests, deep_and_long);
  tcase_add_test(tests, examples);
  tcase_add_test(tests, prelude_is_canonical);
  tcase_add_test(tests, documents);
  tcase_add_test(tests, format_layout);
  tcase_set_timeout(tests, 300);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
