/* Loops and branches: the values that they pass on, and the walk over the tiles of segments. */
#include "compiler/schedule/budget.h"
#include "compiler/target/nvptx/stream.h"

/* ---- values that loops and branches pass on ---- */

/* The loop's carried value k is a sum of which warps have parts. */
static bool is_apart(const struct gpu *g, const struct tile_op *op, uint32_t k)
{
  return op->kind != TILE_IF && residence_is_apart(g->where, op->regions[0]->arguments[1 + k]);
}

static uint32_t carried_count(struct gpu *g, const struct tile_op *op, uint32_t k)
{
  struct tile_type type = op->results[k]->type;
  if (type.kind != TILE_KIND_TILE)
    return 1;
  if (!is_apart(g, op, k))
    return gpu_register_count(g, type);
  uint32_t warps = gpu_enter_apart(g), count = gpu_register_count(g, type);
  gpu_leave_apart(g, warps);
  return count;
}

static LLVMTypeRef scalar_type(struct gpu *g, enum tile_element element)
{
  return emit_expr_type(g->e, tile_element_expr_type(element));
}

/* Stack variables, which LLVM turns into registers: by result and register. */
static LLVMValueRef **carried_new(struct gpu *g, const struct tile_op *op)
{
  LLVMValueRef **carried = ARENA_ARRAY(g->arena, LLVMValueRef *, op->result_count);
  for (uint32_t k = 0; k < op->result_count; k++) {
    struct tile_type type = op->results[k]->type;
    bool tile = type.kind == TILE_KIND_TILE;
    uint32_t count = carried_count(g, op, k);
    carried[k] = ARENA_ARRAY(g->arena, LLVMValueRef, count);
    for (uint32_t n = 0; n < count; n++)
      carried[k][n] =
          emit_variable(g->e, tile ? gpu_register_type(g, type) : scalar_type(g, type.element));
  }
  return carried;
}

static void carried_set(struct gpu *g, const struct tile_op *op, LLVMValueRef **carried,
                        struct tile_value *const *values)
{
  /* All are fetched before any is set: a value may be passed on in another's place. */
  const LLVMValueRef **registers = ARENA_ARRAY(g->arena, const LLVMValueRef *, op->result_count);
  for (uint32_t k = 0; k < op->result_count; k++)
    registers[k] = values[k]->type.kind == TILE_KIND_TILE ? gpu_registers(g, values[k])
                                                          : &gpu_value(g, values[k])->scalar;
  for (uint32_t k = 0; k < op->result_count; k++)
    for (uint32_t n = 0; n < carried_count(g, op, k); n++)
      gpu_set(g, carried[k][n], registers[k][n]);
}

/* What a loop starts with. */
static void carried_start(struct gpu *g, const struct tile_op *op, LLVMValueRef **carried,
                          struct tile_value *const *values)
{
  for (uint32_t k = 0; k < op->result_count; k++) {
    const uint32_t count = carried_count(g, op, k);
    const LLVMValueRef *registers = &gpu_value(g, values[k])->scalar;
    if (is_apart(g, op, k)) {
      LLVMValueRef *parts = ARENA_ARRAY(g->arena, LLVMValueRef, count);
      gpu_start_apart(g, values[k], parts, count);
      registers = parts;
    } else if (values[k]->type.kind == TILE_KIND_TILE) {
      registers = gpu_registers(g, values[k]);
    }
    for (uint32_t n = 0; n < count; n++)
      gpu_set(g, carried[k][n], registers[n]);
  }
}

