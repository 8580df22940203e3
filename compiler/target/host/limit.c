/* limit_columns: which tiles it holds for, and what columns the panel at hand needs of them. */
#include "compiler/target/host/panel.h"

/* ---- which tiles ---- */

static bool same_limit(const struct tile_op *a, const struct tile_op *b)
{
  bool same = a->expr == b->expr && a->expr2 == b->expr2 && a->operand_count == b->operand_count &&
              a->masked == b->masked &&
              a->operands[0]->type.columns == b->operands[0]->type.columns;
  for (uint32_t k = 1; same && k < a->operand_count; k++)
    same = a->operands[k] == b->operands[k];
  return same;
}

struct limits {
  struct host *h;
  VECTOR(struct {
    const struct tile_op *op; /* no two are equal */
    bool dropped;
  })
  known;
};

static void note_op(struct limits *limits, const struct tile_op *op)
{
  struct host *h = limits->h;
  const struct tile_value *tile = op->operands[0];
  if (!host_is_panel(h, tile) || !host_product_has_ranges(h, tile->type.columns))
    return;
  size_t n = 0;
  while (n < limits->known.count && !same_limit(limits->known.items[n].op, op))
    n++;
  if (n == limits->known.count) {
    limits->known.items = vector_reserve(h->arena, limits->known.items, n, &limits->known.capacity,
                                         sizeof(*limits->known.items));
    limits->known.items[n].op = op;
    limits->known.items[n].dropped = false;
    limits->known.count++;
  }
  if (host_info(h, tile)->limit == NULL && !limits->known.items[n].dropped)
    host_info(h, tile)->limit = limits->known.items[n].op;
}

static void note_ops(struct limits *limits, const struct tile_region *region)
{
  for (const struct tile_op *op = region->first; op != NULL; op = op->next) {
    if (op->kind == TILE_LIMIT_COLUMNS)
      note_op(limits, op);
    for (uint32_t k = 0; k < op->region_count; k++)
      note_ops(limits, op->regions[k]);
  }
}

/* Whether element (m, n) of the result depends on element (m, n) of operand k and on no other of
 * it. */
static bool is_elementwise(const struct tile_op *op, uint32_t k)
{
  struct tile_type from = op->operands[k]->type;
  bool same = op->result_count == 1 && from.kind == TILE_KIND_TILE &&
              from.rows == op->results[0]->type.rows &&
              from.columns == op->results[0]->type.columns;
  switch ((int)op->kind) {
  case TILE_MAP:
  case TILE_CONVERT:
  case TILE_BROADCAST: return same;
  case TILE_SCALE_ROWS: return same && k == 0;
  case TILE_PRODUCT: return same && k == 2;
  }
  return false;
}

/* What is made of a tile element by element is limited as it is. Returns a limit that meets another
 * one, or leaves the panels: what was not computed for the one would be taken for the other. */
static const struct tile_op *spread_op(struct host *h, const struct tile_op *op)
{
  bool checks = op->kind == TILE_CHECK;
  const struct tile_op *own = NULL, **limit = &own;
  if (!checks && op->result_count == 1)
    limit = &host_info(h, op->results[0])->limit;
  for (uint32_t k = 0; k < op->operand_count; k++) {
    const struct tile_op *other = host_info(h, op->operands[k])->limit;
    if (other == NULL || !(checks || is_elementwise(op, k)))
      continue;
    if ((*limit != NULL && *limit != other) || (!checks && !host_is_panel(h, op->results[0])))
      return other;
    *limit = other;
  }
  return NULL;
}

static const struct tile_op *spread_forward(struct host *h, const struct tile_region *region)
{
  const struct tile_op *met = NULL;
  for (const struct tile_op *op = region->first; op != NULL && met == NULL; op = op->next) {
    met = spread_op(h, op);
    for (uint32_t k = 0; k < op->region_count && met == NULL; k++)
      met = spread_forward(h, op->regions[k]);
  }
  return met;
}

/* The limit of everything that is made of the value, where that is one. */
static const struct tile_op *limit_of_users(struct host *h, const struct tile_value *value)
{
  const struct host_info *info = host_info(h, value);
  const struct tile_op *limit = NULL;
  for (size_t n = 0; n < info->users.count; n++) {
    const struct tile_op *user = info->users.items[n];
    for (uint32_t k = 0; k < user->operand_count; k++)
      if (user->operands[k] == value && !is_elementwise(user, k))
        return NULL;
    const struct tile_op *own = host_info(h, user->results[0])->limit;
    if (own == NULL || (limit != NULL && own != limit))
      return NULL;
    limit = own;
  }
  return limit;
}

