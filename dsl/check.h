/* The checker's own header: syntax tree to checked spec. Not for use outside dsl/check*.c.
 *
 * Expressions are elaborated straight into the spec's DAG. fns and lets are inlined; a memo keyed
 * by (declaration, statement kind, argument values) keeps chains of them from exploding. Vectors
 * exist only here: a vector is a length and an element expression in which ARG 0 stands for the
 * channel. ARG 1 + n stands for the name that the n-th enclosing sum, any or all binds; when the
 * binder is complete it becomes a BOUND whose level is one more than the highest inside, so that
 * equal reductions are equal nodes wherever they stand.
 */
#ifndef ATTN_DSL_CHECK_H
#define ATTN_DSL_CHECK_H

#include "dsl/ast.h"
#include "dsl/foreign.h"
#include "dsl/spec.h"

enum value_kind { VALUE_ERROR, VALUE_SCALAR, VALUE_VECTOR, VALUE_INPUT };

/* What an expression of the language evaluates to. ERROR has been reported. */
struct value {
  enum value_kind kind;
  const struct expr *expr;   /* SCALAR; VECTOR: the element at ARG 0 */
  const struct expr *length; /* VECTOR: INT */
  uint32_t input;            /* INPUT: a tensor that is not indexed yet */
};

enum builtin {
  BUILTIN_B,
  BUILTIN_H,
  BUILTIN_G,
  BUILTIN_I,
  BUILTIN_J,
  BUILTIN_R,
  BUILTIN_C,
  BUILTIN_S,
  BUILTIN_W,
  BUILTIN_Q,
  BUILTIN_K,
  BUILTIN_V,
  BUILTIN_SIZE_B,
  BUILTIN_SIZE_H,
  BUILTIN_SIZE_G,
  BUILTIN_SIZE_NQ,
  BUILTIN_SIZE_NK,
  BUILTIN_SIZE_D,
  BUILTIN_SIZE_DV,
  BUILTIN_OFFSET,
  BUILTIN_T,
  BUILTIN_N,
  BUILTIN_O,
  BUILTIN_LSE,
  BUILTIN_COUNT
};
#define ALLOW(name) (1u << BUILTIN_##name)

/* What a statement's expressions may use. */
enum context_kind {
  CONTEXT_CONSTANT, /* heads, dim, layouts, defaults of parameters */
  CONTEXT_DIMS,
  CONTEXT_ALIGN,
  CONTEXT_AT,
  CONTEXT_ANGLE,
  CONTEXT_UNIFORM, /* base, gain and the like */
  CONTEXT_SLOPE,
  CONTEXT_SIMILARITY,
  CONTEXT_SCALE,
  CONTEXT_SCORE,
  CONTEXT_MAP,
  CONTEXT_NORMALIZE,
  CONTEXT_MASK,
  CONTEXT_WEIGHT,
  CONTEXT_VALUE,
  CONTEXT_POST,
  CONTEXT_SELECT,
  CONTEXT_MEAN, /* inside mean(...) of select */
  CONTEXT_LET,  /* a let that nothing uses */
  CONTEXT_KIND_COUNT
};
struct context {
  const char *name; /* "in a mask" */
  uint32_t allowed;
  bool value_channels; /* sum(c) runs over DV rather than D */
  bool constant;       /* nothing that a launch gives */
};
extern const struct context check_contexts[CONTEXT_KIND_COUNT];

enum symbol_kind { SYMBOL_PARAM, SYMBOL_INPUT, SYMBOL_LET, SYMBOL_MAP };
struct symbol {
  enum symbol_kind kind;
  struct ast_name name;
  uint32_t index;                        /* param, input, map */
  const struct ast_statement *statement; /* input, let, map */
  bool used;
  bool ready;  /* its declaration has been checked without error */
  bool active; /* a let that is being elaborated */
};

struct fn {
  const struct ast_item *item;
  bool prelude;
  bool active;
};

/* A name bound inside an expression: a fn's argument or the variable of a reduction. */
struct local {
  const char *name;
  struct value value;
  const struct local *next;
};

