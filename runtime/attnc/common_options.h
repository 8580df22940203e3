/* Rows of option tables that several commands have; `to` is the target. */
#ifndef ATTN_RUNTIME_ATTNC_COMMON_OPTIONS_H
#define ATTN_RUNTIME_ATTNC_COMMON_OPTIONS_H

#include "runtime/attnc/options.h"

struct option option_attention(const char **to);
struct option option_params(struct option_list *to);
struct option option_sets(struct option_list *to);
struct option option_tensor_type(int *to);
struct option option_seed(uint64_t *to);
struct option option_device(const char **to);
struct option option_threads(uint64_t *to);
struct option option_schedule(struct option_list *to);
struct option option_json(bool *to);

#endif
