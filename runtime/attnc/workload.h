/* One call of an attention: its sizes, parameters and every tensor that it reads and writes, as the
 * launch and the reference take them.
 *
 * Shapes are those of attn.h; q, k, v, o, inputs and outputs are dense, or packed for a ragged
 * spec. The spec must outlive the workload.
 */
#ifndef ATTN_RUNTIME_ATTNC_WORKLOAD_H
#define ATTN_RUNTIME_ATTNC_WORKLOAD_H

#include <stdio.h>

#include "compiler/reference/reference.h"
#include "runtime/attnc/command.h"
#include "runtime/attnc/options.h"

struct workload {
  const struct spec *spec;
  enum dtype type;              /* of q, k, v and o: F32, F16 or BF16 */
  int64_t batch, queries, keys; /* B, NQ, NK; the longest sequence's when ragged */
  bool ragged;
  int64_t *query_starts, *key_starts; /* ragged: batch + 1 each */
  union expr_value params[SPEC_MAX_PARAMS];
  bool given[SPEC_MAX_PARAMS]; /* has a value: by default or from the user */
  struct tensor q, k, v, o;    /* v is unused where the value is a slice of k */
  struct tensor inputs[SPEC_MAX_INPUTS];
  struct tensor outputs[SPEC_MAX_OUTPUTS];
  DLDevice device; /* of the tensors' copies (on_device), which launches take where they are made */
};

/* Zeroed, with the parameters' defaults. */
void workload_init(struct workload *workload, const struct spec *spec, enum dtype type);
void workload_free(struct workload *workload);

/* NAME=VALUE of --param. USAGE after a complaint when there is no such parameter or the value does
 * not fit. */
enum exit_status workload_set_param(struct workload *workload, const char *text);

/* Makes sequence lengths the boundaries of packed ones: lengths of queries and keys, `batch` each.
 * For ragged specs. Sets batch, queries and keys. False when out of memory. */
bool workload_set_lengths(struct workload *workload, int64_t batch, const int64_t *queries,
                          const int64_t *keys);

/* Which tensor of a workload. */
enum workload_role {
  WORKLOAD_Q,
  WORKLOAD_K,
  WORKLOAD_V,
  WORKLOAD_O,
  WORKLOAD_INPUT,
  WORKLOAD_OUTPUT
};
struct tensor *workload_tensor(struct workload *workload, enum workload_role role, uint32_t number);

struct workload_shape {
  DLDataType dtype;
  int ndim;
  int64_t dims[TENSOR_MAX_RANK];
  enum dim_kind kinds[TENSOR_MAX_RANK]; /* of a packed dimension NQ or NK */
};
/* The shape that a tensor must have, from the sizes and parameters. An input's dim that is negative
 * or does not fit is an error that names it; false after a complaint. */
bool workload_shape(const struct workload *workload, enum workload_role role, uint32_t number,
                    struct workload_shape *shape);
/* "q", "doc", "lse". The text of an output of a named map is "lse(a)"; valid until the next call
 * with this buffer. */
const char *workload_name(const struct spec *spec, enum workload_role role, uint32_t number,
                          char buffer[64]);

/* Makes the tensors that are not there yet, zeroed. */
enum exit_status workload_allocate(struct workload *workload);
/* The same for one of them. */
enum exit_status workload_allocate_one(struct workload *workload, enum workload_role role,
                                       uint32_t number);

/* The arguments of a launch on the workload's tensors. */
struct workload_call {
  attn_arguments arguments; /* of the tensors that there are; points into this struct */
  DLTensor q, k, v, o, query_starts, key_starts;
  DLTensor inputs[SPEC_MAX_INPUTS], outputs[SPEC_MAX_OUTPUTS];
  attn_named_tensor named_inputs[SPEC_MAX_INPUTS], named_outputs[SPEC_MAX_OUTPUTS];
  attn_param params[SPEC_MAX_PARAMS];
  int64_t starts_shape;
};
void workload_call_init(struct workload_call *call, struct workload *workload);
/* Adds the inputs of another workload of the same spec; those that only it has. */
void workload_call_inputs(struct workload_call *call, struct workload *workload);

/* Launches, which on a device does not wait; prints nothing. `error` receives the text. */
attn_status workload_launch(struct workload *workload, attn_program *program, char *error,
                            size_t size);

/* Runs the reference over the first `heads` query heads, a multiple of H / G. False when out of
 * memory. */
bool workload_reference(struct workload *workload, enum ref_mode mode, uint32_t heads,
                        struct ref_result *result);

/* Where row (b, h, r) begins in o, counted in rows; the same in lse. */
int64_t workload_row(const struct workload *workload, int64_t b, int64_t h, int64_t r);
/* The lengths of sequence b. */
int64_t workload_queries(const struct workload *workload, int64_t b);
int64_t workload_keys(const struct workload *workload, int64_t b);

DLDataType workload_dtype(const struct workload *workload, enum dtype type);

#endif
