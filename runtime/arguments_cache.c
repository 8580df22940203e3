/* The checks of a launch that are about its cache: shapes, and what lengths and tables say. */
#include "runtime/checker.h"

#include "dsl/base/memory.h"

#include <stdio.h>

static const struct bound_tensor *part_of(const struct checker *c, enum cache_part part)
{
  int32_t n = cache_plan_find(c->unit->cache, EXPR_TENSOR_K, part);
  return n == CACHE_NONE_SUCH ? NULL : &c->call->cache[n];
}

/* ---- shapes ---- */

/* The size that a dimension must have, as far as it is known. */
static struct wanted_dim cache_dim(const struct checker *c, uint32_t number, uint32_t d)
{
  const struct cache_tensor *tensor = &c->unit->cache->tensors[number];
  const struct cache_dimension *dim = &tensor->dims[d];
  const char *text = c->unit->info.cache[number].dims[d];
  const struct call *call = c->call;
  const uint32_t codes = d + 1 == tensor->rank ? tile_elements_per_byte(tensor->type) : 1;
  switch (dim->kind) {
  case CACHE_DIM_B: return (struct wanted_dim){call->batch, text, "lengths"};
  case CACHE_DIM_PAGES: return (struct wanted_dim){call->pages, text, "k"};
  case CACHE_DIM_SLOTS:
    return (struct wanted_dim){call->slots < 0 ? -1 : call->slots / dim->quotient, text, "k"};
  case CACHE_DIM_CONSTANT: return (struct wanted_dim){(dim->size + codes - 1) / codes, NULL, NULL};
  case CACHE_DIM_TABLE:
  case CACHE_DIM_INPUT: break;
  }
  return (struct wanted_dim){-1, text, NULL};
}

/* Remembers the sizes that later tensors must have, too. */
static attn_status keep_sizes(const struct checker *c, uint32_t number)
{
  const struct cache_tensor *tensor = &c->unit->cache->tensors[number];
  struct call *call = c->call;
  for (uint32_t d = 0; d < tensor->rank; d++) {
    const struct cache_dimension *dim = &tensor->dims[d];
    const int64_t size = call->cache[number].sizes[d];
    if (dim->kind == CACHE_DIM_B)
      call->batch = size;
    else if (dim->kind == CACHE_DIM_TABLE)
      call->table = size;
    else if (dim->kind == CACHE_DIM_PAGES)
      call->pages = size;
    else if (dim->kind == CACHE_DIM_SLOTS && dim->quotient == 1)
      call->slots = size;
    else if (dim->kind == CACHE_DIM_SLOTS && call->slots % dim->quotient != 0)
      return error_report(
          c->sink, ATTN_ERROR_ARGUMENT,
          "cache tensor 'k': dimension 1 is %lld, no multiple of the %u tokens that "
          "share an element of %s",
          (long long)call->slots, dim->quotient, tensor->name);
  }
  return ATTN_OK;
}

static bool in_host_memory(const DLTensor *tensor)
{
  return tensor != NULL && ((int)tensor->device.device_type == kDLCPU ||
                            (int)tensor->device.device_type == kDLCUDAHost);
}

static bool may_be_on_host(enum cache_part part)
{
  return part == CACHE_LENGTHS || part == CACHE_PAGE_TABLE || part == CACHE_SEEN;
}

