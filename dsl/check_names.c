/* Names: what is declared, what is built in, and the inlining of lets and fns. */
#include "dsl/check.h"

#include "dsl/parse.h"
#include "dsl/prelude.h"

#include <string.h>

enum { MAX_FNS = 4096, MAX_SYMBOLS = 2048, MAX_IMPORTS = 32 };

static const char *const builtin_names[BUILTIN_COUNT] = {
    [BUILTIN_B] = "b",        [BUILTIN_H] = "h",           [BUILTIN_G] = "g",
    [BUILTIN_I] = "i",        [BUILTIN_J] = "j",           [BUILTIN_R] = "r",
    [BUILTIN_C] = "c",        [BUILTIN_S] = "s",           [BUILTIN_W] = "w",
    [BUILTIN_Q] = "q",        [BUILTIN_K] = "k",           [BUILTIN_V] = "v",
    [BUILTIN_SIZE_B] = "B",   [BUILTIN_SIZE_H] = "H",      [BUILTIN_SIZE_G] = "G",
    [BUILTIN_SIZE_NQ] = "NQ", [BUILTIN_SIZE_NK] = "NK",    [BUILTIN_SIZE_D] = "D",
    [BUILTIN_SIZE_DV] = "DV", [BUILTIN_OFFSET] = "offset", [BUILTIN_T] = "t",
    [BUILTIN_N] = "n",        [BUILTIN_O] = "o",           [BUILTIN_LSE] = "lse",
};

enum builtin check_builtin(const char *name)
{
  enum builtin builtin = 0;
  while (builtin < BUILTIN_COUNT && strcmp(builtin_names[builtin], name) != 0)
    builtin++;
  return builtin;
}

/* Names that the language keeps for itself, and those that a declaration may hide with a note. t,
 * n, o and lse mean something in a few places only and give way silently. */
static const uint32_t reserved = ALLOW(B) | ALLOW(H) | ALLOW(I) | ALLOW(J) | ALLOW(Q) | ALLOW(K) |
                                 ALLOW(V) | ALLOW(SIZE_B) | ALLOW(SIZE_H) | ALLOW(SIZE_G) |
                                 ALLOW(SIZE_NQ) | ALLOW(SIZE_NK) | ALLOW(SIZE_D) | ALLOW(SIZE_DV) |
                                 ALLOW(OFFSET);
static const uint32_t hideable = ALLOW(G) | ALLOW(R) | ALLOW(C) | ALLOW(S) | ALLOW(W);

bool check_declare(struct check *check, struct symbol symbol)
{
  enum builtin builtin = check_builtin(symbol.name.text);
  if (builtin < BUILTIN_COUNT && (reserved >> builtin & 1) != 0) {
    struct diagnostic *error = check_error(check, DIAG_RESERVED_NAME, symbol.name.span,
                                           "'%s' is a name of the language", symbol.name.text);
    diag_help(check->diagnostics, error,
              "b h i j q k v, the sizes B H G NQ NK D DV and offset cannot be redeclared");
    return false;
  }
  const struct symbol *other = check_symbol(check, NULL, symbol.name.text);
  if (other != NULL) {
    struct diagnostic *error = check_error(check, DIAG_DUPLICATE_NAME, symbol.name.span,
                                           "'%s' is declared twice", symbol.name.text);
    diag_related(check->diagnostics, error, other->name.span, "declared here first");
    return false;
  }
  if (check->symbols.count >= MAX_SYMBOLS) {
    check_error(check, DIAG_TOO_COMPLEX, symbol.name.span, "more than %d declarations",
                MAX_SYMBOLS);
    return false;
  }
  if (builtin < BUILTIN_COUNT && (hideable >> builtin & 1) != 0)
    check_error(check, DIAG_HIDES_BUILTIN, symbol.name.span,
                "'%s' hides the built-in of that name in this spec", symbol.name.text);
  vector_push(check->arena, &check->symbols, symbol);
  return true;
}