/* What only limited tiles are made of need not be computed further than they. */
static void spread_backward(struct host *h, const struct tile_region *region)
{
  for (const struct tile_op *op = region->last; op != NULL; op = op->previous) {
    for (uint32_t k = op->region_count; k-- > 0;)
      spread_backward(h, op->regions[k]);
    bool makes = op->kind == TILE_PRODUCT || op->kind == TILE_CONTRACT || op->kind == TILE_MAP ||
                 op->kind == TILE_CONVERT || op->kind == TILE_BROADCAST;
    if (!makes || !host_is_panel(h, op->results[0]))
      continue;
    struct host_info *info = host_info(h, op->results[0]);
    if (info->limit == NULL)
      info->limit = limit_of_users(h, op->results[0]);
  }
}

void host_note_limits(struct host *h)
{
  struct limits limits = {.h = h};
  note_ops(&limits, h->kernel->body);
  for (const struct tile_op *met; (met = spread_forward(h, h->kernel->body)) != NULL;) {
    for (size_t k = 0; k < limits.known.count; k++)
      limits.known.items[k].dropped |= limits.known.items[k].op == met;
    for (uint32_t k = 0; k < h->kernel->value_count; k++)
      h->info[k].limit = NULL;
    note_ops(&limits, h->kernel->body);
  }
  if (limits.known.count != 0)
    spread_backward(h, h->kernel->body);
}

/* ---- the panel at hand ---- */

static LLVMValueRef limit_operand(void *user, uint32_t index)
{
  struct {
    struct host *h;
    const struct tile_op *op;
  } *at = user;
  return host_value(at->h, at->op->operands[1 + index])->scalar;
}

static LLVMValueRef smaller(struct emit *e, LLVMValueRef a, LLVMValueRef b)
{
  return emit_intrinsic(e, "llvm.smin", e->i64, (LLVMValueRef[]){a, b}, 2);
}

static LLVMValueRef larger(struct emit *e, LLVMValueRef a, LLVMValueRef b)
{
  return emit_intrinsic(e, "llvm.smax", e->i64, (LLVMValueRef[]){a, b}, 2);
}

/* The part of a range that lies in the tile. */
static struct host_range inside(struct emit *e, struct host_range range, uint32_t columns)
{
  LLVMValueRef zero = emit_i64(e, 0), all = emit_i64(e, columns);
  return (struct host_range){smaller(e, larger(e, range.first, zero), all),
                             smaller(e, larger(e, range.end, zero), all)};
}

/* Rounded outwards, so that the inner loop of a product has no rest and a register tile fits. */
static struct host_range rounded(struct host *h, struct host_range range, uint32_t columns)
{
  struct emit *e = &h->e;
  LLVMValueRef mask = emit_i64(e, -(int64_t)HOST_RANGE);
  int64_t least = (int64_t)h->schedule.column_registers + HOST_RANGE - 1;
  least -= least % HOST_RANGE;
  LLVMValueRef empty = LLVMBuildICmp(e->builder, LLVMIntSGE, range.first, range.end, "");
  LLVMValueRef first = LLVMBuildAnd(e->builder, range.first, mask, "");
  first = smaller(e, first, emit_i64(e, columns - least));
  LLVMValueRef end = LLVMBuildAdd(e->builder, range.end, emit_i64(e, HOST_RANGE - 1), "");
  end = LLVMBuildAnd(e->builder, end, mask, "");
  end = larger(e, end, LLVMBuildAdd(e->builder, first, emit_i64(e, least), ""));
  return (struct host_range){first, emit_select(e, empty, first, end)};
}

