/* Integer arithmetic, shifts and bit fields ("Integer Arithmetic Instructions", "Extended-Precision
 * ...", "Logic and Shift Instructions" of the PTX ISA). */
#include "tests/device/ptx_lanewise.h"

__extension__ typedef unsigned __int128 u128;
__extension__ typedef __int128 s128;

#define LOAD_u16(x) ((uint16_t)(x))
#define LOAD_u32(x) ((uint32_t)(x))
#define LOAD_u64(x) (x)
#define LOAD_s16(x) ((int16_t)(x))
#define LOAD_s32(x) ((int32_t)(x))
#define LOAD_s64(x) ((int64_t)(x))
#define LOAD_raw(x) (x)
#define STORE_16(x) ((uint64_t)(uint16_t)(x))
#define STORE_32(x) ((uint64_t)(uint32_t)(x))
#define STORE_64(x) ((uint64_t)(x))

/* An instruction of 16, 32 and 64 bits, computed in 64. */
#define UNSIGNED(arity, name, expression)                                                          \
  PTX_LANEWISE_##arity(name##_u16, uint64_t, LOAD_u16, STORE_16, expression)                       \
      PTX_LANEWISE_##arity(name##_u32, uint64_t, LOAD_u32, STORE_32, expression)                   \
          PTX_LANEWISE_##arity(name##_u64, uint64_t, LOAD_u64, STORE_64, expression)
#define SIGNED(arity, name, expression)                                                            \
  PTX_LANEWISE_##arity(name##_s16, int64_t, LOAD_s16, STORE_16, expression)                        \
      PTX_LANEWISE_##arity(name##_s32, int64_t, LOAD_s32, STORE_32, expression)                    \
          PTX_LANEWISE_##arity(name##_s64, int64_t, LOAD_s64, STORE_64, expression)

UNSIGNED(2, add, a + b)
UNSIGNED(2, sub, a - b)
UNSIGNED(2, mul_lo, a *b)
UNSIGNED(3, mad_lo, a *b + c)
UNSIGNED(1, neg, 0 - a)
UNSIGNED(2, min, a < b ? a : b)
UNSIGNED(2, max, a > b ? a : b)
SIGNED(2, min, a < b ? a : b)
SIGNED(2, max, a > b ? a : b)
SIGNED(1, abs, a < 0 ? 0 - (uint64_t)a : (uint64_t)a)

/* A division by zero has no defined result; hardware returns all ones, and the dividend as
 * remainder. */
UNSIGNED(2, div, b == 0 ? UINT64_MAX : a / b)
UNSIGNED(2, rem, b == 0 ? a : a % b)
SIGNED(2, div, b == 0 ? UINT64_MAX : b == -1 ? 0 - (uint64_t)a : (uint64_t)(a / b))
SIGNED(2, rem, b == 0 ? a : b == -1 ? 0 : a % b)

PTX_LANEWISE_2(mul_hi_u16, uint64_t, LOAD_u16, STORE_16, a *b >> 16)
PTX_LANEWISE_2(mul_hi_u32, uint64_t, LOAD_u32, STORE_32, a *b >> 32)
PTX_LANEWISE_2(mul_hi_u64, u128, LOAD_u64, STORE_64, a *b >> 64)
PTX_LANEWISE_2(mul_hi_s16, int64_t, LOAD_s16, STORE_16, a *b >> 16)
PTX_LANEWISE_2(mul_hi_s32, int64_t, LOAD_s32, STORE_32, a *b >> 32)
PTX_LANEWISE_2(mul_hi_s64, s128, LOAD_s64, STORE_64, a *b >> 64)
PTX_LANEWISE_3(mad_hi_u16, uint64_t, LOAD_u16, STORE_16, (a * b >> 16) + c)
PTX_LANEWISE_3(mad_hi_u32, uint64_t, LOAD_u32, STORE_32, (a * b >> 32) + c)
PTX_LANEWISE_3(mad_hi_u64, u128, LOAD_u64, STORE_64, (a * b >> 64) + c)
PTX_LANEWISE_3(mad_hi_s16, int64_t, LOAD_s16, STORE_16, (a * b >> 16) + c)
PTX_LANEWISE_3(mad_hi_s32, int64_t, LOAD_s32, STORE_32, (a * b >> 32) + c)
PTX_LANEWISE_3(mad_hi_s64, s128, LOAD_s64, STORE_64, (a * b >> 64) + c)
PTX_LANEWISE_2(mul_wide_u16, uint64_t, LOAD_u16, STORE_32, a *b)
PTX_LANEWISE_2(mul_wide_u32, uint64_t, LOAD_u32, STORE_64, a *b)
PTX_LANEWISE_2(mul_wide_s16, int64_t, LOAD_s16, STORE_32, a *b)
PTX_LANEWISE_2(mul_wide_s32, int64_t, LOAD_s32, STORE_64, a *b)
PTX_LANEWISE_3(mad_wide_u16, uint64_t, LOAD_raw, STORE_32, (a & 0xffff) * (b & 0xffff) + c)
PTX_LANEWISE_3(mad_wide_u32, uint64_t, LOAD_raw, STORE_64, LOAD_u32(a) * (uint64_t)LOAD_u32(b) + c)
PTX_LANEWISE_3(mad_wide_s16, uint64_t, LOAD_raw, STORE_32,
               (uint64_t)((int64_t)LOAD_s16(a) * LOAD_s16(b)) + c)
