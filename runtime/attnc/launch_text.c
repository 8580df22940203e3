#include "runtime/attnc/launch_text.h"

#include "compiler/cache/plan.h"

#include <ctype.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "attn/attn.h"
#include "compiler/tile/abi.h"
#include "compiler/tile/text.h"
#include "dsl/expr_eval.h"
#include "runtime/unit.h"

/* ---- names ---- */

/* Words of C and C++ that a tensor or a parameter may be called. */
static bool is_word_of_c(const char *name)
{
  static const char *const words[] = {
      "alignas",   "alignof", "asm",      "auto",     "bool",    "break",    "case",   "catch",
      "char",      "class",   "const",    "continue", "default", "delete",   "do",     "double",
      "else",      "enum",    "explicit", "export",   "extern",  "false",    "float",  "for",
      "friend",    "goto",    "if",       "inline",   "int",     "long",     "module", "mutable",
      "namespace", "new",     "nullptr",  "operator", "private", "register", "public", "restrict",
      "return",    "short",   "signed",   "sizeof",   "static",  "struct",   "switch", "template",
      "this",      "throw",   "true",     "try",      "typedef", "typename", "union",  "unsigned",
      "using",     "virtual", "void",     "volatile", "while",   "protected"};
  for (size_t k = 0; k < sizeof(words) / sizeof(words[0]); k++)
    if (strcmp(words[k], name) == 0)
      return true;
  return false;
}

static const char *field_name(struct arena *arena, const char *name)
{
  return is_word_of_c(name) ? arena_format(arena, "%s_", name) : name;
}

/* Letters, digits and underscores, beginning with a letter. */
static const char *identifier(struct arena *arena, const char *name, bool upper)
{
  char *text = arena_format(arena, "%s%s", isalpha((unsigned char)name[0]) ? "" : "attn_", name);
  for (char *c = text; *c != '\0'; c++) {
    if (!isalnum((unsigned char)*c))
      *c = '_';
    if (upper)
      *c = (char)toupper((unsigned char)*c);
  }
  return text;
}

/* ---- blocks ---- */

enum { MAX_DEPTH = 64, MAX_LENGTH = 4096 };

struct c_printer {
  struct arena *arena;
  const struct tile_kernel *kernel;
  const char *prefix;
  bool fails;
};

static const char *c_expr(struct c_printer *p, const struct tile_op *op, const struct expr *e,
                          unsigned depth);

static const char *c_scalar(struct c_printer *p, const struct tile_value *value, unsigned depth)
{
  if (value->def != NULL && value->def->kind == TILE_SCALAR)
    return c_expr(p, value->def, value->def->expr, depth + 1);
  p->fails = true;
  return "";
}

static const char *c_expr(struct c_printer *p, const struct tile_op *op, const struct expr *e,
                          unsigned depth)
{
  const char *args[3] = {"", "", ""};
  if (depth > MAX_DEPTH || e->type == EXPR_FLOAT || e->type == EXPR_SINGLE || e->arg_count > 3)
    p->fails = true;
  for (uint32_t k = 0; !p->fails && k < e->arg_count; k++) {
    args[k] = c_expr(p, op, e->args[k], depth + 1);
    p->fails |= strlen(args[k]) > MAX_LENGTH;
  }
  if (p->fails)
    return "";
  struct arena *arena = p->arena;
  switch ((int)e->op) {
  case EXPR_CONST: return arena_format(arena, "%" PRId64, e->value.i);
  case EXPR_PARAM:
    return arena_format(arena, "%s%s", p->prefix,
                        field_name(arena, p->kernel->params.items[e->value.i].name));
  case EXPR_ARG: return c_scalar(p, op->operands[e->value.i], depth);
  case EXPR_CONVERT: return args[0]; /* sizes are far from what an int holds */
  case EXPR_NEG: return arena_format(arena, "(-%s)", args[0]);
  case EXPR_ADD: return arena_format(arena, "(%s + %s)", args[0], args[1]);
  case EXPR_SUB: return arena_format(arena, "(%s - %s)", args[0], args[1]);
  case EXPR_MUL: return arena_format(arena, "(%s * %s)", args[0], args[1]);
  case EXPR_FLOORDIV: return arena_format(arena, "attn_floor_div(%s, %s)", args[0], args[1]);
  case EXPR_MIN: return arena_format(arena, "attn_min(%s, %s)", args[0], args[1]);
  case EXPR_MAX: return arena_format(arena, "attn_max(%s, %s)", args[0], args[1]);
  case EXPR_LT: return arena_format(arena, "(%s < %s)", args[0], args[1]);
  case EXPR_LE: return arena_format(arena, "(%s <= %s)", args[0], args[1]);
  case EXPR_EQ: return arena_format(arena, "(%s == %s)", args[0], args[1]);
  case EXPR_NE: return arena_format(arena, "(%s != %s)", args[0], args[1]);
  case EXPR_SELECT: return arena_format(arena, "(%s ? %s : %s)", args[0], args[1], args[2]);
  default: break;
  }
  p->fails = true;
  return "";
}

