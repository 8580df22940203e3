/* attnc fmt: the canonical layout of an .attn file.
 *
 * Works on tokens and comments, so that nothing but white space can change: two blanks of
 * indentation, one blank around operators, statement words padded to a common width within a run of
 * lines, the colons of successive inputs in one column, at most one blank line in a row. Line
 * breaks inside a statement stay where they are and are indented to the statement's argument.
 * format(format(x)) == format(x).
 */
#ifndef ATTN_DSL_FORMAT_H
#define ATTN_DSL_FORMAT_H

#include "dsl/diagnostics.h"

/* `source` must be one of diagnostics->sources. NULL where the text has syntax errors, which are
 * reported. The result is in the arena. */
char *format_source(struct arena *arena, const struct source *source,
                    struct diagnostics *diagnostics);

#endif
