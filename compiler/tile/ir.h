/* The tile program: a small SSA with regions over two-dimensional tiles. The same program serves
 * every target.
 *
 * Builders make it (compiler/build), passes may rewrite it, targets lower it. A target sees ops,
 * types, layouts and the schedule, never what kernel or variant the program computes.
 * docs/tile-program.md is the full description; ops.def the list of ops. Everything lives in one
 * arena.
 */
#ifndef ATTN_COMPILER_TILE_IR_H
#define ATTN_COMPILER_TILE_IR_H

#include "dsl/expr.h"
#include "dsl/spec.h"

enum tile_op_kind {
#define TILE_OP(name, text, level, operands, results, regions, flags) TILE_##name,
#include "compiler/tile/ops.def"
#undef TILE_OP
  TILE_OP_COUNT
};

enum { TILE_PURE = 1, TILE_READS = 2, TILE_WRITES = 4, TILE_TERMINATOR = 8 };
enum tile_level { TILE_LEVEL_PLAIN, TILE_LEVEL_STAGED };

struct tile_op_info {
  const char *text;
  enum tile_level level;
  int operands, results, regions; /* -1: any number */
  unsigned flags;
};
extern const struct tile_op_info tile_op_infos[TILE_OP_COUNT];

/* Element types of tiles and scalars. */
enum tile_element {
  TILE_F32,
  TILE_F16,
  TILE_BF16,
  TILE_I32,
  TILE_INDEX /* 64 bits, scalars only */,
  TILE_BOOL
};
const char *tile_element_name(enum tile_element element); /* f32 f16 bf16 i32 index bool */
enum expr_type
tile_element_expr_type(enum tile_element element); /* FLOAT for f32, f16, bf16; INT; LONG; BOOL */

/* Layouts, a closed set. Plain programs use NONE; layout assignment fills them in. */
enum tile_layout {
  TILE_LAYOUT_NONE,
  TILE_LAYOUT_ROW_MAJOR,   /* memory, unit stride along columns */
  TILE_LAYOUT_PANEL,       /* memory, groups of rows interleaved: lanes run along rows */
  TILE_LAYOUT_SWIZZLE,     /* shared memory, 128-byte swizzle */
  TILE_LAYOUT_ACCUMULATOR, /* registers of a matrix unit */
  TILE_LAYOUT_A_REGISTER,
  TILE_LAYOUT_LANE_ROWS, /* registers, one lane a row */
  TILE_LAYOUT_LANE_COLUMNS
};
const char *tile_layout_name(enum tile_layout layout);

enum tile_kind { TILE_KIND_TILE, TILE_KIND_SCALAR, TILE_KIND_BUFFER, TILE_KIND_TOKEN };

struct tile_type {
  enum tile_kind kind;
  enum tile_element element;
  uint32_t rows, columns; /* of a tile or of one slot of a buffer; 1, 1 for scalars */
  enum tile_layout layout;
  uint32_t depth; /* slots of a buffer */
};

struct tile_op;
struct tile_region;

struct tile_value {
  struct tile_type type;
  uint32_t id;                /* dense within the kernel */
  const char *name;           /* for printing, without '%'; unique within the kernel */
  struct tile_op *def;        /* NULL for region arguments */
  struct tile_region *region; /* of a region argument, else NULL */
  uint32_t index;             /* number of the result or region argument */
};

/* Which part of a tensor a load, store, accumulate or copy_async touches. The op's operands, after
 * the tile of a store, are one index (index or i32 scalar) per dimension of the tensor, then the
 * number of live rows, then of live columns (index scalars). Element (m, n) of the tile is the
 * tensor's element at indices + (m / row_group) along row_dim + (m % row_group) along group_dim + n
 * along column_dim. Rows from the live count on and columns likewise are not touched in memory; a
 * load gives zero there. Where a tile has one row (column), row_dim (column_dim) may be
 * TILE_NO_DIM.
 *
 * An index of a load or store may also be a tile of row indices, i32 [M, 1] where M is the tile's
 * rows: row m lies at the tile's element m in that dimension. Several dimensions may have one.
 * row_dim may then be TILE_NO_DIM; neither it nor column_dim is such a dimension, and there is no
 * group_dim. Elements for dead rows may hold anything and those for live rows are in range. Live
 * rows of a store lie in different places. */
