/* Tiles from global into shared memory, 16 bytes at a time and asynchronously where addresses
 * allow. */
#include "compiler/target/nvptx/lower.h"

/* The first of what one thread copies in a turn of copy_chunks. */
struct chunk {
  LLVMValueRef row, column; /* i32 */
  uint32_t down;            /* rows, to be added to `row` */
  LLVMValueRef to, from;    /* pointers into the place and the tensor */
};

struct copy {
  struct gpu *g;
  const struct gpu_access *a;
  struct tile_type type;
  const struct gpu_place *place;
  uint32_t bits;              /* of an element, in memory and in the place */
  uint32_t chunks, per_chunk; /* in a row; elements */
  uint32_t threads, total;    /* chunks of all rows */
  /* In each turn the threads copy `width` chunks beside each other of as many rows as that makes,
   * which is `rows` if those are whole, else 0, and then the chunks `width` further on, until each
   * has `beside` of its row. */
  uint32_t width, beside, rows;
};

static LLVMValueRef chunk_pointer(const struct copy *c, LLVMValueRef row_offset,
                                  LLVMValueRef column)
{
  struct emit *e = c->g->e;
  LLVMValueRef offset =
      LLVMBuildAdd(e->builder, row_offset, LLVMBuildSExt(e->builder, column, e->i64, ""), "");
  return gpu_spot_at(c->g, c->a->access->tensor, offset).pointer;
}

/* Where the thread's chunk of the turn that begins at chunk `first` lies, counted row by row. */
static void place_chunk(const struct copy *c, struct chunk *chunk, uint32_t first)
{
  struct gpu *g = c->g;
  struct emit *e = g->e;
  LLVMValueRef number = g->thread, width = emit_i32(e, (int32_t)c->width);
  if (first > 0)
    number = LLVMBuildAdd(e->builder, number, emit_i32(e, (int32_t)first), "");
  chunk->row = LLVMBuildUDiv(e->builder, number, width, "");
  chunk->column = LLVMBuildMul(e->builder, LLVMBuildURem(e->builder, number, width, ""),
                               emit_i32(e, (int32_t)c->per_chunk), "");
  chunk->to = gpu_address(g, c->place, chunk->row, chunk->column);
}

/* Of rows that are not scattered. */
static LLVMValueRef chunk_source(const struct copy *c, const struct chunk *chunk)
{
  return chunk_pointer(c, gpu_row_offset(c->g, c->a, c->type, chunk->row, 0), chunk->column);
}

/* Whole rows further on: each thread keeps its column and moves down. */
static void move_down(const struct copy *c, struct chunk *chunk)
{
  chunk->down += c->rows;
  chunk->to = gpu_further(c->g, chunk->to, (int64_t)c->rows * c->place->pitch);
}

/* Bytes (i64) from a row to that which the thread copies of next. */
static LLVMValueRef row_step(const struct copy *c)
{
  struct gpu *g = c->g;
  struct emit *e = g->e;
  LLVMValueRef step =
      LLVMBuildMul(e->builder, gpu_row_stride(g, c->a), emit_i64(e, (int64_t)c->rows), "");
  return gpu_bytes(g, gpu_dtype(g, c->a->access->tensor), step);
}

/* Whether the chunk's row (i1) is less than a count (i32): all chunks of a thread are compared with
 * one difference. */
static LLVMValueRef is_above(const struct copy *c, const struct chunk *chunk, LLVMValueRef count)
{
  struct emit *e = c->g->e;
  LLVMValueRef rest = LLVMBuildSub(e->builder, count, chunk->row, "");
  return LLVMBuildICmp(e->builder, LLVMIntSGT, rest, emit_i32(e, (int32_t)chunk->down), "");
}

