/* Code made in parts, by several threads, and joined: one object that is the same however many
 * processors made it. */
#define _GNU_SOURCE /* sched_setaffinity */
#include "compiler/target/host/object.h"
#include "runtime/host_loader.h"
#include "tests/unit/assemble.h"
#include "tests/unit/build_programs.h"

#include <elf.h>
#include <sched.h>

/* ---- objects that are joined ---- */

/* Each calls the other, both have constants and need memset. */
static const char one[] =
    "@table = internal constant [3 x i64] [i64 10, i64 20, i64 30]\n"
    "declare ptr @memset(ptr, i32, i64)\n"
    "declare hidden i64 @helper(i64)\n"
    "define i64 @entry(i64 %n) {\n"
    "  %p = getelementptr [3 x i64], ptr @table, i64 0, i64 %n\n"
    "  %v = load i64, ptr %p\n"
    "  %h = call i64 @helper(i64 %v)\n"
    "  ret i64 %h\n}\n"
    "define hidden i64 @own(i64 %n) {\n  %r = mul i64 %n, 3\n  ret i64 %r\n}\n"
    "define void @clear(ptr %to) {\n"
    "  call ptr @memset(ptr %to, i32 0, i64 4)\n  ret void\n}\n";
static const char other[] = "@table = internal constant [3 x i64] [i64 1, i64 2, i64 3]\n"
                            "declare ptr @memset(ptr, i32, i64)\n"
                            "declare hidden i64 @own(i64)\n"
                            "define hidden i64 @helper(i64 %n) {\n"
                            "  %low = and i64 %n, 1\n"
                            "  %p = getelementptr [3 x i64], ptr @table, i64 0, i64 %low\n"
                            "  %v = load i64, ptr %p\n"
                            "  %o = call i64 @own(i64 %v)\n"
                            "  %r = add i64 %o, %n\n"
                            "  ret i64 %r\n}\n"
                            "define void @fill(ptr %to) {\n"
                            "  call ptr @memset(ptr %to, i32 7, i64 4)\n  ret void\n}\n";

static Elf64_Ehdr header_of(const unsigned char *bytes)
{
  Elf64_Ehdr header;
  memcpy(&header, bytes, sizeof(header));
  return header;
}

static Elf64_Shdr section_of(const unsigned char *bytes, uint32_t n)
{
  Elf64_Shdr section;
  memcpy(&section, bytes + header_of(bytes).e_shoff + n * sizeof(section), sizeof(section));
  return section;
}

struct counted {
  unsigned code_sections, global, local, undefined;
};

/* Counts functions, and checks that local symbols come before all others. */
static struct counted count(const unsigned char *bytes)
{
  struct counted found = {0};
  for (uint32_t n = 1; n < header_of(bytes).e_shnum; n++) {
    const Elf64_Shdr section = section_of(bytes, n);
    found.code_sections += (section.sh_flags & SHF_EXECINSTR) != 0;
    if (section.sh_type != SHT_SYMTAB)
      continue;
    for (size_t k = 1; k < section.sh_size / sizeof(Elf64_Sym); k++) {
      Elf64_Sym symbol;
      memcpy(&symbol, bytes + section.sh_offset + k * sizeof(symbol), sizeof(symbol));
      bool local = ELF64_ST_BIND(symbol.st_info) == STB_LOCAL;
      ck_assert_int_eq(local, k < section.sh_info);
      found.undefined += symbol.st_shndx == SHN_UNDEF;
      if (ELF64_ST_TYPE(symbol.st_info) != STT_FUNC)
        continue;
      found.local += local;
      found.global += !local;
    }
  }
  return found;
}

static struct host_code *load(const unsigned char *bytes, size_t size)
{
  char text[HOST_LOAD_ERROR_SIZE];
  struct host_code *code;
  ck_assert_msg(host_code_load(bytes, size, &code, text) == HOST_LOAD_OK, "%s", text);
  return code;
}

/* Joins two objects in an arena of its own. */
static enum compile_status join(struct object a, struct object b, unsigned char **joined,
                                size_t *size)
{
  struct arena arena;
  arena_init(&arena);
  if (arena_guard(&arena)) {
    arena_free(&arena);
    return COMPILE_OUT_OF_MEMORY;
  }
  const struct host_object objects[] = {{a.bytes, a.size}, {b.bytes, b.size}};
  const char *error = NULL;
  enum compile_status status = host_join_objects(&arena, objects, 2, joined, size, &error);
  ck_assert((error != NULL) == (status == COMPILE_FAILED));
  arena_free(&arena);
  return status;
}

START_TEST(joined_objects_call_each_other)
{
  struct object a = assemble(one, x86), b = assemble(other, x86);
  unsigned char *bytes;
  size_t size;
  ck_assert_int_eq(join(a, b, &bytes, &size), COMPILE_OK);
  free(a.bytes);
  free(b.bytes);
  struct counted found = count(bytes);
  ck_assert_uint_eq(found.code_sections, 2);
  ck_assert_uint_eq(found.global, 3);    /* entry, clear, fill */
  ck_assert_uint_eq(found.local, 2);     /* own, helper */
  ck_assert_uint_eq(found.undefined, 1); /* memset */

  struct host_code *code = load(bytes, size);
  mem_free(bytes);
  int64_t (*entry)(int64_t);
  void (*clear)(char *), (*fill)(char *);
  *(void **)&entry = host_code_symbol(code, "entry");
  *(void **)&clear = host_code_symbol(code, "clear");
  *(void **)&fill = host_code_symbol(code, "fill");
  ck_assert_ptr_null(host_code_symbol(code, "helper"));
  ck_assert_int_eq(entry(0), 10 + 3 * 1);
  ck_assert_int_eq(entry(2), 30 + 3 * 1);
  char text[8] = "abcdefg";
  fill(text);
  ck_assert_int_eq(memcmp(text, "\7\7\7\7efg", 8), 0);
  clear(text);
  ck_assert_int_eq(memcmp(text, "\0\0\0\0efg", 8), 0);
  host_code_free(code);
}
END_TEST

