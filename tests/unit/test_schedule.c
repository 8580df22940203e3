/* Tile sizes: for GPUs what a program asks of a block, counted by hand for small ones, and that
 * what is chosen fits; for the host that a tile fits its cache. */
#include "compiler/schedule/host_tiles.h"
#include "compiler/schedule/residence.h"
#include "compiler/schedule/schedule.h"
#include "dsl/expr_fold.h"
#include "tests/unit/build_programs.h"

#include <stdio.h>
#include <stdlib.h>

struct world {
  struct arena arena;
  struct source_set sources;
  struct diagnostics diagnostics;
  const struct spec *spec;
};

static void open_spec(struct world *w, const char *text)
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
}

static const struct compiled *build_options(struct world *w, const struct compile_options *options)
{
  struct compiled *compiled = compile_build(&w->arena, w->spec, options, &w->diagnostics);
  ck_assert_msg(compiled != NULL, "%s", diagnostics_print(&w->diagnostics, false));
  ck_assert_ptr_null(tile_verify(&w->arena, compiled->program));
  return compiled;
}

static const struct compiled *build_with(struct world *w, enum dtype type, struct schedule schedule)
{
  const struct compile_options options = {
      .target = TARGET_SM_80, .type = type, .schedule = schedule};
  return build_options(w, &options);
}

static struct budget budget_with(struct world *w, enum dtype type, struct schedule schedule)
{
  const struct compiled *compiled = build_with(w, type, schedule);
  return budget_of_program(&w->arena, compiled->program, &compiled->options.schedule);
}

#define CAUSAL "attention a {\n heads q = 4, kv = 2\n dim 64\n mask causal\n}\n"

/* ---- counting ---- */

START_TEST(rows_lie_in_different_banks)
{
  for (uint32_t columns = 16; columns <= 1024; columns += 16) {
    uint32_t half = residence_pitch(columns, TILE_F16, READ_ROWS);
    ck_assert_uint_ge(half, columns * 2);
    ck_assert_uint_lt(half, columns * 2 + 32);
    ck_assert_uint_eq(half % 32, 16);
    ck_assert_uint_eq(half, residence_pitch(columns, TILE_BF16, READ_COLUMNS));
    ck_assert_uint_eq(residence_pitch(columns, TILE_F32, READ_COLUMNS) % 32, 16);
    uint32_t pairs = residence_pitch(columns, TILE_F32, READ_ROWS);
    ck_assert_uint_ge(pairs, columns * 4);
    ck_assert_uint_lt(pairs, columns * 4 + 128);
    ck_assert_uint_eq(pairs % 128, 32);
  }
}
END_TEST

/* s = q k^T and o += s v in a loop; 64 rows, 32 keys, 64 channels of f16. */
static const char products[] =
    "kernel k\n"
    "  tensor q f16[2]\n  tensor k f16[2]\n  tensor v f16[2]\n  tensor o f16[2] written\n"
    "{\n"
    "  %n: index = scalar => 1L\n"
    "  parallel (%t) < (%n) {\n"
    "    %zero: index = scalar => 0L\n"
    "    %end: index = scalar => 256L\n"
    "    %all: index = scalar => 64L\n"
    "    %q: f16[64,64] = load q[%zero, %zero] rows 0 columns 1 live %all, %all\n"
    "    %nothing: f32 = scalar => 0.0\n"
    "    %start: f32[64,64] = splat %nothing\n"
    "    %o: f32[64,64] = for %j = %zero to %end step 32 carry (%acc = %start) {\n"
    "      %k: f16[32,64] = load k[%j, %zero] rows 0 columns 1 live %all, %all\n"
    "      %s: f32[64,32] = product %q, %k transposed\n"
    "      %p: f16[64,32] = convert %s\n"
    "      %v: f16[32,64] = load v[%j, %zero] rows 0 columns 1 live %all, %all\n"
    "      %next: f32[64,64] = product %p, %v, %acc\n"
    "      yield %next\n"
    "    }\n"
    "    store %o to o[%zero, %zero] rows 0 columns 1 live %all, %all\n"
    "  }\n"
    "}\n";