PTX_LANEWISE_3(mad_wide_s32, uint64_t, LOAD_raw, STORE_64,
               (uint64_t)((int64_t)LOAD_s32(a) * LOAD_s32(b)) + c)

/* Shifts: amounts of the width and more shift everything out. The amount has 32 bits always. */
static uint64_t shift_left(uint64_t a, uint64_t amount)
{
  return (uint32_t)amount > 63 ? 0 : a << (uint32_t)amount;
}

static uint64_t shift_right(uint64_t a, uint64_t amount)
{
  return (uint32_t)amount > 63 ? 0 : a >> (uint32_t)amount;
}

static uint64_t shift_right_signed(int64_t a, uint64_t amount)
{
  return (uint64_t)(a >> ((uint32_t)amount > 63 ? 63 : (uint32_t)amount));
}

PTX_LANEWISE_2(shl_u16, uint64_t, LOAD_raw, STORE_16, shift_left(a, b))
PTX_LANEWISE_2(shl_u32, uint64_t, LOAD_raw, STORE_32, shift_left(a, b))
PTX_LANEWISE_2(shl_u64, uint64_t, LOAD_raw, STORE_64, shift_left(a, b))
PTX_LANEWISE_2(shr_u16, uint64_t, LOAD_raw, STORE_16, shift_right(LOAD_u16(a), b))
PTX_LANEWISE_2(shr_u32, uint64_t, LOAD_raw, STORE_32, shift_right(LOAD_u32(a), b))
PTX_LANEWISE_2(shr_u64, uint64_t, LOAD_raw, STORE_64, shift_right(a, b))
PTX_LANEWISE_2(shr_s16, uint64_t, LOAD_raw, STORE_16, shift_right_signed(LOAD_s16(a), b))
PTX_LANEWISE_2(shr_s32, uint64_t, LOAD_raw, STORE_32, shift_right_signed(LOAD_s32(a), b))
PTX_LANEWISE_2(shr_s64, uint64_t, LOAD_raw, STORE_64, shift_right_signed(LOAD_s64(a), b))

/* Funnel shifts of {b, a}, b above a; .clamp limits the amount to 32, .wrap takes it modulo 32. */
#define PAIR (b << 32 | LOAD_u32(a))
#define CLAMPED (LOAD_u32(c) > 32 ? 32 : LOAD_u32(c))
PTX_LANEWISE_3(shf_l_wrap, uint64_t, LOAD_raw, STORE_32, PAIR << (c & 31) >> 32)
PTX_LANEWISE_3(shf_r_wrap, uint64_t, LOAD_raw, STORE_32, PAIR >> (c & 31))
PTX_LANEWISE_3(shf_l_clamp, uint64_t, LOAD_raw, STORE_32, PAIR << CLAMPED >> 32)
PTX_LANEWISE_3(shf_r_clamp, uint64_t, LOAD_raw, STORE_32, PAIR >> CLAMPED)

