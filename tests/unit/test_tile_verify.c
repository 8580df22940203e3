/* The verifier of tile programs: every rule has a program that breaks it. */
#include "tests/unit/tile_texts.h"

static const char *verify_body(const char *body)
{
  return tile_verify(&arena, read_good(arena_format(&arena, "%s%s\n}\n}\n", TILE_PREAMBLE, body)));
}

static const struct {
  const char *body, *error;
} rejected[] = {
    {"%b: f32 = scalar %a => $0", "operand 0 is no scalar"},
    {"%b: f32 = scalar => 1", "the expression is a int"},
    {"%b: index = scalar %i => 1", "the expression is a int"},
    {"%b: f32 = scalar %f => sum(@0 < 3, 1.0) + float(@0)", "outside that sum"},
    {"%b: f32 = scalar => x[0]", "2 dimensions and is read with 1"},
    {"%b: f32 = scalar => float(tile_j0)", "tile_j0 cannot appear"},
    {"%b: f32[32,16] = scalar => 1.0", "the result is no scalar"},
    {"%b: f32[32,17] = map %a => $0", "make a tile [32,16]"},
    {"%b: f32[16,32] = map %a => $0", "make a tile [32,16]"},
    {"%t: f32[16,32] = transpose %a\n%b: f32[32,16] = map %a, %t => $0 + $1",
     "[16,32] beside [32,16]"},
    {"%b: f32[32,32] = contract %a, %a => x[0, 0]", "cannot read tensors"},
    {"%b: f32[32,32] = contract %a, %a, %r => $2", "neither a scalar nor [1,16]"},
    {"%b: f32[32,32] = contract %a, %r => $0", "16 and 1 columns"},
    {"%b: f32[32,16] = contract %a, %a => $0", "must be f32[32,32]"},
    {"check %a site 1 => $0 < 0.0, n", "1 fault sites"},
    {"check %a site 0 => $0, n", "not a bool"},
    {"check %a site 0 => $0 < 0.0, $0", "not an int"},
    {"%b: f32[32,16] = load x[%i] rows 0 columns 1 live %e, %e", "2 dimensions"},
    {"%b: f32[32,16] = load x[%i, %f] rows 0 columns 1 live %e, %e", "index 1 must be"},
    {"%b: f32[32,16] = load x[%i, %i] rows 0 columns 1 live %k, %e", "live count must be an index"},
    {"%b: f32[32,16] = load x[%i, %i] rows 0 columns 2 live %e, %e", "dimension 2 of a tensor"},
    {"%b: f32[32,16] = load x[%i, %i] rows 1 columns 1 live %e, %e", "named twice"},
    {"%b: f32[32,16] = load x[%i, %i] columns 1 live %e, %e", "32 rows along no dimension"},
    {"%b: f32[32,16] = load x[%i, %i] rows 0 live %e, %e", "16 columns along no dimension"},
    {"%b: f32[32,16] = load h[%i, %i, %i] group 0 by 16 columns 1 live %e, %e", "32 rows along no"},
    {"%b: f32[32,16] = load h[%i, %i, %i] rows 1 group 0 by 0 columns 2 live %e, %e", "group of 0"},
    {"%b: i32[32,16] = load x[%i, %i] rows 0 columns 1 live %e, %e", "i32 elements of the f32"},
    {"%b: i32[32,16] = load h[%o, %o, %i] columns 2 live %e, %e", "i32 elements of the f16"},
    {"%b: f16[32,16] = load h[%o, %r, %i] columns 2 live %e, %e",
     "index 1 must be a scalar or i32[32"},
    {"%b: f16[16,16] = load h[%o, %i, %i] columns 2 live %e, %e", "scalar or i32[16,1]"},
    {"%b: f16[32,16] = load h[%o, %o, %i] rows 1 columns 2 live %e, %e",
     "rows run along dimension 1"},
    {"%b: f16[32,16] = load h[%i, %o, %o] rows 0 columns 2 live %e, %e",
     "columns run along dimension 2"},
    {"%b: f16[32,16] = load h[%o, %i, %i] group 1 by 32 columns 2 live %e, %e",
     "cannot be used with a group"},
    {"%b: f16[32,16] = load h[%o, %i, %i] live %e, %e", "16 columns along no dimension"},
    {"%b: f16[32,16] = load h[%o, %i, %i] columns 2 live %o, %e", "live count must be an index"},
    {"accumulate %a to y[%o, %i] columns 1 live %e, %e", "only load and store take"},
    {"%b: buffer(f32[32,16], 1) = buffer\n%t: token = copy_async %b, %k from x[%o, %i] columns 1 "
     "live "
     "%e, %e\nwait %t",
     "only load and store take"},
    {"%b: bool[32,16] = load d[%i, %i, %i] rows 1 columns 2 live %e, %e",
     "bool elements of the int4"},
    {"%b: i32[32,16] = load s[%i, %i] rows 0 columns 1 live %e, %e", "i32 elements of the e4m3"},
    {"store %a to u[%i, %i] rows 0 columns 1 live %e, %e", "f32 elements of the u8"},
    {"store %o to s[%i, %i] rows 0 live %e, %e", "i32 elements of the e4m3"},
    {"%b: i32[32,1] = map %o => s[$0, 0]", "the expression is a float"},
    {"store %a to x[%i, %i] rows 0 columns 1 live %e, %e", "not declared written"},
    {"store %f to y[%i, %i] rows 0 columns 1 live %e, %e", "must be a tile"},
    {"%b: f32[32,32] = product %a, %a", "[32,16] times [32,16]"},
    {"%b: f32[16,16] = product %a, %a transposed", "must be f32[32,32]"},
    {"%b: f32[32,32] = product %a, %q transposed", "one real type"},
    {"%b: f32[32,32] = product %a, %a transposed, %a", "accumulator must be f32[32,32]"},
    {"%b: f16[32,32] = product %a, %a transposed", "must be f32[32,32]"},
    {"%b: f32[32,1] = reduce sum axis 0 %a", "must be f32[1,16]"},
    {"%b: f32[32,1] = reduce any axis 1 %a", "any and all need"},
    {"%b: f32[32,1] = reduce sum axis 2 %a", "axis 0 runs"},
    {"%b: f32[32,1] = scan sum axis 1 %a", "must be f32[32,16]"},
    {"%b: f32[32,16] = permute %a [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 16]",
     "column 16 of 16"},
    {"%b: f32[32,16] = permute %a [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]\n%d: "
     "f16[32,16] = transpose %b",
     "must be f32[16,32]"},
    {"%b: f32[32,32] = broadcast %a", "only axes of size 1"},
    {"%b: f16[32,16] = broadcast %r", "only axes of size 1"},
    {"%b: f16[16,32] = convert %a", "keeps the shape"},
    {"%b: f32[32,16] = splat %k", "scalar of that type"},
    {"%b: i32[2,2] = iota %k", "one row or one column"},
    {"%b: f32[32,16] = scale_rows %a, %a", "[M,N] and [M,1]"},
    {"%b: f32[32,1] = scale_rows %a, %r", "as the operand"},
    {"%b: f32[32,16] = triangular_solve %a, %a", "f32[M,M]"},
    {"limit_rows 0 live %e", "1 to 4096 rows"},
    {"limit_rows 4 live %k", "must be an index"},
    {"limit_columns %k from 0L to 1L", "must be a tile"},
    {"%b: f32[32,16] = map %a => $0\nif %c {\nlimit_columns %b from 0L to 1L\n} else {\n}",
     "made in the same region"},
    {"%b: f32[32,16] = map %a => $0\nlimit_columns %b with (%a) from 0L to 1L",
     "operand 1 is no scalar"},
    {"%b: f32[32,16] = map %a => $0\nlimit_columns %b from 0L to n", "must be longs"},
    {"%b: f32[32,16] = map %a => $0\nlimit_columns %b from 0L to 1L where %a",
     "mask must be bool[32,16]"},
    {"%b: f32[32,16] = map %a => $0\nlimit_columns %b from 0L to tile_j1", "tile_j1 cannot appear"},
    {"%b: index[4,4] = convert %a", "only scalars are of type index"},
    {"%b: f32[0,4] = splat %f", "1 to 4096"},
    {"%b: f32[4096,4096] = splat %f", "at most 4194304 elements"},
    {"parallel (%j) < (%e) {\n}", "top of a kernel"},
    {"for %j = %k to %e step 1 {\n}", "of type index"},
    {"for %j = %i to %e step 0 {\n}", "must be positive"},
    {"for %j = %i to %e step 1 carry (%b = %a) {\nyield %b\n}", "1 carried values and 0 results"},
    {"%d: f32 = for %j = %i to %e step 1 carry (%b = %a) {\nyield %b\n}", "result 0 differs"},
    {"%d: f32[32,16] = for %j = %i to %e step 1 carry (%b = %a) {\n}", "does not end in a yield"},
    {"%d: f32[32,16] = for %j = %i to %e step 1 carry (%b = %a) {\nyield %f\n}", "differs in type"},
    {"%d: f32[32,16] = for %j = %i to %e step 1 carry (%b = %a) {\nyield %b, %b\n}",
     "2 values for 1"},
    {"for %j = %i to %e step 1 {\nyield\nbarrier\n}", "yield must end its region"},
    {"for %j = %i to %e step 1 {\n%b: index = scalar => 1L\n}\nlimit_rows 4 live %b",
     "not defined before"},
    {"if %k {\n} else {\n}", "must be a bool"},
    {"%d: f32 = if %c {\nyield %f\n} else {\n}", "does not end in a yield"},
    {"if %c {\n%b: index = scalar => 1L\n} else {\nlimit_rows 4 live %b\n}", "not defined before"},
    {"for_segments (%i, %k) step 8 may true must true full (%u) {\n} partial (%v) {\n}",
     "ends of a segment"},
    {"for_segments (%i, %e) step 8 with (%a) may true must true full (%u) {\n} partial (%v) {\n}",
     "are scalars"},
    {"for_segments (%i, %e) step 8 may n must true full (%u) {\n} partial (%v) {\n}",
     "must be bools"},
    {"for_segments (%i, %e) step 0 may true must true full (%u) {\n} partial (%v) {\n}",
     "positive step"},
    {"role warps 0 registers 0 {\n}", "1 to 32 warps"},
    {"role warps 4 registers 100 {\n}", "multiple of 8"},
    {"%b: buffer(f32[4,4], 0) = buffer", "1 to 64 slots"},
    {"%b: f32[4,4] = buffer", "must be a buffer"},
    {"wait %a", "operand 0 is no token"},
    {"wait", "nothing to wait for"},
    {"pipe_acquire %a, %k", "must be a buffer"},
};

