/* Loads, stores and atomic operations in every state space, and conversions of addresses. */
#include "tests/device/ptx_build.h"
#include "tests/device/ptx_machine.h"

enum { MAX_ACCESS = 16 };

enum ptx_step ptx_global_access(struct ptx_warp *warp, const struct ptx_op *op, uint32_t lane,
                                uint64_t address, uint32_t bytes, uint32_t alignment,
                                unsigned char **host)
{
  struct ptx_range *range = &warp->block->ranges[op->cache];
  if (address - range->base >= range->bytes || range->bytes - (address - range->base) < bytes) {
    uint64_t base;
    size_t size;
    /* What begins right behind an allocation is told as beyond that one. */
    if (!device_range(address, &base, &size) && !device_range(address - 1, &base, &size)) {
      return ptx_raise(warp, op, lane, DEVICE_OUT_OF_BOUNDS,
                       "%u bytes at address 0x%llx, which is in no allocation: out of bounds",
                       bytes, (unsigned long long)address);
    }
    if (size - (address - base) < bytes) {
      return ptx_raise(warp, op, lane, DEVICE_OUT_OF_BOUNDS,
                       "%u bytes at offset %llu of an allocation of %zu bytes: out of bounds",
                       bytes, (unsigned long long)(address - base), size);
    }
    unsigned char *data = device_translate(base, size);
    if (data == NULL) {
      return ptx_raise(warp, op, lane, DEVICE_OUT_OF_BOUNDS,
                       "address 0x%llx is memory of another device: out of bounds",
                       (unsigned long long)address);
    }
    *range = (struct ptx_range){base, size, data};
  }
  if ((address & (alignment - 1)) != 0) {
    return ptx_raise(warp, op, lane, DEVICE_MISALIGNED,
                     "offset %llu of an allocation, address 0x%llx, is not a multiple of %u",
                     (unsigned long long)(address - range->base), (unsigned long long)address,
                     alignment);
  }
  *host = range->host + (address - range->base);
  return PTX_NEXT;
}

static enum ptx_step local_access(struct ptx_warp *warp, const struct ptx_op *op, uint32_t lane,
                                  uint64_t address, uint32_t bytes, unsigned char **host)
{
  const uint64_t offset = address - PTX_LOCAL_BASE;
  if (offset >= warp->local_bytes || warp->local_bytes - offset < bytes) {
    return ptx_raise(warp, op, lane, DEVICE_OUT_OF_BOUNDS,
                     "%u bytes at offset %lld of local memory, which has %u bytes: out of bounds",
                     bytes, (long long)offset, warp->local_bytes);
  }
  if ((offset & (bytes - 1)) != 0) {
    return ptx_raise(warp, op, lane, DEVICE_MISALIGNED,
                     "offset %llu of local memory is not a multiple of %u",
                     (unsigned long long)offset, bytes);
  }
  *host = warp->local[lane] + offset;
  return PTX_NEXT;
}

/* The parameters of the launch, then those of the frame's calls; a function has only the latter. */
static enum ptx_step param_access(struct ptx_warp *warp, const struct ptx_op *op, uint32_t lane,
                                  uint64_t address, uint32_t bytes, bool write,
                                  unsigned char **host)
{
  const struct ptx_frame *frame = warp->frame;
  const struct ptx_function *function = frame->function;
  const bool of_launch = function->is_entry && address < function->param_bytes;
  const uint32_t end = of_launch ? function->param_bytes : function->frame_param_bytes;
  if (address >= end || end - address < bytes || (of_launch && write)) {
    return ptx_raise(warp, op, lane, DEVICE_OUT_OF_BOUNDS,
                     "%u bytes at offset %lld of parameters, which have %u bytes: out of bounds",
                     bytes, (long long)address, end);
  }
  if ((address & (bytes - 1)) != 0) {
    return ptx_raise(warp, op, lane, DEVICE_MISALIGNED,
                     "offset %llu of parameters is not a multiple of %u",
                     (unsigned long long)address, bytes);
  }
  *host = of_launch ? warp->block->params + address
                    : frame->params + (size_t)lane * function->frame_param_bytes + address;
  return PTX_NEXT;
}

