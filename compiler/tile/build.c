#include "compiler/tile/text.h"

#include <string.h>

static struct arena *arena_of(const struct tile_builder *b)
{
  return b->program->arena;
}

/* ---- programs and kernels ---- */

struct tile_program *tile_program_new(struct arena *arena, struct expr_pool *pool)
{
  struct tile_program *program = ARENA_NEW(arena, struct tile_program);
  program->arena = arena;
  program->pool = pool;
  return program;
}

/* `name` with every character that an identifier of the text cannot hold replaced by '_'. */
static const char *clean_name(struct arena *arena, const char *name)
{
  size_t length = strlen(name);
  char *clean = arena_strndup(arena, name, length);
  for (size_t k = 0; k < length; k++) {
    char c = clean[k];
    bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
    if (!letter && !(c >= '0' && c <= '9'))
      clean[k] = '_';
  }
  return clean;
}

struct tile_kernel *tile_kernel_new(struct tile_program *program, const char *name)
{
  struct tile_kernel *kernel = ARENA_NEW(program->arena, struct tile_kernel);
  name = clean_name(program->arena, name);
  bool starts_well = name[0] != '\0' && !(name[0] >= '0' && name[0] <= '9');
  kernel->name = starts_well ? name : arena_format(program->arena, "_%s", name);
  kernel->program = program;
  kernel->body = ARENA_NEW(program->arena, struct tile_region);
  interner_init(&kernel->names, program->arena);
  vector_push(program->arena, &program->kernels, kernel);
  return kernel;
}

static bool declared(const struct tile_kernel *kernel, const char *name)
{
  for (size_t k = 0; k < kernel->tensors.count; k++)
    if (strcmp(kernel->tensors.items[k].name, name) == 0)
      return true;
  for (size_t k = 0; k < kernel->params.count; k++)
    if (strcmp(kernel->params.items[k].name, name) == 0)
      return true;
  return false;
}

static const char *declarable_name(struct tile_kernel *kernel, const char *name)
{
  struct arena *arena = kernel->program->arena;
  name = clean_name(arena, name);
  if (name[0] == '\0' || (name[0] >= '0' && name[0] <= '9'))
    name = arena_format(arena, "_%s", name);
  while (tile_name_is_reserved(name) || declared(kernel, name))
    name = arena_format(arena, "%s_", name);
  return name;
}

uint32_t tile_add_tensor(struct tile_kernel *kernel, struct tile_tensor tensor)
{
  tensor.name = declarable_name(kernel, tensor.name);
  vector_push(kernel->program->arena, &kernel->tensors, tensor);
  return (uint32_t)kernel->tensors.count - 1;
}

uint32_t tile_add_param(struct tile_kernel *kernel, struct tile_param param)
{
  param.name = declarable_name(kernel, param.name);
  vector_push(kernel->program->arena, &kernel->params, param);
  return (uint32_t)kernel->params.count - 1;
}

/* ---- values, ops, regions ---- */

struct tile_type tile_type_tile(enum tile_element element, uint32_t rows, uint32_t columns)
{
  return (struct tile_type){
      .kind = TILE_KIND_TILE, .element = element, .rows = rows, .columns = columns};
}

struct tile_type tile_type_scalar(enum tile_element element)
{
  return (struct tile_type){.kind = TILE_KIND_SCALAR, .element = element, .rows = 1, .columns = 1};
}

static const char *unique_name(struct tile_builder *b, const char *wanted)
{
  struct interner *names = &b->kernel->names;
  const char *name = wanted;
  for (uint32_t n = 1;; n++) {
    size_t before = names->count;
    const char *held = intern(names, name, strlen(name));
    if (names->count != before)
      return held;
    name = arena_format(arena_of(b), "%s.%u", wanted, n);
  }
}

static struct tile_value *value_new(struct tile_builder *b, struct tile_type type, uint32_t index)
{
  struct tile_value *value = ARENA_NEW(arena_of(b), struct tile_value);
  value->type = type;
  value->index = index;
  value->id = b->kernel->value_count++;
  value->name = unique_name(b, arena_format(arena_of(b), "%u", value->id));
  return value;
}

void tile_set_name(struct tile_builder *b, struct tile_value *value, const char *name)
{
  name = clean_name(arena_of(b), name);
  if (name[0] != '\0' && strcmp(name, value->name) != 0)
    value->name = unique_name(b, name);
}

