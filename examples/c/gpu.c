/* Recommends films on a GPU where there is one that the file has code for, and on the processor where there is none.
 *
 *     gpu model.ultra
 *
 * The model is ../movielens-ultra/retrieval.json, compiled with --rewrite "lower-precision{matmul=bf16,attention=bf16}" and
 * --gpu. The users are made up. Where a GPU has run it, its films are compared with those of the processor.
 */
#define _POSIX_C_SOURCE 200809L

#include <dlfcn.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ultra.h"
#include "ultra_gpu.h"

/* The model's signature: `ultrac inspect model.ultra` prints it. */
enum { INPUTS = 3, OUTPUTS = 3, WIDTH = 64, FILMS = 1682, RATINGS = 5, RECOMMENDED = 10 };
/* Numbers a user: its embedding, then the scores and the ids of the best films that it has not seen. */
static const int64_t output_widths[OUTPUTS] = {WIDTH, RECOMMENDED, RECOMMENDED};
static const size_t output_sizes[OUTPUTS] = {sizeof(float), sizeof(float), sizeof(int64_t)};
enum { IDS = 2 };

enum { USERS = 8, STEP = 25, ROWS = STEP * USERS * (USERS - 1) / 2 };
static int64_t films[ROWS], ratings[ROWS], offsets[USERS + 1];
static const int64_t dimensions[2] = {ROWS, USERS};

static void fail(const char *what, const char *why) {
  fprintf(stderr, "%s: %s\n", what, why);
  exit(1);
}

static void *allocate(size_t alignment, size_t size) {
  void *memory = NULL;
  if (posix_memalign(&memory, alignment, size > 0 ? size : 1) != 0) fail("memory", "cannot be had");
  return memory;
}

static size_t output_bytes(int index) { return (size_t)(USERS * output_widths[index]) * output_sizes[index]; }

/* Users who have rated 0, 25, 50, ... films. */
static void make_users(void) {
  int64_t row = 0;
  for (int64_t user = 0; user < USERS; user++) {
    for (int64_t film = 0; film < STEP * user; film++, row++) {
      films[row] = 1 + (row * 37 + user) % FILMS;
      ratings[row] = 1 + (row + user) % RATINGS;
    }
    offsets[user + 1] = row;
  }
}

/* What both kinds of call have in common. */
static ultra_call call_of(ultra_tensor *inputs, ultra_tensor *outputs, ultra_error *error) {
  inputs[0] = (ultra_tensor){films, ROWS};
  inputs[1] = (ultra_tensor){ratings, ROWS};
  inputs[2] = (ultra_tensor){offsets, USERS + 1};
  *error = (ultra_error){.struct_size = sizeof *error};
  return (ultra_call){
      .struct_size = sizeof(ultra_call),
      .dimension_count = 2,
      .dimensions = dimensions,
      .inputs = inputs,
      .outputs = outputs,
      .input_count = INPUTS,
      .output_count = OUTPUTS,
      .error = error,
  };
}

/* MARK: The processor */

static void run_on_processor(const ultra_model *model, void *const *results) {
  const ultra_entry *forward = &model->entries[0];
  ultra_tensor inputs[INPUTS], outputs[OUTPUTS];
  ultra_error error;
  ultra_call call = call_of(inputs, outputs, &error);
  for (int index = 0; index < OUTPUTS; index++) {
    outputs[index] = (ultra_tensor){results[index], USERS * output_widths[index]};
  }
  call.workspace_size = forward->workspace_size(dimensions, 1);
  call.workspace = allocate(ULTRA_WORKSPACE_ALIGNMENT, call.workspace_size);
  int32_t status = forward->run(&call);
  if (status != ULTRA_OK) {
    fprintf(stderr, "processor: status %" PRId32 ", found %" PRId64 ", expected %" PRId64 "\n", status, error.found, error.expected);
    exit(1);
  }
  free(call.workspace);
}

/* MARK: The GPU */

/* What a server needs of a driver beside the calls that the file makes itself: its own memory, and to wait. */
typedef struct driver {
  int (*allocate)(uint64_t *address, size_t size);
  int (*release)(uint64_t address);
  int (*read)(void *target, uint64_t source, size_t size);
  int (*wait)(void);
} driver;

static void find(void *function, const char *name) {
  void *found = ultra_gpu_find(NULL, name);
  if (found == NULL) fail(name, "is not in the driver");
  /* ISO C has no cast from an object pointer to a function pointer. */
  memcpy(function, &found, sizeof found);
}

static driver driver_of(const ultra_gpu *gpu) {
  bool is_amd = strncmp(gpu->target, "gfx", 3) == 0;
  driver functions;
  find(&functions.allocate, is_amd ? "hipMalloc" : "cuMemAlloc_v2");
  find(&functions.release, is_amd ? "hipFree" : "cuMemFree_v2");
  find(&functions.read, is_amd ? "hipMemcpyDtoH" : "cuMemcpyDtoH_v2");
  find(&functions.wait, is_amd ? "hipDeviceSynchronize" : "cuCtxSynchronize");
  return functions;
}

static void check(int status, const char *what) {
  if (status == 0) return;
  fprintf(stderr, "%s: the driver's status is %d\n", what, status);
  exit(1);
}

/* The best GPU code of the file that can be loaded here, and what `load` filled; null where there is none. What needs most comes
 * last in the file. */
