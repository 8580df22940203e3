/* Loads, stores, atomic operations, asynchronous copies and matrices of the interpreter. */
#include <math.h>

#include "tests/device/ptx_test.h"

static const char shared_array[] = ".extern .shared .align 16 .b8 s[];";

/* Runs a body with two arrays of `bytes`; the first one is filled with what `fill` gives. */
struct arrays {
  struct ptx_test_array in, out;
};

static struct arrays make_arrays(size_t bytes)
{
  struct arrays a = {ptx_test_array(bytes), ptx_test_array(bytes)};
  uint64_t state = 11;
  for (size_t k = 0; k < bytes; k++) {
    ((unsigned char *)a.in.data)[k] = (unsigned char)(ptx_test_random(&state) >> 33);
  }
  memset(a.out.data, 0, bytes);
  return a;
}

static void run(const struct arrays *a, const char *globals, const char *body, uint32_t threads,
                uint32_t shared, uint64_t seed)
{
  ptx_test_run(&(struct ptx_test_launch){.globals = globals,
                                         .body = body,
                                         .threads = threads,
                                         .shared = shared,
                                         .params = {a->in.address, a->out.address},
                                         .seed = seed});
}

static void free_arrays(const struct arrays *a)
{
  ck_assert(device_free(a->in.address));
  ck_assert(device_free(a->out.address));
}

/* ---- loads and stores ---- */

START_TEST(copies_through_every_space_and_width)
{
  static const char *const bodies[] = {
      "ld.global.v4.b32 {%r1, %r2, %r3, %r4}, [%d1]; st.global.v4.b32 [%d2], {%r1, %r2, %r3, %r4};",
      "ld.global.nc.v2.b64 {%d3, %d4}, [%d1]; st.volatile.global.v2.b64 [%d2], {%d3, %d4};",
      "ld.global.L1::no_allocate.L2::128B.v4.f32 {%r1, %r2, %r3, %r4}, [%d1];\n"
      "st.global.wt.v4.f32 [%d2], {%r1, %r2, %r3, %r4};",
      "ld.v2.b32 {%r1, %r2}, [%d1]; ld.relaxed.gpu.global.b64 %d3, [%d1+8];\n"
      "st.v2.b32 [%d2], {%r1, %r2}; st.release.gpu.global.b64 [%d2+8], %d3;",
      "ld.global.v4.b16 {%h1, %h2, %h3, %h4}, [%d1]; ld.global.v2.b16 {%h5, %h6}, [%d1+8];\n"
      "ld.global.u16 %r5, [%d1+12]; ld.global.b8 %h7, [%d1+14]; ld.global.u8 %r6, [%d1+15];\n"
      "st.global.v4.b16 [%d2], {%h1, %h2, %h3, %h4}; st.global.v2.b16 [%d2+8], {%h5, %h6};\n"
      "st.global.u16 [%d2+12], %r5; st.global.b8 [%d2+14], %h7; st.global.u8 [%d2+15], %r6;",
      "ld.global.v4.b32 {%r1, %r2, %r3, %r4}, [%d1];\n"
      "st.shared.v4.b32 [%r9], {%r1, %r2, %r3, %r4}; ld.shared.v2.b64 {%d3, %d4}, [%r9];\n"
      "st.global.v2.b64 [%d2], {%d3, %d4};",
      "ld.global.v4.b32 {%r1, %r2, %r3, %r4}, [%d1]; cvta.shared.u64 %d5, %d6;\n"
      "st.v4.b32 [%d5], {%r1, %r2, %r3, %r4}; cvta.to.shared.u64 %d7, %d5;\n"
      "ld.shared.v2.b64 {%d3, %d4}, [%d7]; st.global.v2.b64 [%d2], {%d3, %d4};",
      "{ .local .align 16 .b8 depot[48]; .reg .b64 SPL; mov.b64 SPL, depot;\n"
      "ld.global.v4.b32 {%r1, %r2, %r3, %r4}, [%d1]; st.local.v2.b32 [SPL+16], {%r1, %r2};\n"
      "cvta.local.u64 %d5, SPL; st.v2.b32 [%d5+24], {%r3, %r4};\n"
      "ld.local.v2.b64 {%d3, %d4}, [depot+16]; st.global.v2.b64 [%d2], {%d3, %d4}; }",
  };
  char body[1500];
  snprintf(
      body, sizeof(body),
      "shl.b64 %%d1, %%d14, 4; cvt.u32.u64 %%r8, %%d1; mov.u32 %%r7, s; add.u32 %%r9, %%r7, %%r8;\n"
      "cvt.u64.u32 %%d6, %%r9; add.s64 %%d2, %%d11, %%d1; add.s64 %%d1, %%d10, %%d1;\n%s",
      bodies[_i]);
  const struct arrays a = make_arrays(64 * 16);
  run(&a, shared_array, body, 64, 64 * 16, 1);
  ck_assert_mem_eq(a.in.data, a.out.data, 64 * 16);
  free_arrays(&a);
}
END_TEST

