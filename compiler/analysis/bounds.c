#include "compiler/analysis/bounds.h"

#include "compiler/analysis/range.h"

#include <stdlib.h>

/* A proof is a chain of sufficient conditions on integer forms: form <= 0. */
enum { FORM_MAX_TERMS = 8, MAX_DEPTH = 8, MAX_STEPS = 1000, MAX_VISITS = 1000 };
enum { MAX_PLACES = BOUNDS_KEY + 1 };

/* sum of coef * leaf + constant in ideal arithmetic. */
struct form {
  int64_t constant;
  uint32_t count;
  uint32_t visits; /* of nodes that were added: shared ones count each time */
  bool valid;
  struct {
    int64_t coef;
    const struct expr *leaf;
  } terms[FORM_MAX_TERMS];
};

typedef VECTOR(struct form) form_list; /* each is <= 0 */

struct bounds {
  struct arena *arena;
  const struct spec *spec;
  struct range_table ranges[MAX_PLACES];
  form_list facts[MAX_PLACES];
  /* While walking: the extents of the binders around. */
  const struct expr *extents[EXPR_MAX_LEVEL + 1];
  VECTOR(uint32_t) seen; /* by node id: the binder context that visited it last */
  uint32_t context, context_count;
  uint32_t steps; /* of the proof at hand */
  VECTOR(struct bounds_guard) reads;
  VECTOR(struct bounds_guard) guards;
};

/* Forms */

static void form_add_term(struct form *form, int64_t coef, const struct expr *leaf)
{
  for (uint32_t n = 0; n < form->count; n++) {
    if (form->terms[n].leaf == leaf) {
      form->terms[n].coef += coef;
      if (form->terms[n].coef == 0) {
        form->terms[n] = form->terms[--form->count];
      }
      return;
    }
  }
  if (form->count == FORM_MAX_TERMS) {
    form->valid = false;
    return;
  }
  form->terms[form->count].coef = coef;
  form->terms[form->count++].leaf = leaf;
}

static bool stays_int(struct range range)
{
  return range.min >= INT32_MIN && range.max <= INT32_MAX;
}

/* The operation of an INT node cannot wrap. */
static bool is_ideal(struct range_table *t, const struct expr *e)
{
  struct range a = range_of(t, e->args[0]);
  struct range b = e->arg_count > 1 ? range_of(t, e->args[1]) : a;
  switch ((int)e->op) { /* asked about these only */
  case EXPR_ADD: return stays_int((struct range){a.min + b.min, a.max + b.max});
  case EXPR_SUB: return stays_int((struct range){a.min - b.max, a.max - b.min});
  case EXPR_NEG: return a.min > INT32_MIN;
  case EXPR_MUL: {
    const int64_t p[4] = {a.min * b.min, a.min * b.max, a.max * b.min, a.max * b.max};
    for (int n = 0; n < 4; n++) {
      if (p[n] < INT32_MIN || p[n] > INT32_MAX) {
        return false;
      }
    }
    return true;
  }
  default: return false;
  }
}

/* form += coef * e. Sizes of dimensions are ideal: a launch whose sizes leave INT is refused. */
static void form_add(struct range_table *t, struct form *form, int64_t coef, const struct expr *e,
                     bool is_size)
{
  if (llabs(coef) > (1 << 20) || llabs(form->constant) > RANGE_FAR || ++form->visits > MAX_VISITS) {
    form->valid = false;
    return;
  }
  bool constant_factor =
      e->op == EXPR_MUL && (e->args[0]->op == EXPR_CONST || e->args[1]->op == EXPR_CONST);
  if (e->op == EXPR_CONST && e->type == EXPR_INT) {
    form->constant += coef * e->value.i;
  } else if ((e->op == EXPR_ADD || e->op == EXPR_SUB) && (is_size || is_ideal(t, e))) {
    form_add(t, form, coef, e->args[0], is_size);
    form_add(t, form, e->op == EXPR_ADD ? coef : -coef, e->args[1], is_size);
  } else if (e->op == EXPR_NEG && (is_size || is_ideal(t, e))) {
    form_add(t, form, -coef, e->args[0], is_size);
  } else if (constant_factor && (is_size || is_ideal(t, e))) {
    bool second = e->args[1]->op == EXPR_CONST;
    int64_t factor = e->args[second ? 1 : 0]->value.i;
    if (llabs(factor) > (1 << 20)) {
      form->valid = false;
      return;
    }
    form_add(t, form, coef * factor, e->args[second ? 0 : 1], is_size);
  } else {
    form_add_term(form, coef, e);
  }
}

