/* Source texts and places in them. */
#ifndef ATTN_DSL_SOURCE_H
#define ATTN_DSL_SOURCE_H

#include "dsl/base/memory.h"

struct source {
  const char *name; /* as the user wrote it: a path, "<input>", or "prelude/NAME.attn" */
  const char *text; /* NUL-terminated copy; may hold NUL bytes before `length` */
  size_t length;    /* bytes */
  uint32_t *line_starts;
  size_t line_count;
};

/* A byte range [begin, end) of source number `source` in its set. A span of zero length points
 * between two bytes. */
struct span {
  uint32_t source;
  uint32_t begin;
  uint32_t end;
};

struct source_set {
  struct arena *arena;
  VECTOR(struct source) sources;
};

struct source_place {
  const struct source *source;
  uint32_t line;   /* from 1 */
  uint32_t column; /* from 1, in characters (UTF-8 sequences count once) */
};

void source_set_init(struct source_set *set, struct arena *arena);

/* Copies name and text into the arena; returns the index. Texts over 16 MiB are refused: returns
 * UINT32_MAX. */
uint32_t source_add(struct source_set *set, const char *name, const char *text, size_t length);

struct source_place source_locate(const struct source_set *set, struct span span);

/* The text of a line (from 1) without its newline. */
const char *source_line(const struct source *source, uint32_t line, size_t *length);

/* The smallest span that covers both; `a` where they lie in different sources. */
struct span span_join(struct span a, struct span b);

#endif
