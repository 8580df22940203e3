/* Inside libattn: a program, which is a checked spec and its compiled forms, one for each variant
 * in use. */
#ifndef ATTN_RUNTIME_PROGRAM_H
#define ATTN_RUNTIME_PROGRAM_H

#include "runtime/unit.h"

enum {
  PROGRAM_TYPES = 3,  /* f32, f16, bf16 */
  PROGRAM_PLACES = 4, /* of K and V: given; in a cache, with packed queries, a shared prefix */
  PROGRAM_VARIANTS = PROGRAM_TYPES * PROGRAM_PLACES * (2 + UNIT_DECODE_SIZES)
};

struct attn_program {
  struct attn_context *context; /* a reference */
  struct unit *front; /* a reference: spec and description; compiled when the type is settled */
  struct unit_source source; /* pointers into `texts` */
  attn_kernel kernel;        /* what launches take: FORWARD, DECODE or ANY */
  char *texts;
  struct spec_set *sets;
  pthread_mutex_t lock;                              /* held while a variant is made */
  _Atomic(struct unit *) variants[PROGRAM_VARIANTS]; /* references */
};

/* The unit of a variant, whose type is one that the program takes; compiled now if need be.
 * Borrowed from the program. */
attn_status program_unit(struct attn_program *program, const struct unit_variant *variant,
                         const struct error_sink *sink, struct unit **unit);

/* Sets kernel and queries of a variant, not of APPEND, whose on_cache is set, to what launches of
 * this program take for `queries` rows of q and `keys` tokens of k, of the longest sequence. Keys
 * count where they are given as tensors: to few of them another compilation is not worth its time.
 */
enum { PROGRAM_DECODE_KEYS = 2048 };
void program_choose_kernel(const struct attn_program *program, int64_t queries, int64_t keys,
                           struct unit_variant *variant);
/* Whether there is other code for launches of such a variant that share a prefix. */
bool program_may_share(const struct unit_variant *variant);

#endif
