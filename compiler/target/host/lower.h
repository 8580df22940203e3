/* Private to the host target: the state of one kernel's lowering, and what its files offer one
 * another. */
#ifndef ATTN_COMPILER_TARGET_HOST_LOWER_H
#define ATTN_COMPILER_TARGET_HOST_LOWER_H

#include "compiler/emit/expr.h"
#include "compiler/pipeline.h"

enum {
  HOST_MAX_ROW_VECTORS = 4,
  HOST_MAX_COLUMN_REGISTERS = 16,
  HOST_ALIGNMENT = 64,
  HOST_RANGE = 4,   /* ranges of columns begin and end at multiples of this */
  HOST_FEW_ROWS = 8 /* tiles with no more are row-major, with lanes along columns (few.h) */
};

/* What is known of a value before lowering (layout.c). */
struct host_info {
  enum tile_layout layout; /* ROW_MAJOR or PANEL; of tiles with more than one row and column it is
                              where they lie */
  VECTOR(struct tile_op *) users;
  const struct tile_op *limit; /* limit_columns that holds for it (limit.c); equal ones are one */
};

enum host_kind {
  HOST_UNSET,
  HOST_SCALAR, /* scalar */
  HOST_SPLAT,  /* a tile of one scalar; no memory */
  HOST_IOTA,   /* scalar + index along the axis; no memory */
  HOST_MEMORY,
  HOST_VIEW, /* rows of a tensor: what few-row products read as their second operand (few.h) */
  HOST_LAZY, /* an elementwise op that its only user, a few-row product, does as it reads */
  HOST_ROWS  /* [M, 1] inside the group at hand: one vector per row vector of the panel */
};

struct host_range {
  LLVMValueRef first, end; /* i64, not descending */
};

struct host_value {
  enum host_kind kind;
  LLVMValueRef scalar;
  LLVMValueRef base;   /* MEMORY; of a VIEW the addresses of the rows */
  LLVMValueRef stride; /* i64, between rows, of ROW_MAJOR memory */
  bool per_panel;      /* MEMORY: `base` holds the panel at hand only */
  LLVMValueRef rows[HOST_MAX_ROW_VECTORS];
  const struct place *view;        /* VIEW */
  const struct host_range *needed; /* rows that products take of a second operand; NULL: all */
};

struct host_limit {
  uint32_t rows;
  LLVMValueRef live; /* i64 */
};

struct host_product;
struct host_transfer;

struct host {
  struct emit e;
  struct arena *arena;
  const struct tile_program *program;
  const struct tile_kernel *kernel;
  struct emit_slots slots;
  struct emit_expression expression;
  struct schedule schedule;
  uint32_t panel_rows;
  uint32_t registers;        /* vector registers of the machine */
  uint32_t widest_lanes;     /* f32 elements of its widest vector, or schedule.lanes */
  bool dots_bf16;            /* the machine adds products of pairs of bf16 */
  bool dots_int8;            /* the machine adds products of four bytes */
  struct host_info *info;    /* by value id */
  struct host_value *values; /* by value id */
  LLVMValueRef scratch;
  LLVMValueRef task;
  size_t scratch_used, scratch_peak;
  VECTOR(struct host_limit) limits;
  VECTOR(struct tile_op *) group; /* pending ops, not lowered yet */
  uint32_t group_rows;
  VECTOR(struct tile_op *) run; /* the same, of few rows */
  LLVMValueRef zeros;           /* a row of zeros; NULL until one is needed */
  uint32_t zero_bytes;
  uint32_t pieces; /* functions that may be equal (host_piece_end) */
  LLVMValueRef fault_function;
  VECTOR(struct host_product) products;
  VECTOR(struct host_transfer) transfers; /* transfer.c */
  VECTOR(struct host_turn) turns;
  LLVMValueRef table_functions[SPEC_MAX_RANK + 1], clear_function; /* few_table.c */
};

/* A function that transposes squares of such elements (transfer.c). */
struct host_turn {
  LLVMTypeRef element, type;
  LLVMValueRef function;
};

