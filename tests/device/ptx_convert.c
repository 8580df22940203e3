/* cvt: every pair of types through exact numbers, with short cuts for the common ones ("cvt" of the
 * PTX ISA). */
#include <math.h>

#include "tests/device/ptx_build.h"
#include "tests/device/ptx_machine.h"

struct conversion {
  enum ptx_type to, from;
  enum ptx_rounding rounding;
  bool integral; /* to an integer, or to a float without fraction */
  bool ftz, sat, relu;
};

static enum ptx_float float_format(enum ptx_type type)
{
  switch ((int)type) {
  case PTX_F16:
  case PTX_F16X2: return PTX_FLOAT_F16;
  case PTX_BF16:
  case PTX_BF16X2: return PTX_FLOAT_BF16;
  case PTX_TF32: return PTX_FLOAT_TF32;
  case PTX_F32: return PTX_FLOAT_F32;
  default: return PTX_FLOAT_F64;
  }
}

static uint64_t low_bits(uint64_t value, unsigned bits)
{
  return bits >= 64 ? value : value & ((UINT64_C(1) << bits) - 1);
}

static int64_t sign_extended(uint64_t value, unsigned bits)
{
  return (int64_t)(value << (64 - bits)) >> (64 - bits);
}

static uint64_t integer_to_integer(const struct conversion *c, uint64_t x)
{
  const unsigned from = ptx_type_bits(c->from), to = ptx_type_bits(c->to);
  const bool negative = ptx_type_is_signed(c->from) && (x >> (from - 1) & 1) != 0;
  const uint64_t value = negative ? (uint64_t)sign_extended(x, from) : low_bits(x, from);
  if (!c->sat) {
    return low_bits(value, to);
  }
  return ptx_real_to_integer(ptx_real_integer(negative ? 0 - value : value, negative),
                             PTX_ROUND_ZERO, to, ptx_type_is_signed(c->to));
}

static uint64_t integer_to_float(const struct conversion *c, uint64_t x)
{
  const unsigned from = ptx_type_bits(c->from);
  const bool negative = ptx_type_is_signed(c->from) && (x >> (from - 1) & 1) != 0;
  const uint64_t value = negative ? 0 - (uint64_t)sign_extended(x, from) : low_bits(x, from);
  const uint64_t bits =
      ptx_pack(float_format(c->to), ptx_real_integer(value, negative), c->rounding);
  const uint64_t one = ptx_pack(float_format(c->to), ptx_real_integer(1, false), PTX_ROUND_NEAREST);
  return c->sat && negative ? 0 : c->sat && value > 0 ? one : bits;
}

/* The value with a fraction of zero; finite values only. */
static struct ptx_real rounded_to_integral(struct ptx_real value, enum ptx_rounding rounding)
{
  if (value.exponent >= 0) {
    return value;
  }
  const bool negative = value.negative;
  value.negative = false;
  /* As directed roundings of the magnitude: */
  if (negative && rounding == PTX_ROUND_DOWN) {
    rounding = PTX_ROUND_UP;
  } else if (negative && rounding == PTX_ROUND_UP) {
    rounding = PTX_ROUND_DOWN;
  }
  return ptx_real_integer(ptx_real_to_integer(value, rounding, 64, false), negative);
}

static struct ptx_real source_float(const struct conversion *c, uint64_t x)
{
  struct ptx_real value = ptx_unpack(float_format(c->from), low_bits(x, ptx_type_bits(c->from)));
  if (c->ftz && c->from == PTX_F32 && fabsf(ptx_f32(x)) < 0x1p-126f) {
    value.mantissa = 0;
  }
  return value;
}

static uint64_t float_to_integer(const struct conversion *c, uint64_t x)
{
  const struct ptx_real value = source_float(c, x);
  const unsigned bits = ptx_type_bits(c->to);
  if (value.kind == PTX_REAL_NAN) { /* as the note on NaN of cvt says */
    return bits == 64 || c->from == PTX_F64 ? UINT64_C(1) << (bits - 1) : 0;
  }
  return ptx_real_to_integer(value, c->rounding, bits, ptx_type_is_signed(c->to));
}

