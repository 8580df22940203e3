/* Inside libattn: the steps of unit_compile after the code is there, for the CPU (unit->device is
 * NULL) and for a device. */
#ifndef ATTN_RUNTIME_UNIT_LOAD_H
#define ATTN_RUNTIME_UNIT_LOAD_H

#include "runtime/unit.h"

/* On a device, the PTX of unit->compiled becomes what the device runs, which is what is loaded and
 * kept on disk. */
attn_status unit_assemble(struct unit *unit, const struct error_sink *sink);

/* Loads unit->compiled->code and finds the kernels in it. After an error unit_unload is to be
 * called before it is tried again. */
attn_status unit_load(struct unit *unit, const struct error_sink *sink);
void unit_unload(struct unit *unit);

/* Fills the rotary tables of a loaded unit where they are the same for every launch. */
attn_status unit_settle_rotary(struct unit *unit, const struct error_sink *sink);

#endif
