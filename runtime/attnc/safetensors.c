/* The safetensors format: eight bytes with the length of the header (little endian), the header
 * (a JSON object: name -> dtype, shape, data_offsets; padded with spaces), and the data, to which
 * the offsets are relative and which they cover without holes or overlaps. */
#include <cjson/cJSON.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dsl/base/memory.h"
#include "runtime/attnc/tensor_format.h"

enum { LENGTH_BYTES = 8, MAX_HEADER = 100000000 };

/* The first integer that a double, which is what cJSON keeps, cannot tell from the next. */
static const int64_t number_limit = INT64_C(1) << 53;

static const char metadata_name[] = "__metadata__";

static const struct {
  const char *name;
  DLDataType dtype;
} types[] = {
    {"F64", TENSOR_DTYPE_F64},   {"F32", TENSOR_DTYPE_F32}, {"F16", TENSOR_DTYPE_F16},
    {"BF16", TENSOR_DTYPE_BF16}, {"I64", TENSOR_DTYPE_I64}, {"I32", TENSOR_DTYPE_I32},
    {"I8", TENSOR_DTYPE_I8},     {"U8", TENSOR_DTYPE_U8},   {"BOOL", TENSOR_DTYPE_BOOL},
};
enum { TYPE_COUNT = sizeof(types) / sizeof(types[0]) };

/* cJSON answers NULL for wrong JSON and for a failed allocation alike; this tells them apart. */
static _Thread_local bool json_out_of_memory;

static void *json_alloc(size_t size)
{
  void *block = mem_alloc(size);
  if (block == NULL)
    json_out_of_memory = true;
  return block;
}

static void set_json_hooks(void)
{
  cJSON_InitHooks(&(cJSON_Hooks){json_alloc, mem_free});
}

static void prepare_json(void)
{
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, set_json_hooks);
  json_out_of_memory = false;
}

/* Well-formed as RFC 3629 has it: shortest form, no surrogates, at most U+10FFFF. */
static bool is_utf8(const char *text, size_t size)
{
  const unsigned char *at = (const unsigned char *)text;
  const unsigned char *end = at + size;
  while (at < end) {
    unsigned char lead = *at++;
    if (lead < 0x80)
      continue;
    if (lead < 0xc2 || lead > 0xf4)
      return false;
    int more = lead < 0xe0 ? 1 : lead < 0xf0 ? 2 : 3;
    unsigned char least = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    unsigned char most = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    for (; more > 0; more--, least = 0x80, most = 0xbf)
      if (at == end || *at < least || *at++ > most)
        return false;
  }
  return true;
}

/* Whether TEXT holds the escape \u0000, at which a name would end early as a C string. */
static bool escapes_nul(const char *text)
{
  for (; (text = strchr(text, '\\')) != NULL && text[1] != '\0'; text += 2)
    if (strncmp(text + 1, "u0000", 5) == 0)
      return true;
  return false;
}

/* One tensor of the header; NAME is owned by the JSON tree. */
struct entry {
  const char *name;
  DLDataType dtype;
  int ndim;
  int64_t shape[TENSOR_MAX_RANK];
  uint64_t begin;
  uint64_t end;
};

/* A header being read. */
struct reader {
  const struct tensor_source *source;
  struct tensor_error *error;
  char *text; /* owned, with a NUL after it */
  size_t size;
  cJSON *json;           /* owned */
  struct entry *entries; /* owned */
  size_t count;
};

#define FAIL(reader, name, ...)                                                                    \
  tensor_fail((reader)->error, TENSOR_INVALID, (reader)->source->path, (name), __VA_ARGS__)

static enum tensor_status fail_memory(struct reader *reader)
{
  return tensor_fail(reader->error, TENSOR_NO_MEMORY, reader->source->path, NULL,
                     "out of memory for its header of %zu bytes; free some", reader->size);
}

