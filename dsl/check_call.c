/* Calls, indices and slices. */
#include "dsl/check.h"

#include <string.h>

static const struct value error_value = {.kind = VALUE_ERROR};

/* ---- indices ---- */

static const char *source_text(struct check *check, struct span span)
{
  const struct source *source = &check->sources->sources.items[span.source];
  return arena_strndup(check->arena, source->text + span.begin, span.end - span.begin);
}

/* What was written stays in its order, but for the position of a query where its row is meant;
 * where it is too little, the usual index goes in front of the dimensions that have one. */
const char *check_element(struct check *check, uint32_t number, const struct ast_expr *index)
{
  static const char *const usual[] = {
      [DIM_B] = "b",  [DIM_H] = "h", [DIM_G] = "g",  [DIM_NQ] = "r",
      [DIM_NK] = "j", [DIM_D] = "c", [DIM_DV] = "c", [DIM_EXPR] = "0"};
  const struct spec_input *input = &check->spec->inputs[number];
  size_t given = index == NULL ? 0 : index->index.indices->list.count, next = 0;
  size_t missing = given < input->rank ? input->rank - given : 0;
  const char *text = input->name;
  for (uint32_t k = 0; k < input->rank; k++) {
    enum dim_kind kind = input->dims[k].kind;
    const char *one = usual[kind];
    const char *written =
        next < given ? source_text(check, index->index.indices->list.items[next]->span) : NULL;
    bool insert = missing > 0 && kind != DIM_NK && kind != DIM_EXPR;
    bool of_row = written != NULL && kind == DIM_NQ && check_text_is(written, "i");
    if (written != NULL && (!insert || check_text_is(written, one) || of_row)) {
      one = of_row ? one : written;
      next++;
    } else if (insert) {
      missing--;
    }
    text = arena_format(check->arena, "%s%s%s", text, k == 0 ? "[" : ", ", one);
  }
  return input->rank == 0 ? text : arena_format(check->arena, "%s]", text);
}

static enum expr_type element_type(enum dtype type)
{
  if (type == DTYPE_BOOL)
    return EXPR_BOOL;
  return type == DTYPE_I32 || type == DTYPE_I64 || type == DTYPE_U8 ? EXPR_INT : EXPR_FLOAT;
}

struct value check_as_vector(struct check *check, struct value value, struct span span)
{
  if (value.kind == VALUE_SCALAR) {
    struct diagnostic *error =
        check_error(check, DIAG_NOT_VECTOR, span, "this is a number, a vector is needed");
    diag_help(check->diagnostics, error,
              "leave out the last index, or write the sum: sum(c) x * y");
    return error_value;
  }
  if (value.kind != VALUE_INPUT)
    return value;
  const struct spec_input *input = &check->spec->inputs[value.input];
  if (input->rank != 1) {
    struct diagnostic *error =
        check_error(check, DIAG_NOT_VECTOR, span, "'%s' has %u dimensions, a vector is needed",
                    input->name, input->rank);
    const char *element = check_element(check, value.input, NULL);
    const char *last = strrchr(element, ',');
    if (last != NULL)
      diag_help(check->diagnostics, error, "leave out the last index alone: %.*s]",
                (int)(last - element), element);
    return error_value;
  }
  const struct expr *channel = expr_arg(check->pool, 0, EXPR_INT);
  return (struct value){
      .kind = VALUE_VECTOR,
      .expr = expr_read(check->pool, EXPR_TENSOR_INPUT + value.input, element_type(input->type),
                        &channel, 1),
      .length = input->dims[0].size,
  };
}

static bool constant_in_range(struct check *check, struct span span, const char *name, size_t dim,
                              const struct expr *index, const struct expr *size)
{
  if (!expr_is_const(index))
    return true;
  if (index->value.i >= 0 && (!expr_is_const(size) || index->value.i < size->value.i))
    return true;
  struct diagnostic *error =
      check_error(check, DIAG_INDEX_RANGE, span, "index %lld is outside dimension %zu of '%s'",
                  (long long)index->value.i, dim, name);
  if (expr_is_const(size))
    diag_help(check->diagnostics, error, "the dimension has %lld elements, counted from 0",
              (long long)size->value.i);
  else
    diag_help(check->diagnostics, error, "indices count from 0");
  return false;
}

