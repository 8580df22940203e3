/* Random statements, and the cases that a spec is run on. */
#include "tests/numeric/random_specs/generate.h"

#include <string.h>

#include "runtime/attnc/random.h"

#define NEW(type, ...) node_new(g->arena, type, __VA_ARGS__)
#define COUNT_OF(array) ((uint32_t)(sizeof(array) / sizeof((array)[0])))

static const struct place pair_place = {.row = true, .key = true};
static const struct place row_place = {.row = true};

static void say(struct generator *g, struct node *statement)
{
  node_add(g->arena, g->statements, statement);
}

static struct node *number(struct generator *g, uint32_t value)
{
  return leaf(g, NODE_COUNT, "%u", value);
}

static struct place with_float(struct place place, const char *name)
{
  place.floats.text[place.floats.count++] = name;
  return place;
}

/* ---- sizes ---- */

static void heads_and_channels(struct generator *g)
{
  static const uint32_t heads[][2] = {{1, 1}, {2, 2}, {4, 2}, {4, 1},
                                      {6, 3}, {8, 2}, {3, 3}, {5, 1}};
  static const uint32_t fewer_heads[][2] = {{1, 1}, {2, 2}, {4, 2}, {4, 1},
                                            {2, 1}, {4, 1}, {1, 1}, {5, 1}};
  static const uint32_t channels[] = {1, 3, 4, 8, 8, 16, 16, 20, 33, 64};
  uint32_t k = pick(g, COUNT_OF(heads));
  g->heads = g->few_blocks ? fewer_heads[k][0] : heads[k][0];
  g->kv_heads = g->few_blocks ? fewer_heads[k][1] : heads[k][1];
  g->dim_qk = channels[pick(g, COUNT_OF(channels))];
  g->dim_v = chance(g, 60) ? g->dim_qk : channels[pick(g, COUNT_OF(channels))];
  say(g, g->heads == g->kv_heads ? NEW(NODE_WORD, "  heads $\n", number(g, g->heads))
                                 : NEW(NODE_WORD, "  heads q = $, kv = $\n", number(g, g->heads),
                                       number(g, g->kv_heads)));
  say(g, g->dim_qk == g->dim_v
             ? NEW(NODE_WORD, "  dim $\n", number(g, g->dim_qk))
             : NEW(NODE_WORD, "  dim qk = $, v = $\n", number(g, g->dim_qk), number(g, g->dim_v)));
  if (g->typed)
    say(g, NEW(NODE_STATEMENT, "  type $\n", word(g, "%s", dtype_name(g->type))));
}

static void alignment(struct generator *g)
{
  g->align = ALIGN_END;
  if (g->ragged)
    say(g, NEW(NODE_STATEMENT, "  cache ragged\n"));
  switch (pick(g, 8)) {
  case 0:
  case 1:
    g->align = ALIGN_START;
    say(g, NEW(NODE_STATEMENT, "  align start\n"));
    return;
  case 2: {
    g->align = ALIGN_EXPR;
    const char *name = new_name(g, "first");
    declare_input(g, name, chance(g, 70) ? "i32" : "i64", word(g, "[B]"));
    say(g, NEW(NODE_STATEMENT, "  align $\n", leaf(g, NODE_INT, "%s[b]", name)));
    return;
  }
  case 3:
    g->align = ALIGN_EXPR;
    say(g,
        NEW(NODE_STATEMENT, "  align $\n", leaf(g, NODE_INT, chance(g, 50) ? "NK // 2" : "b - 1")));
    return;
  default: return;
  }
}

/* ---- fns and lets ---- */

static void fns(struct generator *g)
{
  for (uint32_t count = pick(g, 3); count > 0; count--) {
    struct declared_name fn = {.name = new_name(g, "f"),
                               .type = chance(g, 50) ? NODE_BOOL : NODE_FLOAT};
    fn.args = fn.type == NODE_BOOL ? 3 : 2;
    struct place place = {.in_fn = true};
    struct place_names *names = fn.type == NODE_BOOL ? &place.ints : &place.floats;
    for (uint32_t k = 0; k < fn.args; k++)
      names->text[names->count++] = k == 0 ? "x" : k == 1 ? "y" : "z";
    struct node *body = fn.type == NODE_BOOL ? make_bool(g, &place, 2) : make_float(g, &place, 2);
    node_add(g->arena, g->fns,
             NEW(NODE_STATEMENT, "fn $$ = $\n\n", word(g, "%s", fn.name),
                 word(g, fn.args == 3 ? "(x, y, z)" : "(x, y)"), body));
    vector_push(g->arena, &g->fn_names, fn);
  }
}

