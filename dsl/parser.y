/* The grammar of .attn files. It sees the tokens of tokens.c: every statement ends with an END. */
%define api.pure full
%define api.prefix {dsl_}
%define api.token.prefix {PT_}
%define api.location.type {struct span}
%define parse.error custom
%locations
%expect 0
%param {struct parser *parser}

%code {
#include "dsl/parse.h"

#define YYMALLOC(size) arena_alloc(parser->arena, (size))
#define YYFREE(block) ((void)(block))
#define YYLLOC_DEFAULT(result, right, count)                                                                           \
  ((result) = (count) ? span_join(YYRHSLOC(right, 1), YYRHSLOC(right, count))                                          \
                      : (struct span){YYRHSLOC(right, 0).source, YYRHSLOC(right, 0).end, YYRHSLOC(right, 0).end})

static int dsl_lex(union DSL_STYPE *value, struct span *span, struct parser *parser);
static void dsl_error(const struct span *span, struct parser *parser, const char *message);

#define YYSYMBOL_END_OF_FILE YYSYMBOL_YYEOF
#define EXPR(...) parse_expr(parser, (struct ast_expr){__VA_ARGS__})
}

%code requires {
#include "dsl/parse.h"
}

%union {
  const struct token *token;
  struct ast_name name;
  enum ast_op op;
  struct ast_expr *expr;
  struct ast_exprs *exprs;
  struct ast_argument argument;
  struct ast_arguments *arguments;
  struct ast_names *names;
  struct ast_statement *statement;
  struct ast_statements *statements;
  struct ast_param param;
  struct ast_params *params;
  struct ast_item *item;
}

%token END_OF_FILE 0
%token END
%token <token> NAME INT FLOAT STRING TRUE FALSE
%token AND OR NOT IF ELSE SUM ANY ALL
%token <token> WORD INPUT LET MAP STATE
%token ATTENTION RECURRENCE FN IMPORT
%token LPAREN RPAREN LBRACKET RBRACKET LBRACE RBRACE COMMA COLON ASSIGN
%token PLUS MINUS STAR SLASH SLASHSLASH PERCENT STARSTAR AT LT LE GT GE EQ NE

%type <item> item
%type <statement> statement
%type <statements> statements
%type <params> params param_list
%type <param> param
%type <names> names name_list flags
%type <name> name
%type <arguments> arguments argument_list
%type <argument> argument
%type <exprs> index_list
%type <expr> index expr disjunction conjunction negation comparison chain arith sterm reduction term unary power postfix
%type <expr> atom
%type <op> compare_op reduce_op

%%

file
  : %empty
  | file item END             { if ($2 != NULL) vector_push(parser->arena, &parser->file->items, $2); }
  | file error END            { yyerrok; }
  ;

item
  : ATTENTION name params LBRACE statements RBRACE
    {
      $$ = ARENA_NEW(parser->arena, struct ast_item);
      *$$ = (struct ast_item){.kind = AST_ATTENTION, .span = @$, .name = $2, .params = $3, .statements = $5};
    }
  | RECURRENCE name params LBRACE statements RBRACE
    {
      $$ = ARENA_NEW(parser->arena, struct ast_item);
      *$$ = (struct ast_item){.kind = AST_RECURRENCE, .span = @$, .name = $2, .params = $3, .statements = $5};
    }
  | ATTENTION error LBRACE statements RBRACE  { $$ = NULL; }
  | RECURRENCE error LBRACE statements RBRACE { $$ = NULL; }
  | FN name ASSIGN expr
    {
      $$ = ARENA_NEW(parser->arena, struct ast_item);
      *$$ = (struct ast_item){.kind = AST_FN, .span = @$, .name = $2, .body = $4};
    }
  | FN name LPAREN names RPAREN ASSIGN expr
    {
      $$ = ARENA_NEW(parser->arena, struct ast_item);
      *$$ = (struct ast_item){.kind = AST_FN, .span = @$, .name = $2, .arguments = $4, .body = $7};
    }
  | IMPORT STRING
    {
      $$ = ARENA_NEW(parser->arena, struct ast_item);
      *$$ = (struct ast_item){.kind = AST_IMPORT, .span = @$, .name = {$2->text, @2}};
    }
  ;

