/* Integer instructions of the interpreter against C, over edge values and random ones. */
#include "tests/device/ptx_test.h"

__extension__ typedef unsigned __int128 u128;
__extension__ typedef __int128 s128;

static uint64_t operands[PTX_TEST_OPERANDS][3];

static void fill_operands(void)
{
  static const uint64_t edges[] = {0,
                                   1,
                                   2,
                                   7,
                                   31,
                                   32,
                                   33,
                                   63,
                                   64,
                                   65,
                                   0x7fff,
                                   0x8000,
                                   0xffff,
                                   0x10000,
                                   0x7fffffff,
                                   0x80000000,
                                   0xffffffff,
                                   UINT64_C(0x100000000),
                                   UINT64_C(0x7fffffffffffffff),
                                   UINT64_C(0x8000000000000000),
                                   UINT64_C(0x8000000080008000),
                                   UINT64_MAX};
  enum { EDGES = sizeof(edges) / sizeof(edges[0]) };
  uint64_t state = 7;
  for (uint32_t k = 0; k < PTX_TEST_OPERANDS; k++) {
    for (uint32_t i = 0; i < 3; i++) {
      const uint64_t random = ptx_test_random(&state);
      operands[k][i] = k < EDGES * EDGES ? edges[i == 0   ? k / EDGES
                                                 : i == 1 ? k % EDGES
                                                          : random % EDGES]
                       : random % 4 == 0 ? edges[random / 4 % EDGES]
                                         : random >> (random >> 58);
    }
  }
}

struct instruction {
  const char *text;
  unsigned bits;
  uint64_t (*expected)(uint64_t a, uint64_t b, uint64_t c);
};

/* A function that is named after the line, of operands cut to T, its result cut to R. */
#define EXPECT(name, T, R, expression)                                                             \
  static uint64_t name(uint64_t x, uint64_t y, uint64_t z)                                         \
  {                                                                                                \
    const T a = (T)x, b = (T)y, c = (T)z;                                                          \
    (void)a, (void)b, (void)c;                                                                     \
    return (uint64_t)(R)(expression);                                                              \
  }

