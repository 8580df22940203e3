/* Branches, calls and ends of threads; and instructions that do nothing here. */
#include <stdlib.h>

#include "tests/device/ptx_build.h"
#include "tests/device/ptx_machine.h"

enum { MAX_DEPTH = 64 };

/* ---- frames ---- */

static struct ptx_frame *new_frame(const struct ptx_function *function)
{
  struct ptx_frame *frame = calloc(1, sizeof(*frame));
  if (frame == NULL) {
    return NULL;
  }
  const size_t register_bytes = (function->register_count + 1u) * sizeof(*frame->registers);
  frame->function = function;
  frame->registers = aligned_alloc(sizeof(*frame->registers), register_bytes);
  frame->predicates = calloc(function->predicate_count + 1u, sizeof(*frame->predicates));
  frame->params = calloc(PTX_LANES, function->frame_param_bytes + 1u);
  frame->path_capacity = 16;
  frame->paths = calloc(frame->path_capacity, sizeof(*frame->paths));
  if (frame->registers == NULL || frame->predicates == NULL || frame->params == NULL ||
      frame->paths == NULL) {
    ptx_free_frame(frame);
    return NULL;
  }
  memset(frame->registers, 0, register_bytes);
  return frame;
}

void ptx_free_frame(struct ptx_frame *frame)
{
  free(frame->registers);
  free(frame->predicates);
  free(frame->params);
  free(frame->paths);
  free(frame);
}

/* A frame of the function that was left before, or a new one. */
static struct ptx_frame *take_frame(struct ptx_warp *warp, const struct ptx_function *function)
{
  for (struct ptx_frame **link = &warp->left; *link != NULL; link = &(*link)->caller) {
    if ((*link)->function == function) {
      struct ptx_frame *frame = *link;
      *link = frame->caller;
      return frame;
    }
  }
  return new_frame(function);
}

static bool reserve_local(struct ptx_warp *warp, uint32_t bytes)
{
  if (bytes <= warp->local_bytes) {
    return true;
  }
  for (uint32_t lane = 0; lane < PTX_LANES; lane++) {
    unsigned char *larger = realloc(warp->local[lane], bytes);
    if (larger == NULL) {
      return false;
    }
    memset(larger + warp->local_bytes, 0xff, bytes - warp->local_bytes);
    warp->local[lane] = larger;
  }
  warp->local_bytes = bytes;
  return true;
}

static void make_current(struct ptx_warp *warp, struct ptx_frame *frame)
{
  warp->frame = frame;
  warp->registers = frame == NULL ? NULL : frame->registers;
  warp->predicates = frame == NULL ? NULL : frame->predicates;
  warp->constants = frame == NULL ? NULL : (const uint64_t(*)[PTX_LANES])frame->function->constants;
}

static uint32_t lane_mask(enum ptx_compare compare, uint32_t lane)
{
  const uint32_t self = UINT32_C(1) << lane;
  switch ((int)compare) {
  case PTX_LT: return self - 1;
  case PTX_LE: return self | (self - 1);
  case PTX_GT: return ~(self | (self - 1));
  case PTX_GE: return ~(self - 1);
  default: return self;
  }
}

static uint64_t given_value(const struct ptx_warp *warp, const struct ptx_given *given,
                            uint32_t lane)
{
  const struct ptx_block *block = warp->block;
  const struct ptx_launch *launch = block->launch;
  const uint32_t axis = (uint32_t)given->value;
  const uint32_t thread = warp->index * PTX_LANES + lane;
  switch (given->kind) {
  case PTX_GIVEN_TID: {
    const uint32_t x = launch->block[0], y = launch->block[1];
    return axis == 0 ? thread % x : axis == 1 ? thread / x % y : thread / x / y;
  }
  case PTX_GIVEN_NTID: return launch->block[axis];
  case PTX_GIVEN_CTAID: return block->id[axis];
  case PTX_GIVEN_NCTAID: return launch->grid[axis];
  case PTX_GIVEN_LANEID: return lane;
  case PTX_GIVEN_WARPID: return warp->index;
  case PTX_GIVEN_NWARPID: return block->warp_count;
  case PTX_GIVEN_LANEMASK: return lane_mask((enum ptx_compare)given->value, lane);
  case PTX_GIVEN_DYNAMIC_SHARED_SIZE: return launch->dynamic_shared;
  case PTX_GIVEN_TOTAL_SHARED_SIZE:
    return launch->dynamic_shared + ptx_entry_static_shared(launch->entry);
  case PTX_GIVEN_ZERO: return 0;
  case PTX_GIVEN_LOCAL: return PTX_LOCAL_BASE + warp->frame->local_base + (uint64_t)given->value;
  }
  return 0;
}

