#include "runtime/attnc/document.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { MAX_IMPORT = 17 << 20, MAX_ATTENTIONS_NAMED = 64 };

/* The file beside the importing one. Whatever is wrong with it, the front end says that it was not
 * found. It is freed with free(), as attn.h asks for. */
char *document_read_import(void *user, const char *from, const char *path, size_t *length)
{
  (void)user;
  char name[PATH_MAX];
  struct stat info;
  const char *slash = strrchr(from, '/');
  int folder = slash == NULL || path[0] == '/' ? 0 : (int)(slash - from) + 1;
  if (snprintf(name, sizeof(name), "%.*s%s", folder, from, path) >= (int)sizeof(name))
    return NULL;
  if (stat(name, &info) != 0 || !S_ISREG(info.st_mode) || info.st_size > MAX_IMPORT)
    return NULL;
  FILE *file = fopen(name, "rb");
  if (file == NULL)
    return NULL;
  char *text = malloc((size_t)info.st_size + 1);
  if (text != NULL)
    *length = fread(text, 1, (size_t)info.st_size, file);
  if (ferror(file)) {
    free(text);
    text = NULL;
  }
  fclose(file);
  return text;
}

/* Copied through a block that the document keeps, so that unwinding leaks nothing. */
static const char *read_import(void *user, struct arena *arena, const char *from, const char *path,
                               size_t *length)
{
  struct document *document = user;
  free(document->import);
  document->import = document_read_import(NULL, from, path, length);
  return document->import == NULL ? NULL : arena_strndup(arena, document->import, *length);
}

static void convert_sets(struct document *document, const struct option_list *sets)
{
  document->sets = ARENA_ARRAY(&document->arena, struct spec_set, sets->count + 1);
  document->set_count = sets->count;
  for (size_t k = 0; k < sets->count; k++) {
    const char *equals = strchr(sets->items[k], '=');
    size_t length = (size_t)(equals - sets->items[k]);
    document->sets[k] =
        (struct spec_set){arena_strndup(&document->arena, sets->items[k], length), equals + 1};
  }
}

enum exit_status document_check(struct document *document, const char *name, const char *text,
                                size_t length, const struct option_list *sets)
{
  memset(document, 0, sizeof(*document));
  arena_init(&document->arena);
  for (size_t k = 0; k < sets->count; k++) {
    char ignored[256];
    const char *value;
    if (!option_split("set", sets->items[k], ignored, sizeof(ignored), &value))
      return EXIT_USAGE;
  }
  if (arena_guard(&document->arena)) {
    document->file = NULL;
    return fail_memory();
  }
  source_set_init(&document->sources, &document->arena);
  diagnostics_init(&document->diagnostics, &document->arena, &document->sources);
  uint32_t source = source_add(&document->sources, name, text, length);
  if (source == UINT32_MAX)
    return fail_with(EXIT_WRONG, "%s: it is larger than 16 MiB, which is no spec; check the path",
                     name);
  document->text = document->sources.sources.items[source].text;
  document->name = document->sources.sources.items[source].name;
  document->length = length;
  convert_sets(document, sets);
  const struct spec_options options = {.sets = document->sets,
                                       .set_count = sets->count,
                                       .read_import = read_import,
                                       .user = document};
  double start = now_ms();
  document->file =
      spec_check(&document->arena, &document->sources, source, &options, &document->diagnostics);
  document->check_ms = now_ms() - start;
  return EXIT_FINE;
}

enum exit_status document_report(struct document *document, bool json)
{
  struct diagnostics *diagnostics = &document->diagnostics;
  bool wrong = diagnostics_has_errors(diagnostics);
  if (diagnostics->items.count == 0)
    return EXIT_FINE;
  if (arena_guard(&document->arena))
    return fail_memory();
  if (json && wrong)
    fputs(diagnostics_print_json(diagnostics), stdout);
  else
    fputs(diagnostics_print(diagnostics, wants_color()), stderr);
  return wrong ? EXIT_WRONG : EXIT_FINE;
}

enum exit_status document_open(struct document *document, const char *path,
                               const struct option_list *sets, bool json)
{
  memset(document, 0, sizeof(*document));
  enum exit_status status;
  size_t length;
  double start = now_ms();
  char *text = read_text(path, &length, &status);
  double read_ms = now_ms() - start;
  if (text == NULL)
    return status;
  status = document_check(document, strcmp(path, "-") == 0 ? "<stdin>" : path, text, length, sets);
  mem_free(text);
  document->read_ms = read_ms;
  return status == EXIT_FINE ? document_report(document, json) : status;
}

void document_close(struct document *document)
{
  arena_free(&document->arena);
  free(document->import);
  document->import = NULL;
}

const struct spec *document_select(const struct document *document, const char *name)
{
  size_t count = document->file->specs.count;
  struct spec *const *specs = document->file->specs.items;
  if (count == 0) {
    complain("%s: it has no attention; write one: attention NAME {, and in lines of their own "
             "heads 8, dim 64 and }",
             document->name);
    return NULL;
  }
  if (name == NULL) {
    if (count > 1)
      complain("%s: note: it has %zu attentions; this is '%s', --name chooses another",
               document->name, count, specs[0]->name);
    return specs[0];
  }
  const char *names[MAX_ATTENTIONS_NAMED];
  size_t named = 0;
  for (size_t k = 0; k < count; k++) {
    if (strcmp(specs[k]->name, name) == 0)
      return specs[k];
    if (named < MAX_ATTENTIONS_NAMED)
      names[named++] = specs[k]->name;
  }
  const char *nearest = diag_nearest(name, names, named);
  if (nearest == NULL)
    nearest = names[0];
  complain("%s: it has no attention '%s'; it has '%s'%s", document->name, name, nearest,
           count > 1 ? " and others" : "");
  return NULL;
}

bool document_type(const struct spec *spec, enum dtype wanted, enum dtype *type)
{
  if (spec->type == DTYPE_ANY) {
    *type = wanted == DTYPE_ANY ? DTYPE_F32 : wanted;
    return true;
  }
  *type = spec->type;
  if (wanted == DTYPE_ANY || wanted == spec->type)
    return true;
  complain("attention '%s' has type %s; leave --type out, or its `type` statement", spec->name,
           dtype_name(spec->type));
  return false;
}
