#ifndef CFFI_H
#define CFFI_H

#include <ffi.h>

/* libffi's types are globals, which Swift 6 will not read; functions it will. */
static inline ffi_type *cffi_pointer(void) { return &ffi_type_pointer; }
static inline ffi_type *cffi_sint32(void) { return &ffi_type_sint32; }
static inline ffi_type *cffi_uint32(void) { return &ffi_type_uint32; }
static inline ffi_type *cffi_uint64(void) { return &ffi_type_uint64; }

#endif