/* Arguments of the call, from the caller's parameter memory to the callee's; or results back. */
static void copy_params(const struct ptx_frame *from, const struct ptx_frame *to,
                        const struct ptx_frame *callee, uint32_t mask, bool results)
{
  const struct ptx_function *function = callee->function;
  const uint32_t first = results ? 0 : function->result_count;
  const uint32_t end = results ? function->result_count : function->param_count;
  for (uint32_t k = first; k < end; k++) {
    const uint32_t here = function->params[k].offset, there = callee->call->offsets[k];
    PTX_EACH_LANE(lane, mask)
    {
      memcpy(to->params + (size_t)lane * to->function->frame_param_bytes + (results ? there : here),
             from->params + (size_t)lane * from->function->frame_param_bytes +
                 (results ? here : there),
             function->params[k].bytes);
    }
  }
}

bool ptx_enter(struct ptx_warp *warp, const struct ptx_function *function,
               const struct ptx_call *call, uint32_t mask)
{
  struct ptx_frame *caller = warp->frame;
  struct ptx_frame *frame = warp->depth < MAX_DEPTH ? take_frame(warp, function) : NULL;
  if (frame == NULL) {
    return false;
  }
  frame->caller = caller;
  frame->call = call;
  frame->call_mask = mask;
  frame->local_base =
      caller == NULL ? 0 : (caller->local_base + caller->function->local_bytes + 15) & ~15u;
  frame->paths[0] = (struct ptx_path){.pc = 0, .join = function->op_count, .mask = mask};
  frame->path_count = 1;
  make_current(warp, frame);
  warp->depth++;
  if (!reserve_local(warp, frame->local_base + function->local_bytes)) {
    return false;
  }
  if (caller != NULL) {
    copy_params(caller, frame, frame, mask, false);
  }
  for (uint32_t k = 0; k < function->given_count; k++) {
    const struct ptx_given *given = &function->given[k];
    for (uint32_t lane = 0; lane < PTX_LANES; lane++) {
      frame->registers[given->reg][lane] = given_value(warp, given, lane);
    }
  }
  return true;
}

/* Ends the frame at hand. */
static void leave(struct ptx_warp *warp)
{
  struct ptx_frame *frame = warp->frame;
  if (frame->caller != NULL) {
    copy_params(frame, frame->caller, frame, frame->call_mask & warp->alive, true);
  }
  make_current(warp, frame->caller);
  warp->depth--;
  frame->caller = warp->left;
  warp->left = frame;
}

void ptx_settle(struct ptx_warp *warp)
{
  while (warp->frame != NULL) {
    struct ptx_frame *frame = warp->frame;
    while (frame->path_count > 0) {
      const struct ptx_path *path = &frame->paths[frame->path_count - 1];
      if (path->mask != 0 && path->pc != path->join) {
        return;
      }
      frame->path_count--;
    }
    leave(warp);
  }
  warp->state = PTX_DONE;
}

/* ---- branches ---- */

static enum ptx_step add_path(struct ptx_warp *warp, const struct ptx_op *op, uint32_t pc,
                              uint32_t join, uint32_t mask)
{
  struct ptx_frame *frame = warp->frame;
  if (mask == 0 || pc == join) { /* these threads wait in the path below */
    return PTX_JUMP;
  }
  if (frame->path_count == frame->path_capacity) {
    struct ptx_path *paths =
        realloc(frame->paths, 2 * (size_t)frame->path_capacity * sizeof(*paths));
    if (paths == NULL) {
      return ptx_raise(warp, op, 0, DEVICE_UNSUPPORTED, "no memory on the host");
    }
    frame->paths = paths;
    frame->path_capacity *= 2;
  }
  frame->paths[frame->path_count++] = (struct ptx_path){pc, join, mask};
  return PTX_JUMP;
}

/* The path at hand is to be divided: what meets at its own join already does not need it. */
static void open_division(struct ptx_warp *warp, const struct ptx_op *op)
{
  struct ptx_path *path = ptx_path(warp);
  if (path->join == op->join) {
    warp->frame->path_count--;
  } else {
    path->pc = op->join;
  }
}

/* Either side, but one that ends its threads at once goes first: the others can then meet at a
 * barrier. */
