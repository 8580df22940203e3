/* What READ reads: q and k rotated, v, and the inputs. */
#include "compiler/reference/run.h"

#include <math.h>
#include <string.h>

static bool out_of_range(struct expr_fault *fault, size_t dim, int64_t index, int64_t size)
{
  if (index >= 0 && index < size)
    return false;
  fault->dim = (uint32_t)dim;
  fault->index = index;
  fault->size = size;
  return true;
}

/* Where sequence b's element (b, head, position, channel 0) of q, k or v lies. */
static int64_t element_offset(const struct ref_run_state *run, const struct ref_tensor *tensor,
                              int64_t b, int64_t head, int64_t position)
{
  const struct ref_call *call = run->call;
  if (call->query_starts == NULL)
    return b * tensor->stride[0] + head * tensor->stride[1] + position * tensor->stride[2];
  const int64_t *starts = tensor == &call->q ? call->query_starts : call->key_starts;
  return (starts[b] + position) * tensor->stride[0] + head * tensor->stride[1];
}

static void load_row(const struct ref_run_state *run, const struct ref_tensor *tensor, int64_t b,
                     int64_t head, int64_t position, int64_t first, int64_t count, double *out)
{
  int64_t offset = element_offset(run, tensor, b, head, position);
  int64_t stride = tensor->stride[tensor->rank - 1];
  for (int64_t c = 0; c < count; c++)
    out[c] = dtype_load(tensor->type, tensor->data, offset + (first + c) * stride);
}

/* Rotates x in place (the formula stands beside struct spec_rotary). */
static void rotate(struct ref_run_state *run, double *x, const struct expr *position)
{
  const struct spec_rotary *rotary = &run->spec->rotary;
  struct expr_evaluator *angles = run->angles;
  expr_set_int(angles, EXPR_VAR_T, expr_evaluate(angles, position).i);
  bool half = rotary->pairing == PAIRING_HALF;
  for (uint32_t m = 0; m < rotary->dim / 2; m++) {
    expr_set_int(angles, EXPR_VAR_C, m);
    double angle = expr_evaluate(angles, rotary->angle).f;
    double gain = expr_evaluate(angles, rotary->gain).f;
    double cosine = cos(angle) * gain;
    double sine = sin(angle) * gain;
    for (uint32_t p = 0; p < rotary->repeat; p++) {
      double *base = x + rotary->from + p * rotary->dim;
      double *first = base + (half ? m : 2 * m);
      double *second = half ? first + rotary->dim / 2 : first + 1;
      double a = *first;
      double b = *second;
      *first = ref_stored(run, a * cosine - b * sine);
      *second = ref_stored(run, a * sine + b * cosine);
    }
  }
}

/* The vector of q (is_query) or k at any place. */
static void make_vector(struct ref_run_state *run, bool is_query, int64_t b, int64_t head,
                        int64_t position, double *out)
{
  const struct spec *spec = run->spec;
  const struct ref_tensor *tensor = is_query ? &run->call->q : &run->call->k;
  load_row(run, tensor, b, head, position, 0, spec->dim_qk, out);
  if (!spec->has_rotary)
    return;
  struct expr_evaluator *angles = run->angles;
  expr_set_int(angles, EXPR_VAR_B, b);
  expr_set_int(angles, is_query ? EXPR_VAR_H : EXPR_VAR_G, head);
  if (is_query) {
    expr_set_int(angles, EXPR_VAR_G, head / (spec->query_heads / spec->kv_heads));
    expr_set_int(angles, EXPR_VAR_R, position);
    expr_set_int(angles, EXPR_VAR_I, position + run->offset);
  } else {
    expr_set_int(angles, EXPR_VAR_J, position);
  }
  rotate(run, out, is_query ? spec->rotary.query_position : spec->rotary.key_position);
}

static const double *vector_at(struct ref_run_state *run, bool is_query, int64_t position)
{
  struct ref_vectors *vectors = is_query ? &run->q : &run->k;
  double *row = vectors->rows + position * run->spec->dim_qk;
  if (!vectors->ready[position]) {
    make_vector(run, is_query, run->b, is_query ? run->h : run->g, position, row);
    vectors->ready[position] = true;
  }
  return row;
}

