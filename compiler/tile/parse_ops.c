#include "compiler/tile/parse.h"

#include <string.h>

struct values {
  VECTOR(struct tile_value *) list;
};

/* A result or region argument before it exists. */
struct name_token {
  const char *name; /* of the kernel's interner */
  struct span span;
};
struct results {
  VECTOR(struct name_token) names;
  VECTOR(struct tile_type) types;
};

/* ---- values by name ---- */

static struct value_slot *find_slot(const struct tile_parser *p, const char *name)
{
  size_t at = (size_t)((uintptr_t)name >> 3) * 0x9e3779b1u & (p->slot_count - 1);
  while (p->slots[at].name != NULL && p->slots[at].name != name)
    at = (at + 1) & (p->slot_count - 1);
  return &p->slots[at];
}

static void grow_slots(struct tile_parser *p)
{
  struct value_slot *old = p->slots;
  size_t count = p->slot_count;
  p->slot_count = count == 0 ? 256 : 2 * count;
  p->slots = ARENA_ARRAY(p->arena, struct value_slot, p->slot_count);
  for (size_t k = 0; k < count; k++)
    if (old[k].name != NULL)
      *find_slot(p, old[k].name) = old[k];
}

static struct name_token expect_value_name(struct tile_parser *p)
{
  struct name_token token = {"?", p->token.span};
  if (p->token.kind != TOKEN_VALUE) {
    tile_parse_error(p, DIAG_TILE_SYNTAX, "expected a value, as in %%x");
    return token;
  }
  token.name = intern(&p->builder.kernel->names, p->token.text, p->token.length);
  tile_scan(p);
  return token;
}

static void define(struct tile_parser *p, struct name_token token, struct tile_value *value)
{
  if (p->failed)
    return;
  if (2 * p->value_count >= p->slot_count)
    grow_slots(p);
  struct value_slot *slot = find_slot(p, token.name);
  if (slot->name != NULL) {
    p->token.span = token.span;
    tile_parse_error(p, DIAG_TILE_NAME, "the kernel has a value %%%s already", token.name);
    return;
  }
  value->name = token.name;
  *slot = (struct value_slot){token.name, value};
  p->value_count++;
}

static struct tile_value *parse_value(struct tile_parser *p)
{
  struct name_token token = expect_value_name(p);
  struct value_slot *slot = p->failed || p->slot_count == 0 ? NULL : find_slot(p, token.name);
  if (slot != NULL && slot->name != NULL)
    return slot->value;
  p->token.span = token.span;
  tile_parse_error(p, DIAG_TILE_NAME, "there is no value %%%s before this", token.name);
  return NULL;
}

static void add_value(struct tile_parser *p, struct values *values)
{
  struct tile_value *value = parse_value(p);
  if (value != NULL)
    vector_push(p->arena, &values->list, value);
}

/* Values and commas, as many as there are. */
static void add_values(struct tile_parser *p, struct values *values)
{
  if (p->token.kind != TOKEN_VALUE)
    return;
  do
    add_value(p, values);
  while (tile_accept_symbol(p, ","));
}

/* ---- types ---- */

static enum tile_element parse_element(struct tile_parser *p)
{
  for (int k = TILE_F32; k <= TILE_BOOL; k++)
    if (tile_accept_word(p, tile_element_name((enum tile_element)k)))
      return (enum tile_element)k;
  tile_parse_error(p, DIAG_TILE_SYNTAX,
                   "expected a type: f32, f16, bf16, i32, index, bool, f32[16,8], token or buffer");
  return TILE_F32;
}

static enum tile_layout parse_layout(struct tile_parser *p)
{
  for (int k = TILE_LAYOUT_ROW_MAJOR; k <= TILE_LAYOUT_LANE_COLUMNS; k++)
    if (tile_accept_word(p, tile_layout_name((enum tile_layout)k)))
      return (enum tile_layout)k;
  tile_parse_error(p, DIAG_TILE_SYNTAX, "there is no such layout");
  return TILE_LAYOUT_NONE;
}

static struct tile_type parse_shaped(struct tile_parser *p)
{
  enum tile_element element = parse_element(p);
  if (!tile_accept_symbol(p, "["))
    return tile_type_scalar(element);
  struct tile_type type = tile_type_tile(element, tile_expect_number(p, "rows"), 0);
  tile_expect_symbol(p, ",");
  type.columns = tile_expect_number(p, "columns");
  if (type.rows > TILE_MAX_SIDE || type.columns > TILE_MAX_SIDE)
    tile_parse_error(p, DIAG_TILE_LIMIT, "a tile has at most %d rows and columns",
                     (int)TILE_MAX_SIDE);
  if (tile_accept_symbol(p, ","))
    type.layout = parse_layout(p);
  tile_expect_symbol(p, "]");
  return type;
}

