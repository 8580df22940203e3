/* attnc decode: a spec against a cache that grows, step by step. decode.c has the command,
 * decode_run.c the steps, decode_check.c their comparison, decode_share.c shared prefixes.
 */
#ifndef ATTN_RUNTIME_ATTNC_DECODE_H
#define ATTN_RUNTIME_ATTNC_DECODE_H

#include "attn/cache.h"
#include "compiler/cache/content.h"
#include "compiler/tile/text.h"
#include "runtime/attnc/compare.h"
#include "runtime/attnc/peak.h"
#include "runtime/attnc/prepare.h"

enum { DECODE_MOST_CHANNELS = TILE_MAX_SIDE }; /* of specs that compile */

struct decode {
  struct workload whole;    /* q, k, v and inputs of all tokens; o receives every step's rows */
  struct prepared prepared; /* borrowed */
  struct arena arena;
  const struct cache_plan *plan;
  attn_cache *cache;
  attn_sequence *sequences; /* B */
  uint32_t *new_tokens;     /* B */

  int64_t prompt, steps, rows; /* tokens at once, then so many steps of `rows` tokens each */
  /* Milliseconds: of the prompt, and of each step. */
  double prompt_ms, *append_ms, *launch_ms;

  /* Tokens that all sequences begin with, in the same pages; 0. Steps then launch twice, first each
   * sequence for itself: milliseconds, and the largest difference of o. */
  int64_t shared_prefix;
  double *apart_ms, sharing_error;

  bool checks;
  int64_t checked;              /* steps that were compared, the prompt among them */
  struct comparison comparison; /* the worst of them */
  double widest_bound;          /* of o, over all of them */
  /* Why one launch on all tokens is not compared; NULL. May be given. */
  const char *no_prefill;
  double prefill_error; /* largest difference of o to that of one launch */

  bool quiet;         /* says nothing of a launch or append that fails, which is: */
  attn_status failed; /* its status */
  char error[1024];   /* and text */
};

/* A step while its batch is open: what it launches on. */
struct decode_step {
  int64_t from, count; /* its tokens */
  int64_t sequences;   /* the first of all */
  bool appends, attends;
  int64_t shared;       /* leading tokens that its sequences share */
  struct workload rows; /* q, o, outputs, inputs that are not cached */
  const attn_named_tensor *tensors;
  size_t tensor_count;
};

/* Everything from the workload and program on: the cache, the prompt, the steps. */
enum exit_status decode_run(struct decode *decode);
/* Of a zeroed one: nothing. */
void decode_free(struct decode *decode);
/* Whether all that was compared is within its bounds. */
bool decode_is_right(const struct decode *decode);

/* For attnc check: random tensors, a prompt and single steps for two sequences. The spec must not
 * be in use by another thread. What was compared is in *decode, which decode_free frees in any
 * case. */
enum exit_status decode_try(struct decode *decode, const struct spec *spec, enum dtype type,
                            const struct prepared *prepared, uint64_t seed, bool quick);

/* Copies of a piece of `whole` for the role, where `step` has none yet: rows `from` on along NQ and
 * keys `first_key` on along NK, in the sizes of `step`. */
enum exit_status decode_take(const struct decode *decode, struct workload *step,
                             enum workload_role role, uint32_t number, int64_t from,
                             int64_t first_key);

/* ---- decode_share.c ---- */

/* Whether the shared prefix fits the spec, prompt and batch; fine for 0. */
enum exit_status decode_share_check(const struct decode *decode);
/* Makes the first tokens of all sequences those of the first one. */
enum exit_status decode_share_tokens(struct decode *decode);
/* Notes the difference of o of two launches. */
void decode_share_compare(struct decode *decode, const struct tensor *shared,
                          const struct tensor *apart);

/* Fills the scales that append only reads; before the first tokens. */
attn_status decode_calibrate(const struct decode *decode, const struct decode_step *step);

/* Whether the step is one that is compared. */
bool decode_wants_check(const struct decode *decode, int64_t from);
/* Compares the rows of a step with the reference over what the cache holds. */
enum exit_status decode_check(struct decode *decode, struct decode_step *step);
/* All rows with those of one launch on all tokens. */
enum exit_status decode_check_prefill(struct decode *decode);

#endif
