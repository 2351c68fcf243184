/* The constants of POSIX 2008 that plain C11 hides. */
#define _POSIX_C_SOURCE 200809L

#include "ultra_pool.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* How long a worker without work looks for more before it sleeps: long while a model runs, whose loops follow each
 * other closely; short otherwise, for callers that do not say when they run one. */
enum { SPIN_IN_CALL_NANOSECONDS = 2000000, SPIN_ALONE_NANOSECONDS = 20000 };

/* The gate: a loop's number in the upper half, whether it is open, how many workers are inside. */
#define GATE_OPEN (UINT64_C(1) << 31)
#define GATE_NUMBER (UINT64_C(1) << 32)
#define GATE_INSIDE (GATE_OPEN - 1)

typedef struct worker {
  ultra_pool *pool;
  pthread_t thread;
  uint32_t index;
} worker;

struct ultra_pool {
  ultra_parallel parallel;
  worker *workers;
  uint32_t started;

  /* Set while a caller's loop has the workers. */
  atomic_flag taken;
  /* Models that run now. */
  atomic_uint calls;
  atomic_bool stopping;

  /* The loop. Written only while the gate is closed and nobody is inside; opening the gate publishes it. */
  ultra_body body;
  void *context;
  int64_t count;

  /* Each on a cache line of its own: they are what threads contend for. */
  _Alignas(64) atomic_uint_least64_t gate;
  _Alignas(64) atomic_int_least64_t next;

  _Alignas(64) atomic_uint sleepers;
  pthread_mutex_t mutex;
  pthread_cond_t wake;
};

static inline void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

static int64_t nanoseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Takes indices until none are left. */
static void take_indices(ultra_pool *pool, uint32_t worker_index) {
  for (;;) {
    int64_t index = atomic_fetch_add_explicit(&pool->next, 1, memory_order_relaxed);
    if (index >= pool->count) return;
    pool->body(pool->context, index, worker_index);
  }
}

/* Enters the gate where it is open for a loop other than `*last`. */
static bool enter(ultra_pool *pool, uint64_t *last) {
  uint64_t gate = atomic_load_explicit(&pool->gate, memory_order_relaxed);
  while ((gate & GATE_OPEN) != 0 && gate / GATE_NUMBER != *last) {
    if (atomic_compare_exchange_weak_explicit(&pool->gate, &gate, gate + 1, memory_order_acquire,
                                              memory_order_relaxed)) {
      *last = gate / GATE_NUMBER;
      return true;
    }
  }
  return false;
}

static bool is_waited_for(ultra_pool *pool, uint64_t last) {
  uint64_t gate = atomic_load(&pool->gate);
  return ((gate & GATE_OPEN) != 0 && gate / GATE_NUMBER != last) || atomic_load(&pool->stopping);
}

static void sleep_until_needed(ultra_pool *pool, uint64_t last) {
  pthread_mutex_lock(&pool->mutex);
  /* Announced before the gate is looked at, as the caller opens it before it looks for sleepers: one sees the other. */
  atomic_fetch_add(&pool->sleepers, 1);
  while (!is_waited_for(pool, last)) pthread_cond_wait(&pool->wake, &pool->mutex);
  atomic_fetch_sub(&pool->sleepers, 1);
  pthread_mutex_unlock(&pool->mutex);
}

static void wake_sleepers(ultra_pool *pool) {
  if (atomic_load(&pool->sleepers) == 0) return;
  pthread_mutex_lock(&pool->mutex);
  pthread_cond_broadcast(&pool->wake);
  pthread_mutex_unlock(&pool->mutex);
}

static void *work(void *argument) {
  const worker *self = argument;
  ultra_pool *pool = self->pool;
  uint64_t last = 0;
  int64_t idle_since = nanoseconds();
  unsigned looks = 0;
  while (!atomic_load_explicit(&pool->stopping, memory_order_relaxed)) {
    if (enter(pool, &last)) {
      take_indices(pool, self->index);
      atomic_fetch_sub_explicit(&pool->gate, 1, memory_order_release);
      idle_since = nanoseconds();
      continue;
    }
    relax();
    if (++looks % 64 != 0) continue;
    int64_t patience = atomic_load_explicit(&pool->calls, memory_order_relaxed) > 0 ? SPIN_IN_CALL_NANOSECONDS
                                                                                    : SPIN_ALONE_NANOSECONDS;
    if (nanoseconds() - idle_since < patience) continue;
    sleep_until_needed(pool, last);
    idle_since = nanoseconds();
  }
  return NULL;
}

