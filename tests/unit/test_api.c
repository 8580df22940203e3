/* libattn from outside: contexts, compiling, sharing code, running out of memory. */
#include "dsl/base/memory.h"
#include "tests/unit/api_problem.h"

#include <stdio.h>
#include <unistd.h>

/* ---- contexts ---- */

static void context_fails(const char *device, unsigned threads, attn_status status,
                          const char *text)
{
  attn_context_options options = ATTN_CONTEXT_OPTIONS_INIT;
  options.device = device;
  options.threads = threads;
  options.error = message;
  options.error_size = sizeof(message);
  attn_context *context;
  ck_assert_int_eq(attn_context_create(&options, &context), status);
  ck_assert_ptr_null(context);
  ck_assert_str_eq(message, text);
}

START_TEST(contexts)
{
  int major, minor, patch;
  ck_assert_int_eq(sscanf(attn_version(), "%d.%d.%d", &major, &minor, &patch), 3);
  ck_assert_str_eq(attn_status_text(ATTN_ERROR_OUT_OF_MEMORY), "out of memory");
  ck_assert_str_eq(attn_status_text((attn_status)99), "unknown status");
  context_fails("cuda:zero", 0, ATTN_ERROR_ARGUMENT,
                "unknown device 'cuda:zero'; use \"cpu\", or \"cuda:0\", \"cuda:1\", ...");
  context_fails("tpu", 0, ATTN_ERROR_ARGUMENT,
                "unknown device 'tpu'; use \"cpu\", or \"cuda:0\", \"cuda:1\", ...");
  context_fails("cpu", 5000, ATTN_ERROR_ARGUMENT, "5000 threads are asked for; the most is 1024");
  setenv("ATTN_NUM_THREADS", "many", 1);
  context_fails("cpu", 0, ATTN_ERROR_ARGUMENT,
                "ATTN_NUM_THREADS is 'many'; it must be a number from 1 to 1024");
  setenv("ATTN_NUM_THREADS", "3", 1);
  attn_context *context = context_with(0);
  ck_assert_uint_eq(attn_context_threads(context), 3);
  attn_context_free(context);
  unsetenv("ATTN_NUM_THREADS");
  ck_assert_int_eq(attn_context_create(NULL, NULL), ATTN_ERROR_ARGUMENT);
  ck_assert_int_eq(attn_context_create(NULL, &context), ATTN_OK);
  char buffer[4] = "xyz";
  ck_assert_uint_eq(attn_context_error(context, buffer, sizeof(buffer)), 0);
  ck_assert_str_eq(buffer, "");
  attn_program *program;
  ck_assert_int_eq(attn_compile(context, NULL, 0, NULL, NULL, &program), ATTN_ERROR_ARGUMENT);
  ck_assert_uint_eq(attn_context_error(context, buffer, sizeof(buffer)),
                    strlen("the source text is NULL"));
  ck_assert_str_eq(buffer, "the");
  attn_context_free(context);
  attn_context_free(NULL);
  attn_program_free(NULL);
}
END_TEST

/* ---- compiling ---- */

static void compile_fails(attn_context *context, const char *text,
                          const attn_compile_options *given, attn_status status, const char *part)
{
  attn_compile_options options = *given;
  options.error = message;
  options.error_size = sizeof(message);
  attn_program *program;
  ck_assert_int_eq(attn_compile(context, text, strlen(text), "t.attn", &options, &program), status);
  ck_assert_ptr_null(program);
  ck_assert_msg(strstr(message, part) != NULL, "\"%s\" does not say \"%s\"", message, part);
  char again[sizeof(message)];
  attn_context_error(context, again, sizeof(again));
  ck_assert_str_eq(again, message);
}

