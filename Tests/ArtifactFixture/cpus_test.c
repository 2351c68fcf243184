/* Prints ultra_usable_cpus() after it has kept itself to so many of the processors that it may use: `cpus_test COUNT`.
 * Built with ULTRA_CPUS_ROOT it reads control groups below that folder. */
#define _GNU_SOURCE

#include "ultra_pool.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argument_count, char **arguments) {
  if (argument_count != 2) return 1;
  cpu_set_t usable, chosen;
  CPU_ZERO(&chosen);
  if (sched_getaffinity(0, sizeof usable, &usable) != 0) return 1;
  int left = atoi(arguments[1]);
  for (int cpu = 0; cpu < CPU_SETSIZE && left > 0; cpu++) {
    if (!CPU_ISSET(cpu, &usable)) continue;
    CPU_SET(cpu, &chosen);
    left--;
  }
  if (sched_setaffinity(0, sizeof chosen, &chosen) != 0) return 1;
  printf("%d %u\n", CPU_COUNT(&chosen), ultra_usable_cpus());
}
