/* Predicates, comparisons, selection and moves; and the choice of executors for plain arithmetic.
 */
#include <math.h>

#include "tests/device/ptx_build.h"
#include "tests/device/ptx_lanewise.h"

bool ptx_decode_lanewise(struct ptx_parser *parser, const struct ptx_statement *s,
                         struct ptx_op *op)
{
  if (!ptx_decode_operands(parser, s, op)) {
    return false;
  }
  switch ((enum ptx_type)op->type) {
  case PTX_F16:
  case PTX_BF16:
  case PTX_F16X2:
  case PTX_BF16X2: op->execute = ptx_half_executor(s->row->opcode, &s->modifiers); break;
  case PTX_F32:
  case PTX_F64: op->execute = ptx_float_executor(s->row->opcode, &s->modifiers); break;
  case PTX_PRED:
  case PTX_TF32: break;
  case PTX_B8:
  case PTX_U8:
  case PTX_S8:
  case PTX_B16:
  case PTX_U16:
  case PTX_S16:
  case PTX_B32:
  case PTX_U32:
  case PTX_S32:
  case PTX_B64:
  case PTX_U64:
  case PTX_S64: op->execute = ptx_integer_executor(s->row->opcode, &s->modifiers); break;
  }
  return op->execute != NULL;
}

/* ---- bitwise logic, of predicates too ---- */

#define LOAD(x) (x)
#define STORE(x) (x)
PTX_LANEWISE_2(and_bits, uint64_t, LOAD, STORE, a &b)
PTX_LANEWISE_2(or_bits, uint64_t, LOAD, STORE, a | b)
PTX_LANEWISE_2(xor_bits, uint64_t, LOAD, STORE, a ^ b)
PTX_LANEWISE_1(not_16, uint64_t, LOAD, STORE, ~a & 0xffff)
PTX_LANEWISE_1(not_32, uint64_t, LOAD, STORE, ~a & 0xffffffff)
PTX_LANEWISE_1(not_64, uint64_t, LOAD, STORE, ~a)

/* op->src holds a pair for each operand, a predicate or -1 for none, and whether to negate it. */
static uint32_t predicate_source(const struct ptx_warp *warp, const struct ptx_op *op, uint32_t k)
{
  const int32_t index = op->src[2 * k];
  const uint32_t value = index < 0 ? 0 : warp->predicates[index];
  return op->src[2 * k + 1] != 0 ? ~value : value;
}

#define PREDICATE_LOGIC(name, expression)                                                          \
  static enum ptx_step name(struct ptx_warp *warp, const struct ptx_op *op, uint32_t mask)         \
  {                                                                                                \
    const uint32_t a = predicate_source(warp, op, 0);                                              \
    const uint32_t b = op->src_count > 2 ? predicate_source(warp, op, 1) : 0;                      \
    (void)b;                                                                                       \
    ptx_set_predicate(warp, op->predicate_out[0], mask, expression);                               \
    return PTX_NEXT;                                                                               \
  }
PREDICATE_LOGIC(and_predicates, a &b)
PREDICATE_LOGIC(or_predicates, a | b)
PREDICATE_LOGIC(xor_predicates, a ^ b)
PREDICATE_LOGIC(not_predicate, ~a)
PREDICATE_LOGIC(move_predicate, a)

static void predicate_operands(struct ptx_parser *parser, const struct ptx_statement *s,
                               struct ptx_op *op)
{
  int32_t src[2 * PTX_MAX_OPERANDS] = {0};
  op->predicate_out[0] = ptx_predicate(parser, ptx_only_value(parser, s, 0));
  for (uint32_t k = 1; k < s->operand_count; k++) {
    const struct ptx_value *value = ptx_only_value(parser, s, k);
    const bool is_number = value->kind == PTX_VALUE_INTEGER;
    src[2 * k - 2] = is_number ? -1 : ptx_predicate(parser, value);
    src[2 * k - 1] = is_number ? value->bits != 0 : value->negated;
  }
  ptx_set_operands(parser, op, NULL, 0, src, 2 * (s->operand_count - 1));
}

bool ptx_decode_logic(struct ptx_parser *parser, const struct ptx_statement *s, struct ptx_op *op)
{
  const bool predicates = op->type == PTX_PRED;
  if (predicates) {
    if (s->operand_count != (s->row->opcode == PTX_NOT ? 2 : 3)) {
      return false;
    }
    predicate_operands(parser, s, op);
  } else if (!ptx_decode_operands(parser, s, op)) {
    return false;
  }
  switch ((int)s->row->opcode) {
  case PTX_AND: op->execute = predicates ? and_predicates : and_bits; break;
  case PTX_OR: op->execute = predicates ? or_predicates : or_bits; break;
  case PTX_XOR: op->execute = predicates ? xor_predicates : xor_bits; break;
  default: {
    const unsigned bits = ptx_type_bits((enum ptx_type)op->type);
    op->execute = predicates ? not_predicate : bits == 64 ? not_64 : bits == 32 ? not_32 : not_16;
  }
  }
  return true;
}

