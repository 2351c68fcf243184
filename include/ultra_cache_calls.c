/* Puts what blocks hold among the arguments of a call, and what a call computed into blocks. */
#include "ultra_cache_layout.h"

#include <string.h>

/* Goes through a call's arguments. Without scratch it only counts the bytes of scratch that they need. */
typedef struct walk {
  const ultra_cache *cache;
  ultra_cache_call *call;
  /* The offsets of the call's own rows. */
  const int64_t *own;
  char *scratch;
  int64_t used;
} walk;

int ultra_cache_sets_input(const ultra_cache *cache, uint32_t kind, uint32_t input) {
  if (ultra_cache_entry(cache, kind) == NULL) return 0;
  for (uint32_t index = 0; index < cache->cut_count; index++) {
    if (cache->cuts[index].input[kind] == (int32_t)input) return 1;
  }
  for (uint32_t index = 0; index < cache->section_count; index++) {
    if (cache->sections[index].input[kind] == (int32_t)input) return 1;
  }
  return 0;
}

int ultra_cache_sets_output(const ultra_cache *cache, uint32_t kind, uint32_t output) {
  if (ultra_cache_entry(cache, kind) == NULL) return 0;
  for (uint32_t index = 0; index < cache->cut_count; index++) {
    if (kind == ULTRA_CACHE_PREFILL && cache->cuts[index].output == (int32_t)output) return 1;
  }
  for (uint32_t index = 0; index < cache->section_count; index++) {
    if (cache->sections[index].output[kind] == (int32_t)output) return 1;
  }
  return 0;
}

/* MARK: Checks */

static int64_t own_rows(const walk *walk, uint32_t user) { return walk->own[user + 1] - walk->own[user]; }

/* Whether offsets cut rows into as many sequences as there are users. */
static bool are_offsets(const ultra_cache_call *call, const ultra_tensor *tensor) {
  const int64_t *offsets = tensor->data;
  if (offsets == NULL || tensor->count != (int64_t)call->users + 1 || offsets[0] != 0) return false;
  for (uint32_t user = 0; user < call->users; user++) {
    if (offsets[user + 1] < offsets[user]) return false;
  }
  return true;
}

/* Whether a block has room for the rows that a call brings for it. */
static bool has_room(const walk *walk, uint32_t user) {
  ultra_cache_block block = walk->call->blocks[user];
  int64_t room = ultra_cache_room(block), rows = own_rows(walk, user), needed, left_out;
  if (walk->call->kind == ULTRA_CACHE_SCORE) return true;
  if (walk->call->kind == ULTRA_CACHE_PREFILL) return rows <= room;
  if (!ultra_cache_add(ultra_cache_rows(walk->cache, block), rows, &needed) || needed > room) return false;
  for (uint32_t index = 0; index < walk->cache->cut_count; index++) {
    const int64_t held = ultra_cache_cut_rows(block)[index];
    if (!ultra_cache_fit(&walk->cache->cuts[index], room, held, rows, &needed, &left_out)) return false;
  }
  return true;
}

static int32_t start(walk *walk, const ultra_cache *cache, ultra_cache_call *call) {
  if (cache == NULL || call == NULL || call->struct_size < sizeof *call) return ULTRA_CACHE_BAD_CALL;
  const ultra_entry *entry = ultra_cache_entry(cache, call->kind);
  if (entry == NULL) return ULTRA_CACHE_NO_ENTRY;
  call->refused = 0;
  if (call->dimensions == NULL || call->inputs == NULL || (call->outputs == NULL && entry->output_count > 0) ||
      (call->blocks == NULL && call->users > 0) || call->users > INT32_MAX) {
    return ULTRA_CACHE_BAD_CALL;
  }
  const ultra_tensor *offsets = &call->inputs[cache->own_offsets[call->kind]];
  if (!are_offsets(call, offsets)) return ULTRA_CACHE_BAD_OFFSETS;
  memset(walk, 0, sizeof *walk);
  walk->cache = cache;
  walk->call = call;
  walk->own = offsets->data;
  for (uint32_t user = 0; user < call->users; user++) {
    call->refused = user;
    int32_t status = ultra_cache_check(cache, call->blocks[user]);
    if (status != ULTRA_CACHE_OK) return status;
    if (!has_room(walk, user)) return ULTRA_CACHE_FULL;
  }
  call->refused = 0;
  return ULTRA_CACHE_OK;
}

