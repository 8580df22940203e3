#include "compiler/tile/verify.h"

#include <string.h>

#define REJECT(...) tile_reject(v, op, __VA_ARGS__)

bool tile_reject(struct tile_verifier *v, const struct tile_op *op, const char *format, ...)
{
  if (v->error != NULL)
    return false;
  va_list arguments;
  va_start(arguments, format);
  const char *message = arena_vformat(v->arena, format, arguments);
  va_end(arguments);
  const char *kernel = v->kernel == NULL ? "?" : v->kernel->name;
  if (op == NULL)
    v->error = arena_format(v->arena, "kernel %s: %s", kernel, message);
  else
    v->error = arena_format(v->arena, "kernel %s: %s\n  in: %s", kernel, message,
                            tile_print_op(v->arena, v->kernel, op));
  return false;
}

/* ---- declarations ---- */

static bool is_identifier(const char *name)
{
  bool well = name != NULL && name[0] != '\0' && !(name[0] >= '0' && name[0] <= '9');
  for (size_t k = 0; well && name[k] != '\0'; k++) {
    char c = name[k];
    well = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
  }
  return well;
}

/* False when `name` is no identifier or was seen before. */
static bool claim(struct interner *names, const char *name)
{
  size_t before = names->count;
  if (!is_identifier(name) || tile_name_is_reserved(name))
    return false;
  intern(names, name, strlen(name));
  return names->count != before;
}

static bool verify_tensor(struct tile_verifier *v, const struct tile_tensor *tensor)
{
  bool concrete =
      tensor->element > DTYPE_ANY && tensor->element < DTYPE_COUNT && tensor->element != DTYPE_SPEC;
  if (!concrete || tensor->rank > SPEC_MAX_RANK)
    return tile_reject(v, NULL, "tensor '%s' has no element type or too many dimensions",
                       tensor->name);
  if (tensor->written && tile_elements_per_byte(tensor->element) != 1)
    return tile_reject(v, NULL, "tensor '%s' is declared written, but %s can only be read",
                       tensor->name, dtype_name(tensor->element));
  bool workspace = tensor->role == TILE_ROLE_WORKSPACE;
  for (uint32_t k = 0; k < tensor->rank; k++) {
    if (workspace && !tile_verify_size(v, tensor->shape[k]))
      return false;
    if (!workspace && tensor->shape[k] != NULL)
      return tile_reject(v, NULL, "tensor '%s' is no workspace and has a shape", tensor->name);
  }
  return true;
}

static bool verify_declarations(struct tile_verifier *v)
{
  const struct tile_kernel *kernel = v->kernel;
  struct interner names;
  interner_init(&names, v->arena);
  if (kernel->tensors.count > TILE_MAX_TENSORS || kernel->params.count > TILE_MAX_PARAMS)
    return tile_reject(v, NULL, "more than %d tensors or %d parameters", (int)TILE_MAX_TENSORS,
                       (int)TILE_MAX_PARAMS);
  for (size_t k = 0; k < kernel->tensors.count; k++) {
    const struct tile_tensor *tensor = &kernel->tensors.items[k];
    if (!claim(&names, tensor->name))
      return tile_reject(v, NULL, "tensor %zu has a bad or repeated name", k);
    if (!verify_tensor(v, tensor))
      return false;
  }
  for (size_t k = 0; k < kernel->params.count; k++) {
    const struct tile_param *param = &kernel->params.items[k];
    if (!claim(&names, param->name))
      return tile_reject(v, NULL, "parameter %zu has a bad or repeated name", k);
    if (param->type != EXPR_BOOL && param->type != EXPR_INT && param->type != EXPR_FLOAT)
      return tile_reject(v, NULL, "parameter '%s' must be a bool, an int or a float", param->name);
  }
  return true;
}

/* ---- dominance ---- */

static bool is_value_name(const char *name)
{
  for (size_t k = 0; name[k] != '\0'; k++) {
    char c = name[k];
    bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (!letter && !(c >= '0' && c <= '9') && c != '_' && c != '.')
      return false;
  }
  return name[0] != '\0' && name[0] != '.';
}

static bool show(struct tile_verifier *v, const struct tile_op *op, const struct tile_value *value)
{
  if (value->id >= v->kernel->value_count || v->visible[value->id] != NULL)
    return REJECT("a value's number %u is taken or too large", value->id);
  if (!is_value_name(value->name))
    return REJECT("a value has a name that cannot be written");
  v->visible[value->id] = value;
  return true;
}

static bool is_visible(const struct tile_verifier *v, const struct tile_value *value)
{
  return value != NULL && value->id < v->kernel->value_count && v->visible[value->id] == value;
}

/* ---- control ---- */

static bool is_index(const struct tile_value *value)
{
  return value->type.kind == TILE_KIND_SCALAR && value->type.element == TILE_INDEX;
}

