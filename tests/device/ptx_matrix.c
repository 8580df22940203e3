/* ldmatrix and mma.sync ("Warp-Level Matrix Instructions" of the PTX ISA).
 *
 * Every register of a fragment holds the same number of elements, e: 4, 2 or 1 of 8, 16 or 32 bits.
 * In all shapes here, with g = lane / 4 and t = lane % 4, element i of register r of A is A[g + 8
 * (r % 2)][4 e (r / 2) + e t + i], register r of B is B[4 e r + e t + i][g], C and D are [g + 8 (j
 * / 2)][2 t + j % 2] for j = 0..3.
 *
 * Arithmetic of A100, after Fasi, Higham, Mikaitis, Pranesh, "Numerical behavior of NVIDIA tensor
 * cores", 2021: products are exact; those of 4 e values of k are added to the accumulator at once
 * and the sum is truncated to f32. The sum itself is taken in double here, while hardware drops
 * bits that are far below the largest term. */
#include <math.h>

#include "tests/device/ptx_build.h"
#include "tests/device/ptx_machine.h"

enum { ROWS = 16, COLUMNS = 8, MAX_K = 32 };

/* ---- ldmatrix ---- */

static enum ptx_step ldmatrix(struct ptx_warp *warp, const struct ptx_op *op, uint32_t mask)
{
  if (ptx_require(warp, op, mask, UINT32_MAX) == PTX_FAULT) {
    return PTX_FAULT;
  }
  const bool transpose = ptx_has(op->modifiers, PTX_CLASS_TRANSPOSE);
  const uint64_t *address = ptx_read(warp, op->src[0]);
  uint16_t matrices[4][8][8];
  for (uint32_t lane = 0; lane < 8u * op->dst_count; lane++) {
    uint32_t index;
    if (ptx_shared_index(warp, op, lane, address[lane] + (uint64_t)op->offset, 16, 16, &index) ==
            PTX_FAULT ||
        ptx_shared_read(warp, op, lane, index, 16, false) == PTX_FAULT) {
      return PTX_FAULT;
    }
    memcpy(matrices[lane / 8][lane % 8], warp->block->shared + index, 16);
  }
  for (uint32_t m = 0; m < op->dst_count; m++) {
    uint64_t *d = ptx_write(warp, op->dst[m]);
    for (uint32_t lane = 0; lane < PTX_LANES; lane++) {
      const uint32_t g = lane / 4, t = 2 * (lane % 4);
      const uint16_t low = transpose ? matrices[m][t][g] : matrices[m][g][t];
      const uint16_t high = transpose ? matrices[m][t + 1][g] : matrices[m][g][t + 1];
      d[lane] = (uint64_t)high << 16 | low;
    }
  }
  return PTX_NEXT;
}

bool ptx_decode_ldmatrix(struct ptx_parser *parser, const struct ptx_statement *s,
                         struct ptx_op *op)
{
  const struct ptx_modifiers *m = &s->modifiers;
  if (m->type_count != 1 || m->types[0] != PTX_B16 || !ptx_has(m, PTX_CLASS_ALIGNED) ||
      !ptx_has(m, PTX_CLASS_SHAPE) || m->value[PTX_CLASS_SHAPE] != PTX_M8N8 ||
      m->spaces[0] != PTX_SHARED || s->operand_count != 2 ||
      (s->operands[0].kind == PTX_OPERAND_LIST || s->operands[0].kind == PTX_OPERAND_ADDRESS) ||
      s->operands[0].count != (uint32_t)m->value[PTX_CLASS_MATRICES]) {
    return false;
  }
  int32_t dst[4];
  for (uint32_t k = 0; k < s->operands[0].count; k++) {
    dst[k] = ptx_target(parser, &s->values[s->operands[0].first + k], PTX_B32);
  }
  const int32_t base = ptx_address(parser, s, 1, PTX_SHARED, &op->offset);
  ptx_set_operands(parser, op, dst, s->operands[0].count, &base, 1);
  op->execute = ldmatrix;
  return true;
}

/* ---- mma ---- */

static double element(enum ptx_type type, uint64_t bits, unsigned i)
{
  switch ((int)type) {
  case PTX_F16: return ptx_to_double(PTX_FLOAT_F16, bits >> (16 * i) & 0xffff);
  case PTX_BF16: return (double)ptx_f32(bits >> (16 * i) << 16);
  case PTX_TF32: return (double)ptx_f32(bits & ~UINT64_C(0x1fff));
  case PTX_S8: return (int8_t)(bits >> (8 * i));
  default: /* u8 */ return (uint8_t)(bits >> (8 * i));
  }
}

