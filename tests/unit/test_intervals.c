/* Intervals of expressions against enumeration over a tile, and index proofs. */
#include "compiler/analysis/bounds.h"
#include "compiler/analysis/interval.h"
#include "dsl/expr_eval.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>

enum { ROWS = 12, KEYS = 17, GATES = KEYS };

static struct arena arena;
static struct expr_pool *pool;
static struct spec *spec;
static struct expr_evaluator *evaluator;
static double gates[GATES];

static bool read_gate(void *user, uint32_t tensor, const int64_t *indices, size_t count,
                      union expr_value *value, struct expr_fault *fault)
{
  (void)user;
  (void)tensor;
  if (count != 1 || indices[0] < 0 || indices[0] >= GATES) {
    fault->index = indices[0];
    fault->size = GATES;
    return false;
  }
  value->f = gates[indices[0]];
  return true;
}

static bool range_gate(void *user, enum expr_op op, uint32_t tensor, const int64_t *indices,
                       size_t count, int64_t first, int64_t last, union expr_value *value,
                       struct expr_fault *fault)
{
  (void)user;
  (void)tensor;
  (void)indices;
  (void)count;
  (void)fault;
  value->f = op == EXPR_RANGE_MIN ? (double)INFINITY : -(double)INFINITY;
  for (int64_t n = first < 0 ? 0 : first; n <= last && n < GATES; n++) {
    bool further = op == EXPR_RANGE_MIN ? gates[n] < value->f : gates[n] > value->f;
    if (isnan(gates[n]) || (!isnan(value->f) && further)) {
      value->f = gates[n];
    }
  }
  return true;
}

static struct spec_dim dimension(enum dim_kind kind, const struct expr *size)
{
  return (struct spec_dim){kind, size, {0}};
}

static const struct expr *var(enum expr_var v)
{
  return expr_variable(pool, v);
}

static const struct expr *num(int64_t value)
{
  return expr_int(pool, value);
}

static const struct expr *op2(enum expr_op op, const struct expr *a, const struct expr *b)
{
  return expr_binary(pool, op, a, b);
}

static void setup(void)
{
  arena_init(&arena);
  pool = ARENA_NEW(&arena, struct expr_pool);
  expr_pool_init(pool, &arena);
  spec = ARENA_NEW(&arena, struct spec);
  spec->pool = pool;
  spec->query_heads = 4;
  spec->kv_heads = 2;
  spec->dim_qk = 64;
  spec->dim_v = 32;
  spec->align = ALIGN_START;
  spec->mask = expr_bool(pool, true);
  spec->inputs[0].rank = 1;
  spec->inputs[0].dims[0] = dimension(DIM_NK, var(EXPR_VAR_SIZE_NK));
  spec->input_count = 1;
  evaluator = expr_evaluator_new(&arena, pool);
  expr_set_reader(evaluator, read_gate, range_gate, NULL);
  expr_set_int(evaluator, EXPR_VAR_SIZE_NQ, ROWS);
  expr_set_int(evaluator, EXPR_VAR_SIZE_NK, KEYS);
  expr_set_int(evaluator, EXPR_VAR_OFFSET, 0);
}

static void teardown(void)
{
  arena_free(&arena);
}

static uint64_t random_state = 11;

static uint32_t random_below(uint32_t n)
{
  random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
  return (uint32_t)((random_state >> 33) % n);
}

/* Ranges */

