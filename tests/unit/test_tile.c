/* Tile programs: builder, printer, parser, the hand-written programs and the docs. */
#include "compiler/tile/abi.h"
#include "tests/unit/tile_texts.h"

/* ---- hand-written programs and the docs ---- */

START_TEST(hand_written_programs)
{
  static const char *const names[] = {
      "matmul_epilogue",    "column_sum",      "two_pass_weight", "transposed_product",
      "chunked_recurrence", "flash_attention", "decode",          "segments",
      "every_op",
  };
  for (size_t k = 0; k < sizeof(names) / sizeof(*names); k++) {
    const char *path = arena_format(&arena, "tests/golden/tile/%s.tile", names[k]);
    check_round_trip(read_good(read_file(path)));
  }
}
END_TEST

START_TEST(every_op_is_printed_as_written)
{
  const char *text = read_file("tests/golden/tile/every_op.tile");
  ck_assert_str_eq(tile_print(&arena, read_good(text)), strstr(text, "kernel every_op"));
  for (int op = 0; op < TILE_OP_COUNT; op++)
    ck_assert_msg(strstr(text, tile_op_infos[op].text) != NULL, "no %s", tile_op_infos[op].text);
}
END_TEST

START_TEST(docs_describe_every_op_in_order)
{
  const char *at = read_file("docs/tile-program.md");
  for (int op = 0; op < TILE_OP_COUNT; op++) {
    at = strstr(at, arena_format(&arena, "\n#### `%s`\n", tile_op_infos[op].text));
    ck_assert_msg(at != NULL, "no heading of %s after that of the op before",
                  tile_op_infos[op].text);
    at += 5;
    const char *next = strstr(at, "\n#");
    ck_assert_msg(next != NULL && next - at > 80, "too little about %s", tile_op_infos[op].text);
  }
}
END_TEST

START_TEST(docs_samples_are_programs)
{
  const char *at = read_file("docs/tile-program.md");
  int count = 0;
  while ((at = strstr(at, "```tile\n")) != NULL) {
    at += strlen("```tile\n");
    const char *end = strstr(at, "```");
    ck_assert_ptr_nonnull(end);
    check_round_trip(read_good(arena_strndup(&arena, at, (size_t)(end - at))));
    at = end + 3;
    count++;
  }
  ck_assert_int_ge(count, 2);
}
END_TEST

/* ---- builder ---- */

static struct tile_builder begin(const char *name)
{
  struct expr_pool *pool = ARENA_NEW(&arena, struct expr_pool);
  expr_pool_init(pool, &arena);
  struct tile_builder b = {.program = tile_program_new(&arena, pool), .span = {0, 3, 7}};
  b.kernel = tile_kernel_new(b.program, name);
  b.region = b.kernel->body;
  return b;
}

static struct tile_access access_2d(uint32_t tensor)
{
  return (struct tile_access){
      .tensor = tensor, .row_dim = 0, .group_dim = TILE_NO_DIM, .column_dim = 1, .row_group = 1};
}

