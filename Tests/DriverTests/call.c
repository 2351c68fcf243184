/* Calls compiled models on the machine that this program runs on: call REQUESTS RESPONSES.
 *
 * Both files are sequences of 64-bit little-endian numbers and of bytes with their number before them. A request is the
 * path of a model, the number of an entry, the extents of its dimensions, the inputs (elements, bytes), and for each output the room in elements
 * and the bytes of one. A response is a status, a text (the level in use, or why there is none), and for each output the
 * elements and bytes that were written. Reading or writing past the end of an input or output ends the program. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "ultra.h"

enum { NOT_LOADED = 1000, REFUSED = 1001, MOST_TENSORS = 32 };

static void fail(const char *what) {
  fprintf(stderr, "call: %s\n", what);
  exit(2);
}

/* Memory that ends where the program may not go on. */
static void *guarded(size_t size) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE), whole = (size + page - 1) / page * page;
  char *start = mmap(NULL, whole + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (start == MAP_FAILED || mprotect(start + whole, page, PROT_NONE) != 0) fail("no memory");
  return start + whole - size;
}

static void read_bytes(FILE *file, void *bytes, size_t size) {
  if (fread(bytes, 1, size, file) != size) fail("a request ends too early");
}

static int64_t read_number(FILE *file) {
  int64_t number;
  read_bytes(file, &number, sizeof number);
  return number;
}

static void write_bytes(FILE *file, const void *bytes, int64_t size) {
  if (fwrite(bytes, 1, (size_t)size, file) != (size_t)size) fail("a response cannot be written");
}

static void write_number(FILE *file, int64_t number) { write_bytes(file, &number, sizeof number); }

static void write_text(FILE *file, const char *text) {
  write_number(file, (int64_t)strlen(text));
  write_bytes(file, text, (int64_t)strlen(text));
}

static int64_t read_count(FILE *file) {
  int64_t count = read_number(file);
  if (count < 0 || count > MOST_TENSORS) fail("too many tensors or dimensions");
  return count;
}

static void answer(FILE *requests, FILE *responses) {
  char path[4096] = "";
  int64_t length = read_number(requests);
  if (length < 0 || length >= (int64_t)sizeof path) fail("a path is too long");
  read_bytes(requests, path, (size_t)length);
  int64_t number = read_number(requests);
  int64_t dimensions[MOST_TENSORS];
  ultra_tensor inputs[MOST_TENSORS], outputs[MOST_TENSORS];
  int64_t sizes[MOST_TENSORS];
  int64_t dimension_count = read_count(requests);
  for (int64_t i = 0; i < dimension_count; i++) dimensions[i] = read_number(requests);
  int64_t input_count = read_count(requests);
  for (int64_t i = 0; i < input_count; i++) {
    inputs[i].count = read_number(requests);
    size_t size = (size_t)read_number(requests);
    inputs[i].data = guarded(size);
    read_bytes(requests, inputs[i].data, size);
  }
  int64_t output_count = read_count(requests);
  for (int64_t i = 0; i < output_count; i++) {
    outputs[i].count = read_number(requests);
    sizes[i] = read_number(requests);
    outputs[i].data = guarded((size_t)(outputs[i].count * sizes[i]));
  }

  void *file = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  const ultra_model *model = file == NULL ? NULL : ultra_open(dlsym(file, ULTRA_MODEL_SYMBOL));
  if (model == NULL || model->refusal != NULL) {
    write_number(responses, model == NULL ? NOT_LOADED : REFUSED);
    write_text(responses, file == NULL ? dlerror() : model == NULL ? "no table" : model->refusal);
    return;
  }
  if (number < 0 || number >= (int64_t)model->entry_count) fail("there is no such entry");
  const ultra_entry *entry = &model->entries[number];
  size_t size = entry->workspace_size(dimensions, 1);
  char *workspace = size == SIZE_MAX ? NULL : aligned_alloc(ULTRA_WORKSPACE_ALIGNMENT, (size + 63) / 64 * 64);
  if (workspace == NULL) fail("no workspace");
  /* All ones are a NaN, and as an integer -1. */
  memset(workspace, 0xFF, size);
  ultra_call call = {
      .struct_size = sizeof call, .dimension_count = (uint32_t)dimension_count, .dimensions = dimensions,
      .inputs = inputs, .input_count = (uint32_t)input_count, .outputs = outputs,
      .output_count = (uint32_t)output_count, .workspace = workspace, .workspace_size = size,
  };
  int32_t status = entry->run(&call);
  write_number(responses, status);
  write_text(responses, model->level);
  for (int64_t i = 0; status == ULTRA_OK && i < output_count; i++) {
    write_number(responses, outputs[i].count);
    write_number(responses, outputs[i].count * sizes[i]);
    write_bytes(responses, outputs[i].data, outputs[i].count * sizes[i]);
  }
  free(workspace);
  dlclose(file);
}

int main(int count, char **arguments) {
  if (count != 3) fail("expected two files");
  FILE *requests = fopen(arguments[1], "rb"), *responses = fopen(arguments[2], "wb");
  if (requests == NULL || responses == NULL) fail("a file cannot be opened");
  for (int next; (next = fgetc(requests)) != EOF;) {
    ungetc(next, requests);
    answer(requests, responses);
  }
  if (fclose(responses) != 0) fail("a response cannot be written");
  return 0;
}
