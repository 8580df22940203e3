/* One spec on one shape: compiled code against the reference. */
#ifndef ATTN_TESTS_RANDOM_SPECS_TRIAL_H
#define ATTN_TESTS_RANDOM_SPECS_TRIAL_H

#include "attn/attn.h"
#include "dsl/spec.h"

enum { TRIAL_MAX_BATCH = 4 };

/* Dense launches have the lengths of sequence 0 throughout. */
struct trial_shape {
  int64_t batch;
  int64_t queries[TRIAL_MAX_BATCH], keys[TRIAL_MAX_BATCH];
};

struct trial_case {
  struct trial_shape shape;
  enum dtype type; /* of q, k and v where the spec leaves it open */
  uint64_t data;   /* seed of the tensors */
  /* Some of q and k are NaN or infinite (where `data` is even), or formulas make such values:
   * results are compared by kind (finite, NaN, an infinity and its sign) alone. */
  bool kinds;
  /* In steps on a cache, which the spec has: of batch sequences with the tokens of the longer of NQ
   * and NK, of which the last ones come one by one or in twos and threes. */
  bool on_cache;
};

enum trial_outcome {
  TRIAL_AGREES,
  TRIAL_SKIPPED, /* not yet lowered */
  TRIAL_FAULTS,  /* both say that an index is out of range */
  TRIAL_REFUSED, /* the front end says that it is no spec */
  TRIAL_BROKEN,  /* compiling or launching failed otherwise */
  TRIAL_DIFFERS,
  TRIAL_CRASHED /* of trial_run_apart */
};
const char *trial_outcome_name(enum trial_outcome outcome);
static inline bool trial_is_failure(enum trial_outcome outcome)
{
  return outcome >= TRIAL_REFUSED;
}

struct trial_result {
  enum trial_outcome outcome;
  bool empty;      /* no pair was visible */
  char text[1024]; /* what was said, or the element that is furthest off */
};

/* Runs several cases of a spec, compiled once, until one is no agreement and no fault. Returns the
 * number of the last one run; its result is in *result. `device` is "cpu" or "cuda:N", whose driver
 * may be of no use to the process after a failure. */
size_t trial_run(const char *device, const char *text, const struct trial_case *cases, size_t count,
                 struct trial_result *result);
/* The same of one case in a process of its own, which may crash or hang. The process that calls it
 * must not have used a driver: what it knows does not survive a fork. */
void trial_run_apart(const char *device, const char *text, const struct trial_case *c,
                     struct trial_result *result);

/* The process ends after so many seconds of processor time, which other processes do not take from
 * it; 0: no more. */
void trial_limit_time(unsigned seconds);

/* "type f16, data 12, NQ 3 3, NK 7 7, kinds" and back. */
void trial_describe(const struct trial_case *c, char *text, size_t size);
bool trial_parse(const char *text, struct trial_case *c);

#endif
