#include "runtime/cuda_launch.h"

#include "compiler/tile/abi.h"
#include "dsl/base/memory.h"
#include "runtime/cuda_code.h"
#include "runtime/cuda_copy.h"
#include "runtime/cuda_faults.h"
#include "runtime/cuda_staging.h"
#include "runtime/tensor_check.h"

#include <string.h>

struct device_launch {
  struct attn_context *context;
  struct cuda_device *device;
  struct launch_plan *plan;
  const struct error_sink *sink;
  struct cuda_stream *stream;
  const struct cuda_copy *copy;     /* where something is packed */
  struct launch_space space;        /* of the workspace */
  size_t constants;                 /* bytes at its beginning that the host fills */
  struct block *block;              /* for a kernel's slots */
  struct cuda_staging *staging;     /* what the constants are copied from */
  struct cuda_workspace *workspace; /* locked, or NULL: the caller's, or none is needed */
  cuda_address base;                /* of the workspace */
  unsigned char *fetched[2];        /* starts that were in device memory */
  bool capturing;
};

/* ---- starts of sequences ---- */

static bool is_on_device(const DLTensor *tensor)
{
  return tensor != NULL && (tensor->device.device_type == kDLCUDA ||
                            (int)tensor->device.device_type == kDLCUDAManaged);
}

/* What the host has to see now makes it wait for the stream, which a graph cannot. */
static attn_status download(const struct device_launch *l, const char *what, void *to,
                            const void *from, size_t bytes)
{
  if (l->capturing)
    return error_report(l->sink, ATTN_ERROR_ARGUMENT,
                        "%s is in device memory, and the host has to read it before the launch, "
                        "which a stream that is capturing does not allow",
                        what);
  cuda_result result = cuda.download(to, (cuda_address)(uintptr_t)from, bytes, l->stream);
  if (result == CUDA_OK)
    result = cuda.stream_synchronize(l->stream);
  return cuda_check(l->sink, result, "read what is in device memory");
}

/* Replaces starts on the device, *tensor, by `copy` in host memory. */
static attn_status fetch_starts(struct device_launch *l, int which, const char *what,
                                const DLTensor **tensor, DLTensor *copy)
{
  if (!is_on_device(*tensor))
    return ATTN_OK;
  const bool wide = dtype_of_dlpack((*tensor)->dtype) != DTYPE_I32;
  struct wanted_tensor wanted = {.what = what,
                                 .device = l->device,
                                 .type = wide ? DTYPE_I64 : DTYPE_I32,
                                 .rank = 1,
                                 .dims = {{-1, "B + 1", NULL}}};
  struct bound_tensor bound;
  attn_status status = tensor_check(*tensor, &wanted, l->sink, &bound);
  if (status != ATTN_OK)
    return status;
  *copy = **tensor;
  copy->device = (DLDevice){kDLCPU, 0};
  copy->byte_offset = 0;
  copy->data = NULL;
  *tensor = copy;
  if (bound.empty)
    return ATTN_OK;
  uintptr_t first, end;
  tensor_extent(&bound, &first, &end);
  copy->data = l->fetched[which] = mem_alloc(end - first);
  if (copy->data == NULL)
    return error_out_of_memory(l->sink);
  return download(l, what, copy->data, bound.data, end - first);
}

/* ---- planning ---- */

static bool plan_workspace(struct device_launch *l)
{
  struct launch_plan *p = l->plan;
  l->space.size = 0;
  if (!launch_plan_starts(p, &l->space, true) || !launch_plan_rotary(p, &l->space) ||
      !launch_plan_cache(p, &l->space))
    return false;
  l->constants = l->space.size;
  if (p->unit->workspace_count != 0) {
    if (arena_guard(&p->evaluator->arena) || !launch_plan_workspaces(p, &l->space))
      return false;
  }
  return launch_plan_packed(p, &l->space) && launch_plan_summaries(p, &l->space);
}

static attn_status plan_all(struct device_launch *l)
{
  if (!plan_workspace(l))
    return error_out_of_memory(l->sink);
  if (l->plan->packed_count == 0)
    return ATTN_OK;
  return cuda_copy_prepare(l->device, &l->context->disk, l->sink, &l->copy);
}

static bool take_block(struct device_launch *l)
{
  const struct unit *unit = l->plan->unit;
  size_t slots = 0;
  for (size_t n = 0; n < unit->kernel_count; n++)
    slots = unit->kernels[n].slot_count > slots ? unit->kernels[n].slot_count : slots;
  l->block = context_take_block(l->context, slots * sizeof(int64_t));
  return l->block != NULL;
}

