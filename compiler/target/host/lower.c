/* Walks a kernel's regions: control flow, scalars, and who goes into a group. */
#include "compiler/emit/outline.h"
#include "compiler/target/host/few.h"

#include <assert.h>

static void lower_region(struct host *h, const struct tile_region *region);

static LLVMValueRef scalar_operand(void *user, uint32_t index)
{
  struct {
    struct host *h;
    const struct tile_op *op;
  } *at = user;
  return host_value(at->h, at->op->operands[index])->scalar;
}

static LLVMValueRef index_of(struct host *h, const struct tile_value *value)
{
  LLVMValueRef scalar = host_value(h, value)->scalar;
  return LLVMTypeOf(scalar) == h->e.i32 ? LLVMBuildSExt(h->e.builder, scalar, h->e.i64, "")
                                        : scalar;
}

static LLVMTypeRef scalar_type(struct host *h, enum tile_element element)
{
  return emit_expr_type(&h->e, tile_element_expr_type(element));
}

static void lower_scalar(struct host *h, const struct tile_op *op)
{
  struct {
    struct host *h;
    const struct tile_op *op;
  } at = {h, op};
  emit_expression_reset(&h->expression);
  h->expression.operand = scalar_operand;
  h->expression.user = &at;
  LLVMValueRef value =
      host_round(h, op->results[0]->type.element, emit_expression(&h->expression, op->expr));
  *host_value(h, op->results[0]) = (struct host_value){.kind = HOST_SCALAR, .scalar = value};
}

static LLVMValueRef operand_at(void *user, uint32_t index)
{
  return ((LLVMValueRef *)user)[index];
}

LLVMValueRef host_scalar_at(struct host *h, const struct tile_value *value,
                            const struct tile_region *region, LLVMValueRef index)
{
  const struct tile_op *op = value->def;
  if (value == region->arguments[0])
    return index;
  const struct tile_region *inside = op == NULL || op->kind != TILE_SCALAR ? NULL : op->parent;
  while (inside != NULL && inside != region)
    inside = inside->parent == NULL ? NULL : inside->parent->parent;
  if (inside == NULL)
    return host_value(h, value)->scalar;
  LLVMValueRef *operands = ARENA_ARRAY(h->arena, LLVMValueRef, op->operand_count);
  for (uint32_t k = 0; k < op->operand_count; k++)
    operands[k] = host_scalar_at(h, op->operands[k], region, index);
  emit_expression_reset(&h->expression);
  h->expression.operand = operand_at;
  h->expression.user = operands;
  return host_round(h, value->type.element, emit_expression(&h->expression, op->expr));
}

/* ---- values that loops and branches pass on ---- */

/* Number of the op of `region` in which `op` lies, directly or inside a nested region; UINT32_MAX
 * if in neither. */
static uint32_t position_in(const struct tile_region *region, const struct tile_op *op)
{
  while (op != NULL && op->parent != region)
    op = op->parent->parent;
  uint32_t position = 0;
  for (const struct tile_op *k = region->first; k != NULL; k = k->next, position++)
    if (k == op)
      return position;
  return UINT32_MAX;
}

static bool is_yielded_once(const struct tile_region *region, const struct tile_value *yielded)
{
  uint32_t yields = 0;
  for (uint32_t k = 0; k < region->last->operand_count; k++)
    yields += region->last->operands[k] == yielded;
  return yields == 1;
}

/* Whether the yielded value may be written where the carried argument lies: everything that reads
 * the argument comes before, or is the op itself and reads it element for element. */
