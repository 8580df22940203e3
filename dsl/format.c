#include "dsl/format.h"

#include "dsl/parse.h"

#include <string.h>

struct format {
  struct arena *arena;
  const struct source *source;
  const struct token_list *list;
  VECTOR(char) out;
  size_t comment; /* the next to print */
  uint32_t end;   /* of what was printed last, in the source */
  size_t column;  /* of the output, from 0 */
};

static void put(struct format *format, const char *text, size_t length)
{
  for (size_t k = 0; k < length; k++) {
    vector_push(format->arena, &format->out, text[k]);
    format->column = text[k] == '\n' ? 0 : format->column + ((text[k] & 0xC0) != 0x80);
  }
}

static void pad(struct format *format, size_t column)
{
  while (format->column < column)
    put(format, " ", 1);
}

static size_t newlines_between(const struct format *format, uint32_t begin, uint32_t end)
{
  size_t count = 0;
  for (uint32_t k = begin; k < end; k++)
    count += format->source->text[k] == '\n';
  return count;
}

static size_t token_length(const struct token *token)
{
  return token->span.end - token->span.begin;
}

static void put_source(struct format *format, struct span span)
{
  uint32_t end = span.end;
  while (end > span.begin && strchr(" \t\r", format->source->text[end - 1]) != NULL)
    end--;
  put(format, format->source->text + span.begin, end - span.begin);
  format->end = span.end;
}

/* Ends the line, keeping at most one blank line of those before `begin`. */
static void line_break(struct format *format, uint32_t begin, size_t indent)
{
  if (format->out.count == 0)
    return;
  size_t breaks = newlines_between(format, format->end, begin);
  put(format, "\n", 1);
  if (breaks > 1)
    put(format, "\n", 1);
  pad(format, indent);
}

/* Comments that stand before `begin`: behind what was printed where they share its line, otherwise
 * on their own. */
static bool put_comments(struct format *format, uint32_t begin, size_t indent)
{
  bool any = false;
  for (; format->comment < format->list->comments.count; format->comment++) {
    struct span span = format->list->comments.items[format->comment];
    if (span.begin >= begin)
      break;
    if (format->out.count != 0 && newlines_between(format, format->end, span.begin) == 0)
      put(format, " ", 1);
    else
      line_break(format, span.begin, indent);
    put_source(format, span);
    any = true;
  }
  return any;
}

/* ---- spaces between tokens ---- */

static bool is_operand_end(enum token_kind kind)
{
  return kind == TOKEN_NAME || kind == TOKEN_INT || kind == TOKEN_FLOAT || kind == TOKEN_STRING ||
         kind == TOKEN_TRUE || kind == TOKEN_FALSE || kind == TOKEN_RPAREN ||
         kind == TOKEN_RBRACKET;
}

static bool is_unary_minus(const struct token *tokens, size_t at)
{
  return tokens[at].kind == TOKEN_MINUS && !(at > 0 && is_operand_end(tokens[at - 1].kind));
}

/* Whether a blank stands before token `at`, which is not the first of its line. `square`: the
 * innermost open bracket is a [. */
static bool blank_before(const struct token *tokens, size_t at, bool square)
{
  enum token_kind kind = tokens[at].kind, before = tokens[at - 1].kind;
  if (kind == TOKEN_COMMA || kind == TOKEN_RPAREN || kind == TOKEN_RBRACKET ||
      before == TOKEN_LPAREN || before == TOKEN_LBRACKET)
    return false;
  if (kind == TOKEN_COLON || before == TOKEN_COLON)
    return before == TOKEN_COLON && !square;
  if (kind == TOKEN_LPAREN)
    return before != TOKEN_NAME && before != TOKEN_SUM && before != TOKEN_ANY &&
           before != TOKEN_ALL;
  if (kind == TOKEN_LBRACKET)
    return !is_operand_end(before);
  return !is_unary_minus(tokens, at - 1);
}

/* ---- statements ---- */

struct layout {
  size_t indent;
  size_t argument; /* column of a statement's argument */
  size_t colon;    /* column of an input's colon */
};

static bool is_statement_word(enum token_kind kind)
{
  return kind == TOKEN_WORD || kind == TOKEN_INPUT || kind == TOKEN_LET || kind == TOKEN_MAP ||
         kind == TOKEN_STATE;
}

/* Prints tokens[begin .. end); they are one statement, a header up to its {, or a fn. */
static void put_tokens(struct format *format, size_t begin, size_t end, const struct layout *layout)
{
  const struct token *tokens = format->list->tokens.items;
  bool square[AST_MAX_DEPTH + 1] = {false};
  size_t depth = 0;
  bool input = tokens[begin].kind == TOKEN_INPUT, colon = false;
  for (size_t k = begin; k < end; k++) {
    const struct token *token = &tokens[k];
    if (k > begin) {
      bool comments = put_comments(format, token->span.begin, layout->argument);
      if (comments || newlines_between(format, format->end, token->span.begin) != 0) {
        put(format, "\n", 1);
        pad(format, layout->argument);
      } else if (k == begin + 1 && is_statement_word(tokens[begin].kind)) {
        pad(format, layout->argument);
      } else if (input && !colon && token->kind == TOKEN_COLON) {
        pad(format, layout->colon);
      } else if (blank_before(tokens, k, square[depth])) {
        put(format, " ", 1);
      }
    }
    colon = colon || token->kind == TOKEN_COLON;
    put_source(format, token->span);
    if (token->kind == TOKEN_LPAREN || token->kind == TOKEN_LBRACKET)
      square[++depth] = token->kind == TOKEN_LBRACKET;
    else if ((token->kind == TOKEN_RPAREN || token->kind == TOKEN_RBRACKET) && depth > 0)
      depth--;
  }
}

