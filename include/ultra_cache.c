/* Blocks of kept histories, and calls about them. */
#include "ultra_cache_layout.h"

#include "ultra_checksum.h"

#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#error "blocks are little-endian, as compiled models are"
#endif

enum { ALIGNMENT = ULTRA_CACHE_ALIGNMENT, FIXED_BYTES = 64, CHECKSUM_OFFSET = 56 };

/* "ULTRAHST" in the order of bytes in memory. */
static const unsigned char magic[8] = {'U', 'L', 'T', 'R', 'A', 'H', 'S', 'T'};

/* A block's header as it lies in memory; the rows of each cut follow, one int64 each. */
typedef struct header {
  unsigned char magic[8];
  uint32_t version;
  uint32_t header_bytes;
  uint64_t identity;
  int64_t block_bytes;
  /* Rows of history that there is room for, and that are held. */
  int64_t capacity;
  int64_t rows;
  uint32_t cut_count;
  uint32_t section_count;
  /* CRC-64/XZ of the header's bytes with this field zero. */
  uint64_t checksum;
} header;

_Static_assert(sizeof(header) == FIXED_BYTES, "the header's layout is docs/abi.md's");
_Static_assert(offsetof(header, checksum) == CHECKSUM_OFFSET, "the header's layout is docs/abi.md's");

const char *ultra_cache_message(int32_t status) {
  switch (status) {
    case ULTRA_CACHE_OK: return "all is well";
    case ULTRA_CACHE_NO_MEMORY: return "memory cannot be had";
    case ULTRA_CACHE_NO_ENTRY: return "the model has no such entry; compile it with --rewrite cached-scoring";
    case ULTRA_CACHE_BAD_MANIFEST: return "the manifest does not say what is kept; compile the model again";
    case ULTRA_CACHE_BAD_CALL: return "a pointer is null, or a size or a count is not as it must be";
    case ULTRA_CACHE_NOT_ALIGNED: return "the memory does not begin at a multiple of 64 bytes";
    case ULTRA_CACHE_TOO_SMALL: return "the memory is smaller than the block";
    case ULTRA_CACHE_NO_BLOCK: return "the memory holds no block of a kept history";
    case ULTRA_CACHE_OTHER_VERSION: return "the block is of another version of the layout";
    case ULTRA_CACHE_OTHER_MODEL: return "the block is of another compiled model";
    case ULTRA_CACHE_DAMAGED: return "the block's header is damaged";
    case ULTRA_CACHE_FULL: return "there are more rows than there is room for";
    case ULTRA_CACHE_BAD_OFFSETS: return "offsets do not begin with 0, or decrease";
    case ULTRA_CACHE_BAD_SCRATCH: return "the scratch memory is too small";
    default: return "the status is unknown";
  }
}

/* MARK: Sizes */

bool ultra_cache_align(int64_t bytes, int64_t *aligned) {
  if (!ultra_cache_add(bytes, ALIGNMENT - 1, aligned)) return false;
  *aligned &= ~(int64_t)(ALIGNMENT - 1);
  return true;
}