struct tile_op *tile_op_new(struct tile_builder *b, enum tile_op_kind kind,
                            struct tile_value *const *operands, size_t operand_count,
                            const struct tile_type *results, size_t result_count)
{
  struct tile_op *op = ARENA_NEW(arena_of(b), struct tile_op);
  op->kind = kind;
  op->span = b->span;
  op->operands = arena_copy(arena_of(b), operands, operand_count * sizeof(*operands));
  op->operand_count = (uint32_t)operand_count;
  op->results = ARENA_ARRAY(arena_of(b), struct tile_value *, result_count);
  op->result_count = (uint32_t)result_count;
  for (uint32_t k = 0; k < result_count; k++) {
    op->results[k] = value_new(b, results[k], k);
    op->results[k]->def = op;
  }
  op->access = (struct tile_access){
      .row_dim = TILE_NO_DIM, .group_dim = TILE_NO_DIM, .column_dim = TILE_NO_DIM, .row_group = 1};
  op->parent = b->region;
  op->previous = b->region->last;
  if (b->region->last != NULL)
    b->region->last->next = op;
  else
    b->region->first = op;
  b->region->last = op;
  return op;
}

struct tile_region *tile_region_new(struct tile_builder *b, struct tile_op *parent,
                                    const struct tile_type *arguments, size_t argument_count)
{
  struct arena *arena = arena_of(b);
  struct tile_region *region = ARENA_NEW(arena, struct tile_region);
  region->parent = parent;
  region->arguments = ARENA_ARRAY(arena, struct tile_value *, argument_count);
  region->argument_count = (uint32_t)argument_count;
  for (uint32_t k = 0; k < argument_count; k++) {
    region->arguments[k] = value_new(b, arguments[k], k);
    region->arguments[k]->region = region;
  }
  struct tile_region **regions = ARENA_ARRAY(arena, struct tile_region *, parent->region_count + 1);
  for (uint32_t k = 0; k < parent->region_count; k++)
    regions[k] = parent->regions[k];
  regions[parent->region_count++] = region;
  parent->regions = regions;
  return region;
}

static struct tile_value *result_of(struct tile_builder *b, enum tile_op_kind kind,
                                    struct tile_value *const *operands, size_t count,
                                    struct tile_type type)
{
  return tile_op_new(b, kind, operands, count, &type, 1)->results[0];
}

/* `head`, `middle` and `tail` one after the other. */
static struct tile_value **joined(struct tile_builder *b, struct tile_value *const *head,
                                  size_t head_count, struct tile_value *const *middle,
                                  size_t middle_count, struct tile_value *const *tail,
                                  size_t tail_count)
{
  struct tile_value **all =
      ARENA_ARRAY(arena_of(b), struct tile_value *, head_count + middle_count + tail_count);
  size_t n = 0;
  for (size_t k = 0; k < head_count; k++)
    all[n++] = head[k];
  for (size_t k = 0; k < middle_count; k++)
    all[n++] = middle[k];
  for (size_t k = 0; k < tail_count; k++)
    all[n++] = tail[k];
  return all;
}

/* ---- scalars and tiles ---- */

struct tile_value *tile_scalar(struct tile_builder *b, enum tile_element element,
                               const struct expr *e, struct tile_value *const *operands,
                               size_t count)
{
  struct tile_value *value = result_of(b, TILE_SCALAR, operands, count, tile_type_scalar(element));
  value->def->expr = e;
  return value;
}

struct tile_value *tile_index(struct tile_builder *b, int64_t value)
{
  return tile_scalar(b, TILE_INDEX, expr_long(b->program->pool, value), NULL, 0);
}

static const struct expr *constant(struct tile_builder *b, enum tile_element element, double value)
{
  struct expr_pool *pool = b->program->pool;
  switch (element) {
  case TILE_F32:
  case TILE_F16:
  case TILE_BF16: return expr_float(pool, value);
  case TILE_I32: return expr_int(pool, (int64_t)value);
  case TILE_INDEX: return expr_long(pool, (int64_t)value);
  case TILE_BOOL: return expr_bool(pool, value != 0);
  }
  return NULL;
}