const char *launch_text_blocks(struct arena *arena, const struct tile_kernel *kernel,
                               const char *prefix)
{
  const struct tile_op *tasks = kernel->body->last;
  struct c_printer printer = {.arena = arena, .kernel = kernel, .prefix = prefix};
  const char *product = "";
  for (uint32_t k = 0; k < tasks->operand_count; k++) {
    const char *extent = c_scalar(&printer, tasks->operands[k], 0);
    const char *format = isdigit((unsigned char)extent[0]) ? "%s%s%s" : "%s%sattn_max(%s, 0)";
    product = arena_format(arena, format, product, k == 0 ? "" : " * ", extent);
  }
  return printer.fails ? NULL : product;
}

/* ---- tensors ---- */

/* The size of a cache tensor's dimension, as docs/caches.md names it. */
static const char *cache_dim_text(const struct launch_text *text, const struct tile_tensor *tensor,
                                  uint32_t dim)
{
  const struct cache_tensor *planned = &text->compiled->cache->tensors[tensor->role_index];
  const struct cache_dimension *size = &planned->dims[dim];
  const struct expr_names names = {0};
  switch (size->kind) {
  case CACHE_DIM_B: return "B";
  case CACHE_DIM_TABLE: return "table";
  case CACHE_DIM_PAGES: return "pages";
  case CACHE_DIM_SLOTS:
    return size->quotient == 1 ? "slots" : arena_format(text->arena, "slots / %u", size->quotient);
  case CACHE_DIM_CONSTANT: {
    /* codes below a byte that a kernel writes are bytes to it */
    bool bytes = dim + 1 == planned->rank && tensor->element == DTYPE_U8;
    uint32_t per_byte = bytes ? 8 / cache_element_bits(planned->type) : 1;
    return arena_format(text->arena, "%u", size->size / per_byte);
  }
  case CACHE_DIM_INPUT: break;
  }
  return expr_print(text->arena, size->input, &names);
}