START_TEST(loads_extend)
{
  const struct arrays a = make_arrays(256);
  ((int8_t *)a.in.data)[0] = -2;
  ((int16_t *)a.in.data)[1] = -300;
  run(&a, NULL,
      "ld.global.s8 %r1, [%d10]; ld.global.u8 %r2, [%d10]; ld.global.s16 %d3, [%d10+2];\n"
      "ld.global.s8 %h4, [%d10]; st.global.u32 [%d11], %r1; st.global.u32 [%d11+4], %r2;\n"
      "st.global.u64 [%d11+8], %d3; st.global.u16 [%d11+16], %h4;",
      1, 0, 1);
  const unsigned char *out = a.out.data;
  int32_t r1;
  uint32_t r2;
  int64_t d3;
  uint16_t h4;
  memcpy(&r1, out, 4);
  memcpy(&r2, out + 4, 4);
  memcpy(&d3, out + 8, 8);
  memcpy(&h4, out + 16, 2);
  ck_assert_int_eq(r1, -2);
  ck_assert_uint_eq(r2, 254);
  ck_assert_int_eq(d3, -300);
  ck_assert_uint_eq(h4, 0xfffe);
  free_arrays(&a);
}
END_TEST

/* Variables with initial values, found by the host too. */
START_TEST(variables_have_their_initial_values)
{
  static const char globals[] = ".visible .global .align 4 .f32 g[3] = {1.0, 0f40000000, -2.5};\n"
                                ".const .align 8 .b8 c[16] = {1, 0, 0, 0, 255, 255, 255, 127, 4};\n"
                                ".global .align 8 .u64 p[2] = {generic(g), c};\n"
                                ".global .align 4 .u32 z[4];\n"
                                ".shared .align 8 .b32 fixed[2];";
  const struct ptx_test_launch launch = {
      .globals = globals,
      .body =
          "ld.global.f32 %r1, [g+8]; ld.const.b32 %r2, [c+4]; ld.global.u64 %d1, [p];\n"
          "ld.f32 %r3, [%d1+4]; ld.global.b64 %d2, [p+8]; ld.const.u8 %r4, [%d2+8];\n"
          "mov.u64 %d3, z; st.global.u32 [%d3+4], 77; ld.global.u32 %r5, [z];\n"
          "st.shared.u32 [fixed+4], %r4; ld.shared.u32 %r6, [fixed+4];\n"
          "st.global.v2.b32 [%d11], {%r1, %r2}; st.global.v4.b32 [%d11+16], {%r3, %r4, %r5, %r6};"};
  struct ptx_module *module = ptx_test_load(&launch);
  const struct ptx_test_array out = ptx_test_array(256);
  const uint64_t params[4] = {0, out.address};
  const struct ptx_launch go = {.entry = ptx_module_entry(module, "k"),
                                .grid = {1, 1, 1},
                                .block = {1, 1, 1},
                                .params = (const unsigned char *)params};
  struct device_fault fault;
  ck_assert_msg(ptx_run(&go, &fault, NULL), "%s", fault.text);
  const float *f = out.data;
  const uint32_t *u = out.data;
  ck_assert(f[0] == -2.5f && f[4] == 2.0f);
  ck_assert_uint_eq(u[1], 0x7fffffff);
  ck_assert_uint_eq(u[5], 4);
  ck_assert_uint_eq(u[6], 0);
  ck_assert_uint_eq(u[7], 4);
  uint64_t address;
  size_t bytes;
  ck_assert(ptx_module_global(module, "z", &address, &bytes));
  ck_assert_uint_eq(bytes, 16);
  ck_assert_uint_eq(((const uint32_t *)device_translate(address, 16))[1], 77);
  ck_assert(!ptx_module_global(module, "fixed", &address, &bytes));
  ck_assert_uint_eq(ptx_entry_static_shared(go.entry), 8);
  ptx_module_free(module);
}
END_TEST

