/* Tensors from files, by name, as the tensors of a workload. */
#ifndef ATTN_RUNTIME_ATTNC_BIND_H
#define ATTN_RUNTIME_ATTNC_BIND_H

#include "runtime/attnc/workload.h"

struct bind_request {
  const struct option_list *files; /* FILE, or NAME=FILE for the only tensor of a file */
  enum dtype wanted;               /* --type: floats are converted to it; ANY: taken as they are */
};

/* Reads the files and moves their tensors into the workload: q, k, v, the inputs, and for ragged
 * specs the row numbers query_starts and key_starts. The workload's type and sizes are set from q
 * and k. A tensor `o` becomes *expected (zeroed when there is none; tensor_free it in any case);
 * what fits nothing is noted on stderr. Integers and bools are converted where every value fits.
 * Shapes are left for the launch to check. */
enum exit_status bind_files(struct workload *workload, const struct bind_request *request,
                            struct tensor *expected);

/* Of a workload with sizes: replaces each wanted input that the files have. Other tensors of the
 * files are left alone. */
enum exit_status bind_inputs(struct workload *workload, const struct bind_request *request,
                             const bool wanted[SPEC_MAX_INPUTS]);

#endif
