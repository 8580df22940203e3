/* Tensors: loads into registers, copies into shared memory, stores. */
#include "compiler/target/nvptx/lower.h"

LLVMValueRef gpu_index(struct gpu *g, const struct tile_value *value)
{
  LLVMValueRef scalar = gpu_value(g, value)->scalar;
  return LLVMTypeOf(scalar) == g->e->i32 ? LLVMBuildSExt(g->e->builder, scalar, g->e->i64, "")
                                         : scalar;
}

/* ---- accesses ---- */

static uint32_t rank_of(const struct gpu *g, uint32_t tensor)
{
  return g->kernel->tensors.items[tensor].rank;
}

static LLVMValueRef stride_of(struct gpu *g, uint32_t tensor, uint32_t dim)
{
  return emit_tensor_stride(g->e, &g->slots, tensor, dim);
}

/* The launcher guarantees a stride of 1 along the last dimension where columns run along it. */
static LLVMValueRef column_stride(struct gpu *g, const struct tile_access *access)
{
  if (access->column_dim == TILE_NO_DIM || access->column_dim + 1u == rank_of(g, access->tensor))
    return emit_i64(g->e, 1);
  return stride_of(g, access->tensor, access->column_dim);
}

/* Of an axis, as an i32 that is not negative; no tile is that long. */
static LLVMValueRef live_count(struct gpu *g, const struct tile_value *value)
{
  struct emit *e = g->e;
  const int64_t most = 1 << 20;
  LLVMValueRef live = gpu_index(g, value);
  if (LLVMIsAConstantInt(live) != NULL) {
    long long count = LLVMConstIntGetSExtValue(live);
    return emit_i32(e, (int32_t)(count < 0 ? 0 : count > most ? most : count));
  }
  live = emit_intrinsic(e, "llvm.smax", e->i64, (LLVMValueRef[]){live, emit_i64(e, 0)}, 2);
  live = emit_intrinsic(e, "llvm.smin", e->i64, (LLVMValueRef[]){live, emit_i64(e, most)}, 2);
  return LLVMBuildTrunc(e->builder, live, e->i32, "");
}

struct gpu_access gpu_access(struct gpu *g, const struct tile_op *op, uint32_t first_operand)
{
  struct emit *e = g->e;
  uint32_t rank = rank_of(g, op->access.tensor);
  struct gpu_access a = {.access = &op->access, .origin = emit_i64(e, 0)};
  for (uint32_t d = 0; d < rank; d++) {
    LLVMValueRef index = gpu_index(g, op->operands[first_operand + d]);
    LLVMValueRef stride = op->access.column_dim == d ? column_stride(g, &op->access)
                                                     : stride_of(g, op->access.tensor, d);
    if (op->access.column_dim == d)
      a.first_column = index;
    a.origin = LLVMBuildAdd(e->builder, a.origin, LLVMBuildMul(e->builder, index, stride, ""), "");
  }
  a.live_rows = live_count(g, op->operands[first_operand + rank]);
  a.live_columns = live_count(g, op->operands[first_operand + rank + 1]);
  return a;
}

/* index (i32) < live, or NULL where all of `count` are. */
static LLVMValueRef lives(struct gpu *g, LLVMValueRef index, LLVMValueRef live, uint32_t count)
{
  struct emit *e = g->e;
  if (LLVMIsAConstantInt(live) != NULL && LLVMConstIntGetSExtValue(live) >= (long long)count)
    return NULL;
  return LLVMBuildICmp(e->builder, LLVMIntSLT, index, live, "");
}

static LLVMValueRef steps(struct gpu *g, uint32_t tensor, uint8_t dim, LLVMValueRef count)
{
  if (dim == TILE_NO_DIM)
    return emit_i64(g->e, 0);
  return LLVMBuildMul(g->e->builder, LLVMBuildSExt(g->e->builder, count, g->e->i64, ""),
                      stride_of(g, tensor, dim), "");
}

/* Elements from the origin to a row of the tile. */
static LLVMValueRef row_offset(struct gpu *g, const struct tile_access *access, LLVMValueRef row)
{
  struct emit *e = g->e;
  if (access->row_group <= 1)
    return steps(g, access->tensor, access->row_dim, row);
  LLVMValueRef size = emit_i32(e, (int32_t)access->row_group);
  LLVMValueRef outer = LLVMBuildUDiv(e->builder, row, size, "");
  LLVMValueRef within = LLVMBuildURem(e->builder, row, size, "");
  return LLVMBuildAdd(e->builder, steps(g, access->tensor, access->row_dim, outer),
                      steps(g, access->tensor, access->group_dim, within), "");
}

