/* How much code a usual spec becomes. Compiling takes the time of LLVM's passes and code generator,
 * which grows with the instructions given to them: what would make compiling slow shows here
 * without a clock. */
#include "tests/unit/build_programs.h"

#include <stdlib.h>

static const char mistral[] = "attention mistral(width: int = 4096) {\n"
                              "  heads    q = 32, kv = 8\n"
                              "  dim      128\n"
                              "  type     bf16\n"
                              "  position rope(base = 10000.0)\n"
                              "  mask     0 <= i - j < width\n"
                              "  cache    paged(page = 16)\n"
                              "}\n";

/* Tiles in codes, in a residual and in both, with a mask and without one, whose products are to
 * share their code. */
static const char kivi[] =
    "attention kivi {\n"
    "  heads    q = 32, kv = 8\n"
    "  dim      128\n"
    "  type     bf16\n"
    "  position rope\n"
    "  mask     causal\n"
    "  cache    paged(page = 64), k = int2(axis = channel, group = 32, residual = 128, "
    "asymmetric = true),\n"
    "           v = int2(axis = token, group = 32, residual = 128, asymmetric = true)\n"
    "}\n";

/* Instructions that the code generator is given, and a quarter more than there were when this was
 * written, on the host for the processor level that needs most (x86-64-v4 with panels of 32 rows,
 * or for KIVI x86-64). A change that needs more should be worth the time; see docs/performance.md,
 * "Compile time". */
static const struct {
  const char *spec;
  enum target target;
  enum kernel_kind kernel;
  bool on_cache;
  size_t most;
} cases[] = {
    {mistral, TARGET_HOST, KERNEL_FORWARD, false, 6500},
    {mistral, TARGET_HOST, KERNEL_DECODE, true, 3900},
    {kivi, TARGET_HOST, KERNEL_DECODE, true, 7400},
    {mistral, TARGET_SM_80, KERNEL_FORWARD, false, 12500},
    {mistral, TARGET_SM_80, KERNEL_DECODE, true, 8300},
};

/* One a line, indented, in LLVM's text. */
static size_t count_instructions(const char *text)
{
  size_t count = 0;
  for (const char *line = text; line != NULL; line = strchr(line, '\n')) {
    line += *line == '\n';
    count += strncmp(line, "  ", 2) == 0;
  }
  return count;
}

START_TEST(code_stays_small)
{
  struct arena arena;
  arena_init(&arena);
  if (arena_guard(&arena))
    ck_abort_msg("out of memory");
  struct source_set sources;
  struct diagnostics diagnostics;
  source_set_init(&sources, &arena);
  diagnostics_init(&diagnostics, &arena, &sources);
  uint32_t source = source_add(&sources, "a.attn", cases[_i].spec, strlen(cases[_i].spec));
  const struct spec_file *file = spec_check(&arena, &sources, source, NULL, &diagnostics);
  ck_assert_msg(!diagnostics_has_errors(&diagnostics), "%s",
                diagnostics_print(&diagnostics, false));
  struct compile_options options = {.target = cases[_i].target,
                                    .kernel = cases[_i].kernel,
                                    .type = DTYPE_BF16,
                                    .on_cache = cases[_i].on_cache};
  struct compiled *compiled = compile_build(&arena, file->specs.items[0], &options, &diagnostics);
  ck_assert_msg(compiled != NULL, "%s", diagnostics_print(&diagnostics, false));
  char *text = NULL;
  const char *error = NULL;
  enum compile_status status = compile_emit(&arena, compiled, COMPILE_LLVM, &text, &error);
  ck_assert_msg(status == COMPILE_OK, "%s", error);
  size_t count = count_instructions(text);
  ck_assert_uint_gt(count, 500); /* otherwise it is not instructions that were counted */
  ck_assert_msg(count <= cases[_i].most, "%zu instructions, at most %zu are allowed", count,
                cases[_i].most);
  mem_free(text);
  arena_free(&arena);
}
END_TEST

int main(void)
{
  Suite *suite = suite_create("code_size");
  TCase *all = tcase_create("all");
  tcase_add_loop_test(all, code_stays_small, 0, (int)(sizeof(cases) / sizeof(*cases)));
  suite_add_tcase(suite, all);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