static void carried_get(struct gpu *g, const struct tile_op *op, LLVMValueRef **carried,
                        struct tile_value *const *values)
{
  for (uint32_t k = 0; k < op->result_count; k++) {
    struct tile_type type = values[k]->type;
    if (type.kind != TILE_KIND_TILE) {
      *gpu_value(g, values[k]) = (struct gpu_value){
          .kind = GPU_SCALAR, .scalar = gpu_get(g, scalar_type(g, type.element), carried[k][0])};
      continue;
    }
    const uint32_t count = carried_count(g, op, k);
    LLVMValueRef *registers = ARENA_ARRAY(g->arena, LLVMValueRef, count);
    for (uint32_t n = 0; n < count; n++)
      registers[n] = gpu_get(g, gpu_register_type(g, type), carried[k][n]);
    *gpu_value(g, values[k]) = (struct gpu_value){.kind = GPU_FRAGMENT, .elements = registers};
  }
}

/* What a loop that took so many bytes of shared memory leaves. */
static void carried_end(struct gpu *g, const struct tile_op *op, LLVMValueRef **carried,
                        uint32_t loop_bytes)
{
  carried_get(g, op, carried, op->results);
  for (uint32_t k = 0; k < op->result_count; k++)
    if (is_apart(g, op, k))
      gpu_add_apart(g, op->results[k], gpu_value(g, op->results[k])->elements, loop_bytes);
}

static void lower_body(struct gpu *g, const struct tile_op *op, uint32_t region,
                       LLVMValueRef position, LLVMValueRef **carried)
{
  const struct tile_region *body = op->regions[region];
  uint32_t used = g->shared_used;
  if (position != NULL) {
    *gpu_value(g, body->arguments[0]) = (struct gpu_value){.kind = GPU_SCALAR, .scalar = position};
    carried_get(g, op, carried, body->arguments + 1);
  }
  gpu_lower_region(g, body);
  if (op->result_count > 0)
    carried_set(g, op, carried, body->last->operands);
  gpu_release(g, used);
}

void gpu_if(struct gpu *g, const struct tile_op *op)
{
  struct emit *e = g->e;
  LLVMValueRef **carried = carried_new(g, op);
  struct emit_branch branch;
  struct gpu_loop *loop = g->loop;
  g->loop = NULL; /* no stream arrives in a branch */
  emit_if(e, &branch, gpu_element(g, op->operands[0], 0, 0));
  const bool before = g->reading;
  lower_body(g, op, 0, NULL, carried);
  emit_else(e, &branch);
  const bool after = g->reading;
  g->reading = before;
  lower_body(g, op, 1, NULL, carried);
  emit_end_if(e, &branch);
  g->reading = g->reading || after;
  g->loop = loop;
  carried_get(g, op, carried, op->results);
}

/* ---- loops ---- */

/* The loop's buffers, and the copies that come before the first tile, which `next` describes. */
static void loop_begin(struct gpu *g, struct gpu_loop *loop)
{
  struct emit *e = g->e;
  loop->outer = g->loop;
  gpu_streams_begin(g, loop);
  if (loop->count > 0 && loop->stages == 2) {
    loop->slot_variable = emit_variable(g->e, e->i32);
    gpu_set(g, loop->slot_variable, emit_i32(e, 0));
  }
}

static void loop_start(struct gpu *g, struct gpu_loop *loop)
{
  if (loop->count == 0)
    return;
  gpu_barrier(g); /* whoever read what lay in the buffers before is done */
  gpu_copy_next(g, loop, 0, loop->stages == 2 ? loop->count : 1,
                loop->stages == 2 ? emit_i32(g->e, 0) : NULL);
}

static void loop_region(struct gpu *g, struct gpu_loop *loop, uint32_t region,
                        LLVMValueRef **carried)
{
  loop->arrived = 0;
  loop->full = region == 0 ? LLVMConstInt(g->e->i1, 1, false) : LLVMConstInt(g->e->i1, 0, false);
  g->loop = loop;
  g->reading = true; /* of the turn before */
  lower_body(g, loop->op, region, loop->position, carried);
  g->reading = true;
  g->loop = loop->outer;
}

static void loop_turn(struct gpu *g, struct gpu_loop *loop)
{
  loop->slot = loop->slot_variable == NULL ? NULL : gpu_get(g, g->e->i32, loop->slot_variable);
}

