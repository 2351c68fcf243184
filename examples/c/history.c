/* Keeps a user's history for a compiled model that recommends films, in a file, and goes on from there in another process.
 *
 *     history fill  model.ultra user.history [events]     computes what is kept of all events but the last, and stores it
 *     history serve model.ultra user.history [events]     reads it, and recommends after the last event, computed alone
 *
 * The user is made up: so many films seen (default: 150), an hour apart. The model is ../movielens-100k/retrieval.json, compiled with
 * --rewrite cached-scoring. What `serve` recommends is compared with what the model's `forward` gives for the whole history.
 */
#define _POSIX_C_SOURCE 200809L

#include <dlfcn.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ultra.h"
#include "ultra_cache.h"

enum { FILMS = 1682, RECOMMENDED = 10, WIDTH = 64, MOST_ARGUMENTS = 64 };

static void fail(const char *what, const char *why) {
  fprintf(stderr, "%s: %s\n", what, why);
  exit(1);
}

static void *allocate(size_t size) {
  void *memory = NULL;
  if (posix_memalign(&memory, 64, size > 0 ? size : 1) != 0) fail("memory", "cannot be had");
  return memory;
}

static double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void check(int32_t status) {
  if (status != ULTRA_CACHE_OK) fail("history", ultra_cache_message(status));
}

/* MARK: The user */

typedef struct user {
  int64_t events;
  int64_t *films;
  int64_t *times;
} user;

static user make_user(int64_t events) {
  user made = {events, allocate((size_t)events * 8), allocate((size_t)events * 8)};
  for (int64_t event = 0; event < events; event++) {
    made.films[event] = 1 + 7 * event % FILMS;
    made.times[event] = 880000000 + 3600 * event;
  }
  return made;
}

/* MARK: Files */

static ultra_cache_block read_block(const char *path) {
  FILE *file = fopen(path, "rb");
  if (file == NULL) fail(path, "cannot be opened");
  if (fseek(file, 0, SEEK_END) != 0) fail(path, "cannot be read");
  long size = ftell(file);
  if (size < 0) fail(path, "cannot be read");
  rewind(file);
  ultra_cache_block block = {allocate((size_t)size), (size_t)size};
  if (fread(block.memory, 1, block.size, file) != block.size) fail(path, "cannot be read");
  fclose(file);
  return block;
}

static void write_block(const char *path, ultra_cache_block block) {
  FILE *file = fopen(path, "wb");
  if (file == NULL || fwrite(block.memory, 1, block.size, file) != block.size || fclose(file) != 0) {
    fail(path, "cannot be written");
  }
}

/* MARK: Calls */

typedef struct results {
  float embedding[WIDTH];
  float scores[RECOMMENDED];
  int64_t films[RECOMMENDED];
} results;

/* Runs an entry on arguments that are all set. */
static void run(const ultra_entry *entry, const int64_t *dimensions, const ultra_tensor *inputs, ultra_tensor *outputs) {
  size_t size = entry->workspace_size(dimensions, 1);
  if (size == SIZE_MAX) fail(entry->name, "the history is too long");
  ultra_error error = {.struct_size = sizeof error};
  ultra_call call = {
      .struct_size = sizeof call,
      .dimension_count = entry->dimension_count,
      .dimensions = dimensions,
      .inputs = inputs,
      .outputs = outputs,
      .input_count = entry->input_count,
      .output_count = entry->output_count,
      .workspace = allocate(size),
      .workspace_size = size,
      .error = &error,
  };
  if (entry->run(&call) != ULTRA_OK) {
    fprintf(stderr, "%s: argument %" PRId32 ": status %" PRId32 ", found %" PRId64 ", expected %" PRId64 "\n",
            entry->name, error.argument, error.status, error.found, error.expected);
    exit(1);
  }
  free(call.workspace);
}

