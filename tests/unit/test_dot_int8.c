/* The dot product of bytes as the instruction of each kind of processor that has one: what the
 * numeric tests run is that of the processor at hand. */
#include "compiler/target/host/dot_int8.h"

#include <check.h>
#include <string.h>

static const struct {
  const char *cpu, *features;
  unsigned lanes;
  const char *instruction;
} rows[] = {
    {"x86-64-v3", "+avxvnni", 8, "{vex}\tvpdpbusd\t%ymm"},
    {"x86-64-v3", "+avxvnni", 4, "{vex}\tvpdpbusd\t%xmm"},
    {"x86-64-v4", "+avx512vnni", 16, "\tvpdpbusd\t%zmm"},
    {"x86-64-v4", "+avx512vnni", 8, "\tvpdpbusd\t%ymm"},
};

/* Assembly of a function that adds one product of digits and codes. */
static const char *assembly(struct arena *arena, size_t n)
{
  struct host h = {0};
  struct emit *e = &h.e;
  emit_open(e, arena, "dot", rows[n].lanes);
  LLVMTypeRef sums = emit_vector_type(e, e->i32);
  LLVMTypeRef parameters[3] = {sums, sums, sums};
  emit_function(e, "dot", LLVMFunctionType(sums, parameters, 3, false), true);
  LLVMBuildRet(e->builder,
               dot_int8_add(&h, LLVMGetParam(e->function, 0), LLVMGetParam(e->function, 1),
                            LLVMGetParam(e->function, 2)));
  const char *triple = "x86_64-unknown-linux-gnu";
  LLVMTargetRef target;
  char *message = NULL;
  ck_assert_msg(LLVMGetTargetFromTriple(triple, &target, &message) == 0, "%s", message);
  LLVMTargetMachineRef machine =
      LLVMCreateTargetMachine(target, triple, rows[n].cpu, rows[n].features, LLVMCodeGenLevelLess,
                              LLVMRelocPIC, LLVMCodeModelSmall);
  LLVMMemoryBufferRef buffer;
  ck_assert_msg(LLVMTargetMachineEmitToMemoryBuffer(machine, e->module, LLVMAssemblyFile, &message,
                                                    &buffer) == 0,
                "%s", message);
  const char *text = arena_strndup(arena, LLVMGetBufferStart(buffer), LLVMGetBufferSize(buffer));
  LLVMDisposeMemoryBuffer(buffer);
  LLVMDisposeTargetMachine(machine);
  emit_close(e);
  return text;
}

START_TEST(instructions)
{
  struct arena arena;
  arena_init(&arena);
  ck_assert(!arena_guard(&arena));
  const char *text = assembly(&arena, (size_t)_i);
  ck_assert_msg(strstr(text, rows[_i].instruction) != NULL, "no '%s' in\n%s", rows[_i].instruction,
                text);
  ck_assert_msg(strstr(text, "call") == NULL, "%s", text);
  arena_free(&arena);
}
END_TEST

int main(void)
{
  if (llvm_api_load() != NULL)
    return 1;
  Suite *suite = suite_create("dot_int8");
  TCase *tests = tcase_create("dot_int8");
#ifdef __x86_64__ /* whose code generator was made ready */
  tcase_add_loop_test(tests, instructions, 0, sizeof(rows) / sizeof(*rows));
#else
  (void)instructions;
#endif
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? 0 : 1;
}
