/* Private to the NVIDIA target: the state of one kernel's lowering, and what its files offer one
 * another. docs/gpu.md describes where tiles live.
 *
 * Element (r, c) of a fragment is a thread's r-th row and c-th column: rows 8 apart, columns in
 * pairs 8 apart (coordinates.c). A tile of one row has r = 0 only, one of one column c = 0 only. */
#ifndef ATTN_COMPILER_TARGET_NVPTX_LOWER_H
#define ATTN_COMPILER_TARGET_NVPTX_LOWER_H

#include "compiler/emit/expr.h"
#include "compiler/emit/gpu.h"
#include "compiler/schedule/residence.h"

/* A tile in shared memory, row by row. Rows (but of a single one) and columns up to a multiple of
 * 16 exist and are zero beyond the tile's own. */
struct gpu_place {
  LLVMValueRef offset;       /* i32, bytes; a multiple of 16 */
  uint32_t pitch;            /* bytes from row to row, a multiple of 16, or 4 of a single column */
  uint32_t rows, columns;    /* with those beyond the tile's own */
  enum tile_element element; /* F32, F16, BF16 or I32; BOOL as I32 */
  enum dtype codes;          /* codes of that type lie there, to be made elements; ANY: elements */
};

enum gpu_kind {
  GPU_UNSET,
  GPU_SCALAR,
  GPU_FRAGMENT,
  GPU_SHARED,
  GPU_LAZY,  /* in memory: loaded where it is used, or where it is put (residence.h) */
  GPU_STREAM /* in shared memory once its copy has arrived (stream.c) */
};

struct gpu_value {
  enum gpu_kind kind;
  LLVMValueRef scalar;
  /* FRAGMENT: by r * columns + c. f32, i32 or i1; 16-bit reals with several columns as pairs in an
   * i32, by (r * columns + c) / 2, else as f32. */
  LLVMValueRef *elements;
  const struct gpu_access *access; /* LAZY */
  bool in_shared;                  /* `place` holds the tile, besides the elements or alone */
  struct gpu_place place;
  /* NULL, or the tile as ldmatrix reads it as a first operand: four i32 for each 16 x 16, by row
   * block and inner index (residence_kept). */
  LLVMValueRef *kept;
  LLVMValueRef *words; /* before the reduction that makes it: see gpu_reduce_beside */
};

struct gpu_shape {
  uint32_t rows, columns; /* of one thread; 1 along an axis of one element */
};

struct gpu_loop;
struct gpu_access;

struct gpu {
  struct emit *e;
  struct arena *arena;
  const struct tile_program *program;
  const struct tile_kernel *kernel;
  struct schedule schedule;
  struct emit_slots slots;
  struct emit_expression expression;
  const struct residence *where;
  struct gpu_value *values; /* by value id */
  uint32_t row_warps, column_warps;
  LLVMValueRef thread, lane, warp_row, warp_column; /* i32 */
  LLVMValueRef lane_row, lane_column;               /* i32: lane / 4, lane % 4 * 2 */
  uint32_t shared_used, shared_peak;
  bool reading;          /* some thread may still read shared memory that is to be used again */
  struct gpu_loop *loop; /* the innermost whose operands are streamed */
  /* The element at hand, for operands of expressions. */
  const struct tile_op *op;
  uint32_t r, c;
};

enum { GPU_SHARED_LIMIT = 166912 /* bytes: 163 KiB, of compute capability 8.0 */ };

/* Lowers one kernel into an entry of the open module (`e`), and fills in what a launcher must know.
 * NULL, or why the kernel cannot be lowered, in `arena`. */
const char *nvptx_lower_kernel(struct emit *e, struct arena *arena, const struct compiled *compiled,
                               struct compiled_kernel *kernel);

static inline uint32_t gpu_threads(const struct gpu *g)
{
  return g->row_warps * g->column_warps * EMIT_WARP;
}

