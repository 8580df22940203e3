/* Products on the tensor cores: the layouts are those of emit_gpu_mma. */
#include "compiler/target/nvptx/lower.h"

/* An operand in shared memory. Its outer index is a row of a or a column of b, its inner index the
 * one that is summed over. */
struct side {
  struct gpu_place place;
  bool along_rows;           /* the outer index counts rows of the place, not columns */
  bool stays_inside;         /* no block of a warp lies beyond the place */
  LLVMValueRef outer, inner; /* i32: what this thread reads first */
  LLVMValueRef pointer;      /* to that */
};

struct product {
  struct gpu *g;
  const struct tile_op *op;
  uint32_t inner;                     /* indices that this warp sums over */
  uint32_t row_blocks, column_blocks; /* of this warp */
  bool apart;                         /* which are its own columns of a */
  bool a_in_shared;
  const LLVMValueRef *kept; /* a, where it was read into registers before */
  struct side a, b;
  const LLVMValueRef *registers; /* of a, where it is a fragment */
  LLVMValueRef *c;               /* rows x columns accumulators of the thread */
  uint32_t c_columns;
};

static LLVMValueRef sum(struct gpu *g, LLVMValueRef a, LLVMValueRef b)
{
  return LLVMBuildAdd(g->e->builder, a, b, "");
}

/* A bit of the lane's number, times `scale`. */
static LLVMValueRef lane_bit(struct gpu *g, uint32_t shift, int32_t scale)
{
  struct emit *e = g->e;
  LLVMValueRef bit = LLVMBuildLShr(e->builder, g->lane, emit_i32(e, (int32_t)shift), "");
  bit = LLVMBuildAnd(e->builder, bit, emit_i32(e, 1), "");
  return LLVMBuildMul(e->builder, bit, emit_i32(e, scale), "");
}

static LLVMValueRef lane_low(struct gpu *g, int32_t mask)
{
  return LLVMBuildAnd(g->e->builder, g->lane, emit_i32(g->e, mask), "");
}

/* Settles where a thread of the warp reads, given the lane's part of both indices. The warps divide
 * the outer index among them, each `blocks` blocks of `size`. */
static void side_begin(struct gpu *g, struct side *side, uint32_t warps, LLVMValueRef warp,
                       uint32_t blocks, uint32_t size, LLVMValueRef outer, LLVMValueRef inner)
{
  struct emit *e = g->e;
  side->stays_inside =
      warps * blocks * size <= (side->along_rows ? side->place.rows : side->place.columns);
  if (warps > 1)
    outer =
        sum(g, outer, LLVMBuildMul(e->builder, warp, emit_i32(e, (int32_t)(blocks * size)), ""));
  side->outer = outer;
  side->inner = inner;
}

/* Bytes from the place to what the thread reads first. */
static LLVMValueRef side_offset(struct gpu *g, const struct side *side)
{
  return side->along_rows ? gpu_distance(g, &side->place, side->outer, side->inner)
                          : gpu_distance(g, &side->place, side->inner, side->outer);
}

static void side_point(struct gpu *g, struct side *side, LLVMValueRef offset)
{
  side->pointer = emit_gpu_shared(g->e, sum(g, side->place.offset, offset));
}

/* The pointer to `outer` and `inner` further on. Beyond the place, where nothing of the result is
 * computed, the last `count` outer indices are read instead. */
static LLVMValueRef side_at(struct gpu *g, const struct side *side, uint32_t outer, uint32_t inner,
                            uint32_t count)
{
  struct emit *e = g->e;
  const struct gpu_place *place = &side->place;
  if (side->stays_inside) {
    uint32_t rows = side->along_rows ? outer : inner, columns = side->along_rows ? inner : outer;
    return gpu_further(g, side->pointer,
                       (int64_t)rows * place->pitch +
                           (int64_t)columns * residence_element_bytes(place->element));
  }
  LLVMValueRef last =
      emit_i32(e, (int32_t)((side->along_rows ? place->rows : place->columns) - count));
  LLVMValueRef at = sum(g, side->outer, emit_i32(e, (int32_t)outer));
  at = emit_intrinsic(e, "llvm.smin", e->i32, (LLVMValueRef[]){at, last}, 2);
  LLVMValueRef within = sum(g, side->inner, emit_i32(e, (int32_t)inner));
  return side->along_rows ? gpu_address(g, place, at, within) : gpu_address(g, place, within, at);
}

static void begin_a(struct product *p, LLVMValueRef outer, LLVMValueRef inner)
{
  struct gpu *g = p->g;
  side_begin(g, &p->a, g->row_warps, g->warp_row, p->row_blocks, 16, outer, inner);
}

