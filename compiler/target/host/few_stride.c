/* Numbers that share a word of memory. Taking number n out of every word of a vector is a shift and
 * a mask, and gives columns n, stride + n, 2 stride + n, ..., so that vectors of neighbouring
 * columns are not made at all: what multiplies them is brought into that order, and sums back from
 * it. */
#include "compiler/emit/narrow.h"
#include "compiler/target/host/few.h"

#include <string.h>

static bool is_narrow_float(enum dtype type)
{
  return type == DTYPE_E4M3 || type == DTYPE_E5M2;
}

static uint32_t bits_of(enum dtype type)
{
  return 8 / tile_elements_per_byte(type);
}

/* Whether the operand can be read at that stride. `words`: set where it should be. */
static bool can_stride(struct few_rows *rows, uint32_t stride, bool *words)
{
  const struct tile_op *op = rows->value->def;
  if (rows->value->type.kind == TILE_KIND_SCALAR || rows->value->type.columns == 1)
    return true;
  switch ((int)rows->place.kind) {
  case HOST_SPLAT: return true;
  case HOST_VIEW: {
    enum dtype stored = rows->place.view->stored;
    *words = true;
    if (rows->value->type.element != TILE_F32)
      return false;
    if (is_narrow_float(stored))
      return stride == 2 || (stride == 4 && emit_takes_fours(&rows->h->e, stored));
    uint32_t bits = bits_of(stored) * stride;
    return rows->place.view->offset != NULL && bits >= 8 && bits <= emit_word_bits(stored);
  }
  case HOST_LAZY: break;
  default: return false;
  }
  if (op->kind == TILE_PERMUTE) {
    const uint32_t repeats = few_repeats(rows->h, op), set = rows->h->e.lanes * stride;
    return repeats % stride == 0 && (set % repeats == 0 || repeats % set == 0);
  }
  for (uint32_t k = 0; k < op->operand_count; k++)
    if (!can_stride(&rows->operands[k], stride, words))
      return false;
  return true;
}

uint32_t few_stride(struct few_rows *rows, uint32_t columns)
{
  for (uint32_t stride = FEW_MOST_STRIDE; stride > 1; stride /= 2) {
    bool words = false;
    if (columns % (stride * rows->h->e.lanes) == 0 && can_stride(rows, stride, &words) && words)
      return stride;
  }
  return 1;
}

LLVMValueRef few_words(struct few_rows *rows, uint32_t row, LLVMValueRef column, uint32_t stride)
{
  struct emit *e = &rows->h->e;
  const enum dtype stored = rows->place.view->stored;
  const uint32_t bits = bits_of(stored);
  LLVMTypeRef word = LLVMIntTypeInContext(e->context, bits * stride);
  const bool filled = bits * stride >= emit_word_bits(stored);
  LLVMValueRef byte = LLVMBuildUDiv(e->builder, column, emit_i64(e, 8 / bits), "");
  LLVMValueRef words =
      emit_load(e, emit_vector_type(e, word), emit_address(e, e->i8, rows->address[row], byte), 1);
  LLVMTypeRef whole = LLVMIntTypeInContext(e->context, emit_word_bits(stored));
  return filled ? words : LLVMBuildZExt(e->builder, words, emit_vector_type(e, whole), "");
}

LLVMValueRef few_raw_words(struct few_rows *rows, uint32_t row, const struct few_columns *at)
{
  LLVMValueRef words = few_words(rows, row, at->first, at->stride);
  return emit_from_words(&rows->h->e, rows->place.view->stored, words, at->number);
}

LLVMValueRef few_from_words(struct few_rows *rows, uint32_t row, const struct few_columns *at)
{
  LLVMBuilderRef b = rows->h->e.builder;
  const enum dtype stored = rows->place.view->stored;
  LLVMValueRef vector = few_raw_words(rows, row, at);
  if (emit_words_offset(stored) != 0)
    vector = LLVMBuildFSub(b, vector, emit_float_like(vector, emit_words_offset(stored)), "");
  if (few_unit(rows) != 1)
    vector = LLVMBuildFMul(b, vector, emit_float_like(vector, few_unit(rows)), "");
  return vector;
}

bool few_affine_parts(struct few_rows *rows, struct few_affine *parts)
{
  const struct expr *product = rows->expr, *zero = NULL;
  if (product == NULL || rows->value->type.element != TILE_F32)
    return false;
  if (product->op == EXPR_ADD) {
    bool second = product->args[1]->op == EXPR_MUL;
    zero = product->args[second ? 0 : 1];
    product = product->args[second ? 1 : 0];
    if (zero->op != EXPR_ARG)
      return false;
  }
  if (product->op != EXPR_MUL || product->args[0]->op != EXPR_ARG ||
      product->args[1]->op != EXPR_ARG)
    return false;
  parts->zero = zero == NULL ? NULL : &rows->operands[zero->value.i];
  for (uint32_t k = 0; k < 2; k++) {
    parts->codes = &rows->operands[product->args[k]->value.i];
    parts->scale = &rows->operands[product->args[1 - k]->value.i];
    if (parts->codes->place.kind == HOST_VIEW && parts->codes->place.view->offset != NULL &&
        parts->codes->value->type.element == TILE_F32 && parts->scale != parts->codes &&
        parts->zero != parts->codes)
      return true;
  }
  return false;
}

