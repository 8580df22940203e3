/* The code cache on disk: compiled code for the next process, one file an entry.
 *
 * A file holds the whole key, the code and a checksum of all of it, and is believed only when every
 * one of its bytes is what was written: sizes, checksum and key are compared, and what differs in
 * any way counts as absent and is replaced. Files are written under a name of their own and then
 * renamed, so that readers and writers of any number of processes and threads see whole entries
 * without locks; where two write the same entry the last one stays. Files that another user (but
 * root) owns or may write are not read.
 *
 * Nothing here is an error: a cache that cannot be read or written, or is full, is a cache without
 * entries. Neither storing nor cleaning allocates.
 */
#ifndef ATTN_RUNTIME_DISK_CACHE_H
#define ATTN_RUNTIME_DISK_CACHE_H

#include "compiler/pipeline.h"

struct disk_cache {
  char *directory;    /* allocated; NULL: there is no cache on disk */
  uint64_t max_bytes; /* of all entries; DISK_CACHE_MAX_BYTES unless a test sets it */
};

#define DISK_CACHE_MAX_BYTES (UINT64_C(256) << 20)

/* `directory`: NULL for the environment's choice ($ATTN_CACHE_DIR, else $XDG_CACHE_HOME/attnc, else
 * $HOME/.cache/attnc), "" for none. ATTN_CACHE=0 in the environment means none whatever is asked
 * for. Creates nothing yet. False when out of memory. */
bool disk_cache_init(struct disk_cache *cache, const char *directory);
void disk_cache_destroy(struct disk_cache *cache);

enum disk_cache_result { DISK_CACHE_MISS, DISK_CACHE_HIT, DISK_CACHE_OUT_OF_MEMORY };

/* `compiled` comes from compile_build. A hit fills what compile_emit would for COMPILE_OBJECT
 * (code, code_size, which the caller frees, the schedule, the kernels' sizes), with a zero byte
 * behind the code, and marks the entry as used. `key`: everything that the code depends on but
 * compile_identity, the version of the library and its build, which are added here. */
enum disk_cache_result disk_cache_load(const struct disk_cache *cache, const void *key, size_t size,
                                       struct compiled *compiled);

/* Keeps the code of `compiled`, then removes the entries that were not used for the longest until
 * the rest fits. */
void disk_cache_store(const struct disk_cache *cache, const void *key, size_t size,
                      const struct compiled *compiled);

#endif
