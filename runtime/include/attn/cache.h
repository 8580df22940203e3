/* Caches of keys and values for programs that have no memory manager of their own.
 *
 *     attn_cache_options options = ATTN_CACHE_OPTIONS_INIT;
 *     options.layers = 32, options.sequences = 64, options.tokens = 65536;
 *     attn_cache_create(program, &options, &cache);
 *     attn_cache_add(cache, &sequence);
 *
 *     attn_cache_begin(cache, &sequence, &new_tokens, 1, &batch);    // room for the new tokens
 *     for each layer:
 *       attn_cache_tensors(batch, layer, &tensors, &count);          // what its launches take
 *       ... launches that append to the cache and read it ...
 *     attn_cache_end(batch);                                         // the tokens are there
 *
 * A cache holds what the spec's `cache` statement says, for every layer of a model; a spec without
 * one, and one with `cache ragged`, has a dense cache. Its tensors are those of docs/caches.md,
 * whose names and shapes they have.
 *
 * Sequences. A sequence is a list of tokens, the same in all layers. The low half of a handle is
 * its number, from 0, by which errors call it and which is used again after it was released; the
 * high half tells those that had a number one after the other apart, so that a handle that was
 * released is known as such. 0 is never a sequence.
 *
 * Pages. In a paged cache tokens lie in pages, which forks of a sequence share. A page is written
 * only while one sequence and no other batch has it: attn_cache_begin copies the last page of a
 * sequence, and those whose tokens are in a residual, in every layer, if that is not so. In a dense
 * cache, and in a ring, each sequence has one row, that of its number, and forks are copies.
 *
 * Batches. attn_cache_begin makes room for a step and gives the tensors for its launches. They are
 * of that moment: what other batches do later does not change them. attn_cache_end makes the new
 * tokens part of their sequences, attn_cache_cancel forgets them. Between the two a sequence is
 * *read* where the batch adds nothing to it, otherwise *appended to*. What else may happen then:
 *
 *   a sequence that is   | read | append | fork | truncate, keep, release
 *   read by batches      | yes  | yes *  | yes  | no
 *   appended to          | yes *| no     | no   | no
 *
 *   * not in a ring, nor with residuals, whose new tokens are written over old ones
 *
 * A "no" is ERROR_ARGUMENT, whose text names the sequence and what it is in; nothing is changed.
 * attn_cache_compact needs that there is no batch.
 *
 * Threads. All functions may be called from any number of threads at once, on the same cache too,
 * except that nothing may use a cache or batch while or after it is freed or ended.
 *
 * On a GPU the tensors lie in the device's memory. Whatever the cache copies there goes to the
 * stream of its options, where the launches on its tensors belong; then a batch may end as soon as
 * they are enqueued. Launches on other streams have to be ordered with it by the caller.
 *
 * Errors. The text of an error is the context's (attn_context_error). After any error but
 * ERROR_DEVICE, the cache is as it was before the call.
 *
 * C99 and C++ can include this header.
 */
#ifndef ATTN_CACHE_H
#define ATTN_CACHE_H

#include <attn/attn.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct attn_cache attn_cache;
typedef struct attn_cache_batch attn_cache_batch;
typedef uint64_t attn_sequence;

/* ---- caches ---- */

/* How k and v, and what belongs to them, lie in a page or row. */
typedef enum attn_cache_order {
  ATTN_CACHE_HEADS_FIRST, /* head, token, channel: what one head reads lies together */
  ATTN_CACHE_TOKENS_FIRST /* token, head, channel */
} attn_cache_order;

typedef struct attn_cache_options {
  size_t size;
  uint32_t layers;    /* 1 */
  uint32_t sequences; /* 1; most at once */
  /* Paged: tokens of all sequences together, rounded up to whole pages; shared ones count once.
   * Dense: most tokens of one sequence. Ring: not used, the spec says how many. */
  uint64_t tokens;
  attn_type type; /* for a program whose type is ANY: that of the launches; else ANY */
  attn_cache_order order;
  /* Cross-layer sharing (CLA, Brandon et al. 2024): layer l reads what layer producers[l] has
   * appended; a producer's own entry is itself. NULL: every layer has its own. */
  const uint32_t *producers;
  /* Of the spec, where a cached input's dimension depends on them; those not given have their
   * default. */
  const attn_param *params;
  size_t param_count;
  void *stream; /* NULL on the CPU */
  char *error;  /* or NULL: receives the text when creation fails */
  size_t error_size;
} attn_cache_options;

