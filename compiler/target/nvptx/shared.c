/* Tiles in shared memory. */
#include "compiler/target/nvptx/lower.h"

static uint32_t round_up(uint32_t x, uint32_t multiple)
{
  return (x + multiple - 1) / multiple * multiple;
}

uint32_t gpu_allocate(struct gpu *g, uint32_t bytes)
{
  uint32_t offset = g->shared_used;
  uint32_t end = offset + round_up(bytes, 16);
  g->shared_used = end;
  if (end > g->shared_peak)
    g->shared_peak = end;
  return offset;
}

void gpu_release(struct gpu *g, uint32_t used)
{
  g->reading = g->reading || used < g->shared_used;
  g->shared_used = used;
}

void gpu_barrier(struct gpu *g)
{
  emit_gpu_barrier(g->e);
  g->reading = false;
}

void gpu_before_write(struct gpu *g)
{
  if (g->reading)
    gpu_barrier(g);
}

struct gpu_place gpu_new_place(struct gpu *g, struct tile_type type, enum residence_reader reader)
{
  struct gpu_place place = {
      .rows = type.rows == 1 ? 1 : round_up(type.rows, 16),
      .columns = round_up(type.columns, 16),
      .element = type.element == TILE_BOOL ? TILE_I32 : type.element,
  };
  place.pitch = residence_pitch(place.columns, place.element, reader);
  place.offset = emit_i32(g->e, (int32_t)gpu_allocate(g, gpu_place_bytes(&place)));
  return place;
}

struct gpu_place gpu_new_load_place(struct gpu *g, const struct tile_op *load)
{
  const struct tile_value *value = load->results[0];
  if (residence_is_column(g->where, load)) {
    struct gpu_place column = {.pitch = residence_element_bytes(value->type.element),
                               .rows = round_up(value->type.rows, 16),
                               .columns = 1,
                               .element = value->type.element};
    column.offset = emit_i32(g->e, (int32_t)gpu_allocate(g, gpu_place_bytes(&column)));
    return column;
  }
  if (!residence_has_codes(g->where, value))
    return gpu_new_place(g, value->type, residence_reader_of(g->where, value));
  enum dtype codes = gpu_dtype(g, load->access.tensor);
  struct gpu_place place = {.rows = round_up(value->type.rows, 16),
                            .columns = round_up(value->type.columns, 16),
                            .element = value->type.element,
                            .codes = codes};
  place.pitch = residence_code_pitch(place.columns, codes);
  place.offset = emit_i32(g->e, (int32_t)gpu_allocate(g, gpu_place_bytes(&place)));
  return place;
}

uint32_t gpu_place_bytes(const struct gpu_place *place)
{
  return place->rows * place->pitch;
}

LLVMValueRef gpu_distance(struct gpu *g, const struct gpu_place *place, LLVMValueRef row,
                          LLVMValueRef column)
{
  struct emit *e = g->e;
  LLVMValueRef offset = LLVMBuildMul(e->builder, row, emit_i32(e, (int32_t)place->pitch), "");
  uint32_t several = tile_elements_per_byte(place->codes);
  uint32_t bytes = place->codes == DTYPE_ANY ? residence_element_bytes(place->element) : 1;
  LLVMValueRef along = several > 1
                           ? LLVMBuildUDiv(e->builder, column, emit_i32(e, (int32_t)several), "")
                           : LLVMBuildMul(e->builder, column, emit_i32(e, (int32_t)bytes), "");
  return LLVMBuildAdd(e->builder, offset, along, "");
}

LLVMValueRef gpu_address(struct gpu *g, const struct gpu_place *place, LLVMValueRef row,
                         LLVMValueRef column)
{
  struct emit *e = g->e;
  LLVMValueRef distance = gpu_distance(g, place, row, column);
  return emit_gpu_shared(e, LLVMBuildAdd(e->builder, place->offset, distance, ""));
}

static enum dtype storage_of(enum tile_element element)
{
  if (gpu_is_half(element))
    return gpu_half_type(element);
  return element == TILE_F32 ? DTYPE_F32 : DTYPE_I32;
}

LLVMValueRef gpu_further(struct gpu *g, LLVMValueRef pointer, int64_t bytes)
{
  struct emit *e = g->e;
  if (bytes == 0)
    return pointer;
  bool shared = LLVMTypeOf(pointer) == e->shared;
  return emit_address(e, e->i8, pointer, shared ? emit_i32(e, (int32_t)bytes) : emit_i64(e, bytes));
}

LLVMValueRef gpu_load_from(struct gpu *g, const struct gpu_place *place, LLVMValueRef pointer)
{
  enum dtype type = storage_of(place->element);
  LLVMValueRef stored = emit_load(g->e, emit_storage_type(g->e, type), pointer,
                                  residence_element_bytes(place->element));
  return emit_from_storage(g->e, type, stored);
}

