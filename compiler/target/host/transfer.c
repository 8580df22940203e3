#include "compiler/target/host/transfer.h"

#include <string.h>

enum {
  MOST_LANES = 64,
  CLOSE = 4 /* elements that every machine interleaves in one instruction: 128 bits */
};

/* The function at hand: what its emission needs. */
struct mover {
  struct host *h;
  const struct host_transfer *shape;
  struct place place;     /* how elements follow each other in a row */
  LLVMTypeRef memory;     /* an element of the tile */
  LLVMValueRef tile;      /* where it begins */
  LLVMValueRef columns;   /* live ones, i64, not negative */
  LLVMValueRef width;     /* columns that a load fills */
  LLVMValueRef addresses; /* LANES: of the live rows */
  LLVMValueRef skips;     /* LANES: their place_skip, behind the addresses */
  LLVMValueRef live;      /* LANES: rows, i64, from 0 to the lanes */
};

/* ---- squares of as many rows and columns as a vector has elements ---- */

/* Leaves LLVM without knowledge of how the vectors were made; no instruction. Of shuffles of
 * shuffles it would try to make fewer ones, in vain and for longer than a kernel's other code
 * takes. */
static void hide(struct host *h, LLVMValueRef *vectors)
{
  struct emit *e = &h->e;
  if (emit_element_type(vectors[0]) != e->f32)
    return; /* there is such an intrinsic for floats only */
  for (uint32_t k = 0; k < e->lanes; k++)
    vectors[k] = emit_intrinsic(e, "llvm.arithmetic.fence", LLVMTypeOf(vectors[k]), &vectors[k], 1);
}

/* At first inside blocks of CLOSE by CLOSE
 * elements by interleaving them, then between these blocks, of which a step brings the even ones of
 * two vectors together, and the odd ones: one instruction on 512 bits as well. */
void host_turn(struct host *h, LLVMValueRef *vectors)
{
  struct emit *e = &h->e;
  const uint32_t lanes = e->lanes;
  for (uint32_t step = 1; step < lanes; step *= 2) {
    LLVMValueRef low[MOST_LANES], high[MOST_LANES], turned[MOST_LANES];
    for (uint32_t k = 0; k < lanes; k++) {
      uint32_t close = k % CLOSE, second = k / step % 2;
      uint32_t from = step < CLOSE
                          ? k - close + close / (2 * step) * step + k % step + second * lanes
                          : 2 * k - close;
      low[k] = emit_i32(e, (int32_t)from);
      high[k] = emit_i32(e, (int32_t)(from + (step < CLOSE ? CLOSE / 2 : CLOSE)));
    }
    for (uint32_t i = 0; i < lanes; i++) {
      if ((i & step) != 0)
        continue;
      uint32_t to = step == 2 ? i + i % 2 : i, next = step < CLOSE ? 1 : step;
      LLVMValueRef a = vectors[i], b = vectors[i + step];
      turned[to] = LLVMBuildShuffleVector(e->builder, a, b, LLVMConstVector(low, lanes), "");
      turned[to + next] =
          LLVMBuildShuffleVector(e->builder, a, b, LLVMConstVector(high, lanes), "");
    }
    memcpy(vectors, turned, lanes * sizeof(*vectors));
    hide(h, vectors);
  }
}

static LLVMValueRef row_of(struct emit *e, LLVMTypeRef type, LLVMValueRef base, LLVMValueRef k,
                           LLVMValueRef stride)
{
  return emit_address(e, type, base, LLVMBuildMul(e->builder, k, stride, ""));
}

/* turn(from, from_stride, to, to_stride): `to` becomes the transpose of a square. */
static void emit_turn(struct host *h, struct host_turn *made)
{
  struct emit *e = &h->e;
  LLVMTypeRef parameters[4] = {e->pointer, e->i64, e->pointer, e->i64};
  made->type = LLVMFunctionType(e->none, parameters, 4, false);
  struct host_outer outer;
  made->function = host_function_begin(h, &outer, "turn", made->type);
  LLVMValueRef p[4], vectors[MOST_LANES];
  for (unsigned k = 0; k < 4; k++)
    p[k] = LLVMGetParam(made->function, k);
  for (uint32_t k = 0; k < e->lanes; k++)
    vectors[k] = emit_load(e, emit_vector_type(e, made->element),
                           row_of(e, made->element, p[0], emit_i64(e, k), p[1]), 1);
  host_turn(h, vectors);
  for (uint32_t k = 0; k < e->lanes; k++)
    emit_store(e, vectors[k], row_of(e, made->element, p[2], emit_i64(e, k), p[3]), 1);
  host_function_end(h, &outer);
}

