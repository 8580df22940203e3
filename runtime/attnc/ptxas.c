#include "runtime/attnc/ptxas.h"

#include <errno.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static const char *executable(struct arena *arena, const char *folder, size_t length)
{
  if (length == 0)
    return NULL;
  const char *path = arena_format(arena, "%.*s/ptxas", (int)length, folder);
  return access(path, X_OK) == 0 ? path : NULL;
}

const char *ptxas_find(struct arena *arena)
{
  const char *found = NULL;
  const char *folders = getenv("PATH");
  while (found == NULL && folders != NULL) {
    size_t length = strcspn(folders, ":");
    found = executable(arena, folders, length);
    folders = folders[length] == ':' ? folders + length + 1 : NULL;
  }
  const char *home = getenv("CUDA_HOME");
  if (found == NULL && home != NULL && home[0] != '\0') {
    const char *folder = arena_format(arena, "%s/bin", home);
    found = executable(arena, folder, strlen(folder));
  }
  static const char usual[] = "/usr/local/cuda/bin";
  return found != NULL ? found : executable(arena, usual, sizeof(usual) - 1);
}

/* The child's exit status, or -1. */
static int run_program(const char *path, char **arguments, FILE *input, FILE *output)
{
  posix_spawn_file_actions_t actions;
  if (posix_spawn_file_actions_init(&actions) != 0)
    return -1;
  pid_t child;
  bool started = posix_spawn_file_actions_adddup2(&actions, fileno(input), STDIN_FILENO) == 0 &&
                 posix_spawn_file_actions_adddup2(&actions, fileno(output), STDOUT_FILENO) == 0 &&
                 posix_spawn_file_actions_adddup2(&actions, fileno(output), STDERR_FILENO) == 0 &&
                 posix_spawn(&child, path, &actions, NULL, arguments, environ) == 0;
  posix_spawn_file_actions_destroy(&actions);
  if (!started)
    return -1;
  int status;
  while (waitpid(child, &status, 0) < 0)
    if (errno != EINTR)
      return -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* At most `size` - 1 characters: all that is kept of a flood of messages. */
static void read_back(FILE *file, char *text, size_t size)
{
  rewind(file);
  text[fread(text, 1, size - 1, file)] = '\0';
}

/* The text behind `mark`, or NULL. */
static const char *behind(const char *line, const char *mark)
{
  const char *found = strstr(line, mark);
  return found == NULL ? NULL : found + strlen(mark);
}

/* Lines of interest, in this order for each kernel; functions have the second and third too:
 *   ptxas info    : Compiling entry function 'NAME' for 'sm_80'
 *   ptxas info    : Function properties for NAME
 *       0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
 *   ptxas info    : Used 56 registers, used 1 barriers, 400 bytes cmem[0]
 */
static void parse_messages(struct arena *arena, const char *text, struct ptxas_report *report)
{
  struct ptxas_kernel kernel = {.name = NULL};
  bool of_kernel = false;
  for (const char *at = text; *at != '\0';) {
    size_t length = strcspn(at, "\n");
    const char *line = arena_strndup(arena, at, length);
    at += length + (at[length] == '\n');
    const char *found = behind(line, "Compiling entry function '");
    if (found != NULL)
      kernel = (struct ptxas_kernel){.name = arena_strndup(arena, found, strcspn(found, "'"))};
    if (kernel.name == NULL)
      continue;
    found = behind(line, "Function properties for ");
    if (found != NULL)
      of_kernel = strcmp(found, kernel.name) == 0;
    if (of_kernel && strstr(line, "bytes stack frame") != NULL)
      sscanf(line, "%u bytes stack frame, %u bytes spill stores, %u bytes spill loads",
             &kernel.stack, &kernel.spill_stores, &kernel.spill_loads);
    found = behind(line, "Used ");
    if (found != NULL && sscanf(found, "%u registers", &kernel.registers) == 1) {
      vector_push(arena, &report->kernels, kernel);
      kernel.name = NULL;
    }
  }
}

enum ptxas_status ptxas_run(struct arena *arena, const char *text, const char *processor,
                            struct ptxas_report *report, const char **message)
{
  enum { MESSAGES_SIZE = 1 << 16 };
  *report = (struct ptxas_report){.kernels = {0}};
  *message = "";
  const char *path = ptxas_find(arena);
  if (path == NULL)
    return PTXAS_MISSING;
  char *messages = arena_alloc(arena, MESSAGES_SIZE);
  const char *architecture = arena_format(arena, "-arch=%s", processor);
  /* "-" is the standard input. */
  const char *arguments[] = {path, architecture, "-v", "-o", "/dev/null", "-", NULL};
  char *copies[sizeof(arguments) / sizeof(*arguments)] = {NULL};
  for (size_t k = 0; arguments[k] != NULL; k++)
    copies[k] = arena_strndup(arena, arguments[k], strlen(arguments[k]));
  FILE *input = tmpfile();
  FILE *output = tmpfile();
  int status = -1;
  if (input != NULL && output != NULL && fputs(text, input) >= 0 && fflush(input) == 0 &&
      fseek(input, 0, SEEK_SET) == 0)
    status = run_program(path, copies, input, output);
  if (output != NULL)
    read_back(output, messages, MESSAGES_SIZE);
  if (output != NULL)
    fclose(output);
  if (input != NULL)
    fclose(input);
  *message = status < 0 && messages[0] == '\0' ? "it could not be started" : messages;
  if (status != 0)
    return PTXAS_FAILED;
  parse_messages(arena, messages, report);
  return PTXAS_OK;
}
