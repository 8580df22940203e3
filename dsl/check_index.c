/* Indices that leave their tensors. Nothing is proved here: the formulas are evaluated for a few
 * sizes and pairs, with the parameters' defaults and one value for all that inputs hold, and a read
 * that leaves its input there may do so in a launch. What is reported therefore has a witness. */
#include "dsl/check.h"
#include "dsl/expr_eval.h"

#include <string.h>

enum { MAX_NODES = 4096, MAX_READS = 64, MAX_KEYS = 80 /* that are all looked at */ };

struct candidate {
  const struct expr *read;
  bool said;
};

struct probe {
  struct check *check;
  const struct spec *spec;
  struct expr_evaluator *evaluator;
  struct candidate candidates[MAX_READS];
  size_t count;
  int64_t rows, keys; /* NQ, NK */
  int64_t i, j;       /* where it looks; j is -1 for what belongs to a row */
  int64_t content;    /* what every int of an input is; bools are whether it is not 0 */
  int64_t sizes[SPEC_MAX_INPUTS][SPEC_MAX_RANK];
};

/* ---- what is worth a look ---- */

/* An index that is the dimension's own, a constant (checked before), or a position in NQ rows,
 * which has a warning of its own. */
static bool is_plain(const struct spec_dim *dim, const struct expr *index)
{
  switch (dim->kind) {
  case DIM_B: return expr_is_var(index, EXPR_VAR_B);
  case DIM_H: return expr_is_var(index, EXPR_VAR_H);
  case DIM_G: return expr_is_var(index, EXPR_VAR_G);
  case DIM_NQ: return expr_is_var(index, EXPR_VAR_R) || expr_is_var(index, EXPR_VAR_I);
  case DIM_NK: return expr_is_var(index, EXPR_VAR_I) || expr_is_var(index, EXPR_VAR_J);
  case DIM_D:
  case DIM_DV:
  case DIM_EXPR: return false;
  }
  return false;
}

/* Reductions are not looked into: they may be long. False where one decides what is reached. */
static bool find_candidates(struct probe *probe)
{
  const struct expr_pool *pool = probe->spec->pool;
  for (size_t k = 0; k < pool->nodes.count; k++) {
    const struct expr *e = pool->nodes.items[k];
    bool binds = e->op == EXPR_SUM || e->op == EXPR_ANY || e->op == EXPR_ALL;
    if (binds && e->type != EXPR_FLOAT)
      return false;
    if (e->op != EXPR_READ || e->value.i < EXPR_TENSOR_INPUT || e->deps >> EXPR_DEP_BOUND != 0 ||
        (e->deps >> EXPR_DEP_ARG & 1) != 0 || expr_depends(e, EXPR_VAR_N))
      continue;
    const struct spec_input *input = &probe->spec->inputs[e->value.i - EXPR_TENSOR_INPUT];
    bool plain = true;
    for (uint32_t n = 0; n < e->arg_count; n++)
      plain = plain && (expr_is_const(e->args[n]) || is_plain(&input->dims[n], e->args[n]));
    if (!plain && probe->count < MAX_READS)
      probe->candidates[probe->count++].read = e;
  }
  return probe->count > 0;
}

/* ---- evaluating ---- */

static bool read_element(void *user, uint32_t tensor, const int64_t *indices, size_t count,
                         union expr_value *value, struct expr_fault *fault)
{
  const struct probe *probe = user;
  if (tensor < EXPR_TENSOR_INPUT) {
    value->f = 0.0;
    return true;
  }
  uint32_t number = tensor - EXPR_TENSOR_INPUT;
  for (size_t k = 0; k < count; k++)
    if (indices[k] < 0 || indices[k] >= probe->sizes[number][k]) {
      fault->dim = (uint32_t)k;
      fault->index = indices[k];
      fault->size = probe->sizes[number][k];
      return false;
    }
  switch ((int)probe->spec->inputs[number].type) {
  case DTYPE_BOOL: value->i = probe->content != 0; break;
  case DTYPE_U8: value->i = probe->content & 0xFF; break;
  case DTYPE_I32:
  case DTYPE_I64: value->i = probe->content; break;
  default: value->f = (double)probe->content;
  }
  return true;
}

static union expr_value no_sum(void *user, const struct expr *e)
{
  (void)user;
  (void)e;
  return (union expr_value){.f = 0.0};
}

