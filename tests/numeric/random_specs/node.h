/* A spec as a tree of texts, so that it can be printed, and made smaller without being parsed.
 *
 * A node is a format in which every `$` stands for the next child. Nodes of one type may stand for
 * each other; what is then no spec any more, for instance because a name is gone, the checker of
 * the language refuses.
 */
#ifndef ATTN_TESTS_RANDOM_SPECS_NODE_H
#define ATTN_TESTS_RANDOM_SPECS_NODE_H

#include "dsl/base/memory.h"

enum node_type {
  NODE_WORD, /* a name or number that stays */
  NODE_STATEMENT,
  NODE_LIST,  /* any number of children; printed as nothing where all of them are */
  NODE_COUNT, /* a number of heads or channels */
  NODE_BOOL,
  NODE_INT,
  NODE_FLOAT,
  NODE_VECTOR
};

struct node {
  enum node_type type;
  const char *format; /* of a LIST "begin|between|end"; "" is a node that was left out */
  VECTOR(struct node *) args;
};

enum { NODE_MAX_ARGS = 6 };

/* A node with the children that the format asks for. */
struct node *node_new(struct arena *arena, enum node_type type, const char *format, ...);
struct node *node_list(struct arena *arena, const char *format);
void node_add(struct arena *arena, struct node *list, struct node *child);

/* The text of a tree, in the arena. */
char *node_print(struct arena *arena, const struct node *root);

/* Whether a tree fails in the way that is looked for. */
typedef bool node_fails(void *user, const struct node *root);
/* Makes the tree smaller in place while it fails, with at most `trials` questions. Returns how many
 * were asked. */
unsigned node_reduce(struct arena *arena, struct node *root, node_fails *fails, void *user,
                     unsigned trials);

#endif