static bool goes_first(struct ptx_warp *warp, const struct ptx_op *op, uint32_t next)
{
  const struct ptx_op *ops = warp->frame->function->ops;
  const bool random = (ptx_random(warp->block) & 1) != 0;
  const bool target_ends = ops[op->target].opcode == PTX_RET || ops[op->target].opcode == PTX_EXIT;
  const bool next_ends = ops[next].opcode == PTX_RET || ops[next].opcode == PTX_EXIT;
  return target_ends != next_ends ? target_ends : random;
}

static enum ptx_step bra(struct ptx_warp *warp, const struct ptx_op *op, uint32_t mask)
{
  struct ptx_path *path = ptx_path(warp);
  if (mask == path->mask) {
    path->pc = op->target;
    return PTX_JUMP;
  }
  const uint32_t next = path->pc + 1, rest = path->mask & ~mask;
  const bool taken_first = goes_first(warp, op, next);
  open_division(warp, op);
  if (add_path(warp, op, taken_first ? next : op->target, op->join, taken_first ? rest : mask) ==
      PTX_FAULT) {
    return PTX_FAULT;
  }
  return add_path(warp, op, taken_first ? op->target : next, op->join, taken_first ? mask : rest);
}

static void add_fixup(struct ptx_parser *parser, const struct ptx_statement *s,
                      const struct ptx_value *name)
{
  parser->fixups = ptx_grow(parser, parser->fixups, parser->fixup_count, &parser->fixup_capacity,
                            sizeof(*parser->fixups));
  parser->fixups[parser->fixup_count++] =
      (struct ptx_fixup){name->text, name->length, parser->scope, s->line, parser->op_count};
}

bool ptx_decode_bra(struct ptx_parser *parser, const struct ptx_statement *s, struct ptx_op *op)
{
  if (s->operand_count != 1 || ptx_only_value(parser, s, 0)->kind != PTX_VALUE_NAME) {
    return false;
  }
  add_fixup(parser, s, ptx_only_value(parser, s, 0));
  op->execute = bra;
  return true;
}

/* Guarded brx.idx do not occur; the threads of the path go to their targets. */
static enum ptx_step brx(struct ptx_warp *warp, const struct ptx_op *op, uint32_t mask)
{
  const uint64_t *index = ptx_read(warp, op->src[0]);
  PTX_EACH_LANE(lane, mask)
  {
    if ((uint32_t)index[lane] >= op->target_count) {
      return ptx_raise(warp, op, lane, DEVICE_OUT_OF_BOUNDS, "index %u of %u targets",
                       (uint32_t)index[lane], op->target_count);
    }
  }
  open_division(warp, op);
  while (mask != 0) {
    const uint32_t target = op->targets[(uint32_t)index[__builtin_ctz(mask)]];
    uint32_t group = 0;
    PTX_EACH_LANE(lane, mask)
    {
      group |= (uint32_t)(op->targets[(uint32_t)index[lane]] == target) << lane;
    }
    if (add_path(warp, op, target, op->join, group) == PTX_FAULT) {
      return PTX_FAULT;
    }
    mask &= ~group;
  }
  return PTX_JUMP;
}

bool ptx_decode_brx(struct ptx_parser *parser, const struct ptx_statement *s, struct ptx_op *op)
{
  if (s->operand_count != 2 || s->has_guard ||
      ptx_only_value(parser, s, 1)->kind != PTX_VALUE_NAME) {
    return false;
  }
  const int32_t src = ptx_source(parser, ptx_only_value(parser, s, 0), PTX_B32);
  ptx_set_operands(parser, op, NULL, 0, &src, 1);
  add_fixup(parser, s, ptx_only_value(parser, s, 1));
  op->execute = brx;
  return true;
}

/* ---- calls and ends ---- */

static enum ptx_step call(struct ptx_warp *warp, const struct ptx_op *op, uint32_t mask)
{
  ptx_path(warp)->pc++;
  if (!ptx_enter(warp, op->call->callee, op->call, mask)) {
    return ptx_raise(warp, op, 0, DEVICE_UNSUPPORTED,
                     "more than %d calls deep, or no memory on the host", MAX_DEPTH);
  }
  return PTX_JUMP;
}

