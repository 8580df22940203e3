/* position: rotations of q and k, and terms that depend on where the query and the key stand. The
 * formulas themselves are in prelude/positions.attn. */
#include "dsl/check.h"

/* The query's and the key's position: i and j, or `at` with t replaced. */
struct places {
  const struct expr *query;
  const struct expr *key;
};

static bool find_places(struct check *check, const struct ast_expr *at, struct places *places)
{
  const struct expr *i = expr_variable(check->pool, EXPR_VAR_I);
  const struct expr *j = expr_variable(check->pool, EXPR_VAR_J);
  *places = (struct places){i, j};
  if (at == NULL)
    return true;
  struct scope scope = check_scope(check, CONTEXT_AT);
  const struct expr *e = check_int(check, &scope, at, "a position");
  if (e == NULL)
    return false;
  *places = (struct places){expr_substitute(check->pool, e, EXPR_VAR_T, i),
                            expr_substitute(check->pool, e, EXPR_VAR_T, j)};
  return true;
}

static const struct expr *uniform_or(struct check *check, const struct ast_expr *ast,
                                     double fallback)
{
  return ast == NULL ? expr_float(check->pool, fallback) : check_float(check, CONTEXT_UNIFORM, ast);
}

static bool constant_or(struct check *check, const struct ast_expr *ast, const char *what,
                        int64_t least, int64_t most, int64_t *value)
{
  return ast == NULL || check_constant(check, ast, what, least, most, value);
}

/* ---- rotations ---- */

/* The options that rope and rotary share. */
static bool rotation(struct check *check, const struct ast_expr *dim, const struct ast_expr *from,
                     const struct ast_expr *repeat, const struct ast_expr *pairing,
                     const struct ast_expr *at, struct span span)
{
  static const char *const pairings[] = {"half", "interleaved"};
  struct spec *spec = check->spec;
  struct spec_rotary *rotary = &spec->rotary;
  int64_t first = 0, times = 1, channels = spec->dim_qk;
  struct places places;
  if (!constant_or(check, from, "the first channel", 0, spec->dim_qk, &first) ||
      !constant_or(check, repeat, "the number of repetitions", 1, spec->dim_qk, &times))
    return false;
  if (dim == NULL)
    channels = (spec->dim_qk - first) / times;
  if (!constant_or(check, dim, "the number of rotated channels", 2, spec->dim_qk, &channels))
    return false;
  struct span where = dim == NULL ? span : dim->span;
  if (channels < 2 || channels % 2 != 0) {
    check_error(check, DIAG_BAD_VALUE, where, "rotated channels come in pairs, here are %lld",
                (long long)channels);
    return false;
  }
  if (first + channels * times > spec->dim_qk) {
    check_error(check, DIAG_BAD_VALUE, where, "the rotation ends at channel %lld, q and k have %u",
                (long long)(first + channels * times), spec->dim_qk);
    return false;
  }
  size_t kind = pairing == NULL ? 0 : check_word(check, pairing, "pairing", pairings, 2);
  if (kind == 2 || !find_places(check, at, &places))
    return false;
  *rotary = (struct spec_rotary){
      .from = (uint32_t)first,
      .dim = (uint32_t)channels,
      .repeat = (uint32_t)times,
      .pairing = (enum pairing)kind,
      .query_position = places.query,
      .key_position = places.key,
      .span = span,
  };
  return true;
}

/* A table of one factor for each pair. */
static const struct expr *pair_factor(struct check *check, const struct ast_expr *ast)
{
  struct scope scope = check_scope(check, CONTEXT_ANGLE);
  struct value table = check_as_vector(check, check_value(check, &scope, ast), ast->span);
  if (table.kind == VALUE_ERROR)
    return NULL;
  if (expr_is_const(table.length) && table.length->value.i != check->spec->rotary.dim / 2) {
    check_error(check, DIAG_LENGTH_MISMATCH, ast->span, "%lld factors for %u channel pairs",
                (long long)table.length->value.i, check->spec->rotary.dim / 2);
    return NULL;
  }
  return check_at_channel(check, table.expr, expr_variable(check->pool, EXPR_VAR_C));
}

