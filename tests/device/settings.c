/* Settings of the stand-in from the environment, and where it writes. */
#include "tests/device/driver.h"

#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct {
  bool loaded;
  struct settings settings;
  char log[PATH_MAX];
} state;

static bool read_unsigned(const char *text, uint64_t *value, const char **end)
{
  char *after;
  if (*text < '0' || *text > '9')
    return false;
  *value = strtoull(text, &after, 10);
  *end = after;
  return true;
}

/* "12.8" as 128 */
static bool read_version(const char *text, int *value)
{
  uint64_t major, minor;
  const char *rest;
  if (!read_unsigned(text, &major, &rest) || *rest != '.' ||
      !read_unsigned(rest + 1, &minor, &rest) || *rest != '\0' || major > 99 || minor > 9)
    return false;
  *value = (int)(10 * major + minor);
  return true;
}

/* "512M" */
static bool read_bytes(const char *text, size_t *bytes)
{
  static const char units[] = "KMG";
  uint64_t value;
  const char *rest;
  if (!read_unsigned(text, &value, &rest) || value > UINT64_C(1) << 40)
    return false;
  if (*rest != '\0') {
    const char *unit = strchr(units, *rest);
    if (unit == NULL || rest[1] != '\0')
      return false;
    value <<= 10 * (unit - units + 1);
  }
  *bytes = (size_t)value;
  return true;
}

static bool read_count(const char *text, uint64_t most, uint64_t *value)
{
  const char *rest;
  return read_unsigned(text, value, &rest) && *rest == '\0' && *value <= most;
}

static const char *variable(const char *name)
{
  const char *text = getenv(name);
  return text == NULL || *text == '\0' ? NULL : text;
}

static void refuse(const char *name, const char *text, const char *wanted)
{
  report_say("%s is \"%s\": write %s", name, text, wanted);
  state.settings.valid = false;
}

const struct settings *settings_load(void)
{
  struct settings *settings = &state.settings;
  if (state.loaded)
    return settings;
  state.loaded = true;
  *settings = (struct settings){.valid = true,
                                .devices = 2,
                                .capability = 80,
                                .version = 13000,
                                .memory = (size_t)4 << 30,
                                .seed = 1};
  const char *text = variable("ATTN_DEVICE_LOG");
  if (text != NULL && strlen(text) < sizeof(state.log))
    strcpy(state.log, text);

  uint64_t value = 0;
  if ((text = variable("ATTN_DEVICE_COUNT")) != NULL) {
    if (!read_count(text, MAX_DEVICES, &value))
      refuse("ATTN_DEVICE_COUNT", text, "a number from 0 to 16");
    settings->devices = (uint32_t)value;
  }
  if ((text = variable("ATTN_DEVICE_CAPABILITY")) != NULL &&
      (!read_version(text, &settings->capability) || settings->capability < 80))
    refuse("ATTN_DEVICE_CAPABILITY", text, "a version from 8.0, such as 9.0");
  if ((text = variable("ATTN_DEVICE_DRIVER")) != NULL) {
    int version = 0;
    if (!read_version(text, &version))
      refuse("ATTN_DEVICE_DRIVER", text, "a version of CUDA such as 12.4");
    settings->version = version / 10 * 1000 + version % 10 * 10;
  }
  if ((text = variable("ATTN_DEVICE_MEMORY")) != NULL && !read_bytes(text, &settings->memory))
    refuse("ATTN_DEVICE_MEMORY", text, "a number of bytes such as 65536, 64M or 2G");
  if ((text = variable("ATTN_DEVICE_SEED")) != NULL) {
    if (!read_count(text, UINT64_MAX, &value))
      refuse("ATTN_DEVICE_SEED", text, "a number");
    settings->seed = value;
  }
  return settings;
}

static void write_line(FILE *file, const char *text)
{
  fprintf(file, "attnc stand-in device: %s\n", text);
}

static void log_line(const char *text)
{
  FILE *file = state.log[0] == '\0' ? NULL : fopen(state.log, "a");
  if (file == NULL)
    return;
  write_line(file, text);
  fclose(file);
}

void report_log(const char *format, ...)
{
  char text[1024];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof(text), format, arguments);
  va_end(arguments);
  log_line(text);
}

void report_say(const char *format, ...)
{
  char text[1024];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof(text), format, arguments);
  va_end(arguments);
  write_line(stderr, text);
  log_line(text);
}
