#include "runtime/attnc/options.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dsl/diagnostics.h"

enum { MAX_OPTIONS = 32 };

bool parse_number(const char *text, uint64_t least, uint64_t most, uint64_t *number)
{
  char *end;
  errno = 0;
  if (text[0] < '0' || text[0] > '9') /* strtoull takes signs and spaces */
    return false;
  unsigned long long value = strtoull(text, &end, 10);
  if (*end != '\0' || errno != 0 || value < least || value > most)
    return false;
  *number = value;
  return true;
}

bool option_split(const char *option, const char *text, char *name, size_t size, const char **value)
{
  const char *equals = strchr(text, '=');
  if (equals == NULL || equals == text || (size_t)(equals - text) >= size) {
    complain("--%s takes NAME=VALUE, not '%s'", option, text);
    return false;
  }
  memcpy(name, text, (size_t)(equals - text));
  name[equals - text] = '\0';
  *value = equals + 1;
  return true;
}

static void print_option(const struct option *option)
{
  char left[96];
  char letter[8] = "";
  if (option->letter != 0)
    snprintf(letter, sizeof(letter), "-%c, ", option->letter);
  snprintf(left, sizeof(left), "%s--%s%s%s", letter, option->name, option->value != NULL ? " " : "",
           option->value != NULL ? option->value : "");
  if (strlen(left) > 28)
    printf("  %s\n  %-28s %s\n", left, "", option->help);
  else
    printf("  %-28s %s\n", left, option->help);
}

static void print_help(const struct usage *usage)
{
  printf("attnc %s %s\n\n%s\n\n", usage->command, usage->arguments, usage->summary);
  for (size_t k = 0; k < usage->option_count; k++)
    print_option(&usage->options[k]);
  const struct option help = {.name = "help", .letter = 'h', .help = "print this text"};
  print_option(&help);
  if (usage->notes != NULL)
    printf("\n%s\n", usage->notes);
}

static bool is_wrong(const struct usage *usage, enum exit_status *status)
{
  fprintf(stderr, "see attnc %s --help\n", usage->command);
  *status = EXIT_USAGE;
  return false;
}

/* "tile|llvm|asm" with `count` words so far: cuts one off; false at the end. */
static bool next_choice(const char **rest, char *word, size_t size)
{
  size_t length = strcspn(*rest, "|");
  if (length == 0)
    return false;
  snprintf(word, size, "%.*s", (int)length, *rest);
  *rest += length + ((*rest)[length] == '|');
  return true;
}

static bool choose(const struct option *option, const char *value)
{
  char words[16][16];
  const char *names[16];
  int count = 0;
  for (const char *rest = option->value;
       count < 16 && next_choice(&rest, words[count], sizeof(words[count])); count++) {
    names[count] = words[count];
    if (strcmp(words[count], value) == 0) {
      *(int *)option->target = count;
      return true;
    }
  }
  char list[128] = "";
  for (int k = 0; k < count; k++) {
    size_t used = strlen(list);
    snprintf(list + used, sizeof(list) - used, "%s%s",
             k == 0           ? ""
             : k == count - 1 ? " or "
                              : ", ",
             names[k]);
  }
  const char *nearest = diag_nearest(value, names, (size_t)count);
  complain("--%s takes %s, not '%s'%s%s%s", option->name, list, value,
           nearest != NULL ? "; did you mean '" : "", nearest != NULL ? nearest : "",
           nearest != NULL ? "'?" : "");
  return false;
}

