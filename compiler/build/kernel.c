/* What a kernel declares: tensors, summaries, tables, parameters and sizes, each when it is first
 * used. */
#include "compiler/build/access.h"

#include <stdarg.h>

void build_unsupported(struct build *b, struct span span, const char *format, ...)
{
  va_list arguments;
  va_start(arguments, format);
  const char *what = arena_vformat(b->arena, format, arguments);
  va_end(arguments);
  diag_report(b->diagnostics, DIAG_NOT_LOWERED, span, "%s: not yet lowered for %s", what,
              target_name(b->options->target));
}

static void forget(int32_t *numbers, size_t count)
{
  for (size_t k = 0; k < count; k++)
    numbers[k] = NOT_DECLARED;
}

void build_open_kernel(struct build *b, const char *name)
{
  struct tile_kernel *kernel = tile_kernel_new(b->tile.program, name);
  b->tile = (struct tile_builder){
      .program = b->tile.program, .kernel = kernel, .region = kernel->body, .span = b->spec->span};
  forget(b->tensors, BUILD_MAX_TENSORS);
  forget(b->summaries, SPEC_MAX_INPUTS);
  forget(b->params, SPEC_MAX_PARAMS);
  forget(b->sizes, BUILD_MAX_SIZES);
  forget(b->starts, 2);
  forget(b->rotary_tables, 4);
  forget(b->workspaces, BUILD_MAX_WORKSPACES);
  forget(b->outputs, SPEC_MAX_OUTPUTS);
  b->values.count = 0;
  b->live_rows = b->live_keys = NULL;
}

enum dtype build_dtype(const struct build *b, enum dtype type)
{
  return type == DTYPE_SPEC || type == DTYPE_ANY ? b->options->type : type;
}

/* ---- tensors ---- */

static struct spec_dim cache_dim(const struct build *b, const struct cache_dimension *dim)
{
  struct spec_dim made = {.kind = DIM_EXPR};
  switch (dim->kind) {
  case CACHE_DIM_B:
    made = (struct spec_dim){.kind = DIM_B, .size = expr_variable(b->pool, EXPR_VAR_SIZE_B)};
    break;
  case CACHE_DIM_TABLE: made.size = build_launch_size(b, BUILD_TABLE); break;
  case CACHE_DIM_PAGES: made.size = build_launch_size(b, BUILD_PAGES); break;
  case CACHE_DIM_SLOTS:
    made.size = expr_binary(b->pool, EXPR_FLOORDIV, build_launch_size(b, BUILD_SLOTS),
                            expr_int(b->pool, dim->quotient));
    break;
  case CACHE_DIM_CONSTANT: made.size = expr_int(b->pool, dim->size); break;
  case CACHE_DIM_INPUT: made.size = dim->input; break;
  }
  return made;
}

/* What a cached input's dimensions beyond the slots stand for is what they were declared as. */
static void cache_storage_of(const struct build *b, const struct cache_tensor *tensor,
                             struct storage *storage)
{
  storage->rank = storage->batch = storage->tokens = tensor->rank;
  for (uint32_t k = 0; k < tensor->rank; k++)
    storage->dims[k] = cache_dim(b, &tensor->dims[k]);
  if (tensor->source >= EXPR_TENSOR_INPUT) {
    const struct spec_input *input = &b->spec->inputs[tensor->source - EXPR_TENSOR_INPUT];
    uint32_t at = 2;
    bool had_keys = false;
    for (uint32_t k = 0; k < input->rank && at < tensor->rank; k++) {
      enum dim_kind kind = input->dims[k].kind;
      if (kind != DIM_B && (kind != DIM_NK || had_keys))
        storage->dims[at++].kind = kind == DIM_NK ? DIM_EXPR : kind;
      had_keys |= kind == DIM_NK;
    }
  } else if (tensor->part >= CACHE_DATA) {
    storage->dims[tensor->rank - 2].kind = DIM_G;
  }
}