/* No value is greater than 0. */
static bool never_positive(struct range_table *t, const struct form *form)
{
  __int128 max = form->constant;
  for (uint32_t n = 0; n < form->count; n++) {
    struct range range = range_of(t, form->terms[n].leaf);
    max += (__int128)form->terms[n].coef * (form->terms[n].coef > 0 ? range.max : range.min);
  }
  return form->valid && max <= 0;
}

static bool follows(struct range_table *t, const struct form *form, const struct form *fact)
{
  struct form difference = *form;
  difference.constant -= fact->constant;
  for (uint32_t n = 0; n < fact->count; n++) {
    form_add_term(&difference, -fact->terms[n].coef, fact->terms[n].leaf);
  }
  return never_positive(t, &difference);
}

static bool prove(struct bounds *b, enum bounds_place place, const struct form *form,
                  uint32_t depth);

/* With a leaf replaced by sign * e. */
static bool prove_with(struct bounds *b, enum bounds_place place, const struct form *form,
                       uint32_t term, int64_t sign, const struct expr *e, uint32_t depth)
{
  struct form other = *form;
  int64_t coef = other.terms[term].coef;
  other.terms[term] = other.terms[--other.count];
  form_add(&b->ranges[place], &other, sign * coef, e, false);
  return prove(b, place, &other, depth + 1);
}

/* x // n - y // n + c <= 0 where x + c * n <= y, n > 0 */
static bool prove_quotients(struct bounds *b, enum bounds_place place, const struct form *form,
                            uint32_t depth)
{
  if (form->count != 2 || form->terms[0].leaf->op != EXPR_FLOORDIV ||
      form->terms[1].leaf->op != EXPR_FLOORDIV || llabs(form->terms[0].coef) != 1 ||
      form->terms[0].coef != -form->terms[1].coef) {
    return false;
  }
  uint32_t above = form->terms[0].coef > 0 ? 0 : 1;
  const struct expr *x = form->terms[above].leaf;
  const struct expr *y = form->terms[1 - above].leaf;
  if (x->args[1] != y->args[1] || x->args[1]->op != EXPR_CONST || x->args[1]->value.i <= 0) {
    return false;
  }
  struct form dividends = {.valid = true, .constant = form->constant * x->args[1]->value.i};
  form_add(&b->ranges[place], &dividends, 1, x->args[0], false);
  form_add(&b->ranges[place], &dividends, -1, y->args[0], true);
  return prove(b, place, &dividends, depth + 1);
}

static bool prove_leaf(struct bounds *b, enum bounds_place place, const struct form *form,
                       uint32_t term, uint32_t depth)
{
  const struct expr *e = form->terms[term].leaf;
  bool above = form->terms[term].coef > 0;
  switch ((int)e->op) { /* the others cannot be taken apart */
  case EXPR_MIN:
  case EXPR_MAX: {
    bool first = prove_with(b, place, form, term, 1, e->args[0], depth);
    bool either = (e->op == EXPR_MIN) == above;
    return first == either ? first : prove_with(b, place, form, term, 1, e->args[1], depth);
  }
  case EXPR_SELECT:
    return prove_with(b, place, form, term, 1, e->args[1], depth) &&
           prove_with(b, place, form, term, 1, e->args[2], depth);
  case EXPR_ABS: /* an absolute value that wraps is below */
    return above && prove_with(b, place, form, term, 1, e->args[0], depth) &&
           range_of(&b->ranges[place], e->args[0]).min > INT32_MIN &&
           prove_with(b, place, form, term, -1, e->args[0], depth);
  case EXPR_FLOORDIV: /* x // n <= x for x >= 0, n >= 1 */
    return above && range_of(&b->ranges[place], e->args[0]).min >= 0 &&
           range_of(&b->ranges[place], e->args[1]).min >= 1 &&
           prove_with(b, place, form, term, 1, e->args[0], depth);
  case EXPR_MOD: /* x % n <= x for x >= 0, n >= 1 */
    return above && range_of(&b->ranges[place], e->args[0]).min >= 0 &&
           range_of(&b->ranges[place], e->args[1]).min >= 1 &&
           prove_with(b, place, form, term, 1, e->args[0], depth);
  default: return false;
  }
}

