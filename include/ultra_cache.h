/* Histories that are kept: what a model's `prefill` and `extend` give and its `score` and `extend` take, as one block of the
 * caller's memory for each user. A block can be copied, written to a file or sent to another process; docs/abi.md has its
 * layout. A model does not need this: its entries take plain tensors. Compile ultra_cache.c,
 * ultra_cache_calls.c, ultra_cache_layout.c and ultra_checksum.c with the program.
 *
 *     ultra_cache *cache;
 *     ultra_cache_create(model, &cache);                               once for a model
 *     size_t size = ultra_cache_size(cache, 4096);                     room for 4096 rows of history
 *     ultra_cache_block block = {aligned_alloc(64, size), size};
 *     ultra_cache_initialise(cache, block, 4096);
 *     ultra_cache_begin(cache, &call);                                 puts the block's sections among the entry's arguments
 *     status = ultra_cache_entry(cache, call.kind)->run(...);
 *     ultra_cache_end(cache, &call);                                   what was computed is in the block
 *
 * A block is not trusted: every function that reads one checks its header against the model and against its size first. Only
 * `ultra_cache_create` allocates. Calls about different blocks may run at once, and so may calls of `score` about the same one.
 */
#ifndef ULTRA_CACHE_H
#define ULTRA_CACHE_H

#include "ultra.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The version of the layout of blocks. */
#define ULTRA_CACHE_VERSION 1u
/* Alignment of a block and of every section in it, in bytes. */
#define ULTRA_CACHE_ALIGNMENT 64u

/* What a function returned. After anything but ULTRA_CACHE_OK nothing was changed. */
enum ultra_cache_status {
  ULTRA_CACHE_OK = 0,
  /* Memory cannot be had. */
  ULTRA_CACHE_NO_MEMORY = 1,
  /* The model has no entries of cached scoring, or not the one that is asked for. */
  ULTRA_CACHE_NO_ENTRY = 2,
  /* The manifest is not as docs/abi.md says. */
  ULTRA_CACHE_BAD_MANIFEST = 3,
  /* A pointer is null, a struct's size or a count is not as it must be, or outputs are not as the entry leaves them. */
  ULTRA_CACHE_BAD_CALL = 4,
  /* A block, or scratch, is not at a multiple of ULTRA_CACHE_ALIGNMENT. */
  ULTRA_CACHE_NOT_ALIGNED = 5,
  /* A block is smaller than its header says, or than its capacity needs. */
  ULTRA_CACHE_TOO_SMALL = 6,
  /* The memory does not begin as a block does. */
  ULTRA_CACHE_NO_BLOCK = 7,
  /* The block's layout is of another version. */
  ULTRA_CACHE_OTHER_VERSION = 8,
  /* The block is of another compiled model. */
  ULTRA_CACHE_OTHER_MODEL = 9,
  /* The header's checksum is not that of the header, or its numbers contradict each other. */
  ULTRA_CACHE_DAMAGED = 10,
  /* There are more rows than the block has room for, or the capacity is negative or too large. */
  ULTRA_CACHE_FULL = 11,
  /* The offsets of the call's own rows decrease, do not begin with 0, or are not one more than users. */
  ULTRA_CACHE_BAD_OFFSETS = 12,
  /* The scratch memory is smaller than `ultra_cache_scratch_size`. */
  ULTRA_CACHE_BAD_SCRATCH = 13
};

/* A sentence for a status, without a full stop. */
const char *ultra_cache_message(int32_t status);

/* The entries of cached scoring. */
enum ultra_cache_kind { ULTRA_CACHE_PREFILL = 0, ULTRA_CACHE_SCORE = 1, ULTRA_CACHE_EXTEND = 2 };

/* What a model keeps of a history, as its manifest says; read once, then only read, by any number of threads. */
typedef struct ultra_cache ultra_cache;

/* A block: memory of the caller, and its bytes. */
typedef struct ultra_cache_block {
  void *memory;
  size_t size;
} ultra_cache_block;