static LLVMValueRef column_offset(struct gpu *g, const struct tile_access *access,
                                  LLVMValueRef column)
{
  struct emit *e = g->e;
  if (access->column_dim == TILE_NO_DIM)
    return emit_i64(e, 0);
  return LLVMBuildMul(e->builder, LLVMBuildSExt(e->builder, column, e->i64, ""),
                      column_stride(g, access), "");
}

static enum dtype dtype_of(const struct gpu *g, uint32_t tensor)
{
  return g->kernel->tensors.items[tensor].element;
}

/* Whether everything that the access reaches begins at a multiple of `bytes`, given that it counts
 * columns in such steps: the same in every thread. */
static LLVMValueRef is_aligned(struct gpu *g, const struct gpu_access *a, uint32_t bytes)
{
  struct emit *e = g->e;
  const uint32_t tensor = a->access->tensor;
  const int64_t size = (int64_t)dtype_size(dtype_of(g, tensor));
  LLVMValueRef all = emit_slot(e, &g->slots, tile_tensor_slot(g->kernel, tensor));
  for (uint32_t d = 0; d < rank_of(g, tensor); d++) {
    LLVMValueRef step = d == a->access->column_dim ? a->first_column : stride_of(g, tensor, d);
    all = LLVMBuildOr(e->builder, all, LLVMBuildMul(e->builder, step, emit_i64(e, size), ""), "");
  }
  LLVMValueRef rest = LLVMBuildAnd(e->builder, all, emit_i64(e, bytes - 1), "");
  return LLVMBuildICmp(e->builder, LLVMIntEQ, rest, emit_i64(e, 0), "");
}

static LLVMValueRef tensor_pointer(struct gpu *g, uint32_t tensor, LLVMValueRef offset)
{
  struct emit *e = g->e;
  return emit_address(e, emit_storage_type(e, dtype_of(g, tensor)),
                      emit_tensor_base(e, &g->slots, tensor), offset);
}

/* ---- order within a block ---- */

void gpu_order(struct gpu *g, uint32_t tensor)
{
  if (g->reads_back[tensor])
    emit_gpu_barrier(g->e);
}

/* `asked`: of the formula's parts, which several paths lead to. */
static bool reads_back(const struct gpu *g, const struct expr *e, bool *asked)
{
  if ((e->deps & EXPR_DEP(EXPR_DEP_READ)) == 0 || asked[e->id])
    return false;
  asked[e->id] = true;
  if (e->op == EXPR_READ && g->reads_back[e->value.i])
    return true;
  for (uint32_t k = 0; k < e->arg_count; k++)
    if (reads_back(g, e->args[k], asked))
      return true;
  return false;
}

void gpu_order_reads(struct gpu *g, const struct expr *e)
{
  if (e != NULL && (e->deps & EXPR_DEP(EXPR_DEP_READ)) != 0 &&
      reads_back(g, e, ARENA_ARRAY(g->arena, bool, (size_t)e->id + 1)))
    emit_gpu_barrier(g->e);
}

/* ---- into registers ---- */

/* The element at `pointer` if it is live, else zero; nothing else is touched. */
static LLVMValueRef load_element(struct gpu *g, uint32_t tensor, LLVMValueRef pointer,
                                 LLVMValueRef live)
{
  struct emit *e = g->e;
  enum dtype type = dtype_of(g, tensor);
  /* The first element of a tensor can always be read. */
  if (live != NULL)
    pointer = emit_select(e, live, pointer, emit_tensor_base(e, &g->slots, tensor));
  LLVMValueRef stored =
      emit_load(e, emit_storage_type(e, type), pointer, (unsigned)dtype_size(type));
  LLVMValueRef element = emit_from_storage(e, type, stored);
  return live == NULL ? element : emit_select(e, live, element, LLVMConstNull(LLVMTypeOf(element)));
}

static bool has_unit_columns(struct gpu *g, const struct tile_access *access)
{
  return access->column_dim != TILE_NO_DIM && access->column_dim + 1u == rank_of(g, access->tensor);
}

