/* The pool: hash-consing, folding, rewriting, printing. Folding is held against a tree that is
 * interpreted as it was written. */
#include "dsl/expr_scalar.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static struct arena arena;
static struct expr_pool pool;

static void setup(void)
{
  arena_init(&arena);
  expr_pool_init(&pool, &arena);
}

static void teardown(void)
{
  arena_free(&arena);
}

static uint64_t random_state = 1;

static uint32_t random_below(uint32_t n)
{
  random_state = random_state * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)(random_state >> 33) % n;
}

/* A tree as written, beside the folded node made of it. */
struct tree {
  enum expr_op op;
  enum expr_type type;
  union expr_value value; /* constant; variable, parameter, level, tensor */
  uint32_t count;
  const struct tree *args[3];
  const struct expr *folded;
};

struct environment {
  union expr_value vars[EXPR_VAR_COUNT];
  union expr_value params[3];
  int64_t bounds[EXPR_MAX_LEVEL + 1];
  bool fault;
};

enum { TENSOR_SIZE = 12 };

static double element(int64_t index)
{
  return (double)(index * 7 % 5) - 1.5;
}

static bool read_element(void *user, uint32_t tensor, const int64_t *indices, size_t count,
                         union expr_value *value, struct expr_fault *fault)
{
  (void)user;
  (void)tensor;
  (void)count;
  (void)fault;
  if (indices[0] < 0 || indices[0] >= TENSOR_SIZE)
    return false;
  value->f = element(indices[0]);
  return true;
}

static union expr_value interpret(struct environment *env, const struct tree *t);

static union expr_value interpret_binder(struct environment *env, const struct tree *t)
{
  int64_t extent = interpret(env, t->args[0]).i;
  union expr_value sum = expr_binder_start(t->op, t->type);
  int64_t outer = env->bounds[t->value.i];
  for (int64_t n = 0; n < extent; n++) {
    env->bounds[t->value.i] = n;
    union expr_value body = interpret(env, t->args[1]);
    if (t->op == EXPR_ANY || t->op == EXPR_ALL) {
      sum = body;
      if ((body.i != 0) == (t->op == EXPR_ANY))
        break;
    } else if (t->op == EXPR_COUNT) {
      sum.i += body.i;
    } else {
      enum expr_op op = t->op == EXPR_SUM ? EXPR_ADD : t->op == EXPR_FOLD_MAX ? EXPR_MAX : EXPR_MIN;
      sum = expr_apply_binary(op, t->type, sum, body, t->type == EXPR_SINGLE);
    }
  }
  env->bounds[t->value.i] = outer;
  return sum;
}

static union expr_value interpret(struct environment *env, const struct tree *t)
{
  union expr_value a;
  switch ((int)t->op) {
  case EXPR_CONST: return t->value;
  case EXPR_VAR: return env->vars[t->value.i];
  case EXPR_PARAM: return env->params[t->value.i];
  case EXPR_BOUND: return (union expr_value){.i = env->bounds[t->value.i]};
  case EXPR_AND: a = interpret(env, t->args[0]); return a.i != 0 ? interpret(env, t->args[1]) : a;
  case EXPR_OR: a = interpret(env, t->args[0]); return a.i != 0 ? a : interpret(env, t->args[1]);
  case EXPR_SELECT:
    return interpret(env, interpret(env, t->args[0]).i != 0 ? t->args[1] : t->args[2]);
  case EXPR_READ:
    a = interpret(env, t->args[0]);
    if (a.i >= 0 && a.i < TENSOR_SIZE)
      return (union expr_value){.f = element(a.i)};
    env->fault = true;
    return (union expr_value){0};
  }
  if (t->op >= EXPR_SUM)
    return interpret_binder(env, t);
  enum expr_type from = t->args[0]->type;
  a = interpret(env, t->args[0]);
  if (t->op == EXPR_CONVERT)
    return expr_apply_convert(from, t->type, a, t->type == EXPR_SINGLE);
  if (t->count == 1)
    return expr_apply_unary(t->op, from, a, from == EXPR_SINGLE);
  return expr_apply_binary(t->op, from, a, interpret(env, t->args[1]), from == EXPR_SINGLE);
}

