/* What the helpers for GPU code become in PTX, and that NVIDIA's assembler, where it is installed,
 * takes it: every helper once, the expressions of a kernel, and what moves of a whole warp must not
 * be subject to. */
#include "compiler/emit/expr.h"
#include "compiler/emit/gpu.h"
#include "compiler/emit/math.h"
#include "compiler/emit/operation.h"
#include "compiler/target/nvptx/machine.h"
#include "runtime/attnc/ptxas.h"

#include <check.h>
#include <stdio.h>
#include <string.h>

static struct arena arena;
static struct nvptx_module module;
static struct emit *e;
static LLVMValueRef slots;
static LLVMValueRef input, output; /* addresses: of slots 0 and 1 */
static LLVMValueRef number;        /* i32: slot 2 */

static LLVMValueRef slot(int index)
{
  return emit_load(e, e->i64, emit_address(e, e->i64, slots, emit_i64(e, index)), 8);
}

static void open_module(void)
{
  arena_init(&arena);
  ck_assert(!arena_guard(&arena));
  const char *error = llvm_api_load_gpu();
  ck_assert_msg(error == NULL, "%s", error);
  module = (struct nvptx_module){.machine = NULL};
  error = nvptx_module_open(&module, &arena);
  ck_assert_msg(error == NULL, "%s", error);
  e = &module.e;
  slots = emit_gpu_kernel(e, "kernel_name", 4, 96, 0);
  input = emit_gpu_global(e, slot(0));
  output = emit_gpu_global(e, slot(1));
  number = LLVMBuildTrunc(e->builder, slot(2), e->i32, "");
}

static void close_module(void)
{
  nvptx_module_close(&module);
  arena_free(&arena);
}

/* Stores the value (4 bytes) so that it is needed, each at another place. */
static void keep(LLVMValueRef value)
{
  static int32_t place;
  place++;
  emit_store(e, value, emit_address(e, e->i32, output, emit_i64(e, place)), 4);
}

static LLVMValueRef load_f32(int place)
{
  return emit_load(e, e->f32, emit_address(e, e->f32, input, emit_i64(e, place)), 4);
}

static LLVMValueRef load_i32(int place)
{
  return emit_load(e, e->i32, emit_address(e, e->i32, input, emit_i64(e, place)), 4);
}

/* The PTX of the kernel, assembled for the oldest processor and for a later one. */
static const char *finish(void)
{
  LLVMBuildRetVoid(e->builder);
  const char *text = NULL;
  const char *error = nvptx_module_optimize(&module, &arena);
  if (error == NULL)
    error = nvptx_module_ptx(&module, &arena, &text);
  ck_assert_msg(error == NULL, "%s", error);
  static const char *const processors[] = {"sm_80", "sm_90"};
  for (size_t n = 0; n < sizeof(processors) / sizeof(*processors); n++) {
    struct ptxas_report report;
    const char *message;
    enum ptxas_status status = ptxas_run(&arena, text, processors[n], &report, &message);
    ck_assert_msg(status != PTXAS_FAILED, "%s: %s\n%s", processors[n], message, text);
    if (status == PTXAS_MISSING)
      continue;
    ck_assert_uint_eq(report.kernels.count, 1);
    ck_assert_str_eq(report.kernels.items[0].name, "kernel_name");
    ck_assert_uint_gt(report.kernels.items[0].registers, 0);
    ck_assert_uint_eq(report.kernels.items[0].stack, 0);
  }
  return text;
}

static void has(const char *text, const char *part)
{
  ck_assert_msg(strstr(text, part) != NULL, "no '%s' in\n%s", part, text);
}

static void lacks(const char *text, const char *part)
{
  ck_assert_msg(strstr(text, part) == NULL, "'%s' in\n%s", part, text);
}

START_TEST(kernels)
{
  keep(emit_gpu_thread(e));
  keep(emit_gpu_warp(e));
  keep(emit_gpu_lane(e));
  keep(emit_gpu_block(e));
  keep(number);
  const char *text = finish();
  has(text, ".version 7.0");
  has(text, ".target sm_80");
  has(text, ".visible .entry kernel_name(");
  has(text, ".param .align 8 .b8 kernel_name_param_0[32]");
  has(text, ".reqntid 96");
  has(text, "ld.param.b64");
  has(text, "%tid.x");
  has(text, "%ctaid.x");
  has(text, "st.global.b32");
  lacks(text, ".local"); /* no copy of the parameter */
}
END_TEST