static void call_turn(struct host *h, LLVMTypeRef element, LLVMValueRef from,
                      LLVMValueRef from_stride, LLVMValueRef to, LLVMValueRef to_stride)
{
  struct emit *e = &h->e;
  if (element == e->i32)
    element = e->f32; /* moved, never computed with */
  struct host_turn *made = NULL;
  for (size_t k = 0; k < h->turns.count; k++)
    if (h->turns.items[k].element == element)
      made = &h->turns.items[k];
  if (made == NULL) {
    struct host_turn turn = {.element = element};
    emit_turn(h, &turn);
    vector_push(h->arena, &h->turns, turn);
    made = &h->turns.items[h->turns.count - 1];
  }
  LLVMValueRef args[4] = {from, from_stride, to, to_stride};
  LLVMBuildCall2(e->builder, made->type, made->function, args, 4, "");
}

/* ---- what the functions do ---- */

/* The elements of `count` that fill vectors. */
static LLVMValueRef whole_vectors(struct host *h, LLVMValueRef count)
{
  return LLVMBuildAnd(h->e.builder, count, emit_i64(&h->e, -(int64_t)h->e.lanes), "");
}

/* Elements of a row from `start` up to `end`, one by one, to places `stride` apart. */
static void load_elements(struct mover *f, LLVMValueRef row, LLVMValueRef skip, LLVMValueRef start,
                          LLVMValueRef end, LLVMValueRef to, int64_t stride)
{
  struct emit *e = &f->h->e;
  enum tile_element element = f->shape->element;
  struct emit_loop loop;
  emit_loop_begin(e, &loop, start, end, 1, NULL, 0);
  LLVMValueRef column = LLVMBuildMul(e->builder, loop.index, f->place.column_stride, "");
  column = LLVMBuildAdd(e->builder, column, skip, "");
  LLVMValueRef value = place_load(f->h, &f->place, element, row, column, false);
  emit_store(e, host_to_memory(f->h, element, value),
             row_of(e, f->memory, to, loop.index, emit_i64(e, stride)), 1);
  emit_loop_end(e, &loop, NULL);
}

static void zero_elements(struct mover *f, LLVMValueRef start, LLVMValueRef end, LLVMValueRef to,
                          int64_t stride)
{
  struct emit *e = &f->h->e;
  struct emit_loop loop;
  if (stride == 1) { /* vectors, the last of which does not go beyond `end` */
    LLVMValueRef length = LLVMBuildSub(e->builder, end, start, "");
    LLVMValueRef some[2] = {length, emit_i64(e, 0)};
    length = whole_vectors(f->h, emit_intrinsic(e, "llvm.smax", e->i64, some, 2));
    LLVMValueRef last = LLVMBuildAdd(e->builder, start, length, "");
    emit_loop_begin(e, &loop, start, last, e->lanes, NULL, 0);
    emit_store(e, LLVMConstNull(emit_vector_type(e, f->memory)),
               emit_address(e, f->memory, to, loop.index), 1);
    emit_loop_end(e, &loop, NULL);
    start = last;
  }
  emit_loop_begin(e, &loop, start, end, 1, NULL, 0);
  emit_store(e, LLVMConstNull(f->memory), row_of(e, f->memory, to, loop.index, emit_i64(e, stride)),
             1);
  emit_loop_end(e, &loop, NULL);
}

/* function(first row, its skip, column_stride, tile, columns, width, row_stride, live rows, rows)
 */
static void load_rows(struct mover *f, const LLVMValueRef *p)
{
  struct emit *e = &f->h->e;
  struct emit_loop rows, loop;
  emit_loop_begin(e, &rows, emit_i64(e, 0), p[8], 1, NULL, 0);
  LLVMValueRef live = LLVMBuildICmp(e->builder, LLVMIntSLT, rows.index, p[7], "");
  LLVMValueRef columns = emit_select(e, live, f->columns, emit_i64(e, 0));
  /* An address is not formed from a row that is not there. */
  LLVMValueRef safe = emit_select(e, live, rows.index, emit_i64(e, 0));
  LLVMValueRef row = row_of(e, f->place.type, p[0], safe, p[6]);
  LLVMValueRef to = row_of(e, f->memory, f->tile, rows.index, f->width);
  LLVMValueRef start = emit_i64(e, 0);
  if (f->shape->contiguous) {
    LLVMValueRef vectors = whole_vectors(f->h, columns);
    emit_loop_begin(e, &loop, start, vectors, e->lanes, NULL, 0);
    LLVMValueRef value = place_load(f->h, &f->place, f->shape->element, row, loop.index, true);
    emit_store(e, host_to_memory(f->h, f->shape->element, value),
               emit_address(e, f->memory, to, loop.index), 1);
    emit_loop_end(e, &loop, NULL);
    start = vectors;
  }
  load_elements(f, row, p[1], start, columns, to, 1);
  zero_elements(f, columns, f->width, to, 1);
  emit_loop_end(e, &rows, NULL);
}

