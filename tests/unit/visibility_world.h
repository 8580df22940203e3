/* A mask with inputs, sizes and parameters of its own, enumerated, for tests of the visibility
 * program. */
#ifndef ATTN_TESTS_UNIT_VISIBILITY_WORLD_H
#define ATTN_TESTS_UNIT_VISIBILITY_WORLD_H

#include "compiler/analysis/visibility.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 2, HEADS = 2, PARAMS = 4, MAX_SIDE = 300, PICKS = 2, BLOCK = 8 };
enum { LENGTH, DOC, FLAG, TABLE, ROW_LIMIT, GATE, INPUTS };

struct world {
  struct arena arena;
  struct expr_pool pool;
  struct spec spec;
  struct expr_evaluator *evaluator;
  struct visibility *visibility;
  int64_t rows, keys, offset, b, h;
  int64_t length[BATCH], doc[BATCH][MAX_SIDE], flag[BATCH][MAX_SIDE], row_limit[BATCH][MAX_SIDE];
  int64_t table[HEADS][MAX_SIDE][PICKS];
  double gate[BATCH][MAX_SIDE];
  int32_t visible_before[MAX_SIDE + 1]
                        [MAX_SIDE + 1]; /* visible pairs above and left of (row, key) */
};

static uint64_t random_state;

static inline uint32_t random_below(uint32_t n)
{
  random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
  return (uint32_t)((random_state >> 33) % n);
}

static inline bool world_element(const struct world *w, uint32_t tensor, const int64_t *x,
                                 union expr_value *value)
{
  switch (tensor - EXPR_TENSOR_INPUT) {
  case LENGTH: value->i = w->length[x[0]]; return true;
  case DOC: value->i = w->doc[x[0]][x[1]]; return true;
  case FLAG: value->i = w->flag[x[0]][x[1]]; return true;
  case TABLE: value->i = w->table[x[0]][x[1]][x[2]]; return true;
  case ROW_LIMIT: value->i = w->row_limit[x[0]][x[1]]; return true;
  case GATE: value->f = w->gate[x[0]][x[1]]; return true;
  default: return false;
  }
}

static inline int64_t world_size(const struct world *w, uint32_t tensor, size_t dim)
{
  const int64_t sizes[INPUTS][3] = {
      {BATCH, 0, 0},       {BATCH, w->keys, 0},
      {BATCH, w->keys, 0}, {HEADS, (w->keys + BLOCK - 1) / BLOCK, PICKS},
      {BATCH, w->rows, 0}, {BATCH, w->keys, 0}};
  return sizes[tensor - EXPR_TENSOR_INPUT][dim];
}

static inline bool read_world(void *user, uint32_t tensor, const int64_t *indices, size_t count,
                              union expr_value *value, struct expr_fault *fault)
{
  const struct world *w = user;
  for (size_t n = 0; n < count; n++) {
    int64_t size = world_size(w, tensor, n);
    if (indices[n] < 0 || indices[n] >= size) {
      fault->dim = (uint32_t)n;
      fault->index = indices[n];
      fault->size = size;
      return false;
    }
  }
  return world_element(w, tensor, indices, value);
}

static inline bool range_world(void *user, enum expr_op op, uint32_t tensor, const int64_t *indices,
                               size_t count, int64_t first, int64_t last, union expr_value *value,
                               struct expr_fault *fault)
{
  const struct world *w = user;
  int64_t at[3] = {0};
  for (size_t n = 0; n < count; n++) {
    at[n] = indices[n];
    if (indices[n] < 0 || indices[n] >= world_size(w, tensor, n)) {
      fault->dim = (uint32_t)n;
      fault->index = indices[n];
      fault->size = world_size(w, tensor, n);
      return false;
    }
  }
  int64_t size = world_size(w, tensor, count);
  first = first < 0 ? 0 : first;
  last = last >= size ? size - 1 : last;
  bool real = tensor == EXPR_TENSOR_INPUT + GATE;
  bool truth = tensor == EXPR_TENSOR_INPUT + FLAG;
  bool least = op == EXPR_RANGE_MIN;
  if (real) {
    value->f = least ? (double)INFINITY : -(double)INFINITY;
  } else if (truth) {
    value->i = least;
  } else {
    value->i = least ? INT32_MAX : INT32_MIN;
  }
  for (at[count] = first; at[count] <= last; at[count]++) {
    union expr_value one = {0};
    world_element(w, tensor, at, &one);
    if (real) {
      bool taken =
          isnan(one.f) || (!isnan(value->f) && (least ? one.f < value->f : one.f > value->f));
      value->f = taken ? one.f : value->f;
    } else {
      value->i = (least ? one.i < value->i : one.i > value->i) ? one.i : value->i;
    }
  }
  return true;
}