typedef double pair __attribute__((vector_size(2 * sizeof(double))));
struct fragments {
  double a[ROWS][MAX_K];
  union {
    double b[MAX_K][COLUMNS];
    pair b_pairs[MAX_K][COLUMNS / 2];
  };
  double c[ROWS][COLUMNS];
};

static void gather(const struct ptx_warp *warp, const struct ptx_op *op, unsigned per,
                   unsigned a_registers, struct fragments *f)
{
  const enum ptx_type a_type = (enum ptx_type)op->modifiers->types[1];
  const enum ptx_type b_type = (enum ptx_type)op->modifiers->types[2];
  for (unsigned r = 0; r < a_registers; r++) {
    const uint64_t *x = ptx_read(warp, op->src[r]);
    for (unsigned lane = 0; lane < PTX_LANES; lane++) {
      for (unsigned i = 0; i < per; i++) {
        f->a[lane / 4 + 8 * (r % 2)][4 * per * (r / 2) + per * (lane % 4) + i] =
            element(a_type, x[lane], i);
      }
    }
  }
  for (unsigned r = 0; r < a_registers / 2; r++) {
    const uint64_t *x = ptx_read(warp, op->src[a_registers + r]);
    for (unsigned lane = 0; lane < PTX_LANES; lane++) {
      for (unsigned i = 0; i < per; i++) {
        f->b[4 * per * r + per * (lane % 4) + i][lane / 4] = element(b_type, x[lane], i);
      }
    }
  }
}

/* Rounded to f32 towards zero. */
static double truncated(double value)
{
  uint64_t bits;
  memcpy(&bits, &value, sizeof(bits));
  const uint64_t exponent = bits >> 52 & 0x7ff;
  if (exponent - 897 < 254 || bits << 1 == 0) { /* normal as f32, or zero: 24 of the 53 bits */
    bits &= ~((UINT64_C(1) << 29) - 1);
    memcpy(&value, &bits, sizeof(value));
    return value;
  }
  return (double)ptx_f32(ptx_pack(PTX_FLOAT_F32, ptx_unpack(PTX_FLOAT_F64, bits), PTX_ROUND_ZERO));
}

static void multiply(struct fragments *f, unsigned block, unsigned k_count)
{
  for (unsigned m = 0; m < ROWS; m++) {
    for (unsigned start = 0; start < k_count; start += block) {
      pair sum0 = {0}, sum1 = {0}, sum2 = {0}, sum3 = {0};
      for (unsigned k = start; k < start + block; k++) {
        const pair a = {f->a[m][k], f->a[m][k]};
        const pair *b = f->b_pairs[k];
        sum0 += a * b[0];
        sum1 += a * b[1];
        sum2 += a * b[2];
        sum3 += a * b[3];
      }
      const pair sums[COLUMNS / 2] = {sum0, sum1, sum2, sum3};
      for (unsigned n = 0; n < COLUMNS; n++) {
        f->c[m][n] = truncated(f->c[m][n] + sums[n / 2][n % 2]);
      }
    }
  }
}

static enum ptx_step mma(struct ptx_warp *warp, const struct ptx_op *op, uint32_t mask)
{
  if (ptx_require(warp, op, mask, UINT32_MAX) == PTX_FAULT) {
    return PTX_FAULT;
  }
  const enum ptx_type d_type = (enum ptx_type)op->modifiers->types[0];
  const enum ptx_type c_type = (enum ptx_type)op->modifiers->types[3];
  const unsigned per = 32 / ptx_type_bits((enum ptx_type)op->modifiers->types[1]);
  const unsigned c_registers = c_type == PTX_F16 ? 2 : 4;
  const unsigned a_registers = (op->src_count - c_registers) / 3 * 2;
  const int32_t *c_sources = op->src + op->src_count - c_registers;
  struct fragments f;
  gather(warp, op, per, a_registers, &f);
  for (unsigned j = 0; j < 4; j++) {
    const uint64_t *x = ptx_read(warp, c_sources[c_type == PTX_F16 ? j / 2 : j]);
    for (unsigned lane = 0; lane < PTX_LANES; lane++) {
      f.c[lane / 4 + 8 * (j / 2)][2 * (lane % 4) + j % 2] =
          c_type == PTX_F16 ? element(PTX_F16, x[lane], j % 2) : (double)ptx_f32(x[lane]);
    }
  }
  multiply(&f, 4 * per, 4 * per * a_registers / 2);
  for (unsigned j = 0; j < 4; j++) {
    uint64_t *d = ptx_write(warp, op->dst[d_type == PTX_F16 ? j / 2 : j]);
    for (unsigned lane = 0; lane < PTX_LANES; lane++) {
      const double value = f.c[lane / 4 + 8 * (j / 2)][2 * (lane % 4) + j % 2];
      if (d_type != PTX_F16) {
        d[lane] = ptx_f32_bits((float)value);
        continue;
      }
      const uint64_t half = ptx_from_double(PTX_FLOAT_F16, value, PTX_ROUND_NEAREST);
      d[lane] = j % 2 == 0 ? half : d[lane] | half << 16;
    }
  }
  return PTX_NEXT;
}