/* The size of a dimension as the spec has it; NULL where the program alone does not tell. */
static const char *dim_text(const struct launch_text *text, const struct tile_tensor *tensor,
                            uint32_t dim)
{
  const struct spec *spec = text->compiled->spec;
  struct arena *arena = text->arena;
  const struct expr_names names = {0};
  if (tensor->role == TILE_ROLE_CACHE)
    return cache_dim_text(text, tensor, dim);
  if (spec == NULL || spec->cache.layout == CACHE_RAGGED)
    return NULL;
  const struct expr *size = NULL;
  uint32_t input = tensor->role_index;
  switch (tensor->role) {
  case TILE_ROLE_QUERY:
  case TILE_ROLE_RESULT:
  case TILE_ROLE_OUTPUT:
  case TILE_ROLE_KEY:
  case TILE_ROLE_VALUE: {
    bool keys = tensor->role == TILE_ROLE_KEY || tensor->role == TILE_ROLE_VALUE;
    bool values = tensor->role == TILE_ROLE_RESULT || tensor->role == TILE_ROLE_VALUE;
    if (tensor->role == TILE_ROLE_OUTPUT) {
      bool mass = spec->outputs[tensor->role_index].kind == OUTPUT_MASS;
      if (dim == 3 || (dim == 2 && mass))
        return "NK";
    }
    if (dim == 0 || dim == 2)
      return dim == 0 ? "B" : keys ? "NK" : "NQ";
    uint32_t heads = keys ? spec->kv_heads : spec->query_heads;
    return arena_format(arena, "%u", dim == 1 ? heads : values ? spec->dim_v : spec->dim_qk);
  }
  case TILE_ROLE_WORKSPACE: size = tensor->shape[dim]; break;
  case TILE_ROLE_SUMMARY:
    if (dim + 1 == tensor->rank)
      return "2";
    input = text->compiled->visibility->summaries[tensor->role_index].tensor - EXPR_TENSOR_INPUT;
    size = spec->inputs[input].dims[dim].size;
    if (dim + 2 == tensor->rank)
      return arena_format(arena, "ceil(%s / %d)", expr_print(arena, size, &names),
                          (int)VISIBILITY_SUMMARY_BLOCK);
    break;
  case TILE_ROLE_INPUT: size = spec->inputs[input].dims[dim].size; break;
  case TILE_ROLE_ROTARY_TURNS:
  case TILE_ROLE_ROTARY_REST:
  case TILE_ROLE_ROTARY_COSINE:
  case TILE_ROLE_ROTARY_SINE: return arena_format(arena, "%u", spec->dim_qk);
  case TILE_ROLE_QUERY_STARTS:
  case TILE_ROLE_KEY_STARTS: return "B + 1";
  case TILE_ROLE_CACHE:
  case TILE_ROLE_PLAIN:
  case TILE_ROLE_PARAM:
  case TILE_ROLE_SIZE_B:
  case TILE_ROLE_SIZE_NQ:
  case TILE_ROLE_SIZE_NK:
  case TILE_ROLE_SIZE_TABLE:
  case TILE_ROLE_SIZE_PAGES:
  case TILE_ROLE_SIZE_SLOTS:
  case TILE_ROLE_SIZE_PREFIX: break;
  }
  return size == NULL ? NULL : expr_print(arena, size, &names);
}

static const char *shape_text(const struct launch_text *text, const struct tile_tensor *tensor)
{
  const char *shape = "";
  for (uint32_t d = 0; d < tensor->rank; d++) {
    const char *size = dim_text(text, tensor, d);
    if (size == NULL)
      return arena_format(text->arena, "%u dimensions", tensor->rank);
    shape = arena_format(text->arena, "%s%s%s", shape, d == 0 ? "" : ", ", size);
  }
  return arena_format(text->arena, "[%s]", shape);
}

static const char *tensor_about(const struct launch_text *text, const struct tile_tensor *tensor)
{
  const char *role = tensor->role == TILE_ROLE_PLAIN ? "" : tile_role_name(tensor->role);
  return arena_format(text->arena, "%s %s%s%s%s", dtype_name(tensor->element),
                      shape_text(text, tensor), role[0] == '\0' ? "" : ", ", role,
                      tensor->written ? ", written" : "");
}

static const char *param_type(const struct tile_param *param)
{
  return param->type == EXPR_FLOAT || param->type == EXPR_SINGLE ? "double" : "int64_t";
}

/* ---- rotary tables ---- */

