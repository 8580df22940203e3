/* Divergence, calls, barriers and what threads of a warp tell each other. Every kernel runs with
 * several seeds: results have to be the same. */
#include "tests/device/ptx_test.h"

enum { THREADS = 128, SEEDS = 8 };

static void store_result(char *body, size_t size, const char *text)
{
  snprintf(body, size,
           "%s\nshl.b64 %%d30, %%d14, 2; add.s64 %%d31, %%d10, %%d30;\n"
           "st.global.u32 [%%d31], %%r4;",
           text);
}

/* %r4 at the end, by thread, has to be expected(thread). */
static void check_with(const char *globals, const char *text, uint32_t shared,
                       uint32_t (*expected)(uint32_t thread))
{
  char body[4000];
  store_result(body, sizeof(body), text);
  for (uint64_t seed = 0; seed < SEEDS; seed++) {
    const struct ptx_test_array out = ptx_test_array(THREADS * sizeof(uint32_t));
    ptx_test_run(&(struct ptx_test_launch){.globals = globals,
                                           .body = body,
                                           .threads = THREADS,
                                           .shared = shared,
                                           .params = {out.address},
                                           .seed = seed});
    for (uint32_t t = 0; t < THREADS; t++) {
      const uint32_t got = ((const uint32_t *)out.data)[t];
      ck_assert_msg(got == expected(t), "thread %u, seed %u: %u instead of %u", t, (unsigned)seed,
                    got, expected(t));
    }
    ck_assert(device_free(out.address));
  }
}

static void check(const char *text, uint32_t (*expected)(uint32_t thread))
{
  check_with(NULL, text, 0, expected);
}

/* ---- divergence ---- */

static uint32_t nested(uint32_t t)
{
  return t % 2 == 0 ? (t % 3 == 0 ? 10 + t : 20 + t) + 1000 : t % 5 == 0 ? 30 : 40;
}

START_TEST(nested_branches_reconverge)
{
  check("rem.u32 %r1, %r10, 2; setp.eq.u32 %p1, %r1, 0; @%p1 bra EVEN;\n"
        "rem.u32 %r1, %r10, 5; setp.eq.u32 %p1, %r1, 0; mov.u32 %r4, 40; @!%p1 bra DONE;\n"
        "mov.u32 %r4, 30; bra.uni DONE;\n"
        "EVEN: rem.u32 %r1, %r10, 3; setp.ne.u32 %p1, %r1, 0; @%p1 bra ELSE;\n"
        "add.u32 %r4, %r10, 10; bra JOIN;\n"
        "ELSE: add.u32 %r4, %r10, 20;\n"
        "JOIN: add.u32 %r4, %r4, 1000;\n"
        "activemask.b32 %r2; setp.eq.u32 %p2, %r2, 0x55555555; @%p2 bra DONE; mov.u32 %r4, 0;\n"
        "DONE: activemask.b32 %r2; setp.eq.u32 %p2, %r2, -1; @%p2 bra END; mov.u32 %r4, 1;\n"
        "END: bar.sync 0;",
        nested);
}
END_TEST

static uint32_t sum_below(uint32_t t)
{
  return t % 37 * (t % 37 + 1) / 2;
}

START_TEST(loops_end_at_different_times)
{
  check("rem.u32 %r1, %r10, 37; mov.u32 %r4, 0;\n"
        "LOOP: setp.eq.u32 %p1, %r1, 0; @%p1 bra OUT;\n"
        "add.u32 %r4, %r4, %r1; sub.u32 %r1, %r1, 1; bra LOOP;\n"
        "OUT: bar.warp.sync -1;",
        sum_below);
}
END_TEST

/* Two ways out of a loop, one of them from a branch within. */
static uint32_t two_exits(uint32_t t)
{
  uint32_t x = t;
  for (uint32_t k = 0; k < 50; k++) {
    if (x % 7 == 6) {
      return 1000 + k;
    }
    x = x * 3 + 1;
  }
  return x;
}

