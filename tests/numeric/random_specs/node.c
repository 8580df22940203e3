#include "tests/numeric/random_specs/node.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct node *make(struct arena *arena, enum node_type type, const char *format)
{
  struct node *node = ARENA_NEW(arena, struct node);
  node->type = type;
  node->format = format;
  return node;
}

struct node *node_new(struct arena *arena, enum node_type type, const char *format, ...)
{
  struct node *node = make(arena, type, format);
  va_list children;
  va_start(children, format);
  for (const char *at = format; *at != '\0'; at++)
    if (*at == '$')
      vector_push(arena, &node->args, va_arg(children, struct node *));
  va_end(children);
  return node;
}

struct node *node_list(struct arena *arena, const char *format)
{
  return make(arena, NODE_LIST, format);
}

void node_add(struct arena *arena, struct node *list, struct node *child)
{
  vector_push(arena, &list->args, child);
}

/* ---- printing ---- */

struct text {
  struct arena *arena;
  VECTOR(char) chars;
};

static void put(struct text *text, const char *from, size_t length)
{
  for (size_t n = 0; n < length; n++)
    vector_push(text->arena, &text->chars, from[n]);
}

static void print(struct text *text, const struct node *node);

static void print_list(struct text *text, const struct node *list)
{
  size_t begin = strcspn(list->format, "|");
  const char *between = list->format + begin + 1;
  size_t between_length = strcspn(between, "|");
  const char *end = between + between_length + 1;
  bool any = false;
  for (size_t k = 0; k < list->args.count; k++) {
    if (list->args.items[k]->format[0] == '\0')
      continue;
    put(text, any ? between : list->format, any ? between_length : begin);
    print(text, list->args.items[k]);
    any = true;
  }
  if (any)
    put(text, end, strlen(end));
}

static void print(struct text *text, const struct node *node)
{
  if (node->type == NODE_LIST && node->format[0] != '\0') {
    print_list(text, node);
    return;
  }
  size_t child = 0;
  for (const char *at = node->format; *at != '\0'; at++) {
    if (*at == '$')
      print(text, node->args.items[child++]);
    else
      put(text, at, 1);
  }
}

char *node_print(struct arena *arena, const struct node *root)
{
  struct text text = {.arena = arena};
  print(&text, root);
  vector_push(arena, &text.chars, '\0');
  return text.chars.items;
}

/* ---- making smaller ---- */

struct reducer {
  struct arena *arena;
  struct node *root;
  node_fails *fails;
  void *user;
  unsigned asked, most;
};

/* Whether the tree still fails with `by` in the place of a node; otherwise all is as before. */
static bool try(struct reducer *r, struct node *at, struct node by)
{
  if (r->asked >= r->most)
    return false;
  struct node before = *at;
  *at = by;
  r->asked++;
  if (r->fails(r->user, r->root))
    return true;
  *at = before;
  return false;
}

static bool try_text(struct reducer *r, struct node *at, const char *text)
{
  return strcmp(at->format, text) != 0 && try(r, at, (struct node){at->type, text, {0}});
}

/* Some descendant of the same type in the node's place. */
static bool try_descendants(struct reducer *r, struct node *at, const struct node *below)
{
  for (size_t k = 0; k < below->args.count; k++) {
    const struct node *child = below->args.items[k];
    if (child->type == at->type && try(r, at, *child))
      return true;
    if (try_descendants(r, at, child))
      return true;
  }
  return false;
}

static bool try_number(struct reducer *r, struct node *at)
{
  long value = strtol(at->format, NULL, 10);
  static const long least[] = {1, 2, 4, 8, 16};
  for (size_t k = 0; k < sizeof(least) / sizeof(least[0]) && least[k] < value; k++)
    if (try_text(r, at, arena_format(r->arena, "%ld", least[k])))
      return true;
  return false;
}

/* Makes this node smaller, and then what is left of it. */
static bool shrink(struct reducer *r, struct node *at)
{
  static const char *const constants[][2] = {
      [NODE_BOOL] = {"true", "false"}, [NODE_INT] = {"0", "1"}, [NODE_FLOAT] = {"0.0", "1.0"}};
  if (at->format[0] == '\0')
    return false;
  bool smaller = false;
  switch (at->type) {
  case NODE_STATEMENT:
  case NODE_LIST: smaller = try_text(r, at, ""); break;
  case NODE_COUNT: smaller = try_number(r, at); break;
  case NODE_BOOL:
  case NODE_INT:
  case NODE_FLOAT:
    for (int k = 0; k < 2 && !smaller; k++)
      smaller = strcmp(at->format, constants[at->type][0]) != 0 &&
                try_text(r, at, constants[at->type][k]);
    if (!smaller)
      smaller = try_descendants(r, at, at);
    break;
  case NODE_VECTOR: smaller = try_descendants(r, at, at); break;
  case NODE_WORD: break;
  }
  for (size_t k = 0; k < at->args.count; k++)
    smaller |= shrink(r, at->args.items[k]);
  return smaller;
}

unsigned node_reduce(struct arena *arena, struct node *root, node_fails *fails, void *user,
                     unsigned trials)
{
  struct reducer r = {arena, root, fails, user, 0, trials};
  while (r.asked < trials && shrink(&r, root))
    continue;
  return r.asked;
}
