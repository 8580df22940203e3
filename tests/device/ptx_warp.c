/* Instructions by which the threads of a warp speak to each other. */
#include "tests/device/ptx_build.h"
#include "tests/device/ptx_machine.h"

enum ptx_step ptx_require(struct ptx_warp *warp, const struct ptx_op *op, uint32_t active,
                          uint32_t needed)
{
  const uint32_t missing = needed & ~active;
  if (missing == 0) {
    return PTX_NEXT;
  }
  const uint32_t lane = (uint32_t)__builtin_ctz(missing);
  return ptx_raise(warp, op, lane, DEVICE_DIVERGENT_BARRIER,
                   "executed by the lanes 0x%08x of the warp without lane %u, which %s", active,
                   lane,
                   (warp->lanes >> lane & 1) == 0   ? "does not exist"
                   : (warp->alive >> lane & 1) == 0 ? "has exited"
                                                    : "is elsewhere");
}

/* Each active lane has to be in the mask that it gives, and all lanes of that have to be active.
 * Lanes that the block does not have are not missed. */
static enum ptx_step check_members(struct ptx_warp *warp, const struct ptx_op *op, uint32_t active,
                                   const uint64_t *members)
{
  PTX_EACH_LANE(lane, active)
  {
    const uint32_t named = (uint32_t)members[lane];
    if ((named >> lane & 1) == 0) {
      return ptx_raise(warp, op, lane, DEVICE_DIVERGENT_BARRIER,
                       "the mask 0x%08x does not have the lane %u that gives it", named, lane);
    }
    if (ptx_require(warp, op, active, named & warp->lanes) == PTX_FAULT) {
      return PTX_FAULT;
    }
  }
  return PTX_NEXT;
}

static enum ptx_step warp_sync(struct ptx_warp *warp, const struct ptx_op *op, uint32_t mask)
{
  return check_members(warp, op, mask, ptx_read(warp, op->src[0]));
}

bool ptx_decode_warp_sync(struct ptx_parser *parser, const struct ptx_statement *s,
                          struct ptx_op *op)
{
  op->execute = warp_sync;
  return ptx_decode_operands(parser, s, op);
}

/* ---- shuffles ---- */

/* The lane that a lane reads from; itself, and false, when that is out of its segment. */
static bool source_lane(enum ptx_shuffle mode, uint32_t lane, uint32_t b, uint32_t c,
                        uint32_t *source)
{
  const uint32_t clamp = c & 31, segment = c >> 8 & 31;
  const uint32_t lowest = lane & segment;
  const uint32_t last = lowest | (clamp & ~segment);
  bool inside = false;
  b &= 31;
  switch (mode) {
  case PTX_SHUFFLE_UP:
    *source = lane - b;
    inside = (int32_t)(lane - b) >= (int32_t)last;
    break;
  case PTX_SHUFFLE_DOWN:
    *source = lane + b;
    inside = lane + b <= last;
    break;
  case PTX_SHUFFLE_BUTTERFLY:
    *source = lane ^ b;
    inside = (lane ^ b) <= last;
    break;
  case PTX_SHUFFLE_INDEX:
    *source = lowest | (b & ~segment);
    inside = *source <= last;
    break;
  }
  if (!inside) {
    *source = lane;
  }
  return inside;
}

static enum ptx_step shfl(struct ptx_warp *warp, const struct ptx_op *op, uint32_t mask)
{
  if (check_members(warp, op, mask, ptx_read(warp, op->src[3])) == PTX_FAULT) {
    return PTX_FAULT;
  }
  uint64_t a[PTX_LANES], b[PTX_LANES], c[PTX_LANES];
  memcpy(a, ptx_read(warp, op->src[0]), sizeof(a));
  memcpy(b, ptx_read(warp, op->src[1]), sizeof(b));
  memcpy(c, ptx_read(warp, op->src[2]), sizeof(c));
  uint64_t *d = ptx_write(warp, op->dst[0]);
  uint32_t inside = 0;
  PTX_EACH_LANE(lane, mask)
  {
    uint32_t source;
    if (source_lane((enum ptx_shuffle)op->modifiers->value[PTX_CLASS_SHUFFLE], lane,
                    (uint32_t)b[lane], (uint32_t)c[lane], &source)) {
      inside |= UINT32_C(1) << lane;
    }
    if ((mask >> source & 1) == 0) {
      return ptx_raise(warp, op, lane, DEVICE_DIVERGENT_BARRIER,
                       "reads from lane %u, which does not take part", source);
    }
    d[lane] = a[source];
  }
  ptx_set_predicate(warp, op->predicate_out[0], mask, inside);
  return PTX_NEXT;
}

