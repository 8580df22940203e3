/* Products of bf16 tiles by the processor's dot products of pairs (VDPBF16PS of AVX512_BF16, "Intel
 * 64 and IA-32 Architectures Software Developer's Manual", volume 2), which add two products to
 * every f32 sum: twice as many as multiply-adds of f32 do. They take subnormal numbers for zeros
 * and make none.
 *
 * A tile of bf16 lies in memory as f32, as other tiles do. A product packs its operands: two
 * consecutive elements along what is summed over share 32 bits, the first in the low half, so that
 * the register tile of product.c has pairs where it has elements of f32. The second operand is
 * packed once, before the loop over panels, the first panel by panel.
 */
#include "compiler/target/host/dot_bf16.h"

bool dot_is_product(struct host *h, const struct tile_op *op)
{
  if (!h->dots_bf16 || op->kind != TILE_PRODUCT || op->transpose_a)
    return false;
  struct tile_type a = op->operands[0]->type, b = op->operands[1]->type;
  return a.element == TILE_BF16 && b.element == TILE_BF16 && a.rows > HOST_FEW_ROWS &&
         a.columns > 1 && b.columns > 1;
}

bool dot_rounds(struct host *h, const struct tile_op *op)
{
  if (op->kind != TILE_CONVERT || op->operands[0]->type.element != TILE_F32 ||
      op->results[0]->type.element != TILE_BF16 || !host_is_panel(h, op->results[0]) ||
      !host_is_panel(h, op->operands[0]) || op->results[0]->type.columns == 1 ||
      !host_is_pending(h, op->operands[0]))
    return false;
  const struct host_info *info = host_info(h, op->results[0]);
  for (size_t k = 0; k < info->users.count; k++) {
    const struct tile_op *user = info->users.items[k];
    if (user->kind != TILE_PRODUCT || user->operands[0] != op->results[0] || user->transpose_a ||
        user->operands[1] == op->results[0] || !panel_op_pending(h, user))
      return false;
  }
  return true;
}

static LLVMTypeRef pair_type(struct host *h)
{
  return LLVMVectorType(h->e.bf16, 2 * h->e.lanes);
}

/* "llvm.x86.avx512bf16." and the rest, of the vectors at hand. */
static LLVMValueRef of_width(struct host *h, const char *const names[3], LLVMValueRef *args,
                             unsigned count)
{
  const char *name = names[h->e.lanes == 4 ? 0 : h->e.lanes == 8 ? 1 : 2];
  return emit_intrinsic(&h->e, name, NULL, args, count);
}

LLVMValueRef dot_add(struct host *h, LLVMValueRef a, LLVMValueRef b, LLVMValueRef sum)
{
  static const char *const names[3] = {"llvm.x86.avx512bf16.dpbf16ps.128",
                                       "llvm.x86.avx512bf16.dpbf16ps.256",
                                       "llvm.x86.avx512bf16.dpbf16ps.512"};
  LLVMBuilderRef builder = h->e.builder;
  LLVMValueRef args[3] = {sum, LLVMBuildBitCast(builder, a, pair_type(h), ""),
                          LLVMBuildBitCast(builder, b, pair_type(h), "")};
  return of_width(h, names, args, 3);
}

/* Pairs of two vectors' elements, rounded to bf16. */
static LLVMValueRef rounded_pairs(struct host *h, LLVMValueRef low, LLVMValueRef high)
{
  static const char *const names[3] = {"llvm.x86.avx512bf16.cvtne2ps2bf16.128",
                                       "llvm.x86.avx512bf16.cvtne2ps2bf16.256",
                                       "llvm.x86.avx512bf16.cvtne2ps2bf16.512"};
  struct emit *e = &h->e;
  LLVMValueRef both = of_width(h, names, (LLVMValueRef[]){high, low}, 2), order[64];
  for (unsigned k = 0; k < e->lanes; k++) {
    order[2 * k] = emit_i32(e, (int32_t)k);
    order[2 * k + 1] = emit_i32(e, (int32_t)(e->lanes + k));
  }
  both = LLVMBuildShuffleVector(e->builder, both, LLVMGetPoison(LLVMTypeOf(both)),
                                LLVMConstVector(order, 2 * e->lanes), "");
  return LLVMBuildBitCast(e->builder, both, emit_vector_type(e, e->f32), "");
}

/* ---- the first operand ---- */

static LLVMValueRef panel_column(struct host *h, LLVMValueRef base, LLVMValueRef column, uint32_t v)
{
  struct emit *e = &h->e;
  LLVMValueRef offset = LLVMBuildMul(e->builder, column, emit_i64(e, h->panel_rows), "");
  offset = LLVMBuildAdd(e->builder, offset, emit_i64(e, (int64_t)v * e->lanes), "");
  return emit_address(e, e->f32, base, offset);
}

