/* What a unit says about itself, and the launch tables that its spec asks for. */
#include "runtime/unit.h"

#include <math.h>

static const char *dim_text(struct unit *unit, const struct spec_dim *dim,
                            const struct expr_names *names)
{
  switch (dim->kind) {
  case DIM_B: return "B";
  case DIM_H: return "H";
  case DIM_G: return "G";
  case DIM_NQ: return "NQ";
  case DIM_NK: return "NK";
  case DIM_D: return "D";
  case DIM_DV: return "DV";
  case DIM_EXPR: break;
  }
  return expr_print(&unit->arena, dim->size, names);
}

static attn_tensor_info describe_fixed(const char *name, attn_type type, const char *const *dims,
                                       uint32_t rank)
{
  return (attn_tensor_info){.name = name, .type = type, .rank = rank, .dims = dims};
}

static struct expr_names names_of(struct unit *unit)
{
  const struct spec *spec = unit->spec;
  const char **params = ARENA_ARRAY(&unit->arena, const char *, spec->param_count);
  for (uint32_t n = 0; n < spec->param_count; n++)
    params[n] = spec->params[n].name;
  const char **inputs = ARENA_ARRAY(&unit->arena, const char *, spec->input_count);
  for (uint32_t n = 0; n < spec->input_count; n++)
    inputs[n] = spec->inputs[n].name;
  return (struct expr_names){params, inputs};
}

static void describe_inputs(struct unit *unit, const struct expr_names *names)
{
  const struct spec *spec = unit->spec;
  attn_tensor_info *infos = ARENA_ARRAY(&unit->arena, attn_tensor_info, spec->input_count);
  for (uint32_t n = 0; n < spec->input_count; n++) {
    const struct spec_input *input = &spec->inputs[n];
    const char **dims = ARENA_ARRAY(&unit->arena, const char *, input->rank);
    for (uint32_t d = 0; d < input->rank; d++)
      dims[d] = dim_text(unit, &input->dims[d], names);
    infos[n] = describe_fixed(input->name, attn_of_dtype(input->type), dims, input->rank);
  }
  unit->info.inputs = infos;
  unit->info.input_count = spec->input_count;
}

static void describe_outputs(struct unit *unit)
{
  static const char *const rows[] = {"B", "H", "NQ"}, *const keys[] = {"B", "H", "NK"};
  static const char *const pairs[] = {"B", "H", "NQ", "NK"};
  const struct spec *spec = unit->spec;
  attn_tensor_info *infos = ARENA_ARRAY(&unit->arena, attn_tensor_info, spec->output_count);
  for (uint32_t n = 0; n < spec->output_count; n++) {
    const struct spec_output *output = &spec->outputs[n];
    const char *name = output_name(output->kind);
    switch (output->kind) {
    case OUTPUT_LSE:
    case OUTPUT_MAX:
    case OUTPUT_ENTROPY: {
      const char *map = spec->maps[output->map].name;
      if (map != NULL)
        name = arena_format(&unit->arena, "%s(%s)", name, map);
      infos[n] = describe_fixed(name, ATTN_TYPE_F32, rows, 3);
      break;
    }
    case OUTPUT_MASS: infos[n] = describe_fixed(name, ATTN_TYPE_F32, keys, 3); break;
    case OUTPUT_WEIGHTS: infos[n] = describe_fixed(name, ATTN_TYPE_F32, pairs, 4); break;
    }
  }
  unit->info.outputs = infos;
  unit->info.output_count = spec->output_count;
}

/* The last dimension of types below a byte counts bytes. */
static const char *cache_dim_text(struct unit *unit, const struct cache_tensor *tensor, uint32_t d,
                                  const struct expr_names *names)
{
  const struct cache_dimension *dim = &tensor->dims[d];
  const uint32_t codes = d + 1 == tensor->rank ? tile_elements_per_byte(tensor->type) : 1;
  switch (dim->kind) {
  case CACHE_DIM_B: return "B";
  case CACHE_DIM_TABLE: return "table";
  case CACHE_DIM_PAGES: return "pages";
  case CACHE_DIM_SLOTS:
    return dim->quotient == 1 ? "slots" : arena_format(&unit->arena, "slots / %u", dim->quotient);
  case CACHE_DIM_CONSTANT: return arena_format(&unit->arena, "%u", (dim->size + codes - 1) / codes);
  case CACHE_DIM_INPUT: break;
  }
  return expr_print(&unit->arena, dim->input, names);
}

static void describe_cache(struct unit *unit, const struct expr_names *names)
{
  const struct cache_plan *plan = cache_plan_new(&unit->arena, unit->spec);
  attn_tensor_info *infos = ARENA_ARRAY(&unit->arena, attn_tensor_info, plan->count);
  for (uint32_t n = 0; n < plan->count; n++) {
    const struct cache_tensor *tensor = &plan->tensors[n];
    const char **dims = ARENA_ARRAY(&unit->arena, const char *, tensor->rank);
    for (uint32_t d = 0; d < tensor->rank; d++)
      dims[d] = cache_dim_text(unit, tensor, d, names);
    const enum dtype type = unit_memory_type(tensor->type);
    infos[n] =
        describe_fixed(tensor->name, type == DTYPE_SPEC ? unit->info.type : attn_of_dtype(type),
                       dims, tensor->rank);
  }
  unit->cache = plan;
  unit->info.cache = infos;
  unit->info.cache_count = plan->count;
}

