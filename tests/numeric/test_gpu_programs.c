/* Programs as they are built for GPUs, run on this machine: operands of products in 16 bits, a
 * factor in the row algebra, kernels that summarise inputs. What they compute is compared with the
 * reference by the error rule; that GPU code computes the same as this machine's is for the tests
 * of that target. */
#include "runtime/unit.h"
#include "tests/numeric/tile_runner.h"

#include <check.h>
#include <math.h>

enum { MAX_ARRAYS = 32, MAX_TEXT = 1 << 16 };

struct sizes {
  int64_t batch, queries, keys;
};

struct world {
  struct arena arena;
  struct source_set sources;
  struct diagnostics diagnostics;
  const struct spec *spec;
  struct compiled *compiled; /* for the GPU */
  struct expr_evaluator *evaluator;
  struct tile_code code; /* the same text, for this machine */
  struct tile_array arrays[MAX_ARRAYS];
  size_t array_count;
  struct tile_argument params[8];
  size_t param_count;
};

static void open_world(struct world *w, const char *text, enum dtype type, struct sizes sizes)
{
  *w = (struct world){0};
  arena_init(&w->arena);
  ck_assert(!arena_guard(&w->arena));
  source_set_init(&w->sources, &w->arena);
  diagnostics_init(&w->diagnostics, &w->arena, &w->sources);
  uint32_t source = source_add(&w->sources, "test.attn", text, strlen(text));
  struct spec_file *file = spec_check(&w->arena, &w->sources, source, NULL, &w->diagnostics);
  ck_assert_msg(!diagnostics_has_errors(&w->diagnostics), "%s",
                diagnostics_print(&w->diagnostics, false));
  w->spec = file->specs.items[0];
  const struct compile_options options = {.target = TARGET_SM_80, .type = type};
  w->compiled = compile_build(&w->arena, w->spec, &options, &w->diagnostics);
  ck_assert_msg(w->compiled != NULL, "%s", diagnostics_print(&w->diagnostics, false));
  w->evaluator = expr_evaluator_new(&w->arena, w->spec->pool);
  expr_set_int(w->evaluator, EXPR_VAR_SIZE_B, sizes.batch);
  expr_set_int(w->evaluator, EXPR_VAR_SIZE_NQ, sizes.queries);
  expr_set_int(w->evaluator, EXPR_VAR_SIZE_NK, sizes.keys);
  const char *printed = tile_print(&w->arena, w->compiled->program);
  const char *error = tile_code_open(&w->code, printed, NULL);
  ck_assert_msg(error == NULL, "%s\n%s", error, printed);
  w->params[w->param_count++] = (struct tile_argument){"B", (double)sizes.batch};
  w->params[w->param_count++] = (struct tile_argument){"NQ", (double)sizes.queries};
  w->params[w->param_count++] = (struct tile_argument){"NK", (double)sizes.keys};
}

static void close_world(struct world *w)
{
  for (size_t k = 0; k < w->array_count; k++)
    tile_array_free(&w->arrays[k]);
  tile_code_close(&w->code);
  arena_free(&w->arena);
}

/* ---- tensors ---- */

static int64_t evaluate(struct world *w, const struct expr *e)
{
  return expr_evaluate(w->evaluator, e).i;
}

/* Where sequence b of a ragged batch begins: each is 3 shorter than the one before. */
static int64_t start_of(int64_t b, int64_t longest)
{
  return b * longest - 3 * b * (b - 1) / 2;
}

/* Sizes of what a role stands for. */
static void find_sizes(struct world *w, const struct tile_tensor *tensor, struct sizes sizes,
                       int64_t *out)
{
  const struct spec *spec = w->spec;
  uint32_t input = tensor->role_index;
  switch ((int)tensor->role) {
  case TILE_ROLE_QUERY:
  case TILE_ROLE_RESULT:
  case TILE_ROLE_KEY:
  case TILE_ROLE_VALUE: {
    bool rows = tensor->role == TILE_ROLE_QUERY || tensor->role == TILE_ROLE_RESULT;
    bool values = tensor->role == TILE_ROLE_VALUE || tensor->role == TILE_ROLE_RESULT;
    if (spec->cache.layout == CACHE_RAGGED) {
      out[0] = start_of(sizes.batch, rows ? sizes.queries : sizes.keys);
      out[1] = rows ? spec->query_heads : spec->kv_heads;
      out[2] = values ? spec->dim_v : spec->dim_qk;
      return;
    }
    out[0] = sizes.batch;
    out[1] = rows ? spec->query_heads : spec->kv_heads;
    out[2] = rows ? sizes.queries : sizes.keys;
    out[3] = values ? spec->dim_v : spec->dim_qk;
    return;
  }
  case TILE_ROLE_SUMMARY:
    input = w->compiled->visibility->summaries[tensor->role_index].tensor - EXPR_TENSOR_INPUT;
    /* fall through */
  case TILE_ROLE_INPUT:
    for (uint32_t d = 0; d < spec->inputs[input].rank; d++)
      out[d] = evaluate(w, spec->inputs[input].dims[d].size);
    if (spec->cache.layout == CACHE_RAGGED) /* they are all [B, NK] here */
      out[0] = start_of(sizes.batch, sizes.keys);
    if (tensor->role == TILE_ROLE_SUMMARY) {
      out[tensor->rank - 2] = (out[tensor->rank - 2] + 63) / 64;
      out[tensor->rank - 1] = 2;
    }
    return;
  case TILE_ROLE_WORKSPACE:
    for (uint32_t d = 0; d < tensor->rank; d++)
      out[d] = evaluate(w, tensor->shape[d]);
    return;
  case TILE_ROLE_QUERY_STARTS:
  case TILE_ROLE_KEY_STARTS: out[0] = sizes.batch + 1; return;
  default: out[0] = spec->dim_qk; /* a rotary's table */
  }
}