static bool may_share(struct host *h, const struct tile_region *region,
                      const struct tile_value *argument, const struct tile_value *yielded)
{
  const struct tile_op *def = yielded->def;
  if (def == NULL || def->parent != region || yielded->type.kind != TILE_KIND_TILE)
    return false;
  if (host_is_panel(h, argument) != host_is_panel(h, yielded) ||
      argument->type.element != yielded->type.element)
    return false;
  bool elementwise = def->kind == TILE_MAP || def->kind == TILE_CONVERT ||
                     def->kind == TILE_SCALE_ROWS || def->kind == TILE_PRODUCT;
  if (!elementwise && def->kind != TILE_REDUCE && def->kind != TILE_LOAD)
    return false;
  /* A product writes its result only after all of a and b were read if neither is the argument. */
  if (def->kind == TILE_PRODUCT && (def->operands[0] == argument || def->operands[1] == argument))
    return false;
  uint32_t at = position_in(region, def);
  const struct host_info *info = host_info(h, argument);
  for (size_t k = 0; k < info->users.count; k++) {
    uint32_t use = position_in(region, info->users.items[k]);
    if (use > at || (use == at && !elementwise))
      return false;
  }
  /* Yielded twice, or for another slot too: the second copy must find it in place. */
  return is_yielded_once(region, yielded);
}

/* Whether a branch may make the value where the if's result lies, which nothing reads before. */
static bool may_be_made_in(struct host *h, const struct tile_region *region,
                           const struct tile_value *result, const struct tile_value *yielded)
{
  const struct tile_op *def = yielded->def;
  bool can = def != NULL && def->parent == region && yielded->type.kind == TILE_KIND_TILE &&
             (def->kind == TILE_MAP || def->kind == TILE_CONVERT || def->kind == TILE_PRODUCT);
  return can && host_is_panel(h, result) == host_is_panel(h, yielded) &&
         result->type.element == yielded->type.element && is_yielded_once(region, yielded);
}

struct carried {
  struct host_value *homes; /* of tiles */
  LLVMValueRef
      *slots; /* of scalars: addresses of stack variables, which LLVM turns into registers */
};

static struct carried carried_new(struct host *h, const struct tile_op *op)
{
  struct carried carried = {ARENA_ARRAY(h->arena, struct host_value, op->result_count),
                            ARENA_ARRAY(h->arena, LLVMValueRef, op->result_count)};
  for (uint32_t k = 0; k < op->result_count; k++) {
    const struct tile_value *result = op->results[k];
    if (result->type.kind == TILE_KIND_SCALAR) {
      carried.slots[k] = emit_variable(&h->e, scalar_type(h, result->type.element));
      continue;
    }
    host_place(h, result);
    carried.homes[k] = *host_value(h, result);
  }
  return carried;
}

static void carried_set(struct host *h, const struct tile_op *op, const struct carried *carried,
                        uint32_t k, const struct tile_value *value)
{
  struct emit *e = &h->e;
  if (carried->slots[k] != NULL)
    LLVMBuildStore(e->builder, host_value(h, value)->scalar, carried->slots[k]);
  else
    host_copy(h, value, &carried->homes[k], op->results[k]);
}

static void carried_get(struct host *h, const struct carried *carried, uint32_t k,
                        const struct tile_value *value)
{
  struct host_value *place = host_value(h, value);
  if (carried->slots[k] == NULL) {
    *place = carried->homes[k];
    return;
  }
  LLVMTypeRef type = scalar_type(h, value->type.element);
  *place = (struct host_value){.kind = HOST_SCALAR,
                               .scalar = LLVMBuildLoad2(h->e.builder, type, carried->slots[k], "")};
}

/* A region whose yields go to `carried`; arguments from `first_argument` on take from it (an if has
 * none). */