static void lets(struct generator *g)
{
  static const enum node_type types[] = {NODE_BOOL, NODE_INT, NODE_FLOAT};
  for (uint32_t count = pick(g, 4); count > 0; count--) {
    bool key = chance(g, 60);
    struct declared_name let = {
        .name = new_name(g, "part"), .type = types[pick(g, 3)], .key = key, .row = true};
    const struct place *place = key ? &pair_place : &row_place;
    struct node *body = let.type == NODE_BOOL  ? make_bool(g, place, 2)
                        : let.type == NODE_INT ? make_int(g, place, 2)
                                               : make_float(g, place, 2);
    node_add(g->arena, g->lets,
             NEW(NODE_STATEMENT, "  let $ = $\n", word(g, "%s", let.name), body));
    vector_push(g->arena, &g->let_names, let);
  }
}

/* ---- scores ---- */

/* A vector of so many channels, of the query or of the key. */
static struct node *vector(struct generator *g, bool by_key, uint32_t channels, int depth)
{
  const char *name = by_key ? "k" : "q";
  if (depth > 0 && chance(g, 12))
    return NEW(NODE_VECTOR, "($ if $ else $)", vector(g, by_key, channels, 0),
               make_bool(g,
                         by_key ? &(struct place){.row = true, .key = true, .one_token = true}
                                : &row_place,
                         1),
               vector(g, by_key, channels, 0));
  if (chance(g, 25))
    return make_vector_read(g, by_key, channels);
  if (channels == g->dim_qk)
    return leaf(g, NODE_VECTOR, "%s", name);
  uint32_t from = pick(g, g->dim_qk - channels + 1);
  return leaf(g, NODE_VECTOR, "%s[%u:%u]", name, from, from + channels);
}

static struct node *product(struct generator *g)
{
  uint32_t channels = chance(g, 75) ? g->dim_qk : 1 + pick(g, g->dim_qk);
  return NEW(NODE_FLOAT, "dot($, $)", vector(g, false, channels, 1), vector(g, true, channels, 1));
}

static struct node *channel_sum(struct generator *g)
{
  static const char *const bodies[] = {"q[c] * k[c] * $", "$ * tanh(q[c] + k[c])",
                                       "abs(q[c] - k[c]) * $", "k[c] * $ * sin(q[c])"};
  struct place place = row_place;
  place.channels = g->dim_qk;
  struct node *factor = make_float(g, &place, 1);
  return NEW(NODE_FLOAT, arena_format(g->arena, "(sum(c) %s)", bodies[pick(g, COUNT_OF(bodies))]),
             factor);
}

static struct node *similarity(struct generator *g)
{
  switch (pick(g, 7)) {
  case 0: return channel_sum(g);
  case 1: return NEW(NODE_FLOAT, "($ + $)", product(g), product(g));
  case 2:
    return NEW(NODE_FLOAT, "($ if $ else $)", product(g), make_bool(g, &pair_place, 2), product(g));
  case 3: return NEW(NODE_FLOAT, "($ + $)", product(g), make_float(g, &pair_place, 2));
  case 4: return NEW(NODE_FLOAT, "(0.5 * $ * $)", product(g), make_float(g, &pair_place, 1));
  default: return product(g);
  }
}

static void scores(struct generator *g)
{
  if (chance(g, 45))
    say(g, NEW(NODE_STATEMENT, "  similarity $\n", similarity(g)));
  if (chance(g, 25))
    say(g, NEW(NODE_STATEMENT, "  scale $\n",
               chance(g, 60) ? leaf(g, NODE_FLOAT, "0.%u", 1 + pick(g, 4))
                             : NEW(NODE_FLOAT, "(0.5 * $ / D)", make_float(g, &pair_place, 1))));
  struct place place = with_float(pair_place, "s");
  for (uint32_t count = pick(g, 3); count > 0; count--)
    say(g, NEW(NODE_STATEMENT, "  score $\n",
               chance(g, 50) ? NEW(NODE_FLOAT, "(s + $)", make_float(g, &place, 2))
                             : make_float(g, &place, 3)));
}

