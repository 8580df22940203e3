/* Second operands of few-row products: views of tensors, and elementwise ops done as they are
 * read. */
#include "compiler/target/host/few.h"

/* ---- which ---- */

static bool is_second_operand(const struct tile_op *op, const struct tile_value *value)
{
  return op->kind == TILE_PRODUCT && few_is_product(op) && op->operands[1] == value &&
         op->operands[0] != value && (op->operand_count < 3 || op->operands[2] != value);
}

/* What a product reads between here and there must still be what it is here: a carried value may
 * be overwritten by the next turn's. */
static bool may_wait(struct host *h, const struct tile_value *value)
{
  return value->type.kind == TILE_KIND_SCALAR || (value->def != NULL && !host_is_panel(h, value));
}

static bool is_folded_scale(const struct tile_op *op)
{
  const struct tile_op *user = op->next;
  return op->kind == TILE_SCALE_ROWS && user->kind == TILE_PRODUCT && few_is_product(user) &&
         user->operand_count > 2 && user->operands[2] == op->results[0];
}

bool few_is_lazy(struct host *h, const struct tile_op *op)
{
  if (op->kind != TILE_MAP && op->kind != TILE_CONVERT && op->kind != TILE_SCALE_ROWS)
    return false;
  const struct tile_value *result = op->results[0];
  if (host_info(h, result)->users.count != 1 || result->type.columns == 1)
    return false;
  if (is_folded_scale(op))
    return true;
  const struct tile_op *user = host_info(h, result)->users.items[0];
  if (user->parent != op->parent || (!is_second_operand(user, result) && !few_is_lazy(h, user)))
    return false;
  if (op->kind == TILE_MAP && (op->expr->deps & EXPR_DEP(EXPR_DEP_READ)) != 0)
    return false;
  for (uint32_t k = 0; k < op->operand_count; k++)
    if (!may_wait(h, op->operands[k]))
      return false;
  return true;
}

static bool can_view(struct host *h, const struct tile_op *load, const struct place *place)
{
  const struct tile_value *value = load->results[0];
  if (h->kernel->tensors.items[load->access.tensor].written) /* perhaps before it is read */
    return false;
  if (!place_is_contiguous(place) || value->type.columns == 1 || host_is_panel(h, value))
    return false;
  if (LLVMIsAConstantInt(place->live_columns) == NULL ||
      LLVMConstIntGetSExtValue(place->live_columns) < value->type.columns)
    return false;
  const struct host_info *info = host_info(h, value);
  for (size_t k = 0; k < info->users.count; k++) {
    const struct tile_op *user = info->users.items[k];
    if (!is_second_operand(user, value) && (is_folded_scale(user) || !few_is_lazy(h, user)))
      return false;
  }
  return true;
}

/* ---- views ---- */

/* A row for what is not there, on the function's stack. */
static LLVMValueRef zero_row(struct host *h, uint32_t bytes)
{
  struct emit *e = &h->e;
  if (h->zeros != NULL && h->zero_bytes >= bytes)
    return h->zeros;
  LLVMTypeRef type = emit_vector_type(e, e->f32);
  uint32_t vectors = (bytes + 4 * e->lanes - 1) / (4 * e->lanes);
  h->zeros = emit_variable(e, LLVMArrayType2(type, vectors));
  h->zero_bytes = bytes;
  LLVMBasicBlockRef here = LLVMGetInsertBlock(e->builder);
  LLVMPositionBuilderBefore(e->builder, LLVMGetBasicBlockTerminator(e->entry));
  for (uint32_t k = 0; k < vectors; k++)
    emit_store(e, LLVMConstNull(type), emit_address(e, type, h->zeros, emit_i64(e, k)), 4);
  LLVMPositionBuilderAtEnd(e->builder, here);
  return h->zeros;
}

static LLVMValueRef address_number(struct host *h, LLVMValueRef address)
{
  return LLVMBuildPtrToInt(h->e.builder, address, h->e.i64, "");
}

/* Entries from `from` to `to - 1`: start + m * stride, or `zeros` where m is not live. */
static void fill_even(struct host *h, LLVMValueRef table, uint32_t from, uint32_t to,
                      LLVMValueRef start, LLVMValueRef stride, LLVMValueRef live,
                      LLVMValueRef zeros)
{
  struct emit *e = &h->e;
  LLVMTypeRef vector = emit_vector_type(e, e->i64);
  LLVMValueRef numbers = LLVMBuildSExt(e->builder, emit_lane_numbers(e), vector, "");
  struct emit_loop loop;
  emit_loop_begin(e, &loop, emit_i64(e, from), emit_i64(e, to), e->lanes, NULL, 0);
  LLVMValueRef rows = LLVMBuildAdd(e->builder, emit_broadcast(e, loop.index), numbers, "");
  LLVMValueRef at = LLVMBuildMul(e->builder, rows, emit_broadcast(e, stride), "");
  at = LLVMBuildAdd(e->builder, at, emit_broadcast(e, start), "");
  if (live != NULL) {
    LLVMValueRef is_live = LLVMBuildICmp(e->builder, LLVMIntSLT, rows, emit_broadcast(e, live), "");
    at = emit_select(e, is_live, at, emit_broadcast(e, zeros));
  }
  emit_store(e, at, emit_address(e, e->i64, table, loop.index), 8);
  emit_loop_end(e, &loop, NULL);
}