static attn_status check_tensor(const struct checker *c, uint32_t n, const DLTensor *given)
{
  static const struct checker_list list = {"cache tensor", "cache", "cache_count"};
  const struct cache_tensor *tensor = &c->unit->cache->tensors[n];
  const char *what = c->unit->cache_texts[n];
  if (given == NULL)
    return checker_missing(c, &list, tensor->name);
  const bool on_host =
      c->unit->device == NULL || (may_be_on_host(tensor->part) && in_host_memory(given));
  struct wanted_tensor wanted = {.what = what,
                                 .device = on_host ? NULL : c->unit->device,
                                 .type = unit_memory_type(tensor->type),
                                 .rank = tensor->rank,
                                 .written = c->unit->cache_written[n]};
  if (wanted.type == DTYPE_SPEC)
    wanted.type = c->unit->variant.type;
  else if (wanted.type != tensor->type)
    wanted.codes = tensor->type;
  for (uint32_t d = 0; d < tensor->rank; d++)
    wanted.dims[d] = cache_dim(c, n, d);
  struct bound_tensor *bound = &c->call->cache[n];
  attn_status status = tensor_check(given, &wanted, c->sink, bound);
  if (status != ATTN_OK)
    return status;
  if (!bound->empty && bound->strides[bound->rank - 1] != 1)
    return error_report(c->sink, ATTN_ERROR_ARGUMENT,
                        "%s: the last stride is %lld, it must be 1: a cache is not copied", what,
                        (long long)bound->strides[bound->rank - 1]);
  if (on_host && c->unit->device != NULL)
    c->call->cache_on_host |= UINT32_C(1) << n;
  return keep_sizes(c, n);
}

attn_status checker_cache_tensors(struct checker *c)
{
  static const struct checker_list list = {"cache tensor", "cache", "cache_count"};
  const struct cache_plan *plan = c->unit->cache;
  const DLTensor *tensors[CACHE_MAX_TENSORS];
  struct call *call = c->call;
  call->table = call->pages = call->slots = -1;
  call->cache_on_host = 0;
  attn_status status = checker_match(c, &list, c->arguments->cache, c->arguments->cache_count,
                                     c->unit->info.cache, c->unit->info.cache_count, tensors);
  /* B is that of lengths and the slots are those of k, whatever comes before them. */
  const uint32_t first[] = {
      (uint32_t)cache_plan_find(plan, EXPR_TENSOR_K, CACHE_LENGTHS),
      (uint32_t)cache_plan_find(plan, EXPR_TENSOR_K, CACHE_DATA),
  };
  for (uint32_t n = 0; status == ATTN_OK && n < 2; n++)
    status = check_tensor(c, first[n], tensors[first[n]]);
  for (uint32_t n = 0; status == ATTN_OK && n < plan->count; n++) {
    if (n != first[0] && n != first[1])
      status = check_tensor(c, n, tensors[n]);
  }
  return status;
}

attn_status checker_cache_expressions(const struct checker *c)
{
  const struct cache_plan *plan = c->unit->cache;
  for (uint32_t n = 0; n < plan->count; n++) {
    for (uint32_t d = 0; d < plan->tensors[n].rank; d++) {
      if (plan->tensors[n].dims[d].kind != CACHE_DIM_INPUT)
        continue;
      const int64_t wanted =
          expr_evaluate(c->evaluator->evaluator, plan->tensors[n].dims[d].input).i;
      if (c->call->cache[n].sizes[d] != wanted)
        return error_report(c->sink, ATTN_ERROR_ARGUMENT, "%s: dimension %u is %lld but %s is %lld",
                            c->unit->cache_texts[n], d, (long long)c->call->cache[n].sizes[d],
                            c->unit->info.cache[n].dims[d], (long long)wanted);
    }
  }
  return ATTN_OK;
}

/* ---- lengths ---- */

static bool is_visible(const struct checker *c, const struct bound_tensor *tensor)
{
  const size_t n = (size_t)(tensor - c->call->cache);
  return c->unit->device == NULL || (c->call->cache_on_host >> n & 1) != 0;
}

/* Tokens that a sequence can have; INT32_MAX where only `lengths` itself limits them, as a ring's
 * counts also what it has dropped. */
static int64_t capacity_of(const struct checker *c)
{
  const struct spec *spec = c->spec;
  int64_t tokens = INT32_MAX;
  switch (cache_layout(spec)) {
  case CACHE_PAGED: tokens = c->call->table * spec->cache.page; break;
  case CACHE_RING:
    if (spec->cache.positions == CACHE_POSITIONS_STORED)
      tokens = cache_ring_tokens(spec);
    break;
  case CACHE_NONE:
  case CACHE_RAGGED:
  case CACHE_DENSE: tokens = c->call->slots; break;
  }
  return tokens < INT32_MAX ? tokens : INT32_MAX;
}