/* The space of a generic address, and the address within it. */
static enum ptx_space resolve(uint64_t *address)
{
  const uint64_t window = *address & PTX_WINDOW_MASK;
  const enum ptx_space space = window == PTX_WINDOW_SHARED  ? PTX_SHARED
                               : window == PTX_WINDOW_LOCAL ? PTX_LOCAL
                               : window == PTX_WINDOW_PARAM ? PTX_PARAM
                                                            : PTX_GLOBAL;
  *address = space == PTX_GLOBAL ? *address : *address & ~PTX_WINDOW_MASK;
  return space;
}

static bool is_strong(const struct ptx_op *op)
{
  return op->modifiers->value[PTX_CLASS_STRONG] != 0;
}

static enum ptx_step load_bytes(struct ptx_warp *warp, const struct ptx_op *op, uint32_t lane,
                                enum ptx_space space, uint64_t address, uint32_t bytes, void *value)
{
  unsigned char *host = NULL;
  enum ptx_step step = PTX_NEXT;
  uint32_t index;
  switch (space) {
  case PTX_GENERIC:
    space = resolve(&address);
    return load_bytes(warp, op, lane, space, address, bytes, value);
  case PTX_GLOBAL:
  case PTX_CONST: step = ptx_global_access(warp, op, lane, address, bytes, bytes, &host); break;
  case PTX_SHARED:
    step = ptx_shared_index(warp, op, lane, address, bytes, bytes, &index);
    if (step == PTX_NEXT) {
      step = ptx_shared_read(warp, op, lane, index, bytes, is_strong(op));
      host = warp->block->shared + index;
    }
    break;
  case PTX_LOCAL: step = local_access(warp, op, lane, address, bytes, &host); break;
  case PTX_PARAM: step = param_access(warp, op, lane, address, bytes, false, &host); break;
  }
  if (step == PTX_NEXT) {
    memcpy(value, host, bytes);
  }
  return step;
}

static enum ptx_step store_bytes(struct ptx_warp *warp, const struct ptx_op *op, uint32_t lane,
                                 enum ptx_space space, uint64_t address, uint32_t bytes,
                                 const void *value)
{
  unsigned char *host = NULL;
  enum ptx_step step = PTX_NEXT;
  uint32_t index;
  switch (space) {
  case PTX_GENERIC:
    space = resolve(&address);
    return store_bytes(warp, op, lane, space, address, bytes, value);
  case PTX_GLOBAL:
  case PTX_CONST: step = ptx_global_access(warp, op, lane, address, bytes, bytes, &host); break;
  case PTX_SHARED:
    step = ptx_shared_index(warp, op, lane, address, bytes, bytes, &index);
    return step == PTX_NEXT ? ptx_shared_write(warp, op, lane, index, bytes, is_strong(op), value)
                            : step;
  case PTX_LOCAL: step = local_access(warp, op, lane, address, bytes, &host); break;
  case PTX_PARAM: step = param_access(warp, op, lane, address, bytes, true, &host); break;
  }
  if (step == PTX_NEXT) {
    memcpy(host, value, bytes);
  }
  return step;
}

static enum ptx_space space_of(const struct ptx_op *op)
{
  return (enum ptx_space)op->modifiers->spaces[0];
}

/* Element k of what was loaded, filled up to a register. */
static uint64_t element(const unsigned char *bytes, uint32_t k, const struct ptx_op *op)
{
  uint64_t value = 0;
  memcpy(&value, bytes + k * op->bytes, op->bytes);
  if (ptx_type_is_signed((enum ptx_type)op->type) && op->bytes < 8) {
    const unsigned bits = 8u * op->bytes;
    const int64_t extended = (int64_t)(value << (64 - bits)) >> (64 - bits);
    value = op->register_bits == 64 ? (uint64_t)extended
                                    : (uint64_t)extended & ((UINT64_C(1) << op->register_bits) - 1);
  }
  return value;
}