static inline void add_input(struct world *w, uint32_t which, enum dtype type, uint32_t rank,
                             const struct spec_dim *dims)
{
  struct spec_input *input = &w->spec.inputs[which];
  input->name = "t";
  input->type = type;
  input->rank = rank;
  memcpy(input->dims, dims, rank * sizeof(*dims));
}

static inline const struct expr *size_var(struct world *w, enum expr_var var)
{
  return expr_variable(&w->pool, var);
}

static inline struct world *world_new(enum align_kind align)
{
  struct world *w = mem_alloc_zeroed(1, sizeof(*w));
  ck_assert_ptr_nonnull(w);
  arena_init(&w->arena);
  expr_pool_init(&w->pool, &w->arena);
  w->spec.pool = &w->pool;
  w->spec.query_heads = HEADS;
  w->spec.kv_heads = HEADS;
  w->spec.align = align;
  w->spec.input_count = INPUTS;
  w->spec.param_count = PARAMS;
  const struct spec_dim batch = {DIM_B, size_var(w, EXPR_VAR_SIZE_B), {0}};
  const struct spec_dim heads = {DIM_H, expr_int(&w->pool, HEADS), {0}};
  const struct spec_dim keys = {DIM_NK, size_var(w, EXPR_VAR_SIZE_NK), {0}};
  const struct spec_dim rows = {DIM_NQ, size_var(w, EXPR_VAR_SIZE_NQ), {0}};
  const struct expr *padded = expr_add(&w->pool, keys.size, expr_int(&w->pool, BLOCK - 1));
  const struct spec_dim blocks = {
      DIM_EXPR, expr_binary(&w->pool, EXPR_FLOORDIV, padded, expr_int(&w->pool, BLOCK)), {0}};
  const struct spec_dim picks = {DIM_EXPR, expr_int(&w->pool, PICKS), {0}};
  add_input(w, LENGTH, DTYPE_I32, 1, &batch);
  add_input(w, DOC, DTYPE_I32, 2, (struct spec_dim[]){batch, keys});
  add_input(w, FLAG, DTYPE_BOOL, 2, (struct spec_dim[]){batch, keys});
  add_input(w, TABLE, DTYPE_I32, 3, (struct spec_dim[]){heads, blocks, picks});
  add_input(w, ROW_LIMIT, DTYPE_I32, 2, (struct spec_dim[]){batch, rows});
  add_input(w, GATE, DTYPE_F32, 2, (struct spec_dim[]){batch, keys});
  w->evaluator = expr_evaluator_new(&w->arena, &w->pool);
  expr_set_reader(w->evaluator, read_world, range_world, w);
  return w;
}

static inline void world_free(struct world *w)
{
  arena_free(&w->arena);
  mem_free(w);
}

static inline void set_param(struct world *w, uint32_t index, int64_t value)
{
  expr_set_param(w->evaluator, index, (union expr_value){.i = value});
}

static inline void set_sizes(struct world *w, int64_t rows, int64_t keys, int64_t offset)
{
  w->rows = rows;
  w->keys = keys;
  w->offset = w->spec.align == ALIGN_END ? keys - rows : w->spec.align == ALIGN_START ? 0 : offset;
  w->b = random_below(BATCH);
  w->h = random_below(HEADS);
  expr_set_int(w->evaluator, EXPR_VAR_SIZE_B, BATCH);
  expr_set_int(w->evaluator, EXPR_VAR_SIZE_NQ, rows);
  expr_set_int(w->evaluator, EXPR_VAR_SIZE_NK, keys);
  expr_set_int(w->evaluator, EXPR_VAR_OFFSET, w->offset);
  expr_set_int(w->evaluator, EXPR_VAR_B, w->b);
  expr_set_int(w->evaluator, EXPR_VAR_H, w->h);
  expr_set_int(w->evaluator, EXPR_VAR_G, w->h);
}

