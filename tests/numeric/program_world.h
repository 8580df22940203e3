/* Programs that the builder makes, run without the runtime (tile_runner.h) on tensors that it
 * fills, and compared with the reference by the error rule.
 */
#ifndef ATTN_TESTS_NUMERIC_PROGRAM_WORLD_H
#define ATTN_TESTS_NUMERIC_PROGRAM_WORLD_H

#include "runtime/unit.h"
#include "tests/numeric/tile_runner.h"

#include <check.h>
#include <math.h>

enum { MAX_ARRAYS = 32 };

struct sizes {
  int64_t batch, queries, keys;
};

struct world {
  const char *text;
  struct arena arena;
  struct source_set sources;
  struct diagnostics diagnostics;
  const struct spec *spec;
  struct compiled *compiled;
  struct expr_evaluator *evaluator;
  struct tile_code code; /* the same text, for what runs it */
  struct tile_array arrays[MAX_ARRAYS];
  size_t array_count;
  struct tile_argument params[3];
  size_t param_count;
};

static inline void set_sizes(struct world *w, struct sizes sizes)
{
  expr_set_int(w->evaluator, EXPR_VAR_SIZE_B, sizes.batch);
  expr_set_int(w->evaluator, EXPR_VAR_SIZE_NQ, sizes.queries);
  expr_set_int(w->evaluator, EXPR_VAR_SIZE_NK, sizes.keys);
  w->params[0] = (struct tile_argument){"B", (double)sizes.batch};
  w->params[1] = (struct tile_argument){"NQ", (double)sizes.queries};
  w->params[2] = (struct tile_argument){"NK", (double)sizes.keys};
  w->param_count = 3;
}

static inline void open_world(struct world *w, const char *text,
                              const struct compile_options *options, struct sizes sizes)
{
  *w = (struct world){.text = text};
  arena_init(&w->arena);
  ck_assert(!arena_guard(&w->arena));
  source_set_init(&w->sources, &w->arena);
  diagnostics_init(&w->diagnostics, &w->arena, &w->sources);
  uint32_t source = source_add(&w->sources, "test.attn", text, strlen(text));
  struct spec_file *file = spec_check(&w->arena, &w->sources, source, NULL, &w->diagnostics);
  ck_assert_msg(!diagnostics_has_errors(&w->diagnostics), "%s",
                diagnostics_print(&w->diagnostics, false));
  w->spec = file->specs.items[0];
  w->compiled = compile_build(&w->arena, w->spec, options, &w->diagnostics);
  ck_assert_msg(w->compiled != NULL, "%s", diagnostics_print(&w->diagnostics, false));
  w->evaluator = expr_evaluator_new(&w->arena, w->spec->pool);
  const char *printed = tile_print(&w->arena, w->compiled->program);
  const char *error = tile_code_open(
      &w->code, printed, options->target == tile_target ? &w->compiled->options.schedule : NULL);
  ck_assert_msg(error == NULL, "%s\n%s", error, printed);
  set_sizes(w, sizes);
}

static inline void close_world(struct world *w)
{
  for (size_t k = 0; k < w->array_count; k++)
    tile_array_free(&w->arrays[k]);
  tile_code_close(&w->code);
  arena_free(&w->arena);
}

/* ---- tensors ---- */

static inline int64_t evaluate(struct world *w, const struct expr *e)
{
  return expr_evaluate(w->evaluator, e).i;
}

/* Sequences of a ragged batch: each is 3 shorter than the one before. */
static inline int64_t length_of(int64_t b, int64_t longest)
{
  return longest > 3 * b ? longest - 3 * b : 0;
}

static inline int64_t start_of(int64_t b, int64_t longest)
{
  return b == 0 ? 0 : start_of(b - 1, longest) + length_of(b - 1, longest);
}

/* Sizes of what a role stands for. */
static inline void find_sizes(struct world *w, const struct tile_tensor *tensor, struct sizes sizes,
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
  case TILE_ROLE_OUTPUT: /* one for each row */
    out[0] = sizes.batch;
    out[1] = spec->query_heads;
    out[2] = sizes.queries;
    if (spec->cache.layout == CACHE_RAGGED)
      out[0] = start_of(sizes.batch, sizes.queries);
    return;
  case TILE_ROLE_QUERY_STARTS:
  case TILE_ROLE_KEY_STARTS: out[0] = sizes.batch + 1; return;
  default: out[0] = spec->dim_qk; /* a rotary's table */
  }
}