/* ---- workspace ---- */

static attn_status check_given_workspace(struct device_launch *l, const attn_arguments *arguments)
{
  l->base = (cuda_address)(uintptr_t)arguments->workspace;
  int other;
  if (arguments->workspace_size < l->space.size)
    return error_report(l->sink, ATTN_ERROR_ARGUMENT,
                        "the workspace has %zu bytes, and this launch needs %zu "
                        "(attn_workspace_size)",
                        arguments->workspace_size, l->space.size);
  if (l->base % CUDA_ALIGNMENT != 0)
    return error_report(l->sink, ATTN_ERROR_ARGUMENT, "the workspace is not aligned to %d bytes",
                        CUDA_ALIGNMENT);
  if (l->space.size != 0 && cuda_pointer_place(l->device, l->base, &other) != CUDA_POINTER_HERE)
    return error_report(l->sink, ATTN_ERROR_ARGUMENT,
                        "the workspace is not in the memory of cuda:%d", l->device->number);
  return ATTN_OK;
}

static attn_status choose_workspace(struct device_launch *l, const attn_arguments *arguments)
{
  if (arguments->workspace != NULL)
    return check_given_workspace(l, arguments);
  if (l->space.size == 0)
    return ATTN_OK;
  if (l->capturing)
    return error_report(l->sink, ATTN_ERROR_ARGUMENT,
                        "a launch that is captured into a graph needs a workspace of yours, of %zu "
                        "bytes (attn_workspace_size), which lives as long as the graph",
                        l->space.size);
  l->workspace = cuda_workspace_lock(l->device, l->stream, l->sink);
  if (l->workspace == NULL)
    return ATTN_ERROR_OUT_OF_MEMORY;
  attn_status status = cuda_workspace_reserve(l->workspace, l->space.size, l->sink);
  l->base = l->workspace->data;
  return status;
}

static unsigned char *place(const struct device_launch *l, const struct bound_tensor *tensor,
                            size_t offset)
{
  cuda_address address = tensor->empty ? l->device->zeros : l->base + offset;
  return (unsigned char *)(uintptr_t)address;
}

/* What the constants have of a tensor in host memory. */
static struct bound_tensor place_copy(const struct device_launch *l,
                                      const struct bound_tensor *tensor, size_t offset)
{
  struct bound_tensor copy = *tensor;
  size_t bytes;
  tensor_make_compact(&copy, &bytes);
  copy.data = place(l, &copy, offset);
  return copy;
}

static void place_tensors(struct device_launch *l)
{
  struct launch_plan *p = l->plan;
  const struct unit *unit = p->unit;
  for (uint32_t n = 0; n < p->packed_count; n++)
    p->packed[n].tensor->data = place(l, p->packed[n].tensor, p->packed[n].offset);
  for (uint32_t n = 0; n < unit->workspace_count; n++) {
    if (unit->workspaces[n] != NULL)
      p->workspaces[n].data = place(l, &p->workspaces[n], p->workspace_offset[n]);
  }
  uint32_t input;
  for (uint32_t n = 0; unit->summaries_used >> n != 0; n++) {
    if (launch_summary_input(p, n, &input))
      p->summaries[n].data = place(l, &p->summaries[n], p->summary_offset[n]);
  }
  for (int n = 0; n < LAUNCH_ROTARY_TABLES && unit->spec->has_rotary; n++) {
    cuda_address constant = unit->rotary_on_device + (size_t)n * unit->spec->dim_qk * sizeof(float);
    p->rotary[n].data = unit->rotary_is_constant ? (unsigned char *)(uintptr_t)constant
                                                 : place(l, &p->rotary[n], p->rotary_offset[n]);
  }
  for (uint32_t n = 0; n < LAUNCH_HOST_CACHE; n++) {
    if (launch_cache_is_on_host(p, n))
      p->call.cache[n] = place_copy(l, &p->call.cache[n], p->cache_offset[n]);
  }
  for (int n = 0; n < 2 && unit_is_packed(unit); n++)
    p->starts[n].data = place(l, &p->starts[n], p->starts_offset[n]);
}

/* ---- constants ---- */

