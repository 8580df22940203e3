/* PTX as the interpreter holds it: a module decoded once into functions of dense instructions.
 *
 * The text is read by ptx_scan.c, ptx_parse*.c and ptx_statement.c; ptx_decode*.c turn statements
 * into instructions with an executor each; ptx_flow.c finds where divergent threads meet again.
 * ptx_machine.h runs what is here. All of a module lies in one arena, which ptx_module_free
 * releases.
 */
#ifndef ATTN_TESTS_DEVICE_PTX_H
#define ATTN_TESTS_DEVICE_PTX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tests/device/device.h"
#include "tests/device/ptx_number.h"

enum { PTX_LANES = 32 };

enum ptx_opcode {
#define PTX_OPCODE(name, text, decode, operands, classes) PTX_##name,
#include "tests/device/ptx_opcodes.def"
  PTX_OPCODE_COUNT
};

enum ptx_type {
  PTX_PRED,
  PTX_B8,
  PTX_U8,
  PTX_S8,
  PTX_B16,
  PTX_U16,
  PTX_S16,
  PTX_F16,
  PTX_BF16,
  PTX_B32,
  PTX_U32,
  PTX_S32,
  PTX_F32,
  PTX_TF32,
  PTX_F16X2,
  PTX_BF16X2,
  PTX_B64,
  PTX_U64,
  PTX_S64,
  PTX_F64
};

enum ptx_space { PTX_GENERIC, PTX_GLOBAL, PTX_SHARED, PTX_LOCAL, PTX_PARAM, PTX_CONST };

/* The unsigned comparisons of integers (lo, ls, hi, hs) are LT to GE of their type. */
enum ptx_compare {
  PTX_EQ,
  PTX_NE,
  PTX_LT,
  PTX_LE,
  PTX_GT,
  PTX_GE, /* false of NaN, NE too */
  PTX_EQU,
  PTX_NEU,
  PTX_LTU,
  PTX_LEU,
  PTX_GTU,
  PTX_GEU, /* true of NaN */
  PTX_NUM,
  PTX_UNORDERED
};

enum ptx_combine {
  PTX_COMBINE_AND,
  PTX_COMBINE_OR,
  PTX_COMBINE_XOR,
  PTX_COMBINE_ADD,
  PTX_COMBINE_MIN,
  PTX_COMBINE_MAX,
  PTX_COMBINE_INC,
  PTX_COMBINE_DEC,
  PTX_COMBINE_EXCHANGE,
  PTX_COMBINE_CAS,
  PTX_COMBINE_POPC
};

enum ptx_property {
  PTX_IS_FINITE,
  PTX_IS_INFINITE,
  PTX_IS_NUMBER,
  PTX_IS_NAN,
  PTX_IS_NORMAL,
  PTX_IS_SUBNORMAL
};

enum ptx_permute {
  PTX_PERMUTE_F4E,
  PTX_PERMUTE_B4E,
  PTX_PERMUTE_RC8,
  PTX_PERMUTE_ECL,
  PTX_PERMUTE_ECR,
  PTX_PERMUTE_RC16
};

enum ptx_cache { PTX_CACHE_NONE, PTX_CACHE_ALL, PTX_CACHE_L2 };
enum ptx_shuffle { PTX_SHUFFLE_UP, PTX_SHUFFLE_DOWN, PTX_SHUFFLE_BUTTERFLY, PTX_SHUFFLE_INDEX };
enum ptx_vote { PTX_VOTE_ALL, PTX_VOTE_ANY, PTX_VOTE_UNIFORM, PTX_VOTE_BALLOT };
enum ptx_shape { PTX_M8N8, PTX_M16N8K8, PTX_M16N8K16, PTX_M16N8K32 };
enum ptx_layout { PTX_ROW, PTX_COLUMN };

unsigned ptx_type_bits(enum ptx_type type); /* 1 for predicates */
bool ptx_type_is_signed(enum ptx_type type);
bool ptx_type_is_float(enum ptx_type type); /* the scalar ones */

