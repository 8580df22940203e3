/* Inside libattn: what an attn_cache owns. attn/cache.h says what it does.
 *
 * A *storage* is the memory of one layer, or of several that share it. Each of its arrays is made
 * of *blocks*: pages, or one row a sequence. All storages have the same blocks in use, so that page
 * numbers, lengths and the like are of sequences.
 *
 * Functions that take a cache run under its lock, but those of cache_create.c.
 */
#ifndef ATTN_RUNTIME_CACHE_H
#define ATTN_RUNTIME_CACHE_H

#include "attn/cache.h"
#include "compiler/cache/plan.h"
#include "runtime/unit.h"

#define CACHE_NO_PAGE UINT32_MAX
#define CACHE_NOBODY UINT32_MAX /* in place of a sequence's number */

enum cache_array_kind {
  CACHE_ARRAY_TABLE,   /* made for each batch: lengths and the like */
  CACHE_ARRAY_SLOTS,   /* blocks of tokens */
  CACHE_ARRAY_RECENT,  /* a block for each sequence */
  CACHE_ARRAY_CONSTANT /* one block for all */
};

/* How a tensor of the plan lies in a storage. Row r of head h of block b begins at
 * offset + b * block + (h * rows + r) * row. */
struct cache_array {
  const struct cache_tensor *tensor;
  enum cache_array_kind kind;
  DLDataType type;
  int64_t shape[SPEC_MAX_RANK]; /* of all blocks */
  int64_t strides[SPEC_MAX_RANK];
  size_t offset, block, row; /* bytes */
  uint32_t heads;            /* 1 where the heads of a token lie together */
  uint32_t rows;             /* of a block */
  uint32_t tokens;           /* of a row: more than 1 where they share scales */
};

struct cache_page {
  uint32_t owners; /* sequences */
  uint32_t pins;   /* entries of batches */
};

struct cache_sequence {
  uint32_t generation; /* of its handle, from 1 */
  bool used;
  uint32_t readers;                  /* batches */
  struct attn_cache_batch *appender; /* or NULL */
  uint32_t length;                   /* tokens at hand; of a ring all that were appended */
  uint32_t seen;                     /* tokens ever appended and not truncated */
  uint32_t settled;                  /* tokens that were chosen by attn_cache_keep */
  uint32_t *pages;                   /* with room for those that an open batch appends or copies */
  uint32_t page_count, page_capacity;
};

struct attn_cache {
  struct attn_context *context; /* a reference */
  struct unit *front;           /* a reference: the spec */
  struct arena arena;           /* of the plan */
  const struct cache_plan *plan;
  struct cuda_stream *stream;

  enum cache_layout layout; /* DENSE, PAGED or RING */
  bool stored;              /* positions */
  bool overwrites;          /* appending may write over older tokens */
  uint32_t lag;             /* most tokens at hand that appending writes: those leave residuals */
  bool has_rows;            /* tensors have a row for each sequence */
  uint32_t page;            /* tokens of a block of slots */
  uint32_t layers, storages;
  uint32_t *storage_of; /* by layer */
  struct cache_array arrays[CACHE_MAX_TENSORS];
  size_t storage_size;   /* bytes from one storage to the next */
  size_t block_bytes;    /* of a storage: keys, values, cached inputs of a block of slots */
  size_t recent_bytes;   /* of a storage: residuals of a sequence */
  void *allocated;       /* what to free */
  unsigned char *memory; /* on the device, if there is one */

  pthread_mutex_t lock; /* guards what follows */
  uint32_t sequence_count;
  struct cache_sequence *sequences;
  uint32_t first_free; /* no lower number is */
  uint32_t page_count; /* paged; else 0 */
  struct cache_page *pages;
  uint32_t *free_pages, free_count; /* the next one last */
  struct attn_cache_batch *batches; /* all */
  struct attn_cache_batch *idle;
  uint32_t open_count;
};

/* What attn_cache_create does, for a unit that unit_check has checked. `options` is complete. */
attn_status cache_create(struct attn_context *context, struct unit *front,
                         const attn_cache_options *options, const struct error_sink *sink,
                         attn_cache **out);

static inline struct error_sink cache_sink(const struct attn_cache *cache)
{
  return (struct error_sink){cache->context, NULL, 0};
}

/* ---- cache_layout.c ---- */

/* Fills everything from `plan` to `recent_bytes` but what creation sets: the arrays of the plan and
 * how large they are. Runs inside the guard of the cache's arena. */
attn_status cache_lay_out(struct attn_cache *cache, const attn_cache_options *options,
                          enum dtype type, const struct error_sink *sink);

/* ---- cache_memory.c ---- */

/* Around everything that copies: on a device, its context. */
attn_status cache_enter(const struct attn_cache *cache, const struct error_sink *sink);
void cache_leave(const struct attn_cache *cache);

struct cache_place {
  uint32_t block, slot;
};
/* Where the token of that rank lies. */
struct cache_place cache_place(const struct attn_cache *cache, uint32_t number, uint32_t rank);

/* Copies `count` tokens between blocks, in one storage. What lies between the two places is read
 * before it is written. Where rows hold several tokens, both slots are 0. */
