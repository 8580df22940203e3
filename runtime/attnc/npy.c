/* The .npy format: numpy.lib.format, versions 1.0, 2.0 and 3.0 (they differ in the width of the
 * header's length and in its encoding, which is ASCII for every type read here). */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "dsl/base/memory.h"
#include "runtime/attnc/tensor_format.h"

static const char magic[6] = {'\x93', 'N', 'U', 'M', 'P', 'Y'};

/* Far more than eight dims need. */
enum { MAX_HEADER = 65535 };

static const struct {
  const char *code; /* kind and size, after the byte order */
  DLDataType dtype;
} types[] = {
    {"f8", TENSOR_DTYPE_F64}, {"f4", TENSOR_DTYPE_F32},  {"f2", TENSOR_DTYPE_F16},
    {"i8", TENSOR_DTYPE_I64}, {"i4", TENSOR_DTYPE_I32},  {"i1", TENSOR_DTYPE_I8},
    {"u1", TENSOR_DTYPE_U8},  {"b1", TENSOR_DTYPE_BOOL},
};
enum { TYPE_COUNT = sizeof(types) / sizeof(types[0]) };

struct header {
  DLDataType dtype;
  int ndim;
  int64_t shape[TENSOR_MAX_RANK];
  bool fortran_order;
};

/* The header is a Python dict of three entries. The cursor stops at a NUL, which no entry holds. */
struct cursor {
  const char *at;
  const char *path;
  struct tensor_error *error;
};

static enum tensor_status fail_syntax(const struct cursor *cursor, const char *expected)
{
  return tensor_fail(cursor->error, TENSOR_INVALID, cursor->path, NULL,
                     "its header is damaged, %s is missing before '%.20s'; save it again with "
                     "numpy.save",
                     expected, cursor->at);
}

static void skip_spaces(struct cursor *cursor)
{
  cursor->at += strspn(cursor->at, " \t\n\r");
}

static bool take(struct cursor *cursor, const char *token)
{
  skip_spaces(cursor);
  size_t length = strlen(token);
  if (strncmp(cursor->at, token, length) != 0)
    return false;
  cursor->at += length;
  return true;
}

/* A quoted text without escapes. False also when it does not fit into SIZE. */
static bool take_text(struct cursor *cursor, char *text, size_t size)
{
  skip_spaces(cursor);
  char quote = *cursor->at;
  if (quote != '\'' && quote != '"')
    return false;
  const char *start = cursor->at + 1;
  const char *end = strchr(start, quote);
  if (end == NULL || (size_t)(end - start) >= size)
    return false;
  memcpy(text, start, (size_t)(end - start));
  text[end - start] = '\0';
  cursor->at = end + 1;
  return true;
}

static enum tensor_status parse_type(struct cursor *cursor, struct header *header)
{
  char text[64];
  skip_spaces(cursor);
  if (*cursor->at == '[')
    return tensor_fail(cursor->error, TENSOR_INVALID, cursor->path, NULL,
                       "it holds records; save one field of them, as in array['field']");
  if (!take_text(cursor, text, sizeof(text)))
    return fail_syntax(cursor, "the element type");
  const char *code = text + strspn(text, "<>|=");
  for (size_t k = 0; k < TYPE_COUNT; k++) {
    if (strcmp(code, types[k].code) != 0)
      continue;
    if (text[0] == '>' && types[k].dtype.bits > 8)
      return tensor_fail(cursor->error, TENSOR_INVALID, cursor->path, NULL,
                         "its elements are big endian; save "
                         "array.astype(array.dtype.newbyteorder('<')) instead");
    header->dtype = types[k].dtype;
    return TENSOR_OK;
  }
  return tensor_fail(cursor->error, TENSOR_INVALID, cursor->path, NULL,
                     "its element type '%s' is not one of f2 f4 f8 i1 i4 i8 u1 b1; convert it with "
                     "array.astype, or save bf16 in a .safetensors file",
                     text);
}

static enum tensor_status parse_shape(struct cursor *cursor, struct header *header)
{
  if (!take(cursor, "("))
    return fail_syntax(cursor, "the shape");
  while (!take(cursor, ")")) {
    if (header->ndim == TENSOR_MAX_RANK)
      return tensor_fail(cursor->error, TENSOR_INVALID, cursor->path, NULL,
                         "it has more than %d dims; reshape it before saving", TENSOR_MAX_RANK);
    if (*cursor->at < '0' || *cursor->at > '9')
      return fail_syntax(cursor, "a dim");
    int64_t dim = 0;
    for (; *cursor->at >= '0' && *cursor->at <= '9'; cursor->at++)
      if (__builtin_mul_overflow(dim, 10, &dim) ||
          __builtin_add_overflow(dim, *cursor->at - '0', &dim))
        return tensor_fail(cursor->error, TENSOR_INVALID, cursor->path, NULL,
                           "dim %d is larger than 2^63 - 1, so its header is damaged; save it "
                           "again",
                           header->ndim);
    header->shape[header->ndim++] = dim;
    bool comma = take(cursor, ",");
    skip_spaces(cursor);
    /* "(3)" is a number in Python, not a tuple. */
    if (!comma && (*cursor->at != ')' || header->ndim == 1))
      return fail_syntax(cursor, "a comma");
  }
  return TENSOR_OK;
}

