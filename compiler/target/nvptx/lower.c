/* One kernel: the block's place in the grid, scalars, and the walk over regions. */
#include "compiler/target/nvptx/lower.h"

#include "compiler/schedule/budget.h"

#include <assert.h>

static LLVMValueRef scalar_operand(void *user, uint32_t index)
{
  struct gpu *g = user;
  return gpu_value(g, g->op->operands[index])->scalar;
}

LLVMValueRef gpu_scalar(struct gpu *g, const struct tile_op *op)
{
  gpu_order_reads(g, op->expr);
  emit_expression_reset(&g->expression);
  g->expression.operand = scalar_operand;
  g->expression.user = g;
  g->op = op;
  return gpu_round(g, op->results[0]->type.element, emit_expression(&g->expression, op->expr));
}

/* A few instructions: no memory, no division, no random numbers and no loops. */
static bool is_cheap(const struct expr *e)
{
  enum { HEIGHT = 4 };
  const bool slow = e->op == EXPR_FLOORDIV || e->op == EXPR_MOD || e->op == EXPR_DIV ||
                    e->op == EXPR_POW || e->op >= EXPR_HASH;
  if (e->height > HEIGHT || slow || (e->deps & EXPR_DEP(EXPR_DEP_READ)) != 0)
    return false;
  bool cheap = true;
  for (uint32_t k = 0; cheap && k < e->arg_count; k++)
    cheap = is_cheap(e->args[k]);
  return cheap;
}

bool gpu_is_for_walks(const struct gpu *g, const struct tile_value *value)
{
  const struct residence_value *v = &g->where->values[value->id];
  if (value->def == NULL || value->def->kind != TILE_SCALAR || !is_cheap(value->def->expr))
    return false;
  for (size_t n = 0; n < v->users.count; n++) {
    const struct tile_op *user = v->users.items[n];
    if (user->kind != TILE_FOR_SEGMENTS)
      return false;
    const uint32_t first = 2 * user->segment_count, end = first + user->extra_count;
    for (uint32_t k = 0; k < user->operand_count; k++)
      if (user->operands[k] == value && (k < first || k >= end))
        return false;
  }
  return v->users.count > 0;
}

void gpu_lower_scalar(struct gpu *g, const struct tile_op *op)
{
  if (!gpu_is_for_walks(g, op->results[0]))
    *gpu_value(g, op->results[0]) =
        (struct gpu_value){.kind = GPU_SCALAR, .scalar = gpu_scalar(g, op)};
}

/* The block's number -> one index an extent, the last running fastest and downwards: where later
 * rows see more keys, the long tasks come first. */
static void lower_parallel(struct gpu *g, const struct tile_op *op)
{
  struct emit *e = g->e;
  LLVMValueRef rest = emit_gpu_block(e);
  for (uint32_t k = op->operand_count; k > 0; k--) {
    LLVMValueRef extent = LLVMBuildTrunc(e->builder, gpu_index(g, op->operands[k - 1]), e->i32, "");
    LLVMValueRef index = k == 1 ? rest : LLVMBuildURem(e->builder, rest, extent, "");
    if (k > 1)
      rest = LLVMBuildUDiv(e->builder, rest, extent, "");
    if (k == op->operand_count) {
      LLVMValueRef last = LLVMBuildSub(e->builder, extent, emit_i32(e, 1), "");
      index = LLVMBuildSub(e->builder, last, index, "");
    }
    *gpu_value(g, op->regions[0]->arguments[k - 1]) = (struct gpu_value){
        .kind = GPU_SCALAR, .scalar = LLVMBuildZExt(e->builder, index, e->i64, "")};
  }
  gpu_lower_region(g, op->regions[0]);
}

static void lower_scale_rows(struct gpu *g, const struct tile_op *op)
{
  if (!residence_is_apart(g->where, op->results[0])) {
    gpu_scale_rows(g, op);
    return;
  }
  uint32_t warps = gpu_enter_apart(g);
  gpu_scale_rows(g, op);
  gpu_leave_apart(g, warps);
}

static void lower_op(struct gpu *g, const struct tile_op *op)
{
  if (op->result_count == 1 && residence_is_only_rows(g->where, op->results[0]))
    return; /* loads and stores compute it where they need it */
  switch (op->kind) {
  case TILE_SCALAR: gpu_lower_scalar(g, op); return;
  case TILE_PARALLEL: lower_parallel(g, op); return;
  case TILE_FOR: gpu_for(g, op); return;
  case TILE_FOR_SEGMENTS: gpu_for_segments(g, op); return;
  case TILE_IF: gpu_if(g, op); return;
  case TILE_YIELD:
  case TILE_LIMIT_ROWS:
  case TILE_LIMIT_COLUMNS: return; /* the hardware has no use for the hints */
  case TILE_SPLAT:
  case TILE_IOTA: gpu_iota(g, op); return;
  case TILE_LOAD: gpu_load(g, op); return;
  case TILE_STORE:
  case TILE_ACCUMULATE: gpu_store(g, op); return;
  case TILE_PRODUCT: gpu_product(g, op); return;
  case TILE_CONTRACT: gpu_contract(g, op); return;
  case TILE_MAP: gpu_map(g, op); return;
  case TILE_CHECK: gpu_check(g, op); return;
  case TILE_REDUCE: gpu_reduce(g, op); return;
  case TILE_SCAN: gpu_scan(g, op); return;
  case TILE_BROADCAST: gpu_broadcast(g, op); return;
  case TILE_SCALE_ROWS: lower_scale_rows(g, op); return;
  case TILE_TRANSPOSE: gpu_transpose(g, op); return;
  case TILE_PERMUTE: gpu_permute(g, op); return;
  case TILE_CONVERT: gpu_convert(g, op); return;
  case TILE_TRIANGULAR_SOLVE: gpu_triangular_solve(g, op); return;
  case TILE_BUFFER:
  case TILE_COPY_ASYNC:
  case TILE_PRODUCT_ASYNC:
  case TILE_WAIT:
  case TILE_PIPE_ACQUIRE:
  case TILE_PIPE_COMMIT:
  case TILE_PIPE_WAIT:
  case TILE_PIPE_RELEASE:
  case TILE_BUFFER_LOAD:
  case TILE_BUFFER_STORE:
  case TILE_ROLE:
  case TILE_BARRIER:
  case TILE_OP_COUNT: break;
  }
  assert(false && "this target takes plain programs");
}

