/* The register-tiled product of one panel: c[n][lane] (+)= sum over k of a[k][lane] * b(k, n).
 *
 * A register tile holds `column_registers` columns of all of the panel's row vectors; every step of
 * the inner loop loads the row vectors of a once and broadcasts an element of b for each column.
 */
#include "compiler/target/host/dot_bf16.h"
#include "compiler/target/host/dot_int8.h"

#include <string.h>

enum { UNROLL = HOST_RANGE };

struct tile_function {
  struct host *h;
  const struct host_product *shape;
  LLVMValueRef a, a_stride, b, b_stride, c;
  LLVMValueRef first, end; /* of the range */
  LLVMValueRef factor[HOST_MAX_ROW_VECTORS];
};

/* Sums that each element of a register tile has. */
static uint32_t digits_of(const struct tile_function *f)
{
  return f->shape->codes ? DOT_DIGITS : 1;
}

static LLVMValueRef a_vector(struct tile_function *f, LLVMValueRef k, uint32_t v, uint32_t digit)
{
  struct emit *e = &f->h->e;
  if (f->shape->codes) {
    k = LLVMBuildMul(e->builder, k, emit_i64(e, DOT_DIGITS), "");
    k = LLVMBuildAdd(e->builder, k, emit_i64(e, DOT_HEAD + digit), "");
  }
  LLVMValueRef stride = f->shape->panel_a ? emit_i64(e, f->h->panel_rows) : f->a_stride;
  LLVMValueRef offset = LLVMBuildMul(e->builder, k, stride, "");
  offset = LLVMBuildAdd(e->builder, offset, emit_i64(e, (int64_t)v * e->lanes), "");
  return emit_load(e, emit_vector_type(e, e->f32), emit_address(e, e->f32, f->a, offset),
                   f->shape->panel_a ? 32 : 4);
}

/* One step over k for `width` columns whose row (transposed) or column of b starts at rows[w]. */
static void step(struct tile_function *f, LLVMValueRef k, uint32_t width,
                 const LLVMValueRef *starts, LLVMValueRef *sums)
{
  struct emit *e = &f->h->e;
  uint32_t digits = digits_of(f), vectors = f->h->schedule.row_vectors;
  LLVMValueRef a[HOST_MAX_ROW_VECTORS * DOT_DIGITS];
  for (uint32_t n = 0; n < vectors * digits; n++)
    a[n] = a_vector(f, k, n / digits, n % digits);
  LLVMValueRef row = f->shape->transpose_b ? k : LLVMBuildMul(e->builder, k, f->b_stride, "");
  for (uint32_t w = 0; w < width; w++) {
    LLVMValueRef b =
        emit_broadcast(e, emit_load(e, e->f32, emit_address(e, e->f32, starts[w], row), 4));
    for (uint32_t n = 0; n < vectors * digits; n++) {
      LLVMValueRef *sum = &sums[w * vectors * digits + n];
      *sum = f->shape->codes   ? dot_int8_add(f->h, a[n], b, *sum)
             : f->shape->pairs ? dot_add(f->h, a[n], b, *sum)
                               : emit_fma(e, a[n], b, *sum);
    }
  }
}

static LLVMValueRef c_address(struct tile_function *f, LLVMValueRef n, uint32_t w, uint32_t v)
{
  struct emit *e = &f->h->e;
  LLVMValueRef column = LLVMBuildAdd(e->builder, n, emit_i64(e, w), "");
  LLVMValueRef offset = LLVMBuildMul(e->builder, column, emit_i64(e, f->h->panel_rows), "");
  return emit_address(e, e->f32, f->c,
                      LLVMBuildAdd(e->builder, offset, emit_i64(e, (int64_t)v * e->lanes), ""));
}

static void inner_loop(struct tile_function *f, LLVMValueRef first, LLVMValueRef end,
                       int64_t unroll, uint32_t width, const LLVMValueRef *starts,
                       LLVMValueRef *sums)
{
  struct emit *e = &f->h->e;
  uint32_t count = width * f->h->schedule.row_vectors * digits_of(f);
  struct emit_loop loop;
  emit_loop_begin(e, &loop, first, end, unroll, sums, count);
  memcpy(sums, loop.carried, count * sizeof(*sums));
  for (int64_t u = 0; u < unroll; u++)
    step(f, LLVMBuildAdd(e->builder, loop.index, emit_i64(e, u), ""), width, starts, sums);
  emit_loop_end(e, &loop, sums);
  memcpy(sums, loop.result, count * sizeof(*sums));
}

/* What is added to: zero, or what c holds, scaled where that is asked for. */
static LLVMValueRef start_value(struct tile_function *f, LLVMValueRef n, uint32_t w, uint32_t v)
{
  struct emit *e = &f->h->e;
  LLVMTypeRef type = emit_vector_type(e, e->f32);
  if (f->shape->mode == HOST_PRODUCT_FRESH)
    return LLVMConstNull(type);
  LLVMValueRef sum = emit_load(e, type, c_address(f, n, w, v), 32);
  if (f->shape->mode == HOST_PRODUCT_SCALE_ADD)
    sum = LLVMBuildFMul(e->builder, sum, f->factor[v], "");
  return sum;
}