START_TEST(verifier_rejects)
{
  const char *error = verify_body(rejected[_i].body);
  ck_assert_msg(error != NULL, "accepted: %s", rejected[_i].body);
  ck_assert_msg(strstr(error, rejected[_i].error) != NULL, "%s\n%s", error, rejected[_i].body);
}
END_TEST

/* The staged level: a buffer %b of f32[32,16], slots %k and %i, and bodies after it. */
static const struct {
  const char *body, *error; /* NULL: accepted */
} staged[] = {
#define COPY(token)                                                                                \
  "%" token ": token = copy_async %b, %k from x[%i, %i] rows 0 columns 1 live %e, %e\n"
    {COPY("t") "wait %t", NULL},
    {COPY("t") COPY("u") "wait %t, %u", NULL},
    {COPY("t"), "%t is not awaited"},
    {COPY("t") "wait %t\nwait %t", "%t is awaited twice"},
    {COPY("t") "wait %t, %t", "%t is awaited twice"},
    {COPY("t") "if %c {\nwait %t\n} else {\n}", "one branch"},
    {COPY("t") "if %c {\n} else {\nwait %t\n}", "one branch"},
    {COPY("t") COPY("u") "if %c {\nwait %t\n} else {\nwait %u\n}", "one branch"},
    {COPY("t") COPY("u") "if %c {\nwait %t, %u\n} else {\nwait %u\nwait %t\n}", NULL},
    {COPY("t") "if %c {\nif %c {\nwait %t\n} else {\nwait %t\n}\n} else {\nwait %t\n}", NULL},
    {COPY("t") "if %c {\nwait %t\n} else {\nwait %t\n}\nwait %t", "awaited twice"},
    {COPY("t") "for %j = %i to %e step 1 {\nwait %t\n}", "from outside"},
    {COPY("t") "role warps 4 registers 0 {\nwait %t\n}", NULL},
    {"for %j = %i to %e step 1 {\n" COPY("t") "}", "%t is not awaited"},
    {"if %c {\n" COPY("t") "} else {\n}", "%t is not awaited"},
    {COPY("t") "%w: token = for %j = %i to %e step 1 carry (%s = %t) {\nwait %s\n" COPY(
         "u") "yield %u\n}\nwait %w",
     NULL},
    {COPY("t") "%w: token = for %j = %i to %e step 1 carry (%s = %t) {\n" COPY(
         "u") "yield %u\n}\nwait %w",
     "%s is not awaited"},
    {COPY("t") "%w: token = for %j = %i to %e step 1 carry (%s = %t) {\nyield %s\n}",
     "%w is not awaited"},
    {"%w: token = if %c {\n" COPY("t") "yield %t\n} else {\n" COPY("u") "yield %u\n}\nwait %w",
     NULL},
    {"%p: f32[32,32], %t: token = product_async %a, %a transposed\nwait %t", NULL},
    {"%p: f32[32,32], %t: token = product_async %a, %a transposed", "%t is not awaited"},
#define FILL "pipe_acquire %b, %k\n" COPY("t") "wait %t\npipe_commit %b, %k\n"
#define DRAIN "pipe_wait %b, %k\n%l: f32[32,16] = buffer_load %b, %k\npipe_release %b, %k\n"
    {FILL DRAIN, NULL},
    {"role warps 1 registers 24 {\n" FILL "}\nrole warps 4 registers 240 {\n" DRAIN "}", NULL},
    {FILL, "committed and never waited for"},
    {DRAIN, "waited for and never committed"},
    {"pipe_acquire %b, %k\n" DRAIN, "left open"},
    {FILL "pipe_wait %b, %k", "left open"},
    {"pipe_commit %b, %k\n", "was not acquired"},
    {FILL "pipe_release %b, %k\n" DRAIN, "was not waited for"},
    {"pipe_acquire %b, %k\npipe_commit %b, %i\n" DRAIN, "was not acquired"},
    {"pipe_acquire %b, %k\npipe_acquire %b, %k\n" DRAIN, "open already"},
    {"pipe_acquire %b, %k\nif %c {\npipe_commit %b, %k\n} else {\npipe_commit %b, %k\n}\n" DRAIN,
     "not acquired in this region"},
    {FILL DRAIN "%m: f32[32,16] = buffer_load %b, %k", "used without being waited for"},
    {FILL DRAIN "buffer_store %a, %b, %k", "used without being acquired"},
    {"buffer_store %a, %b, %k\nbarrier\n%m: f32[32,16] = buffer_load %b, %k", NULL},
    {"buffer_store %q, %b, %k", "a slot of the buffer is f32[32,16]"},
    {"%m: f32[16,16] = buffer_load %b, %k", "a slot of the buffer is f32[32,16]"},
    {"%z: f32 = for %j = %i to %e step 1 carry (%s = %b) {\nyield %f\n}", "cannot be carried"},
};