static void begin_b(struct product *p, LLVMValueRef outer, LLVMValueRef inner)
{
  struct gpu *g = p->g;
  struct emit *e = g->e;
  if (p->apart) {
    LLVMValueRef first =
        LLVMBuildMul(e->builder, g->warp_column, emit_i32(e, (int32_t)p->inner), "");
    side_begin(g, &p->b, 1, NULL, p->column_blocks, 8, outer, sum(g, inner, first));
    return;
  }
  side_begin(g, &p->b, g->column_warps, g->warp_column, p->column_blocks, 8, outer, inner);
}

/* ---- 16-bit operands ---- */

/* Which row of which matrix each thread names to ldmatrix. */
static void half_begin_a(struct product *p)
{
  struct gpu *g = p->g;
  if (p->op->transpose_a)
    begin_a(p, lane_bit(g, 3, 8), sum(g, lane_low(g, 7), lane_bit(g, 4, 8)));
  else
    begin_a(p, lane_low(g, 15), lane_bit(g, 4, 8));
}

static void half_begin_b(struct product *p)
{
  struct gpu *g = p->g;
  if (p->op->transpose_b)
    begin_b(p, sum(g, lane_low(g, 7), lane_bit(g, 4, 8)), lane_bit(g, 3, 8));
  else
    begin_b(p, lane_bit(g, 4, 8), lane_low(g, 15));
}

static LLVMValueRef half_offset_a(struct gpu *g, void *user)
{
  struct product p = *(struct product *)user;
  half_begin_a(&p);
  return side_offset(g, &p.a);
}

static LLVMValueRef half_offset_b(struct gpu *g, void *user)
{
  struct product p = *(struct product *)user;
  half_begin_b(&p);
  return side_offset(g, &p.b);
}

static void half_begin(struct product *p)
{
  struct gpu *g = p->g;
  enum { FIRST, FIRST_TRANSPOSED, SECOND, SECOND_TRANSPOSED, APART = 4 };
  if (p->a_in_shared) {
    const struct gpu_key key = {p->op->transpose_a ? FIRST_TRANSPOSED : FIRST, p->row_blocks,
                                p->a.place.pitch};
    half_begin_a(p);
    side_point(g, &p->a, gpu_once(g, key, half_offset_a, p));
  }
  const uint32_t second = p->op->transpose_b ? SECOND_TRANSPOSED : SECOND;
  const struct gpu_key key = {p->apart ? APART + second : second,
                              p->apart ? p->inner : p->column_blocks, p->b.place.pitch};
  half_begin_b(p);
  side_point(g, &p->b, gpu_once(g, key, half_offset_b, p));
}

/* Columns beyond the tile's own must be zero. */
static LLVMValueRef own_pair(struct product *p, uint32_t number, uint32_t c)
{
  struct emit *e = p->g->e;
  struct tile_type type = p->op->operands[0]->type;
  LLVMValueRef pair = p->registers[number];
  LLVMValueRef first = gpu_column_exists(p->g, type, c);
  if (first == NULL)
    return pair;
  LLVMValueRef second = gpu_column_exists(p->g, type, c + 1);
  LLVMValueRef low = LLVMBuildAnd(e->builder, pair, emit_i32(e, 0xffff), "");
  return emit_select(e, first, emit_select(e, second, pair, low), emit_i32(e, 0));
}

/* a for inner indices from k on, of 16. */
static void half_a(struct product *p, uint32_t block, uint32_t k, LLVMValueRef out[4])
{
  struct gpu *g = p->g;
  for (uint32_t n = 0; n < 4 && p->kept != NULL; n++)
    out[n] = p->kept[(block * ((p->inner + 15) / 16) + k / 16) * 4 + n];
  if (p->kept != NULL)
    return;
  if (p->a_in_shared) {
    LLVMValueRef pointer = side_at(g, &p->a, 16 * block, k, p->op->transpose_a ? 8 : 1);
    emit_gpu_ldmatrix(g->e, 4, p->op->transpose_a, pointer, out);
    return;
  }
  struct gpu_shape shape = gpu_shape(g, p->op->operands[0]->type);
  for (uint32_t n = 0; n < 4; n++) {
    uint32_t r = 2 * block + n % 2, c = k / 8 * 2 + n / 2 * 2;
    out[n] = c < shape.columns ? own_pair(p, (r * shape.columns + c) / 2, c) : emit_i32(g->e, 0);
  }
}

/* b for inner indices from k on, of 16, for the blocks `block` and the next, if there is one:
 * out[2 n], out[2 n + 1] for the nth. */