static void fill_rows(struct host *h, LLVMValueRef table, uint32_t rows, const struct place *place,
                      LLVMValueRef zeros)
{
  struct emit *e = &h->e;
  struct emit_loop loop;
  emit_loop_begin(e, &loop, emit_i64(e, 0), emit_i64(e, rows), 1, NULL, 0);
  LLVMValueRef live = LLVMBuildICmp(e->builder, LLVMIntSLT, loop.index, place->live_rows, "");
  LLVMValueRef safe = emit_select(e, live, loop.index, emit_i64(e, 0));
  LLVMValueRef at = address_number(h, place_row(h, place, safe));
  at = emit_select(e, live, at, zeros);
  emit_store(e, at, emit_address(e, e->i64, table, loop.index), 8);
  emit_loop_end(e, &loop, NULL);
}

bool few_view(struct host *h, const struct tile_op *load, const struct place *place)
{
  struct emit *e = &h->e;
  const struct tile_value *value = load->results[0];
  if (!can_view(h, load, place))
    return false;
  const uint32_t rows = value->type.rows, lanes = e->lanes;
  const uint32_t padded = (rows + lanes - 1) / lanes * lanes;
  const uint32_t entries = padded + FEW_ROWS_AHEAD + FEW_MAX_BLOCK + lanes;
  struct place *kept = ARENA_ARRAY(h->arena, struct place, 1);
  *kept = *place;
  struct host_value *to = host_value(h, value);
  *to = (struct host_value){.kind = HOST_VIEW, .view = kept};
  to->base = host_allocate(h, (size_t)entries * sizeof(int64_t));
  LLVMValueRef zeros =
      address_number(h, zero_row(h, value->type.columns * (uint32_t)sizeof(float)));
  LLVMValueRef start, stride;
  if (place_is_even(place)) {
    start = address_number(h, place_row(h, place, emit_i64(e, 0)));
    stride = address_number(h, place_row(h, place, emit_i64(e, 1)));
    stride = LLVMBuildSub(e->builder, stride, start, "");
    fill_even(h, to->base, 0, padded, start, stride, place->live_rows, zeros);
  } else {
    /* What follows is guessed from the last two rows: the rest of their page. */
    fill_rows(h, to->base, rows, place, zeros);
    LLVMValueRef last =
        emit_load(e, e->i64, emit_address(e, e->i64, to->base, emit_i64(e, rows - 1)), 8);
    uint32_t before = rows > 1 ? rows - 2 : 0;
    stride = emit_load(e, e->i64, emit_address(e, e->i64, to->base, emit_i64(e, before)), 8);
    stride = LLVMBuildSub(e->builder, last, stride, "");
    start = LLVMBuildMul(e->builder, stride, emit_i64(e, rows - 1), "");
    start = LLVMBuildSub(e->builder, last, start, "");
  }
  fill_even(h, to->base, rows, rows + FEW_ROWS_AHEAD + FEW_MAX_BLOCK, start, stride, NULL, NULL);
  return true;
}

/* ---- rows of an operand ---- */

static bool is_inlined(const struct host_value *place)
{
  return place->kind == HOST_SCALAR || place->kind == HOST_SPLAT || place->kind == HOST_IOTA;
}

struct few_rows few_operand(struct host *h, const struct tile_value *value)
{
  struct few_rows rows = {.h = h, .value = value, .place = *host_value(h, value)};
  if (rows.place.kind == HOST_MEMORY)
    rows.place = host_as_layout(h, value, TILE_LAYOUT_ROW_MAJOR);
  if (rows.place.kind != HOST_LAZY)
    return rows;
  const struct tile_op *op = value->def;
  rows.operands = ARENA_ARRAY(h->arena, struct few_rows, op->operand_count);
  for (uint32_t k = 0; k < op->operand_count; k++)
    rows.operands[k] = few_operand(h, op->operands[k]);
  return rows;
}

