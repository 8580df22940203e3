/* attnc targets: what can be compiled for, and on what it would run here. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "compiler/target/host/host.h"
#include "runtime/attnc/common_options.h"
#include "runtime/attnc/json.h"

/* Targets that the language is designed for and this version does not lower to. */
static const struct planned {
  const char *name, *needs;
} planned[] = {
    {"sm_90a", "an NVIDIA GPU of the Hopper family; not lowered yet"},
};
enum { PLANNED_COUNT = sizeof(planned) / sizeof(planned[0]) };

/* The GPUs of this machine. */
enum { MAX_DEVICES = 64 };
struct devices {
  attn_device_info items[MAX_DEVICES];
  size_t count;
  char missing[800]; /* why there are none; "" where there are */
};

static void find_devices(struct devices *devices)
{
  *devices = (struct devices){0};
  attn_status status = attn_device_list(devices->items, MAX_DEVICES, &devices->count,
                                        devices->missing, sizeof(devices->missing));
  if (status == ATTN_OK)
    devices->missing[0] = '\0';
  if (devices->count > MAX_DEVICES)
    devices->count = MAX_DEVICES;
}

static double gibibytes(uint64_t bytes)
{
  return (double)bytes / (double)(1 << 30);
}

static void json_devices(struct json *json, const struct devices *devices)
{
  if (devices->missing[0] != '\0')
    json_text(json, "no_devices", devices->missing);
  json_open(json, "devices", '[');
  for (size_t k = 0; k < devices->count; k++) {
    const attn_device_info *device = &devices->items[k];
    char capability[32], name[32];
    snprintf(capability, sizeof(capability), "%d.%d", device->major, device->minor);
    snprintf(name, sizeof(name), "cuda:%d", device->number);
    json_open(json, NULL, '{');
    json_text(json, "device", name);
    json_text(json, "name", device->name);
    json_text(json, "compute_capability", capability);
    json_bool(json, "supported", device->supported != 0);
    json_integer(json, "multiprocessors", device->multiprocessors);
    json_integer(json, "memory_bytes", (int64_t)device->memory);
    json_close(json, '}');
  }
  json_close(json, ']');
}

static void print_devices(const struct devices *devices)
{
  if (devices->missing[0] != '\0')
    printf("          none here: %s\n", devices->missing);
  for (size_t k = 0; k < devices->count; k++) {
    const attn_device_info *device = &devices->items[k];
    printf("          cuda:%d: %s, compute capability %d.%d%s, %d multiprocessors, %.1f GiB\n",
           device->number, device->name, device->major, device->minor,
           device->supported ? "" : " (not supported)", device->multiprocessors,
           gibibytes(device->memory));
  }
}

static void print_json(const struct host_machine *machine, long processors,
                       const struct devices *devices)
{
  struct json json = {.file = stdout};
  json_open(&json, NULL, '[');
  json_open(&json, NULL, '{');
  json_text(&json, "name", "host");
  json_bool(&json, "available", machine->unavailable == NULL);
  if (machine->unavailable != NULL)
    json_text(&json, "needs", machine->unavailable);
  json_text(&json, "triple", machine->triple);
  json_text(&json, "cpu", machine->cpu);
  json_text(&json, "features", machine->features);
  json_integer(&json, "vector_bits", machine->vector_bits);
  json_integer(&json, "processors", processors);
  json_close(&json, '}');
  json_open(&json, NULL, '{');
  json_text(&json, "name", "sm_80");
  json_bool(&json, "available", machine->unavailable == NULL);
  if (machine->unavailable != NULL)
    json_text(&json, "needs", machine->unavailable);
  json_devices(&json, devices);
  json_close(&json, '}');
  for (size_t k = 0; k < PLANNED_COUNT; k++) {
    json_open(&json, NULL, '{');
    json_text(&json, "name", planned[k].name);
    json_bool(&json, "available", false);
    json_text(&json, "needs", planned[k].needs);
    json_close(&json, '}');
  }
  json_close(&json, ']');
}

/* The features that matter to the code made here, among the hundred that the processor has. */
static void print_features(const char *features)
{
  static const char *const shown[] = {"sse4.2",  "avx",      "avx2",       "fma",        "f16c",
                                      "avx512f", "avx512bw", "avx512vnni", "avx512bf16", "amx-bf16",
                                      "neon",    "sve",      "fullfp16",   "bf16"};
  for (size_t k = 0; k < sizeof(shown) / sizeof(shown[0]); k++) {
    size_t length = strlen(shown[k]);
    for (const char *at = features; at != NULL && *at != '\0';
         at = strchr(at, ','), at += at != NULL) {
      if (*at == '+' && strncmp(at + 1, shown[k], length) == 0 &&
          (at[1 + length] == ',' || at[1 + length] == '\0'))
        printf(" %s", shown[k]);
    }
  }
}

static void print_table(const struct host_machine *machine, long processors,
                        const struct devices *devices)
{
  if (machine->unavailable != NULL) {
    printf("host      %s\n", machine->unavailable);
  } else {
    printf("host      %s, %ld processors, vectors of %u bits\n", machine->cpu, processors,
           machine->vector_bits);
    printf("          %s:", machine->triple);
    print_features(machine->features);
    printf("\n");
  }
  printf("sm_80     NVIDIA GPUs of compute capability 8.0 and up\n");
  print_devices(devices);
  for (size_t k = 0; k < PLANNED_COUNT; k++)
    printf("%-9s %s\n", planned[k].name, planned[k].needs);
}

enum exit_status command_targets(int argc, char **argv)
{
  bool json = false;
  const struct option options[] = {
      option_json(&json),
  };
  const struct usage usage = {
      .command = "targets",
      .arguments = "[options]",
      .summary = "Lists what specs can be compiled for.",
      .options = options,
      .option_count = 1,
  };
  enum exit_status status;
  if (!options_parse(&usage, &argc, argv, &status))
    return status;
  struct arena arena;
  arena_init(&arena);
  if (arena_guard(&arena)) {
    arena_free(&arena);
    return fail_memory();
  }
  struct host_machine machine = host_machine_detect(&arena);
  long processors = sysconf(_SC_NPROCESSORS_ONLN);
  struct devices devices;
  find_devices(&devices);
  if (json)
    print_json(&machine, processors, &devices);
  else
    print_table(&machine, processors, &devices);
  arena_free(&arena);
  return EXIT_FINE;
}
