#include "dsl/expr_fold.h"
#include "dsl/expr_scalar.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* How tightly an expression binds, as in the grammar (language.md, "Expressions"). */
enum level {
  LEVEL_IF,
  LEVEL_OR,
  LEVEL_AND,
  LEVEL_NOT, /* any and all, too */
  LEVEL_COMPARE,
  LEVEL_ARITH,
  LEVEL_SUM, /* takes the product that follows */
  LEVEL_TERM,
  LEVEL_MINUS,
  LEVEL_POWER,
  LEVEL_ATOM
};

enum { PRINT_DEPTH = 500, PRINT_LIMIT = 64 * 1024 };

struct printer {
  struct arena *arena;
  VECTOR(char) text;
  const struct expr_names *names;
  uint32_t depth;
};

static void put(struct printer *printer, const char *text)
{
  for (; *text != '\0'; text++)
    vector_push(printer->arena, &printer->text, *text);
}

static void put_format(struct printer *printer, const char *format, ...)
{
  char text[128];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof(text), format, arguments);
  va_end(arguments);
  put(printer, text);
}

static enum level binary_level(enum expr_op op)
{
  switch ((int)op) {
  case EXPR_ADD:
  case EXPR_SUB: return LEVEL_ARITH;
  case EXPR_MUL:
  case EXPR_DIV:
  case EXPR_FLOORDIV:
  case EXPR_MOD: return LEVEL_TERM;
  case EXPR_POW: return LEVEL_POWER;
  case EXPR_LT:
  case EXPR_LE:
  case EXPR_EQ:
  case EXPR_NE: return LEVEL_COMPARE;
  case EXPR_AND: return LEVEL_AND;
  case EXPR_OR: return LEVEL_OR;
  }
  return LEVEL_ATOM; /* a call */
}

static bool is_negative_const(const struct expr *e)
{
  if (e->op != EXPR_CONST)
    return false;
  return expr_type_is_real(e->type) ? signbit(e->value.f) && !isnan(e->value.f) : e->value.i < 0;
}

/* A conversion that the language makes without being asked. */
static bool is_silent(const struct expr *e)
{
  return e->op == EXPR_CONVERT &&
         (expr_type_is_real(e->type) || !expr_type_is_real(e->args[0]->type));
}

static const struct expr *shown(const struct expr *e)
{
  while (is_silent(e))
    e = e->args[0];
  return e;
}

static enum level level_of(const struct expr *e)
{
  e = shown(e);
  if (e->op == EXPR_MUL && shown(e->args[1])->op == EXPR_SUM)
    return LEVEL_SUM; /* would take the rest of the product, too */
  switch ((int)e->op) {
  case EXPR_CONST: return is_negative_const(e) ? LEVEL_MINUS : LEVEL_ATOM;
  case EXPR_NEG: return LEVEL_MINUS;
  case EXPR_NOT: return LEVEL_NOT;
  case EXPR_SELECT: return LEVEL_IF;
  case EXPR_ANY:
  case EXPR_ALL: return LEVEL_NOT;
  case EXPR_SUM:
  case EXPR_MEAN:
  case EXPR_FOLD_MAX:
  case EXPR_FOLD_MIN:
  case EXPR_COUNT: return LEVEL_SUM;
  }
  return e->op >= EXPR_ADD && e->op <= EXPR_SHIFT_RIGHT ? binary_level(e->op) : LEVEL_ATOM;
}

/* The shortest decimal that reads back as the same number of the type. */
static void put_real(struct printer *printer, double value, bool single)
{
  char text[40] = "";
  for (int digits = 1; digits <= 17; digits++) {
    snprintf(text, sizeof(text), "%.*g", digits, value);
    double back = strtod(text, NULL);
    if (back == value || (single && (double)(float)back == value))
      break;
  }
  put(printer, text);
  if (strpbrk(text, ".enif") == NULL) /* also not in exponents, inf and nan */
    put(printer, ".0");
}

static void put_const(struct printer *printer, const struct expr *e)
{
  if (e->type == EXPR_BOOL)
    put(printer, e->value.i != 0 ? "true" : "false");
  else if (expr_type_is_real(e->type))
    put_real(printer, e->value.f, e->type == EXPR_SINGLE);
  else
    put_format(printer, "%lld", (long long)e->value.i);
}

static void print(struct printer *printer, const struct expr *e, enum level least);

static void put_list(struct printer *printer, const struct expr *const *args, size_t count)
{
  for (size_t k = 0; k < count; k++) {
    put(printer, k == 0 ? "" : ", ");
    print(printer, args[k], LEVEL_IF);
  }
}

static void put_call(struct printer *printer, const struct expr *e)
{
  put_format(printer, "%s(", expr_op_name(e->op));
  put_list(printer, e->args, e->arg_count);
  put(printer, ")");
}

static void put_tensor(struct printer *printer, int64_t tensor)
{
  static const char *const own[] = {"q", "k", "v", "o"};
  uint64_t input = (uint64_t)tensor - EXPR_TENSOR_INPUT;
  if (tensor < EXPR_TENSOR_INPUT)
    put(printer, own[tensor]);
  else if (printer->names != NULL && printer->names->inputs != NULL)
    put(printer, printer->names->inputs[input]);
  else
    put_format(printer, "t%llu", (unsigned long long)input);
}