struct scope {
  enum context_kind context;
  const struct local *locals;
  uint32_t binders; /* enclosing reductions */
  bool in_fn;       /* the spec's names are out of sight */
  bool in_prelude;
  size_t symbol_limit; /* a let sees the symbols before it */
};

enum { CHECK_MAX_ARGUMENTS = 16 };

struct memo_entry {
  const void *declaration; /* NULL: free slot */
  enum context_kind context;
  size_t count;
  struct value arguments[CHECK_MAX_ARGUMENTS];
  struct value result;
};

struct check {
  struct arena *arena;
  struct interner *names;
  struct diagnostics *diagnostics;
  struct source_set *sources;
  const struct spec_options *options;

  /* of the file */
  VECTOR(struct fn *) fns;
  VECTOR(const char *) loaded;  /* names of imported files */
  VECTOR(const char *) loading; /* of those being imported, outermost first */
  bool *set_used;               /* by index of options->sets */

  /* of the attention at hand */
  struct spec *spec;
  struct expr_pool *pool;
  const struct ast_item *item;
  VECTOR(struct symbol) symbols;
  VECTOR(uint8_t) binder_levels; /* by expression id: highest binder level inside, plus 1 */
  struct memo_entry **memo;
  size_t memo_size, memo_count;
  uint32_t depth;        /* of elaboration */
  bool incomplete;       /* syntax errors took something out of it */
  bool too_complex;      /* reported */
  struct span call_site; /* of the outermost inlined declaration */
  uint32_t call_depth;
};

/* ---- check.c ---- */
struct diagnostic *check_error(struct check *check, enum diag_code code, struct span span,
                               const char *format, ...) __attribute__((format(printf, 4, 5)));
void check_suggest(struct check *check, struct diagnostic *diagnostic, enum foreign_use use,
                   const char *name, const char *const *candidates, size_t count);
bool check_text_is(const char *a, const char *b);

/* ---- check_names.c ---- */
bool check_declare(struct check *check, struct symbol symbol);
struct symbol *check_symbol(struct check *check, const struct scope *scope, const char *name);
/* The built-in called `name`, or BUILTIN_COUNT. */
enum builtin check_builtin(const char *name);
/* `scope` may be NULL. Within the prelude its own fns come first, so that a spec's fn of the same
 * name cannot change them. */
struct fn *check_fn(struct check *check, const struct scope *scope, const char *name);
void check_load_fns(struct check *check, const struct ast_file *file, bool prelude);
void check_load_prelude(struct check *check);
struct value check_name(struct check *check, const struct scope *scope,
                        const struct ast_name *name);
struct value check_call_fn(struct check *check, const struct scope *scope, struct fn *fn,
                           struct span span, const struct value *arguments, size_t count);
/* A prelude fn that the checker itself relies on. */
const struct expr *check_prelude(struct check *check, enum context_kind context, struct span span,
                                 const char *name, const struct expr *const *arguments,
                                 size_t count);

/* ---- check_expr.c ---- */
struct scope check_scope(const struct check *check, enum context_kind context);
struct value check_value(struct check *check, const struct scope *scope,
                         const struct ast_expr *ast);
/* NULL after an error, in these and in what follows. */
const struct expr *check_scalar(struct check *check, const struct scope *scope,
                                const struct ast_expr *ast);
const struct expr *check_float(struct check *check, enum context_kind context,
                               const struct ast_expr *ast);
const struct expr *check_int(struct check *check, const struct scope *scope,
                             const struct ast_expr *ast, const char *what);
const struct expr *check_bool(struct check *check, const struct scope *scope,
                              const struct ast_expr *ast);
bool check_constant(struct check *check, const struct ast_expr *ast, const char *what,
                    int64_t least, int64_t most, int64_t *result);
struct value check_as_scalar(struct check *check, struct value value, struct span span);
struct value check_as_vector(struct check *check, struct value value, struct span span);
const struct expr *check_to_type(struct check *check, const struct expr *e, enum expr_type type);
const struct expr *check_arithmetic(struct check *check, enum ast_op op, struct span span,
                                    const struct expr *a, const struct expr *b);
const struct expr *check_at_channel(struct check *check, const struct expr *element,
                                    const struct expr *channel);
