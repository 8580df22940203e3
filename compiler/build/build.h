/* Private to compiler/build: the state while one kernel is made from a spec, and its parts.
 *
 * A formula is lowered within a frame, which says what the rows and columns of tiles stand for.
 * Each node belongs to a class, the axes that it varies along; what varies along fewer axes than
 * the formula becomes a value of its own (a scalar, a column or a row of the frame) and is made
 * once. Values are kept by node, so that equal nodes share one. Tiles with rows of queries hold the
 * heads of a group beside each other: row m of a tile is head h0 + m % share of row r0 + m / share.
 */
#ifndef ATTN_COMPILER_BUILD_BUILD_H
#define ATTN_COMPILER_BUILD_BUILD_H

#include "compiler/analysis/bounds.h"
#include "compiler/analysis/visibility.h"
#include "compiler/cache/plan.h"
#include "compiler/pipeline.h"

/* While a kernel is built, EXPR_VAR_T is the row's number before rows beyond the last were moved
 * back to it. MAP(SPEC_MAX_MAPS) is not 0 for pairs of blocks that `select` chose, in the frame of
 * keys for keys that some row of the tile sees, and in that of rows for blocks with a visible key.
 */
enum build_class {
  CLASS_QUERY = 1,
  CLASS_KEY = 2,
  CLASS_CHANNEL = 4,
  CLASS_TEST = 8 /* TILE_J0 and TILE_J1, in the tests of a walk */
};

/* Axes of rows and columns, as classes; 0 for an axis of one element. */
struct frame {
  unsigned rows, columns;
  uint32_t channels; /* elements along CLASS_CHANNEL */
};

struct build_value {
  const struct expr *e;
  struct frame frame; /* without the axes that the value does not vary along */
  bool stored;        /* made by build_operand, in 16 bits */
  struct tile_value *value;
};

enum {
  BUILD_MAX_TENSORS = EXPR_TENSOR_CACHE + CACHE_MAX_TENSORS,
  BUILD_MAX_SIZES = 7,
  BUILD_MAX_WORKSPACES = 16,
  NOT_DECLARED = -1
};

struct build {
  struct arena *arena;
  const struct spec *spec;
  const struct compile_options *options;
  struct diagnostics *diagnostics;
  struct expr_pool *pool;
  const struct visibility *visibility;
  struct bounds *bounds;
  struct tile_builder tile;

  uint64_t used_summaries; /* by any kernel */
  bool keeps_storage;      /* the target multiplies 16-bit reals: products take them as stored */
  bool packed[2];          /* tokens of all sequences lie one after the other: queries, keys */
  bool reads_cache; /* keys are a cache's: READs of k, v and cached inputs mean its tensors */
  const struct cache_plan *cache; /* NULL: the program has to do with none */
  uint32_t added_inputs;          /* the spec's from here on were added by cache_apply */
  bool rotated_keys;   /* K needs no rotation: the workspace that rotate_keys filled, or a cache */
  bool one_channel;    /* EXPR_VAR_C is a scalar: CLASS_CHANNEL is no axis */
  uint32_t group;      /* query heads of a K/V head */
  uint32_t most_share; /* how many of them see the same keys: `group` or 1 */
  uint32_t share;      /* query heads packed into one tile; divides `most_share` */
  uint32_t tile_rows;  /* rows of the query tensor in a tile */
  uint32_t rows, columns;
  uint32_t key_rows; /* keys of a tile where they are its rows: rotate_keys */

  /* Numbers in the kernel at hand, or NOT_DECLARED. */
  int32_t tensors[BUILD_MAX_TENSORS];
  int32_t summaries[SPEC_MAX_INPUTS];
  int32_t params[SPEC_MAX_PARAMS];
  int32_t sizes[BUILD_MAX_SIZES]; /* by enum build_size */
  int32_t starts[2];              /* of queries, of keys */
  int32_t rotary_tables[4];
  int32_t workspaces[BUILD_MAX_WORKSPACES];
  int32_t outputs[SPEC_MAX_OUTPUTS];

  enum tile_element *row_elements; /* of the statistics that the forward kernel stored */

