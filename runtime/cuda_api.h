/* The CUDA Driver API without a CUDA header and without a link to libcuda, which is opened when the
 * first device is asked for. Calls go through the table `cuda`: cuda.allocate(&address, bytes) is
 * cuMemAlloc_v2. Types are our own; values are those of NVIDIA's cuda.h, which are part of the
 * driver's binary interface. */
#ifndef ATTN_RUNTIME_CUDA_API_H
#define ATTN_RUNTIME_CUDA_API_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The results that the runtime tells apart. */
enum cuda_result_value {
  CUDA_OK = 0,
  CUDA_INVALID_VALUE = 1,
  CUDA_OUT_OF_MEMORY = 2,
  CUDA_STUB_LIBRARY = 34,
  CUDA_NO_DEVICE = 100,
  CUDA_INVALID_IMAGE = 200,
  CUDA_NO_BINARY_FOR_GPU = 209,
  CUDA_INVALID_PTX = 218,
  CUDA_UNSUPPORTED_PTX_VERSION = 222,
  CUDA_NOT_FOUND = 500
};
typedef int cuda_result; /* an enum cuda_result_value, or another */

typedef int cuda_ordinal;      /* CUdevice */
typedef uint64_t cuda_address; /* CUdeviceptr */
struct cuda_context;
struct cuda_module;
struct cuda_function;
struct cuda_stream; /* NULL: the context's legacy default stream */
struct cuda_event;
struct cuda_link;

/* CU_STREAM_PER_THREAD: one handle for as many streams as there are threads. */
#define CUDA_STREAM_PER_THREAD ((struct cuda_stream *)(uintptr_t)2)

enum cuda_attribute {
  CUDA_MULTIPROCESSOR_COUNT = 16,
  CUDA_CAPABILITY_MAJOR = 75,
  CUDA_CAPABILITY_MINOR = 76,
  CUDA_MAX_SHARED_OPTIN = 97 /* bytes of shared memory that a block can have at most */
};
enum cuda_pointer_attribute { CUDA_POINTER_MEMORY_TYPE = 2, CUDA_POINTER_ORDINAL = 9 };
enum cuda_memory_type { CUDA_MEMORY_HOST = 1, CUDA_MEMORY_DEVICE = 2 };
enum cuda_function_attribute { CUDA_FUNCTION_MAX_DYNAMIC_SHARED = 8 };
enum cuda_jit_option {
  CUDA_JIT_INFO_LOG = 3,
  CUDA_JIT_INFO_LOG_SIZE = 4,
  CUDA_JIT_ERROR_LOG = 5,
  CUDA_JIT_ERROR_LOG_SIZE = 6
};
enum cuda_jit_input { CUDA_JIT_PTX = 1 };

struct cuda_api {
#define CUDA_CALL(member, symbol, parameters) cuda_result(*member) parameters;
#include "runtime/cuda_api.def"
#undef CUDA_CALL
};
extern struct cuda_api cuda; /* all NULL until cuda_api_load has succeeded, constant from then on */

/* CUDA 11.4, as cuDriverGetVersion counts: 1000 times the major version and 10 times the minor. */
enum { CUDA_LEAST_VERSION = 11040 };

/* Loads the library, once a process: the file that the environment's ATTN_CUDA_LIBRARY names, else
 * libcuda.so.1 where the system's loader finds it; and initialises it. NULL when it can be called,
 * else what is wrong and what to do about it (static; the same for every later call). Any thread
 * may call it. */
const char *cuda_api_load(void);

/* What cuDriverGetVersion said. */
int cuda_api_version(void);

#endif
