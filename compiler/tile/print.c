#include "compiler/tile/text.h"

#include <stdio.h>
#include <string.h>

/* ---- the growing text ---- */

void tile_text_add(struct tile_text *text, const char *format, ...)
{
  va_list arguments, again;
  va_start(arguments, format);
  va_copy(again, arguments);
  char small[128];
  int length = vsnprintf(small, sizeof(small), format, arguments);
  const char *bytes = small;
  if (length >= (int)sizeof(small))
    bytes = arena_vformat(text->arena, format, again);
  for (int k = 0; k < length; k++)
    vector_push(text->arena, &text->bytes, bytes[k]);
  va_end(again);
  va_end(arguments);
}

static void add_shape(struct tile_text *text, struct tile_type type)
{
  tile_text_add(text, "%s[%u,%u", tile_element_name(type.element), type.rows, type.columns);
  if (type.layout != TILE_LAYOUT_NONE)
    tile_text_add(text, ",%s", tile_layout_name(type.layout));
  tile_text_add(text, "]");
}

void tile_text_type(struct tile_text *text, struct tile_type type)
{
  switch (type.kind) {
  case TILE_KIND_TILE: add_shape(text, type); break;
  case TILE_KIND_SCALAR: tile_text_add(text, "%s", tile_element_name(type.element)); break;
  case TILE_KIND_BUFFER:
    tile_text_add(text, "buffer(");
    add_shape(text, type);
    tile_text_add(text, ", %u)", type.depth);
    break;
  case TILE_KIND_TOKEN: tile_text_add(text, "token"); break;
  }
}

/* ---- programs ---- */

struct printer {
  struct tile_text text;
  struct tile_expr_printer *exprs;
  const struct tile_kernel *kernel;
  int indent;
};

#define ADD(p, ...) tile_text_add(&(p)->text, __VA_ARGS__)

static void begin_line(struct printer *p)
{
  ADD(p, "%*s", 2 * p->indent, "");
}

static void add_value(struct printer *p, const struct tile_value *value)
{
  ADD(p, "%%%s", value == NULL ? "?" : value->name);
}

static void add_values(struct printer *p, struct tile_value *const *values, uint32_t count)
{
  for (uint32_t k = 0; k < count; k++) {
    if (k > 0)
      ADD(p, ", ");
    add_value(p, values[k]);
  }
}

static void add_expr(struct printer *p, const struct expr *e)
{
  tile_print_expr(p->exprs, p->kernel, e);
}

/* The operands from `first` on: a place in a tensor and how much of the tile is live. */
static void add_access(struct printer *p, const struct tile_op *op, uint32_t first)
{
  const struct tile_access *access = &op->access;
  uint32_t end = op->operand_count;
  uint32_t rank = end >= first + 2 ? end - first - 2 : 0;
  bool known = access->tensor < p->kernel->tensors.count;
  ADD(p, "%s[", known ? p->kernel->tensors.items[access->tensor].name : "?");
  add_values(p, op->operands + first, rank);
  ADD(p, "]");
  if (access->row_dim != TILE_NO_DIM)
    ADD(p, " rows %u", access->row_dim);
  if (access->group_dim != TILE_NO_DIM)
    ADD(p, " group %u by %u", access->group_dim, access->row_group);
  if (access->column_dim != TILE_NO_DIM)
    ADD(p, " columns %u", access->column_dim);
  ADD(p, " live ");
  add_values(p, op->operands + first + rank, end - first - rank);
}

static void print_region(struct printer *p, const struct tile_region *region);

static const struct tile_value *operand(const struct tile_op *op, uint32_t index)
{
  return index < op->operand_count ? op->operands[index] : NULL;
}

static void add_arguments(struct printer *p, const struct tile_op *op, uint32_t region)
{
  ADD(p, "(");
  if (region < op->region_count)
    add_values(p, op->regions[region]->arguments, op->regions[region]->argument_count);
  ADD(p, ")");
}

static void add_region(struct printer *p, const struct tile_op *op, uint32_t region)
{
  ADD(p, " {\n");
  p->indent++;
  if (region < op->region_count)
    print_region(p, op->regions[region]);
  p->indent--;
  begin_line(p);
  ADD(p, "}");
}

static void add_for(struct printer *p, const struct tile_op *op)
{
  const struct tile_region *body = op->region_count > 0 ? op->regions[0] : NULL;
  uint32_t arguments = body == NULL ? 0 : body->argument_count;
  ADD(p, " ");
  add_value(p, arguments > 0 ? body->arguments[0] : NULL);
  ADD(p, " = ");
  add_value(p, operand(op, 0));
  ADD(p, " to ");
  add_value(p, operand(op, 1));
  ADD(p, " step %u", op->step);
  for (uint32_t k = 1; k < arguments; k++) {
    ADD(p, k == 1 ? " carry (" : ", ");
    add_value(p, body->arguments[k]);
    ADD(p, " = ");
    add_value(p, operand(op, k + 1));
  }
  ADD(p, arguments > 1 ? ")" : "");
  add_region(p, op, 0);
}

