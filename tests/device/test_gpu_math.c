/* Functions and operators of expressions as a GPU's code, run on the stand-in device: real ones
 * against libm with the bounds that compiler/emit/math.h states, integer ones against
 * dsl/expr_scalar.h. Operands are READs of tensors, as in masks. */
#include "compiler/emit/expr.h"
#include "tests/device/gpu_runner.h"
#include "tests/numeric/math_cases.h"

#include <stdlib.h>

enum { THREADS = 128, BLOCKS = 16, BATCH = THREADS * BLOCKS, COLUMNS = 64, BATCHES = 16 };

struct function {
  struct gpu_code code;
  struct arena arena; /* of the program */
  struct gpu_array x, y, out;
  int64_t slots[32];
};

static const char text_format[] =
    "kernel t tensor x %s[2] tensor y %s[2] tensor out %s[2] written\n"
    "{\n%%one: index = scalar => 1L\nparallel (%%i) < (%%one) {\n"
    "%%s: %s = scalar %%i, %%one => let &0 = x[$0, $1], &1 = y[$0, $1] in %s\n"
    "%%t: %s[1,1] = splat %%s\nstore %%t to out[%%i, %%one] live %%one, %%one\n}\n}\n";

static const struct tile_op *find_scalar(const struct tile_region *region)
{
  for (const struct tile_op *op = region->first; op != NULL; op = op->next) {
    if (op->kind == TILE_SCALAR && op->operand_count == 2)
      return op;
    const struct tile_op *found = op->region_count > 0 ? find_scalar(op->regions[0]) : NULL;
    if (found != NULL)
      return found;
  }
  return NULL;
}

/* Row and column of the thread's element, as the scalar's operands. */
static LLVMValueRef coordinate(void *user, uint32_t index)
{
  struct emit *e = user;
  LLVMValueRef number = LLVMBuildAdd(
      e->builder, LLVMBuildMul(e->builder, emit_gpu_block(e), emit_i32(e, THREADS), ""),
      emit_gpu_thread(e), "");
  LLVMValueRef part = index == 0 ? LLVMBuildUDiv(e->builder, number, emit_i32(e, COLUMNS), "")
                                 : LLVMBuildURem(e->builder, number, emit_i32(e, COLUMNS), "");
  return LLVMBuildZExt(e->builder, part, e->i64, "");
}

static void set_tensor(struct function *f, const struct tile_kernel *kernel, uint32_t tensor,
                       struct gpu_array array)
{
  uint32_t slot = tile_tensor_slot(kernel, tensor);
  const int64_t values[] = {(int64_t)array.address, COLUMNS, 1, BATCH / COLUMNS, COLUMNS};
  memcpy(&f->slots[slot], values, sizeof(values));
}

static void function_open(struct function *f, const char *operand, const char *result,
                          const char *call)
{
  memset(f, 0, sizeof(*f));
  arena_init(&f->arena);
  ck_assert(!arena_guard(&f->arena));
  char scalar[256], text[2048];
  to_scalar(scalar, call);
  snprintf(text, sizeof(text), text_format, operand, operand, result, result, scalar, result);
  struct source_set sources;
  struct expr_pool pool;
  struct diagnostics diagnostics;
  source_set_init(&sources, &f->arena);
  expr_pool_init(&pool, &f->arena);
  uint32_t source = source_add(&sources, "test.tile", text, strlen(text));
  diagnostics_init(&diagnostics, &f->arena, &sources);
  struct tile_program *program = tile_parse(&f->arena, &pool, &sources, source, &diagnostics);
  ck_assert_msg(program != NULL, "%s: %s", call, diagnostics_print(&diagnostics, false));
  const struct tile_kernel *kernel = program->kernels.items[0];

  gpu_code_open(&f->code, tile_slot_count(kernel), THREADS);
  struct emit *e = f->code.e;
  struct emit_slots slots;
  emit_slots_init(e, &slots, kernel, f->code.slots);
  struct emit_expression x;
  emit_expression_init(&x, e, &slots, &pool);
  x.operand = coordinate;
  x.user = e;
  LLVMValueRef value = emit_expression(&x, find_scalar(kernel->body)->expr);
  LLVMValueRef at = LLVMBuildAdd(
      e->builder,
      LLVMBuildMul(e->builder, coordinate(e, 0), emit_tensor_stride(e, &slots, 2, 0), ""),
      coordinate(e, 1), "");
  emit_store(e, value, emit_address(e, e->i32, emit_tensor_base(e, &slots, 2), at), 4);
  gpu_code_load(&f->code);
  struct gpu_array *const arrays[] = {&f->x, &f->y, &f->out};
  for (uint32_t k = 0; k < 3; k++) {
    *arrays[k] = gpu_array_new(BATCH * sizeof(float));
    set_tensor(f, kernel, k, *arrays[k]);
  }
}

