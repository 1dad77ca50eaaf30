/* What pthreads and POSIX offer for what multiprocess-sync does, process-shared.
   usage: pthread_sync NEAR_CPU FAR_CPU MILLISECONDS WHAT
   WHAT: robust | increment | contended | semaphore | event | condition | barrier | read | readers
   Protocol: benches/src/program.rs. Units: ns per operation or round; M/s for contended, readers. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

enum { BATCH = 1000, ROUNDS = 64, CHUNKS = 1 << 16 };

struct stage {
    pthread_mutex_t mutex;
    _Alignas(128) pthread_cond_t there, back;
    _Alignas(128) pthread_barrier_t barrier;
    _Alignas(128) pthread_rwlock_t table;
    _Alignas(128) sem_t semaphore;
    _Alignas(128) uint64_t words[4];
    _Alignas(128) int turn;
    _Alignas(128) atomic_int met, stop;
    _Alignas(128) atomic_ullong far_count;
};

static struct stage *stage;
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

static void pin(int cpu)
{
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    if (sched_setaffinity(0, sizeof one, &one))
        exit(3);
}

static void meet(void)
{
    atomic_fetch_add(&stage->met, 1);
    while (atomic_load(&stage->met) < 2)
        sched_yield();
}

/* Median nanoseconds per operation. */
static double per_operation(uint64_t span, int operations, void (*chunk)(void))
{
    uint64_t end = now() + span;
    size_t n = 0;
    for (uint64_t before = now(); (before < end || n < 10) && n < CHUNKS;) {
        chunk();
        uint64_t after = now();
        samples[n++] = (double)(after - before) / operations;
        before = after;
    }
    size_t skip = n / 10; /* warm-up */
    qsort(samples + skip, n - skip, sizeof *samples, ascending);
    return samples[skip + (n - skip) / 2];
}

static void lock_batch(void)
{
    for (int i = 0; i < BATCH; i++) {
        pthread_mutex_lock(&stage->mutex);
        pthread_mutex_unlock(&stage->mutex);
    }
}

static void increment_batch(void)
{
    for (int i = 0; i < BATCH; i++) {
        pthread_mutex_lock(&stage->mutex);
        *(volatile uint64_t *)stage->words += 1;
        pthread_mutex_unlock(&stage->mutex);
    }
}

static void semaphore_batch(void)
{
    for (int i = 0; i < BATCH; i++) {
        sem_wait(&stage->semaphore);
        sem_post(&stage->semaphore);
    }
}

static void read_batch(void)
{
    for (int i = 0; i < BATCH; i++) {
        pthread_rwlock_rdlock(&stage->table);
        pthread_rwlock_unlock(&stage->table);
    }
}

static void contend(void)
{
    pthread_mutex_lock(&stage->mutex);
    for (int i = 0; i < 4; i++)
        stage->words[i]++;
    pthread_mutex_unlock(&stage->mutex);
    for (volatile int i = 0; i < 20; i++)
        ;
}

static void read_once(void)
{
    pthread_rwlock_rdlock(&stage->table);
    pthread_rwlock_unlock(&stage->table);
}

/* Both loop until the near one has seen enough; millions per second of both together. */
static double together(uint64_t span, void (*once)(void), int far)
{
    meet();
    if (far) {
        uint64_t count = 0;
        while (!atomic_load_explicit(&stage->stop, memory_order_relaxed)) {
            once();
            atomic_store_explicit(&stage->far_count, ++count, memory_order_relaxed);
        }
        _exit(0);
    }
    uint64_t start = now(), count = 0, first = atomic_load(&stage->far_count), after;
    do {
        for (int i = 0; i < 100; i++)
            once();
        count += 100;
        after = now();
    } while (after - start < span);
    uint64_t all = count + atomic_load(&stage->far_count) - first;
    atomic_store(&stage->stop, 1);
    return (double)all * 1000.0 / (double)(after - start);
}

/* One condition for each direction, or one for both: an event is a flag with a condition. */
static void wait_turn(int turn)
{
    pthread_mutex_lock(&stage->mutex);
    while (stage->turn != turn && stage->turn != 2)
        pthread_cond_wait(turn ? &stage->there : &stage->back, &stage->mutex);
    pthread_mutex_unlock(&stage->mutex);
}

