/* What ultra_cache.c knows of a model: not for callers. */
#ifndef ULTRA_CACHE_LAYOUT_H
#define ULTRA_CACHE_LAYOUT_H

#include "ultra_cache.h"

#include <stdbool.h>

enum { ULTRA_CACHE_KINDS = 3 };

/* A piece of the manifest: a JSON value without the space around it, or what stands between the quotes of a string. */
typedef struct ultra_cache_text {
  const char *start;
  const char *end;
} ultra_cache_text;

/* Rows that several sections share, and what cuts them into sequences. */
typedef struct ultra_cache_cut {
  /* The offsets that bring it, as entries call them. */
  ultra_cache_text name;
  /* The place of its offsets among an entry's inputs, and of their rows among its dimensions; -1 where it takes none. */
  int32_t input[ULTRA_CACHE_KINDS];
  int32_t dimension[ULTRA_CACHE_KINDS];
  /* The place of its offsets among the outputs of `prefill`; -1 where the caller's own rows are cut so. */
  int32_t output;
  /* Of a window, the rows that are needed: so many first and latest ones, of which there is one at least; the others may be left out,
   * an even number at a time. Else 0. */
  int64_t first;
  int64_t latest;
  /* At most so many rows: `of_rows` times the rows of a history and `constant`, and no more than `most`. */
  int64_t of_rows;
  int64_t constant;
  int64_t most;
} ultra_cache_cut;

/* One tensor of what is kept. */
typedef struct ultra_cache_section {
  ultra_cache_text name;
  uint32_t cut;
  /* Numbers of a row, and its bytes. */
  int64_t row_count;
  int64_t row_bytes;
  /* Its place among an entry's inputs and outputs; -1 where there is none. */
  int32_t input[ULTRA_CACHE_KINDS];
  int32_t output[ULTRA_CACHE_KINDS];
  /* The input of an entry whose rows it keeps as the caller brings them; -1 where it is computed. */
  int32_t brought[ULTRA_CACHE_KINDS];
} ultra_cache_section;

struct ultra_cache {
  const ultra_entry *entries[ULTRA_CACHE_KINDS];
  /* An entry's object in the manifest. */
  ultra_cache_text signatures[ULTRA_CACHE_KINDS];
  /* The place of the own rows' offsets among an entry's inputs, and of their extents among its dimensions. */
  int32_t own_offsets[ULTRA_CACHE_KINDS];
  int32_t own_rows[ULTRA_CACHE_KINDS];
  int32_t sequences[ULTRA_CACHE_KINDS];
  /* CRC-64 of the manifest. */
  uint64_t identity;
  uint32_t cut_count;
  uint32_t section_count;
  ultra_cache_cut *cuts;
  ultra_cache_section *sections;
};

/* Whether the sum, or the product, of numbers from 0 on is one of 62 bits, which it then is. */
static inline bool ultra_cache_add(int64_t left, int64_t right, int64_t *sum) {
  const int64_t most = INT64_C(1) << 62;
  if (left < 0 || right < 0 || left > most || right > most - left) return false;
  *sum = left + right;
  return true;
}

static inline bool ultra_cache_multiply(int64_t left, int64_t right, int64_t *product) {
  const int64_t most = INT64_C(1) << 62;
  if (left < 0 || right < 0 || (right > 0 && left > most / right)) return false;
  *product = left * right;
  return true;
}

/* What follows is of blocks that were checked. */

/* The rows of each cut that a block holds. */
int64_t *ultra_cache_cut_rows(ultra_cache_block block);
/* The most rows of a cut that a history of so many rows has; false where that is no number of 62 bits. */
bool ultra_cache_cut_capacity(const ultra_cache_cut *cut, int64_t rows, int64_t *capacity);
/* A section's first row. */
char *ultra_cache_section_memory(const ultra_cache *cache, ultra_cache_block block, uint32_t section);
/* The rows of a cut when `added` rows come behind `held` ones, and how many behind the first are left out for it: none where there is
 * room for all. False where they do not fit. */
bool ultra_cache_fit(const ultra_cache_cut *cut, int64_t capacity, int64_t held, int64_t added, int64_t *rows,
                     int64_t *left_out);
/* Rows of history that the block has room for. */
int64_t ultra_cache_room(ultra_cache_block block);
/* Empties a block. */
void ultra_cache_empty(const ultra_cache *cache, ultra_cache_block block);
/* Counts rows of history in whose sections and cuts are filled and counted already. */
void ultra_cache_count(const ultra_cache *cache, ultra_cache_block block, int64_t rows);
/* Bytes up to the next multiple of the alignment; false where they are no number of 62 bits. */
bool ultra_cache_align(int64_t bytes, int64_t *aligned);

#endif
