#include "compiler/reference/run.h"

#include <math.h>
#include <string.h>

bool ref_is_near(double a, double b)
{
  return fabs(a - b) <= REF_NEAR_TIE * fmax(1.0, fmax(fabs(a), fabs(b)));
}

void ref_set_head(struct ref_run_state *run, int64_t h)
{
  run->h = h;
  run->g = h / (run->spec->query_heads / run->spec->kv_heads);
  expr_set_int(run->evaluator, EXPR_VAR_H, h);
  expr_set_int(run->evaluator, EXPR_VAR_G, run->g);
  ref_enter_query_head(run);
}

static void set_key(struct ref_run_state *run, int64_t j)
{
  run->j = j;
  expr_set_int(run->evaluator, EXPR_VAR_J, j);
}

bool ref_mask_holds(struct ref_run_state *run, int64_t j)
{
  set_key(run, j);
  return expr_evaluate(run->evaluator, run->spec->mask).i != 0;
}

/* A FLOOR in a score whose operand is near a whole number may come out one off in f32. */
static void look_for_near_floors(struct ref_run_state *run)
{
  bool raised = expr_evaluator_fault(run->evaluator)->raised;
  for (size_t n = 0; n < run->floors.count && !run->near_tie; n++) {
    double x = ref_evaluate_real(run, run->floors.items[n]->args[0]);
    run->near_tie = ref_is_near(x, nearbyint(x));
  }
  /* The operand may stand in a branch that is not taken, where its reads are no error. */
  if (!raised && expr_evaluator_fault(run->evaluator)->raised)
    expr_clear_fault(run->evaluator);
}

/* The row's visible keys and their scores. */
static void score_row(struct ref_run_state *run)
{
  const struct spec *spec = run->spec;
  run->visible_count = 0;
  run->near_tie = false;
  if (run->i < 0)
    return;
  if (spec->select.present)
    ref_select_blocks(run);
  for (int64_t j = 0; j < run->keys; j++) {
    if (spec->select.present && !run->chosen[j / spec->select.block])
      continue;
    if (!ref_mask_holds(run, j))
      continue;
    for (uint32_t m = 0; m < spec->map_count; m++)
      run->scores[m][run->visible_count] =
          ref_stored(run, ref_evaluate_real(run, spec->maps[m].score));
    look_for_near_floors(run);
    run->visible[run->visible_count++] = j;
  }
}

static void combine_weights(struct ref_run_state *run)
{
  const struct spec *spec = run->spec;
  bool renormalized = spec->weight_kind == WEIGHT_RENORMALIZE;
  bool plain = spec->weight->op == EXPR_MAP;
  double sum = 0;
  for (int64_t n = 0; n < run->visible_count; n++) {
    double weight;
    if (plain) {
      weight = run->weights[spec->weight->value.i][n];
    } else {
      set_key(run, run->visible[n]);
      for (uint32_t m = 0; m < spec->map_count; m++)
        expr_set_map(run->evaluator, m, run->weights[m][n]);
      weight = ref_evaluate_real(run, spec->weight);
    }
    run->final[n] = renormalized ? weight : ref_stored(run, weight);
    sum = ref_step(run, sum + weight);
  }
  for (int64_t n = 0; n < run->visible_count && renormalized; n++)
    run->final[n] = sum == 0 ? 0 : ref_stored(run, ref_step(run, run->final[n] / sum));
}

static void add_value(const struct ref_run_state *run, double weight, const double *value)
{
  uint32_t channels = run->spec->dim_v;
  if (run->mode == REF_NAIVE)
    for (uint32_t c = 0; c < channels; c++)
      run->o[c] = (double)((float)run->o[c] + (float)weight * (float)value[c]);
  else
    for (uint32_t c = 0; c < channels; c++)
      run->o[c] += weight * value[c];
}

static void add_values(struct ref_run_state *run)
{
  const struct spec *spec = run->spec;
  for (int64_t n = 0; n < run->visible_count; n++) {
    if (run->plain_values) {
      add_value(run, run->final[n], ref_plain_value(run, run->visible[n]));
      continue;
    }
    set_key(run, run->visible[n]);
    for (uint32_t c = 0; c < spec->dim_v; c++) {
      expr_set_int(run->evaluator, EXPR_VAR_C, c);
      run->value[c] = ref_stored(run, ref_evaluate_real(run, spec->value));
    }
    add_value(run, run->final[n], run->value);
  }
}

