/* Random specs, compiled code against the reference, and the specs of regressions/, which failed
 * once.
 *
 *     RANDOM_SPECS=FIRST:COUNT   the seeds (0:1000)
 *     RANDOM_SPECS_REASONS=1     prints why specs are skipped
 *     ATTN_TEST_DEVICE=cuda:0    where compiled code runs (cpu); specs and cases are then smaller
 *     --caches                   specs with a cache, in steps on it
 *     --keep DIR                 writes what fails, made small, as DIR/seed-N.attn
 *     --show N                   prints the spec and the cases of a seed, and runs nothing
 *
 * A regression file is a spec whose first line is "# case: ", followed by the case (trial.h).
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runtime/attnc/command.h"
#include "tests/numeric/random_specs/generate.h"

enum { WORKERS = 2, TIME_LIMIT_S = 60, REDUCE_TRIALS = 600, SHOWN_FAILURES = 10 };
/* At most so many of 100 specs may be skipped, out of range everywhere, or see no pair. */
enum { MOST_SKIPPED = 20, MOST_FAULTS = 10, MOST_EMPTY = 10 };

static const char case_mark[] = "# case: ";

/* What the workers have in common with the process that waits for them. */
struct progress {
  uint64_t counts[TRIAL_CRASHED + 1];
  uint64_t empty;
  uint64_t seed; /* the one at hand */
};

struct setup {
  const char *device;
  bool few_blocks; /* the device is one that interprets */
  bool caches;
  const char *keep; /* a folder for what fails, or NULL */
};

/* ---- failures ---- */

struct hunt {
  const char *device;
  const struct trial_case *c;
  struct trial_result wanted;
};

/* Refusals and broken launches are told apart by the beginning of what was said. */
static bool is_same_failure(const struct trial_result *a, const struct trial_result *b)
{
  enum { BEGINNING = 60 };
  if (a->outcome != b->outcome)
    return false;
  bool said = a->outcome == TRIAL_REFUSED || a->outcome == TRIAL_BROKEN;
  const char *x = strstr(a->text, "error[");
  const char *y = strstr(b->text, "error[");
  if (!said || (x == NULL) != (y == NULL))
    return !said;
  return strncmp(x == NULL ? a->text : x, y == NULL ? b->text : y, BEGINNING) == 0;
}

static bool still_fails(void *user, const struct node *root)
{
  const struct hunt *hunt = user;
  struct arena arena;
  struct trial_result result;
  arena_init(&arena);
  if (arena_guard(&arena)) {
    arena_free(&arena);
    return false;
  }
  trial_run_apart(hunt->device, node_print(&arena, root), hunt->c, &result);
  arena_free(&arena);
  return is_same_failure(&result, &hunt->wanted);
}

static bool try_case(struct hunt *hunt, const struct node *root, struct trial_case *c,
                     const struct trial_case *smaller)
{
  const struct hunt with = {hunt->device, smaller, hunt->wanted};
  if (memcmp(c, smaller, sizeof(*c)) == 0 || !still_fails((void *)&with, root))
    return false;
  *c = *smaller;
  return true;
}

/* Fewer sequences, queries and keys. */
static void reduce_case(struct hunt *hunt, const struct node *root, struct trial_case *c)
{
  for (int64_t batch = 1; batch < c->shape.batch; batch++) {
    struct trial_case smaller = *c;
    smaller.shape.batch = batch;
    if (try_case(hunt, root, c, &smaller))
      break;
  }
  for (int which = 0; which < 2; which++) {
    static const int64_t lengths[] = {0, 1, 2, 3, 4, 8, 16};
    for (size_t k = 0; k < sizeof(lengths) / sizeof(lengths[0]); k++) {
      struct trial_case smaller = *c;
      int64_t *at = which == 0 ? smaller.shape.queries : smaller.shape.keys;
      for (int b = 0; b < TRIAL_MAX_BATCH; b++)
        at[b] = at[b] < lengths[k] ? at[b] : lengths[k];
      if (try_case(hunt, root, c, &smaller))
        break;
    }
  }
}