static const struct tree *tree_make(struct tree tree)
{
  const struct tree *a = tree.args[0];
  const struct tree *b = tree.args[1];
  if (tree.op == EXPR_SELECT)
    tree.folded = expr_select(&pool, a->folded, b->folded, tree.args[2]->folded);
  else if (tree.op == EXPR_CONVERT)
    tree.folded = expr_convert(&pool, a->folded, tree.type);
  else if (tree.op == EXPR_READ)
    tree.folded = expr_read(&pool, EXPR_TENSOR_INPUT, tree.type, &a->folded, 1);
  else if (tree.op >= EXPR_SUM)
    tree.folded = expr_binder(&pool, tree.op, (uint32_t)tree.value.i, a->folded, b->folded);
  else if (tree.count == 2)
    tree.folded = expr_binary(&pool, tree.op, a->folded, b->folded);
  else if (tree.count == 1)
    tree.folded = expr_unary(&pool, tree.op, a->folded);
  return arena_copy(&arena, &tree, sizeof(tree));
}

static const double reals[] = {0.0, -0.0, 1.0, -1.0, 2.0, 0.5, 1e30, -3.25, 0.1, 8.0};
static const int64_t integers[] = {0, 1, -1, 2, 3, 5, -7, INT32_MIN, INT32_MAX, 1000};

static union expr_value random_value(enum expr_type type)
{
  if (type == EXPR_BOOL)
    return (union expr_value){.i = random_below(2)};
  if (!expr_type_is_real(type))
    return (union expr_value){.i = integers[random_below(10)]};
  uint32_t pick = random_below(12);
  double value = pick == 10 ? (double)NAN : pick == 11 ? (double)INFINITY : reals[pick];
  return (union expr_value){.f = type == EXPR_SINGLE ? (double)(float)value : value};
}

static const struct tree *constant(enum expr_type type)
{
  struct tree tree = {.op = EXPR_CONST, .type = type, .value = random_value(type)};
  switch (type) {
  case EXPR_BOOL: tree.folded = expr_bool(&pool, tree.value.i != 0); break;
  case EXPR_INT: tree.folded = expr_int(&pool, tree.value.i); break;
  case EXPR_LONG: tree.folded = expr_long(&pool, tree.value.i); break;
  case EXPR_FLOAT: tree.folded = expr_float(&pool, tree.value.f); break;
  case EXPR_SINGLE: tree.folded = expr_single(&pool, tree.value.f); break;
  }
  return tree_make(tree);
}

static const struct tree *leaf(enum expr_type type, uint32_t levels)
{
  struct tree tree = {.type = type};
  if (type == EXPR_INT && levels != 0 && random_below(2) == 0) {
    tree.op = EXPR_BOUND;
    tree.value.i = random_below(levels);
    tree.folded = expr_bound(&pool, (uint32_t)tree.value.i);
  } else if (random_below(3) == 0) {
    return constant(type);
  } else if (random_below(4) == 0 && type != EXPR_LONG && type != EXPR_SINGLE) {
    tree.op = EXPR_PARAM;
    tree.value.i = type == EXPR_FLOAT ? 2 : type == EXPR_INT ? 1 : 0;
    tree.folded = expr_param(&pool, (uint32_t)tree.value.i, type);
  } else if (type == EXPR_INT || type == EXPR_FLOAT || type == EXPR_LONG) {
    tree.op = EXPR_VAR;
    tree.value.i = type == EXPR_FLOAT  ? EXPR_VAR_S
                   : type == EXPR_LONG ? EXPR_VAR_TILE_I0
                                       : EXPR_VAR_I + (int64_t)random_below(2);
    tree.folded = expr_variable(&pool, (enum expr_var)tree.value.i);
  } else {
    return constant(type);
  }
  return tree_make(tree);
}

static const struct tree *grow(enum expr_type type, uint32_t depth, uint32_t levels);

static struct tree node(enum expr_op op, enum expr_type type, enum expr_type operand,
                        uint32_t count, uint32_t depth, uint32_t levels)
{
  struct tree tree = {.op = op, .type = type, .count = count};
  for (uint32_t k = 0; k < count; k++)
    tree.args[k] = grow(operand, depth - 1, levels);
  if (count == 2 && random_below(6) == 0)
    tree.args[1] = tree.args[0];
  return tree;
}