/* ---- coordinates.c ---- */
struct gpu_shape gpu_shape(const struct gpu *g, struct tile_type type);
uint32_t gpu_row_blocks(const struct gpu *g, uint32_t rows);       /* of 16 rows, of one warp */
uint32_t gpu_column_blocks(const struct gpu *g, uint32_t columns); /* of 8 columns */
/* Coordinates in a tile, i32. */
LLVMValueRef gpu_row(struct gpu *g, struct tile_type type, uint32_t r);
LLVMValueRef gpu_column(struct gpu *g, struct tile_type type, uint32_t c);
/* From element 0 of the thread to element r or c. */
uint32_t gpu_row_step(uint32_t r);
uint32_t gpu_column_step(uint32_t c);
/* Whether the element is the tile's own (i1), or NULL where it is in every thread. */
LLVMValueRef gpu_row_exists(struct gpu *g, struct tile_type type, uint32_t r);
LLVMValueRef gpu_column_exists(struct gpu *g, struct tile_type type, uint32_t c);
LLVMValueRef gpu_exists(struct gpu *g, struct tile_type type, uint32_t r, uint32_t c);
/* Whether this is the one of the threads with the same elements that writes them, or NULL where no
 * two have the same. */
LLVMValueRef gpu_is_first_copy(struct gpu *g, struct tile_type type);
LLVMValueRef gpu_both(struct gpu *g, LLVMValueRef a, LLVMValueRef b); /* and, where NULL is true */

/* ---- fragment.c ---- */
static inline struct gpu_value *gpu_value(struct gpu *g, const struct tile_value *value)
{
  return &g->values[value->id];
}
static inline bool gpu_is_half(enum tile_element element)
{
  return element == TILE_F16 || element == TILE_BF16;
}
static inline enum dtype gpu_half_type(enum tile_element element)
{
  return element == TILE_F16 ? DTYPE_F16 : DTYPE_BF16;
}
/* Elements lie in pairs. */
static inline bool gpu_is_packed(struct tile_type type)
{
  return gpu_is_half(type.element) && type.columns > 1;
}
uint32_t gpu_register_count(const struct gpu *g, struct tile_type type); /* of gpu_value.elements */
LLVMTypeRef gpu_register_type(const struct gpu *g, struct tile_type type);
LLVMValueRef gpu_zero(struct gpu *g, struct tile_type type); /* of gpu_register_type */
/* Makes `value` a fragment with unset elements, and returns them. */
LLVMValueRef *gpu_new_fragment(struct gpu *g, const struct tile_value *value);
/* Element (r, c) for expressions: f32, i32, i1; of scalars i64 too. */
LLVMValueRef gpu_element(struct gpu *g, const struct tile_value *value, uint32_t r, uint32_t c);
/* Elements as gpu_value.elements has them, wherever the tile lives. */
const LLVMValueRef *gpu_registers(struct gpu *g, const struct tile_value *value);
/* Sets a fragment from elements of expressions, given by number r * columns + c. */
void gpu_set_elements(struct gpu *g, const struct tile_value *value, const LLVMValueRef *elements);
/* The f32 that is left of one in a 16-bit type. */
LLVMValueRef gpu_round(struct gpu *g, enum tile_element element, LLVMValueRef value);

/* ---- shared.c ---- */
uint32_t gpu_allocate(struct gpu *g, uint32_t bytes); /* an offset */
/* Gives back what was allocated since shared_used was `used`. */
void gpu_release(struct gpu *g, uint32_t used);
void gpu_barrier(struct gpu *g);
/* Before the first write to what was allocated: a barrier, if one is needed. */
void gpu_before_write(struct gpu *g);
struct gpu_place gpu_new_place(struct gpu *g, struct tile_type type, enum residence_reader reader);
/* For the result of that load: its codes, where products or maps for them alone read it. */
struct gpu_place gpu_new_load_place(struct gpu *g, const struct tile_op *load);
/* Makes elements in `place` of the codes in another. No barriers. */
void gpu_expand(struct gpu *g, const struct gpu_place *codes, const struct gpu_place *place);
uint32_t gpu_place_bytes(const struct gpu_place *place);
LLVMValueRef gpu_address(struct gpu *g, const struct gpu_place *place, LLVMValueRef row,
                         LLVMValueRef column); /* pointer to an element; i32 indices */
LLVMValueRef gpu_distance(struct gpu *g, const struct gpu_place *place, LLVMValueRef row,
                          LLVMValueRef column); /* i32: bytes from the place to it */
/* A pointer that many bytes further on: one register serves many addresses. */
LLVMValueRef gpu_further(struct gpu *g, LLVMValueRef pointer, int64_t bytes);
LLVMValueRef gpu_load_from(struct gpu *g, const struct gpu_place *place, LLVMValueRef pointer);
LLVMValueRef gpu_shared_load(struct gpu *g, const struct gpu_place *place, LLVMValueRef row,
                             LLVMValueRef column); /* as an expression's value; BOOL gives i32 */