/* Keys that kernels go over in a sequence of that length. */
static int64_t keys_of(const struct spec *spec, int64_t length)
{
  const int64_t ring = cache_ring_tokens(spec);
  const bool all = ring == 0 || spec->cache.positions == CACHE_POSITIONS_ORIGINAL;
  return all || length < ring ? length : ring;
}

static attn_status too_long(const struct checker *c, int64_t b, int64_t length)
{
  const struct spec *spec = c->spec;
  const struct call *call = c->call;
  char limit[96];
  switch (cache_layout(spec)) {
  case CACHE_PAGED:
    snprintf(limit, sizeof(limit), "%lld tokens that %lld pages of %u hold",
             (long long)call->table * spec->cache.page, (long long)call->table, spec->cache.page);
    break;
  case CACHE_RING:
    snprintf(limit, sizeof(limit), "%u tokens that the ring keeps", cache_ring_tokens(spec));
    break;
  case CACHE_NONE:
  case CACHE_RAGGED:
  case CACHE_DENSE:
    snprintf(limit, sizeof(limit), "%lld slots of k", (long long)call->slots);
    break;
  }
  return error_report(c->sink, ATTN_ERROR_ARGUMENT, "lengths[%lld] is %lld, more than the %s",
                      (long long)b, (long long)length, limit);
}

/* New tokens, or else queries, of a sequence. */
static int64_t rows_of(const struct checker *c, int64_t b)
{
  const struct bound_tensor *starts = &c->call->starts[0];
  if (c->packed)
    return checker_int_at(starts, b + 1) - checker_int_at(starts, b);
  return c->call->max_queries;
}

/* Queries that lie before their sequence begins are a mistake where the mask asks where they are.
 */
static bool rows_are_positions(const struct checker *c)
{
  return c->appends || (c->spec->align == ALIGN_END && expr_depends(c->spec->mask, EXPR_VAR_I));
}

static attn_status check_length(const struct checker *c, int64_t b, int64_t length,
                                int64_t capacity)
{
  const int64_t most = c->arguments->max_length;
  if (length < 0)
    return error_report(c->sink, ATTN_ERROR_ARGUMENT, "lengths[%lld] is %lld; it must be 0 or more",
                        (long long)b, (long long)length);
  if (length > capacity)
    return too_long(c, b, length);
  if (most != 0 && keys_of(c->spec, length) > most)
    return error_report(c->sink, ATTN_ERROR_ARGUMENT,
                        "lengths[%lld] is %lld, more than max_length, which is %lld", (long long)b,
                        (long long)length, (long long)most);
  const int64_t rows = rows_of(c, b);
  const bool dropped = cache_ring_tokens(c->spec) != 0 && /* and `length` is what was kept */
                       c->spec->cache.positions == CACHE_POSITIONS_STORED;
  if (length != 0 && length < rows && rows_are_positions(c) && !dropped)
    return error_report(c->sink, ATTN_ERROR_ARGUMENT,
                        "lengths[%lld] is %lld, less than the %lld %s of that sequence, which it "
                        "counts too",
                        (long long)b, (long long)length, (long long)rows,
                        c->appends ? "new tokens" : "queries");
  return ATTN_OK;
}

static attn_status check_lengths(const struct checker *c, const struct bound_tensor *lengths,
                                 int64_t *longest)
{
  const struct bound_tensor *seen = part_of(c, CACHE_SEEN);
  const int64_t capacity = capacity_of(c);
  *longest = 0;
  for (int64_t b = 0; b < c->call->batch; b++) {
    const int64_t length = checker_int_at(lengths, b);
    attn_status status = check_length(c, b, length, capacity);
    if (status != ATTN_OK)
      return status;
    if (seen != NULL && is_visible(c, seen) && checker_int_at(seen, b) < length)
      return error_report(c->sink, ATTN_ERROR_ARGUMENT,
                          "seen[%lld] is %lld, less than lengths[%lld], which is %lld",
                          (long long)b, (long long)checker_int_at(seen, b), (long long)b,
                          (long long)length);
    const int64_t keys = keys_of(c->spec, length);
    *longest = keys > *longest ? keys : *longest;
  }
  return ATTN_OK;
}