static void fill_rotary(struct world *w, struct tile_array *a, enum tile_role role)
{
  uint32_t n = w->spec->dim_qk;
  struct rotary_tables tables = {.turns = ARENA_ARRAY(&w->arena, int32_t, n),
                                 .rest = ARENA_ARRAY(&w->arena, float, n),
                                 .cosine = ARENA_ARRAY(&w->arena, float, n),
                                 .sine = ARENA_ARRAY(&w->arena, float, n)};
  ck_assert(unit_rotary_tables(w->spec, w->evaluator, &tables));
  const float *reals = role == TILE_ROLE_ROTARY_REST     ? tables.rest
                       : role == TILE_ROLE_ROTARY_COSINE ? tables.cosine
                                                         : tables.sine;
  for (uint32_t c = 0; c < n; c++)
    tile_array_set(a, c, role == TILE_ROLE_ROTARY_TURNS ? tables.turns[c] : (double)reals[c]);
}

/* Ascending from 0 where the type is a whole number, as ids of documents are; some NaN among the
 * reals of `nan_every` elements. */
static void fill_input(struct tile_array *a, int64_t nan_every)
{
  bool real = a->type == DTYPE_F32 || a->type == DTYPE_F16 || a->type == DTYPE_BF16;
  tile_array_fill(a, 77);
  int64_t last = a->rank == 0 ? 1 : a->sizes[a->rank - 1];
  for (int64_t k = 0; k < a->count; k++) {
    if (a->type == DTYPE_I32 || a->type == DTYPE_I64 || a->type == DTYPE_U8)
      tile_array_set(a, k, (double)(k % last / 37));
    else if (real && nan_every > 0 && k % nan_every == nan_every - 1)
      tile_array_set(a, k, (double)NAN);
  }
}

static void make_arrays(struct world *w, struct sizes sizes, int64_t nan_every)
{
  static const int64_t gaps[SPEC_MAX_RANK] = {0, 2, 1};
  for (size_t k = 0; k < w->compiled->kernels.count; k++) {
    const struct tile_kernel *kernel = w->compiled->kernels.items[k].tile;
    for (size_t t = 0; t < kernel->tensors.count; t++) {
      const struct tile_tensor *tensor = &kernel->tensors.items[t];
      struct tile_launch made = {.arrays = w->arrays, .array_count = w->array_count};
      if (tile_launch_array(&made, tensor->name) != NULL)
        continue;
      ck_assert_uint_lt(w->array_count, MAX_ARRAYS);
      int64_t extents[SPEC_MAX_RANK + 1];
      find_sizes(w, tensor, sizes, extents);
      struct tile_array *a = &w->arrays[w->array_count++];
      *a = tile_array_new(tensor->name, tensor->element, tensor->rank, extents, gaps);
      if (tensor->role >= TILE_ROLE_ROTARY_TURNS && tensor->role <= TILE_ROLE_ROTARY_SINE)
        fill_rotary(w, a, tensor->role);
      else if (tensor->role == TILE_ROLE_QUERY_STARTS || tensor->role == TILE_ROLE_KEY_STARTS)
        for (int64_t b = 0; b <= sizes.batch; b++)
          tile_array_set(a, b,
                         (double)start_of(b, tensor->role == TILE_ROLE_KEY_STARTS ? sizes.keys
                                                                                  : sizes.queries));
      else if (tensor->role == TILE_ROLE_INPUT)
        fill_input(a, nan_every);
      else if (tensor->role <= TILE_ROLE_VALUE)
        tile_array_fill(a, (uint32_t)(tensor->role * 1001 + sizes.keys));
    }
  }
}