EXPECT(add16, uint16_t, uint16_t, a + b)
EXPECT(add32, uint32_t, uint32_t, a + b)
EXPECT(add64, uint64_t, uint64_t, a + b)
EXPECT(sub16, uint16_t, uint16_t, a - b)
EXPECT(sub32, uint32_t, uint32_t, a - b)
EXPECT(sub64, uint64_t, uint64_t, a - b)
EXPECT(mul16, uint16_t, uint16_t, (uint32_t)a *b)
EXPECT(mul32, uint32_t, uint32_t, a *b)
EXPECT(mul64, uint64_t, uint64_t, a *b)
EXPECT(mul_hi_u16, uint16_t, uint16_t, (uint32_t)a *b >> 16)
EXPECT(mul_hi_s16, int16_t, uint16_t, (int32_t)a *b >> 16)
EXPECT(mul_hi_u32, uint32_t, uint32_t, (uint64_t)a *b >> 32)
EXPECT(mul_hi_s32, int32_t, uint32_t, (int64_t)a *b >> 32)
EXPECT(mul_hi_u64, uint64_t, uint64_t, (u128)a *b >> 64)
EXPECT(mul_hi_s64, int64_t, uint64_t, (s128)a *b >> 64)
EXPECT(mul_wide_u16, uint16_t, uint32_t, (uint32_t)a *b)
EXPECT(mul_wide_s16, int16_t, uint32_t, (int32_t)a *b)
EXPECT(mul_wide_u32, uint32_t, uint64_t, (uint64_t)a *b)
EXPECT(mul_wide_s32, int32_t, uint64_t, (int64_t)a *b)
EXPECT(mad_lo_u16, uint16_t, uint16_t, (uint32_t)a *b + c)
EXPECT(mad_lo_u32, uint32_t, uint32_t, a *b + c)
EXPECT(mad_lo_u64, uint64_t, uint64_t, a *b + c)
EXPECT(mad_hi_u32, uint32_t, uint32_t, ((uint64_t)a * b >> 32) + c)
EXPECT(mad_hi_s32, int32_t, uint32_t, ((int64_t)a * b >> 32) + c)
EXPECT(mad_hi_u64, uint64_t, uint64_t, (uint64_t)((u128)a *b >> 64) + c)
EXPECT(mad_wide_u32, uint64_t, uint64_t, (uint64_t)(uint32_t)a *(uint32_t)b + c)
EXPECT(mad_wide_s32, uint64_t, uint64_t, (uint64_t)((int64_t)(int32_t)a *(int32_t)b) + c)
EXPECT(mad_wide_u16, uint32_t, uint32_t, (uint32_t)(uint16_t)a *(uint16_t)b + c)
EXPECT(mad_wide_s16, uint32_t, uint32_t, (uint32_t)((int32_t)(int16_t)a *(int16_t)b) + c)
EXPECT(div_u16, uint16_t, uint16_t, b == 0 ? 0xffff : a / b)
EXPECT(div_s16, int16_t, uint16_t, b == 0 ? -1 : (int32_t)a / b)
EXPECT(div_u32, uint32_t, uint32_t, b == 0 ? UINT32_MAX : a / b)
EXPECT(div_s32, int32_t, uint32_t, b == 0 ? -1 : (int64_t)a / b)
EXPECT(div_u64, uint64_t, uint64_t, b == 0 ? UINT64_MAX : a / b)
EXPECT(div_s64, int64_t, uint64_t, b == 0 ? -1 : (s128)a / b)
EXPECT(rem_u32, uint32_t, uint32_t, b == 0 ? a : a % b)
EXPECT(rem_s32, int32_t, uint32_t, b == 0 ? a : (int64_t)a % b)
EXPECT(rem_u64, uint64_t, uint64_t, b == 0 ? a : a % b)
EXPECT(rem_s64, int64_t, uint64_t, b == 0 ? a : (s128)a % b)
EXPECT(neg16, uint16_t, uint16_t, -a)
EXPECT(neg32, uint32_t, uint32_t, -a)
EXPECT(neg64, uint64_t, uint64_t, -a)
EXPECT(abs16, int16_t, uint16_t, a < 0 ? -a : a)
EXPECT(abs32, int32_t, uint32_t, a < 0 ? -(int64_t)a : a)
EXPECT(abs64, int64_t, uint64_t, a < 0 ? -(uint64_t)a : (uint64_t)a)
EXPECT(min_u16, uint16_t, uint16_t, a < b ? a : b)
EXPECT(min_s16, int16_t, uint16_t, a < b ? a : b)
EXPECT(min_u32, uint32_t, uint32_t, a < b ? a : b)
EXPECT(min_s32, int32_t, uint32_t, a < b ? a : b)
EXPECT(min_u64, uint64_t, uint64_t, a < b ? a : b)
EXPECT(min_s64, int64_t, uint64_t, a < b ? a : b)
EXPECT(max_u32, uint32_t, uint32_t, a > b ? a : b)
EXPECT(max_s32, int32_t, uint32_t, a > b ? a : b)
EXPECT(max_u64, uint64_t, uint64_t, a > b ? a : b)
EXPECT(max_s64, int64_t, uint64_t, a > b ? a : b)
EXPECT(and32, uint32_t, uint32_t, a &b)
EXPECT(or64, uint64_t, uint64_t, a | b)
EXPECT(xor16, uint16_t, uint16_t, a ^ b)
EXPECT(not16, uint16_t, uint16_t, ~a)
EXPECT(not32, uint32_t, uint32_t, ~a)
EXPECT(not64, uint64_t, uint64_t, ~a)
EXPECT(shl16, uint64_t, uint16_t, (uint32_t)b > 15 ? 0 : a << (b & 15))
EXPECT(shl32, uint64_t, uint32_t, (uint32_t)b > 31 ? 0 : a << (b & 31))
EXPECT(shl64, uint64_t, uint64_t, (uint32_t)b > 63 ? 0 : a << (b & 63))
EXPECT(shr_u16, uint64_t, uint16_t, (uint32_t)b > 15 ? 0 : (uint16_t)a >> (b & 15))
EXPECT(shr_s16, uint64_t, uint16_t, (int16_t)a >> ((uint32_t)b > 15 ? 15 : b & 15))
EXPECT(shr_u32, uint64_t, uint32_t, (uint32_t)b > 31 ? 0 : (uint32_t)a >> (b & 31))
EXPECT(shr_s32, uint64_t, uint32_t, (int32_t)a >> ((uint32_t)b > 31 ? 31 : b & 31))
EXPECT(shr_u64, uint64_t, uint64_t, (uint32_t)b > 63 ? 0 : a >> (b & 63))
EXPECT(shr_s64, uint64_t, uint64_t, (int64_t)a >> ((uint32_t)b > 63 ? 63 : b & 63))
EXPECT(shf_l_wrap, uint32_t, uint32_t, (c & 31) == 0 ? b : b << (c & 31) | a >> (32 - (c & 31)))
EXPECT(shf_r_wrap, uint32_t, uint32_t, (c & 31) == 0 ? a : a >> (c & 31) | b << (32 - (c & 31)))
EXPECT(shf_l_clamp, uint32_t, uint32_t, c >= 32 ? a : c == 0 ? b : b << c | a >> (32 - c))
EXPECT(shf_r_clamp, uint32_t, uint32_t, c >= 32 ? b : c == 0 ? a : a >> c | b << (32 - c))
EXPECT(selp32, uint32_t, uint32_t, (c & 1) != 0 ? a : b)
EXPECT(lop3_select, uint32_t, uint32_t, (a & b) | (~a & c))
EXPECT(lop3_parity, uint32_t, uint32_t, a ^ b ^ c)

