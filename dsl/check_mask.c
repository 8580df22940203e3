/* The mask, and what is odd about it: a window that is off by one, rows or all of them without
 * keys.
 *
 * A mask is proved to hide keys from linear inequalities, without looking at contents of tensors: a
 * conjunction is false everywhere when one of its inequalities, or the sum of two, cannot hold
 * (integer arithmetic taken as ideal, which is right for all positions that memory has room for).
 */
#include "dsl/check.h"

/* `i - j <= width` sees width + 1 keys; the papers' windows of `width` have i - j < width. */
static void note_window(struct check *check, const struct ast_expr *ast)
{
  if (ast->kind == AST_BINARY && ast->op == AST_AND) {
    for (; ast->kind == AST_BINARY && ast->op == AST_AND; ast = ast->operands.a)
      note_window(check, ast->operands.b);
    note_window(check, ast);
    return;
  }
  if (ast->kind == AST_PAREN && ast->depth < AST_MAX_DEPTH) {
    note_window(check, ast->operands.a);
    return;
  }
  if (ast->kind != AST_COMPARE)
    return;
  for (size_t k = 0; k < ast->compare.ops.count; k++) {
    const struct ast_expr *left = ast->compare.operands.items[k],
                          *right = ast->compare.operands.items[k + 1];
    const struct symbol *symbol =
        right->kind == AST_NAME ? check_symbol(check, NULL, right->name.text) : NULL;
    if (ast->compare.ops.items[k] != AST_LE || symbol == NULL || symbol->kind != SYMBOL_PARAM ||
        left->kind != AST_BINARY || left->op != AST_SUB || left->operands.a->kind != AST_NAME ||
        left->operands.b->kind != AST_NAME ||
        check_builtin(left->operands.a->name.text) != BUILTIN_I ||
        check_builtin(left->operands.b->name.text) != BUILTIN_J)
      continue;
    struct diagnostic *note =
        check_error(check, DIAG_WINDOW_OFF_BY_ONE, ast->span,
                    "this window sees %s + 1 keys, the row's own included", right->name.text);
    diag_help(check->diagnostics, note, "a window of %s keys, as in Mistral, is i - j < %s",
              right->name.text, right->name.text);
  }
}

/* ---- rows without keys ---- */

/* The rows that a proof is about. */
enum rows { ROWS_ALL, ROWS_FIRST /* i = 0 */, ROWS_LAST /* i = NK - 1 */ };

/* sum of coef * leaf + constant <= 0 */
enum { FORM_MAX_TERMS = 6, FORM_MAX_DEPTH = 32, FORM_MAX_VISITS = 200 };
enum { PROOF_MAX_FORMS = 64, PROOF_MAX_STEPS = 400 };
struct form {
  bool valid;
  int64_t constant;
  uint32_t count;
  uint32_t visits; /* of nodes that were added: shared ones count each time */
  struct {
    int64_t coef;
    const struct expr *leaf;
  } terms[FORM_MAX_TERMS];
};

struct proof {
  enum rows rows;
  uint32_t steps;
  size_t count;
  struct form held[PROOF_MAX_FORMS]; /* by the conditions that are assumed so far */
};

/* What is still to be assumed: that `e` is `holds`. */
struct pending {
  const struct expr *e;
  bool holds;
  const struct pending *next;
};

/* Leaves that a mask need not contain. */
static const struct expr leaf_i = {.op = EXPR_VAR, .value.i = EXPR_VAR_I};
static const struct expr leaf_j = {.op = EXPR_VAR, .value.i = EXPR_VAR_J};
static const struct expr leaf_keys = {.op = EXPR_VAR, .value.i = EXPR_VAR_SIZE_NK};

static const struct expr *shared_leaf(const struct expr *e)
{
  if (expr_is_var(e, EXPR_VAR_I))
    return &leaf_i;
  if (expr_is_var(e, EXPR_VAR_J))
    return &leaf_j;
  return expr_is_var(e, EXPR_VAR_SIZE_NK) ? &leaf_keys : e;
}

static void add_leaf(struct form *form, int64_t coef, const struct expr *leaf)
{
  leaf = shared_leaf(leaf);
  uint32_t n = 0;
  while (n < form->count && form->terms[n].leaf != leaf)
    n++;
  if (n == FORM_MAX_TERMS) {
    form->valid = false;
    return;
  }
  if (n == form->count) {
    form->terms[form->count].leaf = leaf;
    form->terms[form->count++].coef = 0;
  }
  form->terms[n].coef += coef;
  if (form->terms[n].coef == 0)
    form->terms[n] = form->terms[--form->count];
}

