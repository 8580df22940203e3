#include "compiler/tile/parse.h"

#include <string.h>

static enum dtype parse_dtype(struct tile_parser *p)
{
  for (int k = DTYPE_F32; k < DTYPE_COUNT; k++)
    if (k != DTYPE_SPEC && tile_accept_word(p, dtype_name((enum dtype)k)))
      return (enum dtype)k;
  tile_parse_error(p, DIAG_TILE_SYNTAX, "expected an element type, as in f32");
  return DTYPE_F32;
}

static void parse_role_of(struct tile_parser *p, enum tile_role *role, uint32_t *index)
{
  *role = TILE_ROLE_PLAIN;
  *index = 0;
  if (!tile_accept_word(p, "role"))
    return;
  int k = TILE_ROLE_PLAIN;
  while (k <= TILE_ROLE_SIZE_PREFIX && !tile_accept_word(p, tile_role_name((enum tile_role)k)))
    k++;
  if (k > TILE_ROLE_SIZE_PREFIX) {
    tile_parse_error(p, DIAG_TILE_NAME, "there is no such role");
    return;
  }
  *role = (enum tile_role)k;
  if (p->token.kind == TOKEN_INT)
    *index = tile_expect_number(p, "the number");
}

/* A name that nothing else of the kernel has. */
static const char *parse_declared_name(struct tile_parser *p)
{
  const struct tile_kernel *kernel = p->builder.kernel;
  struct span span = p->token.span;
  const char *name = tile_expect_name(p, "a name");
  bool taken = tile_name_is_reserved(name);
  for (size_t k = 0; k < kernel->tensors.count; k++)
    taken = taken || strcmp(kernel->tensors.items[k].name, name) == 0;
  for (size_t k = 0; k < kernel->params.count; k++)
    taken = taken || strcmp(kernel->params.items[k].name, name) == 0;
  if (taken && !p->failed) {
    p->token.span = span;
    tile_parse_error(p, DIAG_TILE_NAME, "'%s' is taken: choose another name", name);
  }
  return name;
}

static void parse_tensor(struct tile_parser *p)
{
  struct tile_tensor tensor = {.name = parse_declared_name(p)};
  tensor.element = parse_dtype(p);
  tile_expect_symbol(p, "[");
  tensor.rank = tile_expect_number(p, "the rank");
  if (tensor.rank > SPEC_MAX_RANK)
    tile_parse_error(p, DIAG_TILE_LIMIT, "tensors have at most %d dimensions", (int)SPEC_MAX_RANK);
  tile_expect_symbol(p, "]");
  tensor.written = tile_accept_word(p, "written");
  parse_role_of(p, &tensor.role, &tensor.role_index);
  if (tile_accept_word(p, "shape")) {
    tile_expect_symbol(p, "[");
    for (uint32_t k = 0; k < tensor.rank && !p->failed; k++) {
      if (k > 0)
        tile_expect_symbol(p, ",");
      tensor.shape[k] = tile_parse_size(p);
    }
    tile_expect_symbol(p, "]");
  }
  if (p->builder.kernel->tensors.count >= TILE_MAX_TENSORS)
    tile_parse_error(p, DIAG_TILE_LIMIT, "more than %d tensors", (int)TILE_MAX_TENSORS);
  if (!p->failed)
    tile_add_tensor(p->builder.kernel, tensor);
}

static void parse_param(struct tile_parser *p)
{
  static const enum expr_type types[] = {EXPR_BOOL, EXPR_INT, EXPR_FLOAT};
  struct tile_param param = {.name = parse_declared_name(p)};
  size_t k = 0;
  while (k < 3 && !tile_accept_word(p, expr_type_name(types[k])))
    k++;
  if (k == 3)
    tile_parse_error(p, DIAG_TILE_SYNTAX, "a parameter is a bool, an int or a float");
  else
    param.type = types[k];
  parse_role_of(p, &param.role, &param.role_index);
  if (p->builder.kernel->params.count >= TILE_MAX_PARAMS)
    tile_parse_error(p, DIAG_TILE_LIMIT, "more than %d parameters", (int)TILE_MAX_PARAMS);
  if (!p->failed)
    tile_add_param(p->builder.kernel, param);
}

static void parse_site(struct tile_parser *p)
{
  struct tile_fault_site site = {.span = {.source = UINT32_MAX}};
  tile_expect_word(p, "tensor");
  site.tensor = tile_expect_number(p, "the tensor");
  tile_expect_word(p, "dim");
  site.dim = tile_expect_number(p, "the dimension");
  if (tile_accept_word(p, "at")) {
    site.span.source = tile_expect_number(p, "the source");
    tile_expect_symbol(p, ":");
    site.span.begin = tile_expect_number(p, "the first byte");
    tile_expect_symbol(p, ":");
    site.span.end = tile_expect_number(p, "the last byte");
  }
  vector_push(p->arena, &p->builder.kernel->sites, site);
}

static void parse_kernel(struct tile_parser *p)
{
  tile_expect_word(p, "kernel");
  struct span span = p->token.span;
  const char *name = tile_expect_name(p, "the kernel's name");
  const struct tile_program *program = p->builder.program;
  for (size_t k = 0; k < program->kernels.count && !p->failed; k++) {
    if (strcmp(program->kernels.items[k]->name, name) == 0) {
      p->token.span = span;
      tile_parse_error(p, DIAG_TILE_NAME, "there is a kernel '%s' already", name);
    }
  }
  p->builder.kernel = tile_kernel_new(p->builder.program, name);
  p->slots = NULL;
  p->slot_count = p->value_count = 0;
  for (;;) {
    if (tile_accept_word(p, "tensor"))
      parse_tensor(p);
    else if (tile_accept_word(p, "param"))
      parse_param(p);
    else if (tile_accept_word(p, "site"))
      parse_site(p);
    else
      break;
  }
  tile_parse_region(p, p->builder.kernel->body);
}

struct tile_program *tile_parse(struct arena *arena, struct expr_pool *pool,
                                const struct source_set *sources, uint32_t source,
                                struct diagnostics *diagnostics)
{
  struct tile_parser p = {
      .arena = arena,
      .pool = pool,
      .diagnostics = diagnostics,
      .source = &sources->sources.items[source],
      .source_number = source,
  };
  p.builder.program = tile_program_new(arena, pool);
  tile_scan(&p);
  do {
    if (p.builder.program->kernels.count >= TILE_MAX_KERNELS)
      tile_parse_error(&p, DIAG_TILE_LIMIT, "more than %d kernels", (int)TILE_MAX_KERNELS);
    parse_kernel(&p);
  } while (!p.failed && p.token.kind != TOKEN_END);
  return p.failed ? NULL : p.builder.program;
}
