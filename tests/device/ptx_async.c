/* cp.async: copies whose bytes arrive at any time between the instruction and the wait for them,
 * mostly at the end, and that nobody may look at before. */
#include <stdlib.h>

#include "tests/device/ptx_build.h"
#include "tests/device/ptx_machine.h"

static void move_lane(struct ptx_warp *warp, const struct ptx_copy *copy, uint32_t lane)
{
  unsigned char *to = warp->block->shared + copy->index[lane];
  memset(to, 0, copy->op->bytes);
  if (copy->filled[lane] > 0) {
    memcpy(to, copy->source[lane], copy->filled[lane]);
  }
}

void ptx_move_some_copies(struct ptx_warp *warp)
{
  for (uint32_t k = 0; k < warp->copy_count; k++) {
    struct ptx_copy *copy = &warp->copies[k];
    if (!copy->moved && ptx_random(warp->block) % 8 == 0) {
      PTX_EACH_LANE(lane, copy->pending)
      {
        move_lane(warp, copy, lane);
      }
      copy->moved = true;
    }
  }
}

/* The lanes' copies end but for those of their last `open_groups` groups, the one being filled
 * included. */
static void finish(struct ptx_warp *warp, uint32_t lanes, uint32_t open_groups)
{
  uint32_t kept = 0;
  for (uint32_t k = 0; k < warp->copy_count; k++) {
    struct ptx_copy *copy = &warp->copies[k];
    uint32_t done = 0;
    PTX_EACH_LANE(lane, copy->pending & lanes)
    {
      if (copy->group[lane] + open_groups <= warp->group[lane]) {
        done |= UINT32_C(1) << lane;
      }
    }
    PTX_EACH_LANE(lane, done)
    {
      if (!copy->moved) {
        move_lane(warp, copy, lane);
      }
      ptx_shared_copy_ends(warp, lane, copy->index[lane], copy->op->bytes);
    }
    copy->pending &= ~done;
    if (copy->pending != 0) {
      if (kept != k) {
        warp->copies[kept] = *copy;
      }
      kept++;
    }
  }
  warp->copy_count = kept;
}

void ptx_finish_copies(struct ptx_warp *warp, uint32_t lanes)
{
  finish(warp, lanes, 0);
}

/* src: target, source, bytes to read; op->bytes are copied. */
static enum ptx_step begin_lane(struct ptx_warp *warp, const struct ptx_op *op, uint32_t lane,
                                struct ptx_copy *copy)
{
  const uint64_t to = ptx_read(warp, op->src[0])[lane] + (uint64_t)op->offset;
  const uint64_t from = ptx_read(warp, op->src[1])[lane] + (uint64_t)op->second_offset;
  uint32_t filled = (uint32_t)ptx_read(warp, op->src[2])[lane];
  if (op->predicate >= 0 &&
      (ptx_predicate_mask(warp, op->predicate, op->predicate_negated) >> lane & 1) != 0) {
    filled = 0;
  }
  if (filled > op->bytes) {
    return ptx_raise(warp, op, lane, DEVICE_OUT_OF_BOUNDS, "a copy of %u bytes with %u to read",
                     op->bytes, filled);
  }
  enum ptx_step step =
      ptx_shared_index(warp, op, lane, to, op->bytes, op->bytes, &copy->index[lane]);
  if (step == PTX_NEXT && filled > 0) {
    unsigned char *source;
    step = ptx_global_access(warp, op, lane, from, filled, op->bytes, &source);
    copy->source[lane] = step == PTX_NEXT ? source : NULL;
  }
  if (step == PTX_NEXT) {
    step = ptx_shared_copy_begins(warp, op, lane, copy->index[lane], op->bytes);
  }
  copy->filled[lane] = (uint8_t)filled;
  copy->group[lane] = warp->group[lane];
  return step;
}

