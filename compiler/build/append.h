/* The kernels that put new tokens into a cache (docs/caches.md, "Appending").
 *
 * Their formulas are over the spec's variables with other meanings: SIZE_NK is the number of tokens
 * that a sequence adds, J the token of a row of the tile at hand, numbered as in access.h, and N
 * the first of them. Tokens of one kernel have different places, so that its tasks do not meet.
 *
 * Private to compiler/build, as build.h.
 */
#ifndef ATTN_COMPILER_BUILD_APPEND_H
#define ATTN_COMPILER_BUILD_APPEND_H

#include "compiler/build/build.h"

/* Reports what of the spec's cache cannot be appended to. Needs b->cache. */
void append_check(struct build *b);
/* Makes the kernels, in tiles of b->key_rows tokens. b->packed[1] tells whether new tokens are
 * packed; their starts are QUERY_STARTS. */
void append_build(struct build *b);

/* ---- for the kernels ---- */

/* Tokens of a sequence that a kernel goes over. */
struct append_range {
  const struct expr *begin, *end; /* INT */
  const struct expr *most;        /* LONG, over sizes: no launch has more in one sequence */
  uint32_t rows;                  /* of a tile */
  uint32_t unit; /* tokens that share a scale, of which begin and end are multiples; else 1 */
  bool stored;   /* only tokens that have a slot when the launch is done */
};
/* INT: tokens of the sequence, the new ones included. */
const struct expr *append_all_tokens(struct build *b);
/* Every new token. */
struct append_range append_new_tokens(struct build *b, bool stored);

/* Opens, in a kernel of which no extents but `more` (index) were made, a task for each sequence,
 * K/V head (where `heads`), tile of the range and combination of `more`. In it B, G, J, N and
 * SIZE_NK are set, b->key_base, b->live_keys and b->columns. Gives the indices of `more`.
 *
 * A token without a slot is left out of the live ones: one that a ring has no room for, that lies
 * beyond the slots or the page table; and all of a tile with an entry in the page table that is no
 * page, so that no value of it makes a store go astray. */
struct tile_value **append_open(struct build *b, const struct append_range *range, bool heads,
                                struct tile_value *const *more, size_t count);

/* Channels of a tile: `size` of them from `first`, which is an index scalar. */
struct append_columns {
  struct tile_value *first, *live; /* index */
  uint32_t size;
};
/* LONG: how many pieces of that size cover n. */
const struct expr *append_pieces(struct build *b, const struct expr *n, int64_t piece);
/* Piece number n (index) of `channels` that begin at `first`. */
struct append_columns append_piece(struct build *b, uint32_t first, uint32_t channels,
                                   uint32_t piece, struct tile_value *n);

/* ---- where things lie (append.c) ---- */

/* i32 [M, 1] of an INT over J. */
struct tile_value *append_rows(struct build *b, const struct expr *e);

/* Where a tile lies in a tensor. */
struct append_place {
  uint32_t number; /* of the tensor in the kernel */
  struct tile_access access;
  struct tile_value *indices[SPEC_MAX_RANK];
  uint32_t rank; /* indices so far */
};
static inline struct tile_access append_no_access(uint32_t number)
{
  return (struct tile_access){.tensor = number,
                              .row_dim = TILE_NO_DIM,
                              .group_dim = TILE_NO_DIM,
                              .column_dim = TILE_NO_DIM,
                              .row_group = 1};
}
/* Adds an index; columns of the tile run along its dimension where `columns`. */
void append_index(struct append_place *place, struct tile_value *index, bool columns);
/* Begins with the indices for `token` (INT: J, for one a row, or N) in tensor `n` of the plan. */
void append_locate(struct build *b, uint32_t n, const struct expr *token,
                   struct append_place *place);
/* The live rows of the tile, or its only row where some token is live. */
void append_store(struct build *b, const struct append_place *place, struct tile_value *tile,
                  struct tile_value *live_columns);

/* Index: the row of a tensor of new tokens at which a tile of nothing else begins. */
struct tile_value *append_first_row(struct build *b, bool packed);
/* f32: K or V of the tile's tokens, which are all new. `rows`, i32 [M, 1], are their numbers among
 * the sequence's new ones; NULL where the tile has nothing else. */
struct tile_value *append_load(struct build *b, uint32_t tensor, struct tile_value *rows,
                               struct append_columns columns);

/* ---- what comes with k and v (append_inputs.c) ---- */

void append_input(struct build *b, uint32_t input); /* the kernel of a cached input */
void append_positions(struct build *b);             /* and that of stored positions */
/* Whether keys are rotated before they are stored. */
bool append_rotates(const struct build *b);
void append_check_rotation(struct build *b);
/* f32 [M, D]: K of a tile of nothing but new tokens, rotated. What else is to be made of J must be
 * made before: its value may become another. */
struct tile_value *append_rotated_keys(struct build *b);

/* ---- codes (quantise.c) ---- */

/* The kernel that makes scales, zeros and codes of K or V. */
void quantise_build(struct build *b, uint32_t source);
void quantise_check(struct build *b, uint32_t source);

#endif