START_TEST(damaged_objects_are_refused)
{
  struct object whole = assemble(one, x86), b = assemble(other, x86);
  unsigned char *bytes;
  size_t size;
  unsigned refused = 0;
  for (size_t cut = 0; cut < whole.size; cut += 3) {
    struct object part = {malloc(cut == 0 ? 1 : cut), cut}; /* the sanitizer knows its end */
    ck_assert_ptr_nonnull(part.bytes);
    memcpy(part.bytes, whole.bytes, cut);
    ck_assert_int_eq(join(b, part, &bytes, &size), COMPILE_FAILED);
    free(part.bytes);
  }
  for (size_t at = 0; at < whole.size; at++) {
    whole.bytes[at] ^= 0xff;
    if (join(whole, b, &bytes, &size) == COMPILE_OK)
      mem_free(bytes);
    else
      refused++;
    whole.bytes[at] ^= 0xff;
  }
  ck_assert_uint_gt(refused, 20);
  free(whole.bytes);
  free(b.bytes);
}
END_TEST

/* ---- code of specs ---- */

static const char large[] = "attention large {\n  heads q = 4, kv = 2\n  dim 32\n"
                            "  position rope\n  mask 0 <= i - j < 100\n}\n";

static void build(struct run *run)
{
  ck_assert(build_text(run, large, false));
  ck_assert_msg(run->compiled != NULL, "%s", diagnostics_print(&run->diagnostics, false));
}

static enum compile_status emit(struct run *run)
{
  const char *error = NULL;
  return compile_emit(&run->arena, run->compiled, COMPILE_OBJECT, NULL, &error);
}

/* The object and what of the kernels the launcher must know. */
START_TEST(code_is_the_same_on_one_processor)
{
  cpu_set_t all, single;
  ck_assert_int_eq(sched_getaffinity(0, sizeof(all), &all), 0);
  CPU_ZERO(&single);
  for (size_t n = 0; CPU_COUNT(&single) == 0; n++)
    if (CPU_ISSET(n, &all))
      CPU_SET(n, &single);
  struct run runs[3];
  for (unsigned n = 0; n < 3; n++) {
    build(&runs[n]);
    ck_assert_int_eq(sched_setaffinity(0, sizeof(all), n == 1 ? &single : &all), 0);
    ck_assert_int_eq(emit(&runs[n]), COMPILE_OK);
    ck_assert_int_eq(sched_setaffinity(0, sizeof(all), &all), 0);
  }
  const struct compiled *first = runs[0].compiled;
  struct counted found = count(first->code);
  ck_assert_uint_eq(found.code_sections, 2);
  ck_assert_uint_eq(found.global, 2 * (unsigned)first->kernels.count);
  ck_assert_uint_gt(found.local, 0);
  ck_assert_uint_eq(found.undefined, 0);
  host_code_free(load(first->code, first->code_size));
  for (unsigned n = 1; n < 3; n++) {
    const struct compiled *again = runs[n].compiled;
    ck_assert_uint_eq(again->code_size, first->code_size);
    ck_assert_int_eq(memcmp(again->code, first->code, first->code_size), 0);
    for (size_t k = 0; k < first->kernels.count; k++)
      ck_assert_uint_eq(again->kernels.items[k].scratch_bytes,
                        first->kernels.items[k].scratch_bytes);
  }
  for (unsigned n = 0; n < 3; n++) {
    mem_free(runs[n].compiled->code);
    arena_free(&runs[n].arena);
  }
}
END_TEST

START_TEST(every_thread_may_run_out_of_memory)
{
  const int64_t live = mem_live_count();
  enum compile_status status = COMPILE_OUT_OF_MEMORY;
  for (uint64_t n = 1; status != COMPILE_OK; n++) {
    struct run run;
    build(&run);
    mem_fail_at(n);
    status = emit(&run);
    mem_fail_at(0);
    ck_assert(status == COMPILE_OK || status == COMPILE_OUT_OF_MEMORY);
    ck_assert((run.compiled->code != NULL) == (status == COMPILE_OK));
    mem_free(run.compiled->code);
    arena_free(&run.arena);
    ck_assert_int_eq(mem_live_count(), live);
  }
}
END_TEST

int main(void)
{
  assemble_open();
  Suite *suite = suite_create("host_object");
  TCase *tests = tcase_create("host_object");
  tcase_set_timeout(tests, 120);
  tcase_add_test(tests, joined_objects_call_each_other);
  tcase_add_test(tests, damaged_objects_are_refused);
  tcase_add_test(tests, code_is_the_same_on_one_processor);
  tcase_add_test(tests, every_thread_may_run_out_of_memory);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