START_TEST(builder_makes_verified_programs)
{
  struct tile_builder b = begin("7 built-kernel");
  struct expr_pool *pool = b.program->pool;
  ck_assert_str_eq(b.kernel->name, "_7_built_kernel");
  uint32_t x =
      tile_add_tensor(b.kernel, (struct tile_tensor){.name = "x", .element = DTYPE_F16, .rank = 2});
  uint32_t y = tile_add_tensor(
      b.kernel,
      (struct tile_tensor){.name = "exp", .element = DTYPE_F32, .rank = 2, .written = true});
  uint32_t n = tile_add_param(b.kernel, (struct tile_param){.name = "x", .type = EXPR_INT});
  ck_assert_str_eq(b.kernel->tensors.items[y].name, "exp_"); /* a function's name */
  ck_assert_str_eq(b.kernel->params.items[n].name, "x_");    /* a tensor's */
  struct tile_fault_site site = {.tensor = EXPR_TENSOR_INPUT, .dim = 1, .span = {0, 1, 2}};
  vector_push(&arena, &b.kernel->sites, site);

  const struct expr *count = expr_convert(pool, expr_param(pool, n, EXPR_INT), EXPR_LONG);
  struct tile_value *end = tile_scalar(&b, TILE_INDEX, count, NULL, 0);
  struct tile_op *parallel = tile_parallel(&b, (struct tile_value *[]){end, end}, 2);
  ck_assert_ptr_eq(b.region, parallel->regions[0]);
  ck_assert_uint_eq(parallel->span.end, 7);
  struct tile_value *i = parallel->regions[0]->arguments[0];
  tile_set_name(&b, i, "i");
  tile_set_name(&b, parallel->regions[0]->arguments[1], "i");
  ck_assert_str_eq(parallel->regions[0]->arguments[1]->name, "i.1");
  tile_limit_rows(&b, 16, end);

  struct tile_value *zero = tile_index(&b, 0);
  struct tile_value *at[] = {i, zero};
  struct tile_value *tile =
      tile_load(&b, tile_type_tile(TILE_F16, 16, 8), access_2d(x), at, 2, end, end);
  struct tile_value *row = tile_iota(&b, i, 16, 1), *column = tile_iota(&b, zero, 1, 8);
  const struct expr *r = expr_arg(pool, 0, EXPR_INT), *c = expr_arg(pool, 1, EXPR_INT);
  struct tile_value *seen = tile_map(&b, TILE_BOOL, expr_binary(pool, EXPR_LE, c, r),
                                     (struct tile_value *[]){row, column}, 2);
  ck_assert_uint_eq(seen->type.rows, 16); /* the common shape */
  ck_assert_uint_eq(seen->type.columns, 8);
  struct tile_value *any = tile_reduce(&b, TILE_REDUCE_ANY, 1, seen);
  ck_assert_uint_eq(any->type.rows, 16);
  ck_assert_uint_eq(any->type.columns, 1);
  const struct expr *ok = expr_binary(pool, EXPR_LT, r, expr_int(pool, 1 << 20));
  tile_check(&b, ok, r, 0, &row, 1);
  struct tile_value *start = tile_splat(&b, TILE_F32, 8, 8, 0.5);
  struct tile_op *loop = tile_for(&b, zero, end, 4, &start, 1);
  struct tile_value *carried = loop->regions[0]->arguments[1];
  struct tile_value *next = tile_product(&b, tile, true, tile, false, carried);
  ck_assert_uint_eq(next->type.rows, 8);
  ck_assert_uint_eq(next->type.columns, 8);
  tile_yield(&b, &next, 1);
  tile_end_region(&b);
  ck_assert_ptr_eq(b.region, parallel->regions[0]);

  struct tile_value *segments[] = {zero, i, i, end};
  struct tile_op *walk = tile_for_segments(&b, 8, segments, 2, &i, 1, expr_bool(pool, true),
                                           expr_bool(pool, false), loop->results, 1);
  tile_yield(&b, walk->regions[0]->arguments + 1, 1);
  tile_open_region(&b, walk, 1);
  struct tile_value *turned = tile_transpose(&b, walk->regions[1]->arguments[1]);
  tile_yield(&b, &turned, 1);
  tile_end_region(&b);

  struct tile_value *on = tile_scalar(&b, TILE_BOOL, expr_bool(pool, true), NULL, 0);
  struct tile_type type = walk->results[0]->type;
  struct tile_op *choice = tile_if(&b, on, &type, 1);
  static const uint32_t swap[] = {1, 0, 3, 2, 5, 4, 7, 6};
  struct tile_value *permuted = tile_permute(&b, walk->results[0], swap, 8);
  tile_yield(&b, &permuted, 1);
  tile_open_region(&b, choice, 1);
  struct tile_value *factor = tile_reduce(&b, TILE_REDUCE_SUM, 1, walk->results[0]);
  struct tile_value *scaled = tile_scale_rows(&b, walk->results[0], factor);
  tile_yield(&b, &scaled, 1);
  tile_end_region(&b);
  tile_store(&b, choice->results[0], access_2d(y), at, 2, end, end);
  tile_end_region(&b);
  ck_assert_ptr_eq(b.region, b.kernel->body);

  const char *text = check_round_trip(b.program);
  ck_assert_ptr_nonnull(strstr(text, "parallel (%i, %i.1) < ("));
  ck_assert_ptr_nonnull(strstr(text, "site tensor 4 dim 1 at 0:1:2"));
  ck_assert_uint_eq(tile_slot_count(b.kernel), 5 + 5 + 1 + 1);
  ck_assert_uint_eq(tile_param_slot(b.kernel, 0), 10);
}
END_TEST

/* ---- text ---- */