static struct budget budget_of_text(const char *text, struct schedule schedule)
{
  struct arena arena;
  struct source_set sources;
  struct diagnostics diagnostics;
  struct expr_pool pool;
  arena_init(&arena);
  ck_assert(!arena_guard(&arena));
  source_set_init(&sources, &arena);
  diagnostics_init(&diagnostics, &arena, &sources);
  expr_pool_init(&pool, &arena);
  uint32_t source = source_add(&sources, "test.tile", text, strlen(text));
  const struct tile_program *program = tile_parse(&arena, &pool, &sources, source, &diagnostics);
  ck_assert_msg(program != NULL, "%s", diagnostics_print(&diagnostics, false));
  struct budget budget = budget_of_program(&arena, program, &schedule);
  arena_free(&arena);
  return budget;
}

START_TEST(buffers_are_counted)
{
  const size_t row = 64 * 2 + 16, q = 64 * row, tile = 32 * row;
  struct schedule schedule = {.warps = 4, .column_warps = 1, .stages = 1};
  struct budget one = budget_of_text(products, schedule);
  ck_assert_uint_eq(one.shared, q + 2 * tile);
  schedule.stages = 2;
  ck_assert_uint_eq(budget_of_text(products, schedule).shared, q + 4 * tile);
  /* Weights go from warp to warp: 64 rows of 32 in f16. */
  schedule = (struct schedule){.warps = 8, .column_warps = 2, .stages = 1};
  ck_assert_uint_eq(budget_of_text(products, schedule).shared, q + 2 * tile + 64 * (32 * 2 + 16));
  schedule = (struct schedule){.warps = 4, .column_warps = 4, .stages = 1}; /* of 8 keys */
  ck_assert_uint_eq(budget_of_text(products, schedule).shared, q + 2 * tile + 64 * (32 * 2 + 16));
  /* Warps that divide keys alone, 16 each, keep their weights; what they have of o at the end
   * passes through the tiles' buffers. */
  schedule = (struct schedule){.warps = 2, .column_warps = 2, .stages = 1};
  ck_assert_uint_eq(budget_of_text(products, schedule).shared, q + 2 * tile);
}
END_TEST

/* A warp has 16 rows: 8 blocks of o and 4 of s, four numbers each; then s is o's weights. */
START_TEST(registers_are_counted)
{
  struct schedule four = {.warps = 4, .column_warps = 1, .stages = 1};
  struct schedule two = {.warps = 2, .column_warps = 1, .stages = 1};
  struct schedule wide = {.warps = 8, .column_warps = 2, .stages = 1};
  struct schedule keys = {.warps = 2, .column_warps = 2, .stages = 1};
  uint32_t tiles = (8 + 4) * 4;
  uint32_t rest = budget_of_text(products, four).registers - tiles;
  ck_assert_uint_lt(rest, 110);
  ck_assert_uint_eq(budget_of_text(products, two).registers, rest + 2 * tiles);
  ck_assert_uint_eq(budget_of_text(products, wide).registers, rest + tiles / 2);
  /* All rows and columns of o, half of s; q would be too much. */
  ck_assert_uint_eq(budget_of_text(products, keys).registers, rest + 4 * (8 + 2) * 4);
}
END_TEST

START_TEST(more_asks_for_more)
{
  struct world w;
  open_spec(&w, CAUSAL);
  for (int t = 0; t < 2; t++) {
    enum dtype type = t == 0 ? DTYPE_F32 : DTYPE_BF16;
    struct schedule base = {.rows = 64, .columns = 32, .warps = 4, .column_warps = 1, .stages = 1};
    struct budget last = budget_with(&w, type, base);
    for (uint32_t columns = 48; columns <= 128; columns += 16) {
      base.columns = columns;
      struct budget next = budget_with(&w, type, base);
      ck_assert_uint_gt(next.registers, last.registers);
      ck_assert_uint_gt(next.shared, last.shared);
      last = next;
    }
    base.columns = 32;
    last = budget_with(&w, type, base);
    for (uint32_t rows = 128; rows <= 256; rows += 64) {
      base.rows = rows;
      struct budget next = budget_with(&w, type, base);
      ck_assert_uint_gt(next.registers, last.registers);
      ck_assert_uint_gt(next.shared, last.shared);
      last = next;
    }
    struct schedule other = base;
    other.warps = 8;
    ck_assert_uint_lt(budget_with(&w, type, other).registers, last.registers);
    other = base;
    other.stages = 2;
    ck_assert_uint_gt(budget_with(&w, type, other).shared, last.shared);
    ck_assert_uint_eq(budget_with(&w, type, other).registers, last.registers);
  }
  arena_free(&w.arena);
}
END_TEST

