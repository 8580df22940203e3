#include "dsl/diagnostics.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

static const struct {
  const char *text;
  enum diag_severity severity;
  const char *summary;
} codes[] = {
#define DIAG(name, code, severity, summary) {code, DIAG_##severity, summary},
#include "dsl/diagnostics.def"
#undef DIAG
};

static const char *const severity_names[] = {"error", "warning", "note"};

void diagnostics_init(struct diagnostics *diagnostics, struct arena *arena,
                      const struct source_set *sources)
{
  *diagnostics = (struct diagnostics){.arena = arena, .sources = sources};
}

const char *diag_code_text(enum diag_code code)
{
  return codes[code].text;
}

const char *diag_code_summary(enum diag_code code)
{
  return codes[code].summary;
}

struct diagnostic *diag_report(struct diagnostics *diagnostics, enum diag_code code,
                               struct span span, const char *format, ...)
{
  va_list arguments;
  va_start(arguments, format);
  struct diagnostic record = {
      .code = code,
      .severity = codes[code].severity,
      .span = span,
      .message = arena_vformat(diagnostics->arena, format, arguments),
  };
  va_end(arguments);

  /* A fn that is inlined twice says the same thing twice. */
  size_t alike = 0;
  for (size_t k = 0; k < diagnostics->items.count; k++) {
    struct diagnostic *other = &diagnostics->items.items[k];
    alike += (other->severity == DIAG_ERROR) == (record.severity == DIAG_ERROR);
    if (other->code == code && memcmp(&other->span, &span, sizeof(span)) == 0 &&
        strcmp(other->message, record.message) == 0) {
      struct diagnostic *scratch = ARENA_NEW(diagnostics->arena, struct diagnostic);
      *scratch = record;
      return scratch;
    }
  }
  if (record.severity == DIAG_ERROR)
    diagnostics->error_count++;
  else if (record.severity == DIAG_WARNING)
    diagnostics->warning_count++;
  if (alike >= DIAG_LIMIT) {
    struct diagnostic *scratch = ARENA_NEW(diagnostics->arena, struct diagnostic);
    *scratch = record;
    return scratch;
  }
  vector_push(diagnostics->arena, &diagnostics->items, record);
  return &diagnostics->items.items[diagnostics->items.count - 1];
}

void diag_help(struct diagnostics *diagnostics, struct diagnostic *diagnostic, const char *format,
               ...)
{
  va_list arguments;
  va_start(arguments, format);
  diagnostic->help = arena_vformat(diagnostics->arena, format, arguments);
  va_end(arguments);
}

void diag_related(struct diagnostics *diagnostics, struct diagnostic *diagnostic, struct span span,
                  const char *format, ...)
{
  va_list arguments;
  va_start(arguments, format);
  diagnostic->related = span;
  diagnostic->related_message = arena_vformat(diagnostics->arena, format, arguments);
  va_end(arguments);
}

/* ---- text ---- */

struct text {
  struct arena *arena;
  VECTOR(char) bytes;
};

static void text_add(struct text *text, const char *bytes, size_t length)
{
  for (size_t k = 0; k < length; k++)
    vector_push(text->arena, &text->bytes, bytes[k]);
}

static void text_string(struct text *text, const char *string)
{
  text_add(text, string, strlen(string));
}

