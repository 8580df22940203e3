/* Reading an instruction: its name with modifiers, guard and operands. */
#include "tests/device/ptx_build.h"

struct word {
  enum ptx_class class;
  const char *text;
  int8_t value;
};
static const struct word words[] = {
#define PTX_WORD(class, text, value) {PTX_CLASS_##class, text, (int8_t)(value)},
#include "tests/device/ptx_words.def"
};

struct type_info {
  const char *name;
  unsigned bits;
  bool is_signed, is_float;
};
static const struct type_info types[] = {
    [PTX_PRED] = {"pred", 1, false, false},    [PTX_B8] = {"b8", 8, false, false},
    [PTX_U8] = {"u8", 8, false, false},        [PTX_S8] = {"s8", 8, true, false},
    [PTX_B16] = {"b16", 16, false, false},     [PTX_U16] = {"u16", 16, false, false},
    [PTX_S16] = {"s16", 16, true, false},      [PTX_F16] = {"f16", 16, false, true},
    [PTX_BF16] = {"bf16", 16, false, true},    [PTX_B32] = {"b32", 32, false, false},
    [PTX_U32] = {"u32", 32, false, false},     [PTX_S32] = {"s32", 32, true, false},
    [PTX_F32] = {"f32", 32, false, true},      [PTX_TF32] = {"tf32", 32, false, true},
    [PTX_F16X2] = {"f16x2", 32, false, false}, [PTX_BF16X2] = {"bf16x2", 32, false, false},
    [PTX_B64] = {"b64", 64, false, false},     [PTX_U64] = {"u64", 64, false, false},
    [PTX_S64] = {"s64", 64, true, false},      [PTX_F64] = {"f64", 64, false, true},
};

bool ptx_type_word(const struct ptx_token *token, enum ptx_type *type)
{
  for (unsigned k = 0; k < sizeof(types) / sizeof(types[0]); k++) {
    if (token->kind == PTX_TOKEN_WORD && token->text[0] == '.' &&
        ptx_same_text(token->text + 1, token->length - 1, types[k].name,
                      (uint32_t)strlen(types[k].name))) {
      *type = (enum ptx_type)k;
      return true;
    }
  }
  return false;
}

unsigned ptx_type_bits(enum ptx_type type)
{
  return types[type].bits;
}

bool ptx_type_is_signed(enum ptx_type type)
{
  return types[type].is_signed;
}

bool ptx_type_is_float(enum ptx_type type)
{
  return types[type].is_float;
}

/* The number N of a name `prefix`N, written without leading zeros. */
static bool numbered(const char *text, uint32_t length, uint32_t prefix, uint32_t *number)
{
  *number = 0;
  if (length <= prefix || length > prefix + 9 || (text[prefix] == '0' && length > prefix + 1)) {
    return false;
  }
  for (uint32_t k = prefix; k < length; k++) {
    if (text[k] < '0' || text[k] > '9') {
      return false;
    }
    *number = *number * 10 + (uint32_t)(text[k] - '0');
  }
  return true;
}

const struct ptx_symbol *ptx_find_symbol(const struct ptx_parser *parser, const char *text,
                                         uint32_t length)
{
  for (const struct ptx_symbol *s = parser->symbols; s != NULL; s = s->next) {
    uint32_t number;
    if (s->count == 0 ? ptx_same_text(text, length, s->text, s->length)
                      : length > s->length && memcmp(text, s->text, s->length) == 0 &&
                            numbered(text, length, s->length, &number) && number < s->count) {
      return s;
    }
  }
  return NULL;
}

