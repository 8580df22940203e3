/* Expressions: types, operators, conditions and reductions. */
#include "dsl/check.h"

#include <math.h>

enum { MAX_NODES = 200000, MAX_ELABORATION_DEPTH = 1000 };

const struct context check_contexts[CONTEXT_KIND_COUNT] = {
#define SIZES                                                                                      \
  (ALLOW(SIZE_B) | ALLOW(SIZE_H) | ALLOW(SIZE_G) | ALLOW(SIZE_NQ) | ALLOW(SIZE_NK) |               \
   ALLOW(SIZE_D) | ALLOW(SIZE_DV))
#define ROW (SIZES | ALLOW(OFFSET) | ALLOW(B) | ALLOW(H) | ALLOW(G) | ALLOW(I) | ALLOW(R))
#define PAIR (ROW | ALLOW(J))
    [CONTEXT_CONSTANT] = {"in a constant",
                          ALLOW(SIZE_H) | ALLOW(SIZE_G) | ALLOW(SIZE_D) | ALLOW(SIZE_DV), false,
                          true},
    [CONTEXT_DIMS] = {"in the dimensions of an input", SIZES, false, false},
    [CONTEXT_ALIGN] = {"in align", SIZES | ALLOW(B), false, false},
    [CONTEXT_AT] = {"in a position", SIZES | ALLOW(OFFSET) | ALLOW(B) | ALLOW(G) | ALLOW(T), false,
                    false},
    [CONTEXT_ANGLE] = {"in a rotary angle", SIZES | ALLOW(OFFSET) | ALLOW(C) | ALLOW(T), false,
                       false},
    [CONTEXT_UNIFORM] = {"here: it is one value for the whole launch", SIZES, false, false},
    [CONTEXT_SLOPE] = {"in a slope", SIZES | ALLOW(B) | ALLOW(H) | ALLOW(G), false, false},
    [CONTEXT_SIMILARITY] = {"in a similarity", PAIR | ALLOW(Q) | ALLOW(K), false, false},
    [CONTEXT_SCALE] = {"in a scale", PAIR, false, false},
    [CONTEXT_SCORE] = {"in a score", PAIR | ALLOW(Q) | ALLOW(K) | ALLOW(S), false, false},
    [CONTEXT_MAP] = {"in a map", PAIR | ALLOW(Q) | ALLOW(K), false, false},
    [CONTEXT_NORMALIZE] = {"in a normaliser", ROW, false, false},
    [CONTEXT_MASK] = {"in a mask", PAIR, false, false},
    [CONTEXT_WEIGHT] = {"in a weight", PAIR | ALLOW(W), true, false},
    [CONTEXT_VALUE] = {"in a value", PAIR | ALLOW(K) | ALLOW(V) | ALLOW(C), true, false},
    [CONTEXT_POST] = {"in post: it comes after the sum over keys",
                      ROW | ALLOW(C) | ALLOW(O) | ALLOW(LSE), true, false},
    [CONTEXT_SELECT] = {"in select", ROW | ALLOW(Q) | ALLOW(N), false, false},
    [CONTEXT_MEAN] = {"in a mean over a block", SIZES | ALLOW(B) | ALLOW(G) | ALLOW(J) | ALLOW(K),
                      false, false},
    [CONTEXT_LET] = {"in a let", PAIR | ALLOW(Q) | ALLOW(K) | ALLOW(V), false, false},
#undef SIZES
#undef ROW
#undef PAIR
};

static const struct value error_value = {.kind = VALUE_ERROR};

struct scope check_scope(const struct check *check, enum context_kind context)
{
  return (struct scope){.context = context, .symbol_limit = check->symbols.count};
}

struct value check_scalar_value(const struct expr *e)
{
  return e == NULL ? error_value : (struct value){.kind = VALUE_SCALAR, .expr = e};
}

const struct ast_expr *check_strip(const struct ast_expr *ast)
{
  while (ast->kind == AST_PAREN)
    ast = ast->operands.a;
  return ast;
}

const struct expr *check_to_type(struct check *check, const struct expr *e, enum expr_type type)
{
  return e->type == type ? e : expr_convert(check->pool, e, type);
}