/* ---- comparisons ---- */

static bool holds(enum ptx_compare compare, bool less, bool equal, bool unordered)
{
  switch (compare) {
  case PTX_EQ: return equal;
  case PTX_NE: return !equal && !unordered;
  case PTX_LT: return less;
  case PTX_LE: return less || equal;
  case PTX_GT: return !less && !equal && !unordered;
  case PTX_GE: return !less && !unordered;
  case PTX_EQU: return equal || unordered;
  case PTX_NEU: return !equal;
  case PTX_LTU: return less || unordered;
  case PTX_LEU: return less || equal || unordered;
  case PTX_GTU: return !less && !equal;
  case PTX_GEU: return !less;
  case PTX_NUM: return !unordered;
  case PTX_UNORDERED: return unordered;
  }
  return false;
}

/* The lanes of the mask where the comparison holds. */
#define COMPARE(name, T, LOAD_T)                                                                   \
  static uint32_t name(const struct ptx_op *op, const uint64_t *x, const uint64_t *y,              \
                       uint32_t mask)                                                              \
  {                                                                                                \
    const enum ptx_compare compare = (enum ptx_compare)op->modifiers->value[PTX_CLASS_COMPARE];    \
    uint32_t result = 0;                                                                           \
    PTX_EACH_LANE(lane, mask)                                                                      \
    {                                                                                              \
      const T a = LOAD_T(x[lane]), b = LOAD_T(y[lane]);                                            \
      result |= (uint32_t)holds(compare, a < b, a == b, a != a || b != b) << lane;                 \
    }                                                                                              \
    return result;                                                                                 \
  }
#define LOAD_s16(x) ((int16_t)(x))
#define LOAD_s32(x) ((int32_t)(x))
#define LOAD_s64(x) ((int64_t)(x))
#define LOAD_ftz(x) ptx_flush(ptx_f32(x))
#define LOAD_f16(x) ptx_to_double(PTX_FLOAT_F16, (x)&0xffff)
#define LOAD_bf16(x) ptx_to_double(PTX_FLOAT_BF16, (x)&0xffff)
COMPARE(compare_unsigned, uint64_t, LOAD) /* registers are filled up with zeros */
COMPARE(compare_s16, int16_t, LOAD_s16)
COMPARE(compare_s32, int32_t, LOAD_s32)
COMPARE(compare_s64, int64_t, LOAD_s64)
COMPARE(compare_f32, float, ptx_f32)
COMPARE(compare_f32_ftz, float, LOAD_ftz)
COMPARE(compare_f64, double, ptx_f64)
COMPARE(compare_f16, double, LOAD_f16)
COMPARE(compare_bf16, double, LOAD_bf16)

static uint32_t compare_lanes(const struct ptx_warp *warp, const struct ptx_op *op, uint32_t mask)
{
  const uint64_t *x = ptx_read(warp, op->src[0]), *y = ptx_read(warp, op->src[1]);
  switch ((enum ptx_type)op->type) {
  case PTX_S16: return compare_s16(op, x, y, mask);
  case PTX_S32: return compare_s32(op, x, y, mask);
  case PTX_S64: return compare_s64(op, x, y, mask);
  case PTX_F32:
    return ptx_has(op->modifiers, PTX_CLASS_FTZ) ? compare_f32_ftz(op, x, y, mask)
                                                 : compare_f32(op, x, y, mask);
  case PTX_F64: return compare_f64(op, x, y, mask);
  case PTX_F16: return compare_f16(op, x, y, mask);
  case PTX_BF16: return compare_bf16(op, x, y, mask);
  case PTX_PRED:
  case PTX_B8:
  case PTX_U8:
  case PTX_S8:
  case PTX_B16:
  case PTX_U16:
  case PTX_B32:
  case PTX_U32:
  case PTX_TF32:
  case PTX_F16X2:
  case PTX_BF16X2:
  case PTX_B64:
  case PTX_U64: break;
  }
  return compare_unsigned(op, x, y, mask);
}