static void lower_carrying(struct host *h, const struct tile_op *op,
                           const struct tile_region *region, const struct carried *carried,
                           uint32_t first_argument)
{
  size_t scratch = h->scratch_used;
  size_t limits = h->limits.count;
  bool has_arguments = op->kind != TILE_IF;
  const struct tile_op *yield = region->last;
  for (uint32_t k = 0; k < op->result_count; k++) {
    if (has_arguments)
      carried_get(h, carried, k, region->arguments[first_argument + k]);
    const struct tile_value *yielded = yield->operands[k];
    if (carried->slots[k] == NULL &&
        (has_arguments ? may_share(h, region, region->arguments[first_argument + k], yielded)
                       : may_be_made_in(h, region, op->results[k], yielded)))
      *host_value(h, yielded) = carried->homes[k];
  }
  lower_region(h, region);
  /* Copies of all come before any home changes: a value may be yielded into another's place. */
  struct host_value *copies = ARENA_ARRAY(h->arena, struct host_value, op->result_count);
  for (uint32_t k = 0; k < op->result_count; k++) {
    const struct tile_value *yielded = yield->operands[k];
    const struct host_value *place = host_value(h, yielded);
    copies[k] = *place;
    bool carried_elsewhere = false;
    for (uint32_t n = 0; n < op->result_count; n++)
      carried_elsewhere =
          carried_elsewhere || (n != k && carried->slots[n] == NULL && place->kind == HOST_MEMORY &&
                                place->base == carried->homes[n].base);
    if (carried->slots[k] == NULL && carried_elsewhere) {
      struct host_value copy = {.kind = HOST_MEMORY, .stride = carried->homes[k].stride};
      enum tile_layout layout =
          host_is_panel(h, yielded) ? TILE_LAYOUT_PANEL : TILE_LAYOUT_ROW_MAJOR;
      copy.base = host_allocate(h, host_tile_bytes(h, yielded->type, layout));
      host_copy(h, yielded, &copy, yielded);
      copies[k] = copy;
    }
  }
  for (uint32_t k = 0; k < op->result_count; k++) {
    const struct tile_value *yielded = yield->operands[k];
    struct host_value saved = *host_value(h, yielded);
    *host_value(h, yielded) = copies[k];
    carried_set(h, op, carried, k, yielded);
    *host_value(h, yielded) = saved;
  }
  h->limits.count = limits;
  h->scratch_used = scratch;
}

static void carried_finish(struct host *h, const struct tile_op *op, const struct carried *carried)
{
  for (uint32_t k = 0; k < op->result_count; k++)
    carried_get(h, carried, k, op->results[k]);
}

/* ---- control ---- */

static void lower_for(struct host *h, const struct tile_op *op)
{
  struct emit *e = &h->e;
  struct carried carried = carried_new(h, op);
  for (uint32_t k = 0; k < op->result_count; k++)
    carried_set(h, op, &carried, k, op->operands[2 + k]);
  struct emit_loop loop;
  emit_loop_begin(e, &loop, index_of(h, op->operands[0]), index_of(h, op->operands[1]), op->step,
                  NULL, 0);
  *host_value(h, op->regions[0]->arguments[0]) =
      (struct host_value){.kind = HOST_SCALAR, .scalar = loop.index};
  lower_carrying(h, op, op->regions[0], &carried, 1);
  emit_loop_end(e, &loop, NULL);
  carried_finish(h, op, &carried);
}

static LLVMValueRef floor_tiles(struct host *h, LLVMValueRef position, uint32_t step)
{
  struct emit *e = &h->e;
  LLVMValueRef bounded =
      emit_intrinsic(e, "llvm.smax", e->i64, (LLVMValueRef[]){position, emit_i64(e, 0)}, 2);
  return LLVMBuildUDiv(e->builder, bounded, emit_i64(e, step), "");
}

/* The expressions of the tests read the op's extra operands, which follow its segments. */
static LLVMValueRef extra_operand(void *user, uint32_t index)
{
  struct {
    struct host *h;
    const struct tile_op *op;
  } *at = user;
  return host_value(at->h, at->op->operands[2 * at->op->segment_count + index])->scalar;
}