struct value check_as_scalar(struct check *check, struct value value, struct span span)
{
  if (value.kind == VALUE_VECTOR) {
    struct diagnostic *error =
        check_error(check, DIAG_NOT_SCALAR, span, "this is a vector, a number is needed");
    diag_help(check->diagnostics, error, "give it an index, as in x[c], or take dot(x, y)");
    return error_value;
  }
  if (value.kind == VALUE_INPUT) {
    const struct spec_input *input = &check->spec->inputs[value.input];
    if (input->rank == 0)
      return check_scalar_value(expr_read(check->pool, EXPR_TENSOR_INPUT + value.input,
                                          input->type == DTYPE_BOOL ? EXPR_BOOL
                                          : input->type == DTYPE_I32 || input->type == DTYPE_I64 ||
                                                  input->type == DTYPE_U8
                                              ? EXPR_INT
                                              : EXPR_FLOAT,
                                          NULL, 0));
    struct diagnostic *error = check_error(check, DIAG_NOT_SCALAR, span,
                                           "'%s' is a tensor, a number is needed", input->name);
    diag_help(check->diagnostics, error, "write %s", check_element(check, value.input, NULL));
    return error_value;
  }
  return value;
}

/* doc[i] of a doc[B, NK], where a number is needed: an index is missing, not a channel. */
static bool misses_index(struct check *check, const struct scope *scope, const struct ast_expr *ast)
{
  const struct ast_expr *index = check_strip(ast);
  if (scope->in_fn || index->kind != AST_INDEX || index->index.base->kind != AST_NAME)
    return false;
  const struct symbol *symbol = check_symbol(check, scope, index->index.base->name.text);
  if (symbol == NULL || symbol->kind != SYMBOL_INPUT ||
      index->index.indices->list.count >= check->spec->inputs[symbol->index].rank)
    return false;
  struct diagnostic *error =
      check_error(check, DIAG_NOT_SCALAR, ast->span,
                  "this is a vector, a number is needed: '%s' has %u dimensions", symbol->name.text,
                  check->spec->inputs[symbol->index].rank);
  diag_related(check->diagnostics, error, symbol->name.span, "declared here");
  diag_help(check->diagnostics, error, "write %s", check_element(check, symbol->index, index));
  return true;
}

const struct expr *check_scalar(struct check *check, const struct scope *scope,
                                const struct ast_expr *ast)
{
  struct value value = check_value(check, scope, ast);
  if (value.kind == VALUE_VECTOR && misses_index(check, scope, ast))
    return NULL;
  value = check_as_scalar(check, value, ast->span);
  return value.kind == VALUE_ERROR ? NULL : value.expr;
}

const struct expr *check_float(struct check *check, enum context_kind context,
                               const struct ast_expr *ast)
{
  struct scope scope = check_scope(check, context);
  const struct expr *e = check_scalar(check, &scope, ast);
  return e == NULL ? NULL : check_to_type(check, e, EXPR_FLOAT);
}

const struct expr *check_int(struct check *check, const struct scope *scope,
                             const struct ast_expr *ast, const char *what)
{
  const struct expr *e = check_scalar(check, scope, ast);
  if (e == NULL)
    return NULL;
  if (e->type == EXPR_FLOAT) {
    struct diagnostic *error =
        check_error(check, DIAG_INDEX_TYPE, ast->span, "%s must be an int, this is a float", what);
    diag_help(check->diagnostics, error, "use // to divide ints, or floor(x)");
    return NULL;
  }
  return check_to_type(check, e, EXPR_INT);
}

const struct expr *check_bool(struct check *check, const struct scope *scope,
                              const struct ast_expr *ast)
{
  const struct expr *e = check_scalar(check, scope, ast);
  if (e == NULL || e->type == EXPR_BOOL)
    return e;
  struct diagnostic *error =
      check_error(check, DIAG_NOT_BOOL, ast->span, "a condition is needed here, this is %s",
                  e->type == EXPR_INT ? "an int" : "a float");
  diag_help(check->diagnostics, error, "compare it with something, as in x != 0");
  return NULL;
}