static void parallel_for(void *argument, int64_t count, ultra_body body, void *context) {
  ultra_pool *pool = argument;
  if (count <= 1 || pool->started == 0 || atomic_flag_test_and_set_explicit(&pool->taken, memory_order_acquire)) {
    for (int64_t index = 0; index < count; index++) body(context, index, 0);
    return;
  }
  pool->body = body;
  pool->context = context;
  pool->count = count;
  atomic_store_explicit(&pool->next, 0, memory_order_relaxed);
  uint64_t number = atomic_load_explicit(&pool->gate, memory_order_relaxed) / GATE_NUMBER + 1;
  /* Number 0 is what workers begin with: no loop has it. */
  if (number > UINT32_MAX) number = 1;
  atomic_store(&pool->gate, number * GATE_NUMBER | GATE_OPEN);
  wake_sleepers(pool);
  take_indices(pool, 0);
  /* Workers that never came in are not waited for; whoever is inside has at most one index left. */
  atomic_fetch_and_explicit(&pool->gate, ~GATE_OPEN, memory_order_relaxed);
  for (unsigned looks = 0; (atomic_load_explicit(&pool->gate, memory_order_acquire) & GATE_INSIDE) != 0; looks++) {
    /* Where threads outnumber processors, the one that is waited for may need this one's. */
    if (looks < 4096) {
      relax();
    } else {
      const struct timespec moment = {0, 10000};
      nanosleep(&moment, NULL);
    }
  }
  atomic_flag_clear_explicit(&pool->taken, memory_order_release);
}

ultra_pool *ultra_pool_create(uint32_t workers) {
  if (workers == 0) workers = ultra_usable_cpus();
  void *memory = NULL;
  if (posix_memalign(&memory, _Alignof(ultra_pool), sizeof(ultra_pool)) != 0) return NULL;
  ultra_pool *pool = memset(memory, 0, sizeof(ultra_pool));
  pool->parallel = (ultra_parallel){sizeof(ultra_parallel), workers, pool, parallel_for};
  atomic_flag_clear(&pool->taken);
  pool->workers = calloc(workers, sizeof(worker));
  if (pool->workers == NULL) {
    free(pool);
    return NULL;
  }
  pthread_mutex_init(&pool->mutex, NULL);
  pthread_cond_init(&pool->wake, NULL);
  /* Signals are for the program's own threads. */
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  for (uint32_t index = 1; index < workers; index++) {
    worker *next = &pool->workers[index];
    next->pool = pool;
    next->index = index;
    if (pthread_create(&next->thread, NULL, work, next) != 0) break;
    pool->started = index;
  }
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (pool->started + 1 < workers) {
    ultra_pool_destroy(pool);
    return NULL;
  }
  return pool;
}

const ultra_parallel *ultra_pool_parallel(ultra_pool *pool) { return &pool->parallel; }

void ultra_pool_begin(ultra_pool *pool) { atomic_fetch_add_explicit(&pool->calls, 1, memory_order_relaxed); }

void ultra_pool_end(ultra_pool *pool) { atomic_fetch_sub_explicit(&pool->calls, 1, memory_order_relaxed); }

int32_t ultra_pool_run(ultra_pool *pool, const ultra_entry *entry, const ultra_call *call) {
  ultra_pool_begin(pool);
  int32_t status = entry->run(call);
  ultra_pool_end(pool);
  return status;
}

void ultra_pool_destroy(ultra_pool *pool) {
  if (pool == NULL) return;
  pthread_mutex_lock(&pool->mutex);
  atomic_store(&pool->stopping, true);
  pthread_cond_broadcast(&pool->wake);
  pthread_mutex_unlock(&pool->mutex);
  for (uint32_t index = 1; index <= pool->started; index++) pthread_join(pool->workers[index].thread, NULL);
  pthread_cond_destroy(&pool->wake);
  pthread_mutex_destroy(&pool->mutex);
  free(pool->workers);
  free(pool);
}