/* ---- choosing ---- */

static void expect_fit(struct world *w, const char *text, enum dtype type, uint32_t share)
{
  open_spec(w, text);
  const struct compiled *compiled = build_with(w, type, (struct schedule){0});
  const struct schedule *s = &compiled->options.schedule;
  struct budget budget = budget_of_program(&w->arena, compiled->program, s);
  ck_assert_msg(budget.registers <= BUDGET_REGISTERS, "%s: %u registers", text, budget.registers);
  ck_assert_msg(budget.shared <= BUDGET_MOST_SHARED, "%s: %zu bytes", text, budget.shared);
  if (w->spec->dim_v <= 256)
    ck_assert_msg(budget.shared <= BUDGET_SHARED, "%s: %zu bytes", text, budget.shared);
  ck_assert_uint_eq(s->rows % share, 0);
  ck_assert_uint_eq(s->columns % 16, 0);
  ck_assert_uint_eq(s->warps % s->column_warps, 0);
  ck_assert_ptr_null(schedule_is_wrong(s));
  arena_free(&w->arena);
}

START_TEST(every_size_fits)
{
  static const enum dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
  static const char *const masks[] = {"true", "0 <= i - j < 100",
                                      "(i - j) % 3 == 0 and i * j < 99"};
  for (uint32_t dim = 16; dim <= 256; dim += 8)
    for (uint32_t t = 0; t < 3; t++) {
      struct world w;
      char text[256];
      snprintf(text, sizeof(text), "attention a {\n heads q = 14, kv = 2\n dim %u\n mask %s\n}\n",
               dim, masks[dim / 8 % 3]);
      expect_fit(&w, text, types[t], 7);
    }
}
END_TEST

START_TEST(odd_ones_fit)
{
  static const char *const texts[] = {
      "attention a {\n heads q = 128, kv = 1\n dim qk = 576, v = 512\n value k[0:512]\n}\n",
      "attention a {\n heads q = 71, kv = 1\n dim 64\n}\n",
      "attention a {\n heads 1\n dim qk = 256, v = 128\n map x = softmax(dot(q[0:128], k[0:128]))\n"
      " map y = softmax(dot(q[128:256], k[128:256]))\n weight x - 0.5 * y\n}\n",
      "attention a {\n heads 1\n dim 128\n mask causal\n position rope()\n output mass\n}\n",
  };
  static const uint32_t shares[] = {16, 1, 1, 1};
  for (size_t k = 0; k < sizeof(texts) / sizeof(texts[0]); k++)
    for (int t = 0; t < 2; t++) {
      struct world w;
      expect_fit(&w, texts[k], t == 0 ? DTYPE_F32 : DTYPE_F16, shares[k]);
    }
}
END_TEST

/* ---- decoding ---- */

static struct schedule decode_schedule(const char *text, struct compile_options options)
{
  struct world w;
  open_spec(&w, text);
  options.kernel = KERNEL_DECODE;
  const struct compiled *compiled = build_options(&w, &options);
  struct schedule used = compiled->options.schedule;
  if (options.target != TARGET_HOST) {
    struct budget budget = budget_of_program(&w.arena, compiled->program, &used);
    ck_assert_msg(budget.registers <= BUDGET_REGISTERS, "%s: %u registers", text, budget.registers);
    ck_assert_msg(budget.shared <= BUDGET_MOST_SHARED, "%s: %zu bytes", text, budget.shared);
    ck_assert_ptr_null(schedule_is_wrong(&used));
  }
  arena_free(&w.arena);
  return used;
}

static const char *heads_text(char text[256], uint32_t heads, uint32_t kv_heads, uint32_t dim)
{
  snprintf(text, 256, "attention a {\n heads q = %u, kv = %u\n dim %u\n mask causal\n}\n", heads,
           kv_heads, dim);
  return text;
}

/* Rows of a tile: the heads of a group times the rows of a launch, full blocks of 16 on GPUs. */
START_TEST(decode_tiles_hold_groups)
{
  static const struct {
    uint32_t heads, kv_heads, queries, host_rows, gpu_rows;
  } cases[] = {{8, 8, 1, 1, 16},   {8, 2, 1, 4, 16},   {8, 1, 2, 16, 16},   {14, 2, 1, 7, 14},
               {8, 2, 16, 64, 64}, {8, 1, 16, 64, 64}, {128, 1, 1, 64, 64}, {71, 1, 1, 1, 16}};
  for (size_t k = 0; k < sizeof(cases) / sizeof(cases[0]); k++) {
    char text[256];
    heads_text(text, cases[k].heads, cases[k].kv_heads, 64);
    struct compile_options options = {.type = DTYPE_F16, .queries = cases[k].queries};
    ck_assert_uint_eq(decode_schedule(text, options).rows, cases[k].host_rows);
    options.target = TARGET_SM_80;
    ck_assert_uint_eq(decode_schedule(text, options).rows, cases[k].gpu_rows);
  }
}
END_TEST