static void add_for_segments(struct printer *p, const struct tile_op *op)
{
  uint32_t next = 0;
  for (uint32_t k = 0; k < op->segment_count && next + 1 < op->operand_count; k++, next += 2) {
    ADD(p, k == 0 ? " (" : ", (");
    add_values(p, op->operands + next, 2);
    ADD(p, ")");
  }
  ADD(p, " step %u", op->step);
  uint32_t rest = op->operand_count - next;
  uint32_t extra = op->extra_count < rest ? op->extra_count : rest;
  if (extra > 0) {
    ADD(p, " with (");
    add_values(p, op->operands + next, extra);
    ADD(p, ")");
  }
  if (rest > extra) {
    ADD(p, " carry (");
    add_values(p, op->operands + next + extra, rest - extra);
    ADD(p, ")");
  }
  ADD(p, "\n");
  p->indent += 2;
  begin_line(p);
  ADD(p, "may ");
  add_expr(p, op->expr);
  ADD(p, "\n");
  begin_line(p);
  ADD(p, "must ");
  add_expr(p, op->expr2);
  ADD(p, "\n");
  p->indent -= 2;
  begin_line(p);
  ADD(p, "full ");
  add_arguments(p, op, 0);
  add_region(p, op, 0);
  ADD(p, " partial ");
  add_arguments(p, op, 1);
  add_region(p, op, 1);
}

/* " %a, %b" and nothing where there is nothing. */
static void add_operands(struct printer *p, const struct tile_op *op)
{
  ADD(p, op->operand_count > 0 ? " " : "");
  add_values(p, op->operands, op->operand_count);
}

static void add_product(struct printer *p, const struct tile_op *op)
{
  for (uint32_t k = 0; k < op->operand_count; k++) {
    ADD(p, k == 0 ? " " : ", ");
    add_value(p, op->operands[k]);
    if ((k == 0 && op->transpose_a) || (k == 1 && op->transpose_b))
      ADD(p, " transposed");
    if (k == 1 && op->codes)
      ADD(p, " codes");
  }
}

static void add_permutation(struct printer *p, const struct tile_op *op)
{
  add_operands(p, op);
  ADD(p, " [");
  for (uint32_t k = 0; op->permutation != NULL && k < op->results[0]->type.columns; k++)
    ADD(p, k == 0 ? "%u" : ", %u", op->permutation[k]);
  ADD(p, "]");
}

static void add_limit_columns(struct printer *p, const struct tile_op *op)
{
  ADD(p, " ");
  add_value(p, operand(op, 0));
  uint32_t count = tile_limit_operands(op);
  if (count > 0) {
    ADD(p, " with (");
    add_values(p, op->operands + 1, count);
    ADD(p, ")");
  }
  ADD(p, " from ");
  add_expr(p, op->expr);
  ADD(p, " to ");
  add_expr(p, op->expr2);
  if (op->masked) {
    ADD(p, " where ");
    add_value(p, operand(op, count + 1));
  }
}

static void add_body(struct printer *p, const struct tile_op *op)
{
  switch (op->kind) {
  case TILE_SCALAR:
  case TILE_MAP:
  case TILE_CONTRACT:
    add_operands(p, op);
    ADD(p, " => ");
    add_expr(p, op->expr);
    break;
  case TILE_CHECK:
    add_operands(p, op);
    ADD(p, " site %u => ", op->site);
    add_expr(p, op->expr);
    ADD(p, ", ");
    add_expr(p, op->expr2);
    break;
  case TILE_PARALLEL:
    ADD(p, " ");
    add_arguments(p, op, 0);
    ADD(p, " < (");
    add_values(p, op->operands, op->operand_count);
    ADD(p, ")");
    add_region(p, op, 0);
    break;
  case TILE_FOR: add_for(p, op); break;
  case TILE_FOR_SEGMENTS: add_for_segments(p, op); break;
  case TILE_IF:
    add_operands(p, op);
    add_region(p, op, 0);
    ADD(p, " else");
    add_region(p, op, 1);
    break;
  case TILE_ROLE:
    ADD(p, " warps %u registers %u", op->warps, op->registers);
    add_region(p, op, 0);
    break;
  case TILE_LIMIT_ROWS:
    ADD(p, " %u live", op->rows);
    add_operands(p, op);
    break;
  case TILE_LIMIT_COLUMNS: add_limit_columns(p, op); break;
  case TILE_LOAD:
    ADD(p, " ");
    add_access(p, op, 0);
    break;
  case TILE_STORE:
  case TILE_ACCUMULATE:
    ADD(p, " ");
    add_value(p, operand(op, 0));
    ADD(p, " to ");
    if (op->operand_count > 0)
      add_access(p, op, 1);
    break;
  case TILE_COPY_ASYNC:
    ADD(p, " ");
    add_values(p, op->operands, op->operand_count < 2 ? op->operand_count : 2);
    ADD(p, " from ");
    if (op->operand_count >= 2)
      add_access(p, op, 2);
    break;
  case TILE_PRODUCT:
  case TILE_PRODUCT_ASYNC: add_product(p, op); break;
  case TILE_REDUCE:
  case TILE_SCAN:
    ADD(p, " %s axis %u", tile_reduction_name(op->reduction), op->axis);
    add_operands(p, op);
    break;
  case TILE_PERMUTE: add_permutation(p, op); break;
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
  case TILE_OP_COUNT: add_operands(p, op); break;
  }
}