START_TEST(staged_discipline)
{
  const char *body = staged[_i].body, *wanted = staged[_i].error;
  const char *error =
      verify_body(arena_format(&arena, "%%b: buffer(f32[32,16,swizzle], 2) = buffer\n%s", body));
  if (wanted == NULL)
    ck_assert_msg(error == NULL, "%s\n%s", error, body);
  else
    ck_assert_msg(error != NULL && strstr(error, wanted) != NULL, "%s\n%s",
                  error == NULL ? "accepted" : error, body);
}
END_TEST

START_TEST(verifier_rejects_kernels)
{
  static const struct {
    const char *text, *error;
  } cases[] = {
      {"kernel t { }", "ends in its one parallel"},
      {"kernel t { %e: index = scalar => 1L parallel (%i) < (%e) { } parallel (%j) < (%e) { } }",
       "one parallel"},
      {"kernel t { %e: index = scalar => 1L parallel (%i) < (%e) { } %f: index = scalar => 1L }",
       "one parallel"},
      {"kernel t { %e: index = scalar => 1L parallel (%i, %j) < (%e) { } }", "as many indices"},
      {"kernel t { %e: i32 = scalar => 1 parallel (%i) < (%e) { } }", "of type index"},
      {"kernel t { %e: f32 = scalar => 1.0 %s: f32[4,4] = splat %e }", "only scalar may stand"},
      {"kernel t tensor w f32[1] role workspace 0 { }", "missing"},
      {"kernel t tensor w f32[1] shape [B] { }", "is no workspace"},
      {"kernel t tensor w int2[1] written { }", "but int2 can only be read"},
      {"kernel t tensor w f32[1] role workspace shape [long(B)] { }", "no int"},
  };
  for (size_t k = 0; k < sizeof(cases) / sizeof(*cases); k++) {
    const char *error = tile_verify(&arena, read_good(cases[k].text));
    ck_assert_msg(error != NULL && strstr(error, cases[k].error) != NULL, "%s\n%s",
                  error == NULL ? "accepted" : error, cases[k].text);
  }
}
END_TEST