/* ---- page tables ---- */

static const int32_t *row_of(const struct bound_tensor *table, int64_t b)
{
  return (const int32_t *)(const void *)table->data + b * table->strides[0];
}

/* Entries `from` up to `to` of a sequence. */
static attn_status check_entries(const struct checker *c, const struct bound_tensor *table,
                                 int64_t b, int64_t from, int64_t to)
{
  const int32_t *row = row_of(table, b);
  const uint32_t pages = (uint32_t)c->call->pages;
  uint32_t wrong = 0; /* without a branch: tables may be long */
  for (int64_t t = from; t < to; t++)
    wrong |= (uint32_t)row[t] >= pages;
  if (wrong == 0)
    return ATTN_OK;
  while ((uint32_t)row[from] < pages)
    from++;
  return error_report(c->sink, ATTN_ERROR_ARGUMENT,
                      "page_table[%lld, %lld] is %d, but k has %u pages", (long long)b,
                      (long long)from, row[from], pages);
}

static attn_status check_read_pages(const struct checker *c, const struct bound_tensor *lengths,
                                    const struct bound_tensor *table)
{
  const int64_t page = c->spec->cache.page;
  attn_status status = ATTN_OK;
  for (int64_t b = 0; status == ATTN_OK && b < c->call->batch; b++)
    status = check_entries(c, table, b, 0, (checker_int_at(lengths, b) + page - 1) / page);
  return status;
}

/* ---- shared prefixes ---- */

static attn_status check_prefix_size(const struct checker *c)
{
  const int64_t prefix = c->arguments->shared_prefix, page = c->spec->cache.page;
  if (prefix < 0 || prefix > INT32_MAX)
    return error_report(c->sink, ATTN_ERROR_ARGUMENT,
                        "shared_prefix is %lld; it must be from 0 to %d", (long long)prefix,
                        INT32_MAX);
  if (c->appends)
    return error_report(c->sink, ATTN_ERROR_ARGUMENT,
                        "shared_prefix is %lld; attn_append does not take one", (long long)prefix);
  if (cache_layout(c->spec) != CACHE_PAGED)
    return error_report(c->sink, ATTN_ERROR_ARGUMENT,
                        "shared_prefix is %lld, but only sequences of a paged cache share tokens; "
                        "it must be 0",
                        (long long)prefix);
  if (prefix % page != 0)
    return error_report(c->sink, ATTN_ERROR_ARGUMENT,
                        "shared_prefix is %lld, no multiple of the page of %lld tokens",
                        (long long)prefix, (long long)page);
  return ATTN_OK;
}

/* `lengths` and the entries of `table` are checked, which is NULL where they cannot be seen. */
static attn_status check_prefix(const struct checker *c, const struct bound_tensor *lengths,
                                const struct bound_tensor *table)
{
  const int64_t prefix = c->arguments->shared_prefix;
  const int64_t pages = prefix / c->spec->cache.page;
  int64_t first = -1;
  for (int64_t b = 0; b < c->call->batch; b++) {
    const int64_t length = checker_int_at(lengths, b);
    if (length == 0)
      continue;
    if (length < prefix)
      return error_report(c->sink, ATTN_ERROR_ARGUMENT,
                          "lengths[%lld] is %lld, less than shared_prefix, which is %lld",
                          (long long)b, (long long)length, (long long)prefix);
    first = first < 0 ? b : first;
    for (int64_t t = 0; table != NULL && b != first && t < pages; t++) {
      const int32_t own = row_of(table, b)[t], other = row_of(table, first)[t];
      if (own != other)
        return error_report(c->sink, ATTN_ERROR_ARGUMENT,
                            "page_table[%lld, %lld] is %d and page_table[%lld, %lld] is %d, but "
                            "the %lld tokens of shared_prefix must lie in the same pages",
                            (long long)first, (long long)t, other, (long long)b, (long long)t, own,
                            (long long)prefix);
    }
  }
  return ATTN_OK;
}

