/* Inside libattn: what the checks of kernels on a device have found.
 *
 * Each launch takes the next place of a ring: a record for each kernel in device memory, which is
 * zero, and a copy in pinned host memory, which follows the launch in its stream. So the host sees
 * a fault without waiting. A place comes up again after CUDA_FAULT_RING launches; should that be
 * before the earlier launch has ended, both share it, and the report of a fault may tell the size
 * of the later one.
 *
 * Everything but the two frees and retains runs between cuda_enter and cuda_leave. */
#ifndef ATTN_RUNTIME_CUDA_FAULTS_H
#define ATTN_RUNTIME_CUDA_FAULTS_H

#include "runtime/launch_plan.h"

enum { CUDA_FAULT_RING = 32 };

struct cuda_faults;

/* For the kernels of a compiled unit, which outlives it. *out is NULL where no kernel has a check.
 */
attn_status cuda_faults_new(struct cuda_device *device, const struct unit *unit,
                            const struct error_sink *sink, struct cuda_faults **out);
/* Nothing may run that was launched with it. NULL is fine. */
void cuda_faults_free(struct cuda_faults *faults);

/* A place for the launch of `plan`. */
uint32_t cuda_faults_take(struct cuda_faults *faults, const struct launch_plan *plan);
/* The record of a kernel at that place. */
cuda_address cuda_faults_record(const struct cuda_faults *faults, uint32_t place, size_t kernel);
/* Enqueues the copy to the host. */
attn_status cuda_faults_fetch(struct cuda_faults *faults, uint32_t place,
                              struct cuda_stream *stream, const struct error_sink *sink);

/* ERROR_FAULT with the text of the first fault that has come to the host; else OK. All that have
 * come are forgotten then. The stream, which must not be capturing, is used to clear the records.
 */
attn_status cuda_faults_report(struct cuda_faults *faults, struct cuda_stream *stream,
                               const struct error_sink *sink);
/* The same for all code on the device, of which the first is reported. */
attn_status cuda_faults_report_any(struct cuda_device *device, struct cuda_stream *stream,
                                   const struct error_sink *sink);

#endif
