#include "dsl/source.h"

#include <string.h>

enum { SOURCE_MAX_BYTES = 16 * 1024 * 1024 };

void source_set_init(struct source_set *set, struct arena *arena)
{
  *set = (struct source_set){.arena = arena};
}

uint32_t source_add(struct source_set *set, const char *name, const char *text, size_t length)
{
  if (length > SOURCE_MAX_BYTES)
    return UINT32_MAX;
  struct source source = {
      .name = arena_strndup(set->arena, name, strlen(name)),
      .text = arena_strndup(set->arena, text, length),
      .length = length,
      .line_count = 1,
  };
  for (size_t k = 0; k < length; k++)
    source.line_count += text[k] == '\n';
  source.line_starts = ARENA_ARRAY(set->arena, uint32_t, source.line_count);
  size_t line = 1;
  for (size_t k = 0; k < length; k++)
    if (text[k] == '\n')
      source.line_starts[line++] = (uint32_t)(k + 1);
  vector_push(set->arena, &set->sources, source);
  return (uint32_t)(set->sources.count - 1);
}

struct source_place source_locate(const struct source_set *set, struct span span)
{
  const struct source *source = &set->sources.items[span.source];
  size_t low = 0, high = source->line_count;
  while (high - low > 1) {
    size_t middle = low + (high - low) / 2;
    if (source->line_starts[middle] <= span.begin)
      low = middle;
    else
      high = middle;
  }
  uint32_t column = 1;
  for (size_t k = source->line_starts[low]; k < span.begin && k < source->length; k++)
    column += ((unsigned char)source->text[k] & 0xC0) != 0x80; /* continuation bytes do not count */
  return (struct source_place){source, (uint32_t)low + 1, column};
}

const char *source_line(const struct source *source, uint32_t line, size_t *length)
{
  size_t begin = source->line_starts[line - 1];
  size_t end = line < source->line_count ? source->line_starts[line] - 1 : source->length;
  if (end > begin && source->text[end - 1] == '\r')
    end--;
  *length = end - begin;
  return source->text + begin;
}

struct span span_join(struct span a, struct span b)
{
  if (a.source != b.source)
    return a;
  return (struct span){a.source, a.begin < b.begin ? a.begin : b.begin,
                       a.end > b.end ? a.end : b.end};
}