/* ---- pages that are written ---- */

/* Pages and the entries that name them, hashed; no entry stands twice. */
struct page_claim {
  int32_t page; /* -1: free */
  int32_t entry;
  int64_t sequence;
};
struct page_claims {
  struct page_claim *claims;
  uint64_t mask; /* their count - 1, which is at least twice the pages */
};

static attn_status claim(const struct checker *c, const struct page_claims *set, int64_t b,
                         int64_t t, int32_t page)
{
  uint64_t at = (uint64_t)(uint32_t)page * UINT64_C(0x9e3779b97f4a7c15) >> 32 & set->mask;
  for (; set->claims[at].page >= 0; at = (at + 1) & set->mask) {
    const struct page_claim *other = &set->claims[at];
    if (other->page != page)
      continue;
    if (other->sequence == b && other->entry == t)
      return ATTN_OK;
    return error_report(c->sink, ATTN_ERROR_ARGUMENT,
                        "page_table[%lld, %d] and page_table[%lld, %lld] are both page %d, and new "
                        "tokens of both would be written there",
                        (long long)other->sequence, other->entry, (long long)b, (long long)t, page);
  }
  set->claims[at] = (struct page_claim){page, (int32_t)t, b};
  return ATTN_OK;
}

struct token_range {
  int64_t begin, end;
};
enum { WRITTEN_RANGES = 3 };

/* Positions of K or V that leave the residual, or never enter it. */
static struct token_range stored_range(const struct spec_storage *storage, int64_t before,
                                       int64_t length)
{
  const int64_t residual = storage->residual;
  if (residual == 0)
    return (struct token_range){before, length};
  if (storage->axis == CACHE_AXIS_CHANNEL)
    return (struct token_range){before - before % residual, length - length % residual};
  return (struct token_range){before < residual ? 0 : before - residual,
                              length < residual ? 0 : length - residual};
}

/* What else lies in pages gets every new token. */
static bool has_plain_slots(const struct cache_plan *plan)
{
  for (uint32_t n = 0; n < plan->count; n++) {
    const struct cache_tensor *tensor = &plan->tensors[n];
    if (tensor->part == CACHE_POSITIONS || tensor->part == CACHE_REST ||
        (tensor->part == CACHE_DATA && tensor->source >= EXPR_TENSOR_INPUT))
      return true;
  }
  return false;
}

static uint32_t written_ranges(const struct checker *c, int64_t b, int64_t length,
                               struct token_range ranges[WRITTEN_RANGES])
{
  const int64_t before = length - rows_of(c, b);
  uint32_t count = 0;
  if (length == 0 || before == length)
    return 0;
  ranges[count++] = stored_range(cache_storage(c->spec, EXPR_TENSOR_K), before, length);
  if (!c->spec->value_is_key)
    ranges[count++] = stored_range(cache_storage(c->spec, EXPR_TENSOR_V), before, length);
  if (has_plain_slots(c->unit->cache))
    ranges[count++] = (struct token_range){before, length};
  const int64_t page = c->spec->cache.page;
  for (uint32_t n = 0; n < count; n++) { /* in pages */
    ranges[n].begin /= page;
    ranges[n].end = (ranges[n].end + page - 1) / page;
  }
  return count;
}

