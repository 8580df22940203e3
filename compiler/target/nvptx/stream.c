/* Loops and branches, and operands that are copied into shared memory before they are needed.
 *
 * A loop's streams are the loads directly in its body that products alone read, in the order of
 * their first use. With one buffer each (stages = 1) the copy of the next stream begins when one
 * has arrived: the barrier of the arrival shows that nobody reads the older tile in the next one's
 * buffer. With two, all of the next tile's copies begin when the first of this tile's has arrived.
 */
#include "compiler/target/nvptx/stream.h"

#include <assert.h>

enum { NO_TILE = INT32_MAX };

/* ---- finding streams ---- */

static void plan_streams(struct gpu *g, struct gpu_loop *loop)
{
  const struct residence_streams found = residence_streams_of(g->where, loop->op);
  loop->count = found.count;
  loop->stages = found.stages;
  for (uint32_t n = 0; n < loop->count; n++) {
    struct gpu_stream *stream = &loop->streams[n];
    for (uint32_t r = 0; r < loop->op->region_count; r++)
      stream->loads[r] = found.loads[n][r];
    stream->place = gpu_new_load_place(g, found.loads[n][0]);
    stream->bytes = gpu_place_bytes(&stream->place);
    if (loop->stages == 2)
      gpu_allocate(g, stream->bytes); /* right behind: both are multiples of 16 */
  }
}

/* ---- copying ahead ---- */

static struct gpu_place slot_of(struct gpu *g, const struct gpu_stream *stream, LLVMValueRef slot)
{
  struct emit *e = g->e;
  struct gpu_place place = stream->place;
  if (slot != NULL)
    place.offset =
        LLVMBuildAdd(e->builder, place.offset,
                     LLVMBuildMul(e->builder, slot, emit_i32(e, (int32_t)stream->bytes), ""), "");
  return place;
}

/* Values are those of the loop at `position` for a load, until `leave`: the scalars before it are
 * computed once more. */
static struct gpu_value *enter(struct gpu *g, const struct tile_op *load, LLVMValueRef position)
{
  const struct tile_region *region = load->parent;
  size_t bytes = sizeof(*g->values) * g->kernel->value_count;
  struct gpu_value *saved = arena_alloc(g->arena, bytes);
  for (uint32_t k = 0; k < g->kernel->value_count; k++)
    saved[k] = g->values[k];
  *gpu_value(g, region->arguments[0]) = (struct gpu_value){.kind = GPU_SCALAR, .scalar = position};
  for (const struct tile_op *op = region->first; op != load; op = op->next)
    if (op->kind == TILE_SCALAR)
      gpu_lower_scalar(g, op);
  return saved;
}

static void leave(struct gpu *g, const struct gpu_value *saved)
{
  for (uint32_t k = 0; k < g->kernel->value_count; k++)
    g->values[k] = saved[k];
}

static void copy_stream(struct gpu *g, const struct gpu_stream *stream, uint32_t regions,
                        LLVMValueRef position, LLVMValueRef full, LLVMValueRef slot)
{
  struct emit *e = g->e;
  struct gpu_access partial;
  if (regions > 1) {
    const struct gpu_value *saved = enter(g, stream->loads[1], position);
    partial = gpu_access(g, stream->loads[1]);
    leave(g, saved);
  }
  const struct gpu_value *saved = enter(g, stream->loads[0], position);
  struct gpu_access access = gpu_access(g, stream->loads[0]);
  if (regions > 1) {
    if (access.live_rows != partial.live_rows)
      access.live_rows = emit_select(e, full, access.live_rows, partial.live_rows);
    if (access.live_columns != partial.live_columns)
      access.live_columns = emit_select(e, full, access.live_columns, partial.live_columns);
  }
  struct gpu_place place = slot_of(g, stream, slot);
  gpu_copy(g, &access, stream->loads[0]->results[0]->type, &place);
  leave(g, saved);
}

/* Streams [first, end) of the tile at `position`. */
static void copy_streams(struct gpu *g, const struct gpu_loop *loop, uint32_t first, uint32_t end,
                         LLVMValueRef position, LLVMValueRef full, LLVMValueRef slot)
{
  for (uint32_t n = first; n < end; n++)
    copy_stream(g, &loop->streams[n], loop->op->region_count, position, full, slot);
  emit_gpu_copy_commit(g->e);
}

static LLVMValueRef get(struct gpu *g, LLVMTypeRef type, LLVMValueRef variable)
{
  return LLVMBuildLoad2(g->e->builder, type, variable, "");
}

static LLVMValueRef next_exists(struct gpu *g, const struct gpu_loop *loop)
{
  struct emit *e = g->e;
  if (loop->end != NULL)
    return LLVMBuildICmp(e->builder, LLVMIntSLT, get(g, e->i64, loop->next), loop->end, "");
  return LLVMBuildICmp(e->builder, LLVMIntNE, get(g, e->i32, loop->next), emit_i32(e, NO_TILE), "");
}