START_TEST(loops_with_two_exits)
{
  check("mov.u32 %r4, %r10; mov.u32 %r2, 0;\n"
        "LOOP: rem.u32 %r1, %r4, 7; setp.eq.u32 %p1, %r1, 6; @%p1 bra FOUND;\n"
        "mad.lo.u32 %r4, %r4, 3, 1; add.u32 %r2, %r2, 1; setp.lt.u32 %p2, %r2, 50; @%p2 bra LOOP;\n"
        "bra OUT;\n"
        "FOUND: add.u32 %r4, %r2, 1000;\n"
        "OUT: bar.sync 0;",
        two_exits);
}
END_TEST

static uint32_t doubled_below_40(uint32_t t)
{
  return t < 40 ? 2 * t : UINT32_C(0xffffffff);
}

/* The threads that leave do not take part in the barrier behind. */
START_TEST(threads_leave_early)
{
  static const char *const ways[] = {"setp.ge.u32 %p1, %r10, 40; @%p1 exit;",
                                     "setp.ge.u32 %p1, %r10, 40; @%p1 ret;",
                                     "setp.ge.u32 %p1, %r10, 40; @%p1 bra END;"};
  char text[600];
  snprintf(
      text, sizeof(text),
      "%s bar.sync 0; shl.b32 %%r4, %%r10, 1; add.s64 %%d30, %%d14, %%d14;\n"
      "add.s64 %%d30, %%d30, %%d30; add.s64 %%d31, %%d10, %%d30; st.global.u32 [%%d31], %%r4;\n"
      "END: ret;",
      ways[_i]);
  for (uint64_t seed = 0; seed < SEEDS; seed++) {
    const struct ptx_test_array out = ptx_test_array(THREADS * sizeof(uint32_t));
    memset(out.data, 0xff, THREADS * sizeof(uint32_t));
    ptx_test_run(&(struct ptx_test_launch){
        .body = text, .threads = THREADS, .params = {out.address}, .seed = seed});
    for (uint32_t t = 0; t < THREADS; t++) {
      ck_assert_uint_eq(((const uint32_t *)out.data)[t], doubled_below_40(t));
    }
    ck_assert(device_free(out.address));
  }
}
END_TEST

static uint32_t switched(uint32_t t)
{
  static const uint32_t values[] = {5, 7, 5, 9};
  return values[t % 4] + 100;
}

START_TEST(indexed_branches)
{
  check("and.b32 %r1, %r10, 3;\n"
        "T: .branchtargets A, B, A, C;\n"
        "brx.idx %r1, T;\n"
        "A: mov.u32 %r4, 5; bra.uni D;\n"
        "B: mov.u32 %r4, 7; bra.uni D;\n"
        "C: mov.u32 %r4, 9;\n"
        "D: bar.warp.sync 0xffffffff; add.u32 %r4, %r4, 100;",
        switched);
}
END_TEST

/* Labels of a block are its own. */
static uint32_t twice_counted(uint32_t t)
{
  return t + 6;
}

START_TEST(labels_are_scoped)
{
  check("mov.u32 %r4, %r10; mov.u32 %r1, 0;\n"
        "{ .reg .pred q; L: add.u32 %r4, %r4, 1; add.u32 %r1, %r1, 1; setp.lt.u32 q, %r1, 3; @q "
        "bra L; }\n"
        "mov.u32 %r1, 0;\n"
        "{ .reg .pred q; L: add.u32 %r4, %r4, 1; add.u32 %r1, %r1, 1; setp.lt.u32 q, %r1, 3; @q "
        "bra L; }\n",
        twice_counted);
}
END_TEST

/* ---- calls ---- */

static uint32_t called(uint32_t t)
{
  uint32_t factorial = 1;
  for (uint32_t k = 2; k <= t % 6; k++) {
    factorial *= k;
  }
  return t % 2 == 0 ? factorial : t;
}