static void loop_end_turn(struct gpu *g, struct gpu_loop *loop)
{
  if (loop->slot_variable != NULL)
    gpu_set(g, loop->slot_variable, LLVMBuildXor(g->e->builder, loop->slot, emit_i32(g->e, 1), ""));
}

/* A branch that is never taken, which ptxas cannot know: within a block it moves what does not
 * depend on products in front of them, and holds it in registers meanwhile. */
void gpu_end_block(struct gpu *g)
{
  struct emit *e = g->e;
  if (g->loop == NULL || g->loop->tile == NULL)
    return;
  LLVMBasicBlockRef never = emit_block(e, "never"), on = emit_block(e, "on");
  LLVMValueRef tile = g->loop->tile;
  LLVMBuildCondBr(e->builder,
                  LLVMBuildICmp(e->builder, LLVMIntEQ, tile, emit_i32(e, GPU_NO_TILE - 1), ""),
                  never, on);
  LLVMPositionBuilderAtEnd(e->builder, never);
  LLVMBuildRetVoid(e->builder);
  LLVMPositionBuilderAtEnd(e->builder, on);
}

LLVMValueRef gpu_once(struct gpu *g, struct gpu_key key,
                      LLVMValueRef (*make)(struct gpu *g, void *user), void *user)
{
  struct emit *e = g->e;
  struct gpu_loop *loop = g->loop;
  if (loop == NULL || loop->before == NULL)
    return make(g, user);
  for (uint32_t n = 0; n < loop->once_count; n++) {
    const struct gpu_key *k = &loop->once[n].key;
    if (k->what == key.what && k->count == key.count && k->pitch == key.pitch)
      return loop->once[n].value;
  }
  if (loop->once_count == sizeof(loop->once) / sizeof(*loop->once))
    return make(g, user);
  LLVMBasicBlockRef here = LLVMGetInsertBlock(e->builder);
  LLVMPositionBuilderBefore(e->builder, LLVMGetBasicBlockTerminator(loop->before));
  /* From itself: what a thread got from another, ptxas does not compute again in every turn. */
  LLVMValueRef value = emit_gpu_shuffle(e, make(g, user), g->lane);
  LLVMPositionBuilderAtEnd(e->builder, here);
  loop->once[loop->once_count++] = (struct gpu_once){key, value};
  return value;
}

static void step_on(struct gpu *g, const struct gpu_loop *loop)
{
  gpu_set(g, loop->next,
          LLVMBuildAdd(g->e->builder, loop->position, emit_i64(g->e, loop->op->step), ""));
}

/* Copies ahead need the next position during a turn, beside that of the tile at hand. */
void gpu_for(struct gpu *g, const struct tile_op *op)
{
  struct emit *e = g->e;
  uint32_t used = g->shared_used;
  struct gpu_loop loop = {
      .op = op, .next = emit_variable(e, e->i64), .end = gpu_index(g, op->operands[1])};
  LLVMValueRef **carried = carried_new(g, op);
  carried_start(g, op, carried, op->operands + 2);
  loop_begin(g, &loop);
  gpu_set(g, loop.next, gpu_index(g, op->operands[0]));
  loop_start(g, &loop);
  LLVMBasicBlockRef head = emit_block(e, "next"), body = emit_block(e, "turn"),
                    exit = emit_block(e, "done");
  LLVMBuildBr(e->builder, head);
  LLVMPositionBuilderAtEnd(e->builder, head);
  LLVMBuildCondBr(e->builder, gpu_next_exists(g, &loop), body, exit);
  LLVMPositionBuilderAtEnd(e->builder, body);
  loop.position = gpu_next_position(g, &loop);
  if (loop.count > 0)
    step_on(g, &loop);
  loop_turn(g, &loop);
  loop_region(g, &loop, 0, carried);
  if (loop.count == 0)
    step_on(g, &loop);
  loop_end_turn(g, &loop);
  emit_never_unroll(e, LLVMBuildBr(e->builder, head));
  LLVMPositionBuilderAtEnd(e->builder, exit);
  const uint32_t bytes = g->shared_used - used;
  gpu_release(g, used);
  carried_end(g, op, carried, bytes);
}