/* The first and the last column of the range in which some row of the panel is true. */
static struct host_range masked(struct panel_loop *g, const struct tile_value *mask,
                                struct host_range range)
{
  struct host *h = g->h;
  struct emit *e = &h->e;
  const struct host_range *own = panel_range(g, mask);
  if (own != NULL)
    range =
        (struct host_range){larger(e, range.first, own->first), smaller(e, range.end, own->end)};
  LLVMValueRef base = host_panel_base(h, mask, g->panel);
  LLVMValueRef ends[2] = {emit_i64(e, mask->type.columns), emit_i64(e, 0)};
  struct emit_loop loop;
  emit_loop_begin(e, &loop, range.first, range.end, 1, ends, 2);
  LLVMValueRef any = NULL;
  for (uint32_t v = 0; v < h->schedule.row_vectors; v++) {
    LLVMValueRef offset = LLVMBuildMul(e->builder, loop.index, emit_i64(e, h->panel_rows), "");
    offset = LLVMBuildAdd(e->builder, offset, emit_i64(e, (int64_t)v * e->lanes), "");
    LLVMValueRef lanes = panel_load_lanes(g, mask, base, offset);
    any = any == NULL ? lanes : LLVMBuildOr(e->builder, any, lanes, "");
  }
  LLVMTypeRef bits = LLVMIntTypeInContext(e->context, e->lanes);
  any = LLVMBuildICmp(e->builder, LLVMIntNE, LLVMBuildBitCast(e->builder, any, bits, ""),
                      LLVMConstNull(bits), "");
  LLVMValueRef next = LLVMBuildAdd(e->builder, loop.index, emit_i64(e, 1), "");
  LLVMValueRef found[2] = {
      emit_select(e, any, smaller(e, loop.carried[0], loop.index), loop.carried[0]),
      emit_select(e, any, next, loop.carried[1])};
  emit_loop_end(e, &loop, found);
  return (struct host_range){loop.result[0], loop.result[1]};
}

/* Operands of the limit that were not lowered yet: it stands after the ops of this group. */
static bool is_known(struct host *h, const struct tile_op *op)
{
  for (uint32_t k = 1; k <= tile_limit_operands(op); k++)
    if (host_value(h, op->operands[k])->kind != HOST_SCALAR)
      return false;
  return true;
}

static void begin_limit(struct panel_loop *g, const struct tile_value *value)
{
  struct host *h = g->h;
  struct emit *e = &h->e;
  const struct tile_op *op = value->type.kind == TILE_KIND_TILE ? host_info(h, value)->limit : NULL;
  if (op == NULL || panel_range(g, value) != NULL || !is_known(h, op))
    return;
  struct {
    struct host *h;
    const struct tile_op *op;
  } at = {h, op};
  LLVMValueRef first_row = LLVMBuildMul(e->builder, g->panel, emit_i64(e, h->panel_rows), "");
  LLVMValueRef last_row =
      LLVMBuildAdd(e->builder, first_row, emit_i64(e, (int64_t)h->panel_rows - 1), "");
  emit_expression_reset(&h->expression);
  h->expression.operand = limit_operand;
  h->expression.user = &at;
  h->expression.variables[EXPR_VAR_TILE_I0] = first_row;
  h->expression.variables[EXPR_VAR_TILE_I1] =
      smaller(e, last_row, emit_i64(e, (int64_t)value->type.rows - 1));
  struct host_range range = {emit_expression(&h->expression, op->expr),
                             emit_expression(&h->expression, op->expr2)};
  range = inside(e, range, value->type.columns);
  const struct tile_value *mask = op->operands[op->operand_count - 1];
  if (op->masked && host_is_panel(h, mask) && host_value(h, mask)->kind == HOST_MEMORY &&
      !host_value(h, mask)->per_panel && !host_is_pending(h, mask)) {
    begin_limit(g, mask);
    range = masked(g, mask, range);
  }
  struct panel_limit limit = {op, rounded(h, range, value->type.columns)};
  vector_push(h->arena, &g->limits, limit);
}

void panel_begin_limits(struct panel_loop *g)
{
  struct host *h = g->h;
  for (size_t k = 0; k < h->group.count; k++) {
    const struct tile_op *op = h->group.items[k];
    for (uint32_t n = 0; n < op->operand_count; n++)
      begin_limit(g, op->operands[n]);
    for (uint32_t n = 0; n < op->result_count; n++)
      begin_limit(g, op->results[n]);
  }
}

const struct host_range *panel_range(const struct panel_loop *g, const struct tile_value *value)
{
  const struct tile_op *op =
      value->type.kind == TILE_KIND_TILE ? host_info(g->h, value)->limit : NULL;
  for (size_t k = 0; k < g->limits.count; k++)
    if (g->limits.items[k].op == op)
      return &g->limits.items[k].range;
  return NULL;
}