static enum tensor_status read_text(struct reader *reader)
{
  unsigned char start[LENGTH_BYTES];
  if (reader->source->size < LENGTH_BYTES)
    return FAIL(reader, NULL,
                "it has %" PRIu64 " bytes, fewer than any .safetensors file; copy or save it "
                "again",
                reader->source->size);
  enum tensor_status status =
      tensor_source_read(reader->source, 0, start, LENGTH_BYTES, reader->error);
  if (status != TENSOR_OK)
    return status;
  uint64_t size = 0;
  for (int k = LENGTH_BYTES - 1; k >= 0; k--)
    size = size << 8 | start[k];
  if (size > MAX_HEADER)
    return FAIL(reader, NULL,
                "its header claims %" PRIu64 " bytes, more than the allowed %d; if it is a "
                ".safetensors file at all, save it again",
                size, MAX_HEADER);
  if (size > reader->source->size - LENGTH_BYTES)
    return FAIL(reader, NULL,
                "it is truncated: its header claims %" PRIu64 " bytes but only %" PRIu64
                " follow; copy or save it again",
                size, reader->source->size - LENGTH_BYTES);
  reader->size = (size_t)size;
  reader->text = mem_alloc(reader->size + 1);
  if (reader->text == NULL)
    return fail_memory(reader);
  reader->text[size] = '\0';
  return tensor_source_read(reader->source, LENGTH_BYTES, reader->text, reader->size,
                            reader->error);
}

static enum tensor_status parse_text(struct reader *reader)
{
  const char *text = reader->text;
  if (!is_utf8(text, reader->size))
    return FAIL(reader, NULL, "its header is not UTF-8; save it again with valid names");
  if (strlen(text) != reader->size || escapes_nul(text))
    return FAIL(reader, NULL, "its header holds a NUL; save it again with names that have none");
  if (text[0] != '{')
    return FAIL(reader, NULL, "its header does not start with '{'; save it again");
  const char *end = NULL;
  prepare_json();
  /* The length takes in the NUL, so that cJSON never looks at a byte beyond it. */
  reader->json = cJSON_ParseWithLengthOpts(text, reader->size + 1, &end, false);
  if (reader->json == NULL && json_out_of_memory)
    return fail_memory(reader);
  if (reader->json == NULL)
    return FAIL(reader, NULL, "its header is not JSON from byte %td on; save it again",
                end == NULL ? (ptrdiff_t)0 : end - text);
  end += strspn(end, " \t\r\n");
  if (*end != '\0')
    return FAIL(reader, NULL,
                "its header goes on after the JSON object, at byte %td; save it again", end - text);
  return TENSOR_OK;
}

/* False unless ITEM is an integer from 0 to 2^53 - 1. */
static bool get_integer(const cJSON *item, int64_t *value)
{
  double number = cJSON_IsNumber(item) ? item->valuedouble : -1;
  if (!(number >= 0 && number < (double)number_limit))
    return false;
  *value = (int64_t)number;
  return (double)*value == number;
}

static enum tensor_status get_type(struct reader *reader, struct entry *entry, const cJSON *item)
{
  const char *text = cJSON_GetStringValue(item);
  for (size_t k = 0; text != NULL && k < TYPE_COUNT; k++) {
    if (strcmp(text, types[k].name) == 0) {
      entry->dtype = types[k].dtype;
      return TENSOR_OK;
    }
  }
  return FAIL(reader, entry->name,
              "its dtype '%.20s' is not one of F64 F32 F16 BF16 I64 I32 I8 U8 BOOL; convert the "
              "tensor or leave it out",
              text == NULL ? "" : text);
}

static enum tensor_status get_shape(struct reader *reader, struct entry *entry, const cJSON *item)
{
  if (!cJSON_IsArray(item))
    return FAIL(reader, entry->name, "its shape is not a list; save the file again");
  for (const cJSON *dim = item->child; dim != NULL; dim = dim->next) {
    if (entry->ndim == TENSOR_MAX_RANK)
      return FAIL(reader, entry->name, "it has more than %d dims; reshape it before saving",
                  TENSOR_MAX_RANK);
    if (!get_integer(dim, &entry->shape[entry->ndim]))
      return FAIL(reader, entry->name,
                  "dim %d is not an integer from 0 to 2^53 - 1; save the file again", entry->ndim);
    entry->ndim++;
  }
  return TENSOR_OK;
}