START_TEST(threads_together)
{
  emit_gpu_barrier(e);
  emit_gpu_warp_barrier(e);
  keep(emit_gpu_shuffle_xor(e, load_f32(0), 2));
  keep(emit_gpu_shuffle_xor(e, load_i32(1), 16));
  keep(emit_gpu_shuffle(e, load_f32(2), number));
  LLVMValueRef odd = LLVMBuildICmp(e->builder, LLVMIntSLT, load_i32(3), number, "");
  keep(LLVMBuildZExt(e->builder, emit_gpu_warp_any(e, odd), e->i32, ""));
  keep(LLVMBuildZExt(e->builder, emit_gpu_block_any(e, odd), e->i32, ""));
  const char *text = finish();
  has(text, "bar.sync \t0");
  has(text, "bar.warp.sync \t-1");
  has(text, ", 2, 31, -1;");
  has(text, "shfl.sync.bfly.b32");
  has(text, ", 16, 31, -1;");
  has(text, "shfl.sync.idx.b32");
  has(text, "vote.sync.any.pred");
  has(text, "bar.red.or.pred");
}
END_TEST

START_TEST(shared_memory)
{
  LLVMValueRef at = LLVMBuildShl(e->builder, emit_gpu_thread(e), emit_i32(e, 2), "");
  emit_store(e, load_f32(0), emit_gpu_shared(e, at), 4);
  emit_gpu_barrier(e);
  LLVMValueRef other = LLVMBuildXor(e->builder, at, emit_i32(e, 64), "");
  keep(emit_load(e, e->f32, emit_gpu_shared(e, other), 4));
  const char *text = finish();
  has(text, ".extern .shared .align 1024 .b8");
  has(text, "st.shared.b32");
  has(text, "ld.shared.b32");
}
END_TEST

START_TEST(copies)
{
  LLVMValueRef first = emit_gpu_shared(e, emit_i32(e, 0));
  LLVMValueRef second = emit_gpu_shared(e, emit_i32(e, 64));
  emit_gpu_copy(e, 16, first, input, NULL);
  emit_gpu_copy_commit(e);
  emit_gpu_copy(e, 16, second, input, number);
  emit_gpu_copy(e, 8, emit_gpu_shared(e, emit_i32(e, 128)), input, number);
  emit_gpu_copy(e, 4, emit_gpu_shared(e, emit_i32(e, 192)), input, NULL);
  emit_gpu_copy_commit(e);
  emit_gpu_copy_wait(e, 1);
  emit_gpu_barrier(e);
  keep(emit_load(e, e->i32, first, 4));
  emit_gpu_copy_wait(e, 0);
  emit_gpu_barrier(e);
  keep(emit_load(e, e->i32, second, 4));
  const char *text = finish();
  has(text, "cp.async.cg.shared.global");
  has(text, "], 16;");
  has(text, "], 16, %r");
  has(text, "cp.async.ca.shared.global");
  has(text, "], 8, %r");
  has(text, "], 4;");
  has(text, "cp.async.commit_group;");
  const char *one = strstr(text, "cp.async.wait_group \t1;");
  ck_assert_ptr_nonnull(one);
  const char *load = strstr(one, "ld.shared.b32");
  const char *none = strstr(one, "cp.async.wait_group \t0;");
  ck_assert_ptr_nonnull(load);
  ck_assert_ptr_nonnull(none);
  ck_assert_msg(load < none, "a read was moved past a wait:\n%s", text);
  ck_assert_ptr_nonnull(strstr(none, "ld.shared.b32"));
}
END_TEST

