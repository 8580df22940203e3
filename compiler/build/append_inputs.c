/* What new tokens bring besides k and v: cached inputs and positions, and by these the rotation of
 * their keys. */
#include "compiler/build/access.h"
#include "compiler/build/append.h"

enum { PIECE = 64 /* elements of an input's last dimension in a tile */ };

static const struct expr *arg(struct build *b, uint32_t n)
{
  return expr_arg(b->pool, n, EXPR_LONG);
}

static const struct expr *number(struct build *b, int64_t value)
{
  return expr_long(b->pool, value);
}

static struct frame token_rows(void)
{
  return (struct frame){CLASS_KEY, 0, 0};
}

/* ---- cached inputs ---- */

/* How the dimensions of a cached input lie: one is the tokens', the last may be the columns', of
 * the others each task has one element. */
struct input {
  uint32_t tensor; /* EXPR_TENSOR numbering */
  struct storage storage;
  uint32_t tokens, column; /* dimensions; storage.rank where there is none */
  enum tile_element element;
};

static struct input find_input(struct build *b, uint32_t n)
{
  struct input input = {.tensor = EXPR_TENSOR_INPUT + n};
  build_storage(b, input.tensor, &input.storage);
  uint32_t rank = input.storage.rank;
  input.tokens = rank;
  for (uint32_t k = rank; k-- > 0;)
    if (input.storage.dims[k].kind == DIM_NK)
      input.tokens = k;
  bool own = rank > 0 && rank - 1 != input.tokens && rank - 1 != input.storage.batch;
  input.column = own ? rank - 1 : rank;
  enum dtype type = build_dtype(b, b->spec->inputs[n].type);
  bool real = type == DTYPE_F32 || type == DTYPE_F16 || type == DTYPE_BF16;
  input.element = real ? TILE_F32 : type == DTYPE_BOOL ? TILE_BOOL : TILE_I32;
  return input;
}

static bool is_other(const struct input *input, uint32_t dim)
{
  return dim != input->tokens && dim != input->storage.batch && dim != input->column;
}

/* The tile's tokens; `others` are the indices of the other dimensions, in order. */
static struct tile_value *load_input(struct build *b, const struct input *input,
                                     struct tile_value *const *others,
                                     struct append_columns columns)
{
  const struct storage *storage = &input->storage;
  struct append_place place = {.number = build_tensor(b, input->tensor),
                               .rank = storage_rank(storage)};
  place.access = append_no_access(place.number);
  for (uint32_t k = 0; k < storage->rank; k++) {
    if (storage->packed && k == storage->batch)
      continue;
    uint32_t dim = storage_dim(storage, k);
    struct tile_value **index = &place.indices[dim];
    if (k == input->tokens) {
      place.access.row_dim = (uint8_t)dim;
      *index = append_first_row(b, storage->packed);
    } else if (k == storage->batch) {
      *index = build_value(b, frame_scalar(), build_var(b, EXPR_VAR_B));
    } else if (k == input->column) {
      place.access.column_dim = (uint8_t)dim;
      *index = columns.first;
    } else {
      *index = *others++;
    }
  }
  return tile_load(&b->tile, tile_type_tile(input->element, b->columns, columns.size), place.access,
                   place.indices, place.rank, b->live_keys, columns.live);
}

/* One element of the last dimension. */
static struct append_columns one_column(struct build *b)
{
  return (struct append_columns){.first = build_value(b, frame_scalar(), number(b, 0)),
                                 .live = build_value(b, frame_scalar(), number(b, 1)),
                                 .size = 1};
}

