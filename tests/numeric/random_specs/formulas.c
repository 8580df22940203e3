/* Random formulas. Types are right by construction; so are ranges, except where `loose` or `wild`
 * ask for the opposite. */
#include <stdio.h>
#include <string.h>

#include "runtime/attnc/random.h"
#include "tests/numeric/random_specs/generate.h"

#define NEW(type, ...) node_new(g->arena, type, __VA_ARGS__)
#define COUNT_OF(array) ((uint32_t)(sizeof(array) / sizeof((array)[0])))

uint32_t pick(struct generator *g, uint32_t count)
{
  return (uint32_t)(random_bits(g->key, g->counter++) % count);
}

bool chance(struct generator *g, uint32_t percent)
{
  return pick(g, 100) < percent;
}

struct node *leaf(struct generator *g, enum node_type type, const char *format, ...)
{
  va_list arguments;
  va_start(arguments, format);
  const char *text = arena_vformat(g->arena, format, arguments);
  va_end(arguments);
  return node_new(g->arena, type, text);
}

struct node *word(struct generator *g, const char *format, ...)
{
  va_list arguments;
  va_start(arguments, format);
  const char *text = arena_vformat(g->arena, format, arguments);
  va_end(arguments);
  return node_new(g->arena, NODE_WORD, text);
}

const char *new_name(struct generator *g, const char *prefix)
{
  return arena_format(g->arena, "%s%u", prefix, g->name_count++);
}

/* ---- inputs ---- */

static bool is_readable(const struct generator *g, const struct place *place, enum dim_kind kind,
                        int64_t size)
{
  switch (kind) {
  case DIM_B:
  case DIM_G: return place->row || place->key;
  case DIM_H: return place->row && !place->one_token;
  case DIM_NQ: return place->row && !place->one_token;
  case DIM_NK: return place->key;
  case DIM_D: return place->channels == 0 || place->channels <= g->dim_qk;
  case DIM_DV: return place->channels == 0 || place->channels <= g->dim_v;
  case DIM_EXPR: return size > 0 || place->key;
  }
  return false;
}

static const char *dim_text(struct generator *g, enum dim_kind kind, int64_t size)
{
  static const char *const names[] = {"B", "H", "G", "NQ", "NK", "D", "DV"};
  if (kind != DIM_EXPR)
    return names[kind];
  return size == 0 ? "(NK + 3) // 4" : arena_format(g->arena, "%lld", (long long)size);
}

static const char cached_input[] = "  input $ : $$ cached\n";

struct node *declare_input(struct generator *g, const char *name, const char *type,
                           struct node *dims)
{
  struct node *node =
      NEW(NODE_STATEMENT, "  input $ : $$\n", word(g, "%s", name), word(g, "%s", type), dims);
  node_add(g->arena, g->inputs, node);
  return node;
}

static const char *random_dtype(struct generator *g, enum node_type type)
{
  static const char *const floats[] = {"f32", "f16", "bf16", "type"};
  static const char *const ints[] = {"i32", "i64", "u8"};
  if (type == NODE_BOOL)
    return "bool";
  return type == NODE_INT ? ints[pick(g, 3)] : floats[pick(g, 4)];
}

static struct declared_input *new_input(struct generator *g, const struct place *place,
                                        enum node_type type)
{
  struct declared_input *input = &g->declared[g->input_count++];
  struct node *dims = node_list(g->arena, "[|, |]");
  *input = (struct declared_input){.name = new_name(g, type == NODE_BOOL  ? "flag"
                                                       : type == NODE_INT ? "ids"
                                                                          : "table"),
                                   .type = type};
  bool used[DIM_EXPR] = {false};
  for (uint32_t wanted = pick(g, 4); wanted > 0; wanted--) {
    enum dim_kind kind = (enum dim_kind)pick(g, DIM_EXPR + 2);
    kind = kind > DIM_EXPR ? DIM_NK : kind;
    int64_t size = kind == DIM_EXPR && !chance(g, 15) ? 1 + pick(g, 6) : 0;
    if (!is_readable(g, place, kind, size) || (kind != DIM_EXPR && used[kind]))
      continue;
    if (kind != DIM_EXPR)
      used[kind] = true;
    input->dims[input->rank].kind = kind;
    input->dims[input->rank++].size = size;
    node_add(g->arena, dims, word(g, "%s", dim_text(g, kind, size)));
  }
  struct node *node = declare_input(g, input->name, random_dtype(g, type), dims);
  /* An index may be that of a key which a ring has lost. */
  if (g->on_cache && used[DIM_NK] && g->layout != CACHE_RING && chance(g, 50))
    node->format = cached_input;
  return input;
}

