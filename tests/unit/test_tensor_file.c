/* Files of tensors: round trips, every way in which a header can lie, failing
 * disks and failing allocations. */
#include <check.h>
#include <dirent.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "dsl/base/memory.h"
#include "runtime/attnc/tensor_file.h"

static const char *const dtype_names[] = {"f32", "f16", "bf16", "f64", "i32",
                                          "i64", "u8",  "i8",   "bool"};
enum { DTYPE_COUNT = sizeof(dtype_names) / sizeof(dtype_names[0]) };

static const struct {
  int ndim;
  int64_t shape[4];
} shapes[] = {{0, {0}},       {1, {5}},          {1, {0}},          {1, {1}},
              {2, {2, 3}},    {2, {0, 3}},       {3, {4, 1, 3}},    {3, {2, 0, 3}},
              {3, {0, 0, 0}}, {4, {1, 3, 2, 5}}, {4, {2, 3, 4, 0}}, {4, {2, 2, 2, 2}}};
enum { SHAPE_COUNT = sizeof(shapes) / sizeof(shapes[0]) };

static char folder[64];
static struct tensor_error error;

static void make_folder(void)
{
  strcpy(folder, "/tmp/test_tensor_file.XXXXXX");
  ck_assert_ptr_nonnull(mkdtemp(folder));
}

/* Removes the files in the folder and returns how many there were. */
static int empty_folder(void)
{
  DIR *directory = opendir(folder);
  ck_assert_ptr_nonnull(directory);
  int count = 0;
  for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
    char path[512];
    snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name);
    if (entry->d_name[0] != '.' && remove(path) == 0)
      count++;
  }
  closedir(directory);
  return count;
}

static void remove_folder(void)
{
  empty_folder();
  ck_assert_int_eq(rmdir(folder), 0);
}

/* Good until the next call. */
static const char *in_folder(const char *name)
{
  static char path[512];
  snprintf(path, sizeof(path), "%s/%s", folder, name);
  return path;
}

static struct tensor make(const char *name, const char *dtype_name, int ndim, const int64_t *shape)
{
  DLDataType dtype;
  struct tensor tensor;
  ck_assert(tensor_dtype_parse(dtype_name, &dtype));
  ck_assert_msg(tensor_init(&tensor, name, dtype, ndim, shape, &error) == TENSOR_OK, "%s",
                error.text);
  unsigned char *bytes = tensor.data;
  for (size_t k = 0; k < tensor.bytes; k++)
    bytes[k] = (unsigned char)(strcmp(dtype_name, "bool") == 0 ? k % 2 : k * 37 + 11);
  return tensor;
}

static void assert_same(const struct tensor *a, const struct tensor *b)
{
  ck_assert_str_eq(a->name, b->name);
  ck_assert(tensor_dtype_equal(a->dtype, b->dtype));
  ck_assert_int_eq(a->ndim, b->ndim);
  for (int d = 0; d < a->ndim; d++)
    ck_assert_int_eq(a->shape[d], b->shape[d]);
  ck_assert_uint_eq(a->bytes, b->bytes);
  ck_assert_int_eq(memcmp(a->data, b->data, a->bytes), 0);
  ck_assert_uint_eq((uintptr_t)a->data % TENSOR_ALIGNMENT, 0);
}

/* A copy as large as the input, so that the address sanitizer sees a read past the end. */
static enum tensor_status parse(struct tensor_list *list, enum tensor_format format,
                                const void *bytes, size_t size)
{
  void *copy = malloc(size == 0 ? 1 : size);
  if (size != 0)
    memcpy(copy, bytes, size);
  int64_t live = mem_live_count();
  strcpy(error.text, "untouched");
  enum tensor_status status = tensor_file_parse(list, format, copy, size, "dir/bad.file", &error);
  free(copy);
  if (status != TENSOR_OK) {
    ck_assert_ptr_null(list->items);
    ck_assert_uint_eq(list->count, 0);
    ck_assert_int_eq(mem_live_count(), live);
    ck_assert_ptr_eq(strstr(error.text, "dir/bad.file: "), error.text);
  }
  return status;
}

