/* What the interpreter refuses: a small kernel for each kind of fault, planted once, and the same
 * kernel without it. And texts that are not PTX. */
#include "tests/device/ptx_test.h"

struct planted {
  const char *name, *good, *bad; /* bodies; NULL where only one is run */
  enum device_fault_kind kind;
  const char *says; /* part of the message */
  uint32_t threads;
  bool every_seed; /* else with some seed of 16 */
};

/* The array s has 1024 bytes; %r7 is its address, %r8 the thread's number times 4, %r9 their sum.
 * %d10 is an array of 1024 bytes, %d2 its element of the thread, of 4 bytes. */
static const char prologue[] =
    "shl.b64 %d1, %d14, 2; add.s64 %d2, %d10, %d1; cvt.u32.u64 %r8, %d1; mov.u32 %r7, s;\n"
    "add.u32 %r9, %r7, %r8; cvt.u64.u32 %d7, %r7; cvt.u64.u32 %d9, %r9;\n";

static const struct planted faults[] = {
    {"an index one too large", "st.global.u32 [%d10+1020], %r10;",
     "st.global.u32 [%d10+1024], %r10;", DEVICE_OUT_OF_BOUNDS,
     "offset 1024 of an allocation of 1024 bytes", 1, true},
    {"a vector over the end", "ld.global.v2.u32 {%r1, %r2}, [%d10+1016];",
     "ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%d10+1016];", DEVICE_OUT_OF_BOUNDS, "16 bytes", 1,
     true},
    {"a wild pointer", NULL, "ld.global.u32 %r1, [%d13];", DEVICE_OUT_OF_BOUNDS, "no allocation", 1,
     true},
    {"shared memory's end", "st.shared.u32 [%r9+896], %r10;", "st.shared.u32 [%r9+900], %r10;",
     DEVICE_OUT_OF_BOUNDS, "offset 1024 of shared memory", 32, true},
    {"a shared null pointer", NULL, "mov.u32 %r1, 0; st.shared.u32 [%r1], %r10;",
     DEVICE_OUT_OF_BOUNDS, "shared memory", 1, true},
    {"local memory's end",
     "{ .local .b8 depot[16]; .reg .b64 q; mov.b64 q, depot; st.local.u32 [q+12], %r1; }",
     "{ .local .b8 depot[16]; .reg .b64 q; mov.b64 q, depot; st.local.u32 [q+16], %r1; }",
     DEVICE_OUT_OF_BOUNDS, "local memory", 1, true},
    {"a parameter's end", "ld.param.u64 %d1, [k3];", "ld.param.u64 %d1, [k3+8];",
     DEVICE_OUT_OF_BOUNDS, "parameters", 1, true},
    {"a copy's source",
     "mov.u32 %r1, 4; cp.async.cg.shared.global [%r7], [%d10+1008], 16; cp.async.wait_all;",
     "mov.u32 %r1, 4; cp.async.cg.shared.global [%r7], [%d10+1024], 16, %r1; cp.async.wait_all;",
     DEVICE_OUT_OF_BOUNDS, "4 bytes", 1, true},
    {"global alignment", "ld.global.v2.u32 {%r1, %r2}, [%d10+8];",
     "ld.global.v2.u32 {%r1, %r2}, [%d10+4];", DEVICE_MISALIGNED, "not a multiple of 8", 1, true},
    {"shared alignment", "st.shared.v4.b32 [%r7+16], {%r1, %r1, %r1, %r1};",
     "st.shared.v4.b32 [%r7+8], {%r1, %r1, %r1, %r1};", DEVICE_MISALIGNED, "not a multiple of 16",
     1, true},
    {"rows of ldmatrix",
     "st.shared.v4.b32 [%r7], {%r1, %r1, %r1, %r1}; bar.warp.sync -1;\n"
     "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r1}, [%r7];",
     "st.shared.v4.b32 [%r7], {%r1, %r1, %r1, %r1}; st.shared.b32 [%r7+16], %r1; bar.warp.sync "
     "-1;\n"
     "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r1}, [%r7+4];",
     DEVICE_MISALIGNED, "not a multiple of 16", 32, true},
    {"unwritten shared memory", "st.shared.u32 [%r9], %r10; ld.shared.u32 %r1, [%r9];",
     "st.shared.u16 [%r9], %h1; ld.shared.u32 %r1, [%r9];", DEVICE_UNWRITTEN_SHARED, "byte", 32,
     true},
    {"a row of ldmatrix that nobody wrote", NULL,
     "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r1}, [%r7];", DEVICE_UNWRITTEN_SHARED, "byte 0",
     32, true},
    {"a dropped barrier before a read",
     "st.shared.u32 [%r9], %r10; bar.sync 0; xor.b32 %r1, %r8, 128; add.u32 %r1, %r1, %r7;\n"
     "ld.shared.u32 %r2, [%r1];",
     "mov.u32 %r1, 0; st.shared.u32 [%r9], %r1; bar.sync 0; st.shared.u32 [%r9], %r10;\n"
     "xor.b32 %r1, %r8, 128; add.u32 %r1, %r1, %r7; ld.shared.u32 %r2, [%r1];",
     DEVICE_RACE, "no barrier", 64, true},
    {"a dropped barrier before a write",
     "st.shared.u32 [%r9], %r10; bar.sync 0; xor.b32 %r1, %r8, 128; add.u32 %r1, %r1, %r7;\n"
     "ld.shared.u32 %r2, [%r1]; bar.sync 0; st.shared.u32 [%r9], %r2;",
     "st.shared.u32 [%r9], %r10; bar.sync 0; xor.b32 %r1, %r8, 128; add.u32 %r1, %r1, %r7;\n"
     "ld.shared.u32 %r2, [%r1]; st.shared.u32 [%r9], %r2;",
     DEVICE_RACE, "no barrier after", 64, true},
    {"two warps write one byte",
     "mov.u32 %r1, 3; setp.lt.u32 %p1, %r10, 32; @%p1 st.shared.u32 [%r7], %r1; bar.sync 0;\n"
     "@!%p1 st.shared.u32 [%r7], %r1;",
     "mov.u32 %r1, 3; setp.lt.u32 %p1, %r10, 32; @%p1 st.shared.u32 [%r7], %r1;\n"
     "@!%p1 st.shared.u32 [%r7], %r1;",
     DEVICE_RACE, "no barrier after the write", 64, true},
    {"threads that write different values at once", "mov.u32 %r1, 3; st.shared.u32 [%r7], %r1;",
     "st.shared.u32 [%r7], %r10;", DEVICE_RACE, "different values", 32, true},
    {"an atomic operation beside a plain one",
     "setp.eq.u32 %p1, %r10, 0; @%p1 st.shared.u32 [%r7], 0; bar.sync 0; atom.shared.add.u32 %r1, "
     "[%r7], 1;",
     "setp.eq.u32 %p1, %r10, 0; @%p1 st.shared.u32 [%r7], 0; bar.sync 0; atom.shared.add.u32 %r1, "
     "[%r7], 1;\n"
     "ld.shared.u32 %r1, [%r7];",
     DEVICE_RACE, "no barrier", 64, true},
    {"a barrier that some of the warps do not know",
     "st.shared.u32 [%r9], %r10; bar.sync 0; xor.b32 %r1, %r8, 256; add.u32 %r1, %r1, %r7;\n"
     "ld.shared.u32 %r2, [%r1];",
     "st.shared.u32 [%r9], %r10; shr.u32 %r3, %r10, 6; bar.sync %r3, 64;\n"
     "xor.b32 %r1, %r8, 256; add.u32 %r1, %r1, %r7;\n"
     "ld.shared.u32 %r2, [%r1];",
     DEVICE_RACE, "no barrier after the write", 128, false},
    {"a missing wait",
     "cp.async.ca.shared.global [%r9], [%d2], 4; cp.async.commit_group; cp.async.wait_group 0;\n"
     "ld.shared.u32 %r1, [%r9];",
     "cp.async.ca.shared.global [%r9], [%d2], 4; cp.async.commit_group; ld.shared.u32 %r1, [%r9];",
     DEVICE_ASYNC_HAZARD, "in flight", 32, true},
    {"a weakened wait",
     "cp.async.ca.shared.global [%r9], [%d2], 4; cp.async.commit_group;\n"
     "cp.async.ca.shared.global [%r9+256], [%d2], 4; cp.async.commit_group;\n"
     "cp.async.wait_group 1; ld.shared.u32 %r1, [%r9];",
     "cp.async.ca.shared.global [%r9], [%d2], 4; cp.async.commit_group;\n"
     "cp.async.ca.shared.global [%r9+256], [%d2], 4; cp.async.commit_group;\n"
     "cp.async.wait_group 2; ld.shared.u32 %r1, [%r9];",
     DEVICE_ASYNC_HAZARD, "in flight", 32, true},
    {"a missing commit",
     "cp.async.ca.shared.global [%r9], [%d2], 4; cp.async.commit_group; cp.async.wait_group 0;\n"
     "ld.shared.u32 %r1, [%r9];",
     "cp.async.ca.shared.global [%r9], [%d2], 4; cp.async.wait_group 0; ld.shared.u32 %r1, [%r9];",
     DEVICE_ASYNC_HAZARD, "in flight", 32, true},
    {"a wait without the barrier behind it",
     "cp.async.ca.shared.global [%r9], [%d2], 4; cp.async.wait_all; bar.sync 0;\n"
     "xor.b32 %r1, %r8, 128; add.u32 %r1, %r1, %r7; ld.shared.u32 %r2, [%r1];",
     "cp.async.ca.shared.global [%r9], [%d2], 4; bar.sync 0; cp.async.wait_all;\n"
     "xor.b32 %r1, %r8, 128; add.u32 %r1, %r1, %r7; ld.shared.u32 %r2, [%r1];",
     DEVICE_ASYNC_HAZARD, "thread", 64, true},
    {"a copy over what others still read",
     "st.shared.u32 [%r9], %r10; bar.sync 0; xor.b32 %r1, %r8, 128; add.u32 %r1, %r1, %r7;\n"
     "ld.shared.u32 %r2, [%r1]; bar.sync 0; cp.async.ca.shared.global [%r9], [%d2], 4;",
     "st.shared.u32 [%r9], %r10; bar.sync 0; xor.b32 %r1, %r8, 128; add.u32 %r1, %r1, %r7;\n"
     "ld.shared.u32 %r2, [%r1]; cp.async.ca.shared.global [%r9], [%d2], 4;",
     DEVICE_ASYNC_HAZARD, "s", 64, true},
    {"a store into a copy in flight",
     "cp.async.ca.shared.global [%r9], [%d2], 4; cp.async.wait_all; st.shared.u32 [%r9], %r10;",
     "cp.async.ca.shared.global [%r9], [%d2], 4; st.shared.u32 [%r9], %r10; cp.async.wait_all;",
     DEVICE_ASYNC_HAZARD, "write of byte", 32, true},
    {"two copies to one place",
     "cp.async.ca.shared.global [%r9], [%d2], 4; cp.async.wait_all;\n"
     "cp.async.ca.shared.global [%r9], [%d2], 4;",
     "cp.async.ca.shared.global [%r9], [%d2], 4; cp.async.ca.shared.global [%r9], [%d2], 4;",
     DEVICE_ASYNC_HAZARD, "copy of byte", 32, true},
    {"a divergent barrier",
     "setp.lt.u32 %p1, %r10, 32; @%p1 bra OUT; bar.sync 1, 32; OUT: bar.sync 0;",
     "setp.lt.u32 %p1, %r10, 33; @%p1 bra OUT; bar.sync 1, 32; OUT: bar.sync 0;",
     DEVICE_DIVERGENT_BARRIER, "without lane 0", 64, true},
    {"a guarded barrier", NULL, "setp.ne.u32 %p1, %r10, 5; @%p1 bar.sync 0;",
     DEVICE_DIVERGENT_BARRIER, "without lane 5", 32, true},
    {"a shuffle without a thread of its mask",
     "setp.eq.u32 %p1, %r10, 7; @%p1 bra OUT; shfl.sync.bfly.b32 %r1, %r10, 0, 31, 0xffffff7f; "
     "OUT: ",
     "setp.eq.u32 %p1, %r10, 7; @%p1 bra OUT; shfl.sync.bfly.b32 %r1, %r10, 0, 31, -1; OUT: ",
     DEVICE_DIVERGENT_BARRIER, "without lane 7", 32, true},
    {"a shuffle from a thread outside its mask", NULL,
     "setp.eq.u32 %p1, %r10, 7; @%p1 bra OUT; shfl.sync.bfly.b32 %r1, %r10, 1, 31, 0xffffff7f; "
     "OUT: ",
     DEVICE_DIVERGENT_BARRIER, "lane 7, which does not take part", 32, true},
    {"a thread outside its own mask", NULL, "bar.warp.sync 0x7fffffff;", DEVICE_DIVERGENT_BARRIER,
     "lane 31", 32, true},
    {"mma in half a warp", NULL,
     "setp.lt.u32 %p1, %r10, 16; @%p1 bra OUT;\n"
     "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%r1, %r2, %r3, %r4}, {%r1, %r2, %r3, "
     "%r4},\n"
     "{%r1, %r2}, {%r1, %r2, %r3, %r4}; OUT: ",
     DEVICE_DIVERGENT_BARRIER, "without lane 0", 32, true},
    {"ldmatrix after an exit", NULL,
     "setp.eq.u32 %p1, %r10, 9; @%p1 exit; ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r1}, [%r7];",
     DEVICE_DIVERGENT_BARRIER, "which has exited", 32, true},
    {"barriers for different numbers of threads", NULL,
     "mov.u32 %r1, 64; setp.lt.u32 %p1, %r10, 32; @%p1 mov.u32 %r1, 32; @%p1 bra A; bar.sync 0, "
     "64;\n"
     "bra B; A: bar.arrive 0, 96; B: ",
     DEVICE_DIVERGENT_BARRIER, "for", 64, true},
    {"a deadlock",
     "setp.lt.u32 %p1, %r10, 32; @%p1 bra A; bar.sync 1, 64; bra B; A: bar.sync 1, 64; B: ",
     "setp.lt.u32 %p1, %r10, 32; @%p1 bra A; bar.sync 1, 64; bra B; A: bar.sync 2, 64; B: ",
     DEVICE_DEADLOCK, "none can go on", 64, true},
    {"a loop without end", NULL, "L: bra.uni L;", DEVICE_DEADLOCK, "a loop without end", 1, true},
    {"a trap", "setp.eq.u32 %p1, %r10, 32; @%p1 trap;", "setp.eq.u32 %p1, %r10, 31; @%p1 trap;",
     DEVICE_TRAP, "trap", 32, true},
    {"an unknown instruction",
     "@%p1 bra A; bra B; A: wgmma.fence.sync.aligned; B: ", "wgmma.fence.sync.aligned;",
     DEVICE_UNSUPPORTED, "wgmma.fence.sync.aligned;: the interpreter", 1, true},
    {"an unknown modifier", NULL, "add.rz.f32 %r1, %r2, %r3;", DEVICE_UNSUPPORTED, "add.rz.f32", 1,
     true},
    {"an address in another space", NULL, "cvta.to.shared.u64 %d1, %d10;", DEVICE_OUT_OF_BOUNDS,
     "state space", 1, true},
};
enum { FAULTS = sizeof(faults) / sizeof(faults[0]), SEEDS = 16 };

