/* The evaluator: what it remembers and forgets, short circuits, faults, rounding, depth. */
#include "dsl/expr_eval.h"

#include <check.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>

static struct arena arena;
static struct expr_pool pool;
static struct expr_evaluator *evaluator;
static int reads;

static bool read_ramp(void *user, uint32_t tensor, const int64_t *indices, size_t count,
                      union expr_value *value, struct expr_fault *fault)
{
  (void)user;
  (void)tensor;
  reads++;
  if (indices[count - 1] < 0 || indices[count - 1] >= 10) {
    *fault =
        (struct expr_fault){.dim = (uint32_t)count - 1, .index = indices[count - 1], .size = 10};
    return false;
  }
  value->i = indices[count - 1] * 100;
  return true;
}

static bool range_of_ramp(void *user, enum expr_op op, uint32_t tensor, const int64_t *indices,
                          size_t count, int64_t first, int64_t last, union expr_value *value,
                          struct expr_fault *fault)
{
  (void)user;
  (void)tensor;
  (void)fault;
  ck_assert_uint_eq(count, 1);
  ck_assert_int_eq(indices[0], 4);
  value->i = op == EXPR_RANGE_MIN ? first * 100 : last * 100;
  return true;
}

static void setup(void)
{
  arena_init(&arena);
  expr_pool_init(&pool, &arena);
  evaluator = expr_evaluator_new(&arena, &pool);
  expr_set_reader(evaluator, read_ramp, range_of_ramp, NULL);
  reads = 0;
}

static void teardown(void)
{
  arena_free(&arena);
}

static const struct expr *var(enum expr_var name)
{
  return expr_variable(&pool, name);
}

static const struct expr *read_at(const struct expr *index)
{
  return expr_read(&pool, EXPR_TENSOR_INPUT + 3, EXPR_INT, &index, 1);
}

static int64_t integer(const struct expr *e)
{
  return expr_evaluate(evaluator, e).i;
}

START_TEST(remembers_until_set)
{
  const struct expr *i = var(EXPR_VAR_I);
  const struct expr *e = expr_add(&pool, read_at(i), var(EXPR_VAR_J));
  expr_set_int(evaluator, EXPR_VAR_I, 3);
  for (int64_t j = 0; j < 50; j++) {
    expr_set_int(evaluator, EXPR_VAR_J, j);
    ck_assert_int_eq(integer(e), 300 + j);
  }
  ck_assert_int_eq(reads, 1);
  expr_set_int(evaluator, EXPR_VAR_I, 4);
  ck_assert_int_eq(integer(e), 449);
  expr_reset_reads(evaluator);
  ck_assert_int_eq(integer(e), 449);
  ck_assert_int_eq(reads, 3);
  expr_set_param(evaluator, 40, (union expr_value){.i = 7});
  ck_assert_int_eq(integer(expr_param(&pool, 40, EXPR_INT)), 7);
  expr_set_map(evaluator, 1, 0.25);
  ck_assert(expr_evaluate(evaluator, expr_map(&pool, 1)).f == 0.25);
  expr_set_arg(evaluator, 2, (union expr_value){.i = -1});
  ck_assert_int_eq(integer(expr_mul(&pool, expr_arg(&pool, 2, EXPR_INT), i)), -4);
}
END_TEST

START_TEST(short_circuits_do_not_read)
{
  const struct expr *i = var(EXPR_VAR_I);
  const struct expr *wild = expr_binary(&pool, EXPR_EQ, read_at(i), expr_int(&pool, 0));
  const struct expr *in_range = expr_binary(&pool, EXPR_LT, i, expr_int(&pool, 10));
  expr_set_int(evaluator, EXPR_VAR_I, 12);
  ck_assert_int_eq(integer(expr_and(&pool, in_range, wild)), 0);
  ck_assert_int_eq(integer(expr_or(&pool, expr_not(&pool, in_range), wild)), 1);
  ck_assert_int_eq(integer(expr_select(&pool, in_range, read_at(i), i)), 12);
  ck_assert_int_eq(integer(expr_and(&pool, in_range, expr_and(&pool, wild, in_range))), 0);
  ck_assert_int_eq(reads, 0);
  ck_assert(!expr_evaluator_fault(evaluator)->raised);
}
END_TEST

