/* Sequences and layers that share what a cache holds, by attn/cache.h. */
#include "tests/numeric/cache_properties/model.h"

#include <stdio.h>
#include <string.h>

/* ---- forks ---- */

static int64_t parted_at; /* where the other stories leave story 0 */

static float parting(enum what what, int story, int64_t position, int head, int channel)
{
  return any_element(what, position < parted_at ? 0 : story, position, head, channel);
}

static const char *const forked[] = {
    "paged(page = 4)",
    "paged(page = 16), k = int8, v = int8",
    "dense",
    "ring(capacity = 160)",
    "paged(page = 8), k = int4(axis = channel, group = 4, residual = 8), v = int4(residual = 5)",
};

/* Forks that share pages give the rows of sequences that have their own. */
START_TEST(forks_are_copies)
{
  struct draw draw = draw_of("forks", _i);
  static struct rows shared, own;
  char text[512];
  snprintf(text, sizeof(text), "  mask causal\n  cache %s\n", forked[_i]);
  struct model m = model_open(text, NULL);
  m.element = parting;
  parted_at = _i == 4 ? 24 : pick(&draw, 3, 40); /* whole pages, whose tokens are in residuals */
  for (int copies = 0; copies < 2; copies++) {
    struct rows *rows = copies ? &own : &shared;
    struct draw same = draw;
    attn_cache *cache = managed_open(&m, MOST_SEQUENCES, 1, NULL);
    attn_sequence sequences[MOST_SEQUENCES];
    struct batch all = {.sequences = 3, .stories = {0, 1, 2}};
    for (int b = 0; b < 3; b++)
      all.rows[b] = all.lengths[b] = parted_at;
    memset(rows, 0, sizeof(*rows));
    managed_ok(attn_cache_add(cache, &sequences[0]));
    if (copies) {
      managed_ok(attn_cache_add(cache, &sequences[1]));
      managed_ok(attn_cache_add(cache, &sequences[2]));
      managed_step(cache, &m, sequences, &all, 0, rows);
    } else {
      struct batch first = all;
      first.sequences = 1;
      managed_step(cache, &m, sequences, &first, 0, rows);
      managed_ok(attn_cache_fork(cache, sequences[0], &sequences[1]));
      managed_ok(attn_cache_fork(cache, sequences[1], &sequences[2]));
    }
    all.packed = true;
    for (int n = 0; n < 6; n++) {
      for (int b = 0; b < 3; b++)
        all.lengths[b] += all.rows[b] = pick(&same, 0, 5);
      managed_step(cache, &m, sequences, &all, 0, rows);
    }
    attn_cache_free(cache);
  }
  expect_rows(text, &shared, &own);
  model_close(&m);
}
END_TEST

/* ---- layers ---- */

/* A layer without keys of its own reads another's (CLA, Brandon et al. 2024). */
START_TEST(layers_share_keys)
{
  static const uint32_t producers[] = {0, 0, 2};
  static struct rows found, wanted;
  const char *statements = "  mask causal\n  position rope\n";
  char text[512];
  snprintf(text, sizeof(text), "%s  cache paged(page = 4)\n", statements);
  struct model m = model_open(text, NULL);
  attn_cache *cache = managed_open(&m, 1, 3, producers);
  attn_sequence sequence;
  struct batch batch = {.sequences = 1};
  managed_ok(attn_cache_add(cache, &sequence));
  memset(&found, 0, sizeof(found));
  for (int n = 0; n < 12; n++) {
    batch.rows[0] = n == 0 ? 7 : 1;
    batch.lengths[0] += batch.rows[0];
    managed_step(cache, &m, &sequence, &batch, 1, &found);
  }
  plain_rows(statements, any_element, &batch, &wanted);
  expect_rows("layers", &found, &wanted);
  attn_cache_free(cache);
  model_close(&m);
}
END_TEST

/* ---- trees ---- */

enum { NODES = 9 };
static int64_t committed;
static int path[NODES]; /* the nodes of a branch, from its first */

/* A committed token, or that of a node of the branch: in the tree it is the nth drafted one. */
static float on_branch(enum what what, int story, int64_t position, int head, int channel)
{
  if (position >= committed)
    position = committed + path[position - committed];
  return any_element(what, story, position, head, channel);
}

#define TREE                                                                                       \
  "  input ancestors : bool[B, NQ, NQ]\n  input depth : i32[B, NQ]\n"                              \
  "  position rope(at = t if t < offset else offset + depth[b, t - offset])\n"                     \
  "  mask tree(ancestors)\n"

static const char *const drafted[] = {
    TREE "  cache paged(page = 4), rope = read, positions = slot\n",
    TREE "  cache dense, k = int8, v = int8, rope = read, positions = slot\n",
    TREE "  cache paged(page = 16), rope = read\n",
};

struct tree {
  int parents[NODES]; /* -1: the last committed token */
  int depths[NODES];
  struct array ancestors, depth;
  attn_named_tensor inputs[2];
};

