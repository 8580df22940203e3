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

uint32_t gpu_element_bytes(enum tile_element element)
{
  return gpu_is_half(element) ? 2 : 4;
}

/* 8 rows at one column (ldmatrix reads 16 bytes of each, ordinary loads 4) must lie in different
 * banks: an odd number of 16 bytes from row to row does that. Pairs of f32 along a row (8 bytes of
 * 4 rows by 4 threads) want 32 bytes more than a multiple of 128 instead. */
static uint32_t pitch_of(uint32_t columns, enum tile_element element, enum gpu_reader reader)
{
  uint32_t bytes = columns * gpu_element_bytes(element);
  if (gpu_is_half(element) || reader == GPU_READ_COLUMNS)
    return round_up(bytes, 16) / 16 % 2 == 1 ? round_up(bytes, 16) : round_up(bytes, 16) + 16;
  uint32_t rest = bytes % 128;
  return rest <= 32 ? bytes - rest + 32 : bytes - rest + 128 + 32;
}

struct gpu_place gpu_new_place(struct gpu *g, struct tile_type type, enum gpu_reader reader)
{
  struct gpu_place place = {
      .rows = type.rows == 1 ? 1 : round_up(type.rows, 16),
      .columns = round_up(type.columns, 16),
      .element = type.element == TILE_BOOL ? TILE_I32 : type.element,
  };
  place.pitch = pitch_of(place.columns, place.element, reader);
  place.offset = emit_i32(g->e, (int32_t)gpu_allocate(g, gpu_place_bytes(&place)));
  return place;
}

uint32_t gpu_place_bytes(const struct gpu_place *place)
{
  return place->rows * place->pitch;
}

LLVMValueRef gpu_address(struct gpu *g, const struct gpu_place *place, LLVMValueRef row,
                         LLVMValueRef column)
{
  struct emit *e = g->e;
  LLVMValueRef offset = LLVMBuildMul(e->builder, row, emit_i32(e, (int32_t)place->pitch), "");
  offset = LLVMBuildAdd(
      e->builder, offset,
      LLVMBuildMul(e->builder, column, emit_i32(e, (int32_t)gpu_element_bytes(place->element)), ""),
      "");
  return emit_gpu_shared(e, LLVMBuildAdd(e->builder, place->offset, offset, ""));
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
  LLVMValueRef stored =
      emit_load(g->e, emit_storage_type(g->e, type), pointer, gpu_element_bytes(place->element));
  return emit_from_storage(g->e, type, stored);
}

LLVMValueRef gpu_shared_load(struct gpu *g, const struct gpu_place *place, LLVMValueRef row,
                             LLVMValueRef column)
{
  return gpu_load_from(g, place, gpu_address(g, place, row, column));
}

static void store_to(struct gpu *g, const struct gpu_place *place, LLVMValueRef pointer,
                     LLVMValueRef element)
{
  struct emit *e = g->e;
  if (LLVMTypeOf(element) == e->i1)
    element = LLVMBuildZExt(e->builder, element, e->i32, "");
  emit_store(e, emit_to_storage(e, storage_of(place->element), element), pointer,
             gpu_element_bytes(place->element));
}

void gpu_shared_store(struct gpu *g, const struct gpu_place *place, LLVMValueRef row,
                      LLVMValueRef column, LLVMValueRef element)
{
  store_to(g, place, gpu_address(g, place, row, column), element);
}

/* From the thread's first element of a tile to element (r, c). */
static int64_t distance(const struct gpu_place *place, uint32_t r, uint32_t c)
{
  return (int64_t)gpu_row_step(r) * place->pitch +
         (int64_t)gpu_column_step(c) * gpu_element_bytes(place->element);
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
static void clear_rest(struct gpu *g, struct tile_type type, const struct gpu_place *place)
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
  clear_rest(g, value->type, place);
  if (mine == NULL)
    return;
  emit_else(g->e, &branch);
  emit_end_if(g->e, &branch);
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
  for (uint32_t r = 0; r < shape.rows; r++)
    for (uint32_t c = 0; c < shape.columns; c += gpu_is_packed(type) ? 2 : 1)
      gpu_fill_one(g, type, place, r, c, registers);
}

/* ---- who reads a value ---- */