/* Runs prefill or extend on the user's events from `first` on, `count` of them. The next event, or the request, is at `next`. */
static void run_kept(const ultra_cache *cache, uint32_t kind, ultra_cache_block *block, user user, int64_t first,
                     int64_t count, int64_t next, results *found) {
  const ultra_entry *entry = ultra_cache_entry(cache, kind);
  if (entry == NULL) fail("model", ultra_cache_message(ULTRA_CACHE_NO_ENTRY));
  int64_t offsets[2] = {0, count}, dimensions[MOST_ARGUMENTS];
  ultra_tensor inputs[MOST_ARGUMENTS], outputs[MOST_ARGUMENTS];
  if (entry->dimension_count > MOST_ARGUMENTS || entry->input_count > MOST_ARGUMENTS ||
      entry->output_count > MOST_ARGUMENTS) {
    fail(entry->name, "takes more arguments than this program was written for");
  }

  /* The call's own arguments, by name; what is kept is put among them by ultra_cache_begin. */
  const struct {
    const char *name;
    bool isOutput;
    ultra_tensor tensor;
  } own[] = {
      {"item_ids", false, {user.films + first, count}},   {"offsets", false, {offsets, 2}},
      {"timestamps", false, {user.times + first, count}}, {"query_timestamps", false, {&next, 1}},
      {"user_embeddings", true, {found->embedding, WIDTH}}, {"top_scores", true, {found->scores, RECOMMENDED}},
      {"top_ids", true, {found->films, RECOMMENDED}},
  };
  for (size_t index = 0; index < sizeof own / sizeof *own; index++) {
    int32_t place = own[index].isOutput ? ultra_cache_output(cache, kind, own[index].name)
                                        : ultra_cache_input(cache, kind, own[index].name);
    if (place < 0) fail(own[index].name, "is no argument of this model");
    if (own[index].isOutput) outputs[place] = own[index].tensor;
    if (!own[index].isOutput) inputs[place] = own[index].tensor;
  }

  ultra_cache_call call = {
      .struct_size = sizeof call,
      .kind = kind,
      .users = 1,
      .blocks = block,
      .dimensions = dimensions,
      .inputs = inputs,
      .outputs = outputs,
  };
  call.scratch_size = ultra_cache_scratch_size(cache, &call);
  if (call.scratch_size == SIZE_MAX) call.scratch_size = 0; /* ultra_cache_begin says why. */
  call.scratch = allocate(call.scratch_size);
  check(ultra_cache_begin(cache, &call));
  run(entry, dimensions, inputs, outputs);
  check(ultra_cache_end(cache, &call));
  free(call.scratch);
}

static void run_forward(const ultra_model *model, user user, int64_t next, results *found) {
  int64_t offsets[2] = {0, user.events}, dimensions[2] = {user.events, 1};
  const ultra_tensor inputs[] = {
      {user.films, user.events}, {offsets, 2}, {user.times, user.events}, {&next, 1}};
  ultra_tensor outputs[] = {
      {found->embedding, WIDTH}, {found->scores, RECOMMENDED}, {found->films, RECOMMENDED}};
  if (model->entries[0].input_count != 4 || model->entries[0].output_count != 3) fail("model", "is another one");
  run(&model->entries[0], dimensions, inputs, outputs);
}

int main(int argument_count, char **arguments) {
  if (argument_count < 4) fail("usage", "history fill|serve model.ultra user.history [events]");
  user user = make_user(argument_count > 4 ? strtol(arguments[4], NULL, 10) : 150);
  if (user.events < 2) fail("events", "at least two are needed");
  char path[4096];
  snprintf(path, sizeof path, "%s%s", strchr(arguments[2], '/') != NULL ? "" : "./", arguments[2]);
  void *file = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (file == NULL) fail("dlopen", dlerror());
  const ultra_model *model = ultra_open(dlsym(file, ULTRA_MODEL_SYMBOL));
  if (model == NULL) fail(path, "not a compiled model of this ABI version");
  if (model->refusal != NULL) fail(path, model->refusal);
  ultra_cache *cache;
  check(ultra_cache_create(model, &cache));

  const int64_t kept = user.events - 1, last_time = user.times[kept], request = last_time + 60;
  results found, expected;
  double start = seconds();
  if (strcmp(arguments[1], "fill") == 0) {
    ultra_cache_block block = {NULL, ultra_cache_size(cache, kept)};
    if (block.size == SIZE_MAX) fail("history", ultra_cache_message(ULTRA_CACHE_FULL));
    block.memory = allocate(block.size);
    memset(block.memory, 0, block.size); /* What stands between sections goes into the file. */
    check(ultra_cache_initialise(cache, block, kept));
    run_kept(cache, ULTRA_CACHE_PREFILL, &block, user, 0, kept, last_time, &found);
    write_block(arguments[3], block);
    printf("%" PRId64 " events computed and stored, %zu bytes: %.3f ms\n", kept, block.size, 1e3 * (seconds() - start));
    free(block.memory);
  } else {
    /* From elsewhere, so it is checked; with room for one event more. */
    ultra_cache_block stored = read_block(arguments[3]);
    check(ultra_cache_check(cache, stored));
    if (ultra_cache_rows(cache, stored) != kept) fail(arguments[3], "is of another history");
    ultra_cache_block block = {NULL, ultra_cache_size(cache, kept + 1)};
    block.memory = allocate(block.size);
    check(ultra_cache_copy(cache, stored, block, kept + 1));
    printf("%" PRId64 " events read: %.3f ms\n", kept, 1e3 * (seconds() - start));
    start = seconds();
    run_kept(cache, ULTRA_CACHE_EXTEND, &block, user, kept, 1, request, &found);
    printf("one event more: %.3f ms, recommended", 1e3 * (seconds() - start));
    for (int place = 0; place < RECOMMENDED; place++) printf(" %" PRId64, found.films[place]);
    start = seconds();
    run_forward(model, user, request, &expected);
    printf("\nthe whole history: %.3f ms, %s\n", 1e3 * (seconds() - start),
           memcmp(&found, &expected, sizeof found) == 0 ? "the same bits" : "OTHER BITS");
    if (memcmp(&found, &expected, sizeof found) != 0) return 1;
    free(stored.memory);
    free(block.memory);
  }
  ultra_cache_destroy(cache);
  free(user.films);
  free(user.times);
  dlclose(file);
  return 0;
}
