/* Random inputs: the same numbers for the same seed on every machine, whatever else is made.
 *
 * Element n of the tensor NAME under seed s is f(s, NAME, n), with f counter-based; docs/attnc.md
 * says what is drawn for which tensor.
 */
#ifndef ATTN_RUNTIME_ATTNC_RANDOM_H
#define ATTN_RUNTIME_ATTNC_RANDOM_H

#include "runtime/attnc/workload.h"

/* SplitMix64 (Steele, Lea, Flood 2014) at position `counter` of the stream `key`. */
uint64_t random_bits(uint64_t key, uint64_t counter);
double random_uniform(uint64_t key, uint64_t counter); /* in (0, 1) */
double random_normal(uint64_t key, uint64_t counter);  /* N(0, 1), Box and Muller 1958 */
uint64_t random_key(uint64_t seed, const char *name);

/* Fills q, k, v and the inputs of an allocated workload. */
void random_fill(struct workload *workload, uint64_t seed);
/* Draws lengths 1 .. NQ and 1 .. NK (0 where the size is 0) for a ragged workload; the first
 * sequence has the whole length. Queries are no longer than the keys where NQ <= NK. False when out
 * of memory. */
bool random_lengths(struct workload *workload, uint64_t seed, int64_t batch, int64_t queries,
                    int64_t keys);

#endif