/* A product function that was emitted already, by its shape. */
struct host_product {
  uint32_t inner, columns;
  bool pairs; /* of bf16 (dot_bf16.h), which `inner` counts */
  bool codes; /* digits by codes (dot_int8.h), whose quads `inner` counts */
  bool panel_a, transpose_b;
  enum { HOST_PRODUCT_FRESH, HOST_PRODUCT_ADD, HOST_PRODUCT_SCALE_ADD } mode;
  enum { HOST_PRODUCT_WHOLE, HOST_PRODUCT_INNER, HOST_PRODUCT_COLUMNS } range;
  LLVMValueRef function;
  LLVMTypeRef type;
};

/* layout.c */
void host_analyze(struct host *h);
static inline struct host_info *host_info(struct host *h, const struct tile_value *value)
{
  return &h->info[value->id];
}
static inline struct host_value *host_value(struct host *h, const struct tile_value *value)
{
  return &h->values[value->id];
}
static inline bool host_is_panel(struct host *h, const struct tile_value *value)
{
  return value->type.kind == TILE_KIND_TILE && value->type.rows > 1 &&
         host_info(h, value)->layout == TILE_LAYOUT_PANEL;
}
/* Whether `op` belongs in a group, and with how many rows. */
bool host_in_group(struct host *h, const struct tile_op *op, uint32_t *rows);

/* buffer.c: places and elements */
LLVMTypeRef host_element_type(struct host *h,
                              enum tile_element element); /* in memory: float, i32 or i8 */
LLVMValueRef host_from_memory(struct host *h, enum tile_element element, LLVMValueRef stored);
LLVMValueRef host_to_memory(struct host *h, enum tile_element element, LLVMValueRef value);
/* The f32 that a 16-bit real stands for; other elements as they are. */
LLVMValueRef host_round(struct host *h, enum tile_element element, LLVMValueRef value);
size_t host_tile_bytes(struct host *h, struct tile_type type, enum tile_layout layout);
LLVMValueRef host_allocate(struct host *h, size_t bytes);
uint32_t host_row_stride(struct host *h,
                         struct tile_type type); /* elements, of a row-major buffer of ours */
/* Gives `value` a buffer of its own in its layout. */
void host_place(struct host *h, const struct tile_value *value);
/* The row limit that applies to tiles of that many rows as an i64, or NULL. */
LLVMValueRef host_live_rows(struct host *h, uint32_t rows);
LLVMValueRef host_panel_count(struct host *h, uint32_t rows);
/* Address of the panel that starts at row `panel * P` of a panel value. */
LLVMValueRef host_panel_base(struct host *h, const struct tile_value *value, LLVMValueRef panel);
/* `value` in memory in `layout`: itself, or a converted copy made here. */
struct host_value host_as_layout(struct host *h, const struct tile_value *value,
                                 enum tile_layout layout);
/* Copies a tile of any kind into the memory of `to`, which has the layout of `like`. */
void host_copy(struct host *h, const struct tile_value *from, const struct host_value *to,
               const struct tile_value *like);
/* Element (m, n), both i64, as the value of an expression. Slow; for conversions and odd shapes. */
LLVMValueRef host_element(struct host *h, const struct tile_value *value,
                          const struct host_value *place, enum tile_layout layout, LLVMValueRef m,
                          LLVMValueRef n);
void host_set_element(struct host *h, const struct tile_value *value,
                      const struct host_value *place, enum tile_layout layout, LLVMValueRef m,
                      LLVMValueRef n, LLVMValueRef element);

/* memory.c: tensors */
void host_load(struct host *h, const struct tile_op *op);
/* panel: the panel at hand for a tile in panels, NULL for a row-major one */
void host_load_panel(struct host *h, const struct tile_op *op, LLVMValueRef panel);
void host_store(struct host *h, const struct tile_op *op, LLVMValueRef panel);

/* transfer.c: of as many vectors as each has lanes, element k of vectors[i] becomes element i of
 * vectors[k] */
void host_turn(struct host *h, LLVMValueRef *vectors);

