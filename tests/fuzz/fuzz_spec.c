/* Any bytes through the scanner, the parser, the checker and the formatter: a spec can never crash
 * the compiler, and what fmt prints is laid out for good and means the same. */
#include "dsl/format.h"
#include "dsl/spec.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void demand(bool condition)
{
  if (!condition)
    abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  struct arena arena;
  arena_init(&arena);
  if (size > 1 << 16 || arena_guard(&arena)) {
    arena_free(&arena);
    return 0;
  }
  struct source_set sources;
  struct diagnostics diagnostics, layout;
  source_set_init(&sources, &arena);
  diagnostics_init(&diagnostics, &arena, &sources);
  diagnostics_init(&layout, &arena, &sources);
  uint32_t source = source_add(&sources, "fuzz.attn", (const char *)data, size);
  struct spec_file *file = spec_check(&arena, &sources, source, NULL, &diagnostics);
  diagnostics_print(&diagnostics, false);
  diagnostics_print_json(&diagnostics);
  char *once = format_source(&arena, &sources.sources.items[source], &layout);
  demand(once != NULL || diagnostics_has_errors(&diagnostics));
  if (once != NULL) {
    uint32_t again = source_add(&sources, "once.attn", once, strlen(once));
    char *twice = format_source(&arena, &sources.sources.items[again], &layout);
    demand(twice != NULL && strcmp(once, twice) == 0);
    struct spec_file *same = spec_check(&arena, &sources, again, NULL, &layout);
    demand(same->specs.count == file->specs.count && layout.error_count == diagnostics.error_count);
  }
  arena_free(&arena);
  return 0;
}
