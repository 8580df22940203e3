/* Tokens are linear: what makes one is waited for exactly once on every path, directly or after
 * being carried. Slots go through acquire, fill, commit on one side and wait, read, release on the
 * other; both ends of either stand in one region, so that no path leaves a slot open. */
#include "compiler/tile/verify.h"

#define REJECT(...) tile_reject(v, op, __VA_ARGS__)

enum token_state { TOKEN_NONE, TOKEN_OPEN, TOKEN_DONE };

struct open_slot {
  const struct tile_value *buffer, *slot;
  const struct tile_region *region; /* where it was opened */
  bool filling;                     /* acquired; otherwise waited for */
};

struct buffer_use {
  bool acquired, waited;
};

struct staged {
  struct tile_verifier *v;
  unsigned char *tokens;      /* enum token_state by value id */
  struct buffer_use *buffers; /* by value id */
  VECTOR(uint32_t) spent;     /* tokens in the order in which they were waited for */
  VECTOR(struct open_slot) open;
};

static bool walk(struct staged *s, const struct tile_region *region);

/* ---- tokens ---- */

static bool is_token(const struct tile_value *value)
{
  return value->type.kind == TILE_KIND_TOKEN;
}

static bool spend(struct staged *s, const struct tile_op *op, const struct tile_value *value)
{
  struct tile_verifier *v = s->v;
  if (s->tokens[value->id] != TOKEN_OPEN)
    return REJECT("the token %%%s is awaited twice", value->name);
  s->tokens[value->id] = TOKEN_DONE;
  vector_push(v->arena, &s->spent, value->id);
  return true;
}

/* Only waits and carried values take tokens; operand types see to the other ops. */
static bool spend_operands(struct staged *s, const struct tile_op *op)
{
  for (uint32_t k = 0; k < op->operand_count; k++)
    if (is_token(op->operands[k]) && !spend(s, op, op->operands[k]))
      return false;
  return true;
}

static bool check_spent(struct staged *s, const struct tile_op *op, const struct tile_value *value)
{
  struct tile_verifier *v = s->v;
  return s->tokens[value->id] != TOKEN_OPEN || REJECT("the token %%%s is not awaited", value->name);
}

/* A loop's body runs any number of times: it may not wait for a token from outside. */
static bool walk_loop(struct staged *s, const struct tile_op *op)
{
  struct tile_verifier *v = s->v;
  size_t before = s->spent.count;
  for (uint32_t k = 0; k < op->region_count; k++) {
    const struct tile_region *region = op->regions[k];
    if (!walk(s, region))
      return false;
    /* What is left is what the region made itself: walk() takes that away. */
    if (s->spent.count != before)
      return REJECT("the body waits for a token from outside: carry it");
  }
  return true;
}

static bool walk_if(struct staged *s, const struct tile_op *op)
{
  struct tile_verifier *v = s->v;
  size_t before = s->spent.count;
  if (!walk(s, op->regions[0]))
    return false;
  size_t count = s->spent.count - before;
  uint32_t *first = ARENA_ARRAY(v->arena, uint32_t, count);
  for (size_t k = 0; k < count; k++) {
    first[k] = s->spent.items[before + k];
    s->tokens[first[k]] = TOKEN_OPEN;
  }
  s->spent.count = before;
  if (!walk(s, op->regions[1]))
    return false;
  bool same = s->spent.count - before == count;
  for (size_t k = 0; k < count; k++)
    same = same && s->tokens[first[k]] == TOKEN_DONE;
  return same || REJECT("one branch waits for a token and the other does not");
}

/* ---- slots ---- */

static struct open_slot *find_open(struct staged *s, const struct tile_value *buffer,
                                   const struct tile_value *slot, bool filling)
{
  for (size_t k = 0; k < s->open.count; k++) {
    struct open_slot *open = &s->open.items[k];
    if (open->buffer == buffer && open->slot == slot && open->filling == filling)
      return open;
  }
  return NULL;
}

static bool open_slot(struct staged *s, const struct tile_op *op, bool filling)
{
  struct tile_verifier *v = s->v;
  const struct tile_value *buffer = op->operands[0], *slot = op->operands[1];
  if (find_open(s, buffer, slot, filling) != NULL)
    return REJECT("slot %%%s of %%%s is open already", slot->name, buffer->name);
  struct open_slot open = {buffer, slot, op->parent, filling};
  vector_push(v->arena, &s->open, open);
  return true;
}

static bool close_slot(struct staged *s, const struct tile_op *op, bool filling)
{
  struct tile_verifier *v = s->v;
  struct open_slot *open = find_open(s, op->operands[0], op->operands[1], filling);
  if (open == NULL || open->region != op->parent)
    return REJECT("slot %%%s of %%%s was not %s in this region", op->operands[1]->name,
                  op->operands[0]->name, filling ? "acquired" : "waited for");
  *open = s->open.items[--s->open.count];
  return true;
}

/* A buffer that no pipe op names is guarded by barriers alone. */
static bool use_slot(struct staged *s, const struct tile_op *op, uint32_t first, bool filling)
{
  struct tile_verifier *v = s->v;
  const struct tile_value *buffer = op->operands[first], *slot = op->operands[first + 1];
  bool piped = filling ? s->buffers[buffer->id].acquired : s->buffers[buffer->id].waited;
  return !piped || find_open(s, buffer, slot, filling) != NULL ||
         REJECT("slot %%%s of %%%s is used without being %s", slot->name, buffer->name,
                filling ? "acquired" : "waited for");
}