static const struct {
  const char *text, *code, *message;
} unreadable[] = {
    {"", "E0601", "expected 'kernel'"},
    {"kernel", "E0601", "expected the kernel's name"},
    {"kernel t", "E0601", "expected '{'"},
    {"kernel t {", "E0601", "expected '}'"},
    {"kernel t { ^ }", "E0601", "no meaning"},
    {"kernel t { } x", "E0601", "expected 'kernel'"},
    {"kernel t { } kernel t { }", "E0602", "there is a kernel 't' already"},
    {"kernel t tensor exp f32[1] { }", "E0602", "'exp' is taken"},
    {"kernel t tensor a f32[1] param a int { }", "E0602", "'a' is taken"},
    {"kernel t tensor a f33[1] { }", "E0601", "expected an element type"},
    {"kernel t tensor a f32[9] { }", "E0604", "at most 8"},
    {"kernel t tensor a f32[1] role x { }", "E0602", "no such role"},
    {"kernel t tensor a f32[1] role workspace shape [n] { }", "E0602", "B, NQ and NK"},
    {"kernel t param a long { }", "E0601", "a bool, an int or a float"},
    {"kernel t { frob }", "E0602", "expected an op"},
    {"kernel t { wait %x }", "E0602", "no value %x"},
    {"kernel t { %x: f32 = scalar => 1.0 %x: f32 = scalar => 1.0 }", "E0602", "%x already"},
    {"kernel t { %x: f64 = scalar => 1.0 }", "E0601", "expected a type"},
    {"kernel t { %x: f32[1,2,odd] = scalar => 1.0 }", "E0601", "no such layout"},
    {"kernel t { %x: f32[9999,2] = scalar => 1.0 }", "E0604", "at most 4096"},
    {"kernel t { %x: f32 = scalar => }", "E0601", "expected an expression"},
    {"kernel t { %x: f32 = scalar => 1.0x }", "E0601", "ends in a letter"},
    {"kernel t { %x: f32 = scalar => 1 + 1.0 }", "E0603", "are int and float"},
    {"kernel t { %x: f32 = scalar => 1 / 2 }", "E0603", "'/' has no meaning"},
    {"kernel t { %x: f32 = scalar => not 1 }", "E0603", "'not' has no meaning"},
    {"kernel t { %x: f32 = scalar => exp(1) }", "E0603", "'exp' has no meaning"},
    {"kernel t { %x: f32 = scalar => exp(1.0, 2.0) }", "E0601", "takes 1 arguments, not 2"},
    {"kernel t { %x: f32 = scalar => frob(1.0) }", "E0602", "no function 'frob'"},
    {"kernel t { %x: f32 = scalar => select(1, 2, 3) }", "E0603", "condition"},
    {"kernel t { %x: f32 = scalar => select(true, 2, 3.0) }", "E0603", "int and float"},
    {"kernel t { %x: f32 = scalar => pow(2, -1) }", "E0603", "no meaning"},
    {"kernel t { %x: f32 = scalar => hash(1.0) }", "E0603", "must be ints"},
    {"kernel t { %x: f32 = scalar => sum(@0 < 1.0, 1) }", "E0603", "extent"},
    {"kernel t { %x: f32 = scalar => sum(@99 < 1, 1) }", "E0604", "@0 to @31"},
    {"kernel t { %x: f32 = scalar => sum(1, 1) }", "E0601", "expected the variable"},
    {"kernel t { %x: f32 = scalar => @99 }", "E0604", "@0 to @31"},
    {"kernel t { %x: f32 = scalar => $0 }", "E0602", "has 0 operands"},
    {"kernel t { %x: f32 = scalar => &0 }", "E0602", "&0 is not defined"},
    {"kernel t { %x: f32 = scalar => let &1 = 1 in &1 }", "E0601", "expected &0"},
    {"kernel t { %x: f32 = scalar => n }", "E0602", "no parameter 'n'"},
    {"kernel t { %x: f32 = scalar => n[1] }", "E0602", "no tensor 'n'"},
    {"kernel t tensor a f32[1] { %x: f32 = scalar => a.long[1] }", "E0603",
     "does not hold integers"},
    {"kernel t tensor a f32[1] { %x: f32 = scalar => a[1.0] }", "E0603", "not an int"},
    {"kernel t { %x: f32 = scalar => 2147483648 }", "E0604", "does not fit an int"},
    {"kernel t { %x: f32 = scalar => 99999999999999999999 }", "E0604", "does not fit 64 bits"},
};

START_TEST(parser_reports)
{
  struct reading *r = read_text(unreadable[_i].text, strlen(unreadable[_i].text));
  const char *text = diagnostics_print(&r->diagnostics, false);
  ck_assert_msg(r->program == NULL, "accepted: %s", unreadable[_i].text);
  ck_assert_uint_eq(r->diagnostics.error_count, 1);
  ck_assert_str_eq(diag_code_text(r->diagnostics.items.items[0].code), unreadable[_i].code);
  ck_assert_msg(strstr(text, unreadable[_i].message) != NULL, "%s", text);
}
END_TEST