static void write_regression(const char *folder, uint64_t seed, const char *description,
                             const char *text)
{
  char path[4096];
  snprintf(path, sizeof(path), "%s/seed-%llu.attn", folder, (unsigned long long)seed);
  FILE *file = fopen(path, "w");
  if (file == NULL) {
    perror(path);
    return;
  }
  fprintf(file, "%s%s\n%s", case_mark, description, text);
  fclose(file);
}

static void report(const struct setup *setup, struct arena *arena, uint64_t seed,
                   struct random_spec *spec, struct trial_case *c,
                   const struct trial_result *result)
{
  char description[256];
  struct hunt hunt = {setup->device, c, *result};
  trial_describe(c, description, sizeof(description));
  printf("seed %llu %s: %s\n%s%s\n%s", (unsigned long long)seed,
         trial_outcome_name(result->outcome), result->text, case_mark, description,
         node_print(arena, spec->root));
  fflush(stdout);
  reduce_case(&hunt, spec->root, c);
  unsigned asked = node_reduce(arena, spec->root, still_fails, &hunt, REDUCE_TRIALS);
  reduce_case(&hunt, spec->root, c);
  trial_describe(c, description, sizeof(description));
  const char *text = node_print(arena, spec->root);
  struct trial_result small;
  trial_run_apart(setup->device, text, c, &small);
  printf("smaller, after %u trials: %s\n%s%s\n%s\n", asked, small.text, case_mark, description,
         text);
  fflush(stdout);
  if (setup->keep != NULL)
    write_regression(setup->keep, seed, description, text);
}

/* ---- seeds ---- */

static void draw(const struct setup *setup, struct arena *arena, uint64_t seed,
                 struct random_spec *spec)
{
  if (setup->caches)
    random_cache_spec(arena, seed, setup->few_blocks, spec);
  else
    random_spec(arena, seed, setup->few_blocks, spec);
}

static void count(struct progress *progress, const struct trial_result *result)
{
  progress->counts[result->outcome]++;
  progress->empty += result->empty && result->outcome == TRIAL_AGREES;
  const char *reason = strstr(result->text, "error[");
  if (result->outcome == TRIAL_SKIPPED && getenv("RANDOM_SPECS_REASONS") != NULL && reason != NULL)
    printf("skipped: %.*s\n", (int)strcspn(reason, "\n"), reason);
}

/* False after a failure, which is not counted. */
static bool try_seed(const struct setup *setup, uint64_t seed, struct progress *progress)
{
  struct arena arena;
  struct random_spec spec;
  struct trial_result result;
  arena_init(&arena);
  if (arena_guard(&arena)) {
    arena_free(&arena);
    return false;
  }
  draw(setup, &arena, seed, &spec);
  trial_limit_time(TIME_LIMIT_S);
  trial_run(setup->device, node_print(&arena, spec.root), spec.cases, SPEC_CASES, &result);
  trial_limit_time(0);
  bool good = !trial_is_failure(result.outcome);
  if (good)
    count(progress, &result);
  arena_free(&arena);
  return good;
}

/* The first case that fails when each has a process of its own. */
static size_t run_apart(const struct setup *setup, const char *text, const struct trial_case *cases,
                        struct trial_result *result)
{
  for (size_t k = 0; k < SPEC_CASES; k++) {
    trial_run_apart(setup->device, text, &cases[k], result);
    if (trial_is_failure(result->outcome))
      return k;
  }
  *result = (struct trial_result){.outcome = TRIAL_CRASHED, .text = "only in one process"};
  return 0;
}