/* Where a thread's elements of a tile lie: a pointer to the first of row r, and from there on. */
static LLVMValueRef row_pointer(struct gpu *g, const struct gpu_access *a, struct tile_type type,
                                uint32_t r)
{
  struct emit *e = g->e;
  LLVMValueRef offset =
      LLVMBuildAdd(e->builder, a->origin, row_offset(g, a->access, gpu_row(g, type, r)), "");
  if (has_unit_columns(g, a->access))
    offset = LLVMBuildAdd(e->builder, offset,
                          LLVMBuildSExt(e->builder, gpu_column(g, type, 0), e->i64, ""), "");
  return tensor_pointer(g, a->access->tensor, offset);
}

static LLVMValueRef element_pointer(struct gpu *g, const struct gpu_access *a,
                                    struct tile_type type, LLVMValueRef row, uint32_t c)
{
  enum dtype storage = dtype_of(g, a->access->tensor);
  if (has_unit_columns(g, a->access))
    return gpu_further(g, row, (int64_t)gpu_column_step(c) * (int64_t)dtype_size(storage));
  return emit_address(g->e, emit_storage_type(g->e, storage), row,
                      column_offset(g, a->access, gpu_column(g, type, c)));
}

static void load_fragment(struct gpu *g, const struct tile_value *result,
                          const struct gpu_access *a)
{
  struct tile_type type = result->type;
  struct gpu_shape shape = gpu_shape(g, type);
  LLVMValueRef *elements = ARENA_ARRAY(g->arena, LLVMValueRef, shape.rows * shape.columns);
  for (uint32_t r = 0; r < shape.rows; r++) {
    LLVMValueRef row_live = gpu_both(g, gpu_row_exists(g, type, r),
                                     lives(g, gpu_row(g, type, r), a->live_rows, type.rows));
    LLVMValueRef row = row_pointer(g, a, type, r);
    for (uint32_t c = 0; c < shape.columns; c++) {
      LLVMValueRef live = gpu_both(g, gpu_column_exists(g, type, c),
                                   lives(g, gpu_column(g, type, c), a->live_columns, type.columns));
      elements[r * shape.columns + c] = load_element(
          g, a->access->tensor, element_pointer(g, a, type, row, c), gpu_both(g, row_live, live));
    }
  }
  gpu_set_elements(g, result, elements);
}

/* Wide row vectors that are used once in each element of a map would fill the registers. */
static bool is_lazy(struct gpu *g, const struct tile_op *op)
{
  const struct tile_value *result = op->results[0];
  enum { FEW = 8 };
  if (result->type.rows > 1 || g->reads_back[op->access.tensor] ||
      gpu_shape(g, result->type).columns <= FEW)
    return false;
  for (size_t n = 0; n < g->users[result->id].count; n++) {
    const struct tile_op *user = g->users[result->id].items[n];
    if (user->kind != TILE_MAP || user->parent != op->parent)
      return false;
  }
  return true;
}

LLVMValueRef gpu_load_lazily(struct gpu *g, const struct tile_value *value, uint32_t c)
{
  struct emit *e = g->e;
  const struct gpu_access *a = gpu_value(g, value)->access;
  struct tile_type type = value->type;
  LLVMValueRef live = gpu_both(g, gpu_column_exists(g, type, c),
                               lives(g, gpu_column(g, type, c), a->live_columns, type.columns));
  live = gpu_both(g, live, lives(g, emit_i32(e, 0), a->live_rows, 1));
  LLVMValueRef pointer = element_pointer(g, a, type, row_pointer(g, a, type, 0), c);
  return gpu_round(g, type.element, load_element(g, a->access->tensor, pointer, live));
}