/* Closes the reduction whose name was ARG 1 + binder. */
const struct expr *check_binder(struct check *check, enum expr_op op, uint32_t binder,
                                const struct expr *extent, const struct expr *body,
                                struct span span);
struct value check_scalar_value(const struct expr *e);
const struct ast_expr *check_strip(const struct ast_expr *ast); /* without parentheses */

/* ---- check_call.c ---- */
bool check_is_function(const char *name); /* a built-in one */
/* How one element of an input is read, for a message: "doc[b, j]". `index` is what was written with
 * too few or too many indices, or NULL. */
const char *check_element(struct check *check, uint32_t number, const struct ast_expr *index);
struct value check_call(struct check *check, const struct scope *scope, const struct ast_expr *ast);
struct value check_index(struct check *check, const struct scope *scope,
                         const struct ast_expr *ast);
struct value check_dot(struct check *check, const struct scope *scope, struct span span,
                       struct value x, struct value y);

/* ---- check_options.c: the words and named arguments of statements ---- */

/* Sorts arguments into slots by name or position. `names` are the parameters, `required` has a bit
 * for each that must be there. False after an error. */
bool check_bind(struct check *check, const char *what, struct span span,
                const struct ast_arguments *arguments, const char *const *names, size_t count,
                uint32_t required, const struct ast_expr **slots);
/* `NAME` or `NAME(arguments)` as written; the arguments of a bare name are empty. False,
 * unreported, for others. */
bool check_form(struct check *check, const struct ast_expr *ast, struct ast_name *name,
                const struct ast_arguments **arguments);
/* The number of a word among `words`, or `count` after an error. */
size_t check_word(struct check *check, const struct ast_expr *ast, const char *what,
                  const char *const *words, size_t count);
/* The one unnamed argument of a statement, or NULL after an error. */
const struct ast_expr *check_single(struct check *check, const struct ast_statement *statement);

/* ---- statements; `statement` is NULL where none was written ---- */
void check_params(struct check *check); /* check_shape.c */
void check_heads(struct check *check, const struct ast_statement *statement);
void check_dim(struct check *check, const struct ast_statement *statement,
               const struct ast_statement *value);
void check_type(struct check *check, const struct ast_statement *statement);
void check_input(struct check *check, struct symbol *symbol);
void check_align(struct check *check, const struct ast_statement *statement);
enum dtype check_dtype(const char *name);

/* Position terms that are added to scores and values; NULL where there are none. */
struct position_terms {
  const struct expr *score;      /* FLOAT, after every `score` */
  const struct expr *similarity; /* FLOAT, inside the scale */
  struct value value;            /* vector added to the value; kind ERROR where there is none */
};
void check_position(struct check *check, const struct ast_statement *statement,
                    struct position_terms *terms); /* check_position.c */

struct statements {
  const struct ast_statement *single[WORD_COUNT]; /* those that appear at most once */
};
/* check_score.c */
void check_scores(struct check *check, const struct statements *statements,
                  const struct position_terms *terms);
void check_weight(struct check *check, const struct ast_statement *statement);
void check_value_statement(struct check *check, const struct ast_statement *statement,
                           const struct position_terms *terms);
void check_post(struct check *check, const struct ast_statement *statement);
void check_mask(struct check *check); /* check_mask.c */
/* Of a spec without errors: warns of indices that leave their tensors. check_index.c */
void check_indices(struct check *check);
enum { CHECK_MAX_PAGE = 65536 }; /* tokens of a page, or that share a scale */
/* check_storage.c */
void check_storage(struct check *check, const struct ast_expr *ast, uint32_t channels,
                   struct spec_storage *storage);
/* Whether the parts of the cache statement go together; k and v are its storage types, or NULL. */
void check_cache_fits(struct check *check, const struct ast_expr *k, const struct ast_expr *v);
/* What a ring does to formulas that are checked: a key that left it is hidden, NK is what it holds.
 */
void check_ring(struct check *check);
/* check_cache.c */
void check_cache(struct check *check, const struct ast_statement *statement);
void check_select(struct check *check, const struct ast_statement *statement);
void check_output(struct check *check, const struct ast_statement *statement);

#endif
