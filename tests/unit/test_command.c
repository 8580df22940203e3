/* The parts of the command that transcripts (golden/cli) cannot pin: options, random inputs,
 * shapes, the visible count, comparing, the battery. */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/attnc/battery.h"
#include "runtime/attnc/document.h"
#include "runtime/attnc/json.h"
#include "runtime/attnc/random.h"
#include "runtime/attnc/visible.h"

static struct document document;

static const struct spec *check_text(const char *text)
{
  static const struct option_list none = {.count = 0};
  ck_assert_int_eq(document_check(&document, "test.attn", text, strlen(text), &none), EXIT_FINE);
  if (diagnostics_has_errors(&document.diagnostics))
    ck_abort_msg("%s", diagnostics_print(&document.diagnostics, false));
  ck_assert_uint_eq(document.file->specs.count, 1);
  return document.file->specs.items[0];
}

static void make(struct workload *workload, const char *text, int64_t batch, int64_t queries,
                 int64_t keys)
{
  const struct spec *spec = check_text(text);
  workload_init(workload, spec, spec->type == DTYPE_ANY ? DTYPE_F32 : spec->type);
  workload->batch = batch;
  workload->queries = queries;
  workload->keys = keys;
  if (workload->ragged)
    ck_assert(random_lengths(workload, 3, batch, queries, keys));
  ck_assert_int_eq(workload_allocate(workload), EXIT_FINE);
  random_fill(workload, 7);
}

static void drop(struct workload *workload)
{
  workload_free(workload);
  document_close(&document);
  ck_assert_int_eq(mem_live_count(), 0);
}

START_TEST(options_in_every_form)
{
  bool flag = false;
  const char *text = NULL;
  int choice = 0;
  uint64_t number = 0;
  struct option_list list = {.count = 0};
  const struct option options[] = {
      {"flag", 'f', OPTION_FLAG, NULL, "", &flag, 0, 0},
      {"text", 't', OPTION_TEXT, "T", "", &text, 0, 0},
      {"choice", 'c', OPTION_CHOICE, "red|green|blue", "", &choice, 0, 0},
      {"number", 0, OPTION_NUMBER, "N", "", &number, 2, 5},
      {"list", 'l', OPTION_LIST, "L", "", &list, 0, 0},
  };
  const struct usage usage = {.command = "x",
                              .arguments = "",
                              .summary = "",
                              .options = options,
                              .option_count = 5,
                              .least = 3,
                              .most = 3};
  char *argv[] = {"a", "-f", "-tvalue", "--choice=blue", "b",  "--number",
                  "5", "-l", "one",     "--list=two=2",  "--", "-c"};
  int argc = 12;
  enum exit_status status = EXIT_FINE;
  ck_assert(options_parse(&usage, &argc, argv, &status));
  ck_assert_int_eq(argc, 3);
  ck_assert_str_eq(argv[0], "a");
  ck_assert_str_eq(argv[1], "b");
  ck_assert_str_eq(argv[2], "-c");
  ck_assert(flag);
  ck_assert_str_eq(text, "value");
  ck_assert_int_eq(choice, 2);
  ck_assert_uint_eq(number, 5);
  ck_assert_uint_eq(list.count, 2);
  ck_assert_str_eq(list.items[1], "two=2");
}
END_TEST

START_TEST(numbers)
{
  uint64_t number = 99;
  ck_assert(parse_number("0", 0, 9, &number) && number == 0);
  ck_assert(parse_number("18446744073709551615", 0, UINT64_MAX, &number) && number == UINT64_MAX);
  static const char *const wrong[] = {"", " 1", "+1", "-1", "1x", "10", "18446744073709551616"};
  for (size_t k = 0; k < sizeof(wrong) / sizeof(wrong[0]); k++)
    ck_assert(!parse_number(wrong[k], 0, 9, &number));
}
END_TEST

