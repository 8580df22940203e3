/* The checks that nothing that a launch writes shares memory with its other tensors. */
#include "runtime/checker.h"

static bool ranges_meet(const struct bound_tensor *a, const struct bound_tensor *b)
{
  uintptr_t a_first, a_end, b_first, b_end;
  tensor_extent(a, &a_first, &a_end);
  tensor_extent(b, &b_first, &b_end);
  return a_first < b_end && b_first < a_end;
}

/* ---- interleaved tensors ---- */

/* The elements of a tensor: `size` bytes at every sum of index * stride, largest stride first. */
struct comb {
  uint32_t rank;
  int64_t sizes[SPEC_MAX_RANK], strides[SPEC_MAX_RANK]; /* in bytes */
  int64_t size;
};

static struct comb comb_of(const struct bound_tensor *tensor)
{
  struct comb comb = {.size = (int64_t)dtype_size(tensor->type)};
  for (uint32_t d = 0; d < tensor->rank; d++) {
    const int64_t stride = tensor->strides[d] * comb.size;
    if (tensor->sizes[d] <= 1 || stride == 0)
      continue;
    uint32_t at = comb.rank++;
    for (; at > 0 && comb.strides[at - 1] < stride; at--) {
      comb.sizes[at] = comb.sizes[at - 1];
      comb.strides[at] = comb.strides[at - 1];
    }
    comb.sizes[at] = tensor->sizes[d];
    comb.strides[at] = stride;
  }
  return comb;
}

static int64_t comb_extent(const struct comb *comb, uint32_t from)
{
  int64_t extent = comb->size;
  for (uint32_t d = from; d < comb->rank; d++)
    extent += (comb->sizes[d] - 1) * comb->strides[d];
  return extent;
}

/* Whether some element of `b`, from dimension `at` on, which begins `distance` bytes after `a`,
 * shares bytes with one of `a`. Where both have the same outer stride it is enough to look at one
 * step of each, and its neighbour; what is nested in other ways counts as shared. */
static bool combs_meet(const struct comb *a, const struct comb *b, uint32_t at, int64_t distance)
{
  if (distance >= comb_extent(a, at) || -distance >= comb_extent(b, at))
    return false;
  if (at >= a->rank || at >= b->rank || a->strides[at] != b->strides[at])
    return true;
  const int64_t stride = a->strides[at];
  if (comb_extent(a, at + 1) > stride || comb_extent(b, at + 1) > stride)
    return true;
  const int64_t within = ((distance % stride) + stride) % stride;
  return combs_meet(a, b, at + 1, within) || combs_meet(a, b, at + 1, within - stride);
}

static bool elements_meet(const struct bound_tensor *a, const struct bound_tensor *b)
{
  if (!ranges_meet(a, b))
    return false;
  const struct comb first = comb_of(a), second = comb_of(b);
  return combs_meet(&first, &second, 0, (int64_t)(b->data - a->data));
}

/* ---- all pairs ---- */

struct written {
  const struct bound_tensor *tensor;
  const char *before, *name, *after; /* "output '", "lse", "'" */
};

static attn_status meet(const struct checker *c, const struct written *written, const char *before,
                        const char *name, const char *after)
{
  return error_report(c->sink, ATTN_ERROR_ARGUMENT,
                      "%s%s%s is written, but its memory overlaps that of %s%s%s", written->before,
                      written->name, written->after, before, name, after);
}

static attn_status check_apart(const struct checker *c, const struct written *written,
                               const struct bound_tensor *other, const char *before,
                               const char *name, const char *after)
{
  if (written->tensor == other || !ranges_meet(written->tensor, other))
    return ATTN_OK;
  return meet(c, written, before, name, after);
}

/* Against everything that a launch has but itself, outputs from `outputs` on, and the cache's
 * tensors. */
static attn_status check_against_all(const struct checker *c, const struct written *written,
                                     uint32_t outputs)
{
  const struct call *call = c->call;
  attn_status status = check_apart(c, written, &call->q, "", "q", "");
  if (status == ATTN_OK)
    status = check_apart(c, written, &call->k, "", "k", "");
  if (status == ATTN_OK)
    status = check_apart(c, written, &call->v, "", "v", "");
  if (status == ATTN_OK && c->packed)
    status = check_apart(c, written, &call->starts[0], "", "query_starts", "");
  if (status == ATTN_OK && c->packed)
    status = check_apart(c, written, &call->starts[1], "", "key_starts", "");
  for (uint32_t n = 0; status == ATTN_OK && n < c->spec->input_count; n++)
    status = check_apart(c, written, &call->inputs[n], "input '", c->spec->inputs[n].name, "'");
  if (status == ATTN_OK)
    status = check_apart(c, written, &call->o, "", "o", "");
  for (uint32_t n = 0; status == ATTN_OK && n < outputs; n++)
    status =
        check_apart(c, written, &call->outputs[n], "output '", c->unit->info.outputs[n].name, "'");
  return status;
}

static attn_status check_result(const struct checker *c, const struct written *written,
                                uint32_t earlier_outputs)
{
  attn_status status = check_against_all(c, written, earlier_outputs);
  for (uint32_t n = 0; status == ATTN_OK && c->on_cache && n < c->unit->cache->count; n++)
    status = check_apart(c, written, &c->call->cache[n], "cache tensor '",
                         c->unit->cache->tensors[n].name, "'");
  return status;
}

static attn_status check_cache_tensor(const struct checker *c, uint32_t number)
{
  const struct cache_plan *plan = c->unit->cache;
  const struct written written = {&c->call->cache[number], "cache tensor '",
                                  plan->tensors[number].name, "'"};
  attn_status status = check_against_all(c, &written, 0);
  for (uint32_t n = 0; status == ATTN_OK && n < plan->count; n++) {
    const bool again = n < number && c->unit->cache_written[n];
    if (n != number && !again && elements_meet(written.tensor, &c->call->cache[n]))
      status = meet(c, &written, "cache tensor '", plan->tensors[n].name, "'");
  }
  return status;
}

attn_status checker_overlaps(const struct checker *c)
{
  const attn_tensor_info *outputs = c->unit->info.outputs;
  attn_status status = check_result(c, &(struct written){&c->call->o, "", "o", ""}, 0);
  for (uint32_t n = 0; status == ATTN_OK && n < c->spec->output_count; n++) {
    struct written output = {&c->call->outputs[n], "output '", outputs[n].name, "'"};
    status = check_result(c, &output, n);
  }
  for (uint32_t n = 0; status == ATTN_OK && c->on_cache && n < c->unit->cache->count; n++) {
    if (c->unit->cache_written[n])
      status = check_cache_tensor(c, n);
  }
  return status;
}
