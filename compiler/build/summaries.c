/* Kernels that summarise inputs of the mask where no host does it before a launch: the least and
 * the largest element of each VISIBILITY_SUMMARY_BLOCK along the last dimension, as summary_fill of
 * the runtime makes them. They run before all others. */
#include "compiler/build/summaries.h"
#include "compiler/build/rows.h"

#include <math.h>
#include <string.h>

enum { ROWS = 64, BLOCK = VISIBILITY_SUMMARY_BLOCK };

struct summary {
  uint32_t rank; /* of the input in memory */
  const struct expr
      *sizes[SPEC_MAX_RANK]; /* LONG, as the launch gives them: no less than is there */
  const struct expr *there[SPEC_MAX_RANK]; /* LONG: of packed tokens those that are there */
  uint32_t input, output;                  /* tensors of the kernel */
  enum tile_element element;               /* of the input's tiles */
  bool real;
};

static void find_sizes(struct build *b, uint32_t tensor, struct summary *s)
{
  struct expr_pool *pool = b->pool;
  struct storage storage;
  build_storage(b, tensor, &storage);
  s->rank = storage_rank(&storage);
  for (uint32_t k = 0; k < storage.rank; k++) {
    if (storage.packed && k == storage.batch)
      continue;
    uint32_t dim = storage_dim(&storage, k);
    const struct expr *size = build_long(b, operand_launch_size(b, storage.dims[k].size));
    s->sizes[dim] = s->there[dim] = size;
    if (storage.packed && k == storage.tokens) {
      const struct expr *sequences = build_size(b, EXPR_VAR_SIZE_B);
      uint32_t starts = build_starts(b, storage.dims[k].kind == DIM_NK);
      s->sizes[dim] = expr_mul(pool, build_long(b, sequences), size);
      s->there[dim] = expr_read(pool, starts, EXPR_LONG, &sequences, 1);
    }
  }
}

static const struct expr *pieces(struct build *b, const struct expr *size, int64_t piece)
{
  const struct expr *up = expr_add(b->pool, size, expr_long(b->pool, piece - 1));
  return expr_binary(b->pool, EXPR_FLOORDIV, up, expr_long(b->pool, piece));
}

/* How many of `piece` elements from `first` on are there: index. */
static struct tile_value *live(struct build *b, const struct expr *size, struct tile_value *first,
                               int64_t piece)
{
  struct expr_pool *pool = b->pool;
  const struct expr *left = expr_sub(pool, size, expr_arg(pool, 0, EXPR_LONG));
  left = expr_binary(pool, EXPR_MIN, left, expr_long(pool, piece));
  left = expr_binary(pool, EXPR_MAX, left, expr_long(pool, 0));
  return tile_scalar(&b->tile, TILE_INDEX, left, &first, 1);
}

/* [M, 1]: the least or the largest of the live columns of each row, NaN with one in it. */
static struct tile_value *extreme(struct build *b, const struct summary *s, struct tile_value *x,
                                  struct tile_value *inside, bool least)
{
  struct expr_pool *pool = b->pool;
  struct tile_builder *t = &b->tile;
  enum expr_type type = s->real ? EXPR_FLOAT : EXPR_INT;
  const struct expr *own = expr_arg(pool, 0, type), *is_inside = expr_arg(pool, 1, EXPR_BOOL);
  double infinity = (double)INFINITY;
  const struct expr *none = s->real ? expr_float(pool, least ? infinity : -infinity)
                                    : expr_int(pool, least ? INT32_MAX : INT32_MIN);
  struct tile_value *shown = row_map(t, expr_select(pool, is_inside, own, none), 2, x, inside);
  struct tile_value *found = tile_reduce(t, least ? TILE_REDUCE_MIN : TILE_REDUCE_MAX, 1, shown);
  if (!s->real)
    return found;
  const struct expr *is_nan = expr_binary(pool, EXPR_NE, own, own);
  struct tile_value *undefined = tile_reduce(t, TILE_REDUCE_ANY, 1, row_map(t, is_nan, 1, shown));
  const struct expr *e =
      expr_select(pool, is_inside, expr_float(pool, (double)NAN), expr_arg(pool, 0, EXPR_FLOAT));
  return row_map(t, e, 2, found, undefined);
}

static struct tile_value *load_block(struct build *b, const struct summary *s,
                                     struct tile_value *const *indices, struct tile_value *rows,
                                     struct tile_value *columns)
{
  struct expr_pool *pool = b->pool;
  struct tile_access access = {.tensor = s->input,
                               .row_dim = s->rank > 1 ? (uint8_t)(s->rank - 2) : TILE_NO_DIM,
                               .group_dim = TILE_NO_DIM,
                               .column_dim = (uint8_t)(s->rank - 1),
                               .row_group = 1};
  struct tile_value *x =
      tile_load(&b->tile, tile_type_tile(s->element, s->rank > 1 ? ROWS : 1, BLOCK), access,
                indices, s->rank, rows, columns);
  if (s->element != TILE_BOOL)
    return x;
  const struct expr *number =
      expr_select(pool, expr_arg(pool, 0, EXPR_BOOL), expr_int(pool, 1), expr_int(pool, 0));
  return row_map(&b->tile, number, 1, x);
}

