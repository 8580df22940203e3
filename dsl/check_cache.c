/* cache, select and output. */
#include "dsl/check.h"

/* ---- cache ---- */

static void layout(struct check *check, const struct ast_expr *ast, struct spec_cache *cache)
{
  static const char *const layouts[] = {"dense", "ragged", "paged", "ring"};
  static const char *const paged_names[] = {"page"};
  static const char *const ring_names[] = {"capacity", "sinks"};
  struct ast_name name;
  const struct ast_arguments *arguments;
  const struct ast_expr *slots[2] = {NULL, NULL};
  size_t kind = check_word(check, ast, "the layout of a cache", layouts, 4);
  if (kind == 4 || !check_form(check, ast, &name, &arguments))
    return;
  int64_t page = 0, capacity = 0, sinks = 0;
  cache->layout = (enum cache_layout)(CACHE_DENSE + kind);
  if (cache->layout == CACHE_PAGED) {
    if (check_bind(check, "paged", ast->span, arguments, paged_names, 1, 1, slots))
      check_constant(check, slots[0], "the tokens of a page", 1, CHECK_MAX_PAGE, &page);
  } else if (cache->layout == CACHE_RING) {
    if (check_bind(check, "ring", ast->span, arguments, ring_names, 2, 1, slots)) {
      check_constant(check, slots[0], "the capacity of a ring", 1, INT32_MAX, &capacity);
      if (slots[1] != NULL)
        check_constant(check, slots[1], "the number of sinks", 0, INT32_MAX, &sinks);
    }
  } else {
    check_bind(check, name.text, ast->span, arguments, NULL, 0, 0, slots);
  }
  cache->page = (uint32_t)page;
  cache->capacity = (uint32_t)capacity;
  cache->sinks = (uint32_t)sinks;
}

void check_cache(struct check *check, const struct ast_statement *statement)
{
  enum { LAYOUT, K, V, ROPE, POSITIONS, COUNT };
  static const char *const names[] = {"layout", "k", "v", "rope", "positions"};
  static const char *const rope_words[] = {"cached", "read"};
  static const char *const position_words[] = {"original", "slot", "stored"};
  struct spec *spec = check->spec;
  struct spec_cache *cache = &spec->cache;
  cache->k.type = cache->v.type = DTYPE_SPEC;
  if (statement == NULL) {
    check_cache_fits(check, NULL, NULL);
    return;
  }
  cache->span = statement->span;
  const struct ast_expr *slots[COUNT];
  if (!check_bind(check, "cache", statement->word_span, statement->arguments, names, COUNT, 1,
                  slots))
    return;
  layout(check, slots[LAYOUT], cache);
  if (slots[K] != NULL)
    check_storage(check, slots[K], spec->dim_qk, &cache->k);
  if (slots[V] != NULL && spec->value_is_key)
    check_error(check, DIAG_BAD_VALUE, slots[V]->span,
                "the value is a slice of k: it has no storage of its own");
  else if (slots[V] != NULL)
    check_storage(check, slots[V], spec->dim_v, &cache->v);
  if (slots[ROPE] != NULL) {
    cache->rope_on_read = check_word(check, slots[ROPE], "rope", rope_words, 2) == 1;
    if (!spec->has_rotary)
      check_error(check, DIAG_BAD_VALUE, slots[ROPE]->span,
                  "there is no rotation to cache or read");
  }
  if (slots[POSITIONS] != NULL) {
    size_t word = check_word(check, slots[POSITIONS], "positions", position_words, 3);
    if (word < 3)
      cache->positions = (enum cache_positions)word;
  }
  check_cache_fits(check, slots[K], slots[V]);
}

/* ---- select ---- */

void check_select(struct check *check, const struct ast_statement *statement)
{
  enum { BLOCK, TOP, BY, ALWAYS, PER, COUNT };
  static const char *const names[] = {"block", "top", "by", "always", "per"};
  static const char *const pers[] = {"h", "g"};
  struct spec_select *select = &check->spec->select;
  const struct ast_expr *slots[COUNT];
  int64_t block;
  if (statement == NULL || !check_bind(check, "select", statement->word_span, statement->arguments,
                                       names, COUNT, 1u << BLOCK | 1u << TOP | 1u << BY, slots))
    return;
  if (!check_constant(check, slots[BLOCK], "the keys of a block", 1, INT32_MAX, &block))
    return;
  struct scope scope = check_scope(check, CONTEXT_SELECT);
  struct scope uniform = check_scope(check, CONTEXT_UNIFORM);
  select->block = (uint32_t)block;
  select->span = statement->span;
  select->top = check_int(check, &uniform, slots[TOP], "the number of blocks");
  select->by = check_float(check, CONTEXT_SELECT, slots[BY]);
  select->always = slots[ALWAYS] == NULL ? expr_bool(check->pool, false)
                                         : check_bool(check, &scope, slots[ALWAYS]);
  if (select->top != NULL && expr_is_const(select->top) && select->top->value.i < 1)
    check_error(check, DIAG_BAD_VALUE, slots[TOP]->span, "at least one block must be taken");
  if (slots[PER] != NULL)
    select->per_group = check_word(check, slots[PER], "per", pers, 2) == 1;
  select->present = select->top != NULL && select->by != NULL && select->always != NULL;
}

