/* Where divergent threads meet: immediate post-dominators of basic blocks.
 *
 * Computed as dominators of the reversed graph, after Cooper, Harvey, Kennedy, "A simple, fast
 * dominance algorithm", 2001. A block that ends in a trap leads nowhere: the threads that do not
 * trap meet as if it were not there. */
#include <stdlib.h>

#include "tests/device/ptx_build.h"

struct edge {
  uint32_t from, to;
};

struct graph {
  const struct ptx_function *function;
  uint32_t *block_of; /* by instruction */
  uint32_t *first;    /* instruction, by block */
  uint32_t count;     /* of blocks; this number is the end of the function */
  struct edge *edges; /* sorted by `to` */
  uint32_t edge_count;
  uint32_t *incoming; /* by block and the end: the first of its edges */
  uint32_t *order; /* position in a depth-first postorder from the end; UINT32_MAX when it is out of
                      reach */
  uint32_t *by_order; /* blocks by that position */
  uint32_t reached;
  uint32_t *join; /* immediate post-dominators */
};

static bool ends_thread(const struct ptx_op *op, enum ptx_opcode opcode)
{
  return opcode == PTX_RET || opcode == PTX_EXIT || (opcode == PTX_TRAP && op->guard < 0);
}

static bool ends_block(const struct ptx_op *op)
{
  const enum ptx_opcode opcode = (enum ptx_opcode)op->opcode;
  return opcode == PTX_BRA || opcode == PTX_BRX_IDX || ends_thread(op, opcode);
}

static void mark_blocks(struct graph *g)
{
  const struct ptx_function *f = g->function;
  g->block_of[0] = 1;
  for (uint32_t k = 0; k < f->op_count; k++) {
    const struct ptx_op *op = &f->ops[k];
    if (op->opcode == PTX_BRA) {
      g->block_of[op->target] = 1;
    }
    for (uint32_t t = 0; t < op->target_count; t++) {
      g->block_of[op->targets[t]] = 1;
    }
    if (ends_block(op) && k + 1 < f->op_count) {
      g->block_of[k + 1] = 1;
    }
  }
  for (uint32_t k = 0; k < f->op_count; k++) {
    if (g->block_of[k] != 0) {
      g->first[g->count++] = k;
    }
    g->block_of[k] = g->count - 1;
  }
}

static void add_edge(struct graph *g, uint32_t from, uint32_t to)
{
  g->edges[g->edge_count++] = (struct edge){from, to};
}

static void add_edges(struct graph *g)
{
  const struct ptx_function *f = g->function;
  for (uint32_t b = 0; b < g->count; b++) {
    const uint32_t last = (b + 1 < g->count ? g->first[b + 1] : f->op_count) - 1;
    const struct ptx_op *op = &f->ops[last];
    const bool goes_on = op->guard >= 0 || !ends_block(op);
    if (op->opcode == PTX_BRA) {
      add_edge(g, b, g->block_of[op->target]);
    }
    for (uint32_t t = 0; t < op->target_count; t++) {
      add_edge(g, b, g->block_of[op->targets[t]]);
    }
    if (goes_on && last + 1 < f->op_count) {
      add_edge(g, b, b + 1);
    } else if (op->opcode == PTX_RET || op->opcode == PTX_EXIT) {
      add_edge(g, b, g->count);
    }
  }
}

static int compare_edges(const void *a, const void *b)
{
  const struct edge *x = a, *y = b;
  return (x->to > y->to) - (x->to < y->to);
}

static void index_edges(struct graph *g)
{
  qsort(g->edges, g->edge_count, sizeof(*g->edges), compare_edges);
  uint32_t e = 0;
  for (uint32_t b = 0; b <= g->count; b++) {
    while (e < g->edge_count && g->edges[e].to < b) {
      e++;
    }
    g->incoming[b] = e;
  }
  g->incoming[g->count + 1] = g->edge_count;
}

/* Numbers what leads to the end, in postorder, with a stack of (block, next edge). */
static void number_blocks(struct graph *g, struct edge *stack)
{
  uint32_t depth = 0;
  for (uint32_t b = 0; b <= g->count; b++) {
    g->order[b] = UINT32_MAX;
  }
  stack[depth++] = (struct edge){g->count, g->incoming[g->count]};
  g->order[g->count] = 0; /* seen */
  while (depth > 0) {
    struct edge *top = &stack[depth - 1];
    if (top->to == g->incoming[top->from + 1]) {
      g->order[top->from] = g->reached;
      g->by_order[g->reached++] = top->from;
      depth--;
      continue;
    }
    const uint32_t next = g->edges[top->to++].from;
    if (g->order[next] == UINT32_MAX) {
      g->order[next] = 0;
      stack[depth++] = (struct edge){next, g->incoming[next]};
    }
  }
}

