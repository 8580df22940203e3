/* Parameters, heads, dim, type, inputs and align: everything that sizes come from. */
#include "dsl/check.h"

#include <errno.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_HEADS = 65536, MAX_DIM = 65536 };

/* ---- parameters ---- */

static bool parse_int(const char *text, int64_t *value)
{
  char *end;
  errno = 0;
  long long parsed = strtoll(text, &end, strncmp(text, "0x", 2) == 0 ? 16 : 10);
  *value = parsed;
  return end != text && *end == '\0' && errno == 0 && parsed >= INT32_MIN && parsed <= INT32_MAX;
}

static bool parse_float(struct check *check, const char *text, double *value)
{
  const char *point = localeconv()->decimal_point, *dot = strchr(text, '.');
  if (dot != NULL)
    text = arena_format(check->arena, "%.*s%s%s", (int)(dot - text), text, point, dot + 1);
  char *end;
  *value = strtod(text, &end);
  return end != text && *end == '\0';
}

/* --set NAME=VALUE for this parameter. */
static bool apply_set(struct check *check, struct spec_param *param)
{
  bool good = true;
  for (size_t k = 0; check->options != NULL && k < check->options->set_count; k++) {
    const struct spec_set *set = &check->options->sets[k];
    if (strcmp(set->name, param->name) != 0)
      continue;
    check->set_used[k] = true;
    bool parsed;
    if (param->type == EXPR_INT) {
      parsed = parse_int(set->value, &param->value.i);
    } else if (param->type == EXPR_FLOAT) {
      parsed = parse_float(check, set->value, &param->value.f);
    } else {
      parsed = strcmp(set->value, "true") == 0 || strcmp(set->value, "false") == 0;
      param->value.i = strcmp(set->value, "true") == 0;
    }
    param->has_default = true;
    if (!parsed) {
      check_error(check, DIAG_BAD_SET, param->span, "--set %s=%s: the parameter is of type %s",
                  set->name, set->value, expr_type_name(param->type));
      good = false;
    }
  }
  return good;
}

static bool default_value(struct check *check, struct spec_param *param, const struct ast_expr *ast)
{
  struct scope scope = check_scope(check, CONTEXT_CONSTANT);
  const struct expr *e = check_scalar(check, &scope, ast);
  if (e == NULL)
    return false;
  if (!expr_is_const(e)) {
    check_error(check, DIAG_NOT_CONSTANT, ast->span, "the default of '%s' must be a constant",
                param->name);
    return false;
  }
  if (e->type == EXPR_FLOAT && param->type != EXPR_FLOAT) {
    struct diagnostic *error = check_error(check, DIAG_TYPE_MISMATCH, ast->span,
                                           "'%s' is of type %s, its default is a float",
                                           param->name, expr_type_name(param->type));
    diag_help(check->diagnostics, error, "write %s: float", param->name);
    return false;
  }
  if (param->type == EXPR_BOOL && e->type != EXPR_BOOL) {
    struct diagnostic *error =
        check_error(check, DIAG_TYPE_MISMATCH, ast->span,
                    "'%s' is of type bool, its default is an int", param->name);
    diag_help(check->diagnostics, error, "write true or false");
    return false;
  }
  e = check_to_type(check, e, param->type);
  if (param->type == EXPR_FLOAT)
    param->value.f = e->value.f;
  else
    param->value.i = e->value.i;
  param->has_default = true;
  return true;
}

static bool param_type(struct check *check, const struct ast_param *ast, struct spec_param *param)
{
  static const char *const types[] = {"bool", "int", "float"};
  static const enum expr_type made[] = {EXPR_BOOL, EXPR_INT, EXPR_FLOAT};
  for (size_t k = 0; k < 3; k++)
    if (strcmp(ast->type.text, types[k]) == 0) {
      param->type = made[k];
      return true;
    }
  struct diagnostic *error = check_error(check, DIAG_UNKNOWN_TYPE, ast->type.span,
                                         "there is no parameter type '%s'", ast->type.text);
  check_suggest(check, error, FOREIGN_OPTION, ast->type.text, types, 3);
  if (error->help == NULL)
    diag_help(check->diagnostics, error,
              "parameters are int, float or bool; tensors are declared by 'input'");
  return false;
}

