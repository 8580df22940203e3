#include "runtime/launch_tensors.h"

#include "compiler/reference/reference.h"

#include <math.h>
#include <string.h>

unsigned char *tensor_zero_page(void)
{
  static _Alignas(64) unsigned char page[4096];
  return page;
}

bool tensor_make_compact(struct bound_tensor *tensor, size_t *bytes)
{
  int64_t count = 1;
  tensor->empty = false;
  for (uint32_t d = tensor->rank; d-- > 0;) {
    tensor->strides[d] = count;
    tensor->empty = tensor->empty || tensor->sizes[d] == 0;
    if (tensor->sizes[d] != 0 && __builtin_mul_overflow(count, tensor->sizes[d], &count))
      return false;
  }
  if (tensor->empty) {
    memset(tensor->strides, 0, sizeof(tensor->strides));
    count = 0;
  }
  int64_t size;
  if (__builtin_mul_overflow(count, (int64_t)dtype_size(tensor->type), &size) || size > PTRDIFF_MAX)
    return false;
  *bytes = (size_t)size;
  return true;
}

/* ---- copies ---- */

static void copy_row(unsigned char *to, int64_t to_stride, const unsigned char *from,
                     int64_t from_stride, int64_t count, size_t element)
{
  for (int64_t n = 0; n < count; n++)
    memcpy(to + n * to_stride, from + n * from_stride, element);
}

/* memcpy of a constant size is one instruction. */
static void copy_row_by_size(unsigned char *to, int64_t to_stride, const unsigned char *from,
                             int64_t from_stride, int64_t count, size_t element)
{
  switch (element) {
  case 1: copy_row(to, to_stride, from, from_stride, count, 1); return;
  case 2: copy_row(to, to_stride * 2, from, from_stride * 2, count, 2); return;
  case 4: copy_row(to, to_stride * 4, from, from_stride * 4, count, 4); return;
  case 8: copy_row(to, to_stride * 8, from, from_stride * 8, count, 8); return;
  }
}

/* Counts an index up over the leading `rank` dimensions; false at the end. */
static bool next_index(const int64_t *sizes, uint32_t rank, int64_t *index)
{
  for (uint32_t d = rank; d-- > 0;) {
    if (++index[d] < sizes[d])
      return true;
    index[d] = 0;
  }
  return false;
}

static int64_t offset_of(const struct bound_tensor *tensor, const int64_t *index, uint32_t rank)
{
  int64_t offset = 0;
  for (uint32_t d = 0; d < rank; d++)
    offset += index[d] * tensor->strides[d];
  return offset;
}

void tensor_copy(const struct bound_tensor *to, const struct bound_tensor *from)
{
  if (to->empty)
    return;
  const int64_t element = (int64_t)dtype_size(to->type);
  const uint32_t outer = to->rank == 0 ? 0 : to->rank - 1;
  const int64_t count = to->rank == 0 ? 1 : to->sizes[outer];
  const int64_t to_stride = to->rank == 0 ? 0 : to->strides[outer];
  const int64_t from_stride = to->rank == 0 ? 0 : from->strides[outer];
  int64_t index[SPEC_MAX_RANK] = {0};
  do {
    copy_row_by_size(to->data + offset_of(to, index, outer) * element, to_stride,
                     from->data + offset_of(from, index, outer) * element, from_stride, count,
                     (size_t)element);
  } while (next_index(to->sizes, outer, index));
}

/* ---- elements ---- */

static bool is_float(enum dtype type)
{
  return type == DTYPE_F32 || type == DTYPE_F16 || type == DTYPE_BF16;
}

static int32_t load_int(const struct bound_tensor *tensor, int64_t offset)
{
  if (tensor->type == DTYPE_I32)
    return ((const int32_t *)(const void *)tensor->data)[offset];
  if (tensor->type == DTYPE_I64)
    return (int32_t)((const int64_t *)(const void *)tensor->data)[offset];
  return tensor->type == DTYPE_BOOL ? tensor->data[offset] != 0 : tensor->data[offset];
}

bool call_read(void *user, uint32_t tensor, const int64_t *indices, size_t count,
               union expr_value *value, struct expr_fault *fault)
{
  const struct call *call = user;
  *value = (union expr_value){0};
  if (tensor < EXPR_TENSOR_INPUT)
    return false;
  const struct bound_tensor *input = &call->inputs[tensor - EXPR_TENSOR_INPUT];
  for (size_t d = 0; d < count; d++) {
    if (indices[d] < 0 || indices[d] >= input->sizes[d]) {
      fault->dim = (uint32_t)d;
      fault->index = indices[d];
      fault->size = input->sizes[d];
      return false;
    }
  }
  int64_t offset = offset_of(input, indices, (uint32_t)count);
  if (is_float(input->type))
    value->f = dtype_load(input->type, input->data, offset);
  else
    value->i = load_int(input, offset);
  return true;
}

/* ---- summaries ---- */

void summary_shape(const struct bound_tensor *input, struct bound_tensor *summary)
{
  uint32_t last = input->rank - 1;
  summary->type = is_float(input->type) ? DTYPE_F32 : DTYPE_I32;
  summary->rank = input->rank + 1;
  memcpy(summary->sizes, input->sizes, sizeof(summary->sizes));
  summary->sizes[last] =
      (input->sizes[last] + VISIBILITY_SUMMARY_BLOCK - 1) / VISIBILITY_SUMMARY_BLOCK;
  summary->sizes[last + 1] = 2;
}

static void summarize_floats(const struct bound_tensor *input, int64_t offset, int64_t count,
                             float *out)
{
  const int64_t stride = input->strides[input->rank - 1];
  float low = INFINITY, high = -INFINITY;
  bool nan = false;
  for (int64_t n = 0; n < count; n++) {
    float value = (float)dtype_load(input->type, input->data, offset + n * stride);
    nan = nan || isnan(value);
    low = value < low ? value : low;
    high = value > high ? value : high;
  }
  out[0] = nan ? NAN : low;
  out[1] = nan ? NAN : high;
}

static void summarize_ints(const struct bound_tensor *input, int64_t offset, int64_t count,
                           int32_t *out)
{
  const int64_t stride = input->strides[input->rank - 1];
  int32_t low = INT32_MAX, high = INT32_MIN;
  for (int64_t n = 0; n < count; n++) {
    int32_t value = load_int(input, offset + n * stride);
    low = value < low ? value : low;
    high = value > high ? value : high;
  }
  out[0] = low;
  out[1] = high;
}

void summary_fill(const struct bound_tensor *input, const struct bound_tensor *summary)
{
  if (summary->empty)
    return;
  const uint32_t last = input->rank - 1;
  const int64_t count = input->sizes[last];
  int64_t index[SPEC_MAX_RANK] = {0}, entry = 0;
  do {
    int64_t offset = offset_of(input, index, last);
    for (int64_t first = 0; first < count; first += VISIBILITY_SUMMARY_BLOCK, entry += 2) {
      int64_t block =
          count - first < VISIBILITY_SUMMARY_BLOCK ? count - first : VISIBILITY_SUMMARY_BLOCK;
      int64_t at = offset + first * input->strides[last];
      if (summary->type == DTYPE_F32)
        summarize_floats(input, at, block, (float *)(void *)summary->data + entry);
      else
        summarize_ints(input, at, block, (int32_t *)(void *)summary->data + entry);
    }
  } while (next_index(input->sizes, last, index));
}
