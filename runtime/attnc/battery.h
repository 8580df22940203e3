/* The cases that `attnc check` compares a spec on, and the running of one. */
#ifndef ATTN_RUNTIME_ATTNC_BATTERY_H
#define ATTN_RUNTIME_ATTNC_BATTERY_H

#include <pthread.h>

#include "runtime/attnc/compare.h"

enum { BATTERY_MAX_BATCH = 5 };

struct battery_case {
  int64_t batch, queries, keys;
  /* Of a ragged batch, when `ragged`: each sequence's lengths. */
  bool ragged;
  int64_t query_lengths[BATTERY_MAX_BATCH], key_lengths[BATTERY_MAX_BATCH];
  bool far; /* positions begin at BATTERY_FAR */
};
#define BATTERY_FAR 1000000

/* How a spec's positions can be made to begin at 10^6. */
enum battery_far {
  FAR_NEVER,
  FAR_ALIGN, /* `align` is a parameter or an input [B], which gets that value */
  FAR_ROTARY /* the text of the spec is changed: rope(at = t + 1000000) */
};
enum battery_far battery_far(const struct spec *spec);
/* The changed text for FAR_ROTARY, of mem_alloc. NULL when the rotary is not written in this file,
 * or out of memory. */
char *battery_far_text(const struct spec *spec, const char *text, size_t length,
                       size_t *far_length);

/* Cases for a spec, at most `capacity`; returns their number. */
size_t battery_cases(const struct spec *spec, bool quick, bool far, struct battery_case *cases,
                     size_t capacity);

/* "B=2 NQ=17 NK=9", "lengths 3x7 0x0 1x1", with ", from 10^6". */
void battery_describe(const struct battery_case *c, char *text, size_t size);

enum battery_outcome {
  BATTERY_OK,
  BATTERY_DIFFERS,  /* comparison says where */
  BATTERY_REFUSED,  /* the launch failed; `error` says why */
  BATTERY_LEFT_OUT, /* the case has no meaning for the spec; `error` says why */
  BATTERY_OUT_OF_MEMORY
};
struct battery_result {
  enum battery_outcome outcome;
  attn_status status; /* of the launch */
  struct comparison comparison;
  char error[512];
};
/* Makes random tensors, launches and compares. A small case that differs by a few units of the type
 * is repeated with other data, and differs when it does each time. Of large cases the reference
 * computes only the first heads. The lock, which may be NULL, is held while the context's device is
 * in use. */
void battery_run(const struct spec *spec, enum dtype type, attn_program *program,
                 attn_context *context, pthread_mutex_t *lock, const struct battery_case *c,
                 uint64_t seed, struct battery_result *result);

#endif
