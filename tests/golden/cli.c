/* Golden tests of the command: cli ATTNC DIRECTORY replays every DIRECTORY/NAME.cli, a transcript:
 *
 *   # a comment
 *   $ attnc compile nothing.attn --emit tile
 *   what it prints, on stdout and stderr alike
 *   [exit 1]
 *
 * "[exit N]" stands where the status is not 0. Words are separated by blanks, and $TMP in a word is
 * an empty folder of this run, as it is in the output. Commands run in the folder ATTN_SOURCE_DIR
 * with no input. Times, speeds and errors differ from machine to machine: a number before " ms", "
 * s\n", " GFLOP/s", " GB/s", " tokens/s", " % of the machine's" or " of the bound", and one after
 * "the machine's ", "error ", "difference ", "differs by ", "most " or "worst ", is shown as "#".
 *
 * GOLDEN_UPDATE=1 in the environment rewrites what differs.
 */
#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MAX_TEXT = 1 << 18, MAX_WORDS = 64, MAX_TESTS = 256 };

struct text {
  char bytes[MAX_TEXT];
  size_t length;
};

static void add(struct text *text, const char *bytes, size_t length)
{
  if (length > MAX_TEXT - 1 - text->length) {
    fputs("cli: a transcript is too long\n", stderr);
    exit(2);
  }
  memcpy(text->bytes + text->length, bytes, length);
  text->length += length;
  text->bytes[text->length] = '\0';
}

static void add_string(struct text *text, const char *string)
{
  add(text, string, strlen(string));
}

/* Copies `from` with each `what` replaced. */
static void add_replaced(struct text *text, const char *from, const char *what, const char *by)
{
  for (const char *at = strstr(from, what); at != NULL; at = strstr(from, what)) {
    add(text, from, (size_t)(at - from));
    add_string(text, by);
    from = at + strlen(what);
  }
  add_string(text, from);
}

static size_t number_length(const char *at)
{
  size_t length = 0;
  if (!isdigit((unsigned char)at[0]))
    return 0;
  while (isdigit((unsigned char)at[length]) || at[length] == '.' ||
         (length > 0 && at[length] == 'e') ||
         (length > 0 && at[length - 1] == 'e' && (at[length] == '-' || at[length] == '+')))
    length++;
  return length;
}

static bool starts(const char *text, const char *with)
{
  return strncmp(text, with, strlen(with)) == 0;
}

static bool follows(const char *begin, const char *at, const char *word)
{
  size_t length = strlen(word);
  return (size_t)(at - begin) >= length && strncmp(at - length, word, length) == 0;
}

static void add_masked(struct text *text, const char *output)
{
  for (const char *at = output; *at != '\0';) {
    size_t length = at == output || !isalnum((unsigned char)at[-1]) ? number_length(at) : 0;
    const char *behind = at + length;
    bool measured = starts(behind, " ms") || starts(behind, " s\n") || starts(behind, " GFLOP/s") ||
                    starts(behind, " GB/s") || starts(behind, " tokens/s") ||
                    starts(behind, " % of the machine's") || starts(behind, " of the bound") ||
                    follows(output, at, "the machine's ") || follows(output, at, "error ") ||
                    follows(output, at, "difference ") || follows(output, at, "differs by ") ||
                    follows(output, at, "most ") || follows(output, at, "worst ");
    if (length > 0 && measured) {
      /* Columns are padded to the number's width. */
      while (text->length > 1 && text->bytes[text->length - 1] == ' ' &&
             text->bytes[text->length - 2] == ' ')
        text->bytes[--text->length] = '\0';
      add_string(text, "#");
    } else {
      length = length == 0 ? 1 : length;
      add(text, at, length);
    }
    at += length;
  }
}