static uint64_t popc64(uint64_t a, uint64_t b, uint64_t c)
{
  (void)b, (void)c;
  uint64_t count = 0;
  for (; a != 0; a >>= 1) {
    count += a & 1;
  }
  return count;
}
static uint64_t popc32(uint64_t a, uint64_t b, uint64_t c)
{
  return popc64((uint32_t)a, b, c);
}
static uint64_t clz64(uint64_t a, uint64_t b, uint64_t c)
{
  (void)b, (void)c;
  uint64_t count = 64;
  for (; a != 0; a >>= 1) {
    count--;
  }
  return count;
}
static uint64_t clz32(uint64_t a, uint64_t b, uint64_t c)
{
  return clz64((uint32_t)a, b, c) - 32;
}
static uint64_t brev64(uint64_t a, uint64_t b, uint64_t c)
{
  (void)b, (void)c;
  uint64_t result = 0;
  for (int k = 0; k < 64; k++, a >>= 1) {
    result = result << 1 | (a & 1);
  }
  return result;
}
static uint64_t brev32(uint64_t a, uint64_t b, uint64_t c)
{
  return brev64((uint32_t)a, b, c) >> 32;
}

/* The pseudo-code of bfe and bfi in the ISA, bit by bit. */
static uint64_t bfe(uint64_t a, uint64_t b, uint64_t c, int msb, int is_signed)
{
  const int pos = (int)(b & 0xff), len = (int)(c & 0xff);
  const int last = pos + len - 1 < msb ? pos + len - 1 : msb;
  const uint64_t sign = is_signed && len > 0 ? a >> last & 1 : 0;
  uint64_t d = 0;
  for (int i = 0; i <= msb; i++) {
    d |= (i < len && pos + i <= msb ? a >> (pos + i) & 1 : sign) << i;
  }
  return d;
}
static uint64_t bfe_u32(uint64_t a, uint64_t b, uint64_t c)
{
  return bfe((uint32_t)a, b, c, 31, 0);
}
static uint64_t bfe_s32(uint64_t a, uint64_t b, uint64_t c)
{
  return bfe((uint32_t)a, b, c, 31, 1);
}
static uint64_t bfe_u64(uint64_t a, uint64_t b, uint64_t c)
{
  return bfe(a, b, c, 63, 0);
}
static uint64_t bfe_s64(uint64_t a, uint64_t b, uint64_t c)
{
  return bfe(a, b, c, 63, 1);
}
static uint64_t bfi_32(uint64_t a, uint64_t b, uint64_t c)
{
  uint64_t d = (uint32_t)b;
  for (unsigned i = 0; i < (c & 0xff) && i + 5 <= 31; i++) {
    d = (d & ~(UINT64_C(1) << (i + 5))) | (a >> i & 1) << (i + 5);
  }
  return d;
}

/* Default mode of prmt. */
static uint64_t prmt(uint64_t a, uint64_t b, uint64_t c)
{
  const uint64_t pair = b << 32 | (uint32_t)a;
  uint64_t d = 0;
  for (int k = 0; k < 4; k++) {
    const unsigned s = (unsigned)(c >> (4 * k)) & 15;
    const int8_t byte = (int8_t)(pair >> (8 * (s & 7)));
    d |= (uint64_t)(uint8_t)((s & 8) != 0 ? (byte < 0 ? -1 : 0) : byte) << (8 * k);
  }
  return d;
}
static uint64_t bswap(uint64_t a, uint64_t b, uint64_t c)
{
  (void)b, (void)c;
  return (a >> 24 & 0xff) | (a >> 8 & 0xff00) | (a << 8 & 0xff0000) | (a & 0xff) << 24;
}