/* How many bytes are live (i32) of the chunk at a column of the chunk's row, or NULL for all. */
static LLVMValueRef chunk_present(const struct copy *c, const struct chunk *chunk,
                                  LLVMValueRef column)
{
  struct gpu *g = c->g;
  struct emit *e = g->e;
  const struct gpu_access *a = c->a;
  const struct tile_type type = c->type;
  LLVMValueRef present = NULL;
  if (type.columns < c->chunks * c->per_chunk ||
      gpu_lives(g, column, a->live_columns, type.columns) != NULL) {
    LLVMValueRef columns =
        emit_intrinsic(e, "llvm.smin", e->i32,
                       (LLVMValueRef[]){a->live_columns, emit_i32(e, (int32_t)type.columns)}, 2);
    present = LLVMBuildMul(e->builder, LLVMBuildSub(e->builder, columns, column, ""),
                           emit_i32(e, (int32_t)c->bits), "");
    present = LLVMBuildAShr(e->builder, present, emit_i32(e, 3), "");
    present = emit_intrinsic(e, "llvm.smin", e->i32, (LLVMValueRef[]){present, emit_i32(e, 16)}, 2);
    present = emit_intrinsic(e, "llvm.smax", e->i32, (LLVMValueRef[]){present, emit_i32(e, 0)}, 2);
  }
  LLVMValueRef live = NULL;
  if (gpu_lives(g, chunk->row, a->live_rows, type.rows) != NULL)
    live = is_above(c, chunk, a->live_rows);
  if (type.rows < c->place->rows)
    live = gpu_both(g, live, is_above(c, chunk, emit_i32(e, (int32_t)type.rows)));
  if (live == NULL)
    return present;
  return emit_select(e, live, present == NULL ? emit_i32(e, 16) : present, emit_i32(e, 0));
}

/* ---- rows that lie anywhere ---- */

/* Finding such a row takes many instructions, and mostly a look into memory, and the threads of a
 * warp copy parts of few rows: each thread finds one row of several turns, and tells the others. */
struct found {
  uint32_t rows, turns; /* of a warp in one turn, at most; that are found at a time */
  LLVMValueRef offset;  /* i64: of the row that this thread found */
};

static struct found begin_found(const struct copy *c)
{
  struct found f = {.rows = (EMIT_WARP - 1) / c->width + 2};
  if (EMIT_WARP % c->width == 0)
    f.rows = EMIT_WARP / c->width;
  else if (c->width % EMIT_WARP == 0)
    f.rows = 1;
  f.turns = EMIT_WARP / f.rows;
  return f;
}

/* The first row that the warp copies of in a turn. */
static LLVMValueRef first_row(const struct copy *c, LLVMValueRef turn)
{
  struct emit *e = c->g->e;
  LLVMValueRef number = LLVMBuildMul(e->builder, turn, emit_i32(e, (int32_t)c->threads), "");
  number = LLVMBuildAdd(e->builder, number, c->g->thread, "");
  number = LLVMBuildSub(e->builder, number, c->g->lane, "");
  return LLVMBuildUDiv(e->builder, number, emit_i32(e, (int32_t)c->width), "");
}

/* The rows of the turns from number `turn` on. */
static void find_rows(const struct copy *c, struct found *f, uint32_t turn)
{
  struct gpu *g = c->g;
  struct emit *e = g->e;
  LLVMValueRef rows = emit_i32(e, (int32_t)f->rows);
  LLVMValueRef own = LLVMBuildUDiv(e->builder, g->lane, rows, "");
  own = LLVMBuildAdd(e->builder, own, emit_i32(e, (int32_t)turn), "");
  LLVMValueRef row =
      LLVMBuildAdd(e->builder, first_row(c, own), LLVMBuildURem(e->builder, g->lane, rows, ""), "");
  uint32_t last = turn + (EMIT_WARP - 1) / f->rows;
  uint32_t reach = (last + 1) * c->threads / c->width + (c->rows == 0 ? f->rows : 0);
  f->offset = gpu_row_offset(g, c->a, c->type, row, reach);
}

/* The offset of the row of the thread's chunks in a turn. */
static LLVMValueRef found_offset(const struct copy *c, struct found *f, uint32_t turn,
                                 const struct chunk *chunk)
{
  struct emit *e = c->g->e;
  if (turn % f->turns == 0)
    find_rows(c, f, turn);
  LLVMValueRef from = emit_i32(e, (int32_t)(turn % f->turns * f->rows));
  if (f->rows > 1) {
    LLVMValueRef first = first_row(c, emit_i32(e, (int32_t)turn));
    LLVMValueRef row = LLVMBuildAdd(e->builder, chunk->row, emit_i32(e, (int32_t)chunk->down), "");
    from = LLVMBuildAdd(e->builder, from, LLVMBuildSub(e->builder, row, first, ""), "");
  }
  LLVMValueRef high = LLVMBuildLShr(e->builder, f->offset, emit_i64(e, 32), "");
  LLVMValueRef halves[2] = {LLVMBuildTrunc(e->builder, f->offset, e->i32, ""),
                            LLVMBuildTrunc(e->builder, high, e->i32, "")};
  for (int k = 0; k < 2; k++)
    halves[k] = LLVMBuildZExt(e->builder, emit_gpu_shuffle(e, halves[k], from), e->i64, "");
  return LLVMBuildOr(e->builder, halves[0],
                     LLVMBuildShl(e->builder, halves[1], emit_i64(e, 32), ""), "");
}