static enum tensor_status get_offsets(struct reader *reader, struct entry *entry, const cJSON *item)
{
  int64_t begin;
  int64_t end;
  if (!cJSON_IsArray(item) || item->child == NULL || item->child->next == NULL ||
      item->child->next->next != NULL || !get_integer(item->child, &begin) ||
      !get_integer(item->child->next, &end))
    return FAIL(reader, entry->name,
                "its data_offsets are not two integers from 0 to 2^53 - 1; save the file again");
  uint64_t data = reader->source->size - LENGTH_BYTES - reader->size;
  if (begin > end)
    return FAIL(reader, entry->name,
                "its data ends at %" PRId64 ", before it begins at %" PRId64
                "; save the file again",
                end, begin);
  if ((uint64_t)end > data)
    return FAIL(reader, entry->name,
                "its data ends at byte %" PRId64 " of %" PRIu64
                ", so the file is truncated; copy or save it again",
                end, data);
  entry->begin = (uint64_t)begin;
  entry->end = (uint64_t)end;
  return TENSOR_OK;
}

static enum tensor_status get_entry(struct reader *reader, struct entry *entry, const cJSON *item)
{
  static const struct {
    const char *key;
    enum tensor_status (*get)(struct reader *, struct entry *, const cJSON *);
  } members[] = {{"dtype", get_type}, {"shape", get_shape}, {"data_offsets", get_offsets}};
  enum { MEMBER_COUNT = sizeof(members) / sizeof(members[0]) };

  *entry = (struct entry){.name = item->string};
  if (entry->name[0] == '\0')
    return FAIL(reader, NULL, "it holds a tensor without a name; save it again with one");
  if (!cJSON_IsObject(item))
    return FAIL(reader, entry->name, "its entry is not a JSON object; save the file again");
  bool seen[MEMBER_COUNT] = {false};
  for (const cJSON *member = item->child; member != NULL; member = member->next) {
    size_t k = 0;
    while (k < MEMBER_COUNT && strcmp(member->string, members[k].key) != 0)
      k++;
    if (k == MEMBER_COUNT || seen[k])
      return FAIL(reader, entry->name,
                  "its entry has a '%.20s' that is unknown or there twice; save the file again",
                  member->string);
    seen[k] = true;
    enum tensor_status status = members[k].get(reader, entry, member);
    if (status != TENSOR_OK)
      return status;
  }
  for (size_t k = 0; k < MEMBER_COUNT; k++)
    if (!seen[k])
      return FAIL(reader, entry->name, "its entry has no %s; save the file again", members[k].key);

  int64_t count;
  size_t bytes;
  if (!tensor_shape_size(entry->dtype, entry->ndim, entry->shape, &count, &bytes))
    return FAIL(reader, entry->name,
                "its shape is larger than memory can address; save the file again");
  if (bytes != entry->end - entry->begin)
    return FAIL(reader, entry->name,
                "its shape needs %zu bytes but its data_offsets span %" PRIu64
                "; save the file again",
                bytes, entry->end - entry->begin);
  return TENSOR_OK;
}

static enum tensor_status check_metadata(struct reader *reader, const cJSON *item)
{
  bool sound = cJSON_IsObject(item);
  for (const cJSON *member = item->child; sound && member != NULL; member = member->next)
    sound = cJSON_IsString(member);
  return sound ? TENSOR_OK
               : FAIL(reader, NULL,
                      "its __metadata__ does not map texts to texts; save it again without");
}

static enum tensor_status get_entries(struct reader *reader)
{
  size_t members = 0;
  for (const cJSON *item = reader->json->child; item != NULL; item = item->next)
    members++;
  reader->entries = mem_alloc_zeroed(members, sizeof(*reader->entries));
  if (reader->entries == NULL)
    return fail_memory(reader);
  bool has_metadata = false;
  for (const cJSON *item = reader->json->child; item != NULL; item = item->next) {
    enum tensor_status status;
    if (strcmp(item->string, metadata_name) != 0)
      status = get_entry(reader, &reader->entries[reader->count++], item);
    else if (has_metadata)
      status = FAIL(reader, NULL, "it has two __metadata__ entries; save it again");
    else
      status = check_metadata(reader, item);
    if (status != TENSOR_OK)
      return status;
    has_metadata = has_metadata || strcmp(item->string, metadata_name) == 0;
  }
  return TENSOR_OK;
}