/* Arguments of a scaling: numbers, conditions, and tables of one factor for each pair. */
enum { SCALING_ARGUMENTS = 7 };
struct scaling {
  const char *fn;   /* of the prelude: the frequency of a pair */
  const char *gain; /* of the prelude; NULL: 1 */
  const char *names[SCALING_ARGUMENTS];
  double defaults[SCALING_ARGUMENTS];
  size_t count;
  size_t for_fn;     /* so many leading arguments are the frequency's */
  uint32_t for_gain; /* a bit for each argument of the gain; so too below */
  uint32_t required, conditions, tables;
};
static const struct scaling scalings[] = {
    {.fn = "rope_plain"},
    {.fn = "rope_linear", .names = {"factor"}, .count = 1, .for_fn = 1, .required = 1},
    {.fn = "rope_ntk", .names = {"factor"}, .count = 1, .for_fn = 1, .required = 1},
    {.fn = "rope_dynamic", .names = {"factor", "original"}, .count = 2, .for_fn = 2, .required = 3},
    {.fn = "rope_yarn",
     .gain = "rope_yarn_gain",
     .names = {"factor", "original", "beta_fast", "beta_slow", "truncate", "mscale",
               "mscale_all_dim"},
     .defaults = {0, 0, 32, 1, 1, 1, 0},
     .count = 7,
     .for_fn = 5,
     .for_gain = 1 | 1 << 5 | 1 << 6,
     .required = 3,
     .conditions = 1 << 4},
    {.fn = "rope_longrope",
     .gain = "rope_longrope_gain",
     .names = {"factor", "original", "long", "short"},
     .count = 4,
     .for_fn = 4,
     .for_gain = 3,
     .required = 15,
     .tables = 12},
    {.fn = "rope_llama3",
     .names = {"factor", "original", "low", "high"},
     .defaults = {8, 8192, 1, 4},
     .count = 4,
     .for_fn = 4},
};
static const char *const scaling_words[] = {"none", "linear",   "ntk",   "dynamic",
                                            "yarn", "longrope", "llama3"};
enum { SCALING_COUNT = 7 };

static const struct expr *scaling_argument(struct check *check, const struct scaling *row, size_t k,
                                           const struct ast_expr *ast)
{
  if ((row->tables >> k & 1) != 0)
    return pair_factor(check, ast);
  if ((row->conditions >> k & 1) == 0)
    return uniform_or(check, ast, row->defaults[k]);
  struct scope scope = check_scope(check, CONTEXT_UNIFORM);
  return ast == NULL ? expr_bool(check->pool, row->defaults[k] != 0)
                     : check_bool(check, &scope, ast);
}

static void rope_frequency(struct check *check, const struct ast_expr *scaling,
                           const struct expr *base, struct span span)
{
  struct spec_rotary *rotary = &check->spec->rotary;
  struct ast_name name;
  const struct ast_arguments *written;
  size_t kind =
      scaling == NULL ? 0 : check_word(check, scaling, "scaling", scaling_words, SCALING_COUNT);
  if (kind == SCALING_COUNT)
    return;
  const struct scaling *row = &scalings[kind];
  const struct ast_expr *slots[SCALING_ARGUMENTS];
  const struct expr *arguments[3 + SCALING_ARGUMENTS] = {expr_variable(check->pool, EXPR_VAR_C),
                                                         base, expr_int(check->pool, rotary->dim)};
  if (scaling != NULL && (!check_form(check, scaling, &name, &written) ||
                          !check_bind(check, name.text, scaling->span, written, row->names,
                                      row->count, row->required, slots)))
    return;
  for (size_t k = 0; k < row->count; k++) {
    arguments[3 + k] = scaling_argument(check, row, k, slots[k]);
    if (arguments[3 + k] == NULL)
      return;
  }
  const struct expr *frequency =
      check_prelude(check, CONTEXT_ANGLE, span, row->fn, arguments, 3 + row->for_fn);
  if (frequency == NULL)
    return;
  check->pool->span = span;
  rotary->angle =
      check_arithmetic(check, AST_MUL, span, expr_variable(check->pool, EXPR_VAR_T), frequency);
  rotary->gain = expr_float(check->pool, 1.0);
  if (row->gain != NULL) {
    const struct expr *values[SCALING_ARGUMENTS];
    size_t count = 0;
    for (size_t k = 0; k < row->count; k++)
      if ((row->for_gain >> k & 1) != 0)
        values[count++] = arguments[3 + k];
    const struct expr *gain = check_prelude(check, CONTEXT_UNIFORM, span, row->gain, values, count);
    if (gain != NULL)
      rotary->gain = check_to_type(check, gain, EXPR_FLOAT);
  }
  check->spec->has_rotary = true;
}

static void rope(struct check *check, const struct ast_arguments *arguments, struct span span)
{
  enum { BASE, DIM, FROM, REPEAT, PAIRING, SCALING, AT, COUNT };
  static const char *const names[] = {"base", "dim", "from", "repeat", "pairing", "scaling", "at"};
  const struct ast_expr *slots[COUNT];
  if (!check_bind(check, "rope", span, arguments, names, COUNT, 0, slots) ||
      !rotation(check, slots[DIM], slots[FROM], slots[REPEAT], slots[PAIRING], slots[AT], span))
    return;
  const struct expr *base = uniform_or(check, slots[BASE], 10000.0);
  if (base != NULL)
    rope_frequency(check, slots[SCALING], base, span);
}