static void lower_for_segments(struct host *h, const struct tile_op *op)
{
  enum { PART_WORTH = 300 }; /* instructions of a body that may become a function */
  struct emit *e = &h->e;
  struct carried carried = carried_new(h, op);
  uint32_t first_carried = 2 * op->segment_count + op->extra_count;
  for (uint32_t k = 0; k < op->result_count; k++)
    carried_set(h, op, &carried, k, op->operands[first_carried + k]);
  const int64_t never = INT64_MAX / 2;
  LLVMValueRef *from = ARENA_ARRAY(h->arena, LLVMValueRef, op->segment_count + 1);
  LLVMValueRef *to = ARENA_ARRAY(h->arena, LLVMValueRef, op->segment_count + 1);
  LLVMValueRef end = emit_i64(e, 0);
  for (uint32_t k = 0; k < op->segment_count; k++) {
    LLVMValueRef lo = index_of(h, op->operands[2 * k]);
    LLVMValueRef hi = index_of(h, op->operands[2 * k + 1]);
    lo = emit_intrinsic(e, "llvm.smax", e->i64, (LLVMValueRef[]){lo, emit_i64(e, 0)}, 2);
    from[k] = floor_tiles(h, lo, op->step);
    LLVMValueRef last =
        floor_tiles(h, LLVMBuildAdd(e->builder, hi, emit_i64(e, op->step - 1), ""), op->step);
    LLVMValueRef empty = LLVMBuildICmp(e->builder, LLVMIntSGE, lo, hi, "");
    to[k] = emit_select(e, empty, emit_i64(e, 0), last);
    end = emit_intrinsic(e, "llvm.smax", e->i64, (LLVMValueRef[]){end, to[k]}, 2);
  }
  /* cursor: the first tile that was not looked at. The next to visit is the least tile >= cursor in
   * any segment. */
  LLVMValueRef cursor = emit_variable(&h->e, e->i64);
  LLVMBuildStore(e->builder, emit_i64(e, 0), cursor);
  LLVMBasicBlockRef head = emit_block(e, "next_tile");
  LLVMBasicBlockRef body = emit_block(e, "tile");
  LLVMBasicBlockRef exit = emit_block(e, "tiles_done");
  LLVMBuildBr(e->builder, head);
  LLVMPositionBuilderAtEnd(e->builder, head);
  LLVMValueRef at_least = LLVMBuildLoad2(e->builder, e->i64, cursor, "");
  LLVMValueRef tile = emit_i64(e, never);
  for (uint32_t k = 0; k < op->segment_count; k++) {
    LLVMValueRef first =
        emit_intrinsic(e, "llvm.smax", e->i64, (LLVMValueRef[]){from[k], at_least}, 2);
    LLVMValueRef inside = LLVMBuildICmp(e->builder, LLVMIntSLT, first, to[k], "");
    first = emit_select(e, inside, first, emit_i64(e, never));
    tile = emit_intrinsic(e, "llvm.smin", e->i64, (LLVMValueRef[]){tile, first}, 2);
  }
  LLVMBuildCondBr(e->builder, LLVMBuildICmp(e->builder, LLVMIntSLT, tile, end, ""), body, exit);
  LLVMPositionBuilderAtEnd(e->builder, body);
  LLVMBuildStore(e->builder, LLVMBuildAdd(e->builder, tile, emit_i64(e, 1), ""), cursor);
  LLVMValueRef start = LLVMBuildMul(e->builder, tile, emit_i64(e, op->step), "");
  struct {
    struct host *h;
    const struct tile_op *op;
  } at = {h, op};
  emit_expression_reset(&h->expression);
  h->expression.operand = extra_operand;
  h->expression.user = &at;
  h->expression.variables[EXPR_VAR_TILE_J0] = start;
  h->expression.variables[EXPR_VAR_TILE_J1] =
      LLVMBuildAdd(e->builder, start, emit_i64(e, op->step - 1), "");
  LLVMValueRef may = emit_expression(&h->expression, op->expr);
  LLVMBasicBlockRef classify = emit_block(e, "classify");
  LLVMBuildCondBr(e->builder, may, classify, head);
  LLVMPositionBuilderAtEnd(e->builder, classify);
  const bool masked_only = expr_is_false(op->expr2);
  LLVMBasicBlockRef bodies[2] = {masked_only ? NULL : emit_block(e, "full"),
                                 emit_block(e, "masked")};
  if (masked_only) {
    LLVMBuildBr(e->builder, bodies[1]);
  } else {
    LLVMValueRef must = emit_expression(&h->expression, op->expr2);
    LLVMBuildCondBr(e->builder, must, bodies[0], bodies[1]);
  }
  for (uint32_t r = masked_only ? 1 : 0; r < 2; r++) {
    static const char *const names[2] = {"attnc.full_tile", "attnc.masked_tile"};
    LLVMBasicBlockRef done = emit_block(e, "tile_done");
    LLVMPositionBuilderAtEnd(e->builder, bodies[r]);
    *host_value(h, op->regions[r]->arguments[0]) =
        (struct host_value){.kind = HOST_SCALAR, .scalar = start};
    lower_carrying(h, op, op->regions[r], &carried, 1);
    LLVMBuildBr(e->builder, done);
    LLVMPositionBuilderAtEnd(e->builder, done);
    emit_outline(e, names[r], bodies[r], done, PART_WORTH, true);
    LLVMBuildBr(e->builder, head);
  }
  LLVMPositionBuilderAtEnd(e->builder, exit);
  carried_finish(h, op, &carried);
}

