#include "ultra_checksum.h"

#include <pthread.h>
#include <string.h>

/* Slicing by 16: table[k][b] is the effect of byte b followed by k zero bytes, so 16 bytes take 16 independent look-ups
 * in 32 KiB, which stay in the first-level cache. */
enum { SLICES = 16 };
static const uint64_t POLYNOMIAL = UINT64_C(0xC96C5795D7870F42);
static uint64_t table[SLICES][256];
static pthread_once_t table_once = PTHREAD_ONCE_INIT;

static void fill_table(void) {
  for (unsigned byte = 0; byte < 256; byte++) {
    uint64_t value = byte;
    for (int bit = 0; bit < 8; bit++) value = (value >> 1) ^ (POLYNOMIAL & (0 - (value & 1)));
    table[0][byte] = value;
  }
  for (unsigned byte = 0; byte < 256; byte++) {
    for (int slice = 1; slice < SLICES; slice++) {
      uint64_t before = table[slice - 1][byte];
      table[slice][byte] = (before >> 8) ^ table[0][before & 0xFF];
    }
  }
}

static inline uint64_t load64(const unsigned char *bytes) {
  uint64_t value;
  memcpy(&value, bytes, sizeof value);
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
  value = __builtin_bswap64(value);
#endif
  return value;
}

/* The eight bytes of `word`, the first of which is followed by `last + 7` more bytes. */
static inline uint64_t slice8(uint64_t word, int last) {
  return table[last + 7][word & 0xFF] ^ table[last + 6][(word >> 8) & 0xFF] ^ table[last + 5][(word >> 16) & 0xFF] ^
         table[last + 4][(word >> 24) & 0xFF] ^ table[last + 3][(word >> 32) & 0xFF] ^
         table[last + 2][(word >> 40) & 0xFF] ^ table[last + 1][(word >> 48) & 0xFF] ^ table[last][word >> 56];
}

uint64_t ultra_crc64(uint64_t checksum, const void *bytes, size_t count) {
  pthread_once(&table_once, fill_table);
  const unsigned char *next = bytes;
  uint64_t crc = ~checksum;
  while (count >= 16) {
    crc = slice8(crc ^ load64(next), 8) ^ slice8(load64(next + 8), 0);
    next += 16;
    count -= 16;
  }
  while (count > 0) {
    crc = (crc >> 8) ^ table[0][(crc ^ *next) & 0xFF];
    next++;
    count--;
  }
  return ~crc;
}

/* The product of two polynomials over GF(2), modulo the checksum's. The highest bit is that of x^0. */
static uint64_t multiply(uint64_t left, uint64_t right) {
  uint64_t product = 0;
  for (uint64_t bit = UINT64_C(1) << 63; bit != 0; bit >>= 1) {
    if (left & bit) product ^= right;
    right = (right >> 1) ^ (POLYNOMIAL & (0 - (right & 1)));
  }
  return product;
}

uint64_t ultra_crc64_join(uint64_t first, uint64_t second, uint64_t count) {
  /* Each byte that follows multiplies what came before it by x^8. */
  uint64_t power = UINT64_C(1) << (63 - 8);
  for (; count != 0; count >>= 1) {
    if (count & 1) first = multiply(first, power);
    power = multiply(power, power);
  }
  return first ^ second;
}