/* The high half of a 128-bit sum of {c, a} and {a, b}. */
EXPECT(carried_sum, uint64_t, uint64_t, c + a + (a + b < a))
EXPECT(borrowed_difference, uint64_t, uint64_t, c - a - (a < b))
EXPECT(carried_product, uint64_t, uint64_t, (uint64_t)((u128)a *b >> 64) + (a * b + c < c))

#define COMPARISON(name, T, operator) EXPECT(name, T, uint8_t, a operator b)
COMPARISON(eq, uint32_t, ==)
COMPARISON(ne64, uint64_t, !=)
COMPARISON(lt_s32, int32_t, <)
COMPARISON(lt_u32, uint32_t, <)
COMPARISON(le_s64, int64_t, <=)
COMPARISON(gt_u64, uint64_t, >)
COMPARISON(ge_s16, int16_t, >=)
COMPARISON(ls_u32, uint32_t, <=)
EXPECT(lt_and, int32_t, uint8_t, a < b && (c & 1) != 0)
EXPECT(not_lt_or, int32_t, uint8_t, !(a < b) || (c & 1) != 0)
EXPECT(lt_xor_not, int32_t, uint8_t, (a < b) != ((c & 1) == 0))

static const struct instruction instructions[] = {
    {"add.u16 %h4, %h1, %h2;", 16, add16},
    {"add.s32 %r4, %r1, %r2;", 32, add32},
    {"add.u64 %d4, %d1, %d2;", 64, add64},
    {"sub.s16 %h4, %h1, %h2;", 16, sub16},
    {"sub.u32 %r4, %r1, %r2;", 32, sub32},
    {"sub.s64 %d4, %d1, %d2;", 64, sub64},
    {"mul.lo.u16 %h4, %h1, %h2;", 16, mul16},
    {"mul.lo.s32 %r4, %r1, %r2;", 32, mul32},
    {"mul.lo.u64 %d4, %d1, %d2;", 64, mul64},
    {"mul.hi.u16 %h4, %h1, %h2;", 16, mul_hi_u16},
    {"mul.hi.s16 %h4, %h1, %h2;", 16, mul_hi_s16},
    {"mul.hi.u32 %r4, %r1, %r2;", 32, mul_hi_u32},
    {"mul.hi.s32 %r4, %r1, %r2;", 32, mul_hi_s32},
    {"mul.hi.u64 %d4, %d1, %d2;", 64, mul_hi_u64},
    {"mul.hi.s64 %d4, %d1, %d2;", 64, mul_hi_s64},
    {"mul.wide.u16 %r4, %h1, %h2;", 32, mul_wide_u16},
    {"mul.wide.s16 %r4, %h1, %h2;", 32, mul_wide_s16},
    {"mul.wide.u32 %d4, %r1, %r2;", 64, mul_wide_u32},
    {"mul.wide.s32 %d4, %r1, %r2;", 64, mul_wide_s32},
    {"mad.lo.s16 %h4, %h1, %h2, %h3;", 16, mad_lo_u16},
    {"mad.lo.u32 %r4, %r1, %r2, %r3;", 32, mad_lo_u32},
    {"mad.lo.s64 %d4, %d1, %d2, %d3;", 64, mad_lo_u64},
    {"mad.hi.u32 %r4, %r1, %r2, %r3;", 32, mad_hi_u32},
    {"mad.hi.s32 %r4, %r1, %r2, %r3;", 32, mad_hi_s32},
    {"mad.hi.u64 %d4, %d1, %d2, %d3;", 64, mad_hi_u64},
    {"mad.wide.u32 %d4, %r1, %r2, %d3;", 64, mad_wide_u32},
    {"mad.wide.s32 %d4, %r1, %r2, %d3;", 64, mad_wide_s32},
    {"mad.wide.u16 %r4, %h1, %h2, %r3;", 32, mad_wide_u16},
    {"mad.wide.s16 %r4, %h1, %h2, %r3;", 32, mad_wide_s16},
    {"div.u16 %h4, %h1, %h2;", 16, div_u16},
    {"div.s16 %h4, %h1, %h2;", 16, div_s16},
    {"div.u32 %r4, %r1, %r2;", 32, div_u32},
    {"div.s32 %r4, %r1, %r2;", 32, div_s32},
    {"div.u64 %d4, %d1, %d2;", 64, div_u64},
    {"div.s64 %d4, %d1, %d2;", 64, div_s64},
    {"rem.u32 %r4, %r1, %r2;", 32, rem_u32},
    {"rem.s32 %r4, %r1, %r2;", 32, rem_s32},
    {"rem.u64 %d4, %d1, %d2;", 64, rem_u64},
    {"rem.s64 %d4, %d1, %d2;", 64, rem_s64},
    {"neg.s16 %h4, %h1;", 16, neg16},
    {"neg.s32 %r4, %r1;", 32, neg32},
    {"neg.s64 %d4, %d1;", 64, neg64},
    {"abs.s16 %h4, %h1;", 16, abs16},
    {"abs.s32 %r4, %r1;", 32, abs32},
    {"abs.s64 %d4, %d1;", 64, abs64},
    {"min.u16 %h4, %h1, %h2;", 16, min_u16},
    {"min.s16 %h4, %h1, %h2;", 16, min_s16},
    {"min.u32 %r4, %r1, %r2;", 32, min_u32},
    {"min.s32 %r4, %r1, %r2;", 32, min_s32},
    {"min.u64 %d4, %d1, %d2;", 64, min_u64},
    {"min.s64 %d4, %d1, %d2;", 64, min_s64},
    {"max.u32 %r4, %r1, %r2;", 32, max_u32},
    {"max.s32 %r4, %r1, %r2;", 32, max_s32},
    {"max.u64 %d4, %d1, %d2;", 64, max_u64},
    {"max.s64 %d4, %d1, %d2;", 64, max_s64},
    {"and.b32 %r4, %r1, %r2;", 32, and32},
    {"or.b64 %d4, %d1, %d2;", 64, or64},
    {"xor.b16 %h4, %h1, %h2;", 16, xor16},
    {"not.b16 %h4, %h1;", 16, not16},
    {"not.b32 %r4, %r1;", 32, not32},
    {"not.b64 %d4, %d1;", 64, not64},
    {"shl.b16 %h4, %h1, %r2;", 16, shl16},
    {"shl.b32 %r4, %r1, %r2;", 32, shl32},
    {"shl.b64 %d4, %d1, %r2;", 64, shl64},
    {"shr.u16 %h4, %h1, %r2;", 16, shr_u16},
    {"shr.s16 %h4, %h1, %r2;", 16, shr_s16},
    {"shr.u32 %r4, %r1, %r2;", 32, shr_u32},
    {"shr.s32 %r4, %r1, %r2;", 32, shr_s32},
    {"shr.b64 %d4, %d1, %r2;", 64, shr_u64},
    {"shr.s64 %d4, %d1, %r2;", 64, shr_s64},
    {"shf.l.wrap.b32 %r4, %r1, %r2, %r3;", 32, shf_l_wrap},
    {"shf.r.wrap.b32 %r4, %r1, %r2, %r3;", 32, shf_r_wrap},
    {"shf.l.clamp.b32 %r4, %r1, %r2, %r3;", 32, shf_l_clamp},
    {"shf.r.clamp.b32 %r4, %r1, %r2, %r3;", 32, shf_r_clamp},
    {"selp.b32 %r4, %r1, %r2, %p1;", 32, selp32},
    {"lop3.b32 %r4, %r1, %r2, %r3, 0xca;", 32, lop3_select},
    {"lop3.b32 %r4, %r1, %r2, %r3, 0x96;", 32, lop3_parity},
    {"popc.b32 %r4, %r1;", 32, popc32},
    {"popc.b64 %r4, %d1;", 32, popc64},
    {"clz.b32 %r4, %r1;", 32, clz32},
    {"clz.b64 %r4, %d1;", 32, clz64},
    {"brev.b32 %r4, %r1;", 32, brev32},
    {"brev.b64 %d4, %d1;", 64, brev64},
    {"bfe.u32 %r4, %r1, %r2, %r3;", 32, bfe_u32},
    {"bfe.s32 %r4, %r1, %r2, %r3;", 32, bfe_s32},
    {"bfe.u64 %d4, %d1, %r2, %r3;", 64, bfe_u64},
    {"bfe.s64 %d4, %d1, %r2, %r3;", 64, bfe_s64},
    {"bfi.b32 %r4, %r1, %r2, 5, %r3;", 32, bfi_32},
    {"prmt.b32 %r4, %r1, %r2, %r3;", 32, prmt},
    {"prmt.b32 %r4, %r1, 0, 0x123U;", 32, bswap},
    {"add.cc.s64 %d5, %d1, %d2; addc.s64 %d4, %d3, %d1;", 64, carried_sum},
    {"sub.cc.s64 %d5, %d1, %d2; subc.s64 %d4, %d3, %d1;", 64, borrowed_difference},
    {"mad.lo.cc.u64 %d5, %d1, %d2, %d3; madc.hi.u64 %d4, %d1, %d2, 0;", 64, carried_product},
    {"setp.eq.s32 %p4, %r1, %r2;", 1, eq},
    {"setp.ne.b64 %p4, %d1, %d2;", 1, ne64},
    {"setp.lt.s32 %p4, %r1, %r2;", 1, lt_s32},
    {"setp.lo.u32 %p4, %r1, %r2;", 1, lt_u32},
    {"setp.le.s64 %p4, %d1, %d2;", 1, le_s64},
    {"setp.gt.u64 %p4, %d1, %d2;", 1, gt_u64},
    {"setp.ge.s16 %p4, %h1, %h2;", 1, ge_s16},
    {"setp.ls.u32 %p4, %r1, %r2;", 1, ls_u32},
    {"setp.lt.and.s32 %p4, %r1, %r2, %p1;", 1, lt_and},
    {"setp.lt.or.s32 %p5|%p4, %r1, %r2, %p1;", 1, not_lt_or},
    {"setp.lt.xor.s32 %p4|%p5, %r1, %r2, !%p1;", 1, lt_xor_not},
};
enum { INSTRUCTIONS = sizeof(instructions) / sizeof(instructions[0]) };

