/* What the stand-in says about its devices: those of a GPU of the capability that the settings ask
 * for (CUDA C++ Programming Guide, table of technical specifications). */
#include "tests/device/driver.h"

#include <stdio.h>
#include <string.h>

enum { KIB = 1024, RESERVED_SHARED = 1 * KIB };

static const struct model {
  int capability;           /* the first that it holds for */
  uint32_t shared;          /* KiB of a multiprocessor; a block may have 1 KiB less */
  uint32_t threads, blocks; /* of a multiprocessor */
} models[] = {{80, 164, 2048, 32}, {86, 100, 1536, 16},  {87, 164, 1536, 16}, {89, 100, 1536, 24},
              {90, 228, 2048, 32}, {103, 228, 2048, 32}, {120, 100, 1536, 24}};

static const struct model *model(void)
{
  const int capability = settings_load()->capability;
  size_t i = sizeof(models) / sizeof(models[0]) - 1;
  while (i > 0 && models[i].capability > capability)
    i--;
  return &models[i];
}

uint32_t property_shared_opt_in(void)
{
  return (model()->shared * KIB) - RESERVED_SHARED;
}

uint32_t property_shared_default(void)
{
  return 48 * KIB;
}

int property_ptx_version(void)
{
  static const struct {
    int version, ptx;
  } versions[] = {{11000, 70}, {11010, 71}, {11020, 72}, {11030, 73}, {11040, 74},
                  {11050, 75}, {11060, 76}, {11070, 77}, {11080, 78}, {12000, 80},
                  {12010, 81}, {12020, 82}, {12030, 83}, {12040, 84}, {12050, 85},
                  {12070, 86}, {12080, 87}, {12090, 88}, {13000, 90}};
  int ptx = 65;
  for (size_t i = 0; i < sizeof(versions) / sizeof(versions[0]); i++) {
    if (settings_load()->version >= versions[i].version)
      ptx = versions[i].ptx;
  }
  return ptx;
}

uint32_t property_blocks_per_multiprocessor(uint32_t threads, uint32_t shared)
{
  const uint32_t warps = (threads + 31) / 32;
  const uint32_t by_threads = model()->threads / (32 * warps);
  const uint32_t by_shared = model()->shared * KIB / (shared + RESERVED_SHARED);
  const uint32_t least = by_threads < by_shared ? by_threads : by_shared;
  return least < model()->blocks ? least : model()->blocks;
}

static bool is_device(CUdevice device)
{
  return device >= 0 && (uint32_t)device < settings_load()->devices;
}

CUresult do_cuDeviceGetCount(int *count)
{
  if (count == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  *count = (int)settings_load()->devices;
  return CUDA_SUCCESS;
}

CUresult do_cuDeviceGet(CUdevice *device, int ordinal)
{
  if (device == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  if (!is_device(ordinal))
    return CUDA_ERROR_INVALID_DEVICE;
  *device = ordinal;
  return CUDA_SUCCESS;
}

CUresult do_cuDeviceGetName(char *name, int size, CUdevice device)
{
  if (name == NULL || size <= 0)
    return CUDA_ERROR_INVALID_VALUE;
  if (!is_device(device))
    return CUDA_ERROR_INVALID_DEVICE;
  snprintf(name, (size_t)size, "attnc stand-in device");
  return CUDA_SUCCESS;
}

CUresult do_cuDeviceTotalMem_v2(size_t *bytes, CUdevice device)
{
  if (bytes == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  if (!is_device(device))
    return CUDA_ERROR_INVALID_DEVICE;
  *bytes = settings_load()->memory;
  return CUDA_SUCCESS;
}

CUresult do_cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice device)
{
  if (uuid == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  if (!is_device(device))
    return CUDA_ERROR_INVALID_DEVICE;
  *uuid = (CUuuid){.bytes = "attnc stand-in"};
  uuid->bytes[15] = (char)device;
  return CUDA_SUCCESS;
}

CUresult do_cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device)
{
  if (value == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  if (!is_device(device))
    return CUDA_ERROR_INVALID_DEVICE;
  const struct {
    CUdevice_attribute attribute;
    int value;
  } values[] = {
      {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, 1024},
      {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X, 1024},
      {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y, 1024},
      {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z, 64},
      {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X, INT32_MAX},
      {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y, 65535},
      {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z, 65535},
      {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK, (int)property_shared_default()},
      {CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY, 64 * KIB},
      {CU_DEVICE_ATTRIBUTE_WARP_SIZE, 32},
      {CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK, 65536},
      {CU_DEVICE_ATTRIBUTE_CLOCK_RATE, 1410000},
      {CU_DEVICE_ATTRIBUTE_GPU_OVERLAP, 1},
      {CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 108},
      {CU_DEVICE_ATTRIBUTE_KERNEL_EXEC_TIMEOUT, 0},
      {CU_DEVICE_ATTRIBUTE_INTEGRATED, 0},
      {CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY, 0},
      {CU_DEVICE_ATTRIBUTE_COMPUTE_MODE, 0},
      {CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS, 1},
      {CU_DEVICE_ATTRIBUTE_ECC_ENABLED, 1},
      {CU_DEVICE_ATTRIBUTE_PCI_BUS_ID, device + 1},
      {CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID, 0},
      {CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE, 1215000},
      {CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH, 5120},
      {CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE, 40 * KIB * KIB},
      {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR, (int)model()->threads},
      {CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT, 3},
      {CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING, 1},
      {CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID, 0},
      {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, settings_load()->capability / 10},
      {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, settings_load()->capability % 10},
      {CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED, 0},
      {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR, (int)model()->shared * KIB},
      {CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR, 65536},
      {CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY, 0},
      {CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS, 0},
      {CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS, 0},
      {CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH, 0},
      {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, (int)property_shared_opt_in()},
      {CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR, (int)model()->blocks},
      {CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK, RESERVED_SHARED},
      {CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED, 1},
      {CU_DEVICE_ATTRIBUTE_CLUSTER_LAUNCH, 0},
  };
  for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
    if (values[i].attribute == attribute) {
      *value = values[i].value;
      return CUDA_SUCCESS;
    }
  }
  report_log("cuDeviceGetAttribute: the stand-in does not know attribute %d", attribute);
  return CUDA_ERROR_INVALID_VALUE;
}
