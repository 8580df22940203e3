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
