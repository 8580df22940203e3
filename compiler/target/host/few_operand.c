/* Second operands of few-row products: elements of views and of elementwise ops on them. */
#include "compiler/emit/narrow.h"
#include "compiler/target/host/few.h"

enum { SHORT_ROW = 256 /* bytes */ };

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
  rows.expr = op->kind == TILE_MAP ? op->expr : NULL;
  rows.operands = ARENA_ARRAY(h->arena, struct few_rows, op->operand_count);
  for (uint32_t k = 0; k < op->operand_count; k++)
    rows.operands[k] = few_operand(h, op->operands[k]);
  return rows;
}

struct few_rows *few_factor(struct few_rows *rows)
{
  const struct expr *product = rows->expr;
  if (product == NULL || product->op != EXPR_MUL || product->args[0]->op != EXPR_ARG ||
      product->args[1]->op != EXPR_ARG || rows->value->type.element != TILE_F32)
    return NULL;
  for (uint32_t k = 0; k < 2; k++) {
    struct few_rows *factor = &rows->operands[product->args[k]->value.i];
    struct few_rows *rest = &rows->operands[product->args[1 - k]->value.i];
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
static LLVMValueRef view_elements(struct few_rows *rows, uint32_t row, const struct few_columns *at)
{
  struct host *h = rows->h;
  struct emit *e = &h->e;
  const struct place *place = rows->place.view;
  enum tile_element element = rows->value->type.element;
  if (at->stride != 1)
    return few_from_words(rows, row, at);
  if (at->count == e->lanes)
    return place_load(h, place, element, rows->address[row], at->first, true);
  LLVMValueRef vector = NULL;
  for (uint32_t k = 0; k < at->count; k++) {
    LLVMValueRef column = LLVMBuildAdd(e->builder, at->first, emit_i64(e, k), "");
    LLVMValueRef one = place_load(h, place, element, rows->address[row], column, false);
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

/* Element `column` of a row of what a repeating permute takes, in memory. */
static LLVMValueRef repeated_element(struct few_rows *rows, uint32_t row, LLVMValueRef column)
{
  struct host *h = rows->h;
  enum tile_element element = rows->value->type.element;
  const struct few_columns at = {.first = column, .count = 1, .stride = 1};
  if (rows->place.kind != HOST_MEMORY || rows->value->type.columns == 1) {
    LLVMValueRef one = few_elements(rows, row, &at); /* in the first lane, where it is a vector */
    return emit_is_vector(one) ? LLVMBuildExtractElement(h->e.builder, one, emit_i32(&h->e, 0), "")
                               : one;
  }
  LLVMTypeRef type = host_element_type(h, element);
  LLVMValueRef address = emit_address(&h->e, type, rows->address[row], column);
  return host_from_memory(h, element, emit_load(&h->e, type, address, 1));
}

static LLVMValueRef lazy_elements(struct few_rows *rows, uint32_t row, const struct few_columns *at)
{
  struct host *h = rows->h;
  struct emit *e = &h->e;
  const struct tile_op *op = rows->value->def;
  struct operands own = {ARENA_ARRAY(h->arena, LLVMValueRef, op->operand_count)};
  struct few_affine parts;
  if (op->kind == TILE_PERMUTE) {
    const uint32_t count = few_repeats(h, op);
    LLVMValueRef from = LLVMBuildUDiv(e->builder, at->first, emit_i64(e, count), "");
    from = LLVMBuildAdd(e->builder, from, emit_i64(e, op->permutation[0]), "");
    return count < at->stride * e->lanes
               ? few_repeated(&rows->operands[0], row, from, count, at->stride)
               : repeated_element(&rows->operands[0], row, from);
  }
  if (few_affine_parts(rows, &parts))
    return few_affine(rows, row, at, &parts);
  for (uint32_t k = 0; k < op->operand_count; k++)
    own.values[k] = few_elements(&rows->operands[k], row, at);
  enum tile_element element = rows->value->type.element;
  if (op->kind == TILE_CONVERT)
    return host_convert(h, op, own.values[0]);
  if (op->kind == TILE_SCALE_ROWS)
    return host_round(h, element,
                      LLVMBuildFMul(e->builder, emit_broadcast(e, own.values[0]),
                                    emit_broadcast(e, own.values[1]), ""));
  emit_expression_reset(&h->expression);
  h->expression.operand = operand_value;
  h->expression.user = &own;
  e->fuses = true; /* a number in codes times its scale plus its zero is one instruction */
  LLVMValueRef value = emit_expression(&h->expression, rows->expr);
  e->fuses = false;
  return host_round(h, element, value);
}

LLVMValueRef few_elements(struct few_rows *rows, uint32_t row, const struct few_columns *at)
{
  struct host *h = rows->h;
  struct emit *e = &h->e;
  struct tile_type type = rows->value->type;
  switch ((int)rows->place.kind) {
  case HOST_LAZY: return lazy_elements(rows, row, at);
  case HOST_VIEW: return view_elements(rows, row, at);
  case HOST_IOTA: {
    LLVMValueRef index = type.columns > 1 ? at->first : row_number(rows, row);
    index = LLVMBuildAdd(e->builder, rows->place.scalar,
                         LLVMBuildTrunc(e->builder, index, e->i32, ""), "");
    return type.columns > 1
               ? LLVMBuildAdd(e->builder, emit_broadcast(e, index), emit_lane_numbers(e), "")
               : index;
  }
  case HOST_MEMORY: break;
  default: return rows->place.scalar;
  }
  if (type.columns == 1)
    return rows->scalar[row];
  LLVMTypeRef element = host_element_type(h, type.element);
  LLVMValueRef address = emit_address(e, element, rows->address[row], at->first);
  return host_from_memory(h, type.element, emit_load(e, emit_vector_type(e, element), address, 1));
}

LLVMValueRef few_scalar(struct few_rows *rows, uint32_t row)
{
  const struct few_columns at = {.first = emit_i64(&rows->h->e, 0), .count = 1, .stride = 1};
  return few_elements(rows, row, &at);
}

double few_unit(const struct few_rows *rows)
{
  bool floats = rows->place.kind == HOST_VIEW && rows->place.view->stored == DTYPE_E4M3 &&
                rows->value->type.element == TILE_F32;
  return floats ? emit_float8_unit(DTYPE_E4M3) : 1;
}

/* Of a view with a unit. */
static LLVMValueRef in_units(struct few_rows *rows, uint32_t row, const struct few_columns *at)
{
  struct emit *e = &rows->h->e;
  const struct place *place = rows->place.view;
  if (at->stride != 1)
    return few_raw_words(rows, row, at);
  if (at->count == e->lanes) {
    LLVMValueRef address = emit_address(e, place->type, rows->address[row], at->first);
    return emit_float8_in_units(e, place->stored,
                                emit_load(e, emit_vector_type(e, place->type), address, 1));
  }
  LLVMValueRef vector = view_elements(rows, row, at);
  return LLVMBuildFMul(e->builder, vector, emit_float_like(vector, 1 / few_unit(rows)), "");
}

LLVMValueRef few_vector(struct few_rows *rows, uint32_t row, const struct few_columns *at)
{
  LLVMValueRef vector = few_unit(rows) != 1
                            ? in_units(rows, row, at)
                            : emit_broadcast(&rows->h->e, few_elements(rows, row, at));
  return few_cut(rows->h, vector, at->count);
}

static uint32_t element_bits(enum dtype type)
{
  return type == DTYPE_I4 ? 4 : type == DTYPE_I2 ? 2 : 8 * (uint32_t)dtype_size(type);
}

uint32_t few_bits(const struct few_rows *rows)
{
  if (rows->value->type.columns == 1)
    return 0;
  if (rows->place.kind == HOST_VIEW)
    return element_bits(rows->place.view->stored);
  if (rows->place.kind != HOST_LAZY)
    return is_inlined(&rows->place) ? 0 : 32;
  if (rows->value->def->kind == TILE_PERMUTE) /* a few columns */
    return 0;
  uint32_t most = 0;
  for (uint32_t k = 0; k < rows->value->def->operand_count; k++) {
    uint32_t bits = few_bits(&rows->operands[k]);
    most = bits > most ? bits : most;
  }
  return most;
}

void few_prefetch(struct few_rows *rows, LLVMValueRef column, uint32_t columns)
{
  struct emit *e = &rows->h->e;
  if (rows->place.kind == HOST_LAZY)
    for (uint32_t k = 0; k < rows->value->def->operand_count; k++)
      few_prefetch(&rows->operands[k], column, columns);
  if (rows->place.kind != HOST_VIEW || rows->value->type.rows == 1)
    return;
  const uint32_t width = rows->value->type.columns, bits = element_bits(rows->place.view->stored);
  /* A tile ahead where rows are short, and half of one that takes longer to read. */
  const bool shorter = width * bits / 8 <= SHORT_ROW;
  const uint32_t ahead = shorter ? FEW_ROWS_AHEAD : FEW_ROWS_AHEAD / 2;
  /* Either the rows one after the other, each in an even share of the steps, or side by side. */
  bool in_turn = width % rows->count == 0 && width / rows->count % columns == 0;
  uint32_t share = in_turn ? width / rows->count : width;
  uint32_t step = in_turn ? columns * rows->count : columns; /* columns of one row */
  uint32_t lines = (step * bits / 8 + FEW_LINE - 1) / FEW_LINE;
  for (uint32_t r = 0; r < (in_turn ? 1 : rows->count); r++) {
    LLVMValueRef row = emit_i64(e, r), at = column;
    if (in_turn) {
      row = LLVMBuildUDiv(e->builder, column, emit_i64(e, share), "");
      at = LLVMBuildURem(e->builder, column, emit_i64(e, share), "");
      at = LLVMBuildMul(e->builder, at, emit_i64(e, rows->count), "");
    }
    row = LLVMBuildAdd(e->builder, row, rows->first, "");
    row = LLVMBuildAdd(e->builder, row, emit_i64(e, ahead), "");
    LLVMValueRef start =
        emit_load(e, e->pointer, emit_address(e, e->i64, rows->place.base, row), 8);
    at = LLVMBuildMul(e->builder, at, emit_i64(e, bits), "");
    at = LLVMBuildUDiv(e->builder, at, emit_i64(e, 8), "");
    for (uint32_t line = 0; line < lines; line++)
      few_prefetch_line(
          rows->h, emit_address(e, e->i8, start,
                                LLVMBuildAdd(e->builder, at, emit_i64(e, line * FEW_LINE), "")));
  }
}