/* Buffers are named places: they cannot be carried or chosen. */
static bool check_carried(struct tile_verifier *v, const struct tile_op *op, uint32_t first)
{
  if (op->result_count != op->operand_count - first)
    return REJECT("%u carried values and %u results", op->operand_count - first, op->result_count);
  for (uint32_t k = 0; k < op->result_count; k++) {
    struct tile_type type = op->operands[first + k]->type;
    if (type.kind == TILE_KIND_BUFFER)
      return REJECT("a buffer cannot be carried");
    if (!tile_types_equal(type, op->results[k]->type))
      return REJECT("result %u differs in type from the value that is carried into it", k);
  }
  return true;
}

/* A region that is given a position and the carried values. */
static bool check_loop_region(struct tile_verifier *v, const struct tile_op *op,
                              const struct tile_region *region)
{
  if (region->argument_count != op->result_count + 1 || !is_index(region->arguments[0]))
    return REJECT("a loop's region takes an index and the carried values");
  for (uint32_t k = 0; k < op->result_count; k++)
    if (!tile_types_equal(region->arguments[k + 1]->type, op->results[k]->type))
      return REJECT("argument %u of the region differs in type from the carried value", k + 1);
  return true;
}

static bool check_parallel(struct tile_verifier *v, const struct tile_op *op)
{
  if (op->parent != v->kernel->body)
    return REJECT("parallel may only stand at the top of a kernel");
  if (op->operand_count < 1 || op->regions[0]->argument_count != op->operand_count)
    return REJECT("as many indices as extents are needed, one at least");
  for (uint32_t k = 0; k < op->operand_count; k++)
    if (!is_index(op->operands[k]) || !is_index(op->regions[0]->arguments[k]))
      return REJECT("extents and indices are of type index");
  return true;
}

static bool check_for(struct tile_verifier *v, const struct tile_op *op)
{
  if (op->operand_count < 2 || !is_index(op->operands[0]) || !is_index(op->operands[1]))
    return REJECT("the bounds must be of type index");
  if (op->step < 1)
    return REJECT("the step must be positive");
  return check_carried(v, op, 2) && check_loop_region(v, op, op->regions[0]);
}

static bool check_for_segments(struct tile_verifier *v, const struct tile_op *op)
{
  if (op->segment_count < 1 || op->segment_count > TILE_MAX_SEGMENTS || op->step < 1)
    return REJECT("1 to %d segments and a positive step are needed", (int)TILE_MAX_SEGMENTS);
  uint32_t first = 2 * op->segment_count;
  if (first > op->operand_count || op->extra_count > op->operand_count - first)
    return REJECT("operands are missing");
  for (uint32_t k = 0; k < first; k++)
    if (!is_index(op->operands[k]))
      return REJECT("the ends of a segment are of type index");
  for (uint32_t k = first; k < first + op->extra_count; k++)
    if (op->operands[k]->type.kind != TILE_KIND_SCALAR)
      return REJECT("the operands of the tests are scalars");
  struct tile_value *const *tested = op->operands + first;
  if (!tile_verify_expr(v, op, op->expr, tested, op->extra_count) ||
      !tile_verify_expr(v, op, op->expr2, tested, op->extra_count))
    return false;
  if (op->expr->type != EXPR_BOOL || op->expr2->type != EXPR_BOOL)
    return REJECT("the tests must be bools");
  return check_carried(v, op, first + op->extra_count) &&
         check_loop_region(v, op, op->regions[0]) && check_loop_region(v, op, op->regions[1]);
}

static bool check_if(struct tile_verifier *v, const struct tile_op *op)
{
  struct tile_type condition = op->operands[0]->type;
  bool single = condition.kind == TILE_KIND_SCALAR ||
                (condition.kind == TILE_KIND_TILE && condition.rows == 1 && condition.columns == 1);
  if (!single || condition.element != TILE_BOOL)
    return REJECT("the condition must be a bool");
  if (op->regions[0]->argument_count != 0 || op->regions[1]->argument_count != 0)
    return REJECT("the regions take no arguments");
  for (uint32_t k = 0; k < op->result_count; k++)
    if (op->results[k]->type.kind == TILE_KIND_BUFFER)
      return REJECT("a buffer cannot be chosen");
  return true;
}

static bool check_yield(struct tile_verifier *v, const struct tile_op *op)
{
  const struct tile_op *parent = op->parent->parent;
  if (op->next != NULL)
    return REJECT("yield must end its region");
  if (parent == NULL)
    return REJECT("a kernel yields nothing");
  if (op->operand_count != parent->result_count)
    return REJECT("%u values for %u results", op->operand_count, parent->result_count);
  for (uint32_t k = 0; k < op->operand_count; k++)
    if (!tile_types_equal(op->operands[k]->type, parent->results[k]->type))
      return REJECT("value %u differs in type from the result", k);
  return true;
}

static bool check_control(struct tile_verifier *v, const struct tile_op *op)
{
  switch ((int)op->kind) {
  case TILE_PARALLEL: return check_parallel(v, op);
  case TILE_FOR: return check_for(v, op);
  case TILE_FOR_SEGMENTS: return check_for_segments(v, op);
  case TILE_IF: return check_if(v, op);
  case TILE_YIELD: return check_yield(v, op);
  case TILE_ROLE:
    return op->regions[0]->argument_count == 0 || REJECT("the region takes no arguments");
  }
  return true;
}