/* ---- a tile ---- */

/* Those of the thread in one row. */
static void copy_beside(const struct copy *c, const struct chunk *chunk)
{
  struct gpu *g = c->g;
  struct emit *e = g->e;
  for (uint32_t k = 0; k < c->beside; k++) {
    const uint32_t over = k * c->width;
    LLVMValueRef column =
        LLVMBuildAdd(e->builder, chunk->column, emit_i32(e, (int32_t)(over * c->per_chunk)), "");
    emit_gpu_copy(e, 16, gpu_further(g, chunk->to, 16 * over),
                  gpu_further(g, chunk->from, 16 * over), chunk_present(c, chunk, column));
  }
}

/* Bytes that are not live become zero. */
static void copy_chunks(const struct copy *c, const struct gpu_copy_start *start)
{
  struct gpu *g = c->g;
  struct emit *e = g->e;
  struct chunk chunk = {0};
  struct found found = c->a->scattered ? begin_found(c) : (struct found){0};
  const uint32_t step = c->threads * c->beside;
  for (uint32_t first = 0; first < c->total; first += step) {
    if (first == 0 || c->rows == 0)
      place_chunk(c, &chunk, first);
    else
      move_down(c, &chunk);
    if (c->a->scattered)
      chunk.from = chunk_pointer(c, found_offset(c, &found, first / step, &chunk), chunk.column);
    else if (first == 0 && start->from != NULL)
      chunk.from = start->from;
    else if (first == 0 || c->rows == 0)
      chunk.from = chunk_source(c, &chunk);
    else
      chunk.from =
          emit_address(e, e->i8, chunk.from, start->step != NULL ? start->step : row_step(c));
    struct emit_branch branch;
    const bool last = first + step > c->total;
    const uint32_t left = (c->total - first) / c->beside;
    if (last)
      emit_if(e, &branch,
              LLVMBuildICmp(e->builder, LLVMIntSLT, g->thread, emit_i32(e, (int32_t)left), ""));
    copy_beside(c, &chunk);
    if (last) {
      emit_else(e, &branch);
      emit_end_if(e, &branch);
    }
  }
}

/* Of each turn of a loop over (row, column) by all threads, columns of `width`. */
static void begin_elements(struct gpu *g, struct emit_loop *loop, uint32_t rows, uint32_t width,
                           LLVMValueRef *row, LLVMValueRef *column)
{
  struct emit *e = g->e;
  emit_loop_begin(e, loop, g->thread, emit_i32(e, (int32_t)(rows * width)), gpu_threads(g), NULL,
                  0);
  *row = LLVMBuildUDiv(e->builder, loop->index, emit_i32(e, (int32_t)width), "");
  *column = LLVMBuildURem(e->builder, loop->index, emit_i32(e, (int32_t)width), "");
}

/* Element (row, column) is one of the tile's, and live. */
static LLVMValueRef is_live(const struct copy *c, LLVMValueRef row, LLVMValueRef column)
{
  struct gpu *g = c->g;
  struct emit *e = g->e;
  LLVMValueRef live = gpu_both(g, gpu_lives(g, row, c->a->live_rows, UINT32_MAX),
                               gpu_lives(g, column, c->a->live_columns, UINT32_MAX));
  LLVMValueRef own = gpu_both(
      g, LLVMBuildICmp(e->builder, LLVMIntSLT, row, emit_i32(e, (int32_t)c->type.rows), ""),
      LLVMBuildICmp(e->builder, LLVMIntSLT, column, emit_i32(e, (int32_t)c->type.columns), ""));
  return gpu_both(g, live, own);
}

