/* Random caches. */
#include "tests/numeric/random_specs/generate.h"

#define NEW(type, ...) node_new(g->arena, type, __VA_ARGS__)
#define COUNT_OF(array) ((uint32_t)(sizeof(array) / sizeof((array)[0])))

void choose_layout(struct generator *g)
{
  static const uint32_t pages[] = {1, 2, 3, 4, 16, 32};
  switch (pick(g, 4)) {
  case 0: g->layout = CACHE_DENSE; return;
  case 1:
    g->layout = CACHE_RING;
    g->capacity = 1 + pick(g, 40);
    return;
  default: g->layout = CACHE_PAGED; g->page = pages[pick(g, COUNT_OF(pages))];
  }
}

/* The groups of n things that are at hand: a power of two that divides them, 0 for one group. */
static uint32_t group_of(struct generator *g, uint32_t n)
{
  uint32_t group = 1u << pick(g, 4);
  return group > 1 && n % group == 0 ? group : 0;
}

static void option(struct generator *g, struct node *options, const char *name, uint32_t value)
{
  if (value > 0)
    node_add(g->arena, options,
             NEW(NODE_STATEMENT, "$ = $", word(g, "%s", name), word(g, "%u", value)));
}

/* A storage type in codes: its axis and groups, zeros, a residual, a rest. */
static struct node *codes(struct generator *g, const char *which, uint32_t channels)
{
  static const char *const types[] = {"e4m3", "e5m2", "int8", "int4", "int2"};
  static const uint32_t least[] = {1, 1, 1, 2, 4}; /* codes that fill bytes */
  uint32_t type = pick(g, COUNT_OF(types)), residual = 0;
  struct node *options = node_list(g->arena, "(|, |)");
  if (channels % least[type] != 0)
    type = 2;
  if (channels >= 2 * least[type] && channels % 2 == 0 && chance(g, 10)) {
    channels = channels / 2 - channels / 2 % least[type];
    option(g, options, "channels", channels);
  }
  if (chance(g, 60)) {
    uint32_t group = chance(g, 40) ? group_of(g, channels) : 0;
    option(g, options, "group", group);
    residual = chance(g, 30) ? 1 + pick(g, 12) : 0;
  } else {
    uint32_t group = g->layout == CACHE_RING ? 0 : group_of(g, g->page == 0 ? 16 : g->page);
    node_add(g->arena, options, NEW(NODE_STATEMENT, "axis = channel"));
    option(g, options, "group", group);
    residual = group > 0 ? group * (1 + pick(g, 3)) : 0;
  }
  if (g->layout == CACHE_RING && residual > g->capacity)
    residual = g->capacity;
  option(g, options, "residual", residual);
  if (type >= 2 && chance(g, 40))
    node_add(g->arena, options, NEW(NODE_STATEMENT, "asymmetric = true"));
  return NEW(NODE_STATEMENT, ", $ = $$", word(g, "%s", which), word(g, "%s", types[type]), options);
}

static struct node *storage(struct generator *g, const char *which, uint32_t channels)
{
  static const char *const floats[] = {"f32", "f16", "bf16"};
  if (chance(g, 50))
    return codes(g, which, channels);
  return chance(g, 70) ? word(g, "%s", "")
                       : NEW(NODE_STATEMENT, ", $ = $", word(g, "%s", which),
                             word(g, "%s", floats[pick(g, 3)]));
}

static struct node *layout(struct generator *g)
{
  if (g->layout == CACHE_DENSE)
    return word(g, "dense");
  if (g->layout == CACHE_PAGED)
    return word(g, "paged(page = %u)", g->page);
  return word(g, "ring(capacity = %u, sinks = %u)", g->capacity, pick(g, 4));
}

struct node *make_cache(struct generator *g)
{
  struct node *k = storage(g, "k", g->dim_qk);
  struct node *v = g->value_is_key ? word(g, "%s", "") : storage(g, "v", g->dim_v);
  bool reads = g->rotated && chance(g, 50);
  const char *positions = chance(g, 70)          ? ""
                          : chance(g, 50)        ? ", positions = stored"
                          : !g->rotated || reads ? ", positions = slot"
                                                 : "";
  return NEW(NODE_WORD, "  cache $$$$$\n", layout(g), k, v, word(g, reads ? ", rope = read" : ""),
             NEW(NODE_STATEMENT, positions));
}