START_TEST(atomic_operations)
{
  struct {
    uint32_t sum, min, max, bits, exchanged, swapped, up, down;
    int32_t smallest;
    float f;
    uint64_t wide;
    double d;
  } * memory;
  const struct arrays a = make_arrays(sizeof(*memory));
  memory = a.in.data;
  memset(memory, 0, sizeof(*memory));
  memory->min = 1000;
  memory->bits = 0xff;
  memory->f = 0.5f;
  memory->smallest = 5;
  run(&a, shared_array,
      "atom.global.add.u32 %r1, [%d10], %r10; red.global.min.u32 [%d10+4], %r10;\n"
      "atom.global.max.u32 %r1, [%d10+8], %r10; red.global.xor.b32 [%d10+12], 3;\n"
      "atom.global.exch.b32 %r1, [%d10+16], 9; atom.acquire.gpu.global.cas.b32 %r1, [%d10+20], 0, "
      "%r10;\n"
      "atom.global.inc.u32 %r1, [%d10+24], 4; atom.global.dec.u32 %r1, [%d10+28], 4;\n"
      "neg.s32 %r2, %r10; red.relaxed.sys.global.min.s32 [%d10+32], %r2;\n"
      "atom.global.add.f32 %r1, [%d10+36], 0f3E800000; atom.global.add.u64 %d1, [%d10+40], %d14;\n"
      "red.global.add.f64 [%d10+48], 0d3FE0000000000000;\n"
      "setp.ne.u32 %p1, %r10, 0; mov.u32 %r3, s; @!%p1 st.shared.u32 [%r3], 100; bar.sync 0;\n"
      "atom.shared.add.u32 %r4, [%r3], 1; shl.b64 %d2, %d14, 2; add.s64 %d2, %d11, %d2;\n"
      "bar.sync 0; ld.shared.u32 %r5, [%r3]; setp.lt.u32 %p2, %r10, 14; @%p2 st.global.u32 [%d2], "
      "%r5;",
      64, 16, 5);
  ck_assert_uint_eq(memory->sum, 63 * 32);
  ck_assert_uint_eq(memory->min, 0);
  ck_assert_uint_eq(memory->max, 63);
  ck_assert_uint_eq(memory->bits, 0xff);
  ck_assert_uint_eq(memory->exchanged, 9);
  ck_assert_uint_lt(memory->swapped, 64);
  ck_assert_uint_eq(memory->up, 64 % 5);
  ck_assert_uint_eq(memory->down, (5 - 64 % 5) % 5);
  ck_assert_int_eq(memory->smallest, -63);
  ck_assert(memory->f == 16.5f);
  ck_assert_uint_eq(memory->wide, 63 * 32);
  ck_assert(memory->d == 32.0);
  ck_assert_uint_eq(((const uint32_t *)a.out.data)[3], 164);
  free_arrays(&a);
}
END_TEST

/* ---- asynchronous copies ---- */

