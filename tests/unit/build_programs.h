/* Specs built to tile programs, for the suites that look at these programs. */
#ifndef ATTN_TESTS_BUILD_PROGRAMS_H
#define ATTN_TESTS_BUILD_PROGRAMS_H

#include "compiler/pipeline.h"

#include <check.h>
#include <string.h>

struct run {
  struct arena arena;
  struct source_set sources;
  struct diagnostics diagnostics;
  struct compiled *compiled; /* of the first spec; NULL after errors */
};

enum { MAX_TEXT = 65536 };

/* False when memory runs out; everything is freed then. */
static inline bool build_text_with(struct run *run, const char *text, bool ragged,
                                   const struct compile_options *options)
{
  memset(run, 0, sizeof(*run));
  arena_init(&run->arena);
  if (arena_guard(&run->arena)) {
    arena_free(&run->arena);
    return false;
  }
  source_set_init(&run->sources, &run->arena);
  diagnostics_init(&run->diagnostics, &run->arena, &run->sources);
  uint32_t source = source_add(&run->sources, "test.attn", text, strlen(text));
  struct spec_file *file = spec_check(&run->arena, &run->sources, source, NULL, &run->diagnostics);
  if (diagnostics_has_errors(&run->diagnostics))
    return true;
  if (ragged)
    file->specs.items[0]->cache.layout = CACHE_RAGGED;
  run->compiled = compile_build(&run->arena, file->specs.items[0], options, &run->diagnostics);
  return true;
}

static inline bool build_text(struct run *run, const char *text, bool ragged)
{
  const struct compile_options options = {.type = DTYPE_F32};
  return build_text_with(run, text, ragged, &options);
}

/* The program must verify, and read back to the same text. Returns its last kernel. */
static inline const struct tile_kernel *built_with(struct run *run, const char *text, bool ragged,
                                                   const struct compile_options *options)
{
  ck_assert(build_text_with(run, text, ragged, options));
  ck_assert_msg(run->compiled != NULL, "%s\n%s", text, diagnostics_print(&run->diagnostics, false));
  const struct tile_program *program = run->compiled->program;
  const char *wrong = tile_verify(&run->arena, program);
  ck_assert_msg(wrong == NULL, "%s\n%s", text, wrong);
  const char *printed = tile_print(&run->arena, program);
  struct expr_pool pool;
  expr_pool_init(&pool, &run->arena);
  uint32_t source = source_add(&run->sources, "test.tile", printed, strlen(printed));
  struct tile_program *again =
      tile_parse(&run->arena, &pool, &run->sources, source, &run->diagnostics);
  ck_assert_msg(again != NULL, "%s", diagnostics_print(&run->diagnostics, false));
  ck_assert_str_eq(tile_print(&run->arena, again), printed);
  ck_assert_ptr_null(tile_verify(&run->arena, again));
  return program->kernels.items[program->kernels.count - 1];
}

static inline const struct tile_kernel *built(struct run *run, const char *text, bool ragged)
{
  const struct compile_options options = {.type = DTYPE_F32};
  return built_with(run, text, ragged, &options);
}

/* ---- looking at programs ---- */

static inline size_t count_ops(const struct tile_region *region, enum tile_op_kind kind)
{
  size_t count = 0;
  for (const struct tile_op *op = region->first; op != NULL; op = op->next) {
    count += op->kind == kind;
    for (uint32_t k = 0; k < op->region_count; k++)
      count += count_ops(op->regions[k], kind);
  }
  return count;
}

static inline const struct tile_op *find_op(const struct tile_region *region,
                                            enum tile_op_kind kind)
{
  for (const struct tile_op *op = region->first; op != NULL; op = op->next) {
    if (op->kind == kind)
      return op;
    for (uint32_t k = 0; k < op->region_count; k++) {
      const struct tile_op *found = find_op(op->regions[k], kind);
      if (found != NULL)
        return found;
    }
  }
  return NULL;
}

static inline const struct tile_region *loop_region(const struct tile_kernel *kernel, int n)
{
  const struct tile_op *loop = find_op(kernel->body, TILE_FOR_SEGMENTS);
  ck_assert_ptr_nonnull(loop);
  return loop->regions[n];
}

enum { FULL, PARTIAL };

static inline size_t count_bools(const struct tile_region *region)
{
  size_t count = 0;
  for (const struct tile_op *op = region->first; op != NULL; op = op->next)
    count += op->result_count > 0 && op->results[0]->type.element == TILE_BOOL;
  return count;
}

static inline bool contains_op(const struct expr *e, enum expr_op op)
{
  bool found = e->op == op;
  for (uint32_t k = 0; k < e->arg_count && !found; k++)
    found = contains_op(e->args[k], op);
  return found;
}

static inline size_t count_maps_with(const struct tile_region *region, enum expr_op op)
{
  size_t count = 0;
  for (const struct tile_op *o = region->first; o != NULL; o = o->next) {
    count += o->kind == TILE_MAP && contains_op(o->expr, op);
    for (uint32_t k = 0; k < o->region_count; k++)
      count += count_maps_with(o->regions[k], op);
  }
  return count;
}

static inline const struct tile_tensor *find_tensor(const struct tile_kernel *kernel,
                                                    enum tile_role role)
{
  for (size_t k = 0; k < kernel->tensors.count; k++)
    if (kernel->tensors.items[k].role == role)
      return &kernel->tensors.items[k];
  return NULL;
}

/* ---- what is not lowered ---- */

static inline void refused(const char *text, size_t errors, const char *message)
{
  struct run run;
  ck_assert(build_text(&run, text, false));
  ck_assert_ptr_null(run.compiled);
  const char *printed = diagnostics_print(&run.diagnostics, false);
  ck_assert_msg(run.diagnostics.error_count == errors, "%s\n%s", text, printed);
  for (size_t k = 0; k < run.diagnostics.items.count; k++)
    if (run.diagnostics.items.items[k].severity == DIAG_ERROR)
      ck_assert_int_eq(run.diagnostics.items.items[k].code, DIAG_NOT_LOWERED);
  ck_assert_msg(strstr(printed, message) != NULL, "%s", printed);
  ck_assert_ptr_nonnull(strstr(printed, "not yet lowered for host"));
  arena_free(&run.arena);
}

#define ATTENTION(statements) "attention a {\n heads 2\n dim 16\n" statements "\n}\n"

#endif
