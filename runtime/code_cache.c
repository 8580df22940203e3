#include "runtime/code_cache.h"

#include "dsl/base/memory.h"
#include "runtime/unit.h"

#include <string.h>

bool code_cache_init(struct code_cache *cache, size_t capacity)
{
  *cache = (struct code_cache){.capacity = capacity};
  cache->entries = mem_alloc_zeroed(capacity, sizeof(*cache->entries));
  if (cache->entries == NULL)
    return false;
  pthread_mutex_init(&cache->lock, NULL);
  return true;
}

void code_cache_destroy(struct code_cache *cache)
{
  for (size_t n = 0; n < cache->count; n++)
    unit_release(cache->entries[n].unit);
  mem_free(cache->entries);
  pthread_mutex_destroy(&cache->lock);
}

static struct unit *find(struct code_cache *cache, uint64_t hash, const void *key, size_t size)
{
  for (size_t n = 0; n < cache->count; n++) {
    struct unit *unit = cache->entries[n].unit;
    if (unit->key_hash == hash && unit->key_size == size && memcmp(unit->key, key, size) == 0) {
      cache->entries[n].used = ++cache->clock;
      return unit_retain(unit);
    }
  }
  return NULL;
}

struct unit *code_cache_find(struct code_cache *cache, uint64_t hash, const void *key, size_t size)
{
  pthread_mutex_lock(&cache->lock);
  struct unit *unit = find(cache, hash, key, size);
  pthread_mutex_unlock(&cache->lock);
  return unit;
}

struct unit *code_cache_store(struct code_cache *cache, struct unit *unit)
{
  struct unit *dropped = NULL;
  pthread_mutex_lock(&cache->lock);
  struct unit *known = find(cache, unit->key_hash, unit->key, unit->key_size);
  if (known != NULL) {
    dropped = unit;
    unit = known;
  } else if (cache->capacity != 0) {
    size_t slot = cache->count;
    if (slot < cache->capacity) {
      cache->count++;
    } else {
      slot = 0;
      for (size_t n = 1; n < cache->count; n++) {
        if (cache->entries[n].used < cache->entries[slot].used)
          slot = n;
      }
      dropped = cache->entries[slot].unit;
    }
    cache->entries[slot] = (struct code_cache_entry){unit_retain(unit), ++cache->clock};
  }
  pthread_mutex_unlock(&cache->lock);
  unit_release(dropped);
  return unit;
}