static bool is_int_const(const struct expr *e)
{
  return e->op == EXPR_CONST && e->type == EXPR_INT;
}

static void add_expr(struct form *form, enum rows rows, int64_t coef, const struct expr *e)
{
  const int64_t large = INT64_C(1) << 30; /* what is below it, times an INT, is far from 64 bits */
  if (coef > large || coef < -large || form->constant > large || form->constant < -large ||
      ++form->visits > FORM_MAX_VISITS) {
    form->valid = false;
    return;
  }
  if (is_int_const(e)) {
    form->constant += coef * e->value.i;
  } else if (e->op == EXPR_ADD || e->op == EXPR_SUB) {
    add_expr(form, rows, coef, e->args[0]);
    add_expr(form, rows, e->op == EXPR_ADD ? coef : -coef, e->args[1]);
  } else if (e->op == EXPR_NEG) {
    add_expr(form, rows, -coef, e->args[0]);
  } else if (e->op == EXPR_MUL && (is_int_const(e->args[0]) || is_int_const(e->args[1]))) {
    uint32_t factor = is_int_const(e->args[0]) ? 0 : 1;
    if (e->args[factor]->value.i >= -1024 && e->args[factor]->value.i <= 1024)
      add_expr(form, rows, coef * e->args[factor]->value.i, e->args[1 - factor]);
    else
      add_leaf(form, coef, e);
  } else if (expr_is_var(e, EXPR_VAR_I) && rows == ROWS_FIRST) {
    return;
  } else if (expr_is_var(e, EXPR_VAR_I) && rows == ROWS_LAST) {
    add_leaf(form, coef, &leaf_keys);
    form->constant -= coef;
  } else if (e->op == EXPR_FLOORDIV && expr_is_var(e->args[0], EXPR_VAR_I) && rows == ROWS_FIRST) {
    return; /* 0 // x is 0, also for an x of 0 */
  } else {
    add_leaf(form, coef, e);
  }
}

static bool never_negative(const struct expr *e, uint32_t depth)
{
  bool by_positive = e->arg_count == 2 && is_int_const(e->args[1]) && e->args[1]->value.i > 0;
  if (e->op == EXPR_MOD)
    return by_positive;
  if (e->op == EXPR_FLOORDIV)
    return by_positive && depth < FORM_MAX_DEPTH && never_negative(e->args[0], depth + 1);
  return e->op == EXPR_VAR && e->value.i != EXPR_VAR_OFFSET;
}

/* form <= 0 cannot be. */
static bool is_positive(const struct form *form)
{
  for (uint32_t n = 0; n < form->count; n++)
    if (form->terms[n].coef < 0 || !never_negative(form->terms[n].leaf, 0))
      return false;
  return form->valid && form->constant > 0;
}

/* Takes left + constant <= right for true. Returns whether that contradicts what is held. */
static bool hold(struct proof *proof, const struct expr *left, int64_t constant,
                 const struct expr *right)
{
  struct form form = {.valid = true, .constant = constant};
  add_expr(&form, proof->rows, 1, left);
  add_expr(&form, proof->rows, -1, right);
  if (!form.valid)
    return false;
  if (is_positive(&form))
    return true;
  for (size_t k = 0; k < proof->count; k++) {
    struct form sum = form;
    sum.constant += proof->held[k].constant;
    for (uint32_t n = 0; n < proof->held[k].count; n++)
      add_leaf(&sum, proof->held[k].terms[n].coef, proof->held[k].terms[n].leaf);
    if (is_positive(&sum))
      return true;
  }
  if (proof->count < PROOF_MAX_FORMS)
    proof->held[proof->count++] = form;
  return false;
}

static bool compare(struct proof *proof, const struct expr *e, bool holds)
{
  const struct expr *a = e->args[0], *b = e->args[1];
  if (e->op == EXPR_EQ || e->op == EXPR_NE)
    return (e->op == EXPR_EQ) == holds && (hold(proof, a, 0, b) || hold(proof, b, 0, a));
  bool strict = (e->op == EXPR_LT) == holds;
  return holds ? hold(proof, a, strict, b) : hold(proof, b, strict, a);
}