/* product.c: c (a panel's buffer) = or += a * b */
struct host_operands {
  LLVMValueRef a, a_stride; /* stride: NULL where `a` is a panel */
  const struct host_value *b;
  LLVMValueRef c;
  const LLVMValueRef *factor; /* of the rows of c; NULL */
  bool accumulate;
  bool digits; /* a and b are packed as dot_int8.h has them */
  /* What is to be computed: columns of c, multiples of HOST_RANGE; columns of a, or pairs of them,
   * or quads, that are summed over. NULL for all. */
  const struct host_range *columns, *inner;
};
void host_product(struct host *h, const struct tile_op *op, const struct host_operands *operands);
/* Whether tiles of that many columns can be computed in part. A range that is not empty has as
 * many columns as a register tile at least. */
bool host_product_has_ranges(struct host *h, uint32_t columns);

/* limit.c: which tiles need some of their columns only */
void host_note_limits(struct host *h);

/* elementwise.c: maps, reductions and checks over rows of a row-major tile or over contiguous
 * vectors */
void host_rowwise(struct host *h, struct tile_op *op);
void host_check_lanes(struct host *h, const struct tile_op *op, LLVMValueRef bad,
                      LLVMValueRef index);
LLVMValueRef host_reduce_step(struct host *h, enum tile_reduction reduction, LLVMValueRef a,
                              LLVMValueRef b);
LLVMValueRef host_reduce_start(struct host *h, const struct tile_op *op, bool vector);
LLVMValueRef host_reduce_lanes(struct host *h, enum tile_reduction reduction, LLVMValueRef vector);
/* <i1>: lanes of a vector that begins at element `first` of `count`. */
LLVMValueRef host_lane_mask(struct host *h, LLVMValueRef first, uint32_t count);
LLVMValueRef host_convert(struct host *h, const struct tile_op *op,
                          LLVMValueRef value); /* of a convert op */
LLVMValueRef host_permuted_column(struct host *h, const struct tile_op *op,
                                  LLVMValueRef column); /* i64 -> i64 */

/* masked_rows.c: a map that makes zeros of rows of `tile` where `mask`, [K, 1], is false */
struct host_row_mask {
  const struct tile_value *tile, *mask;
};
/* Whether the op is such a one and only products read its result, as their second operand. */
bool host_masks_rows(struct host *h, const struct tile_op *op, struct host_row_mask *found);
void host_mask_rows(struct host *h, struct tile_op *op, const struct host_row_mask *masked);

/* group.c */
void host_group_add(struct host *h, struct tile_op *op, uint32_t rows);
void host_group_flush(struct host *h);
/* Does only what these values need of the pending ops, where that can go before the others; else
 * false. */
bool host_group_flush_for(struct host *h, struct tile_value *const *values, uint32_t value_count);
/* Whether the value is a result of a pending op. */
bool host_is_pending(struct host *h, const struct tile_value *value);

/* lower.c */
void host_lower_kernel(struct host *h, struct compiled_kernel *kernel);
/* Another function of the module, in the middle of the one at hand, which `outer` keeps. It is not
 * inlined, and nothing but its parameters may be used in it. */
struct host_outer {
  LLVMValueRef function;
  LLVMBasicBlockRef entry, block;
};
LLVMValueRef host_function_begin(struct host *h, struct host_outer *outer, const char *name,
                                 LLVMTypeRef type);
void host_function_end(struct host *h, const struct host_outer *outer); /* returns nothing */
/* A piece of the function at hand that becomes one of its own where it is long enough. Pieces that
 * are equal but for what they take from outside are one function in the end. Memory that is
 * allocated in a piece (host_allocate) is free behind it, and no value of the piece is used there.
 */
struct host_piece {
  LLVMBasicBlockRef first, exit;
  LLVMValueRef scratch;
  size_t scratch_used, scratch_peak;
};
void host_piece_begin(struct host *h, struct host_piece *piece);
void host_piece_end(struct host *h, const struct host_piece *piece, const char *name);
/* What a scalar is where the loop whose region is `region` has that index. */
LLVMValueRef host_scalar_at(struct host *h, const struct tile_value *value,
                            const struct tile_region *region, LLVMValueRef index);

#endif