void gpu_load(struct gpu *g, const struct tile_op *op)
{
  gpu_order(g, op->access.tensor);
  if (gpu_stream_bind(g, op))
    return;
  const struct tile_value *result = op->results[0];
  struct gpu_access a = gpu_access(g, op, 0);
  if (is_lazy(g, op)) {
    struct gpu_access *kept = ARENA_NEW(g->arena, struct gpu_access);
    *kept = a;
    *gpu_value(g, result) = (struct gpu_value){.kind = GPU_LAZY, .access = kept};
    return;
  }
  if (!gpu_wants_shared(g, result)) {
    load_fragment(g, result, &a);
    gpu_settle(g, result);
    return;
  }
  struct gpu_value *v = gpu_value(g, result);
  *v = (struct gpu_value){.kind = GPU_SHARED, .in_shared = true};
  v->place = gpu_new_place(g, result->type, gpu_reader_of(g, result));
  emit_gpu_barrier(g->e);
  gpu_copy(g, &a, result->type, &v->place);
  emit_gpu_copy_commit(g->e);
  emit_gpu_copy_wait(g->e, 0);
  emit_gpu_barrier(g->e);
}

/* ---- into shared memory ---- */

/* What one thread copies in each turn of copy_chunks. */
struct chunk {
  LLVMValueRef row, column; /* i32 */
  LLVMValueRef from;        /* pointer into the tensor */
};

static LLVMValueRef chunk_pointer(struct gpu *g, const struct gpu_access *a, LLVMValueRef row,
                                  LLVMValueRef column)
{
  struct emit *e = g->e;
  LLVMValueRef offset = LLVMBuildAdd(e->builder, row_offset(g, a->access, row),
                                     LLVMBuildSExt(e->builder, column, e->i64, ""), "");
  offset = LLVMBuildAdd(e->builder, offset, a->origin, "");
  return tensor_pointer(g, a->access->tensor, offset);
}

/* The nth chunk of 16 bytes, row by row. */
static struct chunk chunk_at(struct gpu *g, const struct gpu_access *a, LLVMValueRef number,
                             uint32_t chunks, uint32_t per_chunk)
{
  struct emit *e = g->e;
  LLVMValueRef width = emit_i32(e, (int32_t)chunks);
  struct chunk chunk = {.row = LLVMBuildUDiv(e->builder, number, width, "")};
  chunk.column = LLVMBuildMul(e->builder, LLVMBuildURem(e->builder, number, width, ""),
                              emit_i32(e, (int32_t)per_chunk), "");
  chunk.from = chunk_pointer(g, a, chunk.row, chunk.column);
  return chunk;
}

/* How many of a chunk's bytes are live (i32), or NULL for all. */
static LLVMValueRef chunk_present(struct gpu *g, const struct gpu_access *a, struct tile_type type,
                                  const struct gpu_place *place, const struct chunk *chunk)
{
  struct emit *e = g->e;
  const int32_t size = (int32_t)gpu_element_bytes(place->element);
  LLVMValueRef present = NULL;
  if (type.columns < place->columns || lives(g, chunk->column, a->live_columns, type.columns)) {
    LLVMValueRef columns =
        emit_intrinsic(e, "llvm.smin", e->i32,
                       (LLVMValueRef[]){a->live_columns, emit_i32(e, (int32_t)type.columns)}, 2);
    present = LLVMBuildMul(e->builder, LLVMBuildSub(e->builder, columns, chunk->column, ""),
                           emit_i32(e, size), "");
    present = emit_intrinsic(e, "llvm.smin", e->i32, (LLVMValueRef[]){present, emit_i32(e, 16)}, 2);
    present = emit_intrinsic(e, "llvm.smax", e->i32, (LLVMValueRef[]){present, emit_i32(e, 0)}, 2);
  }
  LLVMValueRef live = lives(g, chunk->row, a->live_rows, type.rows);
  if (type.rows < place->rows)
    live = gpu_both(
        g, live,
        LLVMBuildICmp(e->builder, LLVMIntSLT, chunk->row, emit_i32(e, (int32_t)type.rows), ""));
  if (live == NULL)
    return present;
  return emit_select(e, live, present == NULL ? emit_i32(e, 16) : present, emit_i32(e, 0));
}