#define ATTN_CACHE_OPTIONS_INIT                                                                    \
  {                                                                                                \
    sizeof(attn_cache_options), 1, 1, 0, ATTN_TYPE_ANY, ATTN_CACHE_HEADS_FIRST, NULL, NULL, 0,     \
        NULL, NULL, 0                                                                              \
  }

/* The memory for all tokens is allocated here, zeroed. The cache must be freed; the program may go
 * before it.
 *
 * ERROR_ARGUMENT: an option is wrong. */
ATTN_API attn_status attn_cache_create(attn_program *program, const attn_cache_options *options,
                                       attn_cache **cache);

/* With all sequences and batches. On a GPU this waits for the device. NULL is fine. */
ATTN_API void attn_cache_free(attn_cache *cache);

typedef struct attn_cache_usage {
  /* Of all keys, values and cached inputs, with scales and residuals, in all layers that have their
   * own: what attnc explain prints for as many tokens and sequences. */
  uint64_t bytes;
  uint64_t used; /* of these: pages or rows that are in use, and their sequences' residuals */
  uint64_t other_bytes;       /* stored positions, calibrated scales, and what alignment takes */
  double token_bytes;         /* one token in all layers that have their own */
  uint64_t sequence_bytes;    /* residuals of one sequence, likewise */
  uint32_t page;              /* tokens of a page or row */
  uint32_t pages, pages_free; /* of a dense cache or ring: rows */
  uint32_t sequences;         /* in use */
  uint64_t tokens;            /* of these, as attn_cache_length counts them */
} attn_cache_usage;
ATTN_API attn_cache_usage attn_cache_memory(attn_cache *cache);

/* ---- sequences ---- */

/* A new one without tokens, of the lowest free number. ERROR_OUT_OF_MEMORY: all are in use. */
ATTN_API attn_status attn_cache_add(attn_cache *cache, attn_sequence *sequence);

/* A new sequence with the same tokens. */
ATTN_API attn_status attn_cache_fork(attn_cache *cache, attn_sequence sequence,
                                     attn_sequence *fork);

/* Its handle is not valid any more; pages that no other sequence has are free. */
ATTN_API attn_status attn_cache_release(attn_cache *cache, attn_sequence sequence);

/* Tokens that it holds: of a ring all that were ever appended, else those not dropped by
 * attn_cache_keep. */
ATTN_API attn_status attn_cache_length(attn_cache *cache, attn_sequence sequence, uint64_t *length);

/* Drops all but the first `length` tokens. ERROR_ARGUMENT: there are fewer; or those to be kept are
 * not there any more as they have to be: a ring has written over them, a residual has given them to
 * the quantised part, or attn_cache_keep chose among them. To 0 is always possible. */
ATTN_API attn_status attn_cache_truncate(attn_cache *cache, attn_sequence sequence,
                                         uint64_t length);

/* Eviction: keeps `count` tokens only, which move together. ranks: their places among the tokens at
 * hand, ascending, as the columns of `output mass` are counted. `sets` is 1 where all layers keep
 * the same ones; else the number of layers that have their own, and ranks is [sets, count], in the
 * order of these layers. With `positions = stored` tokens keep their positions, and new ones go on
 * from the last; with `slot` the rank is the position.
 *
 * ERROR_ARGUMENT: `positions = original`, or a ring; a storage whose scales several tokens share;
 * a sequence longer than a residual. ERROR_OUT_OF_MEMORY: pages that are shared have to be copied,
 * and there are not enough. */
ATTN_API attn_status attn_cache_keep(attn_cache *cache, attn_sequence sequence,
                                     const int32_t *ranks, size_t count, size_t sets);

/* Moves pages so that those in use are the first ones. Does nothing to a dense cache or ring.
 * ERROR_ARGUMENT: there is a batch. */
ATTN_API attn_status attn_cache_compact(attn_cache *cache);

/* ---- batches ---- */

/* Makes room for new_tokens[n] more tokens of each of `count` sequences, and the tensors for B =
 * count. new_tokens may be NULL: none. A sequence of 0 stands for none, with a length of 0.
 *
 * Rows. Of a dense cache, a ring, and one with residuals, sequence n of the batch must have the
 * number first + n * step, with the same first >= 0 and step >= 1 for all, and first + (count - 1)
 * * step must be below options.sequences: their rows are one tensor then.
 *
 * ERROR_OUT_OF_MEMORY: pages are missing, the text says how many; or a sequence of a dense cache
 * becomes too long. */