START_TEST(specs_with_errors)
{
  static const char two[] =
      "attention one {\n heads 1\n dim 4\n}\nattention two {\n heads 1\n dim 4\n}\n";
  attn_context *context = context_with(1);
  attn_compile_options options = ATTN_COMPILE_OPTIONS_INIT;
  compile_fails(context, "attention t {\n  heads 1\n  dim 4\n  mask i < widht\n}\n", &options,
                ATTN_ERROR_SPEC, "t.attn:4:12: error[E0201]");
  compile_fails(context, "", &options, ATTN_ERROR_SPEC, "t.attn: holds no attention");
  compile_fails(context, two, &options, ATTN_ERROR_ARGUMENT,
                "t.attn holds 2 attentions: one, two; name one of them");
  options.attention = "tow";
  compile_fails(context, two, &options, ATTN_ERROR_ARGUMENT,
                "t.attn holds no attention 'tow'; did you mean 'two'?");
  options.attention = NULL;
  options.type = ATTN_TYPE_F16;
  compile_fails(context, faulty, &options, ATTN_ERROR_ARGUMENT,
                "type is f16, but 'looked_up' says type f32");
  options.type = ATTN_TYPE_I32;
  compile_fails(context, full, &options, ATTN_ERROR_ARGUMENT,
                "type is i32; q, k and v are f32, f16 or bf16");
  options.type = ATTN_TYPE_ANY;
  options.set_count = 1;
  compile_fails(context, full, &options, ATTN_ERROR_ARGUMENT, "sets is NULL");
  attn_setting set = {"widht", "3"};
  options.sets = &set;
  compile_fails(context, full, &options, ATTN_ERROR_SPEC, "E0209");
  options.size = 3;
  attn_program *program;
  ck_assert_int_eq(attn_compile(context, full, strlen(full), NULL, &options, &program),
                   ATTN_ERROR_ARGUMENT);
  ck_assert_int_eq(attn_compile_file(context, "/no/such/file.attn", NULL, &program), ATTN_ERROR_IO);
  attn_context_error(context, message, sizeof(message));
  ck_assert_str_eq(message, "/no/such/file.attn: No such file or directory");
  attn_context_free(context);
}
END_TEST

START_TEST(diagnostics_are_handed_out)
{
  attn_context *context = context_with(1);
  attn_compile_options options = ATTN_COMPILE_OPTIONS_INIT;
  char *text;
  options.diagnostics = &text;
  options.diagnostics_format = ATTN_DIAGNOSTICS_JSON;
  static const char wrong[] = "attention t {\n  heads 1\n  dim 4\n  mask i < widht\n}\n";
  attn_program *program;
  ck_assert_int_eq(attn_compile(context, wrong, strlen(wrong), "t.attn", &options, &program),
                   ATTN_ERROR_SPEC);
  ck_assert_ptr_nonnull(text);
  ck_assert_ptr_nonnull(strstr(text, "\"E0201\""));
  attn_text_free(text);
  static const char warned[] = "attention t {\n  heads 1\n  dim 4\n  mask true\n}\n";
  options.diagnostics_format = ATTN_DIAGNOSTICS_TEXT;
  ck_assert_int_eq(attn_compile(context, warned, strlen(warned), "t.attn", &options, &program),
                   ATTN_OK);
  ck_assert_ptr_nonnull(text);
  ck_assert_ptr_nonnull(strstr(text, "W0001"));
  attn_text_free(text);
  attn_program_free(program);
  ck_assert_int_eq(attn_compile(context, full, strlen(full), "t.attn", &options, &program),
                   ATTN_OK);
  ck_assert_ptr_null(text);
  attn_program_free(program);
  attn_context_free(context);
}
END_TEST

static unsigned imports_read;
static char *read_import(void *user, const char *from, const char *path, size_t *length)
{
  ck_assert_str_eq(from, "t.attn");
  if (strcmp(path, "mine.attn") != 0)
    return NULL;
  imports_read++;
  *length = strlen(user);
  return strdup(user);
}

