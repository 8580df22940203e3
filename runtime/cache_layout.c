/* Where the tensors of a cache's plan lie in memory. */
#include "runtime/cache.h"

#include <string.h>

enum { ALIGNMENT = 256 };

/* ---- sizes that parameters decide ---- */

static const attn_param *find_given(const attn_cache_options *options, const char *name)
{
  for (size_t n = 0; n < options->param_count; n++) {
    if (strcmp(options->params[n].name, name) == 0)
      return &options->params[n];
  }
  return NULL;
}

static attn_status check_params(const struct spec *spec, const attn_cache_options *options,
                                const struct error_sink *sink)
{
  if (options->param_count != 0 && options->params == NULL)
    return error_report(sink, ATTN_ERROR_ARGUMENT, "params is NULL but param_count is %zu",
                        options->param_count);
  for (size_t n = 0; n < options->param_count; n++) {
    const char *name = options->params[n].name;
    if (name == NULL)
      return error_report(sink, ATTN_ERROR_ARGUMENT, "params[%zu] has no name", n);
    bool known = false;
    for (uint32_t p = 0; p < spec->param_count; p++)
      known = known || (!spec->params[p].is_const && strcmp(spec->params[p].name, name) == 0);
    if (!known)
      return error_report(sink, ATTN_ERROR_ARGUMENT, "'%s' has no parameter '%.60s'", spec->name,
                          name);
  }
  return ATTN_OK;
}

static union expr_value value_of(const struct spec_param *param, const attn_param *given)
{
  union expr_value value = {.i = param->value.i};
  if (param->type == EXPR_FLOAT)
    value.f = param->value.f;
  if (given == NULL)
    return value;
  const bool is_float = given->kind == ATTN_KIND_FLOAT;
  if (param->type == EXPR_FLOAT)
    value.f = is_float ? given->float_value : (double)given->int_value;
  else
    value.i = is_float ? (int64_t)given->float_value : given->int_value;
  return value;
}

/* Inputs whose dimensions depend on the sizes of a launch have no place in a cache. */
static bool depends_on_launch(const struct expr *e)
{
  const uint64_t params = EXPR_DEP(EXPR_DEP_PARAM);
  return (e->deps & ~params) != 0;
}

static attn_status evaluate_dim(struct attn_cache *cache, const attn_cache_options *options,
                                const char *input, const struct expr *size,
                                const struct error_sink *sink, int64_t *value)
{
  const struct spec *spec = cache->plan->spec;
  if (depends_on_launch(size))
    return error_report(sink, ATTN_ERROR_ARGUMENT,
                        "the cached input '%s' has a dimension that depends on the sizes of a "
                        "launch; a cache needs one that is the same for all",
                        input);
  struct expr_evaluator *evaluator = expr_evaluator_new(&cache->arena, spec->pool);
  for (uint32_t p = 0; p < spec->param_count; p++) {
    const struct spec_param *param = &spec->params[p];
    const attn_param *given = find_given(options, param->name);
    if (given != NULL || param->is_const || param->has_default)
      expr_set_param(evaluator, p, value_of(param, given));
    else
      return error_report(sink, ATTN_ERROR_ARGUMENT,
                          "the parameter '%s' has no default; give it to the cache, whose input "
                          "'%s' has a size that depends on parameters",
                          param->name, input);
  }
  *value = expr_evaluate(evaluator, size).i;
  return ATTN_OK;
}

/* ---- arrays ---- */

static DLDataType element_type(enum dtype type)
{
  enum { CODE_BOOL = 6 }; /* kDLBool of DLPack since 0.8 */
  switch (type) {
  case DTYPE_F32: return (DLDataType){kDLFloat, 32, 1};
  case DTYPE_F16: return (DLDataType){kDLFloat, 16, 1};
  case DTYPE_BF16: return (DLDataType){kDLBfloat, 16, 1};
  case DTYPE_I32: return (DLDataType){kDLInt, 32, 1};
  case DTYPE_I64: return (DLDataType){kDLInt, 64, 1};
  case DTYPE_I8: return (DLDataType){kDLInt, 8, 1};
  case DTYPE_BOOL: return (DLDataType){CODE_BOOL, 8, 1};
  case DTYPE_U8:
  case DTYPE_E4M3:
  case DTYPE_E5M2:
  case DTYPE_I4:
  case DTYPE_I2:
  case DTYPE_ANY:
  case DTYPE_SPEC:
  case DTYPE_COUNT: break;
  }
  return (DLDataType){kDLUInt, 8, 1};
}