void append_input(struct build *b, uint32_t n)
{
  struct expr_pool *pool = b->pool;
  struct tile_builder *t = &b->tile;
  struct input input = find_input(b, n);
  build_open_kernel(b, arena_format(b->arena, "append_%s", b->spec->inputs[n].name));
  struct tile_value *extents[SPEC_MAX_RANK];
  uint32_t others = 0;
  for (uint32_t k = 0; k < input.storage.rank; k++)
    if (is_other(&input, k)) {
      const struct expr *size = build_long(b, input.storage.dims[k].size);
      extents[others++] = tile_scalar(t, TILE_INDEX, operand_launch_size(b, size), NULL, 0);
    }
  uint32_t count = others;
  bool wide = input.column < input.storage.rank;
  const struct expr *width = wide ? build_long(b, input.storage.dims[input.column].size) : NULL;
  if (wide)
    extents[count++] =
        tile_scalar(t, TILE_INDEX, operand_launch_size(b, append_pieces(b, width, PIECE)), NULL, 0);
  struct append_range range = append_new_tokens(b, true);
  struct tile_value **more = append_open(b, &range, false, extents, count);

  struct append_columns columns = one_column(b);
  if (wide) {
    struct tile_value *width_here =
        tile_scalar(t, TILE_INDEX, operand_launch_size(b, width), NULL, 0);
    struct tile_value *parts[] = {more[others], width_here};
    const struct expr *from = expr_mul(pool, arg(b, 0), number(b, PIECE));
    columns.first = build_index(b, "c0", from, parts, 1);
    columns.live = build_index(b, "columns", expr_sub(pool, arg(b, 1), from), parts, 2);
    columns.size = PIECE;
  }
  struct tile_value *x = load_input(b, &input, more, columns);
  int32_t data = cache_plan_find(b->cache, input.tensor, CACHE_DATA);
  struct append_place place;
  append_locate(b, (uint32_t)data, build_var(b, EXPR_VAR_J), &place);
  for (uint32_t k = 0; k < others; k++)
    append_index(&place, more[k], false);
  if (wide)
    append_index(&place, columns.first, true);
  append_store(b, &place, x, columns.live);
  tile_end_region(t);
}

/* ---- positions ---- */

/* INT: the position of token J. It differs from the token's number where `lengths` counts only
 * those that are kept. */
static const struct expr *position(struct build *b)
{
  const struct expr *token = build_var(b, EXPR_VAR_J), *sequence = build_var(b, EXPR_VAR_B);
  int32_t seen = cache_plan_find(b->cache, EXPR_TENSOR_K, CACHE_SEEN);
  if (seen == CACHE_NONE_SUCH)
    return token;
  const struct expr *ever = access_read(b, (uint32_t)seen, &sequence);
  return expr_add(b->pool, token, expr_sub(b->pool, ever, append_all_tokens(b)));
}

void append_positions(struct build *b)
{
  build_open_kernel(b, "number_new");
  struct append_range range = append_new_tokens(b, true);
  append_open(b, &range, false, NULL, 0);
  struct append_place place;
  int32_t stored = cache_plan_find(b->cache, EXPR_TENSOR_K, CACHE_POSITIONS);
  append_locate(b, (uint32_t)stored, build_var(b, EXPR_VAR_J), &place);
  struct tile_value *positions = build_tile(b, token_rows(), position(b));
  append_store(b, &place, positions, build_value(b, frame_scalar(), number(b, 1)));
  tile_end_region(&b->tile);
}

/* ---- rotation ---- */

bool append_rotates(const struct build *b)
{
  return b->spec->has_rotary && !b->spec->cache.rope_on_read;
}

static bool is_cached_input(const struct build *b, const struct expr *e)
{
  return e->op == EXPR_READ && e->value.i >= EXPR_TENSOR_INPUT && e->value.i < EXPR_TENSOR_CACHE &&
         b->spec->inputs[e->value.i - EXPR_TENSOR_INPUT].cached;
}

/* Calls `visit` for every READ of the keys' position. */
static void visit_reads(struct build *b, void (*visit)(struct build *, const struct expr *))
{
  const struct expr *root = b->spec->rotary.key_position;
  bool *wanted = ARENA_ARRAY(b->arena, bool, (size_t)root->id + 1);
  wanted[root->id] = true;
  for (uint32_t id = root->id + 1; id-- > 0;) {
    const struct expr *e = b->pool->nodes.items[id];
    if (!wanted[id])
      continue;
    for (uint32_t k = 0; k < e->arg_count; k++)
      wanted[e->args[k]->id] = true;
    if (e->op == EXPR_READ)
      visit(b, e);
  }
}