static LLVMValueRef lanes_row(struct mover *f, LLVMValueRef lane)
{
  struct emit *e = &f->h->e;
  return emit_load(e, e->pointer, emit_address(e, e->pointer, f->addresses, lane), 8);
}

/* Columns that squares cover, which have all their rows. */
static LLVMValueRef square_columns(struct mover *f)
{
  struct emit *e = &f->h->e;
  if (!f->shape->blocks)
    return emit_i64(e, 0);
  LLVMValueRef all = LLVMBuildICmp(e->builder, LLVMIntEQ, f->live, emit_i64(e, e->lanes), "");
  return emit_select(e, all, whole_vectors(f->h, f->columns), emit_i64(e, 0));
}

/* Moves squares by way of a buffer whose rows are converted, or converted from, one by one. */
static void move_squares(struct mover *f, LLVMValueRef end)
{
  struct emit *e = &f->h->e;
  const bool loads = f->shape->way == HOST_LOAD_LANES;
  enum tile_element element = f->shape->element;
  LLVMTypeRef vector = emit_vector_type(e, f->memory);
  LLVMValueRef buffer = emit_variable(e, LLVMArrayType2(vector, e->lanes));
  LLVMValueRef lanes = emit_i64(e, e->lanes), panel_rows = emit_i64(e, f->h->panel_rows);
  struct emit_loop columns, rows;
  emit_loop_begin(e, &columns, emit_i64(e, 0), end, e->lanes, NULL, 0);
  LLVMValueRef square = row_of(e, f->memory, f->tile, columns.index, panel_rows);
  if (!loads)
    call_turn(f->h, f->memory, square, panel_rows, buffer, lanes);
  emit_loop_begin(e, &rows, emit_i64(e, 0), lanes, 1, NULL, 0);
  LLVMValueRef row = lanes_row(f, rows.index), at = emit_address(e, vector, buffer, rows.index);
  if (loads) {
    LLVMValueRef value = place_load(f->h, &f->place, element, row, columns.index, true);
    emit_store(e, host_to_memory(f->h, element, value), at, 1);
  } else {
    LLVMValueRef value = host_from_memory(f->h, element, emit_load(e, vector, at, 1));
    host_transfer_store(f->h, &f->place, element, f->shape->adds, row, columns.index, value);
  }
  emit_loop_end(e, &rows, NULL);
  if (loads)
    call_turn(f->h, f->memory, buffer, lanes, square, panel_rows);
  emit_loop_end(e, &columns, NULL);
}

/* function(addresses, live, column_stride, tile, columns, width). Addresses of rows that are not
 * live are whatever was there; nothing is read from them. */
static void load_lanes(struct mover *f)
{
  struct emit *e = &f->h->e;
  LLVMValueRef done = square_columns(f);
  if (f->shape->blocks)
    move_squares(f, done);
  struct emit_loop lanes;
  emit_loop_begin(e, &lanes, emit_i64(e, 0), emit_i64(e, e->lanes), 1, NULL, 0);
  LLVMValueRef live = LLVMBuildICmp(e->builder, LLVMIntSLT, lanes.index, f->live, "");
  LLVMValueRef count = emit_select(e, live, f->columns, emit_i64(e, 0));
  LLVMValueRef lane = emit_address(e, f->memory, f->tile, lanes.index), skip = emit_i64(e, 0);
  if (f->skips != NULL)
    skip = emit_load(e, e->i64, emit_address(e, e->i64, f->skips, lanes.index), 8);
  load_elements(f, lanes_row(f, lanes.index), skip, done, count, lane, f->h->panel_rows);
  zero_elements(f, count, f->width, lane, f->h->panel_rows);
  emit_loop_end(e, &lanes, NULL);
}