/* Classes of modifiers: what ptx_words.def is ordered by. */
enum ptx_class {
  PTX_CLASS_TYPE,
  PTX_CLASS_ROUND,
  PTX_CLASS_INTEGRAL,
  PTX_CLASS_APPROXIMATE,
  PTX_CLASS_FTZ,
  PTX_CLASS_SAT,
  PTX_CLASS_RELU,
  PTX_CLASS_NAN,
  PTX_CLASS_CARRY,
  PTX_CLASS_COMPARE,
  PTX_CLASS_COMBINE,
  PTX_CLASS_PROPERTY,
  PTX_CLASS_PERMUTE,
  PTX_CLASS_CLAMP,
  PTX_CLASS_SPACE,
  PTX_CLASS_TO,
  PTX_CLASS_VECTOR,
  PTX_CLASS_STRONG,
  PTX_CLASS_SCOPE,
  PTX_CLASS_CACHE,
  PTX_CLASS_HINT,
  PTX_CLASS_POLICY,
  PTX_CLASS_NOFTZ,
  PTX_CLASS_UNIFORM,
  PTX_CLASS_ALIGNED,
  PTX_CLASS_SHUFFLE,
  PTX_CLASS_VOTE,
  PTX_CLASS_SHAPE,
  PTX_CLASS_MATRICES,
  PTX_CLASS_TRANSPOSE,
  PTX_CLASS_LAYOUT,
  PTX_CLASS_COUNT
};

enum { PTX_MODIFIER_TYPES = 4, PTX_MODIFIER_SPACES = 2 };
struct ptx_modifiers {
  uint64_t classes;              /* bit per enum ptx_class that was given */
  int8_t value[PTX_CLASS_COUNT]; /* the last word's of each class */
  uint8_t type_count, space_count;
  uint8_t types[PTX_MODIFIER_TYPES];   /* enum ptx_type, in order */
  uint8_t spaces[PTX_MODIFIER_SPACES]; /* enum ptx_space, in order; PTX_GENERIC beyond */
};

static inline bool ptx_has(const struct ptx_modifiers *modifiers, enum ptx_class class)
{
  return (modifiers->classes >> class & 1) != 0;
}

/* ---- decoded instructions ---- */

/* What follows an instruction. */
enum ptx_step {
  PTX_NEXT, /* the next in order */
  PTX_JUMP, /* the executor has set where the warp goes on */
  PTX_WAIT, /* the next in order, once the barrier that the warp waits at opens */
  PTX_FAULT /* nothing: the fault has been recorded */
};

struct ptx_warp;
struct ptx_op;
/* Executes the instruction in the lanes of `mask`, which is not empty. */
typedef enum ptx_step ptx_executor(struct ptx_warp *warp, const struct ptx_op *op, uint32_t mask);

/* Registers and predicates are numbered by function. An operand that is not negative is a
 * register; a negative one is the constant ~operand of the function. */
struct ptx_op {
  ptx_executor *execute;
  const int32_t *dst, *src; /* registers; what they mean is the executor's */
  uint8_t dst_count, src_count;
  uint8_t type;   /* enum ptx_type: the first of the modifiers */
  uint8_t opcode; /* enum ptx_opcode; PTX_OPCODE_COUNT when unknown */
  bool guard_negated;
  int32_t guard;            /* predicate, or -1 */
  int32_t predicate;        /* one that the instruction uses beside its registers, or -1 */
  int32_t predicate_out[2]; /* ones that it sets, or -1 */
  bool predicate_negated;
  uint8_t bytes;           /* of one element in memory */
  uint8_t register_bits;   /* of the registers that elements are loaded into */
  int64_t offset;          /* displacement of an address, or an immediate */
  int64_t second_offset;   /* of the second address */
  uint32_t target;         /* of a branch: index of an instruction */
  uint32_t join;           /* where the threads that a branch divides meet: an index, or the end */
  uint32_t cache;          /* of the last range of global memory: index within the module */
  const uint32_t *targets; /* of brx.idx, src_count - 1 of them follow the index... */
  uint32_t target_count;
  const struct ptx_call *call;
  const struct ptx_modifiers *modifiers;
  const char *text; /* the statement in the module's text */
  uint32_t text_length, line;
};

