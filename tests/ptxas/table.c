/* What the kernels of the examples take on a GPU, as NVIDIA's assembler tells it:
 *
 *   ptxas_table TYPE EXAMPLES TABLE
 *
 * compiles the attentions of EXAMPLES/NAME.attn for sm_80 with storage of TYPE (f32, f16, bf16),
 * assembles them for sm_80 and compares registers, shared memory, stack and spills with the file
 * TABLE, so that a change that costs some is seen. Of f16 those are all, of the other types one in
 * six; one in twelve is assembled for later processors too. Where there is no assembler the test is
 * skipped; another version than the table's only has to take the kernels.
 *
 *   GOLDEN_UPDATE=1   in the environment: rewrites the table
 *   PTXAS_ALL=1       all attentions for all processors; what the table does not list is only
 *                     assembled (minutes)
 */
#include "compiler/pipeline.h"
#include "runtime/attnc/document.h"
#include "runtime/attnc/ptxas.h"

#include <dirent.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SKIPPED = 77, MAX_EXAMPLES = 512, LISTED_EVERY = 6, ASSEMBLED_EVERY = 12 };

static const char table_processor[] = "sm_80";
static const char *const later_processors[] = {"sm_86", "sm_89", "sm_90", "sm_100", "sm_120"};
enum { LATER_COUNT = sizeof(later_processors) / sizeof(*later_processors) };

struct run {
  enum dtype type;
  bool all;
  FILE *table;     /* the table as it is now */
  unsigned number; /* of the attention at hand */
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
                     const char *processor, struct ptxas_report *report)
{
  if (arena_guard(arena)) {
    fail(run, "%s: out of memory", name);
    return false;
  }
  const char *message;
  enum ptxas_status status = ptxas_run(arena, text, processor, report, &message);
  if (status != PTXAS_OK)
    fail(run, "%s for %s: %s", name, processor, message);
  return status == PTXAS_OK;
}

static const struct compiled_kernel *find_kernel(const struct compiled *compiled, const char *name)
{
  for (size_t k = 0; k < compiled->kernels.count; k++)
    if (strcmp(compiled->kernels.items[k].tile->name, name) == 0)
      return &compiled->kernels.items[k];
  return NULL;
}

static bool is_listed(const struct run *run)
{
  return run->type == DTYPE_F16 || run->number % LISTED_EVERY == 0;
}

static void assemble_all(struct run *run, struct arena *arena, const char *name,
                         const struct compiled *compiled)
{
  const char *text = (const char *)compiled->code;
  struct ptxas_report report;
  if (!assemble(run, arena, name, text, table_processor, &report))
    return;
  for (size_t k = 0; k < report.kernels.count && is_listed(run); k++) {
    const struct ptxas_kernel *taken = &report.kernels.items[k];
    const struct compiled_kernel *kernel = find_kernel(compiled, taken->name);
    if (kernel == NULL) {
      fail(run, "%s: the entry %s is none of its kernels", name, taken->name);
      continue;
    }
    fprintf(run->table, "%-52s %-18s %4u threads %4u registers %7u shared %5u stack %5u spilled\n",
            name, taken->name, kernel->threads, taken->registers, kernel->shared_bytes,
            taken->stack, taken->spill_stores + taken->spill_loads);
  }
  for (size_t n = 0; n < LATER_COUNT && (run->all || run->number % ASSEMBLED_EVERY == 0); n++)
    assemble(run, arena, name, text, later_processors[n], &report);
}

static void compile_spec(struct run *run, struct document *document, const char *name,
                         const struct spec *spec)
{
  struct arena *arena = &document->arena;
  if (arena_guard(arena)) {
    fail(run, "%s: out of memory", name);
    return;
  }
  run->number++;
  if ((spec->type != DTYPE_ANY && spec->type != run->type) || !(is_listed(run) || run->all))
    return;
  const struct compile_options options = {
      .target = TARGET_SM_80, .kernel = KERNEL_FORWARD, .type = run->type};
  struct diagnostics said;
  diagnostics_init(&said, arena, &document->sources);
  struct compiled *compiled = compile_build(arena, spec, &options, &said);
  if (compiled == NULL) {
    if (is_listed(run))
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
  if (argc != 4) {
    fprintf(stderr, "usage: ptxas_table TYPE EXAMPLES TABLE\n");
    return 2;
  }
  static const enum dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
  struct run run = {.type = DTYPE_ANY, .all = getenv("PTXAS_ALL") != NULL};
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
  compile_folder(&run, argv[2]);
  fclose(run.table);
  compare(&run, argv[3], now);
  free(now);
  arena_free(&arena);
  return run.failures == 0 ? 0 : 1;
}
