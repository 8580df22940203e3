#include "runtime/attnc/bind.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "dsl/diagnostics.h"
#include "runtime/attnc/tensor_file.h"

enum { MAX_NAMES = 128 };

/* "q=path": cuts the name off; the path alone when what stands before '=' is no name. */
static const char *split_name(const char *text, char name[64])
{
  size_t length = 0;
  while (isalnum((unsigned char)text[length]) || text[length] == '_')
    length++;
  name[0] = '\0';
  if (length == 0 || length >= 64 || text[length] != '=')
    return text;
  memcpy(name, text, length);
  name[length] = '\0';
  return text + length + 1;
}

/* Moves the tensors of `from` to the end of `all`. */
static enum exit_status append(struct tensor_list *all, struct tensor_list *from, const char *path)
{
  for (size_t k = 0; k < from->count; k++)
    if (tensor_list_find(all, from->items[k].name) != NULL)
      return fail_with(
          EXIT_WRONG,
          "%s: there is a tensor '%s' already; give each once, or rename with --in NAME=FILE", path,
          from->items[k].name);
  struct tensor *items = mem_realloc(all->items, (all->count + from->count + 1) * sizeof(*items));
  if (items == NULL)
    return fail_memory();
  all->items = items;
  memcpy(items + all->count, from->items, from->count * sizeof(*items));
  all->count += from->count;
  from->count = 0;
  return EXIT_FINE;
}

static enum exit_status read_file(struct tensor_list *all, const char *argument)
{
  char name[64];
  const char *path = split_name(argument, name);
  struct tensor_list read;
  struct tensor_error error;
  enum exit_status status = report_tensor(tensor_file_read(&read, path, &error), &error);
  if (status != EXIT_FINE)
    return status;
  if (name[0] != '\0' && read.count != 1)
    status = fail_with(
        EXIT_WRONG,
        "%s: it holds %zu tensors, so that --in %s=FILE does not say which; leave '%s=' out", path,
        read.count, name, name);
  else if (name[0] != '\0')
    status = report_tensor(tensor_rename(&read.items[0], name, &error), &error);
  if (status == EXIT_FINE)
    status = append(all, &read, path);
  tensor_list_free(&read);
  return status;
}

static bool is_float(DLDataType dtype)
{
  return dtype.code == kDLFloat || dtype.code == kDLBfloat;
}

/* Replaces the tensor by one of another type. Integers must keep their values. */
static enum exit_status convert(struct tensor *tensor, DLDataType dtype)
{
  struct tensor made;
  struct tensor_error error;
  enum exit_status status = report_tensor(
      tensor_init(&made, tensor->name, dtype, tensor->ndim, tensor->shape, &error), &error);
  if (status != EXIT_FINE)
    return status;
  int64_t count = tensor_count(tensor);
  for (int64_t n = 0; n < count && status == EXIT_FINE; n++) {
    double value = tensor_get(tensor, n);
    tensor_set(&made, n, value);
    if (!is_float(dtype) && tensor_get(&made, n) != value)
      status =
          fail_with(EXIT_WRONG, "tensor '%s': element %lld is %.17g, which does not fit into %s",
                    tensor->name, (long long)n, value, tensor_dtype_name(dtype));
  }
  if (status == EXIT_FINE) {
    tensor_free(tensor);
    *tensor = made;
  } else {
    tensor_free(&made);
  }
  return status;
}

/* Floats become what --type says, integers what the spec says; anything else is wrong. */
static enum exit_status fit_type(struct tensor *tensor, DLDataType dtype, bool may_round)
{
  if (tensor_dtype_equal(tensor->dtype, dtype))
    return EXIT_FINE;
  bool both_float = is_float(tensor->dtype) && is_float(dtype);
  bool neither = !is_float(tensor->dtype) && !is_float(dtype);
  if (neither || (both_float && may_round))
    return convert(tensor, dtype);
  if (both_float)
    return fail_with(EXIT_WRONG, "tensor '%s' is %s where %s is needed; --type %s converts it",
                     tensor->name, tensor_dtype_name(tensor->dtype), tensor_dtype_name(dtype),
                     tensor_dtype_name(dtype));
  return fail_with(EXIT_WRONG, "tensor '%s' is %s where %s is needed; store it as that",
                   tensor->name, tensor_dtype_name(tensor->dtype), tensor_dtype_name(dtype));
}

