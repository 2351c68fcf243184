/* Loads a compiled model that recommends films and calls it, on one thread and on several: all that a server in C does.
 *
 *     recommend model.ultra [inputs-folder] [workers]
 *
 * The folder holds the inputs as the model takes them, one file each, plain little-endian int64: item_ids.bin,
 * offsets.bin, timestamps.bin, query_timestamps.bin, as ../movielens-100k/recommend.py --write-raw writes them. Without
 * a folder, or with "-", a few made-up users are used.
 */
#define _POSIX_C_SOURCE 200809L

#include <dlfcn.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ultra.h"
#include "ultra_pool.h"

/* The model's signature: `ultrac inspect model.ultra` prints it. */
enum { INPUTS = 4, OUTPUTS = 3, WIDTH = 64, FILMS = 1682, RECOMMENDED = 10 };
static const char *const input_names[INPUTS] = {"item_ids", "offsets", "timestamps", "query_timestamps"};
/* Numbers a user: its embedding, then the scores and the ids of the best films that it has not seen. */
static const int64_t output_widths[OUTPUTS] = {WIDTH, RECOMMENDED, RECOMMENDED};
static const size_t output_sizes[OUTPUTS] = {sizeof(float), sizeof(float), sizeof(int64_t)};

typedef struct batch {
  int64_t *values[INPUTS];
  int64_t counts[INPUTS];
} batch;

static void fail(const char *what, const char *why) {
  fprintf(stderr, "%s: %s\n", what, why);
  exit(1);
}

static void *allocate(size_t alignment, size_t size) {
  void *memory = NULL;
  if (posix_memalign(&memory, alignment, size > 0 ? size : 1) != 0) fail("memory", "cannot be had");
  return memory;
}

static double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Reads a whole file of int64. */
static int64_t *read_numbers(const char *folder, const char *name, int64_t *count) {
  char path[4096];
  if (snprintf(path, sizeof path, "%s/%s.bin", folder, name) >= (int)sizeof path) fail(folder, "path is too long");
  FILE *file = fopen(path, "rb");
  if (file == NULL) fail(path, "cannot be opened");
  if (fseek(file, 0, SEEK_END) != 0) fail(path, "cannot be read");
  long size = ftell(file);
  if (size < 0 || size % 8 != 0) fail(path, "is not a list of int64");
  rewind(file);
  int64_t *values = allocate(8, (size_t)size);
  if (fread(values, 1, (size_t)size, file) != (size_t)size) fail(path, "cannot be read");
  fclose(file);
  *count = size / 8;
  return values;
}

static batch read_batch(const char *folder) {
  batch inputs;
  for (int index = 0; index < INPUTS; index++) {
    inputs.values[index] = read_numbers(folder, input_names[index], &inputs.counts[index]);
  }
  return inputs;
}

/* Eight users, who have seen 0, 25, 50, ... films, an hour apart. */
static batch make_batch(void) {
  enum { USERS = 8, STEP = 25 };
  int64_t rows = STEP * USERS * (USERS - 1) / 2;
  batch inputs = {.counts = {rows, USERS + 1, rows, USERS}};
  for (int index = 0; index < INPUTS; index++) {
    inputs.values[index] = allocate(8, (size_t)inputs.counts[index] * 8);
  }
  int64_t row = 0;
  inputs.values[1][0] = 0;
  for (int64_t user = 0; user < USERS; user++) {
    for (int64_t film = 0; film < STEP * user; film++, row++) {
      inputs.values[0][row] = 1 + (row * 37 + user) % FILMS;
      inputs.values[2][row] = 880000000 + 3600 * film;
    }
    inputs.values[1][user + 1] = row;
    inputs.values[3][user] = 880000000 + 3600 * STEP * user;
  }
  return inputs;
}

/* Prints the films of a list, which has no film, -1, in places that none is left for. */
static void print_films(const int64_t *films) {
  for (int place = 0; place < RECOMMENDED && films[place] >= 0; place++) printf(" %" PRId64, films[place]);
  printf("\n");
}