/* MARK: Arguments */

static bool take(walk *walk, int64_t bytes, char **memory) {
  *memory = walk->scratch != NULL ? walk->scratch + walk->used : NULL;
  return ultra_cache_align(bytes, &bytes) && ultra_cache_add(walk->used, bytes, &walk->used);
}

/* The rows of a cut that all users keep. */
static bool kept_rows(const walk *walk, uint32_t cut, int64_t *rows) {
  *rows = 0;
  for (uint32_t user = 0; user < walk->call->users; user++) {
    if (!ultra_cache_add(*rows, ultra_cache_cut_rows(walk->call->blocks[user])[cut], rows)) return false;
  }
  return true;
}

static bool place_cut(walk *walk, uint32_t index) {
  const ultra_cache_cut *cut = &walk->cache->cuts[index];
  ultra_cache_call *call = walk->call;
  const int64_t count = (int64_t)call->users + 1;
  char *memory;
  if (cut->input[call->kind] >= 0) {
    if (!take(walk, count * (int64_t)sizeof(int64_t), &memory)) return false;
    if (walk->scratch != NULL) {
      int64_t *offsets = (int64_t *)memory;
      offsets[0] = 0;
      for (uint32_t user = 0; user < call->users; user++) {
        offsets[user + 1] = offsets[user] + ultra_cache_cut_rows(call->blocks[user])[index];
      }
      call->inputs[cut->input[call->kind]] = (ultra_tensor){offsets, count};
      call->dimensions[cut->dimension[call->kind]] = offsets[call->users];
    }
  }
  if (call->kind == ULTRA_CACHE_PREFILL && cut->output >= 0) {
    if (!take(walk, count * (int64_t)sizeof(int64_t), &memory)) return false;
    if (walk->scratch != NULL) call->outputs[cut->output] = (ultra_tensor){memory, count};
  }
  return true;
}

/* A section as an input: where it is, or of several users one behind the other. */
static bool place_input(walk *walk, uint32_t index, ultra_tensor *input) {
  const ultra_cache_section *section = &walk->cache->sections[index];
  const ultra_cache_call *call = walk->call;
  int64_t rows, bytes;
  if (!kept_rows(walk, section->cut, &rows)) return false;
  if (call->users == 1) {
    if (walk->scratch != NULL) {
      char *memory = ultra_cache_section_memory(walk->cache, call->blocks[0], index);
      *input = (ultra_tensor){memory, rows * section->row_count};
    }
    return true;
  }
  char *memory;
  if (!ultra_cache_multiply(rows, section->row_bytes, &bytes) || !take(walk, bytes, &memory)) return false;
  if (walk->scratch == NULL) return true;
  *input = (ultra_tensor){memory, rows * section->row_count};
  for (uint32_t user = 0; user < call->users; user++) {
    size_t size = (size_t)(ultra_cache_cut_rows(call->blocks[user])[section->cut] * section->row_bytes);
    if (size > 0) memcpy(memory, ultra_cache_section_memory(walk->cache, call->blocks[user], index), size);
    memory += size;
  }
  return true;
}

/* Whether the call computes rows where they stay: those of one user, but for what goes on in a window, where others may have to make
 * room for them. */
static bool is_in_place(const walk *walk, const ultra_cache_cut *cut) {
  return walk->call->users == 1 && (walk->call->kind == ULTRA_CACHE_PREFILL || cut->latest == 0);
}

/* Room for what the entry computes of a section: behind what is kept, or of several users in scratch. */
static bool place_output(walk *walk, uint32_t index, ultra_tensor *output) {
  const ultra_cache_section *section = &walk->cache->sections[index];
  const ultra_cache_cut *cut = &walk->cache->cuts[section->cut];
  const ultra_cache_call *call = walk->call;
  const bool fills = call->kind == ULTRA_CACHE_PREFILL;
  int64_t rows = 0, bytes;
  for (uint32_t user = 0; user < call->users; user++) {
    int64_t own = own_rows(walk, user);
    if ((fills && !ultra_cache_cut_capacity(cut, own, &own)) || !ultra_cache_add(rows, own, &rows)) return false;
  }
  char *memory;
  if (is_in_place(walk, cut)) {
    int64_t held = fills ? 0 : ultra_cache_cut_rows(call->blocks[0])[section->cut];
    memory = ultra_cache_section_memory(walk->cache, call->blocks[0], index) + held * section->row_bytes;
  } else if (!ultra_cache_multiply(rows, section->row_bytes, &bytes) || !take(walk, bytes, &memory)) {
    return false;
  }
  if (walk->scratch != NULL) *output = (ultra_tensor){memory, rows * section->row_count};
  return true;
}