void gpu_lower_region(struct gpu *g, const struct tile_region *region)
{
  for (const struct tile_op *op = region->first; op != NULL; op = op->next)
    lower_op(g, op);
}

static void find_thread(struct gpu *g)
{
  struct emit *e = g->e;
  g->thread = emit_gpu_thread(e);
  g->lane = emit_gpu_lane(e);
  LLVMValueRef warp = emit_gpu_warp(e);
  LLVMValueRef columns = emit_i32(e, (int32_t)g->column_warps);
  g->warp_row = LLVMBuildUDiv(e->builder, warp, columns, "");
  g->warp_column = LLVMBuildURem(e->builder, warp, columns, "");
  g->lane_row = LLVMBuildLShr(e->builder, g->lane, emit_i32(e, 2), "");
  LLVMValueRef quad = LLVMBuildAnd(e->builder, g->lane, emit_i32(e, 3), "");
  g->lane_column = LLVMBuildShl(e->builder, quad, emit_i32(e, 1), "");
}

/* `of_floats`: products of f32; else any other. */
static bool has_product(const struct tile_region *region, bool of_floats)
{
  bool has = false;
  for (const struct tile_op *op = region->first; op != NULL && !has; op = op->next) {
    if (op->kind == TILE_PRODUCT)
      has = (op->operands[0]->type.element == TILE_F32) == of_floats;
    for (uint32_t k = 0; k < op->region_count && !has; k++)
      has = has_product(op->regions[k], of_floats);
  }
  return has;
}

static bool has_contract(const struct tile_region *region)
{
  bool has = false;
  for (const struct tile_op *op = region->first; op != NULL && !has; op = op->next) {
    has = op->kind == TILE_CONTRACT;
    for (uint32_t k = 0; k < op->region_count && !has; k++)
      has = has_contract(op->regions[k]);
  }
  return has;
}

/* The blocks that a multiprocessor has registers for at once, or 0 where ptxas may choose. It
 * trades a few spills for one block more, which the many sums of a contract, read and written for
 * every term, do not pay for. Where the keys are divided among few tasks there are no blocks for
 * that; of products of f32 ptxas makes the better code if it may choose. */
static uint32_t blocks_at_once(const struct gpu *g)
{
  enum { REGISTERS = 1 << 16 }; /* of a multiprocessor, in every compute capability from 8.0 on */
  const struct tile_region *body = g->kernel->body;
  const bool divided =
      g->schedule.tasks > 0 && has_product(body, false) && !has_product(body, true);
  if (!divided && !has_contract(body))
    return 0;
  const uint32_t wanted = budget_of_kernel(g->arena, g->kernel, &g->schedule).registers;
  const uint32_t blocks = REGISTERS / (gpu_threads(g) * wanted);
  return blocks > 0 ? blocks : 1;
}

enum { DEFAULT_WARPS = 4 };

const char *nvptx_lower_kernel(struct emit *e, struct arena *arena, const struct compiled *compiled,
                               struct compiled_kernel *kernel)
{
  struct gpu *g = ARENA_NEW(arena, struct gpu);
  g->e = e;
  g->arena = arena;
  g->program = compiled->program;
  g->kernel = kernel->tile;
  g->schedule = compiled->options.schedule;
  struct schedule *s = &g->schedule;
  s->column_warps = s->column_warps == 0 ? 1 : s->column_warps;
  const uint32_t warps = s->warps = s->warps == 0 ? DEFAULT_WARPS : s->warps;
  g->column_warps = s->column_warps;
  g->row_warps = warps / g->column_warps;
  if (g->row_warps == 0 || warps > 32 || warps % g->column_warps != 0)
    return arena_format(arena, "a block cannot have %u warps with %u beside each other", warps,
                        g->column_warps);
  g->values = ARENA_ARRAY(arena, struct gpu_value, g->kernel->value_count);
  g->where = residence_new(arena, g->kernel, s);
  kernel->threads = warps * EMIT_WARP;
  LLVMValueRef slots = emit_gpu_kernel(e, g->kernel->name, tile_slot_count(g->kernel),
                                       kernel->threads, blocks_at_once(g));
  emit_slots_init(e, &g->slots, g->kernel, slots);
  emit_expression_init(&g->expression, e, &g->slots, g->program->pool);
  find_thread(g);
  gpu_lower_region(g, g->kernel->body);
  LLVMBuildRetVoid(e->builder);
  kernel->shared_bytes = g->shared_peak;
  if (g->shared_peak > GPU_SHARED_LIMIT)
    return arena_format(
        arena,
        "kernel %s needs %u bytes of shared memory, more than the %d that a block can have; "
        "choose fewer rows or columns",
        g->kernel->name, g->shared_peak, (int)GPU_SHARED_LIMIT);
  return NULL;
}
