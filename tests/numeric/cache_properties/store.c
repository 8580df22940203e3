/* Caches in memory of the tests. */
#include "tests/numeric/cache_properties/model.h"

#include <stdlib.h>
#include <string.h>

static int64_t size_of(const struct store *s, const char *dim)
{
  if (strcmp(dim, "B") == 0)
    return s->sequences;
  if (strcmp(dim, "table") == 0)
    return s->table;
  if (strcmp(dim, "pages") == 0)
    return s->pages;
  if (strncmp(dim, "slots", 5) == 0)
    return s->slots / (dim[5] == '\0' ? 1 : atoi(dim + 8)); /* "slots / 32" */
  return atoi(dim);
}

/* Whether the first two dimensions are those of a token's slot. */
static bool has_slots(const attn_tensor_info *info)
{
  return info->rank >= 2 && strcmp(info->name, "page_table") != 0 &&
         strstr(info->name, ".recent") == NULL;
}

/* Tokens before heads or after them, and a gap behind each page or sequence. */
static void make_tensor(struct store *s, size_t n, struct draw *draw)
{
  const attn_tensor_info *info = &s->info->cache[n];
  int64_t shape[5], strides[5], elements = 1;
  int order[] = {0, 1, 2, 3, 4};
  for (uint32_t d = 0; d < info->rank; d++)
    shape[d] = size_of(s, info->dims[d]);
  if (info->rank == 4 && pick(draw, 0, 1) == 1) {
    order[1] = 2;
    order[2] = 1;
  }
  for (int k = (int)info->rank; k-- > 0;) {
    strides[order[k]] = elements;
    elements *= shape[order[k]];
    if (k > 0 && k + 1 < (int)info->rank)
      elements += pick(draw, 0, 2) * shape[info->rank - 1];
  }
  struct array *a = &s->tensors[n];
  const int64_t flat[] = {elements};
  array_make(a, info->type, 1, flat);
  a->tensor.ndim = (int)info->rank;
  memcpy(a->shape, shape, sizeof(shape));
  memcpy(a->strides, strides, sizeof(strides));
  memset(a->host, 0xff, a->bytes);
  array_upload(a);
  s->named[n] = (attn_named_tensor){info->name, &a->tensor};
}

/* Pages in no order. */
static void make_table(struct store *s, struct draw *draw)
{
  struct array *table = store_find(s, "page_table");
  if (table == NULL)
    return;
  int32_t *entries = table->host;
  for (int64_t n = 0; n < s->pages; n++) {
    if (n < s->sequences * s->table)
      entries[n] = (int32_t)n;
  }
  for (int64_t n = s->sequences * s->table; n-- > 1;) { /* Fisher and Yates */
    int64_t other = pick(draw, 0, n);
    int32_t kept = entries[n];
    entries[n] = entries[other];
    entries[other] = kept;
  }
  for (int64_t n = 0; n < s->sequences * s->table; n++)
    entries[n] += (int32_t)(s->pages - s->sequences * s->table); /* the first ones are not used */
  array_upload(table);
}

static int64_t page_of(const attn_program_info *info)
{
  for (size_t n = 0; n < info->cache_count; n++)
    if (strcmp(info->cache[n].name, "k") == 0 && strcmp(info->cache[n].dims[0], "pages") == 0)
      return atoi(info->cache[n].dims[1]);
  return 0;
}

void store_open(struct store *s, const struct model *m, int sequences, int64_t tokens,
                struct draw *draw)
{
  *s = (struct store){.info = attn_program_describe(m->program), .sequences = sequences};
  ck_assert_uint_le(s->info->cache_count, MOST_TENSORS);
  s->page = page_of(s->info);
  if (s->page > 0) {
    s->table = (tokens + s->page - 1) / s->page + pick(draw, 0, 2);
    s->pages = sequences * s->table + pick(draw, 0, 2);
  }
  s->slots = (tokens + pick(draw, 0, 5) + 31) / 32 * 32;
  for (size_t n = 0; n < s->info->cache_count; n++)
    make_tensor(s, n, draw);
  make_table(s, draw);
}

