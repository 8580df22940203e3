#include "dsl/ast.h"

const char *ast_op_text(enum ast_op op)
{
  static const char *const texts[] = {
      "-",  "not", "+",  "-", "*",  "/",  "//", "%",   "**",  "@",  "and",
      "or", "<",   "<=", ">", ">=", "==", "!=", "sum", "any", "all"};
  return texts[op];
}

const char *ast_word_text(enum ast_word word)
{
  static const char *const texts[] = {
#define STATEMENT(name, text) text,
#include "dsl/statements.def"
#undef STATEMENT
  };
  return texts[word];
}

static void under(struct ast_expr *node, const struct ast_expr *child)
{
  if (child != NULL && child->depth + 1 > node->depth)
    node->depth = child->depth + 1;
}

struct ast_expr *ast_expr_new(struct arena *arena, struct ast_expr node)
{
  struct ast_expr *made = ARENA_NEW(arena, struct ast_expr);
  *made = node;
  made->depth = 1;
  made->chain = 1;
  switch (node.kind) {
  case AST_INT:
  case AST_FLOAT:
  case AST_BOOL:
  case AST_NAME: break;
  case AST_PAREN:
  case AST_UNARY: under(made, node.operands.a); break;
  case AST_BINARY:
    under(made, node.operands.b);
    if (node.operands.a->depth > made->depth)
      made->depth = node.operands.a->depth;
    made->chain = node.operands.a->chain + 1;
    break;
  case AST_COMPARE:
    for (size_t k = 0; k < node.compare.operands.count; k++)
      under(made, node.compare.operands.items[k]);
    made->chain = (uint32_t)node.compare.operands.count;
    break;
  case AST_CONDITIONAL:
    under(made, node.conditional.condition);
    under(made, node.conditional.yes);
    under(made, node.conditional.no);
    break;
  case AST_CALL:
    for (size_t k = 0; k < node.call.arguments->list.count; k++)
      under(made, node.call.arguments->list.items[k].value);
    break;
  case AST_INDEX:
    under(made, node.index.base);
    for (size_t k = 0; k < node.index.indices->list.count; k++)
      under(made, node.index.indices->list.items[k]);
    break;
  case AST_SLICE:
    under(made, node.slice.low);
    under(made, node.slice.high);
    break;
  case AST_REDUCE:
    under(made, node.reduce.extent);
    under(made, node.reduce.body);
    break;
  }
  return made;
}