struct symbol *check_symbol(struct check *check, const struct scope *scope, const char *name)
{
  size_t limit = scope == NULL ? check->symbols.count : scope->symbol_limit;
  for (size_t k = 0; k < limit; k++)
    if (check->symbols.items[k].name.text == name)
      return &check->symbols.items[k];
  return NULL;
}

struct fn *check_fn(struct check *check, const struct scope *scope, const char *name)
{
  bool prelude_first = scope != NULL && scope->in_prelude;
  struct fn *found = NULL;
  for (size_t k = 0; k < check->fns.count; k++) {
    struct fn *fn = check->fns.items[k];
    if (fn->item->name.text == name && (found == NULL || fn->prelude == prelude_first))
      found = fn;
  }
  return found;
}

/* ---- fns and imports ---- */

static void declare_fn(struct check *check, const struct ast_item *item, bool prelude)
{
  enum builtin builtin = check_builtin(item->name.text);
  if (builtin < BUILTIN_COUNT && (reserved >> builtin & 1) != 0) {
    check_error(check, DIAG_RESERVED_NAME, item->name.span, "'%s' is a name of the language",
                item->name.text);
    return;
  }
  struct fn *other = check_fn(check, NULL, item->name.text);
  if (other != NULL && !other->prelude) {
    struct diagnostic *error = check_error(check, DIAG_DUPLICATE_NAME, item->name.span,
                                           "fn '%s' is declared twice", item->name.text);
    diag_related(check->diagnostics, error, other->item->name.span, "declared here first");
    return;
  }
  if (check_is_function(item->name.text))
    check_error(check, DIAG_HIDES_BUILTIN, item->name.span,
                "'%s' hides the built-in function of that name", item->name.text);
  if (other != NULL)
    check_error(check, DIAG_HIDES_BUILTIN, item->name.span,
                "'%s' hides the prelude's fn of that name", item->name.text);
  if (item->arguments != NULL) {
    for (size_t k = 0; k < item->arguments->list.count; k++)
      for (size_t n = 0; n < k; n++)
        if (item->arguments->list.items[n].text == item->arguments->list.items[k].text)
          check_error(check, DIAG_DUPLICATE_NAME, item->arguments->list.items[k].span,
                      "argument '%s' is named twice", item->arguments->list.items[k].text);
    if (item->arguments->list.count > CHECK_MAX_ARGUMENTS) {
      check_error(check, DIAG_TOO_COMPLEX, item->name.span, "a fn has at most %d arguments",
                  CHECK_MAX_ARGUMENTS);
      return;
    }
  }
  if (check->fns.count >= MAX_FNS) {
    check_error(check, DIAG_TOO_COMPLEX, item->name.span, "more than %d fns", MAX_FNS);
    return;
  }
  struct fn *fn = ARENA_NEW(check->arena, struct fn);
  *fn = (struct fn){.item = item, .prelude = prelude};
  vector_push(check->arena, &check->fns, fn);
}

static const struct prelude_file *find_prelude(const char *path)
{
  for (size_t k = 0; k < prelude_file_count; k++) {
    const char *name = strrchr(prelude_files[k].name, '/');
    name = name == NULL ? prelude_files[k].name : name + 1;
    if (strcmp(name, path) == 0)
      return &prelude_files[k];
  }
  return NULL;
}

/* dir(from)/path without "." and "x/.." parts, so that one file has one name. */
static const char *import_name(struct check *check, const char *from, const char *path)
{
  const char *slash = strrchr(from, '/');
  const char *joined = path[0] == '/' || slash == NULL
                           ? path
                           : arena_format(check->arena, "%.*s/%s", (int)(slash - from), from, path);
  char *result = arena_alloc(check->arena, strlen(joined) + 2);
  size_t length = 0;
  bool absolute = joined[0] == '/';
  for (const char *part = joined; *part != '\0';) {
    size_t size = strcspn(part, "/");
    char *last = length == 0 ? NULL : strrchr(result, '/');
    const char *tail = last == NULL ? result : last + 1;
    if (size == 2 && memcmp(part, "..", 2) == 0 && length > 0 && strcmp(tail, "..") != 0) {
      length = last == NULL ? 0 : (size_t)(last - result);
      result[length] = '\0';
    } else if (size != 0 && !(size == 1 && part[0] == '.')) {
      if (length > 0 || absolute)
        result[length++] = '/';
      memcpy(result + length, part, size);
      length += size;
      result[length] = '\0';
    }
    part += size;
    part += *part == '/';
  }
  return result;
}