START_TEST(first_fault_is_kept)
{
  pool.span = (struct span){1, 20, 25};
  const struct expr *far = read_at(expr_add(&pool, var(EXPR_VAR_I), expr_int(&pool, 100)));
  pool.span = (struct span){1, 40, 45};
  const struct expr *e = expr_add(&pool, far, read_at(expr_int(&pool, -1)));
  expr_set_int(evaluator, EXPR_VAR_I, 1);
  ck_assert_int_eq(integer(e), 0);
  const struct expr_fault *fault = expr_evaluator_fault(evaluator);
  ck_assert(fault->raised);
  ck_assert_uint_eq(fault->tensor, EXPR_TENSOR_INPUT + 3);
  ck_assert_int_eq(fault->index, 101);
  ck_assert_int_eq(fault->size, 10);
  ck_assert_uint_eq(fault->span.begin, 20);
  expr_clear_fault(evaluator);
  ck_assert(!expr_evaluator_fault(evaluator)->raised);
  integer(e); /* not hidden by what is remembered */
  ck_assert(expr_evaluator_fault(evaluator)->raised);
}
END_TEST

START_TEST(binders)
{
  const struct expr *n = expr_bound(&pool, 0);
  const struct expr *m = expr_bound(&pool, 1);
  const struct expr *size = var(EXPR_VAR_SIZE_NK);
  expr_set_int(evaluator, EXPR_VAR_SIZE_NK, 5);
  ck_assert_int_eq(integer(expr_binder(&pool, EXPR_SUM, 0, size, n)), 10);
  const struct expr *inner = expr_binder(&pool, EXPR_SUM, 1, n, expr_mul(&pool, m, n));
  ck_assert_int_eq(integer(expr_binder(&pool, EXPR_SUM, 0, size, inner)), 0 + 0 + 2 + 9 + 24);
  /* A closed sum of the same level inside, and one whose extent is the outer index. */
  const struct expr *closed = expr_binder(&pool, EXPR_SUM, 0, size, n);
  const struct expr *shadowing =
      expr_binder(&pool, EXPR_SUM, 0, expr_add(&pool, n, expr_int(&pool, 2)), n);
  const struct expr *body =
      expr_add(&pool, expr_mul(&pool, n, closed), expr_mul(&pool, shadowing, n));
  ck_assert_int_eq(integer(expr_binder(&pool, EXPR_SUM, 0, size, body)),
                   100 + 0 + 3 + 2 * 6 + 3 * 10 + 4 * 15);
  ck_assert_int_eq(integer(expr_binder(&pool, EXPR_SUM, 0, size, expr_sub(&pool, shadowing, n))),
                   1 + 2 + 4 + 7 + 11);
  const struct expr *is_two = expr_binary(&pool, EXPR_EQ, read_at(n), expr_int(&pool, 200));
  ck_assert_int_eq(integer(expr_binder(&pool, EXPR_ANY, 0, size, is_two)), 1);
  ck_assert_int_eq(reads, 3); /* stops at the first */
  ck_assert_int_eq(integer(expr_binder(&pool, EXPR_ALL, 0, size, is_two)), 0);
  ck_assert_int_eq(integer(expr_binder(&pool, EXPR_COUNT, 0, size, is_two)), 1);
  ck_assert_int_eq(
      integer(expr_binder(&pool, EXPR_FOLD_MIN, 0, size, expr_sub(&pool, expr_int(&pool, 3), n))),
      -1);
  const struct expr *real = expr_convert(&pool, n, EXPR_FLOAT);
  const struct expr *mean = expr_binder(&pool, EXPR_MEAN, 0, size, real);
  ck_assert(expr_evaluate(evaluator, mean).f == 2.0);
  const struct expr *most = expr_binder(&pool, EXPR_FOLD_MAX, 0, size, real);
  expr_set_int(evaluator, EXPR_VAR_SIZE_NK, 0);
  ck_assert(expr_evaluate(evaluator, most).f == -(double)INFINITY);
  ck_assert(expr_evaluate(evaluator, mean).f == 0.0);
}
END_TEST

