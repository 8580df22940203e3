#include "runtime/attnc/compare.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* The values of one (b, h), or of all heads of b; near ties left out. */
struct slice {
  double *out, *ref, *naive;
  int64_t *place; /* number of the element within the slice, near ties counted */
  size_t count, capacity;
  int64_t per_head; /* elements; place / per_head is the head, counted from the first one's */
};

/* Empty, with room for so many. */
static bool reserve(struct slice *slice, size_t capacity)
{
  slice->count = 0;
  if (capacity <= slice->capacity)
    return true;
  double *values = mem_alloc_zeroed(capacity, 3 * sizeof(double));
  int64_t *place = mem_alloc_zeroed(capacity, sizeof(int64_t));
  if (values == NULL || place == NULL) {
    mem_free(values);
    mem_free(place);
    return false;
  }
  mem_free(slice->out);
  mem_free(slice->place);
  *slice = (struct slice){.out = values,
                          .ref = values + capacity,
                          .naive = values + 2 * capacity,
                          .place = place,
                          .capacity = capacity,
                          .per_head = slice->per_head};
  return true;
}

static void add(struct slice *slice, double out, double ref, double naive, int64_t place)
{
  slice->out[slice->count] = out;
  slice->ref[slice->count] = ref;
  slice->naive[slice->count] = naive;
  slice->place[slice->count++] = place;
}

/* Applies the rule to what is of `type`. `width`: elements of a row, 0 when a row is one number. */
static void judge(const struct slice *slice, const char *name, enum dtype type, int64_t b,
                  int64_t h, int64_t width, struct comparison *comparison)
{
  if (slice->count == 0)
    return;
  struct ref_error error = ref_compare(slice->out, slice->ref, slice->naive, slice->count, type);
  double ratio =
      error.out_error == 0 ? 0 : error.out_error / error.bound; /* infinite for a bound of 0 */
  bool is_o = strcmp(name, "o") == 0;
  if (is_o && error.out_error > comparison->max_error)
    comparison->max_error = error.out_error;
  comparison->ok &= error.ok;
  for (size_t k = 0; k < slice->count; k++)
    comparison->nans += isnan(slice->ref[k]) && isnan(slice->out[k]);
  bool first = comparison->where[0] == '\0';
  if (!first && ratio <= comparison->worst_ratio)
    return;
  comparison->worst_ratio = ratio;
  if (is_o)
    comparison->bound = error.bound;
  int64_t place = slice->place[error.worst] % slice->per_head;
  h += slice->place[error.worst] / slice->per_head;
  comparison->out = slice->out[error.worst];
  comparison->ref = slice->ref[error.worst];
  int used = snprintf(comparison->where, sizeof(comparison->where), "%s[%lld, %lld, %lld", name,
                      (long long)b, (long long)h, (long long)(width > 0 ? place / width : place));
  if (width > 0)
    used += snprintf(comparison->where + used, sizeof(comparison->where) - (size_t)used, ", %lld",
                     (long long)(place % width));
  snprintf(comparison->where + used, sizeof(comparison->where) - (size_t)used, "]");
}

/* What is compared: o, or output `number`. */
struct subject {
  const struct tensor *tensor;
  const char *name;
  const double *exact, *naive;
  enum output_kind kind; /* of an output */
  bool is_o;
};

static bool per_row(const struct subject *subject)
{
  return subject->is_o || (subject->kind != OUTPUT_MASS && subject->kind != OUTPUT_WEIGHTS);
}

/* Rows and columns of a head: of o its channels, of weights and mass the keys, else one. */
struct extent {
  int64_t rows, columns, width; /* width: 0 where a row is one number */
};

static struct extent extent_of(const struct workload *workload, const struct subject *subject,
                               int64_t b)
{
  bool is_mass = !subject->is_o && subject->kind == OUTPUT_MASS;
  struct extent extent = {.rows = is_mass ? 1 : workload_queries(workload, b), .columns = 1};
  if (subject->is_o)
    extent.columns = workload->spec->dim_v;
  else if (!per_row(subject))
    extent.columns = workload_keys(workload, b);
  if (subject->is_o || (!is_mass && !per_row(subject)))
    extent.width = extent.columns;
  return extent;
}

