/* What memory gives for rows of a table at random places: every cache line of each row is touched, and nothing else is done.
 *
 *     touch_rows FILE OFFSET ROW_BYTES ROWS THREADS SECONDS
 *
 * The rows lie in the file, which is mapped as a loaded model is. They are asked for some rows ahead, as compiled lookups do.
 * Prints the best rate of several turns: rows a second, and lines a second.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { IDS = 1 << 20, AHEAD = 16, LINE = 64, TURNS = 5 };

static const char *table;
static size_t row_bytes, row_count;
static double seconds;
static pthread_barrier_t barrier;

struct result {
  pthread_t thread;
  uint64_t seed;
  double rows, lines;
  unsigned sum;
};

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec + time.tv_nsec * 1e-9;
}

static uint64_t next(uint64_t *state) {
  uint64_t z = (*state += UINT64_C(0x9E3779B97F4A7C15));
  z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
  z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
  return z ^ (z >> 31);
}

static void *touch(void *argument) {
  struct result *result = argument;
  uint32_t *ids = malloc(IDS * sizeof *ids);
  if (ids == NULL) return NULL;
  for (size_t i = 0; i < IDS; i++) ids[i] = next(&result->seed) % row_count;
  for (int turn = 0; turn < TURNS; turn++) {
    double rows = 0, lines = 0, start, end;
    unsigned sum = 0;
    pthread_barrier_wait(&barrier);
    start = now();
    do {
      for (size_t i = 0; i < IDS - AHEAD; i++) {
        const char *ahead = table + ids[i + AHEAD] * row_bytes;
        for (size_t byte = 0; byte < row_bytes; byte += LINE) __builtin_prefetch(ahead + byte, 0, 2);
        __builtin_prefetch(ahead + row_bytes - 1, 0, 2);
        uintptr_t row = (uintptr_t)table + ids[i] * row_bytes;
        uintptr_t last = (row + row_bytes - 1) / LINE * LINE;
        sum += *(const unsigned char *)row;
        for (uintptr_t line = row / LINE * LINE + LINE; line <= last; line += LINE) sum += *(const unsigned char *)line;
        lines += (last - row / LINE * LINE) / LINE + 1;
      }
      rows += IDS - AHEAD;
      end = now();
    } while (end - start < seconds);
    if (rows / (end - start) > result->rows) {
      result->rows = rows / (end - start);
      result->lines = lines / (end - start);
    }
    result->sum += sum;
  }
  free(ids);
  return NULL;
}

int main(int count, char **words) {
  if (count != 7) return 64;
  int file = open(words[1], O_RDONLY);
  struct stat status;
  if (file < 0 || fstat(file, &status) != 0) return perror(words[1]), 1;
  char *bytes = mmap(NULL, status.st_size, PROT_READ, MAP_PRIVATE, file, 0);
  if (bytes == MAP_FAILED) return perror(words[1]), 1;
  size_t offset = strtoull(words[2], NULL, 10);
  row_bytes = strtoull(words[3], NULL, 10);
  row_count = strtoull(words[4], NULL, 10);
  int threads = atoi(words[5]);
  seconds = atof(words[6]);
  if (threads < 1 || row_bytes == 0 || row_count == 0 || offset + row_bytes * row_count > (size_t)status.st_size) return 64;
  table = bytes + offset;
  /* Pages are mapped before anything is measured. */
  unsigned sum = 0;
  for (size_t byte = 0; byte < row_bytes * row_count; byte += 4096) sum += (unsigned char)table[byte];
  struct result *results = calloc(threads, sizeof *results);
  pthread_barrier_init(&barrier, NULL, threads);
  for (int i = 0; i < threads; i++) {
    results[i].seed = i + 1;
    if (pthread_create(&results[i].thread, NULL, touch, &results[i]) != 0) return 1;
  }
  double rows = 0, lines = 0;
  for (int i = 0; i < threads; i++) {
    pthread_join(results[i].thread, NULL);
    rows += results[i].rows;
    lines += results[i].lines;
    sum += results[i].sum;
  }
  printf("%.0f %.0f\n", rows, lines);
  return sum == 0xFFFFFFFF;
}