static void assert_refused(enum tensor_format format, const void *bytes, size_t size,
                           const char *expected)
{
  struct tensor_list list;
  ck_assert_msg(parse(&list, format, bytes, size) == TENSOR_INVALID, "accepted: %s", expected);
  ck_assert_msg(strstr(error.text, expected) != NULL, "'%s' lacks '%s'", error.text, expected);
}

/* A .safetensors file of a header and DATA zero bytes in a static buffer. */
static const void *safetensors(const char *header, size_t header_size, size_t data, size_t *size)
{
  static unsigned char bytes[1 << 16];
  *size = 8 + header_size + data;
  ck_assert_uint_le(*size, sizeof(bytes));
  memset(bytes, 0, *size);
  for (int k = 0; k < 8; k++)
    bytes[k] = (unsigned char)(header_size >> (8 * k));
  memcpy(bytes + 8, header, header_size);
  return bytes;
}

/* A .npy file of version MAJOR.0 in a static buffer, its data counting 0, 1, 2, ... */
static const void *npy(int major, const char *header, size_t data, size_t *size)
{
  static unsigned char bytes[1 << 12];
  size_t length = strlen(header);
  size_t start = major == 1 ? 10 : 12;
  memset(bytes, 0, sizeof(bytes));
  memcpy(bytes, "\x93NUMPY", 6);
  bytes[6] = (unsigned char)major;
  bytes[8] = (unsigned char)length;
  bytes[9] = (unsigned char)(length >> 8);
  memcpy(bytes + start, header, length);
  for (size_t k = 0; k < data; k++)
    bytes[start + length + k] = (unsigned char)k;
  *size = start + length + data;
  return bytes;
}

START_TEST(every_type_and_rank_survives)
{
  for (size_t k = 0; k < DTYPE_COUNT * SHAPE_COUNT; k++) {
    const char *dtype = dtype_names[k % DTYPE_COUNT];
    struct tensor t = make("t", dtype, shapes[k / DTYPE_COUNT].ndim, shapes[k / DTYPE_COUNT].shape);
    for (int format = 0; format < 2; format++) {
      const char *path = in_folder(format == 0 ? "t.npy" : "t.safetensors");
      enum tensor_status status = tensor_file_write(path, &t, 1, &error);
      if (format == 0 && strcmp(dtype, "bf16") == 0) {
        ck_assert_int_eq(status, TENSOR_INVALID);
        ck_assert_ptr_nonnull(strstr(error.text, ".safetensors"));
        continue;
      }
      ck_assert_msg(status == TENSOR_OK, "%s", error.text);
      struct tensor_list list;
      ck_assert_msg(tensor_file_read(&list, path, &error) == TENSOR_OK, "%s", error.text);
      ck_assert_uint_eq(list.count, 1);
      assert_same(&list.items[0], &t);
      tensor_list_free(&list);
    }
    tensor_free(&t);
  }
  ck_assert_int_eq(empty_folder(), 2);
}
END_TEST

START_TEST(several_tensors_survive)
{
  const int64_t three[] = {3};
  const int64_t matrix[] = {2, 7};
  const int64_t empty[] = {4, 0};
  struct tensor tensors[] = {make("mask", "bool", 1, three), make("k", "f32", 2, matrix),
                             make("größe \"\\/\n", "f64", 1, three), make("e", "i64", 2, empty),
                             make("half", "bf16", 1, three)};
  enum { COUNT = sizeof(tensors) / sizeof(tensors[0]) };
  const char *path = in_folder("several.safetensors");
  ck_assert_msg(tensor_file_write(path, tensors, COUNT, &error) == TENSOR_OK, "%s", error.text);
  struct tensor_list list;
  ck_assert_msg(tensor_file_read(&list, path, &error) == TENSOR_OK, "%s", error.text);
  ck_assert_uint_eq(list.count, COUNT);
  for (size_t k = 0; k < COUNT; k++) {
    const struct tensor *found = tensor_list_find(&list, tensors[k].name);
    ck_assert_ptr_nonnull(found);
    assert_same(found, &tensors[k]);
    /* In the order of their data, which is wide elements first. */
    ck_assert(k == 0 ||
              tensor_dtype_size(list.items[k - 1].dtype) >= tensor_dtype_size(list.items[k].dtype));
  }
  ck_assert_ptr_null(tensor_list_find(&list, "q"));
  tensor_list_free(&list);

  ck_assert_int_eq(tensor_file_write(in_folder("several.npy"), tensors, COUNT, &error),
                   TENSOR_INVALID);
  path = in_folder("none.safetensors");
  ck_assert_int_eq(tensor_file_write(path, tensors, 0, &error), TENSOR_OK);
  ck_assert_int_eq(tensor_file_read(&list, path, &error), TENSOR_OK);
  ck_assert_uint_eq(list.count, 0);
  tensor_list_free(&list);
  for (size_t k = 0; k < COUNT; k++)
    tensor_free(&tensors[k]);
}
END_TEST