START_TEST(instructions_agree_with_c)
{
  const struct instruction *i = &instructions[_i];
  fill_operands();
  ptx_test_instruction(i->text, i->bits, (const uint64_t(*)[3])operands, PTX_TEST_OPERANDS,
                       i->expected);
}
END_TEST

/* and, or, xor, not of predicates: bit 0 of c with bit 0 of a. */
EXPECT(predicate_logic, uint64_t, uint64_t,
       (((a & c & 1) | ((a ^ c) & 1)) & ~(a & 1)) | ((c & 1) << 1) | 4)

START_TEST(predicates_are_values)
{
  fill_operands();
  ptx_test_instruction("and.b64 %d5, %d1, 1; setp.ne.s64 %p2, %d5, 0;\n"
                       "and.pred %p3, %p1, %p2; xor.pred %p5, %p1, %p2; or.pred %p6, %p3, %p5;\n"
                       "not.pred %p7, %p2; and.pred %p8, %p6, %p7; mov.pred %p9, %p1;\n"
                       "mov.pred %p10, 1; mov.pred %p11, -1; and.pred %p10, %p10, %p11;\n"
                       "selp.b64 %d4, 1, 0, %p8; selp.b64 %d5, 2, 0, %p9; or.b64 %d4, %d4, %d5;\n"
                       "selp.b64 %d5, 4, 0, %p10; or.b64 %d4, %d4, %d5;",
                       64, (const uint64_t(*)[3])operands, PTX_TEST_OPERANDS, predicate_logic);
}
END_TEST