static enum tensor_status parse_header(struct cursor *cursor, struct header *header)
{
  *header = (struct header){0};
  bool has_type = false;
  bool has_order = false;
  bool has_shape = false;
  if (!take(cursor, "{"))
    return fail_syntax(cursor, "'{'");
  while (!take(cursor, "}")) {
    char key[32];
    if (!take_text(cursor, key, sizeof(key)) || !take(cursor, ":"))
      return fail_syntax(cursor, "a key and ':'");
    enum tensor_status status = TENSOR_OK;
    if (strcmp(key, "descr") == 0 && !has_type) {
      has_type = true;
      status = parse_type(cursor, header);
    } else if (strcmp(key, "shape") == 0 && !has_shape) {
      has_shape = true;
      status = parse_shape(cursor, header);
    } else if (strcmp(key, "fortran_order") == 0 && !has_order) {
      has_order = true;
      header->fortran_order = take(cursor, "True");
      if (!header->fortran_order && !take(cursor, "False"))
        return fail_syntax(cursor, "True or False");
    } else {
      return tensor_fail(cursor->error, TENSOR_INVALID, cursor->path, NULL,
                         "its header has an entry '%s' that is unknown or there twice; save it "
                         "again with numpy.save",
                         key);
    }
    if (status != TENSOR_OK)
      return status;
    skip_spaces(cursor);
    if (!take(cursor, ",") && *cursor->at != '}')
      return fail_syntax(cursor, "a comma");
  }
  skip_spaces(cursor);
  if (*cursor->at != '\0')
    return fail_syntax(cursor, "its end");
  if (!has_type || !has_order || !has_shape)
    return tensor_fail(cursor->error, TENSOR_INVALID, cursor->path, NULL,
                       "its header has no '%s'; save it again with numpy.save",
                       !has_type    ? "descr"
                       : !has_shape ? "shape"
                                    : "fortran_order");
  return TENSOR_OK;
}

/* Moves the elements from column-major to row-major order. */
static enum tensor_status transpose(struct tensor *tensor, const char *path,
                                    struct tensor_error *error)
{
  size_t size = tensor_dtype_size(tensor->dtype);
  unsigned char *columns = mem_alloc(tensor->bytes);
  if (columns == NULL)
    return tensor_fail(error, TENSOR_NO_MEMORY, path, tensor->name,
                       "out of memory to transpose it; save numpy.ascontiguousarray(array) "
                       "instead");
  if (tensor->bytes != 0)
    memcpy(columns, tensor->data, tensor->bytes);
  size_t stride[TENSOR_MAX_RANK];
  int64_t index[TENSOR_MAX_RANK] = {0};
  size_t step = size;
  for (int d = 0; d < tensor->ndim; d++) {
    stride[d] = step;
    step *= (size_t)tensor->shape[d];
  }
  size_t from = 0;
  for (size_t to = 0; to < tensor->bytes; to += size) {
    memcpy((unsigned char *)tensor->data + to, columns + from, size);
    for (int d = tensor->ndim - 1; d >= 0; d--) {
      from += stride[d];
      if (++index[d] < tensor->shape[d])
        break;
      from -= stride[d] * (size_t)tensor->shape[d];
      index[d] = 0;
    }
  }
  mem_free(columns);
  return TENSOR_OK;
}

/* The file's name without folder and ending. */
static char *stem(const char *path)
{
  const char *slash = strrchr(path, '/');
  const char *start = slash == NULL ? path : slash + 1;
  const char *dot = strrchr(start, '.');
  size_t length = dot == NULL || dot == start ? strlen(start) : (size_t)(dot - start);
  char *name = mem_alloc(length + 1);
  if (name != NULL) {
    memcpy(name, start, length);
    name[length] = '\0';
  }
  return name;
}