static void text_format(struct text *text, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static void text_format(struct text *text, const char *format, ...)
{
  va_list arguments;
  va_start(arguments, format);
  text_string(text, arena_vformat(text->arena, format, arguments));
  va_end(arguments);
}

/* The length of the well-formed UTF-8 character at `at`, or 0. Rejects overlong forms and
 * surrogates. */
static size_t utf8_length(const char *at, const char *end)
{
  const unsigned char *p = (const unsigned char *)at;
  size_t room = (size_t)(end - at);
  if (p[0] < 0x80)
    return 1;
  size_t length = p[0] >= 0xC2 && p[0] <= 0xDF   ? 2
                  : p[0] >= 0xE0 && p[0] <= 0xEF ? 3
                  : p[0] >= 0xF0 && p[0] <= 0xF4 ? 4
                                                 : 0;
  if (length == 0 || length > room)
    return 0;
  for (size_t k = 1; k < length; k++)
    if ((p[k] & 0xC0) != 0x80)
      return 0;
  if ((p[0] == 0xE0 && p[1] < 0xA0) || (p[0] == 0xED && p[1] > 0x9F) ||
      (p[0] == 0xF0 && p[1] < 0x90) || (p[0] == 0xF4 && p[1] > 0x8F))
    return 0;
  return length;
}

/* Bytes that a terminal or a JSON reader would trip over come out as '?'. */
static void text_clean(struct text *text, const char *bytes, size_t length)
{
  const char *end = bytes + length;
  while (bytes < end) {
    size_t width = utf8_length(bytes, end);
    bool control = width == 1 && ((unsigned char)*bytes < 0x20 || *bytes == 0x7F) && *bytes != '\t';
    if (width == 0 || control)
      text_add(text, "?", 1);
    else
      text_add(text, bytes, width);
    bytes += width == 0 ? 1 : width;
  }
}

enum {
  SHOWN_BEFORE = 100,
  SHOWN_AFTER = 60
}; /* bytes of a long line shown before and after the span's begin */

static void print_excerpt(struct text *text, const struct source_place *place, struct span span)
{
  size_t length;
  const char *line = source_line(place->source, place->line, &length);
  size_t at = span.begin - place->source->line_starts[place->line - 1];
  if (at > length)
    at = length;
  size_t first = at > SHOWN_BEFORE ? at - SHOWN_BEFORE : 0;
  while (first > 0 && first < at && ((unsigned char)line[first] & 0xC0) == 0x80)
    first++;
  size_t last = length - at > SHOWN_AFTER ? at + SHOWN_AFTER : length;
  while (last < length && ((unsigned char)line[last] & 0xC0) == 0x80)
    last++;
  text_format(text, "%4u | %s", place->line, first > 0 ? "..." : "");
  text_clean(text, line + first, last - first);
  text_string(text, last < length ? "...\n     | " : "\n     | ");
  if (first > 0)
    text_string(text, "   ");
  for (size_t k = first; k < at;) {
    size_t width = utf8_length(line + k, line + length);
    text_string(text, line[k] == '\t' ? "\t" : " ");
    k += width == 0 ? 1 : width;
  }
  size_t stop = span.end - span.begin + at;
  if (stop > last)
    stop = last; /* a span of several lines is marked on its first */
  text_string(text, "^");
  for (size_t k = at, n = 0; k < stop; n++) {
    size_t width = utf8_length(line + k, line + length);
    if (n > 0)
      text_string(text, "~");
    k += width == 0 ? 1 : width;
  }
  text_string(text, "\n");
}

static int by_place(const void *left, const void *right)
{
  const struct diagnostic *a = *(const struct diagnostic *const *)left;
  const struct diagnostic *b = *(const struct diagnostic *const *)right;
  if (a->span.source != b->span.source)
    return a->span.source < b->span.source ? -1 : 1;
  if (a->span.begin != b->span.begin)
    return a->span.begin < b->span.begin ? -1 : 1;
  return a < b ? -1 : a > b; /* both lie in one array: the one reported first */
}

static const struct diagnostic **in_source_order(const struct diagnostics *diagnostics)
{
  size_t count = diagnostics->items.count;
  const struct diagnostic **order =
      ARENA_ARRAY(diagnostics->arena, const struct diagnostic *, count);
  for (size_t k = 0; k < count; k++)
    order[k] = &diagnostics->items.items[k];
  if (count > 1)
    qsort(order, count, sizeof(*order), by_place);
  return order;
}

char *diagnostics_print(const struct diagnostics *diagnostics, bool color)
{
  static const char *const severity_colors[] = {"\033[1;31m", "\033[1;35m", "\033[1;36m"};
  struct text text = {.arena = diagnostics->arena};
  const struct diagnostic **order = in_source_order(diagnostics);
  size_t shown_errors = 0;
  for (size_t k = 0; k < diagnostics->items.count; k++) {
    const struct diagnostic *item = order[k];
    struct source_place place = source_locate(diagnostics->sources, item->span);
    shown_errors += item->severity == DIAG_ERROR;
    text_format(&text, "%s:%u:%u: ", place.source->name, place.line, place.column);
    text_format(&text, "%s%s[%s]:%s ", color ? severity_colors[item->severity] : "",
                severity_names[item->severity], codes[item->code].text, color ? "\033[0m" : "");
    text_clean(&text, item->message, strlen(item->message));
    text_string(&text, "\n");
    print_excerpt(&text, &place, item->span);
    if (item->related_message != NULL) {
      struct source_place other = source_locate(diagnostics->sources, item->related);
      text_format(&text, "   note: %s:%u:%u: ", other.source->name, other.line, other.column);
      text_clean(&text, item->related_message, strlen(item->related_message));
      text_string(&text, "\n");
    }
    if (item->help != NULL) {
      text_format(&text, "   %shelp:%s ", color ? "\033[1;32m" : "", color ? "\033[0m" : "");
      text_clean(&text, item->help, strlen(item->help));
      text_string(&text, "\n");
    }
  }
  size_t more = diagnostics->error_count - shown_errors;
  if (more != 0)
    text_format(&text, "%zu more error%s not shown\n", more, more == 1 ? "" : "s");
  text_add(&text, "", 1);
  return text.bytes.items;
}

static void json_string(struct text *text, const char *string)
{
  struct text clean = {.arena = text->arena};
  text_clean(&clean, string, strlen(string));
  text_string(text, "\"");
  for (size_t k = 0; k < clean.bytes.count; k++) {
    char byte = clean.bytes.items[k];
    if (byte == '\t')
      text_string(text, "\\t");
    else if (byte == '"' || byte == '\\')
      text_add(text, (char[]){'\\', byte}, 2);
    else
      text_add(text, &byte, 1);
  }
  text_string(text, "\"");
}

char *diagnostics_print_json(const struct diagnostics *diagnostics)
{
  struct text text = {.arena = diagnostics->arena};
  const struct diagnostic **order = in_source_order(diagnostics);
  text_string(&text, "[");
  for (size_t k = 0; k < diagnostics->items.count; k++) {
    const struct diagnostic *item = order[k];
    struct source_place begin = source_locate(diagnostics->sources, item->span);
    struct span tail = {item->span.source, item->span.end, item->span.end};
    struct source_place end = source_locate(diagnostics->sources, tail);
    text_format(&text,
                "%s\n  {\"code\": \"%s\", \"severity\": \"%s\", \"file\": ", k == 0 ? "" : ",",
                codes[item->code].text, severity_names[item->severity]);
    json_string(&text, begin.source->name);
    text_format(
        &text,
        ", \"line\": %u, \"column\": %u, \"end_line\": %u, \"end_column\": %u, \"message\": ",
        begin.line, begin.column, end.line, end.column);
    json_string(&text, item->message);
    text_string(&text, ", \"help\": ");
    if (item->help != NULL)
      json_string(&text, item->help);
    else
      text_string(&text, "null");
    text_string(&text, "}");
  }
  text_string(&text, diagnostics->items.count == 0 ? "]\n" : "\n]\n");
  text_add(&text, "", 1);
  return text.bytes.items;
}

/* ---- did you mean ---- */

enum { NEAREST_MAX_LENGTH = 64 };

/* Edits (insert, delete, replace, swap of neighbours) between two short names. */
static size_t edit_distance(const char *a, size_t a_length, const char *b, size_t b_length)
{
  size_t rows[3][NEAREST_MAX_LENGTH + 1];
  for (size_t j = 0; j <= b_length; j++)
    rows[0][j] = j;
  for (size_t i = 1; i <= a_length; i++) {
    size_t *now = rows[i % 3];
    const size_t *above = rows[(i - 1) % 3];
    now[0] = i;
    for (size_t j = 1; j <= b_length; j++) {
      size_t best = above[j - 1] + (a[i - 1] != b[j - 1]);
      if (above[j] + 1 < best)
        best = above[j] + 1;
      if (now[j - 1] + 1 < best)
        best = now[j - 1] + 1;
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
          rows[(i - 2) % 3][j - 2] + 1 < best)
        best = rows[(i - 2) % 3][j - 2] + 1;
      now[j] = best;
    }
  }
  return rows[a_length % 3][b_length];
}

const char *diag_nearest(const char *name, const char *const *candidates, size_t count)
{
  size_t length = strlen(name);
  size_t allowed = (length + 1) / 3;
  const char *nearest = NULL;
  if (length > NEAREST_MAX_LENGTH)
    return NULL;
  for (size_t k = 0; k < count; k++)
    if (strcasecmp(name, candidates[k]) == 0)
      return candidates[k];
  for (size_t k = 0; k < count; k++) {
    size_t other = strlen(candidates[k]);
    /* One-letter names are all one edit apart: nothing is learnt from that. */
    if (other > NEAREST_MAX_LENGTH || (other < 2 && length < 3) || length < 2)
      continue;
    size_t distance = edit_distance(name, length, candidates[k], other);
    if (distance <= allowed && (nearest == NULL || distance + 1 <= allowed)) {
      nearest = candidates[k];
      allowed = distance;
    }
  }
  return nearest;
}
