#define _GNU_SOURCE /* dl_iterate_phdr */
#include "runtime/openmp.h"

#include <dlfcn.h>
#include <link.h>
#include <stdio.h>
#include <string.h>

struct search {
  char paths[OPENMP_MOST][1024];
  int count;
};

static int note_library(struct dl_phdr_info *info, size_t size, void *user)
{
  static const char *const names[] = {"libgomp", "libomp", "libiomp5"};
  struct search *search = user;
  const char *slash = strrchr(info->dlpi_name, '/');
  const char *name = slash == NULL ? info->dlpi_name : slash + 1;
  (void)size;
  for (size_t n = 0; n < sizeof(names) / sizeof(names[0]); n++) {
    const size_t length =
        strlen(names[n]); /* "libgomp.so.1", and "libgomp-a34b3233.so.1" of PyPI */
    if (strncmp(name, names[n], length) != 0 || (name[length] != '.' && name[length] != '-'))
      continue;
    snprintf(search->paths[search->count++], sizeof(search->paths[0]), "%s", info->dlpi_name);
    break;
  }
  return search->count == OPENMP_MOST;
}

void openmp_find(struct openmp *found)
{
  *found = (struct openmp){0};
  struct search search = {.count = 0};
  /* Opening them from the callback would take the loader's locks in the wrong order. */
  dl_iterate_phdr(note_library, &search);
  for (int n = 0; n < search.count; n++) {
    found->libraries[n] = dlopen(search.paths[n], RTLD_LAZY | RTLD_NOLOAD);
    if (found->libraries[n] == NULL)
      continue;
    void *symbol = dlsym(found->libraries[n], "omp_in_parallel");
    memcpy(&found->in_parallel[n], &symbol, sizeof(symbol));
  }
}

void openmp_release(struct openmp *found)
{
  for (int n = 0; n < OPENMP_MOST; n++) {
    if (found->libraries[n] != NULL)
      dlclose(found->libraries[n]);
  }
}

bool openmp_in_parallel(const struct openmp *found)
{
  for (int n = 0; n < OPENMP_MOST; n++) {
    if (found->in_parallel[n] != NULL && found->in_parallel[n]() != 0)
      return true;
  }
  return false;
}
