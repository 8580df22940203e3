/* A checked spec: what an `attention` means after names, types, the prelude and the defaults are
 * settled.
 *
 * Everything here lives in the arena of the compilation that made it and never changes afterwards.
 * Formulas are expressions of `pool`; see expr.h for the variables that each may use. Statements
 * that were not written hold their defaults (language.md), so that no reader needs to know them.
 */
#ifndef ATTN_DSL_SPEC_H
#define ATTN_DSL_SPEC_H

#include "dsl/diagnostics.h"
#include "dsl/expr.h"

enum dtype {
  DTYPE_ANY, /* the spec has no `type` statement: decided at launch among f32, f16, bf16 */
  DTYPE_F32,
  DTYPE_F16,
  DTYPE_BF16,
  DTYPE_I32,
  DTYPE_I64,
  DTYPE_U8,
  DTYPE_BOOL,
  DTYPE_SPEC, /* of an input declared `type`: that of q, k and v */
  /* K/V storage types beyond those */
  DTYPE_E4M3,
  DTYPE_E5M2,
  DTYPE_I8,
  DTYPE_I4,
  DTYPE_I2,
  DTYPE_COUNT
};
const char *dtype_name(enum dtype type); /* "f32" ... */
size_t dtype_size(enum dtype type);      /* bytes; 0 for ANY, SPEC and types below a byte */

struct spec_param {
  const char *name;
  enum expr_type type; /* BOOL, INT or FLOAT */
  bool is_const;       /* its value is folded into the expressions and it is no launch argument */
  bool has_default;
  union {
    int64_t i;
    double f;
  } value; /* the default, or the value of a const */
  struct span span;
};

/* What a dimension of an input stands for. */
enum dim_kind {
  DIM_B,
  DIM_H,
  DIM_G,
  DIM_NQ,
  DIM_NK,
  DIM_D,  /* channels of q and k */
  DIM_DV, /* channels of v */
  DIM_EXPR
};

struct spec_dim {
  enum dim_kind kind;
  const struct expr *size; /* INT over parameters and sizes (B, NQ, NK); constant where known */
  struct span span;
};

enum { SPEC_MAX_RANK = 8, SPEC_MAX_INPUTS = 64, SPEC_MAX_PARAMS = 64, SPEC_MAX_MAPS = 4 };

struct spec_input {
  const char *name;
  enum dtype type;
  uint32_t rank; /* 0: a scalar tensor */
  struct spec_dim dims[SPEC_MAX_RANK];
  bool grad;
  bool cached;
  struct span span;
};

enum align_kind { ALIGN_END, ALIGN_START, ALIGN_EXPR };

/* One rotation of channel pairs of q and k by an angle. Pair m of the repetition p (0 <= m < dim /
 * 2, 0 <= p < repeat) is, with base = from + p * dim: channels (base + m, base + m + dim / 2) for
 * PAIRING_HALF (NeoX, Llama), (base + 2m, base + 2m + 1) for PAIRING_INTERLEAVED (GPT-J, RoFormer).
 *   a' = gain * (a cos t - b sin t),  b' = gain * (a sin t + b cos t),  t = angle   (Su et al.
 * 2021) Written `position rope(...)` or `rotary(...)`. */
enum pairing { PAIRING_HALF, PAIRING_INTERLEAVED };

struct spec_rotary {
  uint32_t from;
  uint32_t dim;
  uint32_t repeat;
  enum pairing pairing;
  /* FLOAT over EXPR_VAR_C (the pair index m), EXPR_VAR_T (the position), sizes, parameters and
   * inputs (indexed by m: a table of frequencies or factors); evaluated in float64 in kernels too,
   * because f32 is off by 0.05 rad at position 10^6. */
  const struct expr *angle;
  const struct expr *gain; /* FLOAT over uniform values; 1.0 by default */
  /* INT: the positions given to EXPR_VAR_T for queries (over b, h, i) and keys (over b, g, j). */
  const struct expr *query_position;
  const struct expr *key_position;
  struct span span;
};

enum normalizer {
  NORMALIZE_SOFTMAX, /* with `sink` where not NULL (plus = 1 is a sink of 0) */
  NORMALIZE_SIGMOID,
  NORMALIZE_RELU,
  NORMALIZE_LINEAR, /* divides by the row's sum, or by max(|sum|, at_least) */
  NORMALIZE_HARDMAX,
  NORMALIZE_SPARSEMAX,
  NORMALIZE_NONE
};
const char *normalizer_name(enum normalizer normalizer);

struct spec_map {
  const char *name; /* NULL for the default map */
  enum normalizer normalizer;
  const struct expr *sink;     /* FLOAT over b, h, i and inputs; NULL when there is none */
  const struct expr *at_least; /* FLOAT over b, h, i; NULL */
  /* FLOAT: the whole score of a visible pair: scale, similarity, every `score`, then position terms
   * (alibi, t5, shaw), in terms of READs of q, k and inputs. Where the spec has a rotary, reads of
   * q and k mean the rotated vectors. */
  const struct expr *score;
  struct span span;
};

