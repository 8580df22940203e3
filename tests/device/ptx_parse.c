/* Modules: directives outside functions, declarations of functions and entries. */
#include <stdarg.h>
#include <stdio.h>

#include "tests/device/ptx_build.h"

void ptx_fail(struct ptx_parser *parser, uint32_t line, const char *format, ...)
{
  if (parser->log_size > 0) {
    char message[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof(message), format, arguments);
    va_end(arguments);
    snprintf(parser->log, parser->log_size, "line %u: %s", line, message);
  }
  longjmp(parser->failed, 1);
}

void *ptx_allocate(struct ptx_parser *parser, size_t bytes)
{
  void *memory = ptx_arena_allocate(parser->module->arena, bytes == 0 ? 1 : bytes);
  if (memory == NULL) {
    ptx_fail(parser, parser->token.line, "no memory");
  }
  return memory;
}

void *ptx_grow(struct ptx_parser *parser, void *array, uint32_t count, uint32_t *capacity,
               size_t size)
{
  if (count < *capacity) {
    return array;
  }
  const uint32_t larger = *capacity == 0 ? 16 : 2 * *capacity;
  void *copy = ptx_allocate(parser, larger * size);
  if (count > 0) {
    memcpy(copy, array, count * size);
  }
  *capacity = larger;
  return copy;
}

const char *ptx_copy_name(struct ptx_parser *parser, const char *text, uint32_t length)
{
  char *name = ptx_allocate(parser, length + 1);
  memcpy(name, text, length);
  return name;
}

bool ptx_same_text(const char *a, uint32_t a_length, const char *b, uint32_t b_length)
{
  return a_length == b_length && memcmp(a, b, a_length) == 0;
}

void ptx_advance(struct ptx_parser *parser)
{
  parser->token = ptx_scan(&parser->scanner);
  if (parser->token.kind == PTX_TOKEN_ERROR) {
    const uint32_t length = parser->token.length;
    ptx_fail(parser, parser->token.line, "unreadable text: '%.*s'",
             (int)(length < 40 ? length : 40), parser->token.text);
  }
}

bool ptx_at_mark(const struct ptx_parser *parser, char mark)
{
  return parser->token.kind == PTX_TOKEN_MARK && parser->token.text[0] == mark;
}

bool ptx_take_mark(struct ptx_parser *parser, char mark)
{
  const bool found = ptx_at_mark(parser, mark);
  if (found) {
    ptx_advance(parser);
  }
  return found;
}

bool ptx_take_word(struct ptx_parser *parser, const char *word)
{
  const bool found =
      parser->token.kind == PTX_TOKEN_WORD &&
      ptx_same_text(parser->token.text, parser->token.length, word, (uint32_t)strlen(word));
  if (found) {
    ptx_advance(parser);
  }
  return found;
}

/* What is in hand, for messages. */
static void fail_expected(struct ptx_parser *parser, const char *what)
{
  const uint32_t length = parser->token.length;
  if (parser->token.kind == PTX_TOKEN_END) {
    ptx_fail(parser, parser->token.line, "%s was expected, but the text ends", what);
  }
  ptx_fail(parser, parser->token.line, "%s was expected at '%.*s'", what,
           (int)(length < 40 ? length : 40), parser->token.text);
}

void ptx_expect_mark(struct ptx_parser *parser, char mark)
{
  if (!ptx_take_mark(parser, mark)) {
    const char what[] = {'\'', mark, '\'', '\0'};
    fail_expected(parser, what);
  }
}

struct ptx_token ptx_expect_word(struct ptx_parser *parser, const char *what)
{
  const struct ptx_token token = parser->token;
  if (token.kind != PTX_TOKEN_WORD) {
    fail_expected(parser, what);
  }
  ptx_advance(parser);
  return token;
}

uint64_t ptx_expect_integer(struct ptx_parser *parser, const char *what)
{
  const uint64_t value = parser->token.value;
  if (parser->token.kind != PTX_TOKEN_INTEGER) {
    fail_expected(parser, what);
  }
  ptx_advance(parser);
  return value;
}

struct ptx_function *ptx_find_function(const struct ptx_module *module, const char *name,
                                       uint32_t length)
{
  for (struct ptx_function *f = module->functions; f != NULL; f = f->next) {
    if (ptx_same_text(name, length, f->name, (uint32_t)strlen(f->name))) {
      return f;
    }
  }
  return NULL;
}

