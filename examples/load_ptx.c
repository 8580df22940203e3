/* Launches a kernel with nothing but NVIDIA's driver: PTX, and the header that says how, were made
 * before.
 *
 *     attnc compile causal.attn --target sm_80 --emit ptx    -o causal.ptx
 *     attnc compile causal.attn --target sm_80 --emit header -o causal_launch.h
 *     cc load_ptx.c -ldl -lm
 *     ./a.out causal.ptx
 *
 * ATTN_CUDA_LIBRARY in the environment names another library than libcuda.so.1.
 */
#include "causal_launch.h"

#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HEADS = 8, LENGTH = 70, DIM = 64, COUNT = HEADS * LENGTH * DIM };

/* The functions of the driver API that are called; every one returns 0 when it succeeds. */
static struct {
  int (*init)(unsigned);
  int (*device_get)(int *, int);
  int (*context_retain)(void **, int);
  int (*context_release)(int);
  int (*context_set)(void *);
  int (*module_load)(void **, const void *);
  int (*module_unload)(void *);
  int (*function_get)(void **, void *, const char *);
  int (*function_set)(void *, int, int);
  int (*allocate)(uint64_t *, size_t);
  int (*release)(uint64_t);
  int (*upload)(uint64_t, const void *, size_t);
  int (*download)(void *, uint64_t, size_t);
  int (*launch)(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                void *, void **, void **);
} cu;

static int open_driver(void)
{
  const struct {
    const char *name;
    void *target;
  } wanted[] = {{"cuInit", &cu.init},
                {"cuDeviceGet", &cu.device_get},
                {"cuDevicePrimaryCtxRetain", &cu.context_retain},
                {"cuDevicePrimaryCtxRelease_v2", &cu.context_release},
                {"cuCtxSetCurrent", &cu.context_set},
                {"cuModuleLoadData", &cu.module_load},
                {"cuModuleUnload", &cu.module_unload},
                {"cuModuleGetFunction", &cu.function_get},
                {"cuFuncSetAttribute", &cu.function_set},
                {"cuMemAlloc_v2", &cu.allocate},
                {"cuMemFree_v2", &cu.release},
                {"cuMemcpyHtoD_v2", &cu.upload},
                {"cuMemcpyDtoH_v2", &cu.download},
                {"cuLaunchKernel", &cu.launch}};
  const char *path = getenv("ATTN_CUDA_LIBRARY");
  void *library = dlopen(path != NULL ? path : "libcuda.so.1", RTLD_NOW);
  if (library == NULL) {
    fprintf(stderr, "%s\n", dlerror());
    return 0;
  }
  for (size_t k = 0; k < sizeof(wanted) / sizeof(wanted[0]); k++) {
    void *symbol = dlsym(library, wanted[k].name);
    if (symbol == NULL) {
      fprintf(stderr, "the driver has no %s\n", wanted[k].name);
      return 0;
    }
    memcpy(wanted[k].target, &symbol, sizeof(symbol));
  }
  return 1;
}

static void check(int result, const char *what)
{
  if (result == 0)
    return;
  fprintf(stderr, "%s: CUDA error %d\n", what, result);
  exit(EXIT_FAILURE);
}

static char *read_file(const char *path)
{
  enum { MOST = 1 << 24 };
  FILE *file = fopen(path, "rb");
  char *text = malloc(MOST + 1);
  if (file == NULL || text == NULL) {
    fprintf(stderr, "cannot read %s\n", path);
    exit(EXIT_FAILURE);
  }
  text[fread(text, 1, MOST, file)] = '\0'; /* PTX ends with a zero */
  fclose(file);
  return text;
}

/* ---- tensors: [1, HEADS, LENGTH, DIM] without gaps ---- */

static float q[COUNT], k[COUNT], v[COUNT], o[COUNT];

static uint64_t place(const void *data, size_t bytes)
{
  uint64_t address;
  check(cu.allocate(&address, bytes), "cuMemAlloc");
  check(cu.upload(address, data, bytes), "cuMemcpyHtoD");
  return address;
}

