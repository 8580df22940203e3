/* The checker's way through a file and through each attention of it. */
#include "dsl/check.h"

#include "dsl/parse.h"

#include <string.h>

struct diagnostic *check_error(struct check *check, enum diag_code code, struct span span,
                               const char *format, ...)
{
  va_list arguments;
  va_start(arguments, format);
  const char *message = arena_vformat(check->arena, format, arguments);
  va_end(arguments);
  struct diagnostic *diagnostic = diag_report(check->diagnostics, code, span, "%s", message);
  if (check->call_depth > 0)
    diag_related(check->diagnostics, diagnostic, check->call_site, "used here");
  return diagnostic;
}

bool check_text_is(const char *a, const char *b)
{
  return strcmp(a, b) == 0;
}

void check_suggest(struct check *check, struct diagnostic *diagnostic, enum foreign_use use,
                   const char *name, const char *const *candidates, size_t count)
{
  foreign_suggest(check->diagnostics, diagnostic, use, name, candidates, count);
}

static bool may_repeat(enum ast_word word)
{
  return word == WORD_INPUT || word == WORD_LET || word == WORD_SCORE || word == WORD_MASK ||
         word == WORD_MAP;
}

static void sort_statements(struct check *check, struct statements *statements)
{
  const struct ast_statements *list = check->item->statements;
  for (size_t k = 0; k < list->list.count; k++) {
    const struct ast_statement *statement = list->list.items[k];
    const char *text = ast_word_text(statement->word);
    if (statement->word == WORD_STATE || statement->word == WORD_OUT) {
      check_error(check, DIAG_WRONG_ITEM, statement->span, "'%s' belongs to recurrences", text);
      continue;
    }
    if (may_repeat(statement->word))
      continue;
    const struct ast_statement *first = statements->single[statement->word];
    if (first == NULL) {
      statements->single[statement->word] = statement;
      continue;
    }
    struct diagnostic *error = check_error(check, DIAG_REPEATED_STATEMENT, statement->span,
                                           "'%s' may appear once only", text);
    diag_related(check->diagnostics, error, first->span, "the first is here");
  }
}

static void declare_statements(struct check *check)
{
  struct spec *spec = check->spec;
  for (size_t k = 0; k < check->item->statements->list.count; k++) {
    const struct ast_statement *statement = check->item->statements->list.items[k];
    struct symbol symbol = {.name = statement->name, .statement = statement};
    if (statement->word == WORD_LET) {
      symbol.kind = SYMBOL_LET;
      check_declare(check, symbol);
    } else if (statement->word == WORD_INPUT) {
      symbol.kind = SYMBOL_INPUT;
      symbol.index = spec->input_count;
      if (spec->input_count >= SPEC_MAX_INPUTS)
        check_error(check, DIAG_TOO_COMPLEX, statement->span, "more than %d inputs",
                    SPEC_MAX_INPUTS);
      else if (check_declare(check, symbol))
        spec->input_count++;
    } else if (statement->word == WORD_MAP) {
      symbol.kind = SYMBOL_MAP;
      symbol.index = spec->map_count;
      if (spec->map_count >= SPEC_MAX_MAPS)
        check_error(check, DIAG_TOO_COMPLEX, statement->span, "more than %d maps", SPEC_MAX_MAPS);
      else if (check_declare(check, symbol))
        spec->map_count++;
    }
  }
}

/* Whether an error was reported inside the item; where some are counted only, any item may be
 * meant. */
static bool has_error_inside(const struct check *check, const struct ast_item *item)
{
  size_t errors = 0;
  for (size_t k = 0; k < check->diagnostics->items.count; k++) {
    const struct diagnostic *found = &check->diagnostics->items.items[k];
    if (found->severity != DIAG_ERROR)
      continue;
    errors++;
    if (found->span.source == item->span.source && found->span.begin >= item->span.begin &&
        found->span.begin <= item->span.end)
      return true;
  }
  return errors < check->diagnostics->error_count;
}

/* A let that nothing uses still has to mean something. Where there are errors, what would use it
 * may be among them. */
static void check_unused(struct check *check, size_t errors)
{
  for (size_t k = check->symbols.count; k-- > 0;) {
    struct symbol *symbol = &check->symbols.items[k];
    if (symbol->used || symbol->kind == SYMBOL_MAP)
      continue;
    static const char *const kinds[] = {"parameter", "input", "let"};
    if (!check->incomplete && check->diagnostics->error_count == errors)
      check_error(check, DIAG_UNUSED, symbol->name.span, "%s '%s' is never used",
                  kinds[symbol->kind], symbol->name.text);
    if (symbol->kind == SYMBOL_LET) {
      struct scope scope = check_scope(check, CONTEXT_LET);
      scope.symbol_limit = k;
      check_value(check, &scope, symbol->statement->value);
    }
  }
}

