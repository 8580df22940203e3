#include "compiler/tile/parse.h"

#include <locale.h>
#include <stdlib.h>
#include <string.h>

static bool is_digit(char c)
{
  return c >= '0' && c <= '9';
}

static bool is_name_start(char c)
{
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

static bool is_name(char c)
{
  return is_name_start(c) || is_digit(c);
}

/* The character at `at`, NUL at the end (the text is NUL-terminated). */
static char peek(const struct tile_parser *p, size_t at)
{
  return at < p->source->length ? p->source->text[at] : '\0';
}

void tile_parse_error(struct tile_parser *p, enum diag_code code, const char *format, ...)
{
  if (p->failed)
    return;
  va_list arguments;
  va_start(arguments, format);
  diag_report(p->diagnostics, code, p->token.span, "%s",
              arena_vformat(p->arena, format, arguments));
  va_end(arguments);
  p->failed = true;
  p->token.kind = TOKEN_END;
  p->token.length = 0;
  p->at = p->source->length;
}

static void skip_blank(struct tile_parser *p)
{
  for (;;) {
    char c = peek(p, p->at);
    if (c == '#') {
      while (p->at < p->source->length && peek(p, p->at) != '\n')
        p->at++;
    } else if (c == ' ' || c == '\t' || c == '\n' || c == '\r') {
      p->at++;
    } else {
      return;
    }
  }
}

/* strtod follows the locale, the text does not. */
static double read_real(struct tile_parser *p, const char *digits, size_t length)
{
  const char *point = localeconv()->decimal_point;
  const char *dot = memchr(digits, '.', length);
  if (dot == NULL)
    return strtod(arena_strndup(p->arena, digits, length), NULL);
  int before = (int)(dot - digits), after = (int)length - before - 1;
  return strtod(arena_format(p->arena, "%.*s%s%.*s", before, digits, point, after, dot + 1), NULL);
}

static size_t skip_digits(const struct tile_parser *p, size_t at)
{
  while (is_digit(peek(p, at)))
    at++;
  return at;
}

enum { MAX_DIGITS = 400 }; /* more than any number needs */

static void read_integer(struct tile_parser *p, size_t begin, size_t end)
{
  uint64_t value = 0;
  bool fits = true;
  for (size_t at = begin; at < end; at++) {
    uint64_t digit = (uint64_t)(peek(p, at) - '0');
    fits = fits && !__builtin_mul_overflow(value, 10u, &value) &&
           !__builtin_add_overflow(value, digit, &value);
  }
  p->token.integer = value;
  if (!fits)
    tile_parse_error(p, DIAG_TILE_LIMIT, "this number does not fit 64 bits");
}

static void scan_number(struct tile_parser *p, size_t begin)
{
  size_t at = skip_digits(p, begin);
  bool real = peek(p, at) == '.' && is_digit(peek(p, at + 1));
  if (real)
    at = skip_digits(p, at + 1);
  char mark = peek(p, at), sign = peek(p, at + 1);
  size_t exponent = at + (sign == '+' || sign == '-' ? 2 : 1);
  if ((mark == 'e' || mark == 'E') && is_digit(peek(p, exponent))) {
    real = true;
    at = skip_digits(p, exponent);
  }
  size_t end = at;
  char suffix = peek(p, at);
  p->token.kind = real ? TOKEN_FLOAT : TOKEN_INT;
  if (suffix == 's' && real)
    p->token.kind = TOKEN_SINGLE;
  if (suffix == 'L' && !real)
    p->token.kind = TOKEN_LONG;
  if (p->token.kind == TOKEN_SINGLE || p->token.kind == TOKEN_LONG)
    at++;
  p->at = at;
  p->token.span.end = (uint32_t)at;
  if (is_name(peek(p, at)))
    tile_parse_error(
        p, DIAG_TILE_SYNTAX,
        "a number ends in a letter: 1 is an int, 1L a long, 1.0 a float, 1.0s a single");
  else if (end - begin > MAX_DIGITS)
    tile_parse_error(p, DIAG_TILE_LIMIT, "a number of more than %d digits", (int)MAX_DIGITS);
  else if (real)
    p->token.real = read_real(p, p->source->text + begin, end - begin);
  else
    read_integer(p, begin, end);
}

/* $0, @0 and &0. */
static void scan_numbered(struct tile_parser *p, enum token_kind kind, size_t begin)
{
  size_t end = skip_digits(p, begin + 1);
  p->at = end;
  p->token.kind = kind;
  p->token.span.end = (uint32_t)end;
  if (end == begin + 1)
    tile_parse_error(p, DIAG_TILE_SYNTAX, "expected a number after '%c'", peek(p, begin));
  else
    read_integer(p, begin + 1, end);
}

static bool scan_symbol(struct tile_parser *p, size_t begin)
{
  static const char *const symbols[] = {"=>", "==", "!=", "<=", "//", "=", "<", "(", ")", "[", "]",
                                        "{",  "}",  ",",  ":",  ".",  "+", "-", "*", "/", "%"};
  for (size_t k = 0; k < sizeof(symbols) / sizeof(*symbols); k++) {
    size_t length = strlen(symbols[k]);
    if (length <= p->source->length - begin &&
        memcmp(p->source->text + begin, symbols[k], length) == 0) {
      p->token.kind = TOKEN_SYMBOL;
      p->at = begin + length;
      return true;
    }
  }
  return false;
}

static void scan_word(struct tile_parser *p, enum token_kind kind, size_t begin)
{
  size_t at = begin;
  while (is_name(peek(p, at)) || (kind == TOKEN_VALUE && peek(p, at) == '.'))
    at++;
  p->token.kind = kind;
  p->token.text = p->source->text + begin;
  p->token.length = at - begin;
  p->at = at;
}

void tile_scan(struct tile_parser *p)
{
  if (p->failed)
    return;
  skip_blank(p);
  size_t begin = p->at;
  p->token = (struct token){
      .kind = TOKEN_END,
      .span = {p->source_number, (uint32_t)begin, (uint32_t)begin},
      .text = p->source->text + begin,
  };
  if (begin >= p->source->length)
    return;
  char c = peek(p, begin), next = peek(p, begin + 1);
  if (is_name_start(c)) {
    scan_word(p, TOKEN_NAME, begin);
  } else if (is_digit(c)) {
    scan_number(p, begin);
  } else if (c == '%' && is_name(next)) {
    scan_word(p, TOKEN_VALUE, begin + 1);
  } else if (c == '$') {
    scan_numbered(p, TOKEN_ARG, begin);
  } else if (c == '@') {
    scan_numbered(p, TOKEN_BOUND, begin);
  } else if (c == '&') {
    scan_numbered(p, TOKEN_LET, begin);
  } else if (!scan_symbol(p, begin)) {
    p->token.span.end = (uint32_t)begin + 1;
    tile_parse_error(p, DIAG_TILE_SYNTAX, "a character that has no meaning here");
  }
  if (p->failed)
    return;
  p->token.span.end = (uint32_t)p->at;
  if (p->token.kind == TOKEN_SYMBOL)
    p->token.length = p->at - begin;
}

/* ---- what the parser asks ---- */

static bool token_is(const struct tile_parser *p, enum token_kind kind, const char *text)
{
  return p->token.kind == kind && strlen(text) == p->token.length &&
         memcmp(p->token.text, text, p->token.length) == 0;
}

bool tile_at_symbol(const struct tile_parser *p, const char *symbol)
{
  return token_is(p, TOKEN_SYMBOL, symbol);
}

bool tile_at_word(const struct tile_parser *p, const char *word)
{
  return token_is(p, TOKEN_NAME, word);
}

bool tile_accept_symbol(struct tile_parser *p, const char *symbol)
{
  bool found = tile_at_symbol(p, symbol);
  if (found)
    tile_scan(p);
  return found;
}

bool tile_accept_word(struct tile_parser *p, const char *word)
{
  bool found = tile_at_word(p, word);
  if (found)
    tile_scan(p);
  return found;
}

void tile_expect_symbol(struct tile_parser *p, const char *symbol)
{
  if (!tile_accept_symbol(p, symbol))
    tile_parse_error(p, DIAG_TILE_SYNTAX, "expected '%s'", symbol);
}

void tile_expect_word(struct tile_parser *p, const char *word)
{
  if (!tile_accept_word(p, word))
    tile_parse_error(p, DIAG_TILE_SYNTAX, "expected '%s'", word);
}

uint32_t tile_expect_number(struct tile_parser *p, const char *what)
{
  if (p->token.kind != TOKEN_INT) {
    tile_parse_error(p, DIAG_TILE_SYNTAX, "expected a number: %s", what);
    return 0;
  }
  uint64_t value = p->token.integer;
  if (value > UINT32_MAX) {
    tile_parse_error(p, DIAG_TILE_LIMIT, "%s does not fit 32 bits", what);
    return 0;
  }
  tile_scan(p);
  return (uint32_t)value;
}

const char *tile_expect_name(struct tile_parser *p, const char *what)
{
  if (p->token.kind != TOKEN_NAME) {
    tile_parse_error(p, DIAG_TILE_SYNTAX, "expected %s", what);
    return "?";
  }
  const char *name = arena_strndup(p->arena, p->token.text, p->token.length);
  tile_scan(p);
  return name;
}