START_TEST(constant_ranges)
{
  struct range_table t;
  range_table_init(&t, &arena, spec);
  const struct expr *p = expr_param(pool, 0, EXPR_INT);
  const struct expr *n = var(EXPR_VAR_SIZE_NK);
  struct range r = range_of(&t, op2(EXPR_MOD, p, num(7)));
  ck_assert_int_eq(r.min, 0);
  ck_assert_int_eq(r.max, 6);
  r = range_of(&t, op2(EXPR_FLOORDIV, p, num(2)));
  ck_assert_int_eq(r.min, INT32_MIN / 2);
  ck_assert_int_eq(r.max, INT32_MAX / 2);
  r = range_of(&t, op2(EXPR_ADD, n, num(1))); /* wraps */
  ck_assert_int_eq(r.min, INT32_MIN);
  r = range_of(&t, op2(EXPR_SUB, num(5), n));
  ck_assert_int_eq(r.min, 5 - (int64_t)INT32_MAX);
  ck_assert_int_eq(r.max, 5);
  r = range_of(&t, op2(EXPR_SUB, num(-2), n)); /* just wraps */
  ck_assert_int_eq(r.max, INT32_MAX);
  r = range_of(&t, expr_unary(pool, EXPR_ABS, p));
  ck_assert_int_eq(r.min, INT32_MIN); /* of INT32_MIN itself */
  r = range_of(&t, expr_mul(pool, range_long(&t, p), range_long(&t, p)));
  ck_assert(r.max >= INT64_C(1) << 62);
  ck_assert(expr_is_true(range_le(&t, expr_long(pool, 0), range_long(&t, n))));
  ck_assert_ptr_eq(range_max(&t, range_long(&t, n), expr_long(pool, -3)), range_long(&t, n));
  ck_assert_int_eq(range_floor(-7, 2), -4);
}
END_TEST

/* Intervals */

static const struct expr *random_number(int depth)
{
  if (depth == 0) {
    switch (random_below(6)) {
    case 0:
    case 1: return var(EXPR_VAR_I);
    case 2:
    case 3: return var(EXPR_VAR_J);
    case 4: return expr_param(pool, random_below(2), EXPR_INT);
    default: return num((int64_t)random_below(30) - 10);
    }
  }
  static const enum expr_op ops[] = {EXPR_ADD, EXPR_SUB, EXPR_MUL, EXPR_FLOORDIV,
                                     EXPR_MOD, EXPR_MIN, EXPR_MAX, EXPR_BIT_AND};
  const struct expr *a = random_number(depth - 1);
  const struct expr *b = random_number((int)random_below((uint32_t)depth));
  uint32_t which = random_below(11);
  if (which < 8) {
    return op2(ops[which], a, b);
  }
  if (which == 8) {
    return expr_unary(pool, random_below(2) == 0 ? EXPR_ABS : EXPR_NEG, a);
  }
  const struct expr *condition = op2(random_below(2) == 0 ? EXPR_LT : EXPR_EQ, a, b);
  return which == 9 ? expr_select(pool, condition, a, b) : expr_convert(pool, condition, EXPR_INT);
}

static int64_t random_param(void)
{
  static const int64_t extremes[] = {INT32_MIN, INT32_MIN + 1, INT32_MAX, INT32_MAX - 5, 0, -1,
                                     1,         65536};
  return random_below(3) == 0 ? extremes[random_below(8)] : (int64_t)random_below(16) - 3;
}

START_TEST(values_lie_in_their_intervals)
{
  int64_t tight = 0;
  int64_t all = 0;
  for (int n = 0; n < 3000; n++) {
    teardown(); /* tables of a growing pool would grow with each expression */
    setup();
    struct range_table t;
    struct interval_scope scope;
    range_table_init(&t, &arena, spec);
    interval_scope_tile(&scope, &t);
    const struct expr *e = random_number(1 + (int)random_below(3));
    const struct interval *v = interval_of(&scope, e);
    for (uint32_t k = 0; k < 2; k++) {
      expr_set_param(evaluator, k, (union expr_value){.i = random_param()});
    }
    int64_t i0 = random_below(ROWS);
    int64_t j0 = random_below(KEYS);
    int64_t i1 = i0 + random_below((uint32_t)(ROWS - i0));
    int64_t j1 = j0 + random_below((uint32_t)(KEYS - j0));
    expr_set_int(evaluator, EXPR_VAR_TILE_I0, i0);
    expr_set_int(evaluator, EXPR_VAR_TILE_I1, i1);
    expr_set_int(evaluator, EXPR_VAR_TILE_J0, j0);
    expr_set_int(evaluator, EXPR_VAR_TILE_J1, j1);
    int64_t lo = expr_evaluate(evaluator, v->lo).i;
    int64_t hi = expr_evaluate(evaluator, v->hi).i;
    int64_t least = INT64_MAX;
    int64_t greatest = INT64_MIN;
    for (int64_t i = i0; i <= i1; i++) {
      expr_set_int(evaluator, EXPR_VAR_I, i);
      for (int64_t j = j0; j <= j1; j++) {
        expr_set_int(evaluator, EXPR_VAR_J, j);
        int64_t x = expr_evaluate(evaluator, e).i;
        least = x < least ? x : least;
        greatest = x > greatest ? x : greatest;
      }
    }
    ck_assert_msg(lo <= least && greatest <= hi, "%s: [%lld, %lld] outside of [%lld, %lld]",
                  expr_print(&arena, e, NULL), (long long)least, (long long)greatest, (long long)lo,
                  (long long)hi);
    tight += lo == least && hi == greatest;
    all++;
  }
  printf("random numbers: %lld of %lld intervals are tight\n", (long long)tight, (long long)all);
  ck_assert(tight * 10 >= all * 6);
}
END_TEST