static struct tile_type parse_type(struct tile_parser *p)
{
  if (tile_accept_word(p, "token"))
    return (struct tile_type){.kind = TILE_KIND_TOKEN, .rows = 1, .columns = 1};
  if (!tile_accept_word(p, "buffer"))
    return parse_shaped(p);
  tile_expect_symbol(p, "(");
  struct tile_type type = parse_shaped(p);
  if (type.kind != TILE_KIND_TILE)
    tile_parse_error(p, DIAG_TILE_SYNTAX, "a slot of a buffer is a tile, as in f16[64,64]");
  tile_expect_symbol(p, ",");
  type.kind = TILE_KIND_BUFFER;
  type.depth = tile_expect_number(p, "the number of slots");
  tile_expect_symbol(p, ")");
  return type;
}

/* ---- making ops ---- */

static struct tile_op *make(struct tile_parser *p, enum tile_op_kind kind,
                            const struct values *operands, const struct results *results)
{
  struct tile_op *op = tile_op_new(&p->builder, kind, operands->list.items, operands->list.count,
                                   results->types.items, results->types.count);
  for (uint32_t k = 0; k < op->result_count; k++)
    define(p, results->names.items[k], op->results[k]);
  return op;
}

static struct tile_region *make_region(struct tile_parser *p, struct tile_op *op,
                                       const struct results *arguments)
{
  struct tile_region *region =
      tile_region_new(&p->builder, op, arguments->types.items, arguments->types.count);
  for (uint32_t k = 0; k < region->argument_count; k++)
    define(p, arguments->names.items[k], region->arguments[k]);
  return region;
}

static void parse_block(struct tile_parser *p, struct tile_op *op, const struct results *arguments)
{
  tile_parse_region(p, make_region(p, op, arguments));
}

static void add_argument(struct tile_parser *p, struct results *arguments, struct tile_type type)
{
  vector_push(p->arena, &arguments->names, expect_value_name(p));
  vector_push(p->arena, &arguments->types, type);
}

/* ---- one op after the other ---- */

static void parse_parallel(struct tile_parser *p, const struct results *results)
{
  struct values extents = {0};
  struct results indices = {0};
  tile_expect_symbol(p, "(");
  while (p->token.kind == TOKEN_VALUE) {
    add_argument(p, &indices, tile_type_scalar(TILE_INDEX));
    if (!tile_accept_symbol(p, ","))
      break;
  }
  tile_expect_symbol(p, ")");
  tile_expect_symbol(p, "<");
  tile_expect_symbol(p, "(");
  add_values(p, &extents);
  tile_expect_symbol(p, ")");
  struct tile_op *op = make(p, TILE_PARALLEL, &extents, results);
  parse_block(p, op, &indices);
}

static void parse_for(struct tile_parser *p, const struct results *results)
{
  struct values operands = {0};
  struct results arguments = {0};
  add_argument(p, &arguments, tile_type_scalar(TILE_INDEX));
  tile_expect_symbol(p, "=");
  add_value(p, &operands);
  tile_expect_word(p, "to");
  add_value(p, &operands);
  tile_expect_word(p, "step");
  uint32_t step = tile_expect_number(p, "the step");
  if (tile_accept_word(p, "carry")) {
    tile_expect_symbol(p, "(");
    do {
      struct name_token name = expect_value_name(p);
      tile_expect_symbol(p, "=");
      struct tile_value *value = parse_value(p);
      if (value == NULL)
        return;
      vector_push(p->arena, &operands.list, value);
      vector_push(p->arena, &arguments.names, name);
      vector_push(p->arena, &arguments.types, value->type);
    } while (tile_accept_symbol(p, ","));
    tile_expect_symbol(p, ")");
  }
  struct tile_op *op = make(p, TILE_FOR, &operands, results);
  op->step = step;
  parse_block(p, op, &arguments);
}