/* 16 bytes at a time. Bytes that are not live become zero. */
static void copy_chunks(struct gpu *g, const struct gpu_access *a, struct tile_type type,
                        const struct gpu_place *place)
{
  struct emit *e = g->e;
  const uint32_t per_chunk = 16 / gpu_element_bytes(place->element);
  const uint32_t chunks = place->columns / per_chunk, threads = gpu_threads(g);
  const uint32_t total = chunks * place->rows;
  /* Where a turn is a whole number of rows, each thread keeps its column and moves down. */
  bool moves_down =
      threads % chunks == 0 && a->access->row_group <= 1 && a->access->row_dim != TILE_NO_DIM;
  const uint32_t rows = threads / chunks;
  struct chunk chunk = chunk_at(g, a, g->thread, chunks, per_chunk);
  LLVMValueRef to = gpu_address(g, place, chunk.row, chunk.column);
  LLVMValueRef step = NULL;
  if (moves_down)
    step = LLVMBuildMul(e->builder, stride_of(g, a->access->tensor, a->access->row_dim),
                        emit_i64(e, rows), "");
  LLVMTypeRef element = emit_storage_type(e, dtype_of(g, a->access->tensor));
  for (uint32_t first = 0; first < total; first += threads) {
    if (first > 0 && moves_down) {
      chunk.row = LLVMBuildAdd(e->builder, chunk.row, emit_i32(e, (int32_t)rows), "");
      chunk.from = emit_address(e, element, chunk.from, step);
      to = gpu_further(g, to, (int64_t)rows * place->pitch);
    } else if (first > 0) {
      LLVMValueRef number = LLVMBuildAdd(e->builder, g->thread, emit_i32(e, (int32_t)first), "");
      chunk = chunk_at(g, a, number, chunks, per_chunk);
      to = gpu_address(g, place, chunk.row, chunk.column);
    }
    struct emit_branch branch;
    bool last = first + threads > total;
    if (last)
      emit_if(e, &branch,
              LLVMBuildICmp(e->builder, LLVMIntSLT, g->thread,
                            emit_i32(e, (int32_t)(total - first)), ""));
    emit_gpu_copy(e, 16, to, chunk.from, chunk_present(g, a, type, place, &chunk));
    if (last) {
      emit_else(e, &branch);
      emit_end_if(e, &branch);
    }
  }
}

/* Element by element, converting; a loop, since it is no fast path. */
static void copy_elements(struct gpu *g, const struct gpu_access *a, struct tile_type type,
                          const struct gpu_place *place)
{
  struct emit *e = g->e;
  const uint32_t threads = gpu_threads(g);
  struct emit_loop loop;
  emit_loop_begin(e, &loop, g->thread, emit_i32(e, (int32_t)(place->rows * place->columns)),
                  threads, NULL, 0);
  LLVMValueRef width = emit_i32(e, (int32_t)place->columns);
  LLVMValueRef row = LLVMBuildUDiv(e->builder, loop.index, width, "");
  LLVMValueRef column = LLVMBuildURem(e->builder, loop.index, width, "");
  LLVMValueRef live = gpu_both(g, lives(g, row, a->live_rows, UINT32_MAX),
                               lives(g, column, a->live_columns, UINT32_MAX));
  LLVMValueRef own = gpu_both(
      g, LLVMBuildICmp(e->builder, LLVMIntSLT, row, emit_i32(e, (int32_t)type.rows), ""),
      LLVMBuildICmp(e->builder, LLVMIntSLT, column, emit_i32(e, (int32_t)type.columns), ""));
  LLVMValueRef offset = LLVMBuildAdd(e->builder, row_offset(g, a->access, row),
                                     column_offset(g, a->access, column), "");
  offset = LLVMBuildAdd(e->builder, offset, a->origin, "");
  LLVMValueRef element = load_element(
      g, a->access->tensor, tensor_pointer(g, a->access->tensor, offset), gpu_both(g, live, own));
  gpu_shared_store(g, place, row, column, element);
  emit_loop_end(e, &loop, NULL);
}

static bool has_storage(enum tile_element element, enum dtype type)
{
  switch (element) {
  case TILE_F32: return type == DTYPE_F32;
  case TILE_F16: return type == DTYPE_F16;
  case TILE_BF16: return type == DTYPE_BF16;
  case TILE_I32: return type == DTYPE_I32;
  case TILE_INDEX:
  case TILE_BOOL: return false;
  }
  return false;
}

void gpu_copy(struct gpu *g, const struct gpu_access *a, struct tile_type type,
              const struct gpu_place *place)
{
  const uint32_t tensor = a->access->tensor;
  if (!has_unit_columns(g, a->access) || !has_storage(place->element, dtype_of(g, tensor))) {
    copy_elements(g, a, type, place);
    return;
  }
  struct emit_branch branch;
  emit_if(g->e, &branch, is_aligned(g, a, 16));
  copy_chunks(g, a, type, place);
  emit_else(g->e, &branch);
  copy_elements(g, a, type, place);
  emit_end_if(g->e, &branch);
}