static uint32_t intersect(const struct graph *g, uint32_t a, uint32_t b)
{
  while (a != b) {
    while (g->order[a] < g->order[b]) {
      a = g->join[a];
    }
    while (g->order[b] < g->order[a]) {
      b = g->join[b];
    }
  }
  return a;
}

/* One pass over the edges out of every block, in reverse postorder of the reversed graph. */
static bool improve(struct graph *g, const uint32_t *outgoing, const struct edge *by_from)
{
  bool changed = false;
  for (uint32_t k = g->reached - 1; k-- > 0;) { /* the end itself is the last */
    const uint32_t b = g->by_order[k];
    uint32_t join = UINT32_MAX;
    for (uint32_t e = outgoing[b]; e < outgoing[b + 1]; e++) {
      const uint32_t to = by_from[e].to;
      if (g->order[to] != UINT32_MAX && g->join[to] != UINT32_MAX) {
        join = join == UINT32_MAX ? to : intersect(g, to, join);
      }
    }
    changed |= g->join[b] != join;
    g->join[b] = join;
  }
  return changed;
}

static void find_joins(struct graph *g, uint32_t *outgoing, struct edge *by_from)
{
  memset(outgoing, 0, (g->count + 2u) * sizeof(*outgoing));
  for (uint32_t e = 0; e < g->edge_count; e++) {
    outgoing[g->edges[e].from + 1]++;
  }
  for (uint32_t b = 0; b <= g->count; b++) {
    outgoing[b + 1] += outgoing[b];
  }
  for (uint32_t e = g->edge_count;
       e-- > 0;) { /* fills each range from its end, which then is its start */
    by_from[--outgoing[g->edges[e].from + 1]] = g->edges[e];
  }
  for (uint32_t b = 0; b <= g->count; b++) {
    outgoing[b] = outgoing[b + 1];
    g->join[b] = UINT32_MAX;
  }
  outgoing[g->count] = outgoing[g->count + 1] = g->edge_count;
  g->join[g->count] = g->count;
  while (improve(g, outgoing, by_from)) {
  }
}

static void store_joins(const struct graph *g, struct ptx_function *f)
{
  for (uint32_t k = 0; k < f->op_count; k++) {
    struct ptx_op *op = &f->ops[k];
    const uint32_t join = g->join[g->block_of[k]];
    op->join = join < g->count ? g->first[join] : f->op_count;
    /* Threads that only meet to end do not wait for each other. */
    if (op->join < f->op_count && f->ops[op->join].guard < 0 &&
        ends_thread(&f->ops[op->join], (enum ptx_opcode)f->ops[op->join].opcode)) {
      op->join = f->op_count;
    }
  }
}

bool ptx_find_joins(struct ptx_function *function)
{
  const size_t ops = function->op_count;
  size_t edges = 2 * ops;
  for (size_t k = 0; k < ops; k++) {
    edges += function->ops[k].target_count;
  }
  uint32_t *numbers = calloc(6 * (ops + 2), sizeof(*numbers));
  uint32_t *outgoing = calloc(ops + 3, sizeof(*outgoing));
  struct edge *pairs = calloc(2 * edges + ops + 2, sizeof(*pairs));
  const bool good = numbers != NULL && outgoing != NULL && pairs != NULL;
  if (good) {
    const size_t stride = ops + 2;
    struct graph g = {.function = function,
                      .block_of = numbers,
                      .first = numbers + stride,
                      .incoming = numbers + 2 * stride,
                      .order = numbers + 3 * stride,
                      .by_order = numbers + 4 * stride,
                      .join = numbers + 5 * stride,
                      .edges = pairs};
    mark_blocks(&g);
    add_edges(&g);
    index_edges(&g);
    number_blocks(&g, pairs + 2 * edges);
    find_joins(&g, outgoing, pairs + edges);
    store_joins(&g, function);
  }
  free(numbers);
  free(outgoing);
  free(pairs);
  return good;
}
