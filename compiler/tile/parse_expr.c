#include "compiler/tile/parse.h"

#include <math.h>
#include <string.h>

enum { MAX_DEPTH = 128, MAX_CALL_ARGUMENTS = 16 };

static const struct expr *parse_or(struct tile_parser *p);

static const struct expr *type_error(struct tile_parser *p, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static const struct expr *type_error(struct tile_parser *p, const char *format, ...)
{
  va_list arguments;
  va_start(arguments, format);
  tile_parse_error(p, DIAG_TILE_TYPE, "%s", arena_vformat(p->arena, format, arguments));
  va_end(arguments);
  return NULL;
}

static bool is_real(enum expr_type type)
{
  return type == EXPR_FLOAT || type == EXPR_SINGLE;
}

static bool is_integer(enum expr_type type)
{
  return type == EXPR_INT || type == EXPR_LONG;
}

/* Every node passes here, so that no later walk over an expression recurses too deep. */
static const struct expr *bounded(struct tile_parser *p, const struct expr *e)
{
  if (e->height > TILE_MAX_EXPR_HEIGHT) {
    tile_parse_error(p, DIAG_TILE_LIMIT, "an expression more than %d operations deep",
                     (int)TILE_MAX_EXPR_HEIGHT);
    return NULL;
  }
  return e;
}

/* ---- operators; the constructors of expr.h assert what is checked here ---- */

static bool binary_accepts(enum expr_op op, const struct expr *a, const struct expr *b)
{
  switch ((int)op) {
  case EXPR_AND:
  case EXPR_OR: return a->type == EXPR_BOOL;
  case EXPR_EQ:
  case EXPR_NE: return true;
  case EXPR_DIV: return is_real(a->type);
  case EXPR_POW:
    /* A constant power of an integer is multiplied out. */
    return is_real(a->type) || (is_integer(a->type) && b->op == EXPR_CONST && b->value.i >= 0);
  case EXPR_SHIFT_LEFT:
  case EXPR_SHIFT_RIGHT:
  case EXPR_BIT_AND:
  case EXPR_BIT_OR:
  case EXPR_BIT_XOR: return is_integer(a->type);
  }
  return a->type != EXPR_BOOL;
}

static const struct expr *binary(struct tile_parser *p, enum expr_op op, const struct expr *a,
                                 const struct expr *b)
{
  if (a == NULL || b == NULL)
    return NULL;
  if (a->type != b->type)
    return type_error(p, "the operands of '%s' are %s and %s: convert one, as in %s(...)",
                      expr_op_name(op), expr_type_name(a->type), expr_type_name(b->type),
                      expr_type_name(a->type));
  if (!binary_accepts(op, a, b))
    return type_error(p, "'%s' has no meaning for %s operands", expr_op_name(op),
                      expr_type_name(a->type));
  return bounded(p, expr_binary(p->pool, op, a, b));
}

static const struct expr *unary(struct tile_parser *p, enum expr_op op, const struct expr *a)
{
  if (a == NULL)
    return NULL;
  bool accepted = op == EXPR_NOT ? a->type == EXPR_BOOL
                                 : is_real(a->type) ||
                                       ((op == EXPR_NEG || op == EXPR_ABS) && is_integer(a->type));
  if (!accepted)
    return type_error(p, "'%s' has no meaning for a %s", expr_op_name(op), expr_type_name(a->type));
  return bounded(p, expr_unary(p->pool, op, a));
}

/* ---- calls ---- */

static const struct expr *parse_binder(struct tile_parser *p, enum expr_op op)
{
  uint64_t level = p->token.integer;
  if (p->token.kind != TOKEN_BOUND) {
    tile_parse_error(p, DIAG_TILE_SYNTAX, "expected the variable, as in sum(@0 < 4, ...)");
    return NULL;
  }
  if (level > EXPR_MAX_LEVEL) {
    tile_parse_error(p, DIAG_TILE_LIMIT, "variables of sums are @0 to @%d", (int)EXPR_MAX_LEVEL);
    return NULL;
  }
  tile_scan(p);
  tile_expect_symbol(p, "<");
  const struct expr *extent = parse_or(p);
  tile_expect_symbol(p, ",");
  const struct expr *body = parse_or(p);
  if (extent == NULL || body == NULL)
    return NULL;
  if (extent->type != EXPR_INT)
    return type_error(p, "the extent of a %s must be an int", expr_op_name(op));
  bool logical = op == EXPR_ANY || op == EXPR_ALL || op == EXPR_COUNT;
  bool accepted = logical           ? body->type == EXPR_BOOL
                  : op == EXPR_MEAN ? is_real(body->type)
                                    : body->type != EXPR_BOOL;
  if (!accepted)
    return type_error(p, "'%s' has no meaning for a %s", expr_op_name(op),
                      expr_type_name(body->type));
  return bounded(p, expr_binder(p->pool, op, (uint32_t)level, extent, body));
}

static size_t parse_arguments(struct tile_parser *p, const char *end,
                              const struct expr *arguments[MAX_CALL_ARGUMENTS])
{
  size_t count = 0;
  while (!p->failed && !tile_at_symbol(p, end)) {
    if (count > 0)
      tile_expect_symbol(p, ",");
    if (count == MAX_CALL_ARGUMENTS)
      tile_parse_error(p, DIAG_TILE_LIMIT, "more than %d arguments", (int)MAX_CALL_ARGUMENTS);
    else if ((arguments[count] = parse_or(p)) != NULL)
      count++;
  }
  return count;
}

static const struct expr *call_random(struct tile_parser *p, enum expr_op op,
                                      const struct expr *const *arguments, size_t count)
{
  for (size_t k = 0; k < count; k++)
    if (arguments[k]->type != EXPR_INT)
      return type_error(p, "the arguments of '%s' must be ints", expr_op_name(op));
  return bounded(p, expr_random(p->pool, op, arguments, count));
}

static const struct expr *call_select(struct tile_parser *p, const struct expr *const *arguments)
{
  if (arguments[0]->type != EXPR_BOOL)
    return type_error(p, "the condition of a select must be a bool");
  if (arguments[1]->type != arguments[2]->type)
    return type_error(p, "the choices of a select are %s and %s",
                      expr_type_name(arguments[1]->type), expr_type_name(arguments[2]->type));
  return bounded(p, expr_select(p->pool, arguments[0], arguments[1], arguments[2]));
}

static const struct expr *parse_function(struct tile_parser *p, enum expr_op op)
{
  const struct expr *arguments[MAX_CALL_ARGUMENTS];
  const char *name = tile_expr_function(op);
  if (op >= EXPR_SUM)
    return parse_binder(p, op);
  size_t count = parse_arguments(p, ")", arguments);
  if (p->failed)
    return NULL;
  if (op == EXPR_HASH || op == EXPR_UNIFORM)
    return call_random(p, op, arguments, count);
  size_t wanted = op == EXPR_SELECT ? 3 : op >= EXPR_ADD ? 2 : 1;
  if (count != wanted) {
    tile_parse_error(p, DIAG_TILE_SYNTAX, "'%s' takes %zu arguments, not %zu", name, wanted, count);
    return NULL;
  }
  if (wanted == 3)
    return call_select(p, arguments);
  return wanted == 2 ? binary(p, op, arguments[0], arguments[1]) : unary(p, op, arguments[0]);
}

static bool find_function(const char *name, enum expr_op *op)
{
  for (int k = 0; k < EXPR_OP_COUNT; k++) {
    const char *function = k == EXPR_CONVERT ? NULL : tile_expr_function((enum expr_op)k);
    if (function != NULL && strcmp(function, name) == 0) {
      *op = (enum expr_op)k;
      return true;
    }
  }
  return false;
}

static bool find_type(const char *name, enum expr_type *type)
{
  for (int k = EXPR_BOOL; k <= EXPR_SINGLE; k++) {
    if (strcmp(expr_type_name((enum expr_type)k), name) == 0) {
      *type = (enum expr_type)k;
      return true;
    }
  }
  return false;
}

static const struct expr *parse_call(struct tile_parser *p, const char *name)
{
  enum expr_op op = EXPR_CONVERT;
  enum expr_type type = EXPR_BOOL;
  if (!find_function(name, &op) && !find_type(name, &type)) {
    tile_parse_error(p, DIAG_TILE_NAME, "there is no function '%s'", name);
    return NULL;
  }
  tile_expect_symbol(p, "(");
  const struct expr *e;
  if (op == EXPR_CONVERT) {
    e = parse_or(p);
    e = e == NULL ? NULL : bounded(p, expr_convert(p->pool, e, type));
  } else {
    e = parse_function(p, op);
  }
  tile_expect_symbol(p, ")");
  return p->failed ? NULL : e;
}

/* ---- names ---- */

static const struct expr *parse_read(struct tile_parser *p, const char *name)
{
  const struct tile_kernel *kernel = p->builder.kernel;
  size_t tensor = 0;
  while (tensor < kernel->tensors.count && strcmp(kernel->tensors.items[tensor].name, name) != 0)
    tensor++;
  if (tensor == kernel->tensors.count) {
    tile_parse_error(p, DIAG_TILE_NAME, "the kernel has no tensor '%s'", name);
    return NULL;
  }
  enum expr_type type = tile_read_type(kernel->tensors.items[tensor].element);
  if (tile_accept_symbol(p, ".")) {
    tile_expect_word(p, "long");
    if (type != EXPR_INT)
      return type_error(p, "'%s' does not hold integers", name);
    type = EXPR_LONG;
  }
  tile_expect_symbol(p, "[");
  const struct expr *indices[MAX_CALL_ARGUMENTS];
  size_t count = parse_arguments(p, "]", indices);
  for (size_t k = 0; k < count; k++)
    if (!is_integer(indices[k]->type))
      return type_error(p, "an index of '%s' is a %s, not an int or a long", name,
                        expr_type_name(indices[k]->type));
  tile_expect_symbol(p, "]");
  if (p->failed)
    return NULL;
  return bounded(p, expr_read(p->pool, (uint32_t)tensor, type, indices, count));
}

static const struct expr *parse_variable(struct tile_parser *p, const char *name)
{
  static const enum expr_var sizes[] = {EXPR_VAR_SIZE_B, EXPR_VAR_SIZE_NQ, EXPR_VAR_SIZE_NK};
  static const enum expr_var tiles[] = {EXPR_VAR_TILE_J0, EXPR_VAR_TILE_J1, EXPR_VAR_TILE_I0,
                                        EXPR_VAR_TILE_I1};
  for (size_t k = 0; p->in_shape && k < sizeof(sizes) / sizeof(*sizes); k++)
    if (strcmp(expr_var_name(sizes[k]), name) == 0)
      return expr_variable(p->pool, sizes[k]);
  for (size_t k = 0; !p->in_shape && k < sizeof(tiles) / sizeof(*tiles); k++)
    if (strcmp(expr_var_name(tiles[k]), name) == 0)
      return expr_variable(p->pool, tiles[k]);
  const struct tile_kernel *kernel = p->builder.kernel;
  for (uint32_t k = 0; !p->in_shape && k < kernel->params.count; k++)
    if (strcmp(kernel->params.items[k].name, name) == 0)
      return expr_param(p->pool, k, kernel->params.items[k].type);
  tile_parse_error(p, DIAG_TILE_NAME,
                   p->in_shape ? "a size is made of B, NQ and NK, not '%s'"
                               : "the kernel has no parameter '%s'",
                   name);
  return NULL;
}

static const struct expr *parse_name(struct tile_parser *p)
{
  struct token start = p->token;
  const char *name = tile_expect_name(p, "an expression");
  if (tile_at_symbol(p, "("))
    return parse_call(p, name);
  if (tile_at_symbol(p, "[") || tile_at_symbol(p, "."))
    return parse_read(p, name);
  if (strcmp(name, "true") == 0 || strcmp(name, "false") == 0)
    return expr_bool(p->pool, name[0] == 't');
  if (strcmp(name, "inf") == 0 || strcmp(name, "nan") == 0)
    return expr_float(p->pool, name[0] == 'i' ? (double)INFINITY : (double)NAN);
  if (strcmp(name, "infs") == 0 || strcmp(name, "nans") == 0)
    return expr_single(p->pool, name[0] == 'i' ? (double)INFINITY : (double)NAN);
  struct token next = p->token;
  p->token.span = start.span; /* an unknown name is an error there */
  const struct expr *e = parse_variable(p, name);
  if (!p->failed)
    p->token = next;
  return e;
}

/* ---- the grammar ---- */

static const struct expr *parse_number(struct tile_parser *p, bool negative)
{
  struct token token = p->token;
  uint64_t limit = token.kind == TOKEN_INT ? INT32_MAX : INT64_MAX;
  bool integer = token.kind == TOKEN_INT || token.kind == TOKEN_LONG;
  if (integer && token.integer > limit + negative) {
    tile_parse_error(p, DIAG_TILE_LIMIT,
                     token.kind == TOKEN_INT ? "this number does not fit an int; 1L is a long"
                                             : "this number does not fit a long");
    return NULL;
  }
  tile_scan(p);
  int64_t value = negative ? (int64_t)(0 - token.integer) : (int64_t)token.integer;
  double real = negative ? -token.real : token.real;
  if (token.kind == TOKEN_INT)
    return expr_int(p->pool, value);
  if (token.kind == TOKEN_LONG)
    return expr_long(p->pool, value);
  return token.kind == TOKEN_FLOAT ? expr_float(p->pool, real) : expr_single(p->pool, real);
}

static bool at_number(const struct tile_parser *p)
{
  enum token_kind kind = p->token.kind;
  return kind == TOKEN_INT || kind == TOKEN_LONG || kind == TOKEN_FLOAT || kind == TOKEN_SINGLE;
}

static const struct expr *parse_arg(struct tile_parser *p)
{
  uint64_t index = p->token.integer;
  if (index >= p->operand_count) {
    tile_parse_error(p, DIAG_TILE_NAME, "$%llu: the op has %zu operands here",
                     (unsigned long long)index, p->operand_count);
    return NULL;
  }
  tile_scan(p);
  enum expr_type type = tile_element_expr_type(p->operands[index]->type.element);
  return expr_arg(p->pool, (uint32_t)index, type);
}

static const struct expr *parse_primary(struct tile_parser *p)
{
  uint64_t number = p->token.integer;
  if (at_number(p))
    return parse_number(p, false);
  switch ((int)p->token.kind) {
  case TOKEN_NAME: return parse_name(p);
  case TOKEN_ARG: return parse_arg(p);
  case TOKEN_BOUND:
    if (number > EXPR_MAX_LEVEL)
      tile_parse_error(p, DIAG_TILE_LIMIT, "variables of sums are @0 to @%d", (int)EXPR_MAX_LEVEL);
    tile_scan(p);
    return p->failed ? NULL : expr_bound(p->pool, (uint32_t)number);
  case TOKEN_LET:
    if (number >= p->lets.count)
      tile_parse_error(p, DIAG_TILE_NAME, "&%llu is not defined before",
                       (unsigned long long)number);
    tile_scan(p);
    return p->failed ? NULL : p->lets.items[number];
  }
  if (!tile_accept_symbol(p, "(")) {
    tile_parse_error(p, DIAG_TILE_SYNTAX, "expected an expression");
    return NULL;
  }
  const struct expr *e = parse_or(p);
  tile_expect_symbol(p, ")");
  return p->failed ? NULL : e;
}

static const struct expr *parse_sign(struct tile_parser *p)
{
  bool negative = tile_accept_symbol(p, "-");
  if (!negative)
    return parse_primary(p);
  if (at_number(p))
    return parse_number(p, true);
  if (p->expr_depth >= MAX_DEPTH) {
    tile_parse_error(p, DIAG_TILE_LIMIT, "expressions nested more than %d deep", (int)MAX_DEPTH);
    return NULL;
  }
  p->expr_depth++;
  const struct expr *e = unary(p, EXPR_NEG, parse_sign(p));
  p->expr_depth--;
  return e;
}

struct infix {
  const char *text;
  enum expr_op op;
};

/* Operators of equal strength group from the left. */
static const struct expr *parse_chain(struct tile_parser *p, const struct infix *infixes,
                                      size_t count,
                                      const struct expr *(*operand)(struct tile_parser *))
{
  const struct expr *e = operand(p);
  for (size_t k = 0; k < count && e != NULL;) {
    bool found = tile_accept_symbol(p, infixes[k].text) || tile_accept_word(p, infixes[k].text);
    if (found)
      e = binary(p, infixes[k].op, e, operand(p));
    k = found ? 0 : k + 1;
  }
  return e;
}

static const struct expr *parse_product(struct tile_parser *p)
{
  static const struct infix infixes[] = {
      {"*", EXPR_MUL}, {"/", EXPR_DIV}, {"//", EXPR_FLOORDIV}, {"%", EXPR_MOD}};
  return parse_chain(p, infixes, 4, parse_sign);
}

static const struct expr *parse_sum(struct tile_parser *p)
{
  static const struct infix infixes[] = {{"+", EXPR_ADD}, {"-", EXPR_SUB}};
  return parse_chain(p, infixes, 2, parse_product);
}

static const struct expr *parse_comparison(struct tile_parser *p)
{
  static const struct infix infixes[] = {
      {"<", EXPR_LT}, {"<=", EXPR_LE}, {"==", EXPR_EQ}, {"!=", EXPR_NE}};
  const struct expr *e = parse_sum(p);
  for (size_t k = 0; k < 4; k++)
    if (tile_accept_symbol(p, infixes[k].text))
      return binary(p, infixes[k].op, e, parse_sum(p));
  return e;
}

static const struct expr *parse_not(struct tile_parser *p)
{
  if (!tile_accept_word(p, "not"))
    return parse_comparison(p);
  if (p->expr_depth >= MAX_DEPTH) {
    tile_parse_error(p, DIAG_TILE_LIMIT, "expressions nested more than %d deep", (int)MAX_DEPTH);
    return NULL;
  }
  p->expr_depth++;
  const struct expr *e = unary(p, EXPR_NOT, parse_not(p));
  p->expr_depth--;
  return e;
}

static const struct expr *parse_and(struct tile_parser *p)
{
  static const struct infix infix = {"and", EXPR_AND};
  return parse_chain(p, &infix, 1, parse_not);
}

static const struct expr *parse_or(struct tile_parser *p)
{
  static const struct infix infix = {"or", EXPR_OR};
  if (p->expr_depth >= MAX_DEPTH) {
    tile_parse_error(p, DIAG_TILE_LIMIT, "expressions nested more than %d deep", (int)MAX_DEPTH);
    return NULL;
  }
  p->expr_depth++;
  const struct expr *e = parse_chain(p, &infix, 1, parse_and);
  p->expr_depth--;
  return e;
}

/* let &0 = ..., &1 = ... in */
static void parse_lets(struct tile_parser *p)
{
  p->lets.count = 0;
  if (!tile_accept_word(p, "let"))
    return;
  do {
    if (p->token.kind != TOKEN_LET || p->token.integer != p->lets.count)
      tile_parse_error(p, DIAG_TILE_SYNTAX, "expected &%zu: lets are numbered in order",
                       p->lets.count);
    tile_scan(p);
    tile_expect_symbol(p, "=");
    const struct expr *e = parse_or(p);
    if (e != NULL)
      vector_push(p->arena, &p->lets, e);
  } while (!p->failed && tile_accept_symbol(p, ","));
  tile_expect_word(p, "in");
}

const struct expr *tile_parse_expr(struct tile_parser *p, struct tile_value *const *operands,
                                   size_t operand_count)
{
  struct span outer = p->pool->span;
  p->pool->span = p->token.span;
  p->operands = operands;
  p->operand_count = operand_count;
  p->expr_depth = 0;
  parse_lets(p);
  const struct expr *e = p->failed ? NULL : parse_or(p);
  p->pool->span = outer;
  return p->failed ? NULL : e;
}

const struct expr *tile_parse_size(struct tile_parser *p)
{
  p->in_shape = true;
  const struct expr *e = tile_parse_expr(p, NULL, 0);
  p->in_shape = false;
  return e;
}