/* An int in [0, size): clamped, wrapped, or one that is known to be. */
static struct node *index_below(struct generator *g, const struct place *place, int64_t size,
                                int depth)
{
  for (uint32_t k = 0; k < place->ints.count; k++)
    if (place->ints.extent[k] > 0 && place->ints.extent[k] <= size && chance(g, 70))
      return leaf(g, NODE_INT, "%s", place->ints.text[k]);
  if (place->channels > 0 && place->channels <= size && chance(g, 80))
    return leaf(g, NODE_INT, "c");
  if (g->loose && chance(g, 30) &&
      (place->row || place->key)) /* b: no constant, which would be refused */
    return NEW(NODE_INT, "($ + b)", make_int(g, place, depth - 1));
  switch (pick(g, 4)) {
  case 0:
    return NEW(NODE_INT, "clamp($, 0, $)", make_int(g, place, depth - 1),
               word(g, "%lld", (long long)size - 1));
  case 1:
    return NEW(NODE_INT, "($ % $)", make_int(g, place, depth - 1),
               word(g, "%lld", (long long)size));
  case 2: return leaf(g, NODE_INT, "%u", pick(g, (uint32_t)size));
  default:
    return NEW(NODE_INT, "min(abs($), $)", make_int(g, place, depth - 1),
               word(g, "%lld", (long long)size - 1));
  }
}

static struct node *key_index(struct generator *g, const struct place *place, int depth)
{
  if (place->one_token)
    return leaf(g, NODE_INT, "j");
  switch (pick(g, 8)) {
  case 0: return leaf(g, NODE_INT, g->align == ALIGN_END || g->loose ? "i" : "clamp(i, 0, NK - 1)");
  case 1: return leaf(g, NODE_INT, "min(i, NK - 1)");
  case 2: return NEW(NODE_INT, "clamp($, 0, NK - 1)", make_int(g, place, depth - 1));
  case 3: return leaf(g, NODE_INT, "NK - 1 - j");
  case 4: return leaf(g, NODE_INT, "max(j - 1, 0)");
  default: return leaf(g, NODE_INT, "j");
  }
}

static struct node *index_of(struct generator *g, const struct place *place, enum dim_kind kind,
                             int64_t size, int depth)
{
  switch (kind) {
  case DIM_B: return leaf(g, NODE_INT, "b");
  case DIM_H: return leaf(g, NODE_INT, "%s", chance(g, 80) ? "h" : "((h + 1) % H)");
  case DIM_G: return leaf(g, NODE_INT, "g");
  case DIM_NQ: return leaf(g, NODE_INT, chance(g, 90) ? "r" : "NQ - 1 - r");
  case DIM_NK: return key_index(g, place, depth);
  case DIM_D: return index_below(g, place, g->dim_qk, depth);
  case DIM_DV: return index_below(g, place, g->dim_v, depth);
  case DIM_EXPR: break;
  }
  return size == 0 ? leaf(g, NODE_INT, "j // 4") : index_below(g, place, size, depth);
}

struct node *make_read(struct generator *g, const struct place *place, enum node_type type,
                       int depth)
{
  struct declared_input *input = NULL;
  for (uint32_t tries = 0; tries < 4 && g->input_count > 0 && input == NULL; tries++) {
    input = &g->declared[pick(g, g->input_count)];
    bool fits = input->type == type;
    for (uint32_t d = 0; d < input->rank; d++)
      fits &= is_readable(g, place, input->dims[d].kind, input->dims[d].size);
    input = fits ? input : NULL;
  }
  if (input == NULL && g->input_count == MAX_INPUTS)
    return NULL;
  if (input == NULL)
    input = new_input(g, place, type);
  struct node *indices = node_list(g->arena, "[|, |]");
  for (uint32_t d = 0; d < input->rank; d++)
    node_add(g->arena, indices,
             index_of(g, place, input->dims[d].kind, input->dims[d].size, depth));
  return NEW(type, "$$", word(g, "%s", input->name), indices);
}