static struct tree binder(enum expr_op op, enum expr_type type, enum expr_type body, uint32_t depth,
                          uint32_t levels)
{
  struct tree tree = {.op = op, .type = type, .count = 2, .value.i = levels};
  struct tree extent = {.op = EXPR_CONST, .type = EXPR_INT, .value.i = random_below(4)};
  extent.folded = expr_int(&pool, extent.value.i);
  tree.args[0] = tree_make(extent);
  tree.args[1] = grow(body, depth - 1, levels + 1);
  return tree;
}

static const struct tree *grow(enum expr_type type, uint32_t depth, uint32_t levels)
{
  static const enum expr_op real_ops[] = {EXPR_ADD, EXPR_SUB, EXPR_MUL,      EXPR_DIV,
                                          EXPR_MIN, EXPR_MAX, EXPR_FLOORDIV, EXPR_MOD};
  static const enum expr_op int_ops[] = {
      EXPR_ADD, EXPR_SUB,     EXPR_MUL,    EXPR_FLOORDIV, EXPR_MOD,        EXPR_MIN,
      EXPR_MAX, EXPR_BIT_AND, EXPR_BIT_OR, EXPR_BIT_XOR,  EXPR_SHIFT_LEFT, EXPR_SHIFT_RIGHT};
  static const enum expr_op bool_ops[] = {EXPR_LT, EXPR_LE, EXPR_EQ, EXPR_NE};
  bool is_real = expr_type_is_real(type);
  if (depth == 0)
    return leaf(type, levels);
  uint32_t pick = random_below(10);
  if (pick == 0)
    return leaf(type, levels);
  if (pick == 1) {
    struct tree tree = node(EXPR_SELECT, type, type, 3, depth, levels);
    tree.args[0] = grow(EXPR_BOOL, depth - 1, levels);
    return tree_make(tree);
  }
  if (pick == 2)
    return tree_make(node(EXPR_CONVERT, type, (enum expr_type)random_below(5), 1, depth, levels));
  if (type == EXPR_BOOL) {
    if (pick < 6)
      return tree_make(node(bool_ops[random_below(4)], type, (enum expr_type)(1 + random_below(4)),
                            2, depth, levels));
    if (pick == 6)
      return tree_make(node(EXPR_NOT, type, type, 1, depth, levels));
    if (pick == 7)
      return tree_make(
          binder(random_below(2) ? EXPR_ANY : EXPR_ALL, type, EXPR_BOOL, depth, levels));
    return tree_make(node(random_below(2) ? EXPR_AND : EXPR_OR, type, type, 2, depth, levels));
  }
  if (pick == 3)
    return tree_make(node(random_below(2) ? EXPR_NEG : EXPR_ABS, type, type, 1, depth, levels));
  if (pick == 4) {
    static const enum expr_op ops[] = {EXPR_SUM, EXPR_FOLD_MAX, EXPR_FOLD_MIN};
    if (type == EXPR_INT && random_below(2) == 0)
      return tree_make(binder(EXPR_COUNT, type, EXPR_BOOL, depth, levels));
    return tree_make(binder(ops[random_below(3)], type, type, depth, levels));
  }
  if (pick == 5 && type == EXPR_FLOAT)
    return tree_make(node(EXPR_READ, type, EXPR_INT, 1, depth, levels));
  if (pick == 5 && type == EXPR_INT)
    return tree_make(
        node(EXPR_FLOOR, type, random_below(2) ? EXPR_FLOAT : EXPR_SINGLE, 1, depth, levels));
  if (is_real)
    return tree_make(node(real_ops[random_below(8)], type, type, 2, depth, levels));
  return tree_make(node(int_ops[random_below(12)], type, type, 2, depth, levels));
}

static bool same_value(enum expr_type type, union expr_value a, union expr_value b)
{
  return (expr_type_is_real(type) && isnan(a.f) && isnan(b.f)) || a.i == b.i;
}