void gpu_shared_store(struct gpu *g, const struct gpu_place *place, LLVMValueRef row,
                      LLVMValueRef column, LLVMValueRef element);
/* The tile in shared memory: where it is, or a copy made here, between barriers. */
struct gpu_place gpu_in_shared(struct gpu *g, const struct tile_value *value,
                               enum residence_reader reader);
/* The columns of the place that no thread's elements reach become zero. */
void gpu_clear_rest(struct gpu *g, struct tile_type type, const struct gpu_place *place);
/* Writes the fragment's own elements to the place; the others become zero. No barriers. */
void gpu_spill(struct gpu *g, const struct tile_value *value, const struct gpu_place *place);
/* The fragment's registers from the place. */
void gpu_fill(struct gpu *g, struct tile_type type, const struct gpu_place *place,
              LLVMValueRef *registers);
/* Whether the place has element (r, c) of the thread, or NULL where it has it in every thread. */
LLVMValueRef gpu_fits(struct gpu *g, struct tile_type type, const struct gpu_place *place,
                      uint32_t r, uint32_t c);
/* The same of one register, whose first element is (r, c); gpu_fill_one of codes sets the registers
 * of the next column, too. */
void gpu_spill_one(struct gpu *g, struct tile_type type, const struct gpu_place *place, uint32_t r,
                   uint32_t c, LLVMValueRef *elements);
/* Elements (r, c), with c even, and (r, c + 1). */
void gpu_spill_pair(struct gpu *g, struct tile_type type, const struct gpu_place *place, uint32_t r,
                    uint32_t c, LLVMValueRef elements[2]);
void gpu_fill_one(struct gpu *g, struct tile_type type, const struct gpu_place *place, uint32_t r,
                  uint32_t c, LLVMValueRef *registers);
/* A first operand of products in loops further in is put where they find it. */
void gpu_settle(struct gpu *g, const struct tile_value *value);

/* ---- access.c: where the elements of an access lie ---- */
LLVMValueRef gpu_index(struct gpu *g, const struct tile_value *value); /* i64 */
/* Where an element lies: of types below a byte, `shift` bits (i32) up in the byte there. */
struct gpu_spot {
  LLVMValueRef pointer;
  LLVMValueRef shift; /* NULL for 0 */
};
/* The indices and live counts of an access. */
struct gpu_access {
  const struct tile_access *access;
  LLVMValueRef origin; /* i64: elements from the tensor's base to element (0, 0), of
                          row 0 where `scattered` */
  LLVMValueRef live_rows, live_columns; /* i32, not negative */
  LLVMValueRef first_column;            /* i64: index along the dimension of columns, or NULL */
  bool scattered;                       /* some dimension has a tile of row indices */
  const struct tile_value *rows[SPEC_MAX_RANK]; /* these tiles by dimension, else NULL */
  struct gpu_place row_places[SPEC_MAX_RANK];   /* of tiles that are no formula, for copies */
  struct gpu_spot *begins;                      /* of GPU_LAZY and scattered: by row of the
                                                   thread */
};
/* Of a load or store. */
struct gpu_access gpu_access(struct gpu *g, const struct tile_op *op);
/* Without its live counts, which may not be known yet. */
struct gpu_access gpu_access_indices(struct gpu *g, const struct tile_op *op);
enum dtype gpu_dtype(const struct gpu *g, uint32_t tensor);
/* index (i32) < live, or NULL where all of `count` are. */
LLVMValueRef gpu_lives(struct gpu *g, LLVMValueRef index, LLVMValueRef live, uint32_t count);
/* Elements (i64) from the tensor's base to column 0 of a row (i32) below `reach`, for copies by all
 * threads; and from there to a column. */
LLVMValueRef gpu_row_offset(struct gpu *g, const struct gpu_access *a, struct tile_type type,
                            LLVMValueRef row, uint32_t reach);
