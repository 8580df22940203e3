#include "dsl/parse.h"

#include "dsl/foreign.h"

#include <string.h>

const char *parse_spelling(const struct parser *parser, const struct token *token)
{
  enum { SHOWN = 40 };
  const struct source *source = &parser->diagnostics->sources->sources.items[token->span.source];
  size_t length = token->span.end - token->span.begin;
  if (length == 0)
    return token_kind_text(token->kind);
  if (length > SHOWN)
    return arena_format(parser->arena, "'%s...'",
                        arena_strndup(parser->arena, source->text + token->span.begin, SHOWN));
  return arena_format(parser->arena, "'%s'",
                      arena_strndup(parser->arena, source->text + token->span.begin, length));
}

/* Whether an expression must follow: nothing that is written so far can be left as it stands. */
static bool wants_expression(enum token_kind kind)
{
  switch (kind) {
  case TOKEN_LPAREN:
  case TOKEN_LBRACKET:
  case TOKEN_ASSIGN:
  case TOKEN_PLUS:
  case TOKEN_MINUS:
  case TOKEN_STAR:
  case TOKEN_SLASH:
  case TOKEN_SLASHSLASH:
  case TOKEN_PERCENT:
  case TOKEN_STARSTAR:
  case TOKEN_AT:
  case TOKEN_LT:
  case TOKEN_LE:
  case TOKEN_GT:
  case TOKEN_GE:
  case TOKEN_EQ:
  case TOKEN_NE:
  case TOKEN_AND:
  case TOKEN_OR:
  case TOKEN_NOT:
  case TOKEN_IF:
  case TOKEN_ELSE:
  case TOKEN_COMMA: return true;
  case TOKEN_END_OF_FILE:
  case TOKEN_END:
  case TOKEN_NAME:
  case TOKEN_INT:
  case TOKEN_FLOAT:
  case TOKEN_STRING:
  case TOKEN_TRUE:
  case TOKEN_FALSE:
  case TOKEN_SUM:
  case TOKEN_ANY:
  case TOKEN_ALL:
  case TOKEN_WORD:
  case TOKEN_INPUT:
  case TOKEN_LET:
  case TOKEN_MAP:
  case TOKEN_STATE:
  case TOKEN_ATTENTION:
  case TOKEN_RECURRENCE:
  case TOKEN_FN:
  case TOKEN_IMPORT:
  case TOKEN_RPAREN:
  case TOKEN_RBRACKET:
  case TOKEN_LBRACE:
  case TOKEN_RBRACE:
  case TOKEN_COLON:
  case TOKEN_NEWLINE:
  case TOKEN_COMMENT:
  case TOKEN_KIND_COUNT: break;
  }
  return false;
}

/* A statement word that was read as an operand, because the line before it ends with an operator.
 */
static bool continues_by_mistake(const struct token *tokens, size_t at)
{
  if (at < 2 || tokens[at - 1].kind != TOKEN_NAME || !wants_expression(tokens[at - 2].kind))
    return false;
  for (enum ast_word word = 0; word < WORD_COUNT; word++)
    if (strcmp(tokens[at - 1].text, ast_word_text(word)) == 0)
      return true;
  return false;
}

static bool among(const enum token_kind *kinds, size_t count, enum token_kind kind)
{
  for (size_t k = 0; k < count; k++)
    if (kinds[k] == kind)
      return true;
  return false;
}

/* What is written from a token to the end of its statement, or "..." if that is long. */
static const char *rest_text(struct parser *parser, const struct token *from)
{
  enum { SHOWN = 60 };
  const struct source *source = &parser->diagnostics->sources->sources.items[from->span.source];
  const struct token *last = from;
  while (last->kind != TOKEN_END && last->kind != TOKEN_END_OF_FILE)
    last++;
  size_t length = last->span.begin > from->span.begin ? last->span.begin - from->span.begin : 0;
  const char *text = source->text + from->span.begin;
  if (length == 0 || length > SHOWN || memchr(text, '\n', length) != NULL)
    return "...";
  return arena_strndup(parser->arena, text, length);
}

/* What a statement word is followed by where there should be an expression: scale = 0.1,
 * score + bias[...], mask { ... }. */
