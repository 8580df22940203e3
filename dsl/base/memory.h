/* All allocation of the project goes through here, so that tests can make any one of them fail.
 *
 * mem_* are malloc, realloc and free with a fault counter. They return NULL when out of memory and
 * the caller reports it.
 *
 * An arena hands out memory that lives until the arena is freed. arena_alloc never returns NULL: it
 * unwinds to the guard that the owner armed:
 *
 *     struct arena arena;
 *     arena_init(&arena);
 *     if (arena_guard(&arena)) {      // returns here a second time when memory runs out
 *       arena_free(&arena);
 *       return OUT_OF_MEMORY;
 *     }
 *
 * Locals that are changed between the guard and the unwinding and read after it must be volatile.
 * Anything that is not in the arena (LLVM objects, files) must be reachable from a struct that the
 * guard's owner frees.
 */
#ifndef ATTN_DSL_BASE_MEMORY_H
#define ATTN_DSL_BASE_MEMORY_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

void *mem_alloc(size_t size);                      /* size 0 gives a unique pointer */
void *mem_alloc_zeroed(size_t count, size_t size); /* NULL also when count * size overflows */
void *mem_realloc(void *block, size_t size);
void mem_free(void *block);

/* A hint for a block of megabytes that was not written yet: large pages behind it, where the system
 * has them. Reading such a block then costs no address translations, which on a virtual machine
 * take more time than the memory. */
void mem_prefer_large_pages(void *block, size_t size);

/* Test hooks. After mem_fail_at(n) the n-th allocation from now on (n >= 1) fails, and every later
 * one succeeds; 0 switches it off. Both are process-wide. */
void mem_fail_at(uint64_t n);
uint64_t mem_allocation_count(void); /* allocations since the start of the process */
int64_t mem_live_count(void);        /* blocks allocated and not freed yet */

struct arena_block;

struct arena {
  struct arena_block *blocks; /* newest first */
  char *cursor;
  char *limit;
  jmp_buf escape;
};

void arena_init(struct arena *arena);
void arena_free(struct arena *arena); /* frees every block; the arena may be used again */

/* 0 when armed; 1 when it returns because memory ran out. Must be called in the frame that owns the
 * arena. */
#define arena_guard(arena) setjmp((arena)->escape)

/* Unwinds to the guard, as a failed arena_alloc does. For code that is handed memory by mem_*
 * inside a compilation. */
_Noreturn void arena_out_of_memory(struct arena *arena);

void *arena_alloc(struct arena *arena, size_t size); /* zeroed, aligned for any type */
void *arena_copy(struct arena *arena, const void *data, size_t size);
char *arena_strndup(struct arena *arena, const char *text, size_t length);
char *arena_format(struct arena *arena, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
char *arena_vformat(struct arena *arena, const char *format, va_list arguments);

#define ARENA_NEW(arena, type) ((type *)arena_alloc((arena), sizeof(type)))
#define ARENA_ARRAY(arena, type, count) ((type *)arena_alloc_array((arena), (count), sizeof(type)))
void *arena_alloc_array(struct arena *arena, size_t count,
                        size_t size); /* unwinds when count * size overflows */

/* A growing array in an arena: VECTOR(struct expr *) nodes = {0}; vector_push(arena, &nodes, node);
 */
#define VECTOR(type)                                                                               \
  struct {                                                                                         \
    type *items;                                                                                   \
    size_t count;                                                                                  \
    size_t capacity;                                                                               \
  }
#define vector_push(arena, vector, ...)                                                            \
  ((vector)->items = vector_reserve((arena), (vector)->items, (vector)->count,                     \
                                    &(vector)->capacity, sizeof(*(vector)->items)),                \
   (vector)->items[(vector)->count++] = (__VA_ARGS__))
void *vector_reserve(struct arena *arena, void *items, size_t count, size_t *capacity,
                     size_t item_size);

/* Names as pointers: equal texts give equal pointers within one interner. Owned by its arena. */
struct interner {
  struct arena *arena;
  const char **slots;
  size_t capacity;
  size_t count;
};
void interner_init(struct interner *interner, struct arena *arena);
const char *intern(struct interner *interner, const char *text, size_t length);

#endif
