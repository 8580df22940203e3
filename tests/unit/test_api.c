/* libattn from outside: compiling, launching, caching, errors, threads, running out of memory. */
#include "attn/attn.h"
#include "compiler/reference/reference.h"
#include "dsl/base/memory.h"
#include "runtime/unit.h"

#include <check.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { HEADS = 4, GROUPS = 2, DIM = 8, VALUES = 6 };

static const char full[] = "attention full {\n"
                           "  heads q = 4, kv = 2\n"
                           "  dim qk = 8, v = 6\n"
                           "  align start\n"
                           "  output lse\n"
                           "}\n";

/* With zeros in the table, full attention with one head. */
static const char faulty[] = "attention looked_up {\n"
                             "  heads 1\n"
                             "  dim 4\n"
                             "  type f32\n"
                             "  input table : i32[NK]\n"
                             "  score s + table[table[j]]\n"
                             "}\n";

static char message[4096];

static attn_context *context_with(unsigned threads)
{
  attn_context_options options = ATTN_CONTEXT_OPTIONS_INIT;
  options.threads = threads;
  options.error = message;
  options.error_size = sizeof(message);
  attn_context *context;
  ck_assert_msg(attn_context_create(&options, &context) == ATTN_OK, "%s", message);
  return context;
}

static attn_program *compile(attn_context *context, const char *text)
{
  attn_program *program;
  attn_compile_options options = ATTN_COMPILE_OPTIONS_INIT;
  options.error = message;
  options.error_size = sizeof(message);
  ck_assert_msg(attn_compile(context, text, strlen(text), "t.attn", &options, &program) == ATTN_OK,
                "%s", message);
  return program;
}

/* ---- a problem: tensors of one launch of `full`, in f32 ---- */

struct problem {
  int64_t batch, queries, keys;
  float *data[5]; /* q k v o lse */
  int64_t shape[5][4];
  DLTensor tensors[5];
  attn_named_tensor lse;
  attn_arguments arguments;
};

static float noise(uint32_t *state)
{
  *state = *state * 1664525u + 1013904223u;
  return (float)(*state >> 8) / (float)(1 << 23) - 1.0f;
}

static void problem_init(struct problem *p, int64_t batch, int64_t queries, int64_t keys)
{
  const int64_t shapes[5][4] = {{batch, HEADS, queries, DIM},
                                {batch, GROUPS, keys, DIM},
                                {batch, GROUPS, keys, VALUES},
                                {batch, HEADS, queries, VALUES},
                                {batch, HEADS, queries, 0}};
  *p = (struct problem){.batch = batch, .queries = queries, .keys = keys};
  uint32_t state = 1;
  for (int n = 0; n < 5; n++) {
    const int rank = n == 4 ? 3 : 4;
    size_t count = 1;
    for (int d = 0; d < rank; d++) {
      p->shape[n][d] = shapes[n][d];
      count *= (size_t)shapes[n][d];
    }
    p->data[n] = malloc(count * sizeof(float) + 1);
    ck_assert_ptr_nonnull(p->data[n]);
    for (size_t m = 0; m < count; m++)
      p->data[n][m] = n < 3 ? noise(&state) : NAN;
    p->tensors[n] = (DLTensor){.data = p->data[n],
                               .device = {kDLCPU, 0},
                               .ndim = rank,
                               .dtype = {kDLFloat, 32, 1},
                               .shape = p->shape[n]};
  }
  p->lse = (attn_named_tensor){"lse", &p->tensors[4]};
  p->arguments = (attn_arguments)ATTN_ARGUMENTS_INIT;
  p->arguments.q = &p->tensors[0];
  p->arguments.k = &p->tensors[1];
  p->arguments.v = &p->tensors[2];
  p->arguments.o = &p->tensors[3];
  p->arguments.outputs = &p->lse;
  p->arguments.output_count = 1;
}

static void problem_free(struct problem *p)
{
  for (int n = 0; n < 5; n++)
    free(p->data[n]);
}