static enum ptx_step cp_async(struct ptx_warp *warp, const struct ptx_op *op, uint32_t mask)
{
  if (warp->copy_count == warp->copy_capacity) {
    const uint32_t capacity = warp->copy_capacity == 0 ? 32 : 2 * warp->copy_capacity;
    struct ptx_copy *copies = realloc(warp->copies, capacity * sizeof(*copies));
    if (copies == NULL) {
      return ptx_raise(warp, op, 0, DEVICE_UNSUPPORTED, "no memory on the host");
    }
    warp->copies = copies;
    warp->copy_capacity = capacity;
  }
  struct ptx_copy *copy = &warp->copies[warp->copy_count];
  copy->op = op;
  copy->pending = mask;
  copy->moved = false;
  PTX_EACH_LANE(lane, mask)
  {
    if (begin_lane(warp, op, lane, copy) == PTX_FAULT) {
      return PTX_FAULT;
    }
  }
  warp->copy_count++;
  return PTX_NEXT;
}

static enum ptx_step commit(struct ptx_warp *warp, const struct ptx_op *op, uint32_t mask)
{
  (void)op;
  PTX_EACH_LANE(lane, mask)
  {
    warp->group[lane]++;
  }
  return PTX_NEXT;
}

/* wait_group N leaves the last N groups open, and what no group has been made of. */
static enum ptx_step wait(struct ptx_warp *warp, const struct ptx_op *op, uint32_t mask)
{
  finish(warp, mask, (uint32_t)op->offset);
  return PTX_NEXT;
}

bool ptx_decode_cp_async(struct ptx_parser *parser, const struct ptx_statement *s,
                         struct ptx_op *op)
{
  const struct ptx_modifiers *m = &s->modifiers;
  const bool all = m->value[PTX_CLASS_CACHE] == PTX_CACHE_ALL;
  const uint32_t policy = ptx_has(m, PTX_CLASS_POLICY) ? 1 : 0;
  int64_t bytes;
  if (s->operand_count < 3 + policy || s->operand_count > 4 + policy || m->space_count != 2 ||
      m->spaces[0] != PTX_SHARED || m->spaces[1] != PTX_GLOBAL || !ptx_has(m, PTX_CLASS_CACHE) ||
      !ptx_immediate(s, 2, &bytes) || !(bytes == 16 || (all && (bytes == 4 || bytes == 8)))) {
    return false;
  }
  int32_t src[3];
  src[0] = ptx_address(parser, s, 0, PTX_SHARED, &op->offset);
  src[1] = ptx_address(parser, s, 1, PTX_GLOBAL, &op->second_offset);
  src[2] = ptx_constant(parser, (uint64_t)bytes);
  if (s->operand_count == 4 + policy) {
    const struct ptx_value *value = ptx_only_value(parser, s, 3);
    if (value->kind == PTX_VALUE_PREDICATE) {
      op->predicate = value->index;
      op->predicate_negated = value->negated;
    } else {
      src[2] = ptx_source(parser, value, PTX_B32);
    }
  }
  ptx_set_operands(parser, op, NULL, 0, src, 3);
  op->bytes = (uint8_t)bytes;
  op->cache = parser->module->cache_count++;
  op->execute = cp_async;
  return true;
}

bool ptx_decode_cp_async_commit(struct ptx_parser *parser, const struct ptx_statement *s,
                                struct ptx_op *op)
{
  (void)parser;
  op->execute = commit;
  return s->operand_count == 0;
}

bool ptx_decode_cp_async_wait(struct ptx_parser *parser, const struct ptx_statement *s,
                              struct ptx_op *op)
{
  (void)parser;
  op->execute = wait;
  if (s->row->opcode == PTX_CP_ASYNC_WAIT_ALL) {
    return s->operand_count == 0;
  }
  int64_t groups;
  if (s->operand_count != 1 || !ptx_immediate(s, 0, &groups) || groups < 0) {
    return false;
  }
  op->offset = groups + 1; /* the open group, too, is left */
  return true;
}