/* The tables where they are the same in every launch. False where there are none. */
static bool find_rotary(const struct launch_text *text, struct rotary_tables *tables)
{
  const struct spec *spec = text->compiled->spec;
  const uint64_t pair = EXPR_DEP(EXPR_VAR_C) | EXPR_DEP(EXPR_VAR_T);
  if (spec == NULL || !spec->has_rotary ||
      ((spec->rotary.angle->deps | spec->rotary.gain->deps) & ~pair) != 0)
    return false;
  *tables = (struct rotary_tables){.turns = ARENA_ARRAY(text->arena, int32_t, spec->dim_qk),
                                   .rest = ARENA_ARRAY(text->arena, float, spec->dim_qk),
                                   .cosine = ARENA_ARRAY(text->arena, float, spec->dim_qk),
                                   .sine = ARENA_ARRAY(text->arena, float, spec->dim_qk)};
  return unit_rotary_tables(spec, expr_evaluator_new(text->arena, spec->pool), tables);
}

/* ---- the header ---- */

static void put_field(const struct launch_text *text, struct tile_text *out,
                      const struct tile_tensor *tensor)
{
  tile_text_add(out, "  struct {\n    uint64_t data; /* %s */\n", tensor_about(text, tensor));
  if (tensor->rank > 0)
    tile_text_add(out, "    int64_t strides[%u], sizes[%u];\n", tensor->rank, tensor->rank);
  tile_text_add(out, "  } %s;\n", field_name(text->arena, tensor->name));
}

static void put_kernel(const struct launch_text *text, struct tile_text *out,
                       const struct compiled_kernel *kernel)
{
  const struct tile_kernel *tile = kernel->tile;
  const char *name = identifier(text->arena, tile->name, false);
  const char *upper = identifier(text->arena, tile->name, true);
  const char *prefix = identifier(text->arena, text->name, false);
  const char *upper_prefix = identifier(text->arena, text->name, true);
  tile_text_add(out, "\n/* ---- kernel %s ---- */\n", tile->name);
  tile_text_add(out, "enum { %s_%s_THREADS = %u, %s_%s_SHARED = %u };\n", upper_prefix, upper,
                kernel->threads, upper_prefix, upper, kernel->shared_bytes);
  tile_text_add(out, "struct %s_%s {\n", prefix, name);
  for (size_t k = 0; k < tile->tensors.count; k++)
    put_field(text, out, &tile->tensors.items[k]);
  for (size_t k = 0; k < tile->params.count; k++)
    tile_text_add(out, "  %s %s;\n", param_type(&tile->params.items[k]),
                  field_name(text->arena, tile->params.items[k].name));
  tile_text_add(out, "  uint64_t attn_fault;\n};\n");
  tile_text_add(out, "ATTN_STATIC_ASSERT(sizeof(struct %s_%s) == %u, \"64-bit slots\");\n", prefix,
                name, 8 * tile_slot_count(tile));
  const char *blocks = launch_text_blocks(text->arena, tile, "a->");
  if (blocks == NULL) {
    tile_text_add(out, "/* The number of blocks depends on elements of tensors. */\n");
    return;
  }
  tile_text_add(out, "static inline int64_t %s_%s_blocks(const struct %s_%s *a)\n{\n", prefix, name,
                prefix, name);
  tile_text_add(out, "  (void)a;\n  return %s;\n}\n", blocks);
}

static void put_table(const struct launch_text *text, struct tile_text *out, const char *name,
                      const int32_t *integers, const float *reals)
{
  uint32_t count = text->compiled->spec->dim_qk;
  const char *prefix = identifier(text->arena, text->name, false);
  tile_text_add(out, "static const %s %s_%s[%u] = {", integers != NULL ? "int32_t" : "float",
                prefix, name, count);
  for (uint32_t c = 0; c < count; c++) {
    tile_text_add(out, "%s", c == 0 ? "\n    " : c % 8 == 0 ? ",\n    " : ", ");
    if (integers == NULL)
      tile_text_add(out, "%.9ef", (double)reals[c]);
    else if (integers[c] == INT32_MIN)
      tile_text_add(out, "INT32_MIN");
    else
      tile_text_add(out, "%d", integers[c]);
  }
  tile_text_add(out, "};\n");
}

