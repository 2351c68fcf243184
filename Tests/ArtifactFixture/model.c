/* What the compiler would emit for a toy model, written by hand: the tests of the artifact and of the runtime, and of
 * the examples, load it. `forward` gives each sequence the mean of its items' embeddings and that mean's products with all
 * items but the first, `even` copies the rows of
 * even ids, so that its output is shorter than its input.
 *
 * Compiled with -DMANIFEST_SIZE=... beside note.bin, the bytes of ArtifactNote.makeNote.
 */
#include "ultra.h"

__asm__(
    ".section .note.ultra,\"a\",@note\n"
    ".balign 4\n"
    ".hidden ultra_note\n"
    ".globl ultra_note\n"
    "ultra_note: .incbin \"note.bin\"\n"
    ".section .note.ultra.weights,\"a\",@note\n"
    ".balign 8\n"
    ".long 6, 8, 2\n"
    ".asciz \"ULTRA\"\n"
    ".balign 8\n"
    ".quad 0\n"
    ".text\n");

extern const char ultra_note[] __attribute__((visibility("hidden")));

enum { WIDTH = 64, ITEMS = 1683, BEST = 10, DELTA_OFFSET = 48, MANIFEST_OFFSET = 80, TABLE_OFFSET = 64 };
#define LARGEST_EXTENT (INT64_C(1) << 40)

/* The item table is the second weight; the first is four bytes. */
static const float *table(void) {
  int64_t delta;
  __builtin_memcpy(&delta, ultra_note + DELTA_OFFSET, sizeof delta);
  return (const float *)(ultra_note + DELTA_OFFSET + delta + TABLE_OFFSET);
}

static int32_t refuse(const ultra_call *call, int32_t status, int32_t argument, int64_t position, int64_t found,
                      int64_t expected) {
  if (call->error != NULL && call->error->struct_size >= sizeof(ultra_error)) {
    call->error->status = status;
    call->error->argument = argument;
    call->error->position = position;
    call->error->found = found;
    call->error->expected = expected;
  }
  return status;
}

static int32_t check_ids(const ultra_call *call, int64_t rows) {
  const int64_t *ids = call->inputs[0].data;
  for (int64_t row = 0; row < rows; row++) {
    if (ids[row] < 0 || ids[row] >= ITEMS) return refuse(call, ULTRA_ID_OUT_OF_RANGE, 0, row, ids[row], ITEMS);
  }
  return ULTRA_OK;
}

/* What both entries ask of a call: counts, dimensions, inputs, workspace. */
static int32_t check_call(const ultra_call *call, uint32_t dimensions, uint32_t inputs, uint32_t outputs,
                          size_t workspace) {
  if (call == NULL || call->struct_size < sizeof(ultra_call)) return ULTRA_BAD_CALL;
  if (call->dimension_count != dimensions || call->dimensions == NULL || call->inputs == NULL || call->outputs == NULL)
    return refuse(call, ULTRA_BAD_CALL, -1, 0, 0, 0);
  if (call->input_count != inputs) return refuse(call, ULTRA_BAD_ARGUMENT_COUNT, -1, 0, call->input_count, inputs);
  if (call->output_count != outputs)
    return refuse(call, ULTRA_BAD_ARGUMENT_COUNT, -1, 0, call->output_count, outputs);
  for (uint32_t index = 0; index < dimensions; index++) {
    int64_t extent = call->dimensions[index];
    if (extent < 0 || extent > LARGEST_EXTENT) return refuse(call, ULTRA_BAD_DIMENSION, (int32_t)index, 0, extent, 0);
  }
  if (call->workspace_size < workspace || (workspace > 0 && call->workspace == NULL) ||
      (uintptr_t)call->workspace % ULTRA_WORKSPACE_ALIGNMENT != 0)
    return refuse(call, ULTRA_BAD_WORKSPACE, -1, 0, (int64_t)call->workspace_size, (int64_t)workspace);
  return ULTRA_OK;
}

static int32_t check_input(const ultra_call *call, int32_t index, int64_t expected) {
  const ultra_tensor *input = &call->inputs[index];
  if (input->count != expected || (expected > 0 && input->data == NULL))
    return refuse(call, ULTRA_BAD_INPUT, index, 0, input->count, expected);
  return ULTRA_OK;
}

static size_t forward_workspace(const int64_t *dimensions, uint32_t workers) {
  for (int index = 0; index < 2; index++) {
    if (dimensions[index] < 0 || dimensions[index] > LARGEST_EXTENT) return SIZE_MAX;
  }
  return workers * WIDTH * sizeof(double);
}

