/* Operands that loops copy into shared memory before they are needed.
 *
 * A loop's streams are the loads directly in its body that products alone read, in the order of
 * their first use. With one buffer each (stages = 1) the copy of the next stream begins when one
 * has arrived: the barrier of the arrival shows that nobody reads the older tile in the next one's
 * buffer. With two, all of the next tile's copies begin when the first of this tile's has arrived.
 *
 * Where the row indices of a tile follow from the loop's position alone, what threads copy lies a
 * constant number of bytes further on for each position: they find the pointers and test the
 * alignment before the loop. */
#include "compiler/target/nvptx/stream.h"

#include <assert.h>

/* ---- finding streams ---- */

static bool is_outside(const struct tile_op *loop, const struct tile_region *region,
                       const struct tile_value *value)
{
  if (value->def != NULL)
    return value->def->parent != region;
  for (uint32_t k = 0; k <= loop->result_count; k++)
    if (region->arguments[k] == value)
      return false;
  return true;
}

/* Finds what copies of a stream have in common. */
static void start_stream(struct gpu *g, const struct gpu_loop *loop, struct gpu_stream *stream)
{
  struct emit *e = g->e;
  const struct tile_op *load = stream->loads[0];
  const struct tile_region *region = load->parent;
  const uint32_t tensor = load->access.tensor;
  struct tile_value *const *indices = load->operands + tile_first_index(load->kind);
  LLVMValueRef stride = emit_i64(e, 0);
  for (uint32_t d = 0; d < g->kernel->tensors.items[tensor].rank; d++) {
    if (indices[d] == region->arguments[0] && d != load->access.column_dim)
      stride = LLVMBuildAdd(e->builder, stride, emit_tensor_stride(e, &g->slots, tensor, d), "");
    else if (indices[d]->type.kind == TILE_KIND_SCALAR && !is_outside(loop->op, region, indices[d]))
      return;
  }
  *gpu_value(g, region->arguments[0]) =
      (struct gpu_value){.kind = GPU_SCALAR, .scalar = emit_i64(e, 0)};
  const struct gpu_access access = gpu_access_indices(g, load);
  stream->start = gpu_copy_start(g, &access, load->results[0]->type, &stream->place);
  stream->stride = gpu_bytes(g, gpu_dtype(g, tensor), stride);
}

void gpu_streams_begin(struct gpu *g, struct gpu_loop *loop)
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

void gpu_streams_start(struct gpu *g, struct gpu_loop *loop)
{
  for (uint32_t n = 0; n < loop->count; n++)
    start_stream(g, loop, &loop->streams[n]);
}