struct few_rows *few_factor(struct few_rows *rows)
{
  const struct tile_op *op = rows->place.kind == HOST_LAZY ? rows->value->def : NULL;
  if (op == NULL || op->kind != TILE_MAP || op->expr->op != EXPR_MUL ||
      op->expr->args[0]->op != EXPR_ARG || op->expr->args[1]->op != EXPR_ARG ||
      rows->value->type.element != TILE_F32)
    return NULL;
  for (uint32_t k = 0; k < 2; k++) {
    struct few_rows *factor = &rows->operands[op->expr->args[k]->value.i];
    struct few_rows *rest = &rows->operands[op->expr->args[1 - k]->value.i];
    if (factor->value->type.kind != TILE_KIND_TILE || factor->value->type.columns != 1 ||
        factor->value->type.element != TILE_F32 || rest->value->type.columns == 1 ||
        rest->value->type.rows != rows->value->type.rows)
      continue;
    struct few_rows *kept = ARENA_ARRAY(rows->h->arena, struct few_rows, 1);
    *kept = *factor;
    *rows = *rest;
    return kept;
  }
  return NULL;
}

static LLVMValueRef row_number(struct few_rows *rows, uint32_t row)
{
  if (rows->value->type.rows == 1)
    return emit_i64(&rows->h->e, 0);
  return LLVMBuildAdd(rows->h->e.builder, rows->first, emit_i64(&rows->h->e, row), "");
}

void few_rows_begin(struct few_rows *rows, LLVMValueRef first, uint32_t count)
{
  struct host *h = rows->h;
  struct emit *e = &h->e;
  struct tile_type type = rows->value->type;
  rows->first = first;
  rows->count = count;
  if (rows->place.kind == HOST_LAZY) {
    for (uint32_t k = 0; k < rows->value->def->operand_count; k++)
      few_rows_begin(&rows->operands[k], first, count);
    return;
  }
  if (is_inlined(&rows->place))
    return;
  LLVMTypeRef element = host_element_type(h, type.element);
  for (uint32_t r = 0; r < count; r++) {
    LLVMValueRef m = row_number(rows, r);
    if (rows->place.kind == HOST_VIEW) {
      rows->address[r] = emit_load(e, e->pointer, emit_address(e, e->i64, rows->place.base, m), 8);
      continue;
    }
    if (type.rows > 1)
      m = LLVMBuildMul(e->builder, m, rows->place.stride, "");
    rows->address[r] = emit_address(e, element, rows->place.base, m);
    if (type.columns == 1)
      rows->scalar[r] =
          host_from_memory(h, type.element, emit_load(e, element, rows->address[r], 1));
  }
}

LLVMValueRef few_cut(struct host *h, LLVMValueRef vector, uint32_t count)
{
  struct emit *e = &h->e;
  if (count == e->lanes)
    return vector;
  LLVMValueRef keep[64];
  for (uint32_t k = 0; k < e->lanes; k++)
    keep[k] = LLVMConstInt(e->i1, k < count, false);
  return emit_select(e, LLVMConstVector(keep, e->lanes), vector, LLVMConstNull(LLVMTypeOf(vector)));
}

/* What lies beyond a row of a tensor may be out of bounds. */
static LLVMValueRef view_elements(struct few_rows *rows, uint32_t row, LLVMValueRef column,
                                  uint32_t count)
{
  struct host *h = rows->h;
  struct emit *e = &h->e;
  const struct place *place = rows->place.view;
  enum tile_element element = rows->value->type.element;
  if (count == e->lanes)
    return place_load(h, place, element, rows->address[row], column, true);
  LLVMValueRef vector = NULL;
  for (uint32_t k = 0; k < count; k++) {
    LLVMValueRef at = LLVMBuildAdd(e->builder, column, emit_i64(e, k), "");
    LLVMValueRef one = place_load(h, place, element, rows->address[row], at, false);
    if (vector == NULL)
      vector = LLVMConstNull(emit_vector_type(e, LLVMTypeOf(one)));
    vector = LLVMBuildInsertElement(e->builder, vector, one, emit_i32(e, (int32_t)k), "");
  }
  return vector;
}

/* The values of a lazy op's operands, for emit_expression. */
struct operands {
  LLVMValueRef *values;
};

static LLVMValueRef operand_value(void *user, uint32_t index)
{
  return ((struct operands *)user)->values[index];
}

static LLVMValueRef elements(struct few_rows *rows, uint32_t row, LLVMValueRef column,
                             uint32_t count);

static LLVMValueRef lazy_elements(struct few_rows *rows, uint32_t row, LLVMValueRef column,
                                  uint32_t count)
{
  struct host *h = rows->h;
  struct emit *e = &h->e;
  const struct tile_op *op = rows->value->def;
  struct operands at = {ARENA_ARRAY(h->arena, LLVMValueRef, op->operand_count)};
  for (uint32_t k = 0; k < op->operand_count; k++)
    at.values[k] = elements(&rows->operands[k], row, column, count);
  enum tile_element element = rows->value->type.element;
  if (op->kind == TILE_CONVERT)
    return host_convert(h, op, at.values[0]);
  if (op->kind == TILE_SCALE_ROWS)
    return host_round(h, element,
                      LLVMBuildFMul(e->builder, emit_broadcast(e, at.values[0]),
                                    emit_broadcast(e, at.values[1]), ""));
  emit_expression_reset(&h->expression);
  h->expression.operand = operand_value;
  h->expression.user = &at;
  return host_round(h, element, emit_expression(&h->expression, op->expr));
}