static void randomise(struct environment *env, struct expr_evaluator *evaluator)
{
  static const enum expr_var vars[] = {EXPR_VAR_I, EXPR_VAR_J, EXPR_VAR_S, EXPR_VAR_TILE_I0};
  static const enum expr_type types[] = {EXPR_INT, EXPR_INT, EXPR_FLOAT, EXPR_LONG};
  static const enum expr_type params[] = {EXPR_BOOL, EXPR_INT, EXPR_FLOAT};
  for (size_t k = 0; k < 4; k++) {
    env->vars[vars[k]] = random_value(types[k]);
    expr_set_var(evaluator, vars[k], env->vars[vars[k]]);
  }
  for (uint32_t k = 0; k < 3; k++) {
    env->params[k] = random_value(params[k]);
    expr_set_param(evaluator, k, env->params[k]);
  }
  env->fault = false;
  expr_clear_fault(evaluator);
}

/* Also checks that substitution gives what setting the variable gives. */
START_TEST(folding_keeps_values)
{
  struct environment env = {0};
  struct expr_evaluator *evaluator = expr_evaluator_new(&arena, &pool);
  expr_set_reader(evaluator, read_element, NULL, NULL);
  const struct expr *next = expr_add(&pool, expr_variable(&pool, EXPR_VAR_J), expr_int(&pool, 1));
  uint32_t compared = 0;
  for (uint32_t round = 0; round < 6000; round++) {
    enum expr_type type = (enum expr_type)random_below(5);
    const struct tree *tree = grow(type, 5, 0);
    ck_assert_int_eq(tree->folded->type, type);
    for (uint32_t sample = 0; sample < 4; sample++) {
      randomise(&env, evaluator);
      union expr_value want = interpret(&env, tree);
      union expr_value got = expr_evaluate(evaluator, tree->folded);
      if (env.fault)
        continue; /* folding may drop the read that went wrong */
      compared++;
      ck_assert_msg(!expr_evaluator_fault(evaluator)->raised, "a read moved to where it fails: %s",
                    expr_print(&arena, tree->folded, NULL));
      ck_assert_msg(same_value(type, want, got), "%lld %g, not %lld %g: %s", (long long)got.i,
                    got.f, (long long)want.i, want.f, expr_print(&arena, tree->folded, NULL));
    }
    env.vars[EXPR_VAR_I].i = expr_wrap(env.vars[EXPR_VAR_J].i + 1);
    union expr_value want = interpret(&env, tree);
    const struct expr *moved = expr_substitute(&pool, tree->folded, EXPR_VAR_I, next);
    ck_assert(!expr_depends(moved, EXPR_VAR_I));
    if (!env.fault)
      ck_assert(same_value(type, want, expr_evaluate(evaluator, moved)));
  }
  ck_assert_uint_gt(compared, 15000);
}
END_TEST

START_TEST(equal_expressions_are_one_node)
{
  const struct expr *i = expr_variable(&pool, EXPR_VAR_I);
  const struct expr *j = expr_variable(&pool, EXPR_VAR_J);
  ck_assert_ptr_eq(expr_add(&pool, i, j), expr_add(&pool, j, i));
  ck_assert_ptr_ne(expr_sub(&pool, i, j), expr_sub(&pool, j, i));
  ck_assert_ptr_ne(expr_float(&pool, 0.0), expr_float(&pool, -0.0));
  ck_assert_ptr_eq(expr_float(&pool, (double)NAN), expr_float(&pool, -(double)NAN));
  ck_assert_ptr_ne(expr_float(&pool, 1.0), expr_single(&pool, 1.0));
  const struct expr *many[600];
  for (int64_t k = 0; k < 600; k++)
    many[k] = expr_mul(&pool, i, expr_int(&pool, k + 2));
  for (int64_t k = 0; k < 600; k++)
    ck_assert_ptr_eq(many[k], expr_mul(&pool, expr_int(&pool, k + 2), i));
  for (size_t k = 0; k < pool.nodes.count; k++)
    ck_assert_uint_eq(pool.nodes.items[k]->id, k);
}
END_TEST

