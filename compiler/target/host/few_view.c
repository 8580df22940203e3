/* Tiles that few-row products read where they lie, as tables of the addresses of their rows; and
 * which ops they do as they read. */
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

/* As scales of groups of channels do. */
uint32_t few_repeats(struct host *h, const struct tile_op *op)
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
  bool repeating = op->kind == TILE_PERMUTE && few_repeats(h, op) != 0;
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

/* For what is not there, on the function's stack. */
LLVMValueRef few_zero_row(struct host *h, uint32_t bytes)
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

/* Whether rows are chosen by tiles of indices in memory, whose vectors can be loaded. */
static bool is_gathered(const struct place *place)
{
  bool memory = place->row_group == 1 && place->offset == NULL;
  for (uint32_t k = 0; k < place->gather_count; k++)
    memory &= place->gathers[k].at.kind == HOST_MEMORY &&
              place->gathers[k].value->type.element == TILE_I32;
  return memory;
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

/* Rows that lie one after the other, all of them live, as one long one. */
static void load_long(struct host *h, const struct tile_value *value, const struct place *place,
                      uint32_t lanes)
{
  struct emit *e = &h->e;
  const unsigned own = e->lanes;
  const struct tile_type type = value->type;
  const struct host_value *to = host_value(h, value);
  LLVMValueRef from = place_row(h, place, emit_i64(e, 0));
  struct emit_loop loop;
  e->lanes = lanes;
  emit_loop_begin(e, &loop, emit_i64(e, 0), emit_i64(e, (int64_t)type.rows * type.columns), lanes,
                  NULL, 0);
  LLVMValueRef some = place_load(h, place, type.element, from, loop.index, true);
  emit_store(e, host_to_memory(h, type.element, some),
             emit_address(e, host_element_type(h, type.element), to->base, loop.index), 4);
  emit_loop_end(e, &loop, NULL);
  e->lanes = own;
}

/* A row as one vector. What follows it in our buffer nobody reads. */
static void load_short(struct host *h, const struct tile_value *value, const struct place *place)
{
  struct emit *e = &h->e;
  const unsigned lanes = e->lanes;
  const struct host_value *to = host_value(h, value);
  LLVMValueRef zeros = few_zero_row(h, value->type.columns * (uint32_t)sizeof(float));
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

static void load_narrow(struct host *h, const struct tile_value *value, const struct place *place)
{
  struct emit *e = &h->e;
  const struct tile_type type = value->type;
  bool whole = LLVMIsAConstantInt(place->live_rows) != NULL &&
               LLVMConstIntGetSExtValue(place->live_rows) == type.rows;
  if (!whole || !place_is_even(place) || type.rows * type.columns % h->widest_lanes != 0) {
    load_short(h, value, place);
    return;
  }
  struct emit_branch close;
  emit_if(e, &close,
          LLVMBuildICmp(e->builder, LLVMIntEQ, place->row_stride, emit_i64(e, type.columns), ""));
  load_long(h, value, place, h->widest_lanes);
  emit_else(e, &close);
  load_short(h, value, place);
  emit_end_if(e, &close);
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

/* In the body of a loop for tiles that stick out of what is visible: the last ones, most often. */
static bool is_last(const struct tile_region *region)
{
  return region->parent->kind == TILE_FOR_SEGMENTS && region == region->parent->regions[1] &&
         !expr_is_false(region->parent->expr2);
}

/* Where the load's tile lies in the next round of the loop around it, with the tiles of indices
 * of this one; false where there is none or the two are the same. */
static bool next_place(struct host *h, const struct tile_op *load, struct place *next)
{
  bool moves = false;
  const struct tile_region *region = load->parent;
  while (region->parent != NULL && region->parent->kind != TILE_FOR &&
         region->parent->kind != TILE_FOR_SEGMENTS)
    region = region->parent->parent;
  if (region->parent == NULL || is_last(region))
    return false;
  LLVMValueRef index = next_index(h, region->parent, host_value(h, region->arguments[0])->scalar);
  const uint32_t first = tile_first_index(load->kind), count = load->operand_count - first;
  struct host_value *own = ARENA_ARRAY(h->arena, struct host_value, count);
  for (uint32_t k = 0; k < count; k++) {
    struct host_value *at = host_value(h, load->operands[first + k]);
    own[k] = *at;
    if (load->operands[first + k]->type.kind == TILE_KIND_SCALAR)
      at->scalar = host_scalar_at(h, load->operands[first + k], region, index);
    moves |= at->scalar != own[k].scalar;
  }
  *next = place_locate(h, load, load->results[0]->type, NULL);
  for (uint32_t k = count; k-- > 0;)
    *host_value(h, load->operands[first + k]) = own[k];
  return moves;
}

void few_prefetch_line(struct host *h, LLVMValueRef address)
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
  LLVMValueRef line = emit_i64(e, FEW_LINE), start = place_row(h, &next, emit_i64(e, 0));
  LLVMValueRef stride =
      LLVMBuildSub(e->builder, address_number(h, place_row(h, &next, emit_i64(e, 1))),
                   address_number(h, start), "");
  LLVMValueRef bytes = LLVMBuildMul(e->builder, stride, emit_i64(e, type.rows), "");
  LLVMValueRef step = emit_intrinsic(e, "llvm.smax", e->i64, (LLVMValueRef[]){stride, line}, 2);
  LLVMValueRef count = LLVMBuildSDiv(e->builder, bytes, step, "");
  struct emit_loop loop;
  emit_loop_begin(e, &loop, emit_i64(e, 0), count, 1, NULL, 0);
  LLVMValueRef at = LLVMBuildMul(e->builder, loop.index, step, "");
  few_prefetch_line(h, emit_address(e, e->i8, start, at));
  emit_loop_end(e, &loop, NULL);
}

bool few_view(struct host *h, const struct tile_op *load, const struct place *place)
{
  struct emit *e = &h->e;
  const struct tile_value *value = load->results[0];
  prefetch_next(h, load, place);
  if (is_narrow(h, load, place)) {
    struct host_piece piece;
    host_place(h, value);
    host_value(h, value)->stride = emit_i64(e, value->type.columns); /* of rows that lie close */
    host_piece_begin(h, &piece);
    load_narrow(h, value, place);
    host_piece_end(h, &piece, "attnc.few_load");
    return true;
  }
  if (!can_view(h, load, place))
    return false;
  const uint32_t rows = value->type.rows, lanes = e->lanes;
  const uint32_t padded = (rows + lanes - 1) / lanes * lanes;
  const uint32_t entries = padded + FEW_ROWS_AHEAD + FEW_MAX_BLOCK + padded;
  struct place *kept = ARENA_ARRAY(h->arena, struct place, 1);
  *kept = *place;
  struct host_value *to = host_value(h, value);
  *to = (struct host_value){.kind = HOST_VIEW, .view = kept};
  to->base = host_allocate(h, (size_t)entries * sizeof(int64_t));
  LLVMValueRef zeros =
      address_number(h, few_zero_row(h, value->type.columns * (uint32_t)sizeof(float)));
  LLVMValueRef size = emit_i64(e, (int64_t)dtype_size(place->stored));
  struct few_table table = {
      .base = to->base, .rows = rows, .live = place->live_rows, .zeros = zeros};
  struct place next;
  if (is_gathered(place) && rows % lanes == 0) {
    table.start = table.next = address_number(h, place->base);
    table.stride = LLVMBuildMul(e->builder, place->row_stride, size, "");
    table.gathers = place->gather_count;
    for (uint32_t k = 0; k < place->gather_count; k++) {
      table.indices[k] = place->gathers[k].at.base;
      table.apart[k] = LLVMBuildMul(e->builder, place->gathers[k].stride, size, "");
    }
    if (next_place(h, load, &next))
      table.next = address_number(h, next.base);
  } else if (place_is_even(place)) {
    table.rows = padded;
    table.start = address_number(h, place_row(h, place, emit_i64(e, 0)));
    table.stride = address_number(h, place_row(h, place, emit_i64(e, 1)));
    table.stride = LLVMBuildSub(e->builder, table.stride, table.start, "");
    table.next = table.start;
    if (next_place(h, load, &next))
      table.next = address_number(h, place_row(h, &next, emit_i64(e, 0)));
  } else {
    /* What follows is guessed from the last two rows: the rest of their page. */
    fill_rows(h, to->base, rows, place, zeros);
    table.base = emit_address(e, e->i64, to->base, emit_i64(e, rows));
    LLVMValueRef last =
        emit_load(e, e->i64, emit_address(e, e->i64, to->base, emit_i64(e, rows - 1)), 8);
    uint32_t before = rows > 1 ? rows - 2 : 0;
    LLVMValueRef other =
        emit_load(e, e->i64, emit_address(e, e->i64, to->base, emit_i64(e, before)), 8);
    table.rows = 0;
    table.stride = LLVMBuildSub(e->builder, last, other, "");
    table.start = table.next = LLVMBuildAdd(e->builder, last, table.stride, "");
  }
  few_table_fill(h, &table);
  return true;
}