START_TEST(random_numbers)
{
  uint64_t key = random_key(0, "q");
  double sum = 0;
  double squares = 0;
  ck_assert(random_key(0, "q") != random_key(0, "k") && random_key(0, "q") != random_key(1, "q"));
  for (uint64_t n = 0; n < 20000; n++) {
    double x = random_normal(key, n);
    ck_assert(x == random_normal(key, n));
    sum += x;
    squares += x * x;
  }
  /* Five standard errors of the mean and of the variance. */
  ck_assert(fabs(sum / 20000) < 5 * 0.0071);
  ck_assert(fabs(squares / 20000 - 1) < 5 * 0.01);
}
END_TEST

START_TEST(random_inputs_fit_their_meaning)
{
  struct workload w;
  make(&w,
       "attention a {\n heads 2\n dim 4\n input length : i32[B]\n input doc : i32[B, NK]\n input "
       "pick : i64[H, 3]\n"
       " input keep : bool[B, NK]\n mask j < length[b] and doc[b, i] == doc[b, j] and keep[b, j] "
       "and pick[h, 0] < 9\n}\n",
       5, 40, 50);
  for (int64_t n = 0; n < 5; n++)
    ck_assert(tensor_get(&w.inputs[0], n) >= 1 && tensor_get(&w.inputs[0], n) <= 50);
  bool rises = false;
  for (int64_t n = 1; n < 50; n++) {
    double step = tensor_get(&w.inputs[1], n) - tensor_get(&w.inputs[1], n - 1);
    ck_assert(step == 0 || step == 1);
    rises |= step == 1;
  }
  ck_assert(rises && tensor_get(&w.inputs[1], 50) == 0);
  for (int64_t n = 0; n < 6; n++)
    ck_assert(tensor_get(&w.inputs[2], n) >= 0 &&
              tensor_get(&w.inputs[2], n) < 2); /* H is the least dim */
  double kept = 0;
  for (int64_t n = 0; n < 250; n++)
    kept += tensor_get(&w.inputs[3], n);
  ck_assert(kept > 165 && kept < 235);
  drop(&w);
}
END_TEST

START_TEST(shapes_of_packed_tensors)
{
  struct workload w;
  make(&w,
       "attention a {\n heads q = 4, kv = 2\n dim qk = 8, v = 6\n input gate : f32[B, H, NQ]\n "
       "input doc : i32[B, NK]\n"
       " input t : f32[B, H]\n mask doc[b, j] >= 0\n score s + gate[b, h, r] + t[b, h]\n cache "
       "ragged\n output lse, mass\n}\n",
       3, 10, 20);
  int64_t queries = w.query_starts[3];
  int64_t keys = w.key_starts[3];
  const struct {
    const struct tensor *tensor;
    int ndim;
    int64_t shape[3];
  } rows[] = {
      {&w.q, 3, {queries, 4, 8}},
      {&w.k, 3, {keys, 2, 8}},
      {&w.v, 3, {keys, 2, 6}},
      {&w.o, 3, {queries, 4, 6}},
      {&w.inputs[0], 2, {queries, 4, 0}},
      {&w.inputs[1], 1, {keys, 0, 0}},
      {&w.inputs[2], 2, {3, 4, 0}},
      {&w.outputs[0], 2, {queries, 4, 0}},
      {&w.outputs[1], 2, {keys, 4, 0}},
  };
  ck_assert(queries > 10 && queries <= 30 && keys > 20 && keys <= 60);
  for (size_t k = 0; k < sizeof(rows) / sizeof(rows[0]); k++) {
    ck_assert_int_eq(rows[k].tensor->ndim, rows[k].ndim);
    for (int d = 0; d < rows[k].ndim; d++)
      ck_assert_int_eq(rows[k].tensor->shape[d], rows[k].shape[d]);
  }
  drop(&w);
}
END_TEST

static const char *const masks[] = {
    "attention a {\n heads 2\n dim 4\n}\n",
    "attention a {\n heads 2\n dim 4\n mask causal\n}\n",
    "attention a(w: int = 9) {\n heads 2\n dim 4\n mask 0 <= i - j < w or j < 3\n}\n",
    "attention a {\n heads 3\n dim 4\n mask (i + j + h) % 3 == 0\n}\n",
    "attention a {\n heads 2\n dim 4\n input doc : i32[B, NK]\n align start\n mask i < NK and "
    "doc[b, i] == doc[b, j]\n}\n",
    "attention a {\n heads 2\n dim 4\n input length : i32[B]\n mask j < length[b]\n}\n",
    "attention a {\n heads 2\n dim 4\n mask causal\n cache ragged\n}\n",
    "attention a {\n heads 2\n dim 4\n input doc : i32[B, NK]\n align start\n mask i < NK and "
    "doc[b, i] <= doc[b, j]\n"
    " cache ragged\n}\n",
};