static int64_t header_bytes(const ultra_cache *cache) {
  int64_t bytes = FIXED_BYTES + (int64_t)cache->cut_count * (int64_t)sizeof(int64_t);
  return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

bool ultra_cache_cut_capacity(const ultra_cache_cut *cut, int64_t rows, int64_t *capacity) {
  if (!ultra_cache_multiply(rows, cut->of_rows, capacity)) return false;
  if (!ultra_cache_add(*capacity, cut->constant, capacity)) return false;
  if (*capacity > cut->most) *capacity = cut->most;
  return true;
}

bool ultra_cache_fit(const ultra_cache_cut *cut, int64_t capacity, int64_t held, int64_t added, int64_t *rows,
                     int64_t *left_out) {
  int64_t most;
  *left_out = 0;
  if (!ultra_cache_add(held, added, rows) || !ultra_cache_cut_capacity(cut, capacity, &most)) return false;
  const int64_t needed = cut->first + cut->latest;
  if (*rows > most && cut->latest > 0 && *rows > needed) *left_out = (*rows - needed) / 2 * 2;
  *rows -= *left_out;
  return *rows <= most;
}

/* The bytes of a block up to the section, or of all of it; false where they are no number of 62 bits. */
static bool offset_of(const ultra_cache *cache, uint32_t section, int64_t capacity, int64_t *offset) {
  *offset = header_bytes(cache);
  for (uint32_t index = 0; index < section; index++) {
    const ultra_cache_section *next = &cache->sections[index];
    int64_t rows, bytes;
    if (!ultra_cache_cut_capacity(&cache->cuts[next->cut], capacity, &rows) || !ultra_cache_multiply(rows, next->row_bytes, &bytes) ||
        !ultra_cache_align(bytes, &bytes) || !ultra_cache_add(*offset, bytes, offset)) {
      return false;
    }
  }
  return true;
}

size_t ultra_cache_size(const ultra_cache *cache, int64_t capacity) {
  int64_t size;
  if (cache == NULL || !offset_of(cache, cache->section_count, capacity, &size) || (uint64_t)size >= SIZE_MAX) {
    return SIZE_MAX;
  }
  return (size_t)size;
}

/* MARK: Headers */

int64_t *ultra_cache_cut_rows(ultra_cache_block block) { return (int64_t *)((char *)block.memory + FIXED_BYTES); }

char *ultra_cache_section_memory(const ultra_cache *cache, ultra_cache_block block, uint32_t section) {
  int64_t offset = 0;
  offset_of(cache, section, ((const header *)block.memory)->capacity, &offset);
  return (char *)block.memory + offset;
}

static uint64_t checksum(const ultra_cache *cache, ultra_cache_block block) {
  static const unsigned char zeros[8] = {0};
  uint64_t sum = ultra_crc64(0, block.memory, CHECKSUM_OFFSET);
  sum = ultra_crc64(sum, zeros, sizeof zeros);
  return ultra_crc64(sum, (char *)block.memory + FIXED_BYTES, (size_t)header_bytes(cache) - FIXED_BYTES);
}

static void seal(const ultra_cache *cache, ultra_cache_block block) {
  ((header *)block.memory)->checksum = checksum(cache, block);
}

static int32_t check_memory(const ultra_cache *cache, ultra_cache_block block) {
  if (cache == NULL || block.memory == NULL) return ULTRA_CACHE_BAD_CALL;
  if ((uintptr_t)block.memory % ALIGNMENT != 0) return ULTRA_CACHE_NOT_ALIGNED;
  return ULTRA_CACHE_OK;
}

int32_t ultra_cache_check(const ultra_cache *cache, ultra_cache_block block) {
  int32_t status = check_memory(cache, block);
  if (status != ULTRA_CACHE_OK) return status;
  /* What tells strangers apart first: the rest of a header means something only in this layout, of this model. */
  if (block.size < FIXED_BYTES) return ULTRA_CACHE_TOO_SMALL;
  const header *head = block.memory;
  if (memcmp(head->magic, magic, sizeof magic) != 0) return ULTRA_CACHE_NO_BLOCK;
  if (head->version != ULTRA_CACHE_VERSION) return ULTRA_CACHE_OTHER_VERSION;
  if (head->identity != cache->identity) return ULTRA_CACHE_OTHER_MODEL;
  if (head->header_bytes != header_bytes(cache) || head->cut_count != cache->cut_count ||
      head->section_count != cache->section_count) {
    return ULTRA_CACHE_DAMAGED;
  }
  if (block.size < head->header_bytes) return ULTRA_CACHE_TOO_SMALL;
  if (head->checksum != checksum(cache, block)) return ULTRA_CACHE_DAMAGED;
  /* A checksum is no signature: whoever made the block may have written anything. */
  int64_t size, room;
  if (head->rows < 0 || head->rows > head->capacity ||
      !offset_of(cache, cache->section_count, head->capacity, &size) || head->block_bytes != size) {
    return ULTRA_CACHE_DAMAGED;
  }
  if (block.size < (uint64_t)size) return ULTRA_CACHE_TOO_SMALL;
  for (uint32_t index = 0; index < cache->cut_count; index++) {
    int64_t rows = ultra_cache_cut_rows(block)[index];
    if (rows < 0 || !ultra_cache_cut_capacity(&cache->cuts[index], head->capacity, &room) || rows > room) return ULTRA_CACHE_DAMAGED;
  }
  return ULTRA_CACHE_OK;
}

int32_t ultra_cache_initialise(const ultra_cache *cache, ultra_cache_block block, int64_t capacity) {
  int32_t status = check_memory(cache, block);
  if (status != ULTRA_CACHE_OK) return status;
  size_t size = ultra_cache_size(cache, capacity);
  if (size == SIZE_MAX) return ULTRA_CACHE_FULL;
  if (block.size < size) return ULTRA_CACHE_TOO_SMALL;
  memset(block.memory, 0, (size_t)header_bytes(cache));
  header *head = block.memory;
  memcpy(head->magic, magic, sizeof magic);
  head->version = ULTRA_CACHE_VERSION;
  head->header_bytes = (uint32_t)header_bytes(cache);
  head->identity = cache->identity;
  head->block_bytes = (int64_t)size;
  head->capacity = capacity;
  head->cut_count = cache->cut_count;
  head->section_count = cache->section_count;
  seal(cache, block);
  return ULTRA_CACHE_OK;
}

int64_t ultra_cache_room(ultra_cache_block block) { return ((const header *)block.memory)->capacity; }

void ultra_cache_empty(const ultra_cache *cache, ultra_cache_block block) {
  ((header *)block.memory)->rows = 0;
  memset(ultra_cache_cut_rows(block), 0, cache->cut_count * sizeof(int64_t));
  seal(cache, block);
}

void ultra_cache_count(const ultra_cache *cache, ultra_cache_block block, int64_t rows) {
  ((header *)block.memory)->rows += rows;
  seal(cache, block);
}

int64_t ultra_cache_rows(const ultra_cache *cache, ultra_cache_block block) {
  return ultra_cache_check(cache, block) == ULTRA_CACHE_OK ? ((const header *)block.memory)->rows : -1;
}

int64_t ultra_cache_capacity(const ultra_cache *cache, ultra_cache_block block) {
  return ultra_cache_check(cache, block) == ULTRA_CACHE_OK ? ((const header *)block.memory)->capacity : -1;
}

/* What a checked block holds of a section, in bytes. */
static size_t held_bytes(const ultra_cache *cache, ultra_cache_block block, uint32_t section) {
  return (size_t)(ultra_cache_cut_rows(block)[cache->sections[section].cut] * cache->sections[section].row_bytes);
}

/* memcpy, which may not be given a null pointer even where there is nothing to copy. */
static void copy(void *into, const void *from, size_t bytes) {
  if (bytes > 0) memcpy(into, from, bytes);
}

int32_t ultra_cache_copy(const ultra_cache *cache, ultra_cache_block from, ultra_cache_block into, int64_t capacity) {
  int32_t status = ultra_cache_check(cache, from);
  if (status != ULTRA_CACHE_OK) return status;
  const header *old = from.memory;
  if (old->rows > capacity) return ULTRA_CACHE_FULL;
  for (uint32_t index = 0; index < cache->cut_count; index++) {
    int64_t room;
    if (!ultra_cache_cut_capacity(&cache->cuts[index], capacity, &room) || ultra_cache_cut_rows(from)[index] > room) return ULTRA_CACHE_FULL;
  }
  status = ultra_cache_initialise(cache, into, capacity);
  if (status != ULTRA_CACHE_OK) return status;
  ((header *)into.memory)->rows = old->rows;
  memcpy(ultra_cache_cut_rows(into), ultra_cache_cut_rows(from), cache->cut_count * sizeof(int64_t));
  for (uint32_t index = 0; index < cache->section_count; index++) {
    copy(ultra_cache_section_memory(cache, into, index), ultra_cache_section_memory(cache, from, index), held_bytes(cache, from, index));
  }
  seal(cache, into);
  return ULTRA_CACHE_OK;
}