/* ---- the walk ---- */

static bool verify_region(struct tile_verifier *v, const struct tile_op *parent,
                          const struct tile_region *region, int depth);

static bool verify_one(struct tile_verifier *v, const struct tile_region *region,
                       const struct tile_op *op, int depth)
{
  if (op->kind >= TILE_OP_COUNT || op->parent != region)
    return tile_reject(v, NULL, "an op that does not exist or is linked wrongly");
  for (uint32_t k = 0; k < op->operand_count; k++)
    if (!is_visible(v, op->operands[k]))
      return REJECT("operand %u is not defined before this", k);
  if (depth == 0 && op->kind != TILE_SCALAR && op->kind != TILE_PARALLEL)
    return REJECT("only scalar may stand before parallel");
  if (!tile_verify_op(v, op) || !check_control(v, op))
    return false;
  for (uint32_t k = 0; k < op->region_count; k++)
    if (!verify_region(v, op, op->regions[k], depth + 1))
      return false;
  for (uint32_t k = 0; k < op->result_count; k++)
    if (!show(v, op, op->results[k]))
      return false;
  return true;
}

/* What a region defines is not seen after it. */
static void hide_region(struct tile_verifier *v, const struct tile_region *region)
{
  for (uint32_t k = 0; k < region->argument_count; k++)
    v->visible[region->arguments[k]->id] = NULL;
  for (const struct tile_op *op = region->first; op != NULL; op = op->next)
    for (uint32_t k = 0; k < op->result_count; k++)
      v->visible[op->results[k]->id] = NULL;
}

static bool verify_region(struct tile_verifier *v, const struct tile_op *parent,
                          const struct tile_region *region, int depth)
{
  if (depth >= TILE_MAX_NESTING)
    return tile_reject(v, parent, "regions nested more than %d deep", (int)TILE_MAX_NESTING);
  if (region->parent != parent)
    return tile_reject(v, parent, "a region is linked wrongly");
  for (uint32_t k = 0; k < region->argument_count; k++)
    if (!show(v, parent, region->arguments[k]))
      return false;
  for (const struct tile_op *op = region->first; op != NULL; op = op->next)
    if (!verify_one(v, region, op, depth))
      return false;
  bool ends = region->last != NULL && region->last->kind == TILE_YIELD;
  if (parent != NULL && parent->result_count > 0 && !ends)
    return tile_reject(v, parent, "a region does not end in a yield of the results");
  hide_region(v, region);
  return true;
}

static bool verify_names(struct tile_verifier *v, const struct tile_region *region,
                         struct interner *names)
{
  size_t count = names->count;
  for (uint32_t k = 0; k < region->argument_count; k++, count++)
    intern(names, region->arguments[k]->name, strlen(region->arguments[k]->name));
  for (const struct tile_op *op = region->first; op != NULL; op = op->next) {
    for (uint32_t k = 0; k < op->result_count; k++, count++)
      intern(names, op->results[k]->name, strlen(op->results[k]->name));
    if (names->count != count)
      return REJECT("a value has the name of another");
    for (uint32_t k = 0; k < op->region_count; k++)
      if (!verify_names(v, op->regions[k], names))
        return false;
    count = names->count;
  }
  return names->count == count || tile_reject(v, NULL, "a value has the name of another");
}

static bool verify_kernel(struct tile_verifier *v, const struct tile_kernel *kernel)
{
  struct interner names;
  interner_init(&names, v->arena);
  v->kernel = kernel;
  v->visible = ARENA_ARRAY(v->arena, const struct tile_value *, kernel->value_count);
  if (!verify_declarations(v) || !verify_region(v, NULL, kernel->body, 0) ||
      !verify_names(v, kernel->body, &names))
    return false;
  uint32_t parallels = 0;
  for (const struct tile_op *op = kernel->body->first; op != NULL; op = op->next)
    parallels += op->kind == TILE_PARALLEL;
  if (parallels != 1 || kernel->body->last->kind != TILE_PARALLEL)
    return tile_reject(v, NULL, "a kernel ends in its one parallel");
  return tile_verify_staged(v);
}

const char *tile_verify(struct arena *arena, const struct tile_program *program)
{
  struct tile_verifier v = {.arena = arena, .program = program};
  struct interner names;
  interner_init(&names, arena);
  v.stamps = ARENA_ARRAY(arena, uint32_t, program->pool->nodes.count);
  for (size_t k = 0; k < program->kernels.count; k++) {
    const struct tile_kernel *kernel = program->kernels.items[k];
    size_t before = names.count;
    v.kernel = kernel;
    if (!is_identifier(kernel->name) ||
        (intern(&names, kernel->name, strlen(kernel->name)), names.count == before)) {
      tile_reject(&v, NULL, "kernel %zu has a bad or repeated name", k);
      return v.error;
    }
    if (!verify_kernel(&v, kernel))
      return v.error;
  }
  return program->kernels.count > 0 ? NULL : "the program has no kernel";
}
