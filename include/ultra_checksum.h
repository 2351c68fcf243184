/* The checksum of an artifact: CRC-64/XZ (polynomial 0x42F0E1EBA9EA3693 reflected, initial value and final exclusive or
 * all ones; "123456789" gives 0x995DC9BBDF1939FA). It detects damage of every single byte and of every burst up to 64
 * bits; it is no signature.
 */
#ifndef ULTRA_CHECKSUM_H
#define ULTRA_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The checksum of what `checksum` covers followed by `count` bytes at `bytes`; begin with 0. Any thread may call it. */
uint64_t ultra_crc64(uint64_t checksum, const void *bytes, size_t count);

/* The checksum of bytes whose checksum is `first` followed by `count` bytes whose checksum is `second`: parts can be taken
 * by several threads, in any order. */
uint64_t ultra_crc64_join(uint64_t first, uint64_t second, uint64_t count);

#ifdef __cplusplus
}
#endif

#endif