/* ---- for_segments ---- */

struct walk {
  const struct tile_op *op;
  LLVMValueRef *from, *to; /* i32: each segment's tiles */
  LLVMValueRef *extra;     /* what the tests read */
};

static LLVMValueRef extra_operand(void *user, uint32_t index)
{
  return ((LLVMValueRef *)user)[index];
}

/* The op's extra operands, which follow its segments. */
static void find_extra(struct gpu *g, const struct walk *walk)
{
  for (uint32_t k = 0; k < walk->op->extra_count; k++) {
    const struct tile_value *value = walk->op->operands[2 * walk->op->segment_count + k];
    walk->extra[k] =
        gpu_is_for_walks(g, value) ? gpu_scalar(g, value->def) : gpu_value(g, value)->scalar;
  }
}

/* The number of a position's tile: positions have 31 bits, so that an i32 is enough. */
static LLVMValueRef floor_tiles(struct gpu *g, LLVMValueRef position, uint32_t step)
{
  struct emit *e = g->e;
  LLVMValueRef bounded =
      emit_intrinsic(e, "llvm.smax", e->i64, (LLVMValueRef[]){position, emit_i64(e, 0)}, 2);
  bounded =
      emit_intrinsic(e, "llvm.smin", e->i64, (LLVMValueRef[]){bounded, emit_i64(e, INT32_MAX)}, 2);
  return LLVMBuildUDiv(e->builder, LLVMBuildTrunc(e->builder, bounded, e->i32, ""),
                       emit_i32(e, (int32_t)step), "");
}

static void walk_begin(struct gpu *g, struct walk *walk, const struct tile_op *op)
{
  struct emit *e = g->e;
  walk->op = op;
  walk->from = ARENA_ARRAY(g->arena, LLVMValueRef, op->segment_count + 1);
  walk->to = ARENA_ARRAY(g->arena, LLVMValueRef, op->segment_count + 1);
  walk->extra = ARENA_ARRAY(g->arena, LLVMValueRef, op->extra_count + 1);
  for (uint32_t k = 0; k < op->segment_count; k++) {
    LLVMValueRef lo = gpu_index(g, op->operands[2 * k]), hi = gpu_index(g, op->operands[2 * k + 1]);
    lo = emit_intrinsic(e, "llvm.smax", e->i64, (LLVMValueRef[]){lo, emit_i64(e, 0)}, 2);
    walk->from[k] = floor_tiles(g, lo, op->step);
    LLVMValueRef last =
        floor_tiles(g, LLVMBuildAdd(e->builder, hi, emit_i64(e, op->step - 1), ""), op->step);
    LLVMValueRef empty = LLVMBuildICmp(e->builder, LLVMIntSGE, lo, hi, "");
    walk->to[k] = emit_select(e, empty, emit_i32(e, 0), last);
  }
}