/* Up to three integers. */
static void parse_extent(struct ptx_parser *parser, uint32_t extent[3])
{
  extent[0] = extent[1] = extent[2] = 1;
  uint32_t k = 0;
  do {
    const uint64_t value = ptx_expect_integer(parser, "a number of threads");
    if (k == 3 || value == 0 || value > 1024) {
      ptx_fail(parser, parser->token.line, "threads of a block: up to three numbers of 1 to 1024");
    }
    extent[k++] = (uint32_t)value;
  } while (ptx_take_mark(parser, ','));
}

/* What stands between the parameters and the body. */
static void parse_limits(struct ptx_parser *parser, struct ptx_function *function)
{
  for (;;) {
    const struct ptx_token token = parser->token;
    uint32_t extent[3];
    if (ptx_take_word(parser, ".reqntid")) {
      parse_extent(parser, function->required_threads);
      memcpy(extent, function->required_threads, sizeof(extent));
      function->max_threads = extent[0] * extent[1] * extent[2];
    } else if (ptx_take_word(parser, ".maxntid")) {
      parse_extent(parser, extent);
      function->max_threads = extent[0] * extent[1] * extent[2];
    } else if (ptx_take_word(parser, ".minnctapersm") || ptx_take_word(parser, ".maxnctapersm") ||
               ptx_take_word(parser, ".maxnreg")) {
      (void)ptx_expect_integer(parser, "a number");
    } else if (!ptx_take_word(parser, ".noreturn")) {
      if (token.kind == PTX_TOKEN_WORD) {
        ptx_fail(parser, token.line, "unknown directive %.*s", (int)token.length, token.text);
      }
      break;
    }
  }
  if (function->max_threads > 1024) {
    ptx_fail(parser, parser->token.line, "a block of %u threads: 1024 are the most",
             function->max_threads);
  }
}

static void parse_function(struct ptx_parser *parser, bool is_entry)
{
  struct ptx_symbol *const symbols = parser->symbols;
  struct ptx_function fresh = {.is_entry = is_entry, .module = parser->module, .max_threads = 1024};
  uint32_t capacity = 0;
  parser->function = &fresh;
  if (!is_entry && ptx_at_mark(parser, '(')) {
    ptx_parse_params(parser, &fresh, &capacity);
    fresh.result_count = fresh.param_count;
  }
  const struct ptx_token name = ptx_expect_word(parser, "the name of a function");
  fresh.name = ptx_copy_name(parser, name.text, name.length);
  if (ptx_at_mark(parser, '(')) {
    ptx_parse_params(parser, &fresh, &capacity);
  }
  parse_limits(parser, &fresh);
  struct ptx_function *function = ptx_find_function(parser->module, name.text, name.length);
  if (function == NULL) {
    function = ptx_allocate(parser, sizeof(*function));
    fresh.next = parser->module->functions;
    parser->module->functions = function;
  } else if (function->is_defined && ptx_at_mark(parser, '{')) {
    ptx_fail(parser, name.line, "%s is defined twice", fresh.name);
  } else {
    fresh.next = function->next;
  }
  if (!function->is_defined) {
    *function = fresh;
    function->entry.function = function;
  }
  parser->function = NULL;
  if (ptx_at_mark(parser, '{')) {
    ptx_parse_body(parser, function);
  } else {
    ptx_expect_mark(parser, ';');
  }
  parser->symbols = symbols;
}

static void skip_braces(struct ptx_parser *parser)
{
  uint32_t depth = 0;
  while (!ptx_at_mark(parser, '{')) {
    ptx_advance(parser);
    if (parser->token.kind == PTX_TOKEN_END) {
      return;
    }
  }
  do {
    depth += ptx_at_mark(parser, '{');
    depth -= ptx_at_mark(parser, '}');
    ptx_advance(parser);
  } while (depth > 0 && parser->token.kind != PTX_TOKEN_END);
}

static void skip_line(struct ptx_parser *parser, uint32_t line)
{
  while (parser->token.line == line && parser->token.kind != PTX_TOKEN_END) {
    ptx_advance(parser);
  }
}

