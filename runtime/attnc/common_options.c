#include "runtime/attnc/common_options.h"

struct option option_attention(const char **to)
{
  return (struct option){
      .name = "name",
      .letter = 'n',
      .kind = OPTION_TEXT,
      .value = "NAME",
      .help = "which attention of the file; the first by default",
      .target = to,
  };
}

struct option option_params(struct option_list *to)
{
  return (struct option){
      .name = "param",
      .letter = 'p',
      .kind = OPTION_LIST,
      .value = "NAME=VALUE",
      .help = "a parameter's value",
      .target = to,
  };
}

struct option option_sets(struct option_list *to)
{
  return (struct option){
      .name = "set",
      .letter = 's',
      .kind = OPTION_LIST,
      .value = "NAME=VALUE",
      .help = "a const parameter, or a new default of another",
      .target = to,
  };
}

struct option option_tensor_type(int *to)
{
  return (struct option){
      .name = "type",
      .kind = OPTION_CHOICE,
      .value = "any|f32|f16|bf16",
      .help = "of q, k and v; converts floats of files",
      .target = to,
  };
}

struct option option_seed(uint64_t *to)
{
  return (struct option){
      .name = "seed",
      .kind = OPTION_NUMBER,
      .value = "N",
      .help = "of the random tensors; 0 by default",
      .target = to,
      .most = UINT64_MAX,
  };
}

struct option option_device(const char **to)
{
  return (struct option){
      .name = "device",
      .letter = 'd',
      .kind = OPTION_TEXT,
      .value = "DEVICE",
      .help = "where to compute: cpu, the default, or cuda:N",
      .target = to,
  };
}

struct option option_threads(uint64_t *to)
{
  return (struct option){
      .name = "threads",
      .kind = OPTION_NUMBER,
      .value = "N",
      .help = "threads that compute; all processors by default",
      .target = to,
      .least = 1,
      .most = 1024,
  };
}

struct option option_schedule(struct option_list *to)
{
  return (struct option){
      .name = "schedule",
      .kind = OPTION_LIST,
      .value = "NAME=N",
      .help = "rows, columns, warps, ... of a tile, instead of the table's",
      .target = to,
  };
}

struct option option_json(bool *to)
{
  return (struct option){
      .name = "json",
      .kind = OPTION_FLAG,
      .help = "print JSON",
      .target = to,
  };
}