START_TEST(writer_refuses_names_and_dims)
{
  static const char *const names[] = {"",         "__metadata__",     "\xff",     "\xed\xa0\x80",
                                      "\xc0\x80", "\xf4\x90\x80\x80", "\xe2\x82", "twin"};
  const int64_t one[] = {1};
  struct tensor twins[] = {make("twin", "f32", 1, one), make("", "f32", 1, one)};
  const char *path = in_folder("bad.safetensors");
  for (size_t k = 0; k < sizeof(names) / sizeof(names[0]); k++) {
    ck_assert_int_eq(tensor_rename(&twins[1], names[k], &error), TENSOR_OK);
    ck_assert_int_eq(tensor_file_write(path, twins, 2, &error), TENSOR_INVALID);
  }
  tensor_free(&twins[1]);
  const int64_t wide[] = {INT64_C(1) << 53, 0};
  twins[1] = make("wide", "u8", 2, wide);
  ck_assert_int_eq(tensor_file_write(path, twins, 2, &error), TENSOR_INVALID);
  ck_assert_ptr_nonnull(strstr(error.text, "tensor 'wide'"));
  ck_assert_int_eq(empty_folder(), 0);
  tensor_free(&twins[0]);
  tensor_free(&twins[1]);
}
END_TEST

START_TEST(npy_versions_and_orders)
{
  for (int major = 1; major <= 3; major++) {
    for (int fortran = 0; fortran < 2; fortran++) {
      char header[128];
      snprintf(header, sizeof(header),
               "{\"shape\":(2,3, 2), 'fortran_order' : %s,'descr': '|u1'}   \n",
               fortran ? "True" : "False");
      size_t size;
      const void *bytes = npy(major, header, 12, &size);
      struct tensor_list list;
      ck_assert_msg(parse(&list, TENSOR_FORMAT_NPY, bytes, size) == TENSOR_OK, "%s", error.text);
      struct tensor *t = &list.items[0];
      ck_assert_str_eq(t->name, "bad");
      for (int a = 0; a < 2; a++)
        for (int b = 0; b < 3; b++)
          for (int c = 0; c < 2; c++)
            ck_assert_double_eq(tensor_get(t, (a * 3 + b) * 2 + c),
                                fortran ? a + 2 * (b + 3 * c) : (a * 3 + b) * 2 + c);
      tensor_list_free(&list);
    }
  }
}
END_TEST

