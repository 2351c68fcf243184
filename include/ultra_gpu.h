/* Finds the driver of NVIDIA's or AMD's GPUs with the system's loader, for `ultra_gpu.load`:
 *
 *     ultra_gpu_host host = ultra_gpu_driver();
 *     int32_t status = gpu->load(state, &host, 0, &error);
 *
 * and captures calls into graphs. Link with -ldl where the C library keeps dlopen apart.
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

/* A call as a graph of the driver's, which `ultra_gpu_replay` launches at once instead of copy by copy and kernel by kernel. */
typedef struct ultra_gpu_graph {
  /* CUgraphExec or hipGraphExec_t; null where there is none. */
  void *executable;
  int32_t (*launch)(void *executable, void *stream);
  int32_t (*destroy)(void *executable);
  const char *launch_name;
  const char *destroy_name;
} ultra_gpu_graph;

/* The status that a driver's function stands for, told to `error` where there is one. */
static inline int32_t ultra_gpu_status(ultra_gpu_error *error, int32_t status, int32_t driver_status,
                                       const char *function) {
  if (error != NULL && error->struct_size >= sizeof(ultra_gpu_error)) {
    error->status = status;
    error->driver_status = driver_status;
    error->reserved = 0;
    error->function = function;
    error->kernel = NULL;
  }
  return status;
}

/* Captures what `entry->run(call)` puts on `call->stream`, which may not be the default one, into `graph`; nothing of it runs. In the
 * thread and the context of the stream, with the `host` that `load` was given. Returns what `run` does, or ULTRA_DRIVER_FAILED and
 * ULTRA_NO_DRIVER with the function in `call->error`. After a failure the stream captures no more and nothing is left behind.
 *
 * The graph keeps addresses and sizes. Until `ultra_gpu_release` the state, both workspaces, inputs and outputs stay where they are, the
 * host's of them in memory that the driver has pinned, and no other call has these workspaces. Before each replay, numbers of the
 * inputs may be others, on the host too, but for offsets and counts of targets: what follows from those is in the host's
 * workspace and in the sizes of launches. A replay checks nothing: ids must be such as a call accepts. */
static inline int32_t ultra_gpu_capture(const ultra_gpu *gpu, const ultra_gpu_entry *entry, const ultra_gpu_host *host,
                                        const ultra_gpu_call *call, ultra_gpu_graph *graph) {
  static const char *const cuda[] = {"cuStreamBeginCapture_v2", "cuStreamEndCapture", "cuGraphInstantiateWithFlags",
                                     "cuGraphDestroy",          "cuGraphLaunch",      "cuGraphExecDestroy"};
  static const char *const hip[] = {"hipStreamBeginCapture", "hipStreamEndCapture", "hipGraphInstantiateWithFlags",
                                    "hipGraphDestroy",       "hipGraphLaunch",      "hipGraphExecDestroy"};
  /* CU_STREAM_CAPTURE_MODE_THREAD_LOCAL, as HIP's: what other threads do meanwhile is theirs. */
  const int thread_local_mode = 1;
  int32_t (*begin)(void *, int);
  int32_t (*end)(void *, void **);
  int32_t (*instantiate)(void **, void *, unsigned long long);
  int32_t (*discard)(void *);
  void *found[6];
  void *captured = NULL;
  int32_t status, driver_status;
  if (gpu == NULL || entry == NULL || host == NULL || host->find == NULL || call == NULL || call->stream == NULL ||
      graph == NULL) {
    return ULTRA_BAD_CALL;
  }
  graph->executable = NULL;
  const char *const *names = gpu->target[0] == 'g' ? hip : cuda;
  for (int index = 0; index < 6; index++) {
    found[index] = host->find(host->context, names[index]);
    if (found[index] == NULL) return ultra_gpu_status(call->error, ULTRA_NO_DRIVER, 0, names[index]);
  }
  *(void **)(&begin) = found[0];
  *(void **)(&end) = found[1];
  *(void **)(&instantiate) = found[2];
  *(void **)(&discard) = found[3];
  *(void **)(&graph->launch) = found[4];
  *(void **)(&graph->destroy) = found[5];
  graph->launch_name = names[4];
  graph->destroy_name = names[5];

  driver_status = begin(call->stream, thread_local_mode);
  if (driver_status != 0) return ultra_gpu_status(call->error, ULTRA_DRIVER_FAILED, driver_status, names[0]);
  status = entry->run(call);
  driver_status = end(call->stream, &captured);
  if (status == ULTRA_OK && driver_status != 0) {
    status = ultra_gpu_status(call->error, ULTRA_DRIVER_FAILED, driver_status, names[1]);
  }
  if (status == ULTRA_OK) {
    driver_status = instantiate(&graph->executable, captured, 0);
    if (driver_status != 0) {
      graph->executable = NULL;
      status = ultra_gpu_status(call->error, ULTRA_DRIVER_FAILED, driver_status, names[2]);
    }
  }
  if (captured != NULL) {
    driver_status = discard(captured);
    if (status == ULTRA_OK && driver_status != 0) {
      graph->destroy(graph->executable);
      graph->executable = NULL;
      status = ultra_gpu_status(call->error, ULTRA_DRIVER_FAILED, driver_status, names[3]);
    }
  }
  return status;
}

/* Puts the captured call on a stream, with what its inputs hold when it comes to run. `error` may be null. */
static inline int32_t ultra_gpu_replay(const ultra_gpu_graph *graph, void *stream, ultra_gpu_error *error) {
  if (graph == NULL || graph->executable == NULL) return ULTRA_BAD_CALL;
  int32_t driver_status = graph->launch(graph->executable, stream);
  if (driver_status == 0) return ULTRA_OK;
  return ultra_gpu_status(error, ULTRA_DRIVER_FAILED, driver_status, graph->launch_name);
}

/* Gives back what `ultra_gpu_capture` took; of nothing does nothing. No replay may be running. `error` may be null. */
static inline int32_t ultra_gpu_release(ultra_gpu_graph *graph, ultra_gpu_error *error) {
  if (graph == NULL || graph->executable == NULL) return ULTRA_OK;
  int32_t driver_status = graph->destroy(graph->executable);
  graph->executable = NULL;
  if (driver_status == 0) return ULTRA_OK;
  return ultra_gpu_status(error, ULTRA_DRIVER_FAILED, driver_status, graph->destroy_name);
}

#ifdef __cplusplus
}
#endif

#endif