LLVMValueRef gpu_column_offset(struct gpu *g, const struct gpu_access *a, LLVMValueRef column);
LLVMValueRef gpu_row_stride(struct gpu *g, const struct gpu_access *a); /* i64: along row_dim */
/* What so many elements (i64) take; of types below a byte they are whole bytes. */
LLVMValueRef gpu_bytes(struct gpu *g, enum dtype type, LLVMValueRef count);
/* Whether everything that the access reaches begins at a multiple of `bytes`, given that it counts
 * columns in such steps: the same in every thread. */
LLVMValueRef gpu_is_aligned(struct gpu *g, const struct gpu_access *a, uint32_t bytes);
struct gpu_spot gpu_spot_at(struct gpu *g, uint32_t tensor, LLVMValueRef offset /* i64 */);
/* Element (r, c) of the thread, given where its elements of row r begin. */
struct gpu_spot gpu_row_begin(struct gpu *g, const struct gpu_access *a, struct tile_type type,
                              uint32_t r);
struct gpu_spot gpu_spot(struct gpu *g, const struct gpu_access *a, struct tile_type type,
                         struct gpu_spot begin, uint32_t c);
/* The element of a tile of that type there, if it is live (i1; NULL: it is), else zero; nothing
 * else is touched. */
LLVMValueRef gpu_load_element(struct gpu *g, uint32_t tensor, enum tile_element element,
                              struct gpu_spot spot, LLVMValueRef live);

/* ---- memory.c ---- */
void gpu_load(struct gpu *g, const struct tile_op *op);
LLVMValueRef gpu_load_lazily(struct gpu *g, const struct tile_value *value, uint32_t r, uint32_t c);
/* Of a load for others to rearrange (residence_is_rearranged): elements from the tensor's base to
 * one of the tile's rows (i32), which gpu_load_rearranged takes with a column (i32). `exists`:
 * NULL, or where something is loaded at all. */
LLVMValueRef gpu_rearranged_row(struct gpu *g, const struct tile_value *value, LLVMValueRef row);
LLVMValueRef gpu_load_rearranged(struct gpu *g, const struct tile_value *value, LLVMValueRef row,
                                 LLVMValueRef row_offset, LLVMValueRef column, LLVMValueRef exists);
void gpu_store(struct gpu *g, const struct tile_op *op);
/* Before an access to a tensor that the kernel both reads and writes. */
void gpu_order(struct gpu *g, uint32_t tensor);
void gpu_order_reads(struct gpu *g, const struct expr *e);

/* ---- copy.c ---- */
/* What a copy may be told instead of finding it. */
struct gpu_copy_start {
  LLVMValueRef chunks; /* i1, the same in every thread: 16 bytes can be copied at a time; or NULL */
  LLVMValueRef from;   /* pointer to the thread's first 16 bytes, or NULL */
  LLVMValueRef step;   /* i64: bytes from there to its next row, or NULL */
};
/* Finds it. What cannot be known before the copy, as where rows are scattered, is NULL. */
struct gpu_copy_start gpu_copy_start(struct gpu *g, const struct gpu_access *access,
                                     struct tile_type type, const struct gpu_place *place);
/* Begins to copy the tile into the place, through registers where it cannot be asynchronous. */
void gpu_copy(struct gpu *g, const struct gpu_access *access, struct tile_type type,
              const struct gpu_place *place, struct gpu_copy_start start);

/* ---- codes.c: types of a byte and less ---- */
/* Two neighbours, pair `number` of those in a word (i32, the first in its lowest bits), as
 * registers of a tile with several columns: one for a 16-bit element, else two. Exact. */
void gpu_decode(struct gpu *g, enum dtype type, enum tile_element element, LLVMValueRef word,
                uint32_t number, LLVMValueRef out[2]);
/* One, as an expression's value. */
LLVMValueRef gpu_decode_one(struct gpu *g, enum dtype type, enum tile_element element,
                            LLVMValueRef code);

/* ---- product.c ---- */
void gpu_product(struct gpu *g, const struct tile_op *op);
/* Reads a tile in shared memory into registers, if products want it there. */
void gpu_keep(struct gpu *g, const struct tile_value *value);

/* ---- apart.c: sums of which threads or warps have their own parts (residence_is_apart) ---- */
/* Between the two, fragments are laid out as parts are: every column warp has all columns. `enter`
 * returns what `leave` takes. */
uint32_t gpu_enter_apart(struct gpu *g);
void gpu_leave_apart(struct gpu *g, uint32_t warps);
/* Parts that make the value, which is 0 or has one column; `count` registers. */
void gpu_start_apart(struct gpu *g, const struct tile_value *value, LLVMValueRef *parts,
                     uint32_t count);