static void write_output(struct ref_run_state *run, uint32_t number)
{
  const struct spec_output *output = &run->spec->outputs[number];
  double *out = run->result->outputs[number];
  int64_t head = run->b * run->spec->query_heads + run->h;
  switch (output->kind) {
  case OUTPUT_LSE: out[run->row] = run->map_lse[output->map]; break;
  case OUTPUT_MAX: out[run->row] = run->map_max[output->map]; break;
  case OUTPUT_MASS:
    for (int64_t n = 0; n < run->visible_count; n++) {
      double *mass = &out[head * run->call->max_keys + run->visible[n]];
      *mass = ref_step(run, *mass + run->final[n]);
    }
    break;
  case OUTPUT_WEIGHTS:
    for (int64_t n = 0; n < run->visible_count; n++)
      out[(head * run->call->max_queries + run->r) * run->call->max_keys + run->visible[n]] =
          run->final[n];
    break;
  case OUTPUT_ENTROPY: {
    double entropy = 0;
    for (int64_t n = 0; n < run->visible_count; n++) {
      double weight = run->weights[output->map][n];
      if (weight != 0)
        entropy = ref_step(run, entropy - weight * log(weight));
    }
    out[run->row] = entropy;
    break;
  }
  }
}

/* run->o, before `post`. */
static void sum_row(struct ref_run_state *run)
{
  score_row(run);
  bool alive = false;
  for (uint32_t m = 0; m < run->spec->map_count; m++)
    alive |= ref_normalize(run, m);
  memset(run->o, 0, run->spec->dim_v * sizeof(double));
  if (!alive) {
    memset(run->final, 0, (size_t)run->visible_count * sizeof(double));
    return;
  }
  combine_weights(run);
  add_values(run);
  for (uint32_t c = 0; c < run->spec->dim_v; c++)
    run->o[c] = ref_stored(run, run->o[c]);
}

static bool is_finite_row(const struct ref_run_state *run)
{
  for (uint32_t c = 0; c < run->spec->dim_v; c++)
    if (!isfinite(run->o[c]))
      return false;
  return true;
}

static void run_row(struct ref_run_state *run, int64_t r)
{
  const struct spec *spec = run->spec;
  run->r = r;
  run->i = r + run->offset;
  expr_set_int(run->evaluator, EXPR_VAR_R, r);
  expr_set_int(run->evaluator, EXPR_VAR_I, run->i);
  sum_row(run);
  enum dtype storage = run->storage;
  if (run->mode == REF_NAIVE && storage != DTYPE_F32 && !is_finite_row(run)) {
    run->storage = DTYPE_F32; /* f16 overflows: no measure of the error then */
    sum_row(run);
  }
  double *o = run->result->o + run->row * spec->dim_v;
  memcpy(o, run->o, spec->dim_v * sizeof(double));
  if (spec->post != NULL) {
    expr_reset_reads(run->evaluator); /* READ(O) is another row now */
    expr_set_var(run->evaluator, EXPR_VAR_LSE, (union expr_value){.f = run->map_lse[0]});
    for (uint32_t c = 0; c < spec->dim_v; c++) {
      expr_set_int(run->evaluator, EXPR_VAR_C, c);
      o[c] = ref_stored(run, ref_evaluate_real(run, spec->post));
    }
  }
  run->storage = storage;
  run->result->lse[run->row] = run->map_lse[0];
  for (uint32_t k = 0; k < spec->output_count; k++)
    write_output(run, k);
  run->result->near_tie[run->row] = run->near_tie;
  run->result->visible += (uint64_t)run->visible_count;
  run->row++;
}

static void run_sequence(struct ref_run_state *run, int64_t b)
{
  const struct ref_call *call = run->call;
  bool ragged = call->query_starts != NULL;
  run->b = b;
  run->queries = ragged ? call->query_starts[b + 1] - call->query_starts[b] : call->max_queries;
  run->keys = ragged ? call->key_starts[b + 1] - call->key_starts[b] : call->max_keys;
  ref_enter_sequence(run);
  int64_t group = run->spec->query_heads / run->spec->kv_heads;
  for (int64_t h = 0; h < run->spec->query_heads; h++) {
    ref_set_head(run, h);
    if (h % group == 0)
      ref_enter_key_head(run);
    for (int64_t r = 0; r < run->queries; r++)
      run_row(run, r);
    run->result->pairs += (uint64_t)run->queries * (uint64_t)run->keys;
  }
}

static size_t product(struct arena *arena, size_t a, size_t b)
{
  size_t result;
  if (__builtin_mul_overflow(a, b, &result))
    arena_out_of_memory(arena);
  return result;
}

static void *allocate(struct arena *arena, size_t count, size_t size)
{
  void *block = mem_alloc_zeroed(count, size);
  if (block == NULL)
    arena_out_of_memory(arena);
  return block;
}

