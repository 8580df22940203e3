/* What K and V are stored as in a cache, and whether a cache statement's parts go together. */
#include "dsl/check.h"

static bool is_quantised(enum dtype type)
{
  return type == DTYPE_E4M3 || type == DTYPE_E5M2 || type == DTYPE_I8 || type == DTYPE_I4 ||
         type == DTYPE_I2;
}

static uint32_t code_bits(enum dtype type)
{
  return type == DTYPE_I4 ? 4 : type == DTYPE_I2 ? 2 : 8;
}

/* ---- one storage type ---- */

/* `table = NAME`, an input with a value for each code. */
static void table(struct check *check, const struct ast_expr *ast, struct spec_storage *storage)
{
  uint32_t entries = 1u << code_bits(storage->type);
  if (storage->type != DTYPE_I4 && storage->type != DTYPE_I2) {
    struct diagnostic *error =
        check_error(check, DIAG_BAD_VALUE, ast->span, "only codes of 4 or 2 bits can have a table");
    diag_help(check->diagnostics, error, "write int4(table = ...) or int2(table = ...)");
    return;
  }
  struct scope scope = check_scope(check, CONTEXT_UNIFORM);
  struct value value = check_value(check, &scope, ast);
  if (value.kind == VALUE_ERROR)
    return;
  const struct spec_input *input =
      value.kind == VALUE_INPUT ? &check->spec->inputs[value.input] : NULL;
  if (input != NULL && input->type == DTYPE_F32 && input->rank == 1 &&
      expr_is_const(input->dims[0].size) && input->dims[0].size->value.i == entries) {
    storage->table = EXPR_TENSOR_INPUT + value.input;
    return;
  }
  struct diagnostic *error = check_error(check, DIAG_BAD_VALUE, ast->span,
                                         "a table is an input with the value of each code");
  diag_help(check->diagnostics, error, "declare 'input NAME : f32[%u]', in ascending order",
            entries);
}

/* Whether `elements` codes fill whole bytes. */
static void whole_bytes(struct check *check, struct span span, enum dtype type, uint32_t elements)
{
  if (elements * (uint64_t)code_bits(type) % 8 != 0)
    check_error(check, DIAG_BAD_VALUE, span, "%u channels of %s do not fill whole bytes", elements,
                dtype_name(type));
}

void check_storage(struct check *check, const struct ast_expr *ast, uint32_t channels,
                   struct spec_storage *storage)
{
  enum { AXIS, GROUP, RESIDUAL, ASYMMETRIC, CHANNELS, TABLE, COUNT };
  static const char *const names[] = {"axis",       "group",    "residual",
                                      "asymmetric", "channels", "table"};
  static const char *const types[] = {"f32", "f16", "bf16", "e4m3", "e5m2", "int8", "int4", "int2"};
  static const enum dtype made[] = {DTYPE_F32,  DTYPE_F16, DTYPE_BF16, DTYPE_E4M3,
                                    DTYPE_E5M2, DTYPE_I8,  DTYPE_I4,   DTYPE_I2};
  static const char *const axes[] = {"token", "channel"};
  struct ast_name name;
  const struct ast_arguments *arguments;
  const struct ast_expr *slots[COUNT];
  size_t type = check_word(check, ast, "a storage type", types, 8);
  if (type == 8 || !check_form(check, ast, &name, &arguments) ||
      !check_bind(check, name.text, ast->span, arguments, names, COUNT, 0, slots))
    return;
  if (!is_quantised(made[type]) && arguments->list.count != 0) {
    check_error(check, DIAG_BAD_VALUE, ast->span,
                "%s is stored as it is: it has no scales to choose", name.text);
    return;
  }
  storage->type = made[type];
  int64_t group = 0, residual = 0, some = 0;
  if (slots[AXIS] != NULL) {
    size_t axis = check_word(check, slots[AXIS], "axis", axes, 2);
    if (axis < 2)
      storage->axis = axis == 0 ? CACHE_AXIS_TOKEN : CACHE_AXIS_CHANNEL;
  }
  if (slots[GROUP] != NULL)
    check_constant(check, slots[GROUP], "group", 1, CHECK_MAX_PAGE, &group);
  if (slots[RESIDUAL] != NULL)
    check_constant(check, slots[RESIDUAL], "residual", 0, INT32_MAX, &residual);
  if (slots[CHANNELS] != NULL)
    check_constant(check, slots[CHANNELS], "the number of quantised channels", 1, channels, &some);
  storage->channels = some == channels ? 0 : (uint32_t)some;
  if (some != 0)
    channels = (uint32_t)some;
  if (is_quantised(storage->type))
    whole_bytes(check, ast->span, storage->type, channels);
  if (storage->axis == CACHE_AXIS_TOKEN && group > 0 && channels % group != 0) {
    struct diagnostic *error =
        check_error(check, DIAG_BAD_VALUE, slots[GROUP]->span,
                    "groups of %lld do not divide %u channels", (long long)group, channels);
    int64_t smaller = group < channels ? group : channels;
    while (channels % smaller != 0)
      smaller--;
    diag_help(check->diagnostics, error, "group = %lld", (long long)smaller);
  }
  storage->group = (uint32_t)group;
  storage->residual = (uint32_t)residual;
  if (slots[ASYMMETRIC] != NULL) {
    struct scope scope = check_scope(check, CONTEXT_CONSTANT);
    const struct expr *e = check_bool(check, &scope, slots[ASYMMETRIC]);
    storage->asymmetric = e != NULL && expr_is_true(e);
    if (storage->asymmetric && (storage->type == DTYPE_E4M3 || storage->type == DTYPE_E5M2))
      check_error(check, DIAG_BAD_VALUE, slots[ASYMMETRIC]->span, "%s has a sign and no zero point",
                  name.text);
  }
  if (slots[TABLE] != NULL)
    table(check, slots[TABLE], storage);
}

