/* Function bodies: blocks, labels and instructions in order; then the targets of branches. */
#include "tests/device/ptx_build.h"

static void open_scope(struct ptx_parser *parser)
{
  parser->scope_parents = ptx_grow(parser, parser->scope_parents, parser->scope_count,
                                   &parser->scope_capacity, sizeof(*parser->scope_parents));
  parser->scope_parents[parser->scope_count] = parser->scope;
  parser->scope = parser->scope_count++;
}

static void add_label(struct ptx_parser *parser, const struct ptx_token *name)
{
  for (uint32_t k = 0; k < parser->label_count; k++) {
    const struct ptx_label *other = &parser->labels[k];
    if (other->scope == parser->scope &&
        ptx_same_text(name->text, name->length, other->text, other->length)) {
      ptx_fail(parser, name->line, "the label %.*s is in line %u already", (int)name->length,
               name->text, other->line);
    }
  }
  parser->labels = ptx_grow(parser, parser->labels, parser->label_count, &parser->label_capacity,
                            sizeof(*parser->labels));
  parser->labels[parser->label_count++] =
      (struct ptx_label){name->text, name->length, parser->scope, name->line, parser->op_count};
}

/* name: .branchtargets a, b, ...; */
static void parse_targets(struct ptx_parser *parser, const struct ptx_token *name)
{
  struct ptx_fixup *targets = NULL;
  uint32_t count = 0, capacity = 0;
  do {
    const struct ptx_token label = ptx_expect_word(parser, "a label");
    targets = ptx_grow(parser, targets, count, &capacity, sizeof(*targets));
    targets[count++] = (struct ptx_fixup){label.text, label.length, parser->scope, label.line, 0};
  } while (ptx_take_mark(parser, ','));
  ptx_expect_mark(parser, ';');
  parser->target_lists = ptx_grow(parser, parser->target_lists, parser->target_list_count,
                                  &parser->target_list_capacity, sizeof(*parser->target_lists));
  parser->target_lists[parser->target_list_count++] =
      (struct ptx_target_list){name->text, name->length, targets, count};
}

static void skip_to_semicolon(struct ptx_parser *parser)
{
  while (!ptx_take_mark(parser, ';')) {
    if (parser->token.kind == PTX_TOKEN_END) {
      ptx_fail(parser, parser->token.line, "the text ends within a directive");
    }
    ptx_advance(parser);
  }
}

static void parse_instruction(struct ptx_parser *parser, struct ptx_statement *statement)
{
  ptx_parse_statement(parser, statement);
  parser->ops =
      ptx_grow(parser, parser->ops, parser->op_count, &parser->op_capacity, sizeof(*parser->ops));
  struct ptx_op *op = &parser->ops[parser->op_count];
  memset(op, 0, sizeof(*op));
  ptx_decode(parser, statement, op);
  parser->op_count++;
}

/* A directive of a body; false when it is none. */
static bool parse_directive(struct ptx_parser *parser)
{
  const struct ptx_token token = parser->token;
  enum ptx_space space;
  if (ptx_take_word(parser, ".reg")) {
    ptx_parse_registers(parser);
  } else if (ptx_space_word(&token, &space)) {
    ptx_advance(parser);
    ptx_parse_variables(parser, space, false);
  } else if (ptx_take_word(parser, ".pragma")) {
    skip_to_semicolon(parser);
  } else if (ptx_take_word(parser, ".loc") || ptx_take_word(parser, ".file")) {
    while (parser->token.line == token.line && parser->token.kind != PTX_TOKEN_END) {
      ptx_advance(parser);
    }
  } else if (token.kind == PTX_TOKEN_WORD && token.text[0] == '.') {
    ptx_fail(parser, token.line, "unknown directive %.*s", (int)token.length, token.text);
  } else {
    return false;
  }
  return true;
}

/* A label, with what its line may define; false when the word does not begin one. */
static bool parse_label(struct ptx_parser *parser)
{
  const struct ptx_token name = parser->token;
  if (name.kind != PTX_TOKEN_WORD || *parser->scanner.at != ':') {
    return false;
  }
  ptx_advance(parser);
  ptx_expect_mark(parser, ':');
  if (ptx_take_word(parser, ".branchtargets")) {
    parse_targets(parser, &name);
  } else if (ptx_take_word(parser, ".callprototype") || ptx_take_word(parser, ".calltargets")) {
    skip_to_semicolon(parser);
  } else {
    add_label(parser, &name);
  }
  return true;
}

