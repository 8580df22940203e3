/* --target and --schedule: what code is made for, and in which tiles. */
#ifndef ATTN_RUNTIME_ATTNC_TARGET_OPTIONS_H
#define ATTN_RUNTIME_ATTNC_TARGET_OPTIONS_H

#include "compiler/pipeline.h"
#include "runtime/attnc/options.h"

/* Each a status other than FINE after a complaint, as fields of a schedule are that `target` does
 * not have. */
enum exit_status target_option(const char *name, enum target *target);
enum exit_status schedule_option(const struct option_list *list, enum target target,
                                 struct schedule *schedule);

/* Of what --device names. */
enum target target_of_device(const char *device);

#endif
