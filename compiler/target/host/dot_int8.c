/* Products of rows by codes of 8 bits, by the processor's dot products of bytes (VPDPBUSD of
 * AVX512_VNNI, "Intel 64 and IA-32 Architectures Software Developer's Manual", volume 2), which add
 * four products to every i32 sum.
 *
 * A row x becomes 16 bits of its range, split into two unsigned digits of 8 bits:
 * x = low + step * (256 * high digit + low digit), with a `low` that makes 0 exact. Sums of digits
 * times codes are exact; they are converted once. Where no row has negative numbers `low` is 0.
 *
 * An element is off by half a step, range * 2^-17, and a product by no more than that times the sum
 * of |codes|; what f32 rounds besides is a hundredth of it. Specs that come here are of 16 bits,
 * where the error rule (docs/attnc.md) allows twice what a direct evaluation loses by rounding
 * scores, weights, values and o to 11 bits or less.
 *
 * Rows of Q: range <= 2 * largest, so where the largest is at most 2^5 times a typical element,
 * each is off by at most 2^-11 of that: no more than by rounding a typical element to 11 bits.
 * Typical is the power mean of exponent 1/4, which a few large elements do not raise: one that is
 * 1/32 of the largest needs two fifths of the elements to be as large as that. Rows with a larger
 * element, or one that is not finite, go the way of f32, a panel at a time. Left is a key that has
 * codes of note only where the row is far below its typical element: its score is small, and is
 * off by 2^-11 of what it would be elsewhere.
 *
 * Weights of N keys: range = W, the largest, and a sum is off by at most N * 2^-17 * W * 127, by
 * about sqrt(N / 3) of these N as rounding goes. The scales of the keys are in the weights and the
 * codes of a key reach the end of their range, so that some channel has a term of 127 * W: with N
 * of 128, the error is 2^-14 of it (2^-10 if all were of one sign), and o is rounded by 2^-12.
 */
#include "compiler/target/host/dot_int8.h"

#include <string.h>

enum { FULL = 65533, MOST_COLUMNS = 1 << 16 /* for which 255 * 128 each fit in i32 */ };

bool dot_int8_is_product(struct host *h, const struct tile_op *op)
{
  return h->dots_int8 && op->kind == TILE_PRODUCT && op->codes && !op->transpose_a &&
         op->operands[0]->type.rows > HOST_FEW_ROWS && op->operands[0]->type.columns > DOT_QUAD &&
         op->operands[0]->type.columns <= MOST_COLUMNS && op->results[0]->type.columns > 1;
}

LLVMValueRef dot_int8_add(struct host *h, LLVMValueRef digits, LLVMValueRef codes, LLVMValueRef sum)
{
  static const char *const names[3] = {"llvm.x86.avx512.vpdpbusd.128",
                                       "llvm.x86.avx512.vpdpbusd.256",
                                       "llvm.x86.avx512.vpdpbusd.512"};
  struct emit *e = &h->e;
  const char *name = names[e->lanes == 4 ? 0 : e->lanes == 8 ? 1 : 2];
  unsigned id = LLVMLookupIntrinsicID(name, strlen(name));
  LLVMValueRef function = LLVMGetIntrinsicDeclaration(e->module, id, NULL, 0);
  LLVMTypeRef bytes = LLVMTypeOf(LLVMGetParam(function, 1)); /* differs between LLVM's versions */
  LLVMValueRef args[3] = {sum, LLVMBuildBitCast(e->builder, digits, bytes, ""),
                          LLVMBuildBitCast(e->builder, codes, bytes, "")};
  return emit_intrinsic(e, name, NULL, args, 3);
}

struct host_range dot_int8_quads_of(struct host *h, const struct host_range *range)
{
  struct emit *e = &h->e;
  LLVMValueRef two = emit_i64(e, 2);
  LLVMValueRef end = LLVMBuildAdd(e->builder, range->end, emit_i64(e, DOT_QUAD - 1), "");
  return (struct host_range){LLVMBuildLShr(e->builder, range->first, two, ""),
                             LLVMBuildLShr(e->builder, end, two, "")};
}

