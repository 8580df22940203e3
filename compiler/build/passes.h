/* Walks over a row tile's keys, and what they are made of: scores of every map, weights made of
 * them, sums of values under these weights. One kernel may walk the same keys several times.
 *
 * Private to compiler/build, as build.h.
 */
#ifndef ATTN_COMPILER_BUILD_PASSES_H
#define ATTN_COMPILER_BUILD_PASSES_H

#include "compiler/build/build.h"
#include "compiler/build/rows.h"

/* ---- maps (maps.c) ---- */
struct build_map {
  const struct row_algebra *algebra;
  const struct expr *score; /* times score_factor / factor */
  double factor;            /* of the algebra's state */
  struct row_state state;
  struct tile_value *top; /* the largest visible score, where the state does not keep it */
  struct row_rest rest;
  struct row_norm norm;
};

struct build_maps {
  struct build_map items[SPEC_MAX_MAPS];
  uint32_t count;
  const struct expr *visible;     /* of pairs of tiles that are not full */
  const struct expr *always_seen; /* of full tiles: true, or the choice of `select` */
  const struct expr *weight;      /* of the maps; what is left of it for the end (maps_split) */
  const struct expr *in_walk[SPEC_MAX_MAPS]; /* over MAP(n): what a tile's weights become */
};
void maps_init(struct build *b, struct build_maps *maps);
struct row_state maps_start_rows(struct build *b, const struct build_map *map);
/* Makes before a walk what does not vary along keys. */
void maps_hoist(struct build *b, const struct build_maps *maps);
/* Splits a weight that is linear in the maps: what varies along keys is done to the weights of a
 * tile (in_walk), the rest to sums (weight). */
void maps_split_weight(struct build *b, struct build_maps *maps);
/* Sinks and least divisors, with their checks. */
void maps_rest(struct build *b, struct build_maps *maps);
/* What the magnitude of a formula over the maps cannot exceed; INFINITY where that is not known. */
double maps_largest(struct build *b, const struct build_maps *maps, const struct expr *weight);
/* The norms, of maps whose state is complete. */
void maps_close(struct build *b, struct build_maps *maps);
/* Bool [M, 1]: rows in which some map saw a score above -inf; NULL where a map cannot tell. */
struct tile_value *maps_alive(struct build *b, const struct build_maps *maps);
/* x where both hold, else 0; each may be NULL. */
struct tile_value *weights_where(struct build *b, struct tile_value *visible,
                                 struct tile_value *alive, struct tile_value *x);

/* ---- a walk (passes.c) ---- */
enum { PASS_MAX_CARRIED = 64 };
enum { CHECK_MASK = 1, CHECK_SCORES = 2, CHECK_WEIGHT = 4, CHECK_VALUE = 8, CHECK_ALL = 15 };

struct pass_limits;
struct pass_tile {
  bool partial;
  const struct pass_limits *limits; /* NULL: all columns of tiles of pairs are made */
  struct tile_value *visible;       /* NULL where all pairs are */
  struct tile_value *scores[SPEC_MAX_MAPS];
  const struct expr *reached; /* BOOL: where formulas of pairs are */
  unsigned checks;
};

struct pass {
  const struct build_maps *maps;
  unsigned wanted; /* bit n: the scores of map n */
  unsigned checks; /* what this walk checks: each formula once a kernel */
  bool whole;      /* tiles of pairs are stored */
  void (*visit)(struct build *b, void *user, const struct pass_tile *tile);
  void *user;
  struct tile_value **carried[PASS_MAX_CARRIED]; /* changed by visit; after the walk, the results */
  uint32_t carried_count;
  const struct pass_limits *limits; /* of the walk that goes on */
};
void pass_carry(struct pass *pass, struct tile_value **value); /* not where *value is NULL */
void pass_carry_state(struct pass *pass, struct build_map *map);
/* Ends of the segments of keys that the task's rows may see: lo and hi of each, index. */
void pass_segments(struct build *b, struct tile_value **ends);
/* Walks the segments of visible keys, or what b->cut_segments leaves of them. */
void pass_walk(struct build *b, struct pass *pass);
/* The tile at hand, which is at b->key_base: visibility, checks and scores. */
void pass_enter_tile(struct build *b, const struct pass *pass, struct pass_tile *tile);
struct row_scores pass_row_scores(struct build *b, const struct pass_tile *tile,
                                  const struct build_maps *maps, uint32_t map);

/* ---- sums of values (sums.c) ---- */
enum { SUMS_MAX = 4 };
struct value_sums {
  const struct expr *values[SUMS_MAX]; /* of a key's channels; NULL: none */
  uint32_t count;
  const struct expr *choice;          /* over MAP(n) for sum n: rows may choose among them */
  const struct expr *pairs;           /* added for every pair and channel to sum 0; NULL */
  double largest;                     /* no weight of these sums exceeds it in magnitude */
  struct tile_value *tiles[SUMS_MAX]; /* of the tile at hand */
  /* [1, N]: where the tile has codes, what the weights are multiplied with; else NULL. */
  struct tile_value *scales[SUMS_MAX];
};
void sums_plan(struct build *b, struct value_sums *sums);
void sums_hoist(struct build *b, const struct value_sums *sums);
/* The values of the tile at hand, with their checks. */
void sums_enter_tile(struct build *b, struct value_sums *sums, const struct pass_tile *tile);
/* What the weights are rounded to before they meet values `n`. */
enum tile_element sums_element(struct build *b, const struct value_sums *sums, uint32_t n);
/* Adds weights . values to the accumulators, which are multiplied by `rescale` (or NULL) first. */
void sums_add(struct build *b, const struct value_sums *sums, struct tile_value **accumulators,
              struct tile_value *weights, struct tile_value *rescale, const struct pass_tile *tile);
struct tile_value *sums_choose(struct build *b, const struct value_sums *sums,
                               struct tile_value *const *totals);

/* ---- the second look (maps.c) ---- */
struct final_weights {
  struct build_maps *maps;
  struct tile_value *alive;
  struct tile_value *total; /* [M, 1]: weights are divided by it; NULL */
};
/* Weights of the tile at hand as `weight` says, from the maps' norms: 0 at hidden pairs. Sets MAP
 * values of the pair frame. */
struct tile_value *final_weights_of(struct build *b, const struct final_weights *weights,
                                    const struct pass_tile *tile);
/* x / total, and 0 where that is 0. */
struct tile_value *divide_by_total(struct build *b, struct tile_value *x, struct tile_value *total);

/* ---- the end of a row (finish.c) ---- */
/* Applies `post` to the row's sum and stores it, and the outputs of rows. `entropies`: by output.
 */
void finish_store(struct build *b, const struct build_maps *maps, struct tile_value *o,
                  struct tile_value *const *entropies);

/* ---- outputs (outputs.c) ---- */
bool outputs_want(const struct spec *spec, enum output_kind kind);
/* Both do nothing where no output is the weights' matrix: zeros for the task's rows; a tile. */
void outputs_clear_weights(struct build *b);
void outputs_store_weights(struct build *b, struct tile_value *weights);
/* -sum of w * log(w) of a tile, added to `entropy`. */
struct tile_value *outputs_add_entropy(struct build *b, struct tile_value *entropy,
                                       struct tile_value *weights);
/* mass.c: what the forward kernel stores of each row, and the kernel that reads it: sums over rows
 * of the weights of each key, in the order of the rows. */
void mass_store_rows(struct build *b, const struct final_weights *weights);
void mass_build(struct build *b);

#endif