static bool prove(struct bounds *b, enum bounds_place place, const struct form *form,
                  uint32_t depth)
{
  struct range_table *t = &b->ranges[place];
  if (!form->valid || depth > MAX_DEPTH || ++b->steps > MAX_STEPS) {
    return false;
  }
  if (never_positive(t, form)) {
    return true;
  }
  for (size_t n = 0; n < b->facts[place].count; n++) {
    if (follows(t, form, &b->facts[place].items[n])) {
      return true;
    }
  }
  for (uint32_t n = 0; n < form->count; n++) {
    const struct expr *leaf = form->terms[n].leaf;
    const struct expr *extent = leaf->op == EXPR_BOUND ? b->extents[leaf->value.i] : NULL;
    if (extent != NULL && form->terms[n].coef > 0) { /* bound <= extent - 1 */
      struct form last = *form;
      last.constant -= form->terms[n].coef;
      if (prove_with(b, place, &last, n, 1, extent, depth)) {
        return true;
      }
    }
    if (prove_leaf(b, place, form, n, depth)) {
      return true;
    }
  }
  return prove_quotients(b, place, form, depth);
}

/* Facts */

static void add_fact(struct bounds *b, enum bounds_place place, const struct expr *above,
                     const struct expr *below, int64_t constant)
{
  struct form fact = {.valid = true, .constant = constant};
  form_add(&b->ranges[place], &fact, 1, above, false);
  form_add(&b->ranges[place], &fact, -1, below, false);
  if (fact.valid) {
    vector_push(b->arena, &b->facts[place], fact);
  }
}

static void add_variable_facts(struct bounds *b, enum bounds_place place)
{
  struct expr_pool *pool = b->spec->pool;
  const struct expr *keys = expr_variable(pool, EXPR_VAR_SIZE_NK);
  const struct expr *rows = expr_variable(pool, EXPR_VAR_SIZE_NQ);
  const struct expr *i = expr_variable(pool, EXPR_VAR_I);
  add_fact(b, place, expr_variable(pool, EXPR_VAR_B), expr_variable(pool, EXPR_VAR_SIZE_B), 1);
  uint32_t channels = b->spec->dim_v;
  if (place == BOUNDS_ROW || place == BOUNDS_KEY) { /* a pair number, in angles */
    uint32_t pairs = b->spec->has_rotary ? b->spec->rotary.dim / 2 : 0;
    channels = channels > pairs ? channels : pairs;
  }
  add_fact(b, place, expr_variable(pool, EXPR_VAR_C), expr_int(pool, channels), 1);
  if (place != BOUNDS_ROW) {
    add_fact(b, place, expr_variable(pool, EXPR_VAR_J), keys, 1);
  }
  if (place == BOUNDS_KEY) {
    return;
  }
  add_fact(b, place, expr_variable(pool, EXPR_VAR_R), rows, 1);
  if (b->spec->align == ALIGN_END) {
    add_fact(b, place, i, keys, 1);
  }
  if (b->spec->align == ALIGN_START) {
    add_fact(b, place, i, rows, 1);
  }
}

