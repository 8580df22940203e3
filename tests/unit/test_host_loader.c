/* The loader of object code: what it links, and that no damaged object makes it stray. */
#include "runtime/host_loader.h"

#include "dsl/base/memory.h"
#include "tests/unit/assemble.h"

#include <elf.h>
#include <stdint.h>
#include <stdio.h>

static char error[HOST_LOAD_ERROR_SIZE];

/* Read-only data by relative address, a table of addresses, a local call, calls of and the address
 * of library functions. */
static const char program[] =
    "@squares = internal constant [5 x i64] [i64 0, i64 1, i64 4, i64 9, i64 16]\n"
    "@choices = internal constant [2 x ptr] [ptr @first, ptr @second]\n"
    "declare ptr @memcpy(ptr, ptr, i64)\n"
    "declare ptr @memmove(ptr, ptr, i64)\n"
    "declare ptr @memset(ptr, i32, i64)\n"
    "define i64 @square(i64 %n) {\n"
    "  %p = getelementptr [5 x i64], ptr @squares, i64 0, i64 %n\n"
    "  %v = load i64, ptr %p\n"
    "  ret i64 %v\n}\n"
    "define double @half(double %x) {\n"
    "  %y = fmul double %x, 5.0e-1\n"
    "  ret double %y\n}\n"
    "define internal i64 @first(i64 %n) noinline {\n  %r = add i64 %n, 100\n  ret i64 %r\n}\n"
    "define internal i64 @second(i64 %n) noinline {\n  %r = add i64 %n, 200\n  ret i64 %r\n}\n"
    "define i64 @choose(i64 %which, i64 %n) {\n"
    "  %p = getelementptr [2 x ptr], ptr @choices, i64 0, i64 %which\n"
    "  %f = load ptr, ptr %p\n"
    "  %r = call i64 %f(i64 %n)\n"
    "  ret i64 %r\n}\n"
    "define void @move(ptr %to, ptr %from, i64 %n) {\n"
    "  call ptr @memset(ptr %to, i32 7, i64 8)\n"
    "  call ptr @memcpy(ptr %to, ptr %from, i64 %n)\n"
    "  ret void\n}\n"
    "define ptr @address() {\n  ret ptr @memmove\n}\n";

static struct host_code *load(struct object object)
{
  struct host_code *code;
  enum host_load_status status = host_code_load(object.bytes, object.size, &code, error);
  ck_assert_msg(status == HOST_LOAD_OK, "%s", error);
  return code;
}

START_TEST(code_runs_after_loading)
{
  struct object object = assemble(program, x86);
  struct host_code *code = load(object);
  free(object.bytes); /* the code does not need it any more */

  int64_t (*square)(int64_t);
  double (*half)(double);
  int64_t (*choose)(int64_t, int64_t);
  void (*move)(void *, const void *, int64_t);
  void *(*address)(void);
  *(void **)&square = host_code_symbol(code, "square");
  *(void **)&half = host_code_symbol(code, "half");
  *(void **)&choose = host_code_symbol(code, "choose");
  *(void **)&move = host_code_symbol(code, "move");
  *(void **)&address = host_code_symbol(code, "address");
  ck_assert_ptr_null(host_code_symbol(code, "first")); /* not exported */
  ck_assert_ptr_null(host_code_symbol(code, "memcpy"));
  ck_assert_ptr_null(host_code_symbol(code, ""));
  ck_assert_uint_gt(host_code_size(code), 0);

  for (int64_t n = 0; n < 5; n++)
    ck_assert_int_eq(square(n), n * n);
  ck_assert(half(3.0) == 1.5);
  ck_assert_int_eq(choose(0, 5), 105);
  ck_assert_int_eq(choose(1, 5), 205);
  char text[16] = "";
  move(text, "abc", 3);
  ck_assert_int_eq(memcmp(text, "abc\7\7\7\7\7", 9), 0);
  ck_assert_ptr_eq(address(), (void *)(uintptr_t)memmove);
  host_code_free(code);
}
END_TEST