/* READ(tensor; b, head, position, channel) of q, k or v. */
static bool read_operand(struct ref_run_state *run, uint32_t tensor, const int64_t *indices,
                         double *value, struct expr_fault *fault)
{
  const struct spec *spec = run->spec;
  bool is_query = tensor == EXPR_TENSOR_Q;
  const int64_t sizes[] = {
      run->call->batch,
      is_query ? spec->query_heads : spec->kv_heads,
      is_query ? run->queries : run->keys,
      tensor == EXPR_TENSOR_V ? spec->dim_v : spec->dim_qk,
  };
  for (size_t k = 0; k < 4; k++)
    if (out_of_range(fault, k, indices[k], sizes[k]))
      return false;
  int64_t b = indices[0];
  int64_t head = indices[1];
  if (tensor == EXPR_TENSOR_V) {
    load_row(run, &run->call->v, b, head, indices[2], indices[3], 1, value);
  } else if (b == run->b && head == (is_query ? run->h : run->g)) {
    *value = vector_at(run, is_query, indices[2])[indices[3]];
  } else {
    make_vector(run, is_query, b, head, indices[2], run->scratch);
    *value = run->scratch[indices[3]];
  }
  return true;
}

/* Ragged calls store the dims B and NQ, or else NK, of an input as one, the leading one. */
struct packing {
  size_t batch, tokens; /* which dims; rank when the input is not packed */
  const int64_t *starts;
};

static struct packing find_packing(const struct ref_call *call, const struct spec_input *input)
{
  struct packing packing = {input->rank, input->rank, NULL};
  if (call->query_starts == NULL)
    return packing;
  size_t tokens = input->rank, keys = input->rank;
  for (size_t k = input->rank; k-- > 0;) {
    enum dim_kind kind = input->dims[k].kind;
    if (kind == DIM_B)
      packing.batch = k;
    else if (kind == DIM_NQ)
      tokens = k;
    else if (kind == DIM_NK)
      keys = k;
  }
  if (tokens == input->rank)
    tokens = keys;
  if (packing.batch == input->rank || tokens == input->rank) {
    packing.batch = input->rank;
    return packing;
  }
  packing.tokens = tokens;
  packing.starts = input->dims[tokens].kind == DIM_NQ ? call->query_starts : call->key_starts;
  return packing;
}

/* The element that `indices` name, in elements from the start of the data. */
static bool locate_input(const struct ref_call *call, uint32_t number, const int64_t *indices,
                         size_t count, int64_t *offset, struct expr_fault *fault)
{
  const struct spec_input *input = &call->spec->inputs[number];
  const struct ref_tensor *tensor = &call->inputs[number];
  struct packing packing = find_packing(call, input);
  *offset = 0;
  if (packing.starts != NULL) {
    int64_t b = indices[packing.batch];
    if (out_of_range(fault, packing.batch, b, call->batch))
      return false;
    int64_t length = packing.starts[b + 1] - packing.starts[b];
    if (out_of_range(fault, packing.tokens, indices[packing.tokens], length))
      return false;
    *offset = (packing.starts[b] + indices[packing.tokens]) * tensor->stride[0];
  }
  size_t dim = packing.starts != NULL ? 1 : 0;
  for (size_t k = 0; k < count; k++) {
    if (packing.starts != NULL && (k == packing.batch || k == packing.tokens))
      continue;
    if (out_of_range(fault, k, indices[k], tensor->shape[dim]))
      return false;
    *offset += indices[k] * tensor->stride[dim++];
  }
  return true;
}

static bool is_integer_type(enum dtype type)
{
  return type == DTYPE_I32 || type == DTYPE_I64 || type == DTYPE_U8 || type == DTYPE_BOOL;
}

static bool read_tensor(void *user, uint32_t tensor, const int64_t *indices, size_t count,
                        union expr_value *value, struct expr_fault *fault)
{
  struct ref_run_state *run = user;
  if (tensor == EXPR_TENSOR_O) {
    if (out_of_range(fault, 0, indices[0], run->spec->dim_v))
      return false;
    value->f = run->o[indices[0]];
    return true;
  }
  if (tensor < EXPR_TENSOR_O)
    return read_operand(run, tensor, indices, &value->f, fault);
  uint32_t number = tensor - EXPR_TENSOR_INPUT;
  const struct ref_tensor *input = &run->call->inputs[number];
  int64_t offset;
  if (!locate_input(run->call, number, indices, count, &offset, fault))
    return false;
  if (is_integer_type(input->type)) /* INT wraps, i64 too */
    value->i = (int64_t)(int32_t)(uint64_t)ref_load_integer(input->type, input->data, offset);
  else
    value->f = dtype_load(input->type, input->data, offset);
  return true;
}