static void import(struct check *check, const struct ast_item *item)
{
  const char *path = item->name.text;
  const char *from = check->sources->sources.items[item->span.source].name;
  const char *name = import_name(check, from, path);
  for (size_t k = 0; k < check->loading.count; k++)
    if (strcmp(check->loading.items[k], name) == 0) {
      check_error(check, DIAG_IMPORT_CYCLE, item->name.span, "'%s' imports itself%s", path,
                  k + 1 == check->loading.count ? "" : " through other files");
      return;
    }
  for (size_t k = 0; k < check->loaded.count; k++)
    if (strcmp(check->loaded.items[k], name) == 0)
      return;
  if (check->loading.count >= MAX_IMPORTS) {
    check_error(check, DIAG_TOO_COMPLEX, item->name.span, "imports are nested too deeply");
    return;
  }
  size_t length = 0;
  const char *text =
      check->options == NULL || check->options->read_import == NULL
          ? NULL
          : check->options->read_import(check->options->user, check->arena, from, path, &length);
  if (text == NULL) {
    if (find_prelude(path) != NULL)
      return; /* always in sight */
    struct diagnostic *error =
        check_error(check, DIAG_IMPORT_NOT_FOUND, item->name.span, "cannot read '%s'", path);
    diag_help(check->diagnostics, error, "imports are looked for beside '%s', then in the prelude",
              from);
    return;
  }
  uint32_t source = source_add(check->sources, name, text, length);
  if (source == UINT32_MAX) {
    check_error(check, DIAG_FILE_TOO_LARGE, item->name.span, "'%s' is larger than 16 MiB", path);
    return;
  }
  vector_push(check->arena, &check->loaded, name);
  vector_push(check->arena, &check->loading, name);
  check_load_fns(check, parse_source(check->arena, check->names, source, check->diagnostics),
                 false);
  check->loading.count--;
}

void check_load_fns(struct check *check, const struct ast_file *file, bool prelude)
{
  for (size_t k = 0; k < file->items.count; k++)
    if (file->items.items[k]->kind == AST_IMPORT)
      import(check, file->items.items[k]);
  for (size_t k = 0; k < file->items.count; k++)
    if (file->items.items[k]->kind == AST_FN)
      declare_fn(check, file->items.items[k], prelude);
}

void check_load_prelude(struct check *check)
{
  for (size_t k = 0; k < prelude_file_count; k++) {
    uint32_t source = source_add(check->sources, prelude_files[k].name, prelude_files[k].text,
                                 prelude_files[k].length);
    check_load_fns(check, parse_source(check->arena, check->names, source, check->diagnostics),
                   true);
  }
}

/* ---- the memo ---- */

static bool same_value(const struct value *a, const struct value *b)
{
  return a->kind == b->kind && a->expr == b->expr && a->length == b->length && a->input == b->input;
}

static size_t memo_hash(const struct memo_entry *entry)
{
  uintptr_t hash = (uintptr_t)entry->declaration * 31 + entry->context;
  for (size_t k = 0; k < entry->count; k++)
    hash = hash * 1000003 + ((uintptr_t)entry->arguments[k].expr >> 4) + entry->arguments[k].input;
  return (size_t)(hash ^ hash >> 15);
}

static struct memo_entry **memo_slot(struct check *check, const struct memo_entry *key)
{
  size_t slot = memo_hash(key) & (check->memo_size - 1);
  for (;; slot = (slot + 1) & (check->memo_size - 1)) {
    struct memo_entry *entry = check->memo[slot];
    if (entry == NULL)
      return &check->memo[slot];
    bool same = entry->declaration == key->declaration && entry->context == key->context &&
                entry->count == key->count;
    for (size_t k = 0; same && k < key->count; k++)
      same = same_value(&entry->arguments[k], &key->arguments[k]);
    if (same)
      return &check->memo[slot];
  }
}