START_TEST(products)
{
  LLVMValueRef at = LLVMBuildShl(e->builder, emit_gpu_lane(e), emit_i32(e, 4), "");
  LLVMValueRef a[4], b[4], t[2], c[4];
  emit_gpu_ldmatrix(e, 4, false, emit_gpu_shared(e, at), a);
  emit_gpu_ldmatrix(e, 2, true, emit_gpu_shared(e, at), b);
  emit_gpu_ldmatrix(e, 1, false, emit_gpu_shared(e, at), t);
  emit_gpu_ldmatrix(e, 1, true, emit_gpu_shared(e, at), t + 1);
  for (int k = 0; k < 4; k++)
    c[k] = load_f32(k);
  emit_gpu_mma(e, DTYPE_F16, a, b, c);
  emit_gpu_mma(e, DTYPE_BF16, a, t, c);
  LLVMValueRef rounded[4];
  for (int k = 0; k < 4; k++)
    rounded[k] = emit_gpu_to_tf32(e, c[k]);
  emit_gpu_mma(e, DTYPE_F32, rounded, rounded, c);
  LLVMValueRef p[4] = {emit_gpu_pack(e, DTYPE_F16, c[0], c[1]),
                       emit_gpu_pack(e, DTYPE_BF16, c[2], c[3]), a[2], a[3]};
  for (int k = 0; k < 4; k++)
    keep(p[k]);
  LLVMValueRef out[2];
  emit_gpu_unpack(e, DTYPE_F16, load_i32(8), out);
  keep(out[0]);
  keep(out[1]);
  emit_gpu_unpack(e, DTYPE_BF16, load_i32(9), out);
  keep(out[0]);
  keep(out[1]);
  const char *text = finish();
  has(text, "ldmatrix.sync.aligned.m8n8.x4.shared.b16");
  has(text, "ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16");
  has(text, "ldmatrix.sync.aligned.m8n8.x1.shared.b16");
  has(text, "ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16");
  has(text, "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32");
  has(text, "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32");
  has(text, "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32");
  has(text, "cvt.rna.tf32.f32");
  has(text, "cvt.rn.f16x2.f32");
  has(text, "cvt.rn.bf16x2.f32");
  has(text, "cvt.f32.f16");
}
END_TEST

/* Only some threads store the result, but all must make the product: it stays before the branch. */
START_TEST(products_stay_where_all_threads_are)
{
  LLVMValueRef at = LLVMBuildShl(e->builder, emit_gpu_lane(e), emit_i32(e, 4), "");
  LLVMValueRef a[4], c[4];
  emit_gpu_ldmatrix(e, 4, false, emit_gpu_shared(e, at), a);
  for (int k = 0; k < 4; k++)
    c[k] = emit_float_of(e->f32, 0);
  emit_gpu_mma(e, DTYPE_F16, a, a, c);
  struct emit_branch branch;
  emit_if(e, &branch, LLVMBuildICmp(e->builder, LLVMIntSLT, emit_gpu_lane(e), number, ""));
  for (int k = 0; k < 4; k++)
    keep(c[k]);
  emit_else(e, &branch);
  emit_end_if(e, &branch);
  const char *text = finish();
  const char *load = strstr(text, "ldmatrix.sync");
  const char *product = strstr(text, "mma.sync");
  const char *jump = strstr(text, " bra ");
  ck_assert_ptr_nonnull(load);
  ck_assert_ptr_nonnull(product);
  ck_assert_ptr_nonnull(jump);
  ck_assert_msg(load < jump && product < jump, "moved behind the branch:\n%s", text);
}
END_TEST

START_TEST(loops_stay_loops)
{
  struct emit_loop loops[2];
  LLVMValueRef sum = load_f32(0);
  emit_loop_begin(e, &loops[0], emit_i32(e, 0), emit_i32(e, 4), 1, &sum, 1);
  emit_loop_begin(e, &loops[1], emit_i32(e, 0), emit_i32(e, 8), 1, loops[0].carried, 1);
  LLVMValueRef next = emit_exp2(e, loops[1].carried[0]);
  emit_loop_end(e, &loops[1], &next);
  emit_loop_end(e, &loops[0], loops[1].result);
  keep(loops[0].result[0]);
  const char *text = finish();
  const char *first = strstr(text, ".pragma \"nounroll\";");
  ck_assert_msg(first != NULL && strstr(first + 1, ".pragma \"nounroll\";") != NULL, "%s", text);
}
END_TEST

START_TEST(faults)
{
  emit_gpu_fault(e, slot(3), emit_i32(e, 5), emit_i64(e, 77));
  const char *text = finish();
  has(text, ".cas.b32");
  has(text, "+4], 5;");
  has(text, "+8], 77;");
}
END_TEST