/* Pair number `index` again, with zero for what lies outside the range: it was not computed. */
static void cut_pair(struct host *h, LLVMValueRef from, LLVMValueRef to, LLVMValueRef index,
                     const struct host_range *range)
{
  struct emit *e = &h->e;
  LLVMTypeRef type = emit_vector_type(e, e->f32);
  LLVMValueRef zero = LLVMConstNull(type);
  LLVMValueRef low = LLVMBuildMul(e->builder, index, emit_i64(e, 2), "");
  LLVMValueRef high = LLVMBuildAdd(e->builder, low, emit_i64(e, 1), "");
  LLVMValueRef has_low = LLVMBuildICmp(e->builder, LLVMIntSGE, low, range->first, "");
  LLVMValueRef has_high = LLVMBuildICmp(e->builder, LLVMIntSLT, high, range->end, "");
  for (uint32_t v = 0; v < h->schedule.row_vectors; v++) {
    LLVMValueRef a = emit_load(e, type, panel_column(h, from, low, v), 4);
    LLVMValueRef b = emit_load(e, type, panel_column(h, from, high, v), 4);
    a = emit_select(e, has_low, a, zero);
    b = emit_select(e, has_high, b, zero);
    emit_store(e, rounded_pairs(h, a, b), panel_column(h, to, index, v), 32);
  }
}

/* A range may begin and end within a pair. Where it is empty nobody reads what this writes. */
static void cut_ends(struct host *h, LLVMValueRef from, LLVMValueRef to, uint32_t columns,
                     const struct host_range *range, const struct host_range *pairs)
{
  struct emit *e = &h->e;
  LLVMValueRef most = emit_i64(e, columns / 2 - 1), one = emit_i64(e, 1);
  LLVMValueRef first[2] = {pairs->first, most};
  first[0] = emit_intrinsic(e, "llvm.smin", e->i64, first, 2);
  LLVMValueRef last[2] = {LLVMBuildSub(e->builder, pairs->end, one, ""), first[0]};
  last[0] = emit_intrinsic(e, "llvm.smax", e->i64, last, 2);
  last[1] = most;
  cut_pair(h, from, to, first[0], range);
  cut_pair(h, from, to, emit_intrinsic(e, "llvm.smin", e->i64, last, 2), range);
}

LLVMValueRef dot_pack_panel(struct host *h, LLVMValueRef from, uint32_t columns,
                            const struct host_range *range)
{
  struct emit *e = &h->e;
  LLVMTypeRef type = emit_vector_type(e, e->f32);
  LLVMValueRef to = host_allocate(h, (size_t)h->panel_rows * ((columns + 1) / 2) * sizeof(float));
  struct host_range pairs = {emit_i64(e, 0), emit_i64(e, columns / 2)};
  if (range != NULL) {
    LLVMValueRef whole = pairs.end;
    pairs = dot_pairs_of(h, range);
    pairs.end = emit_intrinsic(e, "llvm.smin", e->i64, (LLVMValueRef[]){pairs.end, whole}, 2);
  }
  struct emit_loop loop;
  emit_loop_begin(e, &loop, pairs.first, pairs.end, 1, NULL, 0);
  LLVMValueRef low = LLVMBuildMul(e->builder, loop.index, emit_i64(e, 2), "");
  LLVMValueRef high = LLVMBuildAdd(e->builder, low, emit_i64(e, 1), "");
  for (uint32_t v = 0; v < h->schedule.row_vectors; v++) {
    LLVMValueRef a = emit_load(e, type, panel_column(h, from, low, v), 4);
    LLVMValueRef b = emit_load(e, type, panel_column(h, from, high, v), 4);
    emit_store(e, rounded_pairs(h, a, b), panel_column(h, to, loop.index, v), 32);
  }
  emit_loop_end(e, &loop, NULL);
  if (range != NULL && columns > 1)
    cut_ends(h, from, to, columns, range, &pairs);
  for (uint32_t v = 0; v < h->schedule.row_vectors && columns % 2 != 0; v++) {
    LLVMValueRef a = emit_load(e, type, panel_column(h, from, emit_i64(e, columns - 1), v), 4);
    emit_store(e, rounded_pairs(h, a, LLVMConstNull(type)),
               panel_column(h, to, emit_i64(e, columns / 2), v), 32);
  }
  return to;
}

struct host_range dot_pairs_of(struct host *h, const struct host_range *range)
{
  struct emit *e = &h->e;
  LLVMValueRef one = emit_i64(e, 1), end = LLVMBuildAdd(e->builder, range->end, one, "");
  return (struct host_range){LLVMBuildLShr(e->builder, range->first, one, ""),
                             LLVMBuildLShr(e->builder, end, one, "")};
}

/* ---- the second operand ---- */

/* The bits of the elements from `column` on of a row that begins at `row`, whose lower halves are
 * zero; zeros from the tile's last column on. */
static LLVMValueRef bits_at(struct host *h, struct tile_type type, LLVMValueRef row,
                            LLVMValueRef column)
{
  struct emit *e = &h->e;
  LLVMTypeRef vector = emit_vector_type(e, e->i32);
  LLVMValueRef bits = emit_load(e, vector, emit_address(e, e->i32, row, column), 4);
  if (type.columns % e->lanes == 0)
    return bits;
  return emit_select(e, host_lane_mask(h, column, type.columns), bits, LLVMConstNull(vector));
}

