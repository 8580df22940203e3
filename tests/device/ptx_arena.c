/* Memory of a module: blocks that are released together. */
#include <stdlib.h>

#include "tests/device/ptx_build.h"

enum { BLOCK_BYTES = 1 << 16 };

struct block {
  struct block *next;
  size_t used, size;
  _Alignas(64) unsigned char bytes[];
};
struct ptx_arena {
  struct block *blocks;
};

struct ptx_arena *ptx_arena_new(void)
{
  return calloc(1, sizeof(struct ptx_arena));
}

void ptx_arena_free(struct ptx_arena *arena)
{
  if (arena == NULL) {
    return;
  }
  for (struct block *block = arena->blocks, *next; block != NULL; block = next) {
    next = block->next;
    free(block);
  }
  free(arena);
}

void *ptx_arena_allocate(struct ptx_arena *arena, size_t bytes)
{
  const size_t needed = (bytes + 63) & ~(size_t)63;
  struct block *block = arena->blocks;
  if (block == NULL || block->size - block->used < needed) {
    const size_t size = needed > BLOCK_BYTES ? needed : BLOCK_BYTES;
    block = aligned_alloc(64, sizeof(struct block) + size);
    if (block == NULL) {
      return NULL;
    }
    memset(block->bytes, 0, size);
    block->size = size;
    block->used = 0;
    block->next = arena->blocks;
    arena->blocks = block;
  }
  void *result = block->bytes + block->used;
  block->used += needed;
  return result;
}