enum weight_kind {
  WEIGHT_PLAIN,      /* weight e */
  WEIGHT_RENORMALIZE /* weight renormalize(e): e divided by its sum over the visible keys, 0 where
                        that sum is 0 */
};

enum cache_layout { CACHE_NONE, CACHE_DENSE, CACHE_RAGGED, CACHE_PAGED, CACHE_RING };
enum cache_axis { CACHE_AXIS_TOKEN, CACHE_AXIS_CHANNEL };
enum cache_positions { CACHE_POSITIONS_ORIGINAL, CACHE_POSITIONS_SLOT, CACHE_POSITIONS_STORED };

struct spec_storage {
  enum dtype type; /* DTYPE_SPEC: unquantised */
  enum cache_axis axis;
  uint32_t group;    /* elements per scale; 0: the whole axis */
  uint32_t residual; /* newest tokens kept in the spec's type */
  bool asymmetric;
  uint32_t
      channels;   /* of so many, from the first; the others are kept in the spec's type. 0: all */
  uint32_t table; /* the input that has the values of codes; 0: codes are numbers themselves */
};

struct spec_cache {
  enum cache_layout layout;
  uint32_t page;     /* tokens per page */
  uint32_t capacity; /* ring: newest tokens held */
  uint32_t sinks;    /* ring: first tokens held for ever */
  struct spec_storage k, v;
  bool rope_on_read;
  enum cache_positions positions;
  struct span span;
};

struct spec_select {
  bool present;
  uint32_t block;
  const struct expr *top; /* INT */
  /* FLOAT over b, h, i and EXPR_VAR_N. A MEAN in it has the extent `block` and reads keys at n *
   * block + BOUND: it is the mean over those of them that are visible. */
  const struct expr *by;
  const struct expr *always; /* BOOL over b, h, i, n */
  bool per_group;
  struct span span;
};

enum output_kind { OUTPUT_LSE, OUTPUT_MAX, OUTPUT_MASS, OUTPUT_WEIGHTS, OUTPUT_ENTROPY };
const char *output_name(enum output_kind kind);

struct spec_output {
  enum output_kind kind;
  uint32_t map; /* of lse, max and entropy */
  struct span span;
};
enum { SPEC_MAX_OUTPUTS = 16 };

struct spec {
  const char *name;
  struct span span; /* of the name */
  struct expr_pool *pool;
  const struct source_set *sources;

  struct spec_param params[SPEC_MAX_PARAMS];
  uint32_t param_count;
  struct spec_input inputs[SPEC_MAX_INPUTS];
  uint32_t input_count;

  uint32_t query_heads; /* H */
  uint32_t kv_heads;    /* G; divides H */
  uint32_t dim_qk;      /* D */
  uint32_t dim_v;       /* DV: channels of v, or of the slice of k that is the value */
  enum dtype type;      /* ANY, F32, F16 or BF16 */

  enum align_kind align;
  const struct expr *offset; /* INT over b and sizes: NK - NQ, 0, or as written */

  bool has_rotary;
  struct spec_rotary rotary;

  /* Where `value` is a slice of k ("latent" caches): v is no tensor of its own. */
  bool value_is_key;
  uint32_t value_from;
  /* FLOAT over b, h, i, j and c: the value of a key's channel c; READ(V; b, g, j, c) by default. */
  const struct expr *value;

  /* BOOL: the conjunction of every mask statement; without the sequence's own bounds. SINGLE
   * arithmetic inside. */
  const struct expr *mask;
  struct span mask_span; /* of the first mask statement, or of the name */

  struct spec_map maps[SPEC_MAX_MAPS];
  uint32_t map_count; /* at least 1 */

  enum weight_kind weight_kind;
  const struct expr *weight; /* FLOAT over MAP leaves, b, h, i, j; MAP(0) by default */

  const struct expr *post; /* FLOAT over READ(O; c), LSE, c, b, h, i, r; NULL when there is none */

  struct spec_select select;
  struct spec_cache cache;
  struct spec_output outputs[SPEC_MAX_OUTPUTS];
  uint32_t output_count;
};

/* Replaces every formula by what expr_rewrite makes of it; `offset` and dimensions stay. */
void spec_rewrite(struct spec *spec, expr_replace *leaf, void *user);

/* How a file becomes checked specs. */
struct spec_set {
  const char *name; /* a const parameter's name */
  const char *value;
};

struct spec_options {
  const struct spec_set
      *sets; /* --set NAME=VALUE: values of const parameters, and new defaults of the others */
  size_t set_count;
  /* Reads an imported file into memory of the arena; NULL when there is none. `from` is the
   * importing file's name. */
  const char *(*read_import)(void *user, struct arena *arena, const char *from, const char *path,
                             size_t *length);
  void *user;
};

/* A file after parsing and checking. `specs` holds every attention of the file that has no error.
 * Errors, warnings and notes are in `diagnostics`. Runs inside the arena's guard. */
struct spec_file {
  VECTOR(struct spec *) specs;
};
struct spec_file *spec_check(struct arena *arena, struct source_set *sources, uint32_t source,
                             const struct spec_options *options, struct diagnostics *diagnostics);

#endif
