/* Finds the driver of NVIDIA GPUs with the system's loader, for `ultra_gpu.load`:
 *
 *     ultra_gpu_host host = ultra_gpu_driver();
 *     int32_t status = gpu->load(state, &host, 0, &error);
 *
 * Link with -ldl where the C library keeps dlopen apart.
 */
#ifndef ULTRA_GPU_H
#define ULTRA_GPU_H

#include <dlfcn.h>

#include "ultra.h"

#ifdef __cplusplus
extern "C" {
#endif

static inline void *ultra_gpu_find(void *library, const char *name) { return library ? dlsym(library, name) : NULL; }

/* The driver, if there is one; where there is none, `load` says so. The library stays loaded. */
static inline ultra_gpu_host ultra_gpu_driver(void) {
  ultra_gpu_host host = {sizeof(ultra_gpu_host), 0, ultra_gpu_find, dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL)};
  return host;
}

#ifdef __cplusplus
}
#endif

#endif