static enum cache_array_kind kind_of(const struct cache_tensor *tensor)
{
  switch (tensor->part) {
  case CACHE_LENGTHS:
  case CACHE_PAGE_TABLE:
  case CACHE_SEEN: return CACHE_ARRAY_TABLE;
  case CACHE_RECENT: return CACHE_ARRAY_RECENT;
  case CACHE_POSITIONS:
  case CACHE_DATA:
  case CACHE_SCALE:
  case CACHE_ZERO:
  case CACHE_REST: break;
  }
  const bool in_blocks =
      tensor->dims[0].kind == CACHE_DIM_PAGES || tensor->dims[0].kind == CACHE_DIM_B;
  return in_blocks ? CACHE_ARRAY_SLOTS : CACHE_ARRAY_CONSTANT;
}

/* Rows of a block: one for each so many tokens. */
static uint32_t rows_of(const struct attn_cache *cache, const struct cache_dimension *dim)
{
  return dim->kind == CACHE_DIM_SLOTS ? cache->page / dim->quotient : dim->size;
}

static attn_status too_large(const struct error_sink *sink)
{
  return error_report(sink, ATTN_ERROR_OUT_OF_MEMORY,
                      "a cache of this size does not fit into the address space");
}

/* Shape and strides of an array whose kind and type are known; the dimensions before `first` are
 * blocks and rows. */
static attn_status shape_array(struct attn_cache *cache, struct cache_array *array, uint32_t first,
                               const attn_cache_options *options, uint32_t bits,
                               const struct error_sink *sink)
{
  const struct cache_tensor *tensor = array->tensor;
  const uint32_t rank = tensor->rank;
  size_t elements = 1; /* of a row, all heads */
  for (uint32_t d = first; d < rank; d++) {
    int64_t size = tensor->dims[d].size;
    attn_status status = ATTN_OK;
    if (tensor->dims[d].kind == CACHE_DIM_INPUT)
      status = evaluate_dim(cache, options, tensor->name, tensor->dims[d].input, sink, &size);
    if (status != ATTN_OK)
      return status;
    if (size <= 0)
      return error_report(sink, ATTN_ERROR_ARGUMENT,
                          "the cached input '%s': dimension %u would be %lld", tensor->name, d,
                          (long long)size);
    if (bits < 8 && d + 1 == rank)
      size = (size * bits + 7) / 8;
    array->shape[d] = size;
    if (__builtin_mul_overflow(elements, (size_t)size, &elements))
      return too_large(sink);
  }
  const bool by_head = options->order == ATTN_CACHE_HEADS_FIRST && first == 2 && rank == 4 &&
                       tensor->source <= EXPR_TENSOR_V;
  array->heads = by_head ? (uint32_t)array->shape[2] : 1;
  const size_t row = elements / array->heads, bytes = array->type.bits / 8u;
  size_t block;
  if (__builtin_mul_overflow(elements, (size_t)array->rows, &block) ||
      __builtin_mul_overflow(block, bytes, &array->block) || array->block > INT64_MAX)
    return too_large(sink);
  array->row = row * bytes;
  int64_t stride = 1;
  for (uint32_t d = rank; d-- > first;) {
    array->strides[d] = stride;
    stride *= array->shape[d];
  }
  if (by_head)
    array->strides[2] = (int64_t)(row * array->rows);
  if (first == 2) {
    array->strides[1] = (int64_t)row;
    array->strides[0] = (int64_t)block;
  }
  return ATTN_OK;
}

static attn_status lay_out_array(struct attn_cache *cache, struct cache_array *array,
                                 const attn_cache_options *options, enum dtype type,
                                 const struct error_sink *sink)
{
  const struct cache_tensor *tensor = array->tensor;
  const bool open = tensor->type == DTYPE_SPEC || tensor->type == DTYPE_ANY;
  const enum dtype own = open ? type : tensor->type;
  uint32_t blocks = 1, first = 2;
  array->type = element_type(own);
  array->rows = array->tokens = 1;
  switch (array->kind) {
  case CACHE_ARRAY_TABLE: return ATTN_OK;
  case CACHE_ARRAY_SLOTS:
    blocks = cache->layout == CACHE_PAGED ? cache->page_count : cache->sequence_count;
    array->rows = rows_of(cache, &tensor->dims[1]);
    array->tokens = cache->page / array->rows;
    break;
  case CACHE_ARRAY_RECENT:
    blocks = cache->sequence_count;
    array->rows = tensor->dims[1].size;
    break;
  case CACHE_ARRAY_CONSTANT: first = 0; break;
  }
  array->shape[0] = blocks;
  array->shape[1] = array->rows;
  attn_status status = shape_array(cache, array, first, options, cache_element_bits(own), sink);
  if (status != ATTN_OK)
    return status;

  size_t size;
  array->offset = cache->storage_size;
  if (__builtin_mul_overflow(array->block, (size_t)blocks, &size) ||
      __builtin_add_overflow(size, ALIGNMENT - 1, &size) ||
      __builtin_add_overflow(cache->storage_size, size / ALIGNMENT * ALIGNMENT,
                             &cache->storage_size))
    return too_large(sink);
  if (array->kind == CACHE_ARRAY_RECENT)
    cache->recent_bytes += array->block;
  else if (array->kind == CACHE_ARRAY_SLOTS && tensor->part != CACHE_POSITIONS)
    cache->block_bytes += array->block;
  return ATTN_OK;
}