/* How many leading indices of q, k or v are the ones that q[c], k[c] and v[c] stand for. */
static uint32_t implied_indices(const struct expr *e)
{
  enum expr_var row = e->value.i == EXPR_TENSOR_Q ? EXPR_VAR_R : EXPR_VAR_J;
  enum expr_var head = e->value.i == EXPR_TENSOR_Q ? EXPR_VAR_H : EXPR_VAR_G;
  bool implied = e->op == EXPR_READ && e->value.i <= EXPR_TENSOR_V && e->arg_count == 4 &&
                 expr_is_var(e->args[0], EXPR_VAR_B) && expr_is_var(e->args[1], head) &&
                 expr_is_var(e->args[2], row);
  return implied ? 3 : 0;
}

static void put_read(struct printer *printer, const struct expr *e)
{
  if (e->op != EXPR_READ)
    put_format(printer, "%s(", expr_op_name(e->op));
  put_tensor(printer, e->value.i);
  uint32_t skip = implied_indices(e);
  if (e->op != EXPR_READ)
    put(printer, ", ");
  else if (e->arg_count != 0)
    put(printer, "[");
  put_list(printer, e->args + skip, e->arg_count - skip);
  if (e->op != EXPR_READ)
    put(printer, ")");
  else if (e->arg_count != 0)
    put(printer, "]");
}

static void put_binder(struct printer *printer, const struct expr *e)
{
  put_format(printer, "%s(n%lld < ", expr_op_name(e->op), (long long)e->value.i);
  print(printer, e->args[0], LEVEL_ARITH);
  put(printer, ") ");
  print(printer, e->args[1], level_of(e));
}

static void put_binary(struct printer *printer, const struct expr *e)
{
  enum level level = binary_level(e->op);
  const struct expr *a = e->args[0];
  const struct expr *b = e->args[1];
  if (level == LEVEL_ATOM) {
    put_call(printer, e);
    return;
  }
  /* Comparisons chain, so that neither side may be one; ** groups to the right. */
  bool tight_left = level == LEVEL_COMPARE || level == LEVEL_POWER;
  print(printer, a, tight_left ? level + 1 : level);
  const char *name = expr_op_name(e->op);
  if (e->op == EXPR_ADD && is_negative_const(b) && !expr_type_is_real(b->type)) {
    put_format(printer, " - %llu", 0 - (unsigned long long)b->value.i);
    return;
  }
  if (e->op == EXPR_ADD && b->op == EXPR_NEG) {
    name = "-";
    b = b->args[0];
  }
  put_format(printer, " %s ", name);
  enum level right = level + 1;
  if (level == LEVEL_POWER)
    right = LEVEL_MINUS;
  else if (e->op == EXPR_MUL && shown(b)->op == EXPR_SUM)
    right = LEVEL_SUM;
  print(printer, b, right);
}

static void put_leaf(struct printer *printer, const struct expr *e)
{
  unsigned long long number = (unsigned long long)e->value.i;
  const struct expr_names *names = printer->names;
  switch ((int)e->op) {
  case EXPR_CONST: put_const(printer, e); return;
  case EXPR_VAR: put(printer, expr_var_name((enum expr_var)e->value.i)); return;
  case EXPR_BOUND: put_format(printer, "n%llu", number); return;
  case EXPR_ARG: put_format(printer, "x%llu", number); return;
  case EXPR_PARAM:
    if (names != NULL && names->params != NULL)
      put(printer, names->params[number]);
    else
      put_format(printer, "p%llu", number);
    return;
  case EXPR_MAP:
    if (number == 0)
      put(printer, "w");
    else
      put_format(printer, "w%llu", number);
    return;
  }
}

static void put_node(struct printer *printer, const struct expr *e)
{
  if (e->op <= EXPR_ARG) {
    put_leaf(printer, e);
  } else if (e->op <= EXPR_RANGE_MAX) {
    put_read(printer, e);
  } else if (e->op == EXPR_NEG) {
    put(printer, "-");
    print(printer, e->args[0], LEVEL_MINUS);
  } else if (e->op == EXPR_NOT) {
    put(printer, "not ");
    print(printer, e->args[0], LEVEL_NOT);
  } else if (e->op == EXPR_CONVERT) {
    put_format(printer, "%s(", expr_type_name(e->type));
    print(printer, e->args[0], LEVEL_IF);
    put(printer, ")");
  } else if (e->op == EXPR_SELECT) {
    print(printer, e->args[1], LEVEL_OR);
    put(printer, " if ");
    print(printer, e->args[0], LEVEL_OR);
    put(printer, " else ");
    print(printer, e->args[2], LEVEL_IF);
  } else if (expr_op_is_binder(e->op)) {
    put_binder(printer, e);
  } else if (e->op >= EXPR_ADD && e->op <= EXPR_SHIFT_RIGHT) {
    put_binary(printer, e);
  } else {
    put_call(printer, e);
  }
}

static void print(struct printer *printer, const struct expr *e, enum level least)
{
  e = shown(e);
  if (printer->depth >= PRINT_DEPTH || printer->text.count >= PRINT_LIMIT) {
    put(printer, "...");
    return;
  }
  bool parenthesised = level_of(e) < least;
  printer->depth++;
  put(printer, parenthesised ? "(" : "");
  put_node(printer, e);
  put(printer, parenthesised ? ")" : "");
  printer->depth--;
}

char *expr_print(struct arena *arena, const struct expr *e, const struct expr_names *names)
{
  struct printer printer = {.arena = arena, .names = names};
  print(&printer, e, LEVEL_IF);
  return arena_strndup(arena, printer.text.items, printer.text.count);
}