static inline void fill_rotary(struct world *w, struct tile_array *a, enum tile_role role)
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
static inline void fill_input(struct tile_array *a, int64_t nan_every)
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

/* The least and the largest of each block, as kernels for GPUs find them for themselves. */
static inline void fill_summary(struct tile_array *summary, const struct tile_array *x)
{
  int64_t last = x->sizes[x->rank - 1], blocks = (last + 63) / 64;
  for (int64_t block = 0; block < summary->count / 2; block++) {
    double ends[] = {(double)INFINITY, -(double)INFINITY};
    for (int64_t k = block % blocks * 64; k < last && k < (block % blocks + 1) * 64; k++) {
      double value = tile_array_get(x, block / blocks * last + k);
      ends[0] = isnan(ends[0]) || value >= ends[0] ? ends[0] : value; /* NaN stays */
      ends[1] = isnan(ends[1]) || value <= ends[1] ? ends[1] : value;
    }
    tile_array_set(summary, 2 * block, ends[0]);
    tile_array_set(summary, 2 * block + 1, ends[1]);
  }
}

/* The array of a kernel's tensor with that role; NULL where no kernel has one. */
static inline struct tile_array *array_with_role(struct world *w, enum tile_role role,
                                                 uint32_t index)
{
  const struct tile_launch launch = {.arrays = w->arrays, .array_count = w->array_count};
  for (size_t k = 0; k < w->compiled->kernels.count; k++) {
    const struct tile_kernel *kernel = w->compiled->kernels.items[k].tile;
    for (size_t t = 0; t < kernel->tensors.count; t++)
      if (kernel->tensors.items[t].role == role && kernel->tensors.items[t].role_index == index)
        return tile_launch_array(&launch, kernel->tensors.items[t].name);
  }
  return NULL;
}

static inline void fill_summaries(struct world *w)
{
  for (uint32_t n = 0; n < w->compiled->visibility->summary_count; n++) {
    uint32_t input = w->compiled->visibility->summaries[n].tensor - EXPR_TENSOR_INPUT;
    struct tile_array *summary = array_with_role(w, TILE_ROLE_SUMMARY, n);
    if (summary != NULL)
      fill_summary(summary, array_with_role(w, TILE_ROLE_INPUT, input));
  }
}

static inline void make_arrays(struct world *w, struct sizes sizes, int64_t nan_every)
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
      int64_t extents[SPEC_MAX_RANK + 1] = {0};
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
  if (w->compiled->options.target == TARGET_HOST)
    fill_summaries(w);
}

static inline const struct tile_array *array_of(const struct world *w, const char *name)
{
  const struct tile_launch launch = {.arrays = (struct tile_array *)w->arrays,
                                     .array_count = w->array_count};
  return tile_launch_array(&launch, name);
}

static inline struct ref_tensor ref_view(const struct tile_array *a)
{
  struct ref_tensor view = {0};
  if (a == NULL)
    return view;
  view = (struct ref_tensor){.type = a->type, .rank = a->rank, .data = a->data};
  memcpy(view.shape, a->sizes, sizeof(view.shape));
  memcpy(view.stride, a->strides, sizeof(view.stride));
  return view;
}

static inline void run_world(struct world *w)
{
  struct tile_launch launch = {w->arrays, w->array_count, w->params, w->param_count, {0}};
  const char *error = tile_run(&w->code, &launch);
  ck_assert_msg(error == NULL, "%s", error);
  ck_assert_int_eq(launch.fault.raised, 0);
}

/* ---- comparisons ---- */

/* Where element c of a row of an array of rows lies, `width` elements each. */
static inline int64_t row_element(const struct world *w, struct sizes sizes, int64_t b, int64_t h,
                                  int64_t r, int64_t width)
{
  if (w->spec->cache.layout == CACHE_RAGGED)
    return ((start_of(b, sizes.queries) + r) * w->spec->query_heads + h) * width;
  return ((b * w->spec->query_heads + h) * sizes.queries + r) * width;
}