params
  : %empty                    { $$ = NULL; }
  | LPAREN RPAREN             { $$ = ARENA_NEW(parser->arena, struct ast_params); }
  | LPAREN param_list RPAREN  { $$ = $2; }
  | LPAREN param_list COMMA RPAREN { $$ = $2; }
  ;

param_list
  : param                     { $$ = ARENA_NEW(parser->arena, struct ast_params); vector_push(parser->arena, &$$->list, $1); }
  | param_list COMMA param    { $$ = $1; vector_push(parser->arena, &$$->list, $3); }
  ;

param
  : name COLON name                   { $$ = (struct ast_param){.name = $1, .type = $3, .span = @$}; }
  | name COLON name ASSIGN expr       { $$ = (struct ast_param){.name = $1, .type = $3, .value = $5, .span = @$}; }
  | name name COLON name              { $$ = (struct ast_param){.qualifier = $1, .name = $2, .type = $4, .span = @$}; }
  | name name COLON name ASSIGN expr
    { $$ = (struct ast_param){.qualifier = $1, .name = $2, .type = $4, .value = $6, .span = @$}; }
  ;

names
  : %empty                    { $$ = ARENA_NEW(parser->arena, struct ast_names); }
  | name_list                 { $$ = $1; }
  ;

name_list
  : name                      { $$ = ARENA_NEW(parser->arena, struct ast_names); vector_push(parser->arena, &$$->list, $1); }
  | name_list COMMA name      { $$ = $1; vector_push(parser->arena, &$$->list, $3); }
  ;

name
  : NAME                      { $$ = (struct ast_name){$1->text, $1->span}; }
  ;

statements
  : %empty                    { $$ = ARENA_NEW(parser->arena, struct ast_statements); }
  | statements statement END  { $$ = $1; vector_push(parser->arena, &$$->list, $2); }
  | statements error END      { $$ = $1; yyerrok; }
  ;

statement
  : WORD arguments
    {
      $$ = ARENA_NEW(parser->arena, struct ast_statement);
      *$$ = (struct ast_statement){.word = $1->word, .word_span = @1, .span = @$, .arguments = $2};
    }
  | INPUT name COLON name flags
    {
      $$ = ARENA_NEW(parser->arena, struct ast_statement);
      *$$ = (struct ast_statement){.word = WORD_INPUT, .word_span = @1, .span = @$, .name = $2, .type = $4, .flags = $5};
    }
  | INPUT name COLON name LBRACKET index_list RBRACKET flags
    {
      $$ = ARENA_NEW(parser->arena, struct ast_statement);
      *$$ = (struct ast_statement){.word = WORD_INPUT, .word_span = @1, .span = @$, .name = $2, .type = $4, .dims = $6,
                                   .flags = $8};
    }
  | LET name ASSIGN expr
    {
      $$ = ARENA_NEW(parser->arena, struct ast_statement);
      *$$ = (struct ast_statement){.word = WORD_LET, .word_span = @1, .span = @$, .name = $2, .value = $4};
    }
  | MAP name ASSIGN expr
    {
      $$ = ARENA_NEW(parser->arena, struct ast_statement);
      *$$ = (struct ast_statement){.word = WORD_MAP, .word_span = @1, .span = @$, .name = $2, .value = $4};
    }
  | STATE name LBRACKET name_list RBRACKET ASSIGN expr
    {
      $$ = ARENA_NEW(parser->arena, struct ast_statement);
      *$$ = (struct ast_statement){.word = WORD_STATE, .word_span = @1, .span = @$, .name = $2, .flags = $4, .value = $7};
    }
  ;

flags
  : %empty                    { $$ = ARENA_NEW(parser->arena, struct ast_names); }
  | flags name                { $$ = $1; vector_push(parser->arena, &$$->list, $2); }
  ;

arguments
  : %empty                    { $$ = ARENA_NEW(parser->arena, struct ast_arguments); }
  | argument_list             { $$ = $1; }
  | argument_list COMMA       { $$ = $1; }
  ;

argument_list
  : argument                  { $$ = ARENA_NEW(parser->arena, struct ast_arguments); vector_push(parser->arena, &$$->list, $1); }
  | argument_list COMMA argument { $$ = $1; vector_push(parser->arena, &$$->list, $3); }
  ;

