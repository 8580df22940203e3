#include "compiler/tile/text.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What is known of a node: `hash` for good, the rest for the expression numbered `stamp`. */
struct node_info {
  uint64_t hash;
  uint32_t stamp;
  uint32_t uses;  /* edges that end in it */
  uint32_t size;  /* nodes of its text, a let's name counted as one */
  uint32_t depth; /* nesting of its text, likewise; 0 before it is known */
  bool is_let;
  uint32_t let; /* 1 + its number once it is defined */
};

struct tile_expr_printer {
  struct tile_text *text;
  const struct tile_kernel *kernel;
  struct node_info *infos; /* by id */
  size_t info_count;
  const struct expr_pool *pool;
  uint32_t stamp;
  uint32_t let_count;
};

/* Texts of LET_SIZE nodes or more are defined once; one nested LET_DEPTH deep is cut, for the
 * parser's sake. */
enum { LET_SIZE = 8, LET_DEPTH = 48 };

/* Binding strength, loosest first. */
enum strength {
  OR_EXPR,
  AND_EXPR,
  NOT_EXPR,
  COMPARISON,
  SUM_EXPR,
  PRODUCT_EXPR,
  SIGN_EXPR,
  PRIMARY
};

struct tile_expr_printer *tile_expr_printer_new(struct tile_text *text,
                                                const struct expr_pool *pool)
{
  struct tile_expr_printer *printer = ARENA_NEW(text->arena, struct tile_expr_printer);
  printer->text = text;
  printer->pool = pool;
  printer->info_count = pool->nodes.count;
  printer->infos = ARENA_ARRAY(text->arena, struct node_info, printer->info_count);
  return printer;
}

static bool is_commutative(const struct expr *e)
{
  switch ((int)e->op) {
  case EXPR_AND:
  case EXPR_OR: return (e->deps & EXPR_DEP(EXPR_DEP_READ)) == 0; /* as the constructors have it */
  case EXPR_ADD:
  case EXPR_MUL:
  case EXPR_MIN:
  case EXPR_MAX:
  case EXPR_EQ:
  case EXPR_NE:
  case EXPR_BIT_AND:
  case EXPR_BIT_OR:
  case EXPR_BIT_XOR: return true;
  }
  return false;
}

static uint64_t mix(uint64_t hash, uint64_t word)
{
  hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
  return hash ^ hash >> 29;
}

static uint64_t structural_hash(const struct tile_expr_printer *printer, const struct expr *e)
{
  uint64_t hash = mix((uint64_t)e->op << 8 | (uint64_t)e->type, (uint64_t)e->value.i);
  if (is_commutative(e)) {
    uint64_t a = printer->infos[e->args[0]->id].hash, b = printer->infos[e->args[1]->id].hash;
    hash = mix(mix(hash, a < b ? a : b), a < b ? b : a);
  } else {
    for (uint32_t k = 0; k < e->arg_count; k++)
      hash = mix(hash, printer->infos[e->args[k]->id].hash);
  }
  return hash | 1;
}

/* Counts uses and sizes below `e`; children first. */
static void survey(struct tile_expr_printer *printer, const struct expr *e)
{
  struct node_info *info = &printer->infos[e->id];
  if (info->stamp == printer->stamp) {
    info->uses++;
    return;
  }
  info->stamp = printer->stamp;
  info->uses = 1;
  info->let = 0;
  info->depth = 0;
  for (uint32_t k = 0; k < e->arg_count; k++)
    survey(printer, e->args[k]);
  if (info->hash == 0)
    info->hash = structural_hash(printer, e);
}

/* Decides what becomes a let. A use count is final only when all parents were seen, hence a second
 * walk. */
static void measure(struct tile_expr_printer *printer, const struct expr *e)
{
  struct node_info *info = &printer->infos[e->id];
  if (info->depth != 0)
    return;
  info->size = info->depth = 1;
  for (uint32_t k = 0; k < e->arg_count; k++) {
    const struct node_info *below = &printer->infos[e->args[k]->id];
    measure(printer, e->args[k]);
    info->size += below->is_let ? 1 : below->size;
    if (!below->is_let && below->depth >= info->depth)
      info->depth = below->depth + 1;
  }
  info->is_let = (info->uses > 1 && info->size >= LET_SIZE) || info->depth >= LET_DEPTH;
}