/* Products q.k */

static union expr_value compute_dot(void *user, const struct expr *e)
{
  (void)e;
  const struct ref_dot *dot = user;
  struct ref_run_state *run = dot->run;
  const double *q = vector_at(run, true, run->r) + dot->from_q;
  const double *k = vector_at(run, false, run->j) + dot->from_k;
  if (run->mode == REF_NAIVE) {
    float sum = 0;
    for (int64_t c = 0; c < dot->count; c++)
      sum += (float)q[c] * (float)k[c];
    return (union expr_value){.f = (double)sum};
  }
  double sums[8] = {0};
  int64_t c = 0;
  for (; c + 8 <= dot->count; c += 8)
    for (int64_t lane = 0; lane < 8; lane++)
      sums[lane] += q[c + lane] * k[c + lane];
  double sum = 0;
  for (; c < dot->count; c++)
    sum += q[c] * k[c];
  for (int64_t lane = 0; lane < 8; lane++)
    sum += sums[lane];
  return (union expr_value){.f = sum};
}

/* READ(tensor; b, head, row, BOUND level + first)? */
static bool is_vector_read(const struct expr *e, enum expr_tensor tensor, int64_t level,
                           int64_t *first)
{
  bool is_query = tensor == EXPR_TENSOR_Q;
  if (e->op != EXPR_READ || e->value.i != (int64_t)tensor || e->arg_count != 4 ||
      !expr_is_var(e->args[0], EXPR_VAR_B) ||
      !expr_is_var(e->args[1], is_query ? EXPR_VAR_H : EXPR_VAR_G) ||
      !expr_is_var(e->args[2], is_query ? EXPR_VAR_R : EXPR_VAR_J))
    return false;
  const struct expr *c = e->args[3];
  *first = 0;
  if (c->op == EXPR_ADD && expr_is_const(c->args[1])) {
    *first = c->args[1]->value.i;
    c = c->args[0];
  }
  return c->op == EXPR_BOUND && c->value.i == level;
}

static bool is_dot(const struct ref_run_state *run, const struct expr *e, struct ref_dot *dot)
{
  if (e->op != EXPR_SUM || e->type != EXPR_FLOAT || !expr_is_const(e->args[0]) ||
      e->args[1]->op != EXPR_MUL)
    return false;
  const struct expr *a = e->args[1]->args[0];
  const struct expr *b = e->args[1]->args[1];
  int64_t level = e->value.i;
  dot->count = e->args[0]->value.i;
  bool found = (is_vector_read(a, EXPR_TENSOR_Q, level, &dot->from_q) &&
                is_vector_read(b, EXPR_TENSOR_K, level, &dot->from_k)) ||
               (is_vector_read(b, EXPR_TENSOR_Q, level, &dot->from_q) &&
                is_vector_read(a, EXPR_TENSOR_K, level, &dot->from_k));
  int64_t room = run->spec->dim_qk - dot->count;
  return found && dot->from_q >= 0 && dot->from_q <= room && dot->from_k >= 0 &&
         dot->from_k <= room;
}

/* Products of q and k are most of the work: each is computed by a tight loop. */
static void find_dots(struct ref_run_state *run)
{
  const struct expr_pool *pool = run->spec->pool;
  for (size_t n = 0; n < pool->nodes.count; n++) {
    struct ref_dot dot = {.run = run};
    if (is_dot(run, pool->nodes.items[n], &dot))
      expr_set_shortcut(run->evaluator, pool->nodes.items[n], compute_dot,
                        arena_copy(run->arena, &dot, sizeof(dot)));
  }
}

static void share_settings(struct ref_run_state *run, struct expr_evaluator *evaluator)
{
  expr_set_reader(evaluator, read_tensor, NULL, run);
  expr_set_int(evaluator, EXPR_VAR_SIZE_B, run->call->batch);
  for (uint32_t k = 0; k < run->spec->param_count; k++)
    expr_set_param(evaluator, k, run->call->params[k]);
}

