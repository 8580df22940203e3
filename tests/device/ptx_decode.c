/* From statements to instructions: the table of instructions, and what decode functions share. */
#include "tests/device/ptx_build.h"
#include "tests/device/ptx_machine.h"

enum { ROW_COUNT = PTX_OPCODE_COUNT };

/* Classes as the table names them. */
#define TYPE UINT64_C(1) << PTX_CLASS_TYPE
#define ROUND UINT64_C(1) << PTX_CLASS_ROUND
#define INTEGRAL UINT64_C(1) << PTX_CLASS_INTEGRAL
#define APPROXIMATE UINT64_C(1) << PTX_CLASS_APPROXIMATE
#define FTZ UINT64_C(1) << PTX_CLASS_FTZ
#define SAT UINT64_C(1) << PTX_CLASS_SAT
#define RELU UINT64_C(1) << PTX_CLASS_RELU
#define NAN UINT64_C(1) << PTX_CLASS_NAN
#define CARRY UINT64_C(1) << PTX_CLASS_CARRY
#define COMPARE UINT64_C(1) << PTX_CLASS_COMPARE
#define COMBINE UINT64_C(1) << PTX_CLASS_COMBINE
#define PROPERTY UINT64_C(1) << PTX_CLASS_PROPERTY
#define PERMUTE UINT64_C(1) << PTX_CLASS_PERMUTE
#define CLAMP UINT64_C(1) << PTX_CLASS_CLAMP
#define SPACE UINT64_C(1) << PTX_CLASS_SPACE
#define TO UINT64_C(1) << PTX_CLASS_TO
#define VECTOR UINT64_C(1) << PTX_CLASS_VECTOR
#define STRONG UINT64_C(1) << PTX_CLASS_STRONG
#define SCOPE UINT64_C(1) << PTX_CLASS_SCOPE
#define CACHE UINT64_C(1) << PTX_CLASS_CACHE
#define HINT UINT64_C(1) << PTX_CLASS_HINT
#define POLICY UINT64_C(1) << PTX_CLASS_POLICY
#define NOFTZ UINT64_C(1) << PTX_CLASS_NOFTZ
#define UNIFORM UINT64_C(1) << PTX_CLASS_UNIFORM
#define ALIGNED UINT64_C(1) << PTX_CLASS_ALIGNED
#define SHUFFLE UINT64_C(1) << PTX_CLASS_SHUFFLE
#define VOTE UINT64_C(1) << PTX_CLASS_VOTE
#define SHAPE UINT64_C(1) << PTX_CLASS_SHAPE
#define MATRICES UINT64_C(1) << PTX_CLASS_MATRICES
#define TRANSPOSE UINT64_C(1) << PTX_CLASS_TRANSPOSE
#define LAYOUT UINT64_C(1) << PTX_CLASS_LAYOUT