/* Counts and shows what fails of a seed. False when out of memory. */
static bool examine_seed(const struct setup *setup, uint64_t seed, int *reports,
                         struct progress *progress)
{
  struct arena arena;
  struct random_spec spec;
  struct trial_result result;
  arena_init(&arena);
  if (arena_guard(&arena)) {
    arena_free(&arena);
    return false;
  }
  draw(setup, &arena, seed, &spec);
  size_t k = run_apart(setup, node_print(&arena, spec.root), spec.cases, &result);
  count(progress, &result);
  if (--*reports >= 0)
    report(setup, &arena, seed, &spec, &spec.cases[k], &result);
  arena_free(&arena);
  return true;
}

/* A failure ends the process: its device may be of no use any more. */
static _Noreturn void work(const struct setup *setup, uint64_t end, struct progress *progress)
{
  for (; progress->seed < end; progress->seed += WORKERS)
    if (!try_seed(setup, progress->seed, progress))
      _exit(EXIT_FAILURE);
  fflush(stdout);
  _exit(EXIT_SUCCESS);
}

static pid_t start(const struct setup *setup, uint64_t end, struct progress *progress)
{
  fflush(NULL);
  pid_t child = fork();
  if (child == 0)
    work(setup, end, progress);
  return child;
}

/* A seed that ends its worker is tried again in smaller parts, and another worker goes on behind
 * it. */
static void watch(const struct setup *setup, pid_t *children, uint64_t end,
                  struct progress *progress)
{
  int reports = SHOWN_FAILURES;
  int running = WORKERS;
  while (running > 0) {
    int state;
    pid_t ended = wait(&state);
    int k = 0;
    while (k < WORKERS && children[k] != ended)
      k++;
    if (ended < 0 || k == WORKERS)
      break;
    running--;
    if (WIFEXITED(state) && WEXITSTATUS(state) == EXIT_SUCCESS)
      continue;
    if (!examine_seed(setup, progress[k].seed, &reports, &progress[k]))
      progress[k].counts[TRIAL_CRASHED]++;
    progress[k].seed += WORKERS;
    children[k] = start(setup, end, &progress[k]);
    running++;
  }
}

static bool is_rare(const char *what, uint64_t count, uint64_t all, unsigned most)
{
  if (all < 100 || count * 100 <= all * most)
    return true;
  printf("%llu of %llu specs %s, which leaves too little tested\n", (unsigned long long)count,
         (unsigned long long)all, what);
  return false;
}

