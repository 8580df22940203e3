/* The words and named arguments of statements and functions. */
#include "dsl/check.h"

bool check_bind(struct check *check, const char *what, struct span span,
                const struct ast_arguments *arguments, const char *const *names, size_t count,
                uint32_t required, const struct ast_expr **slots)
{
  bool good = true;
  for (size_t k = 0; k < count; k++)
    slots[k] = NULL;
  for (size_t k = 0; k < arguments->list.count; k++) {
    const struct ast_argument *argument = &arguments->list.items[k];
    size_t slot = k;
    if (argument->name.text != NULL) {
      for (slot = 0; slot < count && !check_text_is(names[slot], argument->name.text); slot++)
        ;
      if (slot == count) {
        struct diagnostic *error =
            check_error(check, DIAG_UNKNOWN_ARGUMENT, argument->name.span,
                        "%s has no argument '%s'", what, argument->name.text);
        check_suggest(check, error, FOREIGN_ARGUMENT, argument->name.text, names, count);
        good = false;
        continue;
      }
    } else if (slot >= count) {
      check_error(check, DIAG_ARGUMENT_COUNT, argument->span, "%s takes %s%zu argument%s", what,
                  count == 0 ? "" : "at most ", count, count == 1 ? "" : "s");
      return false;
    }
    if (slots[slot] != NULL) {
      check_error(check, DIAG_UNKNOWN_ARGUMENT, argument->span, "%s is given '%s' twice", what,
                  names[slot]);
      good = false;
      continue;
    }
    slots[slot] = argument->value;
  }
  for (size_t k = 0; k < count; k++)
    if (good && slots[k] == NULL && (required >> k & 1) != 0) {
      check_error(check, DIAG_MISSING_ARGUMENT, span, "%s needs '%s = ...'", what, names[k]);
      good = false;
    }
  return good;
}

bool check_form(struct check *check, const struct ast_expr *ast, struct ast_name *name,
                const struct ast_arguments **arguments)
{
  if (ast->kind == AST_NAME) {
    *name = ast->name;
    *arguments = ARENA_NEW(check->arena, struct ast_arguments);
    return true;
  }
  if (ast->kind == AST_CALL) {
    *name = ast->call.name;
    *arguments = ast->call.arguments;
    return true;
  }
  return false;
}

static const char *word_list(struct check *check, const char *const *words, size_t count)
{
  const char *list = words[0];
  for (size_t k = 1; k < count; k++)
    list = arena_format(check->arena, "%s%s%s", list, k + 1 == count ? " or " : ", ", words[k]);
  return list;
}

size_t check_word(struct check *check, const struct ast_expr *ast, const char *what,
                  const char *const *words, size_t count)
{
  struct ast_name name = {0};
  const struct ast_arguments *arguments;
  if (check_form(check, ast, &name, &arguments))
    for (size_t k = 0; k < count; k++)
      if (check_text_is(words[k], name.text))
        return k;
  struct diagnostic *error;
  if (name.text != NULL)
    error =
        check_error(check, DIAG_UNKNOWN_OPTION, ast->span, "%s cannot be '%s'", what, name.text);
  else
    error = check_error(check, DIAG_UNKNOWN_OPTION, ast->span, "%s is one of a few words", what);
  if (name.text != NULL)
    check_suggest(check, error, FOREIGN_OPTION, name.text, words, count);
  if (error->help == NULL)
    diag_help(check->diagnostics, error, "write %s", word_list(check, words, count));
  return count;
}

const struct ast_expr *check_single(struct check *check, const struct ast_statement *statement)
{
  const char *word = ast_word_text(statement->word);
  if (statement->arguments->list.count == 0) {
    check_error(check, DIAG_ARGUMENT_COUNT, statement->word_span, "'%s' needs an expression", word);
    return NULL;
  }
  const struct ast_argument *first = &statement->arguments->list.items[0];
  if (first->name.text != NULL) {
    struct diagnostic *error = check_error(check, DIAG_UNKNOWN_ARGUMENT, first->name.span,
                                           "'%s' has no argument '%s'", word, first->name.text);
    check_suggest(check, error, FOREIGN_ARGUMENT, first->name.text, NULL, 0);
    if (error->help == NULL)
      diag_help(check->diagnostics, error,
                "the expression stands alone: %s ...; equality is written '=='", word);
    return NULL;
  }
  if (statement->arguments->list.count > 1) {
    struct diagnostic *error =
        check_error(check, DIAG_ARGUMENT_COUNT, statement->arguments->list.items[1].span,
                    "'%s' takes one expression", word);
    if (statement->word == WORD_MASK)
      diag_help(check->diagnostics, error,
                "join conditions with 'and', or write a second mask statement");
    return NULL;
  }
  return first->value;
}