static const struct ptx_opcode_row rows[ROW_COUNT] = {
#define PTX_OPCODE(name, text, decode, operands, classes)                                          \
  {PTX_##name, text, sizeof(text) - 1, ptx_decode_##decode, operands, classes},
#include "tests/device/ptx_opcodes.def"
};

const struct ptx_opcode_row *ptx_find_opcode(const char *word, uint32_t length, const char **rest)
{
  const struct ptx_opcode_row *best = NULL;
  for (uint32_t k = 0; k < ROW_COUNT; k++) {
    const struct ptx_opcode_row *row = &rows[k];
    if (row->length <= length && (best == NULL || row->length > best->length) &&
        row->text[0] == word[0] && memcmp(row->text, word, row->length) == 0 &&
        (row->length == length || word[row->length] == '.')) {
      best = row;
    }
  }
  *rest = word + (best == NULL ? 0 : best->length);
  return best;
}

/* ---- operands ---- */

int32_t ptx_new_register(struct ptx_parser *parser)
{
  return (int32_t)parser->function->register_count++;
}

int32_t ptx_constant(struct ptx_parser *parser, uint64_t bits)
{
  for (uint32_t k = parser->constant_count; k-- > 0;) {
    if (parser->constants[k] == bits) {
      return ~(int32_t)k;
    }
  }
  parser->constants = ptx_grow(parser, parser->constants, parser->constant_count,
                               &parser->constant_capacity, sizeof(*parser->constants));
  parser->constants[parser->constant_count] = bits;
  return ~(int32_t)parser->constant_count++;
}

static void check_width(struct ptx_parser *parser, const struct ptx_value *value,
                        enum ptx_type type)
{
  if (!value->any_width && ptx_type_bits(value->type) != ptx_type_bits(type)) {
    ptx_fail(parser, parser->statement->line, "%.*s has %u bits where %u are needed",
             (int)value->length, value->text, ptx_type_bits(value->type), ptx_type_bits(type));
  }
}

/* The bits of a number as an operand of the type. */
static uint64_t literal_bits(struct ptx_parser *parser, const struct ptx_value *value,
                             enum ptx_type type)
{
  const unsigned bits = ptx_type_bits(type);
  uint64_t result = value->bits;
  if (value->kind == PTX_VALUE_FLOAT64 && bits == 32) {
    result = ptx_from_double(PTX_FLOAT_F32, ptx_f64(result), PTX_ROUND_NEAREST);
  } else if (value->kind == PTX_VALUE_FLOAT32 && type == PTX_F64) {
    result = ptx_f64_bits((double)ptx_f32(result));
  } else if (value->kind == PTX_VALUE_INTEGER && ptx_type_is_float(type) && bits >= 32) {
    ptx_fail(parser, parser->statement->line, "an integer where a .f%u number is needed", bits);
  }
  return bits >= 64 ? result : result & ((UINT64_C(1) << bits) - 1);
}

int32_t ptx_source(struct ptx_parser *parser, const struct ptx_value *value, enum ptx_type type)
{
  switch (value->kind) {
  case PTX_VALUE_REGISTER: check_width(parser, value, type); return value->index;
  case PTX_VALUE_INTEGER:
  case PTX_VALUE_FLOAT32:
  case PTX_VALUE_FLOAT64: return ptx_constant(parser, literal_bits(parser, value, type));
  case PTX_VALUE_VARIABLE:
    if (ptx_type_bits(type) < 64 && value->symbol->address + value->bits > UINT32_MAX) {
      ptx_fail(parser, parser->statement->line, "the address of %.*s does not fit %u bits",
               (int)value->length, value->text, ptx_type_bits(type));
    }
    return ptx_constant(parser, value->symbol->address + value->bits);
  case PTX_VALUE_PREDICATE:
  case PTX_VALUE_NAME:
  case PTX_VALUE_CLOCK:
  case PTX_VALUE_SINK: break;
  }
  ptx_fail(parser, parser->statement->line, "'%.*s' is not a register or number",
           (int)value->length, value->text);
}

int32_t ptx_target(struct ptx_parser *parser, const struct ptx_value *value, enum ptx_type type)
{
  if (value->kind == PTX_VALUE_SINK) {
    return ptx_new_register(parser);
  }
  if (value->kind != PTX_VALUE_REGISTER || value->any_width) {
    ptx_fail(parser, parser->statement->line, "'%.*s' is not a register to write to",
             (int)value->length, value->text);
  }
  check_width(parser, value, type);
  return value->index;
}

static enum ptx_type at_least(const struct ptx_value *value, enum ptx_type type)
{
  const bool wider =
      value->kind == PTX_VALUE_REGISTER && ptx_type_bits(value->type) > ptx_type_bits(type);
  return wider ? value->type : type;
}

int32_t ptx_wide_source(struct ptx_parser *parser, const struct ptx_value *value,
                        enum ptx_type type)
{
  return ptx_source(parser, value, at_least(value, type));
}

int32_t ptx_wide_target(struct ptx_parser *parser, const struct ptx_value *value,
                        enum ptx_type type, unsigned *register_bits)
{
  *register_bits = value->kind == PTX_VALUE_REGISTER ? ptx_type_bits(value->type) : 64;
  return ptx_target(parser, value, at_least(value, type));
}

int32_t ptx_predicate(struct ptx_parser *parser, const struct ptx_value *value)
{
  if (value->kind == PTX_VALUE_SINK) {
    return -1;
  }
  if (value->kind != PTX_VALUE_PREDICATE) {
    ptx_fail(parser, parser->statement->line, "'%.*s' is not a predicate", (int)value->length,
             value->text);
  }
  return value->index;
}

const struct ptx_value *ptx_only_value(struct ptx_parser *parser, const struct ptx_statement *s,
                                       uint32_t operand)
{
  if (operand >= s->operand_count || s->operands[operand].kind != PTX_OPERAND_VALUE) {
    ptx_fail(parser, s->line, "operand %u is missing or of another form", operand + 1);
  }
  return &s->values[s->operands[operand].first];
}

bool ptx_immediate(const struct ptx_statement *s, uint32_t operand, int64_t *value)
{
  if (operand >= s->operand_count || s->operands[operand].kind != PTX_OPERAND_VALUE ||
      s->values[s->operands[operand].first].kind != PTX_VALUE_INTEGER) {
    return false;
  }
  *value = (int64_t)s->values[s->operands[operand].first].bits;
  return true;
}

int32_t ptx_address(struct ptx_parser *parser, const struct ptx_statement *s, uint32_t operand,
                    enum ptx_space space, int64_t *offset)
{
  if (operand >= s->operand_count || s->operands[operand].kind != PTX_OPERAND_ADDRESS) {
    ptx_fail(parser, s->line, "operand %u is not an address", operand + 1);
  }
  const struct ptx_value *base = &s->values[s->operands[operand].first];
  *offset = s->operands[operand].offset;
  if (base->kind == PTX_VALUE_REGISTER && !base->any_width) {
    const unsigned bits = ptx_type_bits(base->type);
    if (bits != 64 && (bits != 32 || space == PTX_GLOBAL || space == PTX_GENERIC)) {
      ptx_fail(parser, s->line, "%.*s has %u bits: too few for an address", (int)base->length,
               base->text, bits);
    }
    return base->index;
  }
  if (base->kind == PTX_VALUE_VARIABLE && space != PTX_GENERIC && base->symbol->space != space) {
    ptx_fail(parser, s->line, "%.*s is in another state space", (int)base->length, base->text);
  }
  return ptx_source(parser, base, PTX_B64);
}

void ptx_set_operands(struct ptx_parser *parser, struct ptx_op *op, const int32_t *dst,
                      uint32_t dst_count, const int32_t *src, uint32_t src_count)
{
  int32_t *copy = ptx_allocate(parser, (dst_count + src_count) * sizeof(*copy));
  for (uint32_t i = 0; i < dst_count; i++) {
    copy[i] = dst[i];
  }
  for (uint32_t i = 0; i < src_count; i++) {
    copy[dst_count + i] = src[i];
  }
  op->dst = copy;
  op->src = copy + dst_count;
  op->dst_count = (uint8_t)dst_count;
  op->src_count = (uint8_t)src_count;
}

static enum ptx_type doubled(enum ptx_type type)
{
  switch (ptx_type_bits(type)) {
  case 16: return PTX_B32;
  case 32: return PTX_B64;
  default: return type;
  }
}

bool ptx_decode_operands(struct ptx_parser *parser, const struct ptx_statement *s,
                         struct ptx_op *op)
{
  const char *letters = s->row->operands;
  int32_t dst[2], src[4];
  uint32_t dst_count = 0, src_count = 0, operand = 0;
  bool is_source = false;
  const enum ptx_type type =
      s->modifiers.type_count > 0 ? (enum ptx_type)s->modifiers.types[0] : PTX_B32;
  if (s->operand_count != strlen(letters) - 1) {
    ptx_fail(parser, s->line, "%u operands, where %s has %zu", s->operand_count, s->row->text,
             strlen(letters) - 1);
  }
  for (; *letters != '\0'; letters++) {
    if (*letters == '=') {
      is_source = true;
      continue;
    }
    const struct ptx_value *value = ptx_only_value(parser, s, operand++);
    if (*letters == 'p') {
      *(is_source ? &op->predicate : &op->predicate_out[0]) = ptx_predicate(parser, value);
      op->predicate_negated = is_source && value->negated;
      continue;
    }
    const enum ptx_type wanted = *letters == 'w'   ? doubled(type)
                                 : *letters == 'i' ? PTX_B32
                                 : *letters == 'u' && ptx_type_bits(value->type) == 32 ? PTX_B32
                                 : *letters == 'u'                                     ? PTX_B64
                                                                                       : type;
    if (wanted == PTX_PRED) {
      return false;
    }
    if (is_source) {
      src[src_count++] = ptx_source(parser, value, wanted);
    } else {
      dst[dst_count++] = ptx_target(parser, value, wanted);
    }
  }
  ptx_set_operands(parser, op, dst, dst_count, src, src_count);
  return true;
}

/* ---- instructions ---- */

static enum ptx_step execute_unknown(struct ptx_warp *warp, const struct ptx_op *op, uint32_t mask)
{
  return ptx_raise(warp, op, (uint32_t)__builtin_ctz(mask), DEVICE_UNSUPPORTED,
                   "the interpreter does not know this instruction");
}

bool ptx_decode_unknown(struct ptx_parser *parser, const struct ptx_statement *statement,
                        struct ptx_op *op)
{
  (void)parser;
  (void)statement;
  (void)op;
  return false;
}

void ptx_decode(struct ptx_parser *parser, const struct ptx_statement *s, struct ptx_op *op)
{
  parser->statement = s;
  op->text = s->text;
  op->text_length = s->length;
  op->line = s->line;
  op->opcode = s->row != NULL ? (uint8_t)s->row->opcode : PTX_OPCODE_COUNT;
  op->guard = s->has_guard ? s->guard.index : -1;
  op->guard_negated = s->has_guard && s->guard.negated;
  op->predicate = op->predicate_out[0] = op->predicate_out[1] = -1;
  struct ptx_modifiers *modifiers = ptx_allocate(parser, sizeof(*modifiers));
  *modifiers = s->modifiers;
  op->modifiers = modifiers;
  op->type = modifiers->types[0];
  const bool needs_type = s->row != NULL && strchr(s->row->operands, 't') != NULL;
  if (s->row == NULL || (needs_type && modifiers->type_count == 0) ||
      !s->row->decode(parser, s, op)) {
    op->execute = execute_unknown;
    op->opcode = PTX_OPCODE_COUNT;
  }
}
