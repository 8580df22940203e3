/* Planted faults: textual changes of PTX. A site is a line that the fault can be planted in; the
 * text keeps its lines, so that a line number means the same before and after, and several can be
 * planted. */
#ifndef ATTN_TESTS_DEVICE_MUTATE_H
#define ATTN_TESTS_DEVICE_MUTATE_H

#include <check.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum mutation {
  DROP_BARRIER, /* a bar.sync is not there */
  DROP_WAIT,    /* a cp.async.wait_group is not there */
  WEAKEN_WAIT,  /* it leaves one group more in flight */
  DROP_COMMIT,  /* copies belong to the group after theirs */
  SHIFT_MATRIX, /* an ldmatrix reads 16 bytes further */
  SWAP_INDEX,   /* an access has the address of another one of its kind */
  MOVE_BOUND,   /* < for <= and so on */
  MUTATIONS
};

static const char *const mutation_names[] = {"dropped barrier", "dropped wait",     "weakened wait",
                                             "dropped commit",  "shifted ldmatrix", "swapped index",
                                             "moved bound"};

enum { MAX_SITES = 4096 };
struct sites {
  size_t count;
  uint32_t lines[MAX_SITES]; /* from 0 */
};

/* The start of a line, and how long it is. */
static inline const char *line_find(const char *text, uint32_t line, size_t *length)
{
  while (line-- > 0)
    text = strchr(text, '\n') + 1;
  *length = strcspn(text, "\n");
  return text;
}

static inline const char *find_in_line(const char *line, size_t length, const char *part)
{
  const char *found = strstr(line, part);
  return found != NULL && found < line + length ? found : NULL;
}

/* ---- what can be changed in a line ---- */

/* Accesses whose addresses may be exchanged: by what stands before the bracket. */
static inline const char *access_kind(const char *line, size_t length)
{
  static const char *const kinds[] = {"ldmatrix",     "ld.shared.",  "st.shared.",
                                      "cp.async.cg.", "ld.global.b", "st.global.b"};
  for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
    if (find_in_line(line, length, kinds[i]) != NULL)
      return kinds[i];
  }
  return NULL;
}

/* The register of the first address of the line; its length without an offset. */
static inline const char *address_register(const char *line, size_t length, size_t *size)
{
  const char *bracket = find_in_line(line, length, "[%r");
  *size = bracket == NULL ? 0 : strcspn(bracket + 1, "+]");
  return bracket == NULL ? NULL : bracket + 1;
}

static inline const char *bound_word(const char *line, size_t length)
{
  static const char *const words[] = {"setp.lt.s", "setp.le.s", "setp.gt.s", "setp.ge.s",
                                      "setp.lt.u", "setp.le.u", "setp.gt.u", "setp.ge.u"};
  for (size_t i = 0; i < 8; i++) {
    const char *found = find_in_line(line, length, words[i]);
    if (found != NULL)
      return found + strlen("setp.");
  }
  return NULL;
}

static inline bool is_site(enum mutation mutation, const char *line, size_t length)
{
  size_t size;
  switch (mutation) {
  case DROP_BARRIER: return find_in_line(line, length, "bar.sync") != NULL;
  case DROP_WAIT:
  case WEAKEN_WAIT: return find_in_line(line, length, "cp.async.wait_group") != NULL;
  case DROP_COMMIT: return find_in_line(line, length, "cp.async.commit_group") != NULL;
  case SHIFT_MATRIX: return find_in_line(line, length, "ldmatrix") != NULL;
  case SWAP_INDEX:
    return access_kind(line, length) != NULL && address_register(line, length, &size) != NULL;
  case MOVE_BOUND: return bound_word(line, length) != NULL;
  case MUTATIONS: break;
  }
  return false;
}

static inline void sites_find(struct sites *sites, const char *text, enum mutation mutation)
{
  sites->count = 0;
  for (uint32_t line = 0; *text != '\0'; line++) {
    const size_t length = strcspn(text, "\n");
    if (is_site(mutation, text, length) && sites->count < MAX_SITES)
      sites->lines[sites->count++] = line;
    text += length + (text[length] == '\n');
  }
}

/* ---- changing it ---- */

/* The text with `length` characters at `place` replaced; to be freed. */
static inline char *text_replace(const char *text, const char *place, size_t length,
                                 const char *with, size_t with_length)
{
  const size_t before = (size_t)(place - text), rest = strlen(place + length);
  char *changed = malloc(before + with_length + rest + 1);
  ck_assert_ptr_nonnull(changed);
  memcpy(changed, text, before);
  memcpy(changed + before, with, with_length);
  memcpy(changed + before + with_length, place + length, rest + 1);
  return changed;
}