struct special {
  const char *text;
  enum ptx_given_kind kind;
  int64_t value;
  enum ptx_type type;
};
static const struct special specials[] = {
    {"%tid", PTX_GIVEN_TID, 0, PTX_U32},
    {"%ntid", PTX_GIVEN_NTID, 0, PTX_U32},
    {"%ctaid", PTX_GIVEN_CTAID, 0, PTX_U32},
    {"%nctaid", PTX_GIVEN_NCTAID, 0, PTX_U32},
    {"%laneid", PTX_GIVEN_LANEID, 0, PTX_U32},
    {"%warpid", PTX_GIVEN_WARPID, 0, PTX_U32},
    {"%nwarpid", PTX_GIVEN_NWARPID, 0, PTX_U32},
    {"%gridid", PTX_GIVEN_ZERO, 0, PTX_U64},
    {"%smid", PTX_GIVEN_ZERO, 0, PTX_U32},
    {"%lanemask_eq", PTX_GIVEN_LANEMASK, PTX_EQ, PTX_U32},
    {"%lanemask_lt", PTX_GIVEN_LANEMASK, PTX_LT, PTX_U32},
    {"%lanemask_le", PTX_GIVEN_LANEMASK, PTX_LE, PTX_U32},
    {"%lanemask_gt", PTX_GIVEN_LANEMASK, PTX_GT, PTX_U32},
    {"%lanemask_ge", PTX_GIVEN_LANEMASK, PTX_GE, PTX_U32},
    {"%dynamic_smem_size", PTX_GIVEN_DYNAMIC_SHARED_SIZE, 0, PTX_U32},
    {"%total_smem_size", PTX_GIVEN_TOTAL_SHARED_SIZE, 0, PTX_U32},
};

/* A register that every thread finds filled in; the same one for the same contents. */
static int32_t given_register(struct ptx_parser *parser, enum ptx_given_kind kind, int64_t value)
{
  for (uint32_t k = 0; k < parser->given_count; k++) {
    if (parser->given[k].kind == kind && parser->given[k].value == value) {
      return parser->given[k].reg;
    }
  }
  parser->given = ptx_grow(parser, parser->given, parser->given_count, &parser->given_capacity,
                           sizeof(*parser->given));
  const int32_t reg = ptx_new_register(parser);
  parser->given[parser->given_count++] = (struct ptx_given){kind, reg, value};
  return reg;
}

static bool special_value(struct ptx_parser *parser, const struct ptx_token *token,
                          struct ptx_value *value)
{
  if (ptx_same_text(token->text, token->length, "%clock", 6) ||
      ptx_same_text(token->text, token->length, "%clock64", 8) ||
      ptx_same_text(token->text, token->length, "%globaltimer", 12)) {
    value->kind = PTX_VALUE_CLOCK;
    return true;
  }
  for (size_t k = 0; k < sizeof(specials) / sizeof(specials[0]); k++) {
    const struct special *s = &specials[k];
    const uint32_t length = (uint32_t)strlen(s->text);
    const bool has_axes = s->kind <= PTX_GIVEN_NCTAID;
    if (token->length != length + (has_axes ? 2 : 0) || memcmp(token->text, s->text, length) != 0 ||
        (has_axes && (token->text[length] != '.' || token->text[length + 1] < 'x' ||
                      token->text[length + 1] > 'z'))) {
      continue;
    }
    value->kind = PTX_VALUE_REGISTER;
    value->type = s->type;
    value->index =
        given_register(parser, s->kind, has_axes ? token->text[length + 1] - 'x' : s->value);
    return true;
  }
  return false;
}

static void word_value(struct ptx_parser *parser, const struct ptx_token *token,
                       struct ptx_value *value)
{
  value->text = token->text;
  value->length = token->length;
  if (ptx_same_text(token->text, token->length, "_", 1)) {
    value->kind = PTX_VALUE_SINK;
    return;
  }
  if (ptx_same_text(token->text, token->length, "WARP_SZ", 7)) {
    value->kind = PTX_VALUE_INTEGER;
    value->bits = PTX_LANES;
    return;
  }
  const struct ptx_symbol *symbol = ptx_find_symbol(parser, token->text, token->length);
  if (symbol == NULL) {
    if (!special_value(parser, token, value)) {
      if (token->text[0] == '%') {
        ptx_fail(parser, token->line, "the register %.*s is not declared", (int)token->length,
                 token->text);
      }
      value->kind = PTX_VALUE_NAME;
    }
    return;
  }
  if (symbol->kind == PTX_SYMBOL_REGISTERS) {
    uint32_t number = 0;
    if (symbol->count > 0) {
      (void)numbered(token->text, token->length, symbol->length, &number);
    }
    value->kind = symbol->type == PTX_PRED ? PTX_VALUE_PREDICATE : PTX_VALUE_REGISTER;
    value->type = symbol->type;
    value->index = symbol->first + (int32_t)number;
    return;
  }
  value->kind = PTX_VALUE_VARIABLE;
  value->symbol = symbol;
  value->bits = 0;
}

