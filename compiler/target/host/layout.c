/* Who uses what, and which layout each tile gets. */
#include "compiler/target/host/lower.h"

static void note_users(struct host *h, const struct tile_region *region)
{
  for (struct tile_op *op = region->first; op != NULL; op = op->next) {
    /* Of a limit, only the mask is read. */
    uint32_t first = op->kind != TILE_LIMIT_COLUMNS ? 0 : tile_limit_operands(op) + 1;
    for (uint32_t k = first; k < op->operand_count; k++)
      vector_push(h->arena, &host_info(h, op->operands[k])->users, op);
    for (uint32_t k = 0; k < op->region_count; k++)
      note_users(h, op->regions[k]);
  }
}

/* Few rows are row-major, whatever is done with them. */
static bool has_layout(const struct tile_value *value)
{
  return value->type.kind == TILE_KIND_TILE && value->type.rows > HOST_FEW_ROWS;
}

/* Both settle a value that is still open; `changed` tells that one was. */
static void settle(struct host *h, const struct tile_value *value, enum tile_layout layout,
                   bool *changed)
{
  if (!has_layout(value) || layout == TILE_LAYOUT_NONE)
    return;
  struct host_info *info = host_info(h, value);
  if (info->layout != TILE_LAYOUT_NONE)
    return;
  info->layout = layout;
  *changed = true;
}

static void agree(struct host *h, const struct tile_value *a, const struct tile_value *b,
                  bool *changed)
{
  if (!has_layout(a) || !has_layout(b) || a->type.rows != b->type.rows)
    return;
  settle(h, a, host_info(h, b)->layout, changed);
  settle(h, b, host_info(h, a)->layout, changed);
}

static void seed_op(struct host *h, const struct tile_op *op)
{
  bool changed;
  switch ((int)op->kind) {
  case TILE_PRODUCT:
    settle(h, op->results[0], TILE_LAYOUT_PANEL, &changed);
    settle(h, op->operands[0], op->transpose_a ? TILE_LAYOUT_ROW_MAJOR : TILE_LAYOUT_PANEL,
           &changed);
    settle(h, op->operands[1], TILE_LAYOUT_ROW_MAJOR, &changed);
    if (op->operand_count > 2)
      settle(h, op->operands[2], TILE_LAYOUT_PANEL, &changed);
    break;
  case TILE_CONTRACT:
    settle(h, op->results[0], TILE_LAYOUT_PANEL, &changed);
    settle(h, op->operands[0], TILE_LAYOUT_PANEL, &changed);
    settle(h, op->operands[1], TILE_LAYOUT_ROW_MAJOR, &changed);
    break;
  case TILE_TRANSPOSE: /* a column that becomes a row need not be cut into panels */
    if (op->operands[0]->type.columns == 1 && host_info(h, op->operands[0])->users.count == 1)
      settle(h, op->operands[0], TILE_LAYOUT_ROW_MAJOR, &changed);
    break;
  case TILE_SCAN:
  case TILE_TRIANGULAR_SOLVE:
    for (uint32_t k = 0; k < op->operand_count; k++)
      settle(h, op->operands[k], TILE_LAYOUT_ROW_MAJOR, &changed);
    settle(h, op->results[0], TILE_LAYOUT_ROW_MAJOR, &changed);
    break;
  }
}

/* Products decide first: their results, then their operands in program order. */
static void seed(struct host *h, const struct tile_region *region)
{
  for (const struct tile_op *op = region->first; op != NULL; op = op->next) {
    seed_op(h, op);
    for (uint32_t k = 0; k < op->region_count; k++)
      seed(h, op->regions[k]);
  }
}

static void spread_carried(struct host *h, const struct tile_op *op, uint32_t first_operand,
                           uint32_t first_argument, bool *changed)
{
  for (uint32_t k = 0; k < op->result_count; k++) {
    if (op->kind != TILE_IF)
      agree(h, op->results[k], op->operands[first_operand + k], changed);
    for (uint32_t r = 0; r < op->region_count; r++) {
      if (op->kind != TILE_IF)
        agree(h, op->results[k], op->regions[r]->arguments[first_argument + k], changed);
      agree(h, op->results[k], op->regions[r]->last->operands[k], changed);
    }
  }
}