void store_close(struct store *s)
{
  for (size_t n = 0; n < s->info->cache_count; n++)
    array_free(&s->tensors[n]);
}

struct array *store_find(struct store *s, const char *name)
{
  for (size_t n = 0; n < s->info->cache_count; n++)
    if (strcmp(s->info->cache[n].name, name) == 0)
      return &s->tensors[n];
  return NULL;
}

void store_set_lengths(struct store *s, const int64_t *lengths)
{
  static const char *const names[] = {"lengths", "seen"};
  for (int n = 0; n < 2; n++) {
    struct array *a = store_find(s, names[n]);
    for (int b = 0; b < s->sequences && a != NULL; b++)
      ((int32_t *)a->host)[b] = (int32_t)lengths[b];
    if (a != NULL)
      array_upload(a);
  }
}

/* ---- moving tokens ---- */

/* What a tensor holds for a token, or puts it there: every element of the other dimensions. */
static void copy_slot(struct store *s, size_t n, int sequence, int64_t token, char *values,
                      bool put)
{
  struct array *a = &s->tensors[n];
  const int32_t *table = s->page > 0 ? store_find(s, "page_table")->host : NULL;
  int64_t first = sequence, second = token, count = 1;
  if (table != NULL) {
    first = table[sequence * s->table + token / s->page];
    second = token % s->page;
  }
  const size_t size = a->tensor.dtype.bits / 8u;
  for (int d = 2; d < a->tensor.ndim; d++)
    count *= a->shape[d];
  for (int64_t k = 0; k < count; k++) {
    int64_t place = first * a->strides[0] + second * a->strides[1], rest = k;
    for (int d = a->tensor.ndim; d-- > 2; rest /= a->shape[d])
      place += rest % a->shape[d] * a->strides[d];
    char *at = (char *)a->host + (size_t)place * size;
    memcpy(put ? at : values + (size_t)k * size, put ? values + (size_t)k * size : at, size);
  }
}

void store_permute(struct store *s, int sequence, const int64_t *order, int64_t count)
{
  enum { MOST_BYTES = 1024 };
  static char kept[MOST_TOKENS][MOST_BYTES];
  for (size_t n = 0; n < s->info->cache_count; n++) {
    if (!has_slots(&s->info->cache[n]))
      continue;
    array_download(&s->tensors[n]);
    for (int64_t token = 0; token < count; token++)
      copy_slot(s, n, sequence, token, kept[token], false);
    for (int64_t token = 0; token < count; token++)
      copy_slot(s, n, sequence, token, kept[order[token]], true);
    array_upload(&s->tensors[n]);
  }
}

/* ---- steps ---- */

/* Tokens of the next step; false when nothing is left. */
static bool next_step(const struct batch *whole, struct batch *step, struct draw *draw)
{
  int64_t left[MOST_SEQUENCES], least = MOST_TOKENS, most = 0;
  for (int b = 0; b < whole->sequences; b++) {
    left[b] = whole->lengths[b] - step->lengths[b];
    least = left[b] < least ? left[b] : least;
    most = left[b] > most ? left[b] : most;
  }
  const int64_t sizes[] = {1, 1, 1, 2, 3, 7, 17, 40};
  const int64_t size = PICK_OF(draw, sizes);
  step->packed = least == 0 || pick(draw, 0, 2) == 0;
  for (int b = 0; b < whole->sequences; b++) {
    int64_t rows = step->packed ? pick(draw, 0, size) : size < least ? size : least;
    step->rows[b] = rows < left[b] ? rows : left[b];
    step->lengths[b] += step->rows[b];
  }
  return most > 0;
}

void store_fill(struct store *s, const struct model *m, const struct batch *whole,
                struct draw *draw, struct rows *rows)
{
  struct batch step = *whole;
  memset(step.lengths, 0, sizeof(step.lengths));
  memset(rows, 0, sizeof(*rows));
  while (next_step(whole, &step, draw)) {
    store_set_lengths(s, step.lengths);
    model_append(m, s->named, s->info->cache_count, &step);
    model_attend(m, s->named, s->info->cache_count, &step, rows);
  }
}