static void open_evaluator(struct probe *probe)
{
  const struct spec *spec = probe->spec;
  struct expr_evaluator *evaluator = expr_evaluator_new(probe->check->arena, spec->pool);
  probe->evaluator = evaluator;
  expr_set_reader(evaluator, read_element, NULL, probe);
  expr_set_int(evaluator, EXPR_VAR_SIZE_B, 1);
  for (uint32_t k = 0; k < spec->param_count; k++)
    expr_set_param(evaluator, k,
                   spec->params[k].type == EXPR_FLOAT
                       ? (union expr_value){.f = spec->params[k].value.f}
                       : (union expr_value){.i = spec->params[k].value.i});
  for (uint32_t k = 0; k < spec->map_count; k++)
    expr_set_map(evaluator, k, 0.5);
  for (size_t k = 0; k < spec->pool->nodes.count; k++)
    if (spec->pool->nodes.items[k]->op == EXPR_SUM || spec->pool->nodes.items[k]->op == EXPR_MEAN)
      expr_set_shortcut(evaluator, spec->pool->nodes.items[k], no_sum, NULL);
}

static int64_t integer(struct probe *probe, const struct expr *e)
{
  return expr_evaluate(probe->evaluator, e).i;
}

/* ---- reporting ---- */

static struct expr_names names_of(struct arena *arena, const struct spec *spec)
{
  const char **params = ARENA_ARRAY(arena, const char *, SPEC_MAX_PARAMS);
  const char **inputs = ARENA_ARRAY(arena, const char *, SPEC_MAX_INPUTS);
  for (uint32_t k = 0; k < spec->param_count; k++)
    params[k] = spec->params[k].name;
  for (uint32_t k = 0; k < spec->input_count; k++)
    inputs[k] = spec->inputs[k].name;
  return (struct expr_names){params, inputs};
}

/* What the reader finds in the source, or dots where lets have made it longer than a line. */
static const char *brief(struct arena *arena, const struct expr *e, const struct expr_names *names)
{
  enum { LONGEST = 80 };
  const char *text = expr_print(arena, e, names);
  return strlen(text) <= LONGEST ? text : "...";
}

static const char *place_text(const struct probe *probe)
{
  struct arena *arena = probe->check->arena;
  const char *pair = arena_format(arena, "for i = %lld", (long long)probe->i);
  if (probe->j >= 0)
    pair = arena_format(arena, "%s, j = %lld", pair, (long long)probe->j);
  return arena_format(arena, "%s where NQ = %lld, NK = %lld", pair, (long long)probe->rows,
                      (long long)probe->keys);
}

static void report(struct probe *probe, const struct expr *read, const struct expr_fault *fault)
{
  struct check *check = probe->check;
  const struct spec_input *input = &probe->spec->inputs[read->value.i - EXPR_TENSOR_INPUT];
  const struct expr_names names = names_of(check->arena, probe->spec);
  const struct expr *size = input->dims[fault->dim].size;
  const char *index = brief(check->arena, read->args[fault->dim], &names);
  const char *last = expr_is_const(size)
                         ? arena_format(check->arena, "%lld", (long long)size->value.i - 1)
                         : arena_format(check->arena, "%s - 1", brief(check->arena, size, &names));
  struct diagnostic *found;
  if ((read->args[fault->dim]->deps >> EXPR_DEP_READ & 1) != 0) {
    found = check_error(check, DIAG_INDEX_OF_DATA, read->span,
                        "what an input holds decides index %u of '%s': a launch where it is not in "
                        "0 .. %s is an error",
                        fault->dim, input->name, last);
    diag_help(check->diagnostics, found, "where that is not meant write clamp(%s, 0, %s)", index,
              last);
    return;
  }
  found =
      check_error(check, DIAG_INDEX_LEAVES, read->span,
                  "index %u of '%s' is %lld and the dimension has %lld, %s", fault->dim,
                  input->name, (long long)fault->index, (long long)fault->size, place_text(probe));
  diag_help(check->diagnostics, found,
            "write clamp(%s, 0, %s), or keep it in 0 .. %s by a condition: 'x if y else z', a mask",
            index, last, last);
}

/* Which read it was: the evaluator tells the tensor and the index. */
static void take_fault(struct probe *probe)
{
  const struct expr_fault fault = *expr_evaluator_fault(probe->evaluator);
  if (!fault.raised)
    return;
  for (size_t k = 0; k < probe->count; k++) {
    struct candidate *candidate = &probe->candidates[k];
    if (candidate->read->value.i != (int64_t)fault.tensor ||
        integer(probe, candidate->read->args[fault.dim]) != fault.index)
      continue;
    if (!candidate->said)
      report(probe, candidate->read, &fault);
    candidate->said = true;
    break;
  }
  expr_clear_fault(probe->evaluator);
}