static void rotation(struct generator *g)
{
  static const char *const scalings[] = {"linear(factor = 2.0)", "ntk(factor = 4.0)",
                                         "yarn(factor = 4.0, original = 16.0)", "llama3"};
  uint32_t dim = g->dim_qk - g->dim_qk % 2;
  struct node *options = node_list(g->arena, "(|, |)");
  if (dim != g->dim_qk || chance(g, 30))
    node_add(g->arena, options, NEW(NODE_STATEMENT, "dim = $", number(g, chance(g, 50) ? dim : 2)));
  if (chance(g, 50))
    node_add(g->arena, options, NEW(NODE_STATEMENT, "pairing = interleaved"));
  if (chance(g, 30))
    node_add(g->arena, options, NEW(NODE_STATEMENT, "base = 100.0"));
  if (chance(g, 25) && dim >= 8)
    node_add(
        g->arena, options,
        NEW(NODE_STATEMENT, "scaling = $", word(g, "%s", scalings[pick(g, COUNT_OF(scalings))])));
  if (chance(g, 25))
    node_add(
        g->arena, options,
        NEW(NODE_STATEMENT, "at = $", leaf(g, NODE_INT, chance(g, 50) ? "2 * t + 1" : "t // 3")));
  g->rotated = true;
  say(g, NEW(NODE_STATEMENT, "  position rope$\n", options));
}

static void position(struct generator *g)
{
  switch (pick(g, 8)) {
  case 0:
  case 1:
    if (g->dim_qk >= 2)
      rotation(g);
    return;
  case 2:
    g->biased = true;
    say(g, NEW(NODE_STATEMENT, "  position alibi$\n",
               word(g, chance(g, 60)   ? ""
                       : chance(g, 50) ? "(slope = 0.25)"
                                       : "(at = t // 2)")));
    return;
  case 3:
    if (chance(g, 60)) {
      g->biased = true;
      const char *name = new_name(g, "buckets");
      declare_input(g, name, "f32", word(g, "[8, H]"));
      say(g, NEW(NODE_STATEMENT, "  position t5($, buckets = 8, max_distance = 12$)\n",
                 word(g, "%s", name), word(g, chance(g, 50) ? "" : ", bidirectional = false")));
    } else {
      const char *name = new_name(g, "near");
      declare_input(g, name, "f32", word(g, "[5, D]"));
      say(g, NEW(NODE_STATEMENT, "  position shaw($, clip = 2)\n", word(g, "%s", name)));
    }
    return;
  default: return;
  }
}

/* ---- what comes after the scores ---- */

/* Divides by the row's sum, which must not be near 0. */
static void linear(struct generator *g)
{
  if (chance(g, 50) || g->biased) {
    say(g, NEW(NODE_WORD, "  normalize linear(at_least = $)\n", leaf(g, NODE_WORD, "2.0")));
    return;
  }
  say(g, NEW(NODE_WORD, "  score abs(s) + 0.25\n"));
  say(g, NEW(NODE_WORD, "  normalize linear\n"));
}

/* Returns whether there is a log-sum-exp. */
static bool normalizer(struct generator *g)
{
  switch (pick(g, 14)) {
  case 0: say(g, NEW(NODE_STATEMENT, "  normalize sigmoid\n")); return false;
  case 1: say(g, NEW(NODE_STATEMENT, "  normalize relu\n")); return false;
  case 2: linear(g); return false;
  case 3: say(g, NEW(NODE_STATEMENT, "  normalize none\n")); return false;
  case 4:
    say(g,
        NEW(NODE_STATEMENT, "  normalize $\n", word(g, chance(g, 50) ? "hardmax" : "sparsemax")));
    return false;
  case 5: say(g, NEW(NODE_STATEMENT, "  normalize softmax(plus = 1)\n")); return true;
  case 6:
  case 7:
  case 8:
    say(g, NEW(NODE_STATEMENT, "  normalize softmax(sink = $)\n", make_float(g, &row_place, 2)));
    return true;
  default: return true;
  }
}

