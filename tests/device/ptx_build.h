/* From text to functions: what the parts of the parser share. See ptx.h for what comes out. */
#ifndef ATTN_TESTS_DEVICE_PTX_BUILD_H
#define ATTN_TESTS_DEVICE_PTX_BUILD_H

#include <setjmp.h>

#include "tests/device/ptx.h"

/* ---- memory (ptx_arena.c) ---- */

struct ptx_arena *ptx_arena_new(void); /* NULL when there is no memory */
void ptx_arena_free(struct ptx_arena *arena);
/* Zeroed and aligned for everything; NULL when there is no memory. */
void *ptx_arena_allocate(struct ptx_arena *arena, size_t bytes);

/* ---- tokens (ptx_scan.c) ---- */

enum ptx_token_kind {
  PTX_TOKEN_END,
  PTX_TOKEN_WORD, /* names, directives, instructions: with all parts behind dots */
  PTX_TOKEN_INTEGER,
  PTX_TOKEN_FLOAT32, /* 0f...: its bits */
  PTX_TOKEN_FLOAT64, /* 0d... or decimal: its bits */
  PTX_TOKEN_STRING,
  PTX_TOKEN_MARK, /* any other character */
  PTX_TOKEN_ERROR
};
struct ptx_token {
  enum ptx_token_kind kind;
  const char *text;
  uint32_t length, line;
  uint64_t value;
};
struct ptx_scanner {
  const char *at;
  uint32_t line;
};
struct ptx_token ptx_scan(struct ptx_scanner *scanner);

/* ---- symbols and statements (ptx_statement.c) ---- */

enum ptx_symbol_kind { PTX_SYMBOL_REGISTERS, PTX_SYMBOL_VARIABLE };
struct ptx_symbol {
  enum ptx_symbol_kind kind;
  const char *text;
  uint32_t length;
  enum ptx_type type;   /* of registers */
  int32_t first;        /* registers: the number of the first */
  uint32_t count;       /* of registers named text0, text1, ...; 0 for one named text */
  enum ptx_space space; /* of a variable */
  uint64_t address;     /* in its space; of a local one within the memory of its function */
  uint32_t bytes;
  struct ptx_symbol *next;
};

enum ptx_value_kind {
  PTX_VALUE_REGISTER,
  PTX_VALUE_PREDICATE,
  PTX_VALUE_INTEGER,
  PTX_VALUE_FLOAT32,
  PTX_VALUE_FLOAT64,
  PTX_VALUE_VARIABLE, /* its address, `bits` beyond */
  PTX_VALUE_NAME,     /* of a label or a function */
  PTX_VALUE_CLOCK,
  PTX_VALUE_SINK /* _ */
};
struct ptx_value {
  enum ptx_value_kind kind;
  bool negated;       /* a predicate with ! */
  bool any_width;     /* an address in a register that only the interpreter knows */
  int32_t index;      /* register or predicate */
  enum ptx_type type; /* of the register as declared */
  uint64_t bits;
  const struct ptx_symbol *symbol;
  const char *text;
  uint32_t length;
};

enum ptx_operand_kind {
  PTX_OPERAND_VALUE,
  PTX_OPERAND_VECTOR,
  PTX_OPERAND_ADDRESS,
  PTX_OPERAND_LIST
};
enum { PTX_MAX_VALUES = 64, PTX_MAX_OPERANDS = 8 };
struct ptx_operand {
  enum ptx_operand_kind kind;
  uint32_t first, count; /* in the statement's values */
  int64_t offset;        /* of an address */
  bool has_second;       /* d|p */
  struct ptx_value second;
};
struct ptx_statement {
  const struct ptx_opcode_row *row; /* NULL when unknown */
  struct ptx_modifiers modifiers;
  bool has_guard;
  struct ptx_value guard;
  struct ptx_operand operands[PTX_MAX_OPERANDS];
  struct ptx_value values[PTX_MAX_VALUES];
  uint32_t operand_count, value_count;
  uint32_t line, length;
  const char *text;
};

/* ---- the parser ---- */

struct ptx_label {
  const char *text;
  uint32_t length, scope, line;
  uint32_t op; /* the instruction that follows */
};
struct ptx_fixup { /* a target that waits for its label */
  const char *text;
  uint32_t length, scope, line;
  uint32_t op;
};
struct ptx_target_list { /* .branchtargets */
  const char *text;
  uint32_t length;
  const struct ptx_fixup *targets;
  uint32_t count;
};

struct ptx_parser {
  struct ptx_module *module;
  struct ptx_scanner scanner;
  struct ptx_token token; /* the next one */
  char *log;
  size_t log_size;
  jmp_buf failed;
  struct ptx_symbol *symbols; /* innermost first */
  /* Of the function at hand: */
  struct ptx_function *function;
  struct ptx_op *ops;
  struct ptx_label *labels;
  struct ptx_fixup *fixups;
  struct ptx_target_list *target_lists;
  struct ptx_given *given;
  uint32_t *scope_parents;
  uint64_t *constants;
  uint32_t op_count, op_capacity, label_count, label_capacity, fixup_count, fixup_capacity;
  uint32_t target_list_count, target_list_capacity, given_count, given_capacity;
  uint32_t constant_count, constant_capacity, scope_count, scope_capacity;
  uint32_t scope;     /* of the block at hand */
  uint32_t param_top; /* parameter memory in use by the block at hand */
  uint32_t local_top;
  const struct ptx_statement *statement; /* being decoded */
};

