/* Errors, warnings and notes about a spec, each with a stable code and a place.
 *
 * Codes stand in diagnostics.def and never change their meaning; a retired one is not used again.
 * Several errors are reported in one run; after DIAG_LIMIT of them the rest is counted only.
 */
#ifndef ATTN_DSL_DIAGNOSTICS_H
#define ATTN_DSL_DIAGNOSTICS_H

#include "dsl/source.h"

#include <stdio.h>

enum diag_severity { DIAG_ERROR, DIAG_WARNING, DIAG_NOTE };

enum diag_code {
#define DIAG(name, code, severity, summary) DIAG_##name,
#include "dsl/diagnostics.def"
#undef DIAG
  DIAG_CODE_COUNT
};

enum { DIAG_LIMIT = 20 };

struct diagnostic {
  enum diag_code code;
  enum diag_severity severity;
  struct span span;
  const char *message;
  const char *help; /* NULL when there is nothing likely to say */
  /* A second place ("declared here"), when related_message is not NULL. */
  struct span related;
  const char *related_message;
};

struct diagnostics {
  struct arena *arena;
  const struct source_set *sources;
  VECTOR(struct diagnostic) items;
  size_t error_count;
  size_t warning_count;
};

void diagnostics_init(struct diagnostics *diagnostics, struct arena *arena,
                      const struct source_set *sources);

/* Adds one; the returned record may be given help and a related place. Never NULL. */
struct diagnostic *diag_report(struct diagnostics *diagnostics, enum diag_code code,
                               struct span span, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
void diag_help(struct diagnostics *diagnostics, struct diagnostic *diagnostic, const char *format,
               ...) __attribute__((format(printf, 3, 4)));
void diag_related(struct diagnostics *diagnostics, struct diagnostic *diagnostic, struct span span,
                  const char *format, ...) __attribute__((format(printf, 4, 5)));

static inline bool diagnostics_has_errors(const struct diagnostics *diagnostics)
{
  return diagnostics->error_count != 0;
}

const char *diag_code_text(enum diag_code code);    /* "E0203" */
const char *diag_code_summary(enum diag_code code); /* one line for the docs */

/* All of them as text, in source order:
 *   file.attn:3:8: error[E0201]: unknown name 'widht'
 *      3 |   mask i - j < widht
 *        |                ^~~~~
 *      help: did you mean 'width'?
 * `color` adds terminal colours. The text is in the arena. */
char *diagnostics_print(const struct diagnostics *diagnostics, bool color);
/* As a JSON array of {code, severity, file, line, column, end_line, end_column, message, help}. */
char *diagnostics_print_json(const struct diagnostics *diagnostics);

/* The candidate that differs in capitals alone, else the nearest within a third of the name's
 * length, or NULL. */
const char *diag_nearest(const char *name, const char *const *candidates, size_t count);

#endif
