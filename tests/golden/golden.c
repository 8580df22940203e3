/* Golden tests of the front end: golden ATTNC DIRECTORY checks every DIRECTORY/NAME.test, which
 * holds a spec, a line
 * "----" and what the checker says about it: the diagnostics, then a summary of each attention that
 * is right.
 *
 *   #! set NAME=VALUE    a line of the spec: as --set
 *   #! file NAME         ends the spec; what follows, up to the next such line or "----", is a file
 * that it may import
 *
 *   #! blank NAME SIZE   a file of so many blanks
 *
 * GOLDEN_UPDATE=1 in the environment rewrites what differs. The directory as a whole must reach
 * every diagnostic code.
 */
#include "dsl/spec.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_SETS = 8, MAX_FILES = 8, MAX_TESTS = 1024 };

struct test_file {
  const char *name;
  const char *text;
  size_t length;
};

struct test {
  struct spec_set sets[MAX_SETS];
  size_t set_count;
  struct test_file files[MAX_FILES];
  size_t file_count;
};

static const char *read_import(void *user, struct arena *arena, const char *from, const char *path,
                               size_t *length)
{
  const struct test *test = user;
  (void)arena;
  (void)from;
  for (size_t k = 0; k < test->file_count; k++)
    if (strcmp(test->files[k].name, path) == 0) {
      *length = test->files[k].length;
      return test->files[k].text;
    }
  return NULL;
}

/* Takes the directives out of the text before "----"; returns the length of the spec itself. */
static size_t read_directives(struct arena *arena, struct test *test, const char *text,
                              size_t length)
{
  size_t spec_length = length;
  for (size_t at = 0; at < length;) {
    const char *newline = memchr(text + at, '\n', length - at);
    size_t next = newline == NULL ? length : (size_t)(newline - text) + 1;
    const char *line = arena_strndup(arena, text + at, next - at - (newline != NULL));
    line += strspn(line, " ");
    if (strncmp(line, "#! set ", 7) == 0 && strchr(line, '=') != NULL &&
        test->set_count < MAX_SETS) {
      const char *equals = strchr(line, '=');
      test->sets[test->set_count++] = (struct spec_set){
          arena_strndup(arena, line + 7, (size_t)(equals - line) - 7), equals + 1};
    } else if (strncmp(line, "#! file ", 8) == 0 && test->file_count < MAX_FILES) {
      if (spec_length == length)
        spec_length = at;
      else
        test->files[test->file_count - 1].length =
            (size_t)(text + at - test->files[test->file_count - 1].text);
      test->files[test->file_count++] = (struct test_file){line + 8, text + next, length - next};
    } else if (strncmp(line, "#! blank ", 9) == 0 && strchr(line + 9, ' ') != NULL &&
               test->file_count < MAX_FILES) {
      const char *space = strchr(line + 9, ' ');
      size_t size = (size_t)strtoul(space, NULL, 10);
      char *blanks = arena_alloc(arena, size + 1);
      memset(blanks, ' ', size);
      test->files[test->file_count++] = (struct test_file){
          arena_strndup(arena, line + 9, (size_t)(space - line) - 9), blanks, size};
    }
    at = next;
  }
  return spec_length;
}

static char *print_specs(struct arena *arena, const struct spec_file *file)
{
  char *text = "";
  for (size_t k = 0; k < file->specs.count; k++) {
    const struct spec *spec = file->specs.items[k];
    const char *params[SPEC_MAX_PARAMS], *inputs[SPEC_MAX_INPUTS];
    for (uint32_t n = 0; n < spec->param_count; n++)
      params[n] = spec->params[n].name;
    for (uint32_t n = 0; n < spec->input_count; n++)
      inputs[n] = spec->inputs[n].name;
    const struct expr_names names = {params, inputs};
    text = arena_format(arena, "%s%s: heads %u/%u, dim %u/%u, type %s\n", text, spec->name,
                        spec->query_heads, spec->kv_heads, spec->dim_qk, spec->dim_v,
                        dtype_name(spec->type));
    for (uint32_t n = 0; n < spec->param_count; n++)
      if (spec->params[n].has_default && spec->params[n].type != EXPR_FLOAT)
        text = arena_format(arena, "%s  %s = %lld\n", text, params[n],
                            (long long)spec->params[n].value.i);
    text = arena_format(arena, "%s  offset %s\n", text, expr_print(arena, spec->offset, &names));
    if (spec->has_rotary)
      text = arena_format(arena, "%s  angle %s\n  gain %s\n  at %s, %s\n", text,
                          expr_print(arena, spec->rotary.angle, &names),
                          expr_print(arena, spec->rotary.gain, &names),
                          expr_print(arena, spec->rotary.query_position, &names),
                          expr_print(arena, spec->rotary.key_position, &names));
    for (uint32_t n = 0; n < spec->map_count; n++) {
      text = arena_format(arena, "%s  %s %s\n", text, normalizer_name(spec->maps[n].normalizer),
                          expr_print(arena, spec->maps[n].score, &names));
      if (spec->maps[n].sink != NULL)
        text = arena_format(arena, "%s  sink %s\n", text,
                            expr_print(arena, spec->maps[n].sink, &names));
      if (spec->maps[n].at_least != NULL)
        text = arena_format(arena, "%s  at_least %s\n", text,
                            expr_print(arena, spec->maps[n].at_least, &names));
    }
    text = arena_format(
        arena, "%s  mask %s\n  %s %s\n  value %s\n", text, expr_print(arena, spec->mask, &names),
        spec->weight_kind == WEIGHT_RENORMALIZE ? "renormalize" : "weight",
        expr_print(arena, spec->weight, &names), expr_print(arena, spec->value, &names));
    if (spec->post != NULL)
      text = arena_format(arena, "%s  post %s\n", text, expr_print(arena, spec->post, &names));
    if (spec->select.present)
      text = arena_format(arena, "%s  select %u, top %s, by %s, always %s\n", text,
                          spec->select.block, expr_print(arena, spec->select.top, &names),
                          expr_print(arena, spec->select.by, &names),
                          expr_print(arena, spec->select.always, &names));
    for (uint32_t n = 0; n < spec->output_count; n++)
      text = arena_format(arena, "%s  output %s of map %u\n", text,
                          output_name(spec->outputs[n].kind), spec->outputs[n].map);
  }
  return text;
}

