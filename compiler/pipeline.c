#include "compiler/pipeline.h"

#include "compiler/build/append.h"
#include "compiler/build/check_cache.h"
#include "compiler/build/passes.h"
#include "compiler/build/select.h"
#include "compiler/build/summaries.h"
#include "compiler/cache/apply.h"
#include "compiler/schedule/order.h"
#include "compiler/schedule/schedule.h"
#include "compiler/target/host/host.h"
#include "compiler/target/nvptx/nvptx.h"
#include "compiler/tile/text.h"

#include <time.h>

const char *target_name(enum target target)
{
  switch (target) {
  case TARGET_HOST: return "host";
  case TARGET_SM_80: return "sm_80";
  }
  return "?";
}

static double now(void)
{
  struct timespec time;
  timespec_get(&time, TIME_UTC);
  return (double)time.tv_sec * 1e3 + (double)time.tv_nsec * 1e-6;
}

/* Reports everything about the spec that the forward builder cannot lower. */
static void check_features(struct build *b)
{
  const struct spec *spec = b->spec;
  struct span place = spec->span;
  if (spec->dim_qk > TILE_MAX_SIDE || spec->dim_v > TILE_MAX_SIDE)
    build_unsupported(b, place, "more than %d channels", (int)TILE_MAX_SIDE);
  if (b->options->kernel == KERNEL_APPEND) {
    append_check(b);
    return;
  }
  if (spec->select.present)
    select_is_supported(b);
  if (spec->has_rotary)
    rotary_is_supported(b);
}

/* Whether a key's vector under `root` differs among the heads of a group. */
static bool has_own_keys(const struct build *b, const struct expr *root)
{
  bool *wanted = ARENA_ARRAY(b->arena, bool, (size_t)root->id + 1);
  wanted[root->id] = true;
  for (uint32_t id = root->id + 1; id-- > 0;) {
    const struct expr *e = b->pool->nodes.items[id];
    if (!wanted[id])
      continue;
    bool of_key = expr_depends(e, EXPR_VAR_H) && expr_depends(e, EXPR_VAR_J);
    if (e->op == EXPR_READ && of_key && e->deps >> EXPR_DEP_BOUND != 0)
      return true;
    for (uint32_t k = 0; k < e->arg_count; k++)
      wanted[e->args[k]->id] = true;
  }
  return false;
}

/* Heads of a group share a tile, and so its keys, unless they see different ones. */
static uint32_t find_most_share(const struct build *b)
{
  const struct spec *spec = b->spec;
  bool own = expr_depends(spec->mask, EXPR_VAR_H) || expr_depends(spec->offset, EXPR_VAR_H) ||
             expr_depends(spec->value, EXPR_VAR_H);
  for (uint32_t m = 0; m < spec->map_count; m++)
    own |= has_own_keys(b, spec->maps[m].score);
  return own ? 1 : b->group;
}

enum { MOST_SHARED = 256 }; /* rows of the host's tiles, where one position's heads fill them */

/* The most heads that a tile may hold in `limit` rows. */
static uint32_t find_share(uint32_t most_share, uint32_t limit)
{
  uint32_t share = 1;
  for (uint32_t n = 2; n <= most_share && n <= limit; n++)
    if (most_share % n == 0)
      share = n;
  return share;
}

/* What the target computes of a tile's rows at once costs no more than one row. */
static uint32_t rows_at_once(enum target target)
{
  return target == TARGET_HOST ? 1 : BUDGET_BLOCK_ROWS;
}

/* The rows of a decode tile: all heads of a group where `limit` rows have room for them. */
static void shape_decode_rows(struct build *b, uint32_t queries, uint32_t limit)
{
  enum { PREFIX_ROWS = 48 };
  uint32_t fill = rows_at_once(b->options->target);
  queries = queries == 0 ? 1 : queries;
  b->share = find_share(b->most_share, limit / queries);
  b->tile_rows = fill / b->share > queries ? fill / b->share : queries;
  b->rows = b->share * b->tile_rows;
  /* On the host rows of several sequences make a larger tile; of another size than usual tiles of
   * keys, so that limit_rows tells them apart. */
  b->prefix_rows = b->tile_rows;
  if (b->options->target == TARGET_HOST && PREFIX_ROWS / b->share > b->tile_rows)
    b->prefix_rows = PREFIX_ROWS / b->share;
}

/* A GPU's registers set the limit; on the host more rows cost nothing but memory. */
static void shape_rows(struct build *b, uint32_t limit)
{
  bool host = b->options->target == TARGET_HOST;
  b->share = find_share(b->most_share, host ? MOST_SHARED : limit);
  b->rows = limit < b->share ? b->share : limit - limit % b->share;
  b->tile_rows = b->rows / b->share;
}