static const struct tile_array *array_of(const struct world *w, const char *name)
{
  const struct tile_launch launch = {.arrays = (struct tile_array *)w->arrays,
                                     .array_count = w->array_count};
  return tile_launch_array(&launch, name);
}

static struct ref_tensor ref_view(const struct tile_array *a)
{
  struct ref_tensor view = {0};
  if (a == NULL)
    return view;
  view = (struct ref_tensor){.type = a->type, .rank = a->rank, .data = a->data};
  memcpy(view.shape, a->sizes, sizeof(view.shape));
  memcpy(view.stride, a->strides, sizeof(view.stride));
  return view;
}

static void run_world(struct world *w)
{
  struct tile_launch launch = {w->arrays, w->array_count, w->params, w->param_count, {0}};
  const char *error = tile_run(&w->code, &launch);
  ck_assert_msg(error == NULL, "%s", error);
  ck_assert_int_eq(launch.fault.raised, 0);
}

/* ---- comparisons ---- */

/* `slack`: what may be off besides, relative to the largest result. */
static void compare(struct world *w, const char *text, enum dtype type, struct sizes sizes,
                    double slack)
{
  const struct spec *spec = w->spec;
  struct ref_tensor inputs[8];
  for (uint32_t n = 0; n < spec->input_count; n++)
    inputs[n] = ref_view(array_of(w, spec->inputs[n].name));
  const struct ref_call call = {.spec = spec,
                                .q = ref_view(array_of(w, "q")),
                                .k = ref_view(array_of(w, "k")),
                                .v = ref_view(array_of(w, "v")),
                                .inputs = inputs,
                                .batch = sizes.batch,
                                .max_queries = sizes.queries,
                                .max_keys = sizes.keys};
  struct ref_result exact, naive;
  ck_assert(ref_run(&call, REF_EXACT, type, &exact) && ref_run(&call, REF_NAIVE, type, &naive));
  const struct tile_array *o = array_of(w, "o");
  size_t slice = (size_t)(sizes.queries * spec->dim_v);
  double *out = malloc(slice * sizeof(*out));
  ck_assert_ptr_nonnull(out);
  for (int64_t head = 0; head < sizes.batch * spec->query_heads; head++) {
    size_t first = (size_t)head * slice;
    for (size_t k = 0; k < slice; k++)
      out[k] = tile_array_get(o, (int64_t)(first + k));
    struct ref_error error = ref_compare(out, exact.o + first, naive.o + first, slice);
    bool close = error.ok || error.out_error <= slack * error.scale;
    ck_assert_msg(close, "%s in %s, NQ = %d, NK = %d, head %d: off by %g, allowed %g", text,
                  dtype_name(type), (int)sizes.queries, (int)sizes.keys, (int)head, error.out_error,
                  error.bound);
  }
  free(out);
  ref_result_free(&exact);
  ref_result_free(&naive);
}

static void check_within(const char *text, double slack)
{
  static const enum dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
  static const struct sizes all[] = {{2, 7, 9}, {1, 70, 150}, {1, 130, 129}};
  for (size_t t = 0; t < 3; t++)
    for (size_t n = 0; n < 3; n++) {
      struct world w;
      open_world(&w, text, types[t], all[n]);
      make_arrays(&w, all[n], 0);
      run_world(&w);
      compare(&w, text, types[t], all[n], slack);
      close_world(&w);
    }
}

static void check_spec(const char *text)
{
  check_within(text, 0);
}

START_TEST(plain_specs)
{
  check_spec("attention a {\n heads 2\n dim 16\n mask causal\n}\n");
  check_spec("attention a {\n heads q = 6, kv = 2\n dim qk = 24, v = 40\n}\n");
  check_spec("attention a {\n heads 2\n dim 32\n mask causal\n position rope()\n}\n");
  check_spec("attention a {\n heads 2\n dim qk = 24, v = 16\n value k[0:16]\n mask i - j < 20\n"
             " position rope(from = 16, dim = 8, pairing = interleaved)\n}\n");
  check_spec("attention a {\n heads 2\n dim 16\n similarity dot(q, k) / 3.0\n"
             " score tanh(s / 5.0) * 5.0\n}\n");
}
END_TEST

START_TEST(normalisers)
{
  static const char *const names[] = {"sigmoid", "relu", "linear(at_least = 1.0)", "none",
                                      "sparsemax"};
  for (size_t k = 0; k < sizeof(names) / sizeof(names[0]); k++) {
    char text[256];
    snprintf(text, sizeof(text),
             "attention a {\n heads 2\n dim 16\n mask causal\n normalize %s\n}\n", names[k]);
    check_spec(text);
  }
}
END_TEST