/* Sums of integers wrap around. */
static enum ptx_step mma_integer(struct ptx_warp *warp, const struct ptx_op *op, uint32_t mask)
{
  if (ptx_require(warp, op, mask, UINT32_MAX) == PTX_FAULT) {
    return PTX_FAULT;
  }
  struct fragments f;
  gather(warp, op, 4, 4, &f);
  uint64_t result[4][PTX_LANES];
  for (unsigned j = 0; j < 4; j++) {
    const uint64_t *c = ptx_read(warp, op->src[6 + j]);
    for (unsigned lane = 0; lane < PTX_LANES; lane++) {
      const unsigned m = lane / 4 + 8 * (j / 2), n = 2 * (lane % 4) + j % 2;
      double sum = 0; /* exact: 32 products below 2^16 */
      for (unsigned k = 0; k < 32; k++) {
        sum += f.a[m][k] * f.b[k][n];
      }
      result[j][lane] = (uint32_t)((int64_t)sum + (int64_t)c[lane]);
    }
  }
  for (unsigned j = 0; j < 4; j++) {
    memcpy(ptx_write(warp, op->dst[j]), result[j], sizeof(result[j]));
  }
  return PTX_NEXT;
}

/* The registers of A for a shape and types that exist; 0 for others. */
static unsigned registers_of_a(const struct ptx_modifiers *m)
{
  const enum ptx_type a = (enum ptx_type)m->types[1], b = (enum ptx_type)m->types[2];
  const bool into_f32 = m->types[0] == PTX_F32 && m->types[3] == PTX_F32;
  const bool into_f16 = m->types[0] == PTX_F16 && m->types[3] == PTX_F16;
  switch ((enum ptx_shape)m->value[PTX_CLASS_SHAPE]) {
  case PTX_M8N8: return 0;
  case PTX_M16N8K8:
    if (a == PTX_TF32 && b == PTX_TF32 && into_f32) {
      return 4;
    }
    return (a == PTX_F16 && b == PTX_F16 && (into_f16 || into_f32)) ||
                   (a == PTX_BF16 && b == PTX_BF16 && into_f32)
               ? 2
               : 0;
  case PTX_M16N8K16:
    return (a == PTX_F16 && b == PTX_F16 && (into_f16 || into_f32)) ||
                   (a == PTX_BF16 && b == PTX_BF16 && into_f32)
               ? 4
               : 0;
  case PTX_M16N8K32:
    return (a == PTX_S8 || a == PTX_U8) && (b == PTX_S8 || b == PTX_U8) && m->types[0] == PTX_S32 &&
                   m->types[3] == PTX_S32
               ? 4
               : 0;
  }
  return 0;
}

bool ptx_decode_mma(struct ptx_parser *parser, const struct ptx_statement *s, struct ptx_op *op)
{
  const struct ptx_modifiers *m = &s->modifiers;
  if (m->type_count != 4 || !ptx_has(m, PTX_CLASS_SHAPE) || !ptx_has(m, PTX_CLASS_ALIGNED) ||
      s->operand_count != 4 || m->value[PTX_CLASS_LAYOUT] != PTX_COLUMN) {
    return false;
  }
  const unsigned a_registers = registers_of_a(m);
  const unsigned c_registers = m->types[3] == PTX_F16 ? 2 : 4;
  const unsigned counts[4] = {c_registers, a_registers, a_registers / 2, c_registers};
  int32_t dst[4], src[16];
  uint32_t src_count = 0;
  for (uint32_t k = 0; k < 4; k++) {
    const struct ptx_operand *operand = &s->operands[k];
    if (a_registers == 0 || operand->count != counts[k] ||
        (operand->kind != PTX_OPERAND_VECTOR && operand->kind != PTX_OPERAND_VALUE)) {
      return false;
    }
    for (uint32_t v = 0; v < operand->count; v++) {
      const struct ptx_value *value = &s->values[operand->first + v];
      if (k == 0) {
        dst[v] = ptx_target(parser, value, PTX_B32);
      } else {
        src[src_count++] = ptx_source(parser, value, PTX_B32);
      }
    }
  }
  ptx_set_operands(parser, op, dst, c_registers, src, src_count);
  op->execute = m->types[0] == PTX_S32 ? mma_integer : mma;
  return true;
}