/* Positions have 31 bits, and a product of that size keeps a zero from taking a register. */
static LLVMValueRef tile_position(struct gpu *g, const struct gpu_loop *loop, LLVMValueRef tile)
{
  struct emit *e = g->e;
  tile = LLVMBuildMul(e->builder, tile, emit_i32(e, (int32_t)loop->op->step), "");
  return LLVMBuildZExt(e->builder, tile, e->i64, "");
}

static LLVMValueRef next_position(struct gpu *g, const struct gpu_loop *loop)
{
  return loop->end != NULL ? get(g, g->e->i64, loop->next)
                           : tile_position(g, loop, get(g, g->e->i32, loop->next));
}

/* The same of the next tile, where there is one. */
static void copy_next(struct gpu *g, const struct gpu_loop *loop, uint32_t first, uint32_t end,
                      LLVMValueRef slot)
{
  struct emit *e = g->e;
  struct emit_branch branch;
  emit_if(e, &branch, next_exists(g, loop));
  copy_streams(g, loop, first, end, next_position(g, loop),
               loop->next_full == NULL ? NULL : get(g, e->i1, loop->next_full), slot);
  emit_else(e, &branch);
  emit_end_if(e, &branch);
}

static int stream_of(const struct gpu_loop *loop, const struct tile_op *load)
{
  for (uint32_t n = 0; loop != NULL && n < loop->count; n++)
    for (uint32_t r = 0; r < loop->op->region_count; r++)
      if (loop->streams[n].loads[r] == load)
        return (int)n;
  return -1;
}

bool gpu_stream_bind(struct gpu *g, const struct tile_op *op)
{
  int n = stream_of(g->loop, op);
  if (n < 0)
    return false;
  *gpu_value(g, op->results[0]) = (struct gpu_value){
      .kind = GPU_STREAM, .place = slot_of(g, &g->loop->streams[n], g->loop->slot)};
  return true;
}

void gpu_stream_arrive(struct gpu *g, const struct tile_value *value)
{
  struct emit *e = g->e;
  struct gpu_value *v = gpu_value(g, value);
  if (v->kind != GPU_STREAM)
    return;
  struct gpu_loop *loop = g->loop;
  uint32_t n = (uint32_t)stream_of(loop, value->def);
  assert(loop->stages == 2 || loop->arrived == n);
  v->kind = GPU_SHARED;
  v->in_shared = true;
  if (loop->stages == 1 || loop->arrived == 0) {
    emit_gpu_copy_wait(e, 0);
    gpu_barrier(g);
  }
  if (loop->stages == 1 && n + 1 < loop->count)
    copy_streams(g, loop, n + 1, n + 2, loop->position, loop->full, NULL);
  else if (loop->stages == 1)
    copy_next(g, loop, 0, 1, NULL);
  else if (loop->arrived == 0)
    copy_next(g, loop, 0, loop->count, LLVMBuildXor(e->builder, loop->slot, emit_i32(e, 1), ""));
  loop->arrived++;
}

/* ---- values that loops and branches pass on ---- */

static void set(struct gpu *g, LLVMValueRef variable, LLVMValueRef value)
{
  LLVMBuildStore(g->e->builder, value, variable);
}

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
      set(g, carried[k][n], registers[k][n]);
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
      set(g, carried[k][n], registers[n]);
  }
}