/* Reads the dict's text into *TEXT, which the caller frees, and finds where the data begins. */
static enum tensor_status read_header_text(const struct tensor_source *source, char **text,
                                           uint64_t *data_offset, struct tensor_error *error)
{
  unsigned char start[12] = {0};
  size_t got = source->size < sizeof(start) ? (size_t)source->size : sizeof(start);
  enum tensor_status status = tensor_source_read(source, 0, start, got, error);
  if (status != TENSOR_OK)
    return status;
  if (got < 10 || memcmp(start, magic, sizeof(magic)) != 0)
    return tensor_fail(error, TENSOR_INVALID, source->path, NULL,
                       "it is not a .npy file; save it with numpy.save");
  unsigned major = start[6];
  if (major < 1 || major > 3 || start[7] != 0)
    return tensor_fail(error, TENSOR_INVALID, source->path, NULL,
                       "its .npy version %u.%u is not 1.0, 2.0 or 3.0; save it again with "
                       "numpy.save",
                       major, start[7]);
  uint64_t offset = major == 1 ? 10 : 12;
  uint32_t length = (uint32_t)start[8] | (uint32_t)start[9] << 8;
  if (major > 1)
    length |= (uint32_t)start[10] << 16 | (uint32_t)start[11] << 24;
  if (length > MAX_HEADER)
    return tensor_fail(error, TENSOR_INVALID, source->path, NULL,
                       "its header claims %" PRIu32 " bytes, more than any array needs (%d); save "
                       "it again with numpy.save",
                       length, MAX_HEADER);
  if (source->size < offset || source->size - offset < length)
    return tensor_fail(error, TENSOR_INVALID, source->path, NULL,
                       "it ends inside its header of %" PRIu32 " bytes; copy or save it again",
                       length);
  *text = mem_alloc((size_t)length + 1);
  if (*text == NULL)
    return tensor_fail(error, TENSOR_NO_MEMORY, source->path, NULL,
                       "out of memory for its header; free some");
  (*text)[length] = '\0';
  *data_offset = offset + length;
  status = tensor_source_read(source, offset, *text, length, error);
  if (status == TENSOR_OK && strlen(*text) != length)
    status = tensor_fail(error, TENSOR_INVALID, source->path, NULL,
                         "its header holds a NUL, so it is damaged; save it again with "
                         "numpy.save");
  if (status != TENSOR_OK)
    mem_free(*text);
  return status;
}

static enum tensor_status read_data(struct tensor_list *list, const struct tensor_source *source,
                                    uint64_t offset, const struct header *header,
                                    struct tensor_error *error)
{
  int64_t count;
  size_t bytes;
  if (!tensor_shape_size(header->dtype, header->ndim, header->shape, &count, &bytes))
    return tensor_fail(error, TENSOR_INVALID, source->path, NULL,
                       "its shape is larger than memory can address, so its header is damaged; "
                       "save it again");
  if (source->size - offset != bytes)
    return tensor_fail(error, TENSOR_INVALID, source->path, NULL,
                       "it has %" PRIu64 " bytes of data where its shape needs %zu; copy or save "
                       "it again",
                       source->size - offset, bytes);
  char *name = stem(source->path);
  list->items = mem_alloc_zeroed(1, sizeof(*list->items));
  if (name == NULL || list->items == NULL) {
    mem_free(name);
    return tensor_fail(error, TENSOR_NO_MEMORY, source->path, NULL, "out of memory; free some");
  }
  enum tensor_status status = tensor_load(&list->items[0], source, offset, name, header->dtype,
                                          header->ndim, header->shape, error);
  mem_free(name);
  if (status != TENSOR_OK)
    return status;
  list->count = 1;
  if (header->fortran_order && header->ndim > 1)
    status = transpose(&list->items[0], source->path, error);
  return status;
}

enum tensor_status npy_read(struct tensor_list *list, const struct tensor_source *source,
                            struct tensor_error *error)
{
  char *text = NULL;
  uint64_t offset = 0;
  enum tensor_status status = read_header_text(source, &text, &offset, error);
  if (status != TENSOR_OK)
    return status;
  struct header header;
  status = parse_header(&(struct cursor){text, source->path, error}, &header);
  mem_free(text);
  return status == TENSOR_OK ? read_data(list, source, offset, &header, error) : status;
}

enum tensor_status npy_write(const char *path, const struct tensor *tensor,
                             struct tensor_error *error)
{
  const char *code = NULL;
  for (size_t k = 0; k < TYPE_COUNT; k++)
    if (tensor_dtype_equal(types[k].dtype, tensor->dtype))
      code = types[k].code;
  if (code == NULL)
    return tensor_fail(error, TENSOR_INVALID, path, tensor->name,
                       "the .npy format has no bf16; write to a .safetensors file");

  /* The length bytes, the dict and its padding end at a multiple of 64, so the data is aligned in
   * the file. Eight dims of 19 digits fit twice over. */
  char header[448] = {0};
  memcpy(header, magic, sizeof(magic));
  header[6] = 1;
  size_t used = 10;
  used += (size_t)snprintf(header + used, sizeof(header) - used,
                           "{'descr': '%c%s', 'fortran_order': False, 'shape': (",
                           tensor->dtype.bits > 8 ? '<' : '|', code);
  for (int d = 0; d < tensor->ndim; d++)
    used +=
        (size_t)snprintf(header + used, sizeof(header) - used, "%s%" PRId64 "%s", d == 0 ? "" : " ",
                         tensor->shape[d], d + 1 < tensor->ndim || d == 0 ? "," : "");
  used += (size_t)snprintf(header + used, sizeof(header) - used, "), }");
  size_t size = (used + 1 + 63) / 64 * 64;
  memset(header + used, ' ', size - used - 1);
  header[size - 1] = '\n';
  header[8] = (char)((size - 10) & 0xff);
  header[9] = (char)((size - 10) >> 8);
  struct tensor_piece pieces[] = {{header, size}, {tensor->data, tensor->bytes}};
  return tensor_replace_file(path, pieces, 2, error);
}