/* Runs a command line without its "attnc" and appends what it says. */
static void run(const char *attnc, const char *line, const char *folder, struct text *result)
{
  static struct text expanded;
  static char raw[MAX_TEXT];
  char *words[MAX_WORDS + 2] = {(char *)(size_t)attnc};
  size_t count = 1;
  expanded.length = 0;
  add_replaced(&expanded, line, "$TMP", folder);
  for (char *word = strtok(expanded.bytes, " "); word != NULL && count <= MAX_WORDS;
       word = strtok(NULL, " "))
    words[count++] = word;
  int ends[2];
  if (pipe(ends) != 0)
    exit(2);
  fflush(NULL);
  pid_t child = fork();
  if (child == 0) {
    const char *source = getenv("ATTN_SOURCE_DIR");
    int nothing = open("/dev/null", O_RDONLY);
    if (source == NULL || chdir(source) != 0 || nothing < 0)
      _exit(126);
    dup2(nothing, 0);
    dup2(ends[1], 1);
    dup2(ends[1], 2);
    close(ends[0]);
    close(ends[1]);
    execv(attnc, words);
    _exit(127);
  }
  close(ends[1]);
  size_t length = 0;
  for (ssize_t got = 1; got > 0 && length < sizeof(raw) - 1; length += (size_t)(got > 0 ? got : 0))
    got = read(ends[0], raw + length, sizeof(raw) - 1 - length);
  close(ends[0]);
  raw[length] = '\0';
  int status;
  if (child < 0 || waitpid(child, &status, 0) != child)
    exit(2);
  static struct text plain;
  plain.length = 0;
  plain.bytes[0] = '\0';
  add_replaced(&plain, raw, folder, "$TMP");
  add_masked(result, plain.bytes);
  if (length > 0 && raw[length - 1] != '\n')
    add_string(result, "\n");
  char text[64] = "";
  if (!WIFEXITED(status))
    snprintf(text, sizeof(text), "[signal %d]\n", WTERMSIG(status));
  else if (WEXITSTATUS(status) != 0)
    snprintf(text, sizeof(text), "[exit %d]\n", WEXITSTATUS(status));
  add_string(result, text);
}

static bool read_transcript(const char *path, struct text *text)
{
  FILE *file = fopen(path, "rb");
  if (file == NULL)
    return false;
  text->length = fread(text->bytes, 1, MAX_TEXT - 1, file);
  text->bytes[text->length] = '\0';
  bool good = feof(file) != 0;
  fclose(file);
  return good;
}

static void remove_folder(const char *folder)
{
  DIR *directory = opendir(folder);
  for (struct dirent *entry = NULL; directory != NULL && (entry = readdir(directory)) != NULL;) {
    char path[512];
    snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name);
    if (entry->d_name[0] != '.')
      unlink(path);
  }
  if (directory != NULL)
    closedir(directory);
  rmdir(folder);
}

/* True when the transcript is what happens now, or was made so. */
static bool replay(const char *attnc, const char *path, bool update)
{
  static struct text expected, found;
  char folder[] = "/tmp/attnc-cli-XXXXXX";
  if (!read_transcript(path, &expected) || mkdtemp(folder) == NULL) {
    fprintf(stderr, "cli: cannot read %s or make a folder in /tmp\n", path);
    return false;
  }
  found.length = 0;
  found.bytes[0] = '\0';
  for (const char *at = expected.bytes; *at != '\0';) {
    size_t length = strcspn(at, "\n");
    length += at[length] == '\n';
    static char line[4096];
    snprintf(line, sizeof(line), "%.*s", (int)strcspn(at, "\n"), at);
    if (at[0] == '#' || starts(line, "$ attnc"))
      add(&found, at, length);
    if (starts(line, "$ attnc"))
      run(attnc, line + strlen("$ attnc"), folder, &found);
    at += length;
  }
  remove_folder(folder);
  if (strcmp(expected.bytes, found.bytes) == 0)
    return true;
  if (!update) {
    fprintf(stderr, "%s differs\n---- expected\n%s---- found\n%s", path, expected.bytes,
            found.bytes);
    return false;
  }
  FILE *file = fopen(path, "wb");
  if (file == NULL)
    return false;
  bool written = fwrite(found.bytes, 1, found.length, file) == found.length;
  return fclose(file) == 0 && written;
}

static int by_name(const void *left, const void *right)
{
  return strcmp(*(char *const *)left, *(char *const *)right);
}

int main(int argc, char **argv)
{
  DIR *directory = argc == 3 ? opendir(argv[2]) : NULL;
  if (directory == NULL) {
    fprintf(stderr, "usage: cli ATTNC DIRECTORY\n");
    return 2;
  }
  static char *names[MAX_TESTS];
  size_t count = 0;
  for (struct dirent *entry = readdir(directory); entry != NULL; entry = readdir(directory)) {
    const char *dot = strrchr(entry->d_name, '.');
    if (dot != NULL && strcmp(dot, ".cli") == 0 && count < MAX_TESTS)
      names[count++] = strdup(entry->d_name);
  }
  closedir(directory);
  qsort(names, count, sizeof(names[0]), by_name);
  const char *setting = getenv("GOLDEN_UPDATE");
  bool update = setting != NULL && strcmp(setting, "1") == 0;
  size_t wrong = 0;
  for (size_t k = 0; k < count; k++) {
    char path[1024];
    snprintf(path, sizeof(path), "%s/%s", argv[2], names[k]);
    wrong += !replay(argv[1], path, update);
    free(names[k]);
  }
  printf("%zu transcripts, %zu wrong\n", count, wrong);
  return count == 0 || wrong != 0;
}
