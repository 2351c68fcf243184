/* Loads a compiled model, calls it once on one thread and prints the first number of its first output: all that lies
 * between the start of a process and its first result.
 *
 *     call_once model.ultra rows sequences room input...
 *
 * Inputs are files of plain little-endian numbers, in the order of the model's signature; those whose name ends in .i64
 * are int64, the others fp32. Every output gets room for so many numbers. With COUNT_INSTRUCTIONS it tells callgrind to
 * count nothing but the call; with NO_SYSTEM_CALLS the kernel ends it if the call makes one, as any that allocates memory,
 * locks or waits does sooner or later.
 */
#define _GNU_SOURCE

#include <dlfcn.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ultra.h"

#ifdef COUNT_INSTRUCTIONS
#include <valgrind/callgrind.h>
#else
#define CALLGRIND_TOGGLE_COLLECT
#endif

#ifdef NO_SYSTEM_CALLS
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

enum { MOST_TENSORS = 16 };

static void fail(const char *what, const char *why) {
  fprintf(stderr, "%s: %s\n", what, why);
  exit(1);
}

static void *allocate(size_t size) {
  void *memory = NULL;
  if (posix_memalign(&memory, ULTRA_WORKSPACE_ALIGNMENT, size > 0 ? size : 1) != 0) fail("memory", "cannot be had");
  return memory;
}

static int64_t number(const char *text) {
  char *end = NULL;
  const long long value = strtoll(text, &end, 10);
  if (end == text || *end != '\0' || value < 0) fail(text, "expected a number");
  return value;
}

static ultra_tensor read_tensor(const char *path) {
  FILE *file = fopen(path, "rb");
  if (file == NULL) fail(path, "cannot be opened");
  if (fseek(file, 0, SEEK_END) != 0) fail(path, "cannot be read");
  const long size = ftell(file);
  if (size < 0) fail(path, "cannot be read");
  rewind(file);
  void *data = allocate((size_t)size);
  if (fread(data, 1, (size_t)size, file) != (size_t)size) fail(path, "cannot be read");
  fclose(file);
  const char *ending = strrchr(path, '.');
  const int64_t element = ending != NULL && strcmp(ending, ".i64") == 0 ? 8 : 4;
  return (ultra_tensor){data, size / element};
}

int main(int argument_count, char **arguments) {
  if (argument_count < 5) fail("usage", "call_once model.ultra rows sequences room input...");
  void *file = dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL);
  if (file == NULL) fail("dlopen", dlerror());
  const ultra_model *model = ultra_open(dlsym(file, ULTRA_MODEL_SYMBOL));
  if (model == NULL) fail(arguments[1], "not a compiled model of this ABI version");
  if (model->refusal != NULL) fail(arguments[1], model->refusal);
  const ultra_entry *entry = &model->entries[0];
  const uint32_t input_count = (uint32_t)argument_count - 5;
  if (entry->dimension_count != 2 || entry->input_count != input_count || input_count > MOST_TENSORS ||
      entry->output_count > MOST_TENSORS) {
    fail(arguments[1], "takes other inputs than were given");
  }

  const int64_t dimensions[2] = {number(arguments[2]), number(arguments[3])};
  const int64_t room = number(arguments[4]);
  ultra_tensor inputs[MOST_TENSORS], outputs[MOST_TENSORS];
  for (uint32_t index = 0; index < input_count; index++) inputs[index] = read_tensor(arguments[5 + index]);
  for (uint32_t index = 0; index < entry->output_count; index++) {
    outputs[index] = (ultra_tensor){allocate((size_t)room * sizeof(int64_t)), room};
  }
  const size_t workspace_size = entry->workspace_size(dimensions, 1);
  if (workspace_size == SIZE_MAX) fail("batch", "is too large");
  ultra_error error = {.struct_size = sizeof error};
  const ultra_call call = {
      .struct_size = sizeof call,
      .dimension_count = 2,
      .dimensions = dimensions,
      .inputs = inputs,
      .outputs = outputs,
      .input_count = input_count,
      .output_count = entry->output_count,
      .workspace = allocate(workspace_size),
      .workspace_size = workspace_size,
      .error = &error,
  };
#ifdef NO_SYSTEM_CALLS
  /* From here on the kernel allows reading, writing and the thread's end. */
  if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) != 0) fail("seccomp", "cannot be had");
  if (entry->run(&call) == ULTRA_OK && write(STDOUT_FILENO, "ok\n", 3) == 3) syscall(SYS_exit, 0);
  syscall(SYS_exit, 1);
#endif
  CALLGRIND_TOGGLE_COLLECT;
  const int32_t status = entry->run(&call);
  CALLGRIND_TOGGLE_COLLECT;
  if (status != ULTRA_OK) {
    fprintf(stderr, "input %" PRId32 "[%" PRId64 "]: status %" PRId32 ", found %" PRId64 ", expected %" PRId64 "\n",
            error.argument, error.position, status, error.found, error.expected);
    return 1;
  }
  printf("%s %.9g\n", model->level, outputs[0].count > 0 ? (double)*(const float *)outputs[0].data : 0.0);
  return 0;
}
