/* The equivalences of attention variants, by the parts that test them. Each name begins with the
 * number of the group: 1 head layout, 2 windows, 3 sinks and sparse patterns, 4 blocks, 5 sinks in
 * the denominator and caps, 6 biases, 7 rotary positions, 8 differential, 9 latent, 10 chosen
 * blocks, 11 splits and orders of keys, 12 batches and decoding, 13 budgets, 14 rows of weights. */
#ifndef ATTN_TESTS_EQUIVALENCES_EQUIVALENCES_H
#define ATTN_TESTS_EQUIVALENCES_EQUIVALENCES_H

#include "tests/numeric/equivalences/attention.h"

void pairs_add(TCase *tests);   /* two specs, the same tensors */
void heads_add(TCase *tests);   /* 1, 7, 9: tensors laid out anew */
void keys_add(TCase *tests);    /* 2, 4, 10, 11, 12: keys split, moved, packed */
void weights_add(TCase *tests); /* 5, 8, 14: what rows of weights sum to */

#endif
