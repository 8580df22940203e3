#include "compiler/tile/text.h"

#include <string.h>

#define PLAIN TILE_LEVEL_PLAIN
#define STAGED TILE_LEVEL_STAGED
const struct tile_op_info tile_op_infos[TILE_OP_COUNT] = {
#define TILE_OP(name, text, level, operands, results, regions, flags)                              \
  [TILE_##name] = {text, level, operands, results, regions, flags},
#include "compiler/tile/ops.def"
#undef TILE_OP
};
#undef PLAIN
#undef STAGED

#define NAME_OF(names, number)                                                                     \
  ((size_t)(number) < sizeof(names) / sizeof(*(names)) ? (names)[number] : "?")

const char *tile_element_name(enum tile_element element)
{
  static const char *const names[] = {"f32", "f16", "bf16", "i32", "index", "bool"};
  static_assert(sizeof(names) / sizeof(*names) == TILE_BOOL + 1, "a name for each element type");
  return NAME_OF(names, element);
}

enum expr_type tile_element_expr_type(enum tile_element element)
{
  switch (element) {
  case TILE_F32:
  case TILE_F16:
  case TILE_BF16: return EXPR_FLOAT;
  case TILE_I32: return EXPR_INT;
  case TILE_INDEX: return EXPR_LONG;
  case TILE_BOOL: return EXPR_BOOL;
  }
  return EXPR_BOOL;
}

const char *tile_layout_name(enum tile_layout layout)
{
  static const char *const names[] = {"none",        "row_major",  "panel",     "swizzle",
                                      "accumulator", "a_register", "lane_rows", "lane_columns"};
  static_assert(sizeof(names) / sizeof(*names) == TILE_LAYOUT_LANE_COLUMNS + 1,
                "a name for each layout");
  return NAME_OF(names, layout);
}

const char *tile_reduction_name(enum tile_reduction reduction)
{
  static const char *const names[] = {"sum", "max", "min", "any", "all"};
  static_assert(sizeof(names) / sizeof(*names) == TILE_REDUCE_ALL + 1, "a name for each reduction");
  return NAME_OF(names, reduction);
}

const char *tile_role_name(enum tile_role role)
{
  static const char *const names[] = {
      "plain",        "query",      "key",          "value",       "result",        "input",
      "output",       "summary",    "rotary_turns", "rotary_rest", "rotary_cosine", "rotary_sine",
      "query_starts", "key_starts", "workspace",    "cache",       "param",         "size_b",
      "size_nq",      "size_nk",    "size_table",   "size_pages",  "size_slots",    "size_prefix",
  };
  static_assert(sizeof(names) / sizeof(*names) == TILE_ROLE_SIZE_PREFIX + 1,
                "a name for each role");
  return NAME_OF(names, role);
}

const char *tile_expr_function(enum expr_op op)
{
  if (op == EXPR_POW)
    return "pow";
  bool unary = op >= EXPR_ABS && op <= EXPR_FLOOR;
  bool binary = op == EXPR_MIN || op == EXPR_MAX || (op >= EXPR_BIT_AND && op <= EXPR_SHIFT_RIGHT);
  bool other = op >= EXPR_SELECT && op < EXPR_OP_COUNT;
  return unary || binary || other ? expr_op_name(op) : NULL;
}

bool tile_name_is_reserved(const char *name)
{
  static const char *const words[] = {
      "and", "bool", "false", "float", "in",   "inf",    "infs",    "int",     "let",     "long",
      "nan", "nans", "not",   "or",    "true", "single", "tile_i0", "tile_i1", "tile_j0", "tile_j1",
  };
  for (size_t k = 0; k < sizeof(words) / sizeof(*words); k++)
    if (strcmp(words[k], name) == 0)
      return true;
  for (int op = 0; op < EXPR_OP_COUNT; op++) {
    const char *function = tile_expr_function((enum expr_op)op);
    if (function != NULL && strcmp(function, name) == 0)
      return true;
  }
  return false;
}

uint32_t tile_elements_per_byte(enum dtype type)
{
  return type == DTYPE_I4 ? 2 : type == DTYPE_I2 ? 4 : 1;
}

uint32_t tile_limit_operands(const struct tile_op *op)
{
  uint32_t others = op->masked ? 2 : 1;
  return op->operand_count < others ? 0 : op->operand_count - others;
}

uint32_t tile_first_index(enum tile_op_kind kind)
{
  return kind == TILE_COPY_ASYNC ? 2 : kind == TILE_STORE || kind == TILE_ACCUMULATE ? 1 : 0;
}

bool tile_has_row_indices(const struct tile_op *op)
{
  for (uint32_t k = tile_first_index(op->kind); k + 2 < op->operand_count; k++)
    if (op->operands[k]->type.kind == TILE_KIND_TILE)
      return true;
  return false;
}

enum expr_type tile_read_type(enum dtype element)
{
  switch (element) {
  case DTYPE_BOOL: return EXPR_BOOL;
  case DTYPE_I32:
  case DTYPE_I64:
  case DTYPE_U8:
  case DTYPE_I8:
  case DTYPE_I4:
  case DTYPE_I2: return EXPR_INT;
  case DTYPE_F32:
  case DTYPE_F16:
  case DTYPE_BF16:
  case DTYPE_E4M3:
  case DTYPE_E5M2:
  case DTYPE_ANY:
  case DTYPE_SPEC:
  case DTYPE_COUNT: break;
  }
  return EXPR_FLOAT;
}