static void allocate_result(struct ref_run_state *run)
{
  const struct ref_call *call = run->call;
  const struct spec *spec = run->spec;
  struct ref_result *result = run->result;
  struct arena *arena = run->arena;
  size_t heads = spec->query_heads;
  size_t tokens = call->query_starts != NULL
                      ? (size_t)(call->query_starts[call->batch] - call->query_starts[0])
                      : product(arena, (size_t)call->batch, (size_t)call->max_queries);
  size_t rows = product(arena, tokens, heads);
  result->rows = (int64_t)rows;
  result->o = allocate(arena, product(arena, rows, spec->dim_v), sizeof(double));
  result->lse = allocate(arena, rows, sizeof(double));
  result->near_tie = allocate(arena, rows, sizeof(bool));
  size_t columns =
      product(arena, product(arena, (size_t)call->batch, heads), (size_t)call->max_keys);
  for (uint32_t k = 0; k < spec->output_count; k++) {
    enum output_kind kind = spec->outputs[k].kind;
    size_t count = kind == OUTPUT_MASS      ? columns
                   : kind == OUTPUT_WEIGHTS ? product(arena, columns, (size_t)call->max_queries)
                                            : rows;
    result->outputs[k] = allocate(arena, count, sizeof(double));
  }
}

/* FLOORs of FLOATs below `root`; those of SINGLEs are exact. */
static void find_floors(struct ref_run_state *run, const struct expr *root)
{
  const struct expr_pool *pool = run->spec->pool;
  bool *reached = ARENA_ARRAY(run->arena, bool, (size_t)root->id + 1);
  reached[root->id] = true;
  for (uint32_t id = root->id + 1; id-- > 0;) {
    const struct expr *e = pool->nodes.items[id];
    if (!reached[id])
      continue;
    uint64_t bound = e->deps >> EXPR_DEP_BOUND; /* inside a sum: no value of its own here */
    if (e->op == EXPR_FLOOR && e->args[0]->type == EXPR_FLOAT && bound == 0)
      vector_push(run->arena, &run->floors, e);
    for (uint32_t k = 0; k < e->arg_count; k++)
      reached[e->args[k]->id] = true;
  }
}

static void prepare_rows(struct ref_run_state *run)
{
  size_t keys = (size_t)run->call->max_keys;
  run->visible = ARENA_ARRAY(run->arena, int64_t, keys);
  for (uint32_t m = 0; m < run->spec->map_count; m++) {
    run->scores[m] = ARENA_ARRAY(run->arena, double, keys);
    run->weights[m] = ARENA_ARRAY(run->arena, double, keys);
    find_floors(run, run->spec->maps[m].score);
  }
  run->final = ARENA_ARRAY(run->arena, double, keys);
  run->sorted = ARENA_ARRAY(run->arena, double, keys);
  run->o = ARENA_ARRAY(run->arena, double, run->spec->dim_v);
  run->value = ARENA_ARRAY(run->arena, double, run->spec->dim_v);
}

static void run_call(struct ref_run_state *run)
{
  allocate_result(run);
  run->evaluator = expr_evaluator_new(run->arena, run->spec->pool);
  run->angles = expr_evaluator_new(run->arena, run->spec->pool);
  expr_set_naive(run->evaluator, run->mode == REF_NAIVE);
  ref_tensors_prepare(run);
  ref_select_prepare(run);
  prepare_rows(run);
  for (int64_t b = 0; b < run->call->batch; b++)
    run_sequence(run, b);
  const struct expr_fault *fault = expr_evaluator_fault(run->evaluator);
  run->result->fault = fault->raised ? *fault : *expr_evaluator_fault(run->angles);
}

bool ref_run(const struct ref_call *call, enum ref_mode mode, enum dtype storage,
             struct ref_result *result)
{
  struct arena arena;
  *result = (struct ref_result){0};
  arena_init(&arena);
  if (arena_guard(&arena)) {
    arena_free(&arena);
    ref_result_free(result);
    return false;
  }
  struct ref_run_state *run = ARENA_NEW(&arena, struct ref_run_state);
  run->arena = &arena;
  run->call = call;
  run->spec = call->spec;
  run->mode = mode;
  run->storage = storage;
  run->result = result;
  run_call(run);
  arena_free(&arena);
  return true;
}

void ref_result_free(struct ref_result *result)
{
  mem_free(result->o);
  mem_free(result->lse);
  for (size_t k = 0; k < SPEC_MAX_OUTPUTS; k++)
    mem_free(result->outputs[k]);
  mem_free(result->near_tie);
  *result = (struct ref_result){0};
}
