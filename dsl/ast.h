/* The syntax tree of an .attn file: what was written, before any of it is given a meaning.
 *
 * Every node lies in the arena of its parse and carries the span that it was read from. Names are
 * interned: equal names are equal pointers within one interner.
 */
#ifndef ATTN_DSL_AST_H
#define ATTN_DSL_AST_H

#include "dsl/diagnostics.h"
#include "dsl/source.h"

struct ast_name {
  const char *text; /* NULL: absent */
  struct span span;
};

enum ast_expr_kind {
  AST_INT,
  AST_FLOAT,
  AST_BOOL,
  AST_NAME,
  AST_PAREN, /* kept, so that the formatter need not know precedences */
  AST_UNARY,
  AST_BINARY,
  AST_COMPARE, /* a < b <= c ...: operands.count == ops.count + 1 */
  AST_CONDITIONAL,
  AST_CALL,
  AST_INDEX,
  AST_SLICE, /* low:high, only as an index */
  AST_REDUCE /* sum, any, all */
};

enum ast_op {
  AST_NEG,
  AST_NOT,
  AST_ADD,
  AST_SUB,
  AST_MUL,
  AST_DIV,
  AST_FLOORDIV,
  AST_MOD,
  AST_POW,
  AST_MATMUL, /* @: recurrences only */
  AST_AND,
  AST_OR,
  AST_LT,
  AST_LE,
  AST_GT,
  AST_GE,
  AST_EQ,
  AST_NE,
  AST_SUM,
  AST_ANY,
  AST_ALL
};
const char *ast_op_text(enum ast_op op);

struct ast_expr;

struct ast_exprs {
  VECTOR(struct ast_expr *) list;
};

/* An argument of a call or a statement: [NAME '='] value. */
struct ast_argument {
  struct ast_name name;
  struct ast_expr *value;
  struct span span;
};
struct ast_arguments {
  VECTOR(struct ast_argument) list;
};

struct ast_expr {
  enum ast_expr_kind kind;
  enum ast_op op; /* of UNARY, BINARY, REDUCE */
  struct span span;
  uint32_t depth; /* nesting; a left operand does not count, so that a + b + c ... is flat */
  uint32_t chain; /* length of the left spine */
  union {
    int64_t integer;
    double number;
    bool truth;
    struct ast_name name;
    struct {
      struct ast_expr *a;
      struct ast_expr *b; /* BINARY only */
    } operands;
    struct {
      VECTOR(struct ast_expr *) operands;
      VECTOR(enum ast_op) ops;
    } compare;
    struct {
      struct ast_expr *condition;
      struct ast_expr *yes;
      struct ast_expr *no;
    } conditional;
    struct {
      struct ast_name name;
      struct ast_arguments *arguments;
    } call;
    struct {
      struct ast_expr *base;
      struct ast_exprs *indices;
    } index;
    struct {
      struct ast_expr *low;
      struct ast_expr *high;
    } slice;
    struct {
      struct ast_name name;
      struct ast_expr *extent; /* NULL: every channel */
      struct ast_expr *body;
    } reduce;
  };
};

enum ast_word {
#define STATEMENT(name, text) WORD_##name,
#include "dsl/statements.def"
#undef STATEMENT
  WORD_COUNT
};
const char *ast_word_text(enum ast_word word);

struct ast_names {
  VECTOR(struct ast_name) list;
};

struct ast_statement {
  enum ast_word word;
  struct span word_span;
  struct span span;
  struct ast_name name;            /* input, let, map, state */
  struct ast_name type;            /* input */
  struct ast_exprs *dims;          /* input; NULL: none */
  struct ast_names *flags;         /* input: the words after its type; state: its dimensions */
  struct ast_expr *value;          /* let, map, state */
  struct ast_arguments *arguments; /* every other */
};
struct ast_statements {
  VECTOR(struct ast_statement *) list;
};

struct ast_param {
  struct ast_name qualifier; /* "const" or absent; other words are for the checker to refuse */
  struct ast_name name;
  struct ast_name type;
  struct ast_expr *value; /* NULL: none */
  struct span span;
};
struct ast_params {
  VECTOR(struct ast_param) list;
};

enum ast_item_kind { AST_ATTENTION, AST_RECURRENCE, AST_FN, AST_IMPORT };

struct ast_item {
  enum ast_item_kind kind;
  struct span span;
  struct ast_name name;              /* of an import: the path, its span with the quotes */
  struct ast_params *params;         /* attention, recurrence; NULL: none */
  struct ast_statements *statements; /* attention, recurrence */
  struct ast_names *arguments;       /* fn; NULL: written without parentheses */
  struct ast_expr *body;             /* fn */
};

struct ast_file {
  uint32_t source;
  VECTOR(struct ast_item *) items;
};

/* Nesting and length that the parser lets through. */
enum { AST_MAX_DEPTH = 200, AST_MAX_CHAIN = 5000 };

/* Makes a node, filling depth and chain from the operands that are set in it. */
struct ast_expr *ast_expr_new(struct arena *arena, struct ast_expr node);

#endif