/* Makes `result` of the parts. `loop_bytes`: of shared memory that the loop before it took. */
void gpu_add_apart(struct gpu *g, const struct tile_value *result, LLVMValueRef *parts,
                   uint32_t loop_bytes);

/* ---- elementwise.c ---- */
void gpu_map(struct gpu *g, const struct tile_op *op);
void gpu_check(struct gpu *g, const struct tile_op *op);
void gpu_convert(struct gpu *g, const struct tile_op *op);
void gpu_scale_rows(struct gpu *g, const struct tile_op *op);
void gpu_broadcast(struct gpu *g, const struct tile_op *op);
void gpu_permute(struct gpu *g, const struct tile_op *op);
void gpu_iota(struct gpu *g, const struct tile_op *op);

/* ---- outline.c ---- */
struct gpu_function {
  LLVMValueRef function;
  LLVMTypeRef type;
};
/* Whether a map of `count` elements a thread is better one function, which this makes. */
bool gpu_outline(struct gpu *g, const struct tile_op *op, uint32_t count,
                 struct gpu_function *function);
LLVMValueRef gpu_call(struct gpu *g, const struct gpu_function *function, const struct tile_op *op,
                      uint32_t r, uint32_t c);

/* ---- reduce.c ---- */
LLVMValueRef gpu_combine(struct gpu *g, enum tile_reduction reduction, LLVMValueRef a,
                         LLVMValueRef b);
LLVMValueRef gpu_neutral(struct gpu *g, enum tile_reduction reduction, enum tile_element element);
void gpu_reduce(struct gpu *g, const struct tile_op *op);
/* Does the thread's part of `op`, if that is `any` or `all` of the columns of `mask`, for column c:
 * called for each of them, upwards, before `op` is lowered. */
void gpu_reduce_beside(struct gpu *g, const struct tile_op *op, const struct tile_value *mask,
                       uint32_t c);
/* Combines what the threads of a row have for the thread's rows of a tile of that type. */
void gpu_across_columns(struct gpu *g, enum tile_reduction reduction, struct tile_type type,
                        LLVMValueRef *results);

/* ---- whole.c: ops that need the tile as a whole, through shared memory ---- */
void gpu_transpose(struct gpu *g, const struct tile_op *op);
void gpu_scan(struct gpu *g, const struct tile_op *op);
void gpu_contract(struct gpu *g, const struct tile_op *op);
void gpu_triangular_solve(struct gpu *g, const struct tile_op *op);
void gpu_permute_columns(struct gpu *g, const struct tile_op *op);

/* ---- lower.c ---- */
void gpu_lower_region(struct gpu *g, const struct tile_region *region);
void gpu_lower_scalar(struct gpu *g, const struct tile_op *op);
/* The scalar op's result, computed here. */
LLVMValueRef gpu_scalar(struct gpu *g, const struct tile_op *op);
/* A scalar that nothing but tests of for_segments read, computed by each test: there may be a dozen
 * of them, whose registers a loop would hold while its tiles need them. It has no value. */
bool gpu_is_for_walks(const struct gpu *g, const struct tile_value *value);

/* ---- loop.c ---- */
void gpu_for(struct gpu *g, const struct tile_op *op);
void gpu_for_segments(struct gpu *g, const struct tile_op *op);
void gpu_if(struct gpu *g, const struct tile_op *op);
/* Within a walk: ptxas does not compute before this what comes after it. */
void gpu_end_block(struct gpu *g);
/* An i32 that `make` computes from the thread's number alone. Where FULL tiles have a loop of their
 * own, that is done once before it, and `key`, which tells such values apart, finds it again. */
struct gpu_key {
  uint32_t what, count, pitch;
};
LLVMValueRef gpu_once(struct gpu *g, struct gpu_key key,
                      LLVMValueRef (*make)(struct gpu *g, void *user), void *user);

/* ---- stream.c: operands that are copied ahead ---- */
/* If `op` is a load that the loop around streams: binds it, and true. */
bool gpu_stream_bind(struct gpu *g, const struct tile_op *op);
/* The place of a streamed tile, which is there from now on. */
void gpu_stream_arrive(struct gpu *g, const struct tile_value *value);

#endif
