/* A launch: blocks one after another, the warps of each in a random order that the seed gives. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/device/ptx_machine.h"

/* More than any kernel's warp executes; one that does waits for what never comes. */
static const uint64_t MAX_WARP_STEPS = UINT64_C(1) << 26;

uint64_t ptx_random(struct ptx_block *block)
{
  /* splitmix64, Steele, Lea, Flood 2014 */
  uint64_t z = block->random += UINT64_C(0x9e3779b97f4a7c15);
  z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
  z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
  return z ^ (z >> 31);
}

/* The text of an instruction on one line. */
static void copy_instruction(const struct ptx_op *op, char *to, size_t size)
{
  size_t n = 0;
  for (uint32_t k = 0; k < op->text_length && n + 2 < size; k++) {
    const char c = op->text[k];
    const bool blank = c == ' ' || c == '\t' || c == '\n' || c == '\r';
    if (!blank) {
      to[n++] = c;
    } else if (n > 0 && to[n - 1] != ' ') {
      to[n++] = ' ';
    }
  }
  to[n] = '\0';
}

enum ptx_step ptx_raise(struct ptx_warp *warp, const struct ptx_op *op, uint32_t lane,
                        enum device_fault_kind kind, const char *format, ...)
{
  struct device_fault *fault = warp->block->fault;
  char what[240], instruction[100];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(what, sizeof(what), format, arguments);
  va_end(arguments);
  copy_instruction(op, instruction, sizeof(instruction));
  fault->kind = kind;
  memcpy(fault->block, warp->block->id, sizeof(fault->block));
  fault->thread = warp->index * PTX_LANES + lane;
  fault->line = op->line;
  snprintf(fault->text, sizeof(fault->text), "%s: %s", instruction, what);
  return PTX_FAULT;
}

/* ---- warps ---- */

static bool at_end(const struct ptx_path *path)
{
  return path->mask == 0 || path->pc == path->join;
}

/* Runs a warp for a number of instructions, or until it waits or ends. */
static enum ptx_step run_warp(struct ptx_warp *warp, uint64_t budget)
{
  uint64_t steps = 0;
  enum ptx_step step = PTX_NEXT;
  while (step != PTX_FAULT && warp->state == PTX_READY && steps < budget) {
    struct ptx_path *path = ptx_path(warp);
    const struct ptx_op *op = &warp->frame->function->ops[path->pc];
    uint32_t mask = path->mask;
    if (op->guard >= 0) {
      mask &= ptx_predicate_mask(warp, op->guard, op->guard_negated);
    }
    steps++;
    step = mask == 0 ? PTX_NEXT : op->execute(warp, op, mask);
    if (step == PTX_NEXT || step == PTX_WAIT) {
      path->pc++;
    }
    if (step == PTX_JUMP || at_end(path)) {
      ptx_settle(warp);
    }
  }
  warp->block->counts->instructions += steps;
  warp->steps += steps;
  return step;
}

/* Fills in what a warp is at the start of a block. */
static bool start_warp(struct ptx_block *block, struct ptx_warp *warp, uint32_t index)
{
  const uint32_t threads = block->thread_count - index * PTX_LANES;
  warp->block = block;
  warp->index = index;
  warp->lanes = threads >= PTX_LANES ? UINT32_MAX : (UINT32_C(1) << threads) - 1;
  warp->alive = warp->lanes;
  warp->state = PTX_READY;
  warp->carry = warp->depth = 0;
  warp->steps = 0;
  warp->copy_count = 0;
  memset(warp->group, 0, sizeof(warp->group));
  memset(warp->clock, 0, sizeof(warp->clock));
  warp->clock[index] = 1;
  return ptx_enter(warp, block->entry, NULL, warp->alive);
}

static void free_frames(struct ptx_frame *frame)
{
  while (frame != NULL) {
    struct ptx_frame *next = frame->caller;
    ptx_free_frame(frame);
    frame = next;
  }
}

