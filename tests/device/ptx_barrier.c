/* Barriers of a block ("bar, barrier" of the PTX ISA). Warps arrive as a whole; those that have
 * exited are not waited for where a barrier is for all threads. */
#include "tests/device/ptx_build.h"
#include "tests/device/ptx_machine.h"

static bool is_complete(const struct ptx_block *block, const struct ptx_barrier *barrier)
{
  if (barrier->warps == 0) {
    return false;
  }
  if (barrier->threads != 0) {
    return barrier->arrived >= barrier->threads;
  }
  for (uint32_t k = 0; k < block->warp_count; k++) {
    if (block->warps[k].state != PTX_DONE && (barrier->warps >> k & 1) == 0) {
      return false;
    }
  }
  return true;
}

static void join(uint32_t *clock, const uint32_t *other, uint32_t count)
{
  for (uint32_t k = 0; k < count; k++) {
    clock[k] = clock[k] > other[k] ? clock[k] : other[k];
  }
}

static void write_result(struct ptx_warp *warp, const struct ptx_barrier *barrier)
{
  const struct ptx_op *op = warp->waits_at;
  if (!ptx_has(op->modifiers, PTX_CLASS_COMBINE)) {
    return;
  }
  ptx_set_predicate(warp, op->predicate_out[0], warp->alive, barrier->result != 0 ? UINT32_MAX : 0);
  if (op->dst_count > 0) {
    uint64_t *d = ptx_write(warp, op->dst[0]);
    PTX_EACH_LANE(lane, warp->alive)
    {
      d[lane] = barrier->result;
    }
  }
}

static void open_barrier(struct ptx_block *block, struct ptx_barrier *barrier)
{
  PTX_EACH_LANE(index, barrier->waiting)
  {
    struct ptx_warp *warp = &block->warps[index];
    write_result(warp, barrier);
    join(warp->clock, barrier->clock, block->warp_count);
    warp->clock[index]++;
    warp->state = PTX_READY;
  }
  *barrier = (struct ptx_barrier){0};
}

void ptx_open_barriers(struct ptx_block *block)
{
  for (uint32_t k = 0; k < PTX_BARRIERS; k++) {
    if (is_complete(block, &block->barriers[k])) {
      open_barrier(block, &block->barriers[k]);
    }
  }
}

/* What the warp adds to the barrier's reduction. */
static void reduce(const struct ptx_warp *warp, const struct ptx_op *op,
                   struct ptx_barrier *barrier, uint32_t mask)
{
  if (!ptx_has(op->modifiers, PTX_CLASS_COMBINE)) {
    return;
  }
  const uint32_t yes = ptx_predicate_mask(warp, op->predicate, op->predicate_negated) & mask;
  switch (op->modifiers->value[PTX_CLASS_COMBINE]) {
  case PTX_COMBINE_AND:
    barrier->result = (barrier->warps == 0 || barrier->result != 0) && yes == mask;
    break;
  case PTX_COMBINE_OR: barrier->result |= yes != 0; break;
  default: barrier->result += (uint32_t)__builtin_popcount(yes);
  }
}

/* src: number, threads; op->offset: whether to wait. */
static enum ptx_step arrive(struct ptx_warp *warp, const struct ptx_op *op, uint32_t mask)
{
  const uint32_t lane = (uint32_t)__builtin_ctz(mask);
  const uint32_t id = (uint32_t)ptx_read(warp, op->src[0])[lane];
  const uint32_t threads = (uint32_t)ptx_read(warp, op->src[1])[lane];
  if (ptx_require(warp, op, mask, warp->alive) == PTX_FAULT) {
    return PTX_FAULT;
  }
  if (id >= PTX_BARRIERS || threads % PTX_LANES != 0) {
    return ptx_raise(warp, op, lane, DEVICE_OUT_OF_BOUNDS,
                     "barrier %u for %u threads: there are %d, for multiples of %d", id, threads,
                     PTX_BARRIERS, PTX_LANES);
  }
  struct ptx_barrier *barrier = &warp->block->barriers[id];
  if (barrier->warps != 0 && barrier->threads != threads) {
    return ptx_raise(warp, op, lane, DEVICE_DIVERGENT_BARRIER,
                     "barrier %u for %u threads, which line %u uses for %u", id, threads,
                     barrier->line, barrier->threads);
  }
  reduce(warp, op, barrier, mask);
  barrier->threads = threads;
  barrier->line = op->line;
  barrier->arrived += PTX_LANES;
  barrier->warps |= UINT32_C(1) << warp->index;
  join(barrier->clock, warp->clock, warp->block->warp_count);
  if (op->offset == 0) {
    warp->clock[warp->index]++;
    ptx_open_barriers(warp->block);
    return PTX_NEXT;
  }
  barrier->waiting |= UINT32_C(1) << warp->index;
  warp->state = PTX_WAITING;
  warp->waits_at = op;
  warp->waits_for = id;
  ptx_open_barriers(warp->block);
  return PTX_WAIT;
}

/* {d,} number {, threads} {, predicate} */
bool ptx_decode_barrier(struct ptx_parser *parser, const struct ptx_statement *s, struct ptx_op *op)
{
  const struct ptx_modifiers *m = &s->modifiers;
  const char *name_end = s->row->text + s->row->length;
  const bool waits = memcmp(name_end - 6, "arrive", 6) != 0;
  const bool reduces = memcmp(name_end - 3, "red", 3) == 0;
  const uint32_t first = reduces ? 1 : 0;
  const uint32_t count = s->operand_count - first - (reduces ? 1 : 0);
  if (s->operand_count < 1 + 2 * first || count < 1 || count > 2 || (!waits && count != 2) ||
      reduces != ptx_has(m, PTX_CLASS_COMBINE)) {
    return false;
  }
  int32_t dst = 0, src[2];
  uint32_t dst_count = 0;
  if (reduces) {
    const bool counts = m->value[PTX_CLASS_COMBINE] == PTX_COMBINE_POPC;
    if (counts) {
      dst = ptx_target(parser, ptx_only_value(parser, s, 0), PTX_U32);
      dst_count = 1;
    } else {
      op->predicate_out[0] = ptx_predicate(parser, ptx_only_value(parser, s, 0));
    }
    const struct ptx_value *value = ptx_only_value(parser, s, s->operand_count - 1);
    op->predicate = ptx_predicate(parser, value);
    op->predicate_negated = value->negated;
    if (op->predicate < 0) {
      return false;
    }
  }
  src[0] = ptx_source(parser, ptx_only_value(parser, s, first), PTX_U32);
  src[1] = count == 2 ? ptx_source(parser, ptx_only_value(parser, s, first + 1), PTX_U32)
                      : ptx_constant(parser, 0);
  ptx_set_operands(parser, op, &dst, dst_count, src, 2);
  op->offset = waits;
  op->execute = arrive;
  return true;
}
