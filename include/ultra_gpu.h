/* Finds the driver of NVIDIA's or AMD's GPUs with the system's loader, for `ultra_gpu.load`:
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

/* Names of AMD's functions begin with "hip", NVIDIA's with "cu". */
static inline void *ultra_gpu_find(void *context, const char *name) {
  static const char *const cuda[] = {"libcuda.so.1", NULL};
  static const char *const hip[] = {"libamdhip64.so.7", "libamdhip64.so.6", "libamdhip64.so", NULL};
  (void)context;
  for (const char *const *library = name[0] == 'h' ? hip : cuda; *library != NULL; library++) {
    void *opened = dlopen(*library, RTLD_NOW | RTLD_LOCAL);
    if (opened != NULL) return dlsym(opened, name);
  }
  return NULL;
}

/* The driver, if there is one; where there is none, `load` says so. The library stays loaded. */
static inline ultra_gpu_host ultra_gpu_driver(void) {
  ultra_gpu_host host = {sizeof(ultra_gpu_host), 0, ultra_gpu_find, NULL};
  return host;
}

#ifdef __cplusplus
}
#endif

#endif
