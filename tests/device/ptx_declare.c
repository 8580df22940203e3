/* Declarations: registers, variables with their initial contents, parameters. */
#include "tests/device/ptx_build.h"

static const uint32_t MAX_VARIABLE_BYTES = UINT32_C(1) << 30;

bool ptx_space_word(const struct ptx_token *token, enum ptx_space *space)
{
  static const struct {
    const char *text;
    enum ptx_space space;
  } spaces[] = {{".global", PTX_GLOBAL},
                {".shared", PTX_SHARED},
                {".local", PTX_LOCAL},
                {".param", PTX_PARAM},
                {".const", PTX_CONST}};
  for (size_t k = 0; k < sizeof(spaces) / sizeof(spaces[0]); k++) {
    if (token->kind == PTX_TOKEN_WORD && ptx_same_text(token->text, token->length, spaces[k].text,
                                                       (uint32_t)strlen(spaces[k].text))) {
      *space = spaces[k].space;
      return true;
    }
  }
  return false;
}

static struct ptx_symbol *add_symbol(struct ptx_parser *parser, enum ptx_symbol_kind kind,
                                     const struct ptx_token *name)
{
  struct ptx_symbol *symbol = ptx_allocate(parser, sizeof(*symbol));
  symbol->kind = kind;
  symbol->text = name->text;
  symbol->length = name->length;
  symbol->next = parser->symbols;
  parser->symbols = symbol;
  return symbol;
}

void ptx_parse_registers(struct ptx_parser *parser)
{
  const struct ptx_token type_token = ptx_expect_word(parser, "a type of registers");
  enum ptx_type type;
  if (!ptx_type_word(&type_token, &type)) {
    ptx_fail(parser, type_token.line, "registers of type %.*s are not supported",
             (int)type_token.length, type_token.text);
  }
  do {
    const struct ptx_token name = ptx_expect_word(parser, "the name of a register");
    struct ptx_symbol *symbol = add_symbol(parser, PTX_SYMBOL_REGISTERS, &name);
    uint64_t count = 1;
    symbol->type = type;
    if (ptx_take_mark(parser, '<')) {
      count = ptx_expect_integer(parser, "the number of registers");
      ptx_expect_mark(parser, '>');
      if (count == 0 || count > 1 << 20) {
        ptx_fail(parser, name.line, "%llu registers", (unsigned long long)count);
      }
      symbol->count = (uint32_t)count;
    }
    uint32_t *total =
        type == PTX_PRED ? &parser->function->predicate_count : &parser->function->register_count;
    symbol->first = (int32_t)*total;
    *total += (uint32_t)count;
  } while (ptx_take_mark(parser, ','));
  ptx_expect_mark(parser, ';');
}

/* .align N, .ptr and what it says of its target, a type; in any order that PTX has. */
static void parse_attributes(struct ptx_parser *parser, enum ptx_type *type, uint32_t *alignment)
{
  *alignment = 0;
  for (;;) {
    if (ptx_take_word(parser, ".align")) {
      const uint64_t value = ptx_expect_integer(parser, "an alignment");
      if (value == 0 || value > 1024 || (value & (value - 1)) != 0) {
        ptx_fail(parser, parser->token.line, "an alignment of %llu", (unsigned long long)value);
      }
      *alignment = (uint32_t)value;
      continue;
    }
    if (ptx_take_word(parser, ".ptr")) {
      enum ptx_space space;
      if (ptx_space_word(&parser->token, &space)) {
        ptx_advance(parser);
      }
      if (ptx_take_word(parser, ".align")) { /* of what the pointer points at */
        (void)ptx_expect_integer(parser, "an alignment");
      }
      return;
    }
    if (!ptx_type_word(&parser->token, type)) {
      return;
    }
    ptx_advance(parser);
    const uint32_t natural = (ptx_type_bits(*type) + 7) / 8;
    *alignment = *alignment > natural ? *alignment : natural;
  }
}