START_TEST(decode_schedules_fit)
{
  static const enum dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
  for (uint32_t dim = 16; dim <= 256; dim += 24)
    for (uint32_t t = 0; t < 3; t++) {
      char text[256];
      heads_text(text, 32, 2, dim);
      const struct compile_options options = {
          .target = TARGET_SM_80, .type = types[t], .queries = 1u << dim / 24 % 5};
      struct schedule used = decode_schedule(text, options);
      if (used.rows <= 16) /* no warp is left without rows */
        ck_assert_uint_eq(used.column_warps, used.warps);
      ck_assert_uint_gt(used.tasks, 132);
    }
  const struct compile_options latent = {.target = TARGET_SM_80, .type = DTYPE_BF16};
  decode_schedule(
      "attention a {\n heads q = 128, kv = 1\n dim qk = 576, v = 512\n value k[0:512]\n}\n",
      latent);
}
END_TEST

START_TEST(parts_can_be_asked_for)
{
  struct compile_options options = {.type = DTYPE_F32};
  char text[256];
  heads_text(text, 8, 2, 64);
  ck_assert_uint_eq(decode_schedule(text, options).tasks, 64);
  ck_assert_uint_eq(decode_schedule(text, options).part, 256);
  options.schedule = (struct schedule){.tasks = SCHEDULE_ALL_TASKS, .part = 512};
  ck_assert_uint_eq(decode_schedule(text, options).tasks, SCHEDULE_ALL_TASKS);
  ck_assert_uint_eq(decode_schedule(text, options).part, 512);
}
END_TEST

static void expect_queries(const char *text, enum target target, int64_t nq, uint32_t wanted)
{
  struct world w;
  open_spec(&w, text);
  uint32_t queries = decode_queries(w.spec, target, nq);
  ck_assert_msg(queries == wanted, "%s%s, %lld rows: for %u, not %u", text, target_name(target),
                (long long)nq, queries, wanted);
  arena_free(&w.arena);
}

START_TEST(launches_find_their_decode_kernel)
{
  char text[256];
  heads_text(text, 8, 2, 64);
  const int64_t none[] = {INT64_MIN, -1, 0, 17, UINT32_MAX, INT64_MAX};
  for (size_t k = 0; k < sizeof(none) / sizeof(none[0]); k++) {
    expect_queries(text, TARGET_HOST, none[k], 0);
    expect_queries(text, TARGET_SM_80, none[k], 0);
  }
  expect_queries(text, TARGET_HOST, 1, 1);
  expect_queries(text, TARGET_HOST, 2, 2);
  expect_queries(text, TARGET_HOST, 3, 4);
  expect_queries(text, TARGET_HOST, 16, 16);
  /* Four heads and four rows fill a block. */
  expect_queries(text, TARGET_SM_80, 1, 4);
  expect_queries(text, TARGET_SM_80, 4, 4);
  expect_queries(text, TARGET_SM_80, 5, 8);
  heads_text(text, 8, 8, 64);
  expect_queries(text, TARGET_SM_80, 1, 16);
  heads_text(text, 32, 1, 64); /* 16 rows would read keys eight times */
  expect_queries(text, TARGET_HOST, 1, 1);
  expect_queries(text, TARGET_HOST, 4, 4);
  expect_queries(text, TARGET_HOST, 16, 0);
  heads_text(text, 128, 1, 64);
  expect_queries(text, TARGET_SM_80, 1, 1);
  expect_queries(text, TARGET_SM_80, 16, 0);
  /* What is not split gains where a tile has few rows. */
  const char *twice = "attention a {\n heads q = 8, kv = 2\n dim 64\n normalize sparsemax\n}\n";
  expect_queries(twice, TARGET_HOST, 2, 2);
  expect_queries(twice, TARGET_HOST, 3, 0);
  expect_queries(twice, TARGET_SM_80, 3, 4);
}
END_TEST