static void rotary(struct check *check, const struct ast_arguments *arguments, struct span span)
{
  enum { THETA, DIM, PAIRING, GAIN, FROM, REPEAT, AT, COUNT };
  static const char *const names[] = {"theta", "dim", "pairing", "gain", "from", "repeat", "at"};
  const struct ast_expr *slots[COUNT];
  if (!check_bind(check, "rotary", span, arguments, names, COUNT, 1, slots) ||
      !rotation(check, slots[DIM], slots[FROM], slots[REPEAT], slots[PAIRING], slots[AT], span))
    return;
  const struct expr *angle = check_float(check, CONTEXT_ANGLE, slots[THETA]);
  const struct expr *gain = uniform_or(check, slots[GAIN], 1.0);
  if (angle == NULL || gain == NULL)
    return;
  check->spec->rotary.angle = angle;
  check->spec->rotary.gain = gain;
  check->spec->has_rotary = true;
}

/* ---- terms of the score ---- */

static void alibi(struct check *check, const struct ast_arguments *arguments, struct span span,
                  struct position_terms *terms)
{
  enum { SLOPE, AT, COUNT };
  static const char *const names[] = {"slope", "at"};
  const struct ast_expr *slots[COUNT];
  struct places places;
  if (!check_bind(check, "alibi", span, arguments, names, COUNT, 0, slots) ||
      !find_places(check, slots[AT], &places))
    return;
  const struct expr *slope =
      slots[SLOPE] != NULL ? check_float(check, CONTEXT_SLOPE, slots[SLOPE])
                           : check_prelude(check, CONTEXT_SLOPE, span, "alibi_slope", NULL, 0);
  if (slope == NULL)
    return;
  const struct expr *bias_arguments[] = {slope, places.query, places.key};
  terms->score = check_prelude(check, CONTEXT_SCORE, span, "alibi_bias", bias_arguments, 3);
}

/* A tensor argument with so many dimensions; its number, or UINT32_MAX after an error. */
static uint32_t table_argument(struct check *check, const struct ast_expr *ast, const char *what,
                               uint32_t rank)
{
  struct scope scope = check_scope(check, CONTEXT_SCORE);
  struct value value = check_value(check, &scope, ast);
  if (value.kind == VALUE_ERROR)
    return UINT32_MAX;
  if (value.kind == VALUE_INPUT && check->spec->inputs[value.input].rank == rank) {
    enum dtype type = check->spec->inputs[value.input].type;
    if (type != DTYPE_BOOL && type != DTYPE_I32 && type != DTYPE_I64 && type != DTYPE_U8)
      return value.input;
    check_error(check, DIAG_TYPE_MISMATCH, ast->span, "%s holds floats", what);
    return UINT32_MAX;
  }
  check_error(check, DIAG_TYPE_MISMATCH, ast->span, "%s must be an input of %u dimensions", what,
              rank);
  return UINT32_MAX;
}

static bool dim_is(struct check *check, uint32_t input, uint32_t dim, int64_t size,
                   struct span span)
{
  const struct expr *declared = check->spec->inputs[input].dims[dim].size;
  if (!expr_is_const(declared) || declared->value.i == size)
    return true;
  struct diagnostic *error = check_error(
      check, DIAG_LENGTH_MISMATCH, span, "dimension %u of '%s' has %lld elements, not %lld", dim,
      check->spec->inputs[input].name, (long long)declared->value.i, (long long)size);
  diag_related(check->diagnostics, error, check->spec->inputs[input].span, "declared here");
  return false;
}