/* Moves the tensor called `name` out of the list. */
static enum exit_status take(struct tensor_list *all, const char *name, struct tensor *into)
{
  struct tensor *found = tensor_list_find(all, name);
  if (found != NULL) {
    *into = *found;
    *found = all->items[--all->count];
    return EXIT_FINE;
  }
  const char *names[MAX_NAMES];
  size_t count = 0;
  for (; count < all->count && count < MAX_NAMES; count++)
    names[count] = all->items[count].name;
  const char *nearest = diag_nearest(name, names, count);
  if (nearest != NULL)
    return fail_with(EXIT_WRONG,
                     "there is no tensor '%s' in the files; add --in %s=FILE.npy (there is '%s')",
                     name, name, nearest);
  return fail_with(EXIT_WRONG, "there is no tensor '%s' in the files; add --in %s=FILE.npy", name,
                   name);
}

/* Row numbers of ragged sequences: [B + 1], not decreasing, from 0. */
static int64_t *take_starts(struct tensor_list *all, const char *name, int64_t *batch,
                            enum exit_status *status)
{
  struct tensor tensor = {0};
  *status = take(all, name, &tensor);
  if (*status != EXIT_FINE)
    return NULL;
  int64_t *starts = NULL;
  if (is_float(tensor.dtype) || tensor.ndim != 1 || tensor.shape[0] < 1) {
    *status = fail_with(
        EXIT_WRONG,
        "tensor '%s' must hold the first row of each sequence and the end: integers [B + 1]", name);
  } else if ((starts = mem_alloc_zeroed((size_t)tensor.shape[0], sizeof(*starts))) == NULL) {
    *status = fail_memory();
  } else {
    *batch = tensor.shape[0] - 1;
    for (int64_t n = 0; n <= *batch && *status == EXIT_FINE; n++) {
      starts[n] = (int64_t)tensor_get(&tensor, n);
      if (starts[n] < (n == 0 ? 0 : starts[n - 1]) || (n == 0 && starts[n] != 0))
        *status = fail_with(
            EXIT_WRONG, "tensor '%s': element %lld is %lld; it must start with 0 and not decrease",
            name, (long long)n, (long long)starts[n]);
    }
  }
  tensor_free(&tensor);
  return starts;
}

static int64_t longest(const int64_t *starts, int64_t batch)
{
  int64_t length = 0;
  for (int64_t b = 0; b < batch; b++)
    length = starts[b + 1] - starts[b] > length ? starts[b + 1] - starts[b] : length;
  return length;
}

static enum exit_status bind_lengths(struct workload *workload, struct tensor_list *all)
{
  enum exit_status status;
  workload->query_starts = take_starts(all, "query_starts", &workload->batch, &status);
  if (status != EXIT_FINE)
    return status;
  int64_t batch = workload->batch;
  bool same = tensor_list_find(all, "key_starts") == NULL;
  if (!same) {
    workload->key_starts = take_starts(all, "key_starts", &batch, &status);
  } else {
    size_t size = ((size_t)batch + 1) * sizeof(int64_t);
    workload->key_starts = mem_alloc(size);
    if (workload->key_starts == NULL)
      return fail_memory();
    memcpy(workload->key_starts, workload->query_starts, size);
  }
  if (status == EXIT_FINE && batch != workload->batch)
    return fail_with(EXIT_WRONG,
                     "query_starts is of %lld sequences and key_starts of %lld; they must agree",
                     (long long)workload->batch, (long long)batch);
  workload->queries = longest(workload->query_starts, workload->batch);
  if (status == EXIT_FINE)
    workload->keys = longest(workload->key_starts, workload->batch);
  return status;
}

