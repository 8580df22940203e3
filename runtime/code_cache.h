/* The code cache of a context: compiled units by everything that their code depends on. Its own
 * lock makes it safe from any number of threads. */
#ifndef ATTN_RUNTIME_CODE_CACHE_H
#define ATTN_RUNTIME_CODE_CACHE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct unit;

struct code_cache_entry {
  struct unit *unit; /* a reference */
  uint64_t used;     /* when it was last asked for */
};

struct code_cache {
  pthread_mutex_t lock;
  struct code_cache_entry *entries;
  size_t count, capacity;
  uint64_t clock;
};

/* False when out of memory. A capacity of 0 keeps nothing. */
bool code_cache_init(struct code_cache *cache, size_t capacity);
void code_cache_destroy(struct code_cache *cache);

/* The unit whose key has these bytes, with a reference for the caller, or NULL. */
struct unit *code_cache_find(struct code_cache *cache, uint64_t hash, const void *key, size_t size);

/* Keeps `unit`, in place of the entry that was not asked for the longest where the cache is full.
 * When another thread has stored the same key meanwhile, that unit is returned with a reference for
 * the caller and `unit`'s is given up; otherwise returns `unit`. */
struct unit *code_cache_store(struct code_cache *cache, struct unit *unit);

#endif
