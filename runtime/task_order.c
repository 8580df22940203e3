#include "runtime/task_order.h"

#include "runtime/checker.h"

#include <stdlib.h>

int64_t task_order_room(const struct launch_plan *plan)
{
  const struct unit *unit = plan->unit;
  const int64_t count = plan->call.batch;
  return count > 1 && (unit->variant.on_cache || unit_is_packed(unit)) ? count : 0;
}

static int64_t span(const struct bound_tensor *starts, int64_t b)
{
  return checker_int_at(starts, b + 1) - checker_int_at(starts, b);
}

/* More pairs first; else as they are numbered, which makes the order complete. */
static int compare(const void *left, const void *right)
{
  const struct task_sequence *x = left, *y = right;
  if (x->pairs != y->pairs)
    return x->pairs > y->pairs ? -1 : 1;
  return x->number < y->number ? -1 : 1;
}

void task_order_sort(const struct launch_plan *plan, struct task_sequence *room,
                     struct task_order *order)
{
  const struct unit *unit = plan->unit;
  const struct call *call = &plan->call;
  const bool packed = unit_is_packed(unit);
  const struct bound_tensor *lengths = NULL;
  if (unit->variant.on_cache)
    lengths = &call->cache[cache_plan_find(unit->cache, EXPR_TENSOR_K, CACHE_LENGTHS)];
  for (int64_t b = 0; b < call->batch; b++) {
    const int64_t rows = packed ? span(&call->starts[0], b) : call->max_queries;
    const int64_t keys = lengths != NULL ? checker_int_at(lengths, b) : span(&call->starts[1], b);
    room[b] = (struct task_sequence){(double)rows * (double)keys, b};
  }
  qsort(room, (size_t)call->batch, sizeof(*room), compare);
  *order = (struct task_order){call->batch, room};
}

int64_t task_order_at(const struct task_order *order, int64_t tasks, int64_t n)
{
  if (order->sorted == NULL || tasks % order->count != 0)
    return tasks - 1 - n;
  const int64_t each = tasks / order->count; /* of a sequence */
  return order->sorted[n / each].number * each + (each - 1 - n % each);
}