/* How many bits up in its byte the code of a column lies. */
static LLVMValueRef shift_of(struct gpu *g, const struct gpu_place *place, LLVMValueRef column)
{
  struct emit *e = g->e;
  uint32_t several = tile_elements_per_byte(place->codes);
  LLVMValueRef part = LLVMBuildAnd(e->builder, column, emit_i32(e, (int32_t)several - 1), "");
  return LLVMBuildMul(e->builder, part, emit_i32(e, (int32_t)residence_bits(place->codes)), "");
}

LLVMValueRef gpu_shared_load(struct gpu *g, const struct gpu_place *place, LLVMValueRef row,
                             LLVMValueRef column)
{
  struct emit *e = g->e;
  if (place->codes != DTYPE_ANY) {
    LLVMValueRef code = emit_load(e, e->i8, gpu_address(g, place, row, column), 1);
    code = LLVMBuildZExt(e->builder, code, e->i32, "");
    code = LLVMBuildLShr(e->builder, code, shift_of(g, place, column), "");
    return gpu_decode_one(g, place->codes, place->element, code);
  }
  return gpu_load_from(g, place, gpu_address(g, place, row, column));
}

static void store_to(struct gpu *g, const struct gpu_place *place, LLVMValueRef pointer,
                     LLVMValueRef element)
{
  struct emit *e = g->e;
  if (LLVMTypeOf(element) == e->i1)
    element = LLVMBuildZExt(e->builder, element, e->i32, "");
  emit_store(e, emit_to_storage(e, storage_of(place->element), element), pointer,
             residence_element_bytes(place->element));
}

void gpu_shared_store(struct gpu *g, const struct gpu_place *place, LLVMValueRef row,
                      LLVMValueRef column, LLVMValueRef element)
{
  store_to(g, place, gpu_address(g, place, row, column), element);
}

/* From the thread's first element of a tile to element (r, c). */
static int64_t distance(const struct gpu_place *place, uint32_t r, uint32_t c)
{
  uint32_t bits = place->codes == DTYPE_ANY ? 8 * residence_element_bytes(place->element)
                                            : residence_bits(place->codes);
  return (int64_t)gpu_row_step(r) * place->pitch + (int64_t)gpu_column_step(c) * bits / 8;
}

static LLVMValueRef first_address(struct gpu *g, struct tile_type type,
                                  const struct gpu_place *place)
{
  return gpu_address(g, place, gpu_row(g, type, 0), gpu_column(g, type, 0));
}

static LLVMValueRef inside(struct gpu *g, LLVMValueRef index, uint32_t reach, uint32_t size)
{
  if (reach <= size)
    return NULL;
  return LLVMBuildICmp(g->e->builder, LLVMIntSLT, index, emit_i32(g->e, (int32_t)size), "");
}

LLVMValueRef gpu_fits(struct gpu *g, struct tile_type type, const struct gpu_place *place,
                      uint32_t r, uint32_t c)
{
  struct gpu_shape shape = gpu_shape(g, type);
  uint32_t row_reach = type.rows == 1 ? 1 : g->row_warps * shape.rows * 8;
  uint32_t column_reach = type.columns == 1 ? 1 : g->column_warps * shape.columns * 4;
  return gpu_both(g, inside(g, gpu_row(g, type, r), row_reach, place->rows),
                  inside(g, gpu_column(g, type, c), column_reach, place->columns));
}

/* Own elements as they are, others zero, and nothing for threads whose element lies outside. */
void gpu_spill_one(struct gpu *g, struct tile_type type, const struct gpu_place *place, uint32_t r,
                   uint32_t c, LLVMValueRef *elements)
{
  struct emit *e = g->e;
  LLVMValueRef first = first_address(g, type, place);
  uint32_t width = gpu_is_packed(type) ? 2 : 1;
  for (uint32_t k = 0; k < width; k++) {
    LLVMValueRef exists = gpu_exists(g, type, r, c + k);
    if (exists != NULL)
      elements[k] = emit_select(e, exists, elements[k], LLVMConstNull(LLVMTypeOf(elements[k])));
  }
  LLVMValueRef condition = gpu_fits(g, type, place, r, c);
  struct emit_branch branch;
  if (condition != NULL)
    emit_if(e, &branch, condition);
  LLVMValueRef pointer = gpu_further(g, first, distance(place, r, c));
  if (width == 2)
    emit_store(e, emit_gpu_pack(e, gpu_half_type(type.element), elements[0], elements[1]), pointer,
               4);
  else
    store_to(g, place, pointer, elements[0]);
  if (condition == NULL)
    return;
  emit_else(e, &branch);
  emit_end_if(e, &branch);
}