/* Adds (b, h) of the subject, which has room. `row`: where its rows begin among the reference's. */
static void gather(struct workload *workload, const struct subject *subject,
                   const struct ref_result *exact, int64_t b, int64_t h, uint32_t heads,
                   int64_t row, int64_t place, struct slice *slice)
{
  const struct spec *spec = workload->spec;
  bool is_mass = !subject->is_o && subject->kind == OUTPUT_MASS;
  struct extent extent = extent_of(workload, subject, b);
  for (int64_t r = 0; r < extent.rows; r++) {
    if (!is_mass && exact->near_tie[row + r])
      continue;
    int64_t head = b * heads + h;
    for (int64_t c = 0; c < extent.columns; c++) {
      int64_t from = (row + r) * extent.columns + c;
      int64_t at = workload_row(workload, b, h, r) * extent.columns + c;
      if (is_mass) {
        from = head * workload->keys + c;
        at = workload->ragged ? (workload->key_starts[b] + c) * spec->query_heads + h
                              : (b * spec->query_heads + h) * extent.columns + c;
      } else if (!per_row(subject)) {
        from = (head * workload->queries + r) * workload->keys + c;
        at = workload_row(workload, b, h, r) * workload->keys + c;
      }
      add(slice, tensor_get(subject->tensor, at), subject->exact[from], subject->naive[from],
          place + r * extent.columns + c);
    }
  }
}

/* Mass sums over rows: one near tie spoils it for the head. */
static bool has_near_tie(const struct ref_result *exact, int64_t row, int64_t rows)
{
  for (int64_t r = 0; r < rows; r++)
    if (exact->near_tie[row + r])
      return true;
  return false;
}

static bool compare_subject(struct workload *workload, const struct subject *subject,
                            const struct ref_result *exact, uint32_t heads, bool pools,
                            struct slice *slice, struct comparison *comparison)
{
  int64_t row = 0;
  bool is_mass = !subject->is_o && subject->kind == OUTPUT_MASS;
  uint32_t together = pools || is_mass ? heads : 1;
  for (int64_t b = 0; b < workload->batch; b++) {
    int64_t queries = workload_queries(workload, b);
    const struct extent extent = extent_of(workload, subject, b);
    slice->per_head = extent.rows * extent.columns;
    for (int64_t h = 0; h < heads; h += together) {
      if (!reserve(slice, (size_t)(slice->per_head * together)))
        return false;
      for (uint32_t n = 0; n < together; n++, row += queries)
        if (!is_mass || !has_near_tie(exact, row, queries))
          gather(workload, subject, exact, b, h + n, heads, row, n * slice->per_head, slice);
      judge(slice, subject->name, subject->is_o ? workload->type : DTYPE_F32, b, h, extent.width,
            comparison);
    }
  }
  return true;
}

static bool compare_results(struct workload *workload, const struct ref_result *exact,
                            const struct ref_result *naive, uint32_t heads, bool pools,
                            struct comparison *comparison)
{
  struct slice slice = {0};
  struct subject subject = {
      .tensor = &workload->o, .name = "o", .exact = exact->o, .naive = naive->o, .is_o = true};
  bool good = compare_subject(workload, &subject, exact, heads, pools, &slice, comparison);
  for (uint32_t k = 0; k < workload->spec->output_count && good; k++) {
    char name[64];
    subject = (struct subject){.tensor = &workload->outputs[k],
                               .name = workload_name(workload->spec, WORKLOAD_OUTPUT, k, name),
                               .exact = exact->outputs[k],
                               .naive = naive->outputs[k],
                               .kind = workload->spec->outputs[k].kind};
    good = compare_subject(workload, &subject, exact, heads, pools, &slice, comparison);
  }
  mem_free(slice.out);
  mem_free(slice.place);
  return good;
}

static bool compare(struct workload *workload, uint32_t heads, bool pools,
                    struct comparison *comparison)
{
  *comparison = (struct comparison){.ok = true};
  struct ref_result exact;
  struct ref_result naive = {0};
  if (!workload_reference(workload, REF_EXACT, heads, &exact))
    return false;
  comparison->fault = exact.fault;
  comparison->visible = exact.visible;
  comparison->pairs = exact.pairs;
  for (int64_t row = 0; row < exact.rows; row++)
    comparison->near_ties += exact.near_tie[row];
  bool good = true;
  if (!exact.fault.raised)
    good = workload_reference(workload, REF_NAIVE, heads, &naive) &&
           compare_results(workload, &exact, &naive, heads, pools, comparison);
  ref_result_free(&naive);
  ref_result_free(&exact);
  return good;
}

bool compare_workload(struct workload *workload, uint32_t heads, struct comparison *comparison)
{
  return compare(workload, heads, false, comparison);
}

bool compare_step(struct workload *workload, uint32_t heads, struct comparison *comparison)
{
  return compare(workload, heads, true, comparison);
}
