/* Second operands of few-row products of which a map makes zeros of whole rows, by a test of each
 * row, or takes rows from one tile or from another. Both are read as if the test were not there,
 * through tables in which the rows that do not count are a row of zeros: tiles with a mask and
 * without one then share a product's code, and a choice between two tiles is the sum of two
 * products, each in the form that suits how its numbers are stored. An infinite element of the
 * other operand makes NaN of a row of zeros. That cannot matter where a mask hides the row's scores
 * afterwards; but of a tile in two tensors the sum of the products is NaN then, and where every
 * score of a row should be -inf, or the normaliser is not softmax, so is what the row gives. */
#include "compiler/target/host/few.h"

#include <math.h>

enum { MOST_TESTS = 4 };

/* Which rows count: those where all of the tests hold, or all but the last one. */
struct row_tests {
  struct host *h;
  uint32_t rows, count;
  LLVMValueRef test[MOST_TESTS]; /* [N, 1] of bools in memory */
  bool not_last;
};

/* ---- which ---- */

static bool is_row_test(const struct few_rows *rows, const struct expr *e)
{
  if (e->op != EXPR_ARG)
    return false;
  const struct few_rows *test = &rows->operands[e->value.i];
  const struct tile_type type = test->value->type;
  return type.kind == TILE_KIND_TILE && type.element == TILE_BOOL && type.columns == 1 &&
         type.rows == rows->value->type.rows && type.rows % rows->h->e.lanes == 0 &&
         test->place.kind == HOST_MEMORY;
}

static bool is_zero(const struct expr *e)
{
  return e->op == EXPR_CONST && e->type == EXPR_FLOAT && e->value.f == 0;
}

static bool can_clear(const struct few_rows *rows, uint32_t count);

/* Whether the expression is zero wherever the rows of its operands are. */
static bool vanishes(const struct few_rows *rows, const struct expr *e)
{
  const uint32_t count = rows->value->type.rows;
  switch ((int)e->op) {
  case EXPR_ARG: return can_clear(&rows->operands[e->value.i], count);
  case EXPR_NEG:
  case EXPR_CONVERT: return vanishes(rows, e->args[0]);
  case EXPR_ADD:
  case EXPR_SUB: return vanishes(rows, e->args[0]) && vanishes(rows, e->args[1]);
  case EXPR_MUL:
    for (uint32_t k = 0; k < 2; k++)
      if (e->args[k]->op == EXPR_CONST && isfinite(e->args[k]->value.f))
        return vanishes(rows, e->args[1 - k]);
    return vanishes(rows, e->args[0]) && vanishes(rows, e->args[1]);
  default: return false;
  }
}

/* Whether rows of the operand, of which it has `count`, can be made zeros. */
static bool can_clear(const struct few_rows *rows, uint32_t count)
{
  const struct tile_type type = rows->value->type;
  if (type.kind != TILE_KIND_TILE || type.rows != count)
    return false;
  switch ((int)rows->place.kind) {
  case HOST_VIEW: return true;
  case HOST_MEMORY:
    return type.element == TILE_F32 && type.columns <= rows->h->e.lanes &&
           LLVMIsAConstantInt(rows->place.stride) != NULL;
  case HOST_LAZY: break;
  default: return false;
  }
  if (rows->expr != NULL)
    return vanishes(rows, rows->expr);
  return rows->value->def->kind != TILE_SCALE_ROWS && can_clear(&rows->operands[0], count);
}

/* ---- zeros in place of rows ---- */

LLVMValueRef few_load_test(struct host *h, LLVMValueRef tests, LLVMValueRef row, uint32_t count)
{
  struct emit *e = &h->e;
  LLVMTypeRef type = count == 1 ? e->i8 : LLVMVectorType(e->i8, count);
  LLVMValueRef stored = emit_load(e, type, emit_address(e, e->i8, tests, row), 1);
  return host_from_memory(h, TILE_BOOL, stored);
}

/* The tests as one, in memory. `any`: whether it holds for some row; may be NULL. */
static LLVMValueRef join_tests(const struct row_tests *tests, LLVMValueRef *any)
{
  struct host *h = tests->h;
  struct emit *e = &h->e;
  const uint32_t lanes = e->lanes;
  if (tests->count == 1 && !tests->not_last && any == NULL)
    return tests->test[0];
  LLVMValueRef to = host_allocate(h, tests->rows);
  LLVMValueRef seen = LLVMConstNull(emit_vector_type(e, e->i1));
  struct emit_loop loop;
  emit_loop_begin(e, &loop, emit_i64(e, 0), emit_i64(e, tests->rows), lanes, &seen, 1);
  LLVMValueRef all = NULL;
  for (uint32_t k = 0; k < tests->count; k++) {
    LLVMValueRef one = few_load_test(h, tests->test[k], loop.index, lanes);
    if (tests->not_last && k == tests->count - 1)
      one = LLVMBuildNot(e->builder, one, "");
    all = all == NULL ? one : LLVMBuildAnd(e->builder, all, one, "");
  }
  emit_store(e, host_to_memory(h, TILE_BOOL, all), emit_address(e, e->i8, to, loop.index), 1);
  seen = LLVMBuildOr(e->builder, loop.carried[0], all, "");
  emit_loop_end(e, &loop, &seen);
  if (any != NULL)
    *any = emit_intrinsic(e, "llvm.vector.reduce.or", LLVMTypeOf(seen), &loop.result[0], 1);
  return to;
}