static void lower_if(struct host *h, const struct tile_op *op)
{
  struct emit *e = &h->e;
  struct carried carried = carried_new(h, op);
  const struct tile_value *condition = op->operands[0];
  struct host_value *place = host_value(h, condition);
  LLVMValueRef test = place->scalar;
  if (place->kind == HOST_MEMORY)
    test = host_from_memory(h, TILE_BOOL, emit_load(e, e->i8, place->base, 1));
  struct emit_branch branch;
  emit_if(e, &branch, test);
  lower_carrying(h, op, op->regions[0], &carried, 0);
  emit_else(e, &branch);
  lower_carrying(h, op, op->regions[1], &carried, 0);
  emit_end_if(e, &branch);
  carried_finish(h, op, &carried);
}

static void lower_transpose(struct host *h, const struct tile_op *op)
{
  const struct tile_value *from = op->operands[0];
  const struct tile_value *to = op->results[0];
  struct host_value *place = host_value(h, from);
  bool vector = from->type.rows == 1 || from->type.columns == 1;
  if (vector && (place->kind != HOST_MEMORY || !place->per_panel)) {
    *host_value(h, to) = *place; /* contiguous either way */
    if (place->kind == HOST_MEMORY)
      host_value(h, to)->stride = emit_i64(&h->e, host_row_stride(h, to->type));
    return;
  }
  struct emit *e = &h->e;
  host_place(h, to);
  enum tile_layout from_layout = host_is_panel(h, from) ? TILE_LAYOUT_PANEL : TILE_LAYOUT_ROW_MAJOR;
  enum tile_layout to_layout = host_is_panel(h, to) ? TILE_LAYOUT_PANEL : TILE_LAYOUT_ROW_MAJOR;
  struct emit_loop rows;
  emit_loop_begin(e, &rows, emit_i64(e, 0), emit_i64(e, to->type.rows), 1, NULL, 0);
  struct emit_loop columns;
  emit_loop_begin(e, &columns, emit_i64(e, 0), emit_i64(e, to->type.columns), 1, NULL, 0);
  LLVMValueRef element = host_element(h, from, place, from_layout, columns.index, rows.index);
  host_set_element(h, to, host_value(h, to), to_layout, rows.index, columns.index, element);
  emit_loop_end(e, &columns, NULL);
  emit_loop_end(e, &rows, NULL);
}

/* Task number -> one index an extent, the last running fastest. */
static void lower_parallel(struct host *h, const struct tile_op *op)
{
  struct emit *e = &h->e;
  LLVMValueRef rest = h->task;
  for (uint32_t k = op->operand_count; k > 0; k--) {
    LLVMValueRef extent = index_of(h, op->operands[k - 1]);
    LLVMValueRef index = k == 1 ? rest : LLVMBuildSRem(e->builder, rest, extent, "");
    if (k > 1)
      rest = LLVMBuildSDiv(e->builder, rest, extent, "");
    *host_value(h, op->regions[0]->arguments[k - 1]) =
        (struct host_value){.kind = HOST_SCALAR, .scalar = index};
  }
  lower_region(h, op->regions[0]);
}

/* Whether the op must wait for the pending group: it reads one of its results. */
static bool reads_pending(struct host *h, const struct tile_op *op)
{
  for (uint32_t k = 0; k < op->operand_count; k++)
    if (host_is_pending(h, op->operands[k]))
      return true;
  return false;
}