/* The reference looks at every pair. */
START_TEST(visible_count_is_the_references)
{
  static const int64_t sizes[][3] = {{1, 1, 1}, {2, 37, 90}, {2, 90, 37}, {3, 70, 70},
                                     {1, 0, 5}, {1, 5, 0},   {0, 5, 5}};
  for (size_t n = 0; n < sizeof(sizes) / sizeof(sizes[0]); n++) {
    struct workload w;
    struct ref_result result;
    uint64_t visible;
    uint64_t pairs;
    make(&w, masks[_i], sizes[n][0], sizes[n][1], sizes[n][2]);
    ck_assert(workload_reference(&w, REF_EXACT, w.spec->query_heads, &result));
    ck_assert(!result.fault.raised);
    ck_assert(visible_count(&w, &visible, &pairs));
    ck_assert_uint_eq(visible, result.visible);
    ck_assert_uint_eq(pairs, result.pairs);
    ref_result_free(&result);
    drop(&w);
  }
}
END_TEST

/* Stores the reference's own results, so that comparing finds no fault; then one that is off. */
START_TEST(comparing)
{
  struct workload w;
  struct ref_result result;
  struct comparison comparison;
  bool ragged = _i == 1;
  make(&w,
       ragged ? "attention a {\n heads q = 4, kv = 2\n dim 4\n mask causal\n cache ragged\n output "
                "lse, mass, weights\n}\n"
              : "attention a {\n heads q = 4, kv = 2\n dim 4\n mask causal\n output lse, mass, "
                "weights\n}\n",
       2, 5, 9);
  ck_assert(workload_reference(&w, REF_EXACT, 4, &result));
  int64_t row = 0;
  for (int64_t b = 0; b < 2; b++)
    for (int64_t h = 0; h < 4; h++) {
      int64_t keys = workload_keys(&w, b);
      for (int64_t r = 0; r < workload_queries(&w, b); r++, row++) {
        int64_t to = workload_row(&w, b, h, r);
        for (int64_t c = 0; c < 4; c++)
          tensor_set(&w.o, to * 4 + c, result.o[row * 4 + c]);
        tensor_set(&w.outputs[0], to, result.outputs[0][row]);
        for (int64_t j = 0; j < keys; j++)
          tensor_set(&w.outputs[2], to * w.keys + j,
                     result.outputs[2][((b * 4 + h) * w.queries + r) * w.keys + j]);
      }
      for (int64_t j = 0; j < keys; j++)
        tensor_set(&w.outputs[1], ragged ? (w.key_starts[b] + j) * 4 + h : (b * 4 + h) * keys + j,
                   result.outputs[1][(b * 4 + h) * w.keys + j]);
    }
  ref_result_free(&result);
  ck_assert(compare_workload(&w, 4, &comparison));
  ck_assert_msg(comparison.ok, "%s: %g, not %g", comparison.where, comparison.out, comparison.ref);
  ck_assert(compare_workload(&w, 2, &comparison));
  ck_assert(comparison.ok);

  int64_t at = workload_row(&w, 1, 3, 0) * 4 + 2;
  double kept = tensor_get(&w.o, at);
  tensor_set(&w.o, at, kept + 0.01);
  ck_assert(compare_workload(&w, 4, &comparison));
  ck_assert(!comparison.ok && comparison.worst_ratio > 1);
  ck_assert_str_eq(comparison.where, "o[1, 3, 0, 2]");
  ck_assert(compare_workload(&w, 2, &comparison)); /* head 3 is not looked at */
  ck_assert(comparison.ok);
  tensor_set(&w.o, at, (double)NAN);
  ck_assert(compare_workload(&w, 4, &comparison));
  ck_assert(!comparison.ok && isinf(comparison.worst_ratio));
  ck_assert_str_eq(comparison.where, "o[1, 3, 0, 2]");
  tensor_set(&w.o, at, kept);
  at = workload_row(&w, 0, 1, 2);
  tensor_set(&w.outputs[0], at, 100);
  ck_assert(compare_workload(&w, 4, &comparison));
  ck_assert_str_eq(comparison.where, "lse[0, 1, 2]");
  drop(&w);
}
END_TEST