static void clear_view(struct few_rows *rows, LLVMValueRef test)
{
  struct host *h = rows->h;
  const struct tile_type type = rows->value->type;
  LLVMValueRef zeros = few_zero_row(h, type.columns * (uint32_t)sizeof(float));
  zeros = LLVMBuildPtrToInt(h->e.builder, zeros, h->e.i64, "");
  rows->place.base = few_table_clear(h, rows->place.base, test, type.rows, zeros);
}

/* A copy, with rows as far apart: of a column, or of rows that are not longer than a vector. */
static void clear_memory(struct few_rows *rows, LLVMValueRef test)
{
  struct host *h = rows->h;
  struct emit *e = &h->e;
  const struct tile_type type = rows->value->type;
  const bool column = type.columns == 1;
  const uint32_t count = column ? e->lanes : 1;
  LLVMTypeRef vector = LLVMVectorType(e->f32, column ? e->lanes : type.columns);
  LLVMValueRef from = rows->place.base, stride = rows->place.stride;
  const size_t apart = (size_t)LLVMConstIntGetSExtValue(stride);
  rows->place.base = host_allocate(h, (type.rows * apart + h->widest_lanes) * sizeof(float));
  struct emit_loop loop;
  emit_loop_begin(e, &loop, emit_i64(e, 0), emit_i64(e, type.rows), count, NULL, 0);
  LLVMValueRef at = LLVMBuildMul(e->builder, loop.index, stride, "");
  LLVMValueRef some = emit_load(e, vector, emit_address(e, e->f32, from, at), 4);
  some = emit_select(e, few_load_test(h, test, loop.index, count), some, LLVMConstNull(vector));
  emit_store(e, some, emit_address(e, e->f32, rows->place.base, at), 4);
  emit_loop_end(e, &loop, NULL);
}

/* Of an operand that can_clear. */
static void clear(struct few_rows *rows, LLVMValueRef test)
{
  if (rows->place.kind == HOST_VIEW)
    clear_view(rows, test);
  else if (rows->place.kind == HOST_MEMORY)
    clear_memory(rows, test);
  else
    for (uint32_t k = 0; k < rows->value->def->operand_count; k++)
      if (can_clear(&rows->operands[k], rows->value->type.rows))
        clear(&rows->operands[k], test);
}

/* ---- what is left without the tests ---- */

static bool uses(const struct expr *e, uint32_t operand)
{
  if (e->op == EXPR_ARG)
    return e->value.i == operand;
  for (uint32_t k = 0; k < e->arg_count; k++)
    if (uses(e->args[k], operand))
      return true;
  return false;
}

/* The operand with `e`, a part of its own expression, in place of that. */
static struct few_rows part_of(const struct few_rows *rows, const struct expr *e)
{
  const struct tile_type type = rows->value->type;
  if (e->op == EXPR_ARG) {
    const struct few_rows *own = &rows->operands[e->value.i];
    const struct tile_type like = own->value->type;
    if (like.kind == type.kind && like.element == type.element && like.columns == type.columns)
      return *own;
  }
  struct few_rows part = *rows;
  const uint32_t count = rows->value->def->operand_count;
  part.expr = e;
  part.operands = arena_copy(rows->h->arena, rows->operands, count * sizeof(*part.operands));
  for (uint32_t k = 0; k < count; k++)
    if (!uses(e, k))
      part.operands[k].place = (struct host_value){.kind = HOST_SPLAT};
  return part;
}

static bool is_select(const struct few_rows *rows)
{
  return rows->place.kind == HOST_LAZY && rows->expr != NULL && rows->expr->op == EXPR_SELECT &&
         is_row_test(rows, rows->expr->args[0]);
}

static void add_test(struct row_tests *tests, const struct few_rows *rows)
{
  const struct few_rows *test = &rows->operands[rows->expr->args[0]->value.i];
  tests->test[tests->count++] = test->place.base;
}

uint32_t few_split(const struct few_rows *rows, struct few_rows parts[2], LLVMValueRef *any)
{
  struct row_tests tests = {.h = rows->h, .rows = rows->value->type.rows};
  parts[0] = *rows;
  while (tests.count < MOST_TESTS - 1 && is_select(&parts[0]) && is_zero(parts[0].expr->args[2])) {
    add_test(&tests, &parts[0]);
    parts[0] = part_of(&parts[0], parts[0].expr->args[1]);
  }
  const bool chooses = is_select(&parts[0]);
  if (chooses) {
    add_test(&tests, &parts[0]);
    parts[1] = part_of(&parts[0], parts[0].expr->args[1]);
    parts[0] = part_of(&parts[0], parts[0].expr->args[2]);
  }
  if (tests.count == 0 || !can_clear(&parts[0], tests.rows) ||
      (chooses && !can_clear(&parts[1], tests.rows))) {
    parts[0] = *rows;
    return 1;
  }
  if (chooses) {
    clear(&parts[1], join_tests(&tests, any));
    tests.not_last = true;
  }
  clear(&parts[0], join_tests(&tests, NULL));
  return chooses ? 2 : 1;
}
