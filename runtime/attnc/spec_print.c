#include "runtime/attnc/spec_print.h"

#include <inttypes.h>
#include <string.h>

struct printer {
  struct arena *arena;
  const struct spec *spec;
  struct expr_names names;
  VECTOR(char) text;
};

static void put(struct printer *printer, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static void put(struct printer *printer, const char *format, ...)
{
  va_list arguments;
  va_start(arguments, format);
  const char *piece = arena_vformat(printer->arena, format, arguments);
  va_end(arguments);
  for (; *piece != '\0'; piece++)
    vector_push(printer->arena, &printer->text, *piece);
}

static const char *formula(struct printer *printer, const struct expr *e)
{
  return expr_print(printer->arena, e, &printer->names);
}

static void put_formula(struct printer *printer, const char *label, const struct expr *e)
{
  if (e != NULL)
    put(printer, "  %-13s%s\n", label, formula(printer, e));
}

static void put_params(struct printer *printer)
{
  for (uint32_t k = 0; k < printer->spec->param_count; k++) {
    const struct spec_param *param = &printer->spec->params[k];
    put(printer, "  %-13s%s : %s", param->is_const ? "const" : "parameter", param->name,
        expr_type_name(param->type));
    if (!param->has_default && !param->is_const)
      put(printer, "\n");
    else if (param->type == EXPR_FLOAT)
      put(printer, " = %.9g\n", param->value.f);
    else if (param->type == EXPR_BOOL)
      put(printer, " = %s\n", param->value.i != 0 ? "true" : "false");
    else
      put(printer, " = %" PRId64 "\n", param->value.i);
  }
}

static void put_inputs(struct printer *printer)
{
  for (uint32_t k = 0; k < printer->spec->input_count; k++) {
    const struct spec_input *input = &printer->spec->inputs[k];
    put(printer, "  %-13s%s : %s[", "input", input->name, dtype_name(input->type));
    for (uint32_t d = 0; d < input->rank; d++)
      put(printer, "%s%s", d > 0 ? ", " : "", formula(printer, input->dims[d].size));
    put(printer, "]%s%s\n", input->grad ? " grad" : "", input->cached ? " cached" : "");
  }
}

static void put_rotary(struct printer *printer)
{
  const struct spec_rotary *rotary = &printer->spec->rotary;
  if (!printer->spec->has_rotary)
    return;
  put(printer, "  %-13schannels %u to %u, %s pairs%s", "rotary", rotary->from,
      rotary->from + rotary->dim * rotary->repeat,
      rotary->pairing == PAIRING_HALF ? "half" : "interleaved", rotary->repeat > 1 ? "" : "\n");
  if (rotary->repeat > 1)
    put(printer, ", %u times %u\n", rotary->repeat, rotary->dim);
  put_formula(printer, "  angle", rotary->angle);
  put_formula(printer, "  gain", rotary->gain);
  put_formula(printer, "  of queries", rotary->query_position);
  put_formula(printer, "  of keys", rotary->key_position);
}

static void put_maps(struct printer *printer)
{
  for (uint32_t k = 0; k < printer->spec->map_count; k++) {
    const struct spec_map *map = &printer->spec->maps[k];
    if (map->name != NULL)
      put(printer, "  %-13s%s\n", "map", map->name);
    put_formula(printer, "score", map->score);
    put(printer, "  %-13s%s", "normalize", normalizer_name(map->normalizer));
    if (map->sink != NULL)
      put(printer, ", sink = %s", formula(printer, map->sink));
    if (map->at_least != NULL)
      put(printer, ", at_least = %s", formula(printer, map->at_least));
    put(printer, "\n");
  }
}

static void put_select(struct printer *printer)
{
  const struct spec_select *select = &printer->spec->select;
  if (!select->present)
    return;
  put(printer, "  %-13sthe best blocks of %u keys, for each %s\n", "select", select->block,
      select->per_group ? "K/V head" : "head");
  put_formula(printer, "  top", select->top);
  put_formula(printer, "  by", select->by);
  put_formula(printer, "  always", select->always);
}

static void put_storage(struct printer *printer, const char *name,
                        const struct spec_storage *storage)
{
  if (storage->type == DTYPE_SPEC)
    return;
  put(printer, ", %s %s", name, dtype_name(storage->type));
  if (storage->group != 0)
    put(printer, " in groups of %u", storage->group);
  if (storage->residual != 0)
    put(printer, ", the newest %u as they are", storage->residual);
}

static void put_cache(struct printer *printer)
{
  static const char *const layouts[] = {"none", "dense", "ragged", "paged", "ring"};
  const struct spec_cache *cache = &printer->spec->cache;
  if (cache->layout == CACHE_NONE)
    return;
  put(printer, "  %-13s%s", "cache", layouts[cache->layout]);
  if (cache->layout == CACHE_PAGED)
    put(printer, ", %u tokens a page", cache->page);
  if (cache->layout == CACHE_RING)
    put(printer, ", the newest %u and the first %u", cache->capacity, cache->sinks);
  put_storage(printer, "keys", &cache->k);
  put_storage(printer, "values", &cache->v);
  put(printer, "%s\n", cache->rope_on_read ? ", rotated when read" : "");
}

static void put_outputs(struct printer *printer)
{
  for (uint32_t k = 0; k < printer->spec->output_count; k++) {
    const struct spec_output *output = &printer->spec->outputs[k];
    const char *map = printer->spec->maps[output->map].name;
    put(printer, "  %-13s%s%s%s\n", "output", output_name(output->kind), map != NULL ? " of " : "",
        map != NULL ? map : "");
  }
}

struct expr_names spec_names(struct arena *arena, const struct spec *spec)
{
  const char **params = ARENA_ARRAY(arena, const char *, SPEC_MAX_PARAMS);
  const char **inputs = ARENA_ARRAY(arena, const char *, SPEC_MAX_INPUTS);
  for (uint32_t k = 0; k < spec->param_count; k++)
    params[k] = spec->params[k].name;
  for (uint32_t k = 0; k < spec->input_count; k++)
    inputs[k] = spec->inputs[k].name;
  return (struct expr_names){.params = params, .inputs = inputs};
}

char *spec_print(struct arena *arena, const struct spec *spec)
{
  struct printer printer = {.arena = arena, .spec = spec, .names = spec_names(arena, spec)};
  put(&printer, "attention %s\n", spec->name);
  put(&printer, "  %-13sq = %u, kv = %u\n", "heads", spec->query_heads, spec->kv_heads);
  put(&printer, "  %-13sqk = %u, v = %u\n", "dim", spec->dim_qk, spec->dim_v);
  put(&printer, "  %-13s%s\n", "type",
      spec->type == DTYPE_ANY ? "f32, f16 or bf16" : dtype_name(spec->type));
  put_params(&printer);
  put_inputs(&printer);
  put_formula(&printer, "offset", spec->offset);
  put_rotary(&printer);
  put_formula(&printer, "mask", spec->mask);
  put_maps(&printer);
  put_formula(&printer, spec->weight_kind == WEIGHT_RENORMALIZE ? "renormalize" : "weight",
              spec->weight);
  put_formula(&printer, "value", spec->value);
  put_formula(&printer, "post", spec->post);
  put_select(&printer);
  put_cache(&printer);
  put_outputs(&printer);
  vector_push(arena, &printer.text, '\0');
  return printer.text.items;
}