/* ---- output ---- */

static bool has_output(enum normalizer normalizer, enum output_kind kind)
{
  switch (kind) {
  case OUTPUT_LSE: return normalizer == NORMALIZE_SOFTMAX;
  case OUTPUT_MAX:
    return normalizer == NORMALIZE_SOFTMAX || normalizer == NORMALIZE_HARDMAX ||
           normalizer == NORMALIZE_SPARSEMAX;
  case OUTPUT_ENTROPY: return normalizer == NORMALIZE_SOFTMAX || normalizer == NORMALIZE_SPARSEMAX;
  case OUTPUT_MASS:
  case OUTPUT_WEIGHTS: return true;
  }
  return false;
}

/* The map of `lse(a)`; 0 where none is named. False after an error. */
static bool output_map(struct check *check, const struct ast_arguments *arguments, struct span span,
                       const char *name, uint32_t *map)
{
  const struct spec *spec = check->spec;
  *map = 0;
  if (arguments->list.count == 0) {
    if (spec->map_count == 1)
      return true;
    struct diagnostic *error =
        check_error(check, DIAG_MISSING_ARGUMENT, span, "%s of which map?", name);
    diag_help(check->diagnostics, error, "write %s(%s)", name, spec->maps[0].name);
    return false;
  }
  const struct ast_expr *ast = check_strip(arguments->list.items[0].value);
  const char *candidates[SPEC_MAX_MAPS];
  size_t count = 0;
  for (uint32_t k = 0; k < spec->map_count; k++) {
    if (spec->maps[k].name == NULL)
      continue;
    candidates[count++] = spec->maps[k].name;
    if (ast->kind == AST_NAME && ast->name.text == spec->maps[k].name) {
      *map = k;
      return true;
    }
  }
  struct diagnostic *error =
      check_error(check, DIAG_UNKNOWN_NAME, ast->span, "this is not the name of a map");
  if (ast->kind == AST_NAME)
    check_suggest(check, error, FOREIGN_OPTION, ast->name.text, candidates, count);
  return false;
}

void check_output(struct check *check, const struct ast_statement *statement)
{
  static const char *const words[] = {"lse", "max", "mass", "weights", "entropy"};
  struct spec *spec = check->spec;
  if (statement == NULL)
    return;
  if (statement->arguments->list.count == 0)
    check_error(check, DIAG_ARGUMENT_COUNT, statement->span, "'output' needs at least one result");
  for (size_t k = 0; k < statement->arguments->list.count; k++) {
    const struct ast_argument *argument = &statement->arguments->list.items[k];
    struct ast_name name;
    const struct ast_arguments *arguments;
    size_t word = check_word(check, argument->value, "an output", words, 5);
    if (word == 5 || !check_form(check, argument->value, &name, &arguments))
      continue;
    struct spec_output output = {.kind = (enum output_kind)word, .span = argument->span};
    bool of_map =
        output.kind == OUTPUT_LSE || output.kind == OUTPUT_MAX || output.kind == OUTPUT_ENTROPY;
    if (arguments->list.count > (of_map ? 1u : 0u)) {
      check_error(check, DIAG_ARGUMENT_COUNT, argument->span, "'%s' is of %s", name.text,
                  of_map ? "one map" : "the final weight, not of a map");
      continue;
    }
    if (of_map && !output_map(check, arguments, argument->span, name.text, &output.map))
      continue;
    if (!has_output(spec->maps[output.map].normalizer, output.kind)) {
      struct diagnostic *error =
          check_error(check, DIAG_NO_SUCH_OUTPUT, argument->span, "normaliser '%s' has no %s",
                      normalizer_name(spec->maps[output.map].normalizer), name.text);
      diag_help(check->diagnostics, error, "every normaliser has weights and mass");
      continue;
    }
    for (uint32_t n = 0; n < spec->output_count; n++)
      if (spec->outputs[n].kind == output.kind && spec->outputs[n].map == output.map)
        check_error(check, DIAG_DUPLICATE_NAME, argument->span, "'%s' is asked for twice",
                    name.text);
    if (spec->output_count >= SPEC_MAX_OUTPUTS) {
      check_error(check, DIAG_TOO_COMPLEX, argument->span, "more than %d outputs",
                  SPEC_MAX_OUTPUTS);
      return;
    }
    spec->outputs[spec->output_count++] = output;
  }
}