static bool place(walk *walk) {
  const ultra_cache *cache = walk->cache;
  ultra_cache_call *call = walk->call;
  if (walk->scratch != NULL) {
    call->dimensions[cache->sequences[call->kind]] = call->users;
    call->dimensions[cache->own_rows[call->kind]] = walk->own[call->users];
  }
  for (uint32_t index = 0; index < cache->cut_count; index++) {
    if (!place_cut(walk, index)) return false;
  }
  for (uint32_t index = 0; index < cache->section_count; index++) {
    const int32_t input = cache->sections[index].input[call->kind], output = cache->sections[index].output[call->kind];
    if (input >= 0 && !place_input(walk, index, &call->inputs[input])) return false;
    if (output >= 0 && !place_output(walk, index, &call->outputs[output])) return false;
  }
  return true;
}

size_t ultra_cache_scratch_size(const ultra_cache *cache, ultra_cache_call *call) {
  walk walk;
  if (start(&walk, cache, call) != ULTRA_CACHE_OK || !place(&walk) || (uint64_t)walk.used >= SIZE_MAX) return SIZE_MAX;
  return (size_t)walk.used;
}

int32_t ultra_cache_begin(const ultra_cache *cache, ultra_cache_call *call) {
  walk walk;
  int32_t status = start(&walk, cache, call);
  if (status != ULTRA_CACHE_OK) return status;
  if (!place(&walk) || (uint64_t)walk.used > call->scratch_size) return ULTRA_CACHE_BAD_SCRATCH;
  if (call->scratch == NULL) return ULTRA_CACHE_BAD_CALL;
  if ((uintptr_t)call->scratch % ULTRA_CACHE_ALIGNMENT != 0) return ULTRA_CACHE_NOT_ALIGNED;
  walk.scratch = call->scratch;
  walk.used = 0;
  place(&walk);
  /* Its sections are written over from now on, whatever becomes of the call. */
  for (uint32_t user = 0; user < call->users && call->kind == ULTRA_CACHE_PREFILL; user++) {
    ultra_cache_empty(cache, call->blocks[user]);
  }
  return ULTRA_CACHE_OK;
}

/* MARK: Results */

/* The offsets that cut what the entry gave of a cut. */
static const int64_t *given_offsets(const walk *walk, const ultra_cache_cut *cut) {
  if (walk->call->kind != ULTRA_CACHE_PREFILL || cut->output < 0) return walk->own;
  return walk->call->outputs[cut->output].data;
}

/* Whether outputs are as the entry leaves them in the memory that they were given. */
static bool are_given(const walk *walk) {
  const ultra_cache_call *call = walk->call;
  for (uint32_t index = 0; index < walk->cache->cut_count; index++) {
    const ultra_cache_cut *cut = &walk->cache->cuts[index];
    if (call->kind == ULTRA_CACHE_PREFILL && cut->output >= 0 && !are_offsets(call, &call->outputs[cut->output])) {
      return false;
    }
  }
  for (uint32_t index = 0; index < walk->cache->section_count; index++) {
    const ultra_cache_section *section = &walk->cache->sections[index];
    const bool isBrought = section->brought[call->kind] >= 0;
    const ultra_tensor *given =
        isBrought ? &call->inputs[section->brought[call->kind]] : &call->outputs[section->output[call->kind]];
    int64_t rows = given_offsets(walk, &walk->cache->cuts[section->cut])[call->users], count;
    if (!ultra_cache_multiply(rows, section->row_count, &count) || given->count != count) return false;
    if (given->data == NULL && count > 0) return false;
    if (!isBrought && is_in_place(walk, &walk->cache->cuts[section->cut])) {
      int64_t held = call->kind == ULTRA_CACHE_PREFILL ? 0 : ultra_cache_cut_rows(call->blocks[0])[section->cut];
      char *memory = ultra_cache_section_memory(walk->cache, call->blocks[0], index) + held * section->row_bytes;
      if (given->data != memory) return false;
    }
  }
  return true;
}