START_TEST(identities)
{
  const struct expr *i = expr_variable(&pool, EXPR_VAR_I);
  const struct expr *s = expr_variable(&pool, EXPR_VAR_S);
  const struct expr *two = expr_int(&pool, 2);
  ck_assert_ptr_eq(expr_sub(&pool, i, i), expr_int(&pool, 0));
  ck_assert_ptr_eq(expr_add(&pool, expr_add(&pool, i, two), expr_int(&pool, -2)), i);
  ck_assert_ptr_eq(expr_sub(&pool, expr_add(&pool, i, two), i), two);
  ck_assert_ptr_ne(expr_add(&pool, s, expr_float(&pool, 0.0)), s);
  ck_assert_ptr_eq(expr_add(&pool, s, expr_float(&pool, -0.0)), s);
  ck_assert_ptr_ne(expr_sub(&pool, s, s), expr_float(&pool, 0.0));
  ck_assert_ptr_ne(expr_binary(&pool, EXPR_EQ, s, s), expr_bool(&pool, true));
  ck_assert_ptr_eq(expr_binary(&pool, EXPR_LT, s, s), expr_bool(&pool, false));
  const struct expr *below = expr_binary(&pool, EXPR_LT, i, two);
  ck_assert_ptr_eq(expr_not(&pool, expr_not(&pool, below)), below);
  ck_assert_ptr_eq(expr_not(&pool, below), expr_binary(&pool, EXPR_LE, two, i));
  ck_assert(expr_is_false(expr_and(&pool, below, expr_not(&pool, below))));
  ck_assert(expr_is_true(expr_or(&pool, expr_not(&pool, below), below)));
  ck_assert_ptr_eq(expr_binary(&pool, EXPR_POW, i, two), expr_mul(&pool, i, i));
  ck_assert_ptr_eq(expr_binary(&pool, EXPR_DIV, s, expr_float(&pool, 8.0)),
                   expr_mul(&pool, s, expr_float(&pool, 0.125)));
  ck_assert_int_eq(expr_binary(&pool, EXPR_DIV, s, expr_float(&pool, 3.0))->op, EXPR_DIV);
  ck_assert_ptr_eq(expr_convert(&pool, expr_convert(&pool, i, EXPR_LONG), EXPR_INT), i);
  ck_assert_ptr_ne(expr_convert(&pool, expr_convert(&pool, i, EXPR_SINGLE), EXPR_FLOAT),
                   expr_convert(&pool, i, EXPR_FLOAT));
  ck_assert_ptr_eq(expr_convert(&pool, expr_convert(&pool, i, EXPR_FLOAT), EXPR_SINGLE),
                   expr_convert(&pool, i, EXPR_SINGLE));
  ck_assert_ptr_eq(expr_binder(&pool, EXPR_SUM, 0, expr_int(&pool, -3), expr_bound(&pool, 0)),
                   expr_int(&pool, 0));
  ck_assert(expr_is_true(expr_binder(&pool, EXPR_ALL, 0, expr_int(&pool, 0), below)));
  ck_assert(expr_is_false(expr_binder(&pool, EXPR_ANY, 0, i, expr_bool(&pool, false))));
}
END_TEST

START_TEST(scalar_operations)
{
  static const struct {
    enum expr_op op;
    int64_t a, b, result;
  } rows[] = {
      {EXPR_FLOORDIV, -7, 2, -4},
      {EXPR_MOD, -7, 2, 1},
      {EXPR_FLOORDIV, 7, -2, -4},
      {EXPR_MOD, 7, -2, -1},
      {EXPR_FLOORDIV, 5, 0, 0},
      {EXPR_MOD, 5, 0, 0},
      {EXPR_FLOORDIV, INT32_MIN, -1, INT32_MIN},
      {EXPR_MOD, INT32_MIN, -1, 0},
      {EXPR_ADD, INT32_MAX, 1, INT32_MIN},
      {EXPR_MUL, INT32_MIN, -1, INT32_MIN},
      {EXPR_SHIFT_LEFT, 1, 33, 2},
      {EXPR_SHIFT_RIGHT, -1, 1, INT32_MAX},
      {EXPR_BIT_XOR, -1, 1, -2},
      {EXPR_SUB, INT32_MIN, 1, INT32_MAX},
  };
  for (size_t k = 0; k < sizeof(rows) / sizeof(*rows); k++)
    ck_assert_int_eq(expr_apply_binary(rows[k].op, EXPR_INT, (union expr_value){.i = rows[k].a},
                                       (union expr_value){.i = rows[k].b}, false)
                         .i,
                     rows[k].result);
  static const struct {
    double x;
    int64_t floor;
  } floors[] = {{-0.5, -1}, {1e300, INT32_MAX}, {-1e300, INT32_MIN}, {(double)NAN, 0}, {2.75, 2}};
  for (size_t k = 0; k < sizeof(floors) / sizeof(*floors); k++)
    ck_assert_int_eq(
        expr_apply_unary(EXPR_FLOOR, EXPR_FLOAT, (union expr_value){.f = floors[k].x}, false).i,
        floors[k].floor);
  union expr_value zero = {.f = 0.0};
  union expr_value minus_zero = {.f = -0.0};
  ck_assert(signbit(expr_apply_binary(EXPR_MIN, EXPR_FLOAT, zero, minus_zero, false).f));
  ck_assert(!signbit(expr_apply_binary(EXPR_MAX, EXPR_FLOAT, minus_zero, zero, false).f));
  union expr_value rest = expr_apply_binary(EXPR_MOD, EXPR_FLOAT, (union expr_value){.f = -1.5},
                                            (union expr_value){.f = 2.0}, false);
  ck_assert_double_eq(rest.f, 0.5);
  union expr_value tenth = expr_apply_binary(EXPR_DIV, EXPR_SINGLE, (union expr_value){.f = 1.0},
                                             (union expr_value){.f = 10.0}, true);
  ck_assert(tenth.f == (double)0.1f);
}
END_TEST

