/* A workload's tensors on the device of a context, and launches there. Where the context computes
 * on the CPU, all of this is nothing and the launch takes the tensors as they are.
 */
#ifndef ATTN_RUNTIME_ATTNC_DEVICE_H
#define ATTN_RUNTIME_ATTNC_DEVICE_H

#include "runtime/attnc/workload.h"

/* "cpu", "cuda:1" */
const char *device_text(const attn_context *context, char buffer[32]);
/* The name that its driver gives a GPU: "NVIDIA A100-SXM4-80GB". "" for the CPU. */
const char *device_name(const attn_context *context, char buffer[128]);

/* Copies every tensor to the device of the context, so that launches take it there. After a failure
 * too device_release is to be called, before the context is freed. */
attn_status device_upload(struct workload *workload, attn_context *context, char *error,
                          size_t size);
/* Waits for the launches, and copies o and the outputs back. ERROR_FAULT: a launch met one, and the
 * results were copied all the same. */
attn_status device_download(struct workload *workload, attn_context *context, char *error,
                            size_t size);
void device_release(struct workload *workload, attn_context *context);

/* The three with one launch between. */
attn_status device_run(struct workload *workload, attn_program *program, attn_context *context,
                       char *error, size_t size);

/* The time of one launch, without the copies: by the clock on the CPU, by the device's own on a
 * device. Milliseconds. */
struct device_timer;
/* NULL after an error. */
struct device_timer *device_timer_new(attn_context *context, char *error, size_t size);
void device_timer_free(struct device_timer *timer); /* before its context; NULL is fine */
attn_status device_timer_launch(struct device_timer *timer, struct workload *workload,
                                attn_program *program, double *ms, char *error, size_t size);

#endif