/* The definition, in double. Returns the largest error of o and lse. */
static double problem_error(const struct problem *p)
{
  double worst = 0.0;
  for (int64_t row = 0; row < p->batch * HEADS * p->queries; row++) {
    const int64_t b = row / (HEADS * p->queries), h = row / p->queries % HEADS;
    const int64_t first_key = (b * GROUPS + h / (HEADS / GROUPS)) * p->keys;
    double sum = 0.0, o[VALUES] = {0};
    for (int64_t j = first_key; j < first_key + p->keys; j++) {
      double score = 0.0;
      for (int c = 0; c < DIM; c++)
        score += (double)p->data[0][row * DIM + c] * (double)p->data[1][j * DIM + c];
      const double e = exp(score / sqrt(DIM));
      sum += e;
      for (int c = 0; c < VALUES; c++)
        o[c] += e * (double)p->data[2][j * VALUES + c];
    }
    for (int c = 0; c < VALUES; c++) {
      const double expected = p->keys == 0 ? 0.0 : o[c] / sum;
      const double error = fabs((double)p->data[3][row * VALUES + c] - expected);
      worst = error <= worst ? worst : error;
    }
    const double lse = (double)p->data[4][row];
    if (p->keys == 0) {
      ck_assert(isinf(lse) && lse < 0);
    } else {
      const double error = fabs(lse - log(sum));
      worst = error <= worst ? worst : error;
    }
  }
  return worst;
}

static void launch(attn_program *program, struct problem *p)
{
  p->arguments.error = message;
  p->arguments.error_size = sizeof(message);
  ck_assert_msg(attn_launch(program, &p->arguments) == ATTN_OK, "%s", message);
  ck_assert_double_le(problem_error(p), 2e-5);
}

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
  context_fails("cuda:0", 0, ATTN_ERROR_UNSUPPORTED,
                "device 'cuda:0' is not supported by this version; use \"cpu\"");
  context_fails("tpu", 0, ATTN_ERROR_ARGUMENT, "unknown device 'tpu'; use \"cpu\"");
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

/* ---- launching ---- */

START_TEST(one_program_takes_every_size)
{
  attn_context *context = context_with(2);
  attn_program *program = compile(context, full);
  static const int64_t sizes[] = {0, 1, 2, 3, 17, 70};
  uint64_t launches = 0;
  for (int64_t batch = 0; batch < 3; batch++) {
    for (size_t q = 0; q < 6; q++) {
      for (size_t k = 0; k < 6; k++) {
        struct problem p;
        problem_init(&p, batch, sizes[q], sizes[k]);
        launch(program, &p);
        problem_free(&p);
        launches++;
      }
    }
  }
  attn_statistics statistics = attn_context_statistics(context);
  ck_assert_uint_eq(statistics.compilations, 1);
  ck_assert_uint_eq(statistics.launches, launches);
  attn_program_free(program);
  attn_context_free(context);
}
END_TEST

/* q, k, v and o with the channels outermost, lse with gaps: copies are made for the launch. */
START_TEST(strides_of_every_kind)
{
  attn_context *context = context_with(1);
  attn_program *program = compile(context, full);
  struct problem compact, strided;
  problem_init(&compact, 2, 9, 11);
  problem_init(&strided, 2, 9, 11);
  launch(program, &compact);
  int64_t strides[5][4];
  for (int n = 0; n < 4; n++) {
    const int64_t *shape = strided.shape[n];
    const int64_t channels = shape[3], rows = shape[0] * shape[1] * shape[2];
    for (int64_t row = 0; row < rows; row++) {
      for (int64_t c = 0; c < channels; c++)
        strided.data[n][c * rows + row] = n == 3 ? NAN : compact.data[n][row * channels + c];
    }
    memcpy(strides[n], (int64_t[]){shape[1] * shape[2], shape[2], 1, rows}, sizeof(strides[n]));
    strided.tensors[n].strides = strides[n];
  }
  float *lse = calloc(2 * HEADS * 9 * 2, sizeof(float));
  memcpy(strides[4], (int64_t[]){HEADS * 9 * 2, 9 * 2, 2, 0}, sizeof(strides[4]));
  strided.tensors[4].data = lse;
  strided.tensors[4].strides = strides[4];
  ck_assert_int_eq(attn_launch(program, &strided.arguments), ATTN_OK);
  const int64_t rows = 2 * HEADS * 9;
  for (int64_t row = 0; row < rows; row++) {
    for (int64_t c = 0; c < VALUES; c++)
      ck_assert(strided.data[3][c * rows + row] == compact.data[3][row * VALUES + c]);
    ck_assert(lse[2 * row] == compact.data[4][row] && lse[2 * row + 1] == 0.0f);
  }
  free(lse);
  problem_free(&compact);
  problem_free(&strided);
  attn_program_free(program);
  attn_context_free(context);
}
END_TEST

