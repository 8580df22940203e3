/* From similarity to post: the formulas of an attention but for its mask. */
#include "dsl/check.h"

/* ---- normalisers ---- */

static const char *const normalizer_words[] = {"softmax", "sigmoid",   "relu", "linear",
                                               "hardmax", "sparsemax", "none"};
enum { NORMALIZER_COUNT = NORMALIZE_NONE + 1 };

static void softmax_options(struct check *check, const struct ast_expr *const slots[2],
                            struct spec_map *map)
{
  const struct ast_expr *sink = slots[0], *plus = slots[1];
  if (sink != NULL && plus != NULL) {
    check_error(check, DIAG_BAD_VALUE, plus->span, "softmax takes sink or plus, not both");
    return;
  }
  if (sink != NULL)
    map->sink = check_float(check, CONTEXT_NORMALIZE, sink);
  if (plus == NULL)
    return;
  const struct expr *e = check_float(check, CONTEXT_CONSTANT, plus);
  if (e == NULL)
    return;
  if (!expr_is_const(e) || e->value.f != 1.0) {
    struct diagnostic *error = check_error(check, DIAG_BAD_VALUE, plus->span, "plus can only be 1");
    diag_help(check->diagnostics, error, "softmax(sink = x) adds exp(x) to the denominator");
    return;
  }
  map->sink = expr_float(check->pool, 0.0);
}

/* The options of a normaliser; its first `skip` arguments are someone else's. */
static void normalizer_options(struct check *check, const struct ast_name *name, struct span span,
                               const struct ast_arguments *arguments, size_t skip,
                               struct spec_map *map)
{
  static const char *const softmax_names[] = {"sink", "plus"};
  static const char *const linear_names[] = {"at_least"};
  struct ast_arguments rest = {0};
  for (size_t k = skip; k < arguments->list.count; k++) {
    struct ast_argument argument = arguments->list.items[k];
    if (argument.name.text == NULL) {
      struct diagnostic *error = check_error(check, DIAG_ARGUMENT_COUNT, argument.span,
                                             "the options of a normaliser are named");
      diag_help(check->diagnostics, error, "%s",
                map->normalizer == NORMALIZE_SOFTMAX
                    ? "write softmax(sink = e) or softmax(plus = 1)"
                : map->normalizer == NORMALIZE_LINEAR ? "write linear(at_least = e)"
                                                      : "this one has none");
      return;
    }
    vector_push(check->arena, &rest.list, argument);
  }
  const struct ast_expr *slots[2];
  if (map->normalizer == NORMALIZE_SOFTMAX) {
    if (check_bind(check, name->text, span, &rest, softmax_names, 2, 0, slots))
      softmax_options(check, slots, map);
  } else if (map->normalizer == NORMALIZE_LINEAR) {
    if (check_bind(check, name->text, span, &rest, linear_names, 1, 0, slots) && slots[0] != NULL)
      map->at_least = check_float(check, CONTEXT_NORMALIZE, slots[0]);
  } else {
    check_bind(check, name->text, span, &rest, NULL, 0, 0, slots);
  }
}

static bool normalizer_word(struct check *check, const struct ast_expr *ast, struct spec_map *map)
{
  size_t number = check_word(check, ast, "the normaliser", normalizer_words, NORMALIZER_COUNT);
  if (number == NORMALIZER_COUNT)
    return false;
  map->normalizer = (enum normalizer)number;
  return true;
}

static void check_normalize(struct check *check, const struct ast_statement *statement,
                            struct spec_map *map)
{
  struct ast_name name;
  const struct ast_arguments *arguments;
  map->normalizer = NORMALIZE_SOFTMAX;
  const struct ast_expr *ast = statement == NULL ? NULL : check_single(check, statement);
  if (ast != NULL && normalizer_word(check, ast, map) && check_form(check, ast, &name, &arguments))
    normalizer_options(check, &name, ast->span, arguments, 0, map);
}