static void warn_row_index(struct check *check, const struct ast_expr *ast,
                           const struct spec_input *input, size_t dim, const struct expr *index)
{
  if (input->dims[dim].kind != DIM_NQ || !expr_depends(index, EXPR_VAR_I))
    return;
  struct diagnostic *warning =
      check_error(check, DIAG_ROW_INDEX, ast->span,
                  "dimension %zu of '%s' has NQ elements, one for each row, but i is a position",
                  dim, input->name);
  diag_help(check->diagnostics, warning,
            "index it with r (= i - offset), or declare the dimension NK");
}

/* x[low:high] of a vector. */
static struct value slice(struct check *check, struct value vector, const struct ast_expr *ast)
{
  int64_t low, high;
  const struct expr *length = vector.length;
  int64_t most = expr_is_const(length) ? length->value.i : INT32_MAX;
  const struct ast_expr *bounds[] = {ast->slice.low, ast->slice.high};
  int64_t *results[] = {&low, &high};
  for (int k = 0; k < 2; k++)
    if (!check_constant(check, bounds[k], "a slice bound", INT32_MIN, INT32_MAX, results[k]))
      return error_value;
  if (low < 0 || high > most || low >= high) {
    struct diagnostic *error =
        check_error(check, DIAG_INDEX_RANGE, ast->span, "slice %lld:%lld of a vector of %lld",
                    (long long)low, (long long)high, (long long)most);
    diag_help(check->diagnostics, error, "a slice a:b has the channels a to b - 1, at least one");
    return error_value;
  }
  const struct expr *channel = expr_arg(check->pool, 0, EXPR_INT);
  channel = check_arithmetic(check, AST_ADD, ast->span, channel, expr_int(check->pool, low));
  vector.expr = check_at_channel(check, vector.expr, channel);
  vector.length = expr_int(check->pool, high - low);
  return vector;
}

static struct value index_vector(struct check *check, const struct scope *scope,
                                 struct value vector, const struct ast_expr *ast)
{
  const struct ast_exprs *indices = ast->index.indices;
  if (indices->list.count != 1) {
    check_error(check, DIAG_INDEX_COUNT, ast->span, "a vector takes one index, here are %zu",
                indices->list.count);
    return error_value;
  }
  const struct ast_expr *index = indices->list.items[0];
  if (index->kind == AST_SLICE)
    return slice(check, vector, index);
  const struct expr *channel = check_int(check, scope, index, "an index");
  if (channel == NULL ||
      !constant_in_range(check, index->span, "this vector", 0, channel, vector.length))
    return error_value;
  return check_scalar_value(check_at_channel(check, vector.expr, channel));
}

static struct value index_input(struct check *check, const struct scope *scope, uint32_t number,
                                const struct ast_expr *ast)
{
  const struct spec_input *input = &check->spec->inputs[number];
  const struct ast_exprs *list = ast->index.indices;
  size_t count = list->list.count;
  const struct ast_expr *last = list->list.items[count - 1];
  bool sliced = last->kind == AST_SLICE;
  bool vector = count + 1 == input->rank || (sliced && count == input->rank);
  if (count != input->rank && !vector) {
    struct diagnostic *error = check_error(
        check, DIAG_INDEX_COUNT, ast->span, "'%s' has %u dimension%s, here are %zu ind%s",
        input->name, input->rank, input->rank == 1 ? "" : "s", count, count == 1 ? "ex" : "ices");
    diag_related(check->diagnostics, error, input->span, "declared here");
    diag_help(check->diagnostics, error, "write %s", check_element(check, number, ast));
    return error_value;
  }
  const struct expr *indices[SPEC_MAX_RANK];
  bool good = true;
  size_t given = sliced ? count - 1 : count;
  for (size_t k = 0; k < given; k++) {
    const struct ast_expr *index = list->list.items[k];
    indices[k] = check_int(check, scope, index, "an index");
    if (indices[k] == NULL ||
        !constant_in_range(check, index->span, input->name, k, indices[k], input->dims[k].size)) {
      good = false;
      continue;
    }
    warn_row_index(check, index, input, k, indices[k]);
  }
  if (!good)
    return error_value;
  if (vector)
    indices[given] = expr_arg(check->pool, 0, EXPR_INT);
  check->pool->span = ast->span;
  const struct expr *read = expr_read(check->pool, EXPR_TENSOR_INPUT + number,
                                      element_type(input->type), indices, input->rank);
  if (!vector)
    return check_scalar_value(read);
  struct value value = {
      .kind = VALUE_VECTOR, .expr = read, .length = input->dims[input->rank - 1].size};
  return sliced ? slice(check, value, last) : value;
}