/* call (results), function, (arguments); the lists can be missing. */
bool ptx_decode_call(struct ptx_parser *parser, const struct ptx_statement *s, struct ptx_op *op)
{
  const bool has_results = s->operand_count > 0 && s->operands[0].kind == PTX_OPERAND_LIST;
  const uint32_t at = has_results ? 1 : 0;
  if (at >= s->operand_count || s->operand_count > at + 2 ||
      ptx_only_value(parser, s, at)->kind != PTX_VALUE_NAME) {
    return false;
  }
  const struct ptx_value *name = ptx_only_value(parser, s, at);
  const struct ptx_function *callee = ptx_find_function(parser->module, name->text, name->length);
  if (callee == NULL || callee->is_entry) {
    ptx_fail(parser, s->line, "the function %.*s is not declared", (int)name->length, name->text);
  }
  struct ptx_call *made = ptx_allocate(parser, sizeof(*made));
  uint32_t *offsets = ptx_allocate(parser, (callee->param_count + 1u) * sizeof(*offsets));
  uint32_t count = 0;
  for (uint32_t k = 0; k < s->operand_count; k++) {
    for (uint32_t v = 0; k != at && v < s->operands[k].count; v++) {
      const struct ptx_value *value = &s->values[s->operands[k].first + v];
      const bool fits = value->kind == PTX_VALUE_VARIABLE && value->symbol->space == PTX_PARAM &&
                        count < callee->param_count &&
                        value->symbol->bytes == callee->params[count].bytes;
      if (!fits) {
        ptx_fail(parser, s->line, "argument %u of %s is not a .param variable of its size",
                 count + 1, callee->name);
      }
      offsets[count++] = (uint32_t)value->symbol->address;
    }
  }
  if (count != callee->param_count ||
      (has_results ? s->operands[0].count : 0) != callee->result_count) {
    ptx_fail(parser, s->line, "%u arguments and results, where %s has %u", count, callee->name,
             callee->param_count);
  }
  made->callee = callee;
  made->offsets = offsets;
  op->call = made;
  op->execute = call;
  return true;
}

static void drop_lanes(struct ptx_frame *frame, uint32_t lanes)
{
  for (uint32_t k = 0; k < frame->path_count; k++) {
    frame->paths[k].mask &= ~lanes;
  }
}

static enum ptx_step leave_program(struct ptx_warp *warp, const struct ptx_op *op, uint32_t mask)
{
  (void)op;
  ptx_path(warp)->pc++;
  for (struct ptx_frame *frame = warp->frame; frame != NULL; frame = frame->caller) {
    drop_lanes(frame, mask);
  }
  warp->alive &= ~mask;
  ptx_finish_copies(warp, mask);
  return PTX_JUMP;
}

bool ptx_decode_exit(struct ptx_parser *parser, const struct ptx_statement *s, struct ptx_op *op)
{
  (void)parser;
  op->execute = leave_program;
  return s->operand_count == 0;
}

static enum ptx_step ret(struct ptx_warp *warp, const struct ptx_op *op, uint32_t mask)
{
  if (warp->frame->caller == NULL) {
    return leave_program(warp, op, mask);
  }
  ptx_path(warp)->pc++;
  drop_lanes(warp->frame, mask);
  return PTX_JUMP;
}

bool ptx_decode_ret(struct ptx_parser *parser, const struct ptx_statement *s, struct ptx_op *op)
{
  (void)parser;
  op->execute = ret;
  return s->operand_count == 0;
}

static enum ptx_step trap(struct ptx_warp *warp, const struct ptx_op *op, uint32_t mask)
{
  return ptx_raise(warp, op, (uint32_t)__builtin_ctz(mask), DEVICE_TRAP, "trap");
}

bool ptx_decode_trap(struct ptx_parser *parser, const struct ptx_statement *s, struct ptx_op *op)
{
  (void)parser;
  op->execute = trap;
  return s->operand_count == 0;
}

/* ---- nothing ---- */

static enum ptx_step nothing(struct ptx_warp *warp, const struct ptx_op *op, uint32_t mask)
{
  (void)warp;
  (void)op;
  (void)mask;
  return PTX_NEXT;
}

bool ptx_decode_nothing(struct ptx_parser *parser, const struct ptx_statement *s, struct ptx_op *op)
{
  (void)parser;
  (void)s;
  op->execute = nothing;
  return true;
}

static enum ptx_step createpolicy(struct ptx_warp *warp, const struct ptx_op *op, uint32_t mask)
{
  uint64_t *d = ptx_write(warp, op->dst[0]);
  PTX_EACH_LANE(lane, mask)
  {
    d[lane] = 0;
  }
  return PTX_NEXT;
}

bool ptx_decode_createpolicy(struct ptx_parser *parser, const struct ptx_statement *s,
                             struct ptx_op *op)
{
  const int32_t dst = ptx_target(parser, ptx_only_value(parser, s, 0), PTX_B64);
  ptx_set_operands(parser, op, &dst, 1, NULL, 0);
  op->execute = createpolicy;
  return true;
}