static void function_close(struct function *f)
{
  device_free(f->x.address);
  device_free(f->y.address);
  device_free(f->out.address);
  gpu_code_close(&f->code);
  arena_free(&f->arena);
}

static void fill_reals(struct function *f, int batch)
{
  for (int k = 0; k < BATCH; k++) {
    struct real_pair pair = case_reals((uint32_t)(batch * BATCH + k));
    ((float *)f->x.data)[k] = pair.x;
    ((float *)f->y.data)[k] = pair.y;
  }
  gpu_code_run(&f->code, BLOCKS, 0, f->slots);
}

static void fill_ints(struct function *f, int batch)
{
  for (int k = 0; k < BATCH; k++) {
    struct int_pair pair = case_ints((uint32_t)(batch * BATCH + k));
    ((int32_t *)f->x.data)[k] = pair.x;
    ((int32_t *)f->y.data)[k] = pair.y;
  }
  gpu_code_run(&f->code, BLOCKS, 0, f->slots);
}

START_TEST(real_functions)
{
  const struct real_function *f = &reals[_i];
  struct function compiled;
  function_open(&compiled, "f32", "f32", f->call);
  enum measure measure = f->measure == EXACT && f->gpu_bound > 0 ? RELATIVE : f->measure;
  double bound = f->gpu_bound > 0 ? f->gpu_bound : f->bound;
  double worst = -1, worst_x = 0, worst_y = 0, worst_got = 0;
  for (int batch = 0; batch < BATCHES; batch++) {
    fill_reals(&compiled, batch);
    for (int k = 0; k < BATCH; k++) {
      double x = (double)((float *)compiled.x.data)[k], y = (double)((float *)compiled.y.data)[k];
      double got = (double)((float *)compiled.out.data)[k];
      bool measured = isnan(x) || isinf(x) || (x >= f->low && x <= f->high);
      double error = measured ? error_of(measure, got, f->of(x, y)) : 0;
      if (error > worst) {
        worst = error;
        worst_x = x;
        worst_y = y;
        worst_got = got;
      }
    }
  }
  if (getenv("ATTN_MATH_REPORT") != NULL)
    printf("%-32s %.3g of %.3g, at %a, %a\n", f->call, worst, bound, worst_x, worst_y);
  ck_assert_msg(worst <= bound, "%s: error %.3g at (%.9g, %.9g): %.9g instead of %.9g, bound %.3g",
                f->call, worst, worst_x, worst_y, worst_got, f->of(worst_x, worst_y), bound);
  function_close(&compiled);
}
END_TEST

START_TEST(floors_and_conversions)
{
  static const char *const calls[] = {"floor($0)", "int($0)"};
  struct function f;
  function_open(&f, "f32", "i32", calls[_i]);
  for (int batch = 0; batch < BATCHES; batch++) {
    fill_reals(&f, batch);
    for (int k = 0; k < BATCH; k++) {
      union expr_value x = {.f = (double)((float *)f.x.data)[k]};
      int64_t expected = _i == 0 ? expr_apply_unary(EXPR_FLOOR, EXPR_FLOAT, x, true).i
                                 : expr_apply_convert(EXPR_FLOAT, EXPR_INT, x, true).i;
      ck_assert_msg(((int32_t *)f.out.data)[k] == expected, "%s of %a: %d", calls[_i], x.f,
                    ((int32_t *)f.out.data)[k]);
    }
  }
  function_close(&f);
}
END_TEST

