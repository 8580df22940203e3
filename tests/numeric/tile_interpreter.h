/* Runs tile programs element by element, as docs/tile-program.md defines each op: what compiled
 * code is compared with. f32 is computed in float64; f16 and bf16 tiles are rounded. Plain ops
 * only.
 */
#ifndef ATTN_TESTS_NUMERIC_TILE_INTERPRETER_H
#define ATTN_TESTS_NUMERIC_TILE_INTERPRETER_H

#include "dsl/expr_scalar.h"
#include "tests/numeric/tile_runner.h"

#include <assert.h>
#include <math.h>

struct tile_interpreter {
  struct arena *arena;
  const struct tile_kernel *kernel;
  struct tile_launch *launch;
  struct expr_evaluator *evaluator;
  union expr_value **values; /* by value id: the elements in row-major order */
};

static inline bool tile_is_real(enum tile_element element)
{
  return tile_element_expr_type(element) == EXPR_FLOAT;
}

static inline union expr_value tile_rounded(enum tile_element element, union expr_value value)
{
  if (element == TILE_F16 || element == TILE_BF16)
    value.f = dtype_round(element == TILE_F16 ? DTYPE_F16 : DTYPE_BF16, value.f);
  return value;
}

/* Element (m, n), with axes of size 1 repeated. */
static inline union expr_value tile_at(struct tile_interpreter *t, const struct tile_value *value,
                                       uint32_t m, uint32_t n)
{
  uint32_t row = value->type.rows == 1 ? 0 : m;
  uint32_t column = value->type.columns == 1 ? 0 : n;
  return t->values[value->id][(size_t)row * value->type.columns + column];
}

static inline int64_t tile_integer(struct tile_interpreter *t, const struct tile_value *value)
{
  return t->values[value->id][0].i;
}

static inline union expr_value *tile_new_elements(struct tile_interpreter *t,
                                                  const struct tile_value *value)
{
  size_t count = (size_t)value->type.rows * value->type.columns;
  return t->values[value->id] = ARENA_ARRAY(t->arena, union expr_value, count);
}

/* The expression with the operands' elements at (m, n). */
static inline union expr_value tile_evaluate(struct tile_interpreter *t, const struct tile_op *op,
                                             const struct expr *e, uint32_t m, uint32_t n)
{
  for (uint32_t k = 0; k < op->operand_count; k++)
    expr_set_arg(t->evaluator, k, tile_at(t, op->operands[k], m, n));
  return expr_evaluate(t->evaluator, e);
}

static inline bool tile_read_element(void *user, uint32_t tensor, const int64_t *indices,
                                     size_t count, union expr_value *value,
                                     struct expr_fault *fault)
{
  struct tile_interpreter *t = user;
  const struct tile_array *a = tile_launch_array(t->launch, t->kernel->tensors.items[tensor].name);
  int64_t offset = 0;
  for (size_t k = 0; k < count; k++) {
    if (indices[k] < 0 || indices[k] >= a->sizes[k]) {
      fault->dim = (uint32_t)k;
      return false;
    }
    offset += indices[k] * a->strides[k];
  }
  if (tile_array_is_real(a))
    value->f = dtype_load(a->type, a->data, offset);
  else
    value->i = ref_load_integer(a->type, a->data, offset);
  return true;
}

/* Where element (m, n) of a tile lies in its tensor; -1 where it is not live. */
static inline int64_t tile_offset(struct tile_interpreter *t, const struct tile_op *op,
                                  uint32_t first, const struct tile_array *a, uint32_t m,
                                  uint32_t n)
{
  int64_t live_rows = tile_integer(t, op->operands[first + a->rank]);
  int64_t live_columns = tile_integer(t, op->operands[first + a->rank + 1]);
  if (m >= live_rows || n >= live_columns)
    return -1;
  int64_t offset = 0;
  for (uint32_t d = 0; d < a->rank; d++) {
    int64_t index = tile_at(t, op->operands[first + d], m, 0).i;
    if (d == op->access.row_dim)
      index += m / op->access.row_group;
    if (d == op->access.group_dim)
      index += m % op->access.row_group;
    if (d == op->access.column_dim)
      index += n;
    offset += index * a->strides[d];
  }
  return offset;
}

/* Types of 8 bits take the nearest number that they have; the others what dtype_store makes of it.
 */