static uint64_t float_to_float(const struct conversion *c, uint64_t x)
{
  struct ptx_real value = source_float(c, x);
  const enum ptx_float format = float_format(c->to);
  if (c->sat || c->relu) {
    const bool drop =
        (value.kind == PTX_REAL_NAN && c->sat) || (value.kind != PTX_REAL_NAN && value.negative);
    if (drop) {
      return 0;
    }
  }
  if (c->integral && value.kind == PTX_REAL_FINITE) {
    value = rounded_to_integral(value, c->rounding);
  }
  uint64_t bits = ptx_pack(format, value, c->integral ? PTX_ROUND_NEAREST : c->rounding);
  if (c->sat) {
    const uint64_t one = ptx_pack(format, ptx_real_integer(1, false), PTX_ROUND_NEAREST);
    bits = bits > one ? one : bits;
  }
  if (c->ftz && c->to == PTX_F32) {
    bits = ptx_f32_bits(ptx_flush(ptx_f32(bits)));
  }
  return bits;
}

static uint64_t convert(const struct conversion *c, uint64_t x)
{
  const bool from_float = ptx_type_is_float(c->from);
  const bool to_float = ptx_type_is_float(c->to) || c->to == PTX_F16X2 || c->to == PTX_BF16X2;
  return from_float ? (to_float ? float_to_float(c, x) : float_to_integer(c, x))
                    : (to_float ? integer_to_float(c, x) : integer_to_integer(c, x));
}

static struct conversion conversion_of(const struct ptx_modifiers *m)
{
  const bool integral = ptx_has(m, PTX_CLASS_INTEGRAL);
  return (struct conversion){
      .to = (enum ptx_type)m->types[0],
      .from = (enum ptx_type)m->types[1],
      .rounding = integral                      ? (enum ptx_rounding)m->value[PTX_CLASS_INTEGRAL]
                  : ptx_has(m, PTX_CLASS_ROUND) ? (enum ptx_rounding)m->value[PTX_CLASS_ROUND]
                                                : PTX_ROUND_NEAREST,
      .integral = integral,
      .ftz = ptx_has(m, PTX_CLASS_FTZ),
      .sat = ptx_has(m, PTX_CLASS_SAT),
      .relu = ptx_has(m, PTX_CLASS_RELU),
  };
}

static enum ptx_step cvt(struct ptx_warp *warp, const struct ptx_op *op, uint32_t mask)
{
  const struct conversion c = conversion_of(op->modifiers);
  const uint64_t *x = ptx_read(warp, op->src[0]);
  uint64_t *d = ptx_write(warp, op->dst[0]);
  const unsigned bits = ptx_type_bits(c.to);
  const bool extend = ptx_type_is_signed(c.to) && bits < op->bytes * 8u;
  PTX_EACH_LANE(lane, mask)
  {
    const uint64_t result = convert(&c, x[lane]);
    d[lane] = extend ? low_bits((uint64_t)sign_extended(result, bits), op->bytes * 8u) : result;
  }
  return PTX_NEXT;
}

static enum ptx_step cvt_pair(struct ptx_warp *warp, const struct ptx_op *op, uint32_t mask)
{
  const struct conversion c = conversion_of(op->modifiers);
  const uint64_t *high = ptx_read(warp, op->src[0]), *low = ptx_read(warp, op->src[1]);
  uint64_t *d = ptx_write(warp, op->dst[0]);
  PTX_EACH_LANE(lane, mask)
  {
    d[lane] = convert(&c, high[lane]) << 16 | convert(&c, low[lane]);
  }
  return PTX_NEXT;
}

/* ---- short cuts ---- */

static bool is_finite_f32(uint32_t bits)
{
  return (bits & 0x7f800000) != 0x7f800000;
}

static enum ptx_step f32_to_tf32(struct ptx_warp *warp, const struct ptx_op *op, uint32_t mask)
{
  const uint64_t *x = ptx_read(warp, op->src[0]);
  uint64_t *d = ptx_write(warp, op->dst[0]);
  PTX_EACH_LANE(lane, mask)
  {
    const uint32_t bits = (uint32_t)x[lane];
    d[lane] = is_finite_f32(bits)      ? (bits + 0x1000) & ~UINT32_C(0x1fff)
              : (bits & 0x7fffff) == 0 ? bits
                                       : ptx_nan(PTX_FLOAT_TF32);
  }
  return PTX_NEXT;
}

static uint64_t bf16_of(uint64_t x)
{
  const uint32_t bits = (uint32_t)x;
  return is_finite_f32(bits)      ? (bits + 0x7fff + (bits >> 16 & 1)) >> 16
         : (bits & 0x7fffff) == 0 ? bits >> 16
                                  : ptx_nan(PTX_FLOAT_BF16);
}

static enum ptx_step f32_to_bf16(struct ptx_warp *warp, const struct ptx_op *op, uint32_t mask)
{
  const uint64_t *x = ptx_read(warp, op->src[0]);
  uint64_t *d = ptx_write(warp, op->dst[0]);
  PTX_EACH_LANE(lane, mask)
  {
    d[lane] = bf16_of(x[lane]);
  }
  return PTX_NEXT;
}

