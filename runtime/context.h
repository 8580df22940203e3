/* Inside libattn: what a context owns. Programs hold a reference, so that it outlives them. */
#ifndef ATTN_RUNTIME_CONTEXT_H
#define ATTN_RUNTIME_CONTEXT_H

#include "attn/attn.h"
#include "runtime/code_cache.h"
#include "runtime/disk_cache.h"
#include "runtime/threads.h"

#include <pthread.h>
#include <stdatomic.h>

/* Working memory of one launch, kept for the next. */
struct block {
  struct block *next;
  unsigned char *data; /* BLOCK_ALIGNMENT-aligned */
  size_t size;
  void *memory;
};
enum { BLOCK_ALIGNMENT = 64 };

struct attn_context {
  atomic_uint references;
  struct cuda_device *device; /* NULL on the CPU */
  struct thread_pool *threads;
  struct code_cache cache;
  struct disk_cache disk;
  atomic_uint_fast64_t compilations, cache_hits, disk_hits, launches;

  pthread_mutex_t lock; /* guards what follows */
  struct block *blocks; /* not in use */
  char *error;          /* NULL: none, or the fixed text below */
  const char *fixed_error;
};

struct attn_context *context_retain(struct attn_context *context);
void context_release(struct attn_context *context);

/* Where the text of a call's error goes: to the context, which may be NULL, and to the caller's
 * buffer. */
struct error_sink {
  struct attn_context *context;
  char *buffer; /* may be NULL */
  size_t size;
};

/* Both return `status`. */
attn_status error_report(const struct error_sink *sink, attn_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
attn_status error_out_of_memory(const struct error_sink *sink); /* does not allocate */

/* A block of at least `size` bytes, its contents undefined; NULL when out of memory. */
struct block *context_take_block(struct attn_context *context, size_t size);
void context_give_block(struct attn_context *context, struct block *block); /* NULL is fine */

/* Copies a caller's option struct of `given` bytes over `known` bytes that hold the defaults. False
 * when the size is impossible, or a newer struct sets a field that this library does not know. */
bool options_copy(void *options, size_t known, const void *from, size_t given);

#endif