/* What a mask that holds says. */
static void add_mask_facts(struct bounds *b, const struct expr *e, bool holds, uint32_t depth)
{
  if (e->op == EXPR_NOT && depth < 1000) {
    add_mask_facts(b, e->args[0], !holds, depth + 1);
  } else if (e->op == (holds ? EXPR_AND : EXPR_OR) && depth < 1000) {
    add_mask_facts(b, e->args[0], holds, depth + 1);
    add_mask_facts(b, e->args[1], holds, depth + 1);
  } else if ((e->op == EXPR_LT || e->op == EXPR_LE) && e->args[0]->type == EXPR_INT) {
    bool strict = (e->op == EXPR_LT) == holds;
    add_fact(b, BOUNDS_PAIR, e->args[holds ? 0 : 1], e->args[holds ? 1 : 0], strict);
  } else if (e->op == (holds ? EXPR_EQ : EXPR_NE) && e->args[0]->type == EXPR_INT) {
    add_fact(b, BOUNDS_PAIR, e->args[0], e->args[1], 0);
    add_fact(b, BOUNDS_PAIR, e->args[1], e->args[0], 0);
  }
}

/* Reads */

static const struct expr *size_of(const struct bounds *b, const struct expr *read, uint32_t index)
{
  struct expr_pool *pool = b->spec->pool;
  if (read->value.i >= EXPR_TENSOR_INPUT) {
    uint64_t input = (uint64_t)read->value.i - EXPR_TENSOR_INPUT;
    bool known = input < b->spec->input_count && index < b->spec->inputs[input].rank;
    return known ? b->spec->inputs[input].dims[index].size : NULL;
  }
  if (read->value.i == EXPR_TENSOR_O) {
    return expr_int(pool, b->spec->dim_v);
  }
  bool query = read->value.i == EXPR_TENSOR_Q;
  switch (index) {
  case 0: return expr_variable(pool, EXPR_VAR_SIZE_B);
  case 1: return expr_int(pool, query ? b->spec->query_heads : b->spec->kv_heads);
  case 2: return expr_variable(pool, query ? EXPR_VAR_SIZE_NQ : EXPR_VAR_SIZE_NK);
  default: return expr_int(pool, read->value.i == EXPR_TENSOR_V ? b->spec->dim_v : b->spec->dim_qk);
  }
}

static uint32_t prove_read(struct bounds *b, const struct expr *read, enum bounds_place place)
{
  uint32_t proved = 0;
  for (uint32_t n = 0; n < read->arg_count; n++) {
    const struct expr *size = size_of(b, read, n);
    struct form lower = {.valid = true};
    struct form upper = {.valid = true, .constant = 1};
    if (size == NULL || !range_size_is_there(b->spec, size) || read->args[n]->type != EXPR_INT) {
      continue;
    }
    form_add(&b->ranges[place], &lower, -1, read->args[n], false);
    form_add(&b->ranges[place], &upper, 1, read->args[n], false);
    form_add(&b->ranges[place], &upper, -1, size, true);
    b->steps = 0;
    if (prove(b, place, &lower, 0) && prove(b, place, &upper, 0)) {
      proved |= UINT32_C(1) << n;
    }
  }
  return proved;
}

static struct bounds_guard *find_read(struct bounds *b, const struct expr *read,
                                      enum bounds_place place)
{
  for (size_t n = 0; n < b->reads.count; n++) {
    if (b->reads.items[n].read == read && b->reads.items[n].place == place) {
      return &b->reads.items[n];
    }
  }
  return NULL;
}

/* A read below a binder is reached once for each extent that binds its index; it is proved if it is
 * for each. */
static void walk(struct bounds *b, const struct expr *e, enum bounds_place place)
{
  enum { FIRST_LEVEL = EXPR_DEP_BOUND };
  uint32_t context = e->deps >> FIRST_LEVEL != 0 ? b->context : 0;
  while (b->seen.count <= e->id) {
    vector_push(b->arena, &b->seen, UINT32_MAX);
  }
  if (b->seen.items[e->id] == context || e->height > 4000) {
    return;
  }
  b->seen.items[e->id] = context;
  bool binds = e->arg_count == 2 &&
               (e->op == EXPR_SUM || e->op == EXPR_ANY || e->op == EXPR_ALL || e->op == EXPR_MEAN ||
                e->op == EXPR_FOLD_MAX || e->op == EXPR_FOLD_MIN || e->op == EXPR_COUNT);
  if (binds) {
    const struct expr *outer = b->extents[e->value.i];
    uint32_t outer_context = b->context;
    walk(b, e->args[0], place);
    b->extents[e->value.i] = e->args[0];
    b->context = ++b->context_count;
    walk(b, e->args[1], place);
    b->context = outer_context;
    b->extents[e->value.i] = outer;
    return;
  }
  for (uint32_t n = 0; n < e->arg_count; n++) {
    walk(b, e->args[n], place);
  }
  if (e->op == EXPR_READ) {
    uint32_t proved = prove_read(b, e, place);
    struct bounds_guard *known = find_read(b, e, place);
    if (known != NULL) {
      known->proved &= proved;
    } else {
      vector_push(b->arena, &b->reads, (struct bounds_guard){e, place, proved});
    }
  }
}