static char *read_whole(struct arena *arena, const char *path, size_t *length)
{
  FILE *file = fopen(path, "rb");
  if (file == NULL)
    return NULL;
  struct {
    char *items;
    size_t count, capacity;
  } bytes = {0};
  for (int byte = getc(file); byte != EOF; byte = getc(file))
    vector_push(arena, &bytes, (char)byte);
  fclose(file);
  *length = bytes.count;
  vector_push(arena, &bytes, '\0');
  return bytes.items;
}

/* Runs one test; false when it differs and was not updated. Marks the codes that it reaches. */
static bool run_test(const char *path, const char *name, bool update, bool *reached)
{
  struct arena arena;
  arena_init(&arena);
  if (arena_guard(&arena)) {
    arena_free(&arena);
    fprintf(stderr, "%s: out of memory\n", name);
    return false;
  }
  size_t length = 0;
  const char *text = read_whole(&arena, path, &length);
  if (text == NULL) {
    arena_free(&arena);
    fprintf(stderr, "%s: cannot read\n", path);
    return false;
  }
  const char *mark = strstr(text, "\n----\n");
  size_t input_length = mark == NULL ? length : (size_t)(mark - text) + 1;
  const char *expected = mark == NULL ? "" : mark + 6;
  struct test *test = ARENA_NEW(&arena, struct test);
  size_t spec_length = read_directives(&arena, test, text, input_length);
  struct source_set sources;
  struct diagnostics diagnostics;
  source_set_init(&sources, &arena);
  diagnostics_init(&diagnostics, &arena, &sources);
  uint32_t source = source_add(&sources, arena_format(&arena, "%s.attn", name), text, spec_length);
  struct spec_options options = {test->sets, test->set_count, read_import, test};
  struct spec_file *file = spec_check(&arena, &sources, source, &options, &diagnostics);
  for (size_t k = 0; k < diagnostics.items.count; k++)
    reached[diagnostics.items.items[k].code] = true;
  const char *actual = arena_format(&arena, "%s%s", diagnostics_print(&diagnostics, false),
                                    print_specs(&arena, file));
  bool same = strcmp(actual, expected) == 0;
  if (!same && update) {
    FILE *out = fopen(path, "wb");
    same = out != NULL && fwrite(text, 1, input_length, out) == input_length &&
           fputs("----\n", out) >= 0 && fputs(actual, out) >= 0;
    if (out != NULL)
      same = fclose(out) == 0 && same;
  } else if (!same) {
    fprintf(stderr, "%s differs\n---- expected\n%s---- found\n%s", name, expected, actual);
  }
  arena_free(&arena);
  return same;
}

static int by_name(const void *left, const void *right)
{
  return strcmp(*(char *const *)left, *(char *const *)right);
}

/* Codes that checking a spec cannot reach: those of the text form of tile programs
 * (tests/unit/test_tile.c), and what a target does not lower (tests/unit/test_build.c). */
static bool is_foreign(const char *code)
{
  return strcmp(code, diag_code_text(DIAG_NOT_LOWERED)) == 0 ||
         (code[0] == 'E' && strcmp(code, "E06") >= 0);
}

int main(int argc, char **argv)
{
  if (argc != 3) {
    fprintf(stderr, "usage: golden ATTNC DIRECTORY\n");
    return 2;
  }
  DIR *directory = opendir(argv[2]);
  if (directory == NULL) {
    fprintf(stderr, "golden: cannot open %s\n", argv[2]);
    return 2;
  }
  static char *names[MAX_TESTS];
  size_t count = 0;
  for (struct dirent *entry = readdir(directory); entry != NULL; entry = readdir(directory)) {
    const char *dot = strrchr(entry->d_name, '.');
    if (dot != NULL && strcmp(dot, ".test") == 0 && count < MAX_TESTS) {
      names[count] = malloc(strlen(entry->d_name) + 1);
      if (names[count] == NULL)
        return 2;
      strcpy(names[count++], entry->d_name);
    }
  }
  closedir(directory);
  qsort(names, count, sizeof(names[0]), by_name);
  const char *setting = getenv("GOLDEN_UPDATE");
  bool update = setting != NULL && strcmp(setting, "1") == 0;
  bool reached[DIAG_CODE_COUNT] = {false};
  size_t wrong = 0;
  for (size_t k = 0; k < count; k++) {
    size_t size = strlen(argv[2]) + strlen(names[k]) + 2;
    char *path = malloc(size);
    if (path == NULL)
      return 2;
    snprintf(path, size, "%s/%s", argv[2], names[k]);
    names[k][strlen(names[k]) - strlen(".test")] = '\0';
    wrong += !run_test(path, names[k], update, reached);
    free(path);
    free(names[k]);
  }
  for (enum diag_code code = 0; code < DIAG_CODE_COUNT; code++)
    if (!reached[code] && !is_foreign(diag_code_text(code))) {
      fprintf(stderr, "no test reaches %s (%s)\n", diag_code_text(code), diag_code_summary(code));
      wrong++;
    }
  printf("%zu golden tests, %zu wrong\n", count, wrong);
  return count == 0 || wrong != 0;
}