static bool try_body(const struct planted *p, const char *body, uint64_t seed,
                     struct device_fault *fault)
{
  char text[2000];
  snprintf(text, sizeof(text), "%s%s", prologue, body);
  const struct ptx_test_array array = ptx_test_array(1024);
  memset(array.data, 0, 1024);
  const bool good = ptx_test_try(
      &(struct ptx_test_launch){.globals = ".extern .shared .align 16 .b8 s[];",
                                .body = text,
                                .threads = p->threads,
                                .shared = 1024,
                                .params = {array.address, 0, 0, UINT64_C(0x123456789000)},
                                .seed = seed},
      fault);
  ck_assert(device_free(array.address));
  return good;
}

START_TEST(planted_faults_are_named)
{
  const struct planted *p = &faults[_i];
  const uint64_t seeds = strstr(p->bad, "L: bra") != NULL ? 1 : SEEDS;
  uint64_t caught = 0;
  for (uint64_t seed = 0; seed < seeds; seed++) {
    struct device_fault fault;
    ck_assert_msg(p->good == NULL || try_body(p, p->good, seed, &fault), "%s: without it: %s",
                  p->name, fault.text);
    if (try_body(p, p->bad, seed, &fault)) {
      ck_assert_msg(!p->every_seed, "%s is not seen with seed %u", p->name, (unsigned)seed);
      continue;
    }
    caught++;
    if (!p->every_seed && fault.kind != p->kind) {
      continue;
    }
    ck_assert_msg(fault.kind == p->kind && strstr(fault.text, p->says) != NULL, "%s: fault %d, %s",
                  p->name, (int)fault.kind, fault.text);
    ck_assert_uint_ge(fault.line, 9); /* behind the header */
    ck_assert_uint_lt(fault.thread, p->threads);
  }
  ck_assert_msg(caught > 0, "%s is never seen", p->name);
}
END_TEST

