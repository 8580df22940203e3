/* Writes one JSON value to a stream, indented by two spaces; commas are taken care of. */
#ifndef ATTN_RUNTIME_ATTNC_JSON_H
#define ATTN_RUNTIME_ATTNC_JSON_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct json {
  FILE *file;
  uint32_t depth;
  uint32_t filled; /* bit d: something was written at depth d; 31 levels */
};

/* `key` is NULL for the outermost value and in arrays. */
void json_open(struct json *json, const char *key, char bracket); /* '{' or '[' */
void json_close(struct json *json, char bracket); /* '}' or ']'; a newline after the outermost */
void json_text(struct json *json, const char *key, const char *value); /* NULL is null */
void json_integer(struct json *json, const char *key, int64_t value);
void json_integers(struct json *json, const char *key, const int64_t *values, int count);
void json_numbers(struct json *json, const char *key, const double *values, int64_t count);
void json_number(struct json *json, const char *key, double value); /* null when not finite */
void json_bool(struct json *json, const char *key, bool value);

#endif