static void parse_module(struct ptx_parser *parser)
{
  ptx_advance(parser);
  bool is_extern = false;
  while (parser->token.kind != PTX_TOKEN_END) {
    const struct ptx_token token = parser->token;
    enum ptx_space space;
    if (ptx_take_word(parser, ".version") || ptx_take_word(parser, ".target") ||
        ptx_take_word(parser, ".address_size") || ptx_take_word(parser, ".file") ||
        ptx_take_word(parser, ".loc")) {
      skip_line(parser, token.line);
    } else if (ptx_take_word(parser, ".section")) {
      skip_braces(parser);
    } else if (ptx_take_word(parser, ".pragma")) {
      skip_line(parser, token.line);
    } else if (ptx_take_word(parser, ".extern")) {
      is_extern = true;
      continue;
    } else if (ptx_take_word(parser, ".visible") || ptx_take_word(parser, ".weak") ||
               ptx_take_word(parser, ".common")) {
      continue;
    } else if (ptx_take_word(parser, ".entry")) {
      parse_function(parser, true);
    } else if (ptx_take_word(parser, ".func")) {
      parse_function(parser, false);
    } else if (ptx_space_word(&token, &space) && space != PTX_PARAM && space != PTX_LOCAL) {
      ptx_advance(parser);
      ptx_parse_variables(parser, space, is_extern);
    } else {
      ptx_fail(parser, token.line, "a directive was expected at '%.*s'", (int)token.length,
               token.text);
    }
    is_extern = false;
  }
}

/* What ptxas would refuse at the end. */
static void check_functions(struct ptx_parser *parser)
{
  for (const struct ptx_function *f = parser->module->functions; f != NULL; f = f->next) {
    if (!f->is_defined) {
      ptx_fail(parser, parser->token.line, "%s is declared but not defined", f->name);
    }
    if (f->is_entry && ptx_entry_static_shared(&f->entry) > PTX_MAX_STATIC_SHARED) {
      ptx_fail(parser, parser->token.line,
               "entry %s: %u bytes of static shared memory, %d are the most", f->name,
               ptx_entry_static_shared(&f->entry), PTX_MAX_STATIC_SHARED);
    }
  }
}

struct ptx_module *ptx_module_load(const char *text, char *log, size_t log_size)
{
  struct ptx_arena *arena = ptx_arena_new();
  struct ptx_module *module = arena == NULL ? NULL : ptx_arena_allocate(arena, sizeof(*module));
  const size_t length = strlen(text);
  char *copy = module == NULL ? NULL : ptx_arena_allocate(arena, length + 1);
  struct ptx_parser *parser = copy == NULL ? NULL : ptx_arena_allocate(arena, sizeof(*parser));
  if (parser == NULL) {
    ptx_arena_free(arena);
    snprintf(log, log_size, "no memory");
    return NULL;
  }
  memcpy(copy, text, length);
  module->arena = arena;
  module->text = copy;
  parser->module = module;
  parser->log = log;
  parser->log_size = log_size;
  parser->scanner = (struct ptx_scanner){copy, 1};
  if (setjmp(parser->failed) != 0) {
    ptx_module_free(module);
    return NULL;
  }
  parse_module(parser);
  check_functions(parser);
  return module;
}

void ptx_module_free(struct ptx_module *module)
{
  if (module == NULL) {
    return;
  }
  for (const struct ptx_global *g = module->globals; g != NULL; g = g->next) {
    if (g->address != 0) {
      (void)device_free(g->address);
    }
  }
  ptx_arena_free(module->arena);
}

const struct ptx_entry *ptx_module_entry(const struct ptx_module *module, const char *name)
{
  const struct ptx_function *f = ptx_find_function(module, name, (uint32_t)strlen(name));
  return f != NULL && f->is_entry ? &f->entry : NULL;
}

uint32_t ptx_entry_param_count(const struct ptx_entry *entry)
{
  return entry->function->param_count;
}

void ptx_entry_param(const struct ptx_entry *entry, uint32_t index, uint32_t *offset,
                     uint32_t *bytes)
{
  *offset = entry->function->params[index].offset;
  *bytes = entry->function->params[index].bytes;
}

uint32_t ptx_entry_static_shared(const struct ptx_entry *entry)
{
  const struct ptx_function *function = entry->function;
  uint32_t of_other_entries = 0;
  for (const struct ptx_function *f = function->module->functions; f != NULL; f = f->next) {
    of_other_entries += f->is_entry && f != function ? f->demoted_shared_bytes : 0;
  }
  return function->module->shared_bytes - of_other_entries;
}

uint32_t ptx_entry_max_threads(const struct ptx_entry *entry)
{
  return entry->function->max_threads;
}

bool ptx_module_global(const struct ptx_module *module, const char *name, uint64_t *address,
                       size_t *bytes)
{
  for (const struct ptx_global *g = module->globals; g != NULL; g = g->next) {
    if (strcmp(g->name, name) == 0) {
      *address = g->address;
      *bytes = g->bytes;
      return true;
    }
  }
  return false;
}
