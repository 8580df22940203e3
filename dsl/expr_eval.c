/* A stack machine over the DAG: expressions may be 20000 levels deep, so nothing recurses. */
#include "dsl/expr_eval.h"
#include "dsl/expr_fold.h"
#include "dsl/expr_scalar.h"

#include <assert.h>
#include <string.h>

enum { DEP_BITS = 64 };

/* A value stays good while nothing that its node depends on was set after `stamp`. */
struct memo {
  union expr_value value;
  uint64_t stamp; /* 0: none yet */
  const struct shortcut *shortcut;
};

struct shortcut {
  expr_shortcut_fn *compute;
  void *user;
};

/* A node at work. values[base ..] holds the operands so far; a binder's hold enum binder_slot. */
struct frame {
  const struct expr *e;
  size_t base;
  uint32_t next; /* the operand that is wanted next */
};

enum binder_slot { SLOT_EXTENT, SLOT_STEP, SLOT_SUM, SLOT_SHADOWED, SLOT_BODY };

struct expr_evaluator {
  struct arena *arena;
  const struct expr_pool *pool;
  struct memo *memos;
  size_t memo_count;
  uint64_t epoch;            /* counts settings */
  uint64_t newest[DEP_BITS]; /* the epoch at which each dependence was set last */
  uint64_t oldest;           /* no older value counts */
  bool naive;

  expr_read_fn *read;
  expr_range_fn *range;
  void *user;
  union expr_value vars[EXPR_VAR_COUNT];
  union expr_value bounds[EXPR_MAX_LEVEL + 1];
  VECTOR(union expr_value) params;
  VECTOR(union expr_value) maps;
  VECTOR(union expr_value) args;

  VECTOR(struct frame) frames;
  VECTOR(union expr_value) values;
  VECTOR(int64_t) indices; /* of the read or hash at hand */
  struct expr_fault fault;
};

struct expr_evaluator *expr_evaluator_new(struct arena *arena, const struct expr_pool *pool)
{
  struct expr_evaluator *evaluator = ARENA_NEW(arena, struct expr_evaluator);
  evaluator->arena = arena;
  evaluator->pool = pool;
  evaluator->epoch = 1;
  evaluator->oldest = 1;
  return evaluator;
}

static void touch(struct expr_evaluator *evaluator, unsigned bit)
{
  evaluator->newest[bit] = ++evaluator->epoch;
}

/* Sets *slot; what depends on `bit` is forgotten only when the value is another. */
static void assign(struct expr_evaluator *evaluator, union expr_value *slot, unsigned bit,
                   union expr_value value)
{
  if (slot->i == value.i)
    return;
  *slot = value;
  touch(evaluator, bit);
}

void expr_set_reader(struct expr_evaluator *evaluator, expr_read_fn *read, expr_range_fn *range,
                     void *user)
{
  evaluator->read = read;
  evaluator->range = range;
  evaluator->user = user;
  expr_reset_reads(evaluator);
}

void expr_set_var(struct expr_evaluator *evaluator, enum expr_var var, union expr_value value)
{
  assign(evaluator, &evaluator->vars[var], (unsigned)var, value);
}

#define SET_INDEXED(evaluator, vector, index, bit, new_value)                                      \
  do {                                                                                             \
    while ((vector)->count <= (index))                                                             \
      vector_push((evaluator)->arena, (vector), (union expr_value){0});                            \
    assign((evaluator), &(vector)->items[index], (bit), (new_value));                              \
  } while (0)

void expr_set_param(struct expr_evaluator *evaluator, uint32_t index, union expr_value value)
{
  SET_INDEXED(evaluator, &evaluator->params, index, EXPR_DEP_PARAM, value);
}

void expr_set_map(struct expr_evaluator *evaluator, uint32_t index, double weight)
{
  SET_INDEXED(evaluator, &evaluator->maps, index, EXPR_DEP_MAP, (union expr_value){.f = weight});
}

void expr_set_arg(struct expr_evaluator *evaluator, uint32_t index, union expr_value value)
{
  SET_INDEXED(evaluator, &evaluator->args, index, EXPR_DEP_ARG, value);
}

void expr_set_bound(struct expr_evaluator *evaluator, uint32_t level, int64_t value)
{
  assign(evaluator, &evaluator->bounds[level], EXPR_DEP_BOUND + level,
         (union expr_value){.i = value});
}

