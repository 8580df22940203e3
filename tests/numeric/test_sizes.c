/* One program for every size: 200 different (B, NQ, NK) on one compilation, each compared with the
 * reference; on the CPU, or where ATTN_TEST_DEVICE says ("cuda:0"). */
#include "runtime/attnc/battery.h"
#include "runtime/attnc/document.h"
#include "runtime/attnc/random.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char text[] = "attention sizes(width: int = 70) {\n"
                           "  heads    q = 4, kv = 2\n"
                           "  dim      qk = 20, v = 12\n"
                           "  type     f32\n"
                           "  input    doc : i32[B, NK]\n"
                           "  mask     0 <= i - j < width and doc[b, i] == doc[b, j]\n"
                           "  output   lse\n"
                           "}\n";

/* Mostly small, with 0, 1, tile edges and a few long ones. */
static int64_t draw_size(uint64_t key, uint64_t number)
{
  static const int64_t edges[] = {0, 1, 15, 16, 17, 95, 96, 97, 127, 128, 129, 191, 192, 193, 257};
  uint64_t bits = random_bits(key, number);
  if (bits % 4 == 0)
    return edges[bits / 4 % (sizeof(edges) / sizeof(*edges))];
  return (int64_t)(bits / 4 % 150);
}

START_TEST(one_compilation)
{
  struct option_list sets = {0};
  struct document document = {0};
  document_check(&document, "sizes.attn", text, sizeof(text) - 1, &sets);
  ck_assert(document.file != NULL && document.file->specs.count == 1);
  const struct spec *spec = document.file->specs.items[0];

  attn_context_options options = ATTN_CONTEXT_OPTIONS_INIT;
  attn_context *context = NULL;
  options.device = getenv("ATTN_TEST_DEVICE");
  ck_assert_int_eq(attn_context_create(&options, &context), ATTN_OK);
  attn_program *program = NULL;
  ck_assert_int_eq(attn_compile(context, text, sizeof(text) - 1, "sizes.attn", NULL, &program),
                   ATTN_OK);

  uint64_t key = random_key(7, "sizes");
  for (uint64_t k = 0; k < 200; k++) {
    struct battery_case c = {.batch = 1 + (int64_t)(random_bits(key, 3 * k) % 3),
                             .queries = draw_size(key, 3 * k + 1),
                             .keys = draw_size(key, 3 * k + 2)};
    /* Where a slice has one or two values, the naive evaluation can be right by luck and the bound
     * next to nothing; the same luck does not come three times. */
    struct battery_result result;
    for (uint64_t seed = 0; seed < 3; seed++) {
      battery_run(spec, DTYPE_F32, program, context, NULL, &c, k + 1000 * seed, &result);
      if (result.outcome != BATTERY_DIFFERS)
        break;
    }
    char shape[128];
    battery_describe(&c, shape, sizeof(shape));
    ck_assert_msg(result.outcome == BATTERY_OK || result.outcome == BATTERY_LEFT_OUT,
                  "%s: %s %s is %.9g, the reference says %.9g", shape, result.error,
                  result.comparison.where, result.comparison.out, result.comparison.ref);
  }
  attn_statistics statistics = attn_context_statistics(context);
  ck_assert_uint_eq(statistics.compilations, 1);
  ck_assert_uint_ge(statistics.launches, 150);
  attn_program_free(program);
  attn_context_free(context);
  document_close(&document);
}
END_TEST

int main(void)
{
  Suite *suite = suite_create("sizes");
  TCase *tests = tcase_create("sizes");
  tcase_add_test(tests, one_compilation);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? 0 : 1;
}