enum { TILE_NO_DIM = 255 };
struct tile_access {
  uint32_t tensor; /* number in the kernel */
  uint8_t row_dim, group_dim, column_dim;
  uint32_t row_group; /* 1 when there is no group_dim */
};
/* Whether an index of the load, store, accumulate or copy_async is a tile of row indices. */
bool tile_has_row_indices(const struct tile_op *op);
/* The operand that is the access's first index. */
uint32_t tile_first_index(enum tile_op_kind kind);

enum tile_reduction {
  TILE_REDUCE_SUM,
  TILE_REDUCE_MAX,
  TILE_REDUCE_MIN,
  TILE_REDUCE_ANY,
  TILE_REDUCE_ALL
};
const char *tile_reduction_name(enum tile_reduction reduction); /* sum max min any all */

/* What the record of a failed check names; see struct attn_fault of the runtime. */
struct tile_fault_site {
  uint32_t tensor; /* index of the spec's input (EXPR_TENSOR numbering) */
  uint32_t dim;
  struct span span;
};

struct tile_op {
  enum tile_op_kind kind;
  struct tile_op *previous, *next;
  struct tile_region *parent;
  struct tile_value **operands;
  uint32_t operand_count;
  struct tile_value **results;
  uint32_t result_count;
  struct tile_region **regions;
  uint32_t region_count;
  struct span span; /* place in the spec; source UINT32_MAX when none */

  /* Attributes; which ones an op has is said in ops.def. */
  const struct expr *expr;       /* scalar, map, contract; may of for_segments; ok of check; first
                                    column of limit_columns */
  const struct expr *expr2;      /* must of for_segments; index of check; end of limit_columns */
  struct tile_access access;     /* load, store, accumulate, copy_async */
  enum tile_reduction reduction; /* reduce, scan */
  uint32_t axis; /* reduce, scan: 0 along rows (result [1, N]), 1 along columns (result [M, 1]) */
  bool transpose_a, transpose_b; /* product: a is given as [K, M], b as [N, K] */
  bool codes;                    /* product: b has whole numbers of -128 .. 127 only, and 16 bits of
                                    a row's range do for a */
  uint32_t step;                 /* for, for_segments: tile size along the loop */
  uint32_t segment_count;        /* for_segments */
  uint32_t extra_count;          /* for_segments: operands of the tests */
  uint32_t rows;                 /* limit_rows */
  bool masked;                   /* limit_columns: the last operand is a mask */
  const uint32_t *permutation;   /* permute */
  uint32_t site;                 /* check: index into the kernel's fault sites */
  uint32_t warps, registers;     /* role */
};

struct tile_region {
  struct tile_value **arguments;
  uint32_t argument_count;
  struct tile_op *first, *last;
  struct tile_op *parent; /* NULL for a kernel's body */
};

/* What the host binds to a tensor or parameter of a kernel when it launches. Targets do not look at
 * it. */
enum tile_role {
  TILE_ROLE_PLAIN, /* hand-written programs: bound by name */
  TILE_ROLE_QUERY,
  TILE_ROLE_KEY,
  TILE_ROLE_VALUE,
  TILE_ROLE_RESULT,
  TILE_ROLE_INPUT,   /* role_index: input of the spec */
  TILE_ROLE_OUTPUT,  /* role_index: output of the spec */
  TILE_ROLE_SUMMARY, /* role_index: which summary of the program */
  TILE_ROLE_ROTARY_TURNS,
  TILE_ROLE_ROTARY_REST,
  TILE_ROLE_ROTARY_COSINE,
  TILE_ROLE_ROTARY_SINE, /* launch tables */
  TILE_ROLE_QUERY_STARTS,
  TILE_ROLE_KEY_STARTS, /* i64 [B + 1]: ragged batches */
  TILE_ROLE_WORKSPACE,  /* role_index: number of the workspace tensor; size from `shape` */
  TILE_ROLE_CACHE,      /* role_index: tensor of the cache plan */
  TILE_ROLE_PARAM,      /* role_index: parameter of the spec */
  TILE_ROLE_SIZE_B,
  TILE_ROLE_SIZE_NQ,
  TILE_ROLE_SIZE_NK,
  TILE_ROLE_SIZE_TABLE, /* pages that a sequence of the cache may have */
  TILE_ROLE_SIZE_PAGES, /* pages of all sequences */
  TILE_ROLE_SIZE_SLOTS, /* tokens that a sequence of a dense cache may have */
  TILE_ROLE_SIZE_PREFIX /* tokens that all sequences share by page */
};