static void spread(struct host *h, const struct tile_region *region, bool *changed)
{
  for (const struct tile_op *op = region->first; op != NULL; op = op->next) {
    switch ((int)op->kind) {
    case TILE_MAP:
    case TILE_CONVERT:
    case TILE_SCALE_ROWS:
    case TILE_PERMUTE:
    case TILE_BROADCAST:
      for (uint32_t k = 0; k < op->operand_count; k++)
        agree(h, op->results[0], op->operands[k], changed);
      break;
    case TILE_REDUCE:
      if (op->axis == 1)
        agree(h, op->results[0], op->operands[0], changed);
      break;
    case TILE_CHECK:
      for (uint32_t k = 1; k < op->operand_count; k++)
        agree(h, op->operands[0], op->operands[k], changed);
      break;
    case TILE_FOR: spread_carried(h, op, 2, 1, changed); break;
    case TILE_FOR_SEGMENTS:
      spread_carried(h, op, 2 * op->segment_count + op->extra_count, 1, changed);
      break;
    case TILE_IF: spread_carried(h, op, 0, 0, changed); break;
    }
    for (uint32_t k = 0; k < op->region_count; k++)
      spread(h, op->regions[k], changed);
  }
}

/* What no product decides lies in panels when it is loaded or computed as rows of something, which
 * costs nothing. */
static bool settle_one(struct host *h, const struct tile_region *region)
{
  bool changed = false;
  for (const struct tile_op *op = region->first; op != NULL && !changed; op = op->next) {
    for (uint32_t k = 0; k < op->result_count && !changed; k++)
      settle(h, op->results[k], TILE_LAYOUT_PANEL, &changed);
    for (uint32_t k = 0; k < op->region_count && !changed; k++)
      changed = settle_one(h, op->regions[k]);
  }
  return changed;
}

void host_analyze(struct host *h)
{
  h->info = ARENA_ARRAY(h->arena, struct host_info, h->kernel->value_count);
  note_users(h, h->kernel->body);
  seed(h, h->kernel->body);
  bool changed;
  do {
    changed = false;
    spread(h, h->kernel->body, &changed);
    if (!changed)
      changed = settle_one(h, h->kernel->body);
  } while (changed);
  host_note_limits(h);
}

bool host_in_group(struct host *h, const struct tile_op *op, uint32_t *rows)
{
  const struct tile_value *primary = op->result_count != 0 ? op->results[0] : NULL;
  switch (op->kind) {
  case TILE_PRODUCT:
  case TILE_CONTRACT: *rows = primary->type.rows; return primary->type.rows > HOST_FEW_ROWS;
  case TILE_LOAD:
  case TILE_MAP:
  case TILE_CONVERT:
  case TILE_SCALE_ROWS:
  case TILE_PERMUTE:
  case TILE_BROADCAST: break;
  case TILE_REDUCE: primary = op->operands[0]; break;
  case TILE_STORE:
  case TILE_ACCUMULATE:
    primary = op->operands[0];
    if (host_value(h, primary)->kind == HOST_SPLAT || host_value(h, primary)->kind == HOST_IOTA)
      return false; /* not in memory, and not worth a loop over panels */
    break;
  case TILE_CHECK:
    primary = NULL;
    for (uint32_t k = 0; k < op->operand_count && primary == NULL; k++)
      if (host_is_panel(h, op->operands[k]))
        primary = op->operands[k];
    if (primary == NULL)
      return false;
    break;
  case TILE_SCALAR:
  case TILE_PARALLEL:
  case TILE_FOR:
  case TILE_FOR_SEGMENTS:
  case TILE_IF:
  case TILE_YIELD:
  case TILE_LIMIT_ROWS:
  case TILE_LIMIT_COLUMNS:
  case TILE_SPLAT:
  case TILE_IOTA:
  case TILE_SCAN:
  case TILE_TRANSPOSE:
  case TILE_TRIANGULAR_SOLVE:
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
  case TILE_OP_COUNT: return false;
  }
  if (!host_is_panel(h, primary))
    return false;
  *rows = primary->type.rows;
  return true;
}