static void check_param(struct check *check, const struct ast_param *ast)
{
  struct spec *spec = check->spec;
  if (ast->qualifier.text != NULL && strcmp(ast->qualifier.text, "const") != 0) {
    struct diagnostic *error = check_error(check, DIAG_UNKNOWN_OPTION, ast->qualifier.span,
                                           "a parameter cannot be '%s'", ast->qualifier.text);
    diag_help(check->diagnostics, error, "only 'const' can stand before its name");
  }
  if (spec->param_count >= SPEC_MAX_PARAMS) {
    check_error(check, DIAG_TOO_COMPLEX, ast->span, "more than %d parameters", SPEC_MAX_PARAMS);
    return;
  }
  struct spec_param param = {.name = ast->name.text,
                             .type = EXPR_INT,
                             .is_const = ast->qualifier.text != NULL,
                             .span = ast->name.span};
  bool good = param_type(check, ast, &param);
  if (good && ast->value != NULL)
    good = default_value(check, &param, ast->value);
  if (good)
    good = apply_set(check, &param);
  if (good && param.is_const && !param.has_default) {
    struct diagnostic *error = check_error(check, DIAG_MISSING_ARGUMENT, ast->span,
                                           "const parameter '%s' has no value", param.name);
    diag_help(check->diagnostics, error, "give it one, '= ...', or pass --set %s=...", param.name);
    good = false;
  }
  spec->params[spec->param_count] = param;
  if (check_declare(check, (struct symbol){.kind = SYMBOL_PARAM,
                                           .name = ast->name,
                                           .index = spec->param_count,
                                           .ready = good}))
    spec->param_count++;
}

void check_params(struct check *check)
{
  for (size_t k = 0; check->item->params != NULL && k < check->item->params->list.count; k++)
    check_param(check, &check->item->params->list.items[k]);
}

/* ---- heads, dim, type ---- */

/* `WORD n` or `WORD a = n, b = m`. */
static bool one_or_two(struct check *check, const struct ast_statement *statement,
                       const char *const names[2], const char *const whats[2], int64_t most,
                       int64_t values[2], struct span spans[2])
{
  const struct ast_arguments *arguments = statement->arguments;
  if (arguments->list.count == 1 && arguments->list.items[0].name.text == NULL) {
    spans[0] = spans[1] = arguments->list.items[0].span;
    bool good =
        check_constant(check, arguments->list.items[0].value, whats[0], 1, most, &values[0]);
    values[1] = values[0];
    return good;
  }
  const struct ast_expr *slots[2];
  if (!check_bind(check, ast_word_text(statement->word), statement->word_span, arguments, names, 2,
                  3, slots))
    return false;
  bool good = true;
  for (int k = 0; k < 2; k++) {
    spans[k] = slots[k]->span;
    good = check_constant(check, slots[k], whats[k], 1, most, &values[k]) && good;
  }
  return good;
}

static void missing(struct check *check, const char *word, const char *example)
{
  if (check->incomplete)
    return;
  struct diagnostic *error =
      check_error(check, DIAG_MISSING_STATEMENT, check->item->name.span,
                  "attention '%s' needs a '%s' statement", check->item->name.text, word);
  diag_help(check->diagnostics, error, "for instance '%s'", example);
}

void check_heads(struct check *check, const struct ast_statement *statement)
{
  static const char *const names[] = {"q", "kv"};
  static const char *const whats[] = {"the number of query heads", "the number of K/V heads"};
  struct spec *spec = check->spec;
  int64_t values[2];
  struct span spans[2];
  spec->query_heads = spec->kv_heads = 1; /* after an error, to go on with */
  if (statement == NULL) {
    missing(check, "heads", "heads 16");
    return;
  }
  if (!one_or_two(check, statement, names, whats, MAX_HEADS, values, spans))
    return;
  if (values[0] % values[1] != 0) {
    struct diagnostic *error = check_error(check, DIAG_HEADS_DIVIDE, spans[1],
                                           "%lld K/V heads do not divide %lld query heads",
                                           (long long)values[1], (long long)values[0]);
    diag_help(check->diagnostics, error, "every K/V head serves H // G query heads");
    return;
  }
  spec->query_heads = (uint32_t)values[0];
  spec->kv_heads = (uint32_t)values[1];
}

