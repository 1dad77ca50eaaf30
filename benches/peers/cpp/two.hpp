// What the peers in C++ share: time, pinning, a second process, and streams of numbered messages.
// Protocol: benches/src/program.rs.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <ctime>
#include <vector>

#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

namespace two {

using std::memory_order_relaxed;

inline std::uint64_t now()
{
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return std::uint64_t(t.tv_sec) * 1000000000u + std::uint64_t(t.tv_nsec);
}

inline void pin(int cpu)
{
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    if (sched_setaffinity(0, sizeof one, &one))
        std::exit(3);
}

// Between two looks.
inline void pause()
{
#if defined __x86_64__ || defined __i386__
    __builtin_ia32_pause();
#elif defined __aarch64__
    __asm__ volatile("isb" ::: "memory");
#endif
}

// Median nanoseconds per operation; the first tenth of the chunks is warm-up.
template <class Chunk> double per_operation(std::uint64_t span, int operations, Chunk chunk)
{
    constexpr std::size_t CHUNKS = 1 << 16;
    std::vector<double> samples;
    samples.reserve(CHUNKS);
    std::uint64_t before = now(), end = before + span;
    while ((before < end || samples.size() < 10) && samples.size() < CHUNKS) {
        chunk();
        std::uint64_t after = now();
        samples.push_back(double(after - before) / operations);
        before = after;
    }
    auto first = samples.begin() + samples.size() / 10;
    auto middle = first + (samples.end() - first) / 2;
    std::nth_element(first, middle, samples.end());
    return *middle;
}

// Zeroed bytes that a child shares.
inline void *shared(std::size_t bytes)
{
    void *memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        std::exit(4);
    return memory;
}

// In shared memory: how the two processes begin together, and how the far one ends.
struct Meeting {
    alignas(128) std::atomic<int> met{0};
    alignas(128) std::atomic<int> stop{0};

    void meet()
    {
        met++;
        while (met < 2)
            sched_yield();
    }

    bool stopped() const { return stop.load(memory_order_relaxed); }
};

// The far process: on its CPU, dies with this one, runs `part` and ends.
template <class Part> pid_t start_far(int cpu, Part part)
{
    const pid_t far = fork();
    if (far != 0)
        return far;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    alarm(30);
    pin(cpu);
    part();
    _exit(0);
}

// Ends the far process, which knows no end of its own.
inline void end_far(pid_t far)
{
    kill(far, SIGKILL);
    waitpid(far, nullptr, 0);
}

template <int WORDS> using Message = std::array<std::uint64_t, WORDS>;

constexpr int STREAM_CHUNK = 8192;

// Receives messages that are numbered in their first and last word, up to BATCH at once, and checks
// them; millions per second. `pop` returns how many came.
template <int WORDS, int BATCH, class Pop> double drain(std::uint64_t span, Pop pop)
{
    static_assert(STREAM_CHUNK % BATCH == 0);
    std::uint64_t expected = 0, wrong = 0;
    double nanos = per_operation(span, STREAM_CHUNK, [&] {
        std::uint64_t next = expected, differs = 0;
        const std::uint64_t end = next + STREAM_CHUNK;
        Message<WORDS> batch[BATCH];
        while (next < end) {
            const unsigned room = unsigned(std::min<std::uint64_t>(BATCH, end - next));
            const unsigned came = pop(batch, room);
            if (came < room)
                pause();
            for (unsigned i = 0; i < came; i++) {
                differs |= (batch[i][0] ^ next) | (batch[i][WORDS - 1] ^ next);
                next++;
            }
        }
        expected = next;
        wrong |= differs;
    });
    if (wrong)
        std::exit(5);
    return 1000.0 / nanos;
}

// Sends 0, 1, 2, ..., up to BATCH at once, until stopped. `push` returns how many went.
template <int WORDS, int BATCH, class Push> void feed(const Meeting &meeting, Push push)
{
    for (std::uint64_t next = 0;;) {
        Message<WORDS> batch[BATCH];
        for (int i = 0; i < BATCH; i++)
            batch[i].fill(next + i);
        const unsigned went = push(batch, BATCH);
        next += went;
        if (went == 0 && meeting.stopped())
            return;
        if (went < BATCH)
            pause();
    }
}

} // namespace two
