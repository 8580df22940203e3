#include "runtime/attnc/tensor.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "dsl/base/memory.h"

static const struct {
  const char *name;
  DLDataType dtype;
} dtypes[] = {
    {"f32", TENSOR_DTYPE_F32}, {"f16", TENSOR_DTYPE_F16}, {"bf16", TENSOR_DTYPE_BF16},
    {"f64", TENSOR_DTYPE_F64}, {"i32", TENSOR_DTYPE_I32}, {"i64", TENSOR_DTYPE_I64},
    {"u8", TENSOR_DTYPE_U8},   {"i8", TENSOR_DTYPE_I8},   {"bool", TENSOR_DTYPE_BOOL},
};
enum { DTYPE_COUNT = sizeof(dtypes) / sizeof(dtypes[0]) };

bool tensor_dtype_equal(DLDataType a, DLDataType b)
{
  return a.code == b.code && a.bits == b.bits && a.lanes == b.lanes;
}

const char *tensor_dtype_name(DLDataType dtype)
{
  for (size_t k = 0; k < DTYPE_COUNT; k++)
    if (tensor_dtype_equal(dtypes[k].dtype, dtype))
      return dtypes[k].name;
  return NULL;
}

bool tensor_dtype_parse(const char *text, DLDataType *dtype)
{
  for (size_t k = 0; k < DTYPE_COUNT; k++) {
    if (strcmp(dtypes[k].name, text) == 0) {
      *dtype = dtypes[k].dtype;
      return true;
    }
  }
  return false;
}

size_t tensor_dtype_size(DLDataType dtype)
{
  return tensor_dtype_name(dtype) == NULL ? 0 : dtype.bits / 8u;
}

bool tensor_shape_size(DLDataType dtype, int ndim, const int64_t *shape, int64_t *count,
                       size_t *bytes)
{
  int64_t size = (int64_t)tensor_dtype_size(dtype);
  if (size == 0 || ndim < 0 || ndim > TENSOR_MAX_RANK)
    return false;
  int64_t product = size;
  bool empty = false;
  for (int d = 0; d < ndim; d++) {
    if (shape[d] < 0)
      return false;
    if (shape[d] == 0)
      empty = true;
    else if (__builtin_mul_overflow(product, shape[d], &product) || product > PTRDIFF_MAX)
      return false;
  }
  *count = empty ? 0 : product / size;
  *bytes = empty ? 0 : (size_t)product;
  return true;
}

static char *copy_text(const char *text)
{
  size_t size = strlen(text) + 1;
  char *copy = mem_alloc(size);
  if (copy != NULL)
    memcpy(copy, text, size);
  return copy;
}

enum tensor_status tensor_init(struct tensor *tensor, const char *name, DLDataType dtype, int ndim,
                               const int64_t *shape, struct tensor_error *error)
{
  *tensor = (struct tensor){0};
  int64_t count;
  size_t bytes;
  if (!tensor_shape_size(dtype, ndim, shape, &count, &bytes)) {
    snprintf(error->text, sizeof(error->text),
             "tensor '%.80s': its type is not supported, it has more than %d dims, a negative dim, "
             "or more elements than memory can address; choose a smaller shape",
             name, TENSOR_MAX_RANK);
    return TENSOR_INVALID;
  }
  char *copy = copy_text(name);
  /* bytes <= PTRDIFF_MAX, so the sum cannot wrap. */
  unsigned char *block = mem_alloc_zeroed(1, bytes + TENSOR_ALIGNMENT);
  if (copy == NULL || block == NULL) {
    mem_free(copy);
    mem_free(block);
    snprintf(error->text, sizeof(error->text),
             "tensor '%.80s': out of memory for %zu bytes; choose a smaller shape", name, bytes);
    return TENSOR_NO_MEMORY;
  }
  tensor->name = copy;
  tensor->dtype = dtype;
  tensor->ndim = ndim;
  for (int d = 0; d < ndim; d++)
    tensor->shape[d] = shape[d];
  tensor->data = block + (TENSOR_ALIGNMENT - (uintptr_t)block % TENSOR_ALIGNMENT);
  tensor->bytes = bytes;
  tensor->block = block;
  return TENSOR_OK;
}

void tensor_free(struct tensor *tensor)
{
  mem_free(tensor->name);
  mem_free(tensor->block);
  *tensor = (struct tensor){0};
}

enum tensor_status tensor_rename(struct tensor *tensor, const char *name,
                                 struct tensor_error *error)
{
  char *copy = copy_text(name);
  if (copy == NULL) {
    snprintf(error->text, sizeof(error->text), "tensor '%.80s': out of memory for its name", name);
    return TENSOR_NO_MEMORY;
  }
  mem_free(tensor->name);
  tensor->name = copy;
  return TENSOR_OK;
}

int64_t tensor_count(const struct tensor *tensor)
{
  return (int64_t)(tensor->bytes / tensor_dtype_size(tensor->dtype));
}

/* Floats of 16 bits: a sign, an exponent, then fraction_bits of fraction. The bias of the exponent
 * is also the largest exponent of a finite number. */
struct half_format {
  int fraction_bits;
  int bias;
};
static const struct half_format f16_format = {10, 15};
static const struct half_format bf16_format = {7, 127};