/* `value k` or `value k[a:b]`: the value is a slice of the key. */
static bool value_slice(struct check *check, const struct ast_statement *statement, int64_t *from,
                        int64_t *count)
{
  if (statement == NULL || statement->arguments->list.count != 1 ||
      statement->arguments->list.items[0].name.text != NULL)
    return false;
  const struct ast_expr *ast = check_strip(statement->arguments->list.items[0].value);
  *from = 0;
  *count = check->spec->dim_qk;
  if (ast->kind == AST_NAME)
    return check_builtin(ast->name.text) == BUILTIN_K;
  if (ast->kind != AST_INDEX || ast->index.base->kind != AST_NAME ||
      check_builtin(ast->index.base->name.text) != BUILTIN_K ||
      ast->index.indices->list.count != 1 || ast->index.indices->list.items[0]->kind != AST_SLICE)
    return false;
  const struct ast_expr *slice = ast->index.indices->list.items[0];
  int64_t low, high;
  if (!check_constant(check, slice->slice.low, "a slice bound", 0, check->spec->dim_qk, &low) ||
      !check_constant(check, slice->slice.high, "a slice bound", 0, check->spec->dim_qk, &high) ||
      low >= high)
    return false; /* an empty slice is reported where the value is checked */
  *from = low;
  *count = high - low;
  return true;
}

void check_dim(struct check *check, const struct ast_statement *statement,
               const struct ast_statement *value)
{
  static const char *const names[] = {"qk", "v"};
  static const char *const whats[] = {"the number of channels of q and k",
                                      "the number of channels of v"};
  struct spec *spec = check->spec;
  int64_t values[2], from, count;
  struct span spans[2];
  spec->dim_qk = spec->dim_v = 64; /* after an error, to go on with */
  if (statement == NULL) {
    missing(check, "dim", "dim 128");
    return;
  }
  if (!one_or_two(check, statement, names, whats, MAX_DIM, values, spans))
    return;
  spec->dim_qk = (uint32_t)values[0];
  spec->dim_v = (uint32_t)values[1];
  if (!value_slice(check, value, &from, &count))
    return;
  spec->value_is_key = true;
  spec->value_from = (uint32_t)from;
  bool written = statement->arguments->list.count == 2;
  if (written && count != values[1]) {
    struct diagnostic *error = check_error(check, DIAG_LENGTH_MISMATCH, value->span,
                                           "this value has %lld channels, dim says v = %lld",
                                           (long long)count, (long long)values[1]);
    diag_related(check->diagnostics, error, spans[1], "declared here");
  }
  spec->dim_v = (uint32_t)count;
}

enum dtype check_dtype(const char *name)
{
  static const enum dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_I32,
                                     DTYPE_I64, DTYPE_U8,  DTYPE_BOOL, DTYPE_SPEC};
  for (size_t k = 0; k < sizeof(types) / sizeof(types[0]); k++)
    if (strcmp(dtype_name(types[k]), name) == 0)
      return types[k];
  return DTYPE_COUNT;
}

void check_type(struct check *check, const struct ast_statement *statement)
{
  static const char *const words[] = {"f32", "f16", "bf16"};
  static const enum dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_ANY};
  check->spec->type = DTYPE_ANY;
  if (statement == NULL)
    return;
  const struct ast_expr *ast = check_single(check, statement);
  if (ast != NULL)
    check->spec->type = types[check_word(check, ast, "the type", words, 3)];
}

/* ---- inputs ---- */

static enum dim_kind dim_kind(const struct ast_expr *ast)
{
  ast = check_strip(ast);
  if (ast->kind != AST_NAME)
    return DIM_EXPR;
  switch ((int)check_builtin(ast->name.text)) {
  case BUILTIN_SIZE_B: return DIM_B;
  case BUILTIN_SIZE_H: return DIM_H;
  case BUILTIN_SIZE_G: return DIM_G;
  case BUILTIN_SIZE_NQ: return DIM_NQ;
  case BUILTIN_SIZE_NK: return DIM_NK;
  case BUILTIN_SIZE_D: return DIM_D;
  case BUILTIN_SIZE_DV: return DIM_DV;
  default: /* no size, or no built-in at all */ return DIM_EXPR;
  }
}

