#include "runtime/attnc/visible.h"

#include <math.h>
#include <string.h>

#include "runtime/attnc/random.h"

enum {
  /* Pairs below which looking at each is cheaper than asking for the tile's class. */
  SMALL_TILE = 32,
  SAMPLES = 3, /* along each side of a part whose share is estimated */
  /* Of an estimate: pairs up to which it is exact, rows, and pairs of a row. */
  EXACT_PAIRS = 1 << 20,
  SAMPLED_ROWS = 128,
  ROW_SAMPLES = 1024
};

/* The tensor that a READ names, and the offset of its element (or of its last dimension's start,
 * when one index less is given). Indices are those of the declaration; a ragged tensor's are turned
 * into packed ones. */
static bool locate(const struct visible *counter, uint32_t tensor, const int64_t *indices,
                   size_t count, const struct tensor **found, int64_t *offset,
                   struct expr_fault *fault)
{
  struct workload *workload = counter->workload;
  enum workload_role role = tensor == EXPR_TENSOR_Q   ? WORKLOAD_Q
                            : tensor == EXPR_TENSOR_K ? WORKLOAD_K
                            : tensor == EXPR_TENSOR_V ? WORKLOAD_V
                                                      : WORKLOAD_INPUT;
  uint32_t number = role == WORKLOAD_INPUT ? tensor - EXPR_TENSOR_INPUT : 0;
  *found = workload_tensor(workload, role, number);
  *offset = 0;
  for (size_t d = 0; d < count; d++) {
    int64_t size = (*found)->shape[d];
    if (indices[d] < 0 || indices[d] >= size) {
      *fault = (struct expr_fault){.dim = (uint32_t)d, .index = indices[d], .size = size};
      return false;
    }
    *offset = *offset * size + indices[d];
  }
  return true;
}

/* Of a tensor with a packed dimension: indices as stored. Returns their number. */
static size_t pack_indices(const struct visible *counter, uint32_t tensor, const int64_t *indices,
                           size_t count, int64_t *packed)
{
  const struct workload *workload = counter->workload;
  memcpy(packed, indices, count * sizeof(*packed));
  if (!workload->ragged)
    return count;
  int batch = -1;
  int position = -1;
  bool of_queries = tensor == EXPR_TENSOR_Q;
  if (tensor < EXPR_TENSOR_INPUT) {
    batch = 0;
    position = 2;
  } else {
    const struct spec_input *input = &workload->spec->inputs[tensor - EXPR_TENSOR_INPUT];
    for (uint32_t d = 0; d < input->rank; d++)
      of_queries |= input->dims[d].kind == DIM_NQ;
    for (uint32_t d = input->rank; d-- > 0;) {
      if (input->dims[d].kind == (of_queries ? DIM_NQ : DIM_NK))
        position = (int)d;
      if (input->dims[d].kind == DIM_B)
        batch = (int)d;
    }
  }
  if (batch < 0 || position < 0)
    return count;
  const int64_t *starts = of_queries ? workload->query_starts : workload->key_starts;
  int64_t b = indices[batch];
  size_t used = 0;
  /* A missing last index is the ranged position itself: its start is added by the caller. */
  if ((size_t)position < count)
    packed[used++] = b >= 0 && b < workload->batch ? starts[b] + indices[position] : -1;
  for (size_t d = 0; d < count; d++)
    if ((int)d != batch && (int)d != position)
      packed[used++] = indices[d];
  return used;
}

static union expr_value element(const struct tensor *tensor, int64_t offset)
{
  double value = tensor_get(tensor, offset);
  if (tensor->dtype.code == kDLFloat || tensor->dtype.code == kDLBfloat)
    return (union expr_value){.f = value};
  return (union expr_value){.i = (int64_t)value};
}

static bool read(void *user, uint32_t tensor, const int64_t *indices, size_t count,
                 union expr_value *value, struct expr_fault *fault)
{
  const struct tensor *found;
  int64_t offset;
  int64_t packed[TENSOR_MAX_RANK];
  size_t stored = pack_indices(user, tensor, indices, count, packed);
  if (!locate(user, tensor, packed, stored, &found, &offset, fault))
    return false;
  *value = element(found, offset);
  return true;
}

/* One element after the other: a tile is at most a few thousand long, and a count asks for each
 * element about once per level of its recursion. */