static bool before(const struct tile_expr_printer *printer, const struct expr *a,
                   const struct expr *b)
{
  if ((a->op == EXPR_CONST) != (b->op == EXPR_CONST))
    return b->op == EXPR_CONST;
  if (a->height != b->height)
    return a->height > b->height;
  if (a->op != b->op)
    return a->op < b->op;
  if (a->value.i != b->value.i)
    return a->value.i < b->value.i;
  return printer->infos[a->id].hash < printer->infos[b->id].hash;
}

/* The operands in printed order: the constant last, the deeper one first. */
static void order(const struct tile_expr_printer *printer, const struct expr *e,
                  const struct expr *ordered[2])
{
  bool swap = is_commutative(e) && before(printer, e->args[1], e->args[0]);
  ordered[0] = e->args[swap ? 1 : 0];
  ordered[1] = e->args[swap ? 0 : 1];
}

/* ---- constants ---- */

/* The shortest decimal that reads back to the value. */
static void print_real(struct tile_text *text, double value, bool single)
{
  const char *suffix = single ? "s" : "";
  if (isnan(value)) {
    tile_text_add(text, "nan%s", suffix);
    return;
  }
  if (isinf(value)) {
    tile_text_add(text, "%sinf%s", value < 0 ? "-" : "", suffix);
    return;
  }
  char digits[40];
  for (int precision = 6; precision <= 17; precision++) {
    snprintf(digits, sizeof(digits), "%.*g", precision, value);
    double read = strtod(digits, NULL);
    if (single ? (float)read == (float)value : read == value)
      break;
  }
  bool whole = true;
  for (char *c = digits; *c != '\0'; c++) {
    bool digit = (*c >= '0' && *c <= '9') || *c == '-' || *c == '+';
    if (!digit && *c != 'e')
      *c = '.'; /* whatever the locale's point is */
    whole = whole && digit;
  }
  tile_text_add(text, "%s%s%s", digits, whole ? ".0" : "", suffix);
}

static bool is_negative_constant(const struct expr *e)
{
  if (e->op != EXPR_CONST)
    return false;
  if (e->type == EXPR_FLOAT || e->type == EXPR_SINGLE)
    return signbit(e->value.f) && !isnan(e->value.f);
  return e->value.i < 0;
}

static void print_constant(struct tile_text *text, const struct expr *e)
{
  switch (e->type) {
  case EXPR_BOOL: tile_text_add(text, e->value.i != 0 ? "true" : "false"); break;
  case EXPR_INT: tile_text_add(text, "%lld", (long long)e->value.i); break;
  case EXPR_LONG: tile_text_add(text, "%lldL", (long long)e->value.i); break;
  case EXPR_FLOAT: print_real(text, e->value.f, false); break;
  case EXPR_SINGLE: print_real(text, e->value.f, true); break;
  }
}

/* ---- everything else ---- */

static void print(struct tile_expr_printer *printer, const struct expr *e, enum strength least);

static const char *tensor_name(const struct tile_expr_printer *printer, int64_t tensor)
{
  const struct tile_kernel *kernel = printer->kernel;
  bool known = kernel != NULL && tensor >= 0 && (uint64_t)tensor < kernel->tensors.count;
  return known ? kernel->tensors.items[tensor].name : "?";
}

static void print_list(struct tile_expr_printer *printer, const struct expr *e)
{
  for (uint32_t k = 0; k < e->arg_count; k++) {
    if (k > 0)
      tile_text_add(printer->text, ", ");
    print(printer, e->args[k], OR_EXPR);
  }
}

static void print_read(struct tile_expr_printer *printer, const struct expr *e)
{
  tile_text_add(printer->text, "%s%s[", tensor_name(printer, e->value.i),
                e->type == EXPR_LONG ? ".long" : "");
  print_list(printer, e);
  tile_text_add(printer->text, "]");
}

static void print_call(struct tile_expr_printer *printer, const struct expr *e)
{
  const char *name = e->op == EXPR_CONVERT ? expr_type_name(e->type) : tile_expr_function(e->op);
  tile_text_add(printer->text, "%s(", name == NULL ? expr_op_name(e->op) : name);
  if (e->op >= EXPR_SUM && e->op <= EXPR_COUNT) {
    tile_text_add(printer->text, "@%lld < ", (long long)e->value.i);
    print(printer, e->args[0], OR_EXPR);
    tile_text_add(printer->text, ", ");
    print(printer, e->args[1], OR_EXPR);
  } else if (e->arg_count == 2) {
    const struct expr *ordered[2];
    order(printer, e, ordered);
    print(printer, ordered[0], OR_EXPR);
    tile_text_add(printer->text, ", ");
    print(printer, ordered[1], OR_EXPR);
  } else {
    print_list(printer, e);
  }
  tile_text_add(printer->text, ")");
}

