/* The rules about lines, between the scanner and the grammar. */
#include "dsl/tokens.h"

#include "dsl/foreign.h"

#include <string.h>

enum { MAX_TOKENS = 1 << 20, MAX_BRACKETS = AST_MAX_DEPTH };

struct open_bracket {
  enum token_kind closer;
  struct span span;
};

struct filter {
  struct arena *arena;
  struct diagnostics *diagnostics;
  struct scan *scan;
  struct token_list *list;
  struct open_bracket brackets[MAX_BRACKETS];
  size_t bracket_count;
  size_t braces;         /* open { */
  struct span brace;     /* the outermost of them */
  size_t statement;      /* index of the current statement's first token */
  bool dropping;         /* the current statement has had its error: it will be left out */
  size_t dropped_braces; /* { inside what is being left out */
  bool newline;          /* since the last token */
  bool stopped;
};

const char *token_kind_text(enum token_kind kind)
{
  static const char *const texts[] = {
#define TOKEN(name, text) text,
#include "dsl/tokens.def"
#undef TOKEN
      "a new line", "a comment"};
  return texts[kind];
}

static bool is_closer(enum token_kind kind)
{
  return kind == TOKEN_RPAREN || kind == TOKEN_RBRACKET;
}

/* Operators that need something before them and something after: a line cannot start with one. */
static bool is_joining(enum token_kind kind)
{
  return (kind >= TOKEN_COMMA && kind <= TOKEN_NE) || kind == TOKEN_AND || kind == TOKEN_OR ||
         kind == TOKEN_IF || kind == TOKEN_ELSE;
}

static const struct token *last_token(const struct filter *filter)
{
  return filter->list->tokens.count == 0
             ? NULL
             : &filter->list->tokens.items[filter->list->tokens.count - 1];
}

static bool at_statement_start(const struct filter *filter)
{
  return filter->list->tokens.count == filter->statement && !filter->dropping;
}

static void emit(struct filter *filter, struct token token)
{
  vector_push(filter->arena, &filter->list->tokens, token);
}

static void emit_mark(struct filter *filter, enum token_kind kind)
{
  const struct token *last = last_token(filter);
  uint32_t at = last == NULL ? 0 : last->span.end;
  emit(filter, (struct token){.kind = kind, .span = {filter->scan->source, at, at}});
}

static void end_statement(struct filter *filter)
{
  if (filter->dropping)
    filter->list->tokens.count = filter->statement;
  else if (filter->list->tokens.count > filter->statement)
    emit_mark(filter, TOKEN_END);
  filter->dropping = false;
  filter->scan->quiet = false;
  filter->bracket_count = 0;
  filter->statement = filter->list->tokens.count;
}

static void report_unclosed(struct filter *filter)
{
  const struct open_bracket *open = &filter->brackets[filter->bracket_count - 1];
  struct diagnostic *error = diag_report(filter->diagnostics, DIAG_UNCLOSED_BRACKET, open->span,
                                         "this bracket is never closed");
  diag_help(filter->diagnostics, error,
            "a newline inside brackets does not end the statement; add the %s that is missing",
            token_kind_text(open->closer));
}

static const char *const item_words[] = {"attention", "recurrence", "fn", "import"};
static const enum token_kind item_kinds[] = {TOKEN_ATTENTION, TOKEN_RECURRENCE, TOKEN_FN,
                                             TOKEN_IMPORT};

static bool classify_item(struct token *token)
{
  for (size_t k = 0; k < 4; k++)
    if (strcmp(token->text, item_words[k]) == 0) {
      token->kind = item_kinds[k];
      return true;
    }
  return false;
}

static bool classify_statement(struct token *token)
{
  for (enum ast_word word = 0; word < WORD_COUNT; word++)
    if (strcmp(token->text, ast_word_text(word)) == 0) {
      token->word = word;
      token->kind = word == WORD_INPUT   ? TOKEN_INPUT
                    : word == WORD_LET   ? TOKEN_LET
                    : word == WORD_MAP   ? TOKEN_MAP
                    : word == WORD_STATE ? TOKEN_STATE
                                         : TOKEN_WORD;
      return true;
    }
  return false;
}

/* Leaves out the rest of the line, whatever it holds. */
static void drop_line(struct filter *filter)
{
  filter->dropping = true;
  filter->scan->quiet = true;
}

