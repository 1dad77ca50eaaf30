// Boost's queues between two processes: boost::lockfree::queue and Boost.Interprocess's message_queue.
// usage: boost_queue NEAR_CPU FAR_CPU MILLISECONDS WHAT
// WHAT: lockfree (M/s) | messages | messages-polled (ns per round trip).
// Protocol: benches/src/program.rs.
#include <boost/interprocess/ipc/message_queue.hpp>
#include <boost/lockfree/queue.hpp>

#include "two.hpp"

#include <cstdio>
#include <string>

namespace ipc = boost::interprocess;

namespace {

// With its capacity known to the compiler it has no pointers, and so may be shared.
using Queue = boost::lockfree::queue<std::uint64_t, boost::lockfree::capacity<1024>>;

struct Stage : two::Meeting {
    alignas(128) Queue queue;
};

double stream(int near, int far, std::uint64_t span)
{
    auto *stage = new (two::shared(sizeof(Stage))) Stage;
    const pid_t child = two::start_far(far, [&] {
        stage->meet();
        two::feed<1, 1>(*stage, [&](two::Message<1> *message, unsigned) -> unsigned {
            return stage->queue.push((*message)[0]);
        });
    });
    two::pin(near);
    stage->meet();
    const double result = two::drain<1, 1>(span, [&](two::Message<1> *message, unsigned) -> unsigned {
        return stage->queue.pop((*message)[0]);
    });
    stage->stop = 1;
    waitpid(child, nullptr, 0);
    return result;
}

// A queue whose name is gone as soon as it is made: a child inherits the mapping.
struct Messages {
    explicit Messages(const std::string &name)
        : queue(ipc::create_only, name.c_str(), 1024, sizeof(std::uint64_t))
    {
        ipc::message_queue::remove(name.c_str());
    }

    void send(std::uint64_t value, bool polled)
    {
        if (!polled)
            queue.send(&value, sizeof value, 0);
        else
            while (!queue.try_send(&value, sizeof value, 0))
                two::pause();
    }

    std::uint64_t receive(bool polled)
    {
        std::uint64_t value = 0;
        ipc::message_queue::size_type size;
        unsigned priority;
        if (!polled)
            queue.receive(&value, sizeof value, size, priority);
        else
            while (!queue.try_receive(&value, sizeof value, size, priority))
                two::pause();
        return value;
    }

    ipc::message_queue queue;
};

double round_trips(int near, int far, std::uint64_t span, bool polled)
{
    constexpr int ROUNDS = 64;
    const std::string name = "multiprocess-boost-queue-" + std::to_string(getpid());
    Messages there(name + "-there"), back(name + "-back");
    const pid_t child = two::start_far(far, [&] {
        for (;;)
            back.send(there.receive(polled), polled);
    });
    two::pin(near);
    std::uint64_t value = 0;
    const double result = two::per_operation(span, ROUNDS, [&] {
        for (int i = 0; i < ROUNDS; i++) {
            there.send(value, polled);
            if (back.receive(polled) != value)
                std::exit(5);
            value++;
        }
    });
    two::end_far(child);
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
    if (what == "lockfree")
        result = stream(near, far, span);
    else if (what == "messages" || what == "messages-polled")
        result = round_trips(near, far, span, what == "messages-polled");
    else
        return 2;
    std::printf("%.4f\n", result);
}