/* Moves on to the next tile that `may` does not exclude. */
static void walk_on(struct gpu *g, const struct walk *walk, struct gpu_loop *loop)
{
  struct emit *e = g->e;
  const struct tile_op *op = walk->op;
  const LLVMValueRef never = emit_i32(e, GPU_NO_TILE);
  LLVMBasicBlockRef head = emit_block(e, "look"), look = emit_block(e, "tile"),
                    found = emit_block(e, "found"), exit = emit_block(e, "walked");
  LLVMBuildBr(e->builder, head);
  LLVMPositionBuilderAtEnd(e->builder, head);
  LLVMValueRef at_least =
      LLVMBuildAdd(e->builder, gpu_get(g, e->i32, loop->next), emit_i32(e, 1), "");
  LLVMValueRef tile = never;
  for (uint32_t k = 0; k < op->segment_count; k++) {
    LLVMValueRef first =
        emit_intrinsic(e, "llvm.smax", e->i32, (LLVMValueRef[]){walk->from[k], at_least}, 2);
    LLVMValueRef inside = LLVMBuildICmp(e->builder, LLVMIntSLT, first, walk->to[k], "");
    first = emit_select(e, inside, first, never);
    tile = emit_intrinsic(e, "llvm.smin", e->i32, (LLVMValueRef[]){tile, first}, 2);
  }
  gpu_set(g, loop->next, tile);
  gpu_set(g, loop->next_full, LLVMConstInt(e->i1, 0, false));
  LLVMBuildCondBr(e->builder, gpu_next_exists(g, loop), look, exit);
  LLVMPositionBuilderAtEnd(e->builder, look);
  LLVMValueRef start = gpu_tile_position(g, loop, tile);
  find_extra(g, walk);
  emit_expression_reset(&g->expression);
  g->expression.operand = extra_operand;
  g->expression.user = walk->extra;
  g->expression.variables[EXPR_VAR_TILE_J0] = start;
  g->expression.variables[EXPR_VAR_TILE_J1] =
      LLVMBuildAdd(e->builder, start, emit_i64(e, op->step - 1), "");
  LLVMBuildCondBr(e->builder, emit_expression(&g->expression, op->expr), found, head);
  LLVMPositionBuilderAtEnd(e->builder, found);
  gpu_set(g, loop->next_full, emit_expression(&g->expression, op->expr2));
  LLVMBuildBr(e->builder, exit);
  LLVMPositionBuilderAtEnd(e->builder, exit);
}

/* A turn on the next tile, if that is `wanted`, after which `head` goes on. */
static void walk_turn(struct gpu *g, const struct walk *walk, struct gpu_loop *loop,
                      uint32_t region, LLVMValueRef wanted, LLVMBasicBlockRef head,
                      LLVMValueRef **carried)
{
  struct emit *e = g->e;
  LLVMBasicBlockRef body = emit_block(e, "turn"), exit = emit_block(e, "done");
  LLVMBuildCondBr(e->builder, wanted, body, exit);
  LLVMPositionBuilderAtEnd(e->builder, body);
  loop->tile = gpu_get(g, e->i32, loop->next);
  walk_on(g, walk, loop);
  loop->position = gpu_tile_position(g, loop, loop->tile);
  loop_turn(g, loop);
  loop_region(g, loop, region, carried);
  loop_end_turn(g, loop);
  LLVMBuildBr(e->builder, head);
  LLVMPositionBuilderAtEnd(e->builder, exit);
}

/* The walk is in the loop once: before the first turn there is one that only starts the copies. */
static void walk_together(struct gpu *g, const struct walk *walk, struct gpu_loop *loop,
                          LLVMValueRef **carried)
{
  struct emit *e = g->e;
  LLVMBasicBlockRef head = emit_block(e, "next"), exit = emit_block(e, "done");
  LLVMBuildBr(e->builder, head);
  LLVMPositionBuilderAtEnd(e->builder, head);
  loop->tile = gpu_get(g, e->i32, loop->next);
  LLVMValueRef full = gpu_get(g, e->i1, loop->next_full);
  walk_on(g, walk, loop);
  struct emit_branch first, branch;
  emit_if(e, &first, LLVMBuildICmp(e->builder, LLVMIntSLT, loop->tile, emit_i32(e, 0), ""));
  loop_start(g, loop);
  emit_else(e, &first);
  loop->position = gpu_tile_position(g, loop, loop->tile);
  loop_turn(g, loop);
  emit_if(e, &branch, full);
  loop_region(g, loop, 0, carried);
  emit_else(e, &branch);
  loop_region(g, loop, 1, carried);
  emit_end_if(e, &branch);
  loop_end_turn(g, loop);
  emit_end_if(e, &first);
  LLVMBuildCondBr(e->builder, gpu_next_exists(g, loop), head, exit);
  LLVMPositionBuilderAtEnd(e->builder, exit);
}

/* Whether FULL tiles leave registers for addresses of what they read. Formulas of positions, the
 * exchange between warps that divide columns, and what many tests of tiles read take some more:
 * ptxas spilled a few then. */