struct tile_value *tile_splat(struct tile_builder *b, enum tile_element element, uint32_t rows,
                              uint32_t columns, double value)
{
  struct tile_value *scalar = tile_scalar(b, element, constant(b, element, value), NULL, 0);
  return result_of(b, TILE_SPLAT, &scalar, 1, tile_type_tile(element, rows, columns));
}

struct tile_value *tile_iota(struct tile_builder *b, struct tile_value *base, uint32_t rows,
                             uint32_t columns)
{
  return result_of(b, TILE_IOTA, &base, 1, tile_type_tile(TILE_I32, rows, columns));
}

struct tile_value *tile_load(struct tile_builder *b, struct tile_type type,
                             struct tile_access access, struct tile_value *const *indices,
                             size_t rank, struct tile_value *live_rows,
                             struct tile_value *live_columns)
{
  struct tile_value *live[] = {live_rows, live_columns};
  struct tile_value **operands = joined(b, indices, rank, live, 2, NULL, 0);
  struct tile_value *value = result_of(b, TILE_LOAD, operands, rank + 2, type);
  value->def->access = access;
  return value;
}

void tile_store(struct tile_builder *b, struct tile_value *tile, struct tile_access access,
                struct tile_value *const *indices, size_t rank, struct tile_value *live_rows,
                struct tile_value *live_columns)
{
  struct tile_value *live[] = {live_rows, live_columns};
  struct tile_value **operands = joined(b, &tile, 1, indices, rank, live, 2);
  tile_op_new(b, TILE_STORE, operands, rank + 3, NULL, 0)->access = access;
}

struct tile_value *tile_product(struct tile_builder *b, struct tile_value *a, bool transpose_a,
                                struct tile_value *bb, bool transpose_b,
                                struct tile_value *accumulator)
{
  struct tile_value *operands[] = {a, bb, accumulator};
  uint32_t rows = transpose_a ? a->type.columns : a->type.rows;
  uint32_t columns = transpose_b ? bb->type.rows : bb->type.columns;
  struct tile_value *value = result_of(b, TILE_PRODUCT, operands, accumulator == NULL ? 2 : 3,
                                       tile_type_tile(TILE_F32, rows, columns));
  value->def->transpose_a = transpose_a;
  value->def->transpose_b = transpose_b;
  return value;
}

struct tile_value *tile_map(struct tile_builder *b, enum tile_element element, const struct expr *e,
                            struct tile_value *const *operands, size_t count)
{
  uint32_t rows = 1, columns = 1;
  for (size_t k = 0; k < count; k++) {
    if (rows == 1)
      rows = operands[k]->type.rows;
    if (columns == 1)
      columns = operands[k]->type.columns;
  }
  struct tile_value *value =
      result_of(b, TILE_MAP, operands, count, tile_type_tile(element, rows, columns));
  value->def->expr = e;
  return value;
}

struct tile_value *tile_reduce(struct tile_builder *b, enum tile_reduction reduction, uint32_t axis,
                               struct tile_value *x)
{
  struct tile_type type = tile_type_tile(x->type.element, axis == 0 ? 1 : x->type.rows,
                                         axis == 0 ? x->type.columns : 1);
  struct tile_value *value = result_of(b, TILE_REDUCE, &x, 1, type);
  value->def->reduction = reduction;
  value->def->axis = axis;
  return value;
}

struct tile_value *tile_scale_rows(struct tile_builder *b, struct tile_value *accumulator,
                                   struct tile_value *factor)
{
  struct tile_value *operands[] = {accumulator, factor};
  return result_of(b, TILE_SCALE_ROWS, operands, 2, accumulator->type);
}

struct tile_value *tile_permute(struct tile_builder *b, struct tile_value *x, const uint32_t *table,
                                uint32_t columns)
{
  struct tile_value *value =
      result_of(b, TILE_PERMUTE, &x, 1, tile_type_tile(x->type.element, x->type.rows, columns));
  value->def->permutation = arena_copy(arena_of(b), table, columns * sizeof(*table));
  return value;
}

struct tile_value *tile_transpose(struct tile_builder *b, struct tile_value *x)
{
  return result_of(b, TILE_TRANSPOSE, &x, 1,
                   tile_type_tile(x->type.element, x->type.columns, x->type.rows));
}

void tile_check(struct tile_builder *b, const struct expr *ok, const struct expr *index,
                uint32_t site, struct tile_value *const *operands, size_t count)
{
  struct tile_op *op = tile_op_new(b, TILE_CHECK, operands, count, NULL, 0);
  op->expr = ok;
  op->expr2 = index;
  op->site = site;
}

