/* What reads of inputs can give over a tile. */
#include "compiler/analysis/interval_parts.h"

/* The kind of the dimension says that the index is in range. */
static bool index_is_plain(const struct expr *index, const struct spec_dim *dim)
{
  switch (dim->kind) {
  case DIM_B: return expr_is_var(index, EXPR_VAR_B);
  case DIM_H: return expr_is_var(index, EXPR_VAR_H);
  case DIM_G: return expr_is_var(index, EXPR_VAR_G);
  case DIM_NQ:
  case DIM_NK:
  case DIM_D:
  case DIM_DV:
  case DIM_EXPR: break;
  }
  return index->op == EXPR_CONST && dim->size->op == EXPR_CONST && index->value.i >= 0 &&
         index->value.i < dim->size->value.i;
}

static const struct spec_input *input_of(const struct spec *spec, const struct expr *read)
{
  uint64_t input = (uint64_t)read->value.i - EXPR_TENSOR_INPUT;
  bool is_input = read->value.i >= EXPR_TENSOR_INPUT && input < spec->input_count;
  return is_input && spec->inputs[input].rank == read->arg_count ? &spec->inputs[input] : NULL;
}

/* `visits`: of nodes, shared ones count each time; too many are not worth a table of them. */
static bool reads_are_plain(const struct spec *spec, const struct expr *e, uint32_t *visits)
{
  enum { MAX_VISITS = 256 };
  if ((e->deps >> EXPR_DEP_READ & 1) == 0) {
    return true;
  }
  if (++*visits > MAX_VISITS) {
    return false;
  }
  const struct spec_input *input = e->op == EXPR_READ ? input_of(spec, e) : NULL;
  if (e->op == EXPR_READ && input == NULL) {
    return false;
  }
  for (uint32_t n = 0; n < e->arg_count; n++) {
    if (input != NULL ? !index_is_plain(e->args[n], &input->dims[n])
                      : !reads_are_plain(spec, e->args[n], visits)) {
      return false;
    }
  }
  return true;
}

bool interval_reads_are_plain(const struct spec *spec, const struct expr *e)
{
  uint32_t visits = 0;
  return reads_are_plain(spec, e, &visits);
}

/* Over a tile the index covers a range that is not much longer than the tile. */
static bool is_tile_sized(const struct interval_scope *scope, const struct expr *e)
{
  if (!interval_varies(e)) {
    return true;
  }
  bool on_i = expr_depends(e, EXPR_VAR_I) || expr_depends(e, EXPR_VAR_R);
  if ((on_i && scope->i_wide) || (expr_depends(e, EXPR_VAR_J) && scope->j_wide) || e->height > 32) {
    return false;
  }
  switch ((int)e->op) {
  case EXPR_VAR: return true;
  case EXPR_NEG:
  case EXPR_ABS: return is_tile_sized(scope, e->args[0]);
  case EXPR_ADD:
  case EXPR_SUB:
  case EXPR_MIN:
  case EXPR_MAX: return is_tile_sized(scope, e->args[0]) && is_tile_sized(scope, e->args[1]);
  case EXPR_FLOORDIV:
  case EXPR_MOD:
    return e->args[1]->op == EXPR_CONST && e->args[1]->value.i > 0 &&
           is_tile_sized(scope, e->args[0]);
  default: return false;
  }
}

/* Nothing is known of a read that leaves its tensor: a tile that it would make EMPTY still has to
 * be visited, because the guard that reports the index is there. */
static const struct expr *in_range(struct range_table *t, const struct spec_dim *dim,
                                   const struct interval *at)
{
  const struct expr *size = range_long(t, dim->size);
  if (!range_size_is_there(t->spec, dim->size))
    return expr_bool(t->pool, false);
  return expr_and(t->pool, range_le(t, expr_long(t->pool, 0), at->lo), range_lt(t, at->hi, size));
}

static bool is_on_wide_side(const struct interval_scope *scope, const struct expr *e)
{
  bool on_i = expr_depends(e, EXPR_VAR_I) || expr_depends(e, EXPR_VAR_R);
  return (on_i && scope->i_wide) || (expr_depends(e, EXPR_VAR_J) && scope->j_wide);
}

struct interval interval_of_read(struct interval_scope *scope, const struct expr *e)
{
  struct range_table *t = scope->ranges;
  const struct spec_input *input = input_of(t->spec, e);
  struct interval nothing = interval_unknown(scope, e);
  if (input == NULL || is_on_wide_side(scope, e) || input->rank == 0) {
    return nothing;
  }
  const struct expr *safe = expr_bool(t->pool, true);
  const struct expr *indices[SPEC_MAX_RANK + 1];
  bool ranged = false;
  for (uint32_t n = 0; n < input->rank; n++) {
    const struct expr *index = e->args[n];
    const struct interval *at = interval_of(scope, index);
    ranged = n + 1 == input->rank && at->lo != at->hi && is_tile_sized(scope, index);
    if (ranged) {
      indices[n] = at->lo;
      indices[n + 1] = at->hi;
      safe = expr_and(t->pool, safe, in_range(t, &input->dims[n], at));
      break;
    }
    bool plain = index_is_plain(index, &input->dims[n]);
    indices[n] = plain ? index : at->lo;
    safe = expr_and(t->pool, safe, range_eq(t, at->lo, at->hi));
    if (!plain)
      safe = expr_and(t->pool, safe, in_range(t, &input->dims[n], at));
  }
  if (expr_is_false(safe)) {
    return nothing;
  }
  uint32_t tensor = (uint32_t)e->value.i;
  struct interval read;
  if (ranged) {
    read.lo = expr_range(t->pool, EXPR_RANGE_MIN, tensor, e->type, indices, input->rank + 1);
    read.hi = expr_range(t->pool, EXPR_RANGE_MAX, tensor, e->type, indices, input->rank + 1);
  } else {
    read.lo = read.hi = expr_read(t->pool, tensor, e->type, indices, input->rank);
  }
  if (e->type == EXPR_INT) {
    read.lo = range_long(t, read.lo);
    read.hi = range_long(t, read.hi);
  }
  return (struct interval){range_select(t, safe, read.lo, nothing.lo),
                           range_select(t, safe, read.hi, nothing.hi), expr_bool(t->pool, true)};
}