static void print_leaf(struct tile_expr_printer *printer, const struct expr *e)
{
  const struct tile_kernel *kernel = printer->kernel;
  bool known = kernel != NULL && e->value.i >= 0 && (uint64_t)e->value.i < kernel->params.count;
  switch ((int)e->op) {
  case EXPR_CONST: print_constant(printer->text, e); break;
  case EXPR_VAR:
    tile_text_add(printer->text, "%s", expr_var_name((enum expr_var)e->value.i));
    break;
  case EXPR_PARAM:
    tile_text_add(printer->text, "%s", known ? kernel->params.items[e->value.i].name : "?");
    break;
  case EXPR_BOUND: tile_text_add(printer->text, "@%lld", (long long)e->value.i); break;
  case EXPR_ARG: tile_text_add(printer->text, "$%lld", (long long)e->value.i); break;
  case EXPR_MAP: tile_text_add(printer->text, "?"); break; /* none in tile programs */
  }
}

static enum strength strength_of(const struct expr *e)
{
  switch ((int)e->op) {
  case EXPR_OR: return OR_EXPR;
  case EXPR_AND: return AND_EXPR;
  case EXPR_NOT: return NOT_EXPR;
  case EXPR_LT:
  case EXPR_LE:
  case EXPR_EQ:
  case EXPR_NE: return COMPARISON;
  case EXPR_ADD:
  case EXPR_SUB: return SUM_EXPR;
  case EXPR_MUL:
  case EXPR_DIV:
  case EXPR_FLOORDIV:
  case EXPR_MOD: return PRODUCT_EXPR;
  case EXPR_NEG: return SIGN_EXPR;
  }
  return is_negative_constant(e) ? SIGN_EXPR : PRIMARY;
}

static void print_infix(struct tile_expr_printer *printer, const struct expr *e,
                        enum strength strength)
{
  const struct expr *ordered[2];
  order(printer, e, ordered);
  bool chains = strength != COMPARISON;
  print(printer, ordered[0], chains ? strength : SUM_EXPR);
  tile_text_add(printer->text, " %s ", expr_op_name(e->op));
  print(printer, ordered[1], (enum strength)((int)strength + 1));
}

/* In full, also where it has a let's name. */
static void print_node(struct tile_expr_printer *printer, const struct expr *e)
{
  enum strength strength = strength_of(e);
  if (e->op == EXPR_READ) {
    print_read(printer, e);
  } else if (e->arg_count == 0 && e->op <= EXPR_ARG) {
    print_leaf(printer, e);
  } else if (strength == PRIMARY) {
    print_call(printer, e);
  } else if (e->arg_count == 1) {
    tile_text_add(printer->text, e->op == EXPR_NOT ? "not " : "-");
    print(printer, e->args[0], strength);
  } else {
    print_infix(printer, e, strength);
  }
}

static void print(struct tile_expr_printer *printer, const struct expr *e, enum strength least)
{
  if (printer->infos[e->id].let != 0) {
    tile_text_add(printer->text, "&%u", printer->infos[e->id].let - 1);
    return;
  }
  bool parentheses = strength_of(e) < least;
  if (parentheses)
    tile_text_add(printer->text, "(");
  print_node(printer, e);
  if (parentheses)
    tile_text_add(printer->text, ")");
}

/* Defines what is below `e` and used several times, in the order in which the text needs it. */
static void define_lets(struct tile_expr_printer *printer, const struct expr *e, bool root)
{
  struct node_info *info = &printer->infos[e->id];
  if (info->let != 0)
    return;
  const struct expr *ordered[2];
  bool two = e->arg_count == 2;
  if (two)
    order(printer, e, ordered);
  for (uint32_t k = 0; k < e->arg_count; k++)
    define_lets(printer, two ? ordered[k] : e->args[k], false);
  if (root || !info->is_let)
    return;
  tile_text_add(printer->text, "%s&%u = ", printer->let_count == 0 ? "let " : ", ",
                printer->let_count);
  print_node(printer, e);
  info->let = ++printer->let_count;
}

void tile_print_expr(struct tile_expr_printer *printer, const struct tile_kernel *kernel,
                     const struct expr *e)
{
  if (e == NULL || e->id >= printer->info_count) {
    tile_text_add(printer->text, "?");
    return;
  }
  printer->kernel = kernel;
  printer->stamp++;
  printer->let_count = 0;
  survey(printer, e);
  measure(printer, e);
  define_lets(printer, e, true);
  if (printer->let_count != 0)
    tile_text_add(printer->text, " in ");
  print_node(printer, e);
}