static void mean(void *context, int64_t sequence, uint32_t worker) {
  const ultra_call *call = context;
  const int64_t *ids = call->inputs[0].data;
  const int64_t *offsets = call->inputs[1].data;
  double *sum = (double *)call->workspace + (size_t)worker * WIDTH;
  float *output = (float *)call->outputs[0].data + sequence * WIDTH;
  int64_t begin = offsets[sequence], end = offsets[sequence + 1];
  for (int column = 0; column < WIDTH; column++) sum[column] = 0;
  for (int64_t row = begin; row < end; row++) {
    const float *embedding = table() + ids[row] * WIDTH;
    for (int column = 0; column < WIDTH; column++) sum[column] += (double)embedding[column];
  }
  for (int column = 0; column < WIDTH; column++)
    output[column] = end > begin ? (float)(sum[column] / (double)(end - begin)) : 0;
  float *scores = (float *)call->outputs[1].data + sequence * BEST;
  int64_t *best = (int64_t *)call->outputs[2].data + sequence * BEST;
  int count = 0;
  for (int item = 1; item < ITEMS; item++) {
    double sum_of_products = 0;
    for (int column = 0; column < WIDTH; column++)
      sum_of_products += (double)output[column] * (double)table()[item * WIDTH + column];
    float score = (float)sum_of_products;
    if (count == BEST && score <= scores[BEST - 1]) continue;
    if (count < BEST) count++;
    int place = count - 1;
    for (; place > 0 && scores[place - 1] < score; place--) {
      scores[place] = scores[place - 1];
      best[place] = best[place - 1];
    }
    scores[place] = score;
    best[place] = item;
  }
}

static int32_t forward(const ultra_call *call) {
  uint32_t workers = call != NULL && call->parallel != NULL ? call->parallel->workers : 1;
  int32_t status = check_call(call, 2, 4, 3, workers * WIDTH * sizeof(double));
  if (status != ULTRA_OK) return status;
  int64_t rows = call->dimensions[0], sequences = call->dimensions[1];
  const int64_t expected[4] = {rows, sequences + 1, rows, sequences};
  for (int32_t index = 0; index < 4; index++) {
    status = check_input(call, index, expected[index]);
    if (status != ULTRA_OK) return status;
  }
  const int64_t widths[3] = {WIDTH, BEST, BEST};
  for (int32_t index = 0; index < 3; index++) {
    const ultra_tensor *output = &call->outputs[index];
    if (output->count < sequences * widths[index] || (sequences > 0 && output->data == NULL))
      return refuse(call, ULTRA_BAD_OUTPUT, index, 0, output->count, sequences * widths[index]);
  }
  const int64_t *offsets = call->inputs[1].data;
  if (offsets[0] != 0) return refuse(call, ULTRA_BAD_OFFSETS, 1, 0, offsets[0], 0);
  for (int64_t index = 1; index <= sequences; index++) {
    if (offsets[index] < offsets[index - 1])
      return refuse(call, ULTRA_BAD_OFFSETS, 1, index, offsets[index], offsets[index - 1]);
  }
  if (offsets[sequences] != rows) return refuse(call, ULTRA_BAD_OFFSETS, 1, sequences, offsets[sequences], rows);
  status = check_ids(call, rows);
  if (status != ULTRA_OK) return status;
  if (call->parallel != NULL) {
    call->parallel->parallel_for(call->parallel->pool, sequences, mean, (void *)call);
  } else {
    for (int64_t sequence = 0; sequence < sequences; sequence++) mean((void *)call, sequence, 0);
  }
  for (int32_t index = 0; index < 3; index++) call->outputs[index].count = sequences * widths[index];
  return ULTRA_OK;
}

static size_t even_workspace(const int64_t *dimensions, uint32_t workers) {
  (void)workers;
  return dimensions[0] < 0 || dimensions[0] > LARGEST_EXTENT ? SIZE_MAX : 0;
}

static int32_t even(const ultra_call *call) {
  int32_t status = check_call(call, 1, 1, 1, 0);
  if (status != ULTRA_OK) return status;
  int64_t rows = call->dimensions[0];
  status = check_input(call, 0, rows);
  if (status == ULTRA_OK) status = check_ids(call, rows);
  if (status != ULTRA_OK) return status;
  const int64_t *ids = call->inputs[0].data;
  int64_t kept = 0;
  for (int64_t row = 0; row < rows; row++) kept += (ids[row] % 2 == 0);
  ultra_tensor *output = &call->outputs[0];
  if (output->count < kept * 2) return refuse(call, ULTRA_BAD_OUTPUT, 0, 0, output->count, kept * 2);
  int64_t *next = output->data;
  for (int64_t row = 0; row < rows; row++) {
    if (ids[row] % 2 != 0) continue;
    *next++ = row;
    *next++ = ids[row];
  }
  output->count = kept * 2;
  return ULTRA_OK;
}

static const ultra_entry entries[] = {
    {"forward", 2, 4, 3, 0, forward_workspace, forward},
    {"even", 1, 1, 1, 0, even_workspace, even},
};

#ifdef FAULT
FAULT
#endif

static const ultra_model model = {
    sizeof(ultra_model), ULTRA_ABI_VERSION, ultra_note + MANIFEST_OFFSET, MANIFEST_SIZE,
#ifdef REFUSE
    NULL, "this file needs AVX-512 BF16; compile with --target-cpu x86-64-v3", 0, NULL
#else
    "portable", NULL, sizeof entries / sizeof entries[0], entries
#endif
};

__attribute__((visibility("default"))) const ultra_model *ultra_model_v1(void) { return &model; }