static struct memo_entry *memo_find(struct check *check, const struct memo_entry *key)
{
  return check->memo_size == 0 ? NULL : *memo_slot(check, key);
}

static void memo_add(struct check *check, const struct memo_entry *key)
{
  if (check->memo_count * 2 >= check->memo_size) {
    struct memo_entry **old = check->memo;
    size_t old_size = check->memo_size;
    check->memo_size = old_size == 0 ? 64 : old_size * 2;
    check->memo = ARENA_ARRAY(check->arena, struct memo_entry *, check->memo_size);
    for (size_t k = 0; k < old_size; k++)
      if (old[k] != NULL)
        *memo_slot(check, old[k]) = old[k];
  }
  *memo_slot(check, key) = arena_copy(check->arena, key, sizeof(*key));
  check->memo_count++;
}

/* ---- inlining ---- */

static struct value inline_body(struct check *check, const struct scope *inner, struct span site,
                                struct memo_entry *key, const struct ast_expr *body, bool *active)
{
  struct memo_entry *known = memo_find(check, key);
  if (known != NULL)
    return known->result;
  if (check->call_depth++ == 0)
    check->call_site = site;
  *active = true;
  key->result = check_value(check, inner, body);
  *active = false;
  check->call_depth--;
  memo_add(check, key);
  return key->result;
}

/* near(x, y, reach) */
static const char *fn_header(struct check *check, const struct ast_item *item)
{
  const char *text = item->name.text;
  size_t count = item->arguments == NULL ? 0 : item->arguments->list.count;
  for (size_t k = 0; k < count; k++)
    text = arena_format(check->arena, "%s%s%s%s", text, k == 0 ? "(" : ", ",
                        item->arguments->list.items[k].text, k + 1 == count ? ")" : "");
  return text;
}

struct value check_call_fn(struct check *check, const struct scope *scope, struct fn *fn,
                           struct span span, const struct value *arguments, size_t count)
{
  const struct ast_item *item = fn->item;
  size_t expected = item->arguments == NULL ? 0 : item->arguments->list.count;
  if (count != expected) {
    struct diagnostic *error =
        check_error(check, DIAG_ARGUMENT_COUNT, span, "'%s' takes %zu argument%s, here are %zu",
                    item->name.text, expected, expected == 1 ? "" : "s", count);
    diag_related(check->diagnostics, error, item->name.span, "declared here");
    const char *advice =
        fn->prelude ? foreign_advice(FOREIGN_COUNT, item->name.text, strlen(item->name.text))
                    : NULL;
    if (advice != NULL)
      diag_help(check->diagnostics, error, "%s", advice);
    else
      diag_help(check->diagnostics, error, "write %s", fn_header(check, item));
    return (struct value){0};
  }
  if (fn->active) {
    struct diagnostic *error = diag_report(check->diagnostics, DIAG_RECURSIVE_FN, span,
                                           "fn '%s' calls itself", item->name.text);
    diag_related(check->diagnostics, error, item->name.span, "declared here");
    diag_help(check->diagnostics, error, "fns are inlined, they cannot recurse");
    return (struct value){0};
  }
  struct local locals[CHECK_MAX_ARGUMENTS];
  struct memo_entry key = {.declaration = fn, .context = scope->context, .count = count};
  struct scope inner = {.context = scope->context,
                        .binders = scope->binders,
                        .in_fn = true,
                        .in_prelude = fn->prelude};
  for (size_t k = 0; k < count; k++) {
    locals[k] = (struct local){item->arguments->list.items[k].text, arguments[k], inner.locals};
    inner.locals = &locals[k];
    key.arguments[k] = arguments[k];
  }
  return inline_body(check, &inner, span, &key, item->body, &fn->active);
}