/* Element by element, converting; a loop, since it is no fast path. */
static void copy_elements(const struct copy *c)
{
  struct gpu *g = c->g;
  struct emit *e = g->e;
  const uint32_t tensor = c->a->access->tensor;
  struct emit_loop loop;
  LLVMValueRef row, column;
  begin_elements(g, &loop, c->place->rows, c->place->columns, &row, &column);
  LLVMValueRef live = is_live(c, row, column);
  LLVMValueRef offset =
      LLVMBuildAdd(e->builder, gpu_row_offset(g, c->a, c->type, row, c->place->rows),
                   gpu_column_offset(g, c->a, column), "");
  gpu_shared_store(
      g, c->place, row, column,
      gpu_load_element(g, tensor, c->type.element, gpu_spot_at(g, tensor, offset), live));
  emit_loop_end(e, &loop, NULL);
}

/* Byte by byte. Codes that are not live become zero, in bytes that others share too. */
static void copy_codes(const struct copy *c)
{
  struct gpu *g = c->g;
  struct emit *e = g->e;
  const int32_t several = (int32_t)tile_elements_per_byte(c->place->codes);
  const uint32_t tensor = c->a->access->tensor;
  struct emit_loop loop;
  LLVMValueRef row, byte;
  begin_elements(g, &loop, c->place->rows, c->place->columns / (uint32_t)several, &row, &byte);
  LLVMValueRef column = LLVMBuildMul(e->builder, byte, emit_i32(e, several), "");
  LLVMValueRef live = is_live(c, row, column);
  LLVMValueRef offset = gpu_row_offset(g, c->a, c->type, row, c->place->rows);
  LLVMValueRef from = chunk_pointer(c, offset, column);
  from = emit_select(e, live, from, emit_tensor_base(e, &g->slots, tensor));
  LLVMValueRef loaded = emit_load(e, e->i8, from, 1);
  LLVMValueRef mask = emit_select(e, live, LLVMConstInt(e->i8, 0xff, false), LLVMConstNull(e->i8));
  for (int32_t k = 1; k < several; k++) {
    LLVMValueRef next = is_live(c, row, LLVMBuildAdd(e->builder, column, emit_i32(e, k), ""));
    LLVMValueRef below = LLVMConstInt(e->i8, (1u << (uint32_t)k * c->bits) - 1, false);
    mask = emit_select(e, next, mask, LLVMBuildAnd(e->builder, mask, below, ""));
  }
  emit_store(e, LLVMBuildAnd(e->builder, loaded, mask, ""), gpu_address(g, c->place, row, column),
             1);
  emit_loop_end(e, &loop, NULL);
}

