/* One attention of an equivalence: a spec, compiled, and the tensors of its next launch. With
 * ATTN_TEST_DEVICE=cuda:0 in the environment it runs there, in fewer and smaller sizes.
 *
 * Everything runs through libattn; what goes wrong fails the test at hand. Tensors of one name,
 * shape and seed hold the same numbers in every attention, so that two specs of one shape are
 * compared without further ado.
 */
#ifndef ATTN_TESTS_EQUIVALENCES_ATTENTION_H
#define ATTN_TESTS_EQUIVALENCES_ATTENTION_H

#include <check.h>

#include "runtime/attnc/document.h"
#include "runtime/attnc/workload.h"

struct attention {
  struct document document;
  const struct spec *spec;
  attn_program *program;
  struct workload work;
};

/* What specs are written with unless heads or sizes matter. */
#define USUAL                                                                                      \
  "heads q = 4, kv = 2\n"                                                                          \
  "dim qk = 16, v = 12\n"

/* Compiles `statements` with `params` (or NULL) in f32. False when something in it is not lowered
 * yet: `name`, the equivalence, is then printed and counted as skipped, and *a is empty. */
bool attention_open(struct attention *a, const char *name, const char *params,
                    const char *statements);
void attention_close(struct attention *a); /* harmless on an empty or zeroed one */
/* Opens two, or closes both again and returns false. */
bool attention_open_two(struct attention *a, const char *a_statements, struct attention *b,
                        const char *b_statements, const char *name);

/* After the last test. */
void attention_end(void);

unsigned attention_skipped(void);
/* Counts a case that cannot be written yet. */
void attention_skip(const char *name, const char *reason);

/* Batch, NQ and NK. */
struct sizes {
  int64_t batch, queries, keys;
};
enum { MOST_KEYS = 400 };
/* Draw 0 has several tiles and fewer queries than keys, draw 1 a single query and many keys, at
 * most MOST_KEYS; in all of them NQ <= NK. */
uint64_t draws(void);
struct sizes sizes_draw(uint64_t number);

/* Makes the tensors of a launch, filled from the seed. `setting` is "NAME=VALUE" of a parameter or
 * NULL. */
void attention_prepare(struct attention *a, struct sizes sizes, uint64_t seed, const char *setting);
/* The same for packed sequences of a ragged spec. */
void attention_prepare_packed(struct attention *a, int64_t batch, const int64_t *queries,
                              const int64_t *keys, uint64_t seed);
void attention_launch(struct attention *a, const char *name);

/* An input or output. */
struct tensor *attention_input(struct attention *a, const char *name);
struct tensor *attention_output(struct attention *a, const char *name);

void tensor_fill(struct tensor *tensor, double value);
/* Where row (x, y, z) of a tensor of rank 4 begins; element (x, y, z) of one of rank 3. */
float *tensor_row(const struct tensor *tensor, int64_t x, int64_t y, int64_t z);

/* max |x - y| / max |y| over all elements; infinite where one is NaN, or infinite on one side. */
double tensor_distance(const struct tensor *x, const struct tensor *y);
/* At most so far apart. Shapes are compared by their number of elements. */
double tolerance(void);
void expect_same(const char *name, const struct tensor *x, const struct tensor *y);

#endif