/* ---- scores ---- */

static const struct expr *default_similarity(struct check *check, struct span span)
{
  struct scope scope = check_scope(check, CONTEXT_SIMILARITY);
  static const char *const names[] = {"q", "k"};
  struct value vectors[2];
  for (int k = 0; k < 2; k++)
    vectors[k] =
        check_name(check, &scope, &(struct ast_name){intern(check->names, names[k], 1), span});
  return check_dot(check, &scope, span, vectors[0], vectors[1]).expr;
}

static const struct expr *add_term(struct check *check, const struct expr *score,
                                   const struct expr *term)
{
  if (score == NULL || term == NULL)
    return score;
  check->pool->span = term->span;
  return expr_add(check->pool, score, check_to_type(check, term, EXPR_FLOAT));
}

static const struct expr *statement_float(struct check *check, enum context_kind context,
                                          const struct ast_statement *statement)
{
  const struct ast_expr *ast = check_single(check, statement);
  return ast == NULL ? NULL : check_float(check, context, ast);
}

/* s + x with an x that is the same for every key cancels in a softmax. */
static void note_row_constant(struct check *check, const struct ast_statement *statement,
                              const struct expr *e)
{
  if (e->op != EXPR_ADD || check->spec->maps[0].normalizer != NORMALIZE_SOFTMAX ||
      check->spec->maps[0].sink != NULL)
    return;
  const uint64_t per_key = EXPR_DEP(EXPR_VAR_J) | EXPR_DEP(EXPR_VAR_S);
  for (int k = 0; k < 2; k++)
    if (expr_is_var(e->args[k], EXPR_VAR_S) && (e->args[1 - k]->deps & per_key) == 0)
      check_error(check, DIAG_ROW_CONSTANT, statement->span,
                  "the term is the same for every key of a row: it cancels in the softmax, though "
                  "not in lse");
}

/* What libraries add to hide a key: -1e4, -1e9, the least f16, -inf. */
static bool is_far_below(struct check *check, const struct scope *scope, const struct ast_expr *ast)
{
  const double far = -9999.0;
  const struct expr *e = check_scalar(check, scope, ast);
  return e != NULL && expr_is_const(e) && e->type == EXPR_FLOAT && e->value.f < far;
}

static const struct expr *note_vector(void *user, struct expr_pool *pool, const struct expr *leaf)
{
  (void)pool;
  if (leaf->op == EXPR_READ && leaf->value.i < EXPR_TENSOR_INPUT)
    *(bool *)user = true;
  return NULL;
}

/* A mask knows neither the score nor q and k. */
static bool could_be_mask(struct check *check, const struct expr *condition)
{
  bool reads = false;
  if (condition == NULL || expr_depends(condition, EXPR_VAR_S))
    return false;
  expr_rewrite(check->pool, condition, note_vector, &reads);
  return !reads;
}

/* `score s if i >= j else -inf` is right, but all of it is computed: of what a mask hides whole
 * tiles are left out. */
static void note_hidden(struct check *check, const struct ast_expr *ast)
{
  struct scope scope = check_scope(check, CONTEXT_SCORE);
  ast = check_strip(ast);
  for (; ast->kind == AST_BINARY && ast->op == AST_ADD; ast = check_strip(ast->operands.a))
    note_hidden(check, ast->operands.b);
  if (ast->kind != AST_CONDITIONAL)
    return;
  const struct ast_expr *condition = ast->conditional.condition;
  bool yes = is_far_below(check, &scope, ast->conditional.yes);
  if ((!yes && !is_far_below(check, &scope, ast->conditional.no)) ||
      !could_be_mask(check, check_bool(check, &scope, condition)))
    return;
  const struct source *source = &check->sources->sources.items[condition->span.source];
  const char *text = arena_strndup(check->arena, source->text + condition->span.begin,
                                   condition->span.end - condition->span.begin);
  struct diagnostic *warning =
      check_error(check, DIAG_SCORE_HIDES, ast->span,
                  "this hides keys by a number: their scores are computed nevertheless");
  diag_help(check->diagnostics, warning, yes ? "write mask not (%s)" : "write mask %s", text);
}

