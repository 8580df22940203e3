/* Private to the parser of tile programs: its scanner (scan.c), expressions (parse_expr.c), ops
 * (parse_ops.c) and the rest (parse.c).
 *
 * Recursive descent with one token of lookahead. The first error ends it: it is reported, and from
 * then on the current token is TOKEN_END, so that every loop ends. What a function returns after
 * that is of no use to anybody; it may be NULL only where it says so. */
#ifndef ATTN_COMPILER_TILE_PARSE_H
#define ATTN_COMPILER_TILE_PARSE_H

#include "compiler/tile/text.h"

enum token_kind {
  TOKEN_END,
  TOKEN_NAME,   /* letters, digits and _ */
  TOKEN_VALUE,  /* %name; the text is without the sign */
  TOKEN_ARG,    /* $0 */
  TOKEN_BOUND,  /* @0 */
  TOKEN_LET,    /* &0 */
  TOKEN_INT,    /* 1 */
  TOKEN_LONG,   /* 1L */
  TOKEN_FLOAT,  /* 1.0, 1e9 */
  TOKEN_SINGLE, /* 1.0s */
  TOKEN_SYMBOL  /* one of the table in scan.c */
};

struct token {
  enum token_kind kind;
  struct span span;
  const char *text; /* in the source */
  size_t length;
  uint64_t integer; /* ARG, BOUND, LET, INT, LONG */
  double real;      /* FLOAT, SINGLE */
};

struct value_slot {
  const char *name; /* of the kernel's interner */
  struct tile_value *value;
};

struct tile_parser {
  struct arena *arena;
  struct expr_pool *pool;
  struct diagnostics *diagnostics;
  const struct source *source;
  uint32_t source_number;
  size_t at; /* where the next token begins */
  struct token token;
  bool failed;

  struct tile_builder builder;
  struct value_slot *slots; /* the kernel's values by name; open addressing, a power of two */
  size_t slot_count;
  size_t value_count;
  uint32_t region_depth;

  /* Of the expression at hand. */
  struct tile_value *const *operands;
  size_t operand_count;
  bool in_shape;
  uint32_t expr_depth;
  VECTOR(const struct expr *) lets;
};

void tile_scan(struct tile_parser *p); /* to the next token */
void tile_parse_error(struct tile_parser *p, enum diag_code code, const char *format, ...)
    __attribute__((format(printf, 3, 4))); /* at the current token */

bool tile_at_symbol(const struct tile_parser *p, const char *symbol);
bool tile_at_word(const struct tile_parser *p, const char *word);
bool tile_accept_symbol(struct tile_parser *p, const char *symbol);
bool tile_accept_word(struct tile_parser *p, const char *word);
void tile_expect_symbol(struct tile_parser *p, const char *symbol);
void tile_expect_word(struct tile_parser *p, const char *word);
uint32_t tile_expect_number(struct tile_parser *p, const char *what);
/* A copy of the current name; "?" after an error. */
const char *tile_expect_name(struct tile_parser *p, const char *what);

/* { statements } into an empty region. */
void tile_parse_region(struct tile_parser *p, struct tile_region *region);

/* An expression whose ARGs stand for `operands`; NULL after an error. */
const struct expr *tile_parse_expr(struct tile_parser *p, struct tile_value *const *operands,
                                   size_t operand_count);
/* A size of a workspace: B, NQ and NK instead of parameters; NULL after an error. */
const struct expr *tile_parse_size(struct tile_parser *p);

#endif