/* Rows as they are, in 16 bits an element: pairs are neighbours in a row. */
static void pack_rows(struct host *h, struct tile_type type, const struct host_value *from,
                      const struct host_value *to)
{
  struct emit *e = &h->e;
  LLVMTypeRef i16s = emit_vector_type(e, e->i16);
  LLVMValueRef sixteen = emit_int_of(emit_vector_type(e, e->i32), 16);
  struct emit_loop rows, loop;
  emit_loop_begin(e, &rows, emit_i64(e, 0), emit_i64(e, type.rows), 1, NULL, 0);
  LLVMValueRef at = LLVMBuildMul(e->builder, rows.index, from->stride, "");
  LLVMValueRef source = emit_address(e, e->i32, from->base, at);
  LLVMValueRef target = LLVMBuildMul(e->builder, rows.index, to->stride, "");
  target = emit_address(e, e->i32, to->base, target);
  emit_loop_begin(e, &loop, emit_i64(e, 0), emit_i64(e, type.columns), e->lanes, NULL, 0);
  LLVMValueRef bits = bits_at(h, type, source, loop.index);
  bits = LLVMBuildTrunc(e->builder, LLVMBuildLShr(e->builder, bits, sixteen, ""), i16s, "");
  emit_store(e, bits, emit_address(e, e->i16, target, loop.index), 2);
  emit_loop_end(e, &loop, NULL);
  emit_loop_end(e, &rows, NULL);
}

/* Row number `row` from `column` on; zeros where it is not in the range. */
static LLVMValueRef row_bits(struct host *h, struct tile_type type, const struct host_value *from,
                             LLVMValueRef row, LLVMValueRef column, const struct host_range *range)
{
  struct emit *e = &h->e;
  LLVMValueRef last[2] = {row, emit_i64(e, type.rows - 1)};
  LLVMValueRef at = emit_intrinsic(e, "llvm.smin", e->i64, last, 2);
  at = LLVMBuildMul(e->builder, at, from->stride, "");
  LLVMValueRef bits = bits_at(h, type, emit_address(e, e->i32, from->base, at), column);
  if (range == NULL)
    return bits;
  LLVMValueRef in = LLVMBuildICmp(e->builder, LLVMIntSGE, row, range->first, "");
  in = LLVMBuildAnd(e->builder, in, LLVMBuildICmp(e->builder, LLVMIntSLT, row, range->end, ""), "");
  return emit_select(e, in, bits, LLVMConstNull(LLVMTypeOf(bits)));
}

/* Every two rows become one of pairs. */
static void pack_columns(struct host *h, struct tile_type type, const struct host_value *from,
                         const struct host_value *to)
{
  struct emit *e = &h->e;
  struct host_range all = {emit_i64(e, 0), emit_i64(e, type.rows)};
  const struct host_range *range = from->needed;
  if (range == NULL && type.rows % 2 != 0)
    range = &all;
  struct host_range pairs = dot_pairs_of(h, range == NULL ? &all : range);
  LLVMTypeRef vector = emit_vector_type(e, e->i32);
  struct emit_loop rows, loop;
  emit_loop_begin(e, &rows, pairs.first, pairs.end, 1, NULL, 0);
  LLVMValueRef row = LLVMBuildMul(e->builder, rows.index, emit_i64(e, 2), "");
  LLVMValueRef next = LLVMBuildAdd(e->builder, row, emit_i64(e, 1), "");
  LLVMValueRef target = LLVMBuildMul(e->builder, rows.index, to->stride, "");
  emit_loop_begin(e, &loop, emit_i64(e, 0), emit_i64(e, type.columns), e->lanes, NULL, 0);
  LLVMValueRef low = row_bits(h, type, from, row, loop.index, range);
  LLVMValueRef high = row_bits(h, type, from, next, loop.index, range);
  low = LLVMBuildLShr(e->builder, low, emit_int_of(vector, 16), "");
  LLVMValueRef at = LLVMBuildAdd(e->builder, target, loop.index, "");
  emit_store(e, LLVMBuildOr(e->builder, low, high, ""), emit_address(e, e->i32, to->base, at), 4);
  emit_loop_end(e, &loop, NULL);
  emit_loop_end(e, &rows, NULL);
}

struct host_value dot_pack_second(struct host *h, const struct tile_op *op,
                                  const struct host_value *from)
{
  struct tile_type type = op->operands[1]->type;
  uint32_t stride = (type.columns + h->e.lanes - 1) / h->e.lanes * h->e.lanes;
  uint32_t rows = type.rows;
  if (op->transpose_b)
    stride /= 2;
  else
    rows = (rows + 1) / 2;
  struct host_value to = *from;
  to.stride = emit_i64(&h->e, stride);
  to.base = host_allocate(h, (size_t)rows * stride * sizeof(float));
  if (op->transpose_b)
    pack_rows(h, type, from, &to);
  else
    pack_columns(h, type, from, &to);
  return to;
}