uint32_t decode_queries(const struct spec *spec, enum target target, int64_t nq)
{
  enum { MOST_QUERIES = 16, MOST_UNSPLIT = 8, MOST_TIMES = 2 };
  uint32_t queries = 1;
  if (nq < 1 || nq > MOST_QUERIES)
    return 0;
  while (queries < nq)
    queries *= 2;
  const struct compile_options options = {
      .target = target,
      .kernel = KERNEL_DECODE,
      .type = spec->type == DTYPE_ANY ? DTYPE_F32 : spec->type,
  };
  struct build b = {
      .arena = spec->pool->arena, .spec = spec, .options = &options, .pool = spec->pool};
  b.group = spec->query_heads / spec->kv_heads;
  b.most_share = find_most_share(&b);
  shape_decode_rows(&b, queries, schedule_choose(spec, &options).rows);
  /* How often keys are read, where the forward kernel reads them once. */
  bool pays = queries == 1 || b.most_share <= MOST_TIMES * b.share;
  if (target == TARGET_HOST && forward_looks_twice(&b))
    pays = b.rows <= MOST_UNSPLIT;
  while (queries * 2 <= b.tile_rows && queries < MOST_QUERIES)
    queries *= 2;
  return pays ? queries : 0;
}

static struct compiled *wrap(struct arena *arena, const struct tile_program *program,
                             const struct compile_options *options)
{
  struct compiled *compiled = ARENA_NEW(arena, struct compiled);
  compiled->options = *options;
  compiled->program = program;
  for (size_t k = 0; k < program->kernels.count; k++)
    vector_push(arena, &compiled->kernels,
                (struct compiled_kernel){.tile = program->kernels.items[k]});
  return compiled;
}

struct compiled *compile_wrap(struct arena *arena, const struct tile_program *program,
                              const struct compile_options *options)
{
  struct compile_options used = *options;
  if (options->target != TARGET_HOST)
    schedule_complete(arena, program, &used.schedule);
  return wrap(arena, program, &used);
}

/* Tiles of keys that do not cross blocks of `select`, or pages that are not much smaller. */
static uint32_t fit_columns(const struct build *b, uint32_t columns)
{
  enum { LEAST = 32, STEP = 16 };
  const struct spec *spec = b->spec;
  bool paged = b->reads_cache && spec->cache.layout == CACHE_PAGED && !spec->select.present;
  for (uint32_t n = columns - columns % STEP; n >= LEAST && paged; n -= STEP)
    if (spec->cache.page % n == 0)
      return n;
  return select_columns(spec, columns);
}

/* The program in tiles of that schedule. */
static const struct tile_program *build_program(struct build b, struct schedule *schedule)
{
  const struct spec *spec = b.spec;
  bool host = b.options->target == TARGET_HOST;
  if (b.options->kernel == KERNEL_DECODE)
    shape_decode_rows(&b, b.options->queries, schedule->rows);
  else
    shape_rows(&b, schedule->rows);
  schedule->rows = b.rows;
  b.columns = schedule->columns = fit_columns(&b, schedule->columns);
  b.key_rows = host ? b.columns : BUDGET_BLOCK_ROWS * (schedule->warps / schedule->column_warps);
  b.tile.program = tile_program_new(b.arena, spec->pool);
  if (b.options->kernel == KERNEL_APPEND) {
    append_build(&b);
    if (!host)
      check_cache_build(&b);
    return b.tile.program;
  }
  if (spec->has_rotary && !b.reads_cache)
    rotary_build_keys(&b);
  b.rotated_keys = spec->has_rotary && !(b.reads_cache && spec->cache.rope_on_read);
  if (spec->select.present)
    select_build(&b);
  forward_build(&b);
  if (outputs_want(spec, OUTPUT_MASS))
    mass_build(&b);
  if (b.options->target != TARGET_HOST) {
    if (b.reads_cache)
      check_cache_build(&b);
    summaries_build(&b);
    order_narrow_early(b.tile.program);
  }
  return b.tile.program;
}

/* In the largest tiles that fit every GPU of the target; where none does, one with most memory. */
static const struct tile_program *build_to_fit(const struct build *b, struct compile_options *used,
                                               const struct compile_options *options)
{
  const struct schedule start = used->schedule;
  size_t errors = b->diagnostics->error_count, shared = BUDGET_SHARED;
  for (;;) {
    const struct tile_program *program = build_program(*b, &used->schedule);
    if (used->target == TARGET_HOST || b->diagnostics->error_count != errors)
      return program;
    struct budget found = budget_of_program(b->arena, program, &used->schedule);
    if (found.registers <= BUDGET_REGISTERS && found.shared <= shared)
      return program;
    if (schedule_reduce(&used->schedule, options, &found, shared))
      continue;
    if (shared == BUDGET_MOST_SHARED)
      return program;
    shared = BUDGET_MOST_SHARED;
    used->schedule = start;
  }
}