void gpu_streams_forget(struct gpu_loop *loop)
{
  for (uint32_t n = 0; n < loop->count; n++)
    loop->streams[n].start = (struct gpu_copy_start){0};
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

/* A tile that is to be copied. */
struct ahead {
  LLVMValueRef position; /* i64 */
  LLVMValueRef full;     /* i1; NULL in a `for` */
  bool in_chunks;        /* gpu_copy_start's `chunks` hold */
};

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

/* Of `full` tiles (i1) one count, of others another. */
static LLVMValueRef live_count(struct gpu *g, LLVMValueRef full, LLVMValueRef of_full,
                               LLVMValueRef of_partial)
{
  if (of_full == of_partial)
    return of_full;
  if (LLVMIsAConstantInt(full) != NULL)
    return LLVMConstIntGetSExtValue(full) != 0 ? of_full : of_partial;
  return emit_select(g->e, full, of_full, of_partial);
}

/* `start`: what is known of the copy of this tile. */
static void copy_stream(struct gpu *g, const struct gpu_stream *stream, uint32_t regions,
                        const struct ahead *tile, LLVMValueRef slot, struct gpu_copy_start start)
{
  struct gpu_access partial;
  if (regions > 1) {
    const struct gpu_value *saved = enter(g, stream->loads[1], tile->position);
    partial = gpu_access(g, stream->loads[1]);
    leave(g, saved);
  }
  const struct gpu_value *saved = enter(g, stream->loads[0], tile->position);
  struct gpu_access access = gpu_access(g, stream->loads[0]);
  if (regions > 1) {
    access.live_rows = live_count(g, tile->full, access.live_rows, partial.live_rows);
    access.live_columns = live_count(g, tile->full, access.live_columns, partial.live_columns);
  }
  struct gpu_place place = slot_of(g, stream, slot);
  gpu_copy(g, &access, stream->loads[0]->results[0]->type, &place, start);
  leave(g, saved);
}

/* Each way to copy finds its own addresses, so that none does before it is known which. */
static void copy_either(struct gpu *g, const struct gpu_stream *stream, uint32_t regions,
                        const struct ahead *tile, LLVMValueRef slot)
{
  struct emit *e = g->e;
  struct gpu_copy_start start = stream->start;
  if (start.chunks == NULL) {
    copy_stream(g, stream, regions, tile, slot, start);
    return;
  }
  struct emit_branch branch;
  if (!tile->in_chunks)
    emit_if(e, &branch, start.chunks);
  start.chunks = LLVMConstInt(e->i1, 1, false);
  if (start.from != NULL)
    start.from = emit_address(e, e->i8, start.from,
                              LLVMBuildMul(e->builder, tile->position, stream->stride, ""));
  copy_stream(g, stream, regions, tile, slot, start);
  if (tile->in_chunks)
    return;
  emit_else(e, &branch);
  start.chunks = LLVMConstInt(e->i1, 0, false);
  copy_stream(g, stream, regions, tile, slot, start);
  emit_end_if(e, &branch);
}

/* Streams [first, end) of a tile. */
static void copy_streams(struct gpu *g, const struct gpu_loop *loop, uint32_t first, uint32_t end,
                         struct ahead tile, LLVMValueRef slot)
{
  for (uint32_t n = first; n < end; n++)
    copy_either(g, &loop->streams[n], loop->op->region_count, &tile, slot);
  emit_gpu_copy_commit(g->e);
}

LLVMValueRef gpu_next_exists(struct gpu *g, const struct gpu_loop *loop)
{
  struct emit *e = g->e;
  if (loop->end != NULL)
    return LLVMBuildICmp(e->builder, LLVMIntSLT, gpu_get(g, e->i64, loop->next), loop->end, "");
  return LLVMBuildICmp(e->builder, LLVMIntNE, gpu_get(g, e->i32, loop->next),
                       emit_i32(e, GPU_NO_TILE), "");
}

/* Positions have 31 bits, and a product of that size keeps a zero from taking a register. */
LLVMValueRef gpu_tile_position(struct gpu *g, const struct gpu_loop *loop, LLVMValueRef tile)
{
  struct emit *e = g->e;
  tile = LLVMBuildMul(e->builder, tile, emit_i32(e, (int32_t)loop->op->step), "");
  return LLVMBuildZExt(e->builder, tile, e->i64, "");
}

LLVMValueRef gpu_next_position(struct gpu *g, const struct gpu_loop *loop)
{
  return loop->end != NULL ? gpu_get(g, g->e->i64, loop->next)
                           : gpu_tile_position(g, loop, gpu_get(g, g->e->i32, loop->next));
}

/* In the loop over FULL tiles another one of them mostly comes next, for which nothing needs to be
 * tested but that. Rows that lie anywhere take too much code to have it twice. */
void gpu_copy_next(struct gpu *g, const struct gpu_loop *loop, uint32_t first, uint32_t end,
                   LLVMValueRef slot)
{
  struct emit *e = g->e;
  struct emit_branch branch, exists;
  struct ahead next = {.position = gpu_next_position(g, loop)};
  if (loop->next_full != NULL)
    next.full = gpu_get(g, e->i1, loop->next_full);
  LLVMValueRef easy = next.full;
  for (uint32_t n = first; n < end && easy != NULL; n++) {
    const struct gpu_copy_start *start = &loop->streams[n].start;
    easy = start->from == NULL ? NULL : LLVMBuildAnd(e->builder, easy, start->chunks, "");
  }
  if (easy != NULL) {
    emit_if(e, &branch, easy);
    const struct ahead full = {
        .position = next.position, .full = LLVMConstInt(e->i1, 1, false), .in_chunks = true};
    copy_streams(g, loop, first, end, full, slot);
    emit_else(e, &branch);
  }
  emit_if(e, &exists, gpu_next_exists(g, loop));
  copy_streams(g, loop, first, end, next, slot);
  emit_else(e, &exists);
  emit_end_if(e, &exists);
  if (easy != NULL)
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
    copy_streams(g, loop, n + 1, n + 2,
                 (struct ahead){.position = loop->position, .full = loop->full}, NULL);
  else if (loop->stages == 1)
    gpu_copy_next(g, loop, 0, 1, NULL);
  else if (loop->arrived == 0)
    gpu_copy_next(g, loop, 0, loop->count,
                  LLVMBuildXor(e->builder, loop->slot, emit_i32(e, 1), ""));
  loop->arrived++;
}