static bool range(void *user, enum expr_op op, uint32_t tensor, const int64_t *indices,
                  size_t count, int64_t first, int64_t last, union expr_value *value,
                  struct expr_fault *fault)
{
  const struct visible *counter = user;
  const struct workload *workload = counter->workload;
  const struct spec_input *input =
      tensor < EXPR_TENSOR_INPUT ? NULL : &workload->spec->inputs[tensor - EXPR_TENSOR_INPUT];
  enum dim_kind kind = input != NULL ? input->dims[count].kind : DIM_NK;
  struct tensor *stored =
      workload_tensor(counter->workload, input != NULL ? WORKLOAD_INPUT : WORKLOAD_K,
                      input != NULL ? tensor - EXPR_TENSOR_INPUT : 0);
  int64_t size = kind == DIM_NQ   ? counter->queries
                 : kind == DIM_NK ? counter->keys
                                  : stored->shape[stored->ndim - 1];
  bool is_float = stored->dtype.code == kDLFloat || stored->dtype.code == kDLBfloat;
  bool is_min = op == EXPR_RANGE_MIN;
  int64_t all[TENSOR_MAX_RANK];
  memcpy(all, indices, count * sizeof(*all));
  *value = is_float ? (union expr_value){.f = is_min ? (double)INFINITY : -(double)INFINITY}
                    : (union expr_value){.i = is_min ? INT64_MAX : INT64_MIN};
  for (int64_t at = first < 0 ? 0 : first; at <= last && at < size; at++) {
    union expr_value found;
    all[count] = at;
    if (!read(user, tensor, all, count + 1, &found, fault))
      return false;
    if (is_float && isnan(found.f)) {
      *value = found;
      return true;
    }
    bool better = is_float ? (is_min ? found.f < value->f : found.f > value->f)
                           : (is_min ? found.i < value->i : found.i > value->i);
    if (better)
      *value = found;
  }
  return true;
}

void visible_open(struct visible *counter, struct workload *workload, struct arena *arena)
{
  const struct spec *spec = workload->spec;
  *counter = (struct visible){.workload = workload};
  counter->visibility = visibility_analyze(arena, spec);
  counter->evaluator = expr_evaluator_new(arena, spec->pool);
  expr_set_reader(counter->evaluator, read, range, counter);
  expr_set_int(counter->evaluator, EXPR_VAR_SIZE_B, workload->batch);
  for (uint32_t k = 0; k < spec->param_count; k++)
    expr_set_param(counter->evaluator, k, workload->params[k]);
}

void visible_enter(struct visible *counter, int64_t b, int64_t h)
{
  struct expr_evaluator *evaluator = counter->evaluator;
  const struct spec *spec = counter->workload->spec;
  counter->b = b;
  counter->queries = workload_queries(counter->workload, b);
  counter->keys = workload_keys(counter->workload, b);
  expr_set_int(evaluator, EXPR_VAR_B, b);
  expr_set_int(evaluator, EXPR_VAR_H, h);
  expr_set_int(evaluator, EXPR_VAR_G, h / (spec->query_heads / spec->kv_heads));
  expr_set_int(evaluator, EXPR_VAR_SIZE_NQ, counter->queries);
  expr_set_int(evaluator, EXPR_VAR_SIZE_NK, counter->keys);
  counter->offset = expr_evaluate(evaluator, spec->offset).i;
  expr_set_int(evaluator, EXPR_VAR_OFFSET, counter->offset);
}

static uint64_t count_pairs(struct visible *counter, int64_t r0, int64_t r1, int64_t j0, int64_t j1)
{
  struct expr_evaluator *evaluator = counter->evaluator;
  uint64_t visible = 0;
  for (int64_t r = r0; r < r1; r++) {
    expr_set_int(evaluator, EXPR_VAR_R, r);
    expr_set_int(evaluator, EXPR_VAR_I, r + counter->offset);
    for (int64_t j = j0; j < j1 && r + counter->offset >= 0; j++) {
      expr_set_int(evaluator, EXPR_VAR_J, j);
      visible += expr_evaluate(evaluator, counter->workload->spec->mask).i != 0;
    }
  }
  return visible;
}

enum visibility_class visible_class(struct visible *counter, int64_t r0, int64_t r1, int64_t j0,
                                    int64_t j1)
{
  struct expr_evaluator *evaluator = counter->evaluator;
  expr_set_int(evaluator, EXPR_VAR_TILE_I0, r0 + counter->offset);
  expr_set_int(evaluator, EXPR_VAR_TILE_I1, r1 - 1 + counter->offset);
  expr_set_int(evaluator, EXPR_VAR_TILE_J0, j0);
  expr_set_int(evaluator, EXPR_VAR_TILE_J1, j1 - 1);
  return visibility_classify(evaluator, counter->visibility);
}

/* The larger side of a part is cut in two. */
static bool halve_rows(int64_t r0, int64_t r1, int64_t j0, int64_t j1, int64_t *middle)
{
  bool rows = r1 - r0 >= j1 - j0;
  *middle = rows ? r0 + (r1 - r0) / 2 : j0 + (j1 - j0) / 2;
  return rows;
}