static const char *after_word(struct parser *parser, const struct token *word,
                              const struct token *found)
{
  const char *text = ast_word_text(word->word);
  if (found->kind == TOKEN_ASSIGN || found->kind == TOKEN_COLON)
    return arena_format(parser->arena, "leave out %s: write %s %s", parse_spelling(parser, found),
                        text, rest_text(parser, found + 1));
  if (found->kind == TOKEN_LBRACE)
    return arena_format(parser->arena, "a statement has no braces: write %s ...", text);
  const char *before = word->word == WORD_SCORE    ? "s"
                       : word->word == WORD_WEIGHT ? "w"
                       : word->word == WORD_POST   ? "o[c]"
                                                   : NULL;
  if (before != NULL && found->kind >= TOKEN_PLUS && found->kind <= TOKEN_STARSTAR)
    return arena_format(parser->arena, "what was before is called %s: write %s %s %s", before, text,
                        before, rest_text(parser, found));
  return NULL;
}

/* What to type instead, where the tokens about the one that was found tell; or NULL. */
static const char *remedy(struct parser *parser, const struct token *tokens, size_t at,
                          const enum token_kind *expected, size_t expected_count)
{
  const struct token *found = &tokens[at];
  const struct token *before = at > 0 ? &tokens[at - 1] : NULL;
  const struct token *near[] = {found, before};
  for (size_t k = 0; k < 2; k++)
    if (near[k] != NULL && near[k]->kind == TOKEN_NAME) {
      const char *advice = foreign_advice(FOREIGN_KEYWORD, near[k]->text, strlen(near[k]->text));
      if (advice != NULL)
        return advice;
    }
  if (found->kind == TOKEN_STRING) {
    const char *advice = foreign_advice(FOREIGN_TEXT, found->text, strlen(found->text));
    return advice != NULL
               ? advice
               : arena_format(parser->arena, "write %s; only imports have quotes", found->text);
  }
  if (found->kind == TOKEN_AT && (before == NULL || before->kind == TOKEN_END))
    return "leave it out: every attention of a file is compiled";
  if (before == NULL)
    return NULL;
  if (before->kind == TOKEN_IMPORT)
    return "leave it out: functions are built in; import \"file.attn\" reads the fns of a file";
  if (found->kind == TOKEN_IF && (before->kind == TOKEN_WORD || wants_expression(before->kind)))
    return "write x if condition else y";
  if (before->kind == TOKEN_WORD)
    return after_word(parser, before, found);
  if (among(expected, expected_count, TOKEN_ELSE))
    return "every 'if' has an 'else': x if condition else y";
  if (among(expected, expected_count, TOKEN_LBRACE))
    return "the statements stand in braces: attention NAME { ... }";
  if (found->kind == TOKEN_SUM || found->kind == TOKEN_ANY || found->kind == TOKEN_ALL)
    return arena_format(parser->arena, "put %s(...) and what it takes in parentheses",
                        parse_spelling(parser, found));
  if ((found->kind == TOKEN_COLON &&
       (before->kind == TOKEN_LBRACKET || before->kind == TOKEN_COMMA)) ||
      (found->kind == TOKEN_RBRACKET && before->kind == TOKEN_COLON))
    return "a slice of a vector has both bounds, q[0:32]; any other index is one element, x[b, j]";
  if (at >= 4 && before->kind == TOKEN_RPAREN && tokens[at - 3].kind == TOKEN_LPAREN &&
      tokens[at - 4].kind == TOKEN_SUM)
    return "a sum names what runs and then what is summed: sum(c) q[c] * k[c]";
  if (at >= 4 && before->kind == TOKEN_RPAREN && tokens[at - 3].kind == TOKEN_LPAREN &&
      tokens[at - 4].kind == TOKEN_NAME)
    return foreign_advice(FOREIGN_COUNT, tokens[at - 4].text, strlen(tokens[at - 4].text));
  if (found->kind == TOKEN_ASSIGN && before->kind == TOKEN_NAME &&
      among(expected, expected_count, TOKEN_COLON))
    return arena_format(parser->arena,
                        among(expected, expected_count, TOKEN_NAME)
                            ? "a parameter says its type: %s: int = ..., or float, or bool"
                            : "a tensor says its type: %s : f32[B, NK]",
                        before->text);
  if (found->kind == TOKEN_ASSIGN && !among(expected, expected_count, TOKEN_NAME))
    return "equality is written '=='";
  if (found->kind == TOKEN_EQ && among(expected, expected_count, TOKEN_ASSIGN))
    return "what is declared follows one '='";
  if ((found->kind == TOKEN_NAME || found->kind == TOKEN_INT || found->kind == TOKEN_FLOAT) &&
      among(expected, expected_count, TOKEN_END))
    return "there is one statement a line; a comma or an operator goes on with the one before";
  return NULL;
}