/* ---- a panel of rows ---- */

struct split {
  struct panel_loop *g;
  LLVMValueRef from, to;
  uint32_t columns;
  const struct host_range *range;
  bool is_signed;
};

static LLVMValueRef vector_at(struct host *h, LLVMValueRef base, LLVMValueRef row, uint32_t v)
{
  struct emit *e = &h->e;
  LLVMValueRef offset = LLVMBuildMul(e->builder, row, emit_i64(e, h->panel_rows), "");
  offset = LLVMBuildAdd(e->builder, offset, emit_i64(e, (int64_t)v * e->lanes), "");
  return emit_address(e, e->f32, base, offset);
}

static LLVMValueRef bits_of(struct emit *e, LLVMValueRef x)
{
  return LLVMBuildBitCast(e->builder, x, emit_vector_type(e, e->i32), "");
}

static LLVMValueRef number_of(struct emit *e, LLVMValueRef bits)
{
  return LLVMBuildBitCast(e->builder, bits, emit_vector_type(e, e->f32), "");
}

static LLVMValueRef least(struct emit *e, LLVMValueRef a, LLVMValueRef b)
{
  LLVMValueRef less = LLVMBuildFCmp(e->builder, LLVMRealOLT, a, b, "");
  return emit_select(e, less, a, b);
}

static LLVMValueRef most(struct emit *e, LLVMValueRef a, LLVMValueRef b)
{
  LLVMValueRef more = LLVMBuildFCmp(e->builder, LLVMRealOGT, a, b, "");
  return emit_select(e, more, a, b);
}

/* About the fourth root of |x|, 6 % too large at most: a quarter of the exponent. 2^30 stands for
 * 2^120; numbers that are not finite get 2^32 and more. */
static LLVMValueRef fourth_root(struct emit *e, LLVMValueRef x)
{
  LLVMValueRef bits = bits_of(e, x);
  LLVMTypeRef type = LLVMTypeOf(bits);
  bits = LLVMBuildAnd(e->builder, bits, emit_int_of(type, 0x7fffffff), "");
  bits = LLVMBuildLShr(e->builder, bits, emit_int_of(type, 2), "");
  return number_of(e, LLVMBuildAdd(e->builder, bits, emit_int_of(type, 0x2fa00000), ""));
}

/* Of each row: 0 or the least element, 0 or the largest, and the sum of all fourth roots. Of rows
 * without negative numbers only the largest of their bits as unsigned numbers: order is that of the
 * numbers, with negative ones and those that are not finite above all. */
static void extremes(struct split *s, LLVMValueRef found[3][HOST_MAX_ROW_VECTORS])
{
  struct host *h = s->g->h;
  struct emit *e = &h->e;
  uint32_t vectors = h->schedule.row_vectors, kinds = s->is_signed ? 3 : 1;
  LLVMTypeRef floats = emit_vector_type(e, e->f32);
  LLVMValueRef carried[3 * HOST_MAX_ROW_VECTORS];
  for (uint32_t k = 0; k < kinds * vectors; k++)
    carried[k] = LLVMConstNull(s->is_signed ? floats : emit_vector_type(e, e->i32));
  struct emit_loop loop;
  emit_loop_begin(e, &loop, s->range == NULL ? emit_i64(e, 0) : s->range->first,
                  s->range == NULL ? emit_i64(e, s->columns) : s->range->end, 1, carried,
                  kinds * vectors);
  for (uint32_t v = 0; v < vectors; v++) {
    LLVMValueRef x = emit_load(e, floats, vector_at(h, s->from, loop.index, v), 4);
    LLVMValueRef *own = &loop.carried[kinds * v], *next = &carried[kinds * v];
    if (s->is_signed) {
      next[0] = least(e, x, own[0]);
      next[1] = most(e, x, own[1]);
      next[2] = LLVMBuildFAdd(e->builder, own[2], fourth_root(e, x), "");
    } else {
      LLVMValueRef both[2] = {own[0], bits_of(e, x)};
      next[0] = emit_intrinsic(e, "llvm.umax", LLVMTypeOf(own[0]), both, 2);
    }
  }
  emit_loop_end(e, &loop, carried);
  for (uint32_t k = 0; k < kinds * vectors; k++)
    found[k % kinds][k / kinds] = loop.result[k];
}