const struct expr *check_prelude(struct check *check, enum context_kind context, struct span span,
                                 const char *name, const struct expr *const *arguments,
                                 size_t count)
{
  const char *interned = intern(check->names, name, strlen(name));
  for (size_t k = 0; k < check->fns.count; k++) {
    struct fn *fn = check->fns.items[k];
    if (!fn->prelude || fn->item->name.text != interned)
      continue;
    struct value values[CHECK_MAX_ARGUMENTS];
    for (size_t n = 0; n < count; n++)
      values[n] = check_scalar_value(arguments[n]);
    struct scope scope = check_scope(check, context);
    return check_as_scalar(check, check_call_fn(check, &scope, fn, span, values, count), span).expr;
  }
  check_error(check, DIAG_UNKNOWN_FUNCTION, span, "the prelude has no '%s'", name);
  return NULL;
}

static struct value let_value(struct check *check, const struct scope *scope, struct symbol *symbol,
                              struct span span)
{
  struct memo_entry key = {.declaration = symbol->statement, .context = scope->context};
  struct scope inner = {.context = scope->context, .binders = scope->binders};
  inner.symbol_limit = (size_t)(symbol - check->symbols.items);
  return inline_body(check, &inner, span, &key, symbol->statement->value, &symbol->active);
}

/* ---- resolving ---- */

static const struct expr *read_vector(struct check *check, uint32_t tensor, enum expr_var head,
                                      enum expr_var row)
{
  const struct expr *indices[] = {expr_variable(check->pool, EXPR_VAR_B),
                                  expr_variable(check->pool, head), expr_variable(check->pool, row),
                                  expr_arg(check->pool, 0, EXPR_INT)};
  return expr_read(check->pool, tensor, EXPR_FLOAT, indices, 4);
}

static struct value vector_value(const struct expr *element, const struct expr *length)
{
  return (struct value){.kind = VALUE_VECTOR, .expr = element, .length = length};
}

static struct value builtin_value(struct check *check, enum builtin builtin)
{
  struct expr_pool *pool = check->pool;
  const struct spec *spec = check->spec;
  switch (builtin) {
  case BUILTIN_B: return check_scalar_value(expr_variable(pool, EXPR_VAR_B));
  case BUILTIN_H: return check_scalar_value(expr_variable(pool, EXPR_VAR_H));
  case BUILTIN_G: return check_scalar_value(expr_variable(pool, EXPR_VAR_G));
  case BUILTIN_I: return check_scalar_value(expr_variable(pool, EXPR_VAR_I));
  case BUILTIN_J: return check_scalar_value(expr_variable(pool, EXPR_VAR_J));
  case BUILTIN_R: return check_scalar_value(expr_variable(pool, EXPR_VAR_R));
  case BUILTIN_C: return check_scalar_value(expr_variable(pool, EXPR_VAR_C));
  case BUILTIN_S: return check_scalar_value(expr_variable(pool, EXPR_VAR_S));
  case BUILTIN_W: return check_scalar_value(expr_map(pool, 0));
  case BUILTIN_Q:
    return vector_value(read_vector(check, EXPR_TENSOR_Q, EXPR_VAR_H, EXPR_VAR_R),
                        expr_int(pool, spec->dim_qk));
  case BUILTIN_K:
    return vector_value(read_vector(check, EXPR_TENSOR_K, EXPR_VAR_G, EXPR_VAR_J),
                        expr_int(pool, spec->dim_qk));
  case BUILTIN_V:
    return vector_value(read_vector(check, EXPR_TENSOR_V, EXPR_VAR_G, EXPR_VAR_J),
                        expr_int(pool, spec->dim_v));
  case BUILTIN_SIZE_B: return check_scalar_value(expr_variable(pool, EXPR_VAR_SIZE_B));
  case BUILTIN_SIZE_H: return check_scalar_value(expr_int(pool, spec->query_heads));
  case BUILTIN_SIZE_G: return check_scalar_value(expr_int(pool, spec->kv_heads));
  case BUILTIN_SIZE_NQ: return check_scalar_value(expr_variable(pool, EXPR_VAR_SIZE_NQ));
  case BUILTIN_SIZE_NK: return check_scalar_value(expr_variable(pool, EXPR_VAR_SIZE_NK));
  case BUILTIN_SIZE_D: return check_scalar_value(expr_int(pool, spec->dim_qk));
  case BUILTIN_SIZE_DV: return check_scalar_value(expr_int(pool, spec->dim_v));
  case BUILTIN_OFFSET: return check_scalar_value(expr_variable(pool, EXPR_VAR_OFFSET));
  case BUILTIN_T: return check_scalar_value(expr_variable(pool, EXPR_VAR_T));
  case BUILTIN_N: return check_scalar_value(expr_variable(pool, EXPR_VAR_N));
  case BUILTIN_O: {
    const struct expr *channel = expr_arg(pool, 0, EXPR_INT);
    return vector_value(expr_read(pool, EXPR_TENSOR_O, EXPR_FLOAT, &channel, 1),
                        expr_int(pool, spec->dim_v));
  }
  case BUILTIN_LSE: return check_scalar_value(expr_variable(pool, EXPR_VAR_LSE));
  case BUILTIN_COUNT: break;
  }
  return (struct value){0};
}