START_TEST(int_operators)
{
  struct function f;
  function_open(&f, "i32", "i32", ints[_i].call);
  for (int batch = 0; batch < 4; batch++) {
    fill_ints(&f, batch);
    for (int k = 0; k < BATCH; k++) {
      union expr_value x = {.i = ((int32_t *)f.x.data)[k]};
      union expr_value y = {.i = ((int32_t *)f.y.data)[k]};
      if (ints[_i].divisor != 0)
        y.i = ints[_i].divisor;
      int64_t expected = expr_apply_binary(ints[_i].op, EXPR_INT, x, y, false).i;
      ck_assert_msg(((int32_t *)f.out.data)[k] == expected, "%s of %lld, %lld: %d", ints[_i].call,
                    (long long)x.i, (long long)y.i, ((int32_t *)f.out.data)[k]);
    }
  }
  function_close(&f);
}
END_TEST

/* Of 64 bits, by numbers of less than 32 bits and of more. */
START_TEST(long_division)
{
  static const char *const calls[] = {
      "int(long($0) * 5000000029L // long($1) % 1000003L)",
      "int(long($0) * 5000000029L % (long($1) * 3000000019L) % 1000003L)"};
  struct function f;
  function_open(&f, "i32", "i32", calls[_i]);
  fill_ints(&f, 0);
  for (int k = 0; k < BATCH; k++) {
    union expr_value x = {.i = ((int32_t *)f.x.data)[k] * INT64_C(5000000029)};
    union expr_value y = {.i = ((int32_t *)f.y.data)[k] * (_i == 0 ? 1 : INT64_C(3000000019))};
    enum expr_op op = _i == 0 ? EXPR_FLOORDIV : EXPR_MOD;
    x = expr_apply_binary(op, EXPR_LONG, x, y, false);
    y.i = 1000003;
    int64_t expected = expr_apply_binary(EXPR_MOD, EXPR_LONG, x, y, false).i;
    ck_assert_msg(((int32_t *)f.out.data)[k] == expected, "%s of %d, %d: %d", calls[_i],
                  ((int32_t *)f.x.data)[k], ((int32_t *)f.y.data)[k], ((int32_t *)f.out.data)[k]);
  }
  function_close(&f);
}
END_TEST

/* One rounding instead of two where the reference is float64, two where it is not. */
START_TEST(contraction)
{
  static const char *const calls[] = {"$0 * $1 + $1",
                                      "float(single($0) * single($1) + single($1))"};
  struct function f;
  function_open(&f, "f32", "f32", calls[_i]);
  for (int batch = 0; batch < 4; batch++) {
    fill_reals(&f, batch);
    for (int k = 0; k < BATCH; k++) {
      float x = ((float *)f.x.data)[k], y = ((float *)f.y.data)[k];
      float product = x * y;
      float expected = _i == 0 ? fmaf(x, y, y) : product + y;
      float got = ((float *)f.out.data)[k];
      ck_assert_msg(got == expected || (isnan(got) && isnan(expected)), "%s of %a, %a: %a",
                    calls[_i], (double)x, (double)y, (double)got);
    }
  }
  function_close(&f);
}
END_TEST

int main(void)
{
  Suite *suite = suite_create("expressions on a GPU");
  TCase *tests = tcase_create("functions");
  tcase_add_loop_test(tests, real_functions, 0, REALS);
  tcase_add_loop_test(tests, floors_and_conversions, 0, 2);
  tcase_add_loop_test(tests, int_operators, 0, INTS);
  tcase_add_loop_test(tests, long_division, 0, 2);
  tcase_add_loop_test(tests, contraction, 0, 2);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