static bool take(const struct option *option, const char *value)
{
  switch (option->kind) {
  case OPTION_FLAG: *(bool *)option->target = true; return true;
  case OPTION_TEXT: *(const char **)option->target = value; return true;
  case OPTION_LIST: {
    struct option_list *list = option->target;
    if (list->count == OPTION_LIST_MAX) {
      complain("--%s may be given %d times at most", option->name, OPTION_LIST_MAX);
      return false;
    }
    list->items[list->count++] = value;
    return true;
  }
  case OPTION_NUMBER:
    if (parse_number(value, option->least, option->most, option->target))
      return true;
    complain("--%s takes a whole number from %llu to %llu, not '%s'", option->name,
             (unsigned long long)option->least, (unsigned long long)option->most, value);
    return false;
  case OPTION_CHOICE: return choose(option, value);
  }
  return false;
}

static const struct option *find(const struct usage *usage, const char *name, size_t length,
                                 char letter)
{
  for (size_t k = 0; k < usage->option_count; k++) {
    const struct option *option = &usage->options[k];
    if (letter != 0 ? option->letter == letter
                    : strlen(option->name) == length && strncmp(option->name, name, length) == 0)
      return option;
  }
  return NULL;
}

static void complain_unknown(const struct usage *usage, const char *argument)
{
  const char *names[MAX_OPTIONS + 1];
  size_t count = 0;
  for (; count < usage->option_count && count < MAX_OPTIONS; count++)
    names[count] = usage->options[count].name;
  names[count++] = "help";
  char name[64];
  snprintf(name, sizeof(name), "%.*s", (int)strcspn(argument, "="), argument);
  const char *nearest = name[1] == '-' ? diag_nearest(name + 2, names, count) : NULL;
  if (nearest != NULL)
    complain("%s has no option %s; did you mean --%s?", usage->command, name, nearest);
  else
    complain("%s has no option %s", usage->command, name);
}

bool options_parse(const struct usage *usage, int *argc, char **argv, enum exit_status *status)
{
  int kept = 0;
  bool seen[MAX_OPTIONS] = {false};
  for (int at = 0; at < *argc; at++) {
    char *argument = argv[at];
    if (strcmp(argument, "--") == 0) {
      while (++at < *argc)
        argv[kept++] = argv[at];
      break;
    }
    if (argument[0] != '-' || argument[1] == '\0') {
      argv[kept++] = argument;
      continue;
    }
    if (strcmp(argument, "--help") == 0 || strcmp(argument, "-h") == 0) {
      print_help(usage);
      *status = EXIT_FINE;
      return false;
    }
    bool is_long = argument[1] == '-';
    size_t length = is_long ? strcspn(argument + 2, "=") : 0;
    const struct option *option = find(usage, argument + 2, length, is_long ? 0 : argument[1]);
    if (option == NULL) {
      complain_unknown(usage, argument);
      return is_wrong(usage, status);
    }
    const char *value = is_long ? argument + 2 + length : argument + 2;
    bool attached = *value != '\0';
    if (is_long && attached)
      value++; /* the '=' */
    if (option->kind == OPTION_FLAG && attached) {
      complain("--%s takes no value", option->name);
      return is_wrong(usage, status);
    }
    if (option->kind != OPTION_FLAG && !attached) {
      if (at + 1 == *argc) {
        complain("--%s needs a value: --%s %s", option->name, option->name, option->value);
        return is_wrong(usage, status);
      }
      value = argv[++at];
    }
    size_t number = (size_t)(option - usage->options);
    if (seen[number] && option->kind != OPTION_FLAG && option->kind != OPTION_LIST) {
      complain("--%s is given twice; leave one out", option->name);
      return is_wrong(usage, status);
    }
    seen[number] = true;
    if (!take(option, value))
      return is_wrong(usage, status);
  }
  *argc = kept;
  if (kept < usage->least)
    complain("%s needs %s: attnc %s %s", usage->command,
             usage->least == kept + 1 ? "one more argument" : "more arguments", usage->command,
             usage->arguments);
  else if (usage->most >= 0 && kept > usage->most)
    complain("%s does not know what to do with '%s': attnc %s %s", usage->command,
             argv[usage->most], usage->command, usage->arguments);
  else
    return true;
  return is_wrong(usage, status);
}