struct node *make_vector_read(struct generator *g, bool by_key, uint32_t channels)
{
  const char *name = new_name(g, by_key ? "kx" : "qx");
  bool batch = g->ragged || chance(g, 70);
  bool head = chance(g, 60);
  const char *dim = by_key ? "NK" : "NQ";
  const char *last = channels == g->dim_qk  ? "D"
                     : channels == g->dim_v ? "DV"
                                            : arena_format(g->arena, "%u", channels);
  struct node *node = declare_input(
      g, name, random_dtype(g, NODE_FLOAT),
      word(g, "[%s%s%s, %s]", batch ? "B, " : "", head ? by_key ? "G, " : "H, " : "", dim, last));
  if (g->on_cache && by_key && chance(g, 50))
    node->format = cached_input;
  return leaf(g, NODE_VECTOR, "%s[%s%s%s]", name, batch ? "b, " : "",
              head ? by_key ? "g, " : "h, " : "", by_key ? "j" : "r");
}

/* ---- parameters and lets ---- */

static const char *param_of(struct generator *g, enum node_type type)
{
  static const char *const words[] = {
      [NODE_BOOL] = "bool", [NODE_INT] = "int", [NODE_FLOAT] = "float"};
  for (size_t k = 0; k < g->param_names.count; k++)
    if (g->param_names.items[k].type == type && chance(g, 60))
      return g->param_names.items[k].name;
  if (g->param_names.count >= 4)
    return NULL;
  const char *name = new_name(g, type == NODE_BOOL ? "on" : type == NODE_INT ? "width" : "amount");
  struct node *value = type == NODE_BOOL  ? leaf(g, NODE_WORD, chance(g, 50) ? "true" : "false")
                       : type == NODE_INT ? leaf(g, NODE_WORD, "%u", 1 + pick(g, 6))
                                          : leaf(g, NODE_WORD, "%u.%u", pick(g, 2), 1 + pick(g, 9));
  node_add(g->arena, g->params,
           NEW(NODE_STATEMENT, "$$: $ = $", word(g, chance(g, 20) ? "const " : ""),
               word(g, "%s", name), word(g, "%s", words[type]), value));
  vector_push(g->arena, &g->param_names, (struct declared_name){.name = name, .type = type});
  return name;
}

static const char *let_of(struct generator *g, const struct place *place, enum node_type type)
{
  for (size_t k = 0; k < g->let_names.count; k++) {
    const struct declared_name *let = &g->let_names.items[k];
    if (let->type == type && (!let->row || (place->row && !place->one_token)) &&
        (!let->key || place->key) && chance(g, 50))
      return let->name;
  }
  return NULL;
}

static struct node *fn_call(struct generator *g, const struct place *place, enum node_type type,
                            int depth)
{
  for (size_t k = 0; k < g->fn_names.count; k++) {
    const struct declared_name *fn = &g->fn_names.items[k];
    if (fn->type != type || !chance(g, 50))
      continue;
    struct node *arguments = node_list(g->arena, "(|, |)");
    for (uint32_t n = 0; n < fn->args; n++)
      node_add(g->arena, arguments,
               type == NODE_FLOAT ? make_float(g, place, depth - 1)
                                  : make_int(g, place, depth - 1));
    return NEW(type, "$$", word(g, "%s", fn->name), arguments);
  }
  return NULL;
}

/* ---- ints ---- */

static struct node *int_leaf(struct generator *g, const struct place *place)
{
  static const char *const row[] = {"i", "r", "h", "b", "g", "i", "NQ", "offset"};
  static const char *const anywhere[] = {"NK", "H", "G", "D", "DV", "B", "NQ"};
  const char *name = NULL;
  uint32_t kind = pick(g, 10);
  if (place->ints.count > 0 && kind < 4)
    name = place->ints.text[pick(g, place->ints.count)];
  else if (place->in_fn)
    name = NULL;
  else if (place->key && kind < 6)
    name = "j";
  else if (place->row && !place->one_token && kind < 8)
    name = row[pick(g, COUNT_OF(row))];
  else if (place->channels > 0 && kind < 7)
    name = "c";
  else if (kind == 8)
    name = anywhere[pick(g, COUNT_OF(anywhere))];
  else if (kind == 9)
    name = param_of(g, NODE_INT);
  return name != NULL ? leaf(g, NODE_INT, "%s", name) : leaf(g, NODE_INT, "%u", pick(g, 8));
}