static bool has_room(const struct gpu *g, const struct tile_op *op)
{
  enum { MOST_EXTRA = 6 };
  bool formulas = false;
  for (const struct tile_op *k = op->regions[0]->first; k != NULL; k = k->next)
    formulas = formulas || k->kind == TILE_IOTA;
  return !formulas && g->column_warps == 1 && op->extra_count <= MOST_EXTRA;
}

/* Whether the budget leaves registers for what is found before a loop. */
static bool has_registers(const struct gpu *g)
{
  enum { REGISTERS = 255, ROOM = 3 };
  return budget_of_kernel(g->arena, g->kernel, &g->schedule).registers + ROOM <= REGISTERS;
}

/* FULL tiles have a loop of their own within that over PARTIAL ones: ptxas keeps what it carries in
 * the registers that products want, and what PARTIAL tiles take beyond that costs FULL ones
 * nothing. */
static void walk_apart(struct gpu *g, const struct walk *walk, struct gpu_loop *loop,
                       LLVMValueRef **carried)
{
  struct emit *e = g->e;
  walk_on(g, walk, loop);
  loop_start(g, loop);
  LLVMBasicBlockRef outer = emit_block(e, "next"), inner = emit_block(e, "full");
  LLVMBuildBr(e->builder, outer);
  LLVMPositionBuilderAtEnd(e->builder, outer);
  if (has_registers(g))
    gpu_streams_start(g, loop);
  loop->before = has_registers(g) && has_room(g, walk->op) ? LLVMGetInsertBlock(e->builder) : NULL;
  LLVMBuildBr(e->builder, inner);
  LLVMPositionBuilderAtEnd(e->builder, inner);
  walk_turn(g, walk, loop, 0, gpu_get(g, e->i1, loop->next_full), inner, carried);
  loop->before = NULL;
  gpu_streams_forget(loop);
  walk_turn(g, walk, loop, 1, gpu_next_exists(g, loop), outer, carried);
}

/* The walk is there three times then, which long tests of tiles do not pay for, and the
 * accumulators go from loop to loop: with the parts that products of f32 are in or with those of
 * several maps, ptxas has spilled some. */
static bool is_walked_apart(const struct tile_op *op)
{
  enum { SHORT = 8, PRODUCTS = 2 }; /* operations on top of each other; scores and values */
  uint32_t products = 0;
  bool halves = true;
  for (const struct tile_op *k = op->regions[0]->first; k != NULL; k = k->next) {
    products += k->kind == TILE_PRODUCT;
    halves = halves && (k->kind != TILE_PRODUCT || k->operands[0]->type.element != TILE_F32);
  }
  return halves && products == PRODUCTS && op->expr->height <= SHORT && op->expr2->height <= SHORT;
}

/* Copies ahead need the next tile during a turn, so that the walk is a tile ahead. */
void gpu_for_segments(struct gpu *g, const struct tile_op *op)
{
  struct emit *e = g->e;
  uint32_t used = g->shared_used;
  struct gpu_loop loop = {
      .op = op, .next = emit_variable(e, e->i32), .next_full = emit_variable(e, e->i1)};
  LLVMValueRef **carried = carried_new(g, op);
  carried_start(g, op, carried, op->operands + 2 * op->segment_count + op->extra_count);
  loop_begin(g, &loop);
  struct walk walk;
  walk_begin(g, &walk, op);
  gpu_order_reads(g, op->expr);
  gpu_order_reads(g, op->expr2);
  gpu_set(g, loop.next, emit_i32(e, -1));
  gpu_set(g, loop.next_full, LLVMConstInt(e->i1, 0, false));
  if (is_walked_apart(op))
    walk_apart(g, &walk, &loop, carried);
  else
    walk_together(g, &walk, &loop, carried);
  const uint32_t bytes = g->shared_used - used;
  gpu_release(g, used);
  carried_end(g, op, carried, bytes);
}