struct value check_index(struct check *check, const struct scope *scope, const struct ast_expr *ast)
{
  struct value base = check_value(check, scope, ast->index.base);
  switch (base.kind) {
  case VALUE_ERROR: break;
  case VALUE_SCALAR:
    check_error(check, DIAG_INDEX_COUNT, ast->span, "this is a number, it has no elements");
    break;
  case VALUE_VECTOR: return index_vector(check, scope, base, ast);
  case VALUE_INPUT: return index_input(check, scope, base.input, ast);
  }
  return error_value;
}

/* ---- built-in functions ---- */

enum function_kind {
  FUNCTION_FLOAT, /* float -> float */
  FUNCTION_ABS,   /* number -> the same */
  FUNCTION_FOLD,  /* min, max */
  FUNCTION_CLAMP,
  FUNCTION_FLOOR,
  FUNCTION_RANDOM, /* ints -> int, or a float */
  FUNCTION_BITS,   /* ints -> int */
  FUNCTION_DOT
};
struct function {
  const char *name;
  enum function_kind kind;
  enum expr_op op;
  size_t least, most; /* arguments */
};
static const struct function functions[] = {
    {"exp", FUNCTION_FLOAT, EXPR_EXP, 1, 1},
    {"exp2", FUNCTION_FLOAT, EXPR_EXP2, 1, 1},
    {"log", FUNCTION_FLOAT, EXPR_LOG, 1, 1},
    {"log2", FUNCTION_FLOAT, EXPR_LOG2, 1, 1},
    {"sqrt", FUNCTION_FLOAT, EXPR_SQRT, 1, 1},
    {"rsqrt", FUNCTION_FLOAT, EXPR_RSQRT, 1, 1},
    {"tanh", FUNCTION_FLOAT, EXPR_TANH, 1, 1},
    {"sin", FUNCTION_FLOAT, EXPR_SIN, 1, 1},
    {"cos", FUNCTION_FLOAT, EXPR_COS, 1, 1},
    {"sigmoid", FUNCTION_FLOAT, EXPR_SIGMOID, 1, 1},
    {"erf", FUNCTION_FLOAT, EXPR_ERF, 1, 1},
    {"abs", FUNCTION_ABS, EXPR_ABS, 1, 1},
    {"min", FUNCTION_FOLD, EXPR_MIN, 2, CHECK_MAX_ARGUMENTS},
    {"max", FUNCTION_FOLD, EXPR_MAX, 2, CHECK_MAX_ARGUMENTS},
    {"clamp", FUNCTION_CLAMP, EXPR_MIN, 3, 3},
    {"floor", FUNCTION_FLOOR, EXPR_FLOOR, 1, 1},
    {"hash", FUNCTION_RANDOM, EXPR_HASH, 1, CHECK_MAX_ARGUMENTS},
    {"uniform", FUNCTION_RANDOM, EXPR_UNIFORM, 1, CHECK_MAX_ARGUMENTS},
    {"bit_and", FUNCTION_BITS, EXPR_BIT_AND, 2, 2},
    {"bit_or", FUNCTION_BITS, EXPR_BIT_OR, 2, 2},
    {"bit_xor", FUNCTION_BITS, EXPR_BIT_XOR, 2, 2},
    {"shift_left", FUNCTION_BITS, EXPR_SHIFT_LEFT, 2, 2},
    {"shift_right", FUNCTION_BITS, EXPR_SHIFT_RIGHT, 2, 2},
    {"dot", FUNCTION_DOT, EXPR_SUM, 2, 2},
};
enum { FUNCTION_COUNT = sizeof(functions) / sizeof(functions[0]) };

bool check_is_function(const char *name)
{
  for (size_t k = 0; k < FUNCTION_COUNT; k++)
    if (check_text_is(functions[k].name, name))
      return true;
  return false;
}