/* Whether a user's rows fit behind what the block holds: nothing, where `prefill` filled it. */
static bool fit(const walk *walk, uint32_t user) {
  ultra_cache_block block = walk->call->blocks[user];
  int64_t room = ultra_cache_room(block), held = ultra_cache_rows(walk->cache, block), needed, left_out;
  if (walk->call->kind == ULTRA_CACHE_PREFILL && held != 0) return false;
  if (!ultra_cache_add(held, own_rows(walk, user), &needed) || needed > room) return false;
  for (uint32_t index = 0; index < walk->cache->cut_count; index++) {
    const ultra_cache_cut *cut = &walk->cache->cuts[index];
    const int64_t *offsets = given_offsets(walk, cut);
    if (!ultra_cache_fit(cut, room, ultra_cache_cut_rows(block)[index], offsets[user + 1] - offsets[user], &needed,
                         &left_out)) {
      return false;
    }
  }
  return true;
}

/* Moves rows `from` to `end` of a section's `held` rows and of new ones behind them to its place `into`, which is no later. */
static void move_rows(char *memory, int64_t held, const char *added, int64_t row_bytes, int64_t from, int64_t end,
                      int64_t into) {
  const int64_t old_end = end < held ? end : held, new_start = from > held ? from : held;
  if (from < old_end) {
    memmove(memory + into * row_bytes, memory + from * row_bytes, (size_t)((old_end - from) * row_bytes));
    into += old_end - from;
  }
  if (new_start < end) {
    memcpy(memory + into * row_bytes, added + (new_start - held) * row_bytes, (size_t)((end - new_start) * row_bytes));
  }
}

/* Moves a user's rows from where the call has them into the block. */
static void put(const walk *walk, uint32_t user) {
  const ultra_cache_call *call = walk->call;
  ultra_cache_block block = call->blocks[user];
  const int64_t room = ultra_cache_room(block);
  int64_t rows, left_out;
  for (uint32_t index = 0; index < walk->cache->section_count; index++) {
    const ultra_cache_section *section = &walk->cache->sections[index];
    const ultra_cache_cut *cut = &walk->cache->cuts[section->cut];
    const int32_t brought = section->brought[call->kind];
    if (brought < 0 && is_in_place(walk, cut)) continue;
    const int64_t *offsets = given_offsets(walk, cut);
    const char *from = brought >= 0 ? call->inputs[brought].data : call->outputs[section->output[call->kind]].data;
    const int64_t held = ultra_cache_cut_rows(block)[section->cut], added = offsets[user + 1] - offsets[user];
    if (added == 0) continue;
    ultra_cache_fit(cut, room, held, added, &rows, &left_out);
    from += offsets[user] * section->row_bytes;
    char *memory = ultra_cache_section_memory(walk->cache, block, index);
    if (left_out > 0) {
      move_rows(memory, held, from, section->row_bytes, 0, cut->first, 0);
      move_rows(memory, held, from, section->row_bytes, cut->first + left_out, held + added, cut->first);
    } else {
      move_rows(memory, held, from, section->row_bytes, held, held + added, held);
    }
  }
  for (uint32_t index = 0; index < walk->cache->cut_count; index++) {
    const int64_t *offsets = given_offsets(walk, &walk->cache->cuts[index]);
    int64_t *held = &ultra_cache_cut_rows(block)[index];
    ultra_cache_fit(&walk->cache->cuts[index], room, *held, offsets[user + 1] - offsets[user], &rows, &left_out);
    *held = rows;
  }
  ultra_cache_count(walk->cache, block, own_rows(walk, user));
}

int32_t ultra_cache_end(const ultra_cache *cache, ultra_cache_call *call) {
  walk walk;
  int32_t status = start(&walk, cache, call);
  if (status != ULTRA_CACHE_OK) return status;
  if (call->kind == ULTRA_CACHE_SCORE) return ULTRA_CACHE_OK;
  if (!are_given(&walk)) return ULTRA_CACHE_BAD_CALL;
  for (uint32_t user = 0; user < call->users; user++) {
    call->refused = user;
    if (!fit(&walk, user)) return ULTRA_CACHE_BAD_CALL;
  }
  for (uint32_t user = 0; user < call->users; user++) {
    /* Again: where one block stands for two users, the first one's rows are in it now. */
    call->refused = user;
    if (!fit(&walk, user)) return ULTRA_CACHE_BAD_CALL;
    put(&walk, user);
  }
  call->refused = 0;
  return ULTRA_CACHE_OK;
}
