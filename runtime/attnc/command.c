#include "runtime/attnc/command.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "dsl/base/memory.h"
#include "runtime/attnc/tensor_format.h"

/* Larger specs are refused by the front end anyway; this keeps a wrong path from filling the
 * memory. */
enum { MAX_TEXT = 64 << 20 };

static void print_complaint(const char *format, va_list arguments)
{
  fflush(stdout); /* so that the two streams keep their order in a log */
  fputs("attnc: ", stderr);
  vfprintf(stderr, format, arguments);
  fputc('\n', stderr);
}

void complain(const char *format, ...)
{
  va_list arguments;
  va_start(arguments, format);
  print_complaint(format, arguments);
  va_end(arguments);
}

enum exit_status fail_with(enum exit_status status, const char *format, ...)
{
  va_list arguments;
  va_start(arguments, format);
  print_complaint(format, arguments);
  va_end(arguments);
  return status;
}

enum exit_status fail_memory(void)
{
  return fail_with(EXIT_MACHINE, "out of memory; free some or choose a smaller problem");
}

enum exit_status exit_of_attn(attn_status status)
{
  switch (status) {
  case ATTN_OK: return EXIT_FINE;
  case ATTN_ERROR_SPEC:
  case ATTN_ERROR_ARGUMENT:
  case ATTN_ERROR_FAULT:
  case ATTN_ERROR_IO: return EXIT_WRONG;
  case ATTN_ERROR_OUT_OF_MEMORY:
  case ATTN_ERROR_UNSUPPORTED:
  case ATTN_ERROR_DEVICE:
  case ATTN_ERROR_INTERNAL: return EXIT_MACHINE;
  }
  return EXIT_MACHINE;
}

enum exit_status exit_of_tensor(enum tensor_status status)
{
  switch (status) {
  case TENSOR_OK: return EXIT_FINE;
  case TENSOR_INVALID:
  case TENSOR_IO: return EXIT_WRONG;
  case TENSOR_NO_MEMORY: return EXIT_MACHINE;
  }
  return EXIT_MACHINE;
}

enum exit_status report_tensor(enum tensor_status status, const struct tensor_error *error)
{
  if (status != TENSOR_OK)
    complain("%s", error->text);
  return exit_of_tensor(status);
}

double now_ms(void)
{
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec * 1e3 + (double)time.tv_nsec * 1e-6;
}

bool is_terminal(int fd)
{
  return isatty(fd) == 1;
}

bool wants_color(void)
{
  const char *no_color = getenv("NO_COLOR"); /* no-color.org */
  return (no_color == NULL || no_color[0] == '\0') && is_terminal(STDERR_FILENO);
}

enum exit_status write_output(const char *path, const void *data, size_t size)
{
  if (path == NULL || strcmp(path, "-") == 0) {
    if (fwrite(data, 1, size, stdout) != size)
      return fail_with(EXIT_MACHINE, "cannot write to stdout: %s", strerror(errno));
    return EXIT_FINE;
  }
  struct tensor_error error;
  const struct tensor_piece piece = {data, size};
  enum tensor_status status = tensor_replace_file(path, &piece, 1, &error);
  if (status == TENSOR_OK)
    return EXIT_FINE;
  return fail_with(EXIT_MACHINE, "%s", error.text);
}

static char *read_stream(FILE *file, const char *path, size_t *length, enum exit_status *status)
{
  size_t capacity = 1 << 14;
  char *text = mem_alloc(capacity);
  size_t used = 0;
  *status = EXIT_MACHINE;
  while (text != NULL) {
    used += fread(text + used, 1, capacity - used - 1, file);
    if (ferror(file)) {
      *status = fail_with(EXIT_WRONG, "%s: cannot read it: %s", path, strerror(errno));
      break;
    }
    if (memchr(text, '\0', used) != NULL) {
      *status =
          fail_with(EXIT_WRONG, "%s: it holds zero bytes, so is no text; check the path", path);
      break;
    }
    if (feof(file)) {
      text[used] = '\0';
      *length = used;
      *status = EXIT_FINE;
      return text;
    }
    if (used + 1 < capacity)
      continue;
    if (capacity >= MAX_TEXT) {
      *status = fail_with(EXIT_WRONG,
                          "%s: it is larger than 64 MiB, which is no spec; check the path", path);
      break;
    }
    char *larger = mem_realloc(text, capacity * 2);
    if (larger == NULL) {
      mem_free(text);
      text = NULL;
    } else {
      text = larger;
      capacity *= 2;
    }
  }
  if (text == NULL)
    *status = fail_memory();
  mem_free(text);
  return NULL;
}

char *read_text(const char *path, size_t *length, enum exit_status *status)
{
  if (strcmp(path, "-") == 0)
    return read_stream(stdin, "<stdin>", length, status);
  FILE *file = fopen(path, "rb");
  struct stat info;
  const char *reason = NULL;
  if (file == NULL)
    reason = strerror(errno);
  else if (fstat(fileno(file), &info) == 0 && S_ISDIR(info.st_mode))
    reason = strerror(EISDIR);
  if (reason != NULL) {
    *status = fail_with(EXIT_WRONG, "%s: cannot read it: %s; check the path", path, reason);
    if (file != NULL)
      fclose(file);
    return NULL;
  }
  char *text = read_stream(file, path, length, status);
  fclose(file);
  return text;
}
