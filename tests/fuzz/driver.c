/* Stands in for libFuzzer where it is not built in: feeds every file of the directories given to
 * the target, in the order of their names, so that the corpus runs as an ordinary test.
 *
 * Exit status: 0 when every input was fed, 1 when one could not be read or none was found, 2 on
 * wrong usage. A target that finds a fault crashes; the last name printed is the input that did it.
 */
#include <dirent.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int report(const char *path)
{
  fprintf(stderr, "%s: %s\n", path, strerror(errno));
  return -1;
}

/* 1 when fed, 0 when not a regular file, -1 when it cannot be read. */
static int feed_file(const char *path)
{
  struct stat status;
  if (stat(path, &status) != 0)
    return report(path);
  if (!S_ISREG(status.st_mode))
    return 0;
  FILE *file = fopen(path, "rb");
  if (file == NULL)
    return report(path);
  /* Exactly as large as the input, so that the address sanitizer sees a read past its end. */
  size_t size = (size_t)status.st_size;
  uint8_t *data = malloc(size == 0 ? 1 : size);
  if (data == NULL || fread(data, 1, size, file) != size) {
    report(path);
    free(data);
    fclose(file);
    return -1;
  }
  fclose(file);
  fprintf(stderr, "%s\n", path);
  LLVMFuzzerTestOneInput(data, size);
  free(data);
  return 1;
}

static int feed_entry(const char *directory, const char *name)
{
  size_t size = strlen(directory) + strlen(name) + 2;
  char *path = malloc(size);
  if (path == NULL)
    return report(name);
  snprintf(path, size, "%s/%s", directory, name);
  int fed = feed_file(path);
  free(path);
  return fed;
}

/* The number of inputs fed, or -1 after the first that cannot be read. */
static int feed_directory(const char *directory)
{
  struct dirent **entries;
  int count = scandir(directory, &entries, NULL, alphasort);
  if (count < 0)
    return report(directory);
  int total = 0;
  for (int k = 0; k < count; k++) {
    if (total >= 0) {
      int fed = feed_entry(directory, entries[k]->d_name);
      total = fed < 0 ? -1 : total + fed;
    }
    free(entries[k]);
  }
  free(entries);
  return total;
}

int main(int argc, char **argv)
{
  if (argc < 2) {
    fprintf(stderr, "usage: %s DIRECTORY...\n", argv[0]);
    return 2;
  }
  for (int k = 1; k < argc; k++) {
    int fed = feed_directory(argv[k]);
    if (fed == 0)
      fprintf(stderr, "%s: holds no input\n", argv[k]);
    if (fed <= 0)
      return 1;
  }
  return 0;
}