static void free_warp(struct ptx_warp *warp)
{
  free_frames(warp->frame);
  free_frames(warp->left);
  for (uint32_t lane = 0; lane < PTX_LANES; lane++) {
    free(warp->local[lane]);
  }
  free(warp->copies);
}

/* ---- blocks ---- */

static enum ptx_step raise_deadlock(struct ptx_block *block)
{
  struct ptx_warp *first = NULL;
  uint32_t waiting = 0, done = 0;
  for (uint32_t k = 0; k < block->warp_count; k++) {
    waiting += block->warps[k].state == PTX_WAITING;
    done += block->warps[k].state == PTX_DONE;
    first = first == NULL && block->warps[k].state == PTX_WAITING ? &block->warps[k] : first;
  }
  const struct ptx_barrier *barrier = &block->barriers[first->waits_for];
  return ptx_raise(first, first->waits_at, 0, DEVICE_DEADLOCK,
                   "barrier %u has %u threads of %u; %u warps wait, %u have ended, none can go on",
                   first->waits_for, barrier->arrived,
                   barrier->threads != 0 ? barrier->threads : block->thread_count, waiting, done);
}

/* A random warp that can go on; NULL when there is none. */
static struct ptx_warp *choose_warp(struct ptx_block *block)
{
  uint32_t ready[PTX_MAX_WARPS], count = 0;
  for (uint32_t k = 0; k < block->warp_count; k++) {
    if (block->warps[k].state == PTX_READY) {
      ready[count++] = k;
    }
  }
  return count == 0 ? NULL : &block->warps[ready[ptx_random(block) % count]];
}

static bool all_done(const struct ptx_block *block)
{
  for (uint32_t k = 0; k < block->warp_count; k++) {
    if (block->warps[k].state != PTX_DONE) {
      return false;
    }
  }
  return true;
}

/* Mostly short turns, and now and then one that lets a warp run far ahead. */
static uint64_t turn(struct ptx_block *block)
{
  const uint64_t random = ptx_random(block);
  return UINT64_C(1) << (random % 16);
}

static bool run_block(struct ptx_block *block)
{
  memset(block->cells, 0, block->shared_bytes * sizeof(*block->cells));
  memset(block->stamps, 0, block->shared_bytes * sizeof(*block->stamps));
  memset(block->shared, 0xff, block->shared_bytes);
  memset(block->barriers, 0, sizeof(block->barriers));
  block->stamp = 0;
  for (uint32_t k = 0; k < block->warp_count; k++) {
    memset(block->reads[k], 0, block->shared_bytes * sizeof(*block->reads[k]));
    if (!start_warp(block, &block->warps[k], k)) {
      block->fault->kind = DEVICE_UNSUPPORTED;
      snprintf(block->fault->text, sizeof(block->fault->text), "no memory on the host");
      return false;
    }
  }
  while (!all_done(block)) {
    struct ptx_warp *warp = choose_warp(block);
    if (warp == NULL) {
      return raise_deadlock(block) != PTX_FAULT;
    }
    const struct ptx_op *op = &warp->frame->function->ops[ptx_path(warp)->pc];
    if (run_warp(warp, turn(block)) == PTX_FAULT) {
      return false;
    }
    const uint64_t limit = block->launch->warp_limit;
    if (warp->steps > (limit == 0 ? MAX_WARP_STEPS : limit)) {
      return ptx_raise(warp, op, 0, DEVICE_DEADLOCK, "a loop without end") != PTX_FAULT;
    }
    if (warp->state == PTX_DONE) {
      ptx_open_barriers(block);
    }
    ptx_move_some_copies(warp);
  }
  block->counts->blocks++;
  return true;
}

/* ---- launches ---- */