/* The permissions that /proc/self/maps lists for an address. */
static void permissions_of(const void *address, char out[5])
{
  FILE *maps = fopen("/proc/self/maps", "r");
  ck_assert_ptr_nonnull(maps);
  unsigned long from, to;
  char line[512];
  out[0] = '\0';
  while (fgets(line, sizeof(line), maps) != NULL) {
    char flags[5];
    if (sscanf(line, "%lx-%lx %4s", &from, &to, flags) == 3 && (uintptr_t)address >= from &&
        (uintptr_t)address < to)
      memcpy(out, flags, sizeof(flags));
  }
  fclose(maps);
}

START_TEST(code_is_never_writable)
{
  struct object object = assemble(program, x86);
  struct host_code *code = load(object);
  char flags[5];
  unsigned char *function = host_code_symbol(code, "square");
  permissions_of(function, flags);
  ck_assert_str_eq(flags, "r-xp");
  permissions_of(function - (uintptr_t)function % 4096 + host_code_size(code) - 1, flags);
  ck_assert_str_eq(flags, "r--p");
  host_code_free(code);
  free(object.bytes);
}
END_TEST

static void refuse(struct object object, enum host_load_status expected, const char *text)
{
  struct host_code *code;
  enum host_load_status status = host_code_load(object.bytes, object.size, &code, error);
  ck_assert_msg(status == expected, "status %d, \"%s\" instead of \"%s\"", (int)status, error,
                text);
  ck_assert_ptr_null(code);
  ck_assert_msg(strstr(error, text) != NULL, "\"%s\" does not say \"%s\"", error, text);
}

START_TEST(what_cannot_be_linked_is_named)
{
  struct object object =
      assemble("declare void @system(ptr)\n"
               "define void @f(ptr %p) {\n  call void @system(ptr %p)\n  ret void\n}\n",
               x86);
  refuse(object, HOST_LOAD_INVALID, "needs 'system'");
  free(object.bytes);
  object = assemble("@state = global i64 1\n"
                    "define i64 @f() {\n  %v = load i64, ptr @state\n  ret i64 %v\n}\n",
                    x86);
  refuse(object, HOST_LOAD_INVALID, "writable");
  free(object.bytes);
  object = assemble("@state = thread_local global i64 1\n"
                    "define i64 @f() {\n  %v = load i64, ptr @state\n  ret i64 %v\n}\n",
                    x86);
  struct host_code *code;
  ck_assert(host_code_load(object.bytes, object.size, &code, error) == HOST_LOAD_INVALID);
  free(object.bytes);
  object = assemble("@only = constant i64 1\n", x86);
  refuse(object, HOST_LOAD_INVALID, "no code");
  free(object.bytes);
}
END_TEST

START_TEST(other_machines_and_files_are_refused)
{
  struct object object = assemble(program, x86);
  uint16_t machine = EM_AARCH64, type = ET_EXEC;
  Elf64_Ehdr header;
  memcpy(&header, object.bytes, sizeof(header));

  memcpy(object.bytes + offsetof(Elf64_Ehdr, e_machine), &machine, sizeof(machine));
  refuse(object, HOST_LOAD_UNSUPPORTED, "unsupported machine");
  memcpy(object.bytes, &header, sizeof(header));
  memcpy(object.bytes + offsetof(Elf64_Ehdr, e_type), &type, sizeof(type));
  refuse(object, HOST_LOAD_INVALID, "not a relocatable");
  memcpy(object.bytes, &header, sizeof(header));
  object.bytes[EI_CLASS] = ELFCLASS32;
  refuse(object, HOST_LOAD_UNSUPPORTED, "not 64-bit");
  object.bytes[0] = 'M';
  refuse(object, HOST_LOAD_INVALID, "not in ELF");
  refuse((struct object){object.bytes, 10}, HOST_LOAD_INVALID, "shorter");
  refuse((struct object){object.bytes, 0}, HOST_LOAD_INVALID, "shorter");
  free(object.bytes);
}
END_TEST