START_TEST(functions_call_themselves)
{
  check_with(
      ".func (.param .b32 r) f(.param .b32 a, .param .b64 unused);\n"
      ".func (.param .b32 r) f(.param .b32 a, .param .b64 unused)\n"
      "{ .reg .pred %p<2>; .reg .b32 %r<5>; .local .align 4 .b32 kept;\n"
      "ld.param.b32 %r1, [a]; mov.u32 %r3, 1; setp.lt.u32 %p1, %r1, 2; @%p1 bra END;\n"
      "st.local.u32 [kept], %r1; sub.u32 %r2, %r1, 1;\n"
      "{ .param .b32 p0; .param .b64 p1; .param .b32 r0;\n"
      "st.param.b32 [p0], %r2; st.param.b64 [p1], 0;\n"
      "call.uni (r0), f, (p0, p1); ld.param.b32 %r4, [r0]; }\n"
      "ld.local.u32 %r1, [kept]; mul.lo.u32 %r3, %r4, %r1;\n"
      "END: st.param.b32 [r], %r3; ret; }\n",
      "rem.u32 %r1, %r10, 6; mov.u32 %r4, %r10; and.b32 %r2, %r10, 1; setp.eq.u32 %p1, %r2, 1;\n"
      "@%p1 bra SKIP;\n"
      "{ .param .b32 p0; .param .b64 p1; .param .b32 r0;\n"
      "st.param.b32 [p0], %r1; st.param.b64 [p1], 0;\n"
      "call (r0), f, (p0, p1); ld.param.b32 %r4, [r0]; }\n"
      "SKIP: bar.sync 0;",
      0, called);
}
END_TEST

/* ---- barriers ---- */

static uint32_t neighbour(uint32_t t)
{
  return 3 * ((t + 32) % THREADS);
}

static const char shared_array[] = ".extern .shared .align 16 .b8 s[];";

START_TEST(barriers_order_warps)
{
  check_with(
      shared_array,
      "shl.b32 %r1, %r10, 2; mov.u32 %r3, s; add.u32 %r2, %r3, %r1; mul.lo.u32 %r4, %r10, 3;\n"
      "st.shared.u32 [%r2], %r4; bar.sync 0;\n"
      "add.u32 %r1, %r10, 32; and.b32 %r1, %r1, 127; shl.b32 %r1, %r1, 2; add.u32 %r2, %r3, %r1;\n"
      "ld.shared.u32 %r4, [%r2]; bar.sync 0;",
      4 * THREADS, neighbour);
}
END_TEST

/* Warp 0 and 1 write, arrive and go on; 2 and 3 wait for them at a barrier of their own. */
static uint32_t passed_on(uint32_t t)
{
  return t < 64 ? t : t - 64 + 7;
}

START_TEST(barriers_of_some_warps)
{
  check_with(shared_array,
             "and.b32 %r1, %r10, 63; shl.b32 %r1, %r1, 2; mov.u32 %r3, s; add.u32 %r2, %r3, %r1;\n"
             "shr.u32 %r5, %r10, 5; and.b32 %r5, %r5, 1; add.u32 %r6, %r5, 1;\n"
             "setp.ge.u32 %p1, %r10, 64; @%p1 bra CONSUMER;\n"
             "add.u32 %r7, %r10, 7; st.shared.u32 [%r2], %r7; bar.arrive %r6, 64;\n"
             "mov.u32 %r4, %r10; bra DONE;\n"
             "CONSUMER: bar.sync %r6, 64; ld.shared.u32 %r4, [%r2];\n"
             "DONE: bar.sync 0;",
             4 * THREADS, passed_on);
}
END_TEST

static uint32_t reductions(uint32_t t)
{
  (void)t;
  return 30 + 1000 + 0;
}

START_TEST(barriers_reduce)
{
  check("setp.lt.u32 %p1, %r10, 30; bar.red.popc.u32 %r4, 0, %p1;\n"
        "bar.red.or.pred %p2, 0, %p1; @%p2 add.u32 %r4, %r4, 1000;\n"
        "barrier.cta.red.aligned.and.pred %p3, 1, 128, %p1; @%p3 add.u32 %r4, %r4, 1000;",
        reductions);
}
END_TEST

/* ---- warps ---- */

static uint32_t lane_of(uint32_t t)
{
  return t % 32;
}
static uint32_t butterfly(uint32_t t)
{
  return t ^ 5;
}
static uint32_t from_lane_3(uint32_t t)
{
  return t / 32 * 32 + 3;
}
static uint32_t up_4(uint32_t t)
{
  return lane_of(t) < 4 ? 1000 + t : t - 4;
}
static uint32_t down_4_of_8(uint32_t t)
{
  return t % 8 < 4 ? t + 4 : 1000 + t;
}
static uint32_t sum_of_lanes(uint32_t t)
{
  return 32 * (t / 32 * 32) + 31 * 16;
}

