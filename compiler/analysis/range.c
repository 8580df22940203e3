#include "compiler/analysis/range.h"

#include <assert.h>

static const int64_t limit = INT64_MAX;

void range_table_init(struct range_table *table, struct arena *arena, const struct spec *spec)
{
  *table = (struct range_table){
      .arena = arena, .pool = spec->pool, .spec = spec, .first_row = INT32_MIN};
}

int64_t range_floor(int64_t a, int64_t b)
{
  int64_t q = a / b;
  return a % b < 0 ? q - 1 : q;
}

static bool counts_tokens(const struct expr *e)
{
  return expr_depends(e, EXPR_VAR_SIZE_NQ) || expr_depends(e, EXPR_VAR_SIZE_NK);
}

/* Does not become less when NQ or NK becomes more. Sizes of great height are not looked through. */
static bool grows(const struct expr *e)
{
  if (!counts_tokens(e) || e->height > 16)
    return !counts_tokens(e);
  switch ((int)e->op) {
  case EXPR_VAR: return true;
  case EXPR_ADD:
  case EXPR_MIN:
  case EXPR_MAX: return grows(e->args[0]) && grows(e->args[1]);
  case EXPR_SUB: return grows(e->args[0]) && !counts_tokens(e->args[1]);
  case EXPR_MUL:
  case EXPR_FLOORDIV:
    return grows(e->args[0]) && expr_is_const(e->args[1]) && e->args[1]->value.i > 0;
  default: return false;
  }
}

bool range_size_is_there(const struct spec *spec, const struct expr *size)
{
  return spec->cache.layout != CACHE_RAGGED || grows(size);
}

static int64_t saturate(__int128 x)
{
  return x > limit ? limit : x < -limit ? -limit : (int64_t)x;
}

static struct range whole(enum expr_type type)
{
  switch (type) {
  case EXPR_BOOL: return (struct range){0, 1};
  case EXPR_INT: return (struct range){INT32_MIN, INT32_MAX};
  case EXPR_LONG:
  case EXPR_FLOAT:
  case EXPR_SINGLE: break;
  }
  return (struct range){-limit, limit};
}

/* An ideal result as a value of its type: one that may wrap can be anything. */
static struct range settle(enum expr_type type, __int128 min, __int128 max)
{
  struct range all = whole(type);
  if (min < all.min || max > all.max) {
    return all;
  }
  return (struct range){saturate(min), saturate(max)};
}

static struct range range_of_variable(const struct range_table *table, enum expr_var var)
{
  const struct range size = {0, INT32_MAX};
  switch (var) {
  case EXPR_VAR_H: return (struct range){0, (int64_t)table->spec->query_heads - 1};
  case EXPR_VAR_G: return (struct range){0, (int64_t)table->spec->kv_heads - 1};
  case EXPR_VAR_OFFSET:
    return table->spec->align == ALIGN_START ? (struct range){0, 0} : whole(EXPR_INT);
  case EXPR_VAR_TILE_I0: return table->spec->align == ALIGN_START ? size : whole(EXPR_INT);
  case EXPR_VAR_TILE_I1: {
    /* Keys reach NK - 1 <= INT32_MAX - 1; so do rows, unless their offset was written by hand. */
    int64_t last = table->spec->align == ALIGN_EXPR ? INT32_MAX : INT32_MAX - 1;
    return (struct range){table->spec->align == ALIGN_START ? 0 : INT32_MIN, last};
  }
  case EXPR_VAR_TILE_J0: return size;
  case EXPR_VAR_TILE_J1: return (struct range){0, INT64_C(1) << 32};
  case EXPR_VAR_B:
  case EXPR_VAR_R:
  case EXPR_VAR_C:
  case EXPR_VAR_N:
  case EXPR_VAR_J:
  case EXPR_VAR_SIZE_B:
  case EXPR_VAR_SIZE_NQ:
  case EXPR_VAR_SIZE_NK: return size;
  case EXPR_VAR_I: return (struct range){table->first_row, INT32_MAX};
  case EXPR_VAR_T: return whole(EXPR_INT);
  case EXPR_VAR_S:
  case EXPR_VAR_LSE:
  case EXPR_VAR_COUNT: break;
  }
  return whole(EXPR_LONG);
}