void expr_reset_reads(struct expr_evaluator *evaluator)
{
  touch(evaluator, EXPR_DEP_READ);
}

void expr_set_naive(struct expr_evaluator *evaluator, bool single)
{
  evaluator->naive = single;
  evaluator->oldest = ++evaluator->epoch;
}

/* Makes room for a memo of every node of the pool. */
static void reserve_memos(struct expr_evaluator *evaluator)
{
  size_t nodes = evaluator->pool->nodes.count;
  if (nodes <= evaluator->memo_count)
    return;
  size_t count = nodes + nodes / 2;
  struct memo *memos = ARENA_ARRAY(evaluator->arena, struct memo, count);
  if (evaluator->memo_count != 0)
    memcpy(memos, evaluator->memos, evaluator->memo_count * sizeof(*memos));
  evaluator->memos = memos;
  evaluator->memo_count = count;
}

void expr_set_shortcut(struct expr_evaluator *evaluator, const struct expr *e,
                       expr_shortcut_fn *compute, void *user)
{
  struct shortcut *shortcut = ARENA_NEW(evaluator->arena, struct shortcut);
  *shortcut = (struct shortcut){compute, user};
  reserve_memos(evaluator);
  evaluator->memos[e->id].stamp = 0;
  evaluator->memos[e->id].shortcut = shortcut;
}

const struct expr_fault *expr_evaluator_fault(const struct expr_evaluator *evaluator)
{
  return &evaluator->fault;
}

void expr_clear_fault(struct expr_evaluator *evaluator)
{
  if (evaluator->fault.raised)
    expr_reset_reads(evaluator); /* a remembered 0 would hide the fault from the next evaluation */
  evaluator->fault = (struct expr_fault){0};
}

static bool is_current(const struct expr_evaluator *evaluator, const struct expr *e)
{
  uint64_t stamp = evaluator->memos[e->id].stamp;
  if (stamp == evaluator->epoch)
    return true;
  if (stamp < evaluator->oldest)
    return false;
  for (uint64_t deps = e->deps; deps != 0; deps &= deps - 1)
    if (evaluator->newest[__builtin_ctzll(deps)] > stamp)
      return false;
  return true;
}

static union expr_value indexed(const union expr_value *items, size_t count, int64_t index)
{
  return (uint64_t)index < count ? items[index] : (union expr_value){0};
}

/* Whether the value is at hand without work: a leaf's, or one that is remembered. */
static inline bool at_hand(const struct expr_evaluator *evaluator, const struct expr *e,
                           union expr_value *value)
{
  switch ((int)e->op) {
  case EXPR_CONST: value->i = e->value.i; return true;
  case EXPR_VAR: *value = evaluator->vars[e->value.i]; return true;
  case EXPR_BOUND: *value = evaluator->bounds[e->value.i]; return true;
  case EXPR_PARAM:
    *value = indexed(evaluator->params.items, evaluator->params.count, e->value.i);
    return true;
  case EXPR_MAP:
    *value = indexed(evaluator->maps.items, evaluator->maps.count, e->value.i);
    return true;
  case EXPR_ARG:
    *value = indexed(evaluator->args.items, evaluator->args.count, e->value.i);
    return true;
  }
  *value = evaluator->memos[e->id].value;
  return is_current(evaluator, e);
}

static bool rounds(const struct expr_evaluator *evaluator, enum expr_type type)
{
  return type == EXPR_SINGLE || (type == EXPR_FLOAT && evaluator->naive);
}

static union expr_value read_element(struct expr_evaluator *evaluator, const struct expr *e,
                                     const union expr_value *operands)
{
  evaluator->indices.count = 0;
  for (uint32_t k = 0; k < e->arg_count; k++)
    vector_push(evaluator->arena, &evaluator->indices, operands[k].i);
  union expr_value value = {0};
  struct expr_fault fault = {0};
  const int64_t *indices = evaluator->indices.items;
  uint32_t tensor = (uint32_t)e->value.i;
  bool ok = true;
  if (e->op == EXPR_READ && evaluator->read != NULL)
    ok = evaluator->read(evaluator->user, tensor, indices, e->arg_count, &value, &fault);
  else if (e->op != EXPR_READ && evaluator->range != NULL)
    ok = evaluator->range(evaluator->user, e->op, tensor, indices, e->arg_count - 2,
                          indices[e->arg_count - 2], indices[e->arg_count - 1], &value, &fault);
  if (ok)
    return value;
  if (!evaluator->fault.raised) {
    fault.raised = true;
    fault.tensor = tensor;
    fault.span = e->span;
    evaluator->fault = fault;
  }
  return (union expr_value){0};
}