/* Where a variable lies is a register for local memory, whose place differs between calls. */
static void settle_local(struct ptx_parser *parser, struct ptx_value *value)
{
  if (value->kind == PTX_VALUE_VARIABLE && value->symbol->space == PTX_LOCAL) {
    value->kind = PTX_VALUE_REGISTER;
    value->any_width = true;
    value->index =
        given_register(parser, PTX_GIVEN_LOCAL, (int64_t)(value->symbol->address + value->bits));
  }
}

static bool at_number(const struct ptx_parser *parser)
{
  return parser->token.kind == PTX_TOKEN_INTEGER || parser->token.kind == PTX_TOKEN_FLOAT32 ||
         parser->token.kind == PTX_TOKEN_FLOAT64;
}

static struct ptx_value parse_value(struct ptx_parser *parser)
{
  struct ptx_value value = {.kind = PTX_VALUE_INTEGER};
  value.negated = ptx_take_mark(parser, '!');
  const bool minus = ptx_take_mark(parser, '-');
  if (at_number(parser)) {
    value.bits = parser->token.value;
    if (parser->token.kind == PTX_TOKEN_INTEGER) {
      value.bits = minus ? 0 - value.bits : value.bits;
    } else {
      const bool wide = parser->token.kind == PTX_TOKEN_FLOAT64;
      value.kind = wide ? PTX_VALUE_FLOAT64 : PTX_VALUE_FLOAT32;
      value.bits ^= minus ? UINT64_C(1) << (wide ? 63 : 31) : 0;
    }
    ptx_advance(parser);
    return value;
  }
  if (minus || parser->token.kind != PTX_TOKEN_WORD) {
    ptx_fail(parser, parser->token.line, "an operand was expected at '%.*s'",
             (int)parser->token.length, parser->token.text);
  }
  const struct ptx_token token = parser->token;
  ptx_advance(parser);
  word_value(parser, &token, &value);
  if (value.kind == PTX_VALUE_VARIABLE) {
    while (ptx_at_mark(parser, '+') || ptx_at_mark(parser, '-')) {
      const bool subtract = ptx_at_mark(parser, '-');
      ptx_advance(parser);
      const uint64_t amount = ptx_expect_integer(parser, "an offset");
      value.bits += subtract ? 0 - amount : amount;
    }
  }
  settle_local(parser, &value);
  return value;
}

static void add_value(struct ptx_parser *parser, struct ptx_statement *s,
                      struct ptx_operand *operand, struct ptx_value value)
{
  if (s->value_count == PTX_MAX_VALUES) {
    ptx_fail(parser, s->line, "an instruction with more than %d operands", PTX_MAX_VALUES);
  }
  s->values[s->value_count++] = value;
  operand->count++;
}

static void parse_values(struct ptx_parser *parser, struct ptx_statement *s,
                         struct ptx_operand *operand, char end)
{
  while (!ptx_take_mark(parser, end)) {
    if (operand->count > 0) {
      ptx_expect_mark(parser, ',');
    }
    add_value(parser, s, operand, parse_value(parser));
  }
}

static void parse_address(struct ptx_parser *parser, struct ptx_statement *s,
                          struct ptx_operand *operand)
{
  add_value(parser, s, operand, parse_value(parser));
  while (ptx_at_mark(parser, '+') || ptx_at_mark(parser, '-')) {
    const bool subtract = ptx_at_mark(parser, '-');
    ptx_advance(parser);
    const bool minus = ptx_take_mark(parser, '-');
    const int64_t amount = (int64_t)ptx_expect_integer(parser, "an offset");
    operand->offset += subtract != minus ? -amount : amount;
  }
  ptx_expect_mark(parser, ']');
}