/* ---- a whole statement ---- */

static void groups_of_tokens(struct check *check, struct span span,
                             const struct spec_storage *storage)
{
  const struct spec_cache *cache = &check->spec->cache;
  struct diagnostic *error;
  if (storage->axis != CACHE_AXIS_CHANNEL || storage->group == 0)
    return;
  if (storage->residual == 0 || storage->residual % storage->group != 0) {
    error = check_error(check, DIAG_BAD_VALUE, span,
                        "groups of %u tokens are quantised when they are full: the newest tokens "
                        "need a residual that is a multiple of the group",
                        storage->group);
    diag_help(check->diagnostics, error, "residual = %llu",
              (unsigned long long)(storage->residual / storage->group + 1) * storage->group);
  }
  if (cache->layout == CACHE_RING) {
    error = check_error(check, DIAG_BAD_VALUE, span,
                        "a ring loses its oldest tokens one by one, groups of them share a scale");
    diag_help(check->diagnostics, error, "axis = token, or a paged cache");
  } else if (cache->layout == CACHE_PAGED && cache->page % storage->group != 0) {
    error = check_error(check, DIAG_BAD_VALUE, span, "groups of %u do not divide pages of %u",
                        storage->group, cache->page);
    diag_help(check->diagnostics, error, "group = %u", cache->page);
  }
}

static void storage_fits(struct check *check, struct span span, const struct spec_storage *storage)
{
  const struct spec_cache *cache = &check->spec->cache;
  struct diagnostic *error;
  if (!is_quantised(storage->type))
    return;
  groups_of_tokens(check, span, storage);
  if (cache->layout == CACHE_RAGGED) {
    error = check_error(check, DIAG_BAD_VALUE, span,
                        "a ragged batch is what a launch is given, not stored in codes");
    diag_help(check->diagnostics, error, "cache dense, or paged(page = 64)");
  }
  if (cache->layout == CACHE_RING && storage->residual > cache->capacity) {
    error = check_error(check, DIAG_BAD_VALUE, span,
                        "a residual of %u tokens in a ring that keeps the newest %u",
                        storage->residual, cache->capacity);
    diag_help(check->diagnostics, error, "residual = %u", cache->capacity);
  }
}

/* Inputs that are kept per key stand beside the cache's own tensors. */
static void cached_inputs_fit(struct check *check)
{
  static const char *const taken[] = {"lengths", "page_table", "seen", "positions"};
  const struct spec *spec = check->spec;
  for (uint32_t n = 0; n < spec->input_count; n++) {
    const struct spec_input *input = &spec->inputs[n];
    uint32_t rank = input->rank + 1; /* NK became two; B, if there was one, none */
    if (!input->cached)
      continue;
    for (uint32_t k = 0; k < input->rank; k++)
      rank -= input->dims[k].kind == DIM_B;
    if (rank > SPEC_MAX_RANK)
      check_error(check, DIAG_TOO_COMPLEX, input->span, "a cached input of %u dimensions", rank);
    for (size_t k = 0; k < sizeof(taken) / sizeof(*taken); k++)
      if (check_text_is(input->name, taken[k])) {
        struct diagnostic *error = check_error(check, DIAG_DUPLICATE_NAME, input->span,
                                               "a cache has a tensor '%s' of its own", input->name);
        diag_help(check->diagnostics, error, "another name");
      }
  }
}

void check_cache_fits(struct check *check, const struct ast_expr *k, const struct ast_expr *v)
{
  const struct spec *spec = check->spec;
  const struct spec_cache *cache = &spec->cache;
  cached_inputs_fit(check);
  if (k != NULL)
    storage_fits(check, k->span, &cache->k);
  if (v != NULL && !spec->value_is_key)
    storage_fits(check, v->span, &cache->v);
  if ((int64_t)cache->capacity + cache->sinks > INT32_MAX)
    check_error(check, DIAG_BAD_VALUE, cache->span, "a ring of more than %d tokens", INT32_MAX);
  if (cache->positions == CACHE_POSITIONS_SLOT && spec->has_rotary && !cache->rope_on_read) {
    struct diagnostic *error =
        check_error(check, DIAG_BAD_VALUE, cache->span,
                    "a key's rank changes when others leave the cache: it cannot be rotated once");
    diag_help(check->diagnostics, error, "rope = read");
  }
}

/* ---- what a ring means ---- */

static const struct expr *keys_held(void *user, struct expr_pool *pool, const struct expr *leaf)
{
  const struct spec_cache *cache = user;
  if (!expr_is_var(leaf, EXPR_VAR_SIZE_NK))
    return NULL;
  return expr_binary(pool, EXPR_MIN, leaf, expr_int(pool, cache->sinks + cache->capacity));
}

void check_ring(struct check *check)
{
  struct spec *spec = check->spec;
  struct expr_pool *pool = check->pool;
  if (spec->cache.layout != CACHE_RING || spec->cache.capacity == 0)
    return;
  spec_rewrite(spec, keys_held, &spec->cache);
  const struct expr *i = expr_variable(pool, EXPR_VAR_I), *j = expr_variable(pool, EXPR_VAR_J);
  const struct expr *kept =
      expr_binary(pool, EXPR_LT, expr_sub(pool, i, j), expr_int(pool, spec->cache.capacity));
  if (spec->cache.sinks > 0)
    kept = expr_or(pool, expr_binary(pool, EXPR_LT, j, expr_int(pool, spec->cache.sinks)), kept);
  spec->mask = expr_and(pool, spec->mask, kept);
}