static const struct expr *fold_pair(struct check *check, enum expr_op op, const struct expr *a,
                                    const struct expr *b)
{
  enum expr_type type = a->type == EXPR_FLOAT || b->type == EXPR_FLOAT ? EXPR_FLOAT : EXPR_INT;
  return expr_binary(check->pool, op, check_to_type(check, a, type), check_to_type(check, b, type));
}

static bool all_ints(struct check *check, const struct function *function,
                     const struct ast_arguments *arguments, const struct expr **e)
{
  for (size_t k = 0; k < arguments->list.count; k++) {
    if (e[k]->type == EXPR_FLOAT) {
      struct diagnostic *error =
          check_error(check, DIAG_TYPE_MISMATCH, arguments->list.items[k].span,
                      "%s takes ints, this is a float", function->name);
      diag_help(check->diagnostics, error, "floor(x) makes an int of a float");
      return false;
    }
    e[k] = check_to_type(check, e[k], EXPR_INT);
  }
  return true;
}

static struct value scalar_function(struct check *check, const struct function *function,
                                    const struct ast_expr *ast, const struct expr **e, size_t count)
{
  struct expr_pool *pool = check->pool;
  pool->span = ast->span;
  switch (function->kind) {
  case FUNCTION_FLOAT:
    return check_scalar_value(
        expr_unary(pool, function->op, check_to_type(check, e[0], EXPR_FLOAT)));
  case FUNCTION_ABS:
    if (e[0]->type == EXPR_BOOL)
      return check_scalar_value(check_to_type(check, e[0], EXPR_INT));
    return check_scalar_value(expr_unary(pool, EXPR_ABS, e[0]));
  case FUNCTION_FOLD: {
    const struct expr *result = e[0];
    for (size_t k = 1; k < count; k++)
      result = fold_pair(check, function->op, result, e[k]);
    return check_scalar_value(result);
  }
  case FUNCTION_CLAMP:
    return check_scalar_value(
        fold_pair(check, EXPR_MIN, fold_pair(check, EXPR_MAX, e[0], e[1]), e[2]));
  case FUNCTION_FLOOR:
    if (e[0]->type != EXPR_FLOAT)
      return check_scalar_value(check_to_type(check, e[0], EXPR_INT));
    return check_scalar_value(expr_unary(pool, EXPR_FLOOR, expr_to_single(pool, e[0])));
  case FUNCTION_RANDOM:
    if (!all_ints(check, function, ast->call.arguments, e))
      return error_value;
    if (function->op == EXPR_HASH)
      return check_scalar_value(expr_random(pool, EXPR_HASH, e, count));
    return check_scalar_value(
        expr_convert(pool, expr_random(pool, EXPR_UNIFORM, e, count), EXPR_FLOAT));
  case FUNCTION_BITS:
    if (!all_ints(check, function, ast->call.arguments, e))
      return error_value;
    return check_scalar_value(expr_binary(pool, function->op, e[0], e[1]));
  case FUNCTION_DOT: break;
  }
  return error_value;
}

static struct value call_function(struct check *check, const struct scope *scope,
                                  const struct function *function, const struct ast_expr *ast)
{
  const struct ast_arguments *arguments = ast->call.arguments;
  size_t count = arguments->list.count;
  if (count < function->least || count > function->most) {
    const char *range = function->least == function->most ? "" : "at least ";
    struct diagnostic *error = check_error(
        check, DIAG_ARGUMENT_COUNT, ast->span, "%s takes %s%zu argument%s, here are %zu",
        function->name, range, function->least, function->least == 1 ? "" : "s", count);
    check_suggest(check, error, FOREIGN_COUNT, function->name, NULL, 0);
    return error_value;
  }
  struct value values[CHECK_MAX_ARGUMENTS] = {0};
  const struct expr *e[CHECK_MAX_ARGUMENTS] = {0};
  bool good = true;
  for (size_t k = 0; k < count; k++) {
    const struct ast_argument *argument = &arguments->list.items[k];
    if (argument->name.text != NULL) {
      check_error(check, DIAG_UNKNOWN_ARGUMENT, argument->name.span,
                  "%s takes its arguments in order, without names", function->name);
      good = false;
    }
    values[k] = check_value(check, scope, argument->value);
    values[k] = function->kind == FUNCTION_DOT ? check_as_vector(check, values[k], argument->span)
                                               : check_as_scalar(check, values[k], argument->span);
    e[k] = values[k].expr;
    good = good && values[k].kind != VALUE_ERROR;
  }
  if (!good)
    return error_value;
  if (function->kind == FUNCTION_DOT)
    return check_dot(check, scope, ast->span, values[0], values[1]);
  return scalar_function(check, function, ast, e, count);
}