uint64_t visible_pairs(struct visible *counter, int64_t r0, int64_t r1, int64_t j0, int64_t j1)
{
  int64_t middle;
  if (r0 >= r1 || j0 >= j1)
    return 0;
  if ((r1 - r0) * (j1 - j0) <= SMALL_TILE)
    return count_pairs(counter, r0, r1, j0, j1);
  switch (visible_class(counter, r0, r1, j0, j1)) {
  case VISIBILITY_EMPTY: return 0;
  case VISIBILITY_FULL: return (uint64_t)(r1 - r0) * (uint64_t)(j1 - j0);
  case VISIBILITY_PARTIAL: break;
  }
  if (halve_rows(r0, r1, j0, j1, &middle))
    return visible_pairs(counter, r0, middle, j0, j1) + visible_pairs(counter, middle, r1, j0, j1);
  return visible_pairs(counter, r0, r1, j0, middle) + visible_pairs(counter, r0, r1, middle, j1);
}

/* SAMPLES rows and as many keys, each somewhere in its part so that no pattern is met in step. */
static double sample_share(struct visible *counter, int64_t r0, int64_t r1, int64_t j0, int64_t j1)
{
  uint64_t visible = 0;
  uint64_t key = random_key((uint64_t)r0, "share");
  for (int64_t n = 0; n < SAMPLES * SAMPLES; n++) {
    int64_t row = r0 + visible_boundary(r1 - r0, SAMPLES, n / SAMPLES);
    int64_t column = j0 + visible_boundary(j1 - j0, SAMPLES, n % SAMPLES);
    uint64_t bits = random_bits(key, (uint64_t)(j0 * SAMPLES * SAMPLES + n));
    row += (int64_t)((bits >> 32) % (uint64_t)((r1 - r0) / SAMPLES));
    column += (int64_t)((bits & UINT32_MAX) % (uint64_t)((j1 - j0) / SAMPLES));
    visible += count_pairs(counter, row, row + 1, column, column + 1);
  }
  return (double)visible / (SAMPLES * SAMPLES);
}

double visible_share(struct visible *counter, int64_t r0, int64_t r1, int64_t j0, int64_t j1,
                     unsigned depth, bool *sampled)
{
  int64_t middle;
  double pairs = (double)(r1 - r0) * (double)(j1 - j0);
  if (r0 >= r1 || j0 >= j1)
    return 0;
  if (pairs <= SMALL_TILE)
    return (double)count_pairs(counter, r0, r1, j0, j1) / pairs;
  switch (visible_class(counter, r0, r1, j0, j1)) {
  case VISIBILITY_EMPTY: return 0;
  case VISIBILITY_FULL: return 1;
  case VISIBILITY_PARTIAL: break;
  }
  if (depth == 0 && r1 - r0 >= SAMPLES && j1 - j0 >= SAMPLES) {
    *sampled = true;
    return sample_share(counter, r0, r1, j0, j1);
  }
  depth -= depth > 0;
  bool rows = halve_rows(r0, r1, j0, j1, &middle);
  double first =
      visible_share(counter, r0, rows ? middle : r1, j0, rows ? j1 : middle, depth, sampled);
  double second =
      visible_share(counter, rows ? middle : r0, r1, rows ? j0 : middle, j1, depth, sampled);
  double share =
      rows ? (double)(middle - r0) / (double)(r1 - r0) : (double)(middle - j0) / (double)(j1 - j0);
  return first * share + second * (1 - share);
}

bool visible_by_head(const struct spec *spec)
{
  return expr_depends(spec->mask, EXPR_VAR_H) || expr_depends(spec->mask, EXPR_VAR_G);
}

bool visible_by_sequence(const struct workload *workload)
{
  return workload->ragged || expr_depends(workload->spec->mask, EXPR_VAR_B) ||
         expr_depends(workload->spec->offset, EXPR_VAR_B);
}

/* Heads and sequences that have to be looked at, as the others are alike. */
static int64_t different_heads(const struct workload *workload)
{
  return visible_by_head(workload->spec) ? workload->spec->query_heads : 1;
}

static int64_t different_sequences(const struct workload *workload)
{
  return visible_by_sequence(workload) ? workload->batch : workload->batch > 0;
}

bool visible_ask(struct workload *workload, visible_question *ask, void *data)
{
  struct arena arena;
  arena_init(&arena);
  if (arena_guard(&arena)) {
    arena_free(&arena);
    return false;
  }
  if (arena_guard(workload->spec->pool->arena)) { /* which the analysis adds to */
    arena_free(&arena);
    return false;
  }
  struct visible visible;
  visible_open(&visible, workload, &arena);
  ask(&visible, data);
  arena_free(&arena);
  return true;
}