/* A group runs panel by panel, so that an op which needs all panels of a pending value must wait
 * for the next group. */
static bool needs_all_panels(struct host *h, const struct tile_op *op)
{
  for (uint32_t k = 0; k < op->operand_count; k++) {
    const struct tile_value *operand = op->operands[k];
    if (!host_is_pending(h, operand))
      continue;
    bool whole = (op->kind == TILE_PRODUCT || op->kind == TILE_CONTRACT) && k == 1;
    whole = whole || (op->kind == TILE_PRODUCT && op->transpose_a && k == 0);
    whole = whole || (operand->def->kind == TILE_REDUCE && operand->def->axis == 0);
    whole = whole || (operand->type.rows != h->group_rows && operand->type.kind == TILE_KIND_TILE);
    whole = whole ||
            (operand->type.rows > 1 && operand->type.columns > 1 && !host_is_panel(h, operand));
    if (whole)
      return true;
  }
  return false;
}

static bool writes_tensor(const struct tile_op *op)
{
  return op->kind == TILE_STORE || op->kind == TILE_ACCUMULATE;
}

static bool expression_reads(const struct expr *e)
{
  return e != NULL && (e->deps & EXPR_DEP(EXPR_DEP_READ)) != 0;
}

/* Whether `writer` may write what `other` reads or writes. Different tensors do not overlap. */
static bool conflicts(const struct tile_op *writer, const struct tile_op *other)
{
  if (!writes_tensor(writer))
    return false;
  if (expression_reads(other->expr) || expression_reads(other->expr2))
    return true;
  return (other->kind == TILE_LOAD || writes_tensor(other)) &&
         other->access.tensor == writer->access.tensor;
}

/* A group does all of its ops on one panel before the next panel, so that ops which touch the same
 * memory cannot be in one, whichever comes first. */
static bool memory_hazard(struct tile_op *const *pending, size_t count, const struct tile_op *op)
{
  for (size_t k = 0; k < count; k++)
    if (conflicts(pending[k], op) || conflicts(op, pending[k]))
      return true;
  return false;
}

/* An op that writes over a carried value, which pending ops may read. */
static bool writes_over(struct host *h, const struct tile_op *op)
{
  return op->result_count != 0 && host_value(h, op->results[0])->kind == HOST_MEMORY;
}

/* Before an op that does not join the group: what of it must be done. */
static void settle_group(struct host *h, const struct tile_op *op)
{
  if (h->group.count == 0)
    return;
  bool all = writes_over(h, op) || memory_hazard(h->group.items, h->group.count, op);
  if (all || (reads_pending(h, op) && !host_group_flush_for(h, op->operands, op->operand_count)))
    host_group_flush(h);
}

/* The same for the run of few rows. */
static void settle_run(struct host *h, const struct tile_op *op)
{
  bool wait = writes_over(h, op) || memory_hazard(h->run.items, h->run.count, op);
  for (uint32_t k = 0; k < op->operand_count && !wait; k++)
    wait = few_is_pending(h, op->operands[k]);
  if (h->run.count != 0 && wait)
    few_run_flush(h);
}

static void settle_all(struct host *h)
{
  host_group_flush(h);
  few_run_flush(h);
}