/* The arguments of a region of for_segments: the position, then the carried values. */
static void parse_segment_block(struct tile_parser *p, struct tile_op *op, const char *word,
                                size_t carried)
{
  struct results arguments = {0};
  tile_expect_word(p, word);
  tile_expect_symbol(p, "(");
  add_argument(p, &arguments, tile_type_scalar(TILE_INDEX));
  for (size_t k = 0; k < carried && !p->failed; k++) {
    tile_expect_symbol(p, ",");
    add_argument(p, &arguments, op->operands[op->operand_count - carried + k]->type);
  }
  tile_expect_symbol(p, ")");
  parse_block(p, op, &arguments);
}

static void parse_for_segments(struct tile_parser *p, const struct results *results)
{
  struct values operands = {0};
  do {
    tile_expect_symbol(p, "(");
    add_value(p, &operands);
    tile_expect_symbol(p, ",");
    add_value(p, &operands);
    tile_expect_symbol(p, ")");
  } while (tile_accept_symbol(p, ","));
  size_t segments = operands.list.count / 2;
  tile_expect_word(p, "step");
  uint32_t step = tile_expect_number(p, "the step");
  size_t extra = operands.list.count;
  if (tile_accept_word(p, "with")) {
    tile_expect_symbol(p, "(");
    add_values(p, &operands);
    tile_expect_symbol(p, ")");
  }
  size_t carried = operands.list.count;
  if (tile_accept_word(p, "carry")) {
    tile_expect_symbol(p, "(");
    add_values(p, &operands);
    tile_expect_symbol(p, ")");
  }
  if (p->failed)
    return;
  struct tile_value *const *tested = operands.list.items + extra;
  tile_expect_word(p, "may");
  const struct expr *may = tile_parse_expr(p, tested, carried - extra);
  tile_expect_word(p, "must");
  const struct expr *must = tile_parse_expr(p, tested, carried - extra);
  if (p->failed)
    return;
  struct tile_op *op = make(p, TILE_FOR_SEGMENTS, &operands, results);
  op->step = step;
  op->segment_count = (uint32_t)segments;
  op->extra_count = (uint32_t)(carried - extra);
  op->expr = may;
  op->expr2 = must;
  parse_segment_block(p, op, "full", operands.list.count - carried);
  parse_segment_block(p, op, "partial", operands.list.count - carried);
}

static void parse_if(struct tile_parser *p, const struct results *results)
{
  struct values operands = {0};
  add_value(p, &operands);
  struct tile_op *op = make(p, TILE_IF, &operands, results);
  parse_block(p, op, &(struct results){0});
  tile_expect_word(p, "else");
  parse_block(p, op, &(struct results){0});
}

static void parse_role(struct tile_parser *p, const struct results *results)
{
  tile_expect_word(p, "warps");
  uint32_t warps = tile_expect_number(p, "warps");
  tile_expect_word(p, "registers");
  uint32_t registers = tile_expect_number(p, "registers");
  struct tile_op *op = make(p, TILE_ROLE, &(struct values){0}, results);
  op->warps = warps;
  op->registers = registers;
  parse_block(p, op, &(struct results){0});
}

static uint8_t parse_dim(struct tile_parser *p)
{
  uint32_t dim = tile_expect_number(p, "a dimension");
  if (dim >= SPEC_MAX_RANK)
    tile_parse_error(p, DIAG_TILE_LIMIT, "tensors have at most %d dimensions", (int)SPEC_MAX_RANK);
  return (uint8_t)dim;
}

/* a[%i, %j] rows 0 group 1 by 4 columns 2 live %m, %n */
static struct tile_access parse_access(struct tile_parser *p, struct values *operands)
{
  struct tile_access access = {
      .row_dim = TILE_NO_DIM, .group_dim = TILE_NO_DIM, .column_dim = TILE_NO_DIM, .row_group = 1};
  const struct tile_kernel *kernel = p->builder.kernel;
  struct span span = p->token.span;
  const char *name = tile_expect_name(p, "a tensor");
  while (access.tensor < kernel->tensors.count &&
         strcmp(kernel->tensors.items[access.tensor].name, name) != 0)
    access.tensor++;
  if (access.tensor == kernel->tensors.count) {
    p->token.span = span;
    tile_parse_error(p, DIAG_TILE_NAME, "the kernel has no tensor '%s'", name);
  }
  tile_expect_symbol(p, "[");
  add_values(p, operands);
  tile_expect_symbol(p, "]");
  if (tile_accept_word(p, "rows"))
    access.row_dim = parse_dim(p);
  if (tile_accept_word(p, "group")) {
    access.group_dim = parse_dim(p);
    tile_expect_word(p, "by");
    access.row_group = tile_expect_number(p, "the rows of a group");
  }
  if (tile_accept_word(p, "columns"))
    access.column_dim = parse_dim(p);
  tile_expect_word(p, "live");
  add_value(p, operands);
  tile_expect_symbol(p, ",");
  add_value(p, operands);
  return access;
}

