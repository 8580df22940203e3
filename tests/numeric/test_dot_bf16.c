/* Products of bf16 on the CPU, made of pairs of elements where the processor has such instructions:
 * odd sizes, rows that see no key, and hidden keys that hold NaN. Run once more for a processor
 * without them (ATTN_HOST_CPU). */
#include "runtime/attnc/battery.h"
#include "runtime/attnc/document.h"
#include "runtime/attnc/random.h"

#include <check.h>
#include <string.h>

enum { QUERIES = 37, KEYS = 61, DIM = 21, DIM_V = 13 };

/* Of every three keys the second is hidden from all rows. */
static const char text[] = "attention pairs {\n"
                           "  heads    1\n"
                           "  dim      qk = 21, v = 13\n"
                           "  type     bf16\n"
                           "  mask     0 <= i - j and j % 3 != 1\n"
                           "}\n";

/* Tiles of which only the last keys are seen, from an odd one on, and not by all rows. */
static const char window[] = "attention window {\n"
                             "  heads    2\n"
                             "  dim      64\n"
                             "  type     bf16\n"
                             "  mask     j <= i and (i - j < 512 or j < 3)\n"
                             "}\n";

static attn_program *compile(const char *source, attn_context **context)
{
  attn_program *program = NULL;
  ck_assert_int_eq(attn_context_create(NULL, context), ATTN_OK);
  ck_assert_int_eq(attn_compile(*context, source, strlen(source), "pairs.attn", NULL, &program),
                   ATTN_OK);
  return program;
}

static void expect_ok(const struct battery_case *c, const struct battery_result *result)
{
  char shape[128];
  battery_describe(c, shape, sizeof(shape));
  ck_assert_msg(result->outcome == BATTERY_OK, "%s: %s %s is %.9g, the reference says %.9g", shape,
                result->error, result->comparison.where, result->comparison.out,
                result->comparison.ref);
}

static void check(struct document *document, const char *source)
{
  struct option_list sets = {0};
  document_check(document, "pairs.attn", source, strlen(source), &sets);
  ck_assert(document->file != NULL && document->file->specs.count == 1);
}

START_TEST(odd_sizes)
{
  struct document document = {0};
  attn_context *context;
  check(&document, text);
  attn_program *program = compile(text, &context);
  uint64_t key = random_key(11, "pairs");
  for (uint64_t k = 0; k < 60; k++) {
    struct battery_case c = {.batch = 1,
                             .queries = 9 + (int64_t)(random_bits(key, 2 * k) % 250),
                             .keys = (int64_t)(random_bits(key, 2 * k + 1) % 300)};
    struct battery_result result;
    for (uint64_t seed = 0; seed < 3; seed++) { /* a bound can be next to nothing by luck */
      battery_run(document.file->specs.items[0], DTYPE_BF16, program, context, NULL, &c,
                  k + 1000 * seed, &result);
      if (result.outcome != BATTERY_DIFFERS)
        break;
    }
    expect_ok(&c, &result);
  }
  attn_program_free(program);
  attn_context_free(context);
  document_close(&document);
}
END_TEST

START_TEST(tiles_seen_from_within_a_pair)
{
  struct document document = {0};
  attn_context *context;
  check(&document, window);
  attn_program *program = compile(window, &context);
  const struct battery_case c = {.batch = 1, .queries = 257, .keys = 1023};
  for (uint64_t seed = 0; seed < 3; seed++) {
    struct battery_result result;
    battery_run(document.file->specs.items[0], DTYPE_BF16, program, context, NULL, &c, seed,
                &result);
    expect_ok(&c, &result);
  }
  attn_program_free(program);
  attn_context_free(context);
  document_close(&document);
}
END_TEST

static DLTensor tensor(uint16_t *data, int64_t *shape)
{
  return (DLTensor){
      .data = data, .device = {kDLCPU, 0}, .ndim = 4, .dtype = {kDLBfloat, 16, 1}, .shape = shape};
}

/* Hidden keys hold `hidden`, others what depends on their place. */
static void launch(attn_program *program, uint16_t hidden, uint16_t *out)
{
  static uint16_t q[QUERIES * DIM], k[KEYS * DIM], v[KEYS * DIM_V];
  for (int n = 0; n < QUERIES * DIM; n++)
    q[n] = (uint16_t)(0x3e80 + n % 97 + (n % 2 << 15));
  for (int n = 0; n < KEYS * DIM; n++)
    k[n] = (uint16_t)(n / DIM % 3 == 1 ? hidden : 0x3f00 + n % 89 + (n % 3 % 2 << 15));
  for (int n = 0; n < KEYS * DIM_V; n++)
    v[n] = (uint16_t)(n / DIM_V % 3 == 1 ? hidden : 0x3f80 + n % 61);
  int64_t shapes[4][4] = {
      {1, 1, QUERIES, DIM}, {1, 1, KEYS, DIM}, {1, 1, KEYS, DIM_V}, {1, 1, QUERIES, DIM_V}};
  DLTensor tensors[4] = {tensor(q, shapes[0]), tensor(k, shapes[1]), tensor(v, shapes[2]),
                         tensor(out, shapes[3])};
  attn_arguments arguments = ATTN_ARGUMENTS_INIT;
  arguments.q = &tensors[0];
  arguments.k = &tensors[1];
  arguments.v = &tensors[2];
  arguments.o = &tensors[3];
  ck_assert_int_eq(attn_launch(program, &arguments), ATTN_OK);
}

START_TEST(hidden_nan)
{
  attn_context *context;
  attn_program *program = compile(text, &context);
  static uint16_t plain[QUERIES * DIM_V], with_nan[QUERIES * DIM_V];
  launch(program, 0, plain);
  launch(program, 0x7fc0, with_nan);
  ck_assert_mem_eq(plain, with_nan, sizeof(plain));
  ck_assert_int_ne(plain[0], 0);
  attn_program_free(program);
  attn_context_free(context);
}
END_TEST

int main(void)
{
  Suite *suite = suite_create("dot_bf16");
  TCase *tests = tcase_create("dot_bf16");
  tcase_add_test(tests, odd_sizes);
  tcase_add_test(tests, tiles_seen_from_within_a_pair);
  tcase_add_test(tests, hidden_nan);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? 0 : 1;
}
