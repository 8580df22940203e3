/* A checked spec as text for people: what it means after names, the prelude and the defaults are
 * settled. */
#ifndef ATTN_RUNTIME_ATTNC_SPEC_PRINT_H
#define ATTN_RUNTIME_ATTNC_SPEC_PRINT_H

#include <stdio.h>

#include "dsl/spec.h"

/* Into a text in the arena. Runs inside the arena's guard. */
char *spec_print(struct arena *arena, const struct spec *spec);

/* The names of the spec's parameters and inputs for expr_print, in the arena. */
struct expr_names spec_names(struct arena *arena, const struct spec *spec);

#endif
