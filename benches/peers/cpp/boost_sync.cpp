// What Boost.Interprocess offers for what multiprocess-sync does.
// usage: boost_sync NEAR_CPU FAR_CPU MILLISECONDS WHAT
// WHAT: mutex | contended | semaphore | event | condition | read | readers
// Protocol: benches/src/program.rs. Units: ns per operation or round; M/s for contended, readers.
// Boost has no event and no barrier: `event` is two semaphores, posted in turn.
#include <boost/interprocess/sync/interprocess_condition.hpp>
#include <boost/interprocess/sync/interprocess_mutex.hpp>
#include <boost/interprocess/sync/interprocess_semaphore.hpp>
#include <boost/interprocess/sync/interprocess_sharable_mutex.hpp>
#include <boost/interprocess/sync/scoped_lock.hpp>

#include "two.hpp"

#include <cstdio>
#include <string>

namespace ipc = boost::interprocess;
using std::memory_order_relaxed;
using two::now;
using two::per_operation;

namespace {

constexpr int BATCH = 1000, ROUNDS = 64;

struct Stage : two::Meeting {
    alignas(128) ipc::interprocess_mutex mutex;
    alignas(128) ipc::interprocess_condition there, back;
    alignas(128) ipc::interprocess_sharable_mutex table;
    alignas(128) ipc::interprocess_semaphore semaphore{1};
    alignas(128) ipc::interprocess_semaphore ping{0};
    alignas(128) ipc::interprocess_semaphore pong{0};
    alignas(128) std::uint64_t words[4] = {};
    alignas(128) int turn = 0;
    alignas(128) std::atomic<std::uint64_t> far_count{0};
};

Stage *stage;

template <class Once> auto batch_of(Once once)
{
    return [once] {
        for (int i = 0; i < BATCH; i++)
            once();
    };
}

void lock_once()
{
    stage->mutex.lock();
    stage->mutex.unlock();
}

void semaphore_once()
{
    stage->semaphore.wait();
    stage->semaphore.post();
}

void read_once()
{
    stage->table.lock_sharable();
    stage->table.unlock_sharable();
}

void contend()
{
    stage->mutex.lock();
    for (auto &word : stage->words)
        word++;
    stage->mutex.unlock();
    for (volatile int i = 0; i < 20; i = i + 1)
        ;
}

// Both loop until the near one has seen enough; millions per second of both together.
template <class Once> double together(std::uint64_t span, Once once, bool far)
{
    stage->meet();
    if (far) {
        std::uint64_t count = 0;
        while (!stage->stopped()) {
            once();
            stage->far_count.store(++count, memory_order_relaxed);
        }
        _exit(0);
    }
    std::uint64_t start = now(), count = 0, first = stage->far_count, after;
    do {
        for (int i = 0; i < 100; i++)
            once();
        count += 100;
        after = now();
    } while (after - start < span);
    std::uint64_t all = count + stage->far_count - first;
    stage->stop = 1;
    return double(all) * 1000.0 / double(after - start);
}

void wait_turn(int turn)
{
    ipc::scoped_lock<ipc::interprocess_mutex> lock(stage->mutex);
    while (stage->turn != turn)
        (turn ? stage->there : stage->back).wait(lock);
}

void give_turn(int turn)
{
    ipc::scoped_lock<ipc::interprocess_mutex> lock(stage->mutex);
    stage->turn = turn;
    (turn ? stage->there : stage->back).notify_one();
}

// The far process's part of a ping-pong, until it is killed.
[[noreturn]] void answer(const std::string &what)
{
    stage->meet();
    for (;;) {
        if (what == "event") {
            stage->ping.wait();
            stage->pong.post();
        } else {
            wait_turn(1);
            give_turn(0);
        }
    }
}

void event_rounds()
{
    for (int i = 0; i < ROUNDS; i++) {
        stage->ping.post();
        stage->pong.wait();
    }
}

void turn_rounds()
{
    for (int i = 0; i < ROUNDS; i++) {
        give_turn(1);
        wait_turn(0);
    }
}

} // namespace

int main(int argc, char **argv)
{
    if (argc < 5)
        return 2;
    alarm(30); // ends by itself, whatever happens
    const int near_cpu = std::atoi(argv[1]), far_cpu = std::atoi(argv[2]);
    const std::uint64_t span = std::uint64_t(std::atoi(argv[3])) * 1000000u;
    const std::string what = argv[4];

    stage = new (two::shared(sizeof *stage)) Stage;

    const bool alone = what == "mutex" || what == "semaphore" || what == "read";
    pid_t far = -1;
    if (!alone)
        far = two::start_far(far_cpu, [&] {
            if (what == "contended")
                together(span, contend, true);
            if (what == "readers")
                together(span, read_once, true);
            answer(what);
        });
    two::pin(near_cpu);
    double result;
    if (what == "mutex")
        result = per_operation(span, BATCH, batch_of(lock_once));
    else if (what == "semaphore")
        result = per_operation(span, BATCH, batch_of(semaphore_once));
    else if (what == "read")
        result = per_operation(span, BATCH, batch_of(read_once));
    else if (what == "contended")
        result = together(span, contend, false);
    else if (what == "readers")
        result = together(span, read_once, false);
    else {
        stage->meet();
        result = what == "event" ? per_operation(span, ROUNDS, event_rounds)
                                 : per_operation(span, ROUNDS, turn_rounds);
    }
    if (far > 0)
        two::end_far(far);
    std::printf("%.4f\n", result);
    return 0;
}
