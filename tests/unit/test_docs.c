/* Documents that follow from the code: docs/diagnostics.md is made from dsl/diagnostics.def, and
 * the manual page has every option of every command. ATTN_SOURCE_DIR and ATTNC say where things
 * are; GOLDEN_UPDATE=1 writes docs/diagnostics.md anew.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dsl/diagnostics.h"

enum { MAX_TEXT = 1 << 17 };

struct text {
  char bytes[MAX_TEXT];
  size_t length;
};

static void read_stream(FILE *file, struct text *text)
{
  ck_assert_ptr_nonnull(file);
  text->length = fread(text->bytes, 1, MAX_TEXT - 1, file);
  text->bytes[text->length] = '\0';
  ck_assert(feof(file));
}

static const char *source_path(const char *name)
{
  static char path[4096];
  const char *folder = getenv("ATTN_SOURCE_DIR");
  ck_assert_ptr_nonnull(folder);
  snprintf(path, sizeof(path), "%s/%s", folder, name);
  return path;
}

static void read_source(const char *name, struct text *text)
{
  FILE *file = fopen(source_path(name), "rb");
  read_stream(file, text);
  fclose(file);
}

static void add(struct text *text, const char *piece)
{
  size_t length = strlen(piece);
  ck_assert_uint_lt(text->length + length, MAX_TEXT);
  memcpy(text->bytes + text->length, piece, length + 1);
  text->length += length;
}

/* ---- diagnostics ---- */

static const struct group {
  const char *prefix, *title;
} groups[] = {
    {"E01", "Syntax"},
    {"E02", "Names"},
    {"E03", "Types"},
    {"E04", "Statements"},
    {"E05", "Limits, and what is not supported"},
    {"E06", "Tile programs"},
    {"W", "Warnings"},
    {"N", "Notes"},
};
enum { GROUPS = sizeof(groups) / sizeof(groups[0]) };

static size_t add_group(struct text *text, const struct group *group)
{
  size_t count = 0;
  char line[512];
  snprintf(line, sizeof(line), "\n## %s\n\n| code | |\n|---|---|\n", group->title);
  add(text, line);
  for (int code = 0; code < DIAG_CODE_COUNT; code++) {
    const char *name = diag_code_text((enum diag_code)code);
    if (strncmp(name, group->prefix, strlen(group->prefix)) != 0)
      continue;
    snprintf(line, sizeof(line), "| %s | %s |\n", name, diag_code_summary((enum diag_code)code));
    add(text, line);
    count++;
  }
  return count;
}

START_TEST(diagnostics_are_documented)
{
  static struct text made, found;
  size_t count = 0;
  add(&made, "# Diagnostics\n\n"
             "Made from `dsl/diagnostics.def`; edit that, and run `GOLDEN_UPDATE=1 ctest -R "
             "unit/docs`.\n\n"
             "A code never changes its meaning. Errors (E) stop a compilation, warnings (W) and "
             "notes (N) do not.\n");
  for (size_t k = 0; k < GROUPS; k++)
    count += add_group(&made, &groups[k]);
  ck_assert_msg(count == DIAG_CODE_COUNT, "a code belongs to no group of this test");
  const char *update = getenv("GOLDEN_UPDATE");
  if (update != NULL && strcmp(update, "1") == 0) {
    FILE *file = fopen(source_path("docs/diagnostics.md"), "wb");
    ck_assert_ptr_nonnull(file);
    ck_assert_uint_eq(fwrite(made.bytes, 1, made.length, file), made.length);
    ck_assert_int_eq(fclose(file), 0);
  }
  read_source("docs/diagnostics.md", &found);
  ck_assert_msg(strcmp(made.bytes, found.bytes) == 0,
                "docs/diagnostics.md is not what dsl/diagnostics.def says; run this test with "
                "GOLDEN_UPDATE=1");
}
END_TEST

/* ---- the manual page ---- */

static void run(const char *arguments, struct text *text)
{
  char line[4096];
  const char *attnc = getenv("ATTNC");
  ck_assert_ptr_nonnull(attnc);
  snprintf(line, sizeof(line), "'%s' %s", attnc, arguments);
  FILE *pipe = popen(line, "r");
  read_stream(pipe, text);
  ck_assert_int_eq(pclose(pipe), 0);
}

/* Between ".SS attnc COMMAND" and the next section. */
static char *section_of(const char *page, const char *command)
{
  char head[64];
  snprintf(head, sizeof(head), ".SS attnc %s\n", command);
  const char *start = strstr(page, head);
  ck_assert_msg(start != NULL, "docs/man/attnc.1 has no section '.SS attnc %s'", command);
  start += strlen(head);
  const char *end = strstr(start, "\n.S");
  return strndup(start, end != NULL ? (size_t)(end - start) : strlen(start));
}

/* "--tile-rows" is "\-\-tile\-rows" in a page. */
static void escape(const char *option, size_t length, char *escaped)
{
  for (size_t k = 0; k < length; k++) {
    if (option[k] == '-')
      *escaped++ = '\\';
    *escaped++ = option[k];
  }
  *escaped = '\0';
}

static int check_command(const char *page, const char *command)
{
  static struct text help;
  char arguments[64], escaped[256];
  int options = 0;
  snprintf(arguments, sizeof(arguments), "%s --help", command);
  run(arguments, &help);
  char *section = section_of(page, command);
  for (const char *line = help.bytes; line != NULL; line = strchr(line, '\n')) {
    line += *line == '\n';
    const char *at = strncmp(line, "  ", 2) == 0 ? strstr(line, "--") : NULL;
    if (at == NULL || (at != line + 2 && at != line + 6))
      continue;
    size_t length = strcspn(at, " \n");
    if (length == strlen("--help") && strncmp(at, "--help", length) == 0)
      continue;
    escape(at, length, escaped);
    ck_assert_msg(strstr(section, escaped) != NULL,
                  "docs/man/attnc.1, section attnc %s: option %.*s is missing", command,
                  (int)length, at);
    options++;
  }
  free(section);
  return options;
}

START_TEST(the_manual_has_every_option)
{
  static struct text page, commands;
  int count = 0, options = 0;
  read_source("docs/man/attnc.1", &page);
  run("--help", &commands);
  for (const char *line = commands.bytes; line != NULL; line = strchr(line, '\n')) {
    char command[32];
    line += *line == '\n';
    if (strncmp(line, "  ", 2) != 0 || sscanf(line, "%31s", command) != 1)
      continue;
    options += check_command(page.bytes, command);
    count++;
  }
  ck_assert_int_ge(count, 8);
  ck_assert_int_ge(options, 40);
}
END_TEST

int main(void)
{
  Suite *suite = suite_create("docs");
  TCase *tests = tcase_create("docs");
  tcase_add_test(tests, diagnostics_are_documented);
  tcase_add_test(tests, the_manual_has_every_option);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? 0 : 1;
}
