"""CPython's forkserver: the median nanoseconds of a start, its result, and the end.

usage: forkserver.py NEAR_CPU FAR_CPU MILLISECONDS
"""
import multiprocessing
import os
import statistics
import sys
import time


def answer(connection):
    connection.send(42)


def start(context):
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=answer, args=(sender,))
    process.start()
    sender.close()
    if receiver.recv() != 42:
        sys.exit("another answer")
    process.join()
    receiver.close()


def main():
    near, milliseconds = int(sys.argv[1]), int(sys.argv[3])
    os.sched_setaffinity(0, {near})
    context = multiprocessing.get_context("forkserver")
    # The first one starts the server.
    start(context)
    taken = []
    before = time.perf_counter_ns()
    end = before + milliseconds * 1_000_000
    while before < end or len(taken) < 10:
        start(context)
        after = time.perf_counter_ns()
        taken.append(after - before)
        before = after
    print(statistics.median(taken[len(taken) // 10 :]))


if __name__ == "__main__":
    main()