START_TEST(what_is_asked_for_stays)
{
  struct world w;
  open_spec(&w, "attention a {\n heads 1\n dim 256\n}\n");
  const struct schedule asked = {.rows = 256, .columns = 256, .warps = 4};
  const struct schedule *got = &build_with(&w, DTYPE_F32, asked)->options.schedule;
  ck_assert_uint_eq(got->rows, 256);
  ck_assert_uint_eq(got->columns, 256);
  ck_assert_uint_eq(got->warps, 4);
  arena_free(&w.arena);
}
END_TEST

START_TEST(wrong_schedules_are_errors)
{
  static const struct schedule wrong[] = {{.warps = 64},
                                          {.stages = 3},
                                          {.warps = 4, .column_warps = 3},
                                          {.warps = 2, .column_warps = 4}};
  for (size_t k = 0; k < sizeof(wrong) / sizeof(wrong[0]); k++) {
    struct world w;
    open_spec(&w, CAUSAL);
    const struct compile_options options = {
        .target = TARGET_SM_80, .type = DTYPE_F16, .schedule = wrong[k]};
    ck_assert_ptr_null(compile_build(&w.arena, w.spec, &options, &w.diagnostics));
    ck_assert(diagnostics_has_errors(&w.diagnostics));
    arena_free(&w.arena);
  }
}
END_TEST

/* Programs that others wrote have their tiles; only the warps are left to choose. */
START_TEST(wrapped_programs_get_warps)
{
  struct world w;
  open_spec(&w, CAUSAL);
  const struct compile_options host = {.target = TARGET_HOST, .type = DTYPE_F32};
  struct compiled *built = compile_build(&w.arena, w.spec, &host, &w.diagnostics);
  ck_assert_ptr_nonnull(built);
  const struct compile_options gpu = {.target = TARGET_SM_80};
  const struct schedule *s = &compile_wrap(&w.arena, built->program, &gpu)->options.schedule;
  ck_assert_uint_gt(s->warps, 4); /* 192 rows by 128 keys */
  ck_assert_ptr_null(schedule_is_wrong(s));
  arena_free(&w.arena);
}
END_TEST

/* ---- against what code is made with ---- */

static void expect_told(struct world *w, const struct compile_options *options, const char *text)
{
  struct compiled *compiled = compile_build(&w->arena, w->spec, options, &w->diagnostics);
  ck_assert_msg(compiled != NULL, "%s", diagnostics_print(&w->diagnostics, false));
  char *code = NULL;
  const char *error = NULL;
  enum compile_status status = compile_emit(&w->arena, compiled, COMPILE_OBJECT, &code, &error);
  if (status == COMPILE_UNAVAILABLE)
    return;
  ck_assert_msg(status == COMPILE_OK, "%s: %s", text, error);
  for (size_t n = 0; n < compiled->kernels.count; n++) {
    const struct compiled_kernel *kernel = &compiled->kernels.items[n];
    struct budget told = budget_of_kernel(&w->arena, kernel->tile, &compiled->options.schedule);
    ck_assert_msg(kernel->shared_bytes == told.shared,
                  "%s: kernel %s was to take %zu bytes and takes %u", text, kernel->tile->name,
                  told.shared, kernel->shared_bytes);
    ck_assert_uint_eq(kernel->threads, 32 * compiled->options.schedule.warps);
  }
  mem_free(compiled->code);
}

START_TEST(code_asks_for_what_was_told)
{
  static const char *const texts[] = {
      CAUSAL,
      "attention a {\n heads 2\n dim qk = 48, v = 80\n mask 0 <= i - j < 30\n position rope()\n}\n",
      "attention a {\n heads q = 8, kv = 1\n dim 128\n}\n",
      "attention a {\n heads q = 16, kv = 1\n dim qk = 320, v = 272\n mask causal\n}\n",
      "attention a {\n heads 2\n dim 32\n normalize sparsemax\n output mass\n}\n",
  };
  for (size_t k = 0; k < sizeof(texts) / sizeof(texts[0]); k++)
    for (int t = 0; t < 2; t++)
      for (uint32_t stages = 1; stages <= 2; stages++) {
        struct world w;
        open_spec(&w, texts[k]);
        const struct compile_options options = {.target = TARGET_SM_80,
                                                .type = t == 0 ? DTYPE_F32 : DTYPE_F16,
                                                .schedule = {.stages = stages}};
        expect_told(&w, &options, texts[k]);
        arena_free(&w.arena);
      }
}
END_TEST

