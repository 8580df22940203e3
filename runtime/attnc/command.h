/* What the subcommands share: exit statuses, messages, time. Each subcommand is one file with one
 * function that takes the arguments after its name and returns the exit status.
 */
#ifndef ATTN_RUNTIME_ATTNC_COMMAND_H
#define ATTN_RUNTIME_ATTNC_COMMAND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "attn/attn.h"
#include "runtime/attnc/tensor.h"

enum exit_status {
  EXIT_FINE = 0,
  EXIT_WRONG = 1,   /* the spec or the data is wrong, or results differ */
  EXIT_USAGE = 2,   /* the command line is wrong */
  EXIT_MACHINE = 3, /* the device, the memory or the file system failed */
};

enum exit_status command_compile(int argc, char **argv);
enum exit_status command_run(int argc, char **argv);
enum exit_status command_check(int argc, char **argv);
enum exit_status command_fmt(int argc, char **argv);
enum exit_status command_targets(int argc, char **argv);
enum exit_status command_show(int argc, char **argv);
enum exit_status command_explain(int argc, char **argv);
enum exit_status command_bench(int argc, char **argv);
enum exit_status command_decode(int argc, char **argv);

/* "attnc: ..." and a newline on stderr. */
void complain(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* The same; returns the status. */
enum exit_status fail_with(enum exit_status status, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
enum exit_status fail_memory(void);

enum exit_status exit_of_attn(attn_status status);
enum exit_status exit_of_tensor(enum tensor_status status);
/* Complains with the error's text unless the status is OK. */
enum exit_status report_tensor(enum tensor_status status, const struct tensor_error *error);

double now_ms(void); /* of a clock that only goes forward */

bool is_terminal(int fd);
/* Whether messages on stderr may have colours: a terminal, and no NO_COLOR in the environment. */
bool wants_color(void);

/* Writes to PATH in one step, as tensor_file_write does; to stdout where PATH is NULL or "-". */
enum exit_status write_output(const char *path, const void *data, size_t size);

/* The whole file, or stdin for "-", with a zero byte behind it that *length does not count. NULL
 * after a complaint, with *status set; else free it with mem_free. */
char *read_text(const char *path, size_t *length, enum exit_status *status);

#endif
