#include "compiler/pipeline.h"

#include "compiler/build/passes.h"
#include "compiler/build/select.h"
#include "compiler/schedule/schedule.h"
#include "compiler/target/host/host.h"
#include "compiler/tile/text.h"

#include <time.h>

const char *target_name(enum target target)
{
  switch (target) {
  case TARGET_HOST: return "host";
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

enum { MAX_SHARE = 256 }; /* rows of a tile at most, where one position's heads fill it */

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
static void pack_heads(struct build *b)
{
  const struct spec *spec = b->spec;
  b->group = spec->query_heads / spec->kv_heads;
  b->share = 1;
  bool own = expr_depends(spec->mask, EXPR_VAR_H) || expr_depends(spec->offset, EXPR_VAR_H) ||
             expr_depends(spec->value, EXPR_VAR_H);
  for (uint32_t m = 0; m < spec->map_count; m++)
    own |= has_own_keys(b, spec->maps[m].score);
  if (own)
    return;
  for (uint32_t share = 1; share <= b->group && share <= MAX_SHARE; share++)
    if (b->group % share == 0)
      b->share = share;
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
  return wrap(arena, program, options);
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
      .ragged = spec->cache.layout == CACHE_RAGGED,
  };
  if (spec->type != DTYPE_ANY)
    used.type = spec->type;
  size_t errors = diagnostics->error_count;
  pack_heads(&b);
  check_features(&b);
  if (diagnostics->error_count != errors)
    return NULL;

  used.schedule = schedule_choose(spec, options, b.share);
  b.rows = used.schedule.rows;
  b.columns = used.schedule.columns = select_columns(spec, used.schedule.columns);
  b.tile_rows = b.rows / b.share;
  struct visibility *visibility = visibility_analyze(arena, spec);
  b.visibility = visibility;
  b.bounds = bounds_new(arena, spec);
  b.tile.program = tile_program_new(arena, spec->pool);
  if (spec->has_rotary)
    rotary_build_keys(&b);
  b.rotated_keys = spec->has_rotary;
  if (spec->select.present)
    select_build(&b);
  forward_build(&b);
  if (outputs_want(spec, OUTPUT_MASS))
    mass_build(&b);
  if (diagnostics->error_count != errors)
    return NULL;
  struct compiled *compiled = wrap(arena, b.tile.program, &used);
  compiled->spec = spec;
  compiled->visibility = visibility;
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
  }
  *error = "there is no such target";
  return COMPILE_FAILED;
}

const char *compile_identity(enum target target)
{
  switch (target) {
  case TARGET_HOST: return host_identity();
  }
  return NULL;
}