START_TEST(copies_arrive_with_zeros_behind)
{
  const struct arrays a = make_arrays(32 * 16);
  for (uint64_t seed = 0; seed < 8; seed++) {
    /* Thread t reads t % 17 of 16 bytes. */
    run(&a, shared_array,
        "shl.b64 %d1, %d14, 4; add.s64 %d2, %d10, %d1; add.s64 %d3, %d11, %d1; cvt.u32.u64 %r1, "
        "%d1;\n"
        "mov.u32 %r2, s; add.u32 %r3, %r2, %r1; rem.u32 %r4, %r10, 17;\n"
        "cp.async.cg.shared.global [%r3], [%d2], 16, %r4; cp.async.commit_group;\n"
        "cp.async.wait_group 0; ld.shared.v2.b64 {%d4, %d5}, [%r3]; st.global.v2.b64 [%d3], {%d4, "
        "%d5};",
        32, 512, seed);
    for (uint32_t k = 0; k < 512; k++) {
      const unsigned char want = k % 16 < k / 16 % 17 ? ((const unsigned char *)a.in.data)[k] : 0;
      ck_assert_uint_eq(((const unsigned char *)a.out.data)[k], want);
    }
  }
  free_arrays(&a);
}
END_TEST

START_TEST(copies_of_every_size_and_group)
{
  const struct arrays a = make_arrays(1024);
  for (uint64_t seed = 0; seed < 8; seed++) {
    run(&a, shared_array,
        "shl.b64 %d1, %d14, 5; add.s64 %d2, %d10, %d1; add.s64 %d3, %d11, %d1; cvt.u32.u64 %r1, "
        "%d1;\n"
        "mov.u32 %r2, s; add.u32 %r3, %r2, %r1; setp.eq.u32 %p1, %r10, 100;\n"
        "cp.async.ca.shared.global [%r3], [%d2], 4; cp.async.ca.shared.global [%r3+4], [%d2+4], 4, "
        "%p1;\n"
        "cp.async.commit_group;\n"
        "cp.async.ca.shared::cta.global.L2::128B [%r3+8], [%d2+8], 8; cp.async.commit_group;\n"
        "cp.async.wait_group 1; ld.shared.b64 %d4, [%r3]; st.global.b64 [%d3], %d4;\n"
        "cp.async.cg.shared.global [%r3+16], [%d2+16], 16;\n"
        "cp.async.wait_group 0; ld.shared.b64 %d4, [%r3+8]; st.global.b64 [%d3+8], %d4;\n"
        "cp.async.wait_all; ld.shared.v2.b64 {%d4, %d5}, [%r3+16]; st.global.v2.b64 [%d3+16], "
        "{%d4, %d5};",
        32, 1024, seed);
    ck_assert_mem_eq(a.in.data, a.out.data, 1024);
  }
  free_arrays(&a);
}
END_TEST

/* What the source holds when a copy ends counts, wherever between its two ends that is. */
START_TEST(copies_can_be_late)
{
  uint32_t early = 0, late = 0;
  for (uint64_t seed = 0; seed < 64; seed++) {
    const struct arrays a = make_arrays(256);
    *(uint32_t *)a.in.data = 1;
    run(&a, shared_array,
        "mov.u32 %r2, s; setp.ne.u32 %p1, %r10, 0; @%p1 bra OUT;\n"
        "cp.async.ca.shared.global [%r2], [%d10], 4; mov.u32 %r3, 0;\n"
        "WAIT: add.u32 %r3, %r3, 1; setp.lt.u32 %p2, %r3, 3000; @%p2 bra WAIT;\n"
        "st.global.u32 [%d10], 2; cp.async.wait_all; ld.shared.u32 %r4, [%r2];\n"
        "st.global.u32 [%d11], %r4; OUT: ",
        64, 16, seed);
    early += *(const uint32_t *)a.out.data == 1;
    late += *(const uint32_t *)a.out.data == 2;
    free_arrays(&a);
  }
  ck_assert_uint_eq(early + late, 64);
  ck_assert_uint_gt(early, 0);
  ck_assert_uint_gt(late, 0);
}
END_TEST