static const char *scalar_text(const char *type, const char *expression)
{
  return arena_format(
      &arena,
      "kernel t\n  tensor s i64[2]\n  param n int\n  param g float\n  param on bool\n{\n"
      "  %%e: index = scalar => 1L\n  %%x: %s = scalar => %s\n  parallel (%%i) < (%%e) {\n  }\n}\n",
      type, expression);
}

START_TEST(expressions_are_exact)
{
  static const struct {
    const char *type, *text;
  } cases[] = {
      {"f32", "0.1"},
      {"f32", "-0.0"},
      {"f32", "1.0"},
      {"f32", "1e+300"},
      {"f32", "-inf"},
      {"f32", "nan"},
      {"f32", "0.1s"},
      {"f32", "16777216.0s"},
      {"f32", "-infs"},
      {"f32", "nans"},
      {"f32", "4.94066e-324"},
      {"f32", "1.4013e-45s"},
      {"i32", "-2147483648"},
      {"i32", "2147483647"},
      {"index", "-9223372036854775808L"},
      {"bool", "true"},
      {"bool", "not (n < 3 and on)"},
      {"f32", "-(g - 1.0)"},
      {"f32", "g - (g - 1.0)"},
      {"f32", "g / (g * 3.0) / 7.0"},
      {"i32", "(n + 3) % 5"},
      {"i32", "n // 3 * 3"},
      {"i32", "-(n // 3)"},
      {"f32", "-exp(-g)"},
      {"f32", "pow(g, 2.5)"},
      {"i32", "floor(g)"},
      {"index", "s.long[n, 0] + 1L"},
      {"i32", "s[0, n]"},
      {"f32", "float(n) * g"},
      {"f32", "single(n)"},
      {"f32", "sum(@0 < n, sum(@1 < @0, float(@1) * g))"},
      {"i32", "fold_max(@3 < n, s[@3, 0])"},
      {"f32", "mean(@0 < 4, float(@0))"},
      {"i32", "shift_left(n, 3)"},
      {"f32", "uniform(n, 1, 2)"},
      {"f32", "select(on, g, 1.0)"},
      {"bool", "(n < 3) == on"},
      {"f32", "rsqrt(g) * erf(g) - tanh(g)"},
  };
  for (size_t k = 0; k < sizeof(cases) / sizeof(*cases); k++) {
    const char *text = scalar_text(cases[k].type, cases[k].text);
    ck_assert_str_eq(check_round_trip(read_good(text)), text);
  }
}
END_TEST

/* Operands are ordered by structure: the order in which a pool met them does not show. */
START_TEST(commutative_operands_have_one_order)
{
  const char *one =
      "kernel t\n  param n int\n{\n  %e: index = scalar => 1L\n  %x: i32 = scalar => n * 3\n"
      "  %y: i32 = scalar %e => n * 3 + int($0) // 7\n  parallel (%i) < (%e) {\n  }\n}\n";
  const char *two =
      "kernel t\n  param n int\n{\n  %e: index = scalar => 1L\n  %x: i32 = scalar => n * 3\n"
      "  %y: i32 = scalar %e => int($0) // 7 + 3 * n\n  parallel (%i) < (%e) {\n  }\n}\n";
  ck_assert_str_eq(check_round_trip(read_good(one)), check_round_trip(read_good(two)));
}
END_TEST

/* A text as a tree would have 2^60 nodes. */
START_TEST(shared_expressions_stay_small)
{
  struct tile_builder b = begin("shared");
  struct expr_pool *pool = b.program->pool;
  struct tile_value *end = tile_index(&b, 1);
  const struct expr *x = expr_arg(pool, 0, EXPR_LONG);
  for (int k = 0; k < 60; k++)
    x = expr_add(pool, expr_mul(pool, x, x), expr_unary(pool, EXPR_ABS, x));
  tile_scalar(&b, TILE_INDEX, x, &end, 1);
  for (int k = 0; k < 100; k++) /* and one deeper than the parser nests */
    x = expr_binary(pool, EXPR_FLOORDIV, expr_long(pool, 1000), x);
  tile_scalar(&b, TILE_INDEX, x, &end, 1);
  tile_parallel(&b, &end, 1);
  tile_end_region(&b);
  ck_assert_uint_lt(strlen(check_round_trip(b.program)), 8000);
}
END_TEST