/* What the sums of digits mean, added to what c holds. */
static LLVMValueRef joined(struct tile_function *f, LLVMValueRef n, uint32_t w, uint32_t v,
                           LLVMValueRef row, const LLVMValueRef *sums)
{
  struct emit *e = &f->h->e;
  LLVMValueRef codes = NULL;
  if (f->shape->transpose_b)
    codes = emit_load(e, e->f32, emit_address(e, e->f32, row, emit_i64(e, f->shape->inner)), 4);
  LLVMValueRef sum = dot_int8_join(f->h, f->a, v, sums, codes);
  if (f->shape->mode == HOST_PRODUCT_FRESH)
    return sum;
  return LLVMBuildFAdd(e->builder, sum, start_value(f, n, w, v), "");
}

static void register_tile(struct tile_function *f, LLVMValueRef n, uint32_t width)
{
  struct emit *e = &f->h->e;
  uint32_t digits = digits_of(f), vectors = f->h->schedule.row_vectors;
  LLVMValueRef sums[EMIT_MAX_CARRIED];
  LLVMValueRef starts[HOST_MAX_COLUMN_REGISTERS];
  for (uint32_t w = 0; w < width; w++) {
    LLVMValueRef column = LLVMBuildAdd(e->builder, n, emit_i64(e, w), "");
    LLVMValueRef offset =
        f->shape->transpose_b ? LLVMBuildMul(e->builder, column, f->b_stride, "") : column;
    starts[w] = emit_address(e, e->f32, f->b, offset);
    for (uint32_t k = 0; k < vectors * digits; k++)
      sums[w * vectors * digits + k] =
          f->shape->codes ? LLVMConstNull(emit_vector_type(e, e->i32)) : start_value(f, n, w, k);
  }
  bool part = f->shape->range == HOST_PRODUCT_INNER;
  LLVMValueRef first = part ? f->first : emit_i64(e, 0);
  LLVMValueRef end = part ? f->end : emit_i64(e, f->shape->inner);
  LLVMValueRef length = LLVMBuildSub(e->builder, end, first, "");
  length = LLVMBuildAnd(e->builder, length, emit_i64(e, -UNROLL), "");
  LLVMValueRef rest = LLVMBuildAdd(e->builder, first, length, "");
  inner_loop(f, first, rest, UNROLL, width, starts, sums);
  if (part || f->shape->inner % UNROLL != 0)
    inner_loop(f, rest, end, 1, width, starts, sums);
  for (uint32_t w = 0; w < width; w++)
    for (uint32_t v = 0; v < vectors; v++) {
      const LLVMValueRef *own = &sums[(w * vectors + v) * digits];
      emit_store(e, f->shape->codes ? joined(f, n, w, v, starts[w], own) : *own,
                 c_address(f, n, w, v), 32);
    }
}

/* Columns of a register tile: sums of digits take as many registers as there are digits. */
static uint32_t widest_tile(const struct tile_function *f)
{
  uint32_t own = f->h->schedule.row_vectors * digits_of(f),
           columns = f->h->schedule.column_registers;
  uint32_t room = (f->h->registers - 1) / own - 1; /* besides the vectors of a and one of b */
  if (!f->shape->codes || columns <= room)
    return columns;
  return room == 0 ? 1 : room;
}

/* Columns are divided evenly among tiles, so that the last is not a thin one that could not hide
 * the latency of the multiply-adds. */
static void all_columns(struct tile_function *f)
{
  struct emit *e = &f->h->e;
  uint32_t widest = widest_tile(f), columns = f->shape->columns;
  uint32_t tiles = (columns + widest - 1) / widest;
  uint32_t narrow = columns / tiles;
  uint32_t wide_tiles = columns % tiles; /* of narrow + 1 columns */
  uint32_t wide_columns = wide_tiles * (narrow + 1);
  struct emit_loop loop;
  if (wide_tiles != 0) {
    emit_loop_begin(e, &loop, emit_i64(e, 0), emit_i64(e, wide_columns), narrow + 1, NULL, 0);
    register_tile(f, loop.index, narrow + 1);
    emit_loop_end(e, &loop, NULL);
  }
  emit_loop_begin(e, &loop, emit_i64(e, wide_columns), emit_i64(e, columns), narrow, NULL, 0);
  register_tile(f, loop.index, narrow);
  emit_loop_end(e, &loop, NULL);
}

/* The last tile of a range covers some columns of the one before again. */
static void some_columns(struct tile_function *f)
{
  struct emit *e = &f->h->e;
  uint32_t width = widest_tile(f);
  LLVMValueRef last = LLVMBuildSub(e->builder, f->end, emit_i64(e, width), "");
  struct emit_loop loop;
  emit_loop_begin(e, &loop, f->first, f->end, width, NULL, 0);
  register_tile(f, emit_intrinsic(e, "llvm.smin", e->i64, (LLVMValueRef[]){loop.index, last}, 2),
                width);
  emit_loop_end(e, &loop, NULL);
}