START_TEST(damaged_npy_is_refused)
{
  static const struct {
    const char *header;
    size_t data;
    const char *expected;
  } cases[] = {
      {"", 0, "'{' is missing"},
      {"{}", 0, "no 'descr'"},
      {"{'descr': '<f4', 'fortran_order': False}", 4, "no 'shape'"},
      {"{'descr': '<f4', 'shape': ()}", 4, "no 'fortran_order'"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (), 'x': 1}", 4, "entry 'x'"},
      {"{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': ()}", 4, "twice"},
      {"{'descr': '>f4', 'fortran_order': False, 'shape': ()}", 4, "big endian"},
      {"{'descr': '<c8', 'fortran_order': False, 'shape': ()}", 8, "'<c8' is not one of"},
      {"{'descr': '<V2', 'fortran_order': False, 'shape': ()}", 2, "bf16 in a .safetensors"},
      {"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': ()}", 4, "records"},
      {"{'descr': 4, 'fortran_order': False, 'shape': ()}", 4, "element type is missing"},
      {"{'descr': '<f4, 'fortran_order': False, 'shape': ()}", 4, "not one of"},
      {"{'descr': '<f4', 'fortran_order': 0, 'shape': ()}", 4, "True or False"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': 3}", 12, "the shape is missing"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (3)}", 12, "a comma is missing"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (3 4)}", 48, "a comma is missing"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (-3,)}", 12, "a dim is missing"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (3,", 12, "a dim is missing"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (3,)} x", 12, "its end is missing"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (3,)", 12, "a comma is missing"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1,1)}", 4, "8 dims"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775808,)}", 4, "2^63"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775807,)}", 4, "address"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296)}", 0, "address"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 0)}", 0, "address"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (1073741824,)}", 12, "12 bytes of data"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (3,)}", 11, "11 bytes of data"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (3,)}", 13, "13 bytes of data"},
      {"{'descr': '|b1', 'fortran_order': False, 'shape': (3,)}", 3, "element 2 of its booleans"},
  };
  for (size_t k = 0; k < sizeof(cases) / sizeof(cases[0]); k++) {
    size_t size;
    const void *bytes = npy(1, cases[k].header, cases[k].data, &size);
    assert_refused(TENSOR_FORMAT_NPY, bytes, size, cases[k].expected);
  }
  size_t size;
  const void *bytes = npy(4, "{}", 0, &size);
  assert_refused(TENSOR_FORMAT_NPY, bytes, size, "version 4.0");
  assert_refused(TENSOR_FORMAT_NPY, "PK\3\4aaaaaaaaaaaa", 16, "not a .npy file");
  assert_refused(TENSOR_FORMAT_NPY, "\x93NUMPY\1\0\xff\0{}", 12, "ends inside its header");
  assert_refused(TENSOR_FORMAT_NPY, "\x93NUMPY\2\0\xff\xff\xff\xff{}", 14, "claims 4294967295");
  assert_refused(TENSOR_FORMAT_NPY, "\x93NUMPY\1\0\3\0{\0}", 13, "NUL");
}
END_TEST

#define F32(name, shape, begin, end)                                                               \
  "\"" name "\":{\"dtype\":\"F32\",\"shape\":" shape ",\"data_offsets\":[" begin "," end "]}"

START_TEST(damaged_safetensors_is_refused)
{
  static const struct {
    const char *header;
    size_t data;
    const char *expected;
  } cases[] = {
      {"", 0, "start with '{'"},
      {"[]", 0, "start with '{'"},
      {" {}", 0, "start with '{'"},
      {"\xef\xbb\xbf{}", 0, "start with '{'"},
      {"{", 0, "not JSON"},
      {"{\"a\":1,", 0, "not JSON"},
      {"{} x", 0, "goes on after"},
      {"{}", 4, "last 4 bytes belong to no tensor"},
      {"{\"a\xff\":1}", 0, "not UTF-8"},
      {"{\"a\xed\xa0\x80\":1}", 0, "not UTF-8"},
      {"{" F32("a\\u0000b", "[1]", "0", "4") "}", 4, "NUL"},
      {"{\"__metadata__\":[]}", 0, "__metadata__"},
      {"{\"__metadata__\":{\"a\":1}}", 0, "__metadata__"},
      {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, "two __metadata__"},
      {"{\"a\":1}", 0, "tensor 'a': its entry is not"},
      {"{" F32("", "[1]", "0", "4") "}", 4, "without a name"},
      {"{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "'a': its entry has no dtype"},
      {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, "has no shape"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "has no data_offsets"},
      {"{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\"}}", 4,
       "'dtype' that is unknown or there twice"},
      {"{\"a\":{\"dtypo\":\"F32\"}}", 4, "'dtypo' that is unknown"},
      {"{\"a\":{\"dtype\":\"F8_E4M3\"}}", 4, "'a': its dtype 'F8_E4M3'"},
      {"{\"a\":{\"dtype\":32}}", 4, "'a': its dtype ''"},
      {"{" F32("a", "1", "0", "4") "}", 4, "shape is not a list"},
      {"{" F32("a", "[-1]", "0", "4") "}", 4, "dim 0 is not an integer"},
      {"{" F32("a", "[1,1.5]", "0", "4") "}", 4, "dim 1 is not an integer"},
      {"{" F32("a", "[\"1\"]", "0", "4") "}", 4, "dim 0 is not an integer"},
      {"{" F32("a", "[9007199254740993]", "0", "4") "}", 4, "dim 0 is not an integer"},
      {"{" F32("a", "[9223372036854775808]", "0", "4") "}", 4, "dim 0 is not an integer"},
      {"{" F32("a", "[1e999]", "0", "4") "}", 4, "dim 0 is not an integer"},
      {"{" F32("a", "[1,1,1,1,1,1,1,1,1]", "0", "4") "}", 4, "more than 8 dims"},
      {"{" F32("a", "[4503599627370496,4503599627370496]", "0", "0") "}", 0, "memory can address"},
      {"{" F32("a", "[4503599627370496,4503599627370496,0]", "0", "0") "}", 0, "can address"},
      {"{" F32("a", "[2]", "0", "4") "}", 4, "needs 8 bytes but its data_offsets span 4"},
      {"{" F32("a", "[0]", "0", "4") "}", 4, "needs 0 bytes"},
      {"{" F32("a", "[1]", "4", "0") "}", 4, "before it begins"},
      {"{" F32("a", "[1]", "0", "4.5") "}", 4, "not two integers"},
      {"{" F32("a", "[1]", "-4", "0") "}", 4, "not two integers"},
      {"{" F32("a", "[1]", "0", "4,4") "}", 4, "not two integers"},
      {"{" F32("a", "[1]", "0", "18446744073709551616") "}", 4, "not two integers"},
      {"{" F32("a", "[2]", "0", "8") "}", 7, "'a': its data ends at byte 8 of 7"},
      {"{" F32("a", "[1]", "0", "4") "," F32("a", "[1]", "4", "8") "}", 8,
       "'a': it is there twice"},
      {"{" F32("a", "[2]", "0", "8") "," F32("b", "[2]", "4", "12") "}", 12,
       "'b': its data begins at 4, inside the data of 'a'"},
      {"{" F32("a", "[1]", "0", "4") "," F32("b", "[1]", "0", "4") "}", 4,
       "inside the data of 'a'"},
      {"{" F32("b", "[1]", "8", "12") "," F32("a", "[1]", "0", "4") "}", 12,
       "'b': its data begins at 8, after 4 bytes"},
      {"{" F32("a", "[1]", "4", "8") "}", 8, "after 4 bytes that belong to no tensor"},
      {"{" F32("a", "[1]", "0", "4") "}", 8, "last 4 bytes"},
      {"{" F32("\\u001b[2J", "[2]", "0", "4") "}", 4, "tensor '?[2J'"},
  };
  for (size_t k = 0; k < sizeof(cases) / sizeof(cases[0]); k++) {
    size_t size;
    const void *bytes = safetensors(cases[k].header, strlen(cases[k].header), cases[k].data, &size);
    assert_refused(TENSOR_FORMAT_SAFETENSORS, bytes, size, cases[k].expected);
  }
  size_t size;
  const void *bytes = safetensors("{\0}", 3, 0, &size);
  assert_refused(TENSOR_FORMAT_SAFETENSORS, bytes, size, "NUL");
  assert_refused(TENSOR_FORMAT_SAFETENSORS, NULL, 0, "it has 0 bytes");
  assert_refused(TENSOR_FORMAT_SAFETENSORS, "\x3\0\0\0\0\0\0\0{}", 10, "truncated");
  assert_refused(TENSOR_FORMAT_SAFETENSORS, "\x1\xe1\xf5\x5\0\0\0\0{}", 10,
                 "the allowed 100000000");
  assert_refused(TENSOR_FORMAT_SAFETENSORS, "\xff\xff\xff\xff\xff\xff\xff\xff{}", 10,
                 "claims 18446744073709551615");
  const char *boolean = "{\"m\":{\"dtype\":\"BOOL\",\"shape\":[2],\"data_offsets\":[0,2]}}";
  unsigned char *file = (unsigned char *)safetensors(boolean, strlen(boolean), 2, &size);
  file[size - 1] = 2;
  assert_refused(TENSOR_FORMAT_SAFETENSORS, file, size, "'m': element 1 of its booleans is 2");
}
END_TEST

START_TEST(unusual_safetensors_is_read)
{
  static const char *const headers[] = {
      "{" F32("a", "[1]", "0", "4") "}     ",
      "{\"__metadata__\":{\"a\":\"b\\\\u0000\"}," F32("a", "[1, 1]", "0", "4") "}",
      "{" F32("b", "[0]", "4", "4") "," F32("a", "[1]", "0", "4") "," F32("c", "[3,0]", "0",
                                                                          "0") "}",
      "{\"a\":{\"data_offsets\":[0,4],\"shape\":[],\"dtype\":\"F32\"}}",
  };
  for (size_t k = 0; k < sizeof(headers) / sizeof(headers[0]); k++) {
    size_t size;
    const void *bytes = safetensors(headers[k], strlen(headers[k]), 4, &size);
    struct tensor_list list;
    ck_assert_msg(parse(&list, TENSOR_FORMAT_SAFETENSORS, bytes, size) == TENSOR_OK, "%s",
                  error.text);
    ck_assert_uint_eq(list.count, k == 2 ? 3 : 1);
    ck_assert_uint_eq(tensor_list_find(&list, "a")->bytes, 4);
    tensor_list_free(&list);
  }
}
END_TEST

/* No beginning of a file is taken for a file. */
START_TEST(every_truncation_is_refused)
{
  size_t sizes[2];
  const char *header = "{" F32("a", "[2]", "0", "8") "," F32("b", "[0]", "8", "8") "}";
  const void *files[2] = {
      npy(1, "{'descr': '<f4', 'fortran_order': True, 'shape': (2, 1), }\n", 8, &sizes[0]),
      safetensors(header, strlen(header), 8, &sizes[1])};
  const enum tensor_format formats[] = {TENSOR_FORMAT_NPY, TENSOR_FORMAT_SAFETENSORS};
  for (int k = 0; k < 2; k++) {
    struct tensor_list list;
    for (size_t size = 0; size < sizes[k]; size++)
      ck_assert_int_eq(parse(&list, formats[k], files[k], size), TENSOR_INVALID);
    ck_assert_int_eq(parse(&list, formats[k], files[k], sizes[k]), TENSOR_OK);
    tensor_list_free(&list);
  }
}
END_TEST

START_TEST(paths_that_cannot_be_read)
{
  struct tensor_list list;
  ck_assert_int_eq(tensor_file_read(&list, in_folder("none.npy"), &error), TENSOR_IO);
  ck_assert_ptr_nonnull(strstr(error.text, "none.npy: cannot open it"));
  ck_assert_int_eq(tensor_file_read(&list, in_folder("t.bin"), &error), TENSOR_INVALID);
  ck_assert_ptr_nonnull(strstr(error.text, "neither .npy nor .safetensors"));
  ck_assert_int_eq(mkdir(in_folder("dir.npy"), 0777), 0);
  ck_assert_int_eq(tensor_file_read(&list, in_folder("dir.npy"), &error), TENSOR_INVALID);
  ck_assert_int_eq(mkfifo(in_folder("pipe.npy"), 0666), 0);
  ck_assert_int_eq(tensor_file_read(&list, in_folder("pipe.npy"), &error), TENSOR_INVALID);
  ck_assert_ptr_nonnull(strstr(error.text, "not a regular file"));
  /* A long path and name are shortened, so that the message itself still fits. */
  char path[3000];
  memset(path, 'x', sizeof(path));
  strcpy(path + sizeof(path) - 5, ".npy");
  ck_assert_int_eq(tensor_file_read(&list, path, &error), TENSOR_IO);
  ck_assert_ptr_nonnull(strstr(error.text, "x.npy: cannot open it: "));
}
END_TEST

START_TEST(failed_writes_leave_the_old_file)
{
  const int64_t shape[] = {64, 1024};
  struct tensor old = make("t", "f32", 0, NULL);
  struct tensor new = make("t", "f32", 2, shape);
  ck_assert_int_eq(tensor_file_write(in_folder("none/t.npy"), &old, 1, &error), TENSOR_IO);
  ck_assert_int_eq(mkdir(in_folder("dir.npy"), 0777), 0);
  ck_assert_int_eq(tensor_file_write(in_folder("dir.npy"), &old, 1, &error), TENSOR_INVALID);
  ck_assert_int_eq(tensor_file_write("t.txt", &old, 1, &error), TENSOR_INVALID);
  ck_assert_int_eq(empty_folder(), 1);

  const char *path = in_folder("t.safetensors");
  ck_assert_int_eq(tensor_file_write(path, &old, 1, &error), TENSOR_OK);
  /* A limit on file sizes stands in for a full disk. */
  struct rlimit before;
  ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &before), 0);
  signal(SIGXFSZ, SIG_IGN);
  ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &(struct rlimit){100000, before.rlim_max}), 0);
  enum tensor_status status = tensor_file_write(path, &new, 1, &error);
  ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &before), 0);
  ck_assert_int_eq(status, TENSOR_IO);
  ck_assert_ptr_nonnull(strstr(error.text, "cannot write"));
  ck_assert_ptr_nonnull(strstr(error.text, "make room"));
  struct tensor_list list;
  ck_assert_int_eq(tensor_file_read(&list, path, &error), TENSOR_OK);
  assert_same(&list.items[0], &old);
  tensor_list_free(&list);
  ck_assert_int_eq(tensor_file_write(path, &new, 1, &error), TENSOR_OK);
  ck_assert_int_eq(tensor_file_read(&list, path, &error), TENSOR_OK);
  assert_same(&list.items[0], &new);
  tensor_list_free(&list);
  ck_assert_int_eq(empty_folder(), 1);
  tensor_free(&old);
  tensor_free(&new);
}
END_TEST