/* MurmurHash3's finaliser (Appleby 2011). */
static uint32_t mix(uint32_t x)
{
  x ^= x >> 16;
  x *= 0x85ebca6bu;
  x ^= x >> 13;
  x *= 0xc2b2ae35u;
  return x ^ x >> 16;
}

static uint32_t hash_key(uint32_t state, uint32_t number, int32_t key)
{
  return mix(state ^ mix((uint32_t)key + 0x9e3779b9u * (number + 1)));
}

uint32_t expr_hash_keys(const int32_t *keys, size_t count)
{
  uint32_t state = 0;
  for (size_t k = 0; k < count; k++)
    state = hash_key(state, (uint32_t)k, keys[k]);
  return state;
}

static float uniform_of(uint32_t state)
{
  return (float)(state >> 8) * 0x1p-24f;
}

float expr_uniform_keys(const int32_t *keys, size_t count)
{
  return uniform_of(expr_hash_keys(keys, count));
}

static union expr_value random_value(const struct expr *e, const union expr_value *operands)
{
  uint32_t state = 0;
  for (uint32_t k = 0; k < e->arg_count; k++)
    state = hash_key(state, k, (int32_t)operands[k].i);
  if (e->op == EXPR_HASH)
    return (union expr_value){.i = state >> 1};
  return (union expr_value){.f = (double)uniform_of(state)};
}

/* Operations that want all of their operands. */
static union expr_value compute(struct expr_evaluator *evaluator, const struct expr *e,
                                const union expr_value *operands)
{
  if (e->op <= EXPR_RANGE_MAX)
    return read_element(evaluator, e, operands);
  if (e->op == EXPR_HASH || e->op == EXPR_UNIFORM)
    return random_value(e, operands);
  enum expr_type from = e->args[0]->type;
  if (e->op == EXPR_CONVERT)
    return expr_apply_convert(from, e->type, operands[0], rounds(evaluator, e->type));
  bool f32 = rounds(evaluator, from);
  if (e->arg_count == 1)
    return expr_apply_unary(e->op, from, operands[0], f32);
  return expr_apply_binary(e->op, from, operands[0], operands[1], f32);
}

/* Takes the body's newest value into the binder's; false when the rest cannot change it. */
static bool accumulate(struct expr_evaluator *evaluator, const struct expr *e,
                       union expr_value *slots, union expr_value body)
{
  union expr_value *sum = &slots[SLOT_SUM];
  bool f32 = rounds(evaluator, e->type);
  switch ((int)e->op) {
  case EXPR_ANY: *sum = body; return body.i == 0;
  case EXPR_ALL: *sum = body; return body.i != 0;
  case EXPR_COUNT: sum->i = expr_wrap(sum->i + body.i); return true;
  case EXPR_FOLD_MAX: *sum = expr_apply_binary(EXPR_MAX, e->type, *sum, body, f32); return true;
  case EXPR_FOLD_MIN: *sum = expr_apply_binary(EXPR_MIN, e->type, *sum, body, f32); return true;
  }
  *sum = expr_apply_binary(EXPR_ADD, e->type, *sum, body, f32); /* SUM and MEAN */
  return true;
}

/* Advances a binder until its body needs work (NULL is not returned then) or it is done. */
static const struct expr *step_binder(struct expr_evaluator *evaluator, struct frame *frame)
{
  const struct expr *e = frame->e;
  union expr_value *slots = &evaluator->values.items[frame->base];
  for (;;) {
    if (frame->next == 2) { /* the body's value has arrived */
      bool more = accumulate(evaluator, e, slots, slots[SLOT_BODY]);
      slots[SLOT_STEP].i = more ? slots[SLOT_STEP].i + 1 : slots[SLOT_EXTENT].i;
    }
    if (slots[SLOT_STEP].i >= slots[SLOT_EXTENT].i)
      return NULL;
    expr_set_bound(evaluator, (uint32_t)e->value.i, slots[SLOT_STEP].i);
    frame->next = 2;
    evaluator->values.count = frame->base + SLOT_BODY;
    if (!at_hand(evaluator, e->args[1], &slots[SLOT_BODY]))
      return e->args[1];
  }
}