static inline void tile_store_element(struct tile_array *a, int64_t offset, double value)
{
  double most = a->type == DTYPE_E4M3 ? 448 : a->type == DTYPE_E5M2 ? 57344 : (double)INFINITY;
  if (fabs(value) > most)
    value = copysign(most, value);
  dtype_store(a->type, a->data, offset, value);
}

static inline void tile_memory(struct tile_interpreter *t, const struct tile_op *op)
{
  const struct tile_value *tile = op->kind == TILE_LOAD ? op->results[0] : op->operands[0];
  uint32_t first = op->kind == TILE_LOAD ? 0 : 1;
  struct tile_array *a =
      tile_launch_array(t->launch, t->kernel->tensors.items[op->access.tensor].name);
  bool real = tile_is_real(tile->type.element);
  union expr_value *elements =
      op->kind == TILE_LOAD ? tile_new_elements(t, tile) : t->values[tile->id];
  for (uint32_t m = 0; m < tile->type.rows; m++) {
    for (uint32_t n = 0; n < tile->type.columns; n++, elements++) {
      int64_t offset = tile_offset(t, op, first, a, m, n);
      if (offset < 0)
        continue;
      double value = real ? elements->f : (double)elements->i;
      if (op->kind == TILE_ACCUMULATE)
        value += dtype_load(a->type, a->data, offset);
      if (op->kind != TILE_LOAD)
        tile_store_element(a, offset, value);
      else if (real)
        elements->f = dtype_load(a->type, a->data, offset);
      else
        elements->i = ref_load_integer(a->type, a->data, offset);
      if (op->kind == TILE_LOAD)
        *elements = tile_rounded(tile->type.element, *elements);
    }
  }
  expr_reset_reads(t->evaluator);
}

static inline union expr_value tile_reduction_start(enum tile_reduction reduction, bool real)
{
  bool largest = reduction == TILE_REDUCE_MIN;
  switch (reduction) {
  case TILE_REDUCE_SUM:
  case TILE_REDUCE_ANY: return (union expr_value){0};
  case TILE_REDUCE_ALL: return (union expr_value){.i = 1};
  case TILE_REDUCE_MAX:
  case TILE_REDUCE_MIN: break;
  }
  if (real)
    return (union expr_value){.f = largest ? (double)INFINITY : -(double)INFINITY};
  return (union expr_value){.i = largest ? INT32_MAX : INT32_MIN};
}

static inline union expr_value tile_reduction_step(enum tile_reduction reduction, bool real,
                                                   union expr_value a, union expr_value b)
{
  static const enum expr_op ops[] = {EXPR_ADD, EXPR_MAX, EXPR_MIN, EXPR_OR, EXPR_AND};
  bool logical = reduction == TILE_REDUCE_ANY || reduction == TILE_REDUCE_ALL;
  enum expr_type type = real ? EXPR_FLOAT : logical ? EXPR_BOOL : EXPR_INT;
  return expr_apply_binary(ops[reduction], type, a, b, false);
}

static inline void tile_reduce_or_scan(struct tile_interpreter *t, const struct tile_op *op)
{
  const struct tile_value *x = op->operands[0];
  const struct tile_value *result = op->results[0];
  bool real = tile_is_real(x->type.element);
  union expr_value *elements = tile_new_elements(t, result);
  uint32_t lines = op->axis == 0 ? x->type.columns : x->type.rows;
  uint32_t length = op->axis == 0 ? x->type.rows : x->type.columns;
  for (uint32_t line = 0; line < lines; line++) {
    union expr_value sum = tile_reduction_start(op->reduction, real);
    for (uint32_t k = 0; k < length; k++) {
      uint32_t m = op->axis == 0 ? k : line;
      uint32_t n = op->axis == 0 ? line : k;
      sum = tile_reduction_step(op->reduction, real, sum, tile_at(t, x, m, n));
      if (op->kind == TILE_SCAN)
        elements[(size_t)m * x->type.columns + n] = tile_rounded(x->type.element, sum);
    }
    if (op->kind == TILE_REDUCE)
      elements[line] = tile_rounded(x->type.element, sum);
  }
}