static void parse_memory_op(struct tile_parser *p, enum tile_op_kind kind,
                            const struct results *results)
{
  struct values operands = {0};
  if (kind == TILE_STORE || kind == TILE_ACCUMULATE) {
    add_value(p, &operands);
    tile_expect_word(p, "to");
  } else if (kind == TILE_COPY_ASYNC) {
    add_value(p, &operands);
    tile_expect_symbol(p, ",");
    add_value(p, &operands);
    tile_expect_word(p, "from");
  }
  struct tile_access access = parse_access(p, &operands);
  make(p, kind, &operands, results)->access = access;
}

static void parse_product(struct tile_parser *p, enum tile_op_kind kind,
                          const struct results *results)
{
  struct values operands = {0};
  add_value(p, &operands);
  bool transpose_a = tile_accept_word(p, "transposed");
  tile_expect_symbol(p, ",");
  add_value(p, &operands);
  bool transpose_b = tile_accept_word(p, "transposed");
  bool codes = kind == TILE_PRODUCT && tile_accept_word(p, "codes");
  if (tile_accept_symbol(p, ","))
    add_value(p, &operands);
  struct tile_op *op = make(p, kind, &operands, results);
  op->transpose_a = transpose_a;
  op->transpose_b = transpose_b;
  op->codes = codes;
}

static enum tile_reduction parse_reduction(struct tile_parser *p)
{
  for (int k = TILE_REDUCE_SUM; k <= TILE_REDUCE_ALL; k++)
    if (tile_accept_word(p, tile_reduction_name((enum tile_reduction)k)))
      return (enum tile_reduction)k;
  tile_parse_error(p, DIAG_TILE_SYNTAX, "expected sum, max, min, any or all");
  return TILE_REDUCE_SUM;
}

static void parse_reduce(struct tile_parser *p, enum tile_op_kind kind,
                         const struct results *results)
{
  struct values operands = {0};
  enum tile_reduction reduction = parse_reduction(p);
  tile_expect_word(p, "axis");
  uint32_t axis = tile_expect_number(p, "the axis");
  add_value(p, &operands);
  struct tile_op *op = make(p, kind, &operands, results);
  op->reduction = reduction;
  op->axis = axis;
}

static void parse_permute(struct tile_parser *p, const struct results *results)
{
  struct values operands = {0};
  VECTOR(uint32_t) table = {0};
  add_value(p, &operands);
  tile_expect_symbol(p, "[");
  do
    vector_push(p->arena, &table, tile_expect_number(p, "a column"));
  while (tile_accept_symbol(p, ","));
  tile_expect_symbol(p, "]");
  if (p->failed)
    return;
  uint32_t columns = results->types.count == 1 ? results->types.items[0].columns : 0;
  if (table.count != columns) {
    tile_parse_error(p, DIAG_TILE_SYNTAX, "the table has %zu entries for %u columns", table.count,
                     columns);
    return;
  }
  make(p, TILE_PERMUTE, &operands, results)->permutation = table.items;
}

/* scalar, map, contract and check: operands => expressions */
static void parse_formula(struct tile_parser *p, enum tile_op_kind kind,
                          const struct results *results)
{
  struct values operands = {0};
  uint32_t site = 0;
  const struct expr *second = NULL;
  add_values(p, &operands);
  if (kind == TILE_CHECK) {
    tile_expect_word(p, "site");
    site = tile_expect_number(p, "the fault site");
  }
  tile_expect_symbol(p, "=>");
  const struct expr *first = tile_parse_expr(p, operands.list.items, operands.list.count);
  if (kind == TILE_CHECK) {
    tile_expect_symbol(p, ",");
    second = tile_parse_expr(p, operands.list.items, operands.list.count);
  }
  struct tile_op *op = make(p, kind, &operands, results);
  op->expr = first;
  op->expr2 = second;
  op->site = site;
}

static void parse_limit_rows(struct tile_parser *p, const struct results *results)
{
  struct values operands = {0};
  uint32_t rows = tile_expect_number(p, "rows");
  tile_expect_word(p, "live");
  add_value(p, &operands);
  make(p, TILE_LIMIT_ROWS, &operands, results)->rows = rows;
}