static enum ptx_step load(struct ptx_warp *warp, const struct ptx_op *op, uint32_t mask)
{
  uint64_t address[PTX_LANES]; /* its register can be among the targets */
  memcpy(address, ptx_read(warp, op->src[0]), sizeof(address));
  const enum ptx_space space = space_of(op);
  const uint32_t bytes = (uint32_t)op->bytes * op->dst_count;
  PTX_EACH_LANE(lane, mask)
  {
    unsigned char value[MAX_ACCESS];
    if (load_bytes(warp, op, lane, space, address[lane] + (uint64_t)op->offset, bytes, value) ==
        PTX_FAULT) {
      return PTX_FAULT;
    }
    for (uint32_t k = 0; k < op->dst_count; k++) {
      ptx_write(warp, op->dst[k])[lane] = element(value, k, op);
    }
  }
  return PTX_NEXT;
}

static enum ptx_step store(struct ptx_warp *warp, const struct ptx_op *op, uint32_t mask)
{
  const uint64_t *address = ptx_read(warp, op->src[0]);
  const enum ptx_space space = space_of(op);
  const uint32_t count = op->src_count - 1u;
  warp->block->stamp++;
  PTX_EACH_LANE(lane, mask)
  {
    unsigned char value[MAX_ACCESS];
    for (uint32_t k = 0; k < count; k++) {
      memcpy(value + k * op->bytes, &ptx_read(warp, op->src[1 + k])[lane], op->bytes);
    }
    if (store_bytes(warp, op, lane, space, address[lane] + (uint64_t)op->offset, op->bytes * count,
                    value) == PTX_FAULT) {
      return PTX_FAULT;
    }
  }
  return PTX_NEXT;
}

/* What ld and st have in common: the operand that is the data. */
static bool decode_access(struct ptx_parser *parser, const struct ptx_statement *s,
                          struct ptx_op *op, const struct ptx_operand **data)
{
  const struct ptx_modifiers *m = &s->modifiers;
  const bool is_load = s->row->opcode != PTX_ST;
  const uint32_t operands = ptx_has(m, PTX_CLASS_POLICY) ? 3 : 2;
  if (m->type_count != 1 || m->types[0] == PTX_PRED || s->operand_count != operands ||
      m->space_count > 1) {
    return false;
  }
  *data = &s->operands[is_load ? 0 : 1];
  const uint32_t count = ptx_has(m, PTX_CLASS_VECTOR) ? (uint32_t)m->value[PTX_CLASS_VECTOR] : 1;
  op->bytes = (uint8_t)(ptx_type_bits((enum ptx_type)op->type) / 8);
  op->cache = parser->module->cache_count++;
  return (*data)->count == count && op->bytes * count <= MAX_ACCESS &&
         (*data)->kind == (count == 1 ? PTX_OPERAND_VALUE : PTX_OPERAND_VECTOR);
}

bool ptx_decode_load(struct ptx_parser *parser, const struct ptx_statement *s, struct ptx_op *op)
{
  const struct ptx_operand *data;
  if (!decode_access(parser, s, op, &data)) {
    return false;
  }
  int32_t dst[4];
  unsigned register_bits = 64;
  for (uint32_t k = 0; k < data->count; k++) {
    dst[k] = ptx_wide_target(parser, &s->values[data->first + k], (enum ptx_type)op->type,
                             &register_bits);
  }
  op->register_bits = (uint8_t)register_bits;
  const int32_t base =
      ptx_address(parser, s, 1, (enum ptx_space)s->modifiers.spaces[0], &op->offset);
  ptx_set_operands(parser, op, dst, data->count, &base, 1);
  op->execute = load;
  return true;
}

