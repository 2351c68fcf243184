/* Threads for compiled models: a small pool that lends itself to a call as its `ultra_parallel`. A model does not need
 * it: any caller's own threads will do. Compile ultra_pool.c with the program; it needs POSIX threads and C11 atomics.
 *
 *     ultra_pool *pool = ultra_pool_create(0);
 *     call.parallel = ultra_pool_parallel(pool);
 *     int32_t status = ultra_pool_run(pool, entry, &call);
 *
 * Any number of threads may use one pool at once. Its workers then help one of them at a time; the others' loops run on
 * their own threads, so a machine is never asked for more threads than callers and workers.
 */
#ifndef ULTRA_POOL_H
#define ULTRA_POOL_H

#include "ultra.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ultra_pool ultra_pool;

/* Processors that this process may keep busy: those that it may run on, but no more than the quota of its control
 * groups (version 1 or 2) pays for, rounded up. At least 1. */
uint32_t ultra_usable_cpus(void);

/* A pool of `workers` threads, the calling one included, so `workers - 1` are started; 0 means ultra_usable_cpus().
 * Null where memory or threads cannot be had. */
ultra_pool *ultra_pool_create(uint32_t workers);

/* What goes into `ultra_call.parallel`; lives as long as the pool. */
const ultra_parallel *ultra_pool_parallel(ultra_pool *pool);

/* Between these two the workers stay awake from one loop to the next; afterwards they sleep. Without them a worker may
 * have to be woken for each loop, which takes it tens of microseconds. Calls may overlap. */
void ultra_pool_begin(ultra_pool *pool);
void ultra_pool_end(ultra_pool *pool);

/* Runs an entry between the two. */
int32_t ultra_pool_run(ultra_pool *pool, const ultra_entry *entry, const ultra_call *call);

/* Ends the threads. No call may be using the pool. Null is allowed. */
void ultra_pool_destroy(ultra_pool *pool);

#ifdef __cplusplus
}
#endif

#endif