static void vectors_prepare(struct ref_run_state *run, struct ref_vectors *vectors, int64_t rows)
{
  size_t count = (size_t)rows;
  if (__builtin_mul_overflow(count, run->spec->dim_qk, &count))
    arena_out_of_memory(run->arena);
  vectors->rows = ARENA_ARRAY(run->arena, double, count);
  vectors->ready = ARENA_ARRAY(run->arena, bool, (size_t)rows);
}

/* `value` as READ(V; b, g, j, c + first) or READ(K; ...)? */
static bool is_plain_value(const struct expr *value, enum expr_tensor *tensor, int64_t *first)
{
  if (value->op != EXPR_READ || value->arg_count != 4 || !expr_is_var(value->args[0], EXPR_VAR_B) ||
      !expr_is_var(value->args[1], EXPR_VAR_G) || !expr_is_var(value->args[2], EXPR_VAR_J))
    return false;
  const struct expr *c = value->args[3];
  *first = 0;
  if (c->op == EXPR_ADD && expr_is_const(c->args[1])) {
    *first = c->args[1]->value.i;
    c = c->args[0];
  }
  *tensor = (enum expr_tensor)value->value.i;
  return expr_is_var(c, EXPR_VAR_C) && (*tensor == EXPR_TENSOR_V || *tensor == EXPR_TENSOR_K);
}

void ref_tensors_prepare(struct ref_run_state *run)
{
  share_settings(run, run->evaluator);
  share_settings(run, run->angles);
  find_dots(run);
  run->scratch = ARENA_ARRAY(run->arena, double, run->spec->dim_qk);
  vectors_prepare(run, &run->q, run->call->max_queries);
  vectors_prepare(run, &run->k, run->call->max_keys);
  run->plain_values = is_plain_value(run->spec->value, &run->values_from, &run->values_first);
  int64_t channels = run->values_from == EXPR_TENSOR_V ? run->spec->dim_v : run->spec->dim_qk;
  if (run->values_first < 0 || run->values_first + run->spec->dim_v > channels)
    run->plain_values = false; /* some channel is out of range: element by element, for the fault */
  if (run->plain_values) {
    size_t count = (size_t)run->call->max_keys;
    if (__builtin_mul_overflow(count, run->spec->dim_v, &count))
      arena_out_of_memory(run->arena);
    run->values = ARENA_ARRAY(run->arena, double, count);
    run->values_ready = ARENA_ARRAY(run->arena, bool, (size_t)run->call->max_keys);
  }
}

static void set_sequence(const struct ref_run_state *run, struct expr_evaluator *evaluator)
{
  expr_set_int(evaluator, EXPR_VAR_B, run->b);
  expr_set_int(evaluator, EXPR_VAR_SIZE_NQ, run->queries);
  expr_set_int(evaluator, EXPR_VAR_SIZE_NK, run->keys);
}

void ref_enter_sequence(struct ref_run_state *run)
{
  set_sequence(run, run->evaluator);
  set_sequence(run, run->angles);
  run->offset = expr_evaluate(run->evaluator, run->spec->offset).i;
  expr_set_int(run->evaluator, EXPR_VAR_OFFSET, run->offset);
  expr_set_int(run->angles, EXPR_VAR_OFFSET, run->offset);
}

void ref_enter_key_head(struct ref_run_state *run)
{
  memset(run->k.ready, 0, (size_t)run->keys * sizeof(bool));
  if (run->plain_values)
    memset(run->values_ready, 0, (size_t)run->keys * sizeof(bool));
}

void ref_enter_query_head(struct ref_run_state *run)
{
  memset(run->q.ready, 0, (size_t)run->queries * sizeof(bool));
}

const double *ref_plain_value(struct ref_run_state *run, int64_t j)
{
  if (run->values_from == EXPR_TENSOR_K)
    return vector_at(run, false, j) + run->values_first;
  double *row = run->values + j * run->spec->dim_v;
  if (!run->values_ready[j]) {
    load_row(run, &run->call->v, run->b, run->g, j, run->values_first, run->spec->dim_v, row);
    run->values_ready[j] = true;
  }
  return row;
}
