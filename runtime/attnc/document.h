/* A spec file as the command reads it: its text, its checked attentions, what was said about them.
 *
 * A document owns an arena in which everything lies that it points to. Not to be used by two
 * threads at once: analyses and evaluators add expressions to the specs' pools.
 */
#ifndef ATTN_RUNTIME_ATTNC_DOCUMENT_H
#define ATTN_RUNTIME_ATTNC_DOCUMENT_H

#include "dsl/spec.h"
#include "runtime/attnc/command.h"
#include "runtime/attnc/options.h"

struct document {
  struct arena arena;
  struct source_set sources;
  struct diagnostics diagnostics;
  struct spec_file *file;
  struct spec_set *sets;
  size_t set_count;
  const char *text; /* of the file; `length` bytes and a zero */
  size_t length;
  const char *name; /* as in diagnostics */
  char *import;     /* the newest import, malloc'd */
  double read_ms, check_ms;
};

/* Checks a text. `sets` are --set options. A status other than FINE has been complained about,
 * except that errors of the spec are for document_report to print. In any case document_close it.
 */
enum exit_status document_check(struct document *document, const char *name, const char *text,
                                size_t length, const struct option_list *sets);
/* Reads PATH ("-" is stdin), checks it and prints the diagnostics: on stderr, or as JSON on stdout
 * when there are errors and `json`. WRONG when there are errors. */
enum exit_status document_open(struct document *document, const char *path,
                               const struct option_list *sets, bool json);
enum exit_status document_report(struct document *document, bool json);
void document_close(struct document *document);

/* The imports of document_check for attn_compile: a file beside the importing one. */
char *document_read_import(void *user, const char *from, const char *path, size_t *length);

/* The attention called `name`; the first, with a note when there are several, for NULL. NULL after
 * a complaint. */
const struct spec *document_select(const struct document *document, const char *name);

/* The storage type for q, k and v: the spec's own, or `wanted` (DTYPE_ANY: f32). False after a
 * complaint. */
bool document_type(const struct spec *spec, enum dtype wanted, enum dtype *type);

#endif
