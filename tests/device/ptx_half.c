/* Arithmetic of f16, bf16 and pairs of them ("Half Precision Floating-Point Instructions" of the
 * PTX ISA).
 *
 * Each element is computed in double and rounded once more: exact for sums and products, and for
 * fused ones of these formats too, as no bit below the 53 of a double can decide a tie of 11 bits.
 */
#include <math.h>

#include "tests/device/ptx_lanewise.h"

struct element {
  enum ptx_float format;
  bool ftz, sat, relu, nan;
};

static double load(const struct element *e, uint64_t bits)
{
  const double value = ptx_to_double(e->format, bits & 0xffff);
  return e->ftz && fabs(value) < 0x1p-14 ? copysign(0, value) : value;
}

static uint64_t store(const struct element *e, double value)
{
  if (e->sat) {
    value = value >= 1 ? 1 : value > 0 ? value : 0;
  }
  if (e->relu && value < 0) {
    value = 0;
  }
  const uint64_t bits = ptx_from_double(e->format, value, PTX_ROUND_NEAREST);
  const bool is_subnormal = e->format == PTX_FLOAT_F16 && (bits & 0x7c00) == 0;
  return e->ftz && is_subnormal ? bits & 0x8000 : bits;
}

static double smaller(const struct element *e, double a, double b)
{
  if (a != a || b != b) { /* the number, or NaN where that is asked for */
    return e->nan ? (double)NAN : a != a ? b : a;
  }
  return a == b ? (signbit(a) != 0 ? a : b) : a < b ? a : b;
}

static double compute(const struct element *e, enum ptx_opcode opcode, double a, double b, double c)
{
  switch ((int)opcode) {
  case PTX_ADD: return a + b;
  case PTX_SUB: return a - b;
  case PTX_MUL: return a * b;
  case PTX_FMA: return fma(a, b, c);
  case PTX_MIN: return smaller(e, a, b);
  case PTX_MAX: return -smaller(e, -a, -b);
  case PTX_EX2: return exp2(a);
  case PTX_TANH: return tanh(a);
  default: return (double)NAN;
  }
}

static struct element element_of(const struct ptx_op *op)
{
  const bool is_bf16 = op->type == PTX_BF16 || op->type == PTX_BF16X2;
  return (struct element){
      .format = is_bf16 ? PTX_FLOAT_BF16 : PTX_FLOAT_F16,
      .ftz = !is_bf16 && ptx_has(op->modifiers, PTX_CLASS_FTZ),
      .sat = ptx_has(op->modifiers, PTX_CLASS_SAT),
      .relu = ptx_has(op->modifiers, PTX_CLASS_RELU),
      .nan = ptx_has(op->modifiers, PTX_CLASS_NAN),
  };
}

static enum ptx_step execute(struct ptx_warp *warp, const struct ptx_op *op, uint32_t mask,
                             enum ptx_opcode opcode)
{
  const struct element e = element_of(op);
  const unsigned elements = ptx_type_bits((enum ptx_type)op->type) / 16;
  const uint64_t *x = ptx_read(warp, op->src[0]);
  const uint64_t *y = op->src_count > 1 ? ptx_read(warp, op->src[1]) : x;
  const uint64_t *z = op->src_count > 2 ? ptx_read(warp, op->src[2]) : x;
  uint64_t *d = ptx_write(warp, op->dst[0]);
  PTX_EACH_LANE(lane, mask)
  {
    uint64_t result = 0;
    for (unsigned k = 0; k < elements; k++) {
      const double value = compute(&e, opcode, load(&e, x[lane] >> (16 * k)),
                                   load(&e, y[lane] >> (16 * k)), load(&e, z[lane] >> (16 * k)));
      result |= store(&e, value) << (16 * k);
    }
    d[lane] = result;
  }
  return PTX_NEXT;
}

#define HALF(name, OPCODE)                                                                         \
  static enum ptx_step name(struct ptx_warp *warp, const struct ptx_op *op, uint32_t mask)         \
  {                                                                                                \
    return execute(warp, op, mask, PTX_##OPCODE);                                                  \
  }
HALF(add, ADD)
HALF(sub, SUB)
HALF(mul, MUL)
HALF(fused, FMA)
HALF(min, MIN)
HALF(max, MAX)
HALF(ex2, EX2)
HALF(tangent, TANH)

/* Signs are bits. */
#define LOAD(x) (x)
#define STORE(x) (x)
PTX_LANEWISE_1(neg, uint64_t, LOAD, STORE, a ^ 0x8000)
PTX_LANEWISE_1(neg_pair, uint64_t, LOAD, STORE, a ^ 0x80008000)
PTX_LANEWISE_1(absolute, uint64_t, LOAD, STORE, a & 0x7fff)
PTX_LANEWISE_1(absolute_pair, uint64_t, LOAD, STORE, a & 0x7fff7fff)

ptx_executor *ptx_half_executor(enum ptx_opcode opcode, const struct ptx_modifiers *m)
{
  static const struct {
    enum ptx_opcode opcode;
    ptx_executor *single, *pair;
  } rows[] = {
      {PTX_ADD, add, add},      {PTX_SUB, sub, sub},
      {PTX_MUL, mul, mul},      {PTX_FMA, fused, fused},
      {PTX_MIN, min, min},      {PTX_MAX, max, max},
      {PTX_EX2, ex2, ex2},      {PTX_TANH, tangent, tangent},
      {PTX_NEG, neg, neg_pair}, {PTX_ABS, absolute, absolute_pair},
  };
  for (size_t k = 0; k < sizeof(rows) / sizeof(rows[0]); k++) {
    if (rows[k].opcode == opcode) {
      return ptx_type_bits((enum ptx_type)m->types[0]) == 32 ? rows[k].pair : rows[k].single;
    }
  }
  return NULL;
}