static void t5(struct check *check, const struct ast_arguments *arguments, struct span span,
               struct position_terms *terms)
{
  enum { TABLE, BUCKETS, DISTANCE, BIDIRECTIONAL, AT, COUNT };
  static const char *const names[] = {"table", "buckets", "max_distance", "bidirectional", "at"};
  const struct ast_expr *slots[COUNT];
  struct places places;
  int64_t buckets = 32, distance = 128;
  if (!check_bind(check, "t5", span, arguments, names, COUNT, 1, slots) ||
      !find_places(check, slots[AT], &places))
    return;
  uint32_t table = table_argument(check, slots[TABLE], "the table of t5", 2);
  if (table == UINT32_MAX ||
      !constant_or(check, slots[BUCKETS], "the number of buckets", 4, 65536, &buckets) ||
      !constant_or(check, slots[DISTANCE], "the largest distance", buckets / 2 + 1, INT32_MAX,
                   &distance) ||
      !dim_is(check, table, 0, buckets, slots[TABLE]->span) ||
      !dim_is(check, table, 1, check->spec->query_heads, slots[TABLE]->span))
    return;
  struct scope constants = check_scope(check, CONTEXT_CONSTANT);
  const struct expr *both = slots[BIDIRECTIONAL] == NULL
                                ? expr_bool(check->pool, true)
                                : check_bool(check, &constants, slots[BIDIRECTIONAL]);
  if (both == NULL)
    return;
  const struct expr *values[] = {expr_sub(check->pool, places.key, places.query),
                                 expr_int(check->pool, buckets), expr_int(check->pool, distance),
                                 both};
  const struct expr *bucket = check_prelude(check, CONTEXT_SCORE, span, "t5_bucket", values, 4);
  if (bucket == NULL)
    return;
  const struct expr *indices[] = {bucket, expr_variable(check->pool, EXPR_VAR_H)};
  terms->score = expr_read(check->pool, EXPR_TENSOR_INPUT + table, EXPR_FLOAT, indices, 2);
}

/* A row of one of Shaw's tables, as a vector. */
static struct value table_row(struct check *check, uint32_t table, const struct expr *row)
{
  const struct expr *indices[] = {row, expr_arg(check->pool, 0, EXPR_INT)};
  return (struct value){
      .kind = VALUE_VECTOR,
      .expr = expr_read(check->pool, EXPR_TENSOR_INPUT + table, EXPR_FLOAT, indices, 2),
      .length = check->spec->inputs[table].dims[1].size,
  };
}

static void shaw(struct check *check, const struct ast_arguments *arguments, struct span span,
                 struct position_terms *terms)
{
  enum { REL_K, REL_V, CLIP, AT, COUNT };
  static const char *const names[] = {"rel_k", "rel_v", "clip", "at"};
  const struct ast_expr *slots[COUNT];
  struct places places;
  if (!check_bind(check, "shaw", span, arguments, names, COUNT, 1u << REL_K | 1u << CLIP, slots) ||
      !find_places(check, slots[AT], &places))
    return;
  struct scope scope = check_scope(check, CONTEXT_UNIFORM);
  const struct expr *clip = check_int(check, &scope, slots[CLIP], "clip");
  uint32_t keys = table_argument(check, slots[REL_K], "rel_k", 2);
  if (clip == NULL || keys == UINT32_MAX ||
      !dim_is(check, keys, 1, check->spec->dim_qk, slots[REL_K]->span) ||
      (expr_is_const(clip) && !dim_is(check, keys, 0, 2 * clip->value.i + 1, slots[REL_K]->span)))
    return;
  const struct expr *values[] = {places.query, places.key, clip};
  const struct expr *row = check_prelude(check, CONTEXT_SCORE, span, "shaw_row", values, 3);
  if (row == NULL)
    return;
  struct scope similarity = check_scope(check, CONTEXT_SIMILARITY);
  struct value q =
      check_name(check, &similarity, &(struct ast_name){intern(check->names, "q", 1), span});
  terms->similarity = check_dot(check, &similarity, span, q, table_row(check, keys, row)).expr;
  if (slots[REL_V] == NULL)
    return;
  uint32_t table = table_argument(check, slots[REL_V], "rel_v", 2);
  if (table != UINT32_MAX && dim_is(check, table, 1, check->spec->dim_v, slots[REL_V]->span) &&
      (!expr_is_const(clip) || dim_is(check, table, 0, 2 * clip->value.i + 1, slots[REL_V]->span)))
    terms->value = table_row(check, table, row);
}

void check_position(struct check *check, const struct ast_statement *statement,
                    struct position_terms *terms)
{
  enum { NONE, ROPE, ROTARY, ALIBI, T5, SHAW, COUNT };
  static const char *const words[] = {"none", "rope", "rotary", "alibi", "t5", "shaw"};
  struct ast_name name;
  const struct ast_arguments *arguments;
  *terms = (struct position_terms){0};
  const struct ast_expr *ast = statement == NULL ? NULL : check_single(check, statement);
  if (ast == NULL)
    return;
  size_t kind = check_word(check, ast, "position", words, COUNT);
  if (kind == COUNT || !check_form(check, ast, &name, &arguments))
    return;
  if (kind == NONE)
    check_bind(check, "none", ast->span, arguments, NULL, 0, 0, NULL);
  else if (kind == ROPE)
    rope(check, arguments, ast->span);
  else if (kind == ROTARY)
    rotary(check, arguments, ast->span);
  else if (kind == ALIBI)
    alibi(check, arguments, ast->span, terms);
  else if (kind == T5)
    t5(check, arguments, ast->span, terms);
  else
    shaw(check, arguments, ast->span, terms);
}