/* Ends the parsing with "line N: ..." in the log. */
_Noreturn void ptx_fail(struct ptx_parser *parser, uint32_t line, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void *ptx_allocate(struct ptx_parser *parser, size_t bytes); /* fails instead of returning NULL */
/* Room for one more element in an array of the arena. */
void *ptx_grow(struct ptx_parser *parser, void *array, uint32_t count, uint32_t *capacity,
               size_t size);
const char *ptx_copy_name(struct ptx_parser *parser, const char *text, uint32_t length);

void ptx_advance(struct ptx_parser *parser);
bool ptx_at_mark(const struct ptx_parser *parser, char mark);
bool ptx_take_mark(struct ptx_parser *parser, char mark);
bool ptx_take_word(struct ptx_parser *parser, const char *word);
void ptx_expect_mark(struct ptx_parser *parser, char mark);
struct ptx_token ptx_expect_word(struct ptx_parser *parser, const char *what);
uint64_t ptx_expect_integer(struct ptx_parser *parser, const char *what);
bool ptx_same_text(const char *a, uint32_t a_length, const char *b, uint32_t b_length);

struct ptx_function *ptx_find_function(const struct ptx_module *module, const char *name,
                                       uint32_t length);

/* Types (ptx_statement.c) */
bool ptx_type_word(const struct ptx_token *token, enum ptx_type *type); /* ".b32" */

const struct ptx_symbol *ptx_find_symbol(const struct ptx_parser *parser, const char *text,
                                         uint32_t length);
/* Reads an instruction up to its semicolon. */
void ptx_parse_statement(struct ptx_parser *parser, struct ptx_statement *statement);

/* Declarations (ptx_declare.c). Each reads on behind the word .reg, the state space, .param, up to
 * and with the semicolon or closing parenthesis. */
void ptx_parse_registers(struct ptx_parser *parser);
void ptx_parse_variables(struct ptx_parser *parser, enum ptx_space space, bool is_extern);
/* Parameters in parentheses are added to those of the function. */
void ptx_parse_params(struct ptx_parser *parser, struct ptx_function *function, uint32_t *capacity);
/* The state space that a directive names. */
bool ptx_space_word(const struct ptx_token *token, enum ptx_space *space);

/* Function bodies (ptx_body.c): from the opening brace to the closing one. */
void ptx_parse_body(struct ptx_parser *parser, struct ptx_function *function);

/* ---- decoding (ptx_decode.c) ---- */

struct ptx_opcode_row {
  enum ptx_opcode opcode;
  const char *text;
  uint32_t length;
  /* False when the interpreter does not know this form of the instruction. */
  bool (*decode)(struct ptx_parser *parser, const struct ptx_statement *statement,
                 struct ptx_op *op);
  const char *operands;
  uint64_t classes;
};
/* The row with the longest text that begins the word, NULL when there is none; *rest is what
 * follows. */
const struct ptx_opcode_row *ptx_find_opcode(const char *word, uint32_t length, const char **rest);
void ptx_decode(struct ptx_parser *parser, const struct ptx_statement *statement,
                struct ptx_op *op);

#define PTX_OPCODE(name, text, decode, operands, classes)                                          \
  bool ptx_decode_##decode(struct ptx_parser *parser, const struct ptx_statement *statement,       \
                           struct ptx_op *op);
#include "tests/device/ptx_opcodes.def"

/* For the decode functions. Those that take a type fail when a register is not of its width. */
int32_t ptx_constant(struct ptx_parser *parser, uint64_t bits);
int32_t ptx_new_register(struct ptx_parser *parser);
int32_t ptx_source(struct ptx_parser *parser, const struct ptx_value *value, enum ptx_type type);
int32_t ptx_target(struct ptx_parser *parser, const struct ptx_value *value, enum ptx_type type);
/* For cvt, ld and st, whose registers can be wider than the type. */
int32_t ptx_wide_source(struct ptx_parser *parser, const struct ptx_value *value,
                        enum ptx_type type);
int32_t ptx_wide_target(struct ptx_parser *parser, const struct ptx_value *value,
                        enum ptx_type type, unsigned *register_bits);
int32_t ptx_predicate(struct ptx_parser *parser, const struct ptx_value *value);
const struct ptx_value *ptx_only_value(struct ptx_parser *parser, const struct ptx_statement *s,
                                       uint32_t operand);
/* Operands that are an integer known when the text is read. */
bool ptx_immediate(const struct ptx_statement *s, uint32_t operand, int64_t *value);
/* Makes src of a base and fills the offset. The space tells windows apart. */
int32_t ptx_address(struct ptx_parser *parser, const struct ptx_statement *s, uint32_t operand,
                    enum ptx_space space, int64_t *offset);
void ptx_set_operands(struct ptx_parser *parser, struct ptx_op *op, const int32_t *dst,
                      uint32_t dst_count, const int32_t *src, uint32_t src_count);
/* dst and src by the row's letters; false when the operands are not of that form. */
bool ptx_decode_operands(struct ptx_parser *parser, const struct ptx_statement *s,
                         struct ptx_op *op);

/* ---- control flow (ptx_flow.c) ---- */

/* Fills `join` of every branch: the nearest instruction that all paths from it pass, op_count for
 * the end. False when there is no memory. */
bool ptx_find_joins(struct ptx_function *function);

#endif