/* How many elements share a byte of memory: 2 for I4, 4 for I2, the first in the lowest bits, else
 * 1. Strides, sizes and indices count elements. Such tensors are only read. Along the last
 * dimension alone do neighbours share a byte: the other strides are multiples of a byte, and a load
 * along the last dimension begins at one. */
uint32_t tile_elements_per_byte(enum dtype type);

struct tile_tensor {
  const char *name;
  enum dtype element;
  uint32_t rank;
  bool written;
  enum tile_role role;
  uint32_t role_index;
  const struct expr *shape[SPEC_MAX_RANK]; /* of workspaces: INT over SIZE_B, SIZE_NQ, SIZE_NK */
};

struct tile_param {
  const char *name;
  enum expr_type type; /* BOOL, INT or FLOAT */
  enum tile_role role;
  uint32_t role_index;
};

/* Expressions inside a kernel have these leaves only: CONST, ARG (operand of the op), PARAM
 * (parameter of the kernel), READ (tensor of the kernel by number; every index must be in range
 * wherever the op is evaluated, the builder clamps what is not proved), BOUND, and in the tests of
 * for_segments VAR TILE_J0 and TILE_J1, in limit_columns TILE_I0 and TILE_I1. */
struct tile_kernel {
  const char *name;
  struct tile_program *program;
  VECTOR(struct tile_tensor) tensors;
  VECTOR(struct tile_param) params;
  VECTOR(struct tile_fault_site) sites;
  struct tile_region *body;
  uint32_t value_count;
  struct interner names; /* of its values; kept by the builder */
};

/* Kernels run in order; each sees everything that the ones before it wrote. */
struct tile_program {
  struct arena *arena;
  struct expr_pool *pool;
  VECTOR(struct tile_kernel *) kernels;
};

/* ---- building (build.c). Everything below unwinds to the arena's guard when memory runs out. ----
 */
struct tile_builder {
  struct tile_program *program;
  struct tile_kernel *kernel;
  struct tile_region *region; /* ops are appended here */
  struct span span;           /* given to ops as they are made */
};

struct tile_program *tile_program_new(struct arena *arena, struct expr_pool *pool);
struct tile_kernel *tile_kernel_new(struct tile_program *program, const char *name);
uint32_t tile_add_tensor(struct tile_kernel *kernel, struct tile_tensor tensor);
uint32_t tile_add_param(struct tile_kernel *kernel, struct tile_param param);

struct tile_type tile_type_tile(enum tile_element element, uint32_t rows, uint32_t columns);
struct tile_type tile_type_scalar(enum tile_element element);

struct tile_op *tile_op_new(struct tile_builder *b, enum tile_op_kind kind,
                            struct tile_value *const *operands, size_t operand_count,
                            const struct tile_type *results, size_t result_count);
struct tile_region *tile_region_new(struct tile_builder *b, struct tile_op *parent,
                                    const struct tile_type *arguments, size_t argument_count);
void tile_set_name(struct tile_builder *b, struct tile_value *value,
                   const char *name); /* made unique */

struct tile_value *tile_scalar(struct tile_builder *b, enum tile_element element,
                               const struct expr *e, struct tile_value *const *operands,
                               size_t count);
struct tile_value *tile_index(struct tile_builder *b, int64_t value);
struct tile_value *tile_splat(struct tile_builder *b, enum tile_element element, uint32_t rows,
                              uint32_t columns, double value);
struct tile_value *tile_iota(struct tile_builder *b, struct tile_value *base, uint32_t rows,
                             uint32_t columns);
