/* The command line of a subcommand: a table of its options, from which it is parsed and its --help
 * printed.
 *
 * Options and other arguments may be mixed; `--` ends the options. A value follows as `--name
 * VALUE`, `--name=VALUE`,
 * `-n VALUE` or `-nVALUE`. Long names may not be cut short, so that scripts survive new options.
 */
#ifndef ATTN_RUNTIME_ATTNC_OPTIONS_H
#define ATTN_RUNTIME_ATTNC_OPTIONS_H

#include "runtime/attnc/command.h"

enum { OPTION_LIST_MAX = 128 };

struct option_list {
  const char *items[OPTION_LIST_MAX];
  size_t count;
};

enum option_kind {
  OPTION_FLAG,   /* target: bool */
  OPTION_TEXT,   /* target: const char *; at most once */
  OPTION_LIST,   /* target: struct option_list; any number of times */
  OPTION_NUMBER, /* target: uint64_t; within [least, most] */
  OPTION_CHOICE  /* target: int, the index of the word in `value`, which lists them: "tile|llvm|asm"
                  */
};

struct option {
  const char *name; /* without the dashes */
  char letter;      /* 0 when it has none */
  enum option_kind kind;
  const char *value; /* what the help calls the value; NULL for flags */
  const char *help;
  void *target; /* holds the default */
  uint64_t least, most;
};

struct usage {
  const char *command;   /* "run" */
  const char *arguments; /* "SPEC [options]" */
  const char *summary;   /* one line */
  const char *notes;     /* printed after the options, or NULL */
  const struct option *options;
  size_t option_count;
  int least, most; /* how many other arguments; most < 0: any number */
};

/* Fills the options' targets and moves the other arguments to argv[0] .. argv[*argc - 1]. True to
 * go on; else *status is the exit status: 0 after --help, 2 after a complaint. */
bool options_parse(const struct usage *usage, int *argc, char **argv, enum exit_status *status);

/* NAME=VALUE cut at the first '='. NAME, of `size` bytes with its zero, receives the name. False,
 * after a complaint that names the option, when there is no name or no '='. */
bool option_split(const char *option, const char *text, char *name, size_t size,
                  const char **value);

/* A whole decimal number in [least, most]. */
bool parse_number(const char *text, uint64_t least, uint64_t most, uint64_t *number);

#endif