static int compare_names(const void *a, const void *b)
{
  return strcmp(((const struct entry *)a)->name, ((const struct entry *)b)->name);
}

/* Empty tensors come before the one that begins where they lie; names settle the rest. */
static int compare_offsets(const void *a, const void *b)
{
  const struct entry *x = a;
  const struct entry *y = b;
  if (x->begin != y->begin)
    return x->begin < y->begin ? -1 : 1;
  if (x->end != y->end)
    return x->end < y->end ? -1 : 1;
  return strcmp(x->name, y->name);
}

/* Leaves the entries in the order of their data. */
static enum tensor_status check_layout(struct reader *reader)
{
  struct entry *entries = reader->entries;
  qsort(entries, reader->count, sizeof(*entries), compare_names);
  for (size_t k = 1; k < reader->count; k++)
    if (strcmp(entries[k - 1].name, entries[k].name) == 0)
      return FAIL(reader, entries[k].name, "it is there twice; save the file again with one");
  qsort(entries, reader->count, sizeof(*entries), compare_offsets);
  uint64_t covered = 0;
  for (size_t k = 0; k < reader->count; k++) {
    if (entries[k].begin < covered)
      return FAIL(reader, entries[k].name,
                  "its data begins at %" PRIu64 ", inside the data of '%.80s', which ends at "
                  "%" PRIu64 "; save the file again",
                  entries[k].begin, entries[k - 1].name, covered);
    if (entries[k].begin > covered)
      return FAIL(reader, entries[k].name,
                  "its data begins at %" PRIu64 ", after %" PRIu64
                  " bytes that belong to no tensor; save the file again",
                  entries[k].begin, entries[k].begin - covered);
    covered = entries[k].end;
  }
  uint64_t data = reader->source->size - LENGTH_BYTES - reader->size;
  if (covered != data)
    return FAIL(reader, NULL, "its last %" PRIu64 " bytes belong to no tensor; save it again",
                data - covered);
  return TENSOR_OK;
}

static enum tensor_status load_entries(struct tensor_list *list, struct reader *reader)
{
  list->items = mem_alloc_zeroed(reader->count, sizeof(*list->items));
  if (list->items == NULL)
    return fail_memory(reader);
  for (size_t k = 0; k < reader->count; k++) {
    const struct entry *entry = &reader->entries[k];
    enum tensor_status status =
        tensor_load(&list->items[k], reader->source, LENGTH_BYTES + reader->size + entry->begin,
                    entry->name, entry->dtype, entry->ndim, entry->shape, reader->error);
    if (status != TENSOR_OK)
      return status;
    list->count++;
  }
  return TENSOR_OK;
}

enum tensor_status safetensors_read(struct tensor_list *list, const struct tensor_source *source,
                                    struct tensor_error *error)
{
  struct reader reader = {.source = source, .error = error};
  enum tensor_status status = read_text(&reader);
  if (status == TENSOR_OK)
    status = parse_text(&reader);
  if (status == TENSOR_OK)
    status = get_entries(&reader);
  if (status == TENSOR_OK)
    status = check_layout(&reader);
  if (status == TENSOR_OK)
    status = load_entries(list, &reader);
  mem_free(reader.entries);
  cJSON_Delete(reader.json);
  mem_free(reader.text);
  return status;
}

static enum tensor_status check_tensors(const char *path, const struct tensor *tensors,
                                        size_t count, struct tensor_error *error)
{
  for (size_t k = 0; k < count; k++) {
    const char *name = tensors[k].name;
    const char *wrong = NULL;
    if (name[0] == '\0' || strcmp(name, metadata_name) == 0)
      wrong = "this is not a name that a tensor can have; choose another";
    else if (!is_utf8(name, strlen(name)))
      wrong = "its name is not UTF-8; choose another";
    for (size_t other = 0; other < k && wrong == NULL; other++)
      if (strcmp(tensors[other].name, name) == 0)
        wrong = "another tensor has the same name; choose another";
    for (int d = 0; d < tensors[k].ndim && wrong == NULL; d++)
      if (tensors[k].shape[d] >= number_limit)
        wrong = "it has a dim above 2^53 - 1, which the format cannot hold; choose a smaller one";
    if (wrong != NULL)
      return tensor_fail(error, TENSOR_INVALID, path, name, "%s", wrong);
  }
  return TENSOR_OK;
}