void build_storage(struct build *b, uint32_t tensor, struct storage *storage)
{
  const struct spec *spec = b->spec;
  *storage = (struct storage){.cached = access_is_cached(b, tensor)};
  if (tensor >= EXPR_TENSOR_CACHE) {
    cache_storage_of(b, &b->cache->tensors[tensor - EXPR_TENSOR_CACHE], storage);
    return;
  }
  if (tensor < EXPR_TENSOR_INPUT) {
    bool query = tensor == EXPR_TENSOR_Q || tensor == EXPR_TENSOR_O;
    bool value = tensor == EXPR_TENSOR_V || tensor == EXPR_TENSOR_O;
    uint32_t heads = query ? spec->query_heads : spec->kv_heads;
    uint32_t channels = value ? spec->dim_v : spec->dim_qk;
    enum expr_var tokens = query ? EXPR_VAR_SIZE_NQ : EXPR_VAR_SIZE_NK;
    storage->rank = 4;
    storage->dims[0] =
        (struct spec_dim){.kind = DIM_B, .size = expr_variable(b->pool, EXPR_VAR_SIZE_B)};
    storage->dims[1] =
        (struct spec_dim){.kind = query ? DIM_H : DIM_G, .size = expr_int(b->pool, heads)};
    storage->dims[2] =
        (struct spec_dim){.kind = query ? DIM_NQ : DIM_NK, .size = expr_variable(b->pool, tokens)};
    storage->dims[3] =
        (struct spec_dim){.kind = value ? DIM_DV : DIM_D, .size = expr_int(b->pool, channels)};
  } else {
    const struct spec_input *input = &spec->inputs[tensor - EXPR_TENSOR_INPUT];
    storage->rank = input->rank;
    for (uint32_t k = 0; k < input->rank; k++)
      storage->dims[k] = input->dims[k];
  }
  uint32_t keys = storage->batch = storage->tokens = storage->rank;
  for (uint32_t k = storage->rank; k-- > 0;) {
    enum dim_kind kind = storage->dims[k].kind;
    if (kind == DIM_B)
      storage->batch = k;
    else if (kind == DIM_NQ)
      storage->tokens = k;
    else if (kind == DIM_NK)
      keys = k;
  }
  if (storage->tokens == storage->rank) /* NQ is packed, or else NK: as attn.h has it */
    storage->tokens = keys;
  storage->packed = storage->batch < storage->rank && storage->tokens < storage->rank &&
                    b->packed[storage->tokens == keys];
}

uint32_t storage_rank(const struct storage *storage)
{
  return storage->rank - storage->packed;
}

uint32_t storage_dim(const struct storage *storage, uint32_t dim)
{
  if (!storage->packed)
    return dim;
  if (dim == storage->tokens)
    return 0;
  return dim + 1 - (dim > storage->batch) - (dim > storage->tokens);
}

enum dtype build_element(const struct build *b, uint32_t tensor)
{
  if (tensor >= EXPR_TENSOR_CACHE)
    return build_dtype(b, b->cache->tensors[tensor - EXPR_TENSOR_CACHE].type);
  if (tensor >= EXPR_TENSOR_INPUT)
    return build_dtype(b, b->spec->inputs[tensor - EXPR_TENSOR_INPUT].type);
  return b->options->type;
}

/* "cache_k_scale" of "k.scale" */
static const char *cache_name(const struct build *b, const char *name)
{
  char *made = arena_format(b->arena, "cache_%s", name);
  for (char *c = made; *c != '\0'; c++)
    *c = *c == '.' ? '_' : *c;
  return made;
}

static struct tile_tensor describe_tensor(const struct build *b, uint32_t tensor)
{
  static const enum tile_role roles[] = {TILE_ROLE_QUERY, TILE_ROLE_KEY, TILE_ROLE_VALUE,
                                         TILE_ROLE_RESULT};
  struct tile_tensor made = {.element = build_element(b, tensor),
                             .written = tensor == EXPR_TENSOR_O};
  if (tensor >= EXPR_TENSOR_CACHE) {
    made.role = TILE_ROLE_CACHE;
    made.role_index = tensor - EXPR_TENSOR_CACHE;
    made.name = cache_name(b, b->cache->tensors[made.role_index].name);
  } else if (tensor >= EXPR_TENSOR_INPUT) {
    made.role = TILE_ROLE_INPUT;
    made.role_index = tensor - EXPR_TENSOR_INPUT;
    made.name = b->spec->inputs[made.role_index].name;
  } else {
    static const char *const names[] = {"q", "k", "v", "o"};
    made.role = roles[tensor];
    made.name = names[tensor];
  }
  return made;
}

uint32_t build_tensor(struct build *b, uint32_t tensor)
{
  if (tensor == EXPR_TENSOR_K && b->rotated_keys)
    return build_rotated_keys(b);
  if (b->tensors[tensor] == NOT_DECLARED) {
    struct storage storage;
    build_storage(b, tensor, &storage);
    struct tile_tensor made = describe_tensor(b, tensor);
    made.rank = storage_rank(&storage);
    b->tensors[tensor] = (int32_t)tile_add_tensor(b->tile.kernel, made);
  }
  return (uint32_t)b->tensors[tensor];
}

