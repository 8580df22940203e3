#include "dsl/expr_fold.h"
#include "dsl/expr_scalar.h"

#include <assert.h>
#include <math.h>
#include <string.h>

static const char *const op_names[] = {
#define EXPR_OP(name, arity, text) text,
#include "dsl/expr_ops.def"
#undef EXPR_OP
};

/* Used by an assert only. */
__attribute__((unused)) static const int op_arities[] = {
#define EXPR_OP(name, arity, text) arity,
#include "dsl/expr_ops.def"
#undef EXPR_OP
};

const char *expr_op_name(enum expr_op op)
{
  return op < EXPR_OP_COUNT ? op_names[op] : "?";
}

const char *expr_var_name(enum expr_var var)
{
  static const char *const names[] = {
      "b",  "h",  "g",      "i", "j",   "r",       "c",       "t",       "n",       "B",
      "NQ", "NK", "offset", "s", "lse", "tile_i0", "tile_i1", "tile_j0", "tile_j1",
  };
  static_assert(sizeof(names) / sizeof(*names) == EXPR_VAR_COUNT, "a name for each variable");
  return var < EXPR_VAR_COUNT ? names[var] : "?";
}

const char *expr_type_name(enum expr_type type)
{
  static const char *const names[] = {"bool", "int", "long", "float", "single"};
  return type <= EXPR_SINGLE ? names[type] : "?";
}

void expr_pool_init(struct expr_pool *pool, struct arena *arena)
{
  *pool = (struct expr_pool){.arena = arena};
}

static uint64_t mix(uint64_t hash, uint64_t word)
{
  hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
  return hash ^ hash >> 29;
}

static uint64_t node_hash(const struct expr *e)
{
  uint64_t hash = mix((uint64_t)e->op << 8 | (uint64_t)e->type, (uint64_t)e->value.i);
  for (uint32_t k = 0; k < e->arg_count; k++)
    hash = mix(hash, e->args[k]->id);
  return hash;
}

static bool same_shape(const struct expr *a, const struct expr *b)
{
  return a->op == b->op && a->type == b->type && a->value.i == b->value.i &&
         a->arg_count == b->arg_count &&
         (a->arg_count == 0 || memcmp(a->args, b->args, a->arg_count * sizeof(*a->args)) == 0);
}

/* The slot that holds `e`, or the free one where it belongs. */
static size_t find_slot(const struct expr_pool *pool, const struct expr *e)
{
  size_t slot = (size_t)node_hash(e) & (pool->slot_count - 1);
  while (pool->slots[slot] != NULL && !same_shape(pool->slots[slot], e))
    slot = (slot + 1) & (pool->slot_count - 1);
  return slot;
}

static void grow_slots(struct expr_pool *pool)
{
  pool->slot_count = pool->slot_count == 0 ? 256 : pool->slot_count * 2;
  pool->slots = ARENA_ARRAY(pool->arena, const struct expr *, pool->slot_count);
  for (size_t k = 0; k < pool->nodes.count; k++)
    pool->slots[find_slot(pool, pool->nodes.items[k])] = pool->nodes.items[k];
}

static uint64_t own_deps(const struct expr *e)
{
  switch ((int)e->op) {
  case EXPR_VAR: return EXPR_DEP(e->value.i);
  case EXPR_PARAM: return EXPR_DEP(EXPR_DEP_PARAM);
  case EXPR_BOUND: return EXPR_DEP(EXPR_DEP_BOUND + e->value.i);
  case EXPR_MAP: return EXPR_DEP(EXPR_DEP_MAP);
  case EXPR_ARG: return EXPR_DEP(EXPR_DEP_ARG);
  case EXPR_READ:
  case EXPR_RANGE_MIN:
  case EXPR_RANGE_MAX: return EXPR_DEP(EXPR_DEP_READ);
  }
  return 0;
}