static void walk_root(struct bounds *b, const struct expr *root, enum bounds_place place)
{
  for (size_t n = 0; n < b->seen.count; n++) { /* another place: other proofs */
    b->seen.items[n] = UINT32_MAX;
  }
  if (root != NULL) {
    walk(b, root, place);
  }
}

static void walk_spec(struct bounds *b)
{
  const struct spec *spec = b->spec;
  walk_root(b, spec->mask, BOUNDS_MASK);
  walk_root(b, spec->weight, BOUNDS_PAIR);
  walk_root(b, spec->value, BOUNDS_PAIR);
  walk_root(b, spec->post, BOUNDS_ROW);
  for (uint32_t n = 0; n < spec->map_count; n++) {
    walk_root(b, spec->maps[n].score, BOUNDS_PAIR);
    walk_root(b, spec->maps[n].sink, BOUNDS_ROW);
    walk_root(b, spec->maps[n].at_least, BOUNDS_ROW);
  }
  if (spec->has_rotary) {
    walk_root(b, spec->rotary.angle, BOUNDS_ROW);
    walk_root(b, spec->rotary.angle, BOUNDS_KEY);
    walk_root(b, spec->rotary.gain, BOUNDS_ROW);
    walk_root(b, spec->rotary.gain, BOUNDS_KEY);
    walk_root(b, spec->rotary.query_position, BOUNDS_ROW);
    walk_root(b, spec->rotary.key_position, BOUNDS_KEY);
  }
  if (spec->select.present) {
    walk_root(b, spec->select.top, BOUNDS_ROW);
    walk_root(b, spec->select.by, BOUNDS_ROW);
    walk_root(b, spec->select.always, BOUNDS_ROW);
  }
}

static int by_id(const void *a, const void *b)
{
  const struct bounds_guard *x = a;
  const struct bounds_guard *y = b;
  if (x->read->id != y->read->id) {
    return x->read->id < y->read->id ? -1 : 1;
  }
  return (int)x->place - (int)y->place;
}

struct bounds *bounds_new(struct arena *arena, const struct spec *spec)
{
  struct bounds *b = ARENA_NEW(arena, struct bounds);
  b->arena = arena;
  b->spec = spec;
  for (int place = 0; place < MAX_PLACES; place++) {
    range_table_init(&b->ranges[place], arena, spec);
    if (place == BOUNDS_MASK || place == BOUNDS_PAIR || spec->align == ALIGN_START) {
      b->ranges[place].first_row = 0;
    }
    add_variable_facts(b, (enum bounds_place)place);
  }
  add_mask_facts(b, spec->mask, true, 0);
  walk_spec(b);
  for (size_t n = 0; n < b->reads.count; n++) {
    uint32_t all = (uint32_t)((UINT64_C(1) << b->reads.items[n].read->arg_count) - 1);
    if (b->reads.items[n].proved != all) {
      vector_push(arena, &b->guards, b->reads.items[n]);
    }
  }
  if (b->guards.count > 0) {
    qsort(b->guards.items, b->guards.count, sizeof(*b->guards.items), by_id);
  }
  return b;
}

uint32_t bounds_proved(struct bounds *bounds, const struct expr *read, enum bounds_place place)
{
  const struct bounds_guard *known = find_read(bounds, read, place);
  return known != NULL ? known->proved : prove_read(bounds, read, place);
}

size_t bounds_guards(struct bounds *bounds, const struct bounds_guard **guards)
{
  *guards = bounds->guards.items;
  return bounds->guards.count;
}