START_TEST(imports)
{
  static const char text[] =
      "import \"mine.attn\"\nattention t {\n  heads 1\n  dim 4\n  scale mine\n}\n";
  attn_context *context = context_with(1);
  attn_compile_options options = ATTN_COMPILE_OPTIONS_INIT;
  compile_fails(context, text, &options, ATTN_ERROR_SPEC, "E0207");
  options.read_import = read_import;
  options.user = "fn mine = 0.5\n";
  attn_program *first, *second;
  ck_assert_int_eq(attn_compile(context, text, strlen(text), "t.attn", &options, &first), ATTN_OK);
  ck_assert_uint_eq(imports_read, 1);
  ck_assert_int_eq(attn_program_prepare(first, ATTN_TYPE_F32), ATTN_OK); /* reads nothing again */
  ck_assert_uint_eq(imports_read, 1);
  options.user = "fn mine = 0.25\n"; /* another import is another code */
  ck_assert_int_eq(attn_compile(context, text, strlen(text), "t.attn", &options, &second), ATTN_OK);
  ck_assert_int_eq(attn_program_prepare(second, ATTN_TYPE_F32), ATTN_OK);
  ck_assert_uint_eq(attn_context_statistics(context).compilations, 2);
  attn_program_free(first);
  attn_program_free(second);

  char folder[] = "/tmp/attn-test-XXXXXX", path[64];
  ck_assert_ptr_nonnull(mkdtemp(folder));
  snprintf(path, sizeof(path), "%s/mine.attn", folder);
  FILE *file = fopen(path, "w");
  fputs("fn mine = 0.5\n", file);
  fclose(file);
  snprintf(path, sizeof(path), "%s/t.attn", folder);
  file = fopen(path, "w");
  fputs(text, file);
  fclose(file);
  ck_assert_int_eq(attn_compile_file(context, path, NULL, &first), ATTN_OK);
  attn_program_free(first);
  unlink(path);
  snprintf(path, sizeof(path), "%s/mine.attn", folder);
  unlink(path);
  rmdir(folder);
  attn_context_free(context);
}
END_TEST

START_TEST(programs_describe_themselves)
{
  static const char text[] = "attention t(width: int, cap: float = 2.0, const n: int = 2) {\n"
                             "  heads q = 4, kv = 2\n"
                             "  dim qk = 8, v = 6\n"
                             "  input blocks : i32[B, (NK + 63) // 64]\n"
                             "  input gain : type[H]\n"
                             "  score s * cap * gain[h] * n\n"
                             "  mask i - j < width and blocks[b, j // 64] == 0\n"
                             "  output lse\n}\n";
  attn_context *context = context_with(1);
  attn_program *program = compile(context, text);
  const attn_program_info *info = attn_program_describe(program);
  ck_assert_str_eq(info->name, "t");
  ck_assert_int_eq(info->type, ATTN_TYPE_ANY);
  ck_assert_uint_eq(info->query_heads, 4);
  ck_assert_uint_eq(info->kv_heads, 2);
  ck_assert_uint_eq(info->dim_qk, 8);
  ck_assert_uint_eq(info->dim_v, 6);
  ck_assert(!info->ragged && !info->value_is_key);
  ck_assert_str_eq(info->k.dims[1], "G");
  ck_assert_uint_eq(info->input_count, 2);
  ck_assert_str_eq(info->inputs[0].name, "blocks");
  ck_assert_int_eq(info->inputs[0].type, ATTN_TYPE_I32);
  ck_assert_str_eq(info->inputs[0].dims[1], "(NK + 63) // 64");
  ck_assert_int_eq(info->inputs[1].type, ATTN_TYPE_ANY);
  ck_assert_uint_eq(info->output_count, 1);
  ck_assert_str_eq(info->outputs[0].name, "lse");
  ck_assert_uint_eq(info->param_count, 2);
  ck_assert_str_eq(info->params[0].name, "width");
  ck_assert(!info->params[0].has_default);
  ck_assert(info->params[1].has_default && info->params[1].default_float == 2.0);
  attn_program_free(program);
  attn_context_free(context);
}
END_TEST

