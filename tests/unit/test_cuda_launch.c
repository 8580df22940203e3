/* Launches on a device: results beside those of the CPU, for every kind of tensor that a launch
 * makes itself, and every wrong tensor. */
#include "tests/unit/cuda_trial.h"

enum { B = 2, NQ = 5, NK = 7 };
static const double exact = 1e-4;

#define MAIN_TENSORS(element)                                                                      \
  {.name = "q", .type = element, .rank = 4, .shape = {B, HEADS, NQ, DIM}},                         \
      {.name = "k", .type = element, .rank = 4, .shape = {B, GROUPS, NK, DIM}},                    \
      {.name = "v", .type = element, .rank = 4, .shape = {B, GROUPS, NK, VALUES}},                 \
  {                                                                                                \
    .name = "o", .type = element, .rank = 4, .shape = {B, HEADS, NQ, VALUES}, .written = true      \
  }
#define LSE                                                                                        \
  {                                                                                                \
    .name = "lse", .type = trial_f32, .rank = 3, .shape = {B, HEADS, NQ}, .written = true          \
  }

/* ---- results ---- */

START_TEST(as_the_formula)
{
  attn_context *context = device_context(0);
  attn_program *program = compile(context, full);
  static const int64_t sizes[][3] = {{1, 1, 1}, {2, 33, 65}, {3, 5, 0}, {1, 0, 4}, {0, 3, 4}};
  for (size_t n = 0; n < sizeof(sizes) / sizeof(*sizes); n++) {
    struct problem p;
    problem_on_device(&p, context, sizes[n][0], sizes[n][1], sizes[n][2]);
    enqueue(program, &p);
    ck_assert_int_eq(attn_sync(context, NULL), ATTN_OK);
    problem_download(&p, context);
    ck_assert(problem_error(&p) <= 2e-5);
    problem_leave(&p, context);
  }
  ck_assert_uint_eq(attn_context_statistics(context).compilations, 1);
  ck_assert_uint_eq(attn_context_statistics(context).launches, sizeof(sizes) / sizeof(*sizes));
  attn_program_free(program);
  attn_context_free(context);
}
END_TEST

START_TEST(types)
{
  attn_context *context = device_context(1);
  struct trial half = {.text = full, .tensors = {MAIN_TENSORS(trial_f16), LSE}};
  trial_run(&half, context, 4e-3);
  struct trial brain = {.text = full, .tensors = {MAIN_TENSORS(trial_bf16), LSE}};
  trial_run(&brain, context, 3e-2);
  attn_context_free(context);
}
END_TEST

/* q and lse with their last dimensions exchanged in memory, o with gaps of one element everywhere.
 */
START_TEST(strided_tensors)
{
  attn_context *context = device_context(0);
  struct trial t = {
      .text = full,
      .tensors = {{.name = "q",
                   .type = trial_f32,
                   .rank = 4,
                   .shape = {B, HEADS, NQ, DIM},
                   .strides = {HEADS * NQ * DIM, NQ * DIM, 1, NQ}},
                  {.name = "k",
                   .type = trial_f32,
                   .rank = 4,
                   .shape = {B, GROUPS, NK, DIM},
                   .strides = {0, NK * DIM, 1, NK}}, /* one batch for both */
                  {.name = "v", .type = trial_f32, .rank = 4, .shape = {B, GROUPS, NK, VALUES}},
                  {.name = "o",
                   .type = trial_f32,
                   .rank = 4,
                   .shape = {B, HEADS, NQ, VALUES},
                   .strides = {2 * HEADS * NQ * VALUES, 2 * NQ * VALUES, 2 * VALUES, 2},
                   .written = true},
                  {.name = "lse",
                   .type = trial_f32,
                   .rank = 3,
                   .shape = {B, HEADS, NQ},
                   .strides = {HEADS * NQ, 1, HEADS},
                   .written = true}}};
  trial_run(&t, context, exact);
  struct trial half = {
      .text = full,
      .tensors = {{.name = "q",
                   .type = trial_bf16,
                   .rank = 4,
                   .shape = {B, HEADS, NQ, DIM},
                   .strides = {HEADS * NQ * DIM, NQ * DIM, 1, NQ}},
                  {.name = "k", .type = trial_bf16, .rank = 4, .shape = {B, GROUPS, NK, DIM}},
                  {.name = "v", .type = trial_bf16, .rank = 4, .shape = {B, GROUPS, NK, VALUES}},
                  {.name = "o",
                   .type = trial_bf16,
                   .rank = 4,
                   .shape = {B, HEADS, NQ, VALUES},
                   .strides = {HEADS * NQ * VALUES, NQ * VALUES, 1, NQ},
                   .written = true},
                  LSE}};
  trial_run(&half, context, 3e-2);
  attn_context_free(context);
}
END_TEST