START_TEST(linear_forms_cancel)
{
  struct range_table t;
  struct interval_scope scope;
  range_table_init(&t, &arena, spec);
  interval_scope_tile(&scope, &t);
  const struct expr *i = var(EXPR_VAR_I);
  const struct expr *block = op2(EXPR_FLOORDIV, var(EXPR_VAR_J), num(4));
  const struct linear *x = interval_linear(&scope, op2(EXPR_SUB, i, block));
  const struct linear *y = interval_linear(&scope, op2(EXPR_SUB, num(3), block));
  struct linear d;
  ck_assert(linear_combine(&scope, x, 1, y, -1, &d));
  ck_assert_int_eq(d.coef_i, 1);
  ck_assert_int_eq(d.coef_j, 0);
  ck_assert_int_eq(d.constant, -3);
  ck_assert_uint_eq(d.count, 0);
  ck_assert(expr_is_true(x->exact));
}
END_TEST

/* A comparison with a NaN is false: neither it nor its negation may be decided by bounds. */
START_TEST(nan_is_never_decided)
{
  struct range_table t;
  struct interval_scope scope;
  range_table_init(&t, &arena, spec);
  interval_scope_tile(&scope, &t);
  const struct expr *j = var(EXPR_VAR_J);
  const struct expr *gate = expr_read(pool, EXPR_TENSOR_INPUT, EXPR_FLOAT, &j, 1);
  const struct expr *single = expr_convert(pool, gate, EXPR_SINGLE);
  const struct expr *doubled = op2(EXPR_ADD, single, expr_unary(pool, EXPR_NEG, single));
  const struct expr *below = op2(EXPR_LE, doubled, expr_single(pool, 100));
  const struct interval *v = interval_of(&scope, below);
  /* true of everything but NaN, infinite bounds included */
  const struct expr *infinite = expr_single(pool, -(double)INFINITY);
  const struct interval *any = interval_of(&scope, op2(EXPR_LE, infinite, doubled));
  expr_set_int(evaluator, EXPR_VAR_TILE_I0, 0);
  expr_set_int(evaluator, EXPR_VAR_TILE_I1, 0);
  expr_set_int(evaluator, EXPR_VAR_TILE_J0, 0);
  expr_set_int(evaluator, EXPR_VAR_TILE_J1, 3);
  const double cases[3][2] = {{1, 1}, {(double)NAN, 0}, {(double)INFINITY, 0}};
  for (int n = 0; n < 3; n++) {
    gates[0] = gates[1] = gates[2] = 2;
    gates[3] = n == 0 ? 1 : cases[n][0];
    expr_reset_reads(evaluator);
    ck_assert_int_eq(expr_evaluate(evaluator, v->hi).i, 1);
    ck_assert_int_eq(expr_evaluate(evaluator, v->lo).i, (int64_t)cases[n][1]);
    ck_assert_int_eq(expr_evaluate(evaluator, any->lo).i, (int64_t)cases[n][1]);
  }
}
END_TEST

/* Index proofs */

static const struct expr *read_of(const struct expr *index)
{
  return expr_read(pool, EXPR_TENSOR_INPUT, EXPR_FLOAT, &index, 1);
}

static bool proves(enum bounds_place place, const struct expr *size, const struct expr *index)
{
  spec->inputs[0].dims[0] = dimension(DIM_EXPR, size);
  struct bounds *bounds = bounds_new(&arena, spec);
  const struct expr *read = read_of(index);
  ck_assert_int_eq(bounds_needs_guard(bounds, read, 0, place),
                   bounds_proved(bounds, read, place) == 0);
  return bounds_proved(bounds, read, place) == 1;
}

