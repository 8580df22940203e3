/* Any bytes as a tile program: reading, printing and verifying end without a fault, and what the
 * verifier accepts reads back from its own text as the same text. */
#include "compiler/tile/ir.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct tile_program *read_program(struct arena *arena, const char *text, size_t length)
{
  struct expr_pool *pool = ARENA_NEW(arena, struct expr_pool);
  struct source_set *sources = ARENA_NEW(arena, struct source_set);
  struct diagnostics diagnostics;
  source_set_init(sources, arena);
  expr_pool_init(pool, arena);
  uint32_t source = source_add(sources, "fuzz.tile", text, length);
  diagnostics_init(&diagnostics, arena, sources);
  struct tile_program *program = tile_parse(arena, pool, sources, source, &diagnostics);
  if (program == NULL)
    diagnostics_print(&diagnostics, false);
  return program;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  if (size > 1 << 20)
    return 0;
  struct arena arena;
  arena_init(&arena);
  if (arena_guard(&arena)) {
    arena_free(&arena);
    return 0;
  }
  struct tile_program *program = read_program(&arena, (const char *)data, size);
  if (program != NULL && tile_verify(&arena, program) == NULL) {
    const char *text = tile_print(&arena, program);
    struct tile_program *again = read_program(&arena, text, strlen(text));
    if (again == NULL || tile_verify(&arena, again) != NULL ||
        strcmp(tile_print(&arena, again), text) != 0)
      abort(); /* how a fuzz target reports */
  } else if (program != NULL) {
    tile_print(&arena, program);
  }
  arena_free(&arena);
  return 0;
}