static void parse_block(struct ptx_parser *parser, struct ptx_statement *statement)
{
  struct ptx_symbol *const symbols = parser->symbols;
  const uint32_t scope = parser->scope;
  const uint32_t param_top = parser->param_top;
  open_scope(parser);
  ptx_expect_mark(parser, '{');
  while (!ptx_take_mark(parser, '}')) {
    if (ptx_at_mark(parser, '{')) {
      parse_block(parser, statement);
    } else if (!ptx_take_mark(parser, ';') && !parse_directive(parser) && !parse_label(parser)) {
      parse_instruction(parser, statement);
    }
  }
  if (parser->function->frame_param_bytes < parser->param_top) {
    parser->function->frame_param_bytes = parser->param_top;
  }
  parser->symbols = symbols;
  parser->scope = scope;
  parser->param_top = param_top;
}

static uint32_t find_label(struct ptx_parser *parser, const struct ptx_fixup *reference)
{
  for (uint32_t scope = reference->scope;; scope = parser->scope_parents[scope]) {
    for (uint32_t k = 0; k < parser->label_count; k++) {
      const struct ptx_label *label = &parser->labels[k];
      if (label->scope == scope &&
          ptx_same_text(reference->text, reference->length, label->text, label->length)) {
        return label->op;
      }
    }
    if (scope == 0) {
      ptx_fail(parser, reference->line, "there is no label %.*s", (int)reference->length,
               reference->text);
    }
  }
}

/* The targets of a brx.idx: its fixup names the list. */
static void settle_targets(struct ptx_parser *parser, struct ptx_op *op,
                           const struct ptx_fixup *fixup)
{
  for (uint32_t k = 0; k < parser->target_list_count; k++) {
    const struct ptx_target_list *list = &parser->target_lists[k];
    if (ptx_same_text(fixup->text, fixup->length, list->text, list->length)) {
      uint32_t *targets = ptx_allocate(parser, list->count * sizeof(*targets));
      for (uint32_t t = 0; t < list->count; t++) {
        targets[t] = find_label(parser, &list->targets[t]);
      }
      op->targets = targets;
      op->target_count = list->count;
      return;
    }
  }
  ptx_fail(parser, fixup->line, "there is no .branchtargets %.*s", (int)fixup->length, fixup->text);
}

static void settle_branches(struct ptx_parser *parser)
{
  for (uint32_t k = 0; k < parser->fixup_count; k++) {
    const struct ptx_fixup *fixup = &parser->fixups[k];
    struct ptx_op *op = &parser->ops[fixup->op];
    if (op->src_count > 0) {
      settle_targets(parser, op, fixup);
    } else {
      op->target = find_label(parser, fixup);
    }
  }
}

/* The end of a body is a return. */
static void add_return(struct ptx_parser *parser, struct ptx_statement *statement)
{
  static const char text[] = "ret;";
  const char *rest;
  memset(statement, 0, sizeof(*statement));
  statement->row = ptx_find_opcode(text, 3, &rest);
  statement->text = text;
  statement->length = sizeof(text) - 1;
  statement->line = parser->token.line;
  parser->ops =
      ptx_grow(parser, parser->ops, parser->op_count, &parser->op_capacity, sizeof(*parser->ops));
  memset(&parser->ops[parser->op_count], 0, sizeof(*parser->ops));
  ptx_decode(parser, statement, &parser->ops[parser->op_count]);
  parser->op_count++;
}

void ptx_parse_body(struct ptx_parser *parser, struct ptx_function *function)
{
  struct ptx_statement *statement = ptx_allocate(parser, sizeof(*statement));
  parser->function = function;
  parser->ops = NULL;
  parser->given = NULL;
  parser->op_count = parser->op_capacity = parser->given_count = parser->given_capacity = 0;
  parser->label_count = parser->fixup_count = parser->target_list_count = 0;
  parser->constant_count = parser->scope_count = parser->scope = 0;
  parser->local_top = 0;
  parser->param_top = function->param_bytes;
  parse_block(parser, statement);
  add_return(parser, statement);
  settle_branches(parser);

  function->ops = parser->ops;
  function->op_count = parser->op_count;
  function->given = parser->given;
  function->given_count = parser->given_count;
  function->local_bytes = parser->local_top;
  function->constant_count = parser->constant_count;
  function->constants = ptx_allocate(parser, parser->constant_count * sizeof(*function->constants));
  for (uint32_t k = 0; k < parser->constant_count; k++) {
    for (uint32_t lane = 0; lane < PTX_LANES; lane++) {
      function->constants[k][lane] = parser->constants[k];
    }
  }
  function->is_defined = true;
  parser->function = NULL;
  if (!ptx_find_joins(function)) {
    ptx_fail(parser, parser->token.line, "no memory");
  }
}