/* <i1>: rows of live lanes that digits cannot stand for. */
static LLVMValueRef misfits(struct split *s, LLVMValueRef found[3][HOST_MAX_ROW_VECTORS],
                            uint32_t v)
{
  struct emit *e = &s->g->h->e;
  LLVMBuilderRef at = e->builder;
  LLVMValueRef bad;
  if (s->is_signed) {
    const double far = 2.3784; /* the fourth root of 2^5 */
    LLVMValueRef largest = fourth_root(e, most(e, LLVMBuildFNeg(at, found[0][v], ""), found[1][v]));
    LLVMValueRef others = LLVMBuildFSub(at, found[2][v], largest, "");
    others = LLVMBuildFMul(at, others, emit_float_like(others, far / (s->columns - 1.0)), "");
    bad = LLVMBuildFCmp(at, LLVMRealULT, others, largest, "");
    LLVMValueRef limit = emit_float_like(others, 0x1p30); /* the range, too, is finite then */
    bad = LLVMBuildOr(at, bad, LLVMBuildFCmp(at, LLVMRealUGT, found[2][v], limit, ""), "");
  } else {
    LLVMValueRef limit = bits_of(e, emit_float_of(emit_vector_type(e, e->f32), 0x1p120));
    bad = LLVMBuildICmp(at, LLVMIntUGT, found[0][v], limit, "");
  }
  return LLVMBuildAnd(at, bad, panel_live_lanes(s->g, v), "");
}

/* Bytes of four numbers below 2^16 in their lower halves: the lower ones, the upper ones. */
static void pack_quad(struct emit *e, const LLVMValueRef x[DOT_QUAD],
                      LLVMValueRef digits[DOT_DIGITS])
{
  LLVMBuilderRef at = e->builder;
  LLVMTypeRef type = LLVMTypeOf(x[0]);
  LLVMValueRef eight = emit_int_of(type, 8), sixteen = emit_int_of(type, 16), half[2];
  for (int k = 0; k < 2; k++)
    half[k] = LLVMBuildOr(at, LLVMBuildAnd(at, x[k], emit_int_of(type, 0xffff), ""),
                          LLVMBuildShl(at, x[k + 2], sixteen, ""), "");
  LLVMValueRef even = emit_int_of(type, 0x00ff00ff), odd = emit_int_of(type, 0xff00ff00);
  LLVMValueRef first = LLVMBuildAnd(at, LLVMBuildLShr(at, half[0], eight, ""), even, "");
  digits[0] = LLVMBuildOr(at, first, LLVMBuildAnd(at, half[1], odd, ""), "");
  LLVMValueRef second = LLVMBuildAnd(at, LLVMBuildShl(at, half[1], eight, ""), odd, "");
  digits[1] = LLVMBuildOr(at, LLVMBuildAnd(at, half[0], even, ""), second, "");
}

/* Element number `index` of a row; 0 where it is not in the range. */
static LLVMValueRef element(struct split *s, LLVMValueRef index, uint32_t v)
{
  struct host *h = s->g->h;
  struct emit *e = &h->e;
  LLVMTypeRef floats = emit_vector_type(e, e->f32);
  struct host_range all = {emit_i64(e, 0), emit_i64(e, s->columns)};
  const struct host_range *range = s->range;
  if (range == NULL && s->columns % DOT_QUAD != 0)
    range = &all;
  if (range == NULL)
    return emit_load(e, floats, vector_at(h, s->from, index, v), 4);
  LLVMValueRef in =
      LLVMBuildAnd(e->builder, LLVMBuildICmp(e->builder, LLVMIntSGE, index, range->first, ""),
                   LLVMBuildICmp(e->builder, LLVMIntSLT, index, range->end, ""), "");
  LLVMValueRef last[2] = {index, emit_i64(e, s->columns - 1)};
  index = emit_intrinsic(e, "llvm.smin", e->i64, last, 2);
  LLVMValueRef x = emit_load(e, floats, vector_at(h, s->from, index, v), 4);
  return emit_select(e, in, x, LLVMConstNull(floats));
}

