/* attn_launch: checks, makes the tensors that kernels need besides the caller's, and runs the
 * kernels; here on the CPU, in cuda_launch.c on a device. */
#include "compiler/tile/abi.h"
#include "runtime/checker.h"
#include "runtime/cuda_launch.h"
#include "runtime/launch_plan.h"
#include "runtime/program.h"
#include "runtime/task_order.h"

#include <string.h>

struct launch {
  struct attn_context *context;
  struct block *block;
  struct launch_space space; /* of the block */
  size_t slots_offset, scratch_offset, scratch_stride, order_offset;
  struct task_order order;
  struct launch_plan plan;
};

/* ---- planning ---- */

static bool plan_kernels(struct launch *l)
{
  const struct unit *unit = l->plan.unit;
  size_t slots = 0, scratch = 0, all;
  for (size_t n = 0; n < unit->kernel_count; n++) {
    const struct unit_kernel *kernel = &unit->kernels[n];
    slots = kernel->slot_count > slots ? kernel->slot_count : slots;
    scratch = kernel->scratch_bytes > scratch ? kernel->scratch_bytes : scratch;
  }
  if (scratch > PTRDIFF_MAX / 2)
    return false;
  l->scratch_stride = (scratch + BLOCK_ALIGNMENT - 1) / BLOCK_ALIGNMENT * BLOCK_ALIGNMENT;
  return !__builtin_mul_overflow(l->scratch_stride, thread_pool_count(l->context->threads), &all) &&
         launch_reserve(&l->space, slots * sizeof(int64_t), &l->slots_offset) &&
         launch_reserve(&l->space, all, &l->scratch_offset);
}

/* Threads that are alone take tasks as they come. */
static bool plan_order(struct launch *l)
{
  size_t bytes;
  l->order = (struct task_order){0, NULL};
  if (thread_pool_count(l->context->threads) > 1)
    l->order.count = task_order_room(&l->plan);
  return !__builtin_mul_overflow((size_t)l->order.count, sizeof(struct task_sequence), &bytes) &&
         launch_reserve(&l->space, bytes, &l->order_offset);
}

static bool plan(struct launch *l)
{
  struct launch_plan *p = &l->plan;
  if (p->unit->workspace_count != 0) {
    if (arena_guard(&p->evaluator->arena) || !launch_plan_workspaces(p, &l->space))
      return false;
  }
  return plan_kernels(l) && plan_order(l) && launch_plan_packed(p, &l->space) &&
         launch_plan_starts(p, &l->space, false) && launch_plan_rotary(p, &l->space) &&
         launch_plan_summaries(p, &l->space);
}

/* ---- filling ---- */

static void fill_starts(struct launch *l)
{
  if (!unit_is_packed(l->plan.unit))
    return;
  for (int n = 0; n < 2; n++) {
    if (l->plan.starts_offset[n] == SIZE_MAX)
      continue;
    l->plan.starts[n].data = l->block->data + l->plan.starts_offset[n];
    launch_copy_starts(&l->plan, n, (int64_t *)(void *)l->plan.starts[n].data);
  }
}

static attn_status fill_rotary(struct launch *l)
{
  struct launch_plan *p = &l->plan;
  if (!p->unit->spec->has_rotary)
    return ATTN_OK;
  struct rotary_tables tables = p->unit->rotary;
  if (!p->unit->rotary_is_constant) {
    unsigned char *data = l->block->data;
    tables = (struct rotary_tables){(int32_t *)(void *)(data + p->rotary_offset[0]),
                                    (float *)(void *)(data + p->rotary_offset[1]),
                                    (float *)(void *)(data + p->rotary_offset[2]),
                                    (float *)(void *)(data + p->rotary_offset[3])};
  }
  void *data[LAUNCH_ROTARY_TABLES] = {tables.turns, tables.rest, tables.cosine, tables.sine};
  for (int n = 0; n < LAUNCH_ROTARY_TABLES; n++)
    p->rotary[n].data = data[n];
  if (p->unit->rotary_is_constant)
    return ATTN_OK;
  expr_set_reader(p->evaluator->evaluator, call_read, NULL, &p->call);
  return launch_evaluate_rotary(p, &tables);
}

static attn_status fill(struct launch *l)
{
  struct launch_plan *p = &l->plan;
  unsigned char *data = l->block->data;
  for (uint32_t n = 0; n < p->packed_count; n++) {
    struct launch_packed *packed = &p->packed[n];
    packed->tensor->data = data + packed->offset;
    if (!packed->written)
      tensor_copy(packed->tensor, &packed->original);
  }
  fill_starts(l);
  if (l->order.count != 0)
    task_order_sort(p, (struct task_sequence *)(void *)(data + l->order_offset), &l->order);
  for (uint32_t n = 0; n < SPEC_MAX_INPUTS; n++) {
    uint32_t input;
    if (!launch_summary_input(p, n, &input))
      continue;
    p->summaries[n].data = p->summaries[n].empty ? tensor_zero_page() : data + p->summary_offset[n];
    summary_fill(&p->call.inputs[input], &p->summaries[n]);
  }
  for (uint32_t n = 0; n < p->unit->workspace_count; n++) {
    if (p->unit->workspaces[n] == NULL)
      continue;
    p->workspaces[n].data =
        p->workspaces[n].empty ? tensor_zero_page() : data + p->workspace_offset[n];
  }
  return fill_rotary(l);
}