static double half_to_double(struct half_format format, uint16_t bits)
{
  int exponent = (bits & 0x7fff) >> format.fraction_bits;
  int fraction = bits & ((1 << format.fraction_bits) - 1);
  double magnitude;
  if (exponent == 2 * format.bias + 1)
    magnitude = fraction == 0 ? (double)INFINITY : (double)NAN;
  else if (exponent == 0)
    magnitude = ldexp(fraction, 1 - format.bias - format.fraction_bits);
  else
    magnitude = ldexp(fraction + (1 << format.fraction_bits),
                      exponent - format.bias - format.fraction_bits);
  return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

/* Rounds once, straight from the double: going through float would round twice. */
static uint16_t half_from_double(struct half_format format, double value)
{
  unsigned sign = signbit(value) ? 0x8000 : 0;
  unsigned infinity = (2u * (unsigned)format.bias + 1) << format.fraction_bits;
  double magnitude = fabs(value);
  if (isnan(value))
    return (uint16_t)(sign | infinity | 1u << (format.fraction_bits - 1));
  if (magnitude >= ldexp(1.0, format.bias + 1))
    return (uint16_t)(sign | infinity);
  int exponent = magnitude == 0 ? 1 - format.bias : ilogb(magnitude);
  if (exponent < 1 - format.bias)
    exponent = 1 - format.bias; /* subnormals share the least exponent */
  /* In units of the last place; the leading bit of a normal number, and a carry out of the
   * fraction, add one to the exponent field. */
  unsigned units = (unsigned)nearbyint(ldexp(magnitude, format.fraction_bits - exponent));
  unsigned field = (unsigned)(exponent + format.bias - 1) << format.fraction_bits;
  return (uint16_t)(sign | (field + units));
}

/* LEAST and LIMIT, the first value above the range, are exact as doubles. */
static int64_t saturate(double value, double least, double limit, int64_t greatest)
{
  if (isnan(value))
    return 0;
  value = nearbyint(value);
  if (value >= limit)
    return greatest;
  return (int64_t)(value < least ? least : value);
}

#define DTYPE_KEY(code, bits) ((unsigned)(code) << 8 | (unsigned)(bits))
#define LOAD(type) (((const type *)tensor->data)[index])
#define STORE(type, value) (((type *)tensor->data)[index] = (type)(value))

double tensor_get(const struct tensor *tensor, int64_t index)
{
  assert(index >= 0 && index < tensor_count(tensor));
  switch (DTYPE_KEY(tensor->dtype.code, tensor->dtype.bits)) {
  case DTYPE_KEY(kDLFloat, 64): return LOAD(double);
  case DTYPE_KEY(kDLFloat, 32): return (double)LOAD(float);
  case DTYPE_KEY(kDLFloat, 16): return half_to_double(f16_format, LOAD(uint16_t));
  case DTYPE_KEY(kDLBfloat, 16): return half_to_double(bf16_format, LOAD(uint16_t));
  case DTYPE_KEY(kDLInt, 64): return (double)LOAD(int64_t);
  case DTYPE_KEY(kDLInt, 32): return LOAD(int32_t);
  case DTYPE_KEY(kDLInt, 8): return LOAD(int8_t);
  case DTYPE_KEY(kDLUInt, 8): return LOAD(uint8_t);
  case DTYPE_KEY(TENSOR_DTYPE_CODE_BOOL, 8): return LOAD(uint8_t) != 0;
  }
  assert(false && "tensor_init admits no other type");
  return 0;
}

double tensor_element_distance(const struct tensor *a, const struct tensor *b, int64_t index)
{
  double x = tensor_get(a, index), y = tensor_get(b, index);
  if (x == y || (isnan(x) && isnan(y)))
    return 0;
  return isnan(x) || isnan(y) ? (double)INFINITY : fabs(x - y);
}

void tensor_set(struct tensor *tensor, int64_t index, double value)
{
  assert(index >= 0 && index < tensor_count(tensor));
  switch (DTYPE_KEY(tensor->dtype.code, tensor->dtype.bits)) {
  case DTYPE_KEY(kDLFloat, 64): STORE(double, value); break;
  case DTYPE_KEY(kDLFloat, 32): STORE(float, value); break;
  case DTYPE_KEY(kDLFloat, 16): STORE(uint16_t, half_from_double(f16_format, value)); break;
  case DTYPE_KEY(kDLBfloat, 16): STORE(uint16_t, half_from_double(bf16_format, value)); break;
  case DTYPE_KEY(kDLInt, 64): STORE(int64_t, saturate(value, -0x1p63, 0x1p63, INT64_MAX)); break;
  case DTYPE_KEY(kDLInt, 32): STORE(int32_t, saturate(value, -0x1p31, 0x1p31, INT32_MAX)); break;
  case DTYPE_KEY(kDLInt, 8): STORE(int8_t, saturate(value, -128, 128, INT8_MAX)); break;
  case DTYPE_KEY(kDLUInt, 8): STORE(uint8_t, saturate(value, 0, 256, UINT8_MAX)); break;
  case DTYPE_KEY(TENSOR_DTYPE_CODE_BOOL, 8): STORE(uint8_t, value != 0); break;
  default: assert(false && "tensor_init admits no other type");
  }
}

DLTensor tensor_view(struct tensor *tensor)
{
  return (DLTensor){
      .data = tensor->data,
      .device = {.device_type = kDLCPU, .device_id = 0},
      .ndim = tensor->ndim,
      .dtype = tensor->dtype,
      .shape = tensor->shape,
  };
}

struct tensor *tensor_list_find(const struct tensor_list *list, const char *name)
{
  for (size_t k = 0; k < list->count; k++)
    if (strcmp(list->items[k].name, name) == 0)
      return &list->items[k];
  return NULL;
}

void tensor_list_free(struct tensor_list *list)
{
  for (size_t k = 0; k < list->count; k++)
    tensor_free(&list->items[k]);
  mem_free(list->items);
  *list = (struct tensor_list){0};
}