const struct expr *expr_intern(struct expr_pool *pool, enum expr_op op, enum expr_type type,
                               int64_t bits, const struct expr *const *args, size_t count)
{
  assert(op_arities[op] < 0 || (size_t)op_arities[op] == count);
  struct expr key = {
      .op = op,
      .type = type,
      .value.i = bits,
      .arg_count = (uint32_t)count,
      .args = args,
  };
  if (pool->nodes.count * 2 >= pool->slot_count)
    grow_slots(pool);
  size_t slot = find_slot(pool, &key);
  if (pool->slots[slot] != NULL)
    return pool->slots[slot];

  struct expr *e = ARENA_NEW(pool->arena, struct expr);
  *e = key;
  e->id = (uint32_t)pool->nodes.count;
  e->span = pool->span;
  e->args = arena_copy(pool->arena, args, count * sizeof(*args));
  for (size_t k = 0; k < count; k++) {
    uint64_t deps = args[k]->deps;
    if (expr_op_is_binder(op) && k == 1)
      deps &= ~EXPR_DEP(EXPR_DEP_BOUND + bits);
    e->deps |= deps;
    if (args[k]->height >= e->height)
      e->height = args[k]->height + 1;
  }
  e->deps |= own_deps(e);
  vector_push(pool->arena, &pool->nodes, e);
  pool->slots[slot] = e;
  return e;
}

/* Constants and other leaves */

const struct expr *expr_constant(struct expr_pool *pool, enum expr_type type,
                                 union expr_value value)
{
  if (expr_type_is_real(type) && isnan(value.f))
    value.f = (double)NAN; /* one NaN, whatever its payload */
  return expr_intern(pool, EXPR_CONST, type, value.i, NULL, 0);
}

const struct expr *expr_bool(struct expr_pool *pool, bool value)
{
  return expr_constant(pool, EXPR_BOOL, (union expr_value){.i = value});
}

const struct expr *expr_int(struct expr_pool *pool, int64_t value)
{
  return expr_constant(pool, EXPR_INT, (union expr_value){.i = expr_wrap(value)});
}

const struct expr *expr_long(struct expr_pool *pool, int64_t value)
{
  return expr_constant(pool, EXPR_LONG, (union expr_value){.i = value});
}

const struct expr *expr_float(struct expr_pool *pool, double value)
{
  return expr_constant(pool, EXPR_FLOAT, (union expr_value){.f = value});
}

const struct expr *expr_single(struct expr_pool *pool, double value)
{
  return expr_constant(pool, EXPR_SINGLE, (union expr_value){.f = (double)(float)value});
}

static enum expr_type variable_type(enum expr_var var)
{
  if (var == EXPR_VAR_S || var == EXPR_VAR_LSE)
    return EXPR_FLOAT;
  return var >= EXPR_VAR_TILE_I0 ? EXPR_LONG : EXPR_INT;
}

const struct expr *expr_variable(struct expr_pool *pool, enum expr_var var)
{
  return expr_intern(pool, EXPR_VAR, variable_type(var), (int64_t)var, NULL, 0);
}

const struct expr *expr_param(struct expr_pool *pool, uint32_t index, enum expr_type type)
{
  return expr_intern(pool, EXPR_PARAM, type, index, NULL, 0);
}

const struct expr *expr_bound(struct expr_pool *pool, uint32_t level)
{
  assert(level <= EXPR_MAX_LEVEL);
  return expr_intern(pool, EXPR_BOUND, EXPR_INT, level, NULL, 0);
}

const struct expr *expr_map(struct expr_pool *pool, uint32_t index)
{
  return expr_intern(pool, EXPR_MAP, EXPR_FLOAT, index, NULL, 0);
}

const struct expr *expr_arg(struct expr_pool *pool, uint32_t index, enum expr_type type)
{
  return expr_intern(pool, EXPR_ARG, type, index, NULL, 0);
}

const struct expr *expr_read(struct expr_pool *pool, uint32_t tensor, enum expr_type type,
                             const struct expr *const *indices, size_t count)
{
  for (size_t k = 0; k < count; k++)
    assert(indices[k]->type == EXPR_INT || indices[k]->type == EXPR_LONG);
  return expr_intern(pool, EXPR_READ, type, tensor, indices, count);
}

const struct expr *expr_range(struct expr_pool *pool, enum expr_op op, uint32_t tensor,
                              enum expr_type type, const struct expr *const *indices, size_t count)
{
  assert((op == EXPR_RANGE_MIN || op == EXPR_RANGE_MAX) && count >= 2);
  return expr_intern(pool, op, type, tensor, indices, count);
}

bool expr_is_const(const struct expr *e)
{
  return e->op == EXPR_CONST;
}

bool expr_is_true(const struct expr *e)
{
  return e->op == EXPR_CONST && e->type == EXPR_BOOL && e->value.i != 0;
}

bool expr_is_false(const struct expr *e)
{
  return e->op == EXPR_CONST && e->type == EXPR_BOOL && e->value.i == 0;
}
