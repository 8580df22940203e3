#define _GNU_SOURCE /* sched_getaffinity */
#include "runtime/processors.h"

#include <limits.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { TEXT = 4096 /* the longest path */ };

/* The first line of FOLDER/NAME, cut to the buffer; false where there is none. */
static bool read_line(const char *folder, const char *name, char *line, int size)
{
  char path[TEXT + 64];
  snprintf(path, sizeof(path), "%s/%s", folder, name);
  FILE *file = fopen(path, "r");
  if (file == NULL)
    return false;
  const bool good = fgets(line, size, file) != NULL;
  fclose(file);
  return good;
}

/* What one group grants. */
static unsigned granted_by(const char *folder, bool second)
{
  char line[64], period_line[64];
  double quota = 0, period = 0;
  if (second) { /* "QUOTA PERIOD" or "max PERIOD" */
    if (!read_line(folder, "cpu.max", line, sizeof(line)) ||
        sscanf(line, "%lf %lf", &quota, &period) != 2)
      return UINT_MAX;
  } else if (read_line(folder, "cpu.cfs_quota_us", line, sizeof(line)) &&
             read_line(folder, "cpu.cfs_period_us", period_line, sizeof(period_line))) {
    quota = strtod(line, NULL); /* -1 for no limit */
    period = strtod(period_line, NULL);
  }
  if (!(quota > 0 && period > 0) || quota / period >= INT_MAX)
    return UINT_MAX;
  const unsigned whole = (unsigned)(quota / period);
  return whole + (whole * period < quota);
}

/* One line of the list, "NUMBER:CONTROLLERS:PATH"; of version 2 there are no controllers. */
static unsigned granted_by_line(char *line, const char *mount)
{
  char *saved, folder[TEXT];
  line[strcspn(line, "\n")] = '\0';
  char *controllers = strchr(line, ':');
  char *path = controllers == NULL ? NULL : strchr(controllers + 1, ':');
  if (path == NULL)
    return UINT_MAX;
  *path++ = '\0';
  const bool second = *++controllers == '\0';
  bool cpu = second;
  for (char *name = strtok_r(controllers, ",", &saved); name != NULL;
       name = strtok_r(NULL, ",", &saved))
    cpu = cpu || strcmp(name, "cpu") == 0;
  const int length = snprintf(folder, sizeof(folder), "%s%s%s", mount, second ? "" : "/cpu", path);
  if (!cpu || length < 0 || (size_t)length >= sizeof(folder))
    return UINT_MAX;
  const size_t root = (size_t)length - strlen(path);
  unsigned least = UINT_MAX;
  for (;;) {
    const unsigned own = granted_by(folder, second);
    least = own < least ? own : least;
    char *end = strrchr(folder + root, '/');
    if (end == NULL)
      return least;
    *end = '\0';
  }
}

unsigned processors_granted(const char *groups, const char *mount)
{
  unsigned least = UINT_MAX;
  char line[TEXT];
  FILE *file = fopen(groups, "r");
  if (file == NULL)
    return least;
  while (fgets(line, sizeof(line), file) != NULL) {
    const unsigned own = granted_by_line(line, mount);
    least = own < least ? own : least;
  }
  fclose(file);
  return least;
}

unsigned processors_available(void)
{
  cpu_set_t set;
  long count;
  if (sched_getaffinity(0, sizeof(set), &set) == 0)
    count = CPU_COUNT(&set);
  else /* more processors than a cpu_set_t holds */
    count = sysconf(_SC_NPROCESSORS_ONLN);
  const unsigned processors = count < 1 ? 1 : (unsigned)count;
  const unsigned granted = processors_granted("/proc/self/cgroup", "/sys/fs/cgroup");
  return granted < processors ? granted : processors;
}