/* ---- stores ---- */

static void store_element(struct gpu *g, const struct tile_op *op, LLVMValueRef address,
                          LLVMValueRef element)
{
  struct emit *e = g->e;
  enum dtype type = dtype_of(g, op->access.tensor);
  unsigned align = (unsigned)dtype_size(type);
  if (op->kind == TILE_ACCUMULATE) {
    LLVMValueRef old =
        emit_from_storage(e, type, emit_load(e, emit_storage_type(e, type), address, align));
    element = LLVMTypeOf(element) == e->f32 ? LLVMBuildFAdd(e->builder, old, element, "")
                                            : LLVMBuildAdd(e->builder, old, element, "");
  }
  emit_store(e, emit_to_storage(e, type, element), address, align);
}

static void store_row(struct gpu *g, const struct tile_op *op, const struct gpu_access *a,
                      uint32_t r, LLVMValueRef row, bool pairs)
{
  struct emit *e = g->e;
  const struct tile_value *tile = op->operands[0];
  struct tile_type type = tile->type;
  struct gpu_shape shape = gpu_shape(g, type);
  for (uint32_t c = 0; c < shape.columns; c += pairs ? 2 : 1) {
    LLVMValueRef column = gpu_column(g, type, c);
    LLVMValueRef live =
        gpu_both(g, gpu_column_exists(g, type, c), lives(g, column, a->live_columns, type.columns));
    LLVMValueRef address = element_pointer(g, a, type, row, c);
    LLVMValueRef element = gpu_element(g, tile, r, c);
    struct emit_branch branch;
    if (live != NULL)
      emit_if(e, &branch, live);
    if (pairs)
      emit_store(
          e,
          emit_gpu_pack(e, dtype_of(g, op->access.tensor), element, gpu_element(g, tile, r, c + 1)),
          address, 4);
    else
      store_element(g, op, address, element);
    if (live != NULL) {
      emit_else(e, &branch);
      emit_end_if(e, &branch);
    }
  }
}

static void store_rows(struct gpu *g, const struct tile_op *op, const struct gpu_access *a,
                       bool pairs)
{
  struct emit *e = g->e;
  struct tile_type type = op->operands[0]->type;
  struct gpu_shape shape = gpu_shape(g, type);
  LLVMValueRef mine = gpu_is_first_copy(g, type);
  for (uint32_t r = 0; r < shape.rows; r++) {
    LLVMValueRef row = gpu_row(g, type, r);
    LLVMValueRef live =
        gpu_both(g, gpu_row_exists(g, type, r), lives(g, row, a->live_rows, type.rows));
    live = gpu_both(g, live, mine);
    LLVMValueRef start = row_pointer(g, a, type, r);
    struct emit_branch branch;
    if (live != NULL)
      emit_if(e, &branch, live);
    store_row(g, op, a, r, start, pairs);
    if (live != NULL) {
      emit_else(e, &branch);
      emit_end_if(e, &branch);
    }
  }
}

void gpu_store(struct gpu *g, const struct tile_op *op)
{
  struct emit *e = g->e;
  struct tile_type type = op->operands[0]->type;
  gpu_order(g, op->access.tensor);
  struct gpu_access a = gpu_access(g, op, 1);
  enum dtype storage = dtype_of(g, op->access.tensor);
  /* A pair is stored at once where both are sure to be live and the address is aligned. */
  bool all_columns = LLVMIsAConstantInt(a.live_columns) != NULL &&
                     LLVMConstIntGetSExtValue(a.live_columns) >= (long long)type.columns;
  bool pairs = op->kind == TILE_STORE && (storage == DTYPE_F16 || storage == DTYPE_BF16) &&
               type.element != TILE_I32 && type.element != TILE_BOOL && type.columns % 2 == 0 &&
               all_columns && has_unit_columns(g, &op->access);
  if (!pairs) {
    store_rows(g, op, &a, false);
    return;
  }
  struct emit_branch branch;
  emit_if(e, &branch, is_aligned(g, &a, 4));
  store_rows(g, op, &a, true);
  emit_else(e, &branch);
  store_rows(g, op, &a, false);
  emit_end_if(e, &branch);
}
