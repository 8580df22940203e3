#include "runtime/tensor_check.h"

#include "runtime/cuda_device.h"
#include "runtime/launch_tensors.h"

#include <stdio.h>
#include <string.h>

enum { /* of DLPack since 0.8 and 1.1 */
       DLPACK_BOOL = 6,
       DLPACK_E4M3FN = 10,
       DLPACK_E5M2 = 12
};

enum dtype dtype_of_dlpack(DLDataType type)
{
  if (type.lanes != 1)
    return DTYPE_ANY;
  switch (type.code << 8 | type.bits) {
  case kDLFloat << 8 | 32: return DTYPE_F32;
  case kDLFloat << 8 | 16: return DTYPE_F16;
  case kDLBfloat << 8 | 16: return DTYPE_BF16;
  case kDLInt << 8 | 32: return DTYPE_I32;
  case kDLInt << 8 | 64: return DTYPE_I64;
  case kDLUInt << 8 | 8: return DTYPE_U8;
  case kDLInt << 8 | 8: return DTYPE_I8;
  case DLPACK_BOOL << 8 | 8: return DTYPE_BOOL;
  case DLPACK_E4M3FN << 8 | 8: return DTYPE_E4M3;
  case DLPACK_E5M2 << 8 | 8: return DTYPE_E5M2;
  }
  return DTYPE_ANY;
}

static void dlpack_text(DLDataType type, char text[32])
{
  static const char *const codes[] = {"i", "u", "f", "handle", "bf", "complex", "bool"};
  enum dtype known = dtype_of_dlpack(type);
  if (known != DTYPE_ANY)
    snprintf(text, 32, "%s", dtype_name(known));
  else if (type.code < sizeof(codes) / sizeof(codes[0]) && type.lanes == 1)
    snprintf(text, 32, "%s%u", codes[type.code], type.bits);
  else
    snprintf(text, 32, "code %u, %u bits, %u lanes", type.code, type.bits, type.lanes);
}

/* For a context on a device. Managed memory is wherever it is needed. */
static attn_status check_device(const DLTensor *t, const struct wanted_tensor *wanted,
                                const struct error_sink *sink)
{
  const int type = (int)t->device.device_type, number = wanted->device->number;
  if (type == kDLCUDAManaged || (type == kDLCUDA && t->device.device_id == number))
    return ATTN_OK;
  if (type == kDLCUDA)
    return error_report(sink, ATTN_ERROR_ARGUMENT,
                        "%s is on cuda:%d; this context computes on cuda:%d", wanted->what,
                        t->device.device_id, number);
  if (type == kDLCPU || type == kDLCUDAHost)
    return error_report(sink, ATTN_ERROR_ARGUMENT,
                        "%s is in the CPU's memory; this context computes on cuda:%d, copy it "
                        "there first",
                        wanted->what, number);
  return error_report(sink, ATTN_ERROR_ARGUMENT,
                      "%s is on a device of DLPack type %d; this context computes on cuda:%d",
                      wanted->what, type, number);
}

static attn_status check_cpu(const DLTensor *t, const char *what, const struct error_sink *sink)
{
  switch ((int)t->device.device_type) {
  case kDLCPU:
  case kDLCUDAHost:
  case kDLROCMHost: return ATTN_OK;
  case kDLCUDA:
  case kDLCUDAManaged:
    return error_report(sink, ATTN_ERROR_ARGUMENT,
                        "%s is on cuda:%d; this context computes on the cpu", what,
                        t->device.device_id);
  }
  return error_report(sink, ATTN_ERROR_ARGUMENT,
                      "%s is on a device of DLPack type %d; this context computes on the cpu", what,
                      (int)t->device.device_type);
}

