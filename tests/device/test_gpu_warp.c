/* What threads of a warp and of a block do together (compiler/emit/gpu.h), on the stand-in device:
 * that each thread holds the elements that the header says, and what copies, shuffles and votes
 * deliver. */
#include "compiler/tile/abi.h"
#include "tests/device/gpu_runner.h"

#include <math.h>
#include <stdlib.h>

enum { WARP = 32, WORDS = 4096 };

static struct gpu_code code;
static struct emit *e;
static struct gpu_array in, out;
static int64_t slots[4];

static void start(uint32_t threads)
{
  gpu_code_open(&code, 4, threads);
  e = code.e;
  in = gpu_array_new(WORDS * 4);
  out = gpu_array_new(WORDS * 4);
  memset(out.data, 0, WORDS * 4);
  slots[0] = (int64_t)in.address;
  slots[1] = (int64_t)out.address;
}

static void run(uint32_t shared)
{
  gpu_code_load(&code);
  gpu_code_run(&code, 1, shared, slots);
}

static void stop(void)
{
  device_free(in.address);
  device_free(out.address);
  gpu_code_close(&code);
}

static float *in_f32(void)
{
  return in.data;
}

static uint32_t *in_words(void)
{
  return in.data;
}

static const uint32_t *out_words(void)
{
  return out.data;
}

static LLVMValueRef add(LLVMValueRef a, LLVMValueRef b)
{
  return LLVMBuildAdd(e->builder, a, b, "");
}

static LLVMValueRef plus(LLVMValueRef a, int32_t b)
{
  return add(a, emit_i32(e, b));
}

static LLVMValueRef times(LLVMValueRef a, int32_t b)
{
  return LLVMBuildMul(e->builder, a, emit_i32(e, b), "");
}

static LLVMValueRef load(LLVMTypeRef type, LLVMValueRef index)
{
  return emit_load(e, type, gpu_at(&code, 0, index), 4);
}

static void store(LLVMValueRef value, LLVMValueRef index)
{
  emit_store(e, value, gpu_at(&code, 1, index), 4);
}

/* Stores the thread's k-th result where the host finds it: at [k][thread]. */
static void result(uint32_t k, LLVMValueRef value)
{
  store(value, plus(emit_gpu_thread(e), (int32_t)(k * WARP)));
}

static LLVMValueRef group(void) /* t / 4 */
{
  return LLVMBuildLShr(e->builder, emit_gpu_lane(e), emit_i32(e, 2), "");
}

static LLVMValueRef member(void) /* t % 4 */
{
  return LLVMBuildAnd(e->builder, emit_gpu_lane(e), emit_i32(e, 3), "");
}

/* ---- products ---- */

/* A is 16 x INNER at word 0, B is INNER x 8 at B_AT, C is 16 x 8 at C_AT, all f32, row by row. */
enum { B_AT = 512, C_AT = 1024 };

static LLVMValueRef element(uint32_t at, uint32_t width, LLVMValueRef row, LLVMValueRef column)
{
  return plus(add(times(row, (int32_t)width), column), (int32_t)at);
}

/* Elements (row, column) and its neighbour along the rows or columns, packed. */
static LLVMValueRef pair(enum dtype type, uint32_t at, uint32_t width, LLVMValueRef row,
                         LLVMValueRef column, bool along_rows)
{
  LLVMValueRef next =
      element(at, width, along_rows ? plus(row, 1) : row, along_rows ? column : plus(column, 1));
  return emit_gpu_pack(e, type, load(e->f32, element(at, width, row, column)), load(e->f32, next));
}

static LLVMValueRef tf32(uint32_t at, uint32_t width, LLVMValueRef row, LLVMValueRef column)
{
  return emit_gpu_to_tf32(e, load(e->f32, element(at, width, row, column)));
}

