/* Attention on caches, through attn.h and cache.h: a program, tokens that are drawn, caches in
 * random layouts, and the rows that launches give. With ATTN_TEST_DEVICE=cuda:0 in the environment
 * everything runs there, fewer and smaller. What goes wrong fails the test at hand.
 */
#ifndef ATTN_TESTS_CACHE_PROPERTIES_MODEL_H
#define ATTN_TESTS_CACHE_PROPERTIES_MODEL_H

#include "attn/cache.h"

#include <check.h>
#include <stdbool.h>

enum { HEADS = 4, GROUPS = 2, DIM = 16, CHANNELS = DIM + 1 /* of a row: o and lse */ };
enum { MOST_SEQUENCES = 3, MOST_TOKENS = 160, MOST_TENSORS = 16 };

attn_context *shared_context(void);
void end_context(void);
bool on_device(void);
/* `many` on the CPU, `few` on a device. */
int draws(int many, int few);

/* ---- random choices ---- */

struct draw {
  uint64_t key, count;
};
struct draw draw_of(const char *test, int number);
int64_t pick(struct draw *draw, int64_t first, int64_t last); /* both may come */
#define PICK_OF(draw, array)                                                                       \
  ((array)[pick(draw, 0, (int64_t)(sizeof(array) / sizeof(*(array))) - 1)])

/* ---- tensors ---- */

/* A tensor of a launch, with a copy of it in host memory. */
struct array {
  DLTensor tensor;
  int64_t shape[5], strides[5];
  size_t bytes;
  void *host;
};
void array_make(struct array *a, attn_type type, int rank, const int64_t *shape); /* of zeros */
void array_upload(struct array *a);
void array_download(struct array *a);
void array_free(struct array *a);

/* ---- programs and tokens ---- */

enum what { WHAT_Q, WHAT_K, WHAT_V };
/* An element of the token at `position` of a story. */
typedef float element(enum what what, int story, int64_t position, int head, int channel);
float any_element(enum what what, int story, int64_t position, int head, int channel);

struct model {
  attn_program *program;
  element *element;
};
/* "heads q = 4, kv = 2", "dim 16", "type f32", "output lse" and these statements. `options`: NULL
 * for the defaults. */
struct model model_open(const char *statements, const attn_compile_options *options);
void model_close(struct model *m);

/* Sequences of a launch. */
struct batch {
  int sequences;
  int stories[MOST_SEQUENCES];
  int64_t lengths[MOST_SEQUENCES]; /* tokens that they ever had, those of the launch included */
  int64_t rows[MOST_SEQUENCES];    /* of these the newest: keys to append, or queries */
  bool packed;                     /* otherwise they have the same number of rows */
  const attn_named_tensor *inputs;
  size_t input_count;
};

/* Rows by sequence and token: o, then lse. */
struct rows {
  float values[MOST_SEQUENCES][MOST_TOKENS][HEADS][CHANNELS];
  bool known[MOST_SEQUENCES][MOST_TOKENS];
};

void model_append(const struct model *m, const attn_named_tensor *cache, size_t count,
                  const struct batch *batch);
void model_attend(const struct model *m, const attn_named_tensor *cache, size_t count,
                  const struct batch *batch, struct rows *rows);
/* Sequence b of the batch, all its rows, by a launch on k and v. */
void model_plain(const struct model *m, const struct batch *batch, int b, struct rows *rows);
/* By the same statements without a cache, or others: all rows of all sequences. */
void plain_rows(const char *statements, element *element, const struct batch *batch,
                struct rows *rows);

double tolerance(void);
/* All rows that are known in `found`; relative to the largest element of o. */
void expect_rows(const char *what, const struct rows *found, const struct rows *wanted);
void expect_row(const char *what, const float found[HEADS][CHANNELS],
                const float wanted[HEADS][CHANNELS]);

/* ---- caches ---- */

/* A cache of a program, in memory of the test: of any order, with gaps, its pages in no order. What
 * is not a token's is NaN, or an index out of range. */
struct store {
  const attn_program_info *info;
  int sequences;
  int64_t page, table, pages, slots;
  struct array tensors[MOST_TENSORS];
  attn_named_tensor named[MOST_TENSORS];
};
/* Room for `tokens` of each sequence. */
void store_open(struct store *s, const struct model *m, int sequences, int64_t tokens,
                struct draw *draw);
void store_close(struct store *s);
struct array *store_find(struct store *s, const char *name); /* or NULL */
/* `lengths` and `seen`, and the page tables of sequences from `from` on. */
void store_set_lengths(struct store *s, const int64_t *lengths);
/* Moves what is stored for tokens of a sequence: token n becomes what token order[n] was. */
void store_permute(struct store *s, int sequence, const int64_t *order, int64_t count);

/* Appends and attends in steps until every sequence has its length; rows of all tokens. Steps are
 * packed or not, of one token or more. */
void store_fill(struct store *s, const struct model *m, const struct batch *whole,
                struct draw *draw, struct rows *rows);

/* ---- caches of the library ---- */

/* Paged: for all sequences, MOST_TOKENS each. `producers`: as in attn_cache_options. */
attn_cache *managed_open(const struct model *m, uint32_t sequences, uint32_t layers,
                         const uint32_t *producers);
void managed_ok(attn_status status);
/* A step: appends the rows of the batch in layer 0 and attends with them in `layer`. */
void managed_step(attn_cache *cache, const struct model *m, const attn_sequence *sequences,
                  const struct batch *batch, uint32_t layer, struct rows *rows);

/* ---- the suites ---- */

void layouts_add(TCase *tests);
void keys_add(TCase *tests);
void sharing_add(TCase *tests);
void eviction_add(TCase *tests);
void storage_add(TCase *tests);

#endif
