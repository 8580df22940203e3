/* The order in which the tasks of a kernel start on the CPU. Any order gives the same results; with
 * the small tasks last no thread is left with a large one when the others are done.
 *
 * Kernels number their tasks by sequence first and by tile of rows among the last. Later rows see
 * no fewer keys under all masks that look back, so that the tasks of a sequence start from the
 * last. Sequences of a ragged batch or a cache start with those that have most pairs of query and
 * key. Tasks of a head stay together, for what they read is the same.
 */
#ifndef ATTN_RUNTIME_TASK_ORDER_H
#define ATTN_RUNTIME_TASK_ORDER_H

#include "runtime/launch_plan.h"

struct task_sequence {
  double pairs; /* of query and key, before the mask */
  int64_t number;
};

struct task_order {
  int64_t count;                      /* of sequences */
  const struct task_sequence *sorted; /* NULL: from the last to the first */
};

/* How many sequences task_order_sort has to sort: 0 where all are equally long. */
int64_t task_order_room(const struct launch_plan *plan);
/* Fills `room`, of so many, and points `order` to it. The arguments are checked and on the CPU. */
void task_order_sort(const struct launch_plan *plan, struct task_sequence *room,
                     struct task_order *order);
/* The task that starts as number n of `tasks`. */
int64_t task_order_at(const struct task_order *order, int64_t tasks, int64_t n);

#endif