argument
  : expr                      { $$ = (struct ast_argument){.value = $1, .span = @$}; }
  | NAME ASSIGN expr          { $$ = (struct ast_argument){.name = {$1->text, @1}, .value = $3, .span = @$}; }
  ;

expr
  : disjunction
  | disjunction IF disjunction ELSE expr
    { $$ = EXPR(.kind = AST_CONDITIONAL, .span = @$, .conditional = {$3, $1, $5}); }
  ;

disjunction
  : conjunction
  | disjunction OR conjunction { $$ = EXPR(.kind = AST_BINARY, .op = AST_OR, .span = @$, .operands = {$1, $3}); }
  ;

conjunction
  : negation
  | conjunction AND negation  { $$ = EXPR(.kind = AST_BINARY, .op = AST_AND, .span = @$, .operands = {$1, $3}); }
  ;

negation
  : NOT negation              { $$ = EXPR(.kind = AST_UNARY, .op = AST_NOT, .span = @$, .operands = {$2, NULL}); }
  | reduce_op LPAREN name RPAREN negation
    { $$ = EXPR(.kind = AST_REDUCE, .op = $1, .span = @$, .reduce = {$3, NULL, $5}); }
  | reduce_op LPAREN name LT arith RPAREN negation
    { $$ = EXPR(.kind = AST_REDUCE, .op = $1, .span = @$, .reduce = {$3, $5, $7}); }
  | comparison
  ;

reduce_op
  : ANY                       { $$ = AST_ANY; }
  | ALL                       { $$ = AST_ALL; }
  ;

comparison
  : arith
  | chain                     { $$ = parse_expr(parser, *$1); }
  ;

/* The node is made over when the chain is complete: its depth is known only then. */
chain
  : arith compare_op arith
    {
      $$ = ARENA_NEW(parser->arena, struct ast_expr);
      $$->kind = AST_COMPARE;
      $$->span = @$;
      vector_push(parser->arena, &$$->compare.operands, $1);
      vector_push(parser->arena, &$$->compare.operands, $3);
      vector_push(parser->arena, &$$->compare.ops, $2);
    }
  | chain compare_op arith
    {
      $$ = $1;
      $$->span = @$;
      vector_push(parser->arena, &$$->compare.operands, $3);
      vector_push(parser->arena, &$$->compare.ops, $2);
    }
  ;

compare_op
  : LT                        { $$ = AST_LT; }
  | LE                        { $$ = AST_LE; }
  | GT                        { $$ = AST_GT; }
  | GE                        { $$ = AST_GE; }
  | EQ                        { $$ = AST_EQ; }
  | NE                        { $$ = AST_NE; }
  ;

arith
  : sterm
  | arith PLUS sterm          { $$ = EXPR(.kind = AST_BINARY, .op = AST_ADD, .span = @$, .operands = {$1, $3}); }
  | arith MINUS sterm         { $$ = EXPR(.kind = AST_BINARY, .op = AST_SUB, .span = @$, .operands = {$1, $3}); }
  ;

sterm
  : term
  | reduction
  | MINUS reduction           { $$ = EXPR(.kind = AST_UNARY, .op = AST_NEG, .span = @$, .operands = {$2, NULL}); }
  | term STAR reduction       { $$ = EXPR(.kind = AST_BINARY, .op = AST_MUL, .span = @$, .operands = {$1, $3}); }
  ;

/* sum(...) takes the product that follows and stops at + or -. */
reduction
  : SUM LPAREN name RPAREN sterm
    { $$ = EXPR(.kind = AST_REDUCE, .op = AST_SUM, .span = @$, .reduce = {$3, NULL, $5}); }
  | SUM LPAREN name LT arith RPAREN sterm
    { $$ = EXPR(.kind = AST_REDUCE, .op = AST_SUM, .span = @$, .reduce = {$3, $5, $7}); }
  ;

