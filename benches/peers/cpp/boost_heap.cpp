// What Boost.Interprocess offers for what `Arena` and `Heap` do: managed_shared_memory.
// usage: boost_heap NEAR_CPU FAR_CPU MILLISECONDS WHAT
// WHAT: allocate | find. Nanoseconds per allocate and deallocate of 64 bytes, or per find of one of
// 64 named objects. Protocol: benches/src/program.rs.
#include <boost/interprocess/managed_shared_memory.hpp>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <string>
#include <vector>

#include <sched.h>
#include <unistd.h>

namespace ipc = boost::interprocess;

namespace {

constexpr int BATCH = 1000, OBJECTS = 64;

std::uint64_t now()
{
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return std::uint64_t(t.tv_sec) * 1000000000u + std::uint64_t(t.tv_nsec);
}

template <class Chunk> double per_operation(std::uint64_t span, Chunk chunk)
{
    std::vector<double> samples;
    std::uint64_t before = now(), end = before + span;
    while (before < end || samples.size() < 10) {
        chunk();
        std::uint64_t after = now();
        samples.push_back(double(after - before) / BATCH);
        before = after;
    }
    auto first = samples.begin() + samples.size() / 10; // warm-up
    auto middle = first + (samples.end() - first) / 2;
    std::nth_element(first, middle, samples.end());
    return *middle;
}

} // namespace

int main(int argc, char **argv)
{
    if (argc != 5)
        return 2;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(std::atoi(argv[1]), &one);
    if (sched_setaffinity(0, sizeof one, &one))
        return 3;
    std::uint64_t span = std::strtoull(argv[3], nullptr, 10) * 1000000u;
    std::string name = "multiprocess-boost-heap-" + std::to_string(getpid()), what = argv[4];
    struct Remove {
        const char *name;
        ~Remove() { ipc::shared_memory_object::remove(name); }
    } remove{name.c_str()};
    ipc::managed_shared_memory heap(ipc::create_only, name.c_str(), 1 << 20);
    double result;
    if (what == "allocate") {
        result = per_operation(span, [&] {
            for (int i = 0; i < BATCH; i++) {
                void *volatile block = heap.allocate(64);
                heap.deallocate(block);
            }
        });
    } else if (what == "find") {
        std::vector<std::string> names;
        for (int i = 0; i < OBJECTS; i++) {
            names.push_back("object " + std::to_string(i));
            heap.construct<std::uint64_t>(names.back().c_str())(i);
        }
        result = per_operation(span, [&] {
            for (int i = 0; i < BATCH; i++) {
                auto found = heap.find<std::uint64_t>(names[i % OBJECTS].c_str());
                if (!found.first)
                    std::exit(4);
            }
        });
    } else {
        return 2;
    }
    std::printf("%f\n", result);
}