static void emit_product_function(struct host *h, struct host_product *shape)
{
  struct emit *e = &h->e;
  uint32_t vectors = h->schedule.row_vectors;
  bool ranged = shape->range != HOST_PRODUCT_WHOLE;
  LLVMTypeRef parameters[7 + HOST_MAX_ROW_VECTORS] = {e->pointer, e->i64, e->pointer, e->i64,
                                                      e->pointer, e->i64, e->i64};
  unsigned fixed = ranged ? 7 : 5;
  for (uint32_t v = 0; v < vectors; v++)
    parameters[fixed + v] = emit_vector_type(e, e->f32);
  unsigned count = shape->mode == HOST_PRODUCT_SCALE_ADD ? fixed + vectors : fixed;
  shape->type = LLVMFunctionType(e->none, parameters, count, false);
  struct host_outer outer;
  shape->function = host_function_begin(h, &outer, "product", shape->type);
  struct tile_function f = {.h = h, .shape = shape};
  f.a = LLVMGetParam(e->function, 0);
  f.a_stride = LLVMGetParam(e->function, 1);
  f.b = LLVMGetParam(e->function, 2);
  f.b_stride = LLVMGetParam(e->function, 3);
  f.c = LLVMGetParam(e->function, 4);
  if (ranged) {
    f.first = LLVMGetParam(e->function, 5);
    f.end = LLVMGetParam(e->function, 6);
  }
  for (uint32_t v = 0; v + fixed < count; v++)
    f.factor[v] = LLVMGetParam(e->function, fixed + v);
  if (shape->range == HOST_PRODUCT_COLUMNS)
    some_columns(&f);
  else
    all_columns(&f);
  host_function_end(h, &outer);
}

static const struct host_product *product_function(struct host *h, struct host_product wanted)
{
  for (size_t k = 0; k < h->products.count; k++) {
    const struct host_product *made = &h->products.items[k];
    if (made->inner == wanted.inner && made->columns == wanted.columns &&
        made->panel_a == wanted.panel_a && made->transpose_b == wanted.transpose_b &&
        made->pairs == wanted.pairs && made->codes == wanted.codes && made->mode == wanted.mode &&
        made->range == wanted.range)
      return made;
  }
  emit_product_function(h, &wanted);
  vector_push(h->arena, &h->products, wanted);
  return &h->products.items[h->products.count - 1];
}

bool host_product_has_ranges(struct host *h, uint32_t columns)
{
  uint32_t least = h->schedule.column_registers;
  return columns % HOST_RANGE == 0 && columns >= (least + HOST_RANGE - 1) / HOST_RANGE * HOST_RANGE;
}

void host_product(struct host *h, const struct tile_op *op, const struct host_operands *x)
{
  struct emit *e = &h->e;
  struct tile_type a_type = op->operands[0]->type;
  struct host_product wanted = {.inner = op->transpose_a ? a_type.rows : a_type.columns,
                                .columns = op->results[0]->type.columns,
                                .panel_a = x->a_stride == NULL,
                                .pairs = !x->digits && dot_is_product(h, op),
                                .codes = x->digits,
                                .transpose_b = op->transpose_b};
  if (wanted.pairs)
    wanted.inner = (wanted.inner + 1) / 2;
  else if (wanted.codes)
    wanted.inner = (wanted.inner + DOT_QUAD - 1) / DOT_QUAD;
  wanted.mode = !x->accumulate      ? HOST_PRODUCT_FRESH
                : x->factor == NULL ? HOST_PRODUCT_ADD
                                    : HOST_PRODUCT_SCALE_ADD;
  struct host_range range = {emit_i64(e, 0), emit_i64(e, wanted.inner)};
  if (x->inner != NULL)
    range = *x->inner;
  /* One function does for the whole and for a part. */
  if (x->inner != NULL || (!op->transpose_a && !op->transpose_b))
    wanted.range = HOST_PRODUCT_INNER;
  /* Columns that are added to cannot be covered twice. */
  else if (!x->accumulate && host_product_has_ranges(h, wanted.columns)) {
    wanted.range = HOST_PRODUCT_COLUMNS;
    range = (struct host_range){emit_i64(e, 0), emit_i64(e, wanted.columns)};
    if (x->columns != NULL)
      range = *x->columns;
  }
  const struct host_product *function = product_function(h, wanted);
  LLVMValueRef args[7 + HOST_MAX_ROW_VECTORS] = {
      x->a,       x->a_stride == NULL ? emit_i64(e, 0) : x->a_stride,
      x->b->base, x->b->stride,
      x->c,       range.first,
      range.end};
  unsigned count = wanted.range == HOST_PRODUCT_WHOLE ? 5 : 7;
  if (wanted.mode == HOST_PRODUCT_SCALE_ADD)
    for (uint32_t v = 0; v < h->schedule.row_vectors; v++)
      args[count++] = x->factor[v];
  LLVMBuildCall2(e->builder, function->type, function->function, args, count, "");
}
