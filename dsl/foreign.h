/* Words and signs of PyTorch, NumPy, Python and C that people type into a spec, and what to type
 * instead. All of them stand in foreign.def; an error consults it before it guesses by spelling.
 */
#ifndef ATTN_DSL_FOREIGN_H
#define ATTN_DSL_FOREIGN_H

#include "dsl/diagnostics.h"

/* Where a word of the table stands; one word may have an advice for each. */
enum foreign_use {
  FOREIGN_ITEM,      /* first on a line outside of a body */
  FOREIGN_STATEMENT, /* first on a line of a body */
  FOREIGN_NAME,      /* a name in an expression */
  FOREIGN_CALL,      /* a function that is called */
  FOREIGN_COUNT,     /* a function of ours that is called with too few or too many arguments */
  FOREIGN_ARGUMENT,  /* a name before '=' in an argument */
  FOREIGN_OPTION,    /* a word that a statement chooses by, or a type */
  FOREIGN_KEYWORD,   /* a name next to which the grammar fails */
  FOREIGN_SIGN,      /* characters that start no token */
  FOREIGN_TEXT,      /* text in quotes */
  FOREIGN_MODULE     /* what stands before a dot */
};

/* The sentence for `word` (not necessarily terminated), or NULL. */
const char *foreign_advice(enum foreign_use use, const char *word, size_t length);
/* The first of our words for `word` that is among the candidates (any, where `candidates` is NULL),
 * or NULL. */
const char *foreign_word(const char *word, const char *const *candidates, size_t count);
/* Gives the diagnostic the most telling help that there is: the advice, our word for it, or the
 * candidate that is spelled alike. None is given where there is none. */
void foreign_suggest(struct diagnostics *diagnostics, struct diagnostic *diagnostic,
                     enum foreign_use use, const char *name, const char *const *candidates,
                     size_t count);

#endif