static const char *const int_binaries[] = {
    "($ + $)",       "($ - $)",       "min($, $)",    "max($, $)",
    "bit_xor($, $)", "bit_and($, $)", "bit_or($, $)", "clamp($, -3, $)",
};

static struct place bound_place(struct generator *g, const struct place *place, const char **name,
                                int64_t extent)
{
  struct place inner = *place;
  *name = new_name(g, "n");
  if (inner.ints.count == PLACE_MAX_NAMES)
    inner.ints.count--;
  inner.ints.text[inner.ints.count] = *name;
  inner.ints.extent[inner.ints.count++] = extent;
  return inner;
}

struct node *make_int(struct generator *g, const struct place *place, int depth)
{
  struct node *made = NULL;
  if (depth <= 0 || chance(g, 25))
    return int_leaf(g, place);
  switch (pick(g, 14)) {
  case 0:
  case 1:
  case 2: {
    const char *format = int_binaries[pick(g, COUNT_OF(int_binaries))];
    return NEW(NODE_INT, format, make_int(g, place, depth - 1), make_int(g, place, depth - 1));
  }
  case 3: return NEW(NODE_INT, "($ * $)", make_int(g, place, depth - 1), word(g, "%u", pick(g, 5)));
  case 4:
    return NEW(NODE_INT, chance(g, 50) ? "($ // $)" : "($ % $)", make_int(g, place, depth - 1),
               word(g, chance(g, 85) ? "%u" : "(-%u)", 1 + pick(g, 7)));
  case 5: return NEW(NODE_INT, "abs($)", make_int(g, place, depth - 1));
  case 6: return NEW(NODE_INT, "(-$)", make_int(g, place, depth - 1));
  case 7:
    return NEW(NODE_INT, "($ if $ else $)", make_int(g, place, depth - 1),
               make_bool(g, place, depth - 1), make_int(g, place, depth - 1));
  case 8:
  case 9: made = place->in_fn ? NULL : make_read(g, place, NODE_INT, depth); break;
  case 10:
    return NEW(NODE_INT, "(hash($, $) % $)", make_int(g, place, depth - 1),
               make_int(g, place, depth - 1), word(g, "%u", 2 + pick(g, 9)));
  case 11:
    return NEW(NODE_INT, "shift_right($, $)", make_int(g, place, depth - 1),
               word(g, "%u", pick(g, 3)));
  case 12:
    if (!place->in_fn)
      return NEW(NODE_INT, chance(g, 50) ? "floor($ * 2.0)" : "floor(-$)",
                 make_plain_float(g, place));
    break;
  default: {
    const char *let = place->in_fn ? NULL : let_of(g, place, NODE_INT);
    if (let != NULL)
      return leaf(g, NODE_INT, "%s", let);
    const char *name;
    uint32_t extent = 1 + pick(g, 4);
    struct place inner = bound_place(g, place, &name, extent);
    return NEW(NODE_INT, "(sum($ < $) ($))", word(g, "%s", name), word(g, "%u", extent),
               make_int(g, &inner, depth - 1));
  }
  }
  return made != NULL ? made : int_leaf(g, place);
}

/* ---- conditions ---- */

static const char *const comparisons[] = {"<", "<=", ">", ">=", "==", "!="};

static struct node *compare_ints(struct generator *g, const struct place *place, int depth)
{
  struct node *a = make_int(g, place, depth - 1);
  struct node *b = make_int(g, place, depth - 1);
  struct node *first = word(g, "%s", comparisons[pick(g, COUNT_OF(comparisons))]);
  if (!chance(g, 30))
    return NEW(NODE_BOOL, "($ $ $)", a, first, b);
  return NEW(NODE_BOOL, "($ $ $ $ $)", a, first, b,
             word(g, "%s", comparisons[pick(g, COUNT_OF(comparisons))]),
             make_int(g, place, depth - 1));
}