START_TEST(shuffles)
{
  check("shfl.sync.bfly.b32 %r4, %r10, 5, 31, -1;", butterfly);
  check("shfl.sync.idx.b32 %r4, %r10, 3, 31, -1;", from_lane_3);
  check("shfl.sync.up.b32 %r4|%p1, %r10, 4, 0, -1; @!%p1 add.u32 %r4, %r4, 1000;", up_4);
  check("shfl.sync.down.b32 %r4|%p1, %r10, 4, 0x181f, -1; @!%p1 add.u32 %r4, %r4, 1000;",
        down_4_of_8);
  check("mov.u32 %r4, %r10;\n"
        "shfl.sync.bfly.b32 %r1, %r4, 16, 31, -1; add.u32 %r4, %r4, %r1;\n"
        "shfl.sync.bfly.b32 %r1, %r4, 8, 31, -1; add.u32 %r4, %r4, %r1;\n"
        "shfl.sync.bfly.b32 %r1, %r4, 4, 31, -1; add.u32 %r4, %r4, %r1;\n"
        "shfl.sync.bfly.b32 %r1, %r4, 2, 31, -1; add.u32 %r4, %r4, %r1;\n"
        "shfl.sync.bfly.b32 %r1, %r4, 1, 31, -1; add.u32 %r4, %r4, %r1;",
        sum_of_lanes);
}
END_TEST

static uint32_t ballot(uint32_t t)
{
  return lane_of(t) % 2 == 0 ? 0x11111111 : 0;
}
static uint32_t votes(uint32_t t)
{
  return t < 32 ? 2 : 5;
}
static uint32_t same_remainder(uint32_t t)
{
  return UINT32_C(0x01010101) << (t % 8);
}
static uint32_t largest(uint32_t t)
{
  return t | 31;
}
static uint32_t smallest_signed(uint32_t t)
{
  (void)t;
  return (uint32_t)-31;
}

START_TEST(votes_and_reductions)
{
  check("and.b32 %r1, %r10, 1; setp.ne.u32 %p2, %r1, 0; mov.u32 %r4, 0; @%p2 bra DONE;\n"
        "and.b32 %r1, %r10, 3; setp.eq.u32 %p1, %r1, 0;\n"
        "vote.sync.ballot.b32 %r4, %p1, 0x55555555;\n"
        "DONE: bar.warp.sync -1;",
        ballot);
  check("setp.lt.u32 %p1, %r10, 20; setp.ge.u32 %p2, %r10, 32; mov.u32 %r4, 0;\n"
        "vote.sync.all.pred %p3, %p2, -1; @%p3 add.u32 %r4, %r4, 1;\n"
        "vote.sync.any.pred %p3, %p1, -1; @%p3 add.u32 %r4, %r4, 2;\n"
        "vote.sync.uni.pred %p3, !%p1, -1; @%p3 add.u32 %r4, %r4, 4;",
        votes);
  check("and.b32 %r1, %r10, 7; match.any.sync.b32 %r4, %r1, -1;", same_remainder);
  check("redux.sync.max.u32 %r4, %r10, -1;", largest);
  check("and.b32 %r2, %r10, 31; neg.s32 %r1, %r2; redux.sync.min.s32 %r4, %r1, -1;",
        smallest_signed);
}
END_TEST

static uint32_t registers_of_context(uint32_t t)
{
  return t % 16 + t / 16 % 4 * 100 + t / 64 * 1000 + lane_of(t) * 10000;
}

