/* The contract of a compiled model (.ultra): what a server needs to load and call it.
 *
 * An artifact is an ELF shared object with no dependencies. It exports one function, ultra_model_v1, which returns a
 * constant table for the machine it runs on. The caller owns all memory and all threads: nothing here allocates, locks,
 * logs or keeps state, and one table serves any number of threads at once.
 *
 *     void *file = dlopen("model.ultra", RTLD_NOW | RTLD_LOCAL);
 *     const ultra_model *model = ultra_open(dlsym(file, ULTRA_MODEL_SYMBOL));
 *     const ultra_entry *forward = &model->entries[0];
 *     size_t need = forward->workspace_size(dimensions, 1);
 *     int32_t status = forward->run(&call);
 *
 * Structs that the caller fills begin with their size, so that older callers keep working with newer artifacts.
 */
#ifndef ULTRA_H
#define ULTRA_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ULTRA_ABI_VERSION 1u
#define ULTRA_MODEL_SYMBOL "ultra_model_v1"
/* Alignment of the workspace, in bytes. Inputs and outputs need only the alignment of their elements. */
#define ULTRA_WORKSPACE_ALIGNMENT 64u

/* What a call returned. */
enum ultra_status {
  ULTRA_OK = 0,
  /* A struct's size or a pointer of the call itself is not as the ABI version says. */
  ULTRA_BAD_CALL = 1,
  /* `input_count` or `output_count` is not the entry's; `found` and `expected` say. */
  ULTRA_BAD_ARGUMENT_COUNT = 2,
  /* A dimension is negative or too large; `argument` is its index. */
  ULTRA_BAD_DIMENSION = 3,
  /* Input `argument` has no data, or `found` elements where the dimensions make it `expected`. */
  ULTRA_BAD_INPUT = 4,
  /* Output `argument` has no data, or room for `found` elements where `expected` will be written. */
  ULTRA_BAD_OUTPUT = 5,
  /* The workspace is null, not aligned, or `found` bytes where `expected` are needed. */
  ULTRA_BAD_WORKSPACE = 6,
  /* Offsets input `argument`: entry `position` is `found`, but must be `expected` (first and last entry), or at least
   * `expected` (elsewhere). */
  ULTRA_BAD_OFFSETS = 7,
  /* Target counts input `argument`: entry `position` is `found`, outside 0...`expected`. */
  ULTRA_BAD_TARGETS = 8,
  /* Ids input `argument`: entry `position` is `found`, outside 0..<`expected`. */
  ULTRA_ID_OUT_OF_RANGE = 9,
  /* Sequence `position` has `found` rows; the model takes at most `expected`. */
  ULTRA_SEQUENCE_TOO_LONG = 10,
  /* A GPU's driver has no function `ultra_gpu_error.function`, or there is no driver. */
  ULTRA_NO_DRIVER = 11,
  /* A GPU's driver refused `ultra_gpu_error.function` with `driver_status`. */
  ULTRA_DRIVER_FAILED = 12
};

/* One input or output: dense, row-major, little-endian elements of the type that the manifest gives. */
typedef struct ultra_tensor {
  /* Inputs are only read. May be null where `count` is 0. */
  void *data;
  /* Elements at `data`. Of an input: exactly those of its shape. Of an output: room before the call, elements written
   * after it; a refused call leaves it. */
  int64_t count;
} ultra_tensor;

/* Where and why a call was refused; fields that do not apply are 0, `argument` -1. */
typedef struct ultra_error {
  uint32_t struct_size;
  int32_t status;
  int32_t argument;
  int32_t reserved;
  int64_t position;
  int64_t found;
  int64_t expected;
} ultra_error;

/* One piece of a parallel loop. `worker` is below `workers` and is not used by two pieces at once. */
typedef void (*ultra_body)(void *context, int64_t index, uint32_t worker);

/* Threads that the caller lends. `parallel_for` calls `body` once for every index in 0..<count, in any order, on any
 * threads, and returns when all have returned. Results do not depend on the order or on `workers`. A call makes one loop
 * for each of the model's kernels, in their order, however short it is: a caller may time them there. */
typedef struct ultra_parallel {
  uint32_t struct_size;
  uint32_t workers;
  void *pool;
  void (*parallel_for)(void *pool, int64_t count, ultra_body body, void *context);
} ultra_parallel;

/* One call of an entry. */
typedef struct ultra_call {
  uint32_t struct_size;
  uint32_t dimension_count;
  /* Extents of the entry's dimensions, in the manifest's order (for most models: rows, sequences). */
  const int64_t *dimensions;
  const ultra_tensor *inputs;
  ultra_tensor *outputs;
  uint32_t input_count;
  uint32_t output_count;
  /* At least `workspace_size(dimensions, workers)` bytes, aligned to ULTRA_WORKSPACE_ALIGNMENT; its contents mean nothing
   * before or after the call. Calls that run at once need one each. */
  void *workspace;
  size_t workspace_size;
  /* Null: the calling thread alone. */
  const ultra_parallel *parallel;
  /* Null, or filled when the call is refused. */
  ultra_error *error;
} ultra_call;

/* A function of the model. */
typedef struct ultra_entry {
  /* Its name in the manifest: "forward". */
  const char *name;
  uint32_t dimension_count;
  uint32_t input_count;
  uint32_t output_count;
  uint32_t reserved;
  /* Bytes of workspace for a batch of these extents with so many workers; SIZE_MAX where an extent is negative or too
   * large, there are no workers, or `dimensions` is null. */
  size_t (*workspace_size)(const int64_t *dimensions, uint32_t workers);
  /* Runs it. Returns an ultra_status; outputs are undefined unless it is ULTRA_OK. */
  int32_t (*run)(const ultra_call *call);
} ultra_entry;