static void check_statements(struct check *check)
{
  size_t errors = check->diagnostics->error_count;
  struct statements statements = {0};
  struct position_terms terms;
  struct spec *spec = check->spec;
  check_params(check);
  sort_statements(check, &statements);
  check_heads(check, statements.single[WORD_HEADS]);
  check_dim(check, statements.single[WORD_DIM], statements.single[WORD_VALUE]);
  check_type(check, statements.single[WORD_TYPE]);
  declare_statements(check);
  for (size_t k = 0; k < check->symbols.count; k++)
    if (check->symbols.items[k].kind == SYMBOL_INPUT)
      check_input(check, &check->symbols.items[k]);
  check_align(check, statements.single[WORD_ALIGN]);
  spec->value =
      expr_float(check->pool, 0.0); /* until its statement is checked, and after an error in it */
  check_position(check, statements.single[WORD_POSITION], &terms);
  check_scores(check, &statements, &terms);
  check_weight(check, statements.single[WORD_WEIGHT]);
  check_value_statement(check, statements.single[WORD_VALUE], &terms);
  check_mask(check);
  check_post(check, statements.single[WORD_POST]);
  check_cache(check, statements.single[WORD_CACHE]);
  check_select(check, statements.single[WORD_SELECT]);
  check_output(check, statements.single[WORD_OUTPUT]);
  check_ring(check);
  check_unused(check, errors);
}

static void check_attention(struct check *check, const struct ast_item *item,
                            struct spec_file *file)
{
  size_t errors = check->diagnostics->error_count;
  struct spec *spec = ARENA_NEW(check->arena, struct spec);
  spec->name = item->name.text;
  spec->span = item->name.span;
  spec->sources = check->sources;
  spec->pool = ARENA_NEW(check->arena, struct expr_pool);
  expr_pool_init(spec->pool, check->arena);
  check->spec = spec;
  check->pool = spec->pool;
  check->item = item;
  check->symbols.count = 0;
  check->binder_levels.count = 0;
  check->memo = NULL;
  check->memo_size = check->memo_count = 0;
  check->too_complex = false;
  check->incomplete = has_error_inside(check, item);
  check_statements(check);
  if (check->incomplete || check->diagnostics->error_count != errors)
    return;
  check_indices(check);
  vector_push(check->arena, &file->specs, spec);
}

static void check_sets(struct check *check, const struct ast_file *file, uint32_t source)
{
  for (size_t k = 0; check->options != NULL && k < check->options->set_count; k++) {
    if (check->set_used[k])
      continue;
    const char *name = check->options->sets[k].name;
    size_t count = 0, most = 0;
    for (size_t n = 0; n < file->items.count; n++)
      most += file->items.items[n]->params == NULL ? 0 : file->items.items[n]->params->list.count;
    const char **candidates = ARENA_ARRAY(check->arena, const char *, most);
    for (size_t n = 0; n < file->items.count; n++)
      for (size_t m = 0;
           file->items.items[n]->params != NULL && m < file->items.items[n]->params->list.count;
           m++)
        candidates[count++] = file->items.items[n]->params->list.items[m].name.text;
    struct span span =
        file->items.count > 0 ? file->items.items[0]->name.span : (struct span){.source = source};
    struct diagnostic *error = diag_report(check->diagnostics, DIAG_UNKNOWN_SET, span,
                                           "--set %s: there is no such parameter", name);
    check_suggest(check, error, FOREIGN_ARGUMENT, name, candidates, count);
  }
}

/* Two attentions of one name could not be told apart on a command line. */
static void check_names_differ(struct check *check, const struct ast_file *file, size_t at)
{
  const struct ast_item *item = file->items.items[at];
  for (size_t k = 0; k < at; k++) {
    const struct ast_item *other = file->items.items[k];
    if (other->name.text != item->name.text ||
        (other->kind != AST_ATTENTION && other->kind != AST_RECURRENCE))
      continue;
    struct diagnostic *error = check_error(check, DIAG_DUPLICATE_NAME, item->name.span,
                                           "'%s' is declared twice", item->name.text);
    diag_related(check->diagnostics, error, other->name.span, "declared here first");
    return;
  }
}

struct spec_file *spec_check(struct arena *arena, struct source_set *sources, uint32_t source,
                             const struct spec_options *options, struct diagnostics *diagnostics)
{
  enum { MAX_ITEMS = 1024 };
  struct spec_file *result = ARENA_NEW(arena, struct spec_file);
  struct interner *names = ARENA_NEW(arena, struct interner);
  struct check *check = ARENA_NEW(arena, struct check);
  interner_init(names, arena);
  *check = (struct check){.arena = arena,
                          .names = names,
                          .diagnostics = diagnostics,
                          .sources = sources,
                          .options = options};
  if (options != NULL)
    check->set_used = ARENA_ARRAY(arena, bool, options->set_count);
  struct ast_file *file = parse_source(arena, names, source, diagnostics);
  check_load_prelude(check);
  vector_push(arena, &check->loading, sources->sources.items[source].name);
  check_load_fns(check, file, false);
  size_t attentions = 0;
  for (size_t k = 0; k < file->items.count; k++) {
    const struct ast_item *item = file->items.items[k];
    if (item->kind != AST_ATTENTION && item->kind != AST_RECURRENCE)
      continue;
    if (++attentions > MAX_ITEMS) {
      diag_report(diagnostics, DIAG_TOO_COMPLEX, item->name.span,
                  "more than %d attentions in one file", MAX_ITEMS);
      break;
    }
    check_names_differ(check, file, k);
    if (item->kind == AST_ATTENTION)
      check_attention(check, item, result);
    else
      diag_report(diagnostics, DIAG_RECURRENCE, item->name.span,
                  "recurrence '%s' is not yet lowered", item->name.text);
  }
  check_sets(check, file, source);
  return result;
}