START_TEST(faults_say_where)
{
  struct device_fault fault;
  const struct ptx_test_array array = ptx_test_array(256);
  ck_assert(!ptx_test_try(
      &(struct ptx_test_launch){.body = "mov.u32 %r1, %ctaid.x; setp.ne.u32 %p1, %r1, 5;\n"
                                        "setp.ne.or.u32 %p2, %r10, 40, %p1;\n"
                                        "@!%p2 st.global.v2.b32\t[%d10+256],   {%r1,\n%r1};",
                                .blocks = 7,
                                .threads = 64,
                                .params = {array.address}},
      &fault));
  ck_assert_uint_eq(fault.block[0], 5);
  ck_assert_uint_eq(fault.thread, 40);
  ck_assert_uint_eq(fault.line, 12);
  ck_assert_ptr_nonnull(
      strstr(fault.text, "@!%p2 st.global.v2.b32 [%d10+256], {%r1, %r1};: 8 bytes"));
  ck_assert(device_free(array.address));
}
END_TEST

/* ---- texts ---- */

struct text {
  const char *text, *says;
};
static const struct text texts[] = {
    {".entry k() { add.s32 %r1, %r2, %r3; ret; }", "line 4: the register %r1 is not declared"},
    {".entry k() {\n.reg .b32 %r<2>;\nmov.b32 %r0 %r1; }", "line 6: ';' was expected at '%r1'"},
    {".entry k() { .reg .b32 %r<2>; mov.b32 %r2, 1; }", "register %r2 is not declared"},
    {".entry k() { .reg .b32 a; .reg .b64 b; add.s32 a, a, b; }",
     "b has 64 bits where 32 are needed"},
    {".entry k() { .reg .b32 a; .reg .pred p; add.s32 a, a, p; }", "'p' is not a register"},
    {".entry k() { bra nowhere; }", "no label nowhere"},
    {".entry k() { L: ret; L: ret; }", "label L is in line 4 already"},
    {".entry k() { .reg .b32 a; add.f32 a, a, 1; }", "an integer where a .f32"},
    {".entry k() { .reg .b32 a; ld.global.u32 a, [a]; }", "too few for an address"},
    {".entry k() { .reg .b32 a; mul.lo.s32 a, a; }", "2 operands, where mul.lo has 3"},
    {".entry k() { call f, (); }", "function f is not declared"},
    {".func f();\n.entry k() { call f; }", "f is declared but not defined"},
    {".entry k() { ret; ", "the text ends"},
    {".entry k() { /* ret; }", "unreadable text"},
    {".entry k() { ret; }\n.entry k() { ret; }", "line 5: k is defined twice"},
    {".entry k()\n.reqntid 2000 { ret; }", "numbers of 1 to 1024"},
    {".global .u32 a = {1, 2};", "more initial values"},
    {".shared .b8 a[50000]; .entry k() { ret; }", "50000 bytes of static shared memory"},
    {".entry k() .unheard { ret; }", "unknown directive .unheard"},
    {"hello", "a directive was expected at 'hello'"},
    {".entry k() { @p ret; }", "a predicate was expected"},
    {".entry k() { .reg .b32 a; mov.b32 a, 0f3F80; }", "unreadable text"},
};
enum { TEXTS = sizeof(texts) / sizeof(texts[0]) };

