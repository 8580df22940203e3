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

enum exit_status schedule_option(const struct option_list *list, struct schedule *schedule)
{
  static const char *const names[] = {
      "rows",  "columns",      "lanes",  "row_vectors", "column_registers",
      "warps", "column_warps", "stages", "tasks",       "part"};
  uint32_t *const fields[] = {
      &schedule->rows,         &schedule->columns,          &schedule->lanes,
      &schedule->row_vectors,  &schedule->column_registers, &schedule->warps,
      &schedule->column_warps, &schedule->stages,           &schedule->tasks,
      &schedule->part};
  enum { COUNT = sizeof(names) / sizeof(names[0]), MOST_OF_TILES = 4096, MOST = 1 << 30 };
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
    if (fields[n] == &schedule->tasks && strcmp(value, "all") == 0) {
      schedule->tasks = SCHEDULE_ALL_TASKS;
      continue;
    }
    bool of_tiles = fields[n] != &schedule->tasks && fields[n] != &schedule->part;
    uint64_t most = of_tiles ? MOST_OF_TILES : MOST;
    if (!parse_number(value, 1, most, &number))
      return fail_with(EXIT_USAGE, "--schedule %s takes a whole number from 1 to %llu%s, not '%s'",
                       name, (unsigned long long)most,
                       fields[n] == &schedule->tasks ? ", or 'all'" : "", value);
    *fields[n] = (uint32_t)number;
  }
  return EXIT_FINE;
}