void tile_limit_rows(struct tile_builder *b, uint32_t rows, struct tile_value *live)
{
  tile_op_new(b, TILE_LIMIT_ROWS, &live, 1, NULL, 0)->rows = rows;
}

void tile_limit_columns(struct tile_builder *b, struct tile_value *tile, const struct expr *first,
                        const struct expr *end, struct tile_value *const *operands, size_t count,
                        struct tile_value *mask)
{
  struct tile_value **all = ARENA_ARRAY(arena_of(b), struct tile_value *, count + 2);
  all[0] = tile;
  for (size_t k = 0; k < count; k++)
    all[k + 1] = operands[k];
  all[count + 1] = mask;
  size_t given = mask == NULL ? count + 1 : count + 2;
  struct tile_op *op = tile_op_new(b, TILE_LIMIT_COLUMNS, all, given, NULL, 0);
  op->expr = first;
  op->expr2 = end;
  op->masked = mask != NULL;
}

/* ---- control ---- */

static struct tile_type *types_of(struct tile_builder *b, struct tile_value *const *values,
                                  size_t count, size_t room)
{
  struct tile_type *types = ARENA_ARRAY(arena_of(b), struct tile_type, count + room);
  for (size_t k = 0; k < count; k++)
    types[k + room] = values[k]->type;
  for (size_t k = 0; k < room; k++)
    types[k] = tile_type_scalar(TILE_INDEX);
  return types;
}

struct tile_op *tile_parallel(struct tile_builder *b, struct tile_value *const *extents,
                              size_t count)
{
  struct tile_op *op = tile_op_new(b, TILE_PARALLEL, extents, count, NULL, 0);
  b->region = tile_region_new(b, op, types_of(b, NULL, 0, count), count);
  return op;
}

struct tile_op *tile_for(struct tile_builder *b, struct tile_value *lo, struct tile_value *hi,
                         uint32_t step, struct tile_value *const *carried, size_t count)
{
  struct tile_value *bounds[] = {lo, hi};
  struct tile_value **operands = joined(b, bounds, 2, carried, count, NULL, 0);
  struct tile_type *types = types_of(b, carried, count, 1);
  struct tile_op *op = tile_op_new(b, TILE_FOR, operands, count + 2, types + 1, count);
  op->step = step;
  b->region = tile_region_new(b, op, types, count + 1);
  return op;
}

struct tile_op *tile_for_segments(struct tile_builder *b, uint32_t step,
                                  struct tile_value *const *segments, size_t segment_count,
                                  struct tile_value *const *extra, size_t extra_count,
                                  const struct expr *may, const struct expr *must,
                                  struct tile_value *const *carried, size_t carried_count)
{
  struct tile_value **operands =
      joined(b, segments, 2 * segment_count, extra, extra_count, carried, carried_count);
  struct tile_type *types = types_of(b, carried, carried_count, 1);
  struct tile_op *op =
      tile_op_new(b, TILE_FOR_SEGMENTS, operands, 2 * segment_count + extra_count + carried_count,
                  types + 1, carried_count);
  op->step = step;
  op->segment_count = (uint32_t)segment_count;
  op->extra_count = (uint32_t)extra_count;
  op->expr = may;
  op->expr2 = must;
  b->region = tile_region_new(b, op, types, carried_count + 1);
  tile_region_new(b, op, types, carried_count + 1);
  return op;
}

struct tile_op *tile_if(struct tile_builder *b, struct tile_value *condition,
                        const struct tile_type *results, size_t result_count)
{
  struct tile_op *op = tile_op_new(b, TILE_IF, &condition, 1, results, result_count);
  b->region = tile_region_new(b, op, NULL, 0);
  tile_region_new(b, op, NULL, 0);
  return op;
}

void tile_open_region(struct tile_builder *b, struct tile_op *op, uint32_t region)
{
  assert(region < op->region_count);
  b->region = op->regions[region];
}

void tile_yield(struct tile_builder *b, struct tile_value *const *values, size_t count)
{
  tile_op_new(b, TILE_YIELD, values, count, NULL, 0);
}

void tile_end_region(struct tile_builder *b)
{
  assert(b->region->parent != NULL);
  b->region = b->region->parent->parent;
}
