/* What code for this machine depends on, without asking LLVM, which need not be loaded. */
#include "compiler/schedule/host_tiles.h"
#include "compiler/target/host/host.h"

#include <llvm/Config/llvm-config.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

static char wanted_cpu[32];
static pthread_once_t wanted_once = PTHREAD_ONCE_INIT;

/* Too long a name is no level's; its beginning is not one either. */
static void read_wanted_cpu(void)
{
  const char *given = getenv("ATTN_HOST_CPU");
  if (given != NULL)
    snprintf(wanted_cpu, sizeof(wanted_cpu), "%s", given);
}

const char *host_wanted_cpu(void)
{
  pthread_once(&wanted_once, read_wanted_cpu);
  return wanted_cpu[0] == '\0' ? NULL : wanted_cpu;
}

#if defined(__x86_64__)
#include <cpuid.h>

/* The leaves that LLVM derives the processor's name and features from, and their registers that
 * hold no numbers of the one core or of the moment. */
static const struct leaf {
  unsigned leaf, subleaf;
  const char *registers;
} leaves[] = {
    {0x0, 0, "bcd"}, {0x1, 0, "acd"},       {0x7, 0, "bcd"},      {0x7, 1, "abcd"},
    {0xd, 1, "a"},   {0x14, 0, "b"},        {0x19, 0, "b"},       {0x1e, 1, "a"},
    {0x24, 0, "b"},  {0x80000001, 0, "cd"}, {0x80000008, 0, "b"},
};
enum {
  LEAF_COUNT = sizeof(leaves) / sizeof(*leaves),
  IDENTITY_SIZE = 96 + LEAF_COUNT * (4 * 9 + 1) + sizeof(wanted_cpu)
};

static char identity[IDENTITY_SIZE];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void identify(void)
{
  int length = snprintf(identity, sizeof(identity), "host, LLVM %s, x86", LLVM_VERSION_STRING);
  bool saves_registers = false;
  for (size_t n = 0; n < LEAF_COUNT; n++) {
    const struct leaf *l = &leaves[n];
    unsigned values[4] = {0};
    if (__get_cpuid_count(l->leaf, l->subleaf, &values[0], &values[1], &values[2], &values[3]) == 0)
      continue;
    saves_registers = saves_registers || (l->leaf == 1 && (values[2] & (1u << 27)) != 0);
    for (const char *name = l->registers; *name != '\0'; name++)
      length += snprintf(identity + length, sizeof(identity) - (size_t)length, " %x",
                         values[*name - 'a']);
    length += snprintf(identity + length, sizeof(identity) - (size_t)length, ";");
  }
  if (saves_registers) { /* which vector registers the system keeps */
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    length += snprintf(identity + length, sizeof(identity) - (size_t)length, " %x", low);
  }
  length += snprintf(identity + length, sizeof(identity) - (size_t)length, " L2 %zu",
                     host_second_level_cache());
  if (host_wanted_cpu() != NULL)
    snprintf(identity + length, sizeof(identity) - (size_t)length, " %s", host_wanted_cpu());
}

const char *host_identity(void)
{
  pthread_once(&once, identify);
  return identity;
}
#else
const char *host_identity(void)
{
  return NULL;
}
#endif
