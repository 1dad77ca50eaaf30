// What Boost.Interprocess offers for what `Arena` and `Heap` do: managed_shared_memory.
// usage: boost_heap NEAR_CPU FAR_CPU MILLISECONDS WHAT
// WHAT: allocate | find. Nanoseconds per allocate and deallocate of 64 bytes, or per find of one of
// 64 named objects. Protocol: benches/src/program.rs.
#include <boost/interprocess/managed_shared_memory.hpp>

#include "two.hpp"

#include <cstdio>
#include <string>
#include <vector>

namespace ipc = boost::interprocess;

namespace {

constexpr int BATCH = 1000, OBJECTS = 64;

} // namespace

int main(int argc, char **argv)
{
    if (argc != 5)
        return 2;
    two::pin(std::atoi(argv[1]));
    std::uint64_t span = std::strtoull(argv[3], nullptr, 10) * 1000000u;
    std::string name = "multiprocess-boost-heap-" + std::to_string(getpid()), what = argv[4];
    struct Remove {
        const char *name;
        ~Remove() { ipc::shared_memory_object::remove(name); }
    } remove{name.c_str()};
    ipc::managed_shared_memory heap(ipc::create_only, name.c_str(), 1 << 20);
    double result;
    if (what == "allocate") {
        result = two::per_operation(span, BATCH, [&] {
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
        result = two::per_operation(span, BATCH, [&] {
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