static union expr_value visit(struct probe *probe, const struct expr *e)
{
  union expr_value value = {0};
  if (e == NULL)
    return value;
  value = expr_evaluate(probe->evaluator, e);
  take_fault(probe);
  return value;
}

static void visit_pair(struct probe *probe, int64_t j)
{
  const struct spec *spec = probe->spec;
  probe->j = j;
  expr_set_int(probe->evaluator, EXPR_VAR_J, j);
  if (visit(probe, spec->mask).i == 0)
    return;
  for (uint32_t k = 0; k < spec->map_count; k++)
    visit(probe, spec->maps[k].score);
  visit(probe, spec->weight);
  visit(probe, spec->value);
}

static void visit_row(struct probe *probe, int64_t i)
{
  const struct spec *spec = probe->spec;
  probe->i = i;
  probe->j = -1;
  expr_set_int(probe->evaluator, EXPR_VAR_I, i);
  for (uint32_t k = 0; k < spec->map_count; k++) {
    visit(probe, spec->maps[k].sink);
    visit(probe, spec->maps[k].at_least);
  }
  visit(probe, spec->post);
}

/* Both ends of a dimension, what is next to them, and the middle. */
enum { PLACES = 5 };
static int64_t place(int64_t size, int number)
{
  const int64_t all[PLACES] = {0, 1, size / 2, size - 2, size - 1};
  return all[number] < 0 ? 0 : all[number] >= size ? size - 1 : all[number];
}

struct pass {
  int64_t rows, keys, content;
  bool last; /* of the heads and channels; else the first */
};

static void run_pass(struct probe *probe, const struct pass *pass)
{
  const struct spec *spec = probe->spec;
  struct expr_evaluator *evaluator = probe->evaluator;
  probe->rows = pass->rows;
  probe->keys = pass->keys;
  expr_set_int(evaluator, EXPR_VAR_SIZE_NQ, pass->rows);
  expr_set_int(evaluator, EXPR_VAR_SIZE_NK, pass->keys);
  for (uint32_t k = 0; k < spec->input_count; k++)
    for (uint32_t n = 0; n < spec->inputs[k].rank; n++)
      probe->sizes[k][n] = integer(probe, spec->inputs[k].dims[n].size);
  probe->content = 0; /* where a sequence starts; what is looked at are the formulas */
  expr_reset_reads(evaluator);
  int64_t offset = integer(probe, spec->offset);
  expr_clear_fault(evaluator);
  probe->content = pass->content;
  expr_reset_reads(evaluator);
  expr_set_int(evaluator, EXPR_VAR_OFFSET, offset);
  uint32_t h = pass->last ? spec->query_heads - 1 : 0;
  expr_set_int(evaluator, EXPR_VAR_H, h);
  expr_set_int(evaluator, EXPR_VAR_G, h / (spec->query_heads / spec->kv_heads));
  expr_set_int(evaluator, EXPR_VAR_C, pass->last ? spec->dim_v - 1 : 0);
  for (int r = 0; r < PLACES; r++) {
    int64_t row = place(pass->rows, r);
    if (row + offset < 0 || row + offset > INT32_MAX)
      continue;
    expr_set_int(evaluator, EXPR_VAR_R, row);
    visit_row(probe, row + offset);
    for (int64_t j = 0; j < pass->keys && pass->keys <= MAX_KEYS; j++)
      visit_pair(probe, j);
    for (int k = 0; k < PLACES && pass->keys > MAX_KEYS; k++)
      visit_pair(probe, place(pass->keys, k));
  }
}

void check_indices(struct check *check)
{
  static const struct pass passes[] = {{1, 1, 0, false},       {MAX_KEYS, MAX_KEYS, 0, true},
                                       {3, MAX_KEYS, 0, true}, {200, 200, 0, false},
                                       {3, 5, -1, true},       {3, 5, 1 << 20, true}};
  struct spec *spec = check->spec;
  struct probe *probe = ARENA_NEW(check->arena, struct probe);
  probe->check = check;
  probe->spec = spec;
  for (uint32_t k = 0; k < spec->param_count; k++)
    if (!spec->params[k].has_default && !spec->params[k].is_const)
      return; /* only the launch knows what goes with it */
  if (spec->pool->nodes.count > MAX_NODES || !find_candidates(probe))
    return;
  open_evaluator(probe);
  for (size_t k = 0; k < sizeof(passes) / sizeof(*passes); k++)
    run_pass(probe, &passes[k]);
}