static uint32_t combine(const struct ptx_op *op, uint32_t value, uint32_t with)
{
  if (!ptx_has(op->modifiers, PTX_CLASS_COMBINE)) {
    return value;
  }
  switch (op->modifiers->value[PTX_CLASS_COMBINE]) {
  case PTX_COMBINE_AND: return value & with;
  case PTX_COMBINE_OR: return value | with;
  default: return value ^ with;
  }
}

/* p|q = (a compare b) combined with c: q is what the opposite of the comparison gives. */
static enum ptx_step setp(struct ptx_warp *warp, const struct ptx_op *op, uint32_t mask)
{
  const uint32_t result = compare_lanes(warp, op, mask);
  const uint32_t with =
      op->predicate < 0 ? 0 : ptx_predicate_mask(warp, op->predicate, op->predicate_negated);
  ptx_set_predicate(warp, op->predicate_out[0], mask, combine(op, result, with));
  ptx_set_predicate(warp, op->predicate_out[1], mask, combine(op, ~result, with));
  return PTX_NEXT;
}

bool ptx_decode_setp(struct ptx_parser *parser, const struct ptx_statement *s, struct ptx_op *op)
{
  const struct ptx_modifiers *m = &s->modifiers;
  const bool combines = ptx_has(m, PTX_CLASS_COMBINE);
  if (m->type_count != 1 || !ptx_has(m, PTX_CLASS_COMPARE) ||
      s->operand_count != (combines ? 4 : 3) ||
      (combines && m->value[PTX_CLASS_COMBINE] > PTX_COMBINE_XOR)) {
    return false;
  }
  const enum ptx_type type = (enum ptx_type)op->type;
  const unsigned bits = ptx_type_bits(type);
  if (bits < 16 || type == PTX_F16X2 || type == PTX_BF16X2 || type == PTX_TF32 ||
      (!ptx_type_is_float(type) && m->value[PTX_CLASS_COMPARE] > PTX_GE)) {
    return false;
  }
  op->predicate_out[0] = ptx_predicate(parser, ptx_only_value(parser, s, 0));
  if (s->operands[0].has_second) {
    op->predicate_out[1] = ptx_predicate(parser, &s->operands[0].second);
  }
  const int32_t src[2] = {ptx_source(parser, ptx_only_value(parser, s, 1), type),
                          ptx_source(parser, ptx_only_value(parser, s, 2), type)};
  if (combines) {
    const struct ptx_value *with = ptx_only_value(parser, s, 3);
    op->predicate = ptx_predicate(parser, with);
    op->predicate_negated = with->negated;
  }
  ptx_set_operands(parser, op, NULL, 0, src, 2);
  op->execute = setp;
  return true;
}

static enum ptx_step testp(struct ptx_warp *warp, const struct ptx_op *op, uint32_t mask)
{
  const uint64_t *x = ptx_read(warp, op->src[0]);
  uint32_t result = 0;
  PTX_EACH_LANE(lane, mask)
  {
    const int class =
        op->type == PTX_F64 ? fpclassify(ptx_f64(x[lane])) : fpclassify(ptx_f32(x[lane]));
    bool is = false;
    switch ((enum ptx_property)op->modifiers->value[PTX_CLASS_PROPERTY]) {
    case PTX_IS_FINITE: is = class != FP_INFINITE && class != FP_NAN; break;
    case PTX_IS_INFINITE: is = class == FP_INFINITE; break;
    case PTX_IS_NUMBER: is = class != FP_NAN; break;
    case PTX_IS_NAN: is = class == FP_NAN; break;
    case PTX_IS_NORMAL: is = class == FP_NORMAL; break;
    case PTX_IS_SUBNORMAL: is = class == FP_SUBNORMAL; break;
    }
    result |= (uint32_t)is << lane;
  }
  ptx_set_predicate(warp, op->predicate_out[0], mask, result);
  return PTX_NEXT;
}

bool ptx_decode_testp(struct ptx_parser *parser, const struct ptx_statement *s, struct ptx_op *op)
{
  op->execute = testp;
  return (op->type == PTX_F32 || op->type == PTX_F64) &&
         ptx_has(&s->modifiers, PTX_CLASS_PROPERTY) && ptx_decode_operands(parser, s, op);
}

static enum ptx_step selp(struct ptx_warp *warp, const struct ptx_op *op, uint32_t mask)
{
  const uint64_t *x = ptx_read(warp, op->src[0]), *y = ptx_read(warp, op->src[1]);
  uint64_t *d = ptx_write(warp, op->dst[0]);
  const uint32_t choice = ptx_predicate_mask(warp, op->predicate, op->predicate_negated);
  PTX_EACH_LANE(lane, mask)
  {
    d[lane] = (choice >> lane & 1) != 0 ? x[lane] : y[lane];
  }
  return PTX_NEXT;
}