/* Adds to the number at `place`, which may be missing (then it is the 0 of an address). */
static inline char *number_add(const char *text, const char *place, int add, const char *sign)
{
  char number[32];
  char *end;
  const long value = strtol(place, &end, 10);
  const int length =
      snprintf(number, sizeof(number), "%s%ld", end == place ? sign : "", value + add);
  return text_replace(text, place, (size_t)(end - place), number, (size_t)length);
}

/* The address register that takes the place of the line's: that of the next access of its kind with
 * another register, past the end from the beginning; NULL where there is none. */
static inline const char *other_register(const char *text, const char *line, size_t length,
                                         size_t *other_size)
{
  size_t size;
  const char *kind = access_kind(line, length);
  const char *place = address_register(line, length, &size);
  const char *other = line + length;
  ck_assert(kind != NULL && place != NULL);
  for (int round = 0; round < 2; round++) {
    while ((other = strstr(other, kind)) != NULL && (round == 0 || other < line)) {
      const char *found = address_register(other, strcspn(other, "\n"), other_size);
      if (found != NULL && (size != *other_size || memcmp(place, found, size) != 0) &&
          (place[2] == 'd') == (found[2] == 'd')) /* of 64 bits, as the other */
        return found;
      other += strlen(kind);
    }
    other = text;
  }
  return NULL;
}

static inline char *swap_index(const char *text, const char *line, size_t length)
{
  size_t size, other_size;
  const char *place = address_register(line, length, &size);
  const char *other = other_register(text, line, length, &other_size);
  return other == NULL ? NULL : text_replace(text, place, size, other, other_size);
}

static inline char *mutate(const char *text, enum mutation mutation, uint32_t line_number)
{
  size_t length;
  const char *line = line_find(text, line_number, &length);
  switch (mutation) {
  case DROP_BARRIER:
  case DROP_WAIT:
  case DROP_COMMIT: return text_replace(text, line, length, "", 0);
  case WEAKEN_WAIT: {
    const char *place = find_in_line(line, length, "wait_group") + strlen("wait_group");
    return number_add(text, place + strspn(place, " \t"), 1, "");
  }
  case SHIFT_MATRIX: {
    size_t size;
    const char *place = address_register(line, length, &size);
    ck_assert_ptr_nonnull(place);
    place += size;
    return number_add(text, place + (*place == '+'), 16, "+");
  }
  case SWAP_INDEX: return swap_index(text, line, length);
  case MOVE_BOUND: {
    const char *place = bound_word(line, length);
    return text_replace(text, place + 1, 1, place[1] == 't' ? "e" : "t", 1);
  }
  case MUTATIONS: break;
  }
  return NULL;
}

/* The text with a trap in front of the line: it faults where the line is reached at all. */
static inline char *trap_before(const char *text, uint32_t line_number)
{
  size_t length;
  const char *line = line_find(text, line_number, &length);
  return text_replace(text, line, 0, "trap; ", strlen("trap; "));
}

/* With a trap where the two sides of the line's comparison are equal: only there does a moved bound
 * mean something else. */
static inline char *trap_on_equal(const char *text, uint32_t line_number)
{
  size_t length;
  char guard[256];
  const char *line = line_find(text, line_number, &length);
  const char *type = bound_word(line, length) + strlen("lt.");
  const char *predicate = strchr(type, '%'), *sides = strchr(type, ',') + 1;
  const int type_length = (int)strcspn(type, " \t"), sides_length = (int)strcspn(sides, ";");
  const int predicate_length = (int)strcspn(predicate, ",");
  const int guard_length =
      snprintf(guard, sizeof(guard), "setp.eq.%.*s %.*s,%.*s; @%.*s trap; ", type_length, type,
               predicate_length, predicate, sides_length, sides, predicate_length, predicate);
  ck_assert(guard_length > 0 && (size_t)guard_length < sizeof(guard));
  return text_replace(text, line, 0, guard, (size_t)guard_length);
}

/* With a trap where the line's address is not what a swapped index would make it: without one, both
 * registers hold the same. NULL where there is nothing to swap with. */
static inline char *trap_on_other_index(const char *text, uint32_t line_number)
{
  size_t length, size, other_size;
  char guard[256];
  const char *line = line_find(text, line_number, &length);
  const char *place = address_register(line, length, &size);
  const char *other = other_register(text, line, length, &other_size);
  if (other == NULL)
    return NULL;
  const int guard_length =
      snprintf(guard, sizeof(guard),
               "{ .reg .pred %%other; setp.ne.b%d %%other, %.*s, %.*s; "
               "@%%other trap; } ",
               place[2] == 'd' ? 64 : 32, (int)size, place, (int)other_size, other);
  ck_assert(guard_length > 0 && (size_t)guard_length < sizeof(guard));
  return text_replace(text, line, 0, guard, (size_t)guard_length);
}

#endif