static void give_turn(int turn)
{
    pthread_mutex_lock(&stage->mutex);
    stage->turn = turn;
    pthread_cond_signal(turn ? &stage->there : &stage->back);
    pthread_mutex_unlock(&stage->mutex);
}

static void turn_rounds(void)
{
    for (int i = 0; i < ROUNDS; i++) {
        give_turn(1);
        wait_turn(0);
    }
}

static void barrier_rounds(void)
{
    for (int i = 0; i < ROUNDS; i++)
        pthread_barrier_wait(&stage->barrier);
}

int main(int argc, char **argv)
{
    if (argc < 5)
        return 2;
    alarm(30); /* ends by itself, whatever happens */
    int near_cpu = atoi(argv[1]), far_cpu = atoi(argv[2]);
    uint64_t span = (uint64_t)atoi(argv[3]) * 1000000u;
    const char *what = argv[4];

    stage = mmap(NULL, sizeof *stage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pthread_mutexattr_t mutex;
    pthread_condattr_t cond;
    pthread_barrierattr_t barrier;
    pthread_rwlockattr_t table;
    if (stage == MAP_FAILED || pthread_mutexattr_init(&mutex) || pthread_condattr_init(&cond) ||
        pthread_barrierattr_init(&barrier) || pthread_rwlockattr_init(&table) ||
        pthread_mutexattr_setpshared(&mutex, PTHREAD_PROCESS_SHARED) ||
        pthread_condattr_setpshared(&cond, PTHREAD_PROCESS_SHARED) ||
        pthread_barrierattr_setpshared(&barrier, PTHREAD_PROCESS_SHARED) ||
        pthread_rwlockattr_setpshared(&table, PTHREAD_PROCESS_SHARED))
        return 4;
    if (!strcmp(what, "robust") || !strcmp(what, "increment") || !strcmp(what, "contended"))
        pthread_mutexattr_setrobust(&mutex, PTHREAD_MUTEX_ROBUST);
    if (pthread_mutex_init(&stage->mutex, &mutex) || pthread_cond_init(&stage->there, &cond) ||
        pthread_cond_init(&stage->back, &cond) ||
        pthread_barrier_init(&stage->barrier, &barrier, 2) ||
        pthread_rwlock_init(&stage->table, &table) || sem_init(&stage->semaphore, 1, 1))
        return 4;

    double result;
    int alone = !strcmp(what, "robust") || !strcmp(what, "increment") ||
                !strcmp(what, "semaphore") || !strcmp(what, "read");
    pid_t far = alone ? -1 : fork();
    if (far == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        alarm(30);
        pin(far_cpu);
        if (!strcmp(what, "contended"))
            together(span, contend, 1);
        if (!strcmp(what, "readers"))
            together(span, read_once, 1);
        meet();
        if (!strcmp(what, "barrier"))
            for (;;)
                pthread_barrier_wait(&stage->barrier);
        while (stage->turn != 2) {
            wait_turn(1);
            if (stage->turn != 2)
                give_turn(0);
        }
        _exit(0);
    }
    pin(near_cpu);
    if (!strcmp(what, "robust"))
        result = per_operation(span, BATCH, lock_batch);
    else if (!strcmp(what, "increment"))
        result = per_operation(span, BATCH, increment_batch);
    else if (!strcmp(what, "semaphore"))
        result = per_operation(span, BATCH, semaphore_batch);
    else if (!strcmp(what, "read"))
        result = per_operation(span, BATCH, read_batch);
    else if (!strcmp(what, "contended"))
        result = together(span, contend, 0);
    else if (!strcmp(what, "readers"))
        result = together(span, read_once, 0);
    else {
        meet();
        result = per_operation(span, ROUNDS, !strcmp(what, "barrier") ? barrier_rounds : turn_rounds);
    }
    if (far > 0)
        kill(far, SIGKILL);
    printf("%.4f\n", result);
    return 0;
}