static bool allocate_block(struct ptx_block *block)
{
  const struct ptx_launch *launch = block->launch;
  const struct ptx_function *entry = block->entry;
  block->static_start = (launch->dynamic_shared + 15) & ~15u;
  block->shared_bytes = block->static_start + entry->module->shared_bytes;
  const size_t bytes = block->shared_bytes + 1u;
  block->warps = calloc(block->warp_count, sizeof(*block->warps));
  block->ranges = calloc(entry->module->cache_count + 1u, sizeof(*block->ranges));
  block->params = malloc(entry->param_bytes + 1u);
  block->shared = malloc(bytes);
  block->cells = malloc(bytes * sizeof(*block->cells));
  block->stamps = malloc(bytes * sizeof(*block->stamps));
  bool good = block->warps != NULL && block->ranges != NULL && block->params != NULL &&
              block->shared != NULL && block->cells != NULL && block->stamps != NULL;
  for (uint32_t k = 0; k < block->warp_count; k++) {
    block->reads[k] = malloc(bytes * sizeof(*block->reads[k]));
    good = good && block->reads[k] != NULL;
  }
  if (good && entry->param_bytes > 0) {
    memcpy(block->params, launch->params, entry->param_bytes);
  }
  return good;
}

static void free_block(struct ptx_block *block)
{
  for (uint32_t k = 0; k < block->warp_count; k++) {
    if (block->warps != NULL) {
      free_warp(&block->warps[k]);
    }
    free(block->reads[k]);
  }
  free(block->warps);
  free(block->ranges);
  free(block->params);
  free(block->shared);
  free(block->cells);
  free(block->stamps);
}

static uint64_t greatest_common_divisor(uint64_t a, uint64_t b)
{
  while (b != 0) {
    const uint64_t rest = a % b;
    a = b;
    b = rest;
  }
  return a;
}

/* All blocks, in an order that steps through them by a number without common divisor. */
static bool run_blocks(struct ptx_block *block)
{
  const uint32_t *grid = block->launch->grid;
  const uint64_t count = (uint64_t)grid[0] * grid[1] * grid[2];
  uint64_t stride = 1 + ptx_random(block) % count;
  while (greatest_common_divisor(stride, count) != 1) {
    stride++;
  }
  uint64_t index = ptx_random(block) % count;
  for (uint64_t k = 0; k < count; k++) {
    block->id[0] = (uint32_t)(index % grid[0]);
    block->id[1] = (uint32_t)(index / grid[0] % grid[1]);
    block->id[2] = (uint32_t)(index / grid[0] / grid[1]);
    block->random = block->launch->seed ^ index * UINT64_C(0xd1342543de82ef95);
    if (!run_block(block)) {
      return false;
    }
    index = (index + stride) % count;
  }
  return true;
}

bool ptx_run(const struct ptx_launch *launch, struct device_fault *fault,
             struct device_counts *counts)
{
  const struct ptx_function *entry = launch->entry->function;
  const uint64_t threads = (uint64_t)launch->block[0] * launch->block[1] * launch->block[2];
  struct device_counts uncounted;
  counts = counts != NULL ? counts : &uncounted;
  struct ptx_block block = {.launch = launch,
                            .entry = entry,
                            .fault = fault,
                            .counts = counts,
                            .random = launch->seed,
                            .thread_count = (uint32_t)threads,
                            .warp_count = (uint32_t)((threads + PTX_LANES - 1) / PTX_LANES)};
  memset(fault, 0, sizeof(*fault));
  memset(counts, 0, sizeof(*counts));
  const bool required = entry->required_threads[0] == 0 ||
                        memcmp(entry->required_threads, launch->block, sizeof(launch->block)) == 0;
  if (threads == 0 || threads > entry->max_threads || !required ||
      (uint64_t)launch->grid[0] * launch->grid[1] * launch->grid[2] == 0) {
    fault->kind = DEVICE_UNSUPPORTED;
    snprintf(fault->text, sizeof(fault->text),
             "%llu threads a block, or a grid without blocks: not what entry %s allows",
             (unsigned long long)threads, entry->name);
    return false;
  }
  bool good = allocate_block(&block);
  if (!good) {
    fault->kind = DEVICE_UNSUPPORTED;
    snprintf(fault->text, sizeof(fault->text), "no memory on the host");
  }
  good = good && run_blocks(&block);
  free_block(&block);
  return good;
}