PTX_LANEWISE_1(popc_u32, uint32_t, LOAD_u32, STORE_32, __builtin_popcount(a))
PTX_LANEWISE_1(popc_u64, uint64_t, LOAD_u64, STORE_32, __builtin_popcountll(a))
PTX_LANEWISE_1(clz_u32, uint32_t, LOAD_u32, STORE_32, a == 0 ? 32 : __builtin_clz(a))
PTX_LANEWISE_1(clz_u64, uint64_t, LOAD_u64, STORE_32, a == 0 ? 64 : __builtin_clzll(a))

static uint64_t reverse(uint64_t a)
{
  uint64_t result = 0;
  for (unsigned k = 0; k < 64; k++) {
    result |= (a >> k & 1) << (63 - k);
  }
  return result;
}
PTX_LANEWISE_1(brev_u32, uint64_t, LOAD_u32, STORE_32, reverse(a) >> 32)
PTX_LANEWISE_1(brev_u64, uint64_t, LOAD_u64, STORE_64, reverse(a))

/* `length` bits of a from `start` on, filled up with the field's sign where `is_signed`. */
static uint64_t extract(uint64_t a, uint64_t start, uint64_t length, unsigned bits, bool is_signed)
{
  start &= 0xff;
  length &= 0xff;
  const uint64_t last = start + length - 1 < bits - 1 ? start + length - 1 : bits - 1;
  const bool sign = is_signed && length > 0 && (a >> last & 1) != 0;
  uint64_t result = start >= bits ? 0 : a >> start;
  const uint64_t have = start >= bits ? 0 : bits - start < length ? bits - start : length;
  const uint64_t field = have >= 64 ? UINT64_MAX : (UINT64_C(1) << have) - 1;
  result &= field;
  return sign ? result | ~field : result;
}
PTX_LANEWISE_3(bfe_u32, uint64_t, LOAD_raw, STORE_32, extract(LOAD_u32(a), b, c, 32, false))
PTX_LANEWISE_3(bfe_u64, uint64_t, LOAD_raw, STORE_64, extract(a, b, c, 64, false))
PTX_LANEWISE_3(bfe_s32, uint64_t, LOAD_raw, STORE_32, extract(LOAD_u32(a), b, c, 32, true))
PTX_LANEWISE_3(bfe_s64, uint64_t, LOAD_raw, STORE_64, extract(a, b, c, 64, true))

static uint64_t insert(uint64_t a, uint64_t b, uint64_t start, uint64_t length, unsigned bits)
{
  start &= 0xff;
  length &= 0xff;
  if (start >= bits || length == 0) {
    return b;
  }
  const uint64_t field = (length >= 64 ? UINT64_MAX : (UINT64_C(1) << length) - 1) << start;
  return (b & ~field) | (a << start & field);
}

static enum ptx_step bfi(struct ptx_warp *warp, const struct ptx_op *op, uint32_t mask)
{
  const uint64_t *a = ptx_read(warp, op->src[0]), *b = ptx_read(warp, op->src[1]);
  const uint64_t *start = ptx_read(warp, op->src[2]), *length = ptx_read(warp, op->src[3]);
  uint64_t *d = ptx_write(warp, op->dst[0]);
  const bool wide = op->type == PTX_B64;
  PTX_EACH_LANE(lane, mask)
  {
    const uint64_t result = insert(a[lane], b[lane], start[lane], length[lane], wide ? 64 : 32);
    d[lane] = wide ? result : LOAD_u32(result);
  }
  return PTX_NEXT;
}

/* The selector nibbles of the modes of prmt, from the low two bits of the selector. */
static uint32_t permutation(uint32_t selector, bool has_mode, int mode)
{
  static const uint16_t modes[6][4] = {
      [PTX_PERMUTE_F4E] = {0x3210, 0x4321, 0x5432, 0x6543},
      [PTX_PERMUTE_B4E] = {0x5670, 0x6701, 0x7012, 0x0123},
      [PTX_PERMUTE_RC8] = {0x0000, 0x1111, 0x2222, 0x3333},
      [PTX_PERMUTE_ECL] = {0x3210, 0x3211, 0x3222, 0x3333},
      [PTX_PERMUTE_ECR] = {0x0000, 0x1110, 0x2210, 0x3210},
      [PTX_PERMUTE_RC16] = {0x1010, 0x3232, 0x1010, 0x3232},
  };
  return has_mode ? modes[mode][selector & 3] : selector;
}