START_TEST(dependences)
{
  const struct expr *i = expr_variable(&pool, EXPR_VAR_I);
  const struct expr *n = expr_bound(&pool, 2);
  const struct expr *body = expr_add(&pool, i, n);
  ck_assert(body->deps & EXPR_DEP(EXPR_DEP_BOUND + 2));
  const struct expr *sum =
      expr_binder(&pool, EXPR_SUM, 2, expr_variable(&pool, EXPR_VAR_SIZE_NK), body);
  ck_assert_uint_eq(sum->deps, EXPR_DEP(EXPR_VAR_I) | EXPR_DEP(EXPR_VAR_SIZE_NK));
  ck_assert_uint_eq(sum->height, 2);
}
END_TEST

static const struct expr *rename_input(void *user, struct expr_pool *p, const struct expr *e)
{
  (*(uint32_t *)user)++;
  if (e->op == EXPR_READ)
    return expr_read(p, (uint32_t)e->value.i + 1, e->type, e->args, e->arg_count);
  return e->op == EXPR_PARAM ? expr_int(p, 3) : NULL;
}

START_TEST(rewriting)
{
  const struct expr *i = expr_variable(&pool, EXPR_VAR_I);
  const struct expr *index = expr_add(&pool, i, expr_param(&pool, 0, EXPR_INT));
  const struct expr *read = expr_read(&pool, EXPR_TENSOR_INPUT, EXPR_INT, &index, 1);
  const struct expr *root = expr_mul(&pool, read, index);
  uint32_t calls = 0;
  const struct expr *result = expr_rewrite(&pool, root, rename_input, &calls);
  const struct expr *new_index = expr_add(&pool, i, expr_int(&pool, 3));
  const struct expr *want =
      expr_mul(&pool, expr_read(&pool, EXPR_TENSOR_INPUT + 1, EXPR_INT, &new_index, 1), new_index);
  ck_assert_ptr_eq(result, want);
  ck_assert_uint_eq(calls, 3); /* each leaf once, though shared */
  ck_assert_ptr_eq(expr_substitute(&pool, root, EXPR_VAR_J, i), root);
  ck_assert_ptr_eq(
      expr_substitute(&pool, expr_sub(&pool, i, expr_variable(&pool, EXPR_VAR_J)), EXPR_VAR_J, i),
      expr_int(&pool, 0));
  const struct expr *deep = i;
  for (int k = 0; k < 20000; k++)
    deep = expr_unary(&pool, EXPR_ABS, expr_sub(&pool, deep, expr_variable(&pool, EXPR_VAR_J)));
  ck_assert_uint_ge(expr_substitute(&pool, deep, EXPR_VAR_I, expr_int(&pool, 5))->height, 39999);
}
END_TEST

