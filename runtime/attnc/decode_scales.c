/* Scales that a calibration gives: those of channels without groups, which append only reads. Here
 * they are made for all tokens that will come. */
#include <math.h>
#include <string.h>

#include "compiler/cache/plan.h"
#include "runtime/attnc/decode.h"

struct range {
  double least, most;
};

static bool is_calibrated(const struct spec_storage *storage)
{
  return storage != NULL && cache_is_quantised(storage) && storage->axis == CACHE_AXIS_CHANNEL &&
         storage->group == 0;
}

/* What the elements of a head's channels from `first` on, before `end`, lie in. */
static struct range range_of(const struct tensor *given, int64_t head, int64_t first, int64_t end)
{
  int64_t heads = given->shape[1], tokens = given->shape[2], channels = given->shape[3];
  struct range range = {(double)INFINITY, -(double)INFINITY};
  for (int64_t n = 0; n < given->shape[0] * tokens; n++)
    for (int64_t c = first; c < end; c++) {
      int64_t row = (n / tokens * heads + head) * tokens + n % tokens;
      double x = tensor_get(given, row * channels + c);
      range.least = fmin(range.least, x);
      range.most = fmax(range.most, x);
    }
  return range;
}

/* A rotation mixes channels: each may hold what any does, turned round. */
static struct range range_of_rotated(const struct tensor *given, int64_t head)
{
  const struct range all = range_of(given, head, 0, given->shape[3]);
  const double most = fmax(fabs(all.least), fabs(all.most));
  return (struct range){-most, most};
}

static double largest_code(enum dtype type)
{
  switch ((int)type) {
  case DTYPE_E4M3: return 448;
  case DTYPE_E5M2: return 57344;
  case DTYPE_I8: return 127;
  case DTYPE_I4: return 7;
  }
  return 1;
}

/* What codes stand for, before the scale. */
static struct range range_of_codes(const struct decode *decode, const struct spec_storage *storage)
{
  double most = largest_code(storage->type);
  if (storage->table == 0)
    return (struct range){storage->asymmetric ? -most - 1 : -most, most};
  const struct tensor *table = &decode->whole.inputs[storage->table - EXPR_TENSOR_INPUT];
  return (struct range){tensor_get(table, 0), tensor_get(table, tensor_count(table) - 1)};
}

static void scale_and_zero(const struct range *x, const struct range *codes, bool asymmetric,
                           double *scale, double *zero)
{
  *scale = asymmetric
               ? (x->most - x->least) / (codes->most - codes->least)
               : fmax(fabs(x->least), fabs(x->most)) / fmin(fabs(codes->least), fabs(codes->most));
  if (!isfinite(*scale))
    *scale = 0;
  *zero = x->least - codes->least * *scale;
}

static const DLTensor *find(const struct decode_step *step, const char *name)
{
  for (size_t n = 0; n < step->tensor_count; n++)
    if (strcmp(step->tensors[n].name, name) == 0)
      return step->tensors[n].tensor;
  return NULL;
}

static attn_status write_row(const struct decode *decode, const struct decode_step *step,
                             int32_t number, int64_t head, const double *values)
{
  const struct cache_tensor *planned = &decode->plan->tensors[number];
  const DLTensor *tensor = find(step, planned->name);
  int64_t channels = tensor->shape[1], stride = tensor->strides ? tensor->strides[0] : channels;
  size_t element = dtype_size(planned->type);
  float row[DECODE_MOST_CHANNELS]; /* aligned for either type */
  for (int64_t c = 0; c < channels; c++)
    dtype_store(planned->type, row, c, values[c]);
  return attn_memory_upload(decode->prepared.context,
                            (unsigned char *)tensor->data + tensor->byte_offset +
                                (size_t)(head * stride) * element,
                            row, (size_t)channels * element, NULL);
}

static attn_status calibrate(const struct decode *decode, const struct decode_step *step,
                             uint32_t source)
{
  const struct spec *spec = decode->whole.spec;
  const struct spec_storage *storage = cache_storage(spec, source);
  if (!is_calibrated(storage))
    return ATTN_OK;
  const struct tensor *given = source == EXPR_TENSOR_K ? &decode->whole.k : &decode->whole.v;
  const bool rotated = source == EXPR_TENSOR_K && spec->has_rotary && !spec->cache.rope_on_read;
  const struct range codes = range_of_codes(decode, storage);
  attn_status status = ATTN_OK;
  for (uint32_t head = 0; head < spec->kv_heads && status == ATTN_OK; head++) {
    double scales[DECODE_MOST_CHANNELS], zeros[DECODE_MOST_CHANNELS];
    const struct range of_all = rotated ? range_of_rotated(given, head) : (struct range){0, 0};
    for (uint32_t c = 0; c < cache_channels(spec, source); c++) {
      const struct range x = rotated ? of_all : range_of(given, head, c, c + 1);
      scale_and_zero(&x, &codes, storage->asymmetric, &scales[c], &zeros[c]);
    }
    status =
        write_row(decode, step, cache_plan_find(decode->plan, source, CACHE_SCALE), head, scales);
    if (storage->asymmetric && status == ATTN_OK)
      status =
          write_row(decode, step, cache_plan_find(decode->plan, source, CACHE_ZERO), head, zeros);
  }
  return status;
}

attn_status decode_calibrate(const struct decode *decode, const struct decode_step *step)
{
  attn_status status = calibrate(decode, step, EXPR_TENSOR_K);
  return status == ATTN_OK ? calibrate(decode, step, EXPR_TENSOR_V) : status;
}