START_TEST(limits_are_errors)
{
  static const char *const cases[] = {"(", "not ", "-", "exp(", "1L + n * (", "sum(@0 < ", "s["};
  for (size_t k = 0; k < sizeof(cases) / sizeof(*cases); k++) {
    size_t length = strlen(cases[k]);
    char *deep = arena_alloc(&arena, 20000 * length + 1);
    for (size_t n = 0; n < 20000; n++)
      memcpy(deep + n * length, cases[k], length);
    struct reading *r = read_text(scalar_text("f32", deep), strlen(scalar_text("f32", deep)));
    ck_assert_str_eq(diag_code_text(r->diagnostics.items.items[0].code), "E0604");
  }
  size_t length = 0;
  char *chain = arena_alloc(&arena, 50000);
  while (length < 40000)
    length += (size_t)sprintf(chain + length, "g - ");
  strcpy(chain + length, "g");
  struct reading *r = read_text(scalar_text("f32", chain), strlen(scalar_text("f32", chain)));
  ck_assert_str_eq(diag_code_text(r->diagnostics.items.items[0].code), "E0604");
  const char *nested = TILE_PREAMBLE;
  for (int n = 0; n < 100; n++)
    nested = arena_format(&arena, "%sif %%c {\n", nested);
  r = read_text(nested, strlen(nested));
  ck_assert_str_eq(diag_code_text(r->diagnostics.items.items[0].code), "E0604");
}
END_TEST

/* Every beginning of a text, and texts with a byte changed, are read without a fault and whatever
 * is accepted is printed and verified without one. */
static void read_print_verify(const char *text, size_t length)
{
  struct arena scratch;
  struct source_set sources;
  struct expr_pool pool;
  struct diagnostics diagnostics;
  arena_init(&scratch);
  if (arena_guard(&scratch) == 0) {
    source_set_init(&sources, &scratch);
    expr_pool_init(&pool, &scratch);
    uint32_t source = source_add(&sources, "t", text, length);
    diagnostics_init(&diagnostics, &scratch, &sources);
    struct tile_program *program = tile_parse(&scratch, &pool, &sources, source, &diagnostics);
    if (program != NULL) {
      tile_print(&scratch, program);
      tile_verify(&scratch, program);
    }
  }
  arena_free(&scratch);
}

START_TEST(damaged_texts)
{
  char *text = read_file("tests/golden/tile/every_op.tile");
  size_t length = strlen(text);
  unsigned state = 1;
  for (size_t n = 0; n < length; n++) {
    static const char bytes[] = "%$&@{}(),=0193anz \n";
    state = state * 1664525u + 1013904223u;
    char kept = text[n];
    read_print_verify(text, n);
    text[n] = bytes[(state >> 16) % (sizeof(bytes) - 1)];
    read_print_verify(text, length);
    text[n] = kept;
  }
}
END_TEST

START_TEST(running_out_of_memory)
{
  char *text = read_file("tests/golden/tile/flash_attention.tile");
  int64_t live = mem_live_count();
  uint64_t before = mem_allocation_count();
  read_print_verify(text, strlen(text));
  uint64_t count = mem_allocation_count() - before;
  ck_assert_uint_gt(count, 1);
  for (uint64_t n = 1; n <= count; n++) {
    mem_fail_at(n);
    read_print_verify(text, strlen(text));
    mem_fail_at(0);
    ck_assert_int_eq(mem_live_count(), live);
  }
}
END_TEST

#define COUNT(array) (int)(sizeof(array) / sizeof(*(array)))

int main(void)
{
  Suite *suite = suite_create("tile");
  TCase *tests = tcase_create("tile");
  tcase_add_checked_fixture(tests, setup, teardown);
  tcase_add_test(tests, hand_written_programs);
  tcase_add_test(tests, every_op_is_printed_as_written);
  tcase_add_test(tests, docs_describe_every_op_in_order);
  tcase_add_test(tests, docs_samples_are_programs);
  tcase_add_test(tests, builder_makes_verified_programs);
  tcase_add_loop_test(tests, parser_reports, 0, COUNT(unreadable));
  tcase_add_test(tests, expressions_are_exact);
  tcase_add_test(tests, commutative_operands_have_one_order);
  tcase_add_test(tests, shared_expressions_stay_small);
  tcase_add_test(tests, limits_are_errors);
  tcase_add_test(tests, damaged_texts);
  tcase_add_test(tests, running_out_of_memory);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? 0 : 1;
}