/* [2][3]: the number of elements, 0 for []. */
static uint64_t parse_dimensions(struct ptx_parser *parser)
{
  uint64_t count = 1;
  while (ptx_take_mark(parser, '[')) {
    count *= ptx_at_mark(parser, ']') ? 0 : ptx_expect_integer(parser, "a number of elements");
    ptx_expect_mark(parser, ']');
    if (count > MAX_VARIABLE_BYTES) {
      ptx_fail(parser, parser->token.line, "a variable of more than %u bytes", MAX_VARIABLE_BYTES);
    }
  }
  return count;
}

static uint32_t align_up(uint32_t value, uint32_t alignment)
{
  return (value + alignment - 1) & ~(alignment - 1);
}

/* The address of a variable given by name, with the window of its space where it is generic. */
static uint64_t variable_address(struct ptx_parser *parser, const struct ptx_token *name,
                                 bool is_generic)
{
  const struct ptx_symbol *symbol = ptx_find_symbol(parser, name->text, name->length);
  if (symbol == NULL || symbol->kind != PTX_SYMBOL_VARIABLE) {
    ptx_fail(parser, name->line, "'%.*s' is not a variable declared before", (int)name->length,
             name->text);
  }
  return symbol->address + (is_generic && symbol->space == PTX_SHARED ? PTX_WINDOW_SHARED : 0);
}

static uint64_t parse_initial_value(struct ptx_parser *parser, enum ptx_type type)
{
  const bool is_generic = ptx_take_word(parser, "generic");
  if (is_generic) {
    ptx_expect_mark(parser, '(');
  }
  uint64_t bits = 0;
  if (parser->token.kind == PTX_TOKEN_WORD) {
    const struct ptx_token name = ptx_expect_word(parser, "a variable");
    bits = variable_address(parser, &name, is_generic);
  } else {
    const bool minus = ptx_take_mark(parser, '-');
    const struct ptx_token token = parser->token;
    const bool is_float = token.kind == PTX_TOKEN_FLOAT32 || token.kind == PTX_TOKEN_FLOAT64;
    if (!is_float) {
      bits = ptx_expect_integer(parser, "an initial value");
      bits = minus ? 0 - bits : bits;
    } else {
      ptx_advance(parser);
      bits = token.value;
      if (token.kind == PTX_TOKEN_FLOAT64 && type == PTX_F32) {
        bits = ptx_from_double(PTX_FLOAT_F32, ptx_f64(bits), PTX_ROUND_NEAREST);
      }
      bits ^= minus ? UINT64_C(1) << (type == PTX_F64 ? 63 : 31) : 0;
    }
  }
  if (is_generic) {
    ptx_expect_mark(parser, ')');
    if (ptx_take_mark(parser, '+')) {
      bits += ptx_expect_integer(parser, "an offset");
    }
  }
  return bits;
}

/* Values in nested braces, in order. */
static void parse_initialiser(struct ptx_parser *parser, enum ptx_type type, unsigned char *memory,
                              uint32_t bytes)
{
  const uint32_t size = (ptx_type_bits(type) + 7) / 8;
  uint32_t at = 0, depth = 0;
  do {
    while (ptx_take_mark(parser, '{')) {
      depth++;
    }
    const uint64_t bits = parse_initial_value(parser, type);
    if (bytes - at < size) {
      ptx_fail(parser, parser->token.line, "more initial values than the variable holds");
    }
    memcpy(memory + at, &bits, size);
    at += size;
    while (depth > 0 && ptx_take_mark(parser, '}')) {
      depth--;
    }
  } while (ptx_take_mark(parser, ','));
  if (depth > 0) {
    ptx_expect_mark(parser, '}');
  }
}

static uint64_t place_global(struct ptx_parser *parser, const struct ptx_token *name,
                             uint32_t bytes)
{
  struct ptx_global *global = ptx_allocate(parser, sizeof(*global));
  global->name = ptx_copy_name(parser, name->text, name->length);
  global->bytes = bytes;
  global->address = device_allocate(bytes == 0 ? 1 : bytes);
  if (global->address == 0) {
    ptx_fail(parser, name->line, "no memory for the %u bytes of %s", bytes, global->name);
  }
  global->next = parser->module->globals;
  parser->module->globals = global;
  memset(device_translate(global->address, bytes == 0 ? 1 : bytes), 0, bytes == 0 ? 1 : bytes);
  return global->address;
}