/* ---- the walk ---- */

static bool walk_regions(struct staged *s, const struct tile_op *op)
{
  switch ((int)op->kind) {
  case TILE_FOR:
  case TILE_FOR_SEGMENTS: return walk_loop(s, op);
  case TILE_IF: return walk_if(s, op);
  }
  for (uint32_t k = 0; k < op->region_count; k++)
    if (!walk(s, op->regions[k]))
      return false;
  return true;
}

static bool walk_op(struct staged *s, const struct tile_op *op)
{
  if (!spend_operands(s, op))
    return false;
  switch ((int)op->kind) {
  case TILE_PIPE_ACQUIRE: return open_slot(s, op, true);
  case TILE_PIPE_COMMIT: return close_slot(s, op, true);
  case TILE_PIPE_WAIT: return open_slot(s, op, false);
  case TILE_PIPE_RELEASE: return close_slot(s, op, false);
  case TILE_COPY_ASYNC: return use_slot(s, op, 0, true);
  case TILE_BUFFER_STORE: return use_slot(s, op, 1, true);
  case TILE_BUFFER_LOAD: return use_slot(s, op, 0, false);
  }
  return walk_regions(s, op);
}

/* Tokens of the region itself leave `spent` again: its parent only asks about those from outside.
 */
static bool walk(struct staged *s, const struct tile_region *region)
{
  struct tile_verifier *v = s->v;
  size_t before = s->spent.count, open = s->open.count;
  for (uint32_t k = 0; k < region->argument_count; k++)
    s->tokens[region->arguments[k]->id] = is_token(region->arguments[k]) ? TOKEN_OPEN : TOKEN_NONE;
  for (const struct tile_op *op = region->first; op != NULL; op = op->next) {
    if (!walk_op(s, op))
      return false;
    for (uint32_t k = 0; k < op->result_count; k++)
      s->tokens[op->results[k]->id] = is_token(op->results[k]) ? TOKEN_OPEN : TOKEN_NONE;
  }
  for (uint32_t k = 0; k < region->argument_count; k++) {
    if (!check_spent(s, region->parent, region->arguments[k]))
      return false;
    s->tokens[region->arguments[k]->id] = TOKEN_NONE;
  }
  for (const struct tile_op *op = region->first; op != NULL; op = op->next) {
    for (uint32_t k = 0; k < op->result_count; k++) {
      if (!check_spent(s, op, op->results[k]))
        return false;
      s->tokens[op->results[k]->id] = TOKEN_NONE;
    }
  }
  if (s->open.count != open)
    return tile_reject(v, region->parent, "slot %%%s of %%%s is left open at the end of its region",
                       s->open.items[s->open.count - 1].slot->name,
                       s->open.items[s->open.count - 1].buffer->name);
  size_t kept = before;
  for (size_t k = before; k < s->spent.count; k++)
    if (s->tokens[s->spent.items[k]] == TOKEN_DONE)
      s->spent.items[kept++] = s->spent.items[k];
  s->spent.count = kept;
  return true;
}

static bool has_staged(const struct tile_region *region)
{
  for (const struct tile_op *op = region->first; op != NULL; op = op->next) {
    if (tile_op_infos[op->kind].level == TILE_LEVEL_STAGED)
      return true;
    for (uint32_t k = 0; k < op->region_count; k++)
      if (has_staged(op->regions[k]))
        return true;
  }
  return false;
}

/* Which buffers have pipe ops is known before the walk, for the sides may come in either order. */
static void note_pipes(struct staged *s, const struct tile_region *region)
{
  for (const struct tile_op *op = region->first; op != NULL; op = op->next) {
    if (op->kind == TILE_PIPE_ACQUIRE)
      s->buffers[op->operands[0]->id].acquired = true;
    if (op->kind == TILE_PIPE_WAIT)
      s->buffers[op->operands[0]->id].waited = true;
    for (uint32_t k = 0; k < op->region_count; k++)
      note_pipes(s, op->regions[k]);
  }
}

static bool check_sides(struct staged *s, const struct tile_region *region)
{
  struct tile_verifier *v = s->v;
  for (const struct tile_op *op = region->first; op != NULL; op = op->next) {
    if (op->kind == TILE_BUFFER) {
      struct buffer_use use = s->buffers[op->results[0]->id];
      if (use.acquired != use.waited)
        return REJECT("slots are %s and never %s", use.acquired ? "committed" : "waited for",
                      use.acquired ? "waited for" : "committed");
    }
    for (uint32_t k = 0; k < op->region_count; k++)
      if (!check_sides(s, op->regions[k]))
        return false;
  }
  return true;
}

bool tile_verify_staged(struct tile_verifier *v)
{
  const struct tile_region *body = v->kernel->body;
  if (!has_staged(body))
    return true;
  struct staged s = {.v = v};
  s.tokens = ARENA_ARRAY(v->arena, unsigned char, v->kernel->value_count);
  s.buffers = ARENA_ARRAY(v->arena, struct buffer_use, v->kernel->value_count);
  note_pipes(&s, body);
  return check_sides(&s, body) && walk(&s, body);
}