bool check_constant(struct check *check, const struct ast_expr *ast, const char *what,
                    int64_t least, int64_t most, int64_t *result)
{
  struct scope scope = check_scope(check, CONTEXT_CONSTANT);
  const struct expr *e = check_int(check, &scope, ast, what);
  if (e == NULL)
    return false;
  if (!expr_is_const(e)) {
    struct diagnostic *error =
        check_error(check, DIAG_NOT_CONSTANT, ast->span, "%s must be a constant", what);
    diag_help(check->diagnostics, error,
              "use numbers and 'const' parameters, whose values --set changes");
    return false;
  }
  if (e->value.i < least || e->value.i > most) {
    check_error(check, DIAG_BAD_VALUE, ast->span, "%s must lie between %lld and %lld, this is %lld",
                what, (long long)least, (long long)most, (long long)e->value.i);
    return false;
  }
  *result = e->value.i;
  return true;
}

/* ---- binders ---- */

struct replacement {
  uint32_t argument;
  const struct expr *by;
};

static const struct expr *replace_argument(void *user, struct expr_pool *pool,
                                           const struct expr *leaf)
{
  const struct replacement *replacement = user;
  (void)pool;
  return leaf->op == EXPR_ARG && leaf->value.i == replacement->argument ? replacement->by : NULL;
}

const struct expr *check_at_channel(struct check *check, const struct expr *element,
                                    const struct expr *channel)
{
  struct replacement replacement = {0, channel};
  return expr_rewrite(check->pool, element, replace_argument, &replacement);
}

static bool is_binder(enum expr_op op)
{
  return op == EXPR_SUM || op == EXPR_ANY || op == EXPR_ALL || op == EXPR_MEAN ||
         op == EXPR_FOLD_MAX || op == EXPR_FOLD_MIN || op == EXPR_COUNT;
}

static uint8_t inner_levels(struct check *check, const struct expr *e)
{
  for (size_t id = check->binder_levels.count; id <= e->id; id++) {
    const struct expr *node = check->pool->nodes.items[id];
    uint8_t most = is_binder(node->op) ? (uint8_t)(node->value.i + 1) : 0;
    for (uint32_t k = 0; k < node->arg_count; k++)
      if (check->binder_levels.items[node->args[k]->id] > most)
        most = check->binder_levels.items[node->args[k]->id];
    vector_push(check->arena, &check->binder_levels, most);
  }
  return check->binder_levels.items[e->id];
}

const struct expr *check_binder(struct check *check, enum expr_op op, uint32_t binder,
                                const struct expr *extent, const struct expr *body,
                                struct span span)
{
  uint8_t level = inner_levels(check, body);
  if (level > EXPR_MAX_LEVEL) {
    check_error(check, DIAG_TOO_COMPLEX, span, "more than %d reductions inside each other",
                EXPR_MAX_LEVEL + 1);
    return NULL;
  }
  check->pool->span = span;
  struct replacement replacement = {1 + binder, expr_bound(check->pool, level)};
  body = expr_rewrite(check->pool, body, replace_argument, &replacement);
  return expr_binder(check->pool, op, level, extent, body);
}

static struct value reduce_value(struct check *check, const struct scope *scope,
                                 const struct ast_expr *ast)
{
  const struct expr *extent;
  if (ast->reduce.extent != NULL) {
    extent = check_int(check, scope, ast->reduce.extent, "the number of terms");
    if (extent == NULL)
      return error_value;
  } else {
    extent =
        expr_int(check->pool, check_contexts[scope->context].value_channels ? check->spec->dim_v
                                                                            : check->spec->dim_qk);
  }
  struct local local = {
      .name = ast->reduce.name.text,
      .value = check_scalar_value(expr_arg(check->pool, 1 + scope->binders, EXPR_INT)),
      .next = scope->locals,
  };
  struct scope inner = *scope;
  inner.locals = &local;
  inner.binders++;
  const struct expr *body = ast->op == AST_SUM ? check_scalar(check, &inner, ast->reduce.body)
                                               : check_bool(check, &inner, ast->reduce.body);
  if (body == NULL)
    return error_value;
  if (ast->op == AST_SUM && body->type == EXPR_BOOL)
    body = check_to_type(check, body, EXPR_INT);
  enum expr_op op = ast->op == AST_SUM ? EXPR_SUM : ast->op == AST_ANY ? EXPR_ANY : EXPR_ALL;
  return check_scalar_value(check_binder(check, op, scope->binders, extent, body, ast->span));
}

