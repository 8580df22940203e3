#include "compiler/pipeline.h"

#include "compiler/build/passes.h"
#include "compiler/build/select.h"
#include "compiler/build/summaries.h"
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
  if (spec->select.present)
    select_is_supported(b);
  if (spec->cache.layout == CACHE_RING)
    build_unsupported(b, spec->cache.span, "a ring cache");
  if (spec->cache.k.type != spec->cache.v.type ||
      (spec->cache.k.type != DTYPE_SPEC && spec->cache.k.type != DTYPE_ANY))
    build_unsupported(b, spec->cache.span, "a quantised cache");
  if (spec->cache.layout != CACHE_NONE && spec->cache.positions != CACHE_POSITIONS_ORIGINAL)
    build_unsupported(b, spec->cache.span, "positions other than the keys' own");
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

/* The program in tiles of that schedule. */
static const struct tile_program *build_program(struct build b, struct schedule *schedule)
{
  const struct spec *spec = b.spec;
  /* A GPU's registers set the limit; on the host more rows cost nothing but memory. */
  bool host = b.options->target == TARGET_HOST;
  b.share = find_share(b.most_share, host ? MOST_SHARED : schedule->rows);
  b.rows = schedule->rows < b.share ? b.share : schedule->rows - schedule->rows % b.share;
  schedule->rows = b.rows;
  b.columns = schedule->columns = select_columns(spec, schedule->columns);
  b.tile_rows = b.rows / b.share;
  b.key_rows = host ? b.columns : BUDGET_BLOCK_ROWS * (schedule->warps / schedule->column_warps);
  b.tile.program = tile_program_new(b.arena, spec->pool);
  if (spec->has_rotary)
    rotary_build_keys(&b);
  b.rotated_keys = spec->has_rotary;
  if (spec->select.present)
    select_build(&b);
  forward_build(&b);
  if (outputs_want(spec, OUTPUT_MASS))
    mass_build(&b);
  if (b.options->target != TARGET_HOST) {
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

struct compiled *compile_build(struct arena *arena, const struct spec *spec,
                               const struct compile_options *options,
                               struct diagnostics *diagnostics)
{
  double start = now();
  struct compile_options used = *options;
  struct build b = {
      .arena = arena,
      .spec = spec,
      .options = &used,
      .diagnostics = diagnostics,
      .pool = spec->pool,
      .keeps_storage = options->target != TARGET_HOST,
      .ragged = spec->cache.layout == CACHE_RAGGED,
  };
  if (spec->type != DTYPE_ANY)
    used.type = spec->type;
  size_t errors = diagnostics->error_count;
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

  b.visibility = visibility_analyze(arena, spec);
  b.bounds = bounds_new(arena, spec);
  const struct tile_program *program = build_to_fit(&b, &used, options);
  if (diagnostics->error_count != errors)
    return NULL;
  struct compiled *compiled = wrap(arena, program, &used);
  compiled->spec = spec;
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
  case TARGET_HOST: return host_emit(arena, compiled, form, text, error);
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