static void tree_make(struct tree *t, int nodes, struct draw *draw)
{
  array_make(&t->ancestors, ATTN_TYPE_BOOL, 3, (int64_t[]){1, nodes, nodes});
  array_make(&t->depth, ATTN_TYPE_I32, 2, (int64_t[]){1, nodes});
  for (int n = 0; n < nodes; n++) {
    t->parents[n] = (int)pick(draw, -1, n - 1);
    t->depths[n] = t->parents[n] < 0 ? 0 : t->depths[t->parents[n]] + 1;
    ((int32_t *)t->depth.host)[n] = t->depths[n];
    for (int at = n; at >= 0; at = t->parents[at])
      ((unsigned char *)t->ancestors.host)[n * nodes + at] = 1;
  }
  array_upload(&t->ancestors);
  array_upload(&t->depth);
  t->inputs[0] = (attn_named_tensor){"ancestors", &t->ancestors.tensor};
  t->inputs[1] = (attn_named_tensor){"depth", &t->depth.tensor};
}

static void tree_free(struct tree *t)
{
  array_free(&t->ancestors);
  array_free(&t->depth);
}

/* The rows of a branch decoded token by token on a cache of its own: the last of them. */
static void branch_row(const char *cache, int tokens, struct draw *draw, float row[HEADS][CHANNELS])
{
  static struct rows rows;
  char text[512];
  snprintf(text, sizeof(text), "  position rope\n  mask causal\n%s", cache);
  struct model m = model_open(text, NULL);
  struct batch whole = {.sequences = 1, .lengths = {tokens}};
  struct store s;
  m.element = on_branch;
  store_open(&s, &m, 1, MOST_TOKENS, draw);
  store_fill(&s, &m, &whole, draw, &rows);
  memcpy(row, rows.values[0][tokens - 1], sizeof(rows.values[0][0]));
  store_close(&s);
  model_close(&m);
}

static void tree_step(attn_cache *cache, const struct model *m, attn_sequence sequence,
                      struct batch *batch, int nodes, struct draw *draw, struct tree *t,
                      struct rows *rows)
{
  tree_make(t, nodes, draw);
  batch->inputs = t->inputs, batch->input_count = 2;
  batch->rows[0] = nodes;
  batch->lengths[0] += nodes;
  memset(rows, 0, sizeof(*rows));
  managed_step(cache, m, &sequence, batch, 0, rows);
}

/* Speculative decoding: each node of a drafted tree gets the row that decoding its branch gives,
 * and so does the token after the branch that is kept. */
START_TEST(trees_are_branches)
{
  struct draw draw = draw_of("trees", _i);
  static struct rows rows;
  const char *cache_statement = strstr(drafted[_i], "  cache");
  struct model m = model_open(drafted[_i], NULL);
  attn_cache *cache = managed_open(&m, 1, 1, NULL);
  attn_sequence sequence;
  struct tree tree, chain;
  struct batch batch = {.sequences = 1};
  float wanted[HEADS][CHANNELS];
  managed_ok(attn_cache_add(cache, &sequence));
  committed = pick(&draw, 5, 30);
  for (int64_t n = 0; n < committed; n++) {
    tree_step(cache, &m, sequence, &batch, 1, &draw, &chain, &rows);
    tree_free(&chain);
  }
  tree_step(cache, &m, sequence, &batch, NODES, &draw, &tree, &rows);
  for (int n = 0; n < NODES; n++) {
    for (int at = n; at >= 0; at = tree.parents[at])
      path[tree.depths[at]] = at;
    branch_row(cache_statement, (int)committed + tree.depths[n] + 1, &draw, wanted);
    expect_row(drafted[_i], rows.values[0][committed + n], wanted);
  }
  if (strstr(drafted[_i], "slot") != NULL) { /* the branch of the last node is accepted */
    int32_t kept[MOST_TOKENS];
    const int length = (int)committed + tree.depths[NODES - 1] + 1;
    for (int n = 0; n < length; n++)
      kept[n] = n < committed ? n : (int)committed + path[n - committed];
    managed_ok(attn_cache_keep(cache, sequence, kept, (size_t)length, 1));
    tree_step(cache, &m, sequence, &batch, 1, &draw, &chain, &rows);
    tree_free(&chain);
    path[tree.depths[NODES - 1] + 1] = NODES; /* the token that was drawn after the tree */
    branch_row(cache_statement, length + 1, &draw, wanted);
    expect_row("the token after a branch", rows.values[0][committed + NODES], wanted);
  }
  tree_free(&tree);
  attn_cache_free(cache);
  model_close(&m);
}
END_TEST

void sharing_add(TCase *tests)
{
  tcase_add_loop_test(tests, forks_are_copies, 0, draws(5, 2));
  tcase_add_test(tests, layers_share_keys);
  tcase_add_loop_test(tests, trees_are_branches, 0, draws(3, 1));
}