static uint64_t place(struct ptx_parser *parser, struct ptx_symbol *symbol,
                      const struct ptx_token *name, uint32_t alignment, bool is_extern)
{
  uint32_t *top = NULL, base = 0;
  switch (symbol->space) {
  case PTX_GENERIC:
  case PTX_GLOBAL:
  case PTX_CONST:
    if (is_extern) {
      ptx_fail(parser, name->line, "the variable %.*s is defined in another module",
               (int)name->length, name->text);
    }
    return place_global(parser, name, symbol->bytes);
  case PTX_SHARED:
    if (is_extern) {
      return PTX_SHARED_BASE;
    }
    base = PTX_STATIC_SHARED_BASE;
    top = &parser->module->shared_bytes;
    break;
  case PTX_LOCAL: top = &parser->local_top; break;
  case PTX_PARAM: top = &parser->param_top; break;
  }
  const uint32_t offset = align_up(*top, alignment);
  if (symbol->space == PTX_SHARED && parser->function != NULL) {
    parser->function->demoted_shared_bytes += offset + symbol->bytes - *top;
  }
  *top = offset + symbol->bytes;
  return base + offset;
}

void ptx_parse_variables(struct ptx_parser *parser, enum ptx_space space, bool is_extern)
{
  enum ptx_type type = PTX_B8;
  uint32_t alignment;
  parse_attributes(parser, &type, &alignment);
  do {
    const struct ptx_token name = ptx_expect_word(parser, "the name of a variable");
    const uint64_t bytes = parse_dimensions(parser) * ((ptx_type_bits(type) + 7) / 8);
    if (bytes > MAX_VARIABLE_BYTES ||
        ((space == PTX_SHARED || space == PTX_LOCAL) && bytes > 1 << 24)) {
      ptx_fail(parser, name.line, "a variable of %llu bytes", (unsigned long long)bytes);
    }
    struct ptx_symbol *symbol = add_symbol(parser, PTX_SYMBOL_VARIABLE, &name);
    symbol->space = space;
    symbol->bytes = (uint32_t)bytes;
    symbol->address = place(parser, symbol, &name, alignment == 0 ? 1 : alignment, is_extern);
    if (ptx_take_mark(parser, '=')) {
      if (space != PTX_GLOBAL && space != PTX_CONST) {
        ptx_fail(parser, name.line, "only .global and .const variables have initial values");
      }
      parse_initialiser(parser, type, device_translate(symbol->address, bytes), (uint32_t)bytes);
    }
  } while (ptx_take_mark(parser, ','));
  ptx_expect_mark(parser, ';');
}

void ptx_parse_params(struct ptx_parser *parser, struct ptx_function *function, uint32_t *capacity)
{
  ptx_expect_mark(parser, '(');
  while (!ptx_take_mark(parser, ')')) {
    enum ptx_type type = PTX_B8;
    uint32_t alignment;
    if (!ptx_take_word(parser, ".param")) {
      ptx_fail(parser, parser->token.line, "a parameter was expected: .param");
    }
    parse_attributes(parser, &type, &alignment);
    const struct ptx_token name = ptx_expect_word(parser, "the name of a parameter");
    const uint64_t bytes = parse_dimensions(parser) * ((ptx_type_bits(type) + 7) / 8);
    if (bytes > 32764) {
      ptx_fail(parser, name.line, "a parameter of %llu bytes", (unsigned long long)bytes);
    }
    struct ptx_symbol *symbol = add_symbol(parser, PTX_SYMBOL_VARIABLE, &name);
    alignment = alignment == 0 ? 1 : alignment;
    symbol->space = PTX_PARAM;
    symbol->bytes = (uint32_t)bytes;
    symbol->address = align_up(function->param_bytes, alignment);
    function->param_bytes = (uint32_t)(symbol->address + bytes);
    function->params = ptx_grow(parser, function->params, function->param_count, capacity,
                                sizeof(*function->params));
    function->params[function->param_count++] =
        (struct ptx_param){ptx_copy_name(parser, name.text, name.length), (uint32_t)symbol->address,
                           (uint32_t)bytes, alignment};
    if (!ptx_at_mark(parser, ')')) {
      ptx_expect_mark(parser, ',');
    }
  }
}