/* Whatever the bytes are, loading ends in success or an error; a sanitizer sees stray accesses.
 * Each variant has a block of its own size, so that reading past its end is seen. */
static unsigned try(const struct object *object, size_t size, size_t at, unsigned char value)
{
  unsigned char *copy = malloc(size == 0 ? 1 : size);
  ck_assert_ptr_nonnull(copy);
  memcpy(copy, object->bytes, size);
  if (at < size)
    copy[at] = value;
  struct host_code *code;
  enum host_load_status status = host_code_load(copy, size, &code, error);
  ck_assert(status == HOST_LOAD_OK ? code != NULL : code == NULL && error[0] != '\0');
  host_code_free(code);
  free(copy);
  return status == HOST_LOAD_OK;
}

START_TEST(damaged_objects_never_make_it_stray)
{
  struct object object = assemble(program, x86);
  int64_t live = mem_live_count();
  unsigned loaded = 0;
  for (size_t at = 0; at < object.size; at++) {
    loaded += try(&object, object.size, at, (unsigned char)~object.bytes[at]);
    loaded += try(&object, object.size, at, 0xff);
    loaded += try(&object, object.size, at, (unsigned char)(object.bytes[at] ^ 1 << at % 8));
  }
  for (size_t size = 0; size < object.size; size++)
    ck_assert(!try(&object, size, SIZE_MAX, 0)); /* the section table stands at the end */
  ck_assert_uint_lt(loaded, 3 * object.size);
  ck_assert_int_eq(mem_live_count(), live);
  free(object.bytes);
}
END_TEST

/* Every 64-bit field set to values that overflow when something is added or multiplied. */
START_TEST(huge_fields_do_not_overflow)
{
  static const uint64_t values[] = {UINT64_MAX, UINT64_MAX / 2, UINT64_C(1) << 63,
                                    UINT64_C(1) << 32, 0xfffffff0};
  struct object object = assemble(program, x86);
  for (size_t at = 0; at + 8 <= object.size; at += 8) {
    for (size_t n = 0; n < sizeof(values) / sizeof(values[0]); n++) {
      uint64_t before;
      memcpy(&before, object.bytes + at, 8);
      memcpy(object.bytes + at, &values[n], 8);
      try(&object, object.size, SIZE_MAX, 0);
      memcpy(object.bytes + at, &before, 8);
    }
  }
  free(object.bytes);
}
END_TEST

START_TEST(running_out_of_memory_is_an_error)
{
  struct object object = assemble(program, x86);
  int64_t live = mem_live_count();
  struct host_code *code = NULL;
  for (uint64_t n = 1; code == NULL; n++) {
    ck_assert_uint_lt(n, 100);
    mem_fail_at(n);
    enum host_load_status status = host_code_load(object.bytes, object.size, &code, error);
    mem_fail_at(0);
    ck_assert(code != NULL ? status == HOST_LOAD_OK : status == HOST_LOAD_NO_MEMORY);
    if (code == NULL)
      ck_assert_int_eq(mem_live_count(), live);
  }
  host_code_free(code);
  ck_assert_int_eq(mem_live_count(), live);
  free(object.bytes);
}
END_TEST

int main(void)
{
  assemble_open();
  Suite *suite = suite_create("host_loader");
  TCase *tests = tcase_create("host_loader");
  tcase_add_test(tests, code_runs_after_loading);
  tcase_add_test(tests, code_is_never_writable);
  tcase_add_test(tests, what_cannot_be_linked_is_named);
  tcase_add_test(tests, other_machines_and_files_are_refused);
  tcase_add_test(tests, damaged_objects_never_make_it_stray);
  tcase_add_test(tests, huge_fields_do_not_overflow);
  tcase_add_test(tests, running_out_of_memory_is_an_error);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