static const char with_inputs[] = "attention t(cap: float = 2.0, on: bool = true) {\n"
                                  "  heads q = 4, kv = 2\n"
                                  "  dim qk = 8, v = 6\n"
                                  "  type f32\n"
                                  "  align start\n"
                                  "  input doc : i64[B, NK]\n"
                                  "  input valid : bool[B, NK]\n"
                                  "  input small : i32[NK]\n"
                                  "  mask doc[b, j] <= i and valid[b, j] and on\n"
                                  "  score s * cap + small[j]\n"
                                  "}\n";

START_TEST(inputs_of_every_type)
{
  attn_context *context = device_context(0);
  const attn_param params[] = {attn_param_float("cap", 0.5)};
  for (int strided = 0; strided < 2; strided++) {
    struct trial t = {
        .text = with_inputs,
        .params = params,
        .param_count = 1,
        .tensors = {MAIN_TENSORS(trial_f32),
                    {.name = "doc", .type = trial_i64, .rank = 2, .shape = {B, NK}, .modulus = 4},
                    {.name = "valid", .type = trial_u8, .rank = 2, .shape = {B, NK}, .modulus = 2},
                    {.name = "small", .type = trial_i32, .rank = 1, .shape = {NK}, .modulus = 3}}};
    if (strided) { /* doc and valid column by column, small every third element */
      for (int n = 4; n < 6; n++) {
        t.tensors[n].strides[0] = 1;
        t.tensors[n].strides[1] = B;
      }
      t.tensors[6].strides[0] = 3;
    }
    trial_run(&t, context, exact);
  }
  attn_context_free(context);
}
END_TEST

/* ---- ragged batches ---- */

static const char ragged[] = "attention t {\n"
                             "  heads q = 4, kv = 2\n"
                             "  dim qk = 8, v = 6\n"
                             "  type f32\n"
                             "  mask i >= j\n"
                             "  cache ragged\n"
                             "}\n";
static const int64_t query_starts[] = {0, 3, 3, 10}, key_starts[] = {0, 5, 6, 17};

static struct trial ragged_trial(DLDataType starts, bool on_host)
{
  return (struct trial){
      .text = ragged,
      .tensors = {{.name = "q", .type = trial_f32, .rank = 3, .shape = {10, HEADS, DIM}},
                  {.name = "k", .type = trial_f32, .rank = 3, .shape = {17, GROUPS, DIM}},
                  {.name = "v", .type = trial_f32, .rank = 3, .shape = {17, GROUPS, VALUES}},
                  {.name = "o",
                   .type = trial_f32,
                   .rank = 3,
                   .shape = {10, HEADS, VALUES},
                   .written = true},
                  {.name = "query_starts",
                   .type = starts,
                   .rank = 1,
                   .shape = {4},
                   .values = query_starts,
                   .stays_on_host = on_host},
                  {.name = "key_starts",
                   .type = starts,
                   .rank = 1,
                   .shape = {4},
                   .values = key_starts,
                   .stays_on_host = on_host}}};
}

START_TEST(ragged_batches)
{
  attn_context *context = device_context(0);
  for (int n = 0; n < 4; n++) {
    struct trial t = ragged_trial(n % 2 ? trial_i32 : trial_i64, n / 2);
    trial_run(&t, context, exact);
  }
  attn_context_free(context);
}
END_TEST

START_TEST(wrong_starts_on_the_device)
{
  static const int64_t falling[] = {0, 3, 2, 10};
  attn_context *context = device_context(0);
  attn_program *program = compile(context, ragged);
  struct trial t = ragged_trial(trial_i32, false);
  t.tensors[4].values = falling;
  trial_init(&t);
  trial_to_device(&t, context);
  ck_assert_int_eq(attn_launch(program, &t.arguments), ATTN_ERROR_ARGUMENT);
  ck_assert_str_eq(message, "query_starts[2] is 2, less than the 3 before it");
  t.views[4].dtype = trial_f32;
  ck_assert_int_eq(attn_launch(program, &t.arguments), ATTN_ERROR_ARGUMENT);
  ASSERT_SAYS("query_starts: the type is f32");
  trial_leave_device(&t, context);
  trial_free(&t);
  attn_program_free(program);
  attn_context_free(context);
}
END_TEST

/* ---- rotary tables ---- */

#define ROTATES(what, position)                                                                    \
  "attention t {\n  heads q = 4, kv = 2\n  dim qk = 8, v = 6\n  align start\n  type f32\n" what    \
  "  position " position "\n}\n"

START_TEST(rotary_tables)
{
  static const char *const texts[] = {
      ROTATES("", "rope(base = 100)"),                                  /* uploaded with the code */
      ROTATES("", "rope(base = 100 + NK)"),                             /* for each launch */
      ROTATES("  input base : f32[1]\n", "rope(base = 100 + base[0])"), /* after a look at it */
  };
  attn_context *context = device_context(0);
  for (size_t n = 0; n < sizeof(texts) / sizeof(*texts); n++) {
    struct trial t = {.text = texts[n], .tensors = {MAIN_TENSORS(trial_f32)}};
    if (n == 2)
      t.tensors[4] =
          (struct trial_tensor){.name = "base", .type = trial_f32, .rank = 1, .shape = {1}};
    trial_run(&t, context, exact);
  }
  attn_context_free(context);
}
END_TEST