/* ---- matrices ---- */

/* Element e of register r after ldmatrix: the ISA's figure, row by row. Matrix m lies at rows 8 m
 * of shared memory, 16 bytes each, and the lane 8 m + row gives the address. */
START_TEST(ldmatrix_gives_each_thread_its_elements)
{
  static const struct {
    const char *text;
    uint32_t matrices, transposed;
  } forms[] = {
      {"ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r1}, [%r9];", 1, 0},
      {"ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%r1, %r2}, [%r9];", 2, 0},
      {"ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r1, %r2, %r3, %r4}, [%r9];", 4, 0},
      {"ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%r1, %r2}, [%r9];", 2, 1},
      {"ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%r1, %r2, %r3, %r4}, [%r9];", 4, 1},
  };
  char body[900];
  snprintf(body, sizeof(body),
           "shl.b64 %%d1, %%d14, 4; add.s64 %%d2, %%d10, %%d1; add.s64 %%d3, %%d11, %%d1;\n"
           "cvt.u32.u64 %%r8, %%d1; mov.u32 %%r7, s; add.u32 %%r9, %%r7, %%r8;\n"
           "ld.global.v2.b64 {%%d4, %%d5}, [%%d2]; st.shared.v2.b64 [%%r9], {%%d4, %%d5};\n"
           "mov.u32 %%r1, 0; mov.u32 %%r2, 0; mov.u32 %%r3, 0; mov.u32 %%r4, 0;\n"
           "%s\nst.global.v4.b32 [%%d3], {%%r1, %%r2, %%r3, %%r4};",
           forms[_i].text);
  const struct arrays a = make_arrays(512);
  run(&a, shared_array, body, 32, 512, 0);
  const uint16_t *in = a.in.data, *out = a.out.data;
  for (uint32_t lane = 0; lane < 32; lane++) {
    for (uint32_t m = 0; m < forms[_i].matrices; m++) {
      for (uint32_t e = 0; e < 2; e++) {
        const uint32_t row = lane / 4, column = lane % 4 * 2 + e;
        const uint16_t want =
            forms[_i].transposed ? in[m * 64 + column * 8 + row] : in[m * 64 + row * 8 + column];
        ck_assert_uint_eq(out[lane * 8 + m * 2 + e], want);
      }
    }
  }
  free_arrays(&a);
}
END_TEST

enum { F16, BF16, TF32, S8 };
struct product {
  const char *text;
  int type, k, a_registers;
  bool half_sums;
};
static const struct product products[] = {
    {"mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32", F16, 16, 4, false},
    {"mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", BF16, 16, 4, false},
    {"mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32", F16, 8, 2, false},
    {"mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32", BF16, 8, 2, false},
    {"mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32", TF32, 8, 4, false},
    {"mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16", F16, 16, 4, true},
    {"mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32", S8, 32, 4, false},
};

/* Small integers, which every format holds and every sum of them is exact. */
static int small(uint64_t *state)
{
  return (int)(ptx_test_random(state) >> 40) % 7 - 3;
}

static uint16_t half_of(int value, int type)
{
  const float f = (float)value;
  uint32_t bits;
  memcpy(&bits, &f, sizeof(bits));
  if (type == BF16) {
    return (uint16_t)(bits >> 16);
  }
  const uint32_t exponent = bits >> 23 & 255;
  return (uint16_t)((bits >> 16 & 0x8000) |
                    (value == 0 ? 0 : (exponent - 112) << 10 | (bits >> 13 & 0x3ff)));
}

/* Puts element i of a register; tf32 has garbage in the bits that do not count. */
static void put(uint32_t *reg, int i, int value, int type, uint64_t *state)
{
  if (type == TF32) {
    const float f = (float)value;
    memcpy(reg, &f, sizeof(f));
    *reg |= (uint32_t)ptx_test_random(state) & 0x1fff;
  } else if (type == S8) {
    *reg = (*reg & ~(UINT32_C(255) << (8 * i))) | (uint32_t)(uint8_t)value << (8 * i);
  } else {
    *reg = (*reg & ~(UINT32_C(65535) << (16 * i))) | (uint32_t)half_of(value, type) << (16 * i);
  }
}

