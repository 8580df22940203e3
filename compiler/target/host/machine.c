/* The processor that code is made for, and the register tile that suits it. */
#include "compiler/target/host/host.h"

#include "compiler/target/host/lower.h"

#include <string.h>

/* What ATTN_HOST_CPU may name: the levels of the x86-64 psABI, and what of them the host target
 * asks for. */
static const struct level {
  const char *cpu, *features;
} levels[] = {
    {"x86-64", ""},
    {"x86-64-v2", "+sse4.1"},
    {"x86-64-v3", "+sse4.1,+avx2,+fma,+f16c"},
    {"x86-64-v4", "+sse4.1,+avx2,+fma,+f16c,+avx512f,+avx512bw,+avx512dq,+avx512vl"},
};

static bool has_feature(const char *features, const char *name)
{
  size_t length = strlen(name);
  for (const char *at = strstr(features, name); at != NULL; at = strstr(at + 1, name))
    if ((at == features || at[-1] == ',') && (at[length] == ',' || at[length] == '\0'))
      return true;
  return false;
}

/* Whether `features` has each of the `wanted` ones, which commas separate. */
static bool has_features(const char *features, const char *wanted)
{
  char name[32];
  for (size_t length; *wanted != '\0'; wanted += length + (wanted[length] == ',')) {
    length = strcspn(wanted, ",");
    memcpy(name, wanted, length);
    name[length] = '\0';
    if (!has_feature(features, name))
      return false;
  }
  return true;
}

/* Code for `wanted`, a level that this processor has, instead of for all that it can. */
static void restrict_to(struct arena *arena, struct host_machine *machine, const char *wanted)
{
  for (size_t k = 0; k < sizeof(levels) / sizeof(*levels); k++) {
    if (strcmp(levels[k].cpu, wanted) != 0)
      continue;
    if (strncmp(machine->triple, "x86_64", 6) != 0 ||
        !has_features(machine->features, levels[k].features))
      machine->unavailable = arena_format(
          arena, "ATTN_HOST_CPU is %s, which this processor (%s) is not", wanted, machine->cpu);
    machine->cpu = levels[k].cpu;
    machine->features = levels[k].features;
    return;
  }
  machine->unavailable = arena_format(arena,
                                      "ATTN_HOST_CPU is '%s': it may be x86-64, x86-64-v2, "
                                      "x86-64-v3 or x86-64-v4",
                                      wanted);
}

struct host_machine host_machine_detect(struct arena *arena)
{
  struct host_machine machine = {
      .unavailable = llvm_api_load(), .triple = "", .cpu = "", .features = ""};
  if (machine.unavailable != NULL)
    return machine;
  char *triple = LLVMGetDefaultTargetTriple();
  char *cpu = LLVMGetHostCPUName();
  char *features = LLVMGetHostCPUFeatures();
  machine.triple = arena_strndup(arena, triple, strlen(triple));
  machine.cpu = arena_strndup(arena, cpu, strlen(cpu));
  machine.features = arena_strndup(arena, features, strlen(features));
  LLVMDisposeMessage(triple);
  LLVMDisposeMessage(cpu);
  LLVMDisposeMessage(features);
  if (host_wanted_cpu() != NULL)
    restrict_to(arena, &machine, host_wanted_cpu());
  machine.vector_bits = 128;
  if (has_features(machine.features, "+avx2,+fma"))
    machine.vector_bits = 256;
  if (has_features(machine.features, levels[3].features))
    machine.vector_bits = 512;
  machine.registers =
      machine.vector_bits == 512 || has_feature(machine.features, "+neon") ? 32 : 16;
  const bool other = strncmp(machine.triple, "x86_64", 6) != 0;
  machine.multiplies_and_adds = other || has_feature(machine.features, "+fma");
  machine.converts_halves = other || has_feature(machine.features, "+f16c");
  machine.rounds = other || has_feature(machine.features, "+sse4.1");
  machine.looks_up = machine.vector_bits == 512 && has_feature(machine.features, "+avx512vbmi");
  machine.dots_bf16 = machine.vector_bits == 512 && has_feature(machine.features, "+avx512bf16");
  machine.dots_int8 =
      (machine.vector_bits == 512 && has_feature(machine.features, "+avx512vnni")) ||
      (machine.vector_bits == 256 && has_feature(machine.features, "+avxvnni"));
  return machine;
}

/* ---- the register tile ---- */

/* Cycles for each multiply-add of a product whose register tile holds `columns` columns of
 * `vectors` vectors of rows. A step loads the vectors of the first operand and broadcasts an
 * element of the second for each column; its multiply-adds wait for those of the step before.
 * Panels are as high as the vectors, and where rows see different keys each computes some that it
 * does not need: half of its height and of a tile's width, of a window of 128. */
static double tile_cost(const struct host_machine *machine, uint32_t lanes, uint32_t vectors,
                        uint32_t columns)
{
  const double latency = 4, loads = 2, loop = 0.25, window = 128;
  /* Zen 4 puts 512-bit operations through its 256-bit units in two halves. */
  const bool halves = lanes == 16 && strcmp(machine->cpu, "znver4") == 0;
  double count = (double)vectors * columns, cycles = halves ? count : count / 2;
  if (cycles < (vectors + columns) / loads)
    cycles = (vectors + columns) / loads;
  if (cycles < latency)
    cycles = latency;
  return (cycles + loop) / count * (1 + (lanes * vectors + columns) / (2 * window));
}

const char *host_schedule_is_wrong(const struct schedule *schedule)
{
  uint32_t lanes = schedule->lanes, vectors = schedule->row_vectors,
           columns = schedule->column_registers;
  if (lanes != 0 && lanes != 4 && lanes != 8 && lanes != 16)
    return "a schedule's lanes are 4, 8 or 16";
  if (vectors > HOST_MAX_ROW_VECTORS)
    return "a schedule has 4 row_vectors at most";
  if (columns > HOST_MAX_COLUMN_REGISTERS)
    return "a schedule has 16 column_registers at most";
  if (vectors * columns > EMIT_MAX_CARRIED)
    return "row_vectors times column_registers of a schedule is 32 at most";
  return NULL;
}

void host_schedule_complete(const struct host_machine *machine, struct schedule *schedule)
{
  if (schedule->lanes == 0)
    schedule->lanes = machine->vector_bits / 32;
  /* AVX-512 multiplies by an element of memory, others by one broadcast to a register. */
  const uint32_t broadcast = machine->vector_bits == 512 ? 0 : 1;
  const struct schedule given = *schedule;
  double least = 0;
  for (uint32_t v = 1; v <= HOST_MAX_ROW_VECTORS; v++)
    for (uint32_t c = 1; c <= HOST_MAX_COLUMN_REGISTERS; c++) {
      if ((given.row_vectors != 0 && given.row_vectors != v) ||
          (given.column_registers != 0 && given.column_registers != c))
        continue;
      double cost = tile_cost(machine, schedule->lanes, v, c);
      bool fits = v * c + v + broadcast <= machine->registers && v * c <= EMIT_MAX_CARRIED;
      if (!fits || (least != 0 && cost >= least))
        continue;
      least = cost;
      schedule->row_vectors = v;
      schedule->column_registers = c;
    }
  if (least == 0) { /* only a whole register tile that was asked for does not fit: it spills */
    schedule->row_vectors = given.row_vectors == 0 ? 1 : given.row_vectors;
    schedule->column_registers = given.column_registers == 0 ? 1 : given.column_registers;
  }
}