static void start_binder(struct expr_evaluator *evaluator, const struct frame *frame)
{
  const struct expr *e = frame->e;
  vector_push(evaluator->arena, &evaluator->values, (union expr_value){.i = 0});
  vector_push(evaluator->arena, &evaluator->values, expr_binder_start(e->op, e->type));
  vector_push(evaluator->arena, &evaluator->values, evaluator->bounds[e->value.i]);
  vector_push(evaluator->arena, &evaluator->values, (union expr_value){0}); /* SLOT_BODY */
  evaluator->values.count--;
}

static union expr_value finish_binder(struct expr_evaluator *evaluator, const struct frame *frame)
{
  const struct expr *e = frame->e;
  const union expr_value *slots = &evaluator->values.items[frame->base];
  expr_set_bound(evaluator, (uint32_t)e->value.i, slots[SLOT_SHADOWED].i);
  union expr_value sum = slots[SLOT_SUM];
  if (e->op == EXPR_MEAN && slots[SLOT_EXTENT].i > 0)
    sum = expr_apply_binary(EXPR_DIV, e->type, sum,
                            (union expr_value){.f = (double)slots[SLOT_EXTENT].i},
                            rounds(evaluator, e->type));
  return sum;
}

/* The operand that the node on top wants next; NULL when *value is its value. */
static const struct expr *advance(struct expr_evaluator *evaluator, struct frame *frame,
                                  union expr_value *value)
{
  const struct expr *e = frame->e;
  const union expr_value *operands = evaluator->values.items + frame->base;
  const struct shortcut *shortcut = evaluator->memos[e->id].shortcut;
  if (shortcut != NULL) {
    *value = shortcut->compute(shortcut->user, e);
    return NULL;
  }
  if (frame->next == 0 && e->arg_count != 0) {
    frame->next = 1;
    return e->args[0];
  }
  switch ((int)e->op) {
  case EXPR_AND:
  case EXPR_OR:
    *value = operands[frame->next - 1];
    if (frame->next == 2 || (value->i != 0) == (e->op == EXPR_OR))
      return NULL;
    frame->next = 2;
    return e->args[1];
  case EXPR_SELECT:
    *value = operands[frame->next - 1];
    if (frame->next == 2)
      return NULL;
    frame->next = 2;
    return value->i != 0 ? e->args[1] : e->args[2];
  }
  if (expr_op_is_binder(e->op)) {
    if (frame->next == 1)
      start_binder(evaluator, frame);
    const struct expr *body = step_binder(evaluator, frame);
    if (body == NULL)
      *value = finish_binder(evaluator, frame);
    return body;
  }
  if (frame->next < e->arg_count)
    return e->args[frame->next++];
  *value = compute(evaluator, e, operands);
  return NULL;
}

static void enter(struct expr_evaluator *evaluator, const struct expr *e)
{
  struct frame frame = {.e = e, .base = evaluator->values.count};
  vector_push(evaluator->arena, &evaluator->frames, frame);
}

union expr_value expr_evaluate(struct expr_evaluator *evaluator, const struct expr *e)
{
  assert(e->id < evaluator->pool->nodes.count && evaluator->pool->nodes.items[e->id] == e);
  reserve_memos(evaluator);
  union expr_value value = {0};
  if (at_hand(evaluator, e, &value))
    return value;
  size_t floor = evaluator->frames.count; /* not 0 when a shortcut evaluates */
  size_t floor_values = evaluator->values.count;
  enter(evaluator, e);
  while (evaluator->frames.count > floor) {
    size_t top = evaluator->frames.count - 1;
    const struct expr *wanted = advance(evaluator, &evaluator->frames.items[top], &value);
    if (wanted != NULL && !at_hand(evaluator, wanted, &value)) {
      enter(evaluator, wanted);
      continue;
    }
    if (wanted == NULL) { /* the node is done, and its value an operand of the one below */
      const struct frame *done = &evaluator->frames.items[top];
      evaluator->memos[done->e->id].value = value;
      evaluator->memos[done->e->id].stamp = evaluator->epoch;
      evaluator->values.count = done->base;
      evaluator->frames.count = top;
    }
    vector_push(evaluator->arena, &evaluator->values, value);
  }
  evaluator->values.count = floor_values;
  return value;
}