  struct tile_value *row_base, *head_base, *key_base; /* index: r0, h0, j0 of the tile */
  struct tile_value *live_rows, *live_keys;           /* index: of the tile */
  struct tile_value **cut_segments; /* ends of the segments of a part of the keys; NULL for all */
  bool before_recent;               /* keys at hand lie before every residual: access.h */
  bool cascades;        /* a shared prefix is walked by a kernel of its own: cascade.h */
  uint32_t prefix_rows; /* rows of q, of all sequences, in one of its tiles */
  const struct expr *flat_sequence; /* INT over EXPR_VAR_T: in that kernel, a row's sequence; else
                                       NULL */
  const struct expr *flat_row;      /* and its EXPR_VAR_R */
  /* Of queries and of keys, index, where packed: the sequence's first token, and how many all have.
   */
  struct tile_value *start[2], *total[2];
  VECTOR(struct build_value) values;
};

/* ---- diagnostics ---- */
void build_unsupported(struct build *b, struct span span, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* ---- kernels (kernel.c) ---- */
/* Starts a kernel: nothing is declared in it. */
void build_open_kernel(struct build *b, const char *name);
uint32_t build_tensor(struct build *b, uint32_t tensor);          /* enum expr_tensor or an input */
enum dtype build_element(const struct build *b, uint32_t tensor); /* its type in memory */
uint32_t build_summary(struct build *b, uint32_t tensor);
uint32_t build_starts(struct build *b, bool keys);
uint32_t build_rotary_table(struct build *b, enum tile_role role);
uint32_t build_output(struct build *b, uint32_t output);

/* Tensors that one kernel fills for later ones, by number in the program. Each holds something of
 * every token and head: [B, heads, tokens] and perhaps columns; of a ragged batch [B * tokens,
 * heads], which packed sequences do not fill. */
enum { WORKSPACE_ROTATED_KEYS, WORKSPACE_RANKS, WORKSPACE_KINDS, WORKSPACE_CHOSEN, WORKSPACE_ROWS };
struct workspace {
  uint32_t number; /* enum above, WORKSPACE_ROWS and on for statistics of rows */
  const char *name;
  enum dtype element;
  bool keys;                  /* tokens are keys, heads those of K and V */
  const struct expr *columns; /* INT over sizes; NULL where there are none */
};
uint32_t build_workspace(struct build *b, const struct workspace *workspace, bool written);
/* K of every sequence with its rotation: what rotate_keys writes and the other kernels read. */
uint32_t build_rotated_keys(struct build *b);
/* Sizes that a launch gives. In formulas that are not lowered yet PARAM SPEC_MAX_PARAMS and on
 * stand for them. TABLE is the pages that a sequence may have, SLOTS the tokens, of a dense cache.
 * PREFIX is the tokens that sequences share. */
enum build_size {
  BUILD_B,
  BUILD_NQ,
  BUILD_NK,
  BUILD_TABLE,
  BUILD_PAGES,
  BUILD_SLOTS,
  BUILD_PREFIX
};
const struct expr *build_param(struct build *b, uint32_t param);
const struct expr *build_launch_size(const struct build *b, enum build_size size);
/* SIZE_B, SIZE_NQ or SIZE_NK as the launch gives it: of the longest sequence where they differ. */
const struct expr *build_size(struct build *b, enum expr_var size);
/* Whether NQ (NK, of keys) is each sequence's own: a value of the task. */
bool build_has_own_length(const struct build *b, bool keys);
enum dtype build_dtype(const struct build *b, enum dtype type); /* a concrete one */

/* How the dimensions that a spec gives a tensor lie in memory. A packed tensor, of a ragged batch,
 * has no dimension B, and the tokens of all sequences are its first dimension. */
struct storage {
  uint32_t rank; /* as the spec sees it */
  struct spec_dim dims[SPEC_MAX_RANK];
  bool packed;
  uint32_t batch, tokens; /* those dimensions; `rank` where there is none */
  bool cached;            /* what is read is in the cache: access.h */
};
void build_storage(struct build *b, uint32_t tensor, struct storage *storage);
/* In memory: the rank, and where a dimension other than a packed tensor's `batch` lies. */
uint32_t storage_rank(const struct storage *storage);
uint32_t storage_dim(const struct storage *storage, uint32_t dim);

/* ---- a task (task.c) ---- */
const struct expr *build_long(struct build *b, const struct expr *e);
const struct expr *build_var(struct build *b, enum expr_var var);
/* An index scalar from a LONG over the spec's variables and ARGs of `operands`. */
struct tile_value *build_index(struct build *b, const char *name, const struct expr *e,
                               struct tile_value *const *operands, size_t count);
/* BOOL: the row exists; it exists and its position does, so that it may see a key. */
const struct expr *build_row_lives(struct build *b);
const struct expr *build_row_sees(struct build *b);
/* BOOL: the mask and the sequence's own bounds. */
const struct expr *build_visible(struct build *b);
const struct expr *build_mask_reached(struct build *b); /* where the mask's reads are reached */
/* Opens `parallel` over sequences, tiles of heads and tiles of rows (and `parts`, index, of each
 * where it is not NULL). */
struct tile_value **build_open_rows(struct build *b);
struct tile_value **build_open_row_parts(struct build *b, struct tile_value *parts);
/* How many tiles of rows a launch has for each sequence and head: LONG, over the sizes. */
const struct expr *build_row_tiles(struct build *b);
void build_enter_rows(struct build *b, struct tile_value *const *indices);
/* Says that rows beyond b->live_rows are of no interest; not where tiles of keys have as many rows,
 * which the hint would be about, too. */
void build_limit_rows(struct build *b);

/* Makes the scalars of a task, given its sequence and K/V head (index): b, g, NQ, NK, offset. */
void build_enter_task(struct build *b, struct tile_value *sequence, struct tile_value *kv_head);

/* ---- values (values.c) ---- */
void build_set_value(struct build *b, const struct expr *e, struct frame frame,
                     struct tile_value *value);
void build_set_var(struct build *b, enum expr_var var, struct frame frame,
                   struct tile_value *value);
struct tile_value *build_find_value(struct build *b, const struct expr *e, struct frame frame);
unsigned build_class(const struct build *b, const struct expr *e, struct frame frame);
/* Elements along an axis of the frame; 1 for axis 0. */
uint32_t build_axis_size(const struct build *b, struct frame frame, unsigned axis);
/* The value of `e` in the frame: a scalar where it varies along neither axis. */
struct tile_value *build_value(struct build *b, struct frame frame, const struct expr *e);
/* The same with all rows and columns of the frame. */
struct tile_value *build_tile(struct build *b, struct frame frame, const struct expr *e);
/* An i32 scalar: INT `e` for the first key of the tile at hand. */
struct tile_value *build_at_tile(struct build *b, const struct expr *e);
/* build_tile of an operand of a product: in the type that operand_element says. */
struct tile_value *build_operand(struct build *b, struct frame frame, const struct expr *e);
/* Makes now what does not vary along keys, so that it can be used inside a loop over keys that
 * starts later. */
void build_hoist(struct build *b, struct frame frame, const struct expr *e);

static inline struct frame frame_pair(void)
{
  return (struct frame){CLASS_QUERY, CLASS_KEY, 0};
}
static inline struct frame frame_scalar(void)
{
  return (struct frame){0, 0, 0};
}
static inline struct frame frame_channels(unsigned rows, uint32_t channels)
{
  return (struct frame){rows, CLASS_CHANNEL, channels};
}

/* ---- expressions (lower.c) ---- */
struct lowering {
  struct build *b;
  struct frame frame;
  VECTOR(struct tile_value *) operands;
};
/* `e` over the kernel's leaves, with ARGs for l->operands. */
const struct expr *lower_expr(struct lowering *l, const struct expr *e);
/* ARG (converted) for a value that holds `type`. */
const struct expr *lower_operand(struct lowering *l, struct tile_value *value, enum expr_type type);
/* Rebuilds top down: a node that `replace` gives stands for `e` and what lies below it. */
typedef const struct expr *build_replace(void *user, const struct expr *e);
const struct expr *build_transform(struct build *b, const struct expr *root, build_replace *replace,
                                   void *user);
const struct expr *build_substitute_bound(struct build *b, const struct expr *body, uint32_t level,
                                          const struct expr *by);
/* Whether e is f * x for an x that `is_leaf` knows and an f that holds none. 0 counts as such. */
bool build_is_linear(const struct build *b, const struct expr *e,
                     bool (*is_leaf)(const struct expr *));

/* ---- reads (operands.c, loads.c) ---- */
/* Whether a load (and a rotation) makes a tile of the frame from what is read. */
bool operand_is_loadable(struct build *b, struct frame frame, const struct expr *read);
/* That tile, or NULL. */
struct tile_value *operand_load(struct build *b, struct frame frame, const struct expr *read);
/* TILE_F16 or TILE_BF16 where `e` is a vector for each row of the frame as a tensor holds it, and
 * b->keeps_storage; a rotated one is rounded to that type. Otherwise TILE_F32. */
enum tile_element operand_element(struct build *b, struct frame frame, const struct expr *e);
/* operand_load in that type. */
struct tile_value *operand_load_stored(struct build *b, struct frame frame,
                                       const struct expr *read);
/* Whether a READ of q or k means its rotation, which a load has to make. */
bool operand_is_rotated(const struct build *b, int64_t tensor);
/* Whether `index` is EXPR_VAR_C + *from. */
bool operand_is_channel(const struct expr *index, int64_t *from);
/* A READ as an element access inside an expression; `indices` are lowered already. */
const struct expr *operand_read(struct lowering *l, const struct expr *read,
                                const struct expr *const *indices);
/* RANGE_MIN or RANGE_MAX by the input's summary. */
const struct expr *operand_range(struct lowering *l, const struct expr *range,
                                 const struct expr *const *indices);
/* A tile's place in a tensor of tokens and heads, as q, o, workspaces and outputs are: its rows are
 * tokens of the tile at hand. */
struct placement {
  bool keys;                                /* tokens are keys, not queries */
  bool kv_heads;                            /* heads are those of K and V */
  struct tile_value *column, *live_columns; /* index; NULL for a tensor without columns */
};
void operand_store(struct build *b, uint32_t number, struct placement place,
                   struct tile_value *tile);
struct tile_value *operand_load_tokens(struct build *b, uint32_t number, struct placement place,
                                       struct tile_type type);
/* A dimension's size as the launch gives it: INT, over the kernel's parameters. */
const struct expr *operand_launch_size(struct build *b, const struct expr *size);
/* What an index of the dimension stays below, INT, lowered: where tokens are packed the sequence's
 * own length, elsewhere the size as the launch gives it. */
const struct expr *operand_size(struct lowering *l, const struct storage *storage, uint32_t dim);

/* ---- products (products.c) ---- */
/* A SUM over a term that is made of one row part and one column part. */
struct product {
  const struct expr *row, *column; /* over EXPR_VAR_C */
  const struct expr *term;         /* NULL: row * column */
  uint32_t channels;
};
bool product_find(struct build *b, const struct expr *e, struct product *product);
/* The type of both operands: 16 bits where memory holds both so, else f32. */
enum tile_element product_element(struct build *b, const struct product *product);
/* Makes before a walk over keys what of a product does not vary along them. */
void product_hoist(struct build *b, const struct product *product);
struct tile_value *product_value(struct build *b, const struct product *product);
/* Whether products of what that READ of a cached K or V is stored as may be made of its codes: they
 * are whole numbers, and 16 bits of a row's range do for what is multiplied with them. */
bool product_takes_codes(struct build *b, const struct expr *read);
/* A READ of a cached K or V in so many channels from EXPR_VAR_C on as codes times a scale of the
 * key, FLOAT. False, and nothing set, where it is not that. */
bool product_take_scale(struct build *b, const struct expr *read, uint32_t channels,
                        const struct expr **codes, const struct expr **scale);

/* ---- checks (checks.c) ---- */
/* Checks every READ of `e` that is not proved, where `reached` (BOOL over the spec's variables)
 * holds. */
void checks_emit(struct build *b, struct frame frame, const struct expr *e, enum bounds_place place,
                 const struct expr *reached);
/* Whether there is one to check. */
bool checks_needed(struct build *b, const struct expr *e, enum bounds_place place);

/* ---- rotary.c ---- */
/* The rotation of a tile of q or k (the axis of its rows) that begins at channel `first`. */
struct tile_value *rotary_apply(struct build *b, unsigned axis, uint32_t first,
                                struct tile_value *x);
void rotary_build_keys(struct build *b); /* the kernel that fills the workspace of rotated keys */
bool rotary_is_supported(struct build *b);
/* Whether the channels before `at` and those from it on share a rotated pair. */
bool rotary_separates(const struct build *b, uint32_t at);

/* ---- kernels ---- */
/* forward.c, and what it stores for the others. For KERNEL_DECODE two kernels, which split the
 * keys (split.h), unless rows are looked at twice. */
void forward_build(struct build *b);
/* Whether the normalised weights themselves are wanted. Needs arena and spec alone. */
bool forward_looks_twice(struct build *b);

#endif