static const char header_top[] =
    " *\n"
    " * Kernels run in this order, in one stream. A kernel's one parameter is its struct, by "
    "value: pass\n"
    " * its address in kernelParams of cuLaunchKernel. The grid is (NAME_blocks, 1, 1), the block\n"
    " * (NAME_THREADS, 1, 1); NAME_SHARED bytes of dynamic shared memory, for which more than 48 "
    "KiB need\n"
    " * CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES. No blocks: no launch.\n"
    " *\n"
    " * `data` is a device address; strides are in elements, and the last one is 1. Tensors with "
    "the role\n"
    " * workspace or summary are filled by one kernel for later ones. `attn_fault` is the device "
    "address of\n"
    " * 16 zeroed bytes: int32 raised (an index was out of range: the result is undefined), int32 "
    "site,\n"
    " * int64 index. */\n";

static const char header_helpers[] =
    "\n#ifndef ATTN_STATIC_ASSERT\n"
    "#ifdef __cplusplus\n#define ATTN_STATIC_ASSERT static_assert\n"
    "#else\n#define ATTN_STATIC_ASSERT _Static_assert\n#endif\n"
    "static inline int64_t attn_min(int64_t x, int64_t y)\n{\n  return x < y ? x : y;\n}\n"
    "static inline int64_t attn_max(int64_t x, int64_t y)\n{\n  return x > y ? x : y;\n}\n"
    "/* Rounded down. */\n"
    "static inline int64_t attn_floor_div(int64_t x, int64_t y)\n{\n"
    "  return x / y - (x % y != 0 && (x < 0) != (y < 0));\n}\n#endif\n";

const char *launch_text_header(const struct launch_text *text)
{
  struct tile_text out = {.arena = text->arena};
  const char *guard = identifier(text->arena, text->name, true);
  tile_text_add(&out, "/* How to launch the kernels of '%s', made by attnc %s.\n%s", text->name,
                attn_version(), header_top);
  tile_text_add(&out, "#ifndef %s_LAUNCH_H\n#define %s_LAUNCH_H\n\n#include <stdint.h>\n", guard,
                guard);
  tile_text_add(&out, "%s", header_helpers);
  for (size_t k = 0; k < text->compiled->kernels.count; k++)
    put_kernel(text, &out, &text->compiled->kernels.items[k]);
  struct rotary_tables tables;
  if (find_rotary(text, &tables)) {
    tile_text_add(&out, "\n/* ---- contents of the tensors of these names ---- */\n");
    put_table(text, &out, "rotary_turns", tables.turns, NULL);
    put_table(text, &out, "rotary_rest", NULL, tables.rest);
    put_table(text, &out, "rotary_cosine", NULL, tables.cosine);
    put_table(text, &out, "rotary_sine", NULL, tables.sine);
  }
  tile_text_add(&out, "\n#endif\n");
  vector_push(text->arena, &out.bytes, '\0');
  return out.bytes.items;
}

/* ---- JSON ---- */

static void put_json_tensor(const struct launch_text *text, struct tile_text *out,
                            const struct tile_kernel *kernel, uint32_t n)
{
  const struct tile_tensor *tensor = &kernel->tensors.items[n];
  tile_text_add(out,
                "%s\n        {\"name\": \"%s\", \"slot\": %u, \"type\": \"%s\", \"rank\": %u, ",
                n == 0 ? "" : ",", tensor->name, tile_tensor_slot(kernel, n),
                dtype_name(tensor->element), tensor->rank);
  tile_text_add(out, "\"role\": \"%s\", \"index\": %u, \"written\": %s, \"shape\": [",
                tile_role_name(tensor->role), tensor->role_index,
                tensor->written ? "true" : "false");
  for (uint32_t d = 0; d < tensor->rank; d++) {
    const char *size = dim_text(text, tensor, d);
    tile_text_add(out, "%s", d == 0 ? "" : ", ");
    if (size == NULL)
      tile_text_add(out, "null");
    else
      tile_text_add(out, "\"%s\"", size);
  }
  tile_text_add(out, "]}");
}