/* Numbers are written as raw text: cJSON would give large ones an exponent. */
static bool add_entry(cJSON *header, const struct tensor *tensor, size_t begin)
{
  char text[TENSOR_MAX_RANK * 21 + 8] = "[";
  size_t used = 1;
  for (int d = 0; d < tensor->ndim; d++)
    used += (size_t)snprintf(text + used, sizeof(text) - used, "%s%" PRId64, d == 0 ? "" : ",",
                             tensor->shape[d]);
  snprintf(text + used, sizeof(text) - used, "]");
  char offsets[64];
  snprintf(offsets, sizeof(offsets), "[%zu,%zu]", begin, begin + tensor->bytes);
  const char *type = NULL;
  for (size_t k = 0; k < TYPE_COUNT; k++)
    if (tensor_dtype_equal(types[k].dtype, tensor->dtype))
      type = types[k].name;
  cJSON *entry = cJSON_AddObjectToObject(header, tensor->name);
  return entry != NULL && cJSON_AddStringToObject(entry, "dtype", type) != NULL &&
         cJSON_AddRawToObject(entry, "shape", text) != NULL &&
         cJSON_AddRawToObject(entry, "data_offsets", offsets) != NULL;
}

/* Fills PIECES[1..count] and the header's text, which the caller frees with mem_free; NULL when out
 * of memory. Wide elements come first, so that everything is aligned to its own size. */
static char *lay_out(const struct tensor *tensors, size_t count, struct tensor_piece *pieces)
{
  prepare_json();
  cJSON *header = cJSON_CreateObject();
  bool sound = header != NULL;
  size_t begin = 0;
  size_t piece = 1;
  for (size_t size = 8; size >= 1; size /= 2) {
    for (size_t k = 0; k < count && sound; k++) {
      if (tensor_dtype_size(tensors[k].dtype) != size)
        continue;
      sound = add_entry(header, &tensors[k], begin);
      pieces[piece++] = (struct tensor_piece){tensors[k].data, tensors[k].bytes};
      begin += tensors[k].bytes;
    }
  }
  char *text = sound ? cJSON_PrintUnformatted(header) : NULL;
  cJSON_Delete(header);
  return text;
}

enum tensor_status safetensors_write(const char *path, const struct tensor *tensors, size_t count,
                                     struct tensor_error *error)
{
  enum tensor_status status = check_tensors(path, tensors, count, error);
  if (status != TENSOR_OK)
    return status;
  struct tensor_piece *pieces = mem_alloc_zeroed(count + 1, sizeof(*pieces));
  char *text = pieces == NULL ? NULL : lay_out(tensors, count, pieces);
  size_t length = text == NULL ? 0 : strlen(text);
  /* Spaces make the header's end, where the data begins, a multiple of 64. */
  size_t size = (LENGTH_BYTES + length + 63) / 64 * 64;
  char *start = text == NULL ? NULL : mem_alloc(size);
  if (start == NULL) {
    status =
        tensor_fail(error, TENSOR_NO_MEMORY, path, NULL, "out of memory for its header; free some");
  } else if (size - LENGTH_BYTES > MAX_HEADER) {
    status = tensor_fail(error, TENSOR_INVALID, path, NULL,
                         "its header would exceed %d bytes; write fewer tensors", MAX_HEADER);
  } else {
    for (int k = 0; k < LENGTH_BYTES; k++)
      start[k] = (char)((uint64_t)(size - LENGTH_BYTES) >> (8 * k) & 0xff);
    memcpy(start + LENGTH_BYTES, text, length);
    memset(start + LENGTH_BYTES + length, ' ', size - LENGTH_BYTES - length);
    pieces[0] = (struct tensor_piece){start, size};
    status = tensor_replace_file(path, pieces, count + 1, error);
  }
  mem_free(start);
  mem_free(text);
  mem_free(pieces);
  return status;
}