/* Fails the first, second, ... allocation of reading and of writing until none is left to fail. */
START_TEST(failed_allocations_leak_nothing)
{
  const int64_t shape[] = {2, 3};
  struct tensor tensors[] = {make("a", "f32", 2, shape), make("b", "bool", 2, shape),
                             make("c", "bf16", 2, shape)};
  const char *path = in_folder("t.safetensors");
  int failures[3] = {0};
  for (int what = 0; what < 3; what++) {
    enum tensor_status status = TENSOR_NO_MEMORY;
    for (uint64_t n = 1; status != TENSOR_OK; n++) {
      struct tensor_list list = {0};
      size_t size;
      const void *bytes =
          npy(1, "{'descr': '<f4', 'fortran_order': True, 'shape': (2, 1), }\n", 8, &size);
      int64_t live = mem_live_count();
      mem_fail_at(n);
      if (what == 0)
        status = tensor_file_write(path, tensors, 3, &error);
      else if (what == 1)
        status = tensor_file_read(&list, path, &error);
      else
        status = tensor_file_parse(&list, TENSOR_FORMAT_NPY, bytes, size, "t.npy", &error);
      mem_fail_at(0);
      if (status != TENSOR_OK) {
        failures[what]++;
        ck_assert_msg(status == TENSOR_NO_MEMORY, "%s", error.text);
        ck_assert_ptr_nonnull(strstr(error.text, "out of memory"));
        ck_assert_ptr_nonnull(strstr(error.text, "t."));
        ck_assert_ptr_null(list.items);
      }
      tensor_list_free(&list);
      ck_assert_int_eq(mem_live_count(), live);
    }
  }
  ck_assert_int_ge(failures[0], 10);
  ck_assert_int_ge(failures[1], 10);
  ck_assert_int_ge(failures[2], 6);
  ck_assert_int_eq(empty_folder(), 1);
  for (int k = 0; k < 3; k++)
    tensor_free(&tensors[k]);
}
END_TEST