static float get_half(uint32_t bits)
{
  const int exponent = (int)(bits >> 10 & 31), fraction = (int)(bits & 1023);
  const float value = exponent == 0 ? ldexpf((float)fraction, -24)
                                    : ldexpf((float)(fraction | 1024), exponent - 25);
  return (bits & 0x8000) != 0 ? -value : value;
}

/* Rows and columns of the fragments as the ISA lists them for each shape and type. */
static void place_a(const struct product *p, int lane, int reg, int i, int *row, int *k)
{
  const int g = lane >> 2, t = lane & 3;
  *row = reg == 0 || reg == 2 ? g : g + 8;
  switch (p->type) {
  case TF32: *k = reg < 2 ? t : t + 4; break;
  case S8: *k = t * 4 + i + (reg < 2 ? 0 : 16); break;
  default: *k = t * 2 + i + (reg < 2 ? 0 : 8);
  }
}
static void place_b(const struct product *p, int lane, int reg, int i, int *k, int *column)
{
  const int g = lane >> 2, t = lane & 3;
  *column = g;
  *k = p->type == TF32 ? t + 4 * reg : p->type == S8 ? t * 4 + i + 16 * reg : t * 2 + i + 8 * reg;
}

START_TEST(mma_is_a_matrix_product)
{
  const struct product *p = &products[_i];
  const int per = p->type == TF32 ? 1 : p->type == S8 ? 4 : 2;
  int a[16][32], b[32][8], c[16][8];
  uint64_t state = 17;
  const struct arrays memory = make_arrays(32 * 64);
  uint32_t(*in)[16] = memory.in.data;
  memset(in, 0, 32 * 64);
  for (int m = 0; m < 16; m++) {
    for (int k = 0; k < 32; k++) {
      a[m][k] = small(&state);
    }
    for (int n = 0; n < 8; n++) {
      c[m][n] = 10 * small(&state);
    }
  }
  for (int k = 0; k < 32; k++) {
    for (int n = 0; n < 8; n++) {
      b[k][n] = small(&state);
    }
  }
  for (int lane = 0; lane < 32; lane++) {
    for (int i = 0; i < per; i++) {
      int row, k, column;
      for (int r = 0; r < p->a_registers; r++) {
        place_a(p, lane, r, i, &row, &k);
        put(&in[lane][r], i, a[row][k], p->type, &state);
      }
      for (int r = 0; r < p->a_registers / 2; r++) {
        place_b(p, lane, r, i, &k, &column);
        put(&in[lane][4 + r], i, b[k][column], p->type, &state);
      }
    }
    for (int j = 0; j < 4; j++) {
      const int value = c[(lane >> 2) + (j < 2 ? 0 : 8)][(lane & 3) * 2 + (j & 1)];
      if (p->half_sums) {
        put(&in[lane][8 + j / 2], j & 1, value, F16, &state);
      } else {
        const float f = (float)value;
        memcpy(&in[lane][8 + j], p->type == S8 ? (const void *)&value : &f, 4);
      }
    }
  }
  char body[900];
  const char *sums = p->half_sums ? "%r9, %r12" : "%r9, %r12, %r13, %r14";
  const char *results = p->half_sums ? "%r20, %r21" : "%r20, %r21, %r22, %r23";
  snprintf(body, sizeof(body),
           "shl.b64 %%d1, %%d14, 6; add.s64 %%d2, %%d10, %%d1; add.s64 %%d3, %%d11, %%d1;\n"
           "ld.global.v4.b32 {%%r1, %%r2, %%r3, %%r4}, [%%d2]; ld.global.v2.b32 {%%r5, %%r6}, "
           "[%%d2+16];\n"
           "ld.global.v4.b32 {%%r9, %%r12, %%r13, %%r14}, [%%d2+32]; mov.u32 %%r22, 0; mov.u32 "
           "%%r23, 0;\n"
           "%s {%s}, {%s}, {%s}, {%s};\nst.global.v4.b32 [%%d3], {%%r20, %%r21, %%r22, %%r23};",
           p->text, results, p->a_registers == 4 ? "%r1, %r2, %r3, %r4" : "%r1, %r2",
           p->a_registers == 4 ? "%r5, %r6" : "%r5", sums);
  run(&memory, NULL, body, 32, 0, 0);
  const uint32_t(*out)[16] = (const uint32_t(*)[16])memory.out.data;
  for (int lane = 0; lane < 32; lane++) {
    for (int j = 0; j < 4; j++) {
      const int m = (lane >> 2) + (j < 2 ? 0 : 8), n = (lane & 3) * 2 + (j & 1);
      int want = c[m][n];
      for (int k = 0; k < p->k; k++) {
        want += a[m][k] * b[k][n];
      }
      float got;
      memcpy(&got, &out[lane][j], 4);
      if (p->half_sums) {
        got = get_half(out[lane][j / 2] >> (16 * (j & 1)) & 0xffff);
      } else if (p->type == S8) {
        got = (float)(int32_t)out[lane][j];
      }
      ck_assert_msg(got == (float)want, "[%d][%d] is %g instead of %d", m, n, (double)got, want);
    }
  }
  free_arrays(&memory);
}
END_TEST