static void parse_operand(struct ptx_parser *parser, struct ptx_statement *s)
{
  if (s->operand_count == PTX_MAX_OPERANDS) {
    ptx_fail(parser, s->line, "an instruction with more than %d operands", PTX_MAX_OPERANDS);
  }
  struct ptx_operand *operand = &s->operands[s->operand_count++];
  *operand = (struct ptx_operand){.first = s->value_count};
  if (ptx_take_mark(parser, '[')) {
    operand->kind = PTX_OPERAND_ADDRESS;
    parse_address(parser, s, operand);
  } else if (ptx_take_mark(parser, '{')) {
    operand->kind = PTX_OPERAND_VECTOR;
    parse_values(parser, s, operand, '}');
  } else if (ptx_take_mark(parser, '(')) {
    operand->kind = PTX_OPERAND_LIST;
    parse_values(parser, s, operand, ')');
  } else {
    operand->kind = PTX_OPERAND_VALUE;
    add_value(parser, s, operand, parse_value(parser));
    if (ptx_take_mark(parser, '|')) {
      operand->has_second = true;
      operand->second = parse_value(parser);
    }
  }
}

/* The word of the class that the instruction takes. */
static const struct word *find_word(const char *text, uint32_t length, uint64_t classes)
{
  for (size_t k = 0; k < sizeof(words) / sizeof(words[0]); k++) {
    if ((classes >> words[k].class & 1) != 0 &&
        ptx_same_text(text, length, words[k].text, (uint32_t)strlen(words[k].text))) {
      return &words[k];
    }
  }
  return NULL;
}

static bool add_modifier(struct ptx_modifiers *m, const struct word *word)
{
  if (word->class == PTX_CLASS_TYPE) {
    if (m->type_count == PTX_MODIFIER_TYPES) {
      return false;
    }
    m->types[m->type_count++] = (uint8_t)word->value;
  } else if (word->class == PTX_CLASS_SPACE) {
    if (m->space_count == PTX_MODIFIER_SPACES) {
      return false;
    }
    m->spaces[m->space_count++] = (uint8_t)word->value;
  }
  m->classes |= UINT64_C(1) << word->class;
  m->value[word->class] = word->value;
  return true;
}

/* The row of the instruction and its modifiers; no row when anything in the name is unknown. */
static void parse_name(struct ptx_statement *s, const struct ptx_token *token)
{
  const char *rest;
  const char *end = token->text + token->length;
  s->row = ptx_find_opcode(token->text, token->length, &rest);
  while (s->row != NULL && rest < end) {
    rest++; /* the dot */
    const char *stop = rest;
    while (stop < end && *stop != '.') {
      stop++;
    }
    const struct word *word = find_word(rest, (uint32_t)(stop - rest), s->row->classes);
    if (word == NULL || !add_modifier(&s->modifiers, word)) {
      s->row = NULL;
    }
    rest = stop;
  }
}

void ptx_parse_statement(struct ptx_parser *parser, struct ptx_statement *s)
{
  memset(&s->modifiers, 0, sizeof(s->modifiers));
  s->operand_count = s->value_count = 0;
  s->line = parser->token.line;
  s->text = parser->token.text;
  s->has_guard = ptx_take_mark(parser, '@');
  if (s->has_guard) {
    s->guard = parse_value(parser);
    if (s->guard.kind != PTX_VALUE_PREDICATE) {
      ptx_fail(parser, s->line, "a predicate was expected after '@'");
    }
  }
  const struct ptx_token name = ptx_expect_word(parser, "an instruction");
  parse_name(s, &name);
  if (s->row == NULL) { /* its operands can be of any form */
    while (!ptx_at_mark(parser, ';') && parser->token.kind != PTX_TOKEN_END) {
      ptx_advance(parser);
    }
  } else if (!ptx_at_mark(parser, ';')) {
    do {
      parse_operand(parser, s);
    } while (ptx_take_mark(parser, ','));
  }
  s->length = (uint32_t)(parser->token.text - s->text) + 1;
  ptx_expect_mark(parser, ';');
}
