/* Second operands of few-row products: views of tensors, and elementwise ops done as they are
 * read. */
#include "compiler/emit/narrow.h"
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

/* Columns of a permute's result that repeat one of the operand's, one after the other, as scales of
 * groups of channels are; 0 where it is not like that, or not in whole vectors. */
static uint32_t repeats(struct host *h, const struct tile_op *op)
{
  const uint32_t columns = op->results[0]->type.columns, *table = op->permutation;
  uint32_t count = 1;
  while (count < columns && table[count] == table[0])
    count++;
  for (uint32_t c = 0; c < columns; c++)
    if (table[c] != table[0] + c / count)
      return 0;
  return count % h->widest_lanes == 0 ? count : 0;
}

bool few_is_lazy(struct host *h, const struct tile_op *op)
{
  bool repeating = op->kind == TILE_PERMUTE && repeats(h, op) != 0;
  if (op->kind != TILE_MAP && op->kind != TILE_CONVERT && op->kind != TILE_SCALE_ROWS && !repeating)
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

/* A few columns of which each is repeated: converted once, not at each vector that they are read
 * for. */
static bool is_narrow(struct host *h, const struct tile_op *load, const struct place *place)
{
  const struct tile_value *value = load->results[0];
  const struct host_info *info = host_info(h, value);
  if (!place_is_contiguous(place) || place->offset != NULL || value->type.columns == 1 ||
      value->type.columns > h->e.lanes || host_is_panel(h, value))
    return false;
  if (LLVMIsAConstantInt(place->live_columns) == NULL ||
      LLVMConstIntGetSExtValue(place->live_columns) < value->type.columns)
    return false;
  bool only = info->users.count != 0;
  for (size_t k = 0; k < info->users.count; k++)
    only &= info->users.items[k]->kind == TILE_PERMUTE && few_is_lazy(h, info->users.items[k]);
  return only;
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

/* A row as one vector. What follows it in our buffer nobody reads. */
static void load_narrow(struct host *h, const struct tile_value *value, const struct place *place)
{
  struct emit *e = &h->e;
  const unsigned lanes = e->lanes;
  host_place(h, value);
  const struct host_value *to = host_value(h, value);
  LLVMValueRef zeros = zero_row(h, value->type.columns * (uint32_t)sizeof(float));
  struct emit_loop loop;
  emit_loop_begin(e, &loop, emit_i64(e, 0), emit_i64(e, value->type.rows), 1, NULL, 0);
  LLVMValueRef live = LLVMBuildICmp(e->builder, LLVMIntSLT, loop.index, place->live_rows, "");
  LLVMValueRef safe = emit_select(e, live, loop.index, emit_i64(e, 0));
  LLVMValueRef from = emit_select(e, live, place_row(h, place, safe), zeros);
  LLVMValueRef at = LLVMBuildMul(e->builder, loop.index, to->stride, "");
  at = emit_address(e, host_element_type(h, value->type.element), to->base, at);
  e->lanes = value->type.columns;
  LLVMValueRef row = place_load(h, place, value->type.element, from, emit_i64(e, 0), true);
  emit_store(e, host_to_memory(h, value->type.element, row), at, 4);
  e->lanes = lanes;
  emit_loop_end(e, &loop, NULL);
}

/* The index that follows `index` in a loop, or itself where that is the last. */
static LLVMValueRef next_index(struct host *h, const struct tile_op *loop, LLVMValueRef index)
{
  struct emit *e = &h->e;
  const uint32_t ends = loop->kind == TILE_FOR ? 1 : loop->segment_count;
  LLVMValueRef end = NULL;
  for (uint32_t k = 0; k < ends; k++) {
    LLVMValueRef own = host_value(h, loop->operands[2 * k + 1])->scalar;
    end = end == NULL ? own : emit_intrinsic(e, "llvm.smax", e->i64, (LLVMValueRef[]){end, own}, 2);
  }
  LLVMValueRef next = LLVMBuildAdd(e->builder, index, emit_i64(e, loop->step), "");
  LLVMValueRef inside = LLVMBuildICmp(e->builder, LLVMIntSLT, next, end, "");
  return emit_select(e, inside, next, index);
}

/* Where the load's tile lies in the next round of the loop around it; false where there is none. */
static bool next_place(struct host *h, const struct tile_op *load, struct place *next)
{
  const struct tile_region *region = load->parent;
  while (region->parent != NULL && region->parent->kind != TILE_FOR &&
         region->parent->kind != TILE_FOR_SEGMENTS)
    region = region->parent->parent;
  if (region->parent == NULL)
    return false;
  LLVMValueRef index = next_index(h, region->parent, host_value(h, region->arguments[0])->scalar);
  const uint32_t first = tile_first_index(load->kind), count = load->operand_count - first;
  struct host_value *own = ARENA_ARRAY(h->arena, struct host_value, count);
  for (uint32_t k = 0; k < count; k++) {
    struct host_value *at = host_value(h, load->operands[first + k]);
    own[k] = *at;
    at->scalar = host_scalar_at(h, load->operands[first + k], region, index);
  }
  *next = place_locate(h, load, load->results[0]->type, NULL);
  for (uint32_t k = count; k-- > 0;)
    *host_value(h, load->operands[first + k]) = own[k];
  return true;
}

enum { LINE = 64 };

static void prefetch(struct host *h, LLVMValueRef address)
{
  struct emit *e = &h->e;
  enum { READ = 0, SECOND_LEVEL = 2, DATA = 1 };
  LLVMValueRef args[4] = {address, emit_i32(e, READ), emit_i32(e, SECOND_LEVEL), emit_i32(e, DATA)};
  emit_intrinsic(e, "llvm.prefetch", e->pointer, args, 4);
}

/* Rows that are too short for memory to be read ahead of its own accord, as scales of keys are:
 * those of the next round. */
static void prefetch_next(struct host *h, const struct tile_op *load, const struct place *place)
{
  struct emit *e = &h->e;
  const struct tile_type type = load->results[0]->type;
  struct place next;
  if (type.rows <= HOST_FEW_ROWS || type.columns > e->lanes || !place_is_even(place) ||
      !next_place(h, load, &next))
    return;
  /* Lines, or rows where these lie further apart. */
  LLVMValueRef line = emit_i64(e, LINE), start = place_row(h, &next, emit_i64(e, 0));
  LLVMValueRef stride =
      LLVMBuildSub(e->builder, address_number(h, place_row(h, &next, emit_i64(e, 1))),
                   address_number(h, start), "");
  LLVMValueRef bytes = LLVMBuildMul(e->builder, stride, emit_i64(e, type.rows), "");
  LLVMValueRef step = emit_intrinsic(e, "llvm.smax", e->i64, (LLVMValueRef[]){stride, line}, 2);
  LLVMValueRef count = LLVMBuildSDiv(e->builder, bytes, step, "");
  struct emit_loop loop;
  emit_loop_begin(e, &loop, emit_i64(e, 0), count, 1, NULL, 0);
  LLVMValueRef at = LLVMBuildMul(e->builder, loop.index, step, "");
  prefetch(h, emit_address(e, e->i8, start, at));
  emit_loop_end(e, &loop, NULL);
}

bool few_view(struct host *h, const struct tile_op *load, const struct place *place)
{
  struct emit *e = &h->e;
  const struct tile_value *value = load->results[0];
  prefetch_next(h, load, place);
  if (is_narrow(h, load, place)) {
    load_narrow(h, value, place);
    return true;
  }
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
    struct place next;
    if (next_place(h, load, &next)) {
      LLVMValueRef back = LLVMBuildMul(e->builder, stride, emit_i64(e, rows), "");
      start = address_number(h, place_row(h, &next, emit_i64(e, 0)));
      start = LLVMBuildSub(e->builder, start, back, "");
    }
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

/* Element `column` of a row of what a repeating permute takes, in memory. */
static LLVMValueRef repeated_element(struct few_rows *rows, uint32_t row, LLVMValueRef column)
{
  struct host *h = rows->h;
  enum tile_element element = rows->value->type.element;
  if (rows->place.kind != HOST_MEMORY || rows->value->type.columns == 1)
    return elements(rows, row, column, 1);
  LLVMTypeRef type = host_element_type(h, element);
  LLVMValueRef address = emit_address(&h->e, type, rows->address[row], column);
  return host_from_memory(h, element, emit_load(&h->e, type, address, 1));
}

static LLVMValueRef lazy_elements(struct few_rows *rows, uint32_t row, LLVMValueRef column,
                                  uint32_t count)
{
  struct host *h = rows->h;
  struct emit *e = &h->e;
  const struct tile_op *op = rows->value->def;
  struct operands at = {ARENA_ARRAY(h->arena, LLVMValueRef, op->operand_count)};
  if (op->kind == TILE_PERMUTE) {
    LLVMValueRef from = LLVMBuildUDiv(e->builder, column, emit_i64(e, repeats(h, op)), "");
    from = LLVMBuildAdd(e->builder, from, emit_i64(e, op->permutation[0]), "");
    return repeated_element(&rows->operands[0], row, from);
  }
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
  e->fuses = true; /* a number in codes times its scale plus its zero is one instruction */
  LLVMValueRef value = emit_expression(&h->expression, op->expr);
  e->fuses = false;
  return host_round(h, element, value);
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

double few_unit(const struct few_rows *rows)
{
  bool floats = rows->place.kind == HOST_VIEW && rows->place.view->stored == DTYPE_E4M3 &&
                rows->value->type.element == TILE_F32;
  return floats ? emit_float8_unit(DTYPE_E4M3) : 1;
}

/* Of a view with a unit. */
static LLVMValueRef in_units(struct few_rows *rows, uint32_t row, LLVMValueRef column,
                             uint32_t count)
{
  struct emit *e = &rows->h->e;
  const struct place *place = rows->place.view;
  if (count == e->lanes) {
    LLVMValueRef address = emit_address(e, place->type, rows->address[row], column);
    return emit_float8_in_units(e, place->stored,
                                emit_load(e, emit_vector_type(e, place->type), address, 1));
  }
  LLVMValueRef vector = view_elements(rows, row, column, count);
  return LLVMBuildFMul(e->builder, vector, emit_float_like(vector, 1 / few_unit(rows)), "");
}

LLVMValueRef few_vector(struct few_rows *rows, uint32_t row, LLVMValueRef column, uint32_t count)
{
  if (few_unit(rows) != 1)
    return few_cut(rows->h, in_units(rows, row, column, count), count);
  return few_cut(rows->h, emit_broadcast(&rows->h->e, elements(rows, row, column, count)), count);
}

static uint32_t element_bits(enum dtype type)
{
  return type == DTYPE_I4 ? 4 : type == DTYPE_I2 ? 2 : 8 * (uint32_t)dtype_size(type);
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