/* What the reference says of the rows of one head. */
struct expected {
  const double *exact, *naive;
  const bool *near_tie; /* rows that are left out */
};

/* `slack`: what may be off besides, relative to the largest result. */
static inline void compare_rows(struct world *w, struct sizes sizes, const struct tile_array *a,
                                int64_t b, int64_t h, struct expected expected, double slack)
{
  ck_assert_ptr_nonnull(a);
  bool ragged = w->spec->cache.layout == CACHE_RAGGED;
  int64_t width = strcmp(a->name, "o") == 0 ? w->spec->dim_v : 1;
  int64_t rows = ragged ? length_of(b, sizes.queries) : sizes.queries;
  double *out = malloc((size_t)(rows * width + 1) * sizeof(*out));
  ck_assert_ptr_nonnull(out);
  for (int64_t r = 0; r < rows; r++)
    for (int64_t c = 0; c < width; c++)
      out[r * width + c] = expected.near_tie[r]
                               ? expected.exact[r * width + c]
                               : tile_array_get(a, row_element(w, sizes, b, h, r, width) + c);
  struct ref_error error =
      ref_compare(out, expected.exact, expected.naive, (size_t)(rows * width), a->type);
  bool close = error.ok || error.out_error <= slack * error.scale;
  ck_assert_msg(close,
                "%s%s in %s, B = %d, NQ = %d, NK = %d, sequence %d, head %d: off by %g, allowed %g",
                w->text, a->name, dtype_name(w->compiled->options.type), (int)sizes.batch,
                (int)sizes.queries, (int)sizes.keys, (int)b, (int)h, error.out_error, error.bound);
  free(out);
}

/* o, and the outputs of rows. */
static inline void compare_within(struct world *w, struct sizes sizes, double slack)
{
  const struct spec *spec = w->spec;
  struct ref_tensor inputs[8];
  int64_t starts[2][8];
  ck_assert_int_lt(sizes.batch, 8);
  for (int64_t b = 0; b <= sizes.batch; b++) {
    starts[0][b] = start_of(b, sizes.queries);
    starts[1][b] = start_of(b, sizes.keys);
  }
  bool ragged = spec->cache.layout == CACHE_RAGGED;
  for (uint32_t n = 0; n < spec->input_count; n++)
    inputs[n] = ref_view(array_of(w, spec->inputs[n].name));
  const struct ref_call call = {.spec = spec,
                                .q = ref_view(array_of(w, "q")),
                                .k = ref_view(array_of(w, "k")),
                                .v = ref_view(array_of(w, "v")),
                                .inputs = inputs,
                                .batch = sizes.batch,
                                .max_queries = sizes.queries,
                                .max_keys = sizes.keys,
                                .query_starts = ragged ? starts[0] : NULL,
                                .key_starts = ragged ? starts[1] : NULL};
  enum dtype type = w->compiled->options.type;
  struct ref_result exact, naive;
  ck_assert(ref_run(&call, REF_EXACT, type, &exact) && ref_run(&call, REF_NAIVE, type, &naive));
  int64_t at = 0;
  for (int64_t b = 0; b < sizes.batch; b++)
    for (int64_t h = 0; h < spec->query_heads; h++) {
      const bool *ties = exact.near_tie + at;
      const int64_t first = at * spec->dim_v;
      compare_rows(w, sizes, array_with_role(w, TILE_ROLE_RESULT, 0), b, h,
                   (struct expected){exact.o + first, naive.o + first, ties}, slack);
      for (uint32_t n = 0; n < spec->output_count; n++)
        compare_rows(w, sizes, array_with_role(w, TILE_ROLE_OUTPUT, n), b, h,
                     (struct expected){exact.outputs[n] + at, naive.outputs[n] + at, ties}, slack);
      at += ragged ? length_of(b, sizes.queries) : sizes.queries;
    }
  ref_result_free(&exact);
  ref_result_free(&naive);
}

#endif