START_TEST(products)
{
  static const enum dtype types[] = {DTYPE_F16, DTYPE_BF16, DTYPE_F32};
  enum dtype type = types[_i];
  uint32_t inner = type == DTYPE_F32 ? 8 : 16;
  start(WARP);
  LLVMValueRef g = group(), q = member(), twice = times(q, 2);
  LLVMValueRef a[4], b[2], c[4];
  for (int k = 0; k < 4; k++) {
    LLVMValueRef row = plus(g, k % 2 * 8);
    a[k] = type == DTYPE_F32 ? tf32(0, inner, row, plus(q, k / 2 * 4))
                             : pair(type, 0, inner, row, plus(twice, k / 2 * 8), false);
    c[k] = load(e->f32, element(C_AT, 8, plus(g, k / 2 * 8), plus(twice, k % 2)));
  }
  for (int k = 0; k < 2; k++)
    b[k] = type == DTYPE_F32 ? tf32(B_AT, 8, plus(q, k * 4), g)
                             : pair(type, B_AT, 8, plus(twice, k * 8), g, true);
  emit_gpu_mma(e, type, a, b, c);
  for (int k = 0; k < 4; k++)
    store(c[k], element(0, 8, plus(g, k / 2 * 8), plus(twice, k % 2)));
  for (uint32_t k = 0; k < WORDS; k++) /* whole numbers that all types hold: sums are exact */
    in_f32()[k] = (float)((int)(k * 37 % 29) - 14);
  run(0);
  for (uint32_t m = 0; m < 16; m++)
    for (uint32_t n = 0; n < 8; n++) {
      float sum = in_f32()[C_AT + m * 8 + n];
      for (uint32_t k = 0; k < inner; k++)
        sum += in_f32()[m * inner + k] * in_f32()[B_AT + k * 8 + n];
      ck_assert_msg(((float *)out.data)[m * 8 + n] == sum, "(%u, %u): %g, not %g", m, n,
                    (double)((float *)out.data)[m * 8 + n], (double)sum);
    }
  stop();
}
END_TEST

START_TEST(roundings)
{
  start(WARP);
  LLVMValueRef x = load(e->f32, emit_gpu_thread(e));
  result(0, emit_gpu_to_tf32(e, x));
  static const enum dtype types[] = {DTYPE_F16, DTYPE_BF16};
  for (uint32_t k = 0; k < 2; k++) {
    LLVMValueRef packed = emit_gpu_pack(e, types[k], x, emit_float_of(e->f32, 1.5));
    LLVMValueRef parts[2];
    emit_gpu_unpack(e, types[k], packed, parts);
    result(1 + 2 * k, parts[0]);
    result(2 + 2 * k, parts[1]);
  }
  static const float values[WARP] = {1.0f + 0x1p-11f, 1.0f + 0x1p-12f,  -1.0f - 0x1p-11f,
                                     1.0f + 0x1p-9f,  1.0f + 0x1.8p-9f, 1.0f + 3 * 0x1p-11f,
                                     65519.0f,        65520.0f,         -3.25f,
                                     0x1p-24f,        0x1p-25f,         0x1.8p-25f};
  memcpy(in.data, values, sizeof(values));
  run(0);
  static const float rounded[][3] = {
      {1.0f + 0x1p-10f, 1, 1}, /* a tie: tf32 away from zero, f16 and bf16 to even */
      {1, 1, 1},
      {-1.0f - 0x1p-10f, -1, -1},
      {1.0f + 0x1p-9f, 1.0f + 0x1p-9f, 1},
      {1.0f + 0x1.8p-9f, 1.0f + 0x1.8p-9f, 1},
      {1.0f + 0x1p-9f, 1.0f + 0x1p-9f, 1},
      {65504, 65504, 65536},
      {65536, INFINITY, 65536},
      {-3.25f, -3.25f, -3.25f},
      {0x1p-24f, 0x1p-24f, 0x1p-24f},
      {0x1p-25f, 0, 0x1p-25f},
      {0x1.8p-25f, 0x1p-24f, 0x1.8p-25f}};
  const float *got = out.data;
  for (uint32_t t = 0; t < sizeof(rounded) / sizeof(*rounded); t++) {
    ck_assert_msg(got[t] == rounded[t][0], "tf32 of %a: %a", (double)values[t], (double)got[t]);
    for (uint32_t k = 0; k < 2; k++) {
      float low = got[(1 + 2 * k) * WARP + t];
      ck_assert_msg(low == rounded[t][1 + k], "%s of %a: %a", dtype_name(types[k]),
                    (double)values[t], (double)low);
      ck_assert(got[(2 + 2 * k) * WARP + t] == 1.5f);
    }
  }
  stop();
}
END_TEST