/* ---- blocks ---- */

/* Tokens of a dense row: a multiple of what shares a scale. */
static uint64_t round_row(const struct cache_plan *plan, uint64_t tokens)
{
  for (bool again = true; again;) {
    again = false;
    for (uint32_t n = 0; n < plan->count; n++) {
      const struct cache_tensor *tensor = &plan->tensors[n];
      if (tensor->rank < 2 || tensor->dims[1].kind != CACHE_DIM_SLOTS)
        continue;
      uint64_t rest = tokens % tensor->dims[1].quotient;
      if (rest != 0) {
        tokens += tensor->dims[1].quotient - rest;
        again = true;
      }
    }
  }
  return tokens;
}

static attn_status size_blocks(struct attn_cache *cache, const attn_cache_options *options,
                               const struct error_sink *sink)
{
  const struct spec *spec = cache->plan->spec;
  cache->layout = cache_layout(spec);
  if (cache->layout == CACHE_RING) {
    cache->page = cache_ring_tokens(spec);
    return cache->page <= INT32_MAX ? ATTN_OK
                                    : error_report(sink, ATTN_ERROR_ARGUMENT,
                                                   "the ring of '%s' has %u slots, the most is %d",
                                                   spec->name, cache->page, INT32_MAX);
  }
  if (options->tokens == 0)
    return error_report(sink, ATTN_ERROR_ARGUMENT, "tokens is 0; say how many %s",
                        cache->layout == CACHE_PAGED ? "all sequences may have together"
                                                     : "a sequence may have");
  const bool paged = cache->layout == CACHE_PAGED;
  uint64_t blocks = 0, page = spec->cache.page;
  if (paged)
    blocks = (options->tokens - 1) / page + 1;
  else
    page = options->tokens > INT32_MAX ? options->tokens : round_row(cache->plan, options->tokens);
  if (page > INT32_MAX || blocks > INT32_MAX)
    return error_report(sink, ATTN_ERROR_ARGUMENT, "tokens is %llu; a cache has at most %d %s",
                        (unsigned long long)options->tokens, INT32_MAX,
                        paged ? "pages" : "of a sequence");
  cache->page = (uint32_t)page;
  cache->page_count = (uint32_t)blocks;
  return ATTN_OK;
}

attn_status cache_lay_out(struct attn_cache *cache, const attn_cache_options *options,
                          enum dtype type, const struct error_sink *sink)
{
  const struct spec *spec = cache->front->spec;
  cache->plan = cache_plan_new(&cache->arena, spec);
  attn_status status = check_params(spec, options, sink);
  if (status == ATTN_OK)
    status = size_blocks(cache, options, sink);
  if (status != ATTN_OK)
    return status;
  cache->stored = spec->cache.positions == CACHE_POSITIONS_STORED;
  cache->overwrites = cache->layout == CACHE_RING;
  cache->has_rows = cache->layout != CACHE_PAGED;
  for (uint32_t n = 0; n < cache->plan->count; n++) {
    struct cache_array *array = &cache->arrays[n];
    array->tensor = &cache->plan->tensors[n];
    array->kind = kind_of(array->tensor);
    status = lay_out_array(cache, array, options, type, sink);
    if (status != ATTN_OK)
      return status;
    if (array->kind != CACHE_ARRAY_RECENT)
      continue;
    const uint32_t residual = (uint32_t)array->tensor->dims[1].size;
    cache->overwrites = cache->has_rows = true;
    cache->lag = residual > cache->lag ? residual : cache->lag;
  }
  return ATTN_OK;
}
