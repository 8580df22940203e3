#include "dsl/spec.h"

static const struct {
  const char *name;
  size_t size;
} dtypes[DTYPE_COUNT] = {
    [DTYPE_ANY] = {"any", 0},   [DTYPE_F32] = {"f32", 4},   [DTYPE_F16] = {"f16", 2},
    [DTYPE_BF16] = {"bf16", 2}, [DTYPE_I32] = {"i32", 4},   [DTYPE_I64] = {"i64", 8},
    [DTYPE_U8] = {"u8", 1},     [DTYPE_BOOL] = {"bool", 1}, [DTYPE_SPEC] = {"type", 0},
    [DTYPE_E4M3] = {"e4m3", 1}, [DTYPE_E5M2] = {"e5m2", 1}, [DTYPE_I8] = {"int8", 1},
    [DTYPE_I4] = {"int4", 0},   [DTYPE_I2] = {"int2", 0},
};

const char *dtype_name(enum dtype type)
{
  return dtypes[type].name;
}

size_t dtype_size(enum dtype type)
{
  return dtypes[type].size;
}

const char *normalizer_name(enum normalizer normalizer)
{
  static const char *const names[] = {"softmax", "sigmoid",   "relu", "linear",
                                      "hardmax", "sparsemax", "none"};
  return names[normalizer];
}

const char *output_name(enum output_kind kind)
{
  static const char *const names[] = {"lse", "max", "mass", "weights", "entropy"};
  return names[kind];
}

static void rewrite(struct spec *spec, const struct expr **e, expr_replace *leaf, void *user)
{
  if (*e != NULL)
    *e = expr_rewrite(spec->pool, *e, leaf, user);
}

void spec_rewrite(struct spec *spec, expr_replace *leaf, void *user)
{
  const struct expr **formulas[] = {
      &spec->value,
      &spec->mask,
      &spec->weight,
      &spec->post,
      &spec->select.top,
      &spec->select.by,
      &spec->select.always,
      &spec->rotary.angle,
      &spec->rotary.gain,
      &spec->rotary.query_position,
      &spec->rotary.key_position,
  };
  for (size_t k = 0; k < sizeof(formulas) / sizeof(*formulas); k++)
    rewrite(spec, formulas[k], leaf, user);
  for (uint32_t m = 0; m < spec->map_count; m++) {
    rewrite(spec, &spec->maps[m].score, leaf, user);
    rewrite(spec, &spec->maps[m].sink, leaf, user);
    rewrite(spec, &spec->maps[m].at_least, leaf, user);
  }
}