static inline double tile_product_element(struct tile_interpreter *t, const struct tile_op *op,
                                          uint32_t m, uint32_t n)
{
  const struct tile_value *a = op->operands[0];
  const struct tile_value *b = op->operands[1];
  const union expr_value *x = t->values[a->id], *y = t->values[b->id];
  uint32_t inner = op->transpose_a ? a->type.rows : a->type.columns;
  double sum = op->operand_count < 3 ? 0 : tile_at(t, op->operands[2], m, n).f;
  for (uint32_t k = 0; k < inner; k++) {
    size_t at_a = op->transpose_a ? k * a->type.columns + m : m * a->type.columns + k;
    size_t at_b = op->transpose_b ? n * b->type.columns + k : k * b->type.columns + n;
    sum += x[at_a].f * y[at_b].f;
  }
  return sum;
}

static inline double tile_contract_element(struct tile_interpreter *t, const struct tile_op *op,
                                           uint32_t m, uint32_t n)
{
  double sum = 0;
  for (uint32_t c = 0; c < op->operands[0]->type.columns; c++) {
    for (uint32_t k = 2; k < op->operand_count; k++)
      expr_set_arg(t->evaluator, k, tile_at(t, op->operands[k], 0, c));
    expr_set_arg(t->evaluator, 0, tile_at(t, op->operands[0], m, c));
    expr_set_arg(t->evaluator, 1, tile_at(t, op->operands[1], n, c));
    sum += expr_evaluate(t->evaluator, op->expr).f;
  }
  return sum;
}

static inline double tile_solve_element(struct tile_interpreter *t, const struct tile_op *op,
                                        uint32_t m, uint32_t n)
{
  double x = tile_at(t, op->operands[1], m, n).f;
  const struct tile_type type = op->results[0]->type;
  for (uint32_t k = 0; k < m; k++)
    x -= t->values[op->operands[0]->id][m * type.rows + k].f *
         t->values[op->results[0]->id][k * type.columns + n].f;
  return x;
}

static inline union expr_value tile_convert_element(const struct tile_op *op,
                                                    union expr_value value)
{
  enum tile_element from = op->operands[0]->type.element;
  enum tile_element to = op->results[0]->type.element;
  return expr_apply_convert(tile_element_expr_type(from), tile_element_expr_type(to), value, false);
}

static inline union expr_value tile_element_of(struct tile_interpreter *t, const struct tile_op *op,
                                               uint32_t m, uint32_t n)
{
  switch ((int)op->kind) {
  case TILE_SCALAR:
  case TILE_MAP: return tile_evaluate(t, op, op->expr, m, n);
  case TILE_IOTA:
    return (union expr_value){.i = expr_wrap(tile_integer(t, op->operands[0]) + m + n)};
  case TILE_SPLAT:
  case TILE_BROADCAST: return tile_at(t, op->operands[0], m, n);
  case TILE_SCALE_ROWS:
    return (union expr_value){.f = tile_at(t, op->operands[0], m, n).f *
                                   tile_at(t, op->operands[1], m, n).f};
  case TILE_TRANSPOSE: return tile_at(t, op->operands[0], n, m);
  case TILE_PERMUTE: return tile_at(t, op->operands[0], m, op->permutation[n]);
  case TILE_CONVERT: return tile_convert_element(op, tile_at(t, op->operands[0], m, n));
  case TILE_PRODUCT: return (union expr_value){.f = tile_product_element(t, op, m, n)};
  case TILE_CONTRACT: return (union expr_value){.f = tile_contract_element(t, op, m, n)};
  case TILE_TRIANGULAR_SOLVE: return (union expr_value){.f = tile_solve_element(t, op, m, n)};
  }
  assert(false && "a plain op");
  return (union expr_value){0};
}

static inline void tile_check_elements(struct tile_interpreter *t, const struct tile_op *op)
{
  uint32_t rows = 1;
  uint32_t columns = 1;
  for (uint32_t k = 0; k < op->operand_count; k++) {
    rows = op->operands[k]->type.rows > rows ? op->operands[k]->type.rows : rows;
    columns = op->operands[k]->type.columns > columns ? op->operands[k]->type.columns : columns;
  }
  struct tile_fault *fault = &t->launch->fault;
  for (uint32_t m = 0; m < rows; m++)
    for (uint32_t n = 0; n < columns && !fault->raised; n++)
      if (!tile_evaluate(t, op, op->expr, m, n).i)
        *fault = (struct tile_fault){1, (int32_t)op->site, tile_evaluate(t, op, op->expr2, m, n).i};
}