/* A thread a row, 4 bytes of it. */
static void copy_column(const struct copy *c)
{
  struct gpu *g = c->g;
  struct emit *e = g->e;
  const uint32_t rows = c->place->rows;
  for (uint32_t first = 0; first < rows; first += c->threads) {
    LLVMValueRef row = LLVMBuildAdd(e->builder, g->thread, emit_i32(e, (int32_t)first), "");
    struct emit_branch branch;
    const bool last = first + c->threads > rows;
    if (last)
      emit_if(e, &branch,
              LLVMBuildICmp(e->builder, LLVMIntSLT, row, emit_i32(e, (int32_t)rows), ""));
    LLVMValueRef live = LLVMBuildICmp(e->builder, LLVMIntSLT, row, c->a->live_rows, "");
    if (c->type.rows < rows)
      live = gpu_both(
          g, live,
          LLVMBuildICmp(e->builder, LLVMIntSLT, row, emit_i32(e, (int32_t)c->type.rows), ""));
    live = gpu_both(g, live, gpu_lives(g, emit_i32(e, 0), c->a->live_columns, 1));
    LLVMValueRef offset = gpu_row_offset(g, c->a, c->type, row, rows);
    LLVMValueRef from = emit_select(e, live, gpu_spot_at(g, c->a->access->tensor, offset).pointer,
                                    emit_tensor_base(e, &g->slots, c->a->access->tensor));
    LLVMValueRef present = emit_select(e, live, emit_i32(e, 4), emit_i32(e, 0));
    emit_gpu_copy(e, 4, gpu_address(g, c->place, row, emit_i32(e, 0)), from, present);
    if (last) {
      emit_else(e, &branch);
      emit_end_if(e, &branch);
    }
  }
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

/* Chunks begin at multiples of 16 bytes and end between bytes. */
static LLVMValueRef takes_chunks(const struct copy *c)
{
  struct gpu *g = c->g;
  struct emit *e = g->e;
  LLVMValueRef aligned = gpu_is_aligned(g, c->a, 16);
  if (c->bits >= 8)
    return aligned;
  LLVMValueRef columns = emit_intrinsic(
      e, "llvm.smin", e->i32,
      (LLVMValueRef[]){c->a->live_columns, emit_i32(e, (int32_t)c->type.columns)}, 2);
  LLVMValueRef rest = LLVMBuildAnd(
      e->builder, columns, emit_i32(e, (int32_t)tile_elements_per_byte(c->place->codes) - 1), "");
  return gpu_both(g, aligned, LLVMBuildICmp(e->builder, LLVMIntEQ, rest, emit_i32(e, 0), ""));
}

/* Row indices that are no formula, where every thread can read them. */
static void place_rows(struct gpu *g, struct gpu_access *a)
{
  for (uint32_t d = 0; d < SPEC_MAX_RANK; d++)
    if (a->rows[d] != NULL && !residence_is_row_formula(g->where, a->rows[d]))
      a->row_places[d] = gpu_in_shared(g, a->rows[d], READ_ROWS);
}

static struct copy begin_copy(struct gpu *g, const struct gpu_access *a, struct tile_type type,
                              const struct gpu_place *place)
{
  enum { LINE = 8, HALF_LINE = 4 }; /* chunks that lie in one line of a cache */
  struct copy c = {.g = g,
                   .a = a,
                   .type = type,
                   .place = place,
                   .bits = residence_bits(gpu_dtype(g, a->access->tensor)),
                   .threads = gpu_threads(g)};
  c.per_chunk = 128 / c.bits;
  c.chunks = (place->columns + c.per_chunk - 1) / c.per_chunk;
  c.total = c.chunks * place->rows;
  c.width = c.chunks % LINE == 0 ? LINE : c.chunks % HALF_LINE == 0 ? HALF_LINE : c.chunks;
  const bool even =
      a->access->row_group <= 1 && (a->scattered || a->access->row_dim != TILE_NO_DIM);
  if (even && c.threads % c.width == 0)
    c.rows = c.threads / c.width;
  else
    c.width = c.chunks;
  c.beside = c.chunks / c.width;
  return c;
}

static bool may_take_chunks(const struct copy *c)
{
  const struct gpu_place *place = c->place;
  return place->columns > 1 &&
         (place->codes != DTYPE_ANY ||
          (residence_has_unit_columns(c->g->where, c->a->access) &&
           has_storage(place->element, gpu_dtype(c->g, c->a->access->tensor))));
}

struct gpu_copy_start gpu_copy_start(struct gpu *g, const struct gpu_access *access,
                                     struct tile_type type, const struct gpu_place *place)
{
  struct gpu_copy_start start = {0};
  const struct copy c = begin_copy(g, access, type, place);
  if (!may_take_chunks(&c) || c.bits < 8) /* where columns end decides, too */
    return start;
  start.chunks = takes_chunks(&c);
  if (!access->scattered && c.rows > 0) {
    struct chunk chunk = {0};
    place_chunk(&c, &chunk, 0);
    start.from = chunk_source(&c, &chunk);
    start.step = row_step(&c);
  }
  return start;
}

static void copy_one_by_one(const struct copy *c)
{
  if (c->place->codes == DTYPE_ANY)
    copy_elements(c);
  else
    copy_codes(c);
}

void gpu_copy(struct gpu *g, const struct gpu_access *access, struct tile_type type,
              const struct gpu_place *place, struct gpu_copy_start start)
{
  struct gpu_access a = *access;
  const uint32_t used = g->shared_used;
  const struct copy c = begin_copy(g, &a, type, place);
  place_rows(g, &a);
  if (place->columns == 1) {
    copy_column(&c);
  } else if (!may_take_chunks(&c)) {
    copy_one_by_one(&c);
  } else {
    const bool known = start.chunks != NULL && LLVMIsAConstantInt(start.chunks) != NULL;
    const bool in_chunks = known && LLVMConstIntGetSExtValue(start.chunks) != 0;
    struct emit_branch branch;
    if (!known)
      emit_if(g->e, &branch, start.chunks == NULL ? takes_chunks(&c) : start.chunks);
    if (!known || in_chunks)
      copy_chunks(&c, &start);
    if (!known)
      emit_else(g->e, &branch);
    if (!known || !in_chunks)
      copy_one_by_one(&c);
    if (!known)
      emit_end_if(g->e, &branch);
  }
  gpu_release(g, used);
}
