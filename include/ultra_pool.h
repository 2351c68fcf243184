#ifndef ULTRA_POOL_H
#define ULTRA_POOL_H
#include "ultra.h"
#endif