static const struct expr *default_score(struct check *check, const struct statements *statements,
                                        const struct position_terms *terms)
{
  struct span span = check->item->name.span;
  const struct ast_statement *similarity = statements->single[WORD_SIMILARITY];
  const struct ast_statement *scale = statements->single[WORD_SCALE];
  const struct expr *score = similarity == NULL
                                 ? default_similarity(check, span)
                                 : statement_float(check, CONTEXT_SIMILARITY, similarity);
  score = add_term(check, score, terms->similarity);
  check->pool->span = span;
  const struct expr *factor;
  if (scale != NULL)
    factor = statement_float(check, CONTEXT_SCALE, scale);
  else
    factor = expr_binary(check->pool, EXPR_POW, expr_float(check->pool, check->spec->dim_qk),
                         expr_float(check->pool, -0.5));
  if (score != NULL && factor != NULL)
    score = expr_mul(check->pool, factor, score);
  for (size_t k = 0; k < check->item->statements->list.count; k++) {
    const struct ast_statement *statement = check->item->statements->list.items[k];
    if (statement->word != WORD_SCORE)
      continue;
    const struct expr *e = statement_float(check, CONTEXT_SCORE, statement);
    if (e == NULL)
      continue;
    note_row_constant(check, statement, e);
    note_hidden(check, statement->arguments->list.items[0].value);
    if (score != NULL)
      score = expr_substitute(check->pool, e, EXPR_VAR_S, score);
  }
  return add_term(check, score, terms->score);
}

static void check_map(struct check *check, const struct symbol *symbol,
                      const struct position_terms *terms)
{
  const struct ast_expr *ast = check_strip(symbol->statement->value);
  struct spec_map *map = &check->spec->maps[symbol->index];
  map->name = symbol->name.text;
  map->span = symbol->statement->span;
  map->score = expr_float(check->pool, 0.0);
  if (!normalizer_word(check, ast, map))
    return;
  if (ast->kind != AST_CALL || ast->call.arguments->list.count == 0 ||
      ast->call.arguments->list.items[0].name.text != NULL) {
    struct diagnostic *error =
        check_error(check, DIAG_MISSING_ARGUMENT, ast->span,
                    "a map's normaliser needs a score as its first argument");
    diag_help(check->diagnostics, error, "for instance 'map %s = softmax(dot(q, k) / 8.0)'",
              map->name);
    return;
  }
  const struct expr *score =
      check_float(check, CONTEXT_MAP, ast->call.arguments->list.items[0].value);
  score = add_term(check, score, terms->score);
  if (score != NULL)
    map->score = score;
  normalizer_options(check, &ast->call.name, ast->span, ast->call.arguments, 1, map);
}

void check_scores(struct check *check, const struct statements *statements,
                  const struct position_terms *terms)
{
  struct spec *spec = check->spec;
  if (spec->map_count == 0) {
    struct spec_map *map = &spec->maps[0];
    spec->map_count = 1;
    map->span = check->item->name.span;
    check_normalize(check, statements->single[WORD_NORMALIZE], map);
    map->score = default_score(check, statements, terms);
    return;
  }
  static const enum ast_word excluded[] = {WORD_SIMILARITY, WORD_SCALE, WORD_SCORE, WORD_NORMALIZE};
  for (size_t k = 0; k < check->item->statements->list.count; k++) {
    const struct ast_statement *statement = check->item->statements->list.items[k];
    for (size_t n = 0; n < 4; n++)
      if (statement->word == excluded[n]) {
        struct diagnostic *error = check_error(check, DIAG_WITH_MAP, statement->span,
                                               "'%s' does not apply where maps are written",
                                               ast_word_text(statement->word));
        diag_help(check->diagnostics, error, "put it into each map's expression");
      }
  }
  if (terms->similarity != NULL)
    check_error(check, DIAG_WITH_MAP, terms->similarity->span,
                "shaw's key table joins the similarity, which maps do not have");
  for (size_t k = 0; k < check->symbols.count; k++)
    if (check->symbols.items[k].kind == SYMBOL_MAP)
      check_map(check, &check->symbols.items[k], terms);
}