static const float *floats(const struct tensor_list *list, const char *name)
{
  const struct tensor *tensor = tensor_list_find(list, name);
  ck_assert_ptr_nonnull(tensor);
  ck_assert(tensor_dtype_equal(tensor->dtype, TENSOR_DTYPE_F32));
  const int64_t shape[] = {5, 12, 45, 32};
  ck_assert_int_eq(tensor->ndim, 4);
  ck_assert_int_eq(memcmp(tensor->shape, shape, sizeof(shape)), 0);
  return tensor->data;
}

/* The example's own claim: attention over each sentence's tokens gives the model's output. */
START_TEST(the_example_is_what_it_says)
{
  const char *source = getenv("ATTN_SOURCE_DIR");
  char path[1024];
  snprintf(path, sizeof(path), "%s/examples/data/minilm.safetensors", source ? source : ".");
  struct tensor_list list;
  ck_assert_msg(tensor_file_read(&list, path, &error) == TENSOR_OK, "%s", error.text);
  ck_assert_uint_eq(list.count, 6);
  const float *q = floats(&list, "q");
  const float *k = floats(&list, "k");
  const float *v = floats(&list, "v");
  const float *o = floats(&list, "o");
  const struct tensor *length = tensor_list_find(&list, "length");
  const struct tensor *valid = tensor_list_find(&list, "valid");
  ck_assert(tensor_dtype_equal(length->dtype, TENSOR_DTYPE_I32) && tensor_count(length) == 5);
  ck_assert(tensor_dtype_equal(valid->dtype, TENSOR_DTYPE_BOOL) && tensor_count(valid) == 5 * 45);
  double worst = 0;
  for (int64_t row = 0; row < 5 * 12 * 45; row++) {
    int64_t b = row / (12 * 45);
    int64_t start = row / 45 * 45; /* the head's first token */
    int64_t tokens = (int64_t)tensor_get(length, b);
    double sum = 0;
    double out[32] = {0};
    for (int64_t j = 0; j < 45; j++) {
      ck_assert(tensor_get(valid, b * 45 + j) == (j < tokens));
      if (j >= tokens)
        continue;
      double score = 0;
      for (int c = 0; c < 32; c++)
        score += (double)q[row * 32 + c] * (double)k[(start + j) * 32 + c];
      double weight = exp(score / sqrt(32));
      sum += weight;
      for (int c = 0; c < 32; c++)
        out[c] += weight * (double)v[(start + j) * 32 + c];
    }
    for (int c = 0; c < 32; c++)
      worst = fmax(worst, fabs(out[c] / sum - (double)o[row * 32 + c]));
  }
  ck_assert_double_lt(worst, 2e-6);
  tensor_list_free(&list);
}
END_TEST

int main(void)
{
  Suite *suite = suite_create("tensor_file");
  TCase *bytes = tcase_create("bytes");
  tcase_add_test(bytes, npy_versions_and_orders);
  tcase_add_test(bytes, damaged_npy_is_refused);
  tcase_add_test(bytes, damaged_safetensors_is_refused);
  tcase_add_test(bytes, unusual_safetensors_is_read);
  tcase_add_test(bytes, every_truncation_is_refused);
  suite_add_tcase(suite, bytes);

  TCase *files = tcase_create("files");
  tcase_add_checked_fixture(files, make_folder, remove_folder);
  tcase_add_test(files, every_type_and_rank_survives);
  tcase_add_test(files, several_tensors_survive);
  tcase_add_test(files, writer_refuses_names_and_dims);
  tcase_add_test(files, paths_that_cannot_be_read);
  tcase_add_test(files, failed_writes_leave_the_old_file);
  tcase_add_test(files, failed_allocations_leak_nothing);
  tcase_add_test(files, the_example_is_what_it_says);
  suite_add_tcase(suite, files);

  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