static void put_json_kernel(const struct launch_text *text, struct tile_text *out,
                            const struct compiled_kernel *kernel)
{
  const struct tile_kernel *tile = kernel->tile;
  const char *blocks = launch_text_blocks(text->arena, tile, "");
  tile_text_add(out, "    {\n      \"name\": \"%s\",\n      \"threads\": %u,\n", tile->name,
                kernel->threads);
  tile_text_add(out, "      \"shared_bytes\": %u,\n", kernel->shared_bytes);
  if (blocks == NULL)
    tile_text_add(out, "      \"blocks\": null,\n");
  else
    tile_text_add(out, "      \"blocks\": \"%s\",\n", blocks);
  tile_text_add(out, "      \"slots\": %u,\n      \"tensors\": [", tile_slot_count(tile));
  for (uint32_t n = 0; n < tile->tensors.count; n++)
    put_json_tensor(text, out, tile, n);
  tile_text_add(out, "\n      ],\n      \"parameters\": [");
  for (uint32_t n = 0; n < tile->params.count; n++) {
    const struct tile_param *param = &tile->params.items[n];
    tile_text_add(out, "%s\n        {\"name\": \"%s\", \"slot\": %u, \"type\": \"%s\", ",
                  n == 0 ? "" : ",", param->name, tile_param_slot(tile, n),
                  expr_type_name(param->type));
    tile_text_add(out, "\"role\": \"%s\", \"index\": %u}", tile_role_name(param->role),
                  param->role_index);
  }
  tile_text_add(out, "\n      ],\n      \"fault_slot\": %u\n    }", tile_fault_slot(tile));
}

static void put_json_table(const struct launch_text *text, struct tile_text *out, const char *name,
                           const int32_t *integers, const float *reals)
{
  tile_text_add(out, ",\n  \"%s\": [", name);
  for (uint32_t c = 0; c < text->compiled->spec->dim_qk; c++) {
    tile_text_add(out, "%s", c == 0 ? "" : ", ");
    if (integers != NULL)
      tile_text_add(out, "%d", integers[c]);
    else
      tile_text_add(out, "%.9g", (double)reals[c]);
  }
  tile_text_add(out, "]");
}

const char *launch_text_json(const struct launch_text *text)
{
  struct tile_text out = {.arena = text->arena};
  const struct compiled *compiled = text->compiled;
  tile_text_add(&out, "{\n  \"name\": \"%s\",\n  \"target\": \"%s\",\n",
                identifier(text->arena, text->name, false), target_name(compiled->options.target));
  tile_text_add(&out, "  \"attnc\": \"%s\",\n  \"kernels\": [\n", attn_version());
  for (size_t k = 0; k < compiled->kernels.count; k++) {
    put_json_kernel(text, &out, &compiled->kernels.items[k]);
    tile_text_add(&out, "%s\n", k + 1 == compiled->kernels.count ? "" : ",");
  }
  tile_text_add(&out, "  ]");
  struct rotary_tables tables;
  if (find_rotary(text, &tables)) {
    put_json_table(text, &out, "rotary_turns", tables.turns, NULL);
    put_json_table(text, &out, "rotary_rest", NULL, tables.rest);
    put_json_table(text, &out, "rotary_cosine", NULL, tables.cosine);
    put_json_table(text, &out, "rotary_sine", NULL, tables.sine);
  }
  tile_text_add(&out, "\n}\n");
  vector_push(text->arena, &out.bytes, '\0');
  return out.bytes.items;
}