/* The index of the END, { or } after a statement. */
static size_t statement_end(const struct format *format, size_t at)
{
  const struct token *tokens = format->list->tokens.items;
  while (tokens[at].kind != TOKEN_END && tokens[at].kind != TOKEN_LBRACE &&
         tokens[at].kind != TOKEN_RBRACE && tokens[at].kind != TOKEN_END_OF_FILE)
    at++;
  return at;
}

/* A run is what stands on successive lines without a blank one: its words are padded alike. Returns
 * the index after its last statement. */
static size_t measure_run(const struct format *format, size_t at, struct layout *layout)
{
  const struct token *tokens = format->list->tokens.items;
  size_t word = 0, name = 0;
  *layout = (struct layout){.indent = 2};
  while (is_statement_word(tokens[at].kind)) {
    if (token_length(&tokens[at]) > word)
      word = token_length(&tokens[at]);
    if (tokens[at].kind == TOKEN_INPUT && token_length(&tokens[at + 1]) > name)
      name = token_length(&tokens[at + 1]);
    size_t end = statement_end(format, at);
    uint32_t finish = tokens[end - 1].span.end;
    at = end + 1;
    /* Two newlines with nothing between them are a blank line; comments do not break a run. */
    const char *text = format->source->text;
    size_t breaks = 0;
    bool blank = false, comment = false;
    for (uint32_t k = finish; k < tokens[at].span.begin; k++) {
      comment = text[k] == '#' || (comment && text[k] != '\n');
      breaks = text[k] == '\n' ? breaks + 1 : strchr(" \t\r", text[k]) != NULL ? breaks : 0;
      blank = blank || (!comment && breaks > 1);
    }
    if (blank)
      break;
  }
  layout->argument = layout->indent + word + 1;
  layout->colon = layout->argument + name + 1;
  return at;
}

/* Prints the statements of a body whose first token is at `at`; returns the index of its }. */
static size_t put_body(struct format *format, size_t at)
{
  const struct token *tokens = format->list->tokens.items;
  while (is_statement_word(tokens[at].kind)) {
    struct layout layout;
    size_t run_end = measure_run(format, at, &layout);
    while (at < run_end) {
      size_t end = statement_end(format, at);
      put_comments(format, tokens[at].span.begin, layout.indent);
      line_break(format, tokens[at].span.begin, layout.indent);
      put_tokens(format, at, end, &layout);
      at = end + 1;
    }
  }
  return at;
}

static void put_file(struct format *format)
{
  const struct token *tokens = format->list->tokens.items;
  const struct layout top = {.indent = 0, .argument = 4};
  size_t at = 0;
  while (tokens[at].kind != TOKEN_END_OF_FILE) {
    put_comments(format, tokens[at].span.begin, 0);
    line_break(format, tokens[at].span.begin, 0);
    size_t end = statement_end(format, at);
    put_tokens(format, at, end, &top);
    at = end + 1;
    if (tokens[end].kind != TOKEN_LBRACE)
      continue;
    put(format, " {", 2);
    format->end = tokens[end].span.end;
    at = put_body(format, at);
    put_comments(format, tokens[at].span.begin, 2);
    /* A blank line before the brace says nothing. */
    put(format, "\n}", 2);
    format->end = tokens[at].span.end;
    at += 2; /* } and its END */
  }
  put_comments(format, (uint32_t)format->source->length, 0);
  if (format->out.count != 0)
    put(format, "\n", 1);
}

char *format_source(struct arena *arena, const struct source *source,
                    struct diagnostics *diagnostics)
{
  uint32_t number = 0;
  while (diagnostics->sources->sources.items[number].text != source->text)
    number++;
  struct interner *names = ARENA_NEW(arena, struct interner);
  interner_init(names, arena);
  size_t errors = diagnostics->error_count;
  struct parser parser = {.arena = arena, .diagnostics = diagnostics};
  parser.file = ARENA_NEW(arena, struct ast_file);
  parser.list = tokenize(arena, names, number, diagnostics);
  dsl_parse(&parser);
  if (diagnostics->error_count != errors)
    return NULL;
  struct format format = {.arena = arena, .source = source, .list = parser.list};
  if (source->length >= 3 && memcmp(source->text, "\xEF\xBB\xBF", 3) == 0)
    format.end = 3;
  put_file(&format);
  vector_push(arena, &format.out, '\0');
  return format.out.items;
}