static uint64_t permute(uint64_t pair, uint32_t selector)
{
  uint64_t result = 0;
  for (unsigned k = 0; k < 4; k++) {
    const uint32_t nibble = selector >> (4 * k) & 0xf;
    uint64_t byte = pair >> (8 * (nibble & 7)) & 0xff;
    if ((nibble & 8) != 0) { /* its sign, eight times */
      byte = (byte & 0x80) != 0 ? 0xff : 0;
    }
    result |= byte << (8 * k);
  }
  return result;
}

static enum ptx_step prmt(struct ptx_warp *warp, const struct ptx_op *op, uint32_t mask)
{
  const uint64_t *a = ptx_read(warp, op->src[0]), *b = ptx_read(warp, op->src[1]);
  const uint64_t *selector = ptx_read(warp, op->src[2]);
  uint64_t *d = ptx_write(warp, op->dst[0]);
  const bool has_mode = ptx_has(op->modifiers, PTX_CLASS_PERMUTE);
  const int mode = op->modifiers->value[PTX_CLASS_PERMUTE];
  PTX_EACH_LANE(lane, mask)
  {
    d[lane] = permute(b[lane] << 32 | LOAD_u32(a[lane]),
                      permutation((uint32_t)selector[lane], has_mode, mode));
  }
  return PTX_NEXT;
}

static enum ptx_step lop3(struct ptx_warp *warp, const struct ptx_op *op, uint32_t mask)
{
  const uint64_t *a = ptx_read(warp, op->src[0]), *b = ptx_read(warp, op->src[1]);
  const uint64_t *c = ptx_read(warp, op->src[2]), *table = ptx_read(warp, op->src[3]);
  uint64_t *d = ptx_write(warp, op->dst[0]);
  PTX_EACH_LANE(lane, mask)
  {
    uint64_t result = 0;
    for (unsigned row = 0; row < 8; row++) {
      if ((table[lane] >> row & 1) != 0) {
        result |= ((row & 4) != 0 ? a[lane] : ~a[lane]) & ((row & 2) != 0 ? b[lane] : ~b[lane]) &
                  ((row & 1) != 0 ? c[lane] : ~c[lane]);
      }
    }
    d[lane] = LOAD_u32(result);
  }
  return PTX_NEXT;
}

/* Sums and differences that take or leave the carry of each lane. A difference borrows: the carry
 * is then the borrow. */
static uint64_t with_carry(struct ptx_warp *warp, const struct ptx_op *op, uint32_t lane, u128 a,
                           u128 b, bool subtract, bool takes)
{
  const unsigned bits = ptx_type_bits((enum ptx_type)op->type);
  const u128 modulus = (u128)1 << bits;
  const u128 carry = takes ? warp->carry >> lane & 1 : 0;
  const u128 sum = subtract ? a + modulus - b - carry : a + b + carry;
  const bool overflow = subtract ? sum < modulus : sum >= modulus;
  if (ptx_has(op->modifiers, PTX_CLASS_CARRY)) {
    warp->carry = (warp->carry & ~(UINT32_C(1) << lane)) | (uint32_t)overflow << lane;
  }
  return (uint64_t)(sum & (modulus - 1));
}

#define CARRY_2(name, subtract, takes)                                                             \
  static enum ptx_step name(struct ptx_warp *warp, const struct ptx_op *op, uint32_t mask)         \
  {                                                                                                \
    const uint64_t *a = ptx_read(warp, op->src[0]), *b = ptx_read(warp, op->src[1]);               \
    uint64_t *d = ptx_write(warp, op->dst[0]);                                                     \
    PTX_EACH_LANE(lane, mask)                                                                      \
    {                                                                                              \
      d[lane] = with_carry(warp, op, lane, a[lane], b[lane], subtract, takes);                     \
    }                                                                                              \
    return PTX_NEXT;                                                                               \
  }