bool ptx_decode_store(struct ptx_parser *parser, const struct ptx_statement *s, struct ptx_op *op)
{
  const struct ptx_operand *data;
  if (!decode_access(parser, s, op, &data) || s->modifiers.spaces[0] == PTX_CONST) {
    return false;
  }
  int32_t src[5];
  src[0] = ptx_address(parser, s, 0, (enum ptx_space)s->modifiers.spaces[0], &op->offset);
  for (uint32_t k = 0; k < data->count; k++) {
    src[1 + k] = ptx_wide_source(parser, &s->values[data->first + k], (enum ptx_type)op->type);
  }
  ptx_set_operands(parser, op, NULL, 0, src, 1 + data->count);
  op->execute = store;
  return true;
}

/* ---- atomic operations ---- */

static uint64_t low_bits(uint64_t value, unsigned bits)
{
  return bits >= 64 ? value : value & ((UINT64_C(1) << bits) - 1);
}

static bool less(enum ptx_type type, uint64_t a, uint64_t b)
{
  switch ((int)type) {
  case PTX_S32: return (int32_t)a < (int32_t)b;
  case PTX_S64: return (int64_t)a < (int64_t)b;
  default: return a < b;
  }
}

static uint64_t sum(enum ptx_type type, uint64_t a, uint64_t b)
{
  switch ((int)type) {
  case PTX_F32: return ptx_f32_bits(ptx_f32(a) + ptx_f32(b));
  case PTX_F64: return ptx_f64_bits(ptx_f64(a) + ptx_f64(b));
  default: return low_bits(a + b, ptx_type_bits(type));
  }
}

/* What memory holds after the operation on `old`. */
static uint64_t updated(const struct ptx_op *op, uint64_t old, uint64_t b, uint64_t c)
{
  const enum ptx_type type = (enum ptx_type)op->type;
  switch ((enum ptx_combine)op->modifiers->value[PTX_CLASS_COMBINE]) {
  case PTX_COMBINE_AND: return old & b;
  case PTX_COMBINE_OR: return old | b;
  case PTX_COMBINE_XOR: return old ^ b;
  case PTX_COMBINE_ADD: return sum(type, old, b);
  case PTX_COMBINE_MIN: return less(type, b, old) ? b : old;
  case PTX_COMBINE_MAX: return less(type, old, b) ? b : old;
  case PTX_COMBINE_INC: return old >= b ? 0 : old + 1;
  case PTX_COMBINE_DEC: return old == 0 || old > b ? b : old - 1;
  case PTX_COMBINE_EXCHANGE: return b;
  case PTX_COMBINE_CAS: return old == b ? c : old;
  case PTX_COMBINE_POPC: break;
  }
  return old;
}

static enum ptx_step atom(struct ptx_warp *warp, const struct ptx_op *op, uint32_t mask)
{
  const enum ptx_space space = space_of(op);
  uint64_t address[PTX_LANES], b[PTX_LANES], c[PTX_LANES];
  memcpy(address, ptx_read(warp, op->src[0]), sizeof(address));
  memcpy(b, ptx_read(warp, op->src[1]), sizeof(b));
  memcpy(c, ptx_read(warp, op->src[op->src_count - 1]), sizeof(c));
  PTX_EACH_LANE(lane, mask)
  {
    const uint64_t at = address[lane] + (uint64_t)op->offset;
    uint64_t old = 0;
    if (load_bytes(warp, op, lane, space, at, op->bytes, &old) == PTX_FAULT) {
      return PTX_FAULT;
    }
    const uint64_t next = updated(op, old, low_bits(b[lane], op->bytes * 8u), c[lane]);
    if (store_bytes(warp, op, lane, space, at, op->bytes, &next) == PTX_FAULT) {
      return PTX_FAULT;
    }
    if (op->dst_count > 0) {
      ptx_write(warp, op->dst[0])[lane] = old;
    }
  }
  return PTX_NEXT;
}