/* f16 ends at 65504, so that the rule takes a direct evaluation in f32 for its measure there; but
 * the result is rounded. */
START_TEST(large_weights)
{
  check_within("attention a {\n heads 2\n dim 16\n normalize relu\n score s * 40000.0\n"
               " post o[c] / 1000000.0\n}\n",
               0x1p-11);
  check_within("attention a {\n heads 2\n dim 16\n weight w * 200000.0\n"
               " post o[c] / 200000.0\n}\n",
               0x1p-11);
}
END_TEST

START_TEST(several_looks)
{
  check_spec("attention a {\n heads 2\n dim 16\n mask causal\n weight w ** 2.0\n}\n");
  check_spec("attention a {\n heads 2\n dim 32\n mask causal\n"
             " map x = softmax(dot(q[0:16], k[0:16]))\n map y = softmax(dot(q[16:32], k[16:32]))\n"
             " weight x - 0.5 * y\n}\n");
  check_spec("attention a {\n heads 2\n dim 16\n mask causal\n normalize softmax(sink = 0.5)\n}\n");
}
END_TEST

/* ---- summaries ---- */

static void check_summary(const char *text, const char *input, int64_t nan_every)
{
  static const struct sizes all[] = {
      {2, 200, 200}, {1, 65, 129}, {3, 40, 64}, {65, 3, 64}, {3, 40, 1}};
  for (size_t n = 0; n < sizeof(all) / sizeof(all[0]); n++) {
    struct world w;
    if (strstr(text, "ragged") != NULL && n > 2) /* as many sequences as are shorter */
      break;
    open_world(&w, text, DTYPE_F32, all[n]);
    make_arrays(&w, all[n], nan_every);
    run_world(&w);
    const struct tile_array *x = array_of(&w, input);
    char name[64];
    snprintf(name, sizeof(name), "%s_summary", input);
    const struct tile_array *summary = array_of(&w, name);
    ck_assert_msg(summary != NULL, "%s makes no summary of %s", text, input);
    int64_t last = x->sizes[x->rank - 1], blocks = (last + 63) / 64;
    for (int64_t block = 0; block < summary->count / 2; block++) {
      double low = (double)INFINITY, high = -(double)INFINITY;
      bool nan = false;
      for (int64_t k = block % blocks * 64; k < last && k < (block % blocks + 1) * 64; k++) {
        double value = tile_array_get(x, block / blocks * last + k);
        nan |= isnan(value);
        low = fmin(low, value);
        high = fmax(high, value);
      }
      double got[] = {tile_array_get(summary, 2 * block), tile_array_get(summary, 2 * block + 1)};
      bool right = nan ? isnan(got[0]) && isnan(got[1]) : got[0] == low && got[1] == high;
      ck_assert_msg(right, "%s: block %d of %s is [%g, %g], not [%g, %g]", text, (int)block, input,
                    got[0], got[1], nan ? (double)NAN : low, nan ? (double)NAN : high);
    }
    close_world(&w);
  }
}

START_TEST(summaries)
{
  check_summary("attention a {\n heads 2\n dim 8\n input doc : i32[B, NK]\n"
                " mask doc[b, i] == doc[b, j]\n}\n",
                "doc", 0);
  check_summary("attention a {\n heads 2\n dim 8\n input doc : i32[B, NK]\n cache ragged\n"
                " mask doc[b, i] == doc[b, j]\n}\n",
                "doc", 0);
  check_summary("attention a {\n heads 2\n dim 8\n input on : bool[B, H, NK]\n"
                " mask on[b, h, j]\n}\n",
                "on", 0);
  check_summary("attention a {\n heads 2\n dim 8\n input x : f32[NK]\n mask x[j] > 0.5\n}\n", "x",
                0);
  check_summary("attention a {\n heads 2\n dim 8\n input x : f16[H, NK]\n mask x[h, j] > 0.5\n}\n",
                "x", 41);
}
END_TEST

START_TEST(masks_with_summaries)
{
  check_spec("attention a {\n heads 2\n dim 16\n input doc : i32[B, NK]\n"
             " mask causal and doc[b, i] == doc[b, j]\n}\n");
}
END_TEST

int main(void)
{
  Suite *suite = suite_create("gpu_programs");
  TCase *tcase = tcase_create("gpu_programs");
  tcase_add_test(tcase, plain_specs);
  tcase_add_test(tcase, normalisers);
  tcase_add_test(tcase, large_weights);
  tcase_add_test(tcase, several_looks);
  tcase_add_test(tcase, summaries);
  tcase_add_test(tcase, masks_with_summaries);
  suite_add_tcase(suite, tcase);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
