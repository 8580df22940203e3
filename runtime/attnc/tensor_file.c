#include "runtime/attnc/tensor_file.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "dsl/base/memory.h"
#include "runtime/attnc/tensor_format.h"

/* How many bytes of a path (its end) and of a name (its start) an error text shows. */
enum { SHOWN_PATH = 160, SHOWN_NAME = 80 };

static bool continues_character(char byte)
{
  return ((unsigned char)byte & 0xc0) == 0x80;
}

enum tensor_status tensor_fail(struct tensor_error *error, enum tensor_status status,
                               const char *path, const char *name, const char *format, ...)
{
  const char *ellipsis = "";
  size_t length = strlen(path);
  if (length > SHOWN_PATH) {
    ellipsis = "...";
    path += length - SHOWN_PATH;
    while (continues_character(*path))
      path++;
  }
  int used = snprintf(error->text, sizeof(error->text), "%s%s: ", ellipsis, path);
  if (name != NULL) {
    int shown = (int)strnlen(name, SHOWN_NAME);
    while (shown > 0 && continues_character(name[shown]))
      shown--;
    used += snprintf(error->text + used, sizeof(error->text) - (size_t)used,
                     "tensor '%.*s': ", shown, name);
  }
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(error->text + used, sizeof(error->text) - (size_t)used, format, arguments);
  va_end(arguments);
  /* Names come from files: they must not reach a terminal as escape sequences. */
  for (char *byte = error->text; *byte != '\0'; byte++)
    if ((unsigned char)*byte < 0x20 || *byte == 0x7f)
      *byte = '?';
  return status;
}

static const char *remedy(int number)
{
  switch (number) {
  case ENOENT:
  case ENOTDIR: return "; check the path";
  case EACCES:
  case EPERM:
  case EROFS: return "; check the permissions or choose another folder";
  case ENOSPC:
  case EDQUOT:
  case EFBIG: return "; make room or choose another folder";
  default: return "";
  }
}

static enum tensor_status fail_io(struct tensor_error *error, const char *path, const char *doing)
{
  int number = errno;
  return tensor_fail(error, TENSOR_IO, path, NULL, "cannot %s: %s%s", doing, strerror(number),
                     remedy(number));
}

bool tensor_format_of(const char *path, enum tensor_format *format)
{
  const char *ending = strrchr(path, '.');
  if (ending != NULL && strcmp(ending, ".npy") == 0)
    *format = TENSOR_FORMAT_NPY;
  else if (ending != NULL && strcmp(ending, ".safetensors") == 0)
    *format = TENSOR_FORMAT_SAFETENSORS;
  else
    return false;
  return true;
}

static enum tensor_status fail_format(struct tensor_error *error, const char *path)
{
  return tensor_fail(error, TENSOR_INVALID, path, NULL,
                     "its name ends in neither .npy nor .safetensors; give it the ending of the "
                     "format that it has or shall have");
}

enum tensor_status tensor_source_read(const struct tensor_source *source, uint64_t offset,
                                      void *target, size_t size, struct tensor_error *error)
{
  assert(size <= source->size && offset <= source->size - size);
  if (source->bytes != NULL) {
    if (size != 0)
      memcpy(target, source->bytes + offset, size);
    return TENSOR_OK;
  }
  unsigned char *at = target;
  while (size != 0) {
    ssize_t got = pread(source->fd, at, size, (off_t)offset);
    if (got < 0 && errno == EINTR)
      continue;
    if (got < 0)
      return fail_io(error, source->path, "read");
    if (got == 0)
      return tensor_fail(error, TENSOR_INVALID, source->path, NULL,
                         "it became shorter while it was read; wait until it is complete");
    at += got;
    offset += (uint64_t)got;
    size -= (size_t)got;
  }
  return TENSOR_OK;
}

enum tensor_status tensor_load(struct tensor *tensor, const struct tensor_source *source,
                               uint64_t offset, const char *name, DLDataType dtype, int ndim,
                               const int64_t *shape, struct tensor_error *error)
{
  struct tensor_error reason;
  enum tensor_status status = tensor_init(tensor, name, dtype, ndim, shape, &reason);
  if (status != TENSOR_OK)
    return tensor_fail(error, status, source->path, name,
                       "out of memory; free some or choose a smaller tensor");
  status = tensor_source_read(source, offset, tensor->data, tensor->bytes, error);
  if (status == TENSOR_OK && tensor_dtype_equal(dtype, TENSOR_DTYPE_BOOL)) {
    const unsigned char *bytes = tensor->data;
    for (size_t k = 0; k < tensor->bytes && status == TENSOR_OK; k++)
      if (bytes[k] > 1)
        status = tensor_fail(error, TENSOR_INVALID, source->path, name,
                             "element %zu of its booleans is %d; write 0 or 1", k, bytes[k]);
  }
  if (status != TENSOR_OK)
    tensor_free(tensor);
  return status;
}