static struct range range_of_product(enum expr_type type, struct range a, struct range b)
{
  __int128 p[4] = {(__int128)a.min * b.min, (__int128)a.min * b.max, (__int128)a.max * b.min,
                   (__int128)a.max * b.max};
  __int128 min = p[0];
  __int128 max = p[0];
  for (int n = 1; n < 4; n++) {
    min = p[n] < min ? p[n] : min;
    max = p[n] > max ? p[n] : max;
  }
  return settle(type, min, max);
}

static struct range range_compute(struct range_table *table, const struct expr *e)
{
  enum { MAX_HEIGHT = 4000 }; /* bounds the recursion into formulas of the spec */
  struct range all = whole(e->type);
  if (e->type == EXPR_FLOAT || e->type == EXPR_SINGLE || e->height > MAX_HEIGHT) {
    return all;
  }
  struct range a = all;
  struct range b = all;
  if (e->op != EXPR_READ && e->op != EXPR_RANGE_MIN && e->op != EXPR_RANGE_MAX &&
      e->op != EXPR_HASH) {
    a = e->arg_count > 0 ? range_of(table, e->args[0]) : all;
    b = e->arg_count > 1 ? range_of(table, e->args[1]) : all;
  }
  bool positive = e->arg_count > 1 && b.min > 0;
  switch ((int)e->op) { /* the others can be anything */
  case EXPR_CONST: return (struct range){saturate(e->value.i), saturate(e->value.i)};
  case EXPR_VAR: return range_of_variable(table, (enum expr_var)e->value.i);
  case EXPR_BOUND:
  case EXPR_HASH:
  case EXPR_COUNT: return (struct range){0, INT32_MAX};
  case EXPR_NEG: return settle(e->type, -(__int128)a.max, -(__int128)a.min);
  case EXPR_ABS: {
    __int128 high = -(__int128)a.min > a.max ? -(__int128)a.min : a.max;
    return settle(e->type, a.min > 0 ? a.min : a.max < 0 ? -(__int128)a.max : 0, high);
  }
  case EXPR_CONVERT:
    if (e->args[0]->type == EXPR_FLOAT || e->args[0]->type == EXPR_SINGLE) {
      return all;
    }
    return settle(e->type, a.min, a.max);
  case EXPR_ADD: return settle(e->type, (__int128)a.min + b.min, (__int128)a.max + b.max);
  case EXPR_SUB: return settle(e->type, (__int128)a.min - b.max, (__int128)a.max - b.min);
  case EXPR_MUL: return range_of_product(e->type, a, b);
  case EXPR_FLOORDIV:
    if (!positive) {
      return all;
    }
    return (struct range){range_floor(a.min, a.min < 0 ? b.min : b.max),
                          range_floor(a.max, a.max < 0 ? b.max : b.min)};
  case EXPR_MOD:
    return positive ? (struct range){0, a.min >= 0 && a.max < b.max ? a.max : b.max - 1} : all;
  case EXPR_MIN:
    return (struct range){a.min < b.min ? a.min : b.min, a.max < b.max ? a.max : b.max};
  case EXPR_MAX:
    return (struct range){a.min > b.min ? a.min : b.min, a.max > b.max ? a.max : b.max};
  case EXPR_SELECT: {
    struct range c = range_of(table, e->args[2]);
    return (struct range){b.min < c.min ? b.min : c.min, b.max > c.max ? b.max : c.max};
  }
  default: return all;
  }
}

struct range range_of(struct range_table *table, const struct expr *e)
{
  while (table->ranges.count < table->pool->nodes.count) {
    vector_push(table->arena, &table->ranges, (struct range){0, 0});
    vector_push(table->arena, &table->known, false);
  }
  if (!table->known.items[e->id]) {
    struct range range = range_compute(table, e);
    table->ranges.items[e->id] = range;
    table->known.items[e->id] = true;
  }
  return table->ranges.items[e->id];
}