/* ---- operators ---- */

static enum expr_type common_type(const struct expr *a, const struct expr *b)
{
  if (a->type == EXPR_FLOAT || b->type == EXPR_FLOAT)
    return EXPR_FLOAT;
  return a->type == EXPR_INT || b->type == EXPR_INT ? EXPR_INT : EXPR_BOOL;
}

static void warn_wrap(struct check *check, enum ast_op op, struct span span, const struct expr *a,
                      const struct expr *b)
{
  if (!expr_is_const(a) || !expr_is_const(b))
    return;
  int64_t x = a->value.i, y = b->value.i;
  int64_t exact = op == AST_ADD ? x + y : op == AST_SUB ? x - y : x * y;
  if (exact < INT32_MIN || exact > INT32_MAX)
    check_error(check, DIAG_INT_WRAPS, span, "this is %lld, which wraps at 32 bits",
                (long long)exact);
}

static const struct expr *int_power(struct check *check, struct span span, const struct expr *base,
                                    int64_t exponent)
{
  const struct expr *result = expr_int(check->pool, 1);
  for (bool first = true; exponent != 0; exponent >>= 1) {
    if ((exponent & 1) != 0) {
      warn_wrap(check, AST_MUL, span, result, base);
      result = first ? base : expr_mul(check->pool, result, base);
      first = false;
    }
    if (exponent > 1) {
      warn_wrap(check, AST_MUL, span, base, base);
      base = expr_mul(check->pool, base, base);
    }
  }
  return result;
}

const struct expr *check_arithmetic(struct check *check, enum ast_op op, struct span span,
                                    const struct expr *a, const struct expr *b)
{
  enum expr_type type = common_type(a, b);
  if (type == EXPR_BOOL)
    type = EXPR_INT;
  bool int_powers = op == AST_POW && type == EXPR_INT && expr_is_const(b) && b->value.i >= 0;
  if (op == AST_DIV || (op == AST_POW && !int_powers))
    type = EXPR_FLOAT;
  a = check_to_type(check, a, type);
  b = check_to_type(check, b, type);
  check->pool->span = span;
  if (int_powers)
    return int_power(check, span, a, b->value.i);
  if ((op == AST_FLOORDIV || op == AST_MOD) && type == EXPR_INT && expr_is_const(b) &&
      b->value.i == 0) {
    check_error(check, DIAG_DIVISION_BY_ZERO, span, "division by zero");
    return NULL;
  }
  if (type == EXPR_INT && (op == AST_ADD || op == AST_SUB || op == AST_MUL))
    warn_wrap(check, op, span, a, b);
  static const enum expr_op ops[] = {
      [AST_ADD] = EXPR_ADD, [AST_SUB] = EXPR_SUB,           [AST_MUL] = EXPR_MUL,
      [AST_DIV] = EXPR_DIV, [AST_FLOORDIV] = EXPR_FLOORDIV, [AST_MOD] = EXPR_MOD,
      [AST_POW] = EXPR_POW};
  return expr_binary(check->pool, ops[op], a, b);
}

/* What decides something is single: kernels and the reference must decide alike. */
static const struct expr *deciding(struct check *check, const struct expr *e, enum expr_type type)
{
  e = check_to_type(check, e, type == EXPR_BOOL ? EXPR_INT : type);
  return e->type == EXPR_FLOAT ? expr_to_single(check->pool, e) : e;
}

static const struct expr *compare(struct check *check, enum ast_op op, const struct expr *a,
                                  const struct expr *b)
{
  enum expr_type type = common_type(a, b);
  a = deciding(check, a, type);
  b = deciding(check, b, type);
  bool swapped = op == AST_GT || op == AST_GE;
  enum expr_op made = op == AST_LT || op == AST_GT   ? EXPR_LT
                      : op == AST_LE || op == AST_GE ? EXPR_LE
                      : op == AST_EQ                 ? EXPR_EQ
                                                     : EXPR_NE;
  return expr_binary(check->pool, made, swapped ? b : a, swapped ? a : b);
}