static enum tensor_status read_source(struct tensor_list *list, enum tensor_format format,
                                      const struct tensor_source *source,
                                      struct tensor_error *error)
{
  enum tensor_status status = TENSOR_OK;
  switch (format) {
  case TENSOR_FORMAT_NPY: status = npy_read(list, source, error); break;
  case TENSOR_FORMAT_SAFETENSORS: status = safetensors_read(list, source, error); break;
  }
  if (status != TENSOR_OK)
    tensor_list_free(list);
  return status;
}

enum tensor_status tensor_file_parse(struct tensor_list *list, enum tensor_format format,
                                     const void *bytes, size_t size, const char *label,
                                     struct tensor_error *error)
{
  *list = (struct tensor_list){0};
  struct tensor_source source = {
      .path = label, .bytes = bytes == NULL ? (const void *)"" : bytes, .fd = -1, .size = size};
  return read_source(list, format, &source, error);
}

enum tensor_status tensor_file_read(struct tensor_list *list, const char *path,
                                    struct tensor_error *error)
{
  *list = (struct tensor_list){0};
  enum tensor_format format;
  if (!tensor_format_of(path, &format))
    return fail_format(error, path);
  /* O_NONBLOCK: opening a pipe must fail the test below, not wait for a writer. */
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0)
    return fail_io(error, path, "open it");
  struct stat status;
  enum tensor_status result;
  if (fstat(fd, &status) != 0)
    result = fail_io(error, path, "read its size");
  else if (!S_ISREG(status.st_mode))
    result = tensor_fail(error, TENSOR_INVALID, path, NULL,
                         "it is not a regular file; save the tensors to one first");
  else
    result = read_source(
        list, format,
        &(struct tensor_source){.path = path, .fd = fd, .size = (uint64_t)status.st_size}, error);
  close(fd);
  return result;
}

enum tensor_status tensor_file_write(const char *path, const struct tensor *tensors, size_t count,
                                     struct tensor_error *error)
{
  enum tensor_format format;
  if (!tensor_format_of(path, &format))
    return fail_format(error, path);
  if (format == TENSOR_FORMAT_SAFETENSORS)
    return safetensors_write(path, tensors, count, error);
  if (count != 1)
    return tensor_fail(error, TENSOR_INVALID, path, NULL,
                       "a .npy file holds one tensor, not %zu; write to a .safetensors file",
                       count);
  return npy_write(path, &tensors[0], error);
}

static enum tensor_status write_pieces(int fd, const struct tensor_piece *pieces, size_t count,
                                       const char *path, struct tensor_error *error)
{
  for (size_t k = 0; k < count; k++) {
    const unsigned char *at = pieces[k].data;
    size_t left = pieces[k].size;
    while (left != 0) {
      ssize_t written = write(fd, at, left);
      if (written < 0 && errno == EINTR)
        continue;
      if (written < 0)
        return fail_io(error, path, "write");
      at += written;
      left -= (size_t)written;
    }
  }
  /* Some systems report a full disk only now; EINVAL says that this one has nothing to sync. */
  if (fsync(fd) != 0 && errno != EINVAL)
    return fail_io(error, path, "write");
  return TENSOR_OK;
}

/* Creates a file beside PATH under a name that nobody has; mkstemp would make it unreadable for
 * others, whatever the umask. Returns the descriptor, or -1 with errno set. */
static int create_beside(const char *path, char *name, size_t size)
{
  for (unsigned attempt = 0; attempt < 1000; attempt++) {
    snprintf(name, size, "%s.%ld-%u.tmp", path, (long)getpid(), attempt);
    int fd = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd >= 0 || errno != EEXIST)
      return fd;
  }
  return -1;
}

enum tensor_status tensor_replace_file(const char *path, const struct tensor_piece *pieces,
                                       size_t count, struct tensor_error *error)
{
  struct stat old;
  if (stat(path, &old) == 0 && !S_ISREG(old.st_mode))
    return tensor_fail(error, TENSOR_INVALID, path, NULL,
                       "there is something other than a regular file; choose another name");
  size_t size = strlen(path) + 64;
  char *name = mem_alloc(size);
  if (name == NULL)
    return tensor_fail(error, TENSOR_NO_MEMORY, path, NULL, "out of memory to write it");
  int fd = create_beside(path, name, size);
  if (fd < 0) {
    enum tensor_status status = fail_io(error, path, "create a file in its folder");
    mem_free(name);
    return status;
  }
  enum tensor_status status = write_pieces(fd, pieces, count, path, error);
  if (close(fd) != 0 && status == TENSOR_OK)
    status = fail_io(error, path, "write");
  if (status == TENSOR_OK && rename(name, path) != 0)
    status = fail_io(error, path, "replace it");
  if (status != TENSOR_OK)
    unlink(name);
  mem_free(name);
  return status;
}
