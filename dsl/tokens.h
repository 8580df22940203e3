/* The tokens of an .attn file, after the rules about lines: every statement is followed by an END,
 * statement words are told from names, and brackets match.
 */
#ifndef ATTN_DSL_TOKENS_H
#define ATTN_DSL_TOKENS_H

#include "dsl/ast.h"

enum token_kind {
#define TOKEN(name, text) TOKEN_##name,
#include "dsl/tokens.def"
#undef TOKEN
  TOKEN_NEWLINE, /* from the scanner only */
  TOKEN_COMMENT, /* from the scanner only */
  TOKEN_KIND_COUNT
};
const char *token_kind_text(enum token_kind kind);

struct token {
  enum token_kind kind;
  struct span span; /* of zero length for an END */
  const char *text; /* NAME and STRING, interned; the word as written of a statement */
  union {
    int64_t integer;
    double number;
    enum ast_word word; /* WORD, INPUT, LET, MAP, STATE */
  };
};

struct token_list {
  VECTOR(struct token) tokens;  /* the last is END_OF_FILE */
  VECTOR(struct span) comments; /* from '#' to before the newline */
};

/* What the scanner works on; its `extra` data. */
struct scan {
  struct arena *arena;
  struct interner *names;
  struct diagnostics *diagnostics;
  uint32_t source;
  uint32_t offset;     /* of the byte after the current token */
  bool poisoned;       /* a byte that starts no token was skipped; whoever reads this clears it */
  bool quiet;          /* the line is being left out: its bytes are not worth an error */
  struct token *token; /* filled by each call */
};

/* Runs the scanner over the text, calling `take` for each raw token, newlines and comments
 * included; stops when it returns false. */
void scan_source(struct scan *scan, const struct source *source,
                 bool (*take)(void *user, const struct token *token), void *user);

/* Errors go to diagnostics; statements that have one are left out of the list. */
struct token_list *tokenize(struct arena *arena, struct interner *names, uint32_t source,
                            struct diagnostics *diagnostics);

#endif
