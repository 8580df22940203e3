/* The prelude: the files of dsl/prelude/, embedded at build time so that the library needs no file
 * beside it. */
#ifndef ATTN_DSL_PRELUDE_H
#define ATTN_DSL_PRELUDE_H

#include <stddef.h>

struct prelude_file {
  const char *name; /* "prelude/NAME.attn" */
  const char *text; /* the file byte for byte, then one zero byte */
  size_t length;    /* bytes of text, without that zero */
};

/* Sorted by name. A row with a NULL name follows the last one and is not counted. */
extern const struct prelude_file prelude_files[];
extern const size_t prelude_file_count;

#endif