static void parse_limit_columns(struct tile_parser *p, const struct results *results)
{
  struct values operands = {0};
  add_value(p, &operands);
  if (p->failed)
    return;
  if (tile_accept_word(p, "with")) {
    tile_expect_symbol(p, "(");
    add_values(p, &operands);
    tile_expect_symbol(p, ")");
  }
  size_t count = operands.list.count - 1;
  tile_expect_word(p, "from");
  const struct expr *first = tile_parse_expr(p, operands.list.items + 1, count);
  tile_expect_word(p, "to");
  const struct expr *end = tile_parse_expr(p, operands.list.items + 1, count);
  bool masked = tile_accept_word(p, "where");
  if (masked)
    add_value(p, &operands);
  struct tile_op *op = make(p, TILE_LIMIT_COLUMNS, &operands, results);
  op->masked = masked;
  op->expr = first;
  op->expr2 = end;
}

static void parse_op(struct tile_parser *p, enum tile_op_kind kind, const struct results *results)
{
  struct values operands = {0};
  switch (kind) {
  case TILE_PARALLEL: parse_parallel(p, results); break;
  case TILE_FOR: parse_for(p, results); break;
  case TILE_FOR_SEGMENTS: parse_for_segments(p, results); break;
  case TILE_IF: parse_if(p, results); break;
  case TILE_ROLE: parse_role(p, results); break;
  case TILE_SCALAR:
  case TILE_MAP:
  case TILE_CONTRACT:
  case TILE_CHECK: parse_formula(p, kind, results); break;
  case TILE_LOAD:
  case TILE_STORE:
  case TILE_ACCUMULATE:
  case TILE_COPY_ASYNC: parse_memory_op(p, kind, results); break;
  case TILE_PRODUCT:
  case TILE_PRODUCT_ASYNC: parse_product(p, kind, results); break;
  case TILE_REDUCE:
  case TILE_SCAN: parse_reduce(p, kind, results); break;
  case TILE_PERMUTE: parse_permute(p, results); break;
  case TILE_LIMIT_ROWS: parse_limit_rows(p, results); break;
  case TILE_LIMIT_COLUMNS: parse_limit_columns(p, results); break;
  case TILE_YIELD:
  case TILE_SPLAT:
  case TILE_IOTA:
  case TILE_BROADCAST:
  case TILE_SCALE_ROWS:
  case TILE_TRANSPOSE:
  case TILE_CONVERT:
  case TILE_TRIANGULAR_SOLVE:
  case TILE_BUFFER:
  case TILE_WAIT:
  case TILE_PIPE_ACQUIRE:
  case TILE_PIPE_COMMIT:
  case TILE_PIPE_WAIT:
  case TILE_PIPE_RELEASE:
  case TILE_BUFFER_LOAD:
  case TILE_BUFFER_STORE:
  case TILE_BARRIER:
  case TILE_OP_COUNT:
    if (tile_op_infos[kind].operands != 0) /* a value after `buffer` begins the next statement */
      add_values(p, &operands);
    make(p, kind, &operands, results);
    break;
  }
}

static void parse_statement(struct tile_parser *p)
{
  struct results results = {0};
  if (p->token.kind == TOKEN_VALUE) {
    do {
      vector_push(p->arena, &results.names, expect_value_name(p));
      tile_expect_symbol(p, ":");
      vector_push(p->arena, &results.types, parse_type(p));
    } while (tile_accept_symbol(p, ","));
    tile_expect_symbol(p, "=");
  }
  p->builder.span = p->token.span;
  for (int k = 0; k < TILE_OP_COUNT && !p->failed; k++) {
    if (tile_at_word(p, tile_op_infos[k].text)) {
      tile_scan(p);
      parse_op(p, (enum tile_op_kind)k, &results);
      return;
    }
  }
  tile_parse_error(p, DIAG_TILE_NAME, "expected an op");
}

void tile_parse_region(struct tile_parser *p, struct tile_region *region)
{
  struct tile_region *outer = p->builder.region;
  if (p->region_depth >= TILE_MAX_NESTING)
    tile_parse_error(p, DIAG_TILE_LIMIT, "regions nested more than %d deep", (int)TILE_MAX_NESTING);
  p->region_depth++;
  p->builder.region = region;
  tile_expect_symbol(p, "{");
  while (!p->failed && p->token.kind != TOKEN_END && !tile_at_symbol(p, "}"))
    parse_statement(p);
  tile_expect_symbol(p, "}");
  p->builder.region = outer;
  p->region_depth--;
}
