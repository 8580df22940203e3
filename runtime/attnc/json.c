#include "runtime/attnc/json.h"

#include <inttypes.h>
#include <math.h>

static void put_string(FILE *file, const char *text)
{
  fputc('"', file);
  for (const char *at = text; *at != '\0'; at++) {
    unsigned char byte = (unsigned char)*at;
    if (byte == '"' || byte == '\\')
      fprintf(file, "\\%c", byte);
    else if (byte == '\n')
      fputs("\\n", file);
    else if (byte < 0x20 || byte == 0x7f)
      fprintf(file, "\\u%04x", byte);
    else
      fputc(byte, file);
  }
  fputc('"', file);
}

static void start(struct json *json, const char *key)
{
  if (json->depth > 0) {
    fputs((json->filled >> json->depth & 1) != 0 ? ",\n" : "\n", json->file);
    fprintf(json->file, "%*s", (int)(2 * json->depth), "");
  }
  json->filled |= UINT32_C(1) << json->depth;
  if (key != NULL) {
    put_string(json->file, key);
    fputs(": ", json->file);
  }
}

void json_open(struct json *json, const char *key, char bracket)
{
  start(json, key);
  fputc(bracket, json->file);
  json->depth++;
  json->filled &= ~(UINT32_C(1) << json->depth);
}

void json_close(struct json *json, char bracket)
{
  bool empty = (json->filled >> json->depth & 1) == 0;
  json->depth--;
  if (!empty)
    fprintf(json->file, "\n%*s", (int)(2 * json->depth), "");
  fputc(bracket, json->file);
  if (json->depth == 0)
    fputc('\n', json->file);
}

void json_text(struct json *json, const char *key, const char *value)
{
  start(json, key);
  if (value == NULL)
    fputs("null", json->file);
  else
    put_string(json->file, value);
}

void json_integer(struct json *json, const char *key, int64_t value)
{
  start(json, key);
  fprintf(json->file, "%" PRId64, value);
}

void json_integers(struct json *json, const char *key, const int64_t *values, int count)
{
  start(json, key);
  fputc('[', json->file);
  for (int k = 0; k < count; k++)
    fprintf(json->file, "%s%" PRId64, k > 0 ? ", " : "", values[k]);
  fputc(']', json->file);
}

static void put_number(FILE *file, double value)
{
  if (isfinite(value))
    fprintf(file, "%.9g", value);
  else
    fputs("null", file);
}

void json_numbers(struct json *json, const char *key, const double *values, int64_t count)
{
  start(json, key);
  fputc('[', json->file);
  for (int64_t k = 0; k < count; k++) {
    fputs(k > 0 ? ", " : "", json->file);
    put_number(json->file, values[k]);
  }
  fputc(']', json->file);
}

void json_number(struct json *json, const char *key, double value)
{
  start(json, key);
  put_number(json->file, value);
}

void json_bool(struct json *json, const char *key, bool value)
{
  start(json, key);
  fputs(value ? "true" : "false", json->file);
}