/* Documents of random lengths (sometimes any order), a few flags, NaN among the gates. */
static inline void fill_inputs(struct world *w)
{
  bool sorted = random_below(3) > 0;
  int64_t side = w->keys > 0 ? w->keys : 1;
  for (int b = 0; b < BATCH; b++) {
    w->length[b] = random_below((uint32_t)side + 3);
    uint32_t density = 1 + random_below(20);
    int64_t id = 0;
    for (int n = 0; n < MAX_SIDE; n++) {
      id += random_below(6) == 0;
      w->doc[b][n] = sorted ? id : random_below(4);
      w->flag[b][n] = random_below(density) == 0;
      w->row_limit[b][n] = random_below((uint32_t)side + 2);
      w->gate[b][n] = random_below(12) == 0 ? (double)NAN : (double)random_below(8) - 4;
    }
  }
  for (int h = 0; h < HEADS; h++) {
    for (int n = 0; n < MAX_SIDE; n++) {
      for (int p = 0; p < PICKS; p++) {
        w->table[h][n][p] = random_below((uint32_t)(side + BLOCK - 1) / BLOCK);
      }
    }
  }
  expr_reset_reads(w->evaluator);
}

static inline void enumerate(struct world *w)
{
  for (int64_t r = 0; r < w->rows; r++) {
    int64_t i = r + w->offset;
    expr_set_int(w->evaluator, EXPR_VAR_I, i);
    expr_set_int(w->evaluator, EXPR_VAR_R, r);
    int32_t in_row = 0;
    for (int64_t j = 0; j < w->keys; j++) {
      expr_set_int(w->evaluator, EXPR_VAR_J, j);
      in_row += i >= 0 && expr_evaluate(w->evaluator, w->spec.mask).i != 0;
      w->visible_before[r + 1][j + 1] = w->visible_before[r][j + 1] + in_row;
    }
  }
  const struct expr_fault *fault = expr_evaluator_fault(w->evaluator);
  ck_assert_msg(!fault->raised, "a test's mask reads t%u out of range", fault->tensor);
}

/* Visible pairs of rows [r0, r1) and keys [j0, j1); keys beyond the sequence are invisible. */
static inline int64_t visible_in(const struct world *w, int64_t r0, int64_t r1, int64_t j0,
                                 int64_t j1)
{
  j0 = j0 < w->keys ? j0 : w->keys;
  j1 = j1 < w->keys ? j1 : w->keys;
  return w->visible_before[r1][j1] - w->visible_before[r0][j1] - w->visible_before[r1][j0] +
         w->visible_before[r0][j0];
}

static inline enum visibility_class true_class(const struct world *w, int64_t r0, int64_t r1,
                                               int64_t j0, int64_t j1)
{
  int64_t visible = visible_in(w, r0, r1, j0, j1);
  return visible == 0                       ? VISIBILITY_EMPTY
         : visible == (r1 - r0) * (j1 - j0) ? VISIBILITY_FULL
                                            : VISIBILITY_PARTIAL;
}

static inline void set_rows(struct world *w, int64_t r0, int64_t r1)
{
  expr_set_int(w->evaluator, EXPR_VAR_TILE_I0, r0 + w->offset);
  expr_set_int(w->evaluator, EXPR_VAR_TILE_I1, r1 - 1 + w->offset);
}

static inline void set_keys(struct world *w, int64_t j0, int64_t j1)
{
  expr_set_int(w->evaluator, EXPR_VAR_TILE_J0, j0);
  expr_set_int(w->evaluator, EXPR_VAR_TILE_J1, j1 - 1);
}

static inline const char *describe(struct world *w)
{
  char *mask = expr_print(&w->arena, w->spec.mask, NULL);
  long long params[PARAMS];
  for (uint32_t n = 0; n < PARAMS; n++) {
    params[n] = expr_evaluate(w->evaluator, expr_param(&w->pool, n, EXPR_INT)).i;
  }
  return arena_format(&w->arena, "mask %s, NQ %d, NK %d, offset %d, parameters %lld %lld %lld %lld",
                      mask, (int)w->rows, (int)w->keys, (int)w->offset, params[0], params[1],
                      params[2], params[3]);
}

struct tally {
  int64_t tiles, partial,
      needless; /* needless: PARTIAL, but all or none of its pairs are visible */
};

static inline enum visibility_class check_tile(struct world *w, int64_t r0, int64_t r1, int64_t j0,
                                               int64_t j1, struct tally *tally)
{
  set_rows(w, r0, r1);
  set_keys(w, j0, j1);
  enum visibility_class truth = true_class(w, r0, r1, j0, j1);
  enum visibility_class class = visibility_classify(w->evaluator, w->visibility);
  ck_assert_msg(class == truth || class == VISIBILITY_PARTIAL,
                "rows [%d, %d) keys [%d, %d): class %d, should be %d: %s", (int)r0, (int)r1,
                (int)j0, (int)j1, (int)class, (int)truth, describe(w));
  tally->tiles++;
  tally->partial += class == VISIBILITY_PARTIAL;
  tally->needless += class != truth;
  return class;
}