bool ptx_decode_selp(struct ptx_parser *parser, const struct ptx_statement *s, struct ptx_op *op)
{
  op->execute = selp;
  return ptx_decode_operands(parser, s, op) && op->predicate >= 0;
}

/* ---- moves ---- */

static enum ptx_step move(struct ptx_warp *warp, const struct ptx_op *op, uint32_t mask)
{
  const uint64_t *x = ptx_read(warp, op->src[0]);
  uint64_t *d = ptx_write(warp, op->dst[0]);
  PTX_EACH_LANE(lane, mask)
  {
    d[lane] = x[lane];
  }
  return PTX_NEXT;
}

static enum ptx_step move_clock(struct ptx_warp *warp, const struct ptx_op *op, uint32_t mask)
{
  uint64_t *d = ptx_write(warp, op->dst[0]);
  const uint64_t clock = warp->block->counts->instructions;
  PTX_EACH_LANE(lane, mask)
  {
    d[lane] = ptx_type_bits((enum ptx_type)op->type) == 32 ? (uint32_t)clock : clock;
  }
  return PTX_NEXT;
}

/* Several registers to one of as many times their width, the first lowest; and back. */
static enum ptx_step pack(struct ptx_warp *warp, const struct ptx_op *op, uint32_t mask)
{
  const unsigned bits = ptx_type_bits((enum ptx_type)op->type) / op->src_count;
  uint64_t *d = ptx_write(warp, op->dst[0]);
  uint64_t packed[PTX_LANES] = {0}; /* d can be among the sources */
  for (unsigned k = 0; k < op->src_count; k++) {
    const uint64_t *x = ptx_read(warp, op->src[k]);
    PTX_EACH_LANE(lane, mask)
    {
      packed[lane] |= x[lane] << (k * bits);
    }
  }
  PTX_EACH_LANE(lane, mask)
  {
    d[lane] = packed[lane];
  }
  return PTX_NEXT;
}

static enum ptx_step unpack(struct ptx_warp *warp, const struct ptx_op *op, uint32_t mask)
{
  const unsigned bits = ptx_type_bits((enum ptx_type)op->type) / op->dst_count;
  uint64_t x[PTX_LANES];
  memcpy(x, ptx_read(warp, op->src[0]), sizeof(x));
  for (unsigned k = 0; k < op->dst_count; k++) {
    uint64_t *d = ptx_write(warp, op->dst[k]);
    PTX_EACH_LANE(lane, mask)
    {
      d[lane] = x[lane] >> (k * bits) & ((UINT64_C(1) << bits) - 1);
    }
  }
  return PTX_NEXT;
}

static enum ptx_type part_type(enum ptx_type type, uint32_t parts)
{
  switch (ptx_type_bits(type) / parts) {
  case 32: return PTX_B32;
  case 16: return PTX_B16;
  default: return PTX_B8;
  }
}

bool ptx_decode_mov(struct ptx_parser *parser, const struct ptx_statement *s, struct ptx_op *op)
{
  if (s->operand_count != 2 || s->modifiers.type_count != 1) {
    return false;
  }
  const enum ptx_type type = (enum ptx_type)op->type;
  const struct ptx_operand *to = &s->operands[0], *from = &s->operands[1];
  if (type == PTX_PRED) {
    predicate_operands(parser, s, op);
    op->execute = move_predicate;
    return true;
  }
  if ((to->kind != PTX_OPERAND_VALUE && to->kind != PTX_OPERAND_VECTOR) ||
      (from->kind != PTX_OPERAND_VALUE && from->kind != PTX_OPERAND_VECTOR) || to->count > 4 ||
      from->count > 4 || to->count == 0 || from->count == 0 || (to->count > 1 && from->count > 1)) {
    return false;
  }
  int32_t dst[4], src[4];
  for (uint32_t k = 0; k < to->count; k++) {
    dst[k] = ptx_target(parser, &s->values[to->first + k],
                        to->count == 1 ? type : part_type(type, to->count));
  }
  if (s->values[from->first].kind == PTX_VALUE_CLOCK) {
    ptx_set_operands(parser, op, dst, 1, NULL, 0);
    op->execute = move_clock;
    return true;
  }
  for (uint32_t k = 0; k < from->count; k++) {
    src[k] = ptx_source(parser, &s->values[from->first + k],
                        from->count == 1 ? type : part_type(type, from->count));
  }
  ptx_set_operands(parser, op, dst, to->count, src, from->count);
  op->execute = to->count > 1 ? unpack : from->count > 1 ? pack : move;
  return true;
}