/* ---- weight, value, post ---- */

void check_weight(struct check *check, const struct ast_statement *statement)
{
  struct spec *spec = check->spec;
  spec->weight_kind = WEIGHT_PLAIN;
  spec->weight = expr_map(check->pool, 0);
  if (statement == NULL) {
    for (size_t k = 0; spec->map_count > 1 && k < check->symbols.count; k++)
      if (check->symbols.items[k].kind == SYMBOL_MAP && check->symbols.items[k].index > 0) {
        struct diagnostic *error =
            check_error(check, DIAG_MISSING_STATEMENT, check->symbols.items[k].statement->span,
                        "several maps need a 'weight' statement that combines them");
        diag_help(check->diagnostics, error, "for instance 'weight %s - 0.5 * %s'",
                  spec->maps[0].name, spec->maps[1].name);
        return;
      }
    return;
  }
  const struct ast_expr *ast = check_single(check, statement);
  if (ast == NULL)
    return;
  const struct ast_expr *inner = check_strip(ast);
  if (inner->kind == AST_CALL && check_text_is(inner->call.name.text, "renormalize")) {
    static const char *const names[] = {"e"};
    const struct ast_expr *slot;
    if (!check_bind(check, "renormalize", inner->span, inner->call.arguments, names, 1, 1, &slot))
      return;
    spec->weight_kind = WEIGHT_RENORMALIZE;
    ast = slot;
  }
  const struct expr *weight = check_float(check, CONTEXT_WEIGHT, ast);
  if (weight != NULL)
    spec->weight = weight;
}

void check_value_statement(struct check *check, const struct ast_statement *statement,
                           const struct position_terms *terms)
{
  struct spec *spec = check->spec;
  struct scope scope = check_scope(check, CONTEXT_VALUE);
  const struct expr *channel = expr_variable(check->pool, EXPR_VAR_C);
  const struct ast_expr *ast = statement == NULL ? NULL : check_single(check, statement);
  struct span span = ast == NULL ? check->item->name.span : ast->span;
  struct value value;
  if (ast != NULL)
    value = check_value(check, &scope, ast);
  else
    value = check_name(check, &scope, &(struct ast_name){intern(check->names, "v", 1), span});
  if (value.kind == VALUE_INPUT)
    value = spec->inputs[value.input].rank == 0 ? check_as_scalar(check, value, span)
                                                : check_as_vector(check, value, span);
  if (value.kind == VALUE_VECTOR) {
    if (!expr_is_const(value.length) || value.length->value.i != spec->dim_v) {
      struct diagnostic *error =
          check_error(check, DIAG_LENGTH_MISMATCH, span, "the value has %s channels, v has %u",
                      expr_print(check->arena, value.length, NULL), spec->dim_v);
      diag_help(check->diagnostics, error, "say so with 'dim qk = ..., v = ...'");
      return;
    }
    value = check_scalar_value(check_at_channel(check, value.expr, channel));
  }
  if (value.kind == VALUE_ERROR)
    return;
  spec->value = check_to_type(check, value.expr, EXPR_FLOAT);
  if (terms->value.kind != VALUE_VECTOR)
    return;
  spec->value = add_term(check, spec->value, check_at_channel(check, terms->value.expr, channel));
  spec->value_is_key = false;
}

void check_post(struct check *check, const struct ast_statement *statement)
{
  const struct ast_expr *ast = statement == NULL ? NULL : check_single(check, statement);
  if (ast == NULL)
    return;
  check->spec->post = check_float(check, CONTEXT_POST, ast);
}
