/* For sched_getaffinity. */
#define _GNU_SOURCE

#include "ultra_pool.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH_SIZE = 4096 };

/* Where /proc and /sys are looked for; tests have their own. */
#ifndef ULTRA_CPUS_ROOT
#define ULTRA_CPUS_ROOT ""
#endif

/* Processors in the affinity mask, which may be larger than cpu_set_t. */
static long affinity_count(void) {
  for (int processors = 1024; processors <= 1 << 20; processors *= 4) {
    cpu_set_t *set = CPU_ALLOC(processors);
    if (set == NULL) return 1;
    size_t size = CPU_ALLOC_SIZE(processors);
    CPU_ZERO_S(size, set);
    int failed = sched_getaffinity(0, size, set);
    int count = failed ? 0 : CPU_COUNT_S(size, set);
    CPU_FREE(set);
    if (!failed) return count;
  }
  return 1;
}

/* A quota in microseconds for each period of microseconds, as processors rounded up; 0 where there is none. */
static long processors_of(long quota, long period) {
  return quota > 0 && period > 0 ? (quota - 1) / period + 1 : 0;
}

static long read_number(const char *folder, const char *name) {
  char path[PATH_SIZE + 64];
  long value = -1;
  snprintf(path, sizeof path, "%s/%s", folder, name);
  FILE *file = fopen(path, "re");
  if (file == NULL) return -1;
  if (fscanf(file, "%ld", &value) != 1) value = -1;
  fclose(file);
  return value;
}

/* The quota of one group, of either version; 0 where there is none. */
static long group_quota(const char *folder) {
  char path[PATH_SIZE + 64];
  long quota, period;
  snprintf(path, sizeof path, "%s/cpu.max", folder);
  FILE *file = fopen(path, "re");
  if (file != NULL) {
    int read = fscanf(file, "%ld %ld", &quota, &period); /* "max 100000" reads no number: no quota */
    fclose(file);
    return read == 2 ? processors_of(quota, period) : 0;
  }
  return processors_of(read_number(folder, "cpu.cfs_quota_us"), read_number(folder, "cpu.cfs_period_us"));
}

/* The smallest quota of a group and of those above it; a container may see its group as the root. */
static long smallest_quota(const char *root, const char *group) {
  char folder[PATH_SIZE];
  long smallest = 0;
  if (snprintf(folder, sizeof folder, "%s%s", root, group) >= (int)sizeof folder) return 0;
  for (;;) {
    long quota = group_quota(folder);
    if (quota > 0 && (smallest == 0 || quota < smallest)) smallest = quota;
    char *slash = strrchr(folder, '/');
    if (slash == NULL || (size_t)(slash - folder) < strlen(root)) return smallest;
    *slash = '\0';
  }
}

uint32_t ultra_usable_cpus(void) {
  long count = affinity_count();
  FILE *groups = fopen(ULTRA_CPUS_ROOT "/proc/self/cgroup", "re");
  if (groups != NULL) {
    char line[PATH_SIZE];
    /* Lines such as "0::/user.slice" (version 2) and "4:cpu,cpuacct:/user.slice" (version 1). */
    while (fgets(line, sizeof line, groups) != NULL) {
      char *controllers = strchr(line, ':');
      char *group = controllers != NULL ? strchr(controllers + 1, ':') : NULL;
      if (group == NULL) continue;
      *group++ = '\0';
      controllers++;
      group[strcspn(group, "\n")] = '\0';
      if (strcmp(group, "/") == 0) group = "";
      long quota = 0;
      if (*controllers == '\0') {
        quota = smallest_quota(ULTRA_CPUS_ROOT "/sys/fs/cgroup", group);
      } else if (strcmp(controllers, "cpu") == 0 || strstr(controllers, "cpu,") == controllers ||
                 strstr(controllers, ",cpu") != NULL) {
        char root[PATH_SIZE];
        snprintf(root, sizeof root, ULTRA_CPUS_ROOT "/sys/fs/cgroup/%s", controllers);
        quota = smallest_quota(root, group);
        if (quota == 0) quota = smallest_quota(ULTRA_CPUS_ROOT "/sys/fs/cgroup/cpu", group);
      }
      if (quota > 0 && quota < count) count = quota;
    }
    fclose(groups);
  }
  return count > 0 ? (uint32_t)count : 1;
}