/* 2^24 + 1 + 1 + ...: what is added together counts together, what comes later is truncated. */
START_TEST(mma_truncates_sums_by_block)
{
  const struct arrays a = make_arrays(256);
  run(&a, NULL,
      "mov.u32 %r1, 0x3f803f80; mov.u32 %r2, 0x3f803f80; mov.b32 %r3, 0f4B800000; mov.b32 %r5, "
      "0fCB800000;\n"
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%r20, %r21, %r22, %r23},\n"
      "{%r1, %r1, %r1, %r1}, {%r2, %r2}, {%r3, %r5, %r3, %r5};\n"
      "mov.u32 %r4, 0; mov.u32 %r6, 0x00003f80;\n"
      "and.b32 %r7, %r10, 3; setp.eq.u32 %p1, %r7, 0; selp.b32 %r6, %r6, %r4, %p1;\n"
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%r24, %r25, %r26, %r27},\n"
      "{%r6, %r6, %r4, %r4}, {%r2, %r2}, {%r3, %r5, %r3, %r5};\n"
      "setp.eq.u32 %p2, %r10, 0; @%p2 st.global.v2.b32 [%d11], {%r20, %r21};\n"
      "@%p2 st.global.v2.b32 [%d11+8], {%r24, %r25};",
      32, 0, 0);
  const float *out = a.out.data;
  ck_assert(out[0] == 16777216.0f + 16);
  ck_assert(out[1] == -16777216.0f + 16);
  ck_assert(out[2] == 16777216.0f); /* 2^24 + 1 */
  ck_assert(out[3] == -16777215.0f);
  free_arrays(&a);
}
END_TEST

int main(void)
{
  Suite *suite = suite_create("PTX: memory and matrices");
  TCase *tcase = tcase_create("memory");
  tcase_add_loop_test(tcase, copies_through_every_space_and_width, 0, 8);
  tcase_add_test(tcase, loads_extend);
  tcase_add_test(tcase, variables_have_their_initial_values);
  tcase_add_test(tcase, atomic_operations);
  tcase_add_test(tcase, copies_arrive_with_zeros_behind);
  tcase_add_test(tcase, copies_of_every_size_and_group);
  tcase_add_test(tcase, copies_can_be_late);
  tcase_add_loop_test(tcase, ldmatrix_gives_each_thread_its_elements, 0, 5);
  tcase_add_loop_test(tcase, mma_is_a_matrix_product, 0, 7);
  tcase_add_test(tcase, mma_truncates_sums_by_block);
  suite_add_tcase(suite, tcase);
  return ptx_test_main(suite);
}