START_TEST(variables_index_their_dimensions)
{
  const struct expr *keys = var(EXPR_VAR_SIZE_NK);
  const struct expr *rows = var(EXPR_VAR_SIZE_NQ);
  const struct expr *i = var(EXPR_VAR_I);
  ck_assert(proves(BOUNDS_MASK, keys, var(EXPR_VAR_J)));
  ck_assert(proves(BOUNDS_KEY, keys, var(EXPR_VAR_J)));
  ck_assert(proves(BOUNDS_ROW, rows, var(EXPR_VAR_R)));
  ck_assert(proves(BOUNDS_ROW, var(EXPR_VAR_SIZE_B), var(EXPR_VAR_B)));
  ck_assert(proves(BOUNDS_ROW, num(4), var(EXPR_VAR_H)));
  ck_assert(!proves(BOUNDS_ROW, num(2), var(EXPR_VAR_H)));
  ck_assert(proves(BOUNDS_ROW, num(2), var(EXPR_VAR_G)));
  ck_assert(proves(BOUNDS_PAIR, num(32), var(EXPR_VAR_C)));
  ck_assert(!proves(BOUNDS_MASK, rows, var(EXPR_VAR_J)));
  /* i < NK holds where rows end with the keys, and i >= 0 where something is visible */
  ck_assert(!proves(BOUNDS_PAIR, keys, i));
  ck_assert(proves(BOUNDS_PAIR, rows, i));
  spec->align = ALIGN_END;
  ck_assert(proves(BOUNDS_PAIR, keys, i));
  ck_assert(proves(BOUNDS_MASK, keys, i));
  ck_assert(!proves(BOUNDS_ROW, keys, i));
  ck_assert(!proves(BOUNDS_PAIR, rows, i));
  spec->align = ALIGN_EXPR;
  ck_assert(!proves(BOUNDS_PAIR, keys, i));
}
END_TEST

START_TEST(index_arithmetic_is_proved)
{
  const struct expr *keys = var(EXPR_VAR_SIZE_NK);
  const struct expr *i = var(EXPR_VAR_I);
  const struct expr *j = var(EXPR_VAR_J);
  const struct expr *p = expr_param(pool, 0, EXPR_INT);
  const struct expr *distance = op2(EXPR_SUB, i, j);
  const struct expr *clamped = op2(EXPR_MIN, op2(EXPR_MAX, distance, num(-8)), num(8));
  ck_assert(proves(BOUNDS_PAIR, num(17), op2(EXPR_ADD, clamped, num(8))));
  ck_assert(!proves(BOUNDS_PAIR, num(16), op2(EXPR_ADD, clamped, num(8))));
  ck_assert(!proves(BOUNDS_PAIR, num(17), op2(EXPR_ADD, clamped, num(7))));
  ck_assert(proves(BOUNDS_MASK, num(5), op2(EXPR_MOD, p, num(5))));
  ck_assert(!proves(BOUNDS_MASK, p, op2(EXPR_MOD, j, p)));
  ck_assert(proves(BOUNDS_MASK, keys, op2(EXPR_FLOORDIV, j, num(2))));
  ck_assert(proves(BOUNDS_MASK, keys,
                   op2(EXPR_MIN, i, op2(EXPR_SUB, keys, num(1))))); /* there is a key j */
  ck_assert(!proves(BOUNDS_ROW, keys, op2(EXPR_MIN, i, op2(EXPR_SUB, keys, num(1)))));
  ck_assert(!proves(BOUNDS_MASK, keys, op2(EXPR_ADD, j, num(1))));
  const struct expr *blocks = op2(EXPR_FLOORDIV, op2(EXPR_ADD, keys, num(63)), num(64));
  ck_assert(proves(BOUNDS_PAIR, blocks, op2(EXPR_FLOORDIV, j, num(64))));
  const struct expr *whole_blocks = op2(EXPR_FLOORDIV, keys, num(64));
  ck_assert(!proves(BOUNDS_PAIR, whole_blocks, op2(EXPR_FLOORDIV, j, num(64))));
  ck_assert(!proves(BOUNDS_PAIR, op2(EXPR_ADD, keys, num(2)),
                    op2(EXPR_ADD, j, num(2)))); /* j + 2 may wrap */
}
END_TEST