START_TEST(positions_far_away)
{
  static const struct {
    const char *text, *far;
  } rows[] = {
      {"attention a {\n heads 2\n dim 4\n position rope\n}\n",
       "attention a {\n heads 2\n dim 4\n position rope(at = t + 1000000)\n}\n"},
      {"attention a {\n heads 2\n dim 4\n position rope(base = 500.0)\n mask causal\n}\n",
       "attention a {\n heads 2\n dim 4\n position rope(at = t + 1000000, base = 500.0)\n mask "
       "causal\n}\n"},
  };
  for (size_t k = 0; k < 2; k++) {
    size_t length;
    const struct spec *spec = check_text(rows[k].text);
    ck_assert_int_eq(battery_far(spec), FAR_ROTARY);
    char *far = battery_far_text(spec, document.text, document.length, &length);
    ck_assert_ptr_nonnull(far);
    ck_assert_str_eq(far, rows[k].far);
    ck_assert_uint_eq(length, strlen(far));
    document_close(&document);
    check_text(far);
    document_close(&document);
    mem_free(far);
  }
  ck_assert_int_eq(
      battery_far(check_text("attention a(first: int) {\n heads 2\n dim 4\n align first\n}\n")),
      FAR_ALIGN);
  document_close(&document);
  ck_assert_int_eq(battery_far(check_text(masks[1])), FAR_NEVER);
  document_close(&document);
}
END_TEST

START_TEST(json_values)
{
  char text[512] = "";
  FILE *file = fmemopen(text, sizeof(text), "w");
  struct json json = {.file = file};
  json_open(&json, NULL, '{');
  json_text(&json, "a\"b", "x\n\x01");
  json_open(&json, "list", '[');
  json_integer(&json, NULL, -5);
  json_number(&json, NULL, (double)INFINITY);
  json_close(&json, ']');
  json_integers(&json, "shape", (const int64_t[]){2, 3}, 2);
  json_open(&json, "empty", '{');
  json_close(&json, '}');
  json_bool(&json, "yes", true);
  json_close(&json, '}');
  fclose(file);
  ck_assert_str_eq(text, "{\n  \"a\\\"b\": \"x\\n\\u0001\",\n  \"list\": [\n    -5,\n    null\n  "
                         "],\n  \"shape\": [2, 3],\n  \"empty\": {},\n"
                         "  \"yes\": true\n}\n");
}
END_TEST

/* Whatever allocation fails, the call says so and nothing is leaked. */
START_TEST(out_of_memory)
{
  bool good = false;
  for (uint64_t n = 1; !good; n++) {
    struct workload w;
    uint64_t visible;
    uint64_t pairs;
    struct comparison comparison;
    make(&w, masks[6], 2, 5, 9);
    mem_fail_at(n);
    good = visible_count(&w, &visible, &pairs) && compare_workload(&w, 2, &comparison);
    mem_fail_at(0);
    drop(&w);
    ck_assert(n < 5000);
  }
}
END_TEST

int main(void)
{
  Suite *suite = suite_create("command");
  TCase *tests = tcase_create("command");
  tcase_add_test(tests, options_in_every_form);
  tcase_add_test(tests, numbers);
  tcase_add_test(tests, random_numbers);
  tcase_add_test(tests, random_inputs_fit_their_meaning);
  tcase_add_test(tests, shapes_of_packed_tensors);
  tcase_add_loop_test(tests, visible_count_is_the_references, 0,
                      (int)(sizeof(masks) / sizeof(masks[0])));
  tcase_add_loop_test(tests, comparing, 0, 2);
  tcase_add_test(tests, positions_far_away);
  tcase_add_test(tests, json_values);
  tcase_add_test(tests, out_of_memory);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