START_TEST(types_are_compiled_when_they_come)
{
  attn_context *context = context_with(1);
  attn_program *program = compile(context, full);
  attn_timings timings;
  ck_assert_uint_eq(attn_context_statistics(context).compilations, 0);
  ck_assert_int_eq(attn_program_timings(program, ATTN_TYPE_F16, &timings), ATTN_ERROR_ARGUMENT);
  struct problem p;
  problem_init(&p, 1, 2, 3);
  launch(program, &p);
  ck_assert_uint_eq(attn_context_statistics(context).compilations, 1);
  ck_assert_int_eq(attn_program_timings(program, ATTN_TYPE_ANY, &timings), ATTN_OK);
  ck_assert(timings.check > 0 && timings.load > 0);
  p.tensors[1].dtype.bits = 16;
  ck_assert_int_eq(attn_launch(program, &p.arguments), ATTN_ERROR_ARGUMENT);
  ck_assert_str_eq(message, "k: the type is f16, it must be f32");

  /* Ones in f16: every row of o is one. */
  for (int n = 0; n < 4; n++) {
    p.tensors[n].dtype.bits = 16;
    uint16_t *half = (uint16_t *)(void *)p.data[n];
    int64_t count = p.shape[n][0] * p.shape[n][1] * p.shape[n][2] * p.shape[n][3];
    for (int64_t m = 0; m < count; m++)
      half[m] = n == 3 ? 0 : 0x3c00;
  }
  ck_assert_msg(attn_launch(program, &p.arguments) == ATTN_OK, "%s", message);
  for (int m = 0; m < HEADS * 2 * VALUES; m++)
    ck_assert_uint_eq(((uint16_t *)(void *)p.data[3])[m], 0x3c00);
  ck_assert_uint_eq(attn_context_statistics(context).compilations, 2);

  /* A program settled to f16 shares that code, and takes nothing else. */
  attn_compile_options options = ATTN_COMPILE_OPTIONS_INIT;
  options.type = ATTN_TYPE_F16;
  attn_program *settled;
  ck_assert_int_eq(attn_compile(context, full, strlen(full), "t.attn", &options, &settled),
                   ATTN_OK);
  ck_assert_uint_eq(attn_context_statistics(context).compilations, 2);
  ck_assert_uint_eq(attn_context_statistics(context).cache_hits, 1);
  ck_assert_int_eq(attn_program_describe(settled)->type, ATTN_TYPE_F16);
  ck_assert_int_eq(attn_launch(settled, &p.arguments), ATTN_OK);
  p.tensors[0].dtype.bits = 32;
  ck_assert_int_eq(attn_launch(settled, &p.arguments), ATTN_ERROR_ARGUMENT);
  ck_assert_str_eq(message, "q: the type is f32, it must be f16");
  problem_free(&p);
  attn_program_free(settled);
  attn_program_free(program);
  attn_context_free(context);
}
END_TEST

/* Tables, inputs, sizes that are expressions, parameters: everything that a launch makes, against
 * the reference. */