/* A vector, or a scalar where all lanes are the same. */
static LLVMValueRef elements(struct few_rows *rows, uint32_t row, LLVMValueRef column,
                             uint32_t count)
{
  struct host *h = rows->h;
  struct emit *e = &h->e;
  struct tile_type type = rows->value->type;
  switch ((int)rows->place.kind) {
  case HOST_LAZY: return lazy_elements(rows, row, column, count);
  case HOST_VIEW: return view_elements(rows, row, column, count);
  case HOST_IOTA: {
    LLVMValueRef at = type.columns > 1 ? column : row_number(rows, row);
    at = LLVMBuildAdd(e->builder, rows->place.scalar, LLVMBuildTrunc(e->builder, at, e->i32, ""),
                      "");
    return type.columns > 1
               ? LLVMBuildAdd(e->builder, emit_broadcast(e, at), emit_lane_numbers(e), "")
               : at;
  }
  case HOST_MEMORY: break;
  default: return rows->place.scalar;
  }
  if (type.columns == 1)
    return rows->scalar[row];
  LLVMTypeRef element = host_element_type(h, type.element);
  LLVMValueRef address = emit_address(e, element, rows->address[row], column);
  return host_from_memory(h, type.element, emit_load(e, emit_vector_type(e, element), address, 1));
}

LLVMValueRef few_scalar(struct few_rows *rows, uint32_t row)
{
  return elements(rows, row, emit_i64(&rows->h->e, 0), 1);
}

LLVMValueRef few_vector(struct few_rows *rows, uint32_t row, LLVMValueRef column, uint32_t count)
{
  return few_cut(rows->h, emit_broadcast(&rows->h->e, elements(rows, row, column, count)), count);
}

static uint32_t element_bits(enum dtype type)
{
  return type == DTYPE_I4 ? 4 : type == DTYPE_I2 ? 2 : 8 * (uint32_t)dtype_size(type);
}

static void prefetch(struct host *h, LLVMValueRef address)
{
  struct emit *e = &h->e;
  enum { READ = 0, SECOND_LEVEL = 2, DATA = 1 };
  LLVMValueRef args[4] = {address, emit_i32(e, READ), emit_i32(e, SECOND_LEVEL), emit_i32(e, DATA)};
  emit_intrinsic(e, "llvm.prefetch", e->pointer, args, 4);
}

void few_prefetch(struct few_rows *rows, LLVMValueRef column, uint32_t columns)
{
  struct emit *e = &rows->h->e;
  enum { LINE = 64 };
  if (rows->place.kind == HOST_LAZY)
    for (uint32_t k = 0; k < rows->value->def->operand_count; k++)
      few_prefetch(&rows->operands[k], column, columns);
  if (rows->place.kind != HOST_VIEW || rows->value->type.rows == 1)
    return;
  const uint32_t width = rows->value->type.columns, bits = element_bits(rows->place.view->stored);
  /* Either the rows one after the other, each in an even share of the steps, or side by side. */
  bool in_turn = width % rows->count == 0 && width / rows->count % columns == 0;
  uint32_t share = in_turn ? width / rows->count : width;
  uint32_t step = in_turn ? columns * rows->count : columns; /* columns of one row */
  uint32_t lines = (step * bits / 8 + LINE - 1) / LINE;
  for (uint32_t r = 0; r < (in_turn ? 1 : rows->count); r++) {
    LLVMValueRef row = emit_i64(e, r), at = column;
    if (in_turn) {
      row = LLVMBuildUDiv(e->builder, column, emit_i64(e, share), "");
      at = LLVMBuildURem(e->builder, column, emit_i64(e, share), "");
      at = LLVMBuildMul(e->builder, at, emit_i64(e, rows->count), "");
    }
    row = LLVMBuildAdd(e->builder, row, rows->first, "");
    row = LLVMBuildAdd(e->builder, row, emit_i64(e, FEW_ROWS_AHEAD), "");
    LLVMValueRef start =
        emit_load(e, e->pointer, emit_address(e, e->i64, rows->place.base, row), 8);
    at = LLVMBuildMul(e->builder, at, emit_i64(e, bits), "");
    at = LLVMBuildUDiv(e->builder, at, emit_i64(e, 8), "");
    for (uint32_t line = 0; line < lines; line++)
      prefetch(rows->h, emit_address(e, e->i8, start,
                                     LLVMBuildAdd(e->builder, at, emit_i64(e, line * LINE), "")));
  }
}