START_TEST(texts_of_the_stages)
{
  attn_context *context = context_with(1);
  attn_program *program = compile(context, full);
  for (int form = ATTN_FORM_TILE; form <= ATTN_FORM_OBJECT; form++) {
    char *text;
    size_t length;
    ck_assert_int_eq(attn_program_text(program, (attn_form)form, ATTN_TYPE_ANY, &text, &length),
                     ATTN_OK);
    ck_assert_uint_gt(length, 0);
    ck_assert(form == ATTN_FORM_OBJECT ? memcmp(text, "\177ELF", 4) == 0 : strlen(text) == length);
    attn_text_free(text);
  }
  char *text;
  ck_assert_int_eq(attn_program_text(program, ATTN_FORM_TILE, ATTN_TYPE_I64, &text, NULL),
                   ATTN_ERROR_ARGUMENT);
  ck_assert_uint_eq(attn_context_statistics(context).compilations, 0);
  attn_program_free(program);
  attn_context_free(context);
}
END_TEST

START_TEST(code_is_shared_and_outlives_its_first_owner)
{
  attn_context_options options = ATTN_CONTEXT_OPTIONS_INIT;
  options.code_cache_entries = 1;
  attn_context *context;
  ck_assert_int_eq(attn_context_create(&options, &context), ATTN_OK);
  attn_program *first = compile(context, full), *second = compile(context, full);
  ck_assert_int_eq(attn_program_prepare(first, ATTN_TYPE_F32), ATTN_OK);
  ck_assert_int_eq(attn_program_prepare(second, ATTN_TYPE_F32), ATTN_OK);
  ck_assert_uint_eq(attn_context_statistics(context).compilations, 1);
  ck_assert_uint_eq(attn_context_statistics(context).cache_hits, 1);
  attn_program *other = compile(context, faulty); /* takes the only place in the cache */
  ck_assert_uint_eq(attn_context_statistics(context).compilations, 2);
  attn_program_free(first);
  attn_context_free(context); /* the programs keep what they need */
  struct problem p;
  problem_init(&p, 1, 3, 4);
  launch(second, &p);
  problem_free(&p);
  attn_program_free(second);
  attn_program_free(other);
}
END_TEST

/* Every allocation of a whole life fails once: each time an out-of-memory status, and nothing is
 * left behind. */
START_TEST(running_out_of_memory_anywhere)
{
  static const char text[] = "attention full {\n"
                             "  heads q = 4, kv = 2\n"
                             "  dim qk = 8, v = 6\n"
                             "  position rope(base = 10000.0)\n"
                             "  output lse\n"
                             "}\n";
  struct problem p;
  problem_init(&p, 1, 3, 5);
  int64_t strides[4] = {VALUES * HEADS * 3, VALUES * 3, 1, 3};
  p.tensors[3].strides = strides; /* o is packed */
  bool done = false;
  for (uint64_t n = 1; !done; n++) {
    ck_assert_uint_lt(n, 100000);
    const int64_t live = mem_live_count();
    attn_context *context = NULL;
    attn_program *program = NULL;
    mem_fail_at(n);
    const uint64_t before = mem_allocation_count();
    attn_status status = attn_context_create(NULL, &context);
    if (status == ATTN_OK)
      status = attn_compile(context, text, strlen(text), "t.attn", NULL, &program);
    if (status == ATTN_OK)
      status = attn_launch(program, &p.arguments);
    done = mem_allocation_count() - before < n;
    mem_fail_at(0);
    ck_assert_int_eq(status, done ? ATTN_OK : ATTN_ERROR_OUT_OF_MEMORY);
    if (status != ATTN_OK && program != NULL) {
      ck_assert_int_eq(attn_launch(program, &p.arguments), ATTN_OK); /* it can be tried again */
    }
    attn_program_free(program);
    attn_context_free(context);
    ck_assert_int_eq(mem_live_count(), live);
  }
  problem_free(&p);
}
END_TEST

int main(void)
{
  Suite *suite = suite_create("api");
  TCase *tests = tcase_create("api");
  tcase_add_test(tests, contexts);
  tcase_add_test(tests, specs_with_errors);
  tcase_add_test(tests, diagnostics_are_handed_out);
  tcase_add_test(tests, imports);
  tcase_add_test(tests, programs_describe_themselves);
  tcase_add_test(tests, texts_of_the_stages);
  tcase_add_test(tests, code_is_shared_and_outlives_its_first_owner);
  tcase_add_test(tests, running_out_of_memory_anywhere);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