attn_status cache_copy_tokens(const struct attn_cache *cache, uint32_t storage,
                              struct cache_place to, struct cache_place from, uint32_t count,
                              const struct error_sink *sink);
/* The first `count` tokens of a block, in all storages. */
attn_status cache_copy_block(const struct attn_cache *cache, uint32_t to, uint32_t from,
                             uint32_t count, const struct error_sink *sink);
/* The residuals of a sequence, in all storages. */
attn_status cache_copy_recent(const struct attn_cache *cache, uint32_t to, uint32_t from,
                              const struct error_sink *sink);
/* From rank `from` to rank `to` of the residuals of a sequence that is not longer than they are. */
attn_status cache_move_recent(const struct attn_cache *cache, uint32_t storage, uint32_t number,
                              uint32_t to, uint32_t from, uint32_t count,
                              const struct error_sink *sink);
/* ---- cache_pages.c ---- */

uint32_t cache_pages_of(const struct attn_cache *cache, uint32_t tokens);
/* One with an owner; there is a free one. */
uint32_t cache_take_page(struct attn_cache *cache);
void cache_drop_page(struct attn_cache *cache, uint32_t page); /* an owner less */
void cache_pin_page(struct attn_cache *cache, uint32_t page);
void cache_unpin_page(struct attn_cache *cache, uint32_t page);
/* Whether its only owner may write it. */
static inline bool cache_page_is_own(const struct attn_cache *cache, uint32_t page)
{
  return cache->pages[page].owners == 1 && cache->pages[page].pins == 0;
}
/* Room in the sequence's list; false when out of memory. */
bool cache_reserve_list(struct cache_sequence *sequence, uint32_t count);
/* Drops pages from the end until there are `count`. */
void cache_shrink_list(struct attn_cache *cache, struct cache_sequence *sequence, uint32_t count);
attn_status cache_pages_missing(const struct attn_cache *cache, uint64_t needed,
                                const struct error_sink *sink);

/* ---- cache_sequences.c ---- */

/* The number of a handle; reports those that are none. */
attn_status cache_find(const struct attn_cache *cache, attn_sequence handle,
                       const struct error_sink *sink, uint32_t *number);
/* Reports a sequence that is in a batch; `what` completes "cannot be ". */
attn_status cache_check_idle(const struct attn_cache *cache, uint32_t number, const char *what,
                             const struct error_sink *sink);

/* ---- cache_batch.c ---- */

struct cache_entry {
  uint32_t number; /* or CACHE_NOBODY */
  uint32_t added;
  uint32_t pages_before; /* of the sequence, where it is appended to */
  uint32_t rewritten;    /* its last pages before that may be written; the list has those that were
                            shared, or CACHE_NO_PAGE, behind its pages after */
  uint32_t pinned;       /* pages in the table */
};

/* Kept for the next one when it ends. */
struct attn_cache_batch {
  struct attn_cache *cache;
  struct attn_cache_batch *next, *next_idle;
  bool open;
  size_t count, entry_capacity;
  struct cache_entry *entries;
  /* lengths [count], seen [count] where positions are stored, page_table [count, width].
   * Pinned where there is a device, which has a copy. */
  int32_t *tables, *device_tables;
  size_t table_size, table_capacity; /* in int32 */
  uint32_t width;
  struct cuda_event *uploaded; /* when `tables` may be written again; NULL on the CPU */
  int64_t shapes[CACHE_MAX_TENSORS][SPEC_MAX_RANK], strides[CACHE_MAX_TENSORS][SPEC_MAX_RANK];
  DLTensor *tensors;        /* [storages, plan's tensors] */
  attn_named_tensor *named; /* the same */
};

void cache_free_batches(struct attn_cache *cache);

/* ---- cache_tables.c ---- */

/* Memory for the tables; also says how many pages each entry has. */
attn_status cache_reserve_tables(const struct attn_cache *cache, struct attn_cache_batch *batch,
                                 const struct error_sink *sink);
/* Fills and uploads them, and pins pages; nothing is pinned after an error. */
attn_status cache_fill_tables(struct attn_cache *cache, struct attn_cache_batch *batch,
                              const struct error_sink *sink);
void cache_unpin_tables(struct attn_cache *cache, const struct attn_cache_batch *batch);
void cache_free_tables(struct attn_cache_batch *batch);

/* The tensors for launches. Of arrays with rows, entry n has the row first + n * step. */
void cache_make_tensors(const struct attn_cache *cache, struct attn_cache_batch *batch,
                        int64_t first, int64_t step);

/* ---- cache_reserve.c ---- */

/* That no sequence becomes longer than it may. */
attn_status cache_check_lengths(const struct attn_cache *cache,
                                const struct attn_cache_batch *batch,
                                const struct error_sink *sink);
/* Pages for what a batch adds, with the last pages unshared; all or nothing. */
attn_status cache_reserve(struct attn_cache *cache, struct attn_cache_batch *batch,
                          const struct error_sink *sink);
/* What cache_reserve did to the sequences of the first `count` entries. */
void cache_unreserve(struct attn_cache *cache, struct attn_cache_batch *batch, size_t count);

#endif
