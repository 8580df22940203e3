/* Which loads of a loop are copied ahead: those directly in its body that products alone read, and
 * with two buffers columns beside them. */
#include "compiler/schedule/residence.h"

bool residence_is_column(const struct residence *r, const struct tile_op *load)
{
  const struct tile_type type = load->results[0]->type;
  return type.columns == 1 && type.rows > 1 && type.element == TILE_F32 &&
         r->kernel->tensors.items[load->access.tensor].element == DTYPE_F32;
}

static bool may_stream(const struct residence *r, const struct tile_op *load)
{
  if (load->kind != TILE_LOAD || r->reads_back[load->access.tensor])
    return false;
  const struct tile_value *value = load->results[0];
  if (!residence_wants_shared(r, value) &&
      !(r->stages > 1 && residence_is_column(r, load) && !residence_is_only_rows(r, value)))
    return false;
  for (uint32_t k = 0; k < load->operand_count; k++)
    if (load->operands[k]->type.kind == TILE_KIND_TILE &&
        !residence_is_row_formula(r, load->operands[k]))
      return false;
  for (size_t n = 0; n < r->values[value->id].users.count; n++)
    if (r->values[value->id].users.items[n]->parent != load->parent)
      return false;
  return true;
}

static uint32_t position_of(const struct tile_op *op)
{
  uint32_t position = 0;
  for (const struct tile_op *k = op->parent->first; k != op; k = k->next)
    position++;
  return position;
}

/* Of the ops in the body that read what was loaded: the first's and the last's position. A map that
 * works in place reads it with its result's users, and so may a conversion. */
static void uses_of(const struct residence *r, const struct tile_value *value, uint32_t *first,
                    uint32_t *last)
{
  for (size_t n = 0; n < r->values[value->id].users.count; n++) {
    const struct tile_op *user = r->values[value->id].users.items[n];
    uint32_t position = position_of(user);
    *first = position < *first ? position : *first;
    *last = position > *last ? position : *last;
    if ((user->kind == TILE_MAP || user->kind == TILE_CONVERT) && value->type.columns > 1)
      uses_of(r, user->results[0], first, last);
  }
}

static uint32_t first_use(const struct residence *r, const struct tile_op *load)
{
  uint32_t first = UINT32_MAX, last = 0;
  uses_of(r, load->results[0], &first, &last);
  return first;
}

/* ---- the same load in both regions of a loop ---- */

static bool is_same_access(const struct tile_access *a, const struct tile_access *b)
{
  return a->tensor == b->tensor && a->row_dim == b->row_dim && a->group_dim == b->group_dim &&
         a->row_group == b->row_group && a->column_dim == b->column_dim;
}

static bool is_same_type(struct tile_type a, struct tile_type b)
{
  return a.kind == b.kind && a.element == b.element && a.rows == b.rows && a.columns == b.columns;
}

/* Whether the two, scalars or formulas of rows, make the same of their region's first argument, but
 * for rows that are dead. */
static bool is_same(const struct residence *r, const struct tile_op *loop,
                    const struct tile_value *a, const struct tile_value *b)
{
  if (a == b)
    return true;
  if (a == loop->regions[0]->arguments[0] || b == loop->regions[1]->arguments[0])
    return a == loop->regions[0]->arguments[0] && b == loop->regions[1]->arguments[0];
  if (a->def == NULL || b->def == NULL || a->def->kind != b->def->kind ||
      !is_same_type(a->type, b->type) || a->def->expr != b->def->expr ||
      a->def->operand_count != b->def->operand_count)
    return false;
  if (a->def->kind != TILE_SCALAR && !residence_is_row_formula(r, a))
    return false;
  if (a->def->kind == TILE_LOAD && !is_same_access(&a->def->access, &b->def->access))
    return false;
  const uint32_t counts = a->def->kind == TILE_LOAD ? 2 : 0;
  for (uint32_t k = 0; k + counts < a->def->operand_count; k++)
    if (!is_same(r, loop, a->def->operands[k], b->def->operands[k]))
      return false;
  return true;
}

/* Loads of the same elements, but for how many of them are live. */
static bool is_same_load(const struct residence *r, const struct tile_op *loop,
                         const struct tile_op *a, const struct tile_op *b)
{
  if (!is_same_type(a->results[0]->type, b->results[0]->type) ||
      !is_same_access(&a->access, &b->access) || a->operand_count != b->operand_count)
    return false;
  for (uint32_t k = 0; k + 2 < a->operand_count; k++)
    if (!is_same(r, loop, a->operands[k], b->operands[k]))
      return false;
  return true;
}

static uint32_t find_loads(const struct residence *r, const struct tile_region *region,
                           const struct tile_op *loads[RESIDENCE_MAX_STREAMS])
{
  uint32_t count = 0, wide = 0;
  for (const struct tile_op *op = region->first; op != NULL; op = op->next) {
    if (count == RESIDENCE_MAX_STREAMS || !may_stream(r, op))
      continue;
    wide += op->results[0]->type.columns > 1;
    uint32_t at = count++;
    for (; at > 0 && first_use(r, loads[at - 1]) > first_use(r, op); at--)
      loads[at] = loads[at - 1];
    loads[at] = op;
  }
  return wide > 0 ? count : 0;
}

/* With one buffer each, the next tile's first stream is copied while the last one is in use. */
static bool is_sequential(const struct residence *r, const struct tile_op *loop,
                          const struct residence_streams *streams)
{
  for (uint32_t region = 0; region < loop->region_count; region++) {
    uint32_t first = UINT32_MAX, last = 0;
    uses_of(r, streams->loads[0][region]->results[0], &first, &last);
    if (last >= first_use(r, streams->loads[streams->count - 1][region]))
      return false;
  }
  return true;
}

struct residence_streams residence_streams_of(const struct residence *r, const struct tile_op *loop)
{
  struct residence_streams streams = {.stages = 1};
  const struct tile_op *loads[2][RESIDENCE_MAX_STREAMS];
  uint32_t count = find_loads(r, loop->regions[0], loads[0]);
  for (uint32_t region = 1; region < loop->region_count; region++) {
    bool same = find_loads(r, loop->regions[region], loads[region]) == count;
    for (uint32_t n = 0; same && n < count; n++)
      same = is_same_load(r, loop, loads[0][n], loads[region][n]);
    if (!same)
      return streams;
  }
  for (uint32_t n = 0; n < count; n++)
    for (uint32_t region = 0; region < loop->region_count; region++)
      streams.loads[n][region] = loads[region][n];
  streams.count = count;
  if (r->stages > 1 || count == 1 || (count > 1 && !is_sequential(r, loop, &streams)))
    streams.stages = 2;
  return streams;
}