void parse_report_unexpected(struct parser *parser, const enum token_kind *expected,
                             size_t expected_count)
{
  const struct token *tokens = parser->list->tokens.items;
  size_t at = parser->last;
  const struct token *found = &tokens[at];
  const struct token *before = at > 0 ? &tokens[at - 1] : NULL;
  struct arena *arena = parser->arena;
  struct span span = found->span;
  const char *after =
      before == NULL ? "" : arena_format(arena, " after %s", parse_spelling(parser, before));
  const char *found_text = parse_spelling(parser, found);
  const char *help = remedy(parser, tokens, at, expected, expected_count);
  struct diagnostic *error;

  if (continues_by_mistake(tokens, at)) {
    error = diag_report(parser->diagnostics, DIAG_SYNTAX, tokens[at - 2].span,
                        "expected an expression after %s", parse_spelling(parser, &tokens[at - 2]));
    help = "a statement goes on after a line that ends with an operator";
  } else if (before != NULL && before->kind == TOKEN_WORD) {
    error = diag_report(parser->diagnostics, DIAG_SYNTAX, span,
                        "expected an expression%s, found %s", after, found_text);
  } else if (expected_count == 1 && expected[0] == TOKEN_NAME) {
    error = diag_report(parser->diagnostics, DIAG_SYNTAX, span, "expected a name%s, found %s",
                        after, found_text);
    if (found->kind == TOKEN_IF || found->kind == TOKEN_ELSE || found->kind == TOKEN_AND ||
        found->kind == TOKEN_OR || found->kind == TOKEN_NOT)
      help = arena_format(arena, "%s is a word of the language", found_text);
  } else if (before != NULL && expected_count == 0 && wants_expression(before->kind)) {
    error = diag_report(parser->diagnostics, DIAG_SYNTAX, span,
                        "expected an expression%s, found %s", after, found_text);
  } else if (expected_count != 0) {
    const char *list = token_kind_text(expected[0]);
    for (size_t k = 1; k < expected_count; k++)
      list = arena_format(arena, "%s%s%s", list, k + 1 == expected_count ? " or " : ", ",
                          token_kind_text(expected[k]));
    error = diag_report(parser->diagnostics, DIAG_SYNTAX, span, "expected %s%s, found %s", list,
                        after, found_text);
  } else {
    error =
        diag_report(parser->diagnostics, DIAG_SYNTAX, span, "unexpected %s%s", found_text, after);
  }
  if (help != NULL)
    diag_help(parser->diagnostics, error, "%s", help);
}

struct ast_expr *parse_expr(struct parser *parser, struct ast_expr node)
{
  struct ast_expr *made = ast_expr_new(parser->arena, node);
  if (made->depth > AST_MAX_DEPTH || made->chain > AST_MAX_CHAIN) {
    if (!parser->too_complex) {
      struct diagnostic *error =
          diag_report(parser->diagnostics, DIAG_TOO_COMPLEX, node.span, "this expression is %s",
                      made->depth > AST_MAX_DEPTH ? "nested too deeply" : "too long");
      diag_help(parser->diagnostics, error, "split it with 'let' or 'fn'");
    }
    parser->too_complex = true;
    return ast_expr_new(parser->arena, (struct ast_expr){.kind = AST_BOOL, .span = node.span});
  }
  return made;
}

struct ast_file *parse_source(struct arena *arena, struct interner *names, uint32_t source,
                              struct diagnostics *diagnostics)
{
  struct parser parser = {.arena = arena, .diagnostics = diagnostics};
  parser.file = ARENA_NEW(arena, struct ast_file);
  parser.file->source = source;
  parser.list = tokenize(arena, names, source, diagnostics);
  dsl_parse(&parser);
  /* A tree with a hole in it has no meaning worth checking; the parse has reported why. */
  if (parser.too_complex)
    parser.file->items.count = 0;
  return parser.file;
}
