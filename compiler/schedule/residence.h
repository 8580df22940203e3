/* Where a GPU keeps the values of a kernel, decided before code is made: compiler/target/nvptx puts
 * them there, and budget.c counts what that takes. docs/gpu.md describes the places.
 *
 * Answers depend on the kernel and its schedule only. */
#ifndef ATTN_COMPILER_SCHEDULE_RESIDENCE_H
#define ATTN_COMPILER_SCHEDULE_RESIDENCE_H

#include "compiler/pipeline.h"

struct residence_value {
  VECTOR(struct tile_op *) users;
  uint32_t kept; /* see residence_kept */
  bool apart;    /* see residence_is_apart */
};

struct residence {
  struct arena *arena;
  const struct tile_kernel *kernel;
  uint32_t row_warps, column_warps, stages;
  struct residence_value *values; /* by id */
  bool *reads_back;               /* by tensor: the kernel writes it and reads it */
};

/* `schedule` has warps, column_warps and stages. Everything is in `arena`. */
const struct residence *residence_new(struct arena *arena, const struct tile_kernel *kernel,
                                      const struct schedule *schedule);

/* ---- elements in memory ---- */
bool residence_is_code(enum dtype type);  /* of a byte and less */
uint32_t residence_bits(enum dtype type); /* of an element in memory */
/* Columns run along the last dimension, whose elements are neighbours. */
bool residence_has_unit_columns(const struct residence *r, const struct tile_access *access);

/* ---- registers ---- */
/* Of one warp: blocks of 16 rows, of 8 columns. */
uint32_t residence_row_blocks(const struct residence *r, uint32_t rows);
uint32_t residence_column_blocks(const struct residence *r, uint32_t columns);

/* ---- sizes in shared memory, in bytes ---- */
uint32_t residence_element_bytes(enum tile_element element);
/* How products read a tile: their inner index runs along its rows, or along its columns. */
enum residence_reader { READ_ROWS, READ_COLUMNS };
/* From one row of a tile to the next. Eight rows at one column (ldmatrix reads 16 bytes of each,
 * other loads 4) must lie in different banks, for which an odd number of 16 bytes serves; pairs of
 * f32 along a row (8 bytes of 4 rows by 4 threads) want 32 bytes more than a multiple of 128. */
uint32_t residence_pitch(uint32_t columns, enum tile_element element, enum residence_reader reader);
uint32_t residence_code_pitch(uint32_t columns, enum dtype codes);
/* A tile with its rows (but of a single one) and columns up to multiples of 16. */
uint32_t residence_tile_bytes(struct tile_type type, enum residence_reader reader);
/* The same of what that load copies there: codes, where those are kept. */
uint32_t residence_load_bytes(const struct residence *r, const struct tile_op *load);
/* What warps pass one another in a reduction along an axis. Little is not used again before the
 * region ends, so that the next exchange needs no barrier before. */
uint32_t residence_exchange_bytes(const struct residence *r, struct tile_type from, uint32_t axis);
bool residence_keeps_exchange(uint32_t bytes);

/* ---- who reads a value ---- */
/* A formula that reads a tensor which the kernel writes. NULL: none. */
bool residence_reads_back(const struct residence *r, const struct expr *e);
/* Row indices that can be computed for any row alone, and whether nothing else is wanted of them:
 * their op is then not lowered. */
bool residence_is_row_formula(const struct residence *r, const struct tile_value *value);
bool residence_is_only_rows(const struct residence *r, const struct tile_value *value);
/* A tile that a load leaves in codes. */
bool residence_has_codes(const struct residence *r, const struct tile_value *value);
/* The operand of products that a map or conversion makes, or a map together with the conversion of
 * its result; NULL if it makes none. */
const struct tile_value *residence_made_of(const struct residence *r, const struct tile_op *op);
/* Products alone read it, perhaps through a map or conversion that makes their operand. */
bool residence_wants_shared(const struct residence *r, const struct tile_value *value);
enum residence_reader residence_reader_of(const struct residence *r,
                                          const struct tile_value *value);
/* A load whose elements are fetched where a map uses them. */
bool residence_is_lazy(const struct residence *r, const struct tile_op *load);
/* A narrow load whose elements threads fetch from memory where transpositions and permutations,
 * which alone read it, put them, instead of from one another. */
bool residence_is_rearranged(const struct residence *r, const struct tile_op *load);
/* The thread's column of the operand that is its column c of the result; false where threads
 * differ, or where it is another thread's. */
bool residence_permuted(const struct residence *r, const struct tile_op *permute, uint32_t c,
                        uint32_t *from);
/* Whether no column leaves its thread. */
bool residence_permutes_within(const struct residence *r, const struct tile_op *permute);
/* For each of the thread's columns of the result, the first that every thread has from the same
 * column of the operand as it; how many are first. `first`: as many as there are, or NULL. */
uint32_t residence_permuted_alike(const struct residence *r, const struct tile_op *permute,
                                  uint32_t *first);
/* In registers, but products in loops further in find it in shared memory. */
bool residence_settles(const struct residence *r, const struct tile_value *value);
/* 16-bit, in shared memory, but products in loops further in find it in registers, as ldmatrix
 * leaves it there; how many registers that are, or 0. Few of a kernel, the first ones. */
uint32_t residence_kept(const struct residence *r, const struct tile_value *value);

/* ---- sums that threads keep apart (apart.c) ---- */
/* Whether several have a value of their own, the sum of which is the tile: of f32 [M, 1] each
 * thread of a row, of [M, N] each of the warps that divide columns, with all columns in every one.
 * Between the turns of a loop nothing of it goes from one to the other then. */
bool residence_is_apart(const struct residence *r, const struct tile_value *value);
void residence_find_apart(struct residence *r);
/* After the loop the parts are exchanged in rounds, so many blocks of each warp's own columns at a
 * time: as many as fit where the loop's operands were, at least one. */
uint32_t residence_apart_blocks(const struct residence *r, struct tile_type type,
                                uint32_t loop_bytes);
uint32_t residence_apart_bytes(const struct residence *r, struct tile_type type, uint32_t blocks);

/* ---- operands that are copied ahead (streams.c) ---- */
/* A column of f32 that may lie in shared memory without padding, to be copied ahead beside tiles: a
 * scale for each key. */
bool residence_is_column(const struct residence *r, const struct tile_op *load);
enum { RESIDENCE_MAX_STREAMS = 8 };
struct residence_streams {
  uint32_t count, stages;
  const struct tile_op *loads[RESIDENCE_MAX_STREAMS][2]; /* in the order of first use; by region */
};
/* The loads directly in the body of a loop that it copies ahead. */
struct residence_streams residence_streams_of(const struct residence *r,
                                              const struct tile_op *loop);

#endif