EXPECT(repacked, uint64_t, uint64_t,
       (a & 0xffff) << 48 | (a & 0xffff0000) << 16 | (a >> 16 & 0xffff0000) | a >> 48)

START_TEST(vectors_pack_and_unpack)
{
  fill_operands();
  ptx_test_instruction("mov.b64 {%h4, %h5, %h6, %h7}, %d1; mov.b64 %d4, {%h7, %h6, %h5, %h4};", 64,
                       (const uint64_t(*)[3])operands, PTX_TEST_OPERANDS, repacked);
  ptx_test_instruction("mov.b64 {%r4, %r5}, %d1; mov.b32 {%h4, %h5}, %r4; mov.b32 {%h6, _}, %r5;\n"
                       "mov.b32 {_, %h7}, %r5; mov.b32 %r4, {%h7, %h6}; mov.b32 %r5, {%h5, %h4};\n"
                       "mov.b64 %d4, {%r4, %r5};",
                       64, (const uint64_t(*)[3])operands, PTX_TEST_OPERANDS, repacked);
}
END_TEST

int main(void)
{
  Suite *suite = suite_create("PTX: integers");
  TCase *tcase = tcase_create("integers");
  tcase_add_loop_test(tcase, instructions_agree_with_c, 0, INSTRUCTIONS);
  tcase_add_test(tcase, predicates_are_values);
  tcase_add_test(tcase, vectors_pack_and_unpack);
  suite_add_tcase(suite, tcase);
  return ptx_test_main(suite);
}