term
  : unary
  | term STAR unary           { $$ = EXPR(.kind = AST_BINARY, .op = AST_MUL, .span = @$, .operands = {$1, $3}); }
  | term SLASH unary          { $$ = EXPR(.kind = AST_BINARY, .op = AST_DIV, .span = @$, .operands = {$1, $3}); }
  | term SLASHSLASH unary     { $$ = EXPR(.kind = AST_BINARY, .op = AST_FLOORDIV, .span = @$, .operands = {$1, $3}); }
  | term PERCENT unary        { $$ = EXPR(.kind = AST_BINARY, .op = AST_MOD, .span = @$, .operands = {$1, $3}); }
  | term AT unary             { $$ = EXPR(.kind = AST_BINARY, .op = AST_MATMUL, .span = @$, .operands = {$1, $3}); }
  ;

unary
  : power
  | MINUS unary               { $$ = EXPR(.kind = AST_UNARY, .op = AST_NEG, .span = @$, .operands = {$2, NULL}); }
  ;

power
  : postfix
  | postfix STARSTAR unary    { $$ = EXPR(.kind = AST_BINARY, .op = AST_POW, .span = @$, .operands = {$1, $3}); }
  ;

postfix
  : atom
  | postfix LBRACKET index_list RBRACKET { $$ = EXPR(.kind = AST_INDEX, .span = @$, .index = {$1, $3}); }
  ;

index_list
  : index                     { $$ = ARENA_NEW(parser->arena, struct ast_exprs); vector_push(parser->arena, &$$->list, $1); }
  | index_list COMMA index    { $$ = $1; vector_push(parser->arena, &$$->list, $3); }
  ;

index
  : expr
  | expr COLON expr           { $$ = EXPR(.kind = AST_SLICE, .span = @$, .slice = {$1, $3}); }
  ;

atom
  : INT                       { $$ = EXPR(.kind = AST_INT, .span = @$, .integer = $1->integer); }
  | FLOAT                     { $$ = EXPR(.kind = AST_FLOAT, .span = @$, .number = $1->number); }
  | TRUE                      { $$ = EXPR(.kind = AST_BOOL, .span = @$, .truth = true); }
  | FALSE                     { $$ = EXPR(.kind = AST_BOOL, .span = @$, .truth = false); }
  | NAME                      { $$ = EXPR(.kind = AST_NAME, .span = @$, .name = {$1->text, $1->span}); }
  | NAME LPAREN arguments RPAREN
    { $$ = EXPR(.kind = AST_CALL, .span = @$, .call = {{$1->text, @1}, $3}); }
  | LPAREN expr RPAREN        { $$ = EXPR(.kind = AST_PAREN, .span = @$, .operands = {$2, NULL}); }
  ;

%%

static int dsl_lex(union DSL_STYPE *value, struct span *span, struct parser *parser)
{
  const struct token *token = &parser->list->tokens.items[parser->next];
  parser->last = parser->next;
  if (parser->next + 1 < parser->list->tokens.count)
    parser->next++;
  value->token = token;
  *span = token->span;
  switch (token->kind) {
#define TOKEN(name, text)                                                                                              \
  case TOKEN_##name:                                                                                                   \
    return PT_##name;
#include "dsl/tokens.def"
#undef TOKEN
  case TOKEN_NEWLINE:
  case TOKEN_COMMENT:
  case TOKEN_KIND_COUNT:
    break;
  }
  return PT_END_OF_FILE;
}

/* Called for an exhausted stack only; syntax errors come through yyreport_syntax_error. */
static void dsl_error(const struct span *span, struct parser *parser, const char *message)
{
  (void)message;
  parser->too_complex = true;
  diag_report(parser->diagnostics, DIAG_TOO_COMPLEX, *span, "this expression is nested too deeply");
}

static int yyreport_syntax_error(const yypcontext_t *context, struct parser *parser)
{
  enum { MOST = 3 };
  yysymbol_kind_t symbols[MOST];
  enum token_kind kinds[MOST];
  int count = yypcontext_expected_tokens(context, symbols, MOST);
  size_t known = 0;
  for (int k = 0; k < count; k++)
    switch ((int)symbols[k]) { /* the grammar's own symbols are never expected */
#define TOKEN(name, text)                                                                                              \
  case YYSYMBOL_##name:                                                                                                \
    kinds[known++] = TOKEN_##name;                                                                                     \
    break;
#include "dsl/tokens.def"
#undef TOKEN
    default:
      break;
    }
  parse_report_unexpected(parser, kinds, known);
  return 0;
}