/* q decides the type and gives B and NQ, k gives NK. */
static enum exit_status bind_sizes(struct workload *workload, struct tensor_list *all,
                                   enum dtype wanted)
{
  const struct tensor *q = &workload->q;
  const struct tensor *k = &workload->k;
  int rank = workload->ragged ? 3 : 4;
  const char *shapes = workload->ragged ? "q [total, H, D] and k [total, G, D]"
                                        : "q [B, H, NQ, D] and k [B, G, NK, D]";
  if (q->ndim != rank || k->ndim != rank)
    return fail_with(EXIT_WRONG, "q has %d dims and k has %d; this spec takes %s", q->ndim, k->ndim,
                     shapes);
  if (wanted != DTYPE_ANY)
    workload->type = wanted;
  else if (workload->spec->type != DTYPE_ANY)
    workload->type = workload->spec->type;
  else if (tensor_dtype_equal(q->dtype, TENSOR_DTYPE_F16))
    workload->type = DTYPE_F16;
  else if (tensor_dtype_equal(q->dtype, TENSOR_DTYPE_BF16))
    workload->type = DTYPE_BF16;
  else
    workload->type = DTYPE_F32;
  if (workload->ragged)
    return bind_lengths(workload, all);
  workload->batch = q->shape[0];
  workload->queries = q->shape[2];
  workload->keys = k->shape[2];
  return EXIT_FINE;
}

/* "[2, 8, 45, 64]" */
static void describe_sizes(const int64_t *sizes, int count, char *text, size_t size)
{
  size_t used = (size_t)snprintf(text, size, "[");
  for (int d = 0; d < count && used < size; d++)
    used += (size_t)snprintf(text + used, size - used, "%s%lld", d > 0 ? ", " : "",
                             (long long)sizes[d]);
  if (used < size)
    snprintf(text + used, size - used, "]");
}

/* "[B, H, NQ, D]", numbers where a dim has no name. */
static void describe_dims(const struct workload *workload, const struct workload_shape *shape,
                          char *text, size_t size)
{
  static const char *const names[] = {
      [DIM_B] = "B",   [DIM_H] = "H", [DIM_G] = "G",   [DIM_NQ] = "NQ",
      [DIM_NK] = "NK", [DIM_D] = "D", [DIM_DV] = "DV", [DIM_EXPR] = NULL};
  size_t used = (size_t)snprintf(text, size, "[");
  for (int d = 0; d < shape->ndim && used < size; d++) {
    enum dim_kind kind = shape->kinds[d];
    bool packed = workload->ragged && d == 0 && (kind == DIM_NQ || kind == DIM_NK);
    char number[32];
    snprintf(number, sizeof(number), "%lld", (long long)shape->dims[d]);
    used += (size_t)snprintf(text + used, size - used, "%s%s", d > 0 ? ", " : "",
                             packed                ? "total"
                             : names[kind] == NULL ? number
                                                   : names[kind]);
  }
  if (used < size)
    snprintf(text + used, size - used, "]");
}

/* What the other parts index without asking must have the shape that the spec and q and k ask for.
 */
static enum exit_status check_shape(struct workload *workload, enum workload_role role,
                                    uint32_t number)
{
  struct tensor *tensor = workload_tensor(workload, role, number);
  struct workload_shape shape;
  char own[160], dims[160], wanted[160];
  if (!workload_shape(workload, role, number, &shape))
    return EXIT_WRONG;
  bool same = tensor->ndim == shape.ndim;
  for (int d = 0; same && d < shape.ndim; d++)
    same = tensor->shape[d] == shape.dims[d];
  if (same)
    return EXIT_FINE;
  describe_sizes(tensor->shape, tensor->ndim, own, sizeof(own));
  describe_dims(workload, &shape, dims, sizeof(dims));
  describe_sizes(shape.dims, shape.ndim, wanted, sizeof(wanted));
  /* as [B, NQ, H, D], which others take */
  bool swapped = role != WORKLOAD_INPUT && tensor->ndim == 4 && shape.ndim == 4 &&
                 tensor->shape[2] == shape.dims[1] && tensor->shape[1] != shape.dims[1];
  return fail_with(EXIT_WRONG, "tensor '%s' is %s; the spec needs %s, here %s%s", tensor->name, own,
                   dims, wanted, swapped ? "; heads come before tokens: array.swapaxes(1, 2)" : "");
}