/* Whether a READ of a cached input takes the element of its own token. */
static bool reads_own_token(const struct build *b, const struct expr *e)
{
  const struct spec_input *input = &b->spec->inputs[e->value.i - EXPR_TENSOR_INPUT];
  bool own = input->type != DTYPE_BOOL;
  for (uint32_t k = 0; k < input->rank; k++) {
    const struct expr *size = input->dims[k].size, *index = e->args[k];
    switch (input->dims[k].kind) {
    case DIM_B: own &= expr_is_var(index, EXPR_VAR_B); break;
    case DIM_NK: own &= expr_is_var(index, EXPR_VAR_J); break;
    case DIM_G: own &= expr_is_var(index, EXPR_VAR_G); break;
    case DIM_H:
    case DIM_NQ:
    case DIM_D:
    case DIM_DV:
    case DIM_EXPR:
      own &= expr_is_const(index) && expr_is_const(size) && index->value.i >= 0 &&
             index->value.i < size->value.i;
      break;
    }
  }
  return own;
}

static void check_read(struct build *b, const struct expr *e)
{
  const struct spec_input *input = &b->spec->inputs[e->value.i - EXPR_TENSOR_INPUT];
  struct span place = b->spec->rotary.span;
  if (input->cached && !reads_own_token(b, e))
    build_unsupported(b, place,
                      "appending keys whose position reads another token's element of '%s'",
                      input->name);
  for (uint32_t k = 0; k < input->rank && !input->cached; k++)
    if (expr_depends(input->dims[k].size, EXPR_VAR_SIZE_NK)) {
      build_unsupported(b, place,
                        "appending keys whose position reads '%s', an element for each key (of an "
                        "input that is `cached` new keys have their own)",
                        input->name);
      return;
    }
}

void append_check_rotation(struct build *b)
{
  const struct spec_rotary *rotary = &b->spec->rotary;
  const uint64_t lengths = EXPR_DEP(EXPR_VAR_SIZE_NQ) | EXPR_DEP(EXPR_VAR_SIZE_NK);
  visit_reads(b, check_read);
  if (rotary_is_supported(b) && ((rotary->angle->deps | rotary->gain->deps) & lengths) != 0)
    build_unsupported(b, rotary->span,
                      "appending keys rotated by an angle that depends on the sequence's length "
                      "(with `rope = read` they are rotated when they are read)");
}

/* New tokens' elements of a cached input. */
static void set_own_tokens(struct build *b, const struct expr *read)
{
  if (!is_cached_input(b, read))
    return;
  struct input input = find_input(b, (uint32_t)(read->value.i - EXPR_TENSOR_INPUT));
  struct tile_value *others[SPEC_MAX_RANK];
  struct append_columns columns = one_column(b);
  uint32_t count = 0;
  for (uint32_t k = 0; k < input.storage.rank; k++) {
    if (is_other(&input, k))
      others[count++] = build_value(b, frame_scalar(), read->args[k]);
    else if (k == input.column)
      columns.first = build_value(b, frame_scalar(), read->args[k]);
  }
  build_set_value(b, read, token_rows(), load_input(b, &input, others, columns));
}

static const struct expr *replace_position(void *user, const struct expr *e)
{
  struct build *b = user;
  if (is_cached_input(b, e))
    return e;
  if (expr_is_var(e, EXPR_VAR_J))
    return position(b);
  return expr_is_var(e, EXPR_VAR_SIZE_NK) ? append_all_tokens(b) : NULL;
}

/* Makes the positions by which the tile's keys are rotated. */
static void set_key_positions(struct build *b)
{
  const struct expr *given = b->spec->rotary.key_position;
  visit_reads(b, set_own_tokens);
  const struct expr *e = build_transform(b, given, replace_position, b);
  if (e == given)
    return;
  const struct expr *exists =
      expr_binary(b->pool, EXPR_LT, build_var(b, EXPR_VAR_J), append_all_tokens(b));
  checks_emit(b, token_rows(), e, BOUNDS_KEY, exists);
  build_set_value(b, given, token_rows(), build_value(b, token_rows(), e));
}

struct tile_value *append_rotated_keys(struct build *b)
{
  const uint32_t channels = b->spec->dim_qk;
  struct append_columns all = {.first = build_value(b, frame_scalar(), number(b, 0)),
                               .live = build_value(b, frame_scalar(), number(b, channels)),
                               .size = channels};
  struct tile_value *x = append_load(b, EXPR_TENSOR_K, NULL, all);
  set_key_positions(b);
  return rotary_apply(b, CLASS_KEY, 0, x);
}