static attn_status claim_pages(const struct checker *c, const struct page_claims *set,
                               const struct bound_tensor *table, int64_t b, int64_t length)
{
  struct token_range ranges[WRITTEN_RANGES];
  const uint32_t count = written_ranges(c, b, length, ranges);
  attn_status status = ATTN_OK;
  for (uint32_t n = 0; status == ATTN_OK && n < count; n++) {
    status = check_entries(c, table, b, ranges[n].begin, ranges[n].end);
    for (int64_t t = ranges[n].begin; status == ATTN_OK && t < ranges[n].end; t++)
      status = claim(c, set, b, t, row_of(table, b)[t]);
  }
  return status;
}

static attn_status check_written_pages(const struct checker *c, const struct bound_tensor *lengths,
                                       const struct bound_tensor *table)
{
  struct page_claim few[256];
  struct page_claims set = {few, sizeof(few) / sizeof(few[0]) - 1};
  uint64_t most = 0;
  for (int64_t b = 0; b < c->call->batch; b++) {
    struct token_range ranges[WRITTEN_RANGES];
    const uint32_t count = written_ranges(c, b, checker_int_at(lengths, b), ranges);
    for (uint32_t n = 0; n < count; n++)
      most += ranges[n].end > ranges[n].begin ? (uint64_t)(ranges[n].end - ranges[n].begin) : 0;
  }
  while (set.mask < 2 * most)
    set.mask = 2 * set.mask + 1;
  if (set.mask >= sizeof(few) / sizeof(few[0]))
    set.claims = mem_alloc((set.mask + 1) * sizeof(few[0]));
  if (set.claims == NULL)
    return error_out_of_memory(c->sink);
  for (uint64_t n = 0; n <= set.mask; n++)
    set.claims[n].page = -1;
  attn_status status = ATTN_OK;
  for (int64_t b = 0; status == ATTN_OK && b < c->call->batch; b++)
    status = claim_pages(c, &set, table, b, checker_int_at(lengths, b));
  if (set.claims != few)
    mem_free(set.claims);
  return status;
}

/* ---- all ---- */

/* What launches are planned for where nobody says how long sequences are. */
static attn_status assume_length(const struct checker *c, int64_t *longest)
{
  const bool unlimited = capacity_of(c) == INT32_MAX && cache_layout(c->spec) == CACHE_RING;
  *longest = keys_of(c->spec, capacity_of(c));
  if (*longest != INT32_MAX || !unlimited)
    return ATTN_OK;
  return error_report(c->sink, ATTN_ERROR_ARGUMENT,
                      "max_length is 0, and lengths are in device memory: say how many tokens the "
                      "longest sequence has, for which a ring sets no limit");
}

static attn_status check_values(const struct checker *c, int64_t *longest)
{
  const struct bound_tensor *lengths = part_of(c, CACHE_LENGTHS);
  const struct bound_tensor *table = part_of(c, CACHE_PAGE_TABLE);
  if (!is_visible(c, lengths))
    return c->arguments->max_length == 0 ? assume_length(c, longest) : ATTN_OK;
  attn_status status = check_lengths(c, lengths, longest);
  if (table != NULL && !is_visible(c, table))
    table = NULL;
  if (status == ATTN_OK && table != NULL)
    status =
        c->appends ? check_written_pages(c, lengths, table) : check_read_pages(c, lengths, table);
  if (status == ATTN_OK && c->arguments->shared_prefix != 0)
    status = check_prefix(c, lengths, table);
  return status;
}

attn_status checker_cache_values(struct checker *c)
{
  const int64_t given = c->arguments->max_length;
  int64_t longest = 0;
  if (given < 0 || given > INT32_MAX)
    return error_report(c->sink, ATTN_ERROR_ARGUMENT, "max_length is %lld; it must be from 0 to %d",
                        (long long)given, INT32_MAX);
  attn_status status = ATTN_OK;
  c->call->shared_prefix = c->arguments->shared_prefix;
  if (c->arguments->shared_prefix != 0)
    status = check_prefix_size(c);
  if (status == ATTN_OK)
    status = check_values(c, &longest);
  c->call->max_length = given != 0 ? keys_of(c->spec, given) : longest;
  if (!c->appends)
    c->call->max_keys = c->call->max_length;
  return status;
}
