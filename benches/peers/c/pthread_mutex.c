/* Uncontended pthread_mutex_t in shared memory: nanoseconds per lock and unlock.
   usage: pthread_mutex NEAR_CPU FAR_CPU MILLISECONDS
   Protocol: benches/src/program.rs. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { PAIRS = 1000, CHUNKS = 1 << 16 };

static double samples[CHUNKS];

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    if (argc < 4)
        return 2;
    alarm(30); /* ends by itself, whatever happens */
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(atoi(argv[1]), &one);
    if (sched_setaffinity(0, sizeof one, &one))
        return 3;

    pthread_mutex_t *mutex = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pthread_mutexattr_t shared;
    if (mutex == MAP_FAILED || pthread_mutexattr_init(&shared) ||
        pthread_mutexattr_setpshared(&shared, PTHREAD_PROCESS_SHARED) ||
        pthread_mutex_init(mutex, &shared))
        return 4;

    uint64_t end = now() + (uint64_t)atoi(argv[3]) * 1000000u;
    size_t n = 0;
    for (uint64_t before = now(); before < end && n < CHUNKS;) {
        for (int i = 0; i < PAIRS; i++) {
            pthread_mutex_lock(mutex);
            pthread_mutex_unlock(mutex);
        }
        uint64_t after = now();
        samples[n++] = (double)(after - before) / PAIRS;
        before = after;
    }
    /* The first tenth is warm-up. */
    size_t skip = n / 10;
    qsort(samples + skip, n - skip, sizeof *samples, ascending);
    printf("%.4f\n", samples[skip + (n - skip) / 2]);
    return 0;
}