bool ptx_decode_shfl(struct ptx_parser *parser, const struct ptx_statement *s, struct ptx_op *op)
{
  if (s->operand_count != 5 || op->type != PTX_B32 || !ptx_has(&s->modifiers, PTX_CLASS_SHUFFLE)) {
    return false;
  }
  const int32_t dst = ptx_target(parser, ptx_only_value(parser, s, 0), PTX_B32);
  if (s->operands[0].has_second) {
    op->predicate_out[0] = ptx_predicate(parser, &s->operands[0].second);
  }
  int32_t src[4];
  for (uint32_t k = 0; k < 4; k++) {
    src[k] = ptx_source(parser, ptx_only_value(parser, s, 1 + k), PTX_B32);
  }
  ptx_set_operands(parser, op, &dst, 1, src, 4);
  op->execute = shfl;
  return true;
}

/* ---- votes and reductions ---- */

static enum ptx_step vote(struct ptx_warp *warp, const struct ptx_op *op, uint32_t mask)
{
  const uint64_t *members = ptx_read(warp, op->src[0]);
  if (check_members(warp, op, mask, members) == PTX_FAULT) {
    return PTX_FAULT;
  }
  const uint32_t given = ptx_predicate_mask(warp, op->predicate, op->predicate_negated) & mask;
  uint32_t result = 0;
  PTX_EACH_LANE(lane, mask)
  {
    const uint32_t named = (uint32_t)members[lane] & mask, yes = given & named;
    bool holds = false;
    switch ((enum ptx_vote)op->modifiers->value[PTX_CLASS_VOTE]) {
    case PTX_VOTE_ALL: holds = yes == named; break;
    case PTX_VOTE_ANY: holds = yes != 0; break;
    case PTX_VOTE_UNIFORM: holds = yes == named || yes == 0; break;
    case PTX_VOTE_BALLOT: ptx_write(warp, op->dst[0])[lane] = yes; break;
    }
    result |= (uint32_t)holds << lane;
  }
  ptx_set_predicate(warp, op->predicate_out[0], mask, result);
  return PTX_NEXT;
}

bool ptx_decode_vote(struct ptx_parser *parser, const struct ptx_statement *s, struct ptx_op *op)
{
  const bool ballot = s->modifiers.value[PTX_CLASS_VOTE] == PTX_VOTE_BALLOT;
  if (s->operand_count != 3 || !ptx_has(&s->modifiers, PTX_CLASS_VOTE) ||
      op->type != (ballot ? PTX_B32 : PTX_PRED)) {
    return false;
  }
  int32_t dst = 0;
  if (ballot) {
    dst = ptx_target(parser, ptx_only_value(parser, s, 0), PTX_B32);
  } else {
    op->predicate_out[0] = ptx_predicate(parser, ptx_only_value(parser, s, 0));
  }
  const struct ptx_value *value = ptx_only_value(parser, s, 1);
  op->predicate = ptx_predicate(parser, value);
  op->predicate_negated = value->negated;
  const int32_t src = ptx_source(parser, ptx_only_value(parser, s, 2), PTX_B32);
  ptx_set_operands(parser, op, &dst, ballot, &src, 1);
  op->execute = vote;
  return op->predicate >= 0;
}