static struct value compare_value(struct check *check, const struct scope *scope,
                                  const struct ast_expr *ast)
{
  const struct expr *result = NULL;
  const struct expr *left = check_scalar(check, scope, ast->compare.operands.items[0]);
  bool good = left != NULL;
  for (size_t k = 0; k < ast->compare.ops.count; k++) {
    const struct expr *right = check_scalar(check, scope, ast->compare.operands.items[k + 1]);
    good = good && right != NULL;
    if (good) {
      check->pool->span = ast->span;
      const struct expr *one = compare(check, ast->compare.ops.items[k], left, right);
      result = result == NULL ? one : expr_and(check->pool, result, one);
    }
    left = right;
  }
  return good ? check_scalar_value(result) : error_value;
}

static struct value one_operation(struct check *check, const struct ast_expr *node,
                                  const struct expr *a, const struct expr *b)
{
  if (a == NULL || b == NULL)
    return error_value;
  check->pool->span = node->span;
  if (node->op == AST_AND)
    return check_scalar_value(expr_and(check->pool, a, b));
  if (node->op == AST_OR)
    return check_scalar_value(expr_or(check->pool, a, b));
  return check_scalar_value(check_arithmetic(check, node->op, node->span, a, b));
}

static bool is_logical(const struct ast_expr *node)
{
  return node->op == AST_AND || node->op == AST_OR;
}

/* a + b + c ... may be thousands long: the left spine is walked, not recursed into. */
static struct value binary_value(struct check *check, const struct scope *scope,
                                 const struct ast_expr *ast)
{
  const struct ast_expr **spine = ARENA_ARRAY(check->arena, const struct ast_expr *, ast->chain);
  size_t count = 0;
  const struct ast_expr *leaf = ast;
  for (; leaf->kind == AST_BINARY; leaf = leaf->operands.a) {
    spine[count++] = leaf;
    if (leaf->op == AST_MATMUL) {
      struct diagnostic *error =
          check_error(check, DIAG_WRONG_ITEM, leaf->span, "'@' belongs to recurrences");
      diag_help(check->diagnostics, error, "the product of two vectors is dot(q, k)");
      return error_value;
    }
  }
  struct value value = {0};
  const struct expr *left = NULL;
  for (size_t k = count; k-- > 0;) {
    const struct ast_expr *node = spine[k];
    bool logical = is_logical(node);
    if (k + 1 == count)
      left = logical ? check_bool(check, scope, leaf) : check_scalar(check, scope, leaf);
    else if (logical && left != NULL && left->type != EXPR_BOOL) {
      struct diagnostic *error =
          check_error(check, DIAG_NOT_BOOL, node->operands.a->span,
                      "'%s' joins conditions, this is a number", ast_op_text(node->op));
      diag_help(check->diagnostics, error, "compare it with something, as in x != 0");
      left = NULL;
    }
    const struct expr *right = logical ? check_bool(check, scope, node->operands.b)
                                       : check_scalar(check, scope, node->operands.b);
    value = one_operation(check, node, left, right);
    left = value.kind == VALUE_ERROR ? NULL : value.expr;
  }
  return value;
}

static struct value unary_value(struct check *check, const struct scope *scope,
                                const struct ast_expr *ast)
{
  const struct ast_expr *operand = ast->operands.a;
  if (ast->op == AST_NOT) {
    const struct expr *e = check_bool(check, scope, operand);
    return e == NULL ? error_value : check_scalar_value(expr_not(check->pool, e));
  }
  if (operand->kind == AST_INT) /* -2147483648: the number alone would be one too many */
    return check_scalar_value(expr_int(check->pool, -operand->integer));
  const struct expr *e = check_scalar(check, scope, operand);
  if (e == NULL)
    return error_value;
  if (e->type == EXPR_BOOL)
    e = check_to_type(check, e, EXPR_INT);
  check->pool->span = ast->span;
  return check_scalar_value(expr_unary(check->pool, EXPR_NEG, e));
}

static bool same_length(struct check *check, struct span span, const struct expr *a,
                        const struct expr *b)
{
  if (a == b)
    return true;
  if (expr_is_const(a) && expr_is_const(b)) {
    struct diagnostic *error =
        check_error(check, DIAG_LENGTH_MISMATCH, span, "vectors of lengths %lld and %lld",
                    (long long)a->value.i, (long long)b->value.i);
    diag_help(check->diagnostics, error, "take a slice of the longer one, x[0:%lld]",
              (long long)(a->value.i < b->value.i ? a->value.i : b->value.i));
  } else
    check_error(check, DIAG_LENGTH_MISMATCH, span,
                "vectors whose lengths are declared differently: %s and %s",
                expr_print(check->arena, a, NULL), expr_print(check->arena, b, NULL));
  return false;
}