const struct expr *range_long(struct range_table *table, const struct expr *e)
{
  return e->type == EXPR_LONG ? e : expr_convert(table->pool, e, EXPR_LONG);
}

const struct expr *range_add(struct range_table *table, const struct expr *a, const struct expr *b)
{
  return expr_binary(table->pool, EXPR_ADD, a, b);
}

const struct expr *range_sub(struct range_table *table, const struct expr *a, const struct expr *b)
{
  return a == b ? expr_long(table->pool, 0) : expr_binary(table->pool, EXPR_SUB, a, b);
}

const struct expr *range_scale(struct range_table *table, const struct expr *a, int64_t factor)
{
  if (factor == 1) {
    return a;
  }
  if (factor == -1) {
    return expr_unary(table->pool, EXPR_NEG, a);
  }
  return expr_binary(table->pool, EXPR_MUL, a, expr_long(table->pool, factor));
}

const struct expr *range_min(struct range_table *table, const struct expr *a, const struct expr *b)
{
  struct range x = range_of(table, a);
  struct range y = range_of(table, b);
  if (a == b || x.max <= y.min) {
    return a;
  }
  return y.max <= x.min ? b : expr_binary(table->pool, EXPR_MIN, a, b);
}

const struct expr *range_max(struct range_table *table, const struct expr *a, const struct expr *b)
{
  struct range x = range_of(table, a);
  struct range y = range_of(table, b);
  if (a == b || x.min >= y.max) {
    return a;
  }
  return y.min >= x.max ? b : expr_binary(table->pool, EXPR_MAX, a, b);
}

const struct expr *range_floordiv(struct range_table *table, const struct expr *a, int64_t divisor)
{
  assert(divisor > 0);
  return divisor == 1 ? a
                      : expr_binary(table->pool, EXPR_FLOORDIV, a, expr_long(table->pool, divisor));
}

const struct expr *range_ceildiv(struct range_table *table, const struct expr *a, int64_t divisor)
{
  return range_floordiv(
      table, divisor == 1 ? a : range_add(table, a, expr_long(table->pool, divisor - 1)), divisor);
}

const struct expr *range_lt(struct range_table *table, const struct expr *a, const struct expr *b)
{
  struct range x = range_of(table, a);
  struct range y = range_of(table, b);
  if (x.max < y.min || a == b || x.min >= y.max) {
    return expr_bool(table->pool, x.max < y.min);
  }
  return expr_binary(table->pool, EXPR_LT, a, b);
}

const struct expr *range_le(struct range_table *table, const struct expr *a, const struct expr *b)
{
  struct range x = range_of(table, a);
  struct range y = range_of(table, b);
  if (x.max <= y.min || a == b || x.min > y.max) {
    return expr_bool(table->pool, a == b || x.max <= y.min);
  }
  return expr_binary(table->pool, EXPR_LE, a, b);
}

const struct expr *range_eq(struct range_table *table, const struct expr *a, const struct expr *b)
{
  struct range x = range_of(table, a);
  struct range y = range_of(table, b);
  if (a == b) {
    return expr_bool(table->pool, true);
  }
  if (x.max < y.min || y.max < x.min) {
    return expr_bool(table->pool, false);
  }
  return expr_binary(table->pool, EXPR_EQ, a, b);
}

const struct expr *range_select(struct range_table *table, const struct expr *condition,
                                const struct expr *yes, const struct expr *no)
{
  if (yes == no || expr_is_true(condition)) {
    return yes;
  }
  return expr_is_false(condition) ? no : expr_select(table->pool, condition, yes, no);
}

const struct expr *range_is_int(struct range_table *table, const struct expr *lo,
                                const struct expr *hi)
{
  return expr_and(table->pool, range_le(table, expr_long(table->pool, INT32_MIN), lo),
                  range_le(table, hi, expr_long(table->pool, INT32_MAX)));
}