static enum ptx_step match(struct ptx_warp *warp, const struct ptx_op *op, uint32_t mask)
{
  const uint64_t *a = ptx_read(warp, op->src[0]), *members = ptx_read(warp, op->src[1]);
  if (check_members(warp, op, mask, members) == PTX_FAULT) {
    return PTX_FAULT;
  }
  const bool all = op->offset != 0;
  uint64_t result[PTX_LANES];
  uint32_t agree = 0;
  PTX_EACH_LANE(lane, mask)
  {
    const uint32_t named = (uint32_t)members[lane] & mask;
    uint32_t equal = 0;
    PTX_EACH_LANE(other, named)
    {
      equal |= (uint32_t)(a[other] == a[lane]) << other;
    }
    agree |= (uint32_t)(equal == named) << lane;
    result[lane] = all && equal != named ? 0 : equal;
  }
  uint64_t *d = ptx_write(warp, op->dst[0]);
  PTX_EACH_LANE(lane, mask)
  {
    d[lane] = result[lane];
  }
  ptx_set_predicate(warp, op->predicate_out[0], mask, agree);
  return PTX_NEXT;
}

bool ptx_decode_match(struct ptx_parser *parser, const struct ptx_statement *s, struct ptx_op *op)
{
  if (s->operand_count != 3 || s->modifiers.type_count != 1 || op->type == PTX_PRED) {
    return false;
  }
  const int32_t dst = ptx_target(parser, ptx_only_value(parser, s, 0), PTX_B32);
  if (s->operands[0].has_second) {
    op->predicate_out[0] = ptx_predicate(parser, &s->operands[0].second);
  }
  const int32_t src[2] = {ptx_source(parser, ptx_only_value(parser, s, 1), (enum ptx_type)op->type),
                          ptx_source(parser, ptx_only_value(parser, s, 2), PTX_B32)};
  ptx_set_operands(parser, op, &dst, 1, src, 2);
  op->offset = s->row->opcode == PTX_MATCH_ALL;
  op->execute = match;
  return true;
}

static uint32_t reduced(enum ptx_combine combine, bool is_signed, uint32_t a, uint32_t b)
{
  const bool less = is_signed ? (int32_t)a < (int32_t)b : a < b;
  switch ((int)combine) {
  case PTX_COMBINE_AND: return a & b;
  case PTX_COMBINE_OR: return a | b;
  case PTX_COMBINE_XOR: return a ^ b;
  case PTX_COMBINE_MIN: return less ? a : b;
  case PTX_COMBINE_MAX: return less ? b : a;
  default: return a + b;
  }
}

static enum ptx_step redux(struct ptx_warp *warp, const struct ptx_op *op, uint32_t mask)
{
  const uint64_t *members = ptx_read(warp, op->src[1]);
  if (check_members(warp, op, mask, members) == PTX_FAULT) {
    return PTX_FAULT;
  }
  uint64_t a[PTX_LANES];
  memcpy(a, ptx_read(warp, op->src[0]), sizeof(a));
  uint64_t *d = ptx_write(warp, op->dst[0]);
  PTX_EACH_LANE(lane, mask)
  {
    const uint32_t named = (uint32_t)members[lane] & mask;
    const uint32_t first = (uint32_t)__builtin_ctz(named);
    uint32_t result = (uint32_t)a[first];
    PTX_EACH_LANE(other, named & (named - 1))
    {
      result = reduced((enum ptx_combine)op->modifiers->value[PTX_CLASS_COMBINE],
                       op->type == PTX_S32, result, (uint32_t)a[other]);
    }
    d[lane] = result;
  }
  return PTX_NEXT;
}

bool ptx_decode_redux(struct ptx_parser *parser, const struct ptx_statement *s, struct ptx_op *op)
{
  op->execute = redux;
  return (op->type == PTX_U32 || op->type == PTX_S32 || op->type == PTX_B32) &&
         ptx_has(&s->modifiers, PTX_CLASS_COMBINE) &&
         s->modifiers.value[PTX_CLASS_COMBINE] <= PTX_COMBINE_MAX &&
         ptx_decode_operands(parser, s, op);
}

static enum ptx_step activemask(struct ptx_warp *warp, const struct ptx_op *op, uint32_t mask)
{
  uint64_t *d = ptx_write(warp, op->dst[0]);
  PTX_EACH_LANE(lane, mask)
  {
    d[lane] = mask;
  }
  return PTX_NEXT;
}

bool ptx_decode_activemask(struct ptx_parser *parser, const struct ptx_statement *s,
                           struct ptx_op *op)
{
  op->execute = activemask;
  return ptx_decode_operands(parser, s, op);
}