/* ---- shared memory ---- */

START_TEST(matrices)
{
  static const unsigned counts[] = {1, 2, 4};
  unsigned count = counts[_i / 2];
  bool transposed = _i % 2 != 0;
  start(WARP);
  /* Word w of shared memory holds elements 2 w and 2 w + 1, which are numbered through. */
  for (int32_t k = 0; k < 4; k++) {
    LLVMValueRef word = plus(emit_gpu_thread(e), k * WARP);
    LLVMValueRef low = times(word, 2);
    LLVMValueRef both = add(low, LLVMBuildShl(e->builder, plus(low, 1), emit_i32(e, 16), ""));
    emit_store(e, both, emit_gpu_shared(e, times(word, 4)), 4);
  }
  emit_gpu_barrier(e);
  LLVMValueRef registers[4];
  emit_gpu_ldmatrix(e, count, transposed, emit_gpu_shared(e, times(emit_gpu_lane(e), 16)),
                    registers);
  for (unsigned n = 0; n < count; n++)
    result(n, registers[n]);
  run(512);
  for (uint32_t n = 0; n < count; n++)
    for (uint32_t t = 0; t < WARP; t++)
      for (uint32_t half = 0; half < 2; half++) {
        uint32_t row = t / 4, column = t % 4 * 2 + half;
        uint32_t expected = n * 64 + (transposed ? column * 8 + row : row * 8 + column);
        ck_assert_uint_eq(out_words()[n * WARP + t] >> 16 * half & 0xffff, expected);
      }
  stop();
}
END_TEST

START_TEST(copies)
{
  static const unsigned sizes[] = {4, 8, 16};
  unsigned words = sizes[_i] / 4;
  start(64);
  /* Thread t copies `words` words to t * words; present are t % (bytes + 1) bytes, all to begin
   * with. */
  LLVMValueRef t = emit_gpu_thread(e);
  LLVMValueRef place = times(t, (int32_t)words);
  emit_gpu_copy(e, 4 * words, emit_gpu_shared(e, times(place, 4)), gpu_at(&code, 0, place), NULL);
  emit_gpu_copy_commit(e);
  LLVMValueRef present = LLVMBuildURem(e->builder, t, emit_i32(e, (int32_t)(4 * words + 1)), "");
  emit_gpu_copy(e, 4 * words, emit_gpu_shared(e, plus(times(place, 4), 1024)),
                gpu_at(&code, 0, place), present);
  emit_gpu_copy_commit(e);
  emit_gpu_copy_wait(e, 1);
  emit_gpu_barrier(e);
  LLVMValueRef other = LLVMBuildXor(e->builder, t, emit_i32(e, 63), ""); /* of the other warp */
  store(emit_load(e, e->i32, emit_gpu_shared(e, times(other, (int32_t)(4 * words))), 4), other);
  emit_gpu_copy_wait(e, 0);
  emit_gpu_barrier(e);
  for (unsigned k = 0; k < words; k++) {
    LLVMValueRef at = plus(times(other, (int32_t)(4 * words)), 1024 + 4 * (int32_t)k);
    store(emit_load(e, e->i32, emit_gpu_shared(e, at), 4), plus(other, 64 + 64 * (int32_t)k));
  }
  for (uint32_t k = 0; k < WORDS; k++)
    in_words()[k] = 0x01010101u * (k % 255 + 1);
  run(2048);
  for (uint32_t n = 0; n < 64; n++) {
    ck_assert_uint_eq(out_words()[n], in_words()[n * words]);
    unsigned char expected[16] = {0};
    memcpy(expected, &in_words()[n * words], n % (4 * words + 1));
    for (unsigned k = 0; k < words; k++)
      ck_assert_int_eq(memcmp(&out_words()[64 + 64 * k + n], expected + 4 * k, 4), 0);
  }
  stop();
}
END_TEST

