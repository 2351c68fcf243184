/* Checks that a pool's workers sleep once no call runs, and wake for the next loop. Prints "ok". A worker that goes on
 * spinning is never seen asleep. */
#define _POSIX_C_SOURCE 200809L

#include "ultra_pool.h"

#include <dirent.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { WORKERS = 3, LOOKS = 20000 };

static atomic_int runs;

static void count_run(void *context, int64_t index, uint32_t worker) {
  (void)context, (void)index, (void)worker;
  atomic_fetch_add(&runs, 1);
}

/* Threads of this process that sleep, the calling one excepted, which runs. */
static int sleeping_threads(void) {
  int count = 0;
  DIR *threads = opendir("/proc/self/task");
  for (struct dirent *entry; threads != NULL && (entry = readdir(threads)) != NULL;) {
    char path[300], text[512];
    snprintf(path, sizeof path, "/proc/self/task/%s/stat", entry->d_name);
    FILE *file = entry->d_name[0] == '.' ? NULL : fopen(path, "r");
    if (file == NULL) continue;
    if (fgets(text, sizeof text, file) != NULL) {
      /* The state follows the name, which may hold anything but ends at the last parenthesis. */
      const char *end = strrchr(text, ')');
      if (end != NULL && end[2] == 'S') count++;
    }
    fclose(file);
  }
  if (threads != NULL) closedir(threads);
  return count;
}

static void wait_for_sleep(const char *when) {
  const struct timespec pause = {0, 1000000};
  for (int look = 0; look < LOOKS; look++) {
    if (sleeping_threads() == WORKERS - 1) return;
    nanosleep(&pause, NULL);
  }
  printf("workers do not sleep %s\n", when);
  exit(1);
}

static int32_t run_loops(const ultra_call *call) {
  for (int loop = 0; loop < 100; loop++) call->parallel->parallel_for(call->parallel->pool, 50, count_run, NULL);
  return ULTRA_OK;
}

int main(void) {
  ultra_pool *pool = ultra_pool_create(WORKERS);
  if (pool == NULL) return 1;
  wait_for_sleep("before the first call");
  const ultra_entry entry = {"loops", 0, 0, 0, 0, NULL, run_loops};
  const ultra_call call = {.struct_size = sizeof call, .parallel = ultra_pool_parallel(pool)};
  for (int round = 0; round < 3; round++) {
    if (ultra_pool_run(pool, &entry, &call) != ULTRA_OK) return 1;
    wait_for_sleep("after a call");
  }
  /* A caller that does not say when a call runs. */
  entry.run(&call);
  wait_for_sleep("after loops outside of calls");
  ultra_pool_destroy(pool);
  if (atomic_load(&runs) != 4 * 100 * 50) return 1;
  printf("ok\n");
}