/* The first token of a statement or item: settles which it is. */
static void begin_statement(struct filter *filter, struct token *token)
{
  if (token->kind == TOKEN_SLASHSLASH) {
    struct diagnostic *error =
        diag_report(filter->diagnostics, DIAG_LINE_STARTS_WITH_OPERATOR, token->span,
                    "a line cannot start with %s", token_kind_text(token->kind));
    diag_help(filter->diagnostics, error, "%s", foreign_advice(FOREIGN_SIGN, "//", 2));
    drop_line(filter);
    return;
  }
  if (token->kind != TOKEN_NAME)
    return;
  if (filter->braces == 0) {
    if (classify_item(token))
      return;
    struct diagnostic *error =
        diag_report(filter->diagnostics, DIAG_UNKNOWN_ITEM, token->span,
                    "expected 'attention', 'fn' or 'import', found '%s'", token->text);
    foreign_suggest(filter->diagnostics, error, FOREIGN_ITEM, token->text, item_words, 4);
    if (error->help == NULL)
      diag_help(filter->diagnostics, error, "statements stand inside 'attention NAME { ... }'");
    drop_line(filter);
    return;
  }
  if (classify_statement(token))
    return;
  const char *words[WORD_COUNT];
  for (enum ast_word word = 0; word < WORD_COUNT; word++)
    words[word] = ast_word_text(word);
  struct diagnostic *error = diag_report(filter->diagnostics, DIAG_UNKNOWN_STATEMENT, token->span,
                                         "unknown statement '%s'", token->text);
  foreign_suggest(filter->diagnostics, error, FOREIGN_STATEMENT, token->text, words, WORD_COUNT);
  if (error->help == NULL)
    diag_help(filter->diagnostics, error, "a name is given to an expression by 'let %s = ...'",
              token->text);
  drop_line(filter);
}

/* An `attention` at the start of a line inside a body: its } is missing. */
static void close_forgotten_body(struct filter *filter, const struct token *token)
{
  struct token copy = *token;
  if (filter->braces == 0 || token->kind != TOKEN_NAME || !classify_item(&copy) ||
      copy.kind == TOKEN_IMPORT)
    return;
  diag_report(filter->diagnostics, DIAG_UNCLOSED_BODY, filter->brace, "this '{' is never closed");
  emit_mark(filter, TOKEN_RBRACE);
  emit_mark(filter, TOKEN_END);
  filter->braces = 0;
  filter->statement = filter->list->tokens.count;
}

static void newline_rule(struct filter *filter, const struct token *token)
{
  const struct token *last = last_token(filter);
  bool inside = filter->list->tokens.count > filter->statement || filter->dropping;
  if (!filter->newline || !inside || filter->bracket_count > 0 || filter->dropped_braces > 0)
    return;
  if (!filter->dropping && (is_joining(last->kind) || last->kind == TOKEN_NOT))
    return;
  if (!filter->dropping && is_joining(token->kind) && token->kind != TOKEN_SLASHSLASH) {
    struct diagnostic *error =
        diag_report(filter->diagnostics, DIAG_LINE_STARTS_WITH_OPERATOR, token->span,
                    "a line cannot start with %s", token_kind_text(token->kind));
    diag_help(filter->diagnostics, error, "move %s to the end of the line before",
              token_kind_text(token->kind));
    return;
  }
  end_statement(filter);
}

static void close_bracket(struct filter *filter, const struct token *token)
{
  if (filter->bracket_count == 0)
    return; /* the grammar reports it */
  const struct open_bracket *open = &filter->brackets[filter->bracket_count - 1];
  if (open->closer != token->kind && !filter->dropping) {
    struct diagnostic *error = diag_report(filter->diagnostics, DIAG_UNCLOSED_BRACKET, token->span,
                                           "expected %s, found %s", token_kind_text(open->closer),
                                           token_kind_text(token->kind));
    diag_related(filter->diagnostics, error, open->span, "opened here");
    filter->dropping = true;
  }
  filter->bracket_count--;
}

static void brace_rule(struct filter *filter, const struct token *token)
{
  if (filter->bracket_count > 0) {
    if (!filter->dropping)
      report_unclosed(filter);
    if (token->kind == TOKEN_LBRACE && !filter->dropping) {
      /* A header: the body behind it is worth reading. */
      while (filter->bracket_count > 0)
        emit_mark(filter, filter->brackets[--filter->bracket_count].closer);
    } else {
      filter->dropping = true;
      filter->bracket_count = 0;
    }
  }
  if (token->kind == TOKEN_LBRACE) {
    if (filter->dropping) {
      filter->dropped_braces++;
      return;
    }
    if (filter->braces++ == 0)
      filter->brace = token->span;
    emit(filter, *token);
    filter->statement = filter->list->tokens.count;
    return;
  }
  if (filter->dropped_braces > 0) {
    if (--filter->dropped_braces == 0)
      end_statement(filter);
    return;
  }
  end_statement(filter);
  emit(filter, *token);
  if (filter->braces > 0)
    filter->braces--;
  emit_mark(filter, TOKEN_END);
  filter->statement = filter->list->tokens.count;
}