START_TEST(threads_know_their_place)
{
  const struct ptx_test_array out = ptx_test_array(THREADS * sizeof(uint32_t));
  const struct ptx_test_launch launch = {
      .body =
          "mov.u32 %r1, %tid.x; mov.u32 %r2, %tid.y; mov.u32 %r3, %tid.z; mov.u32 %r5, %laneid;\n"
          "mad.lo.u32 %r4, %r2, 100, %r1; mad.lo.u32 %r4, %r3, 1000, %r4;\n"
          "mad.lo.u32 %r4, %r5, 10000, %r4;\n"
          "mov.u32 %r6, %ntid.x; mov.u32 %r7, %ntid.y; mad.lo.u32 %r8, %r3, %r7, %r2;\n"
          "mad.lo.u32 %r8, %r8, %r6, %r1; mul.wide.u32 %d1, %r8, 4; add.s64 %d1, %d1, %d10;\n"
          "st.global.u32 [%d1], %r4;\n"
          "mov.u32 %r1, %nctaid.y; setp.ne.u32 %p1, %r1, 1; @%p1 trap;\n"
          "mov.u32 %r1, %lanemask_lt; popc.b32 %r1, %r1; setp.ne.u32 %p1, %r1, %r5; @%p1 trap;\n"
          "mov.u32 %r1, %warpid; shr.u32 %r2, %r8, 5; setp.ne.u32 %p1, %r1, %r2; @%p1 trap;",
      .params = {out.address}};
  struct ptx_module *module = ptx_test_load(&launch);
  const struct ptx_launch run = {.entry = ptx_module_entry(module, "k"),
                                 .grid = {1, 1, 1},
                                 .block = {16, 4, 2},
                                 .params = (const unsigned char *)launch.params};
  struct device_fault fault;
  struct device_counts counts;
  ck_assert_msg(ptx_run(&run, &fault, &counts), "%s", fault.text);
  ck_assert_uint_eq(counts.blocks, 1);
  ck_assert_uint_gt(counts.instructions, 4 * 20);
  for (uint32_t t = 0; t < THREADS; t++) {
    ck_assert_uint_eq(((const uint32_t *)out.data)[t], registers_of_context(t));
  }
  ptx_module_free(module);
}
END_TEST

START_TEST(every_block_runs_once)
{
  const struct ptx_test_array out = ptx_test_array(4 * 77);
  memset(out.data, 0, 4 * 77);
  const uint64_t params[4] = {out.address};
  struct ptx_module *module = ptx_test_load(&(struct ptx_test_launch){
      .body = "mov.u32 %r1, %ctaid.x; mov.u32 %r2, %ctaid.y; mad.lo.u32 %r1, %r2, 11, %r1;\n"
              "mul.wide.u32 %d1, %r1, 4; add.s64 %d1, %d10, %d1; setp.ne.u32 %p1, %r10, 0;\n"
              "@!%p1 red.global.add.u32 [%d1], 1;"});
  for (uint64_t seed = 1; seed <= SEEDS; seed++) {
    const struct ptx_launch run = {.entry = ptx_module_entry(module, "k"),
                                   .grid = {11, 7, 1},
                                   .block = {32, 1, 1},
                                   .params = (const unsigned char *)params,
                                   .seed = seed};
    struct device_fault fault;
    ck_assert_msg(ptx_run(&run, &fault, NULL), "%s", fault.text);
    for (uint32_t b = 0; b < 77; b++) {
      ck_assert_uint_eq(((const uint32_t *)out.data)[b], seed);
    }
  }
  ptx_module_free(module);
}
END_TEST

int main(void)
{
  Suite *suite = suite_create("PTX: control");
  TCase *tcase = tcase_create("control");
  tcase_add_test(tcase, nested_branches_reconverge);
  tcase_add_test(tcase, loops_end_at_different_times);
  tcase_add_test(tcase, loops_with_two_exits);
  tcase_add_loop_test(tcase, threads_leave_early, 0, 3);
  tcase_add_test(tcase, indexed_branches);
  tcase_add_test(tcase, labels_are_scoped);
  tcase_add_test(tcase, functions_call_themselves);
  tcase_add_test(tcase, barriers_order_warps);
  tcase_add_test(tcase, barriers_of_some_warps);
  tcase_add_test(tcase, barriers_reduce);
  tcase_add_test(tcase, shuffles);
  tcase_add_test(tcase, votes_and_reductions);
  tcase_add_test(tcase, threads_know_their_place);
  tcase_add_test(tcase, every_block_runs_once);
  suite_add_tcase(suite, tcase);
  return ptx_test_main(suite);
}