struct node *make_known_mask(struct generator *g, const struct place *place)
{
  static const char *const masks[] = {
      "causal",
      "(j <= i)",
      "sliding(%u)",
      "window(%u, 3)",
      "(i - j < %u)",
      "(0 <= i - j < %u)",
      "(j < %u)",
      "prefix(%u)",
      "sinks(%u)",
      "dilated(%u, 2)",
      "strided(%u)",
      "fixed(%u, 1)",
      "block_local(%u)",
      "block_window(%u, 1)",
      "(abs(i - j) <= %u)",
      "(i // %u >= j // 4)",
  };
  if (!place->key || !place->row || place->one_token)
    return NULL;
  const char *format = masks[pick(g, COUNT_OF(masks))];
  const char *number = strstr(format, "%u");
  if (number == NULL)
    return leaf(g, NODE_BOOL, "%s", format);
  const char *param = chance(g, 30) ? param_of(g, NODE_INT) : NULL;
  const char *value = param != NULL ? param : arena_format(g->arena, "%u", 1 + pick(g, 12));
  return leaf(g, NODE_BOOL, "%.*s%s%s", (int)(number - format), format, value, number + 2);
}

struct node *make_bool(struct generator *g, const struct place *place, int depth)
{
  struct node *made = NULL;
  if (depth <= 0) {
    struct node *a = int_leaf(g, place);
    return NEW(NODE_BOOL, "($ $ $)", a, word(g, "%s", comparisons[pick(g, 6)]), int_leaf(g, place));
  }
  switch (pick(g, 16)) {
  case 0:
  case 1:
  case 2: made = place->in_fn ? NULL : make_known_mask(g, place); break;
  case 3:
    return NEW(NODE_BOOL, "($ and $)", make_bool(g, place, depth - 1),
               make_bool(g, place, depth - 1));
  case 4:
  case 5:
    return NEW(NODE_BOOL, "($ or $)", make_bool(g, place, depth - 1),
               make_bool(g, place, depth - 1));
  case 6: return NEW(NODE_BOOL, "(not $)", make_bool(g, place, depth - 1));
  case 7: {
    const char *name;
    uint32_t extent = 1 + pick(g, 4);
    struct place inner = bound_place(g, place, &name, extent);
    return NEW(NODE_BOOL, chance(g, 50) ? "(any($ < $) $)" : "(all($ < $) $)", word(g, "%s", name),
               word(g, "%u", extent), make_bool(g, &inner, depth - 1));
  }
  case 8:
  case 9: made = place->in_fn ? NULL : make_read(g, place, NODE_BOOL, depth); break;
  case 10: {
    const char *param = place->in_fn ? NULL : param_of(g, NODE_BOOL);
    made = param == NULL ? NULL : leaf(g, NODE_BOOL, "%s", param);
    break;
  }
  case 11:
    if (!place->in_fn)
      return NEW(NODE_BOOL, "($ $ $)", make_plain_float(g, place),
                 word(g, "%s", comparisons[pick(g, 4)]), make_plain_float(g, place));
    break;
  case 12:
    return NEW(NODE_BOOL, "($ if $ else $)", make_bool(g, place, depth - 1),
               make_bool(g, place, depth - 1), make_bool(g, place, depth - 1));
  case 13: made = place->in_fn ? NULL : fn_call(g, place, NODE_BOOL, depth); break;
  case 14: {
    const char *let = place->in_fn ? NULL : let_of(g, place, NODE_BOOL);
    made = let == NULL ? NULL : leaf(g, NODE_BOOL, "%s", let);
    break;
  }
  default: break;
  }
  return made != NULL ? made : compare_ints(g, place, depth);
}

/* ---- floats ---- */

struct node *make_plain_float(struct generator *g, const struct place *place)
{
  struct node *made = NULL;
  switch (pick(g, 8)) {
  case 0:
  case 1:
  case 2: made = make_read(g, place, NODE_FLOAT, 1); break;
  case 3: {
    const char *param = param_of(g, NODE_FLOAT);
    made = param == NULL ? NULL : leaf(g, NODE_FLOAT, "%s", param);
    break;
  }
  case 4: return NEW(NODE_FLOAT, "uniform($, $)", make_int(g, place, 1), make_int(g, place, 1));
  case 5: return NEW(NODE_FLOAT, "($ + $)", make_plain_float(g, place), make_plain_float(g, place));
  case 6: return NEW(NODE_FLOAT, "($ / $)", make_int(g, place, 1), word(g, "%u.5", pick(g, 9)));
  default: break;
  }
  return made != NULL ? made : leaf(g, NODE_FLOAT, "%u.%u", pick(g, 2), pick(g, 10));
}