static void half_b(struct product *p, uint32_t block, uint32_t k, LLVMValueRef out[4])
{
  struct gpu *g = p->g;
  bool transposed = !p->op->transpose_b;
  unsigned count = block + 1 < p->column_blocks ? 4 : 2;
  emit_gpu_ldmatrix(g->e, count, transposed, side_at(g, &p->b, 8 * block, k, transposed ? 8 : 1),
                    out);
}

static void half_product(struct product *p)
{
  struct gpu *g = p->g;
  enum dtype type = gpu_half_type(p->op->operands[0]->type.element);
  LLVMValueRef(*a)[4] = arena_alloc(g->arena, sizeof(*a) * p->row_blocks);
  half_begin(p);
  for (uint32_t k = 0; k < p->inner; k += 16) {
    for (uint32_t m = 0; m < p->row_blocks; m++)
      half_a(p, m, k, a[m]);
    for (uint32_t n = 0; n < p->column_blocks; n++) {
      static const uint32_t pair = 2;
      LLVMValueRef both[4];
      half_b(p, n, k, both);
      for (uint32_t side = 0; side < pair && n + side < p->column_blocks; side++)
        for (uint32_t m = 0; m < p->row_blocks; m++) {
          LLVMValueRef c[4];
          LLVMValueRef *at = &p->c[2 * m * p->c_columns + 2 * (n + side)];
          c[0] = at[0], c[1] = at[1], c[2] = at[p->c_columns], c[3] = at[p->c_columns + 1];
          emit_gpu_mma(g->e, type, a[m], &both[2 * side], c);
          at[0] = c[0], at[1] = c[1], at[p->c_columns] = c[2], at[p->c_columns + 1] = c[3];
        }
      n += pair - 1;
    }
  }
}

void gpu_keep(struct gpu *g, const struct tile_value *value)
{
  struct gpu_value *v = gpu_value(g, value);
  const uint32_t count = residence_kept(g->where, value);
  const uint32_t blocks = gpu_row_blocks(g, value->type.rows), steps = v->place.columns / 16;
  if (count == 0)
    return;
  struct side a = {.place = v->place, .along_rows = true};
  side_begin(g, &a, g->row_warps, g->warp_row, blocks, 16, lane_low(g, 15), lane_bit(g, 4, 8));
  side_point(g, &a, side_offset(g, &a));
  v->kept = ARENA_ARRAY(g->arena, LLVMValueRef, count);
  for (uint32_t n = 0; n < blocks * steps; n++)
    emit_gpu_ldmatrix(g->e, 4, false, side_at(g, &a, 16 * (n / steps), 16 * (n % steps), 1),
                      &v->kept[4 * n]);
}

/* ---- f32 operands, as tf32 in two parts ---- */

struct split {
  LLVMValueRef high, low; /* i32 */
  LLVMValueRef finite;    /* high, but 0 where that is infinite or NaN */
};

/* x = high + low up to 2^-21 or so of x; infinities have no low part. In the products with low
 * parts `finite` stands for high: infinity times a low part of 0 or of the other sign would give
 * NaN. */
static struct split split(struct gpu *g, LLVMValueRef x)
{
  struct emit *e = g->e;
  struct split s = {.high = emit_gpu_to_tf32(e, x)};
  LLVMValueRef rest =
      LLVMBuildFSub(e->builder, x, LLVMBuildBitCast(e->builder, s.high, e->f32, ""), "");
  LLVMValueRef is_number = LLVMBuildFCmp(e->builder, LLVMRealORD, rest, rest, "");
  s.low = emit_gpu_to_tf32(e, emit_select(e, is_number, rest, emit_float_like(rest, 0)));
  s.finite = emit_select(e, is_number, s.high, emit_i32(e, 0));
  return s;
}

/* The inner indices of a step of 8 are taken in the order 0 2 4 6 1 3 5 7, in both operands: a
 * thread then needs of a what it has of an accumulator, and neighbours in memory. */
static void float_begin(struct product *p)
{
  struct gpu *g = p->g;
  if (p->a_in_shared) {
    begin_a(p, g->lane_row, g->lane_column);
    side_point(g, &p->a, side_offset(g, &p->a));
  }
  begin_b(p, g->lane_row, g->lane_column);
  side_point(g, &p->b, side_offset(g, &p->b));
}

