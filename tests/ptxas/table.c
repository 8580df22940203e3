/* What the kernels of the examples take on a GPU, as NVIDIA's assembler tells it:
 *
 *   ptxas_table TYPE TABLE FOLDER...
 *
 * compiles the attentions of FOLDER/NAME.attn for sm_80 with storage of TYPE (f32, f16, bf16),
 * those with a cache also for decoding on it and for appending to it, assembles them for sm_80 and
 * compares registers, shared memory, stack and spills with the file TABLE, so that a change that
 * costs some is seen. The shared memory must be what the budget told before there was code. Of f16
 * those are all, of the other types those that are of that type alone and one in eight. One in
 * sixteen is assembled for sm_90 too. Where there is no assembler the test is skipped; another
 * version than the table's only has to take the kernels.
 *
 *   GOLDEN_UPDATE=1   in the environment: rewrites the table
 *   PTXAS_ALL=1       all attentions for all processors, and a summary (minutes); what the table
 *                     does not list is only assembled
 *   PTXAS_ALL=sm_90   for sm_80 and that one
 */
#include "compiler/schedule/budget.h"
#include "runtime/attnc/document.h"
#include "runtime/attnc/ptxas.h"

#include <dirent.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SKIPPED = 77, MAX_EXAMPLES = 512, LISTED_EVERY = 8, ASSEMBLED_EVERY = 16 };

/* The first is the table's. */
static const char *const processors[] = {"sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"};
enum { PROCESSOR_COUNT = sizeof(processors) / sizeof(*processors), SAMPLED = 3 /* sm_90 */ };

struct run {
  enum dtype type;
  const char *all; /* PTXAS_ALL, or NULL */
  FILE *table;     /* the table as it is now */
  unsigned number; /* of the attention at hand, by its name: others do not move it */
  bool listed;
  unsigned kernels[PROCESSOR_COUNT], spilling[PROCESSOR_COUNT];
  unsigned failures;
};