int main(int argument_count, char **arguments) {
  if (argument_count < 2) fail("usage", "recommend model.ultra [inputs-folder|-] [workers]");

  /* Load. The path has a slash, so that no search path is used. */
  double start = seconds();
  char path[4096];
  snprintf(path, sizeof path, "%s%s", strchr(arguments[1], '/') != NULL ? "" : "./", arguments[1]);
  void *file = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (file == NULL) fail("dlopen", dlerror());
  const ultra_model *model = ultra_open(dlsym(file, ULTRA_MODEL_SYMBOL));
  if (model == NULL) fail(path, "not a compiled model of this ABI version");
  if (model->refusal != NULL) fail(path, model->refusal);
  const ultra_entry *forward = NULL;
  for (uint64_t index = 0; index < model->entry_count; index++) {
    if (strcmp(model->entries[index].name, "forward") == 0) forward = &model->entries[index];
  }
  if (forward == NULL || forward->input_count != INPUTS || forward->dimension_count != 2 ||
      forward->output_count != OUTPUTS) {
    fail(path, "has another signature than this program was written for");
  }
  printf("loaded %s (%s) in %.3f ms\n", path, model->level, 1e3 * (seconds() - start));

  /* The batch: rows of all users, one user after the other, cut by offsets. */
  int made_up = argument_count < 3 || strcmp(arguments[2], "-") == 0;
  batch inputs = made_up ? make_batch() : read_batch(arguments[2]);
  if (inputs.counts[1] < 1) fail("offsets", "at least one number is needed");
  const int64_t rows = inputs.counts[0], users = inputs.counts[1] - 1;
  const int64_t dimensions[2] = {rows, users};
  ultra_tensor tensors[INPUTS];
  for (int index = 0; index < INPUTS; index++) {
    tensors[index] = (ultra_tensor){inputs.values[index], inputs.counts[index]};
  }

  /* Memory is the caller's: outputs, and one workspace for each call that runs at once. */
  ultra_pool *pool = ultra_pool_create(argument_count > 3 ? (uint32_t)strtoul(arguments[3], NULL, 10) : 0);
  if (pool == NULL) fail("pool", "threads cannot be had");
  uint32_t workers = ultra_pool_parallel(pool)->workers;
  size_t workspace_size = forward->workspace_size(dimensions, workers);
  if (workspace_size == SIZE_MAX) fail("batch", "is too large");
  void *workspace = allocate(ULTRA_WORKSPACE_ALIGNMENT, workspace_size);
  void *alone[OUTPUTS], *together[OUTPUTS];
  for (int index = 0; index < OUTPUTS; index++) {
    alone[index] = allocate(64, (size_t)(users * output_widths[index]) * output_sizes[index]);
    together[index] = allocate(64, (size_t)(users * output_widths[index]) * output_sizes[index]);
  }

  ultra_error error = {.struct_size = sizeof error};
  ultra_tensor outputs[OUTPUTS];
  ultra_call call = {
      .struct_size = sizeof call,
      .dimension_count = 2,
      .dimensions = dimensions,
      .inputs = tensors,
      .outputs = outputs,
      .input_count = INPUTS,
      .output_count = OUTPUTS,
      .workspace = workspace,
      .workspace_size = workspace_size,
      .parallel = NULL,
      .error = &error,
  };

  /* On this thread alone, then with the pool; a second run of each is timed, when all memory has been touched. */
  for (int with_pool = 0; with_pool < 2; with_pool++) {
    call.parallel = with_pool ? ultra_pool_parallel(pool) : NULL;
    double elapsed = 0;
    for (int run = 0; run < 2; run++) {
      for (int index = 0; index < OUTPUTS; index++) {
        outputs[index] = (ultra_tensor){(with_pool ? together : alone)[index], users * output_widths[index]};
      }
      start = seconds();
      int32_t status = ultra_pool_run(pool, forward, &call);
      elapsed = seconds() - start;
      if (status != ULTRA_OK) {
        const char *name = error.argument >= 0 && error.argument < INPUTS ? input_names[error.argument] : "call";
        fprintf(stderr, "%s[%" PRId64 "]: status %" PRId32 ", found %" PRId64 ", expected %" PRId64 "\n", name,
                error.position, status, error.found, error.expected);
        return 1;
      }
    }
    printf("%" PRId64 " users, %" PRId64 " films seen: %.3f ms on %" PRIu32 " thread(s)\n", users, rows, 1e3 * elapsed,
           with_pool ? workers : 1);
  }
  /* Results do not depend on threads, bit for bit. */
  for (int index = 0; index < OUTPUTS; index++) {
    if (memcmp(alone[index], together[index], (size_t)(users * output_widths[index]) * output_sizes[index]) != 0) {
      fail("outputs", "differ between one thread and several");
    }
  }
  for (int64_t user = 0; user < users && user < 5; user++) {
    const int64_t first = inputs.values[1][user], end = inputs.values[1][user + 1];
    printf("user %" PRId64 ", %" PRId64 " films seen: recommended", user, end - first);
    print_films((const int64_t *)alone[2] + user * RECOMMENDED);
  }

  for (int index = 0; index < INPUTS; index++) free(inputs.values[index]);
  for (int index = 0; index < OUTPUTS; index++) {
    free(alone[index]);
    free(together[index]);
  }
  free(workspace);
  ultra_pool_destroy(pool);
  dlclose(file);
  return 0;
}
