// DPDK's rte_ring in shared memory (rte_ring_init, no EAL), between two processes.
// usage: rte_ring NEAR_CPU FAR_CPU MILLISECONDS WHAT
// WHAT: mpmc/8B/1 | spsc/8B/32 | spsc/64B/32: synchronisation, size and burst. Millions of messages per
// second. Protocol: benches/src/program.rs.
#include <rte_ring.h>

#include "two.hpp"

#include <cstdio>
#include <string>

namespace {

constexpr unsigned SLOTS = 1024;

template <int WORDS, int BURST> double stream(int near, int far, std::uint64_t span, unsigned flags)
{
    constexpr unsigned SIZE = WORDS * sizeof(std::uint64_t);
    auto *meeting = new (two::shared(sizeof(two::Meeting))) two::Meeting;
    const ssize_t bytes = rte_ring_get_memsize_elem(SIZE, SLOTS);
    if (bytes < 0)
        std::exit(6);
    auto *ring = static_cast<rte_ring *>(two::shared(std::size_t(bytes)));
    if (rte_ring_init(ring, "peer", SLOTS, flags))
        std::exit(6);
    const pid_t child = two::start_far(far, [&] {
        meeting->meet();
        two::feed<WORDS, BURST>(*meeting, [&](two::Message<WORDS> *batch, unsigned count) {
            return rte_ring_enqueue_burst_elem(ring, batch, SIZE, count, nullptr);
        });
    });
    two::pin(near);
    meeting->meet();
    const double result = two::drain<WORDS, BURST>(span, [&](two::Message<WORDS> *batch, unsigned count) {
        return rte_ring_dequeue_burst_elem(ring, batch, SIZE, count, nullptr);
    });
    meeting->stop = 1;
    waitpid(child, nullptr, 0);
    return result;
}

} // namespace

int main(int argc, char **argv)
{
    if (argc < 5)
        return 2;
    alarm(30); // ends by itself, whatever happens
    const int near = std::atoi(argv[1]), far = std::atoi(argv[2]);
    const std::uint64_t span = std::uint64_t(std::atoi(argv[3])) * 1000000u;
    const std::string what = argv[4];
    double result;
    if (what == "mpmc/8B/1")
        result = stream<1, 1>(near, far, span, 0);
    else if (what == "spsc/8B/32")
        result = stream<1, 32>(near, far, span, RING_F_SP_ENQ | RING_F_SC_DEQ);
    else if (what == "spsc/64B/32")
        result = stream<8, 32>(near, far, span, RING_F_SP_ENQ | RING_F_SC_DEQ);
    else
        return 2;
    std::printf("%.4f\n", result);
}