/* ---- threads together ---- */

START_TEST(shuffles_and_votes)
{
  start(WARP);
  LLVMValueRef t = emit_gpu_thread(e);
  result(0, emit_gpu_shuffle_xor(e, load(e->f32, t), 5));
  result(1, emit_gpu_shuffle_xor(e, load(e->i32, t), 16));
  result(2, emit_gpu_shuffle(e, load(e->i32, t), emit_i32(e, 7)));
  LLVMValueRef last = LLVMBuildICmp(e->builder, LLVMIntEQ, t, emit_i32(e, 31), "");
  LLVMValueRef beyond = LLVMBuildICmp(e->builder, LLVMIntEQ, t, emit_i32(e, 32), "");
  result(3, LLVMBuildZExt(e->builder, emit_gpu_warp_any(e, last), e->i32, ""));
  result(4, LLVMBuildZExt(e->builder, emit_gpu_warp_any(e, beyond), e->i32, ""));
  for (uint32_t k = 0; k < WARP; k++)
    in_words()[k] = 0x3f800000u + k;
  run(0);
  for (uint32_t k = 0; k < WARP; k++) {
    ck_assert_uint_eq(out_words()[k], in_words()[k ^ 5]);
    ck_assert_uint_eq(out_words()[WARP + k], in_words()[k ^ 16]);
    ck_assert_uint_eq(out_words()[2 * WARP + k], in_words()[7]);
    ck_assert_uint_eq(out_words()[3 * WARP + k], 1);
    ck_assert_uint_eq(out_words()[4 * WARP + k], 0);
  }
  stop();
}
END_TEST

START_TEST(block_votes_and_numbers)
{
  start(96);
  LLVMValueRef t = emit_gpu_thread(e);
  for (int32_t k = 0; k < 2; k++) {
    LLVMValueRef one = LLVMBuildICmp(e->builder, LLVMIntEQ, t, emit_i32(e, 95 + k), "");
    LLVMValueRef any = LLVMBuildZExt(e->builder, emit_gpu_block_any(e, one), e->i32, "");
    store(any, plus(t, k * 96));
  }
  store(emit_gpu_warp(e), plus(t, 192));
  store(emit_gpu_lane(e), plus(t, 288));
  store(emit_gpu_block(e), plus(t, 384));
  gpu_code_load(&code);
  gpu_code_run(&code, 2, 0, slots);
  for (uint32_t k = 0; k < 96; k++) {
    ck_assert_uint_eq(out_words()[k], 1);
    ck_assert_uint_eq(out_words()[96 + k], 0);
    ck_assert_uint_eq(out_words()[192 + k], k / 32);
    ck_assert_uint_eq(out_words()[288 + k], k % 32);
    ck_assert_uint_lt(out_words()[384 + k], 2);
  }
  stop();
}
END_TEST

/* The first thread to come writes the record, whole. */
START_TEST(faults)
{
  start(WARP);
  LLVMValueRef t = emit_gpu_thread(e);
  emit_gpu_fault(e, gpu_slot(&code, 1), plus(t, 100),
                 LLVMBuildSExt(e->builder, plus(t, -1000), e->i64, ""));
  run(0);
  struct tile_fault fault;
  memcpy(&fault, out.data, sizeof(fault));
  ck_assert_int_eq(fault.raised, 1);
  ck_assert_int_ge(fault.site, 100);
  ck_assert_int_lt(fault.site, 132);
  ck_assert_int_eq(fault.index, fault.site - 1100);
  stop();
}
END_TEST

int main(void)
{
  Suite *suite = suite_create("warps and blocks");
  TCase *tests = tcase_create("helpers");
  tcase_add_loop_test(tests, products, 0, 3);
  tcase_add_test(tests, roundings);
  tcase_add_loop_test(tests, matrices, 0, 6);
  tcase_add_loop_test(tests, copies, 0, 3);
  tcase_add_test(tests, shuffles_and_votes);
  tcase_add_test(tests, block_votes_and_numbers);
  tcase_add_test(tests, faults);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