/* Blocks of 8 columns reach a multiple of 16 or 8 less: the last 8 of the place are zero then. */
void gpu_clear_rest(struct gpu *g, struct tile_type type, const struct gpu_place *place)
{
  struct emit *e = g->e;
  struct gpu_shape shape = gpu_shape(g, type);
  uint32_t reach = g->column_warps * shape.columns * 4;
  if (type.columns == 1 || reach >= place->columns)
    return;
  struct emit_branch branch;
  if (g->column_warps > 1)
    emit_if(e, &branch, LLVMBuildICmp(e->builder, LLVMIntEQ, g->warp_column, emit_i32(e, 0), ""));
  for (uint32_t r = 0; r < shape.rows; r++) {
    struct emit_branch inner;
    LLVMValueRef condition = gpu_fits(g, type, place, r, 0);
    if (condition != NULL)
      emit_if(e, &inner, condition);
    for (uint32_t k = 0; k < 2; k++) {
      LLVMValueRef column =
          LLVMBuildAdd(e->builder, g->lane_column, emit_i32(e, (int32_t)(reach + k)), "");
      LLVMValueRef zero = place->element == TILE_I32 ? emit_i32(e, 0) : emit_float_of(e->f32, 0);
      gpu_shared_store(g, place, gpu_row(g, type, r), column, zero);
    }
    if (condition != NULL) {
      emit_else(e, &inner);
      emit_end_if(e, &inner);
    }
  }
  if (g->column_warps == 1)
    return;
  emit_else(e, &branch);
  emit_end_if(e, &branch);
}

void gpu_spill(struct gpu *g, const struct tile_value *value, const struct gpu_place *place)
{
  struct gpu_shape shape = gpu_shape(g, value->type);
  uint32_t width = gpu_is_packed(value->type) ? 2 : 1;
  LLVMValueRef mine = gpu_is_first_copy(g, value->type);
  struct emit_branch branch;
  if (mine != NULL)
    emit_if(g->e, &branch, mine);
  for (uint32_t r = 0; r < shape.rows; r++)
    for (uint32_t c = 0; c < shape.columns; c += width) {
      LLVMValueRef elements[2];
      for (uint32_t k = 0; k < width; k++)
        elements[k] = gpu_element(g, value, r, c + k);
      gpu_spill_one(g, value->type, place, r, c, elements);
    }
  gpu_clear_rest(g, value->type, place);
  if (mine == NULL)
    return;
  emit_else(g->e, &branch);
  emit_end_if(g->e, &branch);
}

/* Of columns c, an even one, and c + 1. */
static void fill_codes(struct gpu *g, struct tile_type type, const struct gpu_place *place,
                       LLVMValueRef pointer, uint32_t c, LLVMValueRef *registers)
{
  struct emit *e = g->e;
  bool whole = residence_bits(place->codes) == 8;
  LLVMValueRef codes = emit_load(e, whole ? e->i16 : e->i8, pointer, whole ? 2 : 1);
  codes = LLVMBuildZExt(e->builder, codes, e->i32, "");
  if (residence_bits(place->codes) < 4)
    codes = LLVMBuildLShr(e->builder, codes, shift_of(g, place, gpu_column(g, type, c)), "");
  gpu_decode(g, place->codes, type.element, codes, 0, registers);
}

void gpu_fill_one(struct gpu *g, struct tile_type type, const struct gpu_place *place, uint32_t r,
                  uint32_t c, LLVMValueRef *registers)
{
  struct emit *e = g->e;
  uint32_t number = r * gpu_shape(g, type).columns + c;
  /* What lies beyond the place is never the tile's own: any element will do. */
  LLVMValueRef pointer = gpu_further(g, first_address(g, type, place), distance(place, r, c));
  LLVMValueRef exists = gpu_fits(g, type, place, r, c);
  if (exists != NULL)
    pointer = emit_select(e, exists, pointer, emit_gpu_shared(e, place->offset));
  if (place->codes != DTYPE_ANY) {
    fill_codes(g, type, place, pointer, c, &registers[gpu_is_packed(type) ? number / 2 : number]);
    return;
  }
  if (gpu_is_packed(type)) {
    registers[number / 2] = emit_load(e, e->i32, pointer, 4);
    return;
  }
  registers[number] = gpu_load_from(g, place, pointer);
  if (type.element == TILE_BOOL)
    registers[number] = LLVMBuildICmp(e->builder, LLVMIntNE, registers[number], emit_i32(e, 0), "");
}