START_TEST(ranges)
{
  const struct expr *args[] = {expr_int(&pool, 4), var(EXPR_VAR_I), var(EXPR_VAR_J)};
  expr_set_int(evaluator, EXPR_VAR_I, 2);
  expr_set_int(evaluator, EXPR_VAR_J, 6);
  ck_assert_int_eq(integer(expr_range(&pool, EXPR_RANGE_MIN, EXPR_TENSOR_INPUT, EXPR_INT, args, 3)),
                   200);
  ck_assert_int_eq(integer(expr_range(&pool, EXPR_RANGE_MAX, EXPR_TENSOR_INPUT, EXPR_INT, args, 3)),
                   600);
}
END_TEST

START_TEST(rounding)
{
  const struct expr *s = var(EXPR_VAR_S);
  const struct expr *e = expr_mul(&pool, expr_add(&pool, s, expr_float(&pool, 0.3)), s);
  expr_set_var(evaluator, EXPR_VAR_S, (union expr_value){.f = 0.1});
  ck_assert(expr_evaluate(evaluator, e).f == (0.1 + 0.3) * 0.1);
  expr_set_naive(evaluator, true);
  ck_assert(expr_evaluate(evaluator, e).f == (double)(float)((double)(float)(0.1 + 0.3) * 0.1));
  expr_set_naive(evaluator, false);
  ck_assert(expr_evaluate(evaluator, e).f == (0.1 + 0.3) * 0.1);
  const struct expr *single = expr_unary(&pool, EXPR_EXP, expr_convert(&pool, s, EXPR_SINGLE));
  ck_assert(expr_evaluate(evaluator, single).f == (double)(float)exp((double)0.1f));
}
END_TEST

START_TEST(random_numbers)
{
  /* Fixed for ever: emitters give the same bits. */
  const int32_t keys[] = {1, -2, 3};
  ck_assert_uint_eq(expr_hash_keys(NULL, 0), 0);
  const struct expr *args[] = {var(EXPR_VAR_I), expr_int(&pool, -2), expr_int(&pool, 3)};
  expr_set_int(evaluator, EXPR_VAR_I, 1);
  uint32_t state = expr_hash_keys(keys, 3);
  ck_assert_uint_eq(state, 0x5ebdfce6u);
  ck_assert_int_eq(integer(expr_random(&pool, EXPR_HASH, args, 3)), state >> 1);
  double uniform = expr_evaluate(evaluator, expr_random(&pool, EXPR_UNIFORM, args, 3)).f;
  ck_assert(uniform == (double)(state >> 8) / 16777216.0);
  ck_assert(uniform == (double)expr_uniform_keys(keys, 3));

  /* Means and correlations of neighbours, as dropout over (i, j) sees them. */
  enum { N = 512 };
  double sum = 0;
  double across = 0;
  double down = 0;
  for (int32_t i = 0; i < N; i++)
    for (int32_t j = 0; j < N; j++) {
      double here = (double)expr_uniform_keys((int32_t[]){7, 0, i, j}, 4) - 0.5;
      sum += here;
      across += here * ((double)expr_uniform_keys((int32_t[]){7, 0, i, j + 1}, 4) - 0.5);
      down += here * ((double)expr_uniform_keys((int32_t[]){7, 0, i + 1, j}, 4) - 0.5);
    }
  ck_assert_double_lt(fabs(sum) / (N * N), 4 * 0.2887 / N);
  ck_assert_double_lt(fabs(across) / (N * N), 4 * 0.0833 / N);
  ck_assert_double_lt(fabs(down) / (N * N), 4 * 0.0833 / N);
}
END_TEST

