/* What lints claim holds: random masks, with every claim compared with the mask's values at all
 * pairs of small sizes. */
#include "dsl/expr_eval.h"
#include "dsl/spec.h"

#include <check.h>
#include <stdio.h>
#include <string.h>

enum { MASKS = 3000, MAX_SIZE = 9 };

static uint32_t state;

static uint32_t draw(uint32_t limit)
{
  state = state * 1664525u + 1013904223u;
  return (state >> 8) % limit;
}

struct text {
  char bytes[2048];
  size_t length;
};

static void add(struct text *text, const char *piece)
{
  size_t length = strlen(piece);
  ck_assert_uint_lt(text->length + length, sizeof(text->bytes));
  memcpy(text->bytes + text->length, piece, length + 1);
  text->length += length;
}

static void add_number(struct text *text)
{
  static const char *const numbers[] = {
      "i",       "j",      "i + 1",  "j - 2",  "2 * j",     "0",        "3",     "NK",
      "NK - 1",  "i // 2", "j // 2", "i - j",  "j - i",     "w",        "i % 3", "x[b, i]",
      "x[b, j]", "i - w",  "-j",     "NK - j", "min(i, 2)", "3 * i - j"};
  add(text, numbers[draw(sizeof(numbers) / sizeof(*numbers))]);
}

static void add_condition(struct text *text, uint32_t depth)
{
  static const char *const comparisons[] = {" < ", " <= ", " > ", " >= ", " == ", " != "};
  if (depth > 0 && draw(3) != 0) {
    add(text, draw(4) == 0 ? "not (" : "(");
    add_condition(text, depth - 1);
    add(text, draw(2) == 0 ? " and " : " or ");
    add_condition(text, depth - 1);
    add(text, ")");
    return;
  }
  add_number(text);
  add(text, comparisons[draw(6)]);
  add_number(text);
}

static bool read_some(void *user, uint32_t tensor, const int64_t *indices, size_t count,
                      union expr_value *value, struct expr_fault *fault)
{
  (void)user;
  (void)tensor;
  (void)fault;
  value->i = indices[count - 1] * 7 % 5 - 1;
  return true;
}

struct run {
  struct arena arena;
  struct source_set sources;
  struct diagnostics diagnostics;
  struct spec_file *file;
};

static void check_text(struct run *run, const char *text)
{
  arena_init(&run->arena);
  if (arena_guard(&run->arena))
    ck_abort_msg("out of memory");
  source_set_init(&run->sources, &run->arena);
  diagnostics_init(&run->diagnostics, &run->arena, &run->sources);
  uint32_t source = source_add(&run->sources, "test.attn", text, strlen(text));
  run->file = spec_check(&run->arena, &run->sources, source, NULL, &run->diagnostics);
  ck_assert_msg(run->file->specs.count == 1, "%s", diagnostics_print(&run->diagnostics, false));
}

enum claim { HIDES_ALL, HIDES_NOTHING, HIDES_FIRST, HIDES_LAST, CLAIM_COUNT };

static void find_claims(const struct run *run, bool claims[CLAIM_COUNT])
{
  for (size_t k = 0; k < run->diagnostics.items.count; k++) {
    const struct diagnostic *found = &run->diagnostics.items.items[k];
    bool constant = found->code == DIAG_MASK_CONSTANT, row = found->code == DIAG_MASK_EMPTY_ROW;
    claims[HIDES_ALL] |= constant && strstr(found->message, "every key") != NULL;
    claims[HIDES_NOTHING] |= constant && strstr(found->message, "nothing") != NULL;
    claims[HIDES_FIRST] |= row && strstr(found->message, "position 0") != NULL;
    claims[HIDES_LAST] |= row && strstr(found->message, "NK - 1") != NULL;
  }
}

/* Counts what is seen of sequences that attend to themselves. */
static void compare(const struct spec *spec, struct expr_evaluator *evaluator,
                    const bool claims[CLAIM_COUNT], const char *text)
{
  expr_set_reader(evaluator, read_some, NULL, NULL);
  for (int64_t w = -1; w <= 4; w++) {
    expr_set_param(evaluator, 0, (union expr_value){.i = w});
    for (int64_t size = 1; size <= MAX_SIZE; size++) {
      expr_set_int(evaluator, EXPR_VAR_SIZE_NK, size);
      for (int64_t i = 0; i < size; i++) {
        int64_t seen = 0;
        expr_set_int(evaluator, EXPR_VAR_I, i);
        for (int64_t j = 0; j < size; j++) {
          expr_set_int(evaluator, EXPR_VAR_J, j);
          seen += expr_evaluate(evaluator, spec->mask).i;
        }
        if (claims[HIDES_ALL] || (claims[HIDES_FIRST] && i == 0) ||
            (claims[HIDES_LAST] && i == size - 1))
          ck_assert_msg(seen == 0, "row %d of %d sees a key: %s", (int)i, (int)size, text);
        if (claims[HIDES_NOTHING])
          ck_assert_msg(seen == size, "row %d of %d misses one: %s", (int)i, (int)size, text);
      }
    }
  }
}

START_TEST(masks)
{
  size_t counts[CLAIM_COUNT] = {0};
  for (uint32_t n = 0; n < MASKS; n++) {
    struct run run;
    struct text text = {.length = 0};
    bool claims[CLAIM_COUNT] = {false};
    state = n * 977 + 1;
    add(&text, "attention a(w: int = 1) {\n heads 1\n dim 4\n input x : i32[B, NK]\n mask ");
    add_condition(&text, 2);
    if (n % 2 != 0) {
      add(&text, "\n mask ");
      add_condition(&text, 1);
    }
    add(&text, "\n}\n");
    check_text(&run, text.bytes);
    find_claims(&run, claims);
    if (n % 2 != 0)
      claims[HIDES_NOTHING] = false; /* one of the two masks */
    for (int k = 0; k < CLAIM_COUNT; k++)
      counts[k] += claims[k];
    const struct spec *spec = run.file->specs.items[0];
    compare(spec, expr_evaluator_new(&run.arena, spec->pool), claims, text.bytes);
    arena_free(&run.arena);
  }
  for (int k = 0; k < CLAIM_COUNT; k++)
    ck_assert_msg(counts[k] >= 20, "claim %d was made %zu times", k, counts[k]);
}
END_TEST

/* A long reduction is not evaluated. */
START_TEST(long_reductions)
{
  struct run run;
  check_text(&run, "attention a {\n heads 1\n dim 4\n input x : f32[NK]\n"
                   " score s + x[j + 1] * sum(n < 2147483647) x[n]\n}\n");
  ck_assert_uint_eq(run.diagnostics.items.count, 1);
  ck_assert_int_eq(run.diagnostics.items.items[0].code, DIAG_INDEX_LEAVES);
  arena_free(&run.arena);
}
END_TEST

int main(void)
{
  Suite *suite = suite_create("lints");
  TCase *tests = tcase_create("lints");
  tcase_set_timeout(tests, 120);
  tcase_add_test(tests, masks);
  tcase_add_test(tests, long_reductions);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}