/* Adding 2^23 leaves a number below that as an integer in the lower bits, rounded to nearest. */
static void split_quads(struct split *s, LLVMValueRef *inverse, LLVMValueRef *shift)
{
  struct host *h = s->g->h;
  struct emit *e = &h->e;
  struct host_range quads = {emit_i64(e, 0), emit_i64(e, (s->columns + DOT_QUAD - 1) / DOT_QUAD)};
  if (s->range != NULL)
    quads = dot_int8_quads_of(h, s->range);
  struct emit_loop loop;
  emit_loop_begin(e, &loop, quads.first, quads.end, 1, NULL, 0);
  LLVMValueRef first = LLVMBuildMul(e->builder, loop.index, emit_i64(e, DOT_QUAD), "");
  LLVMValueRef row = LLVMBuildMul(e->builder, loop.index, emit_i64(e, DOT_DIGITS), "");
  row = LLVMBuildAdd(e->builder, row, emit_i64(e, DOT_HEAD), "");
  for (uint32_t v = 0; v < h->schedule.row_vectors; v++) {
    LLVMValueRef x[DOT_QUAD], digits[DOT_DIGITS];
    for (int k = 0; k < DOT_QUAD; k++) {
      x[k] = element(s, LLVMBuildAdd(e->builder, first, emit_i64(e, k), ""), v);
      x[k] = bits_of(e, emit_fma(e, x[k], inverse[v], shift[v]));
    }
    pack_quad(e, x, digits);
    for (int k = 0; k < DOT_DIGITS; k++)
      emit_store(e, digits[k],
                 vector_at(h, s->to, LLVMBuildAdd(e->builder, row, emit_i64(e, k), ""), v), 32);
  }
  emit_loop_end(e, &loop, NULL);
}

LLVMValueRef dot_int8_split(struct panel_loop *g, const struct tile_op *op, LLVMValueRef from,
                            const struct host_range *range)
{
  struct host *h = g->h;
  struct emit *e = &h->e;
  LLVMBuilderRef at = e->builder;
  uint32_t columns = op->operands[0]->type.columns;
  size_t rows = DOT_HEAD + (size_t)(columns + DOT_QUAD - 1) / DOT_QUAD * DOT_DIGITS;
  LLVMValueRef to = host_allocate(h, rows * h->panel_rows * sizeof(float));
  struct split s = {g, from, to, columns, range, op->transpose_b};
  LLVMValueRef found[3][HOST_MAX_ROW_VECTORS];
  LLVMValueRef inverse[HOST_MAX_ROW_VECTORS], shift[HOST_MAX_ROW_VECTORS];
  extremes(&s, found);
  for (uint32_t v = 0; v < h->schedule.row_vectors; v++) {
    LLVMValueRef span =
        s.is_signed ? LLVMBuildFSub(at, found[1][v], found[0][v], "") : number_of(e, found[0][v]);
    span = most(e, span, emit_float_like(span, 0x1p-100)); /* 0 of 0 is to be 0 */
    LLVMValueRef full = emit_float_like(span, FULL), step = LLVMBuildFDiv(at, span, full, "");
    LLVMValueRef low = LLVMConstNull(LLVMTypeOf(span));
    inverse[v] = LLVMBuildFDiv(at, full, span, "");
    shift[v] = emit_float_like(span, 0x1p23);
    if (s.is_signed) {
      /* One more, so that the least element is not rounded to below 2^23. */
      LLVMValueRef below = LLVMBuildFNeg(at, found[0][v], "");
      shift[v] = emit_fma(e, below, inverse[v], emit_float_like(span, 0x1p23 + 1));
      low = LLVMBuildFSub(at, emit_float_like(span, 0x1p23), shift[v], "");
      low = LLVMBuildFMul(at, low, step, "");
    }
    emit_store(e, low, vector_at(h, to, emit_i64(e, 0), v), 32);
    emit_store(e, step, vector_at(h, to, emit_i64(e, 1), v), 32);
    LLVMValueRef bad = misfits(&s, found, v);
    bad = LLVMBuildSExt(at, bad, emit_vector_type(e, e->i32), "");
    emit_store(e, bad, vector_at(h, to, emit_i64(e, 2), v), 32);
  }
  split_quads(&s, inverse, shift);
  return to;
}

