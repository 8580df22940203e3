#include "dsl/base/memory.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static atomic_uint_fast64_t allocations;
static atomic_int_fast64_t live;
static atomic_uint_fast64_t fail_at; /* the allocation number that fails; 0 when off */

static bool allocation_fails(void)
{
  uint64_t number = atomic_fetch_add_explicit(&allocations, 1, memory_order_relaxed) + 1;
  return number == atomic_load_explicit(&fail_at, memory_order_relaxed);
}

void mem_fail_at(uint64_t n)
{
  atomic_store(&fail_at, n == 0 ? 0 : atomic_load(&allocations) + n);
}

uint64_t mem_allocation_count(void)
{
  return atomic_load(&allocations);
}

int64_t mem_live_count(void)
{
  return atomic_load(&live);
}

void *mem_alloc(size_t size)
{
  if (allocation_fails())
    return NULL;
  void *block = malloc(size == 0 ? 1 : size);
  if (block != NULL)
    atomic_fetch_add_explicit(&live, 1, memory_order_relaxed);
  return block;
}

void *mem_alloc_zeroed(size_t count, size_t size)
{
  size_t bytes;
  if (__builtin_mul_overflow(count, size, &bytes))
    return NULL;
  if (allocation_fails())
    return NULL;
  void *block = calloc(1, bytes == 0 ? 1 : bytes);
  if (block != NULL)
    atomic_fetch_add_explicit(&live, 1, memory_order_relaxed);
  return block;
}

void *mem_realloc(void *block, size_t size)
{
  if (block == NULL)
    return mem_alloc(size);
  if (allocation_fails())
    return NULL;
  return realloc(block, size == 0 ? 1 : size);
}

void mem_free(void *block)
{
  if (block == NULL)
    return;
  atomic_fetch_sub_explicit(&live, 1, memory_order_relaxed);
  free(block);
}

void mem_prefer_large_pages(void *block, size_t size)
{
#ifdef MADV_HUGEPAGE
  const size_t page = (size_t)sysconf(_SC_PAGESIZE);
  const size_t before = (page - (uintptr_t)block % page) % page;
  if (size > before)
    madvise((char *)block + before, (size - before) / page * page, MADV_HUGEPAGE);
#else
  (void)block, (void)size;
#endif
}

struct arena_block {
  struct arena_block *next;
  max_align_t data[];
};

enum { ARENA_BLOCK_SIZE = 64 * 1024 };

void arena_init(struct arena *arena)
{
  memset(arena, 0, sizeof(*arena));
}

void arena_free(struct arena *arena)
{
  struct arena_block *block = arena->blocks;
  while (block != NULL) {
    struct arena_block *next = block->next;
    mem_free(block);
    block = next;
  }
  arena->blocks = NULL;
  arena->cursor = NULL;
  arena->limit = NULL;
}

_Noreturn void arena_out_of_memory(struct arena *arena)
{
  longjmp(arena->escape, 1);
}

void *arena_alloc(struct arena *arena, size_t size)
{
  const size_t alignment = _Alignof(max_align_t);
  if (size > SIZE_MAX / 2)
    arena_out_of_memory(arena);
  size = (size + alignment - 1) / alignment * alignment;
  if (arena->cursor == NULL || (size_t)(arena->limit - arena->cursor) < size) {
    size_t capacity = size > ARENA_BLOCK_SIZE / 4 ? size : ARENA_BLOCK_SIZE;
    struct arena_block *block = mem_alloc(sizeof(*block) + capacity);
    if (block == NULL)
      arena_out_of_memory(arena);
    if (capacity == size && arena->blocks != NULL) {
      /* A large request gets a block of its own behind the current one, whose rest stays usable. */
      block->next = arena->blocks->next;
      arena->blocks->next = block;
      memset(block->data, 0, size);
      return block->data;
    }
    block->next = arena->blocks;
    arena->blocks = block;
    arena->cursor = (char *)block->data;
    arena->limit = arena->cursor + capacity;
  }
  void *result = arena->cursor;
  arena->cursor += size;
  memset(result, 0, size);
  return result;
}

void *arena_alloc_array(struct arena *arena, size_t count, size_t size)
{
  size_t bytes;
  if (__builtin_mul_overflow(count, size, &bytes))
    arena_out_of_memory(arena);
  return arena_alloc(arena, bytes);
}

void *arena_copy(struct arena *arena, const void *data, size_t size)
{
  void *copy = arena_alloc(arena, size);
  if (size != 0)
    memcpy(copy, data, size);
  return copy;
}

char *arena_strndup(struct arena *arena, const char *text, size_t length)
{
  char *copy = arena_alloc(arena, length + 1);
  if (length != 0)
    memcpy(copy, text, length);
  return copy;
}

char *arena_vformat(struct arena *arena, const char *format, va_list arguments)
{
  va_list again;
  va_copy(again, arguments);
  int length = vsnprintf(NULL, 0, format, again);
  va_end(again);
  if (length < 0)
    arena_out_of_memory(arena);
  char *text = arena_alloc(arena, (size_t)length + 1);
  vsnprintf(text, (size_t)length + 1, format, arguments);
  return text;
}

char *arena_format(struct arena *arena, const char *format, ...)
{
  va_list arguments;
  va_start(arguments, format);
  char *text = arena_vformat(arena, format, arguments);
  va_end(arguments);
  return text;
}

void *vector_reserve(struct arena *arena, void *items, size_t count, size_t *capacity,
                     size_t item_size)
{
  if (count < *capacity)
    return items;
  size_t grown = *capacity == 0 ? 8 : *capacity * 2;
  void *moved = arena_alloc_array(arena, grown, item_size);
  if (count != 0)
    memcpy(moved, items, count * item_size);
  *capacity = grown;
  return moved;
}

static uint64_t text_hash(const char *text, size_t length)
{
  uint64_t hash = 0xcbf29ce484222325u; /* FNV-1a */
  for (size_t k = 0; k < length; k++)
    hash = (hash ^ (unsigned char)text[k]) * 0x100000001b3u;
  return hash;
}

void interner_init(struct interner *interner, struct arena *arena)
{
  *interner = (struct interner){.arena = arena};
}

static void interner_place(const char **slots, size_t capacity, const char *name)
{
  size_t slot = text_hash(name, strlen(name)) & (capacity - 1);
  while (slots[slot] != NULL)
    slot = (slot + 1) & (capacity - 1);
  slots[slot] = name;
}

const char *intern(struct interner *interner, const char *text, size_t length)
{
  if (interner->count * 2 >= interner->capacity) {
    size_t capacity = interner->capacity == 0 ? 64 : interner->capacity * 2;
    const char **slots = ARENA_ARRAY(interner->arena, const char *, capacity);
    for (size_t k = 0; k < interner->capacity; k++)
      if (interner->slots[k] != NULL)
        interner_place(slots, capacity, interner->slots[k]);
    interner->slots = slots;
    interner->capacity = capacity;
  }
  size_t slot = text_hash(text, length) & (interner->capacity - 1);
  while (interner->slots[slot] != NULL) {
    const char *name = interner->slots[slot];
    if (strncmp(name, text, length) == 0 && name[length] == '\0')
      return name;
    slot = (slot + 1) & (interner->capacity - 1);
  }
  const char *name = arena_strndup(interner->arena, text, length);
  interner->slots[slot] = name;
  interner->count++;
  return name;
}