static inline void tile_interpret_region(struct tile_interpreter *t,
                                         const struct tile_region *region);

/* Copies all before any changes: a region may yield its arguments in another order. */
static inline void tile_pass(struct tile_interpreter *t, struct tile_value *const *to,
                             struct tile_value *const *from, uint32_t count)
{
  union expr_value **passed = ARENA_ARRAY(t->arena, union expr_value *, count);
  for (uint32_t k = 0; k < count; k++)
    passed[k] = t->values[from[k]->id];
  for (uint32_t k = 0; k < count; k++)
    t->values[to[k]->id] = passed[k];
}

/* One turn of a loop whose results hold what is carried. */
static inline void tile_turn(struct tile_interpreter *t, const struct tile_op *op,
                             const struct tile_region *region, int64_t index)
{
  tile_new_elements(t, region->arguments[0])->i = index;
  tile_pass(t, region->arguments + 1, op->results, op->result_count);
  tile_interpret_region(t, region);
  if (op->result_count != 0)
    tile_pass(t, op->results, region->last->operands, op->result_count);
}

static inline void tile_walk_segments(struct tile_interpreter *t, const struct tile_op *op)
{
  uint32_t extras = 2 * op->segment_count;
  int64_t end = 0;
  for (uint32_t s = 0; s < op->segment_count; s++) {
    int64_t hi = tile_integer(t, op->operands[2 * s + 1]);
    end = hi > end ? hi : end;
  }
  for (int64_t j0 = 0; j0 < end; j0 += op->step) {
    int64_t j1 = j0 + op->step - 1;
    bool meets = false;
    for (uint32_t s = 0; s < op->segment_count; s++) {
      int64_t lo = tile_integer(t, op->operands[2 * s]);
      int64_t hi = tile_integer(t, op->operands[2 * s + 1]);
      meets = meets || (lo < hi && lo <= j1 && hi > j0);
    }
    expr_set_int(t->evaluator, EXPR_VAR_TILE_J0, j0);
    expr_set_int(t->evaluator, EXPR_VAR_TILE_J1, j1);
    for (uint32_t k = 0; k < op->extra_count; k++)
      expr_set_arg(t->evaluator, k, t->values[op->operands[extras + k]->id][0]);
    if (!meets || !expr_evaluate(t->evaluator, op->expr).i)
      continue;
    bool full = expr_evaluate(t->evaluator, op->expr2).i != 0;
    tile_turn(t, op, op->regions[full ? 0 : 1], j0);
  }
}

static inline void tile_interpret_op(struct tile_interpreter *t, const struct tile_op *op)
{
  switch ((int)op->kind) {
  case TILE_YIELD:
  case TILE_LIMIT_ROWS:
  case TILE_LIMIT_COLUMNS: return;
  case TILE_LOAD:
  case TILE_STORE:
  case TILE_ACCUMULATE: tile_memory(t, op); return;
  case TILE_REDUCE:
  case TILE_SCAN: tile_reduce_or_scan(t, op); return;
  case TILE_CHECK: tile_check_elements(t, op); return;
  case TILE_FOR:
    tile_pass(t, op->results, op->operands + 2, op->result_count);
    for (int64_t i = tile_integer(t, op->operands[0]); i < tile_integer(t, op->operands[1]);
         i += op->step)
      tile_turn(t, op, op->regions[0], i);
    return;
  case TILE_FOR_SEGMENTS:
    tile_pass(t, op->results, op->operands + 2 * op->segment_count + op->extra_count,
              op->result_count);
    tile_walk_segments(t, op);
    return;
  case TILE_IF: {
    const struct tile_region *taken = op->regions[tile_integer(t, op->operands[0]) ? 0 : 1];
    tile_interpret_region(t, taken);
    if (op->result_count != 0)
      tile_pass(t, op->results, taken->last->operands, op->result_count);
    return;
  }
  }
  const struct tile_value *result = op->results[0];
  union expr_value *elements = tile_new_elements(t, result);
  for (uint32_t m = 0; m < result->type.rows; m++)
    for (uint32_t n = 0; n < result->type.columns; n++)
      elements[(size_t)m * result->type.columns + n] =
          tile_rounded(result->type.element, tile_element_of(t, op, m, n));
}