static void store_lanes(struct mover *f)
{
  struct emit *e = &f->h->e;
  enum tile_element element = f->shape->element;
  LLVMValueRef done = square_columns(f);
  if (f->shape->blocks)
    move_squares(f, done);
  struct emit_loop lanes, loop;
  emit_loop_begin(e, &lanes, emit_i64(e, 0), f->live, 1, NULL, 0);
  LLVMValueRef row = lanes_row(f, lanes.index);
  LLVMValueRef lane = emit_address(e, f->memory, f->tile, lanes.index);
  emit_loop_begin(e, &loop, done, f->columns, 1, NULL, 0);
  LLVMValueRef at = row_of(e, f->memory, lane, loop.index, emit_i64(e, f->h->panel_rows));
  LLVMValueRef value = host_from_memory(f->h, element, emit_load(e, f->memory, at, 1));
  LLVMValueRef column = LLVMBuildMul(e->builder, loop.index, f->place.column_stride, "");
  host_transfer_store(f->h, &f->place, element, f->shape->adds, row, column, value);
  emit_loop_end(e, &loop, NULL);
  emit_loop_end(e, &lanes, NULL);
}

void host_transfer_store(struct host *h, const struct place *place, enum tile_element element,
                         bool adds, LLVMValueRef row, LLVMValueRef column, LLVMValueRef value)
{
  struct emit *e = &h->e;
  if (adds) {
    LLVMValueRef old = place_load(h, place, element, row, column, emit_is_vector(value));
    value = element == TILE_I32 ? LLVMBuildAdd(e->builder, old, value, "")
                                : LLVMBuildFAdd(e->builder, old, value, "");
  }
  place_store(h, place, row, column, value);
}

/* ---- the functions, and calls of them ---- */

enum { PARAMETERS = 9 };

static unsigned parameter_count(int way)
{
  return way == HOST_LOAD_ROWS ? PARAMETERS : 6;
}

static void emit_transfer(struct host *h, struct host_transfer *shape)
{
  struct emit *e = &h->e;
  static const char *const names[] = {[HOST_LOAD_ROWS] = "load_rows",
                                      [HOST_LOAD_LANES] = "load_lanes",
                                      [HOST_STORE_LANES] = "store_lanes"};
  LLVMTypeRef parameters[PARAMETERS] = {e->pointer, e->i64, e->i64, e->pointer, e->i64,
                                        e->i64,     e->i64, e->i64, e->i64};
  const unsigned count = parameter_count(shape->way);
  shape->type = LLVMFunctionType(e->none, parameters, count, false);
  struct host_outer outer;
  shape->function = host_function_begin(h, &outer, names[shape->way], shape->type);
  LLVMValueRef p[PARAMETERS];
  for (unsigned k = 0; k < count; k++)
    p[k] = LLVMGetParam(shape->function, k);
  struct mover f = {.h = h, .shape = shape, .tile = p[3], .columns = p[4], .width = p[5]};
  f.memory = host_element_type(h, shape->element);
  f.place = (struct place){.stored = shape->stored, .type = emit_storage_type(e, shape->stored)};
  f.place.column_stride = shape->contiguous ? emit_i64(e, 1) : p[2];
  if (tile_elements_per_byte(shape->stored) > 1)
    f.place.offset = emit_i64(e, 0);
  if (shape->way == HOST_LOAD_ROWS) {
    load_rows(&f, p);
  } else {
    f.addresses = p[0];
    f.live = p[1];
    if (f.place.offset != NULL && !shape->contiguous)
      f.skips = emit_address(e, e->i64, f.addresses, emit_i64(e, e->lanes));
    if (shape->way == HOST_LOAD_LANES)
      load_lanes(&f);
    else
      store_lanes(&f);
  }
  host_function_end(h, &outer);
}

/* What makes no difference is made equal. */
static struct host_transfer usual(struct host_transfer shape)
{
  /* A half type is rounded already, and lies in the tile as f32. */
  if (shape.way == HOST_STORE_LANES && (shape.element == TILE_F16 || shape.element == TILE_BF16))
    shape.element = TILE_F32;
  /* Four bytes are four bytes. */
  if (shape.way != HOST_STORE_LANES && shape.stored == DTYPE_I32 && shape.element == TILE_I32) {
    shape.stored = DTYPE_F32;
    shape.element = TILE_F32;
  }
  return shape;
}