static void weight(struct generator *g)
{
  if (g->kinds) /* NaN that a weight of 0 drops may show all the same: rows are divided at their end
                 */
    return;
  switch (pick(g, 20)) {
  case 0:
  case 1:
    say(g, NEW(NODE_STATEMENT, "  weight w / 0.75 if uniform($, b, h, i, j) >= 0.25 else 0.0\n",
               make_int(g, &pair_place, 1)));
    return;
  case 2:
  case 3: say(g, NEW(NODE_STATEMENT, "  weight w * $\n", make_float(g, &pair_place, 2))); return;
  case 4:
    say(g, NEW(NODE_STATEMENT, "  weight $ if $ else $\n", leaf(g, NODE_FLOAT, "w"),
               make_bool(g, &pair_place, 2), leaf(g, NODE_FLOAT, "-0.5 * w")));
    return;
  case 5:
    if (chance(g, 20))
      say(g, NEW(NODE_STATEMENT, "  weight $\n",
                 word(g, chance(g, 50) ? "w * w" : "renormalize(w * w)")));
    return;
  default: return;
  }
}

static void value(struct generator *g)
{
  struct place place = {.row = true, .key = true, .one_token = true, .channels = g->dim_v};
  g->wild = false; /* a value's NaN may reach rows that do not see it */
  switch (pick(g, 12)) {
  case 0:
    if (g->dim_qk >= g->dim_v) {
      uint32_t from = pick(g, g->dim_qk - g->dim_v + 1);
      g->value_is_key = true;
      say(g, NEW(NODE_STATEMENT, "  value k[$:$]\n", word(g, "%u", from),
                 word(g, "%u", from + g->dim_v)));
    }
    return;
  case 1:
    place = with_float(place, "v[c]");
    say(g, NEW(NODE_STATEMENT, "  value $\n", make_float(g, &place, 2)));
    return;
  case 2:
    say(g, NEW(NODE_STATEMENT, "  value $\n",
               NEW(NODE_FLOAT, "(v[c] * $)", make_float(g, &place, 2))));
    return;
  case 3:
    if (chance(g, 25))
      say(g, NEW(NODE_STATEMENT, "  value $\n",
                 NEW(NODE_FLOAT, "(v[c] + $)", make_float(g, &pair_place, 1))));
    else
      say(g, NEW(NODE_STATEMENT, "  value $\n",
                 NEW(NODE_FLOAT, "(v[c] if $ else v[(c + 1) % DV])", make_bool(g, &place, 1))));
    return;
  default: return;
  }
}

static void post(struct generator *g, bool has_lse)
{
  struct place place = with_float(row_place, "o[c]");
  place.channels = g->dim_v;
  if (!chance(g, 25))
    return;
  if (has_lse && chance(g, 50))
    place = with_float(place, "tanh(lse)");
  if (chance(g, 30))
    place = with_float(place, "rsqrt((sum(n < DV) o[n] ** 2) / DV + 0.1)");
  say(g, NEW(NODE_STATEMENT, "  post $\n",
             chance(g, 60) ? NEW(NODE_FLOAT, "(o[c] * $)", make_float(g, &place, 2))
                           : make_float(g, &place, 3)));
}

static void outputs(struct generator *g, bool has_lse)
{
  struct node *list = node_list(g->arena, "  output |, |\n");
  if (has_lse && chance(g, 40))
    node_add(g->arena, list, NEW(NODE_STATEMENT, "lse"));
  if (has_lse && !g->kinds && chance(g, 25)) /* of a row with NaN it is not defined */
    node_add(g->arena, list, NEW(NODE_STATEMENT, "max"));
  if (chance(g, 2))
    node_add(g->arena, list, NEW(NODE_STATEMENT, chance(g, 50) ? "mass" : "weights"));
  say(g, list);
}

static void masks(struct generator *g)
{
  uint32_t count = chance(g, 25) ? 0 : chance(g, 85) ? 1 : 2;
  for (; count > 0; count--) {
    struct node *mask = chance(g, 40) ? make_known_mask(g, &pair_place)
                                      : make_bool(g, &pair_place, 1 + (int)pick(g, 3));
    if (chance(g, 30)) /* leaves less to chance: most conditions rarely hold */
      mask = NEW(NODE_BOOL, "($ or $)", mask, make_bool(g, &pair_place, 2));
    say(g, NEW(NODE_STATEMENT, "  mask $\n", mask));
  }
}