/* The tensors of a struct of the header all look like this; their type has no name. */
#define BIND(TENSOR, DATA)                                                                         \
  do {                                                                                             \
    const int64_t sizes[] = {1, HEADS, LENGTH, DIM};                                               \
    const int64_t strides[] = {COUNT, LENGTH * DIM, DIM, 1};                                       \
    (TENSOR).data = place(DATA, sizeof(DATA));                                                     \
    memcpy((TENSOR).sizes, sizes, sizeof(sizes));                                                  \
    memcpy((TENSOR).strides, strides, sizeof(strides));                                            \
  } while (0)

/* ---- the same in plain C ---- */

static double exact(int head, int row, int channel)
{
  double sum = 0, result = 0;
  for (int j = 0; j <= row; j++) {
    double score = 0;
    for (int c = 0; c < DIM; c++)
      score += (double)q[(head * LENGTH + row) * DIM + c] * k[(head * LENGTH + j) * DIM + c];
    double weight = exp(score / sqrt(DIM));
    sum += weight;
    result += weight * v[(head * LENGTH + j) * DIM + channel];
  }
  return result / sum;
}

int main(int argc, char **argv)
{
  void *context, *module, *function;
  int device;
  if (argc != 2) {
    fprintf(stderr, "usage: load_ptx FILE.ptx\n");
    return 2;
  }
  if (!open_driver())
    return EXIT_FAILURE;
  check(cu.init(0), "cuInit");
  check(cu.device_get(&device, 0), "cuDeviceGet");
  check(cu.context_retain(&context, device), "cuDevicePrimaryCtxRetain");
  check(cu.context_set(context), "cuCtxSetCurrent");
  char *ptx = read_file(argv[1]);
  check(cu.module_load(&module, ptx), "cuModuleLoadData");
  free(ptx);
  check(cu.function_get(&function, module, "forward"), "cuModuleGetFunction");
  const int max_dynamic_shared = 8; /* CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES */
  check(cu.function_set(function, max_dynamic_shared, CAUSAL_ATTENTION_FORWARD_SHARED),
        "cuFuncSetAttribute");

  for (int n = 0; n < COUNT; n++) {
    q[n] = (float)((n * 37 + 11) % 101 - 50) / 40.0f;
    k[n] = (float)((n * 53 + 29) % 103 - 51) / 40.0f;
    v[n] = (float)((n * 71 + 5) % 107 - 53) / 40.0f;
  }
  struct causal_attention_forward arguments = {.B = 1, .NQ = LENGTH, .NK = LENGTH};
  const char no_fault[16] = {0};
  BIND(arguments.q, q);
  BIND(arguments.k, k);
  BIND(arguments.v, v);
  BIND(arguments.o, o);
  arguments.attn_fault = place(no_fault, sizeof(no_fault));
  void *parameters[] = {&arguments};
  unsigned blocks = (unsigned)causal_attention_forward_blocks(&arguments);
  check(cu.launch(function, blocks, 1, 1, CAUSAL_ATTENTION_FORWARD_THREADS, 1, 1,
                  CAUSAL_ATTENTION_FORWARD_SHARED, NULL, parameters, NULL),
        "cuLaunchKernel");
  check(cu.download(o, arguments.o.data, sizeof(o)), "cuMemcpyDtoH");

  double worst = 0;
  for (int row = 0; row < LENGTH; row++)
    for (int head = 0; head < HEADS; head++) {
      int channel = (row * 7 + head) % DIM;
      double off = fabs(o[(head * LENGTH + row) * DIM + channel] - exact(head, row, channel));
      worst = off > worst || isnan(off) ? off : worst;
    }
  printf("%u blocks of %d threads; off by %.1e at most\n", blocks, CAUSAL_ATTENTION_FORWARD_THREADS,
         worst);

  const uint64_t addresses[] = {arguments.q.data, arguments.k.data, arguments.v.data,
                                arguments.o.data, arguments.attn_fault};
  for (size_t n = 0; n < sizeof(addresses) / sizeof(addresses[0]); n++)
    check(cu.release(addresses[n]), "cuMemFree");
  check(cu.module_unload(module), "cuModuleUnload");
  check(cu.context_release(device), "cuDevicePrimaryCtxRelease");
  return worst < 1e-4 ? EXIT_SUCCESS : EXIT_FAILURE; /* false for NaN, too */
}