/* An input that a rotary angle reads, in host memory while the angles are evaluated. */
struct fetched_input {
  struct bound_tensor planned; /* what stands in the call before and after */
  unsigned char data[];
};

struct input_reader {
  struct device_launch *l;
  struct fetched_input *inputs[SPEC_MAX_INPUTS]; /* those that were asked for */
  attn_status status;
};

static attn_status fetch_input(struct input_reader *reader, uint32_t number)
{
  struct launch_plan *p = reader->l->plan;
  struct bound_tensor *input = &p->call.inputs[number];
  if (reader->inputs[number] != NULL || input->empty)
    return ATTN_OK;
  struct bound_tensor given = *input;
  for (uint32_t n = 0; n < p->packed_count; n++) {
    if (p->packed[n].tensor == input)
      given = p->packed[n].original; /* its copy is not made yet */
  }
  uintptr_t first, end;
  tensor_extent(&given, &first, &end);
  struct fetched_input *fetched = mem_alloc(sizeof(*fetched) + (end - first));
  if (fetched == NULL)
    return error_out_of_memory(reader->l->sink);
  reader->inputs[number] = fetched;
  fetched->planned = *input;
  *input = given;
  input->data = fetched->data;
  return download(reader->l, "an input that a rotary angle reads", fetched->data, given.data,
                  end - first);
}

static bool read_input(void *user, uint32_t tensor, const int64_t *indices, size_t count,
                       union expr_value *value, struct expr_fault *fault)
{
  struct input_reader *reader = user;
  if (tensor >= EXPR_TENSOR_INPUT && reader->status == ATTN_OK)
    reader->status = fetch_input(reader, tensor - EXPR_TENSOR_INPUT);
  *value = (union expr_value){0};
  if (reader->status != ATTN_OK)
    return true; /* and what is evaluated is thrown away */
  return call_read(&reader->l->plan->call, tensor, indices, count, value, fault);
}

static attn_status fill_rotary(struct device_launch *l, unsigned char *image)
{
  struct launch_plan *p = l->plan;
  if (!p->unit->spec->has_rotary || p->unit->rotary_is_constant)
    return ATTN_OK;
  const struct rotary_tables tables = {(int32_t *)(void *)(image + p->rotary_offset[0]),
                                       (float *)(void *)(image + p->rotary_offset[1]),
                                       (float *)(void *)(image + p->rotary_offset[2]),
                                       (float *)(void *)(image + p->rotary_offset[3])};
  struct input_reader reader = {.l = l};
  expr_set_reader(p->evaluator->evaluator, read_input, NULL, &reader);
  attn_status status = launch_evaluate_rotary(p, &tables);
  for (uint32_t n = 0; n < SPEC_MAX_INPUTS; n++) {
    if (reader.inputs[n] != NULL)
      p->call.inputs[n] = reader.inputs[n]->planned;
    mem_free(reader.inputs[n]);
  }
  return reader.status != ATTN_OK ? reader.status : status;
}

/* Host memory for them, which the stream reads when it comes to it; a graph whenever it is
 * launched. NULL after an error, with its status. */
static unsigned char *take_image(struct device_launch *l, attn_status *status)
{
  *status = ATTN_ERROR_OUT_OF_MEMORY;
  if (l->capturing)
    return cuda_code_keep(l->plan->unit->device_code, l->constants, l->sink);
  l->staging = cuda_staging_take(l->device, l->constants, l->sink, status);
  return l->staging == NULL ? NULL : l->staging->data;
}

/* One copy for all. */
static attn_status upload_constants(struct device_launch *l)
{
  if (l->constants == 0)
    return ATTN_OK;
  struct launch_plan *p = l->plan;
  attn_status status;
  unsigned char *image = take_image(l, &status);
  if (image == NULL)
    return status;
  for (int n = 0; n < 2 && unit_is_packed(p->unit); n++)
    launch_copy_starts(p, n, (int64_t *)(void *)(image + p->starts_offset[n]));
  launch_copy_cache(p, image);
  status = fill_rotary(l, image);
  if (status != ATTN_OK)
    return status;
  cuda_result result = cuda.upload(l->base, image, l->constants, l->stream);
  return result == CUDA_OK ? ATTN_OK : cuda_check(l->sink, result, "upload a launch's constants");
}

/* ---- enqueueing ---- */