/* ---- running ---- */

struct kernel_job {
  const struct unit_kernel *kernel;
  const int64_t *slots;
  const struct task_order *order;
  int64_t tasks;
  unsigned char *scratch;
  size_t scratch_stride;
};

static void run_task(void *user, int64_t number, unsigned worker)
{
  const struct kernel_job *job = user;
  const int64_t task = task_order_at(job->order, job->tasks, number);
  job->kernel->run(job->slots, task, job->scratch + worker * job->scratch_stride);
}

static attn_status run_kernels(struct launch *l)
{
  const struct launch_plan *p = &l->plan;
  int64_t *slots = (int64_t *)(void *)(l->block->data + l->slots_offset);
  for (size_t n = 0; n < p->unit->kernel_count; n++) {
    const struct unit_kernel *kernel = &p->unit->kernels[n];
    struct tile_fault fault = {0};
    attn_status status = launch_fill_slots(p, kernel->tile, slots, (int64_t)(intptr_t)&fault);
    if (status != ATTN_OK)
      return status;
    struct kernel_job job = {
        .kernel = kernel,
        .slots = slots,
        .order = &l->order,
        .tasks = kernel->tasks(slots),
        .scratch = l->block->data + l->scratch_offset,
        .scratch_stride = l->scratch_stride,
    };
    thread_pool_run(l->context->threads, job.tasks, run_task, &job);
    if (fault.raised != 0) {
      struct tile_fault_site site = launch_fault_site(p->unit->spec, kernel->tile, fault.site);
      return launch_report_fault(p->unit, p->sink, "", &site, fault.index,
                                 launch_fault_size(p, &site));
    }
  }
  for (uint32_t n = 0; n < p->packed_count; n++) {
    if (p->packed[n].written)
      tensor_copy(&p->packed[n].original, p->packed[n].tensor);
  }
  return ATTN_OK;
}

static attn_status launch_on_cpu(struct launch *l, const attn_arguments *arguments)
{
  struct launch_plan *p = &l->plan;
  attn_status status = arguments_check(p->unit, arguments, p->evaluator, p->sink, &p->call);
  if (status != ATTN_OK)
    return status;
  if (!plan(l))
    return error_out_of_memory(p->sink);
  l->block = context_take_block(l->context, l->space.size);
  if (l->block == NULL)
    return error_out_of_memory(p->sink);
  status = fill(l);
  return status == ATTN_OK ? run_kernels(l) : status;
}

/* ---- entry points ---- */

/* The most rows of q of a sequence. Nothing is checked yet: of shapes that are wrong it is any
 * number. Starts in device memory, which would have to be waited for, count as one sequence. */
static int64_t longest_queries(const attn_arguments *arguments, bool packed)
{
  const DLTensor *q = arguments->q, *starts = arguments->query_starts;
  if (q->shape == NULL || q->ndim < 3)
    return 0;
  if (!packed)
    return q->ndim == 4 ? q->shape[2] : 0;
  struct bound_tensor bound;
  const struct error_sink quiet = {NULL, NULL, 0};
  struct wanted_tensor wanted = {
      .what = "query_starts", .type = DTYPE_I64, .rank = 1, .dims = {{-1, "B + 1", NULL}}};
  if (starts != NULL && dtype_of_dlpack(starts->dtype) == DTYPE_I32)
    wanted.type = DTYPE_I32;
  if (tensor_check(starts, &wanted, &quiet, &bound) != ATTN_OK)
    return q->shape[0];
  int64_t longest = 0;
  for (int64_t b = 1; b < bound.sizes[0]; b++) {
    const int64_t rows = checker_int_at(&bound, b) - checker_int_at(&bound, b - 1);
    longest = rows > longest ? rows : longest;
  }
  return longest;
}

/* Tokens of k where it is given, of a ragged batch all of them together; as unchecked. */
static int64_t given_keys(const attn_arguments *arguments)
{
  const DLTensor *k = arguments->k;
  if (k == NULL || k->shape == NULL || k->ndim < 3)
    return 0;
  return k->ndim == 4 ? k->shape[2] : k->shape[0];
}