static void float_a(struct product *p, uint32_t block, uint32_t k, struct split out[4])
{
  struct gpu *g = p->g;
  struct tile_type type = p->op->operands[0]->type;
  struct gpu_shape shape = gpu_shape(g, type);
  for (uint32_t n = 0; n < 4; n++) {
    if (p->a_in_shared) {
      LLVMValueRef at = side_at(g, &p->a, 16 * block + n % 2 * 8, k + n / 2, 1);
      out[n] = split(g, gpu_load_from(g, &p->a.place, at));
      continue;
    }
    uint32_t c = k / 8 * 2 + n / 2;
    LLVMValueRef x = p->registers[(2 * block + n % 2) * shape.columns + c];
    LLVMValueRef exists = gpu_column_exists(g, type, c);
    if (exists != NULL)
      x = emit_select(g->e, exists, x, emit_float_like(x, 0));
    out[n] = split(g, x);
  }
}

static void float_b(struct product *p, uint32_t block, uint32_t k, struct split out[2])
{
  for (uint32_t second = 0; second < 2; second++) {
    LLVMValueRef at = side_at(p->g, &p->b, 8 * block, k + second, 1);
    out[second] = split(p->g, gpu_load_from(p->g, &p->b.place, at));
  }
}

/* The hardware cuts sums off instead of rounding them ("Numerical behavior of NVIDIA tensor cores",
 * Fasi et al. 2021), always towards zero: over a long row the errors add up. Each sum of so many
 * inner indices therefore starts at zero, and is added to the accumulator by an ordinary addition.
 */
enum {
  FLOAT_CHAIN = 32,
  FLOAT_BLOCKS = 4 /* column blocks that are summed at a time, for the registers' sake */
};

/* Columns from block `first` to `end`, inner indices from k on, of 8. */
static void float_step(struct product *p, struct split (*a)[4], uint32_t first, uint32_t end,
                       uint32_t k, LLVMValueRef (*sums)[FLOAT_BLOCKS][4])
{
  struct gpu *g = p->g;
  for (uint32_t m = 0; m < p->row_blocks; m++)
    float_a(p, m, k, a[m]);
  for (uint32_t n = first; n < end; n++) {
    struct split b[2];
    float_b(p, n, k, b);
    LLVMValueRef high_b[2] = {b[0].high, b[1].high}, low_b[2] = {b[0].low, b[1].low};
    LLVMValueRef finite_b[2] = {b[0].finite, b[1].finite};
    for (uint32_t m = 0; m < p->row_blocks; m++) {
      LLVMValueRef high[4], low[4], finite[4];
      for (uint32_t n4 = 0; n4 < 4; n4++)
        high[n4] = a[m][n4].high, low[n4] = a[m][n4].low, finite[n4] = a[m][n4].finite;
      /* The small ones first. */
      emit_gpu_mma(g->e, DTYPE_F32, low, finite_b, sums[m][n - first]);
      emit_gpu_mma(g->e, DTYPE_F32, finite, low_b, sums[m][n - first]);
      emit_gpu_mma(g->e, DTYPE_F32, high, high_b, sums[m][n - first]);
    }
  }
}

static void float_chain(struct product *p, struct split (*a)[4], uint32_t first, uint32_t k)
{
  struct gpu *g = p->g;
  uint32_t end = first + FLOAT_BLOCKS < p->column_blocks ? first + FLOAT_BLOCKS : p->column_blocks;
  LLVMValueRef(*sums)[FLOAT_BLOCKS][4] = arena_alloc(g->arena, sizeof(*sums) * p->row_blocks);
  for (uint32_t m = 0; m < p->row_blocks; m++)
    for (uint32_t n = 0; n < FLOAT_BLOCKS * 4; n++)
      sums[m][n / 4][n % 4] = emit_float_of(g->e->f32, 0);
  for (uint32_t step = k; step < p->inner && step < k + FLOAT_CHAIN; step += 8)
    float_step(p, a, first, end, step, sums);
  for (uint32_t m = 0; m < p->row_blocks; m++)
    for (uint32_t n = first; n < end; n++)
      for (uint32_t k4 = 0; k4 < 4; k4++) {
        LLVMValueRef *at = &p->c[(2 * m + k4 / 2) * p->c_columns + 2 * n + k4 % 2];
        *at = LLVMBuildFAdd(g->e->builder, *at, sums[m][n - first][k4], "");
      }
}

static void float_product(struct product *p)
{
  struct split(*a)[4] = arena_alloc(p->g->arena, sizeof(*a) * p->row_blocks);
  float_begin(p);
  for (uint32_t k = 0; k < p->inner; k += FLOAT_CHAIN)
    for (uint32_t first = 0; first < p->column_blocks; first += FLOAT_BLOCKS)
      float_chain(p, a, first, k);
}

/* ---- vectors: a product whose result has one row or column has no accumulators of mma ---- */