uint32_t build_workspace(struct build *b, const struct workspace *workspace, bool written)
{
  int32_t *number = &b->workspaces[workspace->number];
  if (*number != NOT_DECLARED)
    return (uint32_t)*number;
  struct expr_pool *pool = b->pool;
  const struct expr *sequences = expr_variable(pool, EXPR_VAR_SIZE_B);
  const struct expr *tokens =
      expr_variable(pool, workspace->keys ? EXPR_VAR_SIZE_NK : EXPR_VAR_SIZE_NQ);
  const struct expr *heads =
      expr_int(pool, workspace->keys ? b->spec->kv_heads : b->spec->query_heads);
  struct tile_tensor made = {.name = workspace->name,
                             .element = workspace->element,
                             .rank = 3,
                             .written = written,
                             .role = TILE_ROLE_WORKSPACE,
                             .role_index = workspace->number,
                             .shape = {sequences, heads, tokens}};
  if (b->packed[workspace->keys]) { /* packed sequences are no longer than that together */
    made.rank = 2;
    made.shape[0] = expr_mul(pool, sequences, tokens);
  }
  if (workspace->columns != NULL)
    made.shape[made.rank++] = workspace->columns;
  *number = (int32_t)tile_add_tensor(b->tile.kernel, made);
  return (uint32_t)*number;
}

uint32_t build_rotated_keys(struct build *b)
{
  const struct workspace keys = {.number = WORKSPACE_ROTATED_KEYS,
                                 .name = "k_rotated",
                                 .element = b->keeps_storage ? b->options->type : DTYPE_F32,
                                 .keys = true,
                                 .columns = expr_int(b->pool, b->spec->dim_qk)};
  return build_workspace(b, &keys, !b->rotated_keys);
}

/* The summary of a tensor that lies in memory as [.., n] is [.., ceil(n / 64), 2]: the least and
 * the largest element of each block. */
uint32_t build_summary(struct build *b, uint32_t tensor)
{
  uint32_t n = 0;
  while (b->visibility->summaries[n].tensor != tensor)
    n++;
  if (b->summaries[n] == NOT_DECLARED) {
    const struct spec_input *input = &b->spec->inputs[tensor - EXPR_TENSOR_INPUT];
    struct storage storage;
    build_storage(b, tensor, &storage);
    enum dtype type = build_dtype(b, input->type);
    bool real = type == DTYPE_F32 || type == DTYPE_F16 || type == DTYPE_BF16;
    struct tile_tensor made = {.name = arena_format(b->arena, "%s_summary", input->name),
                               .element = real ? DTYPE_F32 : DTYPE_I32,
                               .rank = storage_rank(&storage) + 1,
                               .role = TILE_ROLE_SUMMARY,
                               .role_index = n};
    b->used_summaries |= UINT64_C(1) << n;
    b->summaries[n] = (int32_t)tile_add_tensor(b->tile.kernel, made);
  }
  return (uint32_t)b->summaries[n];
}

uint32_t build_starts(struct build *b, bool keys)
{
  if (b->starts[keys] == NOT_DECLARED) {
    struct tile_tensor made = {.name = keys ? "key_starts" : "query_starts",
                               .element = DTYPE_I64,
                               .rank = 1,
                               .role = keys ? TILE_ROLE_KEY_STARTS : TILE_ROLE_QUERY_STARTS};
    b->starts[keys] = (int32_t)tile_add_tensor(b->tile.kernel, made);
  }
  return (uint32_t)b->starts[keys];
}

uint32_t build_rotary_table(struct build *b, enum tile_role role)
{
  static const char *const names[] = {"rotary_turns", "rotary_rest", "rotary_cosine",
                                      "rotary_sine"};
  uint32_t n = (uint32_t)(role - TILE_ROLE_ROTARY_TURNS);
  if (b->rotary_tables[n] == NOT_DECLARED) {
    struct tile_tensor made = {.name = names[n],
                               .element = role == TILE_ROLE_ROTARY_TURNS ? DTYPE_I32 : DTYPE_F32,
                               .rank = 1,
                               .role = role};
    b->rotary_tables[n] = (int32_t)tile_add_tensor(b->tile.kernel, made);
  }
  return (uint32_t)b->rotary_tables[n];
}

uint32_t build_output(struct build *b, uint32_t output)
{
  const struct spec_output *made_for = &b->spec->outputs[output];
  if (b->outputs[output] != NOT_DECLARED)
    return (uint32_t)b->outputs[output];
  const char *name = output_name(made_for->kind);
  if (b->spec->map_count > 1 && made_for->kind != OUTPUT_MASS && made_for->kind != OUTPUT_WEIGHTS)
    name = arena_format(b->arena, "%s_%s", name, b->spec->maps[made_for->map].name);
  struct tile_tensor made = {.name = name,
                             .element = DTYPE_F32,
                             .rank = (b->packed[made_for->kind == OUTPUT_MASS] ? 2u : 3u) +
                                     (made_for->kind == OUTPUT_WEIGHTS),
                             .written = true,
                             .role = TILE_ROLE_OUTPUT,
                             .role_index = output};
  b->outputs[output] = (int32_t)tile_add_tensor(b->tile.kernel, made);
  return (uint32_t)b->outputs[output];
}

