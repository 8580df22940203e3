/* attnc: compiles, runs and checks attention written as .attn specs. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "dsl/diagnostics.h"
#include "runtime/attnc/command.h"

static const struct command {
  const char *name;
  enum exit_status (*run)(int argc, char **argv);
  const char *summary;
} commands[] = {
    {"compile", command_compile, "compile a spec, or show a stage of its compilation"},
    {"run", command_run, "compute on tensors from files or on random ones"},
    {"check", command_check, "compare compiled code with the reference over a battery of shapes"},
    {"show", command_show, "draw what a spec sees, or its weights"},
    {"explain", command_explain, "tell what a spec costs, and why it runs as it does"},
    {"bench", command_bench, "time a spec beside what the machine can do"},
    {"decode", command_decode, "generate step by step on a growing cache, checked and timed"},
    {"fmt", command_fmt, "lay specs out"},
    {"targets", command_targets, "list what can be compiled for"},
};
enum { COMMAND_COUNT = sizeof(commands) / sizeof(commands[0]) };

static void print_usage(FILE *out)
{
  fputs("attnc COMMAND ...\n\n", out);
  for (size_t k = 0; k < COMMAND_COUNT; k++)
    fprintf(out, "  %-10s %s\n", commands[k].name, commands[k].summary);
  fputs("\nattnc COMMAND --help tells the options of a command, attnc --version the version.\n"
        "Exit status: 0 success, 1 the spec or the data is wrong, 2 the command line is wrong,\n"
        "3 the device or the machine failed.\n",
        out);
}

static enum exit_status dispatch(int argc, char **argv)
{
  const char *names[COMMAND_COUNT + 1];
  for (size_t k = 0; k < COMMAND_COUNT; k++) {
    names[k] = commands[k].name;
    if (strcmp(argv[1], commands[k].name) == 0)
      return commands[k].run(argc - 2, argv + 2);
  }
  names[COMMAND_COUNT] = "help";
  const char *nearest = diag_nearest(argv[1] + strspn(argv[1], "-"), names, COMMAND_COUNT + 1);
  const char *what = argv[1][0] == '-' ? "option" : "command";
  if (nearest != NULL)
    complain("there is no %s '%s'; did you mean '%s'?", what, argv[1], nearest);
  else
    complain("there is no %s '%s'; attnc --help lists the commands", what, argv[1]);
  return EXIT_USAGE;
}

int main(int argc, char **argv)
{
  enum exit_status status = EXIT_FINE;
  char help[] = "--help";
  if (argc < 2) {
    print_usage(stderr);
    return EXIT_USAGE;
  }
  if (strcmp(argv[1], "--version") == 0) {
    printf("attnc %s\n", attn_version());
  } else if (argc == 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
                           strcmp(argv[1], "help") == 0)) {
    print_usage(stdout);
  } else if (argc == 3 && strcmp(argv[1], "help") == 0) {
    char *arguments[] = {argv[0], argv[2], help, NULL};
    status = dispatch(3, arguments);
  } else {
    status = dispatch(argc, argv);
  }
  if (fflush(stdout) != 0 || ferror(stdout) != 0)
    return (int)fail_with(EXIT_MACHINE, "cannot write to stdout: %s", strerror(errno));
  return (int)status;
}