/* Element (m, k) of a or (k, n) of b, from shared memory. */
static LLVMValueRef operand_at(struct gpu *g, const struct gpu_place *place, bool transposed,
                               LLVMValueRef row, LLVMValueRef column)
{
  return transposed ? gpu_shared_load(g, place, column, row)
                    : gpu_shared_load(g, place, row, column);
}

static void vector_product(struct product *p)
{
  struct gpu *g = p->g;
  struct emit *e = g->e;
  struct tile_type type = p->op->results[0]->type;
  struct gpu_shape shape = gpu_shape(g, type);
  uint32_t count = shape.rows * shape.columns;
  LLVMValueRef *rows = ARENA_ARRAY(g->arena, LLVMValueRef, count);
  LLVMValueRef *columns = ARENA_ARRAY(g->arena, LLVMValueRef, count);
  LLVMValueRef *next = ARENA_ARRAY(g->arena, LLVMValueRef, count);
  for (uint32_t k = 0; k < count; k++) {
    uint32_t r = k / shape.columns, c = k % shape.columns;
    LLVMValueRef exists = gpu_exists(g, type, r, c);
    rows[k] = gpu_row(g, type, r), columns[k] = gpu_column(g, type, c);
    if (exists != NULL) {
      rows[k] = emit_select(e, exists, rows[k], emit_i32(e, 0));
      columns[k] = emit_select(e, exists, columns[k], emit_i32(e, 0));
    }
  }
  /* Elements one after the other: a loop carries no more than EMIT_MAX_CARRIED. */
  for (uint32_t k = 0; k < count; k++) {
    struct emit_loop loop;
    emit_loop_begin(e, &loop, emit_i32(e, 0), emit_i32(e, (int32_t)p->inner), 1, &p->c[k], 1);
    LLVMValueRef a = operand_at(g, &p->a.place, p->op->transpose_a, rows[k], loop.index);
    LLVMValueRef b = operand_at(g, &p->b.place, p->op->transpose_b, loop.index, columns[k]);
    next[k] = emit_fma(e, a, b, loop.carried[0]);
    emit_loop_end(e, &loop, &next[k]);
    p->c[k] = loop.result[0];
  }
}

void gpu_product(struct gpu *g, const struct tile_op *op)
{
  const struct tile_value *a = op->operands[0], *b = op->operands[1], *result = op->results[0];
  const bool apart = residence_is_apart(g->where, result);
  const uint32_t warps = g->column_warps;
  if (apart)
    gpu_enter_apart(g);
  struct gpu_shape shape = gpu_shape(g, result->type);
  struct product p = {
      .g = g,
      .op = op,
      .inner = op->transpose_a ? a->type.rows : a->type.columns,
      .row_blocks = gpu_row_blocks(g, result->type.rows),
      .column_blocks = gpu_column_blocks(g, result->type.columns),
      .apart = apart,
      .c_columns = shape.columns,
      .a.along_rows = !op->transpose_a,
      .b.along_rows = op->transpose_b,
  };
  uint32_t used = g->shared_used;
  uint32_t count = gpu_register_count(g, result->type);
  gpu_leave_apart(g, warps);
  p.inner /= apart ? warps : 1;
  p.c = ARENA_ARRAY(g->arena, LLVMValueRef, count);
  const LLVMValueRef *start = NULL;
  if (op->operand_count > 2)
    start = gpu_registers(g, op->operands[2]);
  for (uint32_t k = 0; k < count; k++)
    p.c[k] = start != NULL ? start[k] : LLVMConstReal(g->e->f32, 0);

  bool vectors = result->type.rows == 1 || result->type.columns == 1 || p.inner == 1;
  struct gpu_value *first = gpu_value(g, a);
  p.kept = vectors || op->transpose_a ? NULL : first->kept;
  p.a_in_shared =
      !apart && p.kept == NULL &&
      (vectors || op->transpose_a || warps > 1 || first->in_shared || first->kind != GPU_FRAGMENT);
  /* The stream of b, if it is one, arrives after that of a. */
  if (p.a_in_shared)
    p.a.place = gpu_in_shared(g, a, op->transpose_a ? READ_COLUMNS : READ_ROWS);
  else
    p.registers = first->elements;
  p.b.place = gpu_in_shared(g, b, op->transpose_b ? READ_ROWS : READ_COLUMNS);
  if (vectors)
    vector_product(&p);
  else if (gpu_is_half(a->type.element))
    half_product(&p);
  else
    float_product(&p);
  *gpu_value(g, result) = (struct gpu_value){.kind = GPU_FRAGMENT, .elements = p.c};
  gpu_release(g, used);
  gpu_settle(g, result);
}
