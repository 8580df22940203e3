/* attnc fmt: lays specs out. */
#include <stdio.h>
#include <string.h>

#include "dsl/format.h"
#include "runtime/attnc/document.h"

struct fmt_request {
  bool check, in_place;
};

/* One file in an arena of its own. */
static enum exit_status format_file(struct arena *arena, const char *path, const char *text,
                                    size_t length, const struct fmt_request *request)
{
  bool is_stdin = strcmp(path, "-") == 0;
  struct source_set sources;
  struct diagnostics diagnostics;
  if (arena_guard(arena))
    return fail_memory();
  source_set_init(&sources, arena);
  diagnostics_init(&diagnostics, arena, &sources);
  uint32_t source = source_add(&sources, is_stdin ? "<stdin>" : path, text, length);
  if (source == UINT32_MAX)
    return fail_with(EXIT_WRONG, "%s: it is larger than 16 MiB, which is no spec; check the path",
                     path);
  const char *formatted = format_source(arena, &sources.sources.items[source], &diagnostics);
  if (formatted == NULL) {
    fputs(diagnostics_print(&diagnostics, wants_color()), stderr);
    return EXIT_WRONG;
  }
  size_t size = strlen(formatted);
  bool same = size == length && memcmp(formatted, text, size) == 0;
  if (request->check) {
    if (!same)
      complain("%s: its layout differs; attnc fmt -i %s changes it", path, path);
    return same ? EXIT_FINE : EXIT_WRONG;
  }
  if (!request->in_place)
    return write_output(NULL, formatted, size);
  return same ? EXIT_FINE : write_output(path, formatted, size);
}

enum exit_status command_fmt(int argc, char **argv)
{
  struct fmt_request request = {0};
  const struct option options[] = {
      {"check", 'c', OPTION_FLAG, NULL, "write nothing; exit with 1 when a layout differs",
       &request.check, 0, 0},
      {"in-place", 'i', OPTION_FLAG, NULL, "write to the files instead of stdout",
       &request.in_place, 0, 0},
  };
  const struct usage usage = {
      .command = "fmt",
      .arguments = "SPEC... [options]",
      .summary = "Lays specs out in the one way that attnc prints them; - is stdin.",
      .options = options,
      .option_count = sizeof(options) / sizeof(options[0]),
      .least = 1,
      .most = -1,
  };
  enum exit_status status;
  if (!options_parse(&usage, &argc, argv, &status))
    return status;
  if (request.check && request.in_place)
    return fail_with(EXIT_USAGE, "--check writes nothing; leave it or --in-place out");
  enum exit_status worst = EXIT_FINE;
  for (int k = 0; k < argc; k++) {
    if (request.in_place && strcmp(argv[k], "-") == 0)
      return fail_with(EXIT_USAGE, "stdin cannot be changed in place; leave --in-place out");
    size_t length;
    char *text = read_text(argv[k], &length, &status);
    if (text != NULL) {
      struct arena arena;
      arena_init(&arena);
      status = format_file(&arena, argv[k], text, length, &request);
      arena_free(&arena);
      mem_free(text);
    }
    worst = status > worst ? status : worst;
  }
  return worst;
}