static const ultra_gpu *load_gpu(const ultra_model *model, void **state) {
  ultra_gpu_host host = ultra_gpu_driver();
  for (uint64_t index = model->gpu_count; index-- > 0;) {
    const ultra_gpu *gpu = &model->gpus[index];
    ultra_gpu_error error = {.struct_size = sizeof error};
    *state = allocate(8, gpu->state_size);
    int32_t status = gpu->load(*state, &host, 0, &error);
    if (status == ULTRA_OK) return gpu;
    if (status == ULTRA_NO_DRIVER) {
      printf("%s: no driver here has %s\n", gpu->target, error.function);
    } else {
      printf("%s: status %" PRId32 ", %s says %" PRId32 "\n", gpu->target, status, error.function != NULL ? error.function : "nobody",
             error.driver_status);
    }
    free(*state);
  }
  return NULL;
}

static void run_on_gpu(const ultra_gpu *gpu, const void *state, void *const *results) {
  driver device = driver_of(gpu);
  const ultra_gpu_entry *forward = &gpu->entries[0];
  ultra_tensor inputs[INPUTS], outputs[OUTPUTS];
  ultra_error error;
  ultra_gpu_error driver_error = {.struct_size = sizeof driver_error};
  ultra_gpu_call call = {.call = call_of(inputs, outputs, &error), .state = state, .error = &driver_error};
  call.call.struct_size = sizeof call;
  /* Ids, ratings and offsets stay where they are; results go to the GPU's memory. */
  uint64_t places[OUTPUTS];
  for (int index = 0; index < OUTPUTS; index++) {
    check(device.allocate(&places[index], output_bytes(index)), "memory of results");
    outputs[index] = (ultra_tensor){(void *)(uintptr_t)places[index], USERS * output_widths[index]};
  }
  call.call.workspace_size = forward->host_workspace_size(dimensions, 1);
  call.call.workspace = allocate(ULTRA_WORKSPACE_ALIGNMENT, call.call.workspace_size);
  call.workspace_size = forward->workspace_size(dimensions);
  check(device.allocate(&call.workspace, call.workspace_size), "workspace");
  int32_t status = forward->run(&call);
  if (status == ULTRA_DRIVER_FAILED) {
    fprintf(stderr, "%s: %s says %" PRId32 " for %s\n", gpu->target, driver_error.function, driver_error.driver_status,
            driver_error.kernel != NULL ? driver_error.kernel : "no kernel");
    exit(1);
  }
  if (status != ULTRA_OK) {
    fprintf(stderr, "%s: status %" PRId32 ", found %" PRId64 ", expected %" PRId64 "\n", gpu->target, status, error.found, error.expected);
    exit(1);
  }
  check(device.wait(), gpu->target);
  for (int index = 0; index < OUTPUTS; index++) {
    check(device.read(results[index], places[index], output_bytes(index)), "results");
    check(device.release(places[index]), "memory of results");
  }
  check(device.release(call.workspace), "workspace");
  free(call.call.workspace);
}

/* MARK: Both */

/* Of the films that one gives, how many the other one has too. */
static int same_films(const int64_t *one, const int64_t *other) {
  int count = 0;
  for (int user = 0; user < USERS; user++) {
    for (int place = 0; place < RECOMMENDED; place++) {
      bool is_there = false;
      for (int same = 0; same < RECOMMENDED; same++) {
        is_there |= one[user * RECOMMENDED + place] == other[user * RECOMMENDED + same];
      }
      count += is_there;
    }
  }
  return count;
}

int main(int argument_count, char **arguments) {
  if (argument_count != 2) fail("usage", "gpu model.ultra");
  char path[4096];
  /* The path has a slash, so that no search path is used. */
  snprintf(path, sizeof path, "%s%s", strchr(arguments[1], '/') != NULL ? "" : "./", arguments[1]);
  void *file = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (file == NULL) fail("dlopen", dlerror());
  const ultra_model *model = ultra_open(dlsym(file, ULTRA_MODEL_SYMBOL));
  if (model == NULL) fail(path, "not a compiled model of this ABI version");
  if (model->refusal != NULL) fail(path, model->refusal);
  if (model->gpu_count == 0) fail(path, "has no code for GPUs; compile it with --gpu");
  if (model->entries[0].input_count != INPUTS || model->entries[0].output_count != OUTPUTS ||
      model->entries[0].dimension_count != 2) {
    fail(path, "has another signature than this program was written for");
  }
  make_users();
  void *own[OUTPUTS], *gpus[OUTPUTS];
  for (int index = 0; index < OUTPUTS; index++) {
    own[index] = allocate(64, output_bytes(index));
    gpus[index] = allocate(64, output_bytes(index));
  }

  run_on_processor(model, own);
  void *state = NULL;
  const ultra_gpu *gpu = load_gpu(model, &state);
  if (gpu != NULL) {
    run_on_gpu(gpu, state, gpus);
    ultra_gpu_error error = {.struct_size = sizeof error};
    check(gpu->unload(state, &error), "unload");
    free(state);
    printf("%s: %d of the %d films of %s\n", gpu->target, same_films(gpus[IDS], own[IDS]), USERS * RECOMMENDED, model->level);
  } else {
    printf("no GPU: %s serves\n", model->level);
  }
  const int64_t *ids = (gpu != NULL ? gpus : own)[IDS];
  for (int user = 0; user < 3; user++) {
    printf("user %d, %" PRId64 " films rated: recommended", user, offsets[user + 1] - offsets[user]);
    for (int place = 0; place < RECOMMENDED; place++) printf(" %" PRId64, ids[user * RECOMMENDED + place]);
    printf("\n");
  }
  for (int index = 0; index < OUTPUTS; index++) {
    free(own[index]);
    free(gpus[index]);
  }
  dlclose(file);
  return 0;
}
