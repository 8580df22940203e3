/* From options to a workload and a compiled program: what the subcommands that take sizes or
 * tensors share. Every failure has been complained about.
 */
#ifndef ATTN_RUNTIME_ATTNC_PREPARE_H
#define ATTN_RUNTIME_ATTNC_PREPARE_H

#include "runtime/attnc/document.h"
#include "runtime/attnc/target_options.h"
#include "runtime/attnc/workload.h"

enum { PREPARE_MAX_SIZE = 1 << 30 };

struct prepare_request {
  const char *option; /* the option that gave the sizes, for complaints: "random", "shape" */
  const char *sizes;  /* "B=2,NQ=512,NK=512", or NULL: the sizes are those of the files' q and k */
  const struct option_list *files;  /* --in */
  const struct option_list *params; /* --param */
  const char *name;                 /* --name, or NULL */
  int type;                         /* --type */
  uint64_t seed;
};

/* Whether the command was given one of --OPTION SIZES and --in, and not both; false after a
 * complaint. */
bool prepare_has_source(const char *command, const char *option, const char *sizes,
                        const struct option_list *files);

/* The attention that was asked for, with its parameters; no sizes yet. */
enum exit_status prepare_spec(struct workload *workload, const struct document *document,
                              const struct prepare_request *request);

/* All tensors: from the files, or random. A tensor `o` of the files becomes *expected, which is
 * zeroed otherwise; tensor_free it. */
enum exit_status prepare_tensors(struct workload *workload, const struct prepare_request *request,
                                 struct tensor *expected);

/* Only what the mask and the offset read: with `sizes`, from the files where they have it and
 * random otherwise. Without, all tensors of the files. */
enum exit_status prepare_mask(struct workload *workload, const struct prepare_request *request);

/* A context of `threads` (0: the default) on `device`, which --device names. */
enum exit_status prepare_context(const char *device, uint64_t threads, attn_context **context);

/* What attn_compile is asked for: an attention of the document, with its --set options, in `type`
 * and the tiles of `schedule`. `sets` is room for the options to point to. */
attn_compile_options prepare_compile(const struct document *document, const char *attention,
                                     enum dtype type, const struct schedule *schedule,
                                     attn_setting sets[OPTION_LIST_MAX]);

/* Where and how a program computes. */
struct prepare_target {
  const char *device;       /* as for prepare_context */
  uint64_t threads;         /* the same */
  struct schedule schedule; /* of --schedule */
};

/* A context and the program for the workload's type. Also after a failure both are to be freed,
 * unless NULL. */
struct prepared {
  attn_context *context;
  attn_program *program;
  double compile_ms;
  bool from_cache; /* the code was on disk */
};
enum exit_status prepare_program(struct prepared *prepared, const struct workload *workload,
                                 const struct document *document,
                                 const struct prepare_target *target, bool json);
void prepared_free(struct prepared *prepared);

/* Launches once to warm up and to find errors, then `repeat` times, into times[], milliseconds in
 * ascending order; the results are in the workload's tensors then. Shows its progress where stderr
 * is a terminal. */
enum exit_status prepare_launches(const struct prepared *prepared, struct workload *workload,
                                  size_t repeat, double *times);
double median_of(const double *sorted, size_t count);

#endif