static enum ptx_step f32_to_bf16_pair(struct ptx_warp *warp, const struct ptx_op *op, uint32_t mask)
{
  const uint64_t *high = ptx_read(warp, op->src[0]), *low = ptx_read(warp, op->src[1]);
  uint64_t *d = ptx_write(warp, op->dst[0]);
  PTX_EACH_LANE(lane, mask)
  {
    d[lane] = bf16_of(high[lane]) << 16 | bf16_of(low[lane]);
  }
  return PTX_NEXT;
}

static enum ptx_step zero_extend(struct ptx_warp *warp, const struct ptx_op *op, uint32_t mask)
{
  const uint64_t *x = ptx_read(warp, op->src[0]);
  uint64_t *d = ptx_write(warp, op->dst[0]);
  const unsigned from = ptx_type_bits((enum ptx_type)op->modifiers->types[1]);
  const unsigned to = ptx_type_bits((enum ptx_type)op->modifiers->types[0]);
  const uint64_t kept = low_bits(UINT64_MAX, from < to ? from : to);
  PTX_EACH_LANE(lane, mask)
  {
    d[lane] = x[lane] & kept;
  }
  return PTX_NEXT;
}

static ptx_executor *short_cut(const struct conversion *c, bool pair)
{
  if (c->sat || c->relu || c->ftz) {
    return NULL;
  }
  if (pair) {
    return c->to == PTX_BF16X2 && c->rounding == PTX_ROUND_NEAREST ? f32_to_bf16_pair : NULL;
  }
  if (c->from == PTX_F32 && c->to == PTX_TF32 && c->rounding == PTX_ROUND_AWAY) {
    return f32_to_tf32;
  }
  if (c->from == PTX_F32 && c->to == PTX_BF16 && c->rounding == PTX_ROUND_NEAREST) {
    return f32_to_bf16;
  }
  return !ptx_type_is_float(c->to) && !ptx_type_is_float(c->from) && !ptx_type_is_signed(c->from) &&
                 !ptx_type_is_signed(c->to)
             ? zero_extend
             : NULL;
}

/* Between which of its types cvt converts. */
static bool is_known(const struct ptx_modifiers *m, bool pair)
{
  if (m->type_count != 2) {
    return false;
  }
  const enum ptx_type to = (enum ptx_type)m->types[0], from = (enum ptx_type)m->types[1];
  if (pair) {
    return (to == PTX_F16X2 || to == PTX_BF16X2) && from == PTX_F32;
  }
  if (to == PTX_TF32) {
    return from == PTX_F32 && ptx_has(m, PTX_CLASS_ROUND);
  }
  const bool both_float = ptx_type_is_float(to) && ptx_type_is_float(from);
  const bool needs_integral = ptx_type_is_float(from) && !ptx_type_is_float(to);
  const bool narrows = both_float && ptx_type_bits(to) < ptx_type_bits(from);
  const bool needs_rounding = narrows || (ptx_type_is_float(to) && !ptx_type_is_float(from));
  return ptx_type_bits(to) >= 8 && ptx_type_bits(from) >= 8 && from != PTX_TF32 &&
         from != PTX_F16X2 && from != PTX_BF16X2 && to != PTX_F16X2 && to != PTX_BF16X2 &&
         (!needs_integral || ptx_has(m, PTX_CLASS_INTEGRAL)) &&
         (!needs_rounding || ptx_has(m, PTX_CLASS_ROUND));
}

bool ptx_decode_cvt(struct ptx_parser *parser, const struct ptx_statement *s, struct ptx_op *op)
{
  const bool pair = s->operand_count == 3;
  if ((s->operand_count != 2 && !pair) || !is_known(&s->modifiers, pair)) {
    return false;
  }
  const struct conversion c = conversion_of(&s->modifiers);
  unsigned register_bits;
  const int32_t dst = ptx_wide_target(parser, ptx_only_value(parser, s, 0), c.to, &register_bits);
  int32_t src[2] = {ptx_wide_source(parser, ptx_only_value(parser, s, 1), c.from), 0};
  if (pair) {
    src[1] = ptx_source(parser, ptx_only_value(parser, s, 2), c.from);
  }
  ptx_set_operands(parser, op, &dst, 1, src, pair ? 2 : 1);
  op->bytes = (uint8_t)(register_bits / 8);
  ptx_executor *quick = short_cut(&c, pair);
  op->execute = quick != NULL ? quick : pair ? cvt_pair : cvt;
  return true;
}