/* ---- cases ---- */

static int64_t length(struct generator *g, bool small)
{
  static const int64_t lengths[] = {1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 33, 40, 65};
  return lengths[pick(g, small ? 7 : COUNT_OF(lengths))];
}

/* Of a last case one sequence, with keys for several tiles. */
static void bound_blocks(struct generator *g, bool last, struct trial_shape *shape)
{
  static const int64_t many_keys[] = {65, 80, 129, 200};
  int64_t most = last ? 1 : 2;
  shape->batch = shape->batch < most ? shape->batch : most;
  if (last)
    shape->keys[0] = many_keys[pick(g, COUNT_OF(many_keys))];
}

static void cases(struct generator *g, uint64_t seed, struct random_spec *spec)
{
  uint64_t odd = g->kinds && !g->poisoned; /* see trial.c */
  for (uint32_t k = 0; k < SPEC_CASES; k++) {
    struct trial_case *c = &spec->cases[k];
    *c = (struct trial_case){.type = g->type,
                             .data = seed * 16 + 2 * k + odd,
                             .kinds = g->kinds,
                             .on_cache = g->on_cache};
    c->shape.batch = 1 + pick(g, 3);
    int64_t limit = c->shape.batch > 1 || g->dim_qk > 20;
    for (int64_t b = 0; b < c->shape.batch; b++) {
      int64_t queries = length(g, k == 0 || limit);
      int64_t keys = k == 0 && chance(g, 50) ? 0 : length(g, k == 0 || (limit && chance(g, 50)));
      bool swap = k == 1 ? queries < keys : queries > keys; /* one case with more queries */
      c->shape.queries[b] = swap && k > 0 ? keys : queries;
      c->shape.keys[b] = swap && k > 0 ? queries : keys;
      if (b > 0 && !g->ragged) {
        c->shape.queries[b] = c->shape.queries[0];
        c->shape.keys[b] = c->shape.keys[0];
      }
    }
    if (g->few_blocks)
      bound_blocks(g, k == SPEC_CASES - 1, &c->shape);
  }
}

static void make_spec(struct arena *arena, uint64_t seed, bool few_blocks, bool on_cache,
                      struct random_spec *spec)
{
  static const enum dtype types[] = {DTYPE_F32, DTYPE_F32, DTYPE_F16, DTYPE_BF16};
  struct generator *g = ARENA_NEW(arena, struct generator);
  g->arena = arena;
  g->key = random_key(seed, on_cache ? "cache" : "spec");
  g->on_cache = on_cache;
  g->few_blocks = few_blocks;
  g->params = node_list(arena, "(|, |)");
  g->fns = node_list(arena, "||");
  g->inputs = node_list(arena, "||");
  g->lets = node_list(arena, "||");
  g->statements = node_list(arena, "||");
  g->type = types[pick(g, COUNT_OF(types))];
  g->typed = chance(g, 50);
  g->ragged = !on_cache && chance(g, 8);
  g->wild = !on_cache && chance(g, 5);
  g->poisoned = !on_cache && !g->wild && chance(g, 4);
  g->kinds = g->wild || g->poisoned;
  g->loose = !on_cache && chance(g, 6);
  if (on_cache)
    choose_layout(g);
  heads_and_channels(g);
  alignment(g);
  fns(g);
  lets(g);
  position(g);
  scores(g);
  masks(g);
  bool has_lse = normalizer(g);
  weight(g);
  value(g);
  post(g, has_lse);
  outputs(g, has_lse);
  if (on_cache)
    say(g, make_cache(g));
  spec->root = NEW(NODE_WORD, "$attention random$ {\n$$$}\n", g->fns, g->params, g->inputs, g->lets,
                   g->statements);
  cases(g, seed, spec);
}

void random_spec(struct arena *arena, uint64_t seed, bool few_blocks, struct random_spec *spec)
{
  make_spec(arena, seed, few_blocks, false, spec);
}

void random_cache_spec(struct arena *arena, uint64_t seed, bool few_blocks,
                       struct random_spec *spec)
{
  make_spec(arena, seed, few_blocks, true, spec);
}