START_TEST(code_on_caches_asks_for_what_was_told)
{
  static const char *const caches[] = {
      "paged(page = 16)",
      "ring(capacity = 100, sinks = 4)",
      "dense, k = e4m3, v = int8(axis = token)",
      "paged(page = 64), k = int4(axis = token, group = 32), v = int4(axis = token, group = 32, "
      "asymmetric = true)",
      "paged(page = 64), k = int2(axis = channel, group = 32, residual = 64, asymmetric = true), "
      "v = int2(axis = token, group = 32, residual = 64, asymmetric = true)",
      "paged(page = 16), k = e4m3(axis = token, group = 32, channels = 32)",
  };
  static const enum kernel_kind kernels[] = {KERNEL_FORWARD, KERNEL_DECODE, KERNEL_APPEND};
  static const enum dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
  for (size_t k = 0; k < sizeof(caches) / sizeof(caches[0]); k++)
    for (uint32_t n = 0; n < 3; n++) {
      struct world w;
      char text[512];
      snprintf(text, sizeof(text),
               "attention a {\n heads q = 8, kv = 2\n dim 64\n position rope\n mask causal\n"
               " cache %s\n}\n",
               caches[k]);
      open_spec(&w, text);
      const struct compile_options options = {.target = TARGET_SM_80,
                                              .kernel = kernels[n],
                                              .on_cache = kernels[n] != KERNEL_APPEND,
                                              .type = types[(k + n) % 3]};
      expect_told(&w, &options, text);
      arena_free(&w.arena);
    }
}
END_TEST

/* ---- the host ---- */

START_TEST(host_tiles_fit_the_cache)
{
  const size_t kib = 1024;
  const struct schedule table = {.rows = 192, .columns = 128}, open = {0};
  const struct {
    uint32_t channels;
    size_t cache;
    struct schedule wanted, expected;
  } cases[] = {
      {256, 1024 * kib, open, {.rows = 192, .columns = 128}},
      {256, 512 * kib, open, {.rows = 192, .columns = 128}},
      {256, 256 * kib, open, {.rows = 96, .columns = 64}}, /* 160 KiB */
      {128, 256 * kib, open, {.rows = 192, .columns = 128}},
      {256, 0, open, {.rows = 48, .columns = 32}},
      {256, 256 * kib, {.rows = 192}, {.rows = 192, .columns = 32}},
      {256, 256 * kib, {.columns = 128}, {.rows = 48, .columns = 128}},
      {256, 0, table, {.rows = 192, .columns = 128}},
  };
  for (size_t k = 0; k < sizeof(cases) / sizeof(cases[0]); k++) {
    struct schedule chosen = table;
    host_fit_tile(&chosen, &cases[k].wanted, cases[k].channels, cases[k].cache);
    ck_assert_msg(chosen.rows == cases[k].expected.rows &&
                      chosen.columns == cases[k].expected.columns,
                  "case %zu: %u x %u", k, chosen.rows, chosen.columns);
  }
  ck_assert_uint_ge(host_second_level_cache(), 64 * kib);
}
END_TEST

int main(void)
{
  Suite *suite = suite_create("schedule");
  TCase *tcase = tcase_create("schedule");
  tcase_add_test(tcase, host_tiles_fit_the_cache);
  tcase_add_test(tcase, rows_lie_in_different_banks);
  tcase_add_test(tcase, buffers_are_counted);
  tcase_add_test(tcase, registers_are_counted);
  tcase_add_test(tcase, more_asks_for_more);
  tcase_add_test(tcase, every_size_fits);
  tcase_add_test(tcase, odd_ones_fit);
  tcase_add_test(tcase, decode_tiles_hold_groups);
  tcase_add_test(tcase, decode_schedules_fit);
  tcase_add_test(tcase, parts_can_be_asked_for);
  tcase_add_test(tcase, launches_find_their_decode_kernel);
  tcase_add_test(tcase, what_is_asked_for_stays);
  tcase_add_test(tcase, wrong_schedules_are_errors);
  tcase_add_test(tcase, wrapped_programs_get_warps);
  tcase_add_test(tcase, code_asks_for_what_was_told);
  tcase_add_test(tcase, code_on_caches_asks_for_what_was_told);
  suite_add_tcase(suite, tcase);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