/* What no text can say. */
START_TEST(verifier_rejects_broken_programs)
{
  struct tile_program *program = read_good(read_file("tests/golden/tile/matmul_epilogue.tile"));
  struct tile_region *body = program->kernels.items[0]->body;
  struct tile_op *parallel = body->last, *first = parallel->regions[0]->first;
  ck_assert_ptr_null(tile_verify(&arena, program));
#define BREAK(place, value, message)                                                               \
  do {                                                                                             \
    __typeof__(place) kept = place;                                                                \
    place = value;                                                                                 \
    const char *error = tile_verify(&arena, program);                                              \
    ck_assert_msg(error != NULL && strstr(error, message) != NULL, "%s", error ? error : "ok");    \
    place = kept;                                                                                  \
    ck_assert_ptr_null(tile_verify(&arena, program));                                              \
  } while (0)
  struct expr_pool other;
  expr_pool_init(&other, &arena);
  BREAK(first->expr, NULL, "missing or of another pool");
  BREAK(first->expr, expr_long(&other, 5), "missing or of another pool");
  BREAK(first->expr, expr_arg(&program->kernels.items[0]->program->pool[0], 9, EXPR_LONG), "$9");
  BREAK(first->expr, expr_arg(program->pool, 0, EXPR_FLOAT), "used as a float");
  BREAK(first->expr, expr_param(program->pool, 99, EXPR_INT), "parameter 99 of 3");
  BREAK(first->expr, expr_param(program->pool, 0, EXPR_FLOAT), "used as a float, but declared int");
  BREAK(first->expr, expr_map(program->pool, 0), "cannot appear");
  BREAK(first->operands[0], NULL, "not defined before");
  BREAK(first->operands[0], first->results[0], "not defined before");
  BREAK(first->operand_count, 0, "$0 in an expression over 0");
  BREAK(first->results[0]->id, 0, "number 0 is taken");
  BREAK(first->results[0]->id, 1u << 30, "is taken or too large");
  BREAK(first->results[0]->name, "a b", "cannot be written");
  BREAK(first->results[0]->name, "j", "name of another");
  BREAK(first->results[0]->type.kind, (enum tile_kind)9, "does not exist");
  BREAK(first->kind, (enum tile_op_kind)99, "does not exist");
  BREAK(first->parent, body, "linked wrongly");
  BREAK(parallel->region_count, 0, "0 regions instead of 1");
  BREAK(parallel->regions[0]->parent, first, "linked wrongly");
  BREAK(program->kernels.items[0]->tensors.items[0].name, "m", "repeated name");
  BREAK(program->kernels.items[0]->tensors.items[0].element, DTYPE_ANY, "no element type");
  BREAK(program->kernels.items[0]->params.items[0].type, EXPR_LONG, "must be a bool");
  BREAK(program->kernels.items[0]->name, "a-b", "bad or repeated name");
  BREAK(program->kernels.count, 0, "no kernel");
}
END_TEST

#define COUNT(array) (int)(sizeof(array) / sizeof(*(array)))

int main(void)
{
  Suite *suite = suite_create("tile_verify");
  TCase *tests = tcase_create("tile_verify");
  tcase_add_checked_fixture(tests, setup, teardown);
  tcase_add_loop_test(tests, verifier_rejects, 0, COUNT(rejected));
  tcase_add_loop_test(tests, staged_discipline, 0, COUNT(staged));
  tcase_add_test(tests, verifier_rejects_kernels);
  tcase_add_test(tests, verifier_rejects_broken_programs);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? 0 : 1;
}