static void print_op(struct printer *p, const struct tile_op *op)
{
  begin_line(p);
  for (uint32_t k = 0; k < op->result_count; k++) {
    ADD(p, k == 0 ? "" : ", ");
    add_value(p, op->results[k]);
    ADD(p, ": ");
    tile_text_type(&p->text, op->results[k]->type);
  }
  ADD(p, op->result_count > 0 ? " = " : "");
  ADD(p, "%s", op->kind < TILE_OP_COUNT ? tile_op_infos[op->kind].text : "?");
  add_body(p, op);
  ADD(p, "\n");
}

static void print_region(struct printer *p, const struct tile_region *region)
{
  for (const struct tile_op *op = region->first; op != NULL; op = op->next)
    print_op(p, op);
}

char *tile_print_op(struct arena *arena, const struct tile_kernel *kernel, const struct tile_op *op)
{
  struct printer p = {.text = {.arena = arena}, .kernel = kernel};
  p.exprs = tile_expr_printer_new(&p.text, kernel->program->pool);
  print_op(&p, op);
  char *end = memchr(p.text.bytes.items, '\n', p.text.bytes.count);
  *end = '\0'; /* print_op ends every line */
  return p.text.bytes.items;
}

static void add_role(struct printer *p, enum tile_role role, uint32_t index)
{
  if (role != TILE_ROLE_PLAIN || index != 0)
    ADD(p, " role %s", tile_role_name(role));
  if (index != 0)
    ADD(p, " %u", index);
}

static void print_tensor(struct printer *p, const struct tile_tensor *tensor)
{
  ADD(p, "  tensor %s %s[%u]%s", tensor->name, dtype_name(tensor->element), tensor->rank,
      tensor->written ? " written" : "");
  add_role(p, tensor->role, tensor->role_index);
  bool shaped = tensor->rank > 0 && tensor->rank <= SPEC_MAX_RANK && tensor->shape[0] != NULL;
  for (uint32_t k = 0; shaped && k < tensor->rank; k++) {
    ADD(p, k == 0 ? " shape [" : ", ");
    tile_print_expr(p->exprs, NULL, tensor->shape[k]);
  }
  ADD(p, shaped ? "]\n" : "\n");
}

static void print_kernel(struct printer *p, const struct tile_kernel *kernel)
{
  p->kernel = kernel;
  ADD(p, "kernel %s\n", kernel->name);
  for (size_t k = 0; k < kernel->tensors.count; k++)
    print_tensor(p, &kernel->tensors.items[k]);
  for (size_t k = 0; k < kernel->params.count; k++) {
    const struct tile_param *param = &kernel->params.items[k];
    ADD(p, "  param %s %s", param->name, expr_type_name(param->type));
    add_role(p, param->role, param->role_index);
    ADD(p, "\n");
  }
  for (size_t k = 0; k < kernel->sites.count; k++) {
    const struct tile_fault_site *site = &kernel->sites.items[k];
    ADD(p, "  site tensor %u dim %u", site->tensor, site->dim);
    if (site->span.source != UINT32_MAX)
      ADD(p, " at %u:%u:%u", site->span.source, site->span.begin, site->span.end);
    ADD(p, "\n");
  }
  ADD(p, "{\n");
  p->indent = 1;
  print_region(p, kernel->body);
  ADD(p, "}\n");
}

char *tile_print(struct arena *arena, const struct tile_program *program)
{
  struct printer p = {.text = {.arena = arena}};
  p.exprs = tile_expr_printer_new(&p.text, program->pool);
  for (size_t k = 0; k < program->kernels.count; k++) {
    ADD(&p, k == 0 ? "" : "\n");
    print_kernel(&p, program->kernels.items[k]);
  }
  vector_push(arena, &p.text.bytes, '\0');
  return p.text.bytes.items;
}
