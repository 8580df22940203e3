/* Small kernels for the tests of the PTX interpreter.
 *
 * A body runs in an entry with four 64-bit parameters, already in %d10 to %d13, the thread's number
 * in %r10 and, as 64 bits, in %d14, and has the registers %p0-31, %h0-31, %r0-63, %d0-31.
 */
#ifndef ATTN_TESTS_DEVICE_PTX_TEST_H
#define ATTN_TESTS_DEVICE_PTX_TEST_H

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/device/device.h"

#define PTX_TEST_HEADER ".version 7.4\n.target sm_80\n.address_size 64\n"

struct ptx_test_launch {
  const char *globals; /* declarations of the module, or NULL */
  const char *body;
  uint32_t blocks, threads, shared;
  uint64_t params[4];
  uint64_t seed;
};

static inline struct ptx_module *ptx_test_load(const struct ptx_test_launch *launch)
{
  const char *globals = launch->globals == NULL ? "" : launch->globals;
  const size_t size = strlen(launch->body) + strlen(globals) + 2000;
  char *text = malloc(size);
  ck_assert_ptr_nonnull(text);
  snprintf(text, size,
           PTX_TEST_HEADER
           "%s\n"
           ".visible .entry k(.param .u64 k0, .param .u64 k1, .param .u64 k2, .param .u64 k3)\n"
           "{ .reg .pred %%p<32>; .reg .b16 %%h<32>; .reg .b32 %%r<64>; .reg .b64 %%d<32>;\n"
           "ld.param.u64 %%d10, [k0]; ld.param.u64 %%d11, [k1];\n"
           "ld.param.u64 %%d12, [k2]; ld.param.u64 %%d13, [k3];\n"
           "mov.u32 %%r10, %%tid.x; cvt.u64.u32 %%d14, %%r10;\n"
           "%s\nret; }\n",
           globals, launch->body);
  char log[600] = "";
  struct ptx_module *module = ptx_module_load(text, log, sizeof(log));
  ck_assert_msg(module != NULL, "%s\n%s", log, text);
  free(text);
  return module;
}

static inline bool ptx_test_try(const struct ptx_test_launch *launch, struct device_fault *fault)
{
  struct ptx_module *module = ptx_test_load(launch);
  const struct ptx_launch run = {.entry = ptx_module_entry(module, "k"),
                                 .grid = {launch->blocks == 0 ? 1 : launch->blocks, 1, 1},
                                 .block = {launch->threads == 0 ? 32 : launch->threads, 1, 1},
                                 .dynamic_shared = launch->shared,
                                 .params = (const unsigned char *)launch->params,
                                 .seed = launch->seed};
  const bool good = ptx_run(&run, fault, NULL);
  ck_assert_int_eq(good, fault->kind == DEVICE_OK);
  ptx_module_free(module);
  return good;
}

static inline void ptx_test_run(const struct ptx_test_launch *launch)
{
  struct device_fault fault;
  ck_assert_msg(ptx_test_try(launch, &fault), "line %u, thread %u: %s", fault.line, fault.thread,
                fault.text);
}

/* Device memory and the host's view of it. */
struct ptx_test_array {
  uint64_t address;
  void *data;
};

static inline struct ptx_test_array ptx_test_array(size_t bytes)
{
  struct ptx_test_array array = {.address = device_allocate(bytes)};
  ck_assert(array.address != 0);
  array.data = device_translate(array.address, bytes);
  ck_assert_ptr_nonnull(array.data);
  return array;
}

static inline uint64_t ptx_test_random(uint64_t *state)
{
  *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
  return *state ^ *state >> 29;
}

/* ---- one instruction over many operands ---- */

enum { PTX_TEST_OPERANDS = 2048 };

/* The instruction reads a, b, c from register 1, 2, 3 of any width (%h1, %r1, %d1 are the same
 * number's low bits), a predicate %p1 that is bit 0 of c, and leaves its result in register 4 of
 * `bits` bits or in %p4 (bits 1). Every result has to be expected(a, b, c). */
static inline void ptx_test_instruction(const char *instruction, unsigned bits,
                                        const uint64_t (*operands)[3], uint32_t count,
                                        uint64_t (*expected)(uint64_t a, uint64_t b, uint64_t c))
{
  char body[2000];
  snprintf(body, sizeof(body),
           "mov.u32 %%r11, %%ctaid.x; mad.lo.s32 %%r12, %%r11, 128, %%r10;\n"
           "cvt.u64.u32 %%d20, %%r12; mad.lo.s64 %%d21, %%d20, 24, %%d10;\n"
           "ld.global.u64 %%d1, [%%d21]; ld.global.u64 %%d2, [%%d21+8]; ld.global.u64 %%d3, "
           "[%%d21+16];\n"
           "cvt.u32.u64 %%r1, %%d1; cvt.u32.u64 %%r2, %%d2; cvt.u32.u64 %%r3, %%d3;\n"
           "cvt.u16.u64 %%h1, %%d1; cvt.u16.u64 %%h2, %%d2; cvt.u16.u64 %%h3, %%d3;\n"
           "and.b64 %%d22, %%d3, 1; setp.ne.s64 %%p1, %%d22, 0;\n"
           "%s\n%s\n"
           "shl.b64 %%d23, %%d20, 3; add.s64 %%d24, %%d11, %%d23; st.global.u64 [%%d24], %%d4;",
           instruction,
           bits == 64   ? ""
           : bits == 32 ? "cvt.u64.u32 %d4, %r4;"
           : bits == 16 ? "cvt.u64.u16 %d4, %h4;"
                        : "selp.b64 %d4, 1, 0, %p4;");
  ck_assert_uint_eq(count % 128, 0);
  const struct ptx_test_array in = ptx_test_array(count * sizeof(operands[0]));
  const struct ptx_test_array out = ptx_test_array(count * sizeof(uint64_t));
  memcpy(in.data, operands, count * sizeof(operands[0]));
  ptx_test_run(&(struct ptx_test_launch){
      .body = body, .blocks = count / 128, .threads = 128, .params = {in.address, out.address}});
  const uint64_t *results = out.data;
  for (uint32_t k = 0; k < count; k++) {
    const uint64_t *o = operands[k];
    const uint64_t want = expected(o[0], o[1], o[2]);
    ck_assert_msg(results[k] == want, "%s of 0x%llx, 0x%llx, 0x%llx: 0x%llx instead of 0x%llx",
                  instruction, (unsigned long long)o[0], (unsigned long long)o[1],
                  (unsigned long long)o[2], (unsigned long long)results[k],
                  (unsigned long long)want);
  }
  ck_assert(device_free(in.address));
  ck_assert(device_free(out.address));
}

static inline int ptx_test_main(Suite *suite)
{
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  const int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

#endif
