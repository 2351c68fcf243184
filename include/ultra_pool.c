#include "ultra_pool.h"