static void lower_op(struct host *h, struct tile_op *op)
{
  uint32_t rows;
  struct host_row_mask masked;
  if (op->kind == TILE_LIMIT_COLUMNS) { /* noted before (limit.c): the tile may be pending */
    struct tile_value **mask = &op->operands[op->operand_count - 1];
    if (op->masked && host_is_pending(h, *mask))
      host_group_flush_for(h, mask, 1);
    return;
  }
  if (few_is_lazy(h, op)) {
    host_value(h, op->results[0])->kind = HOST_LAZY;
    return;
  }
  if (host_in_group(h, op, &rows)) {
    settle_run(h, op);
    if (needs_all_panels(h, op) || memory_hazard(h->group.items, h->group.count, op))
      host_group_flush(h);
    host_group_add(h, op, rows);
    return;
  }
  settle_group(h, op);
  if (few_in_run(op)) {
    if (memory_hazard(h->run.items, h->run.count, op))
      few_run_flush(h);
    few_run_add(h, op);
    return;
  }
  settle_run(h, op);
  switch (op->kind) {
  case TILE_SCALAR: lower_scalar(h, op); return;
  case TILE_SPLAT:
    *host_value(h, op->results[0]) =
        (struct host_value){.kind = HOST_SPLAT, .scalar = host_value(h, op->operands[0])->scalar};
    return;
  case TILE_IOTA: {
    LLVMValueRef base = host_value(h, op->operands[0])->scalar;
    if (LLVMTypeOf(base) == h->e.i64)
      base = LLVMBuildTrunc(h->e.builder, base, h->e.i32, "");
    *host_value(h, op->results[0]) = (struct host_value){.kind = HOST_IOTA, .scalar = base};
    return;
  }
  case TILE_TRANSPOSE: lower_transpose(h, op); return;
  case TILE_LOAD: host_load(h, op); return;
  case TILE_STORE:
  case TILE_ACCUMULATE: host_store(h, op, NULL); return;
  case TILE_MAP:
    if (host_masks_rows(h, op, &masked))
      host_mask_rows(h, op, &masked);
    else
      host_rowwise(h, op);
    return;
  case TILE_CHECK:
  case TILE_REDUCE:
  case TILE_SCAN:
  case TILE_BROADCAST:
  case TILE_SCALE_ROWS:
  case TILE_PERMUTE:
  case TILE_CONVERT:
  case TILE_TRIANGULAR_SOLVE: host_rowwise(h, op); return;
  case TILE_LIMIT_ROWS: {
    settle_all(h);
    struct host_limit limit = {op->rows, index_of(h, op->operands[0])};
    vector_push(h->arena, &h->limits, limit);
    return;
  }
  case TILE_PARALLEL:
  case TILE_FOR:
  case TILE_FOR_SEGMENTS:
  case TILE_IF:
    settle_all(h);
    if (op->kind == TILE_PARALLEL)
      lower_parallel(h, op);
    else if (op->kind == TILE_FOR)
      lower_for(h, op);
    else if (op->kind == TILE_IF)
      lower_if(h, op);
    else
      lower_for_segments(h, op);
    return;
  case TILE_YIELD: settle_all(h); return;
  case TILE_PRODUCT:
  case TILE_CONTRACT:
    settle_all(h);
    if (op->kind == TILE_PRODUCT)
      few_product(h, op);
    else
      few_contract(h, op);
    return;
  case TILE_BUFFER:
  case TILE_COPY_ASYNC:
  case TILE_PRODUCT_ASYNC:
  case TILE_WAIT:
  case TILE_PIPE_ACQUIRE:
  case TILE_PIPE_COMMIT:
  case TILE_PIPE_WAIT:
  case TILE_PIPE_RELEASE:
  case TILE_BUFFER_LOAD:
  case TILE_BUFFER_STORE:
  case TILE_ROLE:
  case TILE_BARRIER:
  case TILE_LIMIT_COLUMNS:
  case TILE_OP_COUNT: break;
  }
  assert(false && "the host target takes plain programs");
}

static void lower_region(struct host *h, const struct tile_region *region)
{
  for (struct tile_op *op = region->first; op != NULL; op = op->next)
    lower_op(h, op);
  settle_all(h);
}

/* int64_t NAME_tasks(const int64_t *slots): the product of the extents of the kernel's parallel op.
 */
static void lower_task_count(struct host *h)
{
  struct emit *e = &h->e;
  const char *name = arena_format(h->arena, "%s_tasks", h->kernel->name);
  emit_function(e, name, LLVMFunctionType(e->i64, &e->pointer, 1, false), true);
  emit_slots_init(e, &h->slots, h->kernel, LLVMGetParam(e->function, 0));
  emit_expression_init(&h->expression, e, &h->slots, h->program->pool);
  LLVMValueRef count = emit_i64(e, 1);
  for (struct tile_op *op = h->kernel->body->first; op != NULL; op = op->next) {
    if (op->kind == TILE_SCALAR)
      lower_scalar(h, op);
    if (op->kind != TILE_PARALLEL)
      continue;
    for (uint32_t k = 0; k < op->operand_count; k++) {
      LLVMValueRef extent = index_of(h, op->operands[k]);
      extent = emit_intrinsic(e, "llvm.smax", e->i64, (LLVMValueRef[]){extent, emit_i64(e, 0)}, 2);
      count = LLVMBuildMul(e->builder, count, extent, "");
    }
    break;
  }
  LLVMBuildRet(e->builder, count);
}

