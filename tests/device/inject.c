/* Faults on request: the nth call of a function returns an error instead of doing anything. */
#include "tests/device/inject.h"
#include "tests/device/driver.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_INJECTIONS = 32 };

/* A lock of its own, which is taken while the driver's is held and not the other way round. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
  bool environment_read;
  uint32_t count;
  struct {
    char function[48];
    int calls; /* that are left until the one that fails; 0: it has failed */
    int error;
  } list[MAX_INJECTIONS];
} injections;

static bool add(const char *function, size_t length, int nth, int error)
{
  if (injections.count == MAX_INJECTIONS || nth < 1 || error < 1 || length == 0 ||
      length >= sizeof(injections.list[0].function))
    return false;
  const uint32_t at = injections.count++;
  memcpy(injections.list[at].function, function, length);
  injections.list[at].function[length] = '\0';
  injections.list[at].calls = nth;
  injections.list[at].error = error;
  return true;
}

/* ATTN_DEVICE_INJECT: FUNCTION:NTH:ERROR, with commas between several. */
static void read_environment(void)
{
  const char *text = getenv("ATTN_DEVICE_INJECT");
  injections.environment_read = true;
  while (text != NULL && *text != '\0') {
    int nth = 0, error = 0, used = 0;
    const size_t length = strcspn(text, ":,");
    if (sscanf(text + length, ":%d:%d%n", &nth, &error, &used) != 2 ||
        (text[length + (size_t)used] != '\0' && text[length + (size_t)used] != ',') ||
        !add(text, length, nth, error)) {
      report_say("ATTN_DEVICE_INJECT: cannot read \"%s\"; write cuMemAlloc:3:2 for error 2 at the "
                 "third call",
                 text);
      return;
    }
    text += length + (size_t)used;
    text += *text == ',';
  }
}

int device_inject(const char *function, int nth, int error)
{
  pthread_mutex_lock(&lock);
  bool done = true;
  if (function == NULL)
    injections.count = 0;
  else
    done = add(function, strlen(function), nth, error);
  pthread_mutex_unlock(&lock);
  return done;
}

/* The name with or without its _v2. */
static bool names(const char *wanted, const char *function)
{
  const size_t length = strlen(wanted);
  return strncmp(function, wanted, length) == 0 &&
         (function[length] == '\0' || strcmp(function + length, "_v2") == 0);
}

CUresult inject_next(const char *function)
{
  int error = 0;
  pthread_mutex_lock(&lock);
  if (!injections.environment_read)
    read_environment();
  for (uint32_t i = 0; i < injections.count; i++) {
    if (injections.list[i].calls > 0 && names(injections.list[i].function, function) &&
        --injections.list[i].calls == 0)
      error = injections.list[i].error;
  }
  pthread_mutex_unlock(&lock);
  if (error != 0)
    report_log("%s: error %d, as asked for", function, error);
  return (CUresult)error;
}