static enum exit_status bind_one(struct workload *workload, struct tensor_list *all,
                                 enum workload_role role, uint32_t number, bool may_round)
{
  char buffer[64];
  struct tensor *tensor = workload_tensor(workload, role, number);
  enum dtype type = role == WORKLOAD_INPUT ? workload->spec->inputs[number].type : DTYPE_SPEC;
  enum exit_status status = EXIT_FINE;
  if (tensor->name == NULL)
    status = take(all, workload_name(workload->spec, role, number, buffer), tensor);
  if (status == EXIT_FINE)
    status = fit_type(tensor, workload_dtype(workload, type), may_round);
  return status == EXIT_FINE ? check_shape(workload, role, number) : status;
}

static enum exit_status bind_all(struct workload *workload, struct tensor_list *all,
                                 enum dtype wanted, struct tensor *expected)
{
  bool may_round = wanted != DTYPE_ANY;
  enum exit_status status = take(all, "q", &workload->q);
  if (status == EXIT_FINE)
    status = take(all, "k", &workload->k);
  if (status == EXIT_FINE)
    status = bind_sizes(workload, all, wanted);
  if (status == EXIT_FINE)
    status = bind_one(workload, all, WORKLOAD_Q, 0, may_round);
  if (status == EXIT_FINE)
    status = bind_one(workload, all, WORKLOAD_K, 0, may_round);
  if (status == EXIT_FINE && !workload->spec->value_is_key)
    status = bind_one(workload, all, WORKLOAD_V, 0, may_round);
  for (uint32_t k = 0; k < workload->spec->input_count && status == EXIT_FINE; k++)
    status = bind_one(workload, all, WORKLOAD_INPUT, k, may_round);
  if (status == EXIT_FINE && tensor_list_find(all, "o") != NULL)
    status = take(all, "o", expected);
  for (size_t k = 0; k < all->count && status == EXIT_FINE; k++)
    complain("note: the spec has no tensor '%s'; it is not used", all->items[k].name);
  return status;
}

enum exit_status bind_files(struct workload *workload, const struct bind_request *request,
                            struct tensor *expected)
{
  struct tensor_list all = {0};
  enum exit_status status = EXIT_FINE;
  *expected = (struct tensor){0};
  for (size_t k = 0; k < request->files->count && status == EXIT_FINE; k++)
    status = read_file(&all, request->files->items[k]);
  if (status == EXIT_FINE)
    status = bind_all(workload, &all, request->wanted, expected);
  tensor_list_free(&all);
  return status;
}

enum exit_status bind_inputs(struct workload *workload, const struct bind_request *request,
                             const bool wanted[SPEC_MAX_INPUTS])
{
  struct tensor_list all = {0};
  enum exit_status status = EXIT_FINE;
  for (size_t k = 0; k < request->files->count && status == EXIT_FINE; k++)
    status = read_file(&all, request->files->items[k]);
  for (uint32_t k = 0; k < workload->spec->input_count && status == EXIT_FINE; k++) {
    if (!wanted[k] || tensor_list_find(&all, workload->spec->inputs[k].name) == NULL)
      continue;
    tensor_free(&workload->inputs[k]);
    status = bind_one(workload, &all, WORKLOAD_INPUT, k, request->wanted != DTYPE_ANY);
  }
  tensor_list_free(&all);
  return status;
}