static attn_status check_sizes(const DLTensor *t, const struct wanted_tensor *wanted,
                               const struct error_sink *sink, struct bound_tensor *bound)
{
  if (t->ndim != (int)wanted->rank) {
    char shape[160] = "";
    size_t used = 0;
    for (uint32_t d = 0; d < wanted->rank && used < sizeof(shape) - 1; d++) {
      char number[24];
      snprintf(number, sizeof(number), "%lld", (long long)wanted->dims[d].size);
      int written = snprintf(shape + used, sizeof(shape) - used, "%s%s", d == 0 ? "" : ", ",
                             wanted->dims[d].name == NULL ? number : wanted->dims[d].name);
      used += written < 0 ? 0 : (size_t)written;
    }
    return error_report(sink, ATTN_ERROR_ARGUMENT, "%s has %d dimensions, it needs %u: [%s]",
                        wanted->what, t->ndim, wanted->rank, shape);
  }
  if (wanted->rank != 0 && t->shape == NULL)
    return error_report(sink, ATTN_ERROR_ARGUMENT, "%s has no shape", wanted->what);
  for (uint32_t d = 0; d < wanted->rank; d++) {
    const struct wanted_dim *dim = &wanted->dims[d];
    int64_t size = t->shape[d];
    if (size < 0)
      return error_report(sink, ATTN_ERROR_ARGUMENT, "%s: dimension %u is %lld", wanted->what, d,
                          (long long)size);
    if (dim->size >= 0 && size != dim->size && dim->name == NULL)
      return error_report(sink, ATTN_ERROR_ARGUMENT, "%s: dimension %u is %lld, it must be %lld",
                          wanted->what, d, (long long)size, (long long)dim->size);
    if (dim->size >= 0 && size != dim->size)
      return error_report(
          sink, ATTN_ERROR_ARGUMENT, "%s: dimension %u is %lld but %s is %lld%s%s%s", wanted->what,
          d, (long long)size, dim->name, (long long)dim->size, dim->from == NULL ? "" : " (from ",
          dim->from == NULL ? "" : dim->from, dim->from == NULL ? "" : ")");
    if (size > INT32_MAX)
      return error_report(sink, ATTN_ERROR_ARGUMENT,
                          "%s: dimension %u is %lld, more than an int of the language holds (%d)",
                          wanted->what, d, (long long)size, INT32_MAX);
    bound->sizes[d] = size;
    bound->empty = bound->empty || size == 0;
  }
  return ATTN_OK;
}

static attn_status too_large(const struct wanted_tensor *wanted, const struct error_sink *sink)
{
  return error_report(sink, ATTN_ERROR_ARGUMENT,
                      "%s: its sizes and strides reach further than memory does", wanted->what);
}

/* Strides, and the distance in elements from the first to the last one. */
static attn_status check_strides(const DLTensor *t, const struct wanted_tensor *wanted,
                                 const struct error_sink *sink, struct bound_tensor *bound,
                                 int64_t *reach)
{
  int64_t compact = 1;
  *reach = 0;
  for (uint32_t d = bound->rank; d-- > 0;) {
    int64_t size = bound->sizes[d];
    int64_t stride = t->strides == NULL ? compact : t->strides[d];
    if (__builtin_mul_overflow(compact, size == 0 ? 1 : size, &compact))
      return too_large(wanted, sink);
    if (size <= 1)
      stride = d + 1 == bound->rank ? 1 : 0; /* never used: what stands there may be anything */
    if (stride < 0)
      return error_report(sink, ATTN_ERROR_ARGUMENT,
                          "%s: dimension %u has the stride %lld; strides must not be negative, "
                          "copy the tensor first",
                          wanted->what, d, (long long)stride);
    int64_t step;
    if (size > 1 && (__builtin_mul_overflow(size - 1, stride, &step) ||
                     __builtin_add_overflow(*reach, step, reach)))
      return too_large(wanted, sink);
    bound->strides[d] = stride;
  }
  return ATTN_OK;
}

/* Sorted by stride, each dimension of a tensor without shared elements steps over all that the
 * smaller ones reach. */
static attn_status check_distinct(const struct wanted_tensor *wanted, const struct error_sink *sink,
                                  const struct bound_tensor *bound)
{
  uint32_t order[SPEC_MAX_RANK], count = 0;
  for (uint32_t d = 0; d < bound->rank; d++) {
    if (bound->sizes[d] <= 1)
      continue;
    uint32_t at = count++;
    for (; at > 0 && bound->strides[order[at - 1]] > bound->strides[d]; at--)
      order[at] = order[at - 1];
    order[at] = d;
  }
  int64_t reach = 0;
  for (uint32_t n = 0; n < count; n++) {
    uint32_t d = order[n];
    if (bound->strides[d] <= reach)
      return error_report(
          sink, ATTN_ERROR_ARGUMENT,
          "%s is written, but with the stride %lld of dimension %u its elements share memory",
          wanted->what, (long long)bound->strides[d], d);
    reach += (bound->sizes[d] - 1) * bound->strides[d];
  }
  return ATTN_OK;
}