static struct node *float_leaf(struct generator *g, const struct place *place, int depth)
{
  uint32_t kind = pick(g, 10);
  struct node *made = NULL;
  if (place->floats.count > 0 && kind < 4)
    return leaf(g, NODE_FLOAT, "%s", place->floats.text[pick(g, place->floats.count)]);
  if (kind < 6 && !place->in_fn)
    made = make_read(g, place, NODE_FLOAT, depth);
  else if (kind == 7 && !place->in_fn) {
    const char *param = param_of(g, NODE_FLOAT);
    made = param == NULL ? NULL : leaf(g, NODE_FLOAT, "%s", param);
  } else if (kind == 8) {
    made = NEW(NODE_FLOAT, "tanh(0.125 * $)", make_int(g, place, depth - 1));
  } else if (kind == 9) {
    made = NEW(NODE_FLOAT, "($ % 5 / 4)", make_int(g, place, depth - 1));
  }
  return made != NULL ? made : leaf(g, NODE_FLOAT, "%u.%u", pick(g, 2), pick(g, 10));
}

static const char *const float_unaries[] = {
    "sin($)",
    "cos($)",
    "tanh($)",
    "sigmoid($)",
    "erf($)",
    "(-$)",
    "abs($)",
    "exp(-abs($))",
    "exp2(min($, 1.0))",
    "log(1.0 + abs($))",
    "log2(1.0 + abs($))",
    "sqrt(abs($) + 0.25)",
    "rsqrt(abs($) + 0.5)",
    "relu($)",
    "silu($)",
    "softplus($)",
    "softcap($, 2.0)",
    "((abs($) + 0.5) ** 0.5)",
    "(0.25 * $ ** 2)",
    "clamp($, -1.0, 1.5)",
    "(0.5 + 0.5 * $)",
    "cos(pi * $)",
};
static const char *const wild_unaries[] = {
    "log($)",    "sqrt($)",    "(1.0 / ($ - 0.5))", "rsqrt($)", "exp(20.0 * tanh($))",
    "(inf * $)", "(-inf + $)",
};
static const char *const float_binaries[] = {
    "(0.5 * ($ + $))", "(0.5 * ($ - $))",      "min($, $)",
    "max($, $)",       "($ / (1.0 + abs($)))", "($ * tanh($))",
    "min($, $, 1.0)",  "($ * sigmoid($))",     "clamp($, -1.5, abs($))",
};

struct node *make_float(struct generator *g, const struct place *place, int depth)
{
  struct node *made = NULL;
  if (depth <= 0 || chance(g, 20))
    return float_leaf(g, place, depth);
  switch (pick(g, 12)) {
  case 0:
  case 1:
  case 2:
  case 3: {
    const char *format = g->wild && chance(g, 40) ? wild_unaries[pick(g, COUNT_OF(wild_unaries))]
                                                  : float_unaries[pick(g, COUNT_OF(float_unaries))];
    return NEW(NODE_FLOAT, format, make_float(g, place, depth - 1));
  }
  case 4:
  case 5:
  case 6: {
    const char *format = float_binaries[pick(g, COUNT_OF(float_binaries))];
    return NEW(NODE_FLOAT, format, make_float(g, place, depth - 1),
               make_float(g, place, depth - 1));
  }
  case 7:
    return NEW(NODE_FLOAT, "($ if $ else $)", make_float(g, place, depth - 1),
               make_bool(g, place, depth - 1), make_float(g, place, depth - 1));
  case 8: {
    const char *name;
    uint32_t extent = 1 + pick(g, 5);
    struct place inner = bound_place(g, place, &name, extent);
    return NEW(NODE_FLOAT, "((sum($ < $) $) / $)", word(g, "%s", name), word(g, "%u", extent),
               make_float(g, &inner, depth - 1), word(g, "%u", extent));
  }
  case 9: made = place->in_fn ? NULL : fn_call(g, place, NODE_FLOAT, depth); break;
  case 10: {
    const char *let = place->in_fn ? NULL : let_of(g, place, NODE_FLOAT);
    made = let == NULL ? NULL : leaf(g, NODE_FLOAT, "%s", let);
    break;
  }
  default: break;
  }
  return made != NULL ? made : float_leaf(g, place, depth);
}