static bool check_dims(struct check *check, const struct ast_statement *statement,
                       struct spec_input *input)
{
  struct scope scope = check_scope(check, CONTEXT_DIMS);
  size_t rank = statement->dims == NULL ? 0 : statement->dims->list.count;
  if (rank > SPEC_MAX_RANK) {
    check_error(check, DIAG_TOO_COMPLEX, statement->dims->list.items[SPEC_MAX_RANK]->span,
                "an input has at most %d dimensions", SPEC_MAX_RANK);
    return false;
  }
  bool good = true;
  for (size_t k = 0; k < rank; k++) {
    const struct ast_expr *ast = statement->dims->list.items[k];
    const struct expr *size = check_int(check, &scope, ast, "a dimension");
    if (size == NULL) {
      good = false;
      continue;
    }
    if (expr_is_const(size) && size->value.i < 0) {
      check_error(check, DIAG_BAD_VALUE, ast->span, "a dimension of %lld elements",
                  (long long)size->value.i);
      good = false;
    }
    input->dims[k] = (struct spec_dim){dim_kind(ast), size, ast->span};
  }
  input->rank = (uint32_t)rank;
  return good;
}

void check_input(struct check *check, struct symbol *symbol)
{
  static const char *const type_words[] = {"f32", "f16", "bf16", "i32",
                                           "i64", "u8",  "bool", "type"};
  static const char *const flag_words[] = {"grad", "cached"};
  const struct ast_statement *statement = symbol->statement;
  struct spec_input *input = &check->spec->inputs[symbol->index];
  input->name = symbol->name.text;
  input->span = statement->name.span;
  bool good = true;
  input->type = check_dtype(statement->type.text);
  if (input->type == DTYPE_COUNT) {
    struct diagnostic *error = check_error(check, DIAG_UNKNOWN_TYPE, statement->type.span,
                                           "there is no type '%s'", statement->type.text);
    check_suggest(check, error, FOREIGN_OPTION, statement->type.text, type_words, 8);
    if (error->help == NULL)
      diag_help(check->diagnostics, error, "write f32, f16, bf16, i32, i64, u8, bool or type");
    input->type = DTYPE_F32;
    good = false;
  }
  good = check_dims(check, statement, input) && good;
  for (size_t k = 0; k < statement->flags->list.count; k++) {
    const struct ast_name *flag = &statement->flags->list.items[k];
    if (strcmp(flag->text, "grad") == 0) {
      input->grad = true;
    } else if (strcmp(flag->text, "cached") == 0) {
      input->cached = true;
    } else {
      struct diagnostic *error = check_error(check, DIAG_UNKNOWN_OPTION, flag->span,
                                             "an input cannot be '%s'", flag->text);
      check_suggest(check, error, FOREIGN_OPTION, flag->text, flag_words, 2);
      good = false;
    }
  }
  bool is_float = input->type == DTYPE_F32 || input->type == DTYPE_F16 ||
                  input->type == DTYPE_BF16 || input->type == DTYPE_SPEC;
  if (input->grad && !is_float) {
    check_error(check, DIAG_TYPE_MISMATCH, statement->type.span,
                "an input of type %s has no gradient", dtype_name(input->type));
    good = false;
  }
  bool has_keys = false;
  for (uint32_t k = 0; k < input->rank; k++)
    has_keys = has_keys || input->dims[k].kind == DIM_NK;
  if (input->cached && !has_keys && good) {
    check_error(check, DIAG_BAD_VALUE, statement->span,
                "a cached input needs an NK dimension: it is kept per key");
    good = false;
  }
  symbol->ready = good;
}

void check_align(struct check *check, const struct ast_statement *statement)
{
  struct spec *spec = check->spec;
  const struct expr *nq = expr_variable(check->pool, EXPR_VAR_SIZE_NQ);
  const struct expr *nk = expr_variable(check->pool, EXPR_VAR_SIZE_NK);
  spec->align = ALIGN_END;
  spec->offset = expr_sub(check->pool, nk, nq);
  if (statement == NULL)
    return;
  const struct ast_expr *ast = check_single(check, statement);
  if (ast == NULL)
    return;
  const char *word = ast->kind == AST_NAME ? ast->name.text : "";
  if (strcmp(word, "end") == 0)
    return;
  if (strcmp(word, "start") == 0) {
    spec->align = ALIGN_START;
    spec->offset = expr_int(check->pool, 0);
    return;
  }
  struct scope scope = check_scope(check, CONTEXT_ALIGN);
  const struct expr *offset = check_int(check, &scope, ast, "an offset");
  if (offset == NULL)
    return;
  spec->align = ALIGN_EXPR;
  spec->offset = offset;
}
