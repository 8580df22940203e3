/* What can be loaded as a module: PTX, and the stand-in's cubin, which is PTX in an envelope that
 * says what it was made for and shows damage. */
#include "tests/device/driver.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char magic[8] = {'\177', 'A', 'T', 'T', 'N', 'B', 'I', 'N'};

struct envelope {
  char magic[8];
  uint32_t capability; /* 10 * major + minor of the device that it was made for */
  uint32_t exact;      /* it runs on no other */
  uint64_t size;       /* of the text behind this, with its zero */
  uint64_t text_sum;
  uint64_t sum; /* of what stands before this */
};

/* FNV-1a, 64 bits (Fowler, Noll and Vo) */
static uint64_t checksum(const void *data, size_t size)
{
  const unsigned char *bytes = data;
  uint64_t hash = UINT64_C(0xcbf29ce484222325);
  for (size_t i = 0; i < size; i++)
    hash = (hash ^ bytes[i]) * UINT64_C(0x100000001b3);
  return hash;
}

static uint64_t envelope_sum(const struct envelope *envelope)
{
  return checksum(envelope, offsetof(struct envelope, sum));
}

/* ---- PTX ---- */

/* "M.N" or "sm_MN" behind the directive, as 10 * M + N. */
static bool read_directive(const char *text, const char *directive, const char *prefix, int *value,
                           char *suffix)
{
  const char *place = strstr(text, directive);
  if (place == NULL)
    return false;
  place += strlen(directive);
  place += strspn(place, " \t");
  if (strncmp(place, prefix, strlen(prefix)) != 0)
    return false;
  place += strlen(prefix);
  const char *start = place;
  for (*value = 0; isdigit((unsigned char)*place) || *place == '.'; place++) {
    if (*place != '.')
      *value = 10 * *value + (*place - '0');
    if (place - start > 6)
      return false;
  }
  *suffix = *place;
  return place != start;
}

/* PTX for sm_MN runs on MN and later devices; with an a, on MN only; with an f, on MN and later
 * ones of the same M. */
static bool runs_here(int target, char suffix)
{
  const int capability = settings_load()->capability;
  return suffix == 'a'   ? target == capability
         : suffix == 'f' ? target <= capability && target / 10 == capability / 10
                         : target <= capability;
}

static CUresult read_ptx(const char *text, size_t length, struct image *image, char *log,
                         size_t log_size)
{
  char suffix;
  image->text = malloc(length + 1);
  if (image->text == NULL)
    return CUDA_ERROR_OUT_OF_MEMORY;
  memcpy(image->text, text, length);
  image->text[length] = '\0';
  CUresult result = CUDA_SUCCESS;
  image->exact = false;
  if (!read_directive(image->text, ".version", "", &image->isa, &suffix)) {
    snprintf(log, log_size, "the text has no .version");
    result = CUDA_ERROR_INVALID_PTX;
  } else if (image->isa > property_ptx_version()) {
    snprintf(log, log_size, ".version %d.%d is newer than this driver, which reads %d.%d",
             image->isa / 10, image->isa % 10, property_ptx_version() / 10,
             property_ptx_version() % 10);
    result = CUDA_ERROR_UNSUPPORTED_PTX_VERSION;
  } else if (!read_directive(image->text, ".target", "sm_", &image->target, &suffix)) {
    snprintf(log, log_size, "the text has no .target");
    result = CUDA_ERROR_INVALID_PTX;
  } else if (!runs_here(image->target, suffix)) {
    snprintf(log, log_size, ".target sm_%d%.1s does not run on compute capability %d.%d",
             image->target, suffix == 'a' || suffix == 'f' ? &suffix : "",
             settings_load()->capability / 10, settings_load()->capability % 10);
    result = CUDA_ERROR_INVALID_PTX;
  } else {
    image->exact = suffix == 'a';
  }
  if (result != CUDA_SUCCESS) {
    free(image->text);
    image->text = NULL;
  }
  return result;
}

/* ---- cubins ---- */

static CUresult open_envelope(const unsigned char *data, size_t size, struct image *image,
                              char *log, size_t log_size)
{
  struct envelope envelope;
  const int capability = settings_load()->capability;
  if (size < sizeof(envelope)) {
    snprintf(log, log_size, "the cubin is shorter than its header");
    return CUDA_ERROR_INVALID_IMAGE;
  }
  memcpy(&envelope, data, sizeof(envelope));
  if (envelope.sum != envelope_sum(&envelope) || envelope.size == 0 ||
      envelope.size > size - sizeof(envelope)) {
    snprintf(log, log_size, "the header of the cubin is damaged");
    return CUDA_ERROR_INVALID_IMAGE;
  }
  const int made_for = (int)envelope.capability;
  if (made_for / 10 != capability / 10 || made_for > capability ||
      (envelope.exact != 0 && made_for != capability)) {
    snprintf(log, log_size, "the cubin was made for compute capability %d.%d, this is %d.%d",
             made_for / 10, made_for % 10, capability / 10, capability % 10);
    return CUDA_ERROR_NO_BINARY_FOR_GPU;
  }
  const char *text = (const char *)data + sizeof(envelope);
  if (checksum(text, (size_t)envelope.size) != envelope.text_sum) {
    snprintf(log, log_size, "the cubin is damaged");
    return CUDA_ERROR_INVALID_IMAGE;
  }
  return read_ptx(text, (size_t)envelope.size - 1, image, log, log_size);
}

void *image_make(const struct image *image, size_t *size)
{
  const size_t length = strlen(image->text) + 1;
  struct envelope envelope = {.capability = (uint32_t)settings_load()->capability,
                              .exact = image->exact,
                              .size = length,
                              .text_sum = checksum(image->text, length)};
  memcpy(envelope.magic, magic, sizeof(magic));
  envelope.sum = envelope_sum(&envelope);
  *size = sizeof(envelope) + length;
  unsigned char *data = malloc(*size);
  if (data != NULL) {
    memcpy(data, &envelope, sizeof(envelope));
    memcpy(data + sizeof(envelope), image->text, length);
  }
  return data;
}

/* Whether the image begins with these bytes; it is not read past a difference. */
static bool begins(const unsigned char *data, size_t size, const char *bytes, size_t count)
{
  for (size_t i = 0; i < count; i++) {
    if (i >= size || data[i] != (unsigned char)bytes[i])
      return false;
  }
  return true;
}

CUresult image_read(const void *image_data, size_t size, struct image *image, char *log,
                    size_t log_size)
{
  const unsigned char *data = image_data;
  *image = (struct image){.text = NULL};
  if (begins(data, size, magic, sizeof(magic)))
    return open_envelope(data, size, image, log, log_size);
  if (begins(data, size, "\177ELF", 4) || begins(data, size, "\x50\xed\x55\xba", 4) ||
      begins(data, size, "\xb1\x43\x62\x46", 4)) {
    snprintf(log, log_size, "the image is code for a real GPU");
    return CUDA_ERROR_NO_BINARY_FOR_GPU;
  }
  if (size == 0 || (!isprint(data[0]) && !isspace(data[0]))) {
    snprintf(log, log_size, "the image is neither PTX nor a cubin");
    return CUDA_ERROR_INVALID_IMAGE;
  }
  const size_t length = size == SIZE_MAX ? strlen(image_data) : strnlen(image_data, size);
  return read_ptx(image_data, length, image, log, log_size);
}