/* How a GPU's driver is found: `find` gives the address of one of its functions, such as "cuLaunchKernel" or AMD's
 * "hipModuleLaunchKernel", or null. With ultra_gpu.h that is the system's loader. */
typedef struct ultra_gpu_host {
  uint32_t struct_size;
  uint32_t reserved;
  void *(*find)(void *context, const char *name);
  void *context;
} ultra_gpu_host;

/* Which of the driver's functions failed, with what status of its own, for which kernel (null where for none). */
typedef struct ultra_gpu_error {
  uint32_t struct_size;
  int32_t status;
  int32_t driver_status;
  int32_t reserved;
  const char *function;
  const char *kernel;
} ultra_gpu_error;

/* One call of an entry on a GPU. Integers of `call.inputs` lie in the host's memory, and so do outputs that are offsets; all other
 * inputs and outputs lie in the GPU's, at multiples of 16 bytes. `call.workspace` is the host's, `host_workspace_size` bytes. It and the
 * integers are free again, and offsets are there, when the function returns; but where the driver has pinned them they must stay as they
 * are until the stream is past the call. The stream may be capturing a graph: they must be pinned then, and stay as long as it does
 * (`ultra_gpu_capture` of ultra_gpu.h). `call.parallel` is null. Everything is put on the stream; nothing is waited for. */
typedef struct ultra_gpu_call {
  ultra_call call; /* `call.struct_size` is that of ultra_gpu_call. */
  /* What `load` has filled. */
  const void *state;
  /* The GPU's memory: `workspace_size` bytes at a multiple of 256. Calls whose work may overlap need one each. */
  uint64_t workspace;
  uint64_t workspace_size;
  /* The driver's stream; null is its default one. */
  void *stream;
  /* Null, or filled where the driver refuses. */
  ultra_gpu_error *error;
} ultra_gpu_call;

/* An entry of a model on a GPU: as ultra_entry, with sizes of both workspaces. */
typedef struct ultra_gpu_entry {
  const char *name;
  uint32_t dimension_count;
  uint32_t input_count;
  uint32_t output_count;
  uint32_t kernel_count;
  size_t (*host_workspace_size)(const int64_t *dimensions, uint32_t workers);
  uint64_t (*workspace_size)(const int64_t *dimensions);
  int32_t (*run)(const ultra_gpu_call *call);
} ultra_gpu_entry;

/* A model's code for one kind of GPU. */
typedef struct ultra_gpu {
  uint32_t struct_size;
  uint32_t entry_count;
  /* The kind: "sm_90a", "gfx942". */
  const char *target;
  /* For NVIDIA's PTX, a text that the driver translates, and machine code that it need not, null where none was made; for AMD's the code
   * object alone. */
  const void *ptx;
  uint64_t ptx_size;
  const void *code;
  uint64_t code_size;
  /* Bytes of the host's memory that `load` fills and every call reads. */
  uint64_t state_size;
  /* Bytes of the weights. */
  uint64_t weights_size;
  /* Finds the driver, gives it the code, or the PTX where it refuses that, and brings the weights to the GPU: to `weights`,
   * memory of the caller's at a multiple of 256, or where that is 0 to memory of its own. In the calling thread's current
   * context, or where there is none in the first GPU's primary one; of AMD's on the calling thread's device. Every later call
   * makes that current. Returns an ultra_status. After a failure nothing is left behind. */
  int32_t (*load)(void *state, const ultra_gpu_host *host, uint64_t weights, ultra_gpu_error *error);
  /* Gives back what `load` took. No call may be running. */
  int32_t (*unload)(void *state, ultra_gpu_error *error);
  const ultra_gpu_entry *entries;
} ultra_gpu;

/* The table of a model. */
typedef struct ultra_model {
  uint32_t struct_size;
  uint32_t abi_version;
  /* JSON, UTF-8, not terminated; see docs/abi.md. */
  const char *manifest;
  uint64_t manifest_size;
  /* The code level in use, for example "x86-64-v4"; null where this machine can run none of the file's levels. Where the
   * file has code for AMX and so has the processor, finding it asks Linux to let the process use AMX; see docs/abi.md. */
  const char *level;
  /* Null, or one sentence that says which processor features are missing; there are no entries then. */
  const char *refusal;
  uint64_t entry_count;
  const ultra_entry *entries;
  /* Code for GPUs, ascending by what it needs; see ultra_gpus. */
  uint64_t gpu_count;
  const ultra_gpu *gpus;
} ultra_model;

typedef const ultra_model *(*ultra_model_function)(void);

/* The table behind the exported function; null where the symbol is null or the ABI is another. A usable model also has
 * a null `refusal`. */
static inline const ultra_model *ultra_open(void *symbol) {
  if (symbol == NULL) return NULL;
  ultra_model_function function;
  /* ISO C has no cast from an object pointer to a function pointer. */
  *(void **)(&function) = symbol;
  const ultra_model *model = function();
  if (model == NULL || model->abi_version != ULTRA_ABI_VERSION || model->struct_size < offsetof(ultra_model, gpu_count)) {
    return NULL;
  }
  return model;
}

/* A model's code for the GPU of this name, such as "sm_90a"; null where it has none. */
static inline const ultra_gpu *ultra_gpu_for(const ultra_model *model, const char *target) {
  if (model->struct_size < sizeof(ultra_model)) return NULL;
  for (uint64_t index = 0; index < model->gpu_count; index++) {
    const char *name = model->gpus[index].target;
    size_t place = 0;
    while (name[place] != 0 && name[place] == target[place]) place++;
    if (name[place] == target[place]) return &model->gpus[index];
  }
  return NULL;
}

#ifdef __cplusplus
}
#endif

#endif