static bool is_product_operand(const struct tile_op *op, const struct tile_value *value)
{
  return op->kind == TILE_PRODUCT && (op->operand_count < 3 || op->operands[2] != value);
}

static bool is_tile(const struct tile_value *value)
{
  return value->type.kind == TILE_KIND_TILE && value->type.rows > 1 && value->type.columns > 1;
}

static bool is_real(enum tile_element element)
{
  return element == TILE_F32 || gpu_is_half(element);
}

/* A map of a tile that only second operands of products are made of works in place. */
static bool maps_in_place(struct gpu *g, const struct tile_op *map, const struct tile_value *value)
{
  if (map->kind != TILE_MAP || g->users[value->id].count != 1)
    return false;
  const struct tile_value *result = map->results[0];
  if (result->type.rows != value->type.rows || result->type.columns != value->type.columns ||
      result->type.element != value->type.element || g->users[result->id].count == 0)
    return false;
  for (size_t n = 0; n < g->users[result->id].count; n++) {
    const struct tile_op *user = g->users[result->id].items[n];
    if (!is_product_operand(user, result) || user->operands[0] == result)
      return false;
  }
  return true;
}

bool gpu_wants_shared(struct gpu *g, const struct tile_value *value)
{
  if (!is_tile(value) || !is_real(value->type.element) || g->users[value->id].count == 0)
    return false;
  for (size_t n = 0; n < g->users[value->id].count; n++) {
    const struct tile_op *user = g->users[value->id].items[n];
    if (!is_product_operand(user, value) && !maps_in_place(g, user, value))
      return false;
  }
  return true;
}

enum gpu_reader gpu_reader_of(struct gpu *g, const struct tile_value *value)
{
  for (size_t n = 0; n < g->users[value->id].count; n++) {
    const struct tile_op *user = g->users[value->id].items[n];
    if (user->kind == TILE_MAP)
      return gpu_reader_of(g, user->results[0]);
    if (user->kind == TILE_PRODUCT &&
        (user->operands[1] == value ? !user->transpose_b : user->transpose_a))
      return GPU_READ_COLUMNS;
  }
  return GPU_READ_ROWS;
}

struct gpu_place gpu_in_shared(struct gpu *g, const struct tile_value *value,
                               enum gpu_reader reader)
{
  struct gpu_value *v = gpu_value(g, value);
  gpu_stream_arrive(g, value);
  if (v->in_shared)
    return v->place;
  struct gpu_place place = gpu_new_place(g, value->type, reader);
  emit_gpu_barrier(g->e); /* whoever read what lay here before is done */
  gpu_spill(g, value, &place);
  emit_gpu_barrier(g->e);
  return place;
}

static bool is_inside(const struct tile_region *region, const struct tile_op *op)
{
  while (op != NULL && op->parent != region)
    op = op->parent->parent;
  return op != NULL;
}

/* Whether a loop lies between the region and the op in it. */
static bool in_inner_loop(const struct tile_region *region, const struct tile_op *op)
{
  while (op->parent != region) {
    op = op->parent->parent;
    if (op->kind == TILE_FOR || op->kind == TILE_FOR_SEGMENTS)
      return true;
  }
  return false;
}

enum { KEPT_REGISTERS = 32, KEPT_FLOATS = 16 }; /* of a first operand that stays in registers */

void gpu_settle(struct gpu *g, const struct tile_value *value)
{
  struct gpu_value *v = gpu_value(g, value);
  if (!is_tile(value) || v->kind != GPU_FRAGMENT || value->def == NULL)
    return;
  bool first = false, second = false;
  for (size_t n = 0; n < g->users[value->id].count; n++) {
    const struct tile_op *user = g->users[value->id].items[n];
    if (!is_product_operand(user, value) || !is_inside(value->def->parent, user) ||
        !in_inner_loop(value->def->parent, user))
      continue;
    first = first || user->operands[0] == value;
    second = second || user->operands[1] == value;
  }
  uint32_t most = gpu_is_half(value->type.element) ? KEPT_REGISTERS : KEPT_FLOATS;
  bool small = gpu_register_count(g, value->type) <= most && g->column_warps == 1;
  if (!second && (!first || small))
    return;
  v->place = gpu_in_shared(g, value, gpu_reader_of(g, value));
  v->in_shared = true;
}