static struct value symbol_value(struct check *check, const struct scope *scope,
                                 struct symbol *symbol, const struct ast_name *name)
{
  const struct context *context = &check_contexts[scope->context];
  symbol->used = true;
  struct diagnostic *error = NULL;
  switch (symbol->kind) {
  case SYMBOL_PARAM: {
    const struct spec_param *param = &check->spec->params[symbol->index];
    if (!symbol->ready)
      return (struct value){0};
    if (param->is_const)
      return check_scalar_value(param->type == EXPR_FLOAT ? expr_float(check->pool, param->value.f)
                                : param->type == EXPR_INT
                                    ? expr_int(check->pool, param->value.i)
                                    : expr_bool(check->pool, param->value.i != 0));
    if (!context->constant)
      return check_scalar_value(expr_param(check->pool, symbol->index, param->type));
    error = check_error(check, DIAG_NOT_CONSTANT, name->span, "'%s' is known at launch only",
                        name->text);
    diag_help(check->diagnostics, error, "declare it 'const %s : ...' and set it with --set",
              name->text);
    break;
  }
  case SYMBOL_INPUT:
    if (!symbol->ready)
      return (struct value){0};
    if (!context->constant && scope->context != CONTEXT_DIMS)
      return (struct value){.kind = VALUE_INPUT, .input = symbol->index};
    error = check_error(check, DIAG_NAME_NOT_HERE, name->span, "input '%s' cannot be used %s",
                        name->text, context->name);
    break;
  case SYMBOL_LET: return let_value(check, scope, symbol, name->span);
  case SYMBOL_MAP:
    if (scope->context == CONTEXT_WEIGHT)
      return check_scalar_value(expr_map(check->pool, symbol->index));
    error = check_error(check, DIAG_NAME_NOT_HERE, name->span, "map '%s' cannot be used %s",
                        name->text, context->name);
    diag_help(check->diagnostics, error, "maps are combined by 'weight'");
    break;
  }
  diag_related(check->diagnostics, error, symbol->name.span, "declared here");
  return (struct value){0};
}