static bool run_seeds(const struct setup *setup, uint64_t first, uint64_t count)
{
  struct progress *progress = mmap(NULL, WORKERS * sizeof(*progress), PROT_READ | PROT_WRITE,
                                   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  pid_t children[WORKERS];
  struct progress sum = {0};
  if (progress == MAP_FAILED)
    return false;
  for (unsigned k = 0; k < WORKERS; k++) {
    progress[k].seed = first + k;
    children[k] = start(setup, first + count, &progress[k]);
  }
  watch(setup, children, first + count, progress);
  uint64_t all = 0;
  uint64_t failures = 0;
  for (int outcome = 0; outcome <= TRIAL_CRASHED; outcome++) {
    for (unsigned k = 0; k < WORKERS; k++)
      sum.counts[outcome] += progress[k].counts[outcome];
    all += sum.counts[outcome];
    failures += trial_is_failure((enum trial_outcome)outcome) ? sum.counts[outcome] : 0;
    printf("%s%s %llu", outcome == 0 ? "" : ", ", trial_outcome_name((enum trial_outcome)outcome),
           (unsigned long long)sum.counts[outcome]);
  }
  for (unsigned k = 0; k < WORKERS; k++)
    sum.empty += progress[k].empty;
  printf("; seed %llu and %llu more\n", (unsigned long long)first,
         (unsigned long long)(count > 0 ? count - 1 : 0));
  munmap(progress, WORKERS * sizeof(*progress));
  bool good = is_rare("were skipped", sum.counts[TRIAL_SKIPPED], all, MOST_SKIPPED);
  good &= is_rare("only had indices out of range", sum.counts[TRIAL_FAULTS], all, MOST_FAULTS);
  good &= is_rare("saw nothing", sum.empty, all, MOST_EMPTY);
  return good && failures == 0 && all == count;
}

/* ---- regressions ---- */

static bool run_regression(const struct setup *setup, const char *folder, const char *name)
{
  char path[4096];
  enum exit_status status;
  size_t length;
  struct trial_case c;
  struct trial_result result;
  snprintf(path, sizeof(path), "%s/%s", folder, name);
  char *text = read_text(path, &length, &status);
  if (text == NULL)
    return false;
  const char *mark = strstr(text, case_mark);
  bool good = mark != NULL && trial_parse(mark + strlen(case_mark), &c);
  if (!good)
    printf("%s: no line '%s...' that makes sense\n", path, case_mark);
  if (good) {
    trial_run_apart(setup->device, text, &c, &result);
    good = !trial_is_failure(result.outcome) && result.outcome != TRIAL_SKIPPED;
    if (!good)
      printf("%s %s: %s\n%s\n", path, trial_outcome_name(result.outcome), result.text, text);
  }
  mem_free(text);
  return good;
}

static bool run_regressions(const struct setup *setup)
{
  char folder[2048];
  const char *source = getenv("ATTN_SOURCE_DIR");
  snprintf(folder, sizeof(folder), "%s/tests/numeric/regressions", source == NULL ? "." : source);
  DIR *directory = opendir(folder);
  bool good = true;
  unsigned count = 0;
  if (directory == NULL) {
    printf("%s cannot be read; ATTN_SOURCE_DIR names the source tree\n", folder);
    return false;
  }
  for (const struct dirent *entry; (entry = readdir(directory)) != NULL;) {
    const char *end = strrchr(entry->d_name, '.');
    if (end == NULL || strcmp(end, ".attn") != 0)
      continue;
    count++;
    good &= run_regression(setup, folder, entry->d_name);
  }
  closedir(directory);
  printf("%u regressions\n", count);
  return good;
}

static bool show(const struct setup *setup, uint64_t seed)
{
  struct arena arena;
  struct random_spec spec;
  char description[256];
  arena_init(&arena);
  if (arena_guard(&arena)) {
    arena_free(&arena);
    return false;
  }
  draw(setup, &arena, seed, &spec);
  for (size_t k = 0; k < SPEC_CASES; k++) {
    trial_describe(&spec.cases[k], description, sizeof(description));
    printf("%s%s\n", case_mark, description);
  }
  printf("%s", node_print(&arena, spec.root));
  arena_free(&arena);
  return true;
}

int main(int argc, char **argv)
{
  unsigned long long first = 0;
  unsigned long long count = 1000;
  const char *seeds = getenv("RANDOM_SPECS"), *program = argv[0];
  const char *device = getenv("ATTN_TEST_DEVICE");
  struct setup setup = {.device = "cpu"};
  if (device != NULL)
    setup = (struct setup){.device = device, .few_blocks = strcmp(device, "cpu") != 0};
  if (argc > 1 && strcmp(argv[1], "--caches") == 0) {
    setup.caches = true;
    argc--;
    argv++;
  }
  if (argc == 3 && strcmp(argv[1], "--show") == 0)
    return show(&setup, strtoull(argv[2], NULL, 10)) ? EXIT_SUCCESS : EXIT_FAILURE;
  if (argc == 3 && strcmp(argv[1], "--keep") == 0)
    setup.keep = argv[2];
  bool understood = argc == 1 || setup.keep != NULL;
  if (seeds != NULL && sscanf(seeds, "%llu:%llu", &first, &count) != 2)
    understood = false;
  if (!understood) {
    fprintf(stderr, "usage: %s [--caches] [--keep DIR | --show SEED]; RANDOM_SPECS=FIRST:COUNT\n",
            program);
    return 2;
  }
  bool good = setup.caches || run_regressions(&setup); /* those of caches are among the others */
  good &= run_seeds(&setup, first, count);
  return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