enum dtype unit_memory_type(enum dtype type)
{
  return type == DTYPE_E4M3 || type == DTYPE_E5M2 || type == DTYPE_I4 || type == DTYPE_I2 ? DTYPE_U8
                                                                                          : type;
}

static void describe_params(struct unit *unit)
{
  const struct spec *spec = unit->spec;
  attn_param_info *infos = ARENA_ARRAY(&unit->arena, attn_param_info, spec->param_count);
  size_t count = 0;
  for (uint32_t n = 0; n < spec->param_count; n++) {
    const struct spec_param *param = &spec->params[n];
    if (param->is_const)
      continue;
    attn_param_info *info = &infos[count++];
    info->name = param->name;
    info->kind = param->type == EXPR_BOOL  ? ATTN_KIND_BOOL
                 : param->type == EXPR_INT ? ATTN_KIND_INT
                                           : ATTN_KIND_FLOAT;
    info->has_default = param->has_default;
    if (param->has_default && info->kind == ATTN_KIND_FLOAT)
      info->default_float = param->value.f;
    else if (param->has_default)
      info->default_int = param->value.i;
  }
  unit->info.params = infos;
  unit->info.param_count = count;
}

/* "input 'doc'": what a launch calls them in errors. */
static const char *const *name_texts(struct unit *unit, const char *kind,
                                     const attn_tensor_info *infos, size_t count)
{
  const char **texts = ARENA_ARRAY(&unit->arena, const char *, count);
  for (size_t n = 0; n < count; n++)
    texts[n] = arena_format(&unit->arena, "%s '%.100s'", kind, infos[n].name);
  return texts;
}

void unit_describe(struct unit *unit)
{
  static const char *const q[] = {"B", "H", "NQ", "D"}, *const k[] = {"B", "G", "NK", "D"};
  static const char *const v[] = {"B", "G", "NK", "DV"}, *const o[] = {"B", "H", "NQ", "DV"};
  const struct spec *spec = unit->spec;
  attn_type type = attn_of_dtype(spec->type);
  unit->info = (attn_program_info){
      .name = spec->name,
      .type = type,
      .query_heads = spec->query_heads,
      .kv_heads = spec->kv_heads,
      .dim_qk = spec->dim_qk,
      .dim_v = spec->dim_v,
      .ragged = spec->cache.layout == CACHE_RAGGED,
      .value_is_key = spec->value_is_key,
      .q = describe_fixed("q", type, q, 4),
      .k = describe_fixed("k", type, k, 4),
      .o = describe_fixed("o", type, o, 4),
  };
  if (!spec->value_is_key)
    unit->info.v = describe_fixed("v", type, v, 4);
  const struct expr_names names = names_of(unit);
  describe_inputs(unit, &names);
  describe_cache(unit, &names);
  describe_outputs(unit);
  unit->input_texts = name_texts(unit, "input", unit->info.inputs, unit->info.input_count);
  unit->output_texts = name_texts(unit, "output", unit->info.outputs, unit->info.output_count);
  unit->cache_texts = name_texts(unit, "cache tensor", unit->info.cache, unit->info.cache_count);
  describe_params(unit);
}

static double evaluate_angle(struct expr_evaluator *evaluator, const struct expr *angle,
                             uint32_t pair, int64_t position)
{
  expr_set_int(evaluator, EXPR_VAR_C, pair);
  expr_set_int(evaluator, EXPR_VAR_T, position);
  return expr_evaluate(evaluator, angle).f;
}

bool unit_rotary_tables(const struct spec *spec, struct expr_evaluator *evaluator,
                        const struct rotary_tables *tables)
{
  const struct spec_rotary *rotary = &spec->rotary;
  for (uint32_t c = 0; c < spec->dim_qk; c++) {
    tables->turns[c] = 0;
    tables->rest[c] = 0.0f;
    tables->cosine[c] = 1.0f;
    tables->sine[c] = 0.0f;
  }
  const double gain = expr_evaluate(evaluator, rotary->gain).f;
  const uint32_t half = rotary->dim / 2;
  for (uint32_t pair = 0; pair < half; pair++) {
    /* The angle is linear in the position, so that its slope in turns, taken modulo one turn, says
     * everything. */
    double slope = evaluate_angle(evaluator, rotary->angle, pair, 1) -
                   evaluate_angle(evaluator, rotary->angle, pair, 0);
    if (!isfinite(slope))
      return false;
    double turns = slope / 6.28318530717958647692;
    turns -= floor(turns);
    double whole = floor(turns * 0x1p32);
    if (whole >= 0x1p32) { /* a tiny negative slope rounds up to a whole turn */
      turns = 0.0;
      whole = 0.0;
    }
    uint32_t bits = (uint32_t)whole;
    for (uint32_t p = 0; p < rotary->repeat; p++) {
      uint32_t base = rotary->from + p * rotary->dim;
      uint32_t first = base + (rotary->pairing == PAIRING_HALF ? pair : 2 * pair);
      uint32_t channels[2] = {first, first + (rotary->pairing == PAIRING_HALF ? half : 1)};
      for (int side = 0; side < 2; side++) {
        uint32_t c = channels[side];
        tables->turns[c] = (int32_t)bits;
        tables->rest[c] = (float)(turns - whole * 0x1p-32);
        tables->cosine[c] = (float)gain;
        tables->sine[c] = (float)(side == 0 ? -gain : gain);
      }
    }
  }
  return true;
}