struct value check_dot(struct check *check, const struct scope *scope, struct span span,
                       struct value x, struct value y)
{
  if (!same_length(check, span, x.length, y.length))
    return error_value;
  const struct expr *channel = expr_arg(check->pool, 1 + scope->binders, EXPR_INT);
  const struct expr *a = check_at_channel(check, x.expr, channel);
  const struct expr *b = check_at_channel(check, y.expr, channel);
  const struct expr *body = check_arithmetic(check, AST_MUL, span, a, b);
  return check_scalar_value(check_binder(check, EXPR_SUM, scope->binders, x.length, body, span));
}

static struct value conditional_value(struct check *check, const struct scope *scope,
                                      const struct ast_expr *ast)
{
  const struct expr *condition = check_bool(check, scope, ast->conditional.condition);
  struct value yes = check_value(check, scope, ast->conditional.yes);
  struct value no = check_value(check, scope, ast->conditional.no);
  if (yes.kind == VALUE_ERROR || no.kind == VALUE_ERROR || condition == NULL)
    return error_value;
  bool vector = yes.kind == VALUE_VECTOR || no.kind == VALUE_VECTOR;
  if (vector) {
    yes = check_as_vector(check, yes, ast->conditional.yes->span);
    no = check_as_vector(check, no, ast->conditional.no->span);
  } else {
    yes = check_as_scalar(check, yes, ast->conditional.yes->span);
    no = check_as_scalar(check, no, ast->conditional.no->span);
  }
  if (yes.kind == VALUE_ERROR || no.kind == VALUE_ERROR ||
      (vector && !same_length(check, ast->span, yes.length, no.length)))
    return error_value;
  enum expr_type type = common_type(yes.expr, no.expr);
  check->pool->span = ast->span;
  struct value result = yes;
  result.expr = expr_select(check->pool, condition, check_to_type(check, yes.expr, type),
                            check_to_type(check, no.expr, type));
  return result;
}

static struct value plain_value(struct check *check, const struct scope *scope,
                                const struct ast_expr *ast)
{
  switch (ast->kind) {
  case AST_INT:
    if (ast->integer > INT32_MAX) {
      check_error(check, DIAG_INT_TOO_LARGE, ast->span, "this number does not fit an int");
      return error_value;
    }
    return check_scalar_value(expr_int(check->pool, ast->integer));
  case AST_FLOAT: return check_scalar_value(expr_float(check->pool, ast->number));
  case AST_BOOL: return check_scalar_value(expr_bool(check->pool, ast->truth));
  case AST_NAME: return check_name(check, scope, &ast->name);
  case AST_PAREN: return check_value(check, scope, ast->operands.a);
  case AST_UNARY: return unary_value(check, scope, ast);
  case AST_BINARY: return binary_value(check, scope, ast);
  case AST_COMPARE: return compare_value(check, scope, ast);
  case AST_CONDITIONAL: return conditional_value(check, scope, ast);
  case AST_CALL: return check_call(check, scope, ast);
  case AST_INDEX: return check_index(check, scope, ast);
  case AST_SLICE:
    check_error(check, DIAG_INDEX_TYPE, ast->span,
                "a slice stands in the last index of a vector only");
    return error_value;
  case AST_REDUCE: return reduce_value(check, scope, ast);
  }
  return error_value;
}

struct value check_value(struct check *check, const struct scope *scope, const struct ast_expr *ast)
{
  if (check->too_complex)
    return error_value;
  if (check->pool->nodes.count > MAX_NODES || check->depth > MAX_ELABORATION_DEPTH) {
    check->too_complex = true;
    check_error(check, DIAG_TOO_COMPLEX, ast->span,
                "this expression becomes too large once everything is inlined");
    return error_value;
  }
  check->depth++;
  check->pool->span = ast->span;
  struct value value = plain_value(check, scope, ast);
  check->depth--;
  return value;
}