static void name_rule(struct filter *filter, const struct token *token)
{
  /* sum, any and all are words only in front of a bracket: an input may bear their names. */
  struct token *last = &filter->list->tokens.items[filter->list->tokens.count - 1];
  if (token->kind != TOKEN_LPAREN || last->kind != TOKEN_NAME)
    return;
  if (strcmp(last->text, "sum") == 0)
    last->kind = TOKEN_SUM;
  else if (strcmp(last->text, "any") == 0)
    last->kind = TOKEN_ANY;
  else if (strcmp(last->text, "all") == 0)
    last->kind = TOKEN_ALL;
}

static void stop(struct filter *filter, struct span span, const char *message)
{
  diag_report(filter->diagnostics, DIAG_TOO_COMPLEX, span, "%s", message);
  filter->dropping = true;
  filter->stopped = true;
}

static bool take(void *user, const struct token *raw)
{
  struct filter *filter = user;
  struct token token = *raw;
  if (filter->scan->poisoned) {
    filter->scan->poisoned = false;
    filter->dropping = true;
  }
  if (token.kind == TOKEN_NEWLINE) {
    filter->newline = true;
    if (filter->bracket_count == 0 && filter->dropped_braces == 0)
      filter->scan->quiet = false; /* the next line may be a statement of its own */
    return true;
  }
  if (token.kind == TOKEN_COMMENT) {
    vector_push(filter->arena, &filter->list->comments, token.span);
    return true;
  }
  newline_rule(filter, &token);
  filter->newline = false;
  if (filter->list->tokens.count >= MAX_TOKENS) {
    stop(filter, token.span, "this file is too long");
    return false;
  }
  if (token.kind == TOKEN_LBRACE || token.kind == TOKEN_RBRACE) {
    brace_rule(filter, &token);
    return true;
  }
  if (at_statement_start(filter)) {
    close_forgotten_body(filter, &token);
    begin_statement(filter, &token);
  } else if (filter->list->tokens.count > 0) {
    name_rule(filter, &token);
  }
  if (is_closer(token.kind))
    close_bracket(filter, &token);
  emit(filter, token);
  if (token.kind == TOKEN_LPAREN || token.kind == TOKEN_LBRACKET) {
    if (filter->bracket_count == MAX_BRACKETS) {
      stop(filter, token.span, "brackets are nested too deeply");
      return false;
    }
    filter->brackets[filter->bracket_count++] = (struct open_bracket){
        token.kind == TOKEN_LPAREN ? TOKEN_RPAREN : TOKEN_RBRACKET, token.span};
  }
  return true;
}

struct token_list *tokenize(struct arena *arena, struct interner *names, uint32_t source,
                            struct diagnostics *diagnostics)
{
  const struct source *text = &diagnostics->sources->sources.items[source];
  struct scan scan = {.arena = arena, .names = names, .diagnostics = diagnostics, .source = source};
  struct filter *filter = ARENA_NEW(arena, struct filter);
  *filter = (struct filter){.arena = arena, .diagnostics = diagnostics, .scan = &scan};
  filter->list = ARENA_NEW(arena, struct token_list);
  scan_source(&scan, text, take, filter);
  if (scan.poisoned)
    filter->dropping = true;
  if (filter->bracket_count > 0 && !filter->dropping) {
    report_unclosed(filter);
    filter->dropping = true;
  }
  end_statement(filter);
  if (filter->braces > 0) {
    if (!filter->stopped)
      diag_report(diagnostics, DIAG_UNCLOSED_BODY, filter->brace, "this '{' is never closed");
    /* These stand where reading stopped, so that the item spans all of its errors. */
    struct span stop_span = {source, scan.offset, scan.offset};
    for (; filter->braces > 0; filter->braces--)
      emit(filter, (struct token){.kind = TOKEN_RBRACE, .span = stop_span});
    emit(filter, (struct token){.kind = TOKEN_END, .span = stop_span});
  }
  emit_mark(filter, TOKEN_END_OF_FILE);
  return filter->list;
}
