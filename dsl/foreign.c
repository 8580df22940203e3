#include "dsl/foreign.h"

#include <string.h>

static const struct {
  enum foreign_use use;
  const char *word;
  const char *advice;
} advices[] = {
#define ADVICE(use, word, advice) {FOREIGN_##use, word, advice},
#define WORD(foreign, ours)
#include "dsl/foreign.def"
#undef ADVICE
#undef WORD
};

static const struct {
  const char *foreign, *ours;
} words[] = {
#define ADVICE(use, word, advice)
#define WORD(foreign, ours) {foreign, ours},
#include "dsl/foreign.def"
#undef ADVICE
#undef WORD
};

const char *foreign_advice(enum foreign_use use, const char *word, size_t length)
{
  for (size_t k = 0; k < sizeof(advices) / sizeof(advices[0]); k++)
    if (advices[k].use == use && strlen(advices[k].word) == length &&
        memcmp(advices[k].word, word, length) == 0)
      return advices[k].advice;
  return NULL;
}

const char *foreign_word(const char *word, const char *const *candidates, size_t count)
{
  for (size_t k = 0; k < sizeof(words) / sizeof(words[0]); k++) {
    if (strcmp(words[k].foreign, word) != 0)
      continue;
    if (candidates == NULL)
      return words[k].ours;
    for (size_t n = 0; n < count; n++)
      if (strcmp(words[k].ours, candidates[n]) == 0)
        return words[k].ours;
  }
  return NULL;
}

void foreign_suggest(struct diagnostics *diagnostics, struct diagnostic *diagnostic,
                     enum foreign_use use, const char *name, const char *const *candidates,
                     size_t count)
{
  const char *advice = foreign_advice(use, name, strlen(name));
  const char *ours = count == 0 ? NULL : foreign_word(name, candidates, count);
  const char *near = diag_nearest(name, candidates, count);
  if (advice != NULL)
    diag_help(diagnostics, diagnostic, "%s", advice);
  else if (ours != NULL)
    diag_help(diagnostics, diagnostic, "write %s%s", ours,
              use == FOREIGN_CALL        ? "(...)"
              : use == FOREIGN_ARGUMENT  ? " = ..."
              : use == FOREIGN_STATEMENT ? " ..."
                                         : "");
  else if (near != NULL)
    diag_help(diagnostics, diagnostic, "did you mean '%s'?", near);
}