START_TEST(texts_that_are_refused)
{
  char text[400], log[300] = "";
  snprintf(text, sizeof(text), PTX_TEST_HEADER "%s", texts[_i].text);
  ck_assert_ptr_null(ptx_module_load(text, log, sizeof(log)));
  ck_assert_msg(strstr(log, texts[_i].says) != NULL, "%s: %s", texts[_i].text, log);
  ck_assert_uint_eq(device_allocation_count(), 0);
}
END_TEST

START_TEST(directives_and_parameters)
{
  char log[300] = "";
  struct ptx_module *module = ptx_module_load(
      PTX_TEST_HEADER
      ".file 1 \"a.c\"\n"
      ".visible .entry k(.param .u64 .ptr .global .align 16 a, .param .align 8 .b8 b[12],\n"
      "  .param .u8 c, .param .f64 d)\n.maxntid 64, 2\n.minnctapersm 2\n"
      "{ .reg .b32 %r<3>; .shared .align 4 .b8 own[20];\n.loc 1 2 3\n.pragma \"nounroll\"; // "
      "comment\n"
      "ret; }\n"
      ".weak .entry other() .reqntid 32 { .shared .b8 more[8]; ret; }\n"
      ".section .debug_info { .b8 1, 2 }\n",
      log, sizeof(log));
  ck_assert_msg(module != NULL, "%s", log);
  const struct ptx_entry *k = ptx_module_entry(module, "k");
  const struct ptx_entry *other = ptx_module_entry(module, "other");
  ck_assert_ptr_nonnull(k);
  ck_assert_ptr_nonnull(other);
  ck_assert_ptr_null(ptx_module_entry(module, "none"));
  static const uint32_t want[][2] = {{0, 8}, {8, 12}, {20, 1}, {24, 8}};
  ck_assert_uint_eq(ptx_entry_param_count(k), 4);
  for (uint32_t p = 0; p < 4; p++) {
    uint32_t offset, bytes;
    ptx_entry_param(k, p, &offset, &bytes);
    ck_assert_uint_eq(offset, want[p][0]);
    ck_assert_uint_eq(bytes, want[p][1]);
  }
  ck_assert_uint_eq(ptx_entry_max_threads(k), 128);
  ck_assert_uint_eq(ptx_entry_max_threads(other), 32);
  ck_assert_uint_eq(ptx_entry_static_shared(k), 20);
  ck_assert_uint_eq(ptx_entry_static_shared(other), 8);
  struct device_fault fault;
  const struct ptx_launch launch = {.entry = other, .grid = {1, 1, 1}, .block = {16, 2, 1}};
  ck_assert(!ptx_run(&launch, &fault, NULL));
  ck_assert_int_eq(fault.kind, DEVICE_UNSUPPORTED);
  ptx_module_free(module);
}
END_TEST

int main(void)
{
  Suite *suite = suite_create("PTX: faults");
  TCase *tcase = tcase_create("faults");
  tcase_add_loop_test(tcase, planted_faults_are_named, 0, FAULTS);
  tcase_add_test(tcase, faults_say_where);
  tcase_add_loop_test(tcase, texts_that_are_refused, 0, TEXTS);
  tcase_add_test(tcase, directives_and_parameters);
  suite_add_tcase(suite, tcase);
  return ptx_test_main(suite);
}