/* Keys of a cache are no tensor that a launch packs; queries may be. */
static void enter_cache(struct build *b)
{
  const struct spec *spec = b->spec;
  b->cache = cache_plan_new(b->arena, spec);
  b->reads_cache = true;
  b->packed[0] |= b->options->packed_queries;
  b->packed[1] = false;
  if (spec->cache.positions == CACHE_POSITIONS_STORED && spec->input_count + 2 > SPEC_MAX_INPUTS) {
    build_unsupported(b, spec->cache.span, "stored positions beside so many inputs");
    return;
  }
  struct cache_spec applied = cache_apply(b->arena, spec);
  b->spec = applied.spec;
  b->added_inputs = applied.added_inputs;
}

/* Some processors have products of bf16, none of f16 that sum in f32. Few rows are converted as
 * they are read. */
static bool keeps_storage(const struct spec *spec, const struct compile_options *options)
{
  enum dtype type = spec->type == DTYPE_ANY ? options->type : spec->type;
  return options->target != TARGET_HOST ||
         (type == DTYPE_BF16 && options->kernel == KERNEL_FORWARD);
}

struct compiled *compile_build(struct arena *arena, const struct spec *spec,
                               const struct compile_options *options,
                               struct diagnostics *diagnostics)
{
  double start = now();
  struct compile_options used = *options;
  bool ragged = spec->cache.layout == CACHE_RAGGED;
  struct build b = {
      .arena = arena,
      .spec = spec,
      .options = &used,
      .diagnostics = diagnostics,
      .pool = spec->pool,
      .keeps_storage = keeps_storage(spec, options),
      .packed = {ragged, ragged},
      .added_inputs = SPEC_MAX_INPUTS,
  };
  if (spec->type != DTYPE_ANY)
    used.type = spec->type;
  size_t errors = diagnostics->error_count;
  if (options->kernel == KERNEL_APPEND) {
    b.cache = cache_plan_new(arena, spec);
    b.packed[1] |= options->packed_queries;
  } else if (options->on_cache) {
    enter_cache(&b);
  }
  b.group = spec->query_heads / spec->kv_heads;
  b.most_share = find_most_share(&b);
  check_features(&b);
  used.schedule = schedule_choose(spec, &used);
  const char *wrong = options->target == TARGET_HOST ? NULL : schedule_is_wrong(&used.schedule);
  if (wrong != NULL)
    build_unsupported(&b, spec->span,
                      "a schedule of %u warps, %u along columns, and %u stage%s (%s)",
                      used.schedule.warps, used.schedule.column_warps, used.schedule.stages,
                      used.schedule.stages == 1 ? "" : "s", wrong);
  if (diagnostics->error_count != errors)
    return NULL;

  b.visibility = visibility_analyze(arena, b.spec);
  b.bounds = bounds_new(arena, b.spec);
  const struct tile_program *program = build_to_fit(&b, &used, options);
  if (diagnostics->error_count != errors)
    return NULL;
  struct compiled *compiled = wrap(arena, program, &used);
  compiled->spec = spec;
  compiled->cache = b.cache;
  compiled->visibility = b.visibility;
  compiled->timings.build = now() - start;
  return compiled;
}

enum compile_status compile_emit(struct arena *arena, struct compiled *compiled,
                                 enum compile_form form, char **text, const char **error)
{
  if (arena_guard(arena)) {
    *error = "out of memory";
    return COMPILE_OUT_OF_MEMORY;
  }
  *error = tile_verify(arena, compiled->program);
  if (*error != NULL)
    return COMPILE_FAILED;
  switch (compiled->options.target) {
  case TARGET_HOST:
    *error = host_schedule_is_wrong(&compiled->options.schedule);
    return *error != NULL ? COMPILE_FAILED : host_emit(arena, compiled, form, text, error);
  case TARGET_SM_80: return nvptx_emit(arena, compiled, form, text, error);
  }
  *error = "there is no such target";
  return COMPILE_FAILED;
}

const char *compile_identity(enum target target)
{
  switch (target) {
  case TARGET_HOST: return host_identity();
  case TARGET_SM_80: return nvptx_identity();
  }
  return NULL;
}