void gpu_fill(struct gpu *g, struct tile_type type, const struct gpu_place *place,
              LLVMValueRef *registers)
{
  struct gpu_shape shape = gpu_shape(g, type);
  const uint32_t width = gpu_is_packed(type) || place->codes != DTYPE_ANY ? 2 : 1;
  for (uint32_t r = 0; r < shape.rows; r++)
    for (uint32_t c = 0; c < shape.columns; c += width)
      gpu_fill_one(g, type, place, r, c, registers);
}

/* ---- codes ---- */

void gpu_spill_pair(struct gpu *g, struct tile_type type, const struct gpu_place *place, uint32_t r,
                    uint32_t c, LLVMValueRef elements[2])
{
  gpu_spill_one(g, type, place, r, c, elements);
  if (!gpu_is_packed(type))
    gpu_spill_one(g, type, place, r, c + 1, elements + 1);
}

/* 8 codes from one place as elements to another. */
static void expand_8(struct gpu *g, const struct gpu_place *codes, const struct gpu_place *place,
                     LLVMValueRef row, LLVMValueRef column)
{
  struct emit *e = g->e;
  const uint32_t bits = residence_bits(codes->codes), per_word = bits == 8 ? 2 : 4; /* pairs */
  LLVMValueRef from = gpu_address(g, codes, row, column);
  LLVMValueRef words[2], elements[8];
  if (bits == 8) {
    LLVMTypeRef pair = LLVMVectorType(e->i32, 2);
    LLVMValueRef both = emit_load(e, pair, from, 8);
    for (int32_t k = 0; k < 2; k++)
      words[k] = LLVMBuildExtractElement(e->builder, both, emit_i32(e, k), "");
  } else {
    LLVMTypeRef word = bits == 4 ? e->i32 : e->i16;
    words[0] = LLVMBuildZExt(e->builder, emit_load(e, word, from, bits), e->i32, "");
  }
  const bool half = gpu_is_half(place->element);
  for (uint32_t k = 0; k < 4; k++)
    gpu_decode(g, codes->codes, place->element, words[k / per_word], k % per_word,
               &elements[half ? k : 2 * k]);
  LLVMTypeRef four = LLVMVectorType(half ? e->i32 : e->f32, 4);
  for (uint32_t first = 0; first < (half ? 4 : 8); first += 4) {
    LLVMValueRef vector = LLVMGetPoison(four);
    for (uint32_t k = 0; k < 4; k++)
      vector = LLVMBuildInsertElement(e->builder, vector, elements[first + k],
                                      emit_i32(e, (int32_t)k), "");
    emit_store(e, vector, gpu_further(g, gpu_address(g, place, row, column), 4 * first), 16);
  }
}

/* Codes beyond the tile's own are 0 and give 0. */
void gpu_expand(struct gpu *g, const struct gpu_place *codes, const struct gpu_place *place)
{
  struct emit *e = g->e;
  const uint32_t width = place->columns / 8, total = place->rows * width;
  const uint32_t threads = gpu_threads(g);
  for (uint32_t first = 0; first < total; first += threads) {
    LLVMValueRef number = LLVMBuildAdd(e->builder, g->thread, emit_i32(e, (int32_t)first), "");
    LLVMValueRef row = LLVMBuildUDiv(e->builder, number, emit_i32(e, (int32_t)width), "");
    LLVMValueRef column = LLVMBuildURem(e->builder, number, emit_i32(e, (int32_t)width), "");
    column = LLVMBuildMul(e->builder, column, emit_i32(e, 8), "");
    struct emit_branch branch;
    const bool last = first + threads > total;
    if (last)
      emit_if(e, &branch,
              LLVMBuildICmp(e->builder, LLVMIntSLT, number, emit_i32(e, (int32_t)total), ""));
    expand_8(g, codes, place, row, column);
    if (last) {
      emit_else(e, &branch);
      emit_end_if(e, &branch);
    }
  }
}

struct gpu_place gpu_in_shared(struct gpu *g, const struct tile_value *value,
                               enum residence_reader reader)
{
  struct gpu_value *v = gpu_value(g, value);
  gpu_stream_arrive(g, value);
  if (v->in_shared && v->place.codes == DTYPE_ANY)
    return v->place;
  struct gpu_place place = gpu_new_place(g, value->type, reader);
  gpu_before_write(g);
  if (v->in_shared)
    gpu_expand(g, &v->place, &place);
  else
    gpu_spill(g, value, &place);
  gpu_barrier(g);
  return place;
}

void gpu_settle(struct gpu *g, const struct tile_value *value)
{
  struct gpu_value *v = gpu_value(g, value);
  if (v->kind != GPU_FRAGMENT || !residence_settles(g->where, value))
    return;
  v->place = gpu_in_shared(g, value, residence_reader_of(g->where, value));
  v->in_shared = true;
  gpu_keep(g, value);
}