static void carried_get(struct gpu *g, const struct tile_op *op, LLVMValueRef **carried,
                        struct tile_value *const *values)
{
  for (uint32_t k = 0; k < op->result_count; k++) {
    struct tile_type type = values[k]->type;
    if (type.kind != TILE_KIND_TILE) {
      *gpu_value(g, values[k]) = (struct gpu_value){
          .kind = GPU_SCALAR, .scalar = get(g, scalar_type(g, type.element), carried[k][0])};
      continue;
    }
    const uint32_t count = carried_count(g, op, k);
    LLVMValueRef *registers = ARENA_ARRAY(g->arena, LLVMValueRef, count);
    for (uint32_t n = 0; n < count; n++)
      registers[n] = get(g, gpu_register_type(g, type), carried[k][n]);
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
  plan_streams(g, loop);
  if (loop->count > 0 && loop->stages == 2) {
    loop->slot_variable = emit_variable(g->e, e->i32);
    set(g, loop->slot_variable, emit_i32(e, 0));
  }
}

static void loop_start(struct gpu *g, struct gpu_loop *loop)
{
  if (loop->count == 0)
    return;
  gpu_barrier(g); /* whoever read what lay in the buffers before is done */
  copy_next(g, loop, 0, loop->stages == 2 ? loop->count : 1,
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
  loop->slot = loop->slot_variable == NULL ? NULL : get(g, g->e->i32, loop->slot_variable);
}

static void loop_end_turn(struct gpu *g, struct gpu_loop *loop)
{
  if (loop->slot_variable != NULL)
    set(g, loop->slot_variable, LLVMBuildXor(g->e->builder, loop->slot, emit_i32(g->e, 1), ""));
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
                  LLVMBuildICmp(e->builder, LLVMIntEQ, tile, emit_i32(e, NO_TILE - 1), ""), never,
                  on);
  LLVMPositionBuilderAtEnd(e->builder, never);
  LLVMBuildRetVoid(e->builder);
  LLVMPositionBuilderAtEnd(e->builder, on);
}

static void step_on(struct gpu *g, const struct gpu_loop *loop)
{
  set(g, loop->next,
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
  set(g, loop.next, gpu_index(g, op->operands[0]));
  loop_start(g, &loop);
  LLVMBasicBlockRef head = emit_block(e, "next"), body = emit_block(e, "turn"),
                    exit = emit_block(e, "done");
  LLVMBuildBr(e->builder, head);
  LLVMPositionBuilderAtEnd(e->builder, head);
  LLVMBuildCondBr(e->builder, next_exists(g, &loop), body, exit);
  LLVMPositionBuilderAtEnd(e->builder, body);
  loop.position = next_position(g, &loop);
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
  const LLVMValueRef never = emit_i32(e, NO_TILE);
  LLVMBasicBlockRef head = emit_block(e, "look"), look = emit_block(e, "tile"),
                    found = emit_block(e, "found"), exit = emit_block(e, "walked");
  LLVMBuildBr(e->builder, head);
  LLVMPositionBuilderAtEnd(e->builder, head);
  LLVMValueRef at_least = LLVMBuildAdd(e->builder, get(g, e->i32, loop->next), emit_i32(e, 1), "");
  LLVMValueRef tile = never;
  for (uint32_t k = 0; k < op->segment_count; k++) {
    LLVMValueRef first =
        emit_intrinsic(e, "llvm.smax", e->i32, (LLVMValueRef[]){walk->from[k], at_least}, 2);
    LLVMValueRef inside = LLVMBuildICmp(e->builder, LLVMIntSLT, first, walk->to[k], "");
    first = emit_select(e, inside, first, never);
    tile = emit_intrinsic(e, "llvm.smin", e->i32, (LLVMValueRef[]){tile, first}, 2);
  }
  set(g, loop->next, tile);
  LLVMBuildCondBr(e->builder, next_exists(g, loop), look, exit);
  LLVMPositionBuilderAtEnd(e->builder, look);
  LLVMValueRef start = tile_position(g, loop, tile);
  find_extra(g, walk);
  emit_expression_reset(&g->expression);
  g->expression.operand = extra_operand;
  g->expression.user = walk->extra;
  g->expression.variables[EXPR_VAR_TILE_J0] = start;
  g->expression.variables[EXPR_VAR_TILE_J1] =
      LLVMBuildAdd(e->builder, start, emit_i64(e, op->step - 1), "");
  LLVMBuildCondBr(e->builder, emit_expression(&g->expression, op->expr), found, head);
  LLVMPositionBuilderAtEnd(e->builder, found);
  set(g, loop->next_full, emit_expression(&g->expression, op->expr2));
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
  loop->tile = get(g, e->i32, loop->next);
  walk_on(g, walk, loop);
  loop->position = tile_position(g, loop, loop->tile);
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
  loop->tile = get(g, e->i32, loop->next);
  LLVMValueRef full = get(g, e->i1, loop->next_full);
  walk_on(g, walk, loop);
  struct emit_branch first, branch;
  emit_if(e, &first, LLVMBuildICmp(e->builder, LLVMIntSLT, loop->tile, emit_i32(e, 0), ""));
  loop_start(g, loop);
  emit_else(e, &first);
  loop->position = tile_position(g, loop, loop->tile);
  loop_turn(g, loop);
  emit_if(e, &branch, full);
  loop_region(g, loop, 0, carried);
  emit_else(e, &branch);
  loop_region(g, loop, 1, carried);
  emit_end_if(e, &branch);
  loop_end_turn(g, loop);
  emit_end_if(e, &first);
  LLVMBuildCondBr(e->builder, next_exists(g, loop), head, exit);
  LLVMPositionBuilderAtEnd(e->builder, exit);
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
  LLVMBuildBr(e->builder, inner);
  LLVMPositionBuilderAtEnd(e->builder, inner);
  LLVMValueRef full = get(g, e->i1, loop->next_full);
  full = LLVMBuildAnd(e->builder, full, next_exists(g, loop), "");
  walk_turn(g, walk, loop, 0, full, inner, carried);
  walk_turn(g, walk, loop, 1, next_exists(g, loop), outer, carried);
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
  set(g, loop.next, emit_i32(e, -1));
  set(g, loop.next_full, LLVMConstInt(e->i1, 0, false));
  if (is_walked_apart(op))
    walk_apart(g, &walk, &loop, carried);
  else
    walk_together(g, &walk, &loop, carried);
  const uint32_t bytes = g->shared_used - used;
  gpu_release(g, used);
  carried_end(g, op, carried, bytes);
}