static void visit_block(struct build *b, const struct summary *s, struct tile_value *const *tasks)
{
  struct expr_pool *pool = b->pool;
  struct tile_builder *t = &b->tile;
  const struct expr *index = expr_arg(pool, 0, EXPR_LONG);
  uint32_t last = s->rank - 1;
  struct tile_value *indices[SPEC_MAX_RANK], *places[SPEC_MAX_RANK + 1];
  for (uint32_t k = 0; k < s->rank; k++) {
    int64_t piece = k == last ? BLOCK : k + 1 == last ? ROWS : 1;
    indices[k] =
        tile_scalar(t, TILE_INDEX, expr_mul(pool, index, expr_long(pool, piece)), &tasks[k], 1);
    places[k] = k == last ? tasks[k] : indices[k];
  }
  struct tile_value *one = tile_index(t, 1);
  struct tile_value *columns = live(b, s->there[last], indices[last], BLOCK);
  struct tile_value *rows = last > 0 ? live(b, s->there[last - 1], indices[last - 1], ROWS) : one;
  struct tile_value *parts[] = {rows, columns};
  const struct expr *some =
      expr_binary(pool, EXPR_LT, expr_long(pool, 0), expr_arg(pool, 1, EXPR_LONG));
  struct tile_value *stored =
      tile_scalar(t, TILE_INDEX, expr_select(pool, some, index, expr_long(pool, 0)), parts, 2);

  struct tile_value *x = load_block(b, s, indices, rows, columns);
  struct tile_value *zero = tile_index(t, 0);
  struct tile_value *column[] = {tile_iota(t, zero, 1, BLOCK), columns};
  const struct expr *place = expr_convert(pool, expr_arg(pool, 0, EXPR_INT), EXPR_LONG);
  struct tile_value *inside = tile_map(
      t, TILE_BOOL, expr_binary(pool, EXPR_LT, place, expr_arg(pool, 1, EXPR_LONG)), column, 2);
  struct tile_access access = {.tensor = s->output,
                               .row_dim = last > 0 ? (uint8_t)(last - 1) : TILE_NO_DIM,
                               .group_dim = TILE_NO_DIM,
                               .column_dim = TILE_NO_DIM,
                               .row_group = 1};
  for (int k = 0; k < 2; k++) {
    places[s->rank] = k == 0 ? zero : one;
    tile_store(t, extreme(b, s, x, inside, k == 0), access, places, s->rank + 1, stored, one);
  }
}

static void build_one(struct build *b, uint32_t n)
{
  struct tile_builder *t = &b->tile;
  uint32_t tensor = b->visibility->summaries[n].tensor;
  const struct spec_input *input = &b->spec->inputs[tensor - EXPR_TENSOR_INPUT];
  build_open_kernel(b, arena_format(b->arena, "summarize_%s", input->name));
  struct summary s = {.input = build_tensor(b, tensor), .output = build_summary(b, tensor)};
  t->kernel->tensors.items[s.output].written = true;
  s.real = t->kernel->tensors.items[s.output].element == DTYPE_F32;
  enum dtype type = t->kernel->tensors.items[s.input].element;
  s.element = s.real ? TILE_F32 : type == DTYPE_BOOL ? TILE_BOOL : TILE_I32;
  find_sizes(b, tensor, &s);
  struct tile_value *extents[SPEC_MAX_RANK];
  for (uint32_t k = 0; k < s.rank; k++) {
    int64_t piece = k + 1 == s.rank ? BLOCK : k + 2 == s.rank ? ROWS : 1;
    extents[k] = tile_scalar(t, TILE_INDEX, pieces(b, s.sizes[k], piece), NULL, 0);
  }
  struct tile_op *tasks = tile_parallel(t, extents, s.rank);
  visit_block(b, &s, tasks->regions[0]->arguments);
  tile_end_region(t);
}

void summaries_build(struct build *b)
{
  struct tile_program *program = b->tile.program;
  size_t count = program->kernels.count, made = 0;
  for (uint32_t n = 0; n < b->visibility->summary_count; n++)
    if ((b->used_summaries >> n & 1) != 0) {
      build_one(b, n);
      made++;
    }
  struct tile_kernel **all = program->kernels.items;
  struct tile_kernel **copy = ARENA_ARRAY(b->arena, struct tile_kernel *, count + made);
  for (size_t k = 0; k < count + made; k++)
    copy[k] = all[(k + count) % (count + made)];
  memcpy(all, copy, (count + made) * sizeof(struct tile_kernel *));
}