ATTN_API attn_status attn_cache_begin(attn_cache *cache, const attn_sequence *sequences,
                                      const uint32_t *new_tokens, size_t count,
                                      attn_cache_batch **batch);

/* The tensors of a layer, valid until the batch ends. Names are those of docs/caches.md: "lengths",
 * with the new tokens, "page_table", "k", "v", ... Memory behind them may be written where a launch
 * appends, in slots of new tokens, and residuals; calibrated scales at any time; nothing else. */
ATTN_API attn_status attn_cache_tensors(const attn_cache_batch *batch, uint32_t layer,
                                        const attn_named_tensor **tensors, size_t *count);

/* Tokens of its longest sequence, the new ones included: for attn_arguments.max_length, which on a
 * GPU the launch cannot know. */
ATTN_API int64_t attn_cache_max_length(const attn_cache_batch *batch);

/* The leading tokens, whole pages of them, that all its sequences with tokens have in the same
 * pages, as forks do: for attn_arguments.shared_prefix. 0 where fewer than two have any, and where
 * the cache is not paged. */
ATTN_API int64_t attn_cache_shared_prefix(const attn_cache_batch *batch);

/* The new tokens are part of their sequences, and the batch is gone. */
ATTN_API attn_status attn_cache_end(attn_cache_batch *batch);

/* The new tokens are none, and the batch is gone. In a ring and a residual they must not have
 * been written, because older tokens lie there. NULL is fine. */
ATTN_API attn_status attn_cache_cancel(attn_cache_batch *batch);

/* ---- which tokens to keep ---- */

/* Policies: from results of kernels, in host memory, to the ranks for attn_cache_keep, ascending.
 * `kept` has room for `length` of them. All are of one sequence, and of one set of heads: all heads
 * of a layer, or one K/V head, for caches that have a sequence for each. Equal scores: the lowest
 * rank first. NaN is lower than every number. ERROR_ARGUMENT, without a text: NULL, or as said. */

/* scores[group][j] += mass[head][j] for the heads / groups heads of each group, in order. mass:
 * `output mass` of one sequence, [heads, length]. groups divides heads: 1 for one score a token,
 * the K/V heads for one each. Rows of scores are `stride` >= length apart. */
ATTN_API attn_status attn_scores_add(float *scores, size_t stride, size_t groups, const float *mass,
                                     size_t heads, size_t length);

/* The scores, of `length` tokens, of those that attn_cache_keep keeps move like them; zeros follow,
 * with which tokens that are appended begin. ERROR_ARGUMENT: ranks that do not ascend, or too many.
 */
ATTN_API attn_status attn_scores_keep(float *scores, size_t length, const int32_t *ranks,
                                      size_t count);

/* StreamingLLM (Xiao et al. 2023): the first `sinks` and of the last `recent` so many that `adding`
 * more fit, everything where length + adding <= sinks + recent. ERROR_ARGUMENT: adding is more than
 * recent. */
ATTN_API attn_status attn_evict_streaming(size_t length, size_t sinks, size_t recent, size_t adding,
                                          int32_t *kept, size_t *count);

/* H2O (Zhang et al. 2023): the `heavy` tokens of the highest scores before the last `recent`, and
 * these; everything where length <= heavy + recent. scores: the sums of all weights that a token
 * has got since it was appended. */
ATTN_API attn_status attn_evict_h2o(const float *scores, size_t length, size_t heavy, size_t recent,
                                    int32_t *kept, size_t *count);

typedef enum attn_pooling {
  ATTN_POOLING_AVERAGE, /* outside there are zeros, which count */
  ATTN_POOLING_MAX
} attn_pooling;

/* SnapKV (Li et al. 2024), once after the prompt: of the tokens before the last `window` the
 * capacity - window with the highest pooled votes, and the window; everything where length <=
 * capacity. votes: the sums of the weights that the last `window` queries give to each token,
 * `length` of them, of which the window's are not looked at. Pooling goes over `kernel` tokens in
 * steps of 1, padded by kernel / 2. ERROR_ARGUMENT: an even kernel, a window of more than capacity.
 */
ATTN_API attn_status attn_evict_snapkv(const float *votes, size_t length, size_t window,
                                       size_t capacity, size_t kernel, attn_pooling pooling,
                                       int32_t *kept, size_t *count);

#ifdef __cplusplus
}
#endif

#endif
