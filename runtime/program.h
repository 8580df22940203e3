/* Inside libattn: a program, which is a checked spec and its compiled forms, one for each storage
 * type in use. */
#ifndef ATTN_RUNTIME_PROGRAM_H
#define ATTN_RUNTIME_PROGRAM_H

#include "runtime/unit.h"

enum { PROGRAM_TYPES = 3 }; /* f32, f16, bf16 */

struct attn_program {
  struct attn_context *context; /* a reference */
  struct unit *front; /* a reference: spec and description; compiled when the type is settled */
  struct unit_source source; /* pointers into `texts` */
  char *texts;
  struct spec_set *sets;
  pthread_mutex_t lock;                           /* held while a variant is made */
  _Atomic(struct unit *) variants[PROGRAM_TYPES]; /* references */
};

/* The unit for q, k and v of a type that the program takes (F32, F16, BF16); compiled now if need
 * be. Borrowed from the program. */
attn_status program_unit(struct attn_program *program, enum dtype type,
                         const struct error_sink *sink, struct unit **unit);

#endif
