/* attnc decode --shared-prefix: what its sequences have in common, and launches that use it beside
 * launches that do not. */
#include <math.h>
#include <string.h>

#include "runtime/attnc/decode.h"

enum exit_status decode_share_check(const struct decode *decode)
{
  const struct spec *spec = decode->whole.spec;
  const long long prefix = (long long)decode->shared_prefix;
  if (prefix == 0)
    return EXIT_FINE;
  if (cache_layout(spec) != CACHE_PAGED)
    return fail_with(EXIT_WRONG,
                     "--shared-prefix: the cache of '%s' has no pages to share; give it "
                     "cache paged(page = 16)",
                     spec->name);
  if (prefix % spec->cache.page != 0)
    return fail_with(EXIT_USAGE, "--shared-prefix %lld is no multiple of the page of %u tokens",
                     prefix, spec->cache.page);
  if (prefix > decode->prompt)
    return fail_with(EXIT_USAGE, "--shared-prefix %lld is more than the prompt of %lld tokens",
                     prefix, (long long)decode->prompt);
  if (decode->whole.batch < 2)
    return fail_with(EXIT_USAGE, "--shared-prefix takes at least two sequences: --batch 2");
  return EXIT_FINE;
}

/* The tensor's first tokens of the first sequence, in all others. */
static enum exit_status copy_prefix(struct decode *decode, enum workload_role role, uint32_t number)
{
  struct workload *whole = &decode->whole;
  struct tensor *tensor = workload_tensor(whole, role, number);
  struct workload_shape shape;
  if (!workload_shape(whole, role, number, &shape))
    return EXIT_WRONG;
  int axis = shape.ndim;
  while (--axis > 0 && shape.kinds[axis] != DIM_NK) {
  }
  if (axis <= 0 || shape.kinds[0] != DIM_B)
    return EXIT_FINE; /* it is of all sequences */
  size_t token = tensor_dtype_size(tensor->dtype);
  for (int d = axis + 1; d < shape.ndim; d++)
    token *= (size_t)shape.dims[d];
  const size_t run = (size_t)shape.dims[axis] * token;
  const size_t sequence = tensor->bytes / (size_t)whole->batch;
  unsigned char *data = tensor->data;
  for (size_t at = sequence; at < tensor->bytes; at += run)
    memcpy(data + at, data + at % sequence, (size_t)decode->shared_prefix * token);
  return EXIT_FINE;
}

enum exit_status decode_share_tokens(struct decode *decode)
{
  const struct spec *spec = decode->whole.spec;
  if (decode->shared_prefix == 0)
    return EXIT_FINE;
  enum exit_status status = copy_prefix(decode, WORKLOAD_K, 0);
  if (status == EXIT_FINE && !spec->value_is_key)
    status = copy_prefix(decode, WORKLOAD_V, 0);
  for (uint32_t n = 0; n < spec->input_count && status == EXIT_FINE; n++)
    if (spec->inputs[n].cached)
      status = copy_prefix(decode, WORKLOAD_INPUT, n);
  return status;
}

void decode_share_compare(struct decode *decode, const struct tensor *shared,
                          const struct tensor *apart)
{
  for (int64_t n = 0; n < tensor_count(shared); n++)
    decode->sharing_error = fmax(decode->sharing_error, tensor_element_distance(shared, apart, n));
}
