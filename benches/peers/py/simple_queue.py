"""CPython's SimpleQueue between two processes, 64 bytes a value.

usage: simple_queue.py NEAR_CPU FAR_CPU MILLISECONDS throughput|rtt
throughput: prints the median millions of values per second; rtt: the median nanoseconds of a value there
and one back.
"""
import multiprocessing
import os
import statistics
import sys
import time

near, far, milliseconds = (int(argument) for argument in sys.argv[1:4])
VALUE = b"x" * 64


def put_for_ever(queue):
    os.sched_setaffinity(0, {far})
    while True:
        queue.put(VALUE)


def echo(there, back):
    os.sched_setaffinity(0, {far})
    while True:
        back.put(there.get())


def samples(chunk, operation):
    taken = []
    before = time.perf_counter_ns()
    end = before + milliseconds * 1_000_000
    while before < end or len(taken) < 10:
        for _ in range(chunk):
            operation()
        after = time.perf_counter_ns()
        taken.append((after - before) / chunk)
        before = after
    return statistics.median(taken[len(taken) // 10 :])


context = multiprocessing.get_context("fork")
os.sched_setaffinity(0, {near})
if sys.argv[4] == "throughput":
    queue = context.SimpleQueue()
    process = context.Process(target=put_for_ever, args=(queue,), daemon=True)
    process.start()
    queue.get()
    print(1000 / samples(1000, queue.get))
else:
    there, back = context.SimpleQueue(), context.SimpleQueue()
    process = context.Process(target=echo, args=(there, back), daemon=True)
    process.start()

    def exchange():
        there.put(VALUE)
        back.get()

    exchange()
    print(samples(100, exchange))
process.kill()