CARRY_2(add_cc, false, false)
CARRY_2(addc, false, true)
CARRY_2(sub_cc, true, false)
CARRY_2(subc, true, true)

static u128 product_part(const struct ptx_op *op, uint64_t a, uint64_t b, bool high)
{
  const unsigned bits = ptx_type_bits((enum ptx_type)op->type);
  u128 product = (u128)a * b;
  if (op->type == PTX_S32) {
    product = (u128)((s128)LOAD_s32(a) * LOAD_s32(b));
  } else if (op->type == PTX_S64) {
    product = (u128)((s128)LOAD_s64(a) * LOAD_s64(b));
  }
  return (high ? product >> bits : product) & (((u128)1 << bits) - 1);
}

#define CARRY_3(name, high, takes)                                                                 \
  static enum ptx_step name(struct ptx_warp *warp, const struct ptx_op *op, uint32_t mask)         \
  {                                                                                                \
    const uint64_t *a = ptx_read(warp, op->src[0]), *b = ptx_read(warp, op->src[1]);               \
    const uint64_t *c = ptx_read(warp, op->src[2]);                                                \
    uint64_t *d = ptx_write(warp, op->dst[0]);                                                     \
    PTX_EACH_LANE(lane, mask)                                                                      \
    {                                                                                              \
      d[lane] = with_carry(warp, op, lane, product_part(op, a[lane], b[lane], high), c[lane],      \
                           false, takes);                                                          \
    }                                                                                              \
    return PTX_NEXT;                                                                               \
  }
CARRY_3(mad_lo_cc, false, false)
CARRY_3(mad_hi_cc, true, false)
CARRY_3(madc_lo, false, true)
CARRY_3(madc_hi, true, true)

PTX_LANEWISE_2(add_sat_s32, int64_t, LOAD_s32, STORE_32,
               a + b > INT32_MAX   ? INT32_MAX
               : a + b < INT32_MIN ? INT32_MIN
                                   : a + b)
PTX_LANEWISE_2(sub_sat_s32, int64_t, LOAD_s32, STORE_32,
               a - b > INT32_MAX   ? INT32_MAX
               : a - b < INT32_MIN ? INT32_MIN
                                   : a - b)

/* ---- the table ---- */