/* What is the same for all numbers of a word is found once: the zero of raw words. */
LLVMValueRef few_affine(struct few_rows *rows, uint32_t row, const struct few_columns *at,
                        const struct few_affine *parts)
{
  struct emit *e = &rows->h->e;
  const bool raw = at->stride != 1;
  LLVMValueRef codes =
      raw ? few_raw_words(parts->codes, row, at) : few_elements(parts->codes, row, at);
  LLVMValueRef scale = emit_broadcast(e, few_elements(parts->scale, row, at));
  LLVMValueRef zero = NULL;
  if (parts->zero != NULL)
    zero = emit_broadcast(e, few_elements(parts->zero, row, at));
  if (raw) {
    LLVMValueRef offset =
        emit_float_like(scale, -emit_words_offset(parts->codes->place.view->stored));
    zero = zero == NULL ? LLVMBuildFMul(e->builder, scale, offset, "")
                        : emit_fma(e, scale, offset, zero);
  }
  return zero == NULL ? LLVMBuildFMul(e->builder, codes, scale, "")
                      : emit_fma(e, codes, scale, zero);
}

LLVMValueRef few_repeated(struct few_rows *rows, uint32_t row, LLVMValueRef column,
                          uint32_t repeats, uint32_t stride)
{
  struct emit *e = &rows->h->e;
  const unsigned lanes = e->lanes;
  const uint32_t count = lanes * stride / repeats;
  LLVMValueRef order[64];
  for (uint32_t k = 0; k < lanes; k++)
    order[k] = emit_i32(e, (int32_t)(k * stride / repeats));
  e->lanes = count;
  const struct few_columns at = {.first = column, .count = count, .stride = 1};
  LLVMValueRef some = few_elements(rows, row, &at);
  e->lanes = lanes;
  return LLVMBuildShuffleVector(e->builder, some, LLVMGetPoison(LLVMTypeOf(some)),
                                LLVMConstVector(order, lanes), "");
}

/* ---- orders ---- */

/* Lanes `first`, first + step, ... of the two vectors one after the other, `step` 2; or, `step` 1,
 * lanes of one and the other in turn from number `first` on. LLVM is kept from knowing how the
 * vector was made: of shuffles of shuffles it would try to make fewer ones, in vain. */
static LLVMValueRef half_of(struct host *h, LLVMValueRef x, LLVMValueRef y, uint32_t first,
                            uint32_t step)
{
  struct emit *e = &h->e;
  LLVMValueRef order[64];
  for (uint32_t k = 0; k < e->lanes; k++)
    order[k] = emit_i32(e, (int32_t)(step == 2 ? first + 2 * k : first + k / 2 + k % 2 * e->lanes));
  LLVMValueRef half =
      LLVMBuildShuffleVector(e->builder, x, y, LLVMConstVector(order, e->lanes), "");
  return emit_intrinsic(e, "llvm.arithmetic.fence", LLVMTypeOf(half), &half, 1);
}

void few_take_apart(struct host *h, LLVMValueRef *vectors, uint32_t stride)
{
  LLVMValueRef parts[2][FEW_MOST_STRIDE / 2];
  if (stride == 1)
    return;
  for (uint32_t n = 0; n < 2; n++) {
    for (uint32_t k = 0; k < stride / 2; k++)
      parts[n][k] = half_of(h, vectors[2 * k], vectors[2 * k + 1], n, 2);
    few_take_apart(h, parts[n], stride / 2);
  }
  for (uint32_t k = 0; k < stride; k++)
    vectors[k] = parts[k % 2][k / 2];
}

void few_put_together(struct host *h, LLVMValueRef *vectors, uint32_t stride)
{
  LLVMValueRef parts[2][FEW_MOST_STRIDE / 2];
  if (stride == 1)
    return;
  for (uint32_t k = 0; k < stride; k++)
    parts[k % 2][k / 2] = vectors[k];
  for (uint32_t n = 0; n < 2; n++)
    few_put_together(h, parts[n], stride / 2);
  for (uint32_t k = 0; k < stride / 2; k++) {
    vectors[2 * k] = half_of(h, parts[0][k], parts[1][k], 0, 1);
    vectors[2 * k + 1] = half_of(h, parts[0][k], parts[1][k], h->e.lanes / 2, 1);
  }
}