struct exact_count {
  uint64_t visible, pairs;
};

static void count_all(struct visible *counter, void *data)
{
  struct exact_count *count = data;
  const struct workload *workload = counter->workload;
  int64_t heads = different_heads(workload), sequences = different_sequences(workload);
  uint64_t repeat = workload->spec->query_heads / (uint64_t)heads;
  if (sequences > 0)
    repeat *= (uint64_t)(workload->batch / sequences);
  for (int64_t b = 0; b < sequences; b++) {
    for (int64_t h = 0; h < heads; h++) {
      visible_enter(counter, b, h);
      count->visible += repeat * visible_pairs(counter, 0, counter->queries, 0, counter->keys);
      count->pairs += repeat * (uint64_t)counter->queries * (uint64_t)counter->keys;
    }
  }
}

bool visible_count(struct workload *workload, uint64_t *visible, uint64_t *pairs)
{
  struct exact_count count = {0};
  const bool good = visible_ask(workload, count_all, &count);
  *visible = count.visible;
  *pairs = count.pairs;
  return good;
}

int64_t visible_boundary(int64_t size, int64_t parts, int64_t n)
{
  return size / parts * n + size % parts * n / parts;
}

/* Of row r, exact but where a long run has no closed form. */
static double row_visible(struct visible *counter, const struct visibility_runs *each, int64_t r)
{
  struct visibility_run runs[VISIBILITY_MAX_RUNS];
  double visible = 0;
  if (r + counter->offset < 0)
    return 0;
  expr_set_int(counter->evaluator, EXPR_VAR_TILE_I0, r + counter->offset);
  expr_set_int(counter->evaluator, EXPR_VAR_TILE_I1, r + counter->offset);
  size_t count = visibility_segments(counter->evaluator, &counter->visibility->keys, each, 1, runs);
  for (size_t k = 0; k < count; k++) {
    int64_t lo = runs[k].lo, length = runs[k].hi - lo;
    if (runs[k].class == VISIBILITY_FULL) {
      visible += (double)length;
    } else if (length <= ROW_SAMPLES) {
      visible += (double)count_pairs(counter, r, r + 1, lo, lo + length);
    } else {
      uint64_t key = random_key((uint64_t)r, "row"), found = 0;
      for (int64_t n = 0; n < ROW_SAMPLES; n++) {
        int64_t j = lo + visible_boundary(length, ROW_SAMPLES, n);
        j += (int64_t)(random_bits(key, (uint64_t)n) % (uint64_t)(length / ROW_SAMPLES));
        found += count_pairs(counter, r, r + 1, j, j + 1);
      }
      visible += (double)length * (double)found / ROW_SAMPLES;
    }
  }
  return visible;
}

struct estimate {
  double visible, pairs;
};

static void estimate(struct visible *counter, void *data)
{
  struct estimate *estimate = data;
  const struct workload *workload = counter->workload;
  struct visibility_runs each;
  visibility_runs_build(workload->spec->pool, &counter->visibility->keys, 1, &each);
  int64_t heads = different_heads(workload), sequences = different_sequences(workload);
  int64_t rows = 1 + SAMPLED_ROWS / (heads * sequences);
  double repeat =
      (double)(workload->spec->query_heads / heads) * (double)(workload->batch / sequences);
  for (int64_t n = 0; n < sequences * heads; n++) {
    visible_enter(counter, n / heads, n % heads);
    int64_t looked_at = rows < counter->queries ? rows : counter->queries;
    for (int64_t k = 0; k < looked_at; k++) {
      int64_t first = visible_boundary(counter->queries, looked_at, k);
      int64_t end = visible_boundary(counter->queries, looked_at, k + 1);
      estimate->visible +=
          repeat * (double)(end - first) * row_visible(counter, &each, first + (end - first) / 2);
    }
    estimate->pairs += repeat * (double)counter->queries * (double)counter->keys;
  }
}

bool visible_estimate(struct workload *workload, double *visible, double *pairs, bool *sampled)
{
  *sampled = (double)(different_sequences(workload) * different_heads(workload)) *
                 (double)workload->queries * (double)workload->keys >
             EXACT_PAIRS;
  if (*sampled) {
    struct estimate found = {0};
    const bool good = visible_ask(workload, estimate, &found);
    *visible = found.visible;
    *pairs = found.pairs;
    return good;
  }
  uint64_t exact = 0, all = 0;
  const bool good = visible_count(workload, &exact, &all);
  *visible = (double)exact;
  *pairs = (double)all;
  return good;
}