LLVMValueRef dot_int8_fits(struct host *h, LLVMValueRef digits)
{
  struct emit *e = &h->e;
  LLVMTypeRef type = emit_vector_type(e, e->i32);
  LLVMValueRef bad = NULL;
  for (uint32_t v = 0; v < h->schedule.row_vectors; v++) {
    LLVMValueRef own = emit_load(e, type, vector_at(h, digits, emit_i64(e, 2), v), 32);
    bad = bad == NULL ? own : LLVMBuildOr(e->builder, bad, own, "");
  }
  bad = emit_intrinsic(e, "llvm.vector.reduce.or", type, &bad, 1);
  return LLVMBuildICmp(e->builder, LLVMIntEQ, bad, emit_i32(e, 0), "");
}

LLVMValueRef dot_int8_join(struct host *h, LLVMValueRef digits, uint32_t vector,
                           const LLVMValueRef *sums, LLVMValueRef codes)
{
  struct emit *e = &h->e;
  LLVMTypeRef type = emit_vector_type(e, e->f32);
  LLVMValueRef high = LLVMBuildSIToFP(e->builder, sums[0], type, "");
  LLVMValueRef low = LLVMBuildSIToFP(e->builder, sums[1], type, "");
  LLVMValueRef step = emit_load(e, type, vector_at(h, digits, emit_i64(e, 1), vector), 32);
  LLVMValueRef sum = emit_fma(e, high, emit_float_like(high, 256), low);
  if (codes == NULL)
    return LLVMBuildFMul(e->builder, sum, step, "");
  LLVMValueRef from = emit_load(e, type, vector_at(h, digits, emit_i64(e, 0), vector), 32);
  return emit_fma(e, sum, step, LLVMBuildFMul(e->builder, from, emit_broadcast(e, codes), ""));
}

/* ---- the second operand ---- */

/* Codes of a row from `column` on, in i32; zeros from the tile's last column on. */
static LLVMValueRef codes_at(struct host *h, struct tile_type type, LLVMValueRef row,
                             LLVMValueRef column)
{
  struct emit *e = &h->e;
  LLVMTypeRef floats = emit_vector_type(e, e->f32);
  LLVMValueRef x = emit_load(e, floats, emit_address(e, e->f32, row, column), 4);
  /* 1.5 * 2^23 + x: the lower bits are those of the integer, negative ones, too. */
  LLVMValueRef bits = LLVMBuildFAdd(e->builder, x, emit_float_like(x, 0x1.8p23), "");
  bits = bits_of(e, bits);
  if (type.columns % e->lanes == 0)
    return bits;
  return emit_select(e, host_lane_mask(h, column, type.columns), bits,
                     LLVMConstNull(LLVMTypeOf(bits)));
}