/* A tensor may say that it is on a device and be wrong. */
static attn_status check_pointer(const struct wanted_tensor *wanted, const struct error_sink *sink,
                                 uintptr_t address)
{
  int other = 0;
  switch (cuda_pointer_place(wanted->device, address, &other)) {
  case CUDA_POINTER_HERE: return ATTN_OK;
  case CUDA_POINTER_HOST:
    return error_report(sink, ATTN_ERROR_ARGUMENT,
                        "%s says that it is on cuda:%d, but its address is not in device memory",
                        wanted->what, wanted->device->number);
  case CUDA_POINTER_ELSEWHERE: break;
  }
  return error_report(sink, ATTN_ERROR_ARGUMENT,
                      "%s says that it is on cuda:%d, but its address is in the memory of cuda:%d",
                      wanted->what, wanted->device->number, other);
}

static attn_status check_memory(const DLTensor *t, const struct wanted_tensor *wanted,
                                const struct error_sink *sink, struct bound_tensor *bound,
                                int64_t reach)
{
  size_t element = dtype_size(bound->type);
  int64_t bytes;
  if (__builtin_add_overflow(reach, 1, &reach) ||
      __builtin_mul_overflow(reach, (int64_t)element, &bytes))
    return too_large(wanted, sink);
  if (t->data == NULL)
    return error_report(sink, ATTN_ERROR_ARGUMENT, "%s has no data (NULL)", wanted->what);
  uintptr_t first, end;
  if (__builtin_add_overflow((uintptr_t)t->data, t->byte_offset, &first) ||
      __builtin_add_overflow(first, (uintptr_t)bytes, &end))
    return too_large(wanted, sink);
  if (first % element != 0)
    return error_report(sink, ATTN_ERROR_ARGUMENT,
                        "%s is not aligned: its address is no multiple of %zu bytes", wanted->what,
                        element);
  bound->data = (unsigned char *)t->data + t->byte_offset;
  return wanted->device != NULL && (int)t->device.device_type == kDLCUDA
             ? check_pointer(wanted, sink, first)
             : ATTN_OK;
}

attn_status tensor_check(const DLTensor *t, const struct wanted_tensor *wanted,
                         const struct error_sink *sink, struct bound_tensor *bound)
{
  if (t == NULL)
    return error_report(sink, ATTN_ERROR_ARGUMENT, "%s is missing", wanted->what);
  attn_status status =
      wanted->device != NULL ? check_device(t, wanted, sink) : check_cpu(t, wanted->what, sink);
  if (status != ATTN_OK)
    return status;
  enum dtype type = dtype_of_dlpack(t->dtype);
  if (wanted->type == DTYPE_BOOL && type == DTYPE_U8)
    type = DTYPE_BOOL; /* older DLPack has no other name for it */
  if (wanted->codes != DTYPE_ANY && type == wanted->codes)
    type = wanted->type;
  if (type != wanted->type) {
    const bool coded = wanted->codes != DTYPE_ANY;
    char text[32];
    dlpack_text(t->dtype, text);
    return error_report(sink, ATTN_ERROR_ARGUMENT, "%s: the type is %s, it must be %s%s%s",
                        wanted->what, text, dtype_name(wanted->type),
                        coded ? ", which holds the codes of " : "",
                        coded ? dtype_name(wanted->codes) : "");
  }
  bound->type = type;
  bound->rank = wanted->rank;
  bound->empty = false;
  status = check_sizes(t, wanted, sink, bound);
  int64_t reach = 0;
  if (status == ATTN_OK)
    status = check_strides(t, wanted, sink, bound, &reach);
  if (status != ATTN_OK)
    return status;
  if (bound->empty) {
    memset(bound->strides, 0, sizeof(bound->strides));
    bound->data = wanted->device != NULL ? (unsigned char *)(uintptr_t)wanted->device->zeros
                                         : tensor_zero_page();
    return ATTN_OK;
  }
  if (wanted->written)
    status = check_distinct(wanted, sink, bound);
  return status == ATTN_OK ? check_memory(t, wanted, sink, bound, reach) : status;
}

void tensor_extent(const struct bound_tensor *tensor, uintptr_t *first, uintptr_t *end)
{
  *first = *end = (uintptr_t)tensor->data;
  if (tensor->empty)
    return;
  int64_t reach = 1;
  for (uint32_t d = 0; d < tensor->rank; d++)
    reach += (tensor->sizes[d] - 1) * tensor->strides[d];
  *end += (uintptr_t)reach * dtype_size(tensor->type);
}