/* ---- parameters ---- */

static const struct expr *size_param(struct build *b, enum build_size size)
{
  static const char *const names[] = {"B",          "NQ",         "NK",         "size_table",
                                      "size_pages", "size_slots", "size_prefix"};
  if (b->sizes[size] == NOT_DECLARED) {
    struct tile_param made = {.name = names[size],
                              .type = EXPR_INT,
                              .role = (enum tile_role)(TILE_ROLE_SIZE_B + (int)size)};
    b->sizes[size] = (int32_t)tile_add_param(b->tile.kernel, made);
  }
  return expr_param(b->pool, (uint32_t)b->sizes[size], EXPR_INT);
}

const struct expr *build_param(struct build *b, uint32_t param)
{
  if (param >= SPEC_MAX_PARAMS)
    return size_param(b, (enum build_size)(param - SPEC_MAX_PARAMS));
  const struct spec_param *declared = &b->spec->params[param];
  if (b->params[param] == NOT_DECLARED) {
    struct tile_param made = {.name = declared->name,
                              .type = declared->type,
                              .role = TILE_ROLE_PARAM,
                              .role_index = param};
    b->params[param] = (int32_t)tile_add_param(b->tile.kernel, made);
  }
  return expr_param(b->pool, (uint32_t)b->params[param], declared->type);
}

const struct expr *build_size(struct build *b, enum expr_var size)
{
  return size_param(b, (enum build_size)(size - EXPR_VAR_SIZE_B));
}

const struct expr *build_launch_size(const struct build *b, enum build_size size)
{
  return expr_param(b->pool, SPEC_MAX_PARAMS + (uint32_t)size, EXPR_INT);
}

bool build_has_own_length(const struct build *b, bool keys)
{
  return b->packed[keys] || (keys && b->reads_cache);
}

/* ---- a task ---- */

static void set_scalar(struct build *b, enum expr_var var, struct tile_value *value)
{
  tile_set_name(&b->tile, value, expr_var_name(var));
  build_set_var(b, var, frame_scalar(), value);
}

/* The number of tokens of the sequence: of queries, of keys. */
static void set_length(struct build *b, bool keys, struct tile_value *sequence)
{
  struct expr_pool *pool = b->pool;
  uint32_t starts = build_starts(b, keys);
  const struct expr *first = expr_arg(pool, 0, EXPR_LONG);
  const struct expr *next = expr_add(pool, first, expr_long(pool, 1));
  const struct expr *all = build_size(b, EXPR_VAR_SIZE_B);
  struct tile_builder *t = &b->tile;
  const struct expr *begin = expr_read(pool, starts, EXPR_LONG, &first, 1);
  const struct expr *end = expr_read(pool, starts, EXPR_LONG, &next, 1);
  const struct expr *length = expr_convert(pool, expr_sub(pool, end, begin), EXPR_INT);
  b->start[keys] = tile_scalar(t, TILE_INDEX, begin, &sequence, 1);
  b->total[keys] = tile_scalar(t, TILE_INDEX, expr_read(pool, starts, EXPR_LONG, &all, 1), NULL, 0);
  set_scalar(b, keys ? EXPR_VAR_SIZE_NK : EXPR_VAR_SIZE_NQ,
             tile_scalar(t, TILE_I32, length, &sequence, 1));
}

void build_enter_task(struct build *b, struct tile_value *sequence, struct tile_value *kv_head)
{
  const struct expr *narrow = expr_convert(b->pool, expr_arg(b->pool, 0, EXPR_LONG), EXPR_INT);
  set_scalar(b, EXPR_VAR_B, tile_scalar(&b->tile, TILE_I32, narrow, &sequence, 1));
  set_scalar(b, EXPR_VAR_G, tile_scalar(&b->tile, TILE_I32, narrow, &kv_head, 1));
  for (int keys = 0; keys < 2; keys++)
    if (b->packed[keys])
      set_length(b, keys, sequence);
  if (b->reads_cache)
    set_scalar(b, EXPR_VAR_SIZE_NK,
               build_value(b, frame_scalar(), access_length(b, build_var(b, EXPR_VAR_B))));
  if (b->spec->align != ALIGN_START)
    set_scalar(b, EXPR_VAR_OFFSET, build_value(b, frame_scalar(), b->spec->offset));
}
