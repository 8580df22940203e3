/* Tokens of PTX ("Syntax" of the PTX ISA). */
#include <ctype.h>
#include <stdlib.h>

#include "tests/device/ptx_build.h"

static bool begins_word(char c)
{
  return isalpha((unsigned char)c) || c == '_' || c == '$' || c == '%' || c == '.';
}

static bool continues_word(char c)
{
  return isalnum((unsigned char)c) || c == '_' || c == '$' || c == '.';
}

/* False when a comment does not end. */
static bool skip_blanks(struct ptx_scanner *s)
{
  for (;;) {
    if (*s->at == '\n') {
      s->line++;
      s->at++;
    } else if (isspace((unsigned char)*s->at)) {
      s->at++;
    } else if (s->at[0] == '/' && s->at[1] == '/') {
      while (*s->at != '\0' && *s->at != '\n') {
        s->at++;
      }
    } else if (s->at[0] == '/' && s->at[1] == '*') {
      s->at += 2;
      while (*s->at != '\0' && !(s->at[0] == '*' && s->at[1] == '/')) {
        s->line += *s->at == '\n';
        s->at++;
      }
      if (*s->at == '\0') {
        return false;
      }
      s->at += 2;
    } else {
      return true;
    }
  }
}

static void scan_word(struct ptx_scanner *s)
{
  s->at++;
  for (;;) {
    if (continues_word(*s->at)) {
      s->at++;
    } else if (s->at[0] == ':' && s->at[1] == ':') { /* .shared::cta */
      s->at += 2;
    } else {
      return;
    }
  }
}

/* Hexadecimal digits of a float given by its bits. */
static bool scan_bits(struct ptx_scanner *s, unsigned digits, uint64_t *value)
{
  *value = 0;
  for (unsigned k = 0; k < digits; k++, s->at++) {
    const unsigned char c = (unsigned char)*s->at;
    if (!isxdigit(c)) {
      return false;
    }
    *value = *value << 4 | (uint64_t)(isdigit(c) ? c - '0' : tolower(c) - 'a' + 10);
  }
  return true;
}

static bool scan_number(struct ptx_scanner *s, struct ptx_token *token)
{
  const char *start = s->at;
  if (start[0] == '0' && (start[1] == 'f' || start[1] == 'F')) {
    s->at += 2;
    token->kind = PTX_TOKEN_FLOAT32;
    return scan_bits(s, 8, &token->value);
  }
  if (start[0] == '0' && (start[1] == 'd' || start[1] == 'D')) {
    s->at += 2;
    token->kind = PTX_TOKEN_FLOAT64;
    return scan_bits(s, 16, &token->value);
  }
  char *end;
  token->kind = PTX_TOKEN_INTEGER;
  if (start[0] == '0' && (start[1] == 'b' || start[1] == 'B')) {
    token->value = strtoull(start + 2, &end, 2);
  } else {
    token->value = strtoull(start, &end, 0);
    if (*end == '.' || ((*end == 'e' || *end == 'E') && start[1] != 'x')) {
      token->kind = PTX_TOKEN_FLOAT64;
      token->value = ptx_f64_bits(strtod(start, &end));
    } else if (*end == 'U') {
      end++;
    }
  }
  s->at = end;
  return !continues_word(*end);
}

static bool scan_string(struct ptx_scanner *s)
{
  for (s->at++; *s->at != '"'; s->at++) {
    if (*s->at == '\0' || *s->at == '\n') {
      return false;
    }
  }
  s->at++;
  return true;
}

struct ptx_token ptx_scan(struct ptx_scanner *s)
{
  struct ptx_token token = {.kind = PTX_TOKEN_ERROR, .text = s->at, .line = s->line};
  bool good = skip_blanks(s);
  token.text = s->at;
  token.line = s->line;
  if (good && *s->at == '\0') {
    token.kind = PTX_TOKEN_END;
  } else if (good && begins_word(*s->at)) {
    token.kind = PTX_TOKEN_WORD;
    scan_word(s);
  } else if (good && isdigit((unsigned char)*s->at)) {
    good = scan_number(s, &token);
  } else if (good && *s->at == '"') {
    token.kind = PTX_TOKEN_STRING;
    good = scan_string(s);
  } else if (good) {
    token.kind = PTX_TOKEN_MARK;
    s->at++;
  }
  if (!good) {
    token.kind = PTX_TOKEN_ERROR;
  }
  token.length = (uint32_t)(s->at - token.text);
  return token;
}