static void call_transfer(struct host *h, struct host_transfer wanted, LLVMValueRef *args)
{
  wanted = usual(wanted);
  struct host_transfer *made = NULL;
  for (size_t k = 0; k < h->transfers.count && made == NULL; k++) {
    struct host_transfer *other = &h->transfers.items[k];
    if (other->way == wanted.way && other->stored == wanted.stored &&
        other->element == wanted.element && other->contiguous == wanted.contiguous &&
        other->blocks == wanted.blocks && other->adds == wanted.adds)
      made = other;
  }
  if (made == NULL) {
    emit_transfer(h, &wanted);
    vector_push(h->arena, &h->transfers, wanted);
    made = &h->transfers.items[h->transfers.count - 1];
  }
  LLVMBuildCall2(h->e.builder, made->type, made->function, args, parameter_count(wanted.way), "");
}

static LLVMValueRef not_negative(struct emit *e, LLVMValueRef count)
{
  if (LLVMIsAConstantInt(count) != NULL && LLVMConstIntGetSExtValue(count) >= 0)
    return count;
  return emit_intrinsic(e, "llvm.smax", e->i64, (LLVMValueRef[]){count, emit_i64(e, 0)}, 2);
}

void host_transfer_rows(struct host *h, const struct place *place, enum tile_element element,
                        LLVMValueRef m, const struct host_rows *rows)
{
  struct emit *e = &h->e;
  struct host_transfer wanted = {.way = HOST_LOAD_ROWS,
                                 .stored = place->stored,
                                 .element = element,
                                 .contiguous = place_is_contiguous(place)};
  LLVMValueRef args[PARAMETERS] = {place_row(h, place, m),
                                   place_skip(h, place, m),
                                   place->column_stride,
                                   rows->to,
                                   not_negative(e, rows->live_columns),
                                   emit_i64(e, rows->width),
                                   place->row_stride,
                                   rows->live_rows,
                                   emit_i64(e, rows->rows)};
  call_transfer(h, wanted, args);
}

/* Tells where live rows from m on begin. An address is not formed from a row that is not there. */
static void move_lanes(struct host *h, const struct place *place, struct host_transfer wanted,
                       struct tile_type tile, LLVMValueRef m, LLVMValueRef at)
{
  struct emit *e = &h->e;
  const uint32_t lanes = e->lanes;
  wanted.stored = place->stored;
  wanted.element = tile.element;
  wanted.contiguous = place_is_contiguous(place);
  wanted.blocks = wanted.contiguous && tile.columns >= lanes && lanes >= CLOSE &&
                  lanes <= MOST_LANES && (lanes & (lanes - 1)) == 0;
  LLVMValueRef live = not_negative(e, LLVMBuildSub(e->builder, place->live_rows, m, ""));
  live = emit_intrinsic(e, "llvm.smin", e->i64, (LLVMValueRef[]){live, emit_i64(e, lanes)}, 2);
  LLVMValueRef addresses = host_allocate(h, 2 * lanes * sizeof(int64_t));
  struct emit_loop loop;
  emit_loop_begin(e, &loop, emit_i64(e, 0), live, 1, NULL, 0);
  LLVMValueRef row = LLVMBuildAdd(e->builder, m, loop.index, "");
  emit_store(e, place_row(h, place, row), emit_address(e, e->pointer, addresses, loop.index), 8);
  if (place->offset != NULL && !wanted.contiguous) {
    LLVMValueRef behind = LLVMBuildAdd(e->builder, loop.index, emit_i64(e, lanes), "");
    emit_store(e, place_skip(h, place, row), emit_address(e, e->i64, addresses, behind), 8);
  }
  emit_loop_end(e, &loop, NULL);
  LLVMValueRef args[PARAMETERS] = {addresses,
                                   live,
                                   place->column_stride,
                                   at,
                                   not_negative(e, place->live_columns),
                                   emit_i64(e, tile.columns)};
  call_transfer(h, wanted, args);
}

void host_transfer_load_lanes(struct host *h, const struct place *place, struct tile_type tile,
                              LLVMValueRef m, LLVMValueRef lanes)
{
  move_lanes(h, place, (struct host_transfer){.way = HOST_LOAD_LANES}, tile, m, lanes);
}

void host_transfer_store_lanes(struct host *h, const struct place *place, struct tile_type tile,
                               bool adds, LLVMValueRef m, LLVMValueRef lanes)
{
  move_lanes(h, place, (struct host_transfer){.way = HOST_STORE_LANES, .adds = adds}, tile, m,
             lanes);
}
