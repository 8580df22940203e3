/* Text to syntax tree. */
#ifndef ATTN_DSL_PARSE_H
#define ATTN_DSL_PARSE_H

#include "dsl/tokens.h"

/* State of one run of the grammar (parser.y). */
struct parser {
  struct arena *arena;
  struct diagnostics *diagnostics;
  const struct token_list *list;
  size_t next; /* token that the grammar reads next */
  size_t last; /* token that it read last */
  struct ast_file *file;
  bool too_complex;
};

int dsl_parse(struct parser *parser);

/* Parses one source of diagnostics->sources. Items and statements with errors are left out of the
 * tree and reported; never NULL. */
struct ast_file *parse_source(struct arena *arena, struct interner *names, uint32_t source,
                              struct diagnostics *diagnostics);

/* For the grammar: what stands in the source, in quotes. */
const char *parse_spelling(const struct parser *parser, const struct token *token);
/* For the grammar: reports the token parser->last as unexpected. */
void parse_report_unexpected(struct parser *parser, const enum token_kind *expected,
                             size_t expected_count);
/* For the grammar: a node within the limits. */
struct ast_expr *parse_expr(struct parser *parser, struct ast_expr node);

#endif