/* ---- wrong tensors ---- */

static void refused(attn_program *program, struct problem *p, const char *text)
{
  p->arguments.error = message;
  p->arguments.error_size = sizeof(message);
  ck_assert_int_eq(attn_launch(program, &p->arguments), ATTN_ERROR_ARGUMENT);
  ck_assert_str_eq(message, text);
}

/* Nothing was written: o still is what problem_init put there. */
static void untouched(struct problem *p, attn_context *context)
{
  ck_assert_int_eq(attn_sync(context, NULL), ATTN_OK);
  problem_download(p, context);
  for (size_t m = 0; m < problem_bytes(p, 3) / sizeof(float); m++)
    ck_assert(isnan(p->data[3][m]));
}

START_TEST(wrong_places)
{
  attn_context *context = device_context(0), *other = device_context(1);
  attn_program *program = compile(context, full);
  struct problem p;
  problem_on_device(&p, context, 1, 3, 4);
  void *const memory = p.tensors[1].data;

  p.tensors[1].data = p.data[1];
  p.tensors[1].device = (DLDevice){kDLCPU, 0};
  refused(program, &p,
          "k is in the CPU's memory; this context computes on cuda:0, copy it there first");
  p.tensors[1].device = (DLDevice){kDLCUDA, 0};
  refused(program, &p, "k says that it is on cuda:0, but its address is not in device memory");
  p.tensors[1].data = memory;
  p.tensors[1].device = (DLDevice){kDLCUDA, 1};
  refused(program, &p, "k is on cuda:1; this context computes on cuda:0");
  p.tensors[1].device = (DLDevice){kDLVulkan, 0};
  refused(program, &p, "k is on a device of DLPack type 7; this context computes on cuda:0");

  void *elsewhere;
  ck_assert_int_eq(attn_memory_allocate(other, problem_bytes(&p, 1), &elsewhere), ATTN_OK);
  p.tensors[1].data = elsewhere;
  p.tensors[1].device = (DLDevice){kDLCUDA, 0};
  refused(program, &p, "k says that it is on cuda:0, but its address is in the memory of cuda:1");
  attn_memory_free(other, elsewhere);
  p.tensors[1].data = NULL;
  refused(program, &p, "k has no data (NULL)");
  p.tensors[1].data = memory;
  p.tensors[1].byte_offset = 2;
  refused(program, &p, "k is not aligned: its address is no multiple of 4 bytes");
  p.tensors[1].byte_offset = 0;
  untouched(&p, context);

  attn_context *cpu = context_with(1);
  attn_program *on_cpu = compile(cpu, full);
  refused(on_cpu, &p, "q is on cuda:0; this context computes on the cpu");
  attn_program_free(on_cpu);
  attn_context_free(cpu);
  problem_leave(&p, context);
  attn_program_free(program);
  attn_context_free(other);
  attn_context_free(context);
}
END_TEST

START_TEST(wrong_strides)
{
  attn_context *context = device_context(0);
  attn_program *program = compile(context, full);
  struct problem p;
  problem_on_device(&p, context, 2, 3, 4);
  int64_t strides[4] = {INT64_MAX / 2, INT64_MAX / 2, 8, 1};
  p.tensors[1].strides = strides;
  refused(program, &p, "k: its sizes and strides reach further than memory does");
  strides[0] = INT64_MAX / 4; /* elements fit, bytes do not */
  strides[1] = 32;
  refused(program, &p, "k: its sizes and strides reach further than memory does");
  strides[0] = -64;
  refused(program, &p,
          "k: dimension 0 has the stride -64; strides must not be negative, copy the tensor first");
  p.tensors[1].strides = NULL;
  void *const own = p.tensors[3].data;
  p.tensors[3].data = p.tensors[1].data;
  refused(program, &p, "o is written, but its memory overlaps that of k");
  p.tensors[3].data = own;
  problem_leave(&p, context);
  attn_program_free(program);
  attn_context_free(context);
}
END_TEST

int main(void)
{
  if (!world_has_driver()) {
    puts("there is no stand-in device: ATTN_STAND_IN is not set");
    return SKIPPED;
  }
  Suite *suite = suite_create("cuda_launch");
  TCase *results = tcase_create("results"), *wrong = tcase_create("wrong");
  tcase_add_test(results, as_the_formula);
  tcase_add_test(results, types);
  tcase_add_test(results, strided_tensors);
  tcase_add_test(results, inputs_of_every_type);
  tcase_add_test(results, ragged_batches);
  tcase_add_test(results, rotary_tables);
  tcase_add_test(wrong, wrong_starts_on_the_device);
  if (getenv("ATTN_TEST_GPU") == NULL)
    tcase_add_test(wrong, wrong_places); /* it takes two devices */
  tcase_add_test(wrong, wrong_strides);
  suite_add_tcase(suite, results);
  suite_add_tcase(suite, wrong);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}