static union expr_value twice_i(void *user, const struct expr *e)
{
  (*(int *)user)++;
  return (union expr_value){.i = 2 * expr_evaluate(evaluator, e->args[0]).i};
}

START_TEST(shortcuts)
{
  int calls = 0;
  const struct expr *i = var(EXPR_VAR_I);
  const struct expr *slow = expr_unary(&pool, EXPR_ABS, expr_add(&pool, i, expr_int(&pool, 1)));
  expr_set_shortcut(evaluator, slow, twice_i, &calls);
  const struct expr *e = expr_mul(&pool, var(EXPR_VAR_J), slow);
  expr_set_int(evaluator, EXPR_VAR_I, 4);
  for (int64_t j = 0; j < 3; j++) {
    expr_set_int(evaluator, EXPR_VAR_J, j);
    ck_assert_int_eq(integer(e), 10 * j);
  }
  ck_assert_int_eq(calls, 1);
}
END_TEST

/* Chains to the left, to the right and through conditions, on a small stack. */
static void *evaluate_deep(void *unused)
{
  (void)unused;
  const struct expr *j = var(EXPR_VAR_J);
  const struct expr *left = j;
  const struct expr *right = j;
  const struct expr *choice = j;
  const struct expr *all = expr_binary(&pool, EXPR_LE, j, read_at(j));
  for (int64_t k = 0; k < 20000; k++) {
    const struct expr *step = expr_int(&pool, k % 7 + 2);
    left = expr_binary(&pool, EXPR_BIT_XOR, expr_mul(&pool, left, step), j);
    right = expr_sub(&pool, expr_mul(&pool, step, j), right);
    choice = expr_select(&pool, expr_binary(&pool, EXPR_LT, j, expr_int(&pool, -k)), step, choice);
    all = expr_and(&pool, expr_binary(&pool, EXPR_LT, expr_int(&pool, -k), j), all);
  }
  ck_assert_uint_ge(all->height, 20000);
  expr_set_int(evaluator, EXPR_VAR_J, 3);
  int64_t want_left = 3;
  int64_t want_right = 3;
  for (int64_t k = 0; k < 20000; k++) {
    want_left = (int32_t)(uint32_t)((uint64_t)want_left * (uint64_t)(k % 7 + 2)) ^ 3;
    want_right = (k % 7 + 2) * 3 - want_right;
  }
  ck_assert_int_eq(integer(left), want_left);
  ck_assert_int_eq(integer(right), want_right);
  ck_assert_int_eq(integer(choice), 3);
  ck_assert_int_eq(integer(all), 1);
  return NULL;
}

START_TEST(depth)
{
  pthread_attr_t attributes;
  pthread_t thread;
  ck_assert_int_eq(pthread_attr_init(&attributes), 0);
  ck_assert_int_eq(pthread_attr_setstacksize(&attributes, 128 * 1024), 0);
  ck_assert_int_eq(pthread_create(&thread, &attributes, evaluate_deep, NULL), 0);
  ck_assert_int_eq(pthread_join(thread, NULL), 0);
  pthread_attr_destroy(&attributes);
}
END_TEST

int main(void)
{
  Suite *suite = suite_create("expr_eval");
  TCase *tests = tcase_create("expr_eval");
  tcase_add_checked_fixture(tests, setup, teardown);
  tcase_add_test(tests, remembers_until_set);
  tcase_add_test(tests, short_circuits_do_not_read);
  tcase_add_test(tests, first_fault_is_kept);
  tcase_add_test(tests, binders);
  tcase_add_test(tests, ranges);
  tcase_add_test(tests, rounding);
  tcase_add_test(tests, random_numbers);
  tcase_add_test(tests, shortcuts);
  tcase_add_test(tests, depth);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
