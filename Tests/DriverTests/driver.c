/* Stands in for libcuda.so.1: a card whose memory is the host's and on which kernels do nothing. When the process ends it says how
 * many were launched, and whether anything was left behind. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int launches, modules, pieces, waits;

int cuInit(unsigned flags) { return flags != 0; }
int cuCtxGetCurrent(void **context) { return *context = NULL, 0; }
int cuCtxSetCurrent(void *context) { return context == NULL; }
int cuDeviceGet(int *device, int number) { return *device = number, 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) { return *context = &launches, device; }
/* A card for which there is no machine code, older than the text for "sm_90a": CUDA_ERROR_NO_BINARY_FOR_GPU, CUDA_ERROR_INVALID_PTX. */
int cuModuleLoadData(void **module, const void *image) {
  *module = &modules;
  if (memcmp(image, "\177ELF", 4) == 0) return 209;
  if (strstr(image, ".target sm_90a") != NULL) return 218;
  return modules++, 0;
}
int cuModuleUnload(void *module) { return modules--, module != &modules; }
int cuModuleGetFunction(void **function, void *module, const char *name) {
  return *function = &launches, module != &modules || name[0] == 0;
}
int cuFuncSetAttribute(void *function, int attribute, int value) { return function != &launches || attribute < 0 || value < 0; }
int cuMemAlloc_v2(uint64_t *address, size_t size) {
  *address = (uint64_t)(uintptr_t)aligned_alloc(256, (size + 255) / 256 * 256);
  return *address == 0 ? 2 : (pieces++, 0);
}
int cuMemFree_v2(uint64_t address) { return free((void *)(uintptr_t)address), pieces--, 0; }
int cuMemcpyHtoD_v2(uint64_t target, const void *source, size_t size) {
  return memcpy((void *)(uintptr_t)target, source, size), 0;
}
int cuMemcpyHtoDAsync_v2(uint64_t target, const void *source, size_t size, void *stream) {
  return stream != NULL || cuMemcpyHtoD_v2(target, source, size);
}
int cuMemcpyDtoH_v2(void *target, uint64_t source, size_t size) {
  return memcpy(target, (const void *)(uintptr_t)source, size), waits == 0;
}
int cuMemsetD32Async(uint64_t target, unsigned value, size_t count, void *stream) {
  for (size_t index = 0; index < count; index++) ((unsigned *)(uintptr_t)target)[index] = value;
  return stream != NULL;
}
int cuCtxSynchronize(void) { return waits++, 0; }
int cuLaunchKernel(
    void *function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned ty, unsigned tz, unsigned shared, void *stream,
    void **parameters, void **extra) {
  int fits = x > 0 && y > 0 && z == 1 && threads > 0 && threads <= 1024 && ty == 1 && tz == 1 && shared <= 227 << 10;
  launches++;
  return !fits || function != &launches || stream != NULL || parameters == NULL || extra != NULL;
}

__attribute__((destructor)) static void say(void) {
  printf("%d launches, %d modules and %d pieces of memory left\n", launches, modules, pieces);
}