static inline void tile_interpret_tasks(struct tile_interpreter *t, const struct tile_op *op,
                                        uint32_t axis)
{
  if (axis == op->operand_count) {
    tile_interpret_region(t, op->regions[0]);
    return;
  }
  for (int64_t k = 0; k < tile_integer(t, op->operands[axis]); k++) {
    tile_new_elements(t, op->regions[0]->arguments[axis])->i = k;
    tile_interpret_tasks(t, op, axis + 1);
  }
}

static inline void tile_interpret_region(struct tile_interpreter *t,
                                         const struct tile_region *region)
{
  for (const struct tile_op *op = region->first; op != NULL; op = op->next) {
    if (op->kind == TILE_PARALLEL)
      tile_interpret_tasks(t, op, 0);
    else
      tile_interpret_op(t, op);
  }
}

/* Runs all kernels of the program on `launch`, whose arrays and parameters are bound by name. */
static inline void tile_interpret(struct arena *arena, const struct tile_program *program,
                                  struct tile_launch *launch)
{
  launch->fault = (struct tile_fault){0};
  for (size_t k = 0; k < program->kernels.count; k++) {
    const struct tile_kernel *kernel = program->kernels.items[k];
    struct tile_interpreter t = {.arena = arena, .kernel = kernel, .launch = launch};
    t.values = ARENA_ARRAY(arena, union expr_value *, kernel->value_count);
    t.evaluator = expr_evaluator_new(arena, program->pool);
    expr_set_reader(t.evaluator, tile_read_element, NULL, &t);
    for (uint32_t p = 0; p < kernel->params.count; p++) {
      const struct tile_param *param = &kernel->params.items[p];
      double number = tile_launch_param(launch, param->name)->value;
      union expr_value value = {.f = number};
      if (param->type != EXPR_FLOAT)
        value.i = (int64_t)number;
      expr_set_param(t.evaluator, p, value);
    }
    tile_interpret_region(&t, kernel->body);
  }
}

/* Whether `got` is `expected` to `tolerance`, relative to the larger of 1 and |expected|;
 * infinities and NaN must be met by kind and sign. */
static inline bool tile_is_close(double got, double expected, double tolerance)
{
  if (isnan(expected) || isnan(got))
    return isnan(expected) && isnan(got);
  if (isinf(expected) || isinf(got))
    return got == expected;
  return fabs(got - expected) <= tolerance * fmax(1, fabs(expected));
}

/* NULL, or the first element in which two arrays of one shape differ. */
static inline const char *tile_difference(struct arena *arena, const struct tile_array *got,
                                          const struct tile_array *expected, double tolerance)
{
  for (int64_t k = 0; k < got->count; k++) {
    double x = tile_array_get(got, k);
    double y = tile_array_get(expected, k);
    if (!tile_is_close(x, y, tolerance))
      return arena_format(arena, "%s: element %lld is %.9g instead of %.9g", got->name,
                          (long long)k, x, y);
  }
  return NULL;
}

/* Runs the code on `launch`, and compares every array and the fault record with what the
 * interpreter makes of the program. NULL, or what differs, in `arena`. */
static inline const char *tile_compare(struct arena *arena, struct tile_code *code,
                                       struct tile_launch *launch, double tolerance)
{
  struct tile_launch expected = *launch;
  expected.arrays = ARENA_ARRAY(arena, struct tile_array, launch->array_count);
  for (size_t k = 0; k < launch->array_count; k++)
    expected.arrays[k] = tile_array_clone(&launch->arrays[k]);
  tile_interpret(arena, code->program, &expected);
  const char *error = tile_run(code, launch);
  const struct tile_fault *fault = &expected.fault;
#ifdef TILE_ON_DEVICE
  if (fault->raised) /* threads race for the record */
    expected.fault.index = launch->fault.index;
#endif
  if (error == NULL && memcmp(fault, &launch->fault, sizeof(*fault)) != 0)
    error = arena_format(arena, "fault (%d, %d, %lld) instead of (%d, %d, %lld)",
                         launch->fault.raised, launch->fault.site, (long long)launch->fault.index,
                         fault->raised, fault->site, (long long)fault->index);
  for (size_t k = 0; k < launch->array_count; k++) {
    if (error == NULL)
      error = tile_difference(arena, &launch->arrays[k], &expected.arrays[k], tolerance);
    tile_array_free(&expected.arrays[k]);
  }
  return error;
}

#endif