bool ptx_decode_atom(struct ptx_parser *parser, const struct ptx_statement *s, struct ptx_op *op)
{
  struct ptx_modifiers *m = ptx_allocate(parser, sizeof(*m));
  *m = s->modifiers;
  m->value[PTX_CLASS_STRONG] = 1; /* whatever order it asks for, it does not race with its like */
  op->modifiers = m;
  const bool returns = s->row->opcode == PTX_ATOM;
  const enum ptx_combine combine = (enum ptx_combine)m->value[PTX_CLASS_COMBINE];
  const uint32_t first = returns ? 1 : 0;
  const uint32_t values = combine == PTX_COMBINE_CAS ? 2 : 1;
  const enum ptx_type type = (enum ptx_type)op->type;
  const unsigned bits = ptx_type_bits(type);
  const bool is_float = type == PTX_F32 || type == PTX_F64;
  if (m->type_count != 1 || !ptx_has(m, PTX_CLASS_COMBINE) || combine == PTX_COMBINE_POPC ||
      s->operand_count != first + 1 + values || bits < 16 ||
      (is_float && combine != PTX_COMBINE_ADD) ||
      (!is_float && bits == 16 && combine != PTX_COMBINE_CAS) || type == PTX_F16 ||
      type == PTX_BF16 || type == PTX_F16X2 || type == PTX_BF16X2 || type == PTX_TF32) {
    return false;
  }
  int32_t dst = 0, src[3];
  if (returns) {
    dst = ptx_target(parser, ptx_only_value(parser, s, 0), type);
  }
  src[0] = ptx_address(parser, s, first, (enum ptx_space)m->spaces[0], &op->offset);
  for (uint32_t k = 0; k < values; k++) {
    src[1 + k] = ptx_source(parser, ptx_only_value(parser, s, first + 1 + k), type);
  }
  ptx_set_operands(parser, op, &dst, returns, src, 1 + values);
  op->bytes = (uint8_t)(bits / 8);
  op->cache = parser->module->cache_count++;
  op->execute = atom;
  return true;
}

/* ---- addresses ---- */

static uint64_t window_of(enum ptx_space space)
{
  return space == PTX_SHARED  ? PTX_WINDOW_SHARED
         : space == PTX_LOCAL ? PTX_WINDOW_LOCAL
         : space == PTX_PARAM ? PTX_WINDOW_PARAM
                              : 0;
}

static enum ptx_step cvta(struct ptx_warp *warp, const struct ptx_op *op, uint32_t mask)
{
  const uint64_t window = window_of(space_of(op));
  const bool to_space = ptx_has(op->modifiers, PTX_CLASS_TO);
  const uint64_t *x = ptx_read(warp, op->src[0]);
  uint64_t *d = ptx_write(warp, op->dst[0]);
  PTX_EACH_LANE(lane, mask)
  {
    if (to_space && window != 0 && (x[lane] & PTX_WINDOW_MASK) != window) {
      return ptx_raise(warp, op, lane, DEVICE_OUT_OF_BOUNDS,
                       "address 0x%llx is not in the state space that it is converted to",
                       (unsigned long long)x[lane]);
    }
    d[lane] = window == 0 ? x[lane] : to_space ? x[lane] & ~window : x[lane] | window;
  }
  return PTX_NEXT;
}

bool ptx_decode_cvta(struct ptx_parser *parser, const struct ptx_statement *s, struct ptx_op *op)
{
  op->execute = cvta;
  return s->modifiers.space_count == 1 && ptx_type_bits((enum ptx_type)op->type) == 64 &&
         ptx_decode_operands(parser, s, op);
}

static enum ptx_step isspacep(struct ptx_warp *warp, const struct ptx_op *op, uint32_t mask)
{
  const uint64_t *x = ptx_read(warp, op->src[0]);
  uint32_t result = 0;
  PTX_EACH_LANE(lane, mask)
  {
    uint64_t address = x[lane];
    result |= (uint32_t)(resolve(&address) == space_of(op)) << lane;
  }
  ptx_set_predicate(warp, op->predicate_out[0], mask, result);
  return PTX_NEXT;
}

bool ptx_decode_isspacep(struct ptx_parser *parser, const struct ptx_statement *s,
                         struct ptx_op *op)
{
  op->execute = isspacep;
  return s->modifiers.space_count == 1 && ptx_decode_operands(parser, s, op);
}
