/* Private to groups: the panel at hand, its operands and buffers (panel.c), runs of elementwise ops
 * (run.c), products (group_product.c), and the loop around them (group.c).
 */
#ifndef ATTN_COMPILER_TARGET_HOST_PANEL_H
#define ATTN_COMPILER_TARGET_HOST_PANEL_H

#include "compiler/target/host/lower.h"

struct panel_loop {
  struct host *h;
  LLVMValueRef panel; /* i64: number of the panel at hand */
  uint32_t rows;      /* of the group's tiles */
  VECTOR(const struct tile_op *) run;
  uint32_t run_columns;
  const struct host_range *run_range; /* NULL: all */
  /* in the run's loop */
  const struct tile_op *op;
  LLVMValueRef column;                            /* i64 */
  uint32_t vector;                                /* which row vector */
  LLVMValueRef (*elements)[HOST_MAX_ROW_VECTORS]; /* by value id: results of the run in this turn */
  VECTOR(struct {
    LLVMValueRef base;
    size_t bytes;
  })
  free_buffers;
  size_t *sizes; /* by value id: bytes of a per-panel buffer */
  VECTOR(struct panel_limit) limits;
};

/* The columns that the panel at hand needs of the tiles that `op` limits. */
struct panel_limit {
  const struct tile_op *op;
  struct host_range range;
};

/* ---- panel.c: who uses a value ---- */
bool panel_op_pending(struct host *h, const struct tile_op *op);
/* Whether anything that is not pending uses the value. */
bool panel_escapes(struct host *h, const struct tile_value *value);
/* An [M, 1] tile with the group's rows: vectors in registers. */
bool panel_is_vector_tile(const struct panel_loop *g, const struct tile_value *value);
/* The last pending op that uses the value, itself or rounded (dot_rounds), by its number in the
 * group; -1 when none does. */
int panel_last_use(struct host *h, const struct tile_value *value);

/* ---- panel.c: operands ---- */
/* <i1>: the rows of row vector `vector` that are live. */
LLVMValueRef panel_live_lanes(struct panel_loop *g, uint32_t vector);
LLVMValueRef panel_load_lanes(struct panel_loop *g, const struct tile_value *value,
                              LLVMValueRef base, LLVMValueRef offset);
void panel_store_lanes(struct panel_loop *g, const struct tile_value *value, LLVMValueRef base,
                       LLVMValueRef offset, LLVMValueRef lanes);
/* Makes an [M, 1] tile from outside the group available as vectors; the builder is at the start of
 * the panel. */
void panel_preload(struct panel_loop *g, const struct tile_value *value);
/* What an elementwise op (g->op) reads at g->column and g->vector; `user` is the panel_loop. */
LLVMValueRef panel_operand_value(void *user, uint32_t index);
void panel_begin_expression(struct panel_loop *g);
LLVMValueRef panel_element_value(struct panel_loop *g, const struct tile_op *op);

/* ---- panel.c: buffers of one panel ---- */
void panel_place_result(struct panel_loop *g, const struct tile_value *value);
void panel_release(struct panel_loop *g, const struct tile_value *value);
/* Operands that die with op number `number` give their buffers back. */
void panel_release_dead(struct panel_loop *g, const struct tile_op *op, int number);

/* ---- limit.c ---- */
/* At the start of the panel: computes the ranges of what the group's ops read and make. */
void panel_begin_limits(struct panel_loop *g);
/* The columns that are computed of the tile, or were where it is not of this group; NULL: all. */
const struct host_range *panel_range(const struct panel_loop *g, const struct tile_value *value);

/* ---- run.c ---- */
void run_add(struct panel_loop *g, const struct tile_op *op);
void run_close(struct panel_loop *g);
uint32_t run_columns_of(const struct tile_op *op);
/* The columns that the op goes over; NULL: all. */
const struct host_range *run_range_of(const struct panel_loop *g, const struct tile_op *op);
/* Whether the op can only follow the run at hand: it reads a row result of it, or a permuted one.
 */
bool run_must_wait(struct panel_loop *g, const struct tile_op *op);
/* An op whose result is one vector a row vector: no loop. */
void run_vector_op(struct panel_loop *g, const struct tile_op *op);

/* ---- group_product.c ---- */
/* Whether a product does this scale_rows as it loads its accumulator. */
bool group_is_folded(struct host *h, const struct tile_op *op);
/* `b`: the second operand, `codes`: that as dot_int8_pack has it, or without a base. */
void group_product(struct panel_loop *g, const struct tile_op *op,
                   const struct host_value *a_outside, const struct host_value *b,
                   const struct host_value *codes);
void group_contract(struct panel_loop *g, const struct tile_op *op, const struct host_value *b);

#endif