static void unknown_name(struct check *check, const struct scope *scope,
                         const struct ast_name *name)
{
  size_t most = BUILTIN_COUNT + check->symbols.count + check->fns.count, count = 0;
  for (const struct local *local = scope->locals; local != NULL; local = local->next)
    most++;
  const char **candidates = ARENA_ARRAY(check->arena, const char *, most);
  for (const struct local *local = scope->locals; local != NULL; local = local->next)
    candidates[count++] = local->name;
  if (!scope->in_fn)
    for (size_t k = 0; k < scope->symbol_limit; k++)
      candidates[count++] = check->symbols.items[k].name.text;
  for (enum builtin k = 0; k < BUILTIN_COUNT; k++)
    if ((check_contexts[scope->context].allowed >> k & 1) != 0)
      candidates[count++] = builtin_names[k];
  for (size_t k = 0; k < check->fns.count; k++)
    candidates[count++] = check->fns.items[k]->item->name.text;
  struct diagnostic *error =
      check_error(check, DIAG_UNKNOWN_NAME, name->span, "unknown name '%s'", name->text);
  check_suggest(check, error, FOREIGN_NAME, name->text, candidates, count);
  struct symbol *later = check_symbol(check, NULL, name->text);
  if (error->help == NULL && later != NULL && scope->in_fn)
    diag_help(check->diagnostics, error,
              "a fn does not see the spec's names: make '%s' an argument", name->text);
  else if (error->help == NULL && later != NULL)
    diag_help(check->diagnostics, error,
              "'%s' is declared below: a let sees what is declared above it", name->text);
  else if (error->help == NULL && !scope->in_fn)
    diag_help(check->diagnostics, error,
              "declare it: a tensor by 'input %s : f32[B, NK]', a number as a parameter of the "
              "attention, (%s: int = 1)",
              name->text, name->text);
}

/* What to write where a built-in has no meaning, if there is something. */
static const char *instead_of(enum context_kind context, enum builtin builtin)
{
  const uint32_t vectors = ALLOW(Q) | ALLOW(K) | ALLOW(V);
  if (builtin == BUILTIN_C)
    return "c is bound by sum(c), and in value, post and theta";
  if (context == CONTEXT_MASK && ((vectors | ALLOW(S)) >> builtin & 1) != 0)
    return "a mask knows positions and inputs; hide by what is computed in the score: "
           "score s if s > 0.0 else -inf";
  if (context == CONTEXT_WEIGHT && builtin == BUILTIN_S)
    return "a weight is made of w; what changes s is a 'score' statement";
  if ((context == CONTEXT_SCORE || context == CONTEXT_MASK) && builtin == BUILTIN_W)
    return "w is known after the softmax: weight w * ...";
  if (context == CONTEXT_SIMILARITY && builtin == BUILTIN_S)
    return "s is known after the similarity: score s * ...";
  if (context == CONTEXT_MAP && builtin == BUILTIN_S)
    return "a map's score is written out: softmax(dot(q, k) * D ** -0.5)";
  return NULL;
}

static const char *first_map(const struct check *check)
{
  for (size_t k = 0; k < check->symbols.count; k++)
    if (check->symbols.items[k].kind == SYMBOL_MAP)
      return check->symbols.items[k].name.text;
  return NULL;
}

struct value check_name(struct check *check, const struct scope *scope, const struct ast_name *name)
{
  for (const struct local *local = scope->locals; local != NULL; local = local->next)
    if (local->name == name->text)
      return local->value;
  if (!scope->in_fn) {
    struct symbol *symbol = check_symbol(check, scope, name->text);
    if (symbol != NULL)
      return symbol_value(check, scope, symbol, name);
  }
  const struct context *context = &check_contexts[scope->context];
  enum builtin builtin = check_builtin(name->text);
  const char *map = builtin == BUILTIN_W ? first_map(check) : NULL;
  if (builtin < BUILTIN_COUNT && (context->allowed >> builtin & 1) != 0 && map == NULL)
    return builtin_value(check, builtin);
  struct fn *fn = check_fn(check, scope, name->text);
  if (fn != NULL)
    return check_call_fn(check, scope, fn, name->span, NULL, 0);
  if (builtin < BUILTIN_COUNT) {
    struct diagnostic *error =
        check_error(check, context->constant ? DIAG_NOT_CONSTANT : DIAG_NAME_NOT_HERE, name->span,
                    "'%s' has no meaning %s", name->text,
                    map != NULL ? "where maps are written" : context->name);
    const char *help = instead_of(scope->context, builtin);
    if (map != NULL)
      diag_help(check->diagnostics, error, "a weight is made of the maps: write %s", map);
    else if (help != NULL)
      diag_help(check->diagnostics, error, "%s", help);
  } else {
    unknown_name(check, scope, name);
  }
  return (struct value){0};
}
