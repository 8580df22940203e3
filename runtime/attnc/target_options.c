#include "runtime/attnc/target_options.h"

#include <string.h>

#include "dsl/diagnostics.h"

enum exit_status target_option(const char *name, enum target *target)
{
  static const enum target targets[] = {TARGET_HOST, TARGET_SM_80};
  static const char *const planned[] = {"sm_90a", "sm_100a"};
  for (size_t k = 0; k < sizeof(targets) / sizeof(targets[0]); k++) {
    *target = targets[k];
    if (strcmp(target_name(*target), name) == 0)
      return EXIT_FINE;
  }
  for (size_t k = 0; k < sizeof(planned) / sizeof(planned[0]); k++)
    if (strcmp(name, planned[k]) == 0)
      return fail_with(EXIT_MACHINE,
                       "target %s is not lowered yet; this version compiles for host and sm_80",
                       name);
  return fail_with(EXIT_USAGE, "there is no target '%s'; attnc targets lists them", name);
}

enum target target_of_device(const char *device)
{
  return strncmp(device, "cuda", 4) == 0 ? TARGET_SM_80 : TARGET_HOST;
}

enum exit_status schedule_option(const struct option_list *list, enum target target,
                                 struct schedule *schedule)
{
  enum kind { OF_TILES, OF_HOST, OF_GPUS, OF_DECODE };
  const struct {
    const char *name;
    uint32_t *number;
    enum kind kind;
  } fields[] = {{"rows", &schedule->rows, OF_TILES},
                {"columns", &schedule->columns, OF_TILES},
                {"lanes", &schedule->lanes, OF_HOST},
                {"row_vectors", &schedule->row_vectors, OF_HOST},
                {"column_registers", &schedule->column_registers, OF_HOST},
                {"warps", &schedule->warps, OF_GPUS},
                {"column_warps", &schedule->column_warps, OF_GPUS},
                {"stages", &schedule->stages, OF_GPUS},
                {"tasks", &schedule->tasks, OF_DECODE},
                {"part", &schedule->part, OF_DECODE}};
  enum { COUNT = sizeof(fields) / sizeof(fields[0]), MOST_OF_TILES = 4096, MOST = 1 << 30 };
  const char *names[COUNT];
  for (size_t n = 0; n < COUNT; n++)
    names[n] = fields[n].name;
  for (size_t k = 0; k < list->count; k++) {
    char name[32];
    const char *value;
    uint64_t number;
    if (!option_split("schedule", list->items[k], name, sizeof(name), &value))
      return EXIT_USAGE;
    size_t n = 0;
    while (n < COUNT && strcmp(names[n], name) != 0)
      n++;
    if (n == COUNT) {
      const char *nearest = diag_nearest(name, names, COUNT);
      return fail_with(EXIT_USAGE, "--schedule knows no '%s'%s%s%s", name,
                       nearest != NULL ? "; did you mean '" : "", nearest != NULL ? nearest : "",
                       nearest != NULL ? "'?" : "");
    }
    enum kind kind = fields[n].kind;
    if (kind == (target == TARGET_HOST ? OF_GPUS : OF_HOST))
      return fail_with(EXIT_USAGE, "--schedule %s is for %s; leave it out", name,
                       kind == OF_HOST ? "the host, not for GPUs" : "GPUs, not for the host");
    bool all = fields[n].number == &schedule->tasks;
    if (all && strcmp(value, "all") == 0) {
      schedule->tasks = SCHEDULE_ALL_TASKS;
      continue;
    }
    uint64_t most = kind == OF_DECODE ? MOST : MOST_OF_TILES;
    if (!parse_number(value, 1, most, &number))
      return fail_with(EXIT_USAGE, "--schedule %s takes a whole number from 1 to %llu%s, not '%s'",
                       name, (unsigned long long)most, all ? ", or 'all'" : "", value);
    *fields[n].number = (uint32_t)number;
  }
  return EXIT_FINE;
}