static void pack_rows(struct host *h, struct tile_type type, const struct host_value *from,
                      const struct host_value *to, uint32_t quads)
{
  struct emit *e = &h->e;
  LLVMTypeRef i8s = emit_vector_type(e, e->i8), i32s = emit_vector_type(e, e->i32);
  struct emit_loop rows, loop;
  emit_loop_begin(e, &rows, emit_i64(e, 0), emit_i64(e, type.rows), 1, NULL, 0);
  LLVMValueRef at = LLVMBuildMul(e->builder, rows.index, from->stride, "");
  LLVMValueRef source = emit_address(e, e->f32, from->base, at);
  LLVMValueRef target = LLVMBuildMul(e->builder, rows.index, to->stride, "");
  target = emit_address(e, e->i32, to->base, target);
  LLVMValueRef sum = LLVMConstNull(i32s);
  emit_loop_begin(e, &loop, emit_i64(e, 0), emit_i64(e, type.columns), e->lanes, &sum, 1);
  LLVMValueRef codes = LLVMBuildTrunc(e->builder, codes_at(h, type, source, loop.index), i8s, "");
  emit_store(e, codes, emit_address(e, e->i8, target, loop.index), 1);
  sum = LLVMBuildAdd(e->builder, loop.carried[0], LLVMBuildSExt(e->builder, codes, i32s, ""), "");
  emit_loop_end(e, &loop, &sum);
  sum = emit_intrinsic(e, "llvm.vector.reduce.add", i32s, loop.result, 1);
  emit_store(e, LLVMBuildSIToFP(e->builder, sum, e->f32, ""),
             emit_address(e, e->f32, target, emit_i64(e, quads)), 4);
  emit_loop_end(e, &rows, NULL);
}

/* Every four rows become one of quads; rows beyond the last count as zeros. */
static void pack_columns(struct host *h, struct tile_type type, const struct host_value *from,
                         const struct host_value *to)
{
  struct emit *e = &h->e;
  LLVMBuilderRef at = e->builder;
  LLVMTypeRef i32s = emit_vector_type(e, e->i32);
  struct emit_loop rows, loop;
  emit_loop_begin(e, &rows, emit_i64(e, 0), emit_i64(e, (type.rows + DOT_QUAD - 1) / DOT_QUAD), 1,
                  NULL, 0);
  LLVMValueRef starts[DOT_QUAD];
  for (int k = 0; k < DOT_QUAD; k++) {
    LLVMValueRef row = LLVMBuildMul(at, rows.index, emit_i64(e, DOT_QUAD), "");
    LLVMValueRef last[2] = {LLVMBuildAdd(at, row, emit_i64(e, k), ""), emit_i64(e, type.rows - 1)};
    row = emit_intrinsic(e, "llvm.smin", e->i64, last, 2);
    starts[k] = emit_address(e, e->f32, from->base, LLVMBuildMul(at, row, from->stride, ""));
  }
  LLVMValueRef target = LLVMBuildMul(at, rows.index, to->stride, "");
  emit_loop_begin(e, &loop, emit_i64(e, 0), emit_i64(e, type.columns), e->lanes, NULL, 0);
  LLVMValueRef quad = NULL;
  for (int k = 0; k < DOT_QUAD; k++) {
    LLVMValueRef code = codes_at(h, type, starts[k], loop.index);
    code = LLVMBuildAnd(at, code, emit_int_of(i32s, 0xff), "");
    code = LLVMBuildShl(at, code, emit_int_of(i32s, 8 * k), "");
    quad = quad == NULL ? code : LLVMBuildOr(at, quad, code, "");
  }
  emit_store(e, quad, emit_address(e, e->i32, to->base, LLVMBuildAdd(at, target, loop.index, "")),
             4);
  emit_loop_end(e, &loop, NULL);
  emit_loop_end(e, &rows, NULL);
}

struct host_value dot_int8_pack(struct host *h, const struct tile_op *op,
                                const struct host_value *from)
{
  struct tile_type type = op->operands[1]->type;
  uint32_t lanes = h->e.lanes, stride = (type.columns + lanes - 1) / lanes * lanes;
  uint32_t quads = (type.columns + DOT_QUAD - 1) / DOT_QUAD, rows = type.rows;
  if (op->transpose_b)
    stride = stride / DOT_QUAD + 1;
  else
    rows = (rows + DOT_QUAD - 1) / DOT_QUAD;
  struct host_value to = *from;
  to.stride = emit_i64(&h->e, stride);
  to.base = host_allocate(h, ((size_t)rows * stride + lanes) * sizeof(int32_t));
  if (op->transpose_b)
    pack_rows(h, type, from, &to, quads);
  else
    pack_columns(h, type, from, &to);
  return to;
}