/* Runs of one axis for a tile [lo, hi) of rows (by_keys) or keys. Exact: runs have the classes of
 * enumeration. */
static inline void check_runs(struct world *w, bool by_keys, int64_t lo, int64_t hi, int64_t step,
                              bool exact)
{
  const struct visibility_walk *walk = by_keys ? &w->visibility->keys : &w->visibility->rows;
  struct visibility_runs runs;
  struct visibility_run out[VISIBILITY_MAX_RUNS];
  visibility_runs_build(&w->pool, walk, step, &runs);
  if (by_keys) {
    set_rows(w, lo, hi);
  } else {
    set_keys(w, lo, hi);
  }
  size_t count = visibility_segments(w->evaluator, walk, &runs, step, out);
  int64_t base = by_keys ? 0 : w->offset;
  int64_t side = by_keys ? w->keys : w->rows;
  int64_t covered = 0;
  int64_t visible = 0;
  for (size_t n = 0; n < count; n++) {
    int64_t a = out[n].lo - base;
    int64_t z = out[n].hi - base;
    ck_assert_msg(a >= covered && z > a && z <= side, "run [%d, %d) after %d: %s", (int)a, (int)z,
                  (int)covered, describe(w));
    ck_assert(a % step == 0 || (!by_keys && out[n].lo == 0));
    ck_assert(z % step == 0 || z == side);
    covered = z;
    int64_t seen = by_keys ? visible_in(w, lo, hi, a, z) : visible_in(w, a, z, lo, hi);
    visible += seen;
    ck_assert_msg(out[n].class == VISIBILITY_PARTIAL || seen == (hi - lo) * (z - a),
                  "full %s [%d, %d) for [%d, %d) step %d: %s", by_keys ? "keys" : "rows", (int)a,
                  (int)z, (int)lo, (int)hi, (int)step, describe(w));
    if (exact && out[n].class == VISIBILITY_PARTIAL) {
      for (int64_t t = a - a % step; t < z; t += step) {
        int64_t first = t < a ? a : t;
        int64_t last = t + step < z ? t + step : z;
        int64_t in_tile =
            by_keys ? visible_in(w, lo, hi, first, last) : visible_in(w, first, last, lo, hi);
        bool cut = last - t < step || first > t;
        ck_assert_msg(in_tile > 0 && (cut || in_tile < (hi - lo) * step),
                      "needless partial %s [%d, %d) for [%d, %d) in run [%d, %d): %s",
                      by_keys ? "keys" : "rows", (int)first, (int)last, (int)lo, (int)hi, (int)a,
                      (int)z, describe(w));
      }
    }
  }
  int64_t all = by_keys ? visible_in(w, lo, hi, 0, w->keys) : visible_in(w, 0, w->rows, lo, hi);
  ck_assert_msg(visible == all, "runs of %s for [%d, %d) step %d miss pairs: %s",
                by_keys ? "keys" : "rows", (int)lo, (int)hi, (int)step, describe(w));
}

static inline void check_faults(struct world *w)
{
  const struct expr_fault *fault = expr_evaluator_fault(w->evaluator);
  ck_assert_msg(!fault->raised, "the program reads t%u[%d] = %d of %d: %s",
                fault->tensor - EXPR_TENSOR_INPUT, (int)fault->dim, (int)fault->index,
                (int)fault->size, describe(w));
}

/* Masks by hand */

static inline const struct expr *variable(struct world *w, enum expr_var var)
{
  return expr_variable(&w->pool, var);
}

static inline const struct expr *integer(struct world *w, int64_t value)
{
  return expr_int(&w->pool, value);
}

static inline const struct expr *binary(struct world *w, enum expr_op op, const struct expr *a,
                                        const struct expr *b)
{
  return expr_binary(&w->pool, op, a, b);
}

static inline const struct expr *read_input(struct world *w, uint32_t which, enum expr_type type,
                                            const struct expr *a, const struct expr *b,
                                            const struct expr *c)
{
  const struct expr *indices[3] = {a, b, c};
  return expr_read(&w->pool, EXPR_TENSOR_INPUT + which, type, indices, w->spec.inputs[which].rank);
}

#endif