struct row {
  enum ptx_opcode opcode;
  enum { ANY, ONLY_UNSIGNED, ONLY_SIGNED } sign;
  ptx_executor *execute[3]; /* of 16, 32 and 64 bits */
};
static const struct row rows[] = {
    {PTX_ADD, ANY, {add_u16, add_u32, add_u64}},
    {PTX_SUB, ANY, {sub_u16, sub_u32, sub_u64}},
    {PTX_ADDC, ANY, {NULL, addc, addc}},
    {PTX_SUBC, ANY, {NULL, subc, subc}},
    {PTX_MUL_LO, ANY, {mul_lo_u16, mul_lo_u32, mul_lo_u64}},
    {PTX_MUL_HI, ONLY_UNSIGNED, {mul_hi_u16, mul_hi_u32, mul_hi_u64}},
    {PTX_MUL_HI, ONLY_SIGNED, {mul_hi_s16, mul_hi_s32, mul_hi_s64}},
    {PTX_MUL_WIDE, ONLY_UNSIGNED, {mul_wide_u16, mul_wide_u32, NULL}},
    {PTX_MUL_WIDE, ONLY_SIGNED, {mul_wide_s16, mul_wide_s32, NULL}},
    {PTX_MAD_LO, ANY, {mad_lo_u16, mad_lo_u32, mad_lo_u64}},
    {PTX_MAD_HI, ONLY_UNSIGNED, {mad_hi_u16, mad_hi_u32, mad_hi_u64}},
    {PTX_MAD_HI, ONLY_SIGNED, {mad_hi_s16, mad_hi_s32, mad_hi_s64}},
    {PTX_MAD_WIDE, ONLY_UNSIGNED, {mad_wide_u16, mad_wide_u32, NULL}},
    {PTX_MAD_WIDE, ONLY_SIGNED, {mad_wide_s16, mad_wide_s32, NULL}},
    {PTX_MADC_LO, ANY, {NULL, madc_lo, madc_lo}},
    {PTX_MADC_HI, ANY, {NULL, madc_hi, madc_hi}},
    {PTX_DIV, ONLY_UNSIGNED, {div_u16, div_u32, div_u64}},
    {PTX_DIV, ONLY_SIGNED, {div_s16, div_s32, div_s64}},
    {PTX_REM, ONLY_UNSIGNED, {rem_u16, rem_u32, rem_u64}},
    {PTX_REM, ONLY_SIGNED, {rem_s16, rem_s32, rem_s64}},
    {PTX_NEG, ANY, {neg_u16, neg_u32, neg_u64}},
    {PTX_ABS, ONLY_SIGNED, {abs_s16, abs_s32, abs_s64}},
    {PTX_MIN, ONLY_UNSIGNED, {min_u16, min_u32, min_u64}},
    {PTX_MIN, ONLY_SIGNED, {min_s16, min_s32, min_s64}},
    {PTX_MAX, ONLY_UNSIGNED, {max_u16, max_u32, max_u64}},
    {PTX_MAX, ONLY_SIGNED, {max_s16, max_s32, max_s64}},
    {PTX_SHL, ANY, {shl_u16, shl_u32, shl_u64}},
    {PTX_SHR, ONLY_UNSIGNED, {shr_u16, shr_u32, shr_u64}},
    {PTX_SHR, ONLY_SIGNED, {shr_s16, shr_s32, shr_s64}},
    {PTX_POPC, ANY, {NULL, popc_u32, popc_u64}},
    {PTX_CLZ, ANY, {NULL, clz_u32, clz_u64}},
    {PTX_BREV, ANY, {NULL, brev_u32, brev_u64}},
    {PTX_BFE, ONLY_UNSIGNED, {NULL, bfe_u32, bfe_u64}},
    {PTX_BFE, ONLY_SIGNED, {NULL, bfe_s32, bfe_s64}},
    {PTX_BFI, ANY, {NULL, bfi, bfi}},
    {PTX_PRMT, ANY, {NULL, prmt, NULL}},
    {PTX_LOP3, ANY, {NULL, lop3, NULL}},
};

/* Instructions that a modifier turns into another: NULL when it does not. */
static ptx_executor *modified(enum ptx_opcode opcode, const struct ptx_modifiers *m)
{
  const bool clamp = m->value[PTX_CLASS_CLAMP] != 0;
  if (opcode == PTX_SHF_L) {
    return clamp ? shf_l_clamp : shf_l_wrap;
  }
  if (opcode == PTX_SHF_R) {
    return clamp ? shf_r_clamp : shf_r_wrap;
  }
  if (ptx_has(m, PTX_CLASS_SAT)) {
    return opcode == PTX_ADD ? add_sat_s32 : opcode == PTX_SUB ? sub_sat_s32 : NULL;
  }
  if (ptx_has(m, PTX_CLASS_CARRY)) {
    return opcode == PTX_ADD      ? add_cc
           : opcode == PTX_SUB    ? sub_cc
           : opcode == PTX_MAD_LO ? mad_lo_cc
           : opcode == PTX_MAD_HI ? mad_hi_cc
                                  : NULL;
  }
  return NULL;
}

ptx_executor *ptx_integer_executor(enum ptx_opcode opcode, const struct ptx_modifiers *m)
{
  const enum ptx_type type = (enum ptx_type)m->types[0];
  const unsigned bits = ptx_type_bits(type);
  const bool is_signed = ptx_type_is_signed(type);
  ptx_executor *special = modified(opcode, m);
  if (ptx_has(m, PTX_CLASS_SAT) && type != PTX_S32) {
    return NULL;
  }
  if (special != NULL) {
    return bits == 32 || (bits == 64 && ptx_has(m, PTX_CLASS_CARRY)) ? special : NULL;
  }
  for (size_t k = 0; k < sizeof(rows) / sizeof(rows[0]); k++) {
    if (rows[k].opcode == opcode && bits >= 16 &&
        (rows[k].sign == ANY || (rows[k].sign == ONLY_SIGNED) == is_signed)) {
      return rows[k].execute[bits == 64 ? 2 : bits == 32 ? 1 : 0];
    }
  }
  return NULL;
}