START_TEST(masks_give_facts)
{
  const struct expr *p = expr_param(pool, 0, EXPR_INT);
  const struct expr *distance = op2(EXPR_SUB, var(EXPR_VAR_I), var(EXPR_VAR_J));
  ck_assert(!proves(BOUNDS_PAIR, p, distance));
  spec->mask = expr_and(pool, op2(EXPR_LE, num(0), distance), op2(EXPR_LT, distance, p));
  ck_assert(proves(BOUNDS_PAIR, p, distance));
  ck_assert(!proves(BOUNDS_MASK, p, distance)); /* the mask itself is read everywhere */
  spec->mask = expr_or(pool, spec->mask, op2(EXPR_EQ, var(EXPR_VAR_J), num(0)));
  ck_assert(!proves(BOUNDS_PAIR, p, distance));
}
END_TEST

START_TEST(binders_bound_their_variable)
{
  const struct expr *n = expr_bound(pool, 0);
  const struct expr *read = read_of(n);
  spec->inputs[0].dims[0] = dimension(DIM_EXPR, num(8));
  spec->value = expr_binder(pool, EXPR_SUM, 0, num(8), read);
  const struct bounds_guard *guards;
  struct bounds *bounds = bounds_new(&arena, spec);
  ck_assert_uint_eq(bounds_proved(bounds, read, BOUNDS_PAIR), 1);
  ck_assert_uint_eq(bounds_guards(bounds, &guards), 0);
  /* the same read below two binders is proved only if both extents fit */
  spec->value = expr_add(pool, spec->value, expr_binder(pool, EXPR_SUM, 0, num(9), read));
  bounds = bounds_new(&arena, spec);
  ck_assert_uint_eq(bounds_guards(bounds, &guards), 1);
  ck_assert_ptr_eq(guards[0].read, read);
  ck_assert_int_eq((int)guards[0].place, (int)BOUNDS_PAIR);
  ck_assert_uint_eq(bounds_proved(bounds, read, BOUNDS_PAIR), 0);
}
END_TEST

START_TEST(vectors_are_read_by_their_own_variables)
{
  const struct expr *c = expr_bound(pool, 0);
  const struct expr *q[] = {var(EXPR_VAR_B), var(EXPR_VAR_H), var(EXPR_VAR_R), c};
  const struct expr *k[] = {var(EXPR_VAR_B), var(EXPR_VAR_G), var(EXPR_VAR_J), c};
  const struct expr *left = expr_read(pool, EXPR_TENSOR_Q, EXPR_FLOAT, q, 4);
  const struct expr *right = expr_read(pool, EXPR_TENSOR_K, EXPR_FLOAT, k, 4);
  spec->map_count = 1;
  spec->maps[0].score = expr_binder(pool, EXPR_SUM, 0, num(64), expr_mul(pool, left, right));
  const struct bounds_guard *guards;
  ck_assert_uint_eq(bounds_guards(bounds_new(&arena, spec), &guards), 0);
  spec->maps[0].score = expr_binder(pool, EXPR_SUM, 0, num(65), expr_mul(pool, left, right));
  ck_assert_uint_eq(bounds_guards(bounds_new(&arena, spec), &guards), 2);
}
END_TEST

int main(void)
{
  Suite *suite = suite_create("intervals");
  TCase *cases = tcase_create("intervals");
  tcase_add_checked_fixture(cases, setup, teardown);
  tcase_set_timeout(cases, 60);
  tcase_add_test(cases, constant_ranges);
  tcase_add_test(cases, values_lie_in_their_intervals);
  tcase_add_test(cases, linear_forms_cancel);
  tcase_add_test(cases, nan_is_never_decided);
  tcase_add_test(cases, variables_index_their_dimensions);
  tcase_add_test(cases, index_arithmetic_is_proved);
  tcase_add_test(cases, masks_give_facts);
  tcase_add_test(cases, binders_bound_their_variable);
  tcase_add_test(cases, vectors_are_read_by_their_own_variables);
  suite_add_tcase(suite, cases);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