START_TEST(singles)
{
  const struct expr *i = expr_variable(&pool, EXPR_VAR_I);
  const struct expr *scaled =
      expr_binary(&pool, EXPR_DIV, expr_convert(&pool, i, EXPR_FLOAT), expr_float(&pool, 10.0));
  const struct expr *bucket =
      expr_unary(&pool, EXPR_FLOOR, expr_add(&pool, scaled, expr_param(&pool, 0, EXPR_FLOAT)));
  const struct expr *single = expr_to_single(&pool, bucket);
  for (size_t k = 0; k < pool.nodes.count; k++) {
    const struct expr *e = pool.nodes.items[k];
    if (e->id > bucket->id && e->type == EXPR_FLOAT)
      ck_abort_msg("a FLOAT was made: %s", expr_print(&arena, e, NULL));
  }
  ck_assert_int_eq(single->args[0]->type, EXPR_SINGLE);
  ck_assert_ptr_eq(expr_to_single(&pool, single), single);
}
END_TEST

static void prints(const struct expr *e, const char *text)
{
  ck_assert_str_eq(expr_print(&arena, e, NULL), text);
}

START_TEST(printing)
{
  const struct expr *i = expr_variable(&pool, EXPR_VAR_I);
  const struct expr *j = expr_variable(&pool, EXPR_VAR_J);
  const struct expr *s = expr_variable(&pool, EXPR_VAR_S);
  const struct expr *p = expr_param(&pool, 0, EXPR_INT);
  const struct expr *gap = expr_sub(&pool, i, j);
  const struct expr *causal = expr_binary(&pool, EXPR_LE, expr_int(&pool, 0), gap);
  prints(causal, "0 <= i - j");
  prints(expr_and(&pool, causal, expr_binary(&pool, EXPR_LT, gap, p)), "0 <= i - j and i - j < p0");
  prints(expr_sub(&pool, j, gap), "j - (i - j)");
  prints(expr_mul(&pool, expr_sub(&pool, j, expr_int(&pool, 1)), i), "i * (j - 1)");
  prints(expr_unary(&pool, EXPR_NEG, expr_binary(&pool, EXPR_POW, s, expr_float(&pool, 3.0))),
         "-s ** 3.0");
  prints(expr_binary(&pool, EXPR_POW, expr_unary(&pool, EXPR_NEG, s), expr_float(&pool, 0.5)),
         "(-s) ** 0.5");
  const struct expr *sum =
      expr_binder(&pool, EXPR_SUM, 0, p, expr_mul(&pool, expr_bound(&pool, 0), i));
  prints(expr_add(&pool, expr_mul(&pool, j, sum), j), "j + j * sum(n0 < p0) i * n0");
  prints(expr_mul(&pool, sum, expr_int(&pool, 3)), "(sum(n0 < p0) i * n0) * 3");
  prints(expr_select(&pool, causal, s, expr_float(&pool, -0.1)), "s if 0 <= i - j else -0.1");
  prints(expr_not(&pool, expr_and(&pool, causal, expr_param(&pool, 1, EXPR_BOOL))),
         "not (0 <= i - j and p1)");
  const struct expr *indices[] = {expr_variable(&pool, EXPR_VAR_B),
                                  expr_variable(&pool, EXPR_VAR_G), j,
                                  expr_variable(&pool, EXPR_VAR_C)};
  prints(expr_read(&pool, EXPR_TENSOR_K, EXPR_FLOAT, indices, 4), "k[c]");
  prints(expr_read(&pool, EXPR_TENSOR_INPUT + 2, EXPR_INT, indices, 2), "t2[b, g]");
  prints(expr_single(&pool, 0.1), "0.1");
  prints(expr_float(&pool, 1e30), "1e+30");
  const struct expr *wide = s;
  for (int k = 0; k < 60; k++) /* 2^60 leaves as a tree */
    wide = expr_mul(&pool, wide, wide);
  ck_assert_uint_lt(strlen(expr_print(&arena, wide, NULL)), 100000);
}
END_TEST

int main(void)
{
  Suite *suite = suite_create("expr");
  TCase *tests = tcase_create("expr");
  tcase_add_checked_fixture(tests, setup, teardown);
  tcase_add_test(tests, folding_keeps_values);
  tcase_add_test(tests, equal_expressions_are_one_node);
  tcase_add_test(tests, identities);
  tcase_add_test(tests, scalar_operations);
  tcase_add_test(tests, dependences);
  tcase_add_test(tests, rewriting);
  tcase_add_test(tests, singles);
  tcase_add_test(tests, printing);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