struct tile_value *tile_load(struct tile_builder *b, struct tile_type type,
                             struct tile_access access, struct tile_value *const *indices,
                             size_t rank, struct tile_value *live_rows,
                             struct tile_value *live_columns);
void tile_store(struct tile_builder *b, struct tile_value *tile, struct tile_access access,
                struct tile_value *const *indices, size_t rank, struct tile_value *live_rows,
                struct tile_value *live_columns);
struct tile_value *tile_product(struct tile_builder *b, struct tile_value *a, bool transpose_a,
                                struct tile_value *bb, bool transpose_b,
                                struct tile_value *accumulator /* or NULL */);
/* The result has the operands' common shape (axes of size 1 broadcast). */
struct tile_value *tile_map(struct tile_builder *b, enum tile_element element, const struct expr *e,
                            struct tile_value *const *operands, size_t count);
struct tile_value *tile_reduce(struct tile_builder *b, enum tile_reduction reduction, uint32_t axis,
                               struct tile_value *x);
struct tile_value *tile_scale_rows(struct tile_builder *b, struct tile_value *accumulator,
                                   struct tile_value *factor);
struct tile_value *tile_permute(struct tile_builder *b, struct tile_value *x, const uint32_t *table,
                                uint32_t columns /* of the table and the result */);
struct tile_value *tile_transpose(struct tile_builder *b, struct tile_value *x);
void tile_check(struct tile_builder *b, const struct expr *ok, const struct expr *index,
                uint32_t site, struct tile_value *const *operands, size_t count);
void tile_limit_rows(struct tile_builder *b, uint32_t rows, struct tile_value *live);
/* The expressions are LONG, over `operands` and TILE_I0, TILE_I1; columns [first, end) count from
 * the tile's first. `mask`: or NULL. */
void tile_limit_columns(struct tile_builder *b, struct tile_value *tile, const struct expr *first,
                        const struct expr *end, struct tile_value *const *operands, size_t count,
                        struct tile_value *mask);
/* Operands of the expressions of a limit_columns: from number 1 on. */
uint32_t tile_limit_operands(const struct tile_op *op);
/* Opens the region: later ops go into it until tile_end_region. */
struct tile_op *tile_parallel(struct tile_builder *b, struct tile_value *const *extents,
                              size_t count);
struct tile_op *tile_for(struct tile_builder *b, struct tile_value *lo, struct tile_value *hi,
                         uint32_t step, struct tile_value *const *carried, size_t count);
struct tile_op *tile_for_segments(struct tile_builder *b, uint32_t step,
                                  struct tile_value *const *segments, size_t segment_count,
                                  struct tile_value *const *extra, size_t extra_count,
                                  const struct expr *may, const struct expr *must,
                                  struct tile_value *const *carried,
                                  size_t carried_count); /* opens region 0 */
struct tile_op *tile_if(struct tile_builder *b, struct tile_value *condition,
                        const struct tile_type *results, size_t result_count); /* opens region 0 */
void tile_open_region(struct tile_builder *b, struct tile_op *op,
                      uint32_t region); /* the other one */
void tile_yield(struct tile_builder *b, struct tile_value *const *values, size_t count);
void tile_end_region(struct tile_builder *b); /* back to the parent's region */

/* ---- text ---- */
/* Prints a program that tile_parse reads back to the same text. */
char *tile_print(struct arena *arena, const struct tile_program *program);
/* NULL after errors, which go to `diagnostics`. The grammar is in docs/tile-program.md; what is
 * read is not verified. */
struct tile_program *tile_parse(struct arena *arena, struct expr_pool *pool,
                                const struct source_set *sources, uint32_t source,
                                struct diagnostics *diagnostics);

/* ---- verifier ---- */
/* NULL when the program is well formed, else what is wrong, with the op's text, in `arena`. Checks
 * arity, types, shapes, dominance, region signatures, expression leaves and types, access ranks; at
 * the staged level that every token is awaited once and every acquired slot committed, waited for
 * and released. */
const char *tile_verify(struct arena *arena, const struct tile_program *program);

#endif