/* What is pending cannot all be so, in any of the rows and for any key. */
static bool is_impossible(struct proof *proof, const struct pending *pending)
{
  if (pending == NULL || ++proof->steps > PROOF_MAX_STEPS)
    return false;
  const struct expr *e = pending->e;
  bool holds = pending->holds;
  size_t count = proof->count;
  if (e->op == EXPR_CONST)
    return (e->value.i != 0) != holds || is_impossible(proof, pending->next);
  if (e->op == EXPR_NOT) {
    const struct pending inner = {e->args[0], !holds, pending->next};
    return is_impossible(proof, &inner);
  }
  if (e->op == EXPR_AND || e->op == EXPR_OR) {
    const struct pending second = {e->args[1], holds, pending->next};
    const struct pending first = {e->args[0], holds, &second};
    if ((e->op == EXPR_AND) == holds)
      return is_impossible(proof, &first);
    const struct pending only_first = {e->args[0], holds, pending->next};
    return is_impossible(proof, &only_first) && is_impossible(proof, &second);
  }
  bool is_comparison = e->op >= EXPR_LT && e->op <= EXPR_NE && e->args[0]->type == EXPR_INT;
  bool result = (is_comparison && compare(proof, e, holds)) || is_impossible(proof, pending->next);
  proof->count = count;
  return result;
}

/* `mask` is never `holds` in those rows. Without `bounded`, j may be NK or more. */
static bool never(const struct check *check, const struct expr *mask, bool holds, enum rows rows,
                  bool bounded)
{
  struct proof proof = {.rows = rows};
  if (bounded)
    hold(&proof, &leaf_j, 1, &leaf_keys);
  if (bounded && check->spec->align == ALIGN_END)
    hold(&proof, &leaf_i, 1, &leaf_keys);
  return is_impossible(&proof, &(struct pending){mask, holds, NULL});
}

/* A sequence that attends to itself has rows at 0 and at NK - 1. */
static bool note_empty_row(struct check *check, const struct ast_statement *statement, bool bounded)
{
  if (check->spec->align == ALIGN_EXPR)
    return false;
  bool first = never(check, check->spec->mask, true, ROWS_FIRST, bounded);
  if (!first && (!bounded || !never(check, check->spec->mask, true, ROWS_LAST, bounded)))
    return false;
  struct diagnostic *warning =
      check_error(check, DIAG_MASK_EMPTY_ROW, statement->span,
                  "the query at position %s sees no key", first ? "0" : "NK - 1");
  diag_help(check->diagnostics, warning,
            "its result is 0; where that is not meant let a query see its own key: "
            "mask (...) or j == i");
  return true;
}

/* What was said so far; more is not said again. */
enum said { SAID_NOTHING, SAID_EMPTY_ROW, SAID_HIDES_ALL };

/* `mask` is the statement's own, the spec's already has it. */
static enum said note_hidden(struct check *check, const struct ast_statement *statement,
                             const struct expr *mask, bool bounded, enum said said)
{
  if (never(check, mask, false, ROWS_ALL, bounded)) {
    check_error(check, DIAG_MASK_CONSTANT, statement->span,
                "this mask is always true: it hides nothing");
    return said;
  }
  if (never(check, check->spec->mask, true, ROWS_ALL, bounded)) {
    bool alone = never(check, mask, true, ROWS_ALL, bounded);
    check_error(check, DIAG_MASK_CONSTANT, statement->span, "%s",
                alone ? "this mask is always false: it hides every key"
                      : "together with the masks above this hides every key");
    return SAID_HIDES_ALL;
  }
  if (said == SAID_NOTHING && note_empty_row(check, statement, bounded))
    return SAID_EMPTY_ROW;
  return said;
}

/* ---- the statement ---- */

void check_mask(struct check *check)
{
  struct spec *spec = check->spec;
  struct scope scope = check_scope(check, CONTEXT_MASK);
  bool first = true, bounded = true;
  enum said said = SAID_NOTHING;
  spec->mask = expr_bool(check->pool, true);
  spec->mask_span = check->item->name.span;
  for (size_t k = 0; k < check->item->statements->list.count; k++)
    if (check->item->statements->list.items[k]->word == WORD_CACHE)
      bounded = false; /* a ring keeps the positions of the keys that it holds */
  for (size_t k = 0; k < check->item->statements->list.count; k++) {
    const struct ast_statement *statement = check->item->statements->list.items[k];
    if (statement->word != WORD_MASK)
      continue;
    if (first)
      spec->mask_span = statement->span;
    first = false;
    const struct ast_expr *ast = check_single(check, statement);
    const struct expr *mask = ast == NULL ? NULL : check_bool(check, &scope, ast);
    if (mask == NULL)
      continue;
    note_window(check, ast);
    check->pool->span = statement->span;
    spec->mask = expr_and(check->pool, spec->mask, mask);
    /* After an error a mask may not be what was meant. What is said of some masks holds of more. */
    if (said < SAID_HIDES_ALL && !check->incomplete && check->diagnostics->error_count == 0)
      said = note_hidden(check, statement, mask, bounded, said);
  }
}