static void fail(struct run *run, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void fail(struct run *run, const char *format, ...)
{
  va_list arguments;
  va_start(arguments, format);
  vfprintf(stderr, format, arguments);
  va_end(arguments);
  fputc('\n', stderr);
  run->failures++;
}

static bool assemble(struct run *run, struct arena *arena, const char *name, const char *text,
                     unsigned processor, struct ptxas_report *report)
{
  if (arena_guard(arena)) {
    fail(run, "%s: out of memory", name);
    return false;
  }
  const char *message;
  enum ptxas_status status = ptxas_run(arena, text, processors[processor], report, &message);
  if (status != PTXAS_OK) {
    fail(run, "%s for %s: %s", name, processors[processor], message);
    return false;
  }
  for (size_t k = 0; k < report->kernels.count; k++) {
    const struct ptxas_kernel *kernel = &report->kernels.items[k];
    run->kernels[processor]++;
    if (kernel->spill_stores + kernel->spill_loads == 0)
      continue;
    run->spilling[processor]++;
    if (run->all != NULL)
      printf("%s: %s %s: %u bytes stored, %u loaded\n", processors[processor], name, kernel->name,
             kernel->spill_stores, kernel->spill_loads);
  }
  return true;
}

static bool is_wanted(const struct run *run, unsigned processor)
{
  if (run->all == NULL)
    return processor == SAMPLED && run->number % ASSEMBLED_EVERY == 0;
  return strcmp(run->all, "1") == 0 || strcmp(run->all, processors[processor]) == 0;
}

static const struct compiled_kernel *find_kernel(const struct compiled *compiled, const char *name)
{
  for (size_t k = 0; k < compiled->kernels.count; k++)
    if (strcmp(compiled->kernels.items[k].tile->name, name) == 0)
      return &compiled->kernels.items[k];
  return NULL;
}

/* FNV-1a, http://www.isthe.com/chongo/tech/comp/fnv */
static unsigned number_of(const char *name)
{
  uint32_t hash = UINT32_C(2166136261);
  for (; *name != '\0'; name++)
    hash = (hash ^ (unsigned char)*name) * UINT32_C(16777619);
  return hash >> 8;
}

static void assemble_all(struct run *run, struct arena *arena, const char *name,
                         const struct compiled *compiled)
{
  const char *text = (const char *)compiled->code;
  struct ptxas_report report;
  if (!assemble(run, arena, name, text, 0, &report))
    return;
  for (size_t k = 0; k < report.kernels.count; k++) {
    const struct ptxas_kernel *taken = &report.kernels.items[k];
    const struct compiled_kernel *kernel = find_kernel(compiled, taken->name);
    if (kernel == NULL) {
      fail(run, "%s: the entry %s is none of its kernels", name, taken->name);
      continue;
    }
    struct budget told = budget_of_kernel(arena, kernel->tile, &compiled->options.schedule);
    if (told.shared != kernel->shared_bytes)
      fail(run, "%s: %s was to take %zu bytes of shared memory and takes %u", name, taken->name,
           told.shared, kernel->shared_bytes);
    if (run->listed)
      fprintf(run->table,
              "%-52s %-18s %4u threads %4u registers %7u shared %5u stack %5u spilled\n", name,
              taken->name, kernel->threads, taken->registers, kernel->shared_bytes, taken->stack,
              taken->spill_stores + taken->spill_loads);
  }
  for (unsigned n = 1; n < PROCESSOR_COUNT; n++)
    if (is_wanted(run, n))
      assemble(run, arena, name, text, n, &report);
}

static void compile_kernels(struct run *run, struct document *document, const char *name,
                            const struct spec *spec, enum kernel_kind kind)
{
  struct arena *arena = &document->arena;
  if (arena_guard(arena)) {
    fail(run, "%s: out of memory", name);
    return;
  }
  const struct compile_options options = {
      .target = TARGET_SM_80, .kernel = kind, .type = run->type, .on_cache = kind == KERNEL_DECODE};
  struct diagnostics said;
  diagnostics_init(&said, arena, &document->sources);
  struct compiled *compiled = compile_build(arena, spec, &options, &said);
  if (compiled == NULL) {
    if (run->listed)
      fprintf(run->table, "%-52s %s\n", name,
              said.items.count > 0 ? said.items.items[0].message : "not lowered");
    return;
  }
  char *text = NULL;
  const char *error = NULL;
  if (compile_emit(arena, compiled, COMPILE_OBJECT, &text, &error) != COMPILE_OK)
    fail(run, "%s: %s", name, error);
  else
    assemble_all(run, arena, name, compiled);
  mem_free(compiled->code);
}

static void compile_spec(struct run *run, struct document *document, const char *name,
                         const struct spec *spec)
{
  run->number = number_of(name);
  run->listed =
      run->type == DTYPE_F16 || spec->type == run->type || run->number % LISTED_EVERY == 0;
  if ((spec->type != DTYPE_ANY && spec->type != run->type) || !(run->listed || run->all != NULL))
    return;
  compile_kernels(run, document, name, spec, KERNEL_FORWARD);
  if (spec->cache.layout == CACHE_NONE)
    return;
  char longer[320];
  snprintf(longer, sizeof(longer), "%s, decode", name);
  compile_kernels(run, document, longer, spec, KERNEL_DECODE);
  snprintf(longer, sizeof(longer), "%s, append", name);
  compile_kernels(run, document, longer, spec, KERNEL_APPEND);
}

static void compile_file(struct run *run, const char *folder, const char *file)
{
  char path[4096];
  snprintf(path, sizeof(path), "%s/%s", folder, file);
  struct document document;
  if (document_open(&document, path, &(struct option_list){0}, false) != EXIT_FINE) {
    fail(run, "%s: not a spec", path);
    document_close(&document);
    return;
  }
  for (size_t k = 0; k < document.file->specs.count; k++) {
    const struct spec *spec = document.file->specs.items[k];
    char name[256];
    snprintf(name, sizeof(name), "%.*s/%s", (int)strcspn(file, "."), file, spec->name);
    compile_spec(run, &document, name, spec);
  }
  document_close(&document);
}

static int by_name(const void *a, const void *b)
{
  return strcmp(*(char *const *)a, *(char *const *)b);
}

static void compile_folder(struct run *run, const char *folder)
{
  char *names[MAX_EXAMPLES];
  size_t count = 0;
  DIR *directory = opendir(folder);
  if (directory == NULL) {
    fail(run, "%s cannot be read", folder);
    return;
  }
  for (struct dirent *entry = readdir(directory); entry != NULL && count < MAX_EXAMPLES;
       entry = readdir(directory)) {
    size_t length = strlen(entry->d_name);
    if (length > 5 && strcmp(entry->d_name + length - 5, ".attn") == 0)
      names[count++] = strdup(entry->d_name);
  }
  closedir(directory);
  qsort(names, count, sizeof(*names), by_name);
  for (size_t k = 0; k < count; k++) {
    compile_file(run, folder, names[k]);
    free(names[k]);
  }
}

/* "V13.0.88" in the last lines of what it prints about itself. */
static bool read_version(const char *ptxas, char *version, size_t size)
{
  char line[512];
  snprintf(line, sizeof(line), "'%s' --version", ptxas);
  FILE *pipe = popen(line, "r");
  bool found = false;
  while (pipe != NULL && fgets(line, sizeof(line), pipe) != NULL) {
    const char *at = strstr(line, ", V");
    if (at != NULL)
      snprintf(version, size, "ptxas %.*s", (int)strcspn(at + 2, "\n"), at + 2);
    found = found || at != NULL;
  }
  return pipe != NULL && pclose(pipe) == 0 && found;
}

static char *read_file(const char *path)
{
  FILE *file = fopen(path, "r");
  if (file == NULL)
    return NULL;
  enum { LIMIT = 1 << 20 };
  char *text = malloc(LIMIT);
  if (text != NULL)
    text[fread(text, 1, LIMIT - 1, file)] = '\0';
  fclose(file);
  return text;
}

static bool has_line(const char *text, const char *line, size_t length)
{
  for (const char *at = text; at != NULL; at = strchr(at, '\n'), at += at != NULL)
    if (strncmp(at, line, length) == 0 && at[length] == '\n')
      return true;
  return false;
}

static unsigned print_missing(const char *from, const char *in, char mark)
{
  unsigned missing = 0;
  for (const char *at = from; *at != '\0';) {
    size_t length = strcspn(at, "\n");
    if (!has_line(in, at, length)) {
      fprintf(stderr, "%c %.*s\n", mark, (int)length, at);
      missing++;
    }
    at += length + (at[length] == '\n');
  }
  return missing;
}

static void compare(struct run *run, const char *path, const char *now)
{
  if (getenv("GOLDEN_UPDATE") != NULL) {
    FILE *file = fopen(path, "w");
    if (file == NULL || fputs(now, file) < 0 || fclose(file) != 0)
      fail(run, "%s cannot be written", path);
    return;
  }
  char *before = read_file(path);
  if (before == NULL) {
    fail(run, "%s cannot be read; GOLDEN_UPDATE=1 makes it", path);
    return;
  }
  size_t version = strcspn(now, "\n");
  if (strncmp(before, now, version + 1) != 0)
    printf("%s is of another version than %.*s: not compared\n", path, (int)version, now);
  else if (print_missing(before, now, '-') + print_missing(now, before, '+') > 0)
    fail(run, "the kernels take something else than %s says; GOLDEN_UPDATE=1 rewrites it", path);
  free(before);
}

int main(int argc, char **argv)
{
  if (argc < 4) {
    fprintf(stderr, "usage: ptxas_table TYPE TABLE FOLDER...\n");
    return 2;
  }
  static const enum dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
  struct run run = {.type = DTYPE_ANY, .all = getenv("PTXAS_ALL")};
  for (size_t k = 0; k < sizeof(types) / sizeof(*types); k++)
    if (strcmp(argv[1], dtype_name(types[k])) == 0)
      run.type = types[k];
  struct arena arena;
  arena_init(&arena);
  if (run.type == DTYPE_ANY || arena_guard(&arena)) {
    fprintf(stderr, "no such type, or no memory\n");
    return 2;
  }
  const char *ptxas = ptxas_find(&arena);
  char version[64];
  if (ptxas == NULL || !read_version(ptxas, version, sizeof(version))) {
    printf("skipped: ptxas is not installed\n");
    arena_free(&arena);
    return SKIPPED;
  }
  char *now = NULL;
  size_t size;
  run.table = open_memstream(&now, &size);
  if (run.table == NULL)
    return 2;
  fprintf(run.table, "%s\n", version);
  for (int k = 3; k < argc; k++)
    compile_folder(&run, argv[k]);
  fclose(run.table);
  for (unsigned n = 0; n < PROCESSOR_COUNT; n++)
    printf("%s: %u kernels assembled, %u of them spill\n", processors[n], run.kernels[n],
           run.spilling[n]);
  compare(&run, argv[2], now);
  free(now);
  arena_free(&arena);
  return run.failures == 0 ? 0 : 1;
}