static struct value call_fn(struct check *check, const struct scope *scope, struct fn *fn,
                            const struct ast_expr *ast)
{
  const struct ast_arguments *arguments = ast->call.arguments;
  size_t count = arguments->list.count;
  size_t expected = fn->item->arguments == NULL ? 0 : fn->item->arguments->list.count;
  if (count != expected)
    return check_call_fn(check, scope, fn, ast->span, NULL, count);
  const char *names[CHECK_MAX_ARGUMENTS] = {NULL};
  for (size_t k = 0; k < count; k++)
    names[k] = fn->item->arguments->list.items[k].text;
  const struct ast_expr *slots[CHECK_MAX_ARGUMENTS];
  if (!check_bind(check, fn->item->name.text, ast->span, arguments, names, count, (1u << count) - 1,
                  slots))
    return error_value;
  struct value values[CHECK_MAX_ARGUMENTS];
  bool good = true;
  for (size_t k = 0; k < count; k++) {
    values[k] = check_value(check, scope, slots[k]);
    good = good && values[k].kind != VALUE_ERROR;
  }
  return good ? check_call_fn(check, scope, fn, ast->span, values, count) : error_value;
}

/* mean(x) in select: the mean of a key vector over the visible keys of block n. */
static struct value mean(struct check *check, const struct scope *scope, const struct ast_expr *ast)
{
  if (ast->call.arguments->list.count != 1) {
    check_error(check, DIAG_ARGUMENT_COUNT, ast->span, "mean takes one vector");
    return error_value;
  }
  const struct ast_expr *argument = ast->call.arguments->list.items[0].value;
  struct scope inner = *scope;
  inner.context = CONTEXT_MEAN;
  inner.binders = scope->binders + 1;
  struct value value = check_as_vector(check, check_value(check, &inner, argument), argument->span);
  if (value.kind == VALUE_ERROR)
    return value;
  struct expr_pool *pool = check->pool;
  const struct expr *block = expr_int(pool, check->spec->select.block);
  const struct expr *first = expr_mul(pool, expr_variable(pool, EXPR_VAR_N), block);
  const struct expr *key = expr_add(pool, first, expr_arg(pool, 1 + scope->binders, EXPR_INT));
  const struct expr *body = expr_substitute(pool, value.expr, EXPR_VAR_J, key);
  value.expr = check_binder(check, EXPR_MEAN, scope->binders, block,
                            check_to_type(check, body, EXPR_FLOAT), ast->span);
  return value.expr == NULL ? error_value : value;
}

struct value check_call(struct check *check, const struct scope *scope, const struct ast_expr *ast)
{
  const char *name = ast->call.name.text;
  struct fn *fn = check_fn(check, scope, name);
  if (fn != NULL && !fn->prelude)
    return call_fn(check, scope, fn, ast);
  for (size_t k = 0; k < FUNCTION_COUNT; k++)
    if (check_text_is(functions[k].name, name))
      return call_function(check, scope, &functions[k], ast);
  if (fn != NULL)
    return call_fn(check, scope, fn, ast);
  if (scope->context == CONTEXT_SELECT && check_text_is(name, "mean"))
    return mean(check, scope, ast);
  const char **candidates =
      ARENA_ARRAY(check->arena, const char *, FUNCTION_COUNT + check->fns.count);
  size_t count = 0;
  for (size_t k = 0; k < FUNCTION_COUNT; k++)
    candidates[count++] = functions[k].name;
  for (size_t k = 0; k < check->fns.count; k++)
    candidates[count++] = check->fns.items[k]->item->name.text;
  struct diagnostic *error = check_error(check, DIAG_UNKNOWN_FUNCTION, ast->call.name.span,
                                         "there is no function '%s'", name);
  if (!scope->in_fn && check_symbol(check, scope, name) != NULL)
    diag_help(check->diagnostics, error, "an input is indexed with brackets: %s[...]", name);
  else
    check_suggest(check, error, FOREIGN_CALL, name, candidates, count);
  return error_value;
}