static attn_status copy_packed(const struct device_launch *l, bool written)
{
  attn_status status = ATTN_OK;
  for (uint32_t n = 0; n < l->plan->packed_count && status == ATTN_OK; n++) {
    const struct launch_packed *packed = &l->plan->packed[n];
    if (packed->written == written)
      status = cuda_copy_enqueue(l->copy, written ? &packed->original : packed->tensor,
                                 written ? packed->tensor : &packed->original, l->stream, l->sink);
  }
  return status;
}

/* Whether the host has looked at lengths and tables. */
static bool tables_are_checked(const struct launch_plan *p)
{
  const struct cache_plan *cache = p->unit->cache;
  for (uint32_t n = 0; n < cache->count; n++) {
    const enum cache_part part = cache->tensors[n].part;
    if ((part == CACHE_LENGTHS || part == CACHE_PAGE_TABLE || part == CACHE_SEEN) &&
        !launch_cache_is_on_host(p, n))
      return false;
  }
  return true;
}

static attn_status enqueue_kernels(const struct device_launch *l)
{
  const struct launch_plan *p = l->plan;
  struct cuda_faults *faults = p->unit->faults;
  const uint32_t record = faults == NULL ? 0 : cuda_faults_take(faults, p);
  int64_t *slots = (int64_t *)(void *)(l->block->data);
  attn_status status = ATTN_OK;
  for (size_t n = 0; n < p->unit->kernel_count && status == ATTN_OK; n++) {
    const struct unit_kernel *kernel = &p->unit->kernels[n];
    if (kernel->checks_tables && tables_are_checked(p))
      continue;
    cuda_address fault = faults == NULL ? 0 : cuda_faults_record(faults, record, n);
    status = launch_fill_slots(p, kernel->tile, slots, (int64_t)fault);
    if (status == ATTN_OK)
      status = cuda_code_launch(&p->unit->compiled->kernels.items[n], kernel->function, slots,
                                l->stream, l->sink);
  }
  if (status == ATTN_OK)
    status = copy_packed(l, true);
  return status == ATTN_OK && faults != NULL ? cuda_faults_fetch(faults, record, l->stream, l->sink)
                                             : status;
}

static attn_status enqueue(struct device_launch *l, const attn_arguments *arguments)
{
  if (!take_block(l))
    return error_out_of_memory(l->sink);
  attn_status status = choose_workspace(l, arguments);
  if (status != ATTN_OK)
    return status;
  status = upload_constants(l); /* it reads tensors, so their places come after */
  if (status != ATTN_OK)
    return status;
  place_tensors(l);
  status = copy_packed(l, false);
  return status == ATTN_OK ? enqueue_kernels(l) : status;
}

/* ---- all ---- */

static attn_status run(struct device_launch *l, attn_arguments *arguments, size_t *workspace_size)
{
  struct launch_plan *p = l->plan;
  DLTensor starts[2];
  attn_status status = cuda_is_capturing(l->sink, l->stream, &l->capturing);
  if (status == ATTN_OK && p->unit->faults != NULL && !l->capturing && workspace_size == NULL)
    status = cuda_faults_report(p->unit->faults, l->stream, l->sink);
  if (status == ATTN_OK)
    status = fetch_starts(l, 0, "query_starts", &arguments->query_starts, &starts[0]);
  if (status == ATTN_OK)
    status = fetch_starts(l, 1, "key_starts", &arguments->key_starts, &starts[1]);
  if (status == ATTN_OK)
    status = arguments_check(p->unit, arguments, p->evaluator, l->sink, &p->call);
  if (status == ATTN_OK)
    status = plan_all(l);
  if (status != ATTN_OK)
    return status;
  if (workspace_size != NULL) {
    *workspace_size = l->space.size;
    return ATTN_OK;
  }
  return enqueue(l, arguments);
}

attn_status cuda_launch(struct attn_context *context, struct launch_plan *plan,
                        const attn_arguments *given, size_t *workspace_size)
{
  attn_arguments arguments = *given;
  struct device_launch l = {.context = context,
                            .device = context->device,
                            .plan = plan,
                            .sink = plan->sink,
                            .stream = given->stream};
  attn_status status = cuda_enter(l.device, l.sink);
  if (status != ATTN_OK)
    return status;
  status = run(&l, &arguments, workspace_size);
  cuda_staging_give(l.device, l.staging, l.stream);
  cuda_leave();
  cuda_workspace_unlock(l.workspace);
  context_give_block(context, l.block);
  mem_free(l.fetched[0]);
  mem_free(l.fetched[1]);
  return status;
}