START_TEST(launches_equal_the_reference)
{
  static const char text[] = "attention t(width: int, base: float = 500.0) {\n"
                             "  heads q = 4, kv = 2\n"
                             "  dim qk = 8, v = 6\n"
                             "  type f32\n"
                             "  input doc : i32[B, NK]\n"
                             "  input gain : f32[(NK + 63) // 64]\n"
                             "  position rope(base = base)\n"
                             "  score s * gain[j // 64]\n"
                             "  mask 0 <= i - j < width and doc[b, i] == doc[b, j]\n"
                             "  output lse\n"
                             "}\n";
  enum { N = 150 };
  attn_context *context = context_with(2);
  attn_program *program = compile(context, text);
  struct problem p;
  problem_init(&p, 2, N, N);
  static int32_t doc[2 * N * 2]; /* every other element: it is packed */
  static float gain[(N + 63) / 64] = {0.5f, 2.0f, 1.5f};
  for (int n = 0; n < 2 * N; n++)
    doc[2 * n] = n % N / 40;
  int64_t doc_shape[2] = {2, N}, doc_strides[2] = {2 * N, 2}, gain_shape[1] = {(N + 63) / 64};
  DLTensor doc_tensor = p.tensors[0], gain_tensor = p.tensors[0];
  doc_tensor.data = doc;
  doc_tensor.ndim = 2;
  doc_tensor.dtype.code = kDLInt;
  doc_tensor.shape = doc_shape;
  doc_tensor.strides = doc_strides;
  gain_tensor.data = gain;
  gain_tensor.ndim = 1;
  gain_tensor.shape = gain_shape;
  attn_named_tensor inputs[] = {{"doc", &doc_tensor}, {"gain", &gain_tensor}};
  attn_param params[] = {attn_param_int("width", 25), attn_param_float("base", 100.0)};
  p.arguments.inputs = inputs;
  p.arguments.input_count = 2;
  p.arguments.params = params;
  p.arguments.param_count = 2;
  p.arguments.error = message;
  p.arguments.error_size = sizeof(message);
  ck_assert_msg(attn_launch(program, &p.arguments) == ATTN_OK, "%s", message);

  struct error_sink sink = {NULL, message, sizeof(message)};
  struct unit_source source = {.name = "t.attn", .text = text, .length = strlen(text)};
  struct unit *unit;
  ck_assert_int_eq(unit_check(&source, &sink, &unit), ATTN_OK);
  struct ref_tensor ref_inputs[2] = {
      {DTYPE_I32, 2, {2, N}, {2 * N, 2}, doc},
      {DTYPE_F32, 1, {(N + 63) / 64}, {1}, gain},
  };
  union expr_value ref_params[2] = {{.i = 25}, {.f = 100.0}};
  struct ref_call call = {
      .spec = unit->spec,
      .q = {DTYPE_F32, 4, {2, 4, N, 8}, {4 * N * 8, N * 8, 8, 1}, p.data[0]},
      .k = {DTYPE_F32, 4, {2, 2, N, 8}, {2 * N * 8, N * 8, 8, 1}, p.data[1]},
      .v = {DTYPE_F32, 4, {2, 2, N, 6}, {2 * N * 6, N * 6, 6, 1}, p.data[2]},
      .inputs = ref_inputs,
      .params = ref_params,
      .batch = 2,
      .max_queries = N,
      .max_keys = N,
  };
  struct ref_result result;
  ck_assert(ref_run(&call, REF_EXACT, DTYPE_F32, &result));
  double worst = 0.0;
  for (int64_t n = 0; n < result.rows * VALUES; n++) {
    const double error = fabs(result.o[n] - (double)p.data[3][n]);
    worst = error <= worst ? worst : error;
  }
  for (int64_t n = 0; n < result.rows; n++) {
    const double error = fabs(result.lse[n] - (double)p.data[4][n]);
    worst = error <= worst ? worst : error;
  }
  ck_assert_double_le(worst, 2e-5);
  ref_result_free(&result);
  unit_release(unit);
  problem_free(&p);
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

START_TEST(indices_out_of_range_are_faults)
{
  attn_context *context = context_with(2);
  attn_program *program = compile(context, faulty);
  enum { N = 6 };
  float data[4][N * 4];
  int32_t table[N] = {0};
  int64_t shape[4] = {1, 1, N, 4}, table_shape[1] = {N};
  DLTensor tensors[4], input = {.data = table,
                                .device = {kDLCPU, 0},
                                .ndim = 1,
                                .dtype = {kDLInt, 32, 1},
                                .shape = table_shape};
  for (int n = 0; n < 4; n++) {
    for (int m = 0; m < N * 4; m++)
      data[n][m] = (float)m;
    tensors[n] = (DLTensor){.data = data[n],
                            .device = {kDLCPU, 0},
                            .ndim = 4,
                            .dtype = {kDLFloat, 32, 1},
                            .shape = shape};
  }
  attn_named_tensor named = {"table", &input};
  attn_arguments arguments = ATTN_ARGUMENTS_INIT;
  arguments.q = &tensors[0];
  arguments.k = &tensors[1];
  arguments.v = &tensors[2];
  arguments.o = &tensors[3];
  arguments.inputs = &named;
  arguments.input_count = 1;
  ck_assert_int_eq(attn_launch(program, &arguments), ATTN_OK);
  table[4] = 40;
  ck_assert_int_eq(attn_launch(program, &arguments), ATTN_ERROR_FAULT);
  attn_context_error(context, message, sizeof(message));
  ck_assert_str_eq(
      message, "input 'table': index 40 is out of range for dimension 0 of size 6 (t.attn:6:13)");
  table[4] = 0;
  ck_assert_int_eq(attn_launch(program, &arguments), ATTN_OK);
  attn_program_free(program);
  attn_context_free(context);
}
END_TEST

START_TEST(wrong_arguments_are_told_apart)
{
  attn_context *context = context_with(1);
  attn_program *program = compile(context, full);
  struct problem p;
  problem_init(&p, 1, 2, 3);
  ck_assert_int_eq(attn_launch(NULL, &p.arguments), ATTN_ERROR_ARGUMENT);
  ck_assert_int_eq(attn_launch(program, NULL), ATTN_ERROR_ARGUMENT);
  p.arguments.size = 0;
  ck_assert_int_eq(attn_launch(program, &p.arguments), ATTN_ERROR_ARGUMENT);
  attn_context_error(context, message, sizeof(message));
  ck_assert_str_eq(message, "the arguments have the size 0; begin with ATTN_ARGUMENTS_INIT");

  /* A struct of a newer header: what this library does not know must not be used. */
  struct {
    attn_arguments arguments;
    void *more[2];
  } newer = {p.arguments, {NULL, NULL}};
  newer.arguments.size = sizeof(newer);
  ck_assert_int_eq(attn_launch(program, &newer.arguments), ATTN_OK);
  newer.more[1] = &p;
  ck_assert_int_eq(attn_launch(program, &newer.arguments), ATTN_ERROR_ARGUMENT);

  p.arguments.size = sizeof(p.arguments);
  p.shape[1][3] = 9;
  ck_assert_int_eq(attn_launch(program, &p.arguments), ATTN_ERROR_ARGUMENT);
  attn_context_error(context, message, sizeof(message));
  ck_assert_str_eq(message, "k: dimension 3 is 9 but D is 8");
  problem_free(&p);
  attn_program_free(program);
  attn_context_free(context);
}
END_TEST

START_TEST(bits_do_not_depend_on_the_threads)
{
  struct problem p[3];
  static const unsigned threads[] = {1, 2, 7};
  for (int n = 0; n < 3; n++) {
    attn_context *context = context_with(threads[n]);
    attn_program *program = compile(context, full);
    problem_init(&p[n], 2, 130, 150);
    launch(program, &p[n]);
    attn_program_free(program);
    attn_context_free(context);
    ck_assert_int_eq(memcmp(p[0].data[3], p[n].data[3], 2 * HEADS * 130 * VALUES * sizeof(float)),
                     0);
    ck_assert_int_eq(memcmp(p[0].data[4], p[n].data[4], 2 * HEADS * 130 * sizeof(float)), 0);
  }
  for (int n = 0; n < 3; n++)
    problem_free(&p[n]);
}
END_TEST

/* Check's assertions are for the main thread; threads count what went wrong. */
static void *use_context(void *user)
{
  attn_program *shared = ((void **)user)[0];
  attn_context *context = ((void **)user)[1];
  uintptr_t wrong = 0;
  for (int n = 0; n < 12; n++) {
    attn_program *own;
    wrong += attn_compile(context, full, strlen(full), "t.attn", NULL, &own) != ATTN_OK;
    struct problem p;
    problem_init(&p, 1 + n % 2, 1 + n, 20 - n);
    char text[256];
    p.arguments.error = text;
    p.arguments.error_size = sizeof(text);
    wrong += attn_launch(n % 3 == 0 ? own : shared, &p.arguments) != ATTN_OK;
    wrong += !(problem_error(&p) < 2e-5);
    p.shape[0][3] = 100 + n; /* each thread gets its own text */
    char expected[64];
    snprintf(expected, sizeof(expected), "q: dimension 3 is %d but D is 8", 100 + n);
    wrong +=
        attn_launch(shared, &p.arguments) != ATTN_ERROR_ARGUMENT || strcmp(text, expected) != 0;
    problem_free(&p);
    attn_program_free(own);
  }
  return (void *)wrong;
}

START_TEST(many_threads_use_one_context)
{
  attn_context *context = context_with(2);
  attn_program *program = compile(context, full);
  void *user[2] = {program, context};
  pthread_t threads[4];
  for (int n = 0; n < 4; n++)
    ck_assert_int_eq(pthread_create(&threads[n], NULL, use_context, user), 0);
  for (int n = 0; n < 4; n++) {
    void *wrong;
    pthread_join(threads[n], &wrong);
    ck_assert_ptr_null(wrong);
  }
  ck_assert_uint_le(attn_context_statistics(context).compilations, 5);
  attn_program_free(program);
  attn_context_free(context);
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
  tcase_add_test(tests, one_program_takes_every_size);
  tcase_add_test(tests, strides_of_every_kind);
  tcase_add_test(tests, types_are_compiled_when_they_come);
  tcase_add_test(tests, launches_equal_the_reference);
  tcase_add_test(tests, code_is_shared_and_outlives_its_first_owner);
  tcase_add_test(tests, indices_out_of_range_are_faults);
  tcase_add_test(tests, wrong_arguments_are_told_apart);
  tcase_add_test(tests, bits_do_not_depend_on_the_threads);
  tcase_add_test(tests, many_threads_use_one_context);
  tcase_add_test(tests, running_out_of_memory_anywhere);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