START_TEST(functions)
{
  LLVMValueRef (*const all[])(struct emit *, LLVMValueRef) = {
      emit_exp2, emit_log2, emit_exp, emit_log,  emit_tanh,  emit_sigmoid,
      emit_sin,  emit_cos,  emit_erf, emit_sqrt, emit_rsqrt, emit_floor};
  for (size_t k = 0; k < sizeof(all) / sizeof(*all); k++)
    keep(all[k](e, load_f32((int)k)));
  LLVMValueRef x = load_f32(20), y = load_f32(21);
  keep(emit_divide(e, x, y));
  keep(emit_pow(e, x, y));
  keep(emit_real_to_int(e, x, e->i32));
  keep(LLVMBuildTrunc(e->builder, emit_real_to_int(e, y, e->i64), e->i32, ""));
  LLVMValueRef (*const wide[])(struct emit *, LLVMValueRef) = {emit_exp2,    emit_log2, emit_exp,
                                                               emit_log,     emit_tanh, emit_sin,
                                                               emit_sigmoid, emit_cos,  emit_erf};
  for (size_t k = 0; k < sizeof(wide) / sizeof(*wide); k++)
    keep(emit_through_f64(e, wide[k], load_f32(30 + (int)k)));
  const char *text = finish();
  has(text, "ex2.approx.ftz.f32");
  has(text, "sqrt.rn.f32");
  has(text, "rsqrt.approx.f32");
  has(text, "div.full.f32");
  has(text, "cvt.rzi.s32.f32");
  lacks(text, "div.rn.f32");
}
END_TEST

/* By a constant it is a product, exact for powers of two. */
START_TEST(division_by_a_constant)
{
  keep(emit_divide(e, load_f32(0), emit_float_of(e->f32, 4)));
  keep(emit_divide(e, load_f32(1), emit_float_of(e->f32, -3)));
  const char *text = finish();
  has(text, ", 0f3E800000;");
  has(text, ", 0fBEAAAAAB;");
  lacks(text, "div.");
  lacks(text, "rcp.");
}
END_TEST

START_TEST(division_by_constants_out_of_range)
{
  keep(emit_divide(e, load_f32(0), emit_float_of(e->f32, 0)));
  keep(emit_divide(e, load_f32(0), emit_float_of(e->f32, 0x1p-130)));
  has(finish(), "div.full.f32");
}
END_TEST

START_TEST(stored_types)
{
  static const enum dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_I32,
                                     DTYPE_I64, DTYPE_U8,  DTYPE_I8,   DTYPE_BOOL};
  for (size_t k = 0; k < sizeof(types) / sizeof(*types); k++) {
    LLVMTypeRef type = emit_storage_type(e, types[k]);
    unsigned size = (unsigned)dtype_size(types[k]);
    LLVMValueRef from = emit_address(e, type, input, emit_i64(e, (int64_t)k));
    LLVMValueRef to = emit_address(e, type, output, emit_i64(e, (int64_t)k));
    LLVMValueRef value = emit_from_storage(e, types[k], emit_load(e, type, from, size));
    if (LLVMTypeOf(value) == e->f32)
      value = emit_exp2(e, value);
    else if (LLVMTypeOf(value) == e->i32)
      value = LLVMBuildAdd(e->builder, value, number, "");
    else
      value = LLVMBuildNot(e->builder, value, "");
    emit_store(e, emit_to_storage(e, types[k], value), to, size);
  }
  const char *text = finish();
  has(text, "cvt.f32.f16");
  has(text, "cvt.rn.f16.f32");
  has(text, "cvt.rn.bf16.f32");
  lacks(text, "shr"); /* no rounding by hand */
}
END_TEST

static Suite *suite(void)
{
  Suite *all = suite_create("gpu_emit");
  TCase *tests = tcase_create("helpers");
  tcase_add_checked_fixture(tests, open_module, close_module);
  tcase_add_test(tests, kernels);
  tcase_add_test(tests, threads_together);
  tcase_add_test(tests, shared_memory);
  tcase_add_test(tests, copies);
  tcase_add_test(tests, products);
  tcase_add_test(tests, products_stay_where_all_threads_are);
  tcase_add_test(tests, loops_stay_loops);
  tcase_add_test(tests, faults);
  tcase_add_test(tests, functions);
  tcase_add_test(tests, division_by_a_constant);
  tcase_add_test(tests, division_by_constants_out_of_range);
  tcase_add_test(tests, stored_types);
  suite_add_tcase(all, tests);
  return all;
}

int main(void)
{
  SRunner *runner = srunner_create(suite());
  srunner_run_all(runner, CK_ENV);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? 0 : 1;
}