/* Registers that a function finds filled in: the names of its context. */
enum ptx_given_kind {
  PTX_GIVEN_TID,
  PTX_GIVEN_NTID,
  PTX_GIVEN_CTAID,
  PTX_GIVEN_NCTAID, /* axis in `value` */
  PTX_GIVEN_LANEID,
  PTX_GIVEN_WARPID,
  PTX_GIVEN_NWARPID,
  PTX_GIVEN_LANEMASK, /* enum ptx_compare in `value`: lanes that compare so with this one */
  PTX_GIVEN_DYNAMIC_SHARED_SIZE,
  PTX_GIVEN_TOTAL_SHARED_SIZE,
  PTX_GIVEN_ZERO,
  PTX_GIVEN_LOCAL /* address of the function's local memory + value */
};
struct ptx_given {
  enum ptx_given_kind kind;
  int32_t reg;
  int64_t value;
};

struct ptx_param {
  const char *name;
  uint32_t offset, bytes, alignment;
};

struct ptx_function;
struct ptx_entry {
  const struct ptx_function *function;
};
struct ptx_function {
  const char *name;
  struct ptx_entry entry; /* of this function, where it is one */
  struct ptx_module *module;
  bool is_entry, is_defined;
  struct ptx_op *ops;
  uint32_t op_count;
  uint32_t register_count, predicate_count;
  uint64_t (*constants)[PTX_LANES];
  uint32_t constant_count;
  const struct ptx_given *given;
  uint32_t given_count;
  /* Of an entry: its parameters, in the block of the launch. Of a function: what it returns and
   * takes, in the parameter memory of its frame. */
  struct ptx_param *params;
  uint32_t param_count, result_count; /* the results come first */
  uint32_t param_bytes;               /* of all of the above */
  uint32_t frame_param_bytes;         /* with the .param variables of the calls in the body */
  uint32_t local_bytes;
  uint32_t demoted_shared_bytes; /* .shared variables of the body */
  uint32_t max_threads;
  uint32_t required_threads[3]; /* .reqntid; 0 when there is none */
  struct ptx_function *next;
};

/* A call: offsets in the caller's parameter memory, one for each parameter of the callee. */
struct ptx_call {
  const struct ptx_function *callee;
  const uint32_t *offsets;
};

struct ptx_global {
  const char *name;
  uint64_t address;
  size_t bytes;
  struct ptx_global *next;
};

struct ptx_arena;
struct ptx_module {
  struct ptx_arena *arena;
  const char *text;
  struct ptx_function *functions;
  struct ptx_global *globals; /* .global and .const variables */
  uint32_t shared_bytes;      /* all .shared variables */
  uint32_t cache_count;
};

/* What a shared, local or parameter address is in the generic space: this, with the offset in the
 * low 32 bits. Far from every global address. */
#define PTX_WINDOW_SHARED (UINT64_C(0x5a53) << 48)
#define PTX_WINDOW_LOCAL (UINT64_C(0x5a4c) << 48)
#define PTX_WINDOW_PARAM (UINT64_C(0x5a50) << 48)
#define PTX_WINDOW_MASK (UINT64_C(0xffff) << 48)

/* The addresses of dynamic and of static shared memory and of local memory begin here: a null
 * pointer is in none of them, and an index that leaves one does not enter another. Multiples of
 * every alignment that is asked for; no device has more shared memory than fits between the first
 * two. */
enum {
  PTX_SHARED_BASE = 1024,
  PTX_STATIC_SHARED_BASE = PTX_SHARED_BASE + 227 * 1024,
  PTX_LOCAL_BASE = 1024
};
enum { PTX_MAX_STATIC_SHARED = 48 * 1024 }; /* more has to be dynamic on every device */

#endif
