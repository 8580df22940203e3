/* Random specs that are well typed, and random cases to run them on. */
#ifndef ATTN_TESTS_RANDOM_SPECS_GENERATE_H
#define ATTN_TESTS_RANDOM_SPECS_GENERATE_H

#include "tests/numeric/random_specs/node.h"
#include "tests/numeric/random_specs/trial.h"

enum { SPEC_CASES = 3 };

struct random_spec {
  struct node *root;
  struct trial_case cases[SPEC_CASES];
};

/* The spec of a seed: always the same one. `few_blocks`: for a device that interprets its kernels,
 * with fewer heads in groups of the same size, batches of at most two, and the many keys in the
 * last case. */
void random_spec(struct arena *arena, uint64_t seed, bool few_blocks, struct random_spec *spec);
/* Another one, with a cache and cases on it. */
void random_cache_spec(struct arena *arena, uint64_t seed, bool few_blocks,
                       struct random_spec *spec);

/* ---- private to generate.c and formulas.c ---- */

enum { PLACE_MAX_NAMES = 6, MAX_INPUTS = 14 };

/* Names that a formula may use: those of a fn's arguments, a reduction's variable, "s", "o[c]". */
struct place_names {
  const char *text[PLACE_MAX_NAMES];
  int64_t extent[PLACE_MAX_NAMES]; /* of an int: it lies in [0, extent), or 0 where not known */
  uint32_t count;
};

/* What the formula at hand may read. */
struct place {
  bool row;          /* b, h, g, i, r */
  bool key;          /* j */
  bool one_token;    /* of value: j, but no i, r or h */
  bool in_fn;        /* nothing but the names */
  uint32_t channels; /* c lies in [0, channels); 0: there is no c */
  struct place_names ints, floats;
};

struct declared_input {
  const char *name;
  enum node_type type; /* BOOL, INT or FLOAT */
  uint32_t rank;
  struct {
    enum dim_kind kind;
    int64_t size; /* of DIM_EXPR, or 0 where it is NK's number of groups of 4 */
  } dims[4];
};

struct declared_name {
  const char *name;
  enum node_type type;
  bool key, row; /* a let: what it reads */
  uint32_t args; /* a fn: all of this type; BOOL: three ints */
};

struct generator {
  struct arena *arena;
  uint64_t key, counter;
  struct node *params, *fns, *inputs, *lets, *statements;
  uint32_t heads, kv_heads, dim_qk, dim_v;
  enum dtype type;
  bool typed, ragged, few_blocks;
  bool on_cache, rotated, value_is_key;
  enum cache_layout layout; /* on_cache */
  uint32_t page, capacity;
  enum align_kind align;
  bool wild;     /* formulas may make NaN and infinities */
  bool poisoned; /* q and k hold some */
  bool kinds;    /* either */
  bool loose;    /* some indices are out of range */
  bool biased;   /* the position adds a term of either sign after all scores */
  struct declared_input declared[MAX_INPUTS];
  uint32_t input_count, name_count;
  VECTOR(struct declared_name) param_names, let_names, fn_names;
};

uint32_t pick(struct generator *g, uint32_t count); /* 0 .. count - 1 */
bool chance(struct generator *g, uint32_t percent);
struct node *word(struct generator *g, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* A node whose text is printed at once. */
struct node *leaf(struct generator *g, enum node_type type, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
const char *new_name(struct generator *g, const char *prefix);

/* Formulas of at most so many levels. Floats are within about [-3, 3] where `wild` is not set. */
struct node *make_int(struct generator *g, const struct place *place, int depth);
struct node *make_bool(struct generator *g, const struct place *place, int depth);
struct node *make_float(struct generator *g, const struct place *place, int depth);
/* A float that kernels and the reference compute alike: what a comparison may decide. */
struct node *make_plain_float(struct generator *g, const struct place *place);
/* A mask of the prelude or one like them; NULL where it cannot be written. */
struct node *make_known_mask(struct generator *g, const struct place *place);
/* An element of an input that can be read here; NULL when there are enough inputs. */
struct node *make_read(struct generator *g, const struct place *place, enum node_type type,
                       int depth);
/* NAME[b, ...] of a new input whose last dimension has so many channels; by row or by key. */
struct node *make_vector_read(struct generator *g, bool by_key, uint32_t channels);
struct node *declare_input(struct generator *g, const char *name, const char *type,
                           struct node *dims);

/* A cache, and what it stores k and v as, by the layout that was chosen. */
void choose_layout(struct generator *g);
struct node *make_cache(struct generator *g);

#endif