LLVMValueRef host_function_begin(struct host *h, struct host_outer *outer, const char *name,
                                 LLVMTypeRef type)
{
  struct emit *e = &h->e;
  *outer = (struct host_outer){e->function, e->entry, LLVMGetInsertBlock(e->builder)};
  /* With a dot: no kernel has such a name. */
  emit_function(e, arena_format(h->arena, "attnc.%s", name), type, false);
  unsigned noinline = LLVMGetEnumAttributeKindForName("noinline", 8);
  LLVMAddAttributeAtIndex(e->function, (LLVMAttributeIndex)LLVMAttributeFunctionIndex,
                          LLVMCreateEnumAttribute(e->context, noinline, 0));
  return e->function;
}

void host_function_end(struct host *h, const struct host_outer *outer)
{
  struct emit *e = &h->e;
  LLVMBuildRetVoid(e->builder);
  e->function = outer->function;
  e->entry = outer->entry;
  LLVMPositionBuilderAtEnd(e->builder, outer->block);
}

/* Memory begins where the function's own ends, so that the same piece elsewhere has the same
 * addresses. */
void host_piece_begin(struct host *h, struct host_piece *piece)
{
  struct emit *e = &h->e;
  *piece = (struct host_piece){emit_block(e, "piece"), emit_block(e, "piece_done"), h->scratch,
                               h->scratch_used, h->scratch_peak};
  h->scratch = host_allocate(h, 0);
  h->scratch_used = h->scratch_peak = 0;
  LLVMBuildBr(e->builder, piece->first);
  LLVMPositionBuilderAtEnd(e->builder, piece->first);
}

void host_piece_end(struct host *h, const struct host_piece *piece, const char *name)
{
  enum { WORTH = 40 /* instructions */ };
  struct emit *e = &h->e;
  LLVMBuildBr(e->builder, piece->exit);
  LLVMPositionBuilderAtEnd(e->builder, piece->exit);
  h->pieces += emit_outline(e, name, piece->first, piece->exit, WORTH, false);
  const size_t peak = piece->scratch_used + h->scratch_peak;
  h->scratch = piece->scratch;
  h->scratch_used = piece->scratch_used;
  h->scratch_peak = peak > piece->scratch_peak ? peak : piece->scratch_peak;
}

void host_lower_kernel(struct host *h, struct compiled_kernel *kernel)
{
  struct emit *e = &h->e;
  h->kernel = kernel->tile;
  h->values = ARENA_ARRAY(h->arena, struct host_value, h->kernel->value_count);
  h->scratch_used = 0;
  h->scratch_peak = 0;
  h->limits.count = 0;
  h->group.count = 0;
  h->run.count = 0;
  host_analyze(h);
  lower_task_count(h);
  for (uint32_t k = 0; k < h->kernel->value_count; k++)
    h->values[k] = (struct host_value){0};
  LLVMTypeRef parameters[3] = {e->pointer, e->i64, e->pointer};
  emit_function(e, h->kernel->name, LLVMFunctionType(e->none, parameters, 3, false), true);
  emit_slots_init(e, &h->slots, h->kernel, LLVMGetParam(e->function, 0));
  emit_expression_init(&h->expression, e, &h->slots, h->program->pool);
  h->zeros = NULL;
  h->task = LLVMGetParam(e->function, 1);
  h->scratch = LLVMGetParam(e->function, 2);
  lower_region(h, h->kernel->body);
  LLVMBuildRetVoid(e->builder);
  kernel->scratch_bytes = h->scratch_peak + HOST_ALIGNMENT;
}