/* Which of the program's units a launch takes. */
static attn_status choose_variant(const attn_program *program, const attn_arguments *arguments,
                                  bool appends, const struct error_sink *sink,
                                  struct unit_variant *variant)
{
  const struct unit *front = program->front;
  *variant = (struct unit_variant){.on_cache = arguments->cache_count != 0};
  attn_status status = appends ? arguments_type(front, "k", arguments->k, sink, &variant->type)
                               : arguments_type(front, "q", arguments->q, sink, &variant->type);
  if (status != ATTN_OK)
    return status;
  if (appends && !variant->on_cache)
    return error_report(sink, ATTN_ERROR_ARGUMENT,
                        "cache_count is 0; attn_append needs the tensors of the cache");
  const bool packed = front->info.ragged || (variant->on_cache && arguments->query_starts != NULL);
  variant->packed_queries = variant->on_cache && packed;
  if (appends)
    variant->kernel = KERNEL_APPEND;
  else
    program_choose_kernel(program, longest_queries(arguments, packed), given_keys(arguments),
                          variant);
  variant->shared_prefix = arguments->shared_prefix > 0 && program_may_share(variant);
  return ATTN_OK;
}

/* A copy of the caller's struct, and the unit that it asks for. */
static attn_status open_launch(attn_program *program, const attn_arguments *given, bool appends,
                               attn_arguments *arguments, struct error_sink *sink,
                               struct unit **unit)
{
  if (given == NULL)
    return error_report(sink, ATTN_ERROR_ARGUMENT, "the arguments are NULL");
  if (!options_copy(arguments, sizeof(*arguments), given, given->size))
    return error_report(sink, ATTN_ERROR_ARGUMENT,
                        "the arguments have the size %zu; begin with ATTN_ARGUMENTS_INIT",
                        given->size);
  sink->buffer = arguments->error;
  sink->size = arguments->error_size;
  struct unit_variant variant;
  attn_status status = choose_variant(program, arguments, appends, sink, &variant);
  return status == ATTN_OK ? program_unit(program, &variant, sink, unit) : status;
}

/* With the evaluator that the unit's launches need. `size` as for cuda_launch. */
static attn_status run_launch(attn_program *program, struct unit *unit,
                              const attn_arguments *arguments, const struct error_sink *sink,
                              size_t *size)
{
  struct launch l; /* large: the parts in use are set as they are planned */
  l.context = program->context;
  l.block = NULL;
  l.space.size = 0;
  l.plan.unit = unit;
  l.plan.sink = sink;
  l.plan.evaluator = NULL;
  if (unit->needs_evaluator && (l.plan.evaluator = unit_take_evaluator(unit)) == NULL)
    return error_out_of_memory(sink);
  attn_status status = program->context->device != NULL
                           ? cuda_launch(program->context, &l.plan, arguments, size)
                           : launch_on_cpu(&l, arguments);
  context_give_block(program->context, l.block);
  /* An arena that ran out of memory was left in the middle of something. */
  if (status == ATTN_ERROR_OUT_OF_MEMORY)
    unit_free_evaluator(l.plan.evaluator);
  else
    unit_give_evaluator(unit, l.plan.evaluator);
  return status;
}

static attn_status launch(attn_program *program, const attn_arguments *given, bool appends)
{
  if (program == NULL)
    return ATTN_ERROR_ARGUMENT;
  struct error_sink sink = {program->context, NULL, 0};
  attn_arguments arguments = ATTN_ARGUMENTS_INIT;
  struct unit *unit;
  attn_status status = open_launch(program, given, appends, &arguments, &sink, &unit);
  if (status == ATTN_OK)
    status = run_launch(program, unit, &arguments, &sink, NULL);
  if (status == ATTN_OK)
    atomic_fetch_add_explicit(&program->context->launches, 1, memory_order_relaxed);
  return status;
}

attn_status attn_launch(attn_program *program, const attn_arguments *given)
{
  return launch(program, given, false);
}

attn_status attn_append(attn_program *program, const attn_arguments *given)
{
  return launch(program, given, true);
}

static attn_status workspace_size(attn_program *program, const attn_arguments *given, bool appends,
                                  size_t *size)
{
  if (program == NULL || size == NULL)
    return ATTN_ERROR_ARGUMENT;
  *size = 0;
  struct error_sink sink = {program->context, NULL, 0};
  attn_arguments arguments = ATTN_ARGUMENTS_INIT;
  struct unit *unit;
  attn_status status = open_launch(program, given, appends, &arguments, &sink, &unit);
  if (status != ATTN_OK || program->context->device == NULL)
    return status;
  return run_launch(program, unit, &arguments, &sink, size);
}

attn_status attn_workspace_size(attn_program *program, const attn_arguments *given, size_t *size)
{
  return workspace_size(program, given, false, size);
}

attn_status attn_append_workspace_size(attn_program *program, const attn_arguments *given,
                                       size_t *size)
{
  return workspace_size(program, given, true, size);
}