/* Reads the manifest; the model must stay loaded as long as the result is used. */
int32_t ultra_cache_create(const ultra_model *model, ultra_cache **result);
/* Null is allowed. */
void ultra_cache_destroy(ultra_cache *cache);

/* The entry; null where the model has none of this kind. */
const ultra_entry *ultra_cache_entry(const ultra_cache *cache, uint32_t kind);
/* The place of an input or an output of the entry, by its name in the manifest; -1 where there is none. */
int32_t ultra_cache_input(const ultra_cache *cache, uint32_t kind, const char *name);
int32_t ultra_cache_output(const ultra_cache *cache, uint32_t kind, const char *name);
/* Whether an input of the entry is one that `ultra_cache_begin` sets; the others are the caller's. */
int ultra_cache_sets_input(const ultra_cache *cache, uint32_t kind, uint32_t input);
/* Whether an output of the entry is one that `ultra_cache_begin` sets. */
int ultra_cache_sets_output(const ultra_cache *cache, uint32_t kind, uint32_t output);

/* Bytes of a block with room for `capacity` rows of history, as `prefill` and `extend` take them; SIZE_MAX where that is
 * negative or too large. */
size_t ultra_cache_size(const ultra_cache *cache, int64_t capacity);
/* Makes a block of a history without rows. Of the memory, only the header is written. */
int32_t ultra_cache_initialise(const ultra_cache *cache, ultra_cache_block block, int64_t capacity);
/* Whether the memory is a block of this model, whole and undamaged but for the numbers in its sections. */
int32_t ultra_cache_check(const ultra_cache *cache, ultra_cache_block block);
/* Rows of history that a block holds, and that it has room for; -1 where `ultra_cache_check` refuses it. */
int64_t ultra_cache_rows(const ultra_cache *cache, ultra_cache_block block);
int64_t ultra_cache_capacity(const ultra_cache *cache, ultra_cache_block block);
/* Makes a block of this capacity with what another one holds; they must not overlap. To store a block, copy it into one whose
 * capacity is its rows; to let it grow, into one with more. */
int32_t ultra_cache_copy(const ultra_cache *cache, ultra_cache_block from, ultra_cache_block into, int64_t capacity);

/* One call of an entry about the histories of some users. */
typedef struct ultra_cache_call {
  uint32_t struct_size;
  /* An ultra_cache_kind. */
  uint32_t kind;
  uint32_t users;
  /* Set where a function refuses a block: which one. */
  uint32_t refused;
  /* One for each user; of `prefill` and `extend` all different. */
  const ultra_cache_block *blocks;
  /* As many as the entry has. The caller sets what is its own; among the inputs, the offsets of its rows before
   * `ultra_cache_scratch_size` is asked. The rest is set by `ultra_cache_begin`: kept inputs and outputs, sequences, and the
   * numbers of kept and own rows. */
  int64_t *dimensions;
  ultra_tensor *inputs;
  ultra_tensor *outputs;
  /* Memory of the caller at a multiple of ULTRA_CACHE_ALIGNMENT. With one user, it holds offsets, and new rows of layers that keep a
   * window; nothing that is kept is copied. With several, what they keep is gathered in it. It must stay as it is until
   * `ultra_cache_end`. */
  void *scratch;
  size_t scratch_size;
} ultra_cache_call;

/* Bytes of scratch that the call needs; SIZE_MAX where it is refused. */
size_t ultra_cache_scratch_size(const ultra_cache *cache, ultra_cache_call *call);
/* Sets the entry's arguments. `prefill` empties the blocks first. */
int32_t ultra_cache_begin(const ultra_cache *cache, ultra_cache_call *call);
/* After `prefill` or `extend` returned ULTRA_OK: makes the computed rows part of the blocks. Without it they are not: a call of
 * `extend` then tells what a model makes of further rows, and leaves the histories as they were. */
int32_t ultra_cache_end(const ultra_cache *cache, ultra_cache_call *call);

#ifdef __cplusplus
}
#endif

#endif
