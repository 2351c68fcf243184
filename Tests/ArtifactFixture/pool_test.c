/* Uses a pool from several threads at once and checks that every index of every loop runs once. It is meant to be built
 * with -fsanitize=thread, which reports any race. Prints "ok". */
#define _POSIX_C_SOURCE 200809L

#include "ultra_pool.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { USERS = 3, LOOPS = 1500, LONGEST = 70 };

typedef struct loop {
  int64_t count;
  uint32_t workers;
  unsigned char runs[LONGEST];
} loop;

static ultra_pool *pool;

static void fail(const char *what) {
  printf("%s\n", what);
  exit(1);
}

static void count_run(void *context, int64_t index, uint32_t worker) {
  loop *mine = context;
  if (worker >= mine->workers) fail("a worker beyond the pool's number");
  mine->runs[index]++;
}

static int32_t run_loops(const ultra_call *call) {
  unsigned seed = (unsigned)call->dimension_count;
  const ultra_parallel *parallel = ultra_pool_parallel(pool);
  for (int round = 0; round < LOOPS; round++) {
    loop mine = {rand_r(&seed) % LONGEST, parallel->workers, {0}};
    parallel->parallel_for(parallel->pool, mine.count, count_run, &mine);
    for (int64_t index = 0; index < LONGEST; index++) {
      if (mine.runs[index] != (index < mine.count)) fail("an index did not run once");
    }
    /* Now and then the workers get time to fall asleep. */
    const struct timespec pause = {0, 3000000};
    if (round % 300 == 0) nanosleep(&pause, NULL);
  }
  return ULTRA_OK;
}

static void *use(void *argument) {
  const ultra_entry entry = {"loops", 0, 0, 0, 0, NULL, run_loops};
  ultra_call call = {.struct_size = sizeof call, .dimension_count = (uint32_t)(size_t)argument};
  /* Every second thread does not tell the pool when a call runs. */
  if (call.dimension_count % 2 == 0) {
    ultra_pool_run(pool, &entry, &call);
  } else {
    entry.run(&call);
  }
  return NULL;
}

int main(void) {
  if (ultra_usable_cpus() < 1) fail("no processor to run on");
  for (uint32_t workers = 1; workers <= 4; workers++) {
    pool = ultra_pool_create(workers);
    if (pool == NULL || ultra_pool_parallel(pool)->workers != workers) fail("no pool");
    pthread_t threads[USERS];
    for (size_t user = 0; user < USERS; user++) pthread_create(&threads[user], NULL, use, (void *)(user + 1));
    for (size_t user = 0; user < USERS; user++) pthread_join(threads[user], NULL);
    ultra_pool_destroy(pool);
  }
  for (int round = 0; round < 50; round++) ultra_pool_destroy(ultra_pool_create(3));
  ultra_pool_destroy(NULL);
  printf("ok\n");
}
